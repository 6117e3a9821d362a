"""Files that are either whole or absent: written under a temporary name, then moved into place.

This guards against a process that is killed half-way, not against a power cut (no fsync).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; moves it there when the block ends well.

    The temporary name keeps the suffix, which some writers read the format from, and has the number
    of the process, so that two never write into one file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path``; moves it there when the block ends well.

    Raises FileExistsError, before anything is written, when ``path`` is taken.
    """
    path = Path(path)
    require_free(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.is_dir():
            path.rmdir()  # it is empty; not every system replaces a folder by another
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8 ({error}); convert it first") from error


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
