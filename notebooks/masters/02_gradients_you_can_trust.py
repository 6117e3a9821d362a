# %% [markdown]
# # 2 · Gradients you can trust
#
# **The question.** You wrote the backward pass of a layer. It runs, the shapes fit, and the loss goes down. Is the
# gradient right? And if a check says "right": can you trust the check?
#
# You follow a gradient through a small network with a pencil. Then you write a gradient check yourself: numerical
# derivatives, a random direction, and a measure of "too far off". Last, you see how wrong code gets past a careless check.
#
# *Before: [lesson 1](01_the_task_and_the_data.ipynb) for the task; products of matrices, partial derivatives and the
# chain rule ([start here](00_start_here.ipynb) refreshes them). You write NumPy only. PyTorch has to be installed: one
# section asks it for a second opinion. About 50 minutes with a pencil; all cells together run in ten seconds. What goes
# further is in [2b](02b_ten_ways_a_check_lies.ipynb).*

# %% tags=["setup"]
import inspect

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
from core.layers import softmax, softmax_backward
from core.lessons import (
    BLUE,
    GREY,
    ORANGE,
    Sketch,
    compare,
    confirm,
    draw_graph,
    movable,
)
from core.rnn_layers import rnn_step_backward, rnn_step_forward

lessons.style()

# %% [markdown]
# ## By hand, with whole numbers
#
# A network of two layers reads $x$ and says one number $s$. It should have said $y$. How wrong it is, is one number
# too, the **loss** $\mathcal{L}$:
#
# $$ a = x\,U, \qquad r = \max(0, a), \qquad s = r\,v, \qquad \mathcal{L} = \tfrac{1}{2} (s - y)^2 $$
#
# Here $x$ has two numbers; $a$ and $r$ have three. Follow it with a pencil:

# %%
x = np.array([[1.0, 2.0]])  # (1, 2), one row
U = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -1.0]])  # (2, 3)
v = np.array([[1.0], [2.0], [3.0]])  # (3, 1)
y = 3.0

a = x @ U
r = np.maximum(0, a)
s = r @ v
loss = 0.5 * np.sum((s - y) ** 2)
print("a =", a, " r =", r, " s =", s, " loss =", loss)

# %% [markdown]
# Training needs to know for each weight: *if it grew a little, by how much would the loss grow?* That is
# $\partial \mathcal{L} / \partial U$, one number per weight. We write `dname` for
# $\partial \mathcal{L} / \partial\, \text{name}$. To find it, walk back from the loss, one line of the forward pass at a
# time:
#
# * $\mathcal{L} = \frac{1}{2}(s - y)^2$, so $ds = s - y = 5 - 3 = 2$.
# * $s = r_1 v_1 + r_2 v_2 + r_3 v_3$. The weight $v_j$ is multiplied by $r_j$, so $dv_j = r_j\, ds$: 6, 2, 0. And $r_j$
#   is multiplied by $v_j$, so $dr_j = v_j\, ds$: 2, 4, 6.
# * $r_j = \max(0, a_j)$ has slope 1 where $a_j > 0$ and slope 0 where $a_j < 0$. As $a_3 = -2$, the last entry of $dr$ is
#   stopped: $da$ is 2, 4, 0.
# * $a_j = x_1 U_{1j} + x_2 U_{2j}$. The weight $U_{ij}$ is multiplied by $x_i$.
#
# **Predict.** Take the last step yourself. What are the six numbers of $dU$? And all three $a_j$ *read* $x_i$: each is
# computed from it. So $dx_i$ is a sum over all three: what are the two numbers of $dx$?

# %%
ds = s - y  # (1, 1)
dv, dr = r.T @ ds, ds @ v.T  # (3, 1), (1, 3)
da = dr * (a > 0)  # (1, 3)
dU, dx = x.T @ da, da @ U.T  # (2, 3), (1, 2)
print("dU =", dU.tolist(), " dx =", dx.tolist())

