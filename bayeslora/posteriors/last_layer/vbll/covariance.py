"""Interface of the families of covariances of a linear head's weights.

    diagonal   S_c = diag(s_c²)                  independent weights
    eigenbasis S_c = U diag(s_c²) Uᵀ             the same in one basis U of all classes
    dense      S_c = L_c L_cᵀ                    independent classes
    low_rank   S_c = diag(s_c²) + F_c F_cᵀ       independent classes, k shared directions in each
    full       S = L Lᵀ                          all C d weights, class after class

Each yields the covariance of the logits z_c = θ_cᵀφ: variances [N, C] if classes are independent,
else [N, C, C]. Only `full` holds d² C² numbers; `low_rank` models correlations with few numbers.

At the optimum of the variational objective the precision of class c is

    S_c⁻¹ = I/σ0² + Σ_n w_nc φ_n φ_nᵀ

as far as the family allows, with w_nc the weight of each training row. Blocks hold the factorised
precisions and provide the terms of coordinate ascent: the covariance of logits, the log-determinant
and trace for the KL, and a preconditioner for the means.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bayeslora.runtime import row_slices


@dataclass(frozen=True)
class Problem:
    """Rows with the curvature of their bound, and a prior, that determine a covariance.

    Attributes:
        features: [N, d] float64.
        weights: Curvatures W of the bound, [N, C], or [N, C, C] if classes are coupled.
        prior_precision: 1/σ0².
        rank: Directions k per class.
        previous: Solution of a similar problem, to save work.
        dtype: Dtype of triangles; in float32 logit variances are accurate to about 1e-5.
    """

    features: Tensor
    weights: Tensor
    prior_precision: float
    rank: int = 1
    previous: Blocks | None = None
    dtype: torch.dtype = torch.float64


class Blocks:
    """The optimal covariance S of C classes' weights in d dimensions; all tensors float64.

    The methods are those of a covariance that is stored as it is, with the Cholesky factor of a
    precision that bounds those of the means.

    Attributes:
        train_covariance: Covariance of the training rows' logits, [N, C] or [N, C, C].
        log_determinant: log|S|.
        trace: tr S.
        prior_precision: 1/σ0² inside the precisions.
    """

    train_covariance: Tensor
    log_determinant: float
    trace: float
    _covariance: Covariance
    _factor: Tensor

    def __init__(self, prior_precision: float) -> None:
        self.prior_precision = prior_precision

    def of_logits(self, features: Tensor) -> Tensor:
        """Return the logits' covariance, [M, C] or [M, C, C], for [M, d] features."""
        return self._covariance.of_logits(features)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return an approximate inverse Hessian times a [C, d] gradient of the means."""
        return torch.cholesky_solve(gradient.T, self._factor).T

    def stored(self) -> Covariance:
        """Return the covariance in its form for predictions and files."""
        return self._covariance

    def _trace(self, size: int, weights: Tensor) -> float:
        """Return tr S: tr(S S⁻¹), the size, splits into the prior's part and the rows' part."""
        rows = float((weights * self.train_covariance).sum())
        return (size - rows) / self.prior_precision


@dataclass(frozen=True)
class Covariance(ABC):
    """A covariance of the weights; each subclass is a family, whose fields are the stored tensors.

    Attributes:
        name: Name of the family.
        turns: Whether the family is closed under rotations of the feature space.
        is_triangular: Whether `scale` holds lower triangles, which files store without zeros.
        couples_classes: Whether weights of different classes may be correlated.
        simpler: Fallback if this family would not fit into memory.
        simpler_in_training: The same while gradient steps train the covariance.
        approach: Families, and dtypes of their matrices, to fit first for a start near the optimum.
    """

    name: ClassVar[str]
    turns: ClassVar[bool] = True
    is_triangular: ClassVar[bool] = False
    couples_classes: ClassVar[bool] = False
    simpler: ClassVar[type[Covariance] | None] = None
    simpler_in_training: ClassVar[type[Trainable] | None] = None
    approach: ClassVar[tuple[tuple[type[Covariance], torch.dtype], ...]] = ()

    @staticmethod
    @abstractmethod
    def shapes(num_classes: int, size: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of `tensors()` for C classes, d features and k directions."""

    @classmethod
    def numbers_in_fit(cls, num_classes: int, size: int) -> int:
        """Return the number of numbers that a closed-form fit holds beside those stored."""
        return 0

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the covariance with these `tensors()`."""
        make: Any = cls
        covariance: Self = make(**tensors)
        return covariance

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def double(self) -> Self:
        """Return the same in float64."""
        return self.of_tensors({name: item.double() for name, item in self.tensors().items()})

    @classmethod
    @abstractmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return the optimal covariance of the family."""

    @classmethod
    def best(cls, features: Tensor, weights: Tensor, prior_precision: float) -> Covariance:
        """Return the covariance of `blocks` alone."""
        return cls.blocks(Problem(features, weights, prior_precision)).stored()

    @abstractmethod
    def of_logits(self, features: Tensor) -> Tensor:
        """Return the logits' covariance, [N, C] or [N, C, C], for [N, d] features."""

    def to_free(self) -> dict[str, Tensor]:
        """Return the free parameters, see `Trainable`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Trainable(Covariance):
    """A covariance that gradient steps can move.

    Its free parameters are `spread`, log standard deviations or triangles with these on the
    diagonal, and `factor`, the unconstrained directions of a `low_rank` covariance.
    """

    @staticmethod
    @abstractmethod
    def free_start(num_classes: int, size: int, rank: int, log_std: float) -> dict[str, Tensor]:
        """Return float32 free parameters of independent weights with equal standard deviations.

        Args:
            num_classes: C.
            size: d.
            rank: Directions k of `low_rank`.
            log_std: Logarithm of the standard deviation.
        """

    @classmethod
    @abstractmethod
    def from_free(cls, spread: Tensor, factor: Tensor | None) -> Self:
        """Return the covariance with these free parameters."""

    @staticmethod
    @abstractmethod
    def shift_log_std(spread: Tensor, factor: Tensor | None, change: float) -> None:
        """Scale all standard deviations by exp(`change`), in place; correlations do not change."""

    @abstractmethod
    def distributions(self, mean: Tensor, prior_variance: Tensor) -> tuple[Any, Any]:
        """Return Pyro's prior and posterior of all weights, with an analytic KL between them.

        Args:
            mean: [C, d].
            prior_variance: σ0², a scalar.
        """


def pyro_distributions() -> Any:
    """Return Pyro's distributions, whose own annotations are partial, and which load slowly."""
    import pyro.distributions

    return pyro.distributions


def isotropic(mean: Tensor, prior_variance: Tensor) -> Any:
    """Return a prior N(0, σ0² I) of the vectors [..., d], as diagonal plus a zero low-rank part.

    Its KL costs d² per class, that of a full prior covariance d³.
    """
    zero, variance = torch.zeros_like(mean), prior_variance.to(mean).expand_as(mean)
    return (
        pyro_distributions().LowRankMultivariateNormal(zero, zero[..., None], variance).to_event(1)
    )


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
