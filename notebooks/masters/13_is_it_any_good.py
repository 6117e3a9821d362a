# %% [markdown]
# # 13 · Is it any good?
#
# **The question.** Two models have captioned the same pictures. Which is better, and by how much? Papers answer
# with BLEU and CIDEr. What do these numbers count, when do they mislead, and how sure can one be with 300
# pictures?
#
# You build BLEU, CIDEr-D and ROUGE-L from counts on paper to the last decimal of the tools that papers use. You
# measure what a model says alone against what it says with help. Then you hold the scores against something that
# photos never have: pictures of which we **know** what is in them, so that each caption is true or false.
#
# *Before: [lesson 11](11_decoding.ipynb) (decoding). About 55 minutes; all cells together run in half a minute.*

# %% tags=["setup"]
import itertools
import math
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

from core import lessons, metrics
from core.coco_utils import decode_captions
from core.decoding import beam_search, greedy, never_said, sample
from core.lessons import compare, confirm, show_source
from core.metrics import CIDErD, bleu, cider_d, ngrams, rouge_l
from core.metrics.ptb import ptb_tokenize
from core.scenes import COLOURS, relations
from core.shapes import (
    DEFAULT_FOLDER,
    PLACES,
    RELATIONS,
    TEMPLATES,
    caption_is_true,
    load_scenes,
)
from core.show.plots import BLUE, GREY, ORANGE

lessons.style()

# %% [markdown]
# ## Counting by hand
#
# For each picture there are a caption to be judged, the **candidate**, and a few captions by people, the
# **references**. Two tiny pictures:

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
# The simplest question: how many of the candidate's words are in a reference? And because a bag of words has no
# order: how many of its pairs of neighbours, its runs of three, of four? A run of $n$ words is an **$n$-gram**.
#
# One trap is there from the start. "a a a a a a" would have all of its words in the references. So a word may
# count only as often as it occurs in *one* reference, the one that has it most often. That is **clipping**:
#
# $$ p_n = \frac{\sum_{g} \min\left(\text{count}_{\text{candidate}}(g),\; \max_{r} \text{count}_r(g)\right)}
#               {\sum_{g} \text{count}_{\text{candidate}}(g)} \qquad \text{sums over the } n\text{-grams } g $$


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


for n in (1, 2):
    most = runs_of(references["one"][0], n) | runs_of(references["one"][1], n)
    for gram, count in runs_of(candidates["one"], n).items():
        print(
            f"{' '.join(gram):<14} said {count}, in one reference {most[gram]}:"
            f" {min(count, most[gram])} right"
        )
for image, words in candidates.items():
    shares = ["{}/{}".format(*clipped(words, references[image], n)) for n in (1, 2, 3, 4)]
    print(f"picture {image}: 1-grams to 4-grams {', '.join(shares)}   {' '.join(words)}")
right, said = clipped(["a"] * 6, references["one"], 1)
print(f"'a a a a a a': {right}/{said}, without clipping 6/6")
assert (right, said) == (2, 6)
assert clipped(candidates["one"], references["one"], 2) == (3, 5)

# %% [markdown]
# ## BLEU
#
# Four precisions have to become one number. Two things to decide.
#
# **How to average.** Say each further word of a run is right with probability $q$ when those before it were.
# Then $p_n \approx p_1 q^{n-1}$: precisions fall like a power, and the longer runs, which hold the information
# about order, are small numbers. In an arithmetic mean they would hardly count. The **geometric mean** averages
# logarithms,
#
# $$ \left(p_1 p_2 p_3 p_4\right)^{1/4} = \exp\Big(\tfrac{1}{4} \sum_{n=1}^{4} \log p_n\Big), \qquad
#    \frac{\partial \log(\dots)}{\partial \log p_n} = \frac14 $$
#
# so one per cent more of any of the four is worth the same, a quarter of a per cent, whatever their sizes. The
# price: one $p_n = 0$ makes everything 0.
#
# **What to do about leaving out.** Precision asks whether what is said is right. "a" alone has $p_1 = 1$. Its
# counterpart, recall, asks whether everything was said; but with several references nobody should say all of
# them. BLEU asks for the right length instead. With $c$ words of candidates and $r$ words of references the
# **brevity penalty** is
#
# $$ \mathrm{BP} = \begin{cases} 1 & c \ge r \\ e^{1 - r/c} & c < r \end{cases} \qquad
#    \frac{d \log \mathrm{BP}}{dc} = \frac{r}{c^2} $$
#
# At $c = r$ the slope is $1/r$: one per cent too short costs one per cent; at half the length a factor of
# $e^{-1} = 0.37$. There is no penalty for too long: extra words are wrong words, and precision sees those. Of
# several references the one whose length is closest gives $r$.
#
# **Of a corpus.** All of this is added up over the pictures *before* dividing: right $n$-grams, all $n$-grams,
# $c$ and $r$. On our two pictures, by hand, and in fifteen lines:


# %%
def my_bleu(candidates, references):
    """BLEU-4 of a corpus, 0 to 100; and its four precisions and brevity penalty."""
    right, said = np.zeros(4), np.zeros(4)
    c = r = 0
    for image, words in candidates.items():
        for n in (1, 2, 3, 4):
            correct, total = clipped(words, references[image], n)
            right[n - 1] += correct
            said[n - 1] += total
        _, closest = min(
            (abs(len(one) - len(words)), len(one)) for one in references[image]
        )
        c, r = c + len(words), r + closest
    p = right / said
    penalty = min(1.0, math.exp(1 - r / c))
    return 100 * penalty * np.prod(p) ** (1 / 4), p, penalty


score, p, penalty = my_bleu(candidates, references)
for n in (1, 2, 3, 4):
    (a, b), (c, d) = (clipped(candidates[i], references[i], n) for i in ("one", "two"))
    print(f"p{n} = ({a} + {c}) / ({b} + {d}) = {p[n - 1]:.3f}")
print(f"words: c = 6 + 8, r = 8 + 7; brevity penalty exp(1 - 15/14) = {penalty:.3f}")
print(f"BLEU-4 {score:.2f}, core's {bleu(candidates, references)['BLEU-4']:.2f}")
assert np.isclose(score, bleu(candidates, references)["BLEU-4"], rtol=1e-6)
show_source(bleu, docstring=False)

