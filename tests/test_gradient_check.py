"""The gradient check passes on right code, and fails on every kind of wrong with the right hint."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import slow_but
from hypothesis import given, settings
from hypothesis import strategies as st

from core.gradient_check import (
    DIFFERENCE_TOLERANCE,
    TORCH_TOLERANCE,
    apart,
    check_case,
    checking,
    diagnose,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    hints,
    relative_error,
    told_apart,
)
from core.gradient_check import __main__ as gradient_check_command
from core.gradient_check.case import our_function
from core.gradient_check.cases import CASES
from core.gradient_check.directions import measured_gradient

BY_NAME = {case.name: case for case in CASES}
LAYERS = [case for case in CASES if case.functions[0].endswith("_forward")]


_remembered = {}


def remembered(case):
    """Central differences once for all inputs: a mutated backward leaves the forward as it is."""

    def differences(f, x, _):
        key = case.name, x.shape, x.tobytes(), float(f(x))  # the value stands for the other inputs
        if key not in _remembered:
            _remembered[key] = eval_numerical_gradient(f, x)
        return _remembered[key]

    return differences


def stream_of(case):
    """The random numbers that the command draws for a case: the same inputs."""
    return np.random.default_rng([0, *case.name.encode()])


@pytest.fixture
def without_hints(monkeypatch):
    """What is wrong counts here, not why: to look for a slip that was made takes its time."""
    monkeypatch.setattr(checking, "wrong_gradients", lambda _, bad, __: dict.fromkeys(bad, ""))


def wrong_rows(case, functions=None, rng=None, differences=measured_gradient, **sizes):
    rows = check_case(case, rng or stream_of(case), functions, differences, **sizes)
    return [row for row in rows if not row.passed]


# One sample and one step, all else small.
SMALL = {"N": 1, "T": 1, "D": 2, "W": 3, "H": 2, "V": 5, "L": 3, "C": 4, "K": 2, "S": 3, "F": 2}


def with_autograd_for_differences(case):
    """The case, and in the place of central differences, slow for a whole model, what torch has."""
    inputs, found = {}, {}

    def make(rng, **sizes):
        inputs.update(case.make(rng, **sizes))
        found.clear()
        return inputs

    def differences(_, x, __):
        if not found:  # of all inputs at once
            tensors = {
                n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in inputs.items()
            }
            leaves = [tensors[name].requires_grad_() for name in case.differentiable]
            [loss] = case.torch(**tensors)
            gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
            found.update(zip(case.differentiable, gradients, strict=True))
        (gradient,) = (found[name] for name in case.differentiable if inputs[name] is x)
        return gradient.numpy()

    return replace(case, make=make), differences


# ---------------------------------------------------------------------------------------------
# Right code passes
# ---------------------------------------------------------------------------------------------


def gradients_hold(case, **sizes):
    rows = check_case(case, stream_of(case), None, remembered(case), **sizes)
    assert [row.quantity for row in rows if not row.passed] == []
    # Each output once, and each gradient: no check is left out in silence.
    assert len(rows) == max(1, len(case.outputs)) + len(case.differentiable)


BLOCKS = [case for case in LAYERS if case.name.startswith("decoder_block")]  # of many gradients


@pytest.mark.parametrize(
    "case",
    slow_but(LAYERS, *(c for c in LAYERS if c not in BLOCKS and c.name != "attention_lstm")),
    ids=lambda case: case.name,
)
def test_one_sample_and_one_step_are_enough(case):
    """The two together, and for whole models too: ``test_command_all_green``."""
    for letter in {"N", "T"} & set(case.sizes):
        sizes = {**SMALL, "N": 2, "T": 3, letter: 1}
        gradients_hold(case, **{x: sizes[x] for x in case.sizes})


@settings(deadline=None, max_examples=10)
@given(
    case=st.sampled_from(LAYERS),
    drawn=st.lists(st.integers(2, 4), min_size=7, max_size=7),
    seed=st.integers(0, 999),
)
def test_any_shapes_will_do(case, drawn, seed):
    sizes = dict(zip(case.sizes, drawn, strict=False))
    assert wrong_rows(case, rng=np.random.default_rng(seed), **sizes) == []


def test_limits_are_as_promised():
    assert TORCH_TOLERANCE == 1e-10
    assert DIFFERENCE_TOLERANCE == 1e-6


# ---------------------------------------------------------------------------------------------
# Wrong code fails: every gradient of every layer, with one sample's term lost
# ---------------------------------------------------------------------------------------------


def mutate_gradients(case, change):
    """The case's functions; ``change`` makes another gradient of each right one.

    It is called with the name, the gradient, and that which lacks what the first sample adds.
    """
    last, names = case.functions[-1], case.differentiable
    original = our_function(last)

    if last == "decoder_block_backward":

        def gradients_of(dout, cache):
            dx, dmemory, grads = original(dout, cache)
            return {"x": dx, "memory": dmemory} | grads

        def mutant(dout, cache):
            gradients = gradients_of(dout, cache)
            without = gradients_of(without_first(dout), cache)
            changed = {name: change(name, g, without[name]) for name, g in gradients.items()}
            return changed.pop("x"), changed.pop("memory"), changed

    elif last.endswith("_backward"):

        def mutant(*arguments):
            *douts, cache = arguments
            gradients, without = original(*arguments), original(*map(without_first, douts), cache)
            if len(names) == 1:
                return change(*names, gradients, without)
            return tuple(map(change, names, gradients, without))

    elif last.startswith("Captioning"):

        class Mutant(original):
            def loss(self, features, captions):
                loss, grads = super().loss(features, captions)
                # a caption of <NULL> adds nothing
                _, without = super().loss(features, without_first(captions))
                return loss, {name: change(name, g, without[name]) for name, g in grads.items()}

        mutant = Mutant
    else:

        def mutant(*arguments):
            loss, gradient = original(*arguments)
            return loss, change(*names, gradient, without_first(gradient))

    return {last: mutant}


def mutate_gradient(case, wanted, change):
    """As ``mutate_gradients``, but for one of them."""
    return mutate_gradients(
        case, lambda name, g, without: change(g, without) if name == wanted else g
    )


def without_first(x):
    x = x.copy()
    x[0] = 0
    return x


# Differences of whole models take seconds: make test has PyTorch's gradients in their place.
WITH_GRADIENTS = [case for case in CASES if case.differentiable]
MODELS = [case for case in WITH_GRADIENTS if case.name.startswith("captioning_")]
QUICK = [case for case in WITH_GRADIENTS if case not in (*MODELS, *BLOCKS[1:])]


@pytest.mark.usefixtures("without_hints")
@pytest.mark.parametrize("case", slow_but(WITH_GRADIENTS, *QUICK), ids=lambda case: case.name)
def test_gradients_hold_and_a_lost_sample_is_caught_in_each_by_both_referees(case):
    """Right in shape, sign and size, and for all samples but one: the mildest of the slips.

    What is 0 whatever the samples are, as the gradient of a bias that no score can feel, is wrong
    as soon as it is something.
    """
    gradients_hold(case)
    a_lost_sample_is_caught(case, remembered(case))


@pytest.mark.usefixtures("without_hints")
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_a_lost_sample_is_caught_in_each_gradient_of_a_model(case):
    case, differences = with_autograd_for_differences(case)
    assert wrong_rows(case, differences=differences) == []
    a_lost_sample_is_caught(case, differences)


def a_lost_sample_is_caught(case, differences):

    def lose(name, g, without):
        return g + 1e-3 if name in case.zero else without

    wrong = wrong_rows(case, mutate_gradients(case, lose), differences=differences)
    assert [row.quantity for row in wrong] == [f"d{name}" for name in case.differentiable]
    for row in wrong:
        assert row.difference_error > 100 * DIFFERENCE_TOLERANCE, row
        assert row.torch_error > 1e4 * TORCH_TOLERANCE, row


@pytest.mark.usefixtures("without_hints")
@pytest.mark.parametrize(
    "case", slow_but(["affine", "lstm_step", "captioning_attention"], "affine", "lstm_step")
)
def test_an_error_just_above_the_limit_is_caught_where_it_is_and_nowhere_else(case):
    case = BY_NAME[case]
    for name in case.differentiable:
        mutant = mutate_gradient(case, name, lambda g, _: g * (1 + 1e-5))
        wrong = wrong_rows(case, mutant, differences=remembered(case))
        assert [row.quantity for row in wrong] == [f"d{name}"]


def test_a_key_bias_with_a_gradient_gets_a_hint():
    case = BY_NAME["multi_head_attention"]
    (row,) = wrong_rows(case, mutate_gradient(case, "bk", lambda g, _: g + 1e-3))
    assert "should be all zeros" in row.problem


@pytest.mark.usefixtures("without_hints")
@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_a_missing_time_step_is_caught(name):
    """Each gradient as it would be if the loop skipped the first or the last step's upstream."""
    case = BY_NAME[name]
    original = our_function(f"{name}_backward")
    for missing in (0, -1):

        def mutant(dh, cache, missing=missing):
            skipping = dh.copy()
            skipping[:, missing] = 0
            return original(skipping, cache)

        wrong = wrong_rows(case, {f"{name}_backward": mutant}, differences=remembered(case))
        assert [row.quantity for row in wrong] == [f"d{name}" for name in case.differentiable]


