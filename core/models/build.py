"""A captioning model by its name, with fresh parameters or with those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.models.captioning_attention import CaptioningAttention
from core.models.captioning_rnn import CaptioningRNN
from core.models.captioning_transformer import CaptioningTransformer

# name -> class, and the arguments that the name stands for
MODELS = {
    "rnn": (CaptioningRNN, {"cell_type": "rnn"}),
    "lstm": (CaptioningRNN, {"cell_type": "lstm"}),
    "attention": (CaptioningAttention, {}),
    "transformer": (CaptioningTransformer, {}),
}


def build_model(
    name: str,
    config: Mapping,
    idx_to_word: Sequence[str],
    params: Mapping[str, np.ndarray] | None = None,
    rng: np.random.Generator | None = None,
    models: Mapping[str, tuple] = MODELS,
):
    """A model by its name in ``MODELS``, with the given parameters or with fresh ones.

    Inputs:
    - name: a key of ``models``
    - config: arguments of the constructor besides the vocabulary
    - idx_to_word: the vocabulary
    - params: parameters to put in; drawn from ``rng`` when None
    - rng: as for the constructor
    - models: what the names stand for; PyTorch's twins have a table of their own

    Raises ValueError for an unknown name, and for parameters that do not fit the model.
    """
    if name not in models:
        raise ValueError(f"model: found {name!r}, expected one of {', '.join(models)}")
    word_to_idx = {word: i for i, word in enumerate(idx_to_word)}
    model_class, implied = models[name]
    model = model_class(word_to_idx, **implied, **config, rng=rng)
    if params is not None:
        expected = model.params
        check_parameters(params, expected)
        model.params = {key: params[key].astype(model.dtype) for key in expected}
    return model


def check_parameters(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless both hold the same names, with arrays of the same shapes."""
    found = {key: value.shape for key, value in found.items()}
    expected = {key: value.shape for key, value in expected.items()}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise ValueError(
                f"parameter {key}: found shape {found.get(key)}, expected {expected.get(key)}; "
                "the checkpoint is of another model"
            )
