# %% [markdown]
# # 0 · Start here
#
# **The question.** What will you have built at the end, what do you need to begin, and how do the lessons work?
#
# You will build programs that look at a picture and say a sentence about it: with a recurrent network, with an
# LSTM, with attention and with a Transformer. You write every layer in NumPy, and its gradient too. Nothing is
# hidden in a library, so at the end you know what happens in each line.
#
# *About 30 minutes. You need this page only once.*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.lessons import confirm

lessons.style()

# %% [markdown]
# ## What you will have built
#
# Here is the end of the road, on a small scale. A model with attention, written by hand as in
# [lesson 8](08_soft_attention.ipynb), learned from pictures of coloured shapes for six minutes. These three pictures
# were not among them. Blue is what the model says, grey is one of the captions that belong to the picture.

# %%
data = lessons.embedded_data("attention")
model, _ = lessons.load_trained("attention")
lessons.show_captions(model, data, "val", [0, 1, 2])

# %% [markdown]
# The shapes come with the project, so that nothing has to be downloaded. The same programs train on real photos:
# [lesson 14](14_your_own_photo.ipynb) takes you from a folder of photos to a caption for one of yours.
#
# ## The road

# %% tags=["hide-input"]
ROAD = (
    ("the task", ("1 data", "2 gradients", "3 first layers", "4 update rules")),
    ("recurrent", ("5 RNN", "6 LSTM", "7 speed")),
    ("attention", ("8 soft attention", "9 heads", "10 Transformer")),
    ("captions", ("11 decoding", "12 encoder", "13 scores", "14 your photo")),
)
figure, axes = plt.subplots(figsize=(8.5, 3.4))
for row, (name, stops) in enumerate(ROAD):
    axes.text(-0.15, -row, name, ha="right", va="center", fontsize=11, color=lessons.GREY)
    for column, stop in enumerate(stops):
        axes.text(
            column + 0.45, -row, stop, ha="center", va="center", fontsize=10,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "#EAF2F8", "edgecolor": "#777777"},
        )  # fmt: skip
    axes.plot([0.2, len(stops) - 0.3], [-row, -row], color="#777777", zorder=0)
    if row + 1 < len(ROAD):
        axes.annotate(
            "", (0.45, -row - 0.75), (0.45, -row - 0.25),
            arrowprops={"arrowstyle": "-|>", "color": "#777777"},
        )  # fmt: skip
axes.set(xlim=(-0.9, 4.1), ylim=(-len(ROAD) + 0.4, 0.6), title="Fourteen lessons")
axes.axis("off")
plt.show()

# %% [markdown]
# Read them in order. If you are in a hurry: 2, 3, 5, 6, 8, 9, 10 and 11 are the core. Lesson 7 (speed) and lesson 12
# (the network that looks at photos) can wait.
#
# ## How a lesson works
#
# Each lesson asks a question, and works a tiny example by hand. Then it derives the gradient line by line and checks
# it. An experiment follows, and the tempting wrong way is measured too.
#
# * **Predict, then run.** Before you run a cell, say what it will print. You learn most where you were wrong.
# * **Take a pencil.** The derivations are short, but they want to be written, not read.
# * **Do the exercises.** Each lesson has three, in a notebook of their own. You write a few lines, and the
#   notebook says at once what holds. For a gradient it names the likely mistake, and gives hints in three steps.
# * **Write your own file.** `python -m core.workbook new my_layers.py` makes a file with every function of the
#   lessons, still empty. `python -m core.workbook watch my_layers.py` checks it each time you save. In the end
#   `training.py --engine plain --impl my_layers.py` trains a captioner that is yours alone.
#
# A quick reading takes 40 to 60 minutes a lesson. With a pencil and the exercises, allow two or three times as much.
#
# ## What you need
#
# Python with NumPy, and three things from mathematics: products of matrices, partial derivatives and the chain rule.
# You need no PyTorch and no graphics card. The next three sections refresh one thing each. Each has three questions.
# Write your answer in the place of `...`, run the cell, and it tells you whether it holds. If all nine are easy, go
# on to lesson 1. If one is not, read its section again; [the solutions](solutions/00_start_here.ipynb) help too.
#
# ## Products of matrices
#
# Entry $(n, m)$ of $AB$ is row $n$ of $A$ times column $m$ of $B$, entry by entry, and summed:
#
# $$ (AB)_{nm} = \sum_d A_{nd} B_{dm} $$
#
# So $A$ must have as many columns as $B$ has rows. That number disappears; the other two remain. An
# $(N, D)$ matrix times a $(D, M)$ matrix is $(N, M)$. In NumPy: `A @ B`. Transposing exchanges rows and columns, and
# $(AB)^T = B^T A^T$.

# %%
A = np.array([[1, 2], [3, 4], [5, 6]])
B = np.array([[1, 0, 2, 0], [0, 1, 0, 2]])
print("A is", A.shape, "and B is", B.shape, "so A @ B is", (A @ B).shape)
print(A @ B)
assert (A @ B)[1, 2] == 3 * 2 + 4 * 0


# %% [markdown]
# *Three questions, with a pencil.*


# %% tags=["task"]
def shape_of_product():
    """The shape of A @ B, a tuple, where A is (64, 512) and B is (512, 1004)."""
    ### BEGIN SOLUTION
    return (64, 1004)
    ### END SOLUTION


confirm(shape_of_product, lambda s: s == (64, 1004), "the rows of A and the columns of B")


