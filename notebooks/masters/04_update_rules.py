# %% [markdown]
# # 4 · Update rules
#
# **The question.** The gradient tells you which way is uphill, at the place where you are. It does not tell you how
# far to step the other way. And straight downhill is often not the way to the bottom. How do you turn gradients into
# good steps?
#
# You build four update rules and compare them with PyTorch's. Gradient descent comes first. Momentum and RMSProp are
# two different cures for its main fault. Adam takes both and mends the first steps.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (the loss and its gradient). About 50 minutes; all cells together run in 15
# seconds.*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np
import torch

from core import lessons
from core.captioning_solver import CaptioningSolver
from core.lessons import BLUE, GREY, ORANGE, Sketch, compare, confirm, movable, show_source
from core.models import CaptioningRNN
from core.optim import adam, rmsprop, sgd, sgd_momentum

lessons.style()

# %% [markdown]
# ## What an update rule is
#
# A rule takes a weight and its gradient, and returns the new weight. It may remember something from step to step.
# This is what the four rules remember:

# %% tags=["hide-input"]
drawing = Sketch(8, 2.5)
weight = drawing.box(0.8, 1.9, "weight $w$", width=1.2)
gradient = drawing.box(0.8, 0.9, "gradient $g$", "gradient", width=1.2)
rule = drawing.box(2.9, 1.4, "rule", "op", width=1.0, height=0.6)
after = drawing.box(4.9, 1.4, "new weight", width=1.2)
memory = drawing.box(2.9, 0.35, "memory", "given", width=1.1)
drawing.arrow(weight, rule)
drawing.arrow(gradient, rule, kind="gradient")
drawing.arrow(rule, after)
drawing.arrow((2.7, 0.56), (2.7, 1.1), kind="grey")
drawing.arrow((3.1, 1.1), (3.1, 0.56), kind="grey")
remembered = (
    ("gradient descent:", "nothing"), ("momentum:", "a velocity $u$"),
    ("RMSProp:", "mean squares $v$"), ("Adam:", "means $m$ and $v$"),
)  # fmt: skip
for row, (name, what) in enumerate(remembered):
    drawing.axes.text(
        5.75, 2.05 - 0.45 * row, f"{name}\n  {what}", fontsize=11, va="center"
    )
drawing.show()

# %% [markdown]
# In the code a rule is `rule(w, dw, config)`, where `dw` is the gradient. The dict `config` holds the rule's numbers,
# such as the learning rate, and its memory. The rule returns the new weight and `config`, with the new memory in it.
#
# ## By hand: one weight
#
# The simplest loss with a bottom (at $w = 0$) is $\mathcal{L}(w) = \tfrac12 \lambda w^2$. The gradient is
# $\lambda w$, and $\lambda$ is the **curvature**: the larger it is, the steeper the walls. **Gradient descent** steps
# against the gradient. The **learning rate** $\eta$ says how far:
#
# $$ w \;\leftarrow\; w - \eta\lambda w = (1 - \eta\lambda)\, w $$
#
# So every step multiplies $w$ by the same factor.
#
# *Predict.* Let $\lambda = 2$, and start at $w = 1$. For each of the rates 0.1, 0.5, 0.9 and 1.1: does $w$ come
# close to the bottom, and how?

# %%
curvature = 2.0
for rate in (0.1, 0.5, 0.9, 1.1):
    w, after = 1.0, []
    for _ in range(5):
        w = w - rate * curvature * w
        after.append(w)
    factor = 1 - rate * curvature
    print(f"rate {rate}, factor {factor:4.1f}:", *(f"{w:6.3f}" for w in after))
    assert np.allclose(after, factor ** np.arange(1, 6))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.1: it creeps towards 0. 0.5: it is there in one step. 0.9: it jumps from side to side and comes closer, as fast as
