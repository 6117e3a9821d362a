# %% [markdown]
# # 2b · Ten ways a check lies
#
# **The question.** A gradient check says "right". Under which conditions does it say so about wrong code? When does it
# say "wrong" about right code? And how do you test a test?
#
# You derive the best step of a numerical derivative, and measure two ways of saying "too far off". Then ten wrong
# backward passes are approved, each by a check with one weak spot. Last, you break an LSTM's backward in 40 ways.
#
# *Needs [lesson 2](02_gradients_you_can_trust.ipynb). It uses layers of later lessons as examples; one line says what each
# computes. You write NumPy; PyTorch is used once. About 60 minutes; all cells together run in half a minute. No lesson
# needs it.*

# %% tags=["setup"]
import inspect

import matplotlib.pyplot as plt
import numpy as np
import torch

from core import lessons
from core.gradient_check import (
    check,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    relative_error,
)
from core.layers import dropout_forward, softmax, word_embedding_backward
from core.lessons import BLUE, GREY, ORANGE
from core.models import CaptioningRNN
from core.rnn_layers import (
    lstm_step_backward,
    lstm_step_forward,
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
    rnn_step_forward,
)
from core.transformer_layers import (
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
)

lessons.style()

# %% [markdown]
# ## The best step
#
# A computer keeps numbers to a relative precision $u$: $1.1 \cdot 10^{-16}$ in float64, $6 \cdot 10^{-8}$ in float32. Each
# of the two values of $f$ is off by up to $u\,\lvert f \rvert$, so their difference by up to $2\,u\,\lvert f \rvert$.
# Divided by $2\delta$, twice the step, and added to the error from Taylor's theorem, the central difference is off by about
#
# $$ E(\delta) = \underbrace{\tfrac{\delta^2}{6} \lvert f''' \rvert}_{\text{truncation}} +
#    \underbrace{\frac{u\,\lvert f \rvert}{\delta}}_{\text{rounding}} $$
#
# As $\delta$ shrinks, one term falls and the other rises. The best step is where the derivative of $E$ is zero:
#
# $$ \frac{\delta}{3} \lvert f''' \rvert = \frac{u\,\lvert f \rvert}{\delta^2} \;\Rightarrow\;
#    \delta^* = \left( \frac{3\,u\,\lvert f \rvert}{\lvert f''' \rvert} \right)^{1/3} $$
#
# The forward difference $(f(x + \delta) - f(x)) / \delta$ has the error
# $\frac{\delta}{2} \lvert f'' \rvert + 2 u \lvert f \rvert / \delta$. In the same way, its best step is
# $\delta^* = 2 \sqrt{u \lvert f \rvert / \lvert f'' \rvert}$.
#
# **Predict.** Let $f$ and its derivatives be about 1. What are the two best steps in float64? How large is the error
# there?


# %%
def f(x):
    return np.exp(np.sin(x))


def derivatives(x):
    c, s = np.cos(x), np.sin(x)
    return c * f(x), (c**2 - s) * f(x), (c**3 - 3 * c * s - c) * f(x)


differences = {
    "forward": lambda x, h: (f(x + h) - f(x)) / h,
    "central": lambda x, h: (f(x + h) - f(x - h)) / (2 * h),
}

# %% tags=["hide-input"]
points = np.random.default_rng(0).uniform(0.6, 1.2, 200)
value, (d1, d2, d3) = f(points), np.abs(derivatives(points))  # d1 is positive here


def theory(name, h, u):
    """The expected relative error of a difference at each point."""
    if name == "forward":
        return (h / 2 * d2 + 2 * u * value / h) / d1
    return (h**2 / 6 * d3 + u * value / h) / d1


def best_step(name, u):
    if name == "forward":
        return np.median(2 * np.sqrt(u * value / d2))
    return np.median(np.cbrt(3 * u * value / d3))


