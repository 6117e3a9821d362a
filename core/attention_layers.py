"""Soft attention for a recurrent captioner: at each word, look at the locations that matter.

Reads top to bottom: additive attention, the gate on what it finds, both around an LSTM cell, and
the penalty that makes it look everywhere once. Builds on ``core/rnn_layers.py`` and follows its
conventions: a forward and a backward function each, the dtype kept, no argument written to but
where a docstring says so.

Letters: N batch, T time steps, L locations of the image, C channels of a location, H hidden width,
K attention width, W word-vector width.

Source: Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel and Bengio, "Show, Attend and Tell",
ICML 2015, sections 3.1.2 and 4.2; the scores are those of Bahdanau, Cho and Bengio, ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.packing import Packing
from core.rnn_layers import (
    affine_weights_backward,
    back_through,
    by_gate,
    gradient_before,
    look_up_gates,
    lstm_cell,
    lstm_cell_backward,
    lstm_step_backward,
    lstm_step_forward,
    sigmoid,
    sums_of_rows,
    temporal_affine_backward,
    temporal_affine_forward,
)

Array = np.ndarray


# ---------------------------------------------------------------------------------------------
# Softmax over locations
# ---------------------------------------------------------------------------------------------


def softmax(scores: Array) -> Array:
    """``exp(scores) / sum exp(scores)`` over the last axis; a row of -inf alone becomes zeros.

    The largest score is subtracted first, so no exponential overflows.
    """
    largest = scores.max(axis=-1, keepdims=True)
    largest[np.isneginf(largest)] = 0  # -inf - -inf would be NaN
    out = np.exp(scores - largest)
    total = out.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    out /= total
    return out


def softmax_backward(dweights: Array, weights: Array) -> Array:
    """Undoes ``weights = softmax(scores)``: the Jacobian is ``diag(w) - w w^T``.

    Inputs:
    - dweights, weights: (..., L)

    Returns:
    - dscores: (..., L); it sums to 0, and is 0 where a weight is 0
    """
    return weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))


# ---------------------------------------------------------------------------------------------
# Additive attention:  scores = v . tanh(features Wf + h Wh + b)
# ---------------------------------------------------------------------------------------------


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
    """Undoes ``additive_scores_forward``.

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


def attend_forward(features: Array, keys: Array, query: Array, v: Array):
    """The part of additive attention that changes from word to word, given the keys.

    ::

        scores  = v . tanh(keys + query)               one score a location
        weights = softmax(scores)                      eq. 5 of Show, Attend and Tell
        context = sum over l of weights_l features_l   eq. 13

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


def attend_backward(dcontext: Array, dweights: Array, cache: tuple, dkeys: Array):
    """Undoes ``attend_forward``, but for the features (see ``context_backward``).

    Inputs:
    - dcontext: (N, Q, C)
    - dweights: (N, Q, L) gradient that reaches the weights from elsewhere, as from
      ``doubly_stochastic_loss``
    - cache: from ``attend_forward``
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


def context_backward(dcontext: Array, weights: Array) -> Array:
    """(N, Q, C), (N, Q, L) -> (N, L, C): the gradient that features get from ``attend_forward``."""
    # context = weights @ features
    return weights.swapaxes(1, 2) @ dcontext


def additive_attention_forward(features: Array, h: Array, Wf: Array, Wh: Array, b: Array, v: Array):
    """Additive soft attention: ``scores = v . tanh(features Wf + h Wh + b)``, softmax, mean.

    Inputs:
    - features: (N, L, C) one vector for each location of the image
    - h: (N, H) state of the decoder
    - Wf: (C, K), Wh: (H, K), b: (K,), v: (K,)

    Returns:
    - context: (N, C) the mean of the features under the weights
    - weights: (N, L), non-negative, each row sums to 1
    - cache: (cache of ``features Wf + b``, h, Wh, cache of ``attend_forward``)

    Over a sequence ``features Wf + b`` stays the same: ``attention_lstm_forward`` computes it once.
    """
    keys, key_cache = temporal_affine_forward(features, Wf, b)
    context, weights, cache = attend_forward(features, keys, (h @ Wh)[:, None], v)
    return context[:, 0], weights[:, 0], (key_cache, h, Wh, cache)


