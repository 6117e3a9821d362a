"""What the captioning models have in common: vocabulary, checks, the loss around the forward pass.

A model adds its parameters, ``_forward`` and ``_backward``, and ``begin``, ``step``, ``select``
for ``core/decoding.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from core import decoding
from core.packing import Packing, lengths_of
from core.parallel import in_parallel
from core.rnn_layers import (
    affine_backward,
    affine_forward,
    check_word_ids,
    log_softmax,
    softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from core.transformer_layers import dropout_backward, dropout_forward

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

    ``params`` maps names to arrays and is a plain dict; its entries may be replaced. The solver
    writes into arrays of its own that it puts there: copy what you want to keep of a training.

    Raises ValueError for a vocabulary without ``<NULL>``, a width below 1, and a dropout that is
    not in [0, 1).
    """

    max_length: int | None = None  # words that the model has positions for; None: any number
    thread_safe = True  # while it is not trained, threads may use it at once
    tied = False  # whether words are scored with their own vectors
    # A batch is cut up, for several threads and to put captions of one length together: in two
    # when each part has the first number of rows; and in parts that have the second on average,
    # where that is worth more than wide products. Never by the number of cores: what is dropped
    # out depends on the parts, and a run should be the same elsewhere.
    rows_of_a_part = 32, None
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
        N = len(words)
        weights = np.full(N, 1 / N) if weights is None else np.asarray(weights) / N
        parts = self._parts(lengths_of(mask))
        if len(parts) == 1:
            return self._loss_of_part(features, words, targets, mask, weights, 1.0, self.rng)
        seeds = self.rng.integers(2**62, size=len(parts))
        rngs = [np.random.default_rng(seed) for seed in seeds]  # threads must not share one

        def loss_of(part: int):
            rows = parts[part]
            of_part = (x[rows] for x in (features, words, targets, mask, weights))
            return self._loss_of_part(*of_part, len(rows) / N, rngs[part])

        losses, grads = zip(*in_parallel(loss_of, range(len(parts))), strict=True)
        return sum(losses), _sums(grads)

    def _parts(self, lengths: Array) -> list[Array]:
        """The rows of a batch, cut up for several threads: the same work each, like with like.

        Rows of much the same length leave little padding to a part, but products of few rows are
        slow.
        """
        N, (fewest, most) = len(lengths), self.rows_of_a_part
        count = min(2, N // fewest)
        if most is not None:
            count = max(count, N // most)
        if count < 2:
            return [np.arange(N)]
        order = np.argsort(-lengths, kind="stable")
        done = np.cumsum(lengths[order] + 1)
        parts = np.split(order, np.searchsorted(done, done[-1] * np.arange(1, count) / count))
        return [part for part in parts if len(part)]

    def _loss_of_part(
        self,
        features: Array,
        words: Array,
        targets: Array,
        mask: Array,
        weights: Array,
        share: float,
        rng: np.random.Generator,
    ) -> tuple[float, dict[str, Array]]:
        """What some rows add to loss and gradients; ``share`` of the batch is theirs."""
        if self.feature_dropout:
            features, _ = dropout_forward(features, self.feature_dropout, rng)
        lengths = lengths_of(mask)
        longest = max(1, lengths.max(initial=0))
        words, targets, mask = words[:, :longest], targets[:, :longest], mask[:, :longest]
        packing = Packing(lengths, longest)
        h, penalty, cache = self._forward(features, words, mask, packing, share, rng)

        # Scores are the widest arrays of a step: only those that count are made.
        counted, targets = _counted(mask, targets, packing)
        weights = weights[packing.rows][counted]
        scores, score_cache = affine_forward(h[counted], *self._vocabulary())
        if self.top_k is not None:
            np.copyto(scores, -np.inf, where=~self._drawn_from(scores, targets))
        loss, dscores = softmax_loss(
            scores, targets, weights.astype(self.dtype), self.label_smoothing
        )
        # scores = h[counted] @ vocabulary + b_vocab
        dcounted, dvocabulary, db = affine_backward(dscores, score_cache)
        dh = dcounted
        if len(dcounted) < len(h):
            dh = np.zeros_like(h)
            dh[counted] = dcounted
        grads = self._backward(dh, cache)
        grads["b_vocab"] = db
        if self.tied:
            grads["W_embed"] += dvocabulary.T  # read at both ends
        else:
            grads["W_vocab"] = dvocabulary
        return loss + penalty, grads

    def _vocabulary(self) -> tuple[Array, Array]:
        """(E, V) and (V,): what scores the words."""
        W = self.params["W_embed"].T if self.tied else self.params["W_vocab"]
        return W, self.params["b_vocab"]

    def _drawn_from(self, scores: Array, targets: Array) -> Array:
        """Of scores (M, V), those of the words that ``decoding.sample`` with top_k may draw.

        With all words in the loss, what is taken from a bad caption would go to words that are
        never drawn, and never punished.
        """
        never = decoding.never_said(self)
        scores = scores.copy()
        scores[:, never] = -np.inf
        worst = scores.shape[1] - min(self.top_k, scores.shape[1])  # that is kept, when sorted
        kept = scores >= np.partition(scores, worst)[:, worst, None]
        kept[:, never] = False  # where there are fewer than top_k others
        np.put_along_axis(kept, targets[:, None], True, axis=1)
        return kept

    def evaluate(self, features: Array, captions: Array) -> float:
        """The cross-entropy of a batch, as in ``loss``, without dropout, penalty and gradients."""
        features, words, targets, mask = self._checked(features, captions)
        packing = Packing(lengths_of(mask), mask.shape[1])
        h, _, _ = self._forward(features, words, mask, packing, 1, rng=None)
        counted, targets = _counted(mask, targets, packing)
        scores, _ = affine_forward(h[counted], *self._vocabulary())
        right = log_softmax(scores)[np.arange(len(targets)), targets]
        return -right.sum() / len(words)

    def _forward(
        self,
        features: Array,
        words: Array,
        mask: Array,
        packing: Packing,
        share: float,
        rng: np.random.Generator | None,
    ):
        """Reads ``words`` (N, T); what scores the next one, after each that the packing keeps.

        ``mask`` (N, T) says which scores count, ``share`` how much of a batch the rows are, for a
        loss that is a mean over them. ``rng`` drops out; None: nothing is dropped.

        Returns h (M, E), what else the loss counts (0 when nothing), and the cache.
        """
        raise NotImplementedError

    def _backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        """Undoes ``_forward``; returns the gradient of every parameter that it reads."""
        raise NotImplementedError

    def _word_vectors(self, words: Array, rng: np.random.Generator | None):
        """The vectors of ``words`` (M,), each different one once where nothing is dropped out.

        Captions repeat few words: a product of these rows costs a fraction of one of all.

        Returns vectors (U, W), the row (M,) that each word reads, and the cache.
        """
        if rng is not None and self.dropout:
            which = np.arange(len(words))  # every use of a word is dropped out by itself
        else:
            words, which = np.unique(words, return_inverse=True)
        vectors, word_cache = word_embedding_forward(words, self.params["W_embed"])
        vectors, drop_cache = dropout_forward(vectors, self.dropout, rng, rng is not None)
        return vectors, which, (word_cache, drop_cache)

    def _word_vectors_backward(self, dvectors: Array, cache: tuple) -> Array:
        """Undoes ``_word_vectors``: (U, W) -> the gradient of W_embed."""
        word_cache, drop_cache = cache
        return word_embedding_backward(dropout_backward(dvectors, drop_cache), word_cache)

    # -- checks -------------------------------------------------------------------------------

    def _checked(self, features: Array, captions: Array) -> tuple[Array, Array, Array, Array]:
        """features, words read (N, T), words scored (N, T), which of them count (N, T)."""
        features = self._checked_features(features)
        captions = np.asarray(captions)
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


def _sums(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """The gradients of all parts together, in the arrays of the first."""
    total, *others = parts

    def add(name: str) -> None:
        for part in others:
            total[name] += part[name]

    in_parallel(add, list(total))
    return total


def _counted(mask: Array, targets: Array, packing: Packing) -> tuple[Array | slice, Array]:
    """Which of the entries of the packing are scored, and the right words there."""
    mask, targets = packing.pack(mask), packing.pack(targets)
    counted = slice(None) if mask.all() else np.flatnonzero(mask)
    return counted, targets[counted]


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
