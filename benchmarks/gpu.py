"""What a GPU gives: the same numbers, its speed and its memory, written to ``docs/gpu.md``.

python -m benchmarks.gpu                          under five minutes, on the GPU of this machine
python -m benchmarks.gpu --tiny --out gpu.md      small sizes on any machine, to see that it runs

Speed is that of ``--engine torch`` as it trains, from NumPy arrays in memory to moved parameters.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import (
    CLIP_NORM,
    SIZES,
    STILL,
    VOCABULARY,
    model_and_batch,
    step_of,
    table,
)
from core.models import MODELS
from core.support.choices import ENCODERS, PRECISIONS
from core.support.command_line import ArgumentParser, run_command
from core.support.files import write_text
from core.support.pytorch import require_torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gpu.md"
_LAST_START = 200  # seconds after which nothing more is compiled, so that five minutes suffice
_NOT_MEASURED = "no time"
TEXT = """# On a GPU

Written by `python -m benchmarks.gpu`, in {seconds:.0f} seconds.

{machine}

## The same numbers

Loss and gradients of a batch of {rows}, dropout 0, against the NumPy engine in float64: how far the
loss is away, and the gradient that is farthest, both as a share of its size.

{parity}

## Training

Whole steps of `--engine torch`: features and captions from memory, loss, gradients, clipping,
Adam. Tokens are the words that are scored, padding left out; `compiled` is the forward pass through
`torch.compile`. Memory is the most that PyTorch held, parameters included. {unmeasured}

{training}

## Several processes

{processes}

## Looking at photos

Photos of {picture} pixels a side in memory, {photos} at a time, through the network in float32.

{encoders}
"""


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", metavar="FILE.md", help="to write (default: docs/gpu.md)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, also without a GPU")
    parser.add_argument("--worker", action="store_true", help="one process of several; not for you")
    options = parser.parse_args()
    require_torch("benchmarks.gpu")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.worker:
        return work(device, options.tiny)
    if options.tiny and not options.out:
        raise ValueError("--tiny: its figures say nothing, and stay out of docs/gpu.md; add --out")
    if device == "cpu" and not options.tiny:
        raise ValueError(
            "benchmarks.gpu: there is no CUDA GPU here, so there is nothing to measure; add --tiny "
            "and --out FILE.md to see that it runs"
        )
    page = measure_all(device, options.tiny)
    write_text(options.out or PAGE, page)
    print(f"written: {options.out or PAGE}")
    return None


def measure_all(device: str, tiny: bool) -> str:
    """The page."""
    begin = time.monotonic()
    models = ("lstm", "transformer") if tiny else tuple(MODELS)
    batch_sizes = (4,) if tiny else (64, 256, 1024)
    encoders = ("tiny_cnn",) if tiny else tuple(ENCODERS)
    rows, photos, seconds = (4, 4, 0.01) if tiny else (64, 256, 0.5)
    accuracy = [
        parity(name, precision, rows, device) for name in models for precision in PRECISIONS
    ]
    training = [
        training_row(name, precision, n, device, seconds)
        for name in models
        for precision in PRECISIONS
        for n in batch_sizes
    ]
    looking = [encoder_row(name, photos, device, seconds) for name in encoders]
    processes = several_processes(device, tiny)
    for row in training:  # last, for it takes the longest
        row["compiled"] = compiled(row, device, seconds, begin, tiny)
    missing = sum(row["compiled"] == _NOT_MEASURED for row in training)
    rows_of = f"`{_NOT_MEASURED}`: {missing} of {len(training)} were not compiled, for time was up."
    return TEXT.format(
        seconds=time.monotonic() - begin,
        machine=machine(device),
        rows=rows,
        parity=table(accuracy),
        unmeasured=rows_of if missing else "",
        training=table(training),
        processes=processes,
        picture=64 if tiny else 224,
        photos=photos,
        encoders=table(looking),
    )


def machine(device: str) -> str:
    import torch

    name, build = platform.machine(), f"PyTorch {torch.__version__}"
    if device == "cuda":
        count, of = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        name = f"{count} x {of.name}, {of.total_memory / 2**30:.0f} GiB"
        build += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{name}; {build}; Python {platform.python_version()}; {os.cpu_count()} cores."


# ---------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------


def parity(name: str, precision: str, rows: int, device: str) -> dict:
    """How far loss and gradients on the device are from those of NumPy in float64."""
    from core.fast import build_fast_model
    from core.torch_models.convert import to_numpy

    model, features, captions = model_and_batch(name, rows)
    exact = build_fast_model(name, SIZES[name] | {"dtype": "float64"}, VOCABULARY, model.params)
    loss, grads = exact.loss(features.astype(np.float64), captions)
    engine = engine_of(name, precision, device, model.params)
    theirs = engine.compute(features, captions)
    found = {k: x.grad for k, x in engine.model.named_parameters() if x.grad is not None}
    found = to_numpy(engine.model, found)
    far = {
        k: float(np.linalg.norm(x - found[k]) / max(np.linalg.norm(x), 1e-30))
        for k, x in grads.items()
        if np.linalg.norm(x) > 1e-12
    }
    worst = max(far, key=far.get)
    return {
        "model": name,
        "precision": precision,
        "loss": f"{abs(theirs - loss) / loss:.1e}",
        "farthest gradient": f"{far[worst]:.1e} ({worst})",
    }


def engine_of(name: str, precision: str, device: str, params=None):
    from core.torch_models import TorchEngine, build_torch_model

    rng = np.random.default_rng(0)
    model = build_torch_model(name, SIZES[name], VOCABULARY, params, rng, device=device)
    return TorchEngine(model, "adam", STILL, CLIP_NORM, precision)


# ---------------------------------------------------------------------------------------------
# Speed
# ---------------------------------------------------------------------------------------------


def training_row(name: str, precision: str, batch_size: int, device: str, seconds: float) -> dict:
    _, features, captions = model_and_batch(name, batch_size)
    forget_memory(device)
    step = step_of(engine_of(name, precision, device), features, captions)
    rate = a_second(step, device, seconds, tokens(captions))
    return {
        "model": name,
        "precision": precision,
        "batch_size": batch_size,
        "memory_mib": memory(device),
        "tokens_per_second": rate,
    }


def compiled(row: dict, device: str, seconds: float, begin: float, tiny: bool) -> float | str:
    """Tokens a second of a row with the forward pass compiled; a word where there are none."""
    import torch

    if time.monotonic() - begin > _LAST_START:
        return _NOT_MEASURED
    torch._dynamo.reset()
    _, features, captions = model_and_batch(row["model"], row["batch_size"])
    engine = engine_of(row["model"], row["precision"], device)
    backend = "eager" if tiny else "inductor"  # which makes no code
    engine.model._forward = torch.compile(engine.model._forward, backend=backend)
    try:
        step = step_of(engine, features, captions)
        return a_second(step, device, seconds, tokens(captions))
    except Exception as error:  # of a compiler that is not there, and of whatever it stumbles over
        return f"failed: {type(error).__name__}"


def tokens(captions: np.ndarray) -> int:
    return int(np.count_nonzero(captions[:, 1:]))


def a_second(step: Callable[[], object], device: str, seconds: float, each: int) -> float | str:
    """How many a second, of which a step has ``each``; three steps before do not count.

    A word where the GPU has too little memory.
    """
    import torch

    try:
        for _ in range(3):
            step()
        wait(device)
        count, begin = 0, time.perf_counter()
        while not count or time.perf_counter() - begin < seconds:
            step()
            wait(device)
            count += 1
    except torch.OutOfMemoryError:
        return "no memory"
    return float(round(each * count / (time.perf_counter() - begin)))


def wait(device: str) -> None:
    """Until the device has done what it was asked to."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def forget_memory(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: str) -> float | str:
    """The most that PyTorch held since ``forget_memory``, in MiB; not known of a CPU."""
    if device != "cuda":
        return "-"
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


