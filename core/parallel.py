"""Parts of the work on all cores at once: NumPy lets go of Python's lock while it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="part")


def number_of_threads() -> int:
    """What NumPy's products run on: the cores, or what OMP_NUM_THREADS and its like allow."""
    return max((library["num_threads"] for library in _blas().info()), default=1)


def in_parallel(function: Callable, parts: Sequence) -> list:
    """``[function(part) for part in parts]``, several at once, each on one core.

    Products are told to stay on the core that they are called from as long as this runs: threads
    that start threads get in each other's way.
    """
    threads = min(number_of_threads(), len(parts))
    if threads < 2:
        return [function(part) for part in parts]
    with _blas().limit(limits=1):
        return list(_pool(threads).map(function, parts))
