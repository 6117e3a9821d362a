"""A learner's file, checked in a process of its own: what it does to that process ends there.

Such a file is a program: it runs with all the rights of the user who checks it. The process of its
own keeps mistakes apart, not malice.

The other process calls the functions and records what they return; this one judges it, by its own
numbers and limits. A file that leaves the program, changes our limits or prints "all hold" changes
nothing here. What comes back is JSON and plain numbers; nothing is unpickled.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

import core
from core.gradient_check.case import Case
from core.gradient_check.cases import CASES
from core.gradient_check.checking import Row, check_case
from core.gradient_check.directions import measured_gradient
from core.gradient_check.learner import KNOWN, ImplementationError, load_implementation

PATIENCE = 30  # seconds for one call of a function, or for the import of the file
_MOST_BYTES = 10**7  # of an array that is sent; those of the checks are far smaller
_NUMBERS = "biufc"  # kinds of dtypes
# python -m would look for modules in the current folder first, where a learner's numpy.py may be.
_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); from runpy import run_module; "
    "run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def check_apart(
    path: str | Path,
    cases: Sequence[Case],
    seed: int,
    streams: Mapping[str, int] | None = None,
    begin: Callable[[Sequence[str]], Iterator] | None = None,
) -> Iterator:
    """Checks the functions of a file; yields the names that it defines, then the rows of each case.

    Inputs:
    - path: of the Python file
    - cases: from ``core.gradient_check.cases``; those with none of its functions are left out
    - seed: of the random inputs
    - streams: where what it prints goes, as for ``start``; by default where ours goes
    - begin: names of cases -> the messages of another process that checks them; None starts one

    Raises FileNotFoundError when there is no such file, ValueError when it cannot be imported. What
    a function does wrong becomes the ``problem`` of a row, also that it ends the process or does
    not come back in ``PATIENCE`` seconds; the others are then checked in a new process.
    """
    begin = begin or (lambda names: messages_of(path, seed, names, streams or {}))
    messages = begin([case.name for case in cases])
    try:
        first = _next(messages, "while it was imported")
        if "error" in first:
            raise (
                FileNotFoundError(first["error"])
                if first.get("absent")
                else ValueError(first["error"])
            )
        names = {str(name) for name in first["names"]}
    except (ImplementationError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: could not be checked: {_reason(error)}") from error
    yield names
    waiting = [case for case in cases if names & set(case.functions)]
    stuck: dict[str, str] = {}  # functions that ended the process or did not come back
    while waiting:
        case, *waiting = waiting
        ours = [name for name in case.functions if name in names]
        try:
            if known := next((stuck[name] for name in ours if name in stuck), None):
                raise ImplementationError(f"was not checked again: {known}")
            if messages is None:
                left = [
                    each.name for each in (case, *waiting) if not stuck.keys() & set(each.functions)
                ]
                messages = begin(left)
                _next(messages, "while it was imported")
            found = _next(messages, f"in a call of {' or '.join(ours)}")
            if found.get("case") != case.name:
                raise ImplementationError("changes what checks it, which sent something else")
        except ImplementationError as error:
            yield [Row(case.name, "-", None, None, False, str(error))]
            # The others are checked in a new process, without what uses these.
            stuck |= {name: str(error) for name in ours if name not in stuck}
            if not known:
                messages = None
            continue
        yield _judge(case, seed, found, names)


def serve(path: str, seed: int, names: Sequence[str], send: Callable[[dict], None]) -> None:
    """The part of the other process: sends what the file defines, then a record for each case."""
    try:
        functions = load_implementation(path)
    except FileNotFoundError as error:
        send({"error": str(error), "absent": True})
        return
    except ValueError as error:
        send({"error": str(error)})
        return
    send({"names": sorted(functions)})
    functions = {name: functions[name] for name in functions.keys() & KNOWN}
    cases = {case.name: case for case in CASES}
    for case in map(cases.get, names):
        if functions.keys() & set(case.functions):
            send(_record(case, seed, functions, send))


def _record(case: Case, seed: int, functions: dict, send: Callable) -> dict:
    """What the functions return in the check of a case, call by call, and what they did besides."""
    record: dict = {"case": case.name, "calls": [], "numerical": []}
    differing = False

    def run(functions, inputs, upstream):
        send({"call": case.functions[0 if upstream is None else -1]})
        if differing:
            return case.run(functions, inputs, upstream)
        call: dict = {}
        record["calls"].append(call)
        try:
            outputs, gradients = case.run(functions, inputs, upstream)
        except ImplementationError as error:
            call["error"] = str(error)
            raise
        finally:
            call["faults"] = list(functions.faults)
        if upstream is None or not case.outputs:
            call["outputs"] = [_packed(value) for value in outputs]
        if upstream is not None:
            call["gradients"] = [_packed(value) for value in gradients]
        return outputs, gradients

    def differences(objective, x, claimed):
        nonlocal differing
        differing = True
        try:
            gradient = measured_gradient(objective, x, claimed)
            record["numerical"].append(_packed(gradient))
        except ImplementationError as error:
            record["numerical"].append({"error": str(error)})
            raise
        finally:
            differing = False
        return gradient

    check_case(case, rng_of(case, seed), functions, differences, run)
    return record


def _judge(case: Case, seed: int, record: dict, names: set[str]) -> list[Row]:
    """The rows of a case by what was recorded: the same check, with the record for the calls."""
    missing = "its numbers did not come back: does the file change what checks it?"
    recorded = {key: record.get(key) for key in ("calls", "numerical")}
    for key, value in recorded.items():
        recorded[key] = list(value) if isinstance(value, list) else []

    def next_of(key: str) -> dict:
        found = recorded[key].pop(0) if recorded[key] else None
        if not isinstance(found, dict):
            raise ImplementationError(missing)
        if "error" in found:
            raise ImplementationError(str(found["error"]))
        return found

    def taken(call: dict, key: str, count: int) -> list:
        values = call.get(key)
        if not isinstance(values, list) or len(values) != count:
            raise ImplementationError(missing)
        return [_unpacked(value) for value in values]

    def run(functions, inputs, upstream):
        if recorded["calls"] and isinstance(recorded["calls"][0], dict):
            faults = recorded["calls"][0].get("faults")
            functions.faults += [
                str(fault)
                for fault in (faults if isinstance(faults, list) else [])
                if str(fault) not in functions.faults
            ]
        call = next_of("calls")
        outputs = gradients = None
        if upstream is None or not case.outputs:
            outputs = taken(call, "outputs", len(case.outputs or ("loss",)))
        if upstream is not None:
            gradients = taken(call, "gradients", len(case.differentiable))
        return outputs, gradients

    def differences(_, x, __):
        found = _unpacked(next_of("numerical"))
        if not isinstance(found, np.ndarray) or found.shape != x.shape or found.dtype.kind != "f":
            raise ImplementationError(missing)
        return found

    known = dict.fromkeys(names & KNOWN)
    return check_case(case, rng_of(case, seed), known, differences, run)


def rng_of(case: Case, seed: int) -> np.random.Generator:
    """Each case draws from its own stream, so that ``--layer`` sees what the full table saw."""
    return np.random.default_rng([seed, *case.name.encode()])


# -- values as JSON ----------------------------------------------------------------------------


def _packed(value) -> dict:
    if isinstance(value, np.ndarray | np.generic | float):
        array = np.asarray(value)
        if array.dtype.kind in _NUMBERS:
            packed = {"dtype": array.dtype.str, "shape": array.shape}
            if array.nbytes <= _MOST_BYTES:
                packed["numbers"] = base64.b64encode(array.tobytes()).decode()
            return packed
        return {"type": f"NumPy array of {array.dtype} values"}
    return {"type": None if value is None else type(value).__name__}


def _unpacked(packed):
    """The value, or one of a type of the same name where it was no array of numbers."""
    try:
        if "dtype" not in packed:
            name = packed["type"]
            return None if name is None else type(str(name), (), {})()
        dtype, shape = np.dtype(packed["dtype"]), tuple(map(int, packed["shape"]))
        if dtype.kind not in _NUMBERS:
            raise TypeError(dtype)
        if "numbers" not in packed:
            return np.broadcast_to(np.zeros((), dtype), shape)
        return np.frombuffer(base64.b64decode(packed["numbers"]), dtype).reshape(shape).copy()
    except (TypeError, ValueError, KeyError) as error:
        raise ImplementationError("its numbers came back damaged") from error


# -- the other process -------------------------------------------------------------------------


def messages_of(
    path: str | Path, seed: int, names: Sequence[str], streams: Mapping[str, int]
) -> Iterator[dict | None]:
    """Starts the other process, and yields what it sends."""
    arguments = [str(path), str(seed), *names]
    return read_messages(*start("core.gradient_check.apart", arguments, **streams))


def start(module: str, arguments: Sequence[str], **streams) -> tuple[int, subprocess.Popen]:
    """Starts a module of ours; returns the end of the pipe that it sends through, and the process.

    ``streams``: where its prints go, stdout and stderr as for ``subprocess.Popen``.
    """
    reading, writing = os.pipe()
    root = str(Path(core.__file__).parents[1])
    python_path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    sys.stdout.flush()
    # Its standard input is the pipe's other end, the one thing that every system hands on.
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, module, *arguments],
        stdin=writing,
        env=os.environ | {"PYTHONPATH": python_path},
        **streams,
    )
    os.close(writing)
    return reading, process


def read_messages(reading: int, process: subprocess.Popen) -> Iterator[dict | None]:
    """What the other process sends; None when it says nothing for ``PATIENCE`` seconds.

    At its end, how it ended: {"ended": exit code}. The process is stopped with the generator.
    """
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        lines: queue.Queue = queue.Queue()

        def read() -> None:
            for line in pipe:
                lines.put(line)
            lines.put("")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while line := lines.get(timeout=PATIENCE):
                yield json.loads(line)
            yield {"ended": process.wait(timeout=PATIENCE)}
        except (queue.Empty, subprocess.TimeoutExpired):
            yield None
        except ValueError:  # no JSON: it wrote there itself
            yield {}
        finally:
            process.kill()
            process.wait()
            reader.join(timeout=1)


def _next(messages: Iterator[dict | None], when: str) -> dict:
    """The next message that is no mere sign of life; what else it is becomes an error."""
    for message in messages:
        if message is None:
            raise ImplementationError(f"took more than {PATIENCE} seconds {when}: an endless loop?")
        if not isinstance(message, dict) or not message:
            raise ImplementationError(f"wrote into what checks it {when}")
        if "broken" in message:
            raise ImplementationError(
                f"changes what checks it, which broke by {message['broken']} {when}"
            )
        if "ended" in message:
            code = message["ended"]
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            raise ImplementationError(f"ended the process ({how}) {when}; let it return instead")
        if message.keys() != {"call"}:
            return message
        when = f"in a call of {str(message['call'])[:99]}"
    raise ImplementationError(f"said no more {when}")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ImplementationError) else "it changes what checks it"


def answer(path: str, seed: str, *names: str) -> None:
    """All that the other process does; it ends here."""
    sys.argv = [path]
    sys.path.append(str(Path(path).resolve().parent))  # a function may import what is beside it
    pipe = os.fdopen(os.dup(0), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)  # for who asks for input
    os.dup2(nothing, 0)
    write, flush, dumps = pipe.write, pipe.flush, json.dumps

    def send(message: dict) -> None:
        try:
            write(dumps(message) + "\n")
            flush()
        except BrokenPipeError:  # nobody waits for it any more
            os._exit(1)

    try:
        serve(path, int(seed), names, send)
    except KeyboardInterrupt:  # the other process says so
        pass
    except BaseException as error:  # ours, spoilt by the file, or one of its that is not caught
        send({"broken": type(error).__name__})
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)  # whatever threads of the file still run


if __name__ == "__main__":
    answer(*sys.argv[1:])
