# %% [markdown]
# # 4 · Update rules
#
# **The question.** The gradient says which way is downhill, at the place where you stand. It says nothing about
# how far to go, and straight downhill is often not the way to the bottom. How does one turn gradients into steps?
#
# You write five update rules by hand: gradient descent, momentum, RMSProp, Adam and AdamW. Each is derived from
# what goes wrong with the one before, followed through its first steps with pencil and paper, and held against
# PyTorch, step by step. Then come clipping, which keeps one bad gradient from ruining a training, and schedules
# for the learning rate; and the five rules compete.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (the loss and its gradient). About 55 minutes; all cells
# together run in half a minute.*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np
import torch

from core import lessons
from core.captioning_solver import CaptioningSolver, NumpyEngine, Schedule
from core.lessons import compare, confirm, show_source
from core.models import CaptioningRNN
from core.optim import (
    adam,
    adamw,
    clip_factor,
    clip_gradient_norm,
    rmsprop,
    sgd,
    sgd_momentum,
)

lessons.style()

# %% [markdown]
# ## By hand: one weight
#
# The smallest problem that has a bottom: $L(w) = \tfrac12 \lambda w^2$, with the gradient $\lambda w$ and the
# curvature $\lambda$. A step of **gradient descent** goes against the gradient, by the learning rate $\alpha$ times
# its length:
#
# $$ w \;\leftarrow\; w - \alpha\lambda w = (1 - \alpha\lambda)\, w $$
#
# So every step multiplies $w$ by the same number. With $\lambda = 2$, from $w = 1$:

# %%
curved = 2.0
print(f"{'rate':>5} {'factor':>7}   w after each step")
for rate in (0.1, 0.5, 0.9, 1.1):
    w, after = 1.0, []
    for _ in range(5):
        w = w - rate * curved * w
        after.append(w)
    assert np.allclose(after, (1 - rate * curved) ** np.arange(1, 6))
    print(f"{rate:>5} {1 - rate * curved:>7.1f}  ", *(f"{value:7.3f}" for value in after))

# %% [markdown]
# It creeps, it arrives at once, it zigzags and arrives, it explodes. The limit is
# $\lvert 1 - \alpha\lambda \rvert < 1$, that is
#
# $$ 0 < \alpha < \frac{2}{\lambda} $$
#
# Remember the limit: **the curvature decides how large a step may be**, not how far away the bottom is.
#
# In `core` a rule takes a parameter, its gradient, and a `config`: the rule's numbers, and what it remembers from
# step to step. It returns the new parameter and the config. Gradient descent remembers nothing. (`_filled_in`
# puts a default where the config lacks a number.)

# %%
show_source(sgd)

# %% [markdown]
# ## A valley
#
# Real losses have many weights, and curve more in some directions than in others. Two weights are enough to see
# what that does:
#
# $$ L(w_1, w_2) = \tfrac12 \left(\lambda_1 w_1^2 + \lambda_2 w_2^2\right), \qquad \lambda_1 = 1, \quad \lambda_2 = 25 $$
#
# a long valley with steep walls. Its **condition number** is $\kappa = \lambda_2 / \lambda_1 = 25$. (It is less
# special than it looks: near a minimum every smooth loss is such a valley, in the directions of the eigenvectors
# of its matrix of second derivatives.) The two weights do not mix, so each goes its own way:
#
# $$ w_{1,t} = (1 - \alpha \lambda_1)^t\, w_{1,0}, \qquad w_{2,t} = (1 - \alpha \lambda_2)^t\, w_{2,0} $$
#
# The wall allows no more than $\alpha < 2/\lambda_2 = 0.08$. With so small a rate, $w_1$ shrinks by 8 % a step at
# best: the steep direction sets the rate, and the flat one pays. The best compromise makes both factors equal in
# size, $1 - \alpha\lambda_1 = \alpha\lambda_2 - 1$, so
#
# $$ \alpha = \frac{2}{\lambda_1 + \lambda_2}, \qquad \text{factor a step}
#    = \frac{\lambda_2 - \lambda_1}{\lambda_2 + \lambda_1}
#    = \frac{\kappa - 1}{\kappa + 1} $$
#
# which for $\kappa = 25$ is $24/26 = 0.92$, and for a large $\kappa$ about $1 - 2/\kappa$: the number of steps
# grows like the condition number.

# %%
curvature = np.array([1.0, 25.0])
top = np.array([-10.0, 1.5])


def descend(rule, steps, **config):
    """The way of a rule through the valley, (steps + 1, 2)."""
    w, way = top, [top]
    for _ in range(steps):
        w, config = rule(w, curvature * w, config)
        way.append(w)
    return np.array(way)


def height(way):
    return 0.5 * np.sum(curvature * way**2, axis=-1)


def draw_valley(axes, way, title, colour="#D55E00", wall=2.1):
    w1, w2 = np.meshgrid(np.linspace(-11, 3, 150), np.linspace(-wall, wall, 150))
    levels = np.geomspace(0.5, 200, 6)
    surface = height(np.stack([w1, w2], axis=-1))
    axes.contour(w1, w2, surface, levels, colors="#777777", linewidths=0.6, alpha=0.6)
    axes.plot(*way.T, "o-", color=colour, markersize=3, linewidth=1.2)
    axes.plot(0, 0, "k+", markersize=9)
    axes.set(title=title, xlabel="$w_1$", xlim=(-11, 3), ylim=(-wall, wall))
    axes.grid(False)


figure, row = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for axes, rate in zip(row, (0.02, 2 / 26, 0.081), strict=True):
    way = descend(sgd, 25, learning_rate=rate)
    assert np.allclose(way[-1], (1 - rate * curvature) ** 25 * top)
    draw_valley(axes, way, f"rate {rate:.3g}: loss {height(way[-1]):.2g}")
row[0].set_ylabel("$w_2$")
figure.suptitle("Gradient descent in a valley, 25 steps; + is the bottom")
plt.show()

best_sgd = descend(sgd, 100, learning_rate=2 / 26)
print(f"best rate: each step multiplies both weights by {24 / 26:.3f} in size")
assert np.allclose(np.abs(best_sgd[-1] / best_sgd[-2]), 24 / 26)

# %% [markdown]
# ## Momentum: steps that add up
#
# Look at the middle path. In $w_2$ the gradient changes its sign at every step; in $w_1$ it always points the same
# way. A rule that *remembers* could tell the two apart. **Momentum** keeps a velocity, an echo of all gradients
# so far, and goes along that:
#
# $$ m \;\leftarrow\; \mu\, m + g, \qquad w \;\leftarrow\; w - \alpha\, m $$
#
# with $g$ the gradient and $\mu$ (0.9 or so) the part of the old velocity that is kept. By hand, for a gradient
# that stays and for one that alternates:

# %%
mu = 0.9
for name, gradients in (("stays", [1, 1, 1, 1]), ("alternates", [1, -1, 1, -1])):
    velocity = 0.0
    print(f"the gradient {name}:")
    for t, gradient in enumerate(gradients, 1):
        before = velocity
        velocity = mu * before + gradient
        print(
            f"  step {t}: velocity = 0.9 * {before:6.3f} + {gradient:2d} = {velocity:6.3f}"
        )

# %% [markdown]
# Write the velocity out. Each step multiplies what is there by $\mu$ once more, so
#
# $$ m_t = \sum_{s=1}^{t} \mu^{\,t-s} g_s $$
#
# For a gradient that stays, $g_s = g$, this is a geometric series, and for one that alternates, $g_s = (-1)^s g$,
# it is another:
#
# $$ m_t = g\,\frac{1 - \mu^t}{1 - \mu} \;\to\; 10\,g, \qquad
#    m_t = (-1)^t g\,\frac{1 - (-\mu)^t}{1 + \mu} \;\to\; \pm\, 0.53\,g \qquad (\mu = 0.9) $$
#
# What agrees with itself goes ten times as far; what contradicts itself goes half as far. That is what the valley
# needs.
#
# How much is gained? Eliminate the velocity: $\alpha\, m_t = w_{t-1} - w_t$, and with the gradient $\lambda w$
#
# $$ w_{t+1} = w_t - \alpha\left(\mu\, m_t + \lambda w_t\right) = w_t + \mu\,(w_t - w_{t-1}) - \alpha\lambda\, w_t $$
#
# Try $w_t = r^t$, divide by $r^{t-1}$, and a quadratic equation remains:
#
# $$ r^2 - (1 + \mu - \alpha\lambda)\, r + \mu = 0 $$
#
# Its two roots have the product $\mu$. Where they are complex they are conjugates, of equal size, so **each has
# the size $\sqrt\mu$, whatever the curvature**. They are complex where $(1 + \mu - \alpha\lambda)^2 < 4\mu$, that
# is
#
# $$ (1 - \sqrt\mu)^2 < \alpha\lambda < (1 + \sqrt\mu)^2 $$
#
# So choose $\alpha$ and $\mu$ such that all curvatures from $\lambda_1$ to $\lambda_2$ just fit into this band.
# Dividing the two ends,
#
# $$ \frac{1 + \sqrt\mu}{1 - \sqrt\mu} = \sqrt\kappa \;\Rightarrow\;
#    \sqrt\mu = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1},
#    \qquad \alpha = \frac{(1 + \sqrt\mu)^2}{\lambda_2} $$
#
# Gradient descent had $\kappa$ in this place, momentum has $\sqrt\kappa$. For $\kappa = 25$ the factor per step is
# $4/6 = 0.67$ instead of 0.92; for $\kappa = 10{,}000$ it would be 0.980 instead of 0.9998.
#
# Does momentum need a smaller rate? In this valley the opposite is true. Convergence ends where a root reaches
# $-1$: put $r = -1$ into the equation, and $\alpha\lambda = 2(1 + \mu)$ remains. So the limit rises from
# $2/\lambda_2$ to $2(1 + \mu)/\lambda_2$, and the best rate from 0.077 to 0.111. (Where gradients agree for long,
# steps are up to $1/(1 - \mu)$ times as long: with $\mu = 0.9$ people often start with a smaller rate for that
# reason.)

# %%
show_source(sgd_momentum)

# %%
curvatures = np.geomspace(0.001, 5, 400)  # alpha times lambda
for mu in (0.0, 4 / 9, 0.9):
    sizes = [np.abs(np.roots([1, -(1 + mu - al), mu])).max() for al in curvatures]
    plt.semilogx(
        curvatures, sizes, label=f"$\\mu$ = {mu:.2g}, $\\sqrt{{\\mu}}$ = {mu**0.5:.2f}"
    )
plt.axhline(1, color="black", linewidth=0.8)
plt.gca().set(
    xlabel="rate times curvature",
    ylabel="factor a step",
    ylim=(0, 1.3),
    title="Flat where the roots are complex; above 1 it explodes",
)
plt.legend()
plt.show()

root = (np.sqrt(25) - 1) / (np.sqrt(25) + 1)
way = descend(sgd_momentum, 100, momentum=root**2, learning_rate=(1 + root) ** 2 / 25)
steps_sgd = int(np.argmax(height(best_sgd) < 1e-3))
steps_momentum = int(np.argmax(height(way) < 1e-3))
print(f"to a loss of 0.001: gradient descent {steps_sgd} steps, momentum {steps_momentum}")
assert 0 < steps_momentum < steps_sgd / 2
best_rate = (1 + root) ** 2 / 25
print(f"best rate: gradient descent {2 / 26:.3f}, momentum {best_rate:.3f}")
assert best_rate > 2 / 26
limit = 2 * (1 + root**2) / 25
for part, arrives in ((0.99, True), (1.01, False)):
    way = descend(sgd_momentum, 2000, momentum=root**2, learning_rate=part * limit)
    assert (height(way[-1]) < 1e-6) == arrives

# %% [markdown]
# ### Equal to PyTorch, step by step
#
# There is no backward to check in this lesson: rules are used, not differentiated. What they can be checked
# against is the rule that everybody else uses. Two rules that differ in a detail drift apart slowly, so we
# compare the whole way: 100 steps in float64 with random gradients from 0.0001 to 100 in size, and a learning
# rate that changes half-way. The same once more with all gradients 1e-10 times as large, which brings epsilons to
# light.


# %%
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
    equal = worst < 1e-12
    size = "less than 1e-12" if equal else f"up to {100 * worst:.0f} %"
    print(f"{rule.__name__}: {size} off PyTorch's way, over 100 steps")
    return equal


assert equals_torch(sgd, lambda p: torch.optim.SGD(p, lr=0.01))
assert equals_torch(sgd_momentum, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))

# %% [markdown]
# The change half-way is there for a reason. There are two ways to write momentum, with the rate outside of the
# velocity, as above, and inside: $m \leftarrow \mu m - \alpha g$, $w \leftarrow w + m$. With a constant rate they
# are the same. When the rate is cut to a tenth, they are not:

# %%
outside, inside = 0.0, 0.0
lengths = []
for step in range(60):
    rate = 0.1 if step < 50 else 0.01
    outside = 0.9 * outside + 1  # the gradient is 1 all the time
    inside = 0.9 * inside + rate
    lengths.append((rate * outside, inside))
