# %% [markdown]
# # 5 · The vanilla RNN
#
# **The question.** A caption is written one word after the other, and each word depends on all that was said
# before. How can a layer with a fixed number of weights read a sequence of any length, and how does the error
# in the last word reach the weights through all the steps in between?
#
# You build one step of a recurrent neural network (RNN), forward and backward, and chain the steps into
# *back-propagation through time*. You measure how the gradient fades or explodes on the way, and let a model learn
# 50 captions by heart.
#
# *Before: [lesson 2](02_gradients_you_can_trust.ipynb) (gradient checks) and
# [lesson 3](03_affine_embedding_softmax.ipynb) (affine, embedding, softmax). About 50 minutes; all cells together
# run in half a minute.*

# %% tags=["setup"]
from itertools import pairwise
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.captioning_solver import CaptioningSolver
from core.coco_utils import decode_captions
from core.decoding import beam_search
from core.gradient_check import check, eval_numerical_gradient_array, relative_error
from core.lessons import compare, confirm, draw_graph, show_source
from core.models import CaptioningRNN
from core.rnn_layers import (
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
    rnn_step_forward,
)
from core.shapes import caption_is_true, load_scenes

lessons.style()

# %% [markdown]
# ## By hand, with two units
#
# A recurrent layer keeps a **hidden state** $h$, a vector that it rewrites at every step. The new state mixes
# what is read now, $x$, with what is remembered, the state of the step before:
#
# $$ a = x\,W_x + h_{\text{prev}}\,W_h + b, \qquad h_{\text{next}} = \tanh(a) $$
#
# The same $W_x$, $W_h$ and $b$ serve every step: that is why the length does not matter. Let us follow three
# steps with one-hot inputs ("red", "blue", "red") and two hidden units, the two entries of $h$: "red" pushes unit 0, and
# "blue" pushes unit 1. Each unit keeps half of itself, and unit 0 passes 0.3 of itself to unit 1:
#
# $$ W_x = \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}, \qquad
#    W_h = \begin{pmatrix} 0.5 & 0.3 \\ 0 & 0.5 \end{pmatrix}, \qquad b = 0 $$
#
# *Predict.* Nothing has been read at first: $h = (0, 0)$. What is $a$ at the second step? ($\tanh 1 = 0.762$.) "red" is
# read at the first step and at the last: is the state the same after both?

# %% tags=["hide-input"]
Wx = np.eye(2)  # (D=2, H=2): "red" pushes unit 0, "blue" pushes unit 1
# (H, H): each unit keeps half of itself, and unit 0 passes 0.3 of itself to unit 1
Wh = np.array([[0.5, 0.3], [0.0, 0.5]])
b = np.zeros(2)
words = {"red": np.array([[1.0, 0.0]]), "blue": np.array([[0.0, 1.0]])}

h = np.zeros((1, 2))  # nothing has been read
print(f"{'':>4}  {'x Wx':^16}  {'h_prev Wh':^16}  {'a':^16}  {'h_next':^16}")
for word in ("red", "blue", "red"):
    from_input, from_memory = words[word] @ Wx, h @ Wh
    a = from_input + from_memory + b
    h = np.tanh(a)
    print(
        f"{word:>4}",
        *(f"  [{v[0, 0]:6.3f} {v[0, 1]:6.3f}]" for v in (from_input, from_memory, a, h)),
    )
assert np.allclose(h, [[0.828, 0.485]], rtol=0, atol=5e-4)

without = np.zeros((1, 2))
for x in (words["red"], np.zeros((1, 2)), words["red"]):
    without = np.tanh(x @ Wx + without @ Wh + b)
