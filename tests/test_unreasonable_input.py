"""What nobody should give, and somebody does: each gets one sentence that says what to mend."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS

from core.captioning_solver import CaptioningSolver
from core.coco_utils import decode_captions, load_coco_data, sample_coco_minibatch
from core.gradient_check import apart
from core.rnn_layers import temporal_softmax_loss
from core.support.command_line import run_command

TRAIN = ("training.py", "--model", "rnn", "--num_epochs", 1, "--data")


@pytest.mark.parametrize("name", ["~", "~/runs/rnn", "~\\runs"])
@pytest.mark.parametrize("together", [True, False])
def test_a_home_that_no_shell_filled_in_becomes_no_folder(refuses, tmp_path, name, together):
    out = [f"--out={name}"] if together else ["--out", name]
    refuses(*TRAIN, "data", *out, says=(f"found {name}", "give the whole name"))
    assert not any(tmp_path.iterdir())


def test_an_error_of_the_system_names_the_file_and_what_to_look_at(capsys, tmp_path):
    absent = tmp_path / "absent"
    with pytest.raises(SystemExit) as stop:
        run_command(absent.read_text)
    assert stop.value.code == 2
    _, _, error = capsys.readouterr().err.partition("error: ")
    assert error.startswith(f"{absent}: ")
    assert error.endswith("; check the name, and what you may do there\n")


@pytest.mark.skipif(sys.platform == "win32", reason="links take rights of their own there")
def test_a_link_to_itself_is_no_run_folder(refuses, tiny_folder):
    os.symlink("loop", "loop")
    refuses(*TRAIN, tiny_folder, "--out", "loop", says=("loop: ", "check the name"))


@pytest.mark.parametrize(("name", "words"), [("", "no such file"), ("bytes.py", "null bytes")])
def test_what_is_no_file_of_functions_is_not_taken_for_ours(refuses, monkeypatch, name, words):
    def messages(path, seed, names, streams):  # here, where another process takes seconds to start
        sent = []
        apart.serve(path, seed, names, sent.append)
        return iter(sent)

    monkeypatch.setattr(apart, "messages_of", messages)
    Path("bytes.py").write_bytes(b"x = 1\n\0")
    error = refuses("core.gradient_check", "--layer", "affine", f"--impl={name}", says=(words,))
    assert "None" not in error


def test_the_current_folder_is_no_new_data_folder(refuses, tmp_path):
    Path("photos").mkdir()
    options = ("--root", "photos", "--out", ".")
    error = refuses("core.flickr8k", *options, says=(f"{tmp_path}: ",))
    assert "empty name" not in error


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([4.0, 5.0]), "found float64"),
        ([4, 99], "word id 99"),
        ([4, -1], "word id -1"),  # which would be the last word
    ],
)
def test_ids_of_no_words_are_not_decoded(ids, words):
    with pytest.raises(ValueError, match=words):
        decode_captions(ids, WORDS)
    assert decode_captions([], WORDS) == ""


def test_a_split_that_is_not_there_is_named(tiny_folder):
    with pytest.raises(ValueError, match="'test', expected train or val"):
        sample_coco_minibatch(load_coco_data(tiny_folder), split="test")


@pytest.mark.parametrize(
    "mask",
    [
        np.where(np.tri(2, 3), 0, -np.inf),
        np.full((2, 3), np.nan),
        np.ones((2, 3, 1)),
        np.ones(3),
        np.ones((3, 2)),
        None,
        np.full((2, 3), "1"),
    ],
    ids=["of 0 and -inf", "nan", "3 axes", "1 axis", "transposed", "none", "text"],
)
def test_a_mask_of_the_loss_that_does_not_fit_is_refused(mask):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"^mask: found .* of shape \(2, 3\)"):
        temporal_softmax_loss(rng.standard_normal((2, 3, 4)), rng.integers(0, 4, (2, 3)), mask)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned no loss, grads"),
        ((0.0, None), "returned no loss, grads"),  # as the course's file begins
        (0.0, "returned no loss, grads"),
        (({"W": np.zeros((6, 9))}, 0.0), "returned no loss, grads"),
        ((0.0, {}), "gradient of W: found none"),
        ((0.0, {"W": None}), r"gradient of W: found \(\), expected shape \(6, 9\)"),
        ((0.0, {"W": np.zeros((9, 6))}), r"gradient of W: found \(9, 6\)"),
        ((0.0, {"W": np.zeros(9)}), r"gradient of W: found \(9,\)"),  # which would be spread
    ],
)
def test_a_student_s_model_that_is_not_finished_is_told_what_it_lacks(tiny_folder, returned, words):
    class Model:
        params = {"W": np.ones((6, 9))}

        def loss(self, features, captions):
            return returned

    with pytest.raises(ValueError, match=words):
        CaptioningSolver(Model(), load_coco_data(tiny_folder), verbose=False).train()
