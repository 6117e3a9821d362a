# %% [markdown]
# # 10b · Depth, slips and details
#
# **The question.** [Lesson 10](10_the_transformer_block.ipynb) put the layer norm in front of each sublayer, and checked
# every gradient. Does it matter where the norm is? And would you notice a wrong gradient without a check?
#
# You stack 24 blocks with the norm in both places, train with wrong gradients, and look closer at four parts: layer norm,
# GELU, dropout and positions.
#
# *This goes deeper than lesson 10, and no lesson needs it. About 45 minutes; all cells together run in half a minute.*

# %% tags=["setup"]
from contextlib import ExitStack
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np

from core import lessons, transformer_layers
from core.captioning_solver import NumpyEngine
from core.gradient_check import (
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    relative_error,
)
from core.layers import dropout_forward
from core.lessons import BLUE, GREY, ORANGE, Sketch, show_source
from core.models import CaptioningTransformer, captioning_transformer
from core.transformer_layers import (
    ACTIVATIONS,
    BLOCK_SHAPES,
    decoder_block_backward,
    decoder_block_forward,
    enter_backward,
    gelu_backward,
    gelu_forward,
    layer_norm_backward,
    layer_norm_forward,
    leave_backward,
    leave_forward,
    positional_encoding,
)

lessons.style()

# %% [markdown]
# ## Where the layer norm is
#
# The paper of 2017 had the norm after the sum, on the stream itself. Most models today have it on the branch:
#
# $$ \text{post-norm:}\quad x \leftarrow \mathrm{norm}(x + f(x)) \qquad\qquad
#    \text{pre-norm:}\quad x \leftarrow x + f(\mathrm{norm}(x)) $$

# %% tags=["hide-input"]
drawing = Sketch(9, 1.9)
for left, title in ((0.4, "pre-norm"), (4.9, "post-norm")):
    plus = drawing.box(left + 2.3, 0.5, "+", "op", width=0.36, height=0.36)
    if title == "pre-norm":
        norm = drawing.box(left + 0.8, 1.35, "norm", "op", width=0.8)
        f = drawing.box(left + 2.3, 1.35, "f", "op", width=0.6)
        drawing.arrow((left + 0.8, 0.5), norm)
        drawing.arrow(norm, f)
        drawing.arrow(plus, (left + 3.9, 0.5))
    else:
        f = drawing.box(left + 1.3, 1.35, "f", "op", width=0.6)
        norm = drawing.box(left + 3.2, 0.5, "norm", "op", width=0.8)
        drawing.arrow((left + 1.3, 0.5), f)
        drawing.arrow(plus, norm)
        drawing.arrow(norm, (left + 4.0, 0.5))
    drawing.arrow(f, plus)
    drawing.arrow((left, 0.5), plus)
    drawing.text(left + 0.5, 0.2, title, BLUE)
drawing.show()

# %% [markdown]
# In `core` each sublayer ends with `leave_forward`: dropout, the sum and, in post-norm, the norm. Its backward takes the
# three in the opposite order. In pre-norm (`norm_first`), `enter_forward` normalises what the sublayer reads.

# %%
show_source(leave_forward, leave_backward, docstring=False)

# %% [markdown]
# *Predict.* Stack 24 new blocks. After how many does the stream still resemble the word that went in: with post-norm,
# and with pre-norm? And in which of the two does the gradient that comes by the direct path arrive in full?


# %% tags=["hide-input"]
def draw_block(rng, E, F):
    """Parameters of a block, as they are drawn for a new model."""
    sizes, params = {"E": E, "F": F}, {}
    for name, letters in BLOCK_SHAPES.items():
        shape = [sizes[letter] for letter in letters]
        if len(shape) == 2:
            params[name] = rng.standard_normal(shape) / shape[0] ** 0.5
        else:
            params[name] = np.full(shape, 1.0 if name.endswith("gamma") else 0.0)
    return params


