# %% [markdown]
# # 6 · The LSTM
#
# **The question.** The state of a vanilla RNN forgets what it read a few words ago. How can a network keep a
# number for many steps, and decide by itself when to write it, when to keep it and when to show it?
#
# You build one step of a *long short-term memory*, forward and backward. Then you watch it learn when to keep and
# when to forget, and you let it describe pictures.
#
# *Before: [lesson 5](05_the_vanilla_rnn.ipynb) (the vanilla RNN, back-propagation through time). About 50 minutes;
# all cells together run in less than a minute.*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np
import torch

from core import lessons
from core.coco_utils import decode_captions
from core.decoding import beam_search
from core.gradient_check import check
from core.layers import (
    sigmoid,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
)
from core.lessons import (
    BLUE,
    GREY,
    ORANGE,
    Sketch,
    compare,
    confirm,
    draw_graph,
    movable,
    show_source,
)
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
# ## The idea
#
# A vanilla RNN makes its whole state anew at every step: a product with a matrix, then a tanh. A number that should
# stay must pass through both, each time. An LSTM has a second vector beside the state, the **cell** $c$. From step to
# step each entry of the cell is only multiplied by one number, and another number is added:

# %% tags=["hide-input"]
sketch = Sketch(8.6, 2.9)
for y, name, kind in ((2.3, "h", "value"), (0.85, "c", "value")):
    boxes = [
        sketch.box(0.6 + 2.5 * t, y, f"${name}_{t}$", kind, width=0.7) for t in range(4)
    ]
    for t in range(3):
        x = 0.6 + 2.5 * t
        if name == "h":
            middle = sketch.box(x + 1.25, y, "$W_h$, tanh", "op", width=1.2)
            sketch.arrow(boxes[t], middle)
            sketch.arrow(middle, boxes[t + 1])
        else:
            times = sketch.box(x + 0.85, y, "×", "op", width=0.42)
            plus = sketch.box(x + 1.65, y, "+", "op", width=0.42)
            sketch.arrow(boxes[t], times)
            sketch.arrow(times, plus)
            sketch.arrow(plus, boxes[t + 1])
            sketch.arrow((x + 0.85, 0.42), times, kind="grey")
            sketch.arrow((x + 1.65, 0.42), plus, kind="grey")
            sketch.text(x + 0.85, 0.24, "keep", GREY, 11)
            sketch.text(x + 1.65, 0.24, "write", GREY, 11)
sketch.text(4.3, 2.72, "vanilla RNN: the state is made anew at every step", GREY)
sketch.text(4.3, 1.38, "LSTM: the cell is kept, and written into", GREY)
sketch.show()

# %% [markdown]
# Three **gates** decide what happens to the cell. A gate is a number between 0 and 1 for each unit, and something is
# multiplied by it: a closed gate (0) lets nothing through, an open gate (1) everything.
#
# * The **forget gate** $f$ says how much of the old cell is kept.
# * The **input gate** $i$ says how much of a *candidate* $g$ is written into the cell.
# * The **output gate** $o$ says how much of the cell is shown, as the hidden state $h$.

# %% tags=["hide-input", "picture"]
sketch = Sketch(8.6, 4.5)
old, new = sketch.box(0.8, 3.9, "$c_{prev}$"), sketch.box(7.8, 3.9, "$c_{next}$")
keep = sketch.box(2.3, 3.9, "×", "op", width=0.45)
plus = sketch.box(4.1, 3.9, "+", "op", width=0.45)
write = sketch.box(4.1, 2.75, "×", "op", width=0.45)
tanh = sketch.box(6.5, 3.05, "tanh", "op", width=0.8)
show = sketch.box(6.5, 2.2, "×", "op", width=0.45)
out = sketch.box(7.8, 2.2, "$h_{next}$")
for start, end in ((old, keep), (keep, plus), (plus, new), (write, plus)):
    sketch.arrow(start, end)
for start, end in (((6.5, 3.9), tanh), (tanh, show), (show, out)):
    sketch.arrow(start, end)
read = sketch.box(
    4.4, 0.35, "what is read now, and the state:  $x$, $h_{prev}$", "given", 5.6
)
for x, letter, text, end in (
    (2.3, "f", "keep?", keep), (3.5, "i", "write?", write), (4.7, "g", "what?", write),
    (6.5, "o", "show?", show),
):  # fmt: skip
    gate = sketch.box(x, 1.4, f"${letter}$: {text}", "op", width=1.1)
    sketch.arrow((x, 0.56), gate, kind="grey")
    sketch.arrow(gate, end, kind="grey")
