"""What comes in: arrays of NumPy, of real numbers, of booleans for a mask, of word ids."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def as_arrays(*given) -> list[Array]:
    """NumPy arrays of what is given.

    Raises ValueError for a tensor of PyTorch: NumPy would turn it into an array without a word, and
    its gradient would be lost.
    """
    for each in given:
        modules = () if isinstance(each, np.ndarray) else (c.__module__ for c in type(each).__mro__)
        if any(module.partition(".")[0] == "torch" for module in modules):
            raise ValueError(
                "found a tensor of PyTorch, expected a NumPy array; give "
                "tensor.detach().cpu().numpy()"
            )
    return [np.asanyarray(each) for each in given]


def floats(*arrays) -> list[Array]:
    """Floating-point arrays as they are; whole numbers, which could wrap round, as float64."""
    arrays = as_arrays(*arrays)
    if wrong := [str(array.dtype) for array in arrays if array.dtype.kind not in "fiub"]:
        raise ValueError(f"found an array of {wrong[0]}, expected real numbers")
    return [x if x.dtype.kind == "f" else x.astype(np.float64) for x in arrays]


def as_mask(mask) -> Array:
    """A mask as booleans; raises ValueError for numbers other than 0 and 1.

    Other numbers are another kind of mask: 0 where one may look and -inf elsewhere, say.
    """
    [mask] = as_arrays(mask)
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"mask: found {mask.dtype} numbers other than 0 and 1, expected booleans, or 1 where "
            "one may look and 0 elsewhere"
        )
    return mask.astype(bool)


def check_word_ids(ids: Array, vocabulary_size: int, name: str) -> None:
    """Raises ValueError, with the name, unless ids are integers in 0 .. vocabulary_size - 1."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name}: word ids must be integers, found {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= vocabulary_size):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(
            f"{name}: word id {wrong} is outside the vocabulary of {vocabulary_size} words "
            f"(0 .. {vocabulary_size - 1}); was it made with another vocabulary?"
        )
