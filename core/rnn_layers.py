"""The layers of a recurrent captioner, each as a forward and a backward function in NumPy.

Reads top to bottom: affine, word embedding, vanilla RNN, LSTM, then what scores a sequence.
Builds on ``core/packing.py``.

Letters: N batch, T time steps, D input width, W word-vector width, H hidden width, V vocabulary;
M entries of a batch without padding, U different ones among them.

Every ``*_forward`` returns its outputs and a ``cache``; the matching ``*_backward`` takes the
gradient of the loss with respect to those outputs and the cache, and returns one gradient per array
argument, in the order in which ``forward`` took them. No function writes into what it was given
unless its docstring says so, and each keeps the dtype it is given.

``rnn_step_*`` and ``lstm_step_*`` are the definition of a recurrent layer and the oracle of the
sequence functions, which compute the same numbers faster: what does not depend on the previous
step (``x @ Wx``, and the gradients of all the weights) leaves the time loop as one large product.
Inside, entries stand in the order in which time visits them (``core/packing.py``), so that a step
is a slice, and what is padding is not there.
"""

from __future__ import annotations

import numpy as np

from core.packing import Packing

Array = np.ndarray


# ---------------------------------------------------------------------------------------------
# Affine
# ---------------------------------------------------------------------------------------------


def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple]:
    """A fully connected layer: ``out = x w + b``, with each x[n] flattened to a row.

    Inputs:
    - x: (N, d_1, ..., d_k), where d_1 * ... * d_k = D
    - w: (D, M) weights
    - b: (M,) bias

    Returns:
    - out: (N, M)
    - cache: (x, w)
    """
    out = x.reshape(len(x), len(w)) @ w
    out += b
    return out, (x, w)


def affine_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Undoes ``affine_forward``.

    Inputs:
    - dout: (N, M) gradient of the loss with respect to out
    - cache: from ``affine_forward``

    Returns:
    - dx: (N, d_1, ..., d_k)
    - dw: (D, M)
    - db: (M,)
    """
    x, w = cache
    # out = x.reshape(N, D) @ w + b
    dx = (dout @ w.T).reshape(x.shape)
    return dx, *affine_weights_backward(dout, x.reshape(len(x), len(w)))


def affine_weights_backward(dout: Array, x: Array) -> tuple[Array, Array]:
    """``dw, db`` alone, where x is data and nobody asks for its gradient.

    Inputs:
    - dout: (..., M)
    - x: (..., D), of as many rows in all
    """
    dout = dout.reshape(-1, dout.shape[-1])
    return x.reshape(-1, x.shape[-1]).T @ dout, dout.sum(axis=0)


# ---------------------------------------------------------------------------------------------
# Word embedding
# ---------------------------------------------------------------------------------------------


def word_embedding_forward(x: Array, W: Array) -> tuple[Array, tuple]:
    """Looks up the vector of each word: ``out[n, t] = W[x[n, t]]``.

    Inputs:
    - x: (N, T), or any shape, of integer word ids in 0 .. V-1
    - W: (V, D) one vector per word

    Returns:
    - out: (N, T, D), the shape of x and D
    - cache: (x, W)

    Raises ValueError for an id outside 0 .. V-1 (NumPy would read -1 as the last word) and
    for ids that are not integers.
    """
    x = np.asarray(x)
    check_word_ids(x, len(W), "x")
    return W[x], (x, W)


def word_embedding_backward(dout: Array, cache: tuple) -> Array:
    """Undoes ``word_embedding_forward``: each word collects the gradient of all its uses.

    Inputs:
    - dout: (N, T, D), the shape of out
    - cache: from ``word_embedding_forward``

    Returns:
    - dW: (V, D)
    """
    x, W = cache
    # out[n, t] = W[x[n, t]]
    return sums_of_rows(dout.reshape(x.size, W.shape[1]), x.ravel(), len(W))


def sums_of_rows(x: Array, which: Array, number: int) -> Array:
    """The backward of a look-up, (M, D) -> (number, D): ``out[r]`` sums x[m] where which[m] = r.

    The same as ``np.add.at(out, which, x)``, many times faster: the rows that belong together are
    summed at once.
    """
    out = np.zeros((number, x.shape[1]), dtype=x.dtype)
    order = np.argsort(which, kind="stable")
    ids = which[order]
    starts = np.flatnonzero(np.diff(ids, prepend=-1))  # where another row begins
    stops = np.flatnonzero(np.diff(ids, append=-1)) + 1
    once = stops - starts == 1
    out[ids[starts[once]]] = x[order[starts[once]]]
    for start, stop in zip(starts[~once], stops[~once], strict=True):
        np.add.reduce(x[order[start:stop]], axis=0, out=out[ids[start]])
    return out


def check_word_ids(ids: Array, vocabulary_size: int, name: str) -> None:
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name}: word ids must be integers, found {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= vocabulary_size):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(
            f"{name}: word id {wrong} is outside the vocabulary of {vocabulary_size} words "
            f"(0 .. {vocabulary_size - 1}); was it made with another vocabulary?"
        )


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

    Returns:
    - next_h: (N, H)
    - cache: (x, prev_h, Wx, Wh, next_h)
    """
    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)


