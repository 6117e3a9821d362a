"""Whole training steps, hand-written against PyTorch: loss, gradients, clipping, Adam.

python -m benchmarks.train_step [--json] [--models lstm,attention] [--batch_sizes 25,64,256]

Ours are the fast twins of ``core/fast``; beside them the definitions (``--engine plain``) on one
core. PyTorch runs the twins of ``core/torch_models``, at their best: fused cells, fused Adam,
scores only where they count and, of the variants below, the one that is the fastest here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.side_by_side import (
    CLIP_NORM,
    LOCATIONS,
    SIZES,
    STILL,
    VOCABULARY,
    in_turn,
    list_of,
    model_and_batch,
    parser,
    peak_gflops,
    show,
    step_of,
)
from core.captioning_solver import NumpyEngine
from core.fast import FastEngine
from core.fast.packing import Packing, lengths_of
from core.fast.recurrent import back_through
from core.fast.threads import products_on
from core.models import MODELS, build_model
from core.support.command_line import run_command
from core.support.pytorch import require_torch

BATCH_SIZES = (25, 64, 256)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--models", type=list_of(str, MODELS), default=list(MODELS))
    arguments.add_argument("--batch_sizes", type=list_of(int), default=BATCH_SIZES)
    arguments.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    options = arguments.parse_args()
    require_torch("benchmarks.train_step")
    may_compile = not options.no_compile
    show(
        measure_all(options.seconds, options.models, options.batch_sizes, may_compile), options.json
    )


def measure_all(
    seconds: float,
    models: Sequence[str] = tuple(MODELS),
    batch_sizes: Sequence[int] = BATCH_SIZES,
    may_compile: bool = True,
) -> list[dict]:
    return [measure(name, n, seconds, may_compile) for name in models for n in batch_sizes]


def measure(name: str, batch_size: int, seconds: float, may_compile: bool) -> dict:
    """One row: a step of ours, and of the fastest variant of PyTorch's."""
    model, features, captions = model_and_batch(name, batch_size)
    ours = step_of(FastEngine(model, "adam", STILL, CLIP_NORM), features, captions)
    theirs = twins(name, features, captions, may_compile)
    if len(theirs) > 1:
        tried = in_turn(theirs, seconds / 2, f"{name}, {batch_size}: PyTorch's variants")
        theirs = {min(tried, key=tried.get): theirs[min(tried, key=tried.get)]}
    (variant,) = theirs
    sides = {"ours": ours, **theirs, "plain": plain_step(name, batch_size)}
    if name in ("rnn", "lstm"):
        sides["products"] = products_of_a_step(model, features, captions)
    times = in_turn(sides, seconds, f"{name}, {batch_size}")
    return {
        "model": name,
        "batch_size": batch_size,
        "ours_ms": times["ours"],
        "torch_ms": times[variant],
        "torch_over_ours": times[variant] / times["ours"],
        "torch_variant": variant,
        "plain_ms": times["plain"],
        "plain_over_ours": times["plain"] / times["ours"],
        "gflops": 1e-6 * operations(model, captions) / times["ours"],
        "peak_gflops": peak_gflops(),
        "our_products_ms": times.get("products", ""),
    }


def plain_step(name: str, batch_size: int) -> Callable[[], None]:
    """A step of the definitions."""
    model, features, captions = model_and_batch(name, batch_size, build_model)
    step = step_of(NumpyEngine(model, "adam", STILL, CLIP_NORM), features, captions)

    def on_one_core() -> None:
        with products_on(1):
            step()

    return on_one_core


def twins(name: str, features, captions, may_compile: bool) -> dict[str, Callable[[], None]]:
    """The step of the twin, in the variants that may be the fastest."""
    import torch

    from core.torch_models import TorchEngine, build_torch_model

    def engine():
        return TorchEngine(
            build_torch_model(name, SIZES[name], VOCABULARY), "adam", STILL, CLIP_NORM
        )

    features = torch.from_numpy(features)
    variants = {"eager": step_of(engine(), features, captions)}
    if name in ("rnn", "lstm"):
        packed = engine()
        packed.loss_of = lambda features, captions, _: packed_loss(packed.model, features, captions)
        variants["packed sequences"] = step_of(packed, features, captions)
    elif may_compile and shutil.which("c++"):  # it makes C++ and compiles that
        compiled = engine()
        compiled.model._forward = torch.compile(compiled.model._forward)
        variants["compiled"] = step_of(compiled, features, captions)
    return variants


def packed_loss(model, features, captions):
    """The loss of the recurrent twins with PyTorch's own way of leaving padding out."""
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pack_padded_sequence

    features, words, targets, mask = model._checked(features, captions)
    lengths, order = mask.sum(dim=1).sort(descending=True)

    def pack(x):
        return pack_padded_sequence(x[order], lengths, batch_first=True)

    h, c = model._first_state(features[order])
    state = h if model.cell_type == "rnn" else (h, c)
    packed, _ = model.cell(pack(model.embed(words)), state)
    scores = model.vocab(packed.data)
    return cross_entropy(scores, pack(targets).data, reduction="sum") / len(words)


def products_of_a_step(model, features, captions) -> Callable[[], None]:
    """The products of a recurrent model's step alone, as ``core`` makes them: of their shapes."""
    p, rng = model.params, np.random.default_rng(0)

    def like(*shape):
        return 0.1 * rng.standard_normal(shape, dtype=np.float32)

    lengths = lengths_of(captions[:, 1:] != 0)
    packing = Packing(lengths, int(lengths.max()))
    words = len(packing.rows)
    H, width = p["Wh"].shape
    vectors = like(words, len(p["Wx"]))
    h, da, dscores = like(words, H), like(words, width), like(words, len(p["b_vocab"]))
    h0 = like(len(captions), H)

    def products() -> None:
        features @ p["W_proj"], features.T @ h0
        vectors @ p["Wx"], da @ p["Wx"].T, vectors.T @ da
        for now, _ in packing.steps:
            h[now] @ p["Wh"], back_through(da[now], p["Wh"])
        h.T @ da
        h @ p["W_vocab"], dscores @ p["W_vocab"].T, h.T @ dscores

    return products


def operations(model, captions: np.ndarray) -> float:
    """Floating-point operations in the products with weights that a step asks for.

    Two for each entry of a weight and each row that meets it, padding left out; three times, for
    the output and the gradients of input and weight, or twice where the input is data.
    """
    N, words = len(captions), int(lengths_of(captions[:, 1:] != 0).sum())
    total = 0
    for name, weight in model.params.items():
        if weight.ndim < 2 or name in ("W_embed", "W_position"):
            continue
        of_data = name in ("W_proj", "W_features", "W_h0", "W_c0")
        if name in ("W_h0", "W_c0") or (of_data and not model.grid):
            rows = N
        elif of_data or "cross.Wk" in name or "cross.Wv" in name:
            rows = N * LOCATIONS
        else:
            rows = words
        total += 2 * (2 if of_data else 3) * rows * weight.size
    return total


if __name__ == "__main__":
    run_command(main)
