"""The recurrent layers: vanilla RNN and LSTM, a step, and the loop through time.

Builds on ``core/layers.py`` and follows its conventions: a forward and a backward function each,
gradients in the order of the arguments, the dtype kept, no argument written to.

Letters: N batch, T time steps, D input width, H hidden width.
"""

from __future__ import annotations

import numpy as np

# Only floats and sigmoid are used here; CS231n's code imports the others from its rnn_layers.
from core.layers import (  # noqa: F401
    affine_backward,
    affine_forward,
    check_word_ids,
    floats,
    log_softmax,
    sigmoid,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)

Array = np.ndarray


# ---------------------------------------------------------------------------------------------
# Vanilla RNN: next_h = tanh(x Wx + prev_h Wh + b)        (Elman, Cognitive Science 1990)
# ---------------------------------------------------------------------------------------------


def rnn_step_forward(x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array):
    """One time step of a vanilla RNN: ``next_h = tanh(x Wx + prev_h Wh + b)``.

    Inputs:
    - x: (N, D) input of this step
    - prev_h: (N, H) hidden state of the step before
    - Wx: (D, H) input-to-hidden weights
    - Wh: (H, H) hidden-to-hidden weights
    - b: (H,) bias

    Returns next_h (N, H) and the cache (x, prev_h, Wx, Wh, next_h).
    """
    x, prev_h, Wx, Wh, b = floats(x, prev_h, Wx, Wh, b)
    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)


def rnn_step_backward(dnext_h: Array, cache: tuple):
    """Gradients of ``rnn_step_forward``.

    Inputs:
    - dnext_h: (N, H)
    - cache: from ``rnn_step_forward``

    Returns dx (N, D), dprev_h (N, H), dWx (D, H), dWh (H, H), db (H,).
    """
    x, prev_h, Wx, Wh, next_h = cache
    [dnext_h] = floats(dnext_h)
    # next_h = tanh(a), and tanh'(a) = 1 - tanh(a)^2
    da = dnext_h * (1 - next_h**2)
    # a = x @ Wx + prev_h @ Wh + b
    dx = da @ Wx.T
    dprev_h = da @ Wh.T
    dWx = x.T @ da
    dWh = prev_h.T @ da
    db = da.sum(axis=0)
    return dx, dprev_h, dWx, dWh, db


def rnn_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array):
    """A vanilla RNN over a whole sequence: a step for each word.

    Inputs:
    - x: (N, T, D) input sequence
    - h0: (N, H) hidden state before the first step
    - Wx: (D, H), Wh: (H, H), b: (H,)

    Returns h (N, T, H), the state after each step, and the cache: (x, h0, Wx, Wh, b, step caches).
    """
    x, h0, Wx, Wh, b = floats(x, h0, Wx, Wh, b)
    N, T, _ = x.shape
    h, step_caches = np.empty((N, T, len(Wh)), np.result_type(x, h0, Wx, Wh, b)), []
    prev_h = h0
    for t in range(T):
        prev_h, step_cache = rnn_step_forward(x[:, t], prev_h, Wx, Wh, b)
        h[:, t] = prev_h
        step_caches.append(step_cache)
    return h, (x, h0, Wx, Wh, b, step_caches)


def rnn_backward(dh: Array, cache: tuple):
    """Gradients of ``rnn_forward``: back-propagation through time (Werbos, Proc. IEEE 1990).

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] from the layer above (the scores). What
      reaches it through the later steps is added here.
    - cache: from ``rnn_forward``

    Returns dx (N, T, D), dh0 (N, H), dWx (D, H), dWh (H, H), db (H,).
    """
    x, h0, Wx, Wh, b, step_caches = cache
    dx, dWx, dWh, db = (np.zeros_like(array) for array in (x, Wx, Wh, b))
    dprev_h = np.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        # h[:, t] is read by the layer above and by the next step
        dx[:, t], dprev_h, dWx_t, dWh_t, db_t = rnn_step_backward(
            dh[:, t] + dprev_h, step_caches[t]
        )
        # every step shares the weights, so their gradients sum over time
        dWx += dWx_t
        dWh += dWh_t
        db += db_t
    dh0 = dprev_h  # what the first step read
    return dx, dh0, dWx, dWh, db


# ---------------------------------------------------------------------------------------------
# LSTM        (Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber and Cummins 2000)
# ---------------------------------------------------------------------------------------------


