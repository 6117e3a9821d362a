"""Central differences: the gradient of any function, measured by moving its inputs a little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.gradient_check.precision import check_point, check_value
from core.layers import as_array

Array = np.ndarray


def eval_numerical_gradient(
    f: Callable[[Array], float], x: Array, verbose: bool = False, h: float = 1e-5
) -> Array:
    """The gradient of a scalar function by central differences, ``(f(x+h) - f(x-h)) / 2h``.

    Inputs:
    - f: function of one array that returns a scalar
    - x: the point, in float64. It is perturbed in place, one entry at a time, and restored exactly,
      so f may as well read it through another name (``f = lambda _: model.loss(...)[0]``).
    - verbose: print each entry's derivative
    - h: the step; 1e-4 to 1e-5 balances truncation and rounding in float64

    Returns an array of the shape of x. Error O(h^2) plus rounding O(1e-16 / h).

    Raises ValueError where rounding would swallow the step (``core/gradient_check/precision.py``):
    of whole numbers, of float32 unless h is larger, of huge values, or in an f that computes so.
    """
    check_point(x, h)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        original = x[index]
        try:
            x[index] = original + h
            above = f(x)
            x[index] = original - h
            below = f(x)
        finally:
            x[index] = original
        check_value(above, h)
        gradient[index] = (above - below) / (2 * h)
        if verbose:
            print(index, gradient[index])
    return gradient


def eval_numerical_gradient_array(
    f: Callable[[Array], Array], x: Array, df: Array, h: float = 1e-5
) -> Array:
    """As ``eval_numerical_gradient`` for a function with an array as its value.

    Inputs:
    - f: function of one array that returns an array (or a scalar)
    - x: the point, in float64, perturbed in place and restored
    - df: upstream gradient, of the shape of f(x)
    - h: the step

    Returns the gradient of ``sum(f(x) * df)`` with respect to x. Raises ValueError as
    ``eval_numerical_gradient`` does, and for a df that is a tensor of PyTorch.
    """
    check_point(x, h)
    df = as_array(df)
    # Subtracted before the sum: where f does not change, nothing is left to round.
    unmoved = np.asarray(f(x)).copy()

    def weighed(x: Array) -> float:
        return np.sum((np.asarray(check_value(f(x), h)) - unmoved) * df)

    return eval_numerical_gradient(weighed, x, h=h)


def relative_error(got: Array, expected: Array, floor: float = 0.0) -> float:
    """``|got - expected| / max(|expected|, floor)`` by the Euclidean norm; 0 when equal."""
    difference = float(np.linalg.norm(np.asarray(got) - np.asarray(expected)))
    if difference == 0:
        return 0.0
    return difference / max(float(np.linalg.norm(expected)), floor, 1e-300)