curves = {}
_, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for ax, dtype, smallest in zip(axes, (np.float64, np.float32), (-14, -6), strict=True):
    u, x = np.finfo(dtype).eps / 2, points.astype(dtype)
    steps = 10.0 ** np.arange(smallest, 0, 0.25)
    exact = derivatives(x.astype(np.float64))[0]
    for (name, difference), colour in zip(differences.items(), (ORANGE, BLUE), strict=True):
        errors = np.array(
            [np.median(np.abs(difference(x, dtype(h)) / exact - 1)) for h in steps]
        )
        expected = [np.median(theory(name, h, u)) for h in steps]
        ax.loglog(steps, errors, "o", markersize=3, color=colour, label=f"{name}, measured")
        ax.loglog(steps, expected, color=colour, label=f"{name}, theory")
        ax.axvline(best_step(name, u), color=colour, linestyle=":")
        curves[dtype.__name__, name] = steps, errors, best_step(name, u)
    ax.set(xlabel="step δ", title=dtype.__name__)
axes[0].set(ylabel="relative error", ylim=(1e-12, 10))
axes[1].legend(loc="lower left")
plt.show()

for (precision, name), (steps, errors, step) in curves.items():
    found = steps[errors.argmin()]
    print(f"{precision}, {name}: best step {found:.0e}, in theory {step:.0e};", end=" ")
    print(f"error there {errors.min():.0e}")
    assert step / 6 < found < step * 6
for name, slope in (("forward", 1), ("central", 2)):
    steps, errors, _ = curves["float64", name]
    coarse = (steps > 1e-4) & (steps < 1e-1)
    fit = np.polyfit(np.log(steps[coarse]), np.log(errors[coarse]), 1)
    assert abs(fit[0] - slope) < 0.2
assert curves["float64", "central"][1].min() < 1e-9 < curves["float64", "forward"][1].min()
assert curves["float32", "central"][1].min() > 1e-6

# %% [markdown]
# <details><summary>Answer</summary>
#
# $\delta^* = (3 \cdot 1.1 \cdot 10^{-16})^{1/3} = 7 \cdot 10^{-6}$ for the central difference, with an error near $10^{-11}$.
# For the forward difference, $2 \cdot 10^{-8}$ with an error near $10^{-8}$. It is never as good, at any step.
#
# </details>
#
# Each curve is two straight lines that meet. On the right, truncation has slope 1 or 2. On the left, rounding has slope
# $-1$. The theory assumes the worst rounding, so most measured points lie a little below.
#
# ### A step without rounding
#
# Rounding hurts because two nearly equal numbers are subtracted. There is a way without subtraction: step in the
# *imaginary* direction (Squire and Trapp 1998). With $(i\delta)^2 = -\delta^2$, Taylor's series gives
#
# $$ f(x + i\delta) = f(x) + i\delta f'(x) - \tfrac{\delta^2}{2} f''(x) - \dots \;\Rightarrow\;
#    \frac{\mathrm{Im}\, f(x + i\delta)}{\delta} = f'(x) - \tfrac{\delta^2}{6} f'''(x) + \dots $$

# %%
for h in (1e-2, 1e-5, 1e-8, 1e-20):
    error = np.max(np.abs(f(points + 1j * h).imag / h / derivatives(points)[0] - 1))
    print(f"step {h:.0e}: error {'less than 1e-14' if error < 1e-14 else f'{error:.0e}'}")
slope = np.abs(2 + 1e-20j).imag / 1e-20
print(f"the slope of the absolute value at 2, in the same way: {slope:.0f}")
assert error < 1e-14 and slope == 0

# %% [markdown]
# The last line is wrong: the slope is 1. The method holds for *analytic* functions only, those built from sums,
# products, `exp`, `tanh` and the like. An absolute value breaks it silently. So we keep central differences, which
# need nothing but a forward pass.
#
# ### All parameters at once
#
# Differences cost two forward passes per number. For a large model there is a cheaper test. Move *all* parameters
# $\theta_i$ along one random direction $r$. By the chain rule the loss grows by $\sum_i r_i\, d\theta_i$ times the step.
# That takes two forward passes in all.

# %% tags=["hide-input"]
words = ("<NULL>", "<START>", "<END>", "<UNK>", "a", "red", "circle")
model = CaptioningRNN(
    {word: i for i, word in enumerate(words)}, input_dim=20, wordvec_dim=6, hidden_dim=10,
    cell_type="lstm", dtype=np.float64, rng=np.random.default_rng(0),
)  # fmt: skip