# %% tags=["hide-input"]
assert (
    dv.T.tolist() == [[6, 2, 0]]
    and dr.tolist() == [[2, 4, 6]]
    and da.tolist() == [[2, 4, 0]]
)
assert dU.tolist() == [[2, 4, 0], [4, 8, 0]] and dx.tolist() == [[-2, 6]]
draw_graph(
    {
        "x": (0, 1, "$x$"), "U": (0, -1, "$U$"), "m1": (1.4, 0, "@"),
        "max": (2.9, 0, "max(0, a)"),
        "v": (4.4, -1.2, "$v$"), "m2": (4.4, 0, "@"), "L": (5.7, 0, "loss"),
    },
    [
        ("x", "m1", "[1, 2]", "[-2, 6]"), ("U", "m1", "", "[[2, 4, 0],\n [4, 8, 0]]"),
        ("m1", "max", "a = [3, 1, -2]", "[2, 4, 0]"),
        ("max", "m2", "r = [3, 1, 0]", "[2, 4, 6]"),
        ("v", "m2", "[1, 2, 3]", "[6, 2, 0]"), ("m2", "L", "s = 5", "2"),
    ],
    "Values forward (blue), gradients back (orange)",
    unit=1.4,
)  # fmt: skip

# %% [markdown]
# <details><summary>Answer</summary>
#
# $dU_{ij} = x_i\, da_j$: 2, 4, 0 in the first row and 4, 8, 0 in the second. $dx_i = \sum_j da_j\, U_{ij}$, so
# $dx_1 = 2 \cdot 1 + 4 \cdot (-1) + 0 = -2$ and $dx_2 = 2 \cdot 1 + 4 \cdot 1 + 0 = 6$.
#
# </details>
#
# The picture shows all of it as a **computational graph**: a box for each input and each operation, an arrow for each
# array.
#
# ## Ask the network itself
#
# Is that true? Let one weight grow by 0.001 and look at the loss:


# %%
def loss_of(U):
    return 0.5 * np.sum((np.maximum(0, x @ U) @ v - y) ** 2)


for i, j in ((0, 0), (1, 1)):
    nudged = U.copy()
    nudged[i, j] += 0.001
    growth = (loss_of(nudged) - loss) / 0.001
    print(f"U[{i}, {j}]: the loss grows {growth:.4f} times as much; dU says {dU[i, j]:.0f}")
    assert 0 < growth - dU[i, j] < 0.01

# %% [markdown]
# That is a **gradient check** already. It is not exact: 2.0005 is not 2. Most of the error goes away if you look on both
# sides. To see why, move $x$ by a small step $\delta$. For $f(x) = x^3$ you can multiply out; for any smooth $f$, Taylor's
# theorem gives a series of the same form:
#
# $$ \begin{aligned} (x \pm \delta)^3 &= x^3 \pm \delta \cdot 3x^2 + \delta^2 \cdot 3x \pm \delta^3 \\
#    f(x \pm \delta) &= f(x) \pm \delta f'(x) + \tfrac{\delta^2}{2} f''(x) \pm \tfrac{\delta^3}{6} f'''(x) + \dots
#    \end{aligned} $$
#
# With one side, $(f(x + \delta) - f(x)) / \delta$ is $f'(x)$ plus an error of $\tfrac{\delta}{2} f''(x)$. If you subtract
# $f(x - \delta)$ instead, $f''$ cancels. What is left is the **central difference**:
#
# $$ \frac{f(x + \delta) - f(x - \delta)}{2\delta} = f'(x) + \tfrac{\delta^2}{6} f'''(x) + \dots $$
#
# Move the step. The slope of the straight line is the estimate; the grey line has the true slope.


# %% tags=["hide-input"]
def two_slopes(step):
    f, x = (lambda x: np.exp(np.sin(x))), -0.5
    true = np.cos(x) * f(x)
    up, down = x + step, x - step
    forward, central = (f(up) - f(x)) / step, (f(up) - f(down)) / (2 * step)
    grid = np.linspace(-1.9, 1, 100)
    _, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for ax, name, slope, ends, colour in (
        (axes[0], "one side", forward, (x, up), ORANGE),
        (axes[1], "both sides", central, (down, up), BLUE),
    ):
        ax.plot(grid, f(grid), color="black", linewidth=1)
        ax.plot(grid, f(x) + true * (grid - x), color=GREY, linewidth=1, linestyle="--")
        ax.plot(grid, f(ends[0]) + slope * (grid - ends[0]), color=colour)
        ax.plot(ends, [f(end) for end in ends], "o", color=colour)
        ax.set(ylim=(0, 2.4), title=f"{name}: off by {100 * abs(slope / true - 1):.2g} %")
    assert abs(central - true) < abs(forward - true)


