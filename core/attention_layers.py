"""Soft attention for a recurrent captioner: at each word, look at the locations that matter.

Reads top to bottom: additive attention, the gate on what it finds, both around an LSTM cell, and
the penalty that makes it look everywhere once. Builds on ``core/rnn_layers.py`` and follows its
conventions: a forward and a backward function each, the dtype kept, no argument written to.

Letters: N batch, T time steps, L locations of the image, C channels of a location, H hidden width,
K attention width, W word-vector width.

Source: Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel and Bengio, "Show, Attend and Tell",
ICML 2015, sections 3.1.2 and 4.2; the scores are those of Bahdanau, Cho and Bengio, ICLR 2015.
"""

from __future__ import annotations

import numpy as np

from core.rnn_layers import (
    lstm_step_backward,
    lstm_step_forward,
    sigmoid,
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


def attend_forward(features: Array, keys: Array, h: Array, Wh: Array, v: Array):
    """The part of additive attention that changes from word to word, given the keys.

    ::

        query   = h Wh
        scores  = v . tanh(keys + query)               one score a location
        weights = softmax(scores)                      eq. 5 of Show, Attend and Tell
        context = sum over l of weights_l features_l   eq. 13

    Inputs:
    - features: (N, L, C)
    - keys: (N, L, K), ``features Wf + b``, the same for every word
    - h: (N, H) state of the decoder
    - Wh: (H, K)
    - v: (K,)

    Returns:
    - context: (N, C)
    - weights: (N, L), non-negative, each row sums to 1
    - cache: (features, h, Wh, v, activation (N, L, K), weights)
    """
    activation = keys + (h @ Wh)[:, None, :]
    np.tanh(activation, out=activation)
    weights = softmax(activation @ v)
    context = (weights[:, None, :] @ features)[:, 0]
    return context, weights, (features, h, Wh, v, activation, weights)


def attend_backward(dcontext: Array, dweights: Array, cache: tuple):
    """Undoes ``attend_forward``.

    Inputs:
    - dcontext: (N, C)
    - dweights: (N, L) gradient that reaches the weights from elsewhere, as from
      ``doubly_stochastic_loss``
    - cache: from ``attend_forward``

    Returns:
    - dfeatures: (N, L, C)
    - dkeys: (N, L, K)
    - dh: (N, H)
    - dWh: (H, K)
    - dv: (K,)
    """
    features, h, Wh, v, activation, weights = cache
    # context = sum over l of weights_l features_l: the weights have a second reader
    dweights = dweights + (features @ dcontext[:, :, None])[:, :, 0]
    dfeatures = weights[:, :, None] * dcontext[:, None, :]
    # weights = softmax(scores)
    dscores = softmax_backward(dweights, weights)
    # scores = activation @ v
    dv = np.tensordot(dscores, activation, axes=2)
    # activation = tanh(keys + query), and tanh' = 1 - tanh^2; in one buffer, the largest here
    dkeys = activation**2
    np.subtract(1, dkeys, out=dkeys)
    dkeys *= v
    dkeys *= dscores[:, :, None]
    dquery = dkeys.sum(axis=1)
    # query = h @ Wh
    dh = dquery @ Wh.T
    dWh = h.T @ dquery
    return dfeatures, dkeys, dh, dWh, dv


def additive_attention_forward(features: Array, h: Array, Wf: Array, Wh: Array, b: Array, v: Array):
    """Additive soft attention: ``scores = v . tanh(features Wf + h Wh + b)``, softmax, mean.

    Inputs:
    - features: (N, L, C) one vector for each location of the image
    - h: (N, H) state of the decoder
    - Wf: (C, K), Wh: (H, K), b: (K,), v: (K,)

    Returns:
    - context: (N, C) the mean of the features under the weights
    - weights: (N, L), non-negative, each row sums to 1
    - cache: (cache of ``features Wf + b``, cache of ``attend_forward``)

    Over a sequence ``features Wf + b`` stays the same: ``attention_lstm_forward`` computes it once.
    """
    keys, key_cache = temporal_affine_forward(features, Wf, b)
    context, weights, cache = attend_forward(features, keys, h, Wh, v)
    return context, weights, (key_cache, cache)


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
    key_cache, attend_cache = cache
    dfeatures, dkeys, dh, dWh, dv = attend_backward(dcontext, dweights, attend_cache)
    # keys = features @ Wf + b: the features have a second reader
    dfeatures_keys, dWf, db = temporal_affine_backward(dkeys, key_cache)
    return dfeatures + dfeatures_keys, dh, dWf, dWh, db, dv


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
    context, weights, attend_cache = attend_forward(features, keys, question, Wq, v)
    gated, gate_cache = context_gate_forward(context, prev_h, Wg, bg)
    x = np.concatenate([word, gated], axis=1)
    next_h, next_c, lstm_cache = lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b)
    return next_h, next_c, gated, weights, (attend_cache, gate_cache, lstm_cache)


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
    attend_cache, gate_cache, lstm_cache = cache
    # next_h, next_c = lstm_step([word, gated], prev_h, prev_c)
    dx, dprev_h, dprev_c, dWx, dWh, db = lstm_step_backward(dnext_h, dnext_c, lstm_cache)
    W, H = dx.shape[1] - dgated.shape[1], dprev_h.shape[1]
    dgated = dgated + dx[:, W:]
    # gated = gate(context, prev_h)
    dcontext, dprev_h_gate, dWg, dbg = context_gate_backward(dgated, gate_cache)
    # context, weights = attend(features, keys, [prev_h, word])
    dfeatures, dkeys, dquestion, dWq, dv = attend_backward(dcontext, dweights, attend_cache)
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
    """The decoder over a whole sequence: T calls of ``attention_lstm_step_forward``.

    What does not depend on the word, ``keys = features Wf + bf``, is computed once.

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
    - cache: (cache of the keys, caches of the steps)
    """
    keys, key_cache = temporal_affine_forward(features, Wf, bf)
    h, c = h0, c0
    steps = []
    for t in range(words.shape[1]):
        h, c, gated, weights, cache = attention_lstm_step_forward(
            words[:, t], features, keys, h, c, Wq, v, Wg, bg, Wx, Wh, b
        )
        steps.append((h, gated, weights, cache))
    h, gated, weights, caches = zip(*steps, strict=True)
    return (*(np.stack(x, axis=1) for x in (h, gated, weights)), (key_cache, caches))


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
    key_cache, caches = cache
    dprev_h, dprev_c = np.zeros_like(dh[:, 0]), np.zeros_like(dh[:, 0])
    dwords, shared = [], None
    for t in reversed(range(len(caches))):
        # h[:, t] is read from above and by step t + 1
        dword, dfeatures, dkeys, dprev_h, dprev_c, *dparams = attention_lstm_step_backward(
            dh[:, t] + dprev_h, dprev_c, dgated[:, t], dweights[:, t], caches[t]
        )
        dwords.append(dword)
        # every step shares the image and the weights, so their gradients sum over time
        gradients = (dfeatures, dkeys, *dparams)
        if shared is None:
            shared = gradients
        else:
            for total, gradient in zip(shared, gradients, strict=True):
                total += gradient
    dfeatures, dkeys, dWq, dv, dWg, dbg, dWx, dWh, db = shared
    # keys = features @ Wf + bf, once for all steps
    dfeatures_keys, dWf, dbf = temporal_affine_backward(dkeys, key_cache)
    dfeatures += dfeatures_keys
    dwords = np.stack(dwords[::-1], axis=1)
    return dwords, dfeatures, dprev_h, dprev_c, dWf, dWq, dbf, dv, dWg, dbg, dWx, dWh, db


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
    scale = (
        float(strength) / N
    )  # a NumPy number of double precision would turn float32 into float64
    loss = weights.dtype.type(scale * np.sum(missing**2))
    # missing = 1 - sum over t of counts * weights
    dweights = counts * (-2 * scale * missing)
    return loss, dweights
