"""``--impl FILE.py``: a learner's functions in the place of ours, all over the plain engine.

The global names of ``core`` that are our function become the learner's while a run lasts; the rest
stays ours. Whatever a function of theirs does wrong becomes one line that names it.
"""

from __future__ import annotations

import ast
import copy
import difflib
import hashlib
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core import decoding, optim
from core.gradient_check.apart import check_apart
from core.gradient_check.cases import CASES
from core.gradient_check.learner import (
    Functions,
    ImplementationError,
    load_implementation,
    malformed,
)
from core.layers import affine_forward, log_softmax
from core.models import captioning_transformer
from core.support.command_line import progress, quoted
from core.workbook.road import FUNCTIONS

Array = np.ndarray

_SECONDS = 10  # that the check before a training may take
_WAYS = ("forward", "backward")
# What a model calls to learn, and to say a caption; and what our composite layers call.
_LEARNS = {
    "rnn": "affine word_embedding dropout rnn temporal_affine temporal_softmax_loss",
    "lstm": "affine word_embedding dropout lstm temporal_affine temporal_softmax_loss",
    "attention": "affine word_embedding dropout attention_lstm doubly_stochastic_loss "
    "temporal_affine temporal_softmax_loss",
    "transformer": "temporal_affine word_embedding dropout decoder_block layer_norm "
    "temporal_softmax_loss",
}
_SAYS = {
    "rnn": "affine word_embedding rnn_step",
    "lstm": "affine word_embedding lstm_step",
    "attention": "affine temporal_affine word_embedding attention_lstm_step",
    "transformer": "affine temporal_affine word_embedding dropout decoder_block layer_norm",
}
_CALLS = {
    "rnn": "rnn_step",
    "lstm": "lstm_step",
    "attention_lstm": "attention_lstm_step",
    "attention_lstm_step": "attend context_gate lstm_step",
    "decoder_block": "multi_head_attention feed_forward",
    "multi_head_attention": "scaled_dot_product_attention",
}
# The options that need an argument which a learner's function may lack.
_OPTIONS = {"smoothing": "--label_smoothing", "norm_first": "--post_norm", "p": "--dropout"}
_OPTIONS |= dict.fromkeys(("dropout", "rng", "train"), "--dropout")


@dataclass
class _Cache:
    """What a forward keeps for its backward, and what the gradients must look like, by name."""

    kept: object
    gradients: dict


