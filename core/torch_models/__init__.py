"""The captioning models once more, from PyTorch's own parts: for GPUs and several processes.

Each computes what its twin in ``core/models`` computes, gradients included, and their parameters
go back and forth (``core/torch_models/convert.py``).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from core.models import MODELS, build_model
from core.torch_models.base import TorchCaptioner
from core.torch_models.captioning_attention import TorchCaptioningAttention
from core.torch_models.captioning_rnn import TorchCaptioningRNN
from core.torch_models.captioning_transformer import TorchCaptioningTransformer
from core.torch_models.engine import TorchEngine

__all__ = [
    "TORCH_MODELS",
    "TorchCaptioner",
    "TorchCaptioningAttention",
    "TorchCaptioningRNN",
    "TorchCaptioningTransformer",
    "TorchEngine",
    "build_torch_model",
    "choose_device",
]

_TWINS = (TorchCaptioningRNN, TorchCaptioningAttention, TorchCaptioningTransformer)
_TWIN_OF = {twin.twin_of: twin for twin in _TWINS}

# As MODELS of core/models.
TORCH_MODELS = {name: (_TWIN_OF[model], implied) for name, (model, implied) in MODELS.items()}


def choose_device(name: str) -> torch.device:
    """The device of that name; for 'auto' a GPU where there is one, else the CPU.

    Raises ValueError when there is no such device on this machine.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((device for device, available in there.items() if available), "cpu")
    if not there.get(name, name == "cpu"):
        raise ValueError(f"--device {name}: there is none on this machine, expected cpu or auto")
    return torch.device(name)


def build_torch_model(
    name: str,
    config: Mapping,
    idx_to_word: Sequence[str],
    params: Mapping[str, np.ndarray] | None = None,
    rng: np.random.Generator | None = None,
    device: str | torch.device = "cpu",
) -> TorchCaptioner:
    """As ``core.models.build_model``, and on a device.

    Without ``params`` they are drawn by the NumPy model, so that both engines start from the same
    numbers.
    """
    config = {**config, "device": device}
    return build_model(name, config, idx_to_word, params, rng, TORCH_MODELS)
