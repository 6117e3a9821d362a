# %% [markdown]
# # 10 · The Transformer block
#
# **The question.** Attention moves information between positions. It does nothing nonlinear to what it moves, and
# it knows no order. What must stand around it, so that many layers of it can be stacked and trained, and why does
# each of these parts have the form that it has?
#
# You build layer norm, the residual stream, the feed-forward layer, dropout and positions, each forward and
# backward, join them with [lesson 9](09_multi_head_attention.ipynb)'s attention in a decoder block, measure what
# the place of a layer norm decides, check every parameter of the whole captioner, and let it speak.
#
# *Before: [lesson 9](09_multi_head_attention.ipynb) (attention), [lesson 2](02_gradients_you_can_trust.ipynb)
# (gradient checks). About 60 minutes; all cells together run in less than a minute.*

# %% tags=["setup"]
from contextlib import ExitStack
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np

from core import lessons, transformer_layers
from core.captioning_solver import CaptioningSolver, NumpyEngine
from core.coco_utils import decode_captions
from core.decoding import beam_search
from core.gradient_check import (
    check,
    check_case,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    relative_error,
)
from core.gradient_check.cases import CASES
from core.layers import dropout_backward, dropout_forward
from core.lessons import compare, confirm, draw_graph, show_source
from core.models import CaptioningTransformer, captioning_transformer
from core.shapes import caption_is_true, load_scenes
from core.transformer_layers import (
    ACTIVATIONS,
    BLOCK_SHAPES,
    cross_attention_backward,
    cross_attention_forward,
    decoder_block_backward,
    decoder_block_forward,
    enter_backward,
    enter_forward,
    feed_forward_backward,
    feed_forward_forward,
    feed_forward_sublayer_backward,
    feed_forward_sublayer_forward,
    gelu_backward,
    gelu_forward,
    layer_norm_backward,
    layer_norm_forward,
    leave_backward,
    leave_forward,
    positional_encoding,
    relu_backward,
    self_attention_forward,
)

lessons.style()

# %% [markdown]
# ## By hand: one word goes through a sublayer
#
# A Transformer keeps one vector of width $E$ for each word, its **stream**. A sublayer reads the stream, computes
# something, and *adds* it; it never replaces it. What it reads is normalised first. With $E = 4$ and a tiny
# feed-forward layer of two units:

# %%
x = np.array([1.0, 3.0, 3.0, 9.0])  # the stream of one word
W1 = np.array([[1.0, 0], [0, 1], [0, 0], [0, 1]])  # (E=4, F=2)
W2 = np.array([[0.0, 3, 0, 0], [3, 0, 0, -3]])  # (F, E)

mean = x.mean()
centred = x - mean
variance = (centred**2).mean()
normal = centred / variance**0.5
inner = np.maximum(normal @ W1, 0)
out = x + inner @ W2
print("x                 ", x, f"  mean {mean:.0f}")
print("x - mean          ", centred, f"  variance {variance:.0f}")
print("layer norm        ", normal)
print("max(normal W1, 0) ", inner)
print("what is added     ", inner @ W2)
print("x + that          ", out)
assert np.allclose(out, [5, 3, 3, 5])

# %% [markdown]
# The variance is $(9 + 1 + 1 + 25) / 4 = 9$, its root 3. The first unit reads the first channel, which lies below
# the mean, and stays silent; the second reads $-\frac13 + \frac53 = \frac43$ and moves two channels of the stream
# by 4. Three parts: layer norm, a layer, a sum. Each gets its backward now.
#
# ## Layer norm: forward
#
# For one row $x$ of width $E$, with a small $\epsilon$ (1e-5) that keeps a constant row from a division by zero:
#
# $$ \mu = \frac1E \sum_i x_i, \quad c = x - \mu, \quad \sigma^2 = \frac1E \sum_i c_i^2, \quad
#    s = \frac{1}{\sqrt{\sigma^2 + \epsilon}}, \quad y = s\,c, \quad \mathrm{out} = \gamma \odot y + \beta $$
#
# | | shape | |
# | --- | --- | --- |
# | $x$, $c$, $y$, out | $(N, T, E)$ | each position of each caption is a row by itself |
# | $\mu$, $\sigma^2$, $s$ | $(N, T, 1)$ | one number a row |
# | $\gamma$, $\beta$ | $(E,)$ | learned, shared by all rows; 1 and 0 at the start |
#
# But for $\epsilon$, $y$ has mean 0 and variance 1 for every row that is not constant, and $a x + b$ gives the same $y$
# for any numbers $a > 0$ and $b$. In the code `normal` is $y$ and `scale` is $s$.

# %%
show_source(layer_norm_forward)

# %%
rng = np.random.default_rng(0)
N, T, E = 3, 5, 8
x = 2 + 3 * rng.standard_normal((N, T, E))
gamma, beta = 1 + 0.3 * rng.standard_normal(E), 0.3 * rng.standard_normal(E)

by_hand = np.zeros_like(x)
for n in range(N):
    for t in range(T):
        mu = sum(x[n, t, i] for i in range(E)) / E
        variance = sum((x[n, t, i] - mu) ** 2 for i in range(E)) / E
        for i in range(E):
            y = (x[n, t, i] - mu) / (variance + 1e-5) ** 0.5
            by_hand[n, t, i] = gamma[i] * y + beta[i]
out, cache = layer_norm_forward(x, gamma, beta)
moved, _ = layer_norm_forward(100 * x - 7, gamma, beta)
print("largest difference from the loops: less than 1e-12")
print("100 x - 7 instead of x moves the output by less than 1e-5")
assert np.abs(out - by_hand).max() < 1e-12 and np.abs(moved - out).max() < 1e-5

# %% [markdown]
# ### The tempting wrong way: another axis
#
# Normalise over time instead of over channels, and every shape still fits; $\gamma$ and $\beta$ broadcast, the
# numbers look normal. What goes wrong is *who sees whom*: the mean over time holds words that are yet to come,
# that over the batch holds other people's captions.


# %%
def norm_over(axis):
    def forward(x, gamma, beta, eps=1e-5):
        centred = x - x.mean(axis=axis, keepdims=True)
        variance = (centred**2).mean(axis=axis, keepdims=True)
        return gamma * centred / np.sqrt(variance + eps) + beta

    return forward


later, elsewhere = x.copy(), x.copy()
later[0, -1] += 1  # another last word in caption 0
elsewhere[2] += rng.standard_normal((T, E))  # another caption 2
print("axis        first word of caption 0 moves with   a later word   another caption")
for name, axis in (("channels", 2), ("time", 1), ("batch", 0)):
    forward = norm_over(axis)
    by = [
        np.abs(forward(other, gamma, beta) - forward(x, gamma, beta))[0, 0].max()
        for other in (later, elsewhere)
    ]
    print(f"{name:<10}{by[0]:50.2f}{by[1]:18.2f}")
    assert (by[0] > 0.01) == (name == "time") and (by[1] > 0.01) == (name == "batch")
alone = norm_over(1)(x[:, :1], np.ones(E), np.zeros(E))
print("over time, one word at a time, as when decoding: all zeros,", not alone.any())
assert not alone.any()

# %% [markdown]
# Over time the model can peek at the words it should predict, and when it has to write one word after the other,
# it finds nothing but zeros. (Normalising over the batch is a technique of its own, batch norm. It works where a
# batch is a fair sample and needs running means for inference; in a sequence model it is rarely wanted.)
#
# ## Layer norm: backward
#
# We get $d\mathrm{out}$. Each row is by itself; only $\gamma$ and $\beta$ are shared, and collect from all rows.
# Values blue, gradients orange ($d\sigma^2$ is the gradient of the number $\sigma^2$, and $g$ that of $y$):

