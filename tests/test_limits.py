"""How long captions may be: as long as those that were learned; what is cut is counted and said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import WORDS, in_folder, make_tiny_folder

from core import decoding
from core.checkpoint import load_checkpoint, save_checkpoint
from core.coco_utils import caption_limit, encode_captions, load_coco_data
from core.models import build_model
from core.recipes.self_critical import SelfCritical
from core.recipes.validation import CaptionScores

NULL, START, END = 0, 1, 2
SMALL = ("--hidden_dim", 8, "--wordvec_dim", 8, "--num_epochs", 1)


def data_of_length(folder, words: int, padding: int = 0) -> dict:
    """Data whose longest training caption has so many words, and all others two."""
    data = load_coco_data(folder)
    texts = [["a", "cat"]] * (len(data["train_captions"]) - 1)
    texts.append((["a", "cat", "sits"] * words)[:words])
    length = words + 2 + padding
    data["train_captions"] = encode_captions(texts, data["word_to_idx"], length)
    return data


@pytest.mark.parametrize(
    ("words", "padding", "limit"),
    [(42, 0, 43), (42, 100, 43), (29, 0, 30), (30, 0, 31), (3, 200, 30), (300, 1, 301)],
)
def test_the_limit_is_the_longest_training_caption(tiny_folder, words, padding, limit):
    data = data_of_length(tiny_folder, words, padding)
    assert caption_limit(data) == limit
    # The same while training: to score captions, and to draw those that are rewarded.
    assert CaptionScores(data).how["max_length"] == limit
    assert SelfCritical(data).max_length == limit


class Talker:
    """Says a given number of words of every image, then <END>."""

    null, start, end, unknown, max_length = NULL, START, END, 3, None

    def __init__(self, words: int):
        self.words = words

    def begin(self, features):
        return np.zeros(len(features), int)

    def step(self, state, tokens):
        log_probs = np.full((len(state), len(WORDS)), -50.0)
        next_word = np.where(state < self.words, 4 + state % 3, END)
        log_probs[np.arange(len(state)), next_word] = -0.1
        return log_probs, state + 1

    def select(self, state, rows):
        return state[rows]


@pytest.mark.parametrize("words", [31, 42, 64])
def test_who_says_long_references_scores_best(tiny_folder, words):
    """--select cider does not choose the epoch by captions that are cut."""
    data = data_of_length(tiny_folder, words)
    said = [WORDS[4 + t % 3] for t in range(words)]
    data["val_captions"] = encode_captions([said] * 10, data["word_to_idx"], words + 2)
    assert CaptionScores(data)(Talker(words))["BLEU-4"] == pytest.approx(100, rel=1e-6)


def test_a_default_of_the_functions_stays():
    features = np.zeros((2, 6), np.float32)
    assert decoding.greedy(Talker(99), features).shape == (2, 30)
    config = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 7}
    assert build_model("lstm", config, WORDS).sample(features).shape == (2, 30)


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_runs(tmp_path_factory):
    """Runs on captions of up to 40 words; not to be changed."""
    folder = tmp_path_factory.mktemp("long")
    make_tiny_folder(folder / "tiny", longest=40)
    with in_folder(folder) as command:
        for model in ("lstm", "transformer"):
            command("training.py", "--model", model, *SMALL, "--data", "tiny", "--out", model)
    assert caption_limit(load_coco_data(folder / "tiny")) == 41, "40 words and <END>"
    return folder


def never_ends(run, target, ends: bool = False, **changes):
    """A copy of a checkpoint whose model never says <END>, or says nothing else."""
    checkpoint = load_checkpoint(run / "best.npz")
    params = dict(checkpoint.params)
    params["b_vocab"] = params["b_vocab"].copy()
    params["b_vocab"][END] = 1e4 if ends else -1e4
    save_checkpoint(target, replace(checkpoint, params=params, **changes))
    return target


@pytest.mark.parametrize("decode", ["greedy", "beam", "sample"])
def test_what_is_cut_is_counted_and_said(command, long_runs, tmp_path, decode):
    best = never_ends(long_runs / "lstm", tmp_path / "lstm.npz")
    options = "--checkpoint", best, "--split", "val", "--decode", decode
    code, out, error = command("inference.py", *options, "--report", "r.html")
    assert code == 0, error
    said = "5 of 5 captions were cut at 41 words; --max_length gives them more"
    assert said in out.splitlines()
    assert said in (tmp_path / "r.html").read_text("utf-8")
    code, out, error = command("inference.py", *options, "--max_length", 7, "--num_samples", 1)
    assert code == 0, error
    assert "1 of 1 caption was cut at 7 words; --max_length gives them more" in out


def test_nothing_is_said_where_nothing_is_cut(command, long_runs, tmp_path):
    best = never_ends(long_runs / "lstm", tmp_path / "lstm.npz", ends=True)
    code, out, error = command("inference.py", "--checkpoint", best, "--report", "r.html")
    assert code == 0, error
    assert "cut" not in out
    assert "cut at" not in (tmp_path / "r.html").read_text("utf-8")


def test_a_model_with_too_few_positions(command, long_runs, tmp_path):
    best = never_ends(long_runs / "transformer", tmp_path / "transformer.npz")
    code, out, error = command("inference.py", "--checkpoint", best, "--max_length", 99)
    assert code == 0, error
    assert "5 of 5 captions were cut at 50 words; the model has no positions for more" in out


def test_a_checkpoint_that_does_not_know_has_the_old_limit(command, long_runs, tmp_path):
    best = never_ends(long_runs / "lstm", tmp_path / "old.npz", training={"epoch": 1})
    code, out, error = command("inference.py", "--checkpoint", best)
    assert code == 0, error
    assert "5 of 5 captions were cut at 30 words" in out
    # an ensemble has the limit of the one that knows the longest
    other = never_ends(long_runs / "lstm", tmp_path / "lstm.npz")
    code, out, error = command("inference.py", "--checkpoint", best, "--ensemble", other)
    assert code == 0, error
    assert "5 of 5 captions were cut at 41 words" in out
