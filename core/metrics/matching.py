"""Which candidates and references are of the same image.

A score of the wrong images looks like any other score. So where both sides name files, images are
matched by these names: the number of an image may be its place in a list, which is another one in
the next list. What is missing, double or contradicts itself is refused.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.metrics.caption_files import SUFFIX, Source
from core.metrics.ptb import ptb_tokenize


@dataclass
class Matched:
    """Candidates and references of the same images.

    - candidates: image -> caption
    - references: image -> reference captions
    - of: how many images could have been captioned
    - where: the file or folder of the references, and the split
    - by: what images were matched by: "file name", "image id" or, the last resort, "bare number"
    """

    candidates: dict[str, str]
    references: dict[str, list[str]]
    of: int
    where: str
    by: str

    def remarks(self) -> list[str]:
        """What a reader must know of what was scored."""
        said = []
        if self.by == "bare number":
            said.append(
                "images are matched by bare numbers, as not both sides name files; nothing shows "
                "that both count alike"
            )
        if len(self.candidates) == 1:
            said.append(
                "CIDEr-D is left out: it weighs words by how few images have them, and this is one"
            )
        texts = {
            "candidates": list(self.candidates.values()),
            "references": [c for captions in self.references.values() for c in captions],
        }
        for side, captions in texts.items():
            empty = sum(not ptb_tokenize(caption) for caption in captions)
            if empty:
                said.append(f"{empty:,} of the {len(captions):,} {side} have no words")
        return said


def match(path: str | Path, rows: list[dict], references: Source, subset: bool = False) -> Matched:
    """Candidates and references of the same images.

    By file name where both sides have them, with or without folders before it and a suffix after
    it; by image id as the last resort.

    Inputs:
    - path: of the candidates, for messages
    - rows: from ``read_candidates``
    - references: from ``read_references``
    - subset: leave out the images that have references and no candidate

    Raises ValueError for two captions of one image; for a caption of an image that has no
    references, or whose name fits two; unless ``subset``, for an image without a caption; and
    where file names and ids contradict each other.
    """
    images, by = _images(path, rows, references)
    image, times = Counter(images).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path}: image {image} has two captions, expected one; remove one")
    candidates = {image: row["caption"] for image, row in zip(images, rows, strict=True)}
    scope, where = _scope(path, images, references)
    missing = [image for image in scope if image not in candidates]
    if missing and by == "bare number" and not references.names and rows[0].get("file_name"):
        raise ValueError(
            f"{path}: has captions of {len(images):,} images, {where} has {len(scope):,}, which it "
            "does not name: a subset by bare numbers may be of other images; give references that "
            "name files"
        )
    if missing and not subset:
        raise ValueError(
            f"{path}: has no caption for {len(missing):,} of the {len(scope):,} images of {where}, "
            f"image {missing[0]} the first; caption all of them (core.metrics scores only those "
            "that are captioned with --subset)"
        )
    of = len(references.captions) if references.drawn and not references.split else len(scope)
    found = {image: list(references.captions[image]) for image in images}
    return Matched(candidates, found, of, where, by)


def _images(path: str | Path, rows: list[dict], references: Source) -> tuple[list[str], str]:
    """What the references call the image of each row, and what it was found by."""
    ids = [row["image_id"] for row in rows]
    names = [row["file_name"] for row in rows if row.get("file_name")]
    if names and len(names) < len(rows):
        raise ValueError(
            f"{path}: only {len(names):,} of its {len(rows):,} captions have a file_name; write "
            "all of them or none"
        )
    of_id = dict(zip(ids, names, strict=False))
    for image, name in zip(ids, names, strict=False):
        if of_id[image] != name:
            raise ValueError(
                f"{path}: image_id {image} is {name} and {of_id[image]}; write the file again"
            )
    if not references.names:
        return _by_id_or_stem(path, ids, names, references)
    if names or not any(map(str.isdecimal, ids)):
        find = _Finder(references.names)
        found = [find(n, references.ids.get(i)) for n, i in zip(names or ids, ids, strict=True)]
        return _all_found(path, names or ids, found, references), "file name"
    if not references.ids:
        raise ValueError(
            f"{path}: image {ids[0]} has no file_name, and the images of {references.where} are "
            "known by theirs; add it, or give the references as {image id: [captions]}"
        )
    return _by_id(path, ids, references)


def _by_id_or_stem(
    path, ids: list[str], names: list[str], references: Source
) -> tuple[list[str], str]:
    """As ``_images``, for references by keys that may be ids, or file names without a suffix."""
    find = _Finder(references.ids)
    stems = [find(name) for name in names]
    by_id = [[image] if image in references.ids else [] for image in ids]
    if stems and all(stems) and (not all(by_id) or stems == by_id):
        return _all_found(path, names, stems, references), "file name"
    for name, image, stem in zip(names, ids, stems, strict=False):
        if stem and stem != [image]:
            raise ValueError(
                f"{path}: {name} has the image_id {image}, but {references.where} has references "
                f"of {stem[0]}, which may be either's; name its images by file names with suffixes"
            )
    return _by_id(path, ids, references)


def _by_id(path, ids: list[str], references: Source) -> tuple[list[str], str]:
    found = [[references.ids[image]] if image in references.ids else [] for image in ids]
    by = "bare number" if any(map(str.isdecimal, ids)) else "image id"
    return _all_found(path, ids, found, references), by


def _all_found(path, called: list[str], found: list[list[str]], references: Source) -> list[str]:
    """The one image found for each row."""
    for name, images in zip(called, found, strict=True):
        if len(images) > 1:
            raise ValueError(
                f"{path}: image {name} may be {images[0]} or {images[1]} of {references.where}; "
                "write file names with their folders and suffixes"
            )
    lost = [name for name, images in zip(called, found, strict=True) if not images]
    if lost:
        raise _no_references(path, lost, references, references.split)
    return [images[0] for images in found]


def _no_references(path, lost: list[str], references: Source, split: str | None) -> ValueError:
    others = f", nor have {len(lost) - 1:,} more" if len(lost) > 1 else ""
    where = references.where if split is None else f"{references.where}, {split}"
    homes = [
        s
        for s, names in references.splits.items()
        if _Finder({name: name for name in names})(lost[0])
    ]
    near = _Finder(references.names).of_stem[_taken_apart(lost[0])[1]]
    if references.drawn and split is not None:
        hint = "the split is drawn at random, so give the --seed that the data were prepared with"
    elif homes:
        hint = f"this one is of --split {homes[0]}"
    elif near:
        hint = f"{near[0][-1]} is in another folder or of another kind"
    else:
        hint = "is it another file or folder?"
    return ValueError(
        f"{path}: image {lost[0]} has no references in {where}{others}; score captions of the same "
        f"images ({hint})"
    )


def _scope(path, images: list[str], references: Source) -> tuple[list[str], str]:
    """The images that should have been captioned, and where they are from, for messages."""
    if references.drawn and references.split is None:
        return images, f"{references.where} (its splits are drawn at random; --seed tells which)"
    names = {image: references.names.get(image, image) for image in references.captions}
    split = references.split
    if split is None:
        homes = {name: s for s, of_split in references.splits.items() for name in of_split}
        found = {homes.get(names[image]) for image in images}
        split = found.pop() if len(found) == 1 else None
    if split is None:
        return list(names), references.where
    of_split = set(references.splits[split])
    scope = [image for image, name in names.items() if name in of_split]
    outside = [names[image] for image in images if names[image] not in of_split]
    if outside:
        raise _no_references(path, outside, references, split)
    return scope, f"{references.where}, {split}"


class _Finder:
    """Finds images by file names that may have other folders before them, or no suffix.

    A name fits another one when it ends in it, folder by folder, and suffixes differ only by case
    or in that one side has none. Composed and decomposed accents are the same.
    """

    def __init__(self, names: Mapping[str, str]):
        self.of_stem: dict[str, list] = defaultdict(list)
        for image, name in names.items():
            folders, stem, suffix = _taken_apart(name)
            self.of_stem[stem].append((image, folders, suffix, name))

    def __call__(self, name: str, likely: str | None = None) -> list[str]:
        """The images that the name fits best: of equals the likely one, else all."""
        folders, stem, suffix = _taken_apart(name)
        fits: dict[int, list[str]] = defaultdict(list)
        for image, its_folders, its_suffix, its_name in self.of_stem[stem]:
            shared = min(len(folders), len(its_folders))
            if shared and folders[-shared:] != its_folders[-shared:]:
                continue
            if suffix and its_suffix and suffix != its_suffix:
                continue
            if its_name == name and image == likely:
                return [image]
            same_suffix = suffix == its_suffix
            fits[same_suffix + (same_suffix and folders == its_folders)].append(image)
        return fits[max(fits)] if fits else []


def _taken_apart(name: str) -> tuple[list[str], str, str]:
    """The folders of a file name, its stem and its suffix."""
    *folders, last = unicodedata.normalize("NFC", name).strip().replace("\\", "/").split("/")
    match = SUFFIX.fullmatch(last)
    stem, suffix = match.groups() if match else (last, "")
    return [folder for folder in folders if folder not in ("", ".")], stem, suffix.lower()
