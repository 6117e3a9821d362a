# %% [markdown]
# # 3 · Affine, embedding, softmax
#
# **The question.** Words go in, a word comes out, and all that happens in between is arithmetic. How does a word
# become numbers, how do numbers become a word again, and which single number says how wrong the guess was?
#
# You build the two ends of every captioner of this course: the look-up that turns a word into a vector, the
# affine layer that scores all words, and softmax with cross-entropy, the loss. You derive their gradients index
# by index, break them with large scores, repeated words and padding, and mend them. At the end these layers
# alone, without any memory, learn to speak: fluent in pairs of words, hopeless in sentences.
#
# *Before: [lesson 2](02_gradients_you_can_trust.ipynb) (checking a gradient). About 60 minutes; all cells
# together run in half a minute.*

# %% tags=["setup"]
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import decode_captions
from core.gradient_check import check, eval_numerical_gradient, relative_error
from core.layers import (
    affine_backward,
    affine_forward,
    log_softmax,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from core.lessons import compare, confirm, draw_graph, show_source
from core.shapes import caption_is_true, load_scenes

lessons.style()

# %% [markdown]
# ## By hand, with four words
#
# A vocabulary of four: `a`, `red`, `circle` and `<END>`, which closes a caption. The model has just read "red"
# and should say "circle". Each word owns a vector of two numbers; an affine layer turns the vector into one
# **score** a word; **softmax** turns scores into probabilities; the loss is $-\log$ of the probability that the
# right word got.

# %%
vocabulary = ["a", "red", "circle", "<END>"]
W_embed = np.array([[1.0, 0.0], [0.5, 1.0], [1.0, 1.0], [0.0, 0.0]])  # a row for each word
w = np.array([[0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 1.0, -0.5]])  # a column for each word
read, right = vocabulary.index("red"), vocabulary.index("circle")


def show(name, numbers):
    print(f"{name:<26}", *(f"{number:8.3f}" for number in numbers))


def forward_by_hand():
    vector = W_embed[read]
    scores = vector @ w
    powers = np.exp(scores)
    return vector, scores, powers, powers / powers.sum()


vector, scores, powers, p = forward_by_hand()
print("the vector of red:", vector, "\n")
print(f"{'':<26}", *(f"{word:>8}" for word in vocabulary))
show("scores = vector w", scores)
show("exp(scores)", powers)
show(f"p = exp / {powers.sum():.3f}", p)
print(f"loss = -log {p[right]:.3f} = {-np.log(p[right]):.3f}\n")

dscores = p.copy()
dscores[right] -= 1  # derived below
show("dscores = p - one-hot", dscores)
show("dvector = dscores w^T", dscores @ w.T)
show("dw, row 0 = 0.5 dscores", np.outer(vector, dscores)[0])
show("dw, row 1 = 1.0 dscores", np.outer(vector, dscores)[1])

W_embed[read] -= dscores @ w.T  # one step downhill, with a learning rate of 1
w -= np.outer(vector, dscores)
p_after = forward_by_hand()[-1]
print()
show("p after one step", p_after)
print(f"loss = -log {p_after[right]:.3f} = {-np.log(p_after[right]):.3f}")
assert p_after[right] > p[right]

# %% [markdown]
# "circle" gets more than before, all others less. This is a whole training step of a language model. What follows
# takes its parts one at a time, with a batch and with time, and derives each line of the way back.
#
# ## Affine, forward
#
# An affine layer maps rows of $D$ numbers to rows of $M$ numbers:
#
# $$ \text{out}_{nm} = \sum_d x_{nd}\, w_{dm} + b_m \qquad\text{or}\qquad \text{out} = x\,w + b $$
#
# | | shape | |
# | --- | --- | --- |
# | $x$ | $(N, D)$ | $N$ rows, one an example |
# | $w$ | $(D, M)$ | column $m$ says what output $m$ looks for |
# | $b$ | $(M,)$ | added to every row |
# | out | $(N, M)$ | |
#
# The code of this lesson is `core/layers.py`, in the same order. There each $x_n$ may have any shape, and is flattened
# to a row of $D$ numbers first.

# %%
show_source(affine_forward)

# %%
rng = np.random.default_rng(0)
N, D, M = 4, 3, 5  # all different, so that a wrong axis cannot hide
x, w, b = rng.standard_normal((N, D)), rng.standard_normal((D, M)), rng.standard_normal(M)

out, cache = affine_forward(x, w, b)
by_hand = np.array(
    [[sum(x[n, d] * w[d, m] for d in range(D)) + b[m] for m in range(M)] for n in range(N)]
)
assert np.allclose(out, by_hand, rtol=0, atol=1e-14)
print("out:", out.shape, "equal to sums by hand to within 1e-14")

# %% [markdown]
# ## Affine, backward
#
# From above comes $d\text{out}_{nm} = \partial L / \partial\,\text{out}_{nm}$: by how much the loss grows with
# each output. We owe $dx$, $dw$ and $db$. For each of them ask one question: **who reads this number?** The chain
# rule then sums over all readers.
#
# **The input.** $x_{nd}$ is read by the outputs of its own row, $\text{out}_{n1} \dots \text{out}_{nM}$, and by
# no other. In output $m$ it stands beside $w_{dm}$:
#
# $$ dx_{nd} = \sum_m d\text{out}_{nm}\, \frac{\partial\, \text{out}_{nm}}{\partial x_{nd}}
#            = \sum_m d\text{out}_{nm}\, w_{dm}
#            = \sum_m d\text{out}_{nm}\, (w^T)_{md} \;\Rightarrow\; dx = d\text{out}\; w^T \qquad (N, M)(M, D) $$
#
# The sum runs over the *second* index of $w$; a matrix product runs over the first index of its right factor.
# That is where the transpose comes from.
#
# **The weights.** $w_{dm}$ is read by output $m$ of every row $n$:
#
# $$ dw_{dm} = \sum_n d\text{out}_{nm}\, \frac{\partial\, \text{out}_{nm}}{\partial w_{dm}}
#            = \sum_n x_{nd}\, d\text{out}_{nm}
#            = \sum_n (x^T)_{dn}\, d\text{out}_{nm} \;\Rightarrow\; dw = x^T d\text{out} \qquad (D, N)(N, M) $$
#
# The sum over the batch is inside the product: nobody writes it, and nobody should average it. If the loss is a
# mean over the batch, then $d\text{out}$ has the $1/N$ in it already.
#
# **The bias.** $b_m$ is read by output $m$ of every row, with a factor of 1: $db_m = \sum_n d\text{out}_{nm}$.

# %%
draw_graph(
    {
        "x": (0, 0.9, "$x$"), "w": (0, -0.4, "$w$"), "b": (1.5, -0.9, "$b$"),
        "@": (1.5, 0.3, "@"), "+": (3.0, 0.3, "+"), "out": (4.5, 0.3, "$out$"),
    },
    [
        ("x", "@", "", "$dout\\,w^T$"), ("w", "@", "", "$x^T dout$"),
        ("@", "+", "$x w$", "$dout$"), ("b", "+", "", "$\\Sigma_n dout$"),
        ("+", "out", "$out$", "$dout$"),
    ],
    "An affine layer: values forward (blue), gradients back (orange)",
)  # fmt: skip
show_source(affine_backward)

# %%
report = check("affine_backward", affine_backward)
assert report
report

# %% [markdown]
# ### The same layer at every step
#
# A captioner scores the vocabulary after *every* word. The scores of step $t$ come from the same $w$ and $b$ as
# those of step 1, so for the layer an entry $(n, t)$ is one more row: $N \cdot T$ rows, one product.
#
# $$ \text{out}_{ntm} = \sum_d x_{ntd}\, w_{dm} + b_m, \qquad dw_{dm} = \sum_n \sum_t x_{ntd}\, d\text{out}_{ntm} $$
#
# Nothing is new in the derivation but one more index to sum over: a weight that is shared by all steps is read at
# all steps, and collects from all of them.

# %%
show_source(temporal_affine_forward, temporal_affine_backward, docstring=False)

# %%
T = 6
x, dout = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, M))
out, cache = temporal_affine_forward(x, w, b)
dx, dw, db = temporal_affine_backward(dout, cache)

