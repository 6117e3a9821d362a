# %% [markdown]
# # 7b · How near to the limit
#
# **The question.** A processor has two limits: how many operations it does per second, and how many bytes it moves.
# Which of them holds back a part of a training step? And what if neither does?
#
# You draw the two limits of your own machine, put the parts of an LSTM below them, see two ideas that were measured
# before they were kept or deleted, and race three engines.
#
# *Before: [lesson 7](07_from_loops_to_gemms.ipynb). About 20 minutes; all cells together run in half a minute. The
# times come from the machine that made this page. No lesson needs this notebook.*

# %% tags=["setup"]
import sys
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from core import lessons
from core.captioning_solver import NumpyEngine
from core.checkpoint import load_checkpoint
from core.decoding import greedy
from core.fast import FastEngine, build_fast_model
from core.fast.captioner import softmax_loss
from core.fast.packing import Packing, lengths_of
from core.fast.recurrent import lstm_cell
from core.gradient_check import relative_error
from core.layers import sigmoid
from core.lessons import BLUE, ORANGE, confirm
from core.models import build_model
from core.torch_models import TorchEngine, build_torch_model

sys.path.insert(0, str(lessons.ROOT))  # the folder of the project, which has the benchmarks
from benchmarks import side_by_side
from benchmarks.side_by_side import SIZES, VOCABULARY

lessons.style()

# %% [markdown]
# ## Operations per byte
#
# The **arithmetic intensity** of a part is its operations per byte that it moves. For $h W_h$ with $n$ rows, in
# float32, that is
#
# $$ \frac{2 \cdot n \cdot H \cdot 4H}{4 \,( nH + H \cdot 4H + n \cdot 4H )} \;\approx\; \frac{n}{2}
#    \quad \text{for small } n. $$
#
# Let $P$ be the rate of a large product and $B$ the bandwidth of memory, in bytes per second. In one second a part of
# intensity $I$ moves at most $B$ bytes, so it does at most $B I$ operations, and never more than $P$. The smaller of
# the two, $\min(P, B I)$, is its **roofline** (Williams and others, 2009). Only data that is in a cache already can
# pass it.
#
# **Task.** From which intensity on does $P$ hold a part back, and not the memory? (100 billion operations and 20 billion
# bytes per second.)


# %% tags=["task"]
def where_the_roof_bends(P=100e9, B=20e9):
    ### BEGIN SOLUTION
    return P / B
    ### END SOLUTION


def intensity():
    found = where_the_roof_bends()
    assert found != 0.2, "that is bytes per operation"
    return found


confirm(intensity, lambda i: abs(i - 5) < 1e-9, "the operations per byte where P = B I")

# %% [markdown]
# ## The roof, and what is below it
#
# We measure $P$, $B$ and the product $h W_h$ with 1 to 128 rows, on one thread. Then two parts without a product: the
# LSTM cell (what comes after the sum: gates, cell and state) and the softmax with its loss, both for 1,000 words. A
# tanh or an exponential counts as one operation, and every byte of inputs and outputs once.
#
# **Predict.** The two last have about one operation per byte or less. So memory should hold them back. How near to the
# roof are they?

# %% tags=["hide-input"]
blas = ThreadpoolController().select(user_api="blas")
blas.limit(limits=1)
torch.set_num_threads(1)


