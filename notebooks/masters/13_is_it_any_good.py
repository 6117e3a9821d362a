# %% [markdown]
# # 13 · Is it any good?
#
# **The question.** Two models have captioned the same pictures. Which is better, and by how much? Papers answer with
# BLEU and CIDEr. What do these numbers count? When do they mislead? And how sure can one be with 300 pictures?
#
# You build BLEU from counts on paper, to the last decimal of the tools that papers use. Then you hold the scores
# against something that photos never have: pictures whose content we **know**, so that each caption is true or false.
#
# *Before: [lesson 11](11_decoding.ipynb) (decoding). About 45 minutes; all cells together run in half a minute.
# [13b](13b_scores_in_detail.ipynb) goes deeper: CIDEr-D in full, ROUGE-L, exposure bias.*

# %% tags=["setup"]
import math
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

from core import lessons, metrics
from core.coco_utils import decode_captions
from core.decoding import beam_search, greedy, sample
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, confirm, movable
from core.metrics import CIDErD, bleu, cider_d
from core.metrics.ptb import ptb_tokenize
from core.scenes import COLOURS
from core.shapes import DEFAULT_FOLDER, caption_is_true, load_scenes

lessons.style()


# What answers the tasks: core's scores, asked in a roundabout way.
def length_in_core(words, references):
    return round(len(words) / bleu({0: words}, {0: references})["length ratio"])


def weight_in_core(word, references):
    return CIDErD(references)._weights[(word,)]


def error_by_copies(x):
    """Of the mean of x: the spread of many means of so many values drawn from x."""
    draws = np.random.default_rng(0).choice(x, size=(200_000, len(x)))
    return float(draws.mean(axis=1).std())


SIX = "a red circle above a square".split()
OF_SIX = ["one two three four five six seven".split(), "one two three four five".split()]
FAR = ["a b c d e f g h i j".split(), "a b c d e f g".split(), "a b".split()]
THREE = {
    1: ["a red circle".split(), "a disc".split()],
    2: ["a blue circle".split(), "a blue disc".split()],
    3: ["a red square".split(), "something red".split()],
}

# %% [markdown]
# ## Counting by hand
#
# For each picture there is a caption to be judged, the **candidate**, and a few that are known to be right, the
# **references**. People write them for photos; a program wrote those of our shapes. Two tiny pictures:

# %%
candidates = {
    "one": "a red circle above a square".split(),
    "two": "there is a blue square at the top".split(),
}
references = {
    "one": [
        "a red circle is above a blue square".split(),
        "there is a red circle over a blue square".split(),
    ],
    "two": [
        "there is a small blue square at the top".split(),
        "a blue square is at the top".split(),
    ],
}

# %% [markdown]
# The simplest question: how many of the candidate's words are in a reference? That ignores their order: "square a above
# circle red a" would do as well. So ask the same of pairs of neighbours, then of runs of three and of four. A run of
# $n$ words is an **$n$-gram**.

# %% tags=["hide-input"]
sketch = Sketch(7.6, 2.1)
words, known = candidates["one"], [" ".join(r) for r in references["one"]]
for i, word in enumerate(words):
    sketch.box(0.9 + 1.16 * i, 1.7, word, "given", 0.95)
for i in range(5):
    pair = " ".join(words[i : i + 2])
    right = any(pair in reference for reference in known)
    box = sketch.box(
        1.48 + 1.16 * i, 0.85, f"{words[i]}\n{words[i + 1]}", "value", 0.95, 0.62
    )
    if not right:
        sketch.box(1.48 + 1.16 * i, 0.85, "", "wrong", 1.0, 0.67)
    sketch.text(
        1.48 + 1.16 * i, 0.3, "right" if right else "in none", BLUE if right else ORANGE
    )
sketch.show()

# %% [markdown]
# All six words are in a reference, and three of the five pairs.
#
# **Predict.** The candidate is "a a a a a a". How many of its six words are in a reference? How many should count?

# %%
in_one = set().union(*references["one"])
print(sum(word in in_one for word in ["a"] * 6), "of 6 words are in a reference")

# %% [markdown]
# <details><summary>Answer</summary>
#
# All six are, so a plain count finds this perfect. Two should count: no reference says "a" more than twice.
#
# </details>
#
# This is **clipping**: an $n$-gram counts at most as often as in *one* reference, the one that has it most often.


