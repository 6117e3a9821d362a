"""Features that another program made: checked, matched by file name, trained on, captioned with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import h5py
import numpy as np
import pytest
from test_flickr8k import CAPTIONS, SPLITS, make_photos, write_csv

from core.coco_utils import feature_kinds, load_coco_data
from core.encoders import scale_grid
from core.encoders.given import (
    GivenExtractor,
    GivenFeatures,
    describe_photos,
    features_of_own_photos,
    write_given,
)
from core.encoders.pca import fit_pca
from core.flickr8k import prepare_photos

MADE_BY = {"script": "clip.py", "model": "tiny", "preprocessing": {"size": 32}}
NAMES = [*CAPTIONS, "other.jpg"]  # one of no photo here


@pytest.fixture
def root(tmp_path):
    root = make_photos(tmp_path / "photos")
    write_csv(root)
    return root


def rows(*shape, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((len(NAMES), *shape)).astype(dtype)


def write(path, features, names=NAMES, made_by=MADE_BY):
    """As a script with h5py alone would write it."""
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["names"] = names
        if made_by is not None:
            file["extractor"] = json.dumps(made_by)
    return path


def prepare(command, root, file, *options):
    return command(
        "core.flickr8k", "--root", root, "--features", file, "--out", root.parent / "data",
        "--min_count", 1, *options,
    )  # fmt: skip


@dataclass
class Trained:
    """As much of a checkpoint as its features need."""

    extractor: dict
    extractor_arrays: dict = field(default_factory=dict)


def trained_on(folder, kind):
    source = load_coco_data(folder, features=kind)["source"]
    return Trained(source["extractor"], source["arrays"])


def test_one_row_for_each_photo(root, tmp_path, command):
    """Matched by name, whatever the order; other rows are counted; a PCA of the training photos."""
    features, order = rows(6), np.random.default_rng(0).permutation(len(NAMES))
    names = [f"Images/{NAMES[i]}" for i in order]
    file = write(tmp_path / "f.h5", features[order], names)
    code, text, error = prepare(command, root, file, "--pca", 3)
    assert code == 0, error
    assert "features of 13 photos, 6 float32; 12 of the 12 photos here have some, 1 other" in text
    assert "PCA: 3 components keep " in text
    assert feature_kinds(tmp_path / "data") == ["pooled"]
    data = load_coco_data(tmp_path / "data")
    pca = fit_pca(features[:9], 3)
    assert data["val_urls"].tolist() == SPLITS["val"]
    np.testing.assert_allclose(data["val_features"][:], pca(features[9:12]), rtol=1e-4, atol=1e-5)
    assert data["source"]["extractor"]["made_by"] == MADE_BY


def test_one_grid_for_each_photo(root, tmp_path, command):
    """Scaled as our encoders' grids are; its mean serves the models that read one vector."""
    features = 2 + rows(4, 6, dtype=np.float16)
    code, text, error = prepare(command, root, write(tmp_path / "f.h5", features), "--pca", 5)
    assert code == 0, error
    assert "PCA: 5 components keep " in text
    assert "PCA of the grid's channels: 5 components keep " in text
    assert "grid: 4 cells of 5 features" in text
    data = load_coco_data(tmp_path / "data", features="grid")
    scaled = scale_grid(features[:12].astype(np.float32))
    stored = scaled[:9].astype(np.float16).reshape(-1, 6)
    expected = fit_pca(stored, 5)(scaled[9:])
    np.testing.assert_allclose(data["val_features"][:], expected, rtol=2e-2, atol=2e-2)
    pooled = load_coco_data(tmp_path / "data")
    means = features[:12].astype(np.float32).mean(axis=1)
    expected = fit_pca(means[:9], 5)(means[9:])
    np.testing.assert_allclose(pooled["val_features"][:], expected, rtol=1e-3, atol=1e-3)