for step in (49, 50, 51, 55):
    by_outside, by_inside = lengths[step]
    print(f"step {step}: rate outside {by_outside:.3f}, rate inside {by_inside:.3f}")
assert np.isclose(*lengths[49]) and lengths[50][1] > 8 * lengths[50][0]

# %% [markdown]
# With the rate inside, the old velocity still rolls on with the old rate. Neither is wrong. But a learning-rate
# schedule taken from one library does something else in another.
#
# ## RMSProp: a rate for each weight
#
# The other cure for the valley: do not use one rate for all. Where gradients are large, take a small one, and
# conversely. **RMSProp** keeps for each weight a running mean of the gradient's square, and divides by its root,
# the *root mean square*:
#
# $$ v \;\leftarrow\; \beta\, v + (1 - \beta)\, g^2, \qquad
#    w \;\leftarrow\; w - \alpha\,\frac{g}{\sqrt{v} + \epsilon} $$
#
# all of it entry by entry. $\beta$ is 0.99 here; $\epsilon = 10^{-8}$ keeps a weight without gradients from
# dividing by 0. Three steps by hand, for two weights whose gradients differ a hundredfold:

# %%
show_source(rmsprop)

# %%
v = np.zeros(2)
for t, gradient in enumerate(np.array([[1.0, 100.0], [1.0, 100.0], [-0.5, -50.0]]), 1):
    v = 0.99 * v + 0.01 * gradient**2
    step = gradient / np.sqrt(v)
    print(f"step {t}: g {gradient}, v {v}, root {np.sqrt(v)}, g / root {step}")
assert np.isclose(step[0], step[1])

# %% [markdown]
# Both weights take the same steps: the scale of the gradient cancels. That disposes of the valley's walls. It
# also disposes of a question of lesson 3: whether the loss is summed over a caption or averaged over its places,
# a factor of 16, does not matter to this rule.
#
# But look at the size: the first step is 10, in units of the learning rate. The running mean began at 0, so after
# one step $v = (1 - \beta)\, g^2$, and
#
# $$ \frac{g}{\sqrt{v}} = \frac{g}{\sqrt{1 - \beta}\;\lvert g \rvert} = \pm\frac{1}{\sqrt{0.01}} = \pm 10 $$
#
# whatever the gradient is. The first steps, when the model knows least, are the longest of all.

# %%
assert equals_torch(rmsprop, lambda p: torch.optim.RMSprop(p, lr=0.01))
lengths, w, config = [], np.zeros(1), {"learning_rate": 1.0}
for _ in range(300):
    before = w
    w, config = rmsprop(w, np.ones(1), config)
    lengths.append(float((before - w)[0]))
for t in (1, 2, 3, 10, 100, 300):
    print(f"step {t:>3} with a gradient of 1: {lengths[t - 1]:4.1f} rates long")
assert np.isclose(lengths[0], 10) and 0.9 < lengths[299] < 1.1

# %% [markdown]
# ## Adam: both memories, and what is wrong with starting at zero
#
# **Adam** puts the two together: a running mean of the gradient for the direction, a running mean of its square
# for the size.
#
# $$ m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2, \qquad
#    \beta_1 = 0.9, \quad \beta_2 = 0.999 $$
#
# and mends the start. Both means begin at 0 and are too small at first; by how much? Unroll, as for the velocity:
#
# $$ m_t = (1 - \beta_1) \sum_{s=1}^{t} \beta_1^{\,t-s}\, g_s $$
#
# Suppose that the gradients have one and the same expectation, $\mathrm{E}[g]$. Take the expectation of both
# sides, and sum the geometric series:
#
# $$ \mathrm{E}[m_t] = \mathrm{E}[g]\,(1 - \beta_1) \sum_{s=1}^{t} \beta_1^{\,t-s}
#    = \mathrm{E}[g]\,(1 - \beta_1)\,\frac{1 - \beta_1^t}{1 - \beta_1} = \mathrm{E}[g]\,\left(1 - \beta_1^t\right) $$
#
# The weights in the mean do not sum to 1 but to $1 - \beta_1^t$. So divide by that. The same holds for $v$ with
# $\beta_2$ and $\mathrm{E}[g^2]$. This is the **bias correction**:
#
# $$ \hat m = \frac{m}{1 - \beta_1^t}, \qquad \hat v = \frac{v}{1 - \beta_2^t}, \qquad
#    w \leftarrow w - \alpha\, \frac{\hat m}{\sqrt{\hat v} + \epsilon} $$
#
# By hand, for the gradients 1, 0.5 and -0.2:

# %%
m = v = 0.0
print(" t     g       m         v  1-b1^t   1-b2^t   m hat   v hat    step")
w, config, by_hand = np.zeros(1), {"learning_rate": 1.0}, 0.0
for t, g in enumerate((1.0, 0.5, -0.2), 1):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    start1, start2 = 1 - 0.9**t, 1 - 0.999**t
    step = (m / start1) / (np.sqrt(v / start2) + 1e-8)
    print(
        f"{t:>2} {g:>5.1f} {m:>7.4f} {v:>9.6f} {start1:>7.3f} {start2:>8.6f}",
        f"{m / start1:>7.4f} {v / start2:>7.4f} {step:>7.4f}",
    )
    by_hand -= step
    w, config = adam(w, np.array([g]), config)
assert np.isclose(w[0], by_hand)

# %% [markdown]
# Check the second line on paper: $\hat m$ is a weighted mean of 1 and 0.5, with the weights 0.09 and 0.1 divided
# by their sum, 0.19; that is 0.7368. The first step is exactly 1 rate long, whatever the gradient: $\hat m = g$
# and $\sqrt{\hat v} = \lvert g \rvert$.

# %%
show_source(adam)

# %%
assert equals_torch(adam, lambda p: torch.optim.Adam(p, lr=0.01))

# %% [markdown]
# ### The tempting wrong way: leave the correction out
#
# "It matters only in the first steps" is what one reads. Without the correction a step with a constant gradient
# has the length
#
# $$ \frac{m_t}{\sqrt{v_t}} = \frac{1 - \beta_1^t}{\sqrt{1 - \beta_2^t}} \quad\text{rates, instead of 1} $$
#
# The numerator recovers within tens of steps, the denominator takes a thousand. In between, steps are too *long*:


# %%
def adam_uncorrected(w, dw, config):
    m = config["m"] = 0.9 * config.get("m", 0) + 0.1 * dw
    v = config["v"] = 0.999 * config.get("v", 0) + 0.001 * dw**2
    return w - config["learning_rate"] * m / (np.sqrt(v) + 1e-8), config


