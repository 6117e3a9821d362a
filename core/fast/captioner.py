"""``CaptioningModel.loss`` of ``core/models/base.py``, made fast: what all fast twins share.

* Padding is left out, and words are scored only where the loss looks (``core/fast/packing.py``).
* A batch is cut into parts where that pays, each on a thread of its own (``core/fast/threads.py``):
  what NumPy does on one core, it then does on several.
* The loss has one buffer, and the gradient of the word vectors is summed word by word.

A whole step gets 1.06 to 1.23 times as fast without padding; in parts 1.37 (transformer), 1.09
(attention), 1.00 (lstm) and 0.94 (rnn) times, against products on all cores, which suffer far more
beside another process (docs/speed.md).

A twin adds ``_packed_forward`` and ``_packed_backward``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core import decoding
from core.fast.packing import Packing, lengths_of
from core.fast.threads import in_parallel, number_of_threads, products_on
from core.layers import (
    affine_backward,
    affine_forward,
    check_word_ids,
    dropout_backward,
    dropout_forward,
    log_softmax,
    word_embedding_forward,
)

Array = np.ndarray

# Captions times parameters of a batch that more than one thread is worth.
_WORTH_THREADS = 25_000_000


class FastCaptioner:
    """Comes before a model of ``core/models`` among the bases of its twin.

    The twin has the parameters, the arguments and the decoding of that model, and the same loss and
    gradients but for rounding. What is dropped out is drawn in another order.
    """

    # Rows that a part must have at least, and on average at most (None: any number), where a batch
    # is worth several threads. By batch and model alone, not by the number of cores: what is
    # dropped out depends on the parts, and a run should be the same elsewhere.
    rows_of_a_part: tuple[int, int | None] = 32, None

    def loss(
        self, features: Array, captions: Array, weights: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """As ``CaptioningModel.loss``."""
        features, words, targets, mask = self._checked(features, captions)
        N = len(words)
        weights = np.full(N, 1 / N) if weights is None else np.asarray(weights) / N
        parts = self._parts(lengths_of(mask))
        seeds = self.rng.integers(2**62, size=len(parts))
        rngs = [np.random.default_rng(seed) for seed in seeds]  # threads must not share one

        def loss_of(part: int):
            rows = parts[part]
            of_part = (x[rows] for x in (features, words, targets, mask, weights))
            return self._loss_of_part(*of_part, len(rows) / N, rngs[part])

        losses, grads = zip(*self._of_parts(loss_of, len(parts), N), strict=True)
        return sum(losses), _sums(grads)

    def threads_for(self, rows: int) -> int:
        """How many threads a batch of so many captions is worth."""
        return number_of_threads() if self._is_large(rows) else 1

    def _is_large(self, rows: int) -> bool:
        return rows * sum(w.size for w in self.params.values()) >= _WORTH_THREADS

    def _parts(self, lengths: Array) -> list[Array]:
        """The rows of a batch, cut up: the same work each, like with like.

        Rows of much the same length leave little padding to a part, but products of few rows are
        slow.
        """
        N, (fewest, most) = len(lengths), self.rows_of_a_part
        count = min(2, N // fewest) if self._is_large(N) else 1
        if most is not None:
            count = max(count, N // most)
        if count < 2:
            return [np.arange(N)]
        order = np.argsort(-lengths, kind="stable")
        done = np.cumsum(lengths[order] + 1)
        parts = np.split(order, np.searchsorted(done, done[-1] * np.arange(1, count) / count))
        return [part for part in parts if len(part)]

    def _of_parts(self, function, count: int, rows: int) -> list:
        """What a function finds of each part of a batch, on as many threads as that is worth."""
        if count > 1:
            return in_parallel(function, range(count))
        with products_on(self.threads_for(rows)):
            return [function(0)]

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
        features, _ = dropout_forward(features, self.feature_dropout, rng)
        lengths = lengths_of(mask)
        longest = max(1, lengths.max(initial=0))
        words, targets, mask = words[:, :longest], targets[:, :longest], mask[:, :longest]
        packing = Packing(lengths, longest)
        h, penalty, cache = self._packed_forward(features, words, mask, packing, share, rng)

        # Scores are the widest arrays of a step: only those that count are made.
        scored, targets = _scored(mask, targets, packing)
        weights = weights[packing.rows][scored].astype(self.dtype)
        scores, score_cache = affine_forward(h[scored], *self._vocabulary())
        if self.top_k is not None:
            scores = decoding.without_undrawn(self, scores, targets, self.top_k)
        loss, dscores = softmax_loss(scores, targets, weights, self.label_smoothing)
        dscored, dW, db = affine_backward(dscores, score_cache)
        dh = dscored
        if len(dscored) < len(h):
            dh = np.zeros_like(h)
            dh[scored] = dscored
        grads = self._packed_backward(dh, cache)
        grads["b_vocab"] = db
        if self.tied:
            grads["W_embed"] += dW.T
        else:
            grads["W_vocab"] = dW
        return loss + penalty, grads

    def evaluate(self, features: Array, captions: Array) -> float:
        """As ``CaptioningModel.evaluate``."""
        features, words, targets, mask = self._checked(features, captions)
        parts = self._parts(lengths_of(mask))

        def loss_of(part: int):
            rows = parts[part]
            of_part = (x[rows] for x in (features, words, targets, mask))
            return self._cross_entropy(*of_part)

        return sum(self._of_parts(loss_of, len(parts), len(words))) / len(words)

    def _cross_entropy(self, features: Array, words: Array, targets: Array, mask: Array) -> float:
        """Of some rows, summed."""
        packing = Packing(lengths_of(mask), mask.shape[1])
        h, _, _ = self._packed_forward(features, words, mask, packing, share=1, rng=None)
        scored, targets = _scored(mask, targets, packing)
        scores, _ = affine_forward(h[scored], *self._vocabulary())
        return -log_softmax(scores)[np.arange(len(targets)), targets].sum()

    def _packed_forward(
        self,
        features: Array,
        words: Array,
        mask: Array,
        packing: Packing,
        share: float,
        rng: np.random.Generator | None,
    ):
        """As ``CaptioningModel._forward``, but h (M, E) has the entries that the packing keeps.

        ``share`` says how much of a batch the rows are, for a loss that is a mean over them.
        """
        raise NotImplementedError

    def _packed_backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        """Gradients of ``_packed_forward``: of every parameter that it reads."""
        raise NotImplementedError

    def _word_vectors(self, words: Array, rng: np.random.Generator | None):
        """(M,) ids -> vectors (M, W), dropped out, and the cache."""
        vectors, _ = word_embedding_forward(words, self.params["W_embed"])
        vectors, drop_cache = dropout_forward(vectors, self.dropout, rng, rng is not None)
        return vectors, (words, drop_cache)

    def _word_vectors_backward(self, dvectors: Array, cache: tuple) -> Array:
        """Gradient of ``_word_vectors``: (M, W) -> that of W_embed (V, W)."""
        words, drop_cache = cache
        return sums_by_word(dropout_backward(dvectors, drop_cache), words, len(self.word_to_idx))


def _sums(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """The gradients of all parts together, in the arrays of the first."""
    total, *others = parts

    def add(name: str) -> None:
        for part in others:
            total[name] += part[name]

    in_parallel(add, list(total) if others else [])
    return total


def _scored(mask: Array, targets: Array, packing: Packing) -> tuple[Array | slice, Array]:
    """Which of the entries of the packing are scored, and the right words there."""
    mask, targets = packing.pack(mask), packing.pack(targets)
    scored = slice(None) if mask.all() else np.flatnonzero(mask)
    return scored, targets[scored]


def sums_by_word(dvectors: Array, words: Array, vocabulary_size: int) -> Array:
    """``word_embedding_backward`` of dvectors (M, W) and words (M,): the rows of a word at once."""
    out = np.zeros((vocabulary_size, dvectors.shape[1]), dtype=dvectors.dtype)
    order = np.argsort(words, kind="stable")
    ids = words[order]
    starts = np.flatnonzero(np.diff(ids, prepend=-1))  # where another word begins
    stops = np.flatnonzero(np.diff(ids, append=-1)) + 1
    once = stops - starts == 1
    out[ids[starts[once]]] = dvectors[order[starts[once]]]
    for start, stop in zip(starts[~once], stops[~once], strict=True):
        np.add.reduce(dvectors[order[start:stop]], axis=0, out=out[ids[start]])
    return out


def softmax_loss(scores: Array, y: Array, weights: Array, smoothing: float = 0.0):
    """``temporal_softmax_loss`` of the places that count: scores (M, V), y (M,), weights (M,).

    One buffer holds in turn all of the arrays (M, V), the largest of a training step.
    """
    M, V = scores.shape
    check_word_ids(y, V, "y")
    right = np.arange(M), y
    shifted = scores - scores.max(axis=1, keepdims=True)
    expected = (1 - smoothing) * shifted[right]
    if smoothing:
        expected += smoothing * shifted.mean(axis=1)
    probabilities = np.exp(shifted, out=shifted)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    expected -= np.log(total[:, 0])
    loss = scores.dtype.type(-np.sum(weights * expected))

    dscores = probabilities
    if smoothing:
        dscores -= smoothing / V
    dscores[right] -= 1 - smoothing
    dscores *= weights[:, None]
    return loss, dscores
