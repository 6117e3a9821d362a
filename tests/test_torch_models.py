"""The twins in PyTorch compute what the NumPy models compute, and their states go back and forth.

In float64 the two differ by rounding alone. Losses and gradients of many batches, with smoothing
and weights, are compared in ``tests/test_fast.py``, where the engines are side by side.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from test_models import (
    CAPTIONS,
    MODELS,
    VOCABULARY,
    N,
    V,
    build,
    every_grid_model,
    every_model,
    images_for,
    step_by_step,
)

from core import decoding, optim
from core.layers import dropout_forward
from core.models import build_model
from core.torch_models import build_torch_model
from core.torch_models.convert import to_numpy, to_torch
from core.torch_models.optim import TorchOptimizer

EXACT = {"rtol": 1e-10, "atol": 1e-13}  # float64, sums in another order


def pair(case, **more):
    """A NumPy model, none of whose parameters is 0 or 1, and its twin."""
    model = build(case, **more)
    return model, twin_of(case, model, **more)


def twin_of(case, model, **more):
    name, config = MODELS[case]
    config = {"input_dim": model.input_dim, "dtype": np.float64, **config, **more}
    return build_torch_model(name, config, VOCABULARY, model.params)


def gradients(twin, loss):
    twin.zero_grad()
    loss.backward()
    return to_numpy(twin, {k: p.grad for k, p in twin.named_parameters() if p.requires_grad})


def assert_equal_arrays(found, expected, rtol):
    """Names, shapes, and values: up to ``rtol`` of an array's largest entry.

    Where that is 0 but for rounding, as of a query with one key, up to 1e-5 of ``rtol``.
    """
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].shape == array.shape, key
        atol = rtol * (np.abs(array).max() + 1e-5)
        np.testing.assert_allclose(found[key], array, rtol=0, atol=atol, err_msg=key)


# -- loss and gradients ------------------------------------------------------------------------


@every_grid_model
def test_one_location_gives_the_gradients_of_numpy_too(case):
    model, twin = pair(case)
    features = images_for(model, locations=1)
    with pytest.warns(UserWarning, match="cannot learn"):
        expected, grads = model.loss(features, CAPTIONS)
    for array in (features, features[:, 0]):
        with pytest.warns(UserWarning, match="cannot learn") as caught:
            loss = twin.loss(array, CAPTIONS)
        assert str(caught[0].message).endswith(": " + ", ".join(model.needs_a_grid()))
        assert loss.item() == pytest.approx(expected, rel=1e-10)
        found = gradients(twin, loss)
        dead = {key for key, gradient in found.items() if np.abs(gradient).max() < 1e-14}
        assert dead == set(model.needs_a_grid())
        for key in found.keys() - dead:
            np.testing.assert_allclose(found[key], grads[key], **EXACT, err_msg=key)


@every_model
def test_the_loss_is_the_cross_entropy_of_forward(case):
    model, twin = pair(case)
    features = images_for(model)
    scores = twin(features, CAPTIONS)
    expected = step_by_step(model, features, CAPTIONS[:, :-1])
    assert scores.shape == expected.shape
    np.testing.assert_allclose(scores.log_softmax(2).detach().numpy(), expected, **EXACT)
    log_p = decoding.word_log_probabilities(twin, features, CAPTIONS)
    np.testing.assert_allclose(
        log_p, decoding.word_log_probabilities(model, features, CAPTIONS), **EXACT
    )
    assert -log_p.sum() / N == pytest.approx(twin.evaluate(features, CAPTIONS), rel=1e-9)


@every_model
def test_a_gradient_flows_on_into_features_that_are_a_tensor(case):
    model, twin = pair(case)
    features = torch.tensor(images_for(model), requires_grad=True)
    loss = twin.loss(features, CAPTIONS)
    assert loss.item() == twin.loss(images_for(model), CAPTIONS).item()
    loss.backward()
    per_image = features.grad.flatten(1).abs().amax(1)
    assert (per_image[:2] > 1e-6).all()  # the third caption has no word


@every_model
@pytest.mark.parametrize("kind", ["int32", "uint16", "reversed", "read-only"])
def test_captions_may_be_any_integers_in_any_order_of_memory(case, kind):
    model, twin = pair(case)
    features, captions = images_for(model), CAPTIONS
    expected = twin.evaluate(features, captions)
    if kind == "reversed":
        features, captions = (x[::-1].copy()[::-1] for x in (features, captions))
    elif kind == "read-only":
        features, captions = features.copy(), captions.copy()
        features.flags.writeable = captions.flags.writeable = False
    else:
        captions = captions.astype(kind)
    assert twin.evaluate(features, captions) == expected


# -- training ----------------------------------------------------------------------------------

NUMBERS = {
    "sgd": {"learning_rate": 0.1},
    "sgd_momentum": {"learning_rate": 0.05, "momentum": 0.8},
    "rmsprop": {"learning_rate": 0.01, "decay_rate": 0.9},
    "adam": {"learning_rate": 0.02, "beta1": 0.8},
    "adamw": {"learning_rate": 0.02, "weight_decay": 0.3},
}
CLIP = 1.2  # below the norm of the first gradients of every model


class NumpyTraining:
    """What the solver does in a step."""

    def __init__(self, model, rule, numbers):
        self.model, self.rule = model, optim.RULES[rule]
        self.configs = {name: dict(numbers) for name in model.params}

    def step(self, features, captions):
        loss, grads = self.model.loss(features, captions)
        grads, norm = optim.clip_gradient_norm(grads, CLIP)
        for name, gradient in grads.items():
            self.model.params[name], self.configs[name] = self.rule(
                self.model.params[name], gradient, self.configs[name]
            )
        return loss, norm


def torch_step(twin, optimizer, features, captions):
    loss = twin.loss(features, captions)
    loss.backward()
    optimizer.step(CLIP)
    return loss.item()


@every_model
def test_20_steps_of_adam_give_the_losses_of_numpy(case):
    model, twin = pair(case)
    features = images_for(model)
    numpy_training = NumpyTraining(model, "adam", {"learning_rate": 0.02})
    adam = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], lr=0.02)
    norms, losses = [], []
    for _ in range(20):
        expected, norm = numpy_training.step(features, CAPTIONS)
        loss = twin.loss(features, CAPTIONS)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), CLIP)
        adam.step()
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        norms.append(norm)
        losses.append(expected)
    assert max(norms) > CLIP
    assert losses[-1] < 0.8 * losses[0]
    assert_equal_arrays(dict(twin.params), model.params, 1e-8)


# Every layout with two kinds of memory; the other rules with one twin each.
@pytest.mark.parametrize(
    ("case", "rule"),
    [(case, rule) for case in MODELS for rule in ("adam", "rmsprop")]
    + [("lstm", "sgd"), ("attention", "sgd_momentum"), ("tied", "adamw")],
)
def test_either_engine_goes_on_from_what_the_other_remembers(case, rule):
    """NumPy, then PyTorch, then NumPy again equals NumPy alone, memory included."""
    alone, first = build(case), build(case)
    features = images_for(alone)
    expected = NumpyTraining(alone, rule, NUMBERS[rule])
    for _ in range(6):
        expected.step(features, CAPTIONS)

    begun = NumpyTraining(first, rule, NUMBERS[rule])
    for _ in range(2):
        begun.step(features, CAPTIONS)
    twin = twin_of(case, first)
    optimizer = TorchOptimizer(twin, rule, {"learning_rate": 7.0})  # what is loaded counts
    optimizer.configs = begun.configs
    for _ in range(2):
        torch_step(twin, optimizer, features, CAPTIONS)
    last = build(case, seed=1)
    last.params = dict(twin.params)
    ended = NumpyTraining(last, rule, {})
    ended.configs = optimizer.configs
    for _ in range(2):
        ended.step(features, CAPTIONS)

    assert_equal_arrays(last.params, alone.params, 1e-9)
    for name, config in expected.configs.items():
        found = ended.configs[name]
        assert found.keys() == config.keys()
        for key, value in config.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-7, atol=1e-12, err_msg=name)


@every_model
def test_dropout_of_features_is_another_one(case):
    """Every entry or none at the ends; in between some, as often as asked for."""
    model, twin = pair(case, dropout=0.0)
    features = images_for(model)
    for each in (model, twin):
        each.feature_dropout = 0.4
    first, again = (twin.loss(features, CAPTIONS).item() for _ in range(2))
    assert first != again
    plain = twin.eval().loss(features, CAPTIONS)
    assert plain.item() == pytest.approx(model.evaluate(features, CAPTIONS), rel=1e-9) or (
        getattr(model, "double_stochastic", 0)
    )
    ones = torch.ones(200, 300, dtype=torch.float64)
    dropped = twin._dropout(True, 0.4)(ones)
    assert set(dropped.unique().tolist()) == {0.0, 1 / 0.6}
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


@every_model
def test_weighted_captions(case):
    """Weights above and below 0, as self-critical training has them; linear, so 1 is no weight."""
    model, twin = pair(case, dropout=0.0)
    features = images_for(model)
    weights = np.random.default_rng(0).standard_normal(len(CAPTIONS))
    loss, grads = model.loss(features, CAPTIONS, weights)
    twin_loss = twin.loss(features, CAPTIONS, weights)
    assert twin_loss.item() == pytest.approx(loss, rel=1e-10)
    assert_equal_arrays(gradients(twin, twin_loss), grads, 1e-9)
    alone = [model.loss(features[n : n + 1], CAPTIONS[n : n + 1])[0] for n in range(len(CAPTIONS))]
    if not getattr(model, "double_stochastic", 0):
        assert loss == pytest.approx(np.mean(weights * alone), rel=1e-9)
    ones, _ = model.loss(features, CAPTIONS, np.ones(len(CAPTIONS)))
    assert ones == pytest.approx(model.loss(features, CAPTIONS)[0], rel=1e-12)


@pytest.mark.parametrize("rule", NUMBERS)
def test_a_fresh_optimizer_has_the_defaults_of_numpy_and_no_memory(rule):
    model, twin = pair("lstm")
    optimizer = TorchOptimizer(twin, rule, {})
    _, defaults = optim.RULES[rule](np.zeros(1), np.zeros(1), {})
    numbers = {key: value for key, value in defaults.items() if isinstance(value, float)}
    assert optimizer.configs == {name: numbers for name in model.params}
    other = TorchOptimizer(twin, rule, {"learning_rate": 3.0})
    other.configs = optimizer.configs
    assert other.configs == optimizer.configs
    rate = numbers["learning_rate"]
    optimizer.set_learning_rate(0.5)
    optimizer.set_learning_rate(0.25)
    assert {c["learning_rate"] for c in optimizer.configs.values()} == {0.25 * rate}
    assert optimizer.optimizer.param_groups[0]["lr"] == 0.25 * rate


@pytest.mark.parametrize("case", ["rnn", "lstm", "attention"])
def test_the_second_bias_is_0_for_ever(case):
    _, twin = pair(case)
    (bias,) = (p for name, p in twin.named_parameters() if "bias_hh" in name)
    adamw = torch.optim.AdamW(twin.parameters(), lr=0.1)
    before = dict(twin.params)
    for _ in range(3):
        twin.loss(images_for(twin), CAPTIONS).backward()
        adamw.step()
    assert (bias == 0).all()
    assert np.abs(twin.params["b"] - before["b"]).min() > 0.01


# -- dropout -----------------------------------------------------------------------------------


@every_model
def test_only_training_drops_out(case):
    model, twin = pair(case, dropout=0.5)
    quiet = twin_of(case, model)
    features, words = images_for(model), CAPTIONS[:, :-1]
    losses = [twin.loss(features, CAPTIONS).item() for _ in range(2)]
    assert losses[0] != losses[1]
    assert not torch.equal(twin(features, CAPTIONS), twin(features, CAPTIONS))
    state = twin.rng.bit_generator.state
    assert twin.training
    assert twin.evaluate(features, CAPTIONS) == quiet.evaluate(features, CAPTIONS)
    np.testing.assert_array_equal(
        step_by_step(twin, features, words), step_by_step(quiet, features, words)
    )
    np.testing.assert_array_equal(twin.sample(features), quiet.sample(features))
    if twin.grid:
        np.testing.assert_array_equal(
            twin.attention_weights(features, CAPTIONS), quiet.attention_weights(features, CAPTIONS)
        )
    twin.eval()
    assert twin.loss(features, CAPTIONS).item() == quiet.loss(features, CAPTIONS).item()
    assert torch.equal(twin(features, CAPTIONS), quiet(features, CAPTIONS))
    assert twin.rng.bit_generator.state == state


@every_model
def test_the_state_of_the_numpy_generator_is_all_that_masks_depend_on(case):
    _, twin = pair(case, dropout=0.5)
    features = images_for(twin)
    state = copy.deepcopy(twin.rng.bit_generator.state)
    losses = [twin.loss(features, CAPTIONS).item() for _ in range(3)]
    torch.manual_seed(5)
    twin.rng.bit_generator.state = state
    assert [twin.loss(features, CAPTIONS).item() for _ in range(3)] == losses


@every_model
def test_the_same_masks_give_the_gradients_of_numpy(case, monkeypatch):
    """Dropout stands in the same places, and every mask is another."""
    model, twin = pair(case, dropout=0.5)
    features, rng = images_for(model), np.random.default_rng(7)

    def drop(x):
        return x * torch.tensor(dropout_forward(np.ones(x.shape), 0.5, rng)[1])

    def dropout(train, p=None):
        return drop if p is None else lambda features: features

    monkeypatch.setattr(twin, "_dropout", dropout)
    model.rng = np.random.default_rng(7)
    expected, grads = model.loss(features, CAPTIONS)
    loss = twin.loss(features, CAPTIONS)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert_equal_arrays(gradients(twin, loss), grads, 1e-10)


def test_dropout_keeps_the_expected_value_and_drops_each_mask_anew():
    _, twin = pair("lstm", dropout=0.3)
    drop, ones = twin._dropout(True), torch.ones(100, 100)
    first, second = drop(ones), drop(ones)
    np.testing.assert_allclose(first.unique(), [0, 1 / 0.7], rtol=1e-6)
    assert first.mean().item() == pytest.approx(1, abs=0.03)  # 4 standard deviations
    assert not torch.equal(first, second)


# -- decoding ----------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize(
    "selections",
    [([0, 0, 1, 1, 2, 2], [1, 0, 2, 2, 5, 4]), ([2, 0, 0], [1, 1, 2, 2]), ([1], [0, 0, 0]), ([],)],
    ids=str,
)
def test_begin_step_and_select_are_those_of_numpy(case, selections):
    model, twin = pair(case)
    features, rng = images_for(model), np.random.default_rng(2)
    states = model.begin(features), twin.begin(features)
    for rows in ([0, 1, 2], *selections):
        rows = np.array(rows, dtype=int)
        states = [m.select(s, rows) for m, s in zip((model, twin), states, strict=True)]
        tokens = rng.integers(V, size=len(rows))
        if len(rows) == 0:
            return  # every caption is finished
        twin.step(states[1], (tokens + 1) % V)  # what is read from a state leaves it as it is
        expected, numpy_state = model.step(states[0], tokens)
        found, torch_state = twin.step(states[1], tokens)
        states = numpy_state, torch_state
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected, **EXACT)


@every_model
def test_greedy_and_beam_search_give_the_captions_and_scores_of_numpy(case):
    model, twin = pair(case)
    params = {key: 3 * value for key, value in model.params.items()}  # decided, and varied
    model.params = twin.params = params
    features = images_for(model, rows=12)
    expected = decoding.greedy(model, features, max_length=7)
    assert len(np.unique(expected, axis=0)) > 1
    np.testing.assert_array_equal(twin.sample(features, max_length=7), expected)
    for K in (2, 4):
        captions, scores = decoding.beam_search(model, features, K, max_length=7, n_best=2)
        found = decoding.beam_search(twin, features, K, max_length=7, n_best=2)
        np.testing.assert_array_equal(found[0], captions)
        np.testing.assert_allclose(found[1], scores, **EXACT)


@every_grid_model
def test_attention_weights_are_those_of_numpy(case):
    model, twin = pair(case)
    features = images_for(model)
    expected = model.attention_weights(features, CAPTIONS)
    assert expected.std() > 0.01
    np.testing.assert_allclose(twin.attention_weights(features, CAPTIONS), expected, **EXACT)


def test_decoding_asks_for_the_gradient_of_nothing():
    for case in MODELS:
        _, twin = pair(case)
        state = twin.begin(images_for(twin))
        _, state = twin.step(state, np.array([1] * N))
        tensors = state if isinstance(state, tuple) else list(vars(state).values())
        flat = [x for x in tensors if isinstance(x, torch.Tensor)]
        flat += [x for t in tensors if isinstance(t, tuple) for x in t]
        assert flat
        assert not any(x.requires_grad for x in flat)


# -- parameters --------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_go_there_and_back_unchanged(case, dtype):
    model, twin = pair(case, dtype=dtype)
    found = dict(twin.params)
    assert_equal_arrays(found, model.params, 0)
    assert {value.dtype for value in found.values()} == {np.dtype(dtype)}
    assert all(value.flags.c_contiguous for value in found.values())
    # all of the twin's numbers but the second bias come from ours
    counted = sum(p.numel() for p in twin.parameters() if p.requires_grad)
    assert counted == sum(value.size for value in model.params.values())
    # as an optimizer's memory: no model is asked for anything but its names and modules
    memory = {key: np.random.default_rng(3).random(v.shape) for key, v in model.params.items()}
    tensors = to_torch(twin, memory)
    assert {k: v.shape for k, v in tensors.items()} == {
        k: p.shape for k, p in twin.named_parameters() if p.requires_grad
    }
    assert_equal_arrays(to_numpy(twin, tensors), memory, 0)


@every_model
def test_parameters_are_copies_in_both_directions(case):
    model, twin = pair(case)
    before = {key: value.copy() for key, value in model.params.items()}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    assert_equal_arrays(model.params, before, 0)
    for value in twin.params.values():
        value += 1
    assert_equal_arrays(dict(twin.params), {key: value + 1 for key, value in before.items()}, 1e-15)
    with pytest.raises(TypeError):
        twin.params["b_vocab"] = 0


@every_model
def test_without_parameters_both_engines_start_from_the_same_ones(case):
    name, config = MODELS[case]
    for seed in (0, 1):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        model = build_model(name, config, VOCABULARY, rng=rngs[0])
        twin = build_torch_model(name, config, VOCABULARY, rng=rngs[1])
        assert_equal_arrays(dict(twin.params), model.params, 0)
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
        for attribute in "null start end unknown max_length grid dropout input_dim dtype".split():
            assert getattr(twin, attribute) == getattr(model, attribute)
        assert twin.needs_a_grid() == model.needs_a_grid()


@pytest.mark.parametrize(
    ("case", "other", "message"),
    [
        ("rnn", "lstm", r"parameter Wh: found shape \(6, 24\), expected \(6, 6\)"),
        ("lstm", "attention", "parameter W_c0: found shape .*, expected None"),
        ("transformer", "tied", r"parameter W_vocab: found shape None, expected \(6, 9\)"),
        ("sinusoidal", "transformer", r"parameter W_position: found shape \(7, 6\), expected None"),
        ("post-norm", "transformer", "parameter norm.beta: found shape .*, expected None"),
    ],
)
def test_the_state_of_another_model_is_refused(case, other, message):
    _, twin = pair(case)
    params, optimizer = build(other).params, TorchOptimizer(twin, "adam", {})
    numbers = {"learning_rate": 1.0, **optimizer.numbers, "t": 1}
    configs = {key: {**numbers, "m": v, "v": v} for key, v in params.items()}
    with pytest.raises(ValueError, match=message):
        twin.params = params
    with pytest.raises(ValueError, match=message):
        optimizer.configs = configs
    with pytest.raises(ValueError, match=message):
        twin_of(case, build(other))


# -- dtypes and errors -------------------------------------------------------------------------


@every_model
def test_float32_computes_in_float32(case):
    model, twin = pair(case, dtype=np.float32, dropout=0.5)
    features = images_for(model)  # float64
    loss = twin.loss(features, CAPTIONS)
    assert loss.dtype == torch.float32
    found = gradients(twin, loss)
    assert {gradient.dtype for gradient in found.values()} == {np.dtype(np.float32)}
    assert step_by_step(twin, features, CAPTIONS[:, :2]).dtype == np.float32
    twin.eval()
    model.dropout = 0
    expected, grads = model.loss(features, CAPTIONS)
    loss = twin.loss(features, CAPTIONS)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert_equal_arrays(gradients(twin, loss), grads, 1e-4)


@every_model
@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (CAPTIONS[:2], r"found shape \(2, 6\), expected \(3, at least 2\)"),
        (CAPTIONS[:, :1], r"found shape \(3, 1\)"),
        (np.where(CAPTIONS == 7, V, CAPTIONS), "word id 9 is outside the vocabulary of 9 words"),
        (np.where(CAPTIONS == 7, -1, CAPTIONS), "word id -1 is outside"),
        (CAPTIONS * 1.0, "word ids must be integers"),
    ],
)
def test_captions_that_do_not_fit_are_refused(case, captions, message):
    _, twin = pair(case)
    for method in (twin, twin.loss, twin.evaluate):
        with pytest.raises(ValueError, match=message):
            method(images_for(twin), captions)


@every_model
def test_features_and_tokens_that_do_not_fit_are_refused(case):
    _, twin = pair(case)
    features = images_for(twin)
    for array in (features[0, ..., 0], features[None], features[..., :-1]):
        for given in (array, torch.tensor(array)):
            with pytest.raises(ValueError, match=r"features: found shape .*, expected \(N, "):
                twin.begin(given)
    with pytest.raises(ValueError, match="word id 9 is outside"):
        twin.step(twin.begin(features), np.full(N, V))


@pytest.mark.parametrize("case", ["transformer", "sinusoidal"])
def test_a_twin_reads_no_more_words_than_it_has_positions(case):
    _, twin = pair(case)  # 7 positions
    features, words = images_for(twin), np.full((N, 9), 4)
    assert torch.isfinite(twin.loss(features, words[:, :8]))
    with pytest.raises(ValueError, match="found 8 words to read, but the model has 7"):
        twin.loss(features, words)
    with pytest.raises(ValueError, match="7 positions"):
        step_by_step(twin, features, words[:, :8])


def test_impossible_settings_and_names_are_refused():
    with pytest.raises(ValueError, match="num_heads: found 5, expected a divisor of the width"):
        build_torch_model("transformer", {"num_heads": 5}, VOCABULARY)
    with pytest.raises(ValueError, match="model: found 'gru', expected one of rnn, lstm"):
        build_torch_model("gru", {}, VOCABULARY)
