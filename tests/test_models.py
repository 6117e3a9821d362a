"""What every captioner promises: loss and steps agree, parameters learn, only training drops out.

The gradients themselves are checked in ``test_gradient_check.py``.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from core import attention_layers, decoding, transformer_layers
from core.fast import build_fast_model
from core.fast.images import SharedImages
from core.models import build_model

VOCABULARY = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "cat", "dog", "runs", "sits"]
N, T, L, C, V = 3, 5, 8, 4, len(VOCABULARY)
# A word twice, <NULL> in the middle, nothing but <NULL>.
CAPTIONS = np.array([[1, 4, 5, 4, 5, 2], [1, 6, 0, 7, 2, 0], [0, 0, 0, 0, 0, 0]])

TRANSFORMER = {"wordvec_dim": 6, "num_heads": 2, "num_layers": 2, "hidden_dim": 7, "max_length": 7}
MODELS = {
    "rnn": ("rnn", {"wordvec_dim": 3, "hidden_dim": 6}),
    "lstm": ("lstm", {"wordvec_dim": 3, "hidden_dim": 6}),
    "attention": (
        "attention",
        {"wordvec_dim": 3, "hidden_dim": 6, "attention_dim": 7, "double_stochastic": 0.7},
    ),
    "transformer": ("transformer", TRANSFORMER),
    "tied": ("transformer", {**TRANSFORMER, "tied": True}),
    "sinusoidal": ("transformer", {**TRANSFORMER, "positions": "sinusoidal"}),
    "post-norm": ("transformer", {**TRANSFORMER, "norm_first": False}),
    "gelu": ("transformer", {**TRANSFORMER, "activation": "gelu"}),
}
ON_A_GRID = [case for case in MODELS if case not in ("rnn", "lstm")]
every_model = pytest.mark.parametrize("case", MODELS)
every_grid_model = pytest.mark.parametrize("case", ON_A_GRID)
plain_and_fast = pytest.mark.parametrize("builder", [build_model, build_fast_model])


def build(case, seed=0, builder=build_model, **more):
    """A model none of whose parameters is 0 or 1, biases and gains included."""
    name, config = MODELS[case]
    rng = np.random.default_rng(seed)
    config = {"input_dim": C, "dtype": np.float64, **config, **more}
    model = builder(name, config, VOCABULARY, rng=rng)
    model.params = {
        key: (value + 0.3 * rng.standard_normal(value.shape)).astype(model.dtype)
        for key, value in model.params.items()
    }
    return model


def images_for(model, rows=N, locations=L):
    shape = (rows, locations, C) if model.grid else (rows, C)
    return np.random.default_rng(1).standard_normal(shape)


def step_by_step(model, features, words):
    """Log-probabilities (N, T, V) of the word after each one."""
    state, log_probs = model.begin(features), []
    for t in range(words.shape[1]):
        scores, state = model.step(state, words[:, t])
        log_probs.append(scores)
    return np.stack(log_probs, axis=1)


def record(monkeypatch, module, name, of):
    """A list that collects ``of(arguments, result)`` of each call of a module's function."""
    original, calls = getattr(module, name), []

    def recorded(*arguments):
        result = original(*arguments)
        calls.append(of(arguments, result))
        return result

    monkeypatch.setattr(module, name, recorded)
    return calls


# -- the loss ----------------------------------------------------------------------------------


@plain_and_fast
@every_model
@pytest.mark.parametrize(
    "captions", [CAPTIONS, CAPTIONS[:1], CAPTIONS[:, :2]], ids=["captions", "one image", "one word"]
)
def test_the_loss_is_the_sum_of_the_steps(builder, case, captions):
    model = build(case, builder=builder)
    features = images_for(model, len(captions))
    words, targets = captions[:, :-1], captions[:, 1:]
    log_probs = step_by_step(model, features, words)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=2), np.ones(words.shape), rtol=1e-12)
    right = np.take_along_axis(log_probs, targets[:, :, None], axis=2)[:, :, 0]
    expected = -right[targets != model.null].sum() / len(captions)
    assert model.evaluate(features, captions) == pytest.approx(expected, rel=1e-9)
    log_p = decoding.word_log_probabilities(model, features, captions)
    np.testing.assert_array_equal(log_p, np.where(targets == model.null, 0, right))
    assert -log_p.sum() / len(captions) == pytest.approx(
        model.evaluate(features, captions), rel=1e-9
    )


