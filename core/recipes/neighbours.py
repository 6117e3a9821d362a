"""Which of a model's captions agrees best with what people said of similar pictures?

Beam search finds captions that a model holds probable; among them the most probable one is often
the blandest. What people said of the training pictures most like this one is evidence of another
kind: the caption that has the most in common with it is chosen. (After Devlin et al., "Exploring
nearest neighbor approaches for image captioning", arXiv:1505.04467, who choose among the
neighbours' captions themselves; here they are the model's.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.coco_utils import SPECIAL_WORDS, decode_captions
from core.decoding import beam_search
from core.metrics import CIDErD, ptb_tokenize
from core.metrics.caption_files import reference_captions
from core.recipes.ensemble import FeaturesOfEach

Array = np.ndarray

# Chosen on 'val' of Flickr8k.
WEIGHT = 2.0  # of the likeness, 0 to 10, beside the score of beam search
RIDGE = 0.2  # of the map from pictures to words, beside a variance of 1

_ROWS = 256  # of a table of features, which may not fit into memory, read at once


class Neighbours:
    """The training pictures, to be found by what is seen of them and said of them.

    Inputs:
    - data: from ``load_coco_data``; its training split
    - count: how many neighbours of a picture are heard; all, if there are fewer

    Raises ValueError when there are fewer than two training pictures, or count is below 1.
    """

    def __init__(self, data: Mapping, count: int = 16):
        if count < 1:
            raise ValueError(f"neighbours: found {count}, expected at least 1")
        texts, _ = reference_captions(data, "train")
        self.images, self.count = np.array(sorted(texts)), count
        self.idx_to_word = data["idx_to_word"]
        self.cider = CIDErD({i: list(map(ptb_tokenize, several)) for i, several in texts.items()})
        seen = _vectors(data["train_features"], self.images)
        self.mean = seen.mean(axis=0)
        seen -= self.mean
        said = words_said(data, self.images)
        self.map = ridge_regression(seen, said)
        self.seen, self.said = _normalised(seen), _normalised(said)

    def of(self, features: Array) -> Array:
        """The neighbours of pictures (N, ...): (N, K) training images, the most alike first.

        Likeness is the sum of two cosines: between what is seen of both, less the mean of the
        training pictures; and between the words that a linear map expects for the one and those
        that were said of the other. A grid counts as the mean of its locations.
        """
        seen = _vectors(features, np.arange(len(features))) - self.mean
        alike = _normalised(seen) @ self.seen.T + _normalised(seen @ self.map) @ self.said.T
        order = np.argsort(-alike, axis=1, kind="stable")
        return self.images[order[:, : self.count]]

    def search(self, model, features, beam_size: int, n_best: int = 1, **options):
        """As ``core.decoding.beam_search``, but all beams are ranked before the best are taken.

        An ensemble's images are found by what its first model sees of them.
        """
        found = beam_search(model, features, beam_size, n_best=beam_size, **options)
        seen = features.of_model[0] if isinstance(features, FeaturesOfEach) else features
        captions, scores = self.rank(seen, *found)
        return captions[:, :n_best], scores[:, :n_best]

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
            for k, words in zip(found, map(ptb_tokenize, texts), strict=True):
                scores[n, k] += WEIGHT * self.cider.mean_score(neighbours, words) / 100
            order = np.argsort(-scores[n], kind="stable")
            captions[n], scores[n] = captions[n, order], scores[n, order]
        return captions, scores


def words_said(data: Mapping, images: Array) -> Array:
    """Which words the captions of training images hold: (len(images), V) float32, of mean 0.

    A word counts the more, the more captions of the image have it (the root of their share), and
    the fewer images do (the logarithm of the inverse of their share).
    """
    captions, row_of = data["train_captions"], {image: n for n, image in enumerate(images.tolist())}
    said = np.zeros((len(images), len(data["idx_to_word"])), np.float32)
    total = np.zeros((len(images), 1), np.float32)
    for image, caption in zip(data["train_image_idxs"].tolist(), captions, strict=True):
        said[row_of[image], np.unique(caption)] += 1
        total[row_of[image]] += 1
    said[
        :, [data["word_to_idx"][word] for word in SPECIAL_WORDS if word in data["word_to_idx"]]
    ] = 0
    images_with = np.maximum(1, (said > 0).sum(axis=0))
    said = np.sqrt(said / total) * np.log(len(images) / images_with).astype(np.float32)
    return said - said.mean(axis=0)


def ridge_regression(x: Array, y: Array) -> Array:
    """The linear map (D, V) with the least squared error on rows x (n, D) -> y (n, V), kept small.

    Each entry pays for its square ``RIDGE`` times n times the mean square of x (Hoerl and Kennard
    1970): there may be fewer rows than columns.
    """
    price = RIDGE * len(x) * max(float(np.mean(x**2)), 1e-12)
    return np.linalg.solve(x.T @ x + price * np.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def _vectors(table, rows: Array) -> Array:
    """Those rows of a table of features (n, D), or the means of grids (n, L, D): (len(rows), D)."""
    blocks = [
        np.asarray(table[rows[start : start + _ROWS]], np.float32)
        for start in range(0, len(rows), _ROWS)
    ]
    return np.concatenate([x.mean(axis=1) if x.ndim == 3 else x for x in blocks])


def _normalised(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
