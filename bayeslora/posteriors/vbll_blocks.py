"""The optimal covariance of every class's weights, given how much each training row weighs.

At the optimum of the variational objective the precision of class c is

    S_c⁻¹ = I/σ0² + Σ_n w_nc φ_n φ_nᵀ          (`dense`)

of which `diagonal` has the diagonal alone, and `eigenbasis` that in the basis of the eigenvectors
of Σ_n φ_n φ_nᵀ: features have a few long directions that all classes share, and there the matrix is
nearly diagonal for every class.

Blocks hold the factorised precisions and answer the same questions: the covariance of logits, the
log-determinant and trace that the KL needs, and a preconditioner for the means. The other families
are in `vbll_full_blocks.py` and `vbll_low_rank_blocks.py`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bayeslora.posteriors.covariances import (
    Covariance,
    Dense,
    Diagonal,
    Eigenbasis,
    precision_factor,
    precision_to_lower,
)
from bayeslora.runtime import row_slices


class Blocks(Protocol):
    """A covariance S of C classes' weights in d dimensions; all tensors float64.

    Attributes:
        train_covariance: Covariance of the training rows' logits, [N, C] or [N, C, C].
        log_determinant: log|S|.
        trace: tr S.
        prior_precision: 1/σ0² inside the precisions.
    """

    prior_precision: float
    train_covariance: Tensor
    log_determinant: float
    trace: float

    def of_logits(self, features: Tensor) -> Tensor:
        """Return the logits' covariance, [M, C] or [M, C, C], for [M, d] features."""
        ...

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return an approximate inverse Hessian times a [C, d] gradient of the means."""
        ...

    def stored(self) -> Covariance:
        """Return the covariance in the form that predictions and files use."""
        ...


class DenseBlocks:
    """A full d x d covariance for each class, held as the Cholesky factor R_c of its precision."""

    def __init__(
        self,
        features: Tensor,
        weights: Tensor,
        prior_precision: float,
        *,
        before: Blocks | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Factorise the precisions.

        Args:
            features: [N, d] float64.
            weights: [N, C].
            prior_precision: 1/σ0².
            before: Covariances for the same features, whose eigenvectors are taken.
            dtype: Of the matrices; in float32 variances of logits are right to about 1e-5.
        """
        self.prior_precision = prior_precision
        self._precision = class_precisions(features.to(dtype), weights.to(dtype), prior_precision)
        self._factor = precision_factor(self._precision)
        self._near: EigenbasisBlocks = EigenbasisBlocks(
            features,
            weights,
            prior_precision,
            before._near if isinstance(before, DenseBlocks) else before,
        )
        self.train_covariance = self.of_logits(features)
        diagonal = self._factor.diagonal(dim1=-2, dim2=-1).double()
        self.log_determinant = -2 * float(diagonal.log().sum())
        # tr(S_c S_c⁻¹) = d splits into the prior's part and the rows' part.
        rows = float((weights * self.train_covariance).sum())
        self.trace = (diagonal.numel() - rows) / prior_precision

    def of_logits(self, features: Tensor) -> Tensor:
        """Return φᵀS_cφ = ‖R_c⁻¹φ‖², [M, C]."""
        classes, size, _ = self._factor.shape
        parts = []
        for rows in row_slices(len(features), classes * size):
            columns = features[rows].to(self._factor).T.expand(classes, -1, -1)
            solved = torch.linalg.solve_triangular(self._factor, columns, upper=False)
            parts.append(solved.square().sum(1).T)
        return torch.cat(parts).to(features)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return nearly S_c g_c, by the eigenbasis: d times cheaper than the factors would be."""
        return self._near.precondition(gradient)

    def stored(self) -> Covariance:
        """Return the lower triangles L_c with L_c L_cᵀ = S_c."""
        return Dense(precision_to_lower(self._precision))


def best_dense(features: Tensor, weights: Tensor, prior_precision: float) -> Dense:
    """Return the covariance that `DenseBlocks` holds, without what it answers besides."""
    return Dense(precision_to_lower(class_precisions(features, weights, prior_precision)))


class DiagonalBlocks:
    """Independent weights: variances 1 / (1/σ0² + Σ_n w_nc φ_ni²), [C, d]."""

    def __init__(self, features: Tensor, weights: Tensor, prior_precision: float) -> None:
        self.prior_precision = prior_precision
        squares = features.square()
        self._variances = 1 / (weights.T @ squares + prior_precision)
        self.train_covariance = squares @ self._variances.T
        self.log_determinant = float(self._variances.log().sum())
        self.trace = float(self._variances.sum())
        # Features correlate: the diagonal alone would be a poor guide for the means.
        self._factor = bounding_factor(features, prior_precision)

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i S_ci φ_i², [M, C]."""
        return features.square() @ self._variances.T

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return (I/σ0² + ½ΦᵀΦ)⁻¹ g_c."""
        return torch.cholesky_solve(gradient.T, self._factor).T

    def stored(self) -> Covariance:
        """Return the standard deviations."""
        return Diagonal(self._variances.sqrt())


class EigenbasisBlocks:
    """Weights that are independent along the eigenvectors of ΦᵀΦ."""

    def __init__(
        self,
        features: Tensor,
        weights: Tensor,
        prior_precision: float,
        before: Blocks | None = None,
    ) -> None:
        """Find the variances, 1 / (1/σ0² + Σ_n w_nc (u_iᵀφ_n)²).

        Args:
            features: [N, d] float64.
            weights: [N, C].
            prior_precision: 1/σ0².
            before: Covariances for the same features, whose basis is taken.
        """
        self.prior_precision = prior_precision
        same = before if isinstance(before, EigenbasisBlocks) else None
        self._basis: Tensor = (
            torch.linalg.eigh(features.T @ features)[1] if same is None else same._basis
        )
        self._squares: Tensor = (features @ self._basis).square() if same is None else same._squares
        self._variances = 1 / (weights.T @ self._squares + prior_precision)
        self.train_covariance = self._squares @ self._variances.T
        self.log_determinant = float(self._variances.log().sum())
        self.trace = float(self._variances.sum())

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i S_ci (u_iᵀφ)², [M, C]."""
        return self.stored().of_logits(features)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return S_c g_c: nearly Newton's step of each class as if the others stood still."""
        solved: Tensor = ((gradient @ self._basis) * self._variances) @ self._basis.T
        return solved

    def stored(self) -> Covariance:
        """Return the standard deviations and the basis."""
        return Eigenbasis(self._variances.sqrt(), self._basis)