movable(two_slopes, {"step": 0.8}, step=(1.2, 0.8, 0.4, 0.2, 0.1, 0.01))

# %% [markdown]
# **Your turn.** Write the numerical gradient of any $f$ that turns an array into a number. Move one entry at a time, up
# and down, on copies of `x`. The code calls the step `h`. (`for index in np.ndindex(x.shape)` visits all entries.)


# %% tags=["task"]
def numerical_gradient(f, x, h=1e-5):
    """An array of the shape of x: the central difference of f for each entry."""
    ### BEGIN SOLUTION
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (f(up) - f(down)) / (2 * h)
    return gradient
    ### END SOLUTION


cubes, given = lambda x: np.sum(x**3 - x[0] * x), np.array([[1.0, -2.0], [0.3, 1.5]])
compare(numerical_gradient, eval_numerical_gradient, cubes, given, tolerance=1e-7)

# %% [markdown]
# Ours is `eval_numerical_gradient`, in `core/gradient_check/differences.py`. It does the same without copies: it moves
# the entry inside `x` itself, and puts the old value back.

# %% tags=["hide-input"]
assert np.allclose(eval_numerical_gradient(loss_of, U), dU, rtol=0, atol=1e-6)

# %% [markdown]
# ### How small a step?
#
# The error shrinks with $\delta^2$: a tenth of the step gives a hundredth of the error. **Predict**: is
# $\delta = 10^{-14}$ then better than $10^{-5}$? The figure shows the error of the central difference for
# $f(x) = e^{\sin x}$, for steps from $10^{-14}$ to 1, both axes logarithmic. Draw your curve first.

# %% tags=["picture", "hide-input"]
points = np.random.default_rng(0).uniform(0.6, 1.2, 200)


def central_error(step, dtype):
    """The median relative error at the points, computed in that precision."""
    x, step = points.astype(dtype), dtype(step)
    f = lambda x: np.exp(np.sin(x))  # noqa: E731
    exact = np.cos(points) * np.exp(np.sin(points))
    return np.median(np.abs((f(x + step) - f(x - step)) / (2 * step) / exact - 1))


best = {}
for dtype, smallest, colour in ((np.float32, -6, ORANGE), (np.float64, -14, BLUE)):
    steps = 10.0 ** np.arange(smallest, 0, 0.25)
    errors = [central_error(step, dtype) for step in steps]
    best[dtype] = steps[np.argmin(errors)], min(errors)
    plt.loglog(steps, errors, "o-", markersize=3, color=colour)
plt.text(4e-6, 0.15, "float32", color=ORANGE, fontsize=12)
plt.text(3e-12, 1e-3, "float64", color=BLUE, fontsize=12)
plt.text(3e-2, 1e-7, "step\ntoo large", color=GREY, ha="center", fontsize=11)
plt.text(3e-11, 1e-10, "rounding", color=GREY, ha="center", fontsize=11)
plt.gca().set(
    xlabel="step δ", ylabel="relative error", title="The best step is not the smallest"
)
plt.show()
for dtype, (step, error) in best.items():
    print(f"{dtype.__name__}: best step {step:.0e}, error there {error:.0e}")
assert 1e-6 < best[np.float64][0] < 2e-5 and best[np.float64][1] < 1e-10
assert central_error(1e-5, np.float64) < 2e-10 and best[np.float32][1] > 1e-5
assert central_error(1e-5, np.float32) > 1e-3
assert central_error(1e-14, np.float64) > 5e7 * central_error(1e-5, np.float64)

