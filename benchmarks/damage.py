"""Damaged files, many of them: does each end in one line that names it, or is it read as it is?

    python -m benchmarks.damage --count 3000 --seed 0
    python -m benchmarks.damage --kind captions.h5      one kind of file

Each is made whole, damaged in one of the ways of ``WAYS``, and read. Right is an error that a
command shows as one line and that names the file, or a file that is accepted. A traceback is a bug,
and so is a line that names nothing. ``tests/test_damage.py`` tries a few hundred.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from benchmarks import damage_checkpoints
from core.support.command_line import INPUT_ERRORS, ArgumentParser, non_negative_int, positive_int

RIGHT, ACCEPTED, TRACEBACK = "right line", "accepted", "traceback"


# ---------------------------------------------------------------------------------------------
# Kinds of files: each is made in a folder of its own, and read by what the commands read it with
# ---------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """A data folder of a few images, with a projection and a record of its photos."""
    from core.coco_utils import SPECIAL_WORDS, save_coco_data

    rng = np.random.default_rng(0)
    words = [*SPECIAL_WORDS, "a", "dog", "runs", "fast"]
    specification = {"encoder": "vgg16", "output": "pooled", "preprocessing": {"size": 64}}
    arrays = {"pca_mean": rng.standard_normal(9), "pca_components": rng.standard_normal((9, 5))}
    urls = {split: [f"images/{split}{i}.png" for i in range(6)] for split in ("train", "val")}
    save_coco_data(
        folder,
        {split: [(i, ["a", "dog", "runs"]) for i in range(6)] for split in urls},
        words,
        urls,
        {"pooled": {s: rng.standard_normal((6, 5)).astype(np.float32) for s in urls}},
        {"pooled": (specification, arrays)},
        image_root=".",
        about={"name": "damage", "account": []},
        extra={"photos.json": {split: [[10, 10**18, "0" * 64]] * 6 for split in urls}},
    )


def of_folder(name: str) -> tuple[Callable, Callable]:
    """A file of a data folder."""

    def make(folder: Path) -> Path:
        make_folder(folder / "data")
        return folder / "data" / name

    def read(path: Path) -> None:
        from core.coco_utils import image_path, load_coco_data
        from core.encoders.photos import say_changed

        data = load_coco_data(path.parent)
        urls = {split: data[f"{split}_urls"] for split in ("train", "val")}
        say_changed(path.parent, data["source"]["image_root"], urls)
        for split in urls:
            np.asarray(data[f"{split}_features"][[0, 5, 2]])
            image_path(data, split, 3)

    return make, read


def make_chunked(folder: Path) -> Path:
    make_folder(folder / "data")
    path = folder / "data" / "train2014_vgg16_pooled_pca.h5"
    with h5py.File(path, "w") as file:
        rows = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
        file.create_dataset("features", data=rows, chunks=(2, 5), compression="gzip")
    return path


def make_scenes(folder: Path) -> Path:
    shape = {"kind": "circle", "colour": "red", "size": "small"}
    picture = {"shapes": [shape, shape], "boxes": [[1.0, 2.0, 13.0, 14.0], [30, 30, 42, 42]]}
    (folder / "scenes.json").write_text(json.dumps({"train": [picture] * 3, "val": [picture]}))
    return folder / "scenes.json"


def read_scenes(path: Path) -> None:
    from core.shapes import load_scenes

    load_scenes(path.parent, "train")


def make_part(folder: Path) -> Path:
    np.savez(
        folder / "part.npz",
        kept=np.arange(3),
        skipped=np.array(["a.png: cannot be read"]),
        stamps=np.ones((4, 4), np.int64),
        hashes=np.array([b"0" * 64] * 4, "S64"),
        features=np.ones((3, 5), np.float32),
    )
    return folder / "part.npz"


def read_part(path: Path) -> None:
    from core.encoders.extract import Parts

    Parts({"features": (5,)}, {"features": np.float32}).read(path)


def written(name: str, text: str) -> Callable:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


def read_captions(path: Path) -> None:
    from core.photos import read_caption_file

    read_caption_file(path)


def read_references(path: Path) -> None:
    from core.metrics.caption_files import read_references

    read_references(path)


def read_candidates(path: Path) -> None:
    from core.metrics.caption_files import read_candidates

    read_candidates(path)


_KARPATHY = {
    "images": [
        {
            "filename": f"{i}.jpg",
            "split": "train",
            "imgid": i,
            "sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}],
        }
        for i in range(4)
    ]
}
_COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)],
    "annotations": [{"image_id": i, "id": i, "caption": "a dog runs"} for i in range(4)],
}
_RESULTS = [{"image_id": i, "file_name": f"{i}.jpg", "caption": "a dog"} for i in range(4)]
_REFERENCES = {f"{i}.jpg": ["a dog", "the dog"] for i in range(4)}
_ROWS = [{"file_name": f"{i}.jpg", "text": "a dog"} for i in range(4)]
_TABLE = "image,caption\n" + "".join(f'{i}.jpg,"a dog, and a cat"\n' for i in range(8))

# name -> (make(folder) -> the file to damage, read(file)); what reads other files adds its own.
KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "captions.h5": of_folder("coco2014_captions.h5"),
    "features.h5": of_folder("train2014_vgg16_pooled_pca.h5"),
    "chunked features.h5": (make_chunked, of_folder("")[1]),
    "projection.h5": of_folder("vgg16_pooled_pca_projection.h5"),
    "dataset.json": of_folder("dataset.json"),
    "vocabulary": of_folder("coco2014_vocab.json"),
    "photos.json": of_folder("photos.json"),
    "urls.txt": of_folder("val2014_urls.txt"),
    "scenes.json": (make_scenes, read_scenes),
    "part of an extraction": (make_part, read_part),
    "Karpathy's JSON": (written("dataset.json", json.dumps(_KARPATHY)), read_captions),
    "COCO's JSON": (written("captions.json", json.dumps(_COCO)), read_captions),
    "metadata.jsonl": (
        written("metadata.jsonl", "".join(f"{json.dumps(row)}\n" for row in _ROWS)),
        read_captions,
    ),
    "captions.txt": (written("captions.txt", _TABLE), read_captions),
    "references": (written("references.json", json.dumps(_REFERENCES)), read_references),
    "candidates": (written("candidates.json", json.dumps(_RESULTS)), read_candidates),
}
# name -> (make(generator, folder) -> a damaged file, read(file))
CHECKPOINTS = {name: (make, read) for name, make, read in damage_checkpoints.kinds()}


# ---------------------------------------------------------------------------------------------
# Ways of damage: (content, generator) -> content
# ---------------------------------------------------------------------------------------------


def _flipped(content: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def _block(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start, stop = sorted(rng.integers(len(content) + 1, size=2).tolist())
    return start, min(stop, start + 512)


def _zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def _swapped(content: bytes, rng: np.random.Generator) -> bytes:
    a, b, c = sorted(rng.integers(len(content) + 1, size=3).tolist())
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _noise(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + rng.bytes(stop - start) + content[stop:]


def _lengthened(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _block(content, rng)
    return content[:stop] + content[start:stop] + content[stop:]


def _emptied(content: bytes, rng: np.random.Generator) -> bytes:
    return b""


_OTHERS = (None, True, -1, 10**400, 1e308, "", "x\0y", "\ud800", "../x", [], {}, [[]], "\u202e")


def _places(value) -> Iterator[tuple]:
    """(container, key) of every place in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _retyped(content: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one value of another type, missing, or nested deeply; other files: bits flipped."""
    try:
        value = json.loads(content)
    except ValueError:
        return _flipped(content, rng)
    places = list(_places(value))
    container, key = places[rng.integers(len(places))]
    way = int(rng.integers(len(_OTHERS) + 2))
    if way == len(_OTHERS):
        del container[key]
    elif way > len(_OTHERS):
        depth = int(rng.choice([50, 900, 100_000]))
        container[key] = "DEEP"
        return json.dumps(value).replace('"DEEP"', "[" * depth + "]" * depth).encode()
    else:
        container[key] = _OTHERS[way]
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value).encode()
    finally:
        sys.set_int_max_str_digits(digits)


WAYS = (_flipped, _cut, _zeroed, _swapped, _noise, _lengthened, _emptied, _retyped, _retyped)


# ---------------------------------------------------------------------------------------------
# The trial
# ---------------------------------------------------------------------------------------------


def tried(kind: str, seed: int, folder: Path) -> tuple[str, str]:
    """What happened to one damaged file: ``RIGHT``, ``ACCEPTED`` or ``TRACEBACK``, and the words.

    The same seed damages in the same way.
    """
    if kind in CHECKPOINTS:  # which are damaged in ways of their own, while they are made
        way, read = CHECKPOINTS[kind]
        path = way(np.random.default_rng([len(KINDS), seed]), folder)
    else:
        make, read = KINDS[kind]
        rng = np.random.default_rng([sorted(KINDS).index(kind), seed])
        path = make(folder)
        way = WAYS[rng.integers(len(WAYS))]
        path.write_bytes(way(path.read_bytes(), rng))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except INPUT_ERRORS as error:
        if path.name in str(error) or str(path.parent) in str(error):
            return RIGHT, str(error)
        return TRACEBACK, f"{way.__name__}: names no file: {error}"
    except Exception:
        return TRACEBACK, f"{way.__name__}: {traceback.format_exc()}"
    return ACCEPTED, ""


def main() -> int:
    parser = ArgumentParser(prog="python -m benchmarks.damage", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=positive_int, default=3000, help="damaged files in all")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="the first of the seeds")
    kinds = [*KINDS, *CHECKPOINTS]
    parser.add_argument("--kind", choices=kinds, help="only this kind of file")
    options = parser.parse_args()
    kinds = [options.kind] if options.kind else kinds
    found = {kind: Counter() for kind in kinds}
    for i in range(options.count):
        kind = kinds[i % len(kinds)]
        with tempfile.TemporaryDirectory() as folder:
            what, words = tried(kind, options.seed + i // len(kinds), Path(folder))
        found[kind][what] += 1
        if what == TRACEBACK:
            print(f"{kind}, seed {options.seed + i // len(kinds)}: {words}", file=sys.stderr)
    print(f"{'file':<24}{RIGHT:>12}{ACCEPTED:>12}{TRACEBACK:>12}")
    for kind, counts in [*found.items(), ("all", sum(found.values(), Counter()))]:
        numbers = "".join(f"{counts[what]:>12,}" for what in (RIGHT, ACCEPTED, TRACEBACK))
        print(f"{kind:<24}{numbers}")
    return int(any(counts[TRACEBACK] for counts in found.values()))


if __name__ == "__main__":
    from core.support.command_line import run_command

    run_command(main)
