"""The fast twins against the definitions: the same losses, gradients, captions and trainings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import CAPTIONS, build, every_model, images_for
from test_transformer_layers import block_parameters, options_of_a_block

from core import attention_layers, decoding, layers, rnn_layers, transformer_layers
from core.fast import attention, build_fast_model, captioner, recurrent, transformer
from core.fast.packing import Packing, lengths_of
from core.models import build_model
from core.torch_models import TorchCaptioner, build_torch_model
from core.torch_models.convert import to_numpy

# More rows than two parts need, of all lengths, with gaps and rows without a word.
rng = np.random.default_rng(4)
MANY = rng.integers(1, 9, size=(70, 7))
MANY[rng.random(MANY.shape) < 0.3] = 0
MANY[rng.integers(0, 70, 9), 3:] = 0
MANY[5] = 0
CASES = {
    "many": MANY,
    "captions": CAPTIONS,
    "one image": CAPTIONS[:1],
    "one word": CAPTIONS[:, :2],
    "one image, one word": CAPTIONS[:1, :2],
    "nothing but padding": np.zeros((2, 4), int),
}
every_batch = pytest.mark.parametrize("captions", CASES.values(), ids=CASES)


def loss_and_gradients(model, features, captions, weights=None):
    """Of a model of any engine, as NumPy has them."""
    loss = model.loss(features, captions, weights)
    if not isinstance(model, TorchCaptioner):
        return loss
    model.zero_grad()
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), to_numpy(model, grads)


@every_model
@every_batch
@pytest.mark.parametrize("builder", [build_fast_model, build_torch_model], ids=["fast", "torch"])
def test_losses_and_gradients_are_those_of_the_definitions(case, captions, builder, monkeypatch):
    monkeypatch.setattr(captioner, "_WORTH_THREADS", 0)  # large batches are cut into parts
    model, twin = build(case), build(case, builder=builder)
    twin.params = dict(model.params)
    features = images_for(model, len(captions))
    weights = np.random.default_rng(2).standard_normal(len(captions))
    for smoothing, top_k, weights_of_captions in (
        (0.0, None, None), (0.2, None, weights), (0.0, 4, weights),
    ):  # fmt: skip
        for each in (model, twin):
            each.label_smoothing, each.top_k = smoothing, top_k
        expected, grads = loss_and_gradients(model, features, captions, weights_of_captions)
        found, others = loss_and_gradients(twin, features, captions, weights_of_captions)
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-13)
        assert others.keys() == grads.keys()
        largest = max(np.abs(gradient).max() for gradient in grads.values())
        for name, gradient in grads.items():
            worst = np.abs(others[name] - gradient).max()
            assert worst <= 1e-12 * max(1, largest), (name, worst)
    assert twin.evaluate(features, captions) == pytest.approx(
        model.evaluate(features, captions), rel=1e-11, abs=1e-13
    )


@every_model
def test_captions_and_maps_are_those_of_the_definitions(case):
    model, twin = build(case), build(case, builder=build_fast_model)
    features = images_for(model, 9)
    np.testing.assert_array_equal(
        decoding.greedy(twin, features, 6), decoding.greedy(model, features, 6)
    )
    for got, want in zip(
        decoding.beam_search(twin, features, 3, 6, n_best=2),
        decoding.beam_search(model, features, 3, 6, n_best=2),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-11)
    captions = np.tile(CAPTIONS, (3, 1))
    np.testing.assert_allclose(
        decoding.word_log_probabilities(twin, features, captions),
        decoding.word_log_probabilities(model, features, captions),
        rtol=1e-11,
    )
    if model.grid:
        np.testing.assert_allclose(
            twin.attention_weights(features, captions),
            model.attention_weights(features, captions),
            rtol=1e-12,
        )


def test_the_twins_take_the_arguments_of_the_definitions():
    for name in ("rnn", "lstm", "attention", "transformer"):
        words = ["<NULL>", "<START>", "<END>"]
        plain, fast = (
            builder(name, {"input_dim": 5}, words, rng=np.random.default_rng(3))
            for builder in (build_model, build_fast_model)
        )
        assert isinstance(fast, type(plain))
        assert list(fast.params) == list(plain.params)
        for key, value in plain.params.items():
            np.testing.assert_array_equal(fast.params[key], value)
        with pytest.raises(ValueError, match="another model"):
            build_fast_model(name, {"input_dim": 6}, words, params=plain.params)
    with pytest.raises(ValueError, match="expected one of rnn, lstm, attention, transformer"):
        build_fast_model("gru", {}, [])


# -- layer by layer ----------------------------------------------------------------------------


lengths = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@settings(deadline=None, max_examples=30)
@given(lengths=lengths, seed=st.integers(0, 99))
def test_a_packed_recurrence_is_that_of_the_loop(cell, lengths, seed):
    """Rows that end early, rows without an entry."""
    rng = np.random.default_rng(seed)
    N, T, H, blocks = len(lengths), 5, 3, {"rnn": 1, "lstm": 4}[cell]
    packing = Packing(lengths, T)
    M = len(packing.entries)
    inputs, h0 = rng.standard_normal((M, blocks * H)), rng.standard_normal((N, H))
    Wh, dh = rng.standard_normal((H, blocks * H)), rng.standard_normal((M, H))
    given = [x.copy() for x in (inputs, h0, Wh, dh)]
    h, cache = getattr(recurrent, f"{cell}_packed_forward")(inputs, h0, Wh, packing)
    found = getattr(recurrent, f"{cell}_packed_backward")(dh, cache)
    for array, before in zip((inputs, h0, Wh, dh), given, strict=True):
        np.testing.assert_array_equal(array, before)

    identity, zeros = np.eye(blocks * H), np.zeros(blocks * H)
    padded, cache = getattr(rnn_layers, f"{cell}_forward")(
        packing.unpack(inputs), h0, identity, Wh, zeros
    )
    dx, dh0, _, dWh, _ = getattr(rnn_layers, f"{cell}_backward")(packing.unpack(dh), cache)
    np.testing.assert_allclose(h, packing.pack(padded), rtol=1e-12, atol=1e-14)
    for got, want in zip(found, (packing.pack(dx), dh0, dWh), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_attention_to_the_memory_is_attention_with_many_heads():
    N, T, S, E, heads = 2, 5, 7, 6, 3
    rng = np.random.default_rng(0)
    query, memory, dout = (rng.standard_normal((N, n, E)) for n in (T, S, T))
    Wq, Wk, Wv, Wo = (rng.standard_normal((E, E)) for _ in range(4))
    bq, bv, bo = (rng.standard_normal(E) for _ in range(3))
    out, cache = transformer.memory_attention_forward(
        query, memory, Wq, bq, Wk, Wv, bv, Wo, bo, heads
    )
    expected, full_cache = transformer_layers.multi_head_attention_forward(
        query, memory, memory, Wq, bq, Wk, rng.standard_normal(E), Wv, bv, Wo, bo, heads
    )
    np.testing.assert_allclose(out, expected, rtol=1e-11)
    found = transformer.memory_attention_backward(dout, cache)
    dquery, dkey, dvalue, dWq, dbq, dWk, _, *others = (
        transformer_layers.multi_head_attention_backward(dout, full_cache)
    )
    for got, want in zip(found, (dquery, dkey + dvalue, dWq, dbq, dWk, *others), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@options_of_a_block
def test_rows_about_one_image_share_its_keys_and_values(options, beams, dtype, tolerance):
    """The block for one more word; what it keeps of the words stays row by row."""
    N, T, S, E, heads = 2, 3, 5, 6, 3
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N * beams, T, E)).astype(dtype)
    memory, params = rng.standard_normal((N, S, E)).astype(dtype), block_parameters(dtype)
    shared, repeated = (
        transformer_layers.keys_and_values(each, params, "cross", heads)
        for each in (memory, np.repeat(memory, beams, axis=0))
    )
    words, plain_words = (), ()
    for t in range(T):
        now = x[:, t : t + 1]
        out, words = transformer.fast_block_step(now, words, shared, params, heads, **options)
        expected, plain_words = transformer_layers.decoder_block_step(
            now, plain_words, repeated, params, heads, **options
        )
        for got, want in zip((out, *words), (expected, *plain_words), strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cached", [1, 60, 1 << 20])
def test_several_questions_to_an_image_are_each_answered_as_one(cached, monkeypatch):
    """However few images are compared at a time; what all of them add to the keys is summed."""
    monkeypatch.setattr(attention, "_CACHED", cached)
    N, Q, L, C, K = 5, 3, 4, 6, 7
    rng = np.random.default_rng(0)
    features, keys, query, v, dcontext, dweights, before = map(
        rng.standard_normal,
        ((N, L, C), (N, L, K), (N, Q, K), K, (N, Q, C), (N, Q, L), (N, L, K)),
    )
    context, weights, cache = attention.attend_shared_forward(features, keys, query, v)
    dkeys = before.copy()
    dquery, dv = attention.attend_shared_backward(dcontext, dweights, cache, dkeys)
    expected_dkeys, expected_dv = before.copy(), np.zeros(K)
    for q in range(Q):
        *found, one = attention_layers.attend_forward(features, keys, query[:, q], v)
        _, dkeys_of_one, dquery_of_one, dv_of_one = attention_layers.attend_backward(
            dcontext[:, q], dweights[:, q], one
        )
        expected_dkeys += dkeys_of_one
        expected_dv += dv_of_one
        for got, want in zip(
            (context[:, q], weights[:, q], dquery[:, q]), (*found, dquery_of_one), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(dkeys, expected_dkeys, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(dv, expected_dv, rtol=1e-10, atol=1e-13)


def test_the_loss_in_one_buffer_and_the_sums_by_word():
    rng = np.random.default_rng(1)
    scores, y = rng.standard_normal((6, 5)), np.array([0, 4, 4, 1, 0, 4])
    weights = rng.standard_normal(6)
    for smoothing in (0.0, 0.3):
        loss, dscores = captioner.softmax_loss(scores, y, weights, smoothing)
        expected, dx = layers.temporal_softmax_loss(
            scores[None], y[None], weights[None], smoothing=smoothing
        )
        assert loss == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(dscores, dx[0], rtol=1e-12)
    _, cache = layers.word_embedding_forward(y, np.zeros((7, 5)))
    np.testing.assert_allclose(
        captioner.sums_by_word(scores, y, 7),
        layers.word_embedding_backward(scores, cache),
        rtol=1e-14,
    )


# -- packing -----------------------------------------------------------------------------------


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
    np.testing.assert_array_equal(packing.by_row(packing.by_length(x)), x)
    first = packing.by_length(x)[:1]
    assert np.count_nonzero(packing.by_row(first).any(axis=(1, 2))) == 1  # the others are 0


def test_a_row_ends_after_its_last_true_and_gaps_are_kept():
    mask = np.array([[True, False, True, False], [False] * 4, [True] * 4])
    assert lengths_of(mask).tolist() == [3, 0, 4]
