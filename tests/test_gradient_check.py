"""The gradient check passes on right code, and fails on every kind of wrong with the right hint."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.gradient_check import (
    DIFFERENCE_TOLERANCE,
    TORCH_TOLERANCE,
    check_case,
    diagnose,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
)
from core.gradient_check.cases import CASES, our_function

BY_NAME = {case.name: case for case in CASES}
LAYERS = [case for case in CASES if case.functions[0].endswith("_forward")]


_remembered = {}


def remembered(case):
    """Central differences once for each input: a mutated backward leaves the forward as it is."""

    def differences(f, x):
        key = case.name, x.shape, x.tobytes()
        if key not in _remembered:
            _remembered[key] = eval_numerical_gradient(f, x)
        return _remembered[key]

    return differences


def wrong_rows(case, functions=None, seed=0, differences=eval_numerical_gradient, **sizes):
    rows = check_case(case, np.random.default_rng(seed), functions, differences, **sizes)
    return [row for row in rows if not row.passed]


# ---------------------------------------------------------------------------------------------
# Right code passes
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        pytest.param(case, sizes, id=f"{case.name}-{sizes}")
        for case in CASES
        for sizes in ({}, {"N": 1}, {"T": 1}, {"N": 1, "T": 1})
        # Of whole models, which take seconds, the two extremes.
        if sizes.keys() <= set(case.sizes) and (case in LAYERS or len(sizes) != 1)
    ],
)
def test_every_gradient_holds(case, sizes):
    rows = check_case(case, np.random.default_rng(1), **sizes)
    assert [row.quantity for row in rows if not row.passed] == []
    # Each output once, and each gradient: no check is left out in silence.
    assert len(rows) == max(1, len(case.outputs)) + len(case.differentiable)


@settings(deadline=None, max_examples=15)
@given(
    case=st.sampled_from(LAYERS), N=st.integers(1, 5), H=st.integers(1, 6), seed=st.integers(0, 999)
)
def test_random_shapes_against_torch(case, N, H, seed):
    sizes = {letter: size for letter, size in {"N": N, "H": H}.items() if letter in case.sizes}
    assert wrong_rows(case, seed=seed, **sizes) == []


def test_limits_are_as_promised():
    assert TORCH_TOLERANCE == 1e-10
    assert DIFFERENCE_TOLERANCE == 1e-6


# ---------------------------------------------------------------------------------------------
# Wrong code fails: mutations of every gradient of every layer
# ---------------------------------------------------------------------------------------------


def mutate_gradient(case, name, change):
    """The case's functions, one gradient of which is changed by ``change(gradient)``."""
    at = case.differentiable.index(name)
    last = case.functions[-1]
    original = our_function(last)

    if last == "decoder_block_backward":

        def mutant(*arguments):
            *first, grads = original(*arguments)
            gradients = dict(zip(("x", "memory"), first, strict=True)) | grads
            gradients[name] = change(gradients[name])
            return gradients.pop("x"), gradients.pop("memory"), gradients

    elif last.endswith("_backward"):

        def mutant(*arguments):
            gradients = original(*arguments)
            if not isinstance(gradients, tuple):
                return change(gradients)
            return tuple(change(g) if i == at else g for i, g in enumerate(gradients))

    elif last.startswith("Captioning"):

        class Mutant(original):
            def loss(self, features, captions):
                loss, grads = super().loss(features, captions)
                return loss, {k: change(g) if k == name else g for k, g in grads.items()}

        mutant = Mutant
    else:

        def mutant(*arguments):
            loss, *gradients = original(*arguments)
            return (loss, *(change(g) if i == at else g for i, g in enumerate(gradients)))

    return {last: mutant}


CHANGES = {
    "dropped": np.zeros_like,
    "doubled": lambda g: 2 * g,
    "sign-flipped": lambda g: -g,
    "transposed": lambda g: g.T,
    "one row missing": lambda g: np.where(
        np.arange(len(g)).reshape(-1, *[1] * (g.ndim - 1)) == 0, 0, g
    ),
    "slightly off": lambda g: g * (1 + 1e-5),
}
MUTANTS = [
    pytest.param(case, name, change, id=f"{case.name}-d{name}-{kind}")
    for case in CASES
    for name in case.differentiable
    for kind, change in CHANGES.items()
    if name not in case.zero
    if kind != "transposed" or (name == "Wh" and case.name in ("rnn_step", "rnn", "captioning_rnn"))
]
# What is 0 stays 0 when it is doubled: such a gradient is made to be something.
MUTANTS += [
    pytest.param(case, name, lambda g: g + 1e-3, id=f"{case.name}-d{name}-not-zero")
    for case in CASES
    for name in case.zero
]


