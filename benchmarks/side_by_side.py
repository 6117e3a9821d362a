"""What the benchmarks share: the machine and its limits, batches like real ones, timing in turn.

These measure speed on the machine that they run on; nothing is asserted. Two things are compared by
running them in turn, in one process and on as many threads, so that a machine that slows down slows
down both.
"""

from __future__ import annotations

import json
import os
import platform
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_info
from tqdm import tqdm

from core.fast import build_fast_model
from core.support.command_line import ArgumentParser

VOCABULARY = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"word{i}" for i in range(1000))]
STEPS = 16  # words read of the longest captions
LOCATIONS, CHANNELS = 49, 512
# How many of the 30,000 captions of Flickr8k's training photos have 1, 2, ... 15 and more words
# (Hodosh, Young and Hockenmaier, JAIR 2013), the longer ones cut off.
LENGTHS = (0, 15, 125, 340, 854, 1948, 2501, 2917, 3318, 3310, 3134, 2772, 2332, 1905, 4529)
CLIP_NORM = 5.0
# A batch that was learnt by heart would leave gradients so small that processors slow down on them.
STILL = {"learning_rate": 1e-7}
_TURN, _PAUSE = 0.2, 0.1  # seconds
# The widths of the models that are compared.
SIZES = {
    "rnn": {"wordvec_dim": 256, "hidden_dim": 512},
    "lstm": {"wordvec_dim": 256, "hidden_dim": 512},
    "attention": {"wordvec_dim": 256, "hidden_dim": 512, "attention_dim": 256},
    "transformer": {"wordvec_dim": 256, "hidden_dim": 1024, "num_heads": 4, "num_layers": 2},
}


def batch_like_real_ones(batch_size: int, grid: bool, rng: np.random.Generator):
    """Random features, and captions (N, 17) of real lengths whose words repeat as words do."""
    shape = (LOCATIONS, CHANNELS) if grid else (CHANNELS,)
    features = rng.standard_normal((batch_size, *shape), dtype=np.float32)
    lengths = 1 + rng.choice(len(LENGTHS), batch_size, p=np.array(LENGTHS) / sum(LENGTHS))
    often = 1 / np.arange(1, len(VOCABULARY) - 3)  # Zipf's law
    captions = np.zeros((batch_size, STEPS + 1), dtype=np.int64)
    captions[:, 0] = 1
    for caption, length in zip(captions, lengths, strict=True):
        caption[1 : length + 1] = 4 + rng.choice(len(often), length, p=often / often.sum())
        caption[length + 1] = 2
    return features, captions


def model_and_batch(name: str, batch_size: int, build: Callable = build_fast_model):
    """A model of ``SIZES`` with parameters drawn anew, and features and captions for it."""
    rng = np.random.default_rng(0)
    model = build(name, SIZES[name], VOCABULARY, rng=rng)
    return model, *batch_like_real_ones(batch_size, model.grid, rng)


def step_of(engine, features, captions) -> Callable[[], None]:
    """A whole training step of any engine."""

    def step() -> None:
        engine.compute(features, captions)
        engine.update()

    return step


def in_turn(functions: Mapping[str, Callable], seconds: float, label: str = "") -> dict[str, float]:
    """The median time of each in milliseconds; they take turns of a fifth of a second.

    Threads that have nothing to do keep a core busy for a while, in case there is more: each turn
    begins with a pause, for those of the turn before to fall asleep, and with a call that does not
    count, for its own to wake up.
    """
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    rounds = max(3, round(seconds / (_TURN * len(functions))))
    for _ in tqdm(range(rounds), label, leave=False, disable=None):
        for name, function in functions.items():
            time.sleep(_PAUSE)
            function()
            until = time.perf_counter() + _TURN
            while not times[name] or time.perf_counter() < until:
                before = time.perf_counter()
                function()
                times[name].append(1e3 * (time.perf_counter() - before))
    return {name: median(each) for name, each in times.items()}


def machine() -> dict:
    """Processor, cores, BLAS and threads."""
    processor, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        names = [value.strip() for key, _, value in lines if key.strip() == "model name"]
        processor = names[0] if names else processor
    blas = next((x for x in threadpool_info() if x["user_api"] == "blas"), {})
    return {
        "machine": processor,
        "cores": os.cpu_count(),
        "numpy": np.__version__,
        "blas": f"{blas.get('internal_api')} {blas.get('version')} ({blas.get('architecture')})",
        "numpy_threads": blas.get("num_threads"),
        **_pytorch(),
    }


def _pytorch() -> dict:
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    return {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}


def peak_gflops() -> float:
    """What a large product of float32 reaches here, 10^9 operations a second."""
    n = 2048
    a, b = np.ones((n, n), np.float32), np.ones((n, n), np.float32)
    out = np.empty_like(a)
    return 2e-6 * n**3 / in_turn({"product": lambda: np.matmul(a, b, out=out)}, 1)["product"]


def bandwidth() -> float:
    """What copying a large array reaches on one thread, in 10^9 bytes a second, read or written."""
    a = np.ones(1 << 25, np.float32)
    out = np.empty_like(a)
    return 2e-6 * a.nbytes / in_turn({"copy": lambda: np.copyto(out, a)}, 1)["copy"]


def parser(description: str) -> ArgumentParser:
    """The options that every benchmark has."""
    arguments = ArgumentParser(description=description)
    arguments.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments.add_argument(
        "--seconds", type=float, default=4.0, metavar="S", help="of measuring, for each row"
    )
    return arguments


def list_of(kind: Callable, known: Collection | None = None) -> Callable[[str], list]:
    """The type of an option that takes values with commas between them."""

    def parse(text: str) -> list:
        values = [kind(word) for word in text.split(",")]
        for value in values:
            if known is not None and value not in known:
                expected = ", ".join(known)
                raise ArgumentTypeError(f"found {value!r}, expected some of {expected}")
        return values

    return parse


def show(rows: Sequence[Mapping], as_json: bool) -> None:
    """Prints rows as a Markdown table under the machine; or as JSON, each with the machine."""
    here = machine()
    if as_json:
        print(json.dumps([{**row, **here} for row in rows], indent=1))
        return
    print(", ".join(f"{name} {value}" for name, value in here.items()), end="\n\n")
    print(table(rows))


def table(rows: Sequence[Mapping]) -> str:
    """Rows of the same keys as a Markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_shown(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
    return str(value)
