"""Masks as they come in."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def as_mask(mask: Array) -> Array:
    """A mask as booleans; raises ValueError for numbers other than 0 and 1.

    Other numbers are another kind of mask: 0 where one may look and -inf elsewhere, say.
    """
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"mask: found {mask.dtype} numbers other than 0 and 1, expected booleans, or 1 where "
            "one may look and 0 elsewhere"
        )
    return mask.astype(bool)
