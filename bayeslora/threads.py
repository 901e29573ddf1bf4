"""How many threads linear algebra takes."""

from __future__ import annotations

from contextlib import AbstractContextManager


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context in which the BLAS behind numpy and scipy takes one thread.

    For iterations over small matrices, such as those of L-BFGS: there the threads wait for each
    other, so that two take several times as long as one. What is imported inside the context is not
    limited.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
