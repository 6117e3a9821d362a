"""The functions of the road, empty: what ``new`` writes, a chapter after each line ``# == NAME``.

Each docstring says what goes in, what comes out and the equation of the forward. Of a backward it
says nothing but the shapes: that is what a learner finds out.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


# == words
# Letters: N batch, T time steps, D input width, M output width, V words of the vocabulary.


def affine_forward(x: Array, w: Array, b: Array):
    """A fully connected layer: ``out = x w + b``, with each x[n] flattened to a row.

    Inputs:
    - x: (N, d_1, ..., d_k), where d_1 * ... * d_k = D
    - w: (D, M)
    - b: (M,)

    Returns out (N, M) and a cache: whatever your backward needs.
    """
    raise NotImplementedError


def affine_backward(dout: Array, cache):
    """Gradients of ``affine_forward``.

    Inputs:
    - dout: (N, M) gradient of the loss with respect to out
    - cache: from ``affine_forward``

    Returns dx (the shape of x), dw (D, M), db (M,).
    """
    raise NotImplementedError


def temporal_affine_forward(x: Array, w: Array, b: Array):
    """The same affine layer at every time step: ``out[n, t] = x[n, t] w + b``.

    Inputs:
    - x: (N, T, D)
    - w: (D, M)
    - b: (M,)

    Returns out (N, T, M) and a cache.
    """
    raise NotImplementedError


def temporal_affine_backward(dout: Array, cache):
    """Gradients of ``temporal_affine_forward``.

    Inputs:
    - dout: (N, T, M)
    - cache: from ``temporal_affine_forward``

    Returns dx (N, T, D), dw (D, M), db (M,).
    """
    raise NotImplementedError


def word_embedding_forward(x: Array, W: Array):
    """Looks up the vector of each word: ``out[n, t] = W[x[n, t]]``.

    Inputs:
    - x: (N, T) integer word ids, 0 to V - 1
    - W: (V, D) one vector per word

    Returns out (N, T, D) and a cache.
    """
    raise NotImplementedError


def word_embedding_backward(dout: Array, cache):
    """Gradient of ``word_embedding_forward``. A word may occur several times, or never.

    Inputs:
    - dout: (N, T, D)
    - cache: from ``word_embedding_forward``

    Returns dW (V, D).
    """
    raise NotImplementedError


def temporal_softmax_loss(
    x: Array, y: Array, mask: Array, verbose: bool = False, smoothing: float = 0.0
):
    """Softmax cross-entropy of a batch of sequences, summed over time, averaged over the batch::

        loss = -1/N  sum over n, t of  mask[n, t] * log softmax(x[n, t])[y[n, t]]

    Inputs:
    - x: (N, T, V) scores, one per word of the vocabulary; they may be large, as 800
    - y: (N, T) integer ids of the right words
    - mask: (N, T) booleans; where it is False, x and y may hold anything and nothing counts
    - verbose: of the course CS231n; ignore it
    - smoothing: s, from 0 to below 1. It replaces log softmax(x)[y] by (1 - s) times it, plus s
      times the mean of log softmax(x) over the V words: as if the right answer were
      (1 - s) one-hot + s / V. With the 0 of the default nothing changes

    Returns the loss, a number, and its gradient dx (N, T, V).
    """
    raise NotImplementedError


# == updates
# Every rule is rule(w, dw, config) -> next_w, config. config is a dict, or None at the first step:
# it holds the rule's numbers and what the rule remembers from step to step. Fill in the default in
# brackets for what it lacks, and return it. Leave w and dw as they are.


def sgd(w: Array, dw: Array, config: dict | None = None):
    """Stochastic gradient descent: ``next_w = w - learning_rate * dw``.

    config: learning_rate (1e-2).

    Returns next_w, of the shape of w, and config.
    """
    raise NotImplementedError


def sgd_momentum(w: Array, dw: Array, config: dict | None = None):
    """SGD with momentum, the rate outside of the velocity as in PyTorch::

        velocity = momentum * velocity + dw
        next_w   = w - learning_rate * velocity

    config: learning_rate (1e-2), momentum (0.9), velocity (zeros).

    Returns next_w and config.
    """
    raise NotImplementedError


def rmsprop(w: Array, dw: Array, config: dict | None = None):
    """RMSProp: each weight gets a rate of its own::

        cache  = decay_rate * cache + (1 - decay_rate) * dw^2
        next_w = w - learning_rate * dw / (sqrt(cache) + epsilon)

    config: learning_rate (1e-2), decay_rate (0.99), epsilon (1e-8), cache (zeros).

    Returns next_w and config.
    """
    raise NotImplementedError


def adam(w: Array, dw: Array, config: dict | None = None):
    """Adam: momentum and a rate for each weight, both corrected for having begun at 0::

        t = t + 1
        m = beta1 * m + (1 - beta1) * dw
        v = beta2 * v + (1 - beta2) * dw^2
        m_hat, v_hat = m / (1 - beta1^t), v / (1 - beta2^t)
        next_w = w - learning_rate * m_hat / (sqrt(v_hat) + epsilon)

    config: learning_rate (1e-3), beta1 (0.9), beta2 (0.999), epsilon (1e-8), m and v (zeros), t (0,
    the number of steps taken).

    Returns next_w and config.
    """
    raise NotImplementedError


def adamw(w: Array, dw: Array, config: dict | None = None):
    """Adam with decoupled weight decay: w shrinks, then takes the step of Adam::

        w = w * (1 - learning_rate * weight_decay)

    config: as for ``adam``, and weight_decay (1e-2).

    Returns next_w and config.
    """
    raise NotImplementedError


def clip_gradient_norm(grads: dict[str, Array], max_norm: float):
    """Scales all gradients by one factor when their common norm exceeds max_norm::

        norm   = sqrt(sum of the squares of all entries of all gradients)
        factor = min(1, max_norm / (norm + 1e-6))

    The 1e-6 is PyTorch's: a norm of 0 divides nothing.

    Inputs:
    - grads: gradients by name; leave the arrays as they are
    - max_norm: above 0

    Returns a dict with the gradients, scaled, and norm as it was before.
    """
    raise NotImplementedError


# == rnn
# Letters: N batch, T time steps, D input width, H hidden width.


def rnn_step_forward(x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array):
    """One time step of a vanilla RNN: ``next_h = tanh(x Wx + prev_h Wh + b)``.

    Inputs:
    - x: (N, D) input of this step
    - prev_h: (N, H) hidden state of the step before
    - Wx: (D, H), Wh: (H, H), b: (H,)

    Returns next_h (N, H) and a cache.
    """
    raise NotImplementedError


def rnn_step_backward(dnext_h: Array, cache):
    """Gradients of ``rnn_step_forward``.

    Inputs:
    - dnext_h: (N, H) gradient of the loss with respect to next_h
    - cache: from ``rnn_step_forward``

    Returns dx (N, D), dprev_h (N, H), dWx (D, H), dWh (H, H), db (H,).
    """
    raise NotImplementedError


def rnn_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array):
    """A vanilla RNN over a whole sequence: a step for each word, which reads the state before it::

        h[:, 0] = rnn_step(x[:, 0], h0),    h[:, t] = rnn_step(x[:, t], h[:, t - 1])

    Inputs:
    - x: (N, T, D)
    - h0: (N, H) hidden state before the first step
    - Wx: (D, H), Wh: (H, H), b: (H,)

    Returns h (N, T, H), the state after each step, and a cache.
    """
    raise NotImplementedError


def rnn_backward(dh: Array, cache):
    """Gradients of ``rnn_forward``: back-propagation through time.

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] from the layer above; what reaches it
      through the later steps is not in it
    - cache: from ``rnn_forward``

    Returns dx (N, T, D), dh0 (N, H), dWx (D, H), dWh (H, H), db (H,).
    """
    raise NotImplementedError


# == lstm
# Letters: N batch, T time steps, D input width, H hidden width.


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

    Returns next_h (N, H), next_c (N, H) and a cache.
    """
    raise NotImplementedError


