# %% [markdown]
# # 2 · Gradients you can trust
#
# **The question.** You wrote a backward pass. It runs, the shapes fit, the loss goes down. Is the gradient
# right? And when a check says so: how do you know that the check can be believed?
#
# You follow a gradient through two layers on paper, derive the numerical derivative and its best step, measure
# how far off is too far, and then watch ten wrong backward passes being approved, each by a check with one weak
# spot. In the end the checks themselves are put to the test, with dozens of backward passes that are all wrong.
#
# *Before: what a derivative is, and a matrix product. The layers of later lessons appear as examples; one line
# says what each computes, and more is not needed. PyTorch is a witness here, and in lessons 4, 6, 7 and 12 (in
# lesson 12 it also computes); you need not know it. About 60 minutes; all cells together run in half a minute.*

# %% tags=["setup"]
import inspect
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from core import lessons
from core.gradient_check import (
    check,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    relative_error,
)
from core.layers import (
    dropout_forward,
    softmax,
    softmax_backward,
    word_embedding_backward,
)
from core.lessons import compare, confirm, draw_graph, show_source
from core.models import CaptioningRNN
from core.rnn_layers import (
    lstm_step_backward,
    lstm_step_forward,
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
    rnn_step_forward,
)
from core.transformer_layers import (
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
)

lessons.style()

# %% [markdown]
# ## By hand, with whole numbers
#
# A network of two layers reads $x$ and says one number $s$; the number that it should have said is $y$. How
# wrong it is, is one number too, the **loss** $L$:
#
# $$ a = x\,U, \qquad h = \max(0, a), \qquad s = h\,v, \qquad L = \tfrac{1}{2} (s - y)^2 $$
#
# Here $x$ has two numbers, $a$ and $h$ have three. Follow it with a pencil:

# %%
x = np.array([[1.0, 2.0]])  # (1, 2), one row
U = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -1.0]])  # (2, 3)
v = np.array([[1.0], [2.0], [3.0]])  # (3, 1)
y = 3.0

a = x @ U
h = np.maximum(0, a)
s = h @ v
L = 0.5 * np.sum((s - y) ** 2)
print("a =", a, " h =", h, " s =", s, " L =", L)

# %% [markdown]
# Training wants to know for each weight: *if it grew by a little, by how much would the loss grow?* That is
# $\partial L / \partial U$, one number for each weight, an array of the shape of $U$. We write `dname` for
# $\partial L / \partial\, \text{name}$, and walk back from the loss, one line of the forward at a time.
#
# * $L = \frac{1}{2}(s - y)^2$, so $ds = s - y = 5 - 3 = 2$.
# * $s = h_1 v_1 + h_2 v_2 + h_3 v_3$. The weight $v_j$ is multiplied by $h_j$, so $dv_j = h_j\, ds$, that is 6,
#   2, 0. And $h_j$ is multiplied by $v_j$, so $dh_j = ds\, v_j$, that is 2, 4, 6.
# * $h_j = \max(0, a_j)$ has slope 1 where $a_j > 0$ and slope 0 where $a_j < 0$. (At 0 it has none; we come to
#   that.) As $a_3 = -2$, the last entry of $dh$ is stopped: $da$ is 2, 4, 0.
# * $a_j = x_1 U_{1j} + x_2 U_{2j}$. The weight $U_{ij}$ is multiplied by $x_i$, so $dU_{ij} = x_i\, da_j$. The
#   input $x_i$ is read by all three $a_j$ and collects from all of them: $dx_i = \sum_j da_j\, U_{ij}$, so
#   $dx_1 = 2 \cdot 1 + 4 \cdot (-1) + 0 \cdot 0 = -2$ and $dx_2 = 2 \cdot 1 + 4 \cdot 1 + 0 \cdot (-1) = 6$.

# %%
ds = s - y  # (1, 1)
dv = h.T @ ds  # (3, 1)
dh = ds @ v.T  # (1, 3)
da = dh * (a > 0)  # (1, 3)
dU = x.T @ da  # (2, 3)
dx = da @ U.T  # (1, 2)
print("ds =", ds, " dv =", dv.T, "(a column)")
print("dh =", dh, " da =", da)
print("dU =", dU.tolist(), " dx =", dx)
assert dv.T.tolist() == [[6, 2, 0]]
assert dU.tolist() == [[2, 4, 0], [4, 8, 0]] and dx.tolist() == [[-2, 6]]

# %% [markdown]
# The same as a **computational graph**. Values flow along the arrows (blue), gradients against them (orange):

# %%
draw_graph(
    {
        "x": (0, 1, "$x$"), "U": (0, -1, "$U$"), "m1": (1.4, 0, "@"),
        "max": (2.9, 0, "max(0, a)"),
        "v": (4.4, -1.2, "$v$"), "m2": (4.4, 0, "@"), "L": (5.7, 0, "loss"),
    },
    [
        ("x", "m1", "[1, 2]", "[-2, 6]"), ("U", "m1", "", "[[2, 4, 0],\n [4, 8, 0]]"),
        ("m1", "max", "a = [3, 1, -2]", "[2, 4, 0]"),
        ("max", "m2", "h = [3, 1, 0]", "[2, 4, 6]"),
        ("v", "m2", "[1, 2, 3]", "[6, 2, 0]"), ("m2", "L", "s = 5", "2"),
    ],
    "Two layers, with numbers",
    unit=1.4,
)  # fmt: skip

# %% [markdown]
# Is it true? Ask the network itself: let one weight grow by 0.001 and look at the loss.


# %%
def loss_of(U):
    return 0.5 * np.sum((np.maximum(0, x @ U) @ v - y) ** 2)


for i, j in ((0, 0), (1, 1), (0, 2)):
    nudged = U.copy()
    nudged[i, j] += 0.001
    growth = (loss_of(nudged) - L) / 0.001
    print(
        f"U[{i}, {j}]: the loss grows by {growth:.4f} times as much; dU says {dU[i, j]:.0f}"
    )
    assert abs(growth - dU[i, j]) < 0.1

# %% [markdown]
# That is a gradient check already. (Python counts from 0, so `U[0, 2]` is $U_{13}$.) It is not exact: 2.0005 is
# not 2, and 8.0080 is not 8. Whether such a difference is a mistake or the price of a finite step is the
# question of this lesson. But first: what does a backward pass compute, when arrays have any shape?
#
# ## The chain rule on arrays
#
# Two things are fixed. At the end stands a **scalar** $L$; so the gradient of any array has that array's shape.
# And a layer $y = f(x)$ stands somewhere in the middle and knows neither the loss nor the other layers. All
# that it is told is $dy$, the gradient of the loss with respect to its output: the **upstream gradient**. It
# has to answer with $dx$.
#
# Let $x$ have $n$ numbers and $y$ have $m$, in whatever shape. Moving $x_i$ moves every $y_j$ a little, and
# each of them moves the loss:
#
# $$ dx_i = \frac{\partial L}{\partial x_i} = \sum_{j=1}^{m} \frac{\partial L}{\partial y_j}
#    \frac{\partial y_j}{\partial x_i} = \sum_{j=1}^{m} dy_j\, J_{ji}, \qquad
#    J_{ji} = \frac{\partial y_j}{\partial x_i} \quad (m, n) $$
#
# In matrix form $dx = dy\, J$: a row vector times the **Jacobian** $J$. So a backward pass is a
# **vector-Jacobian product**. What it must *not* do is build $J$. Take one product $y = x\,W$. In one row of
# it, $y_j = \sum_i x_i W_{ij}$, so $\partial y_j / \partial x_i = W_{ij}$: the Jacobian of a row is $W^T$. With
# a batch of $N = 3$ rows it looks like this. (The layer is linear, so what a 1 in one entry of $x$ does to $y$
# *is* the derivative.)

# %%
rng = np.random.default_rng(0)
N, D, H = 3, 4, 5
X, W, dY = (rng.standard_normal(shape) for shape in ((N, D), (D, H), (N, H)))
units = np.eye(N * D).reshape(N * D, N, D)  # a 1 in each entry in turn
J = np.stack([(unit @ W).ravel() for unit in units], axis=1)
print("Jacobian:", J.shape, f" entries that are not 0: {np.mean(J != 0):.0%}")
assert np.allclose((dY.ravel() @ J).reshape(N, D), dY @ W.T, rtol=0, atol=1e-14)

