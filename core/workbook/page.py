"""What the workbook prints: lines that fit the terminal, marks and colours that it can show."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

_COLOURS = {"green": "32", "red": "31", "yellow": "33", "dim": "2", "bold": "1"}
_MARKS = {"✓": "+", "✗": "x", "·": ".", "→": ">"}  # and what they are where there are none
_WITHOUT_A_TERMINAL = 80  # columns
_NARROW = 30  # columns: below, nothing is indented
_ERASE = "\r\x1b[K"


class Page:
    """stdout, as a terminal or as lines.

    ``terminal``: whether somebody looks at it.
    """

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.colours = self.terminal and not os.environ.get("NO_COLOR")
        self.colours = self.colours and os.environ.get("TERM") != "dumb"
        self.erases = self.terminal and os.environ.get("TERM") != "dumb"
        self.passing = False  # whether a line is shown that the next takes away
        if self.terminal and os.name == "nt":
            os.system("")  # turns on escape sequences in older consoles
        try:
            "".join(_MARKS).encode(self.stream.encoding or "ascii")
            self.marks = {mark: mark for mark in _MARKS}
        except (UnicodeError, LookupError):
            self.marks = _MARKS

    @property
    def width(self) -> int:
        if not self.terminal:
            return _WITHOUT_A_TERMINAL
        return max(10, shutil.get_terminal_size().columns - 1)

    def say(self, text: str = "", colour: str = "", mark: str = "", indent: int = 0) -> None:
        """Prints a paragraph, wrapped; with a mark before it, which alone is coloured."""
        if self.width < _NARROW:
            indent = min(indent, 2)
        first = " " * indent + (f"{self.marks[mark]} " if mark else "")
        lines = textwrap.wrap(
            text,
            self.width,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_long_words=False,  # a path or a name is copied whole
            break_on_hyphens=False,
        ) or [first.rstrip()]
        if mark:
            lines[0] = lines[0].replace(
                self.marks[mark], self._coloured(self.marks[mark], colour), 1
            )
        else:
            lines = [self._coloured(line, colour) for line in lines]
        self._print("\n".join(lines) + "\n")

    def code(self, lines: list[str], indent: int = 4) -> None:
        """Prints lines as they are, but for what would steer the terminal."""
        shown = (
            "".join(c if c.isprintable() else "?" for c in line.expandtabs()) for line in lines
        )
        self._print("".join(f"{' ' * indent}{line}\n" for line in shown))

    def passing_by(self, text: str) -> None:
        """Shows a line until the next is printed; on a terminal alone."""
        if self.erases:
            self._print(self._coloured(text[: self.width], "dim"))
            self.passing = True

    def _print(self, text: str) -> None:
        start = _ERASE if self.passing else ""
        self.passing = False
        print(start + text, end="", file=self.stream, flush=True)

    def clear(self) -> None:
        """Takes away the line that passes by."""
        if self.passing:
            self._print("")

    def _coloured(self, text: str, colour: str) -> str:
        if not (self.colours and colour and text.strip()):
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
