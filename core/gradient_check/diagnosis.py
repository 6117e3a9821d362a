"""Which mistake makes a number wrong? Named slips are made and compared; else what can be seen."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from core.gradient_check.case import Case, our_function
from core.gradient_check.differences import relative_error
from core.gradient_check.equations import equation_of, through_time
from core.gradient_check.learner import Functions, malformed
from core.gradient_check.precision import told_apart
from core.gradient_check.slips import lines_of, slips_of
from core.gradient_check.source import without_docstring

Array = np.ndarray

HINTS = (1, 2, 3)
SWAPPED = "gates swapped: the blocks are in the order i, f, o, g"
_DIGITS = {5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
# What says little: another quantity's hint is shown first.
_GENERIC = ("is wrong everywhere", " entries: ", "misses some of its terms", "holds only some")
# What follows from a slip elsewhere: the place itself is shown first.
_FOLLOWS = ("follows from",)


def is_specific(hint: str) -> bool:
    """Whether a hint names a mistake, and not only that there is one."""
    return not any(words in hint for words in (*_GENERIC, *_FOLLOWS))


def diagnose(
    got: Array,
    expected: Array,
    gates: bool = False,
    is_weight: bool = False,
    weights: Sequence[Array] = (),
    sizes: Mapping[str, float] | None = None,
) -> str:
    """A guess, in a few words, at the mistake that turns ``expected`` into ``got``.

    Inputs:
    - got, expected: arrays of one shape
    - gates: whether the last axis holds the blocks of the gates i, f, o, g
    - is_weight: whether this is the gradient of a weight matrix, a sum over samples and steps
    - weights: the weight matrices of the layer; some gradients are a product with one of them
    - sizes: of the dimensions, by letter, where they are known: N, T, ...
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
        return _factor(ratio, sizes or {})
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
            several = "s" if len(bad) > 1 else ""
            return (
                f"is wrong in gate{several} {', '.join(bad)} alone: check "
                f"{'those gates' if several else 'that gate'}{chr(39)}{'' if several else 's'} "
                "derivative"
            )
    has_time = sizes is None or "T" in sizes
    timed = sizes is None or sizes.get("T") == expected.shape[1 % expected.ndim]
    if (
        timed
        and expected.ndim == 3
        and expected.shape[1] > 2
        and (hint := _in_time(got, expected, same))
    ):
        return hint
    place = _place(wrong)
    if not np.any(got[wrong]):
        where = f"at {place}" if place else f"in {wrong.sum()} of {wrong.size} entries"
        return f"is 0 {where}, right in the others: a part left out?"
    if _misplaced(got - expected, wrong):
        return (
            "has in each wrong row too little in one place and as much too much in another: "
            "is an index wrong?"
        )
    if is_weight and expected.ndim == 2:
        # One sample at one step adds a product of a column and a row to a weight's gradient.
        rank, full = (np.linalg.matrix_rank(a, rtol=1e-9) for a in (got, expected))
        lost = np.linalg.matrix_rank(expected - got, rtol=1e-9)
        if rank < full and rank <= lost:
            over = "over time or over the batch" if has_time else "over the batch"
            return f"holds only some of its terms, or all alike: a missing sum {over}?"
        if lost < full:
            which = "a time step or a sample" if has_time else "a sample"
            return f"misses some of its terms: {which} left out of the sum?"
    if place:
        return f"is wrong at {place} and right in all other entries: what sets these apart?"
    if wrong.mean() < 0.5:
        return (
            f"is wrong in {wrong.sum()} of {wrong.size} entries: "
            "what sets them apart, as a mask or a repeated word?"
        )
    return (
        "is wrong everywhere: a term, a factor or a derivative on the way to it is missing or wrong"
    )


def _place(wrong: Array) -> str | None:
    """The part of an array that a mask marks, as an index says it; None where it is no such part.

    A part is what one range of an axis, and all of the others, hold.
    """
    for axis in range(wrong.ndim):
        marked = wrong.any(axis=tuple(i for i in range(wrong.ndim) if i != axis))
        found = np.flatnonzero(marked)
        first, last = int(found[0]), int(found[-1])
        size = wrong.shape[axis]
        is_range = len(found) == last - first + 1 < size
        if not is_range or not np.take(wrong, found, axis).all():
            continue
        index = str(first)
        if first != last:
            index = f"{first or ''}:{'' if last == size - 1 else last + 1}"
        return f"[{', '.join([*':' * axis, index, *':' * (wrong.ndim - axis - 1)])}]"
    return None


