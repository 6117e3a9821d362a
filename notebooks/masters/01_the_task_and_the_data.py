# %% [markdown]
# # 1 · The task and the data
#
# **The question.** A program looks at a picture and says a sentence about it. What does it get, as numbers? What must
# it give back? And how good is a program that learns nothing at all?
#
# You turn captions into numbers and look at the numbers that describe a picture. Then you build two simple baselines, one
# for the captions and one for the loss, the number that training makes small. They show what a model that learns has to
# beat.
#
# *Before: [Start here](00_start_here.ipynb). About 50 minutes; all cells together run in half a minute. The data are
# drawn on the first run, which takes half a minute more.*

# %% tags=["setup"]
from collections import Counter
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import (
    build_vocabulary,
    decode_captions,
    encode_captions,
    image_path,
    picture_paths,
)
from core.decoding import beam_search
from core.encoders import fixed_cnn
from core.image_utils import load_image
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, confirm, movable, watched
from core.models import CaptioningRNN
from core.shapes import caption_is_true, load_scenes

lessons.style()

# %% tags=["setup", "hide-input"]
# What answers your tasks: for each what is right, and the usual slips with a sentence each.


@watched
def a_row(row, caption, ids, length):
    row = list(row)
    assert not any(isinstance(i, str) for i in row), (
        "the row holds words: look up their ids"
    )
    assert row[:1] == [1], "the row does not begin with <START>"
    assert 2 in row, "<END> is missing: the model would never learn to stop"
    assert len(row) >= length, "the row is too short: fill it with <NULL>"
    unknown = any(word not in ids for word in caption.split())
    assert unknown <= (3 in row), "a word that is not in ids becomes <UNK>, which is 3"
    end = row.index(2)
    assert row[end:] == [2] + [0] * (length - 1 - end), (
        "after <END> there must be <NULL> alone, up to the length"
    )


def encoded(caption, ids, length):
    return encode_captions([caption.split()], ids, length)[0].tolist()


@watched
def three_parts(found, captions):
    assert isinstance(found, tuple) and len(found) == 3, "return three arrays"
    read, say, mask = found
    assert not np.array_equal(read, captions[:, 1:]), "read and say are exchanged"
    assert np.shape(read) != captions.shape, "the last id of a row is never read"
    assert not np.array_equal(mask, captions[:, :-1] != 0), (
        "the mask looks at what is read; it must look at what must be said"
    )


def place_by_place(captions):
    both = np.array([list(pairwise(row)) for row in captions.tolist()])
    return both[:, :, 0], both[:, :, 1], both[:, :, 1] > 0


@watched
def rows_of_it(rows, i, captions, image_idxs):
    assert not np.array_equal(rows, captions[5 * i : 5 * i + 5]), (
        "those are five neighbours; image_idxs says which rows it must be"
    )
    assert not np.array_equal(rows, captions[image_idxs[i]]), (
        "looked up the wrong way: image_idxs goes from a caption to its picture"
    )


def row_by_row(i, captions, image_idxs):
    return np.stack(
        [c for c, owner in zip(captions, image_idxs, strict=True) if owner == i]
    )


@watched
def near_rows(found, queries, store):
    assert not np.array_equal(found, (queries @ store.T).argmax(axis=1)), (
        "that is the largest product; a long vector wins it without being near"
    )
    squares = ((queries[:, None] - store) ** 2).sum(axis=2)
    is_number = np.asarray(found).dtype.kind == "i"
    assert not (is_number and np.array_equal(found, squares.argmax(axis=1))), (
        "that is the farthest row"
    )
    halved = ((store**2).sum(axis=1) - queries @ store.T).argmin(axis=1)
    assert not np.array_equal(found, halved) or np.array_equal(
        halved, squares.argmin(axis=1)
    ), "did the 2 of the middle term get lost?"


def one_by_one(queries, store):
    return np.array([np.linalg.norm(store - query, axis=1).argmin() for query in queries])


SOME_IDS = "<NULL> <START> <END> <UNK> a circle red is small square there".split()
SOME_IDS = {word: i for i, word in enumerate(SOME_IDS)}
SOME_ROWS = np.array([[1, 4, 6, 5, 2, 0, 0], [1, 10, 7, 4, 6, 5, 2]])
SOME_CAPTIONS = np.arange(36).reshape(12, 3)
SOME_OWNERS = np.array([2, 0, 1, 2, 2, 0, 1, 1, 0, 2, 1, 0])
SOME_POINTS = np.random.default_rng(0).standard_normal((26, 3)) * 2 + 1

# %% [markdown]
# ## A picture, and what can be said of it
#
# The project draws its own pictures: one to three coloured shapes on 64 x 64 pixels. Each picture has five captions,
# made from a few fixed sentence patterns (a small *grammar*). Nothing is downloaded.
#
# The *train* pictures are for learning. The *val* pictures are for trying out what was learned. Here are two of them:

# %%
data = lessons.embedded_data("rnn")  # captions, and what an RNN reads of the pictures
idx_to_word, word_to_idx = data["idx_to_word"], data["word_to_idx"]
splits = "train", "val"
# What was drawn, and what is said of it:
scenes = {split: load_scenes(data["source"]["folder"], split) for split in splits}
sentences = {
    split: decode_captions(data[f"{split}_captions"], idx_to_word) for split in splits
}


