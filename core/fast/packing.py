"""Sequences of different lengths with the padding left out: what nobody asks for is not computed.

The arrays (N, T, ...) of ``rnn_forward``, ``lstm_forward``, ``attention_lstm_forward`` and
``CaptioningModel.loss`` become (M, ...) here, in the order of a packing. A whole
step gets 1.06 (transformer) to 1.23 (attention) times as fast (docs/speed.md).

Letters: N batch, T time steps, M entries: the words of all sequences, but not what follows them.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class Packing:
    """An order of the entries of a batch in which no padding is left, and a time step is a slice.

    ::

        a b c d .      order    2 0 1, the longest first
        e f . . .  ->  entries  g a e   h b f   i c   j d   k
        g h i j k      steps    of 3, 3, 2, 2 and 1 rows, always the first ones

    A row keeps its place until it ends, so that the states of a step are the first rows of the
    states of the step before.

    Inputs:
    - lengths: (N,) integers, entries of each row that are kept: 0 .. T
    - T: length of the padded rows

    Attributes:
    - order: (N,) the rows, longest first; of equals, the first stays first
    - entries: (M,) place n T + t of each packed entry
    - rows: (M,) its row n
    - steps: for each step two slices: ``now``, its entries among the M, and ``before``, the states
      that they start from, in an array of N states from before the first step, in ``order``, and
      then the M states after the entries
    - before: (M,) the same places, of all steps
    """

    def __init__(self, lengths: Array, T: int):
        lengths = np.asarray(lengths)
        self.order = np.argsort(-lengths, kind="stable")
        self.shape = (len(lengths), T)
        going = (lengths > np.arange(lengths.max(initial=0))[:, None]).sum(axis=1)  # at each step
        ends = np.cumsum(going)
        starts = ends - going
        before = np.concatenate([[0], len(lengths) + starts])
        self.steps = [
            (slice(start, start + n), slice(b, b + n))
            for start, b, n in zip(starts, before, going, strict=False)
        ]
        t = np.repeat(np.arange(len(going)), going)
        place = np.arange(len(t)) - starts[t]  # in ``order``
        self.rows = self.order[place]
        self.entries = self.rows * T + t
        self.before = before[t] + place

    def pack(self, x: Array) -> Array:
        """(N, T, ...) -> (M, ...)"""
        N, T = self.shape
        return x.reshape(N * T, *x.shape[2:])[self.entries]

    def unpack(self, x: Array) -> Array:
        """(M, ...) -> (N, T, ...), zeros where there is no entry; its gradient is ``pack``."""
        N, T = self.shape
        out = np.zeros((N * T, *x.shape[1:]), dtype=x.dtype)
        out[self.entries] = x
        return out.reshape(N, T, *x.shape[1:])

    def by_length(self, x: Array) -> Array:
        """(N, ...) by row -> the same in ``order``, which is that of the first step."""
        return x[self.order]

    def by_row(self, x: Array) -> Array:
        """(n, ...) of the first rows in ``order`` -> (N, ...) by row, 0 for the other rows."""
        out = np.zeros((len(self.order), *x.shape[1:]), dtype=x.dtype)
        out[self.order[: len(x)]] = x
        return out


def lengths_of(mask: Array) -> Array:
    """(N, T) booleans -> (N,): one more than the place of the last True; 0 where there is none."""
    steps = np.arange(1, mask.shape[1] + 1)
    return (mask * steps).max(axis=1, initial=0)
