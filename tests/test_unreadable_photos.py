"""Which files are pictures, which of them are read, and how many may be lost; commands apart."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from test_flickr8k import make_photos, prepare_small, write_csv

from core.encoders.photos import find_unreadable, left_out, open_all
from core.image_utils import FORMATS, list_pictures, load_image, other_files

GREEN = Image.new("RGB", (40, 30), (0, 128, 0))


def encoded(kind: str, picture=GREEN, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


# -- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p", "p.txt"])
def test_each_format_is_read_whatever_the_file_is_called(tmp_path, kind, name):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not know {kind}")
    (tmp_path / name).write_bytes(encoded(kind))
    picture = load_image(tmp_path / name)
    assert picture.shape == (30, 40, 3)
    assert np.abs(picture.astype(int) - (0, 128, 0)).max() <= 4


def test_a_photo_of_a_phone_with_a_second_picture_in_it(tmp_path):
    (tmp_path / "p.jpg").write_bytes(encoded("MPO", save_all=True, append_images=[GREEN]))
    assert load_image(tmp_path / "p.jpg").shape == (30, 40, 3)


OTHERS = {
    "EPS": encoded("EPS"),
    "ICO": encoded("ICO"),
    "JPEG2000": encoded("JPEG2000"),
    "PCX": encoded("PCX"),
    "PSD": b"8BPS\0\1" + bytes(40),
    "no known format": b"<html>404</html>",
}


@pytest.mark.parametrize(("kind", "content"), OTHERS.items(), ids=OTHERS)
@pytest.mark.parametrize("name", ["p.jpg", "p.eps"])
def test_other_formats_are_refused_by_name(tmp_path, monkeypatch, kind, content, name):
    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    monkeypatch.setattr("subprocess.Popen", started)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{kind}, expected one of .*JPEG.*PNG"):
        load_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("bytes_left", [1, 3, 12, 30])
def test_the_beginning_of_a_picture_is_none(tmp_path, kind, bytes_left):
    (tmp_path / "p.png").write_bytes(encoded(kind)[:bytes_left])
    with pytest.raises(ValueError, match=r"p\.png: cannot be read as a picture"):
        load_image(tmp_path / "p.png")


def test_that_memory_is_short_is_no_fault_of_a_picture(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    (tmp_path / "p.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr("core.image_utils._as_rgb", full)
    with pytest.raises(MemoryError):
        load_image(tmp_path / "p.png")


# -- folders -----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path) -> Path:
    """Three pictures, two files beside them, and what is not to be seen."""
    for name in ("b.JPG", "a/c.jpeg", "a/d/e.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name in ("notes.TXT", "a/raw"):
        (tmp_path / name).write_bytes(b"")
    for name in ("._b.JPG", ".h.jpg", ".cache/x/i.jpg", "__MACOSX/a/j.jpg", "a/.k/l.png", "a/._m"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


def test_pictures_of_a_folder(tree):
    names = ["a/c.jpeg", "a/d/e.webp", "b.JPG"]
    assert list_pictures(tree) == [tree / name for name in names]
    assert list_pictures(str(tree)) == [tree / name for name in names]
    said = other_files(tree)
    assert "left out 2 of 5 files" in said
    assert "1 .txt" in said
    assert "1 without a suffix" in said
    assert other_files(tree / "a" / "d") == ""


def test_a_folder_that_is_hidden_itself_was_asked_for(tree):
    assert list_pictures(tree / ".cache") == [tree / ".cache" / "x" / "i.jpg"]
    with pytest.raises(ValueError, match="holds no pictures"):
        list_pictures(tree / "folder.jpg")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_and_none_leads_round_for_ever(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "n.png").write_bytes(b"")
    (tree / "a" / "link").symlink_to(elsewhere)
    (tree / "a" / "d" / "round").symlink_to(tree)
    found = [path.relative_to(tree).as_posix() for path in list_pictures(tree)]
    assert found == ["a/c.jpeg", "a/d/e.webp", "a/link/n.png", "b.JPG"]


# -- how many may be lost ----------------------------------------------------------------------


def files(folder: Path, count: int, torn: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:03}.png" for i in range(count)]
    content = encoded("PNG", Image.new("L", (2, 2)))
    for i, path in enumerate(paths):
        path.write_bytes(content[: None if i < count - torn else 20])
    return paths


@pytest.mark.parametrize(
    ("count", "torn"), [(2, 1), (10, 1), (99, 1), (199, 1), (200, 2), (300, 3)]
)
def test_one_in_a_hundred_is_left_out(tmp_path, count, torn):
    """And one of less than a hundred: a single photo says nothing of the whole copy."""
    paths = files(tmp_path, count, torn)
    found = open_all({"train": paths}, tmp_path)
    assert list(found["train"]) == list(range(count - torn, count))
    for i, reason in found["train"].items():
        assert paths[i].name in reason


@pytest.mark.parametrize(("count", "torn"), [(2, 2), (10, 2), (199, 2), (299, 3)])
def test_more_are_refused(tmp_path, count, torn):
    paths = files(tmp_path, count, torn)
    with pytest.raises(
        ValueError, match=rf"{torn}( of {count}|, for).*{paths[-torn].name}.*Fetch it"
    ):
        open_all({"train": paths}, tmp_path)


def test_all_splits_count_together_and_none_may_be_lost(tmp_path):
    train, val = files(tmp_path / "t", 190, 0), files(tmp_path / "v", 10, 2)
    assert len(open_all({"train": train, "val": val}, tmp_path)["val"]) == 2
    with pytest.raises(ValueError, match="no photo of val can be read"):
        open_all({"train": train, "val": val[-1:]}, tmp_path)
    assert open_all({"train": train, "val": []}, tmp_path) == {"train": {}, "val": {}}


def test_the_first_are_named_and_the_others_counted():
    reasons = [f"{name}.jpg: torn" for name in "abcde"]
    said = left_out(reasons, 1234)
    assert said == "left out 5 of 1,234 photos: a.jpg: torn; b.jpg: torn; c.jpg: torn; and 2 more"
    assert left_out(reasons[:1], 10) == "left out 1 of 10 photos: a.jpg: torn"


def test_a_large_photo_torn_near_its_end_is_found(tmp_path):
    """Photos are decoded, to the last byte, though not at their full size."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for name, options in (("a.jpg", {}), ("b.jpg", {"progressive": True})):
        whole = encoded("JPEG", Image.fromarray(noise), **options)
        (tmp_path / name).write_bytes(whole[:-2000])
        (tmp_path / f"whole_{name}").write_bytes(whole)
    assert list(find_unreadable(list_pictures(tmp_path))) == [0, 1]


