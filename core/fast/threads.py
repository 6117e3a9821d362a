"""Parts of the work on all cores at once: NumPy lets go of Python's lock while it computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from functools import cache
from threading import Lock

import numpy as np  # noqa: F401  it loads the library whose threads are counted
from threadpoolctl import ThreadpoolController

_one_at_a_time = Lock()  # of those who change the number of threads of products, and restore it
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
    """What NumPy's products run on: the cores, or what OMP_NUM_THREADS and its like allow."""
    return max((library["num_threads"] for library in _blas().info()), default=1)


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

    with _one_at_a_time, _blas().limit(limits=number_of_threads() // threads):
        # Each in a copy of the context, where NumPy keeps what is to be done about an overflow.
        futures = [_pool(threads).submit(copy_context().run, run, part) for part in parts]
        wait(futures)
    return [future.result() for future in futures]
