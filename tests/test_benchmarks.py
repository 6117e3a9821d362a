"""The benchmarks run, and compare what computes the same; how fast is never asserted."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import busy, gpu, one_at_a_time, side_by_side, train_step
from benchmarks.side_by_side import SIZES, VOCABULARY, batch_like_real_ones
from core.fast import FastEngine, build_fast_model, captioner
from core.models import MODELS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_training_steps_are_rows_of_json(command, monkeypatch):
    monkeypatch.setattr(side_by_side, "_TURN", 0.01)
    monkeypatch.setattr(train_step, "peak_gflops", lambda: 100)
    options = ("--json", "--models", "rnn", "--batch_sizes", 4, "--seconds", 0.01, "--no_compile")
    code, out, error = command("benchmarks.train_step", *options)
    assert code == 0, error
    (row,) = json.loads(out)
    assert row["model"] == "rnn"
    assert row["batch_size"] == 4
    assert row["torch_over_ours"] == pytest.approx(row["torch_ms"] / row["ours_ms"])
    assert row["gflops"] > 0
    assert row["peak_gflops"] == 100
    assert {"machine", "blas", "numpy_threads", "torch_threads"} <= row.keys()


def test_a_large_product_has_a_speed(monkeypatch):
    monkeypatch.setattr(side_by_side, "in_turn", lambda functions, _: dict.fromkeys(functions, 100))
    assert side_by_side.peak_gflops() == pytest.approx(2 * 2048**3 / 0.1 / 1e9)


def test_an_unknown_model_is_refused_in_one_line(refuses):
    refuses("benchmarks.train_step", "--models", "gru", says=("found 'gru', expected some of rnn",))


@pytest.mark.parametrize(
    ("what", "model"),
    [(what, model) for what, (_, models) in one_at_a_time.OPTIMISATIONS.items() for model in models]
)  # fmt: skip
def test_an_optimisation_changes_nothing_but_the_time(what, model, monkeypatch):
    monkeypatch.setattr(one_at_a_time, "BATCH_SIZE", 6)
    monkeypatch.setattr(captioner.FastCaptioner, "rows_of_a_part", (3, None))
    monkeypatch.setattr(captioner, "_WORTH_THREADS", 0)
    engine, features, captions = one_at_a_time.engine_and_batch(model)
    loss, grads = engine.model.loss(features, captions)
    with one_at_a_time.OPTIMISATIONS[what][0](engine):
        other, other_grads = engine.model.loss(features, captions)
    if what == "padding left out":  # then the padding is scored as well
        assert other > loss
        return
    assert other == pytest.approx(loss, rel=1e-5)
    for name, gradient in other_grads.items():
        distance = np.linalg.norm(gradient - grads[name])
        assert distance <= 1e-4 * max(1e-3, np.linalg.norm(gradient)), name


@pytest.mark.slow
def test_a_step_is_timed_with_the_other_process_halted_and_going():
    steps = []
    idle, other = busy.idle_and_busy(lambda: steps.append(time.sleep(0.01)), 0.1)
    assert min(idle, other) >= 10
    assert len(steps) > 20


def test_batches_have_real_lengths_and_repeat_words():
    _, captions = batch_like_real_ones(2000, False, np.random.default_rng(0))
    lengths = (captions[:, 1:] != 0).sum(axis=1)
    assert lengths.max() == side_by_side.STEPS
    assert lengths.mean() == pytest.approx(11.5, abs=0.2)  # <END> included
    _, counts = np.unique(captions[captions > 3], return_counts=True)
    assert counts.max() > 0.05 * counts.sum()


@pytest.mark.parametrize("name", MODELS)
def test_the_memory_of_a_step_grows_no_faster_than_its_words(name):
    peaks, words = [], []
    for batch_size in (16, 32):
        rng = np.random.default_rng(0)
        model = build_fast_model(name, SIZES[name], VOCABULARY[:200], rng=rng)
        features, captions = batch_like_real_ones(batch_size, model.grid, rng)
        captions = np.minimum(captions, 199)
        tracemalloc.start()
        model.loss(features, captions)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        words.append(np.count_nonzero(captions[:, 1:]))
    assert peaks[1] / peaks[0] <= 1.1 * words[1] / words[0]


def test_training_writes_into_no_array_that_someone_put_there():
    rng = np.random.default_rng(0)
    model = build_fast_model("rnn", SIZES["rnn"], VOCABULARY, rng=rng)
    batch = batch_like_real_ones(4, False, rng)
    engine = FastEngine(model, "adam", {}, None)
    for _ in range(2):
        given = model.params["Wh"] = model.params["Wh"].copy()
        before = given.copy()
        for _ in range(2):
            engine.compute(*batch)
            engine.update()
        np.testing.assert_array_equal(given, before)
        assert not np.array_equal(model.params["Wh"], before)


@pytest.mark.slow
def test_the_page_of_a_gpu_is_written_with_small_sizes_on_any_machine(command, tmp_path):
    code, out, error = command("benchmarks.gpu", "--tiny", "--out", tmp_path / "gpu.md")
    assert code == 0, error
    assert "gpu.md" in out
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert re.search(r"\| lstm \| float32 \| \d.\de-0[6-9] \| \d.\de-0[6-9] \(", page)
    assert re.search(r"\| transformer \| bf16 \| 4 \| .* \| [\d,.]+ \| [\d,.]+ \|", page)
    assert re.search(r"\| tiny_cnn \| [\d,.]+ \|", page)
    assert "Gradients are added up by" in page
    assert "failed" not in page


def test_figures_of_a_gpu_need_one(refuses, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refuses("benchmarks.gpu", says=("no CUDA GPU here", "--tiny"))
    refuses("benchmarks.gpu", "--tiny", says=("stay out of docs/gpu.md", "--out"))


def test_what_is_not_compiled_in_time_is_said_and_no_memory_is_no_crash(monkeypatch):
    monkeypatch.setattr(gpu, "_LAST_START", -1)
    row = {"model": "lstm", "precision": "float32", "batch_size": 4}
    assert gpu.compiled(row, "cpu", 0.01, time.monotonic(), True) == "no time"

    def step():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert gpu.a_second(step, "cpu", 0.01, 4) == "no memory"