def follow(norm_first, depth=24, E=32, N=8, T=10, places=16, heads=4, seed=0):
    """By block: likeness to the input; gradients of stream, direct path and parameters."""
    rng = np.random.default_rng(seed)
    x = begin = rng.standard_normal((N, T, E))
    memory, causal = rng.standard_normal((N, places, E)), np.tri(T, dtype=bool)
    caches, likeness = [], []
    for _ in range(depth):
        block = draw_block(rng, E, 4 * E)
        x, cache = decoder_block_forward(x, memory, block, heads, causal, norm_first)
        caches.append(cache)
        rows = zip(x.reshape(-1, E), begin.reshape(-1, E), strict=True)
        likeness.append(np.mean([np.corrcoef(a, b)[0, 1] for a, b in rows]))
    dx = rng.standard_normal(x.shape)
    if norm_first:  # the model has a norm of its own before the scores
        _, cache = layer_norm_forward(x, np.ones(E), np.zeros(E))
        dx, _, _ = layer_norm_backward(dx, cache)
    direct, gradient, by_direct, of_params = dx, [], [], []
    for cache in reversed(caches):
        dx, _, grads = decoder_block_backward(dx, cache)
        if not norm_first:  # the direct path goes through the norms
            for *_, (_, norm_cache) in reversed(cache):  # of leave_forward
                direct, _, _ = layer_norm_backward(direct, norm_cache)
        gradient.append(np.linalg.norm(dx))
        by_direct.append(np.linalg.norm(direct))
        of_params.append(np.sqrt(sum((g**2).sum() for g in grads.values())))
    return likeness, gradient[::-1], by_direct[::-1], of_params[::-1]


pre, post = follow(True), follow(False)
blocks = np.arange(1, 25)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
for name, colour, found in (("pre-norm", BLUE, pre), ("post-norm", ORANGE, post)):
    axes[0].plot(blocks, found[0], color=colour, label=name)
    axes[1].semilogy(blocks, found[1], color=colour, label=f"{name}, all paths")
    axes[1].semilogy(blocks, found[2], ":", color=colour, label=f"{name}, direct path")
    axes[2].plot(blocks, found[3], color=colour, label=name)
axes[0].set(xlabel="after block", title="correlation with the word")
axes[1].set(xlabel="in front of block", title="gradient of the stream", ylim=(1e-6, 1e3))
axes[2].set(xlabel="block", title="gradient of its parameters", ylim=(0, None))
axes[1].legend(fontsize=8, loc="lower right")
for ax in axes[[0, 2]]:
    ax.legend()
plt.show()

print(f"{'pre-norm':>54}{'post-norm':>12}")
kept = pre[0][11], abs(post[0][11])
print(f"correlation with the word after 12 blocks   {kept[0]:10.2f} {kept[1]:11.2f}")
shares = [by_direct[0] / by_direct[-1] for _, _, by_direct, _ in (pre, post)]
print(f"direct gradient, first block over last      {shares[0]:10.2g} {shares[1]:11.0e}")
print(f"gradient of the last block's parameters     {pre[3][-1]:10.0f} {post[3][-1]:11.0f}")
assert pre[0][11] > 0.15 and np.abs(post[0][5:]).max() < 0.1  # from block 6 on
assert 1.3 < (pre[0][11] / pre[0][23]) ** 2 < 3  # half the share at twice the depth
assert np.allclose(pre[2], pre[2][0]) and post[2][0] < 1e-3 * post[2][-1]
assert 0.1 < post[1][0] / post[1][-1] < 10
assert 1e-6 < shares[1] < 1e-5
assert 4 < post[3][-1] / pre[3][-1] < 6.5

# %% [markdown]
# <details><summary>Answer</summary>
#
# With post-norm the word is gone after six blocks; with pre-norm it fades slowly. The direct gradient arrives in full
# with pre-norm. With post-norm each norm divides it, and a few millionths are left.
# </details>
#
# Why does the word fade? Each post-norm sublayer adds something and divides by the new spread. So the word's share
# shrinks by a factor, three times per block. Pre-norm never divides. What is added piles up beside the word, and its
# share of the variance falls about like one over the number of sublayers.
#
# The *length* of the whole gradient does **not** vanish with post-norm. But nearly all of it came through sublayers, which
# are still random.
#
# The last block's parameters get a gradient about five times as large with post-norm. Xiong and others (2020) derive it:
# pre-norm divides this gradient by about the root of the number of layers, and $\sqrt{24} = 4.9$. They take it as the
# reason why post-norm models need a *warm-up*, a learning rate that rises from 0. (With Adam, whose steps do not depend
# on the length of a gradient, it cannot be the whole reason.)
#
# ### Train both
#
# Sixteen captions by heart, with Adam at one learning rate: two blocks for 60 steps, and eight for 40.

