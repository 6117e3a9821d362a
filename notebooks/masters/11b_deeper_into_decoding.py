# %% [markdown]
# # 11b · Deeper into decoding
#
# **The question.** Beam search finds a probable caption. What is the *most* probable one, and would you want it? When
# may a search stop? And why does a Transformer not have to read the whole caption again for each new word?
#
# You find the mode of a trained model for certain, in fifteen lines. You derive a bound that ends a search early
# without changing its result, write top-p, and count what a cache of keys and values saves.
#
# *Before: [lesson 11](11_decoding.ipynb), and [lesson 10](10_the_transformer_block.ipynb) for the cache. No lesson needs
# this notebook. About 50 minutes; all cells together run in half a minute.*

# %% tags=["setup"]
import copy

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import decode_captions
from core.decoding import beam_search, greedy, sample, word_log_probabilities
from core.layers import affine_forward, log_softmax
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, show_source, with_slips
from core.shapes import DEFAULT_FOLDER, caption_is_true, load_scenes
from core.transformer_layers import decoder_block_step

lessons.style()

# %% tags=["setup", "hide-input"]
# What the task is compared with. It gives the answer away: solve the task first.
FIVE = np.array([0.45, 0.25, 0.15, 0.10, 0.05])


def by_sorting_out(p, share, scaled=True):
    number = next(n for n in range(1, len(p) + 1) if p[:n].sum() >= share)
    kept = np.append(p[:number], np.zeros(len(p) - number))
    return kept / kept.sum() if scaled else kept


HEAD = {
    "they hold less than the share: one more word belongs to them": lambda p, share: (
        np.where(np.cumsum(p) < share, p, 0) / p[np.cumsum(p) < share].sum()
    ),
    "the rest must add to 1 again": lambda p, share: by_sorting_out(p, share, scaled=False),
}


# %% tags=["hide-input"]
runs = {name: lessons.load_trained(name)[0] for name in ("rnn", "transformer")}
data = {name: lessons.embedded_data(name) for name in runs}
features = {name: np.asarray(data[name]["val_features"]) for name in runs}
idx_to_word = data["rnn"]["idx_to_word"]
scenes = load_scenes(DEFAULT_FOLDER, "val")
rnn, pictures = runs["rnn"], features["rnn"]
transformer, grids = runs["transformer"], features["transformer"]
COLOURS = {"rnn": ORANGE, "transformer": BLUE}


def sentences(ids):
    return decode_captions(ids, idx_to_word)


def truths(captions):
    """Whether each caption is true of its picture, from the first picture on."""
    pairs = zip(captions, scenes[: len(captions)], strict=True)
    return np.array([caption_is_true(caption, scene) for caption, scene in pairs])


def log_probability(model, features, ids):
    """log P of whole captions: the model reads them and says how probable each word is."""
    first = np.full((len(ids), 1), model.start)
    return word_log_probabilities(model, features, np.hstack([first, ids])).sum(axis=1)


def ids_of(found, longest=20):
    """Lists of ids of many lengths -> an array, padded."""
    ids = np.full((len(found), longest), rnn.null)
    for row, words in zip(ids, found, strict=True):
        row[: len(words)] = words
    return ids


def scored(model, state, tokens, log_p):
    """log P of each beginning with each next word (rows, V), and the state after it."""
    log_probs, state = model.step(state, tokens)
    total = log_p[:, None] + log_probs
    total[:, [model.null, model.start, model.unknown]] = -np.inf
    return total, state


# %% [markdown]
# ## The most probable caption, for certain
#
# The most probable value of a distribution is its **mode**. Brute force would find it among $10^{18}$ captions. One
# remark makes it easy: $\log P$ can only fall as words are added. So once *any* caption of probability $P$ is
# known, every beginning with less than $P$ can be dropped.
#
# How many beginnings are left? Those of the same length exclude each other, so their probabilities add to at most 1.
# At most $1/P$ of them can have $P$ or more.
#
# **Predict.** Ten beams find captions of the RNN with $\log P = -3.76$ on average. About how many beginnings per length
# can be left for such a picture?


