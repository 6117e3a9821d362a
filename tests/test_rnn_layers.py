"""The corners of every layer; the gradients are checked in ``test_gradient_check.py``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import rnn_layers as layers
from core.transformer_layers import dropout_backward, dropout_forward

small = st.integers(1, 6)


def every_layer(dtype):
    """(name, forward, its arguments, backward or None) for each layer, in one dtype."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    N, T, D, H, V = 2, 3, 4, 5, 7
    words = rng.integers(0, V, (N, T))
    mask = np.array([[True, False, True], [False, False, False]])
    step, sequence = (normal(N, D), normal(N, H)), (normal(N, T, D), normal(N, H))
    rnn, lstm = (
        (normal(D, k * H), normal(H, k * H), normal(k * H)) for k in (1, 4)
    )  # fmt: skip
    pairs = {
        "affine": (normal(N, T, D), normal(T * D, H), normal(H)),
        "word_embedding": (words, normal(V, D)),
        "rnn_step": (*step, *rnn),
        "rnn": (*sequence, *rnn),
        "lstm_step": (*step, normal(N, H), *lstm),
        "lstm": (*sequence, *lstm),
        "temporal_affine": (normal(N, T, D), normal(D, V), normal(V)),
    }
    for name, arguments in pairs.items():
        forward = getattr(layers, f"{name}_forward")
        yield name, forward, arguments, getattr(layers, f"{name}_backward")
    yield (
        "temporal_softmax_loss",
        layers.temporal_softmax_loss,
        (normal(N, T, V), words, mask),
        None,
    )

    def frozen_dropout(x):
        return dropout_forward(x, 0.4, np.random.default_rng(3))

    yield "dropout", frozen_dropout, (normal(N, T, D),), dropout_backward


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept_and_arguments_are_not_written_to(dtype):
    for name, forward, arguments, backward in every_layer(dtype):
        before = [np.array(argument) for argument in arguments]
        *outputs, cache = forward(*arguments)
        if backward is None:
            outputs, gradients, upstream = [*outputs, cache], (), []
        else:
            upstream = [np.ones_like(out) for out in outputs]
            gradients = backward(*upstream, cache)
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        for array in (*outputs, *gradients):
            assert array.dtype == dtype, name
        for argument, kept in zip(arguments, before, strict=True):
            np.testing.assert_array_equal(argument, kept, err_msg=name)
        for dout in upstream:
            assert np.all(dout == 1), name


