# %% [markdown]
# # 0 · Start here
#
# **The question.** What will you have built at the end? What do you need to begin? And how do the lessons work?
#
# You will build programs that look at a picture and say a sentence about it. You write every layer in NumPy, and its
# gradient too. Nothing is hidden in a library, so at the end you know what happens in each line.
#
# *You need this page only once. Reading takes ten minutes, the nine questions twenty more.*

# %% tags=["setup"]
import itertools

import numpy as np

from core import lessons
from core.coco_utils import decode_captions
from core.decoding import beam_search
from core.lessons import GREY, Sketch, confirm
from core.shapes import DEFAULT_FOLDER, caption_is_true, load_scenes

lessons.style()

# %% tags=["setup", "hide-input"]
# What answers the questions below: the right answer, what it is, a hint, wrong answers and why they are wrong.
ASKED = {
    "shape_of_product": (
        (64, 1004), "the shape of the product", "it has the rows of A and the columns of B",
        {(512, 512): "the inner numbers disappear", (1004, 64): "the rows come first"},
    ),
    "entry_of_product": (
        22, "one entry of the product", "take row 0 of A times column 1 of B, and add",
        {12: "that is entry by entry; a product of matrices adds along a row and a column",
         19: "that is entry (0, 0); indices begin at 0", 43: "that is entry (1, 0)"},
    ),
    "product_that_fits": (
        "x.T @ dout", "the product that fits", "its inner sizes must both be N",
        {"x @ dout": "its inner sizes are D and N", "dout.T @ x": "its shape is (M, D)"},
    ),
    "slope_in_y": (
        17, "the slope in y", "add the slopes of x * y and of y**3",
        {12: "x * y has a slope in y, too", 14: "the slope of x * y in y is x, not y",
         2: "that is the slope in x", 18: "that is the value, not the slope"},
    ),
    "slope_of_a_sum": (
        5, "the slope in w[1]", "by how much does s grow when w[1] grows by 1?",
        {15: "only one of the three terms holds w[1]", 4: "indices begin at 0"},
    ),
    "shape_of_gradient": (
        (512, 128), "the shape of the gradient", "there is one derivative for each entry of W",
        {(): "the loss is one number, but W has many", (1,): "the loss is one number, W has many",
         (128, 512): "a gradient is not transposed"},
    ),
    "slope_of_a_chain": (
        36, "the slope of the chain", "multiply the slope of the square, at y, by 3",
        {12: "the slope of y by x is missing", 4: "the square's slope is at y, not at x",
         6: "y is 6; the slope of the square there is twice that"},
    ),
    "slope_of_two_ways": (
        9, "the slope of both ways", "each of the two ways brings a part, and the parts add",
        {5: "that is one of two ways", 4: "that is one of two ways", 20: "where ways meet, add",
         1: "the ways multiply along, and add where they meet"},
    ),
    "slope_of_tanh": (
        7.5, "the slope after the tanh", "it is 10 times the slope of the tanh there",
        {5.0: "the slope is 1 - y**2, not 1 - y", 0.75: "z is 10 times y",
         10 * (1 - np.tanh(0.5) ** 2): "0.5 is y already, another tanh is one too many"},
    ),
}  # fmt: skip


def asked(function):
    """A question's function -> what ``confirm`` wants to know."""
    right, what, hint, slips = ASKED[function.__name__]

    def is_same(one, other):
        if isinstance(other, tuple | str) or isinstance(one, tuple | str | list):
            return one == other
        return bool(np.isclose(one, other))

    def got():
        found = function()
        if found is not None and found is not ...:
            assert not isinstance(found, list), "that is a list; a tuple has round brackets"
            for slip, text in slips.items():
                assert not is_same(found, slip), text
            assert is_same(found, right), hint
        return found

    return got, lambda found: is_same(found, right), what


