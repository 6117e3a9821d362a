# %% [markdown]
# # 1 · The task and the data
#
# **The question.** A captioner takes a picture and says a sentence. What goes into it, what comes out, and in
# which numbers? And how would we know that it works, instead of only seeming to?
#
# You turn captions into numbers and back, look at pictures as a network sees them, do a principal component
# analysis by hand, build a captioner that learns nothing and beats one of those that learn, and then make it
# look far better than it is, by a mistake of one line.
#
# *Before: Python, NumPy, and the idea of a derivative. About 50 minutes; all cells together run in under half a
# minute.*

# %% tags=["setup"]
from collections import Counter
from itertools import pairwise

import h5py
import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import (
    SPECIAL_WORDS,
    build_vocabulary,
    decode_captions,
    encode_captions,
    image_path,
    minibatches,
    picture_paths,
    sample_coco_minibatch,
)
from core.decoding import beam_search
from core.encoders import fixed_cnn
from core.encoders.pca import fit_pca
from core.image_utils import load_image
from core.lessons import compare, confirm, show_source
from core.metrics import bleu
from core.models import CaptioningRNN
from core.shapes import caption_is_true, describe, load_scenes

lessons.style()

# %% [markdown]
# ## A picture, and what can be said of it
#
# The pictures of these lessons are drawn by the project itself: one to three coloured shapes on 64 x 64 pixels, each
# with five captions. (The first call draws them, once, in about half a minute more.) Nothing has to be downloaded,
# and one thing is possible that no collection of photos allows: because we know what was drawn, a program can tell
# whether a caption is **true**.

# %%
data = lessons.embedded_data("rnn")
idx_to_word, word_to_idx = data["idx_to_word"], data["word_to_idx"]
folder = data["source"]["folder"]
splits = "train", "val"
scenes = {split: load_scenes(folder, split) for split in splits}
sentences = {
    split: decode_captions(data[f"{split}_captions"], idx_to_word) for split in splits
}


