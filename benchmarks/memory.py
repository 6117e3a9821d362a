"""The memory that a training step needs at most, besides parameters and data.

python -m benchmarks.memory [--json]
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

from benchmarks.side_by_side import model_and_batch, parser, show
from core.fast.packing import lengths_of
from core.models import MODELS
from core.support.command_line import run_command

BATCH_SIZES = (25, 64, 128, 256)


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    show(measure_all(), options.json)


def measure_all(models: Sequence[str] = tuple(MODELS)) -> list[dict]:
    return [measure(name, batch_size) for name in models for batch_size in BATCH_SIZES]


def measure(name: str, batch_size: int) -> dict:
    """One row: NumPy tells Python of every array that it makes."""
    model, features, captions = model_and_batch(name, batch_size)
    words = int(lengths_of(captions[:, 1:] != 0).sum())
    model.loss(features, captions)
    tracemalloc.start()
    model.loss(features, captions)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gradients = sum(parameter.nbytes for parameter in model.params.values())
    return {
        "model": name,
        "batch_size": batch_size,
        "words": words,
        "peak_mib": peak / 2**20,
        "of_it_gradients_mib": gradients / 2**20,
        "kib_per_word": (peak - gradients) / words / 2**10,
    }


if __name__ == "__main__":
    run_command(main)
