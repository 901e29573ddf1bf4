"""Linear algebra of last layers: row space of features, factors of precisions, class contrasts.

In directions orthogonal to all N training rows the posterior equals the prior exactly. With fewer
rows than features, last-layer algebra therefore needs N dimensions instead of d: the same saving as
by the matrix inversion lemma, without a second set of formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.errors import InputError


@dataclass(frozen=True)
class RowSpace:
    """An orthonormal basis of the training rows.

    Attributes:
        basis: [d, r] with orthonormal columns; None if r = d, where a rotation is not worthwhile.
    """

    basis: Tensor | None

    @classmethod
    def of(cls, features: Tensor) -> RowSpace:
        """Return the span of [N, d] features; the whole space if N >= d."""
        rows, size = features.shape
        return cls(torch.linalg.qr(features.T)[0] if rows < size else None)

    def coordinates(self, features: Tensor) -> Tensor:
        """Return [N, r] coordinates of [N, d] features (or of [C, d] weights)."""
        return features if self.basis is None else features @ self.basis

    def outside(self, features: Tensor) -> Tensor:
        """Return the squared norm, [N, 1], of the part of [N, d] features outside the space."""
        if self.basis is None:
            return features.new_zeros(len(features), 1)
        residual = features - self.coordinates(features) @ self.basis.T
        return residual.square().sum(-1, keepdim=True)

    def expand(self, coordinates: Tensor) -> Tensor:
        """Return the [C, d] vectors with [C, r] coordinates."""
        return coordinates if self.basis is None else coordinates @ self.basis.T


def precision_to_lower(precision: Tensor) -> Tensor:
    """Return the lower triangle L with L Lᵀ = precision⁻¹, for [..., d, d] precisions.

    The Cholesky factor of the precision with reversed axes, reversed again, is the upper triangle
    U with U Uᵀ = precision, and L is the inverse of Uᵀ. This takes one factorisation and one
    triangular solve, without the explicit inverse.

    Raises:
        InputError: A precision is numerically not positive definite.
    """
    reverse = (-2, -1)
    upper = precision_factor(precision.flip(reverse)).flip(reverse)
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    lower: Tensor = torch.linalg.solve_triangular(
        upper.transpose(-2, -1), eye.expand_as(precision), upper=False
    )
    return lower


def precision_factor(precision: Tensor) -> Tensor:
    """Return the Cholesky factor of [..., d, d] precisions.

    Raises:
        InputError: A precision is numerically not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        raise InputError(
            "the precision of the weights is not positive definite in float64, which happens if "
            "the features of some rows are larger by a factor of 1e8 or more; remove the largest "
            "rows, or scale them"
        )
    result: Tensor = factor
    return result


def bounding_factor(features: Tensor, prior_precision: float) -> Tensor:
    """Return the Cholesky factor of I/σ0² + ½ΦᵀΦ: ½ bounds the curvature of log-sum-exp."""
    hessian = 0.5 * features.T @ features
    hessian.diagonal().add_(prior_precision)
    return precision_factor(hessian)


def class_contrasts(num_classes: int) -> Tensor:
    """Return Helmert contrasts [C, C−1], float64: orthonormal columns, each summing to zero."""
    order = torch.arange(1, num_classes, dtype=torch.float64)
    contrasts = torch.ones(num_classes, num_classes - 1, dtype=torch.float64).triu()
    contrasts[1:] -= torch.diag(order)
    return contrasts / (order * (order + 1)).sqrt()
