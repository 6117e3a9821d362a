"""The layers of a Transformer decoder, each as a forward and a backward function in NumPy.

Reads top to bottom: layer norm, feed-forward, attention with many heads, positions, and the decoder
block that joins them in a residual stream. Builds on ``core/layers.py`` and follows its
conventions.

Letters: N batch, T time steps, S length of what is attended to (T for the words themselves, L
locations for an image), E model width, F inner width of the feed-forward layer, h number of heads
(no hidden state), d = E / h width of a head.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.layers import (
    as_array,
    dropout_backward,
    dropout_forward,
    floats,
    softmax,
    softmax_backward,
    temporal_affine_backward,
    temporal_affine_forward,
)
from core.support.arrays import as_mask
from core.support.erf import erf

Array = np.ndarray


# ---------------------------------------------------------------------------------------------
# Layer norm        (Ba, Kiros and Hinton 2016)
# ---------------------------------------------------------------------------------------------


def layer_norm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5):
    """Mean 0 and variance 1 over the last axis, then a scale and a shift of each channel.

    ::

        normal = (x - mean(x)) / sqrt(var(x) + eps)
        out    = gamma * normal + beta

    Inputs:
    - x: (..., E)
    - gamma, beta: (E,)
    - eps: keeps a constant row from a division by 0

    Returns:
    - out: (..., E)
    - cache: (normal, inverse_std (..., 1), gamma)
    """
    x, gamma, beta = floats(x, gamma, beta)
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    normal = centred * inverse_std
    return gamma * normal + beta, (normal, inverse_std, gamma)


def layer_norm_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients of ``layer_norm_forward``.

    Inputs:
    - dout: (..., E)
    - cache: from ``layer_norm_forward``

    Returns dx (..., E), dgamma (E,), dbeta (E,).
    """
    normal, inverse_std, gamma = cache
    [dout] = floats(dout)
    # out = gamma * normal + beta
    rows = tuple(range(dout.ndim - 1))
    dgamma = (dout * normal).sum(axis=rows)
    dbeta = dout.sum(axis=rows)
    dnormal = dout * gamma
    # normal = centred * inverse_std, where inverse_std = (mean(centred^2) + eps)^(-1/2):
    # d normal[i] / d centred[j] = inverse_std * ((i == j) - normal[i] * normal[j] / E)
    along_normal = (dnormal * normal).mean(axis=-1, keepdims=True)
    dcentred = inverse_std * (dnormal - along_normal * normal)
    # centred = x - mean(x)
    dx = dcentred - dcentred.mean(axis=-1, keepdims=True)
    return dx, dgamma, dbeta


# ---------------------------------------------------------------------------------------------
# Position-wise feed-forward        (section 3.3)
# ---------------------------------------------------------------------------------------------


def relu_forward(x: Array) -> tuple[Array, Array]:
    """``max(x, 0)``; returns the output, and x as the cache."""
    [x] = floats(x)
    return np.maximum(x, 0), x


def relu_backward(dout: Array, cache: Array) -> Array:
    """Gradients of ``relu_forward``; the derivative at 0 is taken to be 0."""
    [dout] = floats(dout)
    # out = max(x, 0)
    return dout * (cache > 0)


def gelu_forward(x: Array) -> tuple[Array, tuple]:
    """``x Phi(x)`` with the normal distribution's Phi, exactly (Hendrycks and Gimpel 2016).

    Returns the output and the cache (x, Phi(x)).
    """
    [x] = floats(x)
    phi = 0.5 * (1 + erf(x * 0.5**0.5))
    return x * phi, (x, phi)


def gelu_backward(dout: Array, cache: tuple) -> Array:
    """Gradients of ``gelu_forward``: ``Phi' = exp(-x^2 / 2) / sqrt(2 pi)``, the normal density."""
    x, phi = cache
    [dout] = floats(dout)
    # out = x * Phi(x)
    return dout * (phi + x * np.exp(-0.5 * x**2) * (2 * np.pi) ** -0.5)


ACTIVATIONS = {
    "relu": (relu_forward, relu_backward),
    "gelu": (gelu_forward, gelu_backward),
}


