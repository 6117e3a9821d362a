"""The data layout: the published archive loads as it is; what is wrong with a folder is named."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import REAL_DATA

from core.coco_utils import (
    CAPTIONS_FILE,
    VOCABULARY_FILE,
    build_vocabulary,
    decode_captions,
    encode_captions,
    load_coco_data,
    minibatches,
    open_features,
    sample_coco_minibatch,
    save_coco_data,
    share_of_unknown,
    take_samples,
    without_long_captions,
)


def make_published(folder: Path, images=(40, 10), captions=(200, 50), words=30, **storage) -> Path:
    """A folder in the layout of the published archive."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    idx_to_word = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(words - 4))]
    vocabulary = {
        "idx_to_word": idx_to_word,
        "word_to_idx": {w: i for i, w in enumerate(idx_to_word)},
    }
    (folder / VOCABULARY_FILE).write_text(json.dumps(vocabulary))
    with h5py.File(folder / CAPTIONS_FILE, "w") as file:
        for split, M, n in zip(("train", "val"), captions, images, strict=True):
            ids = rng.integers(4, words, (M, 17)).astype(np.int64)
            ids[:, 0], ids[:, 12], ids[:, 13:] = 1, 2, 0
            file[f"{split}_captions"] = ids
            file[f"{split}_image_idxs"] = rng.integers(0, n, M)
    for split, n in zip(("train", "val"), images, strict=True):
        for ending, width in (("_pca", 512), ("", 4096)):
            with h5py.File(folder / f"{split}2014_vgg16_fc7{ending}.h5", "w") as file:
                table = rng.random((n, width), dtype=np.float32)
                file.create_dataset("features", data=table, **storage)
        urls = "".join(f"http://example.org/{split}/{i}.jpg\n" for i in range(n))
        (folder / f"{split}2014_urls.txt").write_text(urls)
    return folder


def test_captions_of_an_image_stay_together_when_they_are_asked_to(tmp_path):
    data = load_coco_data(make_published(tmp_path / "coco"))
    orders = {}
    for together in (False, True):
        data["captions_together"] = together
        rng, seen = np.random.default_rng(0), []
        for captions, _ in minibatches(data, "train", 1, 0, rng):
            seen.append(np.flatnonzero((data["train_captions"][:, :13] == captions).all(axis=1))[0])
        assert sorted(seen) == list(range(200))
        images = data["train_image_idxs"][seen]
        runs = 1 + np.count_nonzero(np.diff(images))
        assert (runs == len(np.unique(images))) == together
        orders[together] = images
    firsts = orders[True][np.sort(np.unique(orders[True], return_index=True)[1])]
    assert (np.diff(firsts) < 0).any(), "images come in a random order"


@pytest.mark.parametrize("seed", range(3))
def test_buckets_pad_little_and_miss_nothing(tmp_path, seed):
    data = load_coco_data(make_published(tmp_path / "coco", captions=(1000, 50)))
    rng = np.random.default_rng(seed)
    for caption, length in zip(data["train_captions"], rng.integers(3, 17, 1000), strict=True):
        caption[length:] = 0
    padded, seen = {}, []
    for bucketed in (False, True):
        batches = minibatches(data, "train", 7, 0, np.random.default_rng(seed), bucketed=bucketed)
        batches = [captions for captions, _ in batches]
        assert sum(map(len, batches)) == 1000
        padded[bucketed] = sum(np.count_nonzero(captions == 0) for captions in batches)
        seen.append(sorted(tuple(c[c != 0].tolist()) for batch in batches for c in batch))
    assert seen[0] == seen[1]
    assert padded[True] < 0.1 * padded[False]
    widths = [batch.shape[1] for batch in batches]
    assert widths != sorted(widths), "batches come by length"


class SlowTable:
    """A table that notes which rows are asked for, and fails at one of them."""

    def __init__(self, fails_at=None):
        self.asked, self.fails_at = [], fails_at

    def __getitem__(self, rows):
        self.asked.append(rows)
        if self.fails_at in rows:
            raise ValueError("row of bad luck")
        return rows


def test_reading_ahead_is_bounded_ordered_and_passes_errors_on(tmp_path):
    data = load_coco_data(make_published(tmp_path / "coco"))
    data["train_image_idxs"] = np.arange(200)
    data["train_features"] = table = SlowTable()
    batches = minibatches(data, "train", 4, 0, workers=2)
    first = [next(batches)[1].tolist() for _ in range(3)]
    assert first == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    time.sleep(0.05)
    assert len(table.asked) <= 3 + 2 * 2
    batches.close()
    data["train_features"] = SlowTable(fails_at=9)
    batches = minibatches(data, "train", 4, 0, workers=2)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(ValueError, match="bad luck"):
        next(batches)


def test_of_large_features_a_sample_is_checked(tmp_path, monkeypatch):
    folder = make_published(tmp_path / "coco", images=(4000, 4000))
    monkeypatch.setattr("core.coco_utils.folder._CHECKED_AT_ONCE", 64 * 512 * 4)
    monkeypatch.setattr("core.coco_utils.folder._CHECKED_WHOLE", 10 * 64 * 512 * 4)
    read = []
    table = open_features(folder / "train2014_vgg16_fc7_pca.h5")

    class Counting:
        dtype, shape, ndim = table.dtype, table.shape, table.ndim

        def __len__(self):
            return len(table)

        def __getitem__(self, rows):
            read.append(rows)
            return table[rows]

    monkeypatch.setattr("core.coco_utils.folder.open_features", lambda path: Counting())
    load_coco_data(folder)
    starts = [rows.start for rows in read if isinstance(rows, slice)]
    assert 10 <= len(starts) / 2 <= 12
    assert max(starts) > 3000, "not to the end of the file"


def test_the_published_layout_loads(tmp_path):
    folder = make_published(tmp_path / "coco")
    data = load_coco_data(base_dir=str(folder))
    assert data["train_captions"].shape == (200, 17)
    assert data["train_features"].shape == (40, 512)
    assert data["val_features"].shape == (10, 512)
    assert data["train_urls"][3] == "http://example.org/train/3.jpg"
    assert data["word_to_idx"]["<END>"] == 2
    assert load_coco_data(folder, pca_features=False)["val_features"].shape == (10, 4096)
    with h5py.File(folder / "train2014_vgg16_fc7_pca.h5") as file:
        np.testing.assert_array_equal(
            data["train_features"][[3, 1, 3]], file["features"][:][[3, 1, 3]]
        )


@pytest.mark.parametrize("storage", [{}, {"chunks": (7, 64)}, {"compression": "gzip"}], ids=str)
def test_rows_are_read_alike_however_they_are_stored(tmp_path, storage):
    path = tmp_path / "features.h5"
    table = np.random.default_rng(0).random((50, 64), dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=table, **storage)
    features = open_features(path)
    assert features.shape == (50, 64)
    assert features.ndim == 2
    assert features.dtype == np.float32
    assert len(features) == 50
    for rows in (3, slice(5, 20), np.array([9, 2, 2, 49]), [0], table[:, 0] > 0.5):
        np.testing.assert_array_equal(features[rows], table[rows])
    np.testing.assert_array_equal(np.asarray(features), table)


def test_max_train_draws_distinct_captions(tmp_path):
    folder = make_published(tmp_path / "coco")
    data = load_coco_data(folder, max_train=60)
    assert data["train_captions"].shape == (60, 17)
    assert len(np.unique(data["train_captions"], axis=0)) == 60
    again = load_coco_data(folder, max_train=60)
    np.testing.assert_array_equal(again["train_captions"], data["train_captions"])
    other = load_coco_data(folder, max_train=60, rng=np.random.default_rng(1))
    assert not np.array_equal(other["train_captions"], data["train_captions"])
    assert len(load_coco_data(folder, max_train=10**6)["train_captions"]) == 200


