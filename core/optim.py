"""Update rules: from a parameter and its gradient to the next parameter.

Every rule is ``rule(w, dw, config) -> next_w, config``. ``config`` holds the rule's numbers,
filled in with defaults, and what it remembers between steps; it is updated and returned. Neither w
nor dw is written to. Step by step the rules equal their namesakes in ``torch.optim``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.layers import floats

Array = np.ndarray


def _filled(w, dw, config: dict | None, **defaults: float) -> tuple[Array, Array, dict]:
    """w, dw, and the config with defaults for what it lacks, its numbers as Python floats.

    A NumPy number of double precision would turn float32 parameters into float64 ones.
    """
    w, dw = floats(w, dw)
    config = {} if config is None else config
    for name, default in defaults.items():
        config[name] = float(config.get(name, default))
    return w, dw, config


def sgd(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """Stochastic gradient descent (Robbins and Monro 1951): ``w - learning_rate * dw``.

    config: learning_rate (1e-2).
    """
    w, dw, config = _filled(w, dw, config, learning_rate=1e-2)
    return w - config["learning_rate"] * dw, config


def sgd_momentum(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """SGD with momentum (Polyak 1964), the rate outside of the velocity as in PyTorch::

        velocity = momentum * velocity + dw
        w        = w - learning_rate * velocity

    config: learning_rate (1e-2), momentum (0.9), velocity (zeros).
    """
    w, dw, config = _filled(w, dw, config, learning_rate=1e-2, momentum=0.9)
    velocity = config.get("velocity", np.zeros_like(w))
    config["velocity"] = config["momentum"] * velocity + dw
    return w - config["learning_rate"] * config["velocity"], config


def rmsprop(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """RMSProp (Tieleman and Hinton, Coursera lecture 6.5, 2012)::

        cache = decay_rate * cache + (1 - decay_rate) * dw^2
        w     = w - learning_rate * dw / (sqrt(cache) + epsilon)

    config: learning_rate (1e-2), decay_rate (0.99), epsilon (1e-8), cache (zeros).
    """
    w, dw, config = _filled(w, dw, config, learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    decay = config["decay_rate"]
    cache = config.get("cache", np.zeros_like(w))
    config["cache"] = decay * cache + (1 - decay) * dw**2
    step = config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"])
    return w - step, config


def adam(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1)::

        m = beta1 * m + (1 - beta1) * dw                 mean of the gradient
        v = beta2 * v + (1 - beta2) * dw^2               mean of its square
        m_hat, v_hat = m / (1 - beta1^t), v / (1 - beta2^t)     m and v began at 0
        w = w - learning_rate * m_hat / (sqrt(v_hat) + epsilon)

    epsilon is added after the bias correction: before it, the first steps would be far too short
    wherever the gradient is small.

    config: learning_rate (1e-3), beta1 (0.9), beta2 (0.999), epsilon (1e-8), m and v (zeros), t (0,
    the number of steps taken).
    """
    w, dw, config = _filled(w, dw, config, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8)
    beta1, beta2 = config["beta1"], config["beta2"]
    t = config["t"] = config.get("t", 0) + 1
    m = config["m"] = beta1 * config.get("m", np.zeros_like(w)) + (1 - beta1) * dw
    v = config["v"] = beta2 * config.get("v", np.zeros_like(w)) + (1 - beta2) * dw**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - config["learning_rate"] * m_hat / (np.sqrt(v_hat) + config["epsilon"]), config


def adamw(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019, algorithm 2).

    ``w`` shrinks by the factor ``1 - learning_rate * weight_decay``, then takes the step of Adam;
    the decay does not pass through the means m and v. (The paper's factor leaves the learning rate
    out; this is PyTorch's.)

    config: as for ``adam``, and weight_decay (1e-2).
    """
    w, dw, config = _filled(w, dw, config, learning_rate=1e-3, weight_decay=1e-2)
    return adam(w * (1 - config["learning_rate"] * config["weight_decay"]), dw, config)


RULES = {rule.__name__: rule for rule in (sgd, sgd_momentum, rmsprop, adam, adamw)}


def numbers_of(rule: str, config: Mapping[str, float]) -> dict[str, float]:
    """The numbers of an update rule: those given, and its defaults; without what it remembers.

    Raises ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"update_rule: found {rule!r}, expected one of {', '.join(RULES)}")
    given = {name: value for name, value in config.items() if not isinstance(value, np.ndarray)}
    _, filled = RULES[rule](np.zeros(1), np.zeros(1), given)
    return {name: value for name, value in filled.items() if isinstance(value, float)}


def clip_factor(grads: Mapping[str, Array], max_norm: float) -> tuple[float, float]:
    """The factor that brings the common norm of all gradients down to ``max_norm``; and the norm.

    Pascanu, Mikolov and Bengio (ICML 2013, algorithm 1), with the 1e-6 in the denominator of
    ``torch.nn.utils.clip_grad_norm_``. The factor is 1 where the norm is small enough.
    """
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in floats(*grads.values()))))
    factor = float(max_norm) / (norm + 1e-6)
    return (1.0 if factor >= 1 else factor), norm  # NaN stays NaN, for all to see


def clip_gradient_norm(
    grads: Mapping[str, Array], max_norm: float
) -> tuple[dict[str, Array], float]:
    """Scales all gradients by one factor when their common norm exceeds ``max_norm``.

    Equals ``torch.nn.utils.clip_grad_norm_``; see ``clip_factor``.

    Inputs:
    - grads: gradients by name
    - max_norm: the largest norm to let through, above 0

    Returns the gradients (new arrays where they are scaled) and their norm before the clipping.
    """
    factor, norm = clip_factor(grads, max_norm)
    if factor == 1:
        return dict(grads), norm
    return {name: gradient * factor for name, gradient in grads.items()}, norm