@pytest.mark.parametrize(("case", "name", "change"), MUTANTS)
def test_mutants_are_caught(case, name, change):
    wrong = wrong_rows(case, mutate_gradient(case, name, change), differences=remembered(case))
    assert [row.quantity for row in wrong] == [f"d{name}"]


def test_a_key_bias_with_a_gradient_gets_a_hint():
    case = BY_NAME["multi_head_attention"]
    (row,) = wrong_rows(case, mutate_gradient(case, "bk", lambda g: g + 1e-3))
    assert "should be all zeros" in row.problem


@pytest.mark.parametrize("name", ["rnn", "lstm"])
@pytest.mark.parametrize("gradient", ["x", "h0", "Wx", "Wh", "b"])
@pytest.mark.parametrize("missing", [0, -1])
def test_a_missing_time_step_is_caught(name, gradient, missing):
    """The gradient as it would be if the loop skipped the first or the last step's upstream."""
    case = BY_NAME[name]
    at = case.differentiable.index(gradient)
    original = our_function(f"{name}_backward")

    def mutant(dh, cache):
        gradients = list(original(dh, cache))
        skipping = dh.copy()
        skipping[:, missing] = 0
        gradients[at] = original(skipping, cache)[at]
        return tuple(gradients)

    wrong = wrong_rows(case, {f"{name}_backward": mutant})
    assert [row.quantity for row in wrong] == [f"d{gradient}"]


@pytest.mark.parametrize("name", ["temporal_affine", "temporal_softmax_loss", "dropout"])
def test_a_missing_time_step_of_a_temporal_layer_is_caught(name):
    case = BY_NAME[name]

    def skip_first_step(g):
        g = g.copy()
        g[:, 0] = 0
        return g

    assert wrong_rows(case, mutate_gradient(case, "x", skip_first_step))


@pytest.mark.parametrize("case", [c for c in CASES if c.gates], ids=lambda c: c.name)
def test_swapped_gates_are_caught_and_named(case):
    def swap(g):
        i, f, o, last = np.split(g, 4, axis=-1)
        return np.concatenate([i, f, last, o], axis=-1)

    for gradient in ("Wx", "Wh", "b"):
        mutant = mutate_gradient(case, gradient, swap)
        wrong = wrong_rows(case, mutant, differences=remembered(case))
        assert [row.quantity for row in wrong] == [f"d{gradient}"]
        assert "gates swapped" in wrong[0].problem


def test_every_parameter_of_a_model_must_have_a_gradient():
    original = our_function("CaptioningRNN")

    class Forgetful(original):
        def loss(self, features, captions):
            loss, grads = super().loss(features, captions)
            del grads["b_proj"]
            return loss, grads

    wrong = wrong_rows(BY_NAME["captioning_lstm"], {"CaptioningRNN": Forgetful})
    assert "None (is it computed yet?) for db_proj" in wrong[0].problem
    assert len(wrong) == 1


# ---------------------------------------------------------------------------------------------
# Hints
# ---------------------------------------------------------------------------------------------


def test_hints_name_the_mistake():
    rng = np.random.default_rng(0)
    square, wide = rng.standard_normal((5, 5)), rng.standard_normal((3, 8))
    sequence = rng.standard_normal((2, 4, 3))
    without_step = sequence.copy()
    without_step[:, 2] = 0
    last_only = 0.3 * sequence
    last_only[:, -1] = sequence[:, -1]
    # sums of as many products as there are steps: all four, and the last alone
    x, da = rng.standard_normal((4, 7)), rng.standard_normal((4, 6))
    gate = wide.copy()
    gate[:, 2:4] *= 1.5
    for got, expected, gates, words in (
        (np.full(3, np.nan), np.ones(3), False, "NaN"),
        (np.zeros(3), np.ones(3), False, "all zeros"),
        (np.ones(3), np.zeros(3), False, "should be all zeros"),
        (-square, square, False, "wrong sign"),
        (2 * square, square, False, "2 times too large"),
        (square / 7, square, False, "a sum averaged"),
        (square / 4, square, False, "0.25 times the right value"),
        (-2 * square, square, False, "-2 times the right value"),
        (square.T, square, False, "transposed"),
        (np.roll(wide, 2, axis=1), wide, True, "gates swapped"),
        (gate, wide, True, "gate f alone"),
        (without_step, sequence, False, "zero at [:, 2]"),
        (last_only, sequence, False, "right at the last step only"),
        (x[-1:].T @ da[-1:], x.T @ da, False, "missing sum over time"),
        (x[1:].T @ da[1:], x.T @ da, False, "time step or a sample left out"),
        (rng.standard_normal((5, 5)), square, False, "wrong everywhere"),
    ):
        assert words in diagnose(got, expected, gates, is_weight=True), words


