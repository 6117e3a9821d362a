"""The layers of a Transformer decoder, each as a forward and a backward function in NumPy.

Reads top to bottom: layer norm, dropout, feed-forward, attention with many heads, positions, and
the decoder block that joins them in a residual stream. Same conventions as
``core/rnn_layers.py``, whose affine layer it uses: the dtype kept, no argument written to.

Letters: N batch, T time steps (queries), S source length (keys), E model width, F inner width of
the feed-forward layer, h number of heads, d = E / h width of a head.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core.attention_layers import softmax, softmax_backward
from core.rnn_layers import (
    affine_weights_backward,
    temporal_affine_backward,
    temporal_affine_forward,
)

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
    - cache: (normal, 1 / sqrt(var + eps) (..., 1), gamma)
    """
    normal = x - _mean(x)
    scale = 1 / np.sqrt(_mean(normal, normal) + eps)
    normal *= scale
    out = gamma * normal
    out += beta
    return out, (normal, scale, gamma)


def _mean(x: Array, y: Array | None = None) -> Array:
    """(..., E) -> (..., 1): the mean of x over a row, or of x y."""
    total = np.add.reduce(x, axis=-1) if y is None else np.einsum("...e,...e->...", x, y)
    return total[..., None] / x.dtype.type(x.shape[-1])


def layer_norm_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Undoes ``layer_norm_forward``.

    Mean and variance depend on every entry of a row: what reaches ``normal`` loses its mean, and
    its part along ``normal`` itself, since no change of x can move the row in these directions.

    Inputs:
    - dout: (..., E)
    - cache: from ``layer_norm_forward``

    Returns:
    - dx: (..., E)
    - dgamma: (E,)
    - dbeta: (E,)
    """
    normal, scale, gamma = cache
    # out = gamma * normal + beta
    rows = tuple(range(dout.ndim - 1))
    dgamma = (dout * normal).sum(axis=rows)
    dbeta = dout.sum(axis=rows)
    dnormal = dout * gamma
    # normal = (x - mean) * scale, where scale = 1 / sqrt(var + eps)
    along_mean, along_normal = _mean(dnormal), _mean(dnormal, normal)
    dx = dnormal
    dx -= along_mean
    dx -= normal * along_normal
    dx *= scale
    return dx, dgamma, dbeta


# ---------------------------------------------------------------------------------------------
# Dropout
# ---------------------------------------------------------------------------------------------


def dropout_forward(x: Array, p: float, rng: np.random.Generator, train: bool = True):
    """Inverted dropout (Srivastava et al., JMLR 2014): zeroes entries, scales up the others.

    Inputs:
    - x: array of any shape
    - p: probability to DROP an entry, 0 <= p < 1
    - rng: draws the mask: an entry is dropped where ``rng.random(x.shape, dtype=np.float32) < p``;
      untouched when nothing is dropped
    - train: False (inference) passes x through

    Returns:
    - out: the shape of x; its expected value is x
    - cache: the mask, 0 or 1 / (1 - p) for each entry, or None when nothing was dropped

    Raises ValueError when p is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise ValueError(f"p: found {p}, expected a probability to drop, 0 <= p < 1")
    if not train or p == 0:
        return x.copy(), None
    mask = (rng.random(x.shape, dtype=np.float32) >= p).astype(x.dtype)
    mask /= 1 - p
    return x * mask, mask


def dropout_backward(dout: Array, cache: Array | None) -> Array:
    """Undoes ``dropout_forward``: the same entries pass, with the same scale.

    Inputs:
    - dout: the shape of x
    - cache: from ``dropout_forward``

    Returns:
    - dx: the shape of x
    """
    mask = cache
    # out = x * mask
    return dout.copy() if mask is None else dout * mask


# ---------------------------------------------------------------------------------------------
# Position-wise feed-forward        (section 3.3)
# ---------------------------------------------------------------------------------------------


def relu_forward(x: Array) -> tuple[Array, Array]:
    """``max(x, 0)``; returns the output, and x as the cache."""
    return np.maximum(x, 0), x


def relu_backward(dout: Array, cache: Array) -> Array:
    """Undoes ``relu_forward``; the derivative at 0 is taken to be 0."""
    # out = max(x, 0)
    return dout * (cache > 0)


def gelu_forward(x: Array) -> tuple[Array, tuple]:
    """``x Phi(x)`` with the normal distribution's Phi, exactly (Hendrycks and Gimpel 2016).

    Returns the output and the cache (x, Phi(x)).
    """
    from scipy.special import erf  # here, since nothing else needs SciPy

    phi = 0.5 * (1 + erf(x * 0.5**0.5))
    return x * phi, (x, phi)