# %% [markdown]
# (The two tiny constants in `core` are those of the COCO tools: they keep $0/0$ away.)
#
# ## On trained models
#
# Four runs came with the lessons; from the folder of the project each is made by
#
#     python training.py --model rnn --hidden_dim 128 --wordvec_dim 64
#     python training.py --model lstm --hidden_dim 128 --wordvec_dim 64
#     python training.py --model attention --hidden_dim 128 --wordvec_dim 64 --attention_dim 64
#     python training.py --model transformer --wordvec_dim 64
#
# in 1, 1.5, 6 and 9 minutes on one core (each with an `--out runs/NAME` of its own). Each captions the 300 held-out
# pictures, greedily and with five beams. Five references a picture.

# %%
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
    """Word ids, one caption a picture -> {picture: words}."""
    return {
        i: caption.split() for i, caption in enumerate(decode_captions(ids, idx_to_word))
    }


def truths(captions):
    """Which captions are true of their picture: an array of 0 and 1."""
    return np.array(
        [caption_is_true(" ".join(w), scenes[i]) for i, w in captions.items()], float
    )


systems = {}
for name, model in models.items():
    systems[name, "greedy"] = as_words(greedy(model, features[name], 20))
    systems[name, "5 beams"] = as_words(beam_search(model, features[name], 5, 20)[0][:, 0])

scores = {}
print(f"{'':<22}{'p1':>7}{'p2':>6}{'p3':>6}{'p4':>6}{'BP':>7}{'BLEU-4':>8}")
for (name, how), captions in systems.items():
    score, p, penalty = my_bleu(captions, written)
    scores[name, how] = score
    assert np.isclose(score, bleu(captions, written)["BLEU-4"], rtol=1e-6)
    print(
        f"{name:<12}{how:<10}"
        + "".join(f"{x:6.2f}" for x in p)
        + f"{penalty:7.2f}{score:8.1f}"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.3))
for name in NAMES:
    _, p, _ = my_bleu(systems[name, "5 beams"], written)
    axes[0].semilogy((1, 2, 3, 4), p, "o-", label=name)
    kept = p[1:] / p[:-1]  # of the share that is right, from n to n + 1
    print(f"{name:<12} kept from n to n + 1:", ", ".join(f"{share:.2f}" for share in kept))
    assert np.all(np.diff(kept) < -0.03)
axes[0].set(
    xlabel="n", ylabel="precision $p_n$", xticks=(1, 2, 3, 4), title="precisions, 5 beams"
)
axes[0].set_yticks((0.4, 0.6, 0.8, 1.0), labels=("0.4", "0.6", "0.8", "1"))
axes[0].set_yticks((), minor=True)
axes[0].legend()
ratio = np.linspace(0.2, 1.5, 200)
axes[1].plot(ratio, np.minimum(1, np.exp(1 - 1 / ratio)))
axes[1].set(
    xlabel="c / r, words said over words of references", ylabel="factor", ylim=(0, 1.05),
    title="brevity penalty",
)  # fmt: skip
plt.show()

# %% [markdown]
# On the logarithmic axis on the left a straight line would mean that every longer run keeps the same share of the
# shorter ones. The points do not lie on a line. They bend down: with five beams the RNN keeps 0.82 from one word to
# two, 0.75 from two to three, and 0.61 from three to four. What the logarithm does do is make four numbers
# comparable that become smaller and smaller: a plain mean would be mostly $p_1$. What these scores are worth we
# shall see. First, two more measures.
#
# **A corpus is no mean of sentences.** It is tempting to score each caption by itself and average. A caption of
# three words has no run of four, so its $p_4$ is 0 of 0:

# %%
print("said word for word as the reference:")
for words in ("a blue circle", "a small blue circle", "a small blue circle on the left"):
    alone = bleu({0: words.split()}, {0: [words.split()]})["BLEU-4"]
    print(f"  BLEU-4 {alone:5.1f}   {words}")
for name, how in (("attention", "5 beams"), ("transformer", "greedy")):
    captions = systems[name, how]
    each = [bleu({i: captions[i]}, {i: written[i]})["BLEU-4"] for i in captions]
    short = np.mean([len(words) < 4 for words in captions.values()])
    print(
        f"{name}, {how}: BLEU-4 {scores[name, how]:.1f}, mean of the captions' own"
        f" {np.mean(each):.1f} ({short:.0%} have fewer than four words)"
    )
    assert np.mean(each) < scores[name, how] + 1

# %% [markdown]
# A perfect caption can have a BLEU-4 of 3. Both numbers are called BLEU-4 in papers; they are two measures.
#
# ## CIDEr-D
#
# BLEU counts "a" like "purple". A person who compares captions does not: words that fit *every* picture say
# nothing about *this* one. CIDEr (Vedantam et al., 2015) weighs each $n$-gram $g$ by how few pictures have it in
# their references, the **inverse document frequency**, and compares directions of vectors:
#
# $$ w_g = \log \frac{\text{pictures}}{\text{pictures with } g \text{ in a reference}}, \qquad
#    v_g = \text{count}(g)\, w_g, \qquad
#    \cos(c, r) = \frac{\sum_g c_g\, r_g}{\lVert c \rVert\, \lVert r \rVert} $$
#
# with one vector for each $n$ from 1 to 4. By hand, with single words, three pictures of one reference each:

# %%
three = {
    1: ["a red circle".split()],
    2: ["a blue circle".split()],
    3: ["a red square".split()],
}
having = Counter(word for captions in three.values() for word in captions[0])  # each once
weight = {word: math.log(3 / count) for word, count in having.items()}
for word, w in weight.items():
    print(f"weight of {word:<7} log(3/{having[word]}) = {w:.3f}")


def vector(words):
    return np.array([words.count(word) * w for word, w in weight.items()])


def cosine(c, r):
    return c @ r / np.linalg.norm(c) / np.linalg.norm(r)


wanted = vector(three[2][0])
for words in (["a", "blue", "circle"], ["a", "blue", "square"], ["a", "red", "circle"]):
    print(f"'{' '.join(words)}' for picture 2: vector {vector(words)}, cosine", end=" ")
    print(f"{cosine(vector(words), wanted):.3f}")
one_wrong = [
    cosine(vector(["a", *rest]), wanted) for rest in (["blue", "square"], ["red", "circle"])
]
assert one_wrong[0] > one_wrong[1]

# %% [markdown]
# "a" weighs nothing. The second and the third candidate each have one word of three wrong, which is all that
# BLEU-1 sees. CIDEr sees more: "blue" is rare and right in the second; in the third only the common "circle" is.
#
# **Why the D.** A cosine does not see length: "blue blue blue" points where "blue" points. So plain CIDEr can be
# gamed by saying a sure word again and again. CIDEr-D, which the COCO tools compute, clips each entry at the
# reference's, $\min(c_g, r_g)\, r_g$, and multiplies by $e^{-(l_c - l_r)^2 / 2\sigma^2}$ for lengths $l_c$,
# $l_r$ with $\sigma = 6$. (Its third change, no stemming of words, is none here.) The mean over $n$ and over the
# references, times 10; the project prints 100 times that, like BLEU.


