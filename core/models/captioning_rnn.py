"""A captioner with a recurrent decoder: vanilla RNN or LSTM over one feature vector per image.

The image sets the first hidden state; each step reads the word before and scores the next one: the
"init-inject" model of Tanti, Gatt and Camilleri (Natural Language Engineering, 2018), and that of
Stanford's course CS231n. ("Show and Tell", CVPR 2015, feeds the image as a first word instead.)
Builds on the layers of ``core/rnn_layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core import decoding
from core.rnn_layers import (
    affine_backward,
    affine_forward,
    log_softmax,
    lstm_backward,
    lstm_forward,
    lstm_step_forward,
    rnn_backward,
    rnn_forward,
    rnn_step_forward,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from core.transformer_layers import dropout_backward, dropout_forward

Array = np.ndarray


class CaptioningRNN:
    """Scores captions given image features, with gradients by hand.

    ::

        h0     = features W_proj + b_proj
        words  = dropout(W_embed[captions before the last])          (N, T, W)
        h      = rnn or lstm (words, h0; Wx, Wh, b)                  (N, T, H)
        scores = dropout(h) W_vocab + b_vocab                        (N, T, V)

    Inputs:
    - word_to_idx: word -> id; ``<NULL>`` (padding) must be in it. ``<START>`` and ``<END>`` are
      needed to sample, not to compute a loss.
    - input_dim: D, width of the features
    - wordvec_dim: W, width of the word vectors
    - hidden_dim: H, width of the hidden state
    - cell_type: 'rnn' or 'lstm'
    - dtype: of the parameters and of all computation
    - rng: draws the parameters and the dropout masks; ``default_rng(0)`` when None
    - dropout: probability to drop an entry of the word vectors and of the hidden states below the
      scores, while training (Zaremba et al. 2014: not between the steps)

    ``params`` maps names to arrays and is a plain dict; its entries may be replaced.

    Raises ValueError for another cell_type, a vocabulary without ``<NULL>``, or a bad width.
    """

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int = 512,
        wordvec_dim: int = 128,
        hidden_dim: int = 128,
        cell_type: str = "rnn",
        dtype=np.float32,
        rng: np.random.Generator | None = None,
        dropout: float = 0.0,
    ):
        if cell_type not in ("rnn", "lstm"):
            raise ValueError(f"cell_type: found {cell_type!r}, expected 'rnn' or 'lstm'")
        if "<NULL>" not in word_to_idx:
            raise ValueError("word_to_idx: has no '<NULL>', the id that pads captions")
        for name, width in (
            ("input_dim", input_dim), ("wordvec_dim", wordvec_dim), ("hidden_dim", hidden_dim)
        ):  # fmt: skip
            if width < 1:
                raise ValueError(f"{name}: found {width}, expected at least 1")
        self.cell_type = cell_type
        self.word_to_idx = dict(word_to_idx)
        self.dtype = np.dtype(dtype)
        self.dropout = dropout
        self.rng = rng if rng is not None else np.random.default_rng(0)
        self.null = word_to_idx["<NULL>"]
        self.start = word_to_idx.get("<START>")
        self.end = word_to_idx.get("<END>")
        self.unknown = word_to_idx.get("<UNK>")

        D, W, H, V = input_dim, wordvec_dim, hidden_dim, len(word_to_idx)
        blocks = {"rnn": 1, "lstm": 4}[cell_type]
        self.params = {
            "W_proj": self._normal(D, H, scale=D**-0.5),
            "b_proj": np.zeros(H, self.dtype),
            "W_embed": self._normal(V, W, scale=0.1),
            "Wx": self._normal(W, blocks * H, scale=W**-0.5),
            "Wh": self._normal(H, blocks * H, scale=H**-0.5),
            "b": np.zeros(blocks * H, self.dtype),
            "W_vocab": self._normal(H, V, scale=H**-0.5),
            "b_vocab": np.zeros(V, self.dtype),
        }
        if cell_type == "lstm":
            # Forget gates start open, so that the gradient lives from the first step on
            # (Jozefowicz, Zaremba and Sutskever, ICML 2015).
            self.params["b"][H : 2 * H] = 1

    def _normal(self, rows: int, columns: int, scale: float) -> Array:
        return (scale * self.rng.standard_normal((rows, columns))).astype(self.dtype)

    def loss(self, features: Array, captions: Array) -> tuple[float, dict[str, Array]]:
        """The training loss of a batch, and the gradient of every parameter. Drops out.

        Inputs:
        - features: (N, D)
        - captions: (N, T + 1) word ids; each word but the last is read, each but the first is
          scored. Targets that are <NULL> do not count, wherever they stand.

        Returns:
        - loss: nats, summed over time and averaged over the batch
        - grads: the gradient of the loss for each entry of ``params``

        Raises ValueError for ids outside the vocabulary and for shapes that do not fit.
        """
        loss, dscores, caches = self._forward(features, captions, train=True)
        word_cache, word_drop, affine_cache, sequence_cache, h_drop, score_cache = caches
        sequence_backward = {"rnn": rnn_backward, "lstm": lstm_backward}[self.cell_type]
        grads = {}
        # scores = dropout(h) @ W_vocab + b_vocab
        dh, grads["W_vocab"], grads["b_vocab"] = temporal_affine_backward(dscores, score_cache)
        dh = dropout_backward(dh, h_drop)
        # h = rnn or lstm (words, h0)
        dwords, dh0, grads["Wx"], grads["Wh"], grads["b"] = sequence_backward(dh, sequence_cache)
        # words = dropout(W_embed[captions])
        grads["W_embed"] = word_embedding_backward(dropout_backward(dwords, word_drop), word_cache)
        # h0 = features @ W_proj + b_proj
        _, grads["W_proj"], grads["b_proj"] = affine_backward(dh0, affine_cache)
        return loss, grads

    def evaluate(self, features: Array, captions: Array) -> float:
        """The loss of a batch as ``loss`` defines it, without dropout and the backward pass."""
        return self._forward(features, captions, train=False)[0]

    def _forward(self, features: Array, captions: Array, train: bool):
        p = self.params
        features = self._checked_features(features)
        captions = np.asarray(captions)
        if captions.ndim != 2 or len(captions) != len(features) or captions.shape[1] < 2:
            raise ValueError(
                f"captions: found shape {captions.shape}, expected ({len(features)}, at least 2)"
            )
        sequence_forward = {"rnn": rnn_forward, "lstm": lstm_forward}[self.cell_type]
        captions_in, captions_out = captions[:, :-1], captions[:, 1:]

        h0, affine_cache = affine_forward(features, p["W_proj"], p["b_proj"])
        words, word_cache = word_embedding_forward(captions_in, p["W_embed"])
        words, word_drop = dropout_forward(words, self.dropout, self.rng, train)
        h, sequence_cache = sequence_forward(words, h0, p["Wx"], p["Wh"], p["b"])
        h, h_drop = dropout_forward(h, self.dropout, self.rng, train)
        scores, score_cache = temporal_affine_forward(h, p["W_vocab"], p["b_vocab"])
        loss, dscores = temporal_softmax_loss(scores, captions_out, captions_out != self.null)
        caches = (word_cache, word_drop, affine_cache, sequence_cache, h_drop, score_cache)
        return loss, dscores, caches

    def _checked_features(self, features: Array) -> Array:
        features = np.asarray(features, dtype=self.dtype)
        D = self.params["W_proj"].shape[0]
        if features.ndim != 2 or features.shape[1] != D:
            raise ValueError(f"features: found shape {features.shape}, expected (N, {D})")
        return features

    # -- one word at a time, for core/decoding.py ---------------------------------------------

    def begin(self, features: Array) -> tuple[Array, Array]:
        """Encodes images: (N, D) features -> the state h, c, each (N, H); an RNN leaves c at 0."""
        features = self._checked_features(features)
        h, _ = affine_forward(features, self.params["W_proj"], self.params["b_proj"])
        return h, np.zeros_like(h)

    def step(self, state: tuple[Array, Array], tokens: Array) -> tuple[Array, tuple[Array, Array]]:
        """Reads one word a row: (N,) ids -> log-probabilities (N, V) of the next, and the state."""
        p = self.params
        h, c = state
        words, _ = word_embedding_forward(tokens, p["W_embed"])
        if self.cell_type == "rnn":
            h, _ = rnn_step_forward(words, h, p["Wx"], p["Wh"], p["b"])
        else:
            h, c, _ = lstm_step_forward(words, h, c, p["Wx"], p["Wh"], p["b"])
        scores, _ = affine_forward(h, p["W_vocab"], p["b_vocab"])
        return log_softmax(scores), (h, c)

    def select(self, state: tuple[Array, Array], rows: Array) -> tuple[Array, Array]:
        """The state of the given rows, in that order; a row may be repeated."""
        return state[0][rows], state[1][rows]

    def sample(self, features: Array, max_length: int = 30) -> Array:
        """Captions by greedy decoding, never with dropout; see ``core.decoding.greedy``.

        Inputs:
        - features: (N, D)
        - max_length: number of words at most

        Returns (N, max_length) word ids; what follows <END> is <NULL>.
        """
        return decoding.greedy(self, features, max_length)