def _misplaced(error: Array, wrong: Array) -> bool:
    """Whether each wrong row has two wrong entries, of errors that cancel."""
    if error.ndim < 2 or error.shape[-1] < 3:
        return False
    rows = wrong.any(axis=-1)
    two = wrong[rows].sum(axis=-1) == 2
    largest = float(np.abs(error).max())
    return bool(two.all()) and bool(np.all(np.abs(error[rows].sum(axis=-1)) < 1e-6 * largest))


def _factor(ratio: float, sizes: Mapping[str, float]) -> str:
    """The hint for a wrong factor, with the sizes that it may come from."""
    products = {
        **sizes,
        **{
            f"({a} {b})": sizes[a] * sizes[b]
            for a, b in itertools.combinations([x for x in sizes if x != "d"], 2)
        },
    }
    names = [
        name
        for letter, size in products.items()
        for name, value in ((letter, size), (f"1 / {letter}", 1 / size))
        # 2 and 1/2 have other causes
        if abs(ratio / value - 1) < 1e-6 and size > 2
    ]
    names += [
        name
        for letter, size in sizes.items()
        for name, power in ((f"sqrt({letter})", 0.5), (f"1 / sqrt({letter})", -0.5))
        # the root of 4 is 2, which has other causes
        if abs(ratio / size**power - 1) < 1e-6 and (letter == "d" or size**0.5 % 1)
    ]
    known = f" ({' or '.join(names)})" if names else ""
    whole = [abs(each - round(each)) < 1e-6 for each in (ratio, 1 / ratio)]
    if ratio > 1 and (names or whole[0]):
        return f"is {ratio:.4g} times too large{known}: is a term counted twice, or a mean a sum?"
    if names or any(whole):
        averaged = "a factor lost, or a sum averaged?"
        return f"is {ratio:.4g} times the right value{known}: {averaged}"
    return f"is {ratio:.4g} times the right value, everywhere: check its factors"


def _in_time(got: Array, expected: Array, same) -> str | None:
    """What is wrong with the steps of a sequence (N, T, ...)."""
    T = expected.shape[1]
    if not np.any(got - got[:, :1]) and np.any(expected - expected[:, :1]):
        which = {0: " the first", T - 1: " the last"}
        known = next((words for t, words in which.items() if same(got[:, t], expected[:, t])), "")
        known = f": all hold what belongs to{known}" if known else ""
        return f"is the same at every step{known}"
    if same(got[:, 1:], expected[:, :-1]):
        return "is one time step late: [:, t] holds what belongs to step t - 1"
    if same(got[:, :-1], expected[:, 1:]):
        return "is one time step early: [:, t] holds what belongs to step t + 1"
    if same(got[:, ::-1], expected):
        return "has its time steps in the wrong order: the last comes first"
    zero = [t for t in range(T) if not np.any(got[:, t]) and np.any(expected[:, t])]
    if zero == list(range(T - 1)) and same(got[:, -1], expected[:, -1]):
        return "holds the last step alone, and 0 before it: each step has its own"
    if zero:
        return f"is zero at [:, {zero[0]}]: does the loop visit every step?"
    right = [t for t in range(T) if same(got[:, t], expected[:, t])]
    if right == [T - 1]:
        return (
            "is right at the last step only: look at what each step adds, its own upstream and "
            "what flows back from the next"
        )
    if right == [0]:
        return "is right at the first step only: look at what a step hands on to the next"
    return None


def few_digits(got: Array, expected: Array) -> str | None:
    """The hint for numbers that are right but for rounding in float32 or float16; else None."""
    error = relative_error(got, expected)
    if error < 1e-5:
        digits = _DIGITS.get(int(-np.log10(max(error, 1e-16)) + 0.5), "many")
        return f"is right to {digits} digits only: is it computed in float32?"
    with np.errstate(over="ignore"):
        halves = np.asarray(got, np.float16)
    if error < 1e-2 and np.array_equal(got, halves):
        return "is right to three digits only: is it computed in float16?"
    return None


def gates_swapped(db: Array, expected: Array) -> bool:
    """Whether the gradient of an LSTM's bias has its blocks in another order."""
    return not malformed(db, expected.shape) and SWAPPED in diagnose(db, expected, gates=True)