def batch(seed):
    """Random features and captions."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 20)), rng.integers(1, len(words), size=(4, 13))


# %%
_, gradients = model.loss(*batch(0))
rng, start = np.random.default_rng(0), dict(model.params)
r = {name: rng.standard_normal(value.shape) for name, value in start.items()}
losses = []
for step in (1e-6, -1e-6):
    model.params.update({name: value + step * r[name] for name, value in start.items()})
    losses.append(model.loss(*batch(0))[0])
model.params.update(start)

growth = (losses[0] - losses[1]) / 2e-6
predicted = sum(np.vdot(r[name], gradients[name]) for name in r)
print(
    f"{sum(v.size for v in r.values())} parameters: {growth:.5f}, predicted {predicted:.5f}"
)
assert abs(growth - predicted) < 1e-5 * abs(predicted)

# %% [markdown]
# This says *that* something is wrong, not where. And a mistake in a few of many entries hardly shows.
#
# ## Two measures of "too far off"
#
# Many courses use the **element-wise** relative error, and take the largest of all entries:
# $\max_i \lvert a_i - b_i \rvert / (\lvert a_i \rvert + \lvert b_i \rvert)$. It looks stricter than the norm-relative
# error, because each single entry has to be right. **Predict**: which of the two is larger for code that *is* right?
# Here they are for 240 weights of an LSTM captioner, with a step of $10^{-6}$.


# %%
def elementwise_error(a, b):
    return np.max(np.abs(a - b) / np.maximum(1e-8, np.abs(a) + np.abs(b)))


loss, gradients = model.loss(*batch(1))
right = gradients["Wx"]
loss_of = lambda _: model.loss(*batch(1))[0]  # noqa: E731
numerical = eval_numerical_gradient(loss_of, model.params["Wx"], h=1e-6)
of_right_code = elementwise_error(right, numerical), relative_error(right, numerical)
print("element-wise {:.0e}, norm-relative {:.0e}".format(*of_right_code))

# %% tags=["hide-input"]
size, off = np.abs(right).ravel(), np.abs(right - numerical).ravel()
plt.loglog(size, off / (2 * size), ".", color=BLUE, label="each entry")
ends = np.array([size.min(), size.max()])
plt.loglog(
    ends, np.median(off) / (2 * ends), color=GREY, label="one absolute error for all"
)
plt.axhline(of_right_code[1], color=ORANGE, label="norm-relative error")
plt.gca().set(xlabel="size of the gradient's entry", ylabel="element-wise relative error")
plt.legend()
plt.show()
print(f"loss {loss:.0f}; absolute error of an entry, in the median: {np.median(off):.0e}")
assert 1500 < of_right_code[0] / of_right_code[1] < 3000 and of_right_code[1] < 1e-6
assert np.median(off) < 1.1e-16 * loss / 1e-6

# %% [markdown]
# <details><summary>Answer</summary>
#
# The element-wise error is two thousand times larger. Every entry is off by about the same *absolute* amount, the rounding
# of the loss: at most $u\,\lvert f \rvert / \delta = 2.5 \cdot 10^{-9}$ for most entries. A small entry next to that looks
# terrible. So the element-wise error says how small the smallest entry is, and nothing about the code.
#
# </details>
#
# Anyone who uses it must raise the limit until right code passes; $10^{-2}$ is common. Then wrong code passes as well.
# Here is an RNN step whose backward forgets the derivative of tanh, checked with small weights:


# %%
def slip(function, right, wrong):
    """A copy of a function of core in which one piece of the source is another."""
    source = inspect.getsource(function)
    assert source.count(right) == 1
    namespace = dict(vars(inspect.getmodule(function)))
    exec(source.replace(right, wrong), namespace)
    return namespace[function.__name__]


no_derivative = slip(rnn_step_backward, "da = dnext_h * (1 - next_h**2)", "da = dnext_h")

# %% tags=["hide-input"]
shapes = (4, 3), (4, 5), (3, 5), (5, 5), (4, 5)
rng = np.random.default_rng(0)
x, prev_h, Wx, Wh, dnext_h = (rng.standard_normal(shape) for shape in shapes)
inputs = x, prev_h, 0.002 * Wx, 0.002 * Wh, np.zeros(5)
got = no_derivative(dnext_h, rnn_step_forward(*inputs)[1])[2]
numerical = eval_numerical_gradient_array(
    lambda _: rnn_step_forward(*inputs)[0], inputs[2], dnext_h
)
of_wrong_code = elementwise_error(got, numerical), relative_error(got, numerical)
for name, errors in (("right code", of_right_code), ("wrong code", of_wrong_code)):
    print(f"{name}: element-wise {errors[0]:.0e}, norm-relative {errors[1]:.0e}")
assert 200 < of_wrong_code[1] / of_right_code[1] < 400
assert of_wrong_code[0] < of_right_code[0] and of_right_code[1] < 1e-6 < of_wrong_code[1]

# %% [markdown]
# Element by element, the wrong code looks *better* than the right code, and no limit can tell them apart. By the norm
# they are a factor of 300 apart, with the limit of $10^{-6}$ between them.
#
# What does the norm not see? If one of $n$ similar entries is wrong altogether, the error is about $1/\sqrt{n}$: a
# thousandth for a million entries, far above the limit. Only an entry that is a million times smaller than the whole
# array could hide.
#
# ## False alarms
#
# Right code can fail, too, in three ways.
#
# **A kink.** $\max(0, x)$ has no derivative at 0. Closer to it than $\delta = 10^{-5}$, differences see both sides.
# **Predict** what they say at $x = 3 \cdot 10^{-6}$.

# %%
near = np.array([3e-6])
slope = eval_numerical_gradient(lambda x: np.maximum(0, x).sum(), near)[0]
print(f"max(0, x) at 3e-6: the slope is 1, differences say {slope:.2f}")
assert abs(slope - (3e-6 + 1e-5) / 2e-5) < 1e-6

# %% [markdown]
# (By hand: $(1.3 \cdot 10^{-5} - 0) / (2 \cdot 10^{-5}) = 0.65$.)
#
# **Dice.** Dropout sets each number to 0 with probability 1/2, and doubles the others. It draws anew at each call, so
# $f(x + \delta) - f(x - \delta)$ is not small. Let it draw the same each time.

# %%
X = np.random.default_rng(1).standard_normal((4, 3))
dice = np.random.default_rng(0)
anew = lambda x: dropout_forward(x, 0.5, dice)[0].sum()  # noqa: E731
same = lambda x: dropout_forward(x, 0.5, np.random.default_rng(0))[0].sum()  # noqa: E731
rolled, fixed = eval_numerical_gradient(anew, X), eval_numerical_gradient(same, X)
print(
    f"largest entry: {np.abs(rolled).max():.0e} drawn anew, {fixed.max():.0f} with one mask"
)
assert np.abs(rolled).max() > 1e3 and np.isclose(fixed.max(), 2)

# %% [markdown]
# **Single precision.** In float32 a step of $10^{-5}$ is mostly lost to rounding. `eval_numerical_gradient` refuses it,
# and says which step would do:

# %%
try:
    eval_numerical_gradient(lambda x: np.tanh(x).sum(), X.astype(np.float32))
except ValueError as refusal:
    print(refusal)
else:
    raise AssertionError("it was accepted")

# %% [markdown]
# ## Ten ways to be approved
#
# Now the dangerous side. Each of the following backwards is **wrong**, and each passes a check that looks sound. The
# folded cell has the check: differences, float64, the norm-relative error. `both_checks` shows a bad one and a good one.


# %% tags=["hide-input"]
def worst_error(forward, backward, inputs, *upstream):
    """The largest norm-relative error of a backward's gradients, by central differences."""
    *_, cache = forward(*inputs)
    gradients = backward(*(dout.copy() for dout in upstream), cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)

    def objective(_):
        *outputs, _ = forward(*inputs)
        return sum(np.sum(out * dout) for out, dout in zip(outputs, upstream, strict=True))

    floor = 1e-3 * max(np.linalg.norm(dout) for dout in upstream)
    numerical = [eval_numerical_gradient(objective, value) for value in inputs]
    pairs = zip(gradients, numerical, strict=True)
    return max(relative_error(got, expected, floor) for got, expected in pairs)


