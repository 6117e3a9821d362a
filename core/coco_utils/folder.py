"""The coco_captioning data layout: a folder is loaded, checked and written.

A folder in this layout holds

    coco2014_captions.h5      {train,val[,test]}_captions (M, T) word ids, padded with <NULL>
                              {train,val[,test]}_image_idxs (M,) which image each caption describes
    coco2014_vocab.json       idx_to_word, word_to_idx; 0 <NULL>, 1 <START>, 2 <END>, 3 <UNK>
    train2014_urls.txt, ...   one line per image: a URL, or a path below the image folder
    train2014_vgg16_fc7_pca.h5, ...   features (n_images, D) float32

The published archive (CS231n's coco_captioning.zip) is such a folder. What this project prepares
has a ``dataset.json`` too, which names the feature files, the extractor that made them (encoder,
preprocessing, PCA) and the folder of the pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from core.coco_utils.tables import HOW_TO_MEND as _HOW_TO_MEND
from core.coco_utils.tables import Blocks, dataset_in, open_features, open_h5, write_features
from core.coco_utils.words import SPECIAL_WORDS, encode_captions
from core.support.command_line import progress
from core.support.files import (
    DATASETS,
    atomic_folder,
    read_json,
    read_text,
    require_below,
    write_json,
    write_text,
)
from core.support.schema import Each, Entries, ListOf, Optional, Text, Whole, shown

Array = np.ndarray

SPLITS = ("train", "val", "test")
MIRRORED = "train_mirrored"  # the training images in a mirror, as the name of their features
CAPTIONS_FILE = "coco2014_captions.h5"
VOCABULARY_FILE = "coco2014_vocab.json"
DATASET_FILE = "dataset.json"
PHOTOS_FILE = "photos.json"  # what the photos were when they were looked at
_EXTRACTOR = Entries(
    {
        "encoder": Text(),
        "output": Text(),
        "preprocessing": Entries({}, others=True),
        "weights": Optional(Text(name=True)),
        "sha256": Optional(Text()),
        "grid": Optional(Whole(1)),
        "arrays": Text(name=True),
    },
    ("encoder",),
    others=True,
)
_INFO = Entries(
    {
        "features": Each(Each(Text(name=True))),
        "extractors": Each(_EXTRACTOR),
        "image_root": Optional(Text(name=True)),
    },
    ("features",),
    others=True,
)
VOCABULARY = Entries(
    {"idx_to_word": ListOf(Text()), "word_to_idx": Each(Whole())},
    ("idx_to_word", "word_to_idx"),
    others=True,
)
_CHECKED_WHOLE, _CHECKED_AT_ONCE = 2**30, 2**24  # bytes of features
_NULL, _START, _END = range(3)
_MOST_CUT = 0.05  # share of captions without <END> that a published archive may have
DEFAULT_FOLDER = DATASETS / "coco_captioning"


# ---------------------------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------------------------


def load_coco_data(
    base_dir: str | Path = DEFAULT_FOLDER,
    max_train: int | None = None,
    pca_features: bool = True,
    features: str | None = "pooled",
    rng: np.random.Generator | None = None,
    mirrored: bool = False,
) -> dict:
    """Loads a data folder, and checks it: nothing wrong in it surfaces in mid-training.

    Of features of more than a gibibyte only rows that are evenly spaced over the file are checked.
    Every caption must be <START>, words, <END>, then <NULL>. Captions without words, and in an
    archive that this project did not write a few that fill their row and so have no <END>, are
    counted in a warning.

    Inputs:
    - base_dir: the folder
    - max_train: keep this many training captions, drawn without repetition; None keeps all
    - pca_features: of the published archive, the 512-wide features or the 4,096-wide ones
    - features: 'pooled' (n_images, D) or 'grid' (n_images, L, C), where ``dataset.json`` names
      both; None loads none
    - rng: draws ``max_train``; ``default_rng(0)`` when None
    - mirrored: also load ``train_mirrored_features``, of the training images in a mirror

    Returns a dict with, for each split,

    - ``train_captions`` (M, T), ``train_image_idxs`` (M,) integer arrays
    - ``train_features`` (n_images, ...), indexed and computed with as an array: rows are read when
      they are indexed. It may be changed, in memory alone: ``data["train_features"] -= mean``.
    - ``train_urls`` (n_images,) array of str

    and ``idx_to_word``, ``word_to_idx``, and ``source``: a dict of the ``folder``, the
    ``image_root`` below which the pictures lie (or None), the specification of the ``extractor``
    that made the features (or None), and its ``arrays``.

    Raises FileNotFoundError for a missing folder or file, ValueError for a torn file, a split
    without captions, captions in another form, features with NaN or infinity, word ids outside the
    vocabulary and image indices out of range; each names the file, and the first such row.
    """
    folder = Path(base_dir)
    info = _read_info(folder, pca_features)
    if features not in (None, *info["features"]):
        raise ValueError(
            f"{folder}: has no {features} features, only {', '.join(info['features'])}"
        )
    data: dict = _read_vocabulary(folder / VOCABULARY_FILE)
    published = not (folder / DATASET_FILE).exists()
    data.update(_read_captions(folder / CAPTIONS_FILE, data["idx_to_word"], published))
    for split in [split for split in SPLITS if f"{split}_captions" in data]:
        if features is None:
            urls = data[f"{split}_urls"] = _read_urls(folder / f"{split}2014_urls.txt")
            _check_image_idxs(folder / f"{split}2014_urls.txt", data, split, urls)
            continue
        table = data[f"{split}_features"] = _table_of(folder, info, features, split, data)
        data[f"{split}_urls"] = _read_urls(folder / f"{split}2014_urls.txt")
        if len(data[f"{split}_urls"]) != len(table):
            raise ValueError(
                f"{folder / f'{split}2014_urls.txt'}: has {len(data[f'{split}_urls'])} lines for "
                f"{len(table)} images; {_HOW_TO_MEND}"
            )
    if mirrored:
        data[f"{MIRRORED}_features"] = _table_of(folder, info, features, MIRRORED, data)

    if max_train is not None:
        total = len(data["train_captions"])
        if max_train < 1:
            raise ValueError(f"max_train: found {max_train}, expected at least 1")
        rng = rng if rng is not None else np.random.default_rng(0)
        keep = np.sort(rng.choice(total, size=min(max_train, total), replace=False))
        data["train_captions"] = data["train_captions"][keep]
        data["train_image_idxs"] = data["train_image_idxs"][keep]

    extractor = info.get("extractors", {}).get(features)
    arrays = {}
    if extractor and extractor.get("arrays"):
        arrays = _read_arrays(folder / extractor["arrays"])
    data["source"] = {
        "folder": folder,
        **_pictures_of(folder, info.get("image_root"), data),
        "extractor": extractor,
        "arrays": arrays,
    }
    return data


def feature_kinds(base_dir: str | Path) -> list[str]:
    """Which features a data folder has: 'pooled', 'grid' or both.

    Raises FileNotFoundError and ValueError as ``load_coco_data`` does.
    """
    return list(_read_info(Path(base_dir), pca_features=True)["features"])


def holds_mirrored(base_dir: str | Path, kind: str) -> bool:
    """Whether a data folder has features of that kind of the training images in a mirror, too."""
    return MIRRORED in _read_info(Path(base_dir), pca_features=True)["features"].get(kind, {})


def _read_info(folder: Path, pca_features: bool) -> dict:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such data folder; give --data the place where it is now, or "
            f"{_HOW_TO_MEND}"
        )
    path = folder / DATASET_FILE
    if path.exists():
        _require(path)
        info = read_json(path, _INFO, _HOW_TO_MEND)
        for files in info["features"].values():
            for split, name in files.items():
                require_below(path, f"the file of {split} features", name)
        for extractor in info.get("extractors", {}).values():
            require_below(path, "the file of a projection", extractor.get("arrays", "."))
        return info
    ending = "_pca.h5" if pca_features else ".h5"
    names = {split: f"{split}2014_vgg16_fc7{ending}" for split in SPLITS}
    return {"features": {"pooled": names}}


def _table_of(folder: Path, info: Mapping, kind: str, split: str, data: Mapping) -> Array:
    """A table of features, checked; after that of train, whose shape the others have."""
    name = info["features"][kind].get(split)
    if name is None:
        raise ValueError(
            f"{folder / DATASET_FILE}: names no {kind} features of {split}; {_HOW_TO_MEND}"
        )
    table = open_features(folder / name)
    if split in SPLITS:
        _check_image_idxs(folder / name, data, split, table)
    _check_features(folder / name, table)
    train = data.get("train_features", table)
    if table.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"{folder / name}: features of shape {table.shape[1:]}, "
            f"but those of train are {train.shape[1:]}; do the two files belong together?"
        )
    if split == MIRRORED and len(table) != len(train):
        raise ValueError(
            f"{folder / name}: has {len(table)} images, but train has {len(train)}; {_HOW_TO_MEND}"
        )
    return table


def _pictures_of(folder: Path, root: str | None, data: Mapping) -> dict:
    """Where the pictures are, and what they were when they were looked at.

    A folder that somebody passes on might name a file of yours, whose picture would land in a page
    that you pass on. So paths lead below the folder of the pictures. And outside of the data folder
    (``core.flickr8k`` leaves photos where they are) only a photo is shown whose hash was recorded:
    who wrote the hash had the photo. Without such a record no picture outside is looked for.
    """
    hashes = {split: [each[2] for each in photos] for split, photos in read_photos(folder).items()}
    if root is None:
        return {"image_root": None, "hashes": hashes}
    below = Path(os.path.realpath(folder / root))
    splits = [split for split in SPLITS if f"{split}_urls" in data]
    for split in splits:
        for number, url in enumerate(data[f"{split}_urls"], 1):
            require_below(folder / f"{split}2014_urls.txt", f"picture {number}", str(url))
        if split in hashes and len(hashes[split]) != len(data[f"{split}_urls"]):
            raise ValueError(
                f"{folder / PHOTOS_FILE}: records {len(hashes[split]):,} photos of {split}, but "
                f"there are {len(data[f'{split}_urls']):,}; {_HOW_TO_MEND}"
            )
    if not _inside(below, folder) and not all(split in hashes for split in splits):
        warnings.warn(
            f"{folder / DATASET_FILE}: image_root {shown(root)} is outside of the folder, and no "
            f"{PHOTOS_FILE} tells which photos are meant; no picture is read there: prepare the "
            "folder again, or bring the pictures into it",
            stacklevel=3,
        )
        return {"image_root": None, "hashes": hashes}
    return {"image_root": below, "hashes": hashes}


def _inside(path: Path, folder: Path) -> bool:
    """Whether a file or folder, all links followed, is in a folder."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def read_photos(folder: Path) -> dict[str, list[list]]:
    """What the photos of a data folder were when they were looked at; empty without a record.

    Returns for each split a list of [size, time of the last writing in ns, SHA-256] of each photo.

    Raises ValueError when the file is damaged.
    """
    path = folder / PHOTOS_FILE
    if not path.is_file():
        return {}
    splits = read_json(path, Each(ListOf(ListOf(_Anything(), length=3))), _HOW_TO_MEND)
    for split, photos in splits.items():
        for number, (size, written, known) in enumerate(photos):
            if type(size) is not int or type(written) is not int or not isinstance(known, str):
                raise ValueError(
                    f"{path}: {shown(split)} entry {number} is not size, time and hash of a photo; "
                    f"{_HOW_TO_MEND}"
                )
    return splits