sketch.text(5.15, 4.28, "the cell", BLUE)
sketch.show()

# %% [markdown]
# ## By hand, with one unit
#
# With one unit the cell is one number:
#
# $$ c_{\text{next}} = f\, c_{\text{prev}} + i\, g, \qquad h_{\text{next}} = o \tanh(c_{\text{next}}) $$
#
# A gate is a sigmoid, $\sigma(a) = 1 / (1 + e^{-a})$, of a weighted sum $a$. We choose the weights so that the unit
# works like a notepad. It reads a value and three commands, each 0 or 1.
#
# Without a command only the biases count. A bias of $-10$ closes the input and output gates, $\sigma(-10) = 0.00005$.
# A bias of 10 opens the forget gate, $\sigma(10) = 0.99995$. A command has the weight 20 or $-20$: *store* opens the
# input gate, *clear* closes the forget gate, and *show* opens the output gate.


# %%
def gates_of(store, clear, show):
    """The gates i, f and o of the notepad."""
    return sigmoid(20.0 * store - 10), sigmoid(10 - 20.0 * clear), sigmoid(20.0 * show - 10)


steps = [  # what happens, value, store, clear, show
    ("store 0.8", 0.8, 1, 0, 0),
    ("noise", -0.5, 0, 0, 0),
    ("noise", 0.9, 0, 0, 0),
    ("show", 0.3, 0, 0, 1),
    ("clear", -0.7, 0, 1, 0),
    ("show", 0.6, 0, 0, 1),
]

# %% [markdown]
# **Predict.** The candidate is $g = \tanh(\text{value})$. What is in the cell after the third step? What is $h$ after
# the fourth step, and after the last? From a table: $\tanh(0.3) = 0.29$, $\tanh(0.66) = 0.58$, $\tanh(0.8) = 0.66$,
# $\tanh(0.9) = 0.72$.

# %%
c, kept = 0.0, []
print(f"{'':<10}{'value':>7}{'i':>6}{'f':>6}{'o':>6}{'g':>7}{'c_next':>9}{'h_next':>9}")
for what, value, *commands in steps:
    i, f, o = gates_of(*commands)
    g = np.tanh(value)
    c = f * c + i * g
    h = o * np.tanh(c)
    kept.append((i, f, o, g, c, h))
    print(f"{what:<10}{value:7.2f}{i:6.2f}{f:6.2f}{o:6.2f}{g:7.2f}{c:9.2f}{h:9.2f}")
assert abs(kept[2][4] - 0.66) < 0.005 and abs(kept[3][5] - 0.58) < 0.005 and abs(h) < 1e-3

# %% [markdown]
# <details><summary>Answer</summary>
#
# The cell still holds 0.66 after the third step: the noise met a closed input gate. The fourth step shows
# $\tanh(0.66) = 0.58$. The fifth clears the cell, so the last step shows 0.
# </details>
#
# Here the commands come from outside. In an LSTM each gate has weights, reads $x$ and $h_{\text{prev}}$, and learns
# when to open.
#
# **Task.** The cell holds 0.66. One single step should replace it by $\tanh(-0.7)$ and show the new value. Which
# commands does this step need?


# %% tags=["task"]
def commands():  # store, clear and show, each 0 or 1
    ### BEGIN SOLUTION
    return 1, 1, 1
    ### END SOLUTION


def cell_and_state():
    i, f, o = sigmoid(np.array([20.0, -20.0, 20.0]) * commands() + [-10, 10, -10])
    c = f * 0.66 + i * np.tanh(-0.7)
    assert abs(c - 0.06) > 0.01, "the cell holds 0.06, the sum of old and new"
    return round(float(c), 2), round(float(o * np.tanh(c)), 2)


wanted = "-0.60 in the cell and h = -0.54"
confirm(commands() and cell_and_state, lambda now: now == (-0.6, -0.54), wanted)

# %% [markdown]
# ## One step forward
#
# Three gates and a candidate need four weighted sums for each unit. Their weights are side by side in one matrix, **in
# the order i, f, o, g**. So one product with $x$ and one with $h_{\text{prev}}$ give all four sums, for $N$ rows and
# $H$ units at once. Then $a$ is cut into four blocks of $H$ columns:
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
# | $h_{\text{prev}}$, $c_{\text{prev}}$ | $(N, H)$ | the hidden state and the cell of the step before |
# | $W_x$, $W_h$, $b$ | $(D, 4H)$, $(H, 4H)$, $(4H,)$ | shared by all steps |
# | $i$, $f$, $o$, $g$ | $(N, H)$ | three gates and the candidate |
# | $h_{\text{next}}$, $c_{\text{next}}$ | $(N, H)$ | the new ones; $h_{\text{next}}$ is the output |
#
# **Task.** Write what follows after the sum. `np.split(a, 4, axis=1)` cuts it; `sigmoid` is there already.