# %%
def runs_of(words, n):
    """How often each run of n words occurs."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def clipped(words, references, n):
    """Right n-grams of a candidate, and all of them."""
    counts = runs_of(words, n)
    most = Counter()
    for reference in references:
        most |= runs_of(reference, n)  # of counters, | takes the larger count of each
    return sum((counts & most).values()), sum(counts.values())  # and & the smaller


# %% tags=["hide-input"]
for image, words in candidates.items():
    shares = ["{}/{}".format(*clipped(words, references[image], n)) for n in (1, 2, 3, 4)]
    print(f"{' '.join(words):<36} 1-grams to 4-grams {', '.join(shares)}")
print("'a a a a a a': {}/{}".format(*clipped(["a"] * 6, references["one"], 1)))
assert clipped(["a"] * 6, references["one"], 1) == (2, 6)
assert clipped(candidates["one"], references["one"], 2) == (3, 5)

# %% [markdown]
# ## BLEU
#
# Now the four shares $p_1 \dots p_4$, called *precisions*, become one number for the **corpus**: all captions together.
# Three decisions:
#
# **Average the logarithms.** $(p_1 p_2 p_3 p_4)^{1/4}$ is the geometric mean: its logarithm is the mean of the four
# logarithms. So one per cent more of *any* of the four raises it by a quarter of a per cent. In a plain mean the small
# precisions of longer runs would hardly count. The price: one $p_n = 0$ makes everything 0.
#
# **Penalise short captions.** The caption "a" has $p_1 = 1$. Let $c$ be the number of words in the candidates, and $r$
# that in one reference of each picture: the one closest in length to the candidate; of two equally close ones, the
# shorter. The **brevity penalty** is
#
# $$ \mathrm{BP} = e^{1 - r/c} \;\text{ if } c < r, \qquad 1 \text{ otherwise} $$
#
# A caption that is too long needs no penalty: its extra words lower the precisions.
#
# **Add up before dividing.** Right $n$-grams, all $n$-grams, $c$ and $r$ are summed over all pictures first.
#
# **Task.** Write the length that one picture adds to $r$.


# %% tags=["task"]
def closest(words, references):
    """Lists of words -> the length of the reference that is closest to the candidate's."""
    ### BEGIN SOLUTION
    return min((abs(len(one) - len(words)), len(one)) for one in references)[1]
    ### END SOLUTION


also = {
    "when two are equally close": (SIX, OF_SIX),
    "when the shorter of two comes first": (SIX, OF_SIX[::-1]),
}
compare(closest, length_in_core, SIX, FAR, also=also)

# %% [markdown]
# Now all of BLEU (`length_in_core` returns what your `closest` returns):


# %%
def my_bleu(candidates, references):
    """BLEU-4 of a corpus, 0 to 100; its four precisions and its brevity penalty."""
    totals, c, r = np.zeros((4, 2)), 0, 0  # a row for each n: right n-grams, and all
    for image, words in candidates.items():
        totals += [clipped(words, references[image], n) for n in (1, 2, 3, 4)]
        c, r = c + len(words), r + length_in_core(words, references[image])
    p = totals[:, 0] / totals[:, 1]
    penalty = min(1.0, math.exp(1 - r / c))
    return 100 * penalty * np.prod(p) ** (1 / 4), p, penalty


# %% [markdown]
# **Predict,** with the pencil, for the two tiny pictures together: $p_2$ from the shares above, then $c$, $r$ and the
# penalty.

# %%
score, p, penalty = my_bleu(candidates, references)
print("precisions", p, f"penalty {penalty:.3f}, BLEU-4 {score:.2f}")

