"""A caption file in any of the forms that people have, recognised by what it holds.

``read_caption_file`` reads one. Each form has a reader that yields ``Row``s; names, captions and
splits are checked in one place, ``_gathered``.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from core.support.choices import SUFFIXES
from core.support.files import parse_json, require_file
from core.support.schema import Text, shown

FORMS = (
    "CSV with the header image,caption (or tabs, semicolons, pipes), name.jpg#0<TAB>caption, "
    "Karpathy's JSON, COCO's captions_*.json, metadata.csv or metadata.jsonl"
)
_SUFFIX = "|".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
PICTURE = re.compile(rf"\.({_SUFFIX})$", re.IGNORECASE)

# Columns as headers call them, without blanks, underscores and capitals; the first that is there.
_NAMES = (
    *("filename", "imagename", "imagefilename", "imagefile", "filepath", "imagepath", "image"),
    *("images", "imgname", "img", "file", "photo", "picture", "path", "name"),
    *("imageid", "imgid", "photoid", "id"),
)
_CAPTIONS = ("caption", "comment", "text", "sentence", "description", "raw")  # also captions, text2
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")
_SPLITS = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_TABLES = {
    "\t": "tab-separated table",
    "|": "pipe-separated table",
    ";": "semicolon-separated table",
    ",": "CSV",
}
_HEAD = 2**16  # bytes by which a text is recognised
_BREAKS = re.compile("[\r\n\f\v\x1c-\x1e\x85\u2028\u2029]+")  # in a caption: a blank


@dataclass
class CaptionFile:
    """What a caption file says.

    - form: its name for people
    - captions: file name -> captions, as written
    - splits: split -> file names; empty where the form has none
    - ids: image id, as text -> file name; empty where the form has none
    - account: lines that say what was read, what was left out, and why
    """

    path: Path
    form: str
    captions: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    account: list[str] = field(default_factory=list)


class Row(NamedTuple):
    """What one place of a file says of a photo. ``_gathered`` checks the types."""

    where: str
    name: object
    captions: Sequence
    split: object = None
    id: object = None


def read_caption_file(path: str | Path) -> CaptionFile:
    """Reads a caption file of any form.

    Raises FileNotFoundError, and ValueError that names the file and the place for what is torn, in
    no known form, without captions, or contradicts itself (a photo in two splits, a key twice).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file of captions")
    form = form_of(path)
    if form is None:
        text = decoded(path)
        if text.lstrip()[:1] in ("{", "["):
            parse_json(path, text)  # says so when it is torn
        first = _beginning(path)[0].strip()[:80]
        raise ValueError(
            f"{path}: holds captions in no form that is known: it begins with {first!r}, expected "
            f"{FORMS}; give it a first line image,caption"
        )
    notes: list[str] = []
    found = _gathered(path, form, _READERS.get(form, _read_table)(path, notes), notes)
    if not found.captions:
        raise ValueError(f"{path}: holds no captions ({form}); is the copy complete?")
    total = sum(map(len, found.captions.values()))
    photos = counted(len(found.captions), "photo")
    found.account = [f"{form}, {counted(total, 'caption')} of {photos}", *notes]
    return found


def form_of(path: Path) -> str | None:
    """The form of a caption file, by its beginning or, for JSON, its keys; None when it is none."""
    if not path.is_file() or not path.stat().st_size:
        return None
    lines = _beginning(path)
    if lines[0].lstrip()[:1] in ("{", "["):
        content = path.read_bytes()
        if _encoding(content) == "utf-16":
            content = decoded(path).encode(errors="backslashreplace")
        found = (f for f, keys in _KEYS.items() if all(re.search(k, content) for k in keys))
        return next(found, None)
    if any(_TOKEN.match(line) for line in lines):
        return _TOKENS
    layout = _layout(lines)
    return layout and layout.form


