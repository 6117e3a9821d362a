# %% [markdown]
# # 3 · Affine, embedding, softmax
#
# **The question.** A captioner reads words and says words, but between the two it can only calculate. How does a
# word become numbers? How do numbers become a word again? And which single number says how wrong the guess was?
#
# You build the layers at both ends of every captioner: the look-up that turns a word into a vector, the affine
# layer that scores all words, and the loss. At the end these layers alone learn to write captions, and you see how far
# that goes.
#
# *Before: [lesson 2](02_gradients_you_can_trust.ipynb) (checking a gradient). About 50 minutes with a pencil; all
# cells together run in ten seconds. What goes further is in [3b](03b_losses_that_lie.ipynb).*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.coco_utils import decode_captions
from core.gradient_check import check, eval_numerical_gradient
from core.layers import (
    affine_backward,
    affine_forward,
    log_softmax,
    softmax,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, confirm, movable, show_source
from core.shapes import caption_is_true, load_scenes

lessons.style()

# %% [markdown]
# ## By hand, with four words
#
# Our vocabulary has four words: `a`, `red`, `circle` and `<END>`, which closes a caption. The model has just read
# "red". The right next word is "circle". What happens on the way from one word to the other?

# %% tags=["hide-input"]
sketch = Sketch(9.2, 1.9)
word = sketch.box(0.7, 1.2, '"red"', "given")
vector_box = sketch.box(2.6, 1.2, "vector", width=1.1)
scores_box = sketch.box(4.6, 1.2, "4 scores", width=1.1)
p_box = sketch.box(6.7, 1.2, "4 probabilities", width=1.6)
loss_box = sketch.box(8.6, 1.2, "loss", "gradient", width=0.8)
for start_box, end_box in (
    (word, vector_box), (vector_box, scores_box), (scores_box, p_box), (p_box, loss_box),
):  # fmt: skip
    sketch.arrow(start_box, end_box)
for place, text in ((1.6, "look-up"), (3.6, "affine"), (5.6, "softmax"), (7.9, "-log")):
    sketch.text(place, 1.65, text, BLUE)
right_word = sketch.box(8.1, 0.35, '"circle"', "given", width=1.0)
sketch.arrow(right_word, loss_box, kind="grey")
sketch.text(6.6, 0.35, "the right word:", GREY)
sketch.show()

# %% [markdown]
# Each word has a **vector**, here of two numbers. An **affine layer** turns the vector into one **score** per word.
# **Softmax** turns scores into probabilities. The **loss** is $-\log$ of the probability of the right word ("log" is
# the natural logarithm everywhere).

# %%
vocabulary = ["a", "red", "circle", "<END>"]
W = np.array([[1.0, 0.0], [0.5, 1.0], [1.0, 1.0], [0.0, 0.0]])  # a row for each word
w = np.array([[0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 1.0, -0.5]])  # a column for each word
read, right = vocabulary.index("red"), vocabulary.index("circle")

vector = W[read]
scores = vector @ w
print("vector of red:", vector)
print("scores:       ", scores)

# %% [markdown]
# **Predict.** Softmax takes $e$ to the power of each score, and divides by the sum of the four powers. The powers
# are 1.65, 1.65, 2.72 and 0.61. What is the probability of "circle", and is the loss below or above 1?

# %%
powers = np.exp(scores)
p = powers / powers.sum()
print("probabilities:", p)
print(f"loss = -log {p[right]:.3f} = {-np.log(p[right]):.3f}")
assert np.allclose(powers, [1.65, 1.65, 2.72, 0.61], atol=0.005)
assert abs(p[right] - 0.41) < 0.005 and abs(-np.log(p[right]) - 0.89) < 0.005

# %% [markdown]
# <details><summary>Answer</summary>
#
# The sum is 6.62, so "circle" gets 2.72 / 6.62 = 0.41. The loss is $-\log 0.41 = 0.89$, below 1. It would be above 1
# with a probability below $e^{-1} = 0.37$.
#
# </details>
#
# That is the forward pass. Now we take its layers one at a time, with a batch, and derive the way back for each.
#
# ## Affine, forward
#
# An affine layer mixes $D$ numbers into $M$ new ones, for every row of a batch:
#
# $$ \text{out}_{nm} = \sum_d x_{nd}\, w_{dm} + b_m \qquad\text{or}\qquad \text{out} = x\,w + b $$
#
# | | shape | |
# | --- | --- | --- |
# | $x$ | $(N, D)$ | $N$ rows, one per example |
# | $w$ | $(D, M)$ | the **weights**; column $m$ makes output $m$ |
# | $b$ | $(M,)$ | the **bias**, added to every row (0 in the example above) |
# | out | $(N, M)$ | |
#
# The code is in `core/layers.py`. Each forward also returns a **cache**: what the way back will need. (`floats` makes
# arrays of floats. The `reshape` changes nothing for $x$ of this shape.)

# %%
show_source(affine_forward, docstring=False)

# %% [markdown]
# ## Affine, backward
#
# The next layer hands us $d\text{out}_{nm} = \partial \mathcal{L} / \partial\,\text{out}_{nm}$, the derivative of the
# loss $\mathcal{L}$ with respect to each output. We need the same for $x$, $w$ and $b$, and call it $dx$, $dw$ and
# $db$. Ask one question of each number: **who reads it?** The chain rule sums over all readers.
#
# **The input.** $x_{nd}$ is read by all outputs of its own row, and by no other. In output $m$ it is multiplied by
# $w_{dm}$:
#
# $$ dx_{nd} = \sum_m d\text{out}_{nm}\, \frac{\partial\, \text{out}_{nm}}{\partial x_{nd}}
#            = \sum_m d\text{out}_{nm}\, w_{dm} $$
#
# The sum runs over the *second* index of $w$. A matrix product sums over the first index of its right factor. So $w$
# must be transposed: $dx = d\text{out}\,w^T$.
#
# **Your turn.** Who reads the weight $w_{dm}$? Who reads the bias $b_m$? Write the two sums on paper first. Then turn
# them into two lines of NumPy.


# %% tags=["task"]
def weights_backward(dout, x):
    """The gradients dw (D, M) and db (M,), from dout (N, M) and x (N, D)."""
    ### BEGIN SOLUTION
    return x.T @ dout, dout.sum(axis=0)
    ### END SOLUTION


rng = np.random.default_rng(1)
dout, x = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
one_row = {"for one row": (dout[:1], x[:1])}
ours = lambda dout, x: affine_backward(dout, (x, np.ones((3, 5))))[1:]  # noqa: E731
compare(weights_backward, ours, dout, x, also=one_row)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Output $m$ of *every row* reads $w_{dm}$, multiplied by $x_{nd}$. So $dw_{dm} = \sum_n x_{nd}\, d\text{out}_{nm}$, which
# is $x^T d\text{out}$. The bias is read by the same outputs with a factor of 1: $db_m = \sum_n d\text{out}_{nm}$.
#
# Nothing is averaged here. If the loss is a mean over the batch, $d\text{out}$ has the $1/N$ in it already.
#
# </details>
#
# `core`'s `affine_backward` has the same lines, and one for $dx$. The check of
# [lesson 2](02_gradients_you_can_trust.ipynb) says:

# %%
report = check("affine_backward", affine_backward)
assert report
report

# %% [markdown]
# ### The same layer at every step
#
# A captioner scores all words after *every* word, $T$ times per caption, with the same $w$ and $b$. For the layer, step
# $t$ of caption $n$ is one more row. So `temporal_affine_forward` reshapes $x$ from $(N, T, D)$ to
# $(N \cdot T, D)$, and needs one product.
#
# On the way back, the weights are read in every row of every step. So their gradient sums over the steps as well:
# $dw_{dm} = \sum_n \sum_t x_{ntd}\, d\text{out}_{ntm}$.

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
N, T, D, M = 4, 6, 3, 5
x, dout = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, M))
weights, bias = rng.standard_normal((D, M)), rng.standard_normal(M)
_, cache = temporal_affine_forward(x, weights, bias)
dx, dw, db = temporal_affine_backward(dout, cache)
steps = [affine_backward(dout[:, t], (x[:, t], weights)) for t in range(T)]
assert np.allclose(dx, np.stack([step[0] for step in steps], axis=1), rtol=1e-12)
assert np.allclose(dw, sum(step[1] for step in steps), rtol=1e-12)
assert np.allclose(db, sum(step[2] for step in steps), rtol=1e-12)
print("one product for all steps gives what a loop over the steps gives")

