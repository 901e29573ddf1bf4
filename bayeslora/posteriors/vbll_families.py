"""From the name of a covariance family to its optimal covariance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bayeslora.posteriors.covariances import Covariance
from bayeslora.posteriors.vbll_blocks import (
    Blocks,
    DenseBlocks,
    DiagonalBlocks,
    EigenbasisBlocks,
    best_dense,
    best_eigenbasis,
)
from bayeslora.posteriors.vbll_full_blocks import FullBlocks, best_full
from bayeslora.posteriors.vbll_low_rank_blocks import LowRankBlocks

ROTATABLE: dict[str, Callable[[Tensor, Tensor, float], Covariance]] = {
    "dense": best_dense,
    "eigenbasis": best_eigenbasis,
    "full": best_full,
}
"""Families that stay what they are in other coordinates of the feature space, and the optimum of
each from features [N, d], curvatures and 1/σ0²."""


def make_blocks(
    family: str,
    features: Tensor,
    weights: Tensor,
    prior_precision: float,
    *,
    rank: int = 1,
    before: Blocks | None = None,
    dtype: torch.dtype = torch.float64,
) -> Blocks:
    """Return the optimal covariance of a family.

    Args:
        family: `diagonal`, `eigenbasis`, `dense`, `low_rank` or `full`.
        features: [N, d] float64.
        weights: Curvatures W of the bound, [N, C], or [N, C, C] for `full`.
        prior_precision: 1/σ0².
        rank: Directions of `low_rank`.
        before: The covariance of nearly the same problem, where that saves work.
        dtype: Of the matrices of `dense`.
    """
    if family == "low_rank":
        return LowRankBlocks(
            features, weights, prior_precision, rank=min(rank, features.shape[1]), before=before
        )
    if family == "full":
        return FullBlocks(features, weights, prior_precision)
    if family == "eigenbasis":
        return EigenbasisBlocks(features, weights, prior_precision, before)
    if family == "dense":
        return DenseBlocks(features, weights, prior_precision, before=before, dtype=dtype)
    return DiagonalBlocks(features, weights, prior_precision)
