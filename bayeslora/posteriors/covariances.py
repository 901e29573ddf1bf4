"""Covariances of the weights of a linear head, in five families.

    diagonal   S_c = diag(s_c²)                  independent weights
    eigenbasis S_c = U diag(s_c²) Uᵀ             the same in one basis U of all classes
    dense      S_c = L_c L_cᵀ                    independent classes
    low_rank   S_c = diag(s_c²) + F_c F_cᵀ       independent classes, k shared directions in each
    full       S = L Lᵀ                          all C d weights, class after class

Each gives the covariance of the logits z_c = θ_cᵀφ: variances [N, C] where classes are independent,
[N, C, C] otherwise. Only `full` holds d² C² numbers, and only `low_rank` few and correlated ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.runtime import row_slices


@dataclass(frozen=True)
class Diagonal:
    """Independent weights.

    Attributes:
        std: [C, d] standard deviations.
    """

    std: Tensor
    name: ClassVar[str] = "diagonal"

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i s_ci² φ_i², [N, C], for [N, d] features."""
        return features.square() @ self.std.square().T

    def double(self) -> Diagonal:
        """Return the same in float64."""
        return Diagonal(self.std.double())

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {"scale": self.std}


@dataclass(frozen=True)
class Eigenbasis:
    """Weights that are independent in a basis which all classes share.

    Attributes:
        std: [C, d] standard deviations along the basis.
        basis: [d, d], orthonormal columns.
    """

    std: Tensor
    basis: Tensor
    name: ClassVar[str] = "eigenbasis"

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i s_ci² (u_iᵀφ)², [N, C], for [N, d] features."""
        return (features @ self.basis).square() @ self.std.square().T

    def double(self) -> Eigenbasis:
        """Return the same in float64."""
        return Eigenbasis(self.std.double(), self.basis.double())

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {"scale": self.std, "basis": self.basis}


@dataclass(frozen=True)
class Dense:
    """A covariance of its own for each class.

    Attributes:
        lower: [C, d, d] lower triangles with a positive diagonal.
    """

    lower: Tensor
    name: ClassVar[str] = "dense"

    def of_logits(self, features: Tensor) -> Tensor:
        """Return ‖L_cᵀφ‖², [N, C], for [N, d] features."""
        # One product [rows, d] x [d, C d] in place of C small ones.
        classes, size, _ = self.lower.shape
        triangles = self.lower.permute(1, 0, 2).reshape(size, classes * size)
        parts = [
            (features[rows] @ triangles).view(-1, classes, size).square().sum(-1)
            for rows in row_slices(len(features), classes * size)
        ]
        return torch.cat(parts)

    def double(self) -> Dense:
        """Return the same in float64."""
        return Dense(self.lower.double())

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {"scale": self.lower}


@dataclass(frozen=True)
class DiagonalPlusLowRank:
    """Independent weights plus a few directions in which they move together.

    Attributes:
        std: [C, d] standard deviations of the independent part.
        factor: [C, d, k] directions F_c.
    """

    std: Tensor
    factor: Tensor
    name: ClassVar[str] = "low_rank"

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i s_ci² φ_i² + ‖F_cᵀφ‖², [N, C], for [N, d] features."""
        classes, size, rank = self.factor.shape
        projected = features @ self.factor.permute(1, 0, 2).reshape(size, classes * rank)
        along = projected.view(-1, classes, rank).square().sum(-1)
        return features.square() @ self.std.square().T + along

    def double(self) -> DiagonalPlusLowRank:
        """Return the same in float64."""
        return DiagonalPlusLowRank(self.std.double(), self.factor.double())

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {"scale": self.std, "factor": self.factor}


@dataclass(frozen=True)
class Full:
    """One covariance of all weights, so that classes may depend on each other.

    Attributes:
        lower: [C d, C d] lower triangle with a positive diagonal.
        num_classes: C.
    """

    lower: Tensor
    num_classes: int
    name: ClassVar[str] = "full"

    def of_logits(self, features: Tensor) -> Tensor:
        """Return (I ⊗ φ)ᵀ S (I ⊗ φ), [N, C, C], for [N, d] features."""
        total = len(self.lower)
        blocks = self.lower.view(self.num_classes, total // self.num_classes, total)
        parts = []
        for rows in row_slices(len(features), self.num_classes * total):
            projected = torch.einsum("nd,cde->nce", features[rows], blocks)
            parts.append(projected @ projected.mT)
        return torch.cat(parts)

    def double(self) -> Full:
        """Return the same in float64."""
        return Full(self.lower.double(), self.num_classes)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {"scale": self.lower}


Trainable = Diagonal | Dense | DiagonalPlusLowRank | Full
"""Families that gradient steps may move; the basis of the other is that of the final features."""

Covariance = Trainable | Eigenbasis


def covariance_of(name: str, num_classes: int, tensors: dict[str, Tensor]) -> Covariance:
    """Return the covariance whose `tensors()` these are."""
    scale = tensors["scale"]
    if name == Diagonal.name:
        return Diagonal(scale)
    if name == Eigenbasis.name:
        return Eigenbasis(scale, tensors["basis"])
    if name == Dense.name:
        return Dense(scale)
    if name == DiagonalPlusLowRank.name:
        return DiagonalPlusLowRank(scale, tensors["factor"])
    return Full(scale, num_classes)


def shapes(name: str, num_classes: int, size: int, rank: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a family's tensors for C classes and d features."""
    if name == Full.name:
        return {"scale": (num_classes * size, num_classes * size)}
    if name == Dense.name:
        return {"scale": (num_classes, size, size)}
    if name == Eigenbasis.name:
        return {"scale": (num_classes, size), "basis": (size, size)}
    if name == DiagonalPlusLowRank.name:
        return {"scale": (num_classes, size), "factor": (num_classes, size, rank)}
    return {"scale": (num_classes, size)}


def precision_to_lower(precision: Tensor) -> Tensor:
    """Return the lower triangle L with L Lᵀ = precision⁻¹, for [..., d, d] precisions.

    The Cholesky factor of the precision with its axes reversed is, reversed again, the upper
    triangle U with U Uᵀ = precision; then L is the inverse of Uᵀ. One factorisation and one
    triangular solve, without the explicit inverse.

    Raises:
        InputError: A precision is not positive definite, as rounded.
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
        InputError: A precision is not positive definite, as rounded.
    """
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        raise InputError(
            "the precision of the weights is not positive definite in float64, as where rows of "
            "the features differ in size by a factor of 1e8 or more; leave out the largest rows, "
            "or scale them"
        )
    found: Tensor = factor
    return found