# %%
def exact_search(model, features, best):
    """The mode for one picture, if log P is above best -> log P, ids, rows per step."""
    said, rows, beams, log_p = None, [], [[]], np.zeros(1)
    state, tokens = model.begin(features), np.array([model.start])
    while len(tokens):
        rows.append(len(tokens))
        total, state = scored(model, state, tokens, log_p)
        ends = total[:, model.end].copy()
        if ends.max() > best:
            best, said = ends.max(), [*beams[ends.argmax()], model.end]
        total[:, model.end] = -np.inf
        parents, tokens = np.nonzero(total > best)
        beams = [[*beams[i], w] for i, w in zip(parents, tokens.tolist(), strict=True)]
        log_p, state = total[parents, tokens], model.select(state, parents)
    return best, said, rows


# %% tags=["hide-input"]
COUNT = 100  # pictures
modes = {}
for name, model in runs.items():
    _, known = beam_search(model, features[name][:COUNT], 10, 20, length_penalty=0)
    found = [
        exact_search(model, features[name][i : i + 1], known[i, 0] - 1e-4)
        for i in range(COUNT)
    ]
    log_p = np.array([float(best) for best, _, _ in found])
    most = max(max(rows) for _, _, rows in found)
    for (_, _, rows), first in zip(found, known[:, 0], strict=True):
        assert max(rows) <= np.exp(1e-4 - first)
    modes[name] = log_p, truths(sentences(ids_of([said for _, said, _ in found])))
    print(
        f"{name:<12} mode: mean log P {log_p.mean():.2f}, {modes[name][1].mean():.0%} true;"
        f" at most {most} beginnings per length,"
        f" {np.mean([sum(rows) for *_, rows in found]):.0f} rows per picture"
    )
    assert (log_p >= known[:, 0] - 1e-4).all()
first = rnn.step(rnn.begin(pictures), np.full(300, rnn.start))[0][:, rnn.end]
print(f"rnn: the empty caption has P = {np.exp(first.max()):.0e} at most")
assert np.exp(first.max()) < 1e-3

# %% [markdown]
# <details><summary>Answer</summary>
#
# $e^{3.76} = 43$. The search for the mode costs little more than a wide beam, because these models are sure of
# themselves. With a model that spreads its probability over millions of captions it would not end.
#
# </details>
#
# The mode is not the caption that you will draw. It has two or three percent of the probability here; the other
# captions have the rest together. It is not always what you want either. In translation the mode of a good model is the
# *empty* sentence for half of the inputs (Stahlberg and Byrne, 2019). Our models hardly ever end at once.
#
# ## Are wider beams better?
#
# Now we can say how often a beam finds the mode. **Predict**: from which width on is it nearly always found?

# %% tags=["hide-input"]
WIDTHS = (1, 2, 3, 5, 10, 20)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
for name, model in runs.items():
    log_p, true, exact = [], [], []
    for B in WIDTHS:
        ids, scores = beam_search(model, features[name][:COUNT], B, 20, length_penalty=0)
        log_p.append(scores[:, 0].mean())
        true.append(100 * truths(sentences(ids[:, 0])).mean())
        exact.append(np.mean(scores[:, 0] > modes[name][0] - 1e-3))
    line = dict(color=COLOURS[name], label=name)
    axes[0].plot(WIDTHS, log_p, "o-", **line)
    axes[0].axhline(modes[name][0].mean(), color=COLOURS[name], linestyle=":")
    axes[1].plot(WIDTHS, true, "o-", **line)
    axes[1].axhline(100 * modes[name][1].mean(), color=COLOURS[name], linestyle=":")
    shares = ", ".join(f"{B}: {share:.0%}" for B, share in zip(WIDTHS, exact, strict=True))
    print(f"{name:<12} the mode is found, by width: {shares}")
    assert exact[-1] > 0.9 and exact[0] < 0.5 and log_p[-1] > log_p[0] + 0.3
