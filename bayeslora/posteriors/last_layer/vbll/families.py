"""Families of covariances by name, and memory limits.

*Independent* weights: entrywise, or along the eigenvectors of the features.

    diagonal     S_c = diag(s_c²),      s_ci² = 1 / (1/σ0² + Σ_n w_nc φ_ni²)
    eigenbasis   S_c = U diag(s_c²) Uᵀ, s_ci² = 1 / (1/σ0² + Σ_n w_nc (u_iᵀφ_n)²)

with U the eigenvectors of Σ_n φ_n φ_nᵀ: features have a few long directions that all classes share,
and there the precision is nearly diagonal for every class.

*Triangular*: one covariance per class, or one for all classes.

    dense   S_c⁻¹ = I/σ0² + Σ_n w_nc φ_n φ_nᵀ
    full    S⁻¹ = I/σ0² + Σ_n W_n ⊗ φ_n φ_nᵀ,   W_n [C, C] from the bound

W_n couples the classes as softmax does: raising one logit lowers the other probabilities. Bounds
that depend only on the variances of logits would drive this coupling to zero.

*Low rank*: the optimal covariance of each class among diagonal plus low-rank matrices.

With S = diag(s²) + F Fᵀ for one class and P = I/σ0² + Σ_n w_n φ_n φ_nᵀ, the variational objective
is to minimise

    tr(S P) − log|S|

For fixed s the best F is known: with u_i the eigenvectors of diag(s) P diag(s) and λ_1 ≤ … ≤ λ_k
its smallest eigenvalues, its columns are diag(s) u_i √(1/λ_i − 1). From there quasi-Newton steps on
(log s, F) find the nearest of possibly several optima.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.posteriors.last_layer.algebra import (
    bounding_factor,
    precision_factor,
    precision_to_lower,
)
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
from bayeslora.runtime import one_blas_thread, row_slices

if TYPE_CHECKING:
    from bayeslora.posteriors.options import VBLL


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


@dataclass(frozen=True)
class _Triangular(Trainable):
    """Base of both families.

    Attributes:
        scale: [..., n, n] lower triangles with a positive diagonal.
    """

    scale: Tensor
    is_triangular: ClassVar[bool] = True

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


# Initial length of the directions relative to the independent deviations: at zero they have no
# gradient.
_START = 0.1
_MAX_STEPS = 40
# The optimum may be at zero for up to k deviations of a class, where only the directions keep |S|
# above zero. Below this the objective hardly changes, but its logarithm would lose all its digits.
_MOST_LOG_RATIO = 9.0
# A direction needs an eigenvalue below one; without it, the length is this short.
_SHORTEST = 1e-6


@dataclass(frozen=True)
class DiagonalPlusLowRank(Trainable):
    """Independent weights plus a few common directions.

    Attributes:
        scale: [C, d] standard deviations of the independent part.
        factor: [C, d, k] directions F_c.
    """

    scale: Tensor
    factor: Tensor
    name: ClassVar[str] = "low_rank"
    turns: ClassVar[bool] = False
    simpler: ClassVar[type[Covariance] | None] = Eigenbasis
    simpler_in_training: ClassVar[type[Trainable] | None] = Diagonal

    @staticmethod
    def shapes(num_classes: int, size: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of standard deviations and directions."""
        return {"scale": (num_classes, size), "factor": (num_classes, size, rank)}

    @classmethod
    def numbers_in_fit(cls, num_classes: int, size: int) -> int:
        """Return the number of entries of the precisions of all classes."""
        return num_classes * size**2

    @classmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return an optimal covariance of each class, with at most d directions."""
        return LowRankBlocks(
            problem.features,
            problem.weights,
            problem.prior_precision,
            rank=min(problem.rank, problem.features.shape[1]),
            previous=problem.previous,
        )

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i s_ci² φ_i² + ‖F_cᵀφ‖², [N, C], for [N, d] features."""
        classes, size, rank = self.factor.shape
        projected = features @ self.factor.permute(1, 0, 2).reshape(size, classes * rank)
        along = projected.view(-1, classes, rank).square().sum(-1)
        return features.square() @ self.scale.square().T + along

    @staticmethod
    def free_start(num_classes: int, size: int, rank: int, log_std: float) -> dict[str, Tensor]:
        """Return log standard deviations and short random directions."""
        spread = torch.full((num_classes, size), log_std)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(num_classes, size, rank, generator=generator)
        return {"spread": spread, "factor": _START * spread.exp()[..., None] * noise}

    @classmethod
    def from_free(cls, spread: Tensor, factor: Tensor | None) -> DiagonalPlusLowRank:
        """Return the covariance with these log standard deviations and directions."""
        if factor is None:
            raise TypeError("a low-rank covariance needs its directions")
        return cls(spread.exp(), factor)

    def to_free(self) -> dict[str, Tensor]:
        """Return the log standard deviations and the directions."""
        return {"spread": self.scale.log(), "factor": self.factor}

    @staticmethod
    def shift_log_std(spread: Tensor, factor: Tensor | None, change: float) -> None:
        """Add `change` to the log standard deviations and scale the directions."""
        spread.add_(change)
        if factor is not None:
            factor.mul_(torch.tensor(change).exp())

    def distributions(self, mean: Tensor, prior_variance: Tensor) -> tuple[Any, Any]:
        """Return low-rank normal distributions of each class."""
        posterior = pyro_distributions().LowRankMultivariateNormal(
            mean, self.factor, self.scale.square()
        )
        return isotropic(mean, prior_variance), posterior.to_event(1)