plt.figure(figsize=(4, 3.6))
plt.imshow(J, cmap="RdBu", vmin=-2, vmax=2)
plt.colorbar(label="$\\partial y_j\\, /\\, \\partial x_i$")
plt.gca().set(xlabel="entry $i$ of x", ylabel="entry $j$ of y", title="$y = x\\,W$, 3 rows")
plt.gca().set(xticks=range(0, 12, 4), yticks=range(0, 15, 5))
plt.grid(False)
plt.show()

numbers = (64 * 512) ** 2
print(f"for N = 64, D = H = 512: {numbers:.1e} numbers, {8 * numbers / 1e9:.1f} GB")

# %% [markdown]
# No row of $x$ touches another row of $y$, so $J$ holds $N$ copies of $W^T$ and is empty elsewhere. The product
# $dy\,J$ is therefore $dy\,W^T$, each row of $dy$ with its own copy; the assert says that both give the same.
# Every backward in these lessons is such a shortcut: the sum $\sum_j dy_j J_{ji}$, written down by someone who
# knew where $J$ is zero. That is also why it can be wrong without anything looking strange.
#
# To take the shortcut a backward needs values of the forward: $h$, $x$, the sign of $a$ above. So each forward
# in `core` returns a **cache** with its outputs, and each backward takes the upstream gradients and that cache.
#
# ## Derivatives by differences
#
# For a function of one number, Taylor's theorem says what it looks like close to $x$ ($h$ is the size of the
# step now, and no longer the hidden layer):
#
# $$ f(x + h) = f(x) + h f'(x) + \tfrac{h^2}{2} f''(x) + \tfrac{h^3}{6} f'''(x) + \dots $$
#
# Solve for $f'$, and the **forward difference** and its error stand there:
#
# $$ \frac{f(x + h) - f(x)}{h} = f'(x) + \tfrac{h}{2} f''(x) + \dots $$
#
# Write the same for $-h$, where the odd powers change their sign:
#
# $$ f(x - h) = f(x) - h f'(x) + \tfrac{h^2}{2} f''(x) - \tfrac{h^3}{6} f'''(x) + \dots $$
#
# and subtract: $f(x)$ and $f''$ cancel. What is left is the **central difference**:
#
# $$ \frac{f(x + h) - f(x - h)}{2h} = f'(x) + \tfrac{h^2}{6} f'''(x) + \dots $$
#
# Its error shrinks with $h^2$: a tenth of the step, a hundredth of the error. So take $h = 10^{-15}$? No. A
# computer keeps numbers to a relative precision $u$ (half of the distance from 1 to the next number:
# $1.1 \cdot 10^{-16}$ in float64, $6 \cdot 10^{-8}$ in float32). Each of the two values of $f$ is off by up to
# $u\,\lvert f \rvert$, their difference by up to $2\, u\,\lvert f \rvert$, and the division by $2h$ blows that
# up. Together:
#
# $$ E(h) \approx \underbrace{\tfrac{h^2}{6} \lvert f''' \rvert}_{\text{truncation}} +
#    \underbrace{\frac{u\,\lvert f \rvert}{h}}_{\text{rounding}} $$
#
# As $h$ shrinks, one term falls and the other rises. The best step is where the derivative of $E$ is zero:
#
# $$ \frac{h}{3} \lvert f''' \rvert = \frac{u\,\lvert f \rvert}{h^2} \;\Rightarrow\;
#    h^* = \left( \frac{3\,u\,\lvert f \rvert}{\lvert f''' \rvert} \right)^{1/3}, \qquad
#    E(h^*) \approx \tfrac{1}{2}\, h^{*2}\, \lvert f''' \rvert $$
#
# (at $h^*$ the rounding is twice the truncation, so their sum is three times
# $\frac{h^{*2}}{6} \lvert f''' \rvert$). For the forward difference the same steps give
#
# $$ E(h) \approx \tfrac{h}{2} \lvert f'' \rvert + \frac{2\,u\,\lvert f \rvert}{h}, \qquad
#    \tfrac{1}{2} \lvert f'' \rvert = \frac{2\,u\,\lvert f \rvert}{h^2} \;\Rightarrow\;
#    h^* = 2 \sqrt{\frac{u\,\lvert f \rvert}{\lvert f'' \rvert}}, \qquad E(h^*) \approx h^* \lvert f'' \rvert $$
#
# (The rounding of $x + h$ itself adds an error of the same order as that of $f$.)
#
# Now measure. Take $f(x) = e^{\sin x}$. With $c = \cos x$ and $s = \sin x$ its derivatives are $f' = c f$,
# $f'' = (c^2 - s) f$ and $f''' = (c^3 - 3cs - c) f$, by the chain rule and the product rule. The points are the
# median error over 200 values of $x$, the lines are the two theories.


# %%
def f(x):
    return np.exp(np.sin(x))


def derivatives(x):
    c, s = np.cos(x), np.sin(x)
    return c * f(x), (c**2 - s) * f(x), (c**3 - 3 * c * s - c) * f(x)


def forward_difference(f, x, h):
    return (f(x + h) - f(x)) / h


