"""Slips in what has no backward: update rules, clipping, positions, decoders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from core import decoding
from core.gradient_check.slips.formulas import Array, Formulas, slips_from

# The rules as lines. What a step keeps comes before the new weights; ``old`` is what it found.
_ADAM_LINES = {
    "m": "beta1 * old_m + (1 - beta1) * dw",
    "v": "beta2 * old_v + (1 - beta2) * dw**2",
    "m_hat": "m / (1 - beta1**t)",
    "v_hat": "v / (1 - beta2**t)",
}
_NUMBERS = {
    "sgd": {"learning_rate": 1e-2},
    "sgd_momentum": {"learning_rate": 1e-2, "momentum": 0.9},
    "rmsprop": {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8},
    "adam": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
}
_NUMBERS["adamw"] = {**_NUMBERS["adam"], "weight_decay": 1e-2}
_KEPT = {
    "sgd_momentum": ("velocity",),
    "rmsprop": ("cache",),
    "adam": ("m", "v"),
    "adamw": ("m", "v"),
}
_RULES = {
    "sgd": {"next_w": "w + -learning_rate * dw"},
    "sgd_momentum": {
        "velocity": "momentum * old_velocity + dw",
        "next_w": "w + -learning_rate * velocity",
    },
    "rmsprop": {
        "cache": "decay_rate * old_cache + (1 - decay_rate) * dw**2",
        "next_w": "w + -learning_rate * dw / (np.sqrt(cache) + epsilon)",
    },
    "adam": {
        **_ADAM_LINES,
        "next_w": "w + -learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)",
    },
    "adamw": {
        "smaller": "w + -learning_rate * weight_decay * w",
        **_ADAM_LINES,
        "next_w": "smaller + -learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)",
    },
}


_M, _V = _ADAM_LINES["m"], _ADAM_LINES["v"]
_KEPT_M = {"m": f"({_M}) / (1 - beta1**t)", "m_hat": "m"}
_KEPT_V = {"v": f"({_V}) / (1 - beta2**t)", "v_hat": "v"}
_ADAM = (
    ("misses the bias correction: m / (1 - beta1^t), v / (1 - beta2^t)",
     {"m_hat": "m", "v_hat": "v"}),
    ("misses the bias correction of m: m / (1 - beta1^t)", {"m_hat": "m"}),
    ("misses the bias correction of v: v / (1 - beta2^t)", {"v_hat": "v"}),
    ("has epsilon inside the root: sqrt(v_hat) + epsilon",
     {"next_w": "w + -learning_rate * m_hat / np.sqrt(v_hat + epsilon)"}),
    ("adds epsilon before the bias correction: sqrt(v_hat) + epsilon",
     {"next_w": "w + -learning_rate * m_hat * np.sqrt(1 - beta2**t) / (np.sqrt(v) + epsilon)"}),
    ("misses epsilon", {"next_w": "w + -learning_rate * m_hat / np.sqrt(v_hat)"}),
    ("misses the root: divide by sqrt(v_hat)",
     {"next_w": "w + -learning_rate * m_hat / (v_hat + epsilon)"}),
    ("counts t late: the first step is t = 1",
     {"m_hat": "m / (1 - beta1 ** (t - 1) if t > 1 else 1)",
      "v_hat": "v / (1 - beta2 ** (t - 1) if t > 1 else 1)"}),
    ("corrects with beta, not with beta^t: does t count up?",
     {"m_hat": "m / (1 - beta1)", "v_hat": "v / (1 - beta2)"}),
    ("takes the gradient where its mean m belongs",
     {"next_w": "w + -learning_rate * dw / (np.sqrt(v_hat) + epsilon)"}),
    ("has beta1 and beta2 exchanged",
     {"m": "beta2 * old_m + (1 - beta2) * dw", "v": "beta1 * old_v + (1 - beta1) * dw**2",
      "m_hat": "m / (1 - beta2**t)", "v_hat": "v / (1 - beta1**t)"}),
    ("misses the square of the gradient in v", {"v": "beta2 * old_v + (1 - beta2) * dw"}),
    ("has |dw| where dw^2 belongs in v", {"v": "beta2 * old_v + (1 - beta2) * np.abs(dw)"}),
    ("has beta1 where beta2 belongs, in v",
     {"v": "beta1 * old_v + (1 - beta1) * dw**2", "v_hat": "v / (1 - beta1**t)"}),
    ("keeps m and v with their bias correction: keep them as they are, correct copies",
     _KEPT_M | _KEPT_V),
    ("keeps m with its bias correction: keep it as it is, correct a copy", _KEPT_M),
    ("keeps v with its bias correction: keep it as it is, correct a copy", _KEPT_V),
    ("has the wrong sign: the step goes downhill",
     {"next_w": "w + learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)"}),
    ("keeps the largest v so far, as AMSGrad: Adam's v may fall",
     {"v": f"np.maximum({_V}, old_v)"}),
)  # fmt: skip
_OF_GRADIENT_AND_DECAY = {
    line: formula.replace("dw", "(dw + weight_decay * w)")
    for line, formula in _ADAM_LINES.items() if line in "mv"
}  # fmt: skip
_NAMED = {
    "sgd": (
        ("has the wrong sign: the step goes downhill", {"next_w": "w + learning_rate * dw"}),
        ("misses the learning rate", {"next_w": "w + -dw"}),
        ("divides by the learning rate: multiply", {"next_w": "w + -dw / learning_rate"}),
        ("does not use the learning rate of config", {"next_w": "w + -1e-2 * dw"}),
    ),
    "sgd_momentum": (
        ("has the learning rate inside of the velocity, as CS231n: here it is outside",
         {"velocity": "momentum * old_velocity - learning_rate * dw", "next_w": "w + velocity"}),
        ("multiplies dw by 1 - momentum: velocity = momentum velocity + dw",
         {"velocity": "momentum * old_velocity + (1 - momentum) * dw"}),
        ("is Nesterov's: w - learning_rate velocity",
         {"next_w": "w + -learning_rate * (dw + momentum * velocity)"}),
        ("uses the velocity of the step before", {"next_w": "w + -learning_rate * old_velocity"}),
        ("forgets the velocity of the step before: is it kept in config?", {"velocity": "dw"}),
        ("has the wrong sign: the step goes downhill", {"next_w": "w + learning_rate * velocity"}),
    ),
    "rmsprop": (
        ("has epsilon inside the root: sqrt(cache) + epsilon",
         {"next_w": "w + -learning_rate * dw / np.sqrt(cache + epsilon)"}),
        ("has decay_rate and 1 - decay_rate exchanged",
         {"cache": "(1 - decay_rate) * old_cache + decay_rate * dw**2"}),
        ("adds up all squares, as AdaGrad: the cache decays", {"cache": "old_cache + dw**2"}),
        ("misses the square of the gradient",
         {"cache": "decay_rate * old_cache + (1 - decay_rate) * np.abs(dw)"}),
        ("misses the root: divide by sqrt(cache)",
         {"next_w": "w + -learning_rate * dw / (cache + epsilon)"}),
        ("uses the cache of the step before",
         {"next_w": "w + -learning_rate * dw / (np.sqrt(old_cache) + epsilon)"}),
        ("misses epsilon", {"next_w": "w + -learning_rate * dw / np.sqrt(cache)"}),
    ),
    "adam": _ADAM,
    "adamw": (
        ("decays after the step: w shrinks first",
         {"smaller": "w",
          "next_w": f"({_RULES['adamw']['next_w']}) * (1 - learning_rate * weight_decay)"}),
        ("adds the decay to the gradient, as Adam with L2: here it does not pass through m and v",
         {"smaller": "w", **_OF_GRADIENT_AND_DECAY}),
        ("decays twice: the weights, and by the gradient too", _OF_GRADIENT_AND_DECAY),
        ("misses the weight decay", {"smaller": "w"}),
        ("has the wrong sign of the weight decay: w shrinks",
         {"smaller": "w + learning_rate * weight_decay * w"}),
        ("decays without the learning rate: 1 - learning_rate weight_decay",
         {"smaller": "w + -weight_decay * w"}),
        *(
            (hint, {k: line.replace("w + ", "smaller + ", 1) for k, line in lines.items()})
            for hint, lines in _ADAM
        ),
    ),
}  # fmt: skip


def _rule(lines: Callable, name: str, start: Callable = np.zeros_like) -> Callable:
    """The update rule of that name, of its lines; ``start``: dw -> what it remembers at first."""
    kept, numbers = _KEPT.get(name, ()), _NUMBERS[name]

    def rule(w: Array, dw: Array, config: dict | None = None):
        config = {**numbers, **(config or {})}
        config["t"] = config.get("t", 0) + 1
        old = [config.get(each, start(dw)) for each in kept]
        next_w, *new = lines(w, dw, config["t"], *old, *(config[each] for each in numbers))
        return next_w, {**config, **dict(zip(kept, new, strict=True))}

    return rule


RIGHT = {
    name: Formulas(
        ", ".join(["w", "dw", "t", *(f"old_{x}" for x in _KEPT.get(name, ())), *_NUMBERS[name]]),
        "", lines, ", ".join(["next_w", *_KEPT.get(name, ()), ""]),
    )
    for name, lines in _RULES.items()
}  # fmt: skip
LOOPS = {name: (right, partial(_rule, name=name)) for name, right in RIGHT.items()}


def _of_rule(name: str) -> list[tuple[str, Callable]]:
    """The slips of an update rule."""
    found = [(hint, _rule(lines, name)) for hint, lines in slips_from(RIGHT[name], _NAMED[name])]
    kept = " and ".join(_KEPT.get(name, ()))
    for words, start in (
        ("the gradient", np.copy), ("its square", np.square), ("1", np.ones_like),
    ):  # fmt: skip
        hint = f"starts {kept} as {words}: at the first step there is 0 to remember"
        found.append((hint, _rule(RIGHT[name], name, start)))
    return found


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
    if kind == "largest":
        norm = float(max(np.abs(g).max() for g in grads.values()))
        factor = min(1.0, max_norm / (norm + 1e-6))
    if kind == "no eps":
        factor = min(1.0, max_norm / norm)
    clipped = {n: g * factor for n, g in grads.items()}
    if kind == "after":
        norm = float(np.sqrt(sum(np.sum(g**2) for g in clipped.values())))
    if kind == "limit":
        norm = min(norm, max_norm)
    if kind == "unit":
        clipped = {n: g / norm for n, g in grads.items()} if factor < 1 else dict(grads)
    if kind == "none":
        clipped = dict(grads)
    return clipped, norm


def _positions(length: int, width: int, kind: str) -> Array:
    even = np.arange(0, width, 2)
    power = {
        "index": np.arange(len(even)) / width,
        "up": -even / width,
        "twice": 2 * even / width,
    }.get(kind, even / width)
    start = 1 if kind == "one" else 0
    base = 1000.0 if kind == "base" else 10000.0
    angles = np.arange(start, length + start)[:, None] / base**power
    if kind == "reversed":
        angles = angles[::-1]
    if kind == "pi":
        angles = angles * np.pi
    out = np.zeros((length, width))
    if kind == "halves":
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]
    out[:, 0::2], out[:, 1::2] = np.sin(angles), np.cos(angles)[:, : width // 2]
    if kind == "swapped":
        out[:, 0::2], out[:, 1::2] = np.cos(angles), np.sin(angles)[:, : width // 2]
    if kind in ("sines", "cosines"):
        of = np.sin if kind == "sines" else np.cos
        out[:, 0::2], out[:, 1::2] = of(angles), of(angles)[:, : width // 2]
    if kind == "each":
        every = np.arange(length)[:, None] / base ** (np.arange(width) / width)
        out[:, 0::2], out[:, 1::2] = np.sin(every[:, 0::2]), np.cos(every[:, 1::2])
    return out


def _greedy(model, features, max_length=30, allow_unknown=False, kind=""):
    captions = np.full((len(features), max_length), model.null, dtype=np.int64)
    tokens = np.full(len(features), model.null if kind == "null" else model.start)
    state, done = model.begin(features), np.zeros(len(features), dtype=bool)
    never = [model.null, model.start, model.unknown]
    for t in range(max_length - (kind == "short")):
        scores, new = model.step(state, tokens)
        scores = np.array(scores)
        state = state if kind == "state" else new
        if kind != "all words":
            scores[:, never] = -np.inf
        if kind == "worst":
            scores = -np.where(np.isfinite(scores), scores, np.inf)
        if kind == "last of ties":
            tokens = scores.shape[1] - 1 - scores[:, ::-1].argmax(axis=1)
        else:
            tokens = scores.argmin(axis=1) if kind == "worst of all" else scores.argmax(axis=1)
        if kind == "second":
            tokens = np.argsort(-scores, axis=1, kind="stable")[:, 1]
        if kind == "first of all":
            tokens = np.full(len(features), tokens[0])
        if kind == "no end written":
            done |= tokens == model.end
        captions[:, t] = tokens if kind == "goes on" else np.where(done, model.null, tokens)
        done = tokens == model.end if kind == "not kept" else done | (tokens == model.end)
        if kind == "start again":
            tokens = np.full(len(features), model.start)
        if kind == "stops all" and done.any():
            break
    if kind == "ends to the end":
        after = np.cumsum(captions == model.end, axis=1) > 0
        captions[after] = model.end
    if kind == "one late":
        captions = np.hstack([np.full((len(captions), 1), model.null), captions[:, :-1]])
    if kind == "start first":
        captions[:, 0] = model.start
    if kind == "start before":
        captions = np.hstack([np.full((len(captions), 1), model.start), captions[:, :-1]])
    return captions


def _beam(
    model, features, beam_size=5, max_length=30, length_penalty=1.0, n_best=1, kind="",
    stop=False,
):  # fmt: skip
    captions = np.full((len(features), n_best, max_length), model.null, dtype=np.int64)
    scores = np.full((len(features), n_best), -np.inf)
    for n in range(len(features)):
        state, tokens = model.begin(features[n : n + 1]), np.array([model.start])
        open_, total, ended = [[]], np.zeros(1), []
        for t in range(max_length):
            found, state = model.step(state, tokens)
            found = np.array(found)
            if kind != "all words":
                found[:, [model.null, model.start, model.unknown]] = -np.inf
            if kind == "probabilities":
                found = np.exp(found)
            grown = found if kind == "last word" else total[:, None] + found
            if kind == "prunes by score":
                grown = grown / (t + 1) ** length_penalty
            kept = {"shrinks": beam_size - len(ended), "one": 1}.get(kind, beam_size)
            best = np.argsort(-grown.ravel(), kind="stable")[: max(kept, 0)]
            if kind == "prunes by word":
                best = np.argsort(-found.ravel(), kind="stable")[: max(kept, 0)]
                best = best[np.isfinite(found.ravel()[best])]
            if kind == "each" and t:
                best = grown.argmax(axis=1) + grown.shape[1] * np.arange(len(grown))
            best = best[np.isfinite(grown.ravel()[best])]
            rows, words = np.divmod(best, grown.shape[1])
            length = {"from 0": max(t, 1), "from 2": t + 2, "none": 1}.get(kind, t + 1)
            length = length * length_penalty if kind == "no power" else length**length_penalty
            for row, word in zip(rows, words, strict=True):
                if word == model.end:
                    score = grown[row, word]
                    score = score * length if kind == "times" else score / length
                    ended.append((score, open_[row] + [word] * (kind != "no end")))
            if kind == "keeps worst":
                ended = sorted(ended, key=lambda each: each[0])[:n_best]
            going = words != model.end
            if kind == "ended go on":
                going = np.ones_like(going)
            rows, words = rows[going], words[going]
            open_ = [[*open_[row], word] for row, word in zip(rows, words, strict=True)]
            total = grown[rows, words]
            if not len(rows) or (kind == "first end" and ended):
                break
            if stop and len(ended) >= n_best:
                last = sorted((each[0] for each in ended), reverse=True)[n_best - 1]
                if total.max() / max_length**length_penalty <= last:
                    break
            chosen = {"not reordered": np.arange(len(rows)) % len(grown), "first row": 0 * rows}
            state = model.select(state, chosen.get(kind, rows))
            tokens = words
        ended.sort(key=lambda each: each[0] if "worst" in kind else -each[0])
        if not ended and len(total):
            best = int(total.argmax())
            ended = [(total[best] / max_length**length_penalty, open_[best])]
        if kind == "open too":
            rest = ((s / max_length**length_penalty, b) for s, b in zip(total, open_, strict=True))
            ended = sorted([*ended, *rest], key=lambda each: -each[0])
        if kind == "not divided":
            ended = [(score * len(b) ** length_penalty, b) for score, b in ended]
        for k, (score, words) in enumerate(ended[:n_best]):
            scores[n, k], captions[n, k, : len(words)] = score, words
    return captions, scores


TABLE = {
    **{name: partial(_of_rule, name) for name in _RULES},
    "clip_gradient_norm": lambda: [
        (hint, partial(_clip, kind=kind))
        for hint, kind in (
            ("clips each gradient by its own norm: one factor for all", "each"),
            ("clips each value: one factor for all", "values"),
            ("scales small gradients up: leave them where the norm is small enough", "always"),
            ("misses the root of the norm", "squared"),
            ("adds up the norms: the root of the sum of all squares", "sum"),
            ("takes the largest value for the norm: the root of the sum of all squares", "largest"),
            ("misses the 1e-6: max_norm / (norm + 1e-6)", "no eps"),
            ("is the norm after the clipping: return that before", "after"),
            ("is max_norm after the clipping: return the norm before", "limit"),
            ("scales to a norm of 1, not of max_norm", "unit"),
            ("is not clipped", "none"),
        )
    ],
    "positional_encoding": lambda: [
        (hint, partial(_positions, kind=kind))
        for hint, kind in (
            ("has sines and cosines exchanged: the sine comes first", "swapped"),
            ("has sines in the first half: they alternate", "halves"),
            ("has sines alone: the odd columns hold cosines", "sines"),
            ("has cosines alone: the even columns hold sines", "cosines"),
            ("has a frequency for each column: two columns share one", "each"),
            ("has i / width where 2i / width belongs", "index"),
            ("doubles the exponent: 2i is the number of the column, 0, 2, 4", "twice"),
            ("starts at position 1: the first is 0", "one"),
            ("has a base of 1000: 10000 belongs", "base"),
            ("has its frequencies upside down", "up"),
            ("has pi in its angles", "pi"),
            ("has its positions in the wrong order: the last comes first", "reversed"),
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
                ("forgets which captions have ended: what has ended stays so", "not kept"),
                ("takes the least probable word", "worst"),
                ("takes the least probable word", "worst of all"),
                ("takes the second best word", "second"),
                ("stops at the first caption that ends: the others go on", "stops all"),
                ("says <END> up to the end: what follows the first is <NULL>", "ends to the end"),
                ("says of every image what is said of the first", "first of all"),
                ("writes each word one place late: the first word is at 0", "one late"),
                ("stops one word too early: max_length words are allowed", "short"),
                ("has <START> in it: a caption begins with the first word", "start first"),
                ("has <START> in it: a caption begins with the first word", "start before"),
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
        ("keeps one beginning alone: greedy", partial(_beam, kind="one")),
        *(
            (f"keeps {size} beginnings, whatever beam_size says", partial(_sized, size=size))
            for size in range(2, 8)
        ),
        *(
            (hint, partial(_beam, kind=kind, stop=stop))
            for stop in (False, True)  # before all have ended, or not: a slip makes a difference
            for hint, kind in (
                ("is not divided by the number of words to the power of length_penalty", "none"),
                ("divides by the number of words without <END>: it counts too", "from 0"),
                ("divides by one word too many", "from 2"),
                ("multiplies the length by length_penalty: that is its power", "no power"),
                ("multiplies by the number of words to the power of length_penalty: divide",
                 "times"),
                ("is the log-probability of the last word alone: add up those of all words",
                 "last word"),
                ("adds up probabilities: add up their logarithms", "probabilities"),
                ("does not reorder the state: model.select(state, rows) after each word",
                 "not reordered"),
                ("keeps the state of the first beginning alone: model.select(state, rows)",
                 "first row"),
                ("returns the worst first: the best comes first", "worst first"),
                ("keeps the worst of what has finished: keep the best", "keeps worst"),
                ("stops at the first finished caption: others may still be better", "first end"),
                ("keeps the best word of each beginning: keep the best of all their words", "each"),
                ("counts beginnings that have not ended: they count where none has ended",
                 "open too"),
                ("returns log-probabilities: divide them by the length too", "not divided"),
                ("compares beginnings by their last word alone: by all words", "prunes by word"),
                ("compares beginnings by their score: by their log-probability", "prunes by score"),
                ("keeps fewer beginnings once some have finished", "shrinks"),
                ("goes on with beginnings that have ended", "ended go on"),
                ("misses <END> itself: it belongs to the caption", "no end"),
                ("says <NULL>, <START> or <UNK>: they may not be chosen", "all words"),
            )
        ),
    ],
}  # fmt: skip


def _sized(model, features, beam_size=5, max_length=30, length_penalty=1.0, n_best=1, size=5):
    return decoding.beam_search(
        model, features, max(size, n_best), max_length, length_penalty, n_best
    )


def _searched(model, features, beam_size=5, max_length=30, length_penalty=1.0, n_best=1, **options):
    size = max(beam_size, n_best)
    return decoding.beam_search(
        model, features, size, max_length, length_penalty, n_best, **options
    )
