"""What people bring: caption files in many forms, lists of splits, photos in many folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.image_utils import SUFFIXES
from core.photos import holds_photos, read_caption_file, read_photo_folder

TWO = {"a.jpg": ["A dog runs.", "One dog."], "b.jpg": ["A cat, asleep."]}
NAMES = [f"p{i}.jpg" for i in range(12)]


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        content = content if isinstance(content, bytes) else content.encode()
        (root / name).write_bytes(content)
    return root


def photos(*paths: str) -> dict[str, bytes]:
    """Files of different bytes; nothing here looks at what they show."""
    return {path: path.encode() for path in paths}


def csv_of(names=NAMES, caption="a dog runs") -> str:
    return "image,caption\n" + "".join(f"{name},{caption}\n" for name in names)


def folder(root: Path, files=(), images="Images", names=NAMES) -> Path:
    """A folder of 12 photos with captions, and whatever else is given."""
    usual = {"captions.txt": csv_of(names), **photos(*(f"{images}/{name}" for name in names))}
    return write(root, {**usual, **dict(files)})


def account(root, seed=0) -> str:
    return "\n".join(read_photo_folder(root, seed).account)


def refused(function, *arguments) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        function(*arguments)
    return " ".join(str(error.value).split())


# -- forms of caption files --------------------------------------------------------------------


def karpathy(*images: dict) -> str:
    return json.dumps({"dataset": "own", "images": images})


def entry(name, split: str | None, *captions: str, **others) -> dict:
    image = {"filename": name, "sentences": [{"raw": text} for text in captions], **others}
    return image if split is None else {**image, "split": split}


KARPATHY = karpathy(
    entry("a.jpg", "restval", *TWO["a.jpg"], imgid=7), entry("b.jpg", "val", *TWO["b.jpg"])
)
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 20, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 20, "caption": "A cat, asleep."},
        {"id": 2, "image_id": 1, "caption": "A dog runs."},
        {"id": 3, "image_id": 1, "caption": "One dog."},
    ],
}
ROWS = [("a.jpg", "A dog runs."), ("a.jpg", "One dog."), ("b.jpg", "A cat, asleep.")]


def table(header: str, row: str, end="\n") -> str:
    return end.join([*([header] if header else []), *(row.format(*each) for each in ROWS), ""])


FORMS = {
    "Kaggle's Flickr8k": table("image,caption", "{},{}"),
    "Kaggle's Flickr30k": table("image_name,comment_number,comment", "{},0,{}"),
    "results.csv": table("image_name| comment_number| comment", "{}| 0| {}"),
    "tokens": table("", "{}#0\t{}"),
    "tokens, lines end as in Windows": table("", "{}#0\t{}", "\r\n"),
    "lines end as on an old Macintosh": table("image,caption", '{},"{}"', "\r"),
    "capitals": table("Image,Caption", "{},{}"),
    "names with blanks": table("Image Name , Caption Text,CAPTION", "{},x,{}"),
    "semicolons": table("image;caption", "{};{}"),
    "tabs": table("filename\tdescription", "{}\t{}"),
    "an index": table(",image,caption", "3,{},{}"),
    "an id at the end, a comma in the caption": table("image,caption,id", "{},{},4"),
    "the caption first": table("caption,file_name", '"{1}",{0}'),
    "no header": table("", "{},{}"),
    "no header, numbered": table("", "{}|0|{}"),
    "a header of another language": table("Bild;Beschreibung;Nummer", "{};{};3"),
    "a byte order mark": "\ufeff" + table("image,caption", "{},{}"),
    "two files in one": table("image,caption", "{},{}") + "image,caption\n",
    "Karpathy": KARPATHY,
    "Karpathy, tokens only": karpathy(
        {"filename": "a.jpg", "sentences": [{"tokens": t.split()} for t in TWO["a.jpg"]]},
        {"filename": "b.jpg", "sentences": [{"tokens": ["A", "cat,", "asleep."]}]},
    ),
    "COCO": json.dumps(COCO),
    "COCO, the annotations first": json.dumps(dict(reversed(COCO.items()))),
    "metadata.jsonl": "".join(json.dumps({"file_name": n, "text": c}) + "\n" for n, c in ROWS),
    "metadata.jsonl, several captions": "".join(
        json.dumps({"file_name": name, "captions": several}) + "\n" for name, several in TWO.items()
    ),
    "a list of objects": json.dumps([{"caption": c, "image": n, "image_id": 3} for n, c in ROWS]),
    "names to captions": json.dumps(TWO),
    "lists in cells": table("raw,filename", '"[""{1}""]",{0}'),
    "several columns": "image,caption_1,caption_2\na.jpg,A dog runs.,One dog.\n"
    'b.jpg,"A cat, asleep.",""\n',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["captions.txt", "mine.json"])
def test_forms_are_recognised_by_what_they_hold(tmp_path, form, name):
    write(tmp_path, {name: FORMS[form]})
    found = read_caption_file(tmp_path / name)
    captions = {n: [text for text in texts if text] for n, texts in found.captions.items()}
    assert {n: sorted(texts) for n, texts in captions.items()} == TWO
    count = sum(map(len, found.captions.values()))
    assert found.account[0].endswith(f", {count} captions of 2 photos")


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_format_that_is_read_is_known_by_its_name(tmp_path, suffix):
    names = [f"{i}{suffix}" for i in range(12)]
    captions = json.dumps({name: ["a dog runs"] for name in names})
    root = write(tmp_path, {"captions.json": captions, **photos(*names, f"more{suffix}")})
    assert set(read_photo_folder(root).captions) == set(names)
    assert "photos: 1 below --root in no split or without captions, left out" in account(root)


def test_text_in_utf_16_is_read(tmp_path):
    for form in ("tabs", "Kaggle's Flickr8k", "Karpathy"):
        (tmp_path / "captions.txt").write_text(FORMS[form], encoding="utf-16")
        assert read_caption_file(tmp_path / "captions.txt").captions == TWO


def test_splits_and_ids_are_those_of_the_form(tmp_path):
    write(tmp_path, {"k.json": KARPATHY, "c.json": json.dumps(COCO)})
    found = read_caption_file(tmp_path / "k.json")
    assert found.splits == {"train": ["a.jpg"], "val": ["b.jpg"]}
    assert found.ids == {"7": "a.jpg"}
    found = read_caption_file(tmp_path / "c.json")
    assert found.splits == {}
    assert found.ids == {"1": "a.jpg", "20": "b.jpg"}
    write(tmp_path, {"s.csv": "raw,split,filename\na dog,train,a.jpg\na cat,test,b.jpg\n"})
    assert read_caption_file(tmp_path / "s.csv").splits == {"train": ["a.jpg"], "test": ["b.jpg"]}


def test_karpathys_folders_are_kept(tmp_path):
    images = [
        entry("x.jpg", "restval", "a dog", filepath="val2014", cocoid=42, imgid=1),
        entry("y.jpg", "train", "a cat", filepath="train2014", cocoid=43, imgid=2),
    ]
    write(tmp_path, {"dataset_coco.json": karpathy(*images)})
    found = read_caption_file(tmp_path / "dataset_coco.json")
    assert found.splits == {"train": ["val2014/x.jpg", "train2014/y.jpg"]}
    assert found.ids == {"42": "val2014/x.jpg", "43": "train2014/y.jpg"}


@pytest.mark.parametrize(
    "broken",
    [
        "2199200615.jpg| 4   A dog runs across the grass .",
        "2199200615.jpg| 4   A dog runs across the grass .|",
    ],
)
def test_the_broken_row_of_flickr30k(tmp_path, broken):
    text = f"image_name| comment_number| comment\n2199200615.jpg| 3| A dog .\n{broken}\n"
    found = read_caption_file(write(tmp_path, {"results.csv": text}) / "results.csv")
    assert found.captions == {"2199200615.jpg": ["A dog .", "A dog runs across the grass ."]}
    assert "1 row with a separator missing, caption kept (line 3)" in found.account


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c"])
@pytest.mark.parametrize("form", ["image,caption\na.jpg,{}\n", "a.jpg#0\t{}\n"])
def test_what_is_no_end_of_a_line_is_a_blank(tmp_path, char, form):
    write(tmp_path, {"captions.txt": form.format(f"a dog{char}runs, fast")})
    found = read_caption_file(tmp_path / "captions.txt")
    assert found.captions == {"a.jpg": ["a dog runs, fast"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quoted_cell_may_hold_lines(tmp_path, end):
    text = end.join(["image,caption", 'a.jpg,"A ""big""', "", 'dog, runs"', "b.jpg,A cat", ""])
    found = read_caption_file(write(tmp_path, {"captions.txt": text}) / "captions.txt")
    assert found.captions == {"a.jpg": ['A "big" dog, runs'], "b.jpg": ["A cat"]}


def test_quotation_marks_that_are_text(tmp_path):
    text = 'image,caption\na.jpg,"Stop" says a sign\nb.jpg,a 12" pipe\nb.jpg,"Go" it says'
    found = read_caption_file(write(tmp_path, {"captions.txt": text}) / "captions.txt")
    assert found.captions["b.jpg"][0] == 'a 12" pipe'
    assert "says a sign" in found.captions["a.jpg"][0]
    write(tmp_path, {"captions.txt": 'a.jpg#0\t"A dog\nb.jpg#0\ta cat\n'})
    assert read_caption_file(tmp_path / "captions.txt").captions["a.jpg"] == ['"A dog']


OPEN_QUOTES = (
    'a.jpg,"A dog\nb.jpg,A cat\nc.jpg,A "bird"\n',
    'a.jpg,"A dog\nb.jpg,a tv of 12"\n',
    'a.jpg,"A dog\nb.jpg,"A cat"\n',
    'a.jpg,A dog\nb.jpg,"A cat',
    'a,"A dog\na,a tv of 12"\n',
)


@pytest.mark.parametrize("rows", OPEN_QUOTES)
def test_a_quotation_mark_that_swallows_rows_is_refused(tmp_path, rows):
    write(tmp_path, {"captions.csv": f"image,caption\n{rows}"})
    error = refused(read_caption_file, tmp_path / "captions.csv")
    assert "captions.csv: line" in error
    assert "a quotation mark is not closed there" in error


WRONG = {
    "a number as caption": (karpathy(entry("a.jpg", "train", 3)), "expected a text 'raw'"),
    "no sentences": ('{"images": [{"filename": "a.jpg", "sentences": null}]}', "expected a list"),
    "no name": (karpathy(entry(None, "train", "a dog")), "None as the name of a photo"),
    "a list as name": (karpathy(entry(["a"], "train", "a dog")), "a list of 1 as the name"),
    "true as name": (karpathy(entry(True, "train", "a dog")), "True as the name"),
    "an unknown split": (karpathy(entry("a.jpg", "trian", "a dog")), "'trian', expected one of"),
    "a list as split": (karpathy(entry("a.jpg", ["x"], "a dog")), "a list of 1, expected one of"),
    "two splits": (
        karpathy(entry("a.jpg", "train", "a dog"), entry("a.jpg", "test", "a cat")),
        "a.jpg is in the test split and in the train split too",
    ),
    "two splits in a table": (
        "image,caption,split\na.jpg,a dog,train\na.jpg,a cat,val\n",
        "line 3: a.jpg is in the val split and in the train split too",
    ),
    "an image that is text": ('{"images": ["a.jpg"], "sentences": []}', "expected an object"),
    "a key twice": ('{"a.jpg": ["a dog"], "a.jpg": ["a cat"]}', "'a.jpg' occurs twice"),
    "a key twice, inside": (
        '{"images": [], "sentences": 1, "images": []}',
        "'images' occurs twice",
    ),
    "a key twice in a line": (
        '{"file_name": "a.jpg", "text": "a", "text": "b"}',
        "'text' occurs twice",
    ),
    "torn": (KARPATHY[:-20], "is not valid JSON"),
    "a torn line": (FORMS["metadata.jsonl"][:-9], "line 3: is not valid JSON"),
    "deep": ("[" * 100_000, "is not valid JSON"),
    "an unknown image": (
        json.dumps({**COCO, "images": COCO["images"][:1]}),
        "is of image 20, which 'images' does not list",
    ),
    "an id for two images": (
        json.dumps({**COCO, "images": [*COCO["images"], {"id": 1, "file_name": "c.jpg"}]}),
        "the id 1 has two file names",
    ),
    "a caption of COCO that is none": (
        '{"annotations": [{"image_id": 1, "caption": null}]}',
        "None as caption",
    ),
    "a list of COCO": ('[{"annotations": 1, "caption": "x"}]', "expected one object"),
    "an id that is a list": (
        '{"annotations": [{"image_id": [1], "caption": "x"}]}',
        "a list of 1 as image id",
    ),
    "a mapping to a number": ('{"a.jpg": 3}', "3 as caption"),
    "a row without caption": ("image,caption,id\na.jpg,a dog,1\nb.jpg\n", "line 3 has no caption"),
    "a row without name": ("image,caption\n,a dog\n", "line 2 has '' as the name of a photo"),
    "too many cells": (
        "image,caption1,caption2\na.jpg,a dog, brown,a dog\n",
        "line 2 has no caption in its place: found 4 cells, expected 3",
    ),
    "nothing": ("", "begins with ''"),
    "only a header": ("image,caption\n", "holds no captions"),
    "labels": ("a.jpg,dog\nb.jpg,cat\n", "begins with 'a.jpg,dog'"),
    "captions of a model": (
        '[{"image_id": 0, "file_name": "a.jpg", "caption": "a dog"}]',
        "holds captions in no form that is known",
    ),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_caption_file_is_named(tmp_path, text, words):
    write(tmp_path, {"mine.txt": text})
    error = refused(read_caption_file, tmp_path / "mine.txt")
    assert words in error
    assert "mine.txt" in error


def test_numbers_as_names_are_text(tmp_path):
    write(tmp_path, {"k.json": karpathy(entry(0, "train", "a"), entry(1, "val", "b"))})
    found = read_caption_file(tmp_path / "k.json")
    assert list(found.captions) == ["0", "1"]
    assert any("2 names of photos written as numbers" in line for line in found.account)


def test_two_entries_of_one_photo_are_joined(tmp_path):
    images = [
        entry("a.jpg", "train", "a dog", "one dog"),
        entry("b.jpg", "val", "a cat"),
        entry("a.jpg", "train", "one dog", "the dog"),
        entry("c.jpg", "val"),
    ]
    write(tmp_path, {"k.json": karpathy(*images)})
    found = read_caption_file(tmp_path / "k.json")
    assert found.captions == {"a.jpg": ["a dog", "one dog", "the dog"], "b.jpg": ["a cat"]}
    assert found.splits == {"train": ["a.jpg"], "val": ["b.jpg"]}
    assert any("joined (1 caption that both have kept once)" in line for line in found.account)
    assert "1 photo without a caption left out" in found.account


# -- splits ------------------------------------------------------------------------------------

HALVES = {"train": NAMES[:8], "val": NAMES[8:]}


def lists(train: str, val: str, spell=str, end="\n", before="") -> dict[str, str]:
    """Files of names, spelled in some way."""
    several = {train: HALVES["train"], val: HALVES["val"]}
    return {f: before + "".join(spell(n) + end for n in names) for f, names in several.items()}


LISTS = {
    "official": lists("Flickr_8k.trainImages.txt", "Flickr_8k.devImages.txt"),
    "another name": lists("Flickr8k.trainImages.txt", "Flickr8k.devImages.txt"),
    "in a folder": lists("Flickr8k_text/trainImages.txt", "Flickr8k_text/valImages.txt"),
    "short": lists("train.txt", "validation.txt"),
    "short, two folders down": lists("a/splits/TRAIN.TXT", "a/splits/DEV.TXT"),
    "underscores": lists("karpathy_train_images.txt", "karpathy_val_images.txt"),
    "a table": lists("train_list.csv", "valid_list.csv", before="image\n"),
    "no suffixes": lists("train.txt", "dev.txt", lambda n: n.removesuffix(".jpg")),
    "with a folder": lists("train.txt", "val.txt", "Images/{}".format),
    "with a folder of Windows": lists("train.txt", "val.txt", ".\\Images\\{}".format, "\r\n"),
    "absolute": lists("train.txt", "val.txt", "/content/data/Images/{}".format),
    "capitals": lists("train.txt", "val.txt", str.upper),
    "with ids": lists("train.txt", "val.txt", "train2014/{} 57870".format),
    "numbered captions": lists("train.txt", "val.txt", "{}#0".format),
    "old ends of lines": lists("train.txt", "val.txt", end="\r"),
    "blank lines and a mark": lists("train.txt", "val.txt", end="\n\n", before="\ufeff"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_found_and_their_names_match(tmp_path, kind):
    root = folder(tmp_path, LISTS[kind])
    assert read_photo_folder(root).splits == HALVES
    said = account(root)
    for file, count in zip(LISTS[kind], (8, 4), strict=True):
        assert f"{file}: " in said
        assert f"{count} photos to {'train' if count == 8 else 'val'}" in said
    assert "random" not in said


def test_names_of_a_list_without_captions_are_counted(tmp_path):
    train = "".join(f"{name}\n" for name in [*NAMES[:5], "q1.jpg", "q2.jpg", "p0.jpg"])
    root = folder(tmp_path, {"train.txt": train, "val.txt": "p9.jpg\n"})
    assert read_photo_folder(root).splits == {"train": NAMES[:5], "val": ["p9.jpg"]}
    said = account(root)
    assert "train.txt: 8 names, 5 photos to train; 2 without captions left out, q1.jpg" in said
    assert "1 more than once" in said
    assert "6 captioned photos in no split left out" in said


@pytest.mark.parametrize(
    "names", [["q1.jpg"], ["p1.jpg", "q1.jpg", "q2.jpg"], ["p11", "x", "yy", "z"], []]
)
def test_a_list_that_matches_less_than_half_is_refused(tmp_path, names):
    root = folder(tmp_path, {"train.txt": "p0.jpg\n", "dev.txt": "\n".join(names)})
    error = refused(read_photo_folder, root)
    assert "dev.txt: " in error
    assert "names no photo" in error or "name no photo with captions" in error


def test_a_photo_in_two_lists_is_refused_however_it_is_spelled(tmp_path):
    for other in ("p3.jpg", "Images/p3.jpg", "p3", "P3.JPG"):
        root = folder(tmp_path, {"train.txt": "p2.jpg\np3.jpg\n", "test.txt": f"{other}\np5\n"})
        assert "test.txt: p3.jpg is in the train split too" in refused(read_photo_folder, root)


def test_two_lists_of_one_split(tmp_path):
    both = {"train.txt": "p0.jpg\np1.jpg\n", "text/trainImages.txt": "p1.jpg\np0.jpg\n"}
    root = folder(tmp_path / "same", {**both, "val.txt": "p2.jpg"})
    assert len(read_photo_folder(root).splits["train"]) == 2
    assert "the same as the list of train before it" in account(root)
    root = folder(tmp_path / "parts", {"train1.txt": "p0.jpg", "train2.txt": "p1.jpg"})
    assert read_photo_folder(root).splits == {"train": ["p0.jpg", "p1.jpg"]}
    root = folder(tmp_path / "others", {"train.txt": "p0\np1\n", "a/train.txt": "p1\np2\n"})
    assert "keep one of the two" in refused(read_photo_folder, root)


def test_without_lists_the_split_is_random_and_said(tmp_path):
    root = folder(tmp_path)
    assert "splits: random with --seed 5, 11 photos to train, 1 to val" in account(root, 5)
    assert read_photo_folder(root, 5).splits == read_photo_folder(root, 5).splits


def test_folders_called_train_and_val_are_splits(tmp_path):
    places = [f"{'train' if i < 8 else 'val'}/{name}" for i, name in enumerate(NAMES)]
    root = write(tmp_path, {"captions.txt": csv_of(), **photos(*places)})
    found = read_photo_folder(root)
    assert found.splits == {"train": places[:8], "val": places[8:]}
    assert "photos: 8 in train, 4 in val" in found.account


def test_the_splits_of_the_captions_go_before_lists(tmp_path):
    images = [entry(name, "train" if i else "val", "a dog") for i, name in enumerate(NAMES)]
    root = folder(tmp_path, {**LISTS["short"], "dataset_flickr8k.json": karpathy(*images)})
    assert read_photo_folder(root).splits == {"train": NAMES[1:], "val": NAMES[:1]}
    said = account(root)
    assert "not read: captions.txt (CSV with a header)" in said
    assert "not read: train.txt, validation.txt; the captions have splits" in said


def test_the_captions_of_other_photos_are_not_read(tmp_path):
    """Karpathy's archive holds files of three data sets."""
    sets = {"coco": ["c1.jpg", "c2.jpg"], "flickr30k": ["f.jpg", "g.jpg"], "flickr8k": NAMES}
    files = {
        f"caption_datasets/dataset_{name}.json": karpathy(
            *(entry(n, "val" if i % 2 else "train", "a dog") for i, n in enumerate(names))
        )
        for name, names in sets.items()
    }
    root = folder(tmp_path, files)
    assert read_photo_folder(root).splits == {"train": NAMES[::2], "val": NAMES[1::2]}
    said = account(root)
    for left in ("dataset_coco.json", "dataset_flickr30k.json", "captions.txt"):
        assert left in said.splitlines()[0]