def split_in(name: str) -> str | None:
    """The split that a name speaks of: Flickr_8k.trainImages, captions_val2014, dev; else None."""
    found = set()
    for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name):
        stem = re.sub(r"(?<=.)((image|img|file|name|id)s?|list|set|split)$", "", word.lower())
        found.add(_SPLITS.get(stem, _SPLITS.get(word.lower())))
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def counted(number: int, one: str, many: str | None = None) -> str:
    """'1 photo', '7,000 photos'."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _gathered(path: Path, form: str, rows: Iterator[Row], notes: list[str]) -> CaptionFile:
    """All rows of a file in one ``CaptionFile``, checked."""
    found, owner, numbers, unsplit = CaptionFile(path, form), {}, 0, 0
    for where, name, captions, split, image in rows:
        if isinstance(name, int | float) and not isinstance(name, bool):
            numbers, name = numbers + 1, str(name)
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{path}: {where} has {shown(name)} as the name of a photo, expected text"
            )
        name = name.strip()
        if fault := Text(name=True).fault(name):
            raise ValueError(f"{path}: {where}: the name of a photo {fault}; mend it")
        for caption in captions:
            if not isinstance(caption, str):
                raise ValueError(
                    f"{path}: {where} ({name}) has {shown(caption)} as caption, not text"
                )
        texts = [_BREAKS.sub(" ", caption).strip() for caption in captions]
        found.captions.setdefault(name, []).extend(texts)
        if image is not None:
            found.ids[str(image)] = name
        if split is None or split == "":
            unsplit += 1
            continue
        known = split_in(split) if isinstance(split, str) else None
        if known is None:
            raise ValueError(
                f"{path}: {where} ({name}) is in the split {shown(split)}, expected one of "
                f"{', '.join(_SPLITS)}"
            )
        if owner.setdefault(name, known) != known:
            raise ValueError(
                f"{path}: {where}: {name} is in the {known} split and in the {owner[name]} split "
                "too; a photo can be in one, so remove it from the other"
            )
    if lonely := [name for name, captions in found.captions.items() if not captions]:
        notes.append(f"{counted(len(lonely), 'photo')} without a caption left out")
        for name in lonely:
            del found.captions[name]
            owner.pop(name, None)
    for name, split in owner.items():
        found.splits.setdefault(split, []).append(name)
    if numbers:
        notes.append(f"{counted(numbers, 'name')} of photos written as numbers, taken as text")
    if unsplit and owner:
        notes.append(f"{counted(unsplit, 'entry', 'entries')} without a split")
    return found


# ---------------------------------------------------------------------------------------------
# Text: tables, and lines name#0<TAB>caption
# ---------------------------------------------------------------------------------------------


def decoded(path: Path) -> str:
    """A text file in UTF-8 or UTF-16 with a byte order mark; raises ValueError for another one."""
    require_file(path)
    content = path.read_bytes()
    try:
        return content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8 ({error}); convert it first") from error


def _beginning(path: Path) -> list[str]:
    """The first lines that hold something, 50 or as many as are whole."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    lines = _lines(head.decode(_encoding(head), errors="replace"))
    if len(head) == _HEAD and len(lines) > 1:
        lines.pop()  # it may be cut
    return [line for line in lines if line.strip()][:50] or [""]