step_by_step = [
    affine_backward(dout[:, t], affine_forward(x[:, t], w, b)[1]) for t in range(T)
]
assert relative_error(dx, np.stack([step[0] for step in step_by_step], axis=1)) < 1e-12
assert relative_error(dw, sum(step[1] for step in step_by_step)) < 1e-12
assert relative_error(db, sum(step[2] for step in step_by_step)) < 1e-12
print("one product for all steps: the same numbers as a loop over the steps")

report = check("temporal_affine_backward", temporal_affine_backward)
assert report
report

# %% [markdown]
# ## A word becomes a vector
#
# A word is an id between 0 and $V - 1$, and an id is a name, not a quantity: word 7 is not more than word 6. So
# every word gets a row of its own in a table $W$ of shape $(V, D)$, and is looked up:
#
# $$ \text{out}_{ntd} = W_{x_{nt},\, d} $$
#
# | | shape | |
# | --- | --- | --- |
# | $x$ | $(N, T)$ | word ids, integers |
# | $W$ | $(V, D)$ | one vector a word |
# | out | $(N, T, D)$ | |
#
# This is an affine layer in disguise. Write the id as a **one-hot** row, $E_{ntv} = 1$ where $v = x_{nt}$ and 0
# elsewhere. Then
#
# $$ \sum_v E_{ntv}\, W_{vd} = W_{x_{nt},\, d} $$
#
# since one single term of the sum is not 0. The product is what we derive with; the look-up is what we compute
# with.

# %%
show_source(word_embedding_forward)

# %%
V, D = 7, 3
words = rng.integers(0, V, size=(N, T))
W = rng.standard_normal((V, D))
out, cache = word_embedding_forward(words, W)
one_hot = np.eye(V)[words]  # (N, T, V)
assert np.array_equal(out, one_hot @ W)
print("look-up and one-hot product agree:", words.shape, "->", out.shape)

ids = np.zeros((64, 16), np.int32)  # 64 captions of 16 words
as_one_hot = 4 * ids.size * 10_000  # bytes, in float32, of a vocabulary of 10,000 words
print(
    f"64 captions of 16 words: {ids.nbytes:,} bytes as ids, {as_one_hot:,} as one-hot rows"
)

print("W[-1] is the last word, without a complaint:", np.array_equal(W[-1], W[V - 1]))
try:
    word_embedding_forward(np.array([[2, -1]]), W)
except ValueError as error:
    print("core:", error)

# %% [markdown]
# ### What repeats must add up
#
# $x$ has no gradient: between word 6 and word 7 there is nothing. For $W$, the disguise gives the answer, as for
# any affine layer:
#
# $$ dW_{vd} = \sum_n \sum_t E_{ntv}\, d\text{out}_{ntd} = \sum_{(n,\,t)\,:\;x_{nt} = v} d\text{out}_{ntd} $$
#
# Each row of $W$ sums the gradients of **all places where its word stands**. A word that stands nowhere gets 0.
# In NumPy it is tempting to mirror the look-up `W[x]` by an assignment, `dW[x] = dout`; the careful write
# `dW[x] += dout`. Three words, "a red a", with gradients that can be told apart:

# %%
x = np.array([[0, 1, 0]])  # a red a
dout = np.array([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]])


def assigned(dout, cache):
    x, W = cache
    dW = np.zeros_like(W)
    dW[x] = dout
    return dW


def added(dout, cache):
    x, W = cache
    dW = np.zeros_like(W)
    dW[x] += dout
    return dW


cache = (x, np.zeros((4, 2)))
for name, backward in (
    ("dW[x] = dout", assigned),
    ("dW[x] += dout", added),
    ("core", word_embedding_backward),
):
    rows = zip(vocabulary, backward(dout, cache), strict=True)
    print(f"{name:<16}", *(f"{word}: {row}" for word, row in rows))
assert np.array_equal(word_embedding_backward(dout, cache)[0], [101, 202])
assert np.array_equal(added(dout, cache), assigned(dout, cache))

# %% [markdown]
# Both lose the first "a". The `+=` looks like a sum and is none: NumPy reads all rows `dW[x]`, adds, and writes
# all of them back; the second "a" overwrites the first. `core` takes `np.add.at`, which adds one place after the
# other.

# %%
show_source(word_embedding_backward, docstring=False)

# %%
for right_or_wrong in (word_embedding_backward, added):
    report = check("word_embedding_backward", right_or_wrong)
    print(f"{right_or_wrong.__name__}:\n{report}\n")
    assert bool(report) == (right_or_wrong is not added)

different = (np.array([[0, 1, 2]]), np.zeros((4, 2)))  # no word twice
assert np.array_equal(added(dout, different), word_embedding_backward(dout, different))
print("on three different words added is right")

# %% [markdown]
# The check sees it because its inputs repeat a word on purpose. With a test on different words, `dW[x] += dout`
# passes. What it does to a training, we shall see below.
#
# ## Scores become probabilities
#
# The affine layer gives $V$ scores $s_1 \dots s_V$, any real numbers. Softmax makes them positive and makes their
# sum 1:
#
# $$ p_i = \frac{e^{s_i}}{\sum_j e^{s_j}} $$
#
# Add the same number $a$ to all scores, and nothing changes:
#
# $$ \frac{e^{s_i + a}}{\sum_j e^{s_j + a}} = \frac{e^a\, e^{s_i}}{e^a \sum_j e^{s_j}} = p_i $$
#
# So only *differences* of scores mean anything: $p_i / p_k = e^{s_i - s_k}$. On paper that is a curiosity. In
# floating point it decides whether the program works, for $e^s$ leaves the numbers that float32 can hold when $s$
# passes 88.7.


# %%
def naive_softmax(scores):
    powers = np.exp(scores)
    return powers / powers.sum()


def shifted_softmax(scores):
    powers = np.exp(scores - scores.max())  # a = -max: the largest power is e^0 = 1
    return powers / powers.sum()


