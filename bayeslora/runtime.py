"""Threads, slices of rows that bound memory, and the caller's random state."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_WORKERS = 4
"""More workers gain little, since one thread makes the tasks."""


def threaded(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """Yield `function(task)` for each task in order, computed by a few threads.

    Tasks are made one by one in the caller's thread while earlier ones are computed; only a few
    wait at a time. For functions that spend their time in numpy or scipy, which release the GIL.
    """
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context manager that limits the BLAS of numpy and scipy to one thread.

    For iterations over small matrices, such as those of L-BFGS, in which threads wait for each
    other: two take several times as long as one. Libraries imported inside the context are not
    limited.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")  # type: ignore[no-any-return]


def row_slices(rows: int, elements_per_row: int, most: int = 1 << 23) -> Iterator[slice]:
    """Yield slices that cover the rows in order; one empty slice if there are no rows.

    Args:
        rows: Number of rows.
        elements_per_row: Elements of the intermediate result per row.
        most: Maximum elements of the intermediate result per slice, unless a single row has more;
            64 MB in float64 by default.
    """
    size = max(1, most // max(1, elements_per_row))
    for start in range(0, max(1, rows), size):
        yield slice(start, min(start + size, rows))


@contextmanager
def restored_random_state() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and torch afterwards, on every device.

    Draws and seeding by libraries then do not affect the caller's own draws.
    """
    import numpy as np
    import torch

    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