class LowRankBlocks(Blocks):
    """The optimum of diagonal plus rank-k covariances of C classes."""

    def __init__(
        self,
        features: Tensor,
        weights: Tensor,
        prior_precision: float,
        *,
        rank: int,
        previous: Blocks | None = None,
    ) -> None:
        """Find the covariances.

        Args:
            features: [N, d] float64.
            weights: [N, C].
            prior_precision: 1/σ0².
            rank: Directions k per class.
            previous: Solution of a similar problem, as a second start.
        """
        super().__init__(prior_precision)
        problem = _Problem(class_precisions(features, weights, prior_precision))
        covariance = problem.minimise(problem.start(rank))
        start = previous.stored() if previous is not None else None
        if isinstance(start, DiagonalPlusLowRank):
            covariance = problem.better(covariance, problem.minimise(start))
        self._covariance = covariance
        self.train_covariance = self.of_logits(features)
        self.log_determinant = float(log_determinants(covariance.scale, covariance.factor).sum())
        self.trace = float(covariance.scale.square().sum() + covariance.factor.square().sum())
        self._factor = bounding_factor(features, prior_precision)


def log_determinants(std: Tensor, factor: Tensor) -> Tensor:
    """Return log|diag(s_c²) + F_c F_cᵀ| of each class, [C], from a k by k determinant.

    The result is not finite after an overflow.
    """
    scaled = factor / std[..., None]
    inner = scaled.mT @ scaled
    eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    triangle, failed = torch.linalg.cholesky_ex(inner + eye)
    inside = triangle.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 2 * (std.log().sum(-1) + torch.where(failed > 0, torch.nan, inside))


