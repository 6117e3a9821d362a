"""A twin in PyTorch by the name of its model, with an encoder before it or without.

Takes the arguments of ``core/models/build.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.encoders import Extractor
from core.models import MODELS, build_model
from core.torch_models.base import TorchCaptioner
from core.torch_models.captioning_attention import TorchCaptioningAttention
from core.torch_models.captioning_rnn import TorchCaptioningRNN
from core.torch_models.captioning_transformer import TorchCaptioningTransformer
from core.torch_models.end_to_end import EndToEndCaptioner

_TWINS = (TorchCaptioningRNN, TorchCaptioningAttention, TorchCaptioningTransformer)
_TWIN_OF = {twin.twin_of: twin for twin in _TWINS}

# As MODELS of core/models.
TORCH_MODELS = {name: (_TWIN_OF[model], implied) for name, (model, implied) in MODELS.items()}


def build_torch_model(
    name: str,
    config: Mapping,
    idx_to_word: Sequence[str],
    params: Mapping[str, np.ndarray] | None = None,
    rng: np.random.Generator | None = None,
    device: str = "cpu",
) -> TorchCaptioner:
    """As ``core.models.build_model``, and on a device.

    Without ``params`` they are drawn by the NumPy model, so that both engines start from the same
    numbers.

    Raises ValueError for float64 on a GPU of Apple's, which computes in float32 alone.
    """
    if device == "mps" and np.dtype(config.get("dtype", np.float32)) == np.float64:
        raise ValueError(
            "--dtype float64: the GPU of this Mac (mps) computes in float32 alone; add --device "
            "cpu, or take --dtype float32"
        )
    config = {**config, "device": device}
    return build_model(name, config, idx_to_word, params, rng, TORCH_MODELS)


def build_end_to_end(
    name: str,
    config: Mapping,
    idx_to_word: Sequence[str],
    params: Mapping[str, np.ndarray] | None = None,
    rng: np.random.Generator | None = None,
    *,
    extractor: Extractor,
    stages: int,
    flip: bool = False,
    crop: float = 1.0,
    device: str = "cpu",
) -> EndToEndCaptioner:
    """As ``build_torch_model``, with an encoder before it."""
    decoder = build_torch_model(name, config, idx_to_word, None, rng, device)
    model = EndToEndCaptioner(decoder, extractor, stages, flip, crop)
    if params is not None:
        model.params = params
    return model
