"""Gaussian weights of a linear head, independent between classes: moments, KL, factors.

A class's weights are N(μ_c, S_c) with S_c = L_c L_cᵀ, L_c a lower triangle (`dense`) or a vector of
standard deviations (`diagonal`). `scale` is [C, d, d] for the first and [C, d] for the second.
"""

from __future__ import annotations

import torch
from torch import Tensor


def logit_moments(features: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means μ_cᵀφ and variances φᵀS_cφ of the logits, [N, C] each.

    Args:
        features: [N, d].
        mean: [C, d].
        scale: [C, d, d] lower triangles, or [C, d] standard deviations.
    """
    if scale.ndim == 2:
        return features @ mean.T, features.square() @ scale.square().T
    # One product [N, d] x [d, C d] in place of C small ones.
    classes, size, _ = scale.shape
    projected = features @ scale.permute(1, 0, 2).reshape(size, classes * size)
    variance = projected.view(-1, classes, size).square().sum(-1)
    return features @ mean.T, variance


def kl_to_prior(mean: Tensor, scale: Tensor, prior_variance: float | Tensor) -> Tensor:
    """Return the sum over classes of KL(N(μ_c, S_c) ‖ N(0, σ0² I)), in nats.

    Args:
        mean: [C, d].
        scale: [C, d, d] lower triangles with a positive diagonal, or [C, d] deviations.
        prior_variance: σ0².
    """
    prior = torch.as_tensor(prior_variance, dtype=mean.dtype, device=mean.device)
    diagonal = scale if scale.ndim == 2 else scale.diagonal(dim1=-2, dim2=-1)
    quadratic = (scale.square().sum() + mean.square().sum()) / prior
    return 0.5 * (quadratic - mean.numel() + mean.numel() * prior.log()) - diagonal.log().sum()


def lower_triangle(raw: Tensor) -> Tensor:
    """Return lower triangles with a positive diagonal from free [C, d, d] parameters.

    The diagonal of `raw` holds log deviations; what lies above it is ignored.
    """
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def raw_triangle(scale: Tensor) -> Tensor:
    """Return the free parameters whose `lower_triangle` is `scale`."""
    return scale.tril(-1) + torch.diag_embed(scale.diagonal(dim1=-2, dim2=-1).log())


def precision_to_lower(precision: Tensor) -> Tensor:
    """Return the lower triangle L with L Lᵀ = precision⁻¹, for [..., d, d] precisions.

    The Cholesky factor of the precision with its axes reversed is, reversed again, the upper
    triangle U with U Uᵀ = precision; then L is the inverse of Uᵀ. One factorisation and one
    triangular solve, without the explicit inverse.
    """
    reverse = (-2, -1)
    upper = torch.linalg.cholesky(precision.flip(reverse)).flip(reverse)
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    lower: Tensor = torch.linalg.solve_triangular(
        upper.transpose(-2, -1), eye.expand_as(precision), upper=False
    )
    return lower
