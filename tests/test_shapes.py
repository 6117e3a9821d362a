"""The embedded data: true captions, no leak, readable features, the same bytes twice."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core import scenes as scenes_module
from core import shapes
from core.coco_utils import decode_captions, load_coco_data
from core.encoders import Extractor
from core.scenes import COLOURS, KINDS, RADII, Shape, draw_scene
from core.shapes import caption_is_true


@pytest.fixture(scope="module")
def data(shapes_folder):
    return load_coco_data(shapes_folder)


@pytest.fixture(scope="module")
def scenes(shapes_folder):
    return {split: shapes.load_scenes(shapes_folder, split) for split in shapes.SPLIT_SIZES}


def test_sizes(data, scenes):
    for split, count in {"train": 8000, "val": 300, "test": 300}.items():
        assert len(scenes[split]) == len(data[f"{split}_features"]) == count
        assert len(data[f"{split}_captions"]) == 5 * count
        assert np.all(np.bincount(data[f"{split}_image_idxs"]) == 5)
    assert data["train_features"].shape[1] == 512
    assert {len(scene) for scene in scenes["train"]} == {1, 2, 3}


def test_every_caption_is_true_and_the_five_differ(data, scenes):
    for split in scenes:
        captions = decode_captions(data[f"{split}_captions"], data["idx_to_word"])
        by_image: dict = {}
        for image, caption in zip(data[f"{split}_image_idxs"].tolist(), captions, strict=True):
            assert caption_is_true(caption, scenes[split][image]), caption
            by_image.setdefault(image, set()).add(caption)
        assert {len(several) for several in by_image.values()} == {5}


def test_no_picture_is_in_two_splits(shapes_folder, data):
    seen = {}
    for split in shapes.SPLIT_SIZES:
        for url in data[f"{split}_urls"]:
            digest = hashlib.sha256((shapes_folder / url).read_bytes()).hexdigest()
            assert digest not in seen
            seen[digest] = split


def test_every_word_is_in_train_and_no_word_is_unknown(data):
    used = {split: set(np.unique(data[f"{split}_captions"])) for split in shapes.SPLIT_SIZES}
    unknown = data["word_to_idx"]["<UNK>"]
    assert used["train"] == set(range(len(data["idx_to_word"]))) - {unknown}
    assert used["val"] | used["test"] <= used["train"]


def test_boxes_hold_the_shapes(shapes_folder, data, scenes):
    """Every pixel that is far from grey lies in a box, and every box has such a pixel."""
    for image in range(50):
        picture = np.asarray(Image.open(shapes_folder / data["val_urls"][image])).astype(int)
        coloured = picture.max(axis=2) - picture.min(axis=2) > 60
        for shape in scenes["val"][image]:
            left, top, right, bottom = (round(edge) for edge in shape.box)
            assert coloured[top:bottom, left:right].mean() > 0.3
            coloured[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert not coloured.any()


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(tmp_path):
    sizes = {"train": 520, "val": 10, "test": 10}
    folders = [shapes.prepare_shapes(tmp_path / name, 3, sizes) for name in ("one", "two")]
    files = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 540


def test_preparing_again_does_nothing_and_spares_other_folders(shapes_folder, tmp_path):
    before = (shapes_folder / "dataset.json").stat().st_mtime_ns
    assert shapes.prepare_shapes(shapes_folder) == shapes_folder
    assert (shapes_folder / "dataset.json").stat().st_mtime_ns == before
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        shapes.prepare_shapes(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


# ---------------------------------------------------------------------------------------------
# Linear probes
# ---------------------------------------------------------------------------------------------


def fit(train, targets, val, ridge):
    """Ridge regression: the predictions for val."""
    mean = train.mean(axis=0)
    train, val = (np.c_[x - mean, np.ones(len(x))] for x in (train, val))
    gram = train.T @ train + ridge * np.eye(train.shape[1])
    return val @ np.linalg.solve(gram, train.T @ targets)


def probe(train, val, train_labels, val_labels, ridge=10.0) -> float:
    """Accuracy on val of a linear classifier (ridge regression on one-hot labels)."""
    scores = fit(train, np.eye(max(train_labels) + 1)[train_labels], val, ridge)
    return float(np.mean(scores.argmax(axis=1) == val_labels))


def test_colour_kind_size_and_position_can_be_read_from_the_grid(shapes_folder, scenes):
    grid = load_coco_data(shapes_folder, features="grid")
    assert grid["train_features"].shape[1] == 64
    x, labels, cells = {}, {}, {}
    for split in ("train", "val"):
        rows = [(i, s) for i, scene in enumerate(scenes[split]) for s in scene]
        cells[split] = np.array([(s.y // 8, s.x // 8) for _, s in rows])
        at = (cells[split] @ (8, 1)).astype(int)
        x[split] = np.asarray(grid[f"{split}_features"])[[i for i, _ in rows], at]
        labels[split] = [
            (KINDS.index(s.kind), list(COLOURS).index(s.colour), list(RADII).index(s.size))
            for _, s in rows
        ]
    for which in range(3):
        wanted = [[label[which] for label in labels[split]] for split in ("train", "val")]
        assert probe(x["train"], x["val"], *wanted, ridge=0.01) >= 0.98
    predicted = fit(x["train"], cells["train"], x["val"], ridge=0.01)
    assert np.mean(abs(predicted - cells["val"]) < 1) >= 0.99  # in cells


@pytest.mark.slow
def test_colour_kind_and_position_can_be_read_from_the_pooled_features(data, scenes):
    def present(holds):
        labels = [[int(any(map(holds, s))) for s in scenes[split]] for split in ("train", "val")]
        return probe(np.asarray(data["train_features"]), np.asarray(data["val_features"]), *labels)

    colours = [present(lambda s, c=c: s.colour == c) for c in COLOURS]
    kinds = [present(lambda s, k=k: s.kind == k) for k in KINDS]
    places = [present(lambda s, i=i: s.place[i // 3] == i % 3) for i in range(6)]
    pairs = [
        present(lambda s, c=c, k=k: (s.colour, s.kind) == (c, k)) for c in COLOURS for k in KINDS
    ]
    assert min(colours) >= 0.98
    assert min(kinds) >= 0.9
    assert min(places) >= 0.9
    assert min(pairs) >= 0.97


def test_a_stored_picture_gives_the_stored_features(shapes_folder, data):
    extractor = Extractor.rebuild(data["source"]["extractor"], data["source"]["arrays"])
    picture = np.asarray(Image.open(shapes_folder / data["val_urls"][7]))
    np.testing.assert_allclose(extractor([picture])[0], data["val_features"][7], atol=1e-4)


# ---------------------------------------------------------------------------------------------
# The checker
# ---------------------------------------------------------------------------------------------

SCENE = (
    Shape("circle", "red", "small", x=12, y=12, radius=6.5),
    Shape("square", "blue", "large", x=50, y=48, radius=11),
)


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle",
        "a small red circle above a blue square",
        "a large blue square is to the right of a red circle",
        "a blue square under a red circle",
        "there is a red circle at the top left",
        "two shapes a blue square and a red circle",
    ],
)
def test_true_captions(caption):
    assert caption_is_true(caption, SCENE)


@pytest.mark.parametrize(
    "caption",
    [
        "a green circle",
        "a red square",
        "a large red circle",
        "a red circle below a blue square",
        "a red circle right of a blue square",
        "a red circle and a red circle",
        "there is a red circle at the top",
        "three shapes with a red circle above a blue square",
        "one shape a red circle",
        "a red circle a blue square and a green triangle",
        "red circle",
        "a red circle above",
        "a small small red circle",
        "",
    ],
)
def test_wrong_captions(caption):
    assert not caption_is_true(caption, SCENE)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_a_caption_of_another_picture_is_seldom_true(seed):
    """Whatever is described, changing every colour makes every caption false."""
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng)
    names = list(COLOURS)
    other = tuple(
        Shape(s.kind, names[(names.index(s.colour) + 1) % 5], s.size, s.x, s.y, s.radius)
        for s in scene
    )
    for caption in shapes.describe(scene, rng):
        assert caption_is_true(caption, scene)
        if len(scene) == 1:
            assert not caption_is_true(caption, other)


@pytest.mark.parametrize("kind", scenes_module.KINDS)
@pytest.mark.parametrize(("x", "y", "radius"), [(9.3, 40.2, 6.1), (55.0, 12.5, 8.0), (32, 32, 31)])
def test_a_shape_covers_pixels_of_its_box_alone(kind, x, y, radius):
    """As if every point of the picture were looked at."""
    shape = scenes_module.Shape(kind, "red", "large", x, y, radius)
    points = (np.arange(64 * 4) + 0.5) / 4
    u, v = (points[None, :] - x) / radius, (points[:, None] - y) / radius
    covered = scenes_module.silhouette(kind, u, v).reshape(64, 4, 64, 4).mean(axis=(1, 3))
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    expected = np.full((64, 64, 3), again.uniform(215, 240))
    colour = np.clip(np.array(scenes_module.COLOURS["red"]) + again.normal(0, 6, size=3), 0, 255)
    expected += covered[:, :, None] * (colour - expected)
    expected += again.normal(0, 3, size=expected.shape)
    found = scenes_module.render((shape,), rng)
    np.testing.assert_array_equal(found, np.clip(np.round(expected), 0, 255).astype(np.uint8))