def _encoding(content: bytes) -> str:
    return "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _lines(text: str) -> list[str]:
    r"""Lines with their ends, \n, \r\n or \r; all else that str.splitlines cuts at is text."""
    return list(io.StringIO(text, newline=""))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends and what is blank around them."""
    return [line.strip() for line in _lines(decoded(path))]


_TOKENS = "lines name#0<TAB>caption"
_TOKEN = re.compile(r"([^\t]+)#\d+\s*\t(.*)", re.DOTALL)


def _read_tokens(path: Path, notes: list[str]) -> Iterator[Row]:
    for number, line in enumerate(_lines(decoded(path)), 1):
        if match := _TOKEN.fullmatch(line):
            yield Row(f"line {number}", match[1], [match[2]])
        elif line.strip():
            raise ValueError(f"{path}: line {number} is not name.jpg#0<TAB>caption")


class _Layout(NamedTuple):
    """How a table is laid out: how many cells a row has, and what they are."""

    delimiter: str
    header: bool
    width: int
    name: int
    captions: list[int]
    split: int | None = None

    @property
    def form(self) -> str:
        return f"{_TABLES[self.delimiter]} {'with' if self.header else 'without'} a header"


def _csv(lines: list[str], delimiter: str, strict: bool = False):
    """Where tabs or pipes part the cells, quotation marks are text."""
    quoting = csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=strict)


def _layout(lines: list[str]) -> _Layout | None:
    """Of the first lines of a table: by its header, else by what its cells hold."""
    try:
        tables = {d: [row for row in _csv(lines, d) if "".join(row).strip()] for d in _TABLES}
    except csv.Error:  # a NUL, which Python 3.10 takes in no table
        return None
    for find in (_by_header, _by_content):
        for delimiter, rows in tables.items():
            if rows and len(rows[0]) > 1 and (layout := find(delimiter, rows)):
                return layout
    return None


def _columns(keys: Sequence[str]) -> tuple[str, list[str], str | None] | None:
    """Which column names the photo, which hold captions and the split; None when one is missing."""
    plain = {re.sub(r"[\W_]+", "", key.lower()): key for key in reversed(keys)}
    kinds = {key: re.sub(r"s?\d*$", "", key) for key in reversed(plain)}
    name = next((plain[key] for key in _NAMES if key in plain), None)
    kind = next((each for each in _CAPTIONS if each in kinds.values()), None)
    if name is None or kind is None:
        return None
    split = next((plain[key] for key in _SPLIT_COLUMNS if key in plain), None)
    return name, [plain[key] for key in kinds if kinds[key] == kind], split


def _by_header(delimiter: str, rows: list[list[str]]) -> _Layout | None:
    if (columns := _columns(rows[0])) is None:
        return None
    at = rows[0].index
    name, captions, split = columns
    split_at = None if split is None else at(split)
    return _Layout(delimiter, True, len(rows[0]), at(name), [at(c) for c in captions], split_at)


def _by_content(delimiter: str, rows: list[list[str]]) -> _Layout | None:
    """A column of picture names beside one of words, under a header of other words or none."""
    first, *others = rows

    def all_pictures(column: int, rows: list) -> bool:
        return all(len(row) > column and PICTURE.search(row[column].strip()) for row in rows)

    name = next((i for i in range(len(first)) if all_pictures(i, others or rows)), None)
    if name is None:
        return None
    if PICTURE.search(first[name].strip()):  # a caption may hold delimiters: it goes to the end
        numbered = len(first) > name + 2 and first[name + 1].strip().isdigit()
        caption, width = name + 1 + numbered, name + 2 + numbered
        header, sample = False, [delimiter.join(row[caption:]) for row in rows]
    elif others:
        texts = {i: "".join(r[i] for r in others if len(r) > i) for i in range(len(first))}
        caption = max(texts.keys() - {name}, key=lambda i: texts[i].count(" "))
        width, header, sample = len(first), True, [r[caption] for r in others if len(r) > caption]
    else:
        return None
    worded = [text for text in sample if " " in text.strip() or not text.isascii()]
    if 2 * len(worded) <= len(sample):  # numbers, or names of classes
        return None
    return _Layout(delimiter, header, width, name, [caption])


def _read_table(path: Path, notes: list[str]) -> Iterator[Row]:
    lines, layout = _lines(decoded(path)), _layout(_beginning(path))
    name, caption, split = layout.name, layout.captions[-1], layout.split
    rows = _rows(path, lines, layout)
    header = next(rows)[1] if layout.header else None
    headers, mended = 0, []
    for line, row in rows:
        if row == header:  # of a second table that was written after the first
            headers += 1
            continue
        extra = len(row) - layout.width
        if extra > 0 and len(layout.captions) == 1:  # delimiters outside of quotes: of the caption
            text = layout.delimiter.join(row[caption : caption + extra + 1])
            row[caption : caption + extra + 1] = [text]
        # One separator is missing in Flickr30k's results.csv: name| 4   A dog runs .
        lacks = name + 1 < caption == layout.width - 1 and not "".join(row[caption:]).strip()
        if lacks and (two := re.fullmatch(r"\s*\d+\s+(\S.*)", "".join(row[caption - 1 :]))):
            row[caption:] = [two[1]]
            mended.append(str(line))
        if len(row) > layout.width or len(row) <= max(name, *layout.captions):
            raise ValueError(
                f"{path}: line {line} has no caption in its place: found "
                f"{counted(len(row), 'cell')}, expected {layout.width}"
            )
        texts = [text for i in layout.captions for text in _several(row[i])]
        of_split = row[split] if split is not None and split < len(row) else None
        yield Row(f"line {line}", row[name], texts, of_split)
    if not layout.header:
        notes.append(f"no header: the first line, {lines[0].strip()[:60]!r}, is read as a caption")
    if headers:
        notes.append(f"{counted(headers, 'header')} further down left out")
    if mended:
        rows = counted(len(mended), "row")
        notes.append(
            f"{rows} with a separator missing, caption kept (line {', '.join(mended[:5])})"
        )


def _rows(path: Path, lines: list[str], layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank.

    Raises ValueError for a quotation mark that opens a cell and closes only in another row.
    """
    reader, end = _csv(lines, layout.delimiter), 0
    try:
        for row in reader:
            start, end = end, reader.line_num
            if (end > start + 1 or end == len(lines)) and not _closed(lines[start:end], layout):
                raise ValueError(
                    f"{path}: line {start + 1}: a quotation mark is not closed there; close it or "
                    "remove it"
                )
            if any(cell.strip() for cell in row):
                yield start + 1, row
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}; a quote left open?") from error