def gelu_backward(dout: Array, cache: tuple) -> Array:
    """Undoes ``gelu_forward``: ``Phi' = exp(-x^2 / 2) / sqrt(2 pi)``, the normal density."""
    x, phi = cache
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
    """Undoes ``feed_forward_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``feed_forward_forward``

    Returns:
    - dx: (N, T, E)
    - dW1: (E, F)
    - db1: (F,)
    - dW2: (F, E)
    - db2: (E,)
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
    """(N, h, T, d) -> (N, T, E); undoes ``split_heads``, and is its backward."""
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
    - mask: booleans that broadcast to (N, h, T, S), True = may attend; None allows everything

    Returns:
    - out: (N, h, T, d); a query that may attend to nothing gets zeros
    - cache: (q, k, v, weights (N, h, T, S))
    """
    scores = q @ k.swapaxes(-1, -2)
    scores *= q.shape[-1] ** -0.5
    if mask is not None:
        np.copyto(scores, -np.inf, where=~mask)
    weights = softmax(scores)
    return weights @ v, (q, k, v, weights)


def scaled_dot_product_attention_backward(dout: Array, cache: tuple):
    """Undoes ``scaled_dot_product_attention_forward``.

    Where the mask is False the weight is 0, and with it the gradient of the score.

    Inputs:
    - dout: (N, h, T, d)
    - cache: from ``scaled_dot_product_attention_forward``

    Returns:
    - dq: (N, h, T, d)
    - dk, dv: (N, h, S, d)
    """
    q, k, v, weights = cache
    # out = weights @ v
    dweights = dout @ v.swapaxes(-1, -2)
    dv = weights.swapaxes(-1, -2) @ dout
    # weights = softmax(scores)
    dscores = softmax_backward(dweights, weights)
    # scores = q @ k.T / sqrt(d)
    dscores *= q.shape[-1] ** -0.5
    dq = dscores @ k
    dk = dscores.swapaxes(-1, -2) @ q
    return dq, dk, dv


def multi_head_attention_forward(
    query: Array,
    key: Array,
    value: Array,
    Wq: Array,
    bq: Array,
    Wk: Array,
    bk: Array,
    Wv: Array,
    bv: Array,
    Wo: Array,
    bo: Array,
    num_heads: int,
    mask: Array | None = None,
):
    """Attention with several heads, each in its own projection (section 3.2.2).

    ::

        q, k, v = query Wq + bq, key Wk + bk, value Wv + bv     each cut into heads
        out     = concatenated heads of attention(q, k, v) Wo + bo

    Inputs:
    - query: (N, T, E)
    - key, value: (N, S, E); the same array as query for self-attention
    - Wq, Wk, Wv, Wo: (E, E), bq, bk, bv, bo: (E,)
    - num_heads: h, divides E
    - mask: booleans, True = may attend: (T, S) for all, (N, T, S) for each image, or anything that
      broadcasts to (N, h, T, S); None allows everything

    Returns:
    - out: (N, T, E). A query that may attend to nothing reads zeros: its row is bo.
    - cache: those of the projections, and that of the attention, which ends with the weights

    Raises ValueError when h does not divide E and for a mask that is not boolean.

    The gradient of bk is 0: it adds the same q . bk to every score of a query, and a softmax does
    not see what is added to all of its scores.
    """
    E = Wq.shape[1]
    if num_heads < 1 or E % num_heads:
        raise ValueError(f"num_heads: found {num_heads}, expected a divisor of the width {E}")
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != bool:
            raise ValueError(f"mask: found {mask.dtype}, expected booleans, True = may attend")
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
    """Undoes ``multi_head_attention_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``multi_head_attention_forward``

    Returns dquery, dkey, dvalue, dWq, dbq, dWk, dbk, dWv, dbv, dWo, dbo, each of the shape of its
    namesake. For self-attention the gradient of the input is dquery + dkey + dvalue.
    """
    (q_cache, k_cache, v_cache, out_cache), attention_cache = cache
    num_heads = attention_cache[0].shape[1]
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