# %% tags=["task"]
def after_the_sum(a, prev_c):
    """The sum a (N, 4H) and prev_c (N, H) -> next_h, next_c, a tuple."""
    ### BEGIN SOLUTION
    a_i, a_f, a_o, a_g = np.split(a, 4, axis=1)
    next_c = sigmoid(a_f) * prev_c + sigmoid(a_i) * np.tanh(a_g)
    return sigmoid(a_o) * np.tanh(next_c), next_c
    ### END SOLUTION


rng, W = np.random.default_rng(1), (np.eye(20), np.zeros((5, 20)), np.zeros(20))
compare(
    after_the_sum, lambda a, c: lstm_step_forward(a, 0 * c, c, *W)[:2],
    rng.standard_normal((4, 20)), rng.standard_normal((4, 5)),
)  # fmt: skip

# %% [markdown]
# Ours is the same, with the sum in front and a `cache` for the way back:

# %%
show_source(lstm_step_forward, docstring=False)

# %% [markdown]
# ## One step backward
#
# Two gradients arrive, both $(N, H)$: $dh_{\text{next}}$ from all that reads the hidden state, and
# $dc_{\text{next}}$ from the next step, which reads the cell. The graph leads from the gates to the new states;
# values are blue, gradients orange:

# %% tags=["hide-input"]
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
# Walk back, from the last line of the forward to its first.
#
# **The output** is a product, $o \odot \tanh(c_{\text{next}})$. Each factor receives the upstream gradient times
# the other factor:
#
# $$ do = dh_{\text{next}} \odot \tanh(c_{\text{next}}), \qquad
#    d(\tanh c_{\text{next}}) = dh_{\text{next}} \odot o $$
#
# **The cell has two readers**: this tanh, whose slope is $1 - \tanh^2$, and the next step. A value with two readers
# receives two gradients, and they add. Call the sum $dc$.
#
# **Task.** Write $dc$.


# %% tags=["task"]
def gradient_of_the_cell(dnext_h, dnext_c, o, tanh_c):
    """All that reaches next_c; tanh_c is tanh(next_c). Every array is (N, H)."""
    ### BEGIN SOLUTION
    return dnext_c + dnext_h * o * (1 - tanh_c**2)
    ### END SOLUTION


given, W = np.random.default_rng(2).uniform(0.1, 0.9, (4, 3, 5)), np.zeros((5, 20))
no = np.zeros((3, 5))
compare(  # in ours dprev_c is dc, where f = 1
    gradient_of_the_cell,
    lambda h, c, o, t: lstm_step_backward(h, c, (no, no, no, W, W, no, no + 1, o, no, t))[2],
    given[0], no, *given[2:], also={"with a gradient from the next step too": tuple(given)},
)  # fmt: skip

# %% [markdown]
# $$ dc = dc_{\text{next}} + dh_{\text{next}} \odot o \odot (1 - \tanh^2(c_{\text{next}})) $$
#
# **The cell's sum**, $f \odot c_{\text{prev}} + i \odot g$, gives $dc$ to both terms. In each product, a factor
# receives $dc$ times the other factor:
#
# $$ df = dc \odot c_{\text{prev}}, \quad dc_{\text{prev}} = dc \odot f, \quad
#    di = dc \odot g, \quad dg = dc \odot i $$
#
# **The gates' slopes.** The slope of a sigmoid is $\sigma'(a) = \sigma(a)\,(1 - \sigma(a))$.
#
# <details><summary>Why? Try it with the chain rule first.</summary>
#
# From $\sigma(a) = (1 + e^{-a})^{-1}$:
#
# $$ \sigma'(a) = \frac{e^{-a}}{(1 + e^{-a})^2}
#    = \frac{1}{1 + e^{-a}} \cdot \frac{(1 + e^{-a}) - 1}{1 + e^{-a}} = \sigma(a)\,(1 - \sigma(a)) $$
# </details>
#
# So the slope needs the gate alone, and the cache holds it. For the candidate, $\tanh' = 1 - \tanh^2 = 1 - g^2$:
#
# $$ da_i = di \odot i \odot (1 - i), \quad da_f = df \odot f \odot (1 - f), \quad
#    da_o = do \odot o \odot (1 - o), \quad da_g = dg \odot (1 - g^2) $$
#
# **The four blocks.** Each entry of $a$ went into one block. So the gradient is the four blocks side by side again, in
# the same order: $da = [\,da_i \;\; da_f \;\; da_o \;\; da_g\,]$, of shape $(N, 4H)$.
#
# **The products** are those of lesson 5, with $4H$ columns. The product with $W^T$ adds what comes back from the four
# blocks:
#
# $$ dx = da\, W_x^T, \quad dh_{\text{prev}} = da\, W_h^T, \quad dW_x = x^T da, \quad
#    dW_h = h_{\text{prev}}^T\, da, \quad db = \sum_n da_n $$

