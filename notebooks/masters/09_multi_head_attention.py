# %% [markdown]
# # 9 · Multi-head attention
#
# **The question.** In lesson 8 an LSTM looked at the picture once per word, and each look had to wait for the word
# before. Can all words look at the same time, and at each other too?
#
# You build attention out of two matrix products, cut it into *heads*, forbid it to look ahead, derive its backward,
# and see what the heads of a trained captioner look at.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (affine, softmax) and [lesson 8](08_soft_attention.ipynb)
# (soft attention). About 50 minutes; all cells together run in half a minute.
# [9b](09b_more_about_heads.ipynb) goes deeper.*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import decode_captions, image_path
from core.gradient_check import check, eval_numerical_gradient_array
from core.grounding import pointing
from core.image_utils import load_image
from core.layers import softmax, softmax_backward
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, confirm, movable
from core.optim import adam
from core.shapes import load_scenes
from core.transformer_layers import (
    merge_heads,
    multi_head_attention_backward,
    multi_head_attention_forward,
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
    split_heads,
)

lessons.style()


# What your answers are compared with:
def our_attention(q, k, v, mask=None):
    return scaled_dot_product_attention_forward(q, k, v, mask)[0]


def our_weights(scores, mask):  # the keys and values change nothing
    return our_attention(2 * scores, np.eye(4), np.eye(4), mask)


def our_gradient(weights, do):  # of the values; q, k and v do not matter to it
    nothing = np.zeros((4, 2))
    return scaled_dot_product_attention_backward(do, (nothing, nothing, nothing, weights))[
        2
    ]


# %% [markdown]
# ## By hand: two questions to three shapes
#
# A picture has a red circle on the left, a blue circle on the right and a blue square at the bottom. Each place
# $j$ offers two vectors. Its **key** $k_j$ says what is there, so that it can be found; here there is one channel
# each for red, blue, circle and square. Its **value** $v_j$ is what it hands over; here how far right it is, and how
# far down.
#
# A word that wants to know something brings a **query** $q_t$ with the same channels as the keys; $t$ counts the
# queries. The better query and key agree, the larger is their dot product. A softmax turns these scores into weights,
# and the answer is the weighted mean of the values. This is **scaled dot-product attention**:
#
# $$ s_{tj} = \frac{q_t \cdot k_j}{\sqrt d}, \qquad \alpha_t = \mathrm{softmax}(s_t), \qquad
#    o_t = \sum_j \alpha_{tj}\, v_j $$
#
# $d$ is the number of channels, here 4; why the root is there comes below.

# %%
keys = np.array([[1.0, 0, 1, 0],  # a red circle
                 [0.0, 1, 1, 0],  # a blue circle
                 [0.0, 1, 0, 1]])  # a blue square  # fmt: skip
values = np.array([[-1.0, 0], [1, 0], [0, 1]])  # right, down
queries = np.array([[0.0, 2, 0, 0],  # something blue?
                    [2.0, 0, 2, 0]])  # a red circle?  # fmt: skip

# %% [markdown]
# **Predict**, on paper: for "something blue", what are the three scores, the three weights, and the answer? (The 2 in
# a query makes the question firmer than a 1 would.)

# %%
answers = np.zeros((2, 2))
for t in range(2):
    s = np.array([sum(queries[t] * key) / 4**0.5 for key in keys])
    alpha = np.exp(s) / np.exp(s).sum()
    answers[t] = sum(alpha[j] * values[j] for j in range(3))
    print(f"query {queries[t]}  scores {s}  weights {alpha}  answer {answers[t]}")
