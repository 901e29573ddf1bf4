"""Covariances of one weight vector shared by all options of a row.

    z_nc = wᵀφ_nc + o_nc,   w ~ N(m0, σ0² I),   q(w) = N(μ, S),   V_n = Φ_n S Φ_nᵀ

The logits of a row are always correlated, so V is [N, C, C] in every family:

    dense      S⁻¹ = I/σ0² + Σ_n Φ_nᵀ W_n Φ_n
    diagonal   the diagonal of that precision

Only differences between options affect the softmax: features are centred within their row, and
Jensen's bound then equals the tilted bound at a uniform tilt.

Source: the conditional logit of McFadden 1974 with the bounds of `bounds.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bayeslora.errors import InputError
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
)
from bayeslora.posteriors.last_layer.vbll.head import VBLLHead
from bayeslora.posteriors.last_layer.vbll.independent import Diagonal
from bayeslora.posteriors.last_layer.vbll.options import VBLL
from bayeslora.posteriors.last_layer.vbll.triangular import Dense
from bayeslora.runtime import row_slices


@dataclass(frozen=True)
class SharedDense(Dense):
    """One full covariance.

    Attributes:
        scale: [1, d, d] lower triangle with a positive diagonal.
    """

    turns: ClassVar[bool] = False
    couples_classes: ClassVar[bool] = True
    simpler: ClassVar[type[Covariance] | None] = None
    simpler_in_training: ClassVar[type[Trainable] | None] = None
    approach: ClassVar[tuple[tuple[type[Covariance], torch.dtype], ...]] = ()

    @classmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return the optimal covariance for [N, C, d] features and [N, C, C] weights."""
        features, weights, prior = problem.features, problem.weights, problem.prior_precision
        precision = shared_gram(features, weights)
        precision.diagonal().add_(prior)
        lower, factor = precision_to_lower(precision), precision_factor(precision)
        return SharedBlocks(cls(lower[None]), features, weights, prior, factor)

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Φ S Φᵀ, [N, C, C], for [N, C, d] features."""
        return _gram_of_options(features, lambda part: part @ self.scale[0])

    @classmethod
    def best(cls, features: Tensor, weights: Tensor, prior_precision: float) -> SharedDense:
        """Return the covariance of `blocks` alone."""
        precision = shared_gram(features, weights)
        precision.diagonal().add_(prior_precision)
        return cls(precision_to_lower(precision)[None])


@dataclass(frozen=True)
class SharedDiagonal(Diagonal):
    """Independent weights.

    Attributes:
        scale: [1, d] standard deviations.
    """

    couples_classes: ClassVar[bool] = True

    @classmethod
    def blocks(cls, problem: Problem) -> Blocks:
        """Return the optimal variances for [N, C, d] features and [N, C, C] weights."""
        features, weights, prior = problem.features, problem.weights, problem.prior_precision
        precision = ((weights @ features) * features).sum((0, 1)) + prior
        # Features correlate: the diagonal alone would be a poor preconditioner for the means.
        factor = bounding_factor(features.flatten(0, 1), prior)
        return SharedBlocks(cls(precision.rsqrt()[None]), features, weights, prior, factor)

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Φ S Φᵀ, [N, C, C], for [N, C, d] features."""
        return _gram_of_options(features, lambda part: part * self.scale[0])


class SharedBlocks(Blocks):
    """The optimum of either family, with a Cholesky factor that preconditions the means."""

    def __init__(
        self,
        covariance: SharedDense | SharedDiagonal,
        features: Tensor,
        weights: Tensor,
        prior_precision: float,
        factor: Tensor,
    ) -> None:
        """Store the covariance and compute its statistics.

        Args:
            covariance: Covariance of the weights, float64.
            features: [N, C, d] float64.
            weights: [N, C, C].
            prior_precision: 1/σ0².
            factor: [d, d], Cholesky factor of the precision of the means, or of a bound on it.
        """
        super().__init__(prior_precision)
        self._covariance = covariance
        self._factor = factor
        self.train_covariance = covariance.of_logits(features)
        scale = covariance.scale[0]
        deviations = scale.diagonal() if scale.ndim == 2 else scale
        self.log_determinant = 2 * float(deviations.log().sum())
        self.trace = self._trace(len(deviations), weights)


def shared_gram(features: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_n Φ_nᵀ W_n Φ_n, [d, d], for [N, C, d] features and [N, C, C] weights."""
    return features.flatten(0, 1).T @ (weights @ features).flatten(0, 1)


def _gram_of_options(features: Tensor, root: Callable[[Tensor], Tensor]) -> Tensor:
    parts = []
    for rows in row_slices(len(features), features[0].numel()):
        projected = root(features[rows])
        parts.append(projected @ projected.mT)
    return torch.cat(parts)


class SharedVBLLHead(VBLLHead):
    """The variational last layer for options: `mean` is [1, d], and features are [N, C, d]."""

    trainable: ClassVar[Mapping[str, type[Trainable]]] = {
        "dense": SharedDense,
        "diagonal": SharedDiagonal,
    }
    families: ClassVar[Mapping[str, type[Covariance]]] = trainable

    @classmethod
    def of(cls, config: VBLL, num_features: int, num_classes: int, **options: Any) -> Self:
        """Return a head for options.

        Raises:
            InputError: A covariance is neither `dense` nor `diagonal`.
        """
        for field in ("covariance", "training_covariance"):
            if getattr(config, field) not in ("auto", *cls.families):
                raise InputError(
                    f"{field} {getattr(config, field)!r} is not supported for the format "
                    "'options', whose options share one weight vector; choose 'dense' or "
                    "'diagonal'",
                    code="not-on-options",
                )
        return cls(config, num_features, num_classes, **options)