def test_captions_of_each_split_in_a_file_of_its_own(tmp_path):
    parts = {split: [{"id": n, "file_name": n} for n in names] for split, names in HALVES.items()}
    coco = {}
    for split, images in parts.items():
        rows = [{"image_id": image["id"], "caption": "a dog"} for image in images]
        content = json.dumps({"images": images, "annotations": rows})
        coco[f"annotations/captions_{split}2014.json"] = content
    instances = {"annotations/instances_train2014.json": '{"images": [], "annotations": []}'}
    places = photos(*(f"{s}2014/{name}" for s, names in HALVES.items() for name in names))
    root = write(tmp_path / "coco", {**coco, **instances, **places})
    found = read_photo_folder(root)
    assert {s: len(names) for s, names in found.splits.items()} == {"train": 8, "val": 4}
    assert found.splits["val"][0] == "val2014/p8.jpg"
    assert "splits: by annotations/captions_val2014.json, val 4" in found.account

    rows = "file_name,text\n0.png,a dog\n1.png,a cat\n"
    places = [f"{split}/{i}.png" for split in ("train", "validation") for i in range(2)]
    metadata = {"train/metadata.csv": rows, "validation/metadata.csv": rows}
    found = read_photo_folder(write(tmp_path / "face", {**metadata, **photos(*places)}))
    assert found.splits == {"train": places[:2], "val": places[2:]}
    assert found.captions["validation/1.png"] == ["a cat"]


