"""From scores to sentences: written once, for every model.

A decoder is all that this file knows of a model:

    model.begin(features)      -> state                     encodes the images once
    model.step(state, tokens)  -> log_probs (N, V), state   one more word
    model.select(state, rows)  -> state                     reorders or repeats rows, for beams
    model.null, .start, .end, .unknown                      ids of the special words, or None
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def greedy(model, features: Array, max_length: int = 30) -> Array:
    """The most probable word at every step, until <END>.

    Inputs:
    - model: a decoder, as above
    - features: (N, ...) one image a row
    - max_length: number of words at most, <END> included

    Returns (N, max_length) word ids; what follows <END> is <NULL>. <NULL>, <START> and <UNK> are
    never chosen.

    Raises ValueError when the vocabulary has no <START> or no <END>.
    """
    if model.start is None or model.end is None:
        raise ValueError("decoding needs <START> and <END> in the vocabulary (word_to_idx)")
    never = [word for word in (model.null, model.start, model.unknown) if word is not None]
    N = len(features)
    captions = np.full((N, max_length), model.null, dtype=np.int64)
    tokens = np.full(N, model.start, dtype=np.int64)
    rows = np.arange(N)  # images whose caption goes on
    state = model.begin(features)
    for t in range(max_length):
        log_probs, state = model.step(state, tokens)
        allowed = log_probs.copy()
        allowed[:, never] = -np.inf
        tokens = allowed.argmax(axis=1)
        captions[rows, t] = tokens
        goes_on = np.flatnonzero(tokens != model.end)
        if len(goes_on) == 0:
            break
        rows, tokens, state = rows[goes_on], tokens[goes_on], model.select(state, goes_on)
    return captions