# %%
draw_graph(
    {
        "x": (0, 0, "$x$"), "mean": (1.1, -1.2, "mean"), "-": (2.2, 0, "-"),
        "var": (3.4, -1.2, "mean of squares"), "root": (5.4, -1.2, "1 / root"),
        "*": (6.6, 0, "*"), "affine": (7.9, 0, "scale, shift"), "out": (9.3, 0, "$out$"),
    },
    [
        ("x", "-", "", "$dx$"), ("x", "mean"), ("mean", "-", "$\\mu$", "$d\\mu$"),
        ("-", "*", "$c$", "$dc$"), ("-", "var"),
        ("var", "root", "$\\sigma^2$", "$d\\sigma^2$"),
        ("root", "*", "$s$", "$ds$"), ("*", "affine", "$y$", "$g$"),
        ("affine", "out", "", "$dout$"),
    ],
    "Layer norm: x and c are each read twice",
    unit=1.0,
)  # fmt: skip

# %% [markdown]
# **The scale and the shift.** $\mathrm{out}_i = \gamma_i y_i + \beta_i$ in every row, so
# $d\gamma_i = \sum_{n,t} d\mathrm{out}_{nti}\, y_{nti}$, $d\beta_i = \sum_{n,t} d\mathrm{out}_{nti}$, both $(E,)$;
# and what reaches $y$ is $g = d\mathrm{out} \odot \gamma$.
#
# **The product.** $y_i = s\,c_i$. The entry $c_i$ is read once here, $dc_i = s\,g_i$ to begin with. The number $s$
# is read by the whole row: $ds = \sum_i g_i c_i$.
#
# **The root.** $s = (\sigma^2 + \epsilon)^{-1/2}$, so
# $d\sigma^2 = -\frac12 (\sigma^2 + \epsilon)^{-3/2}\, ds = -\frac12 s^3\, ds$.
#
# **The mean of squares.** $\sigma^2 = \frac1E \sum_i c_i^2$ reads each $c_j$ a second time, and adds
# $\frac2E c_j\, d\sigma^2$ to its gradient. Put in what $d\sigma^2$ and $ds$ are, and use $c = y / s$ twice:
#
# $$ \frac2E c_j\, d\sigma^2 = -\frac1E s^3 c_j \sum_i g_i c_i = -\frac1E s\, y_j \sum_i g_i y_i
#    \qquad\Rightarrow\qquad dc_j = s \Big( g_j - y_j\, \frac1E \sum_i g_i y_i \Big) $$
#
# **The mean.** $c_j = x_j - \mu$ and $\mu = \frac1E \sum_j x_j$: $x_j$ is read directly and through $\mu$, which
# all of the row reads with a minus sign. So $d\mu = -\sum_i dc_i$ and $dx_j = dc_j + \frac1E d\mu$: the gradient
# minus its own mean. Since $y$ has mean 0, the mean of $dc$ is $s$ times the mean of $g$, and
#
# $$ dx = s \Big( g - \underbrace{\overline{g}}_{\text{its mean}} -
#    \underbrace{y\;\overline{g \odot y}}_{\text{its part along } y} \Big) \qquad (N, T, E) $$
#
# with a bar for the mean over the row, $(N, T, 1)$. First as it was derived, line by line for one row, then the
# code:

# %%
row, dout = x[0, 0], rng.standard_normal(E)
c = row - row.mean()
s = ((c**2).mean() + 1e-5) ** -0.5
y = s * c
g = dout * gamma  # out = gamma * y + beta
dc, ds = s * g, (g * c).sum()  # y = s * c
dvariance = -0.5 * s**3 * ds  # s = (variance + eps)^-1/2
dc = dc + 2 / E * c * dvariance  # variance = mean of c^2: c is read again
dmean = -dc.sum()  # c = x - mean
dx = dc + dmean / E  # mean = sum of x / E: x is read again

_, row_cache = layer_norm_forward(row, gamma, beta)
print("line by line and closed form: off by less than 1e-12")
assert relative_error(layer_norm_backward(dout, row_cache)[0], dx) < 1e-12

# %%
show_source(layer_norm_backward)

# %%
report = check("layer_norm_backward", layer_norm_backward)
assert report
report

# %% [markdown]
# ### Two directions that cannot matter
#
# Why just these two terms? Adding a constant to a row changes no output, nor does stretching the row about its
# mean. The loss is flat in these two directions, so the gradient can have no component along them: it must be
# orthogonal to the vector of ones, and to $c$, which points like $y$. The two terms subtract exactly that. In
# numbers the mean of $dx$ is
#
# $$ \overline{dx} = s\,(\overline g - \overline g - \overline y\;\overline{g \odot y}) = 0 \qquad\text{and}\qquad
#    \overline{dx \odot y} = s\,\overline{g \odot y}\,(1 - \overline{y^2}), $$
#
# where $\overline{y^2} = \sigma^2 / (\sigma^2 + \epsilon)$. So the second is 0 for $\epsilon = 0$, and
# $\epsilon s^2$ of what it was otherwise: with $\epsilon$ in the root, stretching a row does change the output, by
# that little.

# %%
dout = rng.standard_normal((N, T, E))
for eps in (0.0, 1e-5):
    _, cache = layer_norm_forward(x, gamma, beta, eps)
    dx, _, _ = layer_norm_backward(dout, cache)
    y, s, _ = cache
    along, came = (dx * y).mean(axis=2), s[..., 0] * (dout * gamma * y).mean(axis=2)
    left = np.linalg.norm(along) / np.linalg.norm(came)
    left = "less than 1e-12" if left < 1e-12 else f"{left:.0e}"
    print(
        f"eps {eps:g}: mean of dx less than 1e-12; of what came in along y is left: {left}"
    )
    assert np.abs(dx.mean(axis=2)).max() < 1e-12
    assert np.abs(along - eps * s[..., 0] ** 2 * came).max() < 1e-12

# %% [markdown]
# ### The tempting wrong way: a mean that is a constant
#
# Who forgets that $\mu$ and $\sigma^2$ depend on $x$ treats layer norm as a division by a number, and gets
# $dx = s\,g$. How wrong is that? The two missing terms take away 2 of $E$ dimensions. If $g$ has no favourite
# direction, a share of $\frac2E$ of its squared length lies there, and $1 - \frac2E$ is the true gradient's. So
# the relative error is about $\sqrt{2 / (E - 2)}$: large for a narrow model, and smaller the wider it is.


# %%
def naive_backward(dout, cache):
    """Layer norm's backward with mean and variance as constants."""
    normal, scale, gamma = cache
    rows = tuple(range(dout.ndim - 1))
    return dout * gamma * scale, (dout * normal).sum(axis=rows), dout.sum(axis=rows)


widths = np.array([4, 8, 16, 64, 256, 1024])
errors = []
for width in widths:
    rows, dout = rng.standard_normal((2, 200, width))
    _, cache = layer_norm_forward(rows, np.ones(width), np.zeros(width))
    naive, true = naive_backward(dout, cache)[0], layer_norm_backward(dout, cache)[0]
    errors.append(relative_error(naive, true))
