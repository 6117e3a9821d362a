"""Speeds up ``adam`` and ``adamw`` of ``core/optim.py``: in place, in pieces.

The same numbers in a quarter of the time, most of which goes into moving memory. A whole training
step gets 1.02 (attention) to 1.20 (rnn) times as fast (docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.optim import numbers_of

Array = np.ndarray

_PIECE = 1 << 16  # entries; about as many of w, dw, m and v as a core's cache holds


def update_in_place(
    rule: str,
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    configs: Mapping[str, dict],
    scale: float = 1.0,
) -> None:
    """One step of Adam for all parameters, written into them.

    Inputs, by the name of the parameter:
    - rule: 'adam' or 'adamw'
    - params: C-contiguous arrays, which are overwritten
    - grads: arrays of the same shapes
    - configs: what the rule is given and remembers, in C-contiguous arrays as well; brought up to
      date, in place
    - scale: factor on the gradients, as ``core.optim.clip_factor`` finds it

    Raises ValueError for arrays that are not C-contiguous: they cannot be cut up.
    """
    buffer = np.empty(_PIECE, dtype=next(iter(params.values())).dtype)
    for name, w in params.items():
        config = configs[name]
        if "t" not in config:
            memory = {"t": 0, "m": np.zeros_like(w), "v": np.zeros_like(w)}
            config.update(numbers_of(rule, config) | memory)
        config["t"] += 1
        for array in (w, config["m"], config["v"]):
            if not array.flags.c_contiguous:
                raise ValueError(f"{name}: found an array that is not C-contiguous; copy it first")
        decay = config["weight_decay"] if rule == "adamw" else 0.0
        arrays = [x.reshape(-1) for x in (w, grads[name], config["m"], config["v"])]
        for start in range(0, w.size, _PIECE):
            piece = [x[start : start + _PIECE] for x in arrays]
            _update_piece(*piece, buffer[: piece[0].size], config, scale, decay)


def _update_piece(
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