axes[0].set(ylabel="nats", title="mean log P")
axes[1].set(ylabel="% of captions", title="true", ylim=(0, 103))
for ax in axes:
    ax.set(xscale="log", xticks=WIDTHS, xlabel="beams (dotted: the mode)")
    ax.set_xticks([], minor=True)
    ax.set_xticklabels(WIDTHS)
    ax.legend(loc="lower right", fontsize=12)
plt.show()

# %% [markdown]
# Beyond ten beams almost nothing changes but the work. Truth follows the score here, because what these models find
# probable is mostly true. It need not be so. In translation wide beams end in worse and shorter sentences (Koehn
# and Knowles, 2017). A worse search can hide a worse model.
#
# One point of the left picture is odd: two beams of the Transformer do no better than greedy. Look closer:

# %%
one = greedy(transformer, grids, 20)
two = beam_search(transformer, grids, 2, 20, length_penalty=0)[0][:, 0]
loss = log_probability(transformer, grids, one) - log_probability(transformer, grids, two)
less, more = np.mean(loss > 1e-3), np.mean(loss < -1e-3)
print(
    f"two beams find a less probable caption than greedy for {less:.0%}, more for {more:.0%}"
)
worst = int(loss.argmax())
for name, ids in (("greedy", one[worst]), ("two beams", two[worst])):
    words = np.array([[transformer.start, *ids]])
    log_p = word_log_probabilities(transformer, grids[worst : worst + 1], words)[0]
    three, all_of_it = np.exp(log_p[:3].sum()), np.exp(log_p.sum())
    print(f"{name:<10} P {three:.3f} after 3 words, {all_of_it:.3f} at the end:")
    print("   ", sentences(ids[None])[0])
assert less > 0.3 and less > more

# %% [markdown]
# Nothing is broken. A beginning that has not named anything yet is still probable, because it has not committed itself.
# Beside one that has, it looks better, fills the narrow beam, and loses later.
#
# ## Length, and when to stop
#
# With a length penalty the score is $\log P / n^{\lambda}$. Five beams of both models, for five values of $\lambda$.
# Besides truth we count captions that name as many shapes as there are: truth alone would reward saying little.

# %% tags=["hide-input"]
KINDS = {"circle", "square", "triangle"}
LAMBDAS = (0, 0.5, 1, 1.5, 2)


def names_all(captions):
    pairs = zip(captions, scenes, strict=True)
    return np.array([sum(word in KINDS for word in c.split()) == len(s) for c, s in pairs])


people = np.mean([len(c.split()) for c in sentences(data["rnn"]["val_captions"])])
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
for name, model in runs.items():
    rows = []
    for penalty in LAMBDAS:
        ids, _ = beam_search(model, features[name], 5, 20, length_penalty=penalty)
        said = sentences(ids[:, 0])
        words = np.mean([len(caption.split()) for caption in said])
        rows.append((words, 100 * truths(said).mean(), 100 * names_all(said).mean()))
    for ax, column in zip(axes, np.transpose(rows), strict=True):
        ax.plot(LAMBDAS, column, "o-", color=COLOURS[name], label=name)
    print(f"{name:<12} words {rows[0][0]:.1f} to {rows[-1][0]:.1f},", end=" ")
    print(f"true {rows[0][1]:.0f} to {rows[-1][1]:.0f} %")
    assert (np.diff([words for words, *_ in rows]) > 0).all() and rows[0][1] > rows[-1][1]
    assert rows[0][2] > rows[-1][2]
axes[0].axhline(people, color=GREY, linestyle="--")
axes[0].text(1.0, people - 0.35, "captions of the data", color=GREY, fontsize=11, ha="left")
for ax, title in zip(
    axes, ("words per caption", "% true", "% name every shape"), strict=True
):
    ax.set(xlabel="$\\lambda$", title=title)
