"""Several processes that train one model together, as ``torchrun`` started them.

PyTorch does the work: ``torch.distributed`` joins the processes, DistributedDataParallel averages
their gradients. Without ``torchrun`` there is one process, and all of this does nothing.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import distributed

Array = np.ndarray


def number_of_processes() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this is, from 0; only 0 writes, draws and talks."""
    return int(os.environ.get("RANK", 0))


def join(device: torch.device) -> torch.device:
    """Joins the other processes; returns the device of this one.

    On GPUs each process of a machine gets its own, and they talk through NCCL, else through gloo.
    """
    if number_of_processes() == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    """Parts from the other processes, if there are any."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait_for_all() -> None:
    """Goes on when every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()


def share_of(features: Array, captions: Array) -> tuple[Array, Array, float]:
    """This process's rows of a batch that all have drawn alike, and their share of the batch.

    A process for which nothing is left takes the first row, with a share of 0.
    """
    rows = np.array_split(np.arange(len(captions)), number_of_processes())[rank()]
    share = len(rows) / len(captions)
    if len(rows) == 0:
        rows = np.arange(1)
    return features[rows], captions[rows], share


def sum_over_all(value: float, device: torch.device) -> float:
    """The sum of a number of each process, in all of them."""
    if not distributed.is_initialized():
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.item()