print(f"zeros in place of blue: unit 1 ends at {without[0, 1]:.3f}")
assert np.isclose(without[0, 1], 0.218, rtol=0, atol=5e-4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# $a = (0.5 \cdot 0.762,\; 1 + 0.3 \cdot 0.762) \approx (0.381, 1.228)$. The state is not the same: (0.762, 0) after the first
# "red", (0.828, 0.485) after the second.
# </details>
#
# In the last step unit 1 gets nothing from the input, and still has
# $a = 0.3 \cdot 0.363 + 0.5 \cdot 0.842 = 0.530$: a part of unit 0, and half of its own state. If the second step reads
# zeros in place of "blue", unit 1 ends at 0.218 instead of 0.485. The state remembers "blue".
#
# ## One step forward
#
# For a batch of $N$ rows, with $D$ numbers read and $H$ units:
#
# | | shape | |
# | --- | --- | --- |
# | $x$ | $(N, D)$ | what this step reads |
# | $h_{\text{prev}}$ | $(N, H)$ | the state of the step before |
# | $W_x$, $W_h$, $b$ | $(D, H)$, $(H, H)$, $(H,)$ | shared by all steps |
# | $h_{\text{next}}$ | $(N, H)$ | the new state, and the layer's output |
#
# In code $h_{\text{prev}}$ is `prev_h`, and its gradient $dh_{\text{prev}}$ is `dprev_h`.
#
# *Your turn.* Write the step, in one or two lines.


# %% tags=["task"]
def step(x, prev_h, Wx, Wh, b):
    """next_h, for x (N, D) and prev_h (N, H)."""
    ### BEGIN SOLUTION
    return np.tanh(x @ Wx + prev_h @ Wh + b)
    ### END SOLUTION


# (check expects a cache, too: None will do here)
check("rnn_step_forward", lambda *given: (step(*given), None))

# %% [markdown]
# The code, in `core/rnn_layers.py`, is the equation, and a `cache` of what the backward pass will need. (`floats` makes
# arrays of floats of whatever it is given.) Folded after it: the same sums, written out entry by entry.

# %%
show_source(rnn_step_forward)

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
N, D, H = 4, 3, 5  # all different, so that a wrong axis cannot hide
x, prev_h = rng.standard_normal((N, D)), rng.standard_normal((N, H))
Wx, Wh, b = (0.5 * rng.standard_normal(shape) for shape in ((D, H), (H, H), (H,)))

next_h, cache = rnn_step_forward(x, prev_h, Wx, Wh, b)
by_hand = np.empty((N, H))
for n in range(N):
    for j in range(H):
        a = b[j]
        a += sum(x[n, d] * Wx[d, j] for d in range(D))
        a += sum(prev_h[n, k] * Wh[k, j] for k in range(H))
        by_hand[n, j] = np.tanh(a)
print("next_h:", next_h.shape, "equal to sums by hand to within 1e-14")
assert np.allclose(next_h, by_hand, rtol=0, atol=1e-14)

# %% [markdown]
# ## One step backward
#
# From above we get $dh_{\text{next}} = \partial \mathcal{L} / \partial h_{\text{next}}$, of shape $(N, H)$: by how
# much the loss grows with each entry of the state. We need the same for the five arguments of `rnn_step_forward`. Here
# is the graph of the step: values flow along the arrows (blue), gradients against them (orange).

# %% tags=["hide-input"]
draw_graph(
    {
        "x": (0, 2.4, "$x$"), "Wx": (0, 1.2, "$W_x$"),
        "h": (0, -0.2, "$h_{prev}$"), "Wh": (0, -1.4, "$W_h$"),
        "m1": (1.5, 1.8, "@"), "m2": (1.5, -0.8, "@"), "b": (3, -0.9, "$b$"),
        "+": (3, 0.5, "+"), "tanh": (4.3, 0.5, "tanh"), "out": (5.6, 0.5, "$h_{next}$"),
    },
    [
        ("x", "m1", "", "$da\\,W_x^T$"), ("Wx", "m1", "", "$x^T da$"),
        ("h", "m2", "", "$da\\,W_h^T$"), ("Wh", "m2", "", "$h_{prev}^T da$"),
        ("m1", "+", "$x W_x$", "$da$"), ("m2", "+", "$h_{prev} W_h$", "$da$"),
        ("b", "+", "", "$\\Sigma_n da$"),
        ("+", "tanh", "$a$", "$da$"), ("tanh", "out", "$h_{next}$", "$dh_{next}$"),
    ],
    "One step of a vanilla RNN (@ is the matrix product)",
)  # fmt: skip

# %% [markdown]
# Go back through the step, from the right end of the graph to the left.
#
# **The nonlinearity.** $h = \tanh(a)$ acts on each entry by itself, and $\tanh'(a) = 1 - \tanh^2(a)$. As
# $\tanh(a)$ is $h_{\text{next}}$, which we have already, the derivative costs one square:
#
# $$ da = dh_{\text{next}} \odot (1 - h_{\text{next}}^2) \qquad (N, H) $$
#
# **The sum.** $a$ is a sum of three terms, so each of them receives $da$ unchanged.
#
# **The products.** Write one entry out: $a_{nj} = \sum_d x_{nd} (W_x)_{dj} + \dots$, so
# $\partial a_{nj} / \partial x_{nd} = (W_x)_{dj}$ and $\partial a_{nj} / \partial (W_x)_{dj} = x_{nd}$. The entry
# $x_{nd}$ goes into all the $a_{n1} \dots a_{nH}$ of its row, so its gradient is a sum over $j$. The weight
# $(W_x)_{dj}$ goes into every row of the batch, so its gradient is a sum over $n$:
#
# $$ dx_{nd} = \sum_j da_{nj} (W_x)_{dj} \;\Rightarrow\; dx = da\, W_x^T, \qquad
#    (dW_x)_{dj} = \sum_n x_{nd}\, da_{nj} \;\Rightarrow\; dW_x = x^T da $$
#
# and likewise $dh_{\text{prev}} = da\,W_h^T$ and $dW_h = h_{\text{prev}}^T\,da$. The shapes, such as
# $(D, N)(N, H) = (D, H)$ for $dW_x$, help to remember these products. They do not prove them: $W_h$ is square, so
# $da\,W_h$ has the right shape too, and is wrong.
#
# **The bias** is added to every row: $db = \sum_n da_n$, of shape $(H,)$.
#
# *Your turn.* Write the five gradients, given $da$, before you look at the code that follows.


# %% tags=["task"]
def five_gradients(da, x, prev_h, Wx, Wh):
    """dx, dprev_h, dWx, dWh, db."""
    ### BEGIN SOLUTION
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)
    ### END SOLUTION


