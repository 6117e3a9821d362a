"""The update rules against torch.optim, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core import optim
from core.coco_utils import SPLITS
from core.fast import adam
from core.models import MODELS
from core.support import choices
from core.torch_models.engine import PRECISIONS

TORCH = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr),
    "sgd_momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr),
    "adam": lambda p, lr: torch.optim.Adam(p, lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr),
}


def test_every_rule_has_its_namesake():
    assert TORCH.keys() == optim.RULES.keys()
    with pytest.raises(ValueError, match=r"update_rule: found 'lion', expected one of sgd"):
        optim.numbers_of("lion", {})


def test_the_choices_are_what_there_is():
    assert tuple(optim.RULES) == choices.UPDATE_RULES
    assert tuple(MODELS) == choices.MODEL_NAMES
    assert tuple(PRECISIONS) == choices.PRECISIONS
    assert choices.SPLITS == SPLITS


def test_adam_does_not_decay_and_a_gradient_that_is_no_number_shows():
    params, grads = {"w": np.ones(3)}, {"w": np.array([1.0, 2.0, 3.0])}
    adam.update_in_place("adam", params, grads, {"w": {"weight_decay": 0.5}})
    np.testing.assert_array_equal(params["w"], optim.adam(np.ones(3), grads["w"])[0])
    clipped, norm = optim.clip_gradient_norm({"a": np.array([np.nan]), "b": np.ones(2)}, 1.0)
    assert np.isnan(norm)
    assert np.isnan(clipped["b"]).all()
    huge = {"w": np.array([1e20, 1, 0], dtype=np.float32)}  # its norm overflows
    params = {"w": np.ones(3, dtype=np.float32)}
    with np.errstate(over="ignore"):
        scale, _ = optim.clip_factor(huge, 5.0)
        adam.update_in_place("adam", params, huge, {"w": {}}, scale)
    np.testing.assert_array_equal(params["w"], 1)


def test_what_cannot_be_cut_up_is_refused():
    w = np.ones((2, 3)).T
    with pytest.raises(ValueError, match="w: found an array that is not C-contiguous"):
        adam.update_in_place("adam", {"w": w}, {"w": w}, {"w": {}})


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("scale", [1.0, 1e-10])
def test_equals_torch_over_100_steps(name, scale):
    """Tiny gradients tell where epsilon is added: relative to the way gone, not to the start."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 5))
    w, config = start, {"learning_rate": 0.01}
    parameter = torch.nn.Parameter(torch.tensor(start))
    referee = TORCH[name]([parameter], 0.01)
    for step in range(1, 101):
        gradient = scale * rng.standard_normal(w.shape) * 10.0 ** rng.integers(-3, 3, w.shape)
        if step == 50:  # a schedule changes the rate in mid-run
            config["learning_rate"] = referee.param_groups[0]["lr"] = 0.003
        w, config = optim.RULES[name](w, gradient, config)
        parameter.grad = torch.tensor(gradient)
        referee.step()
        way = np.linalg.norm(parameter.detach().numpy() - start)
        assert np.linalg.norm(w - parameter.detach().numpy()) <= 1e-12 * max(1, way)
        if scale < 1 and name in ("adam", "rmsprop"):
            assert np.linalg.norm(w - parameter.detach().numpy()) <= 1e-10 * way


@pytest.mark.parametrize("name", TORCH)
def test_arguments_stay_and_dtype_is_kept(name):
    w, dw = np.ones(3, np.float32), np.full(3, 0.5, np.float32)
    config = None
    for _ in range(2):
        after, config = optim.RULES[name](w, dw, config)
        assert after.dtype == np.float32
        assert all(v.dtype == np.float32 for v in config.values() if isinstance(v, np.ndarray))
    assert np.all(w == 1)
    assert np.all(dw == 0.5)


@pytest.mark.parametrize("name", TORCH)
def test_numpy_numbers_do_not_turn_float32_into_float64(name):
    w = np.ones(3, np.float32)
    after, _ = optim.RULES[name](w, w, {"learning_rate": np.float64(0.1)})
    assert after.dtype == np.float32
    clipped, _ = optim.clip_gradient_norm({"w": w}, np.float64(0.1))
    assert clipped["w"].dtype == np.float32


@pytest.mark.parametrize("max_norm", [0.1, 5.0, 1e6])
def test_clipping_equals_torch(max_norm):
    rng = np.random.default_rng(0)
    grads = {"a": rng.standard_normal((3, 4)), "b": 10 * rng.standard_normal(5)}
    parameters = [
        torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads.values()
    ]
    for parameter, gradient in zip(parameters, grads.values(), strict=True):
        parameter.grad = torch.tensor(gradient)
    expected_norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    kept = {name: gradient.copy() for name, gradient in grads.items()}
    clipped, norm = optim.clip_gradient_norm(grads, max_norm)
    assert norm == pytest.approx(expected_norm, rel=1e-14)
    for parameter, (name, gradient) in zip(parameters, clipped.items(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-12)
        np.testing.assert_array_equal(grads[name], kept[name])


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_in_place_equals_the_plain_rule(name, scale, monkeypatch):
    """Over pieces whose last is shorter, a parameter of no entry, and one of a single entry."""
    monkeypatch.setattr(adam, "_PIECE", 7)
    rng = np.random.default_rng(0)
    shapes = {"matrix": (4, 5), "empty": (0, 3), "one": (1,)}
    params = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    configs = {key: {"learning_rate": 0.01} for key in shapes}
    plain = {key: (w.copy(), dict(configs[key])) for key, w in params.items()}
    arrays = dict(params)
    for _ in range(5):
        grads = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
        before = {key: gradient.copy() for key, gradient in grads.items()}
        adam.update_in_place(name, params, grads, configs, scale)
        for key, (w, config) in plain.items():
            plain[key] = optim.RULES[name](w, scale * before[key], config)
            np.testing.assert_allclose(params[key], plain[key][0], rtol=1e-12, atol=1e-15)
            np.testing.assert_array_equal(grads[key], before[key])
    assert all(params[key] is array for key, array in arrays.items())
    for key, (_, config) in plain.items():
        assert configs[key].keys() == config.keys()
        for entry, value in config.items():
            np.testing.assert_allclose(configs[key][entry], value, rtol=1e-12, atol=1e-15)