def show_picture(ax, split, image, title):
    ax.imshow(load_image(image_path(data, split, image)), interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.axis("off")


_, axes = plt.subplots(1, 3, figsize=(10, 4))
for ax, image in zip(axes, (0, 1, 4), strict=True):
    show_picture(ax, "val", image, f"val picture {image}")
    rows = np.flatnonzero(data["val_image_idxs"] == image)
    said = "\n".join(sentences["val"][row] for row in rows)
    ax.text(0.5, -0.05, said, ha="center", va="top", fontsize=8, transform=ax.transAxes)
plt.show()

# %% [markdown]
# Five sentences for one picture, and all of them right: they name the same things in another order, mention the
# size or leave it out, say where a shape stands or what it stands beside. There is no such thing as *the*
# caption. We come back to what that costs.
#
# `caption_is_true` reads a sentence back with the grammar that made it and compares everything that it claims
# with what was drawn:

# %%
show_source(caption_is_true)

# %%
first = scenes["val"][1]
for shape in first:
    print(f"drawn: a {shape.size} {shape.colour} {shape.kind}")
for sentence in (
    "a yellow circle above a yellow triangle",
    "a yellow triangle above a yellow circle",
    "the picture shows a yellow circle",
    "a red circle above a yellow triangle",
    "yellow circle triangle a above",
):
    print(f"{sentence:<42}{caption_is_true(sentence, first)}")

true = [
    caption_is_true(sentence, scenes["train"][image])
    for sentence, image in zip(sentences["train"], data["train_image_idxs"], strict=True)
]
print(f"true of their picture: {np.mean(true):.0%} of {len(true):,} training captions")
assert all(true)

# %% [markdown]
# Note the third sentence. It is true and leaves half of the picture out. *True* is a strict measure of what is
# said, and no measure at all of what is not. Keep that in mind: it will matter again.
#
# ## Words to numbers, by hand
#
# A network computes with numbers, so each word gets one. Take four captions for training and one that is held
# out:

# %%
training = ["a red circle", "a red square", "there is a red circle", "a small circle"]
held_out = "a blue circle"

counts = Counter(word for caption in training for word in caption.split())
ranked = sorted(counts, key=lambda word: (-counts[word], word))
print("counted:", *(f"{word} {counts[word]}" for word in ranked), sep="  ")

# %% [markdown]
# Frequent words come first, equally frequent ones in alphabetical order, so that the same captions always give
# the same numbers. Before them stand four **special words**:
#
# | id | word | what for |
# | --- | --- | --- |
# | 0 | `<NULL>` | fills the row up behind a short caption: *padding* |
# | 1 | `<START>` | is read before the first word, when nothing has been said yet |
# | 2 | `<END>` | is said after the last word: how a model stops |
# | 3 | `<UNK>` | stands for a word that is not in the vocabulary |
#
# A **token** is a word by its id. To encode a caption is to frame it, look every word up, and pad it to a
# common length $T$, so that captions fit in the rows of one array.

# %%
tiny_words = ["<NULL>", "<START>", "<END>", "<UNK>", *ranked]
tiny_ids = {word: i for i, word in enumerate(tiny_words)}
print("vocabulary:", *(f"{i} {word}" for i, word in enumerate(tiny_words)), sep="  ")


def encode_by_hand(caption, length):
    ids = [tiny_ids["<START>"]]
    for word in caption.split():
        ids.append(tiny_ids.get(word, tiny_ids["<UNK>"]))
    ids.append(tiny_ids["<END>"])
    return ids + [tiny_ids["<NULL>"]] * (length - len(ids))


by_hand = np.array([encode_by_hand(caption, 7) for caption in [*training, held_out]])
for caption, row in zip([*training, held_out], by_hand, strict=True):
    print(f"{caption:<24}{row}")

# %% [markdown]
# The held-out caption meets a word that training never saw: "blue" becomes 3, `<UNK>`, and nothing brings it
# back. Decoding looks the words up, drops `<START>` and `<NULL>`, and stops at `<END>`. The same in `core`:

# %%
show_source(build_vocabulary, encode_captions, decode_captions)

# %%
split_up = [caption.split() for caption in [*training, held_out]]
assert build_vocabulary(split_up[:4]) == tiny_words
assert np.array_equal(encode_captions(split_up, tiny_ids, 7), by_hand)
decoded = decode_captions(by_hand, tiny_words)
for caption, back in zip([*training, held_out], decoded, strict=True):
    verdict = "the same" if back == caption else "something was lost"
    print(f"{caption:<24}{back:<24}{verdict}")

# %% [markdown]
# `min_count=2` would keep the words that occur at least twice and turn the others into `<UNK>`. With real
# captions that is usual: most words of a language are rare, and a vector that is trained on one example is
# trained on nothing. Our grammar has 37 words, all of them frequent; with the special words $V = 41$:

# %%
assert tuple(idx_to_word[:4]) == SPECIAL_WORDS
training_words = [sentence.split() for sentence in sentences["train"]]
assert build_vocabulary(training_words) == idx_to_word
counts = Counter(word for words in training_words for word in words)
rarest = {word: counts[word] for word in idx_to_word[-3:]}
print(len(idx_to_word), "words; the rarest:", rarest)
round_trip = encode_captions(training_words, word_to_idx, data["train_captions"].shape[1])
assert np.array_equal(round_trip, data["train_captions"])  # encoding undoes decoding

# %% [markdown]
# ## What the model reads, and what it must say
#
# A captioner writes one word after the other. At each step it reads the word before and must say the next one.
# So one row of ids serves twice, shifted by one: it reads `captions[:, :-1]` and must say `captions[:, 1:]`.

# %%
row = encode_captions([["a", "red", "circle"]], tiny_ids, 7)[0]
print(f"{'reads':<10}{'must say':<10}counts")
for read, say in pairwise(row):
    print(f"{tiny_words[read]:<10}{tiny_words[say]:<10}{'yes' if say != 0 else 'no'}")

# %% [markdown]
# What must be said after `<END>` is padding and must not count, neither in the loss nor in a mean. A caption
# of nine words asks for ten: the words and `<END>`. A mask, `captions[:, 1:] != 0`, says where; from
# [lesson 3](03_affine_embedding_softmax.ipynb) on every loss has one.
#
# ## The folder
#
# Captions, vocabulary and features lie in files of a layout that many courses and papers share, that of the
# *coco_captioning* archive:

# %%
for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.txt")):
    print(path.name)
for path in sorted(folder.glob("*.h5")):
    print(path.name)
    with h5py.File(path) as file:
        for name in file:
            print(f"    {name:<20}{file[name].shape!s:<18}{file[name].dtype}")

# %% [markdown]
# In each split there are $n$ pictures and $M$ captions, five times as many. Row $m$ of `captions` describes
# picture `image_idxs[m]`; row $i$ of the features, and line $i$ of the list of pictures, belong to picture $i$.
# That one array of indices is all that ties a sentence to what it speaks of. If it were off by one, training
# would still run, and a loss would still fall.
#
# The pictures themselves are not read while a model trains. Something looked at them once, an **encoder**, and
# wrote down what it saw: the *features*. For photos that is a network trained on millions of them; for our
# shapes it is a small one whose filters are written down ([lesson 12](12_the_encoder.ipynb)).
#
# There are three **splits**. *train* is learned from. *val* is looked at while choosing (how wide a layer, when
# to stop), and for that reason flatters a little in the end. *test* is for the final figure, once.

# %%
for split in ("train", "val", "test"):
    captions, idxs = data[f"{split}_captions"], data[f"{split}_image_idxs"]
    M, T = captions.shape
    n = len(data[f"{split}_features"])
    print(f"{split:<6} pictures n = {n:>5}   captions M = {M:>6}   length T = {T}")
    assert np.array_equal(np.bincount(idxs), np.full(n, 5))

# %% [markdown]
# ## How long is a caption?
#
# $T$ is the longest caption with its frame. Most are shorter.

# %%
lengths = {s: np.array([len(c.split()) for c in sentences[s]]) for s in splits}
bins = np.arange(3, 17)

_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
for split, offset in (("train", -0.2), ("val", 0.2)):
    share = np.bincount(lengths[split], minlength=17)[3:17] / len(lengths[split])
    left.bar(bins + offset, share, width=0.4, label=split)
left.set(xlabel="words in a caption", ylabel="share of the captions", xticks=bins[::2])
left.legend()
right.imshow(data["train_captions"][:40] == 0, cmap="Greys", aspect="auto", vmax=2)
right.set(
    xlabel="position in the row", ylabel="caption", title="padding (grey) of 40 captions"
)
right.grid(False)
plt.show()

train = lengths["train"]
print(f"words: {train.mean():.1f} in the mean, deviation {train.std():.1f},", end=" ")
print(f"from {train.min()} to {train.max()}")
print(f"padding: {np.mean(data['train_captions'] == 0):.0%} of the array")
assert 2 + train.max() == data["train_captions"].shape[1]
assert abs(lengths["val"].mean() - train.mean()) < 0.3  # both splits are drawn alike

# %% [markdown]
# A third of the array is padding. Computing with it is waste, counting it is wrong. How wrong? Let a model be
# right about nothing but padding, which is easy, and take the mean over all positions:

# %%
targets = data["val_captions"][:, 1:]
print(f"always <NULL>: right at {np.mean(targets == 0):.0%} of all positions,", end=" ")
print(f"at {np.mean(targets[targets != 0] == 0):.0%} of those that count")
assert np.mean(targets == 0) > 0.3

# %% [markdown]
# ## Why several captions?
#
# Two people describe a photo in different words, and both are right. The grammar of our captions does the same.
# Draw one more true caption for each val picture, as a sixth person might give it, and compare it with what
# stands there:

# %%
rng = np.random.default_rng(1)
sixth = [describe(scene, rng, 1)[0] for scene in scenes["val"]]
assert all(caption_is_true(c, scene) for c, scene in zip(sixth, scenes["val"], strict=True))
by_picture = np.array(sentences["val"]).reshape(-1, 5)
assert np.array_equal(data["val_image_idxs"], np.repeat(np.arange(len(by_picture)), 5))
first = np.mean(by_picture[:, 0] == sixth)
any_of_five = np.mean(
    [c in five for c, five in zip(sixth, by_picture.tolist(), strict=True)]
)
print(f"all are true; equal to the first reference: {first:.0%}, to any: {any_of_five:.0%}")
assert first < 0.1 and any_of_five < 0.3

# %% [markdown]
# *The same words* is no way to judge a caption. Scores such as BLEU-4, the share of runs of up to four words
# that also stand in a reference (built in [lesson 13](13_is_it_any_good.ipynb)), are kinder, and they depend on
# how many references there are:

# %%
candidates = {i: caption.split() for i, caption in enumerate(sixth)}
references = {i: [r.split() for r in five] for i, five in enumerate(by_picture)}
scores = [
    bleu(candidates, {i: five[:k] for i, five in references.items()}) for k in range(1, 6)
]
bleu4 = [score["BLEU-4"] for score in scores]
plt.plot(range(1, 6), bleu4, "o-")
plt.gca().set(
    xlabel="references a picture", ylabel="BLEU-4", xticks=range(1, 6), ylim=(0, 100),
    title="Captions that are all true, scored",
)  # fmt: skip
plt.show()
print("BLEU-4:", ", ".join(f"{score:.0f}" for score in bleu4))
assert all(a < b for a, b in pairwise(bleu4)) and bleu4[-1] < 85

# %% [markdown]
# The captions never changed, and the score doubled. So a score says nothing without the number of references,
# and the best possible captioner does not reach 100. For training, several captions a picture have another use:
# they show the model which words are bound to the picture and which are a matter of taste.
#
# ## Two kinds of features
#
# What the encoder wrote down comes in two forms:
#
# | | shape of a picture | who reads it |
# | --- | --- | --- |
# | **pooled** | $(D,)$, one vector | the RNN and the LSTM, once, before the first word |
# | **grid** | $(L, C)$, a vector for each of $L$ places | attention and the Transformer, at every word |
#
# To **pool** is to make one number of many: their mean, or the largest. The networks of
# [lesson 12](12_the_encoder.ipynb) pool a channel over all places by its mean, and lose *where* it was strong. Our
# encoder goes a little further. For each of its 35 channels it keeps 19 numbers: the largest value in all; the
# largest from the top down to each of the 8 rows, and from the left to each of the 8 columns; and how far below and
# right of the middle of all shapes the channel is strongest. That makes $35 \cdot 19 = 665$ numbers per picture, in
# which some of the *where* is left. `core` stores 512 of them, after a step that comes below.
#
# Here $D = 512$, $L = 64$ (8 x 8 places) and $C = 40$. The grid knows *where*: its row tells the place. How far
# does each place of a picture differ from what is usual there?

# %%
grid_data = lessons.embedded_data("attention")
grid = np.asarray(grid_data["val_features"])
print("pooled:", data["val_features"].shape, " grid:", grid.shape)
photo = load_image(image_path(data, "val", 0))
raw = fixed_cnn.filter_outputs(photo[None])["strips"]
print("the encoder's own vector:", raw.shape)
assert raw.shape == (1, 35 * 19) and data["val_features"].shape[1] == 512
usual = np.asarray(grid_data["train_features"][:1000]).mean(axis=0)
unusual = np.linalg.norm(grid - usual, axis=2)  # (pictures, L)

_, axes = plt.subplots(1, 4, figsize=(10, 2.7))
for (left, right), image in zip((axes[:2], axes[2:]), (1, 4), strict=True):
    show_picture(left, "val", image, f"val picture {image}")
    right.imshow(unusual[image].reshape(8, 8), cmap="Blues")
    right.set_title("its 8 x 8 places,\ndistance from the usual", fontsize=9)
    right.axis("off")
plt.show()


# %%
def stands_in_a_shape(cell, scene, margin=4):
    """Whether the centre of a cell (8 pixels wide) lies in the box of a shape, or close to it."""
    x, y = 8 * (cell % 8) + 4, 8 * (cell // 8) + 4
    return any(
        left - margin <= x <= right + margin and top - margin <= y <= bottom + margin
        for left, top, right, bottom in (shape.box for shape in scene)
    )


strongest = unusual.argmax(axis=1)
hits = np.mean([stands_in_a_shape(*p) for p in zip(strongest, scenes["val"], strict=True)])
print(f"the most unusual place holds a shape: {hits:.0%} of {len(grid)} pictures")
assert hits > 0.95

# %% [markdown]
# ## What do the features see?
#
# A direct way to ask: which training pictures does a picture resemble? Close in features should mean alike in
# what one would *say*. The squared distance of two vectors is
#
# $$ \lVert a - b \rVert^2 = \lVert a \rVert^2 - 2\, a \cdot b + \lVert b \rVert^2 $$
#
# For one query $a$ the first term is the same for all $b$ and may be left out; the middle one is a matrix
# product for all pairs at once. A test by hand: the squared distances of $(1, 1)$ to the three points below are
# 2, 5 and 10, those of $(0, 3)$ are 9, 18 and 1.


# %%
def distances(queries, store):
    """(n, D) and (m, D) -> (n, m) squared distances, less the query's own square."""
    return (store**2).sum(axis=1) - 2 * queries @ store.T


def nearest(queries, store):
    """For each query the row of the store that is closest."""
    return distances(queries, store).argmin(axis=1)


three = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
two = np.array([[1.0, 1.0], [0.0, 3.0]])
print(distances(two, three) + (two**2).sum(axis=1, keepdims=True))
assert nearest(two, three).tolist() == [0, 2]

# %% [markdown]
# Now pictures. Each is described in four ways: by its pixels, by the mean of its grid over the places, by its
# whole grid, and by its pooled vector. The first 2,000 training pictures are enough to see the point.

# %% tags=["picture"]
STORED = 2000


def described(split):
    """The pictures of a split by kind of description, each (n, D)."""
    grid = np.asarray(grid_data[f"{split}_features"][:STORED])
    kinds = {
        "pixels": np.stack(
            [load_image(path) for path in picture_paths(data, split)[:STORED]]
        ),
        "mean of the grid": grid.mean(axis=1),
        "grid": grid,
        "pooled": np.asarray(data[f"{split}_features"][:STORED]),
    }
    return {kind: x.reshape(len(x), -1).astype(np.float32) for kind, x in kinds.items()}


store, queries = described("train"), described("val")

query = 4
_, axes = plt.subplots(2, 4, figsize=(8, 4.4))
for row, kind in zip(axes, ("pixels", "pooled"), strict=True):
    show_picture(row[0], "val", query, f"val picture {query}")
    found = np.argsort(distances(queries[kind][[query]], store[kind])[0])[:3]
    for rank, (ax, image) in enumerate(zip(row[1:], found, strict=True), 1):
        show_picture(ax, "train", image, f"neighbour {rank}, {kind}")
plt.show()


def names(scene):
    return {(shape.colour, shape.kind) for shape in scene}


same = {}
for kind in store:
    found = nearest(queries[kind], store[kind])
    pairs = zip(found, scenes["val"], strict=True)
    same[kind] = np.mean([names(scenes["train"][i]) == names(scene) for i, scene in pairs])
    print(
        f"{kind:<18}the nearest picture holds the same colours and kinds: {same[kind]:.0%}"
    )
assert same["pixels"] < same["grid"] < same["pooled"] < same["mean of the grid"]

# %% [markdown]
# Measured in pixels, a picture is close to another when the same places are dark, whatever shape is there: one
# large circle stands in for a triangle, a circle and a square. The mean of the grid has forgotten where things
# are, and is the best at what they are; the whole grid holds on to the places; the pooled vector has something
# of both. Even so, in half of the cases a shape is missing or another one: look at the second row.
#
# ## Fewer numbers: principal components, by hand
#
# The encoder's own pooled vector has 665 numbers; `core` stores 512. The tool is **principal component analysis**:
# find the directions in which the data vary most, and keep only those. Take four points in the plane, with the
# mean $\mu = (3, 1)$:

# %%
points = np.array([[5.0, 2.0], [4.0, 3.0], [1.0, 0.0], [2.0, -1.0]])  # (n=4, D=2)
mu = points.mean(axis=0)
centred = points - mu
S = centred.T @ centred / len(points)
print("mean", mu)
print("centred\n", centred)
print("covariance S\n", S)

# %% [markdown]
# **The derivation.** Project the $n$ centred points on a direction $w$ of length 1: $z_i = (x_i - \mu) \cdot w$.
# The $z_i$ have mean 0, and their variance is
#
# $$ \frac{1}{n} \sum_{i=1}^n z_i^2 = \frac{1}{n} \sum_{i=1}^n w^T (x_i - \mu)^T (x_i - \mu)\, w = w^T S\, w, \qquad
#    S = \frac{1}{n} \sum_{i=1}^n (x_i - \mu)^T (x_i - \mu) \quad (D, D) $$
#
# with $x_i$ a row and $w$ a column. We look for the largest variance under the condition $w^T w = 1$. With a
# Lagrange multiplier $\lambda$ the derivative must vanish:
#
# $$ \nabla_w \left( w^T S\, w - \lambda\,(w^T w - 1) \right) = 2\,S w - 2\,\lambda w = 0
#    \;\Rightarrow\; S w = \lambda w $$
#
# (the gradient of $w^T S w$ is $2 S w$ because $S$ is symmetric). So $w$ is an eigenvector of $S$, and the
# variance along it is $w^T S w = \lambda\, w^T w = \lambda$: the eigenvalue itself. A symmetric $S$ has $D$
# eigenvectors $w_1, \dots, w_D$ at right angles, $\lambda_1 \ge \dots \ge \lambda_D$. Any direction is
# $w = \sum_k c_k w_k$ with $\sum_k c_k^2 = 1$, and the variance along it is $\sum_k c_k^2 \lambda_k$: never
# more than $\lambda_1$, and for directions at a right angle to $w_1$, where $c_1 = 0$, never more than
# $\lambda_2$. That is why the components are taken in this order. The variances of all columns together are the
# trace of $S$, the sum of its eigenvalues. Of that the first $K$ components keep the share
#
# $$ \frac{\lambda_1 + \dots + \lambda_K}{\lambda_1 + \dots + \lambda_D} $$
#
# On paper: $S = \begin{pmatrix} 2.5 & 2 \\ 2 & 2.5 \end{pmatrix}$ maps $(1, 1)$ to $(4.5, 4.5)$ and $(1, -1)$
# to $(0.5, -0.5)$. The eigenvalues are 4.5 and 0.5; the first component keeps 90 %.

# %%
w = np.array([1.0, 1.0]) / np.sqrt(2)
assert np.allclose(S @ w, 4.5 * w)
z = centred @ w  # one number a point instead of two
back = mu + z[:, None] * w
print("z        ", z)
lost = np.mean(np.sum((points - back) ** 2, axis=1))
print(f"variance  {np.mean(z**2):.2f} of {np.trace(S):.2f}")
print(f"lost      {lost:.2f}, the eigenvalue left out")

angles = np.linspace(0, np.pi, 181)
variances = [u @ S @ u for u in np.stack([np.cos(angles), np.sin(angles)], axis=1)]
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3))
left.scatter(*points.T, zorder=3, label="points")
left.scatter(*back.T, marker="x", zorder=3, label="from z alone")
left.plot(*np.stack([mu - 3.2 * w, mu + 3.2 * w]).T, color="grey", label="direction w")
left.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", ylim=(-2.2, 4.2))
left.legend(fontsize=8, loc="upper left")
right.plot(np.degrees(angles), variances)
right.axvline(45, color="grey", linestyle=":")
right.set(xlabel="direction of w (degrees)", ylabel="variance along w", ylim=(0, 5))
plt.show()
assert abs(np.degrees(angles[np.argmax(variances)]) - 45) < 1.1
assert np.isclose(max(variances), 4.5, atol=0.01)

