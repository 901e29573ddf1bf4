"""Operations on the Stiefel manifold of matrices with orthonormal columns, O(n r²) each.

`Z` is always tall, [n, r] with n ≥ r. A PoLAR site has two such factors: `B.weight` is the left
factor, `A.weight` the transpose of the right factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from bayeslora.adapters.factors import Factors, check_rank
from bayeslora.adapters.low_rank import LowRank

_CONDITION_LIMIT = 1e-6
"""Smallest eigenvalue ratio of ZᵀZ for which its inverse square root is accurate."""


def random_factors(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return PoLAR's initial factors: random orthonormal factors around a zero core.

    The factors follow the uniform distribution on the Stiefel manifold
    (Lion, Zhang, Li & He 2025, arXiv:2506.03133).

    Args:
        out_features: Number of outputs of the adapted layer.
        in_features: Number of its inputs.
        r: Rank, at most min(out, in).
        generator: Source of randomness, on the CPU.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    X = random_orthonormal(out_features, r, generator)
    Y = random_orthonormal(in_features, r, generator)
    return Factors(Y.mT.contiguous(), X, torch.zeros(r, r), orthonormal=True)


def random_orthonormal(rows: int, columns: int, generator: Generator) -> Tensor:
    """Return a matrix [rows, columns] float32 with orthonormal columns.

    Fixing the signs of R's diagonal makes Q uniform and independent of the QR kernel's conventions.
    The factorisation is in float64, so that rounding to float32 is the only error.
    """
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    signs = torch.where(torch.diagonal(R) < 0, -1.0, 1.0)
    oriented: Tensor = Q * signs
    return oriented.float()


def polar_decomposition(Z: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(Q [..., n, r], P [..., r, r])` with `Z = Q P`, `QᵀQ = I` and P symmetric, P ≥ 0.

    Q is the orthonormal matrix nearest to Z. It comes from the eigenvectors of ZᵀZ, or from a
    thin singular value decomposition if a Z is nearly rank deficient; both in float64, so that
    rounding the result to Z's precision is the only error.
    """
    wide = Z.double()
    values, V = torch.linalg.eigh(wide.mT @ wide)
    smallest, largest = values[..., :1], values[..., -1:]
    if bool(((smallest < _CONDITION_LIMIT * largest) | (largest <= 0)).any()):
        U, S, Vh = torch.linalg.svd(wide, full_matrices=False)
        Q, P = U @ Vh, (Vh.mT * S[..., None, :]) @ Vh
    else:
        roots = values.sqrt()[..., None, :]
        Q, P = wide @ ((V / roots) @ V.mT), (V * roots) @ V.mT
    return Q.to(Z.dtype), P.to(Z.dtype)


def polar_retraction(Z: Tensor) -> Tensor:
    """Return the orthonormal matrix nearest to Z, [..., n, r]."""
    return polar_decomposition(Z)[0]


def tangent(Z: Tensor, G: Tensor) -> Tensor:
    """Return the projection `G − Z sym(ZᵀG)` of G onto the tangent space at Z, [..., n, r].

    The metric is the Euclidean one (Edelman, Arias & Smith 1998, arXiv:physics/9806030).
    """
    K = Z.mT @ G
    return G - Z @ ((K + K.mT) / 2)


def landing_field(Z: Tensor, G: Tensor, landing_lambda: float) -> Tensor:
    """Return `(GZᵀ − ZGᵀ) Z + λ Z (ZᵀZ − I)`, [n, r], without forming an n × n matrix.

    The first part preserves ZᵀZ on and off the manifold; the second, orthogonal to it, attracts to
    the manifold (Ablin & Peyré 2022, arXiv:2102.07432; the scale is that of Lion,
    Zhang, Li & He 2025, arXiv:2506.03133, in their code).
    """
    gram = Z.mT @ Z
    return G @ gram - Z @ (G.mT @ Z) + landing_lambda * penalty(Z)


def penalty(Z: Tensor) -> Tensor:
    """Return `Z (ZᵀZ − I)`, [n, r], a quarter of the gradient of ‖ZᵀZ − I‖²_F."""
    return Z @ (Z.mT @ Z) - Z


@torch.no_grad()
def absorb(sites: Sequence[LowRank]) -> None:
    """Orthonormalise the factors of PoLAR sites in place without changing their function.

    With `X = Q_x P_x` and `Y = Q_y P_y`, `X Θ Yᵀ = Q_x (P_x Θ P_y) Q_yᵀ`: the cores absorb P_x and
    P_y. Frozen sites and sites without a core are skipped.
    """
    for site in sites:
        if site.core is None or not site.manifold():
            continue
        if not all(value.requires_grad for value in site.trainable().values()):
            continue
        Qx, Px = polar_decomposition(site.B.weight)
        Qy, Py = polar_decomposition(site.A.weight.mT)
        site.core.weight.copy_(Px @ site.core.weight @ Py)
        site.B.weight.copy_(Qx)
        site.A.weight.copy_(Qy.mT)


def tall(matrix: Tensor) -> Tensor:
    """Return `matrix` or its transpose, whichever has at least as many rows as columns.

    For a square orthogonal matrix both describe the same tangent space and the same retraction,
    so the choice does not matter.
    """
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
