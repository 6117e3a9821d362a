"""Slips in soft attention, its gate, and the LSTM around them."""

# ruff: noqa: E501 (a slip a line)

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.gradient_check.slips.formulas import Array, Formulas, slips_from
from core.gradient_check.slips.recurrent import GATES

_ATTEND = {
    "dfeatures": "weights[:, :, None] * dcontext[:, None]",
    "dw": "dweights + (features @ dcontext[:, :, None])[:, :, 0]",
    "dscores": "weights * dw + -weights * (weights * dw).sum(axis=-1, keepdims=True)",
    "dkeys": "dscores[:, :, None] * v * (1 - activation**2)",
    "dv": "(dscores[:, :, None] * activation).sum(axis=(0, 1))",
    "dquery": "dkeys.sum(axis=1)",
}
_ATTENDED = {
    "activation": "np.tanh(keys + query[:, None])",
    "scores": "activation @ v",
    "weights": "softmax(scores)",
    "context": "(weights[:, :, None] * features).sum(axis=1)",
}
RIGHT = {
    "attend_forward": Formulas(
        "features, keys, query, v", "", _ATTENDED,
        "context, weights, (features, v, activation, weights)",
    ),
    "attend_backward": Formulas(
        "dcontext, dweights, cache", "features, v, activation, weights", _ATTEND,
        "dfeatures, dkeys, dquery, dv",
    ),
    "additive_attention_forward": Formulas(
        "features, h, Wf, Wh, b, v", "",
        {"keys": "features @ Wf + b", "query": "h @ Wh", **_ATTENDED}, "context, weights, None",
    ),
    "additive_attention_backward": Formulas(
        "dcontext, dweights, cache", "(_, Wf), h, Wh, (features, v, activation, weights)",
        {
            **{name: line for name, line in _ATTEND.items() if name != "dfeatures"},
            "dh": "dquery @ Wh.T", "dWh": "h.T @ dquery",
            "dfeatures": "weights[:, :, None] * dcontext[:, None] + dkeys @ Wf.T",
            "dWf": "flat(features).T @ flat(dkeys)", "db": "dkeys.sum(axis=(0, 1))",
        },
        "dfeatures, dh, dWf, dWh, db, dv",
    ),
    "context_gate_forward": Formulas(
        "context, h, W, b", "",
        {"a": "h @ W + b", "gate": "sigmoid(a)", "out": "gate * context"},
        "out, (context, h, W, gate)",
    ),
    "context_gate_backward": Formulas(
        "dout, cache", "context, h, W, gate",
        {
            "dcontext": "dout * gate", "dgate": "dout * context",
            "da": "dgate * gate * (1 - gate)",
            "dh": "da @ W.T", "dW": "h.T @ da", "db": "da.sum(axis=0)",
        },
        "dcontext, dh, dW, db",
    ),
    "attention_lstm_step_forward": Formulas(
        "word, features, keys, prev_h, prev_c, W_query, v, W_gate, b_gate, Wx, Wh, b", "",
        {
            "asking": "np.concatenate([prev_h, word], axis=1)",
            "query": "asking @ W_query", **_ATTENDED,
            "a_gate": "prev_h @ W_gate + b_gate", "gate": "sigmoid(a_gate)",
            "gated": "gate * context",
            "x": "np.concatenate([word, gated], axis=1)",
            "a": "x @ Wx + prev_h @ Wh + b",
            "a_i, a_f, a_o, a_g": "np.split(a, 4, axis=1)",
            "next_c": "sigmoid(a_f) * prev_c + sigmoid(a_i) * np.tanh(a_g)",
            "next_h": "sigmoid(a_o) * np.tanh(next_c)",
        },
        "next_h, next_c, gated, weights, None",
    ),
    "attention_lstm_step_backward": Formulas(
        "dnext_h, dnext_c, dgated, dweights, cache",
        "asking, W_query, (features, v, activation, weights), (context, _h, W_gate, gate), "
        "(x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c)",
        {
            "W": "x.shape[1] - context.shape[1]", "H": "prev_h.shape[1]",
            **GATES,
            "dprev_c": "dc * f", "dx": "da @ Wx.T",
            "dWx": "x.T @ da", "dWh": "prev_h.T @ da", "db": "da.sum(axis=0)",
            "dg_all": "dgated + dx[:, W:]",
            "dcontext": "dg_all * gate", "dgate": "dg_all * context",
            "da_gate": "dgate * gate * (1 - gate)",
            "dW_gate": "prev_h.T @ da_gate", "db_gate": "da_gate.sum(axis=0)",
            **_ATTEND,
            "dasking": "dquery @ W_query.T", "dW_query": "asking.T @ dquery",
            "dprev_h": "da @ Wh.T + da_gate @ W_gate.T + dasking[:, :H]",
            "dword": "dx[:, :W] + dasking[:, H:]",
        },
        "dword, dfeatures, dkeys, dprev_h, dprev_c, dW_query, dv, dW_gate, db_gate, dWx, dWh, db",
    ),
}  # fmt: skip