# %% [markdown]
# No direction does better than 45 degrees. `core` does the same for any number of columns:

# %%
show_source(fit_pca)

# %% [markdown]
# Two details of it. First, with fewer samples than columns, $n < D$, it never builds the $(D, D)$ matrix. Write
# $X$ for the centred rows. If $X X^T u = \lambda u$, an eigenproblem of size $(n, n)$, then multiplying by
# $X^T$ gives $X^T X\,(X^T u) = \lambda\,(X^T u)$: the vector $X^T u$ is an eigenvector of the large matrix with
# the same eigenvalue. Second, all components are divided by *one* number, so that the projected features have a
# mean square of 1: a decoder likes inputs of that size. One common number, not one for each column: that would
# blow the noise of the last components up to the size of the first.

# %%
pca = fit_pca(points, 1)
direction = pca.components[:, 0] / np.linalg.norm(pca.components)
print(f"direction {direction}, keeps {pca.explained:.2f}")
assert np.allclose(pca.explained, 0.9)
assert np.allclose(pca(points)[:, 0], z / np.sqrt(4.5), atol=1e-6)  # mean square 1

x = np.asarray(data["train_features"][:60], np.float64)  # fewer samples than columns
centred = x - x.mean(axis=0)
values, vectors = np.linalg.eigh(centred.T @ centred)  # the large matrix, ascending
ours = fit_pca(x, 3).components
for k in range(3):
    cosine = ours[:, k] @ vectors[:, -1 - k] / np.linalg.norm(ours[:, k])
    assert np.isclose(abs(cosine), 1, atol=1e-5)  # the same direction, up to its sign

