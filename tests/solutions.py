"""A learner's file with every function of the workbook in it, written from the equations alone.

It imports nothing of ``core``, and its caches are its own: tests put it in the place of ours.
"""

import math

import numpy as np

# -- affine, embedding, loss -------------------------------------------------------------------


def affine_forward(x, w, b):
    rows = x.reshape(x.shape[0], -1)
    return rows @ w + b, {"rows": rows, "shape": x.shape, "w": w}


def affine_backward(dout, cache):
    dx = dout @ cache["w"].T
    return dx.reshape(cache["shape"]), cache["rows"].T @ dout, dout.sum(0)


def temporal_affine_forward(x, w, b):
    return x @ w + b, {"x": x, "w": w}


def temporal_affine_backward(dout, cache):
    x, w = cache["x"], cache["w"]
    return dout @ w.T, np.einsum("ntd,ntm->dm", x, dout), dout.sum((0, 1))


def word_embedding_forward(x, W):
    return W[x], {"words": x, "V": W.shape[0]}


def word_embedding_backward(dout, cache):
    dW = np.zeros((cache["V"], dout.shape[-1]), dout.dtype)
    for word, row in zip(cache["words"].ravel(), dout.reshape(-1, dout.shape[-1]), strict=True):
        dW[word] += row
    return dW


def temporal_softmax_loss(x, y, mask, verbose=False):
    N, T, V = x.shape
    counted = np.asarray(mask).reshape(N * T) != 0
    weight = np.asarray(mask).reshape(N * T)[counted].astype(x.dtype)
    scores, words = x.reshape(N * T, V)[counted], np.asarray(y).reshape(N * T)[counted]
    p = _softmax(scores)
    rows = np.arange(len(words))
    shifted = scores - scores.max(1, keepdims=True)
    log_p = shifted[rows, words] - np.log(np.exp(shifted).sum(1))
    loss = -(weight * log_p).sum() / N
    p[rows, words] -= 1
    dx = np.zeros((N * T, V), x.dtype)
    dx[counted] = p * weight[:, None] / N
    if verbose:
        print("dx", dx.shape)
    return loss, dx.reshape(N, T, V)


def _softmax(scores):
    """Over the last axis; a row of -inf alone becomes zeros."""
    top = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total > 0, total, 1)


def _softmax_backward(dp, p):
    return p * dp - p * (p * dp).sum(-1, keepdims=True)


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


# -- update rules ------------------------------------------------------------------------------


def sgd(w, dw, config=None):
    config = {} if config is None else config
    config.setdefault("learning_rate", 1e-2)
    return w - config["learning_rate"] * dw, config


def sgd_momentum(w, dw, config=None):
    config = {} if config is None else config
    config.setdefault("learning_rate", 1e-2)
    config.setdefault("momentum", 0.9)
    config["velocity"] = config["momentum"] * config.get("velocity", np.zeros_like(w)) + dw
    return w - config["learning_rate"] * config["velocity"], config


def rmsprop(w, dw, config=None):
    config = {} if config is None else config
    for name, value in (("learning_rate", 1e-2), ("decay_rate", 0.99), ("epsilon", 1e-8)):
        config.setdefault(name, value)
    old, rate = config.get("cache", np.zeros_like(w)), config["decay_rate"]
    config["cache"] = rate * old + (1 - rate) * dw * dw
    return w - config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"]), config


def adam(w, dw, config=None):
    config = {} if config is None else config
    for name, value in (("learning_rate", 1e-3), ("beta1", 0.9), ("beta2", 0.999), ("t", 0)):
        config.setdefault(name, value)
    config.setdefault("epsilon", 1e-8)
    config["t"] += 1
    b1, b2, t = config["beta1"], config["beta2"], config["t"]
    config["m"] = b1 * config.get("m", np.zeros_like(w)) + (1 - b1) * dw
    config["v"] = b2 * config.get("v", np.zeros_like(w)) + (1 - b2) * dw * dw
    mean, square = config["m"] / (1 - b1**t), config["v"] / (1 - b2**t)
    return w - config["learning_rate"] * mean / (np.sqrt(square) + config["epsilon"]), config


