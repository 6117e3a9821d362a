"""The answers that CS231n's notebooks expect hold: of update rules, and of the Transformer's parts.

PyTorch draws the weights and inputs in the order in which the notebook's modules do; our functions
compute. The notebook's modules are in training, so entries are dropped: they are listed here, since
which ones depends on how PyTorch was built. (Stanford CS231n, assignment 2, "Fully connected nets";
assignment 3, "Image captioning with Transformers", 2021 to 2025.)
"""

from __future__ import annotations

import numpy as np
import pytest

import core.optim
from core.classifiers import optim
from core.layers import affine_forward
from core.transformer_layers import (
    gelu_forward,
    layer_norm_forward,
    merge_heads,
    multi_head_attention_forward,
    positional_encoding,
)

KEPT = 0.9  # the notebook's modules drop a tenth


# -- update rules ------------------------------------------------------------------------------


def spread(first, last):
    return np.linspace(first, last, num=20).reshape(4, 5)


@pytest.mark.parametrize(
    ("rule", "config", "expected", "remembered"),
    [
        (
            "sgd_momentum",
            {"learning_rate": 1e-3, "velocity": spread(0.6, 0.9)},
            ([0.1406, 0.20738947, 0.27417895], [1.27602105, 1.34281053, 1.4096]),
            {"velocity": ([0.5406, 0.55475789, 0.56891579], [0.78128421, 0.79544211, 0.8096])},
        ),
        (
            "rmsprop",
            {"learning_rate": 1e-2, "cache": spread(0.6, 0.9)},
            ([-0.39223849, -0.34037513, -0.28849239], [0.49155973, 0.54365823, 0.59576619]),
            {"cache": ([0.5976, 0.6126277, 0.6277108], [0.86060554, 0.87657507, 0.8926])},
        ),
        (
            "adam",
            {"learning_rate": 1e-2, "m": spread(0.6, 0.9), "v": spread(0.7, 0.5), "t": 5},
            ([-0.40094747, -0.34836187, -0.29577703], [0.49288093, 0.54544852, 0.59801459]),
            {
                "m": ([0.48, 0.49947368, 0.51894737], [0.81105263, 0.83052632, 0.85]),
                "v": ([0.69966, 0.68908382, 0.67851319], [0.52061845, 0.51013645, 0.49966]),
            },
        ),
    ],
)
def test_update_rules(rule, config, expected, remembered):
    next_w, config = getattr(optim, rule)(spread(-0.4, 0.6), spread(-0.6, 0.4), config)
    answers = {"w": (next_w, expected)} | {k: (config[k], v) for k, v in remembered.items()}
    for name, (found, (first, last)) in answers.items():
        np.testing.assert_allclose(found[0, :3], first, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(found[3, 2:], last, atol=1e-8, err_msg=name)


def test_the_two_momentums_take_the_same_steps_until_the_rate_changes():
    rng = np.random.default_rng(0)
    ours = theirs = rng.standard_normal((3, 4))
    first, second = {"learning_rate": 0.1}, {"learning_rate": 0.1}
    for step in range(6):
        if step == 4:
            np.testing.assert_allclose(theirs, ours, rtol=1e-12)
            first["learning_rate"] = second["learning_rate"] = 0.05
        dw = rng.standard_normal(ours.shape)
        ours, first = core.optim.sgd_momentum(ours, dw, first)
        theirs, second = optim.sgd_momentum(theirs, dw, second)
    assert np.abs(theirs - ours).max() > 1e-3


def test_the_course_s_momentum_writes_to_nothing_and_keeps_the_dtype():
    w, dw, v = (np.full((2, 3), x, np.float32) for x in (1, 2, 3))
    given = {"velocity": v, "learning_rate": np.float64(0.1), "momentum": np.float64(0.5)}
    next_w, config = optim.sgd_momentum(w, dw, given)
    assert next_w.dtype == config["velocity"].dtype == np.float32
    assert (w == 1).all()
    assert (dw == 2).all()
    assert (v == 3).all()
    assert optim.sgd_momentum(w, dw)[1]["learning_rate"] == 0.01


# -- the Transformer's parts -------------------------------------------------------------------


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    state = torch.random.get_rng_state()
    torch.manual_seed(231)
    yield torch
    torch.random.set_rng_state(state)


def dropped(torch, x, *entries):
    """x without these entries, counted through, the others scaled up."""
    torch.randint(2, (1,))  # the notebook's dropout takes one number from the generator, too
    out = x / KEPT
    out.reshape(-1)[list(entries)] = 0
    return out


def linear(torch, inputs, outputs):
    """W (inputs, outputs) and b (outputs,) of a new ``nn.Linear``."""
    layer = torch.nn.Linear(inputs, outputs)
    return layer.weight.detach().numpy().T, layer.bias.detach().numpy()


def attention(torch, width):
    """The eight parameters of attention in our order; the notebook makes the keys' first."""
    key, query, value, out = (linear(torch, width, width) for _ in range(4))
    return *query, *key, *value, *out


def attend(torch, query, memory, params, *entries, mask=None):
    """Attention with two heads, and dropout of entries of its weights, which ours does not have."""
    _, (_, (_, _, v, weights)) = multi_head_attention_forward(
        query, memory, memory, *params, num_heads=2, mask=mask
    )
    return merge_heads(dropped(torch, weights, *entries) @ v) @ params[6] + params[7]


def assert_printed(found, expected, digits):
    """As printed, with so many digits after the point."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.6 * 10.0**-digits)


def test_multi_head_attention(torch):
    params = attention(torch, 8)
    x = torch.randn(1, 3, 8).numpy()
    self_attention = attend(torch, x, x, params, 6, 9)
    mask = (torch.randn(3, 3) < 0.5).numpy()
    masked = attend(torch, x, x, params, 13, mask=mask.astype(int))
    other = torch.randn(1, 3, 8).numpy()
    cross_attention = attend(torch, x, other, params)
    expected = [
        [-0.2494, 0.1396, 0.4323, -0.2411, -0.1547, 0.2329, -0.1936, -0.1444],
        [-0.1997, 0.1746, 0.7377, -0.3549, -0.2657, 0.2693, -0.2541, -0.2476],
        [-0.0625, 0.1503, 0.7572, -0.3974, -0.1681, 0.2168, -0.2478, -0.3038],
    ]
    assert_printed(self_attention[0], expected, 4)
    expected = [
        [-0.1347, 0.1934, 0.8628, -0.4903, -0.2614, 0.2798, -0.2586, -0.3019],
        [-0.1013, 0.3111, 0.5783, -0.3248, -0.3842, 0.1482, -0.3628, -0.1496],
        [-0.2071, 0.1669, 0.7097, -0.3152, -0.3136, 0.2520, -0.2774, -0.2208],
    ]
    assert_printed(masked[0], expected, 4)
    expected = [
        [-0.1980, 0.4083, 0.1968, -0.3477, 0.0321, 0.4258, -0.8972, -0.2744],
        [-0.1603, 0.4155, 0.2295, -0.3485, -0.0341, 0.3929, -0.8248, -0.2767],
        [-0.0908, 0.4113, 0.3017, -0.3539, -0.1020, 0.3784, -0.7189, -0.2912],
    ]
    assert_printed(cross_attention[0], expected, 4)


def test_positions(torch):
    x = torch.randn(1, 2, 6).numpy()
    out = dropped(torch, x + positional_encoding(2, 6), 4)
    expected = [
        [-1.2340, 1.1127, 1.6978, -0.0865, 0.0, 1.2728],
        [0.9028, -0.4781, 0.5535, 0.8133, 1.2644, 1.7034],
    ]
    assert_printed(out[0], expected, 4)


def test_decoder_layer(torch):
    """Post-norm, GELU, a random mask; the memory has more rows than there are words."""
    width = 12
    self_params, cross_params = attention(torch, width), attention(torch, width)
    first, second = linear(torch, width, 4 * width), linear(torch, 4 * width, width)
    x, memory = torch.randn(1, 4, width).numpy(), torch.randn(1, 5, width).numpy()
    mask = (torch.randn(4, 4) < 0.5).numpy()

    def leave(x, y, *entries):
        y = dropped(torch, y, *entries)
        return layer_norm_forward(x + y, np.ones(width), np.zeros(width))[0]

    y = attend(torch, x, x, self_params, 11, 13, 14, 24, mask=mask)
    x = leave(x, y, 26, 33, 36, 43, 44, 46)
    y = attend(torch, x, memory, cross_params, 14, 17)
    x = leave(x, y, 0, 2, 7, 10, 24, 34, 40, 41, 43)
    hidden, _ = gelu_forward(affine_forward(x[0], *first)[0])
    entries = 0, 22, 29, 40, 47, 56, 65, 66, 73, 97, 121, 154, 161, 164, 166, 171, 177
    y, _ = affine_forward(dropped(torch, hidden, *entries), *second)
    x = leave(x, y[None], 0, 5, 8, 23, 29)
    expected = [
        [1.1464597, -0.32541496, 0.39171425, -0.39425734, 0.62471056, -1.8665842,
         -0.12977494, -1.6609063, -0.5620399, 0.45006236, 1.6086785, 0.7173523],
        [-0.6703264, 0.34731007, -0.01452054, -0.0500976, 0.9617562, -0.91788256,
         0.5138556, -1.5247818, 2.0940537, -1.0386938, 1.0333964, -0.7340692],
        [-1.1966342, 0.78882384, 0.1765188, 0.04164891, 1.9480462, -0.94358695,
         0.83423877, -0.44660965, 1.1469632, -1.6658922, -0.27915588, -0.4043607],
        [-0.96863323, 0.10736976, -0.18560877, -0.86474127, -0.12873, 0.36593518,
         0.9634492, -0.9432319, 1.4652547, 1.2200648, 0.9218512, -1.9529796],
    ]  # fmt: skip
    assert_printed(x[0], expected, 6)