@plain_and_fast
@every_model
def test_the_penalty_is_in_the_training_loss_alone(builder, case):
    model = build(case, builder=builder)
    features, penalty = images_for(model), 0
    if case == "attention":
        maps = model.attention_weights(features, CAPTIONS)[:, :, 0]
        counts = (CAPTIONS[:, 1:] != model.null)[:, :, None]
        penalty = 0.7 / N * np.sum((1 - (counts * maps).sum(axis=1)) ** 2)
        assert penalty > 0.1
    loss, _ = model.loss(features, CAPTIONS)
    assert loss == pytest.approx(model.evaluate(features, CAPTIONS) + penalty, rel=1e-12)


@plain_and_fast
@every_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_has_the_dtype_of_the_model(builder, case, dtype):
    model = build(case, builder=builder, dtype=dtype, dropout=0.5)
    features = images_for(model).astype(np.float64 if dtype == np.float32 else np.float32)
    loss, grads = model.loss(features, CAPTIONS)
    assert {key: (value.shape, value.dtype) for key, value in grads.items()} == {
        key: (value.shape, np.dtype(dtype)) for key, value in model.params.items()
    }
    assert loss.dtype == model.evaluate(features, CAPTIONS).dtype == dtype
    assert step_by_step(model, features, CAPTIONS[:, :2]).dtype == dtype
    if model.grid:
        assert model.attention_weights(features, CAPTIONS).dtype == dtype


@plain_and_fast
@every_model
def test_parameters_put_in_by_the_caller_are_the_ones_used(builder, case):
    model, other = build(case, builder=builder), build(case, builder=builder, seed=1)
    features = images_for(model)
    expected, grads = model.loss(features, CAPTIONS)
    assert other.loss(features, CAPTIONS)[0] != pytest.approx(expected, rel=1e-3)
    other.params = dict(model.params)
    loss, others = other.loss(features, CAPTIONS)
    assert loss == expected
    for key, gradient in grads.items():
        np.testing.assert_array_equal(others[key], gradient, err_msg=key)
    words = CAPTIONS[:, :-1]
    np.testing.assert_array_equal(
        step_by_step(other, features, words), step_by_step(model, features, words)
    )


# -- parameters that learn ---------------------------------------------------------------------


def largest_entries(grads):
    """Name -> largest entry of a gradient, relative to the largest of all."""
    sizes = {key: np.abs(gradient).max() for key, gradient in grads.items()}
    return {key: size / max(sizes.values()) for key, size in sizes.items()}


