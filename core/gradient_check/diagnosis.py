"""Which mistake makes a gradient wrong? A guess at it, and the hints that a learner can ask for."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Sequence

import numpy as np

from core.gradient_check.cases import Case, our_function
from core.gradient_check.differences import relative_error
from core.gradient_check.learner import KNOWN, Functions, malformed
from core.gradient_check.precision import told_apart

Array = np.ndarray

HINTS = (1, 2, 3)
SWAPPED = "gates swapped: the blocks stand in the order i, f, o, g"

# Classic slips in a derivative: (what stands in our code, what stands in its place, the hint).
_SLIPS = (
    (r"1 - (\w+)\*\*2", r"\1", "is what tanh gives where its derivative belongs: 1 - tanh^2"),
    (r"1 - (\w+)\*\*2", r"1 - \1", "is what 1 - tanh gives, where 1 - tanh^2 belongs"),
    (r"1 - (\w+)\*\*2", "1", "misses the derivative of the tanh: 1 - tanh^2"),
    (r"\b(\w+) \* \(1 - \1\)", r"\1", "is what a gate gives, where i (1 - i) belongs"),
    (r"\b(\w+) \* \(1 - \1\)", "1", "misses the derivative of a sigmoid: i (1 - i)"),
    (r"\b(\w+) \* \(1 - \1\)", r"(1 - \1**2)", "has tanh's derivative where a sigmoid's belongs"),
)


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

    if hint := few_digits(got, expected):
        return hint
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
                return f"has its {SWAPPED}"
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


def few_digits(got: Array, expected: Array) -> str | None:
    """The hint for numbers that are right but for rounding in float32 or float16; else None."""
    error = relative_error(got, expected)
    if error < 1e-5:
        digits = "seven" if error < 1e-6 else "a few"
        return f"is right to {digits} digits only: is it computed in float32?"
    with np.errstate(over="ignore"):
        halves = np.asarray(got, np.float16)
    if error < 1e-2 and np.array_equal(got, halves):
        return "is right to three digits only: is it computed in float16?"
    return None


def gates_swapped(db: Array, expected: Array) -> bool:
    """Whether the gradient of an LSTM's bias has its blocks in another order."""
    return not malformed(db, expected.shape) and SWAPPED in diagnose(db, expected, gates=True)


def recognise(case: Case, inputs: dict, upstream, name: str, got: Array, floor: float):
    """A hint where ``got`` is the very number that a classic slip in our own code gives, or None.

    The slips are made one after the other, upstream gradients forgotten and derivatives confused,
    and their gradient is compared with the one that was found.
    """
    backward = case.functions[-1]
    if not backward.endswith("_backward") or not np.any(got):
        return None

    def gives(functions: dict, upstream) -> bool:
        _, gradients = case.run(Functions(functions), inputs, upstream)
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


def with_worst(hint: str, got: Array, expected: Array) -> str:
    """A hint, and where the two differ most, with both values."""
    got, expected = np.asarray(got), np.asarray(expected)
    distance = np.abs(got - expected)
    distance = np.where(np.isnan(distance), np.inf, distance)
    index = np.unravel_index(np.argmax(distance), distance.shape)
    where = f"[{', '.join(str(i) for i in index)}]" if index else ""
    start = " Worst" if hint.endswith("?") else "; worst"
    values = "got {}, expected {}".format(*told_apart(got[index], expected[index]))
    return f"{hint}{start} at {where or 'the value'}: {values}"


def hints(name: str, quantity: str, hint: int) -> list[str]:
    """The second and third hint for a wrong gradient: the line of the forward, and our code.

    Inputs:
    - name: of the function
    - quantity: the output or gradient that is wrong; '-' when nothing could be compared
    - hint: how many hints are asked for: 1 gives none of these
    """
    through_time = name.replace("_backward", "_step_backward") in KNOWN and "_step_" not in name
    function = our_function(name)
    code = inspect.getsource(function).split('"""')[-1].rstrip().splitlines()
    here = [i for i, line in enumerate(code) if re.match(rf"[^#=]*\b{quantity}\b[^=]*= ", line)]
    comments = [line for line in code[: here[-1] + 1] if "# " in line] if here else []
    found = []
    if hint >= 2 and through_time:
        found.append(
            "Hint 2: go through the steps from the last to the first. Each state has two readers, "
            "the loss and the next step; the weights are read by every step"
        )
    elif hint >= 2 and comments:
        line = comments[-1].strip(" #")
        found.append(f"Hint 2: {quantity} comes from this line of the forward: {line}")
    elif hint >= 2:
        found.append(f"Hint 2: read the equations of {name.replace('_backward', '_forward')} again")
    if hint >= 3:
        # Of a loop through time one line says nothing.
        lines = [] if through_time else [code[i].strip() for i in here]
        lines = lines or [line for line in code if line.strip()]
        found += ["Hint 3: our code says", *(f"    {line}" for line in lines)]
    return found