@pytest.mark.parametrize("name", ["temporal_affine", "temporal_softmax_loss", "dropout"])
def test_a_missing_time_step_of_a_temporal_layer_is_caught(name):
    case = BY_NAME[name]

    def skip_first_step(g, _):
        g = g.copy()
        g[:, 0] = 0
        return g

    assert wrong_rows(case, mutate_gradient(case, "x", skip_first_step))


# ---------------------------------------------------------------------------------------------
# The classic slips; those of a step, with their hints, are in tests/test_lessons.py
# ---------------------------------------------------------------------------------------------


def loop_without_memory(kind):
    """A sequence whose backward forgets that the next step reads the state, too."""
    forward, backward = (our_function(f"{kind}_step_{way}") for way in ("forward", "backward"))

    def whole_forward(x, h0, Wx, Wh, b):
        states, caches = [(h0, np.zeros_like(h0))], []
        for t in range(x.shape[1]):
            *state, cache = forward(x[:, t], *states[-1][: 1 + (kind == "lstm")], Wx, Wh, b)
            states.append(tuple(state))
            caches.append(cache)
        return np.stack([state[0] for state in states[1:]], axis=1), caches

    def whole_backward(dh, caches):
        nothing = [np.zeros_like(dh[:, 0])] * (kind == "lstm")
        steps = [backward(dh[:, t], *nothing, cache) for t, cache in enumerate(caches)]
        dx, dh0 = np.stack([step[0] for step in steps], axis=1), steps[0][1]
        return dx, dh0, *(sum(step[i] for step in steps) for i in (-3, -2, -1))

    return {f"{kind}_forward": whole_forward, f"{kind}_backward": whole_backward}


