"""Typical slips, each in a function as a learner writes it, and what the first hint must say.

Not the slips of ``core/gradient_check/slips``: these are whole functions of other hands, of which a
line is wrong.
"""

# ruff: noqa: E501 (a slip a line)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core import decoding
from core import layers as ours
from core import transformer_layers as layers
from core.gradient_check import check
from core.gradient_check.diagnosis import diagnose
from core.gradient_check.report import first_wrong
from core.gradient_check.slips.choices import LOOPS as RULES
from core.gradient_check.slips.parts import changed_parts
from core.gradient_check.slips.tables import right_formulas

AFFINE = """
def affine_backward(dout, cache):
    x, w = cache
    flat = x.reshape(x.shape[0], -1)
    dx = dout.dot(w.T).reshape(x.shape)
    dw = flat.T.dot(dout)
    db = np.sum(dout, axis=0)
    return dx, dw, db
"""
TEMPORAL = """
def temporal_affine_backward(dout, cache):
    x, w = cache
    N, T, D = x.shape
    d2 = dout.reshape(N * T, -1)
    dx = d2.dot(w.T).reshape(N, T, D)
    dw = x.reshape(N * T, D).T.dot(d2)
    db = d2.sum(0)
    return dx, dw, db
"""
EMBEDDING = """
def word_embedding_backward(dout, cache):
    words, table = cache
    dW = np.zeros_like(table)
    for n in range(words.shape[0]):
        for t in range(words.shape[1]):
            dW[words[n, t]] += dout[n, t]
    return dW
"""
LOSS = """
def temporal_softmax_loss(x, y, mask):
    N, T, V = x.shape
    e = np.exp(x - x.max(axis=2, keepdims=True))
    p = e / e.sum(axis=2, keepdims=True)
    n, t = np.indices((N, T))
    loss = -np.sum(mask * np.log(p[n, t, y])) / N
    d = p.copy()
    d[n, t, y] -= 1
    d *= mask[:, :, None]
    d /= N
    return loss, d
"""
RNN = """
def rnn_step_backward(dout, cache):
    x, hp, Wx, Wh, h = cache
    dz = dout * (1 - h * h)
    dx = dz.dot(Wx.T)
    dhp = dz.dot(Wh.T)
    dWx = x.T.dot(dz)
    dWh = hp.T.dot(dz)
    db = np.sum(dz, axis=0)
    return dx, dhp, dWx, dWh, db
"""
RNN_FORWARD = """
def rnn_step_forward(x, hp, Wx, Wh, b):
    z = x.dot(Wx) + hp.dot(Wh) + b
    h = np.tanh(z)
    return h, None
"""
BPTT = """
def rnn_backward(dh, cache):
    x, h0, Wx, Wh, b, steps = cache
    N, T, H = dh.shape
    dx = np.zeros_like(x)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(b)
    back = np.zeros_like(h0)
    for t in range(T - 1, -1, -1):
        xt, hp, _, _, h = steps[t]
        total = dh[:, t] + back
        dz = total * (1 - h ** 2)
        dx[:, t] = dz @ Wx.T
        back = dz @ Wh.T
        dWx += xt.T @ dz
        dWh += hp.T @ dz
        db += dz.sum(0)
    return dx, back, dWx, dWh, db
"""
LSTM = """
def lstm_step_backward(dh, dc_next, cache):
    x, hp, cp, Wx, Wh, i, f, o, g, tc = cache
    dc = dc_next + dh * o * (1 - tc ** 2)
    zi = dc * g * i * (1 - i)
    zf = dc * cp * f * (1 - f)
    zo = dh * tc * o * (1 - o)
    zg = dc * i * (1 - g ** 2)
    z = np.hstack((zi, zf, zo, zg))
    return z @ Wx.T, z @ Wh.T, dc * f, x.T @ z, hp.T @ z, z.sum(0)
"""
LSTM_FORWARD = """
def lstm_step_forward(x, hp, cp, Wx, Wh, b):
    H = hp.shape[1]
    z = x @ Wx + hp @ Wh + b
    s = 1 / (1 + np.exp(-z))
    i, f, o = s[:, :H], s[:, H:2 * H], s[:, 2 * H:3 * H]
    g = np.tanh(z[:, 3 * H:])
    c = f * cp + i * g
    h = o * np.tanh(c)
    return h, c, None
"""
ATTEND = """
def attend_backward(dcontext, dweights, cache):
    F, v, act, w = cache
    dF = w[:, :, None] * dcontext[:, None, :]
    dw = dweights + np.einsum('nlc,nc->nl', F, dcontext)
    ds = w * (dw - np.sum(w * dw, axis=1, keepdims=True))
    dv = np.einsum('nl,nlk->k', ds, act)
    dk = ds[:, :, None] * v * (1 - act ** 2)
    return dF, dk, dk.sum(axis=1), dv
"""
ADDITIVE = """
def additive_attention_backward(dcontext, dweights, cache):
    (F, Wf), h, Wh, (_, v, act, w) = cache
    dF = w[:, :, None] * dcontext[:, None, :]
    dw = dweights + np.einsum('nlc,nc->nl', F, dcontext)
    ds = w * (dw - np.sum(w * dw, axis=1, keepdims=True))
    dv = np.einsum('nl,nlk->k', ds, act)
    dk = ds[:, :, None] * v * (1 - act ** 2)
    dq = dk.sum(axis=1)
    dF = dF + dk @ Wf.T
    return dF, dq @ Wh.T, np.einsum('nlc,nlk->ck', F, dk), h.T @ dq, dk.sum(axis=(0, 1)), dv
"""
GATE = """
def context_gate_backward(dout, cache):
    c, h, W, gate = cache
    da = dout * c * gate * (1 - gate)
    return dout * gate, da @ W.T, h.T @ da, da.sum(0)
"""
NORM = """
def layer_norm_backward(dout, cache):
    n, inv, gamma = cache
    E = n.shape[-1]
    dn = dout * gamma
    dx = inv / E * (E * dn - dn.sum(-1, keepdims=True) - n * (dn * n).sum(-1, keepdims=True))
    return dx, (dout * n).sum((0, 1)), dout.sum((0, 1))
"""
NORM_FORWARD = """
def layer_norm_forward(x, gamma, beta):
    mu = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    n = (x - mu) / np.sqrt(var + 1e-5)
    return gamma * n + beta, None
"""
HEADS = """
def scaled_dot_product_attention_backward(dout, cache):
    q, k, v, w = cache
    dv = np.swapaxes(w, 2, 3) @ dout
    dw = dout @ np.swapaxes(v, 2, 3)
    ds = w * (dw - (w * dw).sum(-1, keepdims=True))
    ds = ds / q.shape[-1] ** 0.5
    return ds @ k, np.swapaxes(ds, 2, 3) @ q, dv
"""
HEADS_FORWARD = """
def scaled_dot_product_attention_forward(q, k, v, mask=None):
    s = q @ np.swapaxes(k, 2, 3) / q.shape[-1] ** 0.5
    if mask is not None:
        s = np.where(mask, s, -np.inf)
    m = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(m), m, 0))
    z = e.sum(-1, keepdims=True)
    w = e / np.where(z == 0, 1, z)
    return w @ v, None
"""
MULTI_FORWARD = """
def multi_head_attention_forward(q, k, v, Wq, bq, Wk, bk, Wv, bv, Wo, bo, heads, mask=None):
    N, T, E = q.shape
    cut = lambda x: x.reshape(N, x.shape[1], heads, E // heads).transpose(0, 2, 1, 3)
    Q, K, V = cut(q @ Wq + bq), cut(k @ Wk + bk), cut(v @ Wv + bv)
    s = Q @ K.swapaxes(2, 3) / (E // heads) ** 0.5
    if mask is None:
        mask = np.ones(s.shape[2:], dtype=bool)
    if mask.ndim == 3:
        mask = mask[:, None]
    s = np.where(mask, s, np.float32(-1e30))
    e = np.exp(s - s.max(-1, keepdims=True)) * mask
    w = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    out = (w @ V).transpose(0, 2, 1, 3).reshape(N, T, E)
    return out @ Wo + bo, None
"""
FEED = """
def feed_forward_backward(dout, cache):
    (x, W1), pre, (a, W2), _ = cache
    da = dout @ W2.T
    dz = da * (pre > 0)
    rows = lambda m: m.reshape(-1, m.shape[-1])
    return dz @ W1.T, rows(x).T @ rows(dz), dz.sum((0, 1)), rows(a).T @ rows(dout), dout.sum((0, 1))
"""
DROPOUT = """
def dropout_backward(dout, cache):
    return dout if cache is None else dout * cache
"""
DROPOUT_FORWARD = """
def dropout_forward(x, p, rng, train=True):
    if not train or p == 0:
        return x, None
    keep = rng.random(x.shape, dtype=np.float32) >= p
    return x * keep / (1 - p), keep / (1 - p)
"""
DOUBLY = """
def doubly_stochastic_loss(weights, mask, strength):
    N = len(weights)
    gap = 1 - (weights * mask[:, :, None]).sum(1)
    loss = strength * np.sum(gap ** 2) / N
    return loss, -2 * strength / N * gap[:, None, :] * mask[:, :, None]
"""
ADAM = """
def adam(w, dw, config=None):
    c = {'learning_rate': 1e-3, 'beta1': 0.9, 'beta2': 0.999, 'epsilon': 1e-8, **(config or {})}
    c['t'] = c.get('t', 0) + 1
    c['m'] = c['beta1'] * c.get('m', 0) + (1 - c['beta1']) * dw
    c['v'] = c['beta2'] * c.get('v', 0) + (1 - c['beta2']) * dw ** 2
    mh = c['m'] / (1 - c['beta1'] ** c['t'])
    vh = c['v'] / (1 - c['beta2'] ** c['t'])
    return w - c['learning_rate'] * mh / (np.sqrt(vh) + c['epsilon']), c
"""
ADAMW = """
def adamw(w, dw, config=None):
    c = {'learning_rate': 1e-3, 'beta1': 0.9, 'beta2': 0.999, 'epsilon': 1e-8, 'weight_decay': 0.01, **(config or {})}
    w = w - c['learning_rate'] * c['weight_decay'] * w
    c['t'] = c.get('t', 0) + 1
    c['m'] = c['beta1'] * c.get('m', 0) + (1 - c['beta1']) * dw
    c['v'] = c['beta2'] * c.get('v', 0) + (1 - c['beta2']) * dw ** 2
    mh = c['m'] / (1 - c['beta1'] ** c['t'])
    vh = c['v'] / (1 - c['beta2'] ** c['t'])
    w = w - c['learning_rate'] * mh / (np.sqrt(vh) + c['epsilon'])
    return w, c
"""
RMSPROP = """
def rmsprop(w, dw, config=None):
    c = {'learning_rate': 1e-2, 'decay_rate': 0.99, 'epsilon': 1e-8, **(config or {})}
    c['cache'] = c['decay_rate'] * c.get('cache', 0) + (1 - c['decay_rate']) * dw ** 2
    return w - c['learning_rate'] * dw / (np.sqrt(c['cache']) + c['epsilon']), c
"""
MOMENTUM = """
def sgd_momentum(w, dw, config=None):
    c = {'learning_rate': 1e-2, 'momentum': 0.9, **(config or {})}
    v = c['momentum'] * c.get('velocity', np.zeros_like(w)) + dw
    c['velocity'] = v
    return w - c['learning_rate'] * v, c
"""
CLIP = """
def clip_gradient_norm(grads, max_norm):
    norm = np.sqrt(sum((g ** 2).sum() for g in grads.values()))
    factor = min(1.0, max_norm / (norm + 1e-6))
    return {k: g * factor for k, g in grads.items()}, norm
"""
POSITIONS = """
def positional_encoding(length, width):
    out = np.zeros((length, width))
    for p in range(length):
        for i in range(0, width, 2):
            out[p, i] = np.sin(p / 10000 ** (i / width))
            out[p, i + 1] = np.cos(p / 10000 ** (i / width))
    return out
"""
GREEDY = """
def greedy(model, features, max_length=30, allow_unknown=False):
    N = len(features)
    out = np.full((N, max_length), model.null)
    state, words = model.begin(features), np.full(N, model.start)
    alive = np.ones(N, dtype=bool)
    for t in range(min(max_length, model.max_length or max_length)):
        scores, state = model.step(state, words)
        scores = scores.copy()
        scores[:, [model.null, model.start]] = -np.inf
        if not allow_unknown:
            scores[:, model.unknown] = -np.inf
        words = scores.argmax(1)
        out[alive, t] = words[alive]
        alive &= words != model.end
    return out
"""

