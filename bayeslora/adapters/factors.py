"""Initial factors of low-rank adapters.

Initially the change of the weight is exactly zero, so an adapted model equals its host.
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
        core: [r, r], or None for the identity.
        orthonormal: Whether the columns of `B` and the rows of `A` stay orthonormal.
        centred: Whether the change is relative to these factors: `B·A` minus its initial value.
    """

    A: Tensor
    B: Tensor
    core: Tensor | None
    orthonormal: bool
    centred: bool = False


def balanced(U: Tensor, S: Tensor, Vh: Tensor, scale: float) -> Factors:
    """Return factors with `s·B·A = U diag(S) Vh`, √S in each, float32.

    The largest entry of each column of U is made positive, so that the factors do not depend on
    the arbitrary signs of a decomposition.

    Args:
        U: [out, r].
        S: [r], not negative.
        Vh: [r, in].
        scale: s > 0.
    """
    largest = U.gather(0, U.abs().argmax(0, keepdim=True))[0]
    signs = torch.where(largest < 0, -1.0, 1.0).to(U)
    roots = (S / scale).sqrt()
    A, B = (signs * roots)[:, None] * Vh, U * (signs * roots)
    return Factors(A.float(), B.float(), None, orthonormal=False, centred=True)


def blank_factors(out_features: int, in_features: int, r: int) -> Factors:
    """Return zeros in place of factors derived from the weight.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    A, B = torch.zeros(r, in_features), torch.zeros(out_features, r)
    return Factors(A, B, None, orthonormal=False, centred=True)


def check_rank(out_features: int, in_features: int, r: int) -> None:
    """Check a rank.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    limit = min(out_features, in_features)
    if not 1 <= r <= limit:
        raise InputError(
            f"r must be between 1 and {limit} for a layer with {out_features} outputs and "
            f"{in_features} inputs, got {r}"
        )


def kaiming_zero(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return LoRA's initial factors: `A` uniform on ±1/√in, `B` zero.

    Source: Hu et al. 2021, arXiv:2106.09685.

    Args:
        out_features: Number of outputs of the adapted layer.
        in_features: Number of its inputs.
        r: Rank, at most min(out, in).
        generator: Source of randomness, on the CPU.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    A = (2 * torch.rand(r, in_features, generator=generator) - 1) / in_features**0.5
    return Factors(A, torch.zeros(out_features, r), None, orthonormal=False)
