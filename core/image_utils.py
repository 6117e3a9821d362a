"""A photo file as an array: load it upright in RGB, resize, crop, normalise."""

from __future__ import annotations

import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray


def load_image(path: str | Path) -> Array:
    """Loads a picture as (height, width, 3) uint8 RGB, turned upright as its EXIF data say.

    Raises FileNotFoundError, or ValueError when the file is no picture that can be read whole.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow raises what its decoders raise, struct.error included
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error


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