# %%
data = lessons.embedded_data("transformer", num_samples=50)
captions = data["train_captions"]
features = data["train_features"][data["train_image_idxs"]]


def new_model(num_layers, norm_first=True):
    return CaptioningTransformer(
        data["word_to_idx"], features.shape[2], wordvec_dim=32, num_heads=2,
        num_layers=num_layers, norm_first=norm_first, rng=np.random.default_rng(0),
    )  # fmt: skip


# %%
def losses(model, steps, warmup=0):
    """Learns 16 captions by heart, from every fourth location; the loss at each step."""
    engine = NumpyEngine(model, "adam", {"learning_rate": 3e-3}, clip_norm=None)
    found = []
    for step in range(1, steps + 1):
        engine.set_learning_rate(min(1, step / warmup) if warmup else 1)
        found.append(engine.compute(features[:16, ::4], captions[:16]))
        engine.update()
    return np.array(found)


# %% tags=["hide-input"]
runs = {
    2: {
        "pre-norm": losses(new_model(2), 60),
        "post-norm": losses(new_model(2, norm_first=False), 60),
    },
    8: {
        "pre-norm": losses(new_model(8), 40),
        "post-norm": losses(new_model(8, norm_first=False), 40),
        "post-norm, warm-up of 25 steps": losses(new_model(8, norm_first=False), 40, 25),
    },
}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
for ax, (depth, curves) in zip(axes, runs.items(), strict=True):
    for (label, curve), (colour, line) in zip(
        curves.items(), ((BLUE, "-"), (ORANGE, "-"), (ORANGE, "--")), strict=False
    ):
        ax.plot(curve, line, color=colour, label=label)
    ax.set(xlabel="step", title=f"{depth} blocks", ylim=(0, None))
    ax.legend()
axes[0].set_ylabel("loss (nats per caption)")
plt.show()
for depth, curves in runs.items():
    ends = (f"{label} {curve[-5:].mean():.0f}" for label, curve in curves.items())
    print(f"{depth} blocks, loss at the end:", ", ".join(ends))
two, eight = ({k: v[-5:].mean() for k, v in curves.items()} for curves in runs.values())
assert two["pre-norm"] < 8 and two["post-norm"] < 8 and eight["pre-norm"] < 5
assert eight["post-norm"] > 3 * eight["pre-norm"]
assert eight["pre-norm"] < eight["post-norm, warm-up of 25 steps"] < eight["post-norm"]

# %% [markdown]
# With two blocks the place hardly matters. With eight, pre-norm still learns; post-norm lags far behind, and with a
# warm-up less so. This is a small model and a small task: with careful schedules, deep post-norm models do train. But a
# model that trains without such care is the better one to learn with. So `core` has pre-norm as its default, with one
# more norm before the scores, since nothing else keeps the stream at a size. (`training.py --post_norm --warmup 500`
# tries the other.)
#
# ## Would the loss have told you?
#
# Lesson 10 showed three wrong backwards that have the right shapes: a naive layer norm, a residual with its direct path
# alone, and one through the sublayers alone. *Predict:* two blocks learn the sixteen captions with each of the three. Which
# of them still bring the loss down?


# %% tags=["hide-input"]
def naive_backward(dout, cache):
    """Layer norm's backward with mean and variance as constants."""
    normal, inverse_std, gamma = cache
    rows = tuple(range(dout.ndim - 1))
    return dout * gamma * inverse_std, (dout * normal).sum(axis=rows), dout.sum(axis=rows)