# %% [markdown]
# <details><summary>Answer</summary>
#
# No: the error there is a hundred million times larger. A computer keeps about 16 digits of a number in float64, and
# about 7 in float32. If $\delta$ is tiny, $f(x + \delta)$ and $f(x - \delta)$ agree in almost all of them, and the
# subtraction leaves mostly rounding errors. Dividing by $2\delta$ makes these large. From right to left the error first
# falls with $\delta^2$, then rises with $1/\delta$.
#
# </details>
#
# `core` takes $\delta = 10^{-5}$ and **float64**, which gives about ten right digits. In float32, four or five digits are
# the most you can get. So check in float64, even if the layer trains in float32: the code is the same.
# [2b](02b_ten_ways_a_check_lies.ipynb) derives the best step.
#
# ## The chain rule on arrays
#
# Now take one layer out of a network: $y = f(x)$, with arrays of any shape. (From here on, $y$ is the output of a layer.)
# It knows neither the loss nor the other layers. All it gets is $dy$, the gradient of the loss with respect to its
# output, called the **upstream gradient**. It has to return $dx$.
#
# Write all numbers of $x$ in one long row, and count them by $i$; those of $y$ by $j$. If $x_i$ moves, every $y_j$ may
# move a little, and each of them moves the loss. So we sum over all readers of $x_i$:
#
# $$ dx_i = \sum_j dy_j\, J_{ji}, \qquad J_{ji} = \frac{\partial y_j}{\partial x_i} $$
#
# The table $J$ of all these derivatives is the **Jacobian**. With the long rows, $dx = dy\,J$. So a backward pass is a
# **vector-Jacobian product**. But no backward builds $J$, because it is large and often mostly zeros.
#
# Take $y = x\,W$, where $x$ has three rows of two numbers and $W$ is $(2, 3)$. Then $y$ has three rows of three numbers,
# and $J$ is $(9, 6)$:

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
N, D, H = 3, 2, 3
X, W, dY = (rng.standard_normal(shape) for shape in ((N, D), (D, H), (N, H)))
units = np.eye(N * D).reshape(N * D, N, D)  # a 1 in each entry in turn
J = np.stack([(unit @ W).ravel() for unit in units], axis=1)
sketch = Sketch(8.4, 3.5)
sketch.text(1.1, 1.65, "$dy\\,J\\;=\\;dy$  @", size=15)
block = sketch.cells(3.7, 1.65, 0.75 * (J != 0), 0.3)
for n in range(N):
    sketch.text(2.8 + 0.6 * n + 0.3, 3.2, f"$x_{n + 1}$", BLUE)
    sketch.text(2.5, 2.55 - 0.9 * n, f"$y_{n + 1}$", BLUE)
sketch.text(6.5, 2.2, "each dark block is $W^T$", BLUE)
sketch.text(6.5, 1.65, "white: 0, because no row of $x$", GREY)
sketch.text(6.5, 1.3, "touches another row of $y$", GREY)
sketch.show()
assert J.shape == (9, 6) and np.allclose(
    (dY.ravel() @ J).reshape(N, D), dY @ W.T, rtol=0, atol=1e-14
)
assert np.array_equal(J[:3, :2], W.T) and np.all(J[3:, :2] == 0)

# %% [markdown]
# Each row of $dy$ meets its own copy of $W^T$, so $dy\,J$ is simply $dy\,W^T$. Every backward in these lessons is such a
# shortcut, found with a pencil. A wrong one does not look strange: its shapes fit, and it runs.
#
# To take the shortcut, a backward needs values from the forward pass, such as $x$ or the sign of $a$. Each forward in
# `core` returns them as a **cache**.
#
# ### The rules that every backward is made of
#
# All follow from the sum above: ask who reads an entry, and collect from all readers.
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
#
# ($\odot$ multiplies entry by entry; $x_n$ is row $n$ of $x$.) Keep this table at hand: most of the backwards to come
# are made of it.

# %% tags=["hide-input"]
X, W, Z, b = (rng.standard_normal(shape) for shape in ((4, 3), (3, 5), (4, 3), (3,)))
slope = lambda X: 1 - np.tanh(X) ** 2  # noqa: E731
rules = [
    (lambda X: X @ W, X, lambda dy: dy @ W.T),
    (lambda W: X @ W, W, lambda dy: X.T @ dy),
    (lambda b: X + b, b, lambda dy: dy.sum(axis=0)),
    (lambda X: X.sum(axis=0), X, lambda dy: np.tile(dy, (4, 1))),
    (np.tanh, X, lambda dy: dy * slope(X)),
    (lambda X: X * Z, X, lambda dy: dy * Z),
    (lambda X: np.tanh(X) + X * Z, X, lambda dy: dy * slope(X) + dy * Z),
]
for forward, value, backward in rules:
    dy = rng.standard_normal(forward(value).shape)
    numerical = eval_numerical_gradient_array(forward, value, dy)
    assert relative_error(backward(dy), numerical) < 1e-8
print(f"{len(rules)} rules agree with central differences to 1e-8")