class Own:
    """A learner's file, and which of its functions take the place of ours.

    Inputs:
    - path: of the file, which is run
    - models: names of the models of the run
    - others: functions that it takes besides those of their layers, as an update rule
    - training: whether gradients are needed: a forward without its backward is then of no use

    Raises FileNotFoundError when there is no such file, ValueError when it cannot be imported or
    holds no function under a known name.
    """

    def __init__(
        self, path: str | Path, models: Sequence[str], others: Sequence[str], training: bool
    ):
        self.path, self.training = Path(path), training
        with np.errstate():  # a file may change how NumPy warns
            found = load_implementation(self.path)
        source = self.path.read_bytes()
        self.sha256 = hashlib.sha256(source).hexdigest()
        known = {name: found[name] for name in FUNCTIONS if name in found}
        if not known:
            raise ValueError(
                f"--impl {path}: defines no function under a known name, expected names such as "
                f"{', '.join(FUNCTIONS[:3])}; python -m core.workbook new FILE.py writes them all"
            )
        written = {node.name: node for node in ast.parse(source).body if _is_function(node)}
        self.empty = [name for name in known if name in written and _is_empty(written[name])]
        self.halves = [
            name
            for name in known
            if training and name not in self.empty and _lacks_backward(name, known, self.empty)
        ]
        left_out = {*self.empty, *self.halves}
        self.functions = Functions({n: f for n, f in known.items() if n not in left_out})
        self.ignored = sorted(found.keys() - known.keys())
        self.used = self._used(models, others)
        self.not_finite: str | None = None  # the first function that made such numbers
        self._inside: set[str] = set()
        self._outputs: dict[tuple, tuple] = {}
        self._cast: set[str] = set()

    # -- what is whose ------------------------------------------------------------------------

    def _used(self, models: Sequence[str], others: Sequence[str]) -> list[str]:
        """The functions that a run calls, theirs or ours, in the order of the road."""
        ways, calls = (_WAYS, _LEARNS) if self.training else (_WAYS[:1], _SAYS)
        called, waiting = set(others), [name for model in models for name in calls[model].split()]
        while waiting:
            name = waiting.pop()
            names = {name} if name in FUNCTIONS else {f"{name}_{way}" for way in ways}
            called |= names
            for part in _CALLS.get(name, "").split():
                # A composite of theirs calls what it likes, but nothing of ours.
                theirs = names <= self.functions.keys()
                if not theirs or f"{part}_forward" in self.functions:
                    waiting.append(part)
        return [name for name in FUNCTIONS if name in called]

    @property
    def ours(self) -> list[str]:
        return [name for name in self.used if name not in self.functions]

    def lines(self) -> list[str]:
        """Which functions of a run are theirs and which ours, and what of the file is left out."""
        used, ours = self.used, self.ours
        yours = len(used) - len(ours)
        text = f"{yours} of {len(used)} functions are yours ({self.path.name}, --engine plain)"
        lines = [f"{text}; ours: {', '.join(ours) if yours else 'all'}" if ours else text]
        if empty := [name for name in used if name in self.empty]:
            lines.append(f"still empty, so ours: {_some(empty)}")
        if self.halves:
            lines.append(f"without its backward, so both are ours: {_some(self.halves)}")
        if others := [name for name in self.functions if name not in used]:
            lines.append(f"not used by this run: {_some(others)}")
        missing = [name for name in FUNCTIONS if name not in self.functions]
        guesses = {
            name: close[0]
            for name in self.ignored
            if (close := difflib.get_close_matches(name, missing, 1, 0.85))
        }
        if guesses:
            meant = (f"{name} (did you mean {guess}?)" for name, guess in guesses.items())
            lines.append(f"ignored, no known name: {', '.join(meant)}")
        helpers = [n for n in self.ignored if n not in guesses and not n.startswith("_")]
        if helpers:
            lines.append(f"not put in the place of ours, no known name: {_some(helpers)}")
        return lines

    def record(self, last) -> dict:
        """What a checkpoint says of the file; ``last``: the checkpoint that a run goes on from."""
        now = {name for name in self.used if name in self.functions}
        before = last.settings["impl"] if last else {}
        yours = now & set(before.get("functions", now))
        changed = list(before.get("changed_after", []))
        if before and before["sha256"] != self.sha256:
            changed.append(last.training["epoch"])
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "functions": [name for name in self.used if name in yours],
            "ours": sorted({*self.used, *before.get("ours", ())} - yours),
            "changed_after": changed,
        }

    # -- the check before a training ----------------------------------------------------------

    def warn_of_wrong(self, variants: set[str]) -> None:
        """A warning for each case of the gradient check that does not hold; training goes on.

        ``variants``: of the cases that check an option ('gelu', ...), those that this run needs.
        """
        theirs = {name for name in self.used if name in self.functions}
        cases = [
            case
            for case in CASES
            if theirs & set(case.functions)
            and all(
                v in variants
                for v in ("gelu", "post_norm", "dropout")
                if case.name.endswith(f"_{v}")
            )
        ]
        started, checked = time.monotonic(), check_apart(self.path, cases, 0, to_stderr=True)
        try:
            next(checked)
            for n, case in enumerate(progress(cases, "checking your functions")):
                if time.monotonic() - started > _SECONDS:
                    rest = ", ".join(case.name for case in cases[n:])
                    warnings.warn(f"{self.path.name}: no time to check {rest}", stacklevel=2)
                    break
                rows = next(checked)
                relevant = (r for r in rows if self.training or r.quantity not in _gradients(case))
                if wrong := next((row for row in relevant if not row.passed), None):
                    warnings.warn(self._warning(case, wrong), stacklevel=2)
        except ValueError as error:
            warnings.warn(f"{error}; it was not checked", stacklevel=2)
        finally:
            checked.close()

    def _warning(self, case, row) -> str:
        name = case.functions[-1 if row.quantity in _gradients(case) else 0]
        problem = row.problem if row.quantity == "-" else f"{name}, {row.quantity} {row.problem}"
        return f"{self.path.name}: {problem}; it is used all the same, see {self._command(name)}"

    def _command(self, name: str) -> str:
        case = next((case.name for case in CASES if name in case.functions), name)
        return f"python -m core.gradient_check --impl {quoted(self.path)} --layer {case}"

    # -- in the place of ours -----------------------------------------------------------------

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Our functions are theirs inside of the block.

        A ValueError says which function was the first to make numbers that are not finite.
        """
        ours = {name: Functions()[name] if name not in _ELSEWHERE else _ELSEWHERE[name]
                for name in FUNCTIONS}  # fmt: skip
        changes = [(ours[n], self._in_the_place_of(n, ours)) for n in FUNCTIONS]
        changes = [(old, new) for old, new in changes if old is not new]
        numbers = {rule: optim.numbers_of(rule, {}) for rule in optim.RULES}
        # Those of the rules of ours: what a learner's remembers could pass for numbers.
        changes.append((optim.numbers_of, lambda rule, config: numbers[rule] | dict(config)))
        _swap(changes)
        try:
            with _blocks_in_place():
                yield
        except ValueError as error:
            if self.not_finite is None:
                raise
            raise ValueError(
                f"{error}; the first to return numbers that are not finite, for finite ones, was "
                f"{self.not_finite} of {self.path.name} (line {self._line(self.not_finite)}); "
                f"check it: {self._command(self.not_finite)}"
            ) from error
        finally:
            _swap([(new, old) for old, new in changes])

    def _in_the_place_of(self, name: str, ours: Mapping[str, Callable]) -> Callable:
        pair, _, way = name.rpartition("_")
        if way in _WAYS:
            backward = f"{pair}_backward" in self.functions
            if way == "forward" and (backward or name in self.functions):
                return self._forward(name, ours[name])
            return self._backward(name, ours[name]) if name in self.functions else ours[name]
        if name not in self.functions:
            return ours[name]
        if name in optim.RULES:
            return self._rule(name, ours[name])
        if name in ("greedy", "beam_search"):
            return self._decoder(name, ours[name])
        return self._function(name, ours[name])

    def _forward(self, name: str, ours: Callable) -> Callable:
        """Keeps with the cache, whoever's it is, what the gradients must look like."""

        def forward(*arguments, **options):
            if name in self._inside:  # theirs calls ours
                return ours(*arguments, **options)
            given = inspect.signature(ours).bind(*arguments, **options).arguments
            gradients = {f"d{key}": _like(value) for key, value in given.items()}
            gradients = {key: like for key, like in gradients.items() if like}
            call = self._compared if name in self.functions else lambda _, f, a, o: f(*a, **o)
            *outputs, cache = call(name, ours, arguments, options)
            return *outputs, _Cache(cache, gradients)

        return forward

    def _backward(self, name: str, ours: Callable) -> Callable:
        def backward(*arguments):
            if name in self._inside:
                return ours(*arguments)
            *upstream, cache = arguments
            count = len(cache.gradients)
            returns = count if count > 1 else None
            found = self._call(name, *upstream, cache.kept, returns=returns)
            found = [found] if count == 1 else found
            pairs = zip(cache.gradients.items(), found, strict=True)
            found = [self._fitting(name, what, like, got) for (what, like), got in pairs]
            self._note_finite(name, found, upstream)
            return found[0] if count == 1 else tuple(found)

        return backward

    def _function(self, name: str, ours: Callable) -> Callable:
        def function(*arguments, **options):
            if name in self._inside:
                return ours(*arguments, **options)
            return self._compared(name, ours, arguments, options)

        return function

    def _rule(self, name: str, ours: Callable) -> Callable:
        def rule(w, dw, config=None):
            if name in self._inside:
                return ours(w, dw, config)
            next_w, config = self._call(name, w, dw, config, returns=2)
            next_w = self._fitting(name, "next_w", _like(w), next_w)
            self._note_finite(name, [next_w], [w, dw])
            return next_w, self._config(name, config, w.shape)

        return rule

    def _config(self, name: str, config, shape: tuple) -> dict:
        """What a rule remembers, as a checkpoint can keep it."""
        if not isinstance(config, dict):
            raise self._error(name, f"{name} returned no dict for config")
        plain = {k: v.item() if np.ndim(v) == 0 and hasattr(v, "item") else v
                 for k, v in config.items()}  # fmt: skip
        for key, value in plain.items():
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            fits = fits or (isinstance(value, Array) and value.shape == shape)
            if not (fits and isinstance(key, str) and key.isidentifier()):
                raise self._error(
                    name,
                    f"{name} keeps {key!r} in config, a {type(value).__name__}; a checkpoint keeps "
                    "numbers, and arrays of the shape of w",
                )
        return plain

    def _decoder(self, name: str, ours: Callable) -> Callable:
        def decoder(*arguments, **options):
            if name in self._inside:
                return ours(*arguments, **options)
            given = inspect.signature(ours).bind(*arguments, **options)
            given.apply_defaults()
            model, features, length = (
                given.arguments[k] for k in ("model", "features", "max_length")
            )
            arguments, options = self._arguments(name, ours, arguments, options)
            best = [given.arguments["n_best"]] if "n_best" in given.arguments else []
            found = self._call(name, *arguments, returns=2 if best else None, **options)
            ids, *scores = found if best else [found]
            shape = len(features), *best, length
            ids, vocabulary = np.asarray(ids), getattr(model, "word_to_idx", None)
            if ids.dtype.kind not in "iu" or ids.shape != shape:
                found = f"{ids.dtype} numbers of shape {ids.shape}"
                raise self._error(name, f"{name} returned {found}, expected word ids {shape}")
            if vocabulary and ids.size and not 0 <= ids.min() <= ids.max() < len(vocabulary):
                raise self._error(name, f"{name} returned ids outside of the vocabulary")
            like = shape[:2], np.dtype(np.float64)
            return (ids, self._fitting(name, "scores", like, scores[0])) if best else ids

        return decoder

    # -- one call -----------------------------------------------------------------------------

    def _compared(self, name: str, ours: Callable, arguments: tuple, options: dict):
        """A call of theirs whose outputs must look like those of ours."""
        given = [*arguments, *options.values()]
        key = name, *(np.shape(value) for value in given if isinstance(value, Array))
        if key not in self._outputs:  # ours once, and without its draws
            copied = [copy.deepcopy(v) if isinstance(v, np.random.Generator) else v
                      for v in arguments]  # fmt: skip
            expected = ours(*copied, **options)
            self._outputs[key] = expected if isinstance(expected, tuple) else (expected,)
            has_cache = name.endswith("_forward")
            likes = self._outputs[key][: -1 if has_cache else None]
            self._outputs[key] = has_cache, [_like(value) for value in likes]
        has_cache, likes = self._outputs[key]
        taken, more = self._arguments(name, ours, arguments, options)
        count = len(likes) + has_cache
        found = self._call(name, *taken, returns=count if count > 1 else None, **more)
        found = list(found) if count > 1 else [found]
        names = next((c.outputs for c in CASES if c.functions[0] == name), ()) or ("loss", "dx")
        for i, like in enumerate(likes):
            if like:
                what = names[i] if i < len(names) else f"output {i + 1}"
                found[i] = self._fitting(name, what, like, found[i])
        self._note_finite(name, found[: len(likes)], given)
        return tuple(found) if count > 1 else found[0]

    def _arguments(self, name: str, ours: Callable, arguments: tuple, options: dict):
        """The arguments of a call for a function that may lack those that have a default.

        Raises ValueError when it lacks one that matters.
        """
        given = inspect.signature(ours).bind(*arguments, **options)
        try:
            theirs = inspect.signature(self.functions[name]).parameters
        except (TypeError, ValueError):  # of no Python function
            return arguments, options
        any_name = any(p.kind is p.VAR_KEYWORD for p in theirs.values())
        by_place = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        known, required, more = inspect.signature(ours).parameters, [], {}
        for place, (key, parameter) in enumerate(known.items()):
            if parameter.default is parameter.empty:
                required.append(given.arguments[key])
                continue
            value = given.arguments.get(key, parameter.default)
            their = key if key in theirs or any_name else None
            if their is None and place < len(by_place) and by_place[place] not in known:
                their = by_place[place]  # under another name
            if their is None:
                if key in given.arguments and _matters(key, value, parameter, given.arguments):
                    raise self._lacks(name, key)
            elif key in given.arguments or theirs[their].default is parameter.empty:
                more[their] = value
        return required, more

    def _lacks(self, name: str, key: str) -> ValueError:
        option = _OPTIONS.get(key, f"--{key}")
        way = "give it one" if key == "mask" else f"give it one, or leave {option} out"
        needs = "the Transformer" if key == "mask" else option
        return ValueError(
            f"{self.path}, line {self._line(name)}: {name} has no argument {key}, which {needs} "
            f"needs; {way}"
        )

    def _call(self, name: str, *arguments, returns: int | None, **options):
        self._inside.add(name)
        try:
            return self.functions.call(name, *arguments, returns=returns, **options)
        except ImplementationError as error:
            raise self._error(name, str(error)) from error
        finally:
            self._inside.discard(name)

    def _fitting(self, name: str, what: str, like, got):
        """What was returned, in the dtype that was expected; ValueError for another shape."""
        if isinstance(like, dict):
            if not isinstance(got, Mapping) or (missing := like.keys() - got.keys()):
                found = f"nothing of {min(missing)}" if isinstance(got, Mapping) else "no dict"
                raise self._error(name, f"{name} returned {found} for {what}")
            return {k: self._fitting(name, f"{what}[{k!r}]", v, got[k]) for k, v in like.items()}
        shape, dtype = like
        if fault := malformed(got, shape):
            raise self._error(name, f"{name} returned {fault} for {what}")
        if shape == () or np.asarray(got).dtype == dtype:
            return got
        if name not in self._cast and name != "positional_encoding":
            self._cast.add(name)
            found = f"{np.asarray(got).dtype} numbers for {dtype} ones"
            warnings.warn(
                f"{self.path.name}: {name} returned {found}; taken as those", stacklevel=2
            )
        return np.asarray(got).astype(dtype)

    def _note_finite(self, name: str, found: list, given) -> None:
        if self.not_finite is None and not all(map(_finite, found)) and all(map(_finite, given)):
            self.not_finite = name

    def _error(self, name: str, message: str) -> ValueError:
        place = "" if "(line " in message else f", line {self._line(name)}"
        return ValueError(f"{self.path}{place}: {message}; check it: {self._command(name)}")

    def _line(self, name: str) -> int:
        code = getattr(inspect.unwrap(self.functions[name]), "__code__", None)
        return code.co_firstlineno if code else 1