# %% [markdown]
# ## A captioner that learns nothing
#
# Now the yardstick. For a new picture find the nearest training picture and say what was said of that. There is
# nothing to train. Devlin and others (2015) showed that on photos this comes surprisingly close to trained
# networks. We score it by truth: of the five captions of the neighbour, how many are true of the *new* picture?

# %%
# Five captions of each training picture.
known = np.array(sentences["train"]).reshape(-1, 5)
assert np.array_equal(data["train_image_idxs"], np.repeat(np.arange(len(known)), 5))


def truth(neighbours, captions=known, scenes=scenes["val"]):
    """Share of the neighbour's captions that are true, for each picture."""
    return np.array(
        [
            np.mean([caption_is_true(caption, scene) for caption in captions[neighbour]])
            for neighbour, scene in zip(neighbours, scenes, strict=True)
        ]
    )


rng = np.random.default_rng(0)
by_chance = truth(rng.integers(STORED, size=len(scenes["val"]))).mean()
print(f"{'a random picture':<26}{by_chance:.0%} of its captions are true")
found = {kind: truth(nearest(queries[kind], store[kind])).mean() for kind in store}
for kind, share in found.items():
    print(f"{'nearest, ' + kind:<26}{share:.0%}")
assert by_chance < 0.05 < found["pixels"] < found["pooled"]
assert found["mean of the grid"] < found["grid"]