verdicts = {}  # for each mistake the error under a bad check, and under a good one


def both_checks(mistake, bad, good):
    """bad and good: what is checked with, and the error that was found."""
    verdicts[mistake] = bad[1], good[1]
    for name, error in (bad, good):
        said = "approved, error below 1e-6" if error < 1e-6 else f"WRONG, error {error:.2f}"
        print(f"{name:<28}{said}")
    assert bad[1] < 1e-6 and good[1] > 1e-2


randn = np.random.default_rng(0).standard_normal

# %% [markdown]
# **1. Ones upstream.** The weights of a softmax always sum to 1, so with an upstream of ones the gradient is 0. A
# backward that returns zeros is approved.


# %%
def softmax_forward(s):
    weights = softmax(s)
    return weights, weights


zeros = lambda dweights, weights: np.zeros_like(weights)  # noqa: E731
s = randn((4, 5))
with_ones = worst_error(softmax_forward, zeros, (s,), np.ones((4, 5)))
with_random = worst_error(softmax_forward, zeros, (s,), randn((4, 5)))
both_checks("ones upstream", ("ones", with_ones), ("random", with_random))

# %% [markdown]
# **2. One key.** Attention reads values with weights $\mathrm{softmax}(q\,k^T / \sqrt{d})$, one per key
# ([lesson 9](09_multi_head_attention.ipynb)). With one key the weight is 1, and nothing flows back through the softmax.
# Any factor may be missing from 0; here it is $1/\sqrt{d}$.

