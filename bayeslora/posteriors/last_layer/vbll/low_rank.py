"""The optimal covariance of each class's weights among diagonal plus low-rank matrices.

With S = diag(s²) + F Fᵀ for one class and P = I/σ0² + Σ_n w_n φ_n φ_nᵀ, the variational objective
is to minimise

    tr(S P) − log|S|

For fixed s the best F is known: with u_i the eigenvectors of diag(s) P diag(s) and λ_1 ≤ … ≤ λ_k
its smallest eigenvalues, its columns are diag(s) u_i √(1/λ_i − 1). From there quasi-Newton steps on
(log s, F) find the nearest of possibly several optima.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.posteriors.last_layer.algebra import bounding_factor
from bayeslora.posteriors.last_layer.vbll.covariance import (
    Blocks,
    Covariance,
    Problem,
    Trainable,
    class_precisions,
    isotropic,
    pyro_distributions,
)
from bayeslora.posteriors.last_layer.vbll.independent import Diagonal, Eigenbasis
from bayeslora.posteriors.last_layer.vbll.triangular import Dense
from bayeslora.runtime import one_blas_thread

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

    @staticmethod
    def multiplications(num_classes: int, num_rows: int, size: int) -> float:
        """Return the count of a dense covariance, whose precisions are formed here too."""
        return Dense.multiplications(num_classes, num_rows, size)

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