def rnn_step_backward(dnext_h: Array, cache: tuple):
    """Undoes ``rnn_step_forward``.

    Inputs:
    - dnext_h: (N, H)
    - cache: from ``rnn_step_forward``

    Returns:
    - dx: (N, D)
    - dprev_h: (N, H)
    - dWx: (D, H)
    - dWh: (H, H)
    - db: (H,)
    """
    x, prev_h, Wx, Wh, next_h = cache
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
    """A vanilla RNN over a whole sequence; equals T calls of ``rnn_step_forward``.

    Inputs:
    - x: (N, T, D) input sequence
    - h0: (N, H) hidden state before the first step
    - Wx: (D, H), Wh: (H, H), b: (H,)

    Returns:
    - h: (N, T, H) hidden state after each step
    - cache: (cache of the input products, packing, cache of ``rnn_packed_forward``)
    """
    return _sequence_forward(rnn_packed_forward, x, h0, Wx, Wh, b)


def rnn_backward(dh: Array, cache: tuple):
    """Undoes ``rnn_forward``: back-propagation through time (Werbos, Proc. IEEE 1990).

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] directly, from above. The gradient that
      reaches it through the later steps is added here.
    - cache: from ``rnn_forward``

    Returns:
    - dx: (N, T, D)
    - dh0: (N, H)
    - dWx: (D, H)
    - dWh: (H, H)
    - db: (H,)
    """
    return _sequence_backward(rnn_packed_backward, dh, cache)


def rnn_packed_forward(inputs: Array, which: Array, h0: Array, Wh: Array, packing: Packing):
    """The recurrence of ``rnn_forward`` alone: ``h = tanh(input + prev_h Wh)``, padding left out.

    Inputs:
    - inputs: (U, H) products ``x Wx + b``, each different x once
    - which: (M,) row of ``inputs`` that each entry of the packing reads
    - h0: (N, H)
    - Wh: (H, H)
    - packing: which rows go on at each step

    Returns:
    - h: (M, H) the state after each entry
    - cache: (inputs, which, Wh, packing, states (N + M, H), the first being h0)
    """
    N, H = h0.shape
    states = np.empty((N + len(which), H), dtype=inputs.dtype)
    h = states[N:]
    states[:N] = packing.first(h0)
    np.take(inputs, which, axis=0, out=h)
    for now, before in packing.steps:
        a = h[now]
        a += states[before] @ Wh
        np.tanh(a, out=a)
    return h.copy(), (inputs, which, Wh, packing, states)


def rnn_packed_backward(dh: Array, cache: tuple):
    """Undoes ``rnn_packed_forward``.

    Inputs:
    - dh: (M, H) gradient that reaches each state directly
    - cache: from ``rnn_packed_forward``

    Returns:
    - dinputs: (U, H)
    - dh0: (N, H)
    - dWh: (H, H)
    """
    inputs, which, Wh, packing, states = cache
    N, H = len(packing.order), Wh.shape[0]
    da = dh.copy()
    dprev_h = np.zeros((0, H), dtype=dh.dtype)
    for now, _ in reversed(packing.steps):
        # h[now] = tanh(a), used by the output and, where the row goes on, by the step after
        da[now][: len(dprev_h)] += dprev_h
        da[now] *= 1 - states[N:][now] ** 2
        # a = inputs[which[now]] + states[before] @ Wh
        dprev_h = back_through(da[now], Wh)
    dWh = states[packing.before].T @ da
    return sums_of_rows(da, which, len(inputs)), gradient_before(dprev_h, packing), dWh


