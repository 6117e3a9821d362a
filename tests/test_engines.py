"""One run on every engine: the same losses, the same checkpoints, the same captions."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TwoProcesses, slow_but, start_torchrun, two_processes

from core.checkpoint import load_checkpoint
from core.support.choices import ENGINES, MODEL_NAMES

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


@pytest.mark.parametrize("model", slow_but(MODEL_NAMES, "lstm", "transformer"))
def test_the_losses_agree_over_several_epochs(train, tiny_folder, model):
    options = ("--model", model, "--data", tiny_folder, *EXACT, *SMALL)
    plain, *others = (train(engine, *options, "--engine", engine) for engine in ENGINES)
    assert plain[0]["train_loss"] > plain[-1]["train_loss"]
    for other in others:
        np.testing.assert_allclose(losses(other), losses(plain), rtol=1e-9)
        assert [row["learning_rate"] for row in other] == [row["learning_rate"] for row in plain]


RECIPE = ("--schedule", "cosine", "--warmup", 3, "--label_smoothing", 0.1, "--bucketed")
RECIPE += ("--update_rule", "adamw", "--weight_decay", 0.1)


def test_the_losses_agree_with_all_of_a_recipe(train, tiny_folder):
    options = ("--model", "attention", "--data", tiny_folder, *EXACT, *SMALL, *RECIPE)
    plain, *others = (train(engine, *options, "--engine", engine) for engine in ENGINES)
    rates = [row["learning_rate"] for row in plain]
    assert rates[0] > rates[1] > rates[2] > rates[3] > 0
    for other in others:
        np.testing.assert_allclose(losses(other), losses(plain), rtol=1e-9)
        assert [row["learning_rate"] for row in other] == rates
    without = train("without", *options[:4], *EXACT, *SMALL)
    assert losses(without)[0] != losses(plain)[0]


# Each engine goes on after each other one, once.
HANDED_ON = ("plain", "numpy", "torch", "plain", "torch", "numpy", "plain")


@pytest.mark.parametrize("model", slow_but(MODEL_NAMES, "lstm"))
def test_one_engine_goes_on_where_another_stopped(train, command, tiny_folder, tmp_path, model):
    assert {*pairwise(HANDED_ON)} == {*permutations(ENGINES, 2)}
    epochs = len(HANDED_ON)
    options = ("--model", model, "--data", tiny_folder, *EXACT, *SMALL)
    whole = train("whole", *options, "--num_epochs", epochs)
    train("run", *options, "--engine", HANDED_ON[0], "--num_epochs", 1)
    for done, engine in enumerate(HANDED_ON[1:], start=1):
        resumed = train("run", "--resume", "--num_epochs", done + 1, "--engine", engine)
        np.testing.assert_allclose(losses(resumed), losses(whole)[: 2 * done + 2], rtol=1e-9)
    last, expected = (load_checkpoint(tmp_path / run / "last.npz") for run in ("run", "whole"))
    for name, parameter in expected.params.items():
        np.testing.assert_allclose(last.params[name], parameter, rtol=1e-6, atol=1e-9)

    captions = []
    for engine in ENGINES:
        code, _, error = command(
            *("inference.py", "--checkpoint", tmp_path / "run", "--engine", engine),
            *("--split", "val", "--out", "captions.json"),
        )
        assert code == 0, error
        captions.append(json.loads((tmp_path / "captions.json").read_text()))
    assert captions[0] == captions[1] == captions[2]


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
        (["--engine", "jax"], ("--engine", "jax", "plain", "numpy", "torch")),
        (["--device", "cpu"], ("--device", "--engine torch")),
        (["--engine", "plain", "--device", "cpu"], ("--device", "--engine torch")),
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


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_two_processes_train_as_one(train, tiny_folder, tmp_path, model):
    """Batches of 23 leave unequal shares; the last of an epoch, of 1, leaves a process none."""
    one = ("--model", model, "--data", tiny_folder, *EXACT, *SMALL, "--engine", "torch")
    one += ("--batch_size", 23)
    expected = train("one", *one)
    done = two_processes(tmp_path, "training.py", *one, "--out", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1, "one process talks"
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    np.testing.assert_allclose(losses(metrics), losses(expected), rtol=1e-6)
    last, alone = (load_checkpoint(tmp_path / run / "last.npz") for run in ("two", "one"))
    for name, parameter in alone.params.items():
        np.testing.assert_allclose(last.params[name], parameter, rtol=1e-6, atol=1e-9)


def rank_of(process: str) -> str | None:
    """Its rank, if it is one of several."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:  # ended meanwhile
        return None
    return next((v[5:].decode() for v in variables if v.startswith(b"RANK=")), None)


