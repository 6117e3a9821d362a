# %% [markdown]
# # 7 · From loops to GEMMs
#
# **The question.** The step functions of lesson 6 are right, readable and slow. Nearly all arithmetic of a
# captioner is in products of matrices, for which libraries have a routine called GEMM (*general matrix multiply*)
# that is as fast as the processor allows. Where does the rest of the time go, and how much of it can NumPy get
# back without changing a single result?
#
# You take a training step apart, measure its parts, and apply ten ideas, one at a time. Each must first be equal
# to the readable version, to 1e-12 in float64, and only then may it be fast. Then you count the operations of a
# step by hand, ask how near it comes to what the processor can do, and put it beside PyTorch.
#
# *Before: [lesson 6](06_the_lstm.ipynb) (the LSTM). About 60 minutes; all cells together run in about one.*
#
# **About the times on this page.** They were measured where the page was made, by medians of runs that take
# turns, and are others on every machine and every day. Run it on yours. What is asserted here is that numbers are
# *equal*; that one way is faster than another is measured and shown, and sometimes the answer is that it is not.

# %% tags=["setup"]
import sys
import textwrap
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from threadpoolctl import threadpool_limits

from core import lessons, optim
from core.attention_layers import additive_scores_backward, additive_scores_forward
from core.captioning_solver import NumpyEngine
from core.fast.packing import Packing, lengths_of
from core.fast.threads import in_parallel, number_of_threads
from core.gradient_check import check, relative_error
from core.lessons import compare, confirm, show_source
from core.models import build_model
from core.rnn_layers import (
    affine_backward,
    affine_forward,
    by_gate,
    look_up_gates,
    lstm_cell,
    lstm_packed_backward,
    lstm_packed_forward,
    lstm_step_backward,
    lstm_step_forward,
    rnn_step_forward,
    sigmoid,
    softmax_loss,
    sums_of_rows,
    temporal_affine_backward,
    temporal_affine_forward,
)

sys.path.insert(0, str(lessons.ROOT))  # the folder of the project, which has the benchmarks
from benchmarks import side_by_side, train_step

lessons.style()

# %% [markdown]
# ## By hand: what a product costs
#
# Before we look for time that is wasted, let us know how much is needed. A product of $(N, D)$ and $(D, M)$ has
# $N M$ entries, each a sum of $D$ terms: $D$ multiplications and $D$ additions. Count them on the smallest
# example:

# %%
A, B = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
operations, product = 0, np.zeros((2, 4))
for n in range(2):
    for m in range(4):
        for d in range(3):
            product[n, m] += A[n, d] * B[d, m]
            operations += 2
print(f"(2, 3) times (3, 4): {operations} operations; 2 * 2 * 3 * 4 = {2 * 2 * 3 * 4}")
assert np.array_equal(product, A @ B)

# %% [markdown]
# So a product costs $2NDM$ floating-point operations. The backward of $Y = XW$ is two products of the same size,
# $dX = dY\,W^T$ and $dW = X^T dY$: **a training step costs three times its forward**.
#
# Now an LSTM captioner of ordinary size: word vectors of $W = 256$, states of $H = 512$, a vocabulary of
# $V = 1004$, a batch of 64 captions whose lengths are those of Flickr8k's (`benchmarks/side_by_side.py` draws
# them). Each word that is read costs, forward and backward,
#
# $$ 3 \cdot 2 \cdot \big( \underbrace{W \cdot 4H}_{x W_x} + \underbrace{H \cdot 4H}_{h W_h} +
#    \underbrace{H \cdot V}_{\text{scores}} \big) $$
#
# operations, and each picture a little more, once, for $h_0$. (Its features are data: they need no gradient, which
# leaves two products instead of three.)

# %%
model, features, captions = side_by_side.model_and_batch("lstm", 64)
words, targets = captions[:, :-1], captions[:, 1:]
counts = targets != 0  # what is padding is not scored
(N, T), W, H, V = words.shape, 256, 512, 1004

a_word = 3 * 2 * (W * 4 * H + H * 4 * H + H * V)
a_picture = 2 * 2 * features.shape[1] * H
by_hand = counts.sum() * a_word + N * a_picture
print(f"{N} captions, padded to {T} words: {N * T} places, {counts.sum()} of them words")
print(
    f"a word: {a_word / 1e6:.1f} million operations; the step: {by_hand / 1e9:.1f} billion"
)
print(f"the padding would cost {(~counts).sum() * a_word / 1e9:.1f} billion more")
assert by_hand == train_step.operations(model, captions)

# %% [markdown]
# A core does some 10 to 100 billion such operations a second, if it is well fed. So the step takes a tenth of a
# second to a whole one on one core, whatever we do: the floor that we walk towards.
#
# ## The readable step, with a stopwatch
#
# Here is a whole training step made of functions that you know: affine, look-up, $T$ LSTM steps, scores of every
# place, softmax, all backward again. `clock` is called after each part; later we give it a stopwatch. The softmax
# is written as one would write it first.


# %%
def plain_softmax_loss(scores, y, weights):
    """Cross-entropy of (M, V) scores, straight from the formulas; loss and dscores."""
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    right = np.zeros_like(scores)
    right[np.arange(len(y)), y] = 1
    loss = -np.sum(weights * np.log((right * probabilities).sum(axis=1)))
    return loss, (probabilities - right) * weights[:, None]


def plain_loss(p, features, captions, clock=lambda part: None):
    """Loss and gradients of an LSTM captioner: word by word, padding and all."""
    words, targets = captions[:, :-1], captions[:, 1:]
    (N, T), grads = words.shape, {}
    clock("start")
    h, proj_cache = affine_forward(features, p["W_proj"], p["b_proj"])
    vectors = p["W_embed"][words]
    clock("picture, word vectors")
    c, states, caches = np.zeros_like(h), [], []
    for t in range(T):
        h, c, cache = lstm_step_forward(vectors[:, t], h, c, p["Wx"], p["Wh"], p["b"])
        states.append(h)
        caches.append(cache)
    states = np.stack(states, axis=1)
    clock("LSTM")
    scores, score_cache = temporal_affine_forward(states, p["W_vocab"], p["b_vocab"])
    clock("scores")
    weights = ((targets != 0) / N).astype(scores.dtype).ravel()
    loss, dscores = plain_softmax_loss(scores.reshape(N * T, -1), targets.ravel(), weights)
    clock("softmax, loss")
    dh, grads["W_vocab"], grads["b_vocab"] = temporal_affine_backward(
        dscores.reshape(scores.shape), score_cache
    )
    clock("scores backward")
    for name in ("Wx", "Wh", "b"):
        grads[name] = np.zeros_like(p[name])
    dh_next = dc_next = np.zeros_like(h)
    dvectors = np.empty_like(vectors)
    for t in reversed(range(T)):
        dvectors[:, t], dh_next, dc_next, dWx, dWh, db = lstm_step_backward(
            dh[:, t] + dh_next, dc_next, caches[t]
        )
        for name, gradient in (("Wx", dWx), ("Wh", dWh), ("b", db)):
            grads[name] = grads[name] + gradient
    clock("LSTM backward")
    grads["W_embed"] = np.zeros_like(p["W_embed"])
    np.add.at(grads["W_embed"], words, dvectors)
    _, grads["W_proj"], grads["b_proj"] = affine_backward(dh_next, proj_cache)
    clock("picture, words backward")
    return loss, grads


def plain_update(p, grads, configs):
    """Clipping and Adam, a parameter at a time, with a new array for every result."""
    grads, _ = optim.clip_gradient_norm(grads, side_by_side.CLIP_NORM)
    for name in p:
        p[name], configs[name] = optim.adam(p[name], grads[name], configs[name])


