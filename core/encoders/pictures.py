"""Pictures in place of features: read when they are asked for, and looked at then, or once for all.

A model that is trained together with its encoder reads ``Pictures``. Where the encoder is frozen,
every picture is looked at once, and the features are kept (``kept_features``). What captions a few
pictures only looks at those (``LookedAt``).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.coco_utils.tables import Blocks, dataset_in, open_features, open_h5, write_features
from core.encoders import Extractor, prepare_pictures
from core.encoders.extract import Extracted, digest, extract, require_space
from core.encoders.photos import changed, find_unreadable, refuse_unreadable
from core.image_utils import load_image
from core.support import processes
from core.support.command_line import progress
from core.support.files import atomic_file, parse_json, read_json, remove_folder, write_json
from core.support.schema import ListOf, Whole

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

Array = np.ndarray

FOLDER = Path(__file__).resolve().parent.parent.parent / "datasets" / "kept_features"
_BATCH = 32
_DTYPE = np.dtype(np.float16)  # of kept grids: as precise as an encoder's output needs


@dataclass(frozen=True)
class PictureBatch:
    """Pictures of some rows; captions of one picture share it.

    - images: (n, h, w, 3) float32, normalised, each picture once
    - of_row: (N,) which of them a row is about
    """

    images: Array
    of_row: Array

    def __len__(self) -> int:
        return len(self.of_row)

    def __getitem__(self, rows) -> PictureBatch:
        return PictureBatch(self.images, self.of_row[rows])


@dataclass(frozen=True)
class Pictures:
    """A table of pictures, as ``train_features`` of a model that learns to look.

    - paths: of the pictures
    - preprocessing: the constants of the encoder
    - becomes: the shape (L, C) of the grid that an encoder makes of each
    """

    paths: Sequence[Path]
    preprocessing: dict
    becomes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features, as of any table of them."""
        return (len(self.paths), *self.becomes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Array) -> PictureBatch:
        which, of_row = np.unique(rows, return_inverse=True)
        pictures = [load_image(self.paths[i]) for i in which]
        return PictureBatch(prepare_pictures(pictures, self.preprocessing), of_row)


@dataclass(frozen=True)
class LookedAt:
    """A table of features whose rows are looked at when they are indexed, by a slice or an array.

    - paths: of the pictures
    - extractor: what looks
    - remember: keep the rows in memory, for a few pictures that are asked for again and again
    """

    paths: Sequence[Path]
    extractor: Extractor
    remember: bool = False
    seen: dict[int, Array] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.paths), *self.extractor.shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows) -> Array:
        which = np.arange(len(self.paths))[rows].tolist()
        found = {i: self.seen[i] for i in which if i in self.seen}
        new = [i for i in dict.fromkeys(which) if i not in found]
        for start in progress(range(0, len(new), _BATCH), "looking at pictures"):
            batch = new[start : start + _BATCH]
            looked = self.extractor([load_image(self.paths[i]) for i in batch])
            found |= zip(batch, looked, strict=True)
        if self.remember:
            self.seen.update(found)
        return np.array([found[i] for i in which], np.float32).reshape(-1, *self.extractor.shape)


def kept_features(
    paths: Mapping[str, Sequence[Path]], extractor: Extractor, source: Path, make: bool = True
) -> tuple[dict, dict[str, dict[int, str]]]:
    """The features of pictures: of the files where they are kept, once they were looked at.

    A file knows its pictures: those whose bytes have changed since are looked at again.

    Inputs:
    - paths: of the pictures, by split
    - extractor: what looks
    - source: the folder of these pictures, for messages and names
    - make: whether to look at all that is not kept; else at each when it is asked for

    Returns for each split a table of features, and the reasons why pictures cannot be read by their
    numbers; their rows are NaN. Of a table that is not made they are not known.

    Of several processes each looks at its part. Raises ValueError when too many cannot be read.
    """
    kept = {split: _Kept(of, extractor, f"{source.name}_{split}") for split, of in paths.items()}
    counts = {split: len(of) for split, of in paths.items()}
    first = processes.rank() == 0
    lacking = {split: file.lacks() if first or not make else [] for split, file in kept.items()}
    if not make:
        there = {split: file for split, file in kept.items() if not lacking[split]}
        looked = {split: LookedAt(of, extractor) for split, of in paths.items()}
        tables = looked | {split: file.table() for split, file in there.items()}
        return tables, {split: file.unreadable() for split, file in there.items()}

    with _alone() if any(lacking.values()) else nullcontext():
        if first:
            for file in kept.values():
                file.plan(file.lacks())
        processes.wait_for_all()
        todo = {split: file.planned() for split, file in kept.items()}
        asked = [(split, i) for split, of_split in todo.items() for i in of_split]
        opened = find_unreadable([paths[split][i] for split, i in asked], extractor.device)
        reasons = {
            split: [r for i, r in file.unreadable().items() if i not in set(todo[split])]
            for split, file in kept.items()
        }
        for number, reason in opened.items():
            reasons[asked[number][0]].append(reason)
        refuse_unreadable(reasons, counts, source)
        for split, file in kept.items():
            if todo[split]:
                if first and file.known():
                    warnings.warn(
                        f"{file.name}: changed since they were looked at: {len(todo[split]):,} of "
                        f"{counts[split]:,} pictures; these are looked at again",
                        stacklevel=2,
                    )
                file.look(todo[split])
        processes.wait_for_all()
    unreadable = {split: file.unreadable() for split, file in kept.items()}
    reasons = {split: [*of_split.values()] for split, of_split in unreadable.items()}
    refuse_unreadable(reasons, counts, source)  # again: they may have gone meanwhile
    return {split: file.table() for split, file in kept.items()}, unreadable


