"""The Transformer's layers against torch and plain formulas; masks; words one at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attention_layers import assert_float32_is_kept, cases_of, normal
from torch.nn import functional as F

from core import transformer_layers as layers

N, T, S, HEADS, E, INNER = 2, 4, 5, 3, 6, 7
NAMES = "query key value Wq bq Wk bk Wv bv Wo bo".split()


def assert_all_close(got, expected, tolerance):
    """Each array of one list to that of the other, relative to the largest number of all."""
    largest = max(np.abs(want).max() for want in expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


def in_torch(function, arrays, dout):
    """Output and gradients of a function of tensors."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    out = function(*tensors)
    gradients = torch.autograd.grad(out, tensors, torch.tensor(dout))
    return [x.detach().numpy() for x in (out, *gradients)]


# -- layer norm --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(N, E), (N, T, E)])
def test_layer_norm_has_mean_0_and_variance_1_and_equals_torch(shape):
    x, gamma, beta, dout = normal(shape, E, E, shape)
    x = 3 * x + 2
    out, _ = layers.layer_norm_forward(x, np.ones(E), np.zeros(E), eps=0)
    np.testing.assert_allclose(out.mean(axis=-1), np.zeros(shape[:-1]), atol=1e-14)
    np.testing.assert_allclose(out.var(axis=-1), np.ones(shape[:-1]), rtol=1e-14)

    out, cache = layers.layer_norm_forward(x, gamma, beta)
    expected = in_torch(lambda x, *affine: F.layer_norm(x, (E,), *affine), (x, gamma, beta), dout)
    assert_all_close((out, *layers.layer_norm_backward(dout, cache)), expected, 1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer_norm_of_a_constant_row_is_beta_and_its_gradients_are_finite(dtype):
    gamma, beta, dout = (x.astype(dtype) for x in normal(E, E, (3, E)))
    x = np.repeat(np.array([[0], [1], [-1000]], dtype), E, axis=1)
    out, cache = layers.layer_norm_forward(x, gamma, beta)
    np.testing.assert_array_equal(out, np.tile(beta, (3, 1)))
    for gradient in layers.layer_norm_backward(dout, cache):
        assert np.isfinite(gradient).all()


# -- feed-forward ------------------------------------------------------------------------------


def test_gelu_is_the_exact_one():
    x, (dout,) = np.linspace(-6, 6, 97), normal(97)
    out, cache = layers.gelu_forward(x)
    found = out, layers.gelu_backward(dout, cache)
    for got, want in zip(found, in_torch(F.gelu, [x], dout), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-15, atol=1e-15)
    by_tanh = F.gelu(torch.tensor(x), approximate="tanh").numpy()
    assert np.abs(out - by_tanh).max() > 1e-4


def test_relu_has_no_slope_at_0():
    out, cache = layers.relu_forward(np.array([-2.0, 0.0, 3.0]))
    np.testing.assert_array_equal(out, [0, 0, 3])
    np.testing.assert_array_equal(layers.relu_backward(np.full(3, 5.0), cache), [0, 0, 5])


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="found 'tanh', expected 'relu' or 'gelu'"):
        layers.feed_forward_forward(*normal((N, T, E), (E, 7), 7, (7, E), E), "tanh")


# -- attention ---------------------------------------------------------------------------------


def attention_inputs(N=N, T=T, S=S, E=E, seed=0):
    projections = ((E, E), E) * 4
    return normal((N, T, E), (N, S, E), (N, S, E), *projections, seed=seed)


def attend(inputs, num_heads=HEADS, mask=None, dout=None):
    """The output, and the gradient of every input by name."""
    out, cache = layers.multi_head_attention_forward(*inputs, num_heads, mask)
    dout = normal(out.shape, seed=1)[0] if dout is None else dout
    gradients = layers.multi_head_attention_backward(dout, cache)
    return out, dict(zip(NAMES, gradients, strict=True))