# %% [markdown]
# Two helpers to measure with. Those who are compared take turns, so that a machine that slows down slows down all
# of them. And until the tenth idea everything runs on **one thread**, so that we compare ideas and not cores.

# %%
ALL = number_of_threads()  # that products run on
threadpool_limits(1, user_api="blas")  # from here on one, but where it says otherwise


def race(seconds=0.4, threads=1, **contestants):
    """The median time of each in milliseconds; they take turns, and the first is free."""
    times = {name: [] for name in contestants}
    with threadpool_limits(threads, user_api="blas"):
        if threads > 1:
            # Longer turns, with pauses: threads wait for more work awake, on a core.
            return side_by_side.in_turn(contestants, seconds)
        for function in contestants.values():
            function()
        end, turns = perf_counter() + seconds, 0
        while perf_counter() < end or turns < 3:
            turns += 1
            for name, function in contestants.items():
                start = perf_counter()
                function()
                times[name].append(1e3 * (perf_counter() - start))
    return {name: median(each) for name, each in times.items()}


gains = {}


def gain(idea, seconds=0.4, threads=1, **contestants):
    """Races two or more, says who needs how long, and keeps first over last."""
    times = race(seconds, threads, **contestants)
    first, last = next(iter(times)), list(times)[-1]
    for name, time in times.items():
        print(f"{name.replace('_', ' '):<28}{time:9.2f} ms{times[first] / time:9.2f} x")
    gains[idea] = times[first] / times[last]


# %% [markdown]
# Is it the model of `core`? In float64, the loss and every gradient, on the batch itself:

# %%
exact = build_model(
    "lstm",
    side_by_side.SIZES["lstm"] | {"dtype": np.float64},
    side_by_side.VOCABULARY,
    model.params,
)
loss, grads = plain_loss(exact.params, features.astype(np.float64), captions)
fast_loss, fast_grads = exact.loss(features, captions)
assert abs(loss - fast_loss) < 1e-12 * abs(loss)
for name in grads:
    assert relative_error(fast_grads[name], grads[name]) < 1e-12
print(f"loss {loss:.4f} nats a caption; the loss and {len(grads)} gradients equal to 1e-12")

# %% [markdown]
# `model.loss` has everything that this lesson is about already in it. So whatever we do to the plain step, one
# idea after the other, it must arrive there. Now the profile:

# %% tags=["measured"]
profile, last = {}, 0.0


def clock(part):
    global last
    now = perf_counter()
    if part != "start":
        profile.setdefault(part, []).append(1e3 * (now - last))
    last = now


params, configs = (
    dict(model.params),
    {name: dict(side_by_side.STILL) for name in model.params},
)
for _ in range(6):
    _, grads_ = plain_loss(params, features, captions, clock)
    plain_update(params, grads_, configs)
    clock("clipping, Adam")
parts = {part: median(times[1:]) for part, times in profile.items()}  # the first is free

plt.barh(list(parts), list(parts.values()))
plt.gca().invert_yaxis()
plt.gca().set(xlabel="milliseconds, one thread", title="The plain step, by part")
plt.show()
print(f"together {sum(parts.values()):.0f} ms")

# %% [markdown]
# The recurrence and its backward take most of it. What is in *there*? The same pieces, each by itself, times $T$:
# products, and what is not a product.

# %% tags=["measured"]
p = model.params
x_t, nothing = p["W_embed"][words[:, 3]], np.zeros((N, H), np.float32)
h_t, c_t, cache_t = lstm_step_forward(x_t, nothing, nothing, p["Wx"], p["Wh"], p["b"])
da_t = np.random.default_rng(0).standard_normal((N, 4 * H), dtype=np.float32)
a_t, dWh_t = x_t @ p["Wx"] + h_t @ p["Wh"], h_t.T @ da_t


def gates_forward():
    a_i, a_f, a_o, a_g = np.split(a_t + a_t + p["b"], 4, axis=1)
    i, f, o, g = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o), np.tanh(a_g)
    return o * np.tanh(f * c_t + i * g)


def gates_backward():
    *_, i, f, o, g, tanh_c = cache_t
    do, dc = h_t * tanh_c, c_t + h_t * o * (1 - tanh_c**2)
    df, dprev_c, di, dg = dc * c_t, dc * f, dc * g, dc * i
    da = [di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2)]
    return np.concatenate(da, axis=1), dprev_c


pieces = race(
    0.8,
    x_Wx=lambda: x_t @ p["Wx"],
    h_Wh=lambda: h_t @ p["Wh"],
    gates=gates_forward,
    gates_backward=gates_backward,
    dx=lambda: da_t @ p["Wx"].T,
    dh=lambda: da_t @ p["Wh"].T,
    dWx=lambda: x_t.T @ da_t,
    dWh=lambda: h_t.T @ da_t,
    add_up_dWh=lambda: dWh_t + dWh_t,
)
colours = ["C1" if name.startswith(("gates", "add")) else "C0" for name in pieces]
names = [name.replace("_", " ") for name in pieces]
plt.barh(names, [T * time for time in pieces.values()], color=colours)
plt.gca().invert_yaxis()
plt.gca().set(
    xlabel=f"milliseconds, {T} steps, one thread",
    title="Blue: products. Orange: all the rest",
)
plt.show()

# %% [markdown]
# Keep three questions in mind for each bar: must it be done in the loop? Must it be done for every place? Must it
# go through memory?
#
# ## Idea 1 · One product for all steps
#
# The loop exists because $h_t$ needs $h_{t-1}$. But $x_t W_x$ needs nothing from the step before: all the $x_t$
# are known from the start. Row $(n, t)$ of a product reads row $(n, t)$ of its left factor and nothing else, so
# $T$ products of $N$ rows are **one product of $N T$ rows**:
#
# $$ (N, T, D) \to (NT, D) \;\; \text{times} \;\; (D, 4H) \;=\; (NT, 4H) \to (N, T, 4H) $$
#
# The number of operations is the same. But GEMM reads $W_x$ once instead of $T$ times, and has more rows to share
# what it reads. How much that gives depends on $N$: with 64 rows a product may be nearly as fast as it gets, with
# 8 it is not. (Libraries for GPUs do the same: Appleyard, Kočiský and Blunsom, 2016.)


# %%
def loop(x, h0, Wx, Wh, b):
    h, c, states = h0, np.zeros_like(h0), []
    for t in range(x.shape[1]):
        h, c, _ = lstm_step_forward(x[:, t], h, c, Wx, Wh, b)
        states.append(h)
    return np.stack(states, axis=1)


def hoisted(x, h0, Wx, Wh, b):
    """``loop`` with the input products before the loop, as one."""
    (N, T, D), h, c, states = x.shape, h0, np.zeros_like(h0), []
    inputs = (x.reshape(N * T, D) @ Wx + b).reshape(N, T, -1)
    for t in range(T):
        a_i, a_f, a_o, a_g = np.split(inputs[:, t] + h @ Wh, 4, axis=1)
        i, f, o, g = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o), np.tanh(a_g)
        c = f * c + i * g
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


p64 = exact.params
h0_64 = features.astype(np.float64) @ p64["W_proj"] + p64["b_proj"]
read_64 = p64["W_embed"][words], h0_64, p64["Wx"], p64["Wh"], p64["b"]
states_64 = loop(*read_64)
assert relative_error(hoisted(*read_64), states_64) < 1e-12

# %% tags=["measured"]
h0 = features @ p["W_proj"] + p["b_proj"]
read = p["W_embed"][words], h0, p["Wx"], p["Wh"], p["b"]
few = p["W_embed"][words[:8]], h0[:8], p["Wx"], p["Wh"], p["b"]
for rows, inputs_ in ((64, read), (8, few)):
    print(f"{rows} captions:")
    gain(
        f"one product for all steps, {rows} rows",
        0.6,
        in_the_loop=lambda i=inputs_: loop(*i),
        before_the_loop=lambda i=inputs_: hoisted(*i),
    )