def lstm_step_backward(dnext_h: Array, dnext_c: Array, cache):
    """Gradients of ``lstm_step_forward``.

    Inputs:
    - dnext_h: (N, H) gradient of the loss with respect to next_h
    - dnext_c: (N, H) gradient that reaches next_c from the next step
    - cache: from ``lstm_step_forward``

    Returns dx (N, D), dprev_h (N, H), dprev_c (N, H), dWx (D, 4H), dWh (H, 4H), db (4H,).
    """
    raise NotImplementedError


def lstm_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array):
    """An LSTM over a whole sequence: a step for each word. The cell state begins at 0::

        h[:, t], c = lstm_step(x[:, t], h[:, t - 1], c)    from h0 and c = 0

    Inputs:
    - x: (N, T, D)
    - h0: (N, H) hidden state before the first step
    - Wx: (D, 4H), Wh: (H, 4H), b: (4H,), blocks in the order i, f, o, g

    Returns h (N, T, H), the hidden state after each step, and a cache.
    """
    raise NotImplementedError


def lstm_backward(dh: Array, cache):
    """Gradients of ``lstm_forward``: back-propagation through time.

    Inputs:
    - dh: (N, T, H) gradient that reaches each h[:, t] from the layer above; what reaches it
      through the later steps is not in it
    - cache: from ``lstm_forward``

    Returns dx (N, T, D), dh0 (N, H), dWx (D, 4H), dWh (H, 4H), db (4H,).
    """
    raise NotImplementedError


