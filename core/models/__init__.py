"""The captioning models, hand-written in NumPy."""

from core.models.build import MODELS, build_model, check_parameters
from core.models.captioning_attention import CaptioningAttention
from core.models.captioning_rnn import CaptioningRNN
from core.models.captioning_transformer import CaptioningTransformer

__all__ = [
    "MODELS",
    "CaptioningAttention",
    "CaptioningRNN",
    "CaptioningTransformer",
    "build_model",
    "check_parameters",
]