@every_model
def test_every_parameter_has_a_gradient(case):
    model = build(case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, grads = model.loss(images_for(model), CAPTIONS)
    assert [key for key, size in largest_entries(grads).items() if size < 1e-9] == []


@every_grid_model
def test_one_location_leaves_without_gradient_what_needs_a_grid_and_says_so(case):
    model = build(case)
    features = images_for(model, locations=1)
    with pytest.warns(UserWarning, match="cannot learn") as caught:
        loss, grads = model.loss(features, CAPTIONS)
    sizes = largest_entries(grads)
    assert {key for key, size in sizes.items() if size < 1e-9} == set(model.needs_a_grid())
    assert max(sizes[key] for key in model.needs_a_grid()) < 1e-14
    (warning,) = caught
    assert str(warning.message).endswith(": " + ", ".join(model.needs_a_grid()))
    with pytest.warns(UserWarning, match="cannot learn"):
        assert model.loss(features[:, 0], CAPTIONS)[0] == loss


# -- dropout -----------------------------------------------------------------------------------


@plain_and_fast
@every_model
def test_only_training_drops_out(builder, case):
    model, quiet = build(case, builder=builder, dropout=0.5), build(case, builder=builder)
    features, words = images_for(model), CAPTIONS[:, :-1]
    losses = [model.loss(features, CAPTIONS)[0] for _ in range(2)]
    assert losses[0] != losses[1]
    state = model.rng.bit_generator.state
    assert model.evaluate(features, CAPTIONS) == quiet.evaluate(features, CAPTIONS)
    assert model.rng.bit_generator.state == state
    for run in (
        lambda model: step_by_step(model, features, words),
        lambda model: model.sample(features, max_length=7),
        lambda model: model.attention_weights(features, CAPTIONS) if model.grid else 0,
    ):
        expected = run(quiet)
        for _ in range(2):
            np.testing.assert_array_equal(run(model), expected)


@plain_and_fast
@every_model
def test_gradients_with_dropout_equal_differences(builder, case):
    """Each call draws the same masks, and every mask of a call is another."""
    model = build(case, builder=builder, dropout=0.5)
    features = images_for(model)

    def loss_and_gradients():
        model.rng = np.random.default_rng(8)
        return model.loss(features, CAPTIONS)

    _, grads = loss_and_gradients()
    largest, h = max(np.abs(gradient).max() for gradient in grads.values()), 1e-5
    rng = np.random.default_rng(0)
    for key, gradient in grads.items():
        flat = model.params[key].reshape(-1)  # a view
        for i in {int(np.abs(gradient).argmax()), int(rng.integers(flat.size))}:
            kept, losses = flat[i], []
            for moved in (kept + h, kept - h):
                flat[i] = moved
                losses.append(loss_and_gradients()[0])
            flat[i] = kept
            difference = (losses[0] - losses[1]) / (2 * h)
            error = abs(gradient.flat[i] - difference)
            assert error <= 1e-6 * abs(difference) + 1e-8 * largest, (key, i)


# -- one word at a time ------------------------------------------------------------------------


@plain_and_fast
@every_model
@pytest.mark.parametrize(
    "selections",
    [
        ([0, 0, 1, 1, 2, 2], [1, 0, 2, 2, 5, 4]),
        ([2, 0, 0], [1, 1, 2, 2]),
        ([1], [0, 0, 0]),
        ([2, 2, 1, 1, 0, 0], [5, 3, 3, 0]),
        ([0, 1, 2, 0, 1, 2],),
    ],
    ids=str,
)
def test_selected_rows_go_on_as_if_they_had_been_read_from_the_start(builder, case, selections):
    model = build(case, builder=builder)
    features, rng = images_for(model), np.random.default_rng(2)
    images, words = np.arange(N), np.empty((N, 0), int)
    state = model.begin(features)
    for rows in ([0, 1, 2], *selections):
        state, images, words = model.select(state, np.array(rows)), images[rows], words[rows]
        tokens = rng.integers(V, size=len(rows))
        words = np.column_stack([words, tokens])
        expected = step_by_step(model, features[images], words)[:, -1]
        model.step(state, (tokens + 1) % V)  # what is read from a state leaves it as it is
        log_probs, state = model.step(state, tokens)
        np.testing.assert_allclose(log_probs, expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("rows", "size", "entries", "shared"),
    [
        ([0, 0, 1, 1, 2, 2], 2, [0, 1, 2], True),
        ([0, 1, 2], 1, [0, 1, 2], True),
        ([0, 0, 1, 2], 1, [0, 0, 1, 2], False),
        ([0, 0, 0, 0, 1, 2], 1, [0, 0, 0, 0, 1, 2], False),
        ([0, 1, 2, 0, 1, 2], 1, [0, 1, 2, 0, 1, 2], False),
        ([2, 2, 1, 1, 0, 0], 2, [2, 1, 0], False),
        ([2, 2, 2, 0, 0, 0], 3, [2, 0], False),
        ([1], 1, [1], False),
    ],
)
def test_rows_share_the_arrays_of_their_image(rows, size, entries, shared):
    kept = [np.arange(6.0).reshape(3, 2), np.arange(3.0)]
    images = SharedImages(kept).select(np.array(rows))
    arrays = images.grouped()
    assert len(rows) / len(arrays[0]) == size
    assert len(images.arrays[0]) == len(set(rows))  # the others are dropped
    for array, original in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, original[entries])
        assert np.shares_memory(array, original) == shared


def test_a_step_of_the_transformer_computes_nothing_but_the_new_word(monkeypatch):
    model = build("transformer")
    asked = record(
        monkeypatch,
        transformer_layers,
        "scaled_dot_product_attention_forward",
        lambda arguments, _: (arguments[0].shape[2], arguments[1].shape[2]),
    )
    state = model.begin(images_for(model))
    assert asked == []
    for t in range(T):
        asked.clear()
        _, state = model.step(state, CAPTIONS[:, t])
        # in each block one word asks the words so far, and then the locations
        assert asked == 2 * [(1, t + 1), (1, L)]


