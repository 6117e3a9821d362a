# %% [markdown]
# # 14 · Your own photo
#
# **The question.** Thirteen lessons on pictures of coloured shapes. What does it take to caption a photo of your
# own, with your own captions to learn from; what can a model say of a picture unlike any that it was trained
# on; and where do you look when it says the same sentence of every photo?
#
# You prepare a folder of photos with the project's commands, meet its error messages on purpose, train on it in
# seconds, caption a photo with its $n$ best sentences and an attention map, show a trained model things that it
# has never seen, and make four sick models to learn how to tell their illnesses apart.
#
# *Before: [lesson 11](11_decoding.ipynb) (beam search), [lesson 12](12_the_encoder.ipynb) (features) and
# [lesson 13](13_is_it_any_good.ipynb) (scores). About 40 minutes; all cells together run in less than a minute.
# Nothing is downloaded.*

# %% tags=["setup"]
import csv
import io
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from core import flickr8k, lessons, scenes
from core.captioning_solver import CaptioningSolver
from core.checkpoint import load_checkpoint
from core.coco_utils import decode_captions, image_path, load_coco_data
from core.decoding import beam_search, word_log_probabilities
from core.encoders import Extractor, fixed_cnn
from core.image_utils import load_image, resize_and_crop
from core.lessons import compare, show_source
from core.models import CaptioningRNN, build_model
from core.shapes import caption_is_true, load_scenes
from core.show.plots import upsample

lessons.style()

# %% [markdown]
# ## A folder of photos
#
# All you need is a folder with photos (JPEG, PNG, whatever Pillow reads, of any size) and one text file,
# `captions.txt`, a line a caption:
#
#     image,caption
#     beach.jpg,Two children are building a sand castle .
#     beach.jpg,"A boy, a girl and a lot of sand"
#
# A photo may have one caption or many. Put your folder's name into the cell below; as long as it says `None`, a
# stand-in is made in a temporary folder: 500 pictures of one shape from the embedded data, made wide, enlarged and
# saved as JPEG like photos, with two captions each. So that there is something to find, three things are wrong
# with it: one file is broken, one caption's photo is missing, and one photo has no caption.

# %%
PHOTOS = None  # your own folder: "C:/photos/holiday" or "/home/me/holiday"
ENCODER, WEIGHTS = "tiny_cnn", "random"  # for photos: "squeezenet1_1", "download"

workshop = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
FOLDER = Path(workshop.name).resolve()
embedded = lessons.embedded_data("attention")
embedded_scenes = load_scenes(embedded["source"]["folder"], "train")


