"""A trained model in one ``.npz`` file: everything needed to caption with it, and to train it on.

Arrays have names such as ``params/W_embed``; all else is JSON text under ``meta``. Nothing is
pickled, so loading a file runs no code. Files appear whole or not at all. The same in the format
safetensors is for other programs (``core/runs/export.py``).

What is read is compared with what a checkpoint is: the JSON with ``core/support/declared.py``, the
names, shapes and types of the arrays with the model that the JSON says. Both happen before an array
is read, so that a small file cannot ask for much memory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from core.parameter_shapes import parameter_shapes
from core.support.choices import GIVEN, OUTPUTS
from core.support.declared import CONFIG, META, fault_of_extractor
from core.support.files import atomic_file
from core.support.memory import available_memory
from core.support.safetensors import is_safetensors, read_place, read_places, write_arrays
from core.support.schema import Whole, shown

Array = np.ndarray

FORMAT = 1
SAFETENSORS = ".safetensors"
ENCODER = "encoder."  # how the names of an encoder's parameters begin
COUNTERS = ".num_batches_tracked"  # and end, where they are whole numbers
_PROJECTION = ("pca_mean", "pca_components")
_COURSES = ("W_proj", "W_embed", "W_vocab")  # names that CS231n's models have, and ours too
_STUDENTS = "docs/for-cs231n-students.md"
_MOST_INFLATED = 100  # times that the JSON may be larger than its compressed form


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
    - card: of a model that is passed on, what people must know of it; such a file knows the hash of
      its contents, and is refused when they have another
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
    card: str = ""

    @property
    def decoder_params(self) -> dict[str, Array]:
        """The parameters of the captioning model itself."""
        return {k: x for k, x in self.params.items() if not k.startswith(ENCODER)}

    @property
    def encoder_state(self) -> dict[str, Array]:
        """The state of the encoder's stages, by its own names; empty when it was not trained."""
        return _under(self.params, ENCODER)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, atomically: as safetensors where the name ends so, else as ``.npz``."""
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
    if checkpoint.card:
        meta["card"] = checkpoint.card
        meta["sha256"] = content_hash(meta, arrays)
    text = json.dumps(meta)
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        if Path(path).suffix == SAFETENSORS:
            write_arrays(file, arrays, {"format": "pt", "meta": text})
        else:
            np.savez(file, meta=np.array(text), **arrays)


def content_hash(meta: Mapping, arrays: Mapping[str, Array]) -> str:
    """The SHA-256 of what a file holds, whatever its format."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises FileNotFoundError, an OSError when the file cannot be read, and ValueError when it is
    torn, is no checkpoint, does not agree with itself, holds numbers that are not finite, or was
    written in a format that this version does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; train a model with training.py first")
    try:
        with open(path, "rb") as file:
            return _read(path, file)
    except _OtherFormat as error:
        raise ValueError(
            f"{path}: has checkpoint format {error}, this version reads {FORMAT}; "
            "use the version that wrote it"
        ) from error
    except _OtherProgram as error:
        raise ValueError(f"{path}: was not written by this program: {error}") from error
    except _Fault as error:
        reason, cause = str(error), error
    except MemoryError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # which a torn file makes of a seek
            raise OSError(
                f"{path}: cannot be read ({error.strerror}); may you read it, is the disk sound?"
            ) from error
        reason, cause = "its directory of arrays is damaged", error
    except Exception as error:  # the readers of zip, npy and JSON raise whatever they stumble over,
        # and say things that must not be passed on, such as to allow pickles
        reason, cause = f"{type(error).__name__} while it was read", error
    raise ValueError(
        f"{path}: is not a whole checkpoint ({reason}); use another file of the run, or train again"
    ) from cause


class _Fault(Exception):
    """What is wrong with a checkpoint, in words."""


class _OtherFormat(Exception):
    """The format of a checkpoint of another version."""


class _OtherProgram(Exception):
    """What the file of another program holds, and how to take it over."""


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise _Fault(otherwise)


