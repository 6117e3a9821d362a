"""Central differences: the gradient of any function, measured by moving its inputs a little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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

    Raises ValueError where rounding would swallow the step: for whole numbers, for float32 and
    float16 unless h is that much larger, for values that are huge beside h, and for an f that
    computes in float32.
    """
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        found = x.dtype if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise ValueError(
            f"x: found {found}, expected an array of floating-point numbers, since it is moved by "
            f"h = {h:g} in place; take np.array(x, dtype=np.float64)"
        )
    _check_step("x", x.dtype, h, np.abs(x[np.isfinite(x)]).max(initial=1))
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
        _check_value(above, h)
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
    ``eval_numerical_gradient`` does.
    """

    def objective(x: Array) -> float:
        out = f(x)
        _check_value(out, h)
        return np.sum(out * df)

    return eval_numerical_gradient(objective, x, h=h)


def _check_value(out: Array, h: float) -> None:
    """Raises ValueError when f computes in too few digits for a step of h."""
    if isinstance(out, np.ndarray | np.generic) and out.dtype.kind == "f":
        _check_step("f(x)", out.dtype, h)


def _check_step(name: str, dtype: np.dtype, h: float, largest: float = 1.0) -> None:
    """Raises ValueError unless a step of h keeps three digits beside numbers up to ``largest``."""
    least = 1000 * float(np.finfo(dtype).eps) * float(largest)
    if h < least:
        raise ValueError(
            f"{name}: a step of h = {h:g} is lost to rounding in {dtype} numbers up to "
            f"{largest:.3g}; compute in float64, or take an h of about {2 * least:.1g}"
        )


def relative_error(got: Array, expected: Array, floor: float = 0.0) -> float:
    """``|got - expected| / max(|expected|, floor)`` by the Euclidean norm; 0 when equal."""
    difference = float(np.linalg.norm(np.asarray(got) - np.asarray(expected)))
    if difference == 0:
        return 0.0
    return difference / max(float(np.linalg.norm(expected)), floor, 1e-300)
