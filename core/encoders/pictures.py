"""Pictures in place of features: read when they are asked for, and looked at then, or once for all.

A model that is trained together with its encoder reads ``Pictures``. Where the encoder is frozen,
every picture is looked at once, and the features are kept (``kept_features``). What captions a few
pictures only looks at those (``LookedAt``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.coco_utils.tables import open_features, write_features
from core.encoders import Extractor, prepare_pictures
from core.encoders.extract import digest, extract, require_space
from core.image_utils import load_image
from core.support import processes
from core.support.command_line import progress
from core.support.files import atomic_file

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


def kept_features(paths: Sequence[Path], extractor: Extractor, name: str, make: bool = True):
    """The features of pictures: of the file where they are kept, once they were looked at.

    Inputs:
    - paths: of the pictures
    - extractor: what looks
    - name: of these pictures, for people; the file also knows its pictures and extractor by a hash
    - make: whether to look at all of them when there is no file; else each is, when it is asked for

    Of several processes each looks at its part. Raises ValueError when a picture cannot be read.
    """
    known = digest([extractor.fingerprint, [str(path.resolve()) for path in paths]])
    file = FOLDER / f"{name}_{extractor.encoder}_{known[:12]}.h5"
    there = file.is_file()
    processes.wait_for_all()  # until all have seen the same
    if not there and not make:
        return LookedAt(paths, extractor)
    if not there:
        file.parent.mkdir(parents=True, exist_ok=True)
        require_space(file.parent, {"features": extractor}, {"features": _DTYPE}, len(paths))
        parts = file.with_suffix(".parts")
        description = f"features of {name} by {extractor.encoder}"
        found = extract(paths, {"features": extractor}, parts, {"features": _DTYPE}, description)
        if found:
            if found.skipped:
                raise ValueError(
                    f"{found.skipped[0]}; mend or remove it, or prepare the folder with "
                    "core.flickr8k, which leaves out what cannot be read"
                )
            with atomic_file(file) as temporary:
                write_features(temporary, found.features["features"])
            shutil.rmtree(parts)
        processes.wait_for_all()
    return open_features(file)
