"""How many threads a piece of work is worth, and parts of it on several at once.

Speeds up ``CaptioningModel.loss`` (``in_parallel``), and ``greedy`` and ``beam_search`` of
``core/decoding.py`` (``searched_in_parts``).

NumPy computes elementwise on one core; its products run on as many as its library (BLAS) has
threads. Those wait awake for the next product: on a machine with other work they take cores from
each other, and small products are no faster on two threads than on one. So small work has one
thread. Larger work is cut into parts, each on a thread of Python's with products of its own, which
sleeps while it waits; NumPy lets go of Python's lock while it computes.

What that gives is in ``core/fast/captioner.py``, and beside another process in docs/speed.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from pathlib import Path
from threading import RLock

import numpy as np
from threadpoolctl import ThreadpoolController

# Where Linux says how much of a period a container may compute: version 2, and version 1.
_QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
_IMAGES_OF_A_PART = 16  # at least, when images are shared out
_one_at_a_time = RLock()  # of those who change the number of threads of products, and restore it
_inside = ContextVar("_inside", default=False)  # whether this is a part already


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="part")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along


def number_of_threads() -> int:
    """The cores that this process may use, or fewer where OMP_NUM_THREADS and its like say so."""
    return min(number_of_cores(), _threads_of_products())


def _threads_of_products() -> int:
    """As the library of products says; else, as Apple's Accelerate says nothing, by the cores."""
    if libraries := _blas().info():
        return max(library["num_threads"] for library in libraries)
    asked = os.environ.get("VECLIB_MAXIMUM_THREADS", os.environ.get("OMP_NUM_THREADS", ""))
    return int(asked) if asked.isdecimal() and int(asked) else number_of_cores()


@cache
def number_of_cores() -> int:
    """That this process may use, by its affinity and the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for files in _QUOTAS:
        if all(Path(name).is_file() for name in files):
            quota, period = " ".join(Path(name).read_text() for name in files).split()
            if quota not in ("max", "-1"):
                cores = min(cores, int(quota) // int(period))
    return max(1, cores)


@contextmanager
def products_on(threads: int) -> Iterator[None]:
    """Products have so many threads within the block; a part has the threads of its part."""
    if _inside.get() or threads == _threads_of_products():
        yield
        return
    with _one_at_a_time, _blas().limit(limits=threads):
        yield


def in_parallel(function: Callable, parts: Sequence) -> list:
    """``[function(part) for part in parts]``, several at once.

    Meanwhile a product has only its share of the cores: threads that start threads get in each
    other's way. An error in a part is raised when no part is at work any more.
    """
    threads = 1 if _inside.get() else min(number_of_threads(), len(parts))
    if threads < 2:
        return [function(part) for part in parts]

    def run(part):
        _inside.set(True)
        return function(part)

    with products_on(number_of_threads() // threads):
        # Each in a copy of the context, where NumPy keeps what is to be done about an overflow.
        futures = [_pool(threads).submit(copy_context().run, run, part) for part in parts]
        wait(futures)
    return [future.result() for future in futures]


def searched_in_parts(search: Callable) -> Callable:
    """``core.decoding.greedy`` or ``beam_search`` with the images shared out between threads."""

    def search_in_parts(model, features, *arguments, **options):
        count = max(1, min(number_of_threads(), len(features) // _IMAGES_OF_A_PART))
        bounds = np.linspace(0, len(features), count + 1).astype(int)

        def search_part(part: int):
            images = features[bounds[part] : bounds[part + 1]]
            with products_on(1):
                return search(model, images, *arguments, **options)

        found = in_parallel(search_part, range(count))
        if isinstance(found[0], tuple):
            return tuple(np.concatenate(each) for each in zip(*found, strict=True))
        return np.concatenate(found)

    return search_in_parts