# %%
def my_cider_d(candidates, references, gamed=False):
    """CIDEr-D of a corpus; ``gamed`` leaves clipping and the length penalty out."""
    having = Counter()
    for captions in references.values():
        having.update(set().union(*(ngrams(words) for words in captions)))

    def vectors(words):
        """One for each n: n-gram -> count times weight."""
        weighted = {
            gram: count * math.log(len(references) / max(1, having[gram]))
            for gram, count in ngrams(words).items()
        }
        return [{g: v for g, v in weighted.items() if len(g) == n} for n in (1, 2, 3, 4)]

    def likeness(words, reference):
        cosines = []
        for c, r in zip(vectors(words), vectors(reference), strict=True):
            product = sum((c[g] if gamed else min(c[g], r[g])) * r[g] for g in c if g in r)
            norms = math.hypot(*c.values()) * math.hypot(*r.values())
            cosines.append(product / norms if product else 0.0)
        off = 0 if gamed else len(words) - len(reference)
        return np.mean(cosines) * math.exp(-(off**2) / (2 * 6**2))

    return 1000 * np.mean(
        [
            np.mean([likeness(words, r) for r in references[i]])
            for i, words in candidates.items()
        ]
    )


for name in ("rnn", "attention"):
    captions = systems[name, "5 beams"]
    ours, theirs = my_cider_d(captions, written), cider_d(captions, written)
    print(f"{name:<10} CIDEr-D {ours:.1f}; ours and core's differ by less than 1e-10 of it")
    assert abs(ours - theirs) < 1e-10 * theirs

show_source(metrics.scores._likeness)

# %%
honest = systems["rnn", "5 beams"]
repeated = {i: words * 3 for i, words in honest.items()}
for name, captions in (("as said", honest), ("said three times over", repeated)):
    gamed, clean = my_cider_d(captions, written, gamed=True), cider_d(captions, written)
    print(f"{name:<23} CIDEr without the D {gamed:6.1f}   CIDEr-D {clean:6.1f}")
for word in ("a", "circle", "red", "three", "middle"):
    share = np.mean(
        [any(word in words for words in captions) for captions in written.values()]
    )
    weighs = math.log(1 / share)
    print(f"'{word}' is used for {share:.0%} of the pictures: weight {weighs:.2f}")

# %% [markdown]
# Since the weights come from the references that a caption is scored against, CIDEr depends on *which pictures are
# scored together*. Of one picture it is undefined, of 300 it is another number than of 1,000.
#
# **ROUGE-L**, briefly: the longest common *subsequence* of candidate and reference, words in order with gaps
# allowed. A table filled row by row, $\ell_{ij} = \ell_{i-1,j-1} + 1$ where word $i$ equals word $j$, else
# $\max(\ell_{i-1,j}, \ell_{i,j-1})$; its last entry over the candidate's length is a precision $P$, over the
# reference's a recall $R$, each the best over the references, joined as $(1 + \beta^2) P R / (R + \beta^2 P)$
# with $\beta = 1.2$:

# %%
said, reference = candidates["one"], references["one"][0]
table = np.zeros((len(said) + 1, len(reference) + 1), dtype=int)
for i, j in itertools.product(range(1, len(said) + 1), range(1, len(reference) + 1)):
    same = said[i - 1] == reference[j - 1]
    table[i, j] = table[i - 1, j - 1] + 1 if same else max(table[i - 1, j], table[i, j - 1])
print(" " * 8 + "".join(f"{word:>8}" for word in reference))
for word, row in zip(said, table[1:], strict=True):
    print(f"{word:<8}" + "".join(f"{value:8}" for value in row[1:]))
P, R = table[-1, -1] / len(said), table[-1, -1] / len(reference)
ours = 100 * (1 + 1.2**2) * P * R / (R + 1.2**2 * P)
print(f"common: {table[-1, -1]} words; P = {P:.3f}, R = {R:.3f}, ROUGE-L {ours:.1f}")
assert np.isclose(ours, rouge_l({0: said}, {0: [reference]}))

# %% [markdown]
# ## Cut into words by what?
#
# People write "A man's T-shirt isn't blue." A model says "a man 's t-shirt is n't blue". The COCO tools take text
# apart in one agreed way, and `core.metrics.ptb` does the same. Who cuts at blanks compares "blue." with "blue". Let us
# write our references as people write, with a capital and a full stop, and score the *same* captions:

# %%
print(
    ptb_tokenize("A man's T-shirt isn't blue."),
    "\n" + str("A man's T-shirt isn't blue.".split()),
)
as_text = {i: " ".join(words) for i, words in systems["attention", "5 beams"].items()}
people_write = {
    i: [" ".join(words).capitalize() + "." for words in captions]
    for i, captions in written.items()
}
for name, split in (
    ("tokens of the COCO tools", ptb_tokenize),
    ("cut at blanks", str.split),
):
    one = {i: split(text) for i, text in as_text.items()}
    other = {i: [split(text) for text in texts] for i, texts in people_write.items()}
    values = bleu(one, other)["BLEU-4"], cider_d(one, other)
    print("{:<26} BLEU-4 {:5.1f}   CIDEr-D {:6.1f}".format(name, *values))
for count in (1, 3):
    fewer = {i: captions[:count] for i, captions in written.items()}
    one = systems["attention", "5 beams"]
    values = bleu(one, fewer)["BLEU-4"], cider_d(one, fewer)
    name = f"{count} of the 5 references"
    print("{:<26} BLEU-4 {:5.1f}   CIDEr-D {:6.1f}".format(name, *values))

# %% [markdown]
# Nothing about the model has changed in these four lines. On real photos it is the same, to a smaller extent: one
# model of this project scores a BLEU-4 from 8.1 to 20.3 on the same photos, all depending on tokens, references,
# decoder and the like. [Why your BLEU differs](../docs/why-your-bleu-differs.md) has the table. Before comparing
# two figures, ask for all of that.
#
# ## Alone, or with help
#
# In training the model reads the **true** words so far and scores the next one: *teacher forcing*. When it
# captions, it reads its own. Loss and accuracy on held-out captions are measured with help:

# %%
captions, owner = data["val_captions"].astype(np.int64), data["val_image_idxs"]