# %% tags=["hide-input"]
assert np.isclose(score, bleu(candidates, references)["BLEU-4"], rtol=1e-6)
assert np.allclose(p, [14 / 14, 10 / 12, 6 / 10, 2 / 8]) and math.isclose(
    penalty, math.exp(1 - 15 / 14)
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# $p_2 = (3 + 7) / (5 + 7)$. $c = 6 + 8$, and $r = 8 + 7$: for the second picture 9 and 7 words are equally close to 8,
# so the shorter counts. The penalty is $e^{1 - 15/14}$.
#
# </details>
#
# `core` and the COCO tools find the same BLEU-4.
#
# **Predict.** Candidate and only reference are the same: "a blue circle". What is its BLEU-4?

# %%
alone = {}
for text in ("a blue circle", "a small blue circle"):
    alone[text] = bleu({0: text.split()}, {0: [text.split()]})["BLEU-4"]
    print(f"BLEU-4 {alone[text]:5.1f}   {text}")

# %% tags=["hide-input"]
assert np.allclose(list(alone.values()), (100 * 1e-6 ** (1 / 4), 100))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 3.2. Three words have no run of four, so $p_4$ is 0 of 0. The tools count that as a millionth, of which the fourth
# root is 0.032. BLEU is made for a corpus. A mean of single captions' BLEU is another measure under the same name.
#
# </details>
#
# ## On trained models
#
# Four trained models come with the lessons ([notebooks/README.md](README.md) says how each was trained). Each captions
# the 300 held-out pictures, greedily and with five beams. Each picture has five references. And we know what is in each
# picture, so `caption_is_true` can judge every caption.

# %% tags=["hide-input"]
NAMES = ("rnn", "lstm", "attention", "transformer")
models = {name: lessons.load_trained(name)[0] for name in NAMES}
data, grids = lessons.embedded_data("rnn"), lessons.embedded_data("attention")
idx_to_word, scenes = data["idx_to_word"], load_scenes(DEFAULT_FOLDER, "val")
features = {
    name: np.asarray((grids if models[name].grid else data)["val_features"])
    for name in NAMES
}
written = {i: [] for i in range(len(scenes))}  # the references, as words
for i, caption in zip(
    data["val_image_idxs"], decode_captions(data["val_captions"], idx_to_word), strict=True
):
    written[int(i)].append(caption.split())


def as_words(ids):
    """Word ids, one caption per picture -> {picture: words}."""
    return {
        i: caption.split() for i, caption in enumerate(decode_captions(ids, idx_to_word))
    }


def truths(captions):
    """Which captions are true of their picture: an array of 0 and 1."""
    return np.array(
        [caption_is_true(" ".join(words), scenes[i]) for i, words in captions.items()],
        float,
    )


said = {}
for name, model in models.items():
    said[f"{name}, greedy"] = as_words(greedy(model, features[name], 20))
    said[f"{name}, 5 beams"] = as_words(beam_search(model, features[name], 5, 20)[0][:, 0])

# %% tags=["hide-input"]
print(f"{'':<22}{'p1':>6}{'p2':>6}{'p3':>6}{'p4':>6}{'BP':>6}{'BLEU-4':>8}{'true':>7}")
scores = {}
for name, captions in said.items():
    scores[name], p, penalty = my_bleu(captions, written)
    numbers = "".join(f"{x:6.2f}" for x in (*p, penalty))
    print(f"{name:<22}{numbers}{scores[name]:8.1f}{truths(captions).mean():7.0%}")
    assert np.isclose(scores[name], bleu(captions, written)["BLEU-4"], rtol=1e-6)

# %% tags=["hide-input"]
for name, captions in said.items():
    _, p, _ = my_bleu(captions, written)
    kept = p[1:] / p[:-1]  # of the share that is right, from n to n + 1
    assert np.all(np.diff(kept) < -0.03)  # on a logarithmic axis the points bend down
    if name == "rnn, 5 beams":
        assert np.allclose(kept, (0.82, 0.75, 0.61), atol=0.01)

# %% [markdown]
# Long runs are hard: $p_n$ falls from left to right in every row.
#
# Compare two rows. The LSTM with five beams has a BLEU-4 of 69.9, the attention model decoded greedily 65.2. But 74 %
# of the LSTM's captions are true, and 87 % of the other's. Which of the two is better? We come back to them.
#
# Now see both parts of BLEU at work. The bars belong to captions of the attention model (five beams), each cut after
# eight words.
#
# **Predict.** If they are cut after five words, which falls more: a precision or the penalty? Then move the slider.

# %% tags=["hide-input"]


def cut_after(words_kept):
    """Precisions, penalty and BLEU-4 of captions of which the first words are kept."""
    captions = {i: words[:words_kept] for i, words in said["attention, 5 beams"].items()}
    score, p, penalty = my_bleu(captions, written)
    figure, ax = plt.subplots(figsize=(6, 2.6))
    bars = ax.bar(range(6), [*p, penalty, score / 100], color=[BLUE] * 4 + [GREY, ORANGE])
    ax.bar_label(bars, fmt="%.2f", fontsize=12)
    ax.set_xticks(
        range(6), ["$p_1$", "$p_2$", "$p_3$", "$p_4$", "penalty", "BLEU-4"], fontsize=12
    )
    ax.set(ylim=(0, 1.15), yticks=(0, 0.5, 1))


cuts = {
    k: my_bleu({i: w[:k] for i, w in said["attention, 5 beams"].items()}, written)[1:]
    for k in (5, 8)
}
assert abs(cuts[8][0][0] - cuts[5][0][0]) < 0.05 and abs(cuts[8][1] - cuts[5][1]) > 0.3
assert np.abs(cuts[8][0] - cuts[5][0]).max() < 0.09
movable(cut_after, start={"words_kept": 8}, words_kept=[4, 5, 6, 7, 8, 9, 10, 12, 15])

# %% [markdown]
# <details><summary>Answer</summary>
#
# The penalty, from 0.98 to 0.64. No precision falls by more than 0.09: precisions only ask whether the words that are
# there are right. What is missing costs nothing but the penalty.
#
# </details>
#
# ## CIDEr-D
#
# To BLEU "a" counts as much as "purple". But words that fit *every* picture say nothing about *this* one. CIDEr gives
# each $n$-gram $g$ a weight. It is large if few pictures have $g$ in their references:
#
# $$ w_g = \log \frac{\text{pictures}}{\text{pictures with } g \text{ in a reference}} $$
#
# For each $n$ a caption becomes a vector with an entry count$(g)\, w_g$ for each $n$-gram $g$. CIDEr is the **cosine**
# between this vector and that of a reference (their inner product, divided by both norms), averaged over $n$ from 1 to
# 4 and over the references.
#
# **Task.** Write the weight of a word. Mind: it counts pictures, not captions.


# %% tags=["task"]
def weight(word, references):
    """A word; picture -> its references, lists of words -> the weight of the word."""
    ### BEGIN SOLUTION
    having = sum(any(word in words for words in several) for several in references.values())
    return math.log(len(references) / having)
    ### END SOLUTION


also = {
    "for a word that one reference has": ("square", THREE),
    "for a word of every picture, but not of every reference": ("a", THREE),
}
compare(weight, weight_in_core, "red", THREE, also=also)

# %% [markdown]
# **Predict.** Three pictures have one reference each: "a red circle", "a blue circle" and "a red square". For the
# second picture, which wrong candidate has the better cosine of words: "a blue square" or "a red circle"? Both have
# $p_1 = 2/3$.

# %%
vocabulary = ["a", "red", "circle", "blue", "square"]
pictures_with = np.array([3, 2, 2, 1, 1])
weights = np.log(3 / pictures_with)


def vector(text):
    return weights * [text.split().count(word) for word in vocabulary]


wanted = vector("a blue circle")
for text in ("a blue circle", "a blue square", "a red circle"):
    v = vector(text)
    print(
        f"{text:<14} {v}, cosine {v @ wanted / np.linalg.norm(v) / np.linalg.norm(wanted):.2f}"
    )

# %% [markdown]
# <details><summary>Answer</summary>
#
# "a blue square", 0.66 against 0.24. "blue" is rare and right in it. In "a red circle" only the common "circle" is.
#
# </details>
#
# CIDEr-**D**, the version in use, has two repairs, so that it does not pay to repeat a word that is surely right:
# counts are clipped, and a difference in length costs. Papers print 1,000 times the result, and so do we.
# [13b](13b_scores_in_detail.ipynb) builds CIDEr-D in full. The weights come from the references, so CIDEr depends on
# *which pictures are scored together*.
#
# ## The same captions, other numbers
#
# People write "A man's T-shirt isn't blue." The COCO tools cut that into "a man 's t-shirt is n't blue". If you cut at
# blanks instead, "blue." is another word than "blue", and "There" another than "there". We write our references as
# people do and score the *same* captions of the attention model:

# %% tags=["hide-input"]
ours = said["attention, 5 beams"]
as_people = {
    i: [" ".join(w).capitalize() + "." for w in several] for i, several in written.items()
}
for name, split in (("COCO's tokens", ptb_tokenize), ("cut at blanks", str.split)):
    now = {i: [split(text) for text in several] for i, several in as_people.items()}
    print(
        f"{name:<22} BLEU-4 {bleu(ours, now)['BLEU-4']:.1f}   CIDEr-D {cider_d(ours, now):.1f}"
    )
one = {i: several[:1] for i, several in written.items()}
print(f"{'one reference of five':<22} BLEU-4 {bleu(ours, one)['BLEU-4']:.1f}")
assert bleu(ours, now)["BLEU-4"] < 60 and bleu(ours, one)["BLEU-4"] < 40

# %% [markdown]
# Nothing about the model has changed. Before you compare two scores, ask for tokens, number of references, decoder and
# pictures. [Why your BLEU differs](../docs/why-your-bleu-differs.md) has a table for real photos.
#
# ## Alone, or with help
#
# In training the model reads the **true** words so far and scores the next one. This is **teacher forcing**. When it
# captions, it reads its own words: it runs **free**. Only words from a free run are a caption.
#
# It is cheaper to read a reference, to take the model's best next word after each of its words, and to score that row
# of words. But then the model is shown the right word after each guess, so a mistake spoils nothing that follows.
# [13b](13b_scores_in_detail.ipynb) measures how much that flatters, and what a model does after a mistake.
#
# ## Against what? Controls
#
# The RNN's BLEU-4 is 58.5. Is that much? Ask what one gets **without looking**, and what the **references** get:
#
# * *shuffled*: the attention model's captions, given to other pictures;
# * *one caption for all*: its most common caption, for every picture;
# * *nearest neighbour*: a caption of the training picture whose features are closest, a lookup without any model;
# * *references*: each one, scored against the other four of its picture. For photos this is the score of people.
#
# **Predict.** What is the BLEU-1 ($p_1$ and the penalty only) of the shuffled captions? And which have the higher
# BLEU-4: the references or the LSTM's captions?

# %% tags=["hide-input"]
controls = metrics.controls(
    {i: " ".join(words) for i, words in ours.items()},
    {i: [" ".join(words) for words in several] for i, several in written.items()},
)
train = decode_captions(data["train_captions"], idx_to_word)
table, query = np.asarray(data["train_features"]), features["rnn"]
nearest = (np.sum(table**2, axis=1) - 2 * query @ table.T).argmin(axis=1)
first_of = dict(zip(data["train_image_idxs"][::-1].tolist(), train[::-1], strict=True))
neighbours = {i: first_of[k].split() for i, k in enumerate(nearest.tolist())}
circle = np.random.default_rng(0).permutation(300)
shuffled = {
    i: ours[j] for i, j in zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True)
}
constant = dict.fromkeys(ours, controls["constant caption"].split())
rows = {
    "shuffled": (controls["shuffled"], truths(shuffled).mean()),
    "one caption for all": (controls["constant"], truths(constant).mean()),
    "nearest neighbour": (
        metrics.score_words(neighbours, written),
        truths(neighbours).mean(),
    ),
    "references": (
        controls["people"],  # so called where people wrote them
        np.mean(
            [caption_is_true(" ".join(w), scenes[i]) for i in written for w in written[i]]
        ),
    ),
}
for name in NAMES:
    captions_ = said[f"{name}, 5 beams"]
    rows[f"{name}, 5 beams"] = (
        metrics.score_words(captions_, written),
        truths(captions_).mean(),
    )