def feed_forward_forward(
    x: Array, W1: Array, b1: Array, W2: Array, b2: Array, activation: str = "relu"
):
    """Two affine layers with a nonlinearity in between, at each position: ``f(x W1 + b1) W2 + b2``.

    Inputs:
    - x: (N, T, E)
    - W1: (E, F), b1: (F,)
    - W2: (F, E), b2: (E,)
    - activation: 'relu' or 'gelu'

    Returns:
    - out: (N, T, E)
    - cache: those of the three parts, and the name of the activation

    Raises ValueError for another activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: found {activation!r}, expected 'relu' or 'gelu'")
    inner, cache1 = temporal_affine_forward(x, W1, b1)
    inner, activation_cache = ACTIVATIONS[activation][0](inner)
    out, cache2 = temporal_affine_forward(inner, W2, b2)
    return out, (cache1, activation_cache, cache2, activation)


def feed_forward_backward(dout: Array, cache: tuple):
    """Gradients of ``feed_forward_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``feed_forward_forward``

    Returns dx (N, T, E), dW1 (E, F), db1 (F,), dW2 (F, E), db2 (E,).
    """
    cache1, activation_cache, cache2, activation = cache
    # out = f(x @ W1 + b1) @ W2 + b2
    dinner, dW2, db2 = temporal_affine_backward(dout, cache2)
    dinner = ACTIVATIONS[activation][1](dinner, activation_cache)
    dx, dW1, db1 = temporal_affine_backward(dinner, cache1)
    return dx, dW1, db1, dW2, db2


# ---------------------------------------------------------------------------------------------
# Attention        (section 3.2)
# ---------------------------------------------------------------------------------------------


def split_heads(x: Array, num_heads: int) -> Array:
    """(N, T, E) -> (N, h, T, d): head i holds the channels from i d to (i + 1) d."""
    N, T, E = x.shape
    return x.reshape(N, T, num_heads, E // num_heads).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """(N, h, T, d) -> (N, T, E): the inverse of ``split_heads``, and its backward."""
    N, h, T, d = x.shape
    return x.swapaxes(1, 2).reshape(N, T, h * d)


def scaled_dot_product_attention_forward(q: Array, k: Array, v: Array, mask: Array | None = None):
    """Each query reads the values whose keys it agrees with (eq. 1)::

        scores  = q k^T / sqrt(d)
        weights = softmax(scores), over the keys that the mask allows
        out     = weights v

    Inputs:
    - q: (N, h, T, d)
    - k, v: (N, h, S, d)
    - mask: booleans or 0, 1 that broadcast to (N, h, T, S), True = may attend; None allows all

    Returns:
    - out: (N, h, T, d); a query that may attend to nothing gets zeros
    - cache: (q, k, v, weights (N, h, T, S))
    """
    q, k, v = floats(q, k, v)
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = np.where(as_mask(as_array(mask)), scores, -np.inf)
    weights = softmax(scores)
    return weights @ v, (q, k, v, weights)


def scaled_dot_product_attention_backward(dout: Array, cache: tuple):
    """Gradients of ``scaled_dot_product_attention_forward``.

    Where the mask is False the weight is 0, and with it the gradient of the score.

    Inputs:
    - dout: (N, h, T, d)
    - cache: from ``scaled_dot_product_attention_forward``

    Returns dq (N, h, T, d), dk, dv (N, h, S, d).
    """
    q, k, v, weights = cache
    [dout] = floats(dout)
    # out = weights @ v
    dweights = dout @ v.swapaxes(-1, -2)
    dv = weights.swapaxes(-1, -2) @ dout
    # weights = softmax(scores)
    dscores = softmax_backward(dweights, weights)
    # scores = q @ k.T / sqrt(d)
    dproducts = dscores * q.shape[-1] ** -0.5
    dq = dproducts @ k
    dk = dproducts.swapaxes(-1, -2) @ q
    return dq, dk, dv


def multi_head_attention_forward(
    query: Array, key: Array, value: Array,
    Wq: Array, bq: Array, Wk: Array, bk: Array, Wv: Array, bv: Array, Wo: Array, bo: Array,
    num_heads: int, mask: Array | None = None,
):  # fmt: skip
    """Attention with several heads, each in its own projection (section 3.2.2).

    ::

        q, k, v = query Wq + bq, key Wk + bk, value Wv + bv     each cut into heads
        out     = [head_1, ..., head_h] Wo + bo, where head_i = attention(q_i, k_i, v_i)

    Inputs:
    - query: (N, T, E)
    - key, value: (N, S, E); the same array as query for self-attention
    - Wq, Wk, Wv, Wo: (E, E), bq, bk, bv, bo: (E,)
    - num_heads: h, divides E
    - mask: as above, True = may attend: (T, S) for all, (N, T, S) for each image, or anything that
      broadcasts to (N, h, T, S); None allows everything

    Returns:
    - out: (N, T, E). A query that may attend to nothing reads zeros: its row is bo.
    - cache: those of the projections, and that of the attention, which ends with the weights

    Raises ValueError when h does not divide E and for a mask of other numbers than 0 and 1.

    The gradient of bk is 0: it adds the same q . bk to every score of a query, and a softmax does
    not see what is added to all of its scores.
    """
    E = len(bq)
    if num_heads < 1 or E % num_heads:
        raise ValueError(f"num_heads: found {num_heads}, expected a divisor of the width {E}")
    if mask is not None:
        mask = as_mask(as_array(mask))
        if mask.ndim == 3:
            mask = mask[:, None]
    q, q_cache = temporal_affine_forward(query, Wq, bq)
    k, k_cache = temporal_affine_forward(key, Wk, bk)
    v, v_cache = temporal_affine_forward(value, Wv, bv)
    q, k, v = (split_heads(x, num_heads) for x in (q, k, v))
    heads, attention_cache = scaled_dot_product_attention_forward(q, k, v, mask)
    out, out_cache = temporal_affine_forward(merge_heads(heads), Wo, bo)
    return out, ((q_cache, k_cache, v_cache, out_cache), attention_cache)


def multi_head_attention_backward(dout: Array, cache: tuple):
    """Gradients of ``multi_head_attention_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``multi_head_attention_forward``

    Returns dquery, dkey, dvalue, dWq, dbq, dWk, dbk, dWv, dbv, dWo, dbo, each of the shape of its
    namesake. For self-attention the gradient of the input is dquery + dkey + dvalue.
    """
    (q_cache, k_cache, v_cache, out_cache), attention_cache = cache
    num_heads = attention_cache[0].shape[1]  # of q (N, h, T, d)
    # out = merged heads @ Wo + bo
    dheads, dWo, dbo = temporal_affine_backward(dout, out_cache)
    # heads = attention(q, k, v)
    dq, dk, dv = scaled_dot_product_attention_backward(
        split_heads(dheads, num_heads), attention_cache
    )
    # q, k, v = query @ Wq + bq, key @ Wk + bk, value @ Wv + bv
    dquery, dWq, dbq = temporal_affine_backward(merge_heads(dq), q_cache)
    dkey, dWk, dbk = temporal_affine_backward(merge_heads(dk), k_cache)
    dvalue, dWv, dbv = temporal_affine_backward(merge_heads(dv), v_cache)
    return dquery, dkey, dvalue, dWq, dbq, dWk, dbk, dWv, dbv, dWo, dbo


# ---------------------------------------------------------------------------------------------
# Positions
# ---------------------------------------------------------------------------------------------


def positional_encoding(length: int, width: int) -> Array:
    """Sines and cosines that tell the positions apart (section 3.5).

    ::

        out[p, 2i]     = sin(p / 10000^(2i / width))
        out[p, 2i + 1] = cos(p / 10000^(2i / width))

    Returns (length, width) float64. Raises ValueError for a length or width below 1.
    """
    if min(length, width) < 1:
        raise ValueError(f"length, width: found {length}, {width}, expected at least 1")
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * frequencies
    out = np.empty((length, width))
    out[:, 0::2] = np.sin(angles)
    out[:, 1::2] = np.cos(angles[:, : width // 2])
    return out


# ---------------------------------------------------------------------------------------------
# Around a sublayer: the residual stream, dropout, and the norm before or after
# ---------------------------------------------------------------------------------------------
#
#     x = x + dropout(sublayer(norm(x)))     pre-norm, norm_first (Xiong et al., ICML 2020)
#     x = norm(x + dropout(sublayer(x)))     post-norm, the original


def enter_forward(x: Array, gamma: Array, beta: Array, norm_first: bool):
    """What a sublayer reads of the stream x (N, T, E): its norm, or x itself if that comes after.

    Returns the input of the sublayer (N, T, E), and a cache.
    """
    return layer_norm_forward(x, gamma, beta) if norm_first else (x, None)


def enter_backward(dy: Array, cache: tuple | None):
    """Gradients of ``enter_forward``: dx, dgamma, dbeta; those of a norm that is not here are 0."""
    return (dy, 0, 0) if cache is None else layer_norm_backward(dy, cache)


def leave_forward(
    x: Array,
    y: Array,
    gamma: Array,
    beta: Array,
    norm_first: bool,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    train: bool = True,
):
    """Adds what a sublayer found, y, to the stream x, both (N, T, E); returns that, and a cache."""
    y, drop_cache = dropout_forward(y, dropout, rng, train)
    out, norm_cache = x + y, None
    if not norm_first:
        out, norm_cache = layer_norm_forward(out, gamma, beta)
    return out, (drop_cache, norm_cache)


def leave_backward(dout: Array, cache: tuple):
    """Gradients of ``leave_forward``: dx, dy, dgamma, dbeta."""
    drop_cache, norm_cache = cache
    dgamma = dbeta = 0
    if norm_cache is not None:
        dout, dgamma, dbeta = layer_norm_backward(dout, norm_cache)
    # out = x + dropout(y): dout goes both ways
    return dout, dropout_backward(dout, drop_cache), dgamma, dbeta


# ---------------------------------------------------------------------------------------------
# The three sublayers of a decoder block        (section 3.1, figure 1, right)
# ---------------------------------------------------------------------------------------------

# The parameters of a block: name -> shape, a letter for each axis. No key has a bias, since its
# gradient is 0 (see ``multi_head_attention_forward``).
BLOCK_SHAPES = {
    "norm1.gamma": "E", "norm1.beta": "E",
    "self.Wq": "EE", "self.bq": "E", "self.Wk": "EE",
    "self.Wv": "EE", "self.bv": "E", "self.Wo": "EE", "self.bo": "E",
    "norm2.gamma": "E", "norm2.beta": "E",
    "cross.Wq": "EE", "cross.bq": "E", "cross.Wk": "EE",
    "cross.Wv": "EE", "cross.bv": "E", "cross.Wo": "EE", "cross.bo": "E",
    "norm3.gamma": "E", "norm3.beta": "E",
    "feed_forward.W1": "EF", "feed_forward.b1": "F",
    "feed_forward.W2": "FE", "feed_forward.b2": "E",
}  # fmt: skip


def self_attention_forward(
    x: Array,
    params: Mapping[str, Array],
    num_heads: int,
    mask: Array | None,
    norm_first: bool,
    *drop,
):
    """The first sublayer: each word attends to the words that the mask allows.

    Arguments as for ``decoder_block_forward``, which calls it; ``drop`` is dropout, rng, train.
    """
    p = params
    y, enter_cache = enter_forward(x, p["norm1.gamma"], p["norm1.beta"], norm_first)
    no_bias = np.zeros_like(p["self.bq"])
    y, attention_cache = multi_head_attention_forward(
        y, y, y, p["self.Wq"], p["self.bq"], p["self.Wk"], no_bias,
        p["self.Wv"], p["self.bv"], p["self.Wo"], p["self.bo"], num_heads, mask,
    )  # fmt: skip
    out, leave_cache = leave_forward(x, y, p["norm1.gamma"], p["norm1.beta"], norm_first, *drop)
    return out, (enter_cache, attention_cache, leave_cache)


def self_attention_backward(dout: Array, cache: tuple):
    """Gradients of ``self_attention_forward``: dx (N, T, E), and those of its params by name."""
    enter_cache, attention_cache, leave_cache = cache
    grads = {}
    dx, dy, dgamma_after, dbeta_after = leave_backward(dout, leave_cache)
    dquery, dkey, dvalue, *dweights = multi_head_attention_backward(dy, attention_cache)
    dWq, dbq, dWk, _, dWv, dbv, dWo, dbo = dweights  # _ is dbk, which is 0
    grads["self.Wq"], grads["self.bq"], grads["self.Wk"] = dWq, dbq, dWk
    grads["self.Wv"], grads["self.bv"], grads["self.Wo"], grads["self.bo"] = dWv, dbv, dWo, dbo
    # y is query, key and value
    dx_entering, dgamma, dbeta = enter_backward(dquery + dkey + dvalue, enter_cache)
    # the norm is before the sublayer or after it; where it is not, its gradient is 0
    grads["norm1.gamma"], grads["norm1.beta"] = dgamma + dgamma_after, dbeta + dbeta_after
    return dx + dx_entering, grads


def cross_attention_forward(
    x: Array, memory: Array, params: Mapping[str, Array], num_heads: int, norm_first: bool, *drop
):
    """The second sublayer: each word attends to the locations of the image, memory (N, S, E).

    Arguments as for ``decoder_block_forward``, which calls it; ``drop`` is dropout, rng, train.
    """
    p = params
    y, enter_cache = enter_forward(x, p["norm2.gamma"], p["norm2.beta"], norm_first)
    no_bias = np.zeros_like(p["cross.bq"])
    y, attention_cache = multi_head_attention_forward(
        y, memory, memory, p["cross.Wq"], p["cross.bq"], p["cross.Wk"], no_bias,
        p["cross.Wv"], p["cross.bv"], p["cross.Wo"], p["cross.bo"], num_heads,
    )  # fmt: skip
    out, leave_cache = leave_forward(x, y, p["norm2.gamma"], p["norm2.beta"], norm_first, *drop)
    return out, (enter_cache, attention_cache, leave_cache)


def cross_attention_backward(dout: Array, cache: tuple):
    """Gradients of ``cross_attention_forward``: dx, dmemory (N, S, E), those of params by name."""
    enter_cache, attention_cache, leave_cache = cache
    grads = {}
    dx, dy, dgamma_after, dbeta_after = leave_backward(dout, leave_cache)
    dquery, dkey, dvalue, *dweights = multi_head_attention_backward(dy, attention_cache)
    dWq, dbq, dWk, _, dWv, dbv, dWo, dbo = dweights  # _ is dbk, which is 0
    grads["cross.Wq"], grads["cross.bq"], grads["cross.Wk"] = dWq, dbq, dWk
    grads["cross.Wv"], grads["cross.bv"], grads["cross.Wo"], grads["cross.bo"] = dWv, dbv, dWo, dbo
    dx_entering, dgamma, dbeta = enter_backward(dquery, enter_cache)
    grads["norm2.gamma"], grads["norm2.beta"] = dgamma + dgamma_after, dbeta + dbeta_after
    # memory is key and value
    return dx + dx_entering, dkey + dvalue, grads


def feed_forward_sublayer_forward(
    x: Array, params: Mapping[str, Array], activation: str, norm_first: bool, *drop
):
    """The third sublayer: each word by itself.

    Arguments as for ``decoder_block_forward``, which calls it; ``drop`` is dropout, rng, train.
    """
    p = params
    y, enter_cache = enter_forward(x, p["norm3.gamma"], p["norm3.beta"], norm_first)
    y, inner_cache = feed_forward_forward(
        y, p["feed_forward.W1"], p["feed_forward.b1"], p["feed_forward.W2"], p["feed_forward.b2"],
        activation,
    )  # fmt: skip
    out, leave_cache = leave_forward(x, y, p["norm3.gamma"], p["norm3.beta"], norm_first, *drop)
    return out, (enter_cache, inner_cache, leave_cache)


def feed_forward_sublayer_backward(dout: Array, cache: tuple):
    """Gradients of ``feed_forward_sublayer_forward``: dx (N, T, E), those of params by name."""
    enter_cache, inner_cache, leave_cache = cache
    grads = {}
    dx, dy, dgamma_after, dbeta_after = leave_backward(dout, leave_cache)
    dy, dW1, db1, dW2, db2 = feed_forward_backward(dy, inner_cache)
    grads["feed_forward.W1"], grads["feed_forward.b1"] = dW1, db1
    grads["feed_forward.W2"], grads["feed_forward.b2"] = dW2, db2
    dx_entering, dgamma, dbeta = enter_backward(dy, enter_cache)
    grads["norm3.gamma"], grads["norm3.beta"] = dgamma + dgamma_after, dbeta + dbeta_after
    return dx + dx_entering, grads


# ---------------------------------------------------------------------------------------------
# The decoder block
# ---------------------------------------------------------------------------------------------


def decoder_block_forward(
    x: Array,
    memory: Array,
    params: Mapping[str, Array],
    num_heads: int,
    mask: Array | None = None,
    norm_first: bool = True,
    activation: str = "relu",
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    train: bool = True,
):
    """Self-attention, cross-attention, feed-forward; each adds to a residual stream.

    Inputs:
    - x: (N, T, E)
    - memory: (N, S, E) what cross-attention reads
    - params: the arrays of ``BLOCK_SHAPES``
    - num_heads: divides E
    - mask: of self-attention, see ``multi_head_attention_forward``
    - norm_first: pre-norm or post-norm
    - activation: of the feed-forward layer, 'relu' or 'gelu'
    - dropout, rng, train: of what each sublayer adds, see ``dropout_forward``

    Returns:
    - out: (N, T, E)
    - cache: those of the three sublayers
    """
    drop = dropout, rng, train
    x, words_cache = self_attention_forward(x, params, num_heads, mask, norm_first, *drop)
    x, image_cache = cross_attention_forward(x, memory, params, num_heads, norm_first, *drop)
    x, inner_cache = feed_forward_sublayer_forward(x, params, activation, norm_first, *drop)
    return x, (words_cache, image_cache, inner_cache)


def decoder_block_backward(dout: Array, cache: tuple):
    """Gradients of ``decoder_block_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``decoder_block_forward``

    Returns:
    - dx: (N, T, E)
    - dmemory: (N, S, E)
    - grads: the gradient of each entry of params
    """
    words_cache, image_cache, inner_cache = cache
    dx, inner_grads = feed_forward_sublayer_backward(dout, inner_cache)
    dx, dmemory, image_grads = cross_attention_backward(dx, image_cache)
    dx, words_grads = self_attention_backward(dx, words_cache)
    return dx, dmemory, words_grads | image_grads | inner_grads


def cross_attention_weights(cache: tuple) -> Array:
    """Where each position looked in the memory, (N, h, T, S), out of a block's cache."""
    _, image_cache, _ = cache
    _, (_, attention_cache), _ = image_cache
    return attention_cache[-1]  # of q, k, v, weights