def with_help(name):
    """At each place of each reference: the best next word; log p of the true one."""
    model, best, log_p = models[name], [], []
    state = model.begin(features[name][owner])
    for words, following in zip(captions.T[:-1], captions.T[1:], strict=True):
        log_probs, state = model.step(state, words)
        log_p.append(log_probs[np.arange(len(words)), following])
        log_probs[:, never_said(model)] = -np.inf
        best.append(log_probs.argmax(axis=1))
    return np.stack(best, axis=1), np.stack(log_p, axis=1)


counts = captions[:, 1:] != 0  # not padding
forced = {}
for name in NAMES:
    forced[name], log_p = with_help(name)
    right = (forced[name] == captions[:, 1:])[counts].mean()
    true = truths(systems[name, "greedy"]).mean()
    print(
        f"{name:<12} loss {-log_p[counts].mean():.3f} nats per word,"
        f" next word right {right:.0%}; alone, greedily: {true:.0%} of the captions true"
    )

# %% [markdown]
# Three quarters of the next words are "right". That sounds poor and is not: after "there is a" both "small" and
# "red" may be right, and a reference has one of them. We can ask the better question: can the caption still
# **become true** with this word? For each picture all true captions of the grammar can be listed, and with them
# all their beginnings:


# %%
def true_captions(scene):
    """Everything true that the grammar of the embedded data can say of a picture."""
    for template, number in itertools.chain(*TEMPLATES.values()):
        names = [name for name in "abc" if f"{{{name}}}" in template]
        if len(names) > len(scene) or (number and number != len(scene)):
            continue
        for order in itertools.permutations(scene, len(names)):
            phrases = [
                (f"a {s.colour} {s.kind}", f"a {s.size} {s.colour} {s.kind}") for s in order
            ]
            between, place = [""], PLACES[order[0].place]
            if "{relation}" in template:
                between = [w for r in relations(*order[:2]) for w in RELATIONS[r]]
            for relation, *chosen in itertools.product(between, *phrases):
                words = dict(zip(names, chosen, strict=True))
                yield template.format(relation=relation, place=place, **words)


def beginnings(scene):
    found = set()
    for caption in true_captions(scene):
        words = (*caption.split(), "<END>")
        found |= {words[:t] for t in range(1, len(words) + 1)}
    return found


can_be_true = [beginnings(scene) for scene in scenes]
listed = [set(true_captions(scene)) for scene in scenes]
assert all(caption_is_true(caption, scenes[0]) for caption in listed[0])
assert all(" ".join(words) in listed[i] for i in written for words in written[i])
print(f"true captions of a picture: {np.mean(list(map(len, listed))):.0f} on average")
print("of picture 0, for instance:", "; ".join(sorted(listed[0])[:3]))

# %% [markdown]
# Now by position. With help: given the true words before it, can the caption still be true after the model's
# next word? Alone: the same question after the model's *own* words, as long as those were all right. And the
# share of captions in which nothing has gone wrong up to word $t$.


# %%
def by_position(name, T=12):
    """Next words that keep a caption true, with help and alone; share still true."""
    helped, alone, intact = np.zeros((2, T)), np.zeros((2, T)), np.zeros(T)
    for row, picture, best in zip(captions, owner, forced[name], strict=True):
        words = [idx_to_word[i] for i in row[1:] if i]
        for t in range(min(T, len(words))):
            beginning = (*words[:t], idx_to_word[best[t]])
            helped[:, t] += (beginning in can_be_true[picture]), 1
    for picture, words in systems[name, "greedy"].items():
        words, true = (*words, "<END>"), True
        for t in range(T):
            if true and t < len(words):
                true = words[: t + 1] in can_be_true[picture]
                alone[:, t] += true, 1
            intact[t] += true
    return helped, alone, intact / len(scenes)


figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharex=True)
places = np.arange(1, 13)
for name, colour in (("rnn", ORANGE), ("attention", BLUE)):
    helped, alone, intact = by_position(name)
    axes[0].plot(
        places, helped[0] / helped[1], "o-", color=colour, label=f"{name}, with help"
    )
    axes[0].plot(places, alone[0] / alone[1], "s--", color=colour, label=f"{name}, alone")
    goes_on = np.array(
        [
            np.mean([len(w) >= t - 1 for w in systems[name, "greedy"].values()])
            for t in places
        ]
    )
    expected = np.cumprod(1 - goes_on * (1 - helped[0] / helped[1]))
    axes[1].plot(places, expected, "o-", color=colour, label=f"{name}, product of the left")
    axes[1].plot(places, intact, "s--", color=colour, label=f"{name}, alone")
    rates = [kept.sum() / asked.sum() for kept, asked in (helped, alone)]
    print(
        f"{name:<10} words that keep it true: {rates[0]:.1%} with help,"
        f" {rates[1]:.1%} alone; all words: expected {expected[-1]:.0%},"
        f" found {intact[-1]:.0%}"
    )
    assert rates[0] > rates[1]
