"""A captioner with a Transformer decoder over a grid of image features.

Every word attends to the words before it and to the locations of the image. (Vaswani et al.,
NeurIPS 2017, the decoder half.) Builds on the layers of ``core/transformer_layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.layers import (
    affine_forward,
    dropout_backward,
    dropout_forward,
    log_softmax,
    temporal_affine_forward,
    word_embedding_backward,
    word_embedding_forward,
)
from core.models.base import CaptioningModelOnGrid
from core.transformer_layers import (
    ACTIVATIONS,
    BLOCK_SHAPES,
    cross_attention_weights,
    decoder_block_backward,
    decoder_block_forward,
    decoder_block_step,
    keys_and_values,
    layer_norm_backward,
    layer_norm_forward,
    positional_encoding,
)

Array = np.ndarray


class CaptioningTransformer(CaptioningModelOnGrid):
    """Scores captions given a grid of image features.

    ::

        memory = features W_proj + b_proj                                             (N, L, E)
        x      = dropout(sqrt(E) W_embed[captions before the last] + positions)       (N, T, E)
        x      = block(x, memory) for each block, under a causal mask
        scores = norm(x) W_vocab + b_vocab                                            (N, T, V)

    Inputs, besides those of ``CaptioningModel``:
    - input_dim: C, channels of a location
    - wordvec_dim: E, width of the model
    - num_heads: divides E
    - num_layers: number of blocks
    - max_length: positions, the most words that it can read
    - dropout: of the words and of each sublayer's output (section 5.4)
    - hidden_dim: F, inner width of the feed-forward layers; 4 E when None
    - positions: 'learned' or 'sinusoidal'
    - tied: score words with their own vectors, ``norm(x) W_embed^T + b_vocab``, instead of W_vocab
      (Press and Wolf, EACL 2017)
    - norm_first: pre-norm, or post-norm, which needs no norm before the scores
    - activation: of the feed-forward layers, 'relu' or 'gelu'

    Raises ValueError for an unknown kind of positions or activation, too, and when the heads do not
    divide the width.
    """

    # What computes a block; a subclass may compute the same in another way.
    block_forward = staticmethod(decoder_block_forward)
    block_backward = staticmethod(decoder_block_backward)

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int = 512,
        wordvec_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 2,
        max_length: int = 50,
        dropout: float = 0.0,
        dtype=np.float32,
        rng: np.random.Generator | None = None,
        hidden_dim: int | None = None,
        positions: str = "learned",
        tied: bool = False,
        norm_first: bool = True,
        activation: str = "relu",
    ):
        C, E = input_dim, wordvec_dim
        F = 4 * E if hidden_dim is None else hidden_dim
        widths = {"input_dim": C, "wordvec_dim": E, "num_heads": num_heads, "hidden_dim": F}
        widths |= {"num_layers": num_layers, "max_length": max_length}
        super().__init__(word_to_idx, dtype, dropout, rng, **widths)
        if E % num_heads:
            raise ValueError(f"num_heads: found {num_heads}, expected a divisor of the width {E}")
        if positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions: found {positions!r}, expected 'learned' or 'sinusoidal'")
        if activation not in ACTIVATIONS:
            expected = " or ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"activation: found {activation!r}, expected {expected}")
        self.input_dim, self.num_heads, self.num_layers = input_dim, num_heads, num_layers
        self.max_length, self.tied = max_length, tied
        self.norm_first, self.activation = norm_first, activation
        self.learned_positions = positions == "learned"

        V = len(word_to_idx)
        sizes = {"E": E, "F": F}
        self.params = {
            "W_proj": self._normal(C, E, scale=C**-0.5),
            "b_proj": self._zeros(E),
            "W_embed": self._normal(V, E, scale=E**-0.5),
        }
        if self.learned_positions:
            self.params["W_position"] = self._normal(max_length, E, scale=0.1)
        else:
            self._sinusoids = positional_encoding(max_length, E).astype(self.dtype)
        for layer in range(num_layers):
            for name, letters in BLOCK_SHAPES.items():
                shape = tuple(sizes[letter] for letter in letters)
                if len(shape) == 2:
                    value = self._normal(*shape, scale=shape[0] ** -0.5)
                else:
                    value = self._zeros(*shape) + (1 if name.endswith("gamma") else 0)
                self.params[f"block{layer}.{name}"] = value
        if norm_first:
            self.params["norm.gamma"] = self._zeros(E) + 1
            self.params["norm.beta"] = self._zeros(E)
        if not tied:
            self.params["W_vocab"] = self._normal(E, V, scale=E**-0.5)
        self.params["b_vocab"] = self._zeros(V)

    def needs_a_grid(self) -> list[str]:
        names = ["cross.Wq", "cross.bq", "cross.Wk"]
        if self.norm_first:
            names += ["norm2.gamma", "norm2.beta"]  # what they normalise is only a query
        return [f"block{layer}.{name}" for layer in range(self.num_layers) for name in names]

    def _block(self, layer: int) -> dict[str, Array]:
        return {name: self.params[f"block{layer}.{name}"] for name in BLOCK_SHAPES}

    def _positions(self) -> Array:
        """(max_length, E)"""
        return self.params["W_position"] if self.learned_positions else self._sinusoids

    def _forward(self, features, words, scored, rng):
        p, T, E = self.params, words.shape[1], self.params["W_embed"].shape[1]
        drop = self.dropout, rng, rng is not None
        memory, _ = temporal_affine_forward(features, p["W_proj"], p["b_proj"])
        vectors, word_cache = word_embedding_forward(words, p["W_embed"])
        # times sqrt(E), since the entries of W_embed have variance 1 / E
        x, word_drop = dropout_forward(E**0.5 * vectors + self._positions()[:T], *drop)
        causal = np.tri(T, dtype=bool)  # a word attends to itself and to those before it
        how = self.num_heads, causal, self.norm_first, self.activation
        block_caches, norm_cache = [], None
        for layer in range(self.num_layers):
            x, cache = self.block_forward(x, memory, self._block(layer), *how, *drop)
            block_caches.append(cache)
        if self.norm_first:
            x, norm_cache = layer_norm_forward(x, p["norm.gamma"], p["norm.beta"])
        return x, 0, (features, word_cache, word_drop, block_caches, norm_cache)

    def _backward(self, dh: Array, cache: tuple) -> dict[str, Array]:
        features, word_cache, word_drop, block_caches, norm_cache = cache
        grads, dx, dmemory = {}, dh, 0
        if self.norm_first:
            dx, grads["norm.gamma"], grads["norm.beta"] = layer_norm_backward(dx, norm_cache)
        # x = block(x, memory), block by block: all of them read the memory
        for layer in reversed(range(self.num_layers)):
            dx, dmemory_block, block_grads = self.block_backward(dx, block_caches[layer])
            dmemory = dmemory + dmemory_block
            grads.update((f"block{layer}.{name}", g) for name, g in block_grads.items())
        # x = dropout(sqrt(E) W_embed[words] + positions)
        dx = dropout_backward(dx, word_drop)
        if self.learned_positions:
            grads["W_position"] = np.zeros_like(self.params["W_position"])
            grads["W_position"][: dx.shape[1]] = dx.sum(axis=0)
        grads["W_embed"] = word_embedding_backward(dx.shape[2] ** 0.5 * dx, word_cache)
        # memory = features @ W_proj + b_proj, where the features are data and need no gradient
        dmemory = dmemory.reshape(-1, dmemory.shape[2])
        grads["W_proj"] = features.reshape(len(dmemory), -1).T @ dmemory
        grads["b_proj"] = dmemory.sum(axis=0)
        return grads

    def attention_weights(self, features: Array, captions: Array) -> Array:
        """Where the model looks for each word of given captions, without dropout.

        Inputs:
        - features: (N, L, C)
        - captions: (N, T + 1) word ids, <START> first

        Returns (N, T, heads, L): the cross-attention with which it chose captions[:, t + 1], of
        every head of every block, the first block first; their mean over the heads is one map.
        """
        features, words, _, mask = self._checked(features, captions)
        _, _, (_, _, _, block_caches, _) = self._forward(features, words, mask, rng=None)
        maps = [cross_attention_weights(cache) for cache in block_caches]  # (N, h, T, L) each
        return np.concatenate(maps, axis=1).swapaxes(1, 2)

    def head_names(self) -> list[str]:
        """What the maps of ``attention_weights`` are called, in their order."""
        return [
            f"block {layer + 1}, head {head + 1}"
            for layer in range(self.num_layers)
            for head in range(self.num_heads)
        ]

    # -- one word at a time, for core/decoding.py ---------------------------------------------

    def begin(self, features: Array) -> tuple[list, list]:
        """Encodes images: (N, L, C) features -> the state, as ``step`` takes it.

        The state: for each block the keys and values (N, h, t, d) of the words so far, () before
        the first; and for each block those of the image, (N, h, L, d).
        """
        features = self._checked_features(features)
        memory, _ = temporal_affine_forward(features, self.params["W_proj"], self.params["b_proj"])
        images = [
            keys_and_values(memory, self._block(layer), "cross", self.num_heads)
            for layer in range(self.num_layers)
        ]
        return [()] * self.num_layers, images

    def step(self, state: tuple[list, list], tokens: Array) -> tuple[Array, tuple[list, list]]:
        """Reads one word a row: (N,) ids -> log-probabilities (N, V) of the next, and the state.

        Only the new word goes through the blocks: what they need of the earlier words, and of the
        image, is in the state.

        Raises ValueError when there is no position left.
        """
        words, images = state
        x = self._new_word(tokens, position=words[0][0].shape[2] if words[0] else 0)
        grown = []
        for layer in range(self.num_layers):
            x, kept = decoder_block_step(
                x, words[layer], images[layer], self._block(layer), self.num_heads,
                self.norm_first, self.activation,
            )  # fmt: skip
            grown.append(kept)
        return self._log_probabilities(x), (grown, images)

    def _new_word(self, tokens: Array, position: int) -> Array:
        """(N,) ids -> (N, 1, E), what the first block reads."""
        if position == self.max_length:
            raise ValueError(
                f"the model has {position} positions, and all are taken; build it with more"
            )
        vectors, _ = word_embedding_forward(tokens[:, None], self.params["W_embed"])
        return vectors.shape[2] ** 0.5 * vectors + self._positions()[position]

    def _log_probabilities(self, x: Array) -> Array:
        """What the last block says of the new word, (N, 1, E) -> (N, V)."""
        if self.norm_first:
            x, _ = layer_norm_forward(x, self.params["norm.gamma"], self.params["norm.beta"])
        scores, _ = affine_forward(x[:, 0], *self._vocabulary())
        return log_softmax(scores)

    def select(self, state: tuple[list, list], rows: Array) -> tuple[list, list]:
        """The state of the given rows, in that order; a row may be repeated."""
        words, images = ([tuple(x[rows] for x in pair) for pair in part] for part in state)
        return words, images
