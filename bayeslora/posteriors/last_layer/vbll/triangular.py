"""Covariances stored as triangles: one per class, or one for all classes.

    dense   S_c⁻¹ = I/σ0² + Σ_n w_nc φ_n φ_nᵀ
    full    S⁻¹ = I/σ0² + Σ_n W_n ⊗ φ_n φ_nᵀ,   W_n [C, C] from the bound

W_n couples the classes as softmax does: raising one logit lowers the other probabilities. Bounds
that depend only on the variances of logits would drive this coupling to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayeslora.posteriors.last_layer.algebra import precision_factor, precision_to_lower
from bayeslora.posteriors.last_layer.vbll.covariance import (
    Blocks,
    Covariance,
    Problem,
    Trainable,
    class_precisions,
    isotropic,
    pyro_distributions,
    weighted_gram,
)
from bayeslora.posteriors.last_layer.vbll.independent import (
    Diagonal,
    Eigenbasis,
    EigenbasisBlocks,
)
from bayeslora.runtime import row_slices


@dataclass(frozen=True)
class _Triangular(Trainable):
    """Base of both families.

    Attributes:
        scale: [..., n, n] lower triangles with a positive diagonal.
    """

    scale: Tensor
    is_triangular: ClassVar[bool] = True

    @classmethod
    def numbers_stored(cls, num_classes: int, size: int, rank: int) -> int:
        """Return the number of entries on and below the diagonals."""
        *counts, rows, _ = cls.shapes(num_classes, size, rank)["scale"]
        return math.prod(counts) * rows * (rows + 1) // 2

    def to_free(self) -> dict[str, Tensor]:
        """Return the free parameters of the triangles."""
        return {"spread": raw_triangle(self.scale)}

    @staticmethod
    def shift_log_std(spread: Tensor, factor: Tensor | None, change: float) -> None:
        """Scale the triangles."""
        raw = spread.diagonal(dim1=-2, dim2=-1).clone()
        spread.sub_(torch.diag_embed(raw)).mul_(torch.tensor(change).exp())
        spread.add_(torch.diag_embed(raw + change))


@dataclass(frozen=True)
class Dense(_Triangular):
    """A separate covariance for each class.

    Attributes:
        scale: [C, d, d] lower triangles with a positive diagonal.
    """

    name: ClassVar[str] = "dense"
    simpler: ClassVar[type[Covariance] | None] = Eigenbasis
    simpler_in_training: ClassVar[type[Trainable] | None] = Diagonal

    @staticmethod
    def shapes(num_classes: int, size: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the triangles."""
        return {"scale": (num_classes, size, size)}

    @staticmethod
    def multiplications(num_classes: int, num_rows: int, size: int) -> float:
        """Return C r (2 N r + r²/3): C matrices are formed, factorised and solved for N rows."""
        return num_classes * size * (2.0 * num_rows * size + size * size / 3)

    @classmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return the optimal covariance of each class."""
        return DenseBlocks(
            problem.features,
            problem.weights,
            problem.prior_precision,
            previous=problem.previous,
            dtype=problem.dtype,
        )

    @classmethod
    def best(cls, features: Tensor, weights: Tensor, prior_precision: float) -> Dense:
        """Return the covariance of `blocks` alone."""
        return cls(precision_to_lower(class_precisions(features, weights, prior_precision)))

    def of_logits(self, features: Tensor) -> Tensor:
        """Return ‖L_cᵀφ‖², [N, C], for [N, d] features."""
        # One product [rows, d] x [d, C d] instead of C small ones.
        classes, size, _ = self.scale.shape
        triangles = self.scale.permute(1, 0, 2).reshape(size, classes * size)
        parts = [
            (features[rows] @ triangles).view(-1, classes, size).square().sum(-1)
            for rows in row_slices(len(features), classes * size)
        ]
        return torch.cat(parts)

    @staticmethod
    def free_start(num_classes: int, size: int, rank: int, log_std: float) -> dict[str, Tensor]:
        """Return diagonal triangles."""
        return {"spread": torch.diag_embed(torch.full((num_classes, size), log_std))}

    @classmethod
    def from_free(cls, spread: Tensor, factor: Tensor | None) -> Dense:
        """Return the covariance with these free triangles."""
        return cls(lower_triangle(spread))

    def distributions(self, mean: Tensor, prior_variance: Tensor) -> tuple[Any, Any]:
        """Return multivariate normal distributions of each class."""
        posterior = pyro_distributions().MultivariateNormal(mean, scale_tril=self.scale)
        return isotropic(mean, prior_variance), posterior.to_event(1)


class DenseBlocks(Blocks):
    """The optimum of a full d x d covariance for each class.

    It is stored as the Cholesky factor R_c of its precision.
    """

    def __init__(
        self,
        features: Tensor,
        weights: Tensor,
        prior_precision: float,
        *,
        previous: Blocks | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Factorise the precisions.

        Args:
            features: [N, d] float64.
            weights: [N, C].
            prior_precision: 1/σ0².
            previous: Covariances for the same features, whose eigenvectors are reused.
            dtype: Dtype of the matrices; in float32 logit variances are accurate to about 1e-5.
        """
        super().__init__(prior_precision)
        self._precision = class_precisions(features.to(dtype), weights.to(dtype), prior_precision)
        self._factor = precision_factor(self._precision)
        self._near: EigenbasisBlocks = EigenbasisBlocks(
            features,
            weights,
            prior_precision,
            previous._near if isinstance(previous, DenseBlocks) else previous,
        )
        self.train_covariance = self.of_logits(features)
        diagonal = self._factor.diagonal(dim1=-2, dim2=-1).double()
        self.log_determinant = -2 * float(diagonal.log().sum())
        self.trace = self._trace(diagonal.numel(), weights)

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
        """Return nearly S_c g_c, in the eigenbasis: d times cheaper than with the factors."""
        return self._near.precondition(gradient)

    def stored(self) -> Covariance:
        """Return the lower triangles L_c with L_c L_cᵀ = S_c."""
        return Dense(precision_to_lower(self._precision))


