# %% [markdown]
# # 5 · The vanilla RNN
#
# **The question.** A caption is written one word after the other, and each word depends on all that was said
# before. How can a layer with a fixed number of weights read a sequence of any length, and how does the error
# in the last word reach the weights through all the steps in between?
#
# You build one step of a recurrent network, forward and backward, chain the steps into *back-propagation
# through time*, measure how the gradient fades or explodes on the way, and make the layer learn 50 captions by
# heart.
#
# *Before: [lesson 2](02_gradients_you_can_trust.ipynb) (gradient checks) and
# [lesson 3](03_affine_embedding_softmax.ipynb) (affine, embedding, softmax). About 45 minutes; all cells together
# run in half a minute.*

# %% tags=["setup"]
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.captioning_solver import CaptioningSolver
from core.coco_utils import decode_captions
from core.gradient_check import check, eval_numerical_gradient_array, relative_error
from core.lessons import compare, confirm, draw_graph, show_source
from core.models import CaptioningRNN
from core.rnn_layers import (
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
    rnn_step_forward,
)

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
# steps with one-hot inputs ("a", "red", "a") and two hidden units: "a" pushes unit 0, and "red" pushes unit 1. Each unit
# keeps half of itself, and unit 0 passes 0.3 of itself to unit 1:
#
# $$ W_x = \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}, \qquad
#    W_h = \begin{pmatrix} 0.5 & 0.3 \\ 0 & 0.5 \end{pmatrix}, \qquad b = 0 $$
#
# *Predict.* The word "a" is read twice, at the first step and at the last. Is the state after it the same? Which of the
# two units is larger at the end?

# %% tags=["hide-input"]
Wx = np.eye(2)  # (D=2, H=2): "a" pushes unit 0, "red" pushes unit 1
# (H, H): each unit keeps half of itself, and unit 0 passes 0.3 of itself to unit 1
Wh = np.array([[0.5, 0.3], [0.0, 0.5]])
b = np.zeros(2)
words = {"a": np.array([[1.0, 0.0]]), "red": np.array([[0.0, 1.0]])}

h = np.zeros((1, 2))  # nothing has been read
print(f"{'':>4}  {'x Wx':^16}  {'h_prev Wh':^16}  {'a':^16}  {'h_next':^16}")
for word in ("a", "red", "a"):
    from_input, from_memory = words[word] @ Wx, h @ Wh
    a = from_input + from_memory + b
    h = np.tanh(a)
    print(
        f"{word:>4}",
        *(f"  [{v[0, 0]:6.3f} {v[0, 1]:6.3f}]" for v in (from_input, from_memory, a, h)),
    )