@pytest.mark.slow
def test_the_size_of_coco_fits_in_memory(tmp_path):
    """82,783 + 40,504 images and 400,135 captions: loading stays under 1.5 GB."""
    folder = tmp_path / "coco"
    make_published(folder, images=(2, 2), captions=(400135, 195954), words=1004)
    for split, count in (("train", 82783), ("val", 40504)):
        with h5py.File(folder / f"{split}2014_vgg16_fc7_pca.h5", "w") as file:
            file["features"] = np.ones((count, 512), np.float32)
        (folder / f"{split}2014_urls.txt").write_text("http://example.org\n" * count)
    script = (
        "import resource; from core.coco_utils import *; "
        f"data = load_coco_data({str(folder)!r}); "
        "captions, features, urls = sample_coco_minibatch(data, 100); "
        "assert features.shape == (100, 512); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.5e6  # KiB


@pytest.mark.skipif(not (REAL_DATA / "coco").is_dir(), reason="the real vocabulary is not here")
def test_the_real_vocabulary_is_read():
    from core.coco_utils.folder import _read_vocabulary

    vocabulary = _read_vocabulary(REAL_DATA / "coco" / VOCABULARY_FILE)
    assert len(vocabulary["idx_to_word"]) == 1004
    assert vocabulary["word_to_idx"]["<UNK>"] == 3


# ---------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------


def test_an_epoch_is_every_caption_once(tiny_folder):
    data = load_coco_data(tiny_folder)
    rng = np.random.default_rng(0)
    orders = []
    for _ in range(2):
        rows = []
        for captions, features in minibatches(data, "train", 5, 0, rng):
            assert len(captions) == len(features) <= 5
            assert (captions != 0).any(axis=0).all(), "a column of <NULL> was left in"
            rows += [tuple(c[c != 0]) for c in captions]
        orders.append(rows)
        assert sorted(rows) == sorted(tuple(c[c != 0]) for c in data["train_captions"])
    assert orders[0] != orders[1]


def test_features_belong_to_their_captions(tiny_folder):
    data = load_coco_data(tiny_folder)
    captions, features, urls = sample_coco_minibatch(data, 6, "val", np.random.default_rng(0))
    for caption, feature, url in zip(captions, features, urls, strict=True):
        image = int(url.removeprefix("val").removesuffix(".png"))
        np.testing.assert_array_equal(feature, data["val_features"][image])
        assert caption.tolist() in data["val_captions"][data["val_image_idxs"] == image].tolist()


def test_samples_are_of_distinct_images_and_drawn_from_the_seed(tiny_folder):
    data = load_coco_data(tiny_folder)
    taken = take_samples(data, 8, np.random.default_rng(3))
    assert len(np.unique(taken["train_image_idxs"])) == len(taken["train_captions"]) == 8
    again = take_samples(data, 8, np.random.default_rng(3))
    np.testing.assert_array_equal(taken["train_captions"], again["train_captions"])
    assert len(data["train_captions"]) == 24, "the data given were changed"
    with pytest.raises(ValueError, match="found 13, but there are captions of 12 images"):
        take_samples(data, 13, np.random.default_rng(3))


def test_captions_that_are_too_long_are_left_out_whole_and_counted(tmp_path):
    data = load_coco_data(make_published(tmp_path / "coco"))
    for split, count in (("train", 3), ("val", 0)):
        data[f"{split}_captions"][count:, 9:] = [2, *[0] * 7]  # 8 words; the others have 11
    data["train_image_idxs"][:] = [0, 0, 1, *[2] * 197]
    said = (
        "3 of 200 train captions have more than 10 words, the longest 11, and are left out, "
        "2 images with them"
    )
    with pytest.warns(UserWarning, match=said) as caught:
        kept = without_long_captions(data, 10)
    assert len(caught) == 1
    assert kept["train_captions"].shape == (197, 12)
    assert (np.count_nonzero(kept["train_captions"], axis=1) == 10).all()
    assert (kept["train_image_idxs"] == 2).all()
    assert data["train_captions"].shape == (200, 17), "the data given were changed"
    same = without_long_captions(data, 11)
    assert same["train_captions"] is data["train_captions"]


def test_no_split_is_left_empty(tmp_path):
    data = load_coco_data(make_published(tmp_path / "coco"))
    data["train_captions"][:, 3:] = [2, *[0] * 13]
    with pytest.raises(ValueError, match="--max_words 5: leaves no caption of val, whose shortest"):
        without_long_captions(data, 5)


def test_the_share_of_unknown_words():
    ids = {"<NULL>": 0, "<START>": 1, "<END>": 2, "<UNK>": 3, "a": 4}
    captions = np.array([[1, 3, 4, 4, 2, 0], [1, 4, 2, 0, 0, 0]])
    data = {"word_to_idx": ids, "train_captions": captions, "val_captions": captions[:0]}
    assert share_of_unknown(data, "train") == 0.25
    assert share_of_unknown(data, "val") == 1


def test_encode_and_decode():
    words = [["a", "cat", "runs"], ["a", "zebra"]]
    vocabulary = build_vocabulary([["a", "cat"], ["a", "runs", "runs"], ["b"]], min_count=1)
    assert vocabulary == ["<NULL>", "<START>", "<END>", "<UNK>", "a", "runs", "b", "cat"]
    assert build_vocabulary([["a", "a", "b"]], min_count=2)[4:] == ["a"]
    ids = encode_captions(words, {w: i for i, w in enumerate(vocabulary)}, 6)
    assert ids.tolist() == [[1, 4, 7, 5, 2, 0], [1, 4, 3, 2, 0, 0]]
    assert decode_captions(ids, vocabulary) == ["a cat runs", "a <UNK>"]
    assert decode_captions(ids[0], vocabulary) == "a cat runs"
    assert decode_captions(np.array([4, 2, 4]), vocabulary) == "a"


# ---------------------------------------------------------------------------------------------
# Folders that are wrong
# ---------------------------------------------------------------------------------------------


def rewrite(path: Path, name: str, change) -> None:
    with h5py.File(path, "r+") as file:
        values = file[name][...]
        del file[name]
        file[name] = change(values)


def set_first(value):
    def change(values):
        values.flat[0] = value
        return values

    return change


def at(place, value):
    def change(values):
        values[place] = value
        return values

    return change


def rewrite_vocabulary(folder: Path, change, kind=int) -> None:
    words = change(json.loads((folder / VOCABULARY_FILE).read_text())["idx_to_word"])
    ids = {word: kind(i) for i, word in enumerate(words)}
    text = json.dumps({"idx_to_word": words, "word_to_idx": ids})
    (folder / VOCABULARY_FILE).write_text(text)


FEATURES = "train2014_vgg16_fc7_pca.h5"
DAMAGE = {
    "captions missing": (lambda f: (f / CAPTIONS_FILE).unlink(), CAPTIONS_FILE, "no such file"),
    "features missing": (lambda f: (f / FEATURES).unlink(), FEATURES, "no such file"),
    "vocabulary missing": (lambda f: (f / VOCABULARY_FILE).unlink(), VOCABULARY_FILE, "no such"),
    "urls missing": (lambda f: (f / "val2014_urls.txt").unlink(), "val2014_urls.txt", "no such"),
    "captions torn": (lambda f: tear(f / CAPTIONS_FILE), CAPTIONS_FILE, "not a whole HDF5"),
    "features torn": (lambda f: tear(f / FEATURES), FEATURES, "not a whole HDF5"),
    "features empty": (lambda f: (f / FEATURES).write_bytes(b""), FEATURES, "not a whole HDF5"),
    "vocabulary torn": (lambda f: tear(f / VOCABULARY_FILE), VOCABULARY_FILE, "not valid JSON"),
    "vocabulary of another kind": (
        lambda f: (f / VOCABULARY_FILE).write_text("[1, 2]"),
        VOCABULARY_FILE,
        "expected an object",
    ),
    "no key": (
        lambda f: rewrite_key(f / FEATURES, "features", "other"),
        FEATURES,
        "no 'features'",
    ),
    "no captions key": (
        lambda f: rewrite_key(f / CAPTIONS_FILE, "train_captions", "x"),
        CAPTIONS_FILE,
        "no train_captions",
    ),
    "NaN": (lambda f: rewrite(f / FEATURES, "features", set_first(np.nan)), FEATURES, "image 0"),
    "infinity": (
        lambda f: rewrite(f / FEATURES, "features", set_first(np.inf)),
        FEATURES,
        "NaN or inf",
    ),
    "integer features": (
        lambda f: rewrite(f / FEATURES, "features", lambda v: v.astype(int)),
        FEATURES,
        "int64",
    ),
    "no rows": (
        lambda f: rewrite(f / FEATURES, "features", lambda v: v[:0]),
        FEATURES,
        "no features",
    ),
    "id too large": (
        lambda f: rewrite(f / CAPTIONS_FILE, "val_captions", set_first(30)),
        CAPTIONS_FILE,
        "word id 30",
    ),
    "id negative": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", set_first(-1)),
        CAPTIONS_FILE,
        "word id -1",
    ),
    "image out of range": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_image_idxs", set_first(40)),
        FEATURES,
        "caption 0 of train in coco2014_captions.h5 is of image 40",
    ),
    "image negative": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_image_idxs", set_first(-2)),
        FEATURES,
        "image -2",
    ),
    "lengths differ": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_image_idxs", lambda v: v[:-1]),
        CAPTIONS_FILE,
        "do not fit",
    ),
    "no captions at all": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", lambda v: v[:0]),
        CAPTIONS_FILE,
        "do not fit",
    ),
    "no <START>": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", lambda v: np.roll(v, -1, axis=1)),
        f"{CAPTIONS_FILE}: train_captions: caption 0 does not begin with <START>",
        "the first of 200 in 200",
    ),
    "no <START> in one of val": (
        lambda f: rewrite(f / CAPTIONS_FILE, "val_captions", at((31, 0), 9)),
        "val_captions: caption 31 does not begin with <START> (the first of 1 in 50)",
        "'w5 w",
    ),
    "no <END>, padded": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", lambda v: np.where(v == 2, 0, v)),
        "train_captions: caption 0 has no <END>",
        "expected <START>, words, <END>, then <NULL>",
    ),
    "no <END>, every row full": (
        lambda f: rewrite(f / CAPTIONS_FILE, "val_captions", lambda v: v[:, :12]),
        "val_captions: caption 0 has no <END>",
        "of 50 in 50",
    ),
    "no <END> in one, padded": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", at((7, 12), 0)),
        "train_captions: caption 7 has no <END>",
        "",
    ),
    "nothing but <NULL>": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", np.zeros_like),
        "train_captions: caption 0 does not begin with <START>",
        "'<NULL> <NULL>",
    ),
    "words after <END>": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", at((3, 15), 8)),
        "train_captions: caption 3 goes on after its <END>",
        "",
    ),
    "padded with another word": (
        lambda f: rewrite(f / CAPTIONS_FILE, "val_captions", lambda v: np.where(v == 0, 5, v)),
        "val_captions: caption 0 goes on after its <END>",
        "",
    ),
    "<NULL> between words": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", at((4, 3), 0)),
        "train_captions: caption 4 has <START> or <NULL> between its words",
        "",
    ),
    "<START> twice": (
        lambda f: rewrite(f / CAPTIONS_FILE, "val_captions", at((2, 1), 1)),
        "val_captions: caption 2 has <START> or <NULL> between its words",
        "'<START> <START>",
    ),
    "no words at all": (
        lambda f: rewrite(f / CAPTIONS_FILE, "val_captions", lambda v: v[:, [0, 12, 13]]),
        "val_captions: no caption holds a word",
        "",
    ),
    "an empty split": (
        lambda f: [
            rewrite(f / CAPTIONS_FILE, f"val_{name}", lambda v: v[:0])
            for name in ("captions", "image_idxs")
        ],
        "val_captions holds no captions",
        "without that split",
    ),
    "special words elsewhere": (
        lambda f: rewrite_vocabulary(f, lambda words: [*words[4:], *words[:4]]),
        f"{VOCABULARY_FILE}: its first words are w0, w1, w2, w3",
        "expected <NULL>, <START>, <END>, <UNK>",
    ),
    "special words in another order": (
        lambda f: rewrite_vocabulary(f, lambda words: [words[2], *words[:2], *words[3:]]),
        VOCABULARY_FILE,
        "<END>, <NULL>, <START>, <UNK>, expected <NULL>",
    ),
    "a word twice": (
        lambda f: rewrite_vocabulary(f, lambda words: [*words[:-1], words[-2]]),
        VOCABULARY_FILE,
        "mirror",
    ),
    "ids that are no whole numbers": (
        lambda f: rewrite_vocabulary(f, list, float),
        VOCABULARY_FILE,
        "expected a whole number",
    ),
    "floating-point ids": (
        lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", lambda v: v + 0.5),
        CAPTIONS_FILE,
        "expected integers",
    ),
    "too few urls": (
        lambda f: (f / "train2014_urls.txt").write_text("one\n"),
        "train2014_urls.txt",
        "1 lines for 40 images",
    ),
    "empty folder": (lambda f: [p.unlink() for p in f.iterdir()], "no such file", ""),
    "torn description": (
        lambda f: (f / "dataset.json").write_text('{"features": '),
        "dataset.json",
        "not valid JSON",
    ),
    "description without val": (
        lambda f: (f / "dataset.json").write_text(
            json.dumps({"features": {"pooled": {"train": FEATURES}}})
        ),
        "dataset.json",
        "no pooled features of val",
    ),
    "description of another kind": (
        lambda f: (f / "dataset.json").write_text('{"features": {"pooled": "x"}}'),
        "dataset.json",
        "features 'pooled' is 'x', expected an object",
    ),
    "empty description": (
        lambda f: (f / "dataset.json").write_text("{}"),
        "dataset.json",
        "has no features",
    ),
}