def test_without_pca_they_stay_as_they_are(root, tmp_path, command):
    features = rows(6)
    code, _, error = prepare(command, root, write(tmp_path / "f.h5", features), "--pca", 0)
    assert code == 0, error
    np.testing.assert_array_equal(load_coco_data(tmp_path / "data")["train_features"], features[:9])


def test_trained_on_and_captioned_with(root, tmp_path, command, refuses):
    """What --image then needs, said in a line when it is missing, and taken when it is there."""
    file = write(tmp_path / "f.h5", rows(4, 6))
    code, _, error = prepare(command, root, file, "--pca", 5)
    assert code == 0, error
    run = tmp_path / "run"
    training = ("--model", "attention", "--data", tmp_path / "data", "--num_epochs", 1)
    code, _, error = command("training.py", *training, "--out", run)
    assert code == 0, error
    photo = root / "Images" / "010.jpg"
    ask = ("inference.py", "--checkpoint", run, "--image", photo)
    in_a_mirror = ("inference.py", "--checkpoint", run, "--split", "val", "--flip")
    refuses(*in_a_mirror, says=("--flip", "cannot look at photos"))
    refuses(*ask, says=("--image", "clip.py tiny", "same script", "--features FILE.h5"))
    code, text, error = command(*ask, "--features", file)
    assert code == 0, error
    captions = command("inference.py", "--checkpoint", run, "--split", "val")[1]
    words = next(line for line in captions.splitlines() if line.startswith("010.jpg")).split()
    assert text.splitlines()[1].split()[1:] == words[1 : len(text.splitlines()[1].split())]
    other = write(tmp_path / "other.h5", rows(4, 6), made_by=MADE_BY | {"model": "large"})
    refuses(*ask, "--features", other, says=("other.h5", "model", "'large'", "'tiny'"))
    wide = write(tmp_path / "wide.h5", rows(4, 7))
    refuses(*ask, "--features", wide, says=("wide.h5", "(4, 7)", "(4, 6)"))
    few = write(tmp_path / "few.h5", rows(4, 6)[:3], NAMES[:3])
    refuses(*ask, "--features", few, says=("few.h5", "010.jpg", "no features"))
    split = ("inference.py", "--checkpoint", run, "--features", file)
    refuses(*split, says=("--features", "--image"))
    folder = ("inference.py", "--checkpoint", run, "--images", root / "Images", "--features", few)
    code, text, error = command(*folder)
    assert code == 0, error
    assert "left out 9 of 12 photos" in error
    assert len([line for line in text.splitlines() if ".jpg" in line]) == 3


def test_weights_without_a_hash_tell_what_made_features(root, tmp_path):
    one, other = (MADE_BY | {"weights": name} for name in ("epoch1.pt", "epoch9.pt"))
    assert GivenFeatures.read(write(tmp_path / "f.h5", rows(6), made_by=one)).made_by == one
    file = write(tmp_path / "g.h5", rows(6), made_by=other)
    checkpoint = Trained(GivenExtractor((6,), "pooled", one).specification)
    with pytest.raises(ValueError, match="weights of what made it is 'epoch9"):
        features_of_own_photos(checkpoint, file, [root / "Images" / NAMES[0]], True)


@pytest.mark.slow
def test_models_of_an_ensemble_read_their_own_features(root, tmp_path, command, refuses):
    """Nothing tells what made these: they are not taken for the same."""
    for name, sign in (("a", 1), ("b", -1)):
        file = write(tmp_path / f"{name}.h5", sign * rows(6), made_by=None)
        assert prepare(command, root, file, "--pca", 0)[0] == 0
        data = (tmp_path / "data").rename(tmp_path / f"data_{name}")
        training = ("--model", "lstm", "--data", data, "--num_epochs", 1)
        code, _, error = command("training.py", *training, "--out", tmp_path / name)
        assert code == 0, error

    def said(first, other) -> list[dict]:
        runs = ("--checkpoint", tmp_path / first, "--ensemble", tmp_path / other)
        options = ("--split", "val", "--n_best", 5, "--out", tmp_path / "said.json")
        code, _, error = command("inference.py", *runs, *options)
        assert code == 0, error
        return json.loads((tmp_path / "said.json").read_text())

    for one, other in zip(said("a", "b"), said("b", "a"), strict=True):
        scores = ([found["score"] for found in row["n_best"]] for row in (one, other))
        np.testing.assert_allclose(next(scores), next(scores), rtol=1e-5)
    photo = ("--image", root / "Images" / "010.jpg", "--features", file)
    runs = ("--checkpoint", tmp_path / "a", "--ensemble", tmp_path / "b")
    refuses("inference.py", *runs, *photo, says=("--ensemble", "--features is one file"))


