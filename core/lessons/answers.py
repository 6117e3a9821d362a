"""What answers the exercises of the lessons, but for the gradient checks: one sentence each.

The sentence names what is typically wrong with such values. It never shows the whole of what is
expected: of an array one entry, of a number how far off it is, of a text nothing.
"""

from __future__ import annotations

import copy
import math
import reprlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.gradient_check import relative_error, told_apart
from core.lessons.slips import COMPARED, CONFIRMED

Array = np.ndarray

_FACTORS = {  # what a number or an array may be off by, and how that is said
    -1.0: "has the wrong sign",
    0.5: "is half of what is expected",
    2.0: "is twice what is expected",
    -0.5: "is half of what is expected, with the wrong sign",
    -2.0: "is twice what is expected, with the wrong sign",
}
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


@dataclass
class Answer:
    """What an exercise was told: shown as text at the end of a cell, true when it is solved."""

    passed: bool
    text: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.text


def compare(
    function: Callable,
    oracle: Callable,
    *arguments,
    tolerance: float = 1e-8,
    also: Mapping[str, tuple] | None = None,
    exercise: str = "",
    axis: str = "",
) -> Answer:
    """Compares a learner's function with one that is known to be right.

    Inputs:
    - function: the learner's; any wrong value, shape or error of it becomes a sentence. An
      ``assert`` with a text, in what calls the learner's function, gives its text.
    - oracle: computes what is expected
    - arguments: both get copies of these
    - tolerance: the norm-relative error that is allowed to arrays and numbers
    - also: further arguments, each under words that say what is special about them
    - exercise: a number in ``core.lessons.slips.COMPARED``; when the learner's values are those of
      a slip there, its sentence is the answer
    - axis: what the first axis of the values counts, "step" say
    """
    name = getattr(function, "__name__", "the function")
    slips = COMPARED[exercise] if exercise else {}
    for case, given in {"": arguments, **(also or {})}.items():
        with np.errstate(all="ignore"):  # a NaN is in the answer, not also in a warning
            problem = _problem(function, oracle, given, tolerance, slips, axis)
        if problem:
            return Answer(False, f"{name}{case and f', {case},'} {problem}")
    return Answer(True, f"{name} holds")


def _problem(function, oracle, arguments, tolerance, slips, axis) -> str | None:
    """What is wrong for one set of arguments, as the rest of a sentence; None when nothing is."""
    given = copy.deepcopy(arguments)
    try:
        got = function(*given)
        if got is None or got is Ellipsis:
            return f"returned {got}: is it written yet, with a return at its end?"
        expected = oracle(*copy.deepcopy(arguments))  # it may call what the learner wrote
    except (Exception, SystemExit) as error:
        return _raised(error)
    written = None
    if not _is_unchanged(given, arguments):
        written = "writes into what it was given; work on a copy"
    problem = _difference(got, expected, tolerance, _sizes(arguments), axis)
    if problem is None:
        return written
    for sentence, slip in slips.items():
        try:
            made = slip(expected, *copy.deepcopy(arguments))
            if _difference(got, made, tolerance, (), "") is None:
                problem = f"is wrong: {sentence}"
                break
        except Exception:  # a slip need not be possible with these arguments
            continue
    return f"{problem}; it also {written}" if written else problem


def _raised(error: BaseException) -> str:
    if isinstance(error, AssertionError) and str(error):
        return f"does not hold: {_on_one_line(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not _is_installed(f.filename)]
    found = f"raised {type(error).__name__}: {_on_one_line(error)}"
    if "NoneType" in found:
        found += "; does a function still return None?"
    return f"{found} (line {theirs[-1].lineno}: {theirs[-1].line})" if theirs else found


def _shown(value) -> str:
    """A value in short, whatever its own words for it do."""
    try:
        return " ".join(_BRIEF.repr(value).split())
    except Exception:
        return _a(value)


def _on_one_line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "its own message cannot be made"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_installed(file: str) -> bool:
    """Whether a file is of this package or of another that was installed: not the learner's."""
    return "site-packages" in file or Path(file).is_relative_to(Path(__file__).parents[1])