def central_difference(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


points = np.random.default_rng(0).uniform(0.6, 1.2, 200)
value, (d1, d2, d3) = f(points), np.abs(derivatives(points))  # d1 is positive here


def theory(name, h, u):
    """The expected relative error of a difference at each point."""
    if name == "forward":
        return (h / 2 * d2 + 2 * u * value / h) / d1
    return (h**2 / 6 * d3 + u * value / h) / d1


def best_step(name, u):
    if name == "forward":
        return np.median(2 * np.sqrt(u * value / d2))
    return np.median(np.cbrt(3 * u * value / d3))


def measured(difference, h, dtype):
    """The relative error at each point, computed in that precision."""
    x = points.astype(dtype)
    return np.abs(difference(f, x, dtype(h)) / derivatives(x.astype(np.float64))[0] - 1)


kinds = {"forward": (forward_difference, "C0"), "central": (central_difference, "C1")}
curves = {}
_, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for ax, dtype, smallest in zip(axes, (np.float64, np.float32), (-14, -6), strict=True):
    u = np.finfo(dtype).eps / 2
    steps = 10.0 ** np.arange(smallest, 0, 0.25)
    for name, (difference, colour) in kinds.items():
        errors = np.array([np.median(measured(difference, h, dtype)) for h in steps])
        expected = [np.median(theory(name, h, u)) for h in steps]
        ax.loglog(steps, errors, "o", markersize=3, color=colour, label=f"{name}, measured")
        ax.loglog(steps, expected, color=colour, label=f"{name}, theory")
        ax.axvline(best_step(name, u), color=colour, linestyle=":")
        curves[dtype.__name__, name] = steps, errors, best_step(name, u)
    ax.set(xlabel="step h", title=dtype.__name__)
axes[0].set(ylabel="relative error", ylim=(1e-12, 10))
axes[1].legend(fontsize=8, loc="lower left")
plt.show()

for (precision, name), (steps, errors, step) in curves.items():
    found = steps[errors.argmin()]
    print(f"{precision}, {name}: best step {found:.0e}, in theory {step:.0e};", end=" ")
    print(f"error there {errors.min():.0e}")
    assert step / 6 < found < step * 6
for name, slope in (("forward", 1), ("central", 2)):
    steps, errors, _ = curves["float64", name]
    coarse = (steps > 1e-4) & (steps < 1e-1)
    assert (
        abs(np.polyfit(np.log(steps[coarse]), np.log(errors[coarse]), 1)[0] - slope) < 0.2
    )
assert curves["float64", "central"][1].min() < 1e-9 < curves["float64", "forward"][1].min()
assert curves["float32", "central"][1].min() > 1e-6

# %% [markdown]
# Each curve is two straight lines that meet. On the right, truncation: slope 1 for the forward difference, 2
# for the central one. On the left, rounding: slope $-1$ for both. (The theory takes the worst case of rounding,
# so the measured points lie a little below.) The dotted lines are the best steps of the theory. Three things to
# read off:
#
# * A smaller step is not a better step. In float64 the central difference wants $h \approx 10^{-5}$, and gives
#   about ten right digits. `core` uses $10^{-5}$.
# * The forward difference never reaches what the central one does, at any step.
# * In float32 four or five digits are the most that can be had, and at $h = 10^{-5}$ one or two. **Check in
#   float64**, even what trains in float32: the code is the same.
#
# ### A step with no rounding
#
# Rounding hurt because two nearly equal numbers were subtracted. There is a way without subtraction (Squire and
# Trapp 1998). Take the step in the *imaginary* direction. With $(ih)^2 = -h^2$ and $(ih)^3 = -ih^3$ Taylor's
# series becomes
#
# $$ f(x + ih) = f(x) + ih f'(x) - \tfrac{h^2}{2} f''(x) - i\,\tfrac{h^3}{6} f'''(x) + \dots \;\Rightarrow\;
#    \frac{\mathrm{Im}\, f(x + ih)}{h} = f'(x) - \tfrac{h^2}{6} f'''(x) + \dots $$
#
# NumPy computes with complex numbers as willingly as with real ones. So $h$ may be as small as you like:

# %%
for h in (1e-2, 1e-5, 1e-8, 1e-20):
    error = np.max(np.abs(f(points + 1j * h).imag / h / derivatives(points)[0] - 1))
    print(f"h = {h:.0e}: error {'less than 1e-14' if error < 1e-14 else f'{error:.0e}'}")
assert error < 1e-14
slope = np.abs(2 + 1e-20j).imag / 1e-20
print(f"the slope of the absolute value at 2, in the same way: {slope:.0f}")
assert slope == 0  # it is 1

# %% [markdown]
# This holds for functions that are *analytic*, built from sums, products, `exp`, `tanh` and the like. An
# absolute value breaks it, silently, as the last line shows (its slope at 2 is 1, not 0). So we keep central
# differences, which need nothing but a forward pass, and know of a sharper instrument where a doubt remains.
#
# ## A gradient by differences
#
# For an array: one entry after the other.

# %%
show_source(eval_numerical_gradient)

# %% [markdown]
# Three details matter. The entry is perturbed *in place*, so $f$ need not take the array as its argument: it
# may be a weight somewhere inside a model. The original is *remembered*, because adding $h$, taking $2h$ away
# and adding $h$ again does not lead back. And the array must be float64, which is what NumPy gives unless told
# otherwise.

# %%
some = rng.standard_normal(10_000)
back = some.copy()
for step in (1e-5, -2e-5, 1e-5):
    back += step
print(f"numbers that do not come back: {np.mean(back != some):.0%}")
assert np.mean(back != some) > 0.3

numerical = eval_numerical_gradient(loss_of, U)
print(numerical)
assert np.allclose(numerical, dU, rtol=0, atol=1e-6)

# %% [markdown]
# The whole numbers of the beginning. The price: two forward passes for each number. A captioner with 541,353
# parameters, as the README trains one, would need 1,082,706 of them. But a gradient check does not need a large
# model: the code is the same for 5 units and for 512. Check small.
#
# If you must check a large one, move *all* parameters $\theta_i$ at once, along a random direction $r$. By the
# chain rule the loss grows by $\sum_i r_i\, d\theta_i$ times the length of the step. That takes two forward passes in all. They tell *that*
# something is wrong, not where, and a fault in a few of many entries hardly shows. Here for a small captioner
# with an LSTM:

# %%
words = ("<NULL>", "<START>", "<END>", "<UNK>", "a", "red", "circle")
model = CaptioningRNN(
    {word: i for i, word in enumerate(words)}, input_dim=20, wordvec_dim=6, hidden_dim=10,
    cell_type="lstm", dtype=np.float64, rng=np.random.default_rng(0),
)  # fmt: skip


def batch(seed):
    """Random features and captions."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 20)), rng.integers(1, len(words), size=(4, 13))


_, gradients = model.loss(*batch(0))
start = {name: value.copy() for name, value in model.params.items()}
r = {name: rng.standard_normal(value.shape) for name, value in start.items()}
losses = []
for step in (1e-6, -1e-6):
    for name, value in start.items():
        model.params[name] = value + step * r[name]
    losses.append(model.loss(*batch(0))[0])
model.params.update(start)
growth = (losses[0] - losses[1]) / 2e-6
predicted = sum(np.vdot(r[name], gradients[name]) for name in r)
number = sum(value.size for value in start.values())
print(f"all {number} parameters at once: measured {growth:.5f}, predicted {predicted:.5f}")
assert abs(growth - predicted) < 1e-5 * abs(predicted)

# %% [markdown]
# ## From an array to a number: the random upstream
#
# A layer returns an array, and differences need a number. The trick that all good checks share: draw an
# upstream gradient `dout` at random and take
#
# $$ \varphi(x) = \sum_j \mathrm{out}_j(x)\; \mathrm{dout}_j, \qquad
#    \frac{\partial \varphi}{\partial x_i} = \sum_j \mathrm{dout}_j\, J_{ji} $$
#
# The gradient of that number *is* the vector-Jacobian product that the backward should return when it is given
# `dout`. So compare the two:

# %%
show_source(eval_numerical_gradient_array)

# %% [markdown]
# **Why random?** Say the backward behaves as if the Jacobian were $J + E$ with some error $E$. Then it is off
# by $\mathrm{dout}\, E$. A check sees that, unless $\mathrm{dout}$ happens to stand at a right angle to every
# column of $E$. For a given direction, all ones for instance, there are many such errors, and we will meet
# them. A direction drawn at random from all directions stands at a right angle to a given column with
# probability zero. So a random upstream sees every $E$, but for rounding.
#
# ### An example, derived: the softmax
#
# The softmax turns scores into weights that are positive and sum to 1: $w_k = e^{s_k} / Z$ with
# $Z = \sum_j e^{s_j}$. By the rule for quotients, with $\delta_{kj} = 1$ where $k = j$ and 0 elsewhere:
#
# $$ \frac{\partial w_k}{\partial s_j} = \frac{\delta_{kj}\, e^{s_k} Z - e^{s_k} e^{s_j}}{Z^2}
#    = w_k (\delta_{kj} - w_j) $$
#
# The vector-Jacobian product, one entry, then all:
#
# $$ ds_j = \sum_k dw_k\, w_k (\delta_{kj} - w_j) = w_j \Bigl( dw_j - \sum_k dw_k\, w_k \Bigr), \qquad
#    ds = w \odot \Bigl( dw - \sum_k dw_k\, w_k \Bigr) $$
#
# of the shape of $s$. On paper: the scores $(0, \ln 2, 0)$ have the weights $(\frac14, \frac12, \frac14)$. With
# $dw = (4, 0, 0)$ the sum is 1, and $ds = (\frac14 \cdot 3, \frac12 \cdot (-1), \frac14 \cdot (-1))$.

# %%
show_source(softmax, softmax_backward)

# %%
s, dw = np.array([[0.0, np.log(2), 0.0]]), np.array([[4.0, 0.0, 0.0]])
print("weights", softmax(s), " ds", softmax_backward(dw, softmax(s)))
assert np.allclose(softmax_backward(dw, softmax(s)), [[0.75, -0.5, -0.25]])

s, dw = rng.standard_normal((4, 5)), rng.standard_normal((4, 5))
numerical = eval_numerical_gradient_array(softmax, s, dw)
# The length of the difference over the length of the gradient; more of that below.
error = relative_error(softmax_backward(dw, softmax(s)), numerical)
print(
    f"random scores, random upstream: error {'less than 1e-8' if error < 1e-8 else error}"
)
assert error < 1e-8

# %% [markdown]
# ### The rules that every backward is made of
#
# All follow from $dx_i = \sum_j dy_j J_{ji}$: ask who reads an entry, and collect from all readers.
#
# | forward | who reads | backward |
# | --- | --- | --- |
# | $y = x\,W$ | $x_{nd}$ is read by its whole row of $y$ | $dx = dy\,W^T$ |
# | | $W_{dj}$ is read by every row | $dW = x^T dy$ |
# | $y = x + b$, one $b$ for all rows | $b_j$ is read by every row | $db = \sum_n dy_n$ |
# | $y = \sum_n x_n$ | each row is read once | every $dx_n = dy$ |
# | $y = g(x)$, entry by entry | each entry once | $dx = dy \odot g'(x)$ |
# | $y = x \odot z$ | each entry once | $dx = dy \odot z$ |
# | $x$ goes to $y$ and to $z$ | both | $dx$ from $y$ plus $dx$ from $z$ |
# | $y_n = W_{k_n}$, a look-up | row $k$ is read wherever $k_n = k$ | $dW_k = \sum_{n:\, k_n = k} dy_n$ |
#
# Two of them with indices. In $y_{nj} = \sum_d x_{nd} W_{dj}$ the weight $W_{dj}$ is multiplied by $x_{nd}$, in
# every row $n$; so $dW_{dj} = \sum_n x_{nd}\, dy_{nj}$, which is $x^T dy$. In $y_{nj} = x_{nj} + b_j$ all rows
# $n$ read the same $b_j$ with slope 1; so $db_j = \sum_n dy_{nj}$. A copy forward is a sum backward, and a sum
# forward is a copy backward. Not on faith:

# %%
X, W, Z, b = (rng.standard_normal(shape) for shape in ((4, 3), (3, 5), (4, 3), (3,)))
ids = np.array([2, 0, 2, 2])


def rows_added(dy):
    dW = np.zeros_like(W)
    for n, k in enumerate(ids):
        dW[k] += dy[n]
    return dW


rules = {
    "x W, for x": (lambda X: X @ W, X, lambda dy: dy @ W.T),
    "x W, for W": (lambda W: X @ W, W, lambda dy: X.T @ dy),
    "x + b, for b": (lambda b: X + b, b, lambda dy: dy.sum(axis=0)),
    "sum of the rows": (lambda X: X.sum(axis=0), X, lambda dy: np.tile(dy, (4, 1))),
    "tanh": (np.tanh, X, lambda dy: dy * (1 - np.tanh(X) ** 2)),
    "x times z": (lambda X: X * Z, X, lambda dy: dy * Z),
    "read twice": (
        lambda X: np.tanh(X) + X * Z,
        X,
        lambda dy: dy * (1 - np.tanh(X) ** 2) + dy * Z,
    ),
    "look-up": (lambda W: W[ids], W, rows_added),
}
for name, (forward, value, backward) in rules.items():
    dy = rng.standard_normal(forward(value).shape)
    error = relative_error(backward(dy), eval_numerical_gradient_array(forward, value, dy))
    print(f"{name:<18}{'holds, to 1e-8' if error < 1e-8 else f'off by {error:.1e}'}")
    assert error < 1e-8

# %% [markdown]
# ## How wrong is wrong?
#
# Two gradients from two sources are never equal to the last digit. So a check needs a measure of difference and
# a limit. `core` takes the **norm-relative error**, the length of the difference over the length of what is
# right:
#
# $$ \frac{\lVert \mathrm{got} - \mathrm{expected} \rVert}{\lVert \mathrm{expected} \rVert} $$

# %%
show_source(relative_error)

# %% [markdown]
# (`floor` is for gradients that are 0 but for rounding: something must stand in the denominator.)
#
# More common is the **element-wise** relative error, and of all entries the largest:
# $\max_i \lvert a_i - b_i \rvert / (\lvert a_i \rvert + \lvert b_i \rvert)$. It looks stricter: every single
# entry has to be right. Here are both, for the captioner above, its 240 weights from a word to the LSTM, and
# two random batches. The code is right. The step is $10^{-6}$, as in many a course.


# %%
def elementwise_error(a, b):
    return np.max(np.abs(a - b) / np.maximum(1e-8, np.abs(a) + np.abs(b)))


of_right_code = []
for seed in range(2):
    loss, gradients = model.loss(*batch(seed))
    right = gradients["Wx"]
    numerical = eval_numerical_gradient(
        lambda _, seed=seed: model.loss(*batch(seed))[0], model.params["Wx"], h=1e-6
    )
    errors = elementwise_error(right, numerical), relative_error(right, numerical)
    of_right_code.append(errors)
    print(f"right code: element-wise {errors[0]:.0e}, norm-relative {errors[1]:.0e}")
    assert errors[0] > 30 * errors[1] and errors[1] < 1e-6

size, absolute = np.abs(right), np.abs(right - numerical)  # of the last batch
plt.loglog(size.ravel(), (absolute / (2 * size)).ravel(), ".", label="each entry")
ends = np.array([size.min(), size.max()])
plt.loglog(
    ends, np.median(absolute) / (2 * ends), color="grey", label="one absolute error for all"
)
plt.axhline(errors[1], color="C1", label="norm-relative error")
plt.gca().set(xlabel="size of the gradient's entry", ylabel="element-wise relative error")
plt.legend()
plt.show()
print(
    f"loss {loss:.0f}; absolute error of an entry, in the median: {np.median(absolute):.0e}"
)

# %% [markdown]
# Every entry is off by about the same *absolute* amount. That is the rounding of the loss,
# $u\,\lvert f \rvert / h$ from above: $1.1 \cdot 10^{-16} \cdot 23 / 10^{-6}$ is $2.5 \cdot 10^{-9}$, and few entries are off by more.
# It does not care how large the entry is. A small entry, beside that noise, looks terrible. So the element-wise
# error says how small the smallest entry happens to be, and nothing about the code.
#
# Whoever uses it must raise the limit until right code passes; $10^{-2}$ is a common choice. What does that
# limit let through? An RNN step, $h = \tanh(a)$ with $a = x W_x + h_{\text{prev}} W_h + b$, whose backward
# forgets the derivative of the tanh. The weights of the test are small, so that the tanh is nearly a straight
# line of slope one. (`slip` makes a copy of a function of `core` with one piece of its source replaced: a
# mistake, and nothing else changed.)


# %%
def slip(function, right, wrong):
    """A copy of a function of core in which one piece of the source is another."""
    source = inspect.getsource(function)
    assert source.count(right) == 1
    namespace = dict(vars(inspect.getmodule(function)))
    exec(source.replace(right, wrong), namespace)
    return namespace[function.__name__]


no_derivative = slip(rnn_step_backward, "da = dnext_h * (1 - next_h**2)", "da = dnext_h")


def errors_of_dWx(backward, scale):
    """Element-wise and norm-relative, for weights of that size."""
    shapes = (4, 3), (4, 5), (3, 5), (5, 5), (4, 5)
    rng = np.random.default_rng(0)
    x, prev_h, Wx, Wh, dnext_h = (rng.standard_normal(shape) for shape in shapes)
    inputs = x, prev_h, scale * Wx, scale * Wh, np.zeros(5)
    got = backward(dnext_h, rnn_step_forward(*inputs)[1])[2]
    numerical = eval_numerical_gradient_array(
        lambda _: rnn_step_forward(*inputs)[0], inputs[2], dnext_h
    )
    return elementwise_error(got, numerical), relative_error(got, numerical)


wrong = errors_of_dWx(no_derivative, scale=0.002)
plain = errors_of_dWx(no_derivative, scale=0.5)
for label, errors in (("wrong code", wrong), ("with ordinary weights", plain)):
    print(f"{label}: element-wise {errors[0]:.0e}, norm-relative {errors[1]:.0e}")
assert wrong[0] < max(element_wise for element_wise, _ in of_right_code)
assert max(norm_wise for _, norm_wise in of_right_code) < 1e-6 < wrong[1] and plain[1] > 0.1

# %% [markdown]
# Element by element the wrong code looks *better* than the right one, and no limit tells them apart. By the
# norm there are two orders of magnitude between them, and the limit of $10^{-6}$ stands in the middle. (With
# ordinary weights anybody would have noticed. Small ones hide whatever makes a layer nonlinear.)
#
# `np.allclose` has a trap of its own. Its absolute tolerance is $10^{-8}$, so any gradient that is smaller than
# that equals zero. A mean over many pixels, or a long way back through time, is all it takes:

# %%
tiny = 1e-9 * rng.standard_normal((4, 5))
zeros = np.zeros_like(tiny)
print("np.allclose(zeros, the true gradient):", np.allclose(zeros, tiny))
print("norm-relative error:", relative_error(zeros, tiny))
assert np.allclose(zeros, tiny) and relative_error(zeros, tiny) == 1

# %% [markdown]
# What does the norm not see? If one of $n$ entries of much the same size is wrong altogether, the norm-relative
# error is about $1/\sqrt{n}$: a thousandth for a million entries, far above the limit. Only an entry that is a million times smaller than the length of the whole array could hide (among a million
# equal ones: a thousand times smaller than they are). That is why each array is compared by itself, and why a
# second witness, further down, agrees to $10^{-15}$.
#
# ## False alarms: right code that fails
#
# Before we come to wrong code that passes, three ways in which right code does not.
#
# **A kink.** $\max(0, x)$ has no derivative at 0. Closer to it than $h$, differences see both sides.

# %%
near = np.array([3e-6])
slope = eval_numerical_gradient(lambda x: np.maximum(0, x).sum(), near)[0]
print(f"max(0, x) at 3e-6: the slope is 1, differences say {slope:.2f}")
assert 0.6 < slope < 0.7

# %% [markdown]
# (By hand: $(1.3 \cdot 10^{-5} - 0) / (2 \cdot 10^{-5}) = 0.65$.) Random inputs are rarely so close; if one
# entry of many fails, look where it stands.
#
# **Dice.** A layer that draws at random, such as dropout (here it sets each number to 0 with probability 1/2
# and doubles the rest), is another function at every call, and
# $f(x + h) - f(x - h)$ is no small number. Let it draw the same each time.

# %%
X = rng.standard_normal((4, 3))
dice = np.random.default_rng(0)
rolled = eval_numerical_gradient(lambda x: dropout_forward(x, 0.5, dice)[0].sum(), X)
same = eval_numerical_gradient(
    lambda x: dropout_forward(x, 0.5, np.random.default_rng(0))[0].sum(), X
)
print(
    f"largest entry: {np.abs(rolled).max():.0e} rolled anew, {same.max():.0f} with one mask"
)
assert np.abs(rolled).max() > 1e3 and np.isclose(same.max(), 2)

# %% [markdown]
# **Single precision.** The right code, in float32 throughout. At $h = 10^{-5}$ most of the step is lost to
# rounding, and `eval_numerical_gradient` refuses; a larger step gives four digits, no more.


# %%
def error_in(dtype, h):
    rng = np.random.default_rng(1)
    shapes = (4, 3), (4, 5), (3, 5), (5, 5), (5,), (4, 5)
    *inputs, dnext_h = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    got = rnn_step_backward(dnext_h, rnn_step_forward(*inputs)[1])[2]
    numerical = eval_numerical_gradient_array(
        lambda _: rnn_step_forward(*inputs)[0], inputs[2], dnext_h, h=h
    )
    return relative_error(got, numerical)


for dtype, h in ((np.float32, 1e-5), (np.float32, 5e-3), (np.float64, 1e-5)):
    try:
        error = error_in(dtype, h)
        said = "error less than 1e-8" if error < 1e-8 else f"error {error:.0e}"
    except ValueError as refusal:
        said = f"refused.\n    {refusal}"
    print(f"{dtype.__name__}, h = {h:.0e}: {said}")
assert error < 1e-8

# %% [markdown]
# ## Ten ways to be approved
#
# Now the dangerous side. Each of the following backward passes is **wrong**, and each passes a check that looks
# sound: differences, float64, a tight limit. Beside it stands the check that catches it. First the check
# itself, for any layer. (A gradient that is 0 but for rounding is measured against a thousandth of the
# upstream.)


# %%
def worst_error(forward, backward, inputs, *upstream):
    """The largest norm-relative error of a backward's gradients, by central differences."""
    *_, cache = forward(*inputs)
    gradients = backward(*(dout.copy() for dout in upstream), cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)

    def objective(_):
        *outputs, _ = forward(*inputs)
        return sum(np.sum(out * dout) for out, dout in zip(outputs, upstream, strict=True))

    floor = 1e-3 * max(np.linalg.norm(dout) for dout in upstream)
    numerical = [eval_numerical_gradient(objective, value) for value in inputs]
    pairs = zip(gradients, numerical, strict=True)
    return max(relative_error(got, expected, floor) for got, expected in pairs)


verdicts = {}  # for each mistake the error under a bad check, and under a good one


def both_checks(mistake, bad, good):
    """bad and good: what is checked with, and the error that was found."""
    verdicts[mistake] = bad[1], good[1]
    for name, error in (bad, good):
        said = "approved, error below 1e-6" if error < 1e-6 else f"WRONG, error {error:.2f}"
        print(f"{name:<28}{said}")
    assert bad[1] < 1e-6 and good[1] > 1e-2


randn = np.random.default_rng(0).standard_normal

# %% [markdown]
# **1. Ones upstream.** The tempting objective is `out.sum()`, that is, an upstream of ones. For the softmax,
# all $dw_k = 1$ give $ds_j = w_j (1 - \sum_k w_k) = 0$: the weights always sum to 1, so nothing changes their
# sum. A backward that returns zeros is approved, whatever the scores are.


# %%
def softmax_forward(s):
    weights = softmax(s)
    return weights, weights


def zeros_backward(dweights, weights):
    return np.zeros_like(weights)


s = randn((4, 5))
both_checks(
    "ones upstream",
    ("ones upstream", worst_error(softmax_forward, zeros_backward, (s,), np.ones((4, 5)))),
    ("random upstream", worst_error(softmax_forward, zeros_backward, (s,), randn((4, 5)))),
)

# %% [markdown]
# **2. One key.** Attention reads values $v$ with weights $w = \mathrm{softmax}(q\,k^T / \sqrt{d})$, one for
# each key ([lesson 9](09_multi_head_attention.ipynb)). With one key there is one weight, $w = 1$, and what
# flows back through the softmax is $w\,(dw - dw\,w) = 0$, whatever $q$ and $k$ are. Any factor may be missing
# from 0. Here it is the $1/\sqrt{d}$. Captioners that attend to a single vector for the whole image are in that
# very state, and not only in a check.

# %%
no_scale = slip(scaled_dot_product_attention_backward, " * q.shape[-1] ** -0.5", "")


def attention_error(backward, keys, queries=3, d=4):
    shapes = ((2, 1, rows, d) for rows in (queries, keys, keys, queries))
    q, k, v, dout = map(randn, shapes)
    return worst_error(scaled_dot_product_attention_forward, backward, (q, k, v), dout)


both_checks(
    "one key",
    ("one key", attention_error(no_scale, keys=1)),
    ("three keys", attention_error(no_scale, keys=3)),
)

# %% [markdown]
# **3. Sizes that are equal.** The scale again, now with $1/\sqrt{T}$ for $T$ queries where $1/\sqrt{d}$
# belongs: two neighbouring entries of a shape, confused. With $T = d$ there is nothing to see. Distinct sizes
# cost nothing.

# %%
wrong_axis = slip(scaled_dot_product_attention_backward, "q.shape[-1]", "q.shape[-2]")
both_checks(
    "equal sizes",
    ("4 queries of width 4", attention_error(wrong_axis, keys=5, queries=4, d=4)),
    ("3 queries of width 4", attention_error(wrong_axis, keys=5, queries=3, d=4)),
)

# %% [markdown]
# **4. A matrix that is its own transpose.** An RNN step owes $dh_{\text{prev}} = da\, W_h^T$. Without the
# transpose the shapes fit: $W_h$ is square whatever sizes you choose. And if the test takes an identity, or any
# symmetric matrix, because it is easy to follow, the numbers fit as well.

# %%
no_transpose = slip(rnn_step_backward, "dprev_h = da @ Wh.T", "dprev_h = da @ Wh")


def rnn_step_error(backward, Wh, N=4, D=3, H=5):
    inputs = randn((N, D)), randn((N, H)), 0.5 * randn((D, H)), Wh, randn(H)
    return worst_error(rnn_step_forward, backward, inputs, randn((N, H)))


random_Wh = 0.5 * randn((5, 5))
both_checks(
    "symmetric weights",
    ("identity weights", rnn_step_error(no_transpose, np.eye(5))),
    ("random weights", rnn_step_error(no_transpose, random_Wh)),
)

# %% [markdown]
# **5. A batch of one.** The bias serves all rows, so its gradient is a sum over them. With one row the sum is
# that row. Here it is left out.

# %%
one_row = slip(rnn_step_backward, "db = da.sum(axis=0)", "db = da[0]")
both_checks(
    "a batch of one",
    ("one row", rnn_step_error(one_row, random_Wh, N=1)),
    ("four rows", rnn_step_error(one_row, random_Wh, N=4)),
)

# %% [markdown]
# **6. The same weights for all.** An LSTM step ([lesson 6](06_the_lstm.ipynb)) cuts one sum of products,
# $x W_x + h_{\text{prev}} W_h + b$, into four blocks, the gates $i, f, o, g$. This backward confuses the blocks
# $i$ and $f$ on the way to $x$. If the four blocks of $W_x$ are equal, because the test tiled one array,
# nothing is confused.

# %%
swapped = slip(
    lstm_step_backward,
    "dx = da @ Wx.T",
    "dx = np.concatenate([da_f, da_i, da_o, da_g], axis=1) @ Wx.T",
)


def lstm_step_error(backward, Wx, state=1, N=3, D=4, H=5):
    states = state * randn((N, H)), state * randn((N, H))
    inputs = randn((N, D)), *states, Wx, 0.5 * randn((H, 4 * H)), randn(4 * H)
    return worst_error(lstm_step_forward, backward, inputs, randn((N, H)), randn((N, H)))


random_Wx, equal_blocks = 0.5 * randn((4, 20)), np.tile(0.5 * randn((4, 5)), 4)
both_checks(
    "equal weights",
    ("four equal blocks", lstm_step_error(swapped, equal_blocks)),
    ("four different blocks", lstm_step_error(swapped, random_Wx)),
)

# %% [markdown]
# **7. The first step only.** A recurrent layer starts from states of zeros, so a test of one step often starts
# there. Everything that is multiplied by a state is then 0. This backward has lost the gradient of the forget
# gate $f$, which the LSTM multiplies by its old state.

# %%
no_forget = slip(
    lstm_step_backward,
    "df, dprev_c = dc * prev_c, dc * f",
    "df, dprev_c = 0 * prev_c, dc * f",
)
both_checks(
    "states of zeros",
    ("states of zeros", lstm_step_error(no_forget, random_Wx, state=0)),
    ("random states", lstm_step_error(no_forget, random_Wx, state=1)),
)

# %% [markdown]
# **8. No word twice.** A look-up reads row $k$ of $W$ at each use of word $k$, so the gradients of all its uses
# add up. An assignment keeps the last one. And `dW[ids] += dout` is no better: NumPy reads all rows first, then
# adds, then writes, and the last write wins. `np.add.at` adds one use after the other; `core` takes that.


# %%
def assigning_backward(dout, cache):
    ids, W = cache
    dW = np.zeros_like(W)
    dW[ids] = dout
    return dW


def adding_backward(dout, cache):
    ids, W = cache
    dW = np.zeros_like(W)
    dW[ids] += dout  # looks like a sum, and is none
    return dW


def embedding_error(backward, ids):
    ids = np.array(ids)
    return worst_error(
        lambda W: (W[ids], (ids, W)), backward, (randn((7, 3)),), randn((2, 3, 3))
    )


once, repeated = [[0, 3, 1], [4, 2, 5]], [[0, 3, 0], [4, 2, 4]]
for backward in (assigning_backward, adding_backward):
    print(backward.__name__)
    both_checks(
        "no word twice",
        ("  each word once", embedding_error(backward, once)),
        ("  words repeat", embedding_error(backward, repeated)),
    )
assert embedding_error(word_embedding_backward, repeated) < 1e-8

# %% [markdown]
# **9. Damage.** Back-propagation through time adds to the gradient of a step what flows back from the next one
# ([lesson 5](05_the_vanilla_rnn.ipynb)). But `dh[:, t]` is a *view*, and `dh[:, t] += dprev_h` writes through it
# into the caller's array. The gradients that come back are right, so a check that calls once approves. Whoever
# reads `dh` afterwards gets something else: here the same backward, called a second time.

# %%
writing_backward = slip(
    rnn_backward,
    "dh[:, t] + dprev_h",
    "np.add(dh[:, t], dprev_h, out=dh[:, t])",  # dh[:, t] += dprev_h, as an expression
)
inputs = randn((3, 6, 2)), randn((3, 4)), 0.7 * randn((2, 4)), 0.7 * randn((4, 4)), randn(4)
dh = randn((3, 6, 4))
_, cache = rnn_forward(*inputs)
given = dh.copy()
first, second = (writing_backward(given, cache) for _ in range(2))
pairs = zip(second, first, strict=True)
both_checks(
    "damage",
    ("one call", worst_error(rnn_forward, writing_backward, inputs, dh)),
    ("two calls", max(relative_error(again, before) for again, before in pairs)),
)

given = dh.copy()
for_torch = torch.from_numpy(given)  # a view as well
writing_backward(given, cache)
print("what PyTorch was given has changed, too:", not np.array_equal(for_torch.numpy(), dh))
assert not np.array_equal(for_torch.numpy(), dh)

# %% [markdown]
# The last line is the nastiest: `torch.from_numpy` shares the memory, so the damage reaches the witness that we
# are about to call. A good check keeps copies of all that it hands out, and compares afterwards. `check`, of
# which more below, does:

# %%
report = check("rnn_backward", writing_backward)
assert not report
report

# %% [markdown]
# **10. A forward that is wrong in the same way.** Differences ask whether the backward belongs to *your*
# forward. They cannot know what the forward should have been. Leave the scale of attention out of both:

# %%
no_scale_forward = slip(scaled_dot_product_attention_forward, " * q.shape[-1] ** -0.5", "")
*arrays, dout = (randn((2, 1, rows, 4)) for rows in (3, 5, 5, 3))  # q, k, v
out, _ = no_scale_forward(*arrays)
expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, arrays))
both_checks(
    "its own forward",
    ("differences", worst_error(no_scale_forward, no_scale, arrays, dout)),
    ("PyTorch's attention", relative_error(out, expected.numpy())),
)

