"""Slips in what has no backward: update rules, clipping, positions, decoders."""

from __future__ import annotations

from functools import partial

import numpy as np

from core import decoding
from core.gradient_check.slips.formulas import Array


def _config(config: dict | None, **defaults) -> dict:
    return {**defaults, **(config or {})}


def _sgd(w, dw, config=None, sign=-1, momentum=0.0, rate=None):
    config = _config(config, learning_rate=1e-2)
    return w + sign * (config["learning_rate"] if rate is None else rate) * dw, config


def _momentum(w, dw, config=None, kind=""):
    config = _config(config, learning_rate=1e-2, momentum=0.9)
    v, mu, rate = (
        config.get("velocity", np.zeros_like(w)),
        config["momentum"],
        config["learning_rate"],
    )
    steps = {
        "cs231n": (mu * v - rate * dw, lambda v: v),
        "averaged": (mu * v + (1 - mu) * dw, lambda v: -rate * v),
        "nesterov": (mu * v + dw, lambda v: -rate * (dw + mu * v)),
        "old": (mu * v + dw, lambda _: -rate * v),
        "none": (dw, lambda v: -rate * v),
        "plus": (mu * v + dw, lambda v: rate * v),
    }  # fmt: skip
    config["velocity"], step = steps[kind]
    return w + step(config["velocity"]), config


