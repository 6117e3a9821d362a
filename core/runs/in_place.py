"""A learner's functions where ours were: every call of theirs is fitted, compared and guarded.

The global names of ``core`` that are one of our functions are theirs while a run lasts. Which of
them a file has says ``core/runs/own.py``.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np

from core import decoding, optim
from core.coco_utils import minibatches
from core.gradient_check.case import our_function
from core.gradient_check.cases import CASES
from core.gradient_check.learner import ImplementationError, malformed
from core.layers import affine_forward, log_softmax
from core.models import captioning_transformer
from core.runs.own import WAYS, Own
from core.support.schema import Number
from core.workbook.road import FUNCTIONS

Array = np.ndarray

# What an argument that a learner's function lacks belongs to, where that has another name.
_OPTIONS = {"smoothing": "label_smoothing", "norm_first": "post_norm"}
_OPTIONS |= dict.fromkeys(("dropout", "rng", "train"), "dropout")

_signature = cache(inspect.signature)


@contextmanager
def in_place(own: Own) -> Iterator[None]:
    """Our functions are the learner's inside of the block.

    What one of theirs does wrong there raises a ValueError that names it; where a loss is no number
    any more, the ValueError says which of them was the first to return such. So does what breaks
    around them: it may be what they changed.
    """
    calls, changes = _Calls(own), []
    for name in FUNCTIONS:
        ours = our_function(name)
        if call := calls.instead_of(name, ours):
            changes.append((ours, _unless_inside(calls.inside, name, ours, call)))
    numbers = {rule: optim.numbers_of(rule, {}) for rule in optim.RULES}
    # Of ours: what a rule of theirs remembers from step to step could pass for one of its numbers.
    changes.append((optim.numbers_of, lambda rule, config: numbers[rule] | dict(config)))
    _swap(changes)
    beside = str(own.path.resolve().parent)  # a function may import what is there
    search_path = sys.path.copy()
    sys.path.append(beside)
    try:
        with _blocks_in_place():
            yield
    except ValueError as error:
        if calls.not_finite is None:
            raise
        raise ValueError(
            f"{error}; the first to return numbers that are not finite, for finite ones, was "
            f"{calls.not_finite} of {own.path.name} (line {own.line_of(calls.not_finite)}); check "
            f"it: {own.command(calls.not_finite)}"
        ) from error
    except (OSError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__}: {error} (line {frame.lineno} of {frame.filename})"
        raise ValueError(
            f"{own.path}: what calls its functions broke, by {found}; does the file change what is "
            "not its own, of core or of NumPy? If it does not, this is a fault of core"
        ) from error
    finally:
        sys.path[:] = search_path
        _swap([(new, old) for old, new in changes])


def try_out(solver) -> None:
    """A step on two captions that is undone: what cannot train ends before a file is written."""
    model, engine = solver.model, solver.engine
    params, configs, state = model.params, engine.configs, model.rng.bit_generator.state
    model.params = {name: w.copy() for name, w in params.items()}
    engine.configs = copy.deepcopy(configs)
    batches = minibatches(solver.data, "train", 2, model.null, np.random.default_rng(0))
    captions, features = next(iter(batches))
    with np.errstate(all="ignore"):  # as in a training
        engine.compute(features, captions)
        engine.update()
    model.params, engine.configs, model.rng.bit_generator.state = params, configs, state


def _unless_inside(inside: set[str], name: str, ours: Callable, call: Callable) -> Callable:
    """``call``, or ours where theirs calls what it takes for ours."""

    def function(*arguments, **options):
        return (ours if name in inside else call)(*arguments, **options)

    return function


def _swap(changes: Sequence[tuple]) -> None:
    """Puts the second of each pair wherever a module of ``core``, or RULES, has the first."""
    modules = [m for n, m in list(sys.modules.items()) if f"{n}.".startswith("core.")]
    new = {id(old): by for old, by in changes}
    for place in [*map(vars, modules), optim.RULES]:
        for name, value in list(place.items()):
            if id(value) in new:
                place[name] = new[id(value)]


@dataclass
class _Cache:
    """What a forward keeps for its backward, and what the gradients must look like, by name."""

    kept: object
    gradients: dict
    given: tuple

    def __getitem__(self, place: int):
        """An argument: our multi-head attention looks at the first, q, for the number of heads."""
        return self.given[place]


class _Calls:
    """The calls of a learner's functions.

    ``inside`` are the functions that are at work; ``not_finite`` is the first that returned
    infinity or NaN for finite numbers.
    """

    def __init__(self, own: Own):
        self.own, self.functions = own, own.functions
        self.inside: set[str] = set()
        self.not_finite: str | None = None
        self._outputs: dict[tuple, list] = {}  # what ours look like, by function and shapes
        self._cast: set[str] = set()

    def instead_of(self, name: str, ours: Callable) -> Callable | None:
        """What takes the place of a function of ours; None leaves it."""
        pair, _, way = name.rpartition("_")
        if way == "forward" and self.functions.keys() & {name, f"{pair}_backward"}:
            return self._forward(name, ours)
        if name not in self.functions:
            return None
        if way == "backward":
            return self._backward(name)
        if name in optim.RULES:
            return self._rule(name)
        if hasattr(decoding, name):
            return self._decoder(name, ours)
        return lambda *arguments, **options: self._compared(name, ours, arguments, options)

    def _forward(self, name: str, ours: Callable) -> Callable:
        """Ours or the learner's: with the cache goes what the gradients must look like."""

        def forward(*arguments, **options):
            given = _signature(ours).bind(*arguments, **options).arguments
            likes = {f"d{key}": like for key, value in given.items() if (like := _like(value))}
            if name in self.functions:
                *outputs, cache = self._compared(name, ours, arguments, options)
            else:
                *outputs, cache = ours(*arguments, **options)
            return *outputs, _Cache(cache, likes, tuple(given.values()))

        return forward

    def _backward(self, name: str) -> Callable:
        def backward(*arguments):
            *upstream, cache = arguments
            found = self._call(name, *upstream, cache.kept, returns=len(cache.gradients))
            pairs = zip(cache.gradients.items(), found, strict=True)
            found = [self._fitting(name, what, like, got) for (what, like), got in pairs]
            self._note_finite(name, found, upstream)
            return tuple(found) if len(found) > 1 else found[0]

        return backward

    def _rule(self, name: str) -> Callable:
        def rule(w, dw, config=None):
            next_w, config = self._call(name, w, dw, config, returns=2)
            next_w = self._fitting(name, "next_w", _like(w), next_w)
            self._note_finite(name, [next_w], [w, dw])
            return next_w, self._config(name, config, next_w)

        return rule

    def _config(self, name: str, config, next_w: Array) -> dict:
        """What a rule remembers, as a checkpoint can keep it."""
        if not isinstance(config, dict):
            raise self._error(name, f"{name} returned no dict for config")
        if Number().fault(config.get("learning_rate")):
            raise self._error(name, f"{name} returned a config without a number for learning_rate")
        diverges = not _finite(next_w)  # which the loss will show
        kept = {}
        for key, value in config.items():
            value = value.item() if isinstance(value, np.generic) else value
            fits = Number().fault(value) is None
            if isinstance(value, Array):
                fits = _like(value) and value.shape == next_w.shape
                fits = fits and (diverges or _finite(value))
                value = np.asarray(value)
            if not (fits and isinstance(key, str) and key.isidentifier()):
                found = f"{key!r} in config, a {type(value).__name__}"
                if isinstance(value, Array):
                    found = f"{key!r} in config, {value.dtype} numbers of shape {value.shape}"
                way = (
                    "a checkpoint keeps finite numbers, and float arrays of such of the shape of w"
                )
                raise self._error(name, f"{name} keeps {found}; {way}")
            kept[key] = value
        return kept

    def _decoder(self, name: str, ours: Callable) -> Callable:
        def decoder(*arguments, **options):
            given = _signature(ours).bind(*arguments, **options)
            given.apply_defaults()
            given = given.arguments
            model, best = given["model"], [given["n_best"]] if "n_best" in given else []
            arguments, options = self._arguments(name, ours, arguments, options)
            ids, *scores = self._call(name, *arguments, returns=1 + len(best), **options)
            try:
                ids = np.asarray(ids)
            except ValueError:
                raise self._error(name, f"{name} returned no array of word ids") from None
            shape = len(given["features"]), *best, given["max_length"]
            if ids.dtype.kind not in "iu" or ids.shape != shape:
                found = f"{ids.dtype} numbers of shape {ids.shape}"
                raise self._error(name, f"{name} returned {found}, expected word ids {shape}")
            vocabulary = len(getattr(model, "word_to_idx", ())) or np.inf
            if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary:
                raise self._error(name, f"{name} returned ids outside of the vocabulary")
            like = shape[:2], np.dtype(np.float64)
            return (ids, self._fitting(name, "scores", like, scores[0])) if best else ids

        return decoder

    # -- one call -----------------------------------------------------------------------------

    def _compared(self, name: str, ours: Callable, arguments: tuple, options: dict):
        """A call of theirs whose outputs must look like those of ours."""
        given = [*arguments, *options.values()]
        key = name, *(getattr(value, "shape", value) for value in given if _is_size(value))
        if key not in self._outputs:
            draws = np.random.Generator  # which are theirs to make
            copies = (copy.deepcopy(v) if isinstance(v, draws) else v for v in arguments)
            expected = ours(*copies, **options)
            expected = expected if isinstance(expected, tuple) else (expected,)
            self._outputs[key] = [_like(value) for value in expected]
            if name.endswith("_forward"):
                self._outputs[key][-1] = None  # the cache may be anything
        likes = self._outputs[key]
        taken, more = self._arguments(name, ours, arguments, options)
        found = self._call(name, *taken, returns=len(likes), **more)
        case = next((case for case in CASES if case.functions[0] == name), None)
        names = (case and case.outputs) or (("loss", "dx") if len(likes) > 1 else ("out",))
        for i, like in enumerate(likes):
            if like:
                what = names[i] if i < len(names) else f"output {i + 1}"
                found[i] = self._fitting(name, what, like, found[i])
        self._note_finite(name, found, given)
        return tuple(found) if len(found) > 1 else found[0]

    def _arguments(self, name: str, ours: Callable, arguments: tuple, options: dict):
        """The arguments of a call, for a function that may lack those that have a default in ours.

        Raises ValueError when it lacks one that matters.
        """
        try:
            theirs = _signature(self.functions[name]).parameters
        except (TypeError, ValueError):  # of no Python function
            return arguments, options
        given = _signature(ours).bind(*arguments, **options).arguments
        known, required, more = _signature(ours).parameters, [], {}
        takes_any = any(p.kind is p.VAR_KEYWORD for p in theirs.values())
        places = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for place, (key, parameter) in enumerate(known.items()):
            if parameter.default is parameter.empty:
                required.append(given[key])
                continue
            their = key if key in theirs or takes_any else None
            if their is None and place < len(places) and places[place] not in known:
                their = places[place]  # under another name
            if their is None:
                if key in given and _matters(key, parameter.default, given):
                    raise self._lacks(name, key)
            elif key in given:
                more[their] = given[key]
            elif their in theirs and theirs[their].default is parameter.empty:
                more[their] = parameter.default
        return required, more

    def _lacks(self, name: str, key: str) -> ValueError:
        option = _OPTIONS.get(key, key)
        needs, way = f"--{option} needs", f"give it one, or leave --{option} out"
        if key == "mask":
            needs, way = "this model needs", "give it one"
        return ValueError(
            f"{self.own.path}, line {self.own.line_of(name)}: {name} has no argument {key}, which "
            f"{needs}; {way}"
        )

    def _call(self, name: str, *arguments, returns: int, **options) -> list:
        """What theirs returns, as a list of so many."""
        self.inside.add(name)
        try:
            with np.errstate():  # they may change it, and the folder
                how = options | {"returns": returns} if returns > 1 else options
                found = self.functions.call(name, *arguments, **how)
            return list(found) if returns > 1 else [found]
        except ImplementationError as error:
            raise self._error(name, str(error)) from error
        finally:
            self.inside.discard(name)
            os.chdir(self.own.folder)

    def _fitting(self, name: str, what: str, like, got):
        """What was returned, in the dtype that was expected; ValueError for another shape."""
        if isinstance(like, dict):
            if not isinstance(got, Mapping) or (like.keys() - got.keys()):
                missing = min(like.keys() - got.keys()) if isinstance(got, Mapping) else None
                found = f"nothing of {missing}" if missing else f"a {type(got).__name__}"
                raise self._error(name, f"{name} returned {found} for {what}, expected a dict")
            return {k: self._fitting(name, f"{what}[{k!r}]", v, got[k]) for k, v in like.items()}
        shape, dtype = like
        if fault := malformed(got, shape):
            raise self._error(name, f"{name} returned {fault} for {what}")
        got = np.asarray(got) if shape else got
        if shape == () or got.dtype == dtype:
            return got
        if name not in self._cast and name != "positional_encoding":  # a table, in any dtype
            self._cast.add(name)
            found = f"{name} returned {got.dtype} numbers for {dtype} ones"
            warnings.warn(f"{self.own.path.name}: {found}, which are taken as those", stacklevel=2)
        return got.astype(dtype)

    def _note_finite(self, name: str, found: list, given: Sequence) -> None:
        if self.not_finite is None and not all(map(_finite, found)) and all(map(_finite, given)):
            self.not_finite = name

    def _error(self, name: str, message: str) -> ValueError:
        place = "" if "(line " in message else f", line {self.own.line_of(name)}"
        command = self.own.command(name)
        return ValueError(f"{self.own.path}{place}: {message}; check it: {command}")