# %% [markdown]
# All ten, the same wrong code under two checks:

# %% tags=["picture"]
places = np.arange(len(verdicts))
bad, good = np.maximum(list(verdicts.values()), 1e-12).T
_, ax = plt.subplots(figsize=(9, 4.2))
ax.hlines(places, bad, good, color="grey", linewidth=1)
ax.plot(bad, places, "o", color="C1", label="the bad check")
ax.plot(good, places, "o", color="C0", label="the good check")
ax.axvline(1e-6, color="black", linestyle=":", label="limit")
ax.set_yticks(places, [f"{i}. {name}" for i, name in enumerate(verdicts, 1)])
ax.set(xscale="log", xlabel="error that the check finds", xlim=(1e-12, 10))
ax.invert_yaxis()
ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
plt.show()
assert len(verdicts) == 10

# %% [markdown]
# Nothing subtle separates the two: a random array in the place of a simple one, a second row, a word that
# repeats, a copy. In one sentence: **a check sees only what its inputs make visible, so make everything
# different, random, and used more than once.** The tenth alone takes more than that: somebody who did not use your
# forward.
#
# ## A second witness: autograd
#
# PyTorch derives gradients by itself. Every operation that you apply to its tensors is recorded, and its own
# backward passes, written by other people, run in reverse. In float64 the result is exact but for rounding. The
# two layers of the beginning:

# %%
tx, tU, tv = (torch.tensor(value, requires_grad=True) for value in (x, U, v))
loss = 0.5 * ((torch.relu(tx @ tU) @ tv - y) ** 2).sum()
loss.backward()
print("dU =", tU.grad.tolist(), " dx =", tx.grad.tolist())
for tensor, gradient in ((tx, dx), (tU, dU), (tv, dv)):
    assert np.array_equal(tensor.grad.numpy(), gradient)

# %% [markdown]
# And an RNN step, in both precisions. (`torch.tensor([1.0, 2.0])`, made from a Python list, is float32: a
# common way to lose half of the digits without noticing. From a float64 array it is float64.)

# %%
shapes = (4, 3), (4, 5), (3, 5), (5, 5), (5,), (4, 5)
rng = np.random.default_rng(1)
arrays = [rng.standard_normal(shape) for shape in shapes]
ours = rnn_step_backward(arrays[-1], rnn_step_forward(*arrays[:-1])[1])
for dtype in (torch.float32, torch.float64):
    tx, th, tWx, tWh, tb, dout = (torch.tensor(array, dtype=dtype) for array in arrays)
    leaves = [t.requires_grad_() for t in (tx, th, tWx, tWh, tb)]
    theirs = torch.autograd.grad(torch.tanh(tx @ tWx + th @ tWh + tb), leaves, dout)
    error = max(relative_error(a, b.numpy()) for a, b in zip(ours, theirs, strict=True))
    said = "less than 1e-14" if error < 1e-14 else f"about {error:.0e}"
    print(f"our backward in float64, PyTorch's in {str(dtype)[6:]}: {said}")