# %%
no_scale = slip(scaled_dot_product_attention_backward, " * q.shape[-1] ** -0.5", "")


def attention_error(backward, keys, queries=3, d=4):
    shapes = ((2, 1, rows, d) for rows in (queries, keys, keys, queries))
    q, k, v, dout = map(randn, shapes)
    return worst_error(scaled_dot_product_attention_forward, backward, (q, k, v), dout)


one, three = attention_error(no_scale, keys=1), attention_error(no_scale, keys=3)
both_checks("one key", ("one key", one), ("three keys", three))

# %% [markdown]
# **3. Equal sizes.** The scale again, now with the number of queries in the place of the width. If both are 4, there is
# nothing to see. Different sizes cost nothing.

# %%
wrong_axis = slip(scaled_dot_product_attention_backward, "q.shape[-1]", "q.shape[-2]")
four = attention_error(wrong_axis, keys=5, queries=4)
three = attention_error(wrong_axis, keys=5, queries=3)
both_checks("equal sizes", ("4 queries, width 4", four), ("3 queries, width 4", three))

# %% [markdown]
# **4. A matrix that is its own transpose.** An RNN step needs $dh_{\text{prev}} = da\,W_h^T$. Without the transpose the
# shapes fit, since $W_h$ is square. And an identity, or any symmetric matrix, hides it.

# %%
no_transpose = slip(rnn_step_backward, "dprev_h = da @ Wh.T", "dprev_h = da @ Wh")


def rnn_step_error(backward, Wh, N=4, D=3, H=5):
    inputs = randn((N, D)), randn((N, H)), 0.5 * randn((D, H)), Wh, randn(H)
    return worst_error(rnn_step_forward, backward, inputs, randn((N, H)))


random_Wh = 0.5 * randn((5, 5))
identity = rnn_step_error(no_transpose, np.eye(5))
drawn = rnn_step_error(no_transpose, random_Wh)
both_checks("symmetric weights", ("identity", identity), ("random", drawn))

# %% [markdown]
# **5. A batch of one.** All rows share the bias, so its gradient is a sum over rows. Here the sum is left out.

# %%
one_row = slip(rnn_step_backward, "db = da.sum(axis=0)", "db = da[0]")
one, four = (rnn_step_error(one_row, random_Wh, N=N) for N in (1, 4))
both_checks("a batch of one", ("one row", one), ("four rows", four))

# %% [markdown]
# **6. The same weights for all.** An LSTM step ([lesson 6](06_the_lstm.ipynb)) cuts one sum of products into four
# blocks, the gates. This backward confuses two blocks on the way to $x$. If a test tiles one array for all four, nothing
# is confused.