def only_through(dout, cache):
    """leave_backward without the direct path."""
    dx, dy, dgamma, dbeta = leave_backward(dout, cache)
    return 0 * dx, dy, dgamma, dbeta


def only_direct(dy, cache):
    """enter_backward without the path through the sublayer."""
    dx, dgamma, dbeta = enter_backward(dy, cache)
    return 0 * dx, dgamma, dbeta


both = transformer_layers, captioning_transformer  # the last norm is in the model
slips = {
    "the true gradient": ([], BLUE, "-"),
    "direct path only": ([(transformer_layers, "enter_backward", only_direct)], GREY, "--"),
    "sublayers only": ([(transformer_layers, "leave_backward", only_through)], GREY, "-"),
    "naive layer norm": (
        [(module, "layer_norm_backward", naive_backward) for module in both],
        ORANGE,
        "-",
    ),
}
ends = {}
for label, (replaced, colour, line) in slips.items():
    with ExitStack() as stack:
        for place in replaced:
            stack.enter_context(mock.patch.object(*place))
        curve = losses(new_model(2), 60) if replaced else runs[2]["pre-norm"]
    plt.plot(curve, line, color=colour, label=label)
    ends[label] = curve[-5:].mean()
    print(f"{label:<18} from {curve[0]:.0f} to {ends[label]:.1f} nats per caption")
plt.gca().set(xlabel="step", ylabel="loss (nats per caption)", ylim=(0, None))
plt.legend()
plt.show()
assert all(end < 25 for end in ends.values())  # all of them learn
assert ends["direct path only"] < ends["the true gradient"] + 1
assert ends["naive layer norm"] > 3 * ends["the true gradient"]
assert 0.5 < ends["naive layer norm"] / ends["sublayers only"] < 2

# %% [markdown]
# <details><summary>Answer</summary>
#
# All of them.
# </details>
#
# Two of the slips lag far behind. But without the true curve beside them you would look for more steps or another
# learning rate. With the direct path alone, the loss ends less than one nat above the true one. A wrong gradient raises
# no error. It makes a model that is worse than it could be.
#
# ### A joint that is wrong
#
# All blocks read the picture's memory, so its gradient is a sum over the blocks. Suppose that the loop back kept the
# gradient of the last block and forgot to add the others. *Predict:* which parameters become wrong?

# %% tags=["hide-input"]
rng = np.random.default_rng(4)
words = "<NULL> <START> <END> a red square left".split()
tiny = CaptioningTransformer(
    {word: i for i, word in enumerate(words)}, input_dim=5, wordvec_dim=6, num_heads=2,
    num_layers=2, max_length=4, hidden_dim=7, activation="gelu", dtype=np.float64, rng=rng,
)  # fmt: skip
for name, value in tiny.params.items():
    tiny.params[name] = value + 0.3 * rng.standard_normal(value.shape)
grid = rng.standard_normal((3, 4, 5))
ids = np.array([[1, 3, 4, 3, 2], [1, 5, 0, 3, 2], [0, 0, 0, 0, 0]])
numerical = {
    name: eval_numerical_gradient(lambda _: tiny.evaluate(grid, ids), value)
    for name, value in tiny.params.items()
}


def wrong_ones(grads):
    """Names of the parameters whose gradient is not that of the differences."""
    floor = 1e-4 * max(np.linalg.norm(gradient) for gradient in numerical.values())
    errors = {name: relative_error(grads[name], numerical[name], floor) for name in grads}
    return [name for name in numerical if not errors[name] < 1e-6]


calls = []


def only_the_last(dout, cache):
    dx, dmemory, grads = decoder_block_backward(dout, cache)
    calls.append(1)
    return dx, dmemory if len(calls) == 1 else 0 * dmemory, grads


assert not wrong_ones(tiny.loss(grid, ids)[1])
with mock.patch.object(tiny, "block_backward", only_the_last):
    _, grads = tiny.loss(grid, ids)
print("wrong:", ", ".join(wrong_ones(grads)), f"of {len(grads)} parameters")
assert wrong_ones(grads) == ["W_proj", "b_proj"]