# ---------------------------------------------------------------------------------------------
# Central differences
# ---------------------------------------------------------------------------------------------


def test_numerical_gradient_perturbs_in_place_and_restores():
    x = np.random.default_rng(0).standard_normal((3, 4))
    kept, seen = x.copy(), []

    def f(argument):
        assert argument is x
        seen.append(not np.array_equal(x, kept))
        return np.sum(np.sin(x))

    gradient = eval_numerical_gradient(f, x, verbose=False, h=1e-5)
    np.testing.assert_allclose(gradient, np.cos(kept), atol=1e-9)
    np.testing.assert_array_equal(x, kept)
    assert all(seen)
    assert len(seen) == 2 * x.size


def test_numerical_gradient_of_an_array():
    rng = np.random.default_rng(0)
    x, df = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    got = eval_numerical_gradient_array(lambda x: x**3, x, df)
    np.testing.assert_allclose(got, 3 * x**2 * df, atol=1e-8)


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def test_command_all_green(command):
    code, out, _ = command("core.gradient_check")
    assert code == 0, out
    assert "WRONG" not in out
    for case in CASES:
        assert case.name in out


def test_command_one_layer_as_json(command):
    code, out, _ = command("core.gradient_check", "--layer", "lstm_step", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["passed"] is True
    assert {row["layer"] for row in report["rows"]} == {"lstm_step"}
    assert {"dx", "dprev_h", "dprev_c", "dWx", "dWh", "db"} <= {
        r["quantity"] for r in report["rows"]
    }
    assert max(row["torch_error"] for row in report["rows"]) < 1e-10


LEARNERS = {
    "transposed product": (
        """
        import numpy as np
        def rnn_step_forward(x, prev_h, Wx, Wh, b):
            next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
            return next_h, (x, prev_h, Wx, Wh, next_h)
        def rnn_step_backward(dnext_h, cache):
            x, prev_h, Wx, Wh, next_h = cache
            da = dnext_h * (1 - next_h ** 2)
            return da @ Wx.T, da @ Wh.T, x.T @ da, (prev_h.T @ da).T, da.sum(axis=0)
        """,
        "rnn_step: dWh is transposed",
    ),
    "two gates swapped": (
        """
        import numpy as np
        from core.rnn_layers import lstm_step_backward as ours
        def lstm_step_backward(dnext_h, dnext_c, cache):
            dx, dh, dc, dWx, dWh, db = ours(dnext_h, dnext_c, cache)
            i, f, o, g = np.split(dWx, 4, axis=1)
            return dx, dh, dc, np.concatenate([f, i, o, g], axis=1), dWh, db
        """,
        "lstm_step: dWx has its gates swapped",
    ),
    "missing sum over time": (
        """
        from core import rnn_layers as ours
        def rnn_forward(x, h0, Wx, Wh, b):
            h, cache = ours.rnn_forward(x, h0, Wx, Wh, b)
            return h, (x, h, cache)
        def rnn_backward(dh, cache):
            x, h, cache = cache
            dx, dh0, dWx, dWh, db = ours.rnn_backward(dh, cache)
            da = dh[:, -1] * (1 - h[:, -1] ** 2)
            return dx, dh0, x[:, -1].T @ da, dWh, db
        """,
        "missing sum over time",
    ),
    "raises": (
        "def affine_forward(x, w, b):\n    return undefined",
        "affine_forward raised NameError",
    ),
    "ends the program": (
        "import sys\ndef affine_forward(x, w, b):\n    sys.exit(0)",
        "affine_forward raised SystemExit",
    ),
    "transposed recurrent product": (
        """
        def rnn_step_backward(dnext_h, cache):
            x, prev_h, Wx, Wh, next_h = cache
            da = dnext_h * (1 - next_h ** 2)
            return da @ Wx.T, da @ Wh, x.T @ da, prev_h.T @ da, da.sum(axis=0)
        """,
        "dprev_h comes from a transposed product",
    ),
    "float32": (
        """
        import numpy as np
        from core.rnn_layers import affine_backward as ours
        def affine_backward(dout, cache):
            return tuple(g.astype(np.float32).astype(float) for g in ours(dout, cache))
        """,
        "computed in float32",
    ),
    "a partial of another function": (
        """
        from functools import partial
        def scaled(factor, dout, cache):
            x, w = cache
            dx = factor * (dout @ w.T).reshape(x.shape)
            return dx, x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)
        affine_backward = partial(scaled, 3.0)
        """,
        "dx is 3 times too large",
    ),
    "no model at all": (
        "def CaptioningRNN(*arguments, **options):\n    return None",
        "raised Attri",
    ),
    "returns None": ("def affine_forward(x, w, b):\n    pass", "affine_forward returned None"),
    "None gradient": (
        "def affine_backward(dout, cache):\n    x, w = cache\n    return None, w, w[0]",
        "affine_backward returned None (is it computed yet?) for dx",
    ),
    "list for an array": (
        "def affine_backward(dout, cache):\n    return [1.0], dout, dout",
        "affine_backward returned a list, expected a NumPy array, for dx",
    ),
    "forward alone, with its own cache": (
        """
        import numpy as np
        def rnn_step_forward(x, prev_h, Wx, Wh, b):
            return np.tanh(x @ Wx - prev_h @ Wh + b), None
        """,
        "next_h the forward pass itself differs",
    ),
    "backward alone, with another cache": (
        "def rnn_step_backward(dnext_h, cache):\n    x, h = cache",
        "the cache that it got is that of core's rnn_step_forward",
    ),
    "forward that writes": (
        """
        import numpy as np
        def affine_forward(x, w, b):
            np.abs(b, out=b)
            return x.reshape(len(x), -1) @ w + b, (x, w)
        """,
        "writes into b",
    ),
    "averaged over the batch": (
        """
        from core.rnn_layers import affine_backward as ours
        def affine_backward(dout, cache):
            dx, dw, db = ours(dout, cache)
            return dx, dw / len(dout), db
        """,
        "affine: dw is 0.",
    ),
    "a dataclass and future annotations": (
        """
        from __future__ import annotations
        from dataclasses import dataclass
        @dataclass
        class Cache:
            x: int
        def affine_backward(dout, cache):
            return dout
        """,
        "affine_backward returned 1 values, expected 3",
    ),
    "too few gradients": (
        "def affine_backward(dout, cache):\n    return dout, dout",
        "affine_backward returned 2 values, expected 3",
    ),
    "wrong shape": (
        "def affine_backward(dout, cache):\n    return dout, dout, dout",
        "affine_backward returned shape",
    ),
    "writes into its argument": (
        """
        from core.rnn_layers import lstm_step_backward as ours
        def lstm_step_backward(dnext_h, dnext_c, cache):
            gradients = ours(dnext_h, dnext_c, cache)
            dnext_c += 1
            return gradients
        """,
        "writes into dnext_c",
    ),
    "wrong forward": (
        """
        import numpy as np
        def rnn_step_forward(x, prev_h, Wx, Wh, b):
            next_h = np.tanh(x @ Wx + prev_h @ Wh)
            return next_h, (x, prev_h, Wx, Wh, next_h)
        """,
        "next_h the forward pass itself differs",
    ),
    "model that raises": (
        """
        class CaptioningRNN:
            def __init__(self, *arguments, **options):
                pass
            def loss(self, features, captions):
                return self.nothing
        """,
        "CaptioningRNN raised AttributeError",
    ),
}


@pytest.mark.parametrize(("source", "words"), LEARNERS.values(), ids=LEARNERS)
def test_a_learners_file_gets_a_sentence(command, tmp_path, source, words):
    path = tmp_path / "my_layers.py"
    path.write_text(textwrap.dedent(source))
    code, out, error = command("core.gradient_check", "--impl", path)
    assert code == 1, out + error
    assert words in out
    assert "Traceback" not in out + error


def test_a_right_file_passes_and_the_rest_is_listed(command, tmp_path):
    path = tmp_path / "my_layers.py"
    path.write_text(
        "from core.rnn_layers import *\n"
        "def affine_forward(x, w, b):\n    return x.reshape(len(x), -1) @ w + b, (x, w)\n"
        "def helper():\n    pass\n"
    )
    code, out, _ = command("core.gradient_check", "--impl", path)
    assert code == 0, out
    assert "replaced by" in out
    assert "skipped, not in" in out
    assert "lstm" in out.split("skipped")[1]
    assert "ignored, not a known name: helper" in out
    assert "forward only, " in out
    code, out, _ = command("core.gradient_check", "--impl", path, "--json")
    assert json.loads(out)["ignored"] == ["helper"]
    assert json.loads(out)["forward_only"] == ["affine"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(:\n", "line 1"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def helper():\n    pass", "defines none of the functions"),
    ],
)
def test_a_file_that_cannot_be_used(refuses, tmp_path, source, words):
    path = tmp_path / "my_layers.py"
    path.write_text(source)
    refuses("core.gradient_check", "--impl", path, says=(str(path), words))


def test_bad_options(refuses):
    refuses("core.gradient_check", "--layer", "gru", says=("gru", "lstm_step"))
    refuses("core.gradient_check", "--impl", "nowhere.py", says=("nowhere.py", "no such file"))
    refuses("core.gradient_check", "--seed", "-1", says=("--seed", "-1"))
