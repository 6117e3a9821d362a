"""A photo folder: which caption files are read, which photo is in which split, where each photo is.

Nothing is guessed without a word: ``PhotoFolder.account`` says what came in, what was left out and
why, and contradictions are refused.
"""

from __future__ import annotations

import filecmp
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.coco_utils import CAPTIONS_FILE, SPLITS, plain_words
from core.photos.forms import (
    FORMS,
    PICTURE,
    counted,
    form_of,
    read_caption_file,
    read_lines,
    split_in,
)

_CAPTION_SUFFIXES = {".txt", ".csv", ".tsv", ".token", ".json", ".jsonl"}
_LIST_SUFFIXES = {".txt", ".csv", ".tsv", ".lst", ".list"}


@dataclass
class PhotoFolder:
    """Captions and splits as they stand in a photo folder. Photos are known by their path.

    - captions: path of a photo below ``image_folder`` -> its captions that hold a word, as written;
      of the photos of all splits
    - splits: split -> paths, in the order of the list; none is empty
    - image_folder: the folder that holds all the photos, in folders of its own if there are several
    - account: lines that say what was read, what was left out, and why
    - drawn: the splits are random, from a seed
    """

    captions: dict[str, list[str]]
    splits: dict[str, list[str]]
    image_folder: Path
    account: list[str] = field(default_factory=list)
    drawn: bool = False