# %% [markdown]
# ## A word becomes a vector
#
# A word is an **id** between 0 and $V - 1$, where $V$ is the size of the vocabulary. An id is a name, not a
# quantity: word 7 is not more than word 6. So each word gets a row of its own in a table $W$ of shape $(V, D)$, and
# is looked up. The look-up is called a **word embedding**.
#
# For ids $x$ of shape $(N, T)$, $\text{out}_{nt} = W[x_{nt}]$, and out has the shape $(N, T, D)$. This is an affine
# layer in disguise. Write the id as a **one-hot** row: 1 at the place of the word, and 0 elsewhere. The product of
# that row with $W$ picks one row of $W$:

# %% tags=["hide-input"]
sketch = Sketch(7.6, 2.6)
one_hot_cells = sketch.cells(1.4, 1.3, [0, 1, 0, 0], 0.45, [0, 1, 0, 0])
table = [["1.0", "0.0"], ["0.5", "1.0"], ["1.0", "1.0"], ["0.0", "0.0"]]
sketch.cells(4.2, 1.3, np.where([[0], [1], [0], [0]], [[0.35, 0.35]], 0), 0.45, table)
sketch.cells(6.7, 1.3, [0.35, 0.35], 0.45, table[1])
for row, name in enumerate(vocabulary):
    sketch.text(3.25, 1.3 + 0.45 * (1.5 - row), name, GREY, 11)