# %%
show_source(lstm_step_backward, docstring=False)

# %%
report = check("lstm_step_backward", lstm_step_backward)
assert report
report

# %% [markdown]
# ## Back along the notepad
#
# Take the notepad from above. Let the loss be what it shows at the fourth step: $\mathcal{L} = h_4$, so $dh_4 = 1$.
#
# **Predict.** The four values were 0.8, $-0.5$, 0.9 and 0.3. Which of them get a gradient? Does it shrink on the
# three steps from $c_4$ back to $c_1$?

# %%
dh, dc = 1.0, 0.0  # the loss is h_4: no gradient from the steps after it
print(f"{'':<12}{'f':>6}{'i':>6}{'dc':>8}{'dc_prev':>9}{'d value':>9}")
for k in (3, 2, 1, 0):
    i, f, o, g, c, _ = kept[k]
    dc = dc + dh * o * (1 - np.tanh(c) ** 2)
    dvalue = dc * i * (1 - g**2)  # the candidate is tanh(value)
    print(f"{steps[k][0]:<12}{f:6.2f}{i:6.2f}{dc:8.3f}{dc * f:9.3f}{dvalue:9.3f}")
    dh, dc = 0.0, dc * f

# %% tags=["hide-input"]
by_difference = []
for value in (0.8 + 1e-5, 0.8 - 1e-5):
    c = kept[0][0] * np.tanh(value)
    for i, f, _, g, *_ in kept[1:4]:
        c = f * c + i * g
    by_difference.append(kept[3][2] * np.tanh(c))
numerical = (by_difference[0] - by_difference[1]) / 2e-5
print(f"by central differences, for the stored value: {numerical:.3f}")
assert abs(numerical - dvalue) < 1e-6 and abs(dc - 0.662) < 1e-3

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only 0.8 gets a gradient. The input gate was closed for the others. On the way from $c_4$ to $c_1$ the gradient is
# multiplied by $f = 1.00$ at each step, so it loses nothing. The gates that keep a value let its gradient come back.
# </details>
#
# <details><summary>Where do 0.662 and 0.370 come from?</summary>
#
# The 0.662 is the tanh's slope at the output, $1 - 0.581^2$. It has nothing to do with the 0.664 in the cell. The
# stored value's own tanh has the slope $1 - 0.664^2 = 0.559$, and $0.662 \cdot 0.559 = 0.370$.
# </details>
#
# ## Through time
#
# As in lesson 5, `lstm_forward` takes the same step $T$ times, and `lstm_backward` goes back from the last step to the
# first. One thing is new: two gradients come back from the next step, one for each state. Step $t$ receives
#
# $$ dh_{\text{next}} = \underbrace{dh_t}_{\text{from the layer above}} +
#    \underbrace{dh_{\text{prev}}}_{\text{from step } t + 1}, \qquad
#    dc_{\text{next}} = \underbrace{dc_{\text{prev}}}_{\text{from step } t + 1} $$
#
# The first cell is zero, a constant, so the gradient that reaches it ends there. (To see the code, run
# `show_source(lstm_forward, lstm_backward)` in a new cell.)

# %%
report = check("lstm_backward", lstm_backward)
assert report
report

# %% [markdown]
# ## The tempting wrong way: forgetting the cell's gradient
#
# The layer's output is $h$. So why should anything but $dh$ come back from the next step? Without $dc_{\text{next}}$
# all shapes are still right:


# %%
def forgets_the_cell(dnext_h, dnext_c, cache):
    """As if next_h were the only reader of next_c."""
    return lstm_step_backward(dnext_h, np.zeros_like(dnext_c), cache)


report = check("lstm_step_backward", forgets_the_cell)
assert not report
report

