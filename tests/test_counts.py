"""Every number that a command prints says of how many images or captions it is."""

from __future__ import annotations

import pytest
from conftest import in_folder

from core.coco_utils import load_coco_data
from core.recipes.validation import CaptionScores

SMALL = ("--model", "attention", "--hidden_dim", 8, "--wordvec_dim", 8, "--num_epochs", 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shapes_folder):
    """'overfit' on 25 captions of the embedded data; not to be changed."""
    folder = tmp_path_factory.mktemp("counted")
    with in_folder(folder) as command:
        command("training.py", *SMALL, "--num_samples", 25, "--out", "overfit")
    return folder


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--split", "val"), "of 10 (0%), the first 10 of the 300 images of val"),
        (("--split", "val", "--num_samples", 7), "of 7 (0%), the first 7 of the 300 images of val"),
        (("--split", "val", "--out", "c.json"), "of 300 (0%), the 300 images of val"),
        (("--split", "test", "--num_samples", 1), "of 1 (0%), the first of the 300 images of test"),
    ],
)
def test_what_was_not_trained_on_is_not_said_back(command, runs, options, expected):
    decode = "--decode", "greedy", "--max_length", 3  # no caption of the data has three words
    code, out, error = command("inference.py", "--checkpoint", runs / "overfit", *decode, *options)
    assert code == 0, error
    assert f"in the very words of a reference: 0 {expected}" in out.splitlines()
    assert "said back" not in out


def test_what_was_trained_on_is(command, runs):
    options = "--checkpoint", runs / "overfit", "--decode", "greedy", "--max_length", 3
    of = "images of train that were trained on"
    code, out, error = command("inference.py", *options)
    assert code == 0, error
    assert f"said back word for word: 0 of 25 (0%), the 25 {of}" in out
    code, out, error = command("inference.py", *options, "--num_samples", 2)
    assert code == 0, error
    assert f"said back word for word: 0 of 2 (0%), the first 2 of the 25 {of}" in out


def test_a_figure_says_which_images_it_shows(command, runs):
    options = "--checkpoint", runs / "overfit", "--decode", "greedy", "--max_length", 3
    files = "--figure", "f.png", "--attention", "a.png"
    code, out, error = command("inference.py", *options, *files)
    assert code == 0, error
    assert "picture: f.png, the first 20 of 25 images" in out.splitlines()
    assert "attention: a.png, the first 5 of 25 images" in out.splitlines()
    code, out, error = command("inference.py", *options, *files, "--num_samples", 2)
    assert code == 0, error
    assert {"picture: f.png", "attention: a.png"} <= set(out.splitlines())


def test_a_training_says_of_how_many_captions_a_loss_is(command, shapes_folder, tiny_folder):
    code, out, error = command("training.py", *SMALL, "--num_samples", 25)
    assert code == 0, error
    total = len(load_coco_data(shapes_folder)["val_captions"])
    assert f" on 25 of {total:,} captions, " in out
    small = "--model", "rnn", "--hidden_dim", 8, "--wordvec_dim", 8, "--num_epochs", 1
    code, out, error = command(
        "training.py", *small, "--data", tiny_folder, "--select", "cider", "--out", "run"
    )
    assert code == 0, error
    assert " captions, " not in out.splitlines()[1], "all of them"
    assert " on the 5 images of val" in out


def test_scores_while_training_say_of_which_images_they_are(tiny_folder):
    data = load_coco_data(tiny_folder)
    assert CaptionScores(data).scored == "the 5 images of val"
    assert CaptionScores(data, most=2).scored == "2 of the 5 images of val"
    assert CaptionScores(data, split="train", most=12).scored == "the 12 images of train"