def of_training(settings: Mapping) -> Own:
    """The learner's functions in a run of ``training.py``, by its settings."""
    others = [settings["update_rule"]]
    others += ["clip_gradient_norm"] if settings["clip_norm"] else []
    others += ["beam_search"] if settings["select"] != "loss" else []
    others += ["positional_encoding"] if settings["positions"] == "sinusoidal" else []
    return Own(settings["impl"]["file"], [settings["model"]], others, training=True)


def variants_of(settings: Mapping) -> set[str]:
    """What a run has that is checked by cases of its own."""
    found = {settings["activation"]}
    found |= {"post_norm"} if settings["post_norm"] else set()
    return found | ({"dropout"} if settings["dropout"] else set())


def of_captioning(path: str, checkpoints: Sequence, decode: str) -> Own:
    """The learner's functions in a run of ``inference.py``."""
    others = {"greedy": ["greedy"], "beam": ["beam_search"]}.get(decode, [])
    if any(each.config.get("positions") == "sinusoidal" for each in checkpoints):
        others.append("positional_encoding")
    return Own(path, [each.model for each in checkpoints], others, training=False)


def _swap(changes: list[tuple]) -> None:
    """Puts the second of each pair wherever a module of ``core`` or a table of it has the first."""
    places = [vars(m) for n, m in list(sys.modules.items()) if n == "core" or n.startswith("core.")]
    new = {id(old): by for old, by in changes}
    for place in [*places, optim.RULES]:
        for name, value in list(place.items()):
            if id(value) in new:
                place[name] = new[id(value)]


