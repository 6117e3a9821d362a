"""Captions a second, hand-written against PyTorch: greedy and beam search, with and without cache.

python -m benchmarks.decode [--json] [--models lstm,attention] [--images 256]

Both search with the same code (``core/decoding.py``); what differs is who makes a step. The models
are untrained, so that captions seldom end before the longest: 16 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.side_by_side import (
    SIZES,
    VOCABULARY,
    in_turn,
    list_of,
    model_and_batch,
    parser,
    show,
)
from core import decoding
from core.fast.threads import searched_in_parts
from core.models import MODELS
from core.support.command_line import run_command
from core.support.pytorch import require_torch

MAX_LENGTH = 16


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--models", type=list_of(str, MODELS), default=list(MODELS))
    arguments.add_argument("--images", type=int, default=256)
    options = arguments.parse_args()
    require_torch("benchmarks.decode")
    show(measure_all(options.seconds, options.models, options.images), options.json)


def measure_all(
    seconds: float, models: Sequence[str] = tuple(MODELS), images: int = 256
) -> list[dict]:
    return [row for name in models for row in measure(name, images, seconds)]


def measure(name: str, images: int, seconds: float) -> list[dict]:
    """Rows of one model: greedy and beam search, and beam search of an eighth without a cache."""
    from core.torch_models import build_torch_model

    ours, features, _ = model_and_batch(name, images)
    torch = build_torch_model(name, SIZES[name], VOCABULARY, params=ours.params)
    few = features[: max(1, images // 8)]

    greedy = partial(decoding.greedy, max_length=MAX_LENGTH)
    beam = partial(decoding.beam_search, beam_size=5, max_length=MAX_LENGTH)

    def without_cache(model, features):
        return beam(WithoutCache(model), features)

    rows = []
    for label, search, number in (
        ("greedy", greedy, images),
        ("beam 5", beam, images),
        ("beam 5", beam, len(few)),
        ("beam 5 without cache", without_cache, len(few)),
    ):
        sides = {
            "ours": partial(searched_in_parts(search), ours, features[:number]),
            "torch": partial(search, torch, features[:number]),
        }
        times = in_turn(sides, seconds, f"{name}, {label}")
        rows.append(
            {
                "model": name,
                "search": label,
                "images": number,
                "ours_images_per_second": 1e3 * number / times["ours"],
                "torch_images_per_second": 1e3 * number / times["torch"],
                "torch_over_ours": times["torch"] / times["ours"],
            }
        )
    return rows


class WithoutCache:
    """A decoder that reads the whole beginning again, word by word, for each word that follows."""

    def __init__(self, model):
        self.model = model
        for name in ("null", "start", "end", "unknown", "max_length"):
            setattr(self, name, getattr(model, name))

    def begin(self, features):
        return self.model.begin(features), np.zeros((len(features), 0), dtype=np.int64)

    def step(self, state, tokens):
        first, words = state
        words, state = np.concatenate([words, tokens[:, None]], axis=1), first
        for word in words.T:
            log_probs, state = self.model.step(state, word)
        return log_probs, (first, words)

    def select(self, state, rows):
        return self.model.select(state[0], rows), state[1][rows]


if __name__ == "__main__":
    run_command(main)