# %% [markdown]
# ## Idea 2 · The weights' gradients after the loop
#
# In the backward, $dh_{t-1}$ must wait for $dh_t$. The gradients of the weights wait for nobody: they are read by
# no later step. Look at the sum that the loop makes, and write out one entry:
#
# $$ (dW_h)_{km} = \sum_t \sum_n (h_{t-1})_{nk} \, (da_t)_{nm} $$
#
# Two sums, over $t$ and over $n$, of which the order does not matter: it is one sum over all pairs $(n, t)$. So
# stack the rows of all steps below each other, once for the states and once for the $da$, and it is **one
# product**
#
# $$ dW_h = \begin{bmatrix} h_0 \\ h_1 \\ \vdots \end{bmatrix}^{T}
#    \begin{bmatrix} da_1 \\ da_2 \\ \vdots \end{bmatrix}, \qquad (H, NT)(NT, 4H) $$
#
# It saves more than idea 1: each small product wrote a whole $dW_h$, 4 MB here, which was then added to the sum,
# read and written again, at every step. The one large product keeps its sums in registers. $dx = da\,W_x^T$
# leaves the loop likewise; what must stay is $da_t W_h^T$ alone.


# %%
def gradients_in_the_loop(before, da):
    """before (N, T, H), da (N, T, 4H) -> dWh, step by step."""
    total = np.zeros((before.shape[2], da.shape[2]), da.dtype)
    for t in range(da.shape[1]):
        total = total + before[:, t].T @ da[:, t]
    return total


def gradients_after(before, da):
    return before.reshape(-1, before.shape[2]).T @ da.reshape(-1, da.shape[2])


before_64 = np.concatenate([h0_64[:, None], states_64[:, :-1]], axis=1)
da_64 = np.random.default_rng(0).standard_normal((N, T, 4 * H))
step_by_step = gradients_in_the_loop(before_64, da_64)
assert relative_error(gradients_after(before_64, da_64), step_by_step) < 1e-12

# %% tags=["measured"]
before, da = before_64.astype(np.float32), da_64.astype(np.float32)
gain(
    "weight gradients after the loop",
    in_the_loop=lambda: gradients_in_the_loop(before, da),
    after_the_loop=lambda: gradients_after(before, da),
)

# %% [markdown]
# ## Idea 3 · Words that repeat, once
#
# Captions say "a" again and again. Each time the same row of $W_{\text{embed}}$ is multiplied with the same
# $W_x$. Multiply each **different** word once, and look the products up: `which` says for each place which row it
# reads. Backward, a row that was read by many places collects from all of them, and the sum is made **before**
# the product, because a common factor can be drawn out. With $x_m = e_{u}$ for all places $m$ that read word $u$:
#
# $$ dW_x = \sum_m x_m^T\, da_m = \sum_u \sum_{m \text{ reads } u} e_u^T\, da_m
#    = \sum_u e_u^T \Big( \sum_{m \text{ reads } u} da_m \Big) $$

# %%
packing = Packing(lengths_of(counts), T)
spoken = packing.pack(words)  # the words without the padding; idea 4 says how
different, which = np.unique(spoken, return_inverse=True)
print(f"{len(spoken)} words read, {len(different)} different ones")

each = p64["W_embed"][spoken] @ p64["Wx"]
once = (p64["W_embed"][different] @ p64["Wx"])[which]
assert relative_error(once, each) < 1e-12

da_spoken = packing.pack(da_64)
summed = sums_of_rows(da_spoken, which, len(different))
with_add_at = np.zeros_like(summed)
np.add.at(with_add_at, which, da_spoken)
assert relative_error(summed, with_add_at) < 1e-12
dWx = p64["W_embed"][spoken].T @ da_spoken
assert relative_error(p64["W_embed"][different].T @ summed, dWx) < 1e-12

# %% [markdown]
# The sum of rows that belong together is `np.add.at`, which the plain step used: right for repeated rows, where
# `out[which] += da` would keep only one of them, and known to be slow. `core` sorts the rows by word and sums each
# group at once:

# %%
show_source(sums_of_rows)

# %% tags=["measured"]
da_32 = da_spoken.astype(np.float32)


def add_at():
    out = np.zeros((len(different), 4 * H), np.float32)
    np.add.at(out, which, da_32)
    return out


gain(
    "words that repeat, once",
    each_word=lambda: p["W_embed"][spoken] @ p["Wx"],
    each_different_word_once=lambda: (p["W_embed"][different] @ p["Wx"])[which],
)
gain(
    "sums of rows",
    np_add_at=add_at,
    sums_of_rows=lambda: sums_of_rows(da_32, which, len(different)),
)

# %% [markdown]
# How much there is to win depends on the words, not on the code: the more a batch repeats, the more it saves.
#
# ## Idea 4 · No padding
#
# Captions of a batch have different lengths, arrays do not. So the short ones are padded, and the plain step
# computes the padding like everything else: gates that nobody reads, scores that nobody looks at. In the loop
# this is easy to avoid **if the rows stand in the right order**. Sort the captions, longest first. Then the
# captions that go on at step $t$ are always the *first* so many rows, and the state of a step is a slice of the
# state of the step before. `core/fast/packing.py` lays all places down in the order in which time visits them:

# %% tags=["picture"]
letters, lengths = ["abcd", "ef", "ghijk"], np.array([4, 2, 5])
small = Packing(lengths, 5)
figure, axes = plt.subplots(1, 2, figsize=(10, 2.6), width_ratios=(1, 1))
for ax, rows, title in zip(
    axes, (range(3), small.order), ("as it is given: padded", "longest first"), strict=True
):
    for place, n in enumerate(rows):
        for t in range(5):
            inside = t < lengths[n]
            ax.add_patch(
                plt.Rectangle(
                    (t, -place), 0.9, 0.9, facecolor=f"C{n}" if inside else "white",
                    alpha=0.5, edgecolor="grey", linestyle="-" if inside else ":",
                )
            )  # fmt: skip
            text = letters[n][t] if inside else "pad"
            ax.text(t + 0.45, 0.45 - place, text, ha="center", va="center")
        ax.text(-0.2, 0.45 - place, f"caption {n}", ha="right", va="center")
    for t in range(5):
        ax.text(t + 0.45, 1.2, f"step {t}", ha="center", fontsize=8)
    ax.set(xlim=(-1.6, 5), ylim=(-2.2, 1.5), title=title)
    ax.axis("off")
plt.show()

figure, ax = plt.subplots(figsize=(10, 1.3))
for m, entry in enumerate(small.entries):
    n, t = divmod(int(entry), 5)
    ax.add_patch(
        plt.Rectangle((m, 0), 0.92, 0.9, facecolor=f"C{n}", alpha=0.5, edgecolor="grey")
    )
    ax.text(m + 0.46, 0.45, letters[n][t], ha="center", va="center")
for t, (now, _) in enumerate(small.steps):
    ax.plot([now.start, now.stop - 0.08], [-0.15, -0.15], color="k")
    ax.text((now.start + now.stop) / 2 - 0.04, -0.5, f"step {t}", ha="center", fontsize=8)
ax.set(
    xlim=(-0.2, 11.2),
    ylim=(-0.7, 1),
    title="packed: a step is a slice, padding is not there",
)
ax.axis("off")
plt.show()