def statistics_held_constant(dout, cache):
    """A layer norm whose mean and variance would not depend on x."""
    normal, scale, gamma = cache
    return (
        dout * gamma * scale,
        (dout * normal).sum(axis=(0, 1)),
        dout.sum(axis=(0, 1)),
    )


def softmax_without_its_sum(dout, cache):
    """Weights that would not have to sum to 1; an upstream of ones sees no difference."""
    q, k, v, weights = cache
    dscores = weights * (dout @ v.swapaxes(-1, -2)) * q.shape[-1] ** -0.5
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dout


def scale_of_the_scores_lost(dout, cache):
    dq, dk, dv = our_function("scaled_dot_product_attention_backward")(dout, cache)
    d = dq.shape[-1]
    return dq * d**0.5, dk * d**0.5, dv


def weights_read_once(dcontext, dweights, cache):
    """The gradient that reaches the weights from elsewhere is not used."""
    return our_function("additive_attention_backward")(dcontext, 0 * dweights, cache)


def attention_forward_with_weights(*arguments):
    context, weights, cache = our_function("additive_attention_forward")(*arguments)
    return context, weights, (weights, cache)


def features_read_once(dcontext, dweights, cache):
    """The keys are made of the features, too."""
    weights, cache = cache
    _, *others = our_function("additive_attention_backward")(dcontext, dweights, cache)
    return weights[:, :, None] * dcontext[:, None], *others