def test_a_photo_in_the_files_of_two_splits_is_refused(tmp_path):
    files = {"train.csv": csv_of(NAMES[:8]), "val.csv": csv_of(NAMES[7:])}
    root = write(tmp_path, {**files, **photos(*NAMES)})
    assert "p7.jpg is in another caption file too" in refused(read_photo_folder, root)


def test_the_official_zips(tmp_path):
    token = "".join(f"{name}#{i}\tA dog .\n" for name in NAMES for i in range(2))
    token += "2258277193_586949ec62.jpg.1#0\tpeople waiting .\n"  # as it is there, without a photo
    text = {
        "Flickr8k.token.txt": token,
        "Flickr8k.lemma.token.txt": token.replace("A dog", "a dog"),
        "CrowdFlowerAnnotations.txt": "p0.jpg\tp1.jpg#2\t0.0\t0\t3\n" * 3,
        "ExpertAnnotations.txt": "p0.jpg\tp1.jpg#2\t1\t1\t1\n",
        "readme.txt": "If you publish, cite: Hodosh et al.\n",
        **lists("Flickr_8k.trainImages.txt", "Flickr_8k.devImages.txt"),
    }
    files = {f"Flickr8k_text/{name}": content for name, content in text.items()}
    places = photos(*(f"Flickr8k_Dataset/Flicker8k_Dataset/{name}" for name in NAMES))
    root = write(tmp_path, {**files, **places, "__MACOSX/Flickr8k_text/._train.txt": b"\0\5\x16"})
    found = read_photo_folder(root)
    assert found.splits == HALVES
    assert found.captions["p0.jpg"] == ["A dog .", "A dog ."]
    assert found.image_folder == root / "Flickr8k_Dataset" / "Flicker8k_Dataset"
    assert "1 captioned photo in no split left out" in found.account
    assert any("not read: Flickr8k_text/Flickr8k.lemma" in line for line in found.account)


