"""What a training says of its data first: words that are unknown, captions too long, memory."""

from __future__ import annotations

import json
import tracemalloc

import h5py
import numpy as np
import pytest
from conftest import slow_but
from PIL import Image
from test_coco_utils import rewrite
from test_solver import make_solver

from core.checkpoint import load_checkpoint
from core.coco_utils import CAPTIONS_FILE, load_coco_data
from core.runs.building import model_builder
from core.runs.data import load_data
from core.runs.memory import check_memory, memory_of_steps
from core.runs.settings import DEFAULTS
from core.support import memory

SMALL = ("--num_epochs", 1, "--hidden_dim", 8, "--wordvec_dim", 8, "--out", "run")


@pytest.fixture
def train(command, tiny_folder):
    def run(model, *options):
        return command("training.py", "--model", model, "--data", tiny_folder, *SMALL, *options)

    return run


def replace_words(folder, split, share, by=3) -> None:
    """That share of the words of the captions of a split becomes another word."""

    def change(captions):
        places = np.argwhere(captions > 3)
        chosen = places[: round(share * len(places))]
        captions[tuple(chosen.T)] = by
        return captions

    rewrite(folder / CAPTIONS_FILE, f"{split}_captions", change)


def lengthen(folder, split, row, words) -> None:
    """A caption becomes that long."""

    def change(captions):
        wide = np.zeros((len(captions), max(captions.shape[1], words + 2)), captions.dtype)
        wide[:, : captions.shape[1]] = captions
        wide[row] = 0
        wide[row, : words + 2] = [1, *[4] * words, 2]
        return wide

    rewrite(folder / CAPTIONS_FILE, f"{split}_captions", change)


# ---------------------------------------------------------------------------------------------
# Unknown words
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "warns"), [(0, False), (0.15, False), (0.3, True)])
def test_the_share_of_unknown_words_is_said(train, tiny_folder, share, warns):
    replace_words(tiny_folder, "train", share)
    code, out, error = train("rnn")
    assert code == 0
    words = load_coco_data(tiny_folder)["train_captions"]
    words = words[words > 2]
    assert f"vocabulary of 9 words ({(words == 3).mean():.1%} of what the captions say is" in out
    assert ("of the words of the train captions are <UNK>" in error) == warns
    assert error.count("\n") == warns
    assert ("--min_count" in error) == warns


def test_unknown_words_of_validation_are_said(train, tiny_folder):
    """As captions in another language than those of the training have."""
    replace_words(tiny_folder, "val", 1)
    code, _, error = train("lstm")
    assert code == 0
    assert "100% of the words of the val captions are <UNK>" in error


def test_prepared_features_come_once(train, shapes_folder):
    code, _, error = train("rnn", "--data", shapes_folder, "--no_pca")
    assert code == 2
    assert "--no_pca: chooses between two files of the COCO archive" in error


@pytest.mark.parametrize("samples", [(), ("--num_samples", 4)], ids=["all", "samples"])
def test_captions_of_unknown_words_are_refused(train, tiny_folder, tmp_path, samples):
    replace_words(tiny_folder, "train", 1)
    code, _, error = train("rnn", *samples)
    assert code == 2
    assert "tiny: its training captions hold no word but <UNK>" in error
    assert "--min_count" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_samples_of_unknown_words_are_refused(train, tiny_folder):
    """The data have other words, but none that was drawn."""

    def all_but_one(captions):
        captions[:-1][captions[:-1] > 3] = 3
        return captions

    rewrite(tiny_folder / CAPTIONS_FILE, "train_captions", all_but_one)
    code, _, error = train("rnn", "--num_samples", 1, "--seed", 1)
    assert code == 2
    assert "no word but <UNK>" in error