def _is_unchanged(now, then) -> bool:
    """Whether the arrays in two values, one of which was a copy of the other, still agree."""
    if isinstance(now, Array):
        return now.shape == then.shape and now.tobytes() == then.tobytes()  # NaN is NaN
    if isinstance(now, dict):
        return now.keys() == then.keys() and all(_is_unchanged(now[k], then[k]) for k in now)
    if isinstance(now, tuple | list):
        return len(now) == len(then) and all(map(_is_unchanged, now, then))
    return type(now) is type(then) and (not isinstance(now, str) or now == then)


def _sizes(values) -> set[int]:
    """The lengths of all axes of the arrays in some values, and their products."""
    if isinstance(values, Array):
        return {*values.shape, values.size}
    if isinstance(values, dict):
        values = values.values()
    if isinstance(values, tuple | list | type({}.values())):
        return set().union(*map(_sizes, values))
    return set()


def _difference(got, expected, tolerance: float, sizes, axis: str) -> str | None:
    """How two values differ, as the rest of a sentence; None when they do not."""
    if isinstance(expected, tuple | list | dict):
        return _difference_of_parts(got, expected, tolerance, sizes, axis)
    if isinstance(expected, str):
        return None if got == expected else f"returned {_shown(got)}, which is not right"
    if isinstance(expected, Array) and expected.ndim:
        if isinstance(got, tuple | list):
            return f"returned a {type(got).__name__}, expected an array; np.array makes one of it"
        if not isinstance(got, Array) or isinstance(got, np.ma.MaskedArray):
            return f"returned {_a(got)}, expected an array of shape {expected.shape}"
        return _difference_of_arrays(got, expected, tolerance, sizes, axis)
    if isinstance(got, Array) and got.ndim:
        return f"returned an array of shape {got.shape}, expected one number"
    real = int | float | np.floating | np.integer | np.bool_ | Array
    if not isinstance(got, real) or (isinstance(got, Array) and got.dtype.kind not in "biuf"):
        return f"returned {_a(got)}, expected {_a(expected)}"
    return _difference_of_numbers(got, expected, tolerance, sizes)


def _a(value) -> str:
    if isinstance(value, np.ma.MaskedArray):
        return "a masked array"
    if isinstance(value, Array) and value.ndim:
        return f"an array of shape {value.shape}"
    kinds = {complex: "a complex number", np.complex128: "a complex number"}
    kinds |= {bool: "True or False", np.bool_: "True or False", str: "a text", dict: "a dict"}
    number = isinstance(value, int | float | np.number | Array)
    return kinds.get(type(value), "a number" if number else f"a {type(value).__name__}")


def _difference_of_parts(got, expected, tolerance, sizes, axis) -> str | None:
    if not isinstance(got, type(expected)):
        kind = type(expected).__name__
        said = f"returned {_a(got)}, expected a {kind} of {len(expected)}"
        return f"{said}; tuple(...) makes one of it" if isinstance(got, list) else said
    if isinstance(expected, dict):
        if got.keys() != expected.keys():
            extra, lacking = got.keys() - expected.keys(), expected.keys() - got.keys()
            words = [f"has the key {key} too many" for key in sorted(map(_shown, extra))]
            words += [f"lacks the key {key}" for key in sorted(map(_shown, lacking))]
            return "; ".join(words[:2])
        places = list(expected)
    else:
        if len(got) != len(expected):
            return f"returned {len(got)} values, expected {len(expected)}"
        places = range(len(expected))
    found = {}
    for place in places:
        if problem := _difference(got[place], expected[place], tolerance, sizes, axis):
            found[place] = problem
    if not found:
        return None
    place, problem = next(iter(found.items()))
    for other in found if not isinstance(expected[place], str) else ():  # exchanged
        same = not _difference(got[place], expected[other], tolerance, (), "")
        if same and not _difference(got[other], expected[place], tolerance, (), ""):
            return f"[{place!r}] and [{other!r}] are exchanged"
    more = f" ({len(found)} of {len(places)} are wrong)" if len(found) > 1 else ""
    return f"[{place!r}] {problem}{more}"