def _sequence_forward(packed_forward, x: Array, h0: Array, Wx: Array, Wh: Array, b: Array):
    """A recurrent layer over padded sequences: every step's input product at once, then time."""
    N, T, _ = x.shape
    packing = Packing(np.full(N, T), T)
    inputs, input_cache = affine_forward(packing.pack(x), Wx, b)
    h, cache = packed_forward(inputs, np.arange(N * T), h0, Wh, packing)
    return packing.unpack(h), (input_cache, packing, cache)


def _sequence_backward(packed_backward, dh: Array, cache: tuple):
    input_cache, packing, cache = cache
    dinputs, dh0, dWh = packed_backward(packing.pack(dh), cache)
    # every step shares the weights, so their gradients sum over time too
    dx, dWx, db = affine_backward(dinputs, input_cache)
    return packing.unpack(dx), dh0, dWx, dWh, db


def back_through(da: Array, W: Array) -> Array:
    """``da @ W.T``, in the form that is faster where da has few rows."""
    return (W @ da.T).T


def gradient_before(dprev: Array, packing: Packing) -> Array:
    """What reaches a state from before the first step, by row: 0 where a row has no entry."""
    out = np.zeros((len(packing.order), dprev.shape[1]), dtype=dprev.dtype)
    out[packing.order[: len(dprev)]] = dprev
    return out


