"""Captions to be scored and what they are held against, read from files and matched by image.

Whatever is missing, double or of another form is refused: a score of the wrong images looks like
any other score.
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
    decode_captions,
    load_coco_data,
)
from core.flickr8k import read_photo_folder
from core.support.files import read_json

_UNKNOWN = SPECIAL_WORDS[3]


@dataclass
class Source:
    """Reference captions, and how images are known to them.

    - where: the file, or the folder and split, for messages
    - captions: image id (or file name) -> captions, as text
    - by_file_name: whether images are known by their file names
    - file_names: image id -> file name, where both are known
    - training: reads the training captions, where they are known
    - note: what a reader of the scores must know; may be empty
    """

    where: str
    captions: dict[str, list[str]]
    by_file_name: bool = False
    file_names: Mapping[str, str] = field(default_factory=dict)
    training: Callable[[], list[str]] | None = None
    note: str = ""


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
        # bool is an int to Python, and no id
        if not isinstance(image, int | str) or isinstance(image, bool):
            raise ValueError(
                f"{path}: caption {number} has no image_id that is a number or text; "
                "write the file again"
            )
        if not isinstance(row.get("caption"), str):
            raise ValueError(
                f"{path}: caption {number} (image {image}) has {_kind(row.get('caption'))} as its "
                "caption, expected text; write the file again"
            )
        yield row | {"image_id": str(image)}


def _read(path: str | Path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give a JSON file of captions")
    return read_json(path)


def _kind(value) -> str:
    if isinstance(value, dict | list | str) and not value:
        return {dict: "an empty object", list: "an empty list", str: "no text"}[type(value)]
    names = {dict: "an object", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), "a number")


def read_references(path: str | Path, split: str | None = None) -> Source:
    """Reference captions from a file or a folder.

    Inputs:
    - path: a JSON file, {image id: [captions]} or COCO's annotations; a photo folder, as
      ``core.flickr8k`` reads it: images are known by their file names; or a data folder: image ids
      are indices of the split, captions are as the vocabulary has them
    - split: of a folder, 'val' when None; a file has none

    Of a data folder's references each <UNK> becomes a word of its own, which no candidate says:
    so a candidate that says <UNK> gains nothing, and a rare word weighs like a rare word. Captions
    by people of Flickr8k's validation images, in words of the vocabulary, then have a CIDEr-D of
    80.7, against the references as written 80.4; with one <UNK> for all rare words it were 84.2.

    Raises FileNotFoundError and ValueError that name the file.
    """
    path = Path(path)
    if not path.is_dir():
        if split is not None:
            raise ValueError(f"--split {split}: is for folders, and {path} is none; leave it out")
        return Source(str(path), _from_json(path))
    from_data = (path / CAPTIONS_FILE).is_file()
    return (_from_data_folder if from_data else _from_photo_folder)(path, split or "val")


def _from_json(path: Path) -> dict[str, list[str]]:
    content = _read(path)
    captions: dict[str, list[str]] = {}
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        for row in _checked_rows(path, content["annotations"]):
            captions.setdefault(row["image_id"], []).append(row["caption"])
    elif isinstance(content, dict):
        captions = content
    if not captions:
        raise ValueError(
            f"{path}: found {_kind(content)} without references, expected {{image id: [captions]}} "
            'or COCO\'s annotations, {"annotations": [...]}'
        )
    for image, texts in captions.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise ValueError(
                f"{path}: image {image} has {_kind(texts)} as its captions, expected a list of "
                "text, not empty; mend it or leave the image out"
            )
    return captions


def _from_photo_folder(path: Path, split: str) -> Source:
    try:
        folder = read_photo_folder(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; it is no data folder either") from error
    if not folder.splits.get(split):
        raise ValueError(f"--split {split}: {path} has no such split")
    return Source(
        f"{path}, {split}",
        {name: folder.captions[name] for name in folder.splits[split]},
        by_file_name=True,
        training=lambda: [c for name in folder.splits["train"] for c in folder.captions[name]],
    )


def _from_data_folder(path: Path, split: str) -> Source:
    data = load_coco_data(path, features=None)
    if f"{split}_captions" not in data:
        raise ValueError(f"--split {split}: {path} has no such split")

    captions, rare = reference_captions(data, split)
    total = sum(len(text.split()) for texts in captions.values() for text in texts)
    return Source(
        f"{path}, {split}",
        {str(image): texts for image, texts in captions.items()},
        file_names={str(i): str(url) for i, url in enumerate(data[f"{split}_urls"])},
        training=lambda: decode_captions(data["train_captions"], data["idx_to_word"]),
        note=f"{rare / total:.1%} of the words of the references are too rare for the vocabulary "
        "of the data folder and match nothing; scores to compare with others' need the captions as "
        "they were written"
        if rare
        else "",
    )


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


def match(
    path: str | Path, rows: list[dict], references: Source, subset: bool = False
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Candidates and references of the same images.

    Inputs:
    - path: of the candidates, for messages
    - rows: from ``read_candidates``
    - references: from ``read_references``
    - subset: leave out the images that have references and no candidate

    Returns image -> caption, and image -> reference captions.

    Raises ValueError for two captions of one image, a caption of an image that has no references or
    another file name, and, unless ``subset``, an image without a caption.
    """
    candidates: dict[str, str] = {}
    for row in rows:
        image = _image(path, row, references)
        if image not in references.captions:
            raise ValueError(
                f"{path}: image {image} has no references in {references.where}; "
                "score captions of the same images (is it another --split?)"
            )
        if image in candidates:
            raise ValueError(f"{path}: image {image} has two captions, expected one; remove one")
        candidates[image] = row["caption"]
    missing = [image for image in references.captions if image not in candidates]
    if missing and not subset:
        raise ValueError(
            f"{path}: has no caption for {len(missing):,} of the {len(references.captions):,} "
            f"images of {references.where}, image {missing[0]} the first; caption all of them, or "
            "add --subset to score only those that are captioned"
        )
    return candidates, {image: references.captions[image] for image in candidates}


def _image(path: str | Path, row: dict, references: Source) -> str:
    """What the references call the image of a row."""
    image, name = row["image_id"], row.get("file_name")
    if references.by_file_name:
        if not isinstance(name, str):
            raise ValueError(
                f"{path}: image {image} has no file_name, and the photos of {references.where} are "
                "known by theirs; add it, or give the references as {image id: [captions]}"
            )
        return name if name in references.captions else Path(name).name
    known = references.file_names.get(image, name)
    if name is not None and name != known:
        raise ValueError(
            f"{path}: image {image} is {name}, but in {references.where} it is {known}; "
            "give the --split and the data folder that were captioned"
        )
    return image