def _difference_of_numbers(got, expected, tolerance, sizes) -> str | None:
    if isinstance(got, int) and abs(got) > 2**1000:  # no float holds it
        return "returned a whole number that is far too large"
    a, b = np.asarray(got)[()], np.asarray(expected)[()]
    if (np.asarray(a).dtype.kind == "b") != (np.asarray(b).dtype.kind == "b"):
        return f"returned {_a(got)}, expected {_a(expected)}"
    if relative_error(float(a), float(b)) <= tolerance:
        return None
    if np.asarray(a).dtype.kind == "b":
        return f"returned {bool(a)}, which is not right"
    said = f"returned {told_apart(a, b)[0]}"
    if not np.isfinite(a):
        return f"{said}: no finite number"
    whole = np.asarray(b).dtype.kind in "iu"
    if whole and a != np.floor(a):
        return f"{said}, expected a whole number"
    if rounding := _rounding(np.asarray(a), np.asarray(b), tolerance):
        return f"{said}: {rounding}"
    if factor := _factor(float(a / b) if b else math.inf, tolerance, sizes):
        return f"{said}, which {factor}"
    if whole and abs(a - b) == 1:
        return f"{said}, which is one too {'many' if a > b else 'few'}"
    share = abs(float(a - b)) / abs(float(b)) if b else math.inf
    digits = 0 if share >= 0.1 else 2
    far = f"by {100 * share:.{digits}f} %" if share < 10 else "by far"
    if share < 1e-4:
        far = "by little, but by more than rounding"
    return f"{said}, which is too {'large' if a > b else 'small'}, {far}"


def _factor(ratio: float, tolerance: float, sizes) -> str | None:
    """What a constant factor between values means, when it means something."""
    close = max(tolerance, 1e-9)
    for factor, sentence in _FACTORS.items():
        if abs(ratio - factor) <= close * abs(factor):
            return sentence
    for size in sorted(sizes):
        if size < 2:
            continue
        if abs(ratio * size - 1) <= close:
            return f"is {size} times too small: a mean where a sum belongs?"
        if abs(ratio / size - 1) <= close:
            return f"is {size} times too large: a sum where a mean belongs?"
        if min(abs(ratio * size**0.5 - 1), abs(ratio / size**0.5 - 1)) <= close:
            return f"is off by the root of {size}, the length of an axis"
    return None


def _rounding(a: Array, b: Array, tolerance: float) -> str | None:
    if b.dtype.kind == "f" and np.any(b != np.round(b)):
        for rounded in (np.floor(b), np.trunc(b), np.round(b)):
            if np.any(rounded) and np.array_equal(a, rounded):
                return "rounded to whole numbers; // divides so, and arrays of integers cut"
    return None


def _difference_of_arrays(a: Array, b: Array, tolerance, sizes, axis) -> str | None:
    if a.shape != b.shape:
        said = f"returned shape {a.shape}, expected {b.shape}"
        if a.ndim == b.ndim and sorted(a.shape) == sorted(b.shape):
            said += ": two axes are exchanged"
        elif a.size == b.size:
            said += ": as many entries, in another arrangement"
        return said
    kinds = {"b": "booleans", "i": "integers", "u": "integers", "f": "floating-point numbers"}
    wanted, found = kinds.get(b.dtype.kind), kinds.get(a.dtype.kind, f"the dtype {a.dtype}")
    if wanted and found != wanted:
        return f"returned {found}, expected {wanted}"
    if a.dtype.kind == "f" and a.dtype.itemsize < b.dtype.itemsize:
        return f"returned {a.dtype}, expected {b.dtype}: keep the precision of what is given"
    if wanted is None:
        return None if np.array_equal(a, b) else "returned other entries than expected"
    x, y = a.astype(float), b.astype(float)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    scale = tolerance * np.linalg.norm(y[np.isfinite(y)])
    if np.linalg.norm(np.where(same, 0, x) - np.where(same, 0, y)) <= scale:
        return None
    for kind, has in (("NaN", np.isnan), ("infinite", np.isinf)):
        if np.any(has(x) & ~has(y)):
            bad = has(x) & ~has(y)
            return f"is {kind} at {bad.sum()} of {bad.size} places, first at {_at(bad)}"
    known = _relation(x, y, tolerance, sizes)
    gap = np.nan_to_num(np.abs(x - y), nan=np.inf)
    off = gap > max(1e-3 * np.max(gap[np.isfinite(gap)], initial=0), 0)
    if axis and off.any(axis=tuple(range(1, off.ndim))).argmax() > 0:
        first = off.any(axis=tuple(range(1, off.ndim))).argmax()
        known = known or f"is right up to {axis} {first} of {len(off)} and wrong from the next on"
    if known:
        return known
    place = np.unravel_index(np.argmax(off), off.shape)
    if wanted == "booleans":
        values = f"got {bool(a[place])}, expected {bool(b[place])}"
    else:
        values = "got {}, expected {}".format(*told_apart(a[place] + 0, b[place] + 0))  # -0 is 0
    start = "is wrong from the first step on" if axis == "step" else "is wrong"
    if b.size == 1:  # the one entry is the answer
        return _difference_of_numbers(a.item(), b.item(), tolerance, sizes)
    return f"{start} at {off.sum()} of {off.size} places, first at {_at(off)}: {values}"


