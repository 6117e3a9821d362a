# %% [markdown]
# # 6 · The LSTM
#
# **The question.** A vanilla RNN rewrites its whole memory at every step, and the gradient pays for it: it is
# multiplied by a matrix and by the slope of a tanh each time, and fades. How can a network keep a number
# untouched for as long as it likes, decide by itself when to write, to erase and to show it, and what does that
# do for the gradient?
#
# You open and close the gates of a cell by hand, write one step of a *long short-term memory*, forward and
# backward, measure how far its gradient reaches, train it on a task that needs memory, take its gates away one
# by one, and let it describe pictures.
#
# *Before: [lesson 5](05_the_vanilla_rnn.ipynb) (the vanilla RNN, back-propagation through time). About 60 minutes;
# all cells together run in less than a minute.*

# %% tags=["setup"]
import warnings
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import torch

from core import lessons
from core.captioning_solver import CaptioningSolver
from core.coco_utils import decode_captions
from core.decoding import beam_search
from core.gradient_check import check, eval_numerical_gradient_array, relative_error
from core.layers import (
    sigmoid,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
)
from core.lessons import compare, draw_graph, show_source
from core.models import CaptioningRNN
from core.optim import adam, clip_gradient_norm
from core.rnn_layers import (
    lstm_backward,
    lstm_forward,
    lstm_step_backward,
    lstm_step_forward,
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
)
from core.shapes import caption_is_true, load_scenes

lessons.style()

# %% [markdown]
# ## By hand, with one unit
#
# An LSTM carries two vectors from step to step: the **cell** $c$, where it keeps things, and the **hidden state**
# $h$, which it shows. Between them stand **gates**, numbers between 0 (closed) and 1 (open):
#
# * the **input gate** $i$ says how much of the *candidate* $g$ is written into the cell,
# * the **forget gate** $f$ says how much of the old cell is kept,
# * the **output gate** $o$ says how much of the cell is shown.
#
# $$ c_{\text{next}} = f\, c_{\text{prev}} + i\, g, \qquad h_{\text{next}} = o \tanh(c_{\text{next}}) $$
#
# A gate is a sigmoid, $\sigma(a) = 1 / (1 + e^{-a})$, of a weighted sum like any other unit. Let us choose the
# weights of a single unit so that it works like a notepad. It reads four numbers: a value, and three commands,
# *store*, *clear* and *show*. A command of 1 moves its gate's sum from $-10$ to $+10$ or back, and
# $\sigma(10)$ is 0.99995.


# %%
def gate(a):
    return 1 / (1 + np.exp(-a))


steps = [  # (what happens, value, store, clear, show)
    ("store 0.8", 0.8, 1, 0, 0),
    ("noise", -0.5, 0, 0, 0),
    ("noise", 0.9, 0, 0, 0),
    ("show", 0.3, 0, 0, 1),
    ("clear", -0.7, 0, 1, 0),
    ("show", 0.6, 0, 0, 1),
]
c, kept = 0.0, []
print(f"{'':<10}{'value':>7}{'i':>7}{'f':>7}{'o':>7}{'g':>7}{'c_next':>9}{'h_next':>9}")
for what, value, store, clear, show in steps:
    i, f, o = gate(20 * store - 10), gate(10 - 20 * clear), gate(20 * show - 10)
    g = np.tanh(value)
    c = f * c + i * g
    h = o * np.tanh(c)
    kept.append((i, f, o, g, c))
    print(f"{what:<10}{value:7.2f}{i:7.2f}{f:7.2f}{o:7.2f}{g:7.2f}{c:9.2f}{h:9.2f}")
assert abs(h) < 1e-3
assert 15_000 < np.log(0.5) / np.log(gate(10)) < 15_500

# %% [markdown]
# The cell holds $\tanh(0.8) = 0.66$ until somebody clears it, whatever noise comes by; nobody sees it
# until *show* opens the output gate. (Not quite for ever: a gate at $\sigma(10)$ loses a little at each step, and
# half in 15,000 steps.) Compare the vanilla RNN of lesson 5, which kept half of everything,
# whether it mattered or not. Here the commands came from outside. In an LSTM the network gives them itself:
# each gate has weights, reads the input and the hidden state, and learns when to open.
#
# ## One step forward
#
# The four sums are made by one product each with $x$ and with $h_{\text{prev}}$. The weights of the four stand
# side by side, **in the order i, f, o, g**, and the sum is cut into four blocks of $H$ columns:
#
# $$ a = x\,W_x + h_{\text{prev}}\,W_h + b = [\,a_i \;\; a_f \;\; a_o \;\; a_g\,] $$
#
# $$ i = \sigma(a_i), \quad f = \sigma(a_f), \quad o = \sigma(a_o), \quad g = \tanh(a_g) $$
#
# $$ c_{\text{next}} = f \odot c_{\text{prev}} + i \odot g, \qquad
#    h_{\text{next}} = o \odot \tanh(c_{\text{next}}) $$
#
# | | shape | |
# | --- | --- | --- |
# | $x$ | $(N, D)$ | what this step reads |
# | $h_{\text{prev}}$, $c_{\text{prev}}$ | $(N, H)$ | the two states of the step before |
# | $W_x$, $W_h$, $b$ | $(D, 4H)$, $(H, 4H)$, $(4H,)$ | shared by all steps |
# | $a$ | $(N, 4H)$ | block $k$ is the columns $kH$ to $(k + 1)H - 1$, $k = 0 \dots 3$ |
# | $i$, $f$, $o$, $g$ | $(N, H)$ | three gates and the candidate: a number for each unit |
# | $h_{\text{next}}$, $c_{\text{next}}$ | $(N, H)$ | the new states; only $h_{\text{next}}$ is the layer's output |

# %%
show_source(lstm_step_forward)

# %%
rng = np.random.default_rng(0)
N, D, H = 4, 3, 5  # all different, so that a wrong axis cannot hide
x = rng.standard_normal((N, D))
prev_h, prev_c = rng.standard_normal((2, N, H))
Wx, Wh, b = (0.5 * rng.standard_normal(s) for s in ((D, 4 * H), (H, 4 * H), (4 * H,)))

next_h, next_c, cache = lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b)


def one_sum(n, block, j):
    """One of the 4 H sums of row n: unit j of a block."""
    column = block * H + j
    from_input = sum(x[n, d] * Wx[d, column] for d in range(D))
    from_memory = sum(prev_h[n, k] * Wh[k, column] for k in range(H))
    return from_input + from_memory + b[column]


difference = 0
for n in range(N):
    for j in range(H):
        a_i, a_f, a_o, a_g = (one_sum(n, block, j) for block in range(4))
        c = gate(a_f) * prev_c[n, j] + gate(a_i) * np.tanh(a_g)
        h = gate(a_o) * np.tanh(c)
        difference = max(difference, abs(c - next_c[n, j]), abs(h - next_h[n, j]))
print("next_h:", next_h.shape, "  next_c:", next_c.shape)
print("largest difference from sums by hand: less than 1e-12")
assert difference < 1e-12

