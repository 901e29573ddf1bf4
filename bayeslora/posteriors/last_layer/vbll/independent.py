"""Independent weights: entrywise, or along the eigenvectors of the features.

    diagonal     S_c = diag(s_c²),      s_ci² = 1 / (1/σ0² + Σ_n w_nc φ_ni²)
    eigenbasis   S_c = U diag(s_c²) Uᵀ, s_ci² = 1 / (1/σ0² + Σ_n w_nc (u_iᵀφ_n)²)

with U the eigenvectors of Σ_n φ_n φ_nᵀ: features have a few long directions that all classes share,
and there the precision is nearly diagonal for every class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayeslora.posteriors.cost import ROUNDS
from bayeslora.posteriors.last_layer.algebra import bounding_factor
from bayeslora.posteriors.last_layer.vbll.covariance import (
    Blocks,
    Covariance,
    Problem,
    Trainable,
    pyro_distributions,
)


@dataclass(frozen=True)
class Diagonal(Trainable):
    """Independent weights.

    Attributes:
        scale: [C, d] standard deviations.
    """

    scale: Tensor
    name: ClassVar[str] = "diagonal"
    turns: ClassVar[bool] = False

    @staticmethod
    def shapes(num_classes: int, size: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the deviations."""
        return {"scale": (num_classes, size)}

    @classmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return the optimal variances."""
        return DiagonalBlocks(problem.features, problem.weights, problem.prior_precision)

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i s_ci² φ_i², [N, C], for [N, d] features."""
        return features.square() @ self.scale.square().T

    @staticmethod
    def free_start(num_classes: int, size: int, rank: int, log_std: float) -> dict[str, Tensor]:
        """Return the log standard deviations."""
        return {"spread": torch.full((num_classes, size), log_std)}

    @classmethod
    def from_free(cls, spread: Tensor, factor: Tensor | None) -> Diagonal:
        """Return the covariance with these log standard deviations."""
        return cls(spread.exp())

    def to_free(self) -> dict[str, Tensor]:
        """Return the log standard deviations."""
        return {"spread": self.scale.log()}

    @staticmethod
    def shift_log_std(spread: Tensor, factor: Tensor | None, change: float) -> None:
        """Add `change` to the log standard deviations."""
        spread.add_(change)

    def distributions(self, mean: Tensor, prior_variance: Tensor) -> tuple[Any, Any]:
        """Return independent normal distributions of the weights."""
        dist = pyro_distributions()
        zero, deviation = torch.zeros_like(mean), prior_variance.to(mean).sqrt().expand_as(mean)
        prior, posterior = dist.Normal(zero, deviation), dist.Normal(mean, self.scale)
        return prior.to_event(2), posterior.to_event(2)


class DiagonalBlocks(Blocks):
    """The optimum of independent weights, [C, d]."""

    def __init__(self, features: Tensor, weights: Tensor, prior_precision: float) -> None:
        super().__init__(prior_precision)
        squares = features.square()
        self._variances = 1 / (weights.T @ squares + prior_precision)
        self.train_covariance = squares @ self._variances.T
        self.log_determinant = float(self._variances.log().sum())
        self.trace = float(self._variances.sum())
        # Features correlate: the diagonal alone would be a poor preconditioner for the means.
        self._factor = bounding_factor(features, prior_precision)
        self._covariance = Diagonal(self._variances.sqrt())

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i S_ci φ_i², [M, C]."""
        return features.square() @ self._variances.T


@dataclass(frozen=True)
class Eigenbasis(Covariance):
    """Weights that are independent in one basis for all classes.

    It cannot be trained: the basis is that of the final features.

    Attributes:
        scale: [C, d] standard deviations along the basis.
        basis: [d, d], orthonormal columns.
    """

    scale: Tensor
    basis: Tensor
    name: ClassVar[str] = "eigenbasis"

    @staticmethod
    def shapes(num_classes: int, size: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of deviations and basis."""
        return {"scale": (num_classes, size), "basis": (size, size)}

    @staticmethod
    def multiplications(num_classes: int, num_rows: int, size: int) -> float:
        """Return r (N r + 10 r²), once for all rounds, for the basis."""
        return size * (num_rows * size + 10.0 * size * size) / ROUNDS

    @classmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return the optimal variances along the eigenvectors of the features."""
        return EigenbasisBlocks(
            problem.features, problem.weights, problem.prior_precision, problem.previous
        )

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i s_ci² (u_iᵀφ)², [N, C], for [N, d] features."""
        return (features @ self.basis).square() @ self.scale.square().T


class EigenbasisBlocks(Blocks):
    """The optimum of weights that are independent along the eigenvectors of ΦᵀΦ."""

    def __init__(
        self,
        features: Tensor,
        weights: Tensor,
        prior_precision: float,
        previous: Blocks | None = None,
    ) -> None:
        """Find the variances.

        Args:
            features: [N, d] float64.
            weights: [N, C].
            prior_precision: 1/σ0².
            previous: Covariances for the same features, whose basis is reused.
        """
        super().__init__(prior_precision)
        reused = previous if isinstance(previous, EigenbasisBlocks) else None
        self._basis: Tensor = (
            torch.linalg.eigh(features.T @ features)[1] if reused is None else reused._basis
        )
        self._squares: Tensor = (
            (features @ self._basis).square() if reused is None else reused._squares
        )
        self._variances = 1 / (weights.T @ self._squares + prior_precision)
        self.train_covariance = self._squares @ self._variances.T
        self.log_determinant = float(self._variances.log().sum())
        self.trace = float(self._variances.sum())
        self._covariance = Eigenbasis(self._variances.sqrt(), self._basis)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return S_c g_c: nearly Newton's step of each class with the others fixed."""
        solved: Tensor = ((gradient @ self._basis) * self._variances) @ self._basis.T
        return solved
