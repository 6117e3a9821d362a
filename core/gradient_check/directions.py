"""Central differences along a few random directions: what is large is checked in moments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.gradient_check.differences import eval_numerical_gradient, relative_error
from core.gradient_check.learner import malformed
from core.gradient_check.precision import check_value

Array = np.ndarray

# Central differences lose digits to cancellation: with h = 1e-5 their error is near
# h^2 + 1e-16 / h, that is 1e-10, times the curvature.
DIFFERENCE_TOLERANCE = 1e-6
_DIRECTIONS = 2
_STEP = 1e-5


def measured_gradient(f: Callable[[Array], float], x: Array, claimed=None) -> Array:
    """The gradient of a scalar function by central differences.

    Inputs:
    - f, x: as ``eval_numerical_gradient`` takes them; x is moved in place and restored
    - claimed: the gradient that somebody computed; None, or of another shape, for none

    Without a claim, and where it is wrong, each entry of x is moved by itself. A claim that is
    right along random directions stays, but for what was measured there: nothing that is wrong in
    any entry agrees with the slope along a direction that moves every entry, but by chance 0.

    Returns an array of the shape of x. Raises ValueError as ``eval_numerical_gradient`` does.
    """
    if claimed is not None and not malformed(claimed, x.shape):
        claimed = np.asarray(claimed, dtype=np.float64)
        measured = _along_directions(f, x, claimed)
        if relative_error(claimed, measured) <= DIFFERENCE_TOLERANCE:
            return measured
    return eval_numerical_gradient(f, x)


def _along_directions(f: Callable[[Array], float], x: Array, claimed: Array) -> Array:
    """The claimed gradient, moved by what random directions say against it.

    With orthonormal directions u the error e of a gradient shows as e . u. The sum of k such
    squares is k / n of the square of |e| on average, for n entries; so that much larger is what is
    added along each u, and the distance from the claim is the length of the error.
    """
    rng = np.random.default_rng(x.size)
    count = min(_DIRECTIONS, x.size)
    directions, _ = np.linalg.qr(rng.standard_normal((x.size, count)))
    original, step = x.copy(), _STEP * np.sqrt(x.size)  # each entry moves by about _STEP
    measured = claimed.copy()
    for direction in directions.T.reshape(count, *x.shape):
        try:
            x[...] = original + step * direction
            above = f(x)
            x[...] = original - step * direction
            below = f(x)
        finally:
            x[...] = original
        check_value(above, _STEP)
        error = (above - below) / (2 * step) - np.sum(claimed * direction)
        measured += np.sqrt(x.size / count) * error * direction
    return measured
