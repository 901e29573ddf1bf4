"""Threads: how many linear algebra takes, and work on arrays by several at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_WORKERS = 4
"""More gain little where one thread makes the tasks."""


def threaded(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """Yield `function(task)` of each task in order, worked on by a few threads.

    Tasks are made in the caller's thread, one after the other, while earlier ones are worked on;
    few of them wait at a time. For functions that spend their time in numpy or scipy, which let
    other threads run meanwhile.
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
    """Return a context in which the BLAS behind numpy and scipy takes one thread.

    For iterations over small matrices, such as those of L-BFGS: there the threads wait for each
    other, so that two take several times as long as one. What is imported inside the context is not
    limited.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
