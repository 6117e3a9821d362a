"""One run at a time in a run folder: a file in it says which process is at work there.

Another says that a new run is to take the place of the one that is there, and has not begun yet.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from glob import escape
from pathlib import Path

from core.support.at_work import is_at_work, start_of
from core.support.files import named, try_out

LOCK_FILE = ".lock"
NEW_RUN = ".new_run"
_BEING_WRITTEN = 5  # seconds in which a lock file that says nothing yet is taken for a new one


class Lock:
    """The lock file of a run folder, written by this process.

    Inputs:
    - folder: of the run; made where there is none

    Raises ValueError when another process is at work there. What a process left that was killed
    does not count, nor one whose number another process has now.
    """

    def __init__(self, folder: Path):
        self.folder = Path(os.path.realpath(folder))
        if not self.folder.exists():
            try_out("--out", folder)
        self.path = self.folder / LOCK_FILE
        self.made = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
        self.text = json.dumps(
            {
                "process": os.getpid(),
                "started": start_of(os.getpid()),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M"),
            }
        )
        self.take()

    def take(self) -> None:
        """Writes the file, which no two processes can; also after the folder was moved away."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            with suppress(FileExistsError), named(self.path):
                with open(self.path, "x", encoding="utf-8") as file:
                    file.write(self.text)
                for path in filter(is_torn, self.folder.iterdir()):
                    path.unlink()
                self._sweep_earlier_runs()
                return
            self._clear_away_what_was_left()
        raise ValueError(
            f"--out {self.folder}: another run is starting there; choose another folder with --out"
        )

    def check(self) -> None:
        """Raises ValueError when the folder is no longer this run's, so that nobody's is spoilt."""
        if _read(self.path) != self.text:
            raise ValueError(
                f"{self.folder}: was moved, removed or taken by another run, so this one writes "
                "nothing more there; resume it where its files are now, with --resume --out"
            )

    def release(self) -> None:
        """Removes the file, and the folders that were made for nothing."""
        if _read(self.path) == self.text:
            self.path.unlink()
        for folder in self.made:
            with suppress(OSError):  # it holds a run now
                folder.rmdir()

    def _sweep_earlier_runs(self) -> None:
        """Of runs that a killed process had just moved aside."""
        for folder in self.folder.parent.glob(f"{escape(self.folder.name)}.old*"):
            if (folder / LOCK_FILE).exists() and not _owner_in_use(_read(folder / LOCK_FILE)):
                free_from_lock(folder)

    def _clear_away_what_was_left(self) -> None:
        text = _read(self.path)
        if owner := _owner_in_use(text):
            where = "" if owner["host"] == socket.gethostname() else f" of {owner['host']}"
            gone = f"; if that runs no more, remove {self.path}" if where else ""
            raise ValueError(
                f"--out {self.folder}: process {owner['process']}{where} has been training there "
                f"since {owner['since']}; wait for its end, or choose another folder with "
                f"--out{gone}"
            )
        aside = self.path.with_name(f"{LOCK_FILE}.{os.getpid()}.part.json")
        with suppress(FileNotFoundError):
            if not text and time.time() - self.path.stat().st_mtime < _BEING_WRITTEN:
                return
            # Renamed first, for a third process may have cleared it away, too, and begun.
            os.replace(self.path, aside)
            if _read(aside) != text:
                os.replace(aside, self.path)
            aside.unlink(missing_ok=True)


def is_torn(path: Path) -> bool:
    """Whether it is what a killed process left of a file that it wrote."""
    return fnmatch(path.name, ".*.part.*")


def free_from_lock(folder: Path) -> None:
    """Removes both files from a run that was moved aside."""
    (folder / NEW_RUN).unlink(missing_ok=True)
    (folder / LOCK_FILE).unlink()


@contextmanager
def locked(folder: Path, resume: bool = False) -> Iterator[Lock]:
    """The lock of a run folder for the time of the block.

    Inputs:
    - folder: of the run
    - resume: whether to go on with the run there; else a new one takes its place

    Raises ValueError as ``Lock`` does, and when the run to resume was to make room for a new one
    that was stopped before it began: that one is meant, and nothing of it is there.
    """
    lock = Lock(folder)
    note = lock.folder / NEW_RUN
    try:
        if resume and note.exists():
            raise ValueError(
                f"{folder}: a new run was stopped before it took the place of the run there; start "
                f"it again without --resume, or remove {folder / NEW_RUN} to resume the earlier run"
            )
        if not resume and (lock.folder / "config.json").is_file():
            note.touch()
        yield lock
    except Exception:
        if not resume:  # it was refused: the run there is still the one that is meant
            note.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _read(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(encoding="utf-8")
    return None


def _owner_in_use(text: str | None) -> dict | None:
    """Who wrote a lock file, when that is at work, or on a machine where nobody can tell from here.

    None for a torn one.
    """
    try:
        owner = json.loads(text or "")
        elsewhere = owner["host"] != socket.gethostname()
        in_use = elsewhere or is_at_work(owner["process"], owner["started"])
        return owner if in_use and owner["since"] else None
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
