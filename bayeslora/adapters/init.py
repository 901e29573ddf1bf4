"""Where the factors of LoRA and PoLAR start: functions of shapes and a random generator.

Every start makes the change of the weight exactly zero, so an adapted model equals its host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from bayeslora.errors import InputError


class Factors(NamedTuple):
    """Factors of one change `B·core·A`, float32.

    Attributes:
        A: [r, in].
        B: [out, r].
        core: [r, r], or None where it is the identity.
        orthonormal: Whether the columns of `B` and the rows of `A` stay orthonormal.
        centred: Whether the change is measured from these factors: `B·A` minus what it is now.
    """

    A: Tensor
    B: Tensor
    core: Tensor | None
    orthonormal: bool
    centred: bool = False


def kaiming_zero(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return LoRA's start: `A` uniform on ±1/√in, `B` zero (Hu et al. 2021, arXiv:2106.09685).

    Args:
        out_features: Number of outputs of the adapted layer.
        in_features: Number of its inputs.
        r: Rank, at most the smaller of the two.
        generator: Source of randomness, on the CPU.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    A = (2 * torch.rand(r, in_features, generator=generator) - 1) / in_features**0.5
    return Factors(A, torch.zeros(out_features, r), None, orthonormal=False)


def polar(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return PoLAR's start: random orthonormal factors around a zero core.

    The factors follow the uniform distribution on the Stiefel manifold
    (Lion, Zhang, Li & He 2025, arXiv:2506.03133).

    Args:
        out_features: Number of outputs of the adapted layer.
        in_features: Number of its inputs.
        r: Rank, at most the smaller of the two.
        generator: Source of randomness, on the CPU.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    X = _orthonormal(out_features, r, generator)
    Y = _orthonormal(in_features, r, generator)
    return Factors(Y.mT.contiguous(), X, torch.zeros(r, r), orthonormal=True)


def _orthonormal(rows: int, columns: int, generator: Generator) -> Tensor:
    """Return [rows, columns] float32 with orthonormal columns.

    Only with the signs of R's diagonal fixed is Q uniform and independent of the QR kernel's
    conventions. The factorisation is in float64 so that rounding to float32 is the only error.
    """
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    signs = torch.where(torch.diagonal(R) < 0, -1.0, 1.0)
    oriented: Tensor = Q * signs
    return oriented.float()


def check_rank(out_features: int, in_features: int, r: int) -> None:
    """Complain about an impossible rank.

    Raises:
        InputError: It is not between 1 and min(out, in).
    """
    limit = min(out_features, in_features)
    if not 1 <= r <= limit:
        raise InputError(
            f"r must be between 1 and {limit} for a layer with {out_features} outputs and "
            f"{in_features} inputs, got {r}"
        )
