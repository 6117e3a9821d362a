"""What the twins have in common: built like their NumPy model, driven by NumPy arrays.

A twin adds its modules in ``_build``, their ``names``, ``_forward``, and ``begin``, ``step``,
``select`` for ``core/decoding.py``. Builds on ``core/models/base.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.decoding import never_said
from core.layers import check_word_ids
from core.models.base import CaptioningModel
from core.support.processes import rank
from core.torch_models.convert import to_numpy, to_torch

Array = np.ndarray
Drop = Callable[[Tensor], Tensor]


class TorchCaptioner(nn.Module, CaptioningModel):
    """A captioner whose gradients are PyTorch's; it computes what its NumPy twin computes.

    The constructor takes the arguments of ``twin_of``, and builds one: it checks them, draws the
    parameters, and all that it knows besides those, sizes and special words, is taken over.

    Inputs, besides those of ``twin_of``:
    - device: where it computes; ``.to(device)`` moves it, as any module

    Captions, tokens and what the methods for decoding return are NumPy arrays. Features may be
    tensors as well, so that a gradient can flow on into the network that looked at the image.
    """

    twin_of: type[CaptioningModel]

    def __init__(self, *arguments, device: str | torch.device = "cpu", **options):
        super().__init__()
        numpy_model = self.twin_of(*arguments, **options)
        params = vars(numpy_model).pop("params")
        vars(self).update(vars(numpy_model))
        self.grid = self.twin_of.grid
        self._build(params)
        self.to(device, torch.from_numpy(params["W_embed"]).dtype)
        self.params = params

    def _build(self, params: Mapping[str, Array]) -> None:
        """Makes the modules; the widths are read off the parameters of the NumPy model."""
        raise NotImplementedError

    def names(self) -> dict[str, str]:
        """The name of each parameter in ``core/models`` -> its name here."""
        raise NotImplementedError

    def _checked_features(self, features: Array | Tensor) -> Tensor:
        return self.twin_of._checked_features(self, features)

    def needs_a_grid(self) -> list[str]:
        return self.twin_of.needs_a_grid(self)

    def head_names(self) -> list[str]:
        """What the maps of ``attention_weights`` are called, for a model that has attention."""
        return self.twin_of.head_names(self)

    # -- parameters in the names and the layout of core/models ----------------------------------

    @property
    def params(self) -> Mapping[str, Array]:
        """The parameters as the NumPy model has them: copies, and read-only. Assign to load.

        Assigning raises ValueError for the parameters of another model.
        """
        return MappingProxyType(to_numpy(self, dict(self.named_parameters())))

    @params.setter
    def params(self, params: Mapping[str, Array]) -> None:
        # Not strict: the frozen biases, and the second name of tied weights, are not among ours.
        self.load_state_dict(to_torch(self, params), strict=False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # -- training -------------------------------------------------------------------------------

    def forward(self, features: Array | Tensor, captions: Array) -> Tensor:
        """Scores (N, T, V) of each word but the first of captions (N, T + 1), given those before.

        Drops out in training mode (``.train()``, the mode of a new module), not after ``.eval()``.
        """
        features, words, _, mask = self._checked(features, captions)
        every = torch.ones_like(mask)
        return self.vocab(self._forward(features, words, every, self._dropout(self.training))[0])

    def loss(
        self, features: Array | Tensor, captions: Array, weights: Array | None = None
    ) -> Tensor:
        """The training loss of a batch, to call ``backward`` on; drops out as ``forward`` does."""
        return self._loss(features, captions, self.training, weights)[0]

    @torch.no_grad()
    def evaluate(self, features: Array | Tensor, captions: Array) -> float:
        """The cross-entropy of a batch, as in ``loss``, without dropout and penalty."""
        return self._loss(features, captions, False)[1].item()

    def _loss(
        self, features, captions: Array, train: bool, weights: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """With and without the penalty: nats, summed over time and averaged over the batch."""
        features, words, targets, mask = self._checked(features, captions)
        features = self._dropout(train, self.feature_dropout)(features)
        h, penalty = self._forward(features, words, mask, self._dropout(train))
        scores, targets = self.vocab(h[mask]), targets[mask]  # only those that count are made
        if train and self.top_k is not None:
            scores = scores.masked_fill(~self._drawn_from(scores, targets), -math.inf)
        losses = F.cross_entropy(
            scores,
            targets,
            reduction="none",
            label_smoothing=self.label_smoothing if train else 0.0,
        )
        if weights is not None:
            losses = losses * self._as_array(weights)[mask.nonzero()[:, 0]]
        cross_entropy = losses.sum() / len(words)
        return cross_entropy + penalty, cross_entropy

    @torch.no_grad()
    def _drawn_from(self, scores: Tensor, targets: Tensor) -> Tensor:
        """As in ``core/models/base.py``."""
        never = self._rows(never_said(self))
        scores = scores.index_fill(1, never, -math.inf)
        kept = scores >= scores.topk(min(self.top_k, scores.shape[1])).values[:, -1:]
        return kept.index_fill(1, never, False).scatter(1, targets[:, None], True)

    def _forward(self, features: Tensor, words: Tensor, mask: Tensor, drop: Drop):
        """What ``self.vocab`` scores the word after each of ``words`` (N, T) from, (N, T, E), and
        what else the loss counts (0 when nothing). ``mask`` (N, T) says which scores count, and
        ``drop`` drops out."""
        raise NotImplementedError

    def _dropout(self, train: bool, p: float | None = None) -> Drop:
        """What drops out entries of a tensor with probability p, or leaves them when not training.

        The model's own probability when None.

        One number of the NumPy generator seeds all masks of a batch: its state is all there is to
        keep for a run to be resumed, on any device. Every process draws other masks from it.
        """
        p = self.dropout if p is None else p
        if not train or p == 0:
            return lambda x: x
        seed = int(self.rng.integers(2**62)) + rank()
        generator = torch.Generator(self.device).manual_seed(seed)
        keep = 1 - p
        return lambda x: x * torch.empty_like(x).bernoulli_(keep, generator=generator) / keep

    # -- from NumPy to the device and back ------------------------------------------------------

    def _checked(self, features, captions: Array) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, words, targets, _ = super()._checked(features, captions)
        words, targets = self._ids(words), self._ids(targets)
        return features, words, targets, targets != self.null

    def _as_array(self, features: Array | Tensor) -> Tensor:
        if not isinstance(features, Tensor):
            features = torch.from_numpy(np.array(features, order="C"))
        return features.to(next(self.parameters()))  # its device and dtype

    def _ids(self, ids: Array) -> Tensor:
        """Word ids. Checked here, since on a GPU a wrong one would end the process."""
        check_word_ids(np.asarray(ids), len(self.word_to_idx), "word ids")
        return self._rows(ids)

    def _rows(self, rows: Array) -> Tensor:
        """Integers, as an index of tensors on the device."""
        return torch.from_numpy(np.array(rows, dtype=np.int64, order="C")).to(self.device)


def log_probabilities(scores: Tensor) -> Array:
    """Scores (N, V) of the next word -> their log-softmax."""
    return scores.log_softmax(dim=1).cpu().numpy()


def with_one_bias(module: nn.Module) -> nn.Module:
    """A recurrent module whose second bias is 0 and stays so: it would only double the first."""
    for name, parameter in module.named_parameters():
        if name.startswith("bias_hh"):
            nn.init.zeros_(parameter).requires_grad_(False)
    return module