# %% tags=["task"]
def entry_of_product():
    """Entry (0, 1) of A @ B, for A = [[1, 2], [3, 4]] and B = [[5, 6], [7, 8]]."""
    ### BEGIN SOLUTION
    return 1 * 6 + 2 * 8
    ### END SOLUTION


confirm(entry_of_product, lambda x: x == 22, "row 0 of A times column 1 of B")


# %% tags=["task"]
def product_that_fits():
    """x is (N, D) and dout is (N, M). Which has the shape (D, M)? "x @ dout", "x.T @ dout" or
    "dout.T @ x"?"""
    ### BEGIN SOLUTION
    return "x.T @ dout"
    ### END SOLUTION


confirm(
    product_that_fits, lambda s: s == "x.T @ dout", "the one whose inner sizes are both N"
)

# %% [markdown]
# ## Partial derivatives
#
# A function of many numbers has one derivative for each of them. It says how fast the result grows when that number
# grows, while all others stay. For $f(x, y) = x^2 y$:
#
# $$ \frac{\partial f}{\partial x} = 2xy, \qquad \frac{\partial f}{\partial y} = x^2 $$
#
# All of them together are the **gradient**. It has the shape of the input. One can measure a partial derivative: move
# the number a little to both sides, and divide the change of the result by the way.


# %%
def f(x, y):
    return x**2 * y


x, y, h = 3.0, 2.0, 1e-5
measured = (f(x + h, y) - f(x - h, y)) / (2 * h)
print(f"measured {measured:.6f}, by the formula {2 * x * y:.6f}")
assert np.isclose(measured, 2 * x * y)


# %% tags=["task"]
def slope_in_y():
    """The partial derivative of x * y + y**3 by y, at x = 5, y = 2."""
    ### BEGIN SOLUTION
    return 5 + 3 * 2**2
    ### END SOLUTION


confirm(slope_in_y, lambda s: s == 17, "x plus three times the square of y")


# %% tags=["task"]
def slope_of_a_sum():
    """s = w[0] * 4 + w[1] * 5 + w[2] * 6. The partial derivative of s by w[1]."""
    ### BEGIN SOLUTION
    return 5
    ### END SOLUTION


confirm(slope_of_a_sum, lambda s: s == 5, "what w[1] is multiplied by")


# %% tags=["task"]
def shape_of_gradient():
    """A loss is one number. W is (512, 128). The shape of the gradient of the loss by W, a tuple."""
    ### BEGIN SOLUTION
    return (512, 128)
    ### END SOLUTION


confirm(shape_of_gradient, lambda s: s == (512, 128), "one derivative for each entry of W")

# %% [markdown]
# ## The chain rule
#
# If $z$ depends on $y$, and $y$ on $x$, the slopes multiply:
#
# $$ \frac{dz}{dx} = \frac{dz}{dy} \cdot \frac{dy}{dx} $$
#
# If $x$ reaches $z$ on two ways, the slopes of the two ways **add**. That is all of back-propagation: walk from
# the result back to the inputs, multiply along each way, and add where ways meet.

# %%
x = 1.5
y1, y2 = x**2, np.sin(x)  # two ways from x
z = y1 * y2  # meet here
dy1, dy2 = y2, y1  # the slopes of z
dx = dy1 * 2 * x + dy2 * np.cos(x)  # each way multiplies, and the two add
h = 1e-5
measured = ((x + h) ** 2 * np.sin(x + h) - (x - h) ** 2 * np.sin(x - h)) / (2 * h)
print(f"measured {measured:.6f}, by the chain rule {dx:.6f}")
assert np.isclose(measured, dx)


# %% tags=["task"]
def slope_of_a_chain():
    """y = 3 * x and z = y**2. The slope of z by x, at x = 2."""
    ### BEGIN SOLUTION
    return 2 * (3 * 2) * 3
    ### END SOLUTION


confirm(slope_of_a_chain, lambda s: s == 36, "the slope of the square, times 3")


# %% tags=["task"]
def slope_of_two_ways():
    """z = a * b, where a = x and b = x + 1. The slope of z by x, at x = 4."""
    ### BEGIN SOLUTION
    return (4 + 1) + 4
    ### END SOLUTION


confirm(slope_of_two_ways, lambda s: s == 9, "one part for each of the two ways")


# %% tags=["task"]
def slope_of_tanh():
    """y = tanh(x) has the slope 1 - y**2. z = 10 * y. The slope of z by x where y = 0.5."""
    ### BEGIN SOLUTION
    return 10 * (1 - 0.5**2)
    ### END SOLUTION


confirm(slope_of_tanh, lambda s: s == 7.5, "10 times the slope of the tanh there")

# %% [markdown]
# ## The letters
#
# The lessons use one set of letters for the sizes of arrays.
#
# | letter | is the number of |
# | --- | --- |
# | $N$ | captions in a batch |
# | $T$ | words of a caption, steps of a sequence |
# | $D$ | entries of an image's features |
# | $W$ | entries of a word's vector |
# | $H$ | entries of a state |
# | $V$ | words in the vocabulary |
# | $L$ | places of an image that attention can look at |
# | $C$ | channels of such a place |
# | $E$ | entries of a vector in a Transformer |
# | $S$ | things that a query can look at |
#
# `dname` in code is the gradient of the loss with respect to `name`. A term that you do not know is in
# [the glossary](GLOSSARY.md), with the line of code where it is computed.
#
# **Next:** [lesson 1, the task and the data](01_the_task_and_the_data.ipynb).