class _Anything:
    """A description that everything fits."""

    def fault(self, value) -> None:
        return None


def _read_vocabulary(path: Path) -> dict:
    _require(path)
    vocabulary = read_json(path, VOCABULARY, _HOW_TO_MEND)
    words, ids = vocabulary["idx_to_word"], vocabulary["word_to_idx"]
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path}: a word holds half of a character ({error.reason}); {_HOW_TO_MEND}"
        ) from error
    if len(words) != len(ids) or any(ids.get(word) != i for i, word in enumerate(words)):
        raise ValueError(
            f"{path}: idx_to_word and word_to_idx do not mirror each other; {_HOW_TO_MEND}"
        )
    if tuple(words[: len(SPECIAL_WORDS)]) != SPECIAL_WORDS:
        raise ValueError(
            f"{path}: its first words are {', '.join(words[: len(SPECIAL_WORDS)])}, expected "
            f"{', '.join(SPECIAL_WORDS)}; {_HOW_TO_MEND}"
        )
    return {"idx_to_word": words, "word_to_idx": ids}


def _read_captions(path: Path, words: Sequence[str], published: bool) -> dict[str, Array]:
    arrays = {}
    with open_h5(path) as file:
        for split in SPLITS:
            names = f"{split}_captions", f"{split}_image_idxs"
            present = [name for name in names if name in file]
            if not present and split != "train":
                continue
            if len(present) < 2:
                raise ValueError(f"{path}: has no {' or no '.join(set(names) - set(present))}")
            tables = [dataset_in(path, file, name) for name in names]
            for name, table in zip(names, tables, strict=True):
                if not np.issubdtype(table.dtype, np.integer):
                    raise ValueError(f"{path}: {name} holds {table.dtype}, expected integers")
            captions, idxs = map(np.asarray, tables)
            fit = captions.ndim == 2 and idxs.shape == captions.shape[:1]
            if not fit or captions.shape[1] < 2:
                raise ValueError(
                    f"{path}: {names[0]} {captions.shape} and {names[1]} {idxs.shape} do not fit; "
                    "expected (M, T) and (M,), T at least 2"
                )
            if len(captions) == 0:
                raise ValueError(
                    f"{path}: {names[0]} holds no captions; {_HOW_TO_MEND}, with captions of "
                    f"{split} or without that split"
                )
            _check_captions(f"{path}: {names[0]}", captions, words, published)
            arrays[names[0]], arrays[names[1]] = captions, idxs
    return arrays


