"""One rule on dtypes at every layer: floating-point stays as it is, whole numbers are float64."""

from __future__ import annotations

import numpy as np
import pytest

from core import attention_layers, layers, rnn_layers, transformer_layers
from core.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array
from core.gradient_check.cases import CASES
from core.gradient_check.learner import Functions

LAYERS = [
    case for case in CASES if case.differentiable and not case.functions[0].startswith("Captioning")
]
KINDS = {
    "int64": lambda x: x.astype(np.int64),
    "int8": lambda x: x.astype(np.int8),  # in which a product of two would wrap round
    "uint8": lambda x: np.abs(x).astype(np.uint8),  # pixels
    "bool": lambda x: x > 0,
}


def whole(case, kind):
    """Inputs and upstream gradients of a case in whole numbers, and the same in float64."""
    rng = np.random.default_rng(0)
    inputs = case.make(rng, **dict(zip(case.sizes, (3, 4, 5, 7, 8, 9, 10, 11), strict=False)))
    outputs, _ = case.run(Functions(), inputs, None)
    upstream = [rng.standard_normal(np.shape(out)) for out in outputs]

    def made(x):
        number = isinstance(x, np.ndarray) and x.dtype == float
        return KINDS[kind](np.rint(40 * x)) if number else x

    def as_floats(x):
        return made(x).astype(float) if made(x) is not x else x

    return (
        ({name: made(x) for name, x in inputs.items()}, [made(x) for x in upstream]),
        (
            {name: as_floats(x) for name, x in inputs.items()},
            [as_floats(x) for x in upstream],
        ),
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_whole_numbers_give_what_their_float64_gives(case, kind):
    (inputs, upstream), (as_floats, upstream_as_floats) = whole(case, kind)
    if not case.outputs:
        upstream = upstream_as_floats = [1.0]
    got = case.run(Functions(), inputs, upstream)
    expected = case.run(Functions(), as_floats, upstream_as_floats)
    for values, wanted in zip(got, expected, strict=True):
        for value, right in zip(values, wanted, strict=True):
            assert np.asarray(value).dtype == np.float64
            np.testing.assert_array_equal(value, right)


def test_a_sequence_is_its_steps_whatever_the_numbers():
    x, h, I = np.arange(12).reshape(2, 3, 2), np.zeros((2, 2), int), np.eye(2, dtype=int)
    h_all, _ = rnn_layers.rnn_forward(x, h, I, I, np.zeros(2, int))
    for t in range(3):
        h, _ = rnn_layers.rnn_step_forward(x[:, t], h, I, I, np.zeros(2, int))
        np.testing.assert_array_equal(h_all[:, t], h)
    assert h_all[0, 0, 1] == np.tanh(1)


def test_lists_are_taken():
    out, _ = layers.affine_forward([[1, 2]], [[1, 0], [0, 1]], [10, 20])
    np.testing.assert_array_equal(out, [[11.0, 22.0]])
    h, _ = rnn_layers.rnn_forward([[[1], [0]]], [[0]], [[1]], [[1]], [0])
    np.testing.assert_allclose(h, [[[np.tanh(1)], [np.tanh(np.tanh(1))]]])
    loss, dx = layers.temporal_softmax_loss([[[0, 0]]], [[1]], [[True]])
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(dx, [[[0.5, -0.5]]])
    np.testing.assert_allclose(layers.softmax([0, 0]), [0.5, 0.5])
    normal, _ = transformer_layers.layer_norm_forward([[1, 3]], [1, 1], [0, 0], eps=0)
    np.testing.assert_array_equal(normal, [[-1, 1]])


def test_mixed_precision_is_that_of_numpy_in_steps_and_sequences():
    x, h0 = np.ones((1, 2, 3), np.float32), np.zeros((1, 4), np.float32)
    weights = np.ones((3, 16)), np.ones((4, 16)), np.zeros(16)
    assert rnn_layers.lstm_forward(x, h0, *weights)[0].dtype == np.float64


@pytest.mark.parametrize("bad", [np.ones((1, 2), complex), np.array([["a", "b"]]), [[None, 1]]])
def test_what_are_no_real_numbers_is_refused(bad):
    with pytest.raises(ValueError, match=r"found an array of .*expected real numbers"):
        layers.affine_forward(bad, np.ones((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="expected real numbers"):
        layers.softmax(bad)
    with pytest.raises(ValueError, match="expected real numbers"):
        attention_layers.context_gate_forward(np.ones((1, 2)), bad, np.ones((2, 2)), np.ones(2))


# ---------------------------------------------------------------------------------------------
# Numerical gradients
# ---------------------------------------------------------------------------------------------


def square(x):
    return float((np.asarray(x, float) ** 2).sum())


@pytest.mark.parametrize(
    ("x", "says"),
    {
        "whole numbers": (np.array([1, 2, 3]), "found int64"),
        "bytes": (np.array([1], np.uint8), "found uint8"),
        "booleans": (np.array([True]), "found bool"),
        "a list": ([1.0, 2.0], "found a list"),
        "a number": (3.0, "found a float"),
        "complex": (np.array([1j]), "found complex128"),
        "float32": (np.array([1000], np.float32), "h = 1e-05 is lost to rounding in float32"),
        "small float32": (np.array([0.01], np.float32), "lost to rounding in float32"),
        "float16": (np.array([1, 2, 3], np.float16), "lost to rounding in float16"),
        "huge": (np.array([1.0, 1e12]), r"lost to rounding in float64 numbers up to 1e\+12"),
    }.values(),
)
def test_a_step_that_would_be_lost_is_refused(x, says):
    kept = np.array(x)
    with pytest.raises(ValueError, match=says):
        eval_numerical_gradient(square, x)
    with pytest.raises(ValueError, match=says):
        eval_numerical_gradient_array(lambda x: np.asarray(x) ** 2, x, np.ones(1))
    np.testing.assert_array_equal(x, kept)


def test_a_function_that_computes_in_float32_is_refused():
    x, df = np.array([1.0, 2.0]), np.ones(2)
    with pytest.raises(ValueError, match=r"f\(x\): a step of h = 1e-05 is lost .*float32"):
        eval_numerical_gradient(lambda x: np.float32(square(x)), x)
    with pytest.raises(ValueError, match=r"f\(x\): .*float32"):
        eval_numerical_gradient_array(lambda x: x.astype(np.float32) ** 2, x, df)


def test_the_step_that_the_message_names_is_large_enough():
    x = np.array([1.0, -3.0], np.float32)
    with pytest.raises(ValueError, match=r"an h of about 0\.0007"):
        eval_numerical_gradient(square, x)
    np.testing.assert_allclose(eval_numerical_gradient(square, x, h=0.0007), 2 * x, rtol=1e-3)
    np.testing.assert_allclose(eval_numerical_gradient(square, np.array([1e6])), 2e6, rtol=1e-4)
    masked = np.array([2.0, -np.inf])  # a score that is masked does not count
    gradient = eval_numerical_gradient(lambda s: np.exp(s).sum(), masked)
    np.testing.assert_allclose(gradient[0], np.exp(2), rtol=1e-6)