class _Kept:
    """A file of features of pictures; beside a row for each it holds what tells whether it changed.

    - stamps, hashes: as in ``core.encoders.photos``
    - unreadable: as JSON, number and reason of each picture that could not be read
    """

    def __init__(self, paths: Sequence[Path], extractor: Extractor, name: str):
        known = digest([extractor.fingerprint, [str(path.resolve()) for path in paths]])
        self.paths, self.extractor, self.name = paths, extractor, name
        self.file = FOLDER / f"{name}_{extractor.encoder}_{known[:12]}.h5"
        self.parts = self.file.with_suffix(".parts")

    def lacks(self) -> list[int]:
        """The numbers of the pictures that are not in it as they are now."""
        known = self.known()
        return changed(self.paths, *known) if known else list(range(len(self.paths)))

    def known(self) -> tuple[Array, Array] | None:
        """The stamps and hashes; None when there is no file, or it is torn, or older than these."""
        content = self._content()
        return content and content[:2]

    def unreadable(self) -> dict[int, str]:
        content = self._content()
        return content[2] if content else {}

    def _content(self) -> tuple[Array, Array, dict[int, str]] | None:
        """Stamps, hashes and reasons; None for a file that is not there, or not whole."""
        count = len(self.paths)
        try:
            if self.table().shape != (count, *self.extractor.shape):
                return None
            with open_h5(self.file) as file:
                names = "stamps", "hashes", "unreadable"
                stamps, hashes, text = (dataset_in(self.file, file, name)[()] for name in names)
            rows = parse_json(self.file, text.decode())
            unreadable = {i: str(reason) for i, reason in rows if type(i) is int and 0 <= i < count}
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        of_all = stamps.shape == (count, 4) and hashes.shape == (count,)
        fits = of_all and stamps.dtype.kind == "i" and hashes.dtype.kind == "S"
        return (stamps, hashes, unreadable) if fits and len(unreadable) == len(rows) else None

    def table(self) -> Array:
        return open_features(self.file)

    def plan(self, todo: list[int]) -> None:
        """Lets all processes know what is to be looked at; drops parts of other plans."""
        marker = self.parts / "todo.json"
        if not todo or self.planned() != todo:
            remove_folder(self.parts)
        if todo:
            self.parts.mkdir(parents=True, exist_ok=True)
            write_json(marker, todo)

    def planned(self) -> list[int]:
        """What is to be looked at; nothing when it is not there, or damaged, as by a power cut."""
        try:
            todo = read_json(self.parts / "todo.json", ListOf(Whole(0, len(self.paths) - 1)))
        except (OSError, ValueError):
            return []
        return todo

    def look(self, todo: list[int]) -> None:
        """Looks at those pictures, as one of the processes; the first puts them into the file."""
        extractors, dtypes = {"features": self.extractor}, {"features": _DTYPE}
        require_space(FOLDER, extractors, dtypes, len(self.paths))
        description = f"features of {self.name} by {self.extractor.encoder}"
        found = extract([self.paths[i] for i in todo], extractors, self.parts, dtypes, description)
        if found:
            self._write(todo, found)
            remove_folder(self.parts)

    def _write(self, todo: list[int], found: Extracted) -> None:
        count = len(self.paths)
        old, unreadable, stamps, hashes = None, {}, found.stamps, found.hashes
        if len(todo) < count:
            old, unreadable, (stamps, hashes) = self.table(), self.unreadable(), self.known()
            stamps[todo], hashes[todo] = found.stamps, found.hashes
        kept = {todo[i] for i in found.kept}
        lost = [i for i in todo if i not in kept]
        unreadable = {i: reason for i, reason in unreadable.items() if i not in set(todo)}
        unreadable |= dict(zip(lost, found.skipped, strict=True))

        def blocks() -> Iterator[Array]:
            new = (row for block in found.features["features"].blocks() for row in block)
            for start in range(0, count, _BATCH):
                rows = np.full((min(_BATCH, count - start), *self.extractor.shape), np.nan, _DTYPE)
                if old is not None:
                    rows[:] = old[start : start + len(rows)]
                for i in range(start, start + len(rows)):
                    if i in kept:
                        rows[i - start] = next(new)
                    elif i in unreadable:
                        rows[i - start] = np.nan
                yield rows

        with atomic_file(self.file) as temporary:
            write_features(
                temporary,
                Blocks((count, *self.extractor.shape), _DTYPE, blocks),
                stamps=stamps,
                hashes=hashes,
                unreadable=json.dumps(sorted(unreadable.items())),
            )


@contextmanager
def _alone() -> Iterator[None]:
    """Waits for other runs on this machine that look at pictures to keep; they may be the same."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    folder = os.open(FOLDER, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warnings.warn(f"{FOLDER}: another run looks at pictures; waiting for it", stacklevel=3)
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)  # which ends the lock, as does the end of the process
