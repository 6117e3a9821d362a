"""Between the arrays of ``core/models`` and the tensors of their twins: once in each direction.

Serves the parameters, and all that an optimizer remembers of them (Adam's m and v, ...), which has
the shape of its parameter. A model's ``names()`` says which is which; how the two are laid out
follows from the module that owns the tensor:

    nn.Embedding               as it is
    nn.LSTM, nn.LSTMCell       gates i, f, o, g  <->  i, f, g, o, then transposed
    any other matrix           transposed: x W + b here, W x + b there
    a vector, a filter         as it is
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from core.models import check_parameters

Array = np.ndarray


def to_numpy(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Tensors by the names of a twin -> copies by the names, and in the layout, of core/models.

    Tensors that have no name in core/models, as the frozen biases, are left out.
    """
    arrays = {}
    for ours, theirs in model.names().items():
        array, owner = tensors[theirs].detach().cpu().numpy(), _owner(model, theirs)
        if array.ndim == 2 and not isinstance(owner, nn.Embedding):
            array = array.T
        if isinstance(owner, nn.LSTM | nn.LSTMCell):
            array = _exchange_o_and_g(array)
        arrays[ours] = np.array(array, order="C")
    return arrays


def to_torch(model: nn.Module, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """The inverse of ``to_numpy``; the tensors have the dtype of the arrays and are on the CPU.

    Raises ValueError when the arrays do not fit the model.
    """
    check_parameters(arrays, to_numpy(model, dict(model.named_parameters())))
    tensors = {}
    for ours, theirs in model.names().items():
        array, owner = np.asarray(arrays[ours]), _owner(model, theirs)
        if isinstance(owner, nn.LSTM | nn.LSTMCell):
            array = _exchange_o_and_g(array)
        if array.ndim == 2 and not isinstance(owner, nn.Embedding):
            array = array.T
        tensors[theirs] = torch.from_numpy(np.array(array, order="C"))
    return tensors


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _exchange_o_and_g(w: Array) -> Array:
    """The last two of four gates in (..., 4H) change places; its own inverse."""
    first, second, third, fourth = np.split(w, 4, axis=-1)
    return np.concatenate([first, second, fourth, third], axis=-1)