# == attention
# Letters: N batch, T time steps, L locations of the image, C channels of a location, H hidden
# width, K attention width, W word-vector width.


def attend_forward(features: Array, keys: Array, query: Array, v: Array):
    """Where to look: compares a query with the key of each location::

        scores  = v . tanh(keys + query)               one score per location
        weights = softmax(scores)                      over the locations
        context = sum over l of weights_l features_l

    Inputs:
    - features: (N, L, C)
    - keys: (N, L, K)
    - query: (N, K), the same for all locations of an image
    - v: (K,)

    Returns context (N, C), weights (N, L) and a cache.
    """
    raise NotImplementedError


def attend_backward(dcontext: Array, dweights: Array, cache):
    """Gradients of ``attend_forward``.

    Inputs:
    - dcontext: (N, C)
    - dweights: (N, L) gradient that reaches the weights from outside of this function
    - cache: from ``attend_forward``

    Returns dfeatures (N, L, C), dkeys (N, L, K), dquery (N, K), dv (K,).
    """
    raise NotImplementedError


def additive_attention_forward(features: Array, h: Array, Wf: Array, Wh: Array, b: Array, v: Array):
    """Additive attention of a state: ``attend`` with projected keys and a projected query::

        keys  = features Wf + b
        query = h Wh

    Inputs:
    - features: (N, L, C) one vector per location of the image
    - h: (N, H) state of the decoder
    - Wf: (C, K), Wh: (H, K), b: (K,), v: (K,)

    Returns context (N, C), weights (N, L) and a cache.
    """
    raise NotImplementedError


def additive_attention_backward(dcontext: Array, dweights: Array, cache):
    """Gradients of ``additive_attention_forward``.

    Inputs:
    - dcontext: (N, C)
    - dweights: (N, L) gradient that reaches the weights from outside of this function
    - cache: from ``additive_attention_forward``

    Returns dfeatures (N, L, C), dh (N, H), dWf (C, K), dWh (H, K), db (K,), dv (K,).
    """
    raise NotImplementedError


def context_gate_forward(context: Array, h: Array, W: Array, b: Array):
    """How much of the context to read: ``out = sigmoid(h W + b) * context``.

    Inputs:
    - context: (N, C)
    - h: (N, H)
    - W: (H, C), b: (C,)

    Returns out (N, C) and a cache.
    """
    raise NotImplementedError


def context_gate_backward(dout: Array, cache):
    """Gradients of ``context_gate_forward``.

    Inputs:
    - dout: (N, C)
    - cache: from ``context_gate_forward``

    Returns dcontext (N, C), dh (N, H), dW (H, C), db (C,).
    """
    raise NotImplementedError


def attention_lstm_step_forward(
    word: Array, features: Array, keys: Array, prev_h: Array, prev_c: Array,
    W_query: Array, v_attend: Array, W_gate: Array, b_gate: Array,
    Wx: Array, Wh: Array, b: Array,
):  # fmt: skip
    """One word of the decoder that looks before each step::

        query            = [prev_h, word] W_query
        context, weights = attend(features, keys, query; v_attend)
        gated            = sigmoid(prev_h W_gate + b_gate) * context
        next_h, next_c   = lstm_step([word, gated], prev_h, prev_c; Wx, Wh, b)

    [a, b] puts b after a along the last axis.

    Inputs:
    - word: (N, W) vector of the word before
    - features: (N, L, C), keys: (N, L, K)
    - prev_h, prev_c: (N, H)
    - W_query: (H + W, K), v_attend: (K,)
    - W_gate: (H, C), b_gate: (C,)
    - Wx: (W + C, 4H), Wh: (H, 4H), b: (4H,)

    Returns next_h (N, H), next_c (N, H), gated (N, C), weights (N, L) and a cache.
    """
    raise NotImplementedError


