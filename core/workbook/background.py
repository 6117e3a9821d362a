"""Checks in the background: a thread that judges, and a process that was started beforehand."""

from __future__ import annotations

import itertools
import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from core.gradient_check.apart import check_apart, read_messages, rng_of, start
from core.gradient_check.case import Case
from core.gradient_check.cases import CASES
from core.gradient_check.checking import check_case
from core.support.files import write_text

SEED = 0
_PAUSE = 0.02  # seconds
_ENDS = "done", "error"
_numbers = itertools.count()


class Background:
    """The checks of one file; a context, at whose end nothing of it is left.

    Only what the last ``check`` finds is heard of. ``ahead``: whether another one will follow, for
    which all is made ready beforehand.
    """

    def __init__(self, path: str, ahead: bool = False):
        self.path, self.ahead = path, ahead
        self.folder = tempfile.TemporaryDirectory(prefix="workbook-", ignore_cleanup_errors=True)
        self.queue: queue.Queue = queue.Queue()
        self.number = 0
        self.lock = threading.Lock()  # of the number and the child that belongs to it
        self.child: _Child | None = None
        self.next: _Child | None = None
        if ahead:
            self.next = self._start()
            threading.Thread(target=_warm_up, daemon=True).start()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_) -> None:
        self.stop()
        if self.next is not None:
            self.next.stop()
        self.folder.cleanup()

    def _start(self) -> _Child:
        return _Child(Path(self.folder.name))

    def check(self, cases: Sequence[Case]) -> None:
        """Begins to check; what was being checked is given up."""
        self.stop()
        self.child, self.next = self.next or self._start(), None
        arguments = self.number, self.child, cases
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def stop(self) -> None:
        """Gives up what is being checked."""
        with self.lock:
            self.number += 1
            if self.child is not None:
                self.child.stop()
                self.child = None

    def events(self) -> Iterator[tuple[str, object]]:
        """What was found since the last call: kinds and values.

        "names", those that the file defines; "rows", a case and its rows; "prints", lines; at the
        end "error", why the file cannot be checked, or "done".
        """
        while True:
            try:
                number, kind, value = self.queue.get_nowait()
            except queue.Empty:
                return
            if number != self.number:
                continue
            if self.ahead and kind in _ENDS:  # not before: it would slow down what is waited for
                self.next = self._start()
            yield kind, value

    def events_to_the_end(self) -> Iterator[tuple[str, object]]:
        """All of them; waits for those that are still to come."""
        while True:
            for kind, value in self.events():
                yield kind, value
                if kind in _ENDS:
                    return
            time.sleep(_PAUSE)

    def _run(self, number: int, child: _Child, cases: Sequence[Case]) -> None:
        def put(kind: str, value=None) -> None:
            self.queue.put((number, kind, value))

        used = []

        def begin(names: Sequence[str]) -> Iterator[dict | None]:
            used.append(child if not used else self._another(number))
            return used[-1].order(self.path, names)

        try:
            with closing(check_apart(self.path, cases, SEED, begin=begin)) as checked:
                put("names", names := next(checked))
                for case in cases:
                    if names & set(case.functions):
                        put("rows", (case, next(checked)))
            if lines := [line for each in used for line in each.prints()]:
                put("prints", lines)
            put("done")
        except Exception as error:  # not lost with the thread
            put("error", error)

    def _another(self, number: int) -> _Child:
        """Another process for the same check: the one before was ended by what it called."""
        with self.lock:
            child = self._start()
            if number == self.number:
                self.child = child
        return child


def _warm_up() -> None:
    """PyTorch's first gradient and first optimizer take seconds, for which nobody must wait."""
    for case in CASES:
        if case.name in ("affine", "sgd"):
            check_case(case, rng_of(case, SEED), {})


class _Child:
    """A process that waits for its order, and where its prints go."""

    def __init__(self, folder: Path):
        self.printed = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.where = folder / f"order-{next(_numbers)}.json"  # a name that was never there
        arguments = [str(self.where), str(os.getpid())]
        self.reading, self.process = start(
            "core.workbook.waiting", arguments, stdout=self.printed, stderr=self.printed
        )

    def order(self, path: str, names: Sequence[str]) -> Iterator[dict | None]:
        """Lets it check; yields its messages."""
        write_text(self.where, json.dumps([str(path), str(SEED), *names]))
        return read_messages(self.reading, self.process)

    def prints(self) -> list[str]:
        """What it has printed so far."""
        self.printed.seek(0)
        return self.printed.read().decode("utf-8", errors="replace").splitlines()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
