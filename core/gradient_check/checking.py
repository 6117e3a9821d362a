"""Gradients checked twice: against central differences, and against PyTorch's autograd.

    python -m core.gradient_check                       every layer and every model
    python -m core.gradient_check --layer lstm_step     one of them
    python -m core.gradient_check --impl my_layers.py   your own functions instead of ours

and in a notebook ``check("lstm_step_backward", my_function)``.

This file measures and reports; what is checked, and PyTorch's version of it, stands in
``core/gradient_check/cases.py``. Exit code 0 when every gradient holds, 1 when one does not.

The objective is ``sum(out * dout)`` for a random ``dout``. Upstream gradients of ones would let
wrong code pass: the gradient of a softmax under ones is 0, whatever the backward does. Errors are
norm-relative, ``|got - expected| / |expected|`` over the whole array; an element-wise relative
error calls right code wrong wherever a true gradient is close to 0.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import itertools
import json
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from core.gradient_check.cases import CASES, SIZES, Case, our_function
from core.support.command_line import ArgumentParser, non_negative_int

Array = np.ndarray

# Autograd works in float64 too and differs by rounding alone: about 1e-15 a product, 1e-13 after a
# whole model. Central differences lose digits to cancellation: with h = 1e-5 their error is near
# h^2 + 1e-16 / h, that is 1e-10, times the curvature.
TORCH_TOLERANCE = 1e-10
DIFFERENCE_TOLERANCE = 1e-6

_KNOWN = {name for case in CASES for name in case.functions}  # names that --impl can replace


# ---------------------------------------------------------------------------------------------
# Central differences
# ---------------------------------------------------------------------------------------------


def eval_numerical_gradient(
    f: Callable[[Array], float], x: Array, verbose: bool = False, h: float = 1e-5
) -> Array:
    """The gradient of a scalar function by central differences, ``(f(x+h) - f(x-h)) / 2h``.

    Inputs:
    - f: function of one array that returns a scalar
    - x: the point. It is perturbed in place, one entry at a time, and restored exactly, so f may
      as well read it through another name (``f = lambda _: model.loss(...)[0]``).
    - verbose: print each entry's derivative
    - h: the step; 1e-4 to 1e-5 balances truncation and rounding in float64

    Returns an array of the shape of x. Error O(h^2) plus rounding O(1e-16 / h).
    """
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
    - x: the point, perturbed in place and restored
    - df: upstream gradient, of the shape of f(x)
    - h: the step

    Returns the gradient of ``sum(f(x) * df)`` with respect to x.
    """
    return eval_numerical_gradient(lambda x: np.sum(f(x) * df), x, h=h)


def relative_error(got: Array, expected: Array, floor: float = 0.0) -> float:
    """``|got - expected| / max(|expected|, floor)`` by the Euclidean norm; 0 when equal."""
    difference = float(np.linalg.norm(np.asarray(got) - np.asarray(expected)))
    if difference == 0:
        return 0.0
    return difference / max(float(np.linalg.norm(expected)), floor, 1e-300)


# ---------------------------------------------------------------------------------------------
# What a check finds
# ---------------------------------------------------------------------------------------------


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


