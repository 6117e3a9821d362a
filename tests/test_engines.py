"""One run on either engine: the same losses, the same checkpoints, the same captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT, torchrun

from core.checkpoint import load_checkpoint
from core.runs import MODEL_NAMES

EXACT = ("--dtype", "float64", "--dropout", 0, "--batch_size", 5, "--num_epochs", 4)
SMALL = ("--hidden_dim", 12, "--wordvec_dim", 8)


@pytest.fixture
def train(command, tiny_folder, tmp_path):
    """Trains on the tiny data in a folder of that name; returns its metrics."""

    def run(out, *options):
        code, _, error = command("training.py", *options, "--out", tmp_path / out)
        assert code == 0, error
        lines = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return run


def losses(metrics) -> list[float]:
    return [row[name] for row in metrics for name in ("train_loss", "val_loss")]


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_the_losses_agree_over_several_epochs(train, tiny_folder, model):
    options = ("--model", model, "--data", tiny_folder, *EXACT, *SMALL)
    numpy, torch = (train(engine, *options, "--engine", engine) for engine in ("numpy", "torch"))
    assert numpy[0]["train_loss"] > numpy[-1]["train_loss"]
    np.testing.assert_allclose(losses(torch), losses(numpy), rtol=1e-9)
    assert [row["learning_rate"] for row in torch] == [row["learning_rate"] for row in numpy]


@pytest.mark.parametrize(("first", "then"), [("numpy", "torch"), ("torch", "numpy")])
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_one_engine_goes_on_where_the_other_stopped(
    train, command, tiny_folder, tmp_path, model, first, then
):
    options = ("--model", model, "--data", tiny_folder, *EXACT, *SMALL)
    whole = train("whole", *options, "--engine", first)
    train("run", *options, "--engine", first, "--num_epochs", 2)
    resumed = train("run", "--resume", "--num_epochs", 4, "--engine", then)
    np.testing.assert_allclose(losses(resumed), losses(whole), rtol=1e-9)
    last, expected = (load_checkpoint(tmp_path / run / "last.npz") for run in ("run", "whole"))
    for name, parameter in expected.params.items():
        np.testing.assert_allclose(last.params[name], parameter, rtol=1e-6, atol=1e-9)

    captions = []
    for engine in ("numpy", "torch"):
        code, _, error = command(
            *("inference.py", "--checkpoint", tmp_path / "run", "--engine", engine),
            *("--split", "val", "--out", "captions.json"),
        )
        assert code == 0, error
        captions.append(json.loads((tmp_path / "captions.json").read_text()))
    assert captions[0] == captions[1]


def test_training_in_lower_precision_learns(train, tiny_folder):
    options = ("--model", "transformer", "--data", tiny_folder, "--num_epochs", 8, *SMALL)
    metrics = train("run", *options, "--engine", "torch", "--precision", "bf16", "--dropout", 0)
    exact = train("exact", *options, "--engine", "torch", "--dropout", 0)
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    np.testing.assert_allclose(losses(metrics), losses(exact), rtol=0.05)
    assert losses(metrics) != losses(exact)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "jax"], ("--engine", "jax", "torch")),
        (["--device", "cpu"], ("--device", "--engine torch")),
        (["--precision", "bf16"], ("--precision", "--engine torch")),
        (["--engine", "torch", "--precision", "float8"], ("--precision", "float8")),
        (["--engine", "torch", "--device", "mps"], ("--device mps", "none on this machine")),
    ],
    ids=" ".join,
)
def test_refusals(refuses, tiny_folder, tmp_path, options, says):
    refuses("training.py", "--model", "rnn", "--data", tiny_folder, *options, says=says)
    assert not (tmp_path / "runs").exists(), "something was written"


def test_inference_refuses_a_device_without_the_engine(refuses):
    options = ("--checkpoint", "nowhere", "--device", "cpu")
    refuses("inference.py", *options, says=("--device", "--engine torch"))


# ---------------------------------------------------------------------------------------------
# Several processes
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_two_processes_train_as_one(train, tiny_folder, tmp_path, model):
    """Batches of 23 leave unequal shares; the last of an epoch, of 1, leaves a process none."""
    one = ("--model", model, "--data", tiny_folder, *EXACT, *SMALL, "--engine", "torch")
    one += ("--batch_size", 23)
    expected = train("one", *one)
    done = torchrun(tmp_path, ROOT / "training.py", *one, "--out", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1, "one process talks"
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    np.testing.assert_allclose(losses(metrics), losses(expected), rtol=1e-6)
    last, alone = (load_checkpoint(tmp_path / run / "last.npz") for run in ("two", "one"))
    for name, parameter in alone.params.items():
        np.testing.assert_allclose(last.params[name], parameter, rtol=1e-6, atol=1e-9)


def test_several_processes_need_torch(tiny_folder, tmp_path):
    done = torchrun(tmp_path, ROOT / "training.py", "--model", "lstm", "--data", tiny_folder)
    assert done.returncode != 0
    assert "--engine numpy: is one process" in done.stderr
    assert not (tmp_path / "runs").exists()
