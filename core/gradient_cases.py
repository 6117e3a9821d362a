"""What is checked: each hand-written layer and model beside the same function in PyTorch.

The PyTorch side is written from PyTorch's own parts (``torch.nn.functional``, ``nn.LSTM``), never
by translating ours, so that the two share no mistake. Inputs are drawn with sizes that all differ,
so a transposed axis cannot hide; masks have gaps and a fully masked row; words repeat and one is
unused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core import models, rnn_layers, transformer_layers

Array = np.ndarray

_MODULES = (rnn_layers, transformer_layers, models)


def our_function(name: str) -> Callable:
    """The function or class of ``core`` with this name."""
    return next(getattr(module, name) for module in _MODULES if hasattr(module, name))


@dataclass(frozen=True)
class Case:
    """One thing to check.

    - name: what ``--layer`` takes
    - functions: names of the hand-written functions it exercises, forward first
    - sizes: the dimension letters that ``make`` takes
    - make: (generator, sizes by letter) -> inputs by name, in the order of the arguments
    - differentiable: names of the inputs that get a gradient, in the order of the backward
    - outputs: names of the outputs that get an upstream gradient; () when the function returns a
      loss together with its gradients
    - run: (functions by name, inputs, upstream gradients or None) -> (outputs, gradients);
      without upstream only the outputs matter
    - torch: (inputs as tensors) -> outputs as tensors, written independently
    - gates: whether the last axis of the weights holds the gates of an LSTM, for the hints
    """

    name: str
    functions: tuple[str, ...]
    sizes: str
    make: Callable[..., dict]
    differentiable: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable
    torch: Callable
    gates: bool = False


def _layer(
    name: str,
    sizes: str,
    make: Callable,
    differentiable: tuple[str, ...],
    outputs: tuple[str, ...],
    torch: Callable,
    gates: bool = False,
) -> Case:
    """A ``NAME_forward`` / ``NAME_backward`` pair."""
    forward, backward = f"{name}_forward", f"{name}_backward"

    def run(functions, inputs, upstream):
        *values, cache = functions.call(forward, *inputs.values(), returns=len(outputs) + 1)
        if upstream is None:
            return values, None
        single = len(differentiable) == 1
        returns = None if single else len(differentiable)
        gradients = functions.call(backward, *upstream, cache, returns=returns)
        return values, [gradients] if single else gradients

    return Case(name, (forward, backward), sizes, make, differentiable, outputs, run, torch, gates)


def _loss(name: str, sizes: str, make: Callable, differentiable: tuple[str, ...], torch) -> Case:
    """A function that returns a loss together with its gradients."""

    def run(functions, inputs, upstream):
        loss, *gradients = functions.call(name, *inputs.values(), returns=1 + len(differentiable))
        return [loss], gradients

    return Case(name, (name,), sizes, make, differentiable, (), run, torch)


# ---------------------------------------------------------------------------------------------
# Inputs
# ---------------------------------------------------------------------------------------------


def _normal(rng, **shapes) -> dict:
    """Small enough that no tanh saturates: where it is flat, differences see only rounding."""
    return {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}


def _make_affine(rng, N, T, D, V):
    return _normal(rng, x=(N, T, D), w=(T * D, V), b=(V,))


def _make_word_embedding(rng, N, T, V, W):
    words = rng.integers(0, V - 1, size=(N, T))  # the last word is never used
    words[:, -1] = words[:, 0]  # and one is used twice
    return {"x": words, "W": rng.standard_normal((V, W))}


def _make_rnn_step(rng, N, D, H):
    return _normal(rng, x=(N, D), prev_h=(N, H), Wx=(D, H), Wh=(H, H), b=(H,))


def _make_rnn(rng, N, T, D, H):
    return _normal(rng, x=(N, T, D), h0=(N, H), Wx=(D, H), Wh=(H, H), b=(H,))


def _make_lstm_step(rng, N, D, H):
    return _normal(
        rng, x=(N, D), prev_h=(N, H), prev_c=(N, H), Wx=(D, 4 * H), Wh=(H, 4 * H), b=(4 * H,)
    )


def _make_lstm(rng, N, T, D, H):
    return _normal(rng, x=(N, T, D), h0=(N, H), Wx=(D, 4 * H), Wh=(H, 4 * H), b=(4 * H,))


def _make_temporal_affine(rng, N, T, D, V):
    return _normal(rng, x=(N, T, D), w=(D, V), b=(V,))


def _mask_with_gaps(rng, N: int, T: int) -> np.ndarray:
    """A boolean (N, T) mask with holes and, where N > 1, a row with no True at all."""
    mask = rng.random((N, T)) < 0.7
    mask[:, 0] = True
    if T > 2:
        mask[:, T // 2] = False
    if N > 1:
        mask[-1] = False
    return mask


def _make_temporal_softmax_loss(rng, N, T, V):
    return {
        "x": rng.standard_normal((N, T, V)),
        "y": rng.integers(0, V, size=(N, T)),
        "mask": _mask_with_gaps(rng, N, T),
    }


def _make_dropout(rng, N, T, D):
    return {"x": rng.standard_normal((N, T, D)), "p": 0.3, "rng": _FrozenGenerator(7)}


class _FrozenGenerator:
    """Draws the same mask at every call: a function that drops at random has no derivative."""

    def __init__(self, seed: int):
        self.seed = seed

    def __getattr__(self, name: str):
        return getattr(np.random.default_rng(self.seed), name)


_SPECIAL_WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "<UNK>": 3}


def _make_captions(rng, N: int, T: int, V: int) -> np.ndarray:
    """(N, T + 1) word ids: a repeated word, <NULL> in the middle, and one caption of <NULL>."""
    captions = rng.integers(1, V, size=(N, T + 1))
    captions[:, -1] = captions[:, 1]
    if T > 2:
        captions[0, T // 2 + 1] = 0
    if N > 1:
        captions[-1] = 0
    return captions


def _make_captioning(cell_type: str) -> Callable:
    def make(rng, N, T, D, W, H, V):
        blocks = {"rnn": 1, "lstm": 4}[cell_type]
        parameters = _normal(
            rng,
            W_proj=(D, H),
            b_proj=(H,),
            W_embed=(V, W),
            Wx=(W, blocks * H),
            Wh=(H, blocks * H),
            b=(blocks * H,),
            W_vocab=(H, V),
            b_vocab=(V,),
        )
        return {
            "features": rng.standard_normal((N, D)),
            "captions": _make_captions(rng, N, T, V),
            **parameters,
        }

    return make


# ---------------------------------------------------------------------------------------------
# PyTorch's version
# ---------------------------------------------------------------------------------------------


def _torch_affine(x, w, b):
    from torch.nn import functional as F

    return [F.linear(x.flatten(1), w.T, b)]


def _torch_word_embedding(x, W):
    from torch.nn import functional as F

    return [F.embedding(x, W)]


def _torch_rnn_step(x, prev_h, Wx, Wh, b):
    from torch import nn

    weights = {"weight_ih": Wx.T, "weight_hh": Wh.T, "bias_ih": b, "bias_hh": 0 * b}
    return [_call(nn.RNNCell(*Wx.shape, dtype=x.dtype), weights, x, prev_h)]


def _torch_rnn(x, h0, Wx, Wh, b):
    from torch import nn

    weights = {"weight_ih_l0": Wx.T, "weight_hh_l0": Wh.T, "bias_ih_l0": b, "bias_hh_l0": 0 * b}
    module = nn.RNN(*Wx.shape, batch_first=True, dtype=x.dtype)
    return [_call(module, weights, x, h0[None])[0]]


def _torch_gates(w):
    """Our gates stand in the order i, f, o, g; torch's in i, f, g, o."""
    import torch

    i, f, o, g = w.chunk(4, dim=-1)
    return torch.cat([i, f, g, o], dim=-1)


