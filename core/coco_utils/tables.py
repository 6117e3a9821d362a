"""Tables of features, a row an image, larger than memory: read by rows, written in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

Array = np.ndarray

HOW_TO_MEND = "prepare or fetch the data set again (datasets/README.md)"


def open_h5(path: Path) -> h5py.File:
    """Opens a file for reading; raises FileNotFoundError, or ValueError when it is torn."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {HOW_TO_MEND}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: is not a whole HDF5 file ({error}); {HOW_TO_MEND}") from error


def open_features(path: str | Path) -> Array:
    """The ``features`` of an HDF5 file as an array whose rows are read when they are indexed.

    A dataset stored in one piece is mapped into memory, which is the fastest way to random rows and
    is safe across processes; one stored in chunks is read through HDF5.

    Raises FileNotFoundError, or ValueError for a torn file or one without numeric ``features``.
    """
    path = Path(path)
    with open_h5(path) as file:
        if not isinstance(file.get("features"), h5py.Dataset):
            raise ValueError(f"{path}: has no 'features'; {HOW_TO_MEND}")
        dataset = file["features"]
        if dataset.ndim not in (2, 3) or dataset.dtype.kind != "f":
            raise ValueError(
                f"{path}: features are {dataset.dtype} {dataset.shape}, "
                "expected floating-point (n_images, D) or (n_images, L, C)"
            )
        if dataset.size == 0:
            raise ValueError(f"{path}: holds no features; {HOW_TO_MEND}")
        offset = dataset.id.get_offset()  # None when it is stored in chunks
        if offset is None:
            return _ChunkedRows(path, dataset)
        return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)


class _ChunkedRows:
    """The rows of a chunked HDF5 dataset, indexed as an array by a number, a slice or an array."""

    def __init__(self, path: Path, dataset: h5py.Dataset):
        self.path, self.shape, self.dtype = path, dataset.shape, dataset.dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> Array:
        # Opened for each read: an open handle would not survive in another process.
        with h5py.File(self.path, "r") as file:
            if isinstance(rows, (int, np.integer, slice)):
                return file["features"][rows]
            # HDF5 reads rows in ascending order, each once.
            unique, inverse = np.unique(np.arange(len(self))[rows], return_inverse=True)
            return file["features"][unique][inverse]

    def __array__(self, dtype=None, copy=None) -> Array:
        return np.asarray(self[:], dtype=dtype)


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

    def project(self, pca) -> Blocks:
        """The table through a ``core.encoders.pca.PCA``."""
        shape = *self.shape[:-1], pca.components.shape[1]
        return Blocks(shape, np.dtype(np.float32), lambda: map(pca, self.blocks()))


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