axes[0].set(xlabel="word", ylabel="share of next words", title="keeps the caption true")
axes[1].set(
    xlabel="word", ylabel="share of captions", title="nothing wrong so far", ylim=(0, 1.02)
)
axes[0].legend(fontsize=8, loc="lower left")
axes[1].legend(fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# The right half is what matters to a reader. Errors **compound**: when each word goes right with probability
# $1 - \varepsilon$, $n$ words all do with $(1 - \varepsilon)^n$. The RNN keeps a caption true at 94 % of the
# words, and that alone leaves half of the captions. A figure per word sounds better than the sentences are.
#
# Alone it does worse still than that product, and that *before* any error of its own: the figure counts words
# after beginnings that are all right so far. So it must be the choice of beginnings. With help the model
# continues what people happened to write; alone it chooses, and greedy decoding likes sentences that go on to
# say where things are ([lesson 11](11_decoding.ipynb)), which this model knows least about.
#
# What happens *after* an error is not in the figure, since a false caption stays false. In training the model
# has only ever read beginnings that are right. What does it do after one that is not? This is the question of
# **exposure bias** (Ranzato et al., 2016). To measure it, take the choice away. Pictures with two shapes; we
# write the beginning "a red circle and", true or with *one* wrong word, and count how often the model goes on to
# name the other shape rightly.


# %%
def completed(name, pictures, first_words):
    """Greedy continuations of given beginnings, all of the same length."""
    model = models[name]
    state, tokens = (
        model.begin(features[name][pictures]),
        np.full(len(pictures), model.start),
    )
    for words in zip(*first_words, strict=True):
        _, state = model.step(state, tokens)
        tokens = np.array([model.word_to_idx[word] for word in words])
    said = []
    for _ in range(5):
        log_probs, state = model.step(state, tokens)
        log_probs[:, never_said(model)] = -np.inf
        tokens = log_probs.argmax(axis=1)
        said.append(tokens)
    return [c.split() for c in decode_captions(np.stack(said, axis=1), idx_to_word)]


pairs = [
    (i, *order)
    for i, scene in enumerate(scenes)
    if len(scene) == 2
    for order in (scene, scene[::-1])
]
KINDS = ("circle", "square", "triangle")


def first_words(one, other, slip):
    """The beginning "a red circle and": true of the first shape, or one word wrong."""
    colour, kind = one.colour, one.kind
    if slip == "colour":
        colour = next(c for c in COLOURS if c not in (one.colour, other.colour))
    if slip == "kind":
        kind = next(k for k in KINDS if k not in (one.kind, other.kind))
    return ["a", colour, kind, "and"]


pictures = [i for i, *_ in pairs]
columns = f"{'the rest names':>28}{'the other shape':>17}{'the first again':>17}"
print(f"{len(pairs)} beginnings: {columns}")
for name in NAMES:
    for slip in ("none", "colour", "kind"):
        begun = [first_words(one, other, slip) for _, one, other in pairs]
        ends = [words[-2:] for words in completed(name, pictures, begun)]
        shares = [
            np.mean(
                [end == [s.colour, s.kind] for end, s in zip(ends, shapes, strict=True)]
            )
            for shapes in ([other for *_, other in pairs], [one for _, one, _ in pairs])
        ]
        label = "all words true" if slip == "none" else f"its {slip} is not there"
        print(f"{name:<12} {label:<31}{shares[0]:17.0%}{shares[1]:17.0%}")
        if slip != "kind":
            assert shares[0] > 0.95 if slip == "none" else shares[0] < 0.8

# %% [markdown]
# The same model, the same picture, one word of the beginning changed. After a true beginning the rest is right
# nearly always; after a wrong colour hardly more often than a coin would have it. The models with attention
# cannot tell which of the two shapes was meant, and in the other cases they name that one again. The recurrent
# ones mostly go on to something that is not in the picture at all: for the RNN 51 % and 11 % leave more than a
# third. (A wrong kind does less harm to the models with attention: the colour still says which shape it was.)
# That is what exposure bias is about, made by hand and measured. A person would say: the first half was wrong,
# the second need not be. The model never learned that sentences can have a wrong first half.
#
# ## The tempting wrong way: a BLEU of teacher forcing
#
# A training script has the scores of all next words at hand. Take the best word at every place, put them in a row,
# call BLEU: no decoder needed, and it is done for each batch. It looks like a caption:

# %%
firsts = np.unique(owner, return_index=True)[1]  # of each picture its first reference
fed = {i: [written[i][0]] for i in written}
print(f"{'BLEU-4':<12}{'against the caption that was fed':^36}{'against all five':^36}")
print(f"{'':<12}" + f"{'greedy':>12}{'5 beams':>12}{'forced':>12}" * 2 + "   true")
for name in NAMES:
    patched = as_words(np.where(counts, forced[name], 0)[firsts])
    row = [
        bleu(said, wanted)["BLEU-4"]
        for wanted in (fed, written)
        for said in (systems[name, "greedy"], systems[name, "5 beams"], patched)
    ]
    print(
        f"{name:<12}"
        + "".join(f"{x:12.1f}" for x in row)
        + f"{truths(patched).mean():7.0%}"
    )
    assert row[2] > row[0] and row[2] > row[1] and row[5] < row[4]
for i in range(3):
    said = " ".join(as_words(np.where(counts, forced["attention"], 0)[firsts])[i])
    print(f"fed {' '.join(written[i][0])!r}\n    said {said!r}")

# %% [markdown]
# Against the caption that it was fed, the forced row of words is far better than anything that the model can
# say: it was shown the answer, one word late. Against all references it is worse than the model's captions, as
# no one would speak like that: each word follows from what *someone else* said before. A number that is too good
# or too bad, depending on the references, and of something that is no caption: almost none of these rows of
# words is a true sentence. Score what the model says alone; there is no short cut.
#
# ## Against what? Controls
#
# Is a BLEU-4 of 58 much? Ask what scores one gets **without looking**, and what **people** get:
#
# * the captions of the model, *shuffled* over the pictures: what language alone is worth;
# * *one* caption for all pictures;
# * *random* captions of the training data: perfect language;
# * the *nearest neighbour*: a caption of the training picture whose features are closest. A lookup; no model
#   speaks here at all;
# * *people*: each reference against the four others of its picture.
#
# `core.metrics.controls` has the first two and the last (and `python -m core.metrics --controls` prints them).
# Beside each we put the share that is true.

# %%
by_people = metrics.controls(
    {i: " ".join(words) for i, words in systems["attention", "5 beams"].items()},
    {i: [" ".join(words) for words in captions] for i, captions in written.items()},
)
train = decode_captions(data["train_captions"], idx_to_word)
rng = np.random.default_rng(0)
at_random = {i: train[k].split() for i, k in enumerate(rng.integers(len(train), size=300))}
table, ours = np.asarray(data["train_features"]), features["rnn"]
nearest = (np.sum(table**2, axis=1) - 2 * ours @ table.T).argmin(axis=1)
first_of = dict(zip(data["train_image_idxs"][::-1].tolist(), train[::-1], strict=True))
neighbours = {i: first_of[k].split() for i, k in enumerate(nearest.tolist())}
circle = rng.permutation(300)
said = systems["attention", "5 beams"]
shuffled = {
    i: said[j] for i, j in zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True)
}
constant = dict.fromkeys(said, by_people["constant caption"].split())

rows = {
    "shuffled": (by_people["shuffled"], truths(shuffled).mean()),
    "one caption for all": (by_people["constant"], truths(constant).mean()),
    "random, of training": (
        metrics.score_words(at_random, written),
        truths(at_random).mean(),
    ),
    "nearest neighbour": (
        metrics.score_words(neighbours, written),
        truths(neighbours).mean(),
    ),
    "people": (by_people["people"], 1.0),
}
for name in NAMES:
    said = systems[name, "5 beams"]
    rows[f"{name}, 5 beams"] = metrics.score_words(said, written), truths(said).mean()
print(f"{'':<24}{'BLEU-1':>8}{'BLEU-4':>8}{'ROUGE-L':>9}{'CIDEr-D':>9}{'true':>7}")
for name, (found, true) in rows.items():
    values = f"{found['BLEU-1']:8.1f}{found['BLEU-4']:8.1f}{found['ROUGE-L']:9.1f}"
    print(f"{name:<24}{values}{found['CIDEr-D']:9.1f}{true:7.0%}")