# %% tags=["hide-input"]
print(f"{'':<22}{'BLEU-1':>8}{'BLEU-4':>8}{'CIDEr-D':>9}{'true':>7}")
for name, (found, true) in rows.items():
    print(f"{name:<22}" + "".join(f"{found[m]:8.1f}" for m in ("BLEU-1", "BLEU-4")), end="")
    print(f"{found['CIDEr-D']:9.1f}{true:7.0%}")

# %% tags=["hide-input"]
assert rows["shuffled"][0]["BLEU-1"] > 50 and rows["shuffled"][0]["CIDEr-D"] < 100
right = rows["references"][0]
kept = {
    m: rows["shuffled"][0][m] / rows["attention, 5 beams"][0][m]
    for m in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D")
}
assert min(kept, key=kept.get) == "CIDEr-D" and abs(kept["CIDEr-D"] - 0.2) < 0.01
assert rows["references"][1] == 1 and kept["BLEU-1"] > 0.5
assert rows["nearest neighbour"][1] > rows["rnn, 5 beams"][1] + 0.1
for name in NAMES[1:]:
    # A reference has four others, a model's caption five: with four, too, the models are above.
    four = [
        {i: several[:k] + several[k + 1 :] for i, several in written.items()}
        for k in range(5)
    ]
    captions_ = said[f"{name}, 5 beams"]
    assert np.mean([bleu(captions_, f)["BLEU-4"] for f in four]) > right["BLEU-4"] + 3
    assert np.mean([cider_d(captions_, f) for f in four]) > right["CIDEr-D"]