def _torch_lstm_step(x, prev_h, prev_c, Wx, Wh, b):
    from torch import nn

    Wx, Wh, b = _torch_gates(Wx), _torch_gates(Wh), _torch_gates(b)
    weights = {"weight_ih": Wx.T, "weight_hh": Wh.T, "bias_ih": b, "bias_hh": 0 * b}
    module = nn.LSTMCell(Wx.shape[0], Wh.shape[0], dtype=x.dtype)
    return _call(module, weights, x, (prev_h, prev_c))


def _torch_lstm(x, h0, Wx, Wh, b):
    from torch import nn

    Wx, Wh, b = _torch_gates(Wx), _torch_gates(Wh), _torch_gates(b)
    weights = {"weight_ih_l0": Wx.T, "weight_hh_l0": Wh.T, "bias_ih_l0": b, "bias_hh_l0": 0 * b}
    module = nn.LSTM(Wx.shape[0], Wh.shape[0], batch_first=True, dtype=x.dtype)
    return [_call(module, weights, x, (h0[None], 0 * h0[None]))[0]]


def _call(module, weights, *arguments):
    from torch.func import functional_call

    return functional_call(module, weights, arguments)


def _torch_temporal_affine(x, w, b):
    from torch.nn import functional as F

    return [F.linear(x, w.T, b)]