def lengths_of_steps(rule, steps, gradient=1.0):
    """In learning rates, for a gradient that stays."""
    w, config, lengths = np.zeros(1), {"learning_rate": 1.0}, []
    for _ in range(steps):
        after, config = rule(w, np.full(1, gradient), config)
        lengths.append(float((w - after)[0]))
        w = after
    return np.array(lengths)


steps = np.arange(1, 3001)
uncorrected, corrected = (
    lengths_of_steps(adam_uncorrected, 3000),
    lengths_of_steps(adam, 3000),
)
plt.semilogx(steps, uncorrected, label="without the correction")
plt.semilogx(steps, corrected, label="Adam")
plt.gca().set(
    xlabel="step",
    ylabel="length in learning rates",
    ylim=(0, 7),
    title="Steps with a constant gradient",
)
plt.legend()
plt.show()
print("first steps:", *(f"{length:.2f}" for length in uncorrected[:4]))
print(f"longest: {uncorrected.max():.2f} rates, at step {uncorrected.argmax() + 1}")
print(f"still more than twice too long after {np.sum(uncorrected > 2)} steps")
assert np.allclose(uncorrected, (1 - 0.9**steps) / np.sqrt(1 - 0.999**steps))
assert np.allclose(corrected, 1) and uncorrected.max() > 6 and np.sum(uncorrected > 2) > 200

# %% [markdown]
# Six times too long at a dozen steps, twice too long for almost three hundred: a hidden burst of a high learning
# rate, just when a network is most easily thrown off.
#
# ### Where epsilon goes
#
# The two corrections are scalars, so one may pull them in front and save two divisions of whole arrays:
#
# $$ w \leftarrow w - \alpha\,\frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\cdot\frac{m}{\sqrt{v} + \epsilon} $$
#
# This is often seen, and looks like the same. It is not: $\epsilon$ now meets $\sqrt{v}$ *before* its correction,
# when it is $\sqrt{1 - \beta_2^t}$ times smaller. At the first step that is a factor of 0.032, so $\epsilon$
# weighs 32 times as much. For gradients far above $\epsilon$ nobody notices. For a gradient of
# $g = \epsilon = 10^{-8}$, the first step is
#
# $$ \text{Adam: } \frac{g}{g + \epsilon} = \frac12, \qquad
#    \text{epsilon first: } \frac{0.0316\, g}{0.0316\, g + \epsilon} = 0.031, \qquad \text{ratio } 0.06 $$


# %%
def adam_epsilon_first(w, dw, config):
    t = config["t"] = config.get("t", 0) + 1
    m = config["m"] = 0.9 * config.get("m", 0) + 0.1 * dw
    v = config["v"] = 0.999 * config.get("v", 0) + 0.001 * dw**2
    rate = config["learning_rate"] * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - rate * m / (np.sqrt(v) + 1e-8), config


gradients = np.geomspace(1e-12, 1, 60)
ratios = [
    lengths_of_steps(adam_epsilon_first, 1, g)[0] / lengths_of_steps(adam, 1, g)[0]
    for g in gradients
]
plt.loglog(gradients, ratios)
plt.axvline(1e-8, color="#777777", linestyle="--", label="$\\epsilon$")
plt.gca().set(
    xlabel="size of the gradient",
    ylabel="first step, over Adam's",
    title="Epsilon before the bias correction",
)
plt.legend()
plt.show()

parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
parameter.grad = torch.full((1,), 1e-8, dtype=torch.float64)
torch.optim.Adam([parameter], lr=1.0).step()
theirs = -parameter.item()
ratio = lengths_of_steps(adam_epsilon_first, 1, 1e-8)[0] / theirs
ours = lengths_of_steps(adam, 1, 1e-8)[0]
print(f"a gradient of 1e-8: PyTorch's first step is {theirs:.3f} rates, ours {ours:.3f};")
print(f"epsilon first: {ratio:.3f} of that")
assert 0.05 < ratio < 0.07
assert not equals_torch(adam_epsilon_first, lambda p: torch.optim.Adam(p, lr=0.01))

# %% [markdown]
# Would a training show it? Ours would not: we shall see below that hardly an entry of a gradient is so small
# here. It shows where a loss is averaged over very many places, and in a comparison such as this one. Kingma and
# Ba mention the rearrangement, with an $\hat\epsilon$ of its own, and some libraries have it, so two programs
# called Adam may differ here. Ours is their algorithm 1, as in PyTorch.
#
# ## Four rules in one valley

# %% tags=["picture"]
rules = {
    "SGD": (sgd, {"learning_rate": 2 / 26}),
    "momentum": (
        sgd_momentum,
        {"learning_rate": (1 + root) ** 2 / 25, "momentum": root**2},
    ),
    "RMSProp": (rmsprop, {"learning_rate": 0.3}),
    "Adam": (adam, {"learning_rate": 1.0}),
}
figure, grid = plt.subplots(2, 2, figsize=(10, 5.4), sharex=True, sharey=True)
for axes, (name, (rule, config)), colour in zip(
    grid.flat, rules.items(), ("#D55E00", "#0072B2", "#009E73", "#CC79A7"), strict=True
):
    way = descend(rule, 40, **config)
    draw_valley(
        axes, way, f"{name}: loss {height(way[-1]):.2g} after 40 steps", colour, wall=4
    )
    axes.set_xlabel("")
for axes in grid[:, 0]:
    axes.set_ylabel("$w_2$")
for axes in grid[1]:
    axes.set_xlabel("$w_1$")
plt.show()

# The scale of the loss: all gradients times 16.
for name, (rule, config) in rules.items():
    w, scaled, config1, config2 = top, top, dict(config), dict(config)
    for _ in range(40):
        w, config1 = rule(w, curvature * w, config1)
        scaled, config2 = rule(scaled, 16 * curvature * scaled, config2)
    same = np.allclose(w, scaled, atol=1e-4)
    print(f"{name:<9} with a loss 16 times as large: {'the same way' if same else 'lost'}")
    assert same == (name in ("RMSProp", "Adam"))

# %% [markdown]
# SGD zigzags, momentum swings, RMSProp goes diagonally, since both weights take steps of the same length at
# first; Adam does so too, with a swing. Do not read a ranking out of the losses: the axes of this valley happen
# to be the axes of the weights, which is all that a rate for each weight can exploit, and the rates were chosen
# for it. What the last lines say holds in general: a rule that divides by the size of the gradient does not care
# for the units of the loss, and one that does not, does.
#
# ## AdamW: decay that is not a gradient
#
# Large weights make a model that is certain of too much, so one likes to pull all weights towards 0 a little:
# **weight decay**. With gradient descent there are two ways to say it, and they are one. Add
# $\tfrac{\delta}{2} w^2$ to the loss, whose gradient is $\delta w$:
#
# $$ w - \alpha\,(g + \delta w) = (1 - \alpha\delta)\, w - \alpha\, g $$
#
# With Adam they are not one. A $\delta w$ that is added to $g$ goes through the means and is divided by
# $\sqrt{\hat v}$ as well. Take a weight whose gradients are noise around 0, of size $\sigma$, with $\sigma$ much
# larger than $\delta w$. Then $\sqrt{\hat v} \approx \sigma$; the noise averages out, and what is left a step is
#
# $$ \text{in the loss: } \;\approx \alpha\,\frac{\delta w}{\sigma}, \qquad
#    \text{decoupled: } \; \alpha\delta\, w $$
#
# The more a weight's gradients vary, the less it decays: weights with large gradients escape. **AdamW** shrinks
# $w$ by the factor $1 - \alpha\delta$ first, outside of the means, then steps as Adam does.