# ---------------------------------------------------------------------------------------------
# The decoder block, one word at a time: keys and values are computed once and kept
# ---------------------------------------------------------------------------------------------
#
# No new layer: the block above for the newest word, with the keys and values of the words before.


def keys_and_values(
    x: Array, params: Mapping[str, Array], name: str, num_heads: int
) -> tuple[Array, Array]:
    """The keys and values that one attention of a block makes of x.

    Inputs:
    - x: (N, S, E)
    - params: the arrays of ``BLOCK_SHAPES``
    - name: of the attention, 'self' or 'cross'

    Returns k, v, each (N, h, S, d).
    """
    k = x @ params[f"{name}.Wk"]
    v, _ = temporal_affine_forward(x, params[f"{name}.Wv"], params[f"{name}.bv"])
    return split_heads(k, num_heads), split_heads(v, num_heads)


def attend_to_kept(y: Array, kept: tuple[Array, Array], params: Mapping[str, Array], name: str):
    """``multi_head_attention_forward`` of y (N, T, E) over kept keys and values (N, h, S, d)."""
    k, v = kept
    q, _ = temporal_affine_forward(y, params[f"{name}.Wq"], params[f"{name}.bq"])
    heads, _ = scaled_dot_product_attention_forward(split_heads(q, k.shape[1]), k, v)
    out, _ = temporal_affine_forward(merge_heads(heads), params[f"{name}.Wo"], params[f"{name}.bo"])
    return out


