"""A captioner that looks at the image again before each word: Show, Attend and Tell.

An LSTM cell reads the word before and a gated mean of the locations that soft attention chose. (Xu
et al., ICML 2015.) Builds on the layers of ``core/attention_layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.attention_layers import (
    attention_lstm_backward,
    attention_lstm_forward,
    attention_lstm_step_forward,
    doubly_stochastic_loss,
)
from core.layers import (
    affine_backward,
    affine_forward,
    dropout_backward,
    dropout_forward,
    log_softmax,
    temporal_affine_backward,
    temporal_affine_forward,
    word_embedding_backward,
    word_embedding_forward,
)
from core.models.base import CaptioningModelOnGrid

Array = np.ndarray

# The parameters of the recurrent layer, in the order of its arguments.
RECURRENT = (
    "W_features", "W_query", "b_attend", "v_attend", "W_gate", "b_gate", "Wx", "Wh", "b"
)  # fmt: skip


class CaptioningAttention(CaptioningModelOnGrid):
    """Scores captions given a grid of image features.

    ::

        mean    = mean over l of features                                     (N, C)
        h0, c0  = tanh(mean W_h0 + b_h0), tanh(mean W_c0 + b_c0)              (N, H)
        words   = dropout(W_embed[captions before the last])                  (N, T, W)
        h, z    = attention_lstm(words, features, h0, c0)                     (N, T, H), (N, T, C)
        deep    = tanh([words, h, z] W_deep + b_deep)                         (N, T, W)
        scores  = dropout(deep) W_vocab + b_vocab                             (N, T, V)

    z is the gated context. ``deep`` is the deep output of the paper's eq. 7, with the nonlinearity
    of Pascanu, Gulcehre, Cho and Bengio (ICLR 2014).

    Inputs, besides those of ``CaptioningModel``:
    - input_dim: C, channels of a location
    - wordvec_dim: W, width of the word vectors
    - hidden_dim: H, width of the hidden state
    - attention_dim: K, width in which states and locations are compared
    - dropout: of the word vectors and of the deep output
    - double_stochastic: strength of ``doubly_stochastic_loss``, which ``loss`` adds
    """

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int = 512,
        wordvec_dim: int = 128,
        hidden_dim: int = 128,
        attention_dim: int = 128,
        dropout: float = 0.0,
        double_stochastic: float = 0.0,
        dtype=np.float32,
        rng: np.random.Generator | None = None,
    ):
        widths = {"input_dim": input_dim, "wordvec_dim": wordvec_dim}
        widths |= {"hidden_dim": hidden_dim, "attention_dim": attention_dim}
        super().__init__(word_to_idx, dtype, dropout, rng, **widths)
        self.input_dim, self.double_stochastic = input_dim, double_stochastic

        C, W, H, K = input_dim, wordvec_dim, hidden_dim, attention_dim
        V = len(word_to_idx)
        self.params = {
            "W_h0": self._normal(C, H, scale=C**-0.5),
            "b_h0": self._zeros(H),
            "W_c0": self._normal(C, H, scale=C**-0.5),
            "b_c0": self._zeros(H),
            "W_embed": self._normal(V, W, scale=0.1),
            "W_features": self._normal(C, K, scale=C**-0.5),
            "W_query": self._normal(H + W, K, scale=(H + W) ** -0.5),
            "b_attend": self._zeros(K),
            "v_attend": self._normal(K, scale=K**-0.5),
            "W_gate": self._normal(H, C, scale=H**-0.5),
            "b_gate": self._zeros(C),
            "Wx": self._normal(W + C, 4 * H, scale=(W + C) ** -0.5),
            "Wh": self._normal(H, 4 * H, scale=H**-0.5),
            "b": self._zeros(4 * H),
            "W_deep": self._normal(W + H + C, W, scale=(W + H + C) ** -0.5),
            "b_deep": self._zeros(W),
            "W_vocab": self._normal(W, V, scale=W**-0.5),
            "b_vocab": self._zeros(V),
        }
        self.params["b"][H : 2 * H] = 1  # open forget gates, as in CaptioningRNN

    def needs_a_grid(self) -> list[str]:
        return ["W_features", "W_query", "b_attend", "v_attend"]

    def _forward(self, features, words, scored, rng):
        p, train = self.params, rng is not None
        h0, c0, begin_cache = self._first_state(features)
        vectors, word_cache = word_embedding_forward(words, p["W_embed"])
        vectors, word_drop = dropout_forward(vectors, self.dropout, rng, train)
        h, z, weights, sequence_cache = attention_lstm_forward(
            vectors, features, h0, c0, *(p[name] for name in RECURRENT)
        )
        penalty, dweights = doubly_stochastic_loss(weights, scored, self.double_stochastic)
        joined = np.concatenate([vectors, h, z], axis=2)
        deep, deep_cache = temporal_affine_forward(joined, p["W_deep"], p["b_deep"])
        deep = np.tanh(deep)
        dropped, deep_drop = dropout_forward(deep, self.dropout, rng, train)
        cache = (begin_cache, word_cache, word_drop, sequence_cache, deep_cache, deep, deep_drop)
        return dropped, penalty, (*cache, dweights)  # of the penalty, which is known here

    def _backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        begin_cache, word_cache, word_drop, sequence_cache, *deep_caches, dweights = cache
        deep_cache, deep, deep_drop = deep_caches
        W, H = self.params["W_embed"].shape[1], self.params["Wh"].shape[0]
        grads = {}
        # deep = dropout(tanh([vectors, h, z] @ W_deep + b_deep))
        ddeep = dropout_backward(dh, deep_drop) * (1 - deep**2)
        djoined, grads["W_deep"], grads["b_deep"] = temporal_affine_backward(ddeep, deep_cache)
        dvectors, dh, dz = np.split(djoined, [W, W + H], axis=2)
        # h, z, weights = attention_lstm(vectors, features, h0, c0); the penalty reads weights too.
        # Features are data: nobody asks for their gradient.
        dvectors_lstm, _, dh0, dc0, *drecurrent = attention_lstm_backward(
            dh, dz, dweights, sequence_cache
        )
        grads.update(zip(RECURRENT, drecurrent, strict=True))
        # vectors = dropout(W_embed[words]), read by the LSTM and by the deep output
        dvectors = dropout_backward(dvectors + dvectors_lstm, word_drop)
        grads["W_embed"] = word_embedding_backward(dvectors, word_cache)
        grads.update(self._first_state_backward(dh0, dc0, begin_cache))
        return grads

    def _first_state(self, features: Array) -> tuple[Array, Array, tuple]:
        """h0 and c0, each (N, H), from the mean of the locations; and the cache."""
        p = self.params
        mean = features.mean(axis=1)
        h0, h_cache = affine_forward(mean, p["W_h0"], p["b_h0"])
        c0, c_cache = affine_forward(mean, p["W_c0"], p["b_c0"])
        h0, c0 = np.tanh(h0), np.tanh(c0)
        return h0, c0, (h0, c0, h_cache, c_cache)

    def _first_state_backward(self, dh0: Array, dc0: Array, cache: tuple) -> dict[str, Array]:
        """Gradients of ``_first_state``, by name."""
        h0, c0, h_cache, c_cache = cache
        grads = {}
        # h0, c0 = tanh(mean @ W_h0 + b_h0), tanh(mean @ W_c0 + b_c0)
        _, grads["W_h0"], grads["b_h0"] = affine_backward(dh0 * (1 - h0**2), h_cache)
        _, grads["W_c0"], grads["b_c0"] = affine_backward(dc0 * (1 - c0**2), c_cache)
        return grads

    def attention_weights(self, features: Array, captions: Array) -> Array:
        """Where the model looks for each word of given captions, without dropout.

        Inputs:
        - features: (N, L, C)
        - captions: (N, T + 1) word ids, <START> first

        Returns (N, T, 1, L): the weights with which it chose captions[:, t + 1]; one map a word.
        """
        features, words, _, _ = self._checked(features, captions)
        h0, c0, _ = self._first_state(features)
        vectors, _ = word_embedding_forward(words, self.params["W_embed"])
        recurrent = (self.params[name] for name in RECURRENT)
        _, _, weights, _ = attention_lstm_forward(vectors, features, h0, c0, *recurrent)
        return weights[:, :, None]

    def head_names(self) -> list[str]:
        """What the maps of ``attention_weights`` are called, in their order."""
        return ["the only head"]

    # -- one word at a time, for core/decoding.py ---------------------------------------------

    def begin(self, features: Array) -> tuple[Array, ...]:
        """Encodes images: (N, L, C) features -> the state h, c (N, H), features, keys (N, L, K)."""
        features = self._checked_features(features)
        h, c, _ = self._first_state(features)
        keys, _ = temporal_affine_forward(
            features, self.params["W_features"], self.params["b_attend"]
        )
        return h, c, features, keys

    def step(self, state: tuple[Array, ...], tokens: Array) -> tuple[Array, tuple[Array, ...]]:
        """Reads one word a row: (N,) ids -> log-probabilities (N, V) of the next, and the state."""
        p = self.params
        h, c, features, keys = state
        vectors, _ = word_embedding_forward(tokens, p["W_embed"])
        h, c, z, _, _ = attention_lstm_step_forward(
            vectors, features, keys, h, c, p["W_query"], p["v_attend"], p["W_gate"], p["b_gate"],
            p["Wx"], p["Wh"], p["b"],
        )  # fmt: skip
        deep, _ = affine_forward(np.concatenate([vectors, h, z], axis=1), p["W_deep"], p["b_deep"])
        scores, _ = affine_forward(np.tanh(deep), *self._vocabulary())
        return log_softmax(scores), (h, c, features, keys)

    def select(self, state: tuple[Array, ...], rows: Array) -> tuple[Array, ...]:
        """The state of the given rows, in that order; a row may be repeated."""
        return tuple(x[rows] for x in state)