@pytest.fixture
def photos(tmp_path):
    """Six photos with a caption each, of words that hardly repeat."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["image,caption"]
    for i in range(6):
        Image.new("RGB", (70, 70), (40 * i, 0, 0)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,thing{i} on ground{i % 2}")
    (folder / "captions.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_a_photo_folder_takes_a_min_count(photos, command, monkeypatch, tmp_path):
    monkeypatch.setattr("core.encoders.pictures.FOLDER", tmp_path / "kept")
    look = ("--encoder", "squeezenet1_1", "--weights", "random", "--grid", 1)
    train = ("training.py", "--model", "attention", "--data", photos, *look, *SMALL)
    sizes = {}
    for count in (1, 2, 5):
        code, _, error = command(*train, "--min_count", count)
        assert code == 0, error
        sizes[count] = len(load_checkpoint(tmp_path / "run" / "best.npz").idx_to_word)
        assert command("inference.py", "--checkpoint", "run")[0] == 0
    assert sizes == {1: 4 + 8, 2: 4 + 3, 5: 4 + 1}
    code, _, error = command(*train)  # the default, of which it is said how much it leaves
    assert "are <UNK>" in error
    code, _, error = command("training.py", "--resume", "--out", "run", "--min_count", 1)
    assert code == 2
    assert "--min_count: the run in run has None, found 1" in error


def test_prepared_data_have_their_vocabulary(train, refuses, shapes_folder):
    code, _, error = train("rnn", "--min_count", 2)
    assert code == 2
    assert "--min_count: makes the vocabulary of a photo folder" in error
    look = ("--encoder", "tiny_cnn", "--min_count", 2)
    refuses("training.py", "--model", "attention", *look, says=("has its vocabulary already",))


# ---------------------------------------------------------------------------------------------
# Nothing is a mean over nothing
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_solver_refuses_a_split_of_nothing(tiny_folder, split):
    data = load_coco_data(tiny_folder)
    data[f"{split}_captions"] = data[f"{split}_captions"][:0]
    with pytest.raises(ValueError, match=f"{split}_captions: holds none"):
        make_solver(data)


@pytest.mark.parametrize("split", ["train", "val"])
def test_there_is_no_loss_of_nothing(tiny_folder, split):
    """Where captions hold nothing but <NULL>, there is nothing that a mean could be taken of."""
    data = load_coco_data(tiny_folder)
    data[f"{split}_captions"][:] = 0
    with pytest.raises(ValueError, match=f"{split}_captions: hold no word to score"):
        make_solver(data, num_epochs=1).train()


def test_a_photo_folder_without_words_in_a_split(photos, refuses):
    """Photos 0 to 3 are those of the training."""
    for split, numbers in (("train", "0123"), ("dev", "45")):
        text = "".join(f"{i}.png\n" for i in numbers)
        (photos / f"Flickr_8k.{split}Images.txt").write_text(text)
    lines = (photos / "captions.txt").read_text().splitlines()
    lines[-2:] = ["4.png,.", "5.png,!!"]
    (photos / "captions.txt").write_text("\n".join(lines))
    look = ("--encoder", "squeezenet1_1", "--weights", "random", "--min_count", 1)
    options = ("--model", "attention", "--data", photos, *look, *SMALL)
    refuses("training.py", *options, says=("photos", "the split val is empty"))


# ---------------------------------------------------------------------------------------------
# The next command
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "options", "named"),
    [
        (("val", "test"), (), "val"),
        (("test",), (), "test"),
        ((), (), "train"),
        (("val",), ("--num_samples", 3), "train"),
    ],
    ids=str,
)
def test_the_next_command_names_a_split_that_is_there(
    train, command, tiny_folder, there, options, named
):
    info = json.loads((tiny_folder / "dataset.json").read_text())
    files = info["features"]["pooled"]
    files["test"] = files["val"]
    (tiny_folder / "dataset.json").write_text(json.dumps(info))
    urls = (tiny_folder / "val2014_urls.txt").read_text()
    (tiny_folder / "test2014_urls.txt").write_text(urls)
    with h5py.File(tiny_folder / CAPTIONS_FILE, "r+") as file:
        for name in ("captions", "image_idxs"):
            values = file[f"val_{name}"][...]
            del file[f"val_{name}"]
            for split in there:
                file[f"{split}_{name}"] = values
    code, out, error = train("rnn", *options)
    assert code == 0, error
    last = out.splitlines()[-1]
    assert last.endswith(f"--split {named}")
    name, *words = last.removeprefix("next: python ").split()
    assert command(name, *words)[0] == 0


# ---------------------------------------------------------------------------------------------
# Long captions
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_a_text_among_captions_is_left_out_and_counted(train, tiny_folder, tmp_path, model):
    lengthen(tiny_folder, "train", 4, 1200)
    code, out, error = train(model)
    assert code == 0, error
    assert "1 of 24 train captions have more than 100 words, the longest 1,200" in error
    assert "--max_words" in error
    assert "23 captions of tiny" in out
    if model == "transformer":
        checkpoint = load_checkpoint(tmp_path / "run" / "best.npz")
        assert checkpoint.params["W_position"].shape[0] == 102


@pytest.mark.parametrize("engine", ["plain", "numpy", "torch"])
def test_captions_of_validation_may_be_longer_than_those_of_training(train, tiny_folder, engine):
    lengthen(tiny_folder, "val", 2, 70)
    code, _, error = train("transformer", "--engine", engine)
    assert code == 0, error
    assert "words" not in error


def test_samples_are_those_that_were_trained_on_also_where_some_captions_are_too_long(tiny_folder):
    lengthen(tiny_folder, "train", 0, 9)
    settings = {"model": "lstm", "data": str(tiny_folder), "num_samples": 5, "max_words": 8}
    with pytest.warns(UserWarning, match="captions have more than 8 words"):
        learned = load_data(settings)
    captioned = load_data(settings, training=False)
    for name in ("train_captions", "train_image_idxs"):
        np.testing.assert_array_equal(captioned[name], learned[name])


def test_what_is_the_longest_is_for_the_learner_to_say(train, tiny_folder, tmp_path):
    lengthen(tiny_folder, "train", 0, 130)
    for limit in (130, 0):  # 0: any
        code, out, error = train("transformer", "--max_words", limit)
        assert code == 0, error
        assert "left out" not in error
        assert "24 captions of tiny" in out
    code, out, error = train("transformer", "--max_words", 2)
    assert code == 0, error
    assert "train captions have more than 2 words" in error
    assert "val captions have more than 2 words" in error
    code, _, error = train("transformer", "--resume", "--max_words", 3)
    assert code == 2
    assert "--max_words: the run in run has 2, found 3" in error


def test_no_split_is_left_without_captions(train, tiny_folder, tmp_path):
    for row in range(10):
        lengthen(tiny_folder, "val", row, 110)
    code, _, error = train("rnn")
    assert code == 2
    assert "--max_words 100: leaves no caption of val, whose shortest has 110 words" in error
    assert not (tmp_path / "run").exists()


def test_references_are_whole(train, command, tiny_folder, tmp_path):
    """What is left out of a training is not left out of what its captions are compared with."""
    lengthen(tiny_folder, "val", 2, 120)
    assert train("rnn")[0] == 0
    code, _, error = command("inference.py", "--checkpoint", "run", "--out", "c.json")
    assert code == 0, error
    rows = json.loads((tmp_path / "c.json").read_text())
    assert " ".join(["a"] * 120) in rows[1]["references"]


# ---------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------


def a_step(model, engine, T, one_is_long=False, **more):
    """Settings, config and data of a batch of 16 captions of T words."""
    settings = DEFAULTS | {"model": model, "engine": engine, "batch_size": 16}
    config = {"input_dim": 512, "wordvec_dim": 128, "hidden_dim": 256, "dropout": 0.1}
    if model == "attention":
        config["attention_dim"] = 128
    if model == "transformer":
        config |= {"num_heads": 4, "num_layers": 2, "max_length": T}
    config |= more
    rng = np.random.default_rng(0)
    captions = rng.integers(4, 500, (16, T + 1))
    captions[:, 0] = 1
    if one_is_long:
        captions[1:, 12:] = 0
    words = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(496))]
    locations = (20,) if model in ("attention", "transformer") else ()
    features = rng.standard_normal((16, *locations, 512)).astype(np.float32)
    data = {
        "train_captions": captions,
        "train_features": features,
        "idx_to_word": words,
        "word_to_idx": {word: i for i, word in enumerate(words)},
        "source": {"folder": "folder"},
    }
    build = model_builder(engine)
    return settings, config, data, build(model, config, words, rng=rng)


@pytest.mark.parametrize("engine", ["plain", "numpy"])
@pytest.mark.parametrize(
    "model", slow_but(["rnn", "lstm", "attention", "transformer"], "rnn", "attention")
)
@pytest.mark.parametrize("one_is_long", [False, True])
def test_memory_is_foreseen_within_a_factor_of_two(model, engine, one_is_long):
    step = a_step(model, engine, 60 if model == "attention" else 150, one_is_long)
    data, model = step[2:]
    tracemalloc.start()
    model.loss(data["train_features"], data["train_captions"])
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    need, _ = memory_of_steps(*step[:3])["train"]
    # Not in this measurement: the parameters themselves, and what Adam remembers.
    before = 3 * sum(each.nbytes for each in model.params.values())
    assert 0.5 < (need - before) / taken < 2


def test_memory_grows_with_the_square_of_the_words_of_a_transformer():
    need = {
        T: memory_of_steps(*a_step("transformer", "numpy", T)[:3])["train"][0] for T in (2000, 4000)
    }
    assert 3 < need[4000] / need[2000] < 4


def test_a_step_that_cannot_fit_is_refused_before_it_begins(train, tiny_folder, tmp_path):
    lengthen(tiny_folder, "train", 1, 20_000)  # 20,000 x 20,000 weights, of heads, layers, rows
    code, _, error = train("transformer", "--max_words", 0)
    assert code == 2
    assert error.count("\n") == 1
    for words in ("tiny: a batch of train captions of up to 20,000 words", "GB", "--max_words N"):
        assert words in error
    assert "--batch_size" in error
    assert not (tmp_path / "run").exists()


def test_validation_counts_as_well(monkeypatch):
    step = a_step("transformer", "numpy", 30)
    data = step[2]
    data["val_captions"] = np.ones((300, 4000), int)
    monkeypatch.setattr("core.runs.memory.available_memory", lambda: 10**9)
    with pytest.raises(ValueError, match="a batch of val captions of up to"):
        check_memory(*step[:3], None, "cpu")


def test_where_nothing_is_known_of_memory_a_run_begins(monkeypatch):
    monkeypatch.setattr("core.runs.memory.available_memory", lambda: None)
    check_memory(*a_step("lstm", "numpy", 10)[:3], None, "cpu")


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, version):
    """Of the group itself, or of one above it; what only keeps copies of files is to be had."""
    base = tmp_path / "memory" if version == 1 else tmp_path
    names = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    total = "total_" if version == 1 else ""
    for group, limit in ((base, 10**12), (base / "outer", 900), (base / "outer" / "inner", None)):
        group.mkdir(parents=True, exist_ok=True)
        (group / f"memory.{names[0]}").write_text(str(limit) if limit else "max\n")
        (group / f"memory.{names[1]}").write_text("500\n")
        stat = f"{total}inactive_file 60\n{total}active_file 40\nanon 7\n"
        (group / "memory.stat").write_text(stat)
    (tmp_path / "group").write_text(f"{'7:memory' if version == 1 else '0:'}:/outer/inner\n")
    monkeypatch.setattr(memory, "_GROUPS", (tmp_path / "group", tmp_path))
    assert memory.available_memory() == 500


def test_what_there_is_on_this_machine():
    left = memory.available_memory()
    assert left is None or left > 2**20
