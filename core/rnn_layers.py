"""The layers of a recurrent captioner, each as a forward and a backward function in NumPy.

Reads top to bottom: affine, word embedding, vanilla RNN, LSTM, then what scores a sequence.
Builds on nothing but NumPy.

Letters: N batch, T time steps, D input width, W word-vector width, H hidden width, V vocabulary.

Every ``*_forward`` returns its outputs and a ``cache``; the matching ``*_backward`` takes the
gradient of the loss with respect to those outputs and the cache, and returns one gradient per array
argument, in the order in which ``forward`` took them. No function writes into what it was given,
and each keeps the dtype it is given.

``rnn_step_*`` and ``lstm_step_*`` are the definition of a recurrent layer and the oracle of the
sequence functions, which compute the same numbers faster: what does not depend on the previous
step (``x @ Wx``, and the gradients of all the weights) leaves the time loop as one large product.
Inside, they keep time first, (T, N, ...), so that the slice of one step is contiguous.
"""

from __future__ import annotations

import numpy as np

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
    out = x.reshape(len(x), len(w)) @ w + b
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
    dw = x.reshape(len(x), len(w)).T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db


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
    ids = x.ravel()
    dW = np.zeros(W.shape, dtype=dout.dtype)
    if ids.size == 0:
        return dW
    # The same as np.add.at(dW, x, dout), a few times faster: sorted by word, the uses of one word
    # stand together, and reduceat sums each such run of rows.
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))  # where another word begins
    # out[n, t] = W[x[n, t]]
    uses = dout.reshape(ids.size, -1)[order]
    dW[sorted_ids[starts]] = np.add.reduceat(uses, starts, axis=0)
    return dW


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
    - cache: (x_steps (T*N, D), Wx, Wh, states (T+1, N, H), the first being h0)
    """
    N, T, D = x.shape
    H = h0.shape[1]
    x_steps = _time_first(x).reshape(T * N, D)
    a = (x_steps @ Wx + b).reshape(T, N, H)  # every step's input product at once
    states = np.empty((T + 1, N, H), dtype=a.dtype)
    states[0] = h0
    for t in range(T):
        a[t] += states[t] @ Wh
        np.tanh(a[t], out=states[t + 1])
    return _batch_first(states[1:]), (x_steps, Wx, Wh, states)


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
    x_steps, Wx, Wh, states = cache
    T, N, H = states.shape[0] - 1, states.shape[1], states.shape[2]
    da = np.empty((T, N, H), dtype=dh.dtype)
    dprev_h = np.zeros((N, H), dtype=dh.dtype)
    for t in reversed(range(T)):
        # states[t + 1] = tanh(a[t]), used by the output and by step t + 1
        np.multiply(dh[:, t] + dprev_h, 1 - states[t + 1] ** 2, out=da[t])
        # a[t] += states[t] @ Wh
        dprev_h = da[t] @ Wh.T
    # a = x_steps @ Wx + b; every step shares the weights, so their gradients sum over time too
    da = da.reshape(T * N, H)
    dx = _batch_first((da @ Wx.T).reshape(T, N, len(Wx)))
    dWx = x_steps.T @ da
    dWh = states[:-1].reshape(T * N, H).T @ da
    db = da.sum(axis=0)
    return dx, dprev_h, dWx, dWh, db


def _time_first(x: Array) -> Array:
    """(N, T, ...) -> contiguous (T, N, ...)."""
    return np.ascontiguousarray(x.swapaxes(0, 1))


def _batch_first(x: Array) -> Array:
    """(T, N, ...) -> contiguous (N, T, ...), never a view of x."""
    return x.swapaxes(0, 1).copy()


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
    - cache: (x_steps (T*N, D), Wx, Wh, gates (T, N, 4H), h_states (T+1, N, H),
      c_states (T+1, N, H), tanh_c (T, N, H)); the states start with h0 and with zeros
    """
    N, T, D = x.shape
    H = h0.shape[1]
    x_steps = _time_first(x).reshape(T * N, D)
    gates = (x_steps @ Wx + b).reshape(T, N, 4 * H)  # every step's input product at once
    h_states = np.empty((T + 1, N, H), dtype=gates.dtype)
    c_states = np.empty_like(h_states)
    tanh_c = np.empty((T, N, H), dtype=gates.dtype)
    h_states[0], c_states[0] = h0, 0
    for t in range(T):
        gates[t] += h_states[t] @ Wh
        # sigmoid(a) = 0.5 (1 + tanh(a / 2)) lets one tanh serve all four blocks, in place
        gates[t, :, : 3 * H] *= 0.5
        np.tanh(gates[t], out=gates[t])
        gates[t, :, : 3 * H] += 1
        gates[t, :, : 3 * H] *= 0.5
        i, f, o, g = np.split(gates[t], 4, axis=1)  # views
        np.multiply(f, c_states[t], out=c_states[t + 1])
        c_states[t + 1] += i * g
        np.tanh(c_states[t + 1], out=tanh_c[t])
        np.multiply(o, tanh_c[t], out=h_states[t + 1])
    return _batch_first(h_states[1:]), (x_steps, Wx, Wh, gates, h_states, c_states, tanh_c)


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
    x_steps, Wx, Wh, gates, h_states, c_states, tanh_c = cache
    T, N, H = tanh_c.shape
    da = np.empty((T, N, 4 * H), dtype=dh.dtype)
    dprev_h = np.zeros((N, H), dtype=dh.dtype)
    dprev_c = np.zeros((N, H), dtype=dh.dtype)
    for t in reversed(range(T)):
        i, f, o, g = np.split(gates[t], 4, axis=1)
        da_i, da_f, da_o, da_g = np.split(da[t], 4, axis=1)  # views: the step writes into da
        # h_states[t + 1] = o * tanh(c_states[t + 1]), used by the output and by step t + 1
        dnext_h = dh[:, t] + dprev_h
        dc = dprev_c + dnext_h * o * (1 - tanh_c[t] ** 2)
        np.multiply(dnext_h * tanh_c[t], o * (1 - o), out=da_o)
        # c_states[t + 1] = f * c_states[t] + i * g, then through sigmoid and tanh
        np.multiply(dc * c_states[t], f * (1 - f), out=da_f)
        np.multiply(dc * g, i * (1 - i), out=da_i)
        np.multiply(dc * i, 1 - g**2, out=da_g)
        dprev_c = dc * f
        # gates[t] += h_states[t] @ Wh
        dprev_h = da[t] @ Wh.T
    # gates = x_steps @ Wx + b; every step shares the weights, so their gradients sum over time too
    da = da.reshape(T * N, 4 * H)
    dx = _batch_first((da @ Wx.T).reshape(T, N, len(Wx)))
    dWx = x_steps.T @ da
    dWh = h_states[:-1].reshape(T * N, H).T @ da
    db = da.sum(axis=0)
    return dx, dprev_h, dWx, dWh, db


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
    out = (x.reshape(N * T, D) @ w + b).reshape(N, T, len(b))
    return out, (x, w)


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
    N, T, D = x.shape
    dout = dout.reshape(N * T, w.shape[1])
    # out = x.reshape(N * T, D) @ w + b
    dx = (dout @ w.T).reshape(N, T, D)
    dw = x.reshape(N * T, D).T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db


