# %% [markdown]
# # 9b · More about heads and masks
#
# **The question.** [Lesson 9](09_multi_head_attention.ipynb) built multi-head attention and tested it. Which mistakes
# pass the obvious tests, which corners does a mask have, and what do the choices (product, divisor, heads) cost and
# give?
#
# Each section stands by itself. Several answer a **Predict** with a measurement.
#
# *Before: lesson 9. No lesson needs this notebook. All cells together run in half a minute.*

# %% tags=["setup"]
import warnings
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.gradient_check import check, relative_error
from core.layers import softmax, softmax_backward
from core.lessons import BLUE, GREY, ORANGE, show_source
from core.models import CaptioningTransformer
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
# ## A tanh or a product
#
# Lesson 8 scores with a small network, $v \cdot \tanh(k_j + q_t)$, where $v$ is a learned vector. For each pair of a
# question and a place that takes $K$ hyperbolic tangents. The product takes $K$ multiplications, and all pairs
# together are one matrix product, $q\,k^T$. What is given up is the nonlinearity between question and key. Both are
# made by learned weights, and in practice that is enough. The time, for 64 captions of 16 words and 64 places:

# %% tags=["measured"]
rng = np.random.default_rng(0)
N, T, S, K = 64, 16, 64, 64
q, k, v = (rng.standard_normal(s, dtype=np.float32) for s in ((N, T, K), (N, S, K), K))
for name, score in (
    ("additive", lambda: np.tanh(k[:, None] + q[:, :, None]) @ v),
    ("product", lambda: q @ k.swapaxes(1, 2)),
):
    times = []
    for _ in range(15):
        start = perf_counter()
        score()
        times.append(perf_counter() - start)
    print(f"{name:<9} {1000 * min(times):.1f} milliseconds")

# %% [markdown]
# ## The divisor, in more detail
#
# Lesson 9 divides scores by $\sqrt d$, since their variance is $d$. **Predict**: what would happen if you divided
# by $d$ itself?


