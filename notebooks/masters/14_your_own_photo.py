# %% [markdown]
# # 14 · Your own photo
#
# **The question.** You know every layer. What does it take to go from a folder of photos with captions to a caption
# for a photo of your own, and what may you believe of what comes out?
#
# You prepare a folder, meet the errors that a real folder brings, train on it, caption a picture, look at where the
# model looked, show it what it has never seen, and find out why a model says something about everything. At the
# end stand the commands for real photos, a GPU and several machines.
#
# *Before: [lesson 8](08_soft_attention.ipynb) (attention), [lesson 11](11_decoding.ipynb) (beam search) and
# [lesson 12](12_the_encoder.ipynb) (the encoder). About 40 minutes; all cells together run in a minute.*

# %% tags=["setup"]
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.checkpoint import load_checkpoint
from core.coco_utils import decode_captions, image_path
from core.decoding import beam_search, word_log_probabilities
from core.encoders import Extractor
from core.image_utils import load_image, resize_and_crop
from core.lessons import compare, confirm
from core.models import build_model
from core.plots import upsample
from core.run_data import extractor_of
from core.scenes import Shape, render
from core.shapes import caption_is_true, load_scenes

lessons.style()

# %% [markdown]
# ## A folder of photos
#
# All that a captioner needs is a folder of pictures and a file `captions.txt` that says what is in them, one line a
# caption, several for each picture:
#
#     image,caption
#     beach.jpg,two children build a castle of sand
#     beach.jpg,"a castle, made of sand, by the sea"
#
# That is the form in which most people have Flickr8k. Point `PHOTOS` at such a folder of yours. While it is `None`,
# 60 pictures of the [embedded data](01_the_task_and_the_data.ipynb) stand in for it, written to a temporary folder.

# %%
PHOTOS = None  # or "/path/to/your/folder"

work = Path(
    tempfile.mkdtemp()
)  # what this lesson makes lies here, and is removed at the end
data = lessons.embedded_data("attention")


def write_folder(folder, images):
    """Pictures of the embedded data as a photo folder: files, and captions.txt."""
    folder.mkdir()
    lines = []
    for image in images:
        name = f"photo{image:03}.png"
        shutil.copy(image_path(data, "train", image), folder / name)
        of_image = data["train_captions"][data["train_image_idxs"] == image]
        lines += [
            (name, caption) for caption in decode_captions(of_image, data["idx_to_word"])
        ]
    with open(folder / "captions.txt", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *lines])


if PHOTOS is None:
    write_folder(work / "photos", range(60))
else:
    shutil.copytree(PHOTOS, work / "photos")
lines = (work / "photos" / "captions.txt").read_text(encoding="utf-8").splitlines()
print(f"{len(lines) - 1} captions; the file begins")
print("\n".join(lines[:4]))

# %% [markdown]
# ## One photo, step by step
#
# What happens to a photo on its way into the model, by hand. A camera's picture is oblong; the network reads squares
# of one size. `resize_and_crop` takes the square in the middle and scales it. With a picture of $100 \times 60$
# pixels the square has 60 pixels a side and begins $(100 - 60) / 2 = 20$ pixels from the left: two strips of 20
# pixels are never seen.

# %%
oblong = np.full((60, 100, 3), 230, np.uint8)
oblong[20:40, 40:60] = (220, 40, 40)  # a red square in the middle
oblong[20:40, 2:16] = (40, 80, 220)  # a blue bar on the left
seen = resize_and_crop(oblong, 64)

figure, axes = plt.subplots(1, 2, figsize=(6, 2.4))
for ax, picture, title in zip(
    axes, (oblong, seen), ("the photo", "what is seen"), strict=True
):
    ax.imshow(picture)
    ax.set(title=f"{title}, {picture.shape[1]} x {picture.shape[0]}", xticks=[], yticks=[])
    ax.grid(False)
plt.show()

by_hand = (100 - 60) / 2
print(f"the square begins {by_hand:.0f} pixels from the left")
print("blue pixels before:", np.sum(oblong[..., 2] > oblong[..., 0] + 50), end=", ")
print("after:", np.sum(seen[..., 2].astype(int) > seen[..., 0].astype(int) + 50))
assert not np.any(seen[..., 2].astype(int) > seen[..., 0].astype(int) + 50)