def additive_attention_backward(dcontext: Array, dweights: Array, cache: tuple):
    """Undoes ``additive_attention_forward``.

    Inputs:
    - dcontext: (N, C)
    - dweights: (N, L) gradient that reaches the weights from elsewhere; zeros when none does
    - cache: from ``additive_attention_forward``

    Returns:
    - dfeatures: (N, L, C)
    - dh: (N, H)
    - dWf: (C, K)
    - dWh: (H, K)
    - db: (K,)
    - dv: (K,)
    """
    key_cache, h, Wh, attend_cache = cache
    _, keys, _, _, weights = attend_cache
    dkeys = np.zeros_like(keys)
    dcontext = dcontext[:, None]
    dquery, dv = attend_backward(dcontext, dweights[:, None], attend_cache, dkeys)
    # query = h @ Wh
    dquery = dquery[:, 0]
    dh, dWh = dquery @ Wh.T, h.T @ dquery
    # keys = features @ Wf + b: the features have a second reader
    dfeatures, dWf, db = temporal_affine_backward(dkeys, key_cache)
    return dfeatures + context_backward(dcontext, weights), dh, dWf, dWh, db, dv


# ---------------------------------------------------------------------------------------------
# The gate on the context:  out = sigmoid(h W + b) * context
# ---------------------------------------------------------------------------------------------


def context_gate_forward(context: Array, h: Array, W: Array, b: Array):
    """Lets the state say how much of the context it wants: ``sigmoid(h W + b) * context``.

    Inputs:
    - context: (N, C)
    - h: (N, H)
    - W: (H, C), b: (C,): one gate a channel. The paper's beta (section 4.2.1) is one gate for all.

    Returns:
    - out: (N, C)
    - cache: (context, h, W, gate (N, C))
    """
    gate = sigmoid(h @ W + b)
    return gate * context, (context, h, W, gate)


def context_gate_backward(dout: Array, cache: tuple):
    """Undoes ``context_gate_forward``.

    Inputs:
    - dout: (N, C)
    - cache: from ``context_gate_forward``

    Returns:
    - dcontext: (N, C)
    - dh: (N, H)
    - dW: (H, C)
    - db: (C,)
    """
    context, h, W, gate = cache
    # out = gate * context
    dcontext, dgate = dout * gate, dout * context
    # gate = sigmoid(a), and sigmoid' = sigmoid (1 - sigmoid)
    da = dgate * gate * (1 - gate)
    # a = h @ W + b
    return dcontext, da @ W.T, h.T @ da, da.sum(axis=0)


# ---------------------------------------------------------------------------------------------
# An LSTM that looks at the image before each step
# ---------------------------------------------------------------------------------------------


