"""What all commands share: option types, one-line errors, progress bars.

A command exits 0 on success, 1 on a failed check, and 2 on a usage or input error, with one line on
stderr that says what to mend.
"""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from core.support import interrupts

INPUT_ERRORS = (ValueError, OSError)


class ArgumentParser(argparse.ArgumentParser):
    """An ``argparse`` parser whose errors are one line (``--help`` shows the usage)."""

    def __init__(self, **options):
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see {self.prog} --help")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option, where it has one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def fail(message: str) -> NoReturn:
    """Ends the command with exit code 2 and one line on stderr."""
    interrupts.ignore_from_now_on()
    _say("error", message)
    sys.exit(2)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _say("warning", message)


def _say(kind: str, message: object) -> None:
    path = Path(sys.argv[0])
    # python -m core.metrics runs core/metrics/__main__.py
    program = path.parent.name if path.name == "__main__.py" else path.name
    print(f"{program}: {kind}: {' '.join(str(message).split())}", file=sys.stderr)


class _Outlet(io.FileIO):
    """Where stdout or stderr goes. Once that fails, what is printed is dropped, and work goes on.

    ``failed``: the error, or None.
    """

    failed: OSError | None = None

    def write(self, data) -> int | None:
        if self.failed is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = error
        return len(data)


def _unbreakable(stream):
    """An output stream to which a print never fails, whatever it prints and whoever reads it.

    What the encoding of the stream cannot express is escaped. A stream that is not there (None: it
    was closed from the start, as by ``>&-``) goes nowhere.
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    raw = getattr(stream, "buffer", None)
    raw = getattr(raw, "raw", raw)
    if type(raw) is not io.FileIO:  # of a notebook, a test, a Windows console
        return stream
    outlet = _Outlet(raw.fileno(), "w", closefd=False)
    outlet.replaced = stream  # which would close the file, were it forgotten
    return io.TextIOWrapper(
        outlet if stream.write_through else io.BufferedWriter(outlet),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _check_printed() -> None:
    """Raises ValueError when stdout took not all; not when its reader (head, less) went away."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    failed = getattr(getattr(buffer, "raw", buffer), "failed", None)
    if failed is not None and failed.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL: Windows
        raise ValueError(
            f"stdout: not all could be printed ({failed.strerror}); what goes into files is there"
        )


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command's ``main``; input errors and warnings become one line each on stderr.

    Printing never ends it: when the reader of stdout goes away, it does its work all the same.
    """
    try:
        interrupts.raise_from_now_on()
        sys.stdout, sys.stderr = _unbreakable(sys.stdout), _unbreakable(sys.stderr)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = main() or 0
            except Exception as error:
                if interrupts.came():
                    raise KeyboardInterrupt from error
                raise
        _check_printed()
        interrupts.ignore_from_now_on()
        sys.exit(code)
    except INPUT_ERRORS as error:
        fail(str(error))
    except MemoryError as error:
        fail(f"not enough memory ({error}); use a smaller --batch_size or smaller widths")
    except KeyboardInterrupt:
        interrupts.ignore_from_now_on()
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def positive_int(text: str) -> int:
    """Option type: a whole number of at least 1, and no absurd one."""
    return _number(text, int, lambda value: 1 <= value <= 10**9, "a whole number of at least 1")


def non_negative_int(text: str) -> int:
    """Option type: a whole number of at least 0."""
    return _number(text, int, lambda value: value >= 0, "a whole number of at least 0")


def positive_float(text: str) -> float:
    """Option type: a finite number above 0."""
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def non_negative_float(text: str) -> float:
    """Option type: a finite number of at least 0."""
    return _number(text, float, lambda value: 0 <= value < math.inf, "a number of at least 0")


def fraction(text: str) -> float:
    """Option type: a number above 0 and at most 1."""
    return _number(text, float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def dropout_rate(text: str) -> float:
    """Option type: a probability of dropping, at least 0 and below 1."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def _number(text: str, kind: type, accepts: Callable, expected: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not accepts(value):  # NaN fails every comparison
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
    return value


def progress(items: Iterable | None, description: str, total: int | None = None, **options):
    """Iterates with a progress bar and the time left; silent where stderr is no terminal.

    Without items, a bar that is moved on with ``update``.
    """
    from tqdm import tqdm

    return tqdm(items, desc=description, total=total, disable=None, leave=False, **options)