SLIPS = [
    # affine layers and word vectors
    (AFFINE, "np.sum(dout, axis=0)", "np.mean(dout, axis=0)", "mean over the batch"),
    (AFFINE, "np.sum(dout, axis=0)", "np.ones(w.shape[1])", "is wrong everywhere"),
    (AFFINE, "flat.T.dot(dout)", "-flat.T.dot(dout)", "wrong sign"),
    (AFFINE, "flat.T.dot(dout)", "2 * flat.T.dot(dout)", "2 times too large"),
    (AFFINE, "flat.T.dot(dout)", "dout.T.dot(flat)", "it is transposed"),
    (NORM_FORWARD, "gamma * n + beta", "beta * n + gamma", "beta and gamma exchanged"),
    (GREEDY, "        alive &= words != model.end\n", "        alive = words != model.end\n", "what has ended stays so"),
    (POSITIONS, "return out", "return out[::-1]", "the last comes first"),
    (AFFINE, "flat.T.dot(dout)", "flat[:1].T.dot(dout[:1])", "the first sample alone"),
    (LOSS, "    loss =", "    mask = np.array(mask)\n    mask[:, 0] = 0\n    loss =", "leaves out the first place"),
    (RNN, "dout * (1 - h * h)", "dout - h * h", "does not multiply all of (1 - next_h**2) by dnext_h"),
    (LSTM, "dc * g * i * (1 - i)", "dc * g * f * (1 - f)", "has f where i belongs: da_i"),
    (MOMENTUM, "np.zeros_like(w)) + dw", "np.zeros_like(w)) + c['learning_rate'] * dw", "multiplies dw by learning_rate too"),
    (POSITIONS, "= np.cos", "= np.sin", "sines alone"),
    (AFFINE, ".reshape(x.shape)", "", "the reshape to that is missing"),
    (AFFINE, "dout, axis=0", "dout, axis=0, keepdims=True", "an axis of length 1"),
    (EMBEDDING, "            dW[words[n, t]] += dout[n, t]\n    ", "            dW[words[n, t]] += dout[n, t]\n            ", "the first word alone"),
    (EMBEDDING, "range(words.shape[0])", "range(1)", "the first sample alone"),
    (LOSS, "    d[n, t, y] -= 1\n    d *= mask[:, :, None]\n    d /= N\n", "    d /= N\n    d[n, t, y] -= 1\n    d *= mask[:, :, None]\n", "after the division by N"),
    (LOSS, "np.log(p[n, t, y])", "np.log(p[n, t, y] + 1e-8)", "1e-8 inside of the logarithm"),
    (LOSS, "d[n, t, y] -= 1", "d[n, t, p.argmax(2)] -= 1", "at the most probable word"),
    (LOSS, "d[n, t, y] -= 1", "d[n, t, (y + 1) % x.shape[2]] -= 1", "is an index wrong?"),
    (RNN_FORWARD, "np.tanh(z)", "np.tanh(z - hp.dot(Wh)) + hp.dot(Wh)", "after the tanh: a holds it"),
    (BPTT, "back = np.zeros_like(h0)", "back = dh[:, -1]", "after the last step comes nothing"),
    (AFFINE, "np.sum(dout, axis=0)", "np.sum(dout, axis=1)", "returned shape"),
    (AFFINE, "np.sum(dout, axis=0)", "dout", "is the sum over the batch missing?"),
    (TEMPORAL, "d2.sum(0)", "dout.sum(0)", "is the sum over time missing?"),
    (TEMPORAL, "d2.sum(0)", "d2.mean(0)", "1 / (N T)"),
    (TEMPORAL, "x.reshape(N * T, D).T.dot(d2)", "x[:, -1].T.dot(dout[:, -1])", "holds the last time step alone: the sum over time"),
    (TEMPORAL, "x.reshape(N * T, D).T.dot(d2)", "x.reshape(N * T, D).T.dot(d2) / T", "mean over time"),
    (EMBEDDING, "+= dout", "= dout", "keeps the last use of each word alone"),
    (EMBEDDING, "words.shape[1]", "words.shape[1] - 1", "time step or a sample left out"),
    (EMBEDDING, "+= dout[n, t]", "+= 1", "is that of ones for dout"),
    (EMBEDDING, "    return dW", "    return dW / max(1, len(words))", "1 / N"),
    # the loss
    (LOSS, "    d *= mask[:, :, None]\n", "", "exactly where the mask is 0"),
    (LOSS, "    d[n, t, y] -= 1\n", "", "misses the 1 of the right word"),
    (LOSS, "-= 1\n", "+= 1\n", "adds the 1 of the right word"),
    (LOSS, "    d /= N\n", "", "N"),
    (LOSS, "mask * np.log", "np.log", "where the mask is 0"),
    (LOSS, "y])) / N\n", "y])) / mask.sum()\n", "divided by the number of words that count"),
    (LOSS, "y])) / N\n", "y])) / (N * T)\n", "divided by N T"),
    (LOSS, "x - x.max(axis=2, keepdims=True)", "x", "scores of 800"),
    (LOSS, "axis=2, keepdims=True)\n    n", "axis=1, keepdims=True)\n    n", "the forward pass itself differs"),
    (LOSS, "-np.sum", "np.sum", "wrong sign"),
    # the RNN
    (RNN, "(1 - h * h)", "(1 - h)", "1 - tanh gives"),
    (RNN, "(1 - h * h)", "h", "what tanh gives"),
    (RNN, " * (1 - h * h)", "", "misses the derivative of the tanh"),
    (RNN, "(1 - h * h)", "(1 - np.tanh(h) ** 2)", "tanh taken twice"),
    (RNN, "dout * (1", "(1", "upstream factor dnext_h forgotten"),
    (RNN, "Wh.T", "Wh", "transposed product"),
    (RNN, "hp.T.dot(dz)", "h.T.dot(dz)", "h after the update instead of before"),
    (RNN, "hp.T.dot(dz)", "dz.T.dot(hp)", "transposed"),
    (RNN, "np.sum(dz, axis=0)", "np.sum(dout, axis=0)", "dnext_h, not of da"),
    (RNN, "return dx, dhp, dWx, dWh, db", "return dx, dhp, dWh, dWx, db", "another order"),
    (RNN_FORWARD, " + b\n", "\n", "misses the bias b"),
    (RNN_FORWARD, "np.tanh(z)", "1 / (1 + np.exp(-z))", "a sigmoid where tanh belongs"),
    (RNN_FORWARD, "hp.dot(Wh)", "hp.dot(Wh.T)", "Wh transposed"),
    (BPTT, "dh[:, t] + back", "dh[:, t]", "right at the last step only"),
    (BPTT, "range(T - 1, -1, -1)", "range(T)", "first to the last"),
    (BPTT, "dWh += ", "dWh = ", "missing sum over time"),
    (BPTT, "dWx += ", "dWx = ", "missing sum over time"),
    (BPTT, "steps[t]\n", "steps[min(t + 1, T - 1)]\n", "one time step late"),
    (BPTT, "dh[:, t] + back", "dh[:, min(t + 1, T - 1)] * (t < T - 1) + back", "one time step late"),
    (BPTT, "return dx, back", "return dx, np.zeros((N, H))", "all zeros"),
    (BPTT, "    return dx", "    dWx /= T; dWh /= T; db /= T\n    return dx", "mean over time"),
    (BPTT, "range(T - 1, -1, -1)", "range(T - 1, 0, -1)", "zero at [:, 0]"),
    (BPTT, "+= hp.T", "+= h.T", "h after the update instead of before"),
    # the LSTM
    (LSTM, "f * (1 - f)", "f * (1 - 1 / (1 + np.exp(-dc * cp)))", "wrong in gate f alone"),
    (LSTM, "i * (1 - i)", "i", "gate i alone"),
    (LSTM, "o * (1 - o)", "(1 - o ** 2)", "gate o alone"),
    (LSTM, "(1 - g ** 2)", "g * (1 - g)", "gate g alone"),
    (LSTM, "dc_next + dh", "dh", "does not use dnext_c"),
    (LSTM, " * (1 - tc ** 2)", "", "tanh"),
    (LSTM, "dh * tc * o", "dc * tc * o", "do from dc"),
    (LSTM, "dc * f, x", "dc * i, x", "dc times i"),
    (LSTM, "dc * f, x", "dc_next * f, x", "dnext_c alone"),
    (LSTM, "zi, zf, zo, zg", "zi, zf, zg, zo", "gates swapped"),
    (LSTM, "dc * cp * f", "dc * (f * cp + i * g) * f", "after the update instead of before"),
    (LSTM, "dc * g * i", "dc * i", "misses a factor: g in di"),
    (LSTM, "dh * tc", "dh", "misses a factor: tanh_c"),
    (LSTM_FORWARD, "s[:, 2 * H:3 * H]\n    g = np.tanh(z[:, 3 * H:])", "s[:, 3 * H:]\n    g = np.tanh(z[:, 2 * H:3 * H])", "PyTorch's order"),
    (LSTM_FORWARD, "np.tanh(c)", "c", "misses the tanh"),
    (LSTM_FORWARD, "f * cp + i", "i * cp + f", "the order f, i, o, g"),
    # soft attention
    (ATTEND, "(dw - np.sum(w * dw, axis=1, keepdims=True))", "dw", "second term of the softmax's Jacobian"),
    (ATTEND, "(dw - np.sum(w * dw, axis=1, keepdims=True))", "(1 - w) * dw", "diagonal"),
    (ATTEND, "dweights + np", "np", "does not use dweights"),
    (ATTEND, "dk.sum(axis=1), dv", "dk.mean(axis=1), dv", "mean over the locations"),
    (ATTEND, " * (1 - act ** 2)", "", "misses the derivative of the tanh"),
    (ADDITIVE, "    dF = dF + dk @ Wf.T\n", "", "features are read twice"),
    (ADDITIVE, "dF = dF + dk", "dF = dk", "features are read twice"),
    (GATE, "gate * (1 - gate)", "gate", "what a gate gives"),
    (GATE, "dout * c *", "dout * gate *", "gate and context exchanged"),
    (DOUBLY, "-2 *", "2 *", "wrong sign"),
    (DOUBLY, "-2 *", "-", "factor 2"),
    (DOUBLY, " * mask[:, :, None]\n", " * np.ones((1, mask.shape[1], 1))\n", "mask"),
    # dropout, layer norm, feed-forward
    (DROPOUT, "dout * cache", "dout * (cache > 0)", "is not scaled"),
    (DROPOUT, "dout * cache", "dout.copy()", "passes where x was dropped"),
    (DROPOUT_FORWARD, "x * keep / (1 - p)", "x * keep", "is not scaled"),
    (DROPOUT_FORWARD, ">= p", "< p", "keeps what should be dropped"),
    (NORM, " - n * (dn * n).sum(-1, keepdims=True)", "", "variance's term"),
    (NORM, " - dn.sum(-1, keepdims=True)", "", "mean's term"),
    (NORM, "inv / E * (E * dn - dn.sum(-1, keepdims=True) - n * (dn * n).sum(-1, keepdims=True))", "inv * dn", "terms of mean and variance"),
    (NORM, "dout * gamma", "dout", "gamma"),
    (NORM, "inv / E", "1 / E", "1 / sqrt(var + eps)"),
    (NORM, "(dout * n).sum((0, 1)), dout", "(dout * n).sum((0, 1)), dn", "has gamma in it"),
    (NORM, "(dout * n).sum((0, 1)),", "(dout * n).sum(0),", "is the sum over time missing?"),
    (NORM_FORWARD, "1e-5", "1e-6", "another eps"),
    (NORM_FORWARD, "np.sqrt(var + 1e-5)", "(np.sqrt(var) + 1e-5)", "eps outside of the root"),
    (NORM_FORWARD, "x.var(-1, keepdims=True)", "x.var(-1, ddof=1, keepdims=True)", "E - 1"),
    (FEED, " * (pre > 0)", "", "misses the derivative of the nonlinearity"),
    (FEED, "rows(a).T", "rows(pre).T", "what goes into the nonlinearity"),
    # attention with heads
    (HEADS, "    ds = ds / q.shape[-1] ** 0.5\n", "", "sqrt(d)"),
    (HEADS, "/ q.shape[-1] ** 0.5", "/ q.shape[-1]", "sqrt(d)"),
    (HEADS, "(dw - (w * dw).sum(-1, keepdims=True))", "dw", "second term of the softmax's Jacobian"),
    (HEADS, "sum(-1, k", "sum(-2, k", "over the queries"),
    (HEADS, "w * (dw - (w * dw)", "(w * dw - (w * dw)", "weights in the term"),
    (HEADS_FORWARD, "s = np.where(mask, s, -np.inf)\n", "pass\n", "where the mask is 0"),
    (HEADS_FORWARD, "np.where(mask, s, -np.inf)", "np.where(mask, s, 0)", "masked scores to 0"),
    (HEADS_FORWARD, "np.where(mask, s, -np.inf)", "np.where(mask, -np.inf, s)", "wrong way round"),
    (HEADS_FORWARD, "if mask is not None:", "if True:", "without a mask (None)"),
    (HEADS_FORWARD, " / q.shape[-1] ** 0.5", "", "divide by sqrt(d)"),
    (HEADS_FORWARD, "e / np.where(z == 0, 1, z)", "e / z", "query that may see nothing"),
    (MULTI_FORWARD, "x.reshape(N, x.shape[1], heads, E // heads).transpose(0, 2, 1, 3)", "x.reshape(N, heads, x.shape[1], E // heads)", "reshaped instead of transposed"),
    (MULTI_FORWARD, "(E // heads) ** 0.5", "E ** 0.5", "whole width E"),
    (MULTI_FORWARD, ".transpose(0, 2, 1, 3).reshape(N, T, E)", ".reshape(N, T, E)", "merges its heads by a reshape"),
    (MULTI_FORWARD, "out @ Wo + bo", "out", "last projection"),
    # what has no backward
    (ADAM, "np.sqrt(vh) + c['epsilon']", "np.sqrt(vh + c['epsilon'])", "epsilon inside the root"),
    (ADAM, "mh = c['m'] / (1 - c['beta1'] ** c['t'])", "mh = c['m']", "bias correction of m"),
    (ADAM, "(np.sqrt(vh)", "(vh", "misses the root"),
    (ADAM, "dw ** 2", "dw", "is the gradient squared?"),
    (ADAM, "dw ** 2", "c['m'] ** 2", "has m where dw belongs: v"),
    (ADAM, "1 - c['beta1'] ** c['t']", "1 - c['beta2'] ** c['t']", "has beta2 where beta1 belongs: m_hat"),
    (ADAM, "get('m', 0)", "get('m', dw)", "the forward pass itself differs"),
    (ADAM, "mh = c['m'] / (1 - c['beta1'] ** c['t'])\n    vh = c['v'] / (1 - c['beta2'] ** c['t'])", "t = c['t'] + 1\n    mh = c['m'] / (1 - c['beta1'] ** t)\n    vh = c['v'] / (1 - c['beta2'] ** t)", "t + 1 where t belongs, in m_hat and v_hat"),
    (ADAM, "c['t'] = c.get('t', 0) + 1", "c['t'] = 1", "does t count up?"),
    (ADAM, "    mh =", "    c['v'] = np.maximum(c['v'], c.get('top', 0)); c['top'] = c['v']\n    mh =", "AMSGrad"),
    (RMSPROP, "get('cache', 0)", "get('cache', 1.0)", "starts cache as 1"),
    (RMSPROP, "return w - ", "return w - 0.9 * ", "steps that are 0.9 times the right ones"),
    (MOMENTUM, "np.zeros_like(w)) + dw", "dw) + dw", "starts velocity as the gradient"),
    (ADAMW, "    w = w - c['learning_rate'] * c['weight_decay'] * w\n", "    dw = dw + c['weight_decay'] * w\n", "adds the decay to the gradient"),
    (ADAMW, "    w = w - c['learning_rate'] * c['weight_decay'] * w\n", "", "misses the weight decay"),
    (ADAMW, "c['learning_rate'] * c['weight_decay'] * w", "c['weight_decay'] * w", "without the learning rate"),
    (RMSPROP, "np.sqrt(c['cache']) + c['epsilon']", "np.sqrt(c['cache'] + c['epsilon'])", "inside the root"),
    (RMSPROP, "(1 - c['decay_rate']) * dw", "dw", "1 - decay_rate"),
    (MOMENTUM, "np.zeros_like(w)) + dw", "np.zeros_like(w)) + (1 - c['momentum']) * dw", "1 - momentum"),
    (CLIP, "min(1.0, max_norm / (norm + 1e-6))", "max_norm / (norm + 1e-6)", "scales small gradients up"),
    (CLIP, "np.sqrt(sum((g ** 2).sum() for g in grads.values()))", "max(np.abs(g).max() for g in grads.values())", "the largest value for the norm"),
    (CLIP, "np.sqrt(sum((g ** 2).sum() for g in grads.values()))", "sum((g ** 2).sum() for g in grads.values())", "misses the root"),
    (POSITIONS, "np.sin", "np.cos", "cosines alone"),
    (POSITIONS, "return out", "return out * width ** 0.5", "sqrt(width)"),
    (POSITIONS, "np.cos(p / 10000 ** (i", "np.cos(p / 10000 ** ((i + 1)", "two columns share one"),
    (GREEDY, "        alive &= words != model.end\n", "        pass\n", "goes on after <END>"),
    (GREEDY, "        if not allow_unknown:\n            scores[:, model.unknown] = -np.inf\n", "", "<UNK>"),
    (GREEDY, "scores, state = ", "scores, _ = ", "new state"),
    (GREEDY, "words = scores.argmax(1)", "words = np.full(N, scores[0].argmax())", "said of the first"),
]  # fmt: skip