def attention_lstm_step_backward(
    dnext_h: Array, dnext_c: Array, dgated: Array, dweights: Array, cache
):
    """Gradients of ``attention_lstm_step_forward``.

    Inputs:
    - dnext_h, dnext_c: (N, H)
    - dgated: (N, C), dweights: (N, L) gradients that reach them from outside of this function
    - cache: from ``attention_lstm_step_forward``

    Returns dword, dfeatures, dkeys, dprev_h, dprev_c, dW_query, dv_attend, dW_gate, db_gate, dWx,
    dWh, db, each of the shape of its namesake.
    """
    raise NotImplementedError


def attention_lstm_forward(
    words: Array, features: Array, h0: Array, c0: Array,
    W_features: Array, W_query: Array, b_attend: Array, v_attend: Array,
    W_gate: Array, b_gate: Array, Wx: Array, Wh: Array, b: Array,
):  # fmt: skip
    """The decoder over a whole sequence: a step for each word, all with the same keys::

        keys = features W_features + b_attend
        h[:, t], c, gated[:, t], weights[:, t] = attention_lstm_step(
            words[:, t], features, keys, h[:, t - 1], c, ...)    from h0 and c0

    Inputs:
    - words: (N, T, W) vectors of the words read
    - features: (N, L, C)
    - h0, c0: (N, H) states before the first step
    - W_features: (C, K), b_attend: (K,)
    - W_query, v_attend, W_gate, b_gate, Wx, Wh, b: as for ``attention_lstm_step_forward``

    Returns, of each step, h (N, T, H), gated (N, T, C) and weights (N, T, L); and a cache.
    """
    raise NotImplementedError


def attention_lstm_backward(dh: Array, dgated: Array, dweights: Array, cache):
    """Gradients of ``attention_lstm_forward``: back-propagation through time.

    Inputs:
    - dh: (N, T, H), dgated: (N, T, C), dweights: (N, T, L) gradients that reach each step from
      the layer above; the last cell state has none
    - cache: from ``attention_lstm_forward``

    Returns dwords, dfeatures, dh0, dc0, dW_features, dW_query, db_attend, dv_attend, dW_gate,
    db_gate, dWx, dWh, db, each of the shape of its namesake.
    """
    raise NotImplementedError


def doubly_stochastic_loss(weights: Array, mask: Array, strength: float):
    """Asks the attention to look at every location once over the caption::

        loss = strength / N  sum over n, l of  (1 - sum over t of mask[n, t] weights[n, t, l])^2

    Inputs:
    - weights: (N, T, L)
    - mask: (N, T) booleans: steps that are False (padding) do not count
    - strength: a number

    Returns the loss, a number, and its gradient dweights (N, T, L).
    """
    raise NotImplementedError


# == heads
# Letters: N batch, T queries, S keys and values, E model width, h heads (no hidden state),
# d = E / h width of a head.


def scaled_dot_product_attention_forward(q: Array, k: Array, v: Array, mask: Array | None = None):
    """Each query reads the values whose keys it agrees with::

        scores  = q k^T / sqrt(d)
        weights = softmax(scores)      over the S keys that the mask allows; the others get 0
        out     = weights v

    Inputs:
    - q: (N, h, T, d)
    - k, v: (N, h, S, d)
    - mask: booleans that broadcast to (N, h, T, S), True = may attend; None allows everything. A
      query that may attend to nothing has weights of 0 alone, so it reads 0.

    Returns out (N, h, T, d) and a cache.
    """
    raise NotImplementedError


def scaled_dot_product_attention_backward(dout: Array, cache):
    """Gradients of ``scaled_dot_product_attention_forward``.

    Inputs:
    - dout: (N, h, T, d)
    - cache: from ``scaled_dot_product_attention_forward``

    Returns dq (N, h, T, d), dk (N, h, S, d), dv (N, h, S, d).
    """
    raise NotImplementedError