# %% [markdown]
# ## What you will have built
#
# Here is the end of the road, on a small scale. A model with attention learned from pictures of coloured shapes, for
# six minutes on one core. You write such a model in [lesson 8](08_soft_attention.ipynb). These three pictures were not
# among those it learned from. Blue is what the model says, grey is a caption that belongs to the picture.

# %%
data = lessons.embedded_data("attention")
model, _ = lessons.load_trained("attention")
lessons.show_captions(model, data, "val", [0, 1, 2])

# %% tags=["hide-input"]
ids, _ = beam_search(model, np.asarray(data["val_features"]), max_length=20)
said = decode_captions(ids[:, 0], data["idx_to_word"])
scenes = load_scenes(DEFAULT_FOLDER, "val")
true = [
    caption_is_true(caption, scene) for caption, scene in zip(said, scenes, strict=True)
]
print(
    f"of {len(true)} pictures that it has never seen, {np.mean(true):.0%} of its captions are true"
)
assert 0.96 < np.mean(true) < 0.98

# %% [markdown]
# When you are through, you have:
#
# * four captioners, written and checked by you: a recurrent network, an LSTM, attention and a Transformer;
# * the tools around them: a gradient check, update rules, beam search, and scores that tell good captions from bad;
# * a caption for a photo of your own ([lesson 14](14_your_own_photo.ipynb)).
#
# The shapes come with the project, so nothing has to be downloaded before that.
#
# ## The map
#
# Follow the arrows. "+ 1b" is a notebook that goes deeper than its lesson. Lesson 7 is an aside about speed: skip
# it, and nothing will be missing.

# %% tags=["hide-input"]
STOPS = (
    (
        (0, "start here"),
        (1, "the task"),
        (2, "gradients"),
        (3, "first layers"),
        (4, "update rules"),
    ),
    ((5, "RNN"), (6, "LSTM"), (8, "attention"), (9, "heads"), (10, "Transformer")),
    ((11, "decoding"), (12, "the encoder"), (13, "scores"), (14, "your photo")),
)
deeper = {
    int(path.name[:2]) for path in (lessons.ROOT / "notebooks").glob("[0-9][0-9]b_*.ipynb")
}
sketch = Sketch(9.6, 4.9)


def stop(x, y, number, name):
    kind = "gradient" if number == 0 else "op" if number == 7 else "value"
    box = sketch.box(x, y, "", kind, width=1.52, height=0.64)
    below = f"+ {number}b" if number in deeper else "you are here" if number == 0 else ""
    sketch.text(x, y + 0.13 * bool(below), f"{number} · {name}", size=11.5)
    sketch.text(x, y - 0.15, below, size=10.5, colour=GREY)
    return box


before, boxes = None, {}
for y, row in zip((4.45, 2.95, 0.55), STOPS, strict=True):
    for column, (number, name) in enumerate(row):
        boxes[number] = box = stop(0.95 + 1.92 * column, y, number, name)
        if before and column:
            sketch.arrow(before, box)
        elif before:
            sketch.arrow((before.x, before.y - 0.32), (box.x, box.y + 0.32))
        before = box
aside = stop(boxes[6].x, 1.95, 7, "speed")
sketch.arrow(boxes[6], aside, kind="grey")
sketch.arrow(
    before, sketch.box(8.63, 0.55, "a captioner\nof your own", "gradient", 1.52, 0.64)
)
sketch.show()