def _read(path: Path, file) -> Checkpoint:
    if is_safetensors(file):
        try:
            members, texts = read_places(file)
        except ValueError as error:
            raise _Fault(str(error)) from error
        _require("meta" in texts, "it has no meta")
        meta = _checked_meta(texts["meta"])
        return _assembled(meta, members, lambda name: read_place(file, members[name]))
    _require(zipfile.is_zipfile(file), "it is no .npz file, or its end is missing")
    with zipfile.ZipFile(file) as archive:
        _require_ours([name.removesuffix(".npy") for name in archive.namelist()])
        members = _members(archive)
        meta = _checked_meta(_meta_of_npz(archive, members))
        return _assembled(meta, members, lambda name: _read_array(archive, members[name]))


def _assembled(
    meta: dict, members: Mapping[str, Member], read: Callable[[str], Array]
) -> Checkpoint:
    """The checkpoint of arrays whose headers alone have been read, by name."""
    _check_arrays(members, meta)
    needed, free = sum(member.size for member in members.values()), available_memory()
    _require(free is None or needed < free, f"its arrays take {needed:,} bytes of memory")
    arrays = {name: read(name) for name in members}
    _check_finite(arrays, meta["config"].get("dtype", "float32"))
    known = meta.pop("sha256", None)
    if known is not None:
        same = content_hash({"format": FORMAT, **meta}, arrays) == known
        _require(same, "its contents are not those that were exported: their hash is another")
    optimizer = {
        name: {**config, **_under(arrays, f"optimizer/{name}/")}
        for name, config in meta.pop("optimizer").items()
    }
    return Checkpoint(
        **meta,
        params=_under(arrays, "params/"),
        extractor_arrays=_under(arrays, "extractor/"),
        optimizer=optimizer,
    )


def _require_ours(names: list[str]) -> None:
    """Raises _OtherProgram for the parameters of a CS231n model, whatever comes before their names.

    Nothing in such a file says which model it is, of what sizes, or of which words.
    """
    ours = "meta" in names or any(name.startswith("params/") for name in names)
    known = [name for name in names if name.endswith(_COURSES)]
    if known and not ours:
        own = next(name for name in _COURSES if known[0].endswith(name))
        raise _OtherProgram(
            f"it holds {', '.join(map(shown, known))}, and nothing that says of which model and "
            f"words; build the model in Python and take over each of its arrays, "
            f"model.params[{own!r}] = np.load(path)[{known[0]!r}], as {_STUDENTS} shows"
        )


class Member(Protocol):
    """An array of the file, of which only the header has been read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    size: int  # bytes


@dataclass
class _Member:
    """One of an ``.npz``."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return self.info.file_size


def _members(archive: zipfile.ZipFile) -> dict[str, _Member]:
    """What the headers say of the arrays, by name."""
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    members: dict[str, _Member] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        _require(name not in members, f"{shown(name)} is there twice")
        _require(not info.flag_bits & 1, f"{shown(name)} is encrypted")
        known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        _require(known, f"{shown(name)} is compressed in a way that NumPy does not use")
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            _require(version in read_header, f"{shown(name)} is of an unknown npy version")
            shape, _, dtype = read_header[version](stream)
            size = stream.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject and "meta.npy" not in archive.namelist():
            raise _OtherProgram(
                f"{shown(name)} holds pickled objects, which may run code and are not read; "
                f"where it was made save plain arrays, np.savez(path, **model.params), and take "
                f"those over as {_STUDENTS} shows"
            )
        _require(not dtype.hasobject, f"{shown(name)} holds pickled objects")
        _require(size == info.file_size, f"{shown(name)} is not as long as it says")
        members[name] = _Member(info, shape, dtype)
    return members


def _meta_of_npz(archive: zipfile.ZipFile, members: dict[str, _Member]) -> str:
    """The JSON; its member is taken out."""
    _require("meta" in members, "it has no meta")
    member = members.pop("meta")
    _require(member.dtype.kind == "U" and member.shape == (), "its meta is no text")
    inflated = member.info.file_size / max(1, member.info.compress_size)
    _require(inflated <= _MOST_INFLATED, f"its meta inflates {inflated:,.0f} times")
    return str(_read_array(archive, member))


