"""The twin of ``core/models/captioning_transformer.py``: F.scaled_dot_product_attention in blocks.

One forward pass of a block serves the whole sequence and the single word: what differs is how many
words there are, and whether keys and values of earlier ones are at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.fast.images import SharedImages
from core.models import CaptioningTransformer
from core.torch_models.base import Array, Drop, TorchCaptioner, log_probabilities

_KeysAndValues = tuple[Tensor, ...]  # (N, h, S, d) each; () when there are none


class Attention(nn.Module):
    """Several heads, each in its own projection; no key has a bias, since its gradient is 0."""

    def __init__(self, E: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key = nn.Linear(E, E), nn.Linear(E, E, bias=False)
        self.value, self.out = nn.Linear(E, E), nn.Linear(E, E)

    def _split(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, h, T, d)"""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def keys_and_values(self, x: Tensor) -> _KeysAndValues:
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        heads = F.scaled_dot_product_attention(
            self._split(self.query(x)), keys, values, is_causal=causal
        )
        return self.out(heads.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, keys: Tensor) -> Tensor:
        """(N, h, T, S), which PyTorch's function keeps to itself."""
        scores = self._split(self.query(x)) @ keys.transpose(2, 3)
        return (scores / keys.shape[3] ** 0.5).softmax(dim=3)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward, each in the residual stream."""

    def __init__(self, E: int, F_: int, num_heads: int, norm_first: bool, activation: str):
        super().__init__()
        self.norm_first, self.activation = norm_first, getattr(F, activation)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(E) for _ in range(3))
        self.self_attention, self.cross_attention = (Attention(E, num_heads) for _ in range(2))
        self.inner, self.outer = nn.Linear(E, F_), nn.Linear(F_, E)

    def forward(
        self,
        x: Tensor,
        past: _KeysAndValues,
        image: _KeysAndValues,
        drop: Drop,
        maps: list[Tensor] | None = None,
    ) -> tuple[Tensor, _KeysAndValues]:
        """Words x (N, T, E) -> what comes of them, and keys and values of all words so far.

        - past: keys and values of the words before x; only with T = 1
        - image: keys and values (G, h, L, d); row n of x reads those of n // (N / G)
        - maps: collects the weights of the cross-attention
        """

        def attend_to_words(y):
            nonlocal words
            words = self.self_attention.keys_and_values(y)
            if past:
                words = tuple(torch.cat(pair, dim=2) for pair in zip(past, words, strict=True))
            # A single word is the last one: there is nothing ahead of it to hide.
            return self.self_attention(y, *words, causal=y.shape[1] > 1)

        def attend_to_image(y):
            # The rows about one image are queries of one sequence: its keys are read once for all.
            queries = y.reshape(len(image[0]), -1, y.shape[2])
            if maps is not None:
                maps.append(self.cross_attention.weights(queries, image[0]))
            return self.cross_attention(queries, *image).reshape(y.shape)

        def feed_forward(y):
            return self.outer(self.activation(self.inner(y)))

        words = ()
        sublayers = (attend_to_words, attend_to_image, feed_forward)
        for norm, sublayer in zip((self.norm1, self.norm2, self.norm3), sublayers, strict=True):
            y = drop(sublayer(norm(x) if self.norm_first else x))
            x = x + y if self.norm_first else norm(x + y)
        return x, words


class TorchCaptioningTransformer(TorchCaptioner):
    """``CaptioningTransformer`` in PyTorch."""

    twin_of = CaptioningTransformer

    def _build(self, params: Mapping[str, Array]) -> None:
        (C, E), V = params["W_proj"].shape, len(params["W_embed"])
        inner = len(params["block0.feed_forward.b1"])
        self.proj = nn.Linear(C, E)
        self.embed = nn.Embedding(V, E)
        if self.learned_positions:
            self.position = nn.Embedding(self.max_length, E)
        else:
            sinusoids = torch.from_numpy(vars(self).pop("_sinusoids"))
            self.register_buffer("_sinusoids", sinusoids, persistent=False)
        self.blocks = nn.ModuleList(
            Block(E, inner, self.num_heads, self.norm_first, self.activation)
            for _ in range(self.num_layers)
        )
        self.norm = nn.LayerNorm(E) if self.norm_first else nn.Identity()
        self.vocab = nn.Linear(E, V)
        if self.tied:
            self.vocab.weight = self.embed.weight

    def names(self) -> dict[str, str]:
        block = {
            "feed_forward.W1": "inner.weight",
            "feed_forward.b1": "inner.bias",
            "feed_forward.W2": "outer.weight",
            "feed_forward.b2": "outer.bias",
        }
        for i in (1, 2, 3):
            block |= {f"norm{i}.gamma": f"norm{i}.weight", f"norm{i}.beta": f"norm{i}.bias"}
        for which in ("self", "cross"):
            for part in ("query", "key", "value", "out"):
                block[f"{which}.W{part[0]}"] = f"{which}_attention.{part}.weight"
                if part != "key":
                    block[f"{which}.b{part[0]}"] = f"{which}_attention.{part}.bias"
        names = {"W_proj": "proj.weight", "b_proj": "proj.bias", "W_embed": "embed.weight"}
        if self.learned_positions:
            names["W_position"] = "position.weight"
        for i in range(self.num_layers):
            names |= {f"block{i}.{ours}": f"blocks.{i}.{theirs}" for ours, theirs in block.items()}
        if self.norm_first:
            names |= {"norm.gamma": "norm.weight", "norm.beta": "norm.bias"}
        if not self.tied:
            names["W_vocab"] = "vocab.weight"
        return names | {"b_vocab": "vocab.bias"}

    def _forward(self, features: Tensor, words: Tensor, mask: Tensor, drop: Drop):
        return self._sequence(features, words, drop), 0

    def _sequence(self, features: Tensor, words: Tensor, drop: Drop, maps=None) -> Tensor:
        """(N, T, E); ``maps`` collects (N, h, T, L) of each block."""
        x = drop(self._vectors(words))
        images = self._keys_and_values(features)
        for layer, block in enumerate(self.blocks):
            x, _ = block(x, (), images[2 * layer : 2 * layer + 2], drop, maps)
        return self.norm(x)

    def _vectors(self, words: Tensor, first: int = 0) -> Tensor:
        """Words (N, T) that stand at the positions from ``first`` on -> (N, T, E)."""
        positions = self.position.weight if self.learned_positions else self._sinusoids
        vectors = self.embed(words)
        T, E = vectors.shape[1:]
        return E**0.5 * vectors + positions[first : first + T]

    def _keys_and_values(self, features: Tensor) -> _KeysAndValues:
        """Those of the image, for each block."""
        memory = self.proj(features)
        return tuple(x for b in self.blocks for x in b.cross_attention.keys_and_values(memory))

    @torch.no_grad()
    def attention_weights(self, features: Array | Tensor, captions: Array) -> Array:
        """As ``CaptioningTransformer.attention_weights``: (N, T, heads, L)."""
        features, words, _, _ = self._checked(features, captions)
        maps = []
        self._sequence(features, words, self._dropout(False), maps)
        return torch.cat(maps, dim=1).transpose(1, 2).cpu().numpy()

    # -- one word at a time, for core/decoding.py; never drops out ------------------------------

    @torch.no_grad()
    def begin(self, features: Array | Tensor) -> _State:
        return _State((), SharedImages(self._keys_and_values(self._checked_features(features))))

    @torch.no_grad()
    def step(self, state: _State, tokens: Array) -> tuple[Array, _State]:
        t = state.words[0].shape[2] if state.words else 0
        if t == self.max_length:
            raise ValueError(f"the model has {t} positions, and all are taken; build it with more")
        x = self._vectors(self._ids(tokens)[:, None], first=t)
        images, words, drop = state.images.grouped(), (), self._dropout(False)
        for layer, block in enumerate(self.blocks):
            pair = slice(2 * layer, 2 * layer + 2)
            x, grown = block(x, state.words[pair], images[pair], drop)
            words += grown
        return log_probabilities(self.vocab(self.norm(x[:, 0]))), _State(words, state.images)

    def select(self, state: _State, rows: Array) -> _State:
        on_device = self._rows(rows)
        words = tuple(x[on_device] for x in state.words)
        return _State(words, state.images.select(rows))


@dataclass(frozen=True)
class _State:
    """Keys and values (N, h, t, d), block by block: of the words so far, and of the images."""

    words: _KeysAndValues
    images: SharedImages