axes[0].set_ylim(8.4, 12)
axes[1].set_ylim(0, 103)
axes[2].set_ylim(0, 103)
axes[1].legend(loc="lower left", fontsize=12)
plt.show()

# %% [markdown]
# Longer captions are wrong more often, and they do not name more of the shapes: the words go into sizes and places.
#
# **When to stop?** Suppose five beams have found a finished caption, and two are still open. An open beam with
# log-probability $\ell < 0$ can only fall. All it can gain is a larger divisor: $n$ is at most the longest length $n_{\max}$.
# So whatever it becomes,
#
# $$ \text{score} \;\le\; \frac{\ell}{n_{\max}^{\,\lambda}} $$
#
# As soon as the best finished score is at least that bound for the best open beam, the search may stop *without
# changing its result* (Huang, Zhao and Ma, 2017). `core` does so:

# %%
show_source(beam_search, docstring=False)


# %% [markdown]
# Stopping at the first finished caption, as is often done, may change the result. Both, against a search that goes on
# until no beam is open:


# %% tags=["hide-input"]
class Counted:
    """A decoder that counts the rows that go through another one."""

    def __init__(self, model):
        self.model, self.rows = model, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def step(self, state, tokens):
        self.rows += len(tokens)
        return self.model.step(state, tokens)


def to_the_end(model, features, B, penalty):
    """Beam search without a bound, for one picture -> [(score, n, ids)], in order of ending."""
    beams, log_p, finished = [[]], np.zeros(1), []
    state, tokens = model.begin(features), np.array([model.start])
    for t in range(1, 21):
        total, state = scored(model, state, tokens, log_p)
        best = np.argsort(-total, axis=None, kind="stable")[:B]
        parents, tokens = np.divmod(best, total.shape[1])
        log_p = total[parents, tokens]
        beams = [[*beams[i], w] for i, w in zip(parents, tokens.tolist(), strict=True)]
        for i in np.flatnonzero(tokens == model.end):
            finished.append((log_p[i] / t**penalty, t, beams[i]))
        on = np.flatnonzero(tokens != model.end)
        if len(on) == 0:
            break
        state, tokens, log_p = model.select(state, parents[on]), tokens[on], log_p[on]
        beams = [beams[i] for i in on]
    return finished


counted = Counted(rnn)
ends = [to_the_end(counted, pictures[i : i + 1], 5, 1.0) for i in range(COUNT)]
rows_to_the_end, counted.rows = counted.rows, 0
_, stopped = beam_search(counted, pictures[:COUNT], 5, 20, length_penalty=1.0)
full = np.array([max(found)[0] for found in ends])
early = np.array([max(x for x, t, _ in found if t == found[0][1]) for found in ends])
print(f"until no beam is open: {rows_to_the_end:6,} rows, mean score {full.mean():.3f}")
print(f"core, with the bound:  {counted.rows:6,} rows, mean score {stopped.mean():.3f}")
print(f"at the first that ends:              mean score {early.mean():.3f}")
assert np.abs(full - stopped[:, 0]).max() < 1e-4 and early.mean() < full.mean() - 0.02
assert counted.rows < 0.85 * rows_to_the_end

# %% [markdown]
# ## Three more slips
#
# Lesson 11 forgets to reorder the state. Three other slips are as easy to make.
#
# **One word late.** The state reads each word one step after it was said. Nothing crashes.
#
# **Taking finished beams further.** `<END>` is a word, so it is easy to forget that nothing comes after it. The model
# was never trained on what follows, makes something up, and its log-probability is added all the same.
#
# **Predict.** Lesson 11 compares the claimed score with what the model gives to the caption. Does that test find these
# two slips? We search with each, for 30 pictures:


# %% tags=["hide-input"]
class Late:
    """A decoder that reads each word one step late."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def begin(self, features):
        return self.model.begin(features), np.full(len(features), self.model.start)

    def step(self, state, tokens):
        log_probs, after = self.model.step(*state)
        return log_probs, (after, tokens)

    def select(self, state, rows):
        return self.model.select(state[0], rows), state[1][rows]


def without_end(model, features, B):
    """A beam search in which a beam that says <END> goes on."""
    beams, log_p = [[]], np.zeros(1)
    state, tokens = model.begin(features), np.array([model.start])
    for _ in range(20):
        total, state = scored(model, state, tokens, log_p)
        best = np.argsort(-total, axis=None, kind="stable")[:B]
        parents, tokens = np.divmod(best, total.shape[1])
        log_p = total[parents, tokens]
        beams = [[*beams[i], w] for i, w in zip(parents, tokens.tolist(), strict=True)]
        state = model.select(state, parents)
    return [(log_p[0], 20, beams[0])]


slips = {
    "one word late": lambda picture: to_the_end(Late(transformer), picture, 3, 0.0),
    "goes on after <END>": lambda picture: without_end(transformer, picture, 3),
}
for name, search in slips.items():
    tried = [(i, search(grids[i : i + 1])) for i in range(30)]
    found = [(i, max(ends)) for i, ends in tried if ends]  # a late one may never end
    ids = ids_of([words for _, (_, _, words) in found])
    claimed = np.array([score for _, (score, _, _) in found])
    real = log_probability(transformer, grids[[i for i, _ in found]], ids)
    print(f"{name:<19} claimed {claimed.mean():6.2f}   real {real.mean():6.2f}")
    if name == "one word late":
        assert len(found) > 20 and real.mean() < claimed.mean() - 20
    else:
        assert len(found) == 30 and np.abs(claimed - real).max() < 1e-4
        after_end = np.cumsum(ids == transformer.end, axis=1) - (ids == transformer.end) > 0
        ids[after_end] = transformer.null
        real = log_probability(transformer, grids[:30], ids)
        print(
            f"{'  read up to <END>':<19} claimed {claimed.mean():6.2f}   real {real.mean():6.2f}"
        )
        assert (real > claimed + 0.5).all()

# %% [markdown]
# <details><summary>Answer</summary>
#
# It finds the late state. It finds the search that goes on only if you read the caption up to its first `<END>`, as people
# do. If the model scores the words after it, too, the claimed score is the real one.
#
# </details>
#
# **Letting means compete too early.** With $\lambda = 1$ the score is a mean, so why not rank open beams by their
# means, too? Because the mean so far is not the mean at the end. On the toy of lesson 11, "two circles `<END>`" has
# finished with $-0.385$. "the picture shows" has $\log(0.15) / 3 = -0.632$ so far, but would end at $-0.334$. If the
# finished caption takes its place, you never find out. This slip reports correct scores of worse captions:
# only brute force on a toy can tell.
#
# ## Sampling, checked
#
# Top-p (lesson 11) keeps as few of the best words as hold a given share together, and scales them up to 1.
#
# **Task: top-p.** The probabilities come sorted, best first. Keep a word if the words *before* it hold less than
# the share. `np.cumsum` helps.


# %% tags=["task"]
def top_p(p, share):
    """What top-p leaves of sorted probabilities (V,): 0 for the tail, and a sum of 1."""
    ### BEGIN SOLUTION
    kept = np.where(np.cumsum(p) - p < share, p, 0)
    return kept / kept.sum()
    ### END SOLUTION


compare(with_slips(top_p, HEAD), by_sorting_out, FIVE, 0.75, also={"at 0.6": (FIVE, 0.6)})

# %% [markdown]
# Does `sample` of `core` draw like this? A frequency among $n$ draws has an error of about $\sqrt{p (1 - p) / n}$. For
# 40,000 draws that is at most 0.0025. We draw one word for each of 40,000 pictures, from a model that knows five words:


# %% tags=["hide-input"]
class FiveWords:
    """A decoder that gives the same five probabilities always."""

    max_length = None
    null, start, end, unknown = range(4)

    def begin(self, features):
        return np.zeros(len(features))

    def step(self, state, tokens):
        log_probs = np.append(np.full(4, -np.inf), np.log(FIVE))
        return np.tile(log_probs, (len(tokens), 1)), state

    def select(self, state, rows):
        return state[rows]


many = np.zeros((40_000, 1))  # as many pictures
drawn = sample(FiveWords(), many, np.random.default_rng(0), max_length=1, top_p=0.75)[:, 0]
shares = np.array([np.mean(drawn == 4 + i) for i in range(5)])
print("drawn:   ", shares, "\non paper:", by_sorting_out(FIVE, 0.75))
assert np.abs(shares - np.array([0.45, 0.25, 0.15, 0, 0]) / 0.85).max() < 0.01

# %% [markdown]
# ## How sure is a share?
#
# Lesson 11 draws four captions for each of 150 pictures and says what share is true. How sure are such shares? The four
# captions of a picture are not independent: an easy picture makes all four true. So take each picture's mean first. The
# error is the standard deviation of these 150 means over $\sqrt{150}$:

# %% tags=["hide-input"]
count = 150


def four_draws(name, temperature):
    """Share true of each picture's four captions."""
    rng, some = np.random.default_rng(0), features[name][:count]
    draws = [sample(runs[name], some, rng, 20, temperature=temperature) for _ in range(4)]
    return np.mean([truths(sentences(ids)) for ids in draws], axis=0)