# %% [markdown]
# | | lesson | what you build | minutes | deeper |
# | --- | --- | --- | --- | --- |
# | 1 | [The task and the data](01_the_task_and_the_data.ipynb) | a captioner that needs no learning: the score to beat | 50 | [1b](01b_pca_epochs_and_leakage.ipynb) |
# | 2 | [Gradients you can trust](02_gradients_you_can_trust.ipynb) | a check that tells whether a gradient is right | 50 | [2b](02b_ten_ways_a_check_lies.ipynb) |
# | 3 | [Affine, embedding, softmax](03_affine_embedding_softmax.ipynb) | the layers around every model, and the loss | 50 | [3b](03b_losses_that_lie.ipynb) |
# | 4 | [Update rules](04_update_rules.ipynb) | gradient descent, momentum, RMSProp, Adam | 50 | [4b](04b_clipping_decay_schedules.ipynb) |
# | 5 | [The vanilla RNN](05_the_vanilla_rnn.ipynb) | a layer that reads one word after the other | 50 |  |
# | 6 | [The LSTM](06_the_lstm.ipynb) | gates, and a memory that the gradient survives | 50 | [6b](06b_the_lstm_further.ipynb) |
# | 7 | [From loops to GEMMs](07_from_loops_to_gemms.ipynb) | an aside: the same layers, faster | 45 | [7b](07b_how_near_to_the_limit.ipynb) |
# | 8 | [Soft attention](08_soft_attention.ipynb) | a decoder that looks at places of the picture | 45 | [8b](08b_more_about_looking.ipynb) |
# | 9 | [Multi-head attention](09_multi_head_attention.ipynb) | heads, masks and their gradients | 50 | [9b](09b_more_about_heads.ipynb) |
# | 10 | [The Transformer block](10_the_transformer_block.ipynb) | layer norm, positions, the whole block | 50 | [10b](10b_depth_and_slips.ipynb) |
# | 11 | [Decoding](11_decoding.ipynb) | greedy, sampling, beam search | 45 | [11b](11b_deeper_into_decoding.ipynb) |
# | 12 | [The encoder](12_the_encoder.ipynb) | a convolution by hand: where features come from | 50 | [12b](12b_larger_encoders.ipynb) |
# | 13 | [Is it any good?](13_is_it_any_good.ipynb) | BLEU and CIDEr-D, and what they do not see | 45 | [13b](13b_scores_in_detail.ipynb) |
# | 14 | [Your own photo](14_your_own_photo.ipynb) | from a folder of photos to a caption for yours | 45 | [14b](14b_the_same_caption_for_every_photo.ipynb) |
#
# If you are in a hurry: 2, 3, 5, 6, 8, 9, 10 and 11 are the core.
#
# ## How a lesson works
#
# Every ten minutes there is something to do:

# %% tags=["hide-input"]
sketch = Sketch(9.4, 1.75)
steps = [
    sketch.box(0.95 + 1.88 * i, 1.15, text, kind, 1.35, 0.6)
    for i, (text, kind) in enumerate(
        (
            ("predict", "value"),
            ("run", "op"),
            ("compare", "value"),
            ("write", "value"),
            ("check", "op"),
        )
    )
]
for one, other in itertools.pairwise(steps):
    sketch.arrow(one, other)
sketch.arrow((steps[4].x, 0.85), (steps[3].x, 0.85), kind="gradient", bend=-0.25)
sketch.text(
    (steps[3].x + steps[4].x) / 2, 0.3, "it does not hold yet", colour=lessons.ORANGE
)
sketch.text(
    (steps[0].x + steps[2].x) / 2, 0.3, "you learn most where you were wrong", colour=GREY
)
sketch.show()

