"""Photo folders: three caption formats, splits, tokens, unreadable photos."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import REAL_DATA, two_processes
from PIL import Image

import inference
from core.checkpoint import load_checkpoint
from core.coco_utils import decode_captions, feature_kinds, load_coco_data, picture_paths
from core.coco_utils.folder import MIRRORED
from core.coco_utils.tables import write_features
from core.decoding import beam_search
from core.encoders import Extractor
from core.encoders.extract import extract
from core.encoders.pca import fit_pca
from core.flickr8k import (
    load_photo_data,
    plain_words,
    prepare_photos,
    read_photo_folder,
    take_fraction,
)
from core.image_utils import load_image
from core.recipes.ensemble import Ensemble, FeaturesOfEach
from core.runs.building import model_builder
from core.runs.data import load_data

REAL = REAL_DATA / "flickr8k"

CAPTIONS = {
    f"{i:03d}.jpg": [f'A dog , number {i} , runs "fast" !', f"The dog isn't sitting {i}."]
    for i in range(12)
}
SPLITS = {"train": list(CAPTIONS)[:9], "val": list(CAPTIONS)[9:]}
SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def make_photos(root: Path, folder: str = "Images") -> Path:
    (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in CAPTIONS:
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(
            root / folder / name
        )
    return root


def write_lists(root: Path, splits=SPLITS) -> None:
    for split, names in splits.items():
        (root / SPLIT_LISTS[split]).write_text("\n".join(names) + "\n")


def write_csv(root: Path) -> None:
    lines = ["image,caption"]
    for name, several in CAPTIONS.items():
        lines += [f'{name},"{caption.replace(chr(34), chr(34) * 2)}"' for caption in several]
    (root / "captions.txt").write_text("\n".join(lines) + "\n")
    write_lists(root)


def write_tokens(root: Path) -> None:
    lines = [f"{n}#{i}\t{c}" for n, several in CAPTIONS.items() for i, c in enumerate(several)]
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    write_lists(root)


def write_karpathy(root: Path) -> None:
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": c} for c in CAPTIONS[name]]}
        for split, names in SPLITS.items()
        for name in names
    ]
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))


FORMATS = {"csv": write_csv, "tokens": write_tokens, "karpathy": write_karpathy}


@pytest.fixture
def root(tmp_path) -> Path:
    root = make_photos(tmp_path / "photos")
    write_csv(root)
    return root


def prepare_small(root, out, **options):
    options = {"pca": 4, "min_count": 2, **options}
    return prepare_photos(root, out, "squeezenet1_1", "random", **options)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("folder", ["Images", "Flicker8k_Dataset", "a/b"])
def test_three_formats_say_the_same(tmp_path, write, folder):
    root = make_photos(tmp_path / "photos", folder)
    write(root)
    source = read_photo_folder(root)
    assert source.captions == CAPTIONS
    assert source.splits == SPLITS
    assert source.image_folder == root / folder


def test_without_lists_the_split_is_random_and_repeatable(root):
    for name in SPLIT_LISTS.values():
        (root / name).unlink(missing_ok=True)
    splits = read_photo_folder(root, seed=1).splits
    assert sorted(splits["train"] + splits["val"]) == sorted(CAPTIONS)
    assert len(splits["val"]) == 1
    assert read_photo_folder(root, seed=1).splits == splits
    assert any(read_photo_folder(root, seed=s).splits != splits for s in range(2, 6))


def test_a_test_list_is_used_when_there(root):
    write_lists(
        root, {"train": SPLITS["train"][:7], "val": SPLITS["val"], "test": SPLITS["train"][7:]}
    )
    assert read_photo_folder(root).splits["test"] == SPLITS["train"][7:]


def test_names_with_spaces_and_a_byte_order_mark(root):
    """As a spreadsheet saves it."""
    text = (root / "captions.txt").read_text().replace("000.jpg", "my dog.jpg")
    (root / "captions.txt").write_text(text, encoding="utf-8-sig")
    (root / "Images" / "000.jpg").rename(root / "Images" / "my dog.jpg")
    write_lists(root, {"train": ["my dog.jpg", *SPLITS["train"][1:]], "val": SPLITS["val"]})
    source = read_photo_folder(root)
    assert source.splits["train"][0] == "my dog.jpg"
    assert source.captions["my dog.jpg"] == CAPTIONS["000.jpg"]


def test_plain_words():
    assert plain_words('A dog , "Rex" , isn\'t running -- 2 dogs are!') == (
        "a dog rex isn't running 2 dogs are".split()
    )
    assert plain_words(" ' . ") == []
    assert plain_words("The 'stop' sign of a Café_bar") == [
        "the",
        "stop",
        "sign",
        "of",
        "a",
        "café",
        "bar",
    ]


def test_a_data_folder_is_made(root, tmp_path):
    done = prepare_small(root, tmp_path / "data")
    assert done["images"] == {"train": 9, "val": 3}
    data = load_coco_data(tmp_path / "data")
    assert data["train_features"].shape == (9, 4)
    captions = decode_captions(data["val_captions"], data["idx_to_word"])
    assert captions[:2] == ["a dog number <UNK> runs fast", "the dog isn't sitting <UNK>"]
    assert "9" not in data["word_to_idx"], "a word of the validation captions is in the vocabulary"
    assert data["source"]["extractor"]["preprocessing"]["size"] == 224
    picture = data["source"]["image_root"] / data["val_urls"][0]
    assert picture == (root / "Images" / "009.jpg").resolve()


def test_pca_is_fitted_on_training_photos_alone(root, tmp_path):
    prepare_small(root, tmp_path / "one")
    for name in SPLITS["val"]:
        Image.new("RGB", (30, 30), "white").save(root / "Images" / name)
    prepare_small(root, tmp_path / "two")
    one, two = (load_coco_data(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(one["train_features"], two["train_features"])
    assert not np.array_equal(one["val_features"], two["val_features"])


def test_no_pca(root, tmp_path):
    prepare_small(root, tmp_path / "data", pca=0)
    assert load_coco_data(tmp_path / "data")["train_features"].shape == (9, 512)


def test_two_runs_give_the_same_bytes(root, tmp_path):
    for name in ("one", "two"):
        prepare_small(root, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        other = (tmp_path / "two" / path.name).read_bytes()
        assert path.read_bytes().replace(b'"one"', b'"two"') == other


def test_fraction_takes_that_part_of_each_split(root, tmp_path):
    done = prepare_small(root, tmp_path / "data", share=0.5, pca=3)
    assert done["images"] == {"train": 4, "val": 2}
    assert take_fraction({"train": list("abcdefgh"), "val": ["i"]}, 0.25) == {
        "train": ["a", "e"],
        "val": ["i"],
    }


def test_an_unreadable_photo_is_skipped_and_named(root, tmp_path):
    whole = (root / "Images" / "010.jpg").read_bytes()
    for name in ("004", "010"):
        (root / "Images" / f"{name}.jpg").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"more than 1% .*2 of 12.*004\.jpg"):
        prepare_small(root, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (root / "Images" / "010.jpg").write_bytes(whole)
    done = prepare_small(root, tmp_path / "data")
    assert len(done["skipped"]) == 1
    assert "004.jpg" in done["skipped"][0]
    data = load_coco_data(tmp_path / "data")
    assert len(data["train_features"]) == 8
    assert "004.jpg" not in data["train_urls"]
    number = [url.removesuffix(".jpg") for url in data["train_urls"]].index("005")
    at = data["train_captions"][data["train_image_idxs"] == number][0]
    assert decode_captions(at, data["idx_to_word"]).startswith("a dog number")


ARGUMENTS = ("core.flickr8k", "--weights", "random", "--pca", 4)


def test_few_photos_get_half_as_many_components(root, tmp_path, command):
    out = tmp_path / "data"
    code, text, error = command(*ARGUMENTS[:3], "--root", root, "--out", out)
    assert code == 0, error
    assert "PCA: 4 components, half as many as training photos, not 512" in text
    features = load_coco_data(out)["train_features"]
    assert features.shape == (9, 4)
    np.testing.assert_allclose(np.mean(features, axis=0), 0, atol=0.1)


def test_command(root, tmp_path, command):
    out = tmp_path / "data"
    code, text, error = command(*ARGUMENTS, "--root", root, "--out", out)
    assert code == 0, error
    assert "train: 9 photos, 18 captions" in text
    code, text, error = command(
        "training.py",
        "--model",
        "lstm",
        "--data",
        out,
        "--num_epochs",
        2,
        "--out",
        tmp_path / "run",
    )
    assert code == 0, error
    photo = root / "Images" / "000.jpg"
    code, text, error = command("inference.py", "--checkpoint", tmp_path / "run", "--image", photo)
    assert code == 0, error
    assert str(photo) in text


def test_a_photo_gets_the_features_of_its_preparation(root, tmp_path):
    # Without PCA: it would blow up the rounding of a random network, whose features hardly vary.
    prepare_small(root, tmp_path / "data", pca=0)
    data = load_coco_data(tmp_path / "data")
    extractor = Extractor.rebuild(data["source"]["extractor"], data["source"]["arrays"])
    features = extractor([load_image(root / "Images" / "010.jpg")])[0]
    np.testing.assert_allclose(features, data["val_features"][1], rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------------------------------------
# Words, and what is said
# ---------------------------------------------------------------------------------------------

WORDLESS = {
    "no blanks": lambda i: f"\u4e00\u53ea\u72d7{chr(0x4E00 + i)}\u5728\u8dd1",
    "no blanks in Thai": lambda i: f"\u0e2b\u0e21\u0e32{chr(0x0E01 + i)}\u0e27\u0e34\u0e48\u0e07",
    "a word each": lambda i: f"word{i} thing{i}",
}


@pytest.mark.parametrize("kind", WORDLESS)
def test_a_vocabulary_of_nothing_is_refused(root, tmp_path, refuses, kind):
    rows = [f"{name},{WORDLESS[kind](i)}" for i, name in enumerate(CAPTIONS)]
    (root / "captions.txt").write_text("\n".join(["image,caption", *rows]))
    says = ("--min_count 5: found no word", "9 training captions", "a lower number", "blanks")
    refuses(*ARGUMENTS, "--root", root, "--out", tmp_path / "data", says=says)
    assert not list(tmp_path.glob("*data*")), "the photos were looked at"
    with pytest.raises(ValueError, match="min_count 2: found no word"):
        load_photo_data(root, min_count=2)


def test_a_large_share_of_unknown_words_is_warned_of(root, tmp_path, command):
    base = (*ARGUMENTS, "--root", root)
    code, text, error = command(*base, "--out", tmp_path / "all", "--min_count", 1)
    assert code == 0
    assert error == ""
    # of 11 words in a photo's captions its number, twice: in val no number is known
    assert "--min_count 1: 0.0% of the words of train, 18.2% of the words of val become" in text
    code, text, error = command(*base, "--out", tmp_path / "few", "--min_count", 10)
    assert code == 0
    assert error.count("\n") == 1
    assert "warning: --min_count 10: 81.8% of the words of train" in error
    data = load_photo_data(root, min_count=10)
    assert "--min_count 10: 81.8%" in data["source"]["account"][-1]


def test_the_command_says_what_it_read_and_left_out(root, tmp_path, command):
    (root / SPLIT_LISTS["train"]).write_text("\n".join([*SPLITS["train"][:5], "gone.jpg"]))
    (root / "Images" / "more.jpg").write_bytes(b"")
    out = tmp_path / "data"
    code, text, error = command(*ARGUMENTS, "--root", root, "--out", out, "--fraction", 1)
    assert code == 0, error
    lines = text.splitlines()
    assert lines[:6] == [
        "captions.txt: CSV with a header, 24 captions of 12 photos",
        "Flickr_8k.trainImages.txt: 6 names, 5 photos to train; 1 without captions left out, "
        "gone.jpg the first",
        "Flickr_8k.devImages.txt: 3 names, 3 photos to val",
        "4 captioned photos in no split left out",
        "photos: 8 in Images",
        "photos: 5 below --root in no split or without captions, left out",
    ]
    assert json.loads((out / "dataset.json").read_text())["account"][:6] == lines[:6]


def test_a_split_of_which_no_photo_can_be_read_is_refused(root, tmp_path, monkeypatch, refuses):
    monkeypatch.setattr("core.encoders.photos._MOST_UNREADABLE", 0.5)
    for name in SPLITS["val"]:
        (root / "Images" / name).write_bytes(b"torn")
    says = ("no photo of val can be read", "009.jpg")
    refuses(*ARGUMENTS, "--root", root, "--out", tmp_path / "data", says=says)


def test_photos_in_several_folders_keep_their_places(root, tmp_path):
    (root / "more").mkdir()
    for name in SPLITS["val"]:
        (root / "Images" / name).rename(root / "more" / name)
    prepare_small(root, tmp_path / "data", pca=0)
    data = load_coco_data(tmp_path / "data")
    assert data["source"]["image_root"] == root.resolve()
    assert list(data["val_urls"]) == [f"more/{name}" for name in SPLITS["val"]]
    assert picture_paths(data, "val") == [root.resolve() / "more" / n for n in SPLITS["val"]]
    raw = load_photo_data(root, min_count=2)
    assert picture_paths(raw, "train") == picture_paths(data, "train")
    np.testing.assert_array_equal(raw["val_captions"], data["val_captions"])


# ---------------------------------------------------------------------------------------------
# Grids
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "cells"), [(0, 169), (7, 49)])
def test_a_grid_beside_the_pooled_features(root, tmp_path, grid, cells):
    done = prepare_small(root, tmp_path / "data", pca=0, grid=grid)
    assert done["grid"] == (cells, 512)
    assert feature_kinds(tmp_path / "data") == ["pooled", "grid"]
    pooled = load_coco_data(tmp_path / "data")
    data = load_coco_data(tmp_path / "data", features="grid")
    assert pooled["train_features"].dtype == np.float32
    for split, count in (("train", 9), ("val", 3)):
        table = data[f"{split}_features"]
        assert table.shape == (count, cells, 512)
        assert table.dtype == np.float16
        with h5py.File(table.path) as file:
            assert file["features"].chunks is None, "not in one piece: slow to read"
    if cells == 169:
        mean = data["val_features"].astype(np.float32).mean(axis=1)
        expected = pooled["val_features"]
        scale = np.linalg.norm(expected, axis=1) / np.linalg.norm(mean, axis=1)  # of each grid
        np.testing.assert_allclose(mean * scale[:, None], expected, rtol=1e-3, atol=1e-6)
    # A later photo goes through the same steps, up to the precision in which they are stored.
    extractor = Extractor.rebuild(data["source"]["extractor"], data["source"]["arrays"])
    features = extractor([load_image(root / "Images" / "010.jpg")])[0]
    np.testing.assert_allclose(features, data["val_features"][1], rtol=2e-3, atol=1e-4)
    assert not list(tmp_path.glob(".*")), "temporary files are left"


def test_the_pooled_features_are_those_without_a_grid(root, tmp_path):
    prepare_small(root, tmp_path / "one")
    prepare_small(root, tmp_path / "two", grid=3)
    name = "train2014_squeezenet1_1_pooled_pca.h5"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_pca_of_the_grids_channels(root, tmp_path):
    """Fitted on the cells of training photos alone, stored as the grid is, and for later photos."""
    for name, pca in (("whole", 0), ("data", 5)):  # what SqueezeNet sees by chance hardly differs
        options = {"pca": pca, "min_count": 2, "grid": 3}
        done = prepare_photos(root, tmp_path / name, "tiny_cnn", "random", **options)
    whole = load_coco_data(tmp_path / "whole", features="grid")
    data = load_coco_data(tmp_path / "data", features="grid")
    cells = np.asarray(whole["train_features"], np.float64).reshape(-1, 140)
    pca = fit_pca(cells, 5)
    assert done["grid"] == (9, 5)
    assert done["components"]["grid"][1] == pytest.approx(pca.explained, rel=1e-5)
    for split in ("train", "val"):
        table = data[f"{split}_features"]
        assert table.dtype == np.float16
        expected = pca(np.asarray(whole[f"{split}_features"]))
        np.testing.assert_allclose(table, expected, rtol=2e-3, atol=2e-3)
    extractor = Extractor.rebuild(data["source"]["extractor"], data["source"]["arrays"])
    features = extractor([load_image(root / "Images" / "010.jpg")])[0]
    np.testing.assert_allclose(features, data["val_features"][1], rtol=1e-2, atol=1e-2)


def test_training_photos_in_a_mirror(root, tmp_path, command):
    """Beside the others, by the same PCA; ``--flip`` trains on both, and inference on neither."""
    prepare_photos(root, tmp_path / "plain", "tiny_cnn", "random", pca=4, grid=3)
    out = tmp_path / "data"
    arguments = (*ARGUMENTS, "--encoder", "tiny_cnn", "--root", root, "--out", out, "--grid", 3)
    code, text, error = command(*arguments, "--flip")
    assert code == 0, error
    assert "--flip: 9 training photos are looked at in a mirror, too" in text
    assert text.rstrip().endswith("--flip")
    for file in (tmp_path / "plain").glob("*2014_tiny_cnn*.h5"):
        assert (out / file.name).read_bytes() == file.read_bytes(), "--flip changes the others"
    for kind in ("pooled", "grid"):
        plain = load_coco_data(out, features=kind)
        assert f"{MIRRORED}_features" not in plain
        data = load_coco_data(out, features=kind, mirrored=True)
        source = data["source"]
        look = Extractor.rebuild(source["extractor"], source["arrays"]).mirrored()
        photos = [load_image(root / "Images" / url) for url in data["train_urls"]]
        found = np.asarray(data[f"{MIRRORED}_features"], np.float32)
        np.testing.assert_allclose(found, look(photos), rtol=2e-3, atol=4e-3)
        assert np.abs(found - plain["train_features"]).max() > 0.1

    settings = {"data": str(out), "model": "attention", "flip": True, "num_samples": None}
    data = load_data(settings)
    assert data["train_features"].shape == (18, 9, 4)
    assert data["train_image_idxs"].tolist() == [i for i in range(18) for _ in range(2)]
    np.testing.assert_array_equal(*np.split(data["train_captions"], 2))
    for rows, table in ((np.r_[:9], plain["train_features"]), (np.r_[9:18], found)):
        np.testing.assert_array_equal(data["train_features"][rows], table)
    assert load_data(settings, training=False)["train_features"].shape == (9, 9, 4)
    few = load_data(settings | {"num_samples": 4, "seed": 0})
    assert few["train_features"].shape == (9, 9, 4)

    run = tmp_path / "run"
    options = ("--model", "lstm", "--num_epochs", 1, "--out", run, "--flip")
    code, text, error = command("training.py", *options, "--data", out)
    assert code == 0, error
    assert "36 captions of data" in text
    code, text, error = command("inference.py", "--checkpoint", run, "--split", "train")
    assert code == 0, error


def test_a_photo_and_its_mirror_image_vote(root, tmp_path, command, refuses):
    out, run, mirrored = tmp_path / "data", tmp_path / "run", tmp_path / "mirrored"
    prepare_photos(root, out, "tiny_cnn", "random", pca=4, grid=3, min_count=1)
    options = ("--num_epochs", 1, "--learning_rate", 0.05, "--out", run)
    code, _, error = command("training.py", "--model", "attention", "--data", out, *options)
    assert code == 0, error
    mirrored.mkdir()
    for name in SPLITS["val"]:  # the size that the network sees: nothing is resized
        picture = Image.open(root / "Images" / name).resize((64, 64))
        picture.save(tmp_path / f"{name}.png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored / f"{name}.png")

    def said(*options) -> list[list[dict]]:
        where = tmp_path / "said.json"
        decode = ("--n_best", 3, "--beam_size", 3, "--out", where)
        code, _, error = command("inference.py", "--checkpoint", run, *decode, *options)
        assert code == 0, error
        return [row["n_best"] for row in json.loads(where.read_text())]

    def scores(found) -> np.ndarray:
        return np.array([[each["score"] for each in of_photo] for of_photo in found])

    photos = [tmp_path / f"{name}.png" for name in SPLITS["val"]]
    images = [mirrored / path.name for path in photos]
    both = said("--flip", "--image", *photos)
    np.testing.assert_allclose(scores(both), scores(said("--flip", "--image", *images)), atol=1e-5)
    alone, of_mirrored = said("--image", *photos), said("--image", *images)
    for one_look in (alone, of_mirrored):
        assert np.abs(scores(both) - scores(one_look)).max() > 1e-3

    checkpoint = load_checkpoint(run / "best.npz")
    numbers = (checkpoint.model, checkpoint.config, checkpoint.idx_to_word, checkpoint.params)
    model = model_builder("numpy", "cpu")(*numbers)
    look = Extractor.rebuild(checkpoint.extractor, checkpoint.extractor_arrays)
    seen = [load_image(path) for path in photos]
    tables = FeaturesOfEach([look(seen), look.mirrored()(seen)])
    _, expected = beam_search(Ensemble([model, model]), tables, 3, 30, 1.0, 3)
    np.testing.assert_allclose(scores(both), expected, atol=1e-5)
    # With others that vote; photos of the data set, too, as long as they are here.
    four = said("--flip", "--ensemble", run, "--image", *photos)
    np.testing.assert_allclose(scores(four), scores(both), atol=1e-5)
    assert len(said("--flip", "--split", "val")) == 3
    refuses(
        *("inference.py", "--checkpoint", run, "--split", "val", "--weights", "nowhere.pth"),
        says=("--weights nowhere.pth: nothing reads a weight file",),
    )
    base = ("inference.py", "--checkpoint", run, "--flip")
    for option, name in (("--report", "r.html"), ("--attention", "a.png")):
        refuses(*base, option, tmp_path / name, says=(option, "--flip"))
    (root / "Images" / "010.jpg").unlink()
    refuses(*base, "--split", "val", says=("--flip", "010.jpg", "not on this machine"))


def test_a_look_in_the_mirror_that_tells_left_from_right_is_said():
    said = ("a dog left of a cat", "a bright dog", "")
    items = [inference.Item(i, f"{i}.jpg", None, caption=text) for i, text in enumerate(said)]
    with pytest.warns(UserWarning, match="--flip: 1 of 3 captions say left or right"):
        inference.say_turned(items)


def test_captions_that_say_left_or_right_stay_with_their_photo(root, tmp_path):
    text = (root / "captions.txt").read_text()
    text = text.replace("The dog isn't sitting 4.", "A dog left of a cat")
    (root / "captions.txt").write_text(text.replace("sitting 7.", "right here"))
    prepare_small(root, tmp_path / "data", flip=True, min_count=1)
    settings = {"data": str(tmp_path / "data"), "model": "lstm", "flip": True}
    with pytest.warns(UserWarning, match="--flip: 2 of 18 training captions say left or right"):
        data = load_data(settings | {"num_samples": None})
    said = decode_captions(data["train_captions"], data["idx_to_word"])
    of_mirrored = data["train_image_idxs"] >= 9
    assert len(said) == 18 + 16
    assert of_mirrored.sum() == 16
    for caption, mirrored in zip(said, of_mirrored, strict=True):
        assert not (mirrored and {"left", "right"} & set(caption.split()))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("core.runs.data.SIDES", ())
        assert len(load_data(settings | {"num_samples": None})["train_captions"]) == 36


def test_what_is_wrong_with_mirrored_features_is_named(root, tmp_path, refuses):
    prepare_small(root, tmp_path / "plain")
    prepare_small(root, tmp_path / "data", flip=True)
    train = ("training.py", "--model", "lstm", "--num_epochs", 1, "--flip", "--out", tmp_path / "r")
    refuses(*train, "--data", tmp_path / "plain", says=("--flip", "core.flickr8k --flip"))
    name = f"{MIRRORED}2014_squeezenet1_1_pooled_pca.h5"
    whole = load_coco_data(tmp_path / "data")["train_features"][:]
    for table, says in ((whole[:8], ("8 images", "train has 9")), (whole[:, :3], ("(3,)", "(4,)"))):
        write_features(tmp_path / "data" / name, table)
        refuses(*train, "--data", tmp_path / "data", says=(name, *says))


def test_photos_that_change_between_two_looks_are_noticed(root, tmp_path, monkeypatch):
    def changing(paths, extractors, folder, dtypes, description):
        if "mirror" in description:
            Image.new("RGB", (40, 32), "red").save(paths[2])
        return extract(paths, extractors, folder, dtypes, description)

    monkeypatch.setattr("core.flickr8k.extract", changing)
    with pytest.raises(ValueError, match="have changed while"):
        prepare_small(root, tmp_path / "data", flip=True)
    assert not (tmp_path / "data").exists()


def test_a_disk_that_is_too_small_is_noticed_first(root, tmp_path, monkeypatch, refuses):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    base = (*ARGUMENTS, "--root", root, "--out", tmp_path / "data")
    refuses(*base, "--grid", says=("0.0 GiB free", "12 photos", "--grid"))
    assert not (tmp_path / "data").exists()


def test_attention_is_trained_on_a_grid_of_photos(root, tmp_path, command):
    out = tmp_path / "data"
    code, text, error = command(*ARGUMENTS, "--root", root, "--out", out, "--grid", 7)
    assert code == 0, error
    assert "PCA of the grid's channels: 4 components keep " in text
    assert "grid: 49 cells of 4 features" in text
    assert "--model attention" in text
    run = tmp_path / "run"
    code, text, error = command(
        "training.py", "--model", "attention", "--data", out, "--num_epochs", 1, "--out", run
    )
    assert code == 0, error
    photo = root / "Images" / "000.jpg"
    code, text, error = command("inference.py", "--checkpoint", run, "--image", photo)
    assert code == 0, error
    assert str(photo) in text


def only_one_photo(root):
    for path in root.glob("*.txt"):  # the captions, and the lists of the splits
        path.unlink()
    (root / "captions.txt").write_text("image,caption\n000.jpg,A dog\n")


DAMAGE = {
    "no folder": (lambda r: os.rename(r, r.with_name("gone")), "no such folder"),
    "no captions": (lambda r: (r / "captions.txt").unlink(), "holds no captions"),
    "no header, no picture names": (
        lambda r: (r / "captions.txt").write_text("000,A dog\n"),
        "begins with '000,A dog', expected CSV with the header image,caption",
    ),
    "no caption in a line": (
        lambda r: (r / "captions.txt").write_text("image,caption\n000.jpg\n"),
        "line 2 has no caption",
    ),
    "nothing but the header": (
        lambda r: (r / "captions.txt").write_text("image,caption\n"),
        "no captions",
    ),
    "an open quote": (
        lambda r: (r / "captions.txt").write_text('image,caption\n000.jpg,"' + "a\n" * 140_000),
        "a quote left open",
    ),
    "a quote that is closed further down": (
        lambda r: (r / "captions.txt").write_text(
            'image,caption\n000.jpg,"A dog\n001.jpg,A "big" cat\n002.jpg,A bird\n'
        ),
        "line 2: a quotation mark is not closed there",
    ),
    "a quote that is never closed": (
        lambda r: (r / "captions.txt").write_text('image,caption\n000.jpg,A\n001.jpg,"A dog\n'),
        "line 3: a quotation mark is not closed there",
    ),
    "one photo": (only_one_photo, "found one photo with captions"),
    "another encoding": (
        lambda r: (r / "captions.txt").write_bytes(
            "image,caption\n000.jpg,caf\xe9\n".encode("latin-1")
        ),
        "not text in UTF-8",
    ),
    "no photos": (lambda r: os.rename(r / "Images", r.with_name("gone")), "000.jpg"),
    "an image in two splits": (
        lambda r: write_lists(r, {"train": ["000.jpg"], "val": ["000.jpg"]}),
        "000.jpg is in the train split too",
    ),
    "an empty list": (lambda r: write_lists(r, {"train": []}), "trainImages.txt: names no photo"),
    "no training images": (
        lambda r: (r / SPLIT_LISTS["train"]).unlink(),
        "no training image",
    ),
    "too few photos for the PCA": (
        lambda r: write_lists(r, {"train": ["000.jpg"], "val": SPLITS["val"]}),
        "4 components for 1 training photos",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_wrong_with_a_photo_folder_is_named(root, tmp_path, refuses, damage, words):
    damage(root)
    refuses(*ARGUMENTS, "--root", root, "--out", tmp_path / "data", says=(words,))
    assert not (tmp_path / "data").exists()


def test_other_forms_that_are_wrong(tmp_path, refuses):
    for number, (name, text, words) in enumerate(
        (
            ("Flickr8k.token.txt", "000.jpg A dog\n", "begins with '000.jpg A dog'"),
            ("Flickr8k.token.txt", "000.jpg#0\tA dog\n000.jpg A dog\n", "line 2 is not"),
            ("dataset_flickr8k.json", '{"images": [{"filename": 1}]}', "Karpathy"),
            ("dataset_flickr8k.json", '{"images"', "not valid JSON"),
        )
    ):
        root = make_photos(tmp_path / str(number))
        (root / name).write_text(text)
        refuses(*ARGUMENTS, "--root", root, "--out", tmp_path / "data", says=(name, words))


def test_bad_options(root, tmp_path, refuses):
    out = tmp_path / "data"
    base = ("core.flickr8k", "--root", root, "--out", out)
    refuses(*base, "--weights", "random", "--fraction", "2", says=("--fraction", "'2'"))
    refuses(*base, "--weights", "random", "--pca", "-1", says=("--pca", "-1"))
    refuses(*base, "--pca", "4", "--weights", "nowhere.pth", says=("nowhere.pth",))
    refuses(*base, "--weights", "random", "--encoder", "alexnet", says=("alexnet", "vgg16"))
    refuses(*base, "--weights", "random", "--grid", "0", says=("--grid", "'0'"))
    refuses(*base, *ARGUMENTS[1:], "--grid", "14", says=("14 cells", "1 to 13"))
    out.mkdir()
    (out / "mine").touch()
    refuses(*base, "--pca", "4", "--weights", "random", says=("is there already",))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="Flickr8k is not here")
def test_the_real_captions():
    source = read_photo_folder(REAL)
    assert {split: len(names) for split, names in source.splits.items()} == {
        "train": 6000,
        "val": 1000,
    }
    assert {len(several) for several in source.captions.values()} == {5}
    lengths = [len(plain_words(c)) for several in source.captions.values() for c in several]
    assert len(lengths) == 35000
    assert (min(lengths), int(np.median(lengths)), max(lengths)) == (2, 10, 37)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="Flickr8k is not here")
def test_some_real_photos(tmp_path):
    weights = REAL_DATA / "weights" / "squeezenet1_1_features.pth"
    done = prepare_photos(
        REAL, tmp_path / "data", "squeezenet1_1", str(weights), pca=16, share=0.005, grid=0
    )
    assert done["images"] == {"train": 30, "val": 5}
    # 16 directions hold most of what 30 pooled vectors differ in, and less of 5,070 cells
    assert 0.5 < done["components"]["pooled"][1] < 1
    assert 0.2 < done["components"]["grid"][1] < done["components"]["pooled"][1]
    with h5py.File(tmp_path / "data" / "train2014_squeezenet1_1_pooled_pca.h5") as file:
        assert np.isfinite(file["features"]).all()
    grid = load_coco_data(tmp_path / "data", features="grid")["val_features"].astype(np.float32)
    assert grid.shape == (5, 169, 16)
    assert np.isfinite(grid).all()
    distances = np.abs(grid[:, None] - grid[None]).mean(axis=(2, 3))
    assert (distances[~np.eye(5, dtype=bool)] > 0.1 * np.abs(grid).mean()).all()


@pytest.mark.slow
def test_two_processes_prepare_what_one_does(root, tmp_path, command):
    options = ("--weights", "random", "--pca", 0, "--grid", 3, "--root", root, "--device", "cpu")
    code, _, error = command("core.flickr8k", *options, "--out", tmp_path / "one" / "data")
    assert code == 0, error
    done = two_processes(tmp_path, "core.flickr8k", *options, "--out", tmp_path / "two" / "data")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train: 9 photos") == 1, "one process talks"
    names = {path.name for path in (tmp_path / "one" / "data").iterdir()}
    assert {path.name for path in (tmp_path / "two" / "data").iterdir()} == names
    for kind in ("pooled", "grid"):
        one, two = (load_coco_data(tmp_path / n / "data", features=kind) for n in ("one", "two"))
        np.testing.assert_allclose(
            two["train_features"], one["train_features"], rtol=2e-3, atol=1e-4
        )
