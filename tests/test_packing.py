"""Packing against loops over every row; what leaves padding out against what computes it all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import rnn_layers as layers
from core.packing import Packing, lengths_of

lengths = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@given(lengths=lengths)
def test_every_entry_once_in_the_order_of_time(lengths):
    T = 5
    packing = Packing(lengths, T)
    rows = sorted(range(len(lengths)), key=lambda n: -lengths[n])  # stable
    expected = [n * T + t for t in range(T) for n in rows if lengths[n] > t]
    assert packing.order.tolist() == rows
    assert packing.entries.tolist() == expected
    steps = [packing.entries[now] % T for now, _ in packing.steps]
    assert [step.tolist() for step in steps] == [
        [t] * sum(length > t for length in lengths) for t in range(max(lengths))
    ]


@given(lengths=lengths)
def test_the_state_before_is_that_of_the_same_row(lengths):
    N, T = len(lengths), 5
    packing = Packing(lengths, T)
    # the state after entry (n, t) is called (n, t + 1); before the first step it is (n, 0)
    states = [(n, 0) for n in packing.order] + [(e // T, e % T + 1) for e in packing.entries]
    assert [states[i] for i in packing.before] == [(e // T, e % T) for e in packing.entries]
    slices = [np.arange(N + len(packing.entries))[before] for _, before in packing.steps]
    np.testing.assert_array_equal(np.concatenate([*slices, []]), packing.before)


@given(lengths=lengths)
def test_unpacking_undoes_packing_and_leaves_zeros(lengths):
    x = 1.0 + np.arange(len(lengths) * 5 * 2).reshape(len(lengths), 5, 2)
    packing = Packing(lengths, 5)
    kept = np.arange(5) < np.array(lengths)[:, None]
    np.testing.assert_array_equal(packing.unpack(packing.pack(x)), x * kept[:, :, None])
    np.testing.assert_array_equal(packing.unsorted(packing.first(x)), x)


def test_a_row_ends_after_its_last_true_and_gaps_are_kept():
    mask = np.array([[True, False, True, False], [False] * 4, [True] * 4])
    assert lengths_of(mask).tolist() == [3, 0, 4]


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@settings(deadline=None, max_examples=30)
@given(lengths=lengths, seed=st.integers(0, 99))
def test_packed_equals_padded_where_there_is_no_padding(cell, lengths, seed):
    """Inputs that several entries share, rows that end early, rows without an entry."""
    rng = np.random.default_rng(seed)
    N, T, H, U, blocks = len(lengths), 5, 3, 4, {"rnn": 1, "lstm": 4}[cell]
    packing = Packing(lengths, T)
    M = len(packing.entries)
    inputs, h0 = rng.standard_normal((U, blocks * H)), rng.standard_normal((N, H))
    Wh, dh = rng.standard_normal((H, blocks * H)), rng.standard_normal((M, H))
    which = rng.integers(0, U, M)
    h, cache = getattr(layers, f"{cell}_packed_forward")(inputs, which, h0, Wh, packing)
    found = getattr(layers, f"{cell}_packed_backward")(dh, cache)

    x = packing.unpack(inputs[which])
    identity, zeros = np.eye(blocks * H), np.zeros(blocks * H)
    padded, cache = getattr(layers, f"{cell}_forward")(x, h0, identity, Wh, zeros)
    dx, dh0, _, dWh, _ = getattr(layers, f"{cell}_backward")(packing.unpack(dh), cache)
    dinputs = np.zeros_like(inputs)
    np.add.at(dinputs, which, packing.pack(dx))
    np.testing.assert_allclose(h, packing.pack(padded), rtol=1e-12, atol=1e-14)
    for got, want in zip(found, (dinputs, dh0, dWh), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