# %% [markdown]
# ## A sigmoid that cannot overflow
#
# `core` does not write $1 / (1 + e^{-x})$. For a large negative $x$ the exponential overflows; that happens to
# give the right value, as $1 / (1 + \infty) = 0$, after a warning. The mirrored form
# $e^x / (1 + e^x)$ overflows on the other side and gives $\infty / \infty$, which is not a number. The usual
# cure picks the safe form for each sign, with a boolean mask. There is a shorter one. Multiply numerator and
# denominator by $e^{x/2}$:
#
# $$ \sigma(x) = \frac{e^{x/2}}{e^{x/2} + e^{-x/2}}
#    = \frac{1}{2} \cdot \frac{(e^{x/2} + e^{-x/2}) + (e^{x/2} - e^{-x/2})}{e^{x/2} + e^{-x/2}}
#    = \frac{1}{2} \left(1 + \tanh \frac{x}{2}\right) $$
#
# A tanh cannot overflow.


# %%
def sigmoid_plain(x):
    return 1 / (1 + np.exp(-x))


def sigmoid_mirrored(x):
    return np.exp(x) / (1 + np.exp(x))


def sigmoid_masked(x):
    out = np.empty_like(x)
    positive = x >= 0
    out[positive] = 1 / (1 + np.exp(-x[positive]))
    small = np.exp(x[~positive])
    out[~positive] = small / (1 + small)
    return out


points = np.array([-1000.0, -20.0, -1.0, 0.0, 1.0, 20.0, 1000.0])
print(f"{'':<18}", *(f"{p:>9g}" for p in points), "  warnings")
for function in (sigmoid_plain, sigmoid_mirrored, sigmoid_masked, sigmoid):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = function(points)
    print(f"{function.__name__:<18}", *(f"{v:9.2g}" for v in values), f"{len(caught):>10}")

x_ = np.linspace(-40, 40, 1001)
assert np.abs(sigmoid(x_) - sigmoid_masked(x_)).max() < 1e-15
far = np.array([-40.0])
print(
    f"\nsigmoid(-40): {sigmoid_masked(far)[0]:.1e} by the mask, {sigmoid(far)[0]:g} by tanh"
)
assert sigmoid(far)[0] == 0 < sigmoid_masked(far)[0]

# %% [markdown]
# The last line shows the price. $\tanh(-20)$ is $-1$ to the last digit, so $1 + \tanh$ is 0, and what should be
# 4e-18 is lost altogether. The *absolute* error stays below $10^{-15}$, and for a gate nothing else matters:
# closed is closed. For a probability whose logarithm you want it would matter; that is why losses are computed
# from scores ([lesson 3](03_affine_embedding_softmax.ipynb)).
#
# The mask is right, too, and many times slower: it has to count, to gather and to scatter, entry by entry, where
# the tanh runs straight through memory ([lesson 7](07_from_loops_to_gemms.ipynb) measures it).

# %% [markdown]
# ## One step backward
#
# We are given $dh_{\text{next}}$ and, new, $dc_{\text{next}}$: the cell goes on to the next step, which sends its
# gradient back. Both are $(N, H)$. We owe six gradients: of $x$, $h_{\text{prev}}$, $c_{\text{prev}}$, $W_x$,
# $W_h$ and $b$. The graph would be crowded, so here it is in two halves. First from the gates to the new states:

# %%
draw_graph(
    {
        "c0": (0, 2, "$c_{prev}$"), "f": (0, 1, "$f$"),
        "i": (0, 0, "$i$"), "g": (0, -1, "$g$"),
        "m1": (1.5, 1.5, "*"), "m2": (1.5, -0.5, "*"), "+": (3, 0.5, "+"),
        "next": (6.2, 1.6, "next step"),
        "tanh": (4.6, 0.5, "tanh"), "m3": (6.2, 0.5, "*"), "o": (6.2, -1, "$o$"),
        "out": (7.8, 0.5, "$h_{next}$"),
    },
    [
        ("c0", "m1", "", "$dc \\odot f$"), ("f", "m1", "", "$dc \\odot c_{prev}$"),
        ("i", "m2", "", "$dc \\odot g$"), ("g", "m2", "", "$dc \\odot i$"),
        ("m1", "+", "", "$dc$"), ("m2", "+", "", "$dc$"),
        ("+", "next", "$c_{next}$", "$dc_{next}$"),
        ("+", "tanh", "$c_{next}$", ""), ("tanh", "m3", "", "$dh_{next} \\odot o$"),
        ("o", "m3", "", "$do$"), ("m3", "out", "$h_{next}$", "$dh_{next}$"),
    ],
    "From the gates to the states: two arrows leave the sum, two gradients come back",
    unit=1.15,
)  # fmt: skip

# %% [markdown]
# Walk back through the forward, from its last line to its first. All of it is element-wise until we reach the
# products.
#
# **The output.** $h_{\text{next}} = o \odot \tanh(c_{\text{next}})$ is a product of two factors; each receives the
# upstream gradient times the other:
#
# $$ do = dh_{\text{next}} \odot \tanh(c_{\text{next}}), \qquad
#    d(\tanh c_{\text{next}}) = dh_{\text{next}} \odot o $$
#
# **The cell has two readers.** One is this tanh, whose slope is $1 - \tanh^2$; the other is the next step, which
# sends $dc_{\text{next}}$. What has two readers receives two gradients, and they add. Call the sum $dc$:
#
# $$ dc = dc_{\text{next}} + dh_{\text{next}} \odot o \odot (1 - \tanh^2(c_{\text{next}})) $$
#
# **The cell's sum.** $c_{\text{next}} = f \odot c_{\text{prev}} + i \odot g$ hands $dc$ to both terms, and each
# product hands it to either factor, times the other:
#
# $$ df = dc \odot c_{\text{prev}}, \quad dc_{\text{prev}} = dc \odot f, \quad
#    di = dc \odot g, \quad dg = dc \odot i $$
#
# **The gates' nonlinearities.** With $\sigma(a) = (1 + e^{-a})^{-1}$ the chain rule gives
#
# $$ \sigma'(a) = \frac{e^{-a}}{(1 + e^{-a})^2}
#    = \frac{1}{1 + e^{-a}} \cdot \frac{(1 + e^{-a}) - 1}{1 + e^{-a}} = \sigma(a)\,(1 - \sigma(a)) $$
#
# so, with what the cache holds already, and $\tanh' = 1 - \tanh^2$ for the candidate:
#
# $$ da_i = di \odot i \odot (1 - i), \quad da_f = df \odot f \odot (1 - f), \quad
#    da_o = do \odot o \odot (1 - o), \quad da_g = dg \odot (1 - g^2) $$
#
# The second half of the graph leads from the inputs to the gates:

# %%
draw_graph(
    {
        "x": (0, 2, "$x$"), "Wx": (0, 1, "$W_x$"),
        "h": (0, 0, "$h_{prev}$"), "Wh": (0, -1, "$W_h$"),
        "m1": (1.3, 1.5, "@"), "m2": (1.3, -0.5, "@"), "b": (1.3, -1.4, "$b$"),
        "+": (2.6, 0.5, "+"), "split": (3.9, 0.5, "split"),
        "si": (5.4, 2, "sigmoid"), "sf": (5.4, 1, "sigmoid"),
        "so": (5.4, 0, "sigmoid"), "tg": (5.4, -1, "tanh"),
        "i": (7, 2, "$i$"), "f": (7, 1, "$f$"), "o": (7, 0, "$o$"), "g": (7, -1, "$g$"),
    },
    [
        ("x", "m1", "", "$da\\,W_x^T$"), ("Wx", "m1", "", "$x^T da$"),
        ("h", "m2", "", "$da\\,W_h^T$"), ("Wh", "m2", "", "$h_{prev}^T da$"),
        ("m1", "+", "$x W_x$", "$da$"), ("m2", "+", "$h_{prev} W_h$", "$da$"),
        ("b", "+", "", "$\\Sigma_n da$"),
        ("+", "split", "$a$", "$da$"),
        ("split", "si", "", "$da_i$"), ("split", "sf", "", "$da_f$"),
        ("split", "so", "", "$da_o$"), ("split", "tg", "", "$da_g$"),
        ("si", "i", "", "$di$"), ("sf", "f", "", "$df$"),
        ("so", "o", "", "$do$"), ("tg", "g", "", "$dg$"),
    ],
    "From the inputs to the gates",
    unit=1.2,
)  # fmt: skip