assert np.allclose(answers[0], [0.267, 0.422], atol=1e-3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Scores 0, 1, 1; exponentials 1, e, e. The two blue shapes share $2e / (1 + 2e) = 0.845$ of the weight, and the
# answer is (0.267, 0.422). The blue shapes are at (1, 0) and (0, 1), so this is a point *between* them, where there is
# nothing; the red circle pulls it a little to the left. One softmax gives one mean, and a question for two things
# gets a mixture. Keep that in mind for the heads.
#
# </details>
#
# **Task 1.** The same for all $T$ questions and $S$ places at once, without a loop: `q` is $(T, d)$, `k` and `v` are
# $(S, d)$. Return the answers $(T, d)$. (`softmax` works on the last axis.)


# %% tags=["task"]
def attention(q, k, v):
    ### BEGIN SOLUTION
    return softmax(q @ k.T / q.shape[1] ** 0.5) @ v
    ### END SOLUTION


def your_attention(q, k, v):
    found = attention(q, k, v)
    assert not np.array_equal(found, our_attention(2 * q, k, v)), "divide by the root of d"
    return found


draw = np.random.default_rng(2).standard_normal
compare(your_attention, our_attention, draw((2, 4)), draw((3, 4)), draw((3, 4)))

# %% [markdown]
# ## All at once
#
# In a model nobody writes channels for red and blue by hand. Three affine maps *make* the queries, keys and values
# out of vectors of width $E$, and a fourth map turns the answers into the output:
#
# | | shape | |
# | --- | --- | --- |
# | query | $(N, T, E)$ | the vectors that ask: $T$ words in each of $N$ captions |
# | key, value | $(N, S, E)$ | the vectors that are asked: $S$ words or places, often one array passed twice |
# | $q = \text{query}\,W_q + b_q$; $k$, $v$ likewise | $(N, T, E)$; $(N, S, E)$ | $W_q$, $W_k$, $W_v$ are $(E, E)$ |
# | scores, weights | $(N, T, S)$ | a row for each question |
# | out | $(N, T, E)$ | the answers times $W_o$, plus $b_o$ |
#
# Mind the names, which are those of all libraries: query, key and value are also called the three *inputs*, from
# which the maps make $q$, $k$ and $v$.
#
# The inputs decide who asks whom. In **self-attention** all three are the same array: the words of a caption ask each
# other. In **cross-attention** words are the query, and the places of the picture, the **memory**, are key and value.
# No question needs the answer of another. So when the caption is known, as in training, no word waits:

# %% tags=["hide-input"]
sketch = Sketch(9.0, 3.3)
tokens = ["a", "red", "circle"]
sketch.text(1.9, 3.05, "lesson 8: one after the other")
memory_box = sketch.box(1.9, 0.45, "picture", "given", width=3.2)
last = None
for i, token in enumerate(tokens):
    box = sketch.box(0.6 + 1.3 * i, 1.8, "LSTM", "op", width=0.85)
    sketch.text(0.6 + 1.3 * i, 2.45, token)
    sketch.arrow((0.6 + 1.3 * i, 0.68), (0.6 + 1.3 * i, 1.57), kind="grey")
    if last:
        sketch.arrow(last, box)
    last = box
sketch.text(6.6, 3.05, "lesson 9: all at once")
sketch.box(6.6, 0.45, "picture", "given", width=3.2)
boxes = [sketch.box(5.3 + 1.3 * i, 1.8, token) for i, token in enumerate(tokens)]
for i, box in enumerate(boxes):
    sketch.arrow((5.3 + 1.3 * i, 0.68), (5.3 + 1.3 * i, 1.57), kind="grey")
    for j in range(i):
        sketch.arrow((boxes[j].x, 2.03), (box.x, 2.03), bend=-0.45)
sketch.text(5.95, 1.2, "looks at\nthe picture", GREY, 11)
sketch.text(8.25, 2.5, "looks at words", BLUE, 11)
sketch.show()

# %% [markdown]
# ## Why divide by the root of the width
#
# Let the entries of $q$ and $k$ be independent, with mean 0 and variance 1, as they roughly are when training
# starts. Then each product $q_i k_i$ has mean 0, and its variance is the mean of $q_i^2$ times the mean of $k_i^2$,
# so 1. Variances of independent terms add: $\mathrm{Var}(q \cdot k) = d$. So scores grow like $\sqrt d$, and with
# them the differences that a softmax sees.
#
# **Predict.** A random query meets 32 random keys, with $d$ = 1024 and no division. How large is the largest of the 32
# weights on average? (If all were equal: $1/32 = 0.03$.) And is $ds$, the gradient of the scores, longer or shorter
# than with the division?

# %%
rng = np.random.default_rng(0)
from_above = rng.standard_normal((500, 1, 32))
found = {}
for d in (4, 64, 1024):
    q, k = rng.standard_normal((500, 1, d)), rng.standard_normal((500, 32, d))
    for name, divisor in (("", 1), (", divided", d**0.5)):
        alpha = softmax(q @ k.swapaxes(1, 2) / divisor)
        largest = alpha.max(axis=2).mean()
        ds = np.median(np.linalg.norm(softmax_backward(from_above, alpha), axis=2))
        found[d, name] = largest, ds
        print(f"d = {d:4}{name:<9}  largest {largest:.2f}  median length of ds {ds:.5f}")

# %% tags=["hide-input"]
assert found[1024, ""][0] > 0.9 and all(found[d, ", divided"][0] < 0.3 for d in (64, 1024))
assert found[1024, ""][1] < 1e-3 * found[1024, ", divided"][1]

# %% [markdown]
# <details><summary>Answer</summary>
#
# Above 0.9: one key takes nearly all the weight before anything is learned. And there the softmax is flat: $ds$ is
# thousands of times shorter, so the typical question gets no gradient to change its weights. With the division both
# columns hardly depend on $d$.
#
# </details>
#
# ## Heads
#
# One softmax gives one mean. The remedy: ask several smaller questions. Cut the $E$ channels of $q$, $k$ and $v$
# into blocks of $d = E / \text{heads}$. Each block, a **head**, has its own scores, its own softmax and its own
# answer. The answers are joined to $E$ channels again, and $W_o$ mixes them. With three heads and $E = 12$:

# %% tags=["hide-input"]
sketch = Sketch(9.2, 3.4)
for i, (shade, y) in enumerate(((0.15, 2.55), (0.45, 1.55), (0.8, 0.55))):
    near = 1.55 + 0.8 * (1 - i)
    block = sketch.cells(1.1, near, np.full((4, 1), shade), size=0.2)
    box = sketch.box(3.3, y, f"softmax of head {i + 1}", "op", width=2.0)
    sketch.arrow(block, box)
    weights = np.zeros((1, 6))
    weights[0, [(1, 0, 4)[i], (2, 5, 4)[i]]] = (0.9, 0.5) if i != 2 else (1.0, 1.0)
    row = sketch.cells(5.5, y, weights, size=0.25)
    sketch.arrow(box, row)
    sketch.arrow(row, sketch.cells(7.3, near, np.full((4, 1), shade), size=0.2))
sketch.arrow((7.4, 1.55), sketch.box(8.55, 1.55, "$W_o$", "op", width=0.7))
sketch.text(1.1, 3.15, "channels of $q$, $k$, $v$")
sketch.text(5.5, 3.15, "weights")
sketch.text(7.3, 3.15, "answers, joined")
sketch.show()

# %% [markdown]
# This takes no more multiplications: for its scores each head needs $T S d$, and all together need $T S E$, as one
# head of full width would.
#
# **Task 2.** Cut `x`, $(N, T, E)$, into heads: $(N, \text{heads}, T, d)$. Head 0 gets the first $d$ channels of
# *every* position, head 1 the next $d$, and so on. (`reshape`, then `swapaxes`.)


# %% tags=["task"]
def cut(x, heads):
    ### BEGIN SOLUTION
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
    ### END SOLUTION


def your_cut(x, heads):
    found = cut(x, heads)
    assert not np.array_equal(found, x.reshape(2, 4, 3, 2)), "first cut the last axis alone"
    return found


compare(your_cut, split_heads, np.random.default_rng(1).standard_normal((2, 3, 8)), 4)

# %% [markdown]
# One `reshape` straight to $(N, \text{heads}, T, d)$ gives the right shape and wrong numbers: pieces of different
# positions get into one head. The gradient check of such a layer passes, too
# ([9b](09b_more_about_heads.ipynb#A-reshape-without-the-swap)). `merge_heads` undoes the cut. The whole
# layer, from the pieces so far:


# %%
def whole_layer(query, key, value, Wq, bq, Wk, bk, Wv, bv, Wo, bo, heads):
    q = split_heads(query @ Wq + bq, heads)  # (N, heads, T, d)
    k = split_heads(key @ Wk + bk, heads)  # (N, heads, S, d)
    v = split_heads(value @ Wv + bv, heads)
    answers, cache = scaled_dot_product_attention_forward(q, k, v)  # as in task 1
    return merge_heads(answers) @ Wo + bo


# %% tags=["hide-input"]
rng = np.random.default_rng(1)
N, T, S, E, heads = 3, 5, 7, 12, 4  # all different, so that a wrong axis cannot hide
d = E // heads
query, memory = rng.standard_normal((N, T, E)), rng.standard_normal((N, S, E))
names = ("Wq", "bq", "Wk", "bk", "Wv", "bv", "Wo", "bo")


def draw_parameters(rng, E):
    shapes = {name: (E, E) if name[0] == "W" else (E,) for name in names}
    return {name: E**-0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}


params = draw_parameters(rng, E)
by_hand = np.zeros((N, T, E))
for n in range(N):
    for head in range(heads):
        own = slice(head * d, (head + 1) * d)  # the columns of this head
        q = query[n] @ params["Wq"][:, own] + params["bq"][own]  # (T, d)
        k = memory[n] @ params["Wk"][:, own] + params["bk"][own]  # (S, d)
        v = memory[n] @ params["Wv"][:, own] + params["bv"][own]
        raised = np.exp(q @ k.T / d**0.5)
        seen = raised / raised.sum(axis=1, keepdims=True) @ v  # (T, d)
        by_hand[n] += seen @ params["Wo"][own]  # the rows of this head
by_hand += params["bo"]
out, cache = multi_head_attention_forward(query, memory, memory, *params.values(), heads)
yours = whole_layer(query, memory, memory, *params.values(), heads)
print("the layer, that of core and a loop over captions and heads: equal to 1e-12")
assert max(np.abs(out - by_hand).max(), np.abs(out - yours).max()) < 1e-12

# %% [markdown]
# **Do heads help?** Here is a small job. Each of 8 positions holds 8 random numbers, and 8 more that say which
# position it is. Its output of 16 numbers has to be two copies: the 8 random numbers of the position *before* it, and
# those of the *first* position. One head has one mean for both. Two heads of half the width have exactly as many
# parameters.
#
# **Predict** the squared error per number after training (the numbers have variance 1), for one head and for two.
# A model that gives 0 everywhere has error 1.


# %% tags=["hide-input"]
def copy_two(num_heads, steps=350, T=8, C=8, N=32):
    """Learns to copy the position before and the first; squared error at each step."""
    rng = np.random.default_rng(0)
    learned, configs, errors = draw_parameters(rng, C + T), {}, []
    for _ in range(steps):
        content = rng.standard_normal((N, T, C))
        x = np.concatenate([content, np.broadcast_to(np.eye(T), (N, T, T))], axis=2)
        first = np.broadcast_to(content[:, :1], content.shape)
        target = np.concatenate([np.roll(content, 1, axis=1), first], axis=2)
        out, cache = multi_head_attention_forward(x, x, x, *learned.values(), num_heads)
        difference = out - target
        difference[:, :2] = 0  # at 0 there is no position before, at 1 it is the first
        counted = N * (T - 2) * 2 * C
        errors.append((difference**2).sum() / counted)
        gradients = multi_head_attention_backward(2 * difference / counted, cache)[3:]
        for name, gradient in zip(names, gradients, strict=True):
            config = configs.get(name, {"learning_rate": 1e-2})
            learned[name], configs[name] = adam(learned[name], gradient, config)
    return errors, cache[-1][-1]  # the weights (N, heads, T, T) of the last batch


(one, one_weights), (two, two_weights) = copy_two(1), copy_two(2)
figure, axes = plt.subplots(
    1, 4, figsize=(10, 3), gridspec_kw={"width_ratios": [1.9, 1, 1, 1]}
)
axes[0].plot(one, color=BLUE, label="one head of width 16")
axes[0].plot(two, color=ORANGE, label="two heads of width 8")
axes[0].set(xlabel="step", ylabel="squared error", ylim=(0, 1.6))
axes[0].legend(loc="upper right")
shown = [one_weights[0, 0], two_weights[0, 0], two_weights[0, 1]]
titles = "one head", "head 1 of 2", "head 2 of 2"
for ax, weights, title in zip(axes[1:], shown, titles, strict=True):
    ax.imshow(weights[2:], vmin=0, vmax=1, cmap="Blues", extent=(-0.5, 7.5, 7.5, 1.5))
    ax.set(xlabel="looks at", title=title)
    ax.grid(False)
axes[1].set_ylabel("position")
plt.show()
one_error, two_error = np.mean(one[-20:]), np.mean(two[-20:])
print(f"squared error at the end: one head {one_error:.2f}, two heads {two_error:.2f}")
assert 0.4 < one_error < 0.6 and two_error < 0.05

# %% [markdown]
# <details><summary>Answer</summary>
#
# About one half, and 0. One head can copy one of the two and gives up the other, or mixes both; every mixture costs
# the same ([9b](09b_more_about_heads.ipynb#One-mean-for-two) computes it). Of the two heads each took one job: a
# diagonal of dark cells is "the position before", a column is "the first".
#
# </details>
#
# ## Masks
#
# While a caption is learned, all its words are fed in at once. The output at position $t$ has to predict the word
# at $t + 1$, which is itself among the inputs: attention could copy it and learn nothing. A **mask** forbids that. It
# says which keys each question may see, True for allowed. The **causal mask** allows $j \le t$:

# %% tags=["hide-input"]
sketch = Sketch(5.2, 3.1)
tokens = ["a", "red", "circle", "and"]
causal = np.tri(4, dtype=bool)
labels = np.where(causal, "yes", "no")
sketch.cells(3.1, 1.25, 0.5 * causal, size=0.6, labels=labels)
for i, token in enumerate(tokens):
    sketch.text(1.45, 2.15 - 0.6 * i, token)
    sketch.text(2.2 + 0.6 * i, 2.6, token, size=11)
sketch.text(0.55, 1.25, "asks", BLUE)
sketch.text(3.1, 2.9, "may be seen", BLUE)
sketch.show()

# %% [markdown]
# A forbidden key must get weight 0, and the others must share *all* of the weight. So the mask acts on the scores,
# before the softmax, as $-\infty$: $e^{-\infty} = 0$.
#
# **Task 3.** Given scores $(T, S)$ and a mask of the same shape, return the weights. (`np.where`.)


# %% tags=["task"]
def masked_weights(scores, mask):
    ### BEGIN SOLUTION
    return softmax(np.where(mask, scores, -np.inf))
    ### END SOLUTION


def your_weights(scores, mask):
    found = masked_weights(scores, mask)
    assert not np.array_equal(found, softmax(scores) * mask), "mask scores, not weights"
    return found


given = np.random.default_rng(2).standard_normal((4, 4)), np.tri(4, dtype=bool)
also = {"with large forbidden scores": (np.where(given[1], given[0], 800), given[1])}
compare(your_weights, our_weights, *given, also=also)

# %% [markdown]
# Masked *after* the softmax, the forbidden scores would still count in the denominator. A row would not sum to 1, and
# how much is missing would depend on the words ahead.
#
# **Test causality** like this: change one word, and see which outputs move. Earlier ones must not move at all, not
# even by a rounding error.

# %%
x = rng.standard_normal((1, 6, E))
causal = np.tri(6, dtype=bool)


def self_attention(x, mask=None):
    return multi_head_attention_forward(x, x, x, *params.values(), heads, mask)[0]


other = x.copy()
other[0, 3] += 1  # another word at position 3
moved = np.abs(self_attention(other, causal) - self_attention(x, causal)).max(axis=2)[0]
print("outputs move by", moved)
assert not moved[:3].any() and moved[3:].all()

# %% [markdown]
# Our captioner needs no mask for padding: padding comes after the caption, so the causal mask hides it from all real
# words. ([9b](09b_more_about_heads.ipynb#A-row-without-any-key): a question that may see nothing.)
#
# ## Without positions there is no order
#
# **Predict.** Shuffle the words that go into self-attention without a mask. What happens to the outputs?

# %%
order = rng.permutation(6)
difference = self_attention(x[:, order]) - self_attention(x)[:, order]
print(
    "outputs of shuffled words are the shuffled outputs:", np.abs(difference).max() < 1e-12
)

# %% tags=["hide-input"]
assert np.abs(difference).max() < 1e-12
front = np.array([2, 0, 3, 1, 4, 5])  # only words before the last
last = (self_attention(x[:, front], causal) - self_attention(x, causal))[0, -1]
assert np.abs(last).max() < 1e-12

# %% [markdown]
# <details><summary>Answer</summary>
#
# They are shuffled in the same way, and otherwise unchanged: each word asks the same question, and the same keys are
# there, only in other rows. To attention, "a red circle above a blue square" and "a blue circle above a red square"
# are the same bag of words. Even under a causal mask, one layer tells the last word *which* words came before, not in
# what order.
#
# </details>
#
# The cure is to write the position into the vectors; [lesson 10](10_the_transformer_block.ipynb) does it.
#
# ## The backward
#
# Given is $do$, the gradient of the answers of one head in one caption, $(T, d)$. We go from the end to the start.
#
# **The mean of the values**, $o_t = \sum_j \alpha_{tj} v_j$. The weight $\alpha_{tj}$ multiplies the whole
# vector $v_j$, so its gradient is $do_t \cdot v_j$: $d\alpha = do\; v^T$, of shape $(T, S)$. All questions read the
# value $v_j$, so its gradient is a sum over $t$:
#
# **Task 4.** Given the weights $(T, S)$ and $do$, $(T, d)$, return $dv$, $(S, d)$, as one matrix product.


# %% tags=["task"]
def gradient_of_values(weights, do):
    ### BEGIN SOLUTION
    return weights.T @ do
    ### END SOLUTION


def your_gradient(weights, do):
    found = gradient_of_values(weights, do)
    assert not np.array_equal(found, weights @ do), "that sums over keys: wrong axis"
    return found


draw = np.random.default_rng(3).standard_normal
compare(your_gradient, our_gradient, softmax(draw((4, 4))), draw((4, 2)))

# %% [markdown]
# **The softmax**, row by row, as in lesson 8 ([derived in lesson 3](03_affine_embedding_softmax.ipynb#The-softmax-Jacobian)):
# $ds = \alpha \odot (d\alpha - \sum_j \alpha_j\, d\alpha_j)$. Each row of $ds$ sums to 0. Where a mask made
# $\alpha = 0$, $ds$ is 0, too: the backward needs no mask of its own.
#
# **The scores**, $s_{tj} = q_t \cdot k_j / \sqrt d$. All scores of row $t$ use the query $q_t$, all of column
# $j$ use the key $k_j$, so each sums over the other index:
#
# $$ dq = \frac{ds\; k}{\sqrt d} \quad (T, d), \qquad dk = \frac{ds^T q}{\sqrt d} \quad (S, d) $$
#
# **Around it** there are affine layers ([lesson 3](03_affine_embedding_softmax.ipynb)), and cutting into heads only
# moves numbers: its backward is `merge_heads`. In self-attention one array is used three times, so its gradient is a
# sum of three: $dx = d\text{query} + d\text{key} + d\text{value}$.

# %%
report = check(
    "scaled_dot_product_attention_backward", scaled_dot_product_attention_backward
)
assert report and check("multi_head_attention_backward", multi_head_attention_backward)
report

# %% [markdown]
# ## What can never learn
#
# The bias $b_k$ adds $q_t \cdot b_k / \sqrt d$ to *all* scores of question $t$. A softmax does not change when all
# scores grow by the same number, so $b_k$ has a gradient of 0, and our Transformer does without it.
#
# **Predict.** Now let the picture be a *single* vector, a memory with one place. A softmax over one score is 1,
# whatever the score. Which of $W_q$, $W_k$, $W_v$, $W_o$ still get a gradient?

# %% tags=["hide-input"]
for title, places in (("seven places", memory), ("one place", memory[:, :1])):
    out, cache = multi_head_attention_forward(
        query, places, places, *params.values(), heads
    )
    gradients = multi_head_attention_backward(
        np.random.default_rng(4).random(out.shape), cache
    )
    lengths = {
        name: np.linalg.norm(dx) for name, dx in zip(names, gradients[3:], strict=True)
    }
    dead = [name for name, length in lengths.items() if length < 1e-12]
    print(f"{title}: no gradient for", *dead)
assert dead == ["Wq", "bq", "Wk", "bk"] and np.linalg.norm(lengths["Wv"]) > 1
assert np.ptp(out, axis=1).max() < 1e-12  # the same vector at every position

# %% [markdown]
# <details><summary>Answer</summary>
#
# $W_v$ and $W_o$ alone: $ds = 1 \cdot (d\alpha - 1 \cdot d\alpha) = 0$, so queries and keys never learn. The output is
# the same vector at every position. Nothing fails, and the rest of the model learns. The mistake is easy to make: many
# data sets offer one vector per picture.
#
# </details>
#
# ## What heads learn to look at
#
# The Transformer that came with the lessons was trained on 40,000 captions
# (`python training.py --model transformer --wordvec_dim 64`). It has two such layers of cross-attention, one in
# each of two *blocks* (lesson 10), with four heads each: eight maps for every word. It learned where to look from the
# loss of the captions alone.
#
# Move along a caption. The last word of the title is the one that the look helped to predict; the model had read the
# words before it. Each map lights the picture, and its largest weight gets full light:

# %% tags=["picture", "hide-input"]
trained, _ = lessons.load_trained("transformer")
data = lessons.embedded_data("transformer")
scenes = load_scenes(data["source"]["folder"], "val")
_, first = np.unique(data["val_image_idxs"], return_index=True)  # a caption of each
captions, images = data["val_captions"][first], data["val_image_idxs"][first]
maps = trained.attention_weights(data["val_features"][images], captions)  # (N, T, heads, L)
row, named_at = next(
    (n, t)
    for n, caption in enumerate(captions)
    for t in range(5, 10)
    if len(scenes[images[n]]) == 3
    and (caption == data["word_to_idx"]["triangle"]).sum() == 1
    and caption[t + 1] == data["word_to_idx"]["triangle"]
)
picture = load_image(image_path(data, "val", images[row]))
grey = np.median(picture, axis=(0, 1))  # the background, without its grain
grain = np.abs(picture - grey).max(axis=2, keepdims=True) < 16
picture = np.where(grain, grey, picture).astype(np.uint8)
words = decode_captions(captions[row], data["idx_to_word"]).split()


def draw_heads(word):
    t = places_of.index(word)
    figure, axes = plt.subplots(2, 5, figsize=(7.4, 3.6))
    for ax in axes.flat:
        ax.axis("off")
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("the picture", fontsize=9)
    shown = [*maps[row, t], maps[row, t].mean(axis=0)]
    titles = [*trained.head_names(), "mean of all"]
    places = [*axes[0, 1:], *axes[1, 1:], axes[1, 0]]
    for ax, weights, title in zip(places, shown, titles, strict=True):
        light = np.kron(weights.reshape(8, 8) / weights.max(), np.ones((8, 8)))
        light = 0.15 + 0.85 * light[:, :, None]
        ax.imshow((picture * light).astype(np.uint8), interpolation="nearest")
        ax.set_title(title, fontsize=9)
    figure.suptitle(f"{' '.join(words[:t])} ... {words[t]}", fontsize=11)


places_of = [f"{t}: {word}" for t, word in enumerate(words, 1)]
movable(draw_heads, {"word": places_of[named_at]}, word=places_of)

# %% [markdown]
# One picture proves little. For 300 held-out pictures and each word that names a shape, is the largest weight
# on that shape, or at most one cell beside it? (*Pointing*, lesson 8; here in given captions.)


# %% tags=["hide-input"]
def share_on_shape(maps):
    """(N, T, L) maps -> for what share of the names the peak is on the shape; by chance."""
    found = []
    for caption, image, of_caption in zip(captions, images, maps, strict=True):
        said = [data["idx_to_word"][word] for word in caption[1:]]
        found += pointing(said, of_caption, scenes[image])
    hits, chances = zip(*((name.on_shape, name.chance) for name in found), strict=True)
    return np.mean(hits), np.mean(chances)


shares = [share_on_shape(maps[:, :, head])[0] for head in range(maps.shape[2])]
together, chance = share_on_shape(maps.mean(axis=2))
plt.axhline(chance, color=GREY, linestyle=":", label="a random cell")
bars = plt.bar(range(9), [*shares, together], color=[BLUE] * 8 + [ORANGE])
plt.bar_label(bars, [f"{share:.0%}" for share in (*shares, together)], fontsize=9)
labels = [name.replace(", ", "\n") for name in trained.head_names()]
plt.xticks(range(9), [*labels, "mean\nof all"], fontsize=8)
plt.ylabel("peak on the named shape")
plt.ylim(0, 1.05)
plt.legend(loc="upper left")
plt.show()
assert together > 0.9 and max(shares) < 0.75 and min(shares) > chance

# %% [markdown]
# Every head finds the shape more often than a random cell does, and no head alone finds it more than three times in
# four. The peak of their mean is on the shape for more than nine names in ten. (Lesson 8 says what a map does not
# prove.)
#
# ## What you have now
#
# * Attention is a softmax of dot products and a mean of values: two matrix products between four affine maps, and no
#   loop over time. $\sqrt d$ keeps the softmax where it has a slope.
# * Heads are blocks of channels: reshape, then swap. Masks act before the softmax; test causality by changing a
#   future word.
# * The bias of the keys never learns. With a single key, queries and keys never learn at all.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/09_multi_head_attention.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · A mask for captions of different lengths (one line)
#
# Given `lengths`, the number of words of each of $N$ captions, and $T$, return the booleans $(N, T, T)$ that let
# every word see itself and the words before it, and no word see padding (positions from the length on).
# (`lengths[:, None, None]` is $(N, 1, 1)$.)


# %% tags=["exercise"]
def mask_of(lengths, T):
    ### BEGIN SOLUTION
    return np.tri(T, dtype=bool) & (np.arange(T) < lengths[:, None, None])
    ### END SOLUTION


def mask_by_loops(lengths, T):
    return np.array(
        [[[s <= t and s < n for s in range(T)] for t in range(T)] for n in lengths]
    )


compare(
    mask_of,
    mask_by_loops,
    np.array([5, 2, 0, 4]),
    5,
    also={"for one caption of one word": (np.array([1]), 1)},
    exercise="09.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · The heart of it
#
# Write `scaled_dot_product_attention_backward` from the equations above. The cache is `(q, k, v, weights)`, with shapes
# $(N, \text{heads}, T, d)$, $(N, \text{heads}, S, d)$ twice, and $(N, \text{heads}, T, S)$. Return `dq, dk, dv`.
# Write the softmax out as well. (`check(..., hint=2)` and `hint=3` say more. If $dv$ holds and $dq$ and $dk$ do not,
# look at what these two share: $ds$ and the divisor.)


# %% tags=["exercise"]
def attention_backward(dout, cache):
    q, k, v, weights = cache
    ### BEGIN SOLUTION
    dweights = dout @ v.swapaxes(-1, -2)
    mean = (weights * dweights).sum(axis=-1, keepdims=True)
    dscores = weights * (dweights - mean) / q.shape[-1] ** 0.5
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dout
    ### END SOLUTION


check("scaled_dot_product_attention_backward", attention_backward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: many questions, one set of keys
#
# While it decodes, a Transformer keeps the keys and values of all words so far, $2 T E$ numbers per caption and
# block. Shazeer (2019) lets all heads share *one* set of keys and values of width $d$: $W_k$ and $W_v$ are $(E, d)$.
# Write forward and backward of such a self-attention (no biases, no mask). Then count: how many times fewer numbers
# are kept?
#
# Hints: `k[:, None]` is $(N, 1, T, d)$ and broadcasts against the heads of $q$. What is read by all heads collects
# from all heads.


# %% tags=["exercise"]
def multi_query_forward(x, Wq, Wk, Wv, Wo, num_heads):
    """x (N, T, E), Wq, Wo (E, E), Wk, Wv (E, d). Returns out and a cache of your own."""
    ### BEGIN SOLUTION
    q = split_heads(x @ Wq, num_heads)
    k, v = (x @ Wk)[:, None], (x @ Wv)[:, None]
    heads, cache = scaled_dot_product_attention_forward(q, k, v)
    merged = merge_heads(heads)
    return merged @ Wo, (x, Wq, Wk, Wv, Wo, merged, cache)
    ### END SOLUTION


def multi_query_backward(dout, cache):
    """Returns dx, dWq, dWk, dWv, dWo."""
    ### BEGIN SOLUTION
    x, Wq, Wk, Wv, Wo, merged, attention_cache = cache
    num_heads = attention_cache[0].shape[1]
    dheads = split_heads(dout @ Wo.T, num_heads)
    dq, dk, dv = scaled_dot_product_attention_backward(dheads, attention_cache)
    dq, dk, dv = merge_heads(dq), dk.sum(axis=1), dv.sum(axis=1)
    dx = dq @ Wq.T + dk @ Wk.T + dv @ Wv.T
    dWs = (np.einsum("nti,ntj->ij", x, dy) for dy in (dq, dk, dv))
    return dx, *dWs, np.einsum("nti,ntj->ij", merged, dout)
    ### END SOLUTION


def kept_numbers_ratio(T, E, num_heads):
    """Numbers kept by multi-head attention, over those kept by multi-query attention."""
    ### BEGIN SOLUTION
    return (2 * T * E) / (2 * T * E // num_heads)
    ### END SOLUTION


def ratios():
    found = [kept_numbers_ratio(*sizes) for sizes in ((20, 64, 4), (20, 64, 8), (1, 6, 3))]
    return None if None in found else found


confirm(
    ratios,
    lambda ratios: ratios == [4, 8, 3],
    "a ratio of counts, for 4, 8 and 3 heads",
    exercise="09.3",
)


# %% tags=["exercise"]
def your_gradients(x, *weights):
    """Your output and gradients, for an upstream gradient of 1, 2, 3, ..."""
    out, cache = multi_query_forward(x, *weights, 4)
    upstream = np.arange(1.0, out.size + 1).reshape(out.shape)
    given = upstream.copy()
    gradients = multi_query_backward(given, cache)
    assert np.array_equal(given, upstream), "multi_query_backward writes into dout"
    names = "dx", "dWq", "dWk", "dWv", "dWo"
    return {"out": out, **dict(zip(names, gradients, strict=True))}


def by_differences(x, Wq, Wk, Wv, Wo):
    """The same of our multi-head attention, with the keys' and values' weights repeated."""
    upstream, nothing = np.arange(1.0, x.size + 1).reshape(x.shape), np.zeros(len(Wq))

    def repeated(_):
        weights = Wq, nothing, np.tile(Wk, 4), nothing, np.tile(Wv, 4), nothing, Wo, nothing
        return multi_head_attention_forward(x, x, x, *weights, 4)[0]

    arrays = {"dx": x, "dWq": Wq, "dWk": Wk, "dWv": Wv, "dWo": Wo}
    gradients = {
        name: eval_numerical_gradient_array(repeated, array, upstream)
        for name, array in arrays.items()
    }
    return {"out": repeated(None), **gradients}


rng = np.random.default_rng(5)
shapes = (2, 3, 8), (8, 8), (8, 2), (8, 2), (8, 8)
arrays = [0.5 * rng.standard_normal(shape) for shape in shapes]
one_word = arrays[0][:1, :1], *arrays[1:]
compare(
    your_gradients,
    by_differences,
    *arrays,
    tolerance=1e-6,
    also={"for one caption of one word": one_word},
)

# %% [markdown]
# **Sources.** A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. Gomez, Ł. Kaiser and I. Polosukhin,
# *Attention is all you need*, NeurIPS 2017. N. Shazeer, *Fast Transformer decoding: one write-head is all you need*,
# arXiv:1911.02150 (2019).
#
# **Next:** [lesson 10, the Transformer block](10_the_transformer_block.ipynb): layer norm, residual stream,
# feed-forward, dropout and positions, and the whole model.