# %% [markdown]
# <details><summary>Answer</summary>
#
# 53.8: more than half of the best BLEU-1 needs no look at the picture. Of CIDEr-D, shuffled captions
# keep only a fifth, the smallest share: its weights are made for that. And the LSTM "beats" the references, as do both
# models with attention.
#
# </details>
#
# * The lookup has more true captions than the RNN (74 % against 57 %), at about the same scores. Always compare your
#   model with such a lookup.
# * **The references' score is no ceiling.** All of them are true. But they differ from each other: some say where, some
#   what size. A model can say what is *most common*. (They are scored against four captions here and models against
#   five; with four the models are still above.) A higher score than theirs does not mean better captions.
# * With people's captions of photos the two scores even disagree. The best models of
#   [lesson 14](14_your_own_photo.ipynb#Further) together have 23.3 in BLEU-4 and people 21.8; in CIDEr-D they have 57.4
#   and people 83.0.
#
# ## Against the truth
#
# How do scores go with truth? Each blue point is a model with a decoder, each grey cross a control:

# %% tags=["picture", "hide-input"]
FAMILIES = (
    tuple(COLOURS), ("small", "large"), ("circle", "square", "triangle"), ("left", "right"),
    ("top", "bottom", "middle"), ("above", "below", "over", "under"),
)  # fmt: skip
FAMILY = {word: family for family in FAMILIES for word in family}
points = dict(said)
for name in NAMES:
    draw = sample(models[name], features[name], np.random.default_rng(0), 20)
    points[f"{name}, sampled"] = as_words(draw)
measured = {
    name: (bleu(words, written)["BLEU-4"], 100 * truths(words).mean())
    for name, words in points.items()
}
figure, ax = plt.subplots(figsize=(7.5, 4))
for name, (score, true) in measured.items():
    mark = {"greedy": "s", "5 beams": "o", "sampled": "^"}[name.split(", ")[1]]
    ax.plot(score, true, mark, color=BLUE, markersize=8)
for mark, how in zip("so^", ("greedy", "5 beams", "sampled"), strict=True):
    ax.plot([], [], mark, color=BLUE, label=how)
for name in ("references", "nearest neighbour", "shuffled", "one caption for all"):
    ax.plot(rows[name][0]["BLEU-4"], 100 * rows[name][1], "x", color=GREY, markersize=8)
label = {"ha": "right", "color": GREY, "fontsize": 12}
ax.text(60, 99, "references", **label)
ax.text(59.5, 75, "nearest neighbour", **label)
ax.text(23.5, 6, "without looking", **{**label, "ha": "left"})
worse, better = measured["lstm, 5 beams"], measured["attention, greedy"]
ax.annotate(
    "", worse, better, arrowprops={"arrowstyle": "<->", "color": ORANGE, "linewidth": 2}
)
ax.text(71.5, 78, "higher BLEU-4,\nless true", color=ORANGE, fontsize=12)
ax.set(xlabel="BLEU-4", ylabel="% of captions true", ylim=(-4, 108), xlim=(15, 86))
ax.legend(loc="lower right", fontsize=12)
plt.show()
together = np.corrcoef(np.array(list(measured.values())).T)[0, 1]
print(f"correlation over the 12 systems {together:.2f}")
within = {}
for name, words in said.items():
    each = [bleu({i: words[i]}, {i: written[i]})["BLEU-4"] for i in words]
    within[name] = np.corrcoef(each, truths(words))[0, 1]
low, *_, high = sorted(within, key=within.get)
print("over the 300 captions of one system, from", end=" ")
print(f"{within[low]:.2f} ({low}) to {within[high]:.2f} ({high})")
assert together > 0.95 and 0.4 < within["rnn, 5 beams"] < 0.6 and high == "rnn, 5 beams"
assert within["attention, 5 beams"] < 0.35 and within[low] < 0.1


def phrasing(words):
    """The words, with one token in place of all of a family."""
    return [FAMILY.get(word, (word,))[0] for word in words]


alike = {}
for name in ("lstm, 5 beams", "attention, greedy"):
    masked = {i: phrasing(words) for i, words in said[name].items()}
    known = {i: [phrasing(words) for words in several] for i, several in written.items()}
    alike[name] = bleu(masked, known)["BLEU-4"]
    print(f"BLEU-4 of the phrasing alone, {name}: {alike[name]:.1f}")
assert alike["lstm, 5 beams"] > alike["attention, greedy"] + 4
assert worse[0] > better[0] + 3 and worse[1] < better[1] - 8