def _checked_meta(text: str) -> dict:
    meta = json.loads(text, object_pairs_hook=_once)
    _require(isinstance(meta, dict) and "format" in meta, "its meta names no format")
    found = meta.pop("format")
    if fault := Whole(1).fault(found):
        raise _Fault(f"its format {fault}")
    if found != FORMAT:
        raise _OtherFormat(found)
    if fault := META.fault(meta):
        raise _Fault(f"its meta: {fault}")
    if fault := CONFIG[meta["model"]].fault(meta["config"]):
        raise _Fault(f"its config: {fault}")
    if meta["extractor"] and (fault := fault_of_extractor(meta["extractor"])):
        raise _Fault(f"its extractor: {fault}")
    words = meta["idx_to_word"]
    _require(len(words) == len(set(words)), "a word is in its vocabulary twice")
    _require("<NULL>" in words, "its vocabulary has no <NULL>")
    return meta


def _once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    _require(len(found) == len(pairs), "a name is twice in one object of its meta")
    return found


def _check_arrays(members: Mapping[str, Member], meta: dict) -> None:
    """Compares names, shapes and types of the arrays with what the JSON says of the model."""
    try:
        expected = parameter_shapes(meta["model"], meta["config"], len(meta["idx_to_word"]))
    except ValueError as error:  # of numbers that do not go together
        raise _Fault(f"config: {error}") from error
    found = {name: member.shape for name, member in _under(members, "params/").items()}
    decoder = {name for name in found if not name.startswith(ENCODER)}
    for name in sorted(decoder ^ expected.keys()):
        _require(False, f"{'an unknown' if name in found else 'no'} parameter {shown(name)}")
    for name, shape in expected.items():
        wrong = f"parameter {name} has shape {found[name]}, expected {shape}"
        _require(found[name] == shape, wrong)
    extractor = _under(members, "extractor/")
    if extractor:
        _require(set(extractor) == set(_PROJECTION), "its projection is not whole")
        mean, components = (extractor[name].shape for name in _PROJECTION)
        fits = len(components) == 2 and mean == components[:1]
        fits = fits and components[1] == meta["config"]["input_dim"]
        _require(fits, f"its projection has shapes {mean} and {components}, which do not fit")
        known = meta["extractor"]
        _require(known is not None, "it has a projection, but no extractor")
        given = known["encoder"] == GIVEN
        width = (known["shape"] if given else OUTPUTS[known["encoder"]][known["output"]])[-1]
        _require(
            mean == (width,), f"its projection reads {mean} numbers, its encoder gives {width}"
        )
    for name in meta["optimizer"]:
        _require(name in found, f"its optimizer knows {shown(name)}, which is no parameter")
    for name, member in members.items():
        kind, _, rest = name.partition("/")
        of, _, what = rest.rpartition("/")
        if kind == "optimizer":
            fits = of in meta["optimizer"] and what.isidentifier() and member.shape == found[of]
            _require(fits, f"{shown(name)} does not belong to a parameter")
        else:
            _require(kind in ("params", "extractor"), f"it holds {shown(name)}")
        counts = kind == "params" and name.endswith(COUNTERS)
        fits = member.dtype.kind in ("iu" if counts else "f") and member.dtype.itemsize <= 8
        _require(fits, f"{shown(name)} holds {member.dtype} numbers, expected floating-point ones")


def _read_array(archive: zipfile.ZipFile, member: _Member) -> Array:
    with archive.open(member.info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # at the end the checksum is compared
    return array


def _check_finite(arrays: Mapping[str, Array], dtype: str) -> None:
    for name, array in arrays.items():
        with np.errstate(over="ignore"):  # a float64 may be too large for the model's float32
            finite = np.isfinite(array if name.startswith("extractor/") else array.astype(dtype))
        _require(finite.all(), f"{shown(name)} holds numbers that are not finite")


def _under(entries: Mapping, prefix: str) -> dict:
    return {k.removeprefix(prefix): v for k, v in entries.items() if k.startswith(prefix)}
