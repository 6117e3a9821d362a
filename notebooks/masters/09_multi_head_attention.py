# %% [markdown]
# # 9 · Multi-head attention
#
# **The question.** [Lesson 8](08_soft_attention.ipynb) let an LSTM look at the picture before each word, one
# question at a time, because each question waits for the state of the step before. What is left if the words
# themselves ask, all of them at once, with nothing between question and answer but products of matrices?
#
# You build scaled dot-product attention by hand, cut it into heads, forbid it to look ahead, derive its backward
# index by index, and find out which of its parameters can never learn.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (affine, softmax) and [lesson 8](08_soft_attention.ipynb)
# (soft attention). About 60 minutes; all cells together run in half a minute.*

# %% tags=["setup"]
import warnings

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import decode_captions, image_path
from core.gradient_check import check, eval_numerical_gradient_array, relative_error
from core.grounding import pointing
from core.image_utils import load_image
from core.layers import softmax, softmax_backward
from core.lessons import compare, confirm, draw_graph, show_source
from core.models import CaptioningTransformer
from core.optim import adam
from core.shapes import load_scenes
from core.show.plots import upsample
from core.transformer_layers import (
    merge_heads,
    multi_head_attention_backward,
    multi_head_attention_forward,
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
    split_heads,
)

lessons.style()

# %% [markdown]
# ## By hand: two questions to three shapes
#
# A picture holds a red circle on the left, a blue circle on the right and a blue square at the bottom. Each
# location $s$ offers two vectors. Its **key** $k_s$ says by what it can be found, here with one channel each for
# red, blue, circle and square. Its **value** $v_s$ says what it hands over when it is found, here how far it is to
# the right and how far down. Whoever wants to know something brings a **query** $q_t$, a vector of the same
# channels as the keys. How well question and location agree is their dot product; a softmax makes weights of the
# agreements, and the answer is the mean of the values under these weights:
#
# $$ a_{ts} = \frac{q_t \cdot k_s}{\sqrt d}, \qquad w_{ts} = \frac{e^{a_{ts}}}{\sum_r e^{a_{tr}}}, \qquad
#    \mathrm{out}_t = \sum_s w_{ts}\, v_s $$
#
# The divisor is the root of the number of channels, here $\sqrt 4 = 2$; the reason comes below. The first question
# asks for something blue, the second for a red circle.

# %%
keys = np.array([[1.0, 0, 1, 0],  # a red circle
                 [0.0, 1, 1, 0],  # a blue circle
                 [0.0, 1, 0, 1]])  # a blue square  # fmt: skip
values = np.array([[-1.0, 0], [1, 0], [0, 1]])  # to the right, down
queries = np.array([[0.0, 2, 0, 0],  # something blue?
                    [2.0, 0, 2, 0]])  # a red circle?  # fmt: skip

scores = np.zeros((2, 3))
weights, answers = np.zeros((2, 3)), np.zeros((2, 2))
for t in range(2):
    for s in range(3):
        scores[t, s] = sum(queries[t, i] * keys[s, i] for i in range(4)) / 4**0.5
    raised = [np.exp(score) for score in scores[t]]
    for s in range(3):
        weights[t, s] = raised[s] / sum(raised)
        answers[t] += weights[t, s] * values[s]
    print(f"question {t + 1}: {queries[t]}")
    print("   scores ", *(f"{score:7.3f}" for score in scores[t]))
    print("   exp    ", *(f"{value:7.3f}" for value in raised), f"   sum {sum(raised):.3f}")
    print("   weights", *(f"{weight:7.3f}" for weight in weights[t]))
    print("   answer ", *(f"{value:7.3f}" for value in answers[t]))

# %% [markdown]
# Check the first on paper: the scores are $0, 1, 1$, the exponentials $1, e, e$, and the two blue shapes share
# $2e / (1 + 2e) = 0.845$ of the weight evenly. Its answer,
# $0.845 \cdot (0.5, 0.5) + 0.155 \cdot (-1, 0) = (0.267, 0.422)$, is near the middle between the two, where
# nothing stands, and pulled a little to the red circle: one softmax gives *one* mean, and who asks for two things
# gets a mixture. Keep that in mind for the heads.
#
# ## From the additive score to the dot product
#
# Lesson 8 scored with a small network, $e_{ts} = v \cdot \tanh(k_s + q_t)$; its $v$ is a learned vector, not a
# value, and its width $K$ plays the part of $d$. For each pair of a question and a location that makes a vector of
# $K$ numbers: $N\,T\,S\,K$ hyperbolic tangents for a batch of $N$ captions with $T$ words and $S$ locations. The
# dot product makes one number for each pair, and all of them are one product of matrices, $q\,k^T$ of shape
# $(T, d)(d, S) = (T, S)$, the operation that a processor does best. What is given up is the nonlinearity between
# question and key; both are made by weights that are learned, and in practice that is enough.

# %% tags=["measured"]
from time import perf_counter

rng = np.random.default_rng(0)
N, T, S, K = 64, 16, 64, 64
q, k, v = (
    rng.standard_normal(shape, dtype=np.float32) for shape in ((N, T, K), (N, S, K), K)
)


def milliseconds(function):
    times = []
    for _ in range(15):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return 1000 * min(times)


additive = milliseconds(lambda: np.tanh(k[:, None] + q[:, :, None]) @ v)
product = milliseconds(lambda: q @ k.swapaxes(1, 2))
print(f"{N * T * S:,} scores, width {K}, in milliseconds:")
print(f"additive {additive:.1f}, dot product {product:.1f}")

# %% [markdown]
# ## Forward: queries, keys, values
#
# In a model nobody writes channels for red and blue by hand. Three affine maps make queries, keys and values of
# whatever comes in:
#
# $$ q = \text{query}\,W_q + b_q, \qquad k = \text{key}\,W_k + b_k, \qquad v = \text{value}\,W_v + b_v $$
#
# | | shape | |
# | --- | --- | --- |
# | query | $(N, T, E)$ | who asks: $T$ words |
# | key, value | $(N, S, E)$ | who answers: $S$ words or locations |
# | $W_q$, $W_k$, $W_v$ and their biases | $(E, E)$, $(E,)$ | shared by all positions |
# | $q$ / $k$, $v$ | $(N, h, T, d)$ / $(N, h, S, d)$ | after the cut into $h$ heads of width $d = E / h$ |
# | scores, weights | $(N, h, T, S)$ | a row for each question |
# | out | $(N, T, E)$ | |
#
# Who asks whom is a matter of what is passed. **Self-attention** passes the same array three times: the words of a
# caption ask each other. **Cross-attention** passes words as query, and the locations of the picture as key and
# value. Nothing here depends on an earlier result of the same sequence, so all $T$ questions are asked at once;
# that is what the recurrent models could not do.
#
# The core of it takes $q$, $k$ and $v$ with the heads already as an axis of their own, and a mask, which is
# explained below:

# %%
show_source(scaled_dot_product_attention_forward)

# %%
out, _ = scaled_dot_product_attention_forward(
    queries[None, None], keys[None, None], values[None, None]
)
print("largest difference from the sums by hand: less than 1e-12")
assert np.abs(out[0, 0] - answers).max() < 1e-12