# %% [markdown]
# **The four blocks.** Entry $a_{n,\,kH + j}$ went to unit $j$ of block $k$ and nowhere else. So the gradient of
# the cut is the four gradients put side by side again, in the same order i, f, o, g:
#
# $$ da = [\,da_i \;\; da_f \;\; da_o \;\; da_g\,] \qquad (N, 4H) $$
#
# **The products** are those of lesson 5 with $4H$ columns instead of $H$. Written out once more for the state:
# $a_{nm} = \sum_k h_{nk} W_{km} + \dots$, so $h_{nk}$ is read by all $4H$ sums of its row, those of all four
# gates, and collects from all of them, while $W_{km}$ is read by every row of the batch:
#
# $$ dh_{nk} = \sum_{m=1}^{4H} da_{nm} W_{km} \;\Rightarrow\; dh_{\text{prev}} = da\, W_h^T, \qquad
#    dW_{km} = \sum_n h_{nk}\, da_{nm} \;\Rightarrow\; dW_h = h_{\text{prev}}^T\, da $$
#
# and likewise $dx = da\,W_x^T$, $dW_x = x^T da$. The bias is added to every row: $db = \sum_n da_n$, of shape
# $(4H,)$.

# %%
show_source(lstm_step_backward)

# %%
report = check("lstm_step_backward", lstm_step_backward)
assert report
report

# %% [markdown]
# ## The same by hand, on the notepad
#
# Take the notepad from above. The loss shall be what it shows at the fourth step, $h_4$ itself, so $dh_4 = 1$.
# Walk back by the formulas and see who gets a gradient:

# %%
dh, dc = 1.0, 0.0  # the loss is h of the fourth step; nobody reads its cell later
print(f"{'':<12}{'f':>7}{'i':>7}{'dc':>9}{'dc_prev':>10}{'d value':>10}")
for (what, *_), (i, f, o, g, c) in reversed(list(zip(steps[:4], kept[:4], strict=True))):
    dc = dc + dh * o * (1 - np.tanh(c) ** 2)
    dvalue = dc * i * (1 - g**2)  # the candidate is tanh(value)
    print(f"{what:<12}{f:7.2f}{i:7.2f}{dc:9.3f}{dc * f:10.3f}{dvalue:10.3f}")
    dh, dc = 0.0, dc * f

by_difference = []
for value in (0.8 + 1e-5, 0.8 - 1e-5):
    c = kept[0][0] * np.tanh(value)
    for i, f, _, g, _ in kept[1:4]:
        c = f * c + i * g
    by_difference.append(kept[3][2] * np.tanh(c))
numerical = (by_difference[0] - by_difference[1]) / 2e-5
print(f"by central differences, for the stored value: {numerical:.3f}")
assert abs(numerical - dvalue) < 1e-6

# %% [markdown]
# The gradient of the cell walks back through three steps **without losing anything**: it is multiplied by
# $f = 1.00$ each time. It reaches the value that was stored, and it does not reach the noise, whose input gate
# was closed. The gates that decide what is remembered decide where the blame goes, too.
#
# ## Through time
#
# As in lesson 5: the same step $T$ times, then back from the last to the first. Now two gradients come back from the
# next step, one for each state. The cell starts at zero, a constant: the gradient that reaches it ends there. The last
# cell has no reader but its own tanh.

# %%
show_source(lstm_forward, lstm_backward)

# %%
report = check("lstm_backward", lstm_backward)
assert report
report

# %% [markdown]
# ## Why the cell carries the gradient
#
# Follow the gradient of the cell from step $t$ to step $t - 1$. One way is direct, through the forget gate. The
# other leads through the state $h_{t-1} = o_{t-1} \odot \tanh(c_{t-1})$, which all the gates of step $t$ read:
#
# $$ dc_{t-1} = \underbrace{dc_t \odot f_t}_{\text{along the cell}} \;+\;
#    \underbrace{(da_t\, W_h^T) \odot o_{t-1} \odot (1 - \tanh^2 c_{t-1})}_{\text{through the gates}} $$
#
# The second way is like the vanilla RNN's: a matrix and the slope of a tanh at each step. The first has
# neither. Along the cell
#
# $$ \frac{\partial c_t}{\partial c_{t-1}} = \mathrm{diag}(f_t), \qquad
#    \frac{\partial c_T}{\partial c_t} = \mathrm{diag}\!\left( \prod_{s=t+1}^{T} f_s \right) $$
#
# a product of numbers between 0 and 1 that the network chooses for each unit and each step. Hochreiter and
# Schmidhuber, who had no forget gate, so $f = 1$, called it the *constant error carousel*.
#
# How open are the gates before anything is learned? The weights are small and of either sign, so the forget gates
# start near $\sigma(b_f)$, where $b_f$ is their bias. That makes the bias a **clock**: after $k$ steps
# $\sigma(b_f)^k$ is left. Choose $b_f = \ln T$ and
#
# $$ \sigma(\ln T) = \frac{1}{1 + e^{-\ln T}} = \frac{T}{T + 1}, \qquad
#    \left(\frac{T}{T + 1}\right)^T = \left(1 + \frac{1}{T}\right)^{-T} \approx \frac{1}{e} = 0.37 $$
#
# so more than a third is left after $T$ steps, whatever $T$ is: 0.41 for $T = 4$, 0.37 for $T = 32$ and beyond.

# %%
print(f"{'forget bias':<16}{'f':>7}{'f^10':>11}{'f^50':>11}{'half is lost after':>22}")
for name, bias in (
    ("-2", -2), ("0", 0), ("1", 1),
    ("ln 10 = 2.30", np.log(10)), ("ln 50 = 3.91", np.log(50)),
):  # fmt: skip
    f = sigmoid(np.float64(bias))
    print(
        f"{name:<16}{f:7.3f}{f**10:11.1e}{f**50:11.1e}{np.log(0.5) / np.log(f):16.1f} steps"
    )
left = {T: sigmoid(np.log(np.float64(T))) ** T for T in (4, 32, 1000)}
assert np.allclose(list(left.values()), (0.41, 0.374, 0.368), atol=1e-3)

# %% [markdown]
# And measured, by the experiment of lesson 5: 60 steps, 64 units, inputs of ordinary size, a loss that reads the
# last state alone. On the left the gradient of the cell when only the direct way is open; on the right with both
# ways, beside the vanilla RNN at its spectral radius of 1.


