"""Photos as files: can they be read, and are they the ones that were looked at?

One policy for all that reads photos: what cannot be read is left out, counted and named, and the
work goes on; more than 1 % of them (of few photos, more than one) are refused, for then a copy is
not complete. That is found out before the work.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.coco_utils.folder import PHOTOS_FILE, read_photos
from core.image_utils import load_image
from core.support import processes
from core.support.command_line import progress
from core.support.schema import shown

Array = np.ndarray

_MOST_UNREADABLE = 0.01
_NAMED = 3  # of the photos that are left out
_SMALL = 256  # pixels a side; a JPEG is read whole all the same, and in less time

_YOUNG = 2 * 10**9  # nanoseconds: coarser are no clocks of file systems


# ---------------------------------------------------------------------------------------------
# Which can be read
# ---------------------------------------------------------------------------------------------


def find_unreadable(paths: Sequence[Path], device: str = "cpu") -> dict[int, str]:
    """Opens photos; returns the numbers of those that cannot be read, with the reasons.

    Of several processes each opens its share, and all learn what was found; ``device`` is where
    they talk.
    """
    found: dict[int, str] = {}
    mine = range(processes.rank(), len(paths), processes.number_of_processes())
    for i in progress(mine, "opening photos", unit="photo"):
        if reason := _fault(paths[i]):
            found[i] = reason
    if processes.number_of_processes() == 1:
        return found
    flags = np.zeros(len(paths))
    flags[list(found)] = 1
    for i in np.flatnonzero(processes.sum_over_all(flags, device)).tolist():
        found.setdefault(i, _fault(paths[i]) or f"{paths[i]}: another process cannot read it")
    return dict(sorted(found.items()))


def open_all(
    paths: Mapping[str, Sequence[Path]], folder: Path, device: str = "cpu"
) -> dict[str, dict[int, str]]:
    """Opens photos before any work is done with them: ``find_unreadable`` of each split.

    Raises ValueError as ``refuse_unreadable`` does.
    """
    found = {split: find_unreadable(of_split, device) for split, of_split in paths.items()}
    reasons = {split: list(of_split.values()) for split, of_split in found.items()}
    refuse_unreadable(reasons, {split: len(of_split) for split, of_split in paths.items()}, folder)
    return found


def first_readable(paths: Sequence[Path], count: int | None) -> tuple[list[int], list[str]]:
    """The numbers of the first ``count`` photos that can be read (None: all); why others cannot."""
    found: list[int] = []
    reasons: list[str] = []
    for i, path in enumerate(progress(paths, "opening photos", unit="photo")):
        if count is not None and len(found) == count:
            break
        if reason := _fault(path):
            reasons.append(reason)
        else:
            found.append(i)
    return found, reasons


def _fault(path: Path) -> str | None:
    try:
        load_image(path, largest=_SMALL)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def left_out(reasons: Sequence[str], count: int) -> str:
    """A sentence on photos that cannot be read: how many of how many, and the first by name."""
    named = "; ".join(reasons[:_NAMED])
    more = f"; and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else ""
    return f"left out {len(reasons):,} of {count:,} photos: {named}{more}"


def refuse_unreadable(
    reasons: Mapping[str, Sequence[str]],
    counts: Mapping[str, int],
    folder: Path,
    lack: str = "be read",
) -> None:
    """Raises ValueError when too many photos cannot be read, or used for what else they lack.

    Too many are more than 1 % of all, one photo apart, and all of a split.

    Inputs:
    - reasons: why photos cannot be read, by split
    - counts: the photos of each split
    - folder: where they are, for the message
    """
    what = [reason for several in reasons.values() for reason in several]
    total = sum(counts.values())
    copy = (
        "are they there, and is the copy complete? Fetch it again, or take them out of the captions"
    )
    if len(what) > max(1, _MOST_UNREADABLE * total):
        raise ValueError(
            f"{folder}: more than {_MOST_UNREADABLE:.0%} of the photos cannot {lack}, "
            f"{len(what):,} of {total:,}, for example {what[0]}; {copy}"
        )
    for split, several in reasons.items():
        if several and len(several) == counts[split]:
            raise ValueError(
                f"{folder}: no photo of {split} can {lack}, for example {several[0]}; {copy}"
            )


# ---------------------------------------------------------------------------------------------
# Which are the same
# ---------------------------------------------------------------------------------------------


def stamp(path: Path) -> tuple[int, int, int, int]:
    """What tells at a glance that a file has not changed.

    Returns its size, the times of its last writing and of its last change, and the time now, in ns.
    The second time is set by the system, even where a tool puts the first one back.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return -1, 0, 0, time.time_ns()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, time.time_ns()


def read_hashed(path: Path) -> tuple[bytes | None, str]:
    """The bytes of a file and their SHA-256; None and no text when there are none to be read."""
    try:
        content = path.read_bytes() if path.is_file() else None  # to read a pipe may take for ever
    except (OSError, ValueError):
        content = None
    if content is None:
        return None, ""
    return content, hashlib.sha256(content).hexdigest()


def changed(paths: Sequence[Path], stamps: Array, hashes: Array) -> list[int]:
    """The numbers of the photos whose bytes are others than they were.

    Only the bytes of those are read that do not look the same, or that had been written just before
    their stamp: they might have been written again within one tick of that clock.

    Inputs:
    - paths: of n photos
    - stamps, hashes: (n, 4) and (n,), as they were; ``stamp`` and ``read_hashed``
    """
    now = np.array([stamp(path) for path in paths]).reshape(-1, 4)
    unsure = (now[:, :3] != stamps[:, :3]).any(axis=1) | (hashes == b"")
    unsure |= stamps[:, 3] - stamps[:, 1:3].max(axis=1) < _YOUNG
    return [i for i in np.flatnonzero(unsure).tolist() if _differs(paths[i], hashes[i])]


def _differs(path: Path, known: bytes) -> bool:
    return read_hashed(path)[1].encode() != known


def say_changed(
    folder: Path,
    root: Path | None,
    urls: Mapping[str, Sequence[str]],
    looked_at_now: bool = False,
) -> None:
    """A warning when photos have changed since a data folder was made of them.

    Photos that are not on this machine say nothing, nor does a folder that was not made of photos.

    Inputs:
    - folder: with ``PHOTOS_FILE``, for each split (size, time of the last writing, hash) of each
      photo
    - root: below which the photos are
    - urls: their paths, by split
    - looked_at_now: whether features are made of the photos as they are now

    Raises ValueError when that file is damaged.
    """
    if root is None or not (photos := read_photos(folder)):
        return
    made, others, total = os.stat(folder / PHOTOS_FILE).st_mtime_ns, [], 0
    for split, known in photos.items():
        if len(known) != len(urls.get(split, ())):
            raise ValueError(
                f"{folder / PHOTOS_FILE}: records {len(known):,} photos of {shown(split)}, but "
                f"there are {len(urls.get(split, ())):,}; prepare the folder again"
            )
        for url, (*seen, known_hash) in zip(urls[split], known, strict=True):
            size, written, last, _ = stamp(root / str(url))
            total += 1
            same = size < 0 or ([size, written] == seen and last < made)
            if not same and read_hashed(root / str(url))[1] != known_hash:
                others.append(str(url))
    if others and processes.rank() == 0:
        then = "its features are those of the old ones: prepare it again"
        if looked_at_now:
            then = "they are looked at as they are now: are the captions still theirs?"
        warnings.warn(
            f"{folder}: {len(others):,} of its {total:,} photos have changed since it was "
            f"prepared, for example {root / others[0]}; {then}",
            stacklevel=2,
        )