def lstm_step_forward(x: Array, prev_h: Array, prev_c: Array, Wx: Array, Wh: Array, b: Array):
    """One time step of an LSTM.

    ``a = x Wx + prev_h Wh + b`` holds four blocks of width H, in the order i, f, o, g::

        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)    input, forget and output gate
        g       = tanh(a_g)                                   candidate
        next_c  = f * prev_c + i * g
        next_h  = o * tanh(next_c)

    Inputs:
    - x: (N, D) input of this step
    - prev_h: (N, H) hidden state of the step before
    - prev_c: (N, H) cell state of the step before
    - Wx: (D, 4H), Wh: (H, 4H), b: (4H,)

    Returns next_h, next_c (N, H) and the cache (x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c).
    """
    x, prev_h, prev_c, Wx, Wh, b = floats(x, prev_h, prev_c, Wx, Wh, b)
    a_i, a_f, a_o, a_g = np.split(x @ Wx + prev_h @ Wh + b, 4, axis=1)
    i, f, o, g = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o), np.tanh(a_g)
    next_c = f * prev_c + i * g
    tanh_c = np.tanh(next_c)
    next_h = o * tanh_c
    return next_h, next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c)


def lstm_step_backward(dnext_h: Array, dnext_c: Array, cache: tuple):
    """Gradients of ``lstm_step_forward``.

    Inputs:
    - dnext_h: (N, H)
    - dnext_c: (N, H) gradient that reaches next_c from the next step
    - cache: from ``lstm_step_forward``

    Returns dx (N, D), dprev_h (N, H), dprev_c (N, H), dWx (D, 4H), dWh (H, 4H), db (4H,).
    """
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c = cache
    dnext_h, dnext_c = floats(dnext_h, dnext_c)
    # next_h = o * tanh(next_c): next_c has a second reader, so its two gradients add up
    do = dnext_h * tanh_c
    dc = dnext_c + dnext_h * o * (1 - tanh_c**2)
    # next_c = f * prev_c + i * g
    df, dprev_c = dc * prev_c, dc * f
    di, dg = dc * g, dc * i
    # i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o); g = tanh(a_g)
    da_i, da_f, da_o = di * i * (1 - i), df * f * (1 - f), do * o * (1 - o)
    da_g = dg * (1 - g**2)
    da = np.concatenate([da_i, da_f, da_o, da_g], axis=1)
    # a = x @ Wx + prev_h @ Wh + b
    dx = da @ Wx.T
    dprev_h = da @ Wh.T
    dWx = x.T @ da
    dWh = prev_h.T @ da
    db = da.sum(axis=0)
    return dx, dprev_h, dprev_c, dWx, dWh, db


def lstm_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array):
    """An LSTM over a whole sequence, from cell state 0: a step for each word.

    Inputs:
    - x: (N, T, D) input sequence
    - h0: (N, H) hidden state before the first step
    - Wx: (D, 4H), Wh: (H, 4H), b: (4H,), blocks in the order i, f, o, g

    Returns h (N, T, H), the state after each step, and the cache: (x, h0, Wx, Wh, b, step caches).
    """
    x, h0, Wx, Wh, b = floats(x, h0, Wx, Wh, b)
    N, T, _ = x.shape
    h, step_caches = np.empty((N, T, len(Wh)), np.result_type(x, h0, Wx, Wh, b)), []
    prev_h, prev_c = h0, np.zeros_like(h0)
    for t in range(T):
        prev_h, prev_c, step_cache = lstm_step_forward(x[:, t], prev_h, prev_c, Wx, Wh, b)
        h[:, t] = prev_h
        step_caches.append(step_cache)
    return h, (x, h0, Wx, Wh, b, step_caches)


def lstm_backward(dh: Array, cache: tuple):
    """Gradients of ``lstm_forward``: back-propagation through time.

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] from the layer above
    - cache: from ``lstm_forward``

    Returns dx (N, T, D), dh0 (N, H), dWx (D, 4H), dWh (H, 4H), db (4H,).
    """
    x, h0, Wx, Wh, b, step_caches = cache
    dx, dWx, dWh, db = (np.zeros_like(array) for array in (x, Wx, Wh, b))
    dprev_h = dprev_c = np.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        # h[:, t] is read by the layer above and by the next step, the cell state by the next step
        dx[:, t], dprev_h, dprev_c, dWx_t, dWh_t, db_t = lstm_step_backward(
            dh[:, t] + dprev_h, dprev_c, step_caches[t]
        )
        # every step shares the weights, so their gradients sum over time
        dWx += dWx_t
        dWh += dWh_t
        db += db_t
    dh0 = dprev_h  # what the first step read
    return dx, dh0, dWx, dWh, db
