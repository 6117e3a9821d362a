"""What each optimisation gives: a training step with and without it, in turn; all others stay on.

python -m benchmarks.one_at_a_time [--json]

The last row is a step made of plain functions alone: word by word, padding and all.
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
from core import attention_layers, optim, rnn_layers, transformer_layers
from core.captioning_solver import NumpyEngine
from core.fast import FastEngine
from core.models.base import CaptioningModel

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
    engine, features, captions = engine_and_batch("lstm")
    plain = PlainLSTM(engine.model.params)
    sides = {
        "with": step_of(engine, features, captions),
        "without": lambda: plain.step(features, captions),
    }
    times = in_turn(sides, seconds, "plain")
    return [*rows, row_of("lstm", "all of them, and products outside of the loop", times)]


def measure(model: str, what: str, without: Callable, seconds: float) -> dict:
    engine, features, captions = engine_and_batch(model)
    step = step_of(engine, features, captions)

    def slower() -> None:
        with without(engine.model):
            step()

    return row_of(model, what, in_turn({"with": step, "without": slower}, seconds, what))


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


def all_padding_counts(model) -> AbstractContextManager:
    """No word is padding: what was, is computed like any other."""
    return patch.object(model, "null", -1)


def one_part(model) -> AbstractContextManager:
    return patch.object(model, "rows_of_a_part", (BATCH_SIZE + 1, None))


def every_word_by_itself(_) -> AbstractContextManager:
    def word_vectors(self, words, rng):
        vectors, cache = rnn_layers.word_embedding_forward(words, self.params["W_embed"])
        return vectors, np.arange(len(words)), (cache, None)

    return patch.object(CaptioningModel, "_word_vectors", word_vectors)


def plain_update(_) -> AbstractContextManager:
    """New arrays for every sum and product, of whole parameters."""
    return patch.object(FastEngine, "update", NumpyEngine.update)


def gates_in_columns(_) -> AbstractContextManager:
    """The gates as they come out of the product, four blocks of columns."""

    def look_up(inputs, which):
        return rnn_layers.by_gate(inputs[which])

    return patch.object(rnn_layers, "look_up_gates", look_up)


def plain_product(_) -> AbstractContextManager:
    return patch.object(rnn_layers, "back_through", lambda da, W: da @ W.T)


def whole_comparison(_) -> AbstractContextManager:
    """The comparison of all images at once, through memory instead of a cache."""
    return patch.object(attention_layers, "_CACHED", 1 << 40)


def keys_and_values(_) -> AbstractContextManager:
    """Cross-attention as self-attention is computed."""

    def forward(query, memory, Wq, bq, Wk, Wv, bv, Wo, bo, num_heads):
        weights = Wq, bq, Wk, np.zeros_like(bq), Wv, bv, Wo, bo
        return transformer_layers.multi_head_attention_forward(
            query, memory, memory, *weights, num_heads
        )

    def backward(dout, cache):
        dquery, dkey, dvalue, dWq, dbq, dWk, _, *others = (
            transformer_layers.multi_head_attention_backward(dout, cache)
        )
        return dquery, dkey + dvalue, dWq, dbq, dWk, *others

    return patch.multiple(
        transformer_layers,
        memory_attention_forward=forward,
        memory_attention_backward=backward,
    )


OPTIMISATIONS = {
    "padding left out": (all_padding_counts, ("rnn", "lstm", "attention", "transformer")),
    "parts of the batch on two threads": (one_part, ("rnn", "lstm", "attention", "transformer")),
    "each different word multiplied once": (every_word_by_itself, ("rnn", "lstm", "attention")),
    "Adam in place, in pieces": (plain_update, ("rnn", "lstm", "attention", "transformer")),
    "each gate in one piece": (gates_in_columns, ("lstm",)),
    "W da^T for da W^T in the loop": (plain_product, ("rnn", "lstm")),
    "a few images compared at a time": (whole_comparison, ("attention",)),
    "no keys and values of the image": (keys_and_values, ("transformer",)),
}


class PlainLSTM:
    """The model as the definitions have it: the oracle functions, one step after another."""

    def __init__(self, params):
        self.params, self.configs = dict(params), {name: {} for name in params}

    def step(self, features, captions) -> None:
        p, layers = self.params, rnn_layers
        words, targets = captions[:, :-1], captions[:, 1:]
        T = words.shape[1]
        h, proj_cache = layers.affine_forward(features, p["W_proj"], p["b_proj"])
        c, states, caches = np.zeros_like(h), [], []
        vectors = p["W_embed"][words]
        for t in range(T):
            h, c, cache = layers.lstm_step_forward(vectors[:, t], h, c, p["Wx"], p["Wh"], p["b"])
            states.append(h)
            caches.append(cache)
        scores, score_cache = layers.temporal_affine_forward(
            np.stack(states, axis=1), p["W_vocab"], p["b_vocab"]
        )
        _, dscores = layers.temporal_softmax_loss(scores, targets, targets != 0)
        grads = {name: np.zeros_like(w) for name, w in p.items()}
        dh, grads["W_vocab"], grads["b_vocab"] = layers.temporal_affine_backward(
            dscores, score_cache
        )
        dprev_h = dprev_c = np.zeros_like(h)
        for t in reversed(range(T)):
            dx, dprev_h, dprev_c, *weights = layers.lstm_step_backward(
                dh[:, t] + dprev_h, dprev_c, caches[t]
            )
            for name, gradient in zip(("Wx", "Wh", "b"), weights, strict=True):
                grads[name] += gradient
            np.add.at(grads["W_embed"], words[:, t], dx)
        _, grads["W_proj"], grads["b_proj"] = layers.affine_backward(dprev_h, proj_cache)
        grads, _ = optim.clip_gradient_norm(grads, CLIP_NORM)
        for name, gradient in grads.items():
            config = self.configs[name] | STILL
            p[name], self.configs[name] = optim.adam(p[name], gradient, config)


if __name__ == "__main__":
    main()