assert error < 1e-14
assert torch.tensor([1.0, 2.0]).dtype == torch.float32

# %% [markdown]
# The two witnesses do not know the same things:
#
# | | central differences | autograd |
# | --- | --- | --- |
# | needs | your forward, nothing else | the layer once more, in PyTorch |
# | agrees to | about $10^{-10}$ | about $10^{-15}$ |
# | cost | two forward passes a number | one backward pass |
# | a wrong forward | not seen | seen |
# | kinks | false alarms | none |
#
# So `core` asks both, with limits of $10^{-6}$ and $10^{-10}$. A witness has to be independent: a PyTorch
# version that is translated from your forward, line by line, repeats its mistakes. That of `core` is made of
# PyTorch's own layers wherever there are any.
#
# ## `check`, and its three hints
#
# `check(name, function)` puts your function in the place of the one of that name in `core`. It draws inputs
# with sizes that all differ, random weights and states, repeated words, masks with gaps; a random upstream;
# compares every output with PyTorch's and every gradient with both witnesses; and looks whether anything was written over.
# When all is well it says so:

# %%
report = check("rnn_step_backward", rnn_step_backward)
assert report
report

# %% [markdown]
# And the transpose that was forgotten above? The first hint names the first wrong gradient, the likely mistake
# and the worst entry. The second quotes the line of the forward; the third shows our line of the backward.