_ATTEND_NAMED = [
    ("misses the second term of the softmax's Jacobian: diag(w) - w w^T", {"dscores": "weights * dw"}),
    ("has the diagonal of the softmax's Jacobian alone: diag(w) - w w^T", {"dscores": "dw * weights * (1 - weights)"}),
    ("misses the Jacobian of the softmax: diag(w) - w w^T", {"dscores": "dw"}),
    ("does not multiply by the weights in the softmax's Jacobian: w (dw - sum(w dw))", {"dscores": "dw - (weights * dw).sum(axis=-1, keepdims=True)"}),
    ("has a sum without the weights in the softmax's Jacobian: w (dw - sum(w dw))", {"dscores": "weights * (dw - dw.sum(axis=-1, keepdims=True))"}),
    ("has a mean where the weighted sum belongs in the softmax's Jacobian: w (dw - sum(w dw))", {"dscores": "weights * (dw - dw.mean(axis=-1, keepdims=True))"}),
    ("sums over the batch, not over the locations, in the softmax's Jacobian", {"dscores": "weights * (dw - (weights * dw).sum(axis=0, keepdims=True))"}),
    ("has what goes into the tanh where its result belongs: dv = sum(dscores activation)", {"dv": "(dscores[:, :, None] * np.arctanh(activation)).sum(axis=(0, 1))"}),
    ("has the keys' gradient where activation and dscores belong: dv = sum(dscores activation)", {"dv": "dkeys.sum(axis=(0, 1))"}),
    ("is a mean over the batch where the sum belongs", {"dv": "(dscores[:, :, None] * activation).sum(axis=(0, 1)) / len(activation)"}),
    ("holds the first location alone: the sum over the locations is missing", {"dquery": "dkeys[:, 0]"}),
    ("holds the last location alone: the sum over the locations is missing", {"dquery": "dkeys[:, -1]"}),
    ("does not use dweights: is the upstream factor dweights forgotten?", {"dw": "(features @ dcontext[:, :, None])[:, :, 0]"}),
    ("misses what reaches the weights through the context: features . dcontext", {"dw": "dweights"}),
    ("misses the derivative of the tanh: 1 - tanh^2", {"dkeys": "dscores[:, :, None] * v"}),
    ("is what tanh gives where its derivative belongs: 1 - tanh^2", {"dkeys": "dscores[:, :, None] * v * activation"}),
    ("is what 1 - tanh gives, where 1 - tanh^2 belongs", {"dkeys": "dscores[:, :, None] * v * (1 - activation)"}),
    ("is a mean over the locations where the sum belongs", {"dquery": "dkeys.mean(axis=1)"}),
    ("is dcontext at every location: each gets its weight's share", {"dfeatures": "np.broadcast_to(dcontext[:, None], features.shape)"}),
    ("has a mean over the locations where the weights belong", {"dfeatures": "np.broadcast_to(dcontext[:, None], features.shape) / features.shape[1]"}),
    ("takes the keys' gradient where the scores' belongs: dv = sum(dscores activation)", {"dv": "(dkeys * activation).sum(axis=(0, 1))"}),
]  # fmt: skip
_ATTEND_FORWARD = [
    ("misses the tanh", {"activation": "keys + query[:, None]"}),
    ("has a sigmoid where tanh belongs", {"activation": "sigmoid(keys + query[:, None])"}),
    ("has a ReLU where tanh belongs", {"activation": "np.maximum(keys + query[:, None], 0)"}),
    ("has its softmax over the batch, not over the locations", {"weights": "softmax(scores.T).T"}),
    ("is a mean over the locations, without the weights", {"context": "features.mean(axis=1)"}),
    ("is the mean where the weighted sum belongs: it is divided by L again", {"context": "(weights[:, :, None] * features).mean(axis=1)"}),
    ("has the scores where the weights belong: no softmax", {"weights": "scores"}),
    ("divides its scores by sqrt(K): additive attention has no scale", {"weights": "softmax(scores * v.size**-0.5)"}),
    ("divides its scores by K: additive attention has no scale", {"weights": "softmax(scores / v.size)"}),
    ("has sigmoids where the softmax belongs", {"weights": "sigmoid(scores)"}),
    ("looks at the best location alone", {"context": "features[np.arange(len(features)), weights.argmax(axis=1)]"}),
]  # fmt: skip
_GATE = [
    ("is what a gate gives, where gate (1 - gate) belongs", "gate"),
    ("misses the derivative of a sigmoid: gate (1 - gate)", "1"),
    ("has tanh's derivative where a sigmoid's belongs", "(1 - gate**2)"),
    ("is what 1 - gate gives, where gate (1 - gate) belongs", "(1 - gate)"),
]
_NAMED = {
    "attend_backward": _ATTEND_NAMED,
    "additive_attention_backward": [
        ("misses that the features are read twice: the keys are made of them too", {"dfeatures": "weights[:, :, None] * dcontext[:, None]"}),
        ("misses that the features are read twice: the context is made of them too", {"dfeatures": "dkeys @ Wf.T"}),
        *(each for each in _ATTEND_NAMED if "dfeatures" not in each[1]),
        ("is a mean over the locations where the sum belongs", {"db": "dkeys.mean(axis=1).sum(axis=0)"}),
    ],
    "attend_forward": _ATTEND_FORWARD,
    "additive_attention_forward": [("misses the bias b", {"keys": "features @ Wf"}), *_ATTEND_FORWARD],
    "context_gate_backward": [
        *((hint, {"da": f"dgate * {line}"}) for hint, line in _GATE),
        ("has gate and context exchanged: dcontext = dout gate, dgate = dout context", {"dcontext": "dout * context", "dgate": "dout * gate"}),
        ("has gate and context exchanged: dgate = dout context", {"dgate": "dout * gate"}),
        ("has gate and context exchanged: dcontext = dout gate", {"dcontext": "dout * context"}),
        ("is a mean over the batch where the sum belongs", {"db": "da.mean(axis=0)"}),
        ("is a mean over the batch where the sum belongs", {"dW": "h.T @ da / len(h)"}),
    ],
    "context_gate_forward": [
        ("misses the bias b", {"a": "h @ W"}),
        ("misses the sigmoid", {"gate": "a"}),
        ("has a tanh where the sigmoid belongs", {"gate": "np.tanh(a)"}),
        ("is the gate without the context", {"out": "gate"}),
        ("is gated the wrong way round: 1 - gate", {"out": "(1 - gate) * context"}),
        ("adds the context, which the gate multiplies", {"out": "gate + context"}),
        ("has a softmax where the sigmoid belongs", {"gate": "softmax(a)"}),
    ],
    "attention_lstm_step_forward": [
        ("asks with prev_h alone: the query reads the word too", {"query": "prev_h @ W_query[:prev_h.shape[1]]"}),
        ("has prev_h and word in the wrong order: [prev_h, word] W_query", {"asking": "np.concatenate([word, prev_h], axis=1)"}),
        ("has word and gated in the wrong order: [word, gated] Wx", {"x": "np.concatenate([gated, word], axis=1)"}),
        ("feeds the context that is not gated to the LSTM", {"x": "np.concatenate([word, context], axis=1)"}),
        ("is not gated", {"gated": "context"}),
        *_ATTEND_FORWARD,
        ("has its gates in PyTorch's order i, f, g, o; here they are i, f, o, g", {
            "a_i, a_f, a_o, a_g": "[np.split(a, 4, axis=1)[j] for j in (0, 1, 3, 2)]"
        }),
    ],
    "attention_lstm_step_backward": [
        ("misses that prev_h is read three times: the gate reads it too", {"dprev_h": "da @ Wh.T + dasking[:, :H]"}),
        ("misses that prev_h is read three times: the query reads it too", {"dprev_h": "da @ Wh.T + da_gate @ W_gate.T"}),
        ("misses that prev_h is read three times: gate and query read it too", {"dprev_h": "da @ Wh.T"}),
        ("misses that the word is read twice: the query reads it too", {"dword": "dx[:, :W]"}),
        ("cuts the query's gradient in the wrong places: the query reads [prev_h, word]", {"dprev_h": "da @ Wh.T + da_gate @ W_gate.T + dasking[:, W:]", "dword": "dx[:, :W] + dasking[:, :W]"}),
        ("cuts the query's gradient in the wrong place: the query reads [prev_h, word]", {"dword": "dx[:, :W] + dasking[:, :W]"}),
        ("cuts dx in the wrong place: the LSTM reads [word, gated]", {"dg_all": "dgated + dx[:, :context.shape[1]]"}),
        ("does not use dgated: is the upstream factor dgated forgotten?", {"dg_all": "dx[:, W:]"}),
        ("misses what reaches gated through the LSTM", {"dg_all": "dgated + 0"}),
        ("does not use dnext_c: is the upstream factor dnext_c forgotten?", {"dc": "dnext_h * o * (1 - tanh_c**2)"}),
        *_ATTEND_NAMED,
        *((hint, {"da_gate": f"dgate * {line}"}) for hint, line in _GATE),
        *(
            (f"is wrong in gate {x} alone: {hint}", {f"da_{x}": f"d{x} * {line.replace('gate', x)}"})
            for x in "ifo" for hint, line in _GATE
        ),
    ],
}  # fmt: skip