def _rmsprop(w, dw, config=None, kind=""):
    config = _config(config, learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    rate, decay, eps = config["learning_rate"], config["decay_rate"], config["epsilon"]
    old = config.get("cache", np.zeros_like(w))
    new = decay * old + (1 - decay) * dw**2
    if kind == "swapped":
        new = (1 - decay) * old + decay * dw**2
    if kind == "adagrad":
        new = old + dw**2
    if kind == "no square":
        new = decay * old + (1 - decay) * np.abs(dw)
    config["cache"] = new
    below = {
        "inside": np.sqrt(new + eps), "no root": new + eps, "old": np.sqrt(old) + eps,
        "no eps": np.sqrt(new),
    }.get(kind, np.sqrt(new) + eps)  # fmt: skip
    return w - rate * dw / below, config


def _adam(w, dw, config=None, kind="", decay="none"):
    config = _config(
        config, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=1e-2
    )
    rate, b1, b2, eps = (config[name] for name in ("learning_rate", "beta1", "beta2", "epsilon"))
    shrink = config["weight_decay"]
    t = config.get("t", 0) + (kind != "t late")
    if decay == "coupled":
        dw = dw + shrink * w
    if decay == "before":
        w = w * (1 - rate * shrink)
    if decay == "no rate":
        w = w * (1 - shrink)
    config["m"] = m = b1 * config.get("m", 0 * w) + (1 - b1) * dw
    config["v"] = v = b2 * config.get("v", 0 * w) + (1 - b2) * (
        dw if kind == "no square" else dw**2
    )
    if kind == "betas swapped":
        config["m"] = m = b2 * (config["m"] - (1 - b1) * dw) / b1 + (1 - b2) * dw
    one, two = 1 - b1 ** max(t, 0), 1 - b2 ** max(t, 0)
    if kind == "t late" and t == 0:
        one = two = 1.0
    config["t"] = config.get("t", 0) + 1
    if kind == "t alone":
        one, two = 1 - b1, 1 - b2
    if kind in ("no correction", "no correction of m"):
        one = 1.0
    if kind in ("no correction", "no correction of v"):
        two = 1.0
    root = np.sqrt(v / two)
    below = {
        "inside": np.sqrt(v / two + eps), "no root": v / two + eps,
        "early": (np.sqrt(v) + eps) / np.sqrt(two), "no eps": root,
    }.get(kind, root + eps)  # fmt: skip
    new = w - rate * m / one / below
    if kind == "dw":
        new = w - rate * dw / below
    if kind == "plus":
        new = w + rate * m / one / below
    if decay == "after":
        new = new * (1 - rate * shrink)
    return new, config


_ADAM = (
    ("misses the bias correction: m / (1 - beta1^t), v / (1 - beta2^t)", "no correction"),
    ("misses the bias correction of m: m / (1 - beta1^t)", "no correction of m"),
    ("misses the bias correction of v: v / (1 - beta2^t)", "no correction of v"),
    ("has epsilon inside the root: sqrt(v_hat) + epsilon", "inside"),
    ("adds epsilon before the bias correction: sqrt(v_hat) + epsilon", "early"),
    ("misses epsilon", "no eps"),
    ("misses the root: divide by sqrt(v_hat)", "no root"),
    ("counts t late: the first step is t = 1", "t late"),
    ("corrects with beta, not with beta^t", "t alone"),
    ("takes the gradient where its mean m belongs", "dw"),
    ("has the wrong sign: the step goes downhill", "plus"),
)


def _clip(grads: dict[str, Array], max_norm: float, kind: str):
    norm = float(np.sqrt(sum(np.sum(g**2) for g in grads.values())))
    factor = min(1.0, max_norm / (norm + 1e-6))
    if kind == "each":
        found = {n: g * min(1.0, max_norm / (np.linalg.norm(g) + 1e-6)) for n, g in grads.items()}
        return found, norm
    if kind == "values":
        return {n: np.clip(g, -max_norm, max_norm) for n, g in grads.items()}, norm
    if kind == "always":
        factor = max_norm / (norm + 1e-6)
    if kind == "squared":
        norm = norm**2
        factor = min(1.0, max_norm / (norm + 1e-6))
    if kind == "sum":
        norm = float(sum(np.linalg.norm(g) for g in grads.values()))
        factor = min(1.0, max_norm / (norm + 1e-6))
    if kind == "no eps":
        factor = min(1.0, max_norm / norm)
    clipped = {n: g * factor for n, g in grads.items()}
    if kind == "after":
        norm = float(np.sqrt(sum(np.sum(g**2) for g in clipped.values())))
    if kind == "unit":
        clipped = {n: g / norm for n, g in grads.items()} if factor < 1 else dict(grads)
    if kind == "none":
        clipped = dict(grads)
    return clipped, norm


def _positions(length: int, width: int, kind: str) -> Array:
    even = np.arange(0, width, 2)
    power = {"index": np.arange(len(even)) / width, "up": -even / width}.get(kind, even / width)
    start = 1 if kind == "one" else 0
    base = 1000.0 if kind == "base" else 10000.0
    angles = np.arange(start, length + start)[:, None] / base**power
    out = np.zeros((length, width))
    if kind == "halves":
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]
    out[:, 0::2], out[:, 1::2] = np.sin(angles), np.cos(angles)[:, : width // 2]
    if kind == "swapped":
        out[:, 0::2], out[:, 1::2] = np.cos(angles), np.sin(angles)[:, : width // 2]
    if kind == "each":
        every = np.arange(length)[:, None] / base ** (np.arange(width) / width)
        out[:, 0::2], out[:, 1::2] = np.sin(every[:, 0::2]), np.cos(every[:, 1::2])
    return out


def _greedy(model, features, max_length=30, allow_unknown=False, kind=""):
    captions = np.full((len(features), max_length), model.null, dtype=np.int64)
    tokens = np.full(len(features), model.null if kind == "null" else model.start)
    state, done = model.begin(features), np.zeros(len(features), dtype=bool)
    never = [model.null, model.start, model.unknown]
    for t in range(max_length):
        scores, new = model.step(state, tokens)
        scores = np.array(scores)
        state = state if kind == "state" else new
        if kind != "all words":
            scores[:, never] = -np.inf
        if kind == "last of ties":
            tokens = scores.shape[1] - 1 - scores[:, ::-1].argmax(axis=1)
        else:
            tokens = scores.argmin(axis=1) if kind == "worst" else scores.argmax(axis=1)
        if kind == "no end written":
            done |= tokens == model.end
        captions[:, t] = tokens if kind == "goes on" else np.where(done, model.null, tokens)
        done |= tokens == model.end
        if kind == "start again":
            tokens = np.full(len(features), model.start)
    return captions


TABLE = {
    "sgd": lambda: [
        ("has the wrong sign: the step goes downhill", partial(_sgd, sign=1)),
        ("misses the learning rate", partial(_sgd, rate=1.0)),
        ("does not use the learning rate of config", partial(_sgd, rate=1e-2)),
    ],
    "sgd_momentum": lambda: [
        ("has the learning rate inside of the velocity, as CS231n: here it is outside",
         partial(_momentum, kind="cs231n")),
        ("multiplies dw by 1 - momentum: velocity = momentum velocity + dw",
         partial(_momentum, kind="averaged")),
        ("is Nesterov's: w - learning_rate velocity", partial(_momentum, kind="nesterov")),
        ("uses the velocity of the step before", partial(_momentum, kind="old")),
        ("forgets the velocity of the step before: is it kept in config?",
         partial(_momentum, kind="none")),
        ("has the wrong sign: the step goes downhill", partial(_momentum, kind="plus")),
    ],
    "rmsprop": lambda: [
        (hint, partial(_rmsprop, kind=kind))
        for hint, kind in (
            ("has epsilon inside the root: sqrt(cache) + epsilon", "inside"),
            ("has decay_rate and 1 - decay_rate exchanged", "swapped"),
            ("adds up all squares, as AdaGrad: the cache decays", "adagrad"),
            ("misses the square of the gradient", "no square"),
            ("misses the root: divide by sqrt(cache)", "no root"),
            ("uses the cache of the step before", "old"),
            ("misses epsilon", "no eps"),
        )
    ],
    "adam": lambda: [(hint, partial(_adam, kind=kind)) for hint, kind in _ADAM],
    "adamw": lambda: [
        ("decays after the step: w shrinks first", partial(_adam, decay="after")),
        ("adds the decay to the gradient, as Adam with L2: here it does not pass through m and v",
         partial(_adam, decay="coupled")),
        ("misses the weight decay", partial(_adam, decay="none")),
        ("decays without the learning rate: 1 - learning_rate weight_decay",
         partial(_adam, decay="no rate")),
        *((hint, partial(_adam, kind=kind, decay="before")) for hint, kind in _ADAM),
    ],
    "clip_gradient_norm": lambda: [
        (hint, partial(_clip, kind=kind))
        for hint, kind in (
            ("clips each gradient by its own norm: one factor for all", "each"),
            ("clips each value: one factor for all", "values"),
            ("scales small gradients up: leave them where the norm is small enough", "always"),
            ("misses the root of the norm", "squared"),
            ("adds up the norms: the root of the sum of all squares", "sum"),
            ("misses the 1e-6: max_norm / (norm + 1e-6)", "no eps"),
            ("is the norm after the clipping: return that before", "after"),
            ("scales to a norm of 1, not of max_norm", "unit"),
            ("is not clipped", "none"),
        )
    ],
    "positional_encoding": lambda: [
        (hint, partial(_positions, kind=kind))
        for hint, kind in (
            ("has sines and cosines exchanged: the sine comes first", "swapped"),
            ("has sines in the first half: they alternate", "halves"),
            ("has a frequency for each column: two columns share one", "each"),
            ("has i / width where 2i / width belongs", "index"),
            ("starts at position 1: the first is 0", "one"),
            ("has a base of 1000: 10000 belongs", "base"),
            ("has its frequencies upside down", "up"),
        )
    ],
    "greedy": lambda: [
        ("says <UNK>: only with allow_unknown=True may it",
         partial(decoding.greedy, allow_unknown=True)),
        *(
            (hint, partial(_greedy, kind=kind))
            for hint, kind in (
                ("says <NULL>, <START> or <UNK>: they may not be chosen", "all words"),
                ("takes the last of equal words: of equals, the lower id", "last of ties"),
                ("goes on after <END>: what follows is <NULL>", "goes on"),
                ("misses <END> itself: it belongs to the caption", "no end written"),
                ("takes the least probable word", "worst"),
                ("does not keep the new state of model.step", "state"),
                ("reads <START> at every step: read the word that was chosen", "start again"),
                ("starts with <NULL>: the first word that is read is <START>", "null"),
            )
        ),
    ],
    "beam_search": lambda: [
        ("is not divided by the number of words to the power of length_penalty",
         partial(_searched, length_penalty=0.0)),
        ("says <UNK>: only with allow_unknown=True may it", partial(_searched, allow_unknown=True)),
        ("is that of a beam of 1: greedy", partial(_searched, beam_size=1)),
    ],
}  # fmt: skip


def _searched(model, features, beam_size=5, max_length=30, length_penalty=1.0, n_best=1, **options):
    size = max(beam_size, n_best)
    return decoding.beam_search(
        model, features, size, max_length, length_penalty, n_best, **options
    )