# %% tags=["picture"]
def through_the_cell(forget_bias, all_ways, H=64, T=60, seed=1):
    """Norms of the gradient of c at each step, by distance from the last."""
    rng = np.random.default_rng(seed)
    Wx, Wh = (rng.standard_normal((H, 4 * H)) * H**-0.5 for _ in range(2))
    b = np.zeros(4 * H)
    b[H : 2 * H] = forget_bias
    x = 0.5 * rng.standard_normal((1, T, H))
    _, (*_, step_caches) = lstm_forward(x, np.zeros((1, H)), Wx, Wh, b)
    dh, dc, norms = rng.standard_normal((1, H)), np.zeros((1, H)), []
    for cache in reversed(step_caches):
        *_, i, f, o, g, tanh_c = cache
        norms.append(np.linalg.norm(dc + dh * o * (1 - tanh_c**2)))
        _, dh, dc, *_ = lstm_step_backward(dh, dc, cache)
        if not all_ways:
            dh = np.zeros_like(dh)  # what came through the gates is thrown away
    return np.array(norms) / norms[0]


def through_an_rnn(H=64, T=60, seed=1):
    rng = np.random.default_rng(seed)
    Wh = rng.standard_normal((H, H))
    Wh /= np.abs(np.linalg.eigvals(Wh)).max()
    x = 0.5 * rng.standard_normal((1, T, H))
    _, (*_, step_caches) = rnn_forward(x, np.zeros((1, H)), np.eye(H), Wh, np.zeros(H))
    dh, norms = rng.standard_normal((1, H)), []
    for cache in reversed(step_caches):
        norms.append(np.linalg.norm(dh))
        _, dh, *_ = rnn_step_backward(dh, cache)
    return np.array(norms) / norms[0]


biases = (-2, 0, 1, 2, 5)
direct = {bias: through_the_cell(bias, all_ways=False) for bias in biases}
full = {bias: through_the_cell(bias, all_ways=True) for bias in biases}
of_rnn = through_an_rnn()
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for ax, curves, title in zip(
    axes, (direct, full), ("along the cell alone", "all ways together"), strict=True
):
    for bias, curve in curves.items():
        ax.semilogy(curve, label=f"LSTM, forget bias {bias}")
    ax.semilogy(of_rnn, "k--", label="vanilla RNN, $\\rho$ = 1")
    ax.set(xlabel="steps back from the loss", title=title, ylim=(1e-10, 1e3))
axes[0].set_ylabel("length of the gradient")
axes[1].legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=9)
plt.show()

print(
    f"{'50 steps back':<28}{'sigmoid(bias)^50':>18}{'along the cell':>18}{'all ways':>12}"
)
print(f"{'vanilla RNN':<28}{'':>18}{'':>18}{of_rnn[50]:12.0e}")
for bias in biases:
    left = sigmoid(np.float64(bias)) ** 50, direct[bias][50], full[bias][50]
    print(f"LSTM, forget bias {bias:<10}{left[0]:18.0e}{left[1]:18.0e}{left[2]:12.0e}")
assert direct[5][50] > 0.3 and of_rnn[50] < 1e-4 and full[2][50] > 100 * of_rnn[50]
assert full[-2][50] < full[0][50] < of_rnn[50] < full[1][50] < full[2][50] < 1 < full[5][50]
assert direct[1][50] < of_rnn[50]

# %% [markdown]
# * On the left the curves are nearly straight, as a power should be, and they follow $\sigma(b_f)^k$, roughly: the
#   gates differ from unit to unit. With a bias of 1 the cell alone fades no slower than the vanilla RNN.
# * On the right the two ways add up. A bias of 0 is still no better than the vanilla RNN, and $-2$ far worse;
#   from 1 on the gradient reaches much further. **The architecture alone does not keep it alive; open forget
#   gates do.**
# * With a bias of 5 and all ways open the gradient *grows*. The cell cures the fading, not the explosion; what
#   comes through the gates adds to it at every step. Clipping stays ([lesson 4](04_update_rules.ipynb)).
#
# Jozefowicz, Zaremba and Sutskever (2015) compared more than ten thousand architectures, and among their
# conclusions is this plain one: start with a forget bias of 1. `CaptioningRNN` does. For captions of a dozen
# words that is enough, as the next task shows; the table above says why it is not enough for a hundred.
#
# ## A task that needs memory
#
# A gradient that reaches far is worth something if learning uses it. The smallest task that needs memory: read $T$
# random symbols, six different ones; the first is *marked* by a 1 in a seventh column; after the last step, say
# which one was marked. All that comes in between looks like it and is noise. Guessing is right one time in six.


# %%
SYMBOLS = 6


def sequences(rng, N, T, marks=0.0):
    """One-hot symbols and a mark, (N, T, 7), and the symbol that was marked last.

    The first is always marked, each later one with a probability of ``marks``.
    """
    symbols = rng.integers(SYMBOLS, size=(N, T))
    marked = rng.random((N, T)) < marks
    marked[:, 0] = True
    x = np.zeros((N, T, SYMBOLS + 1), np.float32)
    x[np.arange(N)[:, None], np.arange(T), symbols] = 1
    x[..., SYMBOLS] = marked
    last = T - 1 - marked[:, ::-1].argmax(axis=1)
    return x, symbols[np.arange(N), last]


x_, y_ = sequences(np.random.default_rng(2), 3, 8)
for row, answer in zip(x_, y_, strict=True):
    shown = (f"{'*' if step[-1] else ' '}{step[:-1].argmax()}" for step in row)
    print("read", " ".join(shown), "  say", answer)


# %%
LAYERS = {"rnn": (rnn_forward, rnn_backward, 1), "lstm": (lstm_forward, lstm_backward, 4)}


def loss_and_gradients(cell, p, x, y):
    """Reads the sequences, scores the symbols from the last state; loss and gradients."""
    forward, backward, _ = LAYERS[cell]
    h0 = np.zeros((len(x), len(p["Wh"])), np.float32)
    h, cache = forward(x, h0, p["Wx"], p["Wh"], p["b"])
    scores, score_cache = temporal_affine_forward(h[:, -1:], p["Wy"], p["by"])
    loss, dscores = temporal_softmax_loss(scores, y[:, None], np.ones((len(x), 1)))
    dh, grads = np.zeros_like(h), {}
    dh[:, -1:], grads["Wy"], grads["by"] = temporal_affine_backward(dscores, score_cache)
    _, _, grads["Wx"], grads["Wh"], grads["b"] = backward(dh, cache)
    return loss, grads


def accuracy(cell, p, T, marks=0.0):
    x, y = sequences(np.random.default_rng(99), 1000, T, marks)  # never trained on
    h0 = np.zeros((len(x), len(p["Wh"])), np.float32)
    h, _ = LAYERS[cell][0](x, h0, p["Wx"], p["Wh"], p["b"])
    return float(((h[:, -1] @ p["Wy"] + p["by"]).argmax(axis=1) == y).mean())