class ImplementationError(Exception):
    """Something a learner's function did, as a sentence for its author."""


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
    what it did becomes the ``problem`` of a row.
    """
    drawn = rng.permutation(SIZES[: len(case.sizes)]).tolist()
    inputs = case.make(rng, **{**dict(zip(case.sizes, drawn, strict=True)), **sizes})
    functions = _Functions(functions or {})
    rows: list[Row] = []
    try:
        for row in _compare(case, rng, functions, inputs, differences):
            rows.append(row)
    except ImplementationError as error:
        rows.append(Row(case.name, "-", None, None, False, str(error)))
    return rows


def _compare(
    case: Case, rng, functions: _Functions, inputs: dict, differences: Callable
) -> Iterator[Row]:
    torch_outputs, upstream, torch_gradients = _autograd(case, inputs, rng)
    given = {f"d{name}": dout for name, dout in zip(case.outputs, upstream, strict=False)} | inputs
    before = {name: np.array(value) for name, value in given.items()}

    outputs, _ = case.run(functions, inputs, None)
    _refuse_writes(case, given, before)
    for name, out, expected in zip(case.outputs or ("loss",), outputs, torch_outputs, strict=True):
        if malformed := _malformed(out, expected.shape):
            raise ImplementationError(f"{case.functions[0]} returned {malformed} for {name}")
        out = np.asarray(out)
        error = relative_error(out, expected)
        passed = error <= TORCH_TOLERANCE
        hint = "the forward pass itself differs"
        problem = None if passed else _with_worst(hint, out, expected)
        yield Row(case.name, name, None, error, passed, problem)
    if functions.forward_only(case):
        return

    _, gradients = case.run(functions, inputs, upstream)
    _refuse_writes(case, given, before)

    def objective(_):
        outputs, _ = case.run(functions, inputs, None)
        pairs = zip(outputs, upstream, strict=True)
        return sum(np.sum(np.asarray(out) * dout) for out, dout in pairs)

    swapped = case.gates and _gates_swapped(
        gradients[case.differentiable.index("b")], torch_gradients["b"]
    )
    largest = max(float(np.linalg.norm(g)) for g in torch_gradients.values())
    for name, got in zip(case.differentiable, gradients, strict=True):
        if malformed := _malformed(got, inputs[name].shape):
            problem = f"{case.functions[-1]} returned {malformed} for d{name}"
            if np.ndim(got) > inputs[name].ndim:
                problem += "; is the sum over the batch missing?"
            yield Row(case.name, f"d{name}", None, None, False, problem)
            continue
        got, expected = np.asarray(got), torch_gradients[name]
        numerical = differences(objective, inputs[name])
        # What is 0 but for rounding is measured against the others.
        floor = largest * (1 if name in case.zero else 1e-4)
        difference_error = relative_error(got, numerical, floor)
        torch_error = relative_error(got, expected, floor)
        # not (a > b) would let NaN through
        passed = difference_error <= DIFFERENCE_TOLERANCE and torch_error <= TORCH_TOLERANCE
        problem = None
        if not passed:
            if name in case.zero:
                expected = np.zeros_like(expected)  # autograd's is rounding
            weights = [value for key, value in inputs.items() if _is_weight(key)]
            in_gates = case.gates and name in ("Wx", "Wh", "b")
            hint = diagnose(got, expected, in_gates, _is_weight(name), weights)
            hint = _recognise(case, inputs, upstream, name, got, floor) or hint
            if swapped and not in_gates:
                hint = f"follows from {_SWAPPED}"
            problem = _with_worst(hint, got, expected)
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


def _malformed(got, shape: tuple) -> str | None:
    """What is wrong with a value that should be an array of floating-point numbers, or None."""
    if got is None:
        return "None (is it computed yet?)"
    if not isinstance(got, np.ndarray | np.generic | float):
        return f"a {type(got).__name__}, expected a NumPy array,"
    if np.shape(got) != tuple(shape):
        return f"shape {np.shape(got)}, expected {tuple(shape)},"
    if not np.issubdtype(np.asarray(got).dtype, np.floating):
        return f"{np.asarray(got).dtype} numbers, expected floating-point ones,"
    return None


def _autograd(case: Case, inputs: dict, rng) -> tuple[list[Array], list[Array], dict[str, Array]]:
    """PyTorch's outputs, a random upstream gradient for each, and the gradients they give."""
    import torch

    tensors = {}
    for name, value in inputs.items():
        tensors[name] = torch.from_numpy(np.array(value)) if isinstance(value, Array) else value
        if name in case.differentiable:
            tensors[name].requires_grad_(True)
    outputs = case.torch(**tensors)
    # A loss is the end of the graph: its own gradient is 1.
    upstream = [rng.standard_normal(out.shape) if case.outputs else np.ones(()) for out in outputs]
    leaves = [tensors[name] for name in case.differentiable]
    gradients = torch.autograd.grad(
        outputs, leaves, [torch.from_numpy(dout) for dout in upstream], materialize_grads=True
    )
    return (
        [out.detach().numpy() for out in outputs],
        upstream,
        {
            name: gradient.numpy()
            for name, gradient in zip(case.differentiable, gradients, strict=True)
        },
    )


def _with_worst(hint: str, got: Array, expected: Array) -> str:
    """A hint, and where the two differ most, with both values."""
    got, expected = np.asarray(got), np.asarray(expected)
    distance = np.abs(got - expected)
    distance = np.where(np.isnan(distance), np.inf, distance)
    index = np.unravel_index(np.argmax(distance), distance.shape)
    where = f"[{', '.join(str(i) for i in index)}]" if index else ""
    start = " Worst" if hint.endswith("?") else "; worst"
    values = f"got {got[index]:.6g}, expected {expected[index]:.6g}"
    return f"{hint}{start} at {where or 'the value'}: {values}"