# -- a prepared folder -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_prepared_folder_tells_when_its_photos_have_changed(tmp_path, command):
    """Its features are still those of the old ones; training and captioning say that."""
    root, data = make_photos(tmp_path / "photos"), tmp_path / "data"
    write_csv(root)
    prepare_small(root, data, pca=0)
    train = ("training.py", "--model", "rnn", "--data", data, "--num_epochs", 1, "--out", "run")
    caption = ("inference.py", "--checkpoint", "run", "--split", "val", "--figure", "figure.png")
    for path in (root / "Images").iterdir():
        os.utime(path)  # not changed, only touched
    for arguments in (train, caption):
        assert command(*arguments)[::2] == (0, "")
    GREEN.save(root / "Images" / "003.jpg")
    (root / "Images" / "010.jpg").unlink()  # need not be there any more
    for arguments in (train, caption):
        code, _, error = command(*arguments)
        assert code == 0
        assert "1 of its 12 photos have changed" in error
        assert "003.jpg" in error
        assert "prepare it again" in error
    looks = ("--model", "attention", "--encoder", "tiny_cnn", "--finetune_encoder", 0)
    shutil.copy(root / "Images" / "009.jpg", root / "Images" / "010.jpg")
    code, _, error = command(*train, *looks, "--out", "looks")
    assert code == 0
    assert "2 of its 12 photos have changed" in error
    assert "are the captions still theirs?" in error
    (root / "Images" / "010.jpg").unlink()
    (root / "Images" / "009.jpg").write_bytes(b"torn")
    code, _, error = command(*caption)
    assert code == 0
    assert "2 of its 12" in error
    (data / "photos.json").write_text('{"train": 3}')
    code, _, error = command(*train)
    assert code == 2
    assert error.count("\n") == 1
    assert "photos.json" in error