# %% [markdown]
# ## From an array to a number: the random upstream
#
# A layer returns an array, but differences need one number. Here is a trick. (In code, a layer's output is `out` and its
# upstream gradient `dout`.) Draw `dout` at random, and *pretend* that the loss is this sum:
#
# $$ \mathcal{L}(x) = \sum_j \mathrm{out}_j(x)\; \mathrm{dout}_j, \qquad \text{so} \qquad
#    \frac{\partial \mathcal{L}}{\partial x_i} = \sum_j \mathrm{dout}_j\, J_{ji} $$
#
# The gradient of this number is the vector-Jacobian product: exactly what the backward should return when it gets
# `dout`. And differences can measure it.
#
# **Your turn.** Write it in one line, with `eval_numerical_gradient(f, x)`. The cell tries it on **softmax**, the layer
# that turns scores into positive numbers with the sum 1 ([lesson 3](03_affine_embedding_softmax.ipynb) builds it).


# %% tags=["task"]
def numerical_backward(forward, x, dout):
    """What the backward of the layer should return, by central differences."""
    ### BEGIN SOLUTION
    return eval_numerical_gradient(lambda x: np.sum(forward(x) * dout), x)
    ### END SOLUTION


dout, x = np.random.default_rng(2).standard_normal((2, 4, 5))
compare(numerical_backward, eval_numerical_gradient_array, softmax, x, dout, tolerance=1e-7)

# %% [markdown]
# Our version is called `eval_numerical_gradient_array`. But why at random? A simpler number would be `out.sum()`, an
# upstream of ones.
#
# **Predict.** A softmax returns a row of five numbers. With `dout` all ones, what is the true gradient? Which wrong
# backward would pass this check?

# %%
scores = np.random.default_rng(3).standard_normal((1, 5))
ones, drawn = np.ones((1, 5)), np.random.default_rng(4).standard_normal((1, 5))
for name, dout in (("ones:  ", ones), ("random:", drawn)):
    print(name, eval_numerical_gradient_array(softmax, scores, dout).round(6) + 0)

# %% tags=["hide-input"]
for dout in (ones, drawn):
    numerical = eval_numerical_gradient_array(softmax, scores, dout)
    right = softmax_backward(dout, softmax(scores))
    assert np.allclose(numerical, right, rtol=0, atol=1e-9)
    assert (np.abs(numerical).max() < 1e-10) == (dout is ones)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Zero. The sum is always 1, so nothing changes it. A backward that always returns zeros passes. A wrong backward may
# well be right for one special `dout`. The probability that a random `dout` is such a one is zero.
#
# </details>
#
# ## How wrong is wrong?
#
# Two gradients from two sources rarely agree to the last digit. A check needs a measure of the difference, and a limit.
# `core` takes the **norm-relative error**: the length of the difference, divided by the length of the right gradient.
# The length, or **norm** $\lVert \cdot \rVert$, is the root of the sum of all squares.
#
# $$ \frac{\lVert \mathrm{got} - \mathrm{expected} \rVert}{\lVert \mathrm{expected} \rVert} $$
#
# NumPy has a function that looks like a good measure already. **Predict**: here the true gradient is tiny, and the
# backward returns zeros. What does `np.allclose` say, and what is the norm-relative error?

# %%
expected = 1e-9 * np.random.default_rng(5).standard_normal((4, 5))
got = np.zeros((4, 5))
print("np.allclose:", np.allclose(got, expected))
print("norm-relative error:", relative_error(got, expected))
assert np.allclose(got, expected) and relative_error(got, expected) == 1

# %% [markdown]
# <details><summary>Answer</summary>
#
# `np.allclose` says True. It has an absolute tolerance of $10^{-8}$, so every smaller gradient counts as zero. The
# norm-relative error is 1, which is 100 %. It does not depend on the scale. Gradients of $10^{-9}$ do occur: a mean over many
# pixels is enough.
#
# </details>
#
# For right code in float64, expect $10^{-7}$ or less. The limit in `core` is $10^{-6}$.
#
# **Your turn.** Put the parts together: your first complete check of a layer. You need
# `eval_numerical_gradient_array(forward, x, dout)` and `relative_error(got, expected)`. Here, `backward` gets `x` itself
# in place of a cache.


# %% tags=["task"]
def error_of(forward, backward, x, dout):
    """The norm-relative error of backward(dout, x), against central differences."""
    ### BEGIN SOLUTION
    return relative_error(
        backward(dout, x), eval_numerical_gradient_array(forward, x, dout)
    )
    ### END SOLUTION