def adamw(w, dw, config=None):
    config = {} if config is None else config
    config.setdefault("learning_rate", 1e-3)
    config.setdefault("weight_decay", 1e-2)
    smaller = w - config["learning_rate"] * config["weight_decay"] * w
    return adam(smaller, dw, config)


def clip_gradient_norm(grads, max_norm):
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values()))
    if norm + 1e-6 <= max_norm:
        return dict(grads), norm
    return {name: g * (max_norm / (norm + 1e-6)) for name, g in grads.items()}, norm


# -- vanilla RNN -------------------------------------------------------------------------------


def rnn_step_forward(x, prev_h, Wx, Wh, b):
    h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return h, (h, x, prev_h, Wx, Wh)


def rnn_step_backward(dnext_h, cache):
    h, x, prev_h, Wx, Wh = cache
    da = dnext_h - dnext_h * h * h
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(0)


def rnn_forward(x, h0, Wx, Wh, b):
    states, caches = [h0], []
    for t in range(x.shape[1]):
        h, cache = rnn_step_forward(x[:, t], states[-1], Wx, Wh, b)
        states.append(h)
        caches.append(cache)
    return np.stack(states[1:], 1), caches


def rnn_backward(dh, cache):
    def step_backward(dh_t, _, step_cache):  # no cell state, so its gradient is 0
        dx, dprev_h, *dweights = rnn_step_backward(dh_t, step_cache)
        return dx, dprev_h, 0, *dweights

    return _through_time(dh, cache, step_backward)


def _through_time(dh, caches, step_backward):
    dprev_h, dprev_c = np.zeros_like(dh[:, 0]), np.zeros_like(dh[:, 0])
    dx, sums = [], None
    for t in range(len(caches) - 1, -1, -1):
        dx_t, dprev_h, dprev_c, *dweights = step_backward(dh[:, t] + dprev_h, dprev_c, caches[t])
        dx = [dx_t, *dx]
        sums = dweights if sums is None else [a + b for a, b in zip(sums, dweights, strict=True)]
    return np.stack(dx, 1), dprev_h, *sums


# -- LSTM --------------------------------------------------------------------------------------


def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    H = prev_h.shape[1]
    a = x @ Wx + prev_h @ Wh + b
    gates = _sigmoid(a[:, : 3 * H])
    i, f, o, g = gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H :], np.tanh(a[:, 3 * H :])
    c = f * prev_c + i * g
    h = o * np.tanh(c)
    return h, c, {"gates": (i, f, o, g), "c": c, "read": (x, prev_h, prev_c), "W": (Wx, Wh)}


def lstm_step_backward(dnext_h, dnext_c, cache):
    (i, f, o, g), tanh_c = cache["gates"], np.tanh(cache["c"])
    (x, prev_h, prev_c), (Wx, Wh) = cache["read"], cache["W"]
    dc = dnext_c + dnext_h * o * (1 - tanh_c * tanh_c)
    da = np.hstack(
        [
            dc * g * i * (1 - i),
            dc * prev_c * f * (1 - f),
            dnext_h * tanh_c * o * (1 - o),
            dc * i * (1 - g * g),
        ]
    )
    return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, prev_h.T @ da, da.sum(0)


def lstm_forward(x, h0, Wx, Wh, b):
    h, c, states, caches = h0, np.zeros_like(h0), [], []
    for t in range(x.shape[1]):
        h, c, cache = lstm_step_forward(x[:, t], h, c, Wx, Wh, b)
        states.append(h)
        caches.append(cache)
    return np.stack(states, 1), caches


def lstm_backward(dh, cache):
    return _through_time(dh, cache, lstm_step_backward)


# -- soft attention ----------------------------------------------------------------------------