# In the eigenbasis, then in float32; the last fit, in float64, starts near its optimum.
Dense.approach = ((Eigenbasis, torch.float64), (Dense, torch.float32))


@dataclass(frozen=True)
class Full(_Triangular):
    """One covariance of all weights, with correlations between classes.

    Attributes:
        scale: [C d, C d] lower triangle with a positive diagonal.
    """

    name: ClassVar[str] = "full"
    couples_classes: ClassVar[bool] = True
    simpler: ClassVar[type[Covariance] | None] = Dense
    simpler_in_training: ClassVar[type[Trainable] | None] = Dense

    @staticmethod
    def shapes(num_classes: int, size: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the triangle."""
        return {"scale": (num_classes * size, num_classes * size)}

    @staticmethod
    def multiplications(num_classes: int, num_rows: int, size: int) -> float:
        """Return the count of one dense matrix with C r rows."""
        return Dense.multiplications(1, num_rows, num_classes * size)

    @classmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return the optimal covariance of all weights."""
        return FullBlocks(problem.features, problem.weights, problem.prior_precision)

    @classmethod
    def best(cls, features: Tensor, weights: Tensor, prior_precision: float) -> Full:
        """Return the covariance of `blocks` alone."""
        classes, size = weights.shape[-1], features.shape[1]
        gram = weighted_gram(features, weights.flatten(1)).view(classes, classes, size, size)
        precision = gram.transpose(1, 2).reshape(classes * size, classes * size)
        precision.diagonal().add_(prior_precision)
        return cls(precision_to_lower(precision))

    def of_logits(self, features: Tensor) -> Tensor:
        """Return (I ⊗ φ)ᵀ S (I ⊗ φ), [N, C, C], for [N, d] features."""
        total, size = len(self.scale), features.shape[1]
        blocks = self.scale.view(total // size, size, total)
        parts = []
        for rows in row_slices(len(features), len(blocks) * total):
            projected = torch.einsum("nd,cde->nce", features[rows], blocks)
            parts.append(projected @ projected.mT)
        return torch.cat(parts)

    @staticmethod
    def free_start(num_classes: int, size: int, rank: int, log_std: float) -> dict[str, Tensor]:
        """Return a diagonal triangle."""
        return {"spread": torch.diag_embed(torch.full((num_classes * size,), log_std))}

    @classmethod
    def from_free(cls, spread: Tensor, factor: Tensor | None) -> Full:
        """Return the covariance with this free triangle."""
        return cls(lower_triangle(spread))

    def distributions(self, mean: Tensor, prior_variance: Tensor) -> tuple[Any, Any]:
        """Return a multivariate normal prior and posterior of all weights as one vector."""
        vector = mean.reshape(1, -1)
        posterior = pyro_distributions().MultivariateNormal(vector, scale_tril=self.scale[None])
        return isotropic(vector, prior_variance), posterior.to_event(1)


class FullBlocks(Blocks):
    """The optimum of one [C d, C d] covariance, stored as its triangle."""

    def __init__(self, features: Tensor, weights: Tensor, prior_precision: float) -> None:
        """Factorise the precision.

        Args:
            features: [N, d] float64.
            weights: [N, C, C].
            prior_precision: 1/σ0².
        """
        super().__init__(prior_precision)
        self._covariance = Full.best(features, weights, prior_precision)
        self._lower = self._covariance.scale
        self.train_covariance = self.of_logits(features)
        self.log_determinant = 2 * float(self._lower.diagonal().log().sum())
        self.trace = self._trace(len(self._lower), weights)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return S g: Newton's step of all classes jointly."""
        lower = self._lower
        return (lower @ (lower.T @ gradient.reshape(-1, 1))).view_as(gradient)


def packed(lower: Tensor) -> Tensor:
    """Pack [..., n, n] lower triangles by rows into [..., n (n + 1) / 2], without their zeros."""
    rows, columns = torch.tril_indices(*lower.shape[-2:])
    return lower[..., rows, columns]


def unpacked(triangles: Tensor) -> Tensor:
    """Invert `packed`: return the lower triangles [..., n, n]."""
    size = (math.isqrt(8 * triangles.shape[-1] + 1) - 1) // 2
    rows, columns = torch.tril_indices(size, size)
    lower = triangles.new_zeros(*triangles.shape[:-1], size, size)
    lower[..., rows, columns] = triangles
    return lower


def lower_triangle(raw: Tensor) -> Tensor:
    """Return lower triangles with a positive diagonal from free [..., d, d] parameters.

    The diagonal of `raw` holds log standard deviations; entries above it are ignored.
    """
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def raw_triangle(scale: Tensor) -> Tensor:
    """Return the free parameters of lower triangles, the inverse of `lower_triangle`."""
    return scale.tril(-1) + torch.diag_embed(scale.diagonal(dim1=-2, dim2=-1).log())
