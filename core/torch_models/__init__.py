"""The captioning models once more, from PyTorch's own parts: for GPUs and several processes.

Each computes what its twin in ``core/models`` computes, gradients included, and their parameters
go back and forth (``core/torch_models/convert.py``).
"""

from core.torch_models.base import TorchCaptioner
from core.torch_models.build import TORCH_MODELS, build_end_to_end, build_torch_model
from core.torch_models.captioning_attention import TorchCaptioningAttention
from core.torch_models.captioning_rnn import TorchCaptioningRNN
from core.torch_models.captioning_transformer import TorchCaptioningTransformer
from core.torch_models.end_to_end import EndToEndCaptioner
from core.torch_models.engine import TorchEngine

__all__ = [
    "TORCH_MODELS",
    "EndToEndCaptioner",
    "TorchCaptioner",
    "TorchCaptioningAttention",
    "TorchCaptioningRNN",
    "TorchCaptioningTransformer",
    "TorchEngine",
    "build_end_to_end",
    "build_torch_model",
]