by_picture = four_draws("transformer", 1.0)
share = by_picture.mean()
as_if_independent = np.sqrt(share * (1 - share) / 600)
error = by_picture.std() / np.sqrt(count)
print(
    f"transformer: {share:.0%} true at temperature 1, error {100 * error:.1f} points"
    f" ({100 * as_if_independent:.1f} for 600 independent ones)"
)
assert error > 1.15 * as_if_independent
by_picture = four_draws("rnn", 0.4)
of_greedy = truths(sentences(greedy(rnn, pictures[:count], 20)))
gain = by_picture - of_greedy
print(
    f"rnn: {by_picture.mean():.0%} true at temperature 0.4, {of_greedy.mean():.0%} greedy;",
    f"difference {100 * gain.mean():.0f} points, error {100 * gain.std() / count**0.5:.0f}",
)
assert 2 < gain.mean() / (gain.std() / count**0.5) < 3

# %% [markdown]
# So a difference of two points may be chance. That the RNN's draws at 0.4 are truer than greedy (9 points, error 4) is
# likely, not certain. The garden path may be why: a draw that leaves it early can still be true.
#
# ## Why temperature raises the entropy
#
# The **entropy** $-\sum_i q_i \log q_i$ measures how much is left to chance: 0 when one word is certain, $\log 5$ when
# five are equally probable.
#
# Write $\beta = 1/\tau$, $\ell_i = \log p_i$ and $Z = \sum_i e^{\beta \ell_i}$. Then $q_i = e^{\beta \ell_i} / Z$ and
# $\log q_i = \beta \ell_i - \log Z$. With $\langle \cdot \rangle$ for the mean under $q$, the entropy is
#
# $$ \mathcal{H} = -\langle \log q \rangle = \log Z - \beta \langle \ell \rangle, \qquad
#    \frac{d \log Z}{d\beta} = \langle \ell \rangle, \qquad
#    \frac{d \langle \ell \rangle}{d\beta} = \langle \ell^2 \rangle - \langle \ell \rangle^2 = \mathrm{Var}[\ell] $$
#
# The last one holds because $dq_i/d\beta = q_i (\ell_i - \langle \ell \rangle)$. So
#
# $$ \frac{d\mathcal{H}}{d\beta} = \langle \ell \rangle - \langle \ell \rangle - \beta\,\mathrm{Var}[\ell],
#    \qquad \frac{d\mathcal{H}}{d\tau} = -\frac{1}{\tau^2} \cdot \frac{d\mathcal{H}}{d\beta}
#    = \frac{\mathrm{Var}[\ell]}{\tau^3} \;\ge\; 0 $$