def test_data_that_were_prepared_inside_are_no_part_of_it(tmp_path):
    prepared = {"data/coco2014_captions.h5": b"", "data/train2014_urls.txt": "q.jpg\nr.jpg\n"}
    root = folder(tmp_path, {**prepared, **LISTS["short"]})
    assert read_photo_folder(root).splits == HALVES
    assert holds_photos(root)
    assert not holds_photos(root / "data")
    assert not holds_photos(root / "Images")
    assert not holds_photos(root / "nowhere")


# -- photos ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hidden", [".cache/", "Images/.thumbnails/", "__MACOSX/Images/", "Images/._", "@eaDir/"]
)
def test_hidden_photos_are_none(tmp_path, hidden):
    root = folder(tmp_path, photos(*(f"{hidden}{name}" for name in NAMES)))
    assert read_photo_folder(root).image_folder == root / "Images"


@pytest.mark.parametrize("images", ["a/b/c/d", "Flicker8k_Dataset", "."])
def test_photos_are_found_wherever_they_are(tmp_path, images):
    found = read_photo_folder(folder(tmp_path, images=images))
    assert found.image_folder == tmp_path / images
    assert set(found.captions) == set(NAMES)
    assert f"photos: 12 in {images}" in found.account


def test_photos_in_several_folders(tmp_path):
    places = [f"part{i % 3}/{name}" for i, name in enumerate(NAMES)]
    found = read_photo_folder(write(tmp_path, {"captions.txt": csv_of(), **photos(*places)}))
    assert set(found.captions) == set(places)
    assert all((found.image_folder / name).is_file() for name in found.captions)
    assert "photos: 4 in part0, 4 in part1, 4 in part2" in found.account


