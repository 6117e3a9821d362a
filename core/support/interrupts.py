"""Ctrl-C ends a command with one line and exit code 130, whatever it is at.

``core/__init__.py`` imports this before anything else, so that it holds while modules are loaded,
too. Programs of others that import ``core`` keep their own ways.
"""

from __future__ import annotations

# No more than these, which are loaded already: meanwhile, Ctrl-C is still Python's. The module
# ``signal`` is this one with enumerations, which take a millisecond.
import _signal as signal
import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_COMMANDS = ("training.py", "inference.py", "core", "datasets", "benchmarks", "examples")


def is_command() -> bool:
    """Whether one of the project's commands was started, and no notebook, test or other program."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module, which is below ``core``
        return True
    started = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    started = os.path.abspath(started)
    return any(
        started == path or started.startswith(path + os.sep)
        for path in (os.path.join(_ROOT, name) for name in _COMMANDS)
    )


def _end(*_) -> None:
    """Ends the process at once; what it was writing is swept by the next that writes there."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)


def _raise(*_) -> None:
    signal.signal(signal.SIGINT, _end)  # the second Ctrl-C does not wait for anything
    raise KeyboardInterrupt


def _not_lost(unraisable) -> None:
    """Python drops what is raised in a finalizer or a callback: not a Ctrl-C."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(unraisable)


def end_at_once() -> None:
    """While modules are loaded nothing is written, and nothing has to be cleaned up."""
    if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_from_now_on() -> None:
    """The first Ctrl-C is a ``KeyboardInterrupt``, so that files are closed and locks released."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _raise)
        sys.unraisablehook = _not_lost


def came() -> bool:
    """Whether there was a first: modules in C make other errors of it, as NumPy does."""
    return signal.getsignal(signal.SIGINT) is _end


def ignore_from_now_on() -> None:
    """The work is done, and the exit code is known."""
    if signal.getsignal(signal.SIGINT) in (_end, _raise):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


end_at_once()
