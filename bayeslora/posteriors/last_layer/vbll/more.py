"""The Gaussian posterior of a linear head after more rows: Laplace's approximation.

    log p(W) = −½ Σ_c κ (w_c − μ_c)ᵀ S_c⁻¹ (w_c − μ_c) + Σ_n log softmax(W φ_n)_{y_n}

is strictly concave. With w_c = μ_c + κ^{-½} L_c v_c and S_c = L_c L_cᵀ, every class has the unit
prior N(0, I), so the search is well conditioned. At the mode, with p_nc the probabilities,

    S'_c⁻¹ = κ S_c⁻¹ + Σ_n p_nc (1 − p_nc) φ_n φ_nᵀ

the block of class c of the negative Hessian. Sources: Spiegelhalter and Lauritzen 1990, Networks
20, for the sequential update; MacKay 1992, doi 10.1162/neco.1992.4.5.720, for the approximation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.posteriors.last_layer.algebra import minimise
from bayeslora.posteriors.last_layer.vbll.covariance import class_precisions
from bayeslora.posteriors.types import Features

_STEPS = 200


def updated(
    mean: Tensor, scale: Tensor, basis: Tensor | None = None, *, rows: Features, strength: float
) -> tuple[Tensor, Tensor]:
    """Return the means [C, d] and scales after more rows, float64.

    Args:
        mean: [C, d] float64.
        scale: [C, d, d] lower triangles or [C, d] standard deviations, float64.
        basis: [d, d] orthonormal columns along which the weights are independent; None for the
            axes, or with triangles.
        rows: Labelled.
        strength: κ.
    """
    rows, scale = rows.double(), scale / math.sqrt(strength)
    mode = _mode(mean, scale, basis, rows)
    probs = rows.logits(mode).softmax(1)
    curvature = probs * (1 - probs)
    if scale.ndim == 2:
        values = rows.values if basis is None else rows.values @ basis
        return mode, scale / (1 + scale.square() * (curvature.T @ values.square())).sqrt()
    inner = scale.mT @ class_precisions(rows.values, curvature, 0.0) @ scale
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), scale.mT, upper=False)
    upper = torch.linalg.qr(root)[1]
    return mode, (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT


def _mode(mean: Tensor, scale: Tensor, basis: Tensor | None, rows: Features) -> Tensor:
    """Return the weights [C, d] of the highest density."""
    free = torch.zeros_like(mean, requires_grad=True)

    def weights() -> Tensor:
        if scale.ndim == 3:
            return mean + (scale @ free[..., None])[..., 0]
        steps = scale * free
        return mean + (steps if basis is None else steps @ basis.T)

    def loss() -> Tensor:
        data = cross_entropy(rows.logits(weights()), rows.targets, reduction="sum")
        return data + 0.5 * free.square().sum()

    minimise(loss, free, _STEPS, 1e-8)
    return weights().detach()