sketch.text(2.55, 1.3, "@", size=16)
sketch.text(5.5, 1.3, "=", size=16)
for place, text in (
    (1.4, '"red" as one-hot'),
    (4.2, "table $W$"),
    (6.7, 'vector of "red"'),
):
    sketch.text(place, 2.42, text, BLUE)
sketch.show()
ids = np.array([[1, 2, 0]])
assert np.array_equal(word_embedding_forward(ids, W)[0], np.eye(4)[ids] @ W)

# %% [markdown]
# We derive with the product, and compute with the look-up.
#
# ### What repeats must add up
#
# Ids have no gradient: there is nothing between word 6 and word 7. For $W$, take $dw = x^T d\text{out}$ with $W$ as the
# weights, and the one-hot rows as $x$:
#
# $$ dW_v = \sum_{(n,\,t)\,:\;x_{nt} = v} d\text{out}_{nt} $$
#
# In words: each row of $W$ sums the gradients of **all places where its word occurs**.
#
# **Predict.** The caption is "a red a", and the gradients at its places are 1, 10 and 100. Someone writes the
# backward as `dW[x] += dout`. What does the row of `a` receive, and what should it receive?

# %%
x = np.array([[0, 1, 0]])  # a red a
dout = np.array([[[1.0], [10.0], [100.0]]])
dW = np.zeros((4, 1))
dW[x] += dout
print("dW[x] += dout: ", dW.ravel())

exact = word_embedding_backward(dout, (x, np.zeros((4, 1))))
print("core:          ", exact.ravel())
assert dW[0] == 100 and exact[0] == 101

# %% [markdown]
# <details><summary>Answer</summary>
#
# The right sum is 101. `+=` gives 100, without any warning. NumPy reads all the rows `dW[x]`, adds, and writes them all
# back, so the second "a" overwrites the first. `np.add.at` adds one place after the other.
#
# </details>
#
# [3b](03b_losses_that_lie.ipynb) measures what training with this slip costs.
#
# ## Scores become probabilities
#
# The affine layer gives $V$ scores $s_1 \dots s_V$, any real numbers. Softmax makes them positive, and makes their sum
# 1:
#
# $$ p_i = \frac{e^{s_i}}{\sum_j e^{s_j}} $$
#
# Add the same number $a$ to all scores. Each power is multiplied by $e^a$, the sum as well, and nothing changes. So
# only *differences* of scores mean anything.
#
# **Predict.** On paper, the scores 0, 1, 2 and the scores 90, 91, 92 give the same probabilities. What does the
# program say? (The largest number that float32 can hold is about 3e38, which is $e^{88.7}$.)


# %%
def naive_softmax(scores):
    powers = np.exp(scores)
    return powers / powers.sum()