def train(cell, T, forget_bias=0.0, fixed=(), marks=0.0, steps=200, H=16, seed=0):
    """Adam, 32 sequences a step. ``fixed`` holds gates that stand still: (block, bias)."""
    rng = np.random.default_rng(seed)
    blocks = LAYERS[cell][2]
    shapes = {"Wx": (SYMBOLS + 1, blocks * H), "Wh": (H, blocks * H), "Wy": (H, SYMBOLS)}
    p = {
        name: (rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
    p |= {"b": np.zeros(blocks * H, np.float32), "by": np.zeros(SYMBOLS, np.float32)}
    if cell == "lstm":
        p["b"][H : 2 * H] = forget_bias
    for block, bias in fixed:
        columns = slice(block * H, (block + 1) * H)
        p["Wx"][:, columns] = p["Wh"][:, columns] = 0
        p["b"][columns] = bias
    configs, losses = {name: {"learning_rate": 1e-2} for name in p}, []
    for _ in range(steps):
        loss, grads = loss_and_gradients(cell, p, *sequences(rng, 32, T, marks))
        grads, _ = clip_gradient_norm(grads, 1.0)
        for name in p:
            p[name], configs[name] = adam(p[name], grads[name], configs[name])
        losses.append(float(loss))
    return p, losses


# %% [markdown]
# Five models of 16 units, four lengths, 200 steps of Adam each (32 new sequences a step), then 1,000 sequences
# that none has seen:

# %%
LENGTHS = (4, 8, 16, 32)
MODELS = {
    "vanilla RNN": ("rnn", lambda T: 0.0),
    "LSTM, forget bias -2": ("lstm", lambda T: -2.0),
    "LSTM, forget bias 0": ("lstm", lambda T: 0.0),
    "LSTM, forget bias 1": ("lstm", lambda T: 1.0),
    "LSTM, forget bias ln T": ("lstm", np.log),
}
found = {
    name: [accuracy(cell, train(cell, T, forget_bias=bias(T))[0], T) for T in LENGTHS]
    for name, (cell, bias) in MODELS.items()
}

print(f"{'symbols to read':<24}", *(f"{T:>6}" for T in LENGTHS))
for (name, shares), style in zip(
    found.items(), ("k--", "o-", "o-", "o-", "o-"), strict=True
):
    print(f"{name:<24}", *(f"{share:6.0%}" for share in shares))
    plt.plot(LENGTHS, shares, style, label=name)
plt.axhline(1 / SYMBOLS, color="grey", linestyle=":", label="guessing")
plt.xscale("log", base=2)
plt.gca().set(
    xlabel="symbols to read, $T$", ylabel="share recalled", ylim=(0, 1.05),
    xticks=LENGTHS, xticklabels=LENGTHS,
    title="Recall the first symbol, after 200 steps of training",
)  # fmt: skip
plt.gca().legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=9)
plt.show()

assert found["LSTM, forget bias ln T"][-1] > 0.9 > 0.6 > found["vanilla RNN"][-1]
assert found["LSTM, forget bias -2"][1] < 0.5 < 0.9 < found["LSTM, forget bias 1"][1]
assert found["LSTM, forget bias 0"][2] < 0.4 < found["vanilla RNN"][2]
assert found["LSTM, forget bias 1"][2] > 0.9 > 0.4 > found["LSTM, forget bias 1"][3]

# %% [markdown]
# The order is the one that the gradients promised. A forget bias of $-2$ is deaf beyond a few steps, 0 gives up
# where the vanilla RNN still learns something, 1 goes on to about 16, and with $\ln T$ even the longest is
# learned to the end. Tallec and Ollivier (2018) turned that into a rule, *chrono initialisation*: draw the biases
# so that the units forget at different rates, up to the longest time you care for.
#
# What these figures do not say: that the others never could. More steps, or another seed, may move every limit, and a
# share between guessing and 100 % depends on the seed. The figures say how far the *first* gradients reach.
#
# ## Taking the gates away
#
# What is each gate good for? Close it for ever, or open it for ever, and see what breaks. There is no need to
# rewrite the layer: a gate without weights and with a bias of 40 is $\sigma(40) = 1$ to the last digit, and its
# slope $\sigma(1 - \sigma)$ is 0, so it gets no gradient and never moves. With $-40$ it is closed.

# %%
wide = sigmoid(np.array([40, -40], np.float32))
print("gates:", wide, "  slopes:", wide * (1 - wide))
assert np.array_equal(wide, [1, 0])

# %% [markdown]
# Two tasks, each of 12 symbols. *Keep*: recall the first, as before. *Replace*: every later symbol is marked as
# well with a probability of a quarter, and the one marked **last** is asked for, so that old things have to go.
# The loss while training, and then the accuracy; for *replace* on sequences ten times as long as well, and the
# largest cell that was seen there.

# %%
I, F, O = 0, 1, 2  # the blocks
VARIANTS = {
    "all gates": (),
    "no input gate, i = 1": [(I, 40)],
    "no output gate, o = 1": [(O, 40)],
    "no forget gate, f = 1": [(F, 40)],
    "i = 1 and f = 1": [(I, 40), (F, 40)],
    "no memory, f = 0": [(F, -40)],
}
TASKS = {"keep": 0.0, "replace": 0.25}
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
table = {}
for name, fixed in VARIANTS.items():
    for ax, (task, marks) in zip(axes, TASKS.items(), strict=True):
        p, losses = train(
            "lstm", 12, forget_bias=np.log(12), fixed=fixed, marks=marks, steps=300
        )
        table[name, task] = accuracy("lstm", p, 12, marks)
        smooth = np.convolve(losses, np.ones(15) / 15, mode="valid")
        ax.plot(np.arange(len(smooth)) + 14, smooth, label=name)
        ax.set(xlabel="step", title=task)
    table[name, "long"] = accuracy("lstm", p, 120, marks)
    x_, _ = sequences(np.random.default_rng(99), 200, 120, marks)
    h0_ = np.zeros((200, 16), np.float32)
    _, (*_, step_caches) = lstm_forward(x_, h0_, p["Wx"], p["Wh"], p["b"])
    table[name, "cell"] = max(float(np.abs(cache[2]).max()) for cache in step_caches)
axes[0].set_ylabel("loss (nats), mean of 15 steps")
axes[1].legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=9)
plt.show()

print(f"{'':<24}{'keep':>8}{'replace':>10}{'of 120':>10}{'largest cell':>15}")
for name in VARIANTS:
    keep, replace, long, cell = (
        table[name, c] for c in ("keep", "replace", "long", "cell")
    )
    print(f"{name:<24}{keep:8.0%}{replace:10.0%}{long:10.0%}{cell:15.0f}")
assert min(table["all gates", task] for task in TASKS) > 0.95
assert table["no memory, f = 0", "keep"] < 0.4 < 0.9 < table["no memory, f = 0", "replace"]
assert table["i = 1 and f = 1", "replace"] < 0.7
assert table["no forget gate, f = 1", "cell"] > 1.5 * table["all gates", "cell"]
lost = {name: table[name, "replace"] - table[name, "long"] for name in VARIANTS}
assert max(lost, key=lost.get) == "no forget gate, f = 1"