# ---------------------------------------------------------------------------------------------
# LSTM        (Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber and Cummins 2000)
# ---------------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, written as ``0.5 (1 + tanh(x / 2))``: it cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


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

    Returns:
    - next_h: (N, H)
    - next_c: (N, H)
    - cache: (x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c)
    """
    a_i, a_f, a_o, a_g = np.split(x @ Wx + prev_h @ Wh + b, 4, axis=1)
    i, f, o, g = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o), np.tanh(a_g)
    next_c = f * prev_c + i * g
    tanh_c = np.tanh(next_c)
    next_h = o * tanh_c
    return next_h, next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c)


def lstm_step_backward(dnext_h: Array, dnext_c: Array, cache: tuple):
    """Undoes ``lstm_step_forward``.

    Inputs:
    - dnext_h: (N, H)
    - dnext_c: (N, H) gradient that reaches next_c from the next step
    - cache: from ``lstm_step_forward``

    Returns:
    - dx: (N, D)
    - dprev_h: (N, H)
    - dprev_c: (N, H)
    - dWx: (D, 4H)
    - dWh: (H, 4H)
    - db: (4H,)
    """
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c = cache
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
    """An LSTM over a whole sequence, from cell state 0; equals T calls of ``lstm_step_forward``.

    Inputs:
    - x: (N, T, D) input sequence
    - h0: (N, H) hidden state before the first step
    - Wx: (D, 4H), Wh: (H, 4H), b: (4H,), blocks in the order i, f, o, g

    Returns:
    - h: (N, T, H) hidden state after each step
    - cache: (cache of the input products, packing, cache of ``lstm_packed_forward``)
    """
    return _sequence_forward(lstm_packed_forward, x, h0, Wx, Wh, b)


def lstm_backward(dh: Array, cache: tuple):
    """Undoes ``lstm_forward``: back-propagation through time.

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] directly, from above
    - cache: from ``lstm_forward``

    Returns:
    - dx: (N, T, D)
    - dh0: (N, H)
    - dWx: (D, 4H)
    - dWh: (H, 4H)
    - db: (4H,)
    """
    return _sequence_backward(lstm_packed_backward, dh, cache)


def lstm_packed_forward(inputs: Array, which: Array, h0: Array, Wh: Array, packing: Packing):
    """The recurrence of ``lstm_forward`` alone, as ``rnn_packed_forward`` is that of an RNN.

    Inputs:
    - inputs: (U, 4H) products ``x Wx + b``, each different x once
    - which: (M,) row of ``inputs`` that each entry of the packing reads
    - h0: (N, H)
    - Wh: (H, 4H)
    - packing: which rows go on at each step

    Returns:
    - h: (M, H) hidden state after each entry
    - cache: (inputs, which, Wh, packing, gates (4, M, H), h_states (N + M, H), c_states (N + M, H),
      tanh_c (M, H)); the states start with h0 and with zeros
    """
    N, H = h0.shape
    gates = look_up_gates(inputs, which)
    h_states = np.empty((N + len(which), H), dtype=gates.dtype)
    c_states = np.empty_like(h_states)
    h_states[:N], c_states[:N] = packing.first(h0), 0
    tanh_c = np.empty((len(which), H), dtype=gates.dtype)
    for now, before in packing.steps:
        a = gates[:, now]
        a += by_gate(h_states[before] @ Wh)
        lstm_cell(a, c_states[before], c_states[N:][now], tanh_c[now], h_states[N:][now])
    cache = (inputs, which, Wh, packing, gates, h_states, c_states, tanh_c)
    return h_states[N:].copy(), cache


def by_gate(a: Array) -> Array:
    """(N, 4H) -> (4, N, H): a view of the blocks i, f, o and g."""
    return a.reshape(len(a), 4, a.shape[1] // 4).swapaxes(0, 1)


def look_up_gates(inputs: Array, which: Array) -> Array:
    """(U, 4H) -> (4, M, H): ``by_gate(inputs[which])``, each gate in one piece of memory.

    NumPy goes through that several times faster than through a block of columns, which it copies
    into a buffer and back, row by row.
    """
    return np.take(by_gate(inputs), which, axis=1)


def lstm_cell(a: Array, prev_c: Array, c: Array, tanh_c: Array, h: Array) -> None:
    """The elementwise part of ``lstm_step_forward``: fills in c, tanh_c and h, all (N, H).

    ``a`` (4, N, H) becomes the gates i, f, o and the candidate g. As ``sigmoid(a) = 0.5 (1 +
    tanh(a / 2))``, one tanh serves all four.
    """
    i, f, o, g = a
    sigmoids = a[:3]
    sigmoids *= 0.5
    np.tanh(a, out=a)
    sigmoids += 1
    sigmoids *= 0.5
    np.multiply(f, prev_c, out=c)
    c += i * g
    np.tanh(c, out=tanh_c)
    np.multiply(o, tanh_c, out=h)


def lstm_cell_backward(
    dh: Array, dnext_c: Array, gates: Array, prev_c: Array, tanh_c: Array, out: Array
) -> Array:
    """Undoes ``lstm_cell``: from the gradients of a step's new states to those of a and prev_c.

    Inputs:
    - dh: (N, H) all that reaches the new h
    - dnext_c: (n, H) what reaches the new c of the first n <= N rows from the step after
    - gates: (4, N, H), prev_c, tanh_c: (N, H) of the step
    - out: (4, N, H), filled with the gradient of ``a``

    Returns dprev_c (N, H).
    """
    i, f, o, g = gates
    dgates = np.empty_like(gates)
    di, df, do, dg = dgates
    # h = o * tanh(c)
    np.multiply(dh, tanh_c, out=do)
    dc = dh * o
    dc *= 1 - tanh_c**2
    dc[: len(dnext_c)] += dnext_c
    # c = f * prev_c + i * g
    np.multiply(dc, prev_c, out=df)
    np.multiply(dc, g, out=di)
    np.multiply(dc, i, out=dg)
    dc *= f
    # i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o); g = tanh(a_g)
    slopes = gates**2
    np.subtract(gates[:3], slopes[:3], out=slopes[:3])
    np.subtract(1, slopes[3], out=slopes[3])
    np.multiply(dgates, slopes, out=out)
    return dc


def lstm_packed_backward(dh: Array, cache: tuple):
    """Undoes ``lstm_packed_forward``.

    Inputs:
    - dh: (M, H) gradient that reaches each state directly
    - cache: from ``lstm_packed_forward``

    Returns:
    - dinputs: (U, 4H)
    - dh0: (N, H)
    - dWh: (H, 4H)
    """
    inputs, which, Wh, packing, gates, h_states, c_states, tanh_c = cache
    M, H = dh.shape
    da = np.empty((M, 4 * H), dtype=dh.dtype)
    dprev_h = dprev_c = np.zeros((0, H), dtype=dh.dtype)
    for now, before in reversed(packing.steps):
        # h[now] is used by the output and, where the row goes on, by the step after
        dnow = dh[now].copy()
        dnow[: len(dprev_h)] += dprev_h
        dprev_c = lstm_cell_backward(
            dnow, dprev_c, gates[:, now], c_states[before], tanh_c[now], out=by_gate(da[now])
        )
        # gates[:, now] = by_gate(inputs[which[now]] + h_states[before] @ Wh)
        dprev_h = back_through(da[now], Wh)
    dWh = h_states[packing.before].T @ da
    return sums_of_rows(da, which, len(inputs)), gradient_before(dprev_h, packing), dWh


# ---------------------------------------------------------------------------------------------
# Scores and loss of a sequence
# ---------------------------------------------------------------------------------------------


def temporal_affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple]:
    """The same affine layer at every time step: ``out[n, t] = x[n, t] w + b``.

    Inputs:
    - x: (N, T, D)
    - w: (D, M)
    - b: (M,)

    Returns:
    - out: (N, T, M)
    - cache: (x, w)
    """
    N, T, D = x.shape
    out = x.reshape(N * T, D) @ w
    out += b
    return out.reshape(N, T, len(b)), (x, w)


def temporal_affine_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Undoes ``temporal_affine_forward``.

    Inputs:
    - dout: (N, T, M)
    - cache: from ``temporal_affine_forward``

    Returns:
    - dx: (N, T, D)
    - dw: (D, M)
    - db: (M,)
    """
    x, w = cache
    N, T, M = dout.shape
    # out = x.reshape(N * T, D) @ w + b
    dx = (dout.reshape(N * T, M) @ w.T).reshape(x.shape)
    return dx, *affine_weights_backward(dout, x)


