"""The fast twins of ``core/models``: the same parameters, the same arguments, the same numbers.

Each says its forward and backward pass once more, in the order of a packing. What they read of the
image, how they are built, and how they decode is inherited. A whole training step is 1.8
(transformer) to 3.1 (attention) times as fast as by the definition on one core (docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.attention_layers import doubly_stochastic_loss
from core.fast.attention import (
    attention_lstm_packed_backward,
    attention_lstm_packed_forward,
    look_and_read,
    words_apart,
)
from core.fast.captioner import FastCaptioner
from core.fast.images import SharedImages
from core.fast.packing import Packing
from core.fast.recurrent import (
    lstm_packed_backward,
    lstm_packed_forward,
    rnn_packed_backward,
    rnn_packed_forward,
)
from core.fast.transformer import fast_block_backward, fast_block_forward, fast_block_step
from core.layers import (
    affine_backward,
    affine_forward,
    dropout_backward,
    dropout_forward,
    log_softmax,
    word_embedding_forward,
)
from core.models import MODELS, build_model
from core.models.captioning_attention import RECURRENT, CaptioningAttention
from core.models.captioning_rnn import CaptioningRNN
from core.models.captioning_transformer import CaptioningTransformer

Array = np.ndarray


class FastCaptioningRNN(FastCaptioner, CaptioningRNN):
    """``CaptioningRNN``, made fast."""

    def _packed_forward(self, features, words, mask, packing: Packing, share: float, rng):
        p = self.params
        packed_forward = {"rnn": rnn_packed_forward, "lstm": lstm_packed_forward}[self.cell_type]
        h0, image_cache = affine_forward(features, p["W_proj"], p["b_proj"])
        vectors, word_cache = self._word_vectors(packing.pack(words), rng)
        inputs, input_cache = affine_forward(vectors, p["Wx"], p["b"])
        h, sequence_cache = packed_forward(inputs, h0, p["Wh"], packing)
        h, h_drop = dropout_forward(h, self.dropout, rng, rng is not None)
        return h, 0, (image_cache, word_cache, input_cache, sequence_cache, h_drop)

    def _packed_backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        image_cache, word_cache, input_cache, sequence_cache, h_drop = cache
        packed_backward = {"rnn": rnn_packed_backward, "lstm": lstm_packed_backward}[self.cell_type]
        grads = {}
        # h = dropout(rnn or lstm (inputs, h0))
        dh = dropout_backward(dh, h_drop)
        dinputs, dh0, grads["Wh"] = packed_backward(dh, sequence_cache)
        # inputs = vectors @ Wx + b
        dvectors, grads["Wx"], grads["b"] = affine_backward(dinputs, input_cache)
        grads["W_embed"] = self._word_vectors_backward(dvectors, word_cache)
        # h0 = features @ W_proj + b_proj
        _, grads["W_proj"], grads["b_proj"] = affine_backward(dh0, image_cache)
        return grads


class FastCaptioningAttention(FastCaptioner, CaptioningAttention):
    """``CaptioningAttention``, made fast.

    While it decodes, the state is h, c (N, H), and the ``SharedImages`` with features and keys.
    """

    def _packed_forward(self, features, words, mask, packing: Packing, share: float, rng):
        p = self.params
        h0, c0, begin_cache = self._first_state(features)
        vectors, word_cache = self._word_vectors(packing.pack(words), rng)
        h, z, weights, sequence_cache = attention_lstm_packed_forward(
            vectors, features, h0, c0, packing, *(p[name] for name in RECURRENT)
        )
        penalty, dweights = doubly_stochastic_loss(
            packing.unpack(weights), mask, share * self.double_stochastic
        )
        joined = np.concatenate([vectors, h, z], axis=1)
        deep, deep_cache = affine_forward(joined, p["W_deep"], p["b_deep"])
        np.tanh(deep, out=deep)
        dropped, deep_drop = dropout_forward(deep, self.dropout, rng, rng is not None)
        recurrent_cache = begin_cache, word_cache, sequence_cache, packing.pack(dweights)
        return dropped, penalty, (recurrent_cache, deep_cache, deep, deep_drop)

    def _packed_backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        recurrent_cache, deep_cache, deep, deep_drop = cache
        begin_cache, word_cache, sequence_cache, dweights = recurrent_cache
        W, H = self.params["W_embed"].shape[1], self.params["Wh"].shape[0]
        grads = {}
        # deep = dropout(tanh([vectors, h, z] @ W_deep + b_deep))
        ddeep = dropout_backward(dh, deep_drop) * (1 - deep**2)
        djoined, grads["W_deep"], grads["b_deep"] = affine_backward(ddeep, deep_cache)
        dvectors, dh, dz = np.split(djoined, [W, W + H], axis=1)
        # h, z, weights = attention_lstm(vectors, features, h0, c0), where the penalty reads weights
        dvectors_lstm, dh0, dc0, *drecurrent = attention_lstm_packed_backward(
            dh, dz, dweights, sequence_cache
        )
        grads.update(zip(RECURRENT, drecurrent, strict=True))
        # the vectors are read by the LSTM and by the deep output
        grads["W_embed"] = self._word_vectors_backward(dvectors + dvectors_lstm, word_cache)
        grads.update(self._first_state_backward(dh0, dc0, begin_cache))
        return grads

    def begin(self, features: Array) -> tuple[Array, Array, SharedImages]:
        h, c, *arrays = super().begin(features)
        return h, c, SharedImages(arrays)

    def step(self, state: tuple, tokens: Array) -> tuple[Array, tuple]:
        p = self.params
        h, c, images = state
        features, keys = images.grouped()
        vectors, _ = word_embedding_forward(tokens, p["W_embed"])
        recurrent = (p[name] for name in RECURRENT if name not in ("W_features", "b_attend"))
        query, gates, loop_weights = words_apart(vectors, *recurrent)
        h, c, _, _, _, z, _ = look_and_read(query, gates, features, keys, h, c, loop_weights)
        deep, _ = affine_forward(np.concatenate([vectors, h, z], axis=1), p["W_deep"], p["b_deep"])
        scores, _ = affine_forward(np.tanh(deep), *self._vocabulary())
        return log_softmax(scores), (h, c, images)

    def select(self, state: tuple, rows: Array) -> tuple:
        h, c, images = state
        return h[rows], c[rows], images.select(rows)


class FastCaptioningTransformer(FastCaptioner, CaptioningTransformer):
    """``CaptioningTransformer``, made fast.

    While it decodes, the state is keys and values of the words, block by block, and the
    ``SharedImages`` with those of the image.
    """

    rows_of_a_part = 12, 32  # all words of a part go through its products at once
    block_forward = staticmethod(fast_block_forward)
    block_backward = staticmethod(fast_block_backward)

    def _packed_forward(self, features, words, mask, packing: Packing, share: float, rng):
        h, penalty, cache = self._forward(features, words, mask, rng)
        return packing.pack(h), penalty, (packing, cache)

    def _packed_backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        packing, cache = cache
        return self._backward(packing.unpack(dh), cache)

    def begin(self, features: Array) -> tuple[list, SharedImages]:
        words, images = super().begin(features)
        return words, SharedImages([array for pair in images for array in pair])

    def step(self, state: tuple, tokens: Array) -> tuple[Array, tuple]:
        words, images = state
        x = self._new_word(tokens, position=words[0][0].shape[2] if words[0] else 0)
        arrays = images.grouped()
        grown = []
        for layer in range(self.num_layers):
            x, kept = fast_block_step(
                x, words[layer], arrays[2 * layer : 2 * layer + 2], self._block(layer),
                self.num_heads, self.norm_first, self.activation,
            )  # fmt: skip
            grown.append(kept)
        return self._log_probabilities(x), (grown, images)

    def select(self, state: tuple, rows: Array) -> tuple:
        words, images = state
        return [tuple(x[rows] for x in pair) for pair in words], images.select(rows)


_TWIN_OF = {
    CaptioningRNN: FastCaptioningRNN,
    CaptioningAttention: FastCaptioningAttention,
    CaptioningTransformer: FastCaptioningTransformer,
}
# As MODELS of core/models.
FAST_MODELS = {name: (_TWIN_OF[model], implied) for name, (model, implied) in MODELS.items()}


def build_fast_model(
    name: str,
    config: Mapping,
    idx_to_word: Sequence[str],
    params: Mapping[str, Array] | None = None,
    rng: np.random.Generator | None = None,
):
    """As ``core.models.build_model``, argument by argument: the fast twin."""
    return build_model(name, config, idx_to_word, params, rng, FAST_MODELS)