largest = np.log(np.finfo(np.float32).max)
print(f"float32 holds e^s up to s = {largest:.1f}\n")
with np.errstate(all="ignore"):  # let it fail quietly
    for shift in (0, 80, 90, 1000):
        scores = np.array([0, 1, 2], np.float32) + np.float32(shift)
        naive, shifted = naive_softmax(scores), shifted_softmax(scores)
        print(f"scores {scores}: naive {naive}, shifted {shifted}")
    assert np.isnan(naive).all()
assert np.allclose(shifted, [0.0900, 0.2447, 0.6652], atol=1e-4)

# %% [markdown]
# Infinity over infinity is not a number. With the largest score subtracted, every power lies between 0 and 1, and
# their sum between 1 and $V$: it cannot overflow, and it cannot be 0.
#
# One trap is left. The loss wants $\log p_i$, and a small $p_i$ may have become exactly 0. So do not take the
# logarithm of a softmax; take it on paper. With $s_{\max}$ for the largest score,
#
# $$ \log p_i = \log \frac{e^{s_i - s_{\max}}}{\sum_j e^{s_j - s_{\max}}}
#    = (s_i - s_{\max}) - \log \sum_j e^{s_j - s_{\max}} $$
#
# The exponential of the numerator is gone, so there is nothing left to underflow; the sum is at least 1, so its
# logarithm is harmless. This is the **log-sum-exp** trick. Here a wrong word has a score that is higher than the
# right one's by more and more:

# %%
show_source(log_softmax)


# %%
def three_losses(margin):
    """Of the second of two words, in float32: three ways to write -log p."""
    s = np.array([margin, 0], np.float32)
    with np.errstate(all="ignore"):
        return (
            -np.log(naive_softmax(s)[1]),
            -np.log(shifted_softmax(s)[1]),
            -log_softmax(s)[1],
        )


print(f"{'margin':>8}{'naive':>10}{'log of shifted':>18}{'log-sum-exp':>14}")
for margin in (1, 20, 120, 1000):
    naive, shifted, stable = three_losses(margin)
    print(f"{margin:>8}{naive:>10.3f}{shifted:>18.3f}{stable:>14.3f}")
    exact = np.log1p(np.exp(-float(margin))) + margin  # log(1 + e^margin)
    assert abs(stable - exact) < 1e-6 * exact
assert not np.isfinite(naive) and not np.isfinite(shifted)

# %% [markdown]
# ## The loss, and where it comes from
#
# A caption is a sequence of words $y_1 \dots y_T$, and the model gives each word a probability, given those
# before it. The probability of the whole caption is their product, which for ten words is a very small number;
# its logarithm is a sum. We ask for the weights under which the captions of the data are as probable as possible,
# so we minimise
#
# $$ L = -\log \prod_t p(y_t) = \sum_t -\log p(y_t) $$
#
# Each term is a **cross-entropy**, in **nats** (natural logarithm; $\log 2 = 0.69$ nats are a bit). It is 0 for a
# model that was certain and right, $\log V$ for one that thinks all words equally likely, and without bound for
# one that was certain and wrong.
#
# ## Its gradient, line by line
#
# One place, scores $s$, right word $y$, $L = -\log p_y$. We want $\partial L / \partial s_j$.
#
# **1. The Jacobian of softmax.** Let $Z = \sum_k e^{s_k}$, so $p_i = e^{s_i} / Z$ and
# $\partial Z / \partial s_j = e^{s_j}$. The numerator depends on $s_j$ only where $i = j$:
# $\partial e^{s_i} / \partial s_j = \delta_{ij} e^{s_i}$, where $\delta_{ij}$ is 1 for $i = j$ and 0 otherwise.
# The quotient rule:
#
# $$ \frac{\partial p_i}{\partial s_j} = \frac{\delta_{ij}\, e^{s_i}\, Z - e^{s_i}\, e^{s_j}}{Z^2}
#    = \delta_{ij}\, p_i - p_i\, p_j = p_i\,(\delta_{ij} - p_j) $$
#
# **2. The logarithm.** $L$ reads one probability, $p_y$:
#
# $$ \frac{\partial L}{\partial p_i} = -\frac{\delta_{iy}}{p_y} $$
#
# **3. The chain.** $s_j$ is read by all $p_i$, so we sum over them, and one term survives:
#
# $$ \frac{\partial L}{\partial s_j} = \sum_i \frac{\partial L}{\partial p_i} \frac{\partial p_i}{\partial s_j}
#    = -\frac{1}{p_y}\; p_y\,(\delta_{yj} - p_j) $$
#
# **4. The collapse.** $p_y$ cancels:
#
# $$ \frac{\partial L}{\partial s_j} = p_j - \delta_{yj} \qquad\text{or}\qquad ds = p - \text{onehot}(y) $$
#
# As a second opinion, without the Jacobian: $L = -s_y + \log Z$, and
# $\partial \log Z / \partial s_j = e^{s_j} / Z = p_j$.
#
# Read it: every score is pushed down by the probability that its word was given, and the right one is pushed up
# by what it lacks to 1. The pushes sum to 0, for a common shift of the scores changes nothing. And no entry is
# ever larger than 1, however wrong the model is.

# %%
scores, y = np.array([0.5, 0.5, 1.0, -0.5]), 2  # the example from the top
p = shifted_softmax(scores)
jacobian = np.diag(p) - np.outer(p, p)
numerical = np.stack(
    [
        eval_numerical_gradient(lambda s, i=i: shifted_softmax(s)[i], scores.copy())
        for i in range(4)
    ]
)
print("Jacobian of softmax, row i and column j:")
print(jacobian)
assert np.allclose(jacobian, numerical, atol=1e-9)
assert np.allclose(jacobian.sum(axis=1), 0)  # a common shift changes nothing

dp = np.zeros(4)
dp[y] = -1 / p[y]
print("dp:         ", dp)
print("dp Jacobian:", dp @ jacobian)
print("p - one-hot:", p - np.eye(4)[y])
assert np.allclose(dp @ jacobian, p - np.eye(4)[y])

# %%
draw_graph(
    {
        "s": (0, 0, "$s$"), "softmax": (1.6, 0, "softmax"),
        "log": (3.3, 0, "-log of entry y"), "L": (5.0, 0, "$L$"),
    },
    [
        ("s", "softmax", "$s$", "$p - onehot(y)$"), ("softmax", "log", "$p$", "$-1/p_y$"),
        ("log", "L", "$-\\log p_y$", "1"),
    ],
    "In two steps there is a division by $p_y$ on the way; together it cancels",
    unit=1.7,
)  # fmt: skip

# %% [markdown]
# ## The tempting wrong way: one node at a time
#
# A library of layers would have softmax as one layer and the logarithm as the next, each with a backward of its
# own, and the chain rule between them. It is exact on paper. In floating point $p_y$ does not cancel when it is
# too small. It need not be 0 for that: below 3e-39, $1/p_y$ is larger than float32 can hold, and becomes infinite.
# The Jacobian then takes infinity from infinity, which is not a number. The usual patch
# is $-\log(p_y + \varepsilon)$. It never gives NaN. Look at what it gives instead.


# %%
def fused(s, y):
    ds = shifted_softmax(s)
    ds[y] -= 1
    return ds