# %% [markdown]
# This table says what each description of a picture is worth, before any model: pixels little, features much.
# The mean over the grid loses *where* things are, and with it a good part of what captions speak of.
#
# How many components does it take? Give the captioner the first $K$ of the 512 columns, which are in order of
# their variance, and all 8,000 training pictures:

# %%
x, v = (np.asarray(data[f"{split}_features"], np.float64) for split in splits)
variance = x.var(axis=0)
assert np.all(np.diff(variance) < 1e-6)  # in order
kept = np.cumsum(variance) / variance.sum()
widths = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
by_width = np.array([truth(nearest(v[:, :k], x[:, :k])).mean() for k in widths])

plt.semilogx(range(1, 513), kept, label="share of the variance kept")
plt.semilogx(widths, by_width, "o-", label="captions that are true")
plt.gca().set(xlabel="components K", ylabel="share", ylim=(0, 1.03))
plt.gca().set_xticks(widths, widths)
plt.gca().minorticks_off()
plt.legend()
plt.show()
for k in (16, 64, 128, 512):
    print(f"K = {k:>3}: variance {kept[k - 1]:.0%}, true {by_width[widths.index(k)]:.0%}")
assert kept[63] > 0.8 and by_width[widths.index(64)] < by_width[-1] - 0.05
assert by_width[widths.index(128)] > by_width[-1] - 0.04

# %% [markdown]
# Most of the variance is not most of the meaning: at 64 components 87 % of the variance is there, and 13
# captions in a hundred are no longer true. PCA does not know what a caption will speak of. Beyond 128 nothing
# more is gained, by *this* captioner.
#
# How good is 75 %? Beside it stand three small models that later lessons build, on the same 300 pictures. They
# came with the lessons; these commands made them, in 1, 1.5 and 6 minutes on one core:
#
#     python training.py --model rnn  --hidden_dim 128 --wordvec_dim 64 --out runs/rnn
#     python training.py --model lstm --hidden_dim 128 --wordvec_dim 64 --out runs/lstm
#     python training.py --model attention --hidden_dim 128 --wordvec_dim 64 --attention_dim 64 \
#         --out runs/attention


# %%
def captions_of(name, split, count=300):
    """What a trained model says of the first pictures of a split."""
    model, _ = lessons.load_trained(name)
    features = (grid_data if name == "attention" else data)[f"{split}_features"][:count]
    return decode_captions(
        beam_search(model, features, max_length=20)[0][:, 0], idx_to_word
    )


def true_of(said, scenes):
    return np.array([caption_is_true(*pair) for pair in zip(said, scenes, strict=True)])


neighbours = nearest(v, x)
results = {"nearest picture": truth(neighbours)}
words = {"nearest picture": lengths["train"].reshape(-1, 5)[neighbours].mean()}
for name in ("rnn", "lstm", "attention"):
    said = captions_of(name, "val")
    results[name] = true_of(said, scenes["val"])
    words[name] = np.mean([len(caption.split()) for caption in said])
for name, share in results.items():
    print(f"{name:<18}{share.mean():.0%} true, {words[name]:.1f} words a caption")
baseline = results["nearest picture"].mean()
assert results["rnn"].mean() < baseline < results["attention"].mean()
spread = {name: share.std() / np.sqrt(len(share)) for name, share in results.items()}
print("uncertain by", ", ".join(f"{100 * s:.1f}" for s in spread.values()), "points")
assert 0.020 < spread["nearest picture"] < 0.024 < np.sqrt(0.75 * 0.25 / 300)

# %%
number = np.array([len(scene) for scene in scenes["val"]])  # of shapes
stores, curves = (100, 200, 400, 800, 1600, 3200, 8000), []
for size in stores:
    rows = np.random.default_rng(0).permutation(len(x))[:size]
    share = truth(rows[nearest(v, x[rows])])
    curves.append([share[number == k].mean() for k in (1, 2, 3)])