def _torch_temporal_softmax_loss(x, y, mask):
    from torch.nn import functional as F

    losses = F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction="none")
    return [(losses * mask.flatten()).sum() / len(x)]


def _torch_dropout(x, p, rng):
    kept = rng.random(tuple(x.shape), dtype=np.float32) >= p
    return [x.where(x.new_tensor(kept).bool(), 0) / (1 - p)]


def _torch_captioning(sequence: Callable) -> Callable:
    def run(features, captions, W_proj, b_proj, W_embed, Wx, Wh, b, W_vocab, b_vocab):
        from torch.nn import functional as F

        h0 = F.linear(features, W_proj.T, b_proj)
        (h,) = sequence(F.embedding(captions[:, :-1], W_embed), h0, Wx, Wh, b)
        scores = F.linear(h, W_vocab.T, b_vocab)
        total = F.cross_entropy(
            scores.flatten(0, 1), captions[:, 1:].flatten(), ignore_index=0, reduction="sum"
        )
        return [total / len(captions)]

    return run


# ---------------------------------------------------------------------------------------------
# The registry, in the order in which a learner meets the layers
# ---------------------------------------------------------------------------------------------


def _captioning(cell_type: str, torch_sequence: Callable) -> Case:
    names = ("W_proj", "b_proj", "W_embed", "Wx", "Wh", "b", "W_vocab", "b_vocab")

    def run(functions, inputs, upstream):
        (D, H), (V, W) = inputs["W_proj"].shape, inputs["W_embed"].shape
        vocabulary = {f"word{i}": i for i in range(len(_SPECIAL_WORDS), V)} | _SPECIAL_WORDS

        def loss_and_gradients(build):
            model = build(vocabulary, D, W, H, cell_type=cell_type, dtype=np.float64)
            model.params = {name: inputs[name] for name in names}
            loss, gradients = model.loss(inputs["features"], inputs["captions"])
            return [loss], [gradients.get(name) for name in names]

        return functions.guard("CaptioningRNN", loss_and_gradients, functions["CaptioningRNN"])

    return Case(
        name=f"captioning_{cell_type}",
        functions=("CaptioningRNN",),
        sizes="NTDWHV",
        make=_make_captioning(cell_type),
        differentiable=names,
        outputs=(),
        run=run,
        torch=_torch_captioning(torch_sequence),
        gates=cell_type == "lstm",
    )


CASES: tuple[Case, ...] = (
    _layer("affine", "NTDV", _make_affine, ("x", "w", "b"), ("out",), _torch_affine),
    _layer("word_embedding", "NTVW", _make_word_embedding, ("W",), ("out",), _torch_word_embedding),
    _layer(
        "rnn_step",
        "NDH",
        _make_rnn_step,
        ("x", "prev_h", "Wx", "Wh", "b"),
        ("next_h",),
        _torch_rnn_step,
    ),
    _layer("rnn", "NTDH", _make_rnn, ("x", "h0", "Wx", "Wh", "b"), ("h",), _torch_rnn),
    _layer(
        "lstm_step",
        "NDH",
        _make_lstm_step,
        ("x", "prev_h", "prev_c", "Wx", "Wh", "b"),
        ("next_h", "next_c"),
        _torch_lstm_step,
        gates=True,
    ),
    _layer(
        "lstm", "NTDH", _make_lstm, ("x", "h0", "Wx", "Wh", "b"), ("h",), _torch_lstm, gates=True
    ),
    _layer(
        "temporal_affine",
        "NTDV",
        _make_temporal_affine,
        ("x", "w", "b"),
        ("out",),
        _torch_temporal_affine,
    ),
    _loss(
        "temporal_softmax_loss",
        "NTV",
        _make_temporal_softmax_loss,
        ("x",),
        _torch_temporal_softmax_loss,
    ),
    _layer("dropout", "NTD", _make_dropout, ("x",), ("out",), _torch_dropout),
    _captioning("rnn", _torch_rnn),
    _captioning("lstm", _torch_lstm),
)