def multi_head_attention_forward(
    query: Array, key: Array, value: Array,
    Wq: Array, bq: Array, Wk: Array, bk: Array, Wv: Array, bv: Array, Wo: Array, bo: Array,
    num_heads: int, mask: Array | None = None,
):  # fmt: skip
    """Attention with h heads, each on d channels of its own::

        q, k, v = query Wq + bq, key Wk + bk, value Wv + bv
        out     = [head_1, ..., head_h] Wo + bo, where head_i = attention(q_i, k_i, v_i)

    q_i, k_i and v_i are the channels from (i - 1) d to i d.

    Inputs:
    - query: (N, T, E)
    - key, value: (N, S, E); for self-attention the same array as query
    - Wq, Wk, Wv, Wo: (E, E), bq, bk, bv, bo: (E,)
    - num_heads: h, divides E
    - mask: booleans, True = may attend: (T, S) for all, (N, T, S) for each image, or anything that
      broadcasts to (N, h, T, S); None allows everything

    Returns out (N, T, E) and a cache.
    """
    raise NotImplementedError


def multi_head_attention_backward(dout: Array, cache):
    """Gradients of ``multi_head_attention_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``multi_head_attention_forward``

    Returns dquery, dkey, dvalue, dWq, dbq, dWk, dbk, dWv, dbv, dWo, dbo, each of the shape of its
    namesake.
    """
    raise NotImplementedError


# == transformer
# Letters: N batch, T time steps, S locations of the image, E model width, F inner width of the
# feed-forward layer.


def layer_norm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5):
    """Mean 0 and variance 1 over the last axis, then a scale and a shift of each channel::

        normal = (x - mean(x)) / sqrt(var(x) + eps)
        out    = gamma * normal + beta

    var is the mean of the squared distances from the mean (divided by E, not E - 1).

    Inputs:
    - x: (..., E)
    - gamma, beta: (E,)
    - eps: keeps a constant row from a division by 0

    Returns out (..., E) and a cache.
    """
    raise NotImplementedError


def layer_norm_backward(dout: Array, cache):
    """Gradients of ``layer_norm_forward``.

    Inputs:
    - dout: (..., E)
    - cache: from ``layer_norm_forward``

    Returns dx (..., E), dgamma (E,), dbeta (E,).
    """
    raise NotImplementedError


def feed_forward_forward(
    x: Array, W1: Array, b1: Array, W2: Array, b2: Array, activation: str = "relu"
):
    """Two affine layers with a nonlinearity f between, at each position: ``f(x W1 + b1) W2 + b2``.

    ::

        relu(a) = max(a, 0)
        gelu(a) = a Phi(a), with the normal distribution's Phi(a) = (1 + erf(a / sqrt(2))) / 2

    NumPy has no erf: ``from core.support.erf import erf``.

    Inputs:
    - x: (N, T, E)
    - W1: (E, F), b1: (F,)
    - W2: (F, E), b2: (E,)
    - activation: 'relu' or 'gelu'

    Returns out (N, T, E) and a cache.
    """
    raise NotImplementedError


def feed_forward_backward(dout: Array, cache):
    """Gradients of ``feed_forward_forward``, for both activations.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``feed_forward_forward``

    Returns dx (N, T, E), dW1 (E, F), db1 (F,), dW2 (F, E), db2 (E,).
    """
    raise NotImplementedError


def dropout_forward(x: Array, p: float, rng: np.random.Generator | None, train: bool = True):
    """Inverted dropout: sets entries to 0 at random, and multiplies the others by 1 / (1 - p).

    An entry is dropped where ``rng.random(x.shape, dtype=np.float32) < p``: draw so, once, and the
    check sees the same mask.

    Inputs:
    - x: array of any shape
    - p: probability to DROP an entry, 0 <= p < 1
    - rng: draws the mask; may be None when nothing is dropped
    - train: False (inference) passes x through; so does p = 0, and neither draws

    Returns out, of the shape of x, and a cache.
    """
    raise NotImplementedError


def dropout_backward(dout: Array, cache):
    """Gradient of ``dropout_forward``.

    Inputs:
    - dout: the shape of x
    - cache: from ``dropout_forward``

    Returns dx, of the shape of x.
    """
    raise NotImplementedError


