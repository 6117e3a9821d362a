# %% [markdown]
# # 7 · From loops to GEMMs
#
# **The question.** `python training.py --engine plain` trains the LSTM of lesson 6 by its definition, one step per word.
# Without that option it trains a *twin* from `core/fast/`: another program, which computes the same numbers in less
# time. What makes it faster, and by how much?
#
# You take a training step apart with a stopwatch. Then you add the ideas of the twin one at a time, and measure a
# **whole** step after each. Most of the arithmetic is in products of matrices. Libraries have one routine for them:
# GEMM (*general matrix multiply*).
#
# *This lesson is an aside; [lesson 8](08_soft_attention.ipynb) does not need it. Before: [lesson 6](06_the_lstm.ipynb).
# About 45 minutes; all cells together run in about a minute.*
#
# **The times on this page** come from the machine that made it. Yours are different, and change from run to run. So
# the lesson asserts that numbers are *equal*; it asserts that one way is faster only where the gap is wide.

# %% tags=["setup"]
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter, sleep
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import ThreadpoolController

from core import lessons, optim
from core.captioning_solver import NumpyEngine
from core.fast import FastEngine, build_fast_model, recurrent
from core.fast.adam import update_in_place
from core.fast.packing import Packing, lengths_of
from core.fast.recurrent import (
    by_gate,
    gates_apart,
    lstm_packed_backward,
    lstm_packed_forward,
)
from core.fast.threads import number_of_threads
from core.gradient_check import check, relative_error
from core.layers import (
    affine_forward,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, confirm, show_source
from core.models import build_model
from core.rnn_layers import lstm_backward, lstm_forward, rnn_forward

sys.path.insert(0, str(lessons.ROOT))  # the folder of the project, which has the benchmarks
from benchmarks import side_by_side
from benchmarks.side_by_side import SIZES, VOCABULARY

lessons.style()

# %% [markdown]
# ## By hand: what a product costs
#
# A product of $(N, D)$ and $(D, M)$ has $N M$ entries. Each is a sum of $D$ terms: $D$ multiplications and $D$
# additions. Count them:

# %%
A, B = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
operations, product = 0, np.zeros((2, 4))
for n, m, d in np.ndindex(2, 4, 3):
    product[n, m] += A[n, d] * B[d, m]
    operations += 2
assert np.array_equal(product, A @ B) and operations == 2 * 2 * 3 * 4
print(f"(2, 3) times (3, 4): {operations} operations")

# %% [markdown]
# So a product costs $2NDM$ operations. The gradients of $Y = AB$ are two products of as many operations,
# $dA = dY\,B^T$ and $dB = A^T dY$: **the products of a training step cost three times those of its forward**.
#
# Take an LSTM captioner of ordinary size: word vectors of width $W = 256$, states of width $H = 512$, $V = 1004$ words,
# and 64 captions with the lengths of Flickr8k's. One word costs
#
# $$ 3 \cdot 2 \cdot \big( \underbrace{W \cdot 4H}_{x W_x} + \underbrace{H \cdot 4H}_{h W_h} +
#    \underbrace{H \cdot V}_{\text{scores}} \big) \text{ operations.} $$
#
# The 3 counts the forward and two gradients, the 2 a multiplication and an addition. Each picture adds the products for
# its $h_0$: two, not three, because the picture itself needs no gradient.

# %% tags=["hide-input"]
features, captions = side_by_side.batch_like_real_ones(64, False, np.random.default_rng(0))
words, targets = captions[:, :-1], captions[:, 1:]
mask = targets != 0  # padding is not scored
(N, T), D, W, H, V = words.shape, features.shape[1], 256, 512, len(VOCABULARY)

# %%
per_word = 3 * 2 * (W * 4 * H + H * 4 * H + H * V)
needed = mask.sum() * per_word + 2 * 2 * N * D * H
print(f"{N} captions, padded to {T} words: {N * T} places, {mask.sum()} of them words")
print(f"the step needs {needed / 1e9:.1f} billion operations")
print(f"the padding would cost {(~mask).sum() * per_word / 1e9:.1f} billion more")

# %% [markdown]
# ## A stopwatch
#
# A training step is loss, gradients, clipping and Adam. `step(model)` returns a function that does one such step. `race`
# lets functions take turns. It prints the fastest turn of each, because other programs can only make a turn slower, and
# how many times as fast as the first one it is. Until idea 5 every product has **one thread**: we compare ideas, not
# cores.

# %% tags=["hide-input"]
CORES = number_of_threads()
blas = ThreadpoolController().select(user_api="blas")  # the library that makes the products
blas.limit(limits=1)


def step(model, engine=NumpyEngine, batch=(features, captions)):
    """A whole training step: loss, gradients, clipping, Adam."""
    rule = engine(model, "adam", side_by_side.STILL, side_by_side.CLIP_NORM)
    return side_by_side.step_of(rule, *batch)


def fastest(functions, rounds=9):
    """They take turns; the fastest turn of each in milliseconds."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = perf_counter()
            function()
            times[name].append(1e3 * (perf_counter() - start))
    return {name: min(each) for name, each in times.items()}


def report(times):
    for name, time in times.items():
        gain = next(iter(times.values())) / time
        print(f"{name.replace('_', ' '):<32}{time:9.2f} ms{gain:8.2f} x")
    return times


def race(rounds=9, **functions):
    return report(fastest(functions, rounds))


def faster(times):
    """How many times as fast the last is as the first."""
    times = list(times.values())
    return times[0] / times[-1]


# %%
model = build_model("lstm", SIZES["lstm"], VOCABULARY, rng=np.random.default_rng(0))
definitions = step(model)

# %% [markdown]
# **Predict.** A step has seven parts: LSTM forward, scores, softmax, scores backward, LSTM backward, the gradient of
# the word vectors, clipping with Adam. Which one takes most of the time? And how many times as long does the whole
# step take as its products would at full speed?

# %% tags=["hide-input", "measured"]
p = model.params
h0, _ = affine_forward(features, p["W_proj"], p["b_proj"])
vectors, word_cache = word_embedding_forward(words, p["W_embed"])
h, lstm_cache = lstm_forward(vectors, h0, p["Wx"], p["Wh"], p["b"])
scores, score_cache = temporal_affine_forward(h, p["W_vocab"], p["b_vocab"])
_, dscores = temporal_softmax_loss(scores, targets, mask)
dh, _, _ = temporal_affine_backward(dscores, score_cache)
dvectors = lstm_backward(dh, lstm_cache)[0]
_, grads = model.loss(features, captions)
params, configs = dict(p), {name: dict(side_by_side.STILL) for name in p}


def adam():
    clipped, _ = optim.clip_gradient_norm(grads, side_by_side.CLIP_NORM)
    for name in params:
        params[name], configs[name] = optim.adam(params[name], clipped[name], configs[name])


times = fastest({
    "LSTM forward": lambda: lstm_forward(vectors, h0, p["Wx"], p["Wh"], p["b"]),
    "scores": lambda: temporal_affine_forward(h, p["W_vocab"], p["b_vocab"]),
    "softmax, loss": lambda: temporal_softmax_loss(scores, targets, mask),
    "scores backward": lambda: temporal_affine_backward(dscores, score_cache),
    "LSTM backward": lambda: lstm_backward(dh, lstm_cache),
    "word vectors backward": lambda: word_embedding_backward(dvectors, word_cache),
    "clipping, Adam": adam,
})  # fmt: skip
square = np.ones((512, 512), np.float32)
peak = 2e-6 * 512**3 / fastest({"": lambda: square @ square}, 60)[""]
plt.figure(figsize=(6.4, 2.9))
plt.barh(list(times), list(times.values()))
plt.gca().invert_yaxis()
plt.gca().set(xlabel="milliseconds, one thread", title="A step of the definitions, by part")
plt.show()
print(f"together {sum(times.values()):.0f} ms")
print(f"a large product: {peak:.0f} billion operations per second on this core")
print(f"at this rate the step's products would take {needed / peak / 1e6:.0f} ms")
assert sum(times.values()) > 1.3 * needed / peak / 1e6
assert max(times, key=times.get) == "LSTM backward"
assert times["LSTM forward"] + times["LSTM backward"] > 0.4 * sum(times.values())

# %% [markdown]
# <details><summary>Answer</summary>
#
# The LSTM backward, and then its forward: the two loops through time. Backward has twice the products. And the whole
# step takes far longer than its products would at full speed: compare the first and the last printed line. The ideas below
# make this gap smaller.
# </details>
#
# ## What a gain gives the whole
#
# A part takes the share $s$ of a step's time. An idea makes that part $g$ times as fast, and the rest takes as long as
# before. How many times as fast is the whole step? (Amdahl, 1967.)
#
# **Task.** Write it. Let the old time of the step be 1, and begin with its new time.


# %% tags=["task"]
def gain_of_the_whole(s, g):
    ### BEGIN SOLUTION
    return 1 / (1 - s + s / g)
    ### END SOLUTION


def gains(s, g):
    gain = gain_of_the_whole(s, g)
    assert gain is None or gain >= 1, "that is the new time; the gain is old over new"
    return gain


known = {(0.04, 1000.0): 1000 / 960.04, (1.0, 7.0): 7.0}
everything = {"for a part that is everything": (1.0, 7.0)}
compare(gains, lambda s, g: known[s, g], 0.04, 1000.0, also=everything)

# %%
SHARE = 0.04
print(f"a thousand times, on {SHARE:.0%}: {1 / (1 - SHARE + SHARE / 1000):.3f} times")
assert 1.04 < 1 / (1 - SHARE) < 1.05  # however large the gain is

# %% [markdown]
# However large $g$ is, the gain of the whole stays below $1 / (1 - s)$. And each line that is there only for speed is one
# more to read. So `core` has a rule: **what gives less than 5 % of a whole step is not worth a line**.
#
# ## Idea 1 · Products out of the loop
#
# The loop exists because $h_t$ needs $h_{t-1}$. But $x_t W_x$ needs nothing from the step before. So $T$ products of $N$
# rows become **one product of $NT$ rows**, before the loop. It has the same operations, and reads $W_x$ from memory once
# instead of $T$ times.

# %% tags=["hide-input"]
sketch = Sketch(8.6, 2.5)
for t in range(4):
    y = 2.1 - 0.55 * t
    small = sketch.box(0.75, y, f"$x_{t + 1}$", width=0.9, height=0.36)
    weights = sketch.box(1.95, y, "$W_x$", "given", width=0.9, height=0.36)
    sketch.text(1.35, y, "@", GREY)
sketch.arrow((3.0, 1.28), (4.3, 1.28), kind="grey")
sketch.box(5.4, 1.28, "$x_1$\n$x_2$\n$x_3$\n$x_4$", width=0.9, height=2.2)
sketch.text(6.1, 1.28, "@", GREY)
sketch.box(6.9, 1.28, "$W_x$", "given", width=0.9, height=0.5)
sketch.text(6.9, 0.75, "read once", GREY, 11)
sketch.show()

# %% [markdown]
# Backward, the loop is needed for $da_t$, the gradient of $a_t = x_t W_x + h_{t-1} W_h + b$. Once all $da_t$ are known,
# the gradients of the weights need no loop. One entry, with the captions $n$ of the batch:
#
# $$ (dW_h)_{km} = \sum_t \sum_n (h_{t-1})_{nk} \, (da_t)_{nm} $$
#
# The two sums are one sum over all pairs $(t, n)$, and a sum over a shared index is what a product does.
#
# **Task.** Write $dW_h$ as **one** product, without a loop.


# %% tags=["task"]
def dWh_at_once(before, da):
    """The states before each step (T, N, H) and da (T, N, 4H) -> dWh (H, 4H)."""
    ### BEGIN SOLUTION
    return before.reshape(-1, before.shape[2]).T @ da.reshape(-1, da.shape[2])
    ### END SOLUTION


before, da = (np.random.default_rng(2).standard_normal((6, 3, n)) for n in (4, 16))
compare(dWh_at_once, lambda h, da: sum(h[t].T @ da[t] for t in range(6)), before, da)

# %% [markdown]
# The twin of `lstm_forward` is `lstm_packed_forward`. It gets $x W_x + b$ of all steps as `inputs`, and has a single
# product in its loop: find it. (`M` counts the rows of all steps together. `packing` belongs to idea 2, `by_gate` and
# `gates_apart` to idea 3.)

# %%
show_source(lstm_packed_forward, docstring=False)

# %% [markdown]
# A twin must give the numbers of its definition. We check states and gradients in float64, first with captions that all
# have full length:

# %%
exact = {name: w.astype(np.float64) for name, w in p.items()}
x64, h64 = vectors.astype(np.float64), h0.astype(np.float64)
dh64 = np.random.default_rng(2).standard_normal((N, T, H))
states, cache = lstm_forward(x64, h64, exact["Wx"], exact["Wh"], exact["b"])
_, dh0, _, dWh, _ = lstm_backward(dh64, cache)

# %%
full = Packing(np.full(N, T), T)
inputs = full.pack(x64) @ exact["Wx"] + exact["b"]
packed, cache = lstm_packed_forward(inputs, h64, exact["Wh"], full)
_, dh0_packed, dWh_packed = lstm_packed_backward(full.pack(dh64), cache)
for got, want in (
    (full.unpack(packed), states),
    (dh0_packed, dh0),
    (dWh_packed, dWh),
):
    assert relative_error(got, want) < 1e-12
print("states, dh0 and dWh are the same to 1e-12")

# %% [markdown]
# Now the whole step. We take the finished twin and switch ideas 2 to 5 off. (It has a few
# smaller changes, too, such as a product in another form: see [lesson 7b](07b_how_near_to_the_limit.ipynb). They count
# with idea 1 here.)
#
# **Predict.** We race with 64 captions and with 8. Where does idea 1 gain more?


# %% tags=["hide-input"]
def twin(**changes):
    """The fast LSTM in one part, with some of its attributes changed."""
    fast = build_fast_model("lstm", SIZES["lstm"], VOCABULARY, model.params)
    for name, value in ({"rows_of_a_part": (N + 1, None)} | changes).items():
        setattr(fast, name, value)
    return fast


def in_columns(function):
    """The same function, while gates are four blocks of columns."""

    def slower():
        with patch.object(recurrent, "gates_apart", lambda a: by_gate(a.copy())):
            function()

    return slower


# %% tags=["measured"]
out_of_the_loop = in_columns(step(twin(null=-1)))  # -1: nothing counts as padding
print("64 captions")
of_64 = race(definitions=definitions, products_out_of_the_loop=out_of_the_loop)
print("8 captions")
eight = features[:8], captions[:8]
of_8 = race(
    definitions=step(model, batch=eight),
    products_out_of_the_loop=in_columns(step(twin(null=-1), batch=eight)),
)
assert faster(of_8) > 1.1

# %% [markdown]
# <details><summary>Answer</summary>
#
# With 8. In the loop, each step reads all of $W_x$ (2 MB), and writes a gradient of $W_h$ (4 MB) that is then added to
# the sum. That is the same for 8 rows as for 64, but 8 rows have an eighth of the operations. (Libraries for GPUs also take
# products out of the loop: Appleyard and others, 2016.)
# </details>
#
# ## Idea 2 · Padding left out
#
# Captions differ in length, but all rows of an array have the same one. The definitions compute the padding like
# everything else. It is easy to leave out **if the captions are in the right order**: longest first. Then the captions
# that still have a word at step $t$ are always the *first* rows. Three captions of 4, 2 and 5 words:


# %% tags=["hide-input", "picture"]
def draw(ax, cells, title, width):
    """Cells (column, row, letter, colour); a letter of None is padding."""
    for column, row, letter, colour in cells:
        ax.add_patch(
            plt.Rectangle(
                (column, -row), 0.92, 0.9, facecolor=colour if letter else "white",
                alpha=0.45, edgecolor="grey", linestyle="-" if letter else ":",
            )
        )  # fmt: skip
        ax.text(column + 0.46, 0.45 - row, letter or "pad", ha="center", va="center")
    deepest = max(row for _, row, _, _ in cells)
    ax.set(xlim=(-0.2, width), ylim=(-deepest - 0.7, 1), title=title)
    ax.axis("off")


letters, lengths = ["abcd", "ef", "ghijk"], np.array([4, 2, 5])
colours = BLUE, ORANGE, GREY
small = Packing(lengths, 5)
figure = plt.figure(figsize=(10, 4))
(left, right), below = figure.subplots(2, 2)[0], figure.add_subplot(2, 1, 2)
for ax in figure.axes[2:4]:
    ax.remove()
for ax, order, title in ((left, range(3), "padded"), (right, small.order, "longest first")):
    grid = [
        (t, row, letters[n][t] if t < lengths[n] else None, colours[n])
        for row, n in enumerate(order) for t in range(5)
    ]  # fmt: skip
    draw(ax, grid, title, 5)
line = [divmod(int(entry), 5) for entry in small.entries]
entries = [(m, 0, letters[n][t], colours[n]) for m, (n, t) in enumerate(line)]
draw(below, entries, "packed: a step is a slice, and no padding is left", 11)
for t, (now, _) in enumerate(small.steps):
    below.plot([now.start, now.stop - 0.08], [-0.12, -0.12], color="k")
    below.text((now.start + now.stop) / 2, -0.45, f"step {t}", ha="center", fontsize=10)
plt.show()
assert "".join(letters[n][t] for n, t in line) == "gaehbficjdk"

# %% [markdown]
# Why sort? The first rows of an array are a **view**: NumPy copies nothing. Rows in any other order have to be copied, at
# every step:

# %%
a = np.arange(48.0).reshape(6, 8)
for text, result in {
    "a[:4]            the first rows": a[:4],
    "a[[0, 2, 3, 5]]  a list of rows": a[[0, 2, 3, 5]],
    "a[a[:, 0] > 8]   a mask": a[a[:, 0] > 8],
}.items():
    print(f"{'view' if np.shares_memory(a, result) else 'copy'}   {text}")
assert np.shares_memory(a, a[:4]) and not np.shares_memory(a, a[[0, 2, 3, 5]])

# %% [markdown]
# **Task.** How many rows does step $t$ have? Steps count from 0, as in the figure.


# %% tags=["task"]
def rows_at(lengths, t):
    """The lengths of the captions (N,), in any order, and a step -> a number of rows."""
    ### BEGIN SOLUTION
    return int(np.count_nonzero(lengths > t))
    ### END SOLUTION


def all_rows():
    rows = [rows_at(np.array([4, 2, 5]), t) for t in range(5)]
    assert None in rows or sum(rows) <= 11, "a caption of 2 words ends with step 1"
    return None if None in rows else rows


confirm(all_rows, lambda rows: rows == [3, 3, 2, 2, 1], "11 rows in all, fewer and fewer")

# %% [markdown]
# The twin also makes scores for the words only. Now the check on captions of different lengths. The definition computes
# the padding, too, but no gradient comes from there (`dh64` times the mask):

# %%
packing = Packing(lengths_of(mask), T)
inputs = packing.pack(x64) @ exact["Wx"] + exact["b"]
packed, cache = lstm_packed_forward(inputs, h64, exact["Wh"], packing)
_, dh0_packed, dWh_packed = lstm_packed_backward(packing.pack(dh64), cache)

_, cache = lstm_forward(x64, h64, exact["Wx"], exact["Wh"], exact["b"])
_, dh0, _, dWh, _ = lstm_backward(dh64 * mask[:, :, None], cache)
assert relative_error(packed, packing.pack(states)) < 1e-12
assert relative_error(dh0_packed, dh0) < 1e-12 and relative_error(dWh_packed, dWh) < 1e-12

# %% tags=["measured"]
without_padding = in_columns(step(twin()))
_ = race(padded=out_of_the_loop, padding_left_out=without_padding)
print(f"{np.mean(~mask):.0%} of the places are padding")

# %% [markdown]
# It can hardly save more than the share of the padding. It saves less where the last steps have few rows: a product of few
# rows costs more per row, as in idea 1. And Adam does not depend on the padding at all.
#
# ## Idea 3 · Each gate in one piece
#
# The product gives the gates as four blocks of columns of one array, $(N, 4H)$. In memory a row of one gate is followed
# by rows of the others. So NumPy copies the rows of a gate into a buffer, works there, and copies them back. The twin
# copies the gates apart once, before the loop (`gates_apart`): each is then one piece of memory.
#
# **Predict.** First we race a tanh of the four gates, then the whole step. How much of the first gain is left in the second?

# %% tags=["measured"]
a = np.random.default_rng(1).standard_normal((N, 4 * H), dtype=np.float32)
columns, piece = by_gate(a.copy()), gates_apart(a)
assert np.array_equal(columns, piece)
_ = race(
    tanh_in_columns=lambda: [np.tanh(gate, out=gate) for gate in columns],
    tanh_in_one_piece=lambda: np.tanh(piece, out=piece),
)
in_one_piece = step(twin())
_ = race(gates_in_columns=without_padding, each_gate_in_one_piece=in_one_piece)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Next to nothing: such work is a small share of the step, and Amdahl's formula says the rest.
# </details>
#
# By the rule of 5 % the idea is not worth a line. But it costs none: the loop needs a copy to write into in any case, and
# makes it in this order.
#
# ## Idea 4 · Adam in place
#
# Adam is a dozen elementwise operations, and no product. Written as formulas, each operation makes a new array as large
# as the parameter, which goes to memory and back. `update_in_place` cuts the parameters into pieces that fit into a
# core's cache (its own small, fast memory). It does all operations on one piece, then takes the next.

# %%
by_formula, in_place = ({name: w.copy() for name, w in exact.items()} for _ in range(2))
gradients = {name: gradient.astype(np.float64) for name, gradient in grads.items()}
formula_configs, place_configs = ({name: {} for name in exact} for _ in range(2))
for _ in range(3):
    update_in_place("adam", in_place, gradients, place_configs)
    for name, w in by_formula.items():
        by_formula[name], _ = optim.adam(w, gradients[name], formula_configs[name])
assert all(relative_error(in_place[name], by_formula[name]) < 1e-12 for name in exact)
print("after three updates: the same parameters to 1e-12")

# %% tags=["measured"]
adam_in_place = step(twin(), FastEngine)
_ = race(new_arrays=in_one_piece, adam_in_place=adam_in_place)

# %% [markdown]
# ## Idea 5 · Parts on threads, and the trap
#
# A *thread* is a line of work inside a program; two threads can use two cores. But Python runs one thread at a time: the
# one that computes holds a lock. NumPy **lets go of the lock** while it works on an array.
#
# **Predict.** Two sums in pure Python, and two calls of `np.tanh`: which pair gains from a second thread, and how much
# at most?

# %% tags=["measured"]
blocks = [np.ones(1 << 20, np.float32) for _ in range(2)]
with ThreadPoolExecutor(2) as pool:
    print("pure Python")
    python = race(
        200,
        one_after_the_other=lambda: [sum(range(30_000)) for _ in range(2)],
        two_threads=lambda: list(pool.map(sum, [range(30_000)] * 2)),
    )
    print("np.tanh")
    tanh = race(
        200,
        one_after_the_other=lambda: [np.tanh(block, out=block) for block in blocks],
        two_threads=lambda: list(pool.map(lambda block: np.tanh(block, out=block), blocks)),
    )
assert faster(python) < 1.3 and faster(tanh) < 2.3

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the tanh, and it becomes at most twice as fast. It gains less where both threads wait for the same memory, and
# nothing while another program uses the second core.
# </details>
#
# There are two ways to use a second core. BLAS, the library that computes the products, can split **each product**
# between its threads. Or we split **the batch** into parts: the loss is a sum over captions, so loss and gradients are
# sums over the parts.

# %% tags=["hide-input"]
sketch = Sketch(8.6, 2.9)
for top, title in ((2.35, "each product split"), (0.95, "the batch split")):
    sketch.text(1.0, top - 0.25, title, GREY)
    for core in (0, 1):
        y = top - 0.5 * core
        sketch.text(2.45, y, f"core {core + 1}", GREY, 11)
        if top > 2:
            for k in range(3):
                sketch.box(3.3 + 1.8 * k, y, "product", width=0.85, height=0.36, size=10)
                kind, text = ("given", "gates") if core == 0 else ("wrong", "waits")
                sketch.box(4.2 + 1.8 * k, y, text, kind, width=0.85, height=0.36, size=10)
        else:
            sketch.box(
                5.55, y, f"all steps of part {core + 1}", width=5.35, height=0.36, size=10
            )
sketch.show()

# %% tags=["hide-input"]
batch = features.astype(np.float64), captions
config = SIZES["lstm"] | {"dtype": np.float64}
whole_model, two_parts = (
    build_fast_model("lstm", config, VOCABULARY, model.params) for _ in range(2)
)
whole_model.rows_of_a_part, two_parts.rows_of_a_part = (N + 1, None), (N // 2, None)
(loss, grads_of_one), (loss_of_two, grads_of_two) = (
    each.loss(*batch) for each in (whole_model, two_parts)
)
assert abs(loss_of_two - loss) < 1e-12 * loss
assert all(relative_error(grads_of_two[k], w) < 1e-12 for k, w in grads_of_one.items())
print("two parts: the same loss and gradients to 1e-12")

# %% [markdown]
# The first way is NumPy's default, and it has a trap. A BLAS thread that has done its share **waits awake**: it keeps its
# core busy, in case another product comes soon. And when another program uses one of the cores, every product waits for
# its slower half. Threads of Python sleep while they wait.
#
# We measure both ways, alone and then beside one more job per core. This time we print the median, not the fastest turn:
# waiting is what we want to see.


# %% tags=["hide-input"]
@contextmanager
def beside_other_jobs(number):
    """Meanwhile, so many other processes compute."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(number)]
    sleep(0.3)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def with_threads(threads, function):
    """The same function, while a product has so many threads."""

    def limited():
        with blas.limit(limits=threads):
            function()

    return limited


# %% tags=["measured"]
on_parts = step(twin(rows_of_a_part=(N // 2, None)), FastEngine)
ways = {
    "one thread": adam_in_place,
    "BLAS threads in each product": with_threads(CORES, adam_in_place),
    "parts on two threads": with_threads(CORES, on_parts),
}
for number in (0, CORES):
    print(f"beside {number} more jobs")
    with beside_other_jobs(number):
        _ = report(side_by_side.in_turn(ways, 0.6))

# %% [markdown]
# Compare the second lines of the two tables. (If it is slow in the first one, too, the machine was not idle.) So
# `core/fast/threads.py` gives each part one BLAS thread, and makes parts only where a step is large enough. With a free
# core the parts gain. Without one they may lose a little, while split products lose a lot.
#
# ## All together
#
# Whole steps again. Each row adds one idea to the row above:

# %% tags=["hide-input", "measured"]
ladder = race(
    definitions=definitions,
    products_out_of_the_loop=out_of_the_loop,
    padding_left_out=without_padding,
    each_gate_in_one_piece=in_one_piece,
    Adam_in_place=adam_in_place,
    parts_on_two_threads=with_threads(CORES, on_parts),
)
plt.figure(figsize=(6.4, 2.7))
plt.barh([name.replace("_", " ") for name in ladder], list(ladder.values()))
plt.gca().invert_yaxis()
plt.gca().set(xlabel="milliseconds", title="A whole training step, idea by idea")
plt.show()
assert ladder["definitions"] > 1.2 * ladder["Adam_in_place"]

# %% [markdown]
# The definitions say what is right; a twin may differ from them in speed alone. Here are twins of all four models in
# `core`, two of them from later lessons. First the check in float64: the loss, and the gradient of every parameter. Then
# a race on one thread.

# %%
for name in SIZES:
    config, draws = SIZES[name] | {"dtype": np.float64}, np.random.default_rng(3)
    plain = build_model(name, config, VOCABULARY, rng=draws)
    fast = build_fast_model(name, config, VOCABULARY, plain.params)
    images, texts = side_by_side.batch_like_real_ones(16, plain.grid, draws)
    loss, grads_ = plain.loss(images, texts)
    fast_loss, fast_grads = fast.loss(images, texts)
    assert abs(fast_loss - loss) < 1e-9 * abs(loss) and fast_grads.keys() == grads_.keys()
    worst = max(np.abs(fast_grads[key] - grads_[key]).max() for key in grads_)
    assert worst < 1e-9
    print(f"{name:<12} loss {loss:8.4f} nats per caption, {len(grads_)} gradients to 1e-9")

# %% tags=["measured"]
gains = []
for name in SIZES:
    plain = build_model(name, SIZES[name], VOCABULARY)
    fast = build_fast_model(name, SIZES[name], VOCABULARY, plain.params)
    batch = side_by_side.batch_like_real_ones(64, plain.grid, np.random.default_rng(2))
    print(name)
    gains.append(
        faster(race(plain=step(plain, batch=batch), twin=step(fast, FastEngine, batch)))
    )
print(f"\non one thread the twins are {min(gains):.1f} to {max(gains):.1f} times as fast")
assert np.prod(gains) > 1.5 and max(gains) < 4

# %% [markdown]
# ## The tempting wrong way: float64 creeps in
#
# Parameters are float32. One innocent number makes everything float64, without a warning. In NumPy 2 a *Python* number
# takes the type of the array. A *NumPy* number (what a NumPy function returns) has a type of its own, as an array has.
#
# **Predict.** Which of these five are float64?
#
#     x / 512**0.5      x * (x > 0)      x / np.sqrt(512)      x * (x > 0).astype(int)
#     x * np.geomspace(1e-4, 1e-1, 4)[1]

# %% tags=["hide-input"]
x = np.ones((2, 3), np.float32)
found = {
    "x / 512**0.5": x / 512**0.5,
    "x * (x > 0)": x * (x > 0),
    "x / np.sqrt(512)": x / np.sqrt(512),
    "x * (x > 0).astype(int)": x * (x > 0).astype(int),
    "x * np.geomspace(1e-4, 1e-1, 4)[1]": x * np.geomspace(1e-4, 1e-1, 4)[1],
}
for text, value in found.items():
    print(f"{value.dtype!s:<9} {text}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The last three. `np.sqrt` and `np.geomspace` return float64. float32 times an array of int64 gives float64,
# too; times True and False it stays float32.
# </details>
#
# The last one happens in a search for a learning rate. One step of gradient descent with such a rate, by hand and by
# `core.optim`:

# %%
rate = np.geomspace(1e-4, 1e-1, 4)[1]
crept = {name: w - rate * grads[name] for name, w in p.items()}
guarded = {
    name: optim.sgd(w, grads[name], {"learning_rate": rate})[0] for name, w in p.items()
}
wide, narrow = twin(params=crept), twin(params=guarded)
assert crept["Wh"].dtype == np.float64 and guarded["Wh"].dtype == np.float32
assert np.isclose(wide.evaluate(features, captions), narrow.evaluate(features, captions))

# %% tags=["measured"]
times = race(
    float64_crept_in=lambda: wide.loss(features, captions),
    float32=lambda: narrow.loss(features, captions),
)
assert faster(times) > 1.3

# %% [markdown]
# The same loss, no warning, and far more time: twice the bytes, and half as many numbers per instruction of the
# processor. `core.optim` turns its numbers into Python floats first. In your own code this line after the first step
# finds it: `assert all(w.dtype == np.float32 for w in params.values())`.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/07_from_loops_to_gemms.ipynb); the notebook tells you at once
# whether they hold. Whether they are fast, you measure yourself.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · Count a step (one line)
#
# How many floating-point operations do the products of a *vanilla RNN* captioner need for one word, forward and
# backward? Word vectors of width $W$, states of width $H$, scores of $V$ words.


# %% tags=["exercise"]
def operations_of_a_word(W, H, V):
    ### BEGIN SOLUTION
    return 3 * 2 * (W * H + H * H + H * V)
    ### END SOLUTION


COUNTED = {(256, 512, 1004): 5443584, (3, 5, 7): 450, (5, 3, 2): 180}
compare(
    operations_of_a_word,
    lambda *sizes: COUNTED[sizes],
    256,
    512,
    1004,
    also={"for W, H, V = 3, 5, 7": (3, 5, 7), "for W, H, V = 5, 3, 2": (5, 3, 2)},
    exercise="07.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Back through time with one product in the loop
#
# Write a twin of `rnn_backward` whose loop holds a single product, the one that takes the gradient to the step
# before. `dx`, `dWx`, `dWh` and `db` follow after the loop, from all the $da_t$ at once. `cache` is
# `(x, h0, Wx, Wh, h)` with $x$ $(N, T, D)$ and $h$ $(N, T, H)$; `dh` is $(N, T, H)$. Return
# `dx, dh0, dWx, dWh, db`.


# %% tags=["exercise"]
def with_states_forward(x, h0, Wx, Wh, b):
    h, _ = rnn_forward(x, h0, Wx, Wh, b)  # the definition
    return h, (x, h0, Wx, Wh, h)


def one_product_backward(dh, cache):
    x, h0, Wx, Wh, h = cache
    N, T, H = h.shape
    ### BEGIN SOLUTION
    da, dprev_h = np.empty_like(h), np.zeros_like(h0)
    for t in reversed(range(T)):
        da[:, t] = (dh[:, t] + dprev_h) * (1 - h[:, t] ** 2)
        dprev_h = da[:, t] @ Wh.T
    before = np.concatenate([h0[:, None], h[:, :-1]], axis=1).reshape(N * T, H)
    flat = da.reshape(N * T, H)
    dx = (flat @ Wx.T).reshape(x.shape)
    dWx, dWh = x.reshape(N * T, -1).T @ flat, before.T @ flat
    return dx, dprev_h, dWx, dWh, flat.sum(axis=0)
    ### END SOLUTION


check("rnn_backward", one_product_backward, forward=with_states_forward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: a recurrence without padding
#
# Write an RNN over captions of different lengths: $h$ $(N, T, H)$, with zeros after the end of each caption.
# `lengths` holds a number from 1 to $T$ for each row, in no order. Use the given `product` for $h W_h$, and only
# there: the check counts its rows, and there should be exactly one per word. `core/fast/packing.py` is one way. A shorter
# one sorts row *numbers*, and leaves `x` in its order.


# %% tags=["exercise"]
def rnn_without_padding(x, lengths, h0, Wx, Wh, b, product=np.matmul):
    ### BEGIN SOLUTION
    N, T, _ = x.shape
    out = np.zeros((N, T, len(Wh)), x.dtype)
    order = np.argsort(-lengths, kind="stable")
    h = h0[order]
    for t in range(lengths.max()):
        rows = order[: np.count_nonzero(lengths > t)]
        h = np.tanh(x[rows, t] @ Wx + product(h[: len(rows)], Wh) + b)
        out[rows, t] = h
    return out
    ### END SOLUTION


def with_padding(x, lengths, h0, Wx, Wh, b):
    states, _ = rnn_forward(x, h0, Wx, Wh, b)
    return states * (np.arange(x.shape[1]) < lengths[:, None])[:, :, None]


ragged_rng = np.random.default_rng(7)
ragged_lengths = np.array([3, 7, 1, 5, 7, 2])
ragged = [
    ragged_rng.standard_normal((6, 7, 4)), ragged_lengths,
    ragged_rng.standard_normal((6, 5)),
    *(0.5 * ragged_rng.standard_normal(s) for s in ((4, 5), (5, 5), (5,))),
]  # fmt: skip
one_row = ragged[0][:1, :4], np.array([4]), ragged[2][:1], *ragged[3:]
of_one_word = ragged[0], np.ones(6, dtype=int), *ragged[2:]
compare(
    rnn_without_padding,
    with_padding,
    *ragged,
    also={"for one caption": one_row, "for captions of one word": of_one_word},
    exercise="07.3",
)


# %% tags=["exercise"]
def rows_multiplied():
    """How many rows the product with Wh got in all."""
    rows = []

    def counted(a, W):
        rows.append(len(a))
        return a @ W

    rnn_without_padding(*ragged, product=counted)
    return sum(rows)


confirm(
    rows_multiplied,
    lambda rows: rows == 25,
    "25 rows, as many as there are words",
    exercise="07.3b",
)

# %% [markdown]
# ## What you have now
#
# * A way to count: $2NDM$ operations per product, and three times the forward for a training step.
# * A way to measure: whole steps, because a gain on a small part is a small gain.
# * Five ideas that compute the same numbers in less time, and checks that the numbers are the same.
#
# **Sources.** G. Amdahl, *Validity of the single processor approach to achieving large scale computing
# capabilities*, AFIPS 1967. J. Appleyard, T. Kočiský and P. Blunsom, *Optimizing performance of recurrent neural
# networks on GPUs*, 2016.
#
# **Next:** [lesson 8, soft attention](08_soft_attention.ipynb): a model that looks at the picture again at every word.
# [Lesson 7b](07b_how_near_to_the_limit.ipynb) asks how near all this comes to what the processor can do.
