"""More names of CS231n's ``gradient_check.py``: gradients of blobs, and of a few entries alone.

Nothing of ours calls them. Code that was written for the course does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import randrange

import numpy as np

from core.gradient_check.differences import eval_numerical_gradient, eval_numerical_gradient_array

Array = np.ndarray


def eval_numerical_gradient_blobs(
    f: Callable, inputs: Sequence, output, h: float = 1e-5
) -> list[Array]:
    """The numerical gradient of a function that writes its result into its last argument.

    Inputs:
    - f: called as ``f(*inputs, output)``; writes into ``output.vals``
    - inputs: blobs, which keep numbers in ``vals`` and gradients in ``diffs``
    - output: a blob; its ``diffs`` are the upstream gradient
    - h: the step

    Returns an array for each input, of the shape of its ``vals``.
    """

    def value(_: Array) -> Array:
        f(*inputs, output)
        return output.vals

    return [eval_numerical_gradient_array(value, blob.vals, output.diffs, h) for blob in inputs]


def eval_numerical_gradient_net(net, inputs: Sequence, output, h: float = 1e-5) -> list[Array]:
    """As ``eval_numerical_gradient_blobs``, of a net whose ``forward()`` fills ``output``."""
    return eval_numerical_gradient_blobs(lambda *_: net.forward(), inputs, output, h)


def grad_check_sparse(
    f: Callable[[Array], float],
    x: Array,
    analytic_grad: Array,
    num_checks: int = 10,
    h: float = 1e-5,
) -> None:
    """Compares a gradient with central differences at a few entries; prints a line for each.

    Inputs:
    - f: function of one array that returns a scalar
    - x: the point, in float64, perturbed in place and restored
    - analytic_grad: the gradient to check, of the shape of x
    - num_checks: how many entries; ``random`` draws them, as in the course
    - h: the step
    """
    for _ in range(num_checks):
        index = tuple(randrange(size) for size in x.shape)
        entry = x[tuple(slice(i, i + 1) for i in index)]  # a view of x, of one entry
        numerical = eval_numerical_gradient(lambda _: f(x), entry, h=h).item()
        analytic = float(analytic_grad[index])
        size = abs(numerical) + abs(analytic)
        error = abs(numerical - analytic) / size if size else 0.0
        print(f"numerical: {numerical:f} analytic: {analytic:f}, relative error: {error:e}")
