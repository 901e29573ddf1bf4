"""Deviations that tend to zero, which the directions of a low-rank covariance allow."""

import pytest
import torch

from bayeslora.posteriors.last_layer.vbll.families import LowRankBlocks

F64 = torch.float64


@pytest.mark.parametrize("seed", [0, 13, 19])
def test_a_deviation_that_wants_to_be_zero_keeps_the_determinant_exact(seed):
    """Each fit starts from the previous fit, as the rounds of coordinate ascent do."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(30, 8, generator=generator, dtype=F64)
    rows = rows @ torch.randn(8, 8, generator=generator, dtype=F64)
    weights = 0.2 * torch.rand(30, 1, generator=generator, dtype=F64)
    blocks, prior = None, 0.05
    for turn in range(12):
        weighted = weights * (1 + turn / 10)
        blocks = LowRankBlocks(rows, weighted, prior, rank=3, previous=blocks)
        stored = blocks.stored()
        covariance = torch.diag_embed(stored.scale.square()) + stored.factor @ stored.factor.mT
        # k by k and d by d determinants of the same matrix, with a condition number near 1e9.
        expected = float(torch.linalg.slogdet(covariance)[1])
        assert blocks.log_determinant == pytest.approx(expected, abs=1e-6)
        precision = rows.T @ (weighted * rows) + prior * torch.eye(8, dtype=F64)
        independent = precision.diagonal().rsqrt()
        assert (stored.scale[0] > 1e-4 * independent).all()
    assert (stored.scale[0] / independent).min() < 0.01
