"""Preparing and loading data: the embedded data set from nothing, loading it, batches a second.

python -m benchmarks.data [--json]
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import in_turn, parser, show
from core import shapes
from core.coco_utils import load_coco_data, minibatches
from core.support.command_line import run_command


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    show(measure_all(options.seconds), options.json)


def measure_all(seconds: float) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "shapes"
        before = time.perf_counter()
        shapes.prepare_shapes(folder)
        rows = [row("prepare the embedded data", 1e3 * (time.perf_counter() - before))]
        return rows + loading(folder, seconds)


def row(what: str, milliseconds: float, captions: int | None = None) -> dict:
    rate = "" if captions is None else 1e3 * captions / milliseconds
    return {"what": what, "ms": milliseconds, "captions_per_second": rate}


def loading(folder: Path, seconds: float) -> list[dict]:
    """Rows of loading: pooled features are read whole, those of a grid batch by batch."""
    rows = []
    for kind in ("pooled", "grid"):
        data = load_coco_data(folder, features=kind)
        number, null = len(data["train_captions"]), data["word_to_idx"]["<NULL>"]
        rng = np.random.default_rng(0)

        def epoch(data=data, null=null, rng=rng):
            for _ in minibatches(data, "train", 64, null, rng):
                pass

        load = in_turn({kind: partial(load_coco_data, folder, features=kind)}, 1)
        rows.append(row(f"load, {kind} features", load[kind], number))
        times = in_turn({kind: epoch}, seconds, kind)
        rows.append(row(f"an epoch of batches of 64, {kind}", times[kind], number))
    return rows


if __name__ == "__main__":
    run_command(main)