# %%
mixed = "dx = np.concatenate([da_f, da_i, da_o, da_g], axis=1) @ Wx.T"
swapped = slip(lstm_step_backward, "dx = da @ Wx.T", mixed)


def lstm_step_error(backward, Wx, state=1, N=3, D=4, H=5):
    states = state * randn((N, H)), state * randn((N, H))
    inputs = randn((N, D)), *states, Wx, 0.5 * randn((H, 4 * H)), randn(4 * H)
    return worst_error(lstm_step_forward, backward, inputs, randn((N, H)), randn((N, H)))


random_Wx, equal = 0.5 * randn((4, 20)), np.tile(0.5 * randn((4, 5)), 4)
same, different = (lstm_step_error(swapped, Wx) for Wx in (equal, random_Wx))
both_checks("equal weights", ("four equal blocks", same), ("different blocks", different))

# %% [markdown]
# **7. The first step only.** A recurrent layer starts from states of zeros. If a test does so too, everything that is
# multiplied by a state is 0. This backward has lost the gradient of the forget gate, which multiplies the old state.

# %%
right = "df, dprev_c = dc * prev_c, dc * f"
no_forget = slip(lstm_step_backward, right, "df, dprev_c = 0 * prev_c, dc * f")
zero, drawn = (lstm_step_error(no_forget, random_Wx, state=state) for state in (0, 1))
both_checks("states of zeros", ("states of zeros", zero), ("random states", drawn))

# %% [markdown]
# **8. No word twice.** A look-up reads row $k$ of a table at each use of word $k$, so the gradients of all uses add up.
# `dW[ids] += dout` looks like a sum, but the last write wins ([lesson 3](03_affine_embedding_softmax.ipynb)).


# %%
def lossy_backward(dout, cache):
    ids, W = cache
    dW = np.zeros_like(W)
    dW[ids] += dout
    return dW


def embedding_error(backward, ids):
    forward = lambda W: (W[np.array(ids)], (np.array(ids), W))  # noqa: E731
    return worst_error(forward, backward, (randn((7, 3)),), randn((2, 3, 3)))


once = embedding_error(lossy_backward, [[0, 3, 1], [4, 2, 5]])
twice = embedding_error(lossy_backward, [[0, 3, 0], [4, 2, 4]])
both_checks("no word twice", ("each word once", once), ("words repeat", twice))

# %% [markdown]
# **9. Damage.** In an RNN's backward, each step adds what flows back from the next step
# ([lesson 5](05_the_vanilla_rnn.ipynb)). But `dh[:, t]` is a *view*: `dh[:, t] += ...` writes into the caller's array. The
# gradients that come back are right, so a check that calls once approves. The second call gets a spoilt `dh`.

# %%
into_dh = "np.add(dh[:, t], dprev_h, out=dh[:, t])"  # dh[:, t] += dprev_h, as an expression
writing_backward = slip(rnn_backward, "dh[:, t] + dprev_h", into_dh)
inputs = randn((3, 6, 2)), randn((3, 4)), 0.7 * randn((2, 4)), 0.7 * randn((4, 4)), randn(4)
dh = randn((3, 6, 4))
_, cache = rnn_forward(*inputs)
given = dh.copy()
calls = [writing_backward(given, cache) for _ in range(2)]
one_call = worst_error(rnn_forward, writing_backward, inputs, dh)
both_checks(
    "damage", ("one call", one_call), ("two calls", max(map(relative_error, *calls[::-1])))
)
assert not np.array_equal(given, dh)

# %% [markdown]
# A good check keeps copies of all that it hands out, and compares afterwards. `check` does:

# %%
report = check("rnn_backward", writing_backward)
assert not report
report

# %% [markdown]
# **10. A forward that is wrong in the same way.** Differences ask whether the backward belongs to *your* forward. They
# cannot know what the forward should be. Leave the scale of attention out of both:

# %%
no_scale_forward = slip(scaled_dot_product_attention_forward, " * q.shape[-1] ** -0.5", "")
*arrays, dout = (randn((2, 1, rows, 4)) for rows in (3, 5, 5, 3))  # q, k, v
own = worst_error(no_scale_forward, no_scale, arrays, dout)
attention = torch.nn.functional.scaled_dot_product_attention
expected = attention(*map(torch.from_numpy, arrays)).numpy()
theirs = relative_error(no_scale_forward(*arrays)[0], expected)
both_checks("its own forward", ("differences", own), ("PyTorch's attention", theirs))

