# %% [markdown]
# # 13b · Scores in detail
#
# **The question.** How are CIDEr-D and ROUGE-L computed, to the last decimal? What is wrong with scoring a model that reads
# the references? What happens to it after a mistake of its own? And can one train on a score?
#
# *This goes deeper than [lesson 13](13_is_it_any_good.ipynb); no lesson needs it. Read lesson 13 first. About 40 minutes;
# all cells together run in half a minute.*

# %% tags=["setup"]
import itertools
import math
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import decode_captions
from core.decoding import beam_search, greedy, never_said
from core.lessons import BLUE, ORANGE
from core.metrics import bleu, cider_d, ngrams, rouge_l
from core.scenes import COLOURS, KINDS, relations
from core.shapes import (
    DEFAULT_FOLDER,
    PLACES,
    RELATIONS,
    TEMPLATES,
    caption_is_true,
    load_scenes,
)

lessons.style()

NAMES = ("rnn", "lstm", "attention", "transformer")
models = {name: lessons.load_trained(name)[0] for name in NAMES}
data, grids = lessons.embedded_data("rnn"), lessons.embedded_data("attention")
idx_to_word = data["idx_to_word"]

# %% [markdown]
# ## CIDEr-D in full
#
# Each $n$-gram $g$ has a weight: the logarithm of the number of pictures over the number of pictures whose references
# have $g$. A caption becomes four vectors, one for each $n$, with the entries $v_g = \text{count}(g)\, w_g$. Plain CIDEr
# is the mean of the four cosines with a reference, averaged over the references.
#
# A cosine does not see length: the vectors of "blue blue blue" and "blue" have the same direction. CIDEr-**D** makes two
# repairs. Each entry is clipped at that of the reference. And a difference in length costs. For a candidate of $l_c$
# words with the vector $c$, and a reference of $l_r$ words with the vector $r$, each $n$ gives
#
# $$ e^{-(l_c - l_r)^2 / 72} \cdot \frac{\sum_g \min(c_g, r_g)\, r_g}{\lVert c \rVert\, \lVert r \rVert} $$
#
# The mean over the four $n$ and over the references is multiplied by 10. The project prints 100 times that, in the style
# of BLEU, so 1,000 is the most.


# %%
def weights_of(references):
    """n-gram -> log of pictures over pictures that have it in a reference."""
    having = Counter()
    for captions in references.values():
        having.update(set().union(*map(ngrams, captions)))
    return {gram: math.log(len(references) / count) for gram, count in having.items()}


def vectors(words, weights, unseen):
    """Four vectors, for n from 1 to 4: n-gram -> count times weight."""
    found = [{}, {}, {}, {}]
    for gram, count in ngrams(words).items():
        found[len(gram) - 1][gram] = count * weights.get(gram, unseen)
    return found


# %%
def likeness(words, reference, weights, unseen, gamed=False):
    """0 to 1; ``gamed`` leaves out the two repairs."""
    cosines = []
    both = (vectors(text, weights, unseen) for text in (words, reference))
    for c, r in zip(*both, strict=True):
        product = sum((c[g] if gamed else min(c[g], r[g])) * r[g] for g in c if g in r)
        norms = math.hypot(*c.values()) * math.hypot(*r.values())
        cosines.append(product / norms if product else 0.0)
    off = 0 if gamed else len(words) - len(reference)
    return np.mean(cosines) * math.exp(-(off**2) / 72)


# %%
def my_cider_d(candidates, references, gamed=False):
    rest = weights_of(references), math.log(len(references)), gamed
    each = [[likeness(w, r, *rest) for r in references[i]] for i, w in candidates.items()]
    return 1000 * np.mean(each)


# %% [markdown]
# **Predict.** Say each caption of the RNN three times over, as one long caption. What happens to CIDEr without the D? And
# to CIDEr-D?

# %% tags=["hide-input"]
features = {}
for name in NAMES:
    of = grids if models[name].grid else data
    features[name] = np.concatenate([of["val_features"], of["test_features"]])
scenes = load_scenes(DEFAULT_FOLDER, "val") + load_scenes(DEFAULT_FOLDER, "test")