assert np.allclose(h, [[0.828, 0.485]], rtol=0, atol=5e-4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is not the same: (0.762, 0) after the first step, and (0.828, 0.485) at the end. Unit 0 is larger.
# </details>
#
# Unit 1 gets nothing from the input in the last step, and still has $a = 0.3 \cdot 0.363 + 0.5 \cdot 0.842 = 0.530$: the second part is what "red" left
# there, the first what unit 0 passes on. Without "red" the unit would end at 0.218 instead of 0.485. That
# difference is the memory.
#
# In code $h_{\text{prev}}$ is `prev_h`, and a gradient $dh_{\text{next}}$ is `dnext_h`.
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
# *Your turn.* Write the step, in one or two lines.


# %% tags=["task"]
def step(x, prev_h, Wx, Wh, b):
    """next_h, for x (N, D) and prev_h (N, H)."""
    ### BEGIN SOLUTION
    return np.tanh(x @ Wx + prev_h @ Wh + b)
    ### END SOLUTION


check("rnn_step_forward", lambda *given: (step(*given), None))

# %% [markdown]
# The code, in `core/rnn_layers.py`, is the equation, and a `cache` of what the way back will need:

# %%
show_source(rnn_step_forward)

# %%
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
# much the loss grows with each entry of the state. We owe the five arguments of `rnn_step_forward` the same. The graph
# of the step; values flow along the arrows (blue), gradients against them (orange):

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
# Walk back through the forward, from its last line to its first.
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
# $x_{nd}$ is read by all the $a_{n1} \dots a_{nH}$ of its row, and collects from all of them; the weight
# $(W_x)_{dj}$ is read by every row $n$ of the batch, and collects from all of those:
#
# $$ dx_{nd} = \sum_j da_{nj} (W_x)_{dj} \;\Rightarrow\; dx = da\, W_x^T, \qquad
#    (dW_x)_{dj} = \sum_n x_{nd}\, da_{nj} \;\Rightarrow\; dW_x = x^T da $$
#
# and likewise $dh_{\text{prev}} = da\,W_h^T$ and $dW_h = h_{\text{prev}}^T\,da$. The shapes, $(D, N)(N, H) = (D, H)$,
# are a good way to remember these products, and a bad way to check them. $W_h$ is square: $da\,W_h$ has the
# right shape too, and is wrong. With $D = H$ the same holds for $W_x$.
#
# **The bias** is added to every row: $db = \sum_n da_n$, of shape $(H,)$.
#
# *Your turn.* From $da$ to the five gradients, without a look at the code that follows.


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
# A sequence is the same step $T$ times, each reading the state that the one before left. The state $h_t$ has
# two readers: the loss, through the scores of word $t$, and the next step. What has two readers receives two
# gradients, and they **add**:
#
# $$ dh_t^{\text{total}} = \underbrace{dh_t}_{\text{from above}} +
#    \underbrace{\left(dh_{t+1}^{\text{total}} \odot (1 - h_{t+1}^2)\right) W_h^T}_{\text{from the next step}} $$
#
# The second term is the `dprev_h` that step $t+1$ returns. After the last step there is none,
# $dh_T^{\text{total}} = dh_T$, and what step 1 returns is $dh_0$. With
# $da_t = dh_t^{\text{total}} \odot (1 - h_t^2)$ the weights, read by every step, collect
#
# $$ dW_x = \sum_t x_t^T\, da_t, \qquad dW_h = \sum_t h_{t-1}^T\, da_t, \qquad db = \sum_t \sum_n da_{t,n} $$
#
# This is **back-propagation through time** (Werbos 1990): run the steps forward, then walk back from the last to
# the first.

# %% tags=["hide-input"]
draw_graph(
    {
        "h0": (0, 0, "$h_0$"), "1": (1.5, 0, "step 1"), "2": (3, 0, "step 2"), "3": (4.5, 0, "step 3"),
        "x1": (1.5, -1.2, "$x_1$"), "x2": (3, -1.2, "$x_2$"), "x3": (4.5, -1.2, "$x_3$"),
        "L1": (1.5, 1.2, "loss, word 1"), "L2": (3, 1.2, "loss, word 2"), "L3": (4.5, 1.2, "loss, word 3"),
    },
    [
        ("h0", "1", "", "from step 1"), ("1", "2", "$h_1$", "from step 2"),
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
# Let the loss read the last state alone, and follow its gradient, a row, back to step $t$. Each step multiplies it
# by $1 - h^2$, entries between 0 and 1, and then by $W_h^T$, the last step first:
#
# $$ \frac{\partial \mathcal{L}}{\partial h_t} = \frac{\partial \mathcal{L}}{\partial h_T}\; D_T W_h^T\; D_{T-1} W_h^T \cdots
#    D_{t+1} W_h^T, \qquad D_s = \mathrm{diag}(1 - h_s^2) $$
#
# A product of many matrices shrinks or grows like a power. Let $\rho$ be the largest absolute eigenvalue of
# $W_h$, its *spectral radius*. If all $D_s$ were 1, a row $v$ with $v W_h^T = \lambda v$ would become
# $\lambda^{T-t} v$. Any gradient is a mixture of such rows, and after some steps that of the largest
# $\lvert \lambda \rvert$ is all that counts: the length goes like $\rho^{\,T-t}$.
#
# We measure it: 60 steps, a gradient at the last one only, $W_h$ scaled to different $\rho$. *Predict:* with $\rho = 0.9$
# and $1 - h^2 = 1$, about what share of the gradient is left 50 steps back? And with $\rho = 1.1$?


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
    print(f"rho {radius}: {left:.2g}, and rho^50 is {radius**50:.2g}")
    assert 0.43 < left / radius**50 < 0.45
assert gradient_by_step(1.5, 0.5)[50] < 1  # what 1 - h^2 takes
assert gradient_by_step(3.0, 0.5)[50] > 1e3

# %% [markdown]
# <details><summary>Answer</summary>
#
# About $0.9^{50} = 0.005$ and $1.1^{50} = 117$; measured, 0.44 of that. The first steps lose the part of the random
# gradient that belongs to smaller eigenvalues.
# </details>
#
# On the left the curves are straight on the logarithmic axis after a few steps, as a power should be: **vanishing**
# below $\rho = 1$, **exploding** above (Bengio and others 1994; Pascanu and others 2013). On the right every curve is
# lower, since $1 - h^2$ takes its part at every step: $\rho = 1.5$ explodes no more. But it does not tame every matrix:
# at $\rho = 3$ the gradient still grows. Nothing holds that balance in place.
#
# Against the explosion there is a simple cure, clipping
# ([4b](04b_clipping_decay_schedules.ipynb)). Against the fading there is another architecture
# ([lesson 6](06_the_lstm.ipynb)).
#
# How far does our task need it to reach? Captions here have nine words on average and 15 at most. The picture
# enters at $h_0$, so from the score of the last `<END>` it is 16 steps at most.
#
# ## The tempting wrong way: forgetting the second reader
#
# The commonest slip in `rnn_backward` is to leave out the gradient from the next step. It is tempting because
# it *works*: shapes fit, the loss goes down. How wrong is it?


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

# %%
wrong = forgetful_backward(dh, cache)
for name, a, b_ in zip(("dx", "dh0", "dWx", "dWh", "db"), wrong, gradients, strict=True):
    cosine = np.vdot(a, b_) / np.linalg.norm(a) / np.linalg.norm(b_)
    print(
        f"{name:<4} relative error {relative_error(a, b_):.2f}, cosine with the true gradient {cosine:.2f}"
    )
assert relative_error(wrong[2], gradients[2]) > 0.1

# %% [markdown]
# A gradient at less than a right angle to the true one still lowers the loss. You see it in a moment.
#
# ## Let it speak
#
# `CaptioningRNN` puts the layer to work: the features of the picture become $h_0$, word vectors are read, the
# states are scored against the vocabulary:
#
# $$ h_0 = \text{features}\,W_{\text{proj}} + b_{\text{proj}}, \quad h = \text{rnn}(\text{words}, h_0), \quad
#    \text{scores} = h\,W_{\text{vocab}} + b_{\text{vocab}} $$
#
# Step 1 reads `<START>` and scores the first word, step $t$ reads word $t - 1$ and scores word $t$; the last one
# scores `<END>`. Let it learn fifty captions by heart. A model that cannot do this has a bug, however well its parts were
# checked.
#
# *Predict.* How do the two losses look: with the true gradient, and with the forgetful one? Each begins near 37 nats per
# caption.

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
# Both fall. The true one ends at 0.5 nats per caption, the forgetful one at about twelve times that, and it repeats one
# caption in seven.
# </details>
#
# (37 is 10 tokens of $\log 41 = 3.7$ nats each.) Without the blue curve beside it, who would look for a bug in a loss that
# falls? A check finds it at once.
#
# Learning by heart is not the aim. Trained on all 40,000 captions, for 10 epochs and with dropout, the same model
# speaks of pictures that it has never seen. The run below came with the lessons; from the folder of the project
#
#     python training.py --model rnn --hidden_dim 128 --wordvec_dim 64 --out runs/rnn
#
# makes it in about a minute on one core.

# %%
trained, history = lessons.load_trained("rnn")
data = lessons.embedded_data("rnn")
losses = [f"{row['val_loss']:.2f}" for row in history]
print("validation loss after each epoch:", ", ".join(losses), "nats per token")
lessons.show_captions(trained, data, "val", range(6))

# %% [markdown]
# Above each picture is what the model says (found by beam search, [lesson 11](11_decoding.ipynb)), and below it, in
# grey, a caption of the data. The sentences are fluent, and 57 of 100 are true: 97 of 100 where the
# picture holds one shape, 55 with two, 16 with three
# (`python -m core.grounding --checkpoint notebooks/trained/rnn`). Colours and kinds are nearly always those of the
# picture, but the colour of one shape goes with the kind of another. The whole picture had to pass through one
# vector $h_0$, and that is overwritten with every word. Two lessons mend that: the memory in
# [lesson 6](06_the_lstm.ipynb), the single look in [lesson 8](08_soft_attention.ipynb).
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
# inputs, so that every unit stays alive.


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
# * What is read twice receives two gradients, and they add; what is shared by all steps sums over them.
# * The gradient is multiplied once per step: it fades or explodes like a power. Eigenvalues of $W_h$ and
#   saturated units decide which.
# * A wrong gradient may still lower the loss. Check it.
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