# with 0.1. 1.1: it jumps from side to side and explodes.
# </details>
#
# The weight shrinks if the factor is between −1 and 1. So
# $\lvert 1 - \eta\lambda \rvert < 1$, which means
#
# $$ 0 < \eta < \frac{2}{\lambda} $$
#
# **The curvature limits the learning rate.** It does not matter how far from the bottom you start.
#
# *Your turn.* Which rate brings $w$ to the bottom in one step? Write it for any curvature, in one line.


# %% tags=["task"]
def rate_that_arrives(curvature):
    """The learning rate with which one step reaches the bottom."""
    ### BEGIN SOLUTION
    return 1 / curvature
    ### END SOLUTION


def w_after_one_step(curvature):
    rate = rate_that_arrives(curvature)
    assert rate != 2 / curvature, "that is the limit: w lands on the other side"
    return None if rate is None else 3 - rate * curvature * 3


compare(w_after_one_step, lambda curvature: 0.0, 2.0, also={"with curvature 8": (8.0,)})

# %% [markdown]
# Here is gradient descent in `core`. It is called `sgd`, for *stochastic* gradient descent: in training, each
# gradient comes from a random batch. (`_filled` puts a default where `config` lacks a number.)

# %%
show_source(sgd)

# %% [markdown]
# ## A valley
#
# A real loss has many weights, and it curves more in some directions than in others. Two weights show what that does:
#
# $$ \mathcal{L}(w_1, w_2) = \tfrac12 \left(\lambda_1 w_1^2 + \lambda_2 w_2^2\right), \qquad \lambda_1 = 1, \quad \lambda_2 = 25 $$
#
# This is a long valley with steep walls. The ratio of the curvatures is its **condition number**
# $\kappa = \lambda_2 / \lambda_1 = 25$. (Near a minimum most smooth losses look like this, but seldom along the axes.)
#
# The two weights do not mix. A step multiplies $w_1$ by $1 - \eta\lambda_1$ and $w_2$ by $1 - \eta\lambda_2$.

# %%
CURVATURE = np.array([1.0, 25.0])
TOP = np.array([-10.0, 1.5])


def height(w):
    return 0.5 * np.sum(CURVATURE * w**2, axis=-1)


def descend(rule, steps, **config):
    """The path of a rule through the valley, (steps + 1, 2)."""
    w, path = TOP, [TOP]
    for _ in range(steps):
        w, config = rule(w, CURVATURE * w, config)
        path.append(w)
    return np.array(path)


# %% [markdown]
# *Predict.* Above which learning rate do the steps explode? And which is the best: a rate near
# 0.02, 0.05 or 0.08?


# %% tags=["hide-input"]
def draw_valley(axes, path, title, colour=ORANGE, wall=2.1):
    w1, w2 = np.meshgrid(np.linspace(-11, 3, 150), np.linspace(-wall, wall, 150))
    levels = np.geomspace(0.5, 200, 6)
    surface = height(np.stack([w1, w2], axis=-1))
    axes.contour(w1, w2, surface, levels, colors=GREY, linewidths=0.6, alpha=0.6)
    axes.plot(*path.T, "o-", color=colour, markersize=3, linewidth=1.2)
    axes.plot(0, 0, "k+", markersize=9)
    axes.set(title=title, xlabel="$w_1$", xlim=(-11, 3), ylim=(-wall, wall))
    axes.grid(False)


figure, row = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for axes, rate in zip(row, (0.02, 2 / 26, 0.081), strict=True):
    path = descend(sgd, 25, learning_rate=rate)
    assert np.allclose(path[-1], (1 - rate * CURVATURE) ** 25 * TOP)
    draw_valley(axes, path, f"rate {rate:.2g}: loss {height(path[-1]):.2g}")
row[0].set_ylabel("$w_2$")
figure.suptitle("Gradient descent in a valley, 25 steps; + is the bottom")
plt.show()

best_sgd = descend(sgd, 100, learning_rate=2 / 26)
factors = np.abs(best_sgd[-1] / best_sgd[-2])
print(f"rate 0.077 multiplies w1 and w2 by {factors[0]:.3f} and {factors[1]:.3f} in size")
assert np.allclose(factors, 24 / 26)
rates = np.linspace(0.001, 0.079, 200)
ends = [height(descend(sgd, 500, learning_rate=rate)[-1]) for rate in rates]
assert abs(rates[np.argmin(ends)] - 2 / 26) < 5e-4

