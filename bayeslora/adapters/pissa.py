"""PiSSA's start: the principal singular vectors of the pretrained weight.

    U, S, Vᵀ = svd(W0) ;   B_0 = U_r √(S_r / s) ;   A_0 = √(S_r / s) V_rᵀ

so that `s·B_0·A_0` is the best approximation of W0 of rank r. The paper trains A and B around the
residual `W0 − s·B_0·A_0`; here the layer keeps W0 and subtracts `s·B_0·A_0` as it runs, which is
the same function. W0 is then never rounded anew, several adapters can share it, and at the start
nothing has changed at all.

Source: Meng, Wang and Zhang 2024, arXiv 2404.02948; the randomised decomposition: Halko,
Martinsson and Tropp 2011, arXiv 0909.4061.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from bayeslora.adapters.init import Factors, check_rank
from bayeslora.runtime import restored_random_state

# Directions beyond the r that are asked for: with them, a few iterations separate the r well.
_OVERSAMPLING = 8


def pissa(
    weight: Tensor, r: int, scale: float, generator: Generator, niter: int | None = None
) -> Factors:
    """Return factors with `s·B·A` the principal part of a weight, around which they are centred.

    Args:
        weight: [out, in], of any floating precision; the work is in float64.
        r: Rank, at most the smaller of out and in.
        scale: s > 0.
        generator: Source of randomness, on the CPU; untouched where `niter` is None.
        niter: Power iterations of a randomised decomposition; None takes the exact one.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    out_features, in_features = weight.shape
    check_rank(out_features, in_features, r)
    matrix = weight.detach().double()
    if niter is None:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        U, S, Vh = _randomised_svd(matrix, r, niter, generator)
    return balanced(U[:, :r], S[:r], Vh[:r], scale)


def balanced(U: Tensor, S: Tensor, Vh: Tensor, scale: float) -> Factors:
    """Return factors with `s·B·A = U diag(S) Vh`, the root of S in each, float32.

    The largest entry of each column of U is made positive, so that a start does not depend on the
    signs that a decomposition happens to give.

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


def _randomised_svd(
    matrix: Tensor, r: int, niter: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S and Vᵀ of the r largest singular values and a few more, about."""
    seed = int(torch.randint(2**62, (), generator=generator))
    width = min(r + _OVERSAMPLING, *matrix.shape)
    # On the CPU, where a seed means the same on every machine; the products are thin.
    with restored_random_state():
        torch.manual_seed(seed)
        U, S, V = torch.svd_lowrank(matrix.cpu(), q=width, niter=niter)
    return U.to(matrix.device), S.to(matrix.device), V.mT.to(matrix.device)
