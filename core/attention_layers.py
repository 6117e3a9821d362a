"""Soft attention for a recurrent captioner: at each word, look at the locations that matter.

Reads top to bottom: additive attention, the gate on what it finds, both around an LSTM step, the
loop through time, and the penalty that makes it look everywhere once. Builds on
``core/rnn_layers.py`` and follows the conventions of ``core/layers.py``.

Letters: N batch, T time steps, L locations of the image, C channels of a location, H hidden width,
K attention width, W word-vector width.

Source: Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel and Bengio, "Show, Attend and Tell",
ICML 2015, sections 3.1.2 and 4.2; the scores are those of Bahdanau, Cho and Bengio, ICLR 2015.
"""

from __future__ import annotations

import numpy as np

from core.layers import (
    as_array,
    floats,
    sigmoid,
    softmax,
    softmax_backward,
    temporal_affine_backward,
    temporal_affine_forward,
)
from core.rnn_layers import lstm_step_backward, lstm_step_forward

Array = np.ndarray


# ---------------------------------------------------------------------------------------------
# Additive attention:  scores = v . tanh(features Wf + h Wh + b)
# ---------------------------------------------------------------------------------------------


def attend_forward(features: Array, keys: Array, query: Array, v: Array):
    """The part of additive attention that changes from word to word, given the keys.

    ::

        scores  = v . tanh(keys + query)               one score a location
        weights = softmax(scores)                      eq. 5 of Show, Attend and Tell
        context = sum over l of weights_l features_l   eq. 13

    Inputs:
    - features: (N, L, C)
    - keys: (N, L, K), ``features Wf + b``, the same for every word
    - query: (N, K), the question that this word asks
    - v: (K,)

    Returns context (N, C), weights (N, L), of which each row sums to 1, and the cache (features, v,
    activation (N, L, K), weights).
    """
    features, keys, query, v = floats(features, keys, query, v)
    activation = np.tanh(keys + query[:, None])
    weights = softmax(activation @ v)
    context = (weights[:, None] @ features)[:, 0]
    return context, weights, (features, v, activation, weights)