DYING = ("--model", "lstm", *EXACT, *SMALL, "--engine", "torch")


def wait_for_an_epoch(run, still_runs):
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists():
        assert still_runs()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_it_says_how_to_go_on(error):
    begins = "training.py: error: process 0 of 2 ends"
    (line,) = (line for line in error.splitlines() if line.startswith(begins))
    assert "--resume" in line


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")
def test_when_a_process_dies_the_others_end_and_the_run_is_resumed(train, tiny_folder, tmp_path):
    """Started by torchrun itself, which ends the other process."""
    options = (*DYING, "--data", tiny_folder)
    started = start_torchrun(
        tmp_path, ROOT / "training.py", *options, "--num_epochs", 100_000, "--out", "run"
    )
    try:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        wait_for_an_epoch(tmp_path / "run", lambda: started.poll() is None)
        (its_id,) = (id for id in children.read_text().split() if rank_of(id) == "1")
        os.kill(int(its_id), signal.SIGKILL)
        _, error = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode != 0
    assert_it_says_how_to_go_on(error)
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    expected = train("whole", *options, "--num_epochs", done + 2)
    metrics = train("run", "--resume", "--num_epochs", done + 2)
    np.testing.assert_allclose(losses(metrics), losses(expected), rtol=1e-6)


@pytest.mark.slow
def test_a_process_that_is_told_to_end_says_how_to_go_on(train, tiny_folder, tmp_path):
    """As torchrun tells one that has not noticed that another one died. Two more resume the run."""
    options = (*DYING, "--data", tiny_folder)
    started = TwoProcesses(
        tmp_path, "training.py", *options, "--num_epochs", 100_000, "--out", "run"
    )
    first = started.processes[0]
    try:
        wait_for_an_epoch(tmp_path / "run", first.is_alive)
    finally:
        first.terminate()
        ended = started.done()
    assert ended.returncode == 2
    assert_it_says_how_to_go_on(ended.stderr)
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    expected = train("whole", *options, "--num_epochs", done + 2)
    again = ("training.py", "--resume", "--num_epochs", done + 2, "--out", "run")
    resumed = two_processes(tmp_path, *again)
    assert resumed.returncode == 0, resumed.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    np.testing.assert_allclose(losses(map(json.loads, lines)), losses(expected), rtol=1e-6)


@pytest.mark.slow
def test_what_is_wrong_with_the_input_is_said_by_several_processes_too(tiny_folder, tmp_path):
    options = ("--model", "lstm", "--data", tmp_path / "nowhere", "--engine", "torch")
    done = two_processes(tmp_path, "training.py", *options)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("training.py: error")]
    assert said
    assert any("nowhere: no such data folder" in line for line in said)
    assert "core/support/processes.py" not in done.stderr, "a traceback"


@pytest.mark.parametrize("engine", ["plain", "numpy"])
def test_several_processes_need_torch(refuses, monkeypatch, tiny_folder, tmp_path, engine):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    options = ("--model", "lstm", "--data", tiny_folder, "--engine", engine)
    refuses("training.py", *options, says=(f"--engine {engine}: is one process", "torch"))
    assert not (tmp_path / "runs").exists()