def test_outputs_share_no_memory_with_what_backward_needs():
    """Overwriting an output, as a caller may, must not change the gradients."""
    rng = np.random.default_rng(0)
    x, h0 = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5))
    Wx, Wh, b = (rng.standard_normal(s) for s in ((4, 20), (5, 20), 20))
    dh = rng.standard_normal((2, 3, 5))
    h, cache = layers.lstm_forward(x, h0, Wx, Wh, b)
    expected = [g.copy() for g in layers.lstm_backward(dh, cache)]
    h[:] = np.nan
    for got, want in zip(layers.lstm_backward(dh, cache), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@settings(deadline=None, max_examples=30)
@given(N=small, T=small, V=st.integers(1, 9), D=small, seed=st.integers(0, 99))
def test_embedding_gradient_is_the_product_with_one_hot_rows(N, T, V, D, seed):
    rng = np.random.default_rng(seed)
    words, W = rng.integers(0, V, (N, T)), rng.standard_normal((V, D))
    dout = rng.standard_normal((N, T, D))
    expected = np.eye(V)[words.ravel()].T @ dout.reshape(-1, D)
    _, cache = layers.word_embedding_forward(words, W)
    np.testing.assert_allclose(layers.word_embedding_backward(dout, cache), expected, atol=1e-13)


@pytest.mark.parametrize("word", [-1, 7])
def test_word_ids_outside_the_vocabulary_are_refused(word):
    with pytest.raises(ValueError, match=rf"word id {word} .* 7 words"):
        layers.word_embedding_forward(np.array([[0, word]]), np.ones((7, 2)))
    with pytest.raises(ValueError, match=rf"word id {word} .* 7 words"):
        layers.temporal_softmax_loss(np.zeros((1, 2, 7)), np.array([[0, word]]), np.ones((1, 2)))


def test_word_ids_must_be_integers():
    with pytest.raises(ValueError, match="integers, found float64"):
        layers.word_embedding_forward(np.array([[0.5]]), np.ones((7, 2)))


class TestTemporalSoftmaxLoss:
    def test_uniform_scores_cost_log_v_a_step(self):
        for N, T, V in ((100, 1, 10), (50, 10, 10), (3, 2, 1004)):
            loss, _ = layers.temporal_softmax_loss(
                np.zeros((N, T, V)), np.zeros((N, T), int), np.ones((N, T), bool)
            )
            assert loss == pytest.approx(T * np.log(V))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_underflow_and_infinities_at_masked_positions_are_no_nan(self, dtype):
        x = np.array([[[0, 1e4, -1e4], [-np.inf, 0, np.nan]]], dtype)
        loss, dx = layers.temporal_softmax_loss(x, np.array([[0, 0]]), np.array([[True, False]]))
        assert loss == pytest.approx(1e4)
        assert np.isfinite(dx).all()
        assert not dx[0, 1].any()

    def test_masked_positions_may_hold_any_id(self):
        y, mask = np.array([[1, -100]]), np.array([[True, False]])
        loss, _ = layers.temporal_softmax_loss(np.zeros((1, 2, 3)), y, mask)
        assert loss == pytest.approx(np.log(3))

    def test_nothing_counts(self):
        x = np.random.default_rng(0).standard_normal((2, 3, 4))
        loss, dx = layers.temporal_softmax_loss(x, np.zeros((2, 3), int), np.zeros((2, 3), bool))
        assert loss == 0
        assert not dx.any()

    def test_verbose_prints_the_shape(self, capsys):
        layers.temporal_softmax_loss(
            np.zeros((1, 2, 3)), np.zeros((1, 2), int), np.ones((1, 2)), True
        )
        assert "(1, 2, 3)" in capsys.readouterr().out


@pytest.mark.parametrize(("N", "T"), [(0, 3), (2, 0)])
def test_empty_batches_and_sequences(N, T):
    x, h0 = np.ones((N, T, 4)), np.ones((N, 5))
    for cell, blocks in (("rnn", 1), ("lstm", 4)):
        weights = np.ones((4, blocks * 5)), np.ones((5, blocks * 5)), np.ones(blocks * 5)
        h, cache = getattr(layers, f"{cell}_forward")(x, h0, *weights)
        assert h.shape == (N, T, 5)
        dx, dh0, dWx, *_ = getattr(layers, f"{cell}_backward")(h, cache)
        assert (dx.shape, dh0.shape) == (x.shape, h0.shape)
        assert not dWx.any()
    out, cache = layers.temporal_affine_forward(x, np.ones((4, 6)), np.ones(6))
    assert layers.temporal_affine_backward(out, cache)[0].shape == x.shape


def test_sigmoid_of_large_numbers():
    x = np.array([-1e4, 0.0, 1e4])
    np.testing.assert_allclose(layers.sigmoid(x), [0, 0.5, 1])


class TestDropout:
    def test_expectation_and_share(self):
        x = np.ones((500, 500))
        out, _ = dropout_forward(x, 0.3, np.random.default_rng(0))
        assert np.mean(out == 0) == pytest.approx(0.3, abs=0.01)
        assert out.mean() == pytest.approx(1, abs=0.01)

    def test_inference_passes_through_and_draws_nothing(self):
        rng = np.random.default_rng(0)
        before = rng.bit_generator.state
        x = np.arange(6.0)
        out, cache = dropout_forward(x, 0.9, rng, train=False)
        np.testing.assert_array_equal(out, x)
        np.testing.assert_array_equal(dropout_backward(x, cache), x)
        assert rng.bit_generator.state == before

    @pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
    def test_impossible_probability(self, p):
        with pytest.raises(ValueError, match="0 <= p < 1"):
            dropout_forward(np.ones(3), p, np.random.default_rng(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_pytorchs(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4, 5)), rng.integers(0, 5, (3, 4))
    mask = rng.random((3, 4)) < 0.7
    loss, dx = layers.temporal_softmax_loss(x, y, mask, smoothing=smoothing)
    scores = torch.tensor(x, requires_grad=True)
    targets = torch.tensor(np.where(mask, y, -100))
    expected = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), targets.flatten(), label_smoothing=smoothing, reduction="sum"
    )
    (expected / 3).backward()
    assert loss == pytest.approx(expected.item() / 3, rel=1e-12)
    np.testing.assert_allclose(dx, scores.grad, rtol=1e-10, atol=1e-14)