@every_grid_model
def test_attention_weights_are_those_of_the_steps(case, monkeypatch):
    model = build(case)
    features = images_for(model)
    weights = model.attention_weights(features, CAPTIONS)
    maps = 1 if case == "attention" else 2 * 2  # heads of both blocks
    assert weights.shape == (N, T, maps, L)
    np.testing.assert_allclose(weights.sum(axis=3), np.ones((N, T, maps)), rtol=1e-12)

    module = attention_layers if case == "attention" else transformer_layers
    calls = record(monkeypatch, module, "softmax", lambda _, weights: weights)
    step_by_step(model, features, CAPTIONS[:, :-1])
    # Of T < L words, what has L entries is about the image.
    heads = [call.reshape(N, -1, L) for call in calls if call.shape[-1] == L]
    expected = np.concatenate(heads, axis=1).reshape(N, T, maps, L)
    np.testing.assert_allclose(weights, expected, rtol=1e-11)


# -- limits and errors -------------------------------------------------------------------------


@plain_and_fast
@pytest.mark.parametrize("case", ["transformer", "sinusoidal"])
def test_a_model_reads_no_more_words_than_it_has_positions(builder, case):
    model = build(case, builder=builder)  # 7 positions
    features, words = images_for(model), np.full((N, 9), 4)
    assert np.isfinite(model.loss(features, words[:, :8])[0])
    for method in (model.loss, model.evaluate, model.attention_weights):
        with pytest.raises(ValueError, match="found 8 words to read, but the model has 7"):
            method(features, words)
    step_by_step(model, features, words[:, :7])
    with pytest.raises(ValueError, match="7 positions"):
        step_by_step(model, features, words[:, :8])
    model.params["b_vocab"][2] = -1e3  # no <END>
    captions = model.sample(features, max_length=9)
    assert captions.shape == (N, 9)
    np.testing.assert_array_equal(captions != model.null, np.tile(np.arange(9) < 7, (N, 1)))


@every_model
@pytest.mark.parametrize("width", ["input_dim", "wordvec_dim"])
def test_widths_of_0_are_refused(case, width):
    with pytest.raises(ValueError, match=f"{width}: found 0, expected at least 1"):
        build(case, **{width: 0})


@pytest.mark.parametrize(
    ("case", "config", "message"),
    [
        ("transformer", {"positions": "round"}, "found 'round', expected 'learned' or"),
        ("transformer", {"activation": "tanh"}, "found 'tanh', expected 'relu' or 'gelu'"),
        ("transformer", {"num_heads": 4}, "num_heads: found 4, expected a divisor of the width 6"),
        ("transformer", {"num_heads": 0}, "num_heads: found 0, expected at least 1"),
        ("transformer", {"num_layers": 0}, "num_layers: found 0, expected at least 1"),
        ("transformer", {"max_length": 0}, "max_length: found 0, expected at least 1"),
        ("transformer", {"hidden_dim": 0}, "hidden_dim: found 0, expected at least 1"),
        ("attention", {"attention_dim": 0}, "attention_dim: found 0, expected at least 1"),
        ("lstm", {"hidden_dim": 0}, "hidden_dim: found 0, expected at least 1"),
    ],
)
def test_impossible_settings_are_refused(case, config, message):
    with pytest.raises(ValueError, match=message):
        build(case, **config)


@pytest.mark.parametrize("name", ["rnn", "lstm", "attention", "transformer"])
def test_a_vocabulary_without_padding_is_refused(name):
    with pytest.raises(ValueError, match="no '<NULL>'"):
        build_model(name, {}, VOCABULARY[1:])


@every_model
def test_features_that_do_not_fit_are_refused(case):
    model = build(case)
    features = images_for(model)
    wrong = [features[0, ..., 0], features[None], features[..., :-1]]
    wrong += [features[:, :0]] if model.grid else []  # no location
    for method in (model.begin, lambda x: model.loss(x, CAPTIONS)):
        for array in wrong:
            with pytest.raises(ValueError, match=r"features: found shape \(.*\), expected \(N, "):
                method(array)


@plain_and_fast
@every_model
@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (CAPTIONS[:2], r"found shape \(2, 6\), expected \(3, at least 2\)"),
        (CAPTIONS[:, :1], r"found shape \(3, 1\)"),
        (CAPTIONS[:, 0], r"found shape \(3,\)"),
        (np.where(CAPTIONS == 7, V, CAPTIONS), "word id 9 is outside the vocabulary of 9 words"),
        (np.where(CAPTIONS == 7, -1, CAPTIONS), "word id -1 is outside"),
    ],
)
def test_captions_that_do_not_fit_are_refused(builder, case, captions, message):
    model = build(case, builder=builder)
    for method in (model.loss, model.evaluate):
        with pytest.raises(ValueError, match=message):
            method(images_for(model), captions)