def torch_attention(num_heads, mask):
    def run(query, key, value, Wq, bq, Wk, bk, Wv, bv, Wo, bo):
        return F.multi_head_attention_forward(
            *(x.transpose(0, 1) for x in (query, key, value)),
            embed_dim_to_check=len(bo),
            num_heads=num_heads,
            in_proj_weight=torch.cat([Wq.T, Wk.T, Wv.T]),
            in_proj_bias=torch.cat([bq, bk, bv]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=Wo.T,
            out_proj_bias=bo,
            need_weights=False,
            attn_mask=None if mask is None else ~torch.tensor(mask).flatten(0, 1),
        )[0].transpose(0, 1)

    return run


size = st.integers(1, 4)


@settings(deadline=None, max_examples=25)
@given(size, size, size, size, size, st.booleans(), st.booleans(), st.integers(0, 99))
def test_attention_equals_torch(N, T, S, num_heads, d, to_itself, masked, seed):
    query, key, value, *weights = attention_inputs(N, T, S, num_heads * d, seed)
    if to_itself:
        S, key, value = T, query, query
    mask = None
    if masked:
        mask = np.random.default_rng(seed).random((N, num_heads, T, S)) < 0.6
        mask[..., 0] = True  # where nothing is allowed torch has NaN
    inputs = query, key, value, *weights
    (dout,) = normal(query.shape, seed=1)
    out, gradients = attend(inputs, num_heads, mask, dout)
    expected = in_torch(torch_attention(num_heads, mask), inputs, dout)
    assert_all_close([out, *gradients.values()], expected, 1e-12)


@pytest.mark.parametrize(
    "shape",
    [(T, S), (N, T, S), (N, 1, T, S), (N, 1, 1, S), (1, HEADS, T, S), (N, T, 1), (1, 1)],
)
def test_masks_broadcast(shape):
    mask = np.random.default_rng(1).random(shape) < 0.5
    whole = np.broadcast_to(mask[:, None] if mask.ndim == 3 else mask, (N, HEADS, T, S))
    inputs = attention_inputs()
    (out, gradients), (expected, others) = attend(inputs, mask=mask), attend(inputs, mask=whole)
    np.testing.assert_array_equal(out, expected)
    for name in NAMES:
        np.testing.assert_array_equal(gradients[name], others[name], err_msg=name)


def test_a_masked_key_has_no_influence_and_no_gradient_whatever_it_holds():
    mask = np.ones((T, S), bool)
    mask[:, 2] = False
    query, key, value, *weights = attention_inputs()
    expected, gradients = attend((query, key, value, *weights), mask=mask)
    for name in ("key", "value"):
        assert not gradients[name][:, 2].any()
        assert gradients[name][:, 3].all()
    key[:, 2], value[:, 2] = 1e30, -1e30
    out, others = attend((query, key, value, *weights), mask=mask)
    np.testing.assert_array_equal(out, expected)
    assert_all_close(others.values(), gradients.values(), 1e-14)


@pytest.mark.parametrize("blind", [np.s_[1, 2], np.s_[:]], ids=["one query", "all queries"])
def test_a_query_that_may_see_nothing_reads_zeros(blind):
    mask = np.ones((N, T, S), bool)
    mask[blind] = False
    inputs = attention_inputs()
    out, gradients = attend(inputs, mask=mask)
    bo = inputs[NAMES.index("bo")]
    sees = mask.any(axis=2)
    np.testing.assert_array_equal(out[~sees], np.broadcast_to(bo, out[~sees].shape))
    assert not gradients["query"][~sees].any()
    assert gradients["query"][sees].all()
    for name in ("key", "value", "Wq", "Wk", "Wv", "Wo"):
        assert gradients[name].any() == sees.any(), name


@pytest.mark.parametrize("dtype", [int, np.uint8, float, np.float32])
def test_a_mask_may_be_of_zeros_and_ones(dtype):
    mask = np.random.default_rng(0).random((T, S)) < 0.5
    expected, expected_gradients = attend(attention_inputs(), mask=mask)
    out, gradients = attend(attention_inputs(), mask=mask.astype(dtype))
    np.testing.assert_array_equal(out, expected)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, expected_gradients[name])


@pytest.mark.parametrize("wrong", [-np.inf, 2, -1, np.nan])
def test_a_mask_of_other_numbers_is_refused(wrong):
    """PyTorch's other mask among them, 0 to look and -inf not to: it would be read upside down."""
    mask = np.zeros((T, S))
    mask[0, 0] = wrong
    with pytest.raises(ValueError, match="mask: found float64 numbers other than 0 and 1"):
        attend(attention_inputs(), mask=mask)


@pytest.mark.parametrize("num_heads", [4, 0, -1, 12])
def test_heads_must_divide_the_width(num_heads):
    with pytest.raises(ValueError, match=f"num_heads: found {num_heads}, expected a divisor"):
        attend(attention_inputs(), num_heads)


