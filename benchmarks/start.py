"""Time from the command to the first training step, and what importing takes.

python -m benchmarks.start [--json]

Whole processes, five of each, one after another. The embedded data must have been made (``make
demo`` or ``python -m core.shapes``).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.side_by_side import parser, show
from core.support.command_line import run_command

# training.py, ended as soon as a step is done.
_ONE_STEP = """
import os, runpy, sys
from core.captioning_solver import CaptioningSolver
step = CaptioningSolver._step
def step_and_end(*arguments):
    step(*arguments)
    os._exit(0)
CaptioningSolver._step = step_and_end
sys.argv[0:1] = ["training.py", "--model", "lstm", "--out"]
runpy.run_path("training.py", run_name="__main__")
"""


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    show(measure_all(), options.json)


def measure_all() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import core.models": [sys.executable, "-c", "import core.models"],
            "import core.torch_models": [sys.executable, "-c", "import core.torch_models"],
            "training.py --help": [sys.executable, "training.py", "--help"],
            "inference.py --help": [sys.executable, "inference.py", "--help"],
            "first step of a NumPy run": [sys.executable, "-c", _ONE_STEP, f"{folder}/run"],
        }
        return [{"what": what, "seconds": seconds_of(c)} for what, c in commands.items()]


def seconds_of(command: list[str], runs: int = 5) -> float:
    """The median wall-clock time of a process, after one that warms the disk's cache up."""
    times = []
    for _ in range(runs + 1):
        before = time.perf_counter()
        subprocess.run(
            command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - before)
    return median(times[1:])


if __name__ == "__main__":
    run_command(main)
