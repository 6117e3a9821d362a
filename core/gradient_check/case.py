"""One thing to check, and where our own functions are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