# %% [markdown]
# The blue bar is gone, so no caption can speak of it. If what matters stands at the edges of your photos, crop them
# yourself first.
#
# Then the encoder: pixels become a grid of locations. The small CNN of [lesson 12](12_the_encoder.ipynb) makes
# $8 \times 8$ of them. Here it comes with **random** weights, because nothing is downloaded in this lesson: random
# filters still tell colours and edges apart, which is enough to learn a few pictures by heart, and not enough to see.

# %%
extractor = Extractor("tiny_cnn", "grid", "random")
photo = load_image(image_path(data, "train", 0))
grid = extractor([photo])
print("photo", photo.shape, photo.dtype, "-> grid", grid.shape, grid.dtype)
print(f"root mean square of the grid: {np.sqrt((grid**2).mean()):.3f}")
assert grid.shape == (1, 64, 140)
assert abs(np.sqrt((grid**2).mean()) - 1) < 1e-3

# %% [markdown]
# ## Prepare, and what can go wrong
#
# One command does that for a whole folder: it reads the captions, counts the words of the training captions,
# splits, runs the encoder, and writes a data folder of the [layout](01_the_task_and_the_data.ipynb) that all models
# read. Real folders have faults. Each gets one line that names the file and says what to do; here are three, made
# on purpose.


# %%
def run(*command):
    """A command of the project, in the working folder; prints what it said, without paths."""
    environment = {**os.environ, "PYTHONPATH": str(lessons.ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
    )
    said = (result.stdout + result.stderr).replace(str(lessons.ROOT) + os.sep, "")
    return said.replace(str(work) + os.sep, "").strip(), result.returncode


PREPARE = (
    "-m core.flickr8k --encoder tiny_cnn --weights random --grid --pca 0 --min_count 1"
)

faults = {
    "no header": "photo000.png,a red square\n",
    "no such photo": "image,caption\nnowhere.png,a red square\n",
    "not a picture": "image,caption\nphoto000.png,a red square\nnotes.png,a blue circle\n",
}
for name, text in faults.items():
    broken = work / "broken"
    broken.mkdir()
    shutil.copy(image_path(data, "train", 0), broken / "photo000.png")
    (broken / "captions.txt").write_text(text, encoding="utf-8")
    (broken / "notes.png").write_text("not a picture", encoding="utf-8")
    said, code = run(*PREPARE.split(), "--root", "broken", "--out", "broken_out")
    print(f"{name}: exit code {code}\n    {said}")
    shutil.rmtree(broken)
    assert code == 2
    assert "Traceback" not in said

# %%
said, code = run(*PREPARE.split(), "--root", "photos", "--out", "prepared")
print(said)
assert code == 0
for file in sorted((work / "prepared").iterdir()):
    print(f"    {file.name}")
description = json.loads((work / "prepared" / "dataset.json").read_text(encoding="utf-8"))
print("dataset.json says:", ", ".join(description))

# %% [markdown]
# `dataset.json` remembers which encoder looked, with what preprocessing. All that travels on into the checkpoint, so
# that a photo that you caption next year goes through the very same steps; the commonest fault of all,
# [the same caption for every photo](12_the_encoder.ipynb), comes from steps that were not the same.
#
# ## Train
#
# Forty captions by heart, with the hand-written attention model: the first thing to do with any new data. What
# cannot be learned by heart will not be learned at all.

# %%
TRAIN = (
    "--model attention --data prepared --num_samples 40 --num_epochs 120 "
    "--hidden_dim 128 --wordvec_dim 64 --attention_dim 64 --out run"
)
said, code = run(str(lessons.ROOT / "training.py"), *TRAIN.split())
assert code == 0, said
rows = [
    json.loads(line)
    for line in (work / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
]
epochs = [row["epoch"] for row in rows]
plt.plot(epochs, [row["train_loss"] for row in rows], label="training")
plt.plot(epochs, [row["val_loss"] for row in rows], label="held-out photos")
plt.gca().set(xlabel="epoch", ylabel="loss (nats a token)", ylim=(0, None))
plt.legend()
plt.show()
print(
    f"training loss {rows[0]['train_loss']:.1f} -> {rows[-1]['train_loss']:.1f} nats a token"
)
assert rows[-1]["train_loss"] < 0.5 < rows[-1]["val_loss"]

# %% [markdown]
# The training loss goes towards nothing and the other does not, as it must with 40 captions and eyes that see next
# to nothing. That is the picture of learning by heart, and here it is what we wanted to see.
#
# ## Caption
#
# `inference.py` takes photos of any size and kind. `--n_best 3` shows the three best captions of the beam and their
# scores, the mean log-probability of a word ([lesson 11](11_decoding.ipynb)):

# %%
checkpoint = load_checkpoint(work / "run" / "best.npz")
learned = build_model(
    checkpoint.model, checkpoint.config, checkpoint.idx_to_word, checkpoint.params
)
if PHOTOS is None:
    said, code = run(
        str(lessons.ROOT / "inference.py"), "--checkpoint", "run",
        "--image", "photos/photo003.png", "--n_best", "3",
    )  # fmt: skip
    print(said)
    assert code == 0
print("the checkpoint knows its encoder:", checkpoint.extractor["encoder"])

# %% [markdown]
# How good are such eyes? The stand-in pictures have a great merit: whether a caption is *true* can be decided. We
# compare the run that was just made, on pictures that it has not seen, with the trained run that came with the
# lessons, whose encoder was made to see shapes:
#
#     python training.py --model attention --hidden_dim 128 --wordvec_dim 64 --attention_dim 64 --out runs/attention

# %%
trained, _ = lessons.load_trained("attention")
trained_checkpoint = load_checkpoint(lessons.TRAINED / "attention" / "best.npz")
eyes = extractor_of(trained_checkpoint)
words = data["idx_to_word"]
scenes = load_scenes(data["source"]["folder"], "val")[:60]
pictures = [load_image(image_path(data, "val", i)) for i in range(60)]


def captions_of(model, features, idx_to_word):
    ids, _ = beam_search(model, features, max_length=20)
    return decode_captions(ids[:, 0], idx_to_word)


def share_true(captions):
    return np.mean([caption_is_true(c, s) for c, s in zip(captions, scenes, strict=True)])


by_heart = captions_of(learned, extractor(pictures), checkpoint.idx_to_word)
good = captions_of(trained, eyes(pictures), words)
for name, captions in (("by heart, random encoder", by_heart), ("the trained run", good)):
    distinct = len(set(captions))
    print(
        f"{name:<26} {share_true(captions):4.0%} of 60 captions true, {distinct} different ones"
    )
assert share_true(good) > 0.85
assert PHOTOS is not None or share_true(by_heart) < 0.4

# %% [markdown]
# Both speak fluently. Only one of them sees. *How a caption sounds says nothing about whether it is true.*
#
# ## A photo of yours
#
# Put the path of a photo into `MY_PHOTO`. While it is `None`, a new picture is drawn, one that exists nowhere else. The
# trained run knows coloured shapes and nothing besides; what it will say about your cat is the next section.

# %% tags=["picture"]
MY_PHOTO = None  # or "/path/to/your/photo.jpg"

if MY_PHOTO is None:
    scene = (
        Shape("circle", "red", "large", 20.0, 24.0, 11.0),
        Shape("triangle", "blue", "small", 48.0, 46.0, 6.0),
    )
    mine = render(scene, np.random.default_rng(5))
else:
    scene, mine = None, load_image(MY_PHOTO)


def words_of(model, features, idx_to_word):
    """The best caption: its ids with <START>, its words, and the probability of each."""
    ids, _ = beam_search(model, features, max_length=20)
    length = int(np.argmax(ids[0, 0] == model.end)) + 1
    caption = np.concatenate([[model.start], ids[0, 0, :length]])[None]
    probabilities = np.exp(word_log_probabilities(model, features, caption))[0]
    return caption, [idx_to_word[i] for i in caption[0, 1:]], probabilities


def show_looks(picture, features):
    """The words of a caption, their probabilities, and where the model looked for each."""
    caption, said, probabilities = words_of(trained, features, words)
    maps = trained.attention_weights(features, caption)[0, :, 0]
    shown = resize_and_crop(picture, 64)
    columns = min(len(said), 6)
    rows = -(-len(said) // columns)
    _, axes = plt.subplots(
        rows, columns, figsize=(1.55 * columns, 1.95 * rows), squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, word, p, weights in zip(axes.flat, said, probabilities, maps, strict=False):
        light = 0.2 + 0.8 * upsample(weights, 64)[:, :, None]
        ax.imshow((shown * light).astype(np.uint8))
        ax.set_title(f"{word}\n{p:.2f}", fontsize=9)
    plt.show()
    return " ".join(said[:-1])


said = show_looks(mine, eyes([mine]))
print(said)
if scene is not None:
    print("true of the picture:", caption_is_true(said, scene))
    assert caption_is_true(said, scene)

# %% [markdown]
# Above each picture stand the word and its probability, given the words before; the picture is bright where the model
# looked when it chose the word. The words that name shapes look at them. For the little words the map means little
# ([lesson 8](08_soft_attention.ipynb) has measured what it may mean).
#
# ## What it cannot say
#
# A captioner has the words of its captions, and nothing else. It cannot say "I do not know", for nobody ever wrote
# that under a picture. Show it what it has never seen:


# %%
def ring(rng):
    """A shape that no training picture holds."""
    picture = render((), rng)
    y, x = np.mgrid[:64, :64] - 32
    distance = np.sqrt(x**2 + y**2)
    picture[(distance > 10) & (distance < 20)] = (235, 120, 20)
    return picture


rng = np.random.default_rng(1)
y, x = np.mgrid[:64, :64]
strange = {
    "an orange ring": ring(rng),
    "noise": rng.integers(0, 256, (64, 64, 3)).astype(np.uint8),
    "nothing": render((), rng),
    "a sunset": np.stack([255 - 2 * y, 140 - y, 60 + 2 * y], axis=2)
    .clip(0, 255)
    .astype(np.uint8),
}


def confidence(picture):
    """The mean log-probability of the words of the best caption."""
    _, said, probabilities = words_of(trained, eyes([picture]), words)
    return float(np.log(probabilities).mean()), " ".join(said[:-1])


of_known = np.array([confidence(picture)[0] for picture in pictures])
figure, axes = plt.subplots(1, len(strange), figsize=(10, 2.7))
found = {}
for ax, (name, picture) in zip(axes, strange.items(), strict=True):
    found[name], said = confidence(picture)
    ax.imshow(picture)
    ax.axis("off")
    half = said.split()
    middle = (len(half) + 1) // 2
    ax.set_title(" ".join(half[:middle]) + "\n" + " ".join(half[middle:]), fontsize=8)
    print(f"{name:<15} {said:<48} {np.exp(found[name]):.2f} a word")
plt.show()
print(
    f"\npictures of the kind it knows: {np.exp(np.median(of_known)):.2f} a word, in the median"
)
assert len(found) == 4

# %% [markdown]
# It finds shapes in noise, in a sunset and in nothing at all, and says so in perfect sentences. The numbers on the
# right are the geometric mean of the probabilities of a caption's words: about 0.7 for pictures that it cannot know,
# 0.77 for those that it knows. There is a difference, and nobody who sees one caption would notice it.
#
# The tempting wrong way is to take such a number for the probability that the caption is *right*. We have two models
# and 60 pictures of which we know the truth. The one that learned 40 captions by heart and the one that sees:


# %%
def confidences(model, look, idx_to_word):
    """Of the 60 pictures: the mean probability of a word of each caption."""
    features = look(pictures)
    found = []
    for row in range(len(pictures)):
        _, _, probabilities = words_of(model, features[row : row + 1], idx_to_word)
        found.append(np.exp(np.log(probabilities).mean()))
    return np.array(found)


runs = {
    "by heart": (
        confidences(learned, extractor, checkpoint.idx_to_word),
        share_true(by_heart),
    ),
    "the trained run": (confidences(trained, eyes, words), share_true(good)),
}
for name, (sure, true) in runs.items():
    plt.hist(sure, bins=np.linspace(0, 1, 41), alpha=0.8, label=f"{name}: {true:.0%} true")
plt.gca().set(xlabel="mean probability of a word", ylabel="pictures", xlim=(0, 1))
plt.legend(loc="upper left")
plt.show()
for name, (sure, true) in runs.items():
    print(
        f"{name:<16} {np.median(sure):.2f} a word in the median, {true:.0%} of 60 captions true"
    )
assert PHOTOS is not None or np.median(runs["by heart"][0]) > 0.4

# %% [markdown]
# One model gives its words 0.77 and is always right; the other gives them 0.63, which does not sound very different,
# and is right once in fifteen. Noise got 0.73. Between two pictures of one model, and even more between two models,
# the number tells little of truth: it is about *words*. A model that has learned how sentences go on is sure of the
# next word wherever it looks; one that sees leaves room for "small" or no size at all, for "the picture shows" or
# "there is", all of them true. If you need to know whether a picture is of the kind that the model was trained on, ask
# the features, as the third exercise does, and not the caption.
#
# ## The same caption for every photo
#
# The commonest complaint about captioners. A quick test for yours: caption a hundred photos and count how many
# different sentences there are. When it is a handful, look, in this order, at
#
# 1. **the preprocessing**: the same crop, scale, colour order and normalisation as in training, and evaluation mode
#    ([lesson 12](12_the_encoder.ipynb));
# 2. **the features**: are two photos' features different at all? If their cosine is 1.00 for any two, the encoder sees
#    nothing, or its output is dominated by a constant;
# 3. **the training**: does the loss with the right features beat the loss with the features of *another* photo? If
#    not, the model has learned to ignore the picture;
# 4. **the decoding**: beam search likes what is common. Try greedy and sampling ([lesson 11](11_decoding.ipynb)).
#
# The third test, for the trained run:

# %%
captions, images = data["val_captions"][:300], data["val_image_idxs"][:300]
right = data["val_features"][images]
other = data["val_features"][np.roll(images, 7)]  # those of another picture
tokens = (captions[:, 1:] != trained.null).sum() / len(captions)
losses = {
    "its own picture": trained.evaluate(right, captions) / tokens,
    "another picture": trained.evaluate(other, captions) / tokens,
    "a mean picture": trained.evaluate(
        np.broadcast_to(right.mean(0), right.shape), captions
    )
    / tokens,
}
for name, loss in losses.items():
    print(f"{name:<16} {loss:.2f} nats a token")
assert losses["another picture"] > 2 * losses["its own picture"]

# %% [markdown]
# With another's picture this model does far worse than with its own: it looks, and believes what it sees. A model
# that ignores pictures has three equal numbers here.

# %%
shutil.rmtree(work)

# %% [markdown]
# ## Where to go next
#
# Everything below works with what you have built; none of it is run here. Figures are from the project's
# [README](../README.md) and [results](../docs/results.md).
#
# | what | command | what to expect |
# | --- | --- | --- |
# | eyes that see photos | `python -m core.flickr8k --root PHOTOS --out datasets/mine --encoder squeezenet1_1 --weights download` | 5 MB to fetch; some 40 photos a second on two cores |
# | real photos | `python training.py --model lstm --data datasets/mine --hidden_dim 512 --dropout 0.5` | on Flickr8k, an LSTM in minutes, CIDEr-D about 41 |
# | from pixels | `python training.py --model attention --encoder tiny_cnn` | ten minutes for the embedded pictures, 97 % true |
# | a pretrained encoder, then tuned | `--encoder resnet101 --weights download`, then `--finetune_encoder 2` | a GPU |
# | COCO | `python datasets/fetch_coco.py`, then `--data datasets/coco_captioning` | 1 GB to fetch |
# | a GPU | `--engine torch --device auto` | the same run folder, the same checkpoint |
# | several processes or machines | `torchrun --nproc_per_node 8 training.py ... --engine torch` | trains as one process would |
# | learning from the score | `--objective scst --init RUN` | on Flickr8k up to +5 CIDEr-D |
# | several models, and neighbours | `inference.py --ensemble A B`, `--beam_size 20 --neighbours 16` | on Flickr8k CIDEr-D 55; people reach 83 |
# | a page to show around | `inference.py --report report.html` | each word with its probability and map |
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/14_your_own_photo.ipynb); the notebook tells you at once whether they
# hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · What is cut off (one line)
#
# A photo has `height` and `width` pixels. Which share of its pixels does the square in the middle leave out?


# %% tags=["exercise"]
def share_cut_off(height, width):
    ### BEGIN SOLUTION
    return 1 - min(height, width) / max(height, width)
    ### END SOLUTION


def counted(height, width):
    side = min(height, width)
    return (height * width - side * side) / (height * width)


compare(share_cut_off, counted, 3000, 4000)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · A caption file
#
# Given the text of a `captions.txt`, return a dict: for each photo the list of its captions, in the order of the file.
# Captions may hold commas, and are quoted then (`csv.reader` knows how). Skip the header, and captions that are empty.

# %% tags=["exercise"]
TEXT = """image,caption
beach.jpg,two children build a castle
dog.jpg,"a dog, wet and happy"
beach.jpg,"a castle, made of sand, by the sea"
dog.jpg,
"""


def captions_by_photo(text):
    ### BEGIN SOLUTION
    found = {}
    for name, caption in list(csv.reader(text.splitlines()))[1:]:
        if caption:
            found.setdefault(name, []).append(caption)
    return found
    ### END SOLUTION


def expected(_):
    return {
        "beach.jpg": ["two children build a castle", "a castle, made of sand, by the sea"],
        "dog.jpg": ["a dog, wet and happy"],
    }


compare(captions_by_photo, expected, TEXT)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: "I have not seen anything like this"
#
# Confidence in the words does not tell known pictures from strange ones. Features may. Write `strangeness(grid, seen)`:
# for a picture's grid $(L, C)$ and the grids of pictures that the model was trained on, $(M, L, C)$, a number that is
# larger the less the picture resembles them. It should put noise and a sunset above every one of 20 held-out
# pictures. (An idea: most cells of the pictures that were seen are blank, so the median over them is a blank
# picture. In how large a share of its cells does a picture differ from that? Print some grids first, and look.)


# %% tags=["exercise"]
def strangeness(grid, seen):
    ### BEGIN SOLUTION
    blank = np.median(seen, axis=0)
    return float(np.mean(np.linalg.norm(grid - blank, axis=1) > 0.5))
    ### END SOLUTION


own = lessons.embedded_data("attention")
look = extractor_of(load_checkpoint(lessons.TRAINED / "attention" / "best.npz"))
dice, (rows_, columns_) = np.random.default_rng(3), np.mgrid[:64, :64]
noise = dice.integers(0, 256, (64, 64, 3)).astype(np.uint8)
sunset = np.stack([255 - 2 * rows_, 140 - rows_, 60 + 2 * rows_], axis=2).clip(0, 255)
seen_before = np.asarray(own["train_features"][:200])
of_held_out = [strangeness(grid, seen_before) for grid in own["val_features"][:20]]
of_strange = [
    strangeness(look([p.astype(np.uint8)])[0], seen_before) for p in (noise, sunset)
]
confirm(
    None if None in of_held_out else (max(of_held_out), min(of_strange)),
    lambda found: found[0] < found[1],
    "noise and a sunset stranger than each of 20 held-out pictures",
)

# %% [markdown]
# ## What to keep
#
# * A folder and a caption file are all that is needed; the preprocessing travels with the checkpoint.
# * Learn a few captions by heart first. Then look at held-out photos, and only then scale up.
# * Fluent is not true. Whether the model looks is a measurement: its own picture against another's.
# * A captioner always says something, out of the words that it was taught. Its probabilities are about words, not
#   about truth.
#
# **Sources.** M. Hodosh, P. Young and J. Hockenmaier, *Framing image description as a ranking task: data, models and
# evaluation metrics*, Journal of Artificial Intelligence Research 47 (2013). K. Xu and others, *Show, attend and tell:
# neural image caption generation with visual attention*, ICML 2015. C. Guo, G. Pleiss, Y. Sun and K. Weinberger, *On
# calibration of modern neural networks*, ICML 2017. A. Rohrbach, L. Hendricks, K. Burns, T. Darrell and K. Saenko,
# *Object hallucination in image captioning*, EMNLP 2018.
#
# **This was the last lesson.** You have written, derived and checked every layer from a look-up to a Transformer. Take
# a paper that you like, and build its layer: `python -m core.gradient_check --impl` is waiting for it.
