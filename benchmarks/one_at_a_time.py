"""What each optimisation gives: a training step with and without it, in turn; all others stay on.

python -m benchmarks.one_at_a_time [--json]

The last rows are the definitions: word by word, padding and all, as ``--engine plain`` trains.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np

from benchmarks.side_by_side import (
    CLIP_NORM,
    STILL,
    in_turn,
    model_and_batch,
    parser,
    show,
    step_of,
)
from benchmarks.train_step import plain_step
from core import transformer_layers
from core.captioning_solver import NumpyEngine
from core.fast import FastEngine, attention, recurrent, transformer
from core.models import MODELS
from core.support.command_line import run_command

BATCH_SIZE = 64


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    show(measure_all(options.seconds), options.json)


def measure_all(seconds: float) -> list[dict]:
    rows = [
        measure(model, what, without, seconds)
        for what, (without, models) in OPTIMISATIONS.items()
        for model in models
    ]
    return rows + [all_of_them(model, seconds) for model in MODELS]


def measure(model: str, what: str, without: Callable, seconds: float) -> dict:
    engine, features, captions = engine_and_batch(model)
    step = step_of(engine, features, captions)

    def slower() -> None:
        with without(engine):
            step()

    return row_of(model, what, in_turn({"with": step, "without": slower}, seconds, what))


def all_of_them(model: str, seconds: float) -> dict:
    sides = {"with": step_of(*engine_and_batch(model)), "without": plain_step(model, BATCH_SIZE)}
    return row_of(model, "all of them", in_turn(sides, seconds, f"{model}, definitions"))


def row_of(model: str, what: str, times: dict[str, float]) -> dict:
    return {
        "what": what,
        "model": model,
        "without_ms": times["without"],
        "with_ms": times["with"],
        "without_over_with": times["without"] / times["with"],
    }


def engine_and_batch(name: str):
    model, features, captions = model_and_batch(name, BATCH_SIZE)
    return FastEngine(model, "adam", STILL, CLIP_NORM), features, captions


# ---------------------------------------------------------------------------------------------
# The steps without
# ---------------------------------------------------------------------------------------------


def all_padding_counts(engine) -> AbstractContextManager:
    """No word is padding: what was, is computed like any other."""
    return patch.object(engine.model, "null", -1)


def one_part(engine) -> AbstractContextManager:
    """The whole batch at once, its products on all cores."""
    return patch.object(engine.model, "rows_of_a_part", (BATCH_SIZE + 1, None))


def plain_update(engine) -> AbstractContextManager:
    """New arrays for every sum and product, of whole parameters."""
    return patch.object(engine, "update", lambda: NumpyEngine.update(engine))


def gates_in_columns(_) -> AbstractContextManager:
    """The gates as they come out of the product, four blocks of columns."""
    return patch.object(recurrent, "gates_apart", lambda a: recurrent.by_gate(a.copy()))


def plain_product(_) -> AbstractContextManager:
    return patch.object(recurrent, "back_through", lambda da, W: da @ W.T)


def whole_comparison(_) -> AbstractContextManager:
    """The comparison of all images at once, through memory instead of a cache."""
    return patch.object(attention, "_CACHED", 1 << 40)


def keys_and_values(_) -> AbstractContextManager:
    """Cross-attention by its definition."""

    def forward(query, memory, Wq, bq, Wk, Wv, bv, Wo, bo, num_heads):
        weights = Wq, bq, Wk, np.zeros_like(bq), Wv, bv, Wo, bo
        out, cache = transformer_layers.multi_head_attention_forward(
            query, memory, memory, *weights, num_heads
        )
        where = cache[1][-1].swapaxes(1, 2)  # (N, T, h, S), which the twin keeps as (N, T h, S)
        return out, (cache, where.reshape(len(query), -1, memory.shape[1]))

    def backward(dout, cache):
        cache, _ = cache
        dquery, dkey, dvalue, dWq, dbq, dWk, _, *others = (
            transformer_layers.multi_head_attention_backward(dout, cache)
        )
        return dquery, dkey + dvalue, dWq, dbq, dWk, *others

    return patch.multiple(
        transformer, memory_attention_forward=forward, memory_attention_backward=backward
    )


OPTIMISATIONS = {
    "padding left out": (all_padding_counts, ("rnn", "lstm", "attention", "transformer")),
    "parts of the batch on two threads": (one_part, ("rnn", "lstm", "attention", "transformer")),
    "Adam in place, in pieces": (plain_update, ("rnn", "lstm", "attention", "transformer")),
    "each gate in one piece": (gates_in_columns, ("lstm",)),
    "W da^T for da W^T in the loop": (plain_product, ("lstm",)),
    "a few images compared at a time": (whole_comparison, ("attention",)),
    "no keys and values of the image": (keys_and_values, ("transformer",)),
}


if __name__ == "__main__":
    run_command(main)