def attend_forward(features, keys, query, v):
    hidden = np.tanh(keys + query[:, None, :])
    weights = _softmax(hidden @ v)
    context = np.einsum("nl,nlc->nc", weights, features)
    return context, weights, (hidden, weights, features, v)


def attend_backward(dcontext, dweights, cache):
    hidden, weights, features, v = cache
    dscores = _softmax_backward(dweights + np.einsum("nc,nlc->nl", dcontext, features), weights)
    dhidden = dscores[..., None] * v * (1 - hidden * hidden)
    dfeatures = weights[..., None] * dcontext[:, None, :]
    return dfeatures, dhidden, dhidden.sum(1), np.einsum("nl,nlk->k", dscores, hidden)


def additive_attention_forward(features, h, Wf, Wh, b, v):
    context, weights, inner = attend_forward(features, features @ Wf + b, h @ Wh, v)
    return context, weights, {"inner": inner, "features": features, "h": h, "Wf": Wf, "Wh": Wh}


def additive_attention_backward(dcontext, dweights, cache):
    features, h = cache["features"], cache["h"]
    dfeatures, dkeys, dquery, dv = attend_backward(dcontext, dweights, cache["inner"])
    dWf = np.einsum("nlc,nlk->ck", features, dkeys)
    dfeatures = dfeatures + dkeys @ cache["Wf"].T
    return dfeatures, dquery @ cache["Wh"].T, dWf, h.T @ dquery, dkeys.sum((0, 1)), dv


def context_gate_forward(context, h, W, b):
    gate = _sigmoid(h @ W + b)
    return context * gate, (gate, context, h, W)


def context_gate_backward(dout, cache):
    gate, context, h, W = cache
    da = dout * context * gate * (1 - gate)
    return dout * gate, da @ W.T, h.T @ da, da.sum(0)


def attention_lstm_step_forward(
    word, features, keys, prev_h, prev_c, W_query, v_attend, W_gate, b_gate, Wx, Wh, b
):
    asks = np.hstack([prev_h, word])
    context, weights, looked = attend_forward(features, keys, asks @ W_query, v_attend)
    gated, gate = context_gate_forward(context, prev_h, W_gate, b_gate)
    h, c, cell = lstm_step_forward(np.hstack([word, gated]), prev_h, prev_c, Wx, Wh, b)
    cache = {"asks": asks, "W_query": W_query, "looked": looked, "gate": gate, "cell": cell}
    return h, c, gated, weights, cache | {"W": word.shape[1]}


def attention_lstm_step_backward(dnext_h, dnext_c, dgated, dweights, cache):
    H, W = dnext_h.shape[1], cache["W"]
    dx, dprev_h, dprev_c, dWx, dWh, db = lstm_step_backward(dnext_h, dnext_c, cache["cell"])
    dcontext, dh_gate, dW_gate, db_gate = context_gate_backward(dgated + dx[:, W:], cache["gate"])
    dfeatures, dkeys, dquery, dv = attend_backward(dcontext, dweights, cache["looked"])
    dasks = dquery @ cache["W_query"].T
    dW_query = cache["asks"].T @ dquery
    dword, dprev_h = dx[:, :W] + dasks[:, H:], dprev_h + dh_gate + dasks[:, :H]
    dweights = (dW_query, dv, dW_gate, db_gate, dWx, dWh, db)
    return dword, dfeatures, dkeys, dprev_h, dprev_c, *dweights


def attention_lstm_forward(
    words, features, h0, c0, W_features, W_query, b_attend, v_attend, W_gate, b_gate, Wx, Wh, b
):
    keys = features @ W_features + b_attend
    h, c, found, caches = h0, c0, [], []
    for t in range(words.shape[1]):
        h, c, gated, weights, cache = attention_lstm_step_forward(
            words[:, t], features, keys, h, c, W_query, v_attend, W_gate, b_gate, Wx, Wh, b
        )
        found.append([h, gated, weights])
        caches.append(cache)
    h, gated, weights = (np.stack(each, 1) for each in zip(*found, strict=True))
    return h, gated, weights, (features, W_features, caches)


