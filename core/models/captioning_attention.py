"""A captioner that looks at the image again before each word: Show, Attend and Tell.

An LSTM cell reads the word before and a gated mean of the locations that soft attention chose. (Xu
et al., ICML 2015.) Builds on the layers of ``core/attention_layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from core.attention_layers import (
    attention_lstm_forward,
    attention_lstm_packed_backward,
    attention_lstm_packed_forward,
    doubly_stochastic_loss,
    look_and_read,
    words_apart,
)
from core.models.base import CaptioningModel, Images
from core.packing import Packing
from core.rnn_layers import (
    affine_backward,
    affine_forward,
    affine_weights_backward,
    log_softmax,
    sums_of_rows,
    temporal_affine_forward,
    word_embedding_forward,
)
from core.transformer_layers import dropout_backward, dropout_forward

Array = np.ndarray

# What the recurrent layer takes after words, features, h0 and c0, in its order.
_RECURRENT = (
    "W_features", "W_query", "b_attend", "v_attend", "W_gate", "b_gate", "Wx", "Wh", "b"
)  # fmt: skip


class CaptioningAttention(CaptioningModel):
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

    grid = True

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

    def _forward(self, features, words, mask, packing: Packing, share: float, rng):
        p = self.params
        h0, c0, begin_cache = self._first_state(features)
        vectors, which, word_cache = self._word_vectors(packing.pack(words), rng)
        h, z, weights, sequence_cache = attention_lstm_packed_forward(
            vectors, which, features, h0, c0, packing, *(p[name] for name in _RECURRENT)
        )
        deep, joined = self._deep(vectors, which, h, z)
        dropped, deep_drop = dropout_forward(deep, self.dropout, rng, rng is not None)
        penalty, dweights = doubly_stochastic_loss(
            packing.unpack(weights), mask, share * self.double_stochastic
        )
        cache = (begin_cache, which, word_cache, sequence_cache, packing.pack(dweights))
        return dropped, penalty, (*cache, vectors, joined, deep, deep_drop)

    def _deep(self, vectors: Array, which: Array, h: Array, z: Array) -> tuple[Array, Array]:
        """tanh([words, h, z] W_deep + b_deep), each row of vectors multiplied once; and [h, z]."""
        W = vectors.shape[1]
        W_words, W_joined = np.split(self.params["W_deep"], [W])
        joined = np.concatenate([h, z], axis=1)
        deep = joined @ W_joined
        deep += (vectors @ W_words + self.params["b_deep"])[which]
        return np.tanh(deep, out=deep), joined

    def _backward(self, ddeep: Array, cache: tuple) -> dict[str, Array]:
        begin_cache, which, word_cache, sequence_cache, dweights, *cache = cache
        vectors, joined, deep, deep_drop = cache
        W, H = vectors.shape[1], self.params["Wh"].shape[0]
        W_words, W_joined = np.split(self.params["W_deep"], [W])
        grads = {}
        # deep = tanh((vectors @ W_words + b_deep)[which] + [h, z] @ W_joined)
        ddeep = dropout_backward(ddeep, deep_drop) * (1 - deep**2)
        djoined = ddeep @ W_joined.T
        dvectors, dW_words, grads["b_deep"] = affine_backward(
            sums_of_rows(ddeep, which, len(vectors)), (vectors, W_words)
        )
        grads["W_deep"] = np.concatenate([dW_words, joined.T @ ddeep])
        # h, z, weights = attention_lstm(vectors, features, h0, c0), where the penalty reads weights
        dvectors_lstm, _, dh0, dc0, *drecurrent = attention_lstm_packed_backward(
            djoined[:, :H], djoined[:, H:], dweights, sequence_cache, wants_features=False
        )
        grads.update(zip(_RECURRENT, drecurrent, strict=True))
        # the vectors are read by the LSTM and by the deep output
        grads["W_embed"] = self._word_vectors_backward(dvectors + dvectors_lstm, word_cache)
        # h0, c0 = tanh(mean @ W_h0 + b_h0), tanh(mean @ W_c0 + b_c0)
        h0, c0, mean = begin_cache
        grads["W_h0"], grads["b_h0"] = affine_weights_backward(dh0 * (1 - h0**2), mean)
        grads["W_c0"], grads["b_c0"] = affine_weights_backward(dc0 * (1 - c0**2), mean)
        return grads

    def _first_state(self, features: Array) -> tuple[Array, Array, tuple]:
        p = self.params
        mean = features.mean(axis=1)
        h0 = np.tanh(mean @ p["W_h0"] + p["b_h0"])
        c0 = np.tanh(mean @ p["W_c0"] + p["b_c0"])
        return h0, c0, (h0, c0, mean)

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
        recurrent = (self.params[name] for name in _RECURRENT)
        _, _, weights, _ = attention_lstm_forward(vectors, features, h0, c0, *recurrent)
        return weights[:, :, None]

    def head_names(self) -> list[str]:
        """What the maps of ``attention_weights`` are called, in their order."""
        return ["the only head"]

    # -- one word at a time, for core/decoding.py ---------------------------------------------

    def begin(self, features: Array) -> _State:
        """Encodes images: (N, L, C) features -> the first state, and the keys of the attention."""
        features = self._checked_features(features)
        h, c, _ = self._first_state(features)
        keys, _ = temporal_affine_forward(
            features, self.params["W_features"], self.params["b_attend"]
        )
        return _State(h, c, Images([features, keys]))

    def step(self, state: _State, tokens: Array) -> tuple[Array, _State]:
        """Reads one word a row: (N,) ids -> log-probabilities (N, V) of the next, and the state."""
        p = self.params
        (features, keys), _ = state.images.grouped()
        vectors, which, _ = self._word_vectors(tokens, rng=None)
        recurrent = (p[name] for name in _RECURRENT if name not in ("W_features", "b_attend"))
        query, gates, weights_of_loop = words_apart(vectors, which, *recurrent)
        h, c, _, _, _, z, _ = look_and_read(
            query, gates, features, keys, state.h, state.c, weights_of_loop
        )
        deep, _ = self._deep(vectors, which, h, z)
        scores, _ = affine_forward(deep, *self._vocabulary())
        return log_softmax(scores), _State(h, c, state.images)

    def select(self, state: _State, rows: Array) -> _State:
        """The state of the given rows, in that order; a row may be repeated."""
        return _State(state.h[rows], state.c[rows], state.images.select(rows))


@dataclass(frozen=True)
class _State:
    """(N, H) states of the LSTM, and the images' features and keys."""

    h: Array
    c: Array
    images: Images