# %% [markdown]
# * **Predict, then run.** Before a cell runs, say what it will print: a number, a word, the shape of a curve. The answer
#   is folded below it.
# * **Write, then check.** Where a cell says `# your code here`, write one to five lines. The cell tells you at once
#   whether they hold, and if not, what is typically wrong with such an answer.
# * **Take a pencil.** The derivations are short, but you have to write them yourself.
# * **Folded code** draws pictures or does housekeeping. You lose nothing if you never open it.
#
# After the lesson there is more, as much as you like:
#
# * **Exercises**, three per lesson, in notebooks of their own. For a gradient, the answer names the likely mistake,
#   and `hint=2` or `hint=3` says more. The [solutions](solutions/00_start_here.ipynb) have everything, the tasks of
#   the lessons included.
# * **Deeper notebooks**, such as [11b](11b_deeper_into_decoding.ipynb). No lesson needs them.
# * **The workbook**: `python -m core.workbook new my_layers.py` makes a file with every function of the lessons, still
#   empty. `python -m core.workbook watch my_layers.py` checks it each time you save. In the end
#   `training.py --engine plain --impl my_layers.py` trains a captioner whose layers are all yours
#   ([more](../docs/workbook.md)).
#
# A lesson takes 45 to 50 minutes with a pencil. The exercises come on top; the third of each is a small project.
#
# ## What you need
#
# **Python** with NumPy: functions, loops, arrays and their shapes. You need no experience with neural networks and no
# graphics card. Lessons 2, 4 and 6 ask PyTorch for a second opinion, and in lessons 12 and 14 it looks at pictures:
# `make setup` installs it.
#
# **Mathematics**: products of matrices, partial derivatives and the chain rule. That is all, but you need it in nearly
# every lesson, and you need to be able to read a sum with indices. If you have never seen a derivative, learn about
# derivatives first; a school book is enough.
#
# The next three sections refresh one thing each, and ask three questions. Write your answer in the place of `...` and
# run the cell. If all nine are easy, begin with lesson 1. If a section gives you trouble, stay with it: an hour here
# saves many later.
#
# ## Products of matrices
#
# Entry $(n, m)$ of $AB$ is row $n$ of $A$ times column $m$ of $B$, entry by entry, and summed:
#
# $$ (AB)_{nm} = \sum_d A_{nd}\, B_{dm} $$

# %% tags=["hide-input"]
A = np.array([[1, 2], [3, 4], [5, 6]])
B = np.array([[1, 0, 2, 0], [0, 1, 0, 2]])
sketch = Sketch(7.6, 2.2)
marked = np.zeros(A.shape), np.zeros(B.shape), np.zeros((3, 4))
marked[0][1], marked[1][:, 2], marked[2][1, 2] = 0.35, 0.35, 0.7
for x, values, shades, name in (
    (1.0, A, marked[0], "A (3, 2)"), (3.2, B, marked[1], "B (2, 4)"),
    (6.2, A @ B, marked[2], "A @ B (3, 4)"),
):  # fmt: skip
    sketch.cells(x, 1.1, shades, size=0.4, labels=values)
    sketch.text(x, 0.22, name)
sketch.text(1.85, 1.1, "@", size=16)
sketch.text(4.7, 1.1, "=", size=16)
sketch.text(4.7, 2.0, "row 1 times column 2: 3 · 2 + 4 · 0 = 6")
sketch.show()
assert (A @ B)[1, 2] == 3 * 2 + 4 * 0 == 6

# %% [markdown]
# (Rows and columns are counted from 0, as in Python.) $A$ must have as many columns as $B$ has rows. That number
# disappears; the other two remain: $(N, D)$ times $(D, M)$ is $(N, M)$. In NumPy it is `A @ B`. The transpose,
# `A.T`, exchanges rows and columns, and $(AB)^T = B^T A^T$.
#
# *Three questions, with a pencil.*


# %% tags=["task"]
def shape_of_product():
    """The shape of A @ B, a tuple, where A is (64, 512) and B is (512, 1004)."""
    ### BEGIN SOLUTION
    return (64, 1004)
    ### END SOLUTION


confirm(*asked(shape_of_product))


# %% tags=["task"]
def entry_of_product():
    """Entry (0, 1) of A @ B, for A = [[1, 2], [3, 4]] and B = [[5, 6], [7, 8]]."""
    ### BEGIN SOLUTION
    return 1 * 6 + 2 * 8
    ### END SOLUTION


confirm(*asked(entry_of_product))


# %% tags=["task"]
def product_that_fits():
    """x is (N, D) and dout is (N, M). Which of these has the shape (D, M)?
    "x @ dout", "x.T @ dout" or "dout.T @ x"?"""
    ### BEGIN SOLUTION
    return "x.T @ dout"
    ### END SOLUTION


confirm(*asked(product_that_fits))