def from_the_top(dnext_h, cache):
    *given, next_h = cache
    return five_gradients(dnext_h * (1 - next_h**2), *given)


check("rnn_step_backward", from_the_top)

# %%
show_source(rnn_step_backward)

# %% [markdown]
# `check` compares a function with central differences *and* with
# PyTorch's autograd, on random inputs with a random upstream gradient ([lesson 2](02_gradients_you_can_trust.ipynb)
# says why ones would not do):

# %%
report = check("rnn_step_backward", rnn_step_backward)
assert report
report

# %% [markdown]
# ## Through time
#
# A sequence is the same step $T$ times; each step reads the state of the step before. The state $h_t$ is read twice: by
# the loss, through the scores of word $t$, and by the next step. What is read twice receives two gradients, and they
# **add**:
#
# $$ dh_t^{\text{total}} = \underbrace{dh_t}_{\text{from above}} +
#    \underbrace{\left(dh_{t+1}^{\text{total}} \odot (1 - h_{t+1}^2)\right) W_h^T}_{\text{from the next step}} $$
#
# The second term is the `dprev_h` that step $t+1$ returns. The last step has no next one, so
# $dh_T^{\text{total}} = dh_T$. The `dprev_h` of step 1 is $dh_0$. Every step reads the weights, so their gradients sum
# over the steps, with $da_t = dh_t^{\text{total}} \odot (1 - h_t^2)$:
#
# $$ dW_x = \sum_t x_t^T\, da_t, \qquad dW_h = \sum_t h_{t-1}^T\, da_t, \qquad db = \sum_t \sum_n da_{t,n} $$
#
# This is **back-propagation through time** (Werbos 1990): run the steps forward, then go back from the last to the
# first. In code the steps count from 0: `h[:, 0]` is $h_1$, and `dh[:, 0]` is the $dh_1$ from above.

# %% tags=["hide-input"]
draw_graph(
    {
        "h0": (0, 0, "$h_0$"), "1": (1.5, 0, "step 1"), "2": (3, 0, "step 2"), "3": (4.5, 0, "step 3"),
        "x1": (1.5, -1.2, "$x_1$"), "x2": (3, -1.2, "$x_2$"), "x3": (4.5, -1.2, "$x_3$"),
        "L1": (1.5, 1.2, "loss, word 1"), "L2": (3, 1.2, "loss, word 2"), "L3": (4.5, 1.2, "loss, word 3"),
    },
    [
        ("h0", "1", "", "$dh_0$"), ("1", "2", "$h_1$", "from step 2"),
        ("2", "3", "$h_2$", "from step 3"), ("x1", "1", "", "$dx_1$"), ("x2", "2", "", "$dx_2$"),
        ("x3", "3", "", "$dx_3$"), ("1", "L1", "$h_1$", "$dh_1$"),
        ("2", "L2", "$h_2$", "$dh_2$"), ("3", "L3", "$h_3$", "$dh_3$"),
    ],
    "Three steps: $h_1$ and $h_2$ are read twice",
    unit=1.6,
)  # fmt: skip

