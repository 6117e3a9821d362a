"""A photo file as an array: load it upright in RGB, resize, crop, normalise."""

from __future__ import annotations

import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray

LARGEST = 4096  # pixels of the longer side that are kept of a picture
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def load_image(path: str | Path, largest: int = LARGEST) -> Array:
    """Loads a picture as (height, width, 3) uint8 RGB, turned upright as its EXIF data say.

    Whatever Pillow reads, of animations the first frame: grey, palette and CMYK become RGB, what is
    transparent lies on white, 16 bits and floats become 8.

    Inputs:
    - path: of the picture
    - largest: a longer side is brought down to this many pixels; of JPEG no more is decoded than
      that needs

    Raises FileNotFoundError, or ValueError when the file is no picture that can be read whole, or
    has so many pixels that Pillow refuses it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        with Image.open(path) as image:
            image.draft("RGB", (largest, largest))  # for JPEG; decodes at 1/2, 1/4 or 1/8
            image.load()
            picture = _as_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow raises what its decoders raise, struct.error included
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
    if max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def list_pictures(folder: str | Path) -> list[Path]:
    """The picture files of a folder, by name.

    Raises FileNotFoundError when there is no such folder, ValueError when it holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--images {folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"--images {folder}: holds no pictures ({', '.join(sorted(_SUFFIXES))})")
    return paths


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
        with urllib.request.urlopen(url, timeout=10) as answer, Image.open(answer) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # of the network, of HTTP, of the decoder
        warnings.warn(f"{url}: no picture ({error})", stacklevel=2)
        return np.full((64, 64, 3), 128, np.uint8)