# %% tags=["hide-input"]
def show_picture(ax, split, image, title):
    ax.imshow(load_image(image_path(data, split, image)), interpolation="nearest")
    ax.set_title(title, fontsize=11)
    ax.axis("off")


_, axes = plt.subplots(1, 2, figsize=(9, 4.2))
for ax, image in zip(axes, (1, 4), strict=True):
    show_picture(ax, "val", image, f"val picture {image}")
    rows = np.flatnonzero(data["val_image_idxs"] == image)
    said = "\n".join(sentences["val"][row] for row in rows)
    ax.text(0.5, -0.05, said, ha="center", va="top", fontsize=10, transform=ax.transAxes)
plt.show()

# %% [markdown]
# Five sentences for one picture, and all five are right. They change the order, mention the size or leave it out. There
# is no such thing as *the* caption. So counting the words that a caption shares with a written one is a poor way to
# judge it ([lesson 1b](01b_pca_epochs_and_leakage.ipynb) measures how poor).
#
# We have a better way. We know what was drawn, so a program can check whether a caption is **true**. The function
# `caption_is_true` reads a sentence and compares every claim in it with the drawing.
#
# **Predict.** Val picture 1 is the left one above. Which of the five sentences in the next cell are true of it?

# %%
picture_1 = scenes["val"][1]
for sentence in (
    "a yellow circle above a yellow triangle",
    "a yellow triangle above a yellow circle",
    "the picture shows a yellow circle",
    "a red circle above a yellow triangle",
    "yellow circle triangle a above",
):
    print(f"{sentence:<42}{caption_is_true(sentence, picture_1)}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first and the third. The third leaves out half of the picture and is still true. So *true* measures what is said,
# and not what is missing. The last one has the right words, but it fits none of our sentence patterns.
#
# </details>

# %% tags=["hide-input"]
assert [caption_is_true(s, picture_1) for s in (
    "a yellow circle above a yellow triangle", "a yellow triangle above a yellow circle",
    "the picture shows a yellow circle", "a red circle above a yellow triangle",
    "yellow circle triangle a above",
)] == [True, False, True, False, False]  # fmt: skip
true = [
    caption_is_true(sentence, scenes["train"][image])
    for sentence, image in zip(sentences["train"], data["train_image_idxs"], strict=True)
]
print(f"true of their picture: {np.mean(true):.0%} of {len(true):,} training captions")
assert all(true)

# %% [markdown]
# ## What goes in, what comes out
#
# A captioner has two parts. The **encoder** looks at the picture once and writes down numbers, the **features**. The
# **decoder** reads the features and says one word after the other. At each step it reads the previous word.

# %% tags=["hide-input"]
sketch = Sketch(9, 2.7)
picture = sketch.box(0.85, 2.35, "picture", "given", width=1.2)
encoder = sketch.box(2.75, 2.35, "encoder", "op", width=1.3)
features = sketch.box(4.65, 2.35, "features", width=1.3)
sketch.arrow(picture, encoder, kind="grey")
sketch.arrow(encoder, features)
words = ["<START>", "a", "red", "circle", "<END>"]
for t in range(4):
    step = sketch.box(1.85 + 1.9 * t, 1.25, "decoder", "op", width=1.2)
    sketch.arrow(features, step)
    sketch.text(step.x - 0.45, 0.25, words[t], BLUE)
    sketch.arrow((step.x - 0.35, 0.42), (step.x - 0.35, 1.04))
    sketch.text(step.x + 0.45, 0.25, words[t + 1], ORANGE)
    sketch.arrow((step.x + 0.35, 1.04), (step.x + 0.35, 0.42), kind="gradient")
sketch.text(0.55, 0.85, "reads", BLUE)
sketch.text(0.55, 0.6, "says", ORANGE)
sketch.show()

# %% [markdown]
# All the decoders in the drawing are the same one, at one step after the other. Some decoders read the features at each
# step, as drawn; others only once, before the first word. How they remember earlier words is a matter for later.
#
# Lessons 3 to 11 build decoders, and [lesson 12](12_the_encoder.ipynb) explains the encoder. Here we look at the two
# ends: the words and the features.
#
# ## Words to numbers, by hand
#
# A network computes with numbers, so each word gets one, its **id**. The list of all words is the **vocabulary**. We
# count the words of four training captions and sort them, the frequent ones first:

# %%
training = ["a red circle", "a red square", "there is a red circle", "a small circle"]
counts = Counter(word for caption in training for word in caption.split())
ranked = sorted(counts, key=lambda word: (-counts[word], word))
tiny_words = ["<NULL>", "<START>", "<END>", "<UNK>", *ranked]
for i, word in enumerate(tiny_words):
    print(f"{i:>3} {word:<10} {counts[word] or ''}")
assert build_vocabulary([caption.split() for caption in training]) == tiny_words

# %% [markdown]
# The first four are **special words**:
#
# | id | word | what it is for |
# | --- | --- | --- |
# | 0 | `<NULL>` | fills up the row after a short caption: **padding** |
# | 1 | `<START>` | is read before the first word, when nothing has been said yet |
# | 2 | `<END>` | is said after the last word: this is how a model stops |
# | 3 | `<UNK>` | replaces a word that is not in the vocabulary |
#
# A word that is written as its id is called a **token**. To encode a caption, put `<START>` and `<END>` around it,
# look up every word, and fill the row with `<NULL>` up to a common length. Then many captions fit into one array.
#
# **Your turn.** Write that, in three or four lines.


# %% tags=["task"]
def encode(caption, ids, length):
    """A sentence -> a list of `length` ids. `ids` is a dict from a word to its id."""
    ### BEGIN SOLUTION
    words = ["<START>", *caption.split(), "<END>"]
    row = [ids.get(word, ids["<UNK>"]) for word in words]
    return row + [ids["<NULL>"]] * (length - len(row))
    ### END SOLUTION


compare(
    a_row(encode), encoded, "there is a red circle", SOME_IDS, 7,
    also={
        "for a short caption": ("a circle", SOME_IDS, 7),
        "for a word that training never saw": ("a blue circle", SOME_IDS, 6),
    },
)  # fmt: skip

# %% [markdown]
# Decoding goes the other way. It looks up the words, leaves out `<START>` and `<NULL>`, and stops at `<END>`.
#
# **Predict.** Training never saw "blue". How does "a blue circle" come back?

# %%
tiny_ids = {word: i for i, word in enumerate(tiny_words)}
for caption in ("there is a red circle", "a blue circle"):
    row = encode_captions([caption.split()], tiny_ids, 7)[0]
    print(f"{caption:<24}{row!s:<26}{decode_captions(row, tiny_words)}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# As "a `<UNK>` circle". The word is lost. A model cannot say a word that is not in its vocabulary.
#
# </details>
#
# Our grammar has 37 words, and all of them are frequent. With the special words the vocabulary has $V = 41$ entries.
# In real captions most words are rare. There `build_vocabulary(..., min_count=5)` keeps a word only if it occurs at
# least five times; the others become `<UNK>`.

# %% tags=["hide-input"]
assert decode_captions(row, tiny_words) == "a <UNK> circle"
training_words = [sentence.split() for sentence in sentences["train"]]
assert build_vocabulary(training_words) == idx_to_word
counts = Counter(word for words in training_words for word in words)
rarest = {word: counts[word] for word in idx_to_word[-3:]}
print(f"V = {len(idx_to_word)}; how often the rarest words occur: {rarest}")
assert len(idx_to_word) == 41 and min(counts.values()) > 1000
round_trip = encode_captions(training_words, word_to_idx, data["train_captions"].shape[1])
assert np.array_equal(round_trip, data["train_captions"])  # encoding undoes decoding

# %% [markdown]
# ## What the model reads, and what it must say
#
# At each step the decoder reads one word and must say the next one. So one row of ids serves twice, shifted by one
# place:

# %% tags=["hide-input"]
sketch = Sketch(9, 2.0)
row = ["<START>", "a", "red", "circle", "<END>", "<NULL>", "<NULL>"]
sketch.text(0.6, 1.4, "reads", BLUE)
sketch.text(0.6, 0.5, "must say", ORANGE)
for t, (read, say) in enumerate(pairwise(row)):
    counts_here = say != "<NULL>"
    top = sketch.box(1.85 + 1.25 * t, 1.4, read, "value" if counts_here else "given", 1.1)
    below = sketch.box(
        1.85 + 1.25 * t, 0.5, say, "gradient" if counts_here else "given", 1.1
    )
    sketch.arrow(top, below, kind="value" if counts_here else "grey")
sketch.show()

# %% [markdown]
# The last two columns are grey. After `<END>` nothing is left to say, so these places must not count, neither in the
# loss nor in any mean. An array of True and False says which places count. It is called a **mask**.
#
# **Your turn.** Cut an array of captions, one row each, into what is read, what must be said, and the mask.


# %% tags=["task"]
def cut(captions):
    """(N, T) ids -> read (N, T-1), say (N, T-1), mask (N, T-1) of True and False."""
    ### BEGIN SOLUTION
    read, say = captions[:, :-1], captions[:, 1:]
    return read, say, say != 0
    ### END SOLUTION


compare(three_parts(cut), place_by_place, SOME_ROWS)

# %% [markdown]
# ## Padding must not count
#
# The captions have different lengths, so a part of the array is padding.

# %% tags=["hide-input"]
lengths = {s: np.array([len(c.split()) for c in sentences[s]]) for s in splits}
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
share = np.bincount(lengths["train"], minlength=16)[3:16] / len(lengths["train"])
left.bar(range(3, 16), share, color=BLUE)
left.set(
    xlabel="words in a caption", ylabel="share of the captions", xticks=range(3, 16, 3)
)
right.imshow(data["train_captions"][:40] == 0, cmap="Greys", aspect="auto", vmax=2)
right.set(xlabel="place in the row", ylabel="caption", title="padding (grey), 40 captions")
right.grid(False)
plt.show()

train = lengths["train"]
print(
    f"words per caption: {train.mean():.1f} on average, from {train.min()} to {train.max()}"
)
print(f"padding: {np.mean(data['train_captions'] == 0):.0%} of the array")
assert 2 + train.max() == data["train_captions"].shape[1]
assert 0.3 < np.mean(data["train_captions"] == 0) < 0.4

# %% [markdown]
# **Predict.** A lazy model always says `<NULL>`. At what share of all places is it right? And at what share of the
# places that count?

# %%
say = data["val_captions"][:, 1:]
print(f"of all places: {np.mean(say == 0):.0%}")
print(f"of those that count: {np.mean(say[say != 0] == 0):.0%}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# 37 % and 0 %. (37 % is a little more than the share of padding above, because `<START>` is never said.) Without the
# mask, a model that says nothing looks right in more than a third of the places. That is why every loss of these lessons
# has a mask (from [lesson 3](03_affine_embedding_softmax.ipynb) on).
#
# </details>

# %% tags=["hide-input"]
assert 0.36 < np.mean(say == 0) < 0.38

# %% [markdown]
# ## The folder
#
# The data are in files, in the layout of the *coco_captioning* archive, which many courses use. Three arrays belong
# together:

# %% tags=["hide-input"]
sketch = Sketch(9, 2.9)
for x, text in ((1.9, "captions"), (4.4, "image_idxs"), (7.3, "features")):
    sketch.text(x, 2.65, text)
for m, owner in enumerate((0, 0, 1, 1, 1)):
    y = 2.2 - 0.45 * m
    caption = sketch.box(1.9, y, f"caption {m}", width=2.2, height=0.38)
    index = sketch.box(4.4, y, f"{owner}", "gradient", width=0.6, height=0.38)
    sketch.arrow(caption, index, kind="grey")
    sketch.arrow(index, (6.2, 1.85 - 1.0 * owner), kind="gradient")
for i in range(2):
    sketch.box(7.3, 1.85 - 1.0 * i, f"picture {i}", width=2.2, height=0.5)
sketch.show()
print("file                  array               shape")
for split in ("train", "val", "test"):
    pictures = data[f"{split}_features"]
    for name in ("captions", "image_idxs"):
        array = data[f"{split}_{name}"]
        print(f"coco2014_captions.h5  {split + '_' + name:<18}  {array.shape}")
    print(f"features of {split:<8}  features            {pictures.shape}")
    assert np.array_equal(
        np.bincount(data[f"{split}_image_idxs"]), np.full(len(pictures), 5)
    )

# %% [markdown]
# Row 7 of `captions` describes the picture whose number is in `image_idxs[7]`. Row $i$ of the features belongs to
# picture $i$. Only `image_idxs` says which sentence belongs to which picture. If it were off by one, training would
# still run, and the loss would still fall: much can be learned from the sentences alone.
#
# **Your turn.** Find all captions of picture `i`, in one line. (The captions of one picture need not be neighbours.)


# %% tags=["task"]
def captions_of_picture(i, captions, image_idxs):
    """The rows of `captions` that describe picture i."""
    ### BEGIN SOLUTION
    return captions[image_idxs == i]
    ### END SOLUTION


compare(
    rows_of_it(captions_of_picture), row_by_row, 1, SOME_CAPTIONS, SOME_OWNERS,
    also={"for another picture": (2, SOME_CAPTIONS, SOME_OWNERS)},
)  # fmt: skip

# %% [markdown]
# There are three **splits**. The model learns from *train*. You look at *val* while you choose settings, so its scores
# become a little too good. *test* is for the final score, once. No picture is in two splits.
#
# ## What the features see
#
# The encoder's features come in two forms:
#
# | | shape for one picture | which decoders of later lessons read it |
# | --- | --- | --- |
# | **pooled** | $(D,)$, one vector | RNN and LSTM, once, before the first word |
# | **grid** | $(L, C)$, one vector for each of $L$ places | attention and Transformer, at every word |
#
# Nobody trained our encoder: its 35 **filters** were written by hand. Each filter looks for one thing, such as a large red
# circle, and gives one number per place: how much of it is there. The grid keeps these numbers place by place.
#
# *To pool* means to turn many numbers into one, for instance into the largest. The pooled vector says for each filter how
# strong it is anywhere, and roughly in which row and column.
#
# Both are then made shorter by a principal component analysis ([lesson 1b](01b_pca_epochs_and_leakage.ipynb)). This
# leaves $D = 512$ numbers for a picture, or $C = 40$ numbers for each of $L = 64$ places (8 x 8).
#
# The grid tells *where* things are. Here is how much each place of a picture differs from what is usual there (dark: a
# lot):

# %% tags=["hide-input"]
grid_data = lessons.embedded_data("attention")
grid = np.asarray(grid_data["val_features"])
print("pooled:", data["val_features"].shape, " grid:", grid.shape)
usual = np.asarray(grid_data["train_features"][:1000]).mean(axis=0)
unusual = np.linalg.norm(grid - usual, axis=2)  # (pictures, L)
_, axes = plt.subplots(1, 4, figsize=(9, 2.6))
for (left, right), image in zip((axes[:2], axes[2:]), (1, 4), strict=True):
    show_picture(left, "val", image, f"val picture {image}")
    right.imshow(unusual[image].reshape(8, 8), cmap="Blues")
    right.set_title("its 64 places", fontsize=11)
    right.axis("off")
plt.show()


def is_in_a_shape(cell, scene, margin=4):
    """Whether the centre of a cell (8 pixels wide) is in the box of a shape, or close to it."""
    x, y = 8 * (cell % 8) + 4, 8 * (cell // 8) + 4
    return any(
        left - margin <= x <= right + margin and top - margin <= y <= bottom + margin
        for left, top, right, bottom in (shape.box for shape in scene)
    )


strongest = unusual.argmax(axis=1)
hits = np.mean([is_in_a_shape(*p) for p in zip(strongest, scenes["val"], strict=True)])
print(f"the most unusual place is at a shape in {hits:.0%} of {len(grid)} pictures")
assert hits > 0.95
picture = load_image(image_path(data, "val", 1))
before_pca = fixed_cnn.filter_outputs(picture[None])  # 12 are for the position
assert before_pca["grid"].shape == (1, 64, 35 + 12)
assert before_pca["strips"].shape == (1, 35 * 19)

# %% [markdown]
# Do similar features mean similar pictures? For a new picture (the *query*), look for the training picture (in the
# *store*) whose features are **nearest**. The squared distance of two vectors is
#
# $$ \lVert a - b \rVert^2 = \lVert a \rVert^2 - 2\, a \cdot b + \lVert b \rVert^2 $$
#
# For one query $a$ the first term is the same for every $b$, so it does not change which one is nearest. The middle
# term, for all pairs, is one matrix product.
#
# **Your turn.** Write it without a loop. A test by hand: of the points (0, 0), (3, 0) and (0, 4), the nearest to (1, 1)
# is number 0, and the nearest to (0, 3) is number 2.


# %% tags=["task"]
def nearest_rows(queries, store):
    """(N, D) and (M, D) -> for each query the number of the nearest row of the store, (N,)."""
    ### BEGIN SOLUTION
    return ((store**2).sum(axis=1) - 2 * queries @ store.T).argmin(axis=1)
    ### END SOLUTION


points = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
compare(
    near_rows(nearest_rows), one_by_one, np.array([[1.0, 1.0], [0.0, 3.0]]), points,
    also={"for larger arrays": (SOME_POINTS[:6], SOME_POINTS[6:])},
)  # fmt: skip


# %% tags=["hide-input"]
def nearest(queries, store):  # what your task asks for, in case it is not written yet
    distances = (store**2).sum(axis=1) - 2 * queries @ store.T
    return distances.argmin(axis=1)


STORED = 2000  # training pictures, enough to see the point


def described(split):
    """Pictures as vectors, by kind of description."""
    places = np.asarray(grid_data[f"{split}_features"][:STORED])
    pixels = np.stack([load_image(path) for path in picture_paths(data, split)[:STORED]])
    pooled = np.asarray(data[f"{split}_features"][:STORED])
    kinds = {"pixels": pixels, "grid": places, "pooled": pooled}
    return {kind: x.reshape(len(x), -1).astype(np.float32) for kind, x in kinds.items()}


def names(scene):
    return {(shape.colour, shape.kind) for shape in scene}


def same_names(neighbours):
    """For each val picture: has its neighbour the same colours and kinds?"""
    pairs = zip(neighbours, scenes["val"], strict=True)
    return np.array([names(scenes["train"][i]) == names(scene) for i, scene in pairs])


# %% [markdown]
# Move the slider: on the left is a new picture; then the nearest of 2,000 training pictures by pixels, and by pooled
# features. The two printed lines say how often the neighbour shows the same colours and kinds, for all 300 val pictures.

# %% tags=["hide-input", "picture"]
store, queries = described("train"), described("val")
closest = {kind: nearest(queries[kind], store[kind]) for kind in store}


def neighbours_of(image):
    _, axes = plt.subplots(1, 3, figsize=(6.6, 2.6))
    show_picture(axes[0], "val", image, "new picture")
    for ax, kind in zip(axes[1:], ("pixels", "pooled"), strict=True):
        show_picture(ax, "train", closest[kind][image], f"nearest, {kind}")


same = {kind: same_names(closest[kind]).mean() for kind in ("pixels", "pooled")}
for kind, share in same.items():
    print(f"the same colours and kinds, nearest by {kind}: {share:.0%}")
assert same["pixels"] < 0.1 and 0.45 < same["pooled"] < 0.53
movable(neighbours_of, {"val_picture": 4}, val_picture=[1, 2, 4, 5, 6, 7, 8, 9, 10, 11])

# %% [markdown]
# By pixels, two pictures are near when most pixels have similar values, whatever shape they belong to. By pooled
# features, about half of the neighbours have the same colours and kinds.
#
# ## A captioner that learns nothing
#
# Now the first baseline. For a new picture, find the nearest training picture and say one of *its* captions. We call
# this captioner **the table**, because it only looks things up. Devlin and others (2015) showed that on photos such a
# table comes surprisingly close to trained networks.
#
# The function `truth` measures, for each new picture, the share of its neighbour's five captions that are true of the
# *new* picture.

# %% tags=["hide-input"]
known = np.array(sentences["train"]).reshape(-1, 5)  # the captions of each picture


def truth(neighbours, captions=known, scenes=scenes["val"]):
    """For each picture the share of its neighbour's captions that are true of it."""
    return np.array(
        [
            np.mean([caption_is_true(caption, scene) for caption in captions[i]])
            for i, scene in zip(neighbours, scenes, strict=True)
        ]
    )


# %% [markdown]
# **Predict.** What share of captions is true if we take a random training picture? The nearest by pixels? The nearest
# by pooled features?

# %%
by_chance = np.random.default_rng(0).integers(STORED, size=len(scenes["val"]))
print(f"random picture         {truth(by_chance).mean():.0%} true")
found = {kind: truth(closest[kind]).mean() for kind in store}
for kind, share in found.items():
    print(f"nearest, {kind:<14}{share:.0%} true")

# %% tags=["hide-input"]
assert np.array_equal(data["train_image_idxs"], np.repeat(np.arange(len(known)), 5))
assert truth(by_chance).mean() < 0.05 < found["pixels"] < found["grid"] < found["pooled"]
assert 0.25 < found["pixels"] < 0.31 and 0.64 < found["pooled"] < 0.70

# %% [markdown]
# <details><summary>Answer</summary>
#
# 1 %, 28 % and 67 %. The better the numbers describe the picture, the better the table, before any model learns. The
# whole grid gives 56 %.
#
# </details>
#
# With all 8,000 training pictures the table becomes better still. We compare it with three small models that later
# lessons build and train. They came with the project ([how they were made](README.md#the-trained-models)).
#
# **Predict.** Which of the three trained models beat the table: `rnn`, `lstm`, `attention`?


# %% tags=["hide-input"]
def captions_of(name, split="val", count=300):
    """What a trained model says of the first pictures of a split."""
    model, _ = lessons.load_trained(name)
    source = grid_data if name == "attention" else data
    ids, _ = beam_search(model, source[f"{split}_features"][:count], max_length=20)
    return decode_captions(ids[:, 0], idx_to_word)


# %%
x, v = (np.asarray(data[f"{split}_features"], np.float64) for split in splits)
table = nearest(v, x)
results = {"table": truth(table)}
said = {name: captions_of(name) for name in ("rnn", "lstm", "attention")}
for name, captions in said.items():
    results[name] = truth(range(300), captions=[[caption] for caption in captions])
for name, share in results.items():
    print(f"{name:<12}{share.mean():.0%} true")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only `attention`, which reads the grid and chooses where to look. The table learned nothing. Yet it beats the trained
# RNN by far and is as good as a small LSTM. Anyone who had not measured the table might have been proud of 57 %.
#
# </details>
#
# **How sure are these shares?** They come from 300 pictures, and 300 other pictures would give slightly other shares. Each
# picture gives one number: the share of its captions that are true. (A model says one caption, so its number is 1 or 0.)
# The **standard error** says how far off the mean of these numbers typically is: their standard deviation, divided by
# $\sqrt{300}$.

# %%
for name, share in results.items():
    error = share.std() / np.sqrt(300)
    print(f"{name:<12}{100 * share.mean():.0f} ± {100 * error:.1f} percentage points")

# %% tags=["hide-input"]
errors = {name: share.std() / np.sqrt(300) for name, share in results.items()}
by_formula = {n: np.sqrt(s.mean() * (1 - s.mean()) / 300) for n, s in results.items()}
for name in ("rnn", "lstm", "attention"):  # a yes or a no: the two agree
    assert np.isclose(errors[name], by_formula[name])
assert 0.021 < errors["table"] < 0.023 and 0.0245 < by_formula["table"] < 0.0255
means = {name: share.mean() for name, share in results.items()}
assert means["rnn"] < means["table"] - 0.1 and means["attention"] > means["table"] + 0.15
assert abs(means["lstm"] - means["table"]) < min(errors.values())  # as good
assert 0.56 < means["rnn"] < 0.58
steps = np.diff(sorted((means["rnn"], means["table"], means["attention"])))
assert min(*steps, means["lstm"] - means["rnn"]) > 5 * max(errors.values())

# %% [markdown]
# The table and the LSTM differ by less than any of the errors, so we cannot tell which is better. The other gaps are more
# than five times as large as any of the errors, so they are real.
#
# <details><summary>Why is the table's error only 2.2, when the LSTM has 2.5 at nearly the same share?</summary>
#
# A number that is 1 with probability $p$, else 0, has the standard deviation $\sqrt{p\,(1-p)}$. For 75 % that makes an
# error of 2.5 percentage points. The table's numbers are means over *five* captions. They vary less than a yes or a no.
#
# </details>
#
# Where does the table fail? Sort the pictures by the number of their shapes:

# %% tags=["hide-input"]
number = np.array([len(scene) for scene in scenes["val"]])  # of shapes
_, ax = plt.subplots(figsize=(7, 3.2))
for place, (name, share) in enumerate(results.items()):
    heights = [share[number == k].mean() for k in (1, 2, 3)]
    colour = (ORANGE, "#BBBBBB", GREY, BLUE)[place]
    ax.bar(np.arange(3) + 0.2 * (place - 1.5), heights, width=0.2, label=name, color=colour)
ax.set(xlabel="shapes in the picture", ylabel="share of true captions", xticks=range(3))
ax.set_xticklabels((1, 2, 3))
ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
plt.show()

stored = {frozenset(names(scene)) for scene in scenes["train"]}
in_table = np.mean([frozenset(names(scene)) in stored for scene in scenes["val"]])
alike = same_names(table)
print(f"a picture with the same colours and kinds is in the table: {in_table:.0%}")
shares = {k: alike[number == k].mean() for k in (1, 2, 3)}
for k, share in shares.items():
    print(f"the nearest one is such a picture, {k} shape{'s' * (k > 1)}: {share:.0%}")
assert in_table > 0.98 and shares[1] == 1 and 0.6 < shares[2] < 0.67 and shares[3] < 0.1
assert 0.45 < results["table"][~alike].mean() < 0.52

# %% [markdown]
# For nearly every new picture the table has one with the same colours and kinds. But the *nearest* one is often another:
# for two shapes in more than a third of the cases, for three nearly always. The distance counts all 512 numbers and cannot
# know which of them matter for the words.
#
# **Think.** With three shapes, only 8 % of the nearest pictures show the right shapes. Yet the table's captions are true
# about as often as with two. How can that be?

# %% tags=["hide-input"]
three = [len(scenes["train"][i]) for i in table[number == 3]]
fewer = np.mean(np.array(three) < 3)
of_three = results["table"][number == 3]
few, full = (of_three[(np.array(three) < 3) == less].mean() for less in (True, False))
print(
    f"3 shapes: {fewer:.0%} of the nearest pictures have fewer; "
    f"{few:.0%} of their captions are true, {full:.0%} of the others"
)
assert few > 2 * full
table_by_number = [results["table"][number == k].mean() for k in (2, 3)]
assert abs(table_by_number[0] - table_by_number[1]) < 0.05 and 0.7 < fewer < 0.8

# %% [markdown]
# <details><summary>Answer</summary>
#
# The neighbour mostly has fewer shapes. Its captions say less, and captions that say less are true more easily (exercise
# 3 measures this).
#
# </details>
#
# A model that learns can do better: look at one shape at a time, and know which numbers matter for which word.
#
# ## A baseline for the loss
#
# At each step a model gives a probability to every word of the vocabulary. Let $p$ be the probability that it gave to
# the word that must be said. The **loss** is the mean of $-\log p$ over all places that count. Smaller is better; 0
# would mean $p = 1$ everywhere. The logarithm is the natural one. The unit is called
# *nats per token*: each place that counts is one token.
#
# **Predict.** An untrained model gives each of the 41 words about the same probability. What is its loss?

# %%
untrained = CaptioningRNN(
    word_to_idx, input_dim=512, wordvec_dim=64, hidden_dim=128, rng=np.random.default_rng(0)
)
features = data["val_features"][data["val_image_idxs"]]
loss, _ = untrained.loss(features, data["val_captions"])  # nats per caption
tokens = np.count_nonzero(data["val_captions"][:, 1:])
losses = {"an untrained rnn": loss * len(features) / tokens, "log 41": np.log(41)}
for name, value in losses.items():
    print(f"{name:<18}{value:.2f} nats per token")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Here $p = 1/41$, so $-\log p = \log 41 = 3.71$. The untrained RNN has small random numbers inside, so it is a little
# off. If a new model of yours starts far from $\log V$, look for a bug before you train.
#
# </details>
#
# How far can we come without looking at a picture? Count in the training captions how often each word follows each
# word. The counts, divided by their sum, are the probabilities of this second baseline:


# %%
def next_words(captions):
    """(N, T) -> what is read and what must be said, where it counts."""
    counts = captions[:, 1:] != 0
    return captions[:, :-1][counts], captions[:, 1:][counts]


read, say = next_words(data["train_captions"])
after = np.full((41, 41), 0.1)  # [word before, word]; 0 would have no log
np.add.at(after, (read, say), 1)  # adds 1 for each pair, as often as it occurs
after /= after.sum(axis=1, keepdims=True)
read, say = next_words(data["val_captions"])
losses["counting pairs"] = -np.log(after[read, say]).mean()

# %% tags=["hide-input"]
for name in ("rnn", "lstm", "attention"):
    _, history = lessons.load_trained(name)
    losses[f"{name}, trained"] = min(row["val_loss"] for row in history)
_, ax = plt.subplots(figsize=(7, 2.8))
colours = [GREY, GREY, ORANGE, BLUE, BLUE, BLUE]
ax.barh(list(losses), list(losses.values()), color=colours)
for place, value in enumerate(losses.values()):
    ax.text(value + 0.05, place, f"{value:.2f}", va="center")
ax.invert_yaxis()
ax.grid(False)
ax.set(xlabel="loss on val captions (nats per token)", xlim=(0, 4.3))
plt.show()
assert list(losses.values()) == sorted(losses.values(), reverse=True)
assert 3.6 < losses["an untrained rnn"] < 3.9 and 1.25 < losses["counting pairs"] < 1.31

# %% [markdown]
# Counting pairs reaches 1.28 without one look at a picture. A model above that has not even learned which word follows
# which. The rest of the way, from 1.28 to about 0.5, is what pictures and longer memory give. No model reaches 0 on new
# pictures: many captions are true, and nobody can know which one was written down.
#
# ## What you have now
#
# * Captions are rows of ids. One row serves twice, shifted by one: what is read, what must be said. Padding never
#   counts.
# * Of the captions that a table copies, 75 % are true. Counting pairs of words gives 1.28 nats per token. Learning must
#   beat both.
# * A true caption need not be complete. A share from 300 pictures is uncertain by 1 to 3 percentage points.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/01_the_task_and_the_data.ipynb); the notebook tells you at once
# whether they hold. Exercise 2 is in [lesson 1b](01b_pca_epochs_and_leakage.ipynb), where it belongs.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · How many words must be said? (one line)
#
# Given rows of ids, framed by `<START>` and `<END>` and padded with the id `null`, return for each caption how
# many words the model must say: those that count in the loss, $(N,)$ integers.


# %% tags=["exercise"]
def words_to_say(captions, null):
    ### BEGIN SOLUTION
    return (captions[:, 1:] != null).sum(axis=1)
    ### END SOLUTION


def by_reading(captions, null):
    """Takes words from the front of each row until the padding begins."""
    counts = []
    for row in captions.tolist():
        said = row[1 : row.index(null)] if null in row else row[1:]
        counts.append(len(said))
    return np.array(counts)


some_captions = lessons.embedded_data("rnn")["val_captions"][:200]
compare(
    words_to_say,
    by_reading,
    some_captions,
    0,
    also={"when <NULL> is not 0": (np.array([[1, 0, 5, 2, 7, 7], [1, 0, 0, 4, 3, 2]]), 7)},
    exercise="01.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: what the neighbours agree on
#
# One neighbour may be a poor one. Ask more of them, and say the caption that agrees best with all the others
# (Devlin et al. 2015). Write `consensus`: of a list of captions it returns the one whose words have most in
# common with those of the others. A measure that works: $|A \cap B| / \sqrt{|A|\,|B|}$ for the sets of words
# $A$ and $B$ of two captions, summed over all $B$. First it is tried on a few captions that were made up.
#
# Then compare 1 neighbour with 20. More captions are true. Look at the second number before you rejoice: what
# is the price?


# %% tags=["exercise"]
def consensus(captions):
    """A list of sentences -> the one that agrees best with all."""
    ### BEGIN SOLUTION
    bags = [set(caption.split()) for caption in captions]
    agreement = [
        sum(len(bag & other) / (len(bag) * len(other)) ** 0.5 for other in bags)
        for bag in bags
    ]
    return captions[int(np.argmax(agreement))]
    ### END SOLUTION


MADE_UP = [
    "nothing at all",
    "there is a small green triangle in the top left corner of this picture",
    "a large red circle above a small green square",
    "a large red circle above a small blue square",
    "a tiny red circle above a small blue square",
    "a large red circle below a big blue box",
    "it is dark here",
    "it is dark here",
    "a cat",
    "no idea",
]
compare(
    consensus,
    lambda captions: MADE_UP[3],  # its neighbours share most of its words
    MADE_UP,
    also={
        "for the same captions the other way round": (MADE_UP[::-1],),
        "for a single caption": ([MADE_UP[3]],),
    },
    exercise="01.3",
)


# %% tags=["exercise"]
def truth_and_words(counts=(1, 20), pictures=150):
    """For each number of neighbours: the share of true captions, and their mean length."""
    data = lessons.embedded_data("rnn")
    scenes = load_scenes(data["source"]["folder"], "val")
    known = decode_captions(data["train_captions"], data["idx_to_word"])
    known = np.array(known).reshape(-1, 5)
    store, new = (np.asarray(data[f"{s}_features"], np.float64) for s in ("train", "val"))
    distance = (store**2).sum(axis=1) - 2 * new[:pictures] @ store.T
    order = np.argsort(distance, axis=1)
    found = {}
    for count in counts:
        said = [consensus(known[near[:count]].ravel().tolist()) for near in order]
        if not all(isinstance(caption, str) for caption in said):
            return None
        true = [caption_is_true(*pair) for pair in zip(said, scenes, strict=False)]
        mean_words = np.mean([len(caption.split()) for caption in said])
        found[count] = round(float(np.mean(true)), 2), round(float(mean_words), 1)
    print("neighbours: (true captions, words in a caption)", found)
    return found


confirm(
    truth_and_words,
    lambda found: found[20][0] > found[1][0] and found[20][1] < found[1][1],
    "more true captions with 20 neighbours than with 1, and shorter ones",
)

# %% [markdown]
# **Sources.** X. Chen, H. Fang, T.-Y. Lin, R. Vedantam, S. Gupta, P. Dollár and C. L. Zitnick, *Microsoft COCO
# captions: data collection and evaluation server*, 2015. J. Devlin, S. Gupta, R. Girshick, M. Mitchell and C. L.
# Zitnick, *Exploring nearest neighbor approaches for image captioning*, 2015.
#
# **Deeper, if you like:** [lesson 1b](01b_pca_epochs_and_leakage.ipynb): why scores need several references, principal
# components, what an epoch is, and four ways to look better by mistake. No lesson needs it.
#
# **Next:** [lesson 2, gradients you can trust](02_gradients_you_can_trust.ipynb).
