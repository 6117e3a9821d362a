"""A captioner with a recurrent decoder: vanilla RNN or LSTM over one feature vector per image.

The image sets the first hidden state; each step reads the word before and scores the next one: the
"init-inject" model of Tanti, Gatt and Camilleri (Natural Language Engineering, 2018), and that of
Stanford's course CS231n. ("Show and Tell", CVPR 2015, feeds the image as a first word instead.)
Builds on the layers of ``core/rnn_layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.layers import (
    affine_backward,
    affine_forward,
    dropout_backward,
    dropout_forward,
    log_softmax,
    word_embedding_backward,
    word_embedding_forward,
)
from core.models.base import CaptioningModel
from core.rnn_layers import (
    lstm_backward,
    lstm_forward,
    lstm_step_forward,
    rnn_backward,
    rnn_forward,
    rnn_step_forward,
)

Array = np.ndarray


class CaptioningRNN(CaptioningModel):
    """Scores captions given one feature vector an image.

    ::

        h0     = features W_proj + b_proj
        words  = dropout(W_embed[captions before the last])          (N, T, W)
        h      = rnn or lstm (words, h0; Wx, Wh, b)                  (N, T, H)
        scores = dropout(h) W_vocab + b_vocab                        (N, T, V)

    Inputs, besides those of ``CaptioningModel``:
    - input_dim: D, width of the features
    - wordvec_dim: W, width of the word vectors
    - hidden_dim: H, width of the hidden state
    - cell_type: 'rnn' or 'lstm'
    - dropout: of the word vectors and of the hidden states below the scores (Zaremba et al. 2014:
      not between the steps)

    Raises ValueError for another cell_type as well.
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
        widths = {"input_dim": input_dim, "wordvec_dim": wordvec_dim, "hidden_dim": hidden_dim}
        super().__init__(word_to_idx, dtype, dropout, rng, **widths)
        self.cell_type, self.input_dim = cell_type, input_dim

        D, W, H, V = input_dim, wordvec_dim, hidden_dim, len(word_to_idx)
        blocks = {"rnn": 1, "lstm": 4}[cell_type]
        self.params = {
            "W_proj": self._normal(D, H, scale=D**-0.5),
            "b_proj": self._zeros(H),
            "W_embed": self._normal(V, W, scale=0.1),
            "Wx": self._normal(W, blocks * H, scale=W**-0.5),
            "Wh": self._normal(H, blocks * H, scale=H**-0.5),
            "b": self._zeros(blocks * H),
            "W_vocab": self._normal(H, V, scale=H**-0.5),
            "b_vocab": self._zeros(V),
        }
        if cell_type == "lstm":
            # Forget gates start open, so that the gradient lives from the first step on
            # (Jozefowicz, Zaremba and Sutskever, ICML 2015).
            self.params["b"][H : 2 * H] = 1

    def _forward(self, features, words, scored, rng):
        p, train = self.params, rng is not None
        h0, image_cache = affine_forward(features, p["W_proj"], p["b_proj"])
        vectors, word_cache = word_embedding_forward(words, p["W_embed"])
        vectors, word_drop = dropout_forward(vectors, self.dropout, rng, train)
        sequence_forward = {"rnn": rnn_forward, "lstm": lstm_forward}[self.cell_type]
        h, sequence_cache = sequence_forward(vectors, h0, p["Wx"], p["Wh"], p["b"])
        h, h_drop = dropout_forward(h, self.dropout, rng, train)
        return h, 0, (image_cache, word_cache, word_drop, sequence_cache, h_drop)

    def _backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        image_cache, word_cache, word_drop, sequence_cache, h_drop = cache
        grads = {}
        # h = dropout(rnn or lstm (vectors, h0; Wx, Wh, b))
        dh = dropout_backward(dh, h_drop)
        sequence_backward = {"rnn": rnn_backward, "lstm": lstm_backward}[self.cell_type]
        dvectors, dh0, *dweights = sequence_backward(dh, sequence_cache)
        grads["Wx"], grads["Wh"], grads["b"] = dweights
        # vectors = dropout(W_embed[words])
        dvectors = dropout_backward(dvectors, word_drop)
        grads["W_embed"] = word_embedding_backward(dvectors, word_cache)
        # h0 = features @ W_proj + b_proj
        _, grads["W_proj"], grads["b_proj"] = affine_backward(dh0, image_cache)
        return grads

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
        vectors, _ = word_embedding_forward(tokens, p["W_embed"])
        if self.cell_type == "rnn":
            h, _ = rnn_step_forward(vectors, h, p["Wx"], p["Wh"], p["b"])
        else:
            h, c, _ = lstm_step_forward(vectors, h, c, p["Wx"], p["Wh"], p["b"])
        scores, _ = affine_forward(h, *self._vocabulary())
        return log_softmax(scores), (h, c)

    def select(self, state: tuple[Array, Array], rows: Array) -> tuple[Array, Array]:
        """The state of the given rows, in that order; a row may be repeated."""
        return state[0][rows], state[1][rows]
