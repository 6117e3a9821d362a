"""The solver: validation, best epoch, patience, schedule, clipping; resuming bit for bit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, WORDS

from core.captioning_solver import (
    BestEpoch,
    CaptioningSolver,
    NumpyEngine,
    Schedule,
    ShuffledCaptions,
)
from core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.coco_utils import load_coco_data
from core.fast import FastEngine
from core.models import CaptioningAttention, CaptioningRNN, build_model
from core.runs.saving import Saving, restore
from core.support.choices import UPDATE_RULES
from core.torch_models import TorchEngine, build_torch_model


def make_solver(data, **options):
    model = CaptioningRNN(data["word_to_idx"], 6, 5, 7, "lstm", rng=np.random.default_rng(0))
    return CaptioningSolver(model, data, verbose=False, batch_size=5, **options)


@pytest.fixture
def data(tiny_folder):
    return load_coco_data(tiny_folder)


def test_losses_are_nats_a_token(data):
    """With all parameters 0 every word costs log V, whatever the lengths and batches are."""
    solver = make_solver(data, num_epochs=1)
    for parameter in solver.model.params.values():
        parameter[:] = 0
    assert solver.evaluate("val") == pytest.approx(np.log(9), rel=1e-6)
    assert solver.evaluate("train") == pytest.approx(np.log(9), rel=1e-6)


def test_history_and_loss_history(data):
    solver = make_solver(data, num_epochs=3, optim_config={"learning_rate": 1e-2}, lr_decay=0.5)
    history = solver.train()
    assert len(solver.loss_history) == 3 * 5
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["learning_rate"] for row in history] == pytest.approx([1e-2, 5e-3, 2.5e-3])
    for row in history:
        assert row["val_perplexity"] == pytest.approx(np.exp(row["val_loss"]))
        assert row["tokens_per_second"] > 0
    assert history[-1]["train_loss"] < history[0]["train_loss"]


@pytest.mark.parametrize(
    ("name", "extra", "says"),
    [
        ("attention", {}, ""),
        ("attention", {"double_stochastic": 1.0}, "with its penalty"),
        ("lstm", {"label_smoothing": 0.1}, "with smoothed labels"),
    ],
)
def test_only_a_cross_entropy_has_a_perplexity(data, capsys, name, extra, says):
    rng = np.random.default_rng(0)
    if name == "attention":
        data = data | {
            f"{s}_features": data[f"{s}_features"][:, None].repeat(2, 1) for s in ("train", "val")
        }
        model = CaptioningAttention(data["word_to_idx"], 6, 5, 7, 4, rng=rng)
    else:
        model = CaptioningRNN(data["word_to_idx"], 6, 5, 7, name, rng=rng)
    for option, value in extra.items():
        setattr(model, option, value)
    (row,) = CaptioningSolver(model, data, num_epochs=1).train()
    assert (row["train_perplexity"] is None) == bool(says)
    assert row["val_perplexity"] == pytest.approx(np.exp(row["val_loss"]))
    assert f"nats per token ({says or 'perplexity'}" in capsys.readouterr().out


def test_default_learning_rate_is_that_of_the_rule(data):
    assert make_solver(data, num_epochs=1).train()[0]["learning_rate"] == 1e-3


def test_the_best_epoch_by_a_score_on_captions(data):
    """A score is higher for better, goes into the rows, and counts for patience."""
    values = iter([10.0, 30.0, 20.0, 15.0, 12.0])
    seen = []

    def scores(model):
        seen.append(model)
        return {"BLEU-4": next(values), "words": 3.0}

    solver = make_solver(data, num_epochs=9, best=BestEpoch("BLEU-4", scores, patience=3))
    history = solver.train()
    assert [row["BLEU-4"] for row in history] == [10, 30, 20, 15, 12]
    assert [row["words"] for row in history] == [3] * 5
    assert solver.best_epoch == 2
    assert seen == [solver.model] * 5


def test_without_scores_the_validation_loss_decides(data):
    solver = make_solver(data, num_epochs=1)
    assert solver.best.select == "val_loss"
    assert "BLEU-4" not in solver.train()[0]


def test_a_score_that_is_not_among_them(data):
    best = BestEpoch("CIDEr-D", scores=lambda model: {"BLEU-4": 1.0})
    solver = make_solver(data, num_epochs=2, best=best)
    with pytest.raises(ValueError, match=r"'CIDEr-D', expected one of val_loss.*BLEU-4"):
        solver.train()


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_ahead_changes_nothing(data, workers):
    sources = (ShuffledCaptions(data, workers=n) for n in (0, workers))
    alone, ahead = (make_solver(data, num_epochs=3, source=source) for source in sources)
    alone.train()
    ahead.train()
    assert ahead.loss_history == alone.loss_history


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lr_decay": 0.5}, [1.0] * 5 + [0.5] * 5),
        ({"schedule": Schedule("decay", 0.5, 4)}, [0.25, 0.5, 0.75, 1.0, 1.0] + [0.5] * 5),
        ({"schedule": Schedule("cosine")}, [(1 + np.cos(np.pi * i / 10)) / 2 for i in range(10)]),
        (
            {"schedule": Schedule("cosine", warmup=2)},
            [0.5, *((1 + np.cos(np.pi * i / 10)) / 2 for i in range(1, 10))],
        ),
    ],
    ids=["decay", "warmup", "cosine", "both"],
)
def test_schedules(data, options, expected):
    """Of each of the ten steps of two epochs."""
    solver = make_solver(data, num_epochs=2, optim_config={"learning_rate": 0.01}, **options)
    rates, compute = [], solver.engine.compute

    def noted(*batch):
        rates.append(solver.engine.learning_rate)
        return compute(*batch)

    solver.engine.compute = noted
    solver.train()
    np.testing.assert_allclose(rates, 0.01 * np.array(expected))


@pytest.mark.parametrize("name", ["label_smoothing", "feature_dropout"])
@pytest.mark.parametrize("build", [build_model, build_torch_model])
def test_these_are_of_the_training_loss_alone(data, build, name):
    config = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 7}
    losses = []
    for share in (0.0, 0.2):
        engine = NumpyEngine if build is build_model else TorchEngine
        model = build("lstm", config, WORDS, rng=np.random.default_rng(0))
        solver = CaptioningSolver(model, data, verbose=False, num_epochs=1, engine=engine)
        setattr(model, name, share)
        losses.append((solver.evaluate("val"), solver.train()[0]["train_loss"]))
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_patience_counts_from_the_best_epoch(data):
    solver = make_solver(data, num_epochs=50, best=BestEpoch(patience=3))
    scores = iter([3.0, 2.0, 2.5, 2.4, 2.3, 1.0])
    solver.evaluate = lambda split: next(scores)
    history = solver.train()
    assert len(history) == 5
    assert solver.best_epoch == 2


def test_without_validation_data_the_training_loss_decides(data):
    data = {name: value for name, value in data.items() if not name.startswith("val")}
    solver = make_solver(data, num_epochs=2)
    assert solver.train()[-1]["val_loss"] is None
    assert solver.best_epoch == 2


def test_clipping_bounds_the_step(data):
    for clip_norm in (None, 1e-3):
        solver = make_solver(
            data,
            num_epochs=1,
            update_rule="sgd",
            optim_config={"learning_rate": 1.0},
            clip_norm=clip_norm,
        )
        before = {name: value.copy() for name, value in solver.model.params.items()}
        solver._step(np.ones((2, 6)), data["train_captions"][:2])
        moved = np.sqrt(
            sum(np.sum((solver.model.params[name] - before[name]) ** 2) for name in before)
        )
        assert (moved <= 1.001e-3) == (clip_norm is not None)


def test_a_loss_that_is_no_number_is_an_error(data):
    solver = make_solver(data, num_epochs=1)
    solver.model.params["W_vocab"][0, 0] = np.inf
    with pytest.raises(ValueError, match=r"loss is nan.*lower learning_rate"):
        solver.train()
    assert solver.history == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"update_rule": "adagrad"}, "adagrad"),
        ({"num_epochs": 0}, "at least 1"),
        ({"lr_decay": 0.5, "schedule": Schedule("cosine")}, "lr_decay"),
    ],
)
def test_impossible_options(data, option, words):
    with pytest.raises(ValueError, match=words):
        make_solver(data, **option)


def test_impossible_parts_of_a_solver():
    for part, words in (
        (lambda: BestEpoch("bleu"), "bleu"),
        (lambda: BestEpoch(patience=0), "at least 1"),
        (lambda: Schedule("linear"), "found 'linear', expected 'decay' or 'cosine'"),
    ):
        with pytest.raises(ValueError, match=words):
            part()


def test_who_wants_files_is_called_after_each_epoch(data, tmp_path, monkeypatch):
    """With the epoch in the history; the solver itself writes none."""
    monkeypatch.chdir(tmp_path)
    before, seen = set(tmp_path.rglob("*")), []

    def after_epoch(solver):
        assert solver.history[-1]["epoch"] == solver.epoch
        seen.append((solver.epoch, solver.best_epoch, len(solver.loss_history), solver.is_done))

    solver = make_solver(data, num_epochs=3, after_epoch=after_epoch)
    solver.train()
    assert [epoch for epoch, *_ in seen] == [1, 2, 3]
    assert [steps for *_, steps, _ in seen] == [5, 10, 15]
    assert [done for *_, done in seen] == [False, False, True]
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_the_fast_engine_moves_as_the_plain_one(data, rule):
    """Clipped, and with a schedule; the same state, but for rounding."""
    plain, fast = (
        CaptioningSolver(
            CaptioningRNN(data["word_to_idx"], 6, 5, 7, "lstm", np.float64),
            data,
            update_rule=rule, num_epochs=2, batch_size=5, clip_norm=0.5, lr_decay=0.9,
            engine=engine, verbose=False,
        )
        for engine in (NumpyEngine, FastEngine)
    )  # fmt: skip
    np.testing.assert_allclose(
        *([row["val_loss"] for row in solver.train()] for solver in (plain, fast)), rtol=1e-12
    )
    for name, parameter in plain.model.params.items():
        np.testing.assert_allclose(fast.model.params[name], parameter, rtol=1e-9, atol=1e-12)
        ours, theirs = plain.engine.configs[name], fast.engine.configs[name]
        assert ours.keys() == theirs.keys()
        for entry, value in ours.items():
            np.testing.assert_allclose(theirs[entry], value, rtol=1e-8, atol=1e-12)


def test_dropout_is_off_in_validation_and_sampling(data):
    model = CaptioningRNN(
        data["word_to_idx"], 6, 5, 7, "lstm", rng=np.random.default_rng(0), dropout=0.5
    )
    features, captions = np.asarray(data["val_features"]), data["val_captions"][:5]
    state = model.rng.bit_generator.state
    assert model.evaluate(features, captions) == model.evaluate(features, captions)
    np.testing.assert_array_equal(model.sample(features, 5), model.sample(features, 5))
    assert model.rng.bit_generator.state == state
    assert model.loss(features, captions)[0] != model.loss(features, captions)[0]


# ---------------------------------------------------------------------------------------------
# The model, word by word
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell_type", ["rnn", "lstm"])
def test_loss_equals_the_log_probabilities_of_the_steps(data, cell_type):
    model = CaptioningRNN(
        data["word_to_idx"], 6, 5, 7, cell_type, np.float64, np.random.default_rng(0)
    )
    features, captions = np.asarray(data["val_features"]), data["val_captions"][::2]
    total, state = 0.0, model.begin(features)
    for t in range(captions.shape[1] - 1):
        log_probs, state = model.step(state, captions[:, t])
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1)
        right = captions[:, t + 1]
        total -= np.sum(np.where(right != 0, log_probs[np.arange(len(right)), right], 0))
    assert model.evaluate(features, captions) == pytest.approx(total / len(captions), rel=1e-12)


def test_select_reorders_and_repeats_rows(data):
    model = make_solver(data).model
    features = np.asarray(data["val_features"])
    rows = np.array([3, 0, 0])
    chosen = model.select(model.begin(features), rows)
    for got, want in zip(chosen, model.begin(features[rows]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_greedy_never_says_special_words_and_ends(data):
    model = make_solver(data).model
    features = np.asarray(data["val_features"])
    model.params["b_vocab"][[0, 1, 3]] = 100  # <NULL>, <START> and <UNK> would win
    captions = model.sample(features, max_length=6)
    assert captions.shape == (5, 6)
    assert not np.isin(captions, [1, 3]).any()
    assert (captions[:, 0] != 0).all()
    model.params["b_vocab"][2] = 1000
    captions = model.sample(features, max_length=6)
    assert (captions[:, 0] == 2).all()
    assert not captions[:, 1:].any()


def test_sampling_needs_start_and_end():
    model = CaptioningRNN({"<NULL>": 0, "cat": 1}, 2, 3, 4)
    with pytest.raises(ValueError, match="needs <START> and <END>"):
        model.sample(np.ones((1, 2)))


def test_gradients_hold_with_dropout(data):
    """With the masks frozen, against central differences, every parameter."""
    from core.gradient_check import eval_numerical_gradient

    model = CaptioningRNN(data["word_to_idx"], 6, 5, 7, "lstm", np.float64, dropout=0.4)
    features, captions = np.asarray(data["val_features"])[:3], data["val_captions"][:3]

    def loss(_=None):
        model.rng = np.random.default_rng(5)
        return model.loss(features, captions)

    _, grads = loss()
    for name, gradient in grads.items():
        numerical = eval_numerical_gradient(lambda _: loss()[0], model.params[name])
        assert np.linalg.norm(gradient - numerical) <= 1e-6 * np.linalg.norm(numerical), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_keeps_its_dtype(data, dtype):
    model = CaptioningRNN(data["word_to_idx"], 6, 5, 7, "lstm", dtype, dropout=0.3)
    loss, grads = model.loss(np.ones((2, 6)), data["train_captions"][:2])
    assert loss.dtype == dtype
    assert all(gradient.dtype == dtype for gradient in grads.values())
    log_probs, state = model.step(model.begin(np.ones((2, 6))), np.array([1, 1]))
    assert log_probs.dtype == state[0].dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cell_type": "gru"}, "gru"),
        ({"hidden_dim": 0}, "hidden_dim: found 0"),
        ({"word_to_idx": {"cat": 0}}, "<NULL>"),
    ],
)
def test_impossible_models(arguments, words):
    with pytest.raises(ValueError, match=words):
        CaptioningRNN(**({"word_to_idx": {"<NULL>": 0}} | arguments))


def test_inputs_that_do_not_fit(data):
    model = make_solver(data).model
    captions = data["train_captions"][:2]
    for features, caps, words in (
        (np.ones((2, 5)), captions, r"features: found shape \(2, 5\), expected \(N, 6\)"),
        (np.ones((3, 6)), captions, r"captions: found shape"),
        (np.ones((2, 6)), captions[:, :1], r"captions: found shape"),
        (np.ones((2, 6)), captions + 9, "word id"),
    ):
        with pytest.raises(ValueError, match=words):
            model.loss(features, caps)


# ---------------------------------------------------------------------------------------------
# Checkpoints and resuming
# ---------------------------------------------------------------------------------------------


def train_in_process(folder, *options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "training.py", "--out", folder, *map(str, options)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_same_run(one, two):
    """Equal parameters, optimizer and generator states, bit for bit; equal losses."""
    for name in ("last.npz", "best.npz"):
        a, b = load_checkpoint(one / name), load_checkpoint(two / name)
        assert a.params.keys() == b.params.keys()
        for key in a.params:
            np.testing.assert_array_equal(a.params[key], b.params[key])
        for key, config in a.optimizer.items():
            for entry, value in config.items():
                np.testing.assert_array_equal(value, b.optimizer[key][entry])
        for key in ("shuffling", "dropout", "loss_history", "epoch"):
            assert a.training.get(key) == b.training.get(key)
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (one, two)
    ]
    for a, b in zip(*rows, strict=True):
        for key in ("epoch", "train_loss", "val_loss", "learning_rate"):
            assert a[key] == b[key]


@pytest.mark.parametrize("engine", [NumpyEngine, FastEngine])
@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_a_solver_goes_on_bit_for_bit(data, tmp_path, engine, rule):
    """From the state after two epochs of four, whatever the rule remembers."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    words = list(data["word_to_idx"])
    sizes = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 7, "dropout": 0.3}

    def solver(folder):
        folder.mkdir(exist_ok=True)
        saving = Saving(folder, Checkpoint("lstm", sizes, words, {}))

        def save_and_keep(solver):
            saving(solver)
            if (folder, solver.epoch) == (whole, 2):
                shutil.copytree(whole, resumed)

        how = {"update_rule": rule, "clip_norm": 1.0, "schedule": Schedule("cosine", warmup=3)}
        how |= {"engine": engine, "after_epoch": save_and_keep, "verbose": False, "batch_size": 5}
        return CaptioningSolver(build_model("lstm", sizes, words), data, num_epochs=4, **how)

    solver(whole).train()
    again = solver(resumed)
    restore(again, load_checkpoint(resumed / "last.npz"))
    assert again.epoch == 2
    again.train()
    assert_same_run(whole, resumed)