def loss_without_mask_in_the_gradient(x, y, mask):
    function = our_function("temporal_softmax_loss")
    return function(x, y, mask)[0], function(x, y, np.ones_like(mask))[1]


def loss_averaged_over_time(x, y, mask):
    return tuple(value / x.shape[1] for value in our_function("temporal_softmax_loss")(x, y, mask))


def residual_lost(dout, cache):
    dx, *others = our_function("decoder_block_backward")(dout, cache)
    return dx - dout, *others


EVERY = ("dx", "dh0", "dWx", "dWh", "db")
SLIPS = {
    "no flow through the time of an RNN": ("rnn", loop_without_memory("rnn"), EVERY),
    "no flow through the time of an LSTM": ("lstm", loop_without_memory("lstm"), EVERY),
    "mean and variance constant": (
        "layer_norm", {"layer_norm_backward": statistics_held_constant}, ("dx",),
    ),
    "softmax without its sum": (
        "scaled_dot_product_attention",
        {"scaled_dot_product_attention_backward": softmax_without_its_sum}, ("dq", "dk"),
    ),
    "scale of the scores lost": (
        "scaled_dot_product_attention",
        {"scaled_dot_product_attention_backward": scale_of_the_scores_lost}, ("dq", "dk"),
    ),
    "a second reader of the weights": (
        "additive_attention", {"additive_attention_backward": weights_read_once},
        ("dfeatures", "dh", "dWf", "dWh", "db", "dv"),
    ),
    "a second reader of the features": (
        "additive_attention",
        {
            "additive_attention_forward": attention_forward_with_weights,
            "additive_attention_backward": features_read_once,
        },
        ("dfeatures",),
    ),
    "dropout's scale": ("dropout", {"dropout_backward": lambda dout, m: dout * (m > 0)}, ("dx",)),
    "mask": (
        "temporal_softmax_loss", {"temporal_softmax_loss": loss_without_mask_in_the_gradient},
        ("dx",),
    ),
    "a mean over time": (  # its gradient is that of its own loss
        "temporal_softmax_loss", {"temporal_softmax_loss": loss_averaged_over_time}, ("loss",),
    ),
    "residual": ("decoder_block", {"decoder_block_backward": residual_lost}, ("dx",)),
}  # fmt: skip


@pytest.mark.parametrize(("case", "functions", "quantities"), SLIPS.values(), ids=SLIPS)
def test_classic_slips_are_caught(case, functions, quantities):
    wrong = wrong_rows(BY_NAME[case], functions)
    assert [row.quantity for row in wrong] == list(quantities)
    if "loop" in str(functions):
        assert "right at the last step only" in wrong[0].problem


GATED = [case for case in CASES if case.gates]


@pytest.mark.parametrize(
    "case",
    slow_but(GATED, *(c for c in GATED if "attention" not in c.name)),
    ids=lambda case: case.name,
)
def test_swapped_gates_are_caught_and_named(case):
    def swap(g, _):
        i, f, o, last = np.split(g, 4, axis=-1)
        return np.concatenate([i, f, last, o], axis=-1)

    differences = remembered(case)
    if case in MODELS:
        case, differences = with_autograd_for_differences(case)
    for gradient in ("Wx", "Wh", "b"):
        mutant = mutate_gradient(case, gradient, swap)
        wrong = wrong_rows(case, mutant, differences=differences)
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


