# %% [markdown]
# # 14b · The same caption for every photo
#
# **The question.** Your model says the same sentence of every photo. Is it the encoder, the data or the decoder?
#
# You make four sick models on purpose, and learn three measurements that tell their illnesses apart. Then you find out
# why centred features are so much easier to learn from, and meet the project's error messages.
#
# *This goes deeper than [lesson 14](14_your_own_photo.ipynb); no lesson needs it. You need
# [lesson 6](06_the_lstm.ipynb) (the LSTM). About 25 minutes; all cells together run in a minute.*

# %% tags=["setup"]
import csv
import tempfile
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

from core import flickr8k, lessons
from core.captioning_solver import CaptioningSolver
from core.checkpoint import load_checkpoint
from core.coco_utils import decode_captions, image_path, load_coco_data
from core.decoding import beam_search
from core.encoders import Extractor, fixed_cnn
from core.image_utils import load_image
from core.models import CaptioningRNN
from core.shapes import load_scenes

lessons.style()

# %% [markdown]
# ## Five hundred photos
#
# We need a small data set of photos. These are pictures of one shape, enlarged and saved as JPEG, with two captions each.
# The encoder is a `tiny_cnn` with random filters.

# %% tags=["hide-input"]
workshop = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
FOLDER = Path(workshop.name).resolve()
embedded = lessons.embedded_data("attention")
sentences = decode_captions(embedded["train_captions"], embedded["idx_to_word"])
(FOLDER / "photos").mkdir()
rows = [("image", "caption")]
for i, scene in enumerate(load_scenes(embedded["source"]["folder"], "train")):
    if len(scene) > 1 or len(rows) > 1000:
        continue
    name = f"photo_{i:04}.jpg"
    photo = Image.fromarray(load_image(image_path(embedded, "train", i))).resize((192, 192))
    photo.save(FOLDER / "photos" / name, quality=92)
    owned = np.flatnonzero(embedded["train_image_idxs"] == i)[:2]
    rows += [(name, sentences[row]) for row in owned]
with open(FOLDER / "photos" / "captions.txt", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
flickr8k.prepare_photos(
    FOLDER / "photos", FOLDER / "data", "tiny_cnn", "random", pca=100, min_count=1
)
data = load_coco_data(FOLDER / "data")
features = {
    f"{split}_features": np.asarray(data[f"{split}_features"]) for split in ("train", "val")
}
print({split: np.shape(data[f"{split}_features"]) for split in ("train", "val")})


def as_they_are(split):
    """The encoder's vectors without the PCA."""
    looking = Extractor.rebuild(data["source"]["extractor"], {})
    paths = [image_path(data, split, i) for i in range(len(data[f"{split}_urls"]))]
    parts = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    return np.concatenate([looking([load_image(path) for path in part]) for part in parts])


def small_lstm(data):
    """A small model, and its loss on held-out photos."""
    lstm = CaptioningRNN(
        data["word_to_idx"], data["train_features"].shape[1], cell_type="lstm",
        wordvec_dim=32, hidden_dim=64, rng=np.random.default_rng(0),
    )  # fmt: skip
    solver = CaptioningSolver(
        lstm, data, optim_config={"learning_rate": 5e-3}, lr_decay=0.82, clip_norm=5.0,
        batch_size=32, num_epochs=12, verbose=False,
    )  # fmt: skip
    return lstm, solver.train()[-1]["val_loss"]


# %% [markdown]
# ## Four patients
#
# One model is healthy. Three others get something wrong, each with the same photos, network and training:
#
# * **raw features**: prepared with `--pca 0`, so nothing subtracts their mean;
# * **captions of others**: the list of captions was sorted in another way than the photos;
# * **blind**: all features are 0. It is a ruler and no accident: its loss is what one can have *without looking*.

# %%
raw = {name: as_they_are(name.split("_")[0]) for name in features}
shuffled = np.random.default_rng(0).permutation(data["train_image_idxs"])
changes = {
    "healthy": {},
    "raw features": raw,
    "captions of others": {"train_image_idxs": shuffled},
    "blind": {name: np.zeros_like(x) for name, x in features.items()},
}
patients = {name: (*small_lstm(data | new), data | new) for name, new in changes.items()}

# %% [markdown]
# The fourth patient falls ill later. It is the trained attention model of [lesson 8](08_soft_attention.ipynb), and its
# pictures now come with values from 0 to 1, where it was trained on 0 to 255.
#
# ## Three measurements
#
# Each takes a minute on any model:
#
# * the **spread** of the features, $\lVert X - \text{mean} \rVert / \lVert X \rVert$, over a few photos;
# * the **gain over blindness**: the held-out loss of the blind model less that of this one;
# * the **exchange**: give each photo the features of the next one. How many captions change?
#
# **Predict.** Which patients have a spread near 0? Which gain nothing over the blind one?


# %%
def symptoms(model, features):
    """How many different captions, the spread of the features, captions changed."""
    own = beam_search(model, features, max_length=20)[0][:, 0]
    exchanged = beam_search(model, np.roll(features, 1, axis=0), max_length=20)[0][:, 0]
    length = max(np.linalg.norm(features), 1e-12)
    spread = np.linalg.norm(features - features.mean(axis=0)) / length
    return len(np.unique(own, axis=0)), spread, (own != exchanged).any(axis=1).mean()


# %%
blind_loss, table = patients["blind"][1], {}
print(f"{'':<20}{'loss':>6}{'gain':>7}{'spread':>8}{'captions':>11}{'changed':>9}")
for name, (patient, loss, theirs) in patients.items():
    new = np.asarray(theirs["val_features"], np.float32)
    different, spread, changed = table[name] = symptoms(patient, new)
    print(f"{name:<20}{loss:>6.2f}{blind_loss - loss:>7.2f}", end="")
    print(f"{spread:>8.2f}{different:>5} of {len(new)}{changed:>9.0%}")

# %% tags=["hide-input"]
attention, _ = lessons.load_trained("attention")

run = load_checkpoint(lessons.TRAINED / "attention" / "best.npz")
extractor = Extractor.rebuild(run.extractor, run.extractor_arrays)
pictures = np.stack([load_image(image_path(embedded, "val", i)) for i in range(50)])
faint = extractor.finish(fixed_cnn.filter_outputs(pictures / 255))
different, spread, changed = table["0-1 pictures"] = symptoms(attention, faint)
print(f"{'0-1 pictures':<20}{'':>13}{spread:>8.2f}{different:>5} of 50{changed:>9.0%}")
losses = {name: loss for name, (_, loss, _) in patients.items()}
assert table["healthy"][0] > 15 and table["healthy"][2] > 0.8
assert table["raw features"][0] <= 3 and table["raw features"][1] < 0.2
assert blind_loss - losses["healthy"] > 0.15
assert abs(blind_loss - losses["raw features"]) < 0.08
assert losses["captions of others"] > blind_loss - 0.08
assert table["captions of others"][0] > 3 and table["captions of others"][1] > 0.9
assert table["0-1 pictures"][0] == 1 and table["0-1 pictures"][1] < 0.01

# %% [markdown]
# <details><summary>Answer</summary>
#
# The spread is near 0 for the raw features, for the blind model and for the 0-1 pictures. Raw features and captions of
# others gain nothing.
#
# </details>
#
# How to read the table:
#
# * **Raw features**: one caption, and a small spread. The encoder's output needs centring.
# * **Captions of others**: the spread is fine, and the loss is no better than blind. The captions even differ from photo to
#   photo, in vain: the model learned noise by heart. Only your eyes find this illness. Look at ten pairs before you train.
# * **Blind**: if your loss is near this one, your model does not look, however well its sentences read.
# * **0-1 pictures**: spread 0. The encoder sees the same thing everywhere ([lesson 12](12_the_encoder.ipynb)).
#
# ## What the mean does
#
# The PCA subtracts the mean, brings the rest to size 1, and turns the axes. Which of these heals the first patient?
#
# **Predict.** Divide the raw features by their size, or subtract their mean, or both: which helps?

# %%
mean = raw["train_features"].mean(axis=0)
size = float(np.sqrt((raw["train_features"] ** 2).mean()))
around = float(np.sqrt(((raw["train_features"] - mean) ** 2).mean()))
print(f"root mean square of the features {size:.2f}, less their mean {around:.2f}")

# %%
mended = {
    "raw": lambda x: x,
    "divided by their size": lambda x: x / size,
    "less their mean": lambda x: x - mean,
    "both": lambda x: (x - mean) / around,
}
found = {}
for name, mend in mended.items():
    new = {split: mend(x) for split, x in raw.items()}
    patient, loss = small_lstm(data | new)
    found[name] = symptoms(patient, new["val_features"])[0], loss
    print(f"{name:<22} loss {loss:.2f}, {found[name][0]:>2} different captions")

# %% tags=["hide-input"]
assert found["raw"][0] <= 3 and found["divided by their size"][0] <= 3
assert found["less their mean"][0] > 12 and found["both"][0] > 12
ratio = size / around
print(f"the common part is {ratio:.0f} times as large as what differs")
assert 9 < ratio < 13

# %% [markdown]
# <details><summary>Answer</summary>
#
# Subtracting the mean. Dividing by the size alone changes nothing.
#
# </details>
#
# What comes out of a ReLU and an average is positive, and nearly the same for every photo. The first matrix of the decoder
# has the gradient $x^T dh_0$. Along the common part of $x$, all photos push together. Along what differs, each pushes a
# tenth as strongly. The curvature of the loss goes with the square of $x$, so it is a hundred times flatter there. Numbers
# of another size do not change this proportion. So centre what you feed to a decoder.
#
# ## Errors, on purpose
#
# A command that cannot go on ends with one line: what was found, what was expected, what to do. Here are small folders that
# are each wrong in one way:

# %%
SPOILED = {
    "no_captions": {},
    "other_header": {"captions.txt": "file;text\ndog.jpg;A dog .\n"},
    "half_a_line": {"captions.txt": "image,caption\ndog.jpg\n"},
    "other_names": {"captions.txt": "image,caption\ndog_1.jpg,A dog .\n"},
    "in_two_lists": {
        "captions.txt": "image,caption\ndog.jpg,A dog .\n",
        "Flickr_8k.trainImages.txt": "dog.jpg\n",
        "Flickr_8k.devImages.txt": "dog.jpg\n",
    },
}

# %% tags=["hide-input"]
refused = 0
for name, files in SPOILED.items():
    (FOLDER / name).mkdir()
    Image.new("RGB", (80, 60)).save(FOLDER / name / "dog.jpg")
    for file_name, text in files.items():
        (FOLDER / name / file_name).write_text(text, encoding="utf-8")
    try:
        flickr8k.read_photo_folder(FOLDER / name)
    except (ValueError, OSError) as error:
        refused += 1
        said = str(error)
        for folder in (f"{FOLDER}\\", f"{FOLDER}/", str(FOLDER)):
            said = said.replace(folder, "")  # the page reads the same everywhere
        print(textwrap.fill(f"- {said}", 100, subsequent_indent="  "))
assert refused == len(SPOILED)
workshop.cleanup()  # the temporary folder goes

# %% [markdown]
# ## A checklist
#
# | what you see | where to look | how to be sure |
# | --- | --- | --- |
# | spread near 0 | scale, colour order, a wrong weight file | features of two very different photos |
# | spread small, not 0 | features not centred | subtract the mean, or use `--pca` |
# | features of one photo differ from call to call | dropout left on | call twice, compare |
# | right in training, wrong later | preprocessing, BatchNorm that drifted | features now against those stored |
# | spread fine, no gain over blind | captions and photos do not belong together | look at ten pairs |
# | gain early, then the same caption | learning rate too high, no clipping | `loss.png`: does it jump? |
# | knows 50 captions by heart, fails on new photos | few photos, or poor features | linear probe ([12b](12b_larger_encoders.ipynb)) |
# | cannot learn 50 captions by heart | a bug in the model | gradient check ([lesson 2](02_gradients_you_can_trust.ipynb)) |
# | different captions, all short and safe | no length penalty | `--length_penalty 1`, sampling ([lesson 11](11_decoding.ipynb)) |
# | different captions, half of them false | turned, mirrored or squeezed photos | look at what the encoder sees |
#
# `core` asks the first questions for you where it can: the constants of the preprocessing travel in the checkpoint, and
# data made with others are refused.
#
# ## What you have now
#
# * Spread, gain over blindness, exchange: three numbers that tell encoder, data and decoder apart.
# * Centre the features: what is the same for all photos drowns what differs.
#
# **Next:** your own photos, in [lesson 14](14_your_own_photo.ipynb).