def as_words(ids):
    """Word ids, one caption per picture -> {picture: words}."""
    return {
        i: caption.split() for i, caption in enumerate(decode_captions(ids, idx_to_word))
    }


written = {i: [] for i in range(300)}  # the references of the first split, as words
for i, caption in zip(
    data["val_image_idxs"], decode_captions(data["val_captions"], idx_to_word), strict=True
):
    written[int(i)].append(caption.split())
of_rnn = as_words(beam_search(models["rnn"], features["rnn"][:300], 5, 20)[0][:, 0])

# %%
thrice = {i: words * 3 for i, words in of_rnn.items()}
for name, captions in (("as said", of_rnn), ("three times over", thrice)):
    gamed, clean = my_cider_d(captions, written, gamed=True), my_cider_d(captions, written)
    print(f"{name:<18} without the D {gamed:6.1f}   CIDEr-D {clean:6.1f}")
    assert abs(clean - cider_d(captions, written)) < 1e-9 * clean
assert gamed > 250 and clean < 10

# %% [markdown]
# <details><summary>Answer</summary>
#
# Without the D it falls from 335.8 to 286.6 only: most of the score is kept by a caption that nobody would accept.
# CIDEr-D falls from 307.2 to 3.3. Ours and `core`'s are equal.
#
# </details>
#
# ## ROUGE-L
#
# ROUGE-L asks for the longest common **subsequence** of candidate and reference: words in the same order, with gaps
# allowed. A table finds it, row by row. Entry $(i, j)$ is for the first $i$ words of one and the first $j$ of the other.
# If word $i$ equals word $j$, it is one more than entry $(i-1, j-1)$. Otherwise it is the larger one of $(i-1, j)$ and
# $(i, j-1)$.

# %%
said = "a red circle above a square".split()
reference = "a red circle is above a blue square".split()
table = np.zeros((len(said) + 1, len(reference) + 1), dtype=int)
for i, j in itertools.product(range(1, len(said) + 1), range(1, len(reference) + 1)):
    same = said[i - 1] == reference[j - 1]
    table[i, j] = table[i - 1, j - 1] + 1 if same else max(table[i - 1, j], table[i, j - 1])
print(" " * 8 + "".join(f"{word:>8}" for word in reference))
for word, row in zip(said, table[1:], strict=True):
    print(f"{word:<8}" + "".join(f"{value:8}" for value in row[1:]))

# %% [markdown]
# The last entry, 6, over the candidate's 6 words is a precision $P$; over the reference's 8 words it is a recall $R$.
# Each is the best over the references. They are joined with $\beta = 1.2$:
# $(1 + \beta^2)\, P R / (R + \beta^2 P)$.

# %%
P, R = table[-1, -1] / len(said), table[-1, -1] / len(reference)
ours = 100 * (1 + 1.2**2) * P * R / (R + 1.2**2 * P)
print(f"P = {P:.3f}, R = {R:.3f}, ROUGE-L {ours:.1f}")
assert np.isclose(ours, rouge_l({0: said}, {0: [reference]}))

# %% [markdown]
# ## Alone, or with help
#
# In training a model reads the **true** words so far (teacher forcing). When it captions, it reads its own. A training
# script has the scores of all next words at hand. It is tempting to take the most probable word at every place, each
# after the *reference's* words so far, put them in a row and call their BLEU the model's.
#
# **Predict.** Is it higher or lower than that of the captions the model says alone? And are these rows of words captions?

# %% tags=["hide-input"]
# Both splits: 600 pictures, 3,000 references.
captions = np.concatenate([data["val_captions"], data["test_captions"]]).astype(np.int64)
owner = np.concatenate([data["val_image_idxs"], data["test_image_idxs"] + 300])


def with_help(name):
    """At each place of each reference: the best next word after the true words before it."""
    model, best = models[name], []
    state = model.begin(features[name][owner])
    for words in captions.T[:-1]:
        log_probs, state = model.step(state, words)
        log_probs[:, never_said(model)] = -np.inf
        best.append(log_probs.argmax(axis=1))
    return np.stack(best, axis=1)