def encoder_row(name: str, photos: int, device: str, seconds: float) -> dict:
    from core.encoders.extractor import PREPROCESSING
    from core.encoders.weights import load_network, run_network

    size = PREPROCESSING[name]["size"]
    images = np.random.default_rng(0).standard_normal((photos, size, size, 3), np.float32)
    forget_memory(device)
    network = load_network(name, "random").to(device)
    rate = a_second(lambda: run_network(network, images), device, seconds, photos)
    return {"encoder": name, "photos_per_second": rate, "memory_mib": memory(device)}


# ---------------------------------------------------------------------------------------------
# Several processes
# ---------------------------------------------------------------------------------------------


def several_processes(device: str, tiny: bool) -> str:
    """A process for each GPU, as torchrun starts them; what they say, in words."""
    import torch

    count = torch.cuda.device_count() if device == "cuda" else 1
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(count), "-m", "benchmarks.gpu", "--worker"]
    command += ["--tiny"] if tiny else []
    how = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    try:
        done = subprocess.run(command, check=False, **how)
    except subprocess.TimeoutExpired:
        return "They had not ended after a minute."
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        return f"They failed, with exit code {done.returncode}: {last[:200]}"
    row = json.loads(lines[-1])
    one = "One process, as there is one GPU: it shows that the library works and what it costs."
    many = "A process for each GPU shares each batch with the others."
    return (
        f"{one if count == 1 else many} Gradients are added up by {row.pop('library')}.\n\n"
        f"{table([row])}"
    )


def work(device: str, tiny: bool) -> None:
    """One of several processes: steps with and without the others."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    library = "nccl" if device == "cuda" else "gloo"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(library)
    try:
        name, n, seconds = ("lstm", 4, 0.01) if tiny else ("transformer", 1024, 1.0)
        count = distributed.get_world_size()
        row = {"library": library.upper() if device == "cuda" else library}
        row |= {"model": name, "batch_size": n, "processes": count}
        _, features, captions = model_and_batch(name, n)
        engine = engine_of(name, "float32", device)
        if count == 1:  # then the engine has no need of it
            engine.loss_of = DistributedDataParallel(engine.loss_of)
        step = step_of(engine, features, captions)
        row["tokens_per_second"] = steps_together(step, device, seconds) * tokens(captions)
        if distributed.get_rank() == 0:
            print(json.dumps(row), flush=True)
    finally:
        distributed.destroy_process_group()


def steps_together(step: Callable[[], object], device: str, seconds: float) -> float:
    """As ``a_second``, of as many steps in each process."""
    begin = time.perf_counter()
    for _ in range(3):
        step()
    wait(device)
    count = max(3, round(3 * seconds / (time.perf_counter() - begin)))
    from torch import distributed

    box = [count]
    distributed.broadcast_object_list(box)
    begin = time.perf_counter()
    for _ in range(box[0]):
        step()
    wait(device)
    return box[0] / (time.perf_counter() - begin)


if __name__ == "__main__":
    run_command(main)