# %% [markdown]
# * **No memory** ($f = 0$): nothing is left of the cell; what remains is a vanilla RNN with an input and an output
#   gate. It cannot *keep* over 12 steps. It can *replace*, because the last mark is seldom far away.
# * **No input gate**: every symbol is written, marked or not. The network must learn to write things that cancel,
#   or to forget at once, and learns slower. Symbol *times* mark is a product, and gates are the LSTM's products.
# * **No forget gate**, the LSTM of 1997: learns to keep with ease, and to replace with more trouble. It cannot
#   erase, only overwrite with something larger, so the cell grows and grows. On longer sequences than it was
#   trained on it loses more than the others. Gers, Schmidhuber and Cummins (2000) saw that on endless streams and
#   added the gate.
# * **Neither of the two**: everything is summed up for ever. The first symbol can be found in the sum when it
#   alone was marked; the last one cannot.
# * **No output gate**: little is lost here. The cell is always shown, and disturbs the other gates; this task
#   does not mind much.
#
# One seed and two toy tasks show *what each gate is for*, not how much each is worth elsewhere. Greff and others
# (2017) asked that on three real tasks, with eight variants and thousands of runs: no variant was clearly better
# than the standard one, and what hurt most was to take away the forget gate or the tanh before the output.
#
# ## The tempting wrong ways
#
# **The cell's gradient forgotten.** `lstm_step_backward` takes `dnext_c`, and the formula for $dc$ works without
# it as far as shapes go. It even looks natural: the layer's output is $h$, so why should anything but $dh$ come
# back?


# %%
def forgets_the_cell(dnext_h, dnext_c, cache):
    """As if next_h were the only reader of next_c."""
    return lstm_step_backward(dnext_h, np.zeros_like(dnext_c), cache)


report = check("lstm_step_backward", forgets_the_cell)
assert not report
report

# %%
T = 20
x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
dh = np.zeros((N, T, H))
dh[:, -1] = rng.standard_normal((N, H))  # the loss reads the last state, as in the toy task
_, cache = lstm_forward(x, h0, Wx, Wh, b)
right = lstm_backward(dh, cache)
with patch("core.rnn_layers.lstm_step_backward", forgets_the_cell):
    wrong = lstm_backward(dh, cache)
for name, a, b_ in zip(("dx", "dh0", "dWx", "dWh", "db"), wrong, right, strict=True):
    cosine = np.vdot(a, b_) / np.linalg.norm(a) / np.linalg.norm(b_)
    error = relative_error(a, b_)
    print(
        f"{name:<4} relative error {error:.2f}, cosine with the true gradient {cosine:.2f}"
    )
assert relative_error(wrong[2], right[2]) > 0.1

print("\nrecalled with the slip, forget bias ln T:")
recalled = {}
for T in (4, 32):
    with patch("core.rnn_layers.lstm_step_backward", forgets_the_cell):
        p, losses = train("lstm", T, forget_bias=np.log(T))
    recalled[T] = accuracy("lstm", p, T)
    end = np.mean(losses[-20:])
    print(f"{T:>3} symbols: {recalled[T]:4.0%}   (loss {losses[0]:.2f} -> {end:.2f})")
assert recalled[4] > 0.9 and recalled[32] < 0.5

# %% [markdown]
# Short memories are learned all the same, by way of $h$. So the slip does not look like a bug: it looks like an
# LSTM that is not very good. `check` sees it at once, because its upstream gradients are random for *both*
# outputs; a test that feeds zeros for `dnext_c`, as the last step of a sequence does, passes.
#
# **The caller's array overwritten.** NumPy makes it easy to save a line and an array: add in place.


# %%
def adds_in_place(dnext_h, dnext_c, cache):
    """The right gradients, and what ``dnext_c += ...`` for dc leaves behind."""
    gradients = lstm_step_backward(dnext_h, dnext_c, cache)
    *_, o, _, tanh_c = cache
    dnext_c += dnext_h * o * (1 - tanh_c**2)
    return gradients


with patch("core.rnn_layers.lstm_step_backward", adds_in_place):
    in_place = lstm_backward(dh, cache)
for a, b_ in zip(in_place, right, strict=True):
    assert np.array_equal(a, b_)  # lstm_backward never looks at its array again

dnext_h, dnext_c = rng.standard_normal((2, N, H))
*_, step_cache = cache[-1]
expected = lstm_step_backward(dnext_h, dnext_c.copy(), step_cache)[2]
for call in ("first", "second", "third"):
    dprev_c = adds_in_place(dnext_h, dnext_c, step_cache)[2]
    print(f"{call:<7} call: dprev_c off by {relative_error(dprev_c, expected):.2f}")
assert relative_error(dprev_c, expected) > 0.1

report = check("lstm_step_backward", adds_in_place)
assert not report
report

# %% [markdown]
# The first call is right, and so is `lstm_backward` as a whole, to the last bit. What breaks is whatever the caller
# does next with its own array: a second call, a comparison, another name for the same zeros. `check` looks at
# what it handed in, before and after.
#
# **Gates in another order.** Every library has its own; PyTorch stores i, f, g, o. Here is a step that reads its
# blocks so, forward and backward. Twice swapped is not swapped, so one function serves both ways:


# %%
def swapped(w):
    """The last two of the four blocks change places."""
    one, two, three, four = np.split(w, 4, axis=-1)
    return np.concatenate([one, two, four, three], axis=-1)


def other_forward(x, prev_h, prev_c, Wx, Wh, b):
    return lstm_step_forward(x, prev_h, prev_c, swapped(Wx), swapped(Wh), swapped(b))


def other_backward(dnext_h, dnext_c, cache):
    *of_inputs, dWx, dWh, db = lstm_step_backward(dnext_h, dnext_c, cache)
    return *of_inputs, swapped(dWx), swapped(dWh), swapped(db)


x = rng.standard_normal((N, D))
prev_h, prev_c, dnext_h, dnext_c = rng.standard_normal((4, N, H))
alike = [np.full_like(w, 0.1) for w in (Wx, Wh, b)]  # easy to type
for ours, other in zip(
    lstm_step_forward(x, prev_h, prev_c, *alike)[:2],
    other_forward(x, prev_h, prev_c, *alike)[:2],
    strict=True,
):
    assert np.array_equal(ours, other)
print("weights that are all 0.1: the same outputs")

arguments = x, prev_h, prev_c, Wx, Wh, b
for k in range(len(arguments)):
    numerical = eval_numerical_gradient_array(
        lambda _: np.concatenate(other_forward(*arguments)[:2]),
        arguments[k],
        np.concatenate([dnext_h, dnext_c]),
    )
    got = other_backward(dnext_h, dnext_c, other_forward(*arguments)[2])[k]
    assert relative_error(got, numerical) < 1e-8
print("its own finite differences: all six gradients right to less than 1e-8")

report = check("lstm_step_backward", other_backward, forward=other_forward)
assert not report
report

# %% [markdown]
# The first test passes because all blocks are alike. The second passes because it should: forward and backward
# agree with *each other*. An order is a convention, not a theorem, and no finite difference can know ours. It
# takes a second opinion, here PyTorch's, on random weights that differ from block to block. The order matters as
# soon as something comes from outside: a bias that is meant for the forget gate, or weights that someone else has
# trained. What the mistake costs the trained captioner that we are about to meet:

# %%
model, history = lessons.load_trained("lstm")
data = lessons.embedded_data("lstm")
rows = data["val_image_idxs"][:500]
features, captions = np.asarray(data["val_features"])[rows], data["val_captions"][:500]
tokens = np.count_nonzero(captions[:, 1:])

before = model.evaluate(features, captions) * len(captions) / tokens
kept_params = dict(model.params)
model.params |= {name: swapped(model.params[name]) for name in ("Wx", "Wh", "b")}
after = model.evaluate(features, captions) * len(captions) / tokens
model.params = kept_params
print(
    f"held-out captions: {before:.2f} nats per token, with the blocks swapped {after:.1f}"
)
print(f"as unsure as among {np.exp(before):.1f} words; swapped, among {np.exp(after):.0f}")
assert after > 3 * before