counts = captions[:, 1:] != 0  # not padding
firsts = np.unique(owner, return_index=True)[1][:300]  # of each picture its first reference
fed = {i: several[:1] for i, several in written.items()}  # this one the model is fed
of_val = owner < 300

# %%
for name in ("rnn", "attention"):
    best = with_help(name)
    row = as_words(np.where(counts, best, 0)[firsts])
    hit = (best == captions[:, 1:])[of_val][counts[of_val]].mean()
    true = np.mean(
        [caption_is_true(" ".join(words), scenes[i]) for i, words in row.items()]
    )
    print(f"{name}: next word right {hit:.0%}; these rows of words are true: {true:.0%}")
    beams = as_words(beam_search(models[name], features[name][:300], 5, 20)[0][:, 0])
    forced, alone = bleu(row, fed)["BLEU-4"], bleu(beams, fed)["BLEU-4"]
    print(
        f"   BLEU-4 against the caption that was fed: forced {forced:.1f}, alone {alone:.1f}"
    )
    print("   fed:", " ".join(fed[1][0]), "  forced:", " ".join(row[1]))
    assert 7.5 < forced - alone < 9.5 and true < 0.1

# %% [markdown]
# <details><summary>Answer</summary>
#
# Higher, by 8 or 9 points: the model was shown the answer, one word late. And almost none of these rows is a true
# sentence.
#
# </details>
#
# ## Word by word
#
# How many of a model's next words are right with help, and how many alone? "The same word as in the reference" is too
# strict: after "there is a" both "small" and "red" may be right. On the embedded data there is a better question: can
# the caption still **become true** after this word? We list all true captions of each picture, with all their
# beginnings.

# %% tags=["hide-input"]


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
assert all(
    (*words, "<END>") in can_be_true[i]
    for i, several in written.items()
    for words in several
)


def helped_by_position(name, T=12):
    """(2, T): next words that keep a reference's beginning true, and how many there are."""
    counts = np.zeros((2, T))
    for row, picture, best in zip(captions, owner, with_help(name), strict=True):
        words = [idx_to_word[i] for i in row[1:] if i]
        for t in range(min(T, len(words))):
            counts[:, t] += ((*words[:t], idx_to_word[best[t]]) in can_be_true[picture]), 1
    return counts


def alone_by_position(name, T=12):
    """The same after the model's own words, while all are right; the share still right; lengths."""
    counts, intact = np.zeros((2, T)), np.zeros(T)
    spoken = as_words(greedy(models[name], features[name], 20))
    for picture, words in spoken.items():
        words, true = (*words, "<END>"), True
        for t in range(T):
            if true and t < len(words):
                true = words[: t + 1] in can_be_true[picture]
                counts[:, t] += true, 1
            intact[t] += true
    goes_on = [np.mean([len(words) >= t for words in spoken.values()]) for t in range(T)]
    return counts, intact / len(spoken), np.array(goes_on)


figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharex=True)
places, rates, ends = np.arange(1, 13), {}, {}
for name, colour in (("rnn", ORANGE), ("attention", BLUE)):
    helped = helped_by_position(name)
    alone, intact, goes_on = alone_by_position(name)
    expected = np.cumprod(1 - goes_on * (1 - helped[0] / helped[1]))
    axes[0].plot(
        places, helped[0] / helped[1], "o-", color=colour, label=f"{name}, with help"
    )
    axes[0].plot(places, alone[0] / alone[1], "s--", color=colour, label=f"{name}, alone")
    axes[1].plot(places, expected, "o-", color=colour, label=f"{name}, product")
    axes[1].plot(places, intact, "s--", color=colour, label=f"{name}, alone")
    rates[name] = [kept.sum() / asked.sum() for kept, asked in (helped, alone)]
    ends[name] = expected[-1], intact[-1]
axes[0].set(xlabel="word", title="the next word keeps it true", ylim=(0.7, 1.01))
axes[1].set(xlabel="word", title="nothing wrong so far", ylim=(0, 1.02))
for ax in axes:
    ax.legend(loc="lower left", fontsize=9)