def attend_backward(dcontext: Array, dweights: Array, cache: tuple):
    """Gradients of ``attend_forward``.

    Inputs:
    - dcontext: (N, C)
    - dweights: (N, L) gradient that reaches the weights from elsewhere, as from
      ``doubly_stochastic_loss``
    - cache: from ``attend_forward``

    Returns dfeatures (N, L, C), dkeys (N, L, K), dquery (N, K), dv (K,).
    """
    features, v, activation, weights = cache
    dcontext, dweights = floats(dcontext, dweights)
    # context = weights @ features: the weights have a second reader
    dfeatures = weights[:, :, None] * dcontext[:, None]
    dweights = dweights + (features @ dcontext[:, :, None])[:, :, 0]
    # weights = softmax(scores)
    dscores = softmax_backward(dweights, weights)
    # scores = activation @ v
    dv = (dscores[:, :, None] * activation).sum(axis=(0, 1))
    dactivation = dscores[:, :, None] * v
    # activation = tanh(keys + query), where all locations of an image share the query
    dkeys = dactivation * (1 - activation**2)
    return dfeatures, dkeys, dkeys.sum(axis=1), dv


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

    The decoder below does not call this function: ``features Wf + b`` is the same for all words, so
    it computes that once and calls ``attend_forward``.
    """
    h, Wh = floats(h, Wh)
    keys, key_cache = temporal_affine_forward(features, Wf, b)
    context, weights, attend_cache = attend_forward(features, keys, h @ Wh, v)
    return context, weights, (key_cache, h, Wh, attend_cache)


def additive_attention_backward(dcontext: Array, dweights: Array, cache: tuple):
    """Gradients of ``additive_attention_forward``.

    Inputs:
    - dcontext: (N, C)
    - dweights: (N, L) gradient that reaches the weights from elsewhere; zeros when none does
    - cache: from ``additive_attention_forward``

    Returns dfeatures (N, L, C), dh (N, H), dWf (C, K), dWh (H, K), db (K,), dv (K,).
    """
    key_cache, h, Wh, attend_cache = cache
    # context, weights = attend(features, keys, query; v)
    dfeatures, dkeys, dquery, dv = attend_backward(dcontext, dweights, attend_cache)
    # query = h @ Wh
    dh, dWh = dquery @ Wh.T, h.T @ dquery
    # keys = features @ Wf + b: the features have a second reader
    dfeatures_of_keys, dWf, db = temporal_affine_backward(dkeys, key_cache)
    return dfeatures + dfeatures_of_keys, dh, dWf, dWh, db, dv


# ---------------------------------------------------------------------------------------------
# The gate on the context:  out = sigmoid(h W + b) * context
# ---------------------------------------------------------------------------------------------


def context_gate_forward(context: Array, h: Array, W: Array, b: Array):
    """Lets the state say how much of the context it wants: ``sigmoid(h W + b) * context``.

    Inputs:
    - context: (N, C)
    - h: (N, H)
    - W: (H, C), b: (C,): one gate a channel. The paper's beta (section 4.2.1) is one gate for all.

    Returns out (N, C) and the cache (context, h, W, gate (N, C)).
    """
    context, h, W, b = floats(context, h, W, b)
    gate = sigmoid(h @ W + b)
    return gate * context, (context, h, W, gate)


def context_gate_backward(dout: Array, cache: tuple):
    """Gradients of ``context_gate_forward``.

    Inputs:
    - dout: (N, C)
    - cache: from ``context_gate_forward``

    Returns dcontext (N, C), dh (N, H), dW (H, C), db (C,).
    """
    context, h, W, gate = cache
    [dout] = floats(dout)
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
    word: Array, features: Array, keys: Array, prev_h: Array, prev_c: Array,
    W_query: Array, v_attend: Array, W_gate: Array, b_gate: Array,
    Wx: Array, Wh: Array, b: Array,
):  # fmt: skip
    """One word of the decoder of Show, Attend and Tell (section 3.1.2).

    ::

        query            = [prev_h, word] W_query
        context, weights = attend(features, keys, query; v_attend)          where to look
        gated            = sigmoid(prev_h W_gate + b_gate) * context        how much of it to read
        next_h, next_c   = lstm_step([word, gated], prev_h, prev_c; Wx, Wh, b)

    The paper's query is prev_h alone, which has not read ``word`` yet. After "a blue" the model
    would choose where to look without knowing that "blue" was said; its maps run ahead.

    Inputs:
    - word: (N, W) vector of the word before
    - features: (N, L, C)
    - keys: (N, L, K), see ``attend_forward``
    - prev_h, prev_c: (N, H)
    - W_query: (H + W, K), v_attend: (K,) of the attention
    - W_gate: (H, C), b_gate: (C,) of the gate
    - Wx: (W + C, 4H), Wh: (H, 4H), b: (4H,) of the LSTM

    Returns next_h, next_c (N, H), gated (N, C), weights (N, L) and the cache: [prev_h, word],
    W_query, and those of the three parts.
    """
    prev_h, word, W_query = floats(prev_h, word, W_query)
    asking = np.concatenate([prev_h, word], axis=1)
    context, weights, attend_cache = attend_forward(features, keys, asking @ W_query, v_attend)
    gated, gate_cache = context_gate_forward(context, prev_h, W_gate, b_gate)
    x = np.concatenate([word, gated], axis=1)
    next_h, next_c, lstm_cache = lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b)
    return next_h, next_c, gated, weights, (asking, W_query, attend_cache, gate_cache, lstm_cache)


def attention_lstm_step_backward(
    dnext_h: Array, dnext_c: Array, dgated: Array, dweights: Array, cache: tuple
):
    """Gradients of ``attention_lstm_step_forward``.

    Inputs:
    - dnext_h, dnext_c: (N, H)
    - dgated: (N, C) gradient that reaches the gated context from above, where it helps to choose
      the next word
    - dweights: (N, L) gradient that reaches the weights from elsewhere
    - cache: from ``attention_lstm_step_forward``

    Returns dword, dfeatures, dkeys, dprev_h, dprev_c, dW_query, dv_attend, dW_gate, db_gate, dWx,
    dWh, db, each of the shape of its namesake.
    """
    asking, W_query, attend_cache, gate_cache, lstm_cache = cache
    # next_h, next_c = lstm_step([word, gated], prev_h, prev_c)
    dx, dprev_h, dprev_c, dWx, dWh, db = lstm_step_backward(dnext_h, dnext_c, lstm_cache)
    W, H = dx.shape[1] - dgated.shape[1], dprev_h.shape[1]
    dword, dgated = dx[:, :W], dgated + dx[:, W:]
    # gated = context_gate(context, prev_h)
    dcontext, dprev_h_gate, dW_gate, db_gate = context_gate_backward(dgated, gate_cache)
    # context, weights = attend(features, keys, query)
    dfeatures, dkeys, dquery, dv_attend = attend_backward(dcontext, dweights, attend_cache)
    # query = [prev_h, word] @ W_query
    dasking, dW_query = dquery @ W_query.T, asking.T @ dquery
    # prev_h was read three times, the word twice
    dprev_h = dprev_h + dprev_h_gate + dasking[:, :H]
    dword = dword + dasking[:, H:]
    return (
        dword, dfeatures, dkeys, dprev_h, dprev_c,
        dW_query, dv_attend, dW_gate, db_gate, dWx, dWh, db,
    )  # fmt: skip


def attention_lstm_forward(
    words: Array, features: Array, h0: Array, c0: Array,
    W_features: Array, W_query: Array, b_attend: Array, v_attend: Array,
    W_gate: Array, b_gate: Array, Wx: Array, Wh: Array, b: Array,
):  # fmt: skip
    """The decoder over a whole sequence: a step for each word.

    Inputs:
    - words: (N, T, W) vectors of the words read, T at least 1
    - features: (N, L, C)
    - h0, c0: (N, H) states before the first step
    - W_features: (C, K), b_attend: (K,) of the keys
    - W_query, v_attend, W_gate, b_gate, Wx, Wh, b: see ``attention_lstm_step_forward``

    Returns, of each step, h (N, T, H), gated (N, T, C) and weights (N, T, L), where it looked; and
    the cache (cache of the keys, those of the T steps).
    """
    keys, key_cache = temporal_affine_forward(features, W_features, b_attend)
    [words] = floats(words)
    h, c, found, step_caches = h0, c0, [], []
    for t in range(words.shape[1]):
        h, c, gated, weights, step_cache = attention_lstm_step_forward(
            words[:, t], features, keys, h, c, W_query, v_attend, W_gate, b_gate, Wx, Wh, b
        )
        found.append((h, gated, weights))
        step_caches.append(step_cache)
    h, gated, weights = (np.stack(each, axis=1) for each in zip(*found, strict=True))
    return h, gated, weights, (key_cache, step_caches)


def attention_lstm_backward(dh: Array, dgated: Array, dweights: Array, cache: tuple):
    """Gradients of ``attention_lstm_forward``: back-propagation through time.

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] from the layer above
    - dgated: (N, T, C) the same for the gated contexts
    - dweights: (N, T, L) the same for the weights, as from ``doubly_stochastic_loss``
    - cache: from ``attention_lstm_forward``

    Returns dwords, dfeatures, dh0, dc0, dW_features, dW_query, db_attend, dv_attend, dW_gate,
    db_gate, dWx, dWh, db, each of the shape of its namesake.
    """
    key_cache, step_caches = cache
    dprev_h = dprev_c = np.zeros_like(dh[:, 0])
    dwords, totals = [], [0] * 9
    for t in reversed(range(dh.shape[1])):
        # h[:, t] is read by the layer above and by the next step, the cell state by the next step
        dword, dfeatures, dkeys, dprev_h, dprev_c, *dparams = attention_lstm_step_backward(
            dh[:, t] + dprev_h, dprev_c, dgated[:, t], dweights[:, t], step_caches[t]
        )
        dwords.insert(0, dword)
        # every step shares features, keys and parameters, so their gradients sum over time
        parts = dfeatures, dkeys, *dparams
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
    dfeatures, dkeys, dW_query, dv_attend, dW_gate, db_gate, dWx, dWh, db = totals
    # keys = features @ W_features + b_attend: the features have a second reader
    dfeatures_of_keys, dW_features, db_attend = temporal_affine_backward(dkeys, key_cache)
    return (
        np.stack(dwords, axis=1), dfeatures + dfeatures_of_keys, dprev_h, dprev_c,
        dW_features, dW_query, db_attend, dv_attend, dW_gate, db_gate, dWx, dWh, db,
    )  # fmt: skip


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

    Returns the loss, a scalar, and its gradient dweights (N, T, L).
    """
    [weights], mask = floats(weights), as_array(mask)
    N = len(weights)
    steps = mask.astype(weights.dtype)[:, :, None]
    missing = 1 - (steps * weights).sum(axis=1, keepdims=True)  # (N, 1, L)
    # a NumPy number of double precision would turn float32 into float64
    scale = float(strength) / N
    loss = weights.dtype.type(scale * np.sum(missing**2))
    # missing = 1 - sum over t of steps * weights
    dweights = steps * (-2 * scale * missing)
    return loss, dweights
