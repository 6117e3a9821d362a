"""Self-critical training: who is rewarded, by how much, and that it works."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import WORDS, slow_but

from core import decoding
from core.coco_utils import decode_captions, load_coco_data
from core.metrics import CIDErD, SentenceBLEU
from core.models import build_model
from core.recipes.self_critical import SelfCritical
from core.support.choices import ENGINES
from core.torch_models import build_torch_model
from core.torch_models.convert import to_numpy

CONFIG = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 7, "dtype": "float64"}


@pytest.fixture
def data(tiny_folder):
    return load_coco_data(tiny_folder)


@pytest.mark.parametrize("bleu_reward", [0.0, 0.5])
def test_a_weight_is_what_a_caption_scores_above_the_usual_one(data, bleu_reward):
    model = build_model("lstm", CONFIG, WORDS, rng=np.random.default_rng(0))
    objective = SelfCritical(data, samples=1, bleu_reward=bleu_reward)
    batches = list(objective.batches(model, 5, np.random.default_rng(1)))
    assert [len(captions) for captions, _, _ in batches] == [5, 5, 2]
    texts = decode_captions(data["train_captions"], WORDS)
    references = {}
    for image, text in zip(data["train_image_idxs"].tolist(), texts, strict=True):
        references.setdefault(image, []).append(text.split())
    cider, bleu = CIDErD(references), SentenceBLEU(references)

    def reward(image, text):
        words = text.split()
        return cider.score(image, words) + bleu_reward * bleu.score(image, words)

    seen, usual, named = [], [], []
    for captions, features, weights in batches:
        assert (captions[:, 0] == model.start).all()
        assert (captions != model.null).any(axis=0).all(), "columns of nothing"
        greedy = decode_captions(decoding.greedy(model, features, objective.max_length), WORDS)
        for n, said in enumerate(decode_captions(captions, WORDS)):
            (image,) = np.flatnonzero((data["train_features"] == features[n]).all(axis=1))
            seen.append(image)
            usual.append(reward(image, greedy[n]))
            named.append(cider.score(image, greedy[n].split()))
            expected = (reward(image, said) - usual[-1]) / 100
            assert weights[n] == pytest.approx(expected, abs=1e-9)
    assert sorted(seen) == list(range(12)), "every image once"
    assert objective.figures() == {
        "reward": pytest.approx(np.mean(usual)),
        "train_CIDEr-D": pytest.approx(np.mean(named)),
    }
    assert any((weights > 0).any() for _, _, weights in batches)
    assert any((weights < 0).any() for _, _, weights in batches)


@pytest.mark.parametrize("samples", [2, 3])
def test_samples_are_held_against_each_other(data, samples):
    model = build_model("lstm", CONFIG, WORDS, rng=np.random.default_rng(0))
    objective = SelfCritical(data, samples, bleu_reward=1.0)
    batches = list(objective.batches(model, 7, np.random.default_rng(1)))
    assert len(batches) == objective.steps(7) == -(-12 // (7 // samples))
    for captions, features, weights in batches:
        images = [np.flatnonzero((data["train_features"] == f).all(axis=1))[0] for f in features]
        scores = objective._scores(np.array(images), captions).sum(axis=1)
        for start in range(0, len(images), samples):
            rows = slice(start, start + samples)
            assert len(set(images[rows])) == 1
            assert weights[rows].sum() == pytest.approx(0, abs=1e-9), "as often above 0 as below"
            others = scores[rows][1:].mean()
            assert weights[start] == pytest.approx((scores[start] - others) / 100, abs=1e-9)
    assert sum(len(weights) for _, _, weights in batches) == 12 * samples


@pytest.mark.parametrize("engine", slow_but(ENGINES, "numpy"))
def test_captions_get_better_by_it(command, tiny_folder, tmp_path, engine):
    """After a little cross-entropy, the reward of the greedy captions rises, and not by learning
    from the captions themselves; all engines take the same way."""
    base = ("training.py", "--model", "lstm", "--data", tiny_folder, "--dropout", 0)
    base += ("--batch_size", 6, "--dtype", "float64", "--hidden_dim", 16, "--wordvec_dim", 8)
    code, _, error = command(*base, "--num_epochs", 12, "--out", tmp_path / "first")
    assert code == 0, error
    code, out, error = command(
        *base, "--objective", "scst", "--init", tmp_path / "first", "--num_epochs", 20,
        "--learning_rate", 5e-3, "--lr_decay", 1, "--out", tmp_path / "run", "--engine", engine,
        "--select", "cider", "--samples", 4, "--bleu_reward", 0.5,
    )  # fmt: skip
    assert code == 0, error
    rows = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["train_perplexity"] for row in rows} == {None}, "of a loss that is weighted"
    assert out.count("nats per token (weighted by the reward), val ") == 20
    assert all(row["reward"] > row["train_CIDEr-D"] for row in rows), "BLEU-4 comes to it"
    rewards = [row["reward"] for row in rows]
    assert np.mean(rewards[-5:]) > 1.3 * np.mean(rewards[:3])


@pytest.mark.parametrize("top_k", [1, 3, 20])
@pytest.mark.parametrize("name", ["rnn", "lstm", "attention", "transformer"])
def test_the_loss_is_of_the_words_that_were_drawn_from(name, top_k):
    """Against log-probabilities that are renormalised word by word, in both engines; gradients
    against each other, and none for words that were not among the best."""
    config = {**CONFIG, "wordvec_dim": 4} | ({"num_heads": 2} if name == "transformer" else {})
    model = build_model(name, config, WORDS, rng=np.random.default_rng(0))
    twin = build_torch_model(name, config, WORDS, model.params).eval()
    rng = np.random.default_rng(1)
    features = rng.standard_normal((6, 3, 6) if model.grid else (6, 6))
    drawn = decoding.sample(model, features, rng, 7, top_k=top_k)
    captions = np.insert(drawn, 0, model.start, axis=1)
    weights = rng.standard_normal(6)
    state, expected = model.begin(features), np.zeros(6)
    for words, targets in zip(captions.T[:-1], captions.T[1:], strict=True):
        log_p, state = model.step(state, words)
        log_p[:, [model.null, model.start, model.unknown]] = -np.inf
        best = np.sort(log_p)[:, -top_k:]
        found = log_p[np.arange(6), targets] - np.log(np.exp(best).sum(axis=1))
        expected += np.where(targets == model.null, 0, found)
    losses = []
    for k in (top_k, None):
        model.top_k = twin.top_k = k
        loss, grads = model.loss(features, captions, weights)
        of_twin = twin._loss(features, captions, True, weights)[0]
        losses.append(loss)
        assert of_twin.item() == pytest.approx(loss, rel=1e-10, abs=1e-12)
        twin.zero_grad()
        of_twin.backward()
        parameters = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
        for key, grad in to_numpy(twin, parameters).items():
            np.testing.assert_allclose(grads[key], grad, rtol=1e-9, atol=1e-12, err_msg=key)
    assert losses[0] == pytest.approx(-(weights * expected).sum() / 6, rel=1e-10, abs=1e-12)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_refusals(refuses, tiny_folder):
    base = ("training.py", "--model", "lstm", "--data", tiny_folder, "--objective", "scst")
    refuses(*base, says=("--objective scst", "--init"))
    smoothed = ("--init", "x", "--label_smoothing", 0.1)
    refuses(*base, *smoothed, says=("--label_smoothing", "scst"))
    refuses(*base, "--init", "x", "--bucketed", says=("--bucketed", "scst"))
    refuses(*base, "--init", "x", "--workers", 2, says=("--workers", "scst"))
    refuses(*base[:-2], "--samples", 3, says=("--samples", "scst"))
    refuses(*base[:-2], "--bleu_reward", 1, says=("--bleu_reward", "scst"))
    refuses(*base, "--init", "x", "--bleu_reward", -1, says=("--bleu_reward", "-1"))
    refuses(*base, "--init", "x", "--num_samples", 3, says=("--objective scst", "--num_samples"))
