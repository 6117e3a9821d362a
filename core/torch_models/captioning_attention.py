"""The twin of ``core/models/captioning_attention.py``: an nn.LSTMCell that looks at the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.fast.images import SharedImages
from core.models import CaptioningAttention
from core.torch_models.base import Array, Drop, TorchCaptioner, log_probabilities, with_one_bias


class TorchCaptioningAttention(TorchCaptioner):
    """``CaptioningAttention`` in PyTorch."""

    twin_of = CaptioningAttention

    def _build(self, params: Mapping[str, Array]) -> None:
        (C, K), (V, W), H = params["W_features"].shape, params["W_embed"].shape, len(params["Wh"])
        self.h0, self.c0 = nn.Linear(C, H), nn.Linear(C, H)
        self.embed = nn.Embedding(V, W)
        self.key = nn.Linear(C, K)
        self.query = nn.Linear(H + W, K, bias=False)
        self.v_attend = nn.Parameter(torch.empty(K))
        self.gate = nn.Linear(H, C)
        self.cell = with_one_bias(nn.LSTMCell(W + C, H))
        self.deep = nn.Linear(W + H + C, W)
        self.vocab = nn.Linear(W, V)

    def names(self) -> dict[str, str]:
        names = {
            "W_embed": "embed.weight",
            "W_features": "key.weight",
            "b_attend": "key.bias",
            "W_query": "query.weight",
            "v_attend": "v_attend",
            "Wx": "cell.weight_ih",
            "Wh": "cell.weight_hh",
            "b": "cell.bias_ih",
        }
        for name in ("h0", "c0", "gate", "deep", "vocab"):
            names |= {f"W_{name}": f"{name}.weight", f"b_{name}": f"{name}.bias"}
        return names

    def _forward(self, features: Tensor, words: Tensor, mask: Tensor, drop: Drop):
        vectors = drop(self.embed(words))
        h, z, weights = self._recur(vectors, features, mask)
        looked = (weights * mask[:, :, None]).sum(dim=1)  # (N, L): once everywhere is the aim
        penalty = self.double_stochastic * (1 - looked).square().sum(dim=1).mean()
        return drop(self._deep(vectors, h, z)), penalty

    def _first_state(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean = features.mean(dim=1)
        return self.h0(mean).tanh(), self.c0(mean).tanh()

    def _recur(self, vectors: Tensor, features: Tensor, mask: Tensor):
        """h (N, T, H), gated contexts (N, T, C) and weights (N, T, L) of every step.

        Steps after the last one of a row that ``mask`` (N, T) counts are not taken: 0.
        """
        steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        lengths, order = (mask * steps).amax(dim=1).sort(descending=True, stable=True)
        going = (lengths[:, None] >= steps).sum(dim=0).clamp(min=1).tolist()  # rows, at each step
        vectors, features = vectors[order], features[order]
        keys, (h, c), found = self.key(features), self._first_state(features), []
        for n, word in zip(going, vectors.unbind(dim=1), strict=True):
            if n < len(h):
                features, keys, h, c = features[:n], keys[:n], h[:n], c[:n]
            h, c, z, weights = self._look_and_read(word[:n], features, keys, h, c)
            found.append([F.pad(x, (0, 0, 0, len(order) - n)) for x in (h, z, weights)])
        back = order.argsort()
        return tuple(torch.stack(x, dim=1)[back] for x in zip(*found, strict=True))

    def _look_and_read(self, word: Tensor, features: Tensor, keys: Tensor, h: Tensor, c: Tensor):
        """One step: looks at the locations, reads the word (N, W) and what was seen.

        Features and keys are of G images, N / G neighbouring rows are about each.
        """
        query = self.query(torch.cat([h, word], dim=1)).unflatten(0, (len(keys), -1))
        scores = (keys[:, None] + query[:, :, None]).tanh() @ self.v_attend  # (G, N / G, L)
        weights = scores.softmax(dim=2)
        context = (weights @ features).flatten(0, 1)
        z = self.gate(h).sigmoid() * context
        h, c = self.cell(torch.cat([word, z], dim=1), (h, c))
        return h, c, z, weights.flatten(0, 1)

    def _deep(self, vectors: Tensor, h: Tensor, z: Tensor) -> Tensor:
        return self.deep(torch.cat([vectors, h, z], dim=-1)).tanh()

    @torch.no_grad()
    def attention_weights(self, features: Array | Tensor, captions: Array) -> Array:
        """As ``CaptioningAttention.attention_weights``: (N, T, 1, L)."""
        features, words, _, mask = self._checked(features, captions)
        _, _, weights = self._recur(self.embed(words), features, torch.ones_like(mask))
        return weights[:, :, None].cpu().numpy()

    # -- one word at a time, for core/decoding.py; never drops out ------------------------------

    @torch.no_grad()
    def begin(self, features: Array | Tensor) -> _State:
        features = self._checked_features(features)
        return _State(*self._first_state(features), SharedImages([features, self.key(features)]))

    @torch.no_grad()
    def step(self, state: _State, tokens: Array) -> tuple[Array, _State]:
        features, keys = state.images.grouped()
        word = self.embed(self._ids(tokens))
        h, c, z, _ = self._look_and_read(word, features, keys, state.h, state.c)
        scores = self.vocab(self._deep(word, h, z))
        return log_probabilities(scores), _State(h, c, state.images)

    def select(self, state: _State, rows: Array) -> _State:
        on_device = self._rows(rows)
        return _State(state.h[on_device], state.c[on_device], state.images.select(rows))


@dataclass(frozen=True)
class _State:
    """(N, H) states of the LSTM, and the images' features and keys."""

    h: Tensor
    c: Tensor
    images: SharedImages