def best_eigenbasis(features: Tensor, weights: Tensor, prior_precision: float) -> Covariance:
    """Return the covariance that `EigenbasisBlocks` holds."""
    return EigenbasisBlocks(features, weights, prior_precision).stored()


def bounding_factor(features: Tensor, prior_precision: float) -> Tensor:
    """Return the Cholesky factor of I/σ0² + ½ΦᵀΦ: ½ bounds the curvature of log-sum-exp."""
    hessian = 0.5 * features.T @ features
    hessian.diagonal().add_(prior_precision)
    return precision_factor(hessian)


def class_precisions(features: Tensor, weights: Tensor, prior_precision: float) -> Tensor:
    """Return the precision of each class's weights, [C, d, d]."""
    precision = weighted_gram(features, weights)
    precision.diagonal(dim1=-2, dim2=-1).add_(prior_precision)
    return precision


def weighted_gram(features: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_n w_nc φ_n φ_nᵀ, [C, d, d], for [N, d] features and [N, C] weights."""
    classes, size = weights.shape[1], features.shape[1]
    gram = features.new_zeros(classes, size, size)
    for rows in row_slices(len(features), classes * size):
        part = features[rows]
        gram.baddbmm_(part.T * weights[rows].T[:, None, :], part.expand(classes, -1, -1))
    return gram