def self_attention_step(
    x: Array,
    words: tuple[Array, ...],
    params: Mapping[str, Array],
    num_heads: int,
    norm_first: bool,
):
    """The first sublayer for one new word; arguments and returns as ``decoder_block_step``."""
    gamma, beta = params["norm1.gamma"], params["norm1.beta"]
    y, _ = enter_forward(x, gamma, beta, norm_first)
    kept = keys_and_values(y, params, "self", num_heads)
    if words:
        kept = tuple(np.concatenate(pair, axis=2) for pair in zip(words, kept, strict=True))
    y = attend_to_kept(y, kept, params, "self")
    return leave_forward(x, y, gamma, beta, norm_first, train=False)[0], kept


def cross_attention_step(
    x: Array, image: tuple[Array, Array], params: Mapping[str, Array], norm_first: bool
) -> Array:
    """The second sublayer for new words x (N, T, E); ``image`` as for ``decoder_block_step``."""
    gamma, beta = params["norm2.gamma"], params["norm2.beta"]
    y, _ = enter_forward(x, gamma, beta, norm_first)
    y = attend_to_kept(y, image, params, "cross")
    return leave_forward(x, y, gamma, beta, norm_first, train=False)[0]


def decoder_block_step(
    x: Array,
    words: tuple[Array, ...],
    image: tuple[Array, Array],
    params: Mapping[str, Array],
    num_heads: int,
    norm_first: bool = True,
    activation: str = "relu",
):
    """The block for one new word, without dropout; equals the last row of the whole sequence.

    Inputs:
    - x: (N, 1, E) the new word
    - words: keys and values (N, h, t, d) of the words before; () at the first
    - image: keys and values (N, h, S, d) of the memory
    - params, num_heads, norm_first, activation: as for ``decoder_block_forward``

    Returns:
    - out: (N, 1, E)
    - words: keys and values (N, h, t + 1, d), the new word's among them
    """
    x, words = self_attention_step(x, words, params, num_heads, norm_first)
    x = cross_attention_step(x, image, params, norm_first)
    x, _ = feed_forward_sublayer_forward(x, params, activation, norm_first)
    return x, words