# %%
show_source(rnn_forward, rnn_backward)

# %%
T = 6
x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
dh = rng.standard_normal((N, T, H))

h, cache = rnn_forward(x, h0, Wx, Wh, b)
gradients = rnn_backward(dh, cache)

report = check("rnn_backward", rnn_backward)
assert report
report

# %% [markdown]
# These two loops will train a captioner below. `core/fast` computes the same numbers in less time
# ([lesson 7](07_from_loops_to_gemms.ipynb)).
#
# ## What happens to a gradient on a long way
#
# Let the loss read the last state alone, for one caption, and follow its gradient, a row, back to step $t$. Each step
# multiplies it by $1 - h^2$, entry by entry, and then by $W_h^T$. Together that is the Jacobian $J_s$ of step $s$:
#
# $$ \frac{\partial \mathcal{L}}{\partial h_t} = \frac{\partial \mathcal{L}}{\partial h_T}\; J_T\; J_{T-1} \cdots
#    J_{t+1}, \qquad J_s = \mathrm{diag}(1 - h_s^2)\; W_h^T $$
#
# Suppose that all states are tiny, so that $1 - h^2$ is 1: every step multiplies by the same $W_h^T$. A row $v$ that
# is only stretched by it, $v W_h^T = \lambda v$, is an **eigenvector** with the **eigenvalue** $\lambda$, and after
# $T - t$ steps it is $\lambda^{T-t} v$.
#
# Any gradient is a mixture of such rows. After some steps those with the largest $\lvert \lambda \rvert$ outweigh all
# others. This largest $\lvert \lambda \rvert$ is the **spectral radius** $\rho$ of $W_h$: the gradient's length goes
# like $\rho^{\,T-t}$. (If $\lambda$ is complex, the row also turns.)
#
# Now measure it: 60 steps, a gradient at the last one only, a random $W_h$ scaled to different $\rho$. *Predict.* With
# $\rho = 0.9$ and tiny states, about what share of the gradient's length is left 50 steps back? And with $\rho = 1.1$?
# What changes when the states are larger?


# %% tags=["hide-input", "picture"]
def gradient_by_step(radius, input_scale, H=64, T=60, seed=1):
    """Norms of the gradient at each step, for a loss that reads the last state alone."""
    rng = np.random.default_rng(seed)
    Wh = rng.standard_normal((H, H))
    Wh *= radius / np.abs(np.linalg.eigvals(Wh)).max()
    x = input_scale * rng.standard_normal((1, T, H))
    _, (*_, step_caches) = rnn_forward(x, np.zeros((1, H)), np.eye(H), Wh, np.zeros(H))
    total, norms = rng.standard_normal((1, H)), []
    for step_cache in reversed(step_caches):
        norms.append(np.linalg.norm(total))
        _, total, *_ = rnn_step_backward(total, step_cache)
    return np.array(norms) / norms[0]  # by distance from the last step


TINY = 1e-40  # states so small that tanh(a) = a
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for ax, scale, title in zip(
    axes,
    (TINY, 0.5),
    ("tiny states: $1 - h^2$ is 1", "larger states: $1 - h^2$ is 0.3 to 0.8 on average"),
    strict=True,
):
    for radius in (3.0, 1.5, 1.1, 1.0, 0.9, 0.5):
        ax.semilogy(gradient_by_step(radius, scale), label=f"$\\rho$ = {radius}")
    ax.set(xlabel="steps back from the loss", title=title)
axes[0].set_ylabel("length of the gradient,\nrelative to the last step")
axes[1].legend(loc="upper left")
plt.show()