@dataclass(frozen=True)
class _Problem:
    """The objective of the module's docstring for each class.

    Attributes:
        precision: [C, d, d], P.
    """

    precision: Tensor

    def values(self, covariance: DiagonalPlusLowRank) -> Tensor:
        """Return each class's objective, [C]."""
        std, factor = covariance.scale, covariance.factor
        diagonal = self.precision.diagonal(dim1=-2, dim2=-1)
        trace = (std.square() * diagonal).sum(-1)
        trace = trace + (factor * (self.precision @ factor)).sum((-2, -1))
        return trace - log_determinants(std, factor)

    def better(
        self, first: DiagonalPlusLowRank, second: DiagonalPlusLowRank
    ) -> DiagonalPlusLowRank:
        """Return the better of two covariances, class by class."""
        wins = (self.values(first) <= self.values(second))[:, None]
        std = torch.where(wins, first.scale, second.scale)
        return DiagonalPlusLowRank(std, torch.where(wins[..., None], first.factor, second.factor))

    def start(self, rank: int) -> DiagonalPlusLowRank:
        """Return the best independent deviations, with the best directions for these."""
        std = self.precision.diagonal(dim1=-2, dim2=-1).rsqrt()
        values, vectors = torch.linalg.eigh(std[:, :, None] * self.precision * std[:, None, :])
        length = (1 / values[:, None, :rank] - 1).clamp_min(_SHORTEST).sqrt()
        return DiagonalPlusLowRank(
            std, (std[..., None] * vectors[..., :rank] * length).contiguous()
        )

    def minimise(self, start: DiagonalPlusLowRank) -> DiagonalPlusLowRank:
        """Return the optimum near `start`, or `start` for classes without a better one."""
        from scipy.optimize import minimize

        # In units of the best independent deviations, all numbers are near one.
        units = self.precision.diagonal(dim1=-2, dim2=-1).rsqrt()[..., None]
        shortest = units[..., 0] * math.exp(-_MOST_LOG_RATIO)
        start = DiagonalPlusLowRank(start.scale.clamp_min(shortest), start.factor)
        ratios = torch.cat([(start.scale[..., None] / units).log(), start.factor / units], dim=-1)

        def from_ratios(ratios: Tensor) -> DiagonalPlusLowRank:
            return DiagonalPlusLowRank(
                units[..., 0] * ratios[..., 0].exp(), units * ratios[..., 1:]
            )

        @torch.enable_grad()
        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            point = torch.from_numpy(flat.copy()).to(ratios).view_as(ratios).requires_grad_()
            value = self.values(from_ratios(point)).sum()
            (gradient,) = torch.autograd.grad(value, point)
            return float(value.detach().nan_to_num(torch.inf)), gradient.cpu().numpy().ravel()

        bounds = np.full((ratios.numel(), 2), np.inf) * (-1, 1)
        bounds[:: ratios.shape[-1]] = -_MOST_LOG_RATIO, _MOST_LOG_RATIO
        with one_blas_thread():
            result = minimize(
                objective,
                ratios.cpu().numpy().ravel(),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": _MAX_STEPS, "maxcor": _MAX_STEPS, "ftol": 1e-15, "gtol": 1e-9},
            )
        return self.better(
            from_ratios(torch.from_numpy(result.x).to(ratios).view_as(ratios)), start
        )


logger = logging.getLogger(__name__)

# A fit holds a few copies of a covariance.
_MOST_BYTES = 1 << 30

TRAINABLE: dict[str, type[Trainable]] = {
    family.name: family for family in (Dense, Diagonal, Full, DiagonalPlusLowRank)
}
"""Families that gradient steps can move."""

FAMILIES: dict[str, type[Covariance]] = {**TRAINABLE, Eigenbasis.name: Eigenbasis}


def affordable_covariance(config: VBLL, num_features: int, num_classes: int) -> VBLL:
    """Return the configuration, with simpler covariances if the requested ones would not fit.

    The number of directions is limited to the number of features: more add nothing.

    Args:
        config: Requested configuration.
        num_features: d.
        num_classes: C.
    """
    config = config.with_family("dense")
    sizes = (num_classes, num_features)
    return replace(
        config,
        rank=min(config.rank, num_features),
        covariance=_fitting(config.covariance, config, sizes, training=False),
        training_covariance=_fitting(config.training_covariance, config, sizes, training=True),
    )


def _fitting(name: str, config: VBLL, sizes: tuple[int, int], *, training: bool) -> Any:
    """Return a family, or a simpler one that fits into memory, and log the change."""
    family, (classes, features) = FAMILIES[name], sizes
    numbers = sum(map(math.prod, family.shapes(classes, features, config.rank).values()))
    if not training or config.head_step == "refit":
        numbers = max(numbers, family.numbers_in_fit(classes, features))
    simpler = family.simpler_in_training if training else family.simpler
    if simpler is None or 8 * numbers <= _MOST_BYTES:
        return name
    logger.warning(
        "covariance=%s of %d classes and %d features would take %.1f GiB; using covariance=%s "
        "instead",
        name,
        classes,
        features,
        8 * numbers / 2**30,
        simpler.name,
    )
    return _fitting(simpler.name, config, sizes, training=training)
