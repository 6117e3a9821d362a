"""Arrays in the safetensors format: the length of a header in eight bytes, the header, the numbers.

The header is JSON: of each array the type, the shape and where its bytes begin and end after the
header; and texts under ``__metadata__`` (https://github.com/huggingface/safetensors). That is so
simple that it needs no package. What is read is refused unless the arrays fill the file from the
header to its end, without a gap or an overlap.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from core.support.schema import Each, Entries, ListOf, OneOf, Text, Whole, shown

Array = np.ndarray

TEXTS = "__metadata__"
_LONGEST_HEADER = 100_000_000  # bytes, as others bound it
_ALIGNED = 8  # the numbers begin at a multiple of this, so that others may map them
# BF16 and the eight-bit types have no twin in NumPy.
TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
_PLACE = Whole(0, 2**62)
_ENTRY = Entries(
    {
        "dtype": OneOf(tuple(TYPES)),
        "shape": ListOf(_PLACE),
        "data_offsets": ListOf(_PLACE, length=2),
    },
    ("dtype", "shape", "data_offsets"),
)


@dataclass
class Place:
    """Where an array is in a file, and what it is."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of its bytes, from the start of the file
    size: int  # bytes


def write_arrays(file: BinaryIO, arrays: Mapping[str, Array], texts: Mapping[str, str]) -> None:
    """Writes arrays, in their order, and texts.

    Raises ValueError for a type that the format, or this file, does not know.
    """
    header: dict = {TEXTS: dict(texts)}
    end, packed = 0, []
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise ValueError(f"{name}: safetensors has no numbers of type {array.dtype}")
        packed.append(np.asarray(array, dtype, order="C"))
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    file.write(len(text).to_bytes(8, "little") + text)
    for array in packed:
        file.write(array.tobytes())


def is_safetensors(file: BinaryIO) -> bool:
    """Whether a file begins as one of this format."""
    file.seek(0)
    return file.read(9)[8:] == b"{"


def read_places(file: BinaryIO) -> tuple[dict[str, Place], dict[str, str]]:
    """Where the arrays are, by name, and the texts; no array is read.

    Raises ValueError for a header that is damaged, lies about sizes, or has a name twice, and for
    arrays that overlap, leave gaps or are not all there.
    """
    total = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    _require(length <= min(total - 8, _LONGEST_HEADER), f"its header claims {length:,} bytes")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError("its header is no JSON") from error
    _require(isinstance(header, dict), "its header is no object")
    texts = header.pop(TEXTS, {})
    if fault := Each(Text()).fault(texts):
        raise ValueError(f"its texts: {fault}")
    places, end = {}, 0
    for name, entry in sorted(header.items(), key=_begin):
        if fault := _ENTRY.fault(entry):
            raise ValueError(f"{shown(name)}: {fault}")
        dtype, shape = np.dtype(TYPES[entry["dtype"]]), tuple(entry["shape"])
        start, stop = entry["data_offsets"]
        _require(start == end, f"{shown(name)} begins at {start:,}, expected {end:,}")
        size = math.prod(shape) * dtype.itemsize
        _require(stop - start == size, f"{shown(name)} is not as long as it says")
        places[name], end = Place(dtype, shape, 8 + length + start, size), stop
    _require(
        8 + length + end == total,
        f"it has {total:,} bytes, its header tells of {8 + length + end:,}",
    )
    return places, texts


def read_place(file: BinaryIO, place: Place) -> Array:
    """One array of a file."""
    file.seek(place.start)
    array = np.empty(place.shape, place.dtype)
    _require(file.readinto(array.reshape(-1).view(np.uint8)) == place.size, "it ends too early")
    return array.astype(place.dtype.newbyteorder("="), copy=False)


def _begin(item: tuple[str, object]) -> tuple[int, int]:
    """Where an entry says that it begins and ends; first those that are damaged, to be refused."""
    _, entry = item
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    fault = ListOf(_PLACE, length=2).fault(offsets)
    return (-1, -1) if fault else (offsets[0], offsets[1])


def _once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    _require(len(found) == len(pairs), "a name is twice in its header")
    return found


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)