def _check_captions(name: str, captions: Array, words: Sequence[str], published: bool) -> None:
    """Raises ValueError unless each of (M, T) ids reads <START>, words, <END>, then <NULL>."""
    row, wrong = _outside(captions, len(words))
    if wrong is not None:
        raise ValueError(
            f"{name}: caption {row} holds word id {wrong}, but the vocabulary has {len(words)} "
            f"words; do the captions and {VOCABULARY_FILE} belong together?"
        )
    columns = np.arange(captions.shape[1])
    is_end = captions == _END
    ends = is_end.any(axis=1)
    last = np.where(ends, is_end.argmax(axis=1), captions.shape[1])[:, None]
    inside = (columns > 0) & (columns < last)
    cut = ~ends & (captions != _NULL).all(axis=1)
    if not published or cut.mean() > _MOST_CUT:
        cut[:] = False  # none is let through
    faults = {
        "does not begin with <START>": captions[:, 0] != _START,
        "has no <END>": ~ends & ~cut,
        "goes on after its <END>": ((captions != _NULL) & (columns > last)).any(axis=1),
        "has <START> or <NULL> between its words": (
            inside & ((captions == _START) | (captions == _NULL))
        ).any(axis=1),
    }
    for fault, rows in faults.items():
        if rows.any():
            row = int(rows.argmax())
            raise ValueError(
                f"{name}: caption {row} {fault} (the first of {rows.sum():,} in {len(rows):,}): "
                f"found '{' '.join(words[i] for i in captions[row, :12])}', expected <START>, "
                f"words, <END>, then <NULL>; {_HOW_TO_MEND}"
            )
    wordless = captions[:, 1] == _END
    if wordless.all():
        raise ValueError(f"{name}: no caption holds a word; {_HOW_TO_MEND}")
    for rows, what in ((wordless, "hold no word"), (cut, "were cut: they have no <END>")):
        if rows.any():
            warnings.warn(
                f"{name}: {rows.sum():,} of {len(rows):,} captions {what}; they are kept",
                stacklevel=3,
            )