# %% [markdown]
# ## Let it speak
#
# `CaptioningRNN` with `cell_type="lstm"` is the model of lesson 5 with the other layer; $c_0 = 0$. First the test
# that no model is spared: fifty captions by heart.

# %%
few = lessons.embedded_data("lstm", num_samples=50)
small = CaptioningRNN(
    few["word_to_idx"], few["train_features"].shape[1], wordvec_dim=64, hidden_dim=128,
    cell_type="lstm", rng=np.random.default_rng(0),
)  # fmt: skip
solver = CaptioningSolver(
    small, few, update_rule="adam", num_epochs=60, batch_size=25, lr_decay=0.98,
    optim_config={"learning_rate": 5e-3}, verbose=False,
)  # fmt: skip
solver.train()
said = small.sample(few["train_features"][few["train_image_idxs"]], max_length=20)
pairs = zip(
    decode_captions(said, few["idx_to_word"]),
    decode_captions(few["train_captions"], few["idx_to_word"]),
    strict=True,
)
right_words = sum(ours == reference for ours, reference in pairs)
print(
    f"loss {solver.loss_history[0]:.1f} -> {solver.loss_history[-1]:.1f} nats per caption"
)
print(f"{right_words} of 50 captions word for word")
assert right_words >= 48

# %% [markdown]
# Now the two runs that came with the lessons, trained on the same 40,000 captions. From the folder of the project
#
#     python training.py --model rnn --hidden_dim 128 --wordvec_dim 64 --out runs/rnn
#     python training.py --model lstm --hidden_dim 128 --wordvec_dim 64 --out runs/lstm
#
# make them, in 1 and 1.5 minutes on one core. All 300 held-out pictures, captions by beam search ([lesson
# 11](11_decoding.ipynb)). As the pictures are known to the last shape, a parser can say of each caption whether
# **everything in it is true**:

# %%
scenes = load_scenes(data["source"]["folder"], "val")
shapes = np.array([len(scene) for scene in scenes])
PLACES = (" at the ", " in the ", " on the ")
true, with_place, losses = {}, {}, {}
for name in ("rnn", "lstm"):
    model, history = lessons.load_trained(name)
    losses[name] = history[-1]["val_loss"]
    ids, _ = beam_search(model, np.asarray(data["val_features"]), max_length=20)
    said = decode_captions(ids[:, 0], data["idx_to_word"])
    pairs = zip(said, scenes, strict=True)
    true[name] = np.array([caption_is_true(caption, scene) for caption, scene in pairs])
    with_place[name] = np.array(
        [any(place in caption for place in PLACES) for caption in said]
    )

print(f"{'':<6}{'nats per token':>14}{'true captions':>15}", end="")
print(f"{'1 shape':>10}{'2 shapes':>10}{'3 shapes':>10}")
for name in true:
    by_shapes = "".join(f"{true[name][shapes == k].mean():10.0%}" for k in (1, 2, 3))
    print(f"{name:<6}{losses[name]:14.2f}{true[name].mean():15.0%}{by_shapes}")
gains = [
    true["lstm"][shapes == k].mean() - true["rnn"][shapes == k].mean() for k in (1, 2, 3)
]
assert gains[0] < -0.1 < 0.2 < gains[1] < gains[2]
assert true["lstm"].mean() > true["rnn"].mean() + 0.05
assert losses["lstm"] < losses["rnn"]

width = 0.38
for shift, name, label in ((-width / 2, "rnn", "vanilla RNN"), (width / 2, "lstm", "LSTM")):
    shares = [true[name][shapes == k].mean() for k in (1, 2, 3)]
    plt.bar(np.arange(1, 4) + shift, shares, width, label=label)
plt.gca().set(
    xlabel="shapes in the picture", ylabel="share of captions that are true", ylim=(0, 1),
    xticks=(1, 2, 3), title="300 held-out pictures",
)  # fmt: skip
plt.legend(bbox_to_anchor=(1.01, 1), loc="upper left")
plt.show()

# %% [markdown]
# The longer the caption must be, the more the LSTM gains: with two and three shapes it keeps apart what belongs
# to which. But look at the first pair of bars. With a single shape the *better* model is *less often* true. Has
# it become worse at the easiest pictures? Ask what it says there:

# %%
single = shapes == 1
for name in true:
    says_where = with_place[name] & single
    says_not = ~with_place[name] & single
    print(
        f"{name:<5} says where in {says_where.sum():2} of {single.sum()} captions, "
        f"{true[name][says_where].mean():4.0%} of these are true; "
        f"of the others {true[name][says_not].mean():4.0%}"
    )
assert with_place["lstm"][single].mean() > with_place["rnn"][single].mean() + 0.2
assert true["lstm"][single & ~with_place["lstm"]].mean() > 0.9
assert 0.5 < true["lstm"][single & with_place["lstm"]].mean() < 0.8

# %% [markdown]
# It dares more. The RNN names the shape and stops; the LSTM says where it is in half of the cases, and there one
# caption in three is wrong. Where it does not speak of a place it is as good. A share of true captions rewards
# silence: remember that when you compare captioners by any single number ([lesson 13](13_is_it_any_good.ipynb)). The
# loss, in nats per token on the same captions for both, cannot be had by saying less.
#
# Why the place? Both models read one vector for the whole picture, and all that they will ever say of it has to be
# in the 128 numbers of the first state before the first word is out. A wider state holds more (the LSTM of the
# [results on shapes](../docs/results-shapes.md), with twice the units, is true of nine pictures in ten). The other
# way is not to remember the picture at all, but to look again at every word ([lesson 8](08_soft_attention.ipynb)).

# %%
lessons.show_captions(model, data, "val", (4, 5, 9, 11, 12, 16))

# %% [markdown]
# ## Exercises
#
# Write your answers in [the exercises](exercises/06_the_lstm.ipynb); the notebook tells you at once whether they
# hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · The forget gate's sum (one line)
#
# Given $dc$, all that reaches the new cell, $c_{\text{prev}}$ and the forget gate $f$, all $(N, H)$: write $da_f$,
# the gradient of the sum inside the gate, which the sigmoid made into $f$.


# %% tags=["exercise"]
def forget_gate_gradient(dc, prev_c, f):
    ### BEGIN SOLUTION
    return dc * prev_c * f * (1 - f)
    ### END SOLUTION


def from_the_step(dc, prev_c, f):
    """By lstm_step_backward, with a Wx that gives x the forget gate's sum and nothing else."""
    H = f.shape[1]
    nothing = np.zeros_like(f)
    Wx = np.hstack([np.zeros((H, H)), np.eye(H), np.zeros((H, 2 * H))])  # i, f, o, g
    cache = (nothing, nothing, prev_c, Wx, Wx, nothing, f, nothing, nothing, nothing)
    return lstm_step_backward(nothing, dc, cache)[0]


