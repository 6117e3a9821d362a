"""Slips in the decoder block: its residual stream, its norms, and what each sublayer reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from core.gradient_check.slips.formulas import Array
from core.transformer_layers import (
    dropout_backward,
    dropout_forward,
    feed_forward_backward,
    feed_forward_forward,
    layer_norm_backward,
    layer_norm_forward,
    multi_head_attention_backward,
    multi_head_attention_forward,
)

_NAMES = {1: "self", 2: "cross", 3: "feed_forward"}
_PARTS = ("Wq", "bq", "Wk", "bk", "Wv", "bv", "Wo", "bo"), ("W1", "b1", "W2", "b2")


def _forward(
    x, memory, params, num_heads, mask=None, norm_first=True, activation="relu", dropout=0.0,
    rng=None, train=True, slip="",
):  # fmt: skip
    first = norm_first != (slip == "other norm")

    def sublayer(y, number):
        W = {part: params.get(f"{_NAMES[number]}.{part}", 0.0) for part in _PARTS[number == 3]}
        if number == 3:
            kind = {"relu": "gelu", "gelu": "relu"}[activation] if slip == "other f" else activation
            return feed_forward_forward(y, *W.values(), kind)[0]
        source = memory if number == 2 else y
        if slip == "norm of memory" and number == 2:
            norm = params["norm2.gamma"], params["norm2.beta"]
            source = layer_norm_forward(memory, *norm)[0]
        allowed = mask if number == 1 and slip != "no mask" else None
        if slip.startswith("cross reads words") and number == 2:
            source, allowed = y, mask if slip.endswith("masked") else None
        if slip == "self reads memory" and number == 1:
            source, allowed = memory, None
        W["bk"] = np.zeros_like(W["bq"])
        return multi_head_attention_forward(y, source, source, *W.values(), num_heads, allowed)[0]

    order = {"cross first": (2, 1, 3), "feed forward first": (3, 1, 2)}.get(
        slip.removesuffix(" with norm1"), (1, 2, 3)
    )
    for place, number in enumerate(order):
        which = place + 1 if slip.endswith(" with norm1") else number
        if slip == "norm1 for all":
            which = 1
        if slip.startswith(f"norm {number} is "):
            which = int(slip[-1])
        norm = params[f"norm{which}.gamma"], params[f"norm{which}.beta"]
        normed = layer_norm_forward(x, *norm)[0]
        y = normed if first and slip not in (f"no norm {number}", "no norms") else x
        added = 0 if slip in (f"no residual {number}", "no residual") else x
        if slip in ("residual of the norm", f"residual of the norm {number}"):
            added = normed
        if slip == f"two residuals {number}":
            added = 2 * x
        y = sublayer(y, number)
        if slip in ("norm of the sublayer", f"norm of the sublayer {number}"):
            y = layer_norm_forward(y, *norm)[0]
        if slip == "dropout of the sum":
            x = dropout_forward(added + y, dropout, rng, train)[0]
            if not first:
                x = layer_norm_forward(x, *norm)[0]
            continue
        if slip not in ("no dropout", f"no dropout {number}"):
            y = dropout_forward(y, dropout, rng, train)[0]
        x = added + (2 * y if slip == "sublayers twice" else y)
        if slip.startswith("norm of the sublayer"):
            continue
        if (not first or slip == "both norms") and slip not in ("no norms", f"no norm {number}"):
            x = layer_norm_forward(x, *norm)[0]
    if slip == "norm at the end":
        x = layer_norm_forward(x, params["norm3.gamma"], params["norm3.beta"])[0]
    return x, None


def _backward(dout: Array, cache: tuple, slip: str = ""):
    dx, dmemory, grads = dout, None, {}
    for number in (3, 2, 1):
        enter, inner, (drop, after) = cache[number - 1]
        dnorm, name = (0, 0), _NAMES[number]
        if after is not None:
            dpast, *dnorm = layer_norm_backward(dx, after)
            dx = dx if slip == "no norm" else dpast
        dy = dx if slip == "no dropout" else dropout_backward(dx, drop)
        if number == 3:
            dy, *found = feed_forward_backward(dy, inner)
        else:
            dq, dk, dv, *found = multi_head_attention_backward(dy, inner)
            dother = {"keys": dk, "values": dv}.get(slip, dk + dv)
            dy = dq
            if number == 1:
                dy = {"query": dq, "no query": dother}.get(slip, dq + dother)
            else:
                dmemory = dother
        grads |= dict(zip((f"{name}.{part}" for part in _PARTS[number == 3]), found, strict=True))
        if enter is not None:
            dpast, *dnorm = layer_norm_backward(dy, enter)
            dy = dy if slip == "no norm" else dpast
        grads |= dict(zip((f"norm{number}.gamma", f"norm{number}.beta"), dnorm, strict=True))
        if slip in (f"no residual {number}", "no residual"):
            dx = dy
        elif slip == "minus":
            dx = dx - dy
        elif slip not in (f"past {number}", "past all"):
            dx = dx + dy
    return dx, dmemory, grads


_LAYERS = "self-attention", "cross-attention", "the feed-forward layer"


def _each(words: str, slip: str):
    return [(words.format(name), f"{slip} {i + 1}") for i, name in enumerate(_LAYERS)]


_FORWARD = (
    ("misses the residual: x + sublayer(x)", "no residual"),
    *_each("misses the residual of {}: x + sublayer(x)", "no residual"),
    ("has its norm in the other place: before the sublayer when norm_first, else after the sum",
     "other norm"),
    ("adds to the normalised x: the residual is x itself", "residual of the norm"),
    *_each("adds to the normalised x at {}: the residual is x itself", "residual of the norm"),
    ("normalises what the sublayers return: it is x, or the sum, that is normalised",
     "norm of the sublayer"),
    *_each("normalises what {} returns: it is x, or the sum, that is normalised",
           "norm of the sublayer"),
    ("misses the norms", "no norms"),
    *_each("adds x twice at {}", "two residuals"),
    ("has one norm more, at the end", "norm at the end"),
    ("has norms before and after the sublayers: norm_first says which", "both norms"),
    ("adds each sublayer twice", "sublayers twice"),
    *_each("misses the norm of {}", "no norm"),
    ("takes norm1 for all three sublayers", "norm1 for all"),
    *(
        (f"takes norm{other} for {layer}, which has its own: norm{i + 1}",
         f"norm {i + 1} is {other}")
        for i, layer in enumerate(_LAYERS) for other in (1, 2, 3) if other != i + 1
    ),
    ("does not use the mask", "no mask"),
    ("reads the words in cross-attention: its keys and values come from memory",
     "cross reads words"),
    ("reads the words in cross-attention, masked: its keys and values come from memory",
     "cross reads words masked"),
    ("reads memory in self-attention: its keys and values come from the words",
     "self reads memory"),
    ("has cross-attention before self-attention", "cross first"),
    ("has cross-attention before self-attention", "cross first with norm1"),
    ("has the feed-forward layer first: it comes last", "feed forward first"),
    ("does not use activation: it has ReLU and GELU exchanged", "other f"),
    ("normalises memory too: the words alone", "norm of memory"),
    ("drops of the sum x + sublayer(x): of the sublayer alone", "dropout of the sum"),
    ("misses the dropout of each sublayer", "no dropout"),
    *_each("misses the dropout of {}", "no dropout"),
)  # fmt: skip
_BACKWARD = (
    ("misses the residual: dout goes past the sublayers too", "no residual"),
    *_each("misses the residual of {}: its upstream goes past it too", "no residual"),
    ("subtracts what flows back through the sublayers", "minus"),
    ("is dout alone: the sublayers read x too", "past all"),
    *_each("misses what flows back through {}: it reads x too", "past"),
    ("misses that x is read three times in self-attention: as keys and values too", "query"),
    ("misses that x is read three times in self-attention: as the query too", "no query"),
    ("misses that keys are made of x and of memory: values alone flow back", "values"),
    ("misses that values are made of x and of memory: keys alone flow back", "keys"),
    ("misses the way back through the norms", "no norm"),
    ("misses the way back through dropout", "no dropout"),
)
TABLE: dict[str, Callable] = {
    f"decoder_block_{way}": lambda function=function, named=named: [
        (hint, partial(function, slip=slip)) for hint, slip in named
    ]
    for way, function, named in (
        ("forward", _forward, _FORWARD), ("backward", _backward, _BACKWARD),
    )
}  # fmt: skip