def test_best_npz_is_no_state_to_go_on_from(data):
    with pytest.raises(ValueError, match=r"resume from last\.npz"):
        restore(make_solver(data), Checkpoint("lstm", {}, [], {}, training={"epoch": 3}))


def test_files_come_in_an_order_that_outlives_a_kill(data, tmp_path, monkeypatch):
    """The best checkpoint, the last one, the metrics; the picture at most once a minute."""
    written = []
    monkeypatch.setattr(os, "replace", lambda a, b: written.append(b.name))
    saving = Saving(tmp_path, Checkpoint("lstm", {}, list(data["word_to_idx"]), {}))
    make_solver(data, num_epochs=2, after_epoch=saving).train()
    assert written == 2 * ["best.npz", "last.npz", "metrics.jsonl"]
    written.clear()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    make_solver(data, num_epochs=2, after_epoch=saving).train()
    assert written.count("loss.png") == 1
    assert written[3] == "loss.png"


@pytest.mark.slow
def test_resume_after_sigkill_equals_an_uninterrupted_run(shapes_folder, tmp_path):
    options = "--model lstm --num_samples 40 --num_epochs 25 --hidden_dim 64 --dropout 0.2".split()
    options += ["--lr_decay", "0.97", "--update_rule", "adamw"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_in_process(whole, *options).wait() == 0

    process = train_in_process(killed, *options)
    kills = 0
    for epochs in (3, 14):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            path = killed / "metrics.jsonl"
            if path.exists() and len(path.read_text().splitlines()) >= epochs:
                process.kill()
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
        process = train_in_process(killed, "--resume")
    assert process.wait() == 0, process.stderr.read()
    assert kills >= 1
    assert_same_run(whole, killed)
    assert not list(killed.glob(".*part*")), "what a killed process left was not cleared away"


def test_resume_when_killed_between_the_files_of_an_epoch(command, shapes_folder, tmp_path):
    """best.npz and metrics.jsonl may be of another epoch than last.npz."""
    options = ["training.py", "--model", "rnn", "--num_samples", 30, "--hidden_dim", 32]
    for name, epochs in (("whole", 6), ("cut", 4)):
        assert command(*options, "--num_epochs", epochs, "--out", tmp_path / name)[0] == 0
    os.replace(tmp_path / "whole" / "best.npz", tmp_path / "kept.npz")
    (tmp_path / "cut" / "metrics.jsonl").write_text('{"epoch": 1}\n')
    code, out, error = command(
        "training.py", "--resume", "--num_epochs", 6, "--out", tmp_path / "cut"
    )
    assert code == 0, error
    assert "resumed after epoch 4" in out
    os.replace(tmp_path / "kept.npz", tmp_path / "whole" / "best.npz")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_resume_before_the_first_epoch_starts_anew(command, shapes_folder, tmp_path):
    run = tmp_path / "run"
    options = ["training.py", "--model", "rnn", "--num_samples", 30, "--num_epochs", 2]
    assert command(*options, "--out", run)[0] == 0
    for name in ("last.npz", "best.npz", "metrics.jsonl", "loss.png"):
        (run / name).unlink()
    assert command("training.py", "--resume", "--out", run)[0] == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def small_checkpoint(**more) -> Checkpoint:
    words, sizes = ["<NULL>", "é"], {"input_dim": 2, "wordvec_dim": 3, "hidden_dim": 4}
    return Checkpoint("lstm", sizes, words, build_model("lstm", sizes, words).params, **more)


def test_checkpoint_holds_everything_and_is_not_pickled(tmp_path):
    rng = np.random.default_rng(0)
    extractor = {"encoder": "fixed_cnn", "output": "strips", "preprocessing": {"size": 64}}
    projection = {"pca_mean": np.arange(665.0), "pca_components": rng.standard_normal((665, 2))}
    remembered = {"learning_rate": 0.1, "t": 4, "m": np.ones(16)}
    checkpoint = small_checkpoint(
        extractor=extractor | {"weights": None, "sha256": None},
        extractor_arrays=projection,
        settings={"seed": 1},
        training={"epoch": 3, "shuffling": rng.bit_generator.state},
        optimizer={"b": remembered},
    )
    path = tmp_path / "c.npz"
    save_checkpoint(path, checkpoint)
    loaded = load_checkpoint(path)
    for name in ("model", "config", "idx_to_word", "extractor", "settings", "training"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    np.testing.assert_array_equal(loaded.params["Wx"], checkpoint.params["Wx"])
    assert loaded.params["Wx"].dtype == np.float32
    for name, array in projection.items():
        np.testing.assert_array_equal(loaded.extractor_arrays[name], array)
    assert loaded.optimizer["b"]["t"] == 4
    np.testing.assert_array_equal(loaded.optimizer["b"]["m"], np.ones(16))
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    save_checkpoint(path, small_checkpoint(training={"epoch": 3}))

    def torn(file, **arrays):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", torn)
    with pytest.raises(OSError, match=r"c\.npz: .*No space left"):
        save_checkpoint(path, small_checkpoint(training={"epoch": 4}))
    assert load_checkpoint(path).training["epoch"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_build_model_refuses_parameters_of_another_model():
    words = ["<NULL>", "<START>", "<END>"]
    config = {"input_dim": 2, "wordvec_dim": 3, "hidden_dim": 4}
    params = build_model("rnn", config, words).params
    with pytest.raises(ValueError, match=r"parameter Wh: found shape \(4, 4\), expected \(4, 16\)"):
        build_model("lstm", config, words, params)
    with pytest.raises(ValueError, match="parameter b: found shape None"):
        build_model("rnn", config, words, {k: v for k, v in params.items() if k != "b"})
    with pytest.raises(ValueError, match="gru"):
        build_model("gru", config, words)
