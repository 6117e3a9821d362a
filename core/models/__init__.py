"""The captioning models, hand-written in NumPy."""

from collections.abc import Mapping, Sequence

import numpy as np

from core.models.captioning_attention import CaptioningAttention
from core.models.captioning_rnn import CaptioningRNN
from core.models.captioning_transformer import CaptioningTransformer

__all__ = [
    "MODELS",
    "CaptioningAttention",
    "CaptioningRNN",
    "CaptioningTransformer",
    "build_model",
]

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
):
    """A model by its name in ``MODELS``, with the given parameters or with fresh ones.

    Inputs:
    - name: a key of ``MODELS``
    - config: arguments of the constructor besides the vocabulary
    - idx_to_word: the vocabulary
    - params: parameters to put in; drawn from ``rng`` when None
    - rng: as for the constructor

    Raises ValueError for an unknown name, and for parameters that do not fit the model.
    """
    if name not in MODELS:
        raise ValueError(f"model: found {name!r}, expected one of {', '.join(MODELS)}")
    word_to_idx = {word: i for i, word in enumerate(idx_to_word)}
    model_class, implied = MODELS[name]
    model = model_class(word_to_idx, **implied, **config, rng=rng)
    if params is not None:
        found = {key: value.shape for key, value in params.items()}
        expected = {key: value.shape for key, value in model.params.items()}
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key):
                raise ValueError(
                    f"parameter {key}: found shape {found.get(key)}, expected {expected.get(key)}; "
                    "the checkpoint is of another model"
                )
        model.params = {key: params[key].astype(model.dtype) for key in expected}
    return model