_ELSEWHERE = {
    **optim.RULES,
    "clip_gradient_norm": optim.clip_gradient_norm,
    "greedy": decoding.greedy,
    "beam_search": decoding.beam_search,
}


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
    theirs = {name: vars(_WholePrefix)[name] for name in ("begin", "step", "select")}
    for way in _WAYS:
        block = vars(captioning_transformer)[f"decoder_block_{way}"]
        theirs[f"block_{way}"] = staticmethod(block)
    model = captioning_transformer.CaptioningTransformer
    ours = {name: vars(model)[name] for name in theirs}
    for name, method in theirs.items():
        setattr(model, name, method)
    try:
        yield
    finally:
        for name, method in ours.items():
            setattr(model, name, method)


def _is_function(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _is_empty(node: ast.FunctionDef) -> bool:
    """Whether a function is not written yet: it raises NotImplementedError, or does nothing."""
    for line in node.body:
        if isinstance(line, ast.Raise) and "NotImplementedError" in ast.unparse(line):
            return True
        if not isinstance(line, ast.Pass) and not (
            isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
        ):
            return False
    return True


def _lacks_backward(name: str, known: Mapping, empty: list[str]) -> bool:
    backward = f"{name.removesuffix('_forward')}_backward"
    return name.endswith("_forward") and (backward not in known or backward in empty)


def _like(value):
    """Shape and dtype of an array of floating-point numbers, or those of a dict; else None."""
    if isinstance(value, Mapping):
        return {key: _like(each) for key, each in value.items()}
    is_array = isinstance(value, Array | np.floating) and value.dtype.kind == "f"
    return (value.shape, value.dtype) if is_array else None


def _finite(value) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    numbers = isinstance(value, Array | np.floating | float)
    return not numbers or bool(np.isfinite(value).all())


def _matters(key: str, value, parameter: inspect.Parameter, given: Mapping) -> bool:
    """Whether an argument that a function of theirs lacks is more than its default."""
    if key in ("rng", "train") and not given.get("dropout", given.get("p")):
        return False
    return not (value is parameter.default or (np.ndim(value) == 0 and value == parameter.default))


def _gradients(case) -> set[str]:
    return {f"d{name}" for name in case.differentiable}


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