# %% tags=["hide-input"]
places = np.arange(len(verdicts))
bad, good = np.maximum(list(verdicts.values()), 1e-12).T
_, ax = plt.subplots(figsize=(9, 4.2))
ax.hlines(places, bad, good, color=GREY, linewidth=1)
ax.plot(bad, places, "o", color=ORANGE, label="the bad check")
ax.plot(good, places, "o", color=BLUE, label="the good check")
ax.axvline(1e-6, color="black", linestyle=":", label="limit")
ax.set_yticks(places, [f"{i}. {name}" for i, name in enumerate(verdicts, 1)], fontsize=11)
ax.set(xscale="log", xlabel="error that the check finds", xlim=(3e-13, 10))
ax.invert_yaxis()  # number 1 on top
ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
plt.show()
assert len(verdicts) == 10
assert embedding_error(word_embedding_backward, [[0, 3, 0], [4, 2, 4]]) < 1e-8

# %% [markdown]
# It takes little to see each of them: a random array instead of a simple one, a second row, a word that repeats, a copy.
# The tenth alone takes more: someone who did not use your forward.
#
# ## Who checks the check?
#
# A check that never fails is worth nothing, and a row of "ok" does not tell. So turn it round. Take a backward that is
# right, break it on purpose in every place, and count how many broken ones each check approves. This is **mutation
# testing** (DeMillo, Lipton and Sayward 1978). We break the LSTM step's backward, one sign, factor, transpose or square
# at a time.

# %% tags=["hide-input"]
CHANGES = [(" + ", " - "), (" - ", " + "), (" * ", " + "), (" * ", " / ")]
CHANGES += [(".T", ""), ("**2", "")]


def mutants(function):
    """(the changed line, the changed function) for each single change of its code."""
    head, documentation, body = inspect.getsource(function).split('"""')
    lines = body.split("\n")
    for number, line in enumerate(lines):
        places = [
            (i, old, new)
            for old, new in CHANGES
            for i in range(len(line))
            if line.startswith(old, i) and not line.lstrip().startswith("#")
        ]
        for i, old, new in places:
            changed = line[:i] + new + line[i + len(old) :]
            code = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
            namespace = dict(vars(inspect.getmodule(function)))
            exec('"""'.join([head, documentation, code]), namespace)
            yield changed.strip(), namespace[function.__name__]


broken = list(mutants(lstm_step_backward))
print(len(broken), "broken versions, for instance:")
for line, _ in broken[::14]:
    print("   ", line)

# %% [markdown]
# Five judges look at them. The first looks at the shapes alone. The second trains with the gradient, and believes it
# if the loss falls by half in 100 steps. The other three use differences: a careless check, one that starts from zero
# states, and one with everything random. **Predict** how many of the 40 the second judge approves.


# %% tags=["hide-input"]
def loss_falls(backward, steps=100):
    """Gradient descent on one LSTM step, learning rate 1: does the loss fall by half?"""
    rng = np.random.default_rng(3)
    shapes = (8, 4), (8, 5), (8, 5), (4, 20), (5, 20), (20,)
    *given, Wx, Wh, b = (0.5 * rng.standard_normal(shape) for shape in shapes)
    target, losses = np.tanh(rng.standard_normal((8, 5))), []
    for _ in range(steps):
        next_h, next_c, cache = lstm_step_forward(*given, Wx, Wh, b)
        losses.append(np.mean((next_h - target) ** 2))
        *_, dWx, dWh, db = backward((next_h - target) / 8, np.zeros_like(next_c), cache)
        Wx, Wh, b = Wx - dWx, Wh - dWh, b - db
    return losses[-1] < 0.5 * losses[0]


