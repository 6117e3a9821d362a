"""One step of training for the twins: PyTorch's gradients and optimizers, for the solver.

With several processes each computes its share of a batch. Weighted by how many captions that is,
the losses and gradients add up to those of the whole batch, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.support.processes import number_of_processes, share_of, sum_over_all
from core.torch_models.base import TorchCaptioner
from core.torch_models.end_to_end import EndToEndCaptioner
from core.torch_models.optim import TorchOptimizer

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


class _LossOf(nn.Module):
    """The loss as a forward pass, which is where DistributedDataParallel listens."""

    def __init__(self, model: TorchCaptioner):
        super().__init__()
        self.model = model

    def forward(self, features, captions, weights) -> Tensor:
        return self.model.loss(features, captions, weights)


class TorchEngine:
    """What ``NumpyEngine`` is for the models of ``core/models``, for their twins.

    Inputs:
    - model: a twin, or one with an encoder before it
    - update_rule, optim_config, clip_norm: as for ``CaptioningSolver``
    - precision: 'float32' computes in the dtype of the model; 'bf16' lets autocast choose where
      bfloat16 will do
    - encoder_learning_rate: of an encoder that learns with the decoder
    """

    def __init__(
        self,
        model: TorchCaptioner | EndToEndCaptioner,
        update_rule: str,
        optim_config: Mapping,
        clip_norm: float | None,
        precision: str = "float32",
        encoder_learning_rate: float | None = None,
    ):
        self.model, self.clip_norm, self.precision = model, clip_norm, precision
        self.update_rule = update_rule
        self.optimizer = TorchOptimizer(model, update_rule, optim_config, encoder_learning_rate)
        self.processes = number_of_processes()
        self.loss_of = _LossOf(model)
        if self.processes > 1:
            self.loss_of = DistributedDataParallel(self.loss_of)

    def compute(self, features, captions, weights=None) -> float:
        """The loss of a batch; leaves its gradients in the parameters."""
        rows, share = share_of(len(captions))
        features, captions = features[rows], captions[rows]
        weights = None if weights is None else weights[rows]
        lower = PRECISIONS[self.precision]
        with torch.autocast(self.model.device.type, lower, enabled=lower is not None):
            loss = self.loss_of(features, captions, weights)
        # Gradients are averaged over the processes, and should be added up.
        (loss * share * self.processes).backward()
        return sum_over_all(loss.item() * share, self.model.device)

    def evaluate(self, features, captions) -> float:
        """The cross-entropy of a batch, without dropout and gradients."""
        rows, share = share_of(len(captions))
        loss = self.model.evaluate(features[rows], captions[rows])
        return sum_over_all(loss * share, self.model.device)

    def update(self) -> None:
        """Clips the gradients and moves the parameters."""
        self.optimizer.step(self.clip_norm)

    @property
    def configs(self) -> dict[str, dict]:
        """As ``NumpyEngine.configs``, in the same layout."""
        return self.optimizer.configs

    @configs.setter
    def configs(self, configs: Mapping[str, Mapping]) -> None:
        self.optimizer.configs = configs

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    def set_learning_rate(self, factor: float) -> None:
        """As ``NumpyEngine.set_learning_rate``."""
        self.optimizer.set_learning_rate(factor)