expected = (2 / (widths - 2)) ** 0.5
plt.loglog(widths, errors, marker="o", label="measured")
plt.loglog(widths, expected, ":", color="C4", linewidth=4, label="$\\sqrt{2/(E-2)}$")
plt.axhline(1e-6, color="C1", linestyle="--", label="limit of our check")
plt.gca().set(xlabel="width $E$", ylabel="relative error of the naive $dx$")
plt.legend()
plt.show()
for width, error in zip(widths, errors, strict=True):
    print(f"width {width:4d}: relative error {error:.2f}")
assert np.all(np.abs(errors / expected - 1) < 0.25) and round((2 / 510) ** 0.5, 2) == 0.06

# %%
report = check("layer_norm_backward", naive_backward)
assert not report
report

# %% [markdown]
# At a width of 512 that is 6 %. A check with a generous limit, "a few per cent is rounding", lets it pass. But
# real gradients do have favourite directions. Take the loss $\frac12 \sum \mathrm{out}^2$ with $\gamma = 1$ and $\beta = 0$: the
# length of a normalised row is a constant, so its true gradient is 0 (but for $\epsilon$), and the naive one
# pushes on for ever:

# %%
x64 = rng.standard_normal((1, 64))
out, cache = layer_norm_forward(x64, np.ones(64), np.zeros(64))
true, naive = layer_norm_backward(out, cache)[0], naive_backward(out, cache)[0]
print(f"length of the gradient: true less than 1e-3, naive {np.linalg.norm(naive):.1f}")
assert np.linalg.norm(true) < 1e-3 < 1 < np.linalg.norm(naive)

# %% [markdown]
# ## The residual stream
#
# A sublayer $f$ (its layer norm is meant to be in it) adds to what it read, $y = x + f(x)$. What is read twice
# receives two gradients, and they add. With $J$ for the Jacobian of $f$, $J_{ij} = \partial f_j / \partial x_i$
# (rows in, columns out, as everywhere in these lessons):
#
# $$ dx = \underbrace{dy}_{\text{directly}} + \underbrace{dy\,J^T}_{\text{through } f} $$
#
# The first term is the point: the gradient reaches $x$ **unchanged**, whatever $f$ does. After two sublayers
# $dx = dy\,(I + J_2^T)(I + J_1^T) = dy\,(I + J_1^T + J_2^T + J_2^T J_1^T)$: a sum over all ways to go through some
# of the layers and round the others, $2^L$ of them for $L$ layers; one of these goes round all. It is what the
# cell state was for the LSTM ([lesson 6](06_the_lstm.ipynb)), now in depth instead of time.

# %%
draw_graph(
    {
        "x": (0, 0, "$x$"), "norm": (1.3, 1.1, "layer norm"), "f": (2.8, 1.1, "f"),
        "+": (4, 0, "+"), "y": (5.3, 0, "$y$"),
    },
    [
        ("x", "norm"), ("norm", "f", "", "through $f$"), ("f", "+", "$f(x)$", "$dy$"),
        ("x", "+", "$x$", "$dy$, unchanged"), ("+", "y", "", "$dy$"),
    ],
    "A sublayer in the residual stream, norm first",
)  # fmt: skip

# %% [markdown]
# In `core` a sublayer is three calls: it *enters*, which is the norm, computes $f$, and *leaves*, which is the sum.

# %%
show_source(enter_forward, enter_backward, leave_forward, leave_backward, docstring=False)

# %% [markdown]
# `norm_first` says where the layer norm is: in front of the sublayer, on the branch (*pre-norm*, as in the
# picture), or after the sum, on the stream itself (*post-norm*, as in the paper of 2017). What that decides is
# measured below.
#
# ### The tempting wrong way: forgetting one of the two paths
#
# Either term of $dx$ can be left out without an error of shapes. Twelve feed-forward sublayers in a stream, a
# gradient at the top, and its length on the way down; and how wrong the gradient of the lowest sublayer's weights is
# in the end. (`mock.patch.object` puts one function of `core` in the place of another, for as long as the `with`
# lasts.)


# %%
def only_through(dout, cache):
    """leave_backward without the direct path."""
    dx, dy, dgamma, dbeta = leave_backward(dout, cache)
    return 0 * dx, dy, dgamma, dbeta


def only_direct(dy, cache):
    """enter_backward without the path through the sublayer."""
    dx, dgamma, dbeta = enter_backward(dy, cache)
    return 0 * dx, dgamma, dbeta


SLIPS = {
    "direct path only": (transformer_layers, "enter_backward", only_direct),
    "sublayers only": (transformer_layers, "leave_backward", only_through),
}


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


def stack_of_sublayers(L=12, E=32, F=64, seed=0):
    """Lengths of the stream's gradient from the top down; dW2 of the lowest sublayer."""
    rng = np.random.default_rng(seed)
    x, caches = rng.standard_normal((4, 5, E)), []
    for _ in range(L):
        x, cache = feed_forward_sublayer_forward(x, draw_block(rng, E, F), "relu", True)
        caches.append(cache)
    dx = rng.standard_normal(x.shape)
    lengths = [np.linalg.norm(dx)]
    for cache in reversed(caches):
        dx, grads = feed_forward_sublayer_backward(dx, cache)
        lengths.append(np.linalg.norm(dx))
    return np.array(lengths) / lengths[0], grads["feed_forward.W2"]


lengths, true = stack_of_sublayers()
plt.semilogy(lengths, marker="o", markersize=4, label="both paths")
for label, slip in SLIPS.items():
    with mock.patch.object(*slip):
        lengths, wrong = stack_of_sublayers()
    plt.semilogy(lengths, marker="o", markersize=4, label=label)
    cosine = np.vdot(wrong, true) / np.linalg.norm(wrong) / np.linalg.norm(true)
    error = relative_error(wrong, true)
    print(f"{label:<17} lowest dW2: relative error {error:.2f}", end="")
    print(f", cosine with the true one {cosine:.2f}")
    assert error > 0.3
    if label == "direct path only":
        assert np.allclose(lengths, 1) and 0.35 < cosine < 0.55
plt.gca().set(
    xlabel="sublayers gone back", ylabel="length, relative", xticks=range(0, 13, 2)
)
plt.legend()
plt.show()
assert lengths[-1] < 1e-3  # through the sublayers only: fades with each of them

# %% [markdown]
# Through the sublayers alone the gradient fades with each of them, as in a network without residuals. By the
# direct path alone it keeps its length to the last digit, and the lowest $dW_2$ made from it still has a cosine of
# 0.45 with the true one: whether a training run would show it is tried at the end of the lesson. Here is what the
# check says of a whole decoder block:

# %%
with mock.patch.object(*SLIPS["direct path only"]):
    report = check("decoder_block_backward", decoder_block_backward)
wrong = [row.quantity for row in report.rows if not row.passed]
print(f"{len(wrong)} of {len(report.rows)} quantities wrong")
print("right:", ", ".join(row.quantity for row in report.rows if row.passed))
assert not report