half, over = gradient_by_step(0.5, TINY), gradient_by_step(1.5, TINY)
print(
    f"50 steps back, tiny states: rho 0.5 leaves {half[50]:.0e}, rho 1.5 makes {over[50]:.0e}"
)
assert half[50] < 1e-12 and over[50] > 1e6
for radius in (0.9, 1.1):
    left = gradient_by_step(radius, TINY)[50]
    print(f"rho {radius}: {left:.3g}, and rho^50 is {radius**50:.3g}")
    assert 0.43 < left / radius**50 < 0.45
assert gradient_by_step(1.5, 0.5)[50] < 1  # what 1 - h^2 takes
assert gradient_by_step(3.0, 0.5)[50] > 1e3

captions = lessons.embedded_data("rnn")["train_captions"]
said = (captions > 2).sum(axis=1)  # without <NULL>, <START> and <END>, the ids 0 to 2
left = gradient_by_step(1.0, 0.5)[16]
print(f"words per caption: {said.mean():.1f} on average, {said.max()} at most")
print(f"16 steps back, larger states, rho 1: {left:.2f} is left")
assert 8.9 < said.mean() < 9.1 and said.max() == 15 and 0.005 < left < 0.015

# %% [markdown]
# <details><summary>Answer</summary>
#
# About $0.9^{50} = 0.005$ and $1.1^{50} = 117$; measured, 0.44 of both. The first steps lose the part of the random
# gradient that belongs to smaller eigenvalues; with another $W_h$ the factor is another. Larger states make all
# gradients shorter.
# </details>
#
# On the left the curves are nearly straight on the logarithmic axis, as a power should be: gradients **vanish**
# below $\rho = 1$ and **explode** above (Bengio and others 1994; Pascanu and others 2013).
#
# On the right every curve is lower. A unit near 1 or -1 is **saturated**: its $1 - h^2$ is near 0, and its gradient
# nearly stops there. So $\rho = 1.5$ explodes no more, but $\rho = 3$ still does. Training changes $W_h$, and nothing in
# the layer keeps the two effects in balance.
#
# How far back must the gradient reach in our task? Captions have nine words on average and 15 at most. The picture
# enters at $h_0$, so the way from the score of `<END>` to the picture has at most 16 steps. On the right, with
# $\rho = 1$, a hundredth of the gradient is left by then.
#
# Clipping shortens gradients that explode ([4b](04b_clipping_decay_schedules.ipynb)). Against the fading another
# layer helps, the LSTM of [lesson 6](06_the_lstm.ipynb).
#
# ## The tempting wrong way: forgetting the second reader
#
# An easy slip in `rnn_backward` is to leave out the gradient from the next step. All shapes fit, and nothing raises an
# error. How wrong is it?


# %%
def forgetful_backward(dh, cache):
    """Each step for itself: the gradient from the next step is left out."""
    *_, step_caches = cache
    steps = [rnn_step_backward(dh[:, t], step_caches[t]) for t in range(dh.shape[1])]
    dx, dprev_h, *dweights = zip(*steps, strict=True)
    return np.stack(dx, axis=1), dprev_h[0], *map(sum, dweights)


report = check("rnn_backward", forgetful_backward)
assert not report
report

# %% [markdown]
# The two gradients are arrows in a space of many dimensions. The cosine of the angle between them says how much they
# agree: 1 is the same direction, 0 a right angle.

# %% tags=["hide-input"]
wrong = forgetful_backward(dh, cache)
for name, got, true in zip(
    ("dx", "dh0", "dWx", "dWh", "db"), wrong, gradients, strict=True
):
    cosine = np.vdot(got, true) / np.linalg.norm(got) / np.linalg.norm(true)
    error = relative_error(got, true)
    print(
        f"{name:<4} relative error {error:.2f}, cosine with the true gradient {cosine:.2f}"
    )
    assert 0.5 < cosine < 0.75
assert relative_error(wrong[2], gradients[2]) > 0.1

# %% [markdown]
# ## Let it speak
#
# `CaptioningRNN` puts the layer to work. The features of the picture become $h_0$, the layer reads word vectors, and
# an affine layer makes a score for each word of the vocabulary from each state:
#
# $$ h_0 = \text{features}\,W_{\text{proj}} + b_{\text{proj}}, \quad h = \text{rnn}(\text{words}, h_0), \quad
#    \text{scores} = h\,W_{\text{vocab}} + b_{\text{vocab}} $$
#
# Step 1 reads `<START>` and scores the first word, step $t$ reads word $t - 1$ and scores word $t$; the last one
# scores `<END>`. Let it learn fifty captions by heart. A model that cannot do this has a bug, however well its parts were
# checked.
#
# *Predict.* The vocabulary has 41 words, and a caption has 10 tokens with its `<END>`. At how many nats per caption does
# the loss begin, before anything is learned ([lesson 3](03_affine_embedding_softmax.ipynb))? How will it go on with the
# true gradient, and how with the forgetful one?

