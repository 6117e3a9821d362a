"""Files that are either whole or absent: written under a temporary name, then moved into place.

This guards against a process that is killed half-way, not against a power cut (no fsync). What a
killed process was writing is removed by the next that writes to the same folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.support.at_work import is_at_work

# .NAME.PROCESS-MACHINE.part.SUFFIX; earlier versions did not say the machine.
_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)(?:-(?P<machine>[0-9a-f]{8}))?\.part(?:\.\w+)?")
_FORGOTTEN = 7 * 24 * 3600  # seconds without a change: nobody writes that any more, anywhere
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# The folder of the project; where it was not installed from there (pip install -e), this folder, so
# that data never goes where other packages are.
_PROJECT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (_PROJECT / "pyproject.toml").is_file()
DATASETS = (_PROJECT if IS_CHECKOUT else Path.cwd()) / "datasets"
_TRIES = 20  # a tenth of a second apart, to replace a file that another program has open


# ---------------------------------------------------------------------------------------------
# Whole or absent
# ---------------------------------------------------------------------------------------------


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; moves it there when the block ends well.

    The temporary name keeps the suffix, which some writers read the format from, and has the number
    of the process, so that two never write into one file.

    Raises OSError that names ``path`` when it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{_owner()}.part{path.suffix}")
    sweep(path)
    with named(path, temporary):
        try:
            yield temporary
            move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path``; moves it there when the block ends well.

    Raises FileExistsError, before anything is written, when ``path`` is taken; OSError that names
    ``path``, or the file in it, which cannot be written.
    """
    path = Path(path)
    require_free(path)
    temporary = path.with_name(f".{path.name}.{_owner()}.part")
    sweep(path)
    with named(path, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.is_dir():
                path.rmdir()  # it is empty; not every system replaces a folder by another
            move(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Removes a folder that others may look for: it is gone at once, or there and whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{_owner()}.part")
    with suppress(FileNotFoundError):
        os.replace(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def sweep(path: str | Path) -> None:
    """Removes what killed processes were writing beside ``path``: for it, and for others.

    Kept is what a process is writing now, on this machine or another.
    """
    path = Path(path)
    found = []
    with suppress(OSError):
        found = [each for each in os.scandir(path.parent) if each.name.startswith(".")]
    for each in found:
        match = _TEMPORARY.fullmatch(each.name)
        if match is None or not (match["machine"] or each.name.startswith(f".{path.stem}.")):
            continue
        with suppress(OSError):  # another process sweeps, too
            age = time.time() - each.stat(follow_symlinks=False).st_mtime
            here = match["machine"] in (None, _machine())
            if age > _FORGOTTEN or (here and not is_at_work(int(match["process"]))):
                if each.is_dir(follow_symlinks=False):
                    shutil.rmtree(each.path)
                else:
                    os.unlink(each.path)


def _owner() -> str:
    return f"{os.getpid()}-{_machine()}"


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """What the block raises because it cannot write names ``path``: no temporary name, nor none."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        text, number = str(error), _number_of(error)
        if (
            temporary
            and str(temporary) in text
            and "errno = " not in text
            and not isinstance(error, UnicodeError)
        ):
            raise type(error)(text.replace(str(temporary), str(path))) from error
        if number is None or str(path) in text:
            raise
        failed = OSError(
            f"{path}: could not be written ({os.strerror(number)}); make room there, or choose "
            "another place"
        )
        failed.errno = number
        raise failed from error


def _number_of(error: BaseException | None) -> int | None:
    """The system's number of an error that names no file, or of a full disk; else None.

    NumPy and HDF5 raise other errors after it, and HDF5 has it in its words.
    """
    while error is not None:
        if (said := re.search(r"errno = (\d+)", str(error))) and int(said[1]) in _FULL:
            return int(said[1])
        if isinstance(error, OSError) and error.errno and not said and error.filename is None:
            return error.errno
        error = error.__context__
    return None


# ---------------------------------------------------------------------------------------------
# Can it be written, can it be read?
# ---------------------------------------------------------------------------------------------


def try_out(option: str, path: str | Path) -> None:
    """Raises ValueError unless a file or folder can be made at ``path``: tried, before long work.

    ``option`` is the one that named it. What is made for this is removed again.
    """
    path = Path(path)
    made: list[Path] = []
    sweep(path)  # a process that was killed here, too, left what it tried
    try:
        for folder in reversed(path.parents):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        temporary = path.with_name(f".{path.name}.{_owner()}.part")
        temporary.touch()
        temporary.unlink()
    except (OSError, ValueError) as error:  # ValueError: a name that no file has
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{option} {path}: cannot be written there ({reason}); choose another place"
        ) from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # another process took it
                folder.rmdir()


def require_file(path: str | Path) -> None:
    """Raises ValueError for what is there and no file: to read a pipe may take for ever.

    What is not there, the one who opens it tells.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return
    if kind != stat.S_IFREG:
        raise ValueError(f"{path}: is {_KINDS.get(kind, 'something else')}, expected a file")


def move(source: Path, target: Path) -> None:
    """``os.replace``, tried for two seconds: Windows refuses it while a program has a file open.

    Raises PermissionError that says so.
    """
    for left in reversed(range(_TRIES)):
        try:
            return os.replace(source, target)
        except PermissionError as error:
            if sys.platform != "win32":
                raise
            if not left:
                raise PermissionError(
                    f"{target}: is open in another program, so it could not be replaced; close it "
                    "there, then start the same command again"
                ) from error
            time.sleep(0.1)


def require_free(path: str | Path) -> None:
    """Raises FileExistsError unless a folder can be made at ``path``: nothing there, or empty."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: is there already; remove it, or choose another folder")


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Writes a text file, atomically.

    ``errors``: 'backslashreplace' escapes what UTF-8 cannot express, as a file name of other bytes.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def write_json(path: str | Path, value) -> None:
    """Writes a JSON file, atomically; what UTF-8 cannot express with JSON's own escapes."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_text(path, text, errors="backslashreplace")


def read_text(path: str | Path) -> str:
    """Reads a text file in UTF-8, with or without a byte order mark; else a ValueError."""
    require_file(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8 ({error}); convert it first") from error


def hash_of_file(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def reading(path: str | Path, what: str, mend: str) -> Iterator[None]:
    """Whatever a reader of a damaged file raises becomes a ValueError of one line.

    It names the file, what was found and ``mend``, what to do. Errors that begin with the file's
    name say so already and pass, as does a file that is missing; a file that may not be read, or a
    disk that fails, is an OSError.
    """
    try:
        yield
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # libraries raise whatever they stumble over
        if str(error).startswith(f"{path}:"):
            raise
        number = getattr(error, "errno", None)
        if number in (errno.EACCES, errno.EPERM, errno.EIO):
            raise OSError(
                f"{path}: cannot be read ({os.strerror(number)}); may you read it, is the disk "
                "sound?"
            ) from error
        if isinstance(error, OSError) and number not in (None, errno.EINVAL):
            raise  # of the system, as a full disk
        words = " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
        raise ValueError(f"{path}: is not a whole {what} ({reason}); {mend}") from error


def require_below(path: str | Path, what: str, name: str) -> None:
    """Raises ValueError unless ``name``, which a file says, stays in that file's folder."""
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ".." in parts or Path(name).drive or "\0" in name:
        raise ValueError(
            f"{path}: {what} is {name[:80]!a}, which leaves its folder; expected a path below "
            "it: is the data from a source that you trust?"
        )


def read_json(path: str | Path, kind=None, mend: str = "write it again"):
    """Reads a JSON file.

    - kind: what it must hold, of ``core.support.schema``; None: anything
    - mend: what to do when it does not

    Raises ValueError that names it: torn, no JSON, with a key twice, or of another kind.
    """
    value = parse_json(path, read_text(path))
    if kind is not None and (fault := kind.fault(value)):
        raise ValueError(f"{path}: {fault}; {mend}")
    return value


def parse_json(path: str | Path, text: str, where: str = ""):
    """JSON from text of a file, in which no key is twice in one object: the first would be lost.

    Raises ValueError that names the file, and ``where`` in it.
    """

    def each_key_once(pairs: list[tuple[str, object]]) -> dict:
        if len(content := dict(pairs)) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(
                f"{path}: {where}the key {twice!r} occurs twice in one object; make them one"
            )
        return content

    try:
        return json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        if str(error).startswith(f"{path}:"):
            raise
        raise ValueError(
            f"{path}: {where}is not valid JSON ({error}); is the file complete?"
        ) from error