def log_softmax(scores: Array) -> Array:
    """``log(softmax(scores))`` over the last axis.

    The largest score is subtracted first, so no exponential overflows, and no probability of 0
    meets a logarithm.
    """
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


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
    - smoothing: this share of the target's probability is spread evenly over all words, so that a
      model is not driven to certainty (Szegedy et al., CVPR 2016, section 7)

    Returns:
    - loss: a scalar, in nats
    - dx: (N, T, V) gradient of the loss with respect to x

    Raises ValueError when an id that counts lies outside 0 .. V-1.

    The gradient of the fused pair is ``softmax(x) - target``, the target being ``onehot(y)`` but
    for the smoothing (Bishop, PRML 2006, section 4.3.4). Positions that do not count are never
    computed.
    """
    N, T, V = x.shape
    weights = np.asarray(mask).reshape(N * T).astype(x.dtype)
    rows = np.flatnonzero(weights)
    targets = np.asarray(y).reshape(N * T)[rows]
    check_word_ids(targets, V, "y")
    weights = weights[rows]

    log_probs = log_softmax(x.reshape(N * T, V)[rows])
    right = np.arange(len(rows)), targets
    expected = (1 - smoothing) * log_probs[right]
    if smoothing:
        expected += smoothing * log_probs.mean(axis=1)
    loss = x.dtype.type(-np.sum(weights * expected) / N)

    dscores = np.exp(log_probs)
    dscores -= smoothing / V
    dscores[right] -= 1 - smoothing
    dscores *= weights[:, None] / N
    dx = np.zeros((N * T, V), dtype=x.dtype)
    dx[rows] = dscores
    dx = dx.reshape(N, T, V)
    if verbose:
        print(f"dx: {dx.shape}")
    return loss, dx