with np.errstate(all="ignore"):  # no warnings: let it fail quietly
    for scores in ([0, 1, 2], [90, 91, 92]):
        scores = np.array(scores, np.float32)
        print(scores, "naive:", naive_softmax(scores), " core:", softmax(scores))
    assert np.isnan(naive_softmax(scores)).all()
assert np.allclose(softmax(scores), [0.0900, 0.2447, 0.6652], atol=1e-4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# $e^{90}$ is infinite in float32, and infinity divided by infinity is not a number (NaN). `core` subtracts the largest
# score first. On paper this changes nothing. Now each power is at most 1, and the sum is at least 1.
#
# </details>
#
# One trap is left. The loss needs $\log p_i$, and a small $p_i$ may have become exactly 0, with a logarithm of
# $-\infty$. So take the logarithm on paper.
#
# **Your turn.** Write down $\log \left(e^{s_i} / \sum_j e^{s_j}\right)$ and simplify it, until the only powers of $e$
# left are those in the sum. Then subtract the largest score from all scores, as above.


# %% tags=["task"]
def my_log_softmax(s):
    """log softmax of one row of scores (V,), also where a probability is too small."""
    ### BEGIN SOLUTION
    shifted = s - s.max()
    return shifted - np.log(np.exp(shifted).sum())
    ### END SOLUTION


hard = {
    "with large scores": (np.array([900.0, 901.0, 899.0]),),
    "with a probability below 1e-300": (np.array([0.0, 1000.0, 3.0]),),
}
compare(my_log_softmax, log_softmax, np.array([0.5, 0.5, 1.0, -0.5]), also=hard)

# %% [markdown]
# <details><summary>Answer</summary>
#
# $\log p_i = s_i - \log \sum_j e^{s_j}$. With the largest score $s_{\max}$ subtracted from all scores it becomes
#
# $$ \log p_i = (s_i - s_{\max}) - \log \sum_j e^{s_j - s_{\max}} $$
#
# The sum is at least 1, so its logarithm is harmless. This is the **log-sum-exp** trick.
#
# </details>
#
# ## The loss, and where it comes from
#
# A caption is a sequence of words $y_1 \dots y_T$. The model gives each word a probability, given the words before
# it. The probability of the whole caption is the product of these. A product of many small numbers is tiny; its
# logarithm is a sum. We want the captions of the data to be probable, so we minimise
#
# $$ \mathcal{L} = -\log \prod_t p(y_t) = \sum_t -\log p(y_t) $$
#
# Each term is a **cross-entropy**, measured in **nats**. It is 0 for a model that is certain and right. It is $\log V$
# for one that thinks all words equally likely. It has no upper bound for one that is certain and wrong.
#
# ## The softmax Jacobian
#
# On the way back to the scores, softmax is the only hard part: every probability depends on *every* score. The table of
# all derivatives $\partial p_i / \partial s_j$ is its **Jacobian**. Attention will use it again in lessons 8 and 9.
#
# Let $Z = \sum_k e^{s_k}$, so that $p_i = e^{s_i} / Z$. The denominator contains every score:
# $\partial Z / \partial s_j = e^{s_j}$. The numerator contains only $s_i$:
# $\partial e^{s_i} / \partial s_j = \delta_{ij}\, e^{s_i}$, where $\delta_{ij}$ is 1 for $i = j$ and 0 otherwise. The
# quotient rule gives
#
# $$ \frac{\partial p_i}{\partial s_j} = \frac{\delta_{ij}\, e^{s_i}\, Z - e^{s_i}\, e^{s_j}}{Z^2}
#    = p_i\,(\delta_{ij} - p_j) $$
#
# As a matrix it is $\mathrm{diag}(p) - p\,p^T$. Raising $s_j$ raises $p_j$ and lowers all others. Each row sums to 0,
# because adding the same number to all scores changes nothing.

# %%
s = np.array([0.5, 0.5, 1.0, -0.5])  # the scores from the top
p = softmax(s)
jacobian = np.diag(p) - np.outer(p, p)
print(jacobian)

numerical = [eval_numerical_gradient(lambda s, i=i: softmax(s)[i], s) for i in range(4)]
assert np.allclose(jacobian, numerical, atol=1e-9)
assert np.allclose(jacobian.sum(axis=1), 0)

# %% [markdown]
# ## Its gradient, line by line
#
# Now the gradient of the loss. Take one place, with scores $s$ and right word $y$: $\mathcal{L} = -\log p_y$. The loss reads one probability only,
# so $\partial \mathcal{L} / \partial p_i = -\delta_{iy} / p_y$. The score $s_j$ is read by all $p_i$:
#
# $$ \frac{\partial \mathcal{L}}{\partial s_j}
#    = \sum_i \frac{\partial \mathcal{L}}{\partial p_i} \frac{\partial p_i}{\partial s_j} $$
#
# **Your turn.** Insert the Jacobian. One term of the sum survives, and $p_y$ cancels. What is left needs no division.


# %% tags=["task"]
def scores_backward(s, y):
    """The gradient of -log softmax(s)[y] with respect to the scores s (V,)."""
    ### BEGIN SOLUTION
    return softmax(s) - np.eye(len(s))[y]
    ### END SOLUTION


def ours(s, y):
    return temporal_softmax_loss(s[None, None], np.array([[y]]), np.ones((1, 1)))[1][0, 0]


certain = {"certain and wrong": (np.array([800.0, 0.0]), 1)}
compare(scores_backward, ours, np.array([0.5, 0.5, 1.0, -0.5]), 2, also=certain)

# %% [markdown]
# <details><summary>Answer</summary>
#
# $$ \frac{\partial \mathcal{L}}{\partial s_j} = -\frac{1}{p_y}\; p_y\,(\delta_{yj} - p_j) = p_j - \delta_{yj}
#    \qquad\text{or}\qquad ds = p - \text{onehot}(y) $$
#
# </details>
#
# The gradient is what the model said, minus what was right. A step goes *against* it. So it pushes the right word's
# score up by $1 - p_y$, and every other score down by its own probability. Move the slider: word 1 is right, word 2 is ahead by more and more.


# %% tags=["hide-input"]
def pushes(ahead):
    p = softmax(np.array([0.0, float(ahead), 0.0]))
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.6), sharey=True)
    names = ["right\nword 1", "wrong\nword 2", "wrong\nword 3"]
    axes[0].bar(names, p, color=BLUE)
    axes[1].bar(names, np.eye(3)[0] - p, color=ORANGE)
    axes[1].axhline(0, color=GREY)
    axes[0].set(title="what it says: $p$", ylim=(-1.1, 1.1))
    axes[1].set(title="push on the scores: onehot $-\\,p$")


