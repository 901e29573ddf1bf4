"""Optimisers of small problems use one BLAS thread: more only wait for each other."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from bayeslora.posteriors import vbll_low_rank_blocks
from bayeslora.recalibration.optimum import minimise


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def seen():
    """The numbers of BLAS threads that an objective saw; outside there are two."""
    import scipy.linalg  # noqa: F401  # its pool has to be there to be limited

    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip(f"the number of BLAS threads cannot be set here: {threadpool_info()}")
        found: set[int] = set()
        yield found
        assert blas_threads() == {2}
    assert found == {1}


def test_recalibrators(seen):
    def objective(x):
        seen.update(blas_threads())
        return float(x @ x), 2 * x

    np.testing.assert_allclose(minimise(objective, np.ones(3)), 0, atol=1e-9)


def test_low_rank_covariances(seen, monkeypatch):
    exact = vbll_low_rank_blocks.log_determinants

    def watched(std, factor):
        seen.update(blas_threads())
        return exact(std, factor)

    problem = vbll_low_rank_blocks._Problem(torch.eye(4, dtype=torch.float64).expand(2, 4, 4) * 3)
    start = problem.start(1)
    monkeypatch.setattr(vbll_low_rank_blocks, "log_determinants", watched)
    monkeypatch.setattr(type(problem), "better", lambda self, one, other: one)
    problem.minimise(start)