def unfused(s, y, epsilon=0.0):
    """The same in two steps: through -log(p_y + epsilon), then through softmax."""
    p = shifted_softmax(s)
    dp = np.zeros_like(p)
    dp[y] = -1 / (p[y] + np.float32(epsilon))
    return p * (dp - np.sum(dp * p))  # dp times the Jacobian


margins = np.arange(0, 131, 2)
pushes = {"fused": [], "unfused": [], "unfused, $\\epsilon = 10^{-8}$": []}
with np.errstate(all="ignore"):
    for margin in margins:
        s = np.array([margin, 0], np.float32)
        for name, gradient in zip(
            pushes, (fused(s, 1), unfused(s, 1), unfused(s, 1, 1e-8)), strict=True
        ):
            pushes[name].append(-gradient[1])  # a step goes against the gradient
for (name, push), style in zip(pushes.items(), ("-", "--", "-"), strict=True):
    plt.plot(margins, push, style, label=name, linewidth=2)
plt.gca().set(
    xlabel="by how much a wrong word's score exceeds the right one's",
    ylabel="push: minus the gradient of its score",
    title="How hard the right word is pushed up, float32",
)
plt.legend()
plt.show()

at = {
    margin: gradients
    for margin, *gradients in zip(margins.tolist(), *pushes.values(), strict=True)
}
print(
    f"{'margin':>6} {'loss':>7} {'patched':>8}   {'fused':>7} {'unfused':>8} {'patched':>9}"
)
for margin in (10, 20, 50, 120):
    s = np.array([margin, 0], np.float32)
    patched = -np.log(shifted_softmax(s)[1] + np.float32(1e-8))
    print(
        f"{margin:>6} {-log_softmax(s)[1]:>7.2f} {patched:>8.2f}  ",
        "{:>7.2g} {:>8.2g} {:>9.2g}".format(*np.add(at[margin], 0)),
    )
assert at[120][0] == 1
assert np.isnan(at[120][1])
assert 0.1 < at[20][2] < 0.2 and abs(at[50][2]) < 1e-12

with np.errstate(all="ignore"):
    for margin, holds in ((88, True), (89, False)):
        s = np.array([margin, 0], np.float32)
        small = shifted_softmax(s)[1]
        print(f"margin {margin}: p {small:.0e}, 1/p {1 / small:.0e}", end=" ")
        print(f"push in two steps {-unfused(s, 1)[1]:.3g}")
        assert small > 0 and np.isfinite(unfused(s, 1)).all() == holds

# %% [markdown]
# The two steps hold up to a margin of 88, and are NaN from 89 on (the dashed line ends), where $p_y$ is 2e-39 and
# its inverse overflows. The patched loss is worse, because nothing tells you: at a margin of 20 a sixth of the push
# is left, and at 50 *nothing*. The model stops learning exactly where it is most wrong, and the loss stays at
# $-\log 10^{-8} = 18.4$.
#
# The same 0 lies in wait in the textbook form of the loss, $-\sum_i \text{onehot}_i \log p_i$. Even where the
# right word has probability 1, the sum holds $0 \cdot \log 0$ for the others:

# %%
s = np.array([120, 0], np.float32)  # right, and certain
with np.errstate(all="ignore"):
    textbook = -np.sum(np.array([1, 0], np.float32) * np.log(shifted_softmax(s)))
print("textbook sum:", textbook, "  look-up in log_softmax:", abs(log_softmax(s)[0]))
assert np.isnan(textbook)
assert log_softmax(s)[0] == 0

# %% [markdown]
# So `core` fuses the pair, and looks the right word up instead of multiplying by zeros.
#
# ## Padding does not count
#
# Captions of a batch have different lengths and share one array, filled up with `<NULL>`. What the model says at
# those places is nobody's business. `temporal_softmax_loss` takes a **mask** $(N, T)$, True where a word counts:
#
# $$ L = -\frac{1}{N} \sum_n \sum_t \text{mask}_{nt}\, \log p_{nt,\,y_{nt}}, \qquad
#    dx_{nt} = \frac{\text{mask}_{nt}}{N} \left(p_{nt} - \text{onehot}(y_{nt})\right) $$
#
# Here $x$ are the scores, $(N, T, V)$. Three corners: padding at the end; gaps in the middle (a word that must
# not be learned); and a row without any word. Places that do not count may hold anything, NaN as well. (`mask` may
# hold weights too. `smoothing`, a number $s$ for training on photos, takes $(1 - s)\,\text{onehot}(y) + s / V$ for the
# one-hot row, in the loss $-\sum_v \text{target}_v \log p_v$ and in the gradient; at 0 nothing changes.)

# %%
show_source(temporal_softmax_loss, docstring=False)

# %%
N, T, V = 3, 4, 6
scores, targets = rng.standard_normal((N, T, V)), rng.integers(0, V, (N, T))
mask = np.array(
    [[True, True, True, False], [True, False, True, True], [False, False, False, False]]
)
loss, dscores = temporal_softmax_loss(scores, targets, mask)
by_hand = sum(
    -np.log(np.exp(scores[n, t, targets[n, t]]) / np.exp(scores[n, t]).sum())
    for n in range(N) for t in range(T) if mask[n, t]
) / N  # fmt: skip
assert abs(loss - by_hand) < 1e-14
assert np.all(dscores[~mask] == 0) and np.all(dscores[2] == 0)

spoilt, nonsense = scores.copy(), targets.copy()
spoilt[~mask], nonsense[~mask] = np.nan, -99
same_loss, same_gradient = temporal_softmax_loss(spoilt, nonsense, mask)
assert same_loss == loss and np.array_equal(same_gradient, dscores)
print(f"loss {loss:.4f}; with NaN and word -99 wherever the mask is False: {same_loss:.4f}")

report = check(
    "temporal_softmax_loss", temporal_softmax_loss
)  # its mask has all three corners
assert report
report

# %% [markdown]
# Two tempting ways to write the mask. *Multiply at the end*: compute all places, then multiply by 0 what does not
# count; but $0 \cdot \text{NaN}$ is NaN. *Average each caption over its own words*; but a caption without words
# has the mean 0/0. Either way one bad row takes the whole batch with it:

# %%
with np.errstate(all="ignore"):
    places = np.take_along_axis(log_softmax(spoilt), targets[..., None], axis=2)[..., 0]
    multiplied = -(places * mask).sum() / N
    places = np.take_along_axis(log_softmax(scores), targets[..., None], axis=2)[..., 0]
    own_words = -((places * mask).sum(axis=1) / mask.sum(axis=1)).mean()
print("multiplied by the mask at the end:", multiplied)
print("mean over each caption's own words:", own_words)
assert np.isnan(multiplied) and np.isnan(own_words)

# %% [markdown]
# ## A captioner without a memory
#
# Put the layers in a row. Read a word, look up its vector, score all words, and that is the model:
#
# $$ \text{scores}_{nt} = W_{\text{embed}}[x_{nt}]\; w + b $$
#
# It knows the last word and nothing else: neither the words before it, nor the picture. Such a model is called a
# **bigram** model. We feed it the captions of the [embedded data](01_the_task_and_the_data.ipynb): what is read
# is each caption without its last word, what should be said is the same without its first.