def attention_lstm_step_forward(
    word: Array,
    features: Array,
    keys: Array,
    prev_h: Array,
    prev_c: Array,
    Wq: Array,
    v: Array,
    Wg: Array,
    bg: Array,
    Wx: Array,
    Wh: Array,
    b: Array,
):
    """One word of the decoder of Show, Attend and Tell (section 3.1.2).

    ::

        context, weights = attend(features, keys, [prev_h, word]; Wq, v)    where to look
        gated            = sigmoid(prev_h Wg + bg) * context                how much of it to read
        next_h, next_c   = lstm_step([word, gated], prev_h, prev_c; Wx, Wh, b)

    The paper asks with prev_h alone, which has not read ``word`` yet: after "a blue", where to look
    for the kind would be decided without knowing that "blue" was said. Such maps run ahead, to what
    could be said later.

    Inputs:
    - word: (N, W) vector of the word before
    - features: (N, L, C)
    - keys: (N, L, K), see ``attend_forward``
    - prev_h, prev_c: (N, H)
    - Wq: (H + W, K), v: (K,) of the attention; Wg: (H, C), bg: (C,) of the gate
    - Wx: (W + C, 4H), Wh: (H, 4H), b: (4H,) of the LSTM

    Returns:
    - next_h, next_c: (N, H)
    - gated: (N, C)
    - weights: (N, L)
    - cache: those of the three parts
    """
    question = np.concatenate([prev_h, word], axis=1)
    context, weights, attend_cache = attend_forward(features, keys, (question @ Wq)[:, None], v)
    gated, gate_cache = context_gate_forward(context[:, 0], prev_h, Wg, bg)
    x = np.concatenate([word, gated], axis=1)
    next_h, next_c, lstm_cache = lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b)
    cache = (question, Wq, attend_cache, gate_cache, lstm_cache)
    return next_h, next_c, gated, weights[:, 0], cache


def attention_lstm_step_backward(
    dnext_h: Array, dnext_c: Array, dgated: Array, dweights: Array, cache: tuple
):
    """Undoes ``attention_lstm_step_forward``.

    Inputs:
    - dnext_h, dnext_c: (N, H)
    - dgated: (N, C) gradient that reaches the gated context from above, where it helps to choose
      the next word
    - dweights: (N, L) gradient that reaches the weights from elsewhere
    - cache: from ``attention_lstm_step_forward``

    Returns dword, dfeatures, dkeys, dprev_h, dprev_c, dWq, dv, dWg, dbg, dWx, dWh, db, each of the
    shape of its namesake.
    """
    question, Wq, attend_cache, gate_cache, lstm_cache = cache
    _, keys, _, _, weights = attend_cache
    # next_h, next_c = lstm_step([word, gated], prev_h, prev_c)
    dx, dprev_h, dprev_c, dWx, dWh, db = lstm_step_backward(dnext_h, dnext_c, lstm_cache)
    W, H = dx.shape[1] - dgated.shape[1], dprev_h.shape[1]
    dgated = dgated + dx[:, W:]
    # gated = gate(context, prev_h)
    dcontext, dprev_h_gate, dWg, dbg = context_gate_backward(dgated, gate_cache)
    # context, weights = attend(features, keys, query)
    dcontext, dkeys = dcontext[:, None], np.zeros_like(keys)
    dquery, dv = attend_backward(dcontext, dweights[:, None], attend_cache, dkeys)
    dfeatures = context_backward(dcontext, weights)
    # query = [prev_h, word] @ Wq
    dquery = dquery[:, 0]
    dquestion, dWq = dquery @ Wq.T, question.T @ dquery
    # prev_h was read three times, the word twice
    dprev_h = dprev_h + dprev_h_gate + dquestion[:, :H]
    dword = dx[:, :W] + dquestion[:, H:]
    return dword, dfeatures, dkeys, dprev_h, dprev_c, dWq, dv, dWg, dbg, dWx, dWh, db


def attention_lstm_forward(
    words: Array,
    features: Array,
    h0: Array,
    c0: Array,
    Wf: Array,
    Wq: Array,
    bf: Array,
    v: Array,
    Wg: Array,
    bg: Array,
    Wx: Array,
    Wh: Array,
    b: Array,
):
    """The decoder over a whole sequence; equals T calls of ``attention_lstm_step_forward``.

    Inputs:
    - words: (N, T, W) vectors of the words read
    - features: (N, L, C)
    - h0, c0: (N, H) states before the first step
    - Wf: (C, K), Wq: (H + W, K), bf: (K,), v: (K,) of the attention
    - Wg: (H, C), bg: (C,) of the gate
    - Wx: (W + C, 4H), Wh: (H, 4H), b: (4H,) of the LSTM

    Returns:
    - h: (N, T, H) hidden state after each step
    - gated: (N, T, C) gated context of each step
    - weights: (N, T, L) where each step looked
    - cache: (packing, cache of ``attention_lstm_packed_forward``)
    """
    N, T, _ = words.shape
    packing = Packing(np.full(N, T), T)
    *outputs, cache = attention_lstm_packed_forward(
        packing.pack(words), np.arange(N * T), features, h0, c0, packing,
        Wf, Wq, bf, v, Wg, bg, Wx, Wh, b,
    )  # fmt: skip
    return (*map(packing.unpack, outputs), (packing, cache))


