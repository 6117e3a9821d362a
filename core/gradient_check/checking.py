"""Gradients checked twice: against central differences, and against PyTorch's autograd.

In a notebook ``check("lstm_step_backward", my_function)`` (``core/gradient_check/report.py``), in a
terminal ``python -m core.gradient_check``. This file measures; what is checked stands in
``core/gradient_check/cases.py``, PyTorch's version of it in ``referee.py`` beside that.

The objective is ``sum(out * dout)`` for a random ``dout``. Upstream gradients of ones would let
wrong code pass: the gradient of a softmax under ones is 0, whatever the backward does. Errors are
norm-relative, ``|got - expected| / |expected|`` over the whole array; an element-wise relative
error calls right code wrong wherever a true gradient is close to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from core.gradient_check.cases import SIZES, Case
from core.gradient_check.diagnosis import (
    SWAPPED,
    diagnose,
    few_digits,
    gates_swapped,
    recognise,
    with_worst,
)
from core.gradient_check.differences import eval_numerical_gradient, relative_error
from core.gradient_check.learner import Functions, ImplementationError, malformed
from core.gradient_check.referee import ABSENT

Array = np.ndarray

# Autograd works in float64 too and differs by rounding alone: about 1e-15 a product, 1e-13 after a
# whole model. Central differences lose digits to cancellation: with h = 1e-5 their error is near
# h^2 + 1e-16 / h, that is 1e-10, times the curvature.
TORCH_TOLERANCE = 1e-10
DIFFERENCE_TOLERANCE = 1e-6


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
    differences: Callable[[Callable, Array], Array] = eval_numerical_gradient,
    **sizes: int,
) -> list[Row]:
    """Checks every output and gradient of one case on random inputs.

    Inputs:
    - case: from ``core.gradient_check.cases``
    - rng: draws the inputs and the upstream gradients
    - functions: hand-written functions by name; those missing are ours
    - differences: (f, x) -> numerical gradient; whoever checks many backwards of one forward may
      remember it
    - sizes: fixes some dimension letters (``N=1, T=1``); the rest are drawn, all different

    Returns a row for each output (compared with torch) and each gradient (compared with
    differences and with torch), in dataflow order. Nothing is raised for a wrong function:
    what it did becomes the ``problem`` of a row. Without PyTorch gradients are compared with
    differences alone; outputs with ours, and with nothing when they are ours.
    """
    drawn = rng.permutation(SIZES[: len(case.sizes)]).tolist()
    inputs = case.make(rng, **{**dict(zip(case.sizes, drawn, strict=True)), **sizes})
    functions = Functions(functions or {})
    rows: list[Row] = []
    try:
        for row in _compare(case, rng, functions, inputs, differences):
            rows.append(row)
    except ImplementationError as error:
        rows.append(Row(case.name, "-", None, None, False, str(error)))
    return rows


def _compare(
    case: Case, rng, functions: Functions, inputs: dict, differences: Callable
) -> Iterator[Row]:
    if ABSENT:
        right_outputs = [np.asarray(out) for out in case.run(Functions(), inputs, None)[0]]
        right_gradients = {}
        upstream = _upstream(case, right_outputs, rng)
    else:
        right_outputs, upstream, right_gradients = _autograd(case, inputs, rng)
    given = {f"d{name}": dout for name, dout in zip(case.outputs, upstream, strict=False)} | inputs
    before = {name: np.array(value) for name, value in given.items()}

    outputs, _ = case.run(functions, inputs, None)
    _refuse_writes(case, given, before)
    for name, out, expected in zip(case.outputs or ("loss",), outputs, right_outputs, strict=True):
        if fault := malformed(out, expected.shape):
            raise ImplementationError(f"{case.functions[0]} returned {fault} for {name}")
        out = np.asarray(out)
        error = relative_error(out, expected)
        passed = error <= TORCH_TOLERANCE
        hint = few_digits(out, expected) or "the forward pass itself differs"
        problem = None if passed else with_worst(hint, out, expected)
        if not ABSENT or case.functions[0] in functions:  # ours agree with themselves
            yield Row(case.name, name, None, None if ABSENT else error, passed, problem)
    if functions.forward_only(case):
        return

    _, gradients = case.run(functions, inputs, upstream)
    _refuse_writes(case, given, before)

    def objective(_):
        outputs, _ = case.run(functions, inputs, None)
        pairs = zip(outputs, upstream, strict=True)
        return sum(np.sum(np.asarray(out) * dout) for out, dout in pairs)

    numerical = {name: differences(objective, inputs[name]) for name in case.differentiable}
    right_gradients = right_gradients or numerical
    swapped = case.gates and gates_swapped(
        gradients[case.differentiable.index("b")], right_gradients["b"]
    )
    largest = max(float(np.linalg.norm(g)) for g in right_gradients.values())
    for name, got in zip(case.differentiable, gradients, strict=True):
        if fault := malformed(got, inputs[name].shape):
            problem = f"{case.functions[-1]} returned {fault} for d{name}"
            if np.ndim(got) > inputs[name].ndim:
                problem += "; is the sum over the batch missing?"
            yield Row(case.name, f"d{name}", None, None, False, problem)
            continue
        got, expected = np.asarray(got), right_gradients[name]
        # What is 0 but for rounding is measured against the others.
        floor = largest * (1 if name in case.zero else 1e-4)
        difference_error = relative_error(got, numerical[name], floor)
        torch_error = None if ABSENT else relative_error(got, expected, floor)
        # not (a > b) would let NaN through
        agrees = torch_error is not None and torch_error <= TORCH_TOLERANCE
        passed = difference_error <= DIFFERENCE_TOLERANCE and bool(ABSENT or agrees)
        problem = None
        if not passed and agrees:
            hint = "is PyTorch's gradient, but not that of the forward: is that one wrong?"
            problem = with_worst(hint, got, numerical[name])
        elif not passed:
            if name in case.zero:
                expected = np.zeros_like(expected)  # autograd's is rounding
            weights = [value for key, value in inputs.items() if _is_weight(key)]
            in_gates = case.gates and name in ("Wx", "Wh", "b")
            hint = diagnose(got, expected, in_gates, _is_weight(name), weights)
            hint = recognise(case, inputs, upstream, name, got, floor) or hint
            if swapped and not in_gates:
                hint = f"follows from {SWAPPED}"
            problem = with_worst(hint, got, expected)
        yield Row(case.name, f"d{name}", difference_error, torch_error, passed, problem)


def _is_weight(name: str) -> bool:
    """Whether an input is a weight matrix: w, Wx, block0.self.Wq, ..."""
    name = name.rpartition(".")[2]
    return name == "w" or name.startswith("W")


def _refuse_writes(case: Case, arrays: dict, before: dict) -> None:
    written = [name for name in before if not np.array_equal(arrays[name], before[name])]
    if written:
        raise ImplementationError(
            f"{' or '.join(case.functions)} writes into {', '.join(written)}: "
            "the caller's arrays must stay as they are; work on a copy"
        )


def _upstream(case: Case, outputs, rng) -> list[Array]:
    """A random gradient for each output. A loss is the end of the graph: its own gradient is 1."""
    return [rng.standard_normal(out.shape) if case.outputs else np.ones(()) for out in outputs]


def _autograd(case: Case, inputs: dict, rng) -> tuple[list[Array], list[Array], dict[str, Array]]:
    """PyTorch's outputs, a random upstream gradient for each, and the gradients they give."""
    import torch

    tensors = {}
    for name, value in inputs.items():
        tensors[name] = torch.from_numpy(np.array(value)) if isinstance(value, Array) else value
        if name in case.differentiable:
            tensors[name].requires_grad_(True)
    outputs = case.torch(**tensors)
    upstream = _upstream(case, outputs, rng)
    leaves = [tensors[name] for name in case.differentiable]
    gradients = torch.autograd.grad(
        outputs, leaves, [torch.from_numpy(dout) for dout in upstream], materialize_grads=True
    )
    named = zip(case.differentiable, (gradient.numpy() for gradient in gradients), strict=True)
    return [out.detach().numpy() for out in outputs], upstream, dict(named)