# %%
data = lessons.embedded_data("rnn")
captions, idx_to_word = data["train_captions"], data["idx_to_word"]
null, start, end = (data["word_to_idx"][word] for word in ("<NULL>", "<START>", "<END>"))
V = len(idx_to_word)


def split(captions):
    """What is read (N, T), what should be said (N, T), and what of it counts."""
    return captions[:, :-1], captions[:, 1:], captions[:, 1:] != null


def new_params(width, scale=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "W_embed": scale * rng.standard_normal((V, width)),
        "w": scale * rng.standard_normal((width, V)),
        "b": np.zeros(V),
    }


def bigram_loss(params, captions, embedding_backward=word_embedding_backward):
    """Nats, summed over time and averaged over the batch; and the gradients."""
    words, targets, mask = split(captions)
    vectors, word_cache = word_embedding_forward(words, params["W_embed"])
    scores, score_cache = temporal_affine_forward(vectors, params["w"], params["b"])
    loss, dscores = temporal_softmax_loss(scores, targets, mask)
    dvectors, dw, db = temporal_affine_backward(dscores, score_cache)
    return loss, {"W_embed": embedding_backward(dvectors, word_cache), "w": dw, "b": db}


print("read:", *(idx_to_word[i] for i in captions[0, :12]))
print("say: ", *(idx_to_word[i] for i in captions[0, 1:13]))

params = new_params(width=3, scale=0.5)
loss, grads = bigram_loss(params, captions[:5])
for name, parameter in params.items():
    numerical = eval_numerical_gradient(
        lambda _: bigram_loss(params, captions[:5])[0], parameter
    )
    error = relative_error(grads[name], numerical)
    size = "less than 1e-7" if error < 1e-7 else error
    print(f"d{name:<8} {grads[name].shape!s:<9} off by {size}")
    assert error < 1e-7

# %% [markdown]
# ### The first loss is known before you start
#
# With small random weights all scores are near 0, so every word gets about $1/V$, and the loss is $\log V$ nats a
# word, whatever the data. It is the cheapest test there is: one forward pass, before any training.

# %%
batch = captions[:500]
tokens = np.count_nonzero(split(batch)[2]) / len(batch)
print(f"log V = log {V} = {np.log(V):.2f} nats per token")
print(f"{tokens:.2f} tokens a caption: its words, and <END>\n")
print(f"{'scale of the weights':>20}{'nats per caption':>16}{'nats per token':>14}")
first = {}
for scale in (0.01, 0.1, 1, 3):
    loss, _ = bigram_loss(new_params(16, scale), batch)
    first[scale] = loss / tokens
    print(f"{scale:>20}{loss:>16.2f}{first[scale]:>14.2f}")
assert abs(first[0.1] - np.log(V)) < 0.02
assert first[3] > 5 * np.log(V)

# %% [markdown]
# Above $\log V$ means that the model starts certain of something false: weights too large, as in the last rows.
# Below means that it sees what it should not, the answer for instance, or that something else than words is
# counted.
#
# ## What is the loss averaged over?
#
# The losses of the places must become one number, and there is more than one way:
#
# | | | |
# | --- | --- | --- |
# | a caption | summed over time, averaged over the batch | this project, `model.loss` |
# | a token | averaged over all words that count | what we *print* in trainings, and perplexity |
# | a place | averaged over all $N \cdot T$ places, padding in | the mean of an array that nobody thought about |
#
# The same model, the same batch:


# %%
def loss_a(unit, params, captions):
    """Loss and gradients of ``bigram_loss``, a 'caption', a 'token' or a 'place'."""
    loss, grads = bigram_loss(params, captions)
    mask = split(captions)[2]
    factors = {"caption": 1, "token": len(mask) / mask.sum(), "place": 1 / mask.shape[1]}
    factor = factors[unit]
    return loss * factor, {name: gradient * factor for name, gradient in grads.items()}


params = new_params(16)
values = {}
for unit in ("caption", "token", "place"):
    value, grads = loss_a(unit, params, batch)
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in grads.values()))
    values[unit] = value, norm
    print(f"a {unit:<8} loss {value:6.2f}   norm of the gradient {norm:.3f}")

padded = np.pad(
    batch, ((0, 0), (0, 16)), constant_values=null
)  # 16 more columns of nothing
values["padded"] = loss_a("place", params, padded)[0]
print(f"\na place, with 16 more columns of padding: {values['padded']:.2f}")
print(f"a token, with 16 more columns of padding: {loss_a('token', params, padded)[0]:.2f}")
assert np.allclose(np.divide(values["caption"], values["place"]), 16)
assert np.isclose(values["padded"], values["place"][0] / 2)

# %% [markdown]
# The first and the last are 16 times apart, because captions here have 16 places; and nothing about the model
# differs. **Losses are comparable only in the same unit, over the same targets.** A loss "a place" even halves
# when somebody pads the captions to twice the length.
#
# It is not the printed number alone. The gradient carries the same factor, and gradient descent takes steps of
# (learning rate) x (gradient). So a learning rate belongs to a convention. One rate, three conventions; then the
# third with a rate 16 times larger:


# %%
def train(width, steps, rate, batch_size=100, seed=0, unit="caption", **options):
    """Gradient descent, at a tenth of the rate in the last third: params, losses."""
    params, rng = new_params(width), np.random.default_rng(seed)
    losses = []  # nats per token, whatever is minimised
    for step in range(steps):
        batch = captions[rng.integers(len(captions), size=batch_size)]
        if options:
            loss, grads = bigram_loss(params, batch, **options)
        else:
            loss, grads = loss_a(unit, params, batch)
        factor = rate if step < 2 * steps / 3 else rate / 10
        for name in params:
            params[name] = params[name] - factor * grads[name]
        mask = split(batch)[2]
        to_token = {
            "caption": len(mask) / mask.sum(),
            "token": 1,
            "place": mask.size / mask.sum(),
        }
        losses.append(loss * to_token[unit])
    return params, np.array(losses)


runs = {
    "a caption, rate 0.3": train(16, 150, 0.3),
    "a token, rate 0.3": train(16, 150, 0.3, unit="token"),
    "a place, rate 0.3": train(16, 150, 0.3, unit="place"),
    "a place, rate 4.8": train(16, 150, 4.8, unit="place"),
}
for (name, (_, losses)), style in zip(runs.items(), ("-", "-", "-", ":"), strict=True):
    plt.plot(losses, style, label=name, linewidth=3 if style == ":" else 1.5)
plt.gca().set(
    xlabel="step",
    ylabel="nats per token",
    title="What is minimised differs by a factor, and so does each step",
)
plt.legend()
plt.show()
ends = {name: losses[-20:].mean() for name, (_, losses) in runs.items()}
for name, loss in ends.items():
    print(f"{name:<20} ends at {loss:.2f} nats per token")
assert ends["a place, rate 0.3"] > ends["a caption, rate 0.3"] + 0.5
assert np.allclose(runs["a caption, rate 0.3"][1], runs["a place, rate 4.8"][1])