# %% [markdown]
# `check` sees it at once. A training would not show it so clearly
# ([lesson 6b](06b_the_lstm_further.ipynb#Two-ways-to-remember) tries it).
#
# ## How far the gradient reaches
#
# Let the loss read the last state alone, and follow the cell's gradient from step $t$ to step $t - 1$. One way is
# direct, through the forget gate. The other leads through $h_{t-1} = o_{t-1} \odot \tanh(c_{t-1})$, which all gates
# of step $t$ read:
#
# $$ dc_{t-1} = \underbrace{dc_t \odot f_t}_{\text{along the cell}} \;+\;
#    \underbrace{(da_t\, W_h^T) \odot o_{t-1} \odot (1 - \tanh^2 c_{t-1})}_{\text{through the gates}} $$
#
# The second way is like the vanilla RNN's: a matrix and a slope at each step. The first way has neither. After $k$
# steps it leaves a product of $k$ forget gates, and the network chooses them. Before training the weights are small,
# so a forget gate is about $\sigma(b_f)$, where $b_f$ is its bias. After $k$ steps about $\sigma(b_f)^k$ is left.
#
# Now measure it. We repeat the experiment of lesson 5: 60 steps, 64 units, a loss that reads the last state alone.
# The dashed line is a vanilla RNN with a spectral radius of 1.
#
# **Predict.** With a forget bias of 0 all forget gates are near one half. About how much is left along the cell after
# 50 steps? ($0.5^{10} \approx 10^{-3}$.) Does the gradient of such an LSTM reach further than that of the vanilla RNN?
# Then move the slider.


# %% tags=["hide-input"]
def through_the_cell(forget_bias, all_ways, seed, H=64, T=60):
    """Norms of the gradient of c at each step, by distance from the last."""
    rng = np.random.default_rng(seed)
    Wx, Wh = (rng.standard_normal((H, 4 * H)) * H**-0.5 for _ in range(2))
    b = np.zeros(4 * H)
    b[H : 2 * H] = forget_bias
    x = 0.5 * rng.standard_normal((1, T, H))
    _, (*_, step_caches) = lstm_forward(x, np.zeros((1, H)), Wx, Wh, b)
    dh, dc, norms = rng.standard_normal((1, H)), np.zeros((1, H)), []
    for cache in reversed(step_caches):
        *_, o, _, tanh_c = cache
        norms.append(np.linalg.norm(dc + dh * o * (1 - tanh_c**2)))
        _, dh, dc, *_ = lstm_step_backward(dh, dc, cache)
        if not all_ways:
            dh = np.zeros_like(dh)  # what came through the gates is thrown away
    return np.array(norms) / norms[0]


def through_an_rnn(seed, H=64, T=60):
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


def typical(function, *arguments):
    """The geometric mean of the curves of five networks."""
    return np.exp(
        np.mean([np.log(function(*arguments, seed)) for seed in range(5)], axis=0)
    )


BIASES = (-2, -1, 0, 1, 2, 3, 4, 5)
alone = {bias: typical(through_the_cell, bias, False) for bias in BIASES}
together = {bias: typical(through_the_cell, bias, True) for bias in BIASES}
of_rnn = typical(through_an_rnn)


def draw_curves(bias):
    _, axes = plt.subplots(figsize=(6.4, 3.2))
    axes.semilogy(together[bias], color=BLUE, label="LSTM, all ways together")
    axes.semilogy(alone[bias], color=ORANGE, label="LSTM, along the cell alone")
    axes.semilogy(of_rnn, "k--", label="vanilla RNN")
    axes.set(
        xlabel="steps back from the loss",
        ylabel="length of the gradient,\nrelative to the last step",
    )
    axes.set(ylim=(1e-12, 1e3), xlim=(0, 60))
    axes.legend(loc="lower left", fontsize=9, framealpha=1)


movable(draw_curves, {"forget_bias": 0}, forget_bias=BIASES)

print(f"{'what is left 50 steps back':<28}{'along the cell':>16}{'all ways':>12}")
print(f"{'vanilla RNN':<28}{'':>16}{of_rnn[50]:12.0e}")
for bias in (0, 1, 2, 5):
    print(f"LSTM, forget bias {bias:<10}{alone[bias][50]:16.0e}{together[bias][50]:12.0e}")
assert (
    alone[0][50] < together[0][50] < of_rnn[50] / 3 and together[1][50] > 1000 * of_rnn[50]
)
assert 0.1 < alone[1][50] / of_rnn[50] < 10 and 0.1 < together[2][50] < 1
assert 1 < together[3][50] < together[5][50]
assert 1e-16 < 0.5**50 < alone[0][50] < 1e-14

