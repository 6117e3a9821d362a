"""Captions to be scored and what they are held against, read from files.

Whatever is double or of another form is refused. ``matching`` says which belong together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from core.coco_utils import (
    CAPTIONS_FILE,
    SPECIAL_WORDS,
    SPLITS,
    decode_captions,
    load_coco_data,
)
from core.photos import read_caption_file, read_photo_folder
from core.photos.forms import PICTURE
from core.support.files import read_json, require_file

_UNKNOWN = SPECIAL_WORDS[3]
# A file name and the end of it that says what kind of file it is.
SUFFIX = re.compile(r"(.+)(\.[a-z][a-z0-9]{1,4})", re.IGNORECASE | re.DOTALL)


@dataclass
class Source:
    """Reference captions, and how images are known to them.

    - where: the file or folder, for messages
    - captions: image -> captions, as text
    - names: image -> file name; empty where only ids are known
    - ids: image id -> image; empty where there are none
    - splits: split -> images or file names; empty where there are none
    - split: the split that is to be scored; None: the one that the candidates are of
    - drawn: the splits are drawn from a seed, which may not be that of the candidates
    - training: reads the training captions, where they are known
    - account: what was read of the file, and what was left out
    - notes: what a reader of the scores must know
    """

    where: str
    captions: Mapping[str, list[str]]
    names: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, list[str]] = field(default_factory=dict)
    split: str | None = None
    drawn: bool = False
    training: Callable[[], list[str]] | None = None
    account: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------
# Candidates
# ---------------------------------------------------------------------------------------------


def read_candidates(path: str | Path) -> list[dict]:
    """Captions in COCO's results format: a list of {"image_id", "caption", perhaps "file_name"}.

    Returns that list, each ``image_id`` a string.

    Raises FileNotFoundError, or ValueError for a file that is torn, empty or of another form.
    """
    rows = _read(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"{path}: found {_kind(rows)}, expected a list of captions in COCO's results format; "
            "inference.py --out writes one"
        )
    return list(_checked_rows(path, rows))


def _checked_rows(path: str | Path, rows: list) -> Iterable[dict]:
    for number, row in enumerate(rows, 1):
        image = row.get("image_id") if isinstance(row, dict) else None
        if isinstance(image, float) and image.is_integer():  # as tables write numbers
            image = int(image)
        # bool is an int to Python, and no id
        if not isinstance(image, int | str) or isinstance(image, bool):
            raise ValueError(
                f"{path}: caption {number} has no image_id that is a whole number or text; "
                "write the file again"
            )
        if not isinstance(row.get("caption"), str):
            raise ValueError(
                f"{path}: caption {number} (image {image}) has {_kind(row.get('caption'))} as its "
                "caption, expected text; write the file again"
            )
        if not isinstance(row.get("file_name", ""), str | None):
            raise ValueError(
                f"{path}: caption {number} (image {image}) has {_kind(row['file_name'])} as its "
                "file_name, expected text; write the file again"
            )
        yield row | {"image_id": str(image)}


def _read(path: str | Path):
    require_file(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file of captions")
    return read_json(path)


def _kind(value) -> str:
    if isinstance(value, dict | list | str) and not value:
        return {dict: "an empty object", list: "an empty list", str: "no text"}[type(value)]
    names = {dict: "an object", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), "a number")


# ---------------------------------------------------------------------------------------------
# References
# ---------------------------------------------------------------------------------------------


def read_references(path: str | Path, split: str | None = None, seed: int | None = None) -> Source:
    """Reference captions from a file or a folder.

    Inputs:
    - path: a JSON file, {image id or file name: [captions]}; any caption file that
      ``core.photos.forms`` reads, COCO's annotations and Karpathy's JSON among them; a photo
      folder, as ``core.flickr8k`` reads it; or a data folder: image ids are indices of the split,
      captions are as the vocabulary has them
    - split: of a folder or of Karpathy's JSON. None: of a data folder 'val', else the split that
      the candidates are of
    - seed: from which a photo folder without lists was split; then ``split`` None is 'val'

    Of a data folder's references each <UNK> becomes a word of its own, which no candidate says:
    so a candidate that says <UNK> gains nothing, and a rare word weighs like a rare word. Captions
    by people of Flickr8k's validation images, in words of the vocabulary, then have a CIDEr-D of
    80.7, against the references as written 80.4; with one <UNK> for all rare words it were 84.2.

    Raises FileNotFoundError and ValueError that name the file.
    """
    path = Path(path)
    from_data = (path / CAPTIONS_FILE).is_file()
    if seed is not None and (from_data or not path.is_dir()):
        raise ValueError(f"--seed {seed}: is for photo folders, and {path} is none; leave it out")
    if from_data:
        return _from_data_folder(path, split or "val")
    return _from_photo_folder(path, split, seed) if path.is_dir() else _from_file(path, split)


def _from_file(path: Path, split: str | None) -> Source:
    source = _from_json(path)
    if source is None:
        file = read_caption_file(path)
        names = _themselves(file.captions)
        source = Source(str(path), file.captions, names, file.ids, file.splits, split)
        source.account = file.account
        if file.splits.get("train"):
            source.training = lambda: [c for n in file.splits["train"] for c in file.captions[n]]
    _require_split(source, split)
    return source


def _require_split(source: Source, split: str | None) -> None:
    if split is not None and not source.splits.get(split):
        found = f"it has {', '.join(source.splits)}" if source.splits else "it has none"
        raise ValueError(f"--split {split}: {source.where} has no such split; {found}")


def _from_json(path: Path) -> Source | None:
    """References by image in JSON, or COCO's without file names; None for what is neither."""
    try:
        content = _read(path)
    except ValueError:
        if path.suffix.lower() == ".json":
            raise
        return None  # one of the forms that are no JSON
    expected = (
        "expected {image id: [captions]}, {file name: [captions]} or COCO's annotations, "
        '{"images": [...], "annotations": [...]}'
    )
    if not content or not isinstance(content, dict | list):
        raise ValueError(f"{path}: found {_kind(content)}, {expected}")
    captions: dict[str, list[str]] = {}
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        images = content.get("images")
        if isinstance(images, list) and any(
            "file_name" in i for i in images if isinstance(i, dict)
        ):
            return None
        for row in _checked_rows(path, content["annotations"]):
            captions.setdefault(row["image_id"], []).append(row["caption"])
    elif isinstance(content, list):
        if isinstance(content[0], dict) and "image_id" in content[0]:
            raise ValueError(f"{path}: found candidates, a list with image_ids; {expected}")
        return None
    elif isinstance(content.get("images"), list):
        return None
    else:
        captions = content
    if not captions:
        raise ValueError(f"{path}: found {_kind(content)} without references, {expected}")
    files = [image for image in captions if SUFFIX.fullmatch(image)]
    numbers = [image for image in captions if image.isdecimal()]
    if files and numbers:
        raise ValueError(
            f"{path}: found image ids and file names ({numbers[0]}, {files[0]}), expected one "
            "kind; write file names"
        )
    return Source(
        str(path),
        {image: _texts(path, image, texts) for image, texts in captions.items()},
        **{"names" if files else "ids": _themselves(captions)},
    )


