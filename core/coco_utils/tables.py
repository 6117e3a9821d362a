"""Tables of features, a row an image, larger than memory: read by rows, written in blocks."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from core.support.files import reading

Array = np.ndarray

HOW_TO_MEND = "prepare or fetch the data set again (datasets/README.md)"
_SMALL = 2**26  # bytes
_CHANGING = ("fill", "sort", "partition", "put", "itemset")  # methods that write into an array
_MOST_INFLATED = 200  # times that numbers may be larger than their compressed form


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading; raises FileNotFoundError, or ValueError when it is damaged.

    So does whatever is read of it in the block.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {HOW_TO_MEND}")
    with reading(path, "HDF5 file", HOW_TO_MEND), h5py.File(path, "r") as file:
        yield file


def dataset_in(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that is in this very file, all of it.

    Raises ValueError for a link, for what takes its numbers from other files or datasets, for one
    that was never written, or not to its end, and for one that inflates beyond measure.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise ValueError(f"{path}: has no '{name}'; {HOW_TO_MEND}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(
            f"{path}: '{name}' is a link to something else, expected the data; {HOW_TO_MEND}"
        )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{path}: '{name}' is no dataset; {HOW_TO_MEND}")
    if dataset.is_virtual or dataset.external:
        raise ValueError(
            f"{path}: '{name}' takes its numbers from other files, expected them here; "
            f"{HOW_TO_MEND}"
        )
    stored, size = dataset.id.get_storage_size(), math.prod(dataset.shape)
    whole = size * dataset.id.get_type().get_size()
    if dataset.chunks:
        chunks = zip(dataset.shape, dataset.chunks, strict=True)
        written = dataset.id.get_num_chunks() == math.prod(-(-n // c) for n, c in chunks)
    else:
        end = (dataset.id.get_offset() or 0) + stored
        written = stored >= whole and end <= path.stat().st_size
    if size and not written:
        raise ValueError(f"{path}: '{name}' was never written, or not to its end; {HOW_TO_MEND}")
    if whole > max(_SMALL, _MOST_INFLATED * stored):
        raise ValueError(
            f"{path}: '{name}' inflates from {stored:,} bytes to {whole:,}, which no captions or "
            f"features do; {HOW_TO_MEND}"
        )
    return dataset


def open_features(path: str | Path) -> Rows:
    """The ``features`` of an HDF5 file as an array whose rows are read when they are indexed.

    Raises FileNotFoundError, or ValueError for a damaged file or one without numeric ``features``.
    """
    path = Path(path)
    with open_h5(path) as file:
        dataset = dataset_in(path, file, "features")
        if dataset.ndim not in (2, 3) or dataset.dtype.kind != "f":
            raise ValueError(
                f"{path}: features are {dataset.dtype} {dataset.shape}, "
                "expected floating-point (n_images, D) or (n_images, L, C)"
            )
        if dataset.size == 0:
            raise ValueError(f"{path}: holds no features; {HOW_TO_MEND}")
        offset = dataset.id.get_offset()  # None when it is stored in chunks
        as_stored = dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype)
        if offset is None or not as_stored:
            return _ChunkedRows(path, dataset)
        if not hasattr(os, "preadv"):  # Windows, where nobody can cut a file that is mapped
            return np.memmap(  # "c": what is written stays in memory
                path, dtype=dataset.dtype, mode="c", offset=offset, shape=dataset.shape
            )
        return _StoredRows(path, dataset, offset)


class Rows(NDArrayOperatorsMixin):
    """A table in a file, indexed as an array by a number, a slice or an array.

    Nothing is mapped into memory: the system kills a process when the file that it has mapped is
    cut by another. A file that changes raises ValueError instead.

    It may be computed with, and changed (``table -= mean``), as an array. The first change reads
    all rows, and from then on they are in memory. No change reaches the file.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset):
        self.path, self.shape, self.dtype = path, dataset.shape, dataset.dtype
        self.ndim = len(self.shape)
        self._changed: Array | None = None
        self._numbers = np.arange(len(self))
        self._made = self._state()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> Array:
        if isinstance(rows, tuple):
            first, *others = rows
            return self[first][(slice(None),) * np.ndim(self._numbers[first]) + tuple(others)]
        if self._changed is not None:
            return self._changed[rows]
        numbers = self._numbers[rows]
        found = self._read(np.ravel(numbers))
        self._require_unchanged()
        return found.reshape(*np.shape(numbers), *self.shape[1:])

    def __setitem__(self, rows, values) -> None:
        self._in_memory()[rows] = values

    def __array__(self, dtype=None, copy=None) -> Array:
        return np.asarray(self[:], dtype=dtype)

    def __array_ufunc__(self, ufunc, method: str, *inputs, out=(), **how):
        """Computes with all rows, for ``table - mean``; with ``out``, for ``table -= mean``."""
        if method == "at":  # would write into what has been read
            return NotImplemented
        inputs = [x[:] if isinstance(x, Rows) else x for x in inputs]
        if out:
            how["out"] = tuple(x._in_memory() if isinstance(x, Rows) else x for x in out)
        found = getattr(ufunc, method)(*inputs, **how)
        return out[0] if len(out) == 1 else found

    def __getattr__(self, name: str):
        """Whatever else an array has, of all rows."""
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"a table of features has no {name!r}")
        return getattr(self._in_memory() if name in _CHANGING else self[:], name)

    def _in_memory(self) -> Array:
        """All rows, as an array that may be changed."""
        if self._changed is None:
            self._changed = self[:]
        return self._changed

    def _state(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_size, found.st_mtime_ns

    def _require_unchanged(self) -> None:
        try:
            same = self._state() == self._made
        except OSError:
            same = False
        if not same:
            raise ValueError(
                f"{self.path}: was changed by another program while it was read; {HOW_TO_MEND}, "
                "then start again (with --resume, training goes on)"
            )


class _StoredRows(Rows):
    """Rows that stand in one piece: read from their place, without HDF5, which takes five times as
    long for a batch (0.7 ms against 0.1 ms for 64 rows of 512).
    """

    def __init__(self, path: Path, dataset: h5py.Dataset, offset: int):
        # Kept open: another file that takes its place is not read half and half.
        self._file, self._offset = os.open(path, os.O_RDONLY), offset
        weakref.finalize(self, os.close, self._file)
        super().__init__(path, dataset)

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def _read(self, numbers: Array) -> Array:
        out = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        if not out.size:
            return out
        row = out[0].nbytes
        raw = memoryview(out.reshape(-1).view(np.uint8))
        edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
        for start, stop in pairwise(edges):  # rows that follow one another come at once
            place, left = self._offset + int(numbers[start]) * row, raw[start * row : stop * row]
            while left:
                done = os.preadv(self._file, [left], place)
                if not done:  # the file ends before
                    self._require_unchanged()
                    raise ValueError(f"{self.path}: ends before its features do; {HOW_TO_MEND}")
                place, left = place + done, left[done:]
        return out


class _ChunkedRows(Rows):
    """Rows that stand in chunks, read through HDF5."""

    def _read(self, numbers: Array) -> Array:
        # Opened for each read: an open handle would not survive in another process.
        self._require_unchanged()
        with open_h5(self.path) as file:
            # HDF5 reads rows in ascending order, each once.
            unique, inverse = np.unique(numbers, return_inverse=True)
            if len(unique) and unique[-1] - unique[0] + 1 == len(unique):
                unique = slice(unique[0], unique[-1] + 1)
            return file["features"][unique][inverse]


@dataclass(frozen=True)
class Stacked:
    """Tables of the same shape, one below the other, indexed by an array.

    - tables: arrays, or what is indexed as they are
    """

    tables: Sequence[Array]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.tables[0].shape[1:])

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def __getitem__(self, rows: Array) -> Array:
        which, row = np.divmod(rows, len(self.tables[0]))
        out = np.empty((len(rows), *self.shape[1:]), self.tables[0].dtype)
        for k, table in enumerate(self.tables):
            out[which == k] = table[row[which == k]]
        return out


