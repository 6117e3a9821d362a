"""``attend_forward`` and ``attention_lstm_forward`` of ``core/attention_layers.py``, made fast.

What does not depend on the step before leaves the loop through time: what the words add to the
questions and to the gates of the LSTM, and the gradients of the weights. Padding is left out
(``core/fast/packing.py``). The comparison of questions and keys, the largest array of the model, is
made for a few images at a time and never kept. The beams of an image share its features and keys.

With all of this folder a whole step is 3.1 times as fast as by the definition (docs/speed.md).
Comparing a few images at a time gives little of that, 1.02, and saves most of the memory.

Letters: N batch, M entries of a packing, L locations, C channels, H hidden width, K attention
width, W word-vector width, Q questions to each image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.fast.packing import Packing
from core.fast.recurrent import (
    back_through,
    by_gate,
    gates_apart,
    lstm_cell,
    lstm_cell_backward,
)
from core.layers import sigmoid, softmax, softmax_backward, temporal_affine_forward

Array = np.ndarray

_CACHED = 1 << 16  # entries of the comparison made at a time: what a core's own cache holds


def additive_scores_forward(keys: Array, query: Array, v: Array) -> Array:
    """How well each location answers each question: ``scores = v . tanh(keys + query)``.

    Inputs:
    - keys: (N, L, K)
    - query: (N, Q, K), Q questions to each image
    - v: (K,)

    Returns scores (N, Q, L).

    The comparison, K numbers for each pair of a question and a location, is the largest array of
    the whole model. It is made for a few images at a time and not kept: that backward makes it once
    more costs less than to write it to memory and read it back.
    """
    scores = np.empty((*query.shape[:2], keys.shape[1]), dtype=keys.dtype)
    for rows, q, activation in _compared(keys, query):
        np.matmul(activation, v, out=scores[rows, q])
    return scores


def additive_scores_backward(dscores: Array, keys: Array, query: Array, v: Array, dkeys: Array):
    """Gradients of ``additive_scores_forward``.

    Inputs:
    - dscores: (N, Q, L)
    - keys, query, v: as they were
    - dkeys: (N, L, K), to which the gradient of the keys is added: every word asks the same keys

    Returns:
    - dquery: (N, Q, K)
    - dv: (K,)
    """
    dquery, dv = np.empty_like(query), np.zeros_like(v)
    for rows, q, activation in _compared(keys, query):
        dscore = dscores[rows, q]
        # scores = activation @ v
        dv += dscore.reshape(-1) @ activation.reshape(dscore.size, len(v))
        # activation = tanh(keys + query), and tanh' = 1 - tanh^2
        slope = np.multiply(activation, activation, out=activation)
        np.subtract(1, slope, out=slope)
        slope *= dscore[:, :, None]
        slope *= v
        dkeys[rows] += slope
        slope.sum(axis=1, out=dquery[rows, q])
    return dquery, dv


def _compared(keys: Array, query: Array) -> Iterator[tuple[slice, int, Array]]:
    """``tanh(keys + query)``, (n, L, K) for n images and one question at a time; to be overwritten.

    Yields which images, which question, and the comparison.
    """
    N, L, K = keys.shape
    size = max(1, _CACHED // (L * K))
    for start in range(0, N, size):
        rows = slice(start, start + size)
        for q in range(query.shape[1]):
            activation = keys[rows] + query[rows, q, None]
            yield rows, q, np.tanh(activation, out=activation)


def attend_shared_forward(features: Array, keys: Array, query: Array, v: Array):
    """``attend_forward`` of ``core/attention_layers.py`` for several questions to each image.

    Inputs:
    - features: (N, L, C)
    - keys: (N, L, K), ``features Wf + b``, the same for every word
    - query: (N, Q, K), ``h Wh``: while training Q is 1, and in a search the number of beams
    - v: (K,)

    Returns:
    - context: (N, Q, C)
    - weights: (N, Q, L), non-negative, each row sums to 1
    - cache: (features, keys, query, v, weights)
    """
    weights = softmax(additive_scores_forward(keys, query, v))
    return weights @ features, weights, (features, keys, query, v, weights)


def attend_shared_backward(dcontext: Array, dweights: Array, cache: tuple, dkeys: Array):
    """Gradients of ``attend_shared_forward``, but for the features: they are data.

    Inputs:
    - dcontext: (N, Q, C)
    - dweights: (N, Q, L) gradient that reaches the weights from elsewhere, as from
      ``doubly_stochastic_loss``
    - cache: from ``attend_shared_forward``
    - dkeys: (N, L, K), to which the gradient of the keys is added

    Returns:
    - dquery: (N, Q, K)
    - dv: (K,)
    """
    features, keys, query, v, weights = cache
    # context = weights @ features: the weights have a second reader
    dweights = dweights + dcontext @ features.swapaxes(1, 2)
    # weights = softmax(scores)
    return additive_scores_backward(softmax_backward(dweights, weights), keys, query, v, dkeys)


# ---------------------------------------------------------------------------------------------
# The LSTM that looks at the image before each step
# ---------------------------------------------------------------------------------------------


def attention_lstm_packed_forward(
    vectors: Array,
    features: Array,
    h0: Array,
    c0: Array,
    packing: Packing,
    W_features: Array,
    W_query: Array,
    b_attend: Array,
    v_attend: Array,
    W_gate: Array,
    b_gate: Array,
    Wx: Array,
    Wh: Array,
    b: Array,
):
    """``attention_lstm_forward`` with the padding left out.

    Inputs, besides those of ``attention_lstm_forward``:
    - vectors: (M, W) the word that each entry reads
    - packing: which rows go on at each step

    Returns, for each entry of the packing:
    - h: (M, H)
    - gated: (M, C)
    - weights: (M, L)
    - cache
    """
    (N, H), M, (L, C) = h0.shape, len(vectors), features.shape[1:]
    features = packing.by_length(features)
    keys, _ = temporal_affine_forward(features, W_features, b_attend)
    query, gates, loop_weights = words_apart(vectors, W_query, v_attend, W_gate, b_gate, Wx, Wh, b)
    h_states, c_states = (np.empty((N + M, H), dtype=gates.dtype) for _ in range(2))
    h_states[:N], c_states[:N] = packing.by_length(h0), packing.by_length(c0)
    widths = (H, C, C, C, L)
    tanh_c, gate, context, gated, weights = (np.empty((M, w), dtype=gates.dtype) for w in widths)
    found = h_states[N:], c_states[N:], tanh_c, gate, context, gated, weights
    for now, before in packing.steps:
        n = now.stop - now.start
        step = look_and_read(
            query[now], gates[:, now], features[:n], keys[:n],
            h_states[before], c_states[before], loop_weights,
        )  # fmt: skip
        for array, new in zip(found, step, strict=True):
            array[now] = new
    states = query, gates, gate, context, gated, h_states, c_states, tanh_c, weights
    cache = vectors, W_query, Wx, packing, features, keys, loop_weights, states
    return h_states[N:], gated, weights, cache


def attention_lstm_packed_backward(dh: Array, dgated: Array, dweights: Array, cache: tuple):
    """Gradients of ``attention_lstm_packed_forward``, but for the features: they are data.

    Inputs:
    - dh: (M, H), dgated: (M, C), dweights: (M, L)
    - cache: from ``attention_lstm_packed_forward``

    Returns dvectors, dh0, dc0, dW_features, dW_query, db_attend, dv_attend, dW_gate, db_gate, dWx,
    dWh, db, each of the shape of its namesake.
    """
    vectors, W_query, Wx, packing, features, keys, loop_weights, states = cache
    query, gates, gate, context, gated, h_states, c_states, tanh_c, weights = states
    W_asking, v_attend, W_gate, _, W_reading, Wh = loop_weights
    W, H = vectors.shape[1], len(Wh)
    dquery, dgate = np.empty_like(query), np.empty_like(gate)
    da = np.empty((len(dh), 4 * H), dtype=dh.dtype)
    dkeys, dv = np.zeros_like(keys), np.zeros_like(v_attend)
    dprev_h = dprev_c = dh[:0]
    for now, before in reversed(packing.steps):
        n = now.stop - now.start
        # h[now] is read from above and, where the row goes on, by the step after
        dnow = dh[now].copy()
        dnow[: len(dprev_h)] += dprev_h
        dprev_c = lstm_cell_backward(
            dnow, dprev_c, gates[:, now], c_states[before], tanh_c[now], out=by_gate(da[now])
        )
        # a = read + prev_h @ Wh + gated @ W_reading
        dread = dgated[now] + back_through(da[now], W_reading)
        # gated = gate * context, where gate = sigmoid(prev_h @ W_gate + b_gate)
        dcontext = dread * gate[now]
        np.multiply(dread, context[now] * gate[now] * (1 - gate[now]), out=dgate[now])
        # context, weights = attend(features, keys, query), where query = asked + prev_h @ W_asking
        attended = features[:n], keys[:n], query[now, None], v_attend, weights[now, None]
        dasked, dv_now = attend_shared_backward(
            dcontext[:, None], dweights[now, None], attended, dkeys[:n]
        )
        dquery[now] = dasked[:, 0]
        dv += dv_now
        # prev_h was read three times
        dprev_h = back_through(da[now], Wh)
        dprev_h += dgate[now] @ W_gate.T
        dprev_h += dquery[now] @ W_asking.T
    dh0, dc0 = packing.by_row(dprev_h), packing.by_row(dprev_c)
    # every step shares the weights, so their gradients sum over time
    prev_h = h_states[packing.before]
    dW_query = np.concatenate([prev_h.T @ dquery, vectors.T @ dquery])
    dWx = np.concatenate([vectors.T @ da, gated.T @ da])
    dvectors = dquery @ W_query[H:].T + da @ Wx[:W].T
    # keys = features @ W_features + b_attend, once for all steps
    dkeys = dkeys.reshape(-1, dkeys.shape[2])
    dW_features, db_attend = features.reshape(len(dkeys), -1).T @ dkeys, dkeys.sum(axis=0)
    dW_gate, db_gate, dWh, db = prev_h.T @ dgate, dgate.sum(axis=0), prev_h.T @ da, da.sum(axis=0)
    dweights = dW_features, dW_query, db_attend, dv, dW_gate, db_gate, dWx, dWh, db
    return dvectors, dh0, dc0, *dweights


def words_apart(vectors: Array, W_query, v_attend, W_gate, b_gate, Wx, Wh, b):
    """What words (M, W) add to the questions (M, K) and to the LSTM's gates (4, M, H).

    Returns as well what ``look_and_read`` then needs of the weights.
    """
    H, W = len(Wh), vectors.shape[1]
    asked, read = vectors @ W_query[H:], vectors @ Wx[:W] + b
    return asked, gates_apart(read), (W_query[:H], v_attend, W_gate, b_gate, Wx[W:], Wh)


def look_and_read(query, gates, features, keys, prev_h, prev_c, loop_weights):
    """One step for n rows, in place; equals ``attention_lstm_step_forward``.

    Inputs:
    - query: (n, K) and gates: (4, n, H), what the words add to them; both are filled
    - features, keys: of n images, or of fewer that as many neighbouring rows each are about
    - prev_h, prev_c: (n, H)
    - loop_weights: from ``words_apart``

    Returns h, c, tanh(c), gate (n, C), context (n, C), gated (n, C), weights (n, L).
    """
    W_asking, v_attend, W_gate, b_gate, W_reading, Wh = loop_weights
    # where to look
    query += prev_h @ W_asking
    context, weights, _ = attend_shared_forward(
        features, keys, query.reshape(len(features), -1, query.shape[1]), v_attend
    )
    context, weights = (x.reshape(len(query), -1) for x in (context, weights))
    # how much of it to read
    gate = sigmoid(prev_h @ W_gate + b_gate)
    gated = gate * context
    # the LSTM, which reads it with the word
    a = prev_h @ Wh
    a += gated @ W_reading
    gates += by_gate(a)
    h, c, tanh_c = (np.empty_like(prev_c) for _ in range(3))
    lstm_cell(gates, prev_c, c, tanh_c, h)
    return h, c, tanh_c, gate, context, gated, weights
