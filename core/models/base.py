"""What the captioning models have in common: vocabulary, checks, the loss around the forward pass.

A model adds its parameters, ``_forward`` and ``_backward``, and ``begin``, ``step``, ``select``
for ``core/decoding.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from core import decoding
from core.rnn_layers import temporal_softmax_loss
from core.transformer_layers import dropout_forward

Array = np.ndarray


class CaptioningModel:
    """A captioner with gradients by hand.

    Inputs:
    - word_to_idx: word -> id; ``<NULL>`` (padding) must be in it. ``<START>`` and ``<END>`` are
      needed to sample, not to compute a loss.
    - dtype: of the parameters and of all computation
    - dropout: probability to drop an entry while training
    - rng: draws the parameters and the dropout masks; ``default_rng(0)`` when None
    - widths: sizes by name

    ``params`` maps names to arrays and is a plain dict; its entries may be replaced.

    Raises ValueError for a vocabulary without ``<NULL>``, a width below 1, and a dropout that is
    not in [0, 1).
    """

    max_length: int | None = None  # words that the model has positions for; None: any number
    grid = False  # whether it reads a grid of locations or one vector an image
    # Of the training loss alone; may be set at any time.
    label_smoothing = 0.0
    feature_dropout = 0.0  # probability to drop an entry of the features
    top_k: int | None = None  # the captions were drawn from so many words at each place

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        dtype,
        dropout: float,
        rng: np.random.Generator | None,
        **widths: int,
    ):
        if "<NULL>" not in word_to_idx:
            raise ValueError("word_to_idx: has no '<NULL>', the id that pads captions")
        for name, width in widths.items():
            if width < 1:
                raise ValueError(f"{name}: found {width}, expected at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: found {dropout}, expected a probability, 0 <= dropout < 1")
        self.word_to_idx = dict(word_to_idx)
        self.dtype = np.dtype(dtype)
        self.dropout = dropout
        self.rng = rng if rng is not None else np.random.default_rng(0)
        self.null = word_to_idx["<NULL>"]
        self.start = word_to_idx.get("<START>")
        self.end = word_to_idx.get("<END>")
        self.unknown = word_to_idx.get("<UNK>")
        self.params: dict[str, Array] = {}

    def _normal(self, *shape: int, scale: float) -> Array:
        return (scale * self.rng.standard_normal(shape)).astype(self.dtype)

    def _zeros(self, *shape: int) -> Array:
        return np.zeros(shape, self.dtype)

    # -- training -----------------------------------------------------------------------------

    def loss(
        self, features: Array, captions: Array, weights: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """The training loss of a batch, and the gradient of every parameter. Drops out.

        Inputs:
        - features: (N, D), or (N, L, C) for the models that read a grid
        - captions: (N, T + 1) word ids; each word but the last is read, each but the first is
          scored. Targets that are <NULL> do not count, wherever they stand.
        - weights: (N,) factors of the captions' losses, below 0 as well; all 1 when None

        Returns:
        - loss: nats, summed over time and averaged over the batch
        - grads: the gradient of the loss for each entry of ``params``

        Raises ValueError for ids outside the vocabulary and for shapes that do not fit.
        """
        features, words, targets, mask = self._checked(features, captions)
        if self.feature_dropout:
            features, _ = dropout_forward(features, self.feature_dropout, self.rng)
        scores, penalty, cache = self._forward(features, words, mask, train=True)
        if self.top_k is not None:
            scores = np.where(self._drawn_from(scores, targets), scores, -np.inf)
        counts = mask if weights is None else mask * np.asarray(weights)[:, None]
        loss, dscores = temporal_softmax_loss(
            scores, targets, counts, smoothing=self.label_smoothing
        )
        return loss + penalty, self._backward(dscores, cache)

    def _drawn_from(self, scores: Array, targets: Array) -> Array:
        """Of scores (N, T, V), those of the words that ``decoding.sample`` with top_k may draw.

        With all words in the loss, what is taken from a bad caption would go to words that are
        never drawn, and never punished.
        """
        never = decoding.never_said(self)
        scores = scores.copy()
        scores[..., never] = -np.inf
        worst = scores.shape[2] - min(self.top_k, scores.shape[2])  # that is kept, when sorted
        kept = scores >= np.partition(scores, worst)[..., worst, None]
        kept[..., never] = False  # where there are fewer than top_k others
        np.put_along_axis(kept, targets[..., None], True, axis=2)
        return kept

    def evaluate(self, features: Array, captions: Array) -> float:
        """The cross-entropy of a batch, as in ``loss``, without dropout, penalty and gradients."""
        features, words, targets, mask = self._checked(features, captions)
        scores, _, _ = self._forward(features, words, mask, train=False)
        return temporal_softmax_loss(scores, targets, mask)[0]

    def _forward(self, features: Array, words: Array, mask: Array, train: bool):
        """Scores (N, T, V) of the word after each of ``words`` (N, T), what else the loss counts
        (0 when nothing), and the cache. ``mask`` (N, T) says which scores count."""
        raise NotImplementedError

    def _backward(self, dscores: Array, cache: tuple) -> dict[str, Array]:
        """Undoes ``_forward``; returns the gradient of every parameter."""
        raise NotImplementedError

    # -- checks -------------------------------------------------------------------------------

    def _checked(self, features: Array, captions: Array) -> tuple[Array, Array, Array, Array]:
        """features, words read (N, T), words scored (N, T), which of them count (N, T)."""
        features = self._checked_features(features)
        captions = np.asarray(captions)
        if captions.ndim != 2 or len(captions) != len(features) or captions.shape[1] < 2:
            raise ValueError(
                f"captions: found shape {captions.shape}, expected ({len(features)}, at least 2)"
            )
        words, targets = captions[:, :-1], captions[:, 1:]
        if self.max_length is not None and words.shape[1] > self.max_length:
            raise ValueError(
                f"captions: found {words.shape[1]} words to read, but the model has "
                f"{self.max_length} positions; build it with a larger max_length"
            )
        return features, words, targets, targets != self.null

    def _checked_features(self, features: Array) -> Array:
        """(N, D) for a model of one vector an image; (N, L, C) for one of a grid."""
        features = self._as_array(features)
        width = self.input_dim
        if not self.grid:
            if features.ndim != 2 or features.shape[1] != width:
                raise ValueError(f"features: found shape {features.shape}, expected (N, {width})")
            return features
        if features.ndim == 2:
            features = features[:, None]
        if features.ndim != 3 or features.shape[2] != width or features.shape[1] == 0:
            raise ValueError(
                f"features: found shape {features.shape}, expected (N, L, {width}) or (N, {width})"
            )
        if features.shape[1] == 1:
            warnings.warn(
                "the features are one location an image: attention has no choice there, its weight "
                f"is always 1, and these parameters cannot learn: {', '.join(self.needs_a_grid())}",
                stacklevel=2,
            )
        return features

    def _as_array(self, features: Array) -> Array:
        return np.asarray(features, dtype=self.dtype)

    def needs_a_grid(self) -> list[str]:
        """Parameters whose gradient is 0 when the image has one location."""
        return []

    # -- sampling -----------------------------------------------------------------------------

    def sample(self, features: Array, max_length: int = 30) -> Array:
        """Captions by greedy decoding, never with dropout; see ``core.decoding.greedy``.

        Inputs:
        - features: as for ``loss``
        - max_length: number of words at most

        Returns (N, max_length) word ids; what follows <END> is <NULL>.
        """
        return decoding.greedy(self, features, max_length)


# ---------------------------------------------------------------------------------------------
# Images that several rows share, while decoding
# ---------------------------------------------------------------------------------------------


class Images:
    """What a decoder keeps of each image, and which row is about which image.

    The beams of an image share its arrays: selecting rows copies nothing as long as every image is
    still asked for.

    - arrays: each (number of images, ...)
    - of_row: (rows,) the image of each row
    """

    def __init__(self, arrays: Sequence[Array], of_row: Array | None = None):
        self.arrays = tuple(arrays)
        self.of_row = np.arange(len(self.arrays[0])) if of_row is None else of_row

    def select(self, rows: Array) -> Images:
        """For the given rows; images that none of them is about are dropped."""
        kept, of_row = np.unique(self.of_row[rows], return_inverse=True)
        arrays = self.arrays
        if len(kept) < len(arrays[0]):
            arrays = [array[kept] for array in arrays]
        return Images(arrays, of_row)

    def grouped(self) -> tuple[tuple[Array, ...], int]:
        """The arrays with one entry for every ``size`` rows in a row, and that size.

        Rows (G * size, ...) reshaped to (G, size, ...) stand beside arrays of G entries. With the
        same number of neighbouring rows for each image nothing is copied.
        """
        starts = np.flatnonzero(np.diff(self.of_row, prepend=-1))
        size = len(self.of_row) // max(1, len(starts))
        which = self.of_row[::size] if size else self.of_row
        if not np.array_equal(self.of_row, np.repeat(which, size)):
            which, size = self.of_row, 1
        if np.array_equal(which, np.arange(len(self.arrays[0]))):
            return self.arrays, size
        return tuple(array[which] for array in self.arrays), size