def exchanged(
    name: str, got: Array, wrong: Mapping[str, Array], right: Mapping[str, Array]
) -> str | None:
    """The hint where ``got`` is the right value of another quantity, wrong as well; else None.

    Where that other is right in its own place, nothing was exchanged.
    """
    if not isinstance(got, np.ndarray) or not np.any(got):
        return None
    for other in wrong:
        value = right[other]
        is_other = other != name and value.shape == got.shape
        if is_other and relative_error(got, value) < 1e-8:
            return f"is the right {other}: are they returned in another order?"
    return None


def of_shape(shape: tuple, expected: tuple, sizes: Mapping[str, int]) -> str:
    """What to add to a wrong shape, where it says what was forgotten, or ''."""
    if shape == expected[::-1] != expected:
        return "; it is transposed"
    if [x for x in shape if x != 1] == [x for x in expected if x != 1]:
        return "; an axis of length 1 is too many, or missing"
    if np.prod(shape) == np.prod(expected) and sorted(shape) != sorted(expected):
        return "; the reshape to that is missing"
    if len(shape) <= len(expected) or shape[len(shape) - len(expected) :] != expected:
        return ""
    axes = shape[: len(shape) - len(expected)]
    words = {"N": "batch", "T": "time"}
    left = [
        words[letter]
        for size in axes
        for letter in words
        if sizes.get(letter) == size
    ]  # fmt: skip
    return f"; is the sum over {' and '.join(left or ['the rows'])} missing?".replace(
        "over batch", "over the batch"
    )


# ---------------------------------------------------------------------------------------------
# The slips, made
# ---------------------------------------------------------------------------------------------


def recognise(
    case: Case,
    inputs: dict,
    upstream: Sequence[Array] | None,
    wrong: Mapping[str, Array],
    right: Mapping[str, Array],
    exchanges: bool = False,
) -> dict[str, str]:
    """Hints for those of the wrong quantities whose very numbers a slip gives.

    Inputs:
    - case, inputs: what was checked
    - upstream: gradients of the outputs; None to look at outputs, not at gradients
    - wrong, right: what was found where it is wrong, and what is right, by name
    - exchanges: make another kind, one array in the place of another: for what has no name

    Each slip is made on the inputs of the check. It explains a quantity that it changes when it
    gives the number that was found. Of several, the one counts that explains most and changes least
    of what was found to be right; the first that explains all and changes nothing else ends the
    search.
    """
    wrong = {
        name: got
        for name, got in wrong.items()
        if not malformed(got, right[name].shape)
        and np.all(np.isfinite(got))
        and (upstream is None or np.any(got))
    }
    best: dict[str, tuple] = {}
    if not wrong:
        return {}
    make_slips = _exchanges if exchanges else _slips
    for index, (hint, make) in enumerate(make_slips(case, inputs, upstream)):
        try:
            with np.errstate(all="ignore"):
                made = dict(zip(right, make(), strict=False))
        except Exception:  # a slip that these shapes do not allow
            continue
        explains, changes = [], 0
        for name, value in made.items():
            value = np.asarray(value)
            if value.shape != right[name].shape or not np.all(np.isfinite(value)):
                continue
            change = float(np.linalg.norm(value - right[name]))
            if change <= 1e-10 * float(np.linalg.norm(right[name])) + 1e-300:
                continue
            changes += 1
            left = name in wrong and float(np.linalg.norm(value - wrong[name]))
            if (
                left is not False
                and left <= 1e-5 * change
                and relative_error(wrong[name], value) < 1e-8
            ):
                explains.append(name)
        # Values alone have one cause: what explains some of them and spoils the rest explains none.
        if not case.differentiable and len(explains) < changes:
            continue
        rank = len(explains), len(explains) - changes, -index
        for name in explains:
            if name not in best or rank > best[name][0]:
                best[name] = rank, hint
        if len(explains) == changes == len(wrong):
            break
    return {name: hint for name, (_, hint) in best.items()}


def _numbers(case: Case, functions: dict, inputs: dict, upstream):
    """What is judged: the gradients, or without upstream the outputs."""
    outputs, gradients = case.run(Functions(functions), inputs, upstream)
    return outputs if upstream is None else gradients