def _loop_forward(step: Callable, reads: str = "") -> Callable:
    def forward(words, features, h0, c0, W_features, W_query, b_attend, v, *others):
        keys, h, c, found = features @ W_features + b_attend, h0, c0, []
        if reads == "no cell":
            c = np.zeros_like(c)
        if reads == "no bias":
            keys = features @ W_features
        for t in range(words.shape[1]):
            if "h0" in reads:
                h = h0
            if "c0" in reads:
                c = c0
            h, c, *looked, _ = step(words[:, t], features, keys, h, c, W_query, v, *others)
            found.append((h, *looked))
        states, gated, weights = (np.stack(each, axis=1) for each in zip(*found, strict=True))
        if reads == "late":
            states = np.concatenate([h0[:, None], states[:, :-1]], axis=1)
        return states, gated, weights, None

    return forward


def _loop_backward(step: Callable, slip: str = "") -> Callable:
    def backward(dh: Array, dgated: Array, dweights: Array, cache: tuple):
        (features, W_features), caches = cache
        carried = [np.zeros_like(dh[:, 0])] * 2
        dwords, total = [], [0] * 9
        times = range(dh.shape[1])
        for t in times if slip == "forwards" else reversed(times):
            if slip == "no flow":
                carried = [0 * each for each in carried]
            if slip == "no flow of h":
                carried[0] = 0 * carried[0]
            if slip == "no flow of c":
                carried[1] = 0 * carried[1]
            scale = 0 * dgated[:, t] if slip == "no dgated" else dgated[:, t]
            looked = 0 * dweights[:, t] if slip == "no dweights" else dweights[:, t]
            at = min(t + 1, len(caches) - 1) if slip == "cache late" else t
            dword, dfeatures, dkeys, *states, dq, dv, dwg, dbg, dwx, dwh, db = step(
                dh[:, t] + carried[0], carried[1], scale, looked, caches[at]
            )
            carried = states
            dwords.insert(len(dwords) if slip == "forwards" else 0, dword)
            parts = dfeatures, dkeys, dq, dv, dwg, dbg, dwx, dwh, db
            if slip == "features of the last" and t < dh.shape[1] - 1:
                parts = 0 * dfeatures, *parts[1:]
            if slip == "features once" and t:
                parts = 0 * dfeatures, *parts[1:]
            if slip == "keys of the last" and t < dh.shape[1] - 1:
                parts = dfeatures, 0 * dkeys, *parts[2:]
            if slip == "keys once" and t:
                parts = dfeatures, 0 * dkeys, *parts[2:]
            if slip == "first step kept":
                total = list(parts)
            else:
                total = [each + part for each, part in zip(total, parts, strict=True)]
        dfeatures, dkeys, dW_query, *others = total
        if slip != "features read once":
            dfeatures = dfeatures + dkeys @ W_features.T
        dW_features = np.einsum("nlc,nlk->ck", features, dkeys)
        db_attend = dkeys.sum(axis=(0, 1))
        return (
            np.stack(dwords, axis=1), dfeatures, *carried, dW_features, dW_query, db_attend,
            *others,
        )  # fmt: skip

    return backward


