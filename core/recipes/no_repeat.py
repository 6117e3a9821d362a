"""A model that does not say the same thing twice: a decoder like any other for
``core/decoding.py``.

"A man riding a bike on a bike": each word is probable after the few before it, and the model has
not learned that it is done with the bike. So at each step the words are taken out that would end a
run of N words which the caption has already. (Paulus, Xiong and Socher, "A deep reinforced model
for abstractive summarization", ICLR 2018, section 2.5, for N = 3.)
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class NoRepeat:
    """A decoder that never says a run of ``length`` words twice in a caption.

    Inputs:
    - model: the decoder that is asked
    - length: words of a run; of 1 no word comes twice

    What is left is not renormalised, so the score of a caption stays the model's.

    Raises ValueError when length is below 1.
    """

    def __init__(self, model, length: int):
        if length < 1:
            raise ValueError(f"no_repeat: found {length}, expected at least 1")
        self.model, self.length = model, length
        self.null, self.start, self.end = model.null, model.start, model.end
        self.unknown, self.max_length = model.unknown, model.max_length

    def begin(self, features) -> tuple:
        return self.model.begin(features), None

    def step(self, state: tuple, tokens: Array) -> tuple[Array, tuple]:
        """As of ``core/decoding.py``; the state also holds the words so far, <START> first."""
        of_model, said = state
        log_probs, of_model = self.model.step(of_model, tokens)
        tokens = tokens[:, None]
        said = tokens if said is None else np.concatenate([said, tokens], axis=1)
        return self._without_repeats(log_probs, said), (of_model, said)

    def select(self, state: tuple, rows: Array) -> tuple:
        of_model, said = state
        return self.model.select(of_model, rows), said[rows]

    def _without_repeats(self, log_probs: Array, said: Array) -> Array:
        """A copy with -inf for each word that would end a run of (n, T) words said before."""
        log_probs, T, before = log_probs.copy(), said.shape[1], self.length - 1
        for t in range(T - before):
            again = np.flatnonzero((said[:, t : t + before] == said[:, T - before :]).all(axis=1))
            log_probs[again, said[again, t + before]] = -np.inf
        return log_probs