def attention_lstm_backward(dh: Array, dgated: Array, dweights: Array, cache: tuple):
    """Undoes ``attention_lstm_forward``: back-propagation through time.

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] directly, from above
    - dgated: (N, T, C) the same for the gated contexts
    - dweights: (N, T, L) the same for the weights, as from ``doubly_stochastic_loss``
    - cache: from ``attention_lstm_forward``

    Returns dwords, dfeatures, dh0, dc0, dWf, dWq, dbf, dv, dWg, dbg, dWx, dWh, db, each of the
    shape of its namesake.
    """
    packing, cache = cache
    dwords, *gradients = attention_lstm_packed_backward(
        *map(packing.pack, (dh, dgated, dweights)), cache
    )
    return packing.unpack(dwords), *gradients


def attention_lstm_packed_forward(
    vectors: Array,
    which: Array,
    features: Array,
    h0: Array,
    c0: Array,
    packing: Packing,
    Wf: Array,
    Wq: Array,
    bf: Array,
    v: Array,
    Wg: Array,
    bg: Array,
    Wx: Array,
    Wh: Array,
    b: Array,
):
    """``attention_lstm_forward`` with the padding left out.

    What does not depend on the step before leaves the loop: ``keys = features Wf + bf``, and what
    the words add to the questions and to the gates of the LSTM.

    Inputs, besides those of ``attention_lstm_forward``:
    - vectors: (U, W), best each different word once
    - which: (M,) row of ``vectors`` that each entry of the packing reads
    - packing: which rows go on at each step

    Returns, for each entry of the packing:
    - h: (M, H)
    - gated: (M, C)
    - weights: (M, L)
    - cache
    """
    features = packing.first(features)
    keys, key_cache = temporal_affine_forward(features, Wf, bf)
    query, gates, weights_of_loop = words_apart(vectors, which, Wq, v, Wg, bg, Wx, Wh, b)
    *outputs, loop_cache = _attention_loop_forward(
        query, gates, features, keys, h0, c0, weights_of_loop, packing
    )
    return *outputs, (vectors, which, Wq, Wx, key_cache, loop_cache)


def attention_lstm_packed_backward(
    dh: Array, dgated: Array, dweights: Array, cache: tuple, wants_features: bool = True
):
    """Undoes ``attention_lstm_packed_forward``.

    Inputs:
    - dh: (M, H), dgated: (M, C), dweights: (M, L)
    - cache: from ``attention_lstm_packed_forward``
    - wants_features: whether anyone reads dfeatures, the largest gradient; if not, it is None

    Returns dvectors, dfeatures, dh0, dc0, dWf, dWq, dbf, dv, dWg, dbg, dWx, dWh, db, each of the
    shape of its namesake.
    """
    vectors, which, Wq, Wx, key_cache, loop_cache = cache
    W = vectors.shape[1]
    dasked, dread, dcontext, dkeys, dh0, dc0, dWq_h, dv, dWg, dbg, dWx_z, dWh = (
        _attention_loop_backward(dh, dgated, dweights, loop_cache)
    )
    # asked, read = vectors @ Wq[H:], vectors @ Wx[:W] + b
    dasked, dread = (sums_of_rows(x, which, len(vectors)) for x in (dasked, dread))
    H = len(Wq) - W
    dvectors = dasked @ Wq[H:].T + dread @ Wx[:W].T
    dWq = np.concatenate([dWq_h, vectors.T @ dasked])
    dWx, db = np.concatenate([vectors.T @ dread, dWx_z]), dread.sum(axis=0)
    # keys = features @ Wf + bf, once for all steps
    features, Wf = key_cache
    dWf, dbf = affine_weights_backward(dkeys, features)
    dfeatures = None
    if wants_features:
        packing, weights = loop_cache[0], loop_cache[-1]
        # context = weights @ features at every step: the features have a second reader
        by_row = (packing.first(packing.unpack(x)) for x in (dcontext, weights))
        dfeatures = dkeys @ Wf.T + context_backward(*by_row)
        dfeatures = packing.unsorted(dfeatures)
    return dvectors, dfeatures, dh0, dc0, dWf, dWq, dbf, dv, dWg, dbg, dWx, dWh, db