_LOOP_FORWARD = (
    ("has every step read h0 and c0: the state is not carried on", "h0 c0"),
    ("has every step read h0: the state is not carried on", "h0"),
    ("has every step read c0: the cell state is not carried on", "c0"),
    ("is one time step late: h[:, 0] is the state after the first step", "late"),
    ("starts its cell state from 0, where c0 belongs", "no cell"),
    ("misses the bias b_attend", "no bias"),
)
_LOOP_BACKWARD = (
    ("is right at the last step only: the gradient of the next step must flow back into this one",
     "no flow"),
    ("misses what flows back through c: dprev_c of the next step", "no flow of c"),
    ("misses what flows back through h: dprev_h of the next step adds to dh[:, t]", "no flow of h"),
    ("does not use dgated: is the upstream factor dgated forgotten?", "no dgated"),
    ("does not use dweights: is the upstream factor dweights forgotten?", "no dweights"),
    ("uses the cache of the step after: one time step late", "cache late"),
    ("holds the first time step alone: a missing sum over time (+=)", "first step kept"),
    ("misses that the features are read twice: the keys are made of them too",
     "features read once"),
    ("holds the first time step alone: every step reads the features", "features once"),
    ("holds the last time step alone: every step reads the features", "features of the last"),
    ("holds the first time step alone: every step reads the keys", "keys once"),
    ("holds the last time step alone: every step reads the keys", "keys of the last"),
    ("goes through the steps from the first to the last: backwards is the way", "forwards"),
)  # fmt: skip


def _loops(way: str) -> list[tuple[str, Callable]]:
    build, named = (
        (_loop_forward, _LOOP_FORWARD) if way == "forward" else (_loop_backward, _LOOP_BACKWARD)
    )
    name = f"attention_lstm_step_{way}"
    step = RIGHT[name]
    found = [(hint, build(step, slip)) for hint, slip in named]
    return found + [(hint, build(slip)) for hint, slip in slips_from(step, _NAMED[name])]


LOOPS = {
    f"attention_lstm_{way}": (RIGHT[f"attention_lstm_step_{way}"], build)
    for way, build in (("forward", _loop_forward), ("backward", _loop_backward))
}
TABLE = {
    **{
        name: lambda name=name, right=right: slips_from(right, _NAMED.get(name, ()))
        for name, right in RIGHT.items()
    },
    **{f"attention_lstm_{way}": lambda way=way: _loops(way) for way in ("forward", "backward")},
}
