"""``watch``: an answer at every save, with keys for hints, our solution, what is next, the list."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from core.gradient_check.cases import CASES
from core.gradient_check.diagnosis import HINTS
from core.gradient_check.source import Source, parse_source
from core.support.command_line import INPUT_ERRORS
from core.workbook.background import Background
from core.workbook.checking import require_road, require_there, tell_what_next
from core.workbook.keys import keys
from core.workbook.page import Page
from core.workbook.road import FUNCTIONS
from core.workbook.standing import HOLDS, WRONG, Standing, cases_of
from core.workbook.telling import (
    lines_of_hint,
    tell_count,
    tell_function,
    tell_line,
    tell_prints,
    tell_road,
    tell_solution,
    tell_worth,
)

_PAUSE = 0.04  # seconds between two looks at the file and the keys
_PATIENCE = 0.5  # seconds that an editor may leave the file empty or away while it saves
_KEYS = "keys: h hint, s solution, n next, l list, q quit"


def watch(path: str) -> int:
    """Checks the file at every save, until q or Ctrl-C.

    Raises FileNotFoundError when there is no such file, ValueError when it has no function of the
    road. What is wrong with it later is said, and waited for.
    """
    page = Page()
    require_there(path)
    with Background(path, ahead=True) as background, keys(page.terminal) as pressed:
        Watch(path, page, background, pressed).go_on()
    return 0


class Watch:
    """What is shown, and what it was about.

    - standing: what is known of the file as it is
    - pending: the names of the cases that have not been answered yet
    - edited: the functions that somebody waits for, since the last save
    - told, statuses: of which functions an answer was given since then, and the last answers
    - focus, hint: the function that keys are about, None when all hold; the hints given
    """

    def __init__(self, path: str, page: Page, background: Background, pressed: Callable[[], str]):
        self.path, self.page, self.background, self.pressed = path, page, background, pressed
        self.stamp, self.text = (), b""
        self.standing: Standing | None = None
        self.pending: set[str] = set()
        self.edited: set[str] = set()
        self.told: set[str] = set()
        self.statuses: dict[str, str] = {}
        self.focus: str | None = None
        self.hint = 1
        self.first, self.asked = True, False

    def go_on(self) -> None:
        """Looks at the file, the answers and the keys by turns."""
        try:
            while True:
                self.look_at_file()
                for event in self.background.events():
                    self.take(*event)
                for key in self.pressed():
                    if not self.take_key(key.lower()):
                        return
                time.sleep(_PAUSE)
        except EOFError:  # the terminal is gone
            return
        finally:
            self.page.clear()

    # -- the file ------------------------------------------------------------------------------

    def look_at_file(self) -> None:
        """Begins to check when it was saved."""
        if _stamp(self.path) == self.stamp:
            return
        text = self._settled()
        if text == self.text:
            return
        self.text = text
        if text is None:
            self.page.say(f"{self.path} is not there; waiting until it is back", "yellow", "→")
            return
        try:
            source = parse_source(self.path, text)
        except ValueError as error:
            self._broken(str(error))
            return
        self._check(source)

    def _settled(self) -> bytes | None:
        """The text of the file once nobody writes it any more; None when it is gone."""
        until = time.monotonic() + _PATIENCE
        while True:
            self.stamp = _stamp(self.path)
            try:
                text = Path(self.path).read_bytes()
            except OSError:
                text = None
            time.sleep(_PAUSE)
            if _stamp(self.path) == self.stamp and (text or time.monotonic() > until):
                return text

    def _broken(self, sentence: str) -> None:
        self.background.stop()
        self.page.say(sentence, "red", "✗")

    def _check(self, source: Source) -> None:
        before = self.standing
        if before is None:
            self.standing, changed = Standing(source, set()), set(FUNCTIONS)
        else:
            changed = source.changed_since(before.source)
            old, new = before.source.code, source.code
            edited = {name for name in changed if old.get(name) != new.get(name)}
            self.edited = edited & set(FUNCTIONS) or changed & set(FUNCTIONS)
            self.standing = Standing(source, before.names, before.rows)
        cases = [case for case in CASES if case.name in self.pending]
        cases += [case for case in cases_of(changed) if case not in cases]
        if not cases:
            self.page.say("saved; no function of the road changed", "dim")
            return
        if not self.first:
            self.page.say()
        # those first that somebody waits for
        cases.sort(key=lambda case: self.edited.isdisjoint(case.functions))
        self.pending = {case.name for case in cases}
        for name in self.pending:
            self.standing.rows.pop(name, None)
        self.asked, self.told = False, set()
        self.background.check(cases)
        self.page.passing_by("checking ...")

    # -- the answers ---------------------------------------------------------------------------

    def take(self, kind: str, value) -> None:
        """What the check has found now."""
        if kind == "names":
            self.standing.names = value
            if self.first:
                require_road(self.path, self.standing)
        elif kind == "rows":
            case, rows = value
            self.standing.rows[case.name] = rows
            self.pending.discard(case.name)
            for name in () if self.first else case.functions:
                self._tell_if_new(name)
            self.page.passing_by("checking ...")
        elif kind == "prints":
            tell_prints(self.page, self.path, value)
        elif kind == "error":
            if not isinstance(value, INPUT_ERRORS):
                raise value
            self._broken(str(value))
        else:
            self._finish()

    def _tell_if_new(self, name: str) -> None:
        """What was edited is answered at once; of the others, what is no longer as it was."""
        status, _ = self.standing.of(name)
        before = self.statuses.get(name)
        if name in self.told or status not in (HOLDS, WRONG):
            return
        if status == HOLDS and before != HOLDS:
            tell_worth(self.page, name)
        elif name in self.edited:
            tell_function(self.page, self.path, self.standing, name)
        elif status != before:
            self.page.say(f"{name} does not hold any more", "red", "✗")
        else:
            return
        self.told.add(name)
        self.statuses[name] = status

    def _finish(self) -> None:
        """All is checked: what is next."""
        self.pending = set()
        standing = self.standing
        self.statuses = {name: standing.of(name)[0] for name in FUNCTIONS}
        wrong = [name for name in standing.all_with(WRONG) if name in self.edited]
        last = max(self.edited, key=FUNCTIONS.index, default=None)
        focus = next(iter(wrong or standing.all_with(WRONG)), None) or standing.next(last)
        if focus != self.focus or focus in self.edited:
            self.focus, self.hint = focus, 1
        if self.first:
            tell_road(self.page, self.path, standing)
        if focus is None or focus not in self.told:
            tell_what_next(self.page, self.path, standing, focus, self.hint)
        if not self.first:
            self.page.say()
            tell_count(self.page, self.path, standing)
        self._tell_keys()
        self.first = False

    # -- the keys ------------------------------------------------------------------------------

    def take_key(self, key: str) -> bool:
        """Does what a key asks for; returns whether to go on."""
        standing, page = self.standing, self.page
        if key == "q":
            return False
        if self.first or key not in "hsnly?" or not key.strip():
            return True
        if self.asked:
            self.asked = False
            if key == "y":
                tell_solution(page, self.focus)
            if key in "yn":
                return True
        if key == "l":
            tell_road(page, self.path, standing)
        elif key == "?":
            self._tell_keys()
        elif self.focus is None:
            page.say("all hold; there is nothing left to ask for", "dim")
        elif key == "h":
            self._tell_hint()
        elif key == "s":
            self.asked = True
            page.say(f"Show our solution of {self.focus}? y / n", "yellow", "→")
        elif key == "n":
            self.focus, self.hint = standing.next(self.focus), 1
            tell_function(page, self.path, standing, self.focus)
        return True

    def _tell_hint(self) -> None:
        if self.hint == HINTS[-1]:
            self.page.say("these are all hints; s shows our solution", "dim")
            return
        self.hint += 1
        for line in lines_of_hint(self.standing, self.focus, self.hint):
            tell_line(self.page, line)

    def _tell_keys(self) -> None:
        if self.page.terminal:
            self.page.say(_KEYS, "dim")


def _stamp(path: str) -> tuple | None:
    """What changes when a file is saved; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