# %% [markdown]
# The dotted curve lies on the first: 16 times smaller gradients, 16 times larger steps, the same run. An
# optimizer that divides by the size of the gradient does not care ([lesson 4](04_update_rules.ipynb)); plain
# gradient descent, clipping and weight decay do.
#
# Why is a sum over time minimised here? It is $-\log$ of the probability of the caption, which is what was
# derived. And each word pulls with the same weight $1/N$, in whatever company it comes; in a mean over the tokens
# of a batch it pulls less when its neighbours are long. For reading, nats per token are better, since they do not
# depend on the length. Their exponential is the **perplexity**: a model with a perplexity of 3.6 is as uncertain
# as one that chooses among 3.6 words with equal chances. Take the exponential of the mean, at the end; a mean of
# perplexities is something else.
#
# ## How good can a bigram model become?
#
# Before training longer, ask what the best possible result is. Count: let $c(u, v)$ be how often word $v$ follows
# word $u$ in the captions, $c(u) = \sum_v c(u, v)$, $C = \sum_u c(u)$ all tokens, and
# $\hat p(v \mid u) = c(u, v) / c(u)$. Our model answers $q(v \mid u)$. Its loss per token is
#
# $$ \frac1C \sum_{u,v} c(u, v) \left(-\log q(v \mid u)\right)
#    = \sum_u \frac{c(u)}{C} \sum_v \hat p(v \mid u) \left(-\log \hat p(v \mid u)
#      + \log \frac{\hat p(v \mid u)}{q(v \mid u)}\right) = H + \sum_u \frac{c(u)}{C}\, K_u $$
#
# The first part, $H$, is the **conditional entropy** of the data: no model in it. The second holds the
# Kullback-Leibler divergences $K_u = \sum_v \hat p \log (\hat p / q)$, and these are never negative: with
# $\log z \le z - 1$,
#
# $$ -K_u = \sum_v \hat p\, \log \frac{q}{\hat p} \;\le\; \sum_v \hat p \left(\frac{q}{\hat p} - 1\right)
#    = \sum_v q - \sum_v \hat p \;\le\; 0 $$
#
# (sums over the $v$ with $\hat p > 0$, so $\sum \hat p = 1$ and $\sum q \le 1$). **No model that sees the last
# word alone gets below $H$ on these captions, however wide it is and however long it trains.** The best is to
# know the counts. The same for $k$ words of context, $k = 0$ being the frequencies of the words alone:


# %%
def conditional_entropy(captions, k):
    """Nats per token that are left when the last k words are known."""
    pairs, contexts = Counter(), Counter()
    for caption in captions.tolist():
        caption = [null] * (k - 1) + caption[: caption.index(end) + 1]
        for t in range(max(k, 1), len(caption)):
            context = tuple(caption[t - k : t])
            pairs[context, caption[t]] += 1
            contexts[context] += 1
    total = sum(pairs.values())
    return -sum(
        count * np.log(count / contexts[context]) for (context, _), count in pairs.items()
    ) / total  # fmt: skip


entropy = {k: conditional_entropy(captions, k) for k in (0, 1, 2, 3)}
print(f"all words alike      {np.log(V):.3f} nats per token, perplexity {V}")
for k, value in entropy.items():
    print(
        f"last {k} words known   {value:.3f} nats per token, perplexity {np.exp(value):.2f}"
    )

words, targets, mask = split(captions)
counts = np.zeros((V, V))
np.add.at(counts, (words[mask], targets[mask]), 1)
p = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
from_counts = -np.sum(counts[counts > 0] * np.log(p[counts > 0])) / counts.sum()
assert np.isclose(from_counts, entropy[1])

# %%
params, losses = train(width=16, steps=500, rate=0.5, batch_size=150)
smooth = np.convolve(losses, np.ones(20) / 20, mode="valid")  # means of 20 steps
plt.plot(np.arange(len(smooth)) + 10, smooth, label="training, means of 20 steps")
for height, name, colour in (
    (np.log(V), "log V: all words alike", "#777777"),
    (entropy[0], "entropy, no word known", "#E69F00"),
    (entropy[1], "entropy, one word known: the floor", "#D55E00"),
):
    plt.axhline(height, color=colour, linestyle="--", label=f"{name}, {height:.2f}")
plt.gca().set(
    xlabel="step", ylabel="nats per token", ylim=(1, 4), title="The bigram captioner"
)
plt.legend()
plt.show()


def nats_a_token(params, captions):
    mask = split(captions)[2]
    return bigram_loss(params, captions)[0] * len(mask) / mask.sum()


loss = nats_a_token(params, captions)
val_loss = nats_a_token(params, data["val_captions"])
print(f"after training, on all training captions: {loss:.3f}; the floor: {entropy[1]:.3f}")
print(f"held-out captions: {val_loss:.3f}, perplexity {np.exp(val_loss):.2f}")
assert 0 < loss - entropy[1] < 0.03

# %% [markdown]
# A few seconds of gradient descent find what counting finds, to within about a hundredth of a nat. So there is
# nothing wrong with the training; to do better, a model must *know more*.
#
# And what about padding, if it were counted as a word? After `<END>` comes `<NULL>`, then always `<NULL>`:
# nothing is easier to guess. The floor, on the same data with the same knowledge:

# %%
pairs_too = np.zeros((V, V))
np.add.at(pairs_too, (words.ravel(), targets.ravel()), 1)
p_too = pairs_too / np.maximum(pairs_too.sum(axis=1, keepdims=True), 1)
with_padding = (
    -np.sum(pairs_too[pairs_too > 0] * np.log(p_too[pairs_too > 0])) / pairs_too.sum()
)
print(f"floor over words:             {entropy[1]:.2f} nats")
print(f"floor over words and padding: {with_padding:.2f} nats")
assert with_padding < 0.7 * entropy[1]

# %% [markdown]
# "0.80" looks like a better model than "1.27". It is the same knowledge, diluted with easy answers. When somebody
# reports a loss, ask what it was averaged over.
#
# ## What the vectors learned
#
# With vectors of two numbers ($D = 2$) the table can be drawn. Each score is then a linear function of a point in
# the plane, so words that are followed by the same words want the same place.