def attention_lstm_backward(dh, dgated, dweights, cache):
    features, W_features, caches = cache
    dprev_h, dprev_c, dwords, sums = np.zeros_like(dh[:, 0]), np.zeros_like(dh[:, 0]), [], None
    for t in range(len(caches) - 1, -1, -1):
        found = attention_lstm_step_backward(
            dh[:, t] + dprev_h, dprev_c, dgated[:, t], dweights[:, t], caches[t]
        )
        dword, dfeatures, dkeys, dprev_h, dprev_c, *rest = found
        dwords = [dword, *dwords]
        shared = [dfeatures, dkeys, *rest]
        sums = shared if sums is None else [a + b for a, b in zip(sums, shared, strict=True)]
    dfeatures, dkeys, dW_query, dv, *rest = sums
    dW_features = np.einsum("nlc,nlk->ck", features, dkeys)
    dfeatures = dfeatures + dkeys @ W_features.T
    of_attention = (dW_features, dW_query, dkeys.sum((0, 1)), dv)
    return np.stack(dwords, 1), dfeatures, dprev_h, dprev_c, *of_attention, *rest


def doubly_stochastic_loss(weights, mask, strength):
    counted = np.asarray(mask)[:, :, None].astype(weights.dtype)
    lacking = 1 - (weights * counted).sum(1, keepdims=True)
    part = float(strength) / len(weights)
    return part * (lacking**2).sum(), -2 * part * lacking * counted


# -- layer norm, dropout, feed-forward ---------------------------------------------------------


def layer_norm_forward(x, gamma, beta, eps=1e-5):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    std = np.sqrt(var + eps)
    normal = (x - mean) / std
    return gamma * normal + beta, {"normal": normal, "std": std, "gamma": gamma}


def layer_norm_backward(dout, cache):
    normal, std = cache["normal"], cache["std"]
    axes = tuple(range(dout.ndim - 1))
    d = dout * cache["gamma"]
    dx = (d - d.mean(-1, keepdims=True) - normal * (d * normal).mean(-1, keepdims=True)) / std
    return dx, (dout * normal).sum(axes), dout.sum(axes)


def dropout_forward(x, p, rng, train=True):
    if not train or p == 0:
        return x.copy(), np.ones((), x.dtype)
    scale = (rng.random(x.shape, dtype=np.float32) >= p) / np.asarray(1 - p, x.dtype)
    return x * scale.astype(x.dtype), scale.astype(x.dtype)


def dropout_backward(dout, cache):
    return dout * cache


def feed_forward_forward(x, W1, b1, W2, b2, activation="relu"):
    a = x @ W1 + b1
    if activation == "relu":
        inner, slope = np.where(a > 0, a, 0), (a > 0).astype(a.dtype)
    else:
        phi = (0.5 + 0.5 * _erf(a / math.sqrt(2))).astype(a.dtype)
        inner, slope = a * phi, phi + a * np.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    return inner @ W2 + b2, (x, inner, slope, W1, W2)


def feed_forward_backward(dout, cache):
    x, inner, slope, W1, W2 = cache
    da = dout @ W2.T * slope
    dW1, dW2 = np.einsum("nte,ntf->ef", x, da), np.einsum("ntf,nte->fe", inner, dout)
    return da @ W1.T, dW1, da.sum((0, 1)), dW2, dout.sum((0, 1))


_erf = np.vectorize(math.erf, otypes=[float])


# -- attention with many heads -----------------------------------------------------------------


def scaled_dot_product_attention_forward(q, k, v, mask=None):
    scores = q @ np.swapaxes(k, 2, 3) / math.sqrt(q.shape[3])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    p = _softmax(scores)
    return p @ v, {"p": p, "q": q, "k": k, "v": v}