# %%
show_source(adamw)

# %%
assert equals_torch(adamw, lambda p: torch.optim.AdamW(p, lr=0.01))


def adam_decay_in_loss(w, dw, config):
    return adam(w, dw + config["weight_decay"] * w, config)


assert equals_torch(  # what PyTorch's Adam does when it is given a weight_decay
    adam_decay_in_loss,
    lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    weight_decay=0.1,
)

# %%
rate, decay, steps = 1e-3, 0.1, 2000
left = {}
figure, row = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for axes, (name, rule) in zip(
    row, (("in the loss", adam_decay_in_loss), ("AdamW", adamw)), strict=True
):
    for size in (0.1, 1, 10):
        rng = np.random.default_rng(0)
        w, config, means = np.ones(300), {"learning_rate": rate, "weight_decay": decay}, []
        for _ in range(steps):
            w, config = rule(w, size * rng.standard_normal(300), config)
            means.append(w.mean())
        left[name, size] = means[-1]
        axes.plot(means, label=f"gradients of size {size}")
    axes.set(
        xlabel="step", title=f"Decay {name}" if name != "AdamW" else "AdamW", ylim=(0, 1.05)
    )
row[0].set_ylabel("mean of 300 weights")
row[0].legend()
plt.show()

expected = (1 - rate * decay) ** steps
print(f"(1 - rate * decay)^{steps} = {expected:.3f}\n")
print(f"{'size of the gradients':<24}{'in the loss':>12}{'AdamW':>8}")
for size in (0.1, 1, 10):
    print(f"{size:<24}{left['in the loss', size]:>12.3f}{left['AdamW', size]:>8.3f}")
assert all(abs(left["AdamW", size] - expected) < 0.02 for size in (0.1, 1, 10))
assert left["in the loss", 10] > 0.95 and left["in the loss", 0.1] < 0.4

# %% [markdown]
# With AdamW all weights decay alike, as the formula says. Through the loss, the weights with gradients of size 10
# keep 98 % and those of size 0.1 less than a fifth. At size 1 both agree, by chance of the units: there
# $\sigma = 1$.
#
# ## Clipping: one bad gradient
#
# Here is a loss with a cliff. Multiply by the same $w$ and add the same $b$ twenty times in a row, as a recurrent
# layer will do in [lesson 5](05_the_vanilla_rnn.ipynb), and ask that the result be 1:
#
# $$ h_0 = 0, \qquad h_t = w\, h_{t-1} + b, \qquad L(w, b) = \tfrac12\,(h_{20} - 1)^2 $$
#
# $h_{20}$ contains $w^{19}$. Below $w = 1$ that is nothing, above it is a wall. The gradient by hand:
# $dh_{20} = h_{20} - 1$; each step hands $dh_{t-1} = w\, dh_t$ on, and leaves $h_{t-1}\, dh_t$ for $w$ and $dh_t$
# for $b$.


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

# %% [markdown]
# With a learning rate of 0.05 the next step is twenty long. The gradient's *direction* is useful; its length is
# not, since it holds for a tiny neighbourhood only. So keep the direction, and limit the length. With $g$ all
# gradients of all parameters, as one long vector,
#
# $$ \lVert g \rVert = \sqrt{\sum_{\text{parameters}} \sum_{\text{entries}} g^2}, \qquad
#    g \leftarrow g \cdot \min\left(1,\; \frac{c}{\lVert g \rVert}\right) $$
#
# If $\lVert g \rVert \le c$, nothing happens; else the new length is $c$. One factor for everything: the
# direction stays (Pascanu, Mikolov and Bengio, 2013). A step of gradient descent is then at most $\alpha c$ long.
# (`core` adds $10^{-6}$ to the norm, as PyTorch does.)

# %%
show_source(clip_factor, docstring=False)

# %%
rng = np.random.default_rng(0)
grads = {"W": rng.standard_normal((3, 4)), "b": 10 * rng.standard_normal(5)}
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

ways, losses = {}, {}
for name, max_norm in (("not clipped", np.inf), ("clipped at 1", 1.0)):
    point, way, history = np.array([1.1, 0.1]), [], []
    for _ in range(80):
        loss, gradient = cliff(*point)
        way.append(point)
        history.append(loss)
        if loss > 1e12:
            break
        factor, _ = clip_factor({"point": gradient}, max_norm)
        point = point - 0.05 * factor * gradient
    ways[name], losses[name] = np.array(way), history

figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.6))
grid_w, grid_b = np.meshgrid(np.linspace(0.4, 1.2, 120), np.linspace(-0.25, 0.45, 120))
surface = np.vectorize(lambda w, b: cliff(w, b)[0])(grid_w, grid_b)
shown = left_axes.contourf(grid_w, grid_b, np.log10(surface + 1e-4), 14, cmap="Greys_r")
figure.colorbar(shown, ax=left_axes, label="log10 of the loss")
left_axes.plot(*ways["clipped at 1"].T, "o-", markersize=3, label="clipped at 1")
first, second = ways["not clipped"][:2]
length = np.linalg.norm(second - first)
along = (second - first) / length
left_axes.annotate(
    "",
    first + 0.42 * along,
    first,
    arrowprops={"arrowstyle": "-|>", "color": "#D55E00", "lw": 2},
)
left_axes.plot([], [], color="#D55E00", label=f"not clipped: {length:.0f} long")
left_axes.set(
    xlabel="w", ylabel="b", title="The first steps", xlim=(0.4, 1.2), ylim=(-0.25, 0.45)
)
left_axes.legend(loc="upper left", labelcolor="white")
left_axes.grid(False)
for (name, history), colour in zip(losses.items(), ("#D55E00", "#0072B2"), strict=True):
    right_axes.semilogy(history, "o-", markersize=3, color=colour, label=name)