# %% [markdown]
# ## Partial derivatives
#
# A function of many numbers has one derivative for each of them. It says how fast the result grows when that number
# grows, while all others stay the same. For $f(x, y) = x^2 y$:
#
# $$ \frac{\partial f}{\partial x} = 2xy, \qquad \frac{\partial f}{\partial y} = x^2 $$
#
# All of them together are the **gradient**. It has the shape of the input.
#
# You can *measure* a partial derivative. Move one number by a small step $\delta$ to both sides, and divide the change of
# the result by the distance, $2\delta$. **Predict** what this prints, for $x = 3$ and $y = 2$:


# %%
def f(x, y):
    return x**2 * y


delta = 1e-5
measured = (f(3 + delta, 2) - f(3 - delta, 2)) / (2 * delta)
print(f"{measured:.4f}")
assert np.isclose(measured, 2 * 3 * 2)

# %% [markdown]
# <details><summary>Answer</summary>
#
# $2xy = 2 \cdot 3 \cdot 2 = 12$.
#
# </details>


# %% tags=["task"]
def slope_in_y():
    """The partial derivative of x * y + y**3 by y, at x = 5, y = 2."""
    ### BEGIN SOLUTION
    return 5 + 3 * 2**2
    ### END SOLUTION


confirm(*asked(slope_in_y))


# %% tags=["task"]
def slope_of_a_sum():
    """s = w[0] * 4 + w[1] * 5 + w[2] * 6. The partial derivative of s by w[1]."""
    ### BEGIN SOLUTION
    return 5
    ### END SOLUTION


confirm(*asked(slope_of_a_sum))


# %% tags=["task"]
def shape_of_gradient():
    """A loss is one number. W is (512, 128). The shape of the gradient by W, a tuple."""
    ### BEGIN SOLUTION
    return (512, 128)
    ### END SOLUTION


confirm(*asked(shape_of_gradient))

# %% [markdown]
# ## The chain rule
#
# If $z$ depends on $y$, and $y$ on $x$, the slopes multiply:
#
# $$ \frac{dz}{dx} = \frac{dz}{dy} \cdot \frac{dy}{dx} $$
#
# If $x$ reaches $z$ on two ways, the slopes of the two ways **add**. Here $z = x^2 \sin x$: values go to the right
# (blue), slopes come back (orange).

# %% tags=["hide-input"]
sketch = Sketch(8.4, 2.5)
x_, z_ = sketch.box(0.7, 1.25, "$x$"), sketch.box(7.6, 1.25, "$z$")
times = sketch.box(5.6, 1.25, "times", "op")
for y, text, slope, other in (
    (2.0, "$a = x^2$", "slope $2x$", "slope $\\sin x$"), (0.5, "$b = \\sin x$", "slope $\\cos x$", "slope $x^2$"),
):  # fmt: skip
    middle = sketch.box(3.1, y, text, width=1.25)
    sketch.arrow(x_, middle)
    sketch.arrow(middle, times)
    away = 0.3 if y > 1.25 else -0.3
    sketch.text(1.5, (1.25 + y) / 2 + away, slope, colour=lessons.ORANGE, size=11)
    sketch.text(4.75, (1.25 + y) / 2 + away, other, colour=lessons.ORANGE, size=11)
sketch.arrow(times, z_)
sketch.show()

# %% [markdown]
# The upper way gives $\sin x \cdot 2x$, the lower one $x^2 \cdot \cos x$. That is all of back-propagation: walk from
# the result back to the inputs, multiply along each way, and add where ways meet. Is it true?


# %%
def z(x):
    return x**2 * np.sin(x)


x = 1.5
by_the_rule = np.sin(x) * 2 * x + x**2 * np.cos(x)
measured = (z(x + delta) - z(x - delta)) / (2 * delta)
print(f"by the chain rule {by_the_rule:.6f}, measured {measured:.6f}")
assert np.isclose(measured, by_the_rule)


