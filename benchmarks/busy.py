"""A training step on an idle machine, and beside one process that keeps a core busy, in turn.

python -m benchmarks.busy [--json]

At the widths of the other benchmarks, and at those of ``training.py`` with ``--num_samples``: its
defaults, on the vocabulary and features of the embedded data.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from benchmarks.side_by_side import (
    CLIP_NORM,
    SIZES,
    STILL,
    VOCABULARY,
    batch_like_real_ones,
    parser,
    show,
    step_of,
)
from core.fast import FastEngine, build_fast_model
from core.models import MODELS
from core.support.command_line import run_command

DEFAULTS = {"wordvec_dim": 128, "hidden_dim": 256}
GRID = 64, 40  # locations and channels of the embedded data
_TURN, _PAUSE = 0.5, 0.1  # seconds


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    show(measure_all(options.seconds), options.json)


def measure_all(seconds: float) -> list[dict]:
    rows = [measure(name, "defaults", 25, seconds) for name in MODELS]
    return rows + [measure(name, "wide", n, seconds) for name in MODELS for n in (25, 64, 256)]


def measure(name: str, widths: str, batch_size: int, seconds: float) -> dict:
    rng, vocabulary, config = np.random.default_rng(0), VOCABULARY, SIZES[name]
    grid = name in ("attention", "transformer")
    features, captions = batch_like_real_ones(batch_size, grid, rng)
    if widths == "defaults":
        vocabulary, config = VOCABULARY[:41], DEFAULTS
        captions = np.minimum(captions, len(vocabulary) - 1)
        if grid:
            features = rng.standard_normal((batch_size, *GRID), dtype=np.float32)
            config = config | {"input_dim": GRID[1]}
    model = build_fast_model(name, config, vocabulary, rng=rng)
    step = step_of(FastEngine(model, "adam", STILL, CLIP_NORM), features, captions)
    idle, busy = idle_and_busy(step, seconds)
    return {
        "model": name,
        "widths": widths,
        "batch_size": batch_size,
        "threads": model.threads_for(batch_size),
        "idle_ms": idle,
        "busy_ms": busy,
        "busy_over_idle": busy / idle,
    }


def idle_and_busy(step: Callable[[], None], seconds: float) -> tuple[float, float]:
    """The median times of a step in milliseconds; the other process is halted every second turn."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    times = {signal.SIGSTOP: [], signal.SIGCONT: []}
    try:
        for _ in range(max(2, round(seconds / (2 * _TURN)))):
            for state, found in times.items():
                os.kill(other.pid, state)
                time.sleep(_PAUSE)
                step()
                until = time.perf_counter() + _TURN
                while time.perf_counter() < until:
                    before = time.perf_counter()
                    step()
                    found.append(1e3 * (time.perf_counter() - before))
    finally:
        other.kill()
        other.wait()
    return median(times[signal.SIGSTOP]), median(times[signal.SIGCONT])


if __name__ == "__main__":
    run_command(main)
