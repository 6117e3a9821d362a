"""What all commands share: option types, one-line errors, progress bars.

A command exits 0 on success, 1 on a failed check, and 2 on a usage or input error, with one line on
stderr that says what to mend.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from core.support import interrupts
from core.support.files import DATASETS, IS_CHECKOUT
from core.support.schema import Number, Whole, plain, shown

INPUT_ERRORS = (ValueError, OSError)
_A_COPY = (
    "installed as a copy, not from the project's folder (there: python -m pip install -e .); data "
    f"goes to {DATASETS}"
)
_SECONDS_A_LINE = 3  # of progress where stderr is no terminal
_LINE = "{desc}: {n_fmt} of {total_fmt}, {remaining} left"


class ArgumentParser(argparse.ArgumentParser):
    """An ``argparse`` parser whose errors are one line (``--help`` shows the usage)."""

    def __init__(self, **options):
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)

    def parse_args(self, args=None, namespace=None):
        for argument in sys.argv[1:] if args is None else args:
            option, _, value = argument.partition("=")
            if value == "--" and option.startswith("--"):  # argparse would drop it, and stumble
                self.error(f"argument {option}: found '--', expected a value")
            value = value if option.startswith("--") else argument
            if re.match(r"~($|[/\\])", value):  # which would make a folder of that name
                self.error(f"found {value}, and no shell that knows ~; give the whole name")
        return super().parse_args(args, namespace)

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


def quoted(name: str | Path) -> str:
    """A file name as sh, PowerShell and cmd take it: in double quotes, where it needs any."""
    name = str(name)
    if re.search(r'["$`!\\]', name) and sys.platform != "win32":
        return shlex.quote(name)  # has what sh reads within double quotes
    return name if re.fullmatch(r"[\w@%+=:,./\\-]+", name) else f'"{name}"'


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
    """An output stream to which a print never fails, whatever it prints, read or not.

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


def _in_words(error: Exception) -> str:
    """An error of the system with its file first, and what to look at; others say that themselves.

    It begins with a bracket then: [Errno 13], [WinError 5].
    """
    if isinstance(error, OSError) and error.filename is not None and str(error).startswith("["):
        return f"{error.filename}: {error.strerror}; check the name, and what you may do there"
    return str(error)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command's ``main``; input errors and warnings become one line each on stderr.

    Printing never ends it: when the reader of stdout goes away, it does its work all the same.
    """
    try:
        interrupts.raise_from_now_on()
        sys.stdout, sys.stderr = _unbreakable(sys.stdout), _unbreakable(sys.stderr)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if not IS_CHECKOUT:
                warnings.warn(_A_COPY, stacklevel=1)
            if sys.platform == "darwin":  # Apple's products raise flags for finite numbers
                warnings.filterwarnings("ignore", ".* encountered in matmul", RuntimeWarning)
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
        fail(_in_words(error))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from core.support.pytorch import HOW_TO_INSTALL, lacks_torch

        fail(str(error if HOW_TO_INSTALL in str(error) else lacks_torch("what you asked for")))
    except MemoryError as error:
        fail(f"not enough memory: {error or 'end other programs, or take less at once'}")
    except KeyboardInterrupt:
        interrupts.ignore_from_now_on()
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def option_type(kind) -> Callable[[str], object]:
    """The type of an option, of a description in ``core/support/schema.py``.

    Text, names of files and words to choose from are what they are; numbers are read and checked.
    """
    kind = plain(kind)
    read = {Whole: int, Number: float}.get(type(kind), str)

    def parse(text: str):
        try:
            value = read(text)
        except ValueError:  # no number at all
            value = text
        if kind.fault(value):
            raise argparse.ArgumentTypeError(f"found {shown(text)}, expected {kind}")
        return value

    return parse


positive_int = option_type(Whole(1))
non_negative_int = option_type(Whole(0))
positive_float = option_type(Number(0, beyond=True))
non_negative_float = option_type(Number(0))
fraction = option_type(Number(0, 1, beyond=True))


@contextmanager
def advice_on_memory(advice: str) -> Iterator[None]:
    """A MemoryError of the block says what to do, by an option that the command has."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{error or 'none is left'}; {advice}") from error


def progress(items: Iterable | None, description: str, total: int | None = None, **options):
    """Iterates with a progress bar and the time left; where stderr is no terminal, a line
    every few seconds.

    Without items, a bar that is moved on with ``update``. A notebook keeps what is printed, and so
    gets no lines.
    """
    from tqdm import tqdm

    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        options |= {"disable": None}
    else:
        options |= {"file": _LineByLine(), "mininterval": _SECONDS_A_LINE, "miniters": 1}
        # Of the first row, also within another: to get to a row of its own it would move a cursor.
        options |= {"delay": _SECONDS_A_LINE, "bar_format": _LINE, "position": 0}
    return tqdm(items, desc=description, total=total, leave=False, **options)


class _LineByLine:
    """Prints what tqdm draws, line below line: a log has nothing that could be drawn over."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass
