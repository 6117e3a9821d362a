"""Update rules: from a parameter and its gradient to the next parameter.

Every rule is ``rule(w, dw, config) -> next_w, config``. ``config`` holds the rule's numbers,
filled in with defaults, and what it remembers between steps; it is updated and returned. Neither w
nor dw is written to. Step by step the rules equal their namesakes in ``torch.optim``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.fast.threads import in_parallel, number_of_threads

Array = np.ndarray


def _filled_in(config: dict | None, **defaults: float) -> dict:
    """The config with defaults for what it lacks, its numbers as Python floats.

    A NumPy number of double precision would turn float32 parameters into float64 ones.
    """
    config = {} if config is None else config
    for name, default in defaults.items():
        config[name] = float(config.get(name, default))
    return config


_ADAM = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
_ADAMW = {**_ADAM, "weight_decay": 1e-2}


def sgd(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """Stochastic gradient descent (Robbins and Monro 1951): ``w - learning_rate * dw``.

    config: learning_rate (1e-2).
    """
    config = _filled_in(config, learning_rate=1e-2)
    return w - config["learning_rate"] * dw, config


def sgd_momentum(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """SGD with momentum (Polyak 1964), the rate outside of the velocity as in PyTorch::

        velocity = momentum * velocity + dw
        w        = w - learning_rate * velocity

    config: learning_rate (1e-2), momentum (0.9), velocity (zeros).
    """
    config = _filled_in(config, learning_rate=1e-2, momentum=0.9)
    velocity = config.get("velocity", np.zeros_like(w))
    config["velocity"] = config["momentum"] * velocity + dw
    return w - config["learning_rate"] * config["velocity"], config


def rmsprop(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """RMSProp (Tieleman and Hinton, Coursera lecture 6.5, 2012)::

        cache = decay_rate * cache + (1 - decay_rate) * dw^2
        w     = w - learning_rate * dw / (sqrt(cache) + epsilon)

    config: learning_rate (1e-2), decay_rate (0.99), epsilon (1e-8), cache (zeros).
    """
    config = _filled_in(config, learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    decay = config["decay_rate"]
    cache = config.get("cache", np.zeros_like(w))
    config["cache"] = decay * cache + (1 - decay) * dw**2
    step = config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"])
    return w - step, config


def adam(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1)::

        m = beta1 * m + (1 - beta1) * dw                 mean of the gradient
        v = beta2 * v + (1 - beta2) * dw^2               mean of its square
        w = w - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    epsilon is added after the bias correction: before it, the first steps would be far too short
    wherever the gradient is small.

    config: learning_rate (1e-3), beta1 (0.9), beta2 (0.999), epsilon (1e-8), m and v (zeros), t (0,
    the number of steps taken).
    """
    config = _filled_in(config, **_ADAM)
    beta1, beta2 = config["beta1"], config["beta2"]
    t = config["t"] = config.get("t", 0) + 1
    m = config["m"] = beta1 * config.get("m", np.zeros_like(w)) + (1 - beta1) * dw
    v = config["v"] = beta2 * config.get("v", np.zeros_like(w)) + (1 - beta2) * dw**2
    denominator = np.sqrt(v) / (1 - beta2**t) ** 0.5 + config["epsilon"]
    return w - (config["learning_rate"] / (1 - beta1**t)) * m / denominator, config