def _at(places: Array) -> str:
    index = np.unravel_index(np.argmax(places), places.shape)
    return f"[{', '.join(map(str, index))}]"


def _relation(x: Array, y: Array, tolerance: float, sizes) -> str | None:
    """What a learner's whole array is to the right one, when that is something well known."""

    def equal(p, q):
        return p.shape == q.shape and bool(np.allclose(p, q, rtol=max(tolerance, 1e-9), atol=0))

    if not np.any(x) and np.any(y):
        return "is zero everywhere"
    used = np.isfinite(y) & (y != 0)
    if np.all(x[~used] == y[~used]) and np.any(used):
        ratio = x[used] / y[used]
        middle = float(np.median(ratio))
        if x.size > 1 and middle and equal(ratio, np.full_like(ratio, middle)):
            times = f"{middle:.4g}" if abs(middle - 1) > 1e-3 else told_apart(middle, 1.0)[0]
            return _factor(middle, tolerance, sizes) or f"is {times} times what is expected"
    if rounding := _rounding(x, y, tolerance):
        return f"is {rounding}"
    if x.ndim > 1 and equal(x.swapaxes(-1, -2), y):
        return "is transposed"
    moved = equal(np.sort(x, axis=None), np.sort(y, axis=None))
    if moved and equal(x, np.sort(x, axis=-1)):
        return "is sorted; expected is the same in another order"
    for axis in range(x.ndim):
        if equal(np.flip(x, axis), y):
            return f"is in reversed order along axis {axis}"
        for by, words in ((-1, "late"), (1, "early")):
            if x.shape[axis] > 1 and equal(np.roll(x, by, axis), y):
                return f"is one place too {words} along axis {axis}"
    if moved:
        return "has the right entries in another order"
    if x.size > 2 and equal(x - y, np.full_like(y, np.ravel(x - y)[0])):
        return f"is too {'large' if np.ravel(x - y)[0] > 0 else 'small'} by the same everywhere"
    return None


def confirm(got, accepts: Callable, expected: str, exercise: str = "") -> Answer:
    """Whether what a learner's experiment found is what it should find.

    Inputs:
    - got: a value, or a function without arguments that gives it; None: not written yet. An error
      of the function becomes a sentence.
    - accepts: a value -> whether it is as expected
    - expected: says what is expected, "a loss below 0.5, say"
    - exercise: a number in ``core.lessons.slips.CONFIRMED``, whose slips are told by name
    """
    if callable(got):
        try:
            got = got()
        except (Exception, SystemExit) as error:
            return Answer(False, f"It {_raised(error)}; expected {expected}.")
    if got is None or got is Ellipsis:
        return Answer(False, f"There is no answer yet; expected {expected}.")
    number = isinstance(got, float | np.floating)
    shown = f"{got:.4g}" if number else _shown(got)
    try:
        if accepts(got):
            return Answer(True, f"holds: {expected}")
        if number and accepts(float(shown)):
            shown = f"{got:.17g}"  # rounded it would be right
        for sentence, slip in (CONFIRMED[exercise] if exercise else {}).items():
            if slip(got):
                return Answer(False, f"found {shown}: {sentence}; expected {expected}.")
    except Exception as error:
        expected += f" ({type(error).__name__}: {error})"
    return Answer(False, f"found {shown}, expected {expected}.")