# %% [markdown]
# Systems that differ much are ordered as truth orders them: the correlation is 0.96. That is why scores are in use. For
# *single* captions of one system it is 0.52 at best.
#
# The arrow joins the two rows from above. BLEU-4 puts them in the wrong order. Why? Put one token for all colours, one
# for all sizes, and so on, so that only the phrasing is left: now the LSTM has 79.3, the other 74.0. Its sentences
# are more like the references, but more of them have a wrong word.
#
# **Predict.** Take the attention model with five beams, and of its captions those that are true. Change *one word* of
# each so that it becomes false, always the change that costs least BLEU-4. How many points does the score lose?


# %% tags=["hide-input"]
def falsified(i, words):
    """Of the false captions that are one word away, the one with the highest BLEU-4."""
    changed = [
        [*words[:j], other, *words[j + 1 :]]
        for j, word in enumerate(words)
        for other in FAMILY.get(word, ())
        if other != word
    ]
    false = [new for new in changed if not caption_is_true(" ".join(new), scenes[i])]
    return max(false, key=lambda new: bleu({i: new}, {i: written[i]})["BLEU-4"])


true_ones = {
    i: words for i, words in ours.items() if caption_is_true(" ".join(words), scenes[i])
}
theirs = {i: written[i] for i in true_ones}
spoiled = {i: falsified(i, words) for i, words in true_ones.items()}
for name, captions_ in (("all true", true_ones), ("none true", spoiled)):
    score, cider = bleu(captions_, theirs)["BLEU-4"], cider_d(captions_, theirs)
    print(f"{name:<10} BLEU-4 {score:.1f}   CIDEr-D {cider:.1f}")
for i in (0, 5):
    print(f"  {' '.join(true_ones[i])}\n  -> {' '.join(spoiled[i])}")

