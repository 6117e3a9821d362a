# %% [markdown]
# # 4b · Clipping, decay and schedules
#
# **The question.** [Lesson 4](04_update_rules.ipynb) built four update rules. What else does a real training need, and
# which small details make two programs with the same rule behave differently?
#
# You derive what momentum gains, build AdamW, clipping and schedules for the learning rate, and compare five rules
# fairly.
#
# *This goes deeper than lesson 4, and no lesson needs it. Its parts do not depend on each other. About 75 minutes; all
# cells together run in half a minute.*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np
import torch

from core import lessons
from core.captioning_solver import CaptioningSolver, NumpyEngine, Schedule
from core.lessons import BLUE, GREY, ORANGE, Sketch, show_source
from core.models import CaptioningRNN
from core.optim import adam, adamw, clip_factor, clip_gradient_norm

lessons.style()


# %% tags=["hide-input"]
def lengths_of_steps(rule, steps, gradient=1.0):
    """In learning rates, for a gradient that stays the same."""
    w, config, lengths = np.zeros(1), {"learning_rate": 1.0}, []
    for _ in range(steps):
        after, config = rule(w, np.full(1, gradient), config)
        lengths.append(float((w - after)[0]))
        w = after
    return np.array(lengths)


def largest_difference(rule, torch_rule, scale, **numbers):
    """Between our parameters and PyTorch's, over 100 steps, relative to the way gone."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 5))
    w, config = start, {"learning_rate": 0.01, **numbers}
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch_rule([parameter])
    largest = 0.0
    for step in range(100):
        if step == 50:
            config["learning_rate"] = optimizer.param_groups[0]["lr"] = 0.003
        gradient = (
            scale * rng.standard_normal(w.shape) * 10.0 ** rng.integers(-4, 3, w.shape)
        )
        w, config = rule(w, gradient, config)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        theirs = parameter.detach().numpy()
        way = max(np.linalg.norm(theirs - start), np.linalg.norm(start) * 1e-3)
        largest = max(largest, np.linalg.norm(w - theirs) / way)
    return largest


def equals_torch(rule, torch_rule, **numbers):
    worst = max(
        largest_difference(rule, torch_rule, scale, **numbers) for scale in (1, 1e-10)
    )
    said = "less than 1e-12" if worst < 1e-12 else f"up to {100 * worst:.0f} %"
    print(f"{rule.__name__}: {said} off PyTorch's way, over 100 steps")
    return worst < 1e-12


# %% [markdown]
# ## What momentum gains
#
# Lesson 4 says without proof: momentum puts $\sqrt\kappa$ in place of $\kappa$. Here is why. (You need complex roots of a
# quadratic equation.)
#
# Take one weight with the loss $\tfrac12 \lambda w^2$. By which factor per step does momentum shrink it, in the long
# run? The factor depends only on $\mu$ and $\eta\lambda$. The figure shows its size for three values of $\mu$.
#
# *Predict.* With $\mu = 0$ this is gradient descent. At which $\eta\lambda$ does that curve touch 0, and where does it
# cross 1?

# %% tags=["hide-input"]
curvatures = np.geomspace(0.001, 5, 400)  # eta times lambda
for mu, colour in ((0.0, GREY), (4 / 9, BLUE), (0.9, ORANGE)):
    sizes = [np.abs(np.roots([1, -(1 + mu - el), mu])).max() for el in curvatures]
    name = f"$\\mu$ = {mu:.2g}, $\\sqrt{{\\mu}}$ = {mu**0.5:.2f}"
    plt.semilogx(curvatures, sizes, color=colour, label=name)
    band = ((1 - mu**0.5) ** 2 < curvatures) & (curvatures < (1 + mu**0.5) ** 2)
    assert np.allclose(np.array(sizes)[band], mu**0.5)
    for el, explodes in ((1.999 * (1 + mu), False), (2.001 * (1 + mu), True)):
        assert (np.abs(np.roots([1, -(1 + mu - el), mu])).max() > 1) == explodes
plt.axhline(1, color="black", linewidth=0.8)
plt.gca().set(
    xlabel="learning rate times curvature", ylabel="factor per step", ylim=(0, 1.3)
)
plt.gca().set_title("One weight with momentum: below 1 it shrinks, above 1 it explodes")
plt.legend(loc="lower left")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# The factor is $1 - \eta\lambda$. It is 0 at $\eta\lambda = 1$, and its size crosses 1 at $\eta\lambda = 2$.
# </details>
#
# With momentum the curves have a flat part. There **the factor is $\sqrt\mu$, whatever the curvature is**. The flat part
# is where
#
# $$ (1 - \sqrt\mu)^2 < \eta\lambda < (1 + \sqrt\mu)^2 $$
#
# ### Why there is a flat part
#
# The gradient is $g = \lambda w$. The last step was $w_t - w_{t-1} = -\eta\, u_t$. So the next one can be written
# without the velocity:
#
# $$ w_{t+1} = w_t - \eta\left(\mu\, u_t + \lambda w_t\right) = w_t + \mu\,(w_t - w_{t-1}) - \eta\lambda\, w_t $$
#
# We look for a path with the same factor $r$ in each step. Put in $w_t = r^t$ and divide by $r^{t-1}$:
#
# $$ r^2 - (1 + \mu - \eta\lambda)\, r + \mu = 0 $$
#
# This has two roots. A path mixes both, and in the long run the larger counts.
#
# The product of the roots is $\mu$. Where they are complex, $w$ swings around 0, and the roots have the same size: so
# each has the size $\sqrt\mu$. They are complex where $(1 + \mu - \eta\lambda)^2 < 4\mu$, that is,
# $-2\sqrt\mu < 1 + \mu - \eta\lambda < 2\sqrt\mu$. Since $1 + \mu \pm 2\sqrt\mu = (1 \pm \sqrt\mu)^2$, this is the
# flat part.
#
# To the right of it the roots are negative. The weight explodes where one of them passes −1. Put $r = -1$ into the
# equation, and $\eta\lambda = 2(1 + \mu)$ remains.
#
# ### The best pair
#
# Let the curvatures of a valley be from $\lambda_1$ to $\lambda_2 = \kappa \lambda_1$. A small $\mu$ gives a small factor,
# but a narrow flat part. So choose $\eta$ and $\mu$ such that all curvatures just fit into it. The right end of the flat
# part, divided by the left end, must be $\lambda_2 / \lambda_1 = \kappa$:
#
# $$ \left(\frac{1 + \sqrt\mu}{1 - \sqrt\mu}\right)^2 = \kappa $$
#
# Take the root and solve for $\sqrt\mu$. The right end belongs to $\lambda_2$: $\eta\lambda_2 = (1 + \sqrt\mu)^2$. So
#
# $$ \sqrt\mu = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}, \qquad \eta = \frac{(1 + \sqrt\mu)^2}{\lambda_2} $$
#
# No other pair does better. We try 30,000 pairs in the valley of lesson 4 ($\lambda_1 = 1$, $\lambda_2 = 25$):


# %%
def factor(rate, mu, curvature):
    """The larger of the two roots, in size."""
    half = (1 + mu - rate * curvature) / 2
    root = np.sqrt(half**2 - mu + 0j)
    return np.maximum(np.abs(half + root), np.abs(half - root))


rates, mus = np.meshgrid(np.linspace(0.001, 0.2, 200), np.linspace(0, 0.99, 150))
factors = np.maximum(factor(rates, mus, 1), factor(rates, mus, 25))
best = np.unravel_index(factors.argmin(), factors.shape)
print(f"best of all: {factors[best]:.3f}, at rate {rates[best]:.3f}, mu {mus[best]:.2f}")

# %% tags=["hide-input"]
promised = factor(100 / 36 / 25, (4 / 6) ** 2, np.array([1, 25]))
print(f"the formulas: {4 / 6:.3f}, at rate {100 / 36 / 25:.3f}, mu {(4 / 6) ** 2:.2f}")
assert np.allclose(promised, 4 / 6, atol=1e-6)
assert 4 / 6 - 1e-9 < factors[best] < 0.68 and factors.size == 30_000
assert abs(rates[best] - 0.111) < 0.003 and abs(mus[best] - 0.444) < 0.02

# %% [markdown]
# ## Two momentums
#
# Momentum can be written with the learning rate outside of the velocity, as in lesson 4, or inside:
#
# $$ u \leftarrow \mu u + g, \quad w \leftarrow w - \eta u \qquad\text{or}\qquad
#    u \leftarrow \mu u - \eta g, \quad w \leftarrow w + u $$
#
# With a constant rate both take the same steps. *Predict:* what happens when the rate is cut to a tenth?

# %%
outside, inside, lengths = 0.0, 0.0, []
for step in range(60):
    rate = 0.1 if step < 50 else 0.01
    outside = 0.9 * outside + 1  # the gradient is 1 all the time
    inside = 0.9 * inside + rate
    lengths.append((rate * outside, inside))
for step in (49, 50, 51, 55):
    print(
        f"step {step}: rate outside {lengths[step][0]:.3f}, inside {lengths[step][1]:.3f}"
    )
assert np.isclose(*lengths[49]) and lengths[50][1] > 8 * lengths[50][0]

# %% [markdown]
# <details><summary>Answer</summary>
#
# Outside, the next step is a tenth as long at once. Inside, the old velocity rolls on with the old rate.
# </details>
#
# Neither is wrong. But a schedule that was tuned with one library does something else in another.
#
# ## The tempting wrong way: leave the correction out
#
# Adam's two means begin at 0, and Adam corrects them: $\hat m = m / (1 - \beta_1^t)$ and
# $\hat v = v / (1 - \beta_2^t)$. Without the correction, the first step is $0.1 / \sqrt{0.001} = 3.16$ times too long.
#
# *Predict.* How long does this last: some tens of steps, as $m$ remembers, or hundreds?


# %% tags=["hide-input"]
def adam_uncorrected(w, dw, config):
    m = config["m"] = 0.9 * config.get("m", 0) + 0.1 * dw
    v = config["v"] = 0.999 * config.get("v", 0) + 0.001 * dw**2
    return w - config["learning_rate"] * m / (np.sqrt(v) + 1e-8), config


rng, config, fair = np.random.default_rng(0), {"learning_rate": 1.0}, {"learning_rate": 1.0}
for t in range(1, 100):  # with gradients that vary, the ratio is the same
    g = rng.standard_normal(5)
    one, config = adam_uncorrected(np.zeros(5), g, config)
    other, fair = adam(np.zeros(5), g, fair)
    assert np.allclose(one / other, (1 - 0.9**t) / np.sqrt(1 - 0.999**t), rtol=1e-4)

steps = np.arange(1, 3001)
uncorrected, corrected = (lengths_of_steps(rule, 3000) for rule in (adam_uncorrected, adam))
plt.semilogx(steps, uncorrected, color=ORANGE, label="without the correction")
plt.semilogx(steps, corrected, color=BLUE, label="Adam")
plt.gca().set(xlabel="step", ylabel="length in learning rates", ylim=(0, 7))
plt.gca().set_title("Steps with a constant gradient")
plt.legend()
plt.show()
print(f"first step: {uncorrected[0]:.2f} rates instead of 1")
print(f"longest: {uncorrected.max():.2f} rates, at step {uncorrected.argmax() + 1}")
print(f"more than 2 rates in the first {np.sum(uncorrected > 2)} steps")
assert np.allclose(uncorrected, (1 - 0.9**steps) / np.sqrt(1 - 0.999**steps))
assert np.all(uncorrected[:287] > 2) and np.all(uncorrected[287:] < 2)
assert np.allclose(corrected, 1) and uncorrected.max() > 6 and uncorrected.argmax() == 11

# %% [markdown]
# <details><summary>Answer</summary>
#
# Hundreds. At first it even becomes worse: step 12 is the longest, 6.57 times too long.
# </details>
#
# Without the correction, every step is multiplied by
#
# $$ \frac{1 - \beta_1^t}{\sqrt{1 - \beta_2^t}} $$
#
# whatever the gradients are. The numerator is near 1 after some tens of steps. The denominator takes thousands. So in
# the first 287 steps the learning rate is in effect more than twice too high.
#
# ## Where epsilon goes
#
# Adam's two bias corrections are single numbers. So one may pull them to the front, and save two divisions of whole
# arrays:
#
# $$ w \leftarrow w - \eta\,\frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\cdot\frac{m}{\sqrt{v} + \epsilon} $$
#
# This looks like the same rule. It is not: $\epsilon$ now meets $\sqrt{v}$ *before* its correction. At the first step,
# $\sqrt v$ is then 0.032 times as large, so $\epsilon$ weighs 32 times as much.
#
# *Predict.* The first gradient is $g = \epsilon = 10^{-8}$. How long is the first step, in rates, with each of the two?


# %%
def adam_epsilon_first(w, dw, config):
    t = config["t"] = config.get("t", 0) + 1
    m = config["m"] = 0.9 * config.get("m", 0) + 0.1 * dw
    v = config["v"] = 0.999 * config.get("v", 0) + 0.001 * dw**2
    rate = config["learning_rate"] * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - rate * m / (np.sqrt(v) + 1e-8), config


ours, early = (lengths_of_steps(rule, 1, 1e-8)[0] for rule in (adam, adam_epsilon_first))
print(f"first step: Adam {ours:.3f} rates, epsilon first {early:.3f}")
assert np.isclose(ours, 1 / 2) and np.isclose(early, 0.001**0.5 / (0.001**0.5 + 1))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Adam's is $g/(g + \epsilon) = \tfrac12$; the other is $0.0316\,g / (0.0316\,g + \epsilon) = 0.031$.
# </details>

# %% tags=["hide-input"]
gradients = np.geomspace(1e-12, 1, 60)
ratios = [
    lengths_of_steps(adam_epsilon_first, 1, g)[0] / lengths_of_steps(adam, 1, g)[0]
    for g in gradients
]
plt.loglog(gradients, ratios)
plt.axvline(1e-8, color=GREY, linestyle="--", label="$\\epsilon$")
plt.gca().set(xlabel="size of the gradient", ylabel="first step, over Adam's")
plt.gca().set_title("Epsilon before the bias correction")
plt.legend(loc="lower right")
plt.show()
assert ratios[-1] > 0.999 and np.isclose(ratios[0], 0.0316, rtol=0.01)
assert equals_torch(adam, lambda w: torch.optim.Adam(w, lr=0.01))
assert not equals_torch(adam_epsilon_first, lambda w: torch.optim.Adam(w, lr=0.01))

# %% [markdown]
# For gradients far above $\epsilon$ nobody notices, and those of our captioners are far above (see below). It matters
# where a loss is a mean over very many places. Kingma and Ba mention this form, with another $\epsilon$, and some
# libraries use it. Ours is their algorithm 1, as in PyTorch.
#
# ## AdamW: decay that is not a gradient
#
# Large weights make a model too certain. **Weight decay** pulls all weights towards 0 a little. With gradient descent
# there are two ways to write it, and they are the same. Add $\tfrac{\delta}{2} w^2$ to the loss, whose gradient is
# $\delta w$, or shrink the weight:
#
# $$ w - \eta\,(g + \delta w) = (1 - \eta\delta)\, w - \eta\, g $$
#
# With Adam they are not the same. If $\delta w$ is part of the gradient, Adam divides it by $\sqrt{\hat v}$, too. Take a
# weight whose gradients are noise around 0 of size $\sigma$, much larger than $\delta w$. Then
# $\sqrt{\hat v} \approx \sigma$, the noise averages out, and the weight loses per step about
#
# $$ \text{in the loss: } \;\eta\,\frac{\delta w}{\sigma}, \qquad
#    \text{beside it: } \; \eta\,\delta w $$
#
# So a weight with large gradients hardly decays. **AdamW** first shrinks $w$ by the factor $1 - \eta\delta$, outside of
# the means. Then it steps as Adam does.

# %%
show_source(adamw)


# %%
def adam_decay_in_loss(w, dw, config):
    return adam(w, dw + config["weight_decay"] * w, config)


assert equals_torch(adamw, lambda w: torch.optim.AdamW(w, lr=0.01))
assert equals_torch(  # what PyTorch's Adam does when it is given a weight_decay
    adam_decay_in_loss,
    lambda w: torch.optim.Adam(w, lr=0.01, weight_decay=0.1),
    weight_decay=0.1,
)

# %% [markdown]
# 300 weights start at 1. Their gradients are noise of size 0.1, 1 or 10. After 2,000 steps with $\eta = 0.001$ and
# $\delta = 0.1$, AdamW leaves $(1 - 0.0001)^{2000} = 0.82$. *Predict:* in which of the three do weights keep the most
# when the decay goes through the loss?

# %% tags=["hide-input"]
rate, decay, steps = 1e-3, 0.1, 2000
left = {}
figure, row = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for axes, (name, rule) in zip(
    row, (("in the loss", adam_decay_in_loss), ("AdamW", adamw)), strict=True
):
    for size, colour in ((0.1, BLUE), (1, GREY), (10, ORANGE)):
        rng = np.random.default_rng(0)
        w, config, means = np.ones(300), {"learning_rate": rate, "weight_decay": decay}, []
        for _ in range(steps):
            w, config = rule(w, size * rng.standard_normal(300), config)
            means.append(w.mean())
        left[name, size] = means[-1]
        axes.plot(means, color=colour, label=f"gradients of size {size}")
    axes.set(
        xlabel="step", title=f"Decay {name}" if name != "AdamW" else "AdamW", ylim=(0, 1.05)
    )
row[0].set_ylabel("mean of 300 weights")
row[0].legend(loc="lower left")
plt.show()

expected = (1 - rate * decay) ** steps
print(f"{'size of the gradients':<24}{'in the loss':>12}{'AdamW':>8}")
for size in (0.1, 1, 10):
    print(f"{size:<24}{left['in the loss', size]:>12.3f}{left['AdamW', size]:>8.3f}")
assert round(expected, 2) == 0.82
assert all(abs(left["AdamW", size] - expected) < 0.02 for size in (0.1, 1, 10))
assert left["in the loss", 10] > 0.95 and left["in the loss", 0.1] < 0.2
assert abs(left["in the loss", 1] - expected) < 0.02

# %% [markdown]
# <details><summary>Answer</summary>
#
# Those with the largest gradients keep 98 %. Those with gradients of size 0.1 keep less than a fifth. At size 1 both
# agree, because there $\sigma = 1$.
# </details>
#
# ## Clipping: one bad gradient
#
# Here is a loss with a cliff. Multiply by the same $w$ and add the same $b$ twenty times in a row, as a recurrent layer
# does in [lesson 5](05_the_vanilla_rnn.ipynb), and ask that the result be 1:
#
# $$ h_0 = 0, \qquad h_t = w\, h_{t-1} + b, \qquad \mathcal{L}(w, b) = \tfrac12\,(h_{20} - 1)^2 $$
#
# $h_{20}$ contains $w^{19}$. That is tiny where $w$ is well below 1, and a wall above it. Going back, each step hands
# on $dh_{t-1} = w\, dh_t$. It leaves $h_{t-1}\, dh_t$ for $w$, and $dh_t$ for $b$.


# %%
def cliff(w, b, T=20):
    """The loss and its gradient (dw, db)."""
    h = [0.0]
    for _ in range(T):
        h.append(w * h[-1] + b)
    dh, gradient = h[-1] - 1, np.zeros(2)
    for before in reversed(h[:-1]):
        gradient += (before * dh, dh)
        dh *= w
    return 0.5 * (h[-1] - 1) ** 2, gradient


# %% tags=["hide-input"]
point, nudge = np.array([1.1, 0.1]), 1e-6
_, gradient = cliff(*point)
numerical = [
    (cliff(*(point + nudge * e))[0] - cliff(*(point - nudge * e))[0]) / (2 * nudge)
    for e in np.eye(2)
]
assert np.allclose(gradient, numerical, rtol=1e-6)
length = np.linalg.norm(gradient)
print(
    f"at w = 1.1, b = 0.1: loss {cliff(*point)[0]:.1f}, length of the gradient {length:.0f}"
)
assert 20 < 0.05 * length < 21

# %% [markdown]
# With a learning rate of 0.05 the next step is twenty long. The *direction* of the gradient is useful. Its length is
# not, since it holds only in a tiny neighbourhood. So keep the direction, and limit the length. Let $g$ be the gradients
# of all parameters, as one long vector, and $g_{\max}$ the limit:
#
# $$ g \leftarrow g \cdot \min\left(1,\; \frac{g_{\max}}{\lVert g \rVert}\right), \qquad
#    \lVert g \rVert = \sqrt{\textstyle\sum_{\text{parameters}} \sum_{\text{entries}} g^2} $$

# %% tags=["hide-input"]
drawing = Sketch(7.5, 2.3)
drawing.axes.add_patch(
    plt.Circle((1.1, 0.75), 0.62, color=GREY, fill=False, linestyle="--")
)
drawing.arrow((1.1, 0.75), (3.9, 2.0), kind="gradient")
drawing.axes.annotate(
    "", (1.1 + 0.566, 0.75 + 0.253), (1.1, 0.75),
    arrowprops={"arrowstyle": "-|>", "color": BLUE, "lw": 3, "shrinkA": 0, "shrinkB": 0},
)  # fmt: skip
drawing.text(4.9, 2.0, "the gradient", ORANGE)
drawing.text(3.6, 0.95, "clipped: same direction", BLUE)
drawing.text(3.45, 0.3, "the longest that may pass", GREY)
drawing.show()

# %% [markdown]
# One factor serves all parameters, so the direction stays (Pascanu, Mikolov and Bengio, 2013). A step of gradient
# descent is then at most $\eta\, g_{\max}$ long. (`core` adds $10^{-6}$ to the norm, as PyTorch does.)

# %%
show_source(clip_factor, docstring=False)

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
grads = {"first": rng.standard_normal((3, 4)), "second": 10 * rng.standard_normal(5)}
for max_norm in (0.1, 5.0, 1e6):
    parameters = [
        torch.nn.Parameter(torch.tensor(np.zeros_like(g))) for g in grads.values()
    ]
    for parameter, gradient in zip(parameters, grads.values(), strict=True):
        parameter.grad = torch.tensor(gradient)
    theirs = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    clipped, norm = clip_gradient_norm(grads, max_norm)
    assert np.isclose(norm, theirs, rtol=1e-13)
    for parameter, gradient in zip(parameters, clipped.values(), strict=True):
        assert np.allclose(gradient, parameter.grad.numpy(), rtol=1e-12, atol=0)
print("equal to torch.nn.utils.clip_grad_norm_")

# %% [markdown]
# *Predict.* Gradient descent starts at $w = 1.1$, $b = 0.1$ with a rate of 0.05. Which loss has it after one step,
# without clipping? And how long is the first step when gradients are clipped at 1?


# %%
def go_down(max_norm, steps=80):
    point, way, losses = np.array([1.1, 0.1]), [], []
    for _ in range(steps):
        loss, gradient = cliff(*point)
        way.append(point)
        losses.append(loss)
        if loss > 1e12:
            break
        factor, _ = clip_factor({"point": gradient}, max_norm)
        point = point - 0.05 * factor * gradient
    return np.array(way), losses


# %% tags=["hide-input"]
ways, losses = {}, {}
for name, max_norm in (("not clipped", np.inf), ("clipped at 1", 1.0)):
    ways[name], losses[name] = go_down(max_norm)

figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.6))
grid_w, grid_b = np.meshgrid(np.linspace(0.4, 1.2, 120), np.linspace(-0.25, 0.45, 120))
surface = np.vectorize(lambda w, b: cliff(w, b)[0])(grid_w, grid_b)
shown = left_axes.contourf(grid_w, grid_b, np.log10(surface + 1e-4), 14, cmap="Greys_r")
figure.colorbar(shown, ax=left_axes, label="log10 of the loss")
left_axes.plot(
    *ways["clipped at 1"].T, "o-", color=BLUE, markersize=3, label="clipped at 1"
)
first, second = ways["not clipped"][:2]
length = np.linalg.norm(second - first)
along = (second - first) / length
arrow = {"arrowstyle": "-|>", "color": ORANGE, "lw": 2}
left_axes.annotate("", first + 0.42 * along, first, arrowprops=arrow)
left_axes.plot([], [], color=ORANGE, label=f"not clipped: {length:.0f} long")
left_axes.set(
    xlabel="w", ylabel="b", title="The first steps", xlim=(0.4, 1.2), ylim=(-0.25, 0.45)
)
left_axes.legend(loc="upper left", labelcolor="white")
left_axes.grid(False)
for (name, history), colour in zip(losses.items(), (ORANGE, BLUE), strict=True):
    right_axes.semilogy(history, "o-", markersize=3, color=colour, label=name)
right_axes.set(
    xlabel="step", ylabel="loss", ylim=(1e-5, 1e13), title="What becomes of the loss"
)
right_axes.legend()
plt.show()
print("not clipped:", *(f"{loss:.2g}" for loss in losses["not clipped"]))
print(f"clipped: after 80 steps {losses['clipped at 1'][-1]:.1g}")
assert len(losses["not clipped"]) == 2 and 1e45 < losses["not clipped"][1] < 1e46
assert losses["clipped at 1"][-1] < 0.01
assert np.isclose(np.linalg.norm(np.diff(ways["clipped at 1"][:2], axis=0)), 0.05)


def above(point):
    """Whether h_20 is above 1: on the wall's side of the floor."""
    w, b = point
    return b * np.sum(w ** np.arange(20)) > 1