assert rows["shuffled"][0]["BLEU-1"] > 40 and rows["shuffled"][0]["CIDEr-D"] < 100
assert rows["lstm, 5 beams"][0]["BLEU-4"] > rows["people"][0]["BLEU-4"]

# %% [markdown]
# Three lessons in one table.
#
# * A BLEU-1 above 50 is had without looking at the picture. CIDEr-D falls furthest when captions are shuffled,
#   which is what it was made for.
# * The lookup says more true captions than the RNN, at about the same scores. A model that does not beat its
#   nearest neighbour has learned less than a table (Devlin et al., 2015, found lookups near the best models of
#   their time).
# * **People are no ceiling.** All of their captions are true, and three models "beat" them on BLEU-4 and
#   CIDEr-D. (People are held against four references, models against five, but that is not the reason: held
#   against one of the five at a time, as below, the order stays.) People differ from each other: some say where,
#   some say what size. A model says what is *commonest* and is more like each of them than they are. So a score
#   above people's is no sign of superhuman captions, and the distance between a model and people's score says
#   nothing about truth.

# %%
for name in ("lstm", "attention"):
    four = [
        bleu(
            systems[name, "5 beams"],
            {i: captions[:k] + captions[k + 1 :] for i, captions in written.items()},
        )["BLEU-4"]
        for k in range(5)
    ]
    print(f"{name}, four references at a time: BLEU-4 {np.mean(four):.1f}", end=";  ")
    assert np.mean(four) > rows["people"][0]["BLEU-4"]
print(f"people: {rows['people'][0]['BLEU-4']:.1f}")

# %% [markdown]
# ## Against the truth
#
# Now what photos cannot give: how do the scores go with truth? Each point is a system: four models, three
# decoders each, and the controls.

# %% tags=["picture"]
points = {f"{name}, {how}": said for (name, how), said in systems.items()}
for name in NAMES:
    draw = sample(models[name], features[name], np.random.default_rng(0), 20)
    points[f"{name}, sampled"] = as_words(draw)
cider = CIDErD(written)  # counts the references once


def cider_of(captions):
    return np.mean([cider.score(i, words) for i, words in captions.items()])


measured = {
    name: (bleu(said, written)["BLEU-4"], cider_of(said), 100 * truths(said).mean())
    for name, said in points.items()
}
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
marks = {"greedy": "s", "5 beams": "o", "sampled": "^"}
for column, (ax, metric) in enumerate(zip(axes, ("BLEU-4", "CIDEr-D"), strict=True)):
    for number, name in enumerate(NAMES):
        for how, mark in marks.items():
            ax.plot(
                measured[f"{name}, {how}"][column], measured[f"{name}, {how}"][2], mark,
                color=f"C{number}", markersize=7,
            )  # fmt: skip
    for name in ("people", "nearest neighbour", "shuffled"):
        found, true = rows[name]
        ax.plot(found[metric], 100 * true, "x", color=GREY)
        ax.annotate(
            name, (found[metric], 100 * true), xytext=(-6, 6), textcoords="offset points",
            ha="right" if name != "shuffled" else "left", color=GREY, fontsize=9,
        )  # fmt: skip
    values = np.array(list(measured.values()))
    together = np.corrcoef(values[:, column], values[:, 2])[0, 1]
    ax.set(xlabel=metric, title=f"correlation over the 12 systems: {together:.2f}")
for number, name in enumerate(NAMES):
    axes[0].plot([], [], "o", color=f"C{number}", label=name)
for how, mark in marks.items():
    axes[0].plot([], [], mark, color=GREY, label=how)
axes[0].set(ylabel="% of captions true", ylim=(-5, 112))
axes[0].legend(fontsize=8, ncols=2, loc="lower right")
plt.show()

print("within a system, over its 300 captions (5 beams), correlation of score and truth:")
for name in NAMES:
    said = systems[name, "5 beams"]
    true = truths(said)
    of_bleu = [bleu({i: said[i]}, {i: written[i]})["BLEU-4"] for i in said]
    of_cider = [cider.score(i, said[i]) for i in said]
    print(
        f"  {name:<12} BLEU-4 {np.corrcoef(of_bleu, true)[0, 1]:.2f},"
        f" CIDEr-D {np.corrcoef(of_cider, true)[0, 1]:.2f}"
    )
a, b = measured["lstm, 5 beams"], measured["attention, greedy"]
print(f"LSTM, 5 beams:     BLEU-4 {a[0]:.1f}, {a[2]:.0f} % true")
print(f"attention, greedy: BLEU-4 {b[0]:.1f}, {b[2]:.0f} % true")
assert a[0] > b[0] and a[2] < b[2]

# %% [markdown]
# Over systems that differ much, the scores order things roughly as truth does. That is what they are used for,
# and why they are in use. But look closer. The LSTM with five beams has a clearly higher BLEU-4 than the
# attention model decoded greedily, and many more of its captions are false. And for a *single* caption the score
# says little: of the best models, next to nothing. (Of the attention model's captions nine are false; a
# correlation with nine of anything is itself uncertain.)
#
# **Where BLEU is fooled.** Take the true captions of the attention model and change one word of each so that it
# becomes false. First the first colour, to one that is not in the picture. Then the worst that one word can do:
# of all changes of one word to another of its kind that make the caption false, the one that BLEU minds least.
# And for comparison something harmless: another way to say the same.

# %%
FAMILIES = (
    tuple(COLOURS), ("small", "large"), ("circle", "square", "triangle"), ("left", "right"),
    ("top", "bottom", "middle"), ("above", "below", "over", "under"),
)  # fmt: skip
FAMILY = {word: family for family in FAMILIES for word in family}


def recoloured(i, words):
    at = next(j for j, word in enumerate(words) if word in COLOURS)
    there = {shape.colour for shape in scenes[i]}
    absent = next(colour for colour in COLOURS if colour not in there)
    return [*words[:at], absent, *words[at + 1 :]]


def falsified(i, words):
    """The false caption, one word away, that BLEU likes most."""
    changed = [
        [*words[:j], other, *words[j + 1 :]]
        for j, word in enumerate(words)
        for other in FAMILY.get(word, ())
        if other != word
    ]
    false = [new for new in changed if not caption_is_true(" ".join(new), scenes[i])]
    return max(false, key=lambda new: bleu({i: new}, {i: written[i]})["BLEU-4"])