# %% tags=["hide-input"]
assert score > rows["references"][0]["BLEU-4"] + 5
assert abs(cider / cider_d(true_ones, theirs) - 0.8) < 0.01 and abs(cider - 318) < 5
# With four references, as a reference has, it is above, too.
four = [
    {i: [*several[:k], *several[k + 1 :]] for i, several in theirs.items()}
    for k in range(5)
]
assert (
    np.mean([bleu(spoiled, f)["BLEU-4"] for f in four])
    > rows["references"][0]["BLEU-4"] + 1
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Six points: it falls to 67.8. Not one caption is true, and BLEU-4 is still above the references' 61.1 (with four,
# too). To BLEU a wrong "top" for "bottom" is one word of nine. It does not know which words matter. CIDEr-D falls
# further, by a fifth, but only to about the references' 318.0.
#
# </details>
#
# ## How sure? 300 pictures
#
# 97 % of the attention model's 300 captions are true. With 300 *other* pictures it would be another number. How far
# would it move? Let each caption be true with the same probability $p$. Write $x = 1$ if it is, else $x = 0$. The
# variance of $x$ is $p\,(1 - p)$. The mean of $m$ independent values has only an $m$-th of the variance of one. The
# root of that is the **standard error** of the mean:
#
# $$ \text{standard error} = \sqrt{\frac{p\,(1 - p)}{m}} $$
#
# <details><summary>Both steps in full</summary>
#
# Since $x^2 = x$, the variance is $E[x^2] - E[x]^2 = p - p^2$. Variances of independent values add up, so the sum of
# $m$ values has $m$ times the variance. The mean is the sum divided by $m$, and that divides the variance by $m^2$.
#
# </details>
#
# For 300 captions it is about one percentage point at 97 %, and three at 50 %.
#
# **Task.** Write it. For $p$ take the share of ones in the data.


# %% tags=["task"]
def standard_error(x):
    """(m,) of 0 and 1 -> the standard error of its mean."""
    ### BEGIN SOLUTION
    return math.sqrt(x.mean() * (1 - x.mean()) / len(x))
    ### END SOLUTION


x = np.repeat([1.0, 0.0], (40, 10))
compare(
    standard_error, error_by_copies, x, tolerance=0.01, also={"for 9 of 10": (x[31:41],)}
)

# %% [markdown]
# In about one of twenty samples the share is more than *two* standard errors away from $p$. BLEU is no mean over
# pictures, so this formula does not hold for it. The **bootstrap** needs no formula: treat the 300 pictures as if they
# were all pictures there are, and draw new samples of 300 from them, *with* replacement. Some pictures come twice, some
# not at all. How much the score varies between such samples is an estimate of its error.
#
# Here are the scores of four systems, each with the interval of 95 % of 2,000 such samples. (The folded cells get all
# samples of BLEU from one matrix product.)


# %% tags=["hide-input"]
def bleu_counts(captions):
    """(300, 10): right n-grams and all n-grams for four n, c and r of each picture."""
    rows = []
    for i, words in captions.items():
        pairs = np.array([clipped(words, written[i], n) for n in (1, 2, 3, 4)])
        rows.append(
            [*pairs[:, 0], *pairs[:, 1], len(words), length_in_core(words, written[i])]
        )
    return np.array(rows, float)


def bleu_of(sums):
    """BLEU-4 of rows of ten sums."""
    right, total, c, r = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    return 100 * np.minimum(1, np.exp(1 - r / c)) * np.prod(right / total, axis=-1) ** 0.25


TO_COMPARE = (
    "lstm, 5 beams",
    "attention, 5 beams",
    "transformer, 5 beams",
    "attention, greedy",
)

# %% tags=["hide-input"]
# How often each picture is in each sample: a product with it adds up the counts of all samples.
rng = np.random.default_rng(0)
draws = np.array(
    [np.bincount(rng.integers(300, size=300), minlength=300) for _ in range(2000)]
)
samples, shares = {}, {}
for name in TO_COMPARE:
    samples[name] = bleu_of(draws @ bleu_counts(said[name]))
    shares[name] = 100 * (draws @ truths(said[name])) / 300
    low, high = np.percentile(samples[name], (2.5, 97.5))
    print(f"{name:<22} BLEU-4 {scores[name]:.1f}, 95 % from {low:.1f} to {high:.1f}")

# %% tags=["hide-input"]
for name in samples:
    p = truths(said[name]).mean()
    assert abs(shares[name].std() - 100 * math.sqrt(p * (1 - p) / 300)) < 0.3
    assert np.isclose(bleu_of(bleu_counts(said[name]).sum(axis=0)), scores[name], rtol=1e-6)

# %% [markdown]
# Two systems are compared by the *difference* of their scores. The **paired bootstrap** computes both scores on the
# same draw of pictures, and subtracts. (`samples` holds the 2,000 BLEU-4 of each system, `shares` the per cent of true
# captions.)
#
# **Predict.** The intervals of the LSTM and of attention, both with five beams, overlap. Does the interval of their
# difference contain 0?

# %%
for one, other in (
    ("lstm, 5 beams", "attention, 5 beams"),
    ("attention, 5 beams", "transformer, 5 beams"),
    ("lstm, 5 beams", "attention, greedy"),
):
    low, high = np.percentile(samples[other] - samples[one], (2.5, 97.5))
    print(f"{other} - {one}: BLEU-4 from {low:.1f} to {high:.1f}", end="; ")
    low, high = np.percentile(shares[other] - shares[one], (2.5, 97.5))
    print(f"true from {low:.0f} to {high:.0f} points")

# %% tags=["hide-input"]
gap = samples["attention, 5 beams"] - samples["lstm, 5 beams"]
apart = samples["attention, 5 beams"] - np.roll(samples["lstm, 5 beams"], 1)  # other draws
assert gap.std() < apart.std() and np.percentile(gap, 2.5) > 0
both = samples["attention, 5 beams"].std() + samples["lstm, 5 beams"].std()
assert apart.std() < 0.8 * both
print(f"attention - lstm, 5 beams: standard error {gap.std():.2f};", end=" ")
print(f"on two draws {apart.std():.2f}; sum of both errors {both:.2f}")
gap = samples["transformer, 5 beams"] - samples["attention, 5 beams"]
assert np.percentile(gap, 2.5) < 0 < np.percentile(gap, 97.5)
gap = samples["attention, greedy"] - samples["lstm, 5 beams"]
assert np.percentile(gap, 97.5) < 0
assert np.percentile(shares["attention, greedy"] - shares["lstm, 5 beams"], 2.5) > 0
gap = shares["transformer, 5 beams"] - shares["attention, 5 beams"]
assert np.percentile(gap, 97.5) < 0

# %% [markdown]
# <details><summary>Answer</summary>
#
# No: it is from 1.4 to 5.9. Intervals that reach $a$ and $b$ to each side overlap until the scores are $a + b$ apart.
# But the difference of independent scores has an interval of $\sqrt{a^2 + b^2}$ to each side, which is less. On the
# **same** pictures it is smaller still: where pictures are hard, both systems lose.
#
# </details>
#
# So the first difference is more than chance. BLEU-4 leaves the second open, since its interval contains 0; by truth
# attention is better. The third is the lesson in one line. By BLEU-4 the LSTM is *better*, and by truth it is *worse*.
# Neither interval contains 0.
#
# An interval says how far a number would move with other pictures. It does not say that the number measures what you
# want to know. (Nor does it cover another seed of the training; for that, train again.)
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/13_is_it_any_good.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · The error of a difference (one line)
#
# Two systems have captioned the same $m$ pictures. `one` and `other` hold 1 for each true caption and 0 for each false
# one. What is the standard error of the difference of their shares? A picture's difference may be $-1$, too, so
# $p\,(1 - p)$ is not its variance. (Divide by $m$, not by $m - 1$.)


# %% tags=["exercise"]
def error_of_difference(one, other):
    ### BEGIN SOLUTION
    return np.std(other - one) / math.sqrt(len(one))
    ### END SOLUTION


def by_counting(one, other):
    m, a, b = len(one), np.sum(one > other), np.sum(other > one)
    return math.sqrt(a + b - (a - b) ** 2 / m) / m


rng = np.random.default_rng(0)
one = (rng.random(60) < 0.7).astype(float)
other = np.where(rng.random(60) < 0.8, one, 1 - one)
compare(
    error_of_difference,
    by_counting,
    one,
    other,
    also={
        "when both have the same captions": (one, one),
        "when always just one is right": (one, 1 - one),
        "the other way round": (other, one),
    },
    exercise="13.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · The paired bootstrap
#
# Two systems have captioned $m$ pictures. `one` and `other` hold a score for each picture. Each row of `draws` is a
# bootstrap sample: $m$ picture numbers. Return the 2.5 % and the 97.5 % percentile of the difference of the mean
# scores, `other` less `one`, as an array of two. No loop.


# %% tags=["exercise"]
def paired_interval(one, other, draws):
    ### BEGIN SOLUTION
    return np.percentile((other - one)[draws].mean(axis=1), (2.5, 97.5))
    ### END SOLUTION


def one_at_a_time(one, other, draws):
    gaps = [np.mean(other[rows]) - np.mean(one[rows]) for rows in draws]
    return np.array([np.percentile(gaps, 2.5), np.percentile(gaps, 97.5)])


rng = np.random.default_rng(0)
scores = rng.random(50), rng.random(50) + 0.1
draws = rng.integers(50, size=(400, 50))
compare(
    paired_interval,
    one_at_a_time,
    *scores,
    draws,
    also={
        "for a single sample": (*scores, draws[:1]),
        "for one picture": (*(s[:1] for s in scores), 0 * draws[:2, :1]),
    },
    exercise="13.2",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: a measure that knows what matters
#
# SPICE (Anderson et al., 2016) takes captions apart into objects and their properties and compares those. Make a small
# one. The **facts** of a caption are its pairs (colour, kind), and its triples (size, colour, kind) where a size is
# said. The score of a caption is the share of its facts that are among the facts of its references.
#
# On the RNN's captions BLEU-4 correlates with truth at 0.52 and CIDEr-D at 0.63. Beat 0.75. Can you go further with
# places and relations?


# %% tags=["exercise"]
def share_of_facts(words, references):
    """Words of a caption, lists of words of its references -> 0 to 1."""

    ### BEGIN SOLUTION
    def facts(words):
        found = set()
        for j, word in enumerate(words):
            if word in ("circle", "square", "triangle") and j > 0:
                found.add((words[j - 1], word))
                if j > 1 and words[j - 2] in ("small", "large"):
                    found.add((words[j - 2], words[j - 1], word))
        return found

    said, known = facts(words), set().union(*map(facts, references))
    return len(said & known) / max(1, len(said))
    ### END SOLUTION


CAPTIONS = {
    "all facts are known": "a large red circle above a small blue square",
    "no fact is known": "a green triangle",
    "there is no fact": "no idea",
    "a fact is known, and one is not": "a red circle above a yellow square",
    "the colours are exchanged": "a blue circle above a red square",
}
REFERENCES = [
    "a large red circle above a small blue square".split(),
    "a red circle".split(),
]


def on_made_up_captions():
    """The scores of CAPTIONS."""
    found = [share_of_facts(caption.split(), REFERENCES) for caption in CAPTIONS.values()]
    return None if None in found else dict(zip(CAPTIONS, map(float, found), strict=True))


confirm(
    on_made_up_captions,
    lambda scores: (
        [score == 1 for score in scores.values()] == [1, 0, 0, 0, 0]
        and [score == 0 for score in scores.values()] == [0, 1, 1, 0, 1]
        and min(scores.values()) >= 0
        and max(scores.values()) <= 1
    ),
    "1 when all facts are known, 0 when none is or none is said, else between the two",
    exercise="13.3",
)


# %% tags=["exercise"]
def correlation_with_truth(measure):
    """Over the RNN's captions (five beams) of the held-out pictures; None: not yet."""
    model, data = lessons.load_trained("rnn")[0], lessons.embedded_data("rnn")
    ids = beam_search(model, np.asarray(data["val_features"]), 5, 20)[0][:, 0]
    said = decode_captions(ids, data["idx_to_word"])
    written = decode_captions(data["val_captions"], data["idx_to_word"])
    references = [[] for _ in said]
    for i, caption in zip(data["val_image_idxs"], written, strict=True):
        references[i].append(caption.split())
    scores = [measure(c.split(), r) for c, r in zip(said, references, strict=True)]
    if any(score is None for score in scores):
        return None
    true = [
        caption_is_true(c, s)
        for c, s in zip(said, load_scenes(DEFAULT_FOLDER, "val"), strict=True)
    ]
    return round(float(np.corrcoef(scores, true)[0, 1]), 3)


confirm(
    lambda: correlation_with_truth(share_of_facts),
    lambda correlation: correlation > 0.75,
    "a correlation with truth above 0.75",
)

# %% [markdown]
# ## What you have now
#
# * BLEU, built by you: clipped runs of words over a whole corpus. CIDEr-D: runs weighted by how rare they are. Neither
#   knows what is in the picture.
# * Controls: shuffled, constant, nearest neighbour, one reference against the others. None of them is a ceiling.
# * Intervals: compare two systems on the same pictures, paired. An interval does not make a measure the right one.
#
# **Sources.** K. Papineni, S. Roukos, T. Ward and W.-J. Zhu, *BLEU: a method for automatic evaluation of machine
# translation*, ACL 2002. R. Vedantam, C. L. Zitnick and D. Parikh, *CIDEr: consensus-based image description
# evaluation*, CVPR 2015. P. Anderson, B. Fernando, M. Johnson and S. Gould, *SPICE*, ECCV 2016. J. Devlin et al.,
# *Exploring nearest neighbor approaches for image captioning*, 2015. B. Efron, *Bootstrap methods*, Annals of
# Statistics 7 (1979). P. Koehn, *Statistical significance tests for machine translation evaluation*, EMNLP 2004.
#
# **Next:** [lesson 14, your own photo](14_your_own_photo.ipynb). To go deeper: [13b](13b_scores_in_detail.ipynb).
