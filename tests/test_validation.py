"""The best epoch by captions; several models as one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import WORDS, make_tiny_folder

from core import decoding, metrics
from core.coco_utils import decode_captions, load_coco_data
from core.metrics.caption_files import reference_captions
from core.models import build_model
from core.recipes.ensemble import Ensemble, FeaturesOfEach
from core.recipes.validation import CaptionScores

CONFIG = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 7}


@pytest.fixture
def data(tiny_folder):
    return load_coco_data(tiny_folder)


def model(seed=0):
    return build_model("lstm", CONFIG, WORDS, rng=np.random.default_rng(seed))


class Parrot:
    """Says for every image the first of its references."""

    null, start, end, unknown, max_length = 0, 1, 2, 3, None

    def __init__(self, data):
        self.said = {}
        for caption, image in zip(data["val_captions"], data["val_image_idxs"], strict=True):
            self.said.setdefault(data["val_features"][image].tobytes(), caption)

    def begin(self, features):
        return np.stack([self.said[row.tobytes()] for row in np.asarray(features)]), 0

    def step(self, state, tokens):
        captions, t = state
        log_probs = np.full((len(captions), len(WORDS)), -50.0)
        log_probs[np.arange(len(captions)), captions[:, t + 1]] = -0.1
        return log_probs, (captions, t + 1)

    def select(self, state, rows):
        return state[0][rows], state[1]


def test_one_image_is_too_few_to_choose_by(data):
    of_one = {name: data[name][:2] for name in ("val_captions", "val_image_idxs")}
    with pytest.raises(ValueError, match="found 1 image in val, expected at least 2"):
        CaptionScores(data | of_one)


def test_who_says_the_references_scores_best(data):
    scores = CaptionScores(data)
    assert scores(Parrot(data)) == {
        "BLEU-4": pytest.approx(100, rel=1e-6),
        "CIDEr-D": pytest.approx(scores(Parrot(data))["CIDEr-D"]),
    }
    assert scores(model())["BLEU-4"] < 90


def test_they_are_the_scores_of_beam_search(data):
    captioner = model()
    ids, _ = decoding.beam_search(captioner, data["val_features"], beam_size=3)
    said = dict(enumerate(decode_captions(ids[:, 0], WORDS)))
    references, _ = reference_captions(data, "val")
    expected = metrics.score(said, references)
    assert CaptionScores(data)(captioner) == {k: expected[k] for k in ("BLEU-4", "CIDEr-D")}
    assert len(CaptionScores(data, most=3).images) == 3


def test_rare_words_match_nothing(data):
    data["val_captions"] = np.where(data["val_captions"] == 4, 3, data["val_captions"])
    texts, rare = reference_captions(data, "val")
    assert rare == np.count_nonzero(data["val_captions"] == 3)
    words = [word for of in texts.values() for text in of for word in text.split()]
    assert len({word for word in words if word.startswith("<rare")}) == rare


@pytest.mark.parametrize(("select", "name"), [("bleu4", "BLEU-4"), ("cider", "CIDEr-D")])
def test_the_best_epoch_is_chosen_by_it(command, tiny_folder, tmp_path, select, name):
    code, text, error = command(
        *("training.py", "--model", "lstm", "--data", tiny_folder, "--out", tmp_path / "run"),
        *("--num_epochs", 4, "--select", select),
    )
    assert code == 0, error
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    best = 1 + int(np.argmax([row[name] for row in rows]))
    assert f"best epoch {best} by {name}: {rows[best - 1][name]:.4f};" in text
    assert text.count(f"{name} ") >= 4, "not in the progress lines"


def test_overfitting_has_no_captions_to_score(refuses, tiny_folder):
    base = ("training.py", "--model", "lstm", "--data", tiny_folder)
    refuses(*base, "--num_samples", 3, "--select", "cider", says=("--select cider", "leave it out"))


# ---------------------------------------------------------------------------------------------
# Ensembles
# ---------------------------------------------------------------------------------------------


def test_an_ensemble_averages_probabilities(data):
    models = [model(seed) for seed in range(3)]
    together = Ensemble(models)
    features, tokens = data["val_features"], np.array([1, 4, 5, 6, 7])
    features = [features, features[::-1].copy(), features]  # each reads its own
    log_probs, states = together.step(together.begin(FeaturesOfEach(features)), tokens)
    pairs = zip(models, features, strict=True)
    each = [m.step(m.begin(x), tokens)[0] for m, x in pairs]
    np.testing.assert_allclose(np.exp(log_probs), np.mean(np.exp(each), axis=0), rtol=1e-5)
    rows = np.array([3, 3, 0])
    selected, _ = together.step(together.select(states, rows), tokens[rows])
    again, _ = together.step(states, tokens)
    np.testing.assert_allclose(selected, again[rows], rtol=1e-5)


def test_an_ensemble_of_one_model_is_that_model(data):
    features = data["val_features"]
    for models in ([model()], [model(), model()]):
        together = FeaturesOfEach([features] * len(models))
        np.testing.assert_array_equal(
            decoding.beam_search(Ensemble(models), together, max_length=6)[0],
            decoding.beam_search(model(), features, max_length=6)[0],
        )


def test_models_of_other_words_are_no_ensemble():
    other = build_model("lstm", CONFIG, ["<NULL>", "<END>", "<START>", "<UNK>", "a"])
    with pytest.raises(ValueError, match="disagree on start"):
        Ensemble([model(), other])


def test_captions_of_an_ensemble(command, refuses, tiny_folder, tmp_path):
    base = ("training.py", "--data", tiny_folder, "--num_epochs", 1)
    for name, options in (("a", ("--model", "lstm")), ("b", ("--model", "rnn", "--seed", 1))):
        code, _, error = command(*base, *options, "--out", tmp_path / name)
        assert code == 0, error
    said = []
    for runs in (("a", "b"), ("b", "a"), ("a", "a"), ("a",)):
        first, *more = (str(tmp_path / run) for run in runs)
        more = ("--ensemble", *more) if more else ()
        out = tmp_path / "captions.json"
        code, _, error = command("inference.py", "--checkpoint", first, *more, "--out", out)
        assert code == 0, error
        said.append([row["caption"] for row in json.loads(out.read_text())])
    assert said[0] == said[1], "the order counts"
    assert said[2] == said[3], "a model with itself is itself"
    other = make_tiny_folder(tmp_path / "other", [*WORDS, "new"])
    code, _, error = command(
        *("training.py", "--data", other, "--model", "lstm", "--num_epochs", 1),
        *("--out", tmp_path / "c"),
    )
    assert code == 0, error
    inference = ("inference.py", "--checkpoint", tmp_path / "a", "--ensemble")
    refuses(*inference, tmp_path / "c", says=("--ensemble", "vocabulary"))
    refuses(*inference, tmp_path / "nowhere", says=("nowhere",))