def errors_found():
    dout, x = np.random.default_rng(6).standard_normal((2, 4, 3))
    right = lambda dout, x: dout * (1 - np.tanh(x) ** 2)  # noqa: E731
    e = [error_of(np.tanh, f, x, dout) for f in (right, lambda *two: 1.5 * right(*two))]
    assert round(e[1] or 0, 6) != 0.333333, "it divides by the length of the wrong one"
    return None if None in e else e


said = "below 1e-8 for a right tanh, and 0.5 for one that is half too large"
confirm(errors_found, lambda e: 0 <= e[0] < 1e-8 and abs(e[1] - 0.5) < 1e-6, said)

# %% [markdown]
# ## How a check is deceived
#
# Differences, float64, a random upstream and a tight limit: what can still go wrong? The *inputs* of the check. Here is
# a layer of [lesson 5](05_the_vanilla_rnn.ipynb), one step of a recurrent network (RNN):
#
# $$ a = x\,W_x + h_{\text{prev}}\,W_h + b, \qquad h_{\text{next}} = \tanh(a) $$
#
# $x$ and $h_{\text{prev}}$ have one row per caption, and $W_h$ is square. We wrote three wrong backwards, each with one
# mistake:
#
# | | right | wrong |
# | --- | --- | --- |
# | no transpose | $dh_{\text{prev}} = da\,W_h^T$ | $dh_{\text{prev}} = da\,W_h$ |
# | no sum | $db$ is the sum of the rows of $da$ | $db$ is the first row of $da$ |
# | no derivative | $da = dh_{\text{next}} \odot (1 - h_{\text{next}}^2)$ | $da = dh_{\text{next}}$ |
#
# **Predict.** Each is checked in three convenient settings: with an identity matrix as $W_h$, with a single row, and with
# tiny inputs, about $10^{-4}$. Which mistake passes in which setting?


# %% tags=["hide-input"]
def slip(function, right, wrong):
    """A copy of a function of core in which one piece of the source is another."""
    source = inspect.getsource(function)
    assert source.count(right) == 1
    namespace = dict(vars(inspect.getmodule(function)))
    exec(source.replace(right, wrong), namespace)
    return namespace[function.__name__]


no_transpose = slip(rnn_step_backward, "da @ Wh.T", "da @ Wh")
no_sum = slip(rnn_step_backward, "db = da.sum(axis=0)", "db = da[0]")
no_derivative = slip(rnn_step_backward, "da = dnext_h * (1 - next_h**2)", "da = dnext_h")


def rnn_error(backward, N=4, identity=False, scale=1.0):
    """The largest error of the five gradients of an RNN step."""
    rng = np.random.default_rng(7)
    shapes = (N, 3), (N, 5), (3, 5), (5, 5), (5,)
    inputs = [scale * rng.standard_normal(shape) for shape in shapes]
    inputs[3] = np.eye(5) if identity else inputs[3]
    dout = rng.standard_normal((N, 5))
    gradients = backward(dout, rnn_step_forward(*inputs)[1])
    step = lambda _: rnn_step_forward(*inputs)[0]  # noqa: E731
    expected = [eval_numerical_gradient_array(step, value, dout) for value in inputs]
    return max(map(relative_error, gradients, expected))


settings = {
    "all random": {}, "identity": {"identity": True}, "one row": {"N": 1}, "tiny": {"scale": 1e-4},
}  # fmt: skip
faults = {
    "right": rnn_step_backward, "no transpose": no_transpose, "no sum": no_sum,
    "no derivative": no_derivative,
}  # fmt: skip
passes = {
    name: [rnn_error(backward, **setting) < 1e-6 for setting in settings.values()]
    for name, backward in faults.items()
}
print(f"{'':<15}", *(f"{name:>12}" for name in settings))
for name, row in passes.items():
    print(f"{name:<15}", *(f"{'passes' if passed else 'fails':>12}" for passed in row))
assert passes == {
    "right": [True, True, True, True], "no transpose": [False, True, False, False],
    "no sum": [False, False, True, False], "no derivative": [False, False, False, True],
}  # fmt: skip

