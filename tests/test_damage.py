"""Data files that are damaged or hostile: one line, and nothing of other files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from benchmarks import damage
from core.coco_utils import image_path, load_coco_data, open_features
from core.encoders.extract import Parts
from core.photos import read_caption_file, read_photo_folder
from core.shapes import load_scenes

FEATURES = "train2014_vgg16_pooled_pca.h5"
CAPTIONS = "coco2014_captions.h5"


@pytest.fixture
def folder(tmp_path):
    damage.make_folder(tmp_path / "data")
    return tmp_path / "data"


def refused(read, *arguments) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        read(*arguments)
    return " ".join(str(error.value).split())


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damaged_files_end_in_a_line_that_names_them(kind, tmp_path):
    make, read = damage.KINDS[kind]
    (tmp_path / "whole").mkdir()
    read(make(tmp_path / "whole"))
    for seed in range(20):
        (tmp_path / str(seed)).mkdir()
        what, words = damage.tried(kind, seed, tmp_path / str(seed))
        assert what != damage.TRACEBACK, f"seed {seed}: {words}"


# ---------------------------------------------------------------------------------------------
# HDF5: the numbers are in this file, all of them
# ---------------------------------------------------------------------------------------------


def _other(path: Path) -> Path:
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["features"] = np.ones((6, 5), np.float32)
        file["ids"] = np.ones((6, 5), np.int32)
    return path.with_name("other.h5")


def _external(file, name, like, path):
    file[name] = h5py.ExternalLink(_other(path).name, "features")


def _soft(file, name, like, path):
    file[name] = h5py.SoftLink("/val_captions" if "train_captions" in file else f"/./{name}")


def _dangling(file, name, like, path):
    file[name] = h5py.SoftLink("/nowhere")


def _loop(file, name, like, path):
    file[name] = h5py.SoftLink(f"/{name}")


def _virtual(file, name, like, path):
    layout = h5py.VirtualLayout(like.shape, like.dtype)
    layout[:] = h5py.VirtualSource(_other(path), "features", like.shape)
    file.create_virtual_dataset(name, layout)


def _external_storage(file, name, like, path):
    raw = path.with_name("raw.bin")
    raw.write_bytes(like.tobytes())
    file.create_dataset(name, like.shape, like.dtype, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def _never_written(file, name, like, path):
    file.create_dataset(name, like.shape, like.dtype)


def _never_written_in_chunks(file, name, like, path):
    file.create_dataset(name, like.shape, like.dtype, chunks=(2, *like.shape[1:]))[:2] = like[:2]


def _huge(file, name, like, path):
    file.create_dataset(name, (10**12, *like.shape[1:]), like.dtype)


def _inflating(file, name, like, path):
    file.create_dataset(
        name,
        (17 * 2**20,),
        like.dtype,
        chunks=(17 * 2**20,),
        compression="gzip",
        compression_opts=1,
    )[...] = 0


def _group(file, name, like, path):
    file.create_group(name)


def _nothing(file, name, like, path):
    file[name] = h5py.Empty(like.dtype)


LINKS = (_external, _soft, _dangling, _loop, _virtual, _external_storage, _never_written)
LINKS += (_never_written_in_chunks, _huge, _inflating, _group, _nothing)


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        (FEATURES, "features"),
        (CAPTIONS, "val_image_idxs"),
        (CAPTIONS, "train_captions"),
        ("vgg16_pooled_pca_projection.h5", "pca_mean"),
    ],
)
@pytest.mark.parametrize("make", LINKS)
def test_hdf5_takes_nothing_from_elsewhere(folder, file_name, name, make):
    if make is _inflating and name != "val_image_idxs":
        return  # it takes half a second
    path = folder / file_name
    with h5py.File(path, "r+") as file:
        like = file[name][...]
        del file[name]
        make(file, name, like, path)
    said = refused(load_coco_data, folder)
    assert said.startswith(f"{path}: '{name}'"), said
    assert "prepare or fetch the data set again" in said


def test_features_of_zeros_alone_are_refused_and_some_are_counted(folder):
    with h5py.File(folder / FEATURES, "r+") as file:
        file["features"][4:] = 0
    with pytest.warns(UserWarning, match="2 of 6 images are all 0, image 4 the first"):
        load_coco_data(folder)
    with h5py.File(folder / FEATURES, "r+") as file:
        file["features"][:] = 0
    assert "all features are 0" in refused(load_coco_data, folder)


def test_rows_are_read_as_an_array_gives_them(tmp_path):
    values = np.random.default_rng(0).standard_normal((50, 3, 4)).astype(np.float16)
    for chunks in (None, (7, 3, 4)):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file.create_dataset("features", data=values, chunks=chunks)
        table = open_features(tmp_path / "f.h5")
        mask = np.arange(50) % 3 == 0
        for rows in (7, -1, np.int64(3), slice(None), slice(40, 2, -3), slice(9, 9), mask):
            np.testing.assert_array_equal(table[rows], values[rows])
        for rows in ([3, 3, 4, 5, 0, 49], np.array([[1, 2], [9, 1]]), (2, 1), np.array([], int)):
            np.testing.assert_array_equal(table[rows], values[rows])
        np.testing.assert_array_equal(table, values)
        assert table[[1]].dtype == np.float16
        with pytest.raises(IndexError):
            table[50]


@pytest.mark.parametrize("chunks", [None, (10, 512)])
def test_features_that_are_cut_while_they_are_read_end_in_a_line(tmp_path, chunks):
    """Mapped into memory they would end the process."""
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=np.ones((1000, 512), np.float32), chunks=chunks)
    program = (
        "import os, sys; from core.coco_utils import open_features\n"
        "table = open_features(sys.argv[1]); table[[1, 999]]; os.truncate(sys.argv[1], 5000)\n"
        "try: table[[1, 999]]\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path}: was changed by another program"), done.stdout


# ---------------------------------------------------------------------------------------------
# Paths that leave the folder
# ---------------------------------------------------------------------------------------------


def change(folder: Path, **entries) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture
def secret(tmp_path) -> Path:
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (64, 64), (9, 8, 7)).save(tmp_path / "mine" / "secret.png")
    return tmp_path / "mine" / "secret.png"


@pytest.mark.parametrize("name", ["../mine/secret.png", "/etc/passwd", "a/../../mine/x", "..\\x"])
def test_data_name_files_below_themselves(folder, name):
    urls = folder / "val2014_urls.txt"
    urls.write_text("\n".join([name] * 6))
    assert str(urls) in (said := refused(load_coco_data, folder))
    assert "leaves its folder" in said
    urls.write_text("\n".join(["x"] * 6))
    change(folder, features={"pooled": {"train": name, "val": FEATURES}})
    assert "dataset.json: the file of train features" in refused(load_coco_data, folder)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("root", ["/", "..", "link"])
def test_a_picture_elsewhere_is_shown_only_when_its_hash_was_recorded(
    folder, secret, root, recorded
):
    """Who wrote the hash had the picture."""
    (folder / "link").symlink_to(secret.parent)
    url = {"/": str(secret)[1:], "..": "mine/secret.png", "link": "secret.png"}[root]
    (folder / "val2014_urls.txt").write_text("\n".join([url] * 6))
    change(folder, image_root=root)
    data = load_coco_data(folder)
    assert image_path(data, "val", 0) is None
    photos = json.loads((folder / "photos.json").read_text())
    if recorded:
        known = hashlib.sha256(secret.read_bytes()).hexdigest()
        photos["val"][0] = [secret.stat().st_size, 5, known]
    (folder / "photos.json").write_text(json.dumps(photos))
    found = image_path(load_coco_data(folder), "val", 0)
    assert (found is not None) == recorded
    (folder / "photos.json").unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert image_path(load_coco_data(folder), "val", 0) is None
    assert ["is outside of the folder" in str(each.message) for each in said] == [True]


def test_captions_name_no_photo_outside_of_their_folder(tmp_path, secret):
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8)).save(root / f"{i}.png")
    rows = ["image,caption", *(f"{i}.png,a dog runs" for i in range(3))]
    for name in ("../mine/secret.png", str(secret), "a/../../mine/secret.png"):
        (root / "captions.csv").write_text("\n".join([*rows, f"{name},a secret thing"]))
        found = read_photo_folder(root)
        for path in found.captions:
            below = os.path.realpath(found.image_folder / path)
            assert Path(below).is_relative_to(root), path


# ---------------------------------------------------------------------------------------------
# JSON, text, parts, archives
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a.jpg": ' + "[" * 900 + "]" * 900 + "}",
        '{"a.jpg": [' + "9" * 5000 + "]}",
        '{"a\\u0000.jpg": ["a dog"]}',
        '{"\\ud800.jpg": ["a dog"]}',
        '{"annotations": [' + "[" * 900 + "]" * 900 + '], "caption": 1}',
    ],
)
def test_json_that_no_caption_file_holds(tmp_path, text):
    path = tmp_path / "captions.json"
    path.write_text(text)
    said = refused(read_caption_file, path)
    assert said.startswith(f"{path}:")
    assert len(said) < 500


def test_a_cell_that_only_looks_like_a_list(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\na.jpg,[{[]: 1}]\n")
    assert read_caption_file(path).captions == {"a.jpg": ["[{[]: 1}]"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.pop("boxes"), "has no boxes"),
        (lambda p: p["boxes"].pop(), "2 shapes and 1 boxes"),
        (lambda p: p["boxes"].__setitem__(0, [1, 2, 3, "x"]), "expected a number"),
        (lambda p: p["boxes"].__setitem__(0, [9, 2, 3, 4]), "ends before it begins"),
        (lambda p: p["shapes"][0].update(kind="cube"), "expected one of circle"),
    ],
)
def test_scenes_are_checked(tmp_path, change, says):
    path = damage.make_scenes(tmp_path)
    scenes = json.loads(path.read_text())
    change(scenes["train"][1])
    path.write_text(json.dumps(scenes))
    said = refused(load_scenes, tmp_path, "train")
    assert str(path) in said
    assert says in said
    path.unlink()
    assert "no such file" in refused(load_scenes, tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 300, b"\x80\x04\x95", b"text"])
def test_a_damaged_part_is_looked_at_again(tmp_path, content):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    part = damage.make_part(tmp_path)
    parts = Parts({"features": (5,)}, {"features": np.float32})
    assert parts.read(part)["features"].shape == (3, 5)
    part.write_bytes(content)
    with pytest.warns(UserWarning, match="its 4 photos are looked at again") as said:
        assert parts.changed_since(paths, part) == [0, 1, 2, 3]
    assert "allow_pickle" not in str(said[0].message)


@pytest.mark.parametrize("way", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, 99, "torn"])
def test_an_archive_of_another_compression(refuses, tmp_path, way):
    path = tmp_path / "a.zip"
    known = way if way in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2) else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", known) as zipped:
        zipped.writestr("coco/coco2014_captions.h5", b"captions" * 1000)
    content = bytearray(path.read_bytes())
    if way == "torn":
        content[60:70] = bytes(10)
    elif way == 99:
        at = content.rindex(b"PK\x01\x02")
        content[at + 10 : at + 12] = (99).to_bytes(2, "little")
    path.write_bytes(content)
    refuses("fetch_coco", "--out", tmp_path / "coco", "--archive", path, says=(str(path),))
    assert not (tmp_path / "coco").exists()


def test_the_fetch_script_takes_no_links(tmp_path, refuses, monkeypatch):
    import fetch_coco

    monkeypatch.setattr(fetch_coco, "CONTENTS", {"val.h5": {"features": (6, 5)}})
    with h5py.File(tmp_path / "val.h5", "w") as file:
        file.create_dataset("features", (6, 5), np.float32)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.write(tmp_path / "val.h5", "coco/val.h5")
        for name in fetch_coco._TEXT_FILES:
            zipped.writestr(f"coco/{name}", "{}")
    refuses(
        "fetch_coco",
        *("--out", tmp_path / "coco", "--archive", tmp_path / "a.zip"),
        says=("a.zip: val.h5: 'features' was never written",),
    )
