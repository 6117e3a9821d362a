"""From scores to sentences: greedy, sampling and beam search, written once, for every model.

And back: how probable a model finds each word of a sentence that is there already.

A decoder is all that this file knows of a model:

    model.begin(features)      -> state                     encodes the images once
    model.step(state, tokens)  -> log_probs (N, V), state   one more word
    model.select(state, rows)  -> state                     reorders or repeats rows, for beams
    model.null, .start, .end, .unknown                      ids of the special words, or None
    model.max_length                                        words it has positions for; None: any

No caption ever holds <NULL> before its end, <START>, or, unless asked for, <UNK>.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.layers import check_word_ids

Array = np.ndarray


def greedy(model, features: Array, max_length: int = 30, allow_unknown: bool = False) -> Array:
    """The most probable word at every step, until <END>; of equals, the one with the lower id.

    Inputs:
    - model: a decoder, as above
    - features: (N, ...) one image a row
    - max_length: number of words at most, <END> included; never more than model.max_length
    - allow_unknown: whether <UNK> may be chosen

    Returns (N, max_length) word ids; what follows <END> is <NULL>.

    Raises ValueError when the vocabulary has no <START> or no <END>, or max_length is below 1.
    """
    return _word_by_word(
        model, features, max_length, allow_unknown, lambda log_probs: log_probs.argmax(axis=1)
    )


def sample(
    model,
    features: Array,
    rng: np.random.Generator,
    max_length: int = 30,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    allow_unknown: bool = False,
) -> Array:
    """Draws every word from the model's distribution, or from the head of it.

    Top-k sampling (Fan, Lewis and Dauphin, ACL 2018, section 5.4) and nucleus sampling (Holtzman et
    al., ICLR 2020, section 3.1) cut off the long tail of words that are improbable one by one, but
    not together.

    Inputs, besides those of ``greedy``:
    - rng: makes the draws
    - temperature: log-probabilities are divided by it; below 1 sharpens, towards 0 is greedy
    - top_k: draw among this many most probable words; None: all
    - top_p: draw from the smallest set of most probable words that holds at least this share of the
      mass that temperature and top_k have left; None: all

    Returns (N, max_length) word ids; what follows <END> is <NULL>.

    Raises ValueError as ``greedy``, and unless temperature > 0, top_k >= 1 and 0 < top_p <= 1.
    """
    _check("temperature", temperature, 0 < temperature < np.inf, "above 0 and finite")
    _check("top_k", top_k, top_k is None or top_k >= 1, "at least 1, or None")
    _check("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0 and at most 1, or None")

    def draw(log_probs: Array) -> Array:
        N, V = log_probs.shape
        rows, words = np.arange(N), None
        if top_k is not None or top_p is not None:
            words, log_probs = _best(log_probs, V if top_k is None else top_k)
        # The best word is at 0: exp can neither overflow nor lose all words. In float64, because
        # a sum of thousands of float32 would move the bounds between the words.
        log_probs = log_probs.astype(np.float64)
        weights = np.exp((log_probs - log_probs.max(axis=1, keepdims=True)) / temperature)
        cumulative = weights.cumsum(axis=1)
        mass = cumulative[:, -1]
        if top_p is not None:
            mass = cumulative[rows, (cumulative >= top_p * mass[:, None]).argmax(axis=1)]
        # A uniform point on [0, mass) falls into a word's share of it with the word's probability.
        drawn = (cumulative <= (rng.random(N) * mass)[:, None]).sum(axis=1)
        return drawn if words is None else words[rows, drawn]

    return _word_by_word(model, features, max_length, allow_unknown, draw)


def beam_search(
    model,
    features: Array,
    beam_size: int = 5,
    max_length: int = 30,
    length_penalty: float = 1.0,
    n_best: int = 1,
    allow_unknown: bool = False,
) -> tuple[Array, Array]:
    """The best captions found when the beam_size best beginnings are kept at every word.

    A caption's score is its log-probability / (number of words, <END> included) ** length_penalty.
    At 0 short captions win, since every word costs probability; at 1 the score is the mean over the
    words. (Wu et al. 2016, "Google's Neural Machine Translation System", section 7.)

    What ends with <END> among the beam_size best is finished; the others stay open. The search for
    an image stops when none is open, or when none that is open can beat the n_best-th finished one
    (Huang, Zhao and Ma, EMNLP 2017, "When to Finish?").

    Inputs, besides those of ``greedy``:
    - beam_size: K, beginnings kept for an image; 1 is greedy
    - length_penalty: exponent, at least 0
    - n_best: captions returned for an image, at most beam_size

    Returns, best first:
    - captions: (N, n_best, max_length) word ids; what follows <END> is <NULL>
    - scores: (N, n_best) float64. Where fewer captions have finished, the others are <NULL> with
      score -inf; where none has, the first is the best beginning of full length.

    Raises ValueError as ``greedy``, and for beam_size, length_penalty or n_best out of range.
    """
    _check("beam_size", beam_size, beam_size >= 1, "at least 1")
    _check("length_penalty", length_penalty, 0 <= length_penalty < np.inf, "at least 0 and finite")
    _check("n_best", n_best, 1 <= n_best <= beam_size, f"1 to beam_size = {beam_size}")
    steps, never = _limits(model, max_length, allow_unknown)
    N, K = len(features), beam_size
    captions = np.full((N, n_best, max_length), model.null, dtype=np.int64)
    scores = np.full((N, n_best), -np.inf)

    # Open beginnings: n of the N images are still searched, each with w beams (1 at first, then at
    # most K). Row i w + j of state and tokens is beam j of image i. A beam that has ended keeps its
    # place with log-probability -inf, so that every image has w.
    images = np.arange(N)
    beams = np.full((N, 1, max_length), model.null, dtype=np.int64)
    log_p = np.zeros((N, 1))
    tokens = np.full(N, model.start, dtype=np.int64)
    state = model.begin(features)
    for t in range(steps):
        if len(images) == 0:
            break
        n, w = log_p.shape
        log_probs, state = model.step(state, tokens)

        # The K best continuations of all beams of an image, best first.
        words, extra = _best(_without(log_probs, never), K)  # (n w, k)
        k = words.shape[1]
        total = (log_p[:, :, None] + extra.reshape(n, w, k)).reshape(n, w * k)
        order = np.argsort(-total, axis=1, kind="stable")[:, :K]
        log_p, words = _take(total, order), _take(words.reshape(n, w * k), order)
        parents = order // k
        beams = _take(beams, parents)
        beams[:, :, t] = words

        # Those that end here go among the image's n_best; of equals, the earlier stays ahead.
        ends = words == model.end
        score = np.where(ends, log_p, -np.inf) / (t + 1) ** length_penalty
        pool = np.concatenate([scores[images], score], axis=1)
        order = np.argsort(-pool, axis=1, kind="stable")[:, :n_best]
        scores[images] = _take(pool, order)
        captions[images] = _take(np.concatenate([captions[images], beams], axis=1), order)

        # An image is searched on if its best open beam could still beat its n_best-th caption. More
        # words only lower log_p, which is at most 0; divided by the largest length it scores best.
        log_p = np.where(ends, -np.inf, log_p)
        bound = log_p.max(axis=1) / steps**length_penalty
        open_ = np.flatnonzero(bound > scores[images, -1])
        rows = w * open_[:, None] + parents[open_]
        state, tokens = model.select(state, rows.ravel()), words[open_].ravel()
        images, beams, log_p = images[open_], beams[open_], log_p[open_]

    unfinished = np.flatnonzero(np.isneginf(scores[images, 0]))
    best = log_p[unfinished].argmax(axis=1)
    captions[images[unfinished], 0] = beams[unfinished, best]
    scores[images[unfinished], 0] = log_p[unfinished, best] / steps**length_penalty
    return captions, scores


def word_log_probabilities(model, features: Array, captions: Array) -> Array:
    """How probable the model finds each word of given captions, after those before it.

    Of the whole distribution: nothing is forbidden here that a decoder would not choose.

    Inputs:
    - model: a decoder, as above
    - features: (N, ...) one image a row
    - captions: (N, T + 1) word ids, <START> first

    Returns (N, T): the natural logarithm of the probability of captions[:, t + 1]; 0 for <NULL>, so
    that a row sums to the log-probability of its caption.

    Raises ValueError for captions of another shape, and for ids outside the vocabulary.
    """
    captions = np.asarray(captions)
    if captions.ndim != 2 or len(captions) != len(features) or captions.shape[1] < 2:
        raise ValueError(
            f"captions: found shape {captions.shape}, expected ({len(features)}, at least 2)"
        )
    rows, state, found = np.arange(len(captions)), model.begin(features), []
    for words, targets in zip(captions.T[:-1], captions.T[1:], strict=True):
        log_probs, state = model.step(state, words)
        check_word_ids(targets, log_probs.shape[1], "captions")  # -1 would read the last word
        found.append(np.where(targets == model.null, 0, log_probs[rows, targets]))
    return np.stack(found, axis=1)


# ---------------------------------------------------------------------------------------------
# What they share
# ---------------------------------------------------------------------------------------------


def _word_by_word(
    model,
    features: Array,
    max_length: int,
    allow_unknown: bool,
    choose: Callable[[Array], Array],
) -> Array:
    """One caption an image, without looking back: (N, max_length) ids.

    ``choose`` gets log-probabilities (n, V), its own to overwrite and -inf for what must not be
    chosen, and returns (n,) ids.
    """
    steps, never = _limits(model, max_length, allow_unknown)
    N = len(features)
    captions = np.full((N, max_length), model.null, dtype=np.int64)
    tokens = np.full(N, model.start, dtype=np.int64)
    rows = np.arange(N)  # images whose caption goes on
    state = model.begin(features)
    for t in range(steps):
        if len(rows) == 0:
            break
        log_probs, state = model.step(state, tokens)
        tokens = choose(_without(log_probs, never))
        captions[rows, t] = tokens
        goes_on = np.flatnonzero(tokens != model.end)
        if len(goes_on) < len(rows):
            rows, tokens, state = rows[goes_on], tokens[goes_on], model.select(state, goes_on)
    return captions


def _limits(model, max_length: int, allow_unknown: bool) -> tuple[int, list[int]]:
    """How many steps to take, and the words that are never chosen."""
    if model.start is None or model.end is None:
        raise ValueError("decoding needs <START> and <END> in the vocabulary (word_to_idx)")
    _check("max_length", max_length, max_length >= 1, "at least 1")
    positions = getattr(model, "max_length", None)
    steps = max_length if positions is None else min(max_length, positions)
    return steps, never_said(model, allow_unknown)


def never_said(model, allow_unknown: bool = False) -> list[int]:
    """The words that no decoder chooses."""
    never = [model.null, model.start, None if allow_unknown else model.unknown]
    return [word for word in never if word is not None]


def without_undrawn(model, scores: Array, targets: Array, top_k: int) -> Array:
    """A copy of scores (..., V) with -inf for the words that ``sample`` with top_k does not draw.

    For the loss of captions that were drawn (``core/recipes/self_critical.py``): with all words in
    it, what is taken from a bad caption would go to words that are never drawn, and never punished.

    ``targets`` (...) are the words that were drawn; their scores stay.
    """
    never = never_said(model)
    kept = _without(scores, never)
    worst = scores.shape[-1] - min(top_k, scores.shape[-1])  # that is kept, when sorted
    drawn = kept >= np.partition(kept, worst, axis=-1)[..., worst, None]
    drawn[..., never] = False  # where there are fewer than top_k others
    np.put_along_axis(drawn, targets[..., None], True, axis=-1)
    return np.where(drawn, scores, -np.inf)


def _without(log_probs: Array, never: list[int]) -> Array:
    """A copy with -inf for the words that must not be chosen; not renormalised."""
    log_probs = log_probs.copy()
    log_probs[..., never] = -np.inf
    return log_probs


def _best(scores: Array, k: int) -> tuple[Array, Array]:
    """The k best of every row, best first; of equals, the lower index. Overwrites scores (n, V).

    Returns indices and values, each (n, min(k, V)); the values are -inf, and the indices without
    meaning, where a row has no more to give.
    """
    k = min(k, scores.shape[1])
    # Both give the same: k passes cost less than sorting all words, unless k is large.
    if k > 64:
        indices = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return indices, _take(scores, indices)
    rows = np.arange(len(scores))
    indices = np.empty((len(scores), k), dtype=np.int64)
    values = np.empty((len(scores), k), dtype=scores.dtype)
    for j in range(k):
        indices[:, j] = best = scores.argmax(axis=1)
        values[:, j] = scores[rows, best]
        scores[rows, best] = -np.inf
    return indices, values


def _take(x: Array, indices: Array) -> Array:
    """For each row of x (n, w, ...) its entries at indices (n, m) -> (n, m, ...)."""
    return x[np.arange(len(x))[:, None], indices]


def _check(name: str, value, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name}: found {value}, expected {expected}")
