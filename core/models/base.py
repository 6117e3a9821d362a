"""What the captioning models have in common: vocabulary, checks, the loss around the forward pass.

A model adds its parameters, ``_forward`` and ``_backward``, and ``begin``, ``step``, ``select``
for ``core/decoding.py``. Builds on ``core/layers.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from core import decoding
from core.layers import (
    as_array,
    check_word_ids,
    dropout_forward,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
)

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
    tied = False  # whether words are scored with their own vectors
    grid = False  # whether it reads a grid of locations or one vector an image
    input_dim: int  # width of the features; each model sets it
    # Of the training loss alone; may be set at any time.
    label_smoothing = 0.0  # see ``temporal_softmax_loss``
    feature_dropout = 0.0  # probability to drop an entry of the features
    top_k: int | None = None  # for core/recipes/self_critical.py alone: skip it at first

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
        """With ``inputs ** -0.5`` as the scale an output varies as much as an input does."""
        return (scale * self.rng.standard_normal(shape)).astype(self.dtype)

    def _zeros(self, *shape: int) -> Array:
        return np.zeros(shape, self.dtype)

    # -- training -----------------------------------------------------------------------------

    def loss(
        self, features: Array, captions: Array, weights: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """The training loss of a batch, and the gradient of every parameter; with dropout.

        Inputs:
        - features: (N, D), or (N, L, C) for the models that read a grid
        - captions: (N, T + 1) word ids; each word but the last is read, each but the first is
          scored. Targets that are <NULL> do not count, wherever they stand.
        - weights: (N,) factor on the loss of each caption, may be negative; all 1 when None

        Returns:
        - loss: nats, summed over time and averaged over the batch
        - grads: the gradient of the loss for each entry of ``params``

        Raises ValueError for ids outside the vocabulary and for shapes that do not fit.
        """
        features, words, targets, mask = self._checked(features, captions)
        features, _ = dropout_forward(features, self.feature_dropout, self.rng)
        h, penalty, cache = self._forward(features, words, mask, self.rng)
        scores, score_cache = temporal_affine_forward(h, *self._vocabulary())
        if self.top_k is not None:  # the captions were drawn, from so many words at each place
            scores = decoding.without_undrawn(self, scores, targets, self.top_k)
        mask = mask if weights is None else mask * as_array(weights)[:, None]
        loss, dscores = temporal_softmax_loss(scores, targets, mask, smoothing=self.label_smoothing)

        dh, dW, db = temporal_affine_backward(dscores, score_cache)
        grads = self._backward(dh, cache)
        grads["b_vocab"] = db
        if self.tied:
            grads["W_embed"] += dW.T  # read at both ends
        else:
            grads["W_vocab"] = dW
        return loss + penalty, grads

    def evaluate(self, features: Array, captions: Array) -> float:
        """The cross-entropy of a batch, as in ``loss``, without dropout, penalty and gradients."""
        features, words, targets, mask = self._checked(features, captions)
        h, _, _ = self._forward(features, words, mask, rng=None)
        scores, _ = temporal_affine_forward(h, *self._vocabulary())
        return temporal_softmax_loss(scores, targets, mask)[0]

    def _forward(self, features: Array, words: Array, scored: Array, rng):
        """Reads ``words`` (N, T) and computes what scores the word after each of them.

        ``scored`` (N, T) says which of those count; only CaptioningAttention reads it, for its
        penalty. ``rng`` draws the dropout masks; None: nothing is dropped.

        Returns h (N, T, E), which the vocabulary's affine layer reads (E is the width of the state,
        of the words or of the model), a penalty that the loss adds (0: none), and the cache.
        """
        raise NotImplementedError

    def _backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        """Gradients of ``_forward``: of every parameter that it reads."""
        raise NotImplementedError

    def _vocabulary(self) -> tuple[Array, Array]:
        """(E, V) and (V,): what scores the words."""
        W = self.params["W_embed"].T if self.tied else self.params["W_vocab"]
        return W, self.params["b_vocab"]

    # -- checks -------------------------------------------------------------------------------

    def _checked(self, features: Array, captions: Array) -> tuple[Array, Array, Array, Array]:
        """features, words read (N, T), words scored (N, T), which of them count (N, T)."""
        features = self._checked_features(features)
        captions = as_array(captions)
        if captions.ndim != 2 or len(captions) != len(features) or captions.shape[1] < 2:
            raise ValueError(
                f"captions: found shape {captions.shape}, expected ({len(features)}, at least 2)"
            )
        check_word_ids(captions, len(self.word_to_idx), "captions")
        words, targets = captions[:, :-1], captions[:, 1:]
        if self.max_length is not None and words.shape[1] > self.max_length:
            raise ValueError(
                f"captions: found {words.shape[1]} words to read, but the model has "
                f"{self.max_length} positions; build it with a larger max_length"
            )
        return features, words, targets, targets != self.null

    def _checked_features(self, features: Array) -> Array:
        """(N, D), in the dtype of the model."""
        features = self._as_array(features)
        if features.ndim != 2 or features.shape[1] != self.input_dim:
            expected = f"(N, {self.input_dim})"
            raise ValueError(f"features: found shape {features.shape}, expected {expected}")
        return features

    def _as_array(self, features: Array) -> Array:
        return np.asarray(as_array(features), dtype=self.dtype)

    def needs_a_grid(self) -> list[str]:
        """Parameters whose gradient is 0 when the image has one location."""
        return []

    # -- sampling -----------------------------------------------------------------------------

    def sample(self, features: Array, max_length: int = 30) -> Array:
        """Captions by greedy decoding, never with dropout; see ``core.decoding.greedy``.

        The name is CS231n's: nothing is drawn. ``core.decoding.sample`` draws.

        Inputs:
        - features: as for ``loss``
        - max_length: number of words at most

        Returns (N, max_length) word ids; what follows <END> is <NULL>.
        """
        return decoding.greedy(self, features, max_length)


class CaptioningModelOnGrid(CaptioningModel):
    """A captioner that reads a grid of locations for each image."""

    grid = True

    def _checked_features(self, features: Array) -> Array:
        """(N, L, C); one vector an image, (N, C), becomes one location, and a warning."""
        features, width = self._as_array(features), self.input_dim
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
