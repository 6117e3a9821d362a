"""One run at a time in a run folder: a file in it says which process is at work there."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

LOCK_FILE = ".lock"
_BEING_WRITTEN = 5  # seconds in which a lock file that says nothing yet is taken for a new one


class Lock:
    """The lock file of a run folder, written by this process.

    Inputs:
    - folder: of the run; made where there is none

    Raises ValueError when another process is at work there. What a process left that was killed
    does not count, nor one whose number another process has now.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.path = self.folder / LOCK_FILE
        self.made = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
        self.text = json.dumps(
            {
                "process": os.getpid(),
                "started": _start_of(os.getpid()),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M"),
            }
        )
        self.take()

    def take(self) -> None:
        """Writes the file, which no two processes can; also after the folder was moved away."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            with suppress(FileExistsError):
                with open(self.path, "x", encoding="utf-8") as file:
                    file.write(self.text)
                for path in filter(is_torn, self.folder.iterdir()):
                    path.unlink()
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


@contextmanager
def locked(folder: Path) -> Iterator[Lock]:
    """The lock of a run folder for the time of the block."""
    lock = Lock(folder)
    try:
        yield lock
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
        in_use = elsewhere or _is_at_work(owner["process"], owner["started"])
        return owner if in_use and owner["since"] else None
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _is_at_work(process: int, started: str | None) -> bool:
    if os.name == "nt":  # where ``os.kill`` would end it
        import ctypes

        kernel = ctypes.windll.kernel32
        handle, code = kernel.OpenProcess(0x1000, False, process), ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return bool(handle) and code.value == 259  # STILL_ACTIVE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is of another user
    return None in (started, now := _start_of(process)) or started == now


def _start_of(process: int) -> str | None:
    """When a process started, as Linux counts; 'ended' when it waits to be buried; else None."""
    stat = _read(Path(f"/proc/{process}/stat"))
    if stat is None:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return "ended" if state in "ZX" else fields[18]