def make_stand_in(folder, count=500):
    """Photos and captions.txt; returns what is on each photo, by file name."""
    sentences = decode_captions(embedded["train_captions"], embedded["idx_to_word"])
    owners, shapes = embedded["train_image_idxs"], {}
    (folder / "images").mkdir(parents=True)
    rows = [("image", "caption")]
    chosen = [i for i, scene in enumerate(embedded_scenes) if len(scene) == 1][:count]
    for i in chosen:
        name = f"photo_{i:04}.jpg"
        picture = load_image(image_path(embedded, "train", i))
        wide = np.pad(picture, ((0, 0), (12, 12), (0, 0)), mode="edge")
        photo = Image.fromarray(wide).resize((264, 192))
        photo.save(folder / "images" / name, quality=92)
        for row in np.flatnonzero(owners == i)[:2]:
            rows.append((name, f"{sentences[row].capitalize()} ."))
        shapes[name] = embedded_scenes[i]
    (folder / "images" / "broken.jpg").write_text("this is no picture", encoding="utf-8")
    photo.save(folder / "images" / "without_a_caption.jpg")
    rows += [
        ("broken.jpg", "A photo that broke ."),
        ("lost.jpg", "A photo that was lost ."),
    ]
    with open(folder / "captions.txt", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return shapes


photos, shapes_of = (FOLDER / "photos", {}) if PHOTOS is None else (Path(PHOTOS), {})
if PHOTOS is None:
    shapes_of = make_stand_in(photos)
source = flickr8k.read_photo_folder(photos)
for name, captions in list(source.captions.items())[:3]:
    print(f"{name}: {' | '.join(captions)}")
written = sum(map(len, source.captions.values()))
print(f"{len(source.captions)} names with {written:,} captions")
print({split: len(names) for split, names in source.splits.items()}, "drawn at random")

# %% [markdown]
# Two other forms are read, in which Flickr8k is passed around: `Flickr8k.token.txt` (a line `name.jpg#0`, a
# tab, the caption) and Karpathy's `dataset_flickr8k.json`. Which photos are held out you may choose with lists
# of names (`Flickr_8k.trainImages.txt`, `Flickr_8k.devImages.txt`); without them it is a tenth, at random from
# a seed. A photo without a caption is not read at all, which is easily overlooked: compare the count above
# with the number of your files.
#
# Captions become words like this, as the scorers take them apart (lower case, no punctuation):

# %%
show_source(flickr8k.plain_words, docstring=False)
print(flickr8k.plain_words("A man's t-shirt, 2 dogs & a RED ball."))

# %% [markdown]
# ## Errors, on purpose
#
# A command of the project that cannot go on ends with **one line** that says what was found, what was expected
# and what to do. Meet them now, in small folders that are each wrong in one way:


# %%
def tidy(text):
    """Paths as names below the temporary folder: the page reads the same everywhere."""
    for folder in (str(FOLDER), workshop.name):
        for found in (f"{folder}\\", f"{folder}/", folder):
            text = text.replace(found, "")
    return text.strip()


def told(function, *arguments, **options):
    """Calls, and prints the error that is expected, in one line."""
    try:
        function(*arguments, **options)
    except (ValueError, OSError) as error:
        print(textwrap.fill(f"- {tidy(str(error))}", 100, subsequent_indent="  "))
        return True
    return False


SPOILED = {
    "no_captions": {},
    "other_header": {"captions.txt": "file;text\ndog.jpg;A dog .\n"},
    "half_a_line": {"captions.txt": "image,caption\ndog.jpg\n"},
    "in_two_lists": {
        "captions.txt": "image,caption\ndog.jpg,A dog .\n",
        "Flickr_8k.trainImages.txt": "dog.jpg\n",
        "Flickr_8k.devImages.txt": "dog.jpg\n",
    },
    "other_names": {"captions.txt": "image,caption\ndog_1.jpg,A dog .\n"},
    "no_tab": {"Flickr8k.token.txt": "dog.jpg#0 A dog .\n"},
}
refused = []
for name, files in SPOILED.items():
    (FOLDER / name).mkdir()
    Image.new("RGB", (80, 60)).save(FOLDER / name / "dog.jpg")
    for file_name, text in files.items():
        (FOLDER / name / file_name).write_text(text, encoding="utf-8")
    refused.append(told(flickr8k.read_photo_folder, FOLDER / name))
few = FOLDER / "no_tab"  # once more, now with three captions in order
few_captions = "".join(f"{name}.jpg#0\tA {name} .\n" for name in ("dog", "cat", "owl"))
(few / "Flickr8k.token.txt").write_text(few_captions, encoding="utf-8")
refused.append(
    told(flickr8k.prepare_photos, few, FOLDER / "data", "squeezenet1_1", "random")
)
assert all(refused)

# %% [markdown]
# The last one is of a folder in order, and may meet you first: 512 principal components, the default, cannot
# be found from fewer photos than that ([lesson 12](12_the_encoder.ipynb)). Give `--pca` a number below half of
# your photos.
#
# ## Prepare
#
# One command reads the captions, builds the vocabulary, lets an encoder look at each photo, fits the PCA on
# training photos, and writes a data folder with all constants that a later photo will need. `tiny_cnn` with
# random weights is a rehearsal: it needs no download, and it will tell us something. (The fixed CNN that made
# the embedded features is not among the choices: it knows five colours and three outlines and is blind to all
# else.) For real photos it is `--encoder squeezenet1_1 --weights download`: 5 MB, once.


# %%
def command(*arguments, without=()):
    """Runs a command of the project as you would in a terminal, and prints what it says."""
    arguments = [str(argument) for argument in arguments]
    print(
        textwrap.fill(
            tidy(f"$ python {' '.join(arguments)}"), 100, subsequent_indent="      "
        )
    )
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=lessons.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    for line in tidy(done.stdout + done.stderr).splitlines():
        if not any(word in line for word in without):
            print(textwrap.fill(line, 100, subsequent_indent="    "))
    return done.returncode


training_photos = len(source.splits["train"])
components = min(100, training_photos // 2)
code = command(
    "-m", "core.flickr8k", "--root", photos, "--out", FOLDER / "data", "--encoder", ENCODER,
    "--weights", WEIGHTS, "--pca", components, "--min_count", 1, "--device", "cpu",
)  # fmt: skip
assert code == 0

# %% [markdown]
# The broken and the lost photo are named and left out. (Above one in a hundred the command refuses: then it is
# not a photo that is broken but the copy.) `--min_count 1` keeps even words that occur once; with real
# captions leave the default, five, for a word seen once cannot be learned. Always look at what came out before
# anything is trained on it:

# %%
data = load_coco_data(FOLDER / "data")
lengths = np.count_nonzero(data["train_captions"], axis=1) - 2  # without <START> and <END>
print("features:", data["train_features"].shape, "of the training photos")
print(
    f"captions of {lengths.min()} to {lengths.max()} words, {lengths.mean():.1f} on average"
)
print(
    "made by:",
    {k: data["source"]["extractor"][k] for k in ("encoder", "output", "preprocessing")},
)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.3))
for ax, image in zip(axes, range(4), strict=True):
    row = np.flatnonzero(data["train_image_idxs"] == image)[0]
    caption = decode_captions(data["train_captions"][row], data["idx_to_word"])
    ax.imshow(load_image(image_path(data, "train", image)))
    ax.set_title("\n".join(textwrap.wrap(caption, 28)), fontsize=9)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## Train, and say something of a photo
#
# A small LSTM, twelve epochs, a few seconds. (Lines with speeds are left out here; you will see them.)