def tear(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def rewrite_key(path: Path, old: str, new: str) -> None:
    with h5py.File(path, "r+") as file:
        file.move(old, new)


@pytest.mark.parametrize(("damage", "name", "words"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_wrong_with_a_folder_is_named(refuses, tmp_path, damage, name, words):
    folder = make_published(tmp_path / "coco")
    damage(folder)
    refuses("training.py", "--model", "rnn", "--data", folder, says=(name, words))
    assert not (tmp_path / "runs").exists(), "something was written"


def test_a_published_archive_may_have_a_few_captions_that_were_cut(tmp_path):
    """They fill their row; in what this project writes every caption has its <END>."""
    folder = make_published(tmp_path / "coco")

    def cut(values):
        values[[5, 9], 12:] = 6
        return values

    rewrite(folder / CAPTIONS_FILE, "train_captions", cut)
    with pytest.warns(UserWarning, match="train_captions: 2 of 200 captions were cut") as caught:
        assert len(load_coco_data(folder)["train_captions"]) == 200
    assert len(caught) == 1
    names = {f"{split}": f"{split}2014_vgg16_fc7_pca.h5" for split in ("train", "val")}
    (folder / "dataset.json").write_text(json.dumps({"features": {"pooled": names}}))
    with pytest.raises(ValueError, match="caption 5 has no <END>"):
        load_coco_data(folder)


def test_captions_without_words_are_counted(tmp_path):
    folder = make_published(tmp_path / "coco")

    def empty(values):
        values[[1, 3, 8], 1:] = [2, *[0] * 15]
        return values

    rewrite(folder / CAPTIONS_FILE, "val_captions", empty)
    with pytest.warns(UserWarning, match="val_captions: 3 of 50 captions hold no word"):
        load_coco_data(folder)


def test_a_path_may_hold_what_ends_a_line_elsewhere(tmp_path):
    folder = make_published(tmp_path / "coco", images=(3, 10), captions=(20, 50))
    (folder / "train2014_urls.txt").write_text(
        "a\u2028b.jpg\r\nc\x85d.jpg\ne\x0cf.jpg\n", encoding="utf-8", newline=""
    )
    urls = load_coco_data(folder)["train_urls"]
    assert urls.tolist() == ["a\u2028b.jpg", "c\x85d.jpg", "e\x0cf.jpg"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_captions_is_not_written(tmp_path, split):
    captions = {"train": [(0, ["a"])], "val": [(0, ["a"])]} | {split: []}
    with pytest.raises(ValueError, match=f"the {split} split has no captions"):
        save_coco_data(tmp_path / "data", captions, [], {}, {}, {}, ".", {})
    assert not list(tmp_path.iterdir())


def test_no_folder(refuses, tmp_path):
    refuses(
        "training.py", "--model", "rnn", "--data", tmp_path / "no", says=("no such data folder",)
    )