def adamw(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019, algorithm 2).

    ``w`` shrinks by the factor ``1 - learning_rate * weight_decay``, then takes the step of Adam;
    the decay does not pass through the means m and v. (The paper's factor leaves the learning rate
    out; this is PyTorch's.)

    config: as for ``adam``, and weight_decay (1e-2).
    """
    config = _filled_in(config, **_ADAMW)
    return adam(w * (1 - config["learning_rate"] * config["weight_decay"]), dw, config)


RULES = {rule.__name__: rule for rule in (sgd, sgd_momentum, rmsprop, adam, adamw)}


def numbers_of(rule: str, config: Mapping[str, float]) -> dict[str, float]:
    """The numbers of an update rule: those given, and its defaults; without what it remembers."""
    given = {name: value for name, value in config.items() if not isinstance(value, np.ndarray)}
    _, filled = RULES[rule](np.zeros(1), np.zeros(1), given)
    return {name: value for name, value in filled.items() if isinstance(value, float)}


def clip_factor(grads: Mapping[str, Array], max_norm: float) -> tuple[float, float]:
    """The factor that brings the common norm of all gradients down to ``max_norm``; and the norm.

    Pascanu, Mikolov and Bengio (ICML 2013, algorithm 1), with the 1e-6 in the denominator of
    ``torch.nn.utils.clip_grad_norm_``. The factor is 1 where the norm is small enough.
    """
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in grads.values())))
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


# ---------------------------------------------------------------------------------------------
# In place: the same numbers in a quarter of the time, most of which goes into moving memory
# ---------------------------------------------------------------------------------------------

_PIECE = 1 << 16  # entries; about as many of w, dw, m and v as a core's cache holds


def update_in_place(
    rule: str,
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    configs: dict[str, dict],
    scale: float = 1.0,
) -> None:
    """One step of a rule for all parameters, written into them.

    Inputs, by the name of the parameter:
    - rule: a name in ``RULES``
    - params: C-contiguous arrays, which are overwritten
    - grads: arrays of the same shapes
    - configs: what the rule is given and remembers, in C-contiguous arrays as well; brought up to
      date, in place
    - scale: factor on the gradients, as ``clip_factor`` finds it

    Raises ValueError for arrays that are not C-contiguous: they cannot be cut up.
    """
    if rule in ("adam", "adamw"):
        _adam_in_place(rule, params, grads, configs, scale)
        return
    for name, w in params.items():
        dw = grads[name] if scale == 1 else scale * grads[name]
        w[...], configs[name] = RULES[rule](w, dw, configs[name])


def _adam_in_place(rule: str, params, grads, configs, scale: float) -> None:
    """``adam`` or ``adamw``, piece by piece on all cores."""
    pieces = []
    for name, w in params.items():
        config = _filled_in(configs[name], **{"adam": _ADAM, "adamw": _ADAMW}[rule])
        config["t"] = config.get("t", 0) + 1
        for memory in ("m", "v"):
            if memory not in config:
                config[memory] = np.zeros_like(w)
        for array in (w, config["m"], config["v"]):
            if not array.flags.c_contiguous:
                raise ValueError(f"{name}: found an array that is not C-contiguous; copy it first")
        arrays = [x.reshape(-1) for x in (w, grads[name], config["m"], config["v"])]
        for start in range(0, w.size, _PIECE):
            pieces.append((config, *(x[start : start + _PIECE] for x in arrays)))

    def take(share: int) -> None:
        buffer = np.empty(_PIECE, dtype=w.dtype)
        for config, *arrays in pieces[share::threads]:
            decay = config["weight_decay"] if rule == "adamw" else 0.0
            _adam_piece(*arrays, buffer[: arrays[0].size], config, scale, decay)

    threads = number_of_threads()
    in_parallel(take, range(threads))


def _adam_piece(
    w: Array, dw: Array, m: Array, v: Array, x: Array, config: dict, scale: float, decay: float
) -> None:
    """The formulas of ``adam`` and ``adamw``, all that comes in between in one buffer x."""
    rate, t = config["learning_rate"], config["t"]
    beta1, beta2 = config["beta1"], config["beta2"]
    correction = (1 - beta2**t) ** 0.5
    # m = beta1 * m + (1 - beta1) * dw
    m *= beta1
    np.multiply(dw, scale * (1 - beta1), out=x)
    m += x
    # v = beta2 * v + (1 - beta2) * dw^2
    v *= beta2
    np.multiply(x, x, out=x)
    x *= (1 - beta2) / (1 - beta1) ** 2
    v += x
    # w = w - rate * (m / (1 - beta1^t)) / (sqrt(v) / correction + epsilon)
    np.sqrt(v, out=x)
    x += correction * config["epsilon"]
    np.divide(m, x, out=x)
    x *= rate * correction / (1 - beta1**t)
    if decay:
        w *= 1 - rate * decay
    w -= x