plt.show()
for name, (helped, alone) in rates.items():
    print(f"{name:<10} right words: {helped:.1%} with help, {alone:.1%} alone", end="; ")
    print("captions: product {:.0%}, found {:.0%}".format(*ends[name]))
    assert helped > alone and ends[name][0] > ends[name][1] + 0.02
assert rates["rnn"][0] > 0.9 and ends["rnn"][0] < 0.6 and ends["rnn"][1] < 0.4

# %% [markdown]
# Mistakes **compound**. If each word goes right with probability $1 - \varepsilon$, all $n$ words do with
# $(1 - \varepsilon)^n$. The RNN's next word is right 94 times of 100, and the product of these shares leaves about half
# of the captions. So a share of right *words* sounds better than the share of right *captions* is.
#
# Alone it does worse than the product, and that *before* any mistake of its own: only beginnings that are right so far
# count. So the beginnings differ. With help the model continues what a reference begins. Alone it chooses them itself.
#
# ## After a mistake
#
# In training the model has only read beginnings that are right. What does it do after one that is not? This is the
# question of **exposure bias** (Ranzato et al., 2016). To measure it, take the choice away. On all 258 pictures with two
# shapes, we write a beginning such as "a red circle and" for it: true, or with *one* wrong word, in every possible way.
# Then we count how often it goes on to name the other shape rightly.
#
# **Predict.** After a true beginning it does so nearly always. And after a wrong colour?

# %% tags=["hide-input"]


def begun(one, other, slip):
    """All beginnings of this kind: true of the first shape, or with one wrong word."""
    colours, kinds = [one.colour], [one.kind]
    if slip == "colour":
        colours = [c for c in COLOURS if c not in (one.colour, other.colour)]
    if slip == "kind":
        kinds = [k for k in KINDS if k not in (one.kind, other.kind)]
    return [["a", c, k, "and"] for c in colours for k in kinds]


def ends_of(name, pictures, first_words):
    """The last two words of greedy continuations of given beginnings."""
    model, state = models[name], models[name].begin(features[name][pictures])
    tokens, after = np.full(len(pictures), model.start), []
    for words in zip(*first_words, strict=True):
        _, state = model.step(state, tokens)
        tokens = np.array([model.word_to_idx[word] for word in words])
    for _ in range(5):
        log_probs, state = model.step(state, tokens)
        log_probs[:, never_said(model)] = -np.inf
        tokens = log_probs.argmax(axis=1)
        after.append(tokens)
    return [
        text.split()[-2:] for text in decode_captions(np.stack(after, axis=1), idx_to_word)
    ]


def share_and_error(hits, pictures):
    """The mean, and its standard error: beginnings of one picture count as one."""
    gaps = np.bincount(pictures, hits - hits.mean())
    return hits.mean(), math.sqrt((gaps**2).sum()) / len(hits)


pairs = [
    (i, *order)
    for i, scene in enumerate(scenes)
    if len(scene) == 2
    for order in (scene, scene[::-1])
]
assert len({i for i, *_ in pairs}) == 258
cases = {
    slip: [(i, one, other, b) for i, one, other in pairs for b in begun(one, other, slip)]
    for slip in ("none", "colour", "kind")
}
found = {}

# %%
print(
    f"{'':<12}{'wrong':<8}{'beginnings':>11}{'the other shape':>20}{'the first again':>20}"
)
for name, slip in itertools.product(NAMES, cases):
    pictures, ones, others, words = zip(*cases[slip], strict=True)
    ends = ends_of(name, list(pictures), words)
    row = []
    for shapes in (others, ones):
        hits = [end == [s.colour, s.kind] for end, s in zip(ends, shapes, strict=True)]
        row.append(share_and_error(np.array(hits, float), np.array(pictures)))
    found[name, slip] = row
    print(f"{name:<12}{slip:<8}{len(ends):>11}", end="")
    print("".join(f"{100 * share:12.0f} ± {100 * error:.1f} %" for share, error in row))