# %%
report = check("rnn_step_backward", no_transpose)
assert not report
report

# %%
report = check("rnn_step_backward", no_transpose, hint=3)
assert "Hint 2" in repr(report) and "Hint 3" in repr(report)
report

# %% [markdown]
# *First* matters: gradients flow, and what is wrong early makes all that comes after it wrong as well. Mend one, and look again. (The
# report goes through the gradients in the order of the return; where all are wrong, the mistake is in a line that
# all of them pass.)
#
# The same from the command line, for a file of your own. Every function in it that has a name of `core` is
# checked in its place. Here the file is written to a temporary folder, once with the slip and once without:

# %%
MINE = """
    def rnn_step_backward(dnext_h, cache):
        x, prev_h, Wx, Wh, next_h = cache
        da = dnext_h * {derivative}
        return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)
"""
command = [sys.executable, "-m", "core.gradient_check", "--impl", "my_layers.py"]
environment = {**os.environ, "PYTHONPATH": str(lessons.ROOT)}  # where core lies
for derivative in ("next_h", "(1 - next_h**2)"):
    with tempfile.TemporaryDirectory() as folder:
        code = textwrap.dedent(MINE).format(derivative=derivative)
        Path(folder, "my_layers.py").write_text(code, encoding="utf-8")
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
    print("$ python -m core.gradient_check --impl my_layers.py")
    for line in run.stdout.splitlines()[0 if run.returncode else -1 :]:
        wrapped = textwrap.wrap(line, 92, subsequent_indent="    ", break_on_hyphens=False)
        print("\n".join(wrapped))
    print(f"(exit code {run.returncode})\n")
    assert run.returncode == (1 if derivative == "next_h" else 0)

# %% [markdown]
# ## Who checks the check?
#
# A check that never fails is worth nothing, and from a row of "ok" you cannot tell. So turn it round: take a
# backward that is right, break it on purpose in every place, and count how many of the broken ones each check
# approves. This is *mutation testing* (DeMillo, Lipton and Sayward 1978). We break the LSTM step's backward,
# one sign, factor, transpose or square at a time.

# %%
CHANGES = [(" + ", " - "), (" - ", " + "), (" * ", " + "), (" * ", " / ")]
CHANGES += [(".T", ""), ("**2", "")]


def mutants(function):
    """(the changed line, the changed function) for each single change of its code."""
    head, documentation, body = inspect.getsource(function).split('"""')
    lines = body.split("\n")
    for number, line in enumerate(lines):
        places = [
            (i, old, new)
            for old, new in CHANGES
            for i in range(len(line))
            if line.startswith(old, i) and not line.lstrip().startswith("#")
        ]
        for i, old, new in places:
            changed = line[:i] + new + line[i + len(old) :]
            code = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
            namespace = dict(vars(inspect.getmodule(function)))
            exec('"""'.join([head, documentation, code]), namespace)
            yield changed.strip(), namespace[function.__name__]


broken = list(mutants(lstm_step_backward))
print(len(broken), "broken versions, for instance:")
for line, _ in broken[::14]:
    print("   ", line)
assert len(broken) > 30

# %% [markdown]
# Five judges. The first looks at the shapes alone. The second trains with the gradient, and believes it if the
# loss falls by half. The other three compare with differences: a careless check, one that only starts from zero
# states, and one that does all that we have learned.


# %%
def loss_falls(backward, steps=100):
    """Gradient descent on one LSTM step, learning rate 1: does the loss fall by half?"""
    rng = np.random.default_rng(3)
    shapes = (8, 4), (8, 5), (8, 5), (4, 20), (5, 20), (20,)
    *given, Wx, Wh, b = (0.5 * rng.standard_normal(shape) for shape in shapes)
    target, losses = np.tanh(rng.standard_normal((8, 5))), []
    for _ in range(steps):
        next_h, next_c, cache = lstm_step_forward(*given, Wx, Wh, b)
        losses.append(np.mean((next_h - target) ** 2))
        *_, dWx, dWh, db = backward((next_h - target) / 8, np.zeros_like(next_c), cache)
        Wx, Wh, b = Wx - dWx, Wh - dWh, b - db
    return losses[-1] < 0.5 * losses[0]


def difference_judge(N, D, H, state, ones, compares=True):
    """A judge that holds a backward to central differences, or to shapes alone."""
    rng = np.random.default_rng(4)
    shapes = (N, D), (N, H), (N, H), (D, 4 * H), (H, 4 * H), (4 * H,)
    inputs = [0.5 * rng.standard_normal(shape) for shape in shapes]
    inputs[1:3] = state * inputs[1], state * inputs[2]
    upstream = [np.ones((N, H)) if ones else rng.standard_normal((N, H)) for _ in range(2)]

    def objective(_):
        *outputs, _ = lstm_step_forward(*inputs)
        return sum(np.sum(out * dout) for out, dout in zip(outputs, upstream, strict=True))

    numerical = [eval_numerical_gradient(objective, value) for value in inputs]
    floor = 1e-3 * np.linalg.norm(upstream)

    def judge(backward):
        got = backward(*(dout.copy() for dout in upstream), lstm_step_forward(*inputs)[-1])
        if any(a.shape != b.shape for a, b in zip(got, numerical, strict=True)):
            return False
        pairs = zip(got, numerical, strict=True)
        return not compares or all(relative_error(a, b, floor) < 1e-6 for a, b in pairs)

    return judge


judges = {
    "the shapes fit": difference_judge(4, 4, 4, state=1, ones=False, compares=False),
    "the loss falls by half": loss_falls,
    "differences, ones, sizes 1, zero states": difference_judge(1, 1, 1, 0, ones=True),
    "differences, zero states": difference_judge(3, 4, 5, 0, ones=False),
    "differences, all random": difference_judge(3, 4, 5, 1, ones=False),
}


def approves(judge, backward):
    try:
        with np.errstate(all="ignore"):
            return bool(judge(backward))
    except ValueError:  # shapes that do not fit
        return False


