# %% [markdown]
# # 7 · From loops to GEMMs
#
# **The question.** The program you have read so far trains: `python training.py --engine plain` runs the very
# functions of lesson 6, a step for each word. But without that option training runs a twin, from `core/fast/`.
# What makes the twin faster, by how much, and how do we know that it computes the same?
#
# You take a training step apart and measure its parts. Then you add the ideas of `core/fast/`, one at a time, and
# after each you measure a **whole** step again. Most of the arithmetic is in products of matrices, for which
# libraries have one routine, GEMM (*general matrix multiply*). The rest is what we want to get rid of.
#
# *Before: [lesson 6](06_the_lstm.ipynb) (the LSTM). About 50 minutes; all cells together run in about one and a half.*
#
# **About the times on this page.** They come from the machine that made the page; yours gives others, and other
# ones every day. So the lesson asserts only that numbers are *equal*. That one way is faster than another, it
# measures and shows.

# %% tags=["setup"]
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter, sleep
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from core import lessons, optim
from core.captioning_solver import NumpyEngine
from core.checkpoint import load_checkpoint
from core.decoding import greedy
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
    sigmoid,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from core.lessons import compare, confirm, show_source
from core.models import build_model
from core.rnn_layers import (
    lstm_backward,
    lstm_forward,
    lstm_step_backward,
    lstm_step_forward,
    rnn_forward,
)
from core.torch_models import TorchEngine, build_torch_model

sys.path.insert(0, str(lessons.ROOT))  # the folder of the project, which has the benchmarks
from benchmarks import side_by_side
from benchmarks.side_by_side import SIZES, VOCABULARY

lessons.style()

# %% [markdown]
# ## By hand: what a product costs
#
# First, how much work is needed? A product of $(N, D)$ and $(D, M)$ has $N M$ entries. Each is a sum of $D$ terms:
# $D$ multiplications and $D$ additions. Count them on a tiny example:

# %%
A, B = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
operations, product = 0, np.zeros((2, 4))
for n, m, d in np.ndindex(2, 4, 3):
    product[n, m] += A[n, d] * B[d, m]
    operations += 2
assert np.array_equal(product, A @ B) and operations == 2 * 2 * 3 * 4
print(f"(2, 3) times (3, 4): {operations} operations")

# %% [markdown]
# So a product costs $2NDM$ operations. The gradients of $Y = XW$ are two products of the same size,
# $dX = dY\,W^T$ and $dW = X^T dY$: **a training step costs three times its forward**.
#
# Now an LSTM captioner of ordinary size: word vectors of $W = 256$, states of $H = 512$, $V = 1004$ words, and 64
# captions with the lengths of Flickr8k's. A word costs
#
# $$ 3 \cdot 2 \cdot \big( \underbrace{W \cdot 4H}_{x W_x} + \underbrace{H \cdot 4H}_{h W_h} +
#    \underbrace{H \cdot V}_{\text{scores}} \big) \text{ operations.} $$
#
# An image costs a little more, once, for $h_0$: two products instead of three, since nobody asks for the gradient
# of its features.

# %%
features, captions = side_by_side.batch_like_real_ones(64, False, np.random.default_rng(0))
words, targets = captions[:, :-1], captions[:, 1:]
mask = targets != 0  # padding is not scored
(N, T), D, W, H, V = words.shape, features.shape[1], 256, 512, len(VOCABULARY)

# %%
a_word = 3 * 2 * (W * 4 * H + H * 4 * H + H * V)
needed = mask.sum() * a_word + 2 * 2 * N * D * H
print(f"{N} captions, padded to {T} words: {N * T} places, {mask.sum()} of them words")
print(
    f"a word: {a_word / 1e6:.1f} million operations; the step: {needed / 1e9:.1f} billion"
)
print(f"the padding would cost {(~mask).sum() * a_word / 1e9:.1f} billion more")

# %% [markdown]
# One core does some 10 to 100 billion operations a second, if they come as large products. So the step needs at
# least a tenth of a second or so. This is the floor.
#
# ## The definitions, with a stopwatch
#
# A training step is loss, gradients, clipping and Adam. Two helpers: `step` gives the step of a model as a function
# without arguments, `race` lets such functions take turns and reports the fastest turn of each: other programs can
# only add to a time.


# %%
def step(model, engine=NumpyEngine, batch=(features, captions)):
    """A whole training step: loss, gradients, clipping, Adam."""
    rule = engine(model, "adam", side_by_side.STILL, side_by_side.CLIP_NORM)
    return side_by_side.step_of(rule, *batch)