# %% [markdown]
# <details><summary>Answer</summary>
#
# The limits are $2/\lambda_1 = 2$ and $2/\lambda_2 = 0.08$, and the smaller one counts. The best rate is just below it,
# at 0.077.
# </details>
#
# With a rate below 0.08, $w_1$ shrinks by less than 8 % per step. **The steep direction sets the rate, and the flat one
# pays for it.** In the long run the larger of the two factors counts. A higher rate makes the factor of $w_1$ smaller.
# But once $w_2$ jumps from side to side, it makes the factor of $w_2$ larger in size. So the best rate makes the two
# sizes equal:
# $1 - \eta\lambda_1 = \eta\lambda_2 - 1$, and
#
# $$ \eta = \frac{2}{\lambda_1 + \lambda_2} = 0.077, \qquad \text{factor per step}
#    = \frac{\lambda_2 - \lambda_1}{\lambda_2 + \lambda_1}
#    = \frac{\kappa - 1}{\kappa + 1} = 0.92 $$
#
# For a large $\kappa$ this factor is about $1 - 2/\kappa$, and $n$ steps multiply $w$ by about $e^{-2n/\kappa}$. So a
# valley with twice the condition number takes about twice as many steps.
#
# ## Momentum: steps that add up
#
# Look at the middle path again. Across the valley, the gradient changes its sign at every step. Along the valley, it
# always points the same way. A rule with a memory can tell the two apart.
#
# **Momentum** remembers a *velocity* $u$. It keeps the part $\mu$ of the old velocity (0.9 is usual), adds the gradient
# $g$, and steps along the result:
#
# $$ u \;\leftarrow\; \mu\, u + g, \qquad w \;\leftarrow\; w - \eta\, u $$
#
# *Your turn.* Write one step, in two lines. Do not write into `w` or `u`: make new arrays.


# %% tags=["task"]
def momentum_step(w, g, u, rate, mu):
    """The new weight and the new velocity."""
    ### BEGIN SOLUTION
    u = mu * u + g
    return w - rate * u, u
    ### END SOLUTION


def by_core(w, g, u, rate, mu):
    config = {"learning_rate": rate, "momentum": mu, "velocity": u}
    return sgd_momentum(w, g, config)[0], config["velocity"]


w, g, u = np.array([[0.0, 0, 0], [1, -2, 3], [2, 1, -1]])
compare(momentum_step, by_core, w, g, 0 * u, 0.1, 0.9, also={"later": (w, g, u, 0.1, 0.8)})

# %% [markdown]
# *Predict.* Let $\mu = 0.9$. The velocity begins at 0, and the gradient is always 1. Which number does the velocity
# approach? And what happens if the gradient is 1, −1, 1, −1, ...?

