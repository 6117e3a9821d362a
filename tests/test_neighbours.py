"""What people said of like pictures chooses among a model's captions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core.coco_utils import decode_captions, encode_captions, load_coco_data
from core.metrics import CIDErD, ptb_tokenize
from core.metrics.caption_files import reference_captions
from core.recipes import neighbours as module
from core.recipes.neighbours import WEIGHT, Neighbours, ridge_regression, words_said


@pytest.fixture
def data(tiny_folder):
    return load_coco_data(tiny_folder)


def test_neighbours_have_the_smallest_angles(data, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 5)  # 12 pictures are three blocks
    train, seen = np.asarray(data["train_features"]), np.asarray(data["val_features"])
    found = Neighbours(data, count=4).of(seen)
    assert found.shape == (5, 4)
    middle = train.mean(axis=0)
    said = words_said(data, np.arange(12))
    expected = (seen - middle) @ ridge_regression(train - middle, said)

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    for picture, words, of_picture in zip(seen - middle, expected, found, strict=True):
        alike = [
            cosine(picture, other) + cosine(words, of_other)
            for other, of_other in zip(train - middle, said, strict=True)
        ]
        assert of_picture.tolist() == np.argsort(alike)[::-1][:4].tolist()


def test_words_that_were_said():
    captions = [[1, 4, 5, 2], [1, 4, 4, 2], [1, 5, 2, 0], [1, 3, 6, 2]]
    words = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "cat", "dog", "unsaid"]
    data = {
        "train_captions": np.array(captions),
        "train_image_idxs": np.array([7, 7, 2, 5]),
        "idx_to_word": words,
        "word_to_idx": {word: i for i, word in enumerate(words)},
    }
    rare, common = np.log(3), np.log(3 / 2)  # in one, and in two of the three images
    expected = np.zeros((3, 8))
    expected[2, 4], expected[2, 5] = rare, common * 0.5**0.5  # image 7: "a" in both captions
    expected[0, 5] = common
    expected[1, 6] = rare
    found = words_said(data, np.array([2, 5, 7]))
    np.testing.assert_allclose(found, expected - expected.mean(axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("n", "D"), [(20, 6), (5, 9)])
def test_the_map_solves_ridge_regression(n, D):
    rng = np.random.default_rng(n)
    x, y = 3 * rng.standard_normal((n, D)), rng.standard_normal((n, 4))
    found = ridge_regression(x, y)
    price = module.RIDGE * np.mean(x**2)
    gradient = x.T @ (x @ found - y) / n + price * found  # of half the cost: 0 where it is least
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert np.abs(found).max() > 0.01


def test_a_training_picture_is_its_own_nearest_neighbour(data):
    # What is expected of it need not be what was said of it: with few words all are near it.
    neighbours = Neighbours(data, count=100)
    neighbours.said = neighbours.seen @ neighbours.map
    found = neighbours.of(data["train_features"])
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
    cider = CIDErD({i: list(map(ptb_tokenize, of)) for i, of in texts.items()})
    for n, of_picture in enumerate(neighbours.of(data["val_features"]).tolist()):
        expected = []
        for caption, score in zip(captions[n], scores[n], strict=True):
            words = ptb_tokenize(decode_captions(caption, data["idx_to_word"]))
            likeness = sum(cider.score(i, words) for i in of_picture) / 3 / 100
            expected.append((score + WEIGHT * likeness, caption.tolist()))
        expected.sort(key=lambda pair: -pair[0])
        np.testing.assert_allclose(new[n], [score for score, _ in expected])
        assert ranked[n].tolist() == [caption for _, caption in expected]
    assert np.isneginf(new[2, 3])
    assert (new != scores).sum() > 10, "nothing was alike: the test shows nothing"


def test_of_equal_captions_the_neighbours_choose(data):
    """Two captions as probable as each other; one was said of each picture of the same kind."""
    words = [["cat", "sits"], ["a", "dog", "runs"]]
    ids = encode_captions(words, data["word_to_idx"], 6)[:, 1:]
    images = np.arange(12)
    spoken = ids[(images % 2)]
    data |= {"train_image_idxs": images, "train_captions": np.insert(spoken, 0, 1, axis=1)}
    kinds = np.random.default_rng(0).standard_normal((2, 6))[images % 2]
    data["train_features"] = kinds + 0.1 * np.asarray(data["train_features"])
    neighbours = Neighbours(data, count=3)
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
    refuses(*base, "--neighbours", 2, "--beam_size", 1, says=("--neighbours", "--beam_size"))
    refuses(*base, "--neighbours", 2, "--split", "train", says=("--neighbours", "--split val"))
    moved = tiny_folder.rename(tmp_path / "moved")
    assert said("--data", moved, "--neighbours", 5)[0]["caption"] == chosen[0]["caption"]