# %%
def tempered(p, tau):
    return p ** (1 / tau) / (p ** (1 / tau)).sum()


def entropy(q):
    return -(q * np.log(q)).sum()


p = FIVE
for tau in (0.5, 1.0, 3.0):
    above, below = (entropy(tempered(p, tau + h)) for h in (1e-5, -1e-5))
    q, log_p = tempered(p, tau), np.log(p)
    derived = (q @ log_p**2 - (q @ log_p) ** 2) / tau**3
    print(f"tau {tau}: measured {(above - below) / 2e-5:.6f}, derived {derived:.6f}")
    assert abs((above - below) / 2e-5 - derived) < 1e-8

# %% [markdown]
# ## The cache of keys and values
#
# An RNN reads one word per step: its state $h$ has a fixed size. A Transformer looks back at all words. The plain way
# to get word $t + 1$ runs all $t$ words through all blocks, as in training:


# %%
def whole_prefix(model, features, words):
    """Log-probabilities (N, V) of the word after ``words`` (N, t), from nothing."""
    h, _, _ = model._forward(features, words, words != model.null, rng=None)  # (N, t, E)
    scores, _ = affine_forward(h[:, -1], *model._vocabulary())
    return log_softmax(scores)


# %% [markdown]
# What of this was computed before, for $t - 1$ words? Layer norm, feed-forward and the projections to queries, keys
# and values work on each row by itself. Self-attention mixes rows, but the causal mask lets row $s$ read rows 1 to
# $s$ only.
#
# So go up block by block: if the inputs of the earlier rows are what they were one word ago, so are their outputs. **A
# new word changes nothing in earlier rows.** All that the new row needs of them are their keys and values. Keep those,
# and one row is enough:

# %% tags=["hide-input"]
sketch = Sketch(8.6, 2.9)
sketch.text(1.75, 2.65, "without a cache")
sketch.text(6.4, 2.65, "with a cache")
for left, cached in ((0.6, False), (5.2, True)):
    for row in range(4):
        y = 2.2 - 0.45 * row
        kind = "given" if cached and row < 3 else "value"
        text = ("k, v kept" if row < 3 else "q, k, v") if cached else "q, k, v"
        sketch.text(left - 0.25, y, f"{row + 1}")
        box = sketch.box(left + 0.65, y, text, kind, width=1.15, height=0.36)
        if not cached:
            target = sketch.box(left + 2.1, y, "block", "op", width=0.95, height=0.36)
            sketch.arrow(box, target)
        elif row == 3:
            target = sketch.box(left + 2.25, y, "block", "op", width=0.95, height=0.36)
            sketch.arrow(box, target)
        else:
            sketch.arrow((left + 1.23, y), (left + 1.9, 1.05), kind="grey")
sketch.text(1.75, 0.35, "the fourth word: all rows again")
sketch.text(6.4, 0.35, "the fourth word: one row")
sketch.show()

# %%
show_source(type(transformer).step, decoder_block_step, docstring=False)

# %% [markdown]
# Is it the same? We compare each word of eight captions, in float64:

# %%
exact = copy.copy(transformer)
exact.params = {name: x.astype(np.float64) for name, x in transformer.params.items()}
exact.dtype = np.dtype(np.float64)
words, some = data["transformer"]["val_captions"][:8, :9], grids[:8].astype(np.float64)
state, largest = exact.begin(some), 0.0
for t in range(words.shape[1]):
    log_probs, state = exact.step(state, words[:, t])
    again = whole_prefix(exact, some, words[:, : t + 1])
    largest = max(largest, np.abs(log_probs - again).max())