_SWAPPED = "gates swapped: the blocks stand in the order i, f, o, g"


def _gates_swapped(db: Array, expected: Array) -> bool:
    """Whether the gradient of an LSTM's bias has its blocks in another order."""
    return not _malformed(db, expected.shape) and _SWAPPED in diagnose(db, expected, gates=True)


def diagnose(
    got: Array,
    expected: Array,
    gates: bool = False,
    is_weight: bool = False,
    weights: Sequence[Array] = (),
) -> str:
    """A guess, in a few words, at the mistake that turns ``expected`` into ``got``.

    Inputs:
    - got, expected: arrays of one shape
    - gates: whether the last axis holds the blocks of the gates i, f, o, g
    - is_weight: whether this is the gradient of a weight matrix, a sum over samples and steps
    - weights: the weight matrices of the layer; some gradients are a product with one of them
    """
    if not np.all(np.isfinite(got)):
        return "holds NaN or infinity"
    if not np.any(got):
        return "is all zeros: is this term dropped, or never filled in?"
    if not np.any(expected):
        return "should be all zeros: nothing depends on these values"

    def same(a: Array, b: Array) -> bool:
        return relative_error(a, b) < 1e-6

    if relative_error(got, expected) < 1e-5:
        return "is right to a few digits only: is it computed in float32?"
    if same(got, -expected):
        return "has the wrong sign"
    ratio = float(np.vdot(expected, got) / np.vdot(expected, expected))
    if same(got, ratio * expected):
        if ratio > 1:
            return f"is {ratio:.4g} times too large: is a term counted twice, or a mean a sum?"
        return f"is {ratio:.4g} times the right value: a factor lost, or a sum averaged?"
    if expected.ndim == 2 and expected.shape[0] == expected.shape[1] and same(got, expected.T):
        return "is transposed: check the order and the .T of the product"
    for W in weights:
        square = W.ndim == 2 and W.shape[0] == W.shape[1] == expected.shape[-1]
        # expected = da W.T, so da = expected W.T^-1
        if square and same(got, expected @ np.linalg.inv(W.T) @ W):
            return "comes from a transposed product: W where W.T belongs"
    wrong = ~np.isclose(got, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    if gates:
        blocks = np.split(expected, 4, axis=-1)
        for order in itertools.permutations(range(4)):
            if same(got, np.concatenate([blocks[i] for i in order], axis=-1)):
                return f"has its {_SWAPPED}"
        bad = [
            gate
            for gate, part in zip("ifog", np.split(wrong, 4, axis=-1), strict=True)
            if part.any()
        ]
        if len(bad) < 4:
            return f"is wrong in gate {', '.join(bad)} alone: check that gate's derivative"
    if expected.ndim == 3:
        missing = [
            t for t in range(expected.shape[1]) if not np.any(got[:, t]) and np.any(expected[:, t])
        ]
        if missing:
            return f"is zero at [:, {missing[0]}]: does the loop visit every step?"
        right = [t for t in range(expected.shape[1]) if same(got[:, t], expected[:, t])]
        if right == [expected.shape[1] - 1]:
            return (
                "is right at the last step only: does the gradient of the next step flow back "
                "into this one?"
            )
    if is_weight and expected.ndim == 2:
        # One sample at one step adds a product of a column and a row to a weight's gradient.
        rank, full = (np.linalg.matrix_rank(a, rtol=1e-9) for a in (got, expected))
        lost = np.linalg.matrix_rank(expected - got, rtol=1e-9)
        if rank < full and rank <= lost:
            return "holds only some of its terms: a missing sum over time or over the batch?"
        if lost < full:
            return "misses some of its terms: a time step or a sample left out of the sum?"
    if wrong.mean() < 0.5:
        return f"is wrong in {wrong.sum()} of {wrong.size} entries: a corner (mask, repeats)?"
    return (
        "is wrong everywhere: a missing sum over time, a forgotten derivative of the "
        "nonlinearity, or the wrong factor in a product?"
    )


# Classic slips in a derivative: (what stands in our code, what stands in its place, the hint).
_SLIPS = (
    (r"1 - (\w+)\*\*2", r"\1", "is what tanh gives where its derivative belongs: 1 - tanh^2"),
    (r"1 - (\w+)\*\*2", r"1 - \1", "is what 1 - tanh gives, where 1 - tanh^2 belongs"),
    (r"1 - (\w+)\*\*2", "1", "misses the derivative of the tanh: 1 - tanh^2"),
    (r"\b(\w+) \* \(1 - \1\)", r"\1", "is what a gate gives, where i (1 - i) belongs"),
    (r"\b(\w+) \* \(1 - \1\)", "1", "misses the derivative of a sigmoid: i (1 - i)"),
    (r"\b(\w+) \* \(1 - \1\)", r"(1 - \1**2)", "has tanh's derivative where a sigmoid's belongs"),
)


def _recognise(case: Case, inputs: dict, upstream, name: str, got: Array, floor: float):
    """A hint where ``got`` is the very number that a classic slip in our own code gives, or None.

    The slips are made one after the other, upstream gradients forgotten and derivatives confused,
    and their gradient is compared with the one that was found.
    """
    backward = case.functions[-1]
    if not backward.endswith("_backward") or not np.any(got):
        return None

    def gives(functions: dict, upstream) -> bool:
        _, gradients = case.run(_Functions(functions), inputs, upstream)
        gradient = gradients[case.differentiable.index(name)]
        return relative_error(got, gradient, floor) < 1e-6

    names = [f"d{output}" for output in case.outputs]
    for i, dout in enumerate(names):
        others = list(upstream)
        for value, hint in ((0.0, "does not use {}"), (1.0, "is that of ones for {}")):
            others[i] = np.full_like(upstream[i], value)
            if gives({}, others):
                return f"{hint.format(dout)}: is the upstream factor {dout} forgotten?"
    if case.name == "word_embedding":
        last_use = np.zeros_like(got)
        last_use[inputs["x"]] = upstream[0]
        if relative_error(got, last_use) < 1e-6:
            return "keeps the last use of each word alone: repeats add up (dW[x] += dout is no sum)"
    function = our_function(backward)
    source = inspect.getsource(function)
    for pattern, wrong, hint in _SLIPS:
        places = [match.span() for match in re.finditer(pattern, source)]
        changed = [
            source[:start] + re.sub(pattern, wrong, source[start:stop]) + source[stop:]
            for start, stop in places
        ]
        if len(places) > 1:
            changed.append(re.sub(pattern, wrong, source))
        for slipped in changed:
            namespace = dict(vars(sys.modules[function.__module__]))
            exec(compile(slipped, "<slip>", "exec"), namespace)
            if gives({backward: namespace[backward]}, upstream):
                return hint
    return None


class _Functions(dict):
    """Hand-written functions by name: the given ones, ours for the rest.

    A call that fails inside a given function becomes an ``ImplementationError``.
    """

    def __missing__(self, name: str) -> Callable:
        return our_function(name)

    def forward_only(self, case: Case) -> bool:
        """Whether the forward of a pair is given without its backward: nothing reads its cache."""
        return case.functions[0] in self and case.functions[-1] not in self

    def call(self, name: str, *arguments, returns: int | None = None, **options):
        """Calls a function by its name; ``returns`` is how many values it must give back."""
        return self.guard(name, self[name], *arguments, returns=returns, **options)

    def guard(
        self, name: str, function: Callable, *arguments, returns: int | None = None, **options
    ):
        """Calls something that uses the function or class of that name."""
        if name not in self:
            return function(*arguments, **options)  # ours: a bug in it must be seen
        try:
            result = function(*arguments, **options)
        except (Exception, SystemExit) as error:
            message = f"{name} raised {_sentence(error)}"
            forward = name.replace("_backward", "_forward")
            if forward != name and forward not in self:
                message += f"; the cache that it got is that of core's {forward}, see its docstring"
            raise ImplementationError(message) from error
        if returns is not None:
            if result is None:
                raise ImplementationError(
                    f"{name} returned None: is it written yet, and does it end with a return?"
                )
            if not isinstance(result, (tuple, list)) or len(result) != returns:
                found = len(result) if isinstance(result, (tuple, list)) else 1
                raise ImplementationError(f"{name} returned {found} values, expected {returns}")
        return result


def _sentence(error: BaseException) -> str:
    """The error with its line of the learner's file, on one line."""
    here = Path(__file__).parents[1]  # core
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(here)
    ]
    place = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + text if text else ''}{place}"