def test_what_photos_get_is_what_training_read(root, tmp_path, command):
    file = write(tmp_path / "f.h5", rows(4, 6))
    assert prepare(command, root, file, "--pca", 5)[0] == 0
    for kind in ("pooled", "grid"):
        checkpoint = trained_on(tmp_path / "data", kind)
        paths = [root / "Images" / name for name in SPLITS["val"]]
        kept, features = features_of_own_photos(checkpoint, file, paths, True)
        assert kept == paths
        expected = load_coco_data(tmp_path / "data", features=kind)["val_features"]
        np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)


def test_other_ways_to_write_the_same(root, tmp_path, command):
    """Names as bytes, with the places of a Windows machine, features in compressed chunks."""
    features, names = rows(6, dtype=np.float16), [f"C:\\photos\\Images\\{n}" for n in NAMES]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("features", data=features, chunks=(4, 6), compression="gzip")
        file["names"] = np.array([name.encode() for name in names])
    code, text, error = prepare(command, root, tmp_path / "f.h5", "--pca", 0)
    assert code == 0, error
    assert "6 float16; 12 of the 12 photos" in text
    assert "does not say what made it" in text
    np.testing.assert_array_equal(load_coco_data(tmp_path / "data")["train_features"], features[:9])


def test_photos_without_features_are_left_out_and_named(root, tmp_path, command, refuses):
    keep = [i for i, name in enumerate(NAMES) if name != "003.jpg"]
    file = write(tmp_path / "f.h5", rows(6)[keep], [NAMES[i] for i in keep])
    code, text, error = prepare(command, root, file, "--pca", 3)
    assert code == 0, error
    assert "11 of the 12 photos here have some" in text
    assert f"left out 1 of 12 photos: 003.jpg: has no features in {file}" in text
    assert len(load_coco_data(tmp_path / "data")["train_urls"]) == 8
    few = write(tmp_path / "few.h5", rows(6)[:10], NAMES[:10])
    base = ("core.flickr8k", "--root", root, "--out", tmp_path / "more", "--pca", 3)
    refuses(*base, "--features", few, says=("cannot be used", "2 of 12", "010.jpg", "few.h5"))
    none = write(tmp_path / "none.h5", rows(6), [f"{name}.webp" for name in NAMES])
    refuses(*base, "--features", none, says=("cannot be used", "12 of 12"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([*NAMES[:-1], "003.jpg"], ("'003.jpg'", "2 rows")),
        ([*NAMES[:-1], "a/003.jpg"], ("003.jpg", "a/003.jpg", "folders")),
        (NAMES[:-1], ("13 rows", "12 names")),
        (np.arange(13), ("names are int64", "expected text")),
    ],
)
def test_names_that_contradict_themselves(root, tmp_path, refuses, names, says):
    features = rows(6)
    if "a/003.jpg" in names:  # a name and one with a folder: either may be meant
        names = [f"b/{n}" if n == "003.jpg" else n for n in names]
    file = write(tmp_path / "f.h5", features, names)
    base = ("core.flickr8k", "--root", root, "--out", tmp_path / "data", "--pca", 3)
    refuses(*base, "--features", file, says=("f.h5", *says))


def with_a_nan():
    features = rows(6)
    features[4, 2] = np.nan
    return features