# %% [markdown]
# <details><summary>Answer</summary>
#
# About $10^{-15}$ is left along the cell. Both ways together leave more, but less than the vanilla RNN. **The
# architecture alone does not keep the gradient alive; open forget gates do.** From a bias of 1 on the gradient reaches
# much further. From 3 on it grows: what comes through the gates adds up. The cell cures the fading, not the explosion,
# and clipping is still needed ([4b](04b_clipping_decay_schedules.ipynb)).
# </details>
#
# Jozefowicz, Zaremba and Sutskever (2015) compared thousands of architectures. One of their conclusions: start with
# a forget bias of 1. `CaptioningRNN` does. [Lesson 6b](06b_the_lstm_further.ipynb) asks when it should be more.
#
# ## It learns when to keep
#
# Do the gates learn to open and close by themselves? A small task shows it. A model reads 12 random symbols of six
# kinds. The first is *marked*, and each other one with probability 1/4. At the end the model must say which symbol was
# marked **last**. So it must replace what it holds at each mark, and keep it otherwise.


# %% tags=["hide-input"]
def sequences(rng, N, T=12, marks=0.25):
    """One-hot symbols and the mark (N, T, 7), and the symbol that was marked last."""
    symbols, marked = rng.integers(6, size=(N, T)), rng.random((N, T)) < marks
    marked[:, 0] = True
    x = np.concatenate([np.eye(6)[symbols], marked[..., None]], axis=2)
    last = T - 1 - marked[:, ::-1].argmax(axis=1)
    return x.astype(np.float32), symbols[np.arange(N), last]


x, y = sequences(np.random.default_rng(2), 3)
for row, answer in zip(x, y, strict=True):
    shown = (f"{'*' if step[-1] else ' '}{step[:-1].argmax()}" for step in row)
    print("read", " ".join(shown), "  say", answer)

# %% [markdown]
# A model is one recurrent layer with 16 units and one affine layer, which scores the six symbols from the last
# state:


# %% tags=["hide-input"]
def loss_and_gradients(p, x, y, forward, backward):
    """Of sequences x and their answers y, for a layer's parameters p."""
    h0 = np.zeros((len(x), len(p["Wh"])), np.float32)
    h, cache = forward(x, h0, p["Wx"], p["Wh"], p["b"])
    scores, score_cache = temporal_affine_forward(h[:, -1:], p["Wy"], p["by"])
    loss, dscores = temporal_softmax_loss(scores, y[:, None], np.ones((len(x), 1)))
    dh, grads = np.zeros_like(h), {}
    dh[:, -1:], grads["Wy"], grads["by"] = temporal_affine_backward(dscores, score_cache)
    _, _, grads["Wx"], grads["Wh"], grads["b"] = backward(dh, cache)
    return loss, grads