def words_apart(vectors: Array, which: Array, Wq, v, Wg, bg, Wx, Wh, b):
    """What words add to the questions (M, K) and to the LSTM's gates (4, M, H).

    Each different word is multiplied once: ``vectors`` (U, W), of which entry m reads row
    ``which[m]``. Returns as well what ``look_and_read`` then needs of the weights of
    ``attention_lstm_forward``.
    """
    H, W = len(Wh), vectors.shape[1]
    asked, read = vectors @ Wq[H:], vectors @ Wx[:W] + b
    return asked[which], look_up_gates(read, which), (Wq[:H], v, Wg, bg, Wx[W:], Wh)


def look_and_read(query, gates, features, keys, prev_h, prev_c, weights_of_loop):
    """One step for n rows, in place; equals ``attention_lstm_step_forward``.

    Inputs:
    - query: (n, K) and gates: (4, n, H), what the words add to them; both are filled
    - features, keys: of n images, or of fewer that as many neighbouring rows each are about
    - prev_h, prev_c: (n, H)
    - weights_of_loop: from ``words_apart``

    Returns h, c, tanh(c), gate (n, C), context (n, C), gated (n, C), weights (n, L).
    """
    Wq, v, Wg, bg, Wx, Wh = weights_of_loop
    # where to look
    query += prev_h @ Wq
    context, weights, _ = attend_forward(
        features, keys, query.reshape(len(features), -1, query.shape[1]), v
    )
    context, weights = (x.reshape(len(query), -1) for x in (context, weights))
    # how much of it to read
    gate = sigmoid(prev_h @ Wg + bg)
    gated = gate * context
    # the LSTM, which reads it with the word
    a = prev_h @ Wh
    a += gated @ Wx
    gates += by_gate(a)
    h, c, tanh_c = (np.empty_like(prev_c) for _ in range(3))
    lstm_cell(gates, prev_c, c, tanh_c, h)
    return h, c, tanh_c, gate, context, gated, weights


def _attention_loop_forward(query, gates, features, keys, h0, c0, weights_of_loop, packing):
    """Through time; query (M, K) and gates (4, M, H) hold what the words add, and are filled.

    In the order of the packing; so are features and keys, but not h0 and c0.
    """
    (N, H), M, (L, C) = h0.shape, len(query), features.shape[1:]
    h_states, c_states = (np.empty((N + M, H), dtype=gates.dtype) for _ in range(2))
    h_states[:N], c_states[:N] = packing.first(h0), packing.first(c0)
    widths = (H, C, C, C, L)
    tanh_c, gate, context, gated, weights = (np.empty((M, w), dtype=gates.dtype) for w in widths)
    found = h_states[N:], c_states[N:], tanh_c, gate, context, gated, weights
    for now, before in packing.steps:
        n = now.stop - now.start
        step = look_and_read(
            query[now], gates[:, now], features[:n], keys[:n],
            h_states[before], c_states[before], weights_of_loop,
        )  # fmt: skip
        for array, new in zip(found, step, strict=True):
            array[now] = new
    states = query, gates, gate, context, gated, h_states, c_states, tanh_c
    cache = packing, features, keys, weights_of_loop, *states, weights
    return h_states[N:].copy(), gated.copy(), weights.copy(), cache