# ---------------------------------------------------------------------------------------------
# In a notebook
# ---------------------------------------------------------------------------------------------

HINTS = (1, 2, 3)


@dataclass
class Report:
    """What ``check`` found: shown as text at the end of a cell, true when all gradients hold."""

    name: str
    rows: list[Row]
    hint: int

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        width = max(12, *(len(row.quantity) + 1 for row in self.rows))
        lines = [
            f"{row.quantity:<{width}}{'ok' if row.passed else 'WRONG'}"
            for row in self.rows
            if row.quantity != "-"
        ]
        if self.passed:
            return "\n".join([*lines, f"{self.name} holds"])
        wrong = next(row for row in self.rows if not row.passed)
        names_itself = wrong.quantity == "-" or " returned " in wrong.problem
        quantity = "" if names_itself else f"{wrong.quantity} "
        lines.append(f"{self.name} does not hold yet. First: {quantity}{wrong.problem}")
        lines += hints(self.name, wrong.quantity, self.hint)
        if self.hint < HINTS[-1]:
            lines.append(f"A further hint: check(..., hint={self.hint + 1})")
        return "\n".join(
            line if line.startswith("    ") else "\n    ".join(textwrap.wrap(line, 96))
            for line in lines
        )


def check(
    name: str, function: Callable, forward: Callable | None = None, hint: int = 1, seed: int = 0
) -> Report:
    """Checks a function of your own in the place of ours, on random inputs.

    Inputs:
    - name: of the function that it stands in for: 'affine_forward', 'lstm_step_backward', ...
    - function: yours. A backward gets the cache of ours, whose docstring says what that holds;
    - forward: unless you give yours as well
    - hint: 1 says what is wrong with the first wrong gradient, with the likely mistake; 2 adds the
      line of the forward that it undoes; 3 adds our line of code
    - seed: of the random inputs

    Returns a report that prints itself at the end of a cell, and is true when everything holds.
    Raises ValueError for a name that is not known, and for a hint that is not 1, 2 or 3.
    """
    case = next((case for case in CASES if name in case.functions), None)
    if case is None:
        raise ValueError(f"check: found {name!r}, expected one of {', '.join(sorted(_KNOWN))}")
    if hint not in HINTS:
        raise ValueError(f"check: found hint={hint!r}, expected 1, 2 or 3")
    functions = {name: function}
    if forward is not None:
        functions[case.functions[0]] = forward
    return Report(name, check_case(case, np.random.default_rng(seed), functions), hint)