@pytest.mark.parametrize(
    ("features", "made_by", "says"),
    [
        (rows(6).astype(float), None, ("float64", "float16 or float32")),
        (rows(6).astype(int), None, ("int64",)),
        (rows(), None, ("(13,)",)),
        (rows(5, 6), None, ("5 cells", "G x G", "class token")),
        (with_a_nan(), None, ("'004.jpg'", "NaN")),
        (rows(6), [1], ("a list of 1", "JSON object")),
    ],
)
def test_files_that_are_refused(root, tmp_path, refuses, features, made_by, says):
    file = write(tmp_path / "f.h5", features, made_by=made_by)
    base = ("core.flickr8k", "--root", root, "--out", tmp_path / "data", "--pca", 3)
    refuses(*base, "--features", file, says=("f.h5", *says))
    assert not (tmp_path / "data").exists()


def test_options_that_do_not_go_with_features(root, tmp_path, refuses):
    file = write(tmp_path / "f.h5", rows(6))
    base = ("core.flickr8k", "--root", root, "--out", tmp_path / "data", "--features", file)
    refuses(*base, "--grid", says=("--grid", "--features"))
    refuses(*base, "--weights", "random", says=("--weights", "--features"))
    refuses(*base, "--pca", 7, says=("7 components", "6 features"))
    refuses(*base[:-1], tmp_path / "nowhere.h5", says=("nowhere.h5", "no such file"))


def test_files_that_are_no_photos_are_counted_and_the_folder_is_made(root, tmp_path, capsys):
    (root / "Images" / "one.heic").write_bytes(b"of a phone")
    out = tmp_path / "new" / "folder" / "f.h5"
    describe_photos([root / "Images"], out, lambda photos: np.ones((len(photos), 3)), MADE_BY)
    assert "left out 1 of 13 files" in capsys.readouterr().out
    assert len(GivenFeatures.read(out).names) == 12


@pytest.mark.parametrize("shape", [(), (3, 5), (2, 2, 5)])
def test_a_network_without_places_is_refused(root, tmp_path, shape):
    with pytest.raises(ValueError, match="features"):
        describe_photos(
            [root / "Images"], tmp_path / "f.h5", lambda p: np.ones((len(p), *shape)), MADE_BY
        )
    assert not (tmp_path / "f.h5").exists()


def test_a_file_of_our_own_extract_serves_too(root, tmp_path, command):
    """Its projection is part of what made it: another one is other features."""
    for name, pca in (("one", 4), ("two", 5)):
        options = ("--images", root / "Images", "--out", tmp_path / f"{name}.h5", "--pca", pca)
        eyes = ("--encoder", "tiny_cnn", "--weights", "random")
        assert command("core.encoders.extract", *eyes, *options)[0] == 0
    code, text, error = prepare(command, root, tmp_path / "one.h5")
    assert code == 0, error
    assert "holds the result of a PCA of its own" in text
    one, two = (GivenFeatures.read(tmp_path / f"{name}.h5").made_by for name in ("one", "two"))
    assert one["encoder"] == "tiny_cnn"
    assert "weights" not in one
    assert one["projection"] != two["projection"]


def test_writing_such_a_file(tmp_path):
    features = rows(6)
    write_given(tmp_path / "f.h5", NAMES, iter([features[:5], features[5:]]), MADE_BY)
    given = GivenFeatures.read(tmp_path / "f.h5")
    assert given.names == NAMES
    assert given.made_by == MADE_BY
    np.testing.assert_array_equal(given.table[:], features)
    assert GivenExtractor((6,), "pooled", MADE_BY).specification["preprocessing"] == {"size": 32}
    for count in (5, 14):
        with pytest.raises(ValueError, match="rows, expected one for each name"):
            write_given(tmp_path / "g.h5", ["n"] * count, iter([features]), MADE_BY)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_nobody_looks_at_given_photos_in_a_mirror(root, tmp_path):
    file = write(tmp_path / "f.h5", rows(4, 6))
    with pytest.raises(ValueError, match="flip"):
        prepare_photos(root, tmp_path / "data", None, None, given=file, flip=True)
    assert not (tmp_path / "data").exists()