def positional_encoding(length: int, width: int):
    """Sines and cosines that tell the positions t = 0, 1, 2, ... apart::

        out[t, 2i]     = sin(t / 10000^(2i / width))
        out[t, 2i + 1] = cos(t / 10000^(2i / width))

    width is even.

    Returns (length, width) float64.
    """
    raise NotImplementedError


def decoder_block_forward(
    x: Array,
    memory: Array,
    params: dict[str, Array],
    num_heads: int,
    mask: Array | None = None,
    norm_first: bool = True,
    activation: str = "relu",
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    train: bool = True,
):
    """Self-attention, cross-attention, feed-forward, one after the other on a residual stream.

    Each of the three sublayers changes x, with a norm of its own. One function of your own for
    what they have in common, and one for its way back, keep this short::

        x = x + dropout(sublayer(norm(x)))     when norm_first
        x = norm(x + dropout(sublayer(x)))     else

    - self-attention: query, key and value are all what it reads of x, with the mask; norm1
    - cross-attention: query is what it reads of x, key and value are memory; no mask; norm2
    - feed-forward, with the activation; norm3

    Inputs:
    - x: (N, T, E)
    - memory: (N, S, E), the image
    - params: norm1.gamma, norm1.beta (E,); self.Wq, self.Wk, self.Wv, self.Wo (E, E), self.bq,
      self.bv, self.bo (E,); norm2.gamma, norm2.beta (E,); cross.Wq and so on, as for self;
      norm3.gamma, norm3.beta (E,); feed_forward.W1 (E, F), .b1 (F,), .W2 (F, E), .b2 (E,). Keys
      have no bias: take zeros.
    - num_heads: divides E
    - mask: of self-attention, as for ``multi_head_attention_forward``
    - dropout, rng, train: as p, rng and train of ``dropout_forward``

    Returns out (N, T, E) and a cache.
    """
    raise NotImplementedError


def decoder_block_backward(dout: Array, cache):
    """Gradients of ``decoder_block_forward``.

    Inputs:
    - dout: (N, T, E)
    - cache: from ``decoder_block_forward``

    Returns dx (N, T, E), dmemory (N, S, E) and a dict with the gradient of each entry of params,
    under the same name.
    """
    raise NotImplementedError


# == decoding
# A decoder is all that these know of a model:
#     model.begin(features)      -> state                     encodes the images once
#     model.step(state, tokens)  -> log_probs (n, V), state   one more word per row
#     model.select(state, rows)  -> state                     reorders, repeats or drops rows
#     model.null, .start, .end, .unknown                      ids of the special words, or None
#     model.max_length                                        words it has positions for; None: any
# A caption never has null or start in it, nor, unless it is allowed, unknown. It takes at most
# max_length words, end included, and no more than model.max_length. After end come nulls.


def greedy(model, features: Array, max_length: int = 30, allow_unknown: bool = False):
    """The most probable word at every step, until end; of equals, the one with the lower id.

    Inputs:
    - model: a decoder, as above
    - features: (N, ...) one image per row
    - max_length: number of words at most, end included
    - allow_unknown: whether unknown may be chosen

    Returns (N, max_length) integer word ids.
    """
    raise NotImplementedError


def beam_search(
    model,
    features: Array,
    beam_size: int = 5,
    max_length: int = 30,
    length_penalty: float = 1.0,
    n_best: int = 1,
    allow_unknown: bool = False,
):
    """The best captions found when the beam_size best beginnings are kept at every word.

    A caption's score is its log-probability / (number of words, end included) ** length_penalty.
    Beginnings are compared by their log-probability; of equals, that of the better beginning comes
    first, then the lower id, as a stable sort has it. Of the beam_size best at a word, those that
    end are finished, and the others stay open; what has a probability of 0 is neither. The search
    for an image ends when none is open, or when no open one could still beat the n_best-th finished
    one: the best that it can become is its log-probability / (largest length) ** length_penalty.

    Inputs, besides those of ``greedy``:
    - beam_size: beginnings kept per image; 1 is greedy
    - length_penalty: at least 0
    - n_best: captions returned per image, at most beam_size

    Returns, best first, captions (N, n_best, max_length) integer ids and scores (N, n_best)
    float64. Where fewer have finished, the others are nulls with score -inf; where none has, the
    first is the best beginning of full length, with its score.
    """
    raise NotImplementedError