# %%
for name, gradients in (("stays", [1, 1] * 50), ("alternates", [1, -1] * 50)):
    u, velocities = 0.0, []
    for g in gradients:
        u = 0.9 * u + g
        velocities.append(u)
    first = ", ".join(f"{u:.3f}" for u in velocities[:4])
    print(f"the gradient {name}: {first} ... {velocities[-2]:.3f}, {velocities[-1]:.3f}")
    assert np.isclose(abs(u), 10 if name == "stays" else 1 / 1.9, rtol=1e-4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It approaches the solution of $u = 0.9\,u + 1$, and that is 10. Where the gradient alternates, the velocity soon
# alternates, too. Then the part that is kept has the opposite sign to the new gradient. So the size of the velocity
# approaches the solution of $u = 1 - 0.9\,u$, which is 0.53.
# </details>
#
# In general, where the gradient stays the same, steps become $1/(1 - \mu)$ times as long as without momentum. Where it
# alternates, they become $1/(1 + \mu)$ times as long.
#
# ### How much is gained
#
# Momentum raises the limit of the learning rate. Take one weight again. At the limit, steps neither shrink nor explode:
# $w$ jumps between one place and its mirror image for ever. There the gradient alternates, so momentum makes the steps
# $1/(1 + \mu)$ times as long. To jump as far as before, the rate must be $1 + \mu$ times as large. **The limit was $2/\lambda$; it is now $2(1 + \mu)/\lambda$.**
#
# *Predict, then move the sliders.* Without momentum, a rate of 0.11 explodes in our valley. Which of the momenta 0, 0.2,
# 0.44, 0.7 and 0.9 is the smallest with which it does not? Then find the pair with the lowest loss.

# %% tags=["hide-input"]
RATES, MOMENTA = (0.02, 0.04, 0.077, 0.09, 0.11, 0.12), (0, 0.2, 0.44, 0.7, 0.9)


def draw_descent(rate, momentum):
    figure, axes = plt.subplots(figsize=(4.8, 2.3))
    path = descend(sgd_momentum, 25, learning_rate=rate, momentum=momentum)
    draw_valley(axes, path, f"25 steps; loss at the end {height(path[-1]):.2g}")
    axes.set_ylabel("$w_2$")


movable(
    draw_descent,
    {"learning_rate": 0.077, "momentum": 0},
    learning_rate=RATES,
    momentum=MOMENTA,
)
explodes = {
    (rate, mu): height(descend(sgd_momentum, 200, learning_rate=rate, momentum=mu)[-1]) > 1
    for rate in RATES
    for mu in MOMENTA
}
assert [rate for rate in RATES if explodes[rate, 0]] == [0.09, 0.11, 0.12]
assert [mu for mu in MOMENTA if not explodes[0.11, mu]] == [0.44, 0.7, 0.9]
after_25 = {
    pair: height(descend(sgd_momentum, 25, learning_rate=pair[0], momentum=pair[1])[-1])
    for pair in explodes
}
assert min(after_25, key=after_25.get) == (0.11, 0.44)
assert min(after_25[rate, 0.9] for rate in RATES) > 100 * after_25[0.11, 0.44]

# %% [markdown]
# <details><summary>Answer</summary>
#
# A rate of 0.11 needs $2(1 + \mu)/25 > 0.11$, that is, $\mu > 0.375$. Of the momenta here, 0.44 is the smallest. Rate
# 0.11 with momentum 0.44 is also the best pair.
# </details>
#
# More momentum is not always better: with 0.9 the path swings around the bottom for a long time. The best pair can be
# computed for every valley; [4b](04b_clipping_decay_schedules.ipynb#What-momentum-gains) derives it. Its rate and its
# factor per step, in the long run, are
#
# $$ \eta = \frac{(1 + \sqrt\mu)^2}{\lambda_2}, \qquad \text{factor per step} = \sqrt\mu
#    = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1} $$
#
# With gradient descent the factor was $(\kappa - 1)/(\kappa + 1)$. **Momentum puts $\sqrt\kappa$ in place of
# $\kappa$.** In our valley the factor falls from 0.92 to $4/6 = 0.67$, with $\mu = 0.44$. For $\kappa = 10{,}000$ it falls from 0.9998 to
# 0.980.

# %%
# best_sgd is the path of gradient descent at its best rate
root = (np.sqrt(25) - 1) / (np.sqrt(25) + 1)
mu, best_rate = root**2, (1 + root) ** 2 / 25
path = descend(sgd_momentum, 100, momentum=mu, learning_rate=best_rate)
steps_sgd, steps_momentum = (int(np.argmax(height(w) < 1e-3)) for w in (best_sgd, path))
print(f"to a loss of 0.001: gradient descent {steps_sgd} steps, momentum {steps_momentum}")
print(f"best rate: gradient descent {2 / 26:.3f}, momentum {best_rate:.3f} (mu = {mu:.2f})")

# %% tags=["hide-input"]
assert 0 < steps_momentum < steps_sgd / 2
assert round(best_rate, 3) == 0.111 and round(2 / 26, 3) == 0.077
assert round((100 - 1) / (100 + 1), 3) == 0.980 and round(9999 / 10001, 4) == 0.9998
limit = 2 * (1 + mu) / 25
for part, arrives in ((0.99, True), (1.01, False)):
    path = descend(sgd_momentum, 2000, momentum=mu, learning_rate=part * limit)
    assert (height(path[-1]) < 1e-6) == arrives

# %% [markdown]
# So in a valley the best rate with momentum is higher, not lower: 0.111 instead of 0.077. (With $\mu = 0.9$ people often
# start with a lower rate, because steps can become ten times as long.)

# %%
show_source(sgd_momentum, docstring=False)

# %% [markdown]
# ### Equal to PyTorch, step by step
#
# Rules have no backward pass to check, so we compare their steps with PyTorch's. A small mistake may show late. So we
# take 100 steps, with gradients of sizes from 0.0001 to 100 and a rate that changes half-way. We repeat it with gradients
# 1e-10 times as large. (The next two rules add a tiny number to a divisor. If it is in a wrong place, this shows only
# with tiny gradients.)


# %% tags=["hide-input"]
def largest_difference(rule, torch_rule, scale):
    """Between our parameters and PyTorch's, over 100 steps, relative to the distance covered."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 5))
    w, config = start, {"learning_rate": 0.01}
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


def equals_torch(rule, torch_rule):
    worst = max(largest_difference(rule, torch_rule, scale) for scale in (1, 1e-10))
    said = "less than 1e-12" if worst < 1e-12 else f"up to {100 * worst:.0f} %"
    print(f"{rule.__name__}: {said} off PyTorch's way, over 100 steps")
    return worst < 1e-12


# %%
assert equals_torch(sgd, lambda w: torch.optim.SGD(w, lr=0.01))
assert equals_torch(sgd_momentum, lambda w: torch.optim.SGD(w, lr=0.01, momentum=0.9))

# %% [markdown]
# ## RMSProp: a rate for each weight
#
# There is another cure for the valley: give each weight a rate of its own. Where gradients are large, the rate is small.
# **RMSProp** keeps for each weight a *running mean* $v$ of its squared gradient: at every step, the part $1 - \beta$ of
# the mean is replaced by the new value. Then it divides the gradient by the root of $v$, the *root mean square*:
#
# $$ v \;\leftarrow\; \beta\, v + (1 - \beta)\, g^2, \qquad
#    w \;\leftarrow\; w - \eta\,\frac{g}{\sqrt{v} + \epsilon} $$
#
# All of this works entry by entry. Here $\beta = 0.99$, so $v$ remembers about the last 100 steps, and
# $\epsilon = 10^{-8}$ prevents a division by 0. (In `core`, $v$ is called `cache` and $\beta$ `decay_rate`.)
#
# *Your turn.* Write one step, in two lines.


# %% tags=["task"]
def rmsprop_step(w, g, v, rate, beta):
    """The new weight and the new v; epsilon is 1e-8."""
    ### BEGIN SOLUTION
    v = beta * v + (1 - beta) * g**2
    return w - rate * g / (np.sqrt(v) + 1e-8), v
    ### END SOLUTION


def by_core(w, g, v, rate, beta):
    config = {"learning_rate": rate, "decay_rate": beta, "cache": v}
    return rmsprop(w, g, config)[0], config["cache"]


w, g, v = np.array([[0.0, 0, 0], [-1, 1e-7, 0], [3, 1, 2]])
compare(rmsprop_step, by_core, w, g, 0 * v, 0.1, 0.96, also={"then": (w, g, v, 0.1, 0.9)})

# %% [markdown]
# *Predict.* Two weights have gradients that differ a hundredfold: 1 and 100. How long are their first steps, in *rates*,
# that is, in multiples of $\eta$? ($v$ begins at 0, and $\beta$ is 0.99.)

# %%
v = np.zeros(2)
for t, g in enumerate(np.array([[1.0, 100.0], [1.0, 100.0], [-0.5, -50.0]]), 1):
    v = 0.99 * v + 0.01 * g**2
    step = g / np.sqrt(v)
    print(f"step {t}: g {g}, v {v}, root {np.sqrt(v)}, g / root {step}")
    assert np.isclose(step[0], step[1]) and (t > 1 or np.isclose(step[0], 10))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Both first steps are 10 rates long. After one step $v = 0.01\, g^2$, its root is $0.1\, \lvert g \rvert$, and $g$ divided by
# that is $\pm 10$.
# </details>
#
# Both weights take the same steps: **the scale of the gradient cancels**. So it does not matter any more how much
# steeper $w_2$ is than $w_1$. Nor does it matter whether a loss is a sum or a mean.
#
# But the first step is ten rates long. As long as $v$ is too small, because it began at 0, steps are too long:


# %%
w, config, lengths = np.zeros(1), {"learning_rate": 1.0}, []
for _ in range(300):
    after, config = rmsprop(w, np.ones(1), config)  # the gradient is always 1
    lengths.append((w - after)[0])
    w = after
print(*(f"step {t}: {lengths[t - 1]:.1f} rates" for t in (1, 2, 3, 10, 100, 300)), sep="\n")

# %% tags=["hide-input"]
assert np.isclose(lengths[0], 10) and 0.9 < lengths[299] < 1.1
assert np.all(np.diff(lengths) < 0)
show_source(rmsprop, docstring=False)
assert equals_torch(rmsprop, lambda w: torch.optim.RMSprop(w, lr=0.01))

# %% [markdown]
# ## Adam: both memories, and a better start
#
# **Adam** keeps two running means. The mean $m$ of the gradient replaces the gradient, much as the velocity did. The
# mean $v$ of its square is that of RMSProp:
#
# $$ m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2, \qquad
#    \beta_1 = 0.9, \quad \beta_2 = 0.999 $$
#
# Both begin at 0, so both are too small at first. By how much? Write the mean out for $t$ steps in which the gradient
# is always $g$:
#
# $$ m_t = (1 - \beta_1)\left(1 + \beta_1 + \dots + \beta_1^{\,t-1}\right) g
#    = (1 - \beta_1)\,\frac{1 - \beta_1^t}{1 - \beta_1}\; g = \left(1 - \beta_1^t\right) g $$
#
# So $m$ is too small by the factor $1 - \beta_1^t$, and Adam divides by that. (If the gradients vary around a mean, this
# holds on average.) The same holds for $v$ with $\beta_2$. This is the **bias correction**:
#
# $$ \hat m = \frac{m}{1 - \beta_1^t}, \qquad \hat v = \frac{v}{1 - \beta_2^t}, \qquad
#    w \leftarrow w - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon} $$
#
# *Predict.* The first gradient is 1. How long is Adam's first step, in rates? And how long would it be without the
# correction, that is, with $m$ and $v$ themselves?

# %%
m = v = w_by_hand = 0.0
w, config = np.zeros(1), {"learning_rate": 1.0}
for t, g in enumerate((1.0, 0.5, -0.2), 1):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    step, without = m_hat / (np.sqrt(v_hat) + 1e-8), m / (np.sqrt(v) + 1e-8)
    print(f"step {t}: m {m:.4f}, m hat {m_hat:.4f}, v {v:.6f}, v hat {v_hat:.4f}")
    print(f"        {step:.4f} rates long; without the correction {without:.4f}")
    w_by_hand -= step
    w, config = adam(w, np.array([g]), config)
    assert t > 1 or np.allclose([step, without], [1, 10**0.5])
assert np.isclose(w[0], w_by_hand)

# %% [markdown]
# <details><summary>Answer</summary>
#
# With the correction it is 1 rate long, for any gradient well above $\epsilon$: $\hat m = g$ and
# $\sqrt{\hat v} = \lvert g \rvert$. Without it, $m = 0.1$ is 10 times too small. But $v = 0.001$ is 1000 times too small,
# and its root 31.6 times. We divide by that root, so the step is 3.16 times too *long*.
# </details>
#
# Without the correction, steps stay too long for hundreds of steps:
# [4b](04b_clipping_decay_schedules.ipynb#The-tempting-wrong-way:-leave-the-correction-out) measures it.

# %%
show_source(adam, docstring=False)
assert equals_torch(adam, lambda w: torch.optim.Adam(w, lr=0.01))

# %% [markdown]
# ## Four rules in one valley
#
# *Predict.* Multiply the loss by 16, and keep the learning rates. Which of the four rules take the same path as before?

# %% tags=["hide-input", "picture"]
rules = {
    "gradient descent": (sgd, {"learning_rate": 2 / 26}),
    "momentum": (sgd_momentum, {"learning_rate": best_rate, "momentum": root**2}),
    "RMSProp": (rmsprop, {"learning_rate": 0.3}),
    "Adam": (adam, {"learning_rate": 1.0}),
}
figure, grid = plt.subplots(2, 2, figsize=(10, 5.4), sharex=True, sharey=True)
for axes, (name, (rule, config)), colour in zip(
    grid.flat, rules.items(), (ORANGE, ORANGE, BLUE, BLUE), strict=True
):
    way = descend(rule, 40, **config)
    draw_valley(axes, way, f"{name}: loss {height(way[-1]):.2g}", colour, wall=4)
    axes.set_xlabel("")
for axes in grid[:, 0]:
    axes.set_ylabel("$w_2$")
for axes in grid[1]:
    axes.set_xlabel("$w_1$")
figure.suptitle("The same valley, 40 steps")
plt.show()

for name, (rule, config) in rules.items():
    w, scaled, config1, config2 = TOP, TOP, dict(config), dict(config)
    for _ in range(40):
        w, config1 = rule(w, CURVATURE * w, config1)
        scaled, config2 = rule(scaled, 16 * CURVATURE * scaled, config2)
    same = np.allclose(w, scaled, atol=1e-4)
    verdict = "the same way" if same else f"explodes, loss {height(scaled):.0e}"
    print(f"{name:<16} with a loss 16 times as large: {verdict}")
    assert same == (name in ("RMSProp", "Adam")) and (same or height(scaled) > 1e6)

turn = np.sqrt(0.5) * np.array([[1, -1], [1, 1]])  # the same valley, turned by 45 degrees
w, config = turn @ TOP, {"learning_rate": 0.3}
for _ in range(40):
    w, config = rmsprop(w, turn @ (CURVATURE * (turn.T @ w)), config)
assert height(turn.T @ w) > 0.1 > 1e6 * height(descend(rmsprop, 40, learning_rate=0.3)[-1])

# %% [markdown]
# <details><summary>Answer</summary>
#
# RMSProp and Adam: a rule that divides by the size of the gradient does not depend on the units of the loss. The
# other two explode.
# </details>
#
# Gradient descent and momentum zigzag, but momentum arrives. RMSProp starts diagonally, since both weights take equally
# long steps at first. So does Adam; then it overshoots the bottom and comes back.
#
# Do not rank the rules by these losses: the rates were chosen for this valley. And the valley runs along an axis. In a
# diagonal one, a rate for each weight helps much less.
#
# ## Does it matter for captions?
#
# The small captioner of [lesson 5](05_the_vanilla_rnn.ipynb) learns the same 500 captions for 60 steps with each rule,
# from the same weights. Each rule has the best of five rates; [4b](04b_clipping_decay_schedules.ipynb) compares them. (The
# curves add up the nats of a whole caption; the printed losses are means over tokens.)

# %% tags=["hide-input"]
data = lessons.embedded_data("rnn", num_samples=500)


def train(rule, rate):
    model = CaptioningRNN(
        data["word_to_idx"], data["train_features"].shape[1], wordvec_dim=24, hidden_dim=48,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    solver = CaptioningSolver(
        model, data, update_rule=rule, optim_config={"learning_rate": rate},
        num_epochs=3, batch_size=25, verbose=False,
    )  # fmt: skip
    solver.train()
    return solver


# %% tags=["hide-input"]
best_rates = {"sgd": 0.1, "sgd_momentum": 0.03, "rmsprop": 0.01, "adam": 0.01}
solvers = {rule: train(rule, rate) for rule, rate in best_rates.items()}
lines = ((GREY, "-"), (GREY, "--"), (ORANGE, "-"), (BLUE, "-"))
for (rule, solver), (colour, line) in zip(solvers.items(), lines, strict=True):
    smooth = np.convolve(solver.loss_history, np.ones(5) / 5, mode="valid")
    label = f"{rule}, rate {best_rates[rule]:g}"
    plt.plot(np.arange(len(smooth)) + 2, smooth, line, color=colour, label=label)
plt.gca().set(xlabel="step", ylabel="nats per caption, mean of 5 steps", ylim=(0, None))
plt.gca().set_title("One captioner, four rules")
plt.legend()
plt.show()
ends = {rule: solver.evaluate("train") for rule, solver in solvers.items()}
for rule, end in ends.items():
    print(f"{rule:<13} rate {best_rates[rule]:<5g} {end:.2f} nats per token")
assert max(ends["rmsprop"], ends["adam"]) < ends["sgd_momentum"] < ends["sgd"]

# %% [markdown]
# Here momentum ends below gradient descent, and the two that divide by the size of the gradient end below both. That is
# one model, one seed, 60 steps and the training loss. It does not say which rule is best elsewhere.
#
# **To go deeper:** [4b](04b_clipping_decay_schedules.ipynb) derives what momentum gains. It adds *clipping*, which shortens
# a gradient that is too long, *weight decay*, and a learning rate that changes over time. No lesson needs it.
#
# ## What to keep
#
# * The steepest curvature limits the learning rate, and the flattest direction pays for it. The number of steps grows
#   like $\kappa$; with momentum it grows like $\sqrt\kappa$.
# * A rule that divides by the size of the gradient does not depend on the scale of the loss.
# * A running mean that starts at 0 is too small by the factor $1 - \beta^t$. Adam corrects that; otherwise its first step
#   would be 3.16 times too long.
#
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
# others (2013), as PyTorch has it, the velocity is that of momentum, $u \leftarrow \mu u + g$, and the step goes
# along $g + \mu u$, with the new $u$:
#
# $$ w \leftarrow w - \eta\,(g + \mu\, u) $$
#
# Write it. `config` holds `learning_rate` ($\eta$), `momentum` ($\mu$) and, from the second step on, the velocity
# under `"velocity"`. Return the new parameter and the config; do not write into `w` or `dw`.
#
# Then measure in a valley with the curvatures 1 and 100, $\eta = 0.009$ and $\mu = 0.9$, from $(1, 1)$: after how
# many steps is $\tfrac12(w_1^2 + 100\, w_2^2)$ below $10^{-6}$, and stays there? It may rise again once it was below: follow
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
# **Sources.** H. Robbins and S. Monro, *A stochastic approximation method*, Annals of Mathematical Statistics 22
# (1951). B. Polyak, *Some methods of speeding up the convergence of iteration methods*, USSR Computational
# Mathematics and Mathematical Physics 4 (1964). Y. Nesterov, *A method of solving a convex programming problem
# with convergence rate O(1/k²)*, Soviet Mathematics Doklady 27 (1983). T. Tieleman and G. Hinton, *Lecture 6.5:
# RMSProp*, Coursera: Neural Networks for Machine Learning (2012). I. Sutskever, J. Martens, G. Dahl and G. Hinton,
# *On the importance of initialization and momentum in deep learning*, ICML 2013. D. Kingma and J. Ba, *Adam: a
# method for stochastic optimization*, ICLR 2015.
#
# **Next:** [lesson 5, the vanilla RNN](05_the_vanilla_rnn.ipynb): a layer with a memory.