def fastest(functions, rounds=9):
    """They take turns; the fastest turn of each in milliseconds."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = perf_counter()
            function()
            times[name].append(1e3 * (perf_counter() - start))
    return {name: min(each) for name, each in times.items()}


def race(**functions):
    times = fastest(functions)
    for name, time in times.items():
        gain = next(iter(times.values())) / time
        print(f"{name.replace('_', ' '):<28}{time:9.2f} ms{gain:8.2f} x")
    return times


# %% tags=["hide-input", "measured"]
H, V = 512, len(VOCABULARY)
rng = np.random.default_rng(0)


def normal(*shape):
    return 0.1 * rng.standard_normal(shape, dtype=np.float32)


square, block = normal(512, 512), np.ones(1 << 23, np.float32)
room, Wh = np.empty_like(block), normal(H, 4 * H)
limits = fastest({"P": lambda: square @ square, "B": lambda: np.copyto(room, block)}, 60)
P = 2e-6 * 512**3 / limits["P"]  # both in billions per second
B = 2e-6 * block.nbytes / limits["B"]
points = []  # name, operations per byte, billion operations per second
for n in (1, 2, 4, 8, 16, 32, 64, 128):
    h, out = normal(n, H), normal(n, 4 * H)
    (time,) = fastest({"": lambda h=h, out=out: np.matmul(h, Wh, out=out)}, 150).values()
    work = 2 * n * Wh.size
    points.append((str(n), work / (h.nbytes + Wh.nbytes + out.nbytes), 1e-6 * work / time))
a, cells = normal(4, 1000, H), [normal(1000, H) for _ in range(4)]
scores, words, weights = (
    normal(1000, V),
    rng.integers(0, V, 1000),
    np.ones(1000, np.float32),
)
times = fastest({
    "LSTM cell": lambda: lstm_cell(a, *cells),
    "softmax": lambda: softmax_loss(scores, words, weights),
}, 100)  # fmt: skip
for name, work, moved in (
    ("LSTM cell", 17 * 1000 * H, 2 * a.nbytes + 4 * cells[0].nbytes),
    ("softmax", 5 * scores.size, 2 * scores.nbytes),
):
    points.append((name, work / moved, 1e-6 * work / times[name]))

plt.figure(figsize=(7.5, 4.2))
ramp = np.geomspace(0.1, 200, 50)
plt.loglog(ramp, np.minimum(P, B * ramp), "k", label="roof")
for group, marker, colour, label in (
    (points[:-2], "o", BLUE, "$h W_h$, by rows"), (points[-2:], "s", ORANGE, "no product"),
):  # fmt: skip
    plt.loglog(
        *zip(*(point[1:] for point in group), strict=True),
        marker,
        color=colour,
        label=label,
    )
    for name, place, rate in group:
        above = rate > min(P, B * place)
        away = (-7, 6) if above else (-9, -13) if name == "LSTM cell" else (7, -7)
        plt.annotate(
            name, (place, rate), xytext=away, textcoords="offset points", fontsize=10,
            ha={-7: "right", -9: "center", 7: "left"}[away[0]], va="center",
        )  # fmt: skip
plt.gca().set(xlabel="operations per byte", ylabel="billion operations per second")
plt.legend(bbox_to_anchor=(1.01, 1), loc="upper left")
plt.show()
print(f"P: {P:.0f} billion operations per second, B: {B:.1f} billion bytes per second")
below = {name: min(P, B * place) / rate for name, place, rate in points}
for name in ("8", "128", "LSTM cell", "softmax"):
    label = f"{name} rows" if name.isdigit() else name
    print(f"{label:<10} {below[name]:4.1f} times below the roof")
assert below["softmax"] > 2 and below["LSTM cell"] > 1.2

# %% [markdown]
# <details><summary>Answer</summary>
#
# Both are several times below it: the last two lines of the print.
# </details>
#
# So a part can be slow although neither limit is reached. The roof counts every byte once, but NumPy goes through an
# array once for every operation of a formula. And it counts a tanh as one operation, but a tanh costs many
# instructions.
#
# The product is near the roof with many rows: each byte of $W_h$ is used often. That is why idea 1 makes one large
# product of many small ones, and why a decoder that says one word for one picture is slow for its work. At few rows, BLAS also
# copies $W_h$ into the order that its inner loop wants, at every call (Goto and van de Geijn, 2008).
#
# ## Tried and measured: one deleted, one kept
#
# Captions say "a" again and again. So `core` once multiplied each **different** word with $W_x$ once, and looked the
# products up. And it writes $da\,W_h^T$ as $(W_h\,da^T)^T$, a form that BLAS likes better where $W_h$ is wide
# (`back_through`). Both are right:

# %%
features, captions = side_by_side.batch_like_real_ones(64, False, np.random.default_rng(0))
model = build_model("lstm", SIZES["lstm"], VOCABULARY, rng=np.random.default_rng(0))
mask = captions[:, 1:] != 0
packing, embed = Packing(lengths_of(mask), mask.shape[1]), model.params["W_embed"]
spoken = packing.pack(captions[:, :-1])
different, which = np.unique(spoken, return_inverse=True)
print(f"{len(spoken)} words, {len(different)} different ones")

# %%
Wx, Wh = model.params["Wx"], model.params["Wh"]
once = (embed[different].astype(float) @ Wx)[which]
assert relative_error(once, embed[spoken].astype(float) @ Wx) < 1e-12
da = np.random.default_rng(1).standard_normal((64, 4 * H))
assert relative_error((Wh @ da.T).T, da @ Wh.T) < 1e-12

# %% [markdown]
# Each gains on its part. Amdahl's formula says what that gives the whole step of the twin:

# %% tags=["measured"]
da = da.astype(np.float32)
slices = [da[: now.stop - now.start] for now, _ in packing.steps]
fast = build_fast_model("lstm", SIZES["lstm"], VOCABULARY, model.params)
rule = FastEngine(fast, "adam", side_by_side.STILL, side_by_side.CLIP_NORM)
whole = fastest({"": side_by_side.step_of(rule, features, captions)})[""]
looked_up = race(
    each_word=lambda: embed[spoken] @ Wx,
    each_different_word_once=lambda: (embed[different] @ Wx)[which],
)
turned = race(
    da_WT=lambda: [a @ Wh.T for a in slices], W_daT=lambda: [(Wh @ a.T).T for a in slices]
)

# %% tags=["hide-input", "measured"]
for name, times in (("the look-up", looked_up), ("the other form", turned)):
    before, after = times.values()
    share = before / whole
    gain = 1 / (1 - share + after / whole)
    print(f"{name:<16}{share:4.0%} of a step, {gain:.2f} x for the whole")

# %% [markdown]
# `benchmarks` took each away from whole steps ([`docs/speed.md`](../docs/speed.md) has the numbers). The look-up gave
# less than the rule asks, and nothing at all with dropout, where two places with the same word no longer have the same
# vector. It is deleted. The other form helps the LSTM, whose matrix is four times as wide as the RNN's. It stays, in one
# line.
#
# One choice is in the definitions, too. A sigmoid that must not overflow can pick its cases by a mask. But
# $\sigma(a) = \frac{1}{2}(1 + \tanh \frac{a}{2})$ cannot overflow either, and picks nothing:


# %% tags=["hide-input"]
def sigmoid_by_mask(x):
    out, positive = np.empty_like(x), x >= 0
    out[positive] = 1 / (1 + np.exp(-x[positive]))
    exponentials = np.exp(x[~positive])
    out[~positive] = exponentials / (1 + exponentials)
    return out


sums = np.random.default_rng(1).standard_normal((64, 4 * H), dtype=np.float32)
assert relative_error(sigmoid_by_mask(sums), sigmoid(sums)) < 1e-6

# %% tags=["measured"]
masks = race(by_mask=lambda: sigmoid_by_mask(sums), by_tanh=lambda: sigmoid(sums))
times = list(masks.values())
assert times[0] > 5 * times[1]

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
# So the same trained model must say the same with each. Its pictures here are random numbers: only that the captions are
# the same three times matters.

# %%
checkpoint = load_checkpoint(lessons.TRAINED / "lstm" / "best.npz")
seen = np.random.default_rng(4).standard_normal((5, checkpoint.config["input_dim"]))
said = []
for build in (build_model, build_fast_model, build_torch_model):
    captioner = build(
        checkpoint.model, checkpoint.config, checkpoint.idx_to_word, checkpoint.params
    )
    said.append(greedy(captioner, seen.astype(np.float32), 20))
assert np.array_equal(said[0], said[1]) and np.array_equal(said[0], said[2])
print(" ".join(checkpoint.idx_to_word[word] for word in said[0][0] if word))

# %% [markdown]
# How fast is hand-written NumPy beside PyTorch? Both on one thread and the same batch, with PyTorch's fused LSTM and
# fused Adam. `make bench` runs this for all models and batch sizes.

# %% tags=["measured"]
how = "adam", side_by_side.STILL, side_by_side.CLIP_NORM
in_torch = TorchEngine(build_torch_model("lstm", SIZES["lstm"], VOCABULARY), *how)
_ = race(
    plain=side_by_side.step_of(NumpyEngine(model, *how), features, captions),
    numpy=side_by_side.step_of(rule, features, captions),
    torch=side_by_side.step_of(in_torch, torch.from_numpy(features), captions),
)

# %% [markdown]
# ## What you have now
#
# * The two limits of your machine, and two reasons why a part may reach neither.
# * A way to foretell what a gain on a part gives the whole.
# * Three engines for one checkpoint.
#
# **Sources.** K. Goto and R. van de Geijn, *Anatomy of high-performance matrix multiplication*, ACM Transactions on
# Mathematical Software 34 (2008). S. Williams, A. Waterman and D. Patterson, *Roofline: an insightful visual
# performance model for multicore architectures*, Communications of the ACM 52 (2009).