def _closed(lines: list[str], layout: _Layout) -> bool:
    """Whether the lines of one row are one: no other row begins in a cell of it."""
    try:
        next(_csv(lines, layout.delimiter, strict=True))
    except csv.Error as error:
        return len(lines) == 1 and "unexpected end" not in str(error)
    cells = [line.split(layout.delimiter)[layout.name :] for line in lines]
    name, *others = ["".join(each[:1]).strip() for each in cells]
    return not any(other == name or PICTURE.search(other) for other in others)


def _several(cell: str) -> list[str]:
    """The captions of a cell: one, or a list that was written as text, ["...", "..."]."""
    if cell.lstrip().startswith("[") and cell.rstrip().endswith("]"):
        try:
            texts = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return [cell]  # it only looks like a list
        if texts and all(isinstance(text, str) for text in texts):
            return texts
    return [cell]


# ---------------------------------------------------------------------------------------------
# JSON
# ---------------------------------------------------------------------------------------------


def _object(path: Path) -> dict:
    content = parse_json(path, decoded(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a list, expected one object with lists in it")
    return content


def _objects(path: Path, items, name: str) -> Iterator[tuple[str, dict]]:
    """(place, object) for each of a list of objects."""
    if not isinstance(items, list):
        raise ValueError(f"{path}: {name} is {shown(items)}, expected a list")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise ValueError(
                f"{path}: {name}, number {number}: is {shown(item)}, expected an object"
            )
        yield f"{name}, number {number}", item


def _read_karpathy(path: Path, notes: list[str]) -> Iterator[Row]:
    seen: dict[object, list] = {}
    tokens, joined, double = 0, 0, 0
    for where, image in _objects(path, _object(path).get("images"), "images"):
        captions = []
        for at, sentence in _objects(path, image.get("sentences"), f"{where}, sentences"):
            words = sentence.get("tokens")
            if "raw" not in sentence and isinstance(words, list):
                if not all(isinstance(word, str) for word in words):
                    raise ValueError(f"{path}: {at}: has a token that is no text")
                tokens += 1
                captions.append(" ".join(words))
            elif isinstance(sentence.get("raw"), str):
                captions.append(sentence["raw"])
            else:
                raise ValueError(
                    f"{path}: {at}: is not in the form of Karpathy's JSON: expected a text 'raw' "
                    "or a list 'tokens'"
                )
        name, folder = image.get("filename"), image.get("filepath")
        if isinstance(name, str) and isinstance(folder, str) and folder:
            name = f"{folder}/{name}"
        key = str(name)
        if key in seen:
            joined += 1
            double += sum(caption in seen[key] for caption in captions)
            captions = [caption for caption in captions if caption not in seen[key]]
        seen.setdefault(key, []).extend(captions)
        number = image.get("cocoid", image.get("imgid"))
        yield Row(where, name, captions, image.get("split"), number)
    if tokens:
        notes.append(f"{counted(tokens, 'caption')} without 'raw': their tokens are taken")
    if joined:
        notes.append(
            f"{counted(joined, 'entry', 'entries')} of a photo that has one already, joined"
            f" ({counted(double, 'caption')} that both have kept once)"
        )


def _read_coco(path: Path, notes: list[str]) -> Iterator[Row]:
    content = _object(path)
    names: dict[str, object] = {}
    if "images" in content:
        for where, image in _objects(path, content["images"], "images"):
            key = _id(path, where, image.get("id"))
            if names.setdefault(key, image.get("file_name")) != image.get("file_name"):
                raise ValueError(f"{path}: {where}: the id {key} has two file names")
    else:
        notes.append("no list 'images': photos are known by their ids")
    used = set()
    for where, row in _objects(path, content.get("annotations"), "annotations"):
        image = _id(path, where, row.get("image_id"))
        if names and image not in names:
            raise ValueError(f"{path}: {where} is of image {image}, which 'images' does not list")
        used.add(image)
        yield Row(where, names.get(image, image), [row.get("caption")], None, image)
    if lonely := len(names.keys() - used):
        notes.append(f"{counted(lonely, 'image')} without a caption left out")


def _id(path: Path, where: str, value) -> str:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(
            f"{path}: {where} has {shown(value)} as image id, expected a number or text"
        )
    return str(value)


def _read_rows(path: Path, notes: list[str]) -> Iterator[Row]:
    """A list of objects, or an object a line."""
    text = decoded(path)
    first = _beginning(path)[0].strip()
    if first[0] == "[" or first[-1] != "}":  # one value, over several lines
        content = parse_json(path, text)
        rows = list(_objects(path, content if isinstance(content, list) else [content], "list"))
    else:
        lines = enumerate(_lines(text), 1)
        rows = [(f"line {i}", parse_json(path, x, f"line {i}: ")) for i, x in lines if x.strip()]
    for where, row in rows:
        columns = _columns(list(row)) if isinstance(row, dict) else None
        if columns is None:
            raise ValueError(f"{path}: {where} names no photo with a caption: it is {shown(row)}")
        name, captions, split = columns
        values = [row[key] for key in captions]
        texts = [text for v in values for text in (v if isinstance(v, list) else [v])]
        yield Row(where, row[name], texts, split and row[split])


def _read_mapping(path: Path, notes: list[str]) -> Iterator[Row]:
    for number, (name, captions) in enumerate(_object(path).items(), 1):
        yield Row(f"number {number}", name, captions if isinstance(captions, list) else [captions])


# form -> what its bytes hold, all of it. Captions in COCO's results format are those of a model.
_NO_RESULTS = rb'\A(?!\s*\[\s*\{\s*"image_id")'
_CAPTION_KEY = rb'[\s\S]{0,4000}?"(%s)s?\d*"\s*:' % "|".join(_CAPTIONS).encode()
_KEYS = {
    "Karpathy's JSON": (rb'"sentences"\s*:', rb'"images"\s*:'),
    "COCO annotations": (rb'"annotations"\s*:', rb'"caption"\s*:'),
    "JSON, file name to captions": (rb'\A\W*"[^"]+\.(?i:%s)"\s*:' % _SUFFIX.encode(),),
    "JSON, an object a caption": (
        _NO_RESULTS + _CAPTION_KEY,
        rb'\A[\s\S]{0,4000}?"(?i:file|image|img|photo|picture|path)[\w ]*"\s*:',
    ),
}
_READERS = {
    _TOKENS: _read_tokens,
    **dict(zip(_KEYS, (_read_karpathy, _read_coco, _read_mapping, _read_rows), strict=True)),
}  # all others are tables
