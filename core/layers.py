"""The layers that every captioner stands on, each as a forward and a backward function in NumPy.

Reads top to bottom: affine, word embedding, dropout, softmax, then the scores and the loss of a
sequence. Builds on nothing but NumPy.

Letters: N batch, T time steps, D input width, M output width, V vocabulary, L length of a softmax.

Every ``*_forward`` returns its outputs and a ``cache``. The matching ``*_backward`` takes the
gradient of the loss with respect to those outputs, and the cache; it returns one gradient per array
argument, in the order in which ``forward`` took them. No function writes into what it is given.
Each keeps the dtype of floating-point arrays, and takes whole numbers as float64 (``floats``).
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
_TENSOR = "found a tensor of PyTorch, expected a NumPy array; give tensor.detach().cpu().numpy()"


def as_array(given) -> Array:
    """NumPy's array of what is given; raises ValueError for a tensor, whose gradient would go."""
    if hasattr(given, "detach"):
        raise ValueError(_TENSOR)
    return np.asanyarray(given)


def floats(*arrays) -> list[Array]:
    """Floating-point arrays as they are; whole numbers, which could wrap round, as float64."""
    arrays = [as_array(array) for array in arrays]
    if wrong := [str(array.dtype) for array in arrays if array.dtype.kind not in "fiub"]:
        raise ValueError(f"found an array of {wrong[0]}, expected real numbers")
    return [x if x.dtype.kind == "f" else x.astype(np.float64) for x in arrays]


# ---------------------------------------------------------------------------------------------
# Affine
# ---------------------------------------------------------------------------------------------


def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple]:
    """A fully connected layer: ``out = x w + b``, with each x[n] flattened to a row.

    Inputs:
    - x: (N, d_1, ..., d_k), where d_1 * ... * d_k = D
    - w: (D, M) weights
    - b: (M,) bias

    Returns out (N, M) and the cache (x, w).
    """
    x, w, b = floats(x, w, b)
    return x.reshape(len(x), len(w)) @ w + b, (x, w)


def affine_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients of ``affine_forward``: of dout (N, M), that of the loss with respect to out.

    Returns dx (N, d_1, ..., d_k), dw (D, M), db (M,).
    """
    x, w = cache
    [dout] = floats(dout)
    # out = x.reshape(N, D) @ w + b
    dx = (dout @ w.T).reshape(x.shape)
    dw = x.reshape(len(x), len(w)).T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db


def temporal_affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple]:
    """The same affine layer at every time step: ``out[n, t] = x[n, t] w + b``.

    Inputs x (N, T, D), w (D, M), b (M,).

    Returns out (N, T, M) and the cache (x, w).
    """
    x, w, b = floats(x, w, b)
    N, T, D = x.shape
    return (x.reshape(N * T, D) @ w + b).reshape(N, T, len(b)), (x, w)


def temporal_affine_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients of ``temporal_affine_forward``: of dout (N, T, M).

    Returns dx (N, T, D), dw (D, M), db (M,).
    """
    x, w = cache
    [dout] = floats(dout)
    N, T, D = x.shape
    # out = x.reshape(N * T, D) @ w + b
    dout = dout.reshape(N * T, w.shape[1])
    dx = (dout @ w.T).reshape(N, T, D)
    dw = x.reshape(N * T, D).T @ dout
    return dx, dw, dout.sum(axis=0)


# ---------------------------------------------------------------------------------------------
# Word embedding
# ---------------------------------------------------------------------------------------------


def word_embedding_forward(x: Array, W: Array) -> tuple[Array, tuple]:
    """Looks up the vector of each word: ``out[n, t] = W[x[n, t]]``.

    Inputs:
    - x: (N, T), or any shape, of integer word ids in 0 .. V-1
    - W: (V, D) one vector per word

    Returns out (N, T, D), the shape of x and D, and the cache (x, W).

    Raises ValueError for an id outside 0 .. V-1 (NumPy would read -1 as the last word) and
    for ids that are not integers.
    """
    x, [W] = as_array(x), floats(W)
    check_word_ids(x, len(W), "x")
    return W[x], (x, W)


def word_embedding_backward(dout: Array, cache: tuple) -> Array:
    """Gradient of ``word_embedding_forward``: each word collects the gradient of all its uses.

    Inputs:
    - dout: (N, T, D), the shape of out
    - cache: from ``word_embedding_forward``

    Returns dW (V, D).
    """
    x, W = cache
    [dout] = floats(dout)
    # out[n, t] = W[x[n, t]]. With ``dW[x] += dout`` a word that is used twice would count once.
    dW = np.zeros(W.shape, np.result_type(dout, W))
    np.add.at(dW, x, dout)
    return dW


