"""Soft attention against plain loops, and the corners of the layers around it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core import attention_layers as layers
from core.gradient_check.case import SIZES, Case, our_function
from core.gradient_check.cases import CASES
from core.gradient_check.learner import Functions

N, T, L, C, H, K, W = 2, 3, 4, 5, 6, 7, 8


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


# -- softmax -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_any_scores_sums_to_one_but_for_rows_that_allow_nothing(dtype):
    inf = np.inf
    scores = np.array(
        [[1e30, -1e30, 1e30], [-inf, 0, -inf], [-1e30, -1e30, -inf], [-inf, -inf, -inf]], dtype
    )
    expected = [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 0]]
    weights = layers.softmax(scores)
    np.testing.assert_array_equal(weights, np.array(expected))
    assert weights.dtype == dtype


def test_softmax_is_taken_over_the_last_axis_and_ignores_what_is_added_to_a_row():
    scores, shift = normal((2, 3, 4), (2, 3, 1))
    weights = layers.softmax(scores)
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones((2, 3)), rtol=1e-14)
    np.testing.assert_allclose(weights[..., :1] / weights, np.exp(scores[..., :1] - scores))
    np.testing.assert_allclose(layers.softmax(scores + 1e3 * shift), weights, rtol=1e-10)


# -- additive attention ------------------------------------------------------------------------


def attention_by_loops(features, h, Wf, Wh, b, v):
    context, weights = np.zeros((N, C)), np.zeros((N, L))
    for n in range(N):
        scores = [v @ np.tanh(features[n, l] @ Wf + h[n] @ Wh + b) for l in range(L)]
        total = sum(math.exp(score) for score in scores)
        for l in range(L):
            weights[n, l] = math.exp(scores[l]) / total
            context[n] += weights[n, l] * features[n, l]
    return context, weights


def test_additive_attention_is_its_formula():
    features, h, Wf, Wh, b, v = normal((N, L, C), (N, H), (C, K), (H, K), K, K)
    expected = attention_by_loops(features, h, Wf, Wh, b, v)
    found = layers.additive_attention_forward(features, h, Wf, Wh, b, v)
    for got, want in zip(found[:2], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(found[1].sum(axis=1), np.ones(N), rtol=1e-14)


# -- the gate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "passes"), [(1e3, 1), (0, 0.5), (-1e3, 0)])
def test_the_gate_passes_all_half_or_none_of_the_context(bias, passes):
    context, h = normal((N, C), (N, H))
    out, _ = layers.context_gate_forward(context, h, np.zeros((H, C)), np.full(C, bias))
    np.testing.assert_array_equal(out, passes * context)


def test_each_channel_has_its_own_gate_that_reads_the_state():
    context, h, W, b = normal((N, C), (N, H), (H, C), C)
    expected = context / (1 + np.exp(-(h @ W + b)))
    np.testing.assert_allclose(layers.context_gate_forward(context, h, W, b)[0], expected)


# -- the sequence ------------------------------------------------------------------------------


def sequence(N, T, L):
    """The arguments of ``attention_lstm_forward``."""
    image = (N, T, W), (N, L, C), (N, H), (N, H), (C, K), (H + W, K), K, K, (H, C), C
    return normal(*image, (W + C, 4 * H), (H, 4 * H), 4 * H)


def test_keys_are_computed_once_a_sequence(monkeypatch):
    calls = []

    def count(name):
        original = getattr(layers, name)
        monkeypatch.setattr(layers, name, lambda *args: calls.append(name) or original(*args))

    count("temporal_affine_forward")
    layers.attention_lstm_forward(*sequence(N, T, L))
    assert calls == ["temporal_affine_forward"]


# -- doubly stochastic attention ---------------------------------------------------------------


MASK = np.array([[True, False, True], [False, False, False]])  # a gap; nothing but padding
STRENGTH = 0.7


def attention_maps():
    return layers.softmax(normal((N, T, L))[0])


def test_the_penalty_is_its_formula():
    weights = attention_maps()
    expected = 0
    for n in range(N):
        for l in range(L):
            seen = sum(weights[n, t, l] for t in range(T) if MASK[n, t])
            expected += STRENGTH / N * (1 - seen) ** 2
    loss, _ = layers.doubly_stochastic_loss(weights, MASK, STRENGTH)
    assert loss == pytest.approx(expected, rel=1e-14)
    assert layers.doubly_stochastic_loss(weights, MASK, 0)[0] == 0


def test_padded_steps_add_nothing_to_the_penalty_whatever_they_hold():
    weights = attention_maps()
    loss, dweights = layers.doubly_stochastic_loss(weights, MASK, STRENGTH)
    weights[~MASK] = 1e300
    changed, dchanged = layers.doubly_stochastic_loss(weights, MASK, STRENGTH)
    assert changed == loss
    np.testing.assert_array_equal(dchanged, dweights)
    assert not dweights[~MASK].any()
    assert dweights[MASK].all()


def test_a_caption_of_padding_costs_the_strength_at_every_location():
    loss, dweights = layers.doubly_stochastic_loss(attention_maps()[1:], MASK[1:], STRENGTH)
    assert loss == pytest.approx(STRENGTH * L)
    assert not dweights.any()


def test_the_penalty_is_averaged_over_the_batch():
    weights = attention_maps()
    one_by_one = [
        layers.doubly_stochastic_loss(weights[[n]], MASK[[n]], STRENGTH) for n in range(N)
    ]
    loss, dweights = layers.doubly_stochastic_loss(weights, MASK, STRENGTH)
    assert loss == pytest.approx(np.mean([loss for loss, _ in one_by_one]))
    np.testing.assert_allclose(N * dweights, np.concatenate([d for _, d in one_by_one]))


# -- float32 -----------------------------------------------------------------------------------


def cases_of(module) -> list:
    """Parameters for ``assert_float32_is_kept``: what the gradient check knows of a module."""
    return [
        pytest.param(case, sizes, id=f"{case.name}-{name}")
        for case in CASES
        if case.differentiable and our_function(case.functions[0]).__module__ == module.__name__
        for name, sizes in (
            ("distinct sizes", dict(zip(case.sizes, SIZES, strict=False))),
            ("sizes of 1", dict.fromkeys(case.sizes, 1)),
        )
    ]


def assert_float32_is_kept(case: Case, sizes):
    def single(value):
        is_float = isinstance(value, np.ndarray) and value.dtype == np.float64
        return value.astype(np.float32) if is_float else value

    inputs = case.make(np.random.default_rng(0), **sizes)
    inputs = {name: single(value) for name, value in inputs.items()}
    outputs, _ = case.run(Functions(), inputs, None)
    outputs, gradients = case.run(Functions(), inputs, [np.ones_like(out) for out in outputs])
    assert len(gradients) == len(case.differentiable)
    assert {array.dtype for array in (*outputs, *gradients)} == {np.dtype(np.float32)}
    for name, gradient in zip(case.differentiable, gradients, strict=True):
        assert gradient.shape == inputs[name].shape, name


@pytest.mark.parametrize(("case", "sizes"), cases_of(layers))
def test_float32_is_kept(case, sizes):
    assert_float32_is_kept(case, sizes)