def test_different_photos_of_one_name_are_refused(tmp_path):
    for stray in ("p3.jpg", "thumbnails/p3.jpg", "Images/old/p3.jpg"):
        root = folder(tmp_path / Path(stray).parent.name, photos(stray))
        error = refused(read_photo_folder, root)
        assert stray in error
        assert "are different photos of the name p3.jpg" in error
    root = folder(tmp_path / "same", {"copy/p3.jpg": b"Images/p3.jpg"})
    assert "1 found in several folders with the same bytes" in account(root)


def test_names_with_folders_tell_photos_of_one_name_apart(tmp_path):
    names = [f"{folder}/{i}.jpg" for folder in ("cats", "dogs") for i in range(3)]
    root = write(tmp_path, {"captions.txt": csv_of(names), **photos(*(f"all/{n}" for n in names))})
    found = read_photo_folder(root)
    assert set(found.captions) == set(names)
    assert found.image_folder == root / "all"
    (root / "all" / "dogs" / "2.jpg").unlink()
    assert "photos: 1 not found below --root (dogs/2.jpg)" in account(root)
    (root / "captions.txt").write_text(csv_of([*names[:3], "birds/2.jpg"]))
    error = refused(read_photo_folder, root)
    assert "cats/2.jpg and birds/2.jpg have captions and are both found as all/cats/2.jpg" in error
    write(root, {"captions.txt": csv_of(names[:3]), "train.txt": "cats/0.jpg\ndogs/1.jpg\n"})
    assert read_photo_folder(root).splits == {"train": ["0.jpg"]}
    assert "1 without captions left out, dogs/1.jpg the first" in account(root)