# %% [markdown]
# Right is only what no other sublayer comes after: the output, and the parameters of the last.
#
# ## Feed-forward: what is done with what was gathered
#
# Attention moves and averages; what it moves goes through linear maps only. The nonlinear work is done by two
# affine layers with a function $f$ between them, at each position by itself, usually with $F = 4 E$:
#
# $$ a = x\,W_1 + b_1 \quad (N, T, F), \qquad r = f(a), \qquad \mathrm{out} = r\,W_2 + b_2 \quad (N, T, E) $$
#
# Backward, from the last line to the first. One entry is
# $\mathrm{out}_{nti} = \sum_j r_{ntj} (W_2)_{ji} + (b_2)_i$: the entry $r_{ntj}$ is read by all channels $i$ of
# its position, and the weight $(W_2)_{ji}$ by all positions of all captions, so
# $dr_{ntj} = \sum_i d\mathrm{out}_{nti} (W_2)_{ji}$ and $(dW_2)_{ji} = \sum_{n,t} r_{ntj}\, d\mathrm{out}_{nti}$.
# As matrices, and with the same for the first layer:
#
# $$ dr = d\mathrm{out}\,W_2^T, \qquad dW_2 = \sum_{n,t} r_{nt}^T\, d\mathrm{out}_{nt}, \qquad
#    db_2 = \sum_{n,t} d\mathrm{out}_{nt}, \qquad da = dr \odot f'(a), $$
#
# $$ dx = da\,W_1^T, \qquad dW_1 = \sum_{n,t} x_{nt}^T\, da_{nt}, \qquad db_1 = \sum_{n,t} da_{nt} $$
#
# For $f$ two choices are common. **ReLU**, $\max(a, 0)$, has slope 1 above 0 and 0 below; at 0 itself there is
# none, and 0 is taken. **GELU** is $a\,\Phi(a)$, where $\Phi$ is the distribution function of the normal
# distribution: an entry is multiplied by the probability that a random normal number is smaller than it. By the
# product rule, with $\Phi' = \varphi$, the normal density,
#
# $$ f'(a) = \Phi(a) + a\,\varphi(a), \qquad \varphi(a) = \frac{1}{\sqrt{2\pi}}\, e^{-a^2/2} $$

# %%
show_source(
    relu_backward, gelu_forward, gelu_backward, feed_forward_backward, docstring=False
)

# %%
a = np.linspace(-4, 4, 401)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for name, (forward, backward) in ACTIVATIONS.items():
    value, cache = forward(a)
    slope = backward(np.ones_like(a), cache)
    axes[0].plot(a, value, label=name)
    axes[1].plot(a, slope, label=name)
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

# %% [markdown]
# GELU is smooth, dips a little below 0, and its slope overshoots 1. (For the check of a whole model it has a
# second merit: a central difference across the kink of a ReLU is wrong.) `check` uses ReLU and stays away from the
# kink; the table of cases that it draws on holds GELU as a case of its own:


# %%
def in_columns(rows, columns=3):
    """The quantities of a report and whether they hold, side by side."""
    cells = [f"{row.quantity:<24}{'ok' if row.passed else 'WRONG':<7}" for row in rows]
    for start in range(0, len(cells), columns):
        print("".join(cells[start : start + columns]).rstrip())


def check_by_name(name):
    """Checks one of the cases of core.gradient_check.cases."""
    case = next(case for case in CASES if case.name == name)
    rows = check_case(case, np.random.default_rng(0))
    print(f"{name}: {sum(row.passed for row in rows)} of {len(rows)} quantities ok")
    assert all(row.passed for row in rows)


check_by_name("feed_forward_gelu")
report = check("feed_forward_backward", feed_forward_backward)
assert report
report

# %%
x = rng.standard_normal((N, T, E))
F = 11
W1, W2 = rng.standard_normal((E, F)), rng.standard_normal((F, E))
b1, b2 = rng.standard_normal(F), rng.standard_normal(E)
out, _ = feed_forward_forward(x, W1, b1, W2, b2)
by_hand = np.zeros_like(x)
for n in range(N):
    for t in range(T):  # each position by itself
        a = [sum(x[n, t, i] * W1[i, j] for i in range(E)) + b1[j] for j in range(F)]
        for i in range(E):
            by_hand[n, t, i] = sum(max(a[j], 0) * W2[j, i] for j in range(F)) + b2[i]
print("feed_forward_forward and sums by hand: off by less than 1e-12")
assert np.abs(out - by_hand).max() < 1e-12

# %% [markdown]
# ## Dropout: a layer that is random
#
# While training, each entry is dropped with probability $p$, and the others are scaled up:
#
# $$ \mathrm{out}_i = m_i\,x_i, \qquad m_i = \begin{cases} 0 & \text{with probability } p \\
#    \frac{1}{1 - p} & \text{otherwise} \end{cases}, \qquad
#    \mathrm{E}[\mathrm{out}_i] = p \cdot 0 + (1 - p) \cdot \frac{x_i}{1 - p} = x_i $$
#
# No unit can rely on one other unit being there. In the captioner dropout stands behind the sum of word and
# position, and behind each sublayer, before its result is added. The scale makes the expectation that of the layer
# without dropout, so at inference (`train=False`) the layer does nothing at all. Once drawn, $m$ is a constant,
# and the backward is that of a product: $dx = m \odot d\mathrm{out}$. The mask is the cache.

# %%
show_source(dropout_forward, dropout_backward, docstring=False)

# %% [markdown]
# How does one check a random layer? A central difference calls the forward twice and compares. If the second call
# draws another mask, the difference is one between two functions, divided by the tiny step: noise. The mask must
# be **frozen**: the same generator state at every call.

# %%
x, dout = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
_, mask = dropout_forward(x, 0.3, np.random.default_rng(7))
analytic = dropout_backward(dout, mask)

moving = np.random.default_rng(7)
numerical = eval_numerical_gradient_array(
    lambda x: dropout_forward(x, 0.3, moving)[0], x, dout
)
print(
    f"a new mask at every call: relative error {relative_error(analytic, numerical):.2f},"
)
print(f"    largest numerical derivative {np.abs(numerical).max():.0e}")
assert relative_error(analytic, numerical) > 0.9
numerical = eval_numerical_gradient_array(
    lambda x: dropout_forward(x, 0.3, np.random.default_rng(7))[0], x, dout
)
print("the same mask at every call: relative error less than 1e-8")
assert relative_error(analytic, numerical) < 1e-8

report = check("dropout_backward", dropout_backward)
assert report
report

# %% [markdown]
# ### The tempting wrong way: no scale
#
# Without the factor $\frac{1}{1-p}$ the shapes fit, the check against differences passes (the function is another
# one, and its gradient is right), and training works: the next layer gets used to smaller inputs. Then, at
# inference, nothing is dropped, and every input is $\frac{1}{1-p}$ times larger than what the layer was trained
# on. Through a stack of layers that multiplies. In a stack of four linear layers, where expectations pass through
# exactly, here is the mean over many masks as a multiple of what comes out at inference:

# %%
layers = [rng.standard_normal((16, 16)) / 4 for _ in range(4)]
x = rng.standard_normal((1, 16))
inference = x @ layers[0] @ layers[1] @ layers[2] @ layers[3]


def mean_while_training(p, scaled, draws=40_000):
    rng = np.random.default_rng(0)
    out = np.repeat(x, draws, axis=0)
    for W in layers:
        out, _ = dropout_forward(out, p, rng)
        out = (out if scaled else (1 - p) * out) @ W
    return out.mean(axis=0)


for p in (0.1, 0.5):
    inverted, plain = (mean_while_training(p, scaled) for scaled in (True, False))
    ratios = [
        np.vdot(mean, inference) / np.vdot(inference, inference)
        for mean in (inverted, plain)
    ]
    print(
        f"p = {p}: inverted dropout {ratios[0]:.2f}, without the scale {ratios[1]:.2f}",
        end="",
    )
    print(f", expected {(1 - p) ** 4:.2f}")
    assert abs(ratios[0] - 1) < 0.1 and abs(ratios[1] - (1 - p) ** 4) < 0.1

