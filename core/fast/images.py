"""Images that several rows are about, while captions are searched.

Speeds up ``select`` and ``step`` of CaptioningAttention and CaptioningTransformer. There each row
has the features of its image, and ``select`` copies them; here the beams of an image share them.
What that gives a beam search is in docs/speed.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


class SharedImages:
    """What a decoder keeps of each image, and which row is about which image.

    The beams of an image share its arrays: selecting rows copies nothing as long as every image is
    still asked for.

    - arrays: each (number of images, ...)
    - of_row: (rows,) the image of each row
    """

    def __init__(self, arrays: Sequence[Array], of_row: Array | None = None):
        self.arrays = tuple(arrays)
        self.of_row = np.arange(len(self.arrays[0])) if of_row is None else of_row

    def select(self, rows: Array) -> SharedImages:
        """For the given rows; images that none of them is about are dropped."""
        kept, of_row = np.unique(self.of_row[rows], return_inverse=True)
        arrays = self.arrays
        if len(kept) < len(arrays[0]):
            arrays = [array[kept] for array in arrays]
        return SharedImages(arrays, of_row)

    def grouped(self) -> tuple[Array, ...]:
        """The arrays with G entries, each for the same number of neighbouring rows.

        Rows (N, ...) reshaped to (G, N / G, ...) stand beside them. Where each image has as many
        neighbouring rows, nothing is copied; else G is N.
        """
        starts = np.flatnonzero(np.diff(self.of_row, prepend=-1))
        size = len(self.of_row) // max(1, len(starts))
        images = self.of_row[::size] if size else self.of_row
        if not np.array_equal(self.of_row, np.repeat(images, size)):
            images = self.of_row
        if np.array_equal(images, np.arange(len(self.arrays[0]))):
            return self.arrays
        return tuple(array[images] for array in self.arrays)