dc, prev_c, a_f = np.random.default_rng(3).standard_normal((3, 4, 5))
compare(
    forget_gate_gradient,
    from_the_step,
    dc,
    prev_c,
    sigmoid(a_f),
    also={"for one row": (dc[:1], prev_c[:1], sigmoid(a_f[:1]))},
    exercise="06.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · The step backward, by yourself
#
# Write `lstm_step_backward` from an empty page. `cache` is `(x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c)`.
# Return `dx, dprev_h, dprev_c, dWx, dWh, db`. (`check(..., hint=2)` and `hint=3` say more when it does not hold.)


# %% tags=["exercise"]
def step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c = cache
    ### BEGIN SOLUTION
    dc = dnext_c + dnext_h * o * (1 - tanh_c**2)
    da_i = dc * g * i * (1 - i)
    da_f = dc * prev_c * f * (1 - f)
    da_o = dnext_h * tanh_c * o * (1 - o)
    da_g = dc * i * (1 - g**2)
    da = np.concatenate([da_i, da_f, da_o, da_g], axis=1)
    return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, prev_h.T @ da, da.sum(axis=0)
    ### END SOLUTION


check("lstm_step_backward", step_backward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: the gated recurrent unit
#
# Cho and others (2014) do with two gates and one state. $z$ says how much of the old state is kept, $r$ how much
# of it the candidate may read; the blocks of $W_x$ $(D, 3H)$, $W_h$ $(H, 3H)$ and $b$ $(3H,)$ stand in the order
# z, r, n:
#
# $$ z = \sigma(x W_{xz} + h_{\text{prev}} W_{hz} + b_z), \qquad
#    r = \sigma(x W_{xr} + h_{\text{prev}} W_{hr} + b_r) $$
#
# $$ n = \tanh(x W_{xn} + (r \odot h_{\text{prev}}) W_{hn} + b_n), \qquad
#    h_{\text{next}} = z \odot h_{\text{prev}} + (1 - z) \odot n $$
#
# Write the step forward, then backward. Draw the graph first: $h_{\text{prev}}$ has four readers, $r$ only one.
# The referee is PyTorch's autograd.


# %% tags=["exercise"]
def gru_step_forward(x, prev_h, Wx, Wh, b):
    """Returns next_h and a cache of your own."""
    ### BEGIN SOLUTION
    H = prev_h.shape[1]
    zr = sigmoid(x @ Wx[:, : 2 * H] + prev_h @ Wh[:, : 2 * H] + b[: 2 * H])
    z, r = zr[:, :H], zr[:, H:]
    n = np.tanh(x @ Wx[:, 2 * H :] + (r * prev_h) @ Wh[:, 2 * H :] + b[2 * H :])
    return z * prev_h + (1 - z) * n, (x, prev_h, Wx, Wh, z, r, n)
    ### END SOLUTION


def your_state(*arguments):
    returned = gru_step_forward(*arguments)
    return None if returned is None else returned[0]


def referee(x, prev_h, Wx, Wh, b):
    """The state, and the gradients of its sum weighted by 1, 2, 3, ..., by PyTorch."""
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, prev_h, Wx, Wh, b)]
    x, prev_h, Wx, Wh, b = tensors
    (xz, xr, xn), (hz, hr, hn), (bz, br, bn) = (w.chunk(3, dim=-1) for w in (Wx, Wh, b))
    z = torch.sigmoid(x @ xz + prev_h @ hz + bz)
    r = torch.sigmoid(x @ xr + prev_h @ hr + br)
    out = torch.lerp(torch.tanh(x @ xn + (r * prev_h) @ hn + bn), prev_h, z)
    upstream = torch.arange(1.0, out.numel() + 1, dtype=out.dtype).reshape(out.shape)
    gradients = torch.autograd.grad((out * upstream).sum(), tensors)
    return out.detach().numpy(), tuple(gradient.numpy() for gradient in gradients)


gru_rng = np.random.default_rng(5)
gru_arguments = [
    0.5 * gru_rng.standard_normal(s) for s in ((4, 3), (4, 5), (3, 15), (5, 15), (15,))
]
gru_one_row = gru_arguments[0][:1], gru_arguments[1][:1], *gru_arguments[2:]


compare(
    your_state,
    lambda *arguments: referee(*arguments)[0],
    *gru_arguments,
    also={"for one row": gru_one_row},
    exercise="06.3",
)


# %% tags=["exercise"]
def gru_step_backward(dnext_h, cache):
    """Returns dx, dprev_h, dWx, dWh, db."""
    ### BEGIN SOLUTION
    x, prev_h, Wx, Wh, z, r, n = cache
    H = prev_h.shape[1]
    # next_h = z * prev_h + (1 - z) * n
    dz, dn, dprev_h = dnext_h * (prev_h - n), dnext_h * (1 - z), dnext_h * z
    # n = tanh(a_n), a_n = x Wxn + (r * prev_h) Whn + b_n
    da_n = dn * (1 - n**2)
    dread = da_n @ Wh[:, 2 * H :].T
    dr, dprev_h = dread * prev_h, dprev_h + dread * r
    da_zr = np.concatenate([dz * z * (1 - z), dr * r * (1 - r)], axis=1)
    dprev_h = dprev_h + da_zr @ Wh[:, : 2 * H].T
    da = np.concatenate([da_zr, da_n], axis=1)
    dWh = np.concatenate([prev_h.T @ da_zr, (r * prev_h).T @ da_n], axis=1)
    return da @ Wx.T, dprev_h, x.T @ da, dWh, da.sum(axis=0)
    ### END SOLUTION


def your_gradients(*arguments):
    returned = gru_step_forward(*arguments)
    if returned is None:
        return None
    next_h, cache = returned
    upstream = np.arange(1.0, next_h.size + 1).reshape(next_h.shape)
    given = upstream.copy()
    gradients = gru_step_backward(given, cache)
    assert np.array_equal(given, upstream), "gru_step_backward writes into dnext_h"
    return gradients


compare(
    your_gradients,
    lambda *arguments: referee(*arguments)[1],
    *gru_arguments,
    also={"for one row": gru_one_row},
)

# %% [markdown]
# ## What to keep
#
# * The cell is a sum that gates let things into, out of and keep; the network learns when to open them.
# * Along the cell the gradient is multiplied by $f$ alone. Open forget gates keep it alive, not the architecture
#   by itself; a bias of $\ln T$ keeps more than a third of it over $T$ steps.
# * The cell has two readers, its own tanh and the next step. Forget the second, and you have an LSTM that "is not
#   very good".
# * Gates stand in an order. A gradient check against oneself cannot see a wrong one; a referee can.
# * A better model may be true less often, because it says more.
#
# **Sources.** S. Hochreiter and J. Schmidhuber, *Long short-term memory*, Neural Computation 9 (1997). F. Gers,
# J. Schmidhuber and F. Cummins, *Learning to forget: continual prediction with LSTM*, Neural Computation 12
# (2000). R. Jozefowicz, W. Zaremba and I. Sutskever, *An empirical exploration of recurrent network
# architectures*, ICML 2015. C. Tallec and Y. Ollivier, *Can recurrent neural networks warp time?*, ICLR 2018. K.
# Greff, R. Srivastava, J. Koutník, B. Steunebrink and J. Schmidhuber, *LSTM: a search space odyssey*, IEEE
# Transactions on Neural Networks and Learning Systems 28 (2017). K. Cho, B. van Merriënboer, C. Gulcehre, D.
# Bahdanau, F. Bougares, H. Schwenk and Y. Bengio, *Learning phrase representations using RNN encoder-decoder for
# statistical machine translation*, EMNLP 2014.
#
# **Next:** [lesson 7, from loops to GEMMs](07_from_loops_to_gemms.ipynb): the same numbers, in less time.