class _WholePrefix:
    """How a Transformer says a word by reading all words before it again, through its blocks.

    Ours keeps keys and values, which a block of a learner's knows nothing of.
    """

    def begin(self, features):
        features = self._checked_features(features)
        return features, np.empty((len(features), 0), np.int64)

    def step(self, state, tokens):
        features, words = state
        words = np.concatenate([words, tokens[:, None]], axis=1)
        if words.shape[1] > self.max_length:
            raise ValueError(f"the model has {self.max_length} positions, and all are taken")
        h, _, _ = self._forward(features, words, None, None)
        scores, _ = affine_forward(h[:, -1], *self._vocabulary())
        return log_softmax(scores), (features, words)

    def select(self, state, rows):
        return tuple(each[rows] for each in state)


@contextmanager
def _blocks_in_place() -> Iterator[None]:
    """The Transformer with the blocks that have been put in the place of ours."""
    model = captioning_transformer.CaptioningTransformer
    theirs = {name: vars(_WholePrefix)[name] for name in ("begin", "step", "select")}
    for way in WAYS:
        block = vars(captioning_transformer)[f"decoder_block_{way}"]
        theirs[f"block_{way}"] = staticmethod(block)
    ours = {name: vars(model)[name] for name in theirs}
    for name, method in theirs.items():
        setattr(model, name, method)
    try:
        yield
    finally:
        for name, method in ours.items():
            setattr(model, name, method)


def _is_size(value) -> bool:
    """Whether the shapes of what is returned may depend on it."""
    return isinstance(value, Array | int)


def _like(value):
    """Shape and dtype of an array of floating-point numbers, or those of a dict; else None."""
    if isinstance(value, Mapping):
        return {key: _like(each) for key, each in value.items()}
    is_array = isinstance(value, Array | np.floating) and value.dtype.kind == "f"
    return (value.shape, value.dtype) if is_array else None


def _finite(value) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    numbers = isinstance(value, float | np.floating) or _like(value)
    return not numbers or bool(np.isfinite(value).all())


def _matters(key: str, default, given: Mapping) -> bool:
    """Whether an argument that a function of theirs lacks is more than its default."""
    if key in ("rng", "train") and not given.get("dropout", given.get("p")):
        return False
    value = given[key]
    return not (value is default or (np.ndim(value) == 0 and value == default))