def _texts(path: Path, image: str, texts) -> list[str]:
    """The captions of an image: a list of text, or as the COCO scorers take it, of objects.

    One caption for a file name needs no list, as in photo folders.
    """
    if isinstance(texts, str) and PICTURE.search(image):
        return [texts]
    if isinstance(texts, list):
        found = [text.get("caption") if isinstance(text, dict) else text for text in texts]
        if found and all(isinstance(text, str) for text in found):
            return found
    raise ValueError(
        f"{path}: image {image} has {_kind(texts)} as its captions, expected a list of text, not "
        "empty; mend it or leave the image out"
    )


def _from_photo_folder(path: Path, split: str | None, seed: int | None) -> Source:
    try:
        folder = read_photo_folder(path, seed or 0)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; it is no data folder either, but a caption file alone will do"
        ) from error
    if seed is not None and not folder.drawn:
        raise ValueError(f"--seed {seed}: the splits of {path} are not drawn; leave it out")
    source = Source(
        str(path),
        folder.captions,
        names=_themselves(folder.captions),
        splits=folder.splits,
        split=split or (None if seed is None else "val"),
        drawn=folder.drawn,
        account=folder.account,
    )
    _require_split(source, source.split)
    if source.split or not folder.drawn:
        source.training = lambda: [c for n in folder.splits["train"] for c in folder.captions[n]]
    return source


def _from_data_folder(path: Path, split: str) -> Source:
    data = load_coco_data(path, features=None)
    urls = {s: list(map(str, data[f"{s}_urls"])) for s in SPLITS if f"{s}_captions" in data}
    captions, rare = reference_captions(data, split) if split in urls else ({}, 0)
    source = Source(
        str(path),
        {str(image): texts for image, texts in captions.items()},
        names={str(image): urls[split][image] for image in captions},
        ids={str(image): str(image) for image in captions},
        splits=urls,
        split=split,
        training=lambda: decode_captions(data["train_captions"], data["idx_to_word"]),
    )
    _require_split(source, split)
    if rare:
        total = sum(len(text.split()) for texts in captions.values() for text in texts)
        source.notes.append(
            f"{rare / total:.1%} of the words of the references are too rare for the vocabulary "
            "of the data folder and match nothing; scores to compare with others' need the "
            "captions as they were written"
        )
    return source


def reference_captions(data: Mapping, split: str) -> tuple[dict[int, list[str]], int]:
    """The captions of each image of a data dict as text, and how many of their words are rare.

    Each <UNK> becomes a word of its own.
    """
    captions: dict[int, list[str]] = {}
    rare, apart = 0, rare_words_apart()
    texts = decode_captions(data[f"{split}_captions"], data["idx_to_word"])
    for image, text in zip(data[f"{split}_image_idxs"].tolist(), texts, strict=True):
        rare += text.count(_UNKNOWN)
        captions.setdefault(image, []).append(apart(text))
    return captions, rare


def rare_words_apart() -> Callable[[str], str]:
    """Makes of each <UNK>, in all texts that it is given, another word, which no candidate says."""
    numbers = count()
    return lambda text: re.sub(_UNKNOWN, lambda _: f"<rare-word-{next(numbers)}>", text)


def _themselves(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}