_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for k in range(3):
    curve = [shares[k] for shares in curves]
    left.semilogx(stores, curve, "o-", label=f"{k + 1} shape" + "s" * (k > 0))
left.set(xlabel="pictures to choose from", ylabel="captions that are true", ylim=(0, 1.03))
left.set_xticks(stores, stores)
left.minorticks_off()
left.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8)
for place, (name, share) in enumerate(results.items()):
    heights = [share[number == k].mean() for k in (1, 2, 3)]
    right.bar(np.arange(3) + 0.2 * (place - 1.5), heights, width=0.2, label=name)
right.set(xlabel="shapes in the picture", xticks=range(3), xticklabels=(1, 2, 3))
right.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8)
plt.show()
assert curves[-1][0] > curves[-1][2] + 0.1  # one shape is easier to have seen than three

# %%
stored = {frozenset(names(scene)) for scene in scenes["train"]}
in_table = np.array([frozenset(names(scene)) in stored for scene in scenes["val"]])
alike = np.array(
    [names(scenes["train"][i]) == names(scenes["val"][q]) for q, i in enumerate(neighbours)]
)
true_share = results["nearest picture"]
print(f"the table holds a picture of the same shapes: {in_table.mean():.0%}")
print("the neighbour is one of them, and its captions are true:")
for k in (1, 2, 3):
    found = alike[number == k].mean()
    print(f"    {k} shapes: {found:>4.0%}, {true_share[number == k].mean():.0%}")
print(f"true with the same shapes {true_share[alike].mean():.0%},", end=" ")
print(f"with others {true_share[~alike].mean():.0%}")
assert in_table.mean() > 0.98 and alike[number == 1].all()
assert alike[number == 3].mean() < 0.15 and true_share[~alike].mean() < 0.55

# %% [markdown]
# A table of 8,000 pictures beats a trained RNN and equals a small LSTM. Had we not measured it, we might have
# been proud of 57 %. But look at the left panel: one shape is easy, two and three are not. Why? It is not that
# the pictures are too new. For 99 % of them the table holds a picture with just these colours and kinds. What
# fails is the **retrieval**: the *nearest* picture is one of those for every picture of one shape, for two thirds of
# those with two, and for one in twelve of those with three. The distance adds up over all numbers, so a shape at the
# same place weighs as much as a shape of the same colour. Where the neighbour has other shapes, half of its
# captions are false. Attention does not look for a whole picture that is alike; it looks at one shape at a time
# ([lesson 8](08_soft_attention.ipynb)).
#
# What the number does not mean. The neighbour's captions are shorter, and a short caption is true more easily
# (exercise 3 measures it); a picture of three shapes is often described by two of them. And 300 pictures leave the
# figure uncertain. A yes or no per picture would be uncertain by $\sqrt{0.75 \cdot 0.25 / 300}$, 2.5 percentage
# points. But the table is scored by the mean over five captions, which varies less: the deviation of the 300
# means, over $\sqrt{300}$, is 2.2 points. And pictures of shapes are not photos: there, neighbours that fit are
# rarer.
#
# The second yardstick is for the *loss*, which these lessons give in nats per token: the mean of $-\ln p$ of the
# right next word. What does a model reach that never looks at the picture, and only counts?


# %%
def next_words(captions):
    """(M, T) -> what is read and what must be said, at the positions that count."""
    counts = captions[:, 1:] != 0
    return captions[:, :-1][counts], captions[:, 1:][counts]


V = len(idx_to_word)
read, say = next_words(data["train_captions"])
alone = np.bincount(say, minlength=V) + 0.1  # a little for what was never seen
after = np.full((V, V), 0.1)  # [word before, word]
np.add.at(after, (read, say), 1)
alone, after = alone / alone.sum(), after / after.sum(axis=1, keepdims=True)

read, say = next_words(data["val_captions"])
untrained = CaptioningRNN(
    word_to_idx, input_dim=512, wordvec_dim=64, hidden_dim=128, rng=np.random.default_rng(0)
)
features = data["val_features"][data["val_image_idxs"]]
# The model's loss is summed over time and averaged over captions.
loss, _ = untrained.loss(features, data["val_captions"])
losses = {
    "an untrained rnn": loss * len(features) / len(say),
    "every word alike: ln V": np.log(V),
    "how frequent is the word?": -np.log(alone[say]).mean(),
    "... after the word before?": -np.log(after[read, say]).mean(),
}
for name in ("rnn", "lstm", "attention"):
    _, history = lessons.load_trained(name)
    losses[f"{name}, trained"] = min(row["val_loss"] for row in history)
for name, loss in losses.items():
    print(f"{name:<28}{loss:.2f} nats per token")
assert all(worse > better for worse, better in pairwise(losses.values()))

# %% [markdown]
# An untrained model knows nothing and starts near $\ln 41 = 3.71$; if yours starts far from it, look for a bug
# before you train. Counting pairs of words gives 1.28 without a single look at a picture: a model that stays
# above that has not even learned which word follows which. And no model will reach 0 on pictures that it has
# not seen, because which of many true captions was written down cannot be known.
#
# ## An epoch: each caption once
#
# Training takes **minibatches** of $N$ captions and goes over the data in **epochs**. The lazy way is to draw
# every batch at random, and to call $M$ draws an epoch when there are $M$ captions. What does that miss? One
# draw leaves a given caption out with probability $1 - 1/M$, and $M$ draws with
#
# $$ \left(1 - \frac{1}{M}\right)^M = e^{\,M \ln(1 - 1/M)} = e^{-1 - \frac{1}{2M} - \dots}
#    \;\longrightarrow\; \frac{1}{e} = 36.8\,\% $$
#
# (as $\ln(1 - \epsilon) = -\epsilon - \epsilon^2/2 - \dots$). How often a caption comes follows, for large $M$,
# Poisson's distribution: $k$ times with probability $1 / (e\, k!)$. Measured with the sampler that the course CS231n
# made customary, whose batches are drawn independently, against a shuffled pass:

# %%
M = len(data["train_captions"])
# The captions' place is taken by their numbers, from 1, so that we see which were drawn.
numbered = data | {"train_captions": np.stack([np.arange(M) + 1, np.ones(M, int)], axis=1)}
rng, size = np.random.default_rng(0), 64
drawn = {
    "drawn": [
        sample_coco_minibatch(numbered, size, "train", rng)[0][:, 0] - 1
        for _ in range(M // size)
    ],
    "shuffled": [
        captions[:, 0] - 1 for captions, _ in minibatches(numbered, "train", size, 0, rng)
    ],
}
times = {name: np.bincount(np.concatenate(b), minlength=M) for name, b in drawn.items()}

_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3))
for place, (name, counts) in enumerate(times.items()):
    share = np.bincount(counts, minlength=6)[:6] / M
    left.bar(np.arange(6) + 0.4 * (place - 0.5), share, width=0.4, label=name)
poisson = np.exp(-1) / np.array([1, 1, 2, 6, 24, 120])
left.plot(np.arange(6) - 0.2, poisson, "ko", markersize=4, label="Poisson")
left.set(xlabel="times in an epoch", ylabel="share of the captions")
left.legend()
for name, batches in drawn.items():
    first_seen = np.full(M, len(batches))
    for step in reversed(range(len(batches))):
        first_seen[batches[step]] = step
    unseen = [np.mean(first_seen > step) for step in range(len(batches))]
    right.plot(np.arange(1, len(batches) + 1) / len(batches), unseen, label=name)
right.set(xlabel="part of the epoch", ylabel="captions not seen yet", ylim=(0, 1))
right.legend()
plt.show()
never = {name: np.mean(counts == 0) for name, counts in times.items()}
print(
    f"never seen in an epoch: drawn {never['drawn']:.1%}, shuffled {never['shuffled']:.1%}"
)
assert abs(never["drawn"] - np.exp(-1)) < 0.01
assert np.all(times["shuffled"] == 1)

# %% [markdown]
# A shuffled pass shows each caption exactly once. That is what `core` trains with. What the number does not
# mean: after ten such epochs of draws only $e^{-10}$ of the captions, two of 40,000, are still unseen, and both
# ways end much alike. But "after one epoch" means two different things, and with few epochs that shows.
#
# ## Leakage: looking better by mistake
#
# A figure on held-out data means something as long as the data are held out. **Leakage** is when something of
# them gets into training. It never raises an error, and it makes every figure better; so nobody looks for it.
# Three kinds, measured.
#
# **Pictures on both sides.** Let a part of the val pictures stand in the table of our captioner as well, as if
# a folder had been copied twice. Asked about a picture that it has stored, it says that picture's own captions.

# %%
val_captions = np.array(sentences["val"]).reshape(-1, 5)
parts, leaky = (0, 0.1, 0.25, 0.5, 0.75, 1), []
for part in parts:
    twice = np.random.default_rng(0).permutation(len(v))[: round(part * len(v))]
    store = np.concatenate([x, v[twice]])
    captions = np.concatenate([known, val_captions[twice]])
    leaky.append(truth(nearest(v, store), captions).mean())
plt.plot(100 * np.array(parts), leaky, "o-")
plt.gca().set(
    xlabel="val pictures that stand in train as well (%)", ylabel="captions that are true",
    ylim=(0.5, 1.03), title="The same captioner",
)  # fmt: skip
plt.show()
for part, share in zip(parts, leaky, strict=True):
    print(f"{part:>5.0%} of val in train: {share:.0%} true")
assert leaky[0] < 0.85 and leaky[-1] > 0.999
assert all(a <= b for a, b in pairwise(leaky))

# %% [markdown]
# **The tempting wrong way: split the rows.** Nobody copies a folder twice. But the captions are a table, and
# tables are split by shuffling rows: one line that every tutorial has, and right wherever rows are independent.
# Here they are not: five rows share a picture.

# %%
rows = np.random.default_rng(0).permutation(M)
held, kept = rows[:1500], rows[1500:]  # looks right: no row is in both
image_of = data["train_image_idxs"]
on_both_sides = np.isin(image_of[held], image_of[kept]).mean()
print(f"held-out captions whose picture is in train as well: {on_both_sides:.1%}")

captions_left = [[] for _ in x]  # to each picture
for row in kept:
    captions_left[image_of[row]].append(sentences["train"][row])
with_captions = np.array([i for i, captions in enumerate(captions_left) if captions])
asked = np.unique(image_of[held])
answers = with_captions[nearest(x[asked], x[with_captions])]
asked_scenes = [scenes["train"][image] for image in asked]
by_rows = truth(answers, captions_left, asked_scenes).mean()
in_train = set(sentences["train"])
verbatim = np.mean([sentence in in_train for sentence in sentences["val"]])
print(f"val captions that occur in train, word for word: {verbatim:.0%}")
print(f"split by rows: {by_rows:.0%} true; split by pictures: {baseline:.0%} true")
assert on_both_sides > 0.99 and by_rows > 0.99 > baseline + 0.1

# %% [markdown]
# A perfect score for a captioner that learned nothing, and not one row on both sides. Why did it look right?
# Because the check that comes to mind, "no row twice", holds. The unit that must not be shared is not the row
# but *what the rows have in common*: here the picture. (And not the sentence: more than half of the val
# captions also occur in train, word for word, for other pictures. That is the grammar, and no leak.) The
# drawing of our pictures goes further and refuses scenes that are *nearly* alike in two splits.
#
# A model that learns profits less than a table, but it does. The three trained models on 300 pictures that they
# were trained on, and on the 300 of val:

# %%
for name in ("rnn", "lstm", "attention"):
    seen = true_of(captions_of(name, "train"), scenes["train"][:300]).mean()
    new = results[name].mean()
    print(f"{name:<12}seen pictures {seen:.0%} true, new pictures {new:.0%}")
    assert seen > new

# %% [markdown]
# **A vocabulary counted over all splits.** It seems harmless: a list of words is no answer. But it hides a
# figure that you need, the share of captions that the model has no words for. Train on few captions, and see
# what the vocabulary of the training captions cannot say:

# %%
amounts, draws = (5, 10, 20, 50, 100, 200), 20
words_of_val = [set(sentence.split()) for sentence in sentences["val"]]


def has_words_for(vocabulary):
    vocabulary = set(vocabulary)
    return np.mean([words <= vocabulary for words in words_of_val])


honest = []
for amount in amounts:
    picked = [
        np.random.default_rng(s).choice(M, amount, replace=False) for s in range(draws)
    ]
    vocabularies = [build_vocabulary([training_words[i] for i in rows]) for rows in picked]
    honest.append(np.mean([has_words_for(vocabulary) for vocabulary in vocabularies]))
all_captions = sentences["train"] + sentences["val"]
claimed = has_words_for(build_vocabulary([sentence.split() for sentence in all_captions]))

plt.semilogx(amounts, honest, "o-", label="vocabulary of the training captions")
plt.semilogx(amounts, [claimed] * len(amounts), "s--", label="vocabulary of all captions")
plt.gca().set(xlabel="training captions", ylabel="val captions it has words for")
plt.gca().set_ylim(0, 1.05)
plt.gca().set_xticks(amounts, amounts)
plt.gca().minorticks_off()
plt.legend()
plt.show()
for amount, share in zip(amounts, honest, strict=True):
    print(
        f"{amount:>4} training captions: words for {share:.0%}; the leaked claim {claimed:.0%}"
    )
assert claimed == 1 and honest[1] < 0.8 and honest[-1] > 0.95

# %% [markdown]
# With ten training captions half of the val captions hold a word that training never showed. The leaked
# vocabulary reports that all is well, while the vectors of those words keep the random numbers that they
# started with. Our grammar is so small that 200 captions hold all words; in a natural language new words never
# end.
#
# **A projection fitted on everything.** Whatever is *fitted*, even without a single caption, belongs to
# training: a mean, a scale, a PCA. With few pictures, fit it with and without the val pictures, and ask how
# much of *their* variance it keeps:


# %%
def variance_kept(pca, x):
    """Share of the variance of x that lies in the directions of a PCA."""
    directions = pca.components / np.linalg.norm(pca.components, axis=0)
    centred = x - pca.mean
    return np.sum((centred @ directions) ** 2) / np.sum(centred**2)


print("training pictures    of train    of val    of val, fitted on val too")
for n in (100, 1000, 8000):
    honest_pca, leaky_pca = fit_pca(x[:n], 40), fit_pca(np.concatenate([x[:n], v]), 40)
    figures = (
        honest_pca.explained, variance_kept(honest_pca, v), variance_kept(leaky_pca, v)
    )  # fmt: skip
    print(f"{n:>17}{figures[0]:>12.0%}{figures[1]:>10.0%}{figures[2]:>15.0%}")
    assert figures[0] > figures[1] and figures[2] > figures[1]

# %% [markdown]
# With 100 pictures the projection keeps nine tenths of what it was fitted on and six tenths of what is new.
# Fitted on the new pictures as well it seems to keep eight. With 8,000 the difference is gone: leaks hurt most
# where data are few, which is where one is most tempted to use them all.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/01_the_task_and_the_data.ipynb); the notebook tells you at
# once whether they hold.

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
# ### Exercise 2 · The share that is kept
#
# Write the share of the variance that the first `k` principal components of `x` $(n, D)$ keep, without
# `fit_pca`. (A singular value decomposition of the centred rows, $X = U \Sigma V^T$, gives
# $X^T X = V \Sigma^2 V^T$: the eigenvalues of the covariance are the squares of the singular values over $n$.)


# %% tags=["exercise"]
def share_kept(x, k):
    ### BEGIN SOLUTION
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    return (singular[:k] ** 2).sum() / (singular**2).sum()
    ### END SOLUTION


some_points = np.random.default_rng(2).standard_normal((50, 6)) * [5, 4, 3, 2, 1, 0.5] + 7
compare(
    share_kept,
    lambda x, k: fit_pca(x, k).explained,
    some_points,
    2,
    also={
        "for one component": (some_points[:9], 1),
        "for all components": (some_points, 6),
    },
    exercise="01.2",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: what the neighbours agree on
#
# One neighbour may be a poor one. Ask more of them, and say the caption that agrees best with all the others
# (Devlin et al. 2015). Write `consensus`: of a list of captions it returns the one whose words have most in
# common with those of the others. A measure that works: $|A \cap B| / \sqrt{|A|\,|B|}$ for the sets of words
# $A$ and $B$ of two captions, summed over all $B$. First it is tried on a few captions that were made up.
#
# Then compare 1 neighbour with 20. More captions are true. Look at the second figure before you rejoice: what
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
# ## What to keep
#
# * Captions become rows of ids: framed, looked up, padded. One row serves twice, shifted by one: what is read,
#   what must be said. Padding must never count.
# * Have a yardstick that needs no learning before you train: here 75 % true captions by copying the nearest
#   picture's, and 1.28 nats per token by counting pairs of words.
# * Most of the variance is not most of the meaning; true is not complete; a score says nothing without the
#   number of references.
# * Hold out what the rows have in common. Everything that is counted or fitted, is counted and fitted on train
#   alone.
# * An epoch shows each caption once; drawn at random, 37 % of them do not come.
#
# **Sources.** X. Chen, H. Fang, T.-Y. Lin, R. Vedantam, S. Gupta, P. Dollár and C. L. Zitnick, *Microsoft COCO
# captions: data collection and evaluation server*, 2015. J. Devlin, S. Gupta, R. Girshick, M. Mitchell and C.
# L. Zitnick, *Exploring nearest neighbor approaches for image captioning*, 2015. K. Pearson, *On lines and
# planes of closest fit to systems of points in space*, Philosophical Magazine 2 (1901). H. Hotelling, *Analysis
# of a complex of statistical variables into principal components*, Journal of Educational Psychology 24 (1933).
# S. Kaufman, S. Rosset, C. Perlich and O. Stitelman, *Leakage in data mining: formulation, detection, and
# avoidance*, ACM Transactions on Knowledge Discovery from Data 6 (2012).
#
# **Next:** [lesson 2, gradients you can trust](02_gradients_you_can_trust.ipynb): what every later lesson
# stands on.