# %% [markdown]
# <details><summary>Answer</summary>
#
# The two that make the memory from the picture. Every block by itself holds, and so does everything else.
# </details>
#
# ### The naive layer norm, by width
#
# The two missing terms take away 2 of $E$ directions. If the gradient has no favourite direction, a share of
# $\frac2E$ of its squared length is in them, and $1 - \frac2E$ is the true gradient's. So the relative error is about
# $\sqrt{2 / (E - 2)}$: the wider the model, the better the slip hides.

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
widths = np.array([4, 8, 16, 64, 256, 1024])
errors = []
for width in widths:
    rows, dout = rng.standard_normal((2, 200, width))
    _, cache = layer_norm_forward(rows, np.ones(width), np.zeros(width))
    naive, true = naive_backward(dout, cache)[0], layer_norm_backward(dout, cache)[0]
    errors.append(relative_error(naive, true))
expected = (2 / (widths - 2)) ** 0.5
plt.loglog(widths, errors, "o", color=ORANGE, label="measured")
plt.loglog(widths, expected, color=GREY, label="$\\sqrt{2/(E-2)}$")
plt.axhline(1e-6, color=BLUE, linestyle="--", label="limit of our check")
plt.gca().set(xlabel="width $E$", ylabel="relative error of the naive $dx$")
plt.legend(loc="center right")
plt.show()
assert np.all(np.abs(errors / expected - 1) < 0.25)

# %% [markdown]
# Real gradients do have favourite directions. That is why the naive curve above ends so high.
#
# ## Layer norm over another axis
#
# Layer norm takes its means over the $E$ channels of one word. Take them over the words of a caption (time) or over the
# captions (batch) instead, and every shape still fits. *Predict:* the first word of caption 0 is normalised. With which
# of the three axes does it change when a *later word* changes, and with which when *another caption* does?


# %%
def norm_over(axis, x):
    centred = x - x.mean(axis=axis, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=axis, keepdims=True) + 1e-5)


rng = np.random.default_rng(0)
N, T, E = 3, 5, 8
x = 2 + 3 * rng.standard_normal((N, T, E))
later, elsewhere = x.copy(), x.copy()
later[0, -1] += rng.standard_normal(E)  # another last word in caption 0
elsewhere[2] += rng.standard_normal((T, E))  # another caption 2

# %% tags=["hide-input"]
print("mean over      change by a later word      change by another caption")
for name, axis in (("channels", 2), ("time", 1), ("batch", 0)):
    here = norm_over(axis, x)[0, 0]
    by = [np.abs(norm_over(axis, other)[0, 0] - here).max() for other in (later, elsewhere)]
    print(f"{name:<10}{by[0]:27.2f}{by[1]:31.2f}")
    assert (by[0] > 0.01) == (name == "time") and (by[1] > 0.01) == (name == "batch")
assert not norm_over(1, x[:, :1]).any()
moved, _ = layer_norm_forward(100 * x - 7, np.ones(E), np.zeros(E))
assert np.abs(moved - norm_over(2, x)).max() < 1e-5

# %% [markdown]
# <details><summary>Answer</summary>
#
# Over time, the mean contains words that are yet to come. Over the batch, it contains other captions. Only the channels
# leave each word by itself.
# </details>
#
# A model that is normalised over time peeks at the words it should predict. When it later writes a caption, the first
# word comes alone. One word minus its own mean is 0, so the model reads only zeros.
#
# ## GELU
#
# ReLU, $\max(a, 0)$, has a kink. **GELU** is smooth: $f(a) = a\,\Phi(a)$, where $\Phi(a)$ is the probability that a
# random normal number is smaller than $a$. The slope of $\Phi$ is the normal density, so by the product rule
#
# $$ f'(a) = \Phi(a) + a\,\Phi'(a), \qquad \Phi'(a) = \frac{1}{\sqrt{2\pi}}\, e^{-a^2/2} $$

# %%
show_source(gelu_forward, gelu_backward, docstring=False)