read_back = "".join(letters[e // 5][e % 5] for e in small.entries)
print(
    "packed:",
    read_back,
    "  rows of each step:",
    [int(now.stop - now.start) for now, _ in small.steps],
)
assert read_back == "gaehbficjdk"

# %% [markdown]
# Why does sorting help? Unsorted, the rows that go on would have to be *gathered* at every step, which copies
# them; the first so many rows of an array are a **view**, which copies nothing. The loop of `core`, forward:
# `now` are the entries of a step, `before` the states that they start from, both slices.

# %%
show_source(lstm_packed_forward, lstm_packed_backward, docstring=False)

# %%
inputs_64 = p64["W_embed"][different] @ p64["Wx"] + p64["b"]
packed_64, packed_cache = lstm_packed_forward(inputs_64, which, h0_64, p64["Wh"], packing)
print(f"{N * T} places, {len(packed_64)} entries")
assert relative_error(packed_64, packing.pack(states_64)) < 1e-12
assert relative_error(packing.unpack(packed_64), states_64 * counts[:, :, None]) < 1e-12

dh_64 = np.random.default_rng(1).standard_normal(states_64.shape) * counts[:, :, None]
_, dh0_64, dWh_64 = lstm_packed_backward(packing.pack(dh_64), packed_cache)

# the oracle: the plain loop over padded captions, with no gradient from the padding
h, c, caches = h0_64, np.zeros_like(h0_64), []
for t in range(T):
    h, c, cache = lstm_step_forward(read_64[0][:, t], h, c, p64["Wx"], p64["Wh"], p64["b"])
    caches.append(cache)
dh_next = dc_next = np.zeros_like(h0_64)
total = np.zeros_like(p64["Wh"])
for t in reversed(range(T)):
    _, dh_next, dc_next, _, dWh, _ = lstm_step_backward(
        dh_64[:, t] + dh_next, dc_next, caches[t]
    )
    total += dWh
assert relative_error(dWh_64, total) < 1e-12 and relative_error(dh0_64, dh_next) < 1e-12
print("states, dh0 and dWh equal to those of the padded loop, to 1e-12")

# %% tags=["measured"]
everything = Packing(np.full(N, T), T)
inputs = inputs_64.astype(np.float32)
# what is padding reads any row
which_padded = np.searchsorted(different, everything.pack(words)).clip(
    0, len(different) - 1
)
gain(
    "no padding (LSTM forward)",
    0.6,
    padded=lambda: lstm_packed_forward(inputs, which_padded, h0, p["Wh"], everything),
    packed=lambda: lstm_packed_forward(inputs, which, h0, p["Wh"], packing),
)

# %% [markdown]
# At most it saves the share of the padding. It does not save all of that: the last steps have few rows, and a
# product of few rows is slow, as we shall see. Two more things the listing shows. `gates[now] += ...` fills
# arrays that were made once, for all steps. And the backward's product is written `(Wh @ da.T).T` instead of
# `da @ Wh.T` (`back_through`): the same numbers, in the form that OpenBLAS likes better where $da$ has few rows.
#
# ## Idea 5 · Scores only where the loss looks, in one buffer
#
# The widest arrays of the step are the scores, $(NT, V)$. Packed, there are only as many rows as words. And the
# softmax from the formulas makes a new array of that size for every intermediate result, while the loss needs one
# number of each row. `core` uses **one buffer** that holds in turn the shifted scores, the exponentials, the
# probabilities, and the gradient:

# %%
show_source(softmax_loss, docstring=False)

# %%
scores_64 = np.random.default_rng(2).standard_normal((N * T, V))
weights_64 = counts.ravel() / N
loss_all, dscores_all = plain_softmax_loss(scores_64, targets.ravel(), weights_64)
places = np.flatnonzero(counts)
loss_some, dscores_some = softmax_loss(
    scores_64[places], targets.ravel()[places], weights_64[places]
)
assert abs(loss_some - loss_all) < 1e-12 * loss_all
assert relative_error(dscores_some, dscores_all[places]) < 1e-12
assert not np.delete(dscores_all, places, axis=0).any()  # what is left out was zero


def peak_of(function):
    """The most memory that a call holds at a time, besides what is there already."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


scores_32 = scores_64.astype(np.float32)[places]
y_, weights_ = targets.ravel()[places], weights_64[places].astype(np.float32)
for name, function in (("plain", plain_softmax_loss), ("one buffer", softmax_loss)):
    peak = peak_of(lambda f=function: f(scores_32, y_, weights_))
    print(f"{name:<12}{peak / scores_32.nbytes:.1f} arrays of the size of the scores")

# %% tags=["measured"]
all_32, y_all = scores_64.astype(np.float32), targets.ravel()
gain(
    "scores where it counts, one buffer",
    plain_everywhere=lambda: plain_softmax_loss(
        all_32, y_all, weights_64.astype(np.float32)
    ),
    plain_where_it_counts=lambda: plain_softmax_loss(scores_32, y_, weights_),
    one_buffer=lambda: softmax_loss(scores_32, y_, weights_),
)

# %% [markdown]
# ## Idea 6 · One tanh for all gates, each in one piece
#
# From lesson 6: $\sigma(a) = \frac{1}{2}(1 + \tanh \frac{a}{2})$. So halve the three blocks of the gates, take
# **one** tanh of all four blocks, in place, and stretch the three blocks again. Few long calls instead of many
# short ones, and no new arrays. The product hands the gates over as four blocks of columns, `(N, 4H)`; here they
# stand one behind the other, `(4, N, H)`. Why, the race will tell:

# %%
show_source(by_gate, look_up_gates, lstm_cell)

# %%
a_64, c_64 = np.random.default_rng(3).standard_normal((2, N, 4 * H))
c_64 = c_64[:, :H]


def plain_cell(a, prev_c):
    """The element-wise part of a step, from the formulas."""
    a_i, a_f, a_o, a_g = np.split(a, 4, axis=1)
    i, f, o, g = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o), np.tanh(a_g)
    c = f * prev_c + i * g
    tanh_c = np.tanh(c)
    return c, tanh_c, o * tanh_c


filled = [np.empty((N, H)) for _ in range(3)]
lstm_cell(by_gate(a_64.copy()), c_64, *filled)
for ours, plain in zip(filled, plain_cell(a_64, c_64), strict=True):
    assert relative_error(ours, plain) < 1e-12


def sigmoid_masked(x):
    out = np.empty_like(x)
    positive = x >= 0
    out[positive] = 1 / (1 + np.exp(-x[positive]))
    small = np.exp(x[~positive])
    out[~positive] = small / (1 + small)
    return out


assert relative_error(sigmoid(a_64), sigmoid_masked(a_64)) < 1e-12

# %% tags=["measured"]
a_32, c_32 = a_64.astype(np.float32), c_64.astype(np.float32)
room = [np.empty((N, H), np.float32) for _ in range(3)]
in_columns, in_pieces = by_gate(a_32.copy()), np.ascontiguousarray(by_gate(a_32))
assert in_columns.shape == in_pieces.shape == (4, N, H)
print("the gates' sigmoid:")
gain(
    "sigmoid without a mask",
    masked=lambda: sigmoid_masked(a_32),
    by_exp=lambda: 1 / (1 + np.exp(-a_32)),
    by_tanh=lambda: sigmoid(a_32),
)
print("\nthe whole cell:")
gain(
    "gates in one piece, one tanh",
    from_the_formulas=lambda: plain_cell(a_32, c_32),
    in_place_in_columns=lambda: lstm_cell(in_columns, c_32, *room),
    in_place_in_one_piece=lambda: lstm_cell(in_pieces, c_32, *room),
)

# %% [markdown]
# The first race has a clear winner: a boolean mask makes NumPy count, gather and scatter, entry by entry. The
# second holds a surprise. One tanh, in place, but on blocks of columns: no faster than the formulas. The lines of
# code are the same for columns and for pieces, even the shape is; what differs is where the numbers lie. A block
# of columns has a gap after each of its rows. NumPy's inner loop wants many entries without a gap, so it copies
# row after row into a buffer, computes there, and copies back. A gate in one piece it goes through as it is.
# Therefore `core` looks the gates up in that shape once, before the loop, and only the product still comes in
# columns. **An idea that sounds fast has to be measured like any other**, and where it disappoints, ask how the
# numbers lie in memory.
#
# ## Idea 7 · Copy or view
#
# A NumPy array is a piece of memory and a way to walk over it (where to start, how far to the next row, how far
# to the next column). What only walks differently is a **view**, and costs nothing. What cannot be reached by
# steps of one width has to be **copied** (Harris and others, 2020):

# %%
a = np.arange(48.0).reshape(6, 8)
for text, result in {
    "a[2:5]                      a slice of rows": a[2:5],
    "a[:, :4]                    a slice of columns, a gate's block": a[:, :4],
    "a.T": a.T,
    "a.reshape(-1)": a.reshape(-1),
    "np.split(a, 4, axis=1)[1]": np.split(a, 4, axis=1)[1],
    "a.astype(float, copy=False)": a.astype(float, copy=False),
    "a[[2, 3, 4]]                a list of rows": a[[2, 3, 4]],
    "a[a[:, 0] > 8]              a mask": a[a[:, 0] > 8],
    "a.T.reshape(-1)": a.T.reshape(-1),
    "a[:, :4].reshape(-1)": a[:, :4].reshape(-1),
    "a.astype(float)": a.astype(float),
    "a + 0": a + 0,
}.items():
    print(f"{'view' if np.shares_memory(a, result) else 'copy'}   {text}")
assert np.shares_memory(a, a.T) and not np.shares_memory(a, a.T.reshape(-1))

# %% [markdown]
# This is why packed steps are slices, and why the gates of `core` come first in their array: `gates[:, now]` and
# `a[:3]` are views, and `np.tanh(view, out=view)` works on them where they lie. A view is made for nothing; idea 6
# showed that walking over one can cost something, where it has gaps.
#
# A new array costs more than its arithmetic as soon as it is large: the memory comes fresh from the operating
# system, which has to hand over (and wipe) every page of it when it is first touched, and it is not in any cache.
# The same sigmoid, with new arrays for each step of the formula, and in one buffer:

# %% tags=["measured"]
sizes = [1 << k for k in range(10, 25, 2)]
fresh, reused = [], []
for size in sizes:
    x_ = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    buffer = np.empty_like(x_)

    def in_one_buffer(x_=x_, buffer=buffer):
        np.multiply(x_, 0.5, out=buffer)
        np.tanh(buffer, out=buffer)
        np.add(buffer, 1, out=buffer)
        np.multiply(buffer, 0.5, out=buffer)

    times = race(0.15, new=lambda x_=x_: sigmoid(x_), buffer=in_one_buffer)
    fresh.append(1e6 * times["new"] / size)
    reused.append(1e6 * times["buffer"] / size)
plt.loglog(sizes, fresh, "o-", label="a new array for each result")
plt.loglog(sizes, reused, "o-", label="one buffer")
plt.gca().set(
    xlabel="entries of the array (float32)",
    ylabel="nanoseconds an entry",
    title="A sigmoid",
)
plt.legend()
plt.show()

# %% [markdown]
# Views have a price: two names for one memory. `lstm_packed_forward` ends with
# `return h_states[N:].copy(), cache`. The copy looks like waste. Leave it out, and see what happens when a caller
# does something as harmless as dropping out half of what it got, in place:

# %%
dh_packed = packing.pack(dh_64)
_, cache = lstm_packed_forward(inputs_64, which, h0_64, p64["Wh"], packing)
right = lstm_packed_backward(dh_packed, cache)[2]

_, cache = lstm_packed_forward(inputs_64, which, h0_64, p64["Wh"], packing)
h_states = cache[5]  # where the layer keeps its states for the way back
handed_out = h_states[N:]  # a view: what would be returned without the copy
handed_out *= np.random.default_rng(4).random(handed_out.shape) < 0.5
wrong = lstm_packed_backward(dh_packed, cache)[2]
print(f"dWh after the caller wrote into a view: off by {relative_error(wrong, right):.2f}")
assert relative_error(wrong, right) > 0.1

# %% [markdown]
# No error, no warning, a loss that still falls. The rule of `core`: what leaves a function is the caller's own,
# and no function writes into what it was given unless its docstring says so.
#
# ## Idea 8 · Keep, or compute again
#
# Backward needs what forward computed. Usually it is kept. But keeping is writing to memory and reading it back,
# and memory may be slower than the arithmetic. The clearest case comes from [lesson 8](08_soft_attention.ipynb).
# At each word, attention compares a question $q$ with $L$ places of the picture, by $\tanh(\text{key}_l + q)$, a
# vector of $K$ numbers for each place: $(N, L, K)$, at every step. For 16 words, 64 pictures, 49 places and
# $K = 256$:

# %%
compared = 16 * 64 * 49 * 256
widths = side_by_side.SIZES["attention"]
attention = build_model("attention", widths, side_by_side.VOCABULARY)
parameters = sum(w.size for w in attention.params.values())
for what, number in (("comparisons", compared), ("parameters of the model", parameters)):
    print(f"{what:<24}{number / 1e6:5.1f} million numbers, {4 * number / 2**20:3.0f} MiB")
assert compared > 2 * parameters

# %% [markdown]
# `core` does not keep them: `additive_scores_forward` makes the comparison for a few pictures at a time, small
# enough to stay in the cache, takes the scores, and throws it away; the backward makes it again. Beside it, one
# that keeps:


# %%
def keeping(keys, queries, v, dscores):
    """Scores of all steps and the gradients; each step's comparison is kept in between."""
    kept = [np.tanh(keys + query[:, None]) for query in queries]
    scores = [activation @ v for activation in kept]
    dkeys, dv, dqueries = np.zeros_like(keys), np.zeros_like(v), []
    for activation, dscore in zip(kept, dscores, strict=True):
        dv = dv + (dscore[:, :, None] * activation).sum(axis=(0, 1))
        slope = (1 - activation**2) * dscore[:, :, None] * v
        dkeys += slope
        dqueries.append(slope.sum(axis=1))
    return scores, dkeys, dv, dqueries


def again(keys, queries, v, dscores):
    """The same with core's functions, which make the comparison twice."""
    scores = [additive_scores_forward(keys, query[:, None], v)[:, 0] for query in queries]
    dkeys, dv, dqueries = np.zeros_like(keys), np.zeros_like(v), []
    for query, dscore in zip(queries, dscores, strict=True):
        dquery, more = additive_scores_backward(
            dscore[:, None], keys, query[:, None], v, dkeys
        )
        dqueries.append(dquery[:, 0])
        dv = dv + more
    return scores, dkeys, dv, dqueries


def attention_inputs(steps, dtype, n=64, L=49, K=256):
    rng = np.random.default_rng(5)
    shapes = (n, L, K), (steps, n, K), (K,), (steps, n, L)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


small_inputs = attention_inputs(3, np.float64, n=5, L=7, K=11)
for a, b in zip(keeping(*small_inputs), again(*small_inputs), strict=True):
    assert relative_error(np.array(a), np.array(b)) < 1e-12

four_steps = attention_inputs(4, np.float32)
for function in (keeping, again):
    peak = peak_of(lambda f=function: f(*four_steps)) / 2**20
    print(f"{function.__name__:<8} at most {peak:4.0f} MiB at a time, for 4 words")

# %% tags=["measured"]
gain(
    "keep or compute again",
    0.6,
    keeping=lambda: keeping(*four_steps),
    again=lambda: again(*four_steps),
)

# %% [markdown]
# Twice the tanh, a sixth of the memory, and not much more or less time: what the second tanh costs, the cache
# gives back. *More arithmetic* need not take more time. The same trade, on a larger scale, is known as gradient
# checkpointing (Chen and others, 2016), and with the memory of a GPU it is what makes FlashAttention fast (Dao
# and others, 2022).
#
# ## Idea 9 · The update in place
#
# Adam is a dozen element-wise operations on every parameter, and no product at all. Written as formulas each of
# them makes a new array of the size of the parameter and sends it through memory. `core.optim.update_in_place`
# cuts all parameters into pieces of 65,536 entries, small enough for the cache, and does all operations on a
# piece before it turns to the next.

# %%
own = {name: w.copy() for name, w in exact.params.items()}
plain = {name: w.copy() for name, w in exact.params.items()}
own_configs = {name: {} for name in own}
plain_configs = {name: {} for name in own}
for _ in range(3):
    optim.update_in_place("adam", own, fast_grads, own_configs)
    for name in plain:
        plain[name], plain_configs[name] = optim.adam(
            plain[name], fast_grads[name], plain_configs[name]
        )
assert all(relative_error(own[name], plain[name]) < 1e-12 for name in own)
print("three steps of Adam, in place and from the formulas: equal to 1e-12")

# %% tags=["measured"]
grads_32 = {name: gradient.astype(np.float32) for name, gradient in fast_grads.items()}
own = {name: w.copy() for name, w in p.items()}
plain = {name: w.copy() for name, w in p.items()}
own_configs = {name: dict(side_by_side.STILL) for name in p}
plain_configs = {name: dict(side_by_side.STILL) for name in p}


def from_the_formulas():
    for name in plain:
        plain[name], plain_configs[name] = optim.adam(
            plain[name], grads_32[name], plain_configs[name]
        )


gain(
    "Adam in place",
    0.6,
    from_the_formulas=from_the_formulas,
    in_place=lambda: optim.update_in_place("adam", own, grads_32, own_configs),
)

# %% [markdown]
# ## Idea 10 · Two halves on two threads
#
# Python runs one thread at a time: whoever computes holds a lock. But NumPy **lets go of the lock** while it
# works on an array, because it touches nothing of Python meanwhile. So two threads that call NumPy compute at the
# same time, two threads of pure Python do not:


# %% tags=["measured"]
def pure_python(n):
    total = 0.0
    for i in range(n):
        total += i * 0.5
    return total


blocks = [
    np.random.default_rng(k).standard_normal(1 << 22, dtype=np.float32) for k in (0, 1)
]
outs = [np.empty_like(block) for block in blocks]
with ThreadPoolExecutor(2) as pool:
    print("pure Python:")
    gain(
        "threads of pure Python",
        one_after_the_other=lambda: [pure_python(200_000) for _ in range(2)],
        two_threads=lambda: list(pool.map(pure_python, [200_000] * 2)),
    )
    print("np.tanh:")
    gain(
        "threads of NumPy",
        one_after_the_other=lambda: [
            np.tanh(b_, out=o_) for b_, o_ in zip(blocks, outs, strict=True)
        ],
        two_threads=lambda: list(pool.map(np.tanh, blocks, outs)),
    )

# %% [markdown]
# With two free cores the second pair comes near a factor of 2; with one, or where others use them, nothing is
# gained. Products use all cores by themselves. Element-wise work does not, and that is what threads are for here:
# `CaptioningModel.loss` cuts the batch in two, by length, and does the halves side by side. As the loss is a sum
# over captions, loss and gradients are sums over the parts.
#
# While parts run, each product gets only its share of the cores: two threads that each start two more are four
# on two cores, and they get in each other's way.

# %%
show_source(in_parallel)

# %%
loss_two, grads_two = exact.loss(features, captions)
exact.rows_of_a_part = (N + 1, None)  # so few rows are not cut up
loss_one, grads_one = exact.loss(features, captions)
del exact.rows_of_a_part
assert abs(loss_two - loss_one) < 1e-12 * loss_one
assert all(relative_error(grads_two[name], grads_one[name]) < 1e-12 for name in grads_one)
print("in one part and in two: equal to 1e-12 (not bit for bit: sums in another order)")

# %% tags=["measured"]
whole = build_model(
    "lstm", side_by_side.SIZES["lstm"], side_by_side.VOCABULARY, model.params
)
whole.rows_of_a_part = (N + 1, None)
gain(
    "two parts on two threads",
    1.5,
    threads=ALL,
    one_part=lambda: whole.loss(features, captions),
    two_parts=lambda: model.loss(features, captions),
)

# %% [markdown]
# ## All together
#
# What each idea gave on its own part of the work, where this page was made. A bar at 1 is no gain; a gain on a
# small part is a small gain:

# %% tags=["measured"]
plt.figure(figsize=(8, 4.2))
plt.barh(list(gains), np.array(list(gains.values())) - 1, left=1)
plt.axvline(1, color="k", linewidth=1)
plt.gca().invert_yaxis()
plt.gca().set(xscale="log", xlabel="time before / time after, of this part of the step")
plt.gca().set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
plt.minorticks_off()
plt.show()

# %% [markdown]
# What each gives to the *whole* step is another question. `python -m benchmarks.one_at_a_time` takes one away
# while all others stay; of what it found on a quiet machine, `docs/speed.md` keeps the record. The rows of the
# LSTM, read from that file (milliseconds of a step without the idea and with it):


# %%
def table_of(title):
    """The lines of the first table below a title of docs/speed.md."""
    page = (lessons.ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    section = page.split(f"## {title}")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


header, rule, *rows = table_of("What each optimisation gives")
of_lstm = [row for row in rows if "| lstm |" in row]
assert len(of_lstm) >= 5
Markdown("\n".join([header, rule, *of_lstm]))

# %% [markdown]
# And here, all of it at once: loss, gradients, clipping, Adam. On one thread, and on all.

# %% tags=["measured"]
own_model = build_model(
    "lstm", side_by_side.SIZES["lstm"], side_by_side.VOCABULARY, model.params
)
engine = NumpyEngine(own_model, "adam", side_by_side.STILL, side_by_side.CLIP_NORM)
fast_step = side_by_side.step_of(engine, features, captions)
params, configs = (
    dict(model.params),
    {name: dict(side_by_side.STILL) for name in model.params},
)


def plain_step():
    _, grads = plain_loss(params, features, captions)
    plain_update(params, grads, configs)


for threads, name in ((1, "one thread"), (ALL, "all threads")):
    print(name)
    gain(f"whole step, {name}", 1.5, threads, plain=plain_step, core=fast_step)

# %% [markdown]
# No single idea did it, and none changed the model. The step functions stay, as the oracle
# (`tests/test_rnn_layers.py`). If your figures for all threads are worse than for one, others are at work on your
# machine: a product on all cores is done when its slowest thread is, and a step of many small products waits many
# times.
#
# ## How near to what the processor can do?
#
# A part of a step can be slow for two reasons: it has many operations, or it moves many bytes. Its **arithmetic
# intensity** is operations for each byte that goes to or from memory. Take $h W_h$ with $n$ rows, in float32:
#
# $$ \frac{2 \cdot n \cdot H \cdot 4H}{4 \,( nH + H \cdot 4H + n \cdot 4H )} \;\approx\; \frac{n}{2}
#    \quad \text{for small } n, $$
#
# because then the bytes are those of $W_h$, read once for all rows. An addition of two arrays does one operation
# for every 12 bytes. Let $P$ be the rate of a large product and $B$ the bandwidth of memory. Nothing can do more
# than $P$ operations a second; something of intensity $I$ cannot do more than $B I$, unless its data lie in a
# cache. The smaller of the two is the **roofline** (Williams, Waterman and Patterson, 2009):
#
# $$ \text{rate} \;\le\; \min(P,\; B \cdot I) $$

# %%
print(f"{'rows of h Wh':>12}{'million operations':>20}{'MB':>7}{'operations a byte':>20}")
intensity = {}
for n in (1, 4, 16, 64, 256, 1024):
    number, moved = 2 * n * H * 4 * H, 4 * (n * H + H * 4 * H + n * 4 * H)
    intensity[n] = number / moved
    print(f"{n:12}{number / 1e6:20.0f}{moved / 1e6:7.1f}{intensity[n]:20.1f}")
assert abs(intensity[1] - 0.5) < 0.01

# %% tags=["measured"]
peak, bandwidth = side_by_side.peak_gflops(), side_by_side.bandwidth()
normal = np.random.default_rng(6).standard_normal
contestants, points = {}, {}
for n in intensity:
    left, out = normal((n, H), dtype=np.float32), np.empty((n, 4 * H), np.float32)
    contestants[f"$h W_h$, {n}"] = lambda a=left, out=out: np.matmul(a, p["Wh"], out=out)
    points[f"$h W_h$, {n}"] = 2 * n * H * 4 * H, intensity[n]
contestants["LSTM cell"] = lambda: lstm_cell(in_pieces, c_32, *room)
# Operations of the formulas, as benchmarks/roofline.py counts them.
points["LSTM cell"] = 17 * N * H, 17 / (4 * (4 + 4 + 4))
contestants["softmax"] = lambda: softmax_loss(scores_32, y_, weights_)
points["softmax"] = 5 * scores_32.size, 5 / 8
contestants["Adam"] = lambda: optim.update_in_place("adam", own, grads_32, own_configs)
points["Adam"] = 13 * sum(w.size for w in own.values()), 13 / 28
times = race(1.2, **contestants)

ramp = np.geomspace(0.2, 400, 50)
plt.figure(figsize=(8, 4.5))
plt.loglog(ramp, np.minimum(peak, bandwidth * ramp), "k", label="roof")
for name, (number, place) in points.items():
    rate = 1e-6 * number / times[name]
    plt.loglog(place, rate, "o", color="C0" if "W_h" in name else "C1")
    shift = {"Adam": 6, "LSTM cell": -14}.get(name, -10)
    plt.annotate(
        name, (place, rate), xytext=(6, shift), textcoords="offset points", fontsize=8
    )
plt.gca().set(
    xlabel="operations a byte", ylabel="billion operations a second, one thread",
    title=f"Roof: {peak:.0f} billion operations, {bandwidth:.0f} billion bytes a second",
)  # fmt: skip
plt.legend(loc="upper left")
plt.show()
print(
    f"{by_hand / 1e9:.1f} billion operations of the step at {peak:.0f} billion a second: "
    f"{by_hand / peak / 1e6:.0f} ms"
)

# %% [markdown]
# Read it from the left. Element-wise parts (orange) have few operations for each byte; making them faster means
# moving fewer bytes, which is what ideas 5 to 9 do. Products (blue) climb to the right: the more rows, the more
# often each byte of $W_h$ is used. This is why ideas 1 and 2 make few large products out of many small ones, why
# larger batches train faster per caption, and why a decoder that says one word for one picture is limited by
# memory, whatever the processor can multiply.
#
# ## Beside PyTorch
#
# The fair comparison runs both in one process, on as many threads, on the same batch, and gives PyTorch its best:
# fused LSTM and Adam, scores only where they count, and packed sequences if that is faster. One trap: both
# libraries keep a pool of threads, and threads that have nothing to do stay awake for a while, in case there is
# more. Run them in strict alternation and each is slowed down by the other's waiting threads.
# `side_by_side.in_turn` gives each a fifth of a second, with a pause and a call that does not count before. Here
# and now, for the LSTM and a batch of 64:

# %% tags=["measured"]
sides = {"NumPy, core": fast_step, **train_step.twins("lstm", features, captions, False)}
with threadpool_limits(ALL, user_api="blas"):
    times = side_by_side.in_turn(sides, 1.0)
for name, time in times.items():
    print(f"{name if name.startswith('NumPy') else 'PyTorch, ' + name:<28}{time:8.0f} ms")

# %% [markdown]
# A single row on a busy machine is an anecdote. `make bench` takes half an hour on a quiet one and writes
# `docs/speed.md`; here is its table, read from that file:

# %%
header, rule, *rows = table_of("A whole training step")
assert len(rows) == 12
page = (lessons.ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
machine = next(line for line in page.splitlines() if line.startswith("machine"))
print(textwrap.fill(machine, 90))
Markdown("\n".join([header, rule, *rows]))

# %%
names = [cell.strip() for cell in header.strip("|").split("|")]
cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
found = [dict(zip(names, row, strict=True)) for row in cells]
ratio = {
    (row["model"], int(row["batch_size"])): float(row["torch_over_ours"]) for row in found
}
models, batches = list(dict.fromkeys(m for m, _ in ratio)), (25, 64, 256)
for k, n in enumerate(batches):
    places = np.arange(len(models)) + 0.26 * (k - 1)
    plt.bar(places, [ratio[name, n] for name in models], 0.25, label=f"batch of {n}")
plt.axhline(1, color="k", linewidth=1)
plt.gca().set(
    xticks=np.arange(len(models)), xticklabels=models, ylabel="PyTorch's time / ours",
    title="Above 1: ours is faster (docs/speed.md)",
)  # fmt: skip
plt.gca().legend(bbox_to_anchor=(1.01, 1), loc="upper left")
plt.show()
for verdict, chosen in (
    ("ours is faster in", [key for key, r in ratio.items() if r >= 1.02]),
    ("PyTorch is faster in", [key for key, r in ratio.items() if r <= 0.98]),
    ("a draw (within 2 %):", [key for key, r in ratio.items() if 0.98 < r < 1.02]),
):
    which_ones = ", ".join(f"{name} {n}" for name, n in chosen) or "none"
    print(textwrap.fill(f"{verdict} {which_ones}", 90))

# %% [markdown]
# **Where ours wins**, it is not by arithmetic: both call a good GEMM. It is by work that is not done. Padding is
# left out to the last place, a word that repeats is multiplied once, and element-wise parts run on two threads,
# fused in blocks that fit a cache. The larger the batch, the more words repeat, and the more rows the products
# have.
#
# **Where ours loses**, in the tables that we have seen, is mostly with small batches, whose products have
# few rows. Then it matters how GEMM treats the weights. OpenBLAS, which NumPy brings along, copies blocks of both
# matrices into the order that its inner loop wants (*packing*; Goto and van de Geijn, 2008), and does so at every
# call: with many rows that is soon earned back, with few rows copying the 4 MB of $W_h$ is a large part of the
# work. The library behind PyTorch on Intel's processors, MKL, does better there. And PyTorch's fused Adam passes
# over memory once, in compiled code, where ours makes a dozen calls for each piece. The rate of $h W_h$ by its
# rows, one thread each:

# %% tags=["measured"]
torch_threads = torch.get_num_threads()
torch.set_num_threads(1)
row_counts, rates = (1, 2, 4, 8, 16, 32, 64, 128, 256), {"NumPy": [], "PyTorch": []}
weights = torch.from_numpy(p["Wh"])
for n in row_counts:
    left, out = normal((n, H), dtype=np.float32), np.empty((n, 4 * H), np.float32)
    left_, out_ = torch.from_numpy(left), torch.from_numpy(out.copy())
    times = race(
        0.2,
        NumPy=lambda a=left, out=out: np.matmul(a, p["Wh"], out=out),
        PyTorch=lambda a=left_, out=out_: torch.mm(a, weights, out=out),
    )
    for name in rates:
        rates[name].append(2e-6 * n * H * 4 * H / times[name])
torch.set_num_threads(torch_threads)
for name, curve in rates.items():
    plt.loglog(row_counts, curve, "o-", label=name)
plt.gca().set(
    xlabel="rows of $h$", ylabel="billion operations a second", title="$h W_h$, one thread",
    xticks=row_counts, xticklabels=row_counts,
)  # fmt: skip
plt.minorticks_off()
plt.legend()
plt.show()

# %% [markdown]
# What these figures do not say: how either does on a GPU (ours does not run there), or on a processor of another
# make, for which both libraries have other code. They say that hand-written NumPy need not be slow, and where the
# time is when it is.
#
# ## The tempting wrong way: float64 creeps in
#
# Parameters are float32, and one innocent number makes everything float64: right, silent, and half as fast. When
# do two types meet, and who wins? Under NumPy 2 a *Python* number takes on the type of the array, but a *NumPy*
# number has a type of its own, and `np.sqrt(512)` is one:

# %%
x = np.ones((2, 3), np.float32)
for text, value in {
    "x * 0.5": x * 0.5,
    "x * np.float32(0.5)": x * np.float32(0.5),
    "x / 512**0.5": x / 512**0.5,
    "x.mean()": x.mean(),
    "x * (x > 0)": x * (x > 0),
    "x / np.sqrt(512)": x / np.sqrt(512),
    "x * np.geomspace(1e-4, 1e-2, 3)[1]": x * np.geomspace(1e-4, 1e-2, 3)[1],
    "x * (x > 0).astype(int)": x * (x > 0).astype(int),
    "x * np.array(0.5)": x * np.array(0.5),
    "x @ np.eye(3)": x @ np.eye(3),
}.items():
    print(f"{value.dtype!s:<9} {text}")
assert (x / np.sqrt(512)).dtype == np.float64
assert (x * (x > 0).astype(int)).dtype == np.float64

# %% [markdown]
# The third from below is the classic of losses with a mask: integers and float32 make float64. The one with
# `geomspace` is how it happens in a search for a learning rate. Follow it through one step of plain gradient
# descent:


# %%
def tempting_sgd(w, dw, rate):
    return w - rate * dw


rates_to_try = np.geomspace(1e-4, 1e-1, 4)
_, grads = model.loss(features, captions)
crept = {
    name: tempting_sgd(w, grads[name], rates_to_try[1]) for name, w in model.params.items()
}
guarded = {
    name: optim.sgd(w, grads[name], {"learning_rate": rates_to_try[1]})[0]
    for name, w in model.params.items()
}
for title, params in (
    ("before", model.params),
    ("tempting", crept),
    ("core.optim", guarded),
):
    kinds = ", ".join(sorted({str(w.dtype) for w in params.values()}))
    size = sum(w.nbytes for w in params.values()) / 2**20
    print(f"{title:<12}{kinds:<9}{size:5.1f} MiB")
assert crept["Wh"].dtype == np.float64 and guarded["Wh"].dtype == np.float32

wide = build_model("lstm", side_by_side.SIZES["lstm"], side_by_side.VOCABULARY)
narrow = build_model("lstm", side_by_side.SIZES["lstm"], side_by_side.VOCABULARY)
wide.params, narrow.params = crept, guarded
print(
    f"losses: {wide.evaluate(features, captions):.2f} crept in, "
    f"{narrow.evaluate(features, captions):.2f} guarded"
)

# %% tags=["measured"]
gain(
    "float64 that crept in",
    1.5,
    crept_in=lambda: wide.loss(features, captions),
    float32=lambda: narrow.loss(features, captions),
)

# %% [markdown]
# The loss is the same, nothing warns, and the time is about twice what it was: twice the bytes, and half as many
# numbers in each vector instruction. `core.optim` turns its numbers into Python floats first. In your own code,
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
def operations_a_word(W, H, V):
    ### BEGIN SOLUTION
    return 3 * 2 * (W * H + H * H + H * V)
    ### END SOLUTION


compare(operations_a_word, lambda W, H, V: 6 * H * (W + H + V), 256, 512, 1004)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Back through time with one product in the loop
#
# Write `rnn_backward` so that the loop holds a single product, the one that takes the gradient to the step
# before; `dx`, `dWx`, `dWh` and `db` follow after the loop from all the $da_t$ at once. `cache` is
# `(x, h0, Wx, Wh, h)` with $x$ $(N, T, D)$ and $h$ $(N, T, H)$; `dh` is $(N, T, H)$. Return
# `dx, dh0, dWx, dWh, db`.


# %% tags=["exercise"]
def one_loop_forward(x, h0, Wx, Wh, b):
    state, states = h0, []
    for t in range(x.shape[1]):
        state, _ = rnn_step_forward(x[:, t], state, Wx, Wh, b)
        states.append(state)
    h = np.stack(states, axis=1)
    return h, (x, h0, Wx, Wh, h)


def one_loop_backward(dh, cache):
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


check("rnn_backward", one_loop_backward, forward=one_loop_forward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: a recurrence that never meets the padding
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
    states = one_loop_forward(x, h0, Wx, Wh, b)[0]
    return states * (np.arange(x.shape[1]) < lengths[:, None])[:, :, None]


ragged_rng = np.random.default_rng(7)
ragged_lengths = np.array([3, 7, 1, 5, 7, 2])
ragged = [
    ragged_rng.standard_normal((6, 7, 4)), ragged_lengths,
    ragged_rng.standard_normal((6, 5)),
    *(0.5 * ragged_rng.standard_normal(s) for s in ((4, 5), (5, 5), (5,))),
]  # fmt: skip
compare(rnn_without_padding, with_padding, *ragged)


# %% tags=["exercise"]
def rows_multiplied():
    """How many rows the product with Wh got in all."""
    rows = []

    def counted(a, W):
        rows.append(len(a))
        return a @ W

    rnn_without_padding(*ragged, product=counted)
    return sum(rows)


confirm(rows_multiplied(), lambda rows: rows == 25, "25 rows, as many as there are words")

# %% [markdown]
# ## What to keep
#
# * Count first: $2NDM$ operations a product, three times for a training step. It tells you how far there is to go.
# * What does not depend on the step before leaves the loop, as one large product: inputs before it, weight
#   gradients after it.
# * Do not compute what nobody reads (padding, scores without a loss), nor the same thing twice (words that
#   repeat).
# * Element-wise work is moving bytes: fewer arrays, views, pieces that fit a cache, sometimes computing again.
# * Every fast version has a slow one that it must equal. And measure: some ideas that sound fast are not.
#
# **Sources.** K. Goto and R. van de Geijn, *Anatomy of high-performance matrix multiplication*, ACM Transactions
# on Mathematical Software 34 (2008). S. Williams, A. Waterman and D. Patterson, *Roofline: an insightful visual
# performance model for multicore architectures*, Communications of the ACM 52 (2009). J. Appleyard, T. Kočiský
# and P. Blunsom, *Optimizing performance of recurrent neural networks on GPUs*, 2016. T. Chen, B. Xu, C. Zhang
# and C. Guestrin, *Training deep nets with sublinear memory cost*, 2016. T. Dao, D. Fu, S. Ermon, A. Rudra and C.
# Ré, *FlashAttention: fast and memory-efficient exact attention with IO-awareness*, NeurIPS 2022. C. Harris and
# others, *Array programming with NumPy*, Nature 585 (2020).
#
# **Next:** [lesson 8, soft attention](08_soft_attention.ipynb): a model that looks at the picture again at every
# word.