def shortened(i, words):
    """Without "there is", "the picture shows", "two shapes": the same, in fewer words."""
    for start in ("there is ", "the picture shows ", "two shapes ", "one shape "):
        rest = " ".join(words).removeprefix(start).split()
        if rest != words and caption_is_true(" ".join(rest), scenes[i]):
            return rest
    return words


said = systems["attention", "5 beams"]
true_ones = {
    i: words for i, words in said.items() if caption_is_true(" ".join(words), scenes[i])
}
their_references = {i: written[i] for i in true_ones}
print(f"{'':<34}{'true':>6}{'BLEU-1':>8}{'BLEU-4':>8}{'CIDEr-D':>9}")
after = {}
for name, change in (
    ("as the attention model says it", lambda i, words: words),
    ("said without the opening words", shortened),
    ("first colour wrong", recoloured),
    ("one word wrong, the worst for us", falsified),
):
    now = {i: change(i, words) for i, words in true_ones.items()}
    by_bleu, by_cider = bleu(now, their_references), cider_d(now, their_references)
    after[name] = by_bleu["BLEU-4"]
    share = np.mean([caption_is_true(" ".join(w), scenes[i]) for i, w in now.items()])
    values = by_bleu["BLEU-1"], by_bleu["BLEU-4"], by_cider
    print("{:<34}{:6.0%}{:8.1f}{:8.1f}{:9.1f}".format(name, share, *values))
for i in (0, 4, 5):
    print(f"    {' '.join(true_ones[i])!r}\n -> {' '.join(falsified(i, true_ones[i]))!r}")
by_person, by_rnn = rows["people"][0]["BLEU-4"], measured["rnn, 5 beams"][0]
print(f"for comparison, BLEU-4: people {by_person:.1f}; RNN, 5 beams {by_rnn:.1f}")
assert after["one word wrong, the worst for us"] > rows["people"][0]["BLEU-4"]

# %% [markdown]
# In the last row **not one caption is true**, and BLEU-4 has lost six points: still more than people get, and
# far more than the RNN, of whose captions more than half are true. Leaving out three words that say nothing
# *gains* nearly as much. To BLEU a wrong "small" for "large" is one word of eleven, and half of the references
# leave the size out in any case. Nothing in BLEU knows which words matter. CIDEr-D minds more, and does not know
# either. Measures that take captions apart into objects and their properties come closer to truth (SPICE,
# Anderson et al., 2016; you build a small one in exercise 3); on photos the names of things that are not there
# are a known weakness of captioners that the usual scores do not show (Rohrbach et al., 2018).
#
# ## How sure? 300 pictures
#
# 97 % of 300 captions are true. With 300 *other* pictures of the same kind it would have been another number.
# How far would it move? Let each caption be true with probability $p$: $x = 1$ or $0$, so $x^2 = x$ and
#
# $$ \mathrm{Var}[x] = E[x^2] - E[x]^2 = p - p^2, \qquad
#    \mathrm{Var}\Big[\frac1n \sum x\Big] = \frac{p\,(1 - p)}{n}, \qquad
#    \text{standard error} = \sqrt{\frac{p\,(1 - p)}{n}} $$
#
# The variance of a sum of independent things is the sum of their variances, $n\,p(1-p)$, and dividing by $n$
# divides the variance by $n^2$. For $n = 300$:

# %%
for p in (0.97, 0.85, 0.5):
    error = math.sqrt(p * (1 - p) / 300)
    print(f"p = {p:.2f}: standard error {100 * error:.1f} percentage points")

# %% [markdown]
# One point at 97 %, two at 85 %; and in one of twenty cases a figure is off by more than *two* standard errors.
# For BLEU there is no such formula: it is a ratio of sums to a power. The **bootstrap** (Efron, 1979) needs
# none. We have one sample of 300 pictures and no other, so we treat it as if it were the world and draw new
# samples from it, *with* replacement: some pictures come twice, some not at all. How much the score varies
# between such samples is an estimate of how much it would vary between real ones. By hand, with five captions:

# %%
rng = np.random.default_rng(1)
five = np.array([1, 1, 0, 1, 1])
for _ in range(3):
    drawn = rng.integers(5, size=5)
    print(f"drawn {drawn}, their truths {five[drawn]}, share {five[drawn].mean():.1f}")

# %% [markdown]
# For BLEU each picture brings ten numbers: right and all $n$-grams for four $n$, and two lengths. A sample is a
# sum of rows of that table, and how often each row is drawn is all that we need: 2,000 samples are *one* matrix
# product.


# %%
def bleu_counts(captions):
    """(300, 10): right n-grams, all n-grams, c and r of each picture."""
    rows = []
    for i, words in captions.items():
        pairs = [clipped(words, written[i], n) for n in (1, 2, 3, 4)]
        _, r = min((abs(len(one) - len(words)), len(one)) for one in written[i])
        rows.append([*(a for a, _ in pairs), *(b for _, b in pairs), len(words), r])
    return np.array(rows, float)


def bleu_of(sums):
    """BLEU-4 of rows of ten sums."""
    right, said, c, r = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    return 100 * np.minimum(1, np.exp(1 - r / c)) * np.prod(right / said, axis=-1) ** 0.25


rng = np.random.default_rng(0)
draws = np.array(
    [np.bincount(rng.integers(300, size=300), minlength=300) for _ in range(2000)]
)
names = ["rnn, 5 beams", "lstm, 5 beams", "attention, 5 beams", "transformer, 5 beams"]
names.append("attention, greedy")
bootstrap, shares = {}, {}
for name in names:
    table, true = bleu_counts(points[name]), truths(points[name])
    assert np.isclose(bleu_of(table.sum(axis=0)), measured[name][0], rtol=1e-6)
    bootstrap[name], shares[name] = bleu_of(draws @ table), 100 * (draws @ true) / 300
    low, high = np.percentile(bootstrap[name], (2.5, 97.5))
    formula = 100 * math.sqrt(true.mean() * (1 - true.mean()) / 300)
    print(
        f"{name:<21} BLEU-4 {measured[name][0]:.1f}, 95 % from {low:.1f} to {high:.1f};"
        f"  true {100 * true.mean():.0f} %, standard error {shares[name].std():.1f}"
        f" (formula {formula:.1f})"
    )
    assert abs(shares[name].std() - formula) < 0.3

