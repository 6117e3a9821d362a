# %% [markdown]
# # 14 · Your own photo
#
# **The question.** How do you teach a captioner your own photos? What can it say of a photo? And what does it say of
# something that it has never seen?
#
# You prepare a folder of photos, train on it, and caption a photo of yours. Then you show the model strangers, and try
# two ways to recognise them.
#
# *Before: [lesson 11](11_decoding.ipynb) (beam search) and [lesson 12](12_the_encoder.ipynb) (features). About 45
# minutes; all cells together run in a minute. It needs PyTorch (`make setup`). Nothing is downloaded.*

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
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, watched
from core.models import CaptioningRNN, build_model
from core.runs.data import extractor_of
from core.runs.settings import find_checkpoint
from core.shapes import caption_is_true, load_scenes

lessons.style()

# %% tags=["setup", "hide-input"]
# What answers your tasks: for each what is right, and the usual slips with a sentence each.


@watched
def two_lists(found, files, captions):
    assert isinstance(found, tuple) and len(found) == 2, "return two lists"
    assert all(isinstance(names, list) for names in found), (
        "return lists; sorted(...) makes one"
    )
    lost, silent = found
    assert set(lost) <= set(captions), (
        "the first list is of names that have a caption, and no file"
    )
    assert lost == sorted(lost) and silent == sorted(silent), "the lists are not sorted"


def name_by_name(files, captions):
    lost = [name for name in sorted(captions) if name not in files]
    return lost, [name for name in sorted(files) if name not in captions]


@watched
def a_square(found, photo):
    assert np.ndim(found) == 3, "return a picture: height, width and three colours"
    height, width = photo.shape[:2]
    side = min(height, width)
    assert np.shape(found)[0] == np.shape(found)[1], (
        "the height and the width are not equal"
    )
    assert not np.array_equal(found, photo[:side, :side]), (
        "that is the upper left square; it must be the middle one"
    )