def difference_judge(N, D, H, state, ones, compares=True):
    """A judge that holds a backward to central differences, or to shapes alone."""
    rng = np.random.default_rng(4)
    shapes = (N, D), (N, H), (N, H), (D, 4 * H), (H, 4 * H), (4 * H,)
    inputs = [0.5 * rng.standard_normal(shape) for shape in shapes]
    inputs[1:3] = state * inputs[1], state * inputs[2]
    upstream = [np.ones((N, H)) if ones else rng.standard_normal((N, H)) for _ in range(2)]

    def objective(_):
        *outputs, _ = lstm_step_forward(*inputs)
        return sum(np.sum(out * dout) for out, dout in zip(outputs, upstream, strict=True))

    numerical = [eval_numerical_gradient(objective, value) for value in inputs]
    floor = 1e-3 * np.linalg.norm(upstream)

    def judge(backward):
        got = backward(*(dout.copy() for dout in upstream), lstm_step_forward(*inputs)[-1])
        if any(a.shape != b.shape for a, b in zip(got, numerical, strict=True)):
            return False
        pairs = zip(got, numerical, strict=True)
        return not compares or all(relative_error(a, b, floor) < 1e-6 for a, b in pairs)

    return judge


judges = {
    "the shapes fit": difference_judge(4, 4, 4, state=1, ones=False, compares=False),
    "the loss falls by half": loss_falls,
    "ones, sizes 1, zero states": difference_judge(1, 1, 1, 0, ones=True),
    "zero states": difference_judge(3, 4, 5, 0, ones=False),
    "all random": difference_judge(3, 4, 5, 1, ones=False),
}


def approves(judge, backward):
    try:
        with np.errstate(all="ignore"):
            return bool(judge(backward))
    except ValueError:  # shapes that do not fit
        return False


approved = {
    name: sum(approves(judge, backward) for _, backward in broken)
    for name, judge in judges.items()
}
assert all(approves(judge, lstm_step_backward) for judge in judges.values())

figure, ax = plt.subplots(figsize=(9, 2.8))
ax.barh(list(approved), list(approved.values()), color=ORANGE)
for place, count in enumerate(approved.values()):
    ax.text(count + 0.4, place, count, va="center")
ax.set(xlabel=f"wrong backward passes approved, of {len(broken)}", xlim=(0, len(broken)))
ax.invert_yaxis()  # the first judge on top
ax.grid(axis="y", visible=False)
plt.show()
assert len(broken) == 40 and approved["the loss falls by half"] == 19
assert approved["zero states"] == 3 and approved["all random"] == 0

rng = np.random.default_rng(5)
shapes = (3, 4), (3, 5), (3, 5), (4, 20), (5, 20), (20,)
cache = lstm_step_forward(*(rng.standard_normal(shape) for shape in shapes))[-1]
upstream = rng.standard_normal((2, 3, 5))
weights_of = lambda backward: backward(*upstream.copy(), cache)[3:]  # noqa: E731
unused = [
    all(map(np.array_equal, weights_of(backward), weights_of(lstm_step_backward)))
    for _, backward in broken
    if approves(loss_falls, backward)
]
assert sum(unused) == 2  # right in all that this training uses

print("approved with zero states:")
for line, backward in broken:
    if approves(judges["zero states"], backward):
        print("   ", line)

# %% [markdown]
# <details><summary>Answer</summary>
#
# 19 of 40. Two of these are wrong only in a gradient that this training never uses; the other 17 move the weights by
# wrong gradients. *It trains* is next to no evidence.
#
# </details>
#
# Zero states let three through, all in the forget gate, which a state of zeros switches off. With everything random,
# none passes. All five judges approve the right backward. The tests of this project break every gradient of every
# layer in several ways, and demand that the check fails each time.
#
# ## What you have now
#
# * A smaller step is not a better step: near $10^{-5}$ the two errors of a central difference balance.
# * Element-wise errors measure the smallest entry. The norm measures the code.
# * Ten ways in which a check is blind, and one remedy for eight of them: everything random, different, more than once.
#
# **Sources.** W. Squire and G. Trapp, *Using complex variables to estimate derivatives of real functions*, SIAM Review
# 40 (1998). N. Higham, *Accuracy and stability of numerical algorithms*, 2nd edition, SIAM 2002. R. DeMillo, R. Lipton
# and F. Sayward, *Hints on test data selection: help for the practicing programmer*, Computer 11 (1978).