def test_heads_are_split_by_channels_and_merged_back():
    (x,) = normal((N, T, E))
    heads = layers.split_heads(x, HEADS)
    d = E // HEADS
    for head in range(HEADS):
        np.testing.assert_array_equal(heads[:, head], x[:, :, head * d : (head + 1) * d])
    np.testing.assert_array_equal(layers.merge_heads(heads), x)


# -- positions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "width"), [(9, 6), (5, 7), (3, 1), (1, 2)])
def test_positional_encoding_is_its_formula(length, width):
    def entry(p, i):
        angle = p / 10000 ** (2 * (i // 2) / width)
        return math.cos(angle) if i % 2 else math.sin(angle)

    expected = [[entry(p, i) for i in range(width)] for p in range(length)]
    np.testing.assert_allclose(layers.positional_encoding(length, width), expected, atol=1e-14)


@pytest.mark.parametrize(("length", "width"), [(0, 4), (4, 0), (-1, 4)])
def test_positions_without_length_or_width_are_refused(length, width):
    with pytest.raises(ValueError, match=f"found {length}, {width}, expected at least 1"):
        layers.positional_encoding(length, width)


# -- the decoder block -------------------------------------------------------------------------

options_of_a_block = pytest.mark.parametrize(
    "options",
    [
        {"norm_first": norm_first, "activation": activation}
        for norm_first in (True, False)
        for activation in ("relu", "gelu")
    ],
    ids=lambda options: f"{'pre' if options['norm_first'] else 'post'}-{options['activation']}",
)


def block_parameters(dtype=np.float64):
    sizes = {"E": E, "F": INNER}
    shapes = [[sizes[letter] for letter in letters] for letters in layers.BLOCK_SHAPES.values()]
    arrays = (0.5 * x.astype(dtype) for x in normal(*shapes, seed=2))
    return dict(zip(layers.BLOCK_SHAPES, arrays, strict=True))


@options_of_a_block
def test_no_word_reads_a_later_one(options):
    x, memory = normal((N, T, E), (N, S, E))

    def run(x):
        return layers.decoder_block_forward(
            x, memory, block_parameters(), HEADS, np.tri(T, dtype=bool), **options
        )[0]

    out = run(x)
    for t in range(T):
        changed = x.copy()
        changed[:, t] += normal(E, seed=3)[0]
        differs = (run(changed) != out).any(axis=(0, 2))
        np.testing.assert_array_equal(differs, np.arange(T) >= t)


@options_of_a_block
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_word_by_word_equals_the_whole_block(options, dtype, tolerance):
    x, memory = (a.astype(dtype) for a in normal((N, T, E), (N, S, E)))
    params = block_parameters(dtype)
    causal = np.tri(T, dtype=bool)
    expected, _ = layers.decoder_block_forward(x, memory, params, HEADS, causal, **options)
    image = layers.keys_and_values(memory, params, "cross", HEADS)
    words, outputs = (), []
    for t in range(T):
        out, words = layers.decoder_block_step(
            x[:, t : t + 1], words, image, params, HEADS, **options
        )
        outputs.append(out)
        for kept in words:
            assert kept.shape == (N, HEADS, t + 1, E // HEADS)
    assert_all_close([np.concatenate(outputs, axis=1)], [expected], tolerance)
    assert {array.dtype for array in (out, *words, *image)} == {np.dtype(dtype)}


@options_of_a_block
def test_a_block_drops_out_only_in_training(options):
    x, memory = normal((N, T, E), (N, S, E))

    def run(dropout, train, rng=None):
        causal = np.tri(T, dtype=bool)
        return layers.decoder_block_forward(
            x, memory, block_parameters(), HEADS, causal, **options,
            dropout=dropout, rng=rng, train=train,
        )[0]  # fmt: skip

    expected = run(0, train=True)
    np.testing.assert_array_equal(run(0.5, train=False), expected)  # without a generator at all
    rng = np.random.default_rng(0)
    first, second = run(0.5, train=True, rng=rng), run(0.5, train=True, rng=rng)
    assert (first != expected).any()
    assert (first != second).any()


# -- float32 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "sizes"), cases_of(layers))
def test_float32_is_kept(case, sizes):
    assert_float32_is_kept(case, sizes)