sides = [above(point) for point in ways["clipped at 1"]]
crossings = int(np.sum(np.diff(sides)))
print(f"it crosses the floor {crossings} times in {len(sides) - 1} steps")
assert (crossings, len(sides) - 1) == (78, 79)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first step leaves the map, and the next loss has 46 digits. Clipped, the first step has the same direction and is
# 0.05 · 1 long.
# </details>
#
# The clipped way goes down the wall and then zigzags. It crosses the floor of the valley 78 times in 79 steps. While it
# does so, it follows the floor to where the loss is small.
#
# ### The same in a captioner
#
# The captioner of lesson 5 has such cliffs. Here it is only a function of eight arrays, with a loss and its gradient.
# The solver takes a step as you know it by now:

# %%
show_source(NumpyEngine.update)

# %%
data = lessons.embedded_data("rnn", num_samples=500)


def small_captioner(dtype=np.float32, hidden=48):
    features = data["train_features"].shape[1]
    return CaptioningRNN(
        data["word_to_idx"], features, wordvec_dim=24, hidden_dim=hidden,
        dtype=dtype, rng=np.random.default_rng(0),
    )  # fmt: skip


# %% tags=["hide-input"]
class Recording(NumpyEngine):
    """Writes down what it sees of every step."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.norms, self.rates = [], []

    def update(self):
        self.norms.append(clip_factor(self.grads, 1.0)[1])
        self.rates.append(self.learning_rate)
        super().update()


def train(rule, rate, epochs=3, model=None, **options):
    solver = CaptioningSolver(
        model or small_captioner(), data, update_rule=rule,
        optim_config={"learning_rate": rate}, num_epochs=epochs, batch_size=25,
        verbose=False, engine=Recording, **options,
    )  # fmt: skip
    solver.train()
    return solver


# %% [markdown]
# Gradient descent with the large rate of 0.4, with and without clipping, on 500 captions:

# %% tags=["hide-input"]
assert len(small_captioner().params) == 8
figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.4))
final = {}
for name, options, colour in (
    ("not clipped", {}, ORANGE), ("clipped at 5", {"clip_norm": 5.0}, BLUE)
):  # fmt: skip
    solver = train("sgd", 0.4, **options)
    left_axes.semilogy(solver.engine.norms, color=colour, label=name)
    right_axes.plot(solver.loss_history, color=colour, label=name)
    final[name] = solver.evaluate("train")
    if name == "not clipped":  # chaos: small roundings change its numbers
        assert max(solver.engine.norms) > 300
left_axes.set(xlabel="step", ylabel="length, before clipping", title="The gradient")
right_axes.set(xlabel="step", ylabel="nats per caption", title="The loss")
left_axes.legend()
plt.show()
print(f"clipped at 5: {final['clipped at 5']:.1f} nats per token at the end")
print("not clipped: gradients more than 300 long, and more than twice the loss at the end")
assert 2 * final["clipped at 5"] < final["not clipped"]

# %% [markdown]
# ### The tempting wrong way: clip each entry
#
# `np.clip(g, -limit, limit)` looks like the same thing and needs no norm. But it cuts large entries and leaves small
# ones, so it bends the gradient. Take the first gradient of the captioner, and clip until a half, a tenth or a hundredth
# of its length is left. The cosine with the true gradient is 1 for the same direction, and 0 for a right angle:

# %% tags=["hide-input"]
model = small_captioner(np.float64)
rows = slice(0, 25)
_, grads = model.loss(
    data["train_features"][data["train_image_idxs"][rows]], data["train_captions"][rows]
)
whole = np.concatenate([gradient.ravel() for gradient in grads.values()])


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def cut_to(share):
    """The gradient, each entry clipped so far that this share of its length is left."""
    low, high = 0.0, np.abs(whole).max()
    for _ in range(60):
        middle = (low + high) / 2
        cut = np.clip(whole, -middle, middle)
        if np.linalg.norm(cut) < share * np.linalg.norm(whole):
            low = middle
        else:
            high = middle
    return cut


tiny = np.mean((whole != 0) & (np.abs(whole) < 1e-6))
print(f"{len(whole):,} entries; not 0, and below 1e-6: {100 * tiny:.1f} % of them\n")
print(f"{'length left':>12}{'by the norm':>14}{'entry by entry':>17}   (cosine)")
for share in (0.5, 0.1, 0.01):
    by_norm, _ = clip_gradient_norm({"all": whole}, share * np.linalg.norm(whole))
    by_entry = cut_to(share)
    print(
        f"{share:>12}{cosine(by_norm['all'], whole):>14.2f}{cosine(by_entry, whole):>17.2f}"
    )
assert tiny < 0.001
assert cosine(by_norm["all"], whole) > 1 - 1e-12 and cosine(by_entry, whole) < 0.6

# %% [markdown]
# Clipped hard, only the signs are left, and half of the direction is gone. (Adam divides each entry by its own size, so
# it is not far from the signs either. But a rule may choose another direction on purpose. Clipping is a safety belt and
# should not steer.)
#
# ## The learning rate over time
#
# A minibatch gives the gradient plus noise. Near the bottom, the noise is all there is. Take one weight, with noise
# $\xi$ of variance $\sigma^2$ in each gradient, independent from step to step:
#
# $$ w \leftarrow w - \eta\,(\lambda w + \xi) = (1 - \eta\lambda)\, w - \eta\,\xi $$
#
# Variances of independent things add, with the squares of their factors. When $w$ has settled, its variance is the same
# before and after a step:
#
# $$ \mathrm{Var} = (1 - \eta\lambda)^2\, \mathrm{Var} + \eta^2 \sigma^2 \;\Rightarrow\;
#    \mathrm{Var} = \frac{\eta\, \sigma^2}{\lambda\,(2 - \eta\lambda)} $$
#
# The loss that remains is $\tfrac12 \lambda \mathrm{Var}$. For small rates it is **proportional to the learning rate**.
# *Predict:* which of the rates 0.5, 0.05 and 0.005 has the lowest loss after 400 steps? And a rate that falls from 0.5
# to 0?

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
steps, curved = 400, 1.0
schedules = {
    "constant 0.5": np.full(steps, 0.5),
    "constant 0.05": np.full(steps, 0.05),
    "constant 0.005": np.full(steps, 0.005),
    "0.5, cosine to 0": 0.25 * (1 + np.cos(np.pi * np.arange(steps) / steps)),
}
last = {}
for (name, rates), (colour, line) in zip(
    schedules.items(), ((GREY, "-"), (GREY, "--"), (GREY, ":"), (BLUE, "-")), strict=True
):
    w, mean_loss = np.full(2000, 10.0), []  # 2,000 runs at once
    for rate in rates:
        w = w - rate * (curved * w + rng.standard_normal(2000))
        mean_loss.append(0.5 * curved * np.mean(w**2))
    last[name] = mean_loss[-1]
    plt.semilogy(mean_loss, line, color=colour, label=name)
plt.gca().set(xlabel="step", ylabel="loss, mean of 2,000 runs")
plt.gca().set_title("One weight, noisy gradients")
plt.legend()
plt.show()
for name, loss in last.items():
    rate = schedules[name][0]
    settled = f", when settled {0.5 * rate / (2 - rate * curved):.4f}"
    print(f"{name:<17} measured {loss:.4f}{settled if 'constant' in name else ''}")
assert np.isclose(last["constant 0.5"], 0.5 * 0.5 / 1.5, rtol=0.15)
assert np.isclose(last["constant 0.05"], 0.5 * 0.05 / 1.95, rtol=0.15)
assert last["0.5, cosine to 0"] < 0.7 * last["constant 0.05"] < last["constant 0.005"]

# %% [markdown]
# <details><summary>Answer</summary>
#
# The largest rate settles at once, and high. The smallest would settle lowest, but it has not arrived. Of the three,
# 0.05 is the lowest; the falling rate is below all of them.
# </details>
#
# The solver of this project takes a `Schedule`, with two ways down and one up:
#
# * `Schedule("decay", lr_decay=...)` multiplies the rate by `lr_decay` after each epoch.
# * `Schedule("cosine")` follows half a wave, to 0 at the last step (Loshchilov and Hutter, 2017).
# * `warmup=K` raises the rate from 0 in a straight line during the first $K$ steps. At the start, Adam's $\hat v$ is a
#   mean of very few gradients, and its steps are a whole rate long in every weight. Small ones are safer. The
#   Transformer of [lesson 10](10_the_transformer_block.ipynb) is trained that way.

# %%
show_source(Schedule.part)

# %% tags=["hide-input"]
tiny = {"rate": 1e-3, "epochs": 5}
shown = {
    "decay, lr_decay=0.5": (Schedule("decay", lr_decay=0.5), GREY),
    "cosine": (Schedule("cosine"), ORANGE),
    "cosine, warmup=15": (Schedule("cosine", warmup=15), BLUE),
}
recorded = {}
for name, (schedule, colour) in shown.items():
    engine = train(
        "adam", **tiny, model=small_captioner(hidden=4), schedule=schedule
    ).engine
    recorded[name] = np.array(engine.rates) / 1e-3
    plt.plot(recorded[name], color=colour, label=name)
plt.gca().set(xlabel="step", ylabel="part of the learning rate")
plt.gca().set_title("Recorded from trainings of five epochs")
plt.legend()
plt.show()
t = np.arange(100)
assert np.allclose(recorded["decay, lr_decay=0.5"], 0.5 ** (t // 20))
assert np.allclose(recorded["cosine"], (1 + np.cos(np.pi * t / 100)) / 2)
assert np.allclose(
    recorded["cosine, warmup=15"], recorded["cosine"] * np.minimum(1, (t + 1) / 15)
)

# %% [markdown]
# ## Five rules, one captioner
#
# A fair comparison gives each rule its own best learning rate. So each learns the same 500 captions for 60 steps, from
# the same weights and with the same batches, at five rates.

# %% tags=["hide-input"]
sweep = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1),
    "sgd_momentum": (0.001, 0.003, 0.01, 0.03, 0.1),
    "rmsprop": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adamw": (0.001, 0.003, 0.01, 0.03, 0.1),
}
found = {}
for rule, rates in sweep.items():
    for rate in rates:
        found[rule, rate] = train(rule, rate).evaluate("train")
best = {}
for rule, rates in sweep.items():  # the smallest rate that is within 0.02 nats of the best
    lowest = min(found[rule, rate] for rate in rates)
    best[rule] = min(rate for rate in rates if found[rule, rate] < lowest + 0.02)
lines = ((GREY, "o-"), (GREY, "s--"), (ORANGE, "o-"), (BLUE, "o-"), ("black", "x:"))
for (rule, rates), (colour, line) in zip(sweep.items(), lines, strict=True):
    losses = [found[rule, rate] for rate in rates]
    plt.semilogx(rates, losses, line, color=colour, label=rule)
plt.gca().set(xlabel="learning rate", ylabel="nats per token", ylim=(0.8, 4))
plt.gca().set_title("After 60 steps, by learning rate")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
for rule, rate in best.items():
    print(f"{rule:<13} best rate {rate:<6g} {found[rule, rate]:.2f} nats per token")
assert best == {
    "sgd": 0.1,
    "sgd_momentum": 0.03,
    "rmsprop": 0.01,
    "adam": 0.01,
    "adamw": 0.01,
}
ends = [found[rule, best[rule]] for rule in ("adam", "sgd_momentum", "sgd")]
assert ends == sorted(ends) and abs(found["adamw", 0.01] - found["adam", 0.01]) < 0.01
assert found["sgd", 1] > 4

# %% [markdown]
# (At its largest rate, gradient descent is above the picture.) The best rates differ by a factor of ten, so no rate is
# "good" by itself. With its best rate, every rule learns. Momentum is ahead of gradient descent here, and the rules that
# divide by the size of the gradient are ahead of both. AdamW equals Adam, since 60 steps leave a decay of 0.01 no time.
#
# It does not say that Adam is best elsewhere, or after a long training, or on pictures that were held out. This is one
# model, one seed, 60 steps and the training loss.
#
# ## What to keep
#
# * Clip by the norm of all gradients together: the direction stays.
# * Decay belongs outside of the division by the size of the gradient (AdamW).
# * Let the rate fall: what noise leaves is proportional to it. Compare rules at their own best rates.
#
# **Sources.** R. Pascanu, T. Mikolov and Y. Bengio, *On the difficulty of training recurrent neural networks*, ICML
# 2013. D. Kingma and J. Ba, *Adam: a method for stochastic optimization*, ICLR 2015. I. Loshchilov and F. Hutter,
# *SGDR: stochastic gradient descent with warm restarts*, ICLR 2017, and *Decoupled weight decay regularization*, ICLR
# 2019.