# %% tags=["hide-input"]
def at_the_start(d, questions=500, S=32, seed=0):
    """For each divisor: the mean of the largest weight, and the median length of ds."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((questions, 1, d))
    k = rng.standard_normal((questions, S, d))
    dweights = rng.standard_normal((questions, 1, S))
    found = {}
    for divisor, name in ((1, "1"), (d**0.5, "$\\sqrt{d}$"), (d, "$d$")):
        weights = softmax(q @ k.swapaxes(1, 2) / divisor)
        lengths = np.linalg.norm(softmax_backward(dweights, weights), axis=2)
        found[name] = weights.max(axis=2).mean(), np.median(lengths), lengths.mean()
    return found


widths = [1, 4, 16, 64, 256, 1024]
found = [at_the_start(d) for d in widths]
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
for name, colour in zip(found[0], (GREY, BLUE, ORANGE), strict=True):
    largest, lengths, _ = zip(*(row[name] for row in found), strict=True)
    label = "not divided" if name == "1" else f"divided by {name}"
    axes[0].semilogx(widths, largest, marker="o", color=colour, label=label)
    axes[1].loglog(widths, lengths, marker="o", color=colour)
axes[0].set(xlabel="width $d$", ylabel="largest of 32 weights, mean", ylim=(0, 1.02))
axes[1].set(xlabel="width $d$", ylabel="length of $ds$, median")
axes[0].legend(loc="upper left")
plt.show()
at = dict(zip(widths, found, strict=True))
raw, root = (at[1024][name] for name in ("1", "$\\sqrt{d}$"))
print(f"width 1024, not divided: length of ds, median {raw[1]:.5f}, mean {raw[2]:.5f}")
narrow = [at[16][name][0] for name in ("1", "$\\sqrt{d}$")]
print(f"width 16: largest weight {narrow[0]:.2f} not divided, {narrow[1]:.2f} divided")
assert at[1024]["$d$"][0] < 0.04 and raw[0] > 0.9 and root[0] < 0.3
assert raw[1] < 1e-2 * root[1] and raw[2] > 10 * raw[1]

# %% [markdown]
# <details><summary>Answer</summary>
#
# The other extreme: every head starts as a plain mean over all keys, whatever is asked. The gradient $ds$ stays, but
# $dq = ds\, k / d$ shrinks. With $\sqrt d$ both curves are level. Not divided, the *mean* length of $ds$ falls less
# fast than the median: a few questions that are undecided still learn.
#
# </details>
#
# ## One mean for two
#
# In lesson 9 one head had to copy numbers $a$ of one position and $b$ of another, and ended at a squared error of
# one half. Why? With weights $w$ and $1 - w$ it hands over $z = w\,a + (1 - w)\,b$. The numbers are independent with
# variance 1, so $z$ has variance $w^2 + (1-w)^2$ and covariance $w$ with $a$. The best linear guess of $a$ from $z$
# leaves 1 minus covariance squared over variance:
#
# $$ 1 - \frac{w^2}{w^2 + (1-w)^2} \quad\text{for } a, \qquad
#    1 - \frac{(1-w)^2}{w^2 + (1-w)^2} \quad\text{for } b, \qquad \text{together } 2 - 1 = 1 $$
#
# whatever $w$ is: one half per number. (Slightly less is possible, as weights may depend on the numbers themselves.)

# %%
a, b = np.random.default_rng(0).standard_normal((2, 100_000))
for w in (1.0, 0.7, 0.5):
    z = w * a + (1 - w) * b
    errors = [np.mean((x - z * (x @ z) / (z @ z)) ** 2) for x in (a, b)]
    print(
        f"w = {w}: error of a {errors[0]:.2f}, of b {errors[1]:.2f}, mean {np.mean(errors):.2f}"
    )
    assert abs(np.mean(errors) - 0.5) < 0.01

# %% [markdown]
# ## A reshape without the swap
#
# $(N, T, E) \to (N, \text{heads}, T, d)$ has the same number of entries on both sides, and one `reshape` goes
# straight there. Let each number name its place: position in front of the point, channel after it.

# %%
named = np.add.outer([0.0, 1.0, 2.0], [0.0, 0.1, 0.2, 0.3])[None]  # (N=1, T=3, E=4)
for title, x in (("cut, then swapped", split_heads(named, 2)),
                 ("straight", named.reshape(1, 2, 3, 2))):  # fmt: skip
    print(f"{title}, {x.shape}")
    for i, head in enumerate(x[0]):
        print(f"   head {i}: ", "   ".join(str(row) for row in head))

# %% [markdown]
# In the second, "head 0" has both halves of position 0 and half of position 1, as if they were three positions. No
# shape complains. **Predict**: would a comparison of its backward with finite differences of its forward find it?


# %% tags=["hide-input"]
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
# <details><summary>Answer</summary>
#
# No: every gradient agrees, of the wrong function; the output is wrong. So a layer needs a check of its *meaning*,
# too: PyTorch's version, a loop over heads, or a property that it must have.
#
# </details>
#
# ## A row without any key
#
# A question may have nothing to look at, in a caption that is all padding, say. Then the softmax reads $0 / 0$.
# **Predict** what each of these three returns:

# %%
nothing = np.full((1, 3), -np.inf)
with np.errstate(invalid="ignore"):
    raised = np.exp(nothing - nothing.max(axis=-1, keepdims=True))
    print("the formula as it is      ", (raised / raised.sum(axis=-1, keepdims=True))[0])
print("with -1e9 for -infinity   ", softmax(np.array([[0.1, 0.2, 0.3]]) - 1e9)[0])
print("core's softmax            ", softmax(nothing)[0])
assert not softmax(nothing).any()

# %% [markdown]
# <details><summary>Answer</summary>
#
# NaN, which spreads through the whole model with the next sum over the batch. Then the opposite of a mask: where all
# keys are forbidden, it looks at all of them as if none were. `core` returns zeros, with two lines that nothing else
# needs:
#
# </details>

# %%
show_source(softmax, docstring=False)

# %% tags=["hide-input"]
rng = np.random.default_rng(1)
N, T, S, E, heads = 3, 5, 7, 12, 4  # all different, so that a wrong axis cannot hide
query, memory = rng.standard_normal((N, T, E)), rng.standard_normal((N, S, E))
names = ("Wq", "bq", "Wk", "bk", "Wv", "bv", "Wo", "bo")
shapes = {name: (E, E) if name[0] == "W" else (E,) for name in names}
params = {name: E**-0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}

mask = np.ones((N, T, S), dtype=bool)
mask[0, 2] = False  # question 2 of picture 0 sees nothing
mask[:, :, 4] = False  # a gap: nothing sees key 4
out, cache = multi_head_attention_forward(
    query, memory, memory, *params.values(), heads, mask
)
gradients = multi_head_attention_backward(rng.standard_normal(out.shape), cache)
dquery, dkey, dvalue = gradients[:3]
print(
    "the output of the question without keys is bo:",
    np.array_equal(out[0, 2], params["bo"]),
)
print("dquery of that question:  largest", np.abs(dquery[0, 2]).max())
print(
    "dkey, dvalue of the gap:  largest",
    np.abs(dkey[:, 4]).max(),
    np.abs(dvalue[:, 4]).max(),
)
assert np.array_equal(out[0, 2], params["bo"]) and not dquery[0, 2].any()
assert not dkey[:, 4].any() and not dvalue[:, 4].any() and dkey[:, 3].any()
assert all(np.isfinite(gradient).all() for gradient in gradients)

# %% [markdown]
# A trap in the shapes: a padding mask is $(N, S)$, and attention reads a mask of two axes as $(T, S)$, the same for
# all pictures. With $N = T$ that raises nothing. Write it as $(N, 1, 1, S)$.
#
# ## Causality, done wrongly twice
#
# Two mistakes look right. One is the straight reshape from above. The other multiplies the mask to the weights
# **after** the softmax, which puts zeros in the same places. For each pair, by how much does output $t$ move when
# word $j$ is another? **Predict** where each of them differs from a lower triangle.


# %% tags=["hide-input"]
T = 6
x = rng.standard_normal((1, T, E))
causal = np.tri(T, dtype=bool)


def masked_after_forward(x, mask):
    """Self-attention whose mask comes after the softmax."""
    q, k, v = (split_heads(x @ params[f"W{c}"] + params[f"b{c}"], heads) for c in "qkv")
    weights = softmax(q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5) * mask
    return merge_heads(weights @ v) @ params["Wo"] + params["bo"], weights


def moved(forward):
    """(T, T): by how much the output at t moves when the word at j is another."""
    before, change = forward(x), np.zeros((T, T))
    for j in range(T):
        other = x.copy()
        other[0, j] = np.random.default_rng(j).standard_normal(E)
        change[:, j] = np.linalg.norm(forward(other) - before, axis=2)[0]
    return change


reach = np.zeros((T, T))  # lengths of the gradient of x[j], for a random gradient of out[t]
out, cache = multi_head_attention_forward(x, x, x, *params.values(), heads, causal)
for t in range(T):
    dout = np.zeros_like(out)
    dout[0, t] = rng.standard_normal(E)
    dquery, dkey, dvalue, *_ = multi_head_attention_backward(dout, cache)
    reach[t] = np.linalg.norm(dquery + dkey + dvalue, axis=2)[0]

values = params.values()
right = moved(lambda x: multi_head_attention_forward(x, x, x, *values, heads, causal)[0])
mixed = moved(lambda x: mixing_forward(x, x, x, *values, heads, causal)[0])
late = moved(lambda x: masked_after_forward(x, causal)[0])

figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
titles = "right, by change", "right, by gradient", "reshape, no swap", "mask after softmax"
for ax, change, title in zip(axes, (right, reach, mixed, late), titles, strict=True):
    shown = np.ma.masked_equal(
        0.15 + 0.85 * change / change.max(), 0.15
    )  # exactly 0: white
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=1)
    ax.set(title=title, xlabel="word $j$", xticks=range(T), yticks=range(T))
    ax.grid(False)
axes[0].set_ylabel("output $t$")
plt.show()

future = np.triu_indices(T, 1)  # j > t
past = np.tril_indices(T)  # j <= t
for title, change in zip(titles, (right, reach, mixed, late), strict=True):
    print(f"{title:<19} largest from the future {change[future].max():4.2g}", end="")
    print(
        f"   words at or before t that do not count: {(change[past] == 0).sum():2d} of 21"
    )
_, weights = masked_after_forward(x, causal)
print("sums of the rows, mask after the softmax:", weights[0, 0].sum(axis=1))
assert not right[future].any() and not reach[future].any() and right[past].all()
assert late[future].max() > 0.1 and weights[0, 0, 0].sum() < 0.9  # leaks
assert mixed[T - 1, 0] == 0 and not mixed[future].any() and (mixed[past] == 0).sum() == 11

# %% [markdown]
# <details><summary>Answer</summary>
#
# White is exactly 0. The straight reshape never looks ahead, so it passes the test of causality. But half of the
# past is white, too, and the last word never sees the first. Test what must be there as well, not only what must
# not. With the mask after the softmax the forbidden *scores* still count in the denominators: rows do not sum to 1,
# and how much is missing tells of the future.
#
# </details>
#
# Dividing by the new sum mends that on paper, but not in a computer: one large forbidden score takes all digits
# away from the allowed ones.

# %%
allowed, scores = np.array([True, True, False]), np.array([0.3, 0.1, 800.0])
weights_after = softmax(scores) * allowed
with np.errstate(invalid="ignore"):
    renormalised = weights_after / weights_after.sum()
print("masked after, renormalised:", renormalised)
print("masked before:             ", softmax(np.where(allowed, scores, -np.inf)))
assert np.isnan(renormalised).all()

# %% [markdown]
# ## A bias that does nothing
#
# `check` says that the gradient of $b_k$ is right. It does not say that it is 0. With the bias outside, the score is
#
# $$ s_{tj} = \frac{q_t \cdot \text{key}_j W_k}{\sqrt d} + \frac{q_t \cdot b_k}{\sqrt d} $$
#
# The last term is the same for all keys of a question, and a softmax does not see it. The formulas agree, because
# rows of $ds$ sum to 0: $db_k = \sum_{j} dk_{j} = \frac{1}{\sqrt d} \sum_{t} q_{t} \sum_j ds_{tj} = 0$. The bias of
# the queries is another matter: $b_q \cdot k_j$ differs from key to key.

# %%
out, cache = multi_head_attention_forward(query, memory, memory, *params.values(), heads)
changed = {**params, "bk": params["bk"] + 100 * rng.standard_normal(E)}
other, _ = multi_head_attention_forward(query, memory, memory, *changed.values(), heads)
gradients = multi_head_attention_backward(rng.standard_normal(out.shape), cache)
lengths = {n: np.linalg.norm(dx) for n, dx in zip(names, gradients[3:], strict=True)}
print("another bk moves the output by less than 1e-10 of its size")
print("length of dbk: less than 1e-12;  of dbq:", round(lengths["bq"], 2))
assert relative_error(other, out) < 1e-10 and lengths["bk"] < 1e-12 < 1e-2 < lengths["bq"]

# %% [markdown]
# ## One key, in a whole captioner
#
# With a memory of one place, queries and keys never learn (lesson 9). How many parameters is that in a captioner
# with two blocks? First the grid of 64 places, then their mean as the only one.

# %%
data = lessons.embedded_data("transformer", num_samples=50)
grid = data["train_features"][data["train_image_idxs"]].astype(np.float64)
model = CaptioningTransformer(
    data["word_to_idx"], grid.shape[2], wordvec_dim=64, num_heads=4, num_layers=2,
    dtype=np.float64, rng=np.random.default_rng(0),
)  # fmt: skip
for title, features in (("64 places", grid), ("1 place", grid.mean(1, keepdims=True))):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loss, grads = model.loss(features, data["train_captions"])
    dead = [name for name in model.params if not grads[name].any()]
    lost = sum(model.params[name].size for name in dead)
    print(
        f"{title}: loss {loss:.1f}, {lost:,} numbers without a gradient", *dead, sep="\n   "
    )

# %% tags=["hide-input"]
print("what the model says about it:", str(said[0].message).split(":")[0])
assert sorted(dead) == sorted(model.needs_a_grid()) and lost > 16_000
assert not grads["W_embed"][model.null].any()  # no padding mask, and yet no gradient

# %% [markdown]
# The loss does not give it away. (The layer norm in front of the queries feeds nothing but them, and dies with
# them.) A test that no parameter is without a gradient takes three lines; write it for any model of yours.
#
# ## The picture, asked more cheaply
#
# Cross-attention makes keys and values of all $S$ places $m_j$ in each block. A caption has far fewer words than
# its picture has places, so it can be cheaper to carry the $T$ questions to the places. For one head, with its
# columns $W_k$ and $W_v$:
#
# $$ q_t \cdot (m_j W_k) = (q_t W_k^T) \cdot m_j, \qquad
#    \sum_j \alpha_{tj} (m_j W_v + b_v) = \Big(\sum_j \alpha_{tj}\, m_j\Big) W_v + b_v $$
#
# The first moves a bracket, the second a product out of a sum. The numbers stay the same, so this is speed and no
# other layer: `core/transformer_layers.py` keeps the definition, and `core/fast/transformer.py` trains with this.

# %%
d = E // heads
q, W_k, W_v, b_v = (rng.standard_normal(s) for s in ((5, d), (E, d), (E, d), (d,)))
m = memory[0]
alpha = softmax(q @ (m @ W_k).T / d**0.5)
cheap = softmax((q @ W_k.T) @ m.T / d**0.5)
assert np.allclose(alpha, cheap)
assert np.allclose(alpha @ (m @ W_v + b_v), (cheap @ m) @ W_v + b_v)
print("both ways give the same weights and answers")

# %% [markdown]
# **Sources.** A. Vaswani and others, *Attention is all you need*, NeurIPS 2017. D. Bahdanau, K. Cho and Y. Bengio,
# *Neural machine translation by jointly learning to align and translate*, ICLR 2015 (the additive score). That
# several causal layers can count positions by themselves: A. Haviv, O. Ram, O. Press, P. Izsak and O. Levy,
# *Transformer language models without positional encodings still learn positional information*, Findings of EMNLP
# 2022.