def check_word_ids(ids: Array, vocabulary_size: int, name: str) -> None:
    """Raises ValueError, with the name, unless ids are integers in 0 .. vocabulary_size - 1."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name}: word ids must be integers, found {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= vocabulary_size):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(
            f"{name}: word id {wrong} is outside the vocabulary of {vocabulary_size} words "
            f"(0 .. {vocabulary_size - 1}); was it made with another vocabulary?"
        )


# ---------------------------------------------------------------------------------------------
# Dropout
# ---------------------------------------------------------------------------------------------


def dropout_forward(x: Array, p: float, rng: np.random.Generator | None, train: bool = True):
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
    [x] = floats(x)
    if not train or p == 0:
        return x.copy(), None
    mask = (rng.random(x.shape, dtype=np.float32) >= p).astype(x.dtype)
    mask /= 1 - p
    return x * mask, mask


def dropout_backward(dout: Array, cache: Array | None) -> Array:
    """Gradient of ``dropout_forward``: of dout, dx; the same entries pass, with the same scale."""
    [dout] = floats(dout)
    # out = x * mask, and the cache is the mask
    return dout.copy() if cache is None else dout * cache


# ---------------------------------------------------------------------------------------------
# Sigmoid and softmax
# ---------------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, written as ``0.5 (1 + tanh(x / 2))``: it cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def softmax(scores: Array) -> Array:
    """``exp(scores) / sum exp(scores)`` over the last axis.

    A row of -inf alone (in attention, a query that may look at nothing) becomes zeros.

    The largest score is subtracted first, so no exponential overflows.
    """
    [scores] = floats(scores)
    largest = scores.max(axis=-1, keepdims=True)
    largest[np.isneginf(largest)] = 0  # -inf - -inf would be NaN
    out = np.exp(scores - largest)
    total = out.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    return out / total


def softmax_backward(dweights: Array, weights: Array) -> Array:
    """Gradient of ``weights = softmax(scores)``: the Jacobian is ``diag(w) - w w^T``.

    Inputs:
    - dweights, weights: (..., L)

    Returns:
    - dscores: (..., L); it sums to 0, and is 0 where a weight is 0
    """
    dweights, weights = floats(dweights, weights)
    return weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))


def log_softmax(scores: Array) -> Array:
    """``log(softmax(scores))`` over the last axis.

    The largest score is subtracted first, so no exponential overflows, and no probability of 0
    meets a logarithm.
    """
    [scores] = floats(scores)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# ---------------------------------------------------------------------------------------------
# The loss of a sequence
# ---------------------------------------------------------------------------------------------


def temporal_softmax_loss(
    x: Array, y: Array, mask: Array, verbose: bool = False, smoothing: float = 0.0
):
    """Softmax cross-entropy of a batch of sequences, summed over time, averaged over the batch::

        loss = -1/N  sum over n, t of  mask[n, t] * log softmax(x[n, t])[y[n, t]]

    Inputs:
    - x: (N, T, V) scores, one per word of the vocabulary
    - y: (N, T) integer ids of the right words
    - mask: (N, T) booleans, or weights: positions that are False add nothing to the loss, get no
      gradient, and may hold any score and any id
    - verbose: print the shape of dx (an argument of CS231n's)
    - smoothing: the share of the target's probability that is spread evenly over all words, against
      too much certainty (Szegedy et al., CVPR 2016, section 7)

    Returns the loss, in nats, and its gradient dx (N, T, V)::

        dx[n, t] = mask[n, t] / N * (softmax(x[n, t]) - target[n, t])

    The target is ``(1 - smoothing) onehot(y) + smoothing / V`` (Bishop, PRML 2006, section 4.3.4).

    Raises ValueError when an id that counts lies outside 0 .. V-1, or the mask does not fit.
    """
    [x] = floats(x)
    N, _, V = x.shape
    y, mask = as_array(y), as_array(mask)
    if mask.shape != y.shape or mask.dtype.kind not in "biuf" or not np.isfinite(mask).all():
        found = f"{mask.dtype} of shape {mask.shape}"
        raise ValueError(f"mask: found {found}, expected finite weights of shape {y.shape}")
    scored = np.nonzero(mask)  # the P places that count; the others are never looked at
    weights = mask[scored].astype(x.dtype) / N
    words = y[scored]
    check_word_ids(words, V, "y")
    right = np.arange(len(words)), words

    log_p = log_softmax(x[scored])  # (P, V)
    log_likelihood = (1 - smoothing) * log_p[right]
    if smoothing:
        log_likelihood = log_likelihood + smoothing * log_p.mean(axis=1)
    loss = x.dtype.type(-np.sum(weights * log_likelihood))
    # of one place, before its weight: softmax - target
    dscores = np.exp(log_p) - smoothing / V
    dscores[right] -= 1 - smoothing
    dx = np.zeros_like(x)
    dx[scored] = weights[:, None] * dscores
    if verbose:
        print(f"dx: {dx.shape}")
    return loss, dx
