"""Keys, one at a time and without Enter, on any console."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.|.)?")  # an arrow or another such key


@contextmanager
def keys(wanted: bool = True) -> Iterator[Callable[[], str]]:
    """Yields a function that returns the keys pressed since the last call, '' for none.

    The terminal is as it was at the end, however the block ends. Where stdin is no terminal, or
    none are ``wanted``, nobody presses any. Ctrl-C stays what it is.

    The function raises EOFError once the terminal is gone.
    """
    if not (wanted and sys.stdin and sys.stdin.isatty()):
        yield lambda: ""
    elif os.name == "nt":
        yield _windows
    else:
        import select
        import termios
        import tty

        terminal = sys.stdin.fileno()

        def pressed() -> str:
            if not select.select([terminal], [], [], 0)[0]:
                return ""
            try:
                found = os.read(terminal, 64)
            except OSError as error:
                raise EOFError from error
            if not found:
                raise EOFError
            return _SEQUENCE.sub("", found.decode(errors="ignore"))

        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal)
            yield pressed
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _windows() -> str:
    import msvcrt

    found = ""
    while msvcrt.kbhit():
        key = msvcrt.getwch()
        if key in "\x00\xe0":  # an arrow or another such key: its second half
            msvcrt.getwch()
        elif key == "\x03":
            raise KeyboardInterrupt
        else:
            found += key
    return found