# %% tags=["hide-input"]
a = np.linspace(-4, 4, 401)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for (name, (forward, backward)), colour in zip(
    ACTIVATIONS.items(), (GREY, BLUE), strict=True
):
    value, cache = forward(a)
    slope = backward(np.ones_like(a), cache)
    axes[0].plot(a, value, color=colour, label=name)
    axes[1].plot(a, slope, color=colour, label=name)
    numerical = eval_numerical_gradient_array(
        lambda a, f=forward: f(a)[0], a, np.ones_like(a)
    )
    away = np.abs(a) > 1e-3  # a ReLU has no slope at 0
    assert np.abs(slope - numerical)[away].max() < 1e-8
    low, high = slope.min(), slope.max()
    print(f"{name}: slope between {low:.2f} and {high:.2f}, equal to differences")
axes[0].set(xlabel="$a$", title="$f(a)$")
axes[1].set(xlabel="$a$", title="$f'(a)$")
axes[0].legend()
plt.show()
assert slope.min() < -0.1 and slope.max() > 1.1

# %% [markdown]
# GELU dips a little below 0, and its slope overshoots 1. It also helps the check of a whole model: a central difference
# across the kink of a ReLU is wrong.
#
# ## Dropout without the scale
#
# Leave out the factor $\frac{1}{1-p}$ and everything seems to work. The check passes, since the function is another one
# and its gradient is right. The next layer gets used to smaller inputs. But when the model is used, nothing is dropped,
# and every input is $\frac{1}{1-p}$ times as large.
#
# *Predict.* A stack of four linear layers with $p = 0.5$: by what factor is the output at use larger than the mean output
# in training?

# %% tags=["hide-input"]
layers = [rng.standard_normal((16, 16)) / 4 for _ in range(4)]
x = rng.standard_normal((1, 16))
at_use = x @ layers[0] @ layers[1] @ layers[2] @ layers[3]


def mean_while_training(p, scaled, draws=40_000):
    rng = np.random.default_rng(0)
    out = np.repeat(x, draws, axis=0)
    for weights in layers:
        out, _ = dropout_forward(out, p, rng)
        out = (out if scaled else (1 - p) * out) @ weights
    return out.mean(axis=0)


for p in (0.1, 0.5):
    ratios = [
        np.vdot(mean_while_training(p, scaled), at_use) / np.vdot(at_use, at_use)
        for scaled in (True, False)
    ]
    print(f"p = {p}, mean in training over what comes at use: ", end="")
    print(f"scaled {ratios[0]:.2f}, without the scale {ratios[1]:.2f}")
    assert abs(ratios[0] - 1) < 0.1 and abs(ratios[1] - (1 - p) ** 4) < 0.02

# %% [markdown]
# <details><summary>Answer</summary>
#
# $2^4 = 16$.
# </details>
#
# In a Transformer the next layer norm hides a part of that, which makes the mistake harder to see. (The scale keeps the
# expectation and no more. The variance is larger in training, and through a nonlinear layer not even the mean is exact.)
#
# ## Positions: a shift is a rotation
#
# Take one pair, $(\sin t\omega, \cos t\omega)$. The addition theorems say
#
# $$ \sin((t+k)\omega) = \sin t\omega \cos k\omega + \cos t\omega \sin k\omega, \qquad
#    \cos((t+k)\omega) = \cos t\omega \cos k\omega - \sin t\omega \sin k\omega $$
#
# This is a product with a matrix that does not depend on $t$, a rotation by the angle $k\omega$:
#
# $$ P_{t+k} = P_t\, R_k, \qquad
#    R_k = \begin{pmatrix} \cos k\omega & -\sin k\omega \\ \sin k\omega & \cos k\omega \end{pmatrix}
#    \text{ for each pair, } 0 \text{ elsewhere} $$
#
# So "three words back" is one linear map, the same everywhere in the sentence, and linear maps are what $W_q$ and $W_k$
# can learn. It also follows that a product depends on the distance only:
#
# $$ P_t \cdot P_u = \sum_i \big( \sin t\omega_i \sin u\omega_i + \cos t\omega_i \cos u\omega_i \big)
#    = \sum_i \cos\big((t - u)\,\omega_i\big) $$


# %%
def rotation(k, width):
    """R_k, (width, width)."""
    R = np.zeros((width, width))
    for i in range(width // 2):
        angle = k * 10000 ** (-2 * i / width)
        cosine, sine = np.cos(angle), np.sin(angle)
        R[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[cosine, -sine], [sine, cosine]]
    return R


P = positional_encoding(60, 64)
for k in (1, 3, 20):
    assert np.abs(P[:-k] @ rotation(k, 64) - P[k:]).max() < 1e-12
print("P[t + k] and P[t] R_k: off by less than 1e-12")

# %% tags=["hide-input"]
frequencies = 10000 ** (-np.arange(0, 64, 2) / 64)
distance = np.arange(60)[:, None] - np.arange(60)
assert np.abs(P @ P.T - np.cos(distance[..., None] * frequencies).sum(axis=2)).max() < 1e-12

# %% [markdown]
# On the left all positions; on the right the product with three of them, three curves of one shape:

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), gridspec_kw={"width_ratios": [1.1, 1]})
image = axes[0].imshow(P, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
axes[0].set(xlabel="channel", ylabel="position $t$", title="sines and cosines, width 64")
axes[0].grid(False)
figure.colorbar(image, ax=axes[0])
for u, colour in ((10, BLUE), (30, ORANGE), (50, GREY)):
    axes[1].plot(P @ P[u], color=colour, label=f"$u = {u}$")
axes[1].set(xlabel="position $t$", ylabel="$P_t \\cdot P_u$", title="one shape, shifted")
axes[1].set_ylim(13, 37)
axes[1].legend(loc="upper center", ncols=3)
plt.show()

# %% [markdown]
# ### Learned positions, and the factor √E
#
# The captioner of `core` has a table $W_{\text{position}}$, (max_length, $E$), that is learned like the word vectors. Its
# input is $x_{nt} = \sqrt E\, W_{\text{embed}}[\text{word}_{nt}] + P_t$. All captions of a batch read position $t$, so
# $dP_t = \sum_n dx_{nt}$. *Predict:* the longest of fifty captions has 16 words, with `<START>` and `<END>`. Which
# positions get a gradient?

# %%
model = CaptioningTransformer(
    data["word_to_idx"], features.shape[2], wordvec_dim=64, dtype=np.float64,
    rng=np.random.default_rng(0),
)  # fmt: skip
_, grads = model.loss(features, captions)
reached = np.flatnonzero(np.abs(grads["W_position"]).max(axis=1))
print(
    f"{len(grads['W_position'])} positions; with a gradient: {reached[0]} to {reached[-1]}"
)
word = np.linalg.norm(model.params["W_embed"], axis=1).mean()
print(f"length of a word vector {word:.1f}; of P[5] {np.linalg.norm(P[5]):.1f}")

# %% tags=["hide-input"]
longest = (captions != model.null).sum(axis=1).max()
assert longest == 16 and np.array_equal(reached, np.arange(15))
assert 5 < np.linalg.norm(P[5]) / word < 6
assert np.allclose(np.linalg.norm(P, axis=1), 32**0.5)

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0 to 14: `<END>` is never read. A position that no caption reaches keeps its random start. Sines and cosines do not
# have this problem.
# </details>
#
# Word vectors are drawn with entries of variance $1/E$, so their length is about 1. A position made of sines and cosines
# has the length $\sqrt{E / 2}$, more than five times as much. The factor $\sqrt E$ lets what is said be heard beside where
# it is said. (Learned positions start small.)
#
# ## What to keep
#
# * Pre-norm leaves the direct path free at every depth; post-norm divides it at every norm.
# * A wrong gradient often learns almost as well. Check parts, joints and the whole.
# * A shift of sines and cosines is a rotation, the same at every place.
#
# **Sources.** A. Vaswani and others, *Attention is all you need*, NeurIPS 2017. R. Xiong and others, *On layer
# normalization in the Transformer architecture*, ICML 2020. D. Hendrycks and K. Gimpel, *Gaussian error linear units
# (GELUs)*, 2016.