def scaled_dot_product_attention_backward(dout, cache):
    p, q, k, v = (cache[name] for name in "pqkv")
    dscores = _softmax_backward(dout @ np.swapaxes(v, 2, 3), p) / math.sqrt(q.shape[3])
    return dscores @ k, np.swapaxes(dscores, 2, 3) @ q, np.swapaxes(p, 2, 3) @ dout


def _to_heads(x, h):
    N, T, E = x.shape
    return x.reshape(N, T, h, E // h).transpose(0, 2, 1, 3)


def _from_heads(x):
    N, h, T, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(N, T, h * d)


def multi_head_attention_forward(
    query, key, value, Wq, bq, Wk, bk, Wv, bv, Wo, bo, num_heads, mask=None
):
    if mask is not None and np.ndim(mask) == 3:
        mask = mask[:, None]
    q, k, v = query @ Wq + bq, key @ Wk + bk, value @ Wv + bv
    heads, inner = scaled_dot_product_attention_forward(
        *(_to_heads(each, num_heads) for each in (q, k, v)), mask
    )
    joined = _from_heads(heads)
    return joined @ Wo + bo, (num_heads, inner, joined, (query, key, value), (Wq, Wk, Wv, Wo))


def multi_head_attention_backward(dout, cache):
    num_heads, inner, joined, read, (*projections, Wo) = cache
    dheads = _to_heads(dout @ Wo.T, num_heads)
    found = scaled_dot_product_attention_backward(dheads, inner)
    dread, dweights = [], []
    for x, W, dhead in zip(read, projections, found, strict=True):
        d = _from_heads(dhead)
        dread.append(d @ W.T)
        dweights += [np.einsum("nte,ntf->ef", x, d), d.sum((0, 1))]
    dWo = np.einsum("nte,ntf->ef", joined, dout)
    return *dread, *dweights, dWo, dout.sum((0, 1))


def positional_encoding(length, width):
    table = np.zeros((length, width))
    for p in range(length):
        for j in range(width):
            angle = p / 10000 ** ((j - j % 2) / width)
            table[p, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return table


W_OF_FEED_FORWARD = ("W1", "b1", "W2", "b2")

# -- the decoder block -------------------------------------------------------------------------


def decoder_block_forward(
    x,
    memory,
    params,
    num_heads,
    mask=None,
    norm_first=True,
    activation="relu",
    dropout=0.0,
    rng=None,
    train=True,
):
    p, caches = params, []

    def attention(name, source=None):
        def run(y):
            other = y if source is None else source
            W = [p[f"{name}.{each}"] for each in ("Wq", "bq", "Wk", "Wv", "bv", "Wo", "bo")]
            W.insert(3, np.zeros_like(W[1]))  # keys have no bias
            allowed = mask if source is None else None
            return multi_head_attention_forward(y, other, other, *W, num_heads, allowed)

        return run

    def feed_forward(y):
        W = (p[f"feed_forward.{each}"] for each in W_OF_FEED_FORWARD)
        return feed_forward_forward(y, *W, activation)

    for number, layer in enumerate((attention("self"), attention("cross", memory), feed_forward)):
        norm = p[f"norm{number + 1}.gamma"], p[f"norm{number + 1}.beta"]
        y, normed = layer_norm_forward(x, *norm) if norm_first else (x, None)
        y, inner = layer(y)
        y, dropped = dropout_forward(y, dropout, rng, train)
        x = x + y
        if not norm_first:
            x, normed = layer_norm_forward(x, *norm)
        caches.append((normed, inner, dropped))
    return x, (norm_first, caches)


def decoder_block_backward(dout, cache):
    norm_first, caches = cache
    grads, dmemory, dx = {}, None, dout

    def attention(name):
        def run(dy, inner):
            dq, dk, dv, *dW = multi_head_attention_backward(dy, inner)
            names = ("Wq", "bq", "Wk", "bk", "Wv", "bv", "Wo", "bo")
            grads.update({f"{name}.{n}": d for n, d in zip(names, dW, strict=True) if n != "bk"})
            return dq, dk + dv

        return run

    def feed_forward(dy, inner):
        dy, *dW = feed_forward_backward(dy, inner)
        grads.update({f"feed_forward.{n}": d for n, d in zip(W_OF_FEED_FORWARD, dW, strict=True)})
        return dy, None

    layers = [attention("self"), attention("cross"), feed_forward]
    for number in (3, 2, 1):
        normed, inner, dropped = caches[number - 1]
        names = f"norm{number}.gamma", f"norm{number}.beta"
        if not norm_first:
            dx, *dnorm = layer_norm_backward(dx, normed)
        dy, dother = layers[number - 1](dropout_backward(dx, dropped), inner)
        if number == 1:
            dy = dy + dother  # the words are query, key and value
        elif number == 2:
            dmemory = dother
        if norm_first:
            dy, *dnorm = layer_norm_backward(dy, normed)
        dx = dx + dy
        grads.update(zip(names, dnorm, strict=True))
    return dx, dmemory, grads


# -- decoding ----------------------------------------------------------------------------------


def _allowed(model, log_probs, allow_unknown):
    log_probs = np.array(log_probs)
    for word in (model.null, model.start, None if allow_unknown else model.unknown):
        if word is not None:
            log_probs[:, word] = -np.inf
    return log_probs


def _steps(model, max_length):
    if model.start is None or model.end is None:
        raise ValueError("the vocabulary has no <START> or no <END>")
    if max_length < 1:
        raise ValueError("max_length must be at least 1")
    return max_length if model.max_length is None else min(max_length, model.max_length)


def greedy(model, features, max_length=30, allow_unknown=False):
    steps, N = _steps(model, max_length), len(features)
    captions = np.full((N, max_length), model.null)
    words, ended, state = np.full(N, model.start), np.zeros(N, bool), model.begin(features)
    for t in range(steps):
        log_probs, state = model.step(state, words)
        words = _allowed(model, log_probs, allow_unknown).argmax(1)
        captions[~ended, t] = words[~ended]
        ended |= words == model.end
        if ended.all():
            break
    return captions


def beam_search(
    model,
    features,
    beam_size=5,
    max_length=30,
    length_penalty=1.0,
    n_best=1,
    allow_unknown=False,
):
    steps, N = _steps(model, max_length), len(features)
    if beam_size < 1 or not 1 <= n_best <= beam_size or length_penalty < 0:
        raise ValueError("beam_size, n_best or length_penalty is out of range")
    captions = np.full((N, n_best, max_length), model.null)
    scores = np.full((N, n_best), -np.inf)
    for n in range(N):
        finished, beams, log_p = [], [[]], np.zeros(1)
        state, words = model.begin(features[n : n + 1]), np.array([model.start])
        for t in range(steps):
            log_probs, state = model.step(state, words)
            total = log_p[:, None] + _allowed(model, log_probs, allow_unknown)
            best = np.argsort(-total.ravel(), kind="stable")[:beam_size]
            best = best[np.isfinite(total.ravel()[best])]
            grown = [(total.ravel()[i], *divmod(int(i), total.shape[1])) for i in best]
            for score, row, word in grown:
                if word == model.end:
                    finished.append((score / (t + 1) ** length_penalty, [*beams[row], word]))
            finished = sorted(finished, key=lambda each: -each[0])[:n_best]
            going = [each for each in grown if each[2] != model.end]
            beams = [[*beams[row], word] for _, row, word in going]
            log_p = np.array([score for score, _, _ in going])
            beaten = finished[-1][0] if len(finished) == n_best else -np.inf
            if not going or log_p.max() / steps**length_penalty <= beaten:
                break
            state = model.select(state, np.array([row for _, row, _ in going]))
            words = np.array([word for _, _, word in going])
        if not finished:
            first = int(log_p.argmax())
            finished = [(log_p[first] / steps**length_penalty, beams[first])]
        for k, (score, said) in enumerate(finished):
            scores[n, k], captions[n, k, : len(said)] = score, said
    return captions, scores
