"""Gradients checked twice: against central differences, and against PyTorch's autograd.

In a notebook ``check("lstm_step_backward", my_function)`` (``core/gradient_check/report.py``), in a
terminal ``python -m core.gradient_check``. This file measures; what is checked stands in
``core/gradient_check/cases.py``, PyTorch's version of it in ``referee.py`` beside that.

The objective is ``sum(out * dout)`` for a random ``dout``. Upstream gradients of ones would let
wrong code pass: the gradient of a softmax under ones is 0, whatever the backward does. Differences
move every entry by itself; in what is composed of layers, the whole input along two random
directions first, and every entry where those disagree (``directions.py``). Errors are
norm-relative, ``|got - expected| / |expected|`` over the whole array; an element-wise relative
error calls right code wrong wherever a true gradient is close to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from core.gradient_check.case import Case, ImplementationError, draw_sizes
from core.gradient_check.corners import corner_faults
from core.gradient_check.differences import relative_error
from core.gradient_check.directions import DIFFERENCE_TOLERANCE, measured_gradient
from core.gradient_check.learner import Functions, malformed
from core.gradient_check.referee import ABSENT, autograd, upstream_of
from core.gradient_check.telling import Found, wrong_gradients, wrong_outputs

Array = np.ndarray

# Autograd works in float64 too and differs by rounding alone: about 1e-15 a product, 1e-13 after a
# whole model.
TORCH_TOLERANCE = 1e-10


@dataclass
class Row:
    """One line of the report: an output, or the gradient of one input.

    ``difference_error`` and ``torch_error`` are norm-relative; None where there is nothing to
    compare (an output has no difference quotient; a function that raised has no numbers).
    """

    layer: str
    quantity: str
    difference_error: float | None
    torch_error: float | None
    passed: bool
    problem: str | None = None


def check_case(
    case: Case,
    rng: np.random.Generator,
    functions: Mapping[str, Callable] | None = None,
    differences: Callable[..., Array] = measured_gradient,
    run: Callable | None = None,
    **sizes: int,
) -> list[Row]:
    """Checks every output and gradient of one case on random inputs.

    Inputs:
    - case: from ``core.gradient_check.cases``
    - rng: draws the inputs and the upstream gradients
    - functions: hand-written functions by name; those missing are ours
    - differences: (f, x, gradient to be checked or None) -> numerical gradient; a test of many
      backwards of one forward may remember it
    - run: what calls the functions, as ``case.run``, when they run elsewhere
    - sizes: fixes some dimension letters (``N=1, T=1``); the rest are drawn, all different

    Returns a row for each output (compared with torch) and each gradient (compared with
    differences and with torch), in dataflow order; then one for each other fault, such as writing
    into an argument. Nothing is raised for a wrong function: what it did becomes the ``problem`` of
    a row. Without PyTorch gradients are compared with differences alone; outputs with ours, and
    with nothing when they are ours.

    What holds is tried in its corners too (``core/gradient_check/corners.py``).
    """
    sizes = {**draw_sizes(case.sizes, rng), **sizes}
    inputs = case.make(rng, **sizes)
    functions = Functions(functions or {}, watched=True)
    run = run or case.run
    rows: list[Row] = []
    try:
        for row in _compare(case, rng, functions, inputs, differences, run, sizes):
            rows.append(row)
        if functions and all(row.passed for row in rows) and not functions.faults:
            functions.faults += corner_faults(case, rng, functions, inputs, run, sizes)
    except ImplementationError as error:
        functions.faults.insert(0, str(error))
    return rows + [Row(case.name, "-", None, None, False, fault) for fault in functions.faults]


def _compare(
    case: Case, rng, functions: Functions, inputs: dict, differences: Callable, run, sizes
) -> Iterator[Row]:
    has_torch = not (ABSENT or case.torch is None)
    if has_torch:
        right_outputs, upstream, right_gradients = autograd(case, inputs, rng)
    else:
        right_outputs = [np.asarray(out) for out in case.run(Functions(), inputs, None)[0]]
        right_gradients = {}
        upstream = upstream_of(case, right_outputs, rng)
    names = case.outputs or ("loss",)
    right_outputs = dict(zip(names, right_outputs, strict=True))

    outputs = dict(zip(names, run(functions, inputs, None)[0], strict=True))
    errors, wrong = {}, {}
    for name, out in outputs.items():
        expected = right_outputs[name]
        if fault := malformed(out, expected.shape):
            raise ImplementationError(f"{case.functions[0]} returned {fault} for {name}")
        outputs[name] = out = np.asarray(out)
        errors[name] = relative_error(out, expected)
        if not errors[name] <= TORCH_TOLERANCE:
            wrong[name] = out
    found = wrong_outputs(case, inputs, wrong, right_outputs, sizes)
    for name in names:
        if has_torch or case.functions[0] in functions:  # ours agree with themselves
            error = errors[name] if has_torch else None
            yield Row(case.name, name, None, error, name not in wrong, found.get(name))
    if functions.forward_only(case) or not case.differentiable:
        return

    gradients = dict(
        zip(
            (f"d{name}" for name in case.differentiable),
            run(functions, inputs, upstream)[1],
            strict=True,
        )
    )
    functions.watched = False

    def objective(_):
        outputs, _ = run(functions, inputs, None)
        pairs = zip(outputs, upstream, strict=True)
        return sum(np.sum(np.asarray(out) * dout) for out, dout in pairs)

    with np.errstate(invalid="ignore"):
        numerical = {
            f"d{name}": differences(
                objective, inputs[name], gradients[f"d{name}"] if case.composed else None
            )
            for name in case.differentiable
        }
    right = {f"d{name}": gradient for name, gradient in right_gradients.items()} or numerical
    right = {
        name: np.zeros_like(gradient) if name[1:] in case.zero else gradient
        for name, gradient in right.items()
    }
    largest = max(float(np.linalg.norm(g)) for g in right.values())
    judged = {}
    for name, got in gradients.items():
        if malformed(got, right[name].shape):
            judged[name] = None, None, False, False
            continue
        # What is 0 but for rounding is measured against the others.
        floor = largest * (1 if name[1:] in case.zero else 1e-4)
        difference = relative_error(np.asarray(got), numerical[name], floor)
        error = relative_error(np.asarray(got), right[name], floor) if has_torch else None
        # not (a > b) would let NaN through
        agrees = error is not None and error <= TORCH_TOLERANCE
        # A forward that is wrong has a gradient of its own, and that is what its backward is for.
        # Where it is NaN there are no differences to hold the backward against.
        fits = difference <= DIFFERENCE_TOLERANCE or (
            bool(wrong) and agrees and difference != difference
        )
        judged[name] = difference, error, agrees, fits and (agrees or not has_torch or bool(wrong))
    bad = {name: gradients[name] for name, (*_, passed) in judged.items() if not passed}
    found = wrong_gradients(
        Found(case, inputs, upstream, sizes, right, numerical, bool(wrong)), bad,
        {name for name, (_, _, agrees, _) in judged.items() if agrees},
    )  # fmt: skip
    for name, (difference, error, _, passed) in judged.items():
        yield Row(case.name, name, difference, error, passed, found.get(name))
