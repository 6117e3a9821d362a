"""One thing to check, and where our own functions are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core import attention_layers, decoding, layers, models, optim, rnn_layers, transformer_layers

_MODULES = (
    layers,
    rnn_layers,
    attention_layers,
    transformer_layers,
    models,
    optim,
    decoding,
)

# What dimension letters are drawn from: all different, so that no axis can pass for another.
SIZES = (3, 4, 5, 7, 8, 9, 10, 11)
# Cases of many letters are composed of others: small, since each entry is moved by itself. The four
# gates of H = 2 are 8 wide.
_SMALL, _OTHERS = {"T": 3, "N": 4, "H": 2}, (5, 7, 9, 10, 11)


def draw_sizes(letters: str, rng: np.random.Generator) -> dict[str, int]:
    """A size for each letter, all different."""
    small = {} if len(letters) <= 5 else {x: _SMALL[x] for x in letters if x in _SMALL}
    others = [letter for letter in letters if letter not in small]
    sizes = (_OTHERS if small else SIZES)[: len(others)]
    return {**small, **dict(zip(others, rng.permutation(sizes).tolist(), strict=True))}


def our_function(name: str) -> Callable:
    """The function or class of ``core`` with this name."""
    return next(getattr(module, name) for module in _MODULES if hasattr(module, name))


class ImplementationError(Exception):
    """Something a learner's function did, as a sentence for its author."""


@dataclass(frozen=True)
class Case:
    """One thing to check.

    - name: what ``--layer`` takes
    - functions: names of the hand-written functions it exercises, forward first
    - sizes: the dimension letters that ``make`` takes
    - make: (generator, sizes by letter) -> inputs by name, in the order of the arguments
    - differentiable: names of the inputs that get a gradient, in the order of the backward; () for
      what has no backward, as an update rule
    - outputs: names of the outputs that get an upstream gradient; () when the function returns a
      loss together with its gradients
    - run: (functions by name, inputs, upstream gradients or None) -> (outputs, gradients);
      without upstream only the outputs matter
    - torch: (inputs as tensors) -> outputs as tensors, written independently; None where PyTorch
      has no such thing, as beam search: outputs are then compared with ours
    - gates: whether the last axis of the weights holds the gates of an LSTM, for the hints
    - zero: names of the inputs whose gradient is 0, whatever the others hold
    - composed: of layers that have cases of their own, where every entry is moved by itself; here
      differences along random directions will do (``core/gradient_check/directions.py``)
    """

    name: str
    functions: tuple[str, ...]
    sizes: str
    make: Callable[..., dict]
    differentiable: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable
    torch: Callable | None
    gates: bool = False
    zero: tuple[str, ...] = ()
    composed: bool = False
