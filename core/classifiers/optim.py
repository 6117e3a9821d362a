"""CS231n's update rules. Three of them are ours; its momentum keeps another velocity."""

from __future__ import annotations

import numpy as np

from core.layers import floats
from core.optim import adam, rmsprop, sgd

Array = np.ndarray

__all__ = ["adam", "rmsprop", "sgd", "sgd_momentum"]


def sgd_momentum(w: Array, dw: Array, config: dict | None = None) -> tuple[Array, dict]:
    """SGD with momentum, the rate inside the velocity, as in CS231n and in Caffe::

        velocity = momentum * velocity - learning_rate * dw
        w        = w + velocity

    From a velocity of 0 and at a constant rate the steps are those of ``core.optim.sgd_momentum``,
    whose velocity is this one divided by -learning_rate. They differ where the rate changes: here a
    step that was taken before keeps its old rate.

    config: learning_rate (1e-2), momentum (0.9), velocity (zeros).
    """
    w, dw = floats(w, dw)
    config = {} if config is None else config
    # a NumPy number of double precision would turn float32 parameters into float64 ones
    for name, default in {"learning_rate": 1e-2, "momentum": 0.9}.items():
        config[name] = float(config.get(name, default))
    velocity = config["momentum"] * config.get("velocity", np.zeros_like(w))
    config["velocity"] = velocity - config["learning_rate"] * dw
    return w + config["velocity"], config
