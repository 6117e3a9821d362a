"""The equation that a hint points to: for each function, which quantity comes from which line."""

# ruff: noqa: E501 (an equation a line)

from __future__ import annotations

_GATES = "i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o); g = tanh(a_g)"
_AFFINE = "out = x w + b"
_STEP = "a = x Wx + prev_h Wh + b"
_ATTEND = "scores = v . tanh(keys + query); weights = softmax(scores)"
_HEADS = "q, k, v = query Wq + bq, key Wk + bk, value Wv + bv, each cut into heads (N, h, T, d)"
_SCORES = "scores = q k^T / sqrt(d); weights = softmax(scores), over the keys that the mask allows"
_LSTM = "next_c = f * prev_c + i * g; next_h = o * tanh(next_c)"

# name of the function without its way -> the equation of each output, and of each input
EQUATIONS: dict[str, dict[str, str]] = {
    "affine": {"": "out = x.reshape(N, D) w + b"},
    "temporal_affine": {"": "out[n, t] = x[n, t] w + b"},
    "word_embedding": {"": "out[n, t] = W[x[n, t]]"},
    "temporal_softmax_loss": {
        "": "loss = -1/N sum over n, t of mask[n, t] log softmax(x[n, t])[y[n, t]]"
    },
    "dropout": {"": "out = x * mask, where mask is 0 with probability p, else 1 / (1 - p)"},
    "rnn_step": {"": f"{_STEP}; next_h = tanh(a)"},
    "rnn": {"": "h[:, t] = tanh(x[:, t] Wx + h[:, t - 1] Wh + b), from h0"},
    "lstm_step": {
        "": f"{_STEP}, in the blocks i, f, o, g",
        "next_h": f"{_GATES}; {_LSTM}",
        "next_c": f"{_GATES}; {_LSTM}",
        "prev_c": "next_c = f * prev_c + i * g",
    },
    "lstm": {"": "h[:, t], c = lstm_step(x[:, t], h[:, t - 1], c), from h0 and c = 0"},
    "attend": {"": _ATTEND, "context": "context = sum over l of weights_l features_l",
               "features": "context = sum over l of weights_l features_l"},
    "additive_attention": {
        "": f"keys = features Wf + b, query = h Wh; {_ATTEND}",
        "context": "context = sum over l of weights_l features_l",
        "features": "context = sum of weights_l features_l, and keys = features Wf + b: two readers",
        "v": _ATTEND,
    },
    "context_gate": {"": "out = sigmoid(h W + b) * context"},
    "attention_lstm_step": {
        "": f"[word, gated] -> {_STEP}; {_LSTM}",
        "W_query": "query = [prev_h, word] W_query", "v_attend": _ATTEND,
        "weights": _ATTEND, "features": "context = sum over l of weights_l features_l",
        "keys": _ATTEND, "W_gate": "gated = sigmoid(prev_h W_gate + b_gate) * context",
        "b_gate": "gated = sigmoid(prev_h W_gate + b_gate) * context",
        "gated": "gated = sigmoid(prev_h W_gate + b_gate) * context",
        "prev_h": "the query, the gate and the LSTM read prev_h: three readers",
        "word": "the query and the LSTM read word: two readers",
        "prev_c": "next_c = f * prev_c + i * g",
    },
    "attention_lstm": {"": "keys = features W_features + b_attend; then a step for each word"},
    "doubly_stochastic_loss": {
        "": "loss = strength / N sum over n, l of (1 - sum over t of mask[n, t] weights[n, t, l])^2"
    },
    "layer_norm": {
        "": "normal = (x - mean(x)) / sqrt(var(x) + eps); out = gamma * normal + beta"
    },
    "feed_forward": {"": "out = f(x W1 + b1) W2 + b2"},
    "scaled_dot_product_attention": {"": f"{_SCORES}; out = weights v", "v": "out = weights v"},
    "multi_head_attention": {
        "": f"{_HEADS}; {_SCORES}; heads = weights v; out = [heads] Wo + bo",
        "Wo": "out = [head_1, ..., head_h] Wo + bo", "bo": "out = [head_1, ..., head_h] Wo + bo",
    },
    "decoder_block": {
        "": "x = x + sublayer(norm(x)) three times: self-attention, cross-attention, feed-forward"
    },
    "sgd": {"": "w = w - learning_rate * dw"},
    "sgd_momentum": {"": "velocity = momentum * velocity + dw; w = w - learning_rate * velocity"},
    "rmsprop": {
        "": "cache = decay_rate * cache + (1 - decay_rate) * dw^2; "
        "w = w - learning_rate * dw / (sqrt(cache) + epsilon)"
    },
    "adam": {
        "": "m = beta1 m + (1 - beta1) dw; v = beta2 v + (1 - beta2) dw^2; "
        "m_hat = m / (1 - beta1^t); v_hat = v / (1 - beta2^t); "
        "w = w - learning_rate * m_hat / (sqrt(v_hat) + epsilon)"
    },
    "adamw": {"": "w = w (1 - learning_rate * weight_decay), then the step of Adam"},
    "clip_gradient_norm": {
        "": "all gradients times max_norm / (norm + 1e-6) where that is below 1; norm is that of all"
    },
    "positional_encoding": {
        "": "out[p, 2i] = sin(p / 10000^(2i / width)); out[p, 2i + 1] = cos(p / 10000^(2i / width))"
    },
    "greedy": {"": "the most probable word at every step, until <END>"},
    "beam_search": {
        "": "score = log-probability / (number of words, <END> included)^length_penalty"
    },
}  # fmt: skip


def _base(name: str) -> str:
    return name.removesuffix("_forward").removesuffix("_backward")


def line_of(name: str, quantity: str) -> str:
    """The equation that makes a quantity of a function, or ''.

    ``quantity`` is an output, or the gradient of an input, with its d.
    """
    lines = EQUATIONS.get(_base(name), {})
    return lines.get(quantity) or lines.get(quantity.removeprefix("d")) or lines.get("", "")


def equation_of(name: str, quantity: str) -> str:
    """A sentence with the equation."""
    line = line_of(name, quantity)
    if not line:
        return f"read the equations of {name.replace('_backward', '_forward')} again"
    if quantity == "-" or not name.endswith("_backward"):
        return f"the equation of the forward: {line}"
    return f"{quantity} comes from this line of the forward: {line}"


def through_time(name: str) -> bool:
    """Whether a function goes through a sequence step by step."""
    return f"{_base(name)}_step" in EQUATIONS
