"""The twin of ``core/models/captioning_rnn.py``: nn.RNN or nn.LSTM over one vector an image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.models import CaptioningRNN
from core.torch_models.base import Array, Drop, TorchCaptioner, log_probabilities, with_one_bias

_State = tuple[Tensor, Tensor]  # h, c, each (1, N, H), as PyTorch's recurrent modules want them


class TorchCaptioningRNN(TorchCaptioner):
    """``CaptioningRNN`` in PyTorch."""

    twin_of = CaptioningRNN

    def _build(self, params: Mapping[str, Array]) -> None:
        (D, H), (V, W) = params["W_proj"].shape, params["W_embed"].shape
        recurrent = {"rnn": nn.RNN, "lstm": nn.LSTM}[self.cell_type]
        self.proj = nn.Linear(D, H)
        self.embed = nn.Embedding(V, W)
        self.cell = with_one_bias(recurrent(W, H, batch_first=True))
        self.vocab = nn.Linear(H, V)

    def names(self) -> dict[str, str]:
        return {
            "W_proj": "proj.weight",
            "b_proj": "proj.bias",
            "W_embed": "embed.weight",
            "Wx": "cell.weight_ih_l0",
            "Wh": "cell.weight_hh_l0",
            "b": "cell.bias_ih_l0",
            "W_vocab": "vocab.weight",
            "b_vocab": "vocab.bias",
        }

    def _forward(self, features: Tensor, words: Tensor, mask: Tensor, drop: Drop):
        h, _ = self._recur(drop(self.embed(words)), self._first_state(features))
        return drop(h), 0

    def _first_state(self, features: Tensor) -> _State:
        h = self.proj(features)[None]
        return h, torch.zeros_like(h)

    def _recur(self, vectors: Tensor, state: _State) -> tuple[Tensor, _State]:
        """Reads vectors (N, T, W): h (N, T, H) after each, and the state after the last."""
        h, c = state
        if self.cell_type == "rnn":
            out, h = self.cell(vectors, h)
            return out, (h, c)
        return self.cell(vectors, (h, c))

    # -- one word at a time, for core/decoding.py; never drops out ------------------------------

    @torch.no_grad()
    def begin(self, features: Array | Tensor) -> _State:
        return self._first_state(self._checked_features(features))

    @torch.no_grad()
    def step(self, state: _State, tokens: Array) -> tuple[Array, _State]:
        h, state = self._recur(self.embed(self._ids(tokens))[:, None], state)
        return log_probabilities(self.vocab(h[:, 0])), state

    def select(self, state: _State, rows: Array) -> _State:
        h, c = state
        rows = self._rows(rows)
        return h[:, rows], c[:, rows]
