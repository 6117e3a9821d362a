"""Layers of the Transformer decoder that other decoders use too: inverted dropout.

Same conventions as ``core/rnn_layers.py``: a forward and a backward function for each layer, the
dtype kept, no argument written to.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def dropout_forward(x: Array, p: float, rng: np.random.Generator, train: bool = True):
    """Inverted dropout (Srivastava et al., JMLR 2014): zeroes entries, scales up the others.

    Inputs:
    - x: array of any shape
    - p: probability to DROP an entry, 0 <= p < 1
    - rng: draws the mask: an entry is dropped where ``rng.random(x.shape, dtype=np.float32) < p``;
      untouched when nothing is dropped
    - train: False (inference) passes x through

    Returns:
    - out: the shape of x; its expected value is x
    - cache: the mask, 0 or 1 / (1 - p) for each entry, or None when nothing was dropped

    Raises ValueError when p is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise ValueError(f"p: found {p}, expected a probability to drop, 0 <= p < 1")
    if not train or p == 0:
        return x.copy(), None
    mask = (rng.random(x.shape, dtype=np.float32) >= p).astype(x.dtype)
    mask /= 1 - p
    return x * mask, mask


def dropout_backward(dout: Array, cache: Array | None) -> Array:
    """Undoes ``dropout_forward``: the same entries pass, with the same scale.

    Inputs:
    - dout: the shape of x
    - cache: from ``dropout_forward``

    Returns:
    - dx: the shape of x
    """
    mask = cache
    # out = x * mask
    return dout.copy() if mask is None else dout * mask