def _exchanges(case: Case, inputs: dict, upstream):
    """One array in the place of another, where the function is known line by line."""
    name = case.functions[0 if upstream is None else -1]
    if not (found := lines_of(name)):
        return
    right, build = found
    shapes: dict = {}

    def spy(*values):
        shapes.update(shapes or right.shapes(*values))
        return right(*values)

    _numbers(case, {name: build(spy)}, inputs, upstream)
    for words, lines in right.exchanges(shapes):
        function = {name: build(lines)}
        yield words, lambda function=function: _numbers(case, function, inputs, upstream)


def _slips(case: Case, inputs: dict, upstream):
    """The words of each slip, and what makes its numbers."""
    forward, backward = case.functions[0], case.functions[-1]
    outputs_too = upstream is None or not case.outputs
    numbers = partial(_numbers, case)

    if not outputs_too:
        names = [f"d{output}" for output in case.outputs]
        for i, dout in enumerate(names):
            for value, hint in ((0.0, "does not use {}"), (1.0, "is that of ones for {}")):
                others = [*upstream[:i], np.full_like(upstream[i], value), *upstream[i + 1 :]]
                words = f"{hint.format(dout)}: is the upstream factor {dout} forgotten?"
                yield words, lambda others=others: numbers({}, inputs, others)
            if upstream[i].ndim == 3:
                for shift, way, other in ((1, "early", "before"), (-1, "late", "after")):
                    round_ = np.roll(upstream[i], shift, axis=1)
                    zero = round_.copy()
                    zero[:, 0 if shift > 0 else -1] = 0
                    for moved in (zero, round_):
                        others = [*upstream[:i], moved, *upstream[i + 1 :]]
                        words = f"is one time step {way}: step t reads {dout} of the step {other}"
                        yield words, lambda others=others: numbers({}, inputs, others)
    for name, x in inputs.items() if upstream is None else ():
        if isinstance(x, np.ndarray) and x.ndim == 3 and x.dtype.kind == "f" and x.shape[1] > 2:
            steps = np.arange(x.shape[1])
            for hint, order in (
                (f"reads {name}[:, t - 1] at step t", np.maximum(steps - 1, 0)),
                (f"reads {name}[:, t - 1] at step t", steps - 1),
                (f"reads {name}[:, t + 1] at step t", np.minimum(steps + 1, steps[-1])),
                (f"reads {name} in the wrong order, the last step first", steps[::-1]),
                (f"reads {name}[:, 0] at every step", 0 * steps),
            ):
                moved = {**inputs, name: x[:, order]}
                yield hint, lambda moved=moved: numbers({}, moved, None)
    mask = inputs.get("mask")
    if isinstance(mask, np.ndarray):
        for instead, words in (
            (np.ones_like(mask), "is wrong exactly where the mask is 0: is the mask used?"),
            (~mask, "has the mask the wrong way round"),
            *_moved_masks(mask),
        ):
            yield words, lambda m=instead: numbers({}, {**inputs, "mask": m}, upstream)
    for slip in slips_of(forward if upstream is None else backward):
        yield slip.hint, lambda s=slip: numbers({s.name: s.function}, inputs, upstream)


def _moved_masks(mask: Array) -> list[tuple[Array, str]]:
    """Masks as they come of a slip in their place, and the words for it."""
    found = []
    if mask.ndim > 1 and mask.shape[-1] == mask.shape[-2]:
        found.append((mask.swapaxes(-1, -2), "has the mask transposed: [query, key] is its order"))
    for place, words in ((0, "first"), (-1, "last")):
        less = mask.copy()
        less[..., place] = False
        found.append((less, f"leaves out the {words} place, where the mask is 1 too"))
    for shift, words in ((1, "one place late"), (-1, "one place early")):
        for edge in (False, True):
            moved = np.roll(mask, shift, axis=-1)
            moved[..., 0 if shift > 0 else -1] = edge
            found.append((moved, f"has the mask {words}: [t] is of place t"))
    return found


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
    found = []
    if hint >= 2:
        found.append(
            "Hint 2: go through the steps from the last to the first. Each state has two readers, "
            "the loss and the next step; the weights are read by every step"
            if through_time(name) and name.endswith("_backward")
            else f"Hint 2: {equation_of(name, quantity)}"
        )
    if hint >= 3:
        code = without_docstring(inspect.getsource(our_function(name)))
        lines = [line for line in code.splitlines() if line.strip()]
        found += ["Hint 3: our code says", *(f"    {line}" for line in lines)]
    return found
