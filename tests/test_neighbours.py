"""What people said of like pictures chooses among a model's captions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core import neighbours as module
from core.caption_files import reference_captions
from core.coco_utils import decode_captions, encode_captions, load_coco_data
from core.metrics import CIDErD, tokenize
from core.neighbours import WEIGHT, Neighbours


@pytest.fixture
def data(tiny_folder):
    return load_coco_data(tiny_folder)


def test_neighbours_have_the_smallest_angles(data, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 5)  # 12 pictures are three blocks
    train, seen = np.asarray(data["train_features"]), np.asarray(data["val_features"])
    found = Neighbours(data, count=4).of(seen)
    assert found.shape == (5, 4)
    middle = train.mean(axis=0)
    for picture, of_picture in zip(seen - middle, found, strict=True):
        cosines = [
            picture @ other / np.linalg.norm(picture) / np.linalg.norm(other)
            for other in train - middle
        ]
        assert of_picture.tolist() == np.argsort(cosines)[::-1][:4].tolist()


def test_a_training_picture_is_its_own_nearest_neighbour(data):
    found = Neighbours(data, count=100).of(data["train_features"])
    assert found[:, 0].tolist() == list(range(12))
    assert found.shape == (12, 12), "more neighbours than pictures are all of them"


def test_a_grid_is_its_mean(data):
    rng = np.random.default_rng(0)
    grids = {}
    for split in ("train", "val"):
        features = np.asarray(data[f"{split}_features"])
        noise = rng.standard_normal((len(features), 9, features.shape[1])).astype(np.float32)
        grids[split] = features[:, None] + noise - noise.mean(axis=1, keepdims=True)
    expected = Neighbours(data, count=12).of(data["val_features"])
    found = Neighbours({**data, "train_features": grids["train"]}, count=12).of(grids["val"])
    np.testing.assert_array_equal(found, expected)


def test_pictures_without_captions_are_not_heard(data):
    kept = data["train_image_idxs"] % 3 == 0
    few = {**data} | {k: data[k][kept] for k in ("train_captions", "train_image_idxs")}
    found = Neighbours(few, count=50).of(data["val_features"])
    assert set(found.ravel().tolist()) == {0, 3, 6, 9}


def test_likeness_is_added_to_the_score(data):
    """Against the same sum, written as it is said: over neighbours, of CIDEr-D."""
    rng = np.random.default_rng(1)
    captions = rng.integers(2, 9, size=(5, 4, 6))  # <END> wherever it falls, <UNK> as well
    scores = rng.standard_normal((5, 4))
    captions[2, 3], scores[2, 3] = 0, -np.inf  # of this image only three have finished
    neighbours = Neighbours(data, count=3)
    ranked, new = neighbours.rank(data["val_features"], captions, scores)
    texts, _ = reference_captions(data, "train")
    cider = CIDErD({i: list(map(tokenize, of)) for i, of in texts.items()})
    for n, of_picture in enumerate(neighbours.of(data["val_features"]).tolist()):
        expected = []
        for caption, score in zip(captions[n], scores[n], strict=True):
            words = tokenize(decode_captions(caption, data["idx_to_word"]))
            likeness = sum(cider.score(i, words) for i in of_picture) / 3 / 100
            expected.append((score + WEIGHT * likeness, caption.tolist()))
        expected.sort(key=lambda pair: -pair[0])
        np.testing.assert_allclose(new[n], [score for score, _ in expected])
        assert ranked[n].tolist() == [caption for _, caption in expected]
    assert np.isneginf(new[2, 3])
    assert (new != scores).sum() > 10, "nothing was alike: the test shows nothing"


def test_of_equal_captions_the_neighbours_choose(data):
    """Two captions as probable as each other; one was said of the nearest picture."""
    words = [["cat", "sits"], ["a", "dog", "runs"]]
    ids = encode_captions(words, data["word_to_idx"], 6)[:, 1:]
    images = np.arange(12)
    spoken = ids[(images % 2)]
    data |= {"train_image_idxs": images, "train_captions": np.insert(spoken, 0, 1, axis=1)}
    neighbours = Neighbours(data, count=1)
    both, equal = np.repeat(ids[None], 12, axis=0), np.zeros((12, 2))
    ranked, scores = neighbours.rank(data["train_features"], both, equal)
    np.testing.assert_array_equal(ranked[:, 0], spoken)
    assert np.all(scores[:, 0] > scores[:, 1])
    assert not equal.any(), "what was given is left as it was"


def test_refusals(data):
    with pytest.raises(ValueError, match="neighbours: found 0"):
        Neighbours(data, count=0)
    one = {**data} | {k: data[k][:1] for k in ("train_captions", "train_image_idxs")}
    with pytest.raises(ValueError, match="at least 2"):
        Neighbours(one)


def test_captions_chosen_by_neighbours(command, refuses, tiny_folder, tmp_path):
    for model, seed in (("lstm", 0), ("attention", 1)):
        options = ("--model", model, "--data", tiny_folder, "--num_epochs", 1, "--seed", seed)
        code, _, error = command("training.py", *options, "--out", tmp_path / model)
        assert code == 0, error
    out, base = tmp_path / "captions.json", ("inference.py", "--checkpoint", tmp_path / "lstm")

    def said(*options) -> list[dict]:
        code, _, error = command(*base, "--out", out, "--beam_size", 6, "--n_best", 6, *options)
        assert code == 0, error
        return json.loads(out.read_text())

    plain, chosen = said(), said("--neighbours", 5)
    assert [row["caption"] for row in plain] != [row["caption"] for row in chosen]
    for one, other in zip(plain, chosen, strict=True):
        texts = ([found["caption"] for found in row["n_best"]] for row in (one, other))
        assert sorted(next(texts)) == sorted(next(texts)), "other captions, not another order"
    fewer = said("--neighbours", 5, "--n_best", 1)
    assert [row["caption"] for row in fewer] == [row["caption"] for row in chosen]
    assert said("--ensemble", tmp_path / "attention", "--neighbours", 5)
    page = tmp_path / "report.html"
    said("--neighbours", 5, "--report", page)
    assert "neighbours 5" in page.read_text()
    greedy = (*base, "--decode", "greedy")
    refuses(*greedy, "--neighbours", 5, says=("--neighbours", "--decode beam"))
    refuses(*base, "--neighbours", 0, says=("--neighbours", "at least 1"))