# %%
SMALL = {"hidden_dim": 64, "wordvec_dim": 32, "batch_size": 32, "num_epochs": 12}
options = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
code = command(
    "training.py", "--model", "lstm", "--data", FOLDER / "data", "--out", FOLDER / "lstm",
    *options, "--learning_rate", "5e-3", "--dropout", 0, without=("tokens/s",),
)  # fmt: skip
assert code == 0
rows = (FOLDER / "lstm" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
history = [json.loads(row) for row in rows]
for split, label in (("train", "training"), ("val", "held-out")):
    plt.plot(
        [r["epoch"] for r in history],
        [r[f"{split}_loss"] for r in history],
        "o-",
        label=label,
    )
plt.gca().set(
    xlabel="epoch",
    ylabel="loss (nats per token)",
    ylim=(0, None),
    title="LSTM on the folder",
)
plt.legend()
plt.show()

# %%
held_out = [image_path(data, "val", i) for i in range(len(data["val_urls"]))]
command(
    "inference.py", "--checkpoint", FOLDER / "lstm", "--image", held_out[2], "--n_best", 3,
)  # fmt: skip
captions_file = FOLDER / "captions.json"
command(
    "inference.py", "--checkpoint", FOLDER / "lstm", "--split", "val",
    "--out", captions_file, without=("photo_", "reference"),
)  # fmt: skip
said = json.loads(captions_file.read_text(encoding="utf-8"))
if PHOTOS is None:
    true = [caption_is_true(row["caption"], shapes_of[row["file_name"]]) for row in said]
    named = {
        what: np.mean(
            [
                getattr(shapes_of[row["file_name"]][0], what) in row["caption"]
                for row in said
            ]
        )
        for what in ("colour", "kind")
    }
    print(
        f"\nof {len(said)} held-out photos {named['colour']:.0%} with the right colour, "
        f"{named['kind']:.0%} with the right kind,\n{np.mean(true):.0%} with a caption "
        "that is true in all that it says"
    )
    assert named["colour"] > 0.8 and np.mean(true) > 0.3
figure, axes = plt.subplots(1, 4, figsize=(9, 2.3))
for ax, row in zip(axes, said, strict=False):
    ax.imshow(load_image(image_path(data, "val", row["image_id"])))
    ax.set_title(
        "\n".join(textwrap.wrap(row["caption"], 28)), fontsize=9, color=lessons.BLUE
    )
    ax.axis("off")
plt.show()

# %% [markdown]
# Behind each sentence of the $n$ best stands its **score**, the mean of the log-probabilities of its words
# (the end of the sentence is one): $e^{\text{score}}$ is the geometric mean of their probabilities. The
# probability of the sentence as a whole is smaller by far, the *product* of them; that is no sign of doubt,
# since there are many right ways to describe a photo, and they share the probability.
#
# The encoder's filters are random, and 450 photos were enough for the decoder to read colours from them; kinds
# it names better than by chance, and not by much. On photos of the world random filters get you nowhere. There
# the encoder must have seen a million pictures before yours, which is what "ImageNet weights" means.
#
# ## A photo of your own, and where the model looks
#
# Now a model that has learned more: the `attention` run that came with the lessons (`python training.py --model
# attention --hidden_dim 128 --wordvec_dim 64 --attention_dim 64`, six minutes on one core), 97 % of whose captions
# are true of held-out pictures of shapes. Put the path of a photo below; as long as it says `None`, a picture is
# drawn that is in none of the data.

# %%
MY_PHOTO = None  # "C:/photos/cat.jpg"

model, _ = lessons.load_trained("attention")
checkpoint = load_checkpoint(lessons.TRAINED / "attention" / "best.npz")
extractor = Extractor.rebuild(checkpoint.extractor, checkpoint.extractor_arrays)
SIZE = checkpoint.extractor["preprocessing"]["size"]

if MY_PHOTO is None:
    rng = np.random.default_rng(6)
    drawn = scenes.draw_scene(rng)
    photo = scenes.render(drawn, rng)
else:
    photo = load_image(MY_PHOTO)
seen = resize_and_crop(photo, SIZE)  # what the encoder sees of it


def describe(pictures, n_best=1):
    """Word ids (N, n_best, T), scores, and the probability of each word of the best."""
    features = extractor(pictures)
    ids, scores = beam_search(model, features, max_length=20, n_best=n_best)
    start = np.full((len(ids), 1), model.start)
    read = np.concatenate([start, ids[:, 0]], axis=1)
    return ids, scores, np.exp(word_log_probabilities(model, features, read))


ids, scores, probabilities = describe([seen], n_best=4)
print(f"{'mean probability':>16} {'of the sentence':>16}")
for sentence, score in zip(ids[0], scores[0], strict=True):
    words = np.count_nonzero(sentence)  # <END> is one
    print(
        f"{np.exp(score):>16.2f} {np.exp(score * words):>16.3f}   "
        f"{decode_captions(sentence, checkpoint.idx_to_word)}"
    )
if MY_PHOTO is None:
    print("there:", ", ".join(f"a {s.size} {s.colour} {s.kind}" for s in drawn))
    best = decode_captions(ids[0, 0], checkpoint.idx_to_word)
    assert caption_is_true(best, drawn)

# %% [markdown]
# The most probable sentence and the one with the best mean need not be the same: a shorter one multiplies
# fewer probabilities (that is what the length penalty of [lesson 11](11_decoding.ipynb) is about). And where
# it looked for each word: the map lies over what the encoder **saw**, the square from the middle of your photo
# at 64 x 64 pixels, not over the photo. Bright is where the weight is large; below each word its probability.


# %%
def draw_attention(picture, sentence, word_probabilities):
    """The picture once for each word, lit where the model looked."""
    length = np.count_nonzero(sentence)
    read = np.array([[model.start, *sentence[:length]]])
    maps = model.attention_weights(extractor([picture]), read)[0, :, 0]  # (T, L)
    columns = 7
    rows = -(-(length + 1) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(10, 1.75 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    axes.flat[0].imshow(picture)
    axes.flat[0].set_title("what it sees", fontsize=9)
    for t, ax in zip(range(length), axes.flat[1:], strict=False):
        light = upsample(maps[t], len(picture))[:, :, None]
        ax.imshow((picture * (0.15 + 0.85 * light)).astype(np.uint8))
        word = checkpoint.idx_to_word[sentence[t]]
        ax.set_title(f"{word}\n{word_probabilities[t]:.2f}", fontsize=9)
    plt.show()
    return maps


maps = draw_attention(seen, ids[0, 0], probabilities[0])
assert np.allclose(maps.sum(axis=1), 1, atol=1e-4)

# %% [markdown]
# The words with low probability stand where there is a choice between things that are all true: how to begin
# ("the", for which "there" or "a" would do), which shape comes first, whether its size is said. What the
# picture alone decides is near 1: after "purple", that it is a square. Keep this in mind for what comes now.
#
# ## What it has never seen
#
# If you gave it a real photo, it spoke of shapes. Of course: the last layer of a captioner is a softmax over
# its vocabulary, 41 words here. Probabilities add up to 1 over *these* words; there is none for "I do not
# know", and no caption of the training data ever said so. Is it at least less sure? Let us draw strangers: a
# sunset, noise, a star, an orange disc, four shapes (training pictures have three at most), an empty picture.
# As a measure of being sure we take the mean probability of a word, as above, and compare with held-out
# pictures of the kind it knows.

# %%
assert len(checkpoint.idx_to_word) == 41  # the four special words included
known = [load_image(image_path(embedded, "val", i)) for i in range(300)]
known_ids, known_scores, _ = describe(known)
known_sure = np.exp(known_scores[:, 0])
known_said = decode_captions(known_ids[:, 0], checkpoint.idx_to_word)
val_scenes = load_scenes(embedded["source"]["folder"], "val")
known_true = np.array(
    [caption_is_true(c, s) for c, s in zip(known_said, val_scenes, strict=True)]
)

rng = np.random.default_rng(0)
y, x = np.mgrid[:64, :64] / 63 - 0.5  # the middle is 0
background = np.full((64, 64, 3), 228, np.uint8)
Shape = scenes.Shape


def painted(mask, colour):
    picture = background.copy()
    picture[mask] = colour
    return picture


strangers = {
    "a sunset": np.stack([135 + 150 * y, 150 + 60 * x, 150 - 100 * y], axis=2).astype(
        np.uint8
    ),
    "noise": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
    "a red star": painted(
        np.hypot(x, y) < 0.17 + 0.1 * np.cos(5 * np.arctan2(y, x)), scenes.COLOURS["red"]
    ),
    "an orange disc": painted(np.hypot(x, y) < 0.17, (250, 140, 20)),
    "four shapes": scenes.render(
        [
            Shape("circle", "red", "large", 14, 14, 10.5),
            Shape("square", "blue", "large", 48, 14, 10.5),
            Shape("triangle", "green", "large", 14, 48, 10.5),
            Shape("circle", "yellow", "large", 48, 48, 10.5),
        ],
        rng,
    ),
    "nothing": background,
}
their_ids, their_scores, their_words = describe(list(strangers.values()))
their_sure = np.exp(their_scores[:, 0])
their_said = decode_captions(their_ids[:, 0], checkpoint.idx_to_word)
figure, axes = plt.subplots(2, 3, figsize=(8.5, 5))
for ax, (name, picture), text, sure in zip(
    axes.flat, strangers.items(), their_said, their_sure, strict=True
):
    ax.imshow(picture)
    ax.set_title("\n".join(textwrap.wrap(text, 36)), fontsize=9, color=lessons.BLUE)
    ax.text(
        0.5, -0.04, f"{name}: {sure:.2f} a word", transform=ax.transAxes,
        ha="center", va="top", fontsize=9, color=lessons.GREY,
    )  # fmt: skip
    ax.axis("off")
plt.show()

# %%
figure, (above, under) = plt.subplots(2, 1, figsize=(7, 4.6), sharex=True)
above.plot(their_sure, range(len(strangers)), "D", color=lessons.ORANGE)
above.set(yticks=range(len(strangers)), yticklabels=list(strangers), ylim=(5.6, -0.6))
above.set_title("How sure a model is of what it has never seen, and of what it knows")
under.hist(
    [known_sure[known_true], known_sure[~known_true]], bins=np.linspace(0.66, 0.86, 21),
    stacked=True, label=["true captions", "false captions"],
)  # fmt: skip
under.set(xlabel="mean probability of a word", ylabel="held-out pictures")
under.legend(loc="upper left")
plt.show()
below = {
    name: (known_sure < sure).mean()
    for name, sure in zip(strangers, their_sure, strict=True)
}
for name, share in below.items():
    print(f"{name:<16} surer than of {share:>4.0%} of the held-out pictures")
sure_and_true, sure_and_false = (
    float(known_sure[chosen].mean()) for chosen in (known_true, ~known_true)
)
print(f"{(~known_true).sum()} of {len(known)} held-out pictures have a false caption")
print(f"probability of a word: {sure_and_true:.2f} if true, {sure_and_false:.2f} if false")
assert (
    below["an orange disc"] > 0.8
    and below["a red star"] > 0.3
    and below["four shapes"] > 0.3
)
assert abs(sure_and_true - sure_and_false) < 0.05
assert below["nothing"] < 0.02 and 0.05 < below["noise"] < 0.25

# %% [markdown]
# Only *nothing* gives itself away: of the empty picture the model is less sure than of every held-out one. Of noise
# it is less sure than of most, but surer than of one in eight. Of the sunset, the star and the four shapes it is as
# sure as of the pictures that it knows. And of the orange disc, "a large yellow circle", it is surer than of nearly
# all. Among known pictures, too, the few false captions are as confident as the true ones. A word's
# probability says how usual a word is *after these words, for such features*; it is no probability of being
# right. Two reasons:
#
# * **A decoder can only say what its captions said.** It has no word for orange and none for a star.
# * **A decoder can only doubt what its encoder can see.** The fixed CNN asks each pixel which of five colours
#   is nearest; orange arrives as yellow. Nothing behind it can know better.
#
# What tells a stranger is a question about the *features*: how far is the nearest training picture?

# %%
train_grids = np.asarray(embedded["train_features"]).reshape(8000, -1)
train_squares = (train_grids**2).sum(axis=1)


def distance_to_training(pictures):
    """How far the nearest training picture's features are."""
    grids = extractor(pictures).reshape(len(pictures), -1)
    squares = (grids**2).sum(axis=1)[:, None] + train_squares - 2 * grids @ train_grids.T
    return np.sqrt(np.maximum(squares, 0).min(axis=1))


of_known = distance_to_training(known)
limit = np.quantile(of_known, 0.99)
print(f"99 % of the held-out pictures are nearer than {limit:.0f} to a training picture")
far = {}
for name, distance in zip(
    strangers, distance_to_training(list(strangers.values())), strict=True
):
    far[name] = distance > limit
    verdict = "a stranger" if far[name] else "passes for one of them"
    print(f"{name:<16} {distance:>3.0f}   {verdict}")
missed = [name for name in far if not far[name]]
print(f"missed: {len(missed)} of {len(far)}: {', '.join(missed)}")
assert missed == ["noise", "a red star", "an orange disc", "nothing"]

# %% [markdown]
# It finds the sunset and the fourth shape, and misses the other four. The disc and the star it cannot find: to this
# encoder they *are* shapes that it knows. Noise and the empty picture leave its filters nearly silent, and a silent
# grid is near to every grid of one small shape. (There the probability of a word helped, for the empty picture at
# least.) So the distance is a help and no remedy. What no filter answers to, no distance between answers can find.
# Trust a captioner on photos like those that it was trained on, and find out what those
# were.
#
# ## The same caption for every photo
#
# This is the tempting wrong way of this lesson. Take the command above and give `--pca 0`: "keep the features
# as they are" sounds careful. Same photos, same network, same training. We train this, and two more patients:
# one whose captions belong to other photos (a list that was sorted in another way than the photos), and one
# that is blind (features of zeros). The blind one is no accident, it is a ruler: its loss is what can be had
# *without looking*.


# %%
def raw_features(split):
    """The encoder's vectors as they are, without the PCA."""
    looking = Extractor.rebuild(data["source"]["extractor"], {})
    paths = [image_path(data, split, i) for i in range(len(data[f"{split}_urls"]))]
    starts = range(0, len(paths), 100)
    return np.concatenate(
        [looking([load_image(p) for p in paths[s : s + 100]]) for s in starts]
    )


def small_lstm(data):
    """The training above, without files: a model and its loss on held-out photos."""
    lstm = CaptioningRNN(
        data["word_to_idx"], data["train_features"].shape[1], cell_type="lstm",
        wordvec_dim=SMALL["wordvec_dim"], hidden_dim=SMALL["hidden_dim"],
        rng=np.random.default_rng(0),
    )  # fmt: skip
    solver = CaptioningSolver(
        lstm, data, optim_config={"learning_rate": 5e-3}, lr_decay=0.82, clip_norm=5.0,
        batch_size=SMALL["batch_size"], num_epochs=SMALL["num_epochs"], verbose=False,
    )  # fmt: skip
    return lstm, solver.train()[-1]["val_loss"]


best = load_checkpoint(FOLDER / "lstm" / "best.npz")
healthy = build_model(best.model, best.config, best.idx_to_word, best.params)
split_features = {
    split: np.asarray(data[f"{split}_features"]) for split in ("train", "val")
}
rng = np.random.default_rng(0)
others = {
    "with --pca 0": {f"{split}_features": raw_features(split) for split in split_features},
    "captions of others": {"train_image_idxs": rng.permutation(data["train_image_idxs"])},
    "blind": {f"{split}_features": np.zeros_like(x) for split, x in split_features.items()},
}
patients = {"healthy": (healthy, min(row["val_loss"] for row in history), data)}
for name, changes in others.items():
    patients[name] = (*small_lstm(data | changes), data | changes)

# %% [markdown]
# Three measurements, a minute's work on any model:
#
# * the **spread** of the features: how much photos differ, relative to the features themselves,
#   $\lVert X - \text{mean} \rVert / \lVert X \rVert$ over a few photos;
# * the **gain over blindness**: held-out loss of the blind model less that of this one;
# * the **exchange**: give each photo the features of the next one. How many captions change?


# %%
def symptoms(model, features):
    """How many different captions, the spread of the features, captions changed."""
    own = beam_search(model, features, max_length=20)[0][:, 0]
    exchanged = beam_search(model, np.roll(features, 1, axis=0), max_length=20)[0][:, 0]
    spread = np.linalg.norm(features - features.mean(axis=0)) / max(
        np.linalg.norm(features), 1e-12
    )
    return len(np.unique(own, axis=0)), spread, (own != exchanged).any(axis=1).mean()


blind_loss = patients["blind"][1]
table = {}
print(
    f"{'':<20}{'loss':>6}{'gain':>7}{'spread':>8}{'captions':>10}{'change in exchange':>20}"
)
for name, (patient, loss, their_data) in patients.items():
    features = np.asarray(their_data["val_features"], np.float32)
    different, spread, changed = table[name] = symptoms(patient, features)
    print(
        f"{name:<20}{loss:>6.2f}{blind_loss - loss:>7.2f}{spread:>8.2f}"
        f"{different:>6} of {len(features)}{changed:>15.0%}"
    )
wrongly_scaled = extractor.finish(fixed_cnn.filter_outputs(np.stack(known[:50]) / 255))
different, spread, changed = table["0-1 pictures"] = symptoms(model, wrongly_scaled)
print(f"{'0-1 pictures':<20}{'':>13}{spread:>8.2f}{different:>6} of 50{changed:>15.0%}")

if PHOTOS is None:
    assert table["healthy"][0] > 15 and table["healthy"][2] > 0.8
    assert table["with --pca 0"][0] <= 3 and table["with --pca 0"][1] < 0.2
    assert blind_loss - patients["healthy"][1] > 0.15
    assert abs(blind_loss - patients["with --pca 0"][1]) < 0.08
assert table["0-1 pictures"][0] == 1 and table["0-1 pictures"][1] < 0.01

# %% [markdown]
# Read it line by line.
#
# * **`--pca 0`**: one caption, and the spread betrays it: nine tenths of every vector are the same for all photos.
# * **Captions of others**: features are in order, spread 1, and the loss is no better than blind. Its captions
#   even differ and follow the features, in vain: what it learned by heart was noise. Look at ten pairs of
#   photo and caption before you train; this illness is found with the eyes only.
# * **Blind**: what a language model of your captions can do. If your loss is near it, your model does not
#   look, however well its sentences read.
# * **0-1 pictures**: a model that was healthy, fed wrongly *later*. Spread 0: the encoder sees the same thing
#   everywhere ([lesson 12](12_the_encoder.ipynb), third pitfall).
#
# What is it that the PCA does for the first patient? It subtracts the mean, brings the rest to size 1, and
# turns the axes. Each of the first two by itself, on the raw features:

# %%
raw = others["with --pca 0"]
mean = raw["train_features"].mean(axis=0)
size = float(np.sqrt((raw["train_features"] ** 2).mean()))
around = float(np.sqrt(((raw["train_features"] - mean) ** 2).mean()))
print(f"root mean square of the features {size:.2f}, less their mean {around:.2f}")
repaired = {}
for name, mend in (
    ("divided by their size", lambda x: x / size),
    ("less their mean", lambda x: x - mean),
    ("both", lambda x: (x - mean) / around),
):
    mended = {split: mend(features) for split, features in raw.items()}
    patient, loss = small_lstm(data | mended)
    repaired[name] = symptoms(patient, mended["val_features"])
    print(f"{name:<22} loss {loss:.2f}, {repaired[name][0]:>2} different captions")
if PHOTOS is None:
    assert repaired["divided by their size"][0] <= 3 < 12 < repaired["less their mean"][0]
workshop.cleanup()  # the temporary folder goes

# %% [markdown]
# It is the mean. What comes out of a ReLU and an average is positive and nearly the same for every photo. The
# decoder's first matrix has the gradient $x^T dh_0$: along the common part of $x$ all photos push together;
# along what differs each pushes a tenth as strongly, and the loss, whose curvature goes with the square of
# $x$, is a hundred times flatter. Numbers of another size do not change that proportion. So: centre what you
# feed to a decoder, or let the PCA do it.
#
# ### Where to look: a checklist
#
# | what you see | where to look | how to be sure |
# | --- | --- | --- |
# | spread near 0 | scale, colour order, `eval()`, a wrong weight file | features of two very different photos |
# | spread small, not 0 | features not centred | subtract the mean, or use `--pca` |
# | features of one photo differ from call to call | dropout left on | call twice, compare |
# | right in training, wrong later | preprocessing, BatchNorm that drifted | features now against those stored |
# | spread fine, no gain over blind | captions and photos do not belong together | look at ten pairs |
# | gain early, then the same caption | learning rate too high, no clipping | `loss.png`: does it jump? |
# | knows 50 captions by heart, fails on new photos | few photos, or poor features | linear probe (lesson 12) |
# | cannot learn 50 captions by heart | a bug in the model | gradient check (lesson 2) |
# | different captions, all short and safe | no length penalty | `--length_penalty 1`, sampling (lesson 11) |
# | different captions, half of them false | turned, mirrored or squeezed photos | look at what the encoder sees |
# | `<UNK>` where names belong | rare words | lower `--min_count`, or more captions |
#
# The first question is always whether the decoder reads what you think it reads. `core` asks it for you where
# it can: the constants travel in the checkpoint, and data made with others are refused.
#
# ## What to do next
#
# None of these is run here; what they give is from the project's README and
# [docs/results.md](../docs/results.md), measured on the 1,000 dev photos of Flickr8k (BLEU-4 / CIDEr-D).
#
# **Real photos.** With the ImageNet weights of SqueezeNet, 5 MB, downloaded once (`vgg16`: 528 MB):
#
#     python -m core.flickr8k --root PHOTOS --out datasets/flickr8k \
#         --encoder squeezenet1_1 --weights download
#     python training.py  --model lstm --data datasets/flickr8k --hidden_dim 512 --wordvec_dim 256 \
#         --dropout 0.5 --learning_rate 1e-3 --lr_decay 1 --num_epochs 6
#     python inference.py --model lstm --image photo.jpg
#
# Expect "two dogs are running through a field" of photos that it has never seen, and now and then a bench that
# is a tractor. With the options of docs/results.md: 18.2 / 41.4 after eight minutes on two cores. Flickr8k has
# 8,000 photos with five captions each.
#
# **A grid, and attention.** It looks at places, and shows where:
#
#     python training.py  --model attention --engine torch --data PHOTOS \
#         --encoder squeezenet1_1 --weights download --grid 7
#     python inference.py --model attention --image photo.jpg --attention map.png
#
# 19.6 / 47.8 after 17 minutes. Opening the encoder's last three stages (`--init RUN --finetune_encoder 3`)
# gave 19.7 / 47.8: with SqueezeNet on so few photos, hardly anything. Training on the score itself
# (`--objective scst`) gave 21.4 / 52.8.
#
# **Better captions from the same model.** The captions of similar training photos choose among the beams; or
# several models vote:
#
#     python inference.py --model lstm --split val --beam_size 20 --neighbours 16 --out captions.json
#     python inference.py --checkpoint runs/a --ensemble runs/b --split val --out captions.json
#
# Neighbours bring the LSTM from 18.2 / 41.4 to 19.3 / 45.7; an ensemble of two models has 22.4 / 53.2. People,
# one against the others, have 21.8 / 83.0: by BLEU-4 the ensemble is better than people, which says something
# about BLEU-4 ([lesson 13](13_is_it_any_good.ipynb)).
#
# **Look at everything at once.** One page that needs no network; point at a word and see its map and its
# probability:
#
#     python inference.py --model attention --images PHOTOS --report report.html
#
# **COCO.** About 1 GB to fetch, 2.3 GB on disk, features of VGG16 for the photos of MS COCO 2014:
#
#     python datasets/fetch_coco.py
#     python training.py --model lstm --data datasets/coco_captioning
#
# The archive has neither the photos nor the PCA that made its features: such a model captions the archive's
# images, and not yours.
#
# **A GPU, or several.** The same settings and checkpoints; a run that one engine began, the other goes on
# with. Under `torchrun` the batch is shared out, and any number of processes trains as one:
#
#     python training.py --model transformer --engine torch --device auto
#     torchrun --nproc_per_node 2 training.py --model transformer --engine torch
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/14_your_own_photo.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · How sure, in one line
#
# `log_probabilities` holds, for each caption (a row), the natural logarithms of its words' probabilities, and
# 0 behind its end, as `word_log_probabilities` gives them. Return for each caption the geometric mean of its
# words' probabilities. (No word has a log-probability of exactly 0 before the end.)


# %% tags=["exercise"]
def how_sure(log_probabilities):
    """(N, T) -> (N,)."""
    ### BEGIN SOLUTION
    words = np.count_nonzero(log_probabilities, axis=1)
    return np.exp(log_probabilities.sum(axis=1) / words)
    ### END SOLUTION


def by_multiplying(log_probabilities):
    """One caption, one word at a time."""
    found = []
    for row in log_probabilities:
        probabilities = [np.exp(value) for value in row if value != 0]
        found.append(np.prod(probabilities) ** (1 / len(probabilities)))
    return np.array(found)


rows = np.log(np.random.default_rng(0).uniform(0.1, 0.95, (3, 6)))
rows[0, 4:] = rows[2, 5:] = 0  # these captions are shorter
compare(
    how_sure,
    by_multiplying,
    rows,
    also={
        "for one caption of one word": (rows[:1, :1],),
        "for full captions": (rows[1:2],),
    },
    exercise="14.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · A caption file that survives your captions
#
# People write commas and quotation marks. Return the text of a `captions.txt` (header included)
# for a list of pairs of file name and caption, such that `core.flickr8k` reads back exactly what was written.
# (There is a module for it; do not glue strings.)


# %% tags=["exercise"]
def captions_text(pairs):
    """[(file name, caption), ...] -> the text of the file."""
    ### BEGIN SOLUTION
    file = io.StringIO()
    csv.writer(file).writerows([("image", "caption"), *pairs])
    return file.getvalue()
    ### END SOLUTION


def read_back(pairs):
    """Writes your file beside a photo, and reads it as the project does."""
    text = captions_text(pairs)
    if not isinstance(text, str):
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "captions.txt").write_text(text, encoding="utf-8", newline="")
        Image.new("RGB", (8, 8)).save(folder / "dog.jpg")
        return flickr8k.read_photo_folder(folder).captions


def as_given(pairs):
    captions = {}
    for name, caption in pairs:
        captions.setdefault(name, []).append(caption)
    return captions


pairs = [
    ("dog.jpg", "A dog, a ball and a lawn ."),
    ("dog.jpg", 'The sign says "no dogs" .'),
    ("cat, sleeping.jpg", "Nothing happens ."),
    ("dog.jpg", '"Sit," she said .'),
]
compare(read_back, as_given, pairs)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: the doctor
#
# Write `diagnosis(model, features)`. It returns `"encoder"` when the features hardly differ from picture to
# picture (spread below 0.1: the norm of the features less their mean over the pictures, over the norm of the
# features), `"decoder"` when they do and the captions do not follow them (at most a tenth of
# them change when each picture gets the features of the next), else `"healthy"`. Use
# `beam_search(model, features, max_length=20)`, whose first result is (N, 1, T) ids. Then meet four patients,
# all made of the trained `attention` run.


# %% tags=["exercise"]
def diagnosis(model, features):
    """A captioning model and (N, L, C) features of different pictures -> a word."""
    ### BEGIN SOLUTION
    spread = np.linalg.norm(features - features.mean(axis=0)) / np.linalg.norm(features)
    if spread < 0.1:
        return "encoder"
    own = beam_search(model, features, max_length=20)[0]
    exchanged = beam_search(model, np.roll(features, 1, axis=0), max_length=20)[0]
    changed = (own != exchanged).any(axis=(1, 2)).mean()
    return "decoder" if changed <= 0.1 else "healthy"
    ### END SOLUTION


def patients_of(seed):
    """By number: a model, features, and what is wrong."""
    rng = np.random.default_rng(seed)
    pictures = np.stack([scenes.render(scenes.draw_scene(rng), rng) for _ in range(12)])
    run = load_checkpoint(lessons.TRAINED / "attention" / "best.npz")
    looking = Extractor.rebuild(run.extractor, run.extractor_arrays)
    grids, black = (
        looking.finish(fixed_cnn.filter_outputs(p)) for p in (pictures, pictures / 255)
    )
    fine, closed = (
        build_model(run.model, run.config, run.idx_to_word, run.params) for _ in "ab"
    )
    shut = {
        "b_gate": np.full_like(run.params["b_gate"], -1e3)
    }  # the context is never let in
    unseen = {name: np.zeros_like(run.params[name]) for name in ("W_h0", "W_c0")}
    closed.params = {**run.params, **shut, **unseen}
    faint = black + 0.01 * (grids - black)  # what differs is a hundredth of itself
    return [
        (fine, grids, "healthy"), (fine, black, "encoder"),
        (closed, grids, "decoder"), (fine, faint, "encoder"),
    ]  # fmt: skip


patients = patients_of(0)


def diagnoses(numbers):
    return [diagnosis(*patients[number][:2]) for number in numbers]


compare(
    diagnoses, lambda numbers: [patients[number][2] for number in numbers], [0, 1, 2, 3]
)

# %% [markdown]
# ## What to keep
#
# * A folder and a `captions.txt` are all it takes; read the counts and look at ten pairs before you train.
# * A model says what its captions said, in the words that they had, of what its encoder can see. Of all else
#   it speaks as well, and often as sure of itself.
# * A word's probability is not the probability of being right.
# * Centre the features: what is the same for all photos drowns what differs.
# * The same caption for every photo: measure the spread of the features, the gain over a blind model, the
#   exchange. They tell encoder, data and decoder apart in a minute.
#
# **Sources.** M. Hodosh, P. Young and J. Hockenmaier, *Framing image description as a ranking task*, JAIR 47
# (2013). A. Karpathy and L. Fei-Fei, *Deep visual-semantic alignments for generating image descriptions*, CVPR
# 2015 (the splits). T.-Y. Lin et al., *Microsoft COCO: common objects in context*, ECCV 2014. K. Xu et al.,
# *Show, attend and tell*, ICML 2015. D. Hendrycks and K. Gimpel, *A baseline for detecting misclassified and
# out-of-distribution examples in neural networks*, ICLR 2017. A. Rohrbach, L. A. Hendricks, K. Burns, T.
# Darrell and K. Saenko, *Object hallucination in image captioning*, EMNLP 2018.
#
# **Next:** your own photos. Or start over at [lesson 1](01_the_task_and_the_data.ipynb) and read it with other
# eyes.