# %% [markdown]
# ## Why divide by the root of d
#
# Let the entries of $q$ and $k$ be independent, with mean 0 and variance 1. That is roughly so when training
# starts: the inputs are normalised, and the weights are drawn with variance $1/E$. Then each product $q_i k_i$ has
# mean 0 and variance $\mathrm{E}[q_i^2]\,\mathrm{E}[k_i^2] = 1$, and variances of independent terms add:
#
# $$ \mathrm{Var}(q \cdot k) = \sum_{i=1}^{d} \mathrm{Var}(q_i k_i) = d $$
#
# The scores grow like $\sqrt d$. A softmax does not care about a constant that is added to all scores, but it does
# care about their spread: scores of 20, 0 and -20 are a decision, not a preference. And a softmax that has decided
# has no slope. Its Jacobian, $\partial w_r / \partial a_s = w_r (\delta_{rs} - w_s)$, is 0 wherever one weight is
# 1 and the others are 0. Measured on random queries that face 32 keys, with a random gradient coming from above:


# %%
def at_the_start(d, questions=500, S=32, seed=0):
    """For each divisor: spread of the scores, mean of the largest weight, lengths of da."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((questions, 1, d))
    k = rng.standard_normal((questions, S, d))
    dweights = rng.standard_normal((questions, 1, S))
    found = {}
    for divisor, name in ((1, "1"), (d**0.5, "$\\sqrt{d}$"), (d, "$d$")):
        scores = q @ k.swapaxes(1, 2) / divisor
        weights = softmax(scores)
        lengths = np.linalg.norm(softmax_backward(dweights, weights), axis=2)
        largest = weights.max(axis=2).mean()
        found[name] = scores.std(), largest, np.median(lengths), lengths.mean()
    return found


widths = [1, 4, 16, 64, 256, 1024]
found = [at_the_start(d) for d in widths]
print("         spread of the     largest        length of da        length of da")
print("             scores         weight        not divided           root d")
print("   d     not d. root d  not d. root d   median      mean    median      mean")
for d, row in zip(widths, found, strict=True):
    raw, scaled = row["1"], row["$\\sqrt{d}$"]
    print(f"{d:4d} {raw[0]:10.1f} {scaled[0]:6.2f} {raw[1]:7.2f} {scaled[1]:6.2f}", end="")
    print("".join(f"{length:10.5f}" for length in (*raw[2:], *scaled[2:])))

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
for name in found[0]:
    _, largest, lengths, _ = zip(*(row[name] for row in found), strict=True)
    axes[0].semilogx(widths, largest, marker="o", label=f"divided by {name}")
    axes[1].loglog(widths, lengths, marker="o")
axes[0].axhline(1 / 32, color="grey", linestyle=":", label="uniform, 1 / 32")
axes[0].set(xlabel="width $d$", ylabel="largest of 32 weights, mean", ylim=(0, 1.02))
axes[1].set(xlabel="width $d$", ylabel="length of $da$, median")
axes[0].legend()
plt.show()

assert abs(raw[0] / 1024**0.5 - 1) < 0.05 and abs(scaled[0] - 1) < 0.05
assert raw[1] > 0.9 and scaled[1] < 0.3 and found[-1]["$d$"][1] < 0.04
assert raw[2] < 1e-2 * scaled[2]

# %% [markdown]
# Without a divisor one key takes nearly all the weight before anything is learned, and the typical question gets
# no gradient to change its mind. (The *mean* falls less fast than the median: a few undecided questions still
# learn.) Division by $d$ goes too far the other way: every head starts as a plain mean over all keys, whatever is
# asked (and $dq = da\,k/d$ shrinks like $1/\sqrt d$). With $\sqrt d$ both curves are level. At width 16, that of
# the captioner below, the largest weight is already far too large without it, 0.63 for 0.16, but the gradient is
# not yet small; at 64, which is common, it is less than half, and from there on it collapses.
#
# ## Heads
#
# One softmax gives one mean, and the tiny example showed what that costs: whoever wants two things gets their
# mixture. The remedy is to ask several smaller questions. Cut the $E$ channels of $q$, $k$ and $v$ into $h$ blocks
# of $d = E / h$; each block, a **head**, has its own scores, its own softmax and its own answer, and the answers
# are laid side by side again. As products go this is free: $h$ heads with $T S d$ multiplications each are
# $T S E$, as many as one head of full width.

# %%
show_source(split_heads, merge_heads)

# %% [markdown]
# To see what these lines do, take three positions with four channels, and let each number name its place: position
# in front of the point, channel behind it. With two heads of width 2:

# %%
named = np.add.outer([0.0, 1.0, 2.0], [0.0, 0.1, 0.2, 0.3])[None]  # (N=1, T=3, E=4)


def show(title, x):
    print(title, x.shape)
    for i, head in enumerate(x[0]):
        rows = ("  ".join(f"{value:.1f}" for value in row) for row in np.atleast_2d(head))
        print(f"   {i}:  " + "   |   ".join(rows))


show("x, by position", named)
show("x.reshape(1, 3, 2, 2), by position", named.reshape(1, 3, 2, 2))
show("and its axes 1 and 2 swapped, by head", split_heads(named, 2))
assert np.array_equal(merge_heads(split_heads(named, 2)), named)

# %% [markdown]
# The reshape cuts the channels of each position in two, without moving anything; the swap then puts the heads in
# front of the positions, so that the matrix products of NumPy, which work on the last two axes, see for each head
# a matrix of positions times channels. Splitting only moves numbers to other places, so its backward moves their
# gradients back: `merge_heads`, and the other way round.
#
# All together, and the same with a loop over images and heads, each head with its own columns of the weights:

# %%
show_source(multi_head_attention_forward, docstring=False)

# %%
rng = np.random.default_rng(1)
N, T, S, E, h = 3, 5, 7, 12, 4  # all different, so that a wrong axis cannot hide
d = E // h
query, memory = rng.standard_normal((N, T, E)), rng.standard_normal((N, S, E))
names = ("Wq", "bq", "Wk", "bk", "Wv", "bv", "Wo", "bo")


def draw_parameters(rng, E):
    shapes = {name: (E, E) if name[0] == "W" else (E,) for name in names}
    return {name: E**-0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}


p = draw_parameters(rng, E)
by_hand = np.zeros((N, T, E))
for n in range(N):
    for head in range(h):
        own = slice(head * d, (head + 1) * d)  # the columns of this head
        q = query[n] @ p["Wq"][:, own] + p["bq"][own]  # (T, d)
        k = memory[n] @ p["Wk"][:, own] + p["bk"][own]  # (S, d)
        v = memory[n] @ p["Wv"][:, own] + p["bv"][own]
        raised = np.exp(q @ k.T / d**0.5)
        seen = raised / raised.sum(axis=1, keepdims=True) @ v  # (T, d)
        by_hand[n] += seen @ p["Wo"][own]  # the rows of this head
by_hand += p["bo"]

out, cache = multi_head_attention_forward(query, memory, memory, *p.values(), h)
print("out:", out.shape, " largest difference from the loop: less than 1e-12")
assert np.abs(out - by_hand).max() < 1e-12

# %% [markdown]
# The loop says what $W_o$ is for. Laying the heads side by side and multiplying by $W_o$ is the same as to give
# each head $d$ rows of $W_o$ of its own and to add up what they make of its answer: $W_o$ decides where in the
# output each head writes.
#
# ### Two heads can do what one cannot
#
# A task with a known best answer. Each of 8 positions holds 8 random numbers, and a one-hot vector that says which
# position it is. Every position is to copy, side by side, the numbers of the position before it *and* those of the
# first position. One head can learn to look at both, with weights $w$ and $1 - w$, but hands over
# $z = w\,a + (1 - w)\,b$, one number where two are wanted. The numbers are independent with mean 0 and variance 1,
# so $z$ has variance $w^2 + (1-w)^2$ and covariance $w$ with $a$. The best linear guess of $a$ from $z$ leaves of
# the variance of $a$ what least squares always leaves, 1 minus covariance squared over variance:
#
# $$ 1 - \frac{w^2}{w^2 + (1-w)^2} \quad\text{for } a, \qquad
#    1 - \frac{(1-w)^2}{w^2 + (1-w)^2} \quad\text{for } b, \qquad \text{together } 2 - 1 = 1 $$
#
# whatever $w$ is: a squared error of one half an entry, in the mean. Two heads of half the width need not
# compromise, and have exactly as many parameters.


# %%
def copy_two(num_heads, steps=350, T=8, C=8, N=32):
    """Learns to copy the position before and the first; squared error at each step."""
    rng = np.random.default_rng(0)
    params, configs, errors = draw_parameters(rng, C + T), {}, []
    for _ in range(steps):
        content = rng.standard_normal((N, T, C))
        x = np.concatenate([content, np.broadcast_to(np.eye(T), (N, T, T))], axis=2)
        first = np.broadcast_to(content[:, :1], content.shape)
        target = np.concatenate([np.roll(content, 1, axis=1), first], axis=2)
        out, cache = multi_head_attention_forward(x, x, x, *params.values(), num_heads)
        difference = out - target
        # at 0 there is no position before, at 1 it is the first
        difference[:, :2] = 0
        counted = N * (T - 2) * 2 * C
        errors.append((difference**2).sum() / counted)
        gradients = multi_head_attention_backward(2 * difference / counted, cache)[3:]
        for name, gradient in zip(names, gradients, strict=True):
            config = configs.get(name, {"learning_rate": 1e-2})
            params[name], configs[name] = adam(params[name], gradient, config)
    return errors, cache[-1][-1]  # the weights (N, h, T, T) of the last batch


(one, one_weights), (two, two_weights) = copy_two(1), copy_two(2)
figure, axes = plt.subplots(
    1, 4, figsize=(10, 3), gridspec_kw={"width_ratios": [1.9, 1, 1, 1]}
)
axes[0].plot(one, label="one head of width 16")
axes[0].plot(two, label="two heads of width 8")
axes[0].axhline(0.5, color="grey", linestyle=":", label="one half")
axes[0].set(xlabel="step", ylabel="squared error", ylim=(0, None))
axes[0].legend()
maps = [one_weights[0, 0], two_weights[0, 0], two_weights[0, 1]]
for ax, weights, title in zip(
    axes[1:], maps, ("one head", "head 1 of 2", "head 2 of 2"), strict=True
):
    ax.imshow(weights[2:], vmin=0, vmax=1, cmap="Blues", extent=(-0.5, 7.5, 7.5, 1.5))
    ax.set(xlabel="looks at", title=title)
    ax.grid(False)
axes[1].set_ylabel("position")
plt.show()

one_error, two_error = np.mean(one[-20:]), np.mean(two[-20:])
print(f"squared error at the end: one head {one_error:.1f}, two heads {two_error:.2f}")
assert 0.4 < one_error < 0.6 and two_error < 0.05

# %% [markdown]
# Each of the two heads took one of the tasks: a diagonal next to the main one is "the position before", a column
# is "the first". The single head stays near one half, as computed. Here it settled on the first position and gave
# up the other; any mixture would have cost the same. (It could get slightly below, since its weights may depend on
# the numbers themselves, which the computation left out.)
#
# ### The tempting wrong way: a reshape without the swap
#
# $(N, T, E) \to (N, h, T, d)$ has the same number of entries on both sides, and one `reshape` goes straight there.
# The shapes fit, the output has the right shape, and nothing raises an error. But look:

# %%
show("straight to (1, 2, 3, 2), 'by head'", named.reshape(1, 2, 3, 2))

# %% [markdown]
# "Head 0" holds both halves of position 0 and half of position 1, as if they were three positions. Positions and
# heads are mixed. A gradient check does not see this, as long as forward and backward are wrong in the same way:
# the function is another one, and its gradient is right. The report that `check` returns holds both errors for
# each quantity:


# %%
def mixing_forward(query, key, value, Wq, bq, Wk, bk, Wv, bv, Wo, bo, num_heads, mask=None):
    """As multi_head_attention_forward, but reshapes straight into heads."""
    q, k, v = query @ Wq + bq, key @ Wk + bk, value @ Wv + bv
    q, k, v = (x.reshape(len(x), num_heads, x.shape[1], -1) for x in (q, k, v))
    heads, cache = scaled_dot_product_attention_forward(q, k, v, mask)
    merged = heads.reshape(query.shape)
    return merged @ Wo + bo, (query, key, value, Wq, Wk, Wv, Wo, merged, cache)


def mixing_backward(dout, cache):
    query, key, value, Wq, Wk, Wv, Wo, merged, (q, *rest) = cache
    dheads = (dout @ Wo.T).reshape(q.shape)
    of_heads = scaled_dot_product_attention_backward(dheads, (q, *rest))
    of_inputs, of_weights = [], []
    for x, W, dx in zip((query, key, value), (Wq, Wk, Wv), of_heads, strict=True):
        dx = dx.reshape(x.shape)
        of_inputs.append(dx @ W.T)
        of_weights += [np.einsum("nti,ntj->ij", x, dx), dx.sum(axis=(0, 1))]
    dWo, dbo = np.einsum("nti,ntj->ij", merged, dout), dout.sum(axis=(0, 1))
    return *of_inputs, *of_weights, dWo, dbo


report = check("multi_head_attention_backward", mixing_backward, forward=mixing_forward)
print("quantity   against differences     against PyTorch")
for row in report.rows:
    own = row.difference_error
    own = "" if own is None else "below 1e-6" if own < 1e-6 else f"{own:.2f}"
    other = "below 1e-10" if row.torch_error < 1e-10 else f"{row.torch_error:.2f}"
    print(f"{row.quantity:<8}{own:>22}{other:>20}")
# Differences see nothing, a referee does.
assert all(row.difference_error < 1e-6 for row in report.rows[1:])
assert not report and report.rows[0].torch_error > 0.1

# %% [markdown]
# Every gradient agrees with its differences; the output itself is wrong. (Even $b_k$ gets a gradient, which in
# true attention is 0, as will be seen.) So a layer needs a check of its *meaning* too: PyTorch's version, a loop
# as above, or a property that it must have. One such property comes next.
#
# ## Masks
#
# While a caption is learned, all its words are fed in at once, and the word at position $t$ is to predict the one
# at $t + 1$, which stands right there. It must not look. A **mask** says for each question which keys it may see:
# booleans, True for allowed, that broadcast to $(N, h, T, S)$. Three kinds are common: a *causal* mask, $s \le t$;
# a *padding* mask, for what fills short sequences up; and any *gaps*.
#
# A forbidden key must get weight 0, and the others must share all of the weight among them. So the mask acts on
# the scores, **before** the softmax, as $-\infty$: $e^{-\infty} = 0$ takes the key out of the numerator and out of
# the sum.

# %%
rng = np.random.default_rng(2)
scores = rng.standard_normal((4, 4))
causal = np.tri(4, dtype=bool)
masked = np.where(causal, scores, -np.inf)
for title, array in (
    ("scores", scores), ("masked", masked), ("weights", softmax(masked)),
):  # fmt: skip
    print(f"{title}:\n{array.round(2)}")
allowed = np.exp(scores[2, :3])
assert np.allclose(softmax(masked)[2, :3], allowed / allowed.sum(), rtol=0, atol=1e-14)

dscores = softmax_backward(rng.standard_normal((4, 4)), softmax(masked))
print(f"a gradient of the scores:\n{dscores.round(2) + 0.0}")
assert not dscores[~causal].any()  # exactly 0

# %% [markdown]
# The gradient needs no mask of its own. The backward of the softmax, derived below, is
# $da_{ts} = w_{ts}\,(dw_{ts} - \dots)$, and where $w_{ts}$ is exactly 0, so is $da_{ts}$ (the last table is for a
# random gradient of the weights): nothing flows to a key through a question that may not see it.
#
# **A row without any key.** A question may be left with nothing to look at, for instance in a caption that is all
# padding. Then the definition reads $0 / 0$. Three ways to deal with it:

# %%
nothing = np.full((1, 3), -np.inf)
with np.errstate(invalid="ignore"):
    raised = np.exp(nothing - nothing.max(axis=-1, keepdims=True))
    print("the formula as it stands  ", (raised / raised.sum(axis=-1, keepdims=True))[0])
print("with -1e9 for -infinity   ", softmax(np.array([[0.1, 0.2, 0.3]]) - 1e9)[0])
print("core's softmax            ", softmax(nothing)[0])

# %% [markdown]
# The first is NaN, from $-\infty - (-\infty)$, and NaN spreads through the whole model with the next sum over the
# batch. The second, a popular large negative number that is added to forbidden scores (here 0.1, 0.2 and 0.3),
# does the opposite of a mask: where all keys are forbidden, it looks at all of them as if none were (in float32 at
# all alike: next to 1e9 the scores themselves are rounded away). `core` returns zeros, with two lines that nothing
# else needs:

# %%
show_source(softmax, docstring=False)

# %% [markdown]
# The answer is then a row of zeros, and the output is the bias $b_o$. All gradients are finite, and those of the
# question, and of a key that nobody may see, are exactly 0:

# %%
mask = np.ones((N, T, S), dtype=bool)
mask[0, 2] = False  # question 2 of image 0 sees nothing
mask[:, :, 4] = False  # a gap: nobody sees key 4
out, cache = multi_head_attention_forward(query, memory, memory, *p.values(), h, mask)
gradients = multi_head_attention_backward(rng.standard_normal(out.shape), cache)
dquery, dkey, dvalue = gradients[:3]
print("output of the question without keys is bo:", np.array_equal(out[0, 2], p["bo"]))
print(
    "its dquery:", np.abs(dquery[0, 2]).max(), "   a neighbour's:", dquery[0, 1, :3], "..."
)
print("dkey and dvalue of the gap:", np.abs(dkey[:, 4]).max(), np.abs(dvalue[:, 4]).max())
assert np.array_equal(out[0, 2], p["bo"]) and not dquery[0, 2].any()
assert not dkey[:, 4].any() and not dvalue[:, 4].any() and dkey[:, 3].any()
assert all(np.isfinite(gradient).all() for gradient in gradients)

# %% [markdown]
# A trap in the shapes: a padding mask is $(N, S)$, and attention reads a mask of two axes as $(T, S)$, the same
# for all images. With $N = T$ that raises nothing. Write it as $(N, 1, 1, S)$. (`multi_head_attention_forward`
# also takes three axes, $(N, 1, S)$ or $(N, T, S)$, and puts the axis of the heads in itself; the core does not.)
#
# Our captioner needs no padding mask at all. Captions end before their padding begins, so a causal mask already
# keeps every real word from seeing it, and what the padding itself computes is not scored. (Measured in passing
# further below: the vector of `<NULL>` gets no gradient.)
#
# ### Causality, tested
#
# The test is simple and strong. Change one word $s$ of the input and compare outputs: those at $t < s$ must not
# move, not by a rounding error. With derivatives: $\partial\,\mathrm{out}_t / \partial x_s = 0$ exactly for
# $s > t$. The backward shows it: send a random gradient into position $t$ alone, and see which $x_s$ it reaches.
# Both, for self-attention, and twice done wrongly: with the mixing reshape, and with a mask that is multiplied to
# the weights **after** the softmax, which looks right since it puts zeros in the same places.


# %%
def masked_after_forward(x, mask):
    """Self-attention whose mask comes after the softmax."""
    q, k, v = (split_heads(x @ p[f"W{c}"] + p[f"b{c}"], h) for c in "qkv")
    weights = softmax(q @ k.swapaxes(-1, -2) / d**0.5) * mask
    return merge_heads(weights @ v) @ p["Wo"] + p["bo"], weights


T = 6
x = rng.standard_normal((1, T, E))
causal = np.tri(T, dtype=bool)


def moved(forward):
    """(T, T): by how much the output at t moves when the word at s is another."""
    before, change = forward(x), np.zeros((T, T))
    for s in range(T):
        other = x.copy()
        other[0, s] = np.random.default_rng(s).standard_normal(E)
        change[:, s] = np.linalg.norm(forward(other) - before, axis=2)[0]
    return change


reach = np.zeros((T, T))  # lengths of the gradient of x[s], for a random gradient of out[t]
out, cache = multi_head_attention_forward(x, x, x, *p.values(), h, causal)
for t in range(T):
    dout = np.zeros_like(out)
    dout[0, t] = rng.standard_normal(E)
    dquery, dkey, dvalue, *_ = multi_head_attention_backward(dout, cache)
    reach[t] = np.linalg.norm(dquery + dkey + dvalue, axis=2)[0]

right = moved(lambda x: multi_head_attention_forward(x, x, x, *p.values(), h, causal)[0])
mixed = moved(lambda x: mixing_forward(x, x, x, *p.values(), h, causal)[0])
late = moved(lambda x: masked_after_forward(x, causal)[0])

figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
titles = "right, by change", "right, by gradient", "reshape, no swap", "mask after softmax"
for ax, change, title in zip(axes, (right, reach, mixed, late), titles, strict=True):
    shown = np.ma.masked_equal(change, 0)  # exactly 0 stays white
    image = ax.imshow(shown / change.max(), cmap="viridis", vmin=0, vmax=1)
    ax.set(title=title, xlabel="word $s$", xticks=range(T), yticks=range(T))
    ax.grid(False)
axes[0].set_ylabel("output $t$")
figure.colorbar(image, ax=axes, label="of the largest", shrink=0.8)
plt.show()

future = np.triu_indices(T, 1)  # s > t
past = np.tril_indices(T)  # s <= t
for title, change in zip(titles, (right, reach, mixed, late), strict=True):
    print(f"{title:<20} largest from the future: {change[future].max():4.2g}", end="")
    print(
        f"   words at or before t that do not count: {(change[past] == 0).sum():2d} of 21"
    )
assert not right[future].any() and not reach[future].any()
assert late[future].max() > 0.1  # leaks
assert right[past].all() and mixed[T - 1, 0] == 0 and not mixed[future].any()

# %% [markdown]
# White is exactly 0. On the left stands what should be, both ways: nothing above the diagonal, everything on it
# and below.
#
# The mixing reshape never looks ahead, so it passes the test of causality as well. But half of the past is white,
# too: its "heads" are pieces of the sequence, $T / h$ words long, and the last word never sees the first. Test
# what must be there as well, not only what must not.
#
# With the mask after the softmax the forbidden *values* are gone, but the forbidden *scores* still stand in the
# denominators: the weights of a row no longer sum to 1, and how much is missing tells of the future.

# %%
_, weights = masked_after_forward(x, causal)
print("sums of the rows, mask after the softmax:", weights[0, 0].sum(axis=1))

allowed = np.array([True, True, False])
scores = np.array([0.3, 0.1, 800.0])
weights_after = softmax(scores) * allowed
with np.errstate(invalid="ignore"):
    renormalised = weights_after / weights_after.sum()
print("one forbidden score of 800, renormalised:", renormalised)
print(
    "the same, masked before the softmax:     ", softmax(np.where(allowed, scores, -np.inf))
)
assert weights[0, 0, 0].sum() < 0.9 and np.isnan(renormalised).all()

# %% [markdown]
# Dividing by the new sum mends it on paper, since the common denominator cancels, but not in a computer: a large
# forbidden score takes all digits away from the allowed ones, and $0 / 0$ is back. Mask first.
#
# ## Backward
#
# We get $d\mathrm{out}$ and owe the gradients of three inputs and eight parameters. The graph of one attention,
# with $o$ for the answers of the heads; values in blue, gradients in orange. Weights and biases, which enter the
# four affine layers, are left out of the picture:

# %%
draw_graph(
    {
        "query": (0, 1.5, "$query$"), "key": (0, 0, "$key$"), "value": (0, -1.5, "$value$"),
        "Wq": (1.9, 1.5, "affine, split"), "Wk": (1.9, 0, "affine, split"),
        "Wv": (1.9, -1.5, "affine, split"),
        "qk": (3.6, 0.75, "@"), "softmax": (5.1, 0.75, "softmax"), "read": (6.3, -0.4, "@"),
        "Wo": (8.1, -0.4, "merge, affine"), "out": (9.9, -0.4, "$out$"),
    },
    [
        ("query", "Wq", "", "$dquery$"), ("key", "Wk", "", "$dkey$"),
        ("value", "Wv", "", "$dvalue$"),
        ("Wq", "qk", "$q$", "$dq$"), ("Wk", "qk", "$k$", "$dk$"),
        ("Wv", "read", "$v$", "$dv$"),
        ("qk", "softmax", "$a$", "$da$"), ("softmax", "read", "$w$", "$dw$"),
        ("read", "Wo", "$o$", "$do$"), ("Wo", "out", "", "$dout$"),
    ],
    "Multi-head attention; the first @ divides by the root of d",
    unit=1.0,
)  # fmt: skip

# %% [markdown]
# Go from the right to the left. Image and head stay the same throughout, so their indices are left out: $t$
# is a question, $s$ or $r$ a key, $i$ a channel of a head.
#
# **The output.** $\mathrm{out} = \mathrm{merge}(o)\,W_o + b_o$ is an affine layer on all $N T$ positions:
# $d\,\mathrm{merge}(o) = d\mathrm{out}\,W_o^T$, $dW_o = \sum_{n,t} \mathrm{merge}(o)_{nt}^T\, d\mathrm{out}_{nt}$,
# $db_o = \sum_{n,t} d\mathrm{out}_{nt}$ ([lesson 3](03_affine_embedding_softmax.ipynb)). Splitting moves the
# gradient back into heads: $do$, $(N, h, T, d)$.
#
# **The mean of the values.** $o_{ti} = \sum_s w_{ts} v_{si}$. The weight $w_{ts}$ is read by all channels $i$ of
# its question; the value $v_{si}$ is read by all questions $t$:
#
# $$ dw_{ts} = \sum_i do_{ti}\, v_{si} \;\Rightarrow\; dw = do\,v^T \quad (T, S), \qquad
#    dv_{si} = \sum_t w_{ts}\, do_{ti} \;\Rightarrow\; dv = w^T do \quad (S, d) $$
#
# **The softmax.** Row $t$ by itself; leave $t$ out. $w_r = e^{a_r} / \sum_j e^{a_j}$ depends on $a_s$ through the
# numerator, if $r = s$, and through the sum, always: $\partial w_r / \partial a_s = w_r\,\delta_{rs} - w_r w_s$.
# So
#
# $$ da_s = \sum_r dw_r\, w_r (\delta_{rs} - w_s) = w_s \Big( dw_s - \sum_r w_r\, dw_r \Big) $$
#
# In words: each key's gradient minus the mean of them under the weights, times its weight. Two things follow at
# once. Where $w_s = 0$, $da_s = 0$: masks take care of themselves. And the row sums to 0, because the weights sum
# to 1:
#
# $$ \sum_s da_s = \sum_s w_s\,dw_s - \Big(\sum_s w_s\Big) \sum_r w_r\,dw_r = 0 $$
#
# **The scores.** $a_{ts} = \frac{1}{\sqrt d} \sum_i q_{ti} k_{si}$. The query of $t$ is read by all keys, the key
# of $s$ by all questions:
#
# $$ dq_{ti} = \frac{1}{\sqrt d} \sum_s da_{ts}\, k_{si}
#    \;\Rightarrow\; dq = \frac{da\;k}{\sqrt d} \quad (T, d), \qquad
#    dk_{si} = \frac{1}{\sqrt d} \sum_t da_{ts}\, q_{ti}
#    \;\Rightarrow\; dk = \frac{da^T q}{\sqrt d} \quad (S, d) $$
#
# **The projections.** Merge the heads; then three more affine layers: $d\text{query} = dq\,W_q^T$,
# $dW_q = \sum_{n,t} \text{query}_{nt}^T\, dq_{nt}$, $db_q = \sum_{n,t} dq_{nt}$, and so for keys and values.
#
# **Self-attention.** One array was passed three times, has three readers, and its gradient is the sum:
# $dx = d\text{query} + d\text{key} + d\text{value}$.

# %%
show_source(
    softmax_backward,
    scaled_dot_product_attention_backward,
    multi_head_attention_backward,
    docstring=False,
)

# %% [markdown]
# First the tiny example with nothing but sums. Let $L$ be how far right the first answer lies, plus how far down
# the second:

# %%
upstream = np.array([[1.0, 0.0], [0.0, 1.0]])
_, cache = scaled_dot_product_attention_forward(
    queries[None, None], keys[None, None], values[None, None]
)
weights = cache[-1][0, 0]
dqueries, dkeys, dvalues = np.zeros((2, 4)), np.zeros((3, 4)), np.zeros((3, 2))
for t in range(2):
    dw = [sum(upstream[t, i] * values[s, i] for i in range(2)) for s in range(3)]
    mean = sum(weights[t, s] * dw[s] for s in range(3))
    da = [weights[t, s] * (dw[s] - mean) for s in range(3)]
    for s in range(3):
        dqueries[t] += da[s] * keys[s] / 4**0.5
        dkeys[s] += da[s] * queries[t] / 4**0.5
        dvalues[s] += weights[t, s] * upstream[t]
    print(f"question {t + 1}: weights", *(f"{w:6.3f}" for w in weights[t]))
    print(
        "             dw    ",
        *(f"{g:6.3f}" for g in dw),
        f"  mean under the weights {mean:.3f}",
    )
    print("             da    ", *(f"{g:6.3f}" for g in da), f"  sum {abs(sum(da)):.3f}")

got = scaled_dot_product_attention_backward(upstream[None, None], cache)
for mine, theirs in zip((dqueries, dkeys, dvalues), got, strict=True):
    assert np.abs(mine - theirs[0, 0]).max() < 1e-12

# %% [markdown]
# $L$ grows when the first question gives more weight to the blue circle, which stands right of its mean answer,
# and less to the other two, which stand left of it; likewise the second question and what is further down. Each
# row sums to 0: weight is only moved about. Now the whole layer, with masks that have gaps and a question without
# keys:

# %%
report = check(
    "scaled_dot_product_attention_backward", scaled_dot_product_attention_backward
)
assert report
report

# %%
report = check("multi_head_attention_backward", multi_head_attention_backward)
assert report
report

# %% [markdown]
# ## A parameter that does nothing: the bias of the keys
#
# `check` says that $db_k$ is right. It does not say that it is 0. Write the score with the bias outside:
#
# $$ a_{ts} = \frac{q_t \cdot (\text{key}_s W_k + b_k)}{\sqrt d}
#    = \frac{q_t \cdot \text{key}_s W_k}{\sqrt d} + \frac{q_t \cdot b_k}{\sqrt d} $$
#
# The last term is the same for all keys $s$ of a question, and a softmax does not see what is added to all its
# scores. So $b_k$ changes nothing, and its gradient must be 0. The formulas agree, because rows of $da$ sum to 0:
#
# $$ db_k = \sum_{n,s} dk_{ns} = \frac{1}{\sqrt d} \sum_{n,t} q_{nt} \Big( \sum_s da_{nts} \Big) = 0 $$
#
# The bias of the queries is another matter: $b_q \cdot k_s$ differs from key to key.

# %%
out, cache = multi_head_attention_forward(query, memory, memory, *p.values(), h)
changed = {**p, "bk": p["bk"] + 100 * rng.standard_normal(E)}
out_changed, _ = multi_head_attention_forward(query, memory, memory, *changed.values(), h)
gradients = multi_head_attention_backward(rng.standard_normal(out.shape), cache)
of = dict(zip(("query", "key", "value", *names), gradients, strict=True))
print("another bk moves the output by less than 1e-10 of its size")
print("length of dbk: less than 1e-12;  of dbq:", round(np.linalg.norm(of["bq"]), 2))
assert relative_error(out_changed, out) < 1e-10
assert np.linalg.norm(of["bk"]) < 1e-12 < 1e-2 < np.linalg.norm(of["bq"])

# %% [markdown]
# "Less than 1e-12" and not 0: that is rounding. Nothing depends on this parameter, so the blocks of `core` do not
# have it.
#
# ## One key kills half of the layer
#
# Lessons 5 and 6 gave the model one vector for the whole picture. What if cross-attention reads that, a memory of
# one token? A softmax over one key is 1, whatever the score. So the score is irrelevant, and with it all that
# makes it: $da = 1 \cdot (dw - 1 \cdot dw) = 0$ exactly, hence $dq = dk = 0$, and $W_q$, $b_q$, $W_k$ never learn.
# In a pre-norm block the layer norm in front of the queries ([lesson 10](10_the_transformer_block.ipynb)) feeds
# nothing but them, and dies too. The attention has become $\text{memory}\,W_v W_o$ plus biases, one vector that is
# added at every position.
#
# No error tells you, and the rest of the model learns. First the layer by itself, asked by two different queries:

# %%
one = memory[:, :1]
answers_to = [
    multi_head_attention_forward(asked, one, one, *p.values(), h)
    for asked in (query, 100 * rng.standard_normal(query.shape))
]
(out, cache), (other, _) = answers_to
gradients = multi_head_attention_backward(rng.standard_normal(out.shape), cache)
of = dict(zip(("query", "key", "value", *names), gradients, strict=True))
print("one key, other queries: the same output,", np.array_equal(out, other))
print("without a gradient:", *(name for name, gradient in of.items() if not gradient.any()))
assert np.array_equal(out, other)
dead = [name for name in of if not of[name].any()]
assert dead == ["query", "key", "Wq", "bq", "Wk", "bk"]

# %% [markdown]
# Now count, on a whole captioner, which parameters get no gradient at all; first with the grid of 64 locations,
# then with their mean as the only one.

# %%
data = lessons.embedded_data("transformer", num_samples=50)
grid = data["train_features"][data["train_image_idxs"]].astype(np.float64)
captions = data["train_captions"]
model = CaptioningTransformer(
    data["word_to_idx"], grid.shape[2], wordvec_dim=64, num_heads=4, num_layers=2,
    dtype=np.float64, rng=np.random.default_rng(0),
)  # fmt: skip
total = sum(value.size for value in model.params.values())
for title, features in (
    ("64 locations", grid),
    ("1 location", grid.mean(1, keepdims=True)),
):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loss, grads = model.loss(features, captions)
    dead = [name for name in model.params if not grads[name].any()]
    lost = sum(model.params[name].size for name in dead)
    print(
        f"{title}: loss {loss:.1f}, {len(dead)} of {len(grads)} arrays without a gradient,"
    )
    print(f"    {lost:,} of {total:,} numbers", *(f"\n    {name}" for name in dead), sep="")
assert sorted(dead) == sorted(model.needs_a_grid()) and lost > 16_000
print("what the model says about it:", str(said[0].message).split(":")[0])
assert not grads["W_embed"][model.null].any()  # no padding mask, and yet no gradient

# %% [markdown]
# The loss at the start does not give it away. `model.needs_a_grid()` knows the names, and the model warns when it
# is fed one location. A test of the project asserts that with a grid no parameter is dead; it is worth writing for
# any model of yours, it takes three lines. The mistake is easily made: one pooled vector of a CNN for each picture
# is what many data sets offer, and a cross-attention takes it without a word.
#
# ## Without positions there is no order
#
# Shuffle the words that go into self-attention without a mask. Each word still asks the same question and finds
# the same keys and values, elsewhere. So the outputs are shuffled likewise, and are otherwise the same: for any
# permutation $\pi$, attention$(x_\pi)$ = attention$(x)_\pi$. It is **equivariant** to permutations. For keys and
# values of cross-attention it is **invariant**: their order does not matter at all.

# %%
x = rng.standard_normal((1, T, E))
order = rng.permutation(T)


def attend(x, y, mask=None):
    return multi_head_attention_forward(x, y, y, *p.values(), h, mask)[0]


same_words = np.abs(attend(x[:, order], x[:, order]) - attend(x, x)[:, order]).max()
same_keys = np.abs(attend(x, x[:, order]) - attend(x, x)).max()
front = np.array([2, 0, 3, 1, 4, 5])  # only words before the last
last = np.abs(attend(x[:, front], x[:, front], causal) - attend(x, x, causal))[0, -1].max()
print("the same to 1e-12: self-attention of shuffled words, shuffled back; attention to")
print("shuffled keys; under a causal mask the last output, the words before it shuffled")
assert max(same_words, same_keys, last) < 1e-12

where = 0.5 * rng.standard_normal((T, E))  # a vector for each position
shuffled = attend(x[:, order] + where, x[:, order] + where)
difference = relative_error(shuffled, attend(x + where, x + where)[:, order])
print(f"with a vector for each position added: off by {difference:.2f}, relative")
assert difference > 0.05

# %% [markdown]
# To attention "a red circle above a blue square" and "a blue circle above a red square" are the same bag of words.
# Even under a causal mask the last word learns from one layer *which* words came before it, but not in what order.
# (Several causal layers can tell, since the words in between have seen different pasts: Haviv and others, 2022.
# But they have to learn to count first.) The cure is to write the position into the vectors themselves;
# [lesson 10](10_the_transformer_block.ipynb) does it.
#
# ## The image, asked more cheaply
#
# Cross-attention makes keys and values of all $S$ locations $m_s$, in each block. A caption has far fewer words than
# its picture has locations, so it can be cheaper to carry the $T$ questions to the locations. For head $i$, with its
# columns $W_{k,i}$ of shape $(E, d)$:
#
# $$ q_{t,i} \cdot (m_s W_{k,i}) = (q_{t,i} W_{k,i}^T) \cdot m_s, \qquad
#    \sum_s w_{ts} (m_s W_{v,i} + b_{v,i}) = \Big(\sum_s w_{ts}\, m_s\Big) W_{v,i} + b_{v,i} $$
#
# The first moves a bracket, the second a product out of a sum ($\sum_s w_{ts} = 1$ takes care of the bias). The
# numbers stay the same, so this is speed and no other layer: `core/transformer_layers.py` keeps the definition
# above, and `core/fast/transformer.py` trains with this form.
#
# ## What heads learn to look at
#
# The Transformer that came with the lessons, trained on all 40,000 captions by
#
#     python training.py --model transformer --wordvec_dim 64 --out runs/transformer
#
# in about nine minutes on one core, has two blocks with four heads each: eight maps over the picture for every word.
# Nothing but the loss of the captions ever told them where to look. Here they are for a word that names a shape; the
# brightest place of each map has its largest weight:

# %% tags=["picture"]
trained, _ = lessons.load_trained("transformer")
data = lessons.embedded_data("transformer")
scenes = load_scenes(data["source"]["folder"], "val")
_, first = np.unique(data["val_image_idxs"], return_index=True)  # a caption of each
captions, images = data["val_captions"][first], data["val_image_idxs"][first]
maps = trained.attention_weights(data["val_features"][images], captions)  # (N, T, heads, L)

row, word = next(
    (n, t)
    for n, caption in enumerate(captions)
    for t in range(5, 10)
    if len(scenes[images[n]]) == 3
    and (caption == data["word_to_idx"]["triangle"]).sum() == 1
    and caption[t + 1] == data["word_to_idx"]["triangle"]
)
picture = load_image(image_path(data, "val", images[row]))
words = decode_captions(captions[row], data["idx_to_word"]).split()
figure, axes = plt.subplots(2, 5, figsize=(8, 3.6))
for ax in axes.flat:
    ax.axis("off")
axes[0, 0].imshow(picture)
axes[0, 0].set_title("the picture", fontsize=8)
shown = [*maps[row, word], maps[row, word].mean(axis=0)]
titles = [*trained.head_names(), "mean of all"]
places = [*axes[0, 1:], *axes[1, 1:], axes[1, 0]]
for ax, weights, title in zip(places, shown, titles, strict=True):
    light = 0.15 + 0.85 * upsample(weights, len(picture))[:, :, None]
    ax.imshow((picture * light).astype(np.uint8))
    ax.set_title(title, fontsize=8)
figure.suptitle(f"{' '.join(words[:word])} ... and now: {words[word]}", fontsize=10)
plt.show()

# %% [markdown]
# One picture proves little. For 300 held-out pictures and each word that names a shape of the picture, in one of
# its given captions (fed in, not one that the model made): does the brightest cell of the map lie on that shape,
# or at most one cell beside it?


# %%
def share_on_shape(maps):
    """(N, T, L) maps -> for what share of the names the peak is on the shape; by chance."""
    found = []
    for caption, image, of_caption in zip(captions, images, maps, strict=True):
        words = [data["idx_to_word"][word] for word in caption[1:]]
        found += pointing(words, of_caption, scenes[image])
    hits, chances = zip(*((name.on_shape, name.chance) for name in found), strict=True)
    return np.mean(hits), np.mean(chances)


shares = [share_on_shape(maps[:, :, head])[0] for head in range(maps.shape[2])]
together, chance = share_on_shape(maps.mean(axis=2))
plt.bar(range(9), [*shares, together], color=["C0"] * 8 + ["C1"])
plt.axhline(chance, color="grey", linestyle=":", label="a random cell")
labels = [name.replace(", ", "\n") for name in trained.head_names()]
plt.xticks(range(9), [*labels, "mean\nof all"], fontsize=7)
plt.ylabel("peak on the named shape")
plt.ylim(0, 1)
plt.legend()
plt.show()
print(f"single heads: {min(shares):.0%} to {max(shares):.0%}")
print(f"mean of all: {together:.0%}; a random cell: {chance:.0%}")
assert together > 0.85 and max(shares) < together and min(shares) > chance

# %% [markdown]
# No single head is a pointer. Each does a part of the work, looks also at what stands around, and their mean is on
# the shape in more than nine cases of ten. (A map shows where weights are large. It does not prove that the word
# was chosen *because* of what stands there: values and later layers have a say; Jain and Wallace, 2019.)
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/09_multi_head_attention.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · A mask for captions of different lengths (one line)
#
# Given `lengths`, the number of words of each of $N$ captions, and $T$, return the booleans $(N, T, T)$ that let
# every word see itself and the words before it, and nobody see padding (positions from the length on).
# (`lengths[:, None, None]` is $(N, 1, 1)$.)


# %% tags=["exercise"]
def mask_of(lengths, T):
    ### BEGIN SOLUTION
    return np.tri(T, dtype=bool) & (np.arange(T) < lengths[:, None, None])
    ### END SOLUTION


def mask_by_loops(lengths, T):
    return np.array(
        [[[s <= t and s < n for s in range(T)] for t in range(T)] for n in lengths]
    )


compare(
    mask_of,
    mask_by_loops,
    np.array([5, 2, 0, 4]),
    5,
    also={"for one caption of one word": (np.array([1]), 1)},
    exercise="09.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · The heart of it
#
# Write `scaled_dot_product_attention_backward` without looking. The cache is `(q, k, v, weights)`, with shapes
# $(N, h, T, d)$, $(N, h, S, d)$ twice, and $(N, h, T, S)$. Return `dq, dk, dv`. Write the softmax out as well.
# (`check(..., hint=2)` and `hint=3` say more when it does not hold. They name the line of the first wrong
# quantity, and the error may stand before it: if $dv$ holds, and $dq$ and $dk$ do not, look at what these two
# share, $da$ and the divisor.)


# %% tags=["exercise"]
def attention_backward(dout, cache):
    q, k, v, weights = cache
    ### BEGIN SOLUTION
    dweights = dout @ v.swapaxes(-1, -2)
    mean = (weights * dweights).sum(axis=-1, keepdims=True)
    dscores = weights * (dweights - mean) / q.shape[-1] ** 0.5
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dout
    ### END SOLUTION


check("scaled_dot_product_attention_backward", attention_backward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: many questions, one set of keys
#
# While it decodes, a Transformer keeps keys and values of all words so far, $2 T E$ numbers a caption and block.
# Shazeer (2019) lets all heads share *one* set of keys and values of width $d$: $W_k$ and $W_v$ are $(E, d)$.
# Write forward and backward of such a self-attention (no biases, no mask). Then count: how many times fewer
# numbers are kept?
#
# Hints: `k[:, None]` is $(N, 1, T, d)$ and broadcasts against the heads of $q$. What is read by all heads collects
# from all heads.


# %% tags=["exercise"]
def multi_query_forward(x, Wq, Wk, Wv, Wo, num_heads):
    """x (N, T, E), Wq, Wo (E, E), Wk, Wv (E, d). Returns out and a cache of your own."""
    ### BEGIN SOLUTION
    q = split_heads(x @ Wq, num_heads)
    k, v = (x @ Wk)[:, None], (x @ Wv)[:, None]
    heads, cache = scaled_dot_product_attention_forward(q, k, v)
    merged = merge_heads(heads)
    return merged @ Wo, (x, Wq, Wk, Wv, Wo, merged, cache)
    ### END SOLUTION


def multi_query_backward(dout, cache):
    """Returns dx, dWq, dWk, dWv, dWo."""
    ### BEGIN SOLUTION
    x, Wq, Wk, Wv, Wo, merged, attention_cache = cache
    num_heads = attention_cache[0].shape[1]
    dheads = split_heads(dout @ Wo.T, num_heads)
    dq, dk, dv = scaled_dot_product_attention_backward(dheads, attention_cache)
    dq, dk, dv = merge_heads(dq), dk.sum(axis=1), dv.sum(axis=1)
    dx = dq @ Wq.T + dk @ Wk.T + dv @ Wv.T
    dWs = (np.einsum("nti,ntj->ij", x, dy) for dy in (dq, dk, dv))
    return dx, *dWs, np.einsum("nti,ntj->ij", merged, dout)
    ### END SOLUTION


def kept_numbers_ratio(T, E, num_heads):
    """Numbers kept by multi-head attention, over those kept by multi-query attention."""
    ### BEGIN SOLUTION
    return (2 * T * E) / (2 * T * E // num_heads)
    ### END SOLUTION


def ratios():
    found = [kept_numbers_ratio(*sizes) for sizes in ((20, 64, 4), (20, 64, 8), (1, 6, 3))]
    return None if None in found else found


confirm(
    ratios,
    lambda ratios: ratios == [4, 8, 3],
    "a ratio of counts, for 4, 8 and 3 heads",
    exercise="09.3",
)


# %% tags=["exercise"]
def your_gradients(x, *weights):
    """Your output and gradients, for an upstream gradient of 1, 2, 3, ..."""
    out, cache = multi_query_forward(x, *weights, 4)
    upstream = np.arange(1.0, out.size + 1).reshape(out.shape)
    given = upstream.copy()
    gradients = multi_query_backward(given, cache)
    assert np.array_equal(given, upstream), "multi_query_backward writes into dout"
    names = "dx", "dWq", "dWk", "dWv", "dWo"
    return {"out": out, **dict(zip(names, gradients, strict=True))}


def by_differences(x, Wq, Wk, Wv, Wo):
    """The same of our multi-head attention, with the keys' and values' weights repeated."""
    upstream, nothing = np.arange(1.0, x.size + 1).reshape(x.shape), np.zeros(len(Wq))

    def repeated(_):
        weights = Wq, nothing, np.tile(Wk, 4), nothing, np.tile(Wv, 4), nothing, Wo, nothing
        return multi_head_attention_forward(x, x, x, *weights, 4)[0]

    arrays = {"dx": x, "dWq": Wq, "dWk": Wk, "dWv": Wv, "dWo": Wo}
    gradients = {
        name: eval_numerical_gradient_array(repeated, array, upstream)
        for name, array in arrays.items()
    }
    return {"out": repeated(None), **gradients}


rng = np.random.default_rng(5)
shapes = (2, 3, 8), (8, 8), (8, 2), (8, 2), (8, 8)
arrays = [0.5 * rng.standard_normal(shape) for shape in shapes]
one_word = arrays[0][:1, :1], *arrays[1:]
compare(
    your_gradients,
    by_differences,
    *arrays,
    tolerance=1e-6,
    also={"for one caption of one word": one_word},
)

# %% [markdown]
# ## What to keep
#
# * Attention is a softmax of dot products and a mean of values: two products of matrices, between four affine
#   maps, and no loop over time.
# * The divisor $\sqrt d$ keeps the scores' spread at 1, and the softmax where it has a slope.
# * Heads are blocks of channels: reshape, then swap. The straight reshape has the right shape, passes its own
#   gradient check, and is wrong.
# * Masks act before the softmax. Test causality by changing a future word: earlier outputs must not move at all.
# * What all scores of a row share cannot learn: the bias of the keys; with a single key, queries and keys
#   altogether.
#
# **Sources.** A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. Gomez, Ł. Kaiser and I. Polosukhin,
# *Attention is all you need*, NeurIPS 2017. D. Bahdanau, K. Cho and Y. Bengio, *Neural machine translation by
# jointly learning to align and translate*, ICLR 2015 (the additive score). S. Jain and B. Wallace, *Attention is
# not explanation*, NAACL 2019. A. Haviv, O. Ram, O. Press, P. Izsak and O. Levy, *Transformer language models
# without positional encodings still learn positional information*, Findings of EMNLP 2022. N. Shazeer, *Fast
# Transformer decoding: one write-head is all you need*, arXiv:1911.02150 (2019).
#
# **Next:** [lesson 10, the Transformer block](10_the_transformer_block.ipynb): layer norm, residual stream,
# feed-forward, dropout and positions, and the whole model.