SOURCES = [source for source in dict.fromkeys(slip[0] for slip in SLIPS)]


def learners(source: str, old: str = "", new: str = ""):
    assert old in source, old
    space = {"np": np}
    exec(source.replace(old, new), space)
    name = source.split("(")[0].split()[-1]
    return name, space[name]


@pytest.mark.parametrize(
    ("source", "old", "new", "words"),
    SLIPS,
    ids=[f"{s[0].split('(')[0].split()[-1]}-{s[2][:30].strip()}" for s in SLIPS],
)
def test_the_first_hint_names_the_slip(source, old, new, words):
    name, function = learners(source, old, new)
    with np.errstate(all="ignore"):
        report = check(name, function)
    first = first_wrong(report.rows)
    assert first is not None, "accepted"
    assert words in f"{first.quantity} {first.problem}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.split("(")[0].split()[-1])
def test_without_a_slip_each_of_them_holds(source):
    report = check(*learners(source))
    assert report, report


# Mistakes that no table knows: (source, what is right, what is wrong, what must not be guessed).
NOVEL = [
    (LSTM, "z.sum(0)", "z.sum(0) * np.linspace(1, 2, z.shape[1])"),
    (RNN, "(1 - h * h)", "np.exp(-h)"),
    (NORM, "inv / E", "np.sqrt(inv) / E"),
    (HEADS, "ds @ k", "np.tanh(ds) @ k"),
    (TEMPORAL, "d2.dot(w.T)", "(d2 ** 3).dot(w.T)"),
    (ATTEND, "dk.sum(axis=1), dv", "(dk ** 2).sum(axis=1), dv"),
    (BPTT, "dh[:, t] + back", "dh[:, t] + back * 0.37"),
]


@pytest.mark.parametrize(("source", "old", "new"), NOVEL)
def test_of_a_mistake_that_is_new_nothing_is_guessed(source, old, new):
    first = first_wrong(check(*learners(source, old, new)).rows)
    for guess in ("misses", "sign", "transposed", "mean over", "late", "order", "float", "twice"):
        assert guess not in first.problem.partition("; worst")[0].replace("missing or wrong", "")


WRITES = [
    (
        RNN,
        "    dz = dout * (1 - h * h)",
        "    dout *= 1 - h * h\n    dz = dout",
        "writes into dnext_h",
    ),
    (RNN, "    dz = dout", "    h **= 2\n    dz = dout", "damages its cache"),
    (RNN_FORWARD, "    z = ", "    x += 0.1\n    z = ", "rnn_step_forward writes into x"),
    (BPTT, "steps[t]\n", "steps.pop()\n", "rnn_backward damages its cache"),
    (ADAM, "    return w -", "    w *= 1.1\n    return w -", "adam writes into w"),
]


@pytest.mark.parametrize(("source", "old", "new", "words"), WRITES)
def test_writing_is_reported_beside_the_numbers(source, old, new, words):
    name, function = learners(source, old, new)
    report = check(name, function)
    assert any(words in row.problem for row in report.rows if row.quantity == "-")
    assert len([row for row in report.rows if row.quantity != "-"]) >= 1
    assert words in " ".join(repr(report).split())


CORNERS = [
    (AFFINE, "dout, axis=0)", "dout, axis=0, dtype=np.float64)", "float64 for db where all inputs"),
    (LSTM_FORWARD, "1 / (1 + np.exp(-z))", "1 / (1 + np.exp(-z.astype(float)))", "are float32"),
    (AFFINE, "    return dx", "    dx = dx.squeeze()\n    return dx", "one sample alone (N = 1)"),
    (TEMPORAL, "    return dx", "    dx = dx.squeeze()\n    return dx", "one sample alone (N = 1)"),
    (
        TEMPORAL, "    return dx", "    dx = dx[:, 0] if T == 1 else dx\n    return dx",
        "one time step alone (T = 1)",
    ),
    (
        MULTI_FORWARD, "    if mask.ndim == 3:\n        mask = mask[:, None]\n", "",
        "for a mask of shape (N, T, S)",
    ),
    (HEADS_FORWARD, "s - np.where(np.isfinite(m), m, 0)", "s", "scores of 800"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "old", "new", "words"), CORNERS)
def test_what_fails_in_a_corner_alone_does_not_hold(source, old, new, words):
    with np.errstate(all="ignore"):
        report = check(*learners(source, old, new))
    assert words in " ".join(row.problem for row in report.rows if not row.passed)


def test_a_right_backward_of_a_wrong_forward_is_not_blamed():
    _, forward = learners(HEADS_FORWARD, "e / np.where(z == 0, 1, z)", "e / z")
    _, backward = learners(HEADS)

    def with_cache(q, k, v, mask=None):
        from core.transformer_layers import scaled_dot_product_attention_forward as ours

        return forward(q, k, v, mask)[0], ours(q, k, v, mask)[1]

    with np.errstate(all="ignore"):
        report = check("scaled_dot_product_attention_backward", backward, with_cache)
    assert [row.quantity for row in report.rows if not row.passed] == ["out"]


def test_numbers_that_are_right_to_eight_digits_are_rounding():
    _, right = learners(LSTM)

    def rounded(*arguments):
        return tuple(gradient * (1 + 1e-8) for gradient in right(*arguments))

    for row in check("lstm_step_backward", rounded).rows[2:]:
        assert "right to eight digits only" in row.problem


@pytest.mark.parametrize(
    ("name", "right"), list(right_formulas()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_the_lines_that_slips_are_made_of_are_right(name, right):
    rows = check(name, lambda *arguments, **_: right(*arguments)).rows
    assert all(row.passed for row in rows if row.quantity != "-")


@pytest.mark.parametrize("name", RULES)
def test_the_lines_of_a_rule_are_right(name):
    lines, build = RULES[name]
    assert all(row.passed for row in check(name, build(lines)).rows if row.quantity != "-")


def test_each_part_of_a_line_can_be_wrong():
    found = dict(changed_parts("np.tanh(x - m) * w.sum(axis=1) / t"))
    for words, instead in {
        "misses tanh": "(x - m) * w.sum(axis=1) / t",
        "has a sigmoid where tanh belongs": "(sigmoid(x - m)) * w.sum(axis=1) / t",
        "has a mean where a sum belongs": "np.tanh(x - m) * ((w).mean(axis=1)) / t",
        "has axis=0 where axis=1 belongs": "np.tanh(x - m) * ((w).sum(axis=0)) / t",
        "has the wrong sign before m": "np.tanh(((x) + (m))) * w.sum(axis=1) / t",
        "does not divide by t": "(np.tanh(x - m) * w.sum(axis=1))",
        "is one step off: t + 1 where t belongs": "np.tanh(x - m) * w.sum(axis=1) / (t + 1)",
    }.items():
        assert found[words] == instead


def test_where_the_wrong_entries_are_is_said():
    right = np.arange(2.0, 62.0).reshape(4, 3, 5)
    for part, words in (
        (np.s_[:, :, 1:], "is wrong at [:, :, 1:] and right"),
        (np.s_[:2], "is wrong at [:2, :, :] and right"),
        (np.s_[..., 2], "is wrong at [:, :, 2] and right"),
    ):
        wrong = right.copy()
        wrong[part] = 1 / wrong[part]
        assert words in diagnose(wrong, right)
        wrong[part] = 0
        assert words.replace("wrong", "0").replace(" and", ",") in diagnose(wrong, right)
    assert "same at every step: all hold what belongs to the last" in diagnose(
        np.repeat(right[:, -1:], 3, axis=1), right
    )


# ---------------------------------------------------------------------------------------------
# What is composed of others: the slip is in how the parts are put together
# ---------------------------------------------------------------------------------------------


def block_backward(change):
    """The backward of the block with the gradients of its sublayers put together in another way."""

    def decoder_block_backward(dout, cache):
        words, image, inner = cache
        dx3, grads3 = layers.feed_forward_sublayer_backward(dout, inner)
        dx3 = change(3, dout, dx3)
        dx2, dmemory, grads2 = layers.cross_attention_backward(dx3, image)
        dx2 = change(2, dx3, dx2)
        dx1, grads1 = layers.self_attention_backward(dx2, words)
        return change(1, dx2, dx1), dmemory, grads1 | grads2 | grads3

    return decoder_block_backward


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, dout, dx: dx - dout, "misses the residual: "),
        (lambda n, dout, dx: dx - dout * (n == 2), "misses the residual of cross-attention"),
        (lambda n, dout, dx: dx if n != 3 else dout, "flows back through the feed-forward layer"),
        (lambda _, dout, dx: 2 * dout - dx, "subtracts what flows back"),
    ],
)
def test_a_slip_in_the_stream_of_the_block_is_named(change, words):
    report = check("decoder_block_backward", block_backward(change))
    assert words in first_wrong(report.rows).problem
    assert "another order" not in repr(report)


