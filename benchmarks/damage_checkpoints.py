"""Damaged checkpoints, weight files and settings of a run, made by a seed.

``kinds()`` yields (name, make, read): ``make(rng, folder)`` writes a damaged file and returns its
path, ``read(path)`` reads it as the commands do. Whatever the damage, reading either gives numbers
that are finite and fit together, or raises ValueError or OSError with one line that names the file.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "cat", "dog"]
ODD = (
    None, "x", "", -1, 0, 1.5, 10**9, 10**400, 1e308, float("nan"), float("inf"), True, [], {},
    [[]], {"a": 1}, "a\0b", "\ud800", "cuda",
)  # fmt: skip
SIZES = {"input_dim": 6, "wordvec_dim": 8, "hidden_dim": 5, "dtype": "float32", "dropout": 0.1}
TRANSFORMER = {"num_heads": 2, "num_layers": 1, "max_length": 9, "activation": "gelu"}


@cache
def _whole(model: str) -> bytes:
    """The bytes of a checkpoint that lacks nothing."""
    from core.checkpoint import Checkpoint, save_checkpoint
    from core.models import build_model
    from core.runs.settings import DEFAULTS

    rng = np.random.default_rng(0)
    config = SIZES | (TRANSFORMER if model == "transformer" else {})
    params = build_model(model, config, WORDS).params
    names = ("learning_rate", "beta1", "beta2", "epsilon")
    optimizer = {
        name: dict.fromkeys(names, 0.1) | {"t": 2, "m": value * 0.5, "v": value**2}
        for name, value in params.items()
    }
    row = {"epoch": 1, "train_loss": 2.0, "val_loss": 2.5, "learning_rate": 0.1}
    state = rng.bit_generator.state
    extractor = {"encoder": "fixed_cnn", "output": "grid", "preprocessing": {"size": 64}}
    extractor |= {"weights": None, "sha256": None, "grid": 2}
    projection = {"pca_mean": np.zeros(47), "pca_components": rng.standard_normal((47, 6))}
    file = io.BytesIO()
    checkpoint = Checkpoint(
        model, config, WORDS, params, extractor, projection, DEFAULTS | {"model": model},
        {"epoch": 1, "max_length": 7, "history": [row], "loss_history": [3.0, 2.0],
         "shuffling": state, "dropout": state},
        optimizer,
        {"train": {"captions": "00", "shape": [3, 6], "features": [[0.5] * 16]}},
    )  # fmt: skip
    _to_file(partial(save_checkpoint, checkpoint=checkpoint), file)
    return file.getvalue()


def _to_file(save: Callable, file: io.BytesIO) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "whole.npz"))
        file.write(Path(folder, "whole.npz").read_bytes())


def _model(rng) -> str:
    return ("lstm", "transformer")[rng.integers(2)]


def _parts(model: str) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(io.BytesIO(_whole(model))) as archive:
        arrays = dict(archive)
    return json.loads(str(arrays.pop("meta"))), arrays


def _write(path: Path, meta, arrays: dict) -> Path:
    text = meta if isinstance(meta, str) else json.dumps(meta)
    with open(path, "wb") as file:
        np.savez(file, meta=np.array(text), **arrays)
    return path


# -- damage ------------------------------------------------------------------------------------


def damaged_bytes(rng, content: bytes) -> bytes:
    """Some bytes are others, or are gone, or are there twice."""
    data, how = bytearray(content), rng.integers(4)
    start = int(rng.integers(len(data)))
    if how == 0:
        return bytes(data[:start])
    if how == 1:
        return bytes(data[:start] + data[start + int(rng.integers(1, 400)) :])
    if how == 2:
        return bytes(data[:start] + data[max(0, start - 200) :])
    for place in rng.integers(len(data), size=rng.integers(1, 20)):
        data[place] = rng.integers(256)
    return bytes(data)


def damaged_json(rng, value):
    """A copy in which one entry, however deep, is of an odd value, gone, or new."""
    value, places = copy.deepcopy(value), []
    waiting = [value]
    while waiting:
        for key in (keys := list(_keys(each := waiting.pop()))):
            if isinstance(each[key], dict | list):
                waiting.append(each[key])
        places += [(each, key) for key in keys[:30]]
    of, key = places[rng.integers(len(places))]
    how = rng.integers(6)
    if how == 0:
        del of[key]
    elif how == 1 and isinstance(of, dict):
        of["of_another_version"] = of[key]
    else:
        of[key] = ODD[rng.integers(len(ODD))]
    return value


def _keys(value):
    return value.keys() if isinstance(value, dict) else range(len(value))


def _damaged_array(rng, array: np.ndarray) -> np.ndarray:
    spoilt = array.copy()
    spoilt.flat[rng.integers(array.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return (
        spoilt, array.astype(str), array > 0, array.astype(complex), array.astype(int),
        array[..., :-1], array[None], array.T.copy()[:1], np.zeros(()), np.float64(1e300) + array,
        np.array({"a": 1}, dtype=object), array.astype(">f8") * np.nan, np.zeros((0, 3)),
    )[rng.integers(13)]  # fmt: skip


def npz_of_other_bytes(rng, folder: Path) -> Path:
    path = folder / "bytes.npz"
    path.write_bytes(damaged_bytes(rng, _whole(_model(rng))))
    return path


def npz_of_other_json(rng, folder: Path) -> Path:
    meta, arrays = _parts(_model(rng))
    part = [meta, meta["config"], meta["extractor"], meta["training"], meta["optimizer"]]
    part = part[rng.integers(len(part))]
    changed = damaged_json(rng, part)
    if part is meta:
        meta = changed
    else:
        part.clear()
        part.update(changed)
    return _write(folder / "json.npz", meta, arrays)


def npz_of_other_arrays(rng, folder: Path) -> Path:
    meta, arrays = _parts(_model(rng))
    name = list(arrays)[rng.integers(len(arrays))]
    how = rng.integers(8)
    if how == 0:
        del arrays[name]
    elif how == 1:
        arrays[f"{name}x"] = arrays.pop(name)
    elif how == 2:
        arrays[("extra", "params/extra", "optimizer/b/u")[rng.integers(3)]] = np.ones(3)
    else:
        arrays[name] = _damaged_array(rng, arrays[name])
    return _write(folder / "arrays.npz", meta, arrays)


def npz_of_another_zip(rng, folder: Path) -> Path:
    """Another compression, a member that is encrypted, twice there, or has another header."""
    path, how = folder / "zip.npz", rng.integers(6)
    with zipfile.ZipFile(io.BytesIO(_whole(_model(rng)))) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    odd = list(members)[rng.integers(len(members))]
    kind = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[rng.integers(3)]
    if how == 1:
        members[odd] = damaged_bytes(rng, members[odd])
    if how == 2:
        members[odd] = b"\x93NUMPY\x01\x00" + b"v\x00" + (
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999), }"
        ).ljust(118)  # fmt: skip
    with zipfile.ZipFile(path, "w", kind if how in (0, 5) else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = bytearray(path.read_bytes())
    if how == 3:  # what says how the first member is compressed, in the directory at the end
        data[data.index(b"PK\x01\x02") + 10] = rng.integers(1, 99)
    if how == 4:  # that it is encrypted
        data[data.index(b"PK\x01\x02") + 8] |= 1
    if how == 5:
        data = bytearray(damaged_bytes(rng, bytes(data)))
    path.write_bytes(data)
    return path


def npz_that_is_another_file(rng, folder: Path) -> Path:
    path = folder / "other.npz"
    contents = (
        b"", b"hello", b"PK\x05\x06" + bytes(18), pickle.dumps({"a": 1}), b"\x93NUMPY\x01\x00",
        b"<html></html>", b"PK\x03\x04", bytes(1000), rng.bytes(1000),
    )  # fmt: skip
    path.write_bytes(contents[rng.integers(len(contents))])
    meta, arrays = _parts("lstm")
    how = rng.integers(4)
    if how == 0:
        _write(path, "[" * int(rng.integers(1_000, 200_000)), arrays)
    if how == 1:
        _write(path, json.dumps(meta)[: rng.integers(100)] + " " * 10, arrays)
    if how == 2:
        np.savez(path, meta=np.array([b"{}", b"", b"3"][rng.integers(3)]))
    return path


@cache
def _state() -> dict:
    from core.encoders.tiny_cnn import TinyCNN

    return TinyCNN().state_dict()


def pth_of_other_bytes(rng, folder: Path) -> Path:
    import torch

    path = folder / "bytes.pth"
    torch.save(_state(), path, _use_new_zipfile_serialization=bool(rng.integers(3)))
    path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    return path


def pth_of_other_tensors(rng, folder: Path) -> Path:
    import torch

    path, state = folder / "tensors.pth", dict(_state())
    name = [key for key in state if state[key].is_floating_point()][rng.integers(5)]
    tensor, zeros = state[name], torch.zeros(3)
    made = (
        lambda: tensor.to("meta"), lambda: tensor.to_sparse(), lambda: tensor * torch.nan,
        lambda: tensor / 0, lambda: tensor.to(torch.complex64), lambda: tensor > 0,
        lambda: tensor.long(), lambda: torch.quantize_per_tensor(zeros, 0.1, 0, torch.qint8),
        lambda: tensor[None], lambda: zeros, lambda: 3, lambda: "x", lambda: None, lambda: [tensor],
        lambda: {"a": tensor}, lambda: torch.nested.nested_tensor([zeros, zeros[:1]]),
    )  # fmt: skip
    how = rng.integers(len(made) + 3)
    if how < len(made):
        state[name] = made[how]()
    elif how == len(made):
        del state[name]
    else:
        state[(3, "unknown")[how - len(made) - 1]] = state.pop(name)
    torch.save(state, path)
    return path


def settings_of_other_json(rng, folder: Path) -> Path:
    from core.runs.settings import DEFAULTS

    path, settings = folder / "config.json", DEFAULTS | {"model": "lstm"}
    text = json.dumps(damaged_json(rng, settings))
    if rng.integers(4) == 0:
        text = damaged_bytes(rng, text.encode()).decode("latin-1")
    path.write_text(text, encoding="utf-8")
    return path


# -- reading -----------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> None:
    from core.checkpoint import load_checkpoint
    from core.models import build_model

    checkpoint = load_checkpoint(path)
    params = checkpoint.decoder_params
    model = build_model(checkpoint.model, checkpoint.config, checkpoint.idx_to_word, params)
    features = np.ones((2, *(3,) * model.grid, model.input_dim), model.dtype)
    tokens = np.zeros(2, int)
    assert all(np.isfinite(x).all() for x in model.params.values())
    with np.errstate(all="ignore"):
        model.step(model.begin(features), tokens)


def read_weights(path: Path) -> None:
    from core.encoders.weights import load_network

    state = load_network("tiny_cnn", str(path)).state_dict()
    assert all(np.isfinite(tensor.numpy()).all() for tensor in state.values())


def read_settings(path: Path) -> None:
    from core.runs.settings import resolve_settings

    resolve_settings({}, path.parent, resume=True)


def kinds() -> Iterator[tuple[str, Callable, Callable]]:
    """(name, make, read) of each kind of damage."""
    for make in (
        npz_of_other_bytes,
        npz_of_other_json,
        npz_of_other_arrays,
        npz_of_another_zip,
        npz_that_is_another_file,
    ):
        yield make.__name__, make, read_checkpoint
    for make in (pth_of_other_bytes, pth_of_other_tensors):
        yield make.__name__, make, read_weights
    yield settings_of_other_json.__name__, settings_of_other_json, read_settings