# %%
def fastest(functions, rounds=9):
    """They take turns; the fastest turn of each in milliseconds."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = perf_counter()
            function()
            times[name].append(1e3 * (perf_counter() - start))
    return {name: min(each) for name, each in times.items()}


# %%
def report(times):
    for name, time in times.items():
        gain = next(iter(times.values())) / time
        print(f"{name.replace('_', ' '):<32}{time:9.2f} ms{gain:8.2f} x")
    return times


def race(rounds=9, **functions):
    return report(fastest(functions, rounds))


# %% [markdown]
# Until the fifth idea every product has **one thread**. So we compare ideas, not cores.

# %%
CORES = number_of_threads()
blas = ThreadpoolController().select(user_api="blas")  # the library that makes the products
blas.limit(limits=1)
model = build_model("lstm", SIZES["lstm"], VOCABULARY, rng=np.random.default_rng(0))
definitions = step(model)

# %% [markdown]
# Where does the time of the definitions go? Each part runs by itself, on what it gets in a step:

# %%
p = model.params
h0, _ = affine_forward(features, p["W_proj"], p["b_proj"])
vectors, word_cache = word_embedding_forward(words, p["W_embed"])
h, lstm_cache = lstm_forward(vectors, h0, p["Wx"], p["Wh"], p["b"])

# %%
scores, score_cache = temporal_affine_forward(h, p["W_vocab"], p["b_vocab"])
_, dscores = temporal_softmax_loss(scores, targets, mask)
dh, _, _ = temporal_affine_backward(dscores, score_cache)
dvectors = lstm_backward(dh, lstm_cache)[0]
_, grads = model.loss(features, captions)

# %%
params, configs = dict(p), {name: dict(side_by_side.STILL) for name in p}


def adam():
    clipped, _ = optim.clip_gradient_norm(grads, side_by_side.CLIP_NORM)
    for name in params:
        params[name], configs[name] = optim.adam(params[name], clipped[name], configs[name])


# %%
parts = {
    "LSTM": lambda: lstm_forward(vectors, h0, p["Wx"], p["Wh"], p["b"]),
    "scores": lambda: temporal_affine_forward(h, p["W_vocab"], p["b_vocab"]),
    "softmax, loss": lambda: temporal_softmax_loss(scores, targets, mask),
    "scores backward": lambda: temporal_affine_backward(dscores, score_cache),
    "LSTM backward": lambda: lstm_backward(dh, lstm_cache),
    "word vectors backward": lambda: word_embedding_backward(dvectors, word_cache),
    "clipping, Adam": adam,
}

# %% tags=["measured"]
times = fastest(parts)
plt.barh(list(times), list(times.values()))
plt.gca().invert_yaxis()
plt.gca().set(xlabel="milliseconds, one thread", title="A step of the definitions, by part")
plt.show()
print(f"together {sum(times.values()):.0f} ms")

# %% [markdown]
# The two loops through time take most. What is in them? One step of each, and its products alone. Their difference
# is what NumPy does besides: gates, sums, new arrays.

# %% tags=["measured"]
x, zeros = vectors[:, 3], np.zeros((N, H), np.float32)
next_h, _, step_cache = lstm_step_forward(x, h0, zeros, p["Wx"], p["Wh"], p["b"])
da = np.random.default_rng(1).standard_normal((N, 4 * H), dtype=np.float32)
pieces = {
    "a step forward": lambda: lstm_step_forward(x, h0, zeros, p["Wx"], p["Wh"], p["b"]),
    "  its products": lambda: (x @ p["Wx"], h0 @ p["Wh"]),
    "a step backward": lambda: lstm_step_backward(next_h, zeros, step_cache),
    "  products for the inputs": lambda: (da @ p["Wx"].T, da @ p["Wh"].T),
    "  products for the weights": lambda: (x.T @ da, h0.T @ da),
}
for name, time in fastest(pieces).items():
    print(f"{name:<28}{time:6.2f} ms")

# %% [markdown]
# Ask three questions of each part. Must it be in the loop? Must it be done for every place? Must it go through
# memory?
#
# ## What a gain gives the whole
#
# A part takes the share $s$ of a step, and an idea makes that part $g$ times as fast. The rest stays as it is, so
# the step as a whole gets faster by
#
# $$ \frac{1}{1 - s + s / g} \qquad \text{(Amdahl, 1967).} $$
#
# However large $g$ is, this never passes $1 / (1 - s)$. Tiny example: a part that takes 4 ms of 100 ms, made a
# thousand times as fast.


# %%
def gain_of_the_whole(share, gain):
    return 1 / (1 - share + share / gain)


assert gain_of_the_whole(1, 7) == 7 and gain_of_the_whole(0, 7) == 1
print(f"a thousand times, on 4 %: {gain_of_the_whole(0.04, 1000):.3f} times for the whole")
assert gain_of_the_whole(0.04, 1000) < 1.05 < gain_of_the_whole(0.10, 2)

# %% [markdown]
# Every fast line costs the readers of the code time. So `core` has a rule: **an optimisation that gives less than
# 5 % of a whole step is not worth a line**. A part below 5 % is left alone, however slow it is.
#
# ## Idea 1 · Products out of the loop
#
# The loop exists because $h_t$ needs $h_{t-1}$. But $x_t W_x$ needs nothing of the step before. Row $(n, t)$ of a
# product reads row $(n, t)$ of its left factor and no other. So $T$ products of $N$ rows are **one product of $NT$
# rows**: the same operations, with $W_x$ read once instead of $T$ times.
#
# Backward, the gradients of the weights wait for nobody. Write out one entry of the sum over the steps:
#
# $$ (dW_h)_{km} = \sum_t \sum_n (h_{t-1})_{nk} \, (da_t)_{nm} $$
#
# Two sums whose order does not matter are one sum over all pairs $(n, t)$. Put the rows of all steps below each
# other, and $dW_h$ is one product, $(H, NT)(NT, 4H)$. It saves more than the forward does: each small product wrote
# a whole $dW_h$, 4 MB here, that was then added to the sum.

# %%
rng = np.random.default_rng(2)
before, da_t = rng.standard_normal((T, N, 8)), rng.standard_normal((T, N, 32))
in_the_loop = sum(before[t].T @ da_t[t] for t in range(T))
after_it = before.reshape(N * T, 8).T @ da_t.reshape(N * T, 32)
assert relative_error(after_it, in_the_loop) < 1e-12

# %% [markdown]
# The twin of `lstm_forward` is `lstm_packed_forward`, in `core/fast/recurrent.py`. It gets the products
# $x W_x + b$ of all steps and keeps a single product in its loop. (`Packing` is idea 2.)

# %%
show_source(lstm_packed_forward, docstring=False)

# %% [markdown]
# A twin must equal its definition. Here, in float64, with captions that are all of full length:

# %%
exact = {name: w.astype(np.float64) for name, w in p.items()}
x64, h64 = vectors.astype(np.float64), h0.astype(np.float64)
dh64 = rng.standard_normal((N, T, H))
states, cache = lstm_forward(x64, h64, exact["Wx"], exact["Wh"], exact["b"])
_, dh0, _, dWh, _ = lstm_backward(dh64, cache)

# %%
everything = Packing(np.full(N, T), T)
inputs = everything.pack(x64) @ exact["Wx"] + exact["b"]
packed, cache = lstm_packed_forward(inputs, h64, exact["Wh"], everything)
_, dh0_packed, dWh_packed = lstm_packed_backward(everything.pack(dh64), cache)
for got, want in (
    (everything.unpack(packed), states),
    (dh0_packed, dh0),
    (dWh_packed, dWh),
):
    assert relative_error(got, want) < 1e-12

# %% [markdown]
# Now the whole step. We take the twin and switch the ideas to come off again: nothing counts as padding, gates stay
# in columns, the batch stays in one part, and the definition of Adam moves the parameters. What remains is the
# first idea, and results that are written to where they are kept.


# %%
def twin(**changes):
    """The fast LSTM in one part, with some of its attributes changed."""
    fast = build_fast_model("lstm", SIZES["lstm"], VOCABULARY, model.params)
    for name, value in ({"rows_of_a_part": (N + 1, None)} | changes).items():
        setattr(fast, name, value)
    return fast


# %%
def in_columns(function):
    """The same function, while gates are four blocks of columns."""

    def slower():
        with patch.object(recurrent, "gates_apart", lambda a: by_gate(a.copy())):
            function()

    return slower


# %% tags=["measured"]
out_of_the_loop = in_columns(step(twin(null=-1)))
_ = race(definitions=definitions, products_out_of_the_loop=out_of_the_loop)

# %% [markdown]
# The gain is smaller than one may hope: at 64 rows a product is nearly as fast as it gets. With few rows it is
# not. The same race with 8 captions (libraries for GPUs do it for this reason; Appleyard and others, 2016):

# %% tags=["measured"]
eight = features[:8], captions[:8]
_ = race(
    definitions=step(model, batch=eight),
    products_out_of_the_loop=in_columns(step(twin(null=-1), batch=eight)),
)

# %% [markdown]
# ## Idea 2 · Padding left out
#
# Captions differ in length, arrays do not. So short captions are padded, and the definitions compute the padding
# like everything else. It is easy to leave out **if the rows are in the right order**: longest first. Then the
# captions that go on at step $t$ are always the *first* so many rows.


# %%
def draw(ax, cells, title, width):
    """Cells (column, row, letter, colour); a letter of None is padding."""
    for column, row, letter, colour in cells:
        ax.add_patch(
            plt.Rectangle(
                (column, -row), 0.92, 0.9, facecolor=colour if letter else "white",
                alpha=0.5, edgecolor="grey", linestyle="-" if letter else ":",
            )
        )  # fmt: skip
        ax.text(column + 0.46, 0.45 - row, letter or "pad", ha="center", va="center")
    deepest = max(row for _, row, _, _ in cells)
    ax.set(xlim=(-0.2, width), ylim=(-deepest - 0.7, 1), title=title)
    ax.axis("off")


# %% tags=["picture"]
letters, lengths = ["abcd", "ef", "ghijk"], np.array([4, 2, 5])
small = Packing(lengths, 5)
figure = plt.figure(figsize=(10, 4))
(left, right), below = figure.subplots(2, 2)[0], figure.add_subplot(2, 1, 2)
for ax in figure.axes[2:4]:
    ax.remove()
for ax, order, title in ((left, range(3), "padded"), (right, small.order, "longest first")):
    grid = [
        (t, row, letters[n][t] if t < lengths[n] else None, f"C{n}")
        for row, n in enumerate(order) for t in range(5)
    ]  # fmt: skip
    draw(ax, grid, title, 5)
line = [divmod(int(entry), 5) for entry in small.entries]
entries = [(m, 0, letters[n][t], f"C{n}") for m, (n, t) in enumerate(line)]
draw(below, entries, "packed: a step is a slice, and no padding is left", 11)
for t, (now, _) in enumerate(small.steps):
    below.plot([now.start, now.stop - 0.08], [-0.12, -0.12], color="k")
    below.text((now.start + now.stop) / 2, -0.45, f"step {t}", ha="center", fontsize=8)
plt.show()
assert "".join(letters[n][t] for n, t in line) == "gaehbficjdk"

# %% [markdown]
# Why sort? Unsorted, the rows that go on would have to be *gathered* at every step, which copies them. The first
# rows of an array are a **view**, which copies nothing:

# %%
a = np.arange(48.0).reshape(6, 8)
for text, result in {
    "a[:4]            the first rows": a[:4],
    "a[:, :2]         some columns": a[:, :2],
    "a[[0, 2, 3, 5]]  a list of rows": a[[0, 2, 3, 5]],
    "a[a[:, 0] > 8]   a mask": a[a[:, 0] > 8],
}.items():
    print(f"{'view' if np.shares_memory(a, result) else 'copy'}   {text}")
assert np.shares_memory(a, a[:4]) and not np.shares_memory(a, a[[0, 2, 3, 5]])

# %% [markdown]
# In `lstm_packed_forward`, `now` is the slice of a step's entries and `before` that of the states it starts from.
# Scores are made for words alone as well, and the loss counts nothing else. The check, on captions of different
# lengths; the definition sees the padding and gets no gradient from there.

# %%
packing = Packing(lengths_of(mask), T)
word_inputs = packing.pack(x64) @ exact["Wx"] + exact["b"]
packed, cache = lstm_packed_forward(word_inputs, h64, exact["Wh"], packing)
print(f"{N * T} places, {len(packed)} entries")
assert relative_error(packed, packing.pack(states)) < 1e-12

# %%
_, padded_cache = lstm_forward(x64, h64, exact["Wx"], exact["Wh"], exact["b"])
_, dh0, _, dWh, _ = lstm_backward(dh64 * mask[:, :, None], padded_cache)
_, dh0_packed, dWh_packed = lstm_packed_backward(packing.pack(dh64), cache)
assert relative_error(dh0_packed, dh0) < 1e-12 and relative_error(dWh_packed, dWh) < 1e-12

# %% tags=["measured"]
without_padding = in_columns(step(twin()))
_ = race(padded=out_of_the_loop, padding_left_out=without_padding)

# %% [markdown]
# It cannot save more than the share of the padding, and saves a little less: the last steps have few rows, and
# products of few rows are slow.
#
# ## Idea 3 · Each gate in one piece
#
# The gates come out of the product as four blocks of columns, $(N, 4H)$. `by_gate` views them as $(4, N, H)$. The
# numbers are the same; where they are in memory is not. A block of columns has a gap after each row. NumPy copies
# each row into a buffer, computes there, and copies back. A gate in one piece needs none of this.

# %%
a = np.arange(16.0).reshape(2, 8)  # 2 rows, 4 gates of width 2
columns, piece = by_gate(a)[0], gates_apart(a)[0]
print(
    "gate i in columns:", columns.tolist(), "  bytes to the next row:", columns.strides[0]
)
print("gate i, one piece:", piece.tolist(), "  bytes to the next row:", piece.strides[0])
assert np.array_equal(columns, piece) and piece.flags.c_contiguous

# %% [markdown]
# So the twin copies the gates apart once, before the loop (`gates_apart`). From then on $\sigma(a) =
# \frac{1}{2}(1 + \tanh \frac{a}{2})$ lets one tanh serve all four gates. Here is the tanh alone, in columns and in
# one piece; below it the sigmoid of [lesson 6](06_the_lstm.ipynb), beside one that picks its cases by a mask.


# %%
def sigmoid_by_mask(x):
    out, positive = np.empty_like(x), x >= 0
    out[positive] = 1 / (1 + np.exp(-x[positive]))
    exponentials = np.exp(x[~positive])
    out[~positive] = exponentials / (1 + exponentials)
    return out


assert relative_error(sigmoid_by_mask(a - 8), sigmoid(a - 8)) < 1e-12

# %% tags=["measured"]
columns, piece = by_gate(da.copy()), gates_apart(da)
_ = race(
    tanh_in_columns=lambda: [np.tanh(gate, out=gate) for gate in columns],
    tanh_in_one_piece=lambda: np.tanh(piece, out=piece),
)
_ = race(sigmoid_by_mask=lambda: sigmoid_by_mask(da), sigmoid_by_tanh=lambda: sigmoid(da))

# %% tags=["measured"]
in_one_piece = step(twin())
_ = race(gates_in_columns=without_padding, each_gate_in_one_piece=in_one_piece)

# %% [markdown]
# A large gain on a part, and a few per cent of the whole: that is Amdahl's formula at work. By the rule of 5 % the
# idea is hardly worth a line. It costs none: the loop writes into a copy in any case, and this is the better one.
#
# ## Idea 4 · Adam in place
#
# Adam is a dozen elementwise operations on every parameter, and no product. Written as formulas, each makes a new
# array as large as the parameter and sends it through memory. `update_in_place` cuts the parameters into pieces of
# 65,536 entries, which fit a core's cache, and does all operations on one piece before it takes the next.

# %%
by_formula, in_place = ({name: w.copy() for name, w in exact.items()} for _ in range(2))
gradients = {name: gradient.astype(np.float64) for name, gradient in grads.items()}
formula_configs, place_configs = ({name: {} for name in exact} for _ in range(2))

# %%
for _ in range(3):
    update_in_place("adam", in_place, gradients, place_configs)
    for name, w in by_formula.items():
        by_formula[name], _ = optim.adam(w, gradients[name], formula_configs[name])
assert all(relative_error(in_place[name], by_formula[name]) < 1e-12 for name in exact)
print("three steps of Adam, in place and by the formulas: equal to 1e-12")

# %% tags=["measured"]
adam_in_place = step(twin(), FastEngine)
_ = race(new_arrays=in_one_piece, adam_in_place=adam_in_place)

# %% [markdown]
# ## Idea 5 · Parts on threads, and the trap
#
# Python runs one thread at a time: the one that computes holds a lock. NumPy **lets go of the lock** while it works
# on an array. So two threads that call NumPy compute side by side, and two threads of pure Python do not:

# %% tags=["measured"]
blocks = [np.ones(1 << 22, np.float32) for _ in range(2)]
with ThreadPoolExecutor(2) as pool:
    print("pure Python")
    _ = race(
        one_after_the_other=lambda: [sum(range(300_000)) for _ in range(2)],
        two_threads=lambda: list(pool.map(sum, [range(300_000)] * 2)),
    )
    print("np.tanh")
    _ = race(
        one_after_the_other=lambda: [np.tanh(block) for block in blocks],
        two_threads=lambda: list(pool.map(np.tanh, blocks)),
    )

# %% [markdown]
# There are two ways to use a second core. BLAS, the library of the products, can split **each product** between its
# own threads. Or we split **the batch**: the loss is a sum over captions, so loss and gradients are sums over parts
# of the batch, each on a thread of Python's. The check:

# %%
batch = features.astype(np.float64), captions
config = SIZES["lstm"] | {"dtype": np.float64}
whole_model, two_parts = (
    build_fast_model("lstm", config, VOCABULARY, model.params) for _ in range(2)
)
whole_model.rows_of_a_part, two_parts.rows_of_a_part = (N + 1, None), (N // 2, None)

# %%
(loss, grads_of_one), (loss_of_two, grads_of_two) = (
    each.loss(*batch) for each in (whole_model, two_parts)
)
assert abs(loss_of_two - loss) < 1e-12 * loss
assert all(relative_error(grads_of_two[k], w) < 1e-12 for k, w in grads_of_one.items())

# %% [markdown]
# The first way is the default of most programs, and it has a trap. A BLAS thread whose share is done **waits
# awake**: it keeps its core busy, in case there is another product. Between two small products it burns time; and
# when another program wants the core, every product waits for its slower half. Threads of Python sleep while they
# wait. Measure both, alone and beside another job on every core. This time the median counts, not the fastest turn:
# waiting is what we want to see.


# %%
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


# %%
def with_threads(threads, function):
    """The same function, while a product has so many threads."""

    def limited():
        with blas.limit(limits=threads):
            function()

    return limited


# %% tags=["measured"]
on_parts = step(twin(rows_of_a_part=(N // 2, None)), FastEngine)
on_all_cores = {
    "one thread": adam_in_place,
    "BLAS threads in each product": with_threads(CORES, adam_in_place),
    "parts on two threads": with_threads(CORES, on_parts),
}
for number in (0, CORES):
    print(f"beside {number} more jobs")
    with beside_other_jobs(number):
        _ = report(side_by_side.in_turn(on_all_cores, 1))

# %% [markdown]
# Hence the policy of `core/fast/threads.py`: one BLAS thread for each part, and parts on threads only where a step
# is large enough. If your second line is no slower than the first, your cores were idle. With a free core the third
# line gains; without one it may lose a little, where the second loses many times over.
#
# ## All together
#
# Five ideas, each on top of those before it, in whole steps:

# %% tags=["measured"]
ladder = race(
    15,
    definitions=definitions,
    products_out_of_the_loop=out_of_the_loop,
    padding_left_out=without_padding,
    each_gate_in_one_piece=in_one_piece,
    Adam_in_place=adam_in_place,
    parts_on_two_threads=with_threads(CORES, on_parts),
)
plt.barh([name.replace("_", " ") for name in ladder], list(ladder.values()))
plt.gca().invert_yaxis()
plt.gca().set(xlabel="milliseconds", title="A whole training step, idea by idea")
plt.show()

# %% [markdown]
# ## Tried and measured: one deleted, one kept
#
# Captions say "a" again and again. So `core` once multiplied each **different** word with $W_x$ once and looked the
# products up. And it writes $da\,W_h^T$ as $(W_h\,da^T)^T$, a form that BLAS likes better where $W_h$ is wide
# (`back_through`). Both are right:

# %%
spoken = packing.pack(words)
different, which = np.unique(spoken, return_inverse=True)
once = (exact["W_embed"][different] @ exact["Wx"])[which]
assert relative_error(once, exact["W_embed"][spoken] @ exact["Wx"]) < 1e-12
few = da[:6].astype(np.float64)
assert relative_error((exact["Wh"] @ few.T).T, few @ exact["Wh"].T) < 1e-12
print(f"{len(spoken)} words, {len(different)} different ones")

# %% [markdown]
# What does each gain on its part, and what does Amdahl's formula then foretell for the whole?


# %%
def foretell(before, after):
    """The gain of the whole step where a part took one time and now takes another."""
    share = before / ladder["Adam_in_place"]
    print(
        f"{share:.0%} of a step: {gain_of_the_whole(share, before / after):.2f} x for the whole"
    )


# %% tags=["measured"]
times = race(
    each_word=lambda: p["W_embed"][spoken] @ p["Wx"],
    each_different_word_once=lambda: (p["W_embed"][different] @ p["Wx"])[which],
)
foretell(*times.values())

# %% tags=["measured"]
slices = [da[: now.stop - now.start] for now, _ in packing.steps]
times = race(
    da_WT=lambda: [a @ p["Wh"].T for a in slices],
    W_daT=lambda: [(p["Wh"] @ a.T).T for a in slices],
)
foretell(*times.values())

# %% [markdown]
# `benchmarks` took each away from whole steps. The look-up gave 1.00 (RNN), 1.08 (LSTM) and 1.00 (attention), and
# nothing at all with dropout, where two places with the same word no longer have the same vector. It is deleted: a
# few per cent under one condition do not pay for lines that everybody has to read.
#
# The other form gave nothing to the RNN and 1.06 to 1.19 to the LSTM, whose matrix is four times as wide. It stays
# there, in one line. What all ideas give that stayed is in [`docs/speed.md`](../docs/speed.md).
#
# ## A twin equals its definition
#
# The definitions are the program; a twin may only be faster. Here is the check for all four models, in float64:
# the loss, and the gradient of every parameter. `tests/test_fast.py` asks the same with gaps, empty captions and
# weights.

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

# %% [markdown]
# The attention and Transformer twins have one idea more each. Soft attention compares a question with the locations
# of a few images at a time and keeps no comparison: backward makes it again, in the cache. The Transformer's
# `memory_attention_forward` carries each question to the image, instead of making keys and values of every
# location. What all ideas of a twin give together, still on one thread:

# %% tags=["measured"]
for name in SIZES:
    plain = build_model(name, SIZES[name], VOCABULARY)
    fast = build_fast_model(name, SIZES[name], VOCABULARY, plain.params)
    batch = side_by_side.batch_like_real_ones(64, plain.grid, rng)
    print(name)
    _ = race(plain=step(plain, batch=batch), numpy=step(fast, FastEngine, batch))

# %% [markdown]
# ## One checkpoint, three engines
#
# `training.py` and `inference.py` read the same checkpoint whatever computes:
#
# | option | code | what it is |
# | --- | --- | --- |
# | `--engine plain` | `core/models/` | the definitions |
# | `--engine numpy` | `core/fast/` | their fast twins; what you get without the option |
# | `--engine torch` | `core/torch_models/` | PyTorch's parts; GPUs, several processes |
#
# So the same trained model must say the same with each. Its images here are random numbers: what the captions say
# does not matter, only that they are the same three times.

# %%
checkpoint = load_checkpoint(lessons.TRAINED / "lstm" / "best.npz")
seen = np.random.default_rng(4).standard_normal((5, checkpoint.config["input_dim"]))

# %%
said = {}
for engine, build in (
    ("plain", build_model), ("numpy", build_fast_model), ("torch", build_torch_model),
):  # fmt: skip
    captioner = build(
        checkpoint.model, checkpoint.config, checkpoint.idx_to_word, checkpoint.params
    )
    said[engine] = greedy(captioner, seen.astype(np.float32), 20)
assert np.array_equal(said["plain"], said["numpy"])
assert np.array_equal(said["plain"], said["torch"])
print(" ".join(checkpoint.idx_to_word[word] for word in said["plain"][0] if word))

# %% [markdown]
# How fast is hand-written NumPy beside PyTorch? Both on one thread, on the same batch, with PyTorch's fused LSTM and
# fused Adam. `make bench` runs this for all models and batch sizes.

# %% tags=["measured"]
torch.set_num_threads(1)
rule = TorchEngine(
    build_torch_model("lstm", SIZES["lstm"], VOCABULARY),
    "adam", side_by_side.STILL, side_by_side.CLIP_NORM,
)  # fmt: skip
pytorch = side_by_side.step_of(rule, torch.from_numpy(features), captions)
_ = race(plain=definitions, numpy=adam_in_place, torch=pytorch)

# %% [markdown]
# ## How near to what the processor can do?
#
# A part is slow for one of two reasons: many operations, or many bytes. Its **arithmetic intensity** is operations
# for each byte that it moves. For $h W_h$ with $n$ rows, in float32, that is
#
# $$ \frac{2 \cdot n \cdot H \cdot 4H}{4 \,( nH + H \cdot 4H + n \cdot 4H )} \;\approx\; \frac{n}{2}
#    \quad \text{for small } n. $$
#
# Let $P$ be the rate of a large product and $B$ the bandwidth of memory. A part of intensity $I$ cannot pass
# $\min(P, B I)$, its **roofline** (Williams and others, 2009), unless its data is in a cache already.


# %%
def intensity(n):
    return 2 * n * H * 4 * H / (4 * (n * H + H * 4 * H + n * 4 * H))


assert abs(intensity(1) - 0.5) < 0.01
print(
    "\n".join(f"{n:4} rows: {intensity(n):6.1f} operations a byte" for n in (1, 8, 64, 512))
)

# %% tags=["measured"]
square, block = np.ones((2048, 2048), np.float32), np.ones(1 << 25, np.float32)
room = np.empty_like(block)
limits = fastest({"P": lambda: square @ square, "B": lambda: np.copyto(room, block)})
peak, bandwidth = 2e-6 * 2048**3 / limits["P"], 2e-6 * block.nbytes / limits["B"]

# %% tags=["measured"]
points = []
for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
    rows = np.ones((n, H), np.float32)
    (time,) = fastest({"": lambda a=rows: a @ p["Wh"]}, 50).values()
    points.append((intensity(n), 2e-6 * n * H * 4 * H / time, n))

# %% tags=["measured"]
ramp = np.geomspace(0.2, 200, 50)
plt.loglog(ramp, np.minimum(peak, bandwidth * ramp), "k", label="roof")
places, rates, _ = np.transpose(points)
plt.loglog(places, rates, "o", label="$h W_h$, by rows")
for place, rate, n in points:
    plt.annotate(
        str(n), (place, rate), xytext=(0, -12), textcoords="offset points", ha="center",
        va="center", fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip
plt.gca().set(xlabel="operations for each byte", ylabel="billion operations a second")
plt.legend()
plt.show()
print(
    f"the {needed / 1e9:.1f} billion operations at the peak: {needed / peak / 1e6:.0f} ms"
)

# %% [markdown]
# The more rows, the more often each byte of $W_h$ is used. This is why idea 1 makes one large product of many small
# ones, and why a decoder that says one word for one image is limited by memory. At few rows, BLAS also copies $W_h$
# into the order that its inner loop wants (Goto and van de Geijn, 2008), at every call.
#
# ## The tempting wrong way: float64 creeps in
#
# Parameters are float32. One innocent number makes everything float64, and nothing warns. Under NumPy 2 a *Python*
# number takes the type of the array. A *NumPy* number has a type of its own, and `np.sqrt(512)` is one:

# %%
x = np.ones((2, 3), np.float32)
for text, value in {
    "x / 512**0.5": x / 512**0.5,
    "x * (x > 0)": x * (x > 0),
    "x / np.sqrt(512)": x / np.sqrt(512),
    "x * (x > 0).astype(int)": x * (x > 0).astype(int),
    "x * np.geomspace(1e-4, 1e-1, 4)[1]": x * np.geomspace(1e-4, 1e-1, 4)[1],
}.items():
    print(f"{value.dtype!s:<9} {text}")

# %% [markdown]
# The last one is how it happens in a search for a learning rate. One step of gradient descent with such a rate:

# %%
rate = np.geomspace(1e-4, 1e-1, 4)[1]
crept = {name: w - rate * grads[name] for name, w in p.items()}
guarded = {
    name: optim.sgd(w, grads[name], {"learning_rate": rate})[0] for name, w in p.items()
}

# %%
assert crept["Wh"].dtype == np.float64 and guarded["Wh"].dtype == np.float32
wide, narrow = twin(params=crept), twin(params=guarded)
assert np.isclose(wide.evaluate(features, captions), narrow.evaluate(features, captions))

# %% tags=["measured"]
_ = race(
    float64_crept_in=lambda: wide.loss(features, captions),
    float32=lambda: narrow.loss(features, captions),
)

# %% [markdown]
# The same loss, no warning, and far more time: twice the bytes, and half as many numbers in each instruction.
# `core.optim` makes Python floats of its numbers first. In your own code,
# `assert all(w.dtype == np.float32 for w in params.values())` after the first step finds it.
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
# `lengths` holds a number from 1 to $T$ for each row, in no order. Use the given `product` for $h W_h$ and
# nothing else: it counts the rows that it multiplies, and there should be exactly one for each word.
# `core/fast/packing.py` is one way; a shorter one sorts the rows and keeps them where they are.


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
# ## What to keep
#
# * Count first: $2NDM$ operations for a product, three times that for a training step.
# * Measure whole steps. A gain on a part is worth its share; below 5 % it is not worth a line.
# * What does not depend on the step before leaves the loop, as one large product.
# * Do not compute what nobody reads. Do not send through memory what fits a cache.
# * Threads that wait awake take cores from others, and from you.
# * The definitions are the program. A twin must equal them, and a test says so.
#
# **Sources.** G. Amdahl, *Validity of the single processor approach to achieving large scale computing
# capabilities*, AFIPS 1967. K. Goto and R. van de Geijn, *Anatomy of high-performance matrix multiplication*, ACM
# Transactions on Mathematical Software 34 (2008). S. Williams, A. Waterman and D. Patterson, *Roofline: an
# insightful visual performance model for multicore architectures*, Communications of the ACM 52 (2009). J.
# Appleyard, T. Kočiský and P. Blunsom, *Optimizing performance of recurrent neural networks on GPUs*, 2016.
#
# **Next:** [lesson 8, soft attention](08_soft_attention.ipynb): a model that looks at the image again at every
# word.