def test_hint_3_for_a_whole_sequence_shows_our_loop():
    """No line makes such a gradient alone: the loop is what is worth reading."""
    for name in ("rnn_backward", "lstm_backward", "attention_lstm_backward"):
        for quantity in ("dx", "dWh", "dwords", "db_attend"):
            one, two, three = ("\n".join(hints(name, quantity, hint)) for hint in (1, 2, 3))
            assert one == ""
            assert "go through the steps from the last to the first" in two
            assert "our code says" not in two
            assert three.startswith(two)
            loop = three.partition("Hint 3: our code says\n")[2]
            assert "for t in reversed(range(" in loop
            assert f"{name.replace('_backward', '_step_backward')}(" in loop
    # a step and a layer: the equation, and our function
    two, three = (hints("lstm_step_backward", "dprev_c", hint) for hint in (2, 3))
    assert two == [
        "Hint 2: dprev_c comes from this line of the forward: next_c = f * prev_c + i * g"
    ]
    assert any("dc * f" in line for line in three)
    assert not any("Returns" in line for line in three)


def rounded(dtype):
    """An affine layer that computes in a smaller format, and returns float64."""

    def affine_forward(x, w, b):
        rows = x.reshape(len(x), -1)
        out = rows.astype(dtype) @ w.astype(dtype) + b.astype(dtype)
        return out.astype(float), (x, w)

    return affine_forward


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [
        (np.float32, "is right to seven digits only: is it computed in float32?"),
        (np.float16, "is right to three digits only: is it computed in float16?"),
    ],
)
def test_a_forward_in_a_smaller_format_is_called_that(dtype, hint):
    [row] = wrong_rows(BY_NAME["affine"], {"affine_forward": rounded(dtype)})
    assert row.problem.startswith(hint)
    got, expected = re.search(r"got (\S+), expected (\S+)$", row.problem).groups()
    assert got != expected


def test_a_right_backward_of_a_forward_in_float32_is_not_blamed():
    functions = {
        "affine_forward": rounded(np.float32),
        "affine_backward": our_function("affine_backward"),
    }
    out, *gradients = wrong_rows(BY_NAME["affine"], functions)
    assert "float32" in out.problem
    assert len(gradients) == 3
    for row in gradients:
        assert row.problem.startswith("is PyTorch's gradient, but not that of the forward")
        got, expected = re.search(r"got (\S+), expected (\S+)$", row.problem).groups()
        assert float(got) != float(expected)


@pytest.mark.parametrize("change", [1e-9, -3e-12, 2e-15])
def test_two_numbers_that_differ_are_shown_to_differ(change):
    a, b = told_apart(1.25 + change, 1.25)
    assert float(a) == 1.25 + change
    assert float(b) == 1.25
    assert told_apart(1.5, 2.0) == ("1.5", "2")


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


def test_command_all_green(command, monkeypatch):
    """With the sizes of the command: ``test_gradients_hold_and_...``, which draws what it draws."""

    def small(case, rng, functions):
        sizes = {letter: SMALL[letter] for letter in case.sizes}
        if case not in MODELS:
            return check_case(case, rng, functions, **sizes)
        case, differences = with_autograd_for_differences(case)
        return check_case(case, rng, functions, differences, **sizes)

    monkeypatch.setattr(gradient_check_command, "check_case", small)
    code, out, _ = command("core.gradient_check")
    assert code == 0, out
    assert "WRONG" not in out
    for case in CASES:
        assert case.name in out
    quantities = sum(max(1, len(case.outputs)) + len(case.differentiable) for case in CASES)
    assert f"all {quantities} hold" in out
    assert quantities == 371  # of which the documents speak


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
    "returns None": ("def affine_forward(x, w, b):\n    x + 1", "affine_forward returned None"),
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
        "affine: dw is a mean over the batch where the sum belongs",
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