movable(
    pushes, {"word_2_is_ahead_by": 2}, word_2_is_ahead_by=(-8, -4, -2, -1, 0, 1, 2, 4, 8)
)
p = softmax(np.array([0.0, 8.0, 0.0]))
assert 0.99 < 1 - p[0] < 1 and np.isclose((np.eye(3)[0] - p).sum(), 0)

# %% [markdown]
# The pushes sum to 0, and none is larger than 1. A model that is certain and wrong gets the strongest push there is.
# That holds because the two derivatives were joined on paper. With $1/p_y$ computed by itself, the push becomes NaN
# where the model is most wrong ([3b](03b_losses_that_lie.ipynb) measures it).
#
# Now let the four words from the top learn. One step of gradient descent, with a learning rate of 1, changes the vector
# of "red" and all of $w$. That is a whole training step: forward, loss, backward, update.

# %%
ds = softmax(vector @ w) - np.eye(4)[right]
dvector, dw = ds @ w.T, np.outer(vector, ds)  # the affine layer's backward, for one row
new_p = softmax((vector - dvector) @ (w - dw))
print("before:", softmax(vector @ w))
print("after: ", new_p)
assert abs(new_p[right] - 0.816) < 0.001

# %% [markdown]
# "circle" rises from 0.41 to 0.82. The vector and the weights both move, and a learning rate of 1 is large.
#
# ## Padding does not count
#
# Captions of one batch have different lengths and share one array. The rest of each row is filled with `<NULL>`, the
# **padding**. A **mask** $(N, T)$ is 1 (or True) where a word counts. For "circle `<END>` `<NULL>` `<NULL>`" it is
# 1, 1, 0, 0.
#
# The loss of a batch is a sum over time and a mean over captions. With scores $s$ of shape $(N, T, V)$:
#
# $$ \mathcal{L} = -\frac{1}{N} \sum_n \sum_t \text{mask}_{nt}\, \log p_{nt,\,y_{nt}}, \qquad
#    ds_{nt} = \frac{\text{mask}_{nt}}{N} \left(p_{nt} - \text{onehot}(y_{nt})\right) $$
#
# `core` never looks at the other places. They may hold anything, even NaN.
#
# Long captions have larger sums. So for reading we print **nats per token**: the total, divided by the number of words
# that count. Its exponential is the **perplexity**. A model with a perplexity of 4 is as uncertain as one that chooses
# among 4 words with equal chances.
#
# **Predict.** A batch has two captions, "a red circle `<END>`" and the one above. All four words have the same score at
# every place, so each word costs $\log 4 = 1.39$ nats. What is the loss per caption, and per token?