# %% tags=["hide-input"]
def train(forward, backward, blocks, seed=0, steps=300, H=16):
    """Adam, 32 new sequences per update. An LSTM (4 blocks) starts with a forget bias of 1."""
    rng = np.random.default_rng(seed)
    shapes = {"Wx": (7, blocks * H), "Wh": (H, blocks * H), "Wy": (H, 6)}
    p = {
        name: (rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
    p |= {"b": np.zeros(blocks * H, np.float32), "by": np.zeros(6, np.float32)}
    if blocks == 4:
        p["b"][H : 2 * H] = 1
    configs = {name: {"learning_rate": 1e-2} for name in p}
    for _ in range(steps):
        _, grads = loss_and_gradients(p, *sequences(rng, 32), forward, backward)
        grads, _ = clip_gradient_norm(grads, 1.0)
        for name in p:
            p[name], configs[name] = adam(p[name], grads[name], configs[name])
    return p


def share_right(forward, p):
    unseen, answers = sequences(np.random.default_rng(99), 1000)
    h, cache = forward(unseen, np.zeros((1000, 16), np.float32), p["Wx"], p["Wh"], p["b"])
    said = (h[:, -1] @ p["Wy"] + p["by"]).argmax(axis=1)
    return float((said == answers).mean()), cache


rnn = [
    share_right(rnn_forward, train(rnn_forward, rnn_backward, 1, s))[0] for s in (0, 1, 2)
]
lstm, caches = zip(
    *(
        share_right(lstm_forward, train(lstm_forward, lstm_backward, 4, s))
        for s in (0, 1, 2)
    ),
    strict=True,
)
print("right on 1,000 sequences that no model has seen, three models each:")
print("vanilla RNN", *(f"{share:5.0%}" for share in rnn))
print("LSTM       ", *(f"{share:5.0%}" for share in lstm))
longer = share_right(rnn_forward, train(rnn_forward, rnn_backward, 1, steps=1000))[0]
print(f"the first vanilla RNN after 1,000 updates instead of 300: {longer:.0%}")
assert longer > 0.9
assert min(lstm) > 0.98 and 0.4 < min(rnn) < max(rnn) < 0.7

# %% [markdown]
# After 300 updates every LSTM is nearly always right, and the vanilla RNNs are wrong four or five times in ten. They
# *can* learn it: after 1,000 updates the first one is right 96% of the time. The LSTM needs less practice. Now look
# into the first LSTM.
#
# **Predict.** At a marked symbol, should the forget gate be more open than elsewhere, or less? And the input gate?

# %% tags=["hide-input"]
step_caches, (unseen, _) = caches[0][-1], sequences(np.random.default_rng(99), 1000)
i, f, g = (np.array([cache[place] for cache in step_caches]) for place in (5, 6, 8))
mark = unseen[..., 6].T == 1  # (T, N)
later, row = np.arange(12)[:, None] > 0, 1
print(f"{'mean of all units':<20}{'marked':>8}{'others':>8}")
means = {}
for name, gate in (
    ("forget gate f", f),
    ("input gate i", i),
    ("written, |i g|", abs(i * g)),
):
    means[name] = gate[mark & later].mean(), gate[~mark & later].mean()
    print(f"{name:<20}{means[name][0]:8.2f}{means[name][1]:8.2f}")
plt.figure(figsize=(7.5, 2.8))
plt.plot(f[:, row].mean(axis=1), "o-", color=BLUE, label="forget gate")
plt.plot(i[:, row].mean(axis=1), "s--", color=ORANGE, label="input gate")
for t in np.flatnonzero(mark[:, row]):
    plt.axvspan(t - 0.4, t + 0.4, color=GREY, alpha=0.25, linewidth=0)
symbols = unseen[row, :, :6].argmax(axis=1)
plt.xticks(
    range(12),
    [f"{s}{'*' if m else ''}" for s, m in zip(symbols, mark[:, row], strict=True)],
)
plt.gca().set(
    ylim=(0, 1), xlabel="what is read (grey and *: marked)", ylabel="mean of 16 units"
)
plt.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=9)
plt.show()
assert f[~mark & later].mean() ** 11 < 0.05
assert max(f[:, :, k][~mark & later].mean() for k in range(16)) ** 11 < 0.15
assert means["forget gate f"][0] < 0.4 < 0.6 < means["forget gate f"][1]
assert means["input gate i"][0] > means["input gate i"][1] + 0.2
assert means["written, |i g|"][0] > 1.5 * means["written, |i g|"][1]

# %% [markdown]
# <details><summary>Answer</summary>
#
# At a mark the forget gates close and the input gates open: the old symbol goes, the new one comes in. Elsewhere the
# forget gates are more open, and about half as much is written.
# </details>
#
# These are the commands that we gave the notepad by hand, only softer.
#
# But such soft gates keep little: over 11 steps, $0.69^{11} = 0.02$. [Lesson 6b](06b_the_lstm_further.ipynb) finds the
# other way by which this LSTM remembers.
#
# ## Let it speak
#
# `CaptioningRNN` with `cell_type="lstm"` is the model of lesson 5 with the other layer. Two trained models came with
# the lessons.
#
# <details><summary>Train them yourself</summary>
#
# It takes 1 and 1.5 minutes on one core, in the folder of the project:
#
#     python training.py --model rnn --hidden_dim 128 --wordvec_dim 64 --out runs/rnn
#     python training.py --model lstm --hidden_dim 128 --wordvec_dim 64 --out runs/lstm
# </details>
#
# Both describe 300 held-out pictures. We know every shape in these pictures, so a program can say whether
# **everything in a caption is true**.
#
# **Predict.** A picture has one, two or three shapes. For which does the LSTM gain most?

# %% tags=["hide-input"]
data = lessons.embedded_data("lstm")
start = CaptioningRNN(data["word_to_idx"], hidden_dim=5, cell_type="lstm").params["b"]
assert np.array_equal(start, [0] * 5 + [1] * 5 + [0] * 10)  # the forget bias of 1
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
errors = [
    np.subtract(true["lstm"], true["rnn"], dtype=float)[shapes == k] for k in (1, 2, 3)
]
errors = [gain.std() * len(gain) ** -0.5 for gain in errors]
assert gains[2] - gains[1] < 1.96 * np.hypot(errors[1], errors[2]), "more than error"
print("gains in points:", *(f"{100 * gain:+.0f}" for gain in gains), end="   pictures: ")
print(*((shapes == k).sum() for k in (1, 2, 3)))
assert true["lstm"].mean() > true["rnn"].mean() + 0.05
assert losses["lstm"] < losses["rnn"]

plt.figure(figsize=(6, 3.2))
width = 0.38
for shift, name, label, colour in (
    (-width / 2, "rnn", "vanilla RNN", GREY), (width / 2, "lstm", "LSTM", BLUE),
):  # fmt: skip
    shares = [true[name][shapes == k].mean() for k in (1, 2, 3)]
    plt.bar(np.arange(1, 4) + shift, shares, width, label=label, color=colour)
plt.gca().set(
    xlabel="shapes in the picture", ylabel="share of true captions", ylim=(0, 1),
    xticks=(1, 2, 3), title="300 held-out pictures",
)  # fmt: skip
plt.legend(bbox_to_anchor=(1.01, 1), loc="upper left")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# With three and with two shapes, by 36 and 30 points. With about 100 pictures each, that is the same gain within
# error. With one shape it loses 17.
# </details>
#
# But look at the first pair of bars. With a single shape the *better* model is *less often* true. What does it say
# there?

# %% tags=["hide-input"]
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
# It says more. The RNN mostly names the shape and stops. The LSTM says where it is in half of the cases, and is wrong in
# one of three. Where it does not speak of a place, it is nearly as good. A share of true captions rewards silence
# ([lesson 13](13_is_it_any_good.ipynb) comes back to that). The loss in nats per token does not reward silence: both
# models score the same captions.
#
# Six of the pictures follow: in blue what the LSTM says, in grey one of the picture's captions in the data set.
#
# **Predict.** One of the six blue captions is not true. Which?

# %% tags=["hide-input"]
IMAGES = (4, 5, 9, 11, 12, 16)
lessons.show_captions(model, data, "val", IMAGES)
assert [image for image in IMAGES if not true["lstm"][image]] == [16]

# %% [markdown]
# <details><summary>Answer</summary>
#
# The last: the red circle is not in the middle but on the left.
# </details>
#
# Both models read one vector for the whole picture, and all they will ever say must fit into the first state. The
# other way is to look at the picture again at every word ([lesson 8](08_soft_attention.ipynb)).

# %% [markdown]
# ## Exercises
#
# Write your answers in [the exercises](exercises/06_the_lstm.ipynb); the notebook tells you at once whether they
# hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · The forget gate's sum (one line)
#
# Given $dc$, all that reaches the new cell, $c_{\text{prev}}$ and the forget gate $f$, all $(N, H)$: write $da_f$,
# the gradient of the sum $a_f$ inside the gate ($f = \sigma(a_f)$).


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
# Cho and others (2014) need only two gates and one state. $z$ says how much of the old state is kept, $r$ how much
# of it the candidate may read. The blocks of $W_x$ $(D, 3H)$, $W_h$ $(H, 3H)$ and $b$ $(3H,)$ are in the order
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
# ## What you have now
#
# * A cell that three gates keep, write and show. The network learns when.
# * Its backward: the cell has two readers, and along it the gradient is multiplied by $f$ alone. Open forget gates
#   keep it alive, so their bias starts at 1.
# * A captioner that is right more often about two and three shapes, and says more. Saying more can cost truth.
#
# **Sources.** S. Hochreiter and J. Schmidhuber, *Long short-term memory*, Neural Computation 9 (1997). F. Gers,
# J. Schmidhuber and F. Cummins, *Learning to forget: continual prediction with LSTM*, Neural Computation 12
# (2000). R. Jozefowicz, W. Zaremba and I. Sutskever, *An empirical exploration of recurrent network
# architectures*, ICML 2015. K. Cho, B. van Merriënboer, C. Gulcehre, D. Bahdanau, F. Bougares, H. Schwenk and
# Y. Bengio, *Learning phrase representations using RNN encoder-decoder for statistical machine translation*,
# EMNLP 2014.
#
# **Next:** [lesson 8, soft attention](08_soft_attention.ipynb): a model that looks at the picture again at every
# word. [Lesson 7](07_from_loops_to_gemms.ipynb) is an aside: the same numbers, in less time.
# [Lesson 6b](06b_the_lstm_further.ipynb) goes deeper: how far a forget bias reaches, two ways to remember, and what each
# gate is good for.