# %%
data = lessons.embedded_data("rnn", num_samples=50)


def learn_by_heart():
    """A model that was trained on 50 captions, and its losses."""
    model = CaptioningRNN(
        data["word_to_idx"], data["train_features"].shape[1], wordvec_dim=64, hidden_dim=128,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    solver = CaptioningSolver(
        model, data, update_rule="adam", num_epochs=120, batch_size=25, lr_decay=0.98,
        optim_config={"learning_rate": 2e-3}, verbose=False,
    )  # fmt: skip
    solver.train()
    return model, solver.loss_history


# %% tags=["hide-input"]
model, losses = learn_by_heart()
# The same model, with the slip in it:
with patch("core.models.captioning_rnn.rnn_backward", forgetful_backward):
    forgetful_model, forgetful_losses = learn_by_heart()

plt.plot(losses, label="the true gradient")
plt.plot(forgetful_losses, label="without the gradient from the next step")
plt.gca().set(xlabel="step", ylabel="loss (nats per caption)", ylim=(0, None))
plt.gca().set_title("50 captions, learned by heart")
plt.legend()
plt.show()

captions = data["train_captions"]
features = data["train_features"][data["train_image_idxs"]]
references = decode_captions(captions, data["idx_to_word"])


def say(model):
    said = model.sample(features, max_length=captions.shape[1])
    return decode_captions(said, data["idx_to_word"])


def word_for_word(said):
    return sum(ours == reference for ours, reference in zip(said, references, strict=True))


for ours, reference in list(zip(say(model), references, strict=True))[:4]:
    print(f"{ours:<72} {'as learned' if ours == reference else 'learned: ' + reference}")
right, forgetful = word_for_word(say(model)), word_for_word(say(forgetful_model))
print(f"the true gradient: {right} of 50 word for word, last loss {losses[-1]:.1f}")
print(
    f"the forgetful one: {forgetful} of 50 word for word, last loss {forgetful_losses[-1]:.1f}"
)
assert right >= 48
assert 2 < forgetful < 12 and 8 < forgetful_losses[-1] / losses[-1] < 16

# %% [markdown]
# <details><summary>Answer</summary>
#
# Near $10 \log 41 = 37$ nats. Both fall: a step against a gradient at less than a right angle to the true one still
# lowers the loss, if it is small. The true one ends at 0.5 nats per caption. The forgetful one ends at about twelve
# times that, and the model repeats only 7 of the 50 captions.
# </details>
#
# The orange curve falls steadily. Seen alone, it gives no reason to look for a bug; a gradient check finds it at once.
#
# Learning by heart is not the aim. Next, the same model is trained on all 40,000 captions, 10 times each (10 *epochs*),
# and captions pictures that it has never seen. This trained model came with the lessons. In the folder of the project,
#
#     python training.py --model rnn --hidden_dim 128 --wordvec_dim 64 --out runs/rnn
#
# makes it anew, in about a minute on one core. (It uses dropout, [lesson 10](10_the_transformer_block.ipynb).)

# %%
trained, history = lessons.load_trained("rnn")
data = lessons.embedded_data("rnn")
losses = [f"{row['val_loss']:.2f}" for row in history]
print("validation loss after each epoch:", ", ".join(losses), "nats per token")
lessons.show_captions(trained, data, "val", range(6))

# %% tags=["hide-input"]
scenes = load_scenes(data["source"]["folder"], "val")
ids = beam_search(trained, data["val_features"])[0][:, 0]
captions = decode_captions(ids, data["idx_to_word"])
colours = {shape.colour for scene in scenes for shape in scene}
kinds = {shape.kind for scene in scenes for shape in scene}
true, in_picture, swapped = [], [], []
for caption, scene in zip(captions, scenes, strict=True):
    true.append(caption_is_true(caption, scene))
    said, there = caption.split(), {(shape.colour, shape.kind) for shape in scene}
    in_picture += [any(w in pair for pair in there) for w in said if w in colours | kinds]
    pairs = {(w, v) for w, v in pairwise(said) if w in colours and v in kinds}
    swapped.append(not pairs <= there)
true, many = np.array(true), np.array([len(scene) for scene in scenes])
print(f"true: {true.mean():.0%} of {len(true)} captions")
print(*(f"{n} in the picture: {true[many == n].mean():.0%}" for n in (1, 2, 3)), sep="; ")
print(f"colours and kinds said that are in the picture: {np.mean(in_picture):.1%}")
print(
    f"false: {(~true).sum()}, {sum(swapped)} of them with a pair that is not in the picture"
)
assert np.allclose(
    [true[many == n].mean() for n in (1, 2, 3)], [0.97, 0.55, 0.16], atol=0.01
)
assert 0.56 < true.mean() < 0.59 and np.mean(in_picture) > 0.99
assert not true[swapped].any() and 95 < sum(swapped) < 105

# %% [markdown]
# Above each picture is what the model says (found by beam search, [lesson 11](11_decoding.ipynb)), and below it, in
# grey, a caption of the data. The sentences are fluent, and 57 of 100 are true: 97 of 100 where the
# picture has one shape, 55 with two, 16 with three. The colours and kinds are nearly always in the picture. But in three
# of four false captions, a colour goes with the wrong kind, as in the last picture.
#
# The model sees the picture once, as the vector $h_0$, and each word overwrites the state. [Lesson 6](06_the_lstm.ipynb)
# gives it a better memory, and [lesson 8](08_soft_attention.ipynb) lets it look at the picture again before each word.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/05_the_vanilla_rnn.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · The state's own derivative (one line)
#
# The backward of a step begins with $da$. Write it, given $dh_{\text{next}}$ and $h_{\text{next}}$, both $(N, H)$,
# without computing another tanh.


# %% tags=["exercise"]
def gradient_before_tanh(dnext_h, next_h):
    ### BEGIN SOLUTION
    return dnext_h * (1 - next_h**2)
    ### END SOLUTION


dnext_h, state = np.random.default_rng(3).standard_normal((2, 4, 5))
# What the step's own backward says, with Wh = I: then dprev_h is da.
others = np.zeros((4, 1)), np.zeros((1, 5)), np.eye(5)
compare(
    gradient_before_tanh,
    lambda dh, h: rnn_step_backward(dh, (others[0], h, *others[1:], h))[1],
    dnext_h,
    np.tanh(state),
    exercise="05.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Through time, by yourself
#
# Close the lesson, and write `rnn_backward` with calls of `rnn_step_backward`. The cache of `rnn_forward` ends with the
# list of the steps' caches; `dh` is $(N, T, H)$. Return `dx, dh0, dWx, dWh, db`.
# (`check(..., hint=2)` and `hint=3` say more when it does not hold.)


# %% tags=["exercise"]
def steps_backward(dh, cache):
    x, h0, Wx, Wh, b, step_caches = cache
    ### BEGIN SOLUTION
    from_next, dx, weights = 0, [], [0, 0, 0]
    for t in reversed(range(dh.shape[1])):
        dx_t, from_next, *of_weights = rnn_step_backward(
            dh[:, t] + from_next, step_caches[t]
        )
        dx.append(dx_t)
        weights = [total + more for total, more in zip(weights, of_weights, strict=True)]
    return np.stack(dx[::-1], axis=1), from_next, *weights
    ### END SOLUTION


check("rnn_backward", steps_backward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: ReLU with an identity
#
# Le, Jaitly and Hinton (2015) let a recurrent network remember over hundreds of steps with two changes:
# $h = \max(0, a)$ instead of tanh, and $W_h$ that starts as the identity. Write the step's forward and backward.
# Then measure: with a loss that reads the last state alone, what share of the gradient's length arrives at $h_0$, 60
# steps back? Use $W_x = I$ (so $D = H$), $W_h = c I$ with $c$ = 0.9, 1 and 1.1, $b = 0$, $h_0 = 0$ and positive
# inputs, so that every $a$ is above 0.


# %% tags=["exercise"]
def relu_step_forward(x, prev_h, Wx, Wh, b):
    """Returns next_h and a cache of your own."""
    ### BEGIN SOLUTION
    next_h = np.maximum(0, x @ Wx + prev_h @ Wh + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)
    ### END SOLUTION


def relu_step_backward(dnext_h, cache):
    """Returns dx, dprev_h, dWx, dWh, db."""
    ### BEGIN SOLUTION
    x, prev_h, Wx, Wh, next_h = cache
    da = dnext_h * (next_h > 0)
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)
    ### END SOLUTION


def relu_gradients(x, prev_h, Wx, Wh, b):
    """Your state and your five gradients, for an upstream gradient of 1, 2, 3, ..."""
    next_h, cache = relu_step_forward(x, prev_h, Wx, Wh, b)
    upstream = np.arange(1.0, next_h.size + 1).reshape(next_h.shape)
    given = upstream.copy()
    gradients = relu_step_backward(given, cache)
    assert np.array_equal(given, upstream), "relu_step_backward writes into dnext_h"
    names = "dx", "dprev_h", "dWx", "dWh", "db"
    return {"next_h": next_h, **dict(zip(names, gradients, strict=True))}


def numerical_gradients(x, prev_h, Wx, Wh, b):
    def state(_):
        a = x @ Wx + prev_h @ Wh + b
        return np.where(a > 0, a, 0)

    upstream = np.arange(1.0, prev_h.size + 1).reshape(prev_h.shape)
    arrays = {"dx": x, "dprev_h": prev_h, "dWx": Wx, "dWh": Wh, "db": b}
    gradients = {
        name: eval_numerical_gradient_array(state, array, upstream)
        for name, array in arrays.items()
    }
    return {"next_h": state(None), **gradients}


rng = np.random.default_rng(4)
inputs = [rng.standard_normal(shape) for shape in ((4, 3), (4, 5), (3, 5), (5, 5), (5,))]
one_row = inputs[0][:1], inputs[1][:1], *inputs[2:]
compare(relu_gradients, numerical_gradients, *inputs, also={"for one row": one_row})


# %% tags=["exercise"]
def share_left(scale, T=60, H=16, seed=0):
    """The length of the gradient at h_0 over that at h_T, with W_h = scale * I."""
    ### BEGIN SOLUTION
    rng = np.random.default_rng(seed)
    h, caches = np.zeros((1, H)), []
    for _ in range(T):
        x = np.abs(rng.standard_normal((1, H)))
        h, cache = relu_step_forward(x, h, np.eye(H), scale * np.eye(H), np.zeros(H))
        caches.append(cache)
    dh = rng.standard_normal((1, H))
    first = np.linalg.norm(dh)
    for cache in reversed(caches):
        _, dh, *_ = relu_step_backward(dh, cache)
    return np.linalg.norm(dh) / first
    ### END SOLUTION


def shares():
    found = [share_left(scale) for scale in (0.9, 1.0, 1.1)]
    return None if None in found else found


confirm(
    shares,
    lambda shares: np.allclose(shares, [0.9**60, 1, 1.1**60]),
    "one share that fades, one that keeps everything, one that explodes",
    exercise="05.3",
)

# %% [markdown]
# ## What to keep
#
# * A recurrent layer is one step, repeated with the same weights; the state is all it remembers.
# * What is read twice receives two gradients, and they add. So the gradients of the shared weights sum over the steps.
# * Every step multiplies the gradient by a matrix: it fades or explodes like a power. Eigenvalues of $W_h$ and
#   saturated units decide which. A wrong gradient may still lower the loss: check it.
#
# **Sources.** J. Elman, *Finding structure in time*, Cognitive Science 14 (1990). P. Werbos, *Backpropagation
# through time: what it does and how to do it*, Proceedings of the IEEE 78 (1990). Y. Bengio, P. Simard and P.
# Frasconi, *Learning long-term dependencies with gradient descent is difficult*, IEEE Transactions on Neural
# Networks 5 (1994). R. Pascanu, T. Mikolov and Y. Bengio, *On the difficulty of training recurrent neural
# networks*, ICML 2013. Q. Le, N. Jaitly and G. Hinton, *A simple way to initialize recurrent networks of
# rectified linear units*, arXiv:1504.00941 (2015). The picture as first state: M. Tanti, A. Gatt and K. Camilleri,
# *Where to put the image in an image caption generator*, Natural Language Engineering 24 (2018).
#
# **Next:** [lesson 6, the LSTM](06_the_lstm.ipynb): the same task, with a memory that the gradient survives.
