"""Several threads: the same numbers as one, and the threads of products are given back."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from test_models import CAPTIONS, build, every_model, images_for
from threadpoolctl import threadpool_limits

from core import decoding
from core.fast import build_fast_model, captioner, threads


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "number_of_threads", lambda: 3)
    monkeypatch.setattr(captioner, "number_of_threads", lambda: 3)
    monkeypatch.setattr(captioner, "_WORTH_THREADS", 0)


def test_in_order_and_on_other_threads(three_threads):
    found = threads.in_parallel(lambda n: (n, threading.current_thread().name), range(20))
    assert [n for n, _ in found] == list(range(20))
    assert all(name.startswith("part") for _, name in found)


def test_products_stay_on_one_core_meanwhile_and_an_error_gives_the_others_back(monkeypatch):
    with threadpool_limits(2, "blas"):
        before = threads.number_of_threads()
        if before < 2:
            pytest.skip("this BLAS has one thread")
        inside = threads.in_parallel(lambda _: threads.number_of_threads(), range(2))
        assert inside == [1, 1]

        def fail(part):
            raise ValueError(f"part {part}")

        with pytest.raises(ValueError, match="part 0"):
            threads.in_parallel(fail, range(2))
        assert threads.number_of_threads() == before


def test_an_error_waits_for_the_other_parts(three_threads):
    done = []

    def work(part):
        if part == 0:
            raise ValueError("part 0")
        time.sleep(0.05)
        done.append(part)

    with pytest.raises(ValueError, match="part 0"):
        threads.in_parallel(work, range(3))
    assert sorted(done) == [1, 2]


def test_parts_of_a_part_are_computed_where_they_are(three_threads):
    """A pool whose threads wait for each other would wait for ever."""

    def outer(_):
        name = threading.current_thread().name
        return threads.in_parallel(lambda _: threading.current_thread().name == name, range(3))

    assert threads.in_parallel(outer, range(3)) == [[True] * 3] * 3


def test_what_numpy_does_about_an_overflow_is_the_same_in_parts(three_threads):
    def overflow(_):
        return np.exp(np.float32(1000))

    with np.errstate(over="ignore"):
        threads.in_parallel(overflow, range(2))
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        threads.in_parallel(overflow, range(2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own(three_threads):
    threads.in_parallel(abs, range(3))
    child = os.fork()
    if child == 0:
        os._exit(threads.in_parallel(abs, range(3)) != [0, 1, 2])
    for _ in range(100):
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert finished == child
    assert status == 0


@pytest.mark.parametrize("case", ["rnn", "transformer"])
def test_one_caption_much_longer_than_all_others(case, three_threads):
    """A part that would have no row is none."""
    model = build(case, builder=build_fast_model)
    captions = np.zeros((70, 7), dtype=int)
    captions[:, 0] = 1
    captions[3] = [1, 4, 5, 4, 5, 6, 2]
    features = images_for(model, len(captions))
    loss, _ = model.loss(features, captions)
    assert loss == pytest.approx(model.loss(features[3:4], captions[3:4])[0] / 70, rel=1e-12)


@every_model
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_a_batch_add_up_to_the_batch(case, weighted, three_threads, monkeypatch):
    """Rows of all lengths, gaps, rows without a word; the penalty of the attention as well."""
    model = build(case, builder=build_fast_model)
    captions = np.concatenate([CAPTIONS] * 3)
    features = images_for(model, len(captions))
    weights = np.random.default_rng(0).standard_normal(len(captions)) if weighted else None
    monkeypatch.setattr(model, "rows_of_a_part", (len(captions) + 1, None))
    expected, grads = model.loss(features, captions, weights)
    cross_entropy = model.evaluate(features, captions)
    for rows, parts in (((4, None), 2), ((len(captions), 2), 4)):
        monkeypatch.setattr(model, "rows_of_a_part", rows)
        assert len(model._parts(np.full(len(captions), 3))) == parts
        loss, found = model.loss(features, captions, weights)
        assert loss == pytest.approx(expected, rel=1e-12)
        assert model.evaluate(features, captions) == pytest.approx(cross_entropy, rel=1e-12)
        assert found.keys() == grads.keys()
        for name, gradient in found.items():
            np.testing.assert_allclose(gradient, grads[name], rtol=1e-9, atol=1e-12, err_msg=name)


@every_model
def test_what_parts_drop_out_depends_on_the_generator_alone(case, three_threads, monkeypatch):
    model = build(case, builder=build_fast_model, dropout=0.5)
    captions = np.concatenate([CAPTIONS] * 3)
    features = images_for(model, len(captions))
    monkeypatch.setattr(model, "rows_of_a_part", (3, None))
    losses = []
    for _ in range(3):
        model.rng = np.random.default_rng(5)
        losses.append([model.loss(features, captions)[0] for _ in range(2)])
    assert losses[0] == losses[1] == losses[2]
    assert losses[0][0] != losses[0][1]


@every_model
def test_images_shared_out_between_threads_get_the_same_captions(case, three_threads):
    model = build(case, builder=build_fast_model)
    features = images_for(model, 50)
    greedy, beam = map(threads.searched_in_parts, (decoding.greedy, decoding.beam_search))
    np.testing.assert_array_equal(
        greedy(model, features, 6), decoding.greedy(model, features, max_length=6)
    )
    for got, want in zip(
        beam(model, features, 3, max_length=6),
        decoding.beam_search(model, features, 3, max_length=6),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_small_work_has_one_thread_and_large_work_those_that_there_are(monkeypatch):
    monkeypatch.setattr(captioner, "number_of_threads", lambda: 3)
    model = build("lstm", builder=build_fast_model)
    size = sum(parameter.size for parameter in model.params.values())
    rows = captioner._WORTH_THREADS // size
    assert (model.threads_for(rows), model.threads_for(rows + 1)) == (1, 3)
    # How a batch is cut up is not a matter of the machine.
    lengths = np.full(rows + 1, 3)
    parts = [part.tolist() for part in model._parts(lengths)]
    assert len(parts) == 2
    monkeypatch.setattr(captioner, "number_of_threads", lambda: 1)
    assert [part.tolist() for part in model._parts(lengths)] == parts
    assert len(model._parts(lengths[1:])) == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"max": "max 100000"}, 8),
        ({"max": "200000 100000"}, 2),
        ({"max": "150000 100000"}, 1),
        ({"max": "50000 100000"}, 1),
        ({"quota": "300000", "period": "100000"}, 3),
        ({"quota": "-1", "period": "100000"}, 8),
        ({"max": "1600000 100000"}, 8),
    ],
)
def test_a_container_s_quota_is_respected(files, cores, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    quotas = (tmp_path / "max",), (tmp_path / "quota", tmp_path / "period")
    monkeypatch.setattr(threads, "_QUOTAS", quotas)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert threads.number_of_cores.__wrapped__() == cores


def test_what_the_user_allows_is_respected():
    with threadpool_limits(1, "blas"):
        assert threads.number_of_threads() == 1
