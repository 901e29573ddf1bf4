"""Quantisers, and adapters that reduce their error: QPiSSA and LoftQ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bayeslora.errors import InputError

GROUP = 64
STEPS = 5

Quantiser = Callable[[Tensor], Tensor]


def errors(weight: Tensor, quantiser: str, ranks: Sequence[int]) -> dict[int, dict[str, float]]:
    """Return by rank the norm without an adapter, and the share that each method removes.

    Args:
        weight: [out, in] float64.
        quantiser: A member of `QUANTISERS`.
        ranks: Ranks of the adapters.
    """
    if not ranks:
        return {}
    Q = QUANTISERS[quantiser]
    plain = nuclear_norm(weight - Q(weight))
    by_rank = {}
    for r in ranks:
        scores = {"norm": plain}
        for kind, method in (("pissa", qpissa), ("loftq", loftq)):
            for steps in (1, STEPS):
                error = nuclear_norm(weight - method(weight, Q, r, steps))
                scores[f"{kind}-{steps}"] = 1 - error / plain
        by_rank[r] = scores
    return by_rank


def qpissa(weight: Tensor, Q: Quantiser, r: int, steps: int) -> Tensor:
    """Return Q(W − BA) + BA, where BA is the principal part of the last residual of Q.

    Before the first step the residual is W.
    """
    residual = weight
    for _ in range(steps):
        principal = best_of_rank(residual, r)
        quantised = Q(weight - principal)
        residual = weight - quantised
    return quantised + principal


def loftq(weight: Tensor, Q: Quantiser, r: int, steps: int) -> Tensor:
    """Return Q(W − BA) + B'A', where B'A' is the principal part of the residual W − Q(W − BA)."""
    principal = torch.zeros_like(weight)
    for _ in range(steps):
        quantised = Q(weight - principal)
        principal = best_of_rank(weight - quantised, r)
    return quantised + principal


def nf4(weight: Tensor) -> Tensor:
    """Round each entry to the nearest of the 16 NF4 levels, in groups of `GROUP` entries."""
    groups, largest = _groups(weight)
    levels = nf4_levels()
    middles = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(groups / largest, middles)] * largest).reshape(weight.shape)


def symmetric(weight: Tensor) -> Tensor:
    """Round each entry to the nearest of 15 evenly spaced levels around 0, in groups."""
    groups, largest = _groups(weight)
    step = largest / 7
    return ((groups / step).round() * step).reshape(weight.shape)


QUANTISERS: dict[str, Quantiser] = {"nf4": nf4, "symmetric": symmetric}


def nf4_levels() -> Tensor:
    """Return the levels of NF4 from −1 to 1, including 0.

    The eight positive and seven negative levels are evenly spaced quantiles of a normal
    distribution, cut as in the public code and scaled to a maximum of 1 and a minimum of −1.
    """
    end = 0.9677083
    above = torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1]
    below = torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1]
    zero = torch.zeros(1, dtype=torch.float64)
    levels = torch.cat([-torch.special.ndtri(below), zero, torch.special.ndtri(above).flip(0)])
    return levels / levels.max()


def _groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return groups of adjacent entries [N, GROUP] and the maximum magnitude in each [N, 1]."""
    if weight.numel() % GROUP:
        raise InputError(f"a weight of {list(weight.shape)} has no whole groups of {GROUP} entries")
    groups = weight.reshape(-1, GROUP)
    largest = groups.abs().amax(1, keepdim=True)
    return groups, torch.where(largest > 0, largest, 1.0)


def best_of_rank(matrix: Tensor, r: int) -> Tensor:
    """Return the best rank-r approximation, from the eigenvectors of the smaller Gram matrix."""
    if matrix.shape[0] > matrix.shape[1]:
        return best_of_rank(matrix.mT, r).mT
    left = torch.linalg.eigh(matrix @ matrix.mT).eigenvectors[:, -r:]
    return left @ (left.mT @ matrix)


def nuclear_norm(matrix: Tensor) -> float:
    """Return the sum of the singular values of a float64 matrix."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    squares = torch.linalg.eigvalsh(small @ small.mT).clamp_min(0)
    return float(squares.sqrt().sum())
