"""Covariances as unconstrained parameters, for gradient steps.

`spread` holds log standard deviations, or triangles whose diagonal does; `factor` holds the
directions of a `low_rank` covariance as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayeslora.posteriors.covariances import (
    Covariance,
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    Eigenbasis,
    Full,
    Trainable,
)

# Directions start this much shorter than the independent deviations: at zero they have no gradient.
_START = 0.1


def free_start(
    family: str, num_classes: int, size: int, rank: int, log_std: float
) -> dict[str, Tensor]:
    """Return float32 parameters of independent weights with one standard deviation.

    Args:
        family: `diagonal`, `dense`, `low_rank` or `full`.
        num_classes: C.
        size: d.
        rank: Directions k of `low_rank`.
        log_std: Logarithm of the deviation.
    """
    spread = torch.full((num_classes, size), log_std)
    if family == Dense.name:
        return {"spread": torch.diag_embed(spread)}
    if family == Full.name:
        return {"spread": torch.diag_embed(spread.flatten())}
    if family == DiagonalPlusLowRank.name:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(num_classes, size, rank, generator=generator)
        return {"spread": spread, "factor": _START * spread.exp()[..., None] * noise}
    return {"spread": spread}


def from_free(family: str, num_classes: int, spread: Tensor, factor: Tensor | None) -> Trainable:
    """Return the covariance that free parameters stand for."""
    if factor is not None:
        return DiagonalPlusLowRank(spread.exp(), factor)
    if family == Dense.name:
        return Dense(lower_triangle(spread))
    if family == Full.name:
        return Full(lower_triangle(spread), num_classes)
    return Diagonal(spread.exp())


def to_free(covariance: Covariance) -> dict[str, Tensor]:
    """Return the free parameters of a covariance.

    Raises:
        TypeError: It is of a family that does not train.
    """
    if isinstance(covariance, Eigenbasis):
        raise TypeError(f"a covariance of the family {covariance.name!r} does not train")
    if isinstance(covariance, DiagonalPlusLowRank):
        return {"spread": covariance.std.log(), "factor": covariance.factor}
    if isinstance(covariance, Diagonal):
        return {"spread": covariance.std.log()}
    return {"spread": raw_triangle(covariance.lower)}


def shift_log_std(family: str, spread: Tensor, factor: Tensor | None, change: float) -> None:
    """Multiply all deviations by exp(`change`), in place; shapes and correlations stay."""
    if family in {Dense.name, Full.name}:
        raw = spread.diagonal(dim1=-2, dim2=-1).clone()
        spread.sub_(torch.diag_embed(raw)).mul_(torch.tensor(change).exp())
        spread.add_(torch.diag_embed(raw + change))
        return
    spread.add_(change)
    if factor is not None:
        factor.mul_(torch.tensor(change).exp())


def lower_triangle(raw: Tensor) -> Tensor:
    """Return lower triangles with a positive diagonal from free [..., d, d] parameters.

    The diagonal of `raw` holds log deviations; what lies above it is ignored.
    """
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def raw_triangle(scale: Tensor) -> Tensor:
    """Return the free parameters whose `lower_triangle` is `scale`."""
    return scale.tril(-1) + torch.diag_embed(scale.diagonal(dim1=-2, dim2=-1).log())
