"""One step of training for the twins: PyTorch's gradients and optimizers, for the solver."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from core.torch_models.base import TorchCaptioner
from core.torch_models.optim import TorchOptimizer

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


class TorchEngine:
    """What ``NumpyEngine`` is for the models of ``core/models``, for their twins.

    Inputs:
    - model: a twin
    - update_rule, optim_config, clip_norm: as for ``CaptioningSolver``
    - precision: 'float32' computes in the dtype of the model; 'bf16' lets autocast choose where
      bfloat16 will do
    """

    def __init__(
        self,
        model: TorchCaptioner,
        update_rule: str,
        optim_config: Mapping,
        clip_norm: float | None,
        precision: str = "float32",
    ):
        self.model, self.clip_norm, self.precision = model, clip_norm, precision
        self.optimizer = TorchOptimizer(model, update_rule, optim_config)

    def compute(self, features, captions) -> float:
        """The loss of a batch; leaves its gradients in the parameters."""
        lower = PRECISIONS[self.precision]
        with torch.autocast(self.model.device.type, lower, enabled=lower is not None):
            loss = self.model.loss(features, captions)
        loss.backward()
        return loss.item()

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

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimizer.learning_rate = value