def log_softmax(scores: Array) -> Array:
    """``log(softmax(scores))`` over the last axis.

    The largest score is subtracted first, so no exponential overflows, and no probability of 0
    meets a logarithm.
    """
    shifted = scores - scores.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def softmax_loss(scores: Array, y: Array, weights: Array, smoothing: float = 0.0):
    """Weighted softmax cross-entropy: ``-sum over m of weights[m] log softmax(scores[m])[y[m]]``.

    Inputs:
    - scores: (M, V), one per word of the vocabulary
    - y: (M,) integer ids of the right words
    - weights: (M,) factor of each place's loss
    - smoothing: this share of the target's probability is spread evenly over all words, so that a
      model is not driven to certainty (Szegedy et al., CVPR 2016, section 7)

    Returns:
    - loss: a scalar, in nats
    - dscores: (M, V)

    Raises ValueError when an id lies outside 0 .. V-1.

    The gradient of the fused pair is ``softmax(scores) - target``, the target being ``onehot(y)``
    but for the smoothing (Bishop, PRML 2006, section 4.3.4).
    """
    M, V = scores.shape
    check_word_ids(y, V, "y")
    right = np.arange(M), y
    # As in ``log_softmax``; one buffer holds in turn all of these (M, V), the largest arrays of a
    # training step.
    shifted = scores - scores.max(axis=1, keepdims=True)
    expected = (1 - smoothing) * shifted[right]
    if smoothing:
        expected += smoothing * shifted.mean(axis=1)
    probabilities = np.exp(shifted, out=shifted)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    expected -= np.log(total[:, 0])
    loss = scores.dtype.type(-np.sum(weights * expected))

    dscores = probabilities
    if smoothing:
        dscores -= smoothing / V
    dscores[right] -= 1 - smoothing
    dscores *= weights[:, None]
    return loss, dscores


def temporal_softmax_loss(
    x: Array, y: Array, mask: Array, verbose: bool = False, smoothing: float = 0.0
):
    """Softmax cross-entropy of a batch of sequences, summed over time, averaged over the batch::

        loss = -1/N  sum over n, t of  mask[n, t] * log softmax(x[n, t])[y[n, t]]

    Inputs:
    - x: (N, T, V) scores, one per word of the vocabulary
    - y: (N, T) integer ids of the right words
    - mask: (N, T) booleans (or weights): positions that are False add nothing to the loss, get no
      gradient, and may hold any score and any id
    - verbose: print the shape of dx
    - smoothing: see ``softmax_loss``

    Returns:
    - loss: a scalar, in nats
    - dx: (N, T, V) gradient of the loss with respect to x

    Raises ValueError when an id that counts lies outside 0 .. V-1.

    Positions that do not count are never computed.
    """
    N, T, V = x.shape
    weights = np.asarray(mask).reshape(N * T).astype(x.dtype)
    rows = np.flatnonzero(weights)
    targets = np.asarray(y).reshape(N * T)[rows]
    loss, dscores = softmax_loss(x.reshape(N * T, V)[rows], targets, weights[rows] / N, smoothing)
    dx = np.zeros((N * T, V), dtype=x.dtype)
    dx[rows] = dscores
    dx = dx.reshape(N, T, V)
    if verbose:
        print(f"dx: {dx.shape}")
    return loss, dx