def _attention_loop_backward(dh: Array, dgated: Array, dweights: Array, cache: tuple):
    """Undoes ``_attention_loop_forward``; returns dcontext as well, for the features' gradient."""
    packing, features, keys, weights_of_loop, *states, weights = cache
    query, gates, gate, context, gated, h_states, c_states, tanh_c = states
    Wq, v, Wg, _, Wx, Wh = weights_of_loop
    dquery, dgate, dcontext = map(np.empty_like, (query, gate, context))
    dgates = np.empty((len(dh), Wh.shape[1]), dtype=dh.dtype)
    dkeys, dv = np.zeros_like(keys), np.zeros_like(v)
    dprev_h = dprev_c = np.zeros((0, len(Wh)), dtype=dh.dtype)
    for now, before in reversed(packing.steps):
        n = now.stop - now.start
        # h[now] is used from above and, where the row goes on, by the step after
        dnow = dh[now].copy()
        dnow[: len(dprev_h)] += dprev_h
        dprev_c = lstm_cell_backward(
            dnow, dprev_c, gates[:, now], c_states[before], tanh_c[now], by_gate(dgates[now])
        )
        # gates = read + prev_h @ Wh + gated @ Wx
        dread = dgated[now] + back_through(dgates[now], Wx)
        # gated = gate * context, where gate = sigmoid(prev_h @ Wg + bg)
        np.multiply(dread, gate[now], out=dcontext[now])
        np.multiply(dread, context[now] * gate[now] * (1 - gate[now]), out=dgate[now])
        # context, weights = attend(features, keys, query), where query = asked + prev_h @ Wq
        attended = features[:n], keys[:n], query[now, None], v, weights[now, None]
        dasked, dv_now = attend_backward(
            dcontext[now, None], dweights[now, None], attended, dkeys[:n]
        )
        dquery[now] = dasked[:, 0]
        dv += dv_now
        # prev_h was read three times
        dprev_h = back_through(dgates[now], Wh)
        dprev_h += back_through(dgate[now], Wg)
        dprev_h += back_through(dquery[now], Wq)
    # every step shares the weights, so their gradients sum over time
    prev_h = h_states[packing.before]
    dWq, dWg, dWx, dWh = prev_h.T @ dquery, prev_h.T @ dgate, gated.T @ dgates, prev_h.T @ dgates
    dh0, dc0 = (gradient_before(x, packing) for x in (dprev_h, dprev_c))
    return dquery, dgates, dcontext, dkeys, dh0, dc0, dWq, dv, dWg, dgate.sum(axis=0), dWx, dWh


# ---------------------------------------------------------------------------------------------
# Doubly stochastic attention
# ---------------------------------------------------------------------------------------------


def doubly_stochastic_loss(weights: Array, mask: Array, strength: float):
    """Asks the attention to look at every location once over the caption (section 4.2.1, eq. 14).

    ::

        loss = strength / N  sum over n, l of  (1 - sum over t of mask[n, t] weights[n, t, l])^2

    The weights of one step sum to 1 over the locations; this asks for a sum of 1 over the steps.

    Inputs:
    - weights: (N, T, L)
    - mask: (N, T) booleans: steps that are False (padding) are left out
    - strength: the paper's lambda

    Returns:
    - loss: a scalar
    - dweights: (N, T, L)
    """
    N = len(weights)
    counts = np.asarray(mask, dtype=weights.dtype)[:, :, None]
    missing = 1 - (counts * weights).sum(axis=1, keepdims=True)  # (N, 1, L)
    # a NumPy number of double precision would turn float32 into float64
    scale = float(strength) / N
    loss = weights.dtype.type(scale * np.sum(missing**2))
    # missing = 1 - sum over t of counts * weights
    dweights = counts * (-2 * scale * missing)
    return loss, dweights