@dataclass(frozen=True)
class Blocks:
    """A table that comes block by block, in order.

    - shape, dtype: of the table
    - blocks: gives some rows at a time; may be called again
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[Array]]

    @classmethod
    def of(cls, table: Array | Blocks) -> Blocks:
        """An array as one block."""
        if isinstance(table, Blocks):
            return table
        return cls(table.shape, table.dtype, lambda: iter([table]))

    def cells(self) -> Blocks:
        """A table of grids (n, L, C) as one of all their cells, (n L, C)."""
        n, L, C = self.shape
        flat = lambda: (block.reshape(-1, C) for block in self.blocks())  # noqa: E731
        return Blocks((n * L, C), self.dtype, flat)

    def project(self, pca) -> Blocks:
        """The table through a ``core.encoders.pca.PCA``, stored as it is."""
        shape = *self.shape[:-1], pca.components.shape[1]
        return Blocks(shape, self.dtype, lambda: map(pca, self.blocks()))


def write_features(path: str | Path, table: Array | Blocks, **more) -> None:
    """Writes ``features``, in one piece, and further datasets by name, to an HDF5 file."""
    table = Blocks.of(table)
    with h5py.File(path, "w") as file:
        rows, start = file.create_dataset("features", table.shape, table.dtype), 0
        for block in table.blocks():
            rows[start : start + len(block)] = block
            start += len(block)
        for name, value in more.items():
            file[name] = value