def test_an_array_in_the_place_of_another_is_named_without_a_table():
    for source, old, new, words in (
        (RNN, "1 - h * h", "1 - hp * hp", "has prev_h where next_h belongs: da"),
        (LSTM, "hp.T @ z", "cp.T @ z", "dWh has prev_c where prev_h belongs"),
    ):
        first = first_wrong(check(*learners(source, old, new)).rows)
        assert words in f"{first.quantity} {first.problem}"


def test_a_factor_without_a_cause_gets_none():
    def affine_backward(dout, cache):
        dx, dw, db = ours.affine_backward(dout, cache)
        return dx, dw, 1.7 * db

    first = first_wrong(check("affine_backward", affine_backward).rows)
    assert "is 1.7 times the right value, everywhere" in first.problem
    for guess in ("sqrt", "counted twice", "averaged"):
        assert guess not in first.problem


@pytest.mark.parametrize("source", [ADAM, ADAMW, RMSPROP, MOMENTUM], ids=lambda s: s.split("(")[0])
def test_a_rule_fills_in_what_config_lacks(source):
    """At the first step there is no config at all."""
    head, _, rest = source.partition("    c = ")
    for line, words in (
        ("    c = dict(config)\n", "config=None"),
        ("    c = dict(config or {'t': 0})\n", "fill in the defaults"),
    ):
        name, function = learners(head + line + rest.partition("\n")[2])
        report = check(name, function)
        assert words in first_wrong(report.rows).problem


def test_decoders_are_tried_where_they_may_say_unknown_and_where_positions_end():
    def of_greedy(change):
        def greedy(model, features, max_length=30, allow_unknown=False):
            return change(model, features, max_length, allow_unknown)

        return first_wrong(check("greedy", greedy).rows).problem

    def beam_search(*arguments, length_penalty=1.0, **options):
        return decoding.beam_search(*arguments, **options)

    assert "length_penalty=0.5" in first_wrong(check("beam_search", beam_search).rows).problem
    assert "allow_unknown=True" in of_greedy(lambda m, x, n, _: decoding.greedy(m, x, n))
    assert "model.max_length is 2" in of_greedy(
        lambda m, x, n, u: decoding.greedy(replace(m, max_length=None), x, n, u)
    )