# %%
y, mask = np.array([[0, 1, 2, 3], [2, 3, 0, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
loss, _ = temporal_softmax_loss(np.zeros((2, 4, 4)), y, mask)
per_token = loss * len(mask) / mask.sum()
print(f"{loss:.2f} nats per caption, {per_token:.2f} nats per token")
print(f"divided by all places: {loss * len(mask) / mask.size:.2f}")
assert np.isclose(loss, 3 * np.log(4)) and np.isclose(per_token, np.log(4))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Six words count, $6 \cdot 1.39 = 8.32$ nats: $8.32 / 2 = 4.16$ per caption, and $8.32 / 6 = 1.39$ per token. Dividing
# by all 8 places counts the padding, too, and makes every model look better: 1.04.
#
# </details>
#
# ## A captioner without a memory
#
# Now put the layers in a row: read a word, look up its vector, score all words.
#
# $$ \text{scores}_{nt} = W_{\text{embed}}[x_{nt}]\; w + b $$
#
# This model knows the last word, but not the words before it, and not the picture. It is called a **bigram** model. We train it on the captions of [lesson 1](01_the_task_and_the_data.ipynb). It reads each caption
# without its last word, and should say the same caption without its first.


# %%
def bigram_loss(params, captions):
    """Nats, summed over time and averaged over the batch; and the gradients."""
    words, targets = captions[:, :-1], captions[:, 1:]
    vectors, word_cache = word_embedding_forward(words, params["W_embed"])
    scores, score_cache = temporal_affine_forward(vectors, params["w"], params["b"])
    loss, dscores = temporal_softmax_loss(scores, targets, targets != null)
    dvectors, dw, db = temporal_affine_backward(dscores, score_cache)
    dW = word_embedding_backward(dvectors, word_cache)
    return loss, {"W_embed": dW, "w": dw, "b": db}


# %%
data = lessons.embedded_data("rnn")
captions, idx_to_word = data["train_captions"], data["idx_to_word"]
null, start, end = (data["word_to_idx"][word] for word in ("<NULL>", "<START>", "<END>"))
V = len(idx_to_word)
print("read:", *(idx_to_word[i] for i in captions[0, :12]))
print("say: ", *(idx_to_word[i] for i in captions[0, 1:13]))

# %% [markdown]
# ### The first loss is known before you start
#
# **Predict.** Before training, all weights are small and random, so all scores are near 0. There are 41 words. A
# caption has 10.1 tokens on average: its words and `<END>`. What is the loss, in nats per token and in nats per
# caption? ($\log 41 = 3.71$.)


# %%
def new_params(width, scale=0.1):
    rng = np.random.default_rng(0)
    W_embed = scale * rng.standard_normal((V, width))
    return {
        "W_embed": W_embed,
        "w": scale * rng.standard_normal((width, V)),
        "b": np.zeros(V),
    }


tokens = np.mean(np.sum(captions[:500, 1:] != null, axis=1))
print(f"{V} words, {tokens:.1f} tokens per caption")
for scale in (0.1, 3):
    loss, _ = bigram_loss(new_params(16, scale), captions[:500])
    print(f"scale {scale}: {loss:.1f} nats per caption, {loss / tokens:.2f} nats per token")

# %% tags=["hide-input"]
first, _ = bigram_loss(new_params(16), captions[:500])
assert V == 41 and abs(tokens - 10.1) < 0.05 and abs(first / tokens - np.log(V)) < 0.02
assert abs(first - 37.5) < 0.1 and abs(first / captions[:, 1:].shape[1] - 2.35) < 0.01
assert loss / tokens > 5 * np.log(V)
small = new_params(3, scale=0.5)
_, grads = bigram_loss(small, captions[:5])
for name, parameter in small.items():
    numerical = eval_numerical_gradient(
        lambda _: bigram_loss(small, captions[:5])[0], parameter
    )
    assert np.linalg.norm(grads[name] - numerical) < 1e-7 * np.linalg.norm(numerical)
print("the gradients of the whole model agree with central differences to 1e-7")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Every word gets about $1/41$, so the loss is near 3.71 nats per token, and $10.1 \cdot 3.71 = 37.5$ per caption. This
# is the cheapest test there is. A first loss far *above* $\log V$: the weights start too large, as in the last row. Far
# *below*: the unit is wrong. Divided by all 16 places of a row, it would be 2.35.
#
# </details>
#
# ### How good can it become?
#
# Training needs no new idea: draw a batch, compute the gradient, step against it. And the best possible result is
# known as well. Count how often each word follows "red", and take these shares as the probabilities after "red". Do so
# for every word. On the captions that were counted, no model that sees one word can have a smaller loss
# ([3b](03b_losses_that_lie.ipynb) proves it). It is 1.27 nats per token, and we call it **the floor**.


# %%
def train(params, steps=500, rate=0.5, batch_size=150):
    """Gradient descent, at a tenth of the rate in the last third. Returns the losses."""
    rng, losses = np.random.default_rng(0), []
    for step in range(steps):
        batch = captions[rng.integers(len(captions), size=batch_size)]
        loss, grads = bigram_loss(params, batch)
        for name in params:
            params[name] -= (rate if step < 2 * steps / 3 else rate / 10) * grads[name]
        losses.append(loss * len(batch) / np.sum(batch[:, 1:] != null))
    return np.array(losses)  # nats per token


params = new_params(16)
losses = train(params)

# %% tags=["hide-input"]
counts = np.zeros((V, V))
words, targets = captions[:, :-1], captions[:, 1:]
np.add.at(counts, (words[targets != null], targets[targets != null]), 1)
follows = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
floor = -np.sum(counts[counts > 0] * np.log(follows[counts > 0])) / counts.sum()

plt.plot(losses, color=BLUE)
for height, text in (
    (np.log(V), f"log V = {np.log(V):.2f}: all words alike"),
    (floor, f"the floor, {floor:.2f}"),
):
    plt.axhline(height, color=ORANGE, linestyle="--")
    plt.text(495, height - 0.08, text, color=ORANGE, ha="right", va="top", fontsize=11)
plt.gca().set(
    xlabel="step",
    ylabel="nats per token",
    ylim=(0.9, 4),
    title="The bigram captioner learns",
)
plt.show()

loss = bigram_loss(params, captions)[0] * len(captions) / counts.sum()
print(
    f"all training captions: {loss:.3f} nats per token, perplexity {np.exp(loss):.2f}; floor {floor:.3f}"
)
assert (
    abs(floor - 1.27) < 0.005 and 0 < loss - floor < 0.01 and abs(np.exp(loss) - 3.6) < 0.05
)

# %% [markdown]
# Gradient descent finds what counting finds, to a hundredth of a nat. To do better, a model must *know more*.
#
# ## Let it speak
#
# Begin with `<START>`. Draw a word with the model's probabilities, read it, draw the next one, until `<END>`. Here are
# ten captions. Read each pair of neighbours, then each caption as a whole:


# %% tags=["hide-input"]
def speak(params, rng, longest=40):
    """One caption, drawn word by word."""
    p = softmax(
        params["W_embed"] @ params["w"] + params["b"]
    )  # (V, V): a row per word read
    caption = [start]
    while caption[-1] != end and len(caption) < longest:
        caption.append(int(rng.choice(V, p=p[caption[-1]])))
    return caption


rng = np.random.default_rng(1)
said = [speak(params, rng) for _ in range(1000)]
sentences = [decode_captions(np.array(caption), idx_to_word) for caption in said]
print("\n".join(sentences[:10]))

# %% [markdown]
# The pairs of neighbours sound right, and the captions do not. Two shapes are announced, and one is named.
#
# Let us measure that. Take all runs of one to ten words from 1,000 such captions. How many of them occur in the 40,000
# training captions? In grey, the same for held-out captions:


# %% tags=["picture", "hide-input"]
def runs_of(captions, n):
    return [tuple(c[i : i + n]) for c in captions for i in range(len(c) - n + 1)]


def words_only(captions):
    return [caption[: caption.index(end) + 1] for caption in captions.tolist()]


known, held_out = words_only(captions), words_only(data["val_captions"])
lengths, ours, theirs = range(1, 11), [], []
for n in lengths:
    seen = set(runs_of(known, n))
    for shares, texts in ((ours, said), (theirs, held_out)):
        shares.append(100 * np.mean([run in seen for run in runs_of(texts, n)]))
plt.plot(lengths, theirs, "o-", color=GREY, label="held-out captions")
plt.plot(lengths, ours, "o-", color=BLUE, label="bigram captioner")
plt.gca().set(xlabel="words in a row", ylabel="% found in training captions", ylim=(0, 105))
plt.title("Fluent in pairs, lost in sentences")
plt.legend(loc="lower left")
plt.show()

for n in (2, 5, 8):
    print(
        f"{n} words in a row: {ours[n - 1]:.0f} % of ours, {theirs[n - 1]:.0f} % of the held-out ones"
    )
scenes = load_scenes(data["source"]["folder"], "val")
true = 100 * np.mean(
    [caption_is_true(s, scenes[i % len(scenes)]) for i, s in enumerate(sentences)]
)
print(f"{true:.0f} % of its captions are true of a held-out picture, by chance")
_, rnn = lessons.load_trained("rnn")
assert abs(rnn[-1]["val_loss"] - 0.61) < 0.005
assert (
    len(known) == 40_000 and ours[1] > 99 and ours[7] < 50 and theirs[7] > 80 and true < 10
)

# %% [markdown]
# Pairs are learned, because the model's memory is one word long. Hardly any caption is true, because the model never saw
# a picture. The RNN of [lesson 5](05_the_vanilla_rnn.ipynb) will remember all words and see the picture. Its loss on
# held-out captions is 0.61.
#
# ## What you have now
#
# * One question derives every backward: who reads this number? Sum over the readers. A word's gradient sums over
#   all its places.
# * Softmax and cross-entropy belong together: subtract the largest score, take the logarithm on paper, and the
#   gradient is $p - \text{onehot}(y)$.
# * A loss needs its unit. Ours is minimised per caption and printed per token. Before training it is near $\log V$.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/03_affine_embedding_softmax.ipynb). Each cell tells you at once
# whether it holds.

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
# that neither large scores nor NaN in the padding do harm to it.


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
# vectors, put them side by side, then one affine layer, tanh, another affine layer, softmax. Write `window_loss`. It
# returns the loss per token (a mean over the $N$ rows), and the gradients by the names of the parameters.
#
# `affine_forward` puts the two vectors side by side by itself. `temporal_softmax_loss` gives the mean over the rows if
# each row is a caption of one word, `scores[:, None]`. And $\tanh' = 1 - \tanh^2$. Then train it, and beat the floor of
# every bigram model.


# %% tags=["exercise"]
def window_loss(params, contexts, targets):
    """contexts (N, 2) and targets (N,) word ids; params W_embed, w1, b1, w2, b2."""
    ### BEGIN SOLUTION
    vectors, word_cache = word_embedding_forward(contexts, params["W_embed"])  # (N, 2, W)
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
    """All pairs of words and what follows them; <NULL> comes before the first word."""
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
# **Sources.** J. Bridle, *Probabilistic interpretation of feedforward classification network outputs, with
# relationships to statistical pattern recognition*, in: Neurocomputing, NATO ASI Series F 68, Springer (1990). Y. Bengio, R. Ducharme, P.
# Vincent and C. Jauvin, *A neural probabilistic language model*, Journal of Machine Learning Research 3 (2003). P.
# Blanchard, D. Higham and N. Higham, *Accurately computing the log-sum-exp and softmax functions*, IMA Journal of
# Numerical Analysis 41 (2021).
#
# **Next:** [lesson 4, update rules](04_update_rules.ipynb): you have the gradient; how far should you go?