right_axes.set(
    xlabel="step", ylabel="loss", ylim=(1e-5, 1e13), title="What becomes of the loss"
)
right_axes.legend()
plt.show()
print("not clipped:", *(f"{loss:.2g}" for loss in losses["not clipped"]))
print(f"clipped: after 80 steps {losses['clipped at 1'][-1]:.1g}")
assert losses["not clipped"][-1] > 1e12 and losses["clipped at 1"][-1] < 0.01


def above(point):
    """Whether h_20 is above 1: on the wall's side of the floor."""
    w, b = point
    return b * np.sum(w ** np.arange(20)) > 1


sides = [above(point) for point in ways["clipped at 1"]]
crossings = int(np.sum(np.diff(sides)))
print(f"it crosses the floor {crossings} times in {len(sides) - 1} steps")
assert crossings > 70

# %% [markdown]
# Without clipping, the first step leaves the map, and the next loss has 46 digits. With clipping, the first step
# has the same direction and is 0.05 long. It goes down the wall and then zigzags: nearly every step crosses the
# floor of the valley. While it does, it follows the floor to where the gradient is shorter than the limit and clipping
# no longer matters.
#
# ### The same in a captioner
#
# The model of lesson 5 has such cliffs. What stands inside is of no interest here: it is a function of eight
# parameter arrays, with a loss and its gradient. The solver's engine takes a step as you know it by now:

# %%
show_source(NumpyEngine.update)

# %% [markdown]
# Gradient descent with a rate of 0.4, with and without clipping, on 500 captions; the engine writes down the length
# of every gradient as well.

# %%
data = lessons.embedded_data("rnn", num_samples=500)


def small_captioner(dtype=np.float32, hidden=48):
    return CaptioningRNN(
        data["word_to_idx"],
        data["train_features"].shape[1],
        wordvec_dim=24,
        hidden_dim=hidden,
        dtype=dtype,
        rng=np.random.default_rng(0),
    )


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
        model or small_captioner(),
        data,
        update_rule=rule,
        optim_config={"learning_rate": rate},
        num_epochs=epochs,
        batch_size=25,
        verbose=False,
        engine=Recording,
        **options,
    )
    solver.train()
    return solver


figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.4))
final = {}
for name, options in (("not clipped", {}), ("clipped at 5", {"clip_norm": 5.0})):
    solver = train("sgd", 0.4, **options)
    left_axes.semilogy(solver.engine.norms, label=name)
    right_axes.plot(solver.loss_history, label=name)
    final[name] = solver.evaluate("train")
    longest = max(solver.engine.norms)
    print(
        f"{name:<13} longest gradient {longest:6.0f}, end {final[name]:.1f} nats per token"
    )
left_axes.set(xlabel="step", ylabel="length, before clipping", title="The gradient")
right_axes.set(xlabel="step", ylabel="nats per caption", title="The loss")
right_axes.legend()
plt.show()
assert final["clipped at 5"] < 0.6 * final["not clipped"]

# %% [markdown]
# ### The tempting wrong way: clip each entry
#
# `np.clip(g, -c, c)` looks like the same thing, and needs no norm. It bends the gradient: large entries are cut,
# small ones stay. How much is the direction worth then? The first gradient of the captioner, cut such that its
# length becomes a half, a tenth and a hundredth; the cosine between the cut and the true one is 1 for the same
# direction and 0 for a right angle:

# %%
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


length, largest = np.linalg.norm(whole), np.abs(whole).max()
print(f"{len(whole):,} entries, length {length:.1f}, largest entry {largest:.2f}")
tiny = np.mean((whole != 0) & (np.abs(whole) < 1e-6))
print(f"not 0, and below 1e-6: {100 * tiny:.1f} % of them\n")
print(f"{'length left':>12}{'by the norm':>14}{'entry by entry':>17}   (cosine)")
for share in (0.5, 0.1, 0.01):
    by_norm, _ = clip_gradient_norm({"all": whole}, share * np.linalg.norm(whole))
    by_entry = cut_to(share)
    print(
        f"{share:>12}{cosine(by_norm['all'], whole):>14.2f}{cosine(by_entry, whole):>17.2f}"
    )
assert cosine(by_norm["all"], whole) > 1 - 1e-12 and cosine(by_entry, whole) < 0.6

# %% [markdown]
# Cut hard enough, only the signs are left, and the direction is mostly gone. (A rule such as Adam, which divides
# each entry by its own size, is not so far from the signs either: a rule may choose another direction on purpose.
# Clipping is meant as a safety belt, and should not steer.)
#
# ## The learning rate over time
#
# A minibatch gives the gradient plus noise. Near the bottom, the noise is all there is. Take the one-weight
# problem with noise $\xi$ of variance $\sigma^2$ in each gradient, independent from step to step:
#
# $$ w \leftarrow w - \alpha\,(\lambda w + \xi) = (1 - \alpha\lambda)\, w - \alpha\,\xi $$
#
# Variances of independent things add, with the squares of their factors; when $w$ has settled, its variance $S$
# is the same before and after:
#
# $$ S = (1 - \alpha\lambda)^2\, S + \alpha^2 \sigma^2 \;\Rightarrow\;
#    S = \frac{\alpha^2 \sigma^2}{1 - (1 - \alpha\lambda)^2} = \frac{\alpha\, \sigma^2}{\lambda\,(2 - \alpha\lambda)} $$
#
# The loss that remains, $\tfrac12 \lambda S$, is for small rates **proportional to the learning rate**. A large rate
# arrives soon and stays high, a small one arrives late and settles low. So begin with a large one, and let it
# fall.

# %%
rng = np.random.default_rng(0)
steps, curved = 400, 1.0
schedules = {
    "constant 0.5": np.full(steps, 0.5),
    "constant 0.05": np.full(steps, 0.05),
    "constant 0.005": np.full(steps, 0.005),
    "0.5, cosine to 0": 0.25 * (1 + np.cos(np.pi * np.arange(steps) / steps)),
}
last = {}
for name, rates in schedules.items():
    w, mean_loss = np.full(2000, 10.0), []  # 2,000 runs at once
    for rate in rates:
        w = w - rate * (curved * w + rng.standard_normal(2000))
        mean_loss.append(0.5 * curved * np.mean(w**2))
    last[name] = mean_loss[-1]
    plt.semilogy(mean_loss, label=name)
plt.gca().set(
    xlabel="step", ylabel="loss, mean of 2,000 runs", title="One weight, noisy gradients"
)
plt.legend()
plt.show()
for name, loss in last.items():
    rate = schedules[name][0]
    formula = (
        f", when settled {0.5 * rate / (2 - rate * curved):.4f}"
        if "constant" in name
        else ""
    )
    print(f"{name:<17} measured {loss:.4f}{formula}")