# %% [markdown]
# With $p = 0.5$ the model at inference runs at sixteen times the level at which it was trained. In a Transformer
# the next layer norm hides a part of that, which makes the mistake harder to see and no better. (The expectation
# is all that the scale keeps. The variance is larger while training, and through a nonlinearity not even the mean
# is exact.)
#
# ## Positions
#
# To attention a caption is a bag of words ([lesson 9](09_multi_head_attention.ipynb)). So each position $t$ gets a
# vector of its own that is added to its word. The paper takes sines and cosines, one frequency for each pair of
# channels:
#
# $$ P_{t,2i} = \sin(t\,\omega_i), \qquad P_{t,2i+1} = \cos(t\,\omega_i), \qquad \omega_i = 10000^{-2i/E} $$
#
# (With an odd width the last column is a sine.) With $E = 4$ there are two frequencies, $\omega_0 = 1$ and
# $\omega_1 = 10000^{-1/2} = 0.01$:

# %%
print(" t   sin t    cos t    sin t/100  cos t/100")
for position in range(4):
    angles = position, position, position / 100, position / 100
    row = [
        f(angle) for f, angle in zip((np.sin, np.cos, np.sin, np.cos), angles, strict=True)
    ]
    print(f"{position:2d}", *(f"{value:8.4f} " for value in row))
    assert np.allclose(positional_encoding(4, 4)[position], row, rtol=0, atol=1e-15)

# %% [markdown]
# A fast pair tells neighbours apart, a slow one the beginning from the end, like the hands of a clock. The sine
# alone would not do: it has the same value at two places of each turn.

