"""A trained model in one ``.npz`` file: everything needed to caption with it, and to train it on.

Arrays stand under names such as ``params/W_embed``; all else is JSON text under ``meta``. Nothing
is pickled, so loading a file runs no code. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.support.files import atomic_file

Array = np.ndarray

FORMAT = 1
ENCODER = "encoder."  # how the names of an encoder's parameters begin
# What a file that is no whole checkpoint makes the readers of zip, npy and JSON raise.
_TORN = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError)
_TORN += (zipfile.BadZipFile, zlib.error)


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    - model: name of the model, a key of ``core.models.MODELS``
    - config: the arguments that build it, besides the vocabulary
    - idx_to_word: the vocabulary
    - params: parameters by name; those of an encoder that was trained too begin with 'encoder.'
    - extractor, extractor_arrays: what turns photos into the features it reads, if known
      (``core.encoders.Extractor``)
    - settings: the options of the training run
    - training: the epoch; in last.npz also the history and the states of the generators
    - optimizer: for each parameter, the ``config`` of its update rule
    - data: what tells the data of the run from others (``core.runs.data.fingerprint``)
    """

    model: str
    config: dict
    idx_to_word: list[str]
    params: dict[str, Array]
    extractor: dict | None = None
    extractor_arrays: dict[str, Array] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    optimizer: dict[str, dict] = field(default_factory=dict)
    data: dict = field(default_factory=dict)

    @property
    def decoder_params(self) -> dict[str, Array]:
        """The parameters of the captioning model itself."""
        return {k: x for k, x in self.params.items() if not k.startswith(ENCODER)}

    @property
    def encoder_state(self) -> dict[str, Array]:
        """The state of the encoder's stages, by its own names; empty when it was not trained."""
        return _under(self.params, ENCODER)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, atomically."""
    arrays = {f"params/{name}": value for name, value in checkpoint.params.items()}
    arrays |= {f"extractor/{name}": value for name, value in checkpoint.extractor_arrays.items()}
    scalars: dict[str, dict] = {}
    for name, config in checkpoint.optimizer.items():
        scalars[name] = {k: v for k, v in config.items() if not isinstance(v, np.ndarray)}
        arrays |= {f"optimizer/{name}/{k}": v for k, v in config.items() if k not in scalars[name]}
    meta = {
        "format": FORMAT,
        "model": checkpoint.model,
        "config": checkpoint.config,
        "idx_to_word": checkpoint.idx_to_word,
        "extractor": checkpoint.extractor,
        "settings": checkpoint.settings,
        "training": checkpoint.training,
        "optimizer": scalars,
        "data": checkpoint.data,
    }
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta)), **arrays)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises FileNotFoundError, or ValueError when the file is torn, is no checkpoint, or was written
    in a format that this version does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; train a model with training.py first")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
        found = meta.pop("format")
        optimizer = {
            name: {**config, **_under(arrays, f"optimizer/{name}/")}
            for name, config in meta.pop("optimizer").items()
        }
        checkpoint = Checkpoint(
            **meta,
            params=_under(arrays, "params/"),
            extractor_arrays=_under(arrays, "extractor/"),
            optimizer=optimizer,
        )
    except _TORN as error:
        raise ValueError(
            f"{path}: is not a whole checkpoint ({type(error).__name__}: {error}); "
            "train again, or use another file of the run"
        ) from error
    if found != FORMAT:
        raise ValueError(
            f"{path}: has checkpoint format {found}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    return checkpoint


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