# %% tags=["hide-input"]
for name in NAMES:
    (other, error), (again, _) = found[name, "colour"]
    assert found[name, "none"][0][0] > 0.99 and 0.5 + 3 * error < other < 0.7
    assert len(cases["colour"]) > 1500 and error < 0.015
    if models[name].grid:
        assert other + again > 0.98 and found[name, "kind"][0][0] > 0.94
    else:
        assert 0.25 < 1 - other - again < 0.4

# %% [markdown]
# <details><summary>Answer</summary>
#
# The same model and the same picture, with one word of the beginning changed: after a wrong colour the rest is right in
# 56 % (RNN) to 66 % (attention) of 1,596 cases. That is far from always.
#
# </details>
#
# The models with attention nearly always name one of the two shapes, but often the first one again: they cannot tell
# which one was meant. The recurrent ones name something that is not there in about a third of the cases. A wrong kind
# does little harm to the models with attention, since the colour still says which shape it was.
#
# A person would say: the first half was wrong, the second need not be. The model never learned that sentences can have a
# wrong first half.
#
# ## Training on a score
#
# A remedy is to train on what the model says itself. Sample a caption $k$ with probability $p_k$, score it with a reward
# $R_k$, CIDEr-D say, and raise the expected reward. Its gradient by the model's scores $s$ (with $p$ their softmax) needs
# samples only:
#
# $$ \frac{\partial\, E[R]}{\partial s} = E\big[(R_k - b)\,(\mathbf{1}_k - p)\big] $$
#
# Here $\mathbf{1}_k - p$ is the gradient of $\log p_k$. The **baseline** $b$ is any number that does not depend on $k$:
# it changes nothing on average, because the mean of $\mathbf{1}_k - p$ is zero.
#
# **Predict.** Three captions have the probabilities 0.5, 0.3 and 0.2 and the rewards 300, 320 and 310. What does
# $b = 308$, the mean reward, change?

# %%
p, R = np.array([0.5, 0.3, 0.2]), np.array([300.0, 320.0, 310.0])
exact = p * (R - p @ R)
print("exact gradient", exact)
k = np.random.default_rng(0).choice(3, size=100_000, p=p)
spread = {}
for b in (0.0, p @ R):
    each = (R[k] - b)[:, None] * (np.eye(3)[k] - p)
    spread[b] = np.linalg.norm(each.std(axis=0))
    print(f"baseline {b:3.0f}: mean {each.mean(axis=0)}, spread {spread[b]:.1f}")
    assert np.abs(each.mean(axis=0) - exact).max() < 5 * spread[b] / math.sqrt(len(k))

# %% tags=["hide-input"]
assert spread[0.0] > 30 * spread[p @ R]
assert np.isclose(p @ R, 308)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The mean stays, and the spread falls to less than a thirtieth. Without a baseline every sampled caption is made more
# probable, only some more than others, and noise hides the difference.
#
# </details>
#
# **Self-critical training** (Rennie et al., 2017) takes as baseline the reward of the model's own greedy caption, or of
# its other samples. It starts from a trained model, and it is one option of `training.py`:
# `--objective scst --init RUN` ([docs/photos.md](../docs/photos.md)). What is rewarded is what grows: with BLEU-4 beside
# CIDEr-D in the reward (`--bleu_reward 1`), a Transformer on photos gained 1.2 in BLEU-4 and lost 1.8 in CIDEr-D
# ([figures](../docs/results-shapes.md#on-flickr8k)). Whether *truth* grows is another question, and you know now how to ask
# it.
#
# **Sources.** R. Vedantam, C. L. Zitnick and D. Parikh, *CIDEr*, CVPR 2015. C.-Y. Lin, *ROUGE: a package for automatic
# evaluation of summaries*, ACL workshop 2004. M. Ranzato, S. Chopra, M. Auli and W. Zaremba, *Sequence level training
# with recurrent neural networks*, ICLR 2016. S. Rennie et al., *Self-critical sequence training for image captioning*,
# CVPR 2017. R. Williams, *Simple statistical gradient-following algorithms for connectionist reinforcement learning*,
# Machine Learning 8 (1992).