assert np.isclose(last["constant 0.5"], 0.5 * 0.5 / 1.5, rtol=0.15)
assert np.isclose(last["constant 0.05"], 0.5 * 0.05 / 1.95, rtol=0.15)
assert last["0.5, cosine to 0"] < 0.7 * last["constant 0.05"] < last["constant 0.005"]

# %% [markdown]
# The largest rate arrives at once and stays high, where the formula says. The smallest would settle lowest, and
# has not arrived. The falling one is ahead of all three.
#
# The solver of this project takes a `Schedule`, with two ways down and one up:
#
# * `Schedule("decay", lr_decay=...)`: after each epoch the rate is multiplied by `lr_decay`;
# * `Schedule("cosine")`: along half a wave, to 0 at the last step (Loshchilov and Hutter, 2017);
# * `warmup=K`: during the first $K$ steps it rises from 0 in a straight line. Adam's $\hat v$ is a mean of very
#   few gradients then, and its steps are a whole rate long in every weight, whatever the gradient: better small
#   ones. The Transformer ([lesson 10](10_the_transformer_block.ipynb)) is trained that way.

# %%
show_source(Schedule.part)

# %%
tiny = {"rate": 1e-3, "epochs": 5}
shown = {
    "decay, lr_decay=0.5": Schedule("decay", lr_decay=0.5),
    "cosine": Schedule("cosine"),
    "cosine, warmup=15": Schedule("cosine", warmup=15),
}
recorded = {}
for name, schedule in shown.items():
    engine = train(
        "adam", **tiny, model=small_captioner(hidden=4), schedule=schedule
    ).engine
    recorded[name] = np.array(engine.rates) / 1e-3
    plt.plot(recorded[name], label=name)
plt.gca().set(
    xlabel="step",
    ylabel="part of the learning rate",
    title="Recorded from trainings of five epochs",
)
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
# Now the fair comparison. Each rule learns the same 500 captions for 60 steps, from the same weights, with the
# same batches in the same order; and each is tried with five learning rates, for a rule is only as good as its
# rate. (A comparison at one common rate would tell nothing: look at how far apart the best ones lie.)

# %%
sweep = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1),
    "sgd_momentum": (0.001, 0.003, 0.01, 0.03, 0.1),
    "rmsprop": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adamw": (0.001, 0.003, 0.01, 0.03, 0.1),
}
found, curves = {}, {}
for rule, rates in sweep.items():
    for rate in rates:
        solver = train(rule, rate)
        found[rule, rate] = solver.evaluate("train")
        curves[rule, rate] = solver.loss_history
best = {}
for rule, rates in sweep.items():  # the smallest rate that is within 0.02 nats of the best
    lowest = min(found[rule, rate] for rate in rates)
    best[rule] = min(rate for rate in rates if found[rule, rate] < lowest + 0.02)

figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.8))
for (rule, rates), style in zip(sweep.items(), ("-", "-", "-", "-", ":"), strict=True):
    losses = [found[rule, rate] for rate in rates]
    left_axes.semilogx(rates, losses, "o" + style, label=rule)
    smooth = np.convolve(curves[rule, best[rule]], np.ones(5) / 5, mode="valid")
    right_axes.plot(
        np.arange(len(smooth)) + 2, smooth, style, label=f"{rule}, rate {best[rule]:g}"
    )
left_axes.set(
    xlabel="learning rate",
    ylabel="nats per token, after 60 steps",
    ylim=(0.8, 4),
    title="The sweep",
)
right_axes.set(
    xlabel="step", ylabel="nats per caption, mean of 5 steps", title="Each at its best rate"
)
for axes in (left_axes, right_axes):
    axes.legend(fontsize=8)
plt.show()
for rule, rate in best.items():
    print(f"{rule:<13} best rate {rate:<6g} {found[rule, rate]:.2f} nats per token")
assert (
    min(found["adam", best["adam"]], found["rmsprop", best["rmsprop"]])
    < found["sgd", best["sgd"]]
)
assert best["sgd"] > best["adam"]

# %% [markdown]
# (At its largest rate SGD lies above the picture.) What it says: the best rates of two rules differ by a factor of ten,
# so a rate is never "good" by itself; with its best rate, every rule learns; momentum is ahead of plain gradient
# descent, and the rules that divide by the size of the gradient are ahead of both, here. AdamW lies on Adam,
# since 60 steps leave a decay of 0.01 no time. What it does not say: that Adam is best elsewhere, or at the end
# of a long training, or on held-out pictures. One model, one seed, 60 steps, training loss.

# %% [markdown]
# ## Exercises
#
# Write your answers in [the exercises](exercises/04_update_rules.ipynb); the notebook tells you at once whether
# they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · The weights of a running mean (one line)
#
# A running mean $m \leftarrow \beta m + (1 - \beta) g$ that starts at 0 is a weighted sum of the gradients so
# far. Return those weights after $t$ steps, first gradient first, an array of length $t$, *with* the bias
# correction: they must sum to 1.


# %% tags=["exercise"]
def weights_of_mean(beta, t):
    ### BEGIN SOLUTION
    return (1 - beta) * beta ** np.arange(t - 1, -1, -1) / (1 - beta**t)
    ### END SOLUTION


def weights_by_experiment(beta, t):
    """Sends a 1 through a corrected running mean, at every place in turn."""
    weights = []
    for place in range(t):
        m = 0.0
        for step in range(t):
            m = beta * m + (1 - beta) * (step == place)
        weights.append(m / (1 - beta**t))
    return np.array(weights)


compare(
    weights_of_mean,
    weights_by_experiment,
    0.9,
    12,
    also={"after one step": (0.9, 1), "with beta 0.5": (0.5, 3)},
    exercise="04.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Adam, by yourself
#
# Write the rule: `config` holds `learning_rate`, `beta1`, `beta2`, `epsilon`, and, from the second step on, what
# you put there. Return the new parameter and the config. Do not write into `w` or `dw`, and do not keep `dw` itself:
# its memory is used again. Below, it goes 20 steps beside PyTorch's, with large gradients and with tiny ones.


# %% tags=["exercise"]
def my_adam(w, dw, config):
    ### BEGIN SOLUTION
    t = config.get("t", 0) + 1
    beta1, beta2 = config["beta1"], config["beta2"]
    m = beta1 * config.get("m", 0) + (1 - beta1) * dw
    v = beta2 * config.get("v", 0) + (1 - beta2) * dw**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    step = config["learning_rate"] * m_hat / (np.sqrt(v_hat) + config["epsilon"])
    return w - step, {**config, "t": t, "m": m, "v": v}
    ### END SOLUTION


NUMBERS = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}