def _outside(indices: Array, size: int) -> tuple[int, int] | tuple[None, None]:
    """The first row that holds an index outside 0 .. size-1, and that index; None, None: none."""
    if indices.min() >= 0 and indices.max() < size:
        return None, None
    place = tuple(np.argwhere((indices < 0) | (indices >= size))[0].tolist())
    return place[0], int(indices[place])


def _check_image_idxs(path: Path, data: Mapping, split: str, images: Array) -> None:
    row, wrong = _outside(data[f"{split}_image_idxs"], len(images))
    if wrong is not None:
        raise ValueError(
            f"{path}: has {len(images)} images, but caption {row} of {split} in {CAPTIONS_FILE} is "
            f"of image {wrong}; do the two files belong together?"
        )


def _check_features(path: Path, features: Array) -> None:
    row = features[0].nbytes
    rows = max(1, _CHECKED_AT_ONCE // row)
    step = rows * max(1, len(features) * row // _CHECKED_WHOLE)
    zero, checked, first = 0, 0, None
    for start in range(0, len(features), step):
        chunk = np.asarray(features[start : start + rows])
        if not np.isfinite(chunk).all():
            row = start + int(np.argwhere(~np.isfinite(chunk))[0][0])
            raise ValueError(
                f"{path}: features of image {row} hold NaN or infinity; {_HOW_TO_MEND}"
            )
        empty = ~chunk.reshape(len(chunk), -1).any(axis=1)
        zero, checked = zero + int(empty.sum()), checked + len(chunk)
        if first is None and empty.any():
            first = start + int(empty.argmax())
    if zero == checked:
        raise ValueError(f"{path}: all features are 0, as if never written; {_HOW_TO_MEND}")
    if zero:
        warnings.warn(
            f"{path}: the features of {zero:,} of {checked:,} images are all 0, image {first} the "
            "first; was the file written to its end?",
            stacklevel=3,
        )


def _read_urls(path: Path) -> Array:
    _require(path)
    # A path may hold what ``splitlines`` takes for the end of a line.
    return np.array([line.strip() for line in read_text(path).split("\n") if line.strip()])


def _read_arrays(path: Path) -> dict[str, Array]:
    with open_h5(path) as file:
        if set(file) != {"pca_mean", "pca_components"}:
            raise ValueError(f"{path}: is no projection; {_HOW_TO_MEND}")
        arrays = {name: np.asarray(dataset_in(path, file, name)) for name in file}
        mean, components = arrays["pca_mean"], arrays["pca_components"]
        floats = all(array.dtype.kind == "f" for array in arrays.values())
        if not floats or components.ndim != 2 or mean.shape != components.shape[:1]:
            raise ValueError(
                f"{path}: pca_mean is {mean.dtype} {mean.shape}, pca_components "
                f"{components.dtype} {components.shape}, expected numbers (D,) and (D, K); "
                f"{_HOW_TO_MEND}"
            )
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError(f"{path}: holds NaN or infinity; {_HOW_TO_MEND}")
    return arrays


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {_HOW_TO_MEND}")


# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------


def save_coco_data(
    folder: str | Path,
    captions: Mapping[str, Sequence[tuple[int, Sequence[str]]]],
    idx_to_word: Sequence[str],
    urls: Mapping[str, Sequence[str]],
    features: Mapping[str, Mapping[str, Array | Blocks]],
    extractors: Mapping[str, tuple[dict, Mapping[str, Array]]],
    image_root: str,
    about: Mapping[str, object],
    extra: Mapping[str, object] | None = None,
    pictures: Mapping[str, Array] | None = None,
) -> None:
    """Writes a data folder, whole or not at all.

    Inputs:
    - folder: where to; must not exist, or be empty
    - captions: for each split, (image index, words) for each caption
    - idx_to_word: the vocabulary
    - urls: for each split, a path below ``image_root`` for each image
    - features: for each kind ('pooled', 'grid') and split, (n_images, ...) features
    - extractors: for each kind, the specification and the arrays of what made them
    - image_root: folder of the pictures, as seen from ``folder``, or absolute
    - about: the name of the data set, and whatever else ``dataset.json`` should say first
    - extra: further JSON files by name
    - pictures: to store as PNG files, (h, w, 3) uint8 arrays by path below ``folder``

    Raises FileExistsError when the folder is taken, ValueError for a split without captions.
    """
    for split, pairs in captions.items():
        if not pairs:
            raise ValueError(
                f"{folder}: not written, for the {split} split has no captions; give it captions "
                "with words, or leave its images out"
            )
    word_to_idx = {word: i for i, word in enumerate(idx_to_word)}
    length = 2 + max(len(words) for split in captions.values() for _, words in split)
    with atomic_folder(folder) as temporary:
        with h5py.File(temporary / CAPTIONS_FILE, "w") as file:
            for split, pairs in captions.items():
                words = [words for _, words in pairs]
                file[f"{split}_captions"] = encode_captions(words, word_to_idx, length)
                file[f"{split}_image_idxs"] = np.array([i for i, _ in pairs], dtype=np.int32)
        vocabulary = {"idx_to_word": list(idx_to_word), "word_to_idx": word_to_idx}
        write_json(temporary / VOCABULARY_FILE, vocabulary)
        for split, lines in urls.items():
            write_text(temporary / f"{split}2014_urls.txt", "".join(f"{url}\n" for url in lines))

        info: dict = {**about, "image_root": image_root, "features": {}, "extractors": {}}
        for kind, by_split in features.items():
            spec, arrays = extractors[kind]
            stem = f"{spec['encoder']}_{spec['output']}" + ("_pca" if arrays else "")
            info["features"][kind] = {}
            for split, table in by_split.items():
                file_name = f"{split}2014_{stem}.h5"
                write_features(temporary / file_name, table)
                info["features"][kind][split] = file_name
            info["extractors"][kind] = dict(spec)
            if arrays:
                info["extractors"][kind]["arrays"] = f"{stem}_projection.h5"
                with h5py.File(temporary / f"{stem}_projection.h5", "w") as file:
                    for array_name, array in arrays.items():
                        file[array_name] = array
        for file_name, value in (extra or {}).items():
            write_text(temporary / file_name, json.dumps(value) + "\n")  # may be long: compact
        for path, picture in progress((pictures or {}).items(), "writing pictures"):
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(temporary / path, compress_level=1)  # fast
        write_json(temporary / DATASET_FILE, info)


# ---------------------------------------------------------------------------------------------
# The pictures
# ---------------------------------------------------------------------------------------------


def image_path(data: Mapping, split: str, image_idx: int) -> Path | None:
    """The picture of an image on this machine, or None when there is no such file.

    One outside of a prepared folder is given only when it is the photo that was looked at.
    """
    source = data["source"]
    if source["image_root"] is None:
        return None
    path = source["image_root"] / str(data[f"{split}_urls"][image_idx])
    if not path.is_file():
        return None
    hashes = source.get("hashes")  # None: a photo folder as it is
    if hashes is None or _inside(path, source["folder"]):
        return path
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
    return path if split in hashes and found == hashes[split][image_idx] else None


def picture_paths(data: Mapping, split: str) -> list[Path]:
    """The pictures of all images of a split; raises FileNotFoundError when one is not here."""
    paths = []
    for i, url in enumerate(data[f"{split}_urls"]):
        path = image_path(data, split, i)
        if path is None:
            raise FileNotFoundError(
                f"{data['source']['folder']}: its {split} picture {url} is not on this machine; "
                "give --data a folder with its pictures"
            )
        paths.append(path)
    return paths
