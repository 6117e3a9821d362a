"""``cross_attention_forward`` of ``core/transformer_layers.py``, made fast, and its step.

A caption has fewer words than its image has locations. So each question is carried to where the
memory is, not the memory to where the questions are: the keys and values of the image are never
made. While captions are searched, the beams of an image share them.

A whole step gets 1.09 times as fast by it, and 1.8 times by all of this folder (docs/speed.md).

Letters: N batch, T time steps, S locations, E model width, h number of heads, d = E / h.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.layers import (
    affine_backward,
    softmax,
    softmax_backward,
    temporal_affine_backward,
    temporal_affine_forward,
)
from core.transformer_layers import (
    cross_attention_step,
    enter_backward,
    enter_forward,
    feed_forward_sublayer_backward,
    feed_forward_sublayer_forward,
    leave_backward,
    leave_forward,
    self_attention_backward,
    self_attention_forward,
    self_attention_step,
)

Array = np.ndarray


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

    A question is carried to where the memory is, and what is read there is carried back::

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
    """Gradients of ``memory_attention_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``memory_attention_forward``

    Returns dquery, dmemory, dWq, dbq, dWk, dWv, dbv, dWo, dbo, each of the shape of its namesake.
    """
    query, memory, Wq, Wk, Wv, Wo, q, asked, seen, heads, weights = cache
    (N, T, E), h = query.shape, q.shape[1]
    # out = heads @ Wo + bo
    dout = dout.reshape(N * T, E)
    dheads, dWo, dbo = affine_backward(dout, (heads, Wo))
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
    dquery, dWq, dbq = temporal_affine_backward(dq.reshape(N, T, E), (query, Wq))
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
# The decoder block with it
# ---------------------------------------------------------------------------------------------

_CROSS = ("Wq", "bq", "Wk", "Wv", "bv", "Wo", "bo")  # in the order of ``memory_attention_forward``


def fast_block_forward(
    x: Array,
    memory: Array,
    params: Mapping[str, Array],
    num_heads: int,
    mask: Array,
    norm_first: bool,
    activation: str,
    *drop,
):
    """``decoder_block_forward``, argument by argument; ``drop`` is dropout, rng, train."""
    x, words_cache = self_attention_forward(x, params, num_heads, mask, norm_first, *drop)
    gamma, beta = params["norm2.gamma"], params["norm2.beta"]
    y, enter_cache = enter_forward(x, gamma, beta, norm_first)
    projections = (params[f"cross.{name}"] for name in _CROSS)
    y, memory_cache = memory_attention_forward(y, memory, *projections, num_heads)
    x, leave_cache = leave_forward(x, y, gamma, beta, norm_first, *drop)
    x, inner_cache = feed_forward_sublayer_forward(x, params, activation, norm_first, *drop)
    # Laid out as the definition's, whose attention ends with its weights, (N, h, T, S).
    N, T, _ = x.shape
    weights = memory_cache[-1].reshape(N, T, num_heads, -1).swapaxes(1, 2)
    image_cache = enter_cache, (memory_cache, (weights,)), leave_cache
    return x, (words_cache, image_cache, inner_cache)


def fast_block_backward(dout: Array, cache: tuple):
    """Gradients of ``fast_block_forward``, as ``decoder_block_backward`` returns them."""
    words_cache, (enter_cache, (memory_cache, _), leave_cache), inner_cache = cache
    dx, inner_grads = feed_forward_sublayer_backward(dout, inner_cache)
    dx, dy, dgamma_after, dbeta_after = leave_backward(dx, leave_cache)
    dy, dmemory, *dweights = memory_attention_backward(dy, memory_cache)
    grads = {f"cross.{name}": dw for name, dw in zip(_CROSS, dweights, strict=True)}
    dx_entering, dgamma, dbeta = enter_backward(dy, enter_cache)
    grads["norm2.gamma"], grads["norm2.beta"] = dgamma + dgamma_after, dbeta + dbeta_after
    dx, words_grads = self_attention_backward(dx + dx_entering, words_cache)
    return dx, dmemory, words_grads | grads | inner_grads


def fast_block_step(
    x: Array,
    words: tuple[Array, ...],
    image: tuple[Array, Array],
    params: Mapping[str, Array],
    num_heads: int,
    norm_first: bool,
    activation: str,
):
    """``decoder_block_step`` where neighbouring rows are about one image.

    - image: keys and values (G, h, S, d) of the memory; row n of x reads those of n // (N / G)
    """
    x, words = self_attention_step(x, words, params, num_heads, norm_first)
    # The rows about one image are the words of one sequence: its keys are read once for all.
    together = x.reshape(len(image[0]), -1, x.shape[2])
    x = cross_attention_step(together, image, params, norm_first).reshape(x.shape)
    x, _ = feed_forward_sublayer_forward(x, params, activation, norm_first)
    return x, words