@pytest.fixture
def at_home(monkeypatch):
    """A learner's file runs in this process: another one takes seconds to start."""

    def messages(path, seed, names, streams):
        sent = []
        with redirect_stdout(sys.stderr if streams else sys.stdout):
            apart.serve(str(path), seed, names, sent.append)
        return iter(json.loads(json.dumps(sent)))

    monkeypatch.setattr(apart, "messages_of", messages)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("source", "words"), LEARNERS.values(), ids=LEARNERS)
def test_a_learners_file_gets_a_sentence(command, tmp_path, source, words):
    path = tmp_path / "my_layers.py"
    path.write_text(textwrap.dedent(source))
    code, out, error = command("core.gradient_check", "--impl", path)
    assert code == 1, out + error
    assert words in out
    assert "Traceback" not in out + error


@pytest.mark.usefixtures("at_home")
def test_a_right_file_passes_and_the_rest_is_listed(command, tmp_path):
    path = tmp_path / "my_layers.py"
    path.write_text(
        "from core.rnn_layers import *\n"
        "def affine_forward(x, w, b):\n    return x.reshape(len(x), -1) @ w + b, (x, w)\n"
        "def helper():\n    return 1\n"
    )
    code, out, _ = command("core.gradient_check", "--impl", path)
    assert code == 0, out
    assert "replaced by" in out
    assert "skipped, not in" in out
    assert f"{len(CASES) - 1} of {len(CASES)} layers" in out
    assert "ignored, not a known name: helper" in out
    assert "forward only, " in out
    code, out, _ = command("core.gradient_check", "--impl", path, "--json")
    assert json.loads(out)["ignored"] == ["helper"]
    assert "lstm" in json.loads(out)["skipped"]
    assert json.loads(out)["forward_only"] == ["affine"]


@pytest.mark.usefixtures("at_home")
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


@pytest.mark.usefixtures("at_home")
def test_bad_options(refuses):
    refuses("core.gradient_check", "--layer", "gru", says=("gru", "lstm_step"))
    refuses("core.gradient_check", "--impl", "nowhere.py", says=("nowhere.py", "no such file"))
    refuses("core.gradient_check", "--seed", "-1", says=("--seed", "-1"))


# ---------------------------------------------------------------------------------------------
# Differences along random directions
# ---------------------------------------------------------------------------------------------


def cubes(calls):
    def f(x):
        calls.append(1)
        return float(np.sum(x**3))

    return f


def test_a_right_claim_is_measured_in_four_calls_and_x_is_as_before():
    calls, x = [], np.random.default_rng(0).standard_normal((5, 7))
    before = x.copy()
    measured = measured_gradient(cubes(calls), x, 3 * x**2)
    assert len(calls) == 4  # two directions, two sides
    assert relative_error(3 * x**2, measured) < DIFFERENCE_TOLERANCE
    assert np.array_equal(x, before)


@pytest.mark.parametrize("entry", [0, 17, 34])
def test_one_wrong_entry_of_a_claim_has_every_entry_measured(entry):
    calls, x = [], np.random.default_rng(1).standard_normal((5, 7))
    claim = 3 * x**2
    claim.flat[entry] += 1e-3
    measured = measured_gradient(cubes(calls), x, claim)
    assert len(calls) == 4 + 2 * x.size
    assert relative_error(3 * x**2, measured) < 1e-8  # the truth, not the claim


@pytest.mark.parametrize("claim", [None, np.ones(3), np.full((5, 7), np.nan), "text"])
def test_without_a_usable_claim_every_entry_is_measured(claim):
    x = np.random.default_rng(2).standard_normal((5, 7))
    assert relative_error(3 * x**2, measured_gradient(cubes([]), x, claim)) < 1e-8