SPELLINGS = {
    "without suffix": (lambda n: n.removesuffix(".jpg"), str),
    "capitals": (str, lambda n: n.replace(".jpg", ".JPG")),
    "a folder that is not there": ("train2014/{}".format, str),
    "a photo without suffix": (str, lambda n: n.removesuffix(".jpg")),
    "accents in two parts": ("caf\u00e9{}".format, "cafe\u0301{}".format),
    "an address": ("http://images.example.org/{}".format, str),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_photos_are_found_under_another_spelling(tmp_path, kind):
    written, called = SPELLINGS[kind]
    files = photos(*(called(f"{name}") for name in NAMES))
    root = write(tmp_path, {"captions.txt": csv_of(map(written, NAMES)), **files})
    found = read_photo_folder(root)
    assert set(found.captions) == set(files)
    assert any("photos: 12 under another name or folder than" in line for line in found.account)


def test_a_photo_of_another_format_is_another_photo(tmp_path):
    root = write(tmp_path, {"captions.txt": csv_of(), **photos(*(f"p{i}.png" for i in range(12)))})
    assert "none of the 12 photos that have captions is below it, p0.jpg" in refused(
        read_photo_folder, root
    )


def test_photos_that_are_missing_are_counted_and_keep_their_place(tmp_path):
    root = folder(tmp_path, {**photos("extra.jpg"), **LISTS["short"]})
    for name in ("p3.jpg", "p9.jpg"):
        (root / "Images" / name).unlink()
    found = read_photo_folder(root)
    assert found.splits == HALVES
    assert "photos: 10 in Images" in found.account
    assert "photos: 2 not found below --root (p3.jpg, p9.jpg)" in found.account
    assert "photos: 1 below --root in no split or without captions, left out" in found.account


# -- words -------------------------------------------------------------------------------------


def test_captions_without_words_are_counted(tmp_path):
    rows = "image,caption\np0.jpg,.\np0.jpg,a dog\np1.jpg,\np1.jpg,!!\n" + csv_of(NAMES[2:])[14:]
    root = folder(tmp_path, {"captions.txt": rows, **LISTS["short"]})
    found = read_photo_folder(root)
    assert found.captions["p0.jpg"] == ["a dog"]
    assert found.splits["train"] == ["p0.jpg", *NAMES[2:8]]
    assert "3 captions without a word left out, 1 photo with no other" in found.account


@pytest.mark.parametrize("captions", [".", "...", "-- !"])
def test_a_split_without_words_is_refused(tmp_path, captions):
    rows = csv_of(NAMES[:8]) + csv_of(NAMES[8:], captions)
    root = folder(tmp_path, {"captions.txt": rows, **LISTS["short"]})
    assert "the split val is empty" in refused(read_photo_folder, root)
    root = folder(tmp_path, {"captions.txt": csv_of(caption=captions)})
    assert "none of its 12 captions holds a word" in refused(read_photo_folder, root)
