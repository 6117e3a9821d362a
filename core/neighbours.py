"""Which of a model's captions would people agree with, who described pictures like this one?

Beam search finds captions that a model holds probable; among them the most probable one is often
the blandest. What people said of the training pictures most like this one is evidence of another
kind: the caption that has the most in common with it is chosen. (After Devlin et al., "Exploring
nearest neighbor approaches for image captioning", arXiv:1505.04467, who choose among the
neighbours' captions themselves; here they are the model's.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.caption_files import reference_captions
from core.coco_utils import decode_captions
from core.metrics import CIDErD, tokenize

Array = np.ndarray

WEIGHT = 4.0  # of the likeness, 0 to 10, beside a caption's log-probability a word; chosen on 'val'
_ROWS = 256  # of a table of features, which may not fit into memory, read at once


class Neighbours:
    """The training pictures, to be found by what the model sees of them, and their captions.

    Inputs:
    - data: from ``load_coco_data``; its training split
    - count: how many neighbours of a picture are heard; all, if there are fewer

    Raises ValueError when there are fewer than two training pictures, or count is below 1.
    """

    def __init__(self, data: Mapping, count: int = 50):
        if count < 1:
            raise ValueError(f"neighbours: found {count}, expected at least 1")
        texts, _ = reference_captions(data, "train")
        self.images, self.count = np.array(sorted(texts)), count
        self.idx_to_word = data["idx_to_word"]
        self.cider = CIDErD({i: list(map(tokenize, several)) for i, several in texts.items()})
        vectors = _vectors(data["train_features"], self.images)
        self.mean = vectors.mean(axis=0)
        self.directions = _normalised(vectors - self.mean)

    def of(self, features: Array) -> Array:
        """The neighbours of pictures (N, ...): (N, K) training images, the most alike first.

        Alike is what has a small angle to it, seen from the mean of the training pictures; of a
        grid, the mean of its locations.
        """
        alike = _normalised(_vectors(features, np.arange(len(features))) - self.mean)
        order = np.argsort(-(alike @ self.directions.T), axis=1, kind="stable")
        return self.images[order[:, : self.count]]

    def rank(self, features: Array, captions: Array, scores: Array) -> tuple[Array, Array]:
        """Captions of pictures in another order: those first that the neighbours' are most like.

        Inputs:
        - features: (N, ...) one picture a row
        - captions, scores: (N, n, T) word ids and (N, n), as ``core.decoding.beam_search`` returns
          them

        Returns the same captions, best first, and their new scores: to the old one comes the mean
        CIDEr-D against all captions of each neighbour, 0 to 10, times ``WEIGHT``.
        """
        captions, scores = captions.copy(), scores.copy()
        for n, neighbours in enumerate(self.of(features).tolist()):
            found = np.flatnonzero(np.isfinite(scores[n]))
            texts = decode_captions(captions[n, found], self.idx_to_word)
            for k, words in zip(found, map(tokenize, texts), strict=True):
                heard = [self.cider.score(image, words) for image in neighbours]
                scores[n, k] += WEIGHT * np.mean(heard) / 100
            order = np.argsort(-scores[n], kind="stable")
            captions[n], scores[n] = captions[n, order], scores[n, order]
        return captions, scores


def _vectors(table, rows: Array) -> Array:
    """Those rows of a table of features (n, D), or the means of grids (n, L, D): (len(rows), D)."""
    blocks = [
        np.asarray(table[rows[start : start + _ROWS]], np.float32)
        for start in range(0, len(rows), _ROWS)
    ]
    return np.concatenate([x.mean(axis=1) if x.ndim == 3 else x for x in blocks])


def _normalised(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