# %%
flat, _ = train(width=2, steps=800, rate=0.5)
groups = {
    "colours": "red green blue yellow purple",
    "kinds": "circle square triangle",
    "sizes": "small large",
    "above, over, below,\nunder, of, and, with": "above over below under of and with",
    "at, on, in, to": "at on in to",
    "left, right": "left right",
    "a": "a",
    "the": "the",
    "<START>": "<START>",
}
figure, axes = plt.subplots(figsize=(8.5, 4.5))
centres = {}
for number, (name, members) in enumerate(groups.items()):
    points = flat["W_embed"][[data["word_to_idx"][word] for word in members.split()]]
    centres[name] = points.mean(axis=0)
    axes.scatter(*points.T, s=36, color=f"C{number % 7}", marker="os"[number // 7])
    rightmost = points[points[:, 0].argmax()]
    axes.annotate(name, rightmost, (7, 6), textcoords="offset points", fontsize=9)
axes.set(
    xlabel="first entry of the vector",
    ylabel="second entry",
    title="Word vectors of a bigram captioner, D = 2",
)
axes.margins(0.2, 0.15)
plt.show()

loss_flat = nats_a_token(flat, captions)
print(f"D = 2: {loss_flat:.3f} nats per token; D = 16: {loss:.3f}; floor: {entropy[1]:.3f}")
colours = flat["W_embed"][[data["word_to_idx"][word] for word in groups["colours"].split()]]
spread = np.linalg.norm(colours - colours.mean(axis=0), axis=1).max()
distance = np.linalg.norm(centres["colours"] - centres["kinds"])
print(f"colours lie within {spread:.3f} of their centre; the kinds are {distance:.1f} away")
assert spread < distance / 5
for alike in ("red green blue yellow purple", "above over below under"):
    after_it = p[[data["word_to_idx"][word] for word in alike.split()]]
    assert np.ptp(after_it, axis=0).max() < 0.1  # the counts: what follows is the same
assert 0.05 < loss_flat - entropy[1] < 0.1 and loss - entropy[1] < 0.02

# %% [markdown]
# Five colours share one place, and so do above, over, below and under. For this model they *are* the same word:
# what follows them is the same. What tells red from blue is the picture, and the model has never seen one. After
# these trainings two numbers per word leave the loss 0.07 nats above the floor, sixteen less than 0.01.
#
# ## Let it speak
#
# Start with `<START>`, draw a word from the probabilities, read it, draw the next, until `<END>`.


# %%
def speak(params, number, rng, longest=40):
    """Captions drawn word by word, as lists of ids."""
    p = np.exp(log_softmax(params["W_embed"] @ params["w"] + params["b"]))
    said = []
    for _ in range(number):
        caption = [start]
        while caption[-1] != end and len(caption) < longest:
            caption.append(int(rng.choice(V, p=p[caption[-1]])))
        said.append(caption)
    return said


said = speak(params, 1000, np.random.default_rng(1))
sentences = [decode_captions(np.array(caption), idx_to_word) for caption in said]
print("\n".join(sentences[:10]))

# %% [markdown]
# Every pair of neighbours sounds right. The sentences do not: two shapes are announced and one is named; something
# is under a square, and nobody says what. Let us measure it. Of all runs of one to ten words that it says, how many
# occur somewhere in the 40,000 training captions? For comparison the same of captions that were held out.


# %% tags=["picture"]
def runs_of(captions, n):
    return [
        tuple(caption[i : i + n])
        for caption in captions
        for i in range(len(caption) - n + 1)
    ]


def words_only(captions):
    return [caption[: caption.index(end) + 1] for caption in captions.tolist()]


known, held_out = words_only(captions), words_only(data["val_captions"])
lengths = range(1, 11)
shares = {"bigram captioner": [], "held-out captions": []}
for n in lengths:
    seen = set(runs_of(known, n))
    for name, texts in zip(shares, (said, held_out), strict=True):
        shares[name].append(np.mean([run in seen for run in runs_of(texts, n)]))
for name, share in shares.items():
    plt.plot(lengths, 100 * np.array(share), "o-", label=name)
plt.gca().set(
    xlabel="words in a row",
    ylabel="% that occur in training captions",
    ylim=(0, 105),
    title="Fluent in pairs, lost in sentences",
)
plt.legend()
plt.show()

ours, theirs = shares.values()
for n in (2, 5, 8):
    share, reference = 100 * ours[n - 1], 100 * theirs[n - 1]
    print(
        f"{n} words in a row: {share:.0f} % of ours, {reference:.0f} % of the held-out ones"
    )
scenes = load_scenes(data["source"]["folder"], "val")
true = np.mean(
    [caption_is_true(s, scenes[i % len(scenes)]) for i, s in enumerate(sentences)]
)
print(f"{100 * true:.0f} % are true of a held-out picture, all of them by chance")
assert ours[1] > 0.97 and ours[7] < 0.5 and theirs[7] > 0.8 and true < 0.1

# %% [markdown]
# Pairs are learned; beyond pairs it is lost, since its memory is one word long. And hardly a caption is true,
# since it never looked. The numbers say which cure to expect from what: with the last three words known instead
# of one, the floor sinks from 1.27 to 1.18 nats; the small RNN of [lesson 5](05_the_vanilla_rnn.ipynb), which
# remembers all words and sees the picture, reaches 0.61 on held-out captions.
#
# ## The wrong embedding, trained
#
# Back to `dW[x] += dout`, which lost the repeats. In a batch of 100 captions nearly every word is a repeat. How
# much of the gradient is left, and would you notice?

# %%
_, exact = bigram_loss(new_params(16), captions[:100])
_, lossy = bigram_loss(new_params(16), captions[:100], embedding_backward=added)
a, b = exact["W_embed"], lossy["W_embed"]
length = np.linalg.norm(b) / np.linalg.norm(a)
cosine = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
print(f"left of the gradient's length: {100 * length:.0f} %; cosine: {cosine:.2f}")

_, exact_losses = train(16, 300, 0.3, embedding_backward=word_embedding_backward)
_, lossy_losses = train(16, 300, 0.3, embedding_backward=added)
results = {"sum over all places": exact_losses, "dW[x] += dout": lossy_losses}
for name, losses in results.items():
    plt.plot(np.convolve(losses, np.ones(10) / 10, mode="valid"), label=name)
plt.axhline(entropy[1], color="#D55E00", linestyle="--", label="floor")
plt.gca().set(
    xlabel="step",
    ylabel="nats per token",
    title="It learns, with a fraction of its gradient",
)
plt.legend()
plt.show()
after = {name: float(losses[-50:].mean()) for name, losses in results.items()}
for name, loss in after.items():
    print(f"{name:<20} ends at {loss:.2f} nats per token")
assert length < 0.15 and after["dW[x] += dout"] < 1.6

# %% [markdown]
# A falling curve and a plausible end: without the blue curve beside it, nobody would suspect anything. The check
# above found it at once.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/03_affine_embedding_softmax.ipynb); the notebook tells you at
# once whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · The gradient of a look-up (one line)
#
# Write the backward of the word embedding as a product with one-hot rows. `cache` is `(x, W)`: ids $(N, T)$ and
# the table $(V, D)$; `dout` is $(N, T, D)$. (`np.eye(V, dtype=dout.dtype)[ids]` makes
# one-hot rows, of the dtype of `dout`.)


# %% tags=["exercise"]
def one_hot_backward(dout, cache):
    x, W = cache
    ### BEGIN SOLUTION
    return np.eye(len(W), dtype=dout.dtype)[x.ravel()].T @ dout.reshape(x.size, -1)
    ### END SOLUTION


check("word_embedding_backward", one_hot_backward)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · The loss, by yourself
#
# Write `temporal_softmax_loss` without looking: scores `x` $(N, T, V)$, right words `y` $(N, T)$, `mask` $(N, T)$
# of booleans. Summed over time, averaged over the batch; return the loss and its gradient $(N, T, V)$. Then see
# that large scores and NaN where nothing counts do it no harm.


# %% tags=["exercise"]
def my_loss(x, y, mask):
    ### BEGIN SOLUTION
    n, t = np.nonzero(mask)  # places that do not count are never touched
    scores = x[n, t] - x[n, t].max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    places = np.arange(len(n)), y[n, t]
    dscores = np.exp(log_p)
    dscores[places] -= 1
    dx = np.zeros_like(x)
    dx[n, t] = dscores / len(x)
    return -log_p[places].sum() / len(x), dx
    ### END SOLUTION


check("temporal_softmax_loss", my_loss)

# %% tags=["exercise"]
rng = np.random.default_rng(5)
scores, y = 500 * rng.standard_normal((3, 4, 6)), rng.integers(0, 6, (3, 4))
mask = np.array([[True, True, False, False], [True, False, True, True], [False] * 4])


def my_loss_of_spoilt_scores(scores, y, mask):
    return my_loss(np.where(mask[..., None], scores, np.nan), y, mask)


compare(
    my_loss_of_spoilt_scores,
    temporal_softmax_loss,
    scores,
    y,
    mask,
    also={
        "for one caption of one word": (scores[:1, :1], y[:1, :1], mask[:1, :1]),
        "when nothing counts": (scores, y, np.zeros_like(mask)),
    },
    exercise="03.2",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: two words of memory, and a layer between
#
# Bengio, Ducharme, Vincent and Jauvin (2003) read a *window* of words. Build it with the last two: look up both
# vectors, lay them side by side, one affine layer, tanh, another affine layer, softmax. Write `window_loss`: the
# loss a token (a mean over the $M$ rows), and the gradients by the names of the parameters. `affine_forward` lays
# the two vectors side by side by itself; `temporal_softmax_loss` gives the mean over the rows if each row is a caption
# of one word, `scores[:, None]`; and $\tanh' = 1 - \tanh^2$. Then train it, and beat the floor of every bigram model.


# %% tags=["exercise"]
def window_loss(params, contexts, targets):
    """contexts (M, 2) and targets (M,) word ids; params W_embed, w1, b1, w2, b2."""
    ### BEGIN SOLUTION
    vectors, word_cache = word_embedding_forward(contexts, params["W_embed"])  # (M, 2, W)
    a, cache1 = affine_forward(vectors, params["w1"], params["b1"])
    h = np.tanh(a)
    scores, cache2 = affine_forward(h, params["w2"], params["b2"])
    counts = np.ones((len(targets), 1), dtype=bool)
    loss, dscores = temporal_softmax_loss(scores[:, None], targets[:, None], counts)
    dh, dw2, db2 = affine_backward(dscores[:, 0], cache2)
    dvectors, dw1, db1 = affine_backward(dh * (1 - h**2), cache1)
    dW_embed = word_embedding_backward(dvectors, word_cache)
    return loss, {"W_embed": dW_embed, "w1": dw1, "b1": db1, "w2": dw2, "b2": db2}
    ### END SOLUTION


def window_params(V, W=8, H=64, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "W_embed": 0.5 * rng.standard_normal((V, W)),
        "w1": rng.standard_normal((2 * W, H)) / np.sqrt(2 * W),
        "b1": np.zeros(H),
        "w2": rng.standard_normal((H, V)) / np.sqrt(H),
        "b2": np.zeros(V),
    }


def gradients_of(params, contexts, targets):
    answer = window_loss(params, contexts, targets)
    return None if answer is None else answer[1]


def numerical_gradients(params, contexts, targets):
    def loss(_):
        return window_loss(params, contexts, targets)[0]

    return {name: eval_numerical_gradient(loss, value) for name, value in params.items()}


rng = np.random.default_rng(6)
contexts, targets = rng.integers(0, 9, (12, 2)), rng.integers(0, 9, 12)
small = window_params(9, W=3, H=4)
compare(
    gradients_of,
    numerical_gradients,
    small,
    contexts,
    targets,
    tolerance=1e-7,
    also={"for one window": (small, contexts[:1], targets[:1])},
)


# %% tags=["exercise"]
def loss_of_equal_scores(params, contexts, targets):
    answer = window_loss({**params, "w2": 0 * params["w2"]}, contexts, targets)
    return None if answer is None else answer[0]


def log_of_vocabulary(params, contexts, targets):
    return np.log(len(params["W_embed"]))


compare(loss_of_equal_scores, log_of_vocabulary, small, contexts, targets)


# %% tags=["exercise"]
def windows(captions, null):
    """All pairs of words and what follows them; before the first word stands <NULL>."""
    captions = np.pad(captions, ((0, 0), (1, 0)), constant_values=null)
    before, last, targets = captions[:, :-2], captions[:, 1:-1], captions[:, 2:]
    counts = targets != null
    return np.stack([before[counts], last[counts]], axis=1), targets[counts]


def trained_loss(steps=1000, batch_size=1000):
    """Nats per token over the first 100,000 windows, after gradient descent."""
    data = lessons.embedded_data("rnn")
    contexts, targets = windows(data["train_captions"], data["word_to_idx"]["<NULL>"])
    params, rng = window_params(len(data["idx_to_word"])), np.random.default_rng(0)
    ### BEGIN SOLUTION
    for step in range(steps):
        rows = rng.integers(len(targets), size=batch_size)
        _, grads = window_loss(params, contexts[rows], targets[rows])
        for name in params:
            params[name] -= (1.0 if step < 600 else 0.2) * grads[name]
    return window_loss(params, contexts[:100_000], targets[:100_000])[0]
    ### END SOLUTION


confirm(
    trained_loss,
    lambda loss: 1 < loss < 1.25,
    "below 1.25, as the floor of bigrams is 1.27; and above 1, which no window reaches",
)

# %% [markdown]
# ## What to keep
#
# * Ask of every number who reads it, and sum over the readers: that is where each transpose and each sum comes
#   from.
# * A look-up is a product with a one-hot row, so a word's gradient is the sum over all its places.
#   `dW[x] += dout` is no sum.
# * Softmax and cross-entropy belong together: subtract the largest score, never take the logarithm of a
#   probability that you computed, and the gradient is $p - \text{onehot}(y)$, at most 1 in size.
# * A loss needs its unit: nats per token, over words that count. Conventions differ by factors (16 here), in the
#   gradient too. The first loss is $\log V$; the best is an entropy of the data.
# * A wrong gradient may well train. Check it.
#
# **Sources.** J. Bridle, *Probabilistic interpretation of feedforward classification network outputs, with
# relationships to statistical pattern recognition*, in: Neurocomputing, NATO ASI Series F 68, Springer (1990). C.
# Bishop, *Pattern Recognition and Machine Learning*, Springer (2006), section 4.3.4. C. Shannon, *A mathematical
# theory of communication*, Bell System Technical Journal 27 (1948). Y. Bengio, R. Ducharme, P. Vincent and C.
# Jauvin, *A neural probabilistic language model*, Journal of Machine Learning Research 3 (2003). P. Blanchard, D.
# Higham and N. Higham, *Accurately computing the log-sum-exp and softmax functions*, IMA Journal of Numerical
# Analysis 41 (2021).
#
# **Next:** [lesson 4, update rules](04_update_rules.ipynb): you have the gradient; how far should you go?
