"""A learner's functions: read from a file, called in the place of ours, their errors in words."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from pathlib import Path

import numpy as np

from core.gradient_check.case import Case, ImplementationError, our_function
from core.gradient_check.cases import CASES
from core.gradient_check.source import read_source

Array = np.ndarray

KNOWN = {name for case in CASES for name in case.functions}  # names that --impl can replace


def load_implementation(path: str | Path) -> dict[str, Callable]:
    """The functions and classes that a Python file defines itself, by name.

    Those that are still empty, as ``raise NotImplementedError`` alone, are left out.

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
        line = f"line {error.lineno}: " if error.lineno else ""
        raise ValueError(f"{path}: {line}{error.msg}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also that it leaves the program
        raise ValueError(f"{path}: could not be imported: {_sentence(error)}") from error
    finally:
        sys.path[:] = search_path
    functions, empty = {}, read_source(path).empty
    for name, value in vars(module).items():
        origin = str(getattr(value, "__module__", None))
        # Under a known name anything callable counts that is not ours, imported from core.
        is_own = origin == module.__name__ or (name in KNOWN and not origin.startswith("core."))
        if callable(value) and is_own and name not in empty:
            functions[name] = value
    return functions


class Functions(dict):
    """Hand-written functions by name: the given ones, ours for the rest.

    A call that fails inside a given function becomes an ``ImplementationError``. Given functions
    get copies, so that one that writes into an array spoils no other number.

    - watched: whether to look for what a function writes into
    - faults: sentences on that, each once
    """

    def __init__(self, *arguments, watched: bool = False):
        super().__init__(*arguments)
        self.watched = watched
        self.faults: list[str] = []
        self._made: list[Array] = []  # what the forward returned

    def __missing__(self, name: str) -> Callable:
        return our_function(name)

    def forward_only(self, case: Case) -> bool:
        """Whether the forward of a pair is given without its backward: nothing reads its cache."""
        return case.functions[0] in self and case.functions[-1] not in self

    def may_omit(self, name: str, parameter: str | int) -> bool:
        """Whether a function has that parameter, by name or place, and a default for it."""
        function = self.get(name)
        if function is None:  # ours, or one that runs in another process
            return True
        try:
            parameters = signature(function).parameters
        except (TypeError, ValueError):  # of no Python function
            return True
        if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return True
        names = list(parameters)
        if isinstance(parameter, int):
            parameter = names[parameter] if parameter < len(names) else ""
        return parameter in parameters and parameters[parameter].default is not Parameter.empty

    def call(self, name: str, *arguments, returns: int | None = None, **options):
        """Calls a function by its name; ``returns`` is how many values it must give back."""
        return self.guard(name, self[name], *arguments, returns=returns, **options)

    def guard(
        self, name: str, function: Callable, *arguments, returns: int | None = None, **options
    ):
        """Calls something that uses the function or class of that name."""
        if name not in self:
            result = function(*arguments, **options)  # ours: a bug in it must be seen
            self._keep(name, result)
            return result
        arguments = [_copied(argument) for argument in arguments]
        before = self.watched and [_arrays(argument, copy=True) for argument in arguments]
        try:
            result = function(*arguments, **options)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also that it leaves the program
            message = f"{name} raised {_sentence(error)}"
            if isinstance(error, ValueError | IndexError):
                message += _shapes(name, arguments)
            forward = name.replace("_backward", "_forward")
            if forward != name and forward not in self:
                message += f"; the cache that it got is that of core's {forward}, see its docstring"
            raise ImplementationError(message) from error
        if before:
            self._look(name, arguments, before)
            self._keep(name, result)
        if returns is not None:
            if result is None:
                raise ImplementationError(
                    f"{name} returned None: is it written yet, and does it end with a return?"
                )
            if not isinstance(result, (tuple, list)) or len(result) != returns:
                found = len(result) if isinstance(result, (tuple, list)) else 1
                raise ImplementationError(f"{name} returned {found} values, expected {returns}")
        return result

    def _keep(self, name: str, result) -> None:
        if name.endswith("_forward") and isinstance(result, tuple | list):
            self._made = [each for each in result if isinstance(each, np.ndarray)]

    def _look(self, name: str, arguments: Sequence, before: Sequence) -> None:
        """Notes which arguments a call has written into."""
        names = list(signature(our_function(name)).parameters)
        for parameter, argument, old in zip(names, arguments, before, strict=False):
            if parameter == "config":  # what a rule remembers is its own
                continue
            new = _arrays(argument)
            changed = [a for a, b in zip(new, old, strict=False) if not _equal(a, b)]
            if not changed and len(new) == len(old):
                continue
            fault = f"{name} writes into {parameter}: the caller's arrays must stay as they are"
            if parameter == "cache":
                fault = f"{name} damages its cache: a second call would get other numbers"
                if any(np.shares_memory(a, b) for a in changed for b in self._made):
                    fault += ", and the forward's output is in it"
            fault += "; work on a copy"
            if fault not in self.faults:
                self.faults.append(fault)


def _copied(value):
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return value


def _arrays(value, copy: bool = False) -> list[Array]:
    """All arrays within nested tuples, lists and dicts."""
    if isinstance(value, np.ndarray):
        return [value.copy() if copy else value]
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | tuple | list):
        return [array for part in parts for array in _arrays(part, copy)]
    return []


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def malformed(got, shape: tuple) -> str | None:
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


def _shapes(name: str, arguments: Sequence) -> str:
    """What a call was given, where shapes may not have fitted."""
    parameters = signature(our_function(name)).parameters
    shapes = [
        f"{parameter} {argument.shape}"
        for parameter, argument in zip(parameters, arguments, strict=False)
        if isinstance(argument, np.ndarray)
    ]
    return f"; it was given {', '.join(shapes)}" if shapes else ""


def _sentence(error: BaseException) -> str:
    """The error with its line of the learner's file, on one line."""
    # core, NumPy and Python itself, whose lines a learner did not write
    others = Path(__file__).parents[1], Path(np.__file__).parent, Path(traceback.__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(other) for other in others)
    ]
    place = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # a class of the learner's, whose words fail themselves
        text = "its own message cannot be made"
    return f"{type(error).__name__}{': ' + text if text else ''}{place}"