def memory_attention_forward(
    query: Array,
    memory: Array,
    Wq: Array,
    bq: Array,
    Wk: Array,
    Wv: Array,
    bv: Array,
    Wo: Array,
    bo: Array,
    num_heads: int,
):
    """``multi_head_attention_forward(query, memory, memory, ...)``, without making keys and values.

    A caption has fewer words than its image has locations: so each question is carried to where
    the memory is, not the memory to where the questions are, and what is read there is carried
    back::

        q_i . (memory Wk_i)   = (q_i Wk_i^T) . memory                 for head i
        weights (memory Wv_i) = (weights memory) Wv_i

    Inputs:
    - query: (N, T, E)
    - memory: (N, S, E)
    - Wq, Wk, Wv, Wo: (E, E), bq, bv, bo: (E,); a bias of the keys would change nothing
    - num_heads: h, divides E

    Returns:
    - out: (N, T, E)
    - cache: (..., weights (N, T h, S)), the heads of a word together
    """
    (N, T, E), h = query.shape, num_heads
    q, _ = temporal_affine_forward(query, Wq, bq)
    q *= (E // h) ** -0.5
    q = q.reshape(N * T, h, E // h)
    asked = _by_head(q, Wk, transposed=True)  # (N T, h, E)
    weights = softmax(asked.reshape(N, T * h, E) @ memory.swapaxes(1, 2))
    seen = (weights @ memory).reshape(N * T, h, E)
    heads = _by_head(seen, Wv).reshape(N * T, E)
    heads += bv  # the weights of a head sum to 1
    out = heads @ Wo
    out += bo
    return out.reshape(N, T, E), (query, memory, Wq, Wk, Wv, Wo, q, asked, seen, heads, weights)


def memory_attention_backward(dout: Array, cache: tuple):
    """Undoes ``memory_attention_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``memory_attention_forward``

    Returns dquery, dmemory, dWq, dbq, dWk, dWv, dbv, dWo, dbo, each of the shape of its namesake.
    """
    query, memory, Wq, Wk, Wv, Wo, q, asked, seen, heads, weights = cache
    (N, T, E), h = query.shape, q.shape[1]
    # out = heads @ Wo + bo
    dout = dout.reshape(N * T, E)
    dWo, dbo = affine_weights_backward(dout, heads)
    dheads = dout @ Wo.T
    # heads = seen Wv, head by head, + bv
    dbv = dheads.sum(axis=0)
    dheads = dheads.reshape(N * T, h, E // h)
    dWv = _by_head_weights(seen, dheads)
    dseen = _by_head(dheads, Wv, transposed=True).reshape(N, T * h, E)
    # seen = weights @ memory
    dweights = dseen @ memory.swapaxes(1, 2)
    dmemory = weights.swapaxes(1, 2) @ dseen
    # weights = softmax(asked @ memory.T)
    dscores = softmax_backward(dweights, weights)
    dasked = (dscores @ memory).reshape(N * T, h, E)
    dmemory += dscores.swapaxes(1, 2) @ asked.reshape(N, T * h, E)
    # asked = q Wk^T, head by head
    dWk = _by_head_weights(dasked, q)
    dq = _by_head(dasked, Wk).reshape(N * T, E)
    # q = (query @ Wq + bq) / sqrt(d)
    dq *= (E // h) ** -0.5
    dWq, dbq = affine_weights_backward(dq, query)
    dquery = (dq @ Wq.T).reshape(N, T, E)
    return dquery, dmemory, dWq, dbq, dWk, dWv, dbv, dWo, dbo


def _by_head(x: Array, W: Array, transposed: bool = False) -> Array:
    """(M, h, E) -> (M, h, d): each head's row times its block of columns of W (E, E).

    Transposed, (M, h, d) -> (M, h, E): times the transpose of that block.
    """
    M, h, _ = x.shape
    blocks = W.reshape(len(W), h, -1).swapaxes(0, 1)  # (h, E, d)
    if transposed:
        blocks = blocks.swapaxes(1, 2)
    out = np.empty((M, h, blocks.shape[2]), dtype=x.dtype)
    np.matmul(x.swapaxes(0, 1), blocks, out=out.swapaxes(0, 1))
    return out


def _by_head_weights(x: Array, dout: Array) -> Array:
    """The gradient of W (E, E) in ``dout = _by_head(x, W)``: x (M, h, E), dout (M, h, d)."""
    _, h, E = x.shape
    dW = np.empty((E, E), dtype=x.dtype)
    blocks = dW.reshape(E, h, -1).swapaxes(0, 1)  # (h, E, d), views
    np.matmul(x.transpose(1, 2, 0), dout.swapaxes(0, 1), out=blocks)
    return dW


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
# The decoder block        (section 3.1, figure 1, right)
# ---------------------------------------------------------------------------------------------

# The parameters of a block: name -> shape, in units of the widths. No key has a bias, since its
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

    ::

        x = x + dropout(sublayer(norm(x)))     pre-norm (Xiong et al., ICML 2020), norm_first
        x = norm(x + dropout(sublayer(x)))     post-norm, the original

    Inputs:
    - x: (N, T, E)
    - memory: (N, S, E) what cross-attention reads
    - params: the arrays of ``BLOCK_SHAPES``
    - num_heads: divides E
    - mask: of self-attention, see ``multi_head_attention_forward``
    - norm_first: pre-norm or post-norm
    - activation: of the feed-forward layer, 'relu' or 'gelu'
    - dropout, rng, train: see ``dropout_forward``

    Returns:
    - out: (N, T, E)
    - cache: those of the three sublayers
    """

    def attend_to_words(y):
        weights = _attention_parameters(params, "self")
        return multi_head_attention_forward(y, y, y, *weights, num_heads, mask)

    def attend_to_image(y):
        weights = (params[f"cross.{name}"] for name in _MEMORY_PARAMETERS)
        return memory_attention_forward(y, memory, *weights, num_heads)

    def feed_forward(y):
        return feed_forward_forward(y, *_feed_forward_parameters(params), activation)

    caches = []
    for i, sublayer in enumerate((attend_to_words, attend_to_image, feed_forward), start=1):
        norm = params[f"norm{i}.gamma"], params[f"norm{i}.beta"]
        x, cache = residual_forward(x, sublayer, *norm, norm_first, dropout, rng, train)
        caches.append(cache)
    return x, tuple(caches)


def decoder_block_backward(dout: Array, cache: tuple):
    """Undoes ``decoder_block_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``decoder_block_forward``

    Returns:
    - dx: (N, T, E)
    - dmemory: (N, S, E)
    - grads: the gradient of each entry of params
    """
    grads, dmemory = {}, None
    names = ("Wq", "bq", "Wk", "bk", "Wv", "bv", "Wo", "bo")

    def feed_forward(dy, cache):
        dy, *dweights = feed_forward_backward(dy, cache)
        for name, gradient in zip(("W1", "b1", "W2", "b2"), dweights, strict=True):
            grads[f"feed_forward.{name}"] = gradient
        return dy

    def attend_to_image(dy, cache):
        nonlocal dmemory
        dy, dmemory, *dweights = memory_attention_backward(dy, cache)
        for name, gradient in zip(_MEMORY_PARAMETERS, dweights, strict=True):
            grads[f"cross.{name}"] = gradient
        return dy

    def attend_to_words(dy, cache):
        dquery, dkey, dvalue, *dweights = multi_head_attention_backward(dy, cache)
        grads.update((f"self.{n}", g) for n, g in zip(names, dweights, strict=True) if n != "bk")
        # y is query, key and value
        return dquery + dkey + dvalue

    dx = dout
    backwards = (attend_to_words, attend_to_image, feed_forward)
    for i in (3, 2, 1):
        dx, dgamma, dbeta = residual_backward(dx, backwards[i - 1], cache[i - 1])
        grads[f"norm{i}.gamma"], grads[f"norm{i}.beta"] = dgamma, dbeta
    return dx, dmemory, grads


def cross_attention_weights(cache: tuple) -> Array:
    """Where each position looked in the memory, (N, h, T, S), out of a block's cache."""
    _, (image_cache, *_), _ = cache
    query, _, _, _, _, _, q, *_, weights = image_cache
    N, T, _ = query.shape
    return weights.reshape(N, T, q.shape[1], -1).swapaxes(1, 2)


# What ``memory_attention_forward`` takes of a block, in its order.
_MEMORY_PARAMETERS = ("Wq", "bq", "Wk", "Wv", "bv", "Wo", "bo")


def _attention_parameters(params: Mapping[str, Array], which: str) -> tuple[Array, ...]:
    """The eight arrays that ``multi_head_attention_forward`` takes; a key bias of zeros."""
    p = {name: params[f"{which}.{name}"] for name in _MEMORY_PARAMETERS}
    no_bias = np.zeros_like(p["bq"])
    return p["Wq"], p["bq"], p["Wk"], no_bias, p["Wv"], p["bv"], p["Wo"], p["bo"]


def _feed_forward_parameters(params: Mapping[str, Array]) -> tuple[Array, ...]:
    return tuple(params[f"feed_forward.{name}"] for name in ("W1", "b1", "W2", "b2"))


def residual_forward(
    x: Array,
    sublayer: Callable,
    gamma: Array,
    beta: Array,
    norm_first: bool,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    train: bool = True,
):
    """A sublayer in the residual stream, pre-norm or post-norm; see ``decoder_block_forward``.

    Inputs:
    - x: (N, T, E)
    - sublayer: (N, T, E) -> (N, T, E), its cache
    - gamma, beta: (E,) of the layer norm

    Returns:
    - out: (N, T, E)
    - cache: those of the parts; the first is that of the sublayer
    """
    y = x
    if norm_first:
        y, norm_cache = layer_norm_forward(y, gamma, beta)
    y, sublayer_cache = sublayer(y)
    y, drop_cache = dropout_forward(y, dropout, rng, train)
    out = x + y
    if not norm_first:
        out, norm_cache = layer_norm_forward(out, gamma, beta)
    return out, (sublayer_cache, drop_cache, norm_cache, norm_first)


def residual_backward(dout: Array, sublayer_backward: Callable, cache: tuple):
    """Undoes ``residual_forward``.

    Inputs:
    - dout: (N, T, E)
    - sublayer_backward: (dy, cache of the sublayer) -> gradient of the sublayer's input
    - cache: from ``residual_forward``

    Returns:
    - dx: (N, T, E)
    - dgamma, dbeta: (E,)
    """
    sublayer_cache, drop_cache, norm_cache, norm_first = cache
    if not norm_first:
        # out = norm(x + y)
        dout, dgamma, dbeta = layer_norm_backward(dout, norm_cache)
    # out = x + dropout(sublayer(y)): dout goes both ways
    dy = sublayer_backward(dropout_backward(dout, drop_cache), sublayer_cache)
    if norm_first:
        # y = norm(x)
        dy, dgamma, dbeta = layer_norm_backward(dy, norm_cache)
    return dout + dy, dgamma, dbeta


# ---------------------------------------------------------------------------------------------
# The decoder block, one word at a time: keys and values are computed once and kept
# ---------------------------------------------------------------------------------------------


def keys_and_values(
    x: Array, params: Mapping[str, Array], which: str, num_heads: int
) -> tuple[Array, Array]:
    """What one attention of a block reads from x: for memory ('cross') the same for every word.

    Inputs:
    - x: (N, S, E)
    - params: the arrays of ``BLOCK_SHAPES``
    - which: 'self' or 'cross'

    Returns k, v, each (N, h, S, d).
    """
    _, _, Wk, bk, Wv, bv, _, _ = _attention_parameters(params, which)
    k, _ = temporal_affine_forward(x, Wk, bk)
    v, _ = temporal_affine_forward(x, Wv, bv)
    return split_heads(k, num_heads), split_heads(v, num_heads)


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
    - image: keys and values (G, h, S, d) of the memory; row n of x reads those of n // (N / G), so
      that the beams of one image share them
    - params, num_heads, norm_first, activation: as for ``decoder_block_forward``

    Returns:
    - out: (N, 1, E)
    - words: keys and values (N, h, t + 1, d), the new word's among them
    """

    def attend(y, k, v, which):
        Wq, bq, _, _, _, _, Wo, bo = _attention_parameters(params, which)
        q, _ = temporal_affine_forward(y, Wq, bq)
        heads, _ = scaled_dot_product_attention_forward(split_heads(q, num_heads), k, v)
        return temporal_affine_forward(merge_heads(heads), Wo, bo)[0]

    def attend_to_words(y):
        grown = new = keys_and_values(y, params, "self", num_heads)
        if words:
            grown = tuple(np.concatenate(pair, axis=2) for pair in zip(words, new, strict=True))
        return attend(y, *grown, "self"), grown

    def attend_to_image(y):
        # The rows about one image are queries of one sequence: its keys are read once for all.
        queries = y.reshape(len(image[0]), -1, y.shape[2])
        return attend(queries, *image, "cross").reshape(y.shape), None

    def feed_forward(y):
        return feed_forward_forward(y, *_feed_forward_parameters(params), activation)

    grown = None
    for i, sublayer in enumerate((attend_to_words, attend_to_image, feed_forward), start=1):
        norm = params[f"norm{i}.gamma"], params[f"norm{i}.beta"]
        x, (kept, *_) = residual_forward(x, sublayer, *norm, norm_first, train=False)
        grown = grown or kept
    return x, grown