def read_photo_folder(root: str | Path, seed: int = 0) -> PhotoFolder:
    """Reads captions and splits, and finds the photos, wherever they are below the folder.

    Inputs:
    - root: the folder
    - seed: of the random split, where neither the captions nor lists tell the splits

    A photo that is not there keeps the name that the captions give it: what looks at the photos
    treats it as one that cannot be read.

    Raises FileNotFoundError when the folder, its captions or all of its photos are not there, and
    ValueError for a file in another form and what contradicts itself: a photo in two splits,
    different photos of one name, a list that matches less than half. Each names the file.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    files, account = _files_below(root), []
    index = Names(files)
    forms = _forms(root, files)
    if not forms:
        raise FileNotFoundError(f"{root}: holds no captions {_reason(root, files)}")
    captions, splits = _read_captions(root, files, _chosen(root, forms, index, account), account)
    lists = {
        file: split
        for file in files
        if Path(file).suffix.lower() in _LIST_SUFFIXES and file not in forms
        if (split := split_in(Path(file).stem))
    }
    if not splits:
        splits = _read_lists(root, lists, captions, account)
    elif lists:
        account.append(f"not read: {', '.join(lists)}; the captions have splits of their own")
    if splits:
        inside = {name for names in splits.values() for name in names}
        if outside := len(captions) - len(inside):
            account.append(f"{counted(outside, 'captioned photo')} in no split left out")
        captions = {name: texts for name, texts in captions.items() if name in inside}

    captions = _with_words(root, captions, account)
    places = _find_photos(root, files, index, list(captions), account)
    splits = splits or _splits_by_folder(places, account)
    drawn = not splits
    if drawn:
        splits = _random_splits(root, sorted(captions), seed, account)
    folder = Path(os.path.commonpath([root / Path(place).parent for place in places.values()]))
    start = len(folder.relative_to(root).as_posix()) + 1 if folder != root else 0
    path = {name: places[name][start:] if name in places else _below(name) for name in captions}
    kept = {s: [path[n] for n in splits[s] if n in captions] for s in SPLITS if s in splits}
    for split, paths in kept.items():
        if not paths:
            raise ValueError(
                f"{root}: the split {split} is empty: none of its {len(splits[split]):,} photos "
                "has a caption that holds a word; mend the captions or leave the split out"
            )
    if "train" not in kept:
        raise ValueError(f"{root}: has no training image; its splits are {', '.join(kept)}")
    captions = {path[name]: texts for name, texts in captions.items()}
    return PhotoFolder(captions, kept, folder, account, drawn)


def holds_photos(folder: str | Path) -> bool:
    """Whether it is a folder of photos with captions, and not prepared yet."""
    folder = Path(folder)
    prepared = (folder / CAPTIONS_FILE).exists()
    return folder.is_dir() and not prepared and bool(_forms(folder, _files_below(folder)))


def _files_below(root: Path) -> list[str]:
    """Paths of all files below a folder, but for what is hidden, and data that were prepared."""
    found: list[str] = []
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real, below = os.path.realpath(folder), Path(folder).relative_to(root).as_posix()
        if real in seen or (below != "." and CAPTIONS_FILE in names):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if f[0] != "." and f not in ("__MACOSX", "@eaDir"))
        start = "" if below == "." else f"{below}/"
        found += [f"{start}{name}" for name in sorted(names) if name[0] != "."]
    return found


# ---------------------------------------------------------------------------------------------
# Captions
# ---------------------------------------------------------------------------------------------


def _forms(root: Path, files: Iterable[str]) -> dict[str, str]:
    """Caption file -> form, the one to read first."""
    texts = [file for file in files if Path(file).suffix.lower() in _CAPTION_SUFFIXES]
    forms = {file: form for file in texts if (form := form_of(root / file))}
    sure = ("Karpathy's JSON", "COCO annotations")  # and say the splits, too

    def order(file: str) -> tuple:
        form = forms[file]
        rank = sure.index(form) if form in sure else 2 + form.endswith("without a header")
        return rank, _plainness(file)

    return {file: forms[file] for file in sorted(forms, key=order)}


def _plainness(file: str) -> tuple:
    name = posixpath.basename(file)
    return file.count("/"), "caption" not in name.lower(), len(name), file


def _reason(root: Path, files: list[str]) -> str:
    """Why the file that looks most like one of captions is none."""
    texts = [file for file in files if Path(file).suffix.lower() in _CAPTION_SUFFIXES]
    for file in sorted((f for f in texts if not split_in(Path(f).stem)), key=_plainness):
        try:
            read_caption_file(root / file)
        except ValueError as error:
            return f"that can be read; {error}"
    return f"in its files, expected a captions.txt or the like: {FORMS}"


def _chosen(
    root: Path, forms: dict[str, str], index: Names, account: list[str]
) -> dict[str, str | None]:
    """The caption files to read, each with its split: one, or one for each split."""

    def fits(file: str) -> bool:  # Karpathy's archive has files of three data sets
        names = list(read_caption_file(root / file).captions)[:100]
        return 2 * sum(bool(index.find(name, elsewhere=True)) for name in names) > len(names)

    first = next(iter(forms))
    best = first if len(forms) == 1 else next(filter(fits, forms), first)
    tagged: dict[str, str] = {}
    for file, form in forms.items():
        path = Path(file)
        split = split_in(path.stem) or split_in(path.parent.name)
        if split and form == forms[best] and file.count("/") == best.count("/"):
            tagged.setdefault(split, file)
    each = len(tagged) > 1 and "train" in tagged
    chosen = {tagged[split]: split for split in SPLITS if split in tagged} if each else {best: None}
    if ignored := [f"{file} ({form})" for file, form in forms.items() if file not in chosen]:
        account.append(
            f"not read: {', '.join(ignored)}; of several caption files of the photos that are here "
            "those with splits go first, then those nearest to --root, then the shortest name"
        )
    return chosen


def _read_captions(
    root: Path, files: list[str], chosen: dict[str, str | None], account: list[str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    captions: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    there = set(files)
    for file, split in chosen.items():
        found, folder = read_caption_file(root / file), posixpath.dirname(file)
        # In Hugging Face's folders names are those of photos beside the file.
        beside = {name: posixpath.join(folder, name) for name in found.captions}
        names = {name: path if path in there else name for name, path in beside.items()}
        for name, texts in found.captions.items():
            if names[name] in captions:
                raise ValueError(
                    f"{root / file}: {name} is in another caption file too, of another split; a "
                    "photo can be in one, so remove it from the other"
                )
            captions[names[name]] = texts
        of_file = {split: list(found.captions)} if split else found.splits
        splits |= {s: [names[name] for name in several] for s, several in of_file.items()}
        counts = ", ".join(f"{s} {len(several):,}" for s, several in of_file.items())
        account += [f"{file}: {line}" for line in found.account]
        if counts:
            account.append(f"splits: by {file}, {counts}")
    return captions, splits


def _with_words(
    root: Path, captions: dict[str, list[str]], account: list[str]
) -> dict[str, list[str]]:
    """Captions that hold a word, and the photos that have one."""
    worded = {n: [text for text in texts if plain_words(text)] for n, texts in captions.items()}
    left = sum(map(len, captions.values())) - sum(map(len, worded.values()))
    kept = {name: texts for name, texts in worded.items() if texts}
    if not kept:
        raise ValueError(f"{root}: none of its {left:,} captions holds a word; mend the captions")
    if left:
        lost = counted(len(worded) - len(kept), "photo")
        account.append(f"{counted(left, 'caption')} without a word left out, {lost} with no other")
    return kept


# ---------------------------------------------------------------------------------------------
# Splits
# ---------------------------------------------------------------------------------------------


def _read_lists(
    root: Path, lists: dict[str, str], captions: Collection[str], account: list[str]
) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    known = Names(captions)
    for file, split in sorted(lists.items(), key=lambda item: SPLITS.index(item[1])):
        names, unknown, twice = _read_list(root / file, known)
        total = counted(len(names) + len(unknown) + twice, "name")
        line = f"{file}: {total}, {counted(len(names), 'photo')} to {split}"
        if unknown:
            line += f"; {len(unknown):,} without captions left out, {unknown[0]} the first"
        account.append(line + (f"; {twice:,} more than once" if twice else ""))
        for name in names:
            if owner.setdefault(name, split) != split:
                raise ValueError(
                    f"{root / file}: {name} is in the {owner[name]} split too; a photo can be in "
                    "one, so remove it from the other list"
                )
        before = splits.setdefault(split, [])
        if same := set(before) & set(names):
            if set(before) != set(names):
                raise ValueError(
                    f"{root / file}: shares {len(same):,} photos with another list of {split} and "
                    "differs in others; keep one of the two"
                )
            account.append(f"{file}: the same as the list of {split} before it")
        else:
            before += names
    return splits


def _read_list(path: Path, known: Names) -> tuple[list[str], list[str], int]:
    """The captioned photos that a list names, names of no such photo, and how many come again."""
    lines = list(filter(None, read_lines(path)))
    names, unknown, twice = {}, [], 0
    for line in lines:
        # Some lists have an id or the number of a caption after the name.
        spellings = (line, re.split("[,;\t#]", line)[0].strip("\"'"), line.split()[0])
        found = next(filter(None, map(known.find, spellings)), [])
        if len(found) > 1:
            raise ValueError(
                f"{path}: {line} is {found[0]} or {found[1]}; write it with its folder"
            )
        if found:
            twice += found[0] in names
            names[found[0]] = None
        else:
            unknown.append(line)
    if not lines:
        raise ValueError(f"{path}: names no photo; fill it, or remove it")
    if len(unknown) > len(lines) / 2:
        raise ValueError(
            f"{path}: {len(unknown):,} of its {len(lines):,} lines name no photo with captions, "
            f"{unknown[0]!r} the first, expected at most half; mend the names, or rename the file "
            "if it is no list of photos"
        )
    return list(names), unknown, twice


def _splits_by_folder(places: dict[str, str], account: list[str]) -> dict[str, list[str]]:
    """Where each photo is in a folder that is called after a split, and some in one of train."""
    splits = defaultdict(list)
    for name, place in places.items():
        splits[split_in(posixpath.basename(posixpath.dirname(place)))].append(name)
    if None in splits or len(splits) < 2 or "train" not in splits:
        return {}
    account.append("splits: by the names of the folders in which the photos are")
    return dict(splits)


def _random_splits(
    root: Path, names: list[str], seed: int, account: list[str]
) -> dict[str, list[str]]:
    if len(names) < 2:
        raise ValueError(
            f"{root}: found one photo with captions, expected one to train on and more"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    held_out = max(1, len(names) // 10)
    account.append(
        f"splits: random with --seed {seed}, {counted(len(names) - held_out, 'photo')} to train, "
        f"{held_out:,} to val; no list such as Flickr_8k.trainImages.txt or val.txt was found"
    )
    return {
        "train": [names[i] for i in sorted(order[held_out:])],
        "val": [names[i] for i in sorted(order[:held_out])],
    }


# ---------------------------------------------------------------------------------------------
# Photos
# ---------------------------------------------------------------------------------------------


def _below(name: str) -> str:
    """The name of a photo that is not there; one that leads out of the folder as one in it.

    A photo elsewhere that a caption file merely names is not read.
    """
    plain = name.replace("\\", "/")
    leaves = plain.startswith("/") or ".." in plain.split("/") or Path(name).drive
    return f"not below --root/{plain.replace('..', '_').strip('/')}" if leaves else name


def _in_one_spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _without_suffix(name: str) -> str:
    return PICTURE.sub("", _in_one_spelling(name))


class Names:
    """Known names, found by what others write: with more or less of the folders, in other letter
    cases, with or without the suffix.
    """

    spellings = (str, _in_one_spelling, _without_suffix)

    def __init__(self, names: Iterable[str]):
        self.tables = [defaultdict(list) for _ in self.spellings]
        for name in names:
            for spell, table in zip(self.spellings, self.tables, strict=True):
                spelled = spell(name)
                table[posixpath.basename(spelled)].append((spelled, name))

    def find(self, name: str, elsewhere: bool = False) -> list[str]:
        """Those that are meant, by the first spelling in which there are any; ``elsewhere``: also
        in other folders than it says.
        """
        name = posixpath.normpath(name.replace("\\", "/"))
        for spell, table in zip(self.spellings, self.tables, strict=True):
            spelled = spell(name)
            found = table.get(posixpath.basename(spelled), [])
            if spell is _without_suffix:  # p0.jpg is p0, but not p0.png
                bare = PICTURE.search(name) is None
                found = [(s, n) for s, n in found if bare != (PICTURE.search(n) is None)]
            longer = [n for s, n in found if f"/{s}".endswith(f"/{spelled}")]
            shorter = [n for s, n in found if f"/{spelled}".endswith(f"/{s}")]
            if best := longer or shorter or [n for _, n in found if elsewhere]:
                return best
        return []


def _find_photos(
    root: Path, files: list[str], index: Names, names: list[str], account: list[str]
) -> dict[str, str]:
    """Name -> path below the root, for each photo that is there."""
    folders = {posixpath.basename(posixpath.dirname(file)) for file in files}
    places: dict[str, str] = {}
    missing, twice, otherwise = [], 0, []
    owner: dict[str, str] = {}
    for name in names:
        # Where the folder that a name speaks of is there, the photo of that name is in no other.
        found = index.find(name, posixpath.basename(posixpath.dirname(name)) not in folders)
        if not found:
            missing.append(name)
            continue
        place, *others = found
        for other in others:
            if not filecmp.cmp(root / place, root / other, shallow=False):
                raise ValueError(
                    f"{root}: {place} and {other} are different photos of the name {name}; remove "
                    "one, or write the names of the captions with their folders"
                )
        twice += bool(others)
        if owner.setdefault(place, name) != name:
            raise ValueError(
                f"{root}: {owner[place]} and {name} have captions and are both found as {place}; "
                "write the names as those of the files are"
            )
        if not f"/{place}".endswith(f"/{name}"):
            otherwise.append(f"{name} is {place}")
        places[name] = place
    if not places:
        raise FileNotFoundError(
            f"{root}: none of the {counted(len(names), 'photo')} that have captions is below it, "
            f"{min(missing)} the first; is the copy complete?"
        )
    used = set(places.values())
    serving = Counter(posixpath.dirname(place) or "." for place in places.values()).most_common()
    where = [f"{count:,} in {folder}" for folder, count in serving[:5]]
    rest = f" and {len(serving) - 5:,} folders more" if len(serving) > 5 else ""
    account.append(f"photos: {', '.join(where)}{rest}")
    unused = sum(1 for file in files if PICTURE.search(file) and file not in used)
    for number, what in (
        (len(missing), f"not found below --root ({', '.join(missing[:3])})"),
        (twice, "found in several folders with the same bytes"),
        (len(otherwise), f"under another name or folder than written ({', '.join(otherwise[:1])})"),
        (unused, "below --root in no split or without captions, left out"),
    ):
        if number:
            account.append(f"photos: {number:,} {what}")
    return places