# %% tags=["task"]
def slope_of_a_chain():
    """y = 3 * x and z = y**2. The slope of z by x, at x = 2."""
    ### BEGIN SOLUTION
    return 2 * (3 * 2) * 3
    ### END SOLUTION


confirm(*asked(slope_of_a_chain))


# %% tags=["task"]
def slope_of_two_ways():
    """z = a * b, where a = x and b = x + 1. The slope of z by x, at x = 4."""
    ### BEGIN SOLUTION
    return (4 + 1) + 4
    ### END SOLUTION


confirm(*asked(slope_of_two_ways))


# %% tags=["task"]
def slope_of_tanh():
    """y = tanh(x) has the slope 1 - y**2. z = 10 * y. The slope of z by x where y = 0.5."""
    ### BEGIN SOLUTION
    return 10 * (1 - 0.5**2)
    ### END SOLUTION


confirm(*asked(slope_of_tanh))

# %% [markdown]
# ## One meaning per letter
#
# You need not learn these now. Come back when a lesson uses a letter that you do not know.
#
# **Sizes of arrays**, in capitals:
#
# | letter | is the number of | lesson |
# | --- | --- | --- |
# | $N$ | captions in a batch | 1 |
# | $T$ | words of a caption, steps of a sequence | 1 |
# | $V$ | words in the vocabulary | 1 |
# | $D$ | numbers that a layer reads per row, such as the features of a picture | 1 |
# | $M$ | numbers that a layer makes of them | 3 |
# | $W$ | entries of a word's vector ($W_x$, $W_h$, with an index, are weights) | 3 |
# | $H$ | entries of a hidden state | 5 |
# | $L$ | places of a picture that attention can look at | 8 |
# | $C$ | channels: numbers per place | 8 |
# | $K$ | entries of a key in soft attention: the width of its scores | 8 |
# | $E$ | entries of a vector in a Transformer | 9 |
# | $d$ | entries per head: $E$ over the number of heads | 9 |
# | $S$ | things that a query can look at | 9 |
# | $F$ | inner entries of a feed-forward layer; filters of a convolution | 10, 12 |
# | $B$ | beams | 11 |
#
# **Values**, in small letters:
#
# | letter | means | lesson |
# | --- | --- | --- |
# | $\mathcal{L}$ | the loss, one number; `dx` in code is $\partial \mathcal{L} / \partial x$ | 2 |
# | $\delta$ | a small step, for measuring a derivative; `h` in the code of lesson 2 | 2 |
# | $\delta_{ij}$ | with two indices: 1 where $i = j$, else 0 | 3 |
# | $p$ | a probability | 3 |
# | $\log$ | the natural logarithm; losses are in **nats** | 3 |
# | $\eta$ | the learning rate | 4 |
# | $\mu$ | momentum: the part of the old velocity that stays | 4 |
# | $\lambda$ | a curvature or an eigenvalue; the strength of a penalty | 4 |
# | $\beta_1$, $\beta_2$ | how long Adam's averages remember | 4 |
# | $\epsilon$ | a tiny number that prevents a division by 0 | 4 |
# | $h$ | the hidden state | 5 |
# | $\rho$ | the largest absolute eigenvalue of a matrix | 5 |
# | $c$ | the cell of an LSTM, and $i, f, o, g$ its gates and its candidate | 6 |
# | $\sigma(\cdot)$ | the sigmoid; $\sigma^2$, with a square, is a variance | 6 |
# | $\varphi$ | the features of a place | 8 |
# | $\alpha$ | the weights of attention | 8 |
# | $q$, $k$, $v$ | queries, keys and values | 9 |
# | $\gamma$, $\beta$ | gain and shift after a normalisation | 10 |
# | $\tau$ | the temperature of sampling | 11 |
#
# Other letters are local: an index, or a constant that lives for a paragraph and is explained there. A word that you do not
# know is in [the glossary](GLOSSARY.md), with the line of code where it is computed.
#
# **Next:** [lesson 1, the task and the data](01_the_task_and_the_data.ipynb).