# %% [markdown]
# <details><summary>Answer</summary>
#
# An identity is its own transpose, so the missing transpose passes. With one row, the sum over rows *is* that row. For
# tiny numbers, tanh is nearly a straight line of slope 1, so nothing changes without its derivative. With all inputs
# random and of ordinary size, all three fail.
#
# </details>
#
# In one sentence: **a check sees only what its inputs make visible.** So make all inputs random and around 1, take at
# least two rows, and let no two sizes be equal. [2b](02b_ten_ways_a_check_lies.ipynb) shows ten such deceptions. It also
# breaks the backward of a larger layer on purpose, in 40 ways: with 19 of them the loss still falls by half.
#
# ## A second witness: autograd
#
# Differences ask whether the backward belongs to *your* forward. If both are wrong in the same way, they agree. So ask
# a program that does not use your forward. PyTorch finds gradients by itself: it records each operation, and then calls
# its own backward of each, the last one first (**autograd**).

# %%
arrays = np.array([[1.0, 2.0]]), U, v
tx, tU, tv = (torch.tensor(array, requires_grad=True) for array in arrays)
tloss = 0.5 * ((torch.relu(tx @ tU) @ tv - y) ** 2).sum()
tloss.backward()
print("dU =", tU.grad.tolist(), " dx =", tx.grad.tolist())
assert np.array_equal(tU.grad, dU) and np.array_equal(tx.grad, dx)

# %% [markdown]
# The same numbers as on paper. The two witnesses know different things:
#
# | | central differences | autograd |
# | --- | --- | --- |
# | needs | your forward, nothing else | the layer once more, in PyTorch |
# | error for right code | about $10^{-10}$ | about $10^{-15}$ |
# | cost | two forward passes per entry of the inputs | one backward pass |
# | a wrong forward | not seen | seen |
#
# ## `check`, and its three hints
#
# `check(name, function)` asks both witnesses about your function. It draws random inputs, no two sizes equal. It also
# tests whether your function has changed its arguments. Here is the forgotten transpose:

# %%
report = check("rnn_step_backward", no_transpose)
assert not report and check("rnn_step_backward", rnn_step_backward)
report

# %% [markdown]
# It names the first wrong gradient, the likely mistake and the worst entry. `check(..., hint=2)` quotes the line of the
# forward, and `hint=3` shows our whole backward. *First* matters: a mistake spoils all that is computed after it.
# Mend one, then look again. For a file of your own, `python -m core.gradient_check --impl my_layers.py` does the same.
#
# ## What you have now
#
# * A backward pass is a vector-Jacobian product: for each entry, a sum over all its readers.
# * A check of your own: central differences, float64, $\delta = 10^{-5}$, a random upstream, the norm-relative error.
# * A check sees only what its inputs make visible. A loss that falls proves nothing.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/02_gradients_you_can_trust.ipynb). Each cell tells you at once
# whether it holds.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · Two steps are better than one (one line)
#
# The central difference with step $\delta$ (`h` in the code) is $D(\delta) = f' + c\,\delta^2$ plus terms with $\delta^4$
# and higher. So $D(2\delta) = f' + 4\,c\,\delta^2 + \dots$ Combine the two so that $c\,\delta^2$ cancels and $f'$ stays
# (Richardson 1911). The error then falls with $\delta^4$.


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
# The backward below of $h_{\text{next}} = \tanh(x W_x + h_{\text{prev}} W_h + b)$ has three mistakes. Find them one
# by one with the report, and write the function anew. (`check(..., hint=2)` and `hint=3` say more.)


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
# your check must say so. Seven are wrong:
#
# * zeros, which an upstream of ones would not see; an upstream that is forgotten; a factor of 1.001;
# * zeros in the place of a gradient so tiny that an absolute tolerance accepts them;
# * NaN, which is neither larger nor smaller than any limit;
# * two backwards that write into what they were given, one into `dout`, one into `x`. Their numbers are right, even for
#   what they have spoilt. So compare with copies.


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
# **Sources.** A. Griewank and A. Walther, *Evaluating derivatives: principles and techniques of algorithmic
# differentiation*, 2nd edition, SIAM 2008. L. F. Richardson, *The approximate arithmetical solution by finite
# differences of physical problems involving differential equations, with an application to the stresses in a masonry
# dam*, Philosophical Transactions of the Royal Society A 210 (1911). A. Paszke et al., *PyTorch: an imperative style,
# high-performance deep learning library*, NeurIPS 2019.
#
# **Next:** [lesson 3, affine, embedding and softmax](03_affine_embedding_softmax.ipynb): the first three layers, and
# their backward passes.
