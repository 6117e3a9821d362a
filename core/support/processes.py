"""Several processes that work together, as ``torchrun`` started them: which one is this?

``torch.distributed`` joins them. PyTorch is imported only where it is needed; without ``torchrun``
there is one process, and nothing here does anything but choose its device.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import numpy as np

from core.support.pytorch import require_torch

Array = np.ndarray


def number_of_processes() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this is, from 0; only 0 writes, draws and talks."""
    return int(os.environ.get("RANK", 0))


def choose_device(name: str) -> str:
    """The device of that name; for 'auto' a GPU where there is one, else the CPU.

    Raises ValueError when there is no such device on this machine.
    """
    require_torch("--engine torch")
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((device for device, available in there.items() if available), "cpu")
    if not there.get(name, name == "cpu"):
        raise ValueError(f"--device {name}: there is none on this machine, expected cpu or auto")
    return name


@contextmanager
def joined(device: str = "auto") -> Iterator[str]:
    """Joins the other processes for the time of the block; yields the device of this one.

    On GPUs ('cuda') each process of a machine gets its own, and they talk through NCCL, else
    through gloo.

    Raises ValueError when there is no such device, ConnectionError when the connection to the other
    processes breaks.
    """
    device = choose_device(device)
    if number_of_processes() == 1:
        yield device
        return
    import torch
    from torch import distributed

    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if sys.platform == "win32":
        os.environ.setdefault("USE_LIBUV", "0")  # PyTorch is built without it there
    try:
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    except RuntimeError as error:
        raise ConnectionError(
            f"torchrun: the processes found no way to each other ({str(error).splitlines()[0]}); "
            "on Windows set USE_LIBUV=0 before torchrun, or train in one process without it"
        ) from error
    try:
        # When a process dies, torchrun ends the others, who may not have noticed: they tell, too.
        before = signal.signal(signal.SIGTERM, _told_to_end)
        yield device
        signal.signal(signal.SIGTERM, before)
    except (Exception, _ToldToEnd) as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ends anyway, but not before it has told
        if not isinstance(error, RuntimeError | _ToldToEnd):
            raise
        # gloo has no class of its own for a lost connection
        raise ConnectionError(
            f"process {rank()} of {number_of_processes()} ends, for another one did or it failed "
            f"itself ({str(error).splitlines()[0]}); what was saved is whole: start the same "
            "command again, a training with --resume"
        ) from error
    finally:
        distributed.destroy_process_group()


class _ToldToEnd(BaseException):
    """No ``Exception``, for it may be raised anywhere, and nobody must take it for an error."""


def _told_to_end(*_) -> NoReturn:
    raise _ToldToEnd("told to end")


def wait_for_all() -> None:
    """Goes on when every process has come here."""
    if number_of_processes() > 1:
        from torch import distributed

        distributed.barrier()


def share_of(count: int) -> tuple[Array, float]:
    """This process's rows of a batch of that many, and which share of it they are.

    A process for which nothing is left takes the first row, with a share of 0.
    """
    rows = np.array_split(np.arange(count), number_of_processes())[rank()]
    return (rows, len(rows) / count) if len(rows) else (np.arange(1), 0.0)


def sum_over_all(value: float | Array, device) -> float | Array:
    """The sum of a number, or an array, of each process; ``device`` is where they talk."""
    if number_of_processes() == 1:
        return value
    import torch
    from torch import distributed

    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.cpu().numpy() if total.ndim else total.item()