def hints(name: str, quantity: str, hint: int) -> list[str]:
    """The second and third hint for a wrong gradient: what it undoes, and our code for it.

    Inputs:
    - name: of the function
    - quantity: the output or gradient that is wrong; '-' when nothing could be compared
    - hint: how many hints are asked for: 1 gives none of these
    """
    step = name.replace("_backward", "_step_backward")
    through_time = step in _KNOWN and name != step  # whole sequences: our own code is the fast one
    function = our_function(step if through_time else name)
    code = inspect.getsource(function).split('"""')[-1].rstrip().splitlines()
    here = [i for i, line in enumerate(code) if re.match(rf"[^#=]*\b{quantity}\b[^=]*= ", line)]
    undone = next((code[i] for i in range(here[-1], -1, -1) if "# " in code[i]), "") if here else ""
    found = []
    if hint >= 2 and through_time:
        found.append(
            "Hint 2: undo the steps from the last to the first. Each state has two readers, the "
            "loss and the next step; the weights are read by every step"
        )
    elif hint >= 2 and undone:
        found.append(f"Hint 2: {quantity} undoes this line of the forward: {undone.strip(' #')}")
    elif hint >= 2:
        found.append(f"Hint 2: read the equations of {name.replace('_backward', '_forward')} again")
    if hint >= 3:
        lines = [line for line in code if line.strip()]
        if here and not through_time:
            lines = [code[i].strip() for i in here]
        what = "our code of one step" if through_time else "our code"
        found += [f"Hint 3: {what} says", *(f"    {line}" for line in lines)]
    return found


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def load_implementation(path: str | Path) -> dict[str, Callable]:
    """The functions and classes that a Python file defines itself, by name.

    Raises FileNotFoundError when there is no such file, ValueError when it cannot be imported.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --impl takes a Python file")
    spec = importlib.util.spec_from_file_location("learner_implementation", path)
    if spec is None:
        raise ValueError(f"{path}: not a Python file; --impl takes a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    search_path = sys.path.copy()
    sys.path.insert(0, str(path.resolve().parent))  # as for a script: files beside it are found
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{path}: line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: could not be imported: {_sentence(error)}") from error
    finally:
        sys.path[:] = search_path
    functions = {}
    for name, value in vars(module).items():
        origin = str(getattr(value, "__module__", None))
        # Under a known name anything callable counts that is not ours, imported from core.
        is_own = origin == module.__name__ or (name in _KNOWN and not origin.startswith("core."))
        if callable(value) and is_own:
            functions[name] = value
    return functions


def main() -> int:
    cases = {case.name: case for case in CASES}
    parser = ArgumentParser(
        prog="python -m core.gradient_check", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--layer", choices=list(cases), metavar="NAME", help=", ".join(cases))
    parser.add_argument(
        "--impl", metavar="FILE.py", help="check the functions of this file instead"
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, help="seed of the random inputs"
    )
    parser.add_argument(
        "--hint", type=int, choices=HINTS, default=1, help="how much to say about what is wrong"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    chosen = [cases[arguments.layer]] if arguments.layer else list(CASES)
    functions, forward_only, skipped, ignored = {}, [], [], []
    if arguments.impl:
        functions = load_implementation(arguments.impl)
        skipped = [case.name for case in chosen if not functions.keys() & set(case.functions)]
        ignored = sorted(functions.keys() - _KNOWN)
        functions = {name: functions[name] for name in functions.keys() & _KNOWN}
        chosen = [case for case in chosen if case.name not in skipped]
        forward_only = [case.name for case in chosen if _Functions(functions).forward_only(case)]
        if not chosen:
            wanted = sorted(cases[arguments.layer].functions if arguments.layer else _KNOWN)
            raise ValueError(
                f"{arguments.impl}: defines none of the functions to check; "
                f"expected names such as {', '.join(wanted[:4])}"
            )

    rows = []
    for case in chosen:
        # Each case draws from its own stream, so that --layer sees what the full table saw.
        # A learner's prints must not get into the JSON.
        with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
            rng = np.random.default_rng([arguments.seed, *case.name.encode()])
            case_rows = check_case(case, rng, functions)
        rows += case_rows
        if not arguments.json:
            _print_rows(case_rows, chosen, header=case is chosen[0])
    failed = [row for row in rows if not row.passed]

    if arguments.json:
        report = {
            "passed": not failed,
            "rows": [{k: _no_nan(v) for k, v in asdict(row).items()} for row in rows],
            "forward_only": forward_only,
            "skipped": skipped,
            "ignored": ignored,
        }
        print(json.dumps(report, indent=1))
        return 1 if failed else 0

    print()
    if arguments.impl:
        print(f"replaced by {arguments.impl}: {', '.join(sorted(functions))}")
        if forward_only:
            print(f"forward only, {arguments.impl} has no backward: {', '.join(forward_only)}")
        if skipped:
            print(f"skipped, not in {arguments.impl}: {', '.join(skipped)}")
        if ignored:
            print(f"ignored, not a known name: {', '.join(ignored)}")
    if failed:
        print(f"{len(failed)} of {len(rows)} wrong. In dataflow order, the first wrong one first:")
        for row in failed:
            quantity = "" if row.quantity == "-" else f"{row.quantity} "
            print(f"  {row.layer}: {quantity}{row.problem}")
        first = failed[0]
        for line in hints(cases[first.layer].functions[-1], first.quantity, arguments.hint):
            print(f"  {line}")
        if arguments.hint < HINTS[-1]:
            print(f"more about the first: --hint {arguments.hint + 1}")
        return 1
    worst_difference = max(row.difference_error or 0 for row in rows)
    worst_torch = max(row.torch_error for row in rows)
    print(
        f"all {len(rows)} hold: worst error {worst_difference:.1e} against finite differences "
        f"(limit {DIFFERENCE_TOLERANCE:g}), {worst_torch:.1e} against torch "
        f"(limit {TORCH_TOLERANCE:g})"
    )
    return 0


def _no_nan(value):
    """JSON knows no NaN and no infinity."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _print_rows(rows: list[Row], cases: Sequence[Case], header: bool) -> None:
    names = [name for case in cases for name in (*case.outputs, *case.differentiable)]
    width, quantity_width = max(len(case.name) for case in cases), 1 + max(map(len, names))

    def line(layer, quantity, difference, torch, verdict):
        print(
            f"{layer:<{width}}  {quantity:<{quantity_width}}{difference:>13}{torch:>10}  {verdict}",
            flush=True,
        )

    if header:
        line("layer", "quantity", "differences", "torch", "verdict")
    for row in rows:
        errors = (
            "" if error is None else f"{error:.1e}"
            for error in (row.difference_error, row.torch_error)
        )
        line(row.layer, row.quantity, *errors, "ok" if row.passed else "WRONG")