approved = {
    name: sum(approves(judge, backward) for _, backward in broken)
    for name, judge in judges.items()
}
assert all(approves(judge, lstm_step_backward) for judge in judges.values())

figure, ax = plt.subplots(figsize=(9, 2.8))
ax.barh(list(approved), list(approved.values()), color="C1")
for place, count in enumerate(approved.values()):
    ax.text(count + 0.4, place, count, va="center")
ax.set(xlabel=f"wrong backward passes approved, of {len(broken)}", xlim=(0, len(broken)))
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
plt.show()
assert approved["the shapes fit"] > approved["the loss falls by half"] >= 5
assert approved["differences, zero states"] > 0
assert approved["differences, all random"] == 0

# %% [markdown]
# (Every judge approves the right backward, the asserts say; that is not the difference.) Nearly half of the wrong gradients make the loss fall by half. (Two of the 19 are wrong only in a gradient that this
# training never uses; the other 17 move the weights by wrong gradients.) *It trains* is next to no evidence. A careless gradient check lets
# a few through, and which ones is no accident. Those that zero states let through:

# %%
from_zero = judges["differences, zero states"]
for line, backward in broken:
    if approves(from_zero, backward):
        print(line)

# %% [markdown]
# All are in the middle term, the forget gate's, which a state of zeros switches off. With random states nothing
# is let through. The tests of this project damage every gradient of every layer in several ways, and demand
# that the check goes red each time.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/02_gradients_you_can_trust.ipynb); the notebook tells you at
# once whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · Two steps are better than one (one line)
#
# The central difference with step $h$ is $D(h) = f' + c\,h^2 + O(h^4)$. So $D(2h) = f' + 4\,c\,h^2 + O(h^4)$.
# Combine the two so that $c\,h^2$ cancels and $f'$ stays (Richardson 1911). The error then falls with $h^4$.


# %% tags=["exercise"]
def extrapolated(D, h):
    """D is a function: D(h) is the central difference with step h."""
    ### BEGIN SOLUTION
    return (4 * D(h) - D(2 * h)) / 3
    ### END SOLUTION


points = np.array([1.0, 2.0, 3.0])


def difference_of_cubes(h):
    """Of x^3; here D(h) is 3 x^2 + h^2 exactly, so nothing should be left of the error."""
    return ((points + h) ** 3 - (points - h) ** 3) / (2 * h)


compare(
    extrapolated,
    lambda D, h: 3 * points**2,
    difference_of_cubes,
    0.5,
    tolerance=1e-13,
    also={"for another step": (difference_of_cubes, 2.0)},
    exercise="02.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Three slips
#
# The backward below of $h_{\text{next}} = \tanh(x W_x + h_{\text{prev}} W_h + b)$ has three mistakes. Find them
# by the report, one after the other, and write the function anew. (`check(..., hint=2)` and `hint=3` say more.)


# %% tags=["exercise"]
def faulty_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, next_h = cache
    da = dnext_h * (1 - next_h)
    dx = da @ Wx.T
    dprev_h = da @ Wh
    dWx = x.T @ da
    dWh = prev_h.T @ da
    db = da.mean(axis=0)
    return dx, dprev_h, dWx, dWh, db


print(check("rnn_step_backward", faulty_backward))


# %% tags=["exercise"]
def mended_backward(dnext_h, cache):
    ### BEGIN SOLUTION
    x, prev_h, Wx, Wh, next_h = cache
    da = dnext_h * (1 - next_h**2)
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)
    ### END SOLUTION


check("rnn_step_backward", mended_backward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: write the check, and have it judged
#
# Write `holds(forward, backward, x)`: True when `backward(dout, x)` is the gradient of `forward(x)`, False when
# it is not. You may use `eval_numerical_gradient_array`. Nine layers will be shown to it. Two are right, and
# your check must say so; seven are wrong, each in a way of this lesson: zeros that ones would not see, an
# upstream that is forgotten, a factor of 1.001, a gradient so tiny that an absolute tolerance finds zeros good
# enough, NaN (which is neither larger nor smaller than any limit), and two backwards that write into what they
# were given, one into `dout`, one into `x`. The numbers of these two are right, even for what they have spoilt:
# compare with copies.


# %% tags=["exercise"]
def holds(forward, backward, x):
    ### BEGIN SOLUTION
    dout = np.random.default_rng(0).standard_normal(forward(x).shape)
    given = x.copy(), dout.copy()
    dx = backward(dout, x)
    if not (np.array_equal(x, given[0]) and np.array_equal(dout, given[1])):
        return False
    numerical = eval_numerical_gradient_array(forward, x, dout)
    return dx.shape == x.shape and relative_error(dx, numerical) < 1e-6
    ### END SOLUTION


# %% tags=["exercise"]
def relu(x):
    return np.maximum(0, x)


def writes_into_dout(dout, x):
    dout *= x > 0
    return dout


def writes_into_x(dout, x):
    x += 1
    return 3 * dout


def tiny_tanh(x):
    return 1e-10 * np.tanh(x)


LAYERS = {
    "right": (np.tanh, lambda dout, x: dout * (1 - np.tanh(x) ** 2)),
    "right, and tiny": (tiny_tanh, lambda dout, x: 1e-10 * dout * (1 - np.tanh(x) ** 2)),
    "zeros": (softmax, lambda dout, x: np.zeros_like(x)),
    "no upstream": (np.tanh, lambda dout, x: 1 - np.tanh(x) ** 2),
    "1.001 times": (np.tanh, lambda dout, x: 1.001 * dout * (1 - np.tanh(x) ** 2)),
    "tiny zeros": (tiny_tanh, lambda dout, x: np.zeros_like(x)),
    "NaN": (np.tanh, lambda dout, x: np.full_like(x, np.nan)),
    "writes into dout": (relu, writes_into_dout),
    "writes into x": (lambda x: 3 * x, writes_into_x),
}


def judged(check):
    """What a check says of each layer: True, False, or the name of an error."""
    found = {}
    for name, (forward, backward) in LAYERS.items():
        try:
            answer = check(
                forward, backward, np.random.default_rng(5).standard_normal((4, 3))
            )
            found[name] = answer if answer is None else bool(answer)
        except Exception as error:
            found[name] = type(error).__name__
    return None if set(found.values()) == {None} else found


confirm(
    lambda: judged(holds),
    lambda found: all(answer is name.startswith("right") for name, answer in found.items()),
    "True for the layers that are right and False for all others",
    exercise="02.3",
)

# %% [markdown]
# ## What to keep
#
# * A backward pass is a vector-Jacobian product: it gets the gradient of its output and returns that of its
#   inputs, in their shapes. Who is read twice collects twice.
# * Central differences, float64, $h = 10^{-5}$: a smaller step is worse, and float32 is hopeless.
# * A random upstream, and the norm-relative error. Element-wise errors measure the smallest entry, not the
#   code.
# * A check sees only what its inputs make visible: distinct sizes, at least two rows, three keys, repeated
#   words, states and weights that are random. Then look whether anything was written over, and ask a second
#   witness.
# * A loss that falls proves nothing. A check that was never seen to fail proves little.
#
# **Sources.** W. Squire and G. Trapp, *Using complex variables to estimate derivatives of real functions*, SIAM
# Review 40 (1998). N. Higham, *Accuracy and stability of numerical algorithms*, 2nd edition, SIAM 2002. A.
# Griewank and A. Walther, *Evaluating derivatives: principles and techniques of algorithmic differentiation*,
# 2nd edition, SIAM 2008. R. DeMillo, R. Lipton and F. Sayward, *Hints on test data selection: help for the
# practicing programmer*, Computer 11 (1978). L. F. Richardson, *The approximate arithmetical solution by finite
# differences of physical problems involving differential equations, with an application to the stresses in a
# masonry dam*, Philosophical Transactions of the Royal Society A 210 (1911). A. Paszke et al., *PyTorch: an
# imperative style, high-performance deep learning library*, NeurIPS 2019.
#
# **Next:** [lesson 3, affine, embedding and softmax](03_affine_embedding_softmax.ipynb): the first three
# layers, and their backward passes.