# %%
P = positional_encoding(60, 64)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), gridspec_kw={"width_ratios": [1.1, 1]})
image = axes[0].imshow(P, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
axes[0].set(xlabel="channel", ylabel="position $t$", title="sines and cosines, width 64")
axes[0].grid(False)
figure.colorbar(image, ax=axes[0])
for u in (10, 30, 50):
    axes[1].plot(P @ P[u], label=f"$u = {u}$")
axes[1].set(xlabel="position $t$", ylabel="$P_t \\cdot P_u$", title="who resembles whom")
axes[1].set_ylim(13, 37)
axes[1].legend(loc="upper center", ncols=3)
plt.show()

# %% [markdown]
# ### A shift is a rotation
#
# Take one pair, $(\sin t\omega, \cos t\omega)$. The addition theorems say
#
# $$ \sin((t+k)\omega) = \sin t\omega \cos k\omega + \cos t\omega \sin k\omega, \qquad
#    \cos((t+k)\omega) = \cos t\omega \cos k\omega - \sin t\omega \sin k\omega $$
#
# which is a product with a matrix that does not depend on $t$:
#
# $$ P_{t+k} = P_t\, R_k, \qquad
#    R_k = \begin{pmatrix} \cos k\omega & -\sin k\omega \\ \sin k\omega & \cos k\omega \end{pmatrix}
#    \text{ for each pair, } 0 \text{ elsewhere} $$
#
# A rotation by the angle $k\omega$. "Three words back" is one linear map, the same everywhere in the sentence, and
# linear maps are what $W_q$ and $W_k$ can learn. The second consequence is that
#
# $$ P_t \cdot P_u = \sum_i \big( \sin t\omega_i \sin u\omega_i + \cos t\omega_i \cos u\omega_i \big)
#    = \sum_i \cos\big((t - u)\,\omega_i\big) $$
#
# depends on the distance only. That is why the three curves of the figure are one curve, shifted.


# %%
def rotation(k, width):
    """R_k, (width, width)."""
    R = np.zeros((width, width))
    for i in range(width // 2):
        angle = k * 10000 ** (-2 * i / width)
        cosine, sine = np.cos(angle), np.sin(angle)
        R[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[cosine, -sine], [sine, cosine]]
    return R


for k in (1, 3, 20):
    assert np.abs(P[:-k] @ rotation(k, 64) - P[k:]).max() < 1e-12
frequencies = 10000 ** (-np.arange(0, 64, 2) / 64)
distance = np.arange(60)[:, None] - np.arange(60)
assert np.abs(P @ P.T - np.cos(distance[..., None] * frequencies).sum(axis=2)).max() < 1e-12
print("off by less than 1e-12: P[t + k] from P[t] R_k, and P P^T from cosines of t - u")

# %% [markdown]
# ### Learned positions
#
# The alternative is a table $W_{\text{position}}$, (max_length, $E$), that is learned like the word vectors. The
# input of the captioner is $x_{nt} = \sqrt E\, W_{\text{embed}}[\text{word}_{nt}] + P_t$. Position $t$ is read by
# all captions of a batch, so $dP_t = \sum_n dx_{nt}$. A position that no caption reaches gets no gradient and
# keeps its random start; that is the price, and sinusoids do not pay it. The factor $\sqrt E$ is there because
# word vectors are drawn with entries of variance $1/E$, length 1, and a position made of sines and cosines has
# length $\sqrt{E / 2}$:

# %%
data = lessons.embedded_data("transformer", num_samples=50)
captions = data["train_captions"]
features = data["train_features"][data["train_image_idxs"]]
model = CaptioningTransformer(
    data["word_to_idx"], features.shape[2], wordvec_dim=64, dtype=np.float64,
    rng=np.random.default_rng(0),
)  # fmt: skip
_, grads = model.loss(features, captions)
reached = np.flatnonzero(np.abs(grads["W_position"]).max(axis=1))
longest = (captions != model.null).sum(axis=1).max()
first, last = reached.min(), reached.max()
print(f"{len(grads['W_position'])} positions; those with a gradient: {first} to {last}")
print(f"longest caption: {longest} words, <START> and <END> counted; <END> is never read")
word = np.linalg.norm(model.params["W_embed"], axis=1).mean()
place = np.linalg.norm(P[5])
print(
    f"length of a word vector {word:.1f}, times root E {8 * word:.1f}; of P[5] {place:.1f}"
)
assert np.array_equal(reached, np.arange(longest - 1))
assert 5 < place / word < 6
assert np.allclose(np.linalg.norm(P, axis=1), 32**0.5)

# %% [markdown]
# Without the factor such a position would be more than five times as long as the word, and what is said would
# drown in where it is said. (Learned positions start small, with entries of about 0.1.)
#
# ## The decoder block
#
# Three sublayers in one stream: the words ask each other (under a causal mask), the words ask the picture, and
# each word thinks for itself.

# %%
draw_graph(
    {
        "x": (0, 0, "$x$"), "self": (1.1, 1.2, "norm, self-attention"), "+1": (2.3, 0, "+"),
        "cross": (3.4, 1.2, "norm, cross-attention"), "memory": (3.4, 2.4, "$memory$"),
        "+2": (4.6, 0, "+"), "ff": (5.7, 1.2, "norm, feed-forward"), "+3": (6.9, 0, "+"),
        "out": (7.9, 0, "$out$"),
    },
    [
        ("x", "self"), ("self", "+1"), ("x", "+1", "$x$", "$dx$"), ("+1", "cross"),
        ("memory", "cross", "", "$dmemory$"), ("cross", "+2"), ("+1", "+2"), ("+2", "ff"),
        ("ff", "+3"), ("+2", "+3"), ("+3", "out", "", "$dout$"),
    ],
    "A decoder block, pre-norm",
    unit=1.1,
)  # fmt: skip

# %%
show_source(decoder_block_forward, docstring=False)

# %% [markdown]
# The sublayers, each between its `enter` and its `leave`. (A dictionary holds the parameters; the keys have no bias,
# for [lesson 9](09_multi_head_attention.ipynb)'s reason.)

# %%
show_source(
    self_attention_forward,
    cross_attention_forward,
    feed_forward_sublayer_forward,
    docstring=False,
)

# %%
counts, sizes = {}, {"E": 64, "F": 256}
for name, letters in BLOCK_SHAPES.items():
    part = name.split(".")[0].rstrip("123")
    counts[part] = counts.get(part, 0) + np.prod([sizes[letter] for letter in letters])
print("numbers in a block with E = 64, F = 256:")
print("   ", ", ".join(f"{part} {count:,}" for part, count in counts.items()))
assert 0.48 < counts["feed_forward"] / sum(counts.values()) < 0.52

# %% [markdown]
# Half of the parameters of a block are in its feed-forward layer. The backward takes the sublayers from the last to
# the first. Each adds what comes back through its `enter` to what came by the direct path, and every one of the
# block's 26 gradients is checked, pre-norm, post-norm, and with dropout under a frozen mask:

# %%
show_source(decoder_block_backward, cross_attention_backward, docstring=False)


# %%
report = check("decoder_block_backward", decoder_block_backward)
in_columns(report.rows)
assert report and len(report.rows) == 1 + 26  # the output, and 26 gradients
check_by_name("decoder_block_post_norm")
check_by_name("decoder_block_dropout")

# %% [markdown]
# And would the check see a naive layer norm in the middle of a block?

# %%
with mock.patch.object(transformer_layers, "layer_norm_backward", naive_backward):
    report = check("decoder_block_backward", decoder_block_backward)
in_columns(report.rows)
assert not report

# %% [markdown]
# Read it like a trail: what stands behind the last layer norm is right (the feed-forward layer, and gain and shift
# of that norm), everything before it is wrong. The first wrong gradient on the way back is where to look.
#
# ## Where the layer norm stands
#
# $$ \text{post-norm:}\quad x \leftarrow \mathrm{norm}(x + f(x)) \qquad\qquad
#    \text{pre-norm:}\quad x \leftarrow x + f(\mathrm{norm}(x)) $$
#
# One moves the norm by a few characters, and a deep model trains or does not. Stack 24 fresh blocks and follow
# both ways. Forward: how much of its word does a stream still hold, as the correlation with where it began? Each
# post-norm sublayer adds something of its own and divides by the new spread: the word's share shrinks by a factor
# each time, three times a block, and after many blocks a power of it is left. Pre-norm never divides: what is
# added piles up beside the word, and the word's share of the variance falls about like one over the number of
# sublayers. Backward: the gradient of the stream, and that part of it which comes by the direct path, round all
# sublayers.


# %% tags=["picture"]
def follow(norm_first, L=24, E=32, N=8, T=10, S=16, h=4, seed=0):
    """By block: likeness to the input; gradients of stream, direct path and parameters."""
    rng = np.random.default_rng(seed)
    x = begin = rng.standard_normal((N, T, E))
    memory, causal = rng.standard_normal((N, S, E)), np.tri(T, dtype=bool)
    caches, likeness = [], []
    for _ in range(L):
        block = draw_block(rng, E, 4 * E)
        x, cache = decoder_block_forward(x, memory, block, h, causal, norm_first)
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
for name, colour, found in (("pre-norm", "C0", pre), ("post-norm", "C1", post)):
    axes[0].plot(blocks, found[0], color=colour, label=name)
    axes[1].semilogy(blocks, found[1], color=colour, label=f"{name}, all paths")
    axes[1].semilogy(
        blocks, found[2], color=colour, linestyle=":", label=f"{name}, direct path"
    )
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
assert 2 < post[3][-1] / pre[3][-1] < 15

# %% [markdown]
# Three things to read:
#
# * With post-norm the word is gone after half a dozen blocks: what comes out says next to nothing about what went
#   in. With pre-norm it fades slowly.
# * The *length* of the gradient does **not** vanish with post-norm. What vanishes is its direct part: each norm
#   divides it, and a few millionths reach the first block. All else has come through sublayers, which are still
#   random. With pre-norm the direct part arrives in full, at every depth.
# * The last block's parameters get a gradient about five times larger with post-norm. Xiong and others (2020)
#   derive it: pre-norm divides this gradient by about the root of the number of layers, here $\sqrt{24} = 4.9$.
#   They take it as the reason why post-norm models need a *warm-up*, a learning rate that rises from 0: the first
#   steps at full rate would be too long. (With Adam, whose steps do not depend on the length of a gradient, it
#   cannot be the whole reason.)
#
# Now train. Sixteen captions by heart, with Adam at the same learning rate, two blocks for 60 steps and
# eight for 40:


# %%
def losses(norm_first, num_layers, warmup=0, steps=40):
    """Learns 16 captions by heart, from every fourth location; the loss at each step."""
    model = CaptioningTransformer(
        data["word_to_idx"], features.shape[2], wordvec_dim=32, num_heads=2,
        num_layers=num_layers, norm_first=norm_first, rng=np.random.default_rng(0),
    )  # fmt: skip
    engine = NumpyEngine(model, "adam", {"learning_rate": 3e-3}, clip_norm=None)
    found = []
    for step in range(1, steps + 1):
        engine.set_learning_rate(min(1, step / warmup) if warmup else 1)
        found.append(engine.compute(features[:16, ::4], captions[:16]))
        engine.update()
    return np.array(found)


runs = {
    2: {"pre-norm": losses(True, 2, steps=60), "post-norm": losses(False, 2, steps=60)},
    8: {
        "pre-norm": losses(True, 8),
        "post-norm": losses(False, 8),
        "post-norm, warm-up of 25 steps": losses(False, 8, warmup=25),
    },
}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
for ax, (depth, curves) in zip(axes, runs.items(), strict=True):
    for label, curve in curves.items():
        ax.plot(curve, label=label)
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

# %% [markdown]
# With two blocks the place hardly matters. With eight, pre-norm still learns (2 nats after 40 steps); post-norm lags far
# behind, and with a warm-up less so. This is a small model and a small task. With careful schedules deep post-norm
# models do train; that of 2017, six blocks in each of its two stacks, used a warm-up. But a model that trains without
# such care is the
# better one to learn with: `core` has pre-norm as its default, with one more norm before the scores, since nothing
# else keeps the stream at a size. (`training.py --post_norm --warmup 500` tries the other.)
#
# ## The whole model, parameter by parameter
#
# `CaptioningTransformer` is little more than a loop over blocks:

# %%
show_source(CaptioningTransformer._forward)

# %% [markdown]
# All blocks read the memory, so its gradient is the sum of what they send back. Parts that hold one by one can
# still be joined wrongly. So the loss of the whole model is checked, entry by entry of every parameter, on a model
# small enough for that: two blocks of width 6, GELU, biases and gains away from 0 and 1; a word that comes twice,
# a `<NULL>` in the middle of a caption, and one caption that is nothing else.

# %%
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


_, grads = tiny.loss(grid, ids)
wrong = wrong_ones(grads)
cells = [f"{name:<25}{'WRONG' if name in wrong else 'ok':<6}" for name in numerical]
for start in range(0, len(cells), 3):
    print("".join(cells[start : start + 3]).rstrip())
print(f"{len(cells) - len(wrong)} of {len(cells)} ok")
assert not wrong and grads.keys() == numerical.keys()

# %% [markdown]
# (`python -m core.gradient_check --layer captioning_transformer` compares the same with PyTorch as well.) Would it
# see a joint that is wrong? Let only the last block send a gradient to the memory, as if the
# loop back through the blocks had kept the first gradient it met and forgotten to add the others:

# %%
calls = []


def only_the_last(dout, cache):
    dx, dmemory, grads = decoder_block_backward(dout, cache)
    calls.append(1)
    return dx, dmemory if len(calls) == 1 else 0 * dmemory, grads


with mock.patch.object(tiny, "block_backward", only_the_last):
    _, grads = tiny.loss(grid, ids)
print("wrong:", ", ".join(wrong_ones(grads)))
assert wrong_ones(grads) == ["W_proj", "b_proj"]

# %% [markdown]
# All blocks hold, and so does everything else; what reads the memory's gradient does not.
#
# ## Would the loss have told you?
#
# Three wrong backwards were shown that have the right shapes: a naive layer norm, a residual without its direct
# path, and one without the path through the sublayer. Train the two blocks of width 32 from above with each of
# them, and with the true one:

# %%
both = transformer_layers, captioning_transformer  # the last norm is in the model
slips = {
    "the true gradient": [],
    "residual: direct path only": [SLIPS["direct path only"]],
    "residual: sublayers only": [SLIPS["sublayers only"]],
    "layer norm: naive": [
        (module, "layer_norm_backward", naive_backward) for module in both
    ],
}
ends = {}
for label, replaced in slips.items():
    with ExitStack() as stack:
        for place in replaced:
            stack.enter_context(mock.patch.object(*place))
        curve = losses(True, 2, steps=60) if replaced else runs[2]["pre-norm"]
    plt.plot(curve, label=label)
    ends[label] = curve[-5:].mean()
    print(f"{label:<27} from {curve[0]:.0f} to {ends[label]:.1f} nats per caption")
plt.gca().set(xlabel="step", ylabel="loss (nats per caption)", ylim=(0, None))
plt.legend()
plt.show()
assert all(end < 25 for end in ends.values())  # all of them learn
assert ends["residual: direct path only"] < ends["the true gradient"] + 1
assert ends["layer norm: naive"] > 3 * ends["the true gradient"]
assert 0.5 < ends["layer norm: naive"] / ends["residual: sublayers only"] < 2

# %% [markdown]
# All four curves fall. Two of the slips lag far behind, but who sees the true curve beside them? The model seems
# to need more steps or another learning rate. With the direct path alone the loss ends less than one nat above the
# true one's. And the naive layer norm, whose error seemed small for a wide model, ends as far behind as the lost
# direct path: real gradients have favourite directions. A wrong gradient raises no error; it makes a model that is
# worse than it could be.
#
# ## Fifty captions by heart
#
# The other way round: a model whose every gradient is right and that cannot learn fifty captions would still have
# a bug somewhere.

# %%
model = CaptioningTransformer(
    data["word_to_idx"], features.shape[2], wordvec_dim=64, num_heads=4, num_layers=2,
    rng=np.random.default_rng(0),
)  # fmt: skip
solver = CaptioningSolver(
    model, data, update_rule="adam", num_epochs=32, batch_size=25,
    optim_config={"learning_rate": 3e-3}, verbose=False,
)  # fmt: skip
solver.train()
plt.plot(solver.loss_history)
plt.gca().set(xlabel="step", ylabel="loss (nats per caption)", ylim=(0, None))
plt.title("50 captions, learned by heart")
plt.show()

said = decode_captions(
    model.sample(features, max_length=captions.shape[1]), data["idx_to_word"]
)
learned = decode_captions(captions, data["idx_to_word"])
for ours, reference in list(zip(said, learned, strict=True))[:4]:
    print(f"{ours:<60} {'as learned' if ours == reference else 'learned: ' + reference}")
right = sum(ours == reference for ours, reference in zip(said, learned, strict=True))
print(f"{right} of {len(learned)} word for word, after {len(solver.loss_history)} steps")
assert right >= 48

# %% [markdown]
# ## Pictures it has never seen
#
# The run that came with the lessons was trained on all 40,000 captions, with dropout 0.1; from the folder of the
# project
#
#     python training.py --model transformer --wordvec_dim 64 --out runs/transformer
#
# makes it in about nine minutes on one core.

# %%
trained, history = lessons.load_trained("transformer")
data = lessons.embedded_data("transformer")
every_other = [f"{row['val_loss']:.2f}" for row in history[::2]]
print("validation loss after every second epoch:", ", ".join(every_other), "nats per token")
lessons.show_captions(trained, data, "val", [0, 1, 4])

# %%
scenes = load_scenes(data["source"]["folder"], "val")
ids, _ = beam_search(trained, data["val_features"], max_length=20)
said = decode_captions(ids[:, 0], data["idx_to_word"])
true = [
    caption_is_true(caption, scene) for caption, scene in zip(said, scenes, strict=True)
]
print(f"true of the picture: {np.mean(true):.0%} of {len(true)} captions, beam search")
for number in (1, 2, 3):
    share = np.mean(
        [t for t, scene in zip(true, scenes, strict=True) if len(scene) == number]
    )
    print(f"    with {number} shape{'s' if number > 1 else ''}: {share:.0%}")
assert np.mean(true) > 0.9
of_three = np.mean(
    [len(scene) == 3 for t, scene in zip(true, scenes, strict=True) if not t]
)
print(f"wrong captions that are of pictures with three shapes: {of_three:.0%}")
assert 0.75 < of_three < 0.92

# %% [markdown]
# The vanilla RNN said 57 % true things, the LSTM 74 %, the LSTM with attention 97 %. At this small width the
# Transformer stays a little below the last: three points, of which one and a half may be chance. About five in six
# of its wrong captions are of pictures with three shapes. (With the default width of 128 it reaches 97 % as well:
# the table of the [results on shapes](../docs/results-shapes.md).) What it gained is that no
# word waits for the one before while it is trained. What it paid is work that grows with the square of the length,
# which for captions of ten words is nothing. "True" here means that a parser of the captions' grammar finds
# nothing false. With 300 pictures the standard error is 1 to 1.5 points for the two best
# and 2.5 to 3 for the others, and the figure says nothing about real
# photos ([lesson 13](13_is_it_any_good.ipynb)).
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/10_the_transformer_block.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · Count a block (one line)
#
# How many numbers does a decoder block of width $E$ with inner width $F$ hold? Three layer norms with gain and
# shift; two attentions with four matrices and the biases of queries, values and output (none for the keys); the
# feed-forward layer.


# %% tags=["exercise"]
def parameters_of_a_block(E, F):
    ### BEGIN SOLUTION
    return 3 * 2 * E + 2 * (4 * E**2 + 3 * E) + 2 * E * F + F + E
    ### END SOLUTION


def counted(E, F):
    sizes = {"E": E, "F": F}
    return sum(
        int(np.prod([sizes[letter] for letter in letters]))
        for letters in BLOCK_SHAPES.values()
    )


compare(
    parameters_of_a_block,
    counted,
    48,
    100,
    also={"for E, F = 3, 5": (3, 5)},
    exercise="10.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Layer norm, and a cheaper one
#
# Write `layer_norm_backward` without looking. The cache is `(normal, scale, gamma)`: $y$ $(\dots, E)$, $s$
# $(\dots, 1)$ and $\gamma$ $(E,)$. Return `dx, dgamma, dbeta`; there may be any number of axes before the last.


# %% tags=["exercise"]
def norm_backward(dout, cache):
    normal, scale, gamma = cache
    ### BEGIN SOLUTION
    rows = tuple(range(dout.ndim - 1))
    g = dout * gamma
    mean = g.mean(axis=-1, keepdims=True)
    along = (g * normal).mean(axis=-1, keepdims=True)
    dx = scale * (g - mean - normal * along)
    return dx, (dout * normal).sum(axis=rows), dout.sum(axis=rows)
    ### END SOLUTION


check("layer_norm_backward", norm_backward)

# %% [markdown] tags=["exercise"]
# Zhang and Sennrich (2019) leave the mean out: $y = x / \sqrt{\overline{x^2} + \epsilon}$, *RMS norm*, which many
# large models use. Derive its backward: which of the two terms stays? Return `dx` for `dout` of the shape of x,
# both $(M, E)$.


# %% tags=["exercise"]
def rms_norm_backward(dout, x, eps=1e-5):
    ### BEGIN SOLUTION
    scale = 1 / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps)
    y = x * scale
    return scale * (dout - y * (dout * y).mean(axis=1, keepdims=True))
    ### END SOLUTION


def rms_norm_by_differences(dout, x, eps=1e-5):
    def forward(x):
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps)

    return eval_numerical_gradient_array(forward, x, dout)


rng = np.random.default_rng(1)
dout, x = rng.standard_normal((4, 6)), 1 + rng.standard_normal((4, 6))
compare(
    rms_norm_backward,
    rms_norm_by_differences,
    dout,
    x,
    tolerance=1e-7,
    also={"for one row": (dout[:1], x[:1]), "with eps = 0.5": (dout, x, 0.5)},
    exercise="10.2",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: rotate instead of adding
#
# A shift of a sinusoidal position is a rotation. Su and others (2021) make that the whole method: nothing is added
# to the words; instead, the query and the key at position $p$ are **rotated** by the angles $p\,\omega_i$, pair by
# pair:
#
# $$ \mathrm{out}_{2i} = x_{2i} \cos p\omega_i - x_{2i+1} \sin p\omega_i, \qquad
#    \mathrm{out}_{2i+1} = x_{2i} \sin p\omega_i + x_{2i+1} \cos p\omega_i $$
#
# with $\omega_i = 10000^{-2i/d}$. Write forward and backward for $x$ of shape $(N, h, T, d)$ (`x[..., 0::2]` are
# the first of each pair). The backward of a rotation is the rotation back. Then show what it is for: the score of
# a query at position $p$ and a key at $q$ depends on $p - q$ alone (in the code the key's position is called r).


# %% tags=["exercise"]
def rotate_forward(x, positions):
    """x (N, h, T, d), positions (T,). Returns out and a cache of your own."""
    ### BEGIN SOLUTION
    d = x.shape[-1]
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)  # (T, d / 2)
    cosine, sine = np.cos(angles), np.sin(angles)
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cosine - x[..., 1::2] * sine
    out[..., 1::2] = x[..., 0::2] * sine + x[..., 1::2] * cosine
    return out, (cosine, sine)
    ### END SOLUTION


def rotate_backward(dout, cache):
    """Returns dx."""
    ### BEGIN SOLUTION
    cosine, sine = cache
    dx = np.empty_like(dout)
    dx[..., 0::2] = dout[..., 0::2] * cosine + dout[..., 1::2] * sine
    dx[..., 1::2] = dout[..., 1::2] * cosine - dout[..., 0::2] * sine
    return dx
    ### END SOLUTION


def score(q, k, p, r):
    """q . k, without 1 / sqrt(d), of a query (d,) at p and a key (d,) at r, both rotated."""
    ### BEGIN SOLUTION
    q, _ = rotate_forward(q[None, None, None], np.array([p]))
    k, _ = rotate_forward(k[None, None, None], np.array([r]))
    return float(q[0, 0, 0] @ k[0, 0, 0])
    ### END SOLUTION


def yours(x, dout, positions):
    out, cache = rotate_forward(x, positions)
    return {"out": out, "dx": rotate_backward(dout, cache)}


def by_complex_numbers(x, dout, positions):
    """A pair as one complex number: a rotation is a product."""
    d = x.shape[-1]
    turn = np.exp(1j * positions[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d))

    def forward(x):
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)

    return {"out": forward(x), "dx": eval_numerical_gradient_array(forward, x, dout)}


