"""A photo file as an array: load it upright in RGB, resize, crop, normalise."""

from __future__ import annotations

import io
import os
import urllib.request
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.support.choices import FORMATS, SUFFIXES
from core.support.files import require_file

Array = np.ndarray

# Pillow's remarks on damaged metadata name no file; what cannot be read raises an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

LARGEST = 4096  # pixels of the longer side that are kept of a picture
_LARGEST_FILE = 10**8  # bytes of a picture from the web


def load_image(path: str | Path, largest: int = LARGEST, content: bytes | None = None) -> Array:
    """Loads a picture as (height, width, 3) uint8 RGB, turned upright as its EXIF data say.

    One of ``FORMATS``, of animations the first frame: grey, palette and CMYK become RGB, what is
    transparent lies on white, 16 bits and floats become 8.

    Inputs:
    - path: of the picture
    - largest: a longer side is brought down to this many pixels; of JPEG no more is decoded than
      that needs
    - content: of the file, where that is in memory already

    Raises FileNotFoundError, or ValueError when the file is no picture that can be read whole, is
    of a format that is not read, or has so many pixels that Pillow refuses it.
    """
    path = Path(path)
    if content is None:
        require_file(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such picture")
    try:
        content = path.read_bytes() if content is None else content
        with _opened(content) as image:
            image.draft("RGB", (largest, largest))  # for JPEG; decodes at 1/2, 1/4 or 1/8
            image.load()
            picture = _as_rgb(ImageOps.exif_transpose(image))
    except MemoryError:  # says nothing of the picture
        raise
    except Exception as error:  # Pillow raises what its decoders raise, struct.error included
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
    if max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.BILINEAR)
    return np.asarray(picture)


@cache
def _formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _opened(content: bytes) -> Image.Image:
    """Opens a picture; raises ValueError that names the format when it is none of ``FORMATS``."""
    try:
        return Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        if not content:
            raise ValueError("the file is empty") from error
        begins = content[:16].ljust(16, b"\0")
        known = ((name, accepts) for name, (_, accepts) in Image.OPEN.items() if accepts)
        found = next((name for name, accepts in known if accepts(begins) is True), None)
        if found in FORMATS:
            raise ValueError(f"begins as {found}, but is damaged") from error
        raise ValueError(
            f"{f'begins as {found}' if found else 'is of no known format'}, expected one of "
            f"{', '.join(_formats())}; convert it first"
        ) from error


def list_pictures(folder: str | Path) -> list[Path]:
    """The picture files of a folder and of those in it, by name.

    Hidden files and folders (``.*``, among them the ``._*`` that a Mac leaves, and ``__MACOSX``)
    are none; of others ``other_files`` tells.

    Raises FileNotFoundError when there is no such folder, ValueError when it holds none.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"--images {folder}: no such folder")
    paths = [path for path in _files_below(folder) if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise ValueError(f"--images {folder}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return sorted(paths)


def other_files(folder: str | Path) -> str:
    """A sentence on the files that are no pictures by their names, and not hidden; '' for none."""
    suffixes = Counter(path.suffix.lower() for path in _files_below(folder))
    others = Counter({s: count for s, count in suffixes.items() if s not in SUFFIXES})
    kinds = (f"{count:,} {suffix or 'without a suffix'}" for suffix, count in others.most_common(5))
    if not others:
        return ""
    return (
        f"--images {folder}: left out {others.total():,} of {suffixes.total():,} files, which do "
        f"not have the name of a picture: {', '.join(kinds)}"
    )


def _files_below(folder: str | Path) -> Iterator[Path]:
    visited = set()
    for place, folders, names in os.walk(folder, onerror=_say_closed, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(place, name) for name in names if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is none that anybody put there to be seen."""
    return name.startswith(".") or name == "__MACOSX"


def _say_closed(error: OSError) -> None:
    warnings.warn(f"{error.filename}: is left out ({error.strerror})", stacklevel=2)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # one channel of 16 or 32 bits, which Pillow would clip
        values = np.asarray(image).astype(np.float32)
        highest = 65535 if image.mode[0] == "I" else 1
        if image.mode[0] == "F" and values.max() > 1:
            highest = 255
        image = Image.fromarray((np.clip(values / highest, 0, 1) * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def resize_and_crop(image: Array, size: int) -> Array:
    """The square in the centre, resized to ``size`` (bilinear, anti-aliased).

    (h, w, 3) uint8 -> (size, size, 3) uint8. A picture of that size passes unchanged.
    """
    h, w = image.shape[:2]
    if (h, w) == (size, size):
        return image
    side = min(h, w)
    left, top = (w - side) / 2, (h - side) / 2
    square = (left, top, left + side, top + side)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=square)
    return np.asarray(resized)


def normalise(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(N, h, w, 3) uint8 -> float32, as ``(x / 255 - mean) / std`` for each colour channel."""
    x = images.astype(np.float32) / 255
    return (x - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def image_from_url(url: str) -> Array:
    """Fetches a picture from the web, as the notebooks of CS231n do to show their photos.

    Returns (h, w, 3) uint8. Many of COCO's addresses are dead by now: where nothing can be fetched,
    a warning says so and a grey picture is returned, so that a notebook runs on.
    """
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            content = answer.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise ValueError(f"more than {_LARGEST_FILE:,} bytes")
        with _opened(content) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # of the network, of HTTP, of the decoder
        warnings.warn(f"{url}: no picture ({error})", stacklevel=2)
        return np.full((64, 64, 3), 128, np.uint8)
