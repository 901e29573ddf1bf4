"""Optimisers of small problems use one BLAS thread; blocks of resamples use several threads.

Slices contain every row once, in order, and none is larger than requested.
"""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from bayeslora.processes import MOST_WORKERS, row_slices, threaded
from bayeslora.recalibration.recalibrate import minimise


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def seen():
    """Yield a set for the numbers of BLAS threads that an objective sees; outside there are two."""
    import scipy.linalg  # noqa: F401  # its pool has to be there to be limited

    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip(f"the number of BLAS threads cannot be set here: {threadpool_info()}")
        numbers: set[int] = set()
        yield numbers
        assert blas_threads() == {2}


def test_recalibrators(seen):
    def objective(x):
        seen.update(blas_threads())
        return float(x @ x), 2 * x

    np.testing.assert_allclose(minimise(objective, np.ones(3)), 0, atol=1e-9)
    assert seen == {1}


def test_results_come_in_order_whichever_is_ready_first():
    def work(task):
        time.sleep(0.02 if task % 3 == 0 else 0)
        return task**2

    assert list(threaded(work, range(20))) == [task**2 for task in range(20)]


def test_tasks_are_made_one_by_one_in_the_callers_thread_and_few_of_them_wait():
    made, done = [], []

    def tasks():
        for task in range(50):
            made.append(threading.current_thread())
            # at most one task per worker, one more, and this one are made and not yet handed on
            assert len(made) - len(done) <= MOST_WORKERS + 2
            yield task

    for result in threaded(lambda task: task, tasks()):
        done.append(result)
    assert set(made) == {threading.current_thread()}
    assert len(done) == 50


def test_the_first_error_of_a_task_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(threaded(lambda task: 1 // task, [2, 1, 0, 1]))


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 300))
def test_slices_cover_the_rows_in_order(rows, elements, most):
    slices = list(row_slices(rows, elements, most))
    assert [row for part in slices for row in range(rows)[part]] == list(range(rows))
    assert all(len(range(rows)[part]) <= max(1, most // max(1, elements)) for part in slices)