assert largest < 1e-12
print("with and without the cache: equal to 1e-12")
print("keys of block 1 after 9 words:", state[0][0][0].shape, "= (N, heads, t, d)")

# %% [markdown]
# **Count.** A product of $(n, m)$ and $(m, k)$ takes $nmk$ multiplications. Per caption and block, with $F$ for the inner
# width of the feed-forward layer:
#
# | | with the cache, word $t$ | without, $t$ words |
# | --- | --- | --- |
# | self-attention: $q$, $k$, $v$, output | $4E^2$ | $4tE^2$ |
# | its scores and weighted sums | $2tE$ | $2t^2E$ |
# | cross-attention | $2E^2 + 2LE$ | $t\,(2E^2 + 2LE) + 2LE^2$ |
# | feed-forward | $2EF$ | $2tEF$ |
#
# Then $EV$ for the scores of the vocabulary. Without a cache the picture's memory, $LCE$, is made anew for each word,
# and so are its keys and values, $2LE^2$ per block. Arrays that count the multiplications they go through check this:


# %% tags=["hide-input"]
class Counting(np.ndarray):
    """An array that adds up the multiplications of all matrix products it takes part in."""

    total = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        plain = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(x) for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Counting.total += result.size * plain[0].shape[-1]
        return result.view(Counting) if isinstance(result, np.ndarray) else result


# %%
L, C = grids.shape[1:]
V, E = transformer.params["W_embed"].shape
F, layers = 4 * E, transformer.num_layers
of_a_word = 4 * E**2 + 2 * E**2 + 2 * L * E + 2 * E * F
of_the_image = L * C * E + layers * 2 * L * E**2


def with_cache(t):
    return layers * (of_a_word + 2 * t * E) + E * V


def without_cache(t):
    return of_the_image + layers * (t * of_a_word + 2 * t**2 * E) + E * V


# %% tags=["hide-input"]
counting = copy.copy(transformer)
counting.params = {name: value.view(Counting) for name, value in transformer.params.items()}
grid = grids[:1].view(Counting)
state, words = counting.begin(grid), np.array([[1, *range(4, 16)]])
print(f"{'words':>6}{'with the cache':>17}{'without':>13}{'ratio':>7}")
for t in range(1, words.shape[1]):
    Counting.total = 0
    _, state = counting.step(state, words[:, t - 1])
    cached, Counting.total = Counting.total, 0
    whole_prefix(counting, grid, words[:, :t])
    assert cached == with_cache(t) and Counting.total == without_cache(t)
    if t in (1, 2, 4, 8, 12):
        print(f"{t:6}{cached:17,}{Counting.total:13,}{Counting.total / cached:7.1f}")
print("the formulas and the counted products are equal")
assert round(without_cache(12) / with_cache(12)) == 21

# %% [markdown]
# With the cache a word costs nearly the same at every place. Without it each word pays for the picture again, and for
# all words before it: 21 times as many multiplications at the twelfth word, and more with each one after it. The price
# is memory, since the keys and values of all words stay in the state.
#
# ## What you have now
#
# * The mode of a model, found for certain, and a measure of how often a beam misses it.
# * A bound that ends a search early without changing its result.
# * A Transformer that reads each word once, equal to the slow one to 1e-12.
#
# **Sources.** L. Huang, K. Zhao and M. Ma, *When to finish? Optimal beam search for neural text generation*, EMNLP
# 2017. P. Koehn and R. Knowles, *Six challenges for neural machine translation*, Workshop on Neural Machine
# Translation, 2017. F. Stahlberg and B. Byrne, *On NMT search errors and model errors: cat got your tongue?*, EMNLP
# 2019. N. Shazeer, *Fast Transformer decoding: one write-head is all you need*, 2019 (the cost of the cache).