def by_counting(photo):
    height, width = photo.shape[:2]
    side = min(height, width)
    rows = [r for r in range(height) if (height - side) // 2 <= r < (height + side) // 2]
    columns = [c for c in range(width) if (width - side) // 2 <= c < (width + side) // 2]
    return photo[rows][:, columns]


@watched
def a_share(found, features):
    assert np.ndim(found) == 0, "return one number for all photos together"
    from_zero = np.linalg.norm(features)
    assert not np.isclose(found, np.linalg.norm(features - features.mean()) / from_zero), (
        "each column has its own mean over the photos: use axis=0"
    )
    assert not np.isclose(found, np.linalg.norm(features - features.mean(axis=0))), (
        "divide by the length of the features themselves"
    )


def number_by_number(features):
    N, D = features.shape
    means = [sum(features[n, d] for n in range(N)) / N for d in range(D)]
    apart = sum((features[n, d] - means[d]) ** 2 for n in range(N) for d in range(D))
    return (apart / sum(value**2 for value in features.ravel())) ** 0.5


SOME_FILES = ["b.jpg", "a.jpg", "e.jpg", "d.jpg"]
SOME_CAPTIONS = {"a.jpg": ["A dog ."], "c.jpg": ["A cat ."], "b.jpg": ["A man .", "He ."]}
SOME_PHOTO = np.arange(6 * 10 * 3).reshape(6, 10, 3)
OTHER_PHOTOS = {
    "for an upright photo": (SOME_PHOTO.transpose(1, 0, 2),),
    "for a photo of 5 x 9": (SOME_PHOTO[:5, :9],),
}
SOME_FEATURES = np.random.default_rng(0).normal([5, 0, 3, -2], size=(6, 4))

# %% [markdown]
# ## From a folder to a caption
#
# Three commands lead from photos to a caption:

# %% tags=["hide-input"]
sketch = Sketch(9, 2.5)
photos_box = sketch.box(
    1.0, 1.9, "photos and\ncaptions.txt", "given", width=1.5, height=0.7
)
data_box = sketch.box(4.2, 1.9, "features and\nword ids", width=1.5, height=0.7)
run_box = sketch.box(7.6, 1.9, "trained model", width=1.6, height=0.7)
sketch.arrow(photos_box, data_box)
sketch.text(2.6, 2.2, "1 prepare", BLUE)
sketch.arrow(data_box, run_box)
sketch.text(5.85, 2.2, "2 train", BLUE)
new = sketch.box(5.0, 0.5, "your photo", "given", width=1.4)
said = sketch.box(8.2, 0.5, "a caption", "gradient", width=1.2)
sketch.arrow(new, said, kind="gradient")
sketch.arrow(run_box, (7.2, 0.52), kind="grey")
sketch.text(6.35, 0.8, "3 caption", ORANGE)
sketch.show()

# %% [markdown]
#     python -m core.flickr8k --root PHOTOS --out datasets/mine --encoder mobilenet_v2 --weights download
#     python training.py --model lstm --data datasets/mine
#     python inference.py --model lstm --image photo.jpg
#
# `PHOTOS` is a folder with your photos, large or small, and one text file, `captions.txt`. That file has one line per
# caption; a photo may have several:
#
#     image,caption
#     beach.jpg,Two children are building a sand castle .
#     beach.jpg,"A boy, a girl and a lot of sand"
#
# Write the name of your folder below. While it says `None`, the lesson makes a folder to practise with: 502 names, 1,002
# captions. Its "photos" are pictures of one shape, enlarged and saved as JPEG. Three things are wrong with it: one file is
# broken, one captioned photo is lost, and one photo has no caption (it is not among the 502 names).

# %%
PHOTOS = None  # your own folder: "C:/photos/holiday" or "/home/me/holiday"
ENCODER, WEIGHTS = "tiny_cnn", "random"  # for photos: "mobilenet_v2", "download"

# %% tags=["hide-input"]
workshop = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
FOLDER = Path(workshop.name).resolve()
embedded = lessons.embedded_data("attention")
embedded_scenes = load_scenes(embedded["source"]["folder"], "train")


def make_practice_folder(folder, count=500):
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
    shapes_of = make_practice_folder(photos)


def tidy(text):
    """Paths as names below the temporary folder: the page reads the same everywhere."""
    for folder in (str(FOLDER), workshop.name):
        for found in (f"{folder}\\", f"{folder}/", folder):
            text = text.replace(found, "")
    return text.strip()


def command(*arguments, without=()):
    """Runs a command of the project as you would in a terminal, and prints what it says."""
    arguments = [str(argument) for argument in arguments]
    shown = tidy(f"$ python {' '.join(arguments)}")
    print(textwrap.fill(shown, 100, subsequent_indent="      "))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=lessons.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in tidy(done.stdout + done.stderr).splitlines():
        if not any(word in line for word in ("features of ", *without)):
            print(textwrap.fill(line, 100, subsequent_indent="    "))
    return done.returncode


# %%
source = flickr8k.read_photo_folder(photos)
for name, captions in list(source.captions.items())[:3]:
    print(f"{name}: {' | '.join(captions)}")
print({split: len(names) for split, names in source.splits.items()}, "drawn at random")

# %% [markdown]
# A tenth of the photos is held out at random. With lists of names you choose them yourself
# ([datasets/README.md](../datasets/README.md)).
#
# **Your turn.** Names that do not match are the commonest fault of such folders. Find them, in two lines.


# %% tags=["task"]
def unmatched(files, captions):
    """`files`: a list of file names. `captions`: a dict from a name to its captions.

    Returns two sorted lists: names with captions and no file, files without a caption."""
    ### BEGIN SOLUTION
    lost = sorted(set(captions) - set(files))
    return lost, sorted(set(files) - set(captions))
    ### END SOLUTION


compare(two_lists(unmatched), name_by_name, SOME_FILES, SOME_CAPTIONS)

# %% [markdown]
# ## Prepare
#
# The first command reads the captions, builds the vocabulary and lets the encoder look at each photo. Then it fits a
# principal component analysis (PCA) on the training photos. That subtracts the mean of the features and makes them
# shorter ([lesson 1b](01b_pca_epochs_and_leakage.ipynb)).
#
# **Predict.** Of our 502 names, how many photos remain, training and held out together? Does the command stop at the
# broken one?

# %%
training_photos = len(source.splits["train"])
code = command(
    "-m", "core.flickr8k", "--root", photos, "--out", FOLDER / "data", "--encoder", ENCODER,
    "--weights", WEIGHTS, "--pca", min(100, training_photos // 2), "--min_count", 1,
    "--device", "cpu",
)  # fmt: skip

# %% [markdown]
# <details><summary>Answer</summary>
#
# 500. The command goes on, and names the lost and the broken photo. If more than one in a hundred were broken, it would
# stop: then the whole copy is probably damaged.
#
# </details>
#
# Three choices in this command:
#
# * **`--encoder`**. `tiny_cnn` with random filters is for practice only. An encoder for real photos must have seen a
#   million photos before yours: that is what `--weights download` fetches (14 MB for `mobilenet_v2`).
# * **`--pca`** is the number of components. Without the option there are 512, or half as many as training photos where
#   that is less. `--pca 0` means **no PCA at all**: the last section shows what happens then.
# * **`--min_count 1`** keeps words that occur once. For large folders leave the default, five. A word that was seen once
#   cannot be learned.
#
# Before you train, look at ten pairs of photo and caption: no program finds captions that belong to other photos. Here
# are four:

# %% tags=["hide-input"]
assert code == 0
data = load_coco_data(FOLDER / "data")
if PHOTOS is None:
    assert [len(data[f"{split}_features"]) for split in ("train", "val")] == [450, 50]
_, axes = plt.subplots(1, 4, figsize=(9, 2.4))
for ax, image in zip(axes, range(4), strict=True):
    row = np.flatnonzero(data["train_image_idxs"] == image)[0]
    caption = decode_captions(data["train_captions"][row], data["idx_to_word"])
    ax.imshow(load_image(image_path(data, "train", image)))
    ax.set_title("\n".join(textwrap.wrap(caption, 22)), fontsize=10, parse_math=False)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## Train
#
# A small LSTM, twelve epochs, a few seconds. (The lines with losses per epoch are left out here.)
#
# **Predict.** 450 photos, random filters. In which share of the held-out photos does it name the colour (of five)? In
# which the kind (circle, square or triangle)? Guessing would give 20 % and 33 %.

# %%
SMALL = {"hidden_dim": 64, "wordvec_dim": 32, "batch_size": 32, "num_epochs": 12}
options = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
code = command(
    "training.py", "--model", "lstm", "--data", FOLDER / "data", "--out", FOLDER / "lstm",
    *options, "--learning_rate", "5e-3", "--dropout", 0, without=("tokens/s",),
)  # fmt: skip

# %% tags=["hide-input"]
assert code == 0
captions_file = FOLDER / "captions.json"
code = command(
    "inference.py", "--checkpoint", FOLDER / "lstm", "--split", "val",
    "--out", captions_file, without=("photo_", "reference"),
)  # fmt: skip
assert code == 0
said = json.loads(captions_file.read_text(encoding="utf-8"))
if PHOTOS is None:
    on_it = [shapes_of[row["file_name"]] for row in said]
    texts = [row["caption"] for row in said]
    colours = np.mean([s[0].colour in t for s, t in zip(on_it, texts, strict=True)])
    kinds = np.mean([s[0].kind in t for s, t in zip(on_it, texts, strict=True)])
    true = np.mean([caption_is_true(t, s) for s, t in zip(on_it, texts, strict=True)])
    print(f"\nof {len(said)} held-out photos: right colour {colours:.0%}, ", end="")
    print(f"right kind {kinds:.0%}, nothing false {true:.0%}")
    assert colours > 0.9 and 0.4 < kinds < 0.68 and 0.35 < true < 0.65
_, axes = plt.subplots(1, 4, figsize=(9, 2.4))
for ax, row in zip(axes, said, strict=False):
    ax.imshow(load_image(image_path(data, "val", row["image_id"])))
    text = "\n".join(textwrap.wrap(row["caption"], 22))
    ax.set_title(text, fontsize=10, color=BLUE, parse_math=False)
    ax.axis("off")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# 96 % of the colours and 54 % of the kinds; half of the captions say nothing false. (With 50 photos, the standard errors
# are 3 to 7 points.) Random filters see colours well and outlines badly.
#
# </details>
#
# ## Your own photo
#
# Now the promise of these lessons. Write two names below: a **checkpoint** (the file of a trained model, or its run
# folder) and a photo.

# %%
MODEL = None  # a run that was trained on photos: "runs/lstm"
MY_PHOTO = None  # "C:/photos/cat.jpg"

# %% [markdown]
# **No model of photos yet?** None comes with the project: the photos that people train on may not be passed on freely.
# But you can make one:
#
# 1. Get Flickr8k (8,000 photos, five captions each; [datasets/README.md](../datasets/README.md) says where), or take your
#    own folder. A few hundred photos of *one* theme, with a caption each, give a start.
# 2. Run the three commands at the top of this lesson. For Flickr8k, on two cores, expect 6 minutes for the features and
#    6 for the training, with the commands of `lstm` in [docs/results.md](../docs/results.md). 1,050 of its photos take 2
#    minutes. That is enough for "a man in a blue shirt is standing on the street", and too little for being right.
# 3. Write `MODEL = "runs/lstm"` above, your photo below it, and run the cells from here on.
#
# Until then the cells use the model of shapes from [lesson 8](08_soft_attention.ipynb). Of pictures of shapes, 97 % of its
# captions are true. The photo is a portrait that comes with matplotlib.
#
# What does an encoder see of a photo? Not all of it. The square in the middle is cut out and made small: 64 x 64 pixels
# for our shapes, 224 x 224 for the encoders of photos.
#
# **Your turn.** Cut that square out, before it is made small.


# %% tags=["task"]
def middle_square(photo):
    """(height, width, 3) -> (side, side, 3), where side is the smaller of the two."""
    ### BEGIN SOLUTION
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photo[top : top + side, left : left + side]
    ### END SOLUTION


compare(a_square(middle_square), by_counting, SOME_PHOTO, also=OTHER_PHOTOS)

# %% [markdown]
# **Predict.** The model of shapes has 37 words: five colours, three kinds, some sizes and places. What will it say of a
# portrait?

# %%
checkpoint = load_checkpoint(
    find_checkpoint("MODEL", MODEL or lessons.TRAINED / "attention")
)
model = build_model(
    checkpoint.model, checkpoint.config, checkpoint.idx_to_word, checkpoint.params
)
extractor = extractor_of(checkpoint)  # looks at photos as the model's training did
SIZE = checkpoint.extractor["preprocessing"]["size"]


def describe(pictures):
    """The best caption of each picture, and the mean probability of its words."""
    ids, scores = beam_search(model, extractor(pictures), max_length=30)
    return decode_captions(ids[:, 0], checkpoint.idx_to_word), np.exp(scores[:, 0])


# %% tags=["hide-input"]
portrait = Path(plt.matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
photo = load_image(MY_PHOTO or portrait)
seen = resize_and_crop(photo, SIZE)
[caption], [sure] = describe([seen])
_, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
left.imshow(photo)
left.set_title("the photo")
right.imshow(seen)
right.set_title("\n".join(textwrap.wrap(caption, 34)), color=BLUE, parse_math=False)
right.text(
    0.5, -0.05, f"what the encoder sees; {sure:.2f} per word", ha="center", va="top",
    color=GREY, transform=right.transAxes,
)  # fmt: skip
for ax in (left, right):
    ax.axis("off")
plt.show()
if MODEL is None and MY_PHOTO is None:
    assert len(checkpoint.idx_to_word) == 41  # the four special words included
    assert caption.startswith("a large green triangle a large blue square")

# %% [markdown]
# <details><summary>Answer</summary>
#
# It speaks of shapes. Of the portrait it says "a large green triangle a large
# blue square and a large green circle".
#
# </details>
#
# **A model that was trained on shapes cannot caption your photo.** Its sentence is fluent and worthless. No setting mends
# that, for two reasons:
#
# * **A decoder has only the words of its captions.** It has no word for a face. Its last layer divides the probability
#   among 41 entries (37 words and the four special ones), and none of them means "I do not know".
# * **A decoder gets only what its encoder gives.** Our first filters compare each pixel with five colours and the
#   background. What they do not tell apart, no later layer can.
#
# The same holds for your own model. It will speak of your photo in the words of *its* training captions.
#
# ## Can we recognise a stranger?
#
# The model always says something. Can we at least tell when not to believe it? We try two tests:
#
# 1. **Its own probability.** Refuse a caption if the (geometric) mean probability of its words is unusually low.
# 2. **The distance.** Refuse a picture if its features are unusually far from those of every training picture.
#
# Where are the limits? We take 300 held-out pictures of shapes, and set each limit so that it refuses 1 % of them. Then we
# show seven strangers: the portrait, a sunset, noise, a red star, an orange disc, four shapes (training pictures have at
# most three), and an empty picture.
#
# **Predict.** Of the seven, how many does each test find?

# %% tags=["hide-input"]
if MODEL is not None:  # this experiment is about the model of shapes
    checkpoint = load_checkpoint(lessons.TRAINED / "attention" / "best.npz")
    model, _ = lessons.load_trained("attention")
    extractor = extractor_of(checkpoint)
known = [load_image(image_path(embedded, "val", i)) for i in range(300)]
rng = np.random.default_rng(0)
y, x = np.mgrid[:64, :64] / 63 - 0.5  # the middle is 0
background = np.full((64, 64, 3), 228, np.uint8)
Shape = scenes.Shape


def painted(mask, colour):
    picture = background.copy()
    picture[mask] = colour
    return picture


sunset = np.stack([135 + 150 * y, 150 + 60 * x, 150 - 100 * y], axis=2).astype(np.uint8)
star = np.hypot(x, y) < 0.17 + 0.1 * np.cos(5 * np.arctan2(y, x))
four = [
    Shape("circle", "red", "large", 14, 14, 10.5),
    Shape("square", "blue", "large", 48, 14, 10.5),
    Shape("triangle", "green", "large", 14, 48, 10.5),
    Shape("circle", "yellow", "large", 48, 48, 10.5),
]
strangers = {
    "a portrait": resize_and_crop(load_image(portrait), 64),
    "a sunset": sunset,
    "noise": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
    "a red star": painted(star, scenes.COLOURS["red"]),
    "an orange disc": painted(np.hypot(x, y) < 0.17, (250, 140, 20)),
    "four shapes": scenes.render(four, rng),
    "nothing": background,
}
texts, their_sure = describe(list(strangers.values()))
_, axes = plt.subplots(2, 4, figsize=(9, 5.2))
for ax in axes.flat:
    ax.axis("off")
for ax, name, text in zip(axes.flat, strangers, texts, strict=False):
    ax.imshow(strangers[name])
    ax.set_title(name, fontsize=11)
    ax.text(
        0.5, -0.04, "\n".join(textwrap.wrap(text, 24)), ha="center", va="top", fontsize=9,
        color=BLUE, transform=ax.transAxes,
    )  # fmt: skip
plt.show()

# %%
grids = np.asarray(embedded["train_features"]).reshape(8000, -1)
squares = (grids**2).sum(axis=1)


def distance_to_training(pictures):
    """How far the features of each picture are from the nearest training picture's."""
    rows = extractor(pictures).reshape(len(pictures), -1)
    d2 = (rows**2).sum(axis=1)[:, None] + squares - 2 * rows @ grids.T
    return np.sqrt(np.maximum(d2, 0).min(axis=1))


known_said, known_sure = describe(known)
known_far, their_far = (distance_to_training(p) for p in (known, list(strangers.values())))
least_sure, farthest = np.quantile(known_sure, 0.01), np.quantile(known_far, 0.99)

# %% tags=["hide-input", "picture"]
_, ax = plt.subplots(figsize=(8, 4))
ax.scatter(
    known_sure, known_far, s=12, color="#BBBBBB", label="300 held-out pictures of shapes"
)
ax.scatter(their_sure, their_far, s=40, color=ORANGE, label="strangers")
SIDES = {
    "noise": (-8, 0, "right"), "a portrait": (-8, 0, "right"), "an orange disc": (0, -13, "center"),
}  # fmt: skip
for name, sure, far in zip(strangers, their_sure, their_far, strict=True):
    dx, dy, side = SIDES.get(name, (8, 0, "left"))
    ax.annotate(
        name, (sure, far), xytext=(dx, dy), textcoords="offset points", ha=side, va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )  # fmt: skip
ax.axvline(least_sure, color=BLUE, linestyle="--")
ax.axhline(farthest, color=BLUE, linestyle="--")
ax.set(
    xlabel="mean probability of its words",
    ylabel="distance to the nearest\ntraining picture",
)
ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
plt.show()

unsure, far = their_sure < least_sure, their_far > farthest
print(f"{'':<16}{'probability':<14}{'finds it':<11}{'distance':<11}finds it")
yes = {True: "yes", False: "no"}
for i, name in enumerate(strangers):
    print(
        f"{name:<16}{their_sure[i]:<14.3f}{yes[bool(unsure[i])]:<11}"
        f"{their_far[i]:<11.0f}{yes[bool(far[i])]}"
    )
both = unsure | far
print(f"{'the limit':<16}{least_sure:<25.3f}{farthest:.0f}")
print(
    f"found: {unsure.sum()} by probability, {far.sum()} by distance, {both.sum()} of 7 together"
)
missed = [name for name, found in zip(strangers, both, strict=True) if not found]
print("missed by both:", ", ".join(missed))

val_scenes = load_scenes(embedded["source"]["folder"], "val")
right = np.array([caption_is_true(*p) for p in zip(known_said, val_scenes, strict=True)])
when_true, when_false = known_sure[right].mean(), known_sure[~right].mean()
in_yellow = painted(np.hypot(x, y) < 0.17, scenes.COLOURS["yellow"])
apart = np.linalg.norm(np.subtract(*extractor([strangers["an orange disc"], in_yellow])))
print(f"from the orange disc to the same disc in yellow: {apart:.1f}")
print(f"pictures of shapes: {when_true:.3f} in {right.sum()} true captions,", end=" ")
print(f"{when_false:.3f} in {(~right).sum()} false ones")

# %%
disc = extractor([strangers["an orange disc"]])
ids = beam_search(model, disc, max_length=30)[0][:, 0]  # one caption
ids = ids[ids != model.null][None]  # to its <END>
after_start = np.insert(ids, 0, model.start, axis=1)
probabilities = np.exp(word_log_probabilities(model, disc, after_start))[0]
words = [checkpoint.idx_to_word[word] for word in ids[0]]
print(*(f"{word} {p:.2f}" for word, p in zip(words, probabilities, strict=True)))

# %% tags=["hide-input"]
assert unsure.sum() == 2 and far.sum() == 3 and both.sum() == 4
assert missed == ["noise", "a red star", "an orange disc"]
assert (known_sure < their_sure[list(strangers).index("an orange disc")]).mean() > 0.9
of_word = dict(zip(words, probabilities, strict=True))
assert min(of_word["yellow"], of_word["circle"]) > 0.99
assert of_word["there"] < 0.4 and of_word["large"] < 0.8 and of_word["in"] < 0.8
assert apart < 1 < their_far[list(strangers).index("an orange disc")] / 8
assert abs(when_true - when_false) < 0.03 and 280 < right.sum() < 295

# %% [markdown]
# <details><summary>Answer</summary>
#
# The probability finds 2 of 7, the distance 3. Together they find 4. Noise, the star and the orange disc pass both.
#
# </details>
#
# **Both tests miss strangers.** The model calls the orange disc "a large yellow circle", and it is surer of that than of
# nine in ten pictures of shapes. Look at the last line: "yellow" and "circle" have a probability of 1. To this encoder the
# disc *is* a yellow circle: painted yellow, it has nearly the same features (distance 0.8). So no distance between
# features can find it.
#
# The low probabilities are at "there", "large" and "in", where a sentence may well go on with another word. So the mean
# says mostly how many ways there are to say it, not whether it is right. Of pictures of shapes, too, it is the same for
# the 9 false captions as for the true ones (the standard error of the 9 is 0.01).
#
# So trust a captioner on photos like those that it was trained on, and find out which those were.
#
# ## The same caption for every photo
#
# This is a frequent complaint about captioning programs. A frequent cause: the features are nearly the same for all
# photos. The **spread** measures this. Subtract from the features their mean over the photos, take the length of what is
# left, and divide it by the length of the features as they are. ("Length" is the root of the sum of all squares.)
#
# **Your turn.** Write it in one line. 0 means "all photos look the same"; features with mean 0 have spread 1.


# %% tags=["task"]
def spread(features):
    """(N, D), a row per photo -> one number from 0 to 1."""
    ### BEGIN SOLUTION
    return np.linalg.norm(features - features.mean(axis=0)) / np.linalg.norm(features)
    ### END SOLUTION


compare(a_share(spread), number_by_number, SOME_FEATURES)

# %% [markdown]
# **The tempting wrong way.** Give `--pca 0`: "keep the features as they are" sounds careful. The photos, the network and
# the training stay the same. For comparison we train two more models. One gets the features less their mean. The other is
# **blind**: all its features are 0, so its loss is the loss without looking.
#
# **Predict.** How many different captions do the 50 held-out photos get, with the PCA and without?


# %% tags=["hide-input"]
def as_they_are(split):
    """The encoder's vectors without the PCA."""
    looking = Extractor.rebuild(data["source"]["extractor"], {})
    paths = [image_path(data, split, i) for i in range(len(data[f"{split}_urls"]))]
    parts = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    return np.concatenate([looking([load_image(path) for path in part]) for part in parts])


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


raw = {f"{split}_features": as_they_are(split) for split in ("train", "val")}
mean = raw["train_features"].mean(axis=0)
kinds_of_features = {
    "with the PCA": {name: np.asarray(data[name]) for name in raw},
    "with --pca 0": raw,
    "less their mean": {name: features - mean for name, features in raw.items()},
    "blind: zeros": {name: 0 * features for name, features in raw.items()},
}

# %%
table = {}
print(f"{'features':<17}{'spread':>7}{'loss':>7}   different captions")
for name, features in kinds_of_features.items():
    lstm, loss = small_lstm(data | features)
    new = features["val_features"]
    ids = beam_search(lstm, new, max_length=20)[0][:, 0]
    apart = np.linalg.norm(new - new.mean(axis=0)) / max(np.linalg.norm(new), 1e-12)
    table[name] = apart, loss, len(np.unique(ids, axis=0))
    print(f"{name:<17}{apart:>7.2f}{loss:>7.2f}   {table[name][2]} of {len(new)}")

# %% tags=["hide-input"]
if PHOTOS is None:
    assert 28 < table["with the PCA"][2] < 42 and table["with --pca 0"][2] <= 3
    assert 0.07 < table["with --pca 0"][0] < 0.11 < 0.9 < table["with the PCA"][0]
    assert abs(table["with --pca 0"][1] - table["blind: zeros"][1]) < 0.08
    assert table["less their mean"][2] > 12
    assert table["less their mean"][1] < table["with --pca 0"][1] - 0.1
workshop.cleanup()  # the temporary folder goes

# %% [markdown]
# <details><summary>Answer</summary>
#
# 35 with the PCA, 1 without. And the loss without it, 0.94, is nearly that of the blind model, 0.97: the captions make no
# use of the photo.
#
# </details>
#
# The raw vectors differ from photo to photo by 9 % of their length; the rest is the same for all. In twelve epochs the
# model hardly learns from so small a difference ([14b](14b_the_same_caption_for_every_photo.ipynb) says why). Subtract
# the mean, and the captions follow the photos again: 21 of 50. So centre your features, or let the PCA do it. (Random
# filters are an extreme case.)
#
# When the captions are bad, look here first:
#
# | what you see | where to look |
# | --- | --- |
# | one caption for all, spread near 0 | scale and colour order of the pictures, a wrong weight file |
# | one caption for all, spread small | features not centred: leave `--pca 0` out |
# | spread fine, loss like a blind model's | captions belong to other photos: look at ten pairs |
# | right in training, wrong later | other preprocessing than in training |
# | `<UNK>` where names belong | rare words: lower `--min_count` |
# | cannot learn 50 captions by heart | a bug: gradient check ([lesson 2](02_gradients_you_can_trust.ipynb)) |
#
# [Lesson 14b](14b_the_same_caption_for_every_photo.ipynb) has more such models, and measurements that tell them apart.
#
# ## Further
#
# None of this is run here. It shows which option gains how much. The figures are from
# [docs/results.md](../docs/results.md): 1,000 held-out photos of Flickr8k, BLEU-4 / CIDEr-D
# ([lesson 13](13_is_it_any_good.ipynb)), minutes of training on two cores.
#
# | what | minutes | score |
# | --- | --- | --- |
# | LSTM, features of MobileNetV2, mirrored photos, too (`--flip`) | 6 | 19.1 / 45.7 |
# | after that, **self-critical training**: it learns from the score of its own captions (`--objective scst --bleu_reward 1`) | 4 more | 20.7 / 47.3 |
# | attention on a grid (`--model attention --grid 7`) | 17 | 20.1 / 49.0 |
# | after that, the end of its encoder learns, too (`--finetune_encoder 2`) | 30 more | 20.6 / 51.9 |
# | after that, self-critical training | 12 more | 22.6 / 55.5 |
# | four such models vote (`--ensemble`) | | 23.3 / 57.4 |
#
# People have 21.8 / 83.0 ([docs/results-shapes.md](../docs/results-shapes.md)): each reference against the other four. The
# models have five references, which raises BLEU-4: with three, attention loses 4.7 points
# ([why](../docs/why-your-bleu-differs.md)). So BLEU-4 cannot tell the ensemble from people; CIDEr-D puts it far below.
#
# [docs/photos.md](../docs/photos.md) has the commands, and a page for your browser where you drop a photo and see where
# the model looks.
#
# ## What you have now
#
# * The way from a folder of photos to a caption: prepare, look at ten pairs, train, caption.
# * A model has only the words of its captions and what its encoder gives it. Neither its probability nor a distance tells
#   reliably when it is wrong.
# * One number, the spread, finds a frequent cause of one caption for every photo.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/14_your_own_photo.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · How sure, in one line
#
# `log_probabilities` holds, for each caption (a row), the natural logarithms of its words' probabilities, and
# 0 after its end, as `word_log_probabilities` gives them. Return for each caption the geometric mean of its
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
# **Sources.** M. Hodosh, P. Young and J. Hockenmaier, *Framing image description as a ranking task*, JAIR 47 (2013). D.
# Hendrycks and K. Gimpel, *A baseline for detecting misclassified and out-of-distribution examples in neural networks*,
# ICLR 2017. A. Rohrbach, L. A. Hendricks, K. Burns, T. Darrell and K. Saenko, *Object hallucination in image captioning*,
# EMNLP 2018. The portrait is of Grace Hopper, by the U.S. Navy.
#
# **Next:** your own photos. **Deeper, if you like:**
# [lesson 14b](14b_the_same_caption_for_every_photo.ipynb).