rng = np.random.default_rng(2)
x, dout = rng.standard_normal((2, 2, 2, 3, 8))
compare(
    yours,
    by_complex_numbers,
    x,
    dout,
    np.arange(3),
    tolerance=1e-7,
    also={
        "at positions 7, 0, 2": (x, dout, np.array([7, 0, 2])),
        "for one word": (x[:1, :, :1], dout[:1, :, :1], np.array([5])),
    },
    exercise="10.3",
)

# %% tags=["exercise"]
q, k = np.random.default_rng(3).standard_normal((2, 8))


def expected(n):
    z = (q[0::2] + 1j * q[1::2]) * (k[0::2] - 1j * k[1::2])
    return (z * np.exp(1j * n * 10000.0 ** (-np.arange(0, 8, 2) / 8))).sum().real


def scores():
    found = [score(q, k, *places) for places in ((2, 0), (9, 7), (2, 1))]
    return None if None in found else found


def are(scores, factor=1):
    wanted = factor * np.array([expected(2), expected(2), expected(1)])
    return np.allclose(scores, wanted, rtol=0, atol=1e-12)


confirm(
    scores,
    are,
    "the same score at (2, 0) and (9, 7), and another at (2, 1)",
)

# %% [markdown]
# ## What to keep
#
# * Layer norm works on each position by itself. Its gradient loses its mean and its part along the normalised row,
#   because in these directions the loss is flat.
# * In $x + f(x)$ the gradient goes both ways; the direct one arrives unchanged at every depth, if no norm stands
#   on it.
# * A random layer is checked with a frozen mask, and scaled so that inference need not know of it.
# * Sinusoidal positions turn a shift into a rotation, the same at every place.
# * Check parts, joints and the whole; a wrong gradient often learns almost as well.
#
# **Sources.** A. Vaswani and others, *Attention is all you need*, NeurIPS 2017. J. Ba, J. Kiros and G. Hinton,
# *Layer normalization*, 2016. K. He, X. Zhang, S. Ren and J. Sun, *Deep residual learning for image recognition*,
# CVPR 2016. A. Veit, M. Wilber and S. Belongie, *Residual networks behave like ensembles of relatively shallow
# networks*, NeurIPS 2016. R. Xiong and others, *On layer normalization in the Transformer architecture*, ICML
# 2020. N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, *Dropout: a simple way to
# prevent neural networks from overfitting*, JMLR 15 (2014). D. Hendrycks and K. Gimpel, *Gaussian error linear
# units (GELUs)*, 2016. B. Zhang and R. Sennrich, *Root mean square layer normalization*, NeurIPS 2019. J. Su and
# others, *RoFormer: enhanced Transformer with rotary position embedding*, 2021.
#
# **Next:** [lesson 11, decoding](11_decoding.ipynb): a trained model gives probabilities; how to make sentences of
# them.