# %% [markdown]
# The bootstrap finds the formula where there is one. And a BLEU-4 of 300 pictures is known to two or three
# points either way. The intervals of the LSTM (67 to 72) and of attention (71 to 76) overlap. So they cannot be
# told apart?
#
# They can. What we ask is whether the *difference* is above 0. Of two independent scores the variances add, so
# the difference has an error of $\sqrt2$ times one score's, not of twice it: overlapping intervals decide
# nothing. And these scores are not independent. Both captioned the **same** pictures: where the pictures are
# hard, both lose, and the difference varies less than that. The **paired bootstrap** (Koehn, 2004) draws
# pictures and computes both scores on the same draw:

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.3))
comparisons = (
    ("lstm, 5 beams", "attention, 5 beams"),
    ("attention, 5 beams", "transformer, 5 beams"),
    ("lstm, 5 beams", "attention, greedy"),
)
print(f"{'difference of BLEU-4':<44}{'':>6}{'95 % paired':>16}{'not paired':>18}")
paired = {}
for one, other in comparisons:
    paired[one, other] = bootstrap[other] - bootstrap[one]
    apart = bootstrap[other] - np.roll(bootstrap[one], 1)  # of different draws
    cells = [
        "{:.1f} to {:.1f}".format(*np.percentile(d, (2.5, 97.5)))
        for d in (paired[one, other], apart)
    ]
    label = f"{other} - {one}"
    gap = measured[other][0] - measured[one][0]
    print(f"{label:<44}{gap:6.1f}{cells[0]:>16}{cells[1]:>18}")
    assert paired[one, other].std() < apart.std()
for ax, (one, other) in zip(axes, comparisons, strict=False):
    ax.hist(
        bootstrap[other] - np.roll(bootstrap[one], 1),
        40,
        color=GREY,
        alpha=0.4,
        label="not paired",
    )
    ax.hist(paired[one, other], 40, color=BLUE, alpha=0.7, label="paired")
    ax.axvline(0, color=ORANGE)
    ax.set(
        xlabel="difference of BLEU-4",
        ylabel="samples of 2,000",
        title=f"{other}\nagainst {one}",
    )
    ax.legend(fontsize=8)
plt.show()
one, other = comparisons[2]
gap = shares[other] - shares[one]
low, high = np.percentile(gap, (2.5, 97.5))
print(f"{other} - {one}, share true: 95 % between {low:.0f} and {high:.0f} points")
assert np.percentile(paired[one, other], 97.5) < 0 < low

# %% [markdown]
# The first difference is real, the second is none: no one can say from this which of the two has the higher
# BLEU-4. The third is the lesson in one line. BLEU-4 finds the LSTM *better*, beyond the doubt that 300 pictures
# leave; truth finds it *worse*, beyond the same doubt. An interval says how far a number would move with other
# pictures. It does not say that the number measures what you want to know. (Nor does it cover another seed of
# the training, which moves a score as well; for that, train again.)
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/13_is_it_any_good.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · Clipping (one line)
#
# How many of a candidate's words are right, each counted at most as often as in the one reference that has it
# most? All are lists of words.


# %% tags=["exercise"]
def right_words(candidate, references):
    ### BEGIN SOLUTION
    return sum(
        min(candidate.count(w), max(r.count(w) for r in references)) for w in set(candidate)
    )
    ### END SOLUTION


def by_counters(candidate, references):
    most = Counter()
    for reference in references:
        most |= Counter(reference)
    return sum((Counter(candidate) & most).values())


compare(
    right_words,
    by_counters,
    "a red circle and a red square and a cat".split(),
    ["a red circle".split(), "a red circle and a blue square".split()],
    also={
        "when no word is right": (["cat"], [["a", "dog"]]),
        "for an empty candidate": ([], [["a", "dog"]]),
        "for one reference": ("a a b".split(), ["a b b".split()]),
    },
    exercise="13.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · The paired bootstrap
#
# `one` and `other` hold a score for each of $n$ pictures, of two systems; `draws` $(R, n)$ holds picture
# numbers, a bootstrap sample in each row. Return the 2.5 % and the 97.5 % percentile of the difference of the
# mean scores, `other` less `one`, as an array of two. No loop.


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
# SPICE (Anderson et al., 2016) takes captions apart into objects and their properties and compares those. Make a
# small one. Let the **facts** of a caption be its pairs (colour, kind), and triples (size, colour, kind) where a
# size is said. The score of a caption is the share of its facts that are found among the facts of the references
# of its picture. On the RNN's captions BLEU-4 correlates with truth at 0.52 and CIDEr-D at 0.63: beat 0.75. Can
# you go further with places and relations?


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
# ## What to keep
#
# * BLEU counts runs of words that are in a reference, clipped, over a whole corpus; CIDEr-D compares runs
#   weighed by how rare they are. Neither knows what is in the picture.
# * Say how: tokens, references, decoder, number of pictures. Otherwise nobody can compare.
# * Only what a model says alone is its caption. Errors compound, and a model that was never wrong in training is
#   lost once it is.
# * Controls first: shuffled, constant, nearest neighbour, people. People's score is no ceiling.
# * A figure without an interval is half a figure; compare two systems on the same pictures, paired. And an
#   interval does not make a measure the right one.
#
# **Sources.** K. Papineni, S. Roukos, T. Ward and W.-J. Zhu, *BLEU: a method for automatic evaluation of machine
# translation*, ACL 2002. C.-Y. Lin, *ROUGE: a package for automatic evaluation of summaries*, ACL workshop 2004.
# R. Vedantam, C. L. Zitnick and D. Parikh, *CIDEr: consensus-based image description evaluation*, CVPR 2015. P.
# Anderson, B. Fernando, M. Johnson and S. Gould, *SPICE: semantic propositional image caption evaluation*, ECCV
# 2016. C. Callison-Burch, M. Osborne and P. Koehn, *Re-evaluating the role of BLEU in machine translation
# research*, EACL 2006. M. Post, *A call for clarity in reporting BLEU scores*, WMT 2018. M. Ranzato, S. Chopra,
# M. Auli and W. Zaremba,
# *Sequence level training with recurrent neural networks*, ICLR 2016. J. Devlin, S. Gupta, R. Girshick, M.
# Mitchell and C. L. Zitnick, *Exploring nearest neighbor approaches for image captioning*, 2015. A. Rohrbach, L.
# A. Hendricks, K. Burns, T. Darrell and K. Saenko, *Object hallucination in image captioning*, EMNLP 2018. B.
# Efron, *Bootstrap methods: another look at the jackknife*, Annals of Statistics 7 (1979). P. Koehn,
# *Statistical significance tests for machine translation evaluation*, EMNLP 2004.
#
# **Next:** [lesson 14, your own photo](14_your_own_photo.ipynb).