def steps_of(rule, gradients, config):
    """The weights after each step of an update rule, which must not write into w and dw."""
    w, way = np.zeros(gradients.shape[1:]), []
    for gradient in gradients:
        before, dw = w.copy(), gradient.copy()
        after = rule(w, dw, config)
        if after is None:
            return None
        assert np.array_equal(w, before), (
            "it writes into w; w - step is a new array, w -= step not"
        )
        assert np.array_equal(dw, gradient), "it writes into dw; make a new array"
        w, config = after
        way.append(np.array(w))
        dw[...] = np.nan  # the memory of the gradient is used again
    return np.array(way)


def steps_of_torch(gradients, make_optimizer):
    w = torch.nn.Parameter(torch.zeros(gradients.shape[1:], dtype=torch.float64))
    optimizer, way = make_optimizer(w), []
    for gradient in gradients:
        w.grad = torch.tensor(gradient)
        optimizer.step()
        way.append(w.detach().numpy().copy())
    return np.array(way)


def my_steps(gradients, numbers):
    return steps_of(my_adam, gradients, dict(numbers))


def adam_of_torch(gradients, numbers):
    rate, beta1, beta2, epsilon = numbers.values()
    return steps_of_torch(
        gradients, lambda w: torch.optim.Adam([w], rate, (beta1, beta2), epsilon)
    )


rng = np.random.default_rng(1)
gradients = rng.standard_normal((20, 6)) * np.array([1e2, 1, 1e-3, 1e-7, 1e-8, 1e-9])
other_numbers = {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}
compare(
    my_steps,
    adam_of_torch,
    gradients,
    NUMBERS,
    axis="step",
    also={
        "with other numbers in config": (gradients, other_numbers),
        "for a matrix": (gradients.reshape(20, 2, 3), NUMBERS),
    },
    exercise="04.2",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: look ahead
#
# Nesterov (1983) asks for the gradient where momentum is about to carry the weight. In the form of Sutskever and
# others (2013), as PyTorch has it, the velocity is that of momentum, $m \leftarrow \mu m + g$, and the step goes
# along $g + \mu m$, with the new $m$:
#
# $$ w \leftarrow w - \alpha\,(g + \mu\, m) $$
#
# Write it. `config` holds `learning_rate` ($\alpha$), `momentum` ($\mu$) and, from the second step on, the velocity
# under `"velocity"`. Return the new parameter and the config; do not write into `w` or `dw`.
#
# Then measure in a valley with the curvatures 1 and 100, $\alpha = 0.009$ and $\mu = 0.9$, from $(1, 1)$: after how
# many steps is $\tfrac12(u^2 + 100 v^2)$ below $10^{-6}$, and stays there? It may rise again once it was below: follow
# it for 1000 steps. Return the two counts, of momentum (`sgd_momentum`) and of yours. (After the first step the count
# is 1.)


# %% tags=["exercise"]
def nesterov(w, dw, config):
    ### BEGIN SOLUTION
    velocity = config["momentum"] * config.get("velocity", 0) + dw
    step = config["learning_rate"] * (dw + config["momentum"] * velocity)
    return w - step, {**config, "velocity": velocity}
    ### END SOLUTION


def my_way(gradients, rate, momentum):
    return steps_of(nesterov, gradients, {"learning_rate": rate, "momentum": momentum})


def way_of_torch(gradients, rate, momentum, ahead=True):
    return steps_of_torch(
        gradients, lambda w: torch.optim.SGD([w], rate, momentum, nesterov=ahead)
    )


some_gradients = np.random.default_rng(2).standard_normal((20, 6))
compare(
    my_way,
    way_of_torch,
    some_gradients,
    0.1,
    0.8,
    axis="step",
    also={"with other numbers in config": (some_gradients, 0.02, 0.5)},
    exercise="04.3",
)


# %% tags=["exercise"]
def steps_to_the_bottom():
    """(steps of sgd_momentum, steps of nesterov)."""
    ### BEGIN SOLUTION
    counts = []
    for rule in (sgd_momentum, nesterov):
        w, config, losses = np.ones(2), {"learning_rate": 0.009, "momentum": 0.9}, []
        for _ in range(1000):
            w, config = rule(w, np.array([1.0, 100.0]) * w, config)
            losses.append(0.5 * (w[0] ** 2 + 100 * w[1] ** 2))
        counts.append(int(np.max(np.flatnonzero(np.array(losses) >= 1e-6))) + 2)
    return tuple(counts)
    ### END SOLUTION


confirm(
    steps_to_the_bottom,
    lambda counts: sum(counts) == 269 and counts[0] - counts[1] == 67,
    "two counts, first that of sgd_momentum, after which the loss is below 1e-6 for good",
    exercise="04.3b",
)

# %% [markdown]
# ## What to keep
#
# * The steepest curvature sets the learning rate, the flattest pays for it: $\kappa$ steps. Momentum makes it
#   $\sqrt\kappa$; a rate for each weight helps where the valley lies along the axes.
# * A running mean that starts at 0 is too small by $1 - \beta^t$; without the correction, Adam's steps are up to
#   six times too long for hundreds of steps. Epsilon comes after the correction.
# * Rules that divide by the size of the gradient do not see the scale of the loss; gradient descent, momentum and
#   clipping do. Decay belongs outside of that division (AdamW).
# * Clip by the norm of everything: the direction stays. Let the rate fall: what noise leaves is proportional to
#   it.
# * Compare rules at their own best rates, and say what was not measured.
#
# **Sources.** H. Robbins and S. Monro, *A stochastic approximation method*, Annals of Mathematical Statistics 22
# (1951). B. Polyak, *Some methods of speeding up the convergence of iteration methods*, USSR Computational
# Mathematics and Mathematical Physics 4 (1964). Y. Nesterov, *A method of solving a convex programming problem
# with convergence rate O(1/k²)*, Soviet Mathematics Doklady 27 (1983). T. Tieleman and G. Hinton, *Lecture 6.5:
# RMSProp*, Coursera: Neural Networks for Machine Learning (2012). R. Pascanu, T. Mikolov and Y. Bengio, *On the
# difficulty of training recurrent neural networks*, ICML 2013. I. Sutskever, J. Martens, G. Dahl and G. Hinton,
# *On the importance of initialization and momentum in deep learning*, ICML 2013. D. Kingma and J. Ba, *Adam: a
# method for stochastic optimization*, ICLR 2015. I. Loshchilov and F. Hutter, *SGDR: stochastic gradient descent
# with warm restarts*, ICLR 2017, and *Decoupled weight decay regularization*, ICLR 2019.
#
# **Next:** [lesson 5, the vanilla RNN](05_the_vanilla_rnn.ipynb): a layer with a memory, and the cliffs that come
# with it.
