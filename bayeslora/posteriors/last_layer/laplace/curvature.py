"""Curvature of a softmax last layer: exact, Kronecker-factored or diagonal.

    exact    H = Σ_n (diag p_n − p_n p_nᵀ) ⊗ φ_n φ_nᵀ,   V(φ) = (I ⊗ φᵀ) (H + δI)⁻¹ (I ⊗ φ)
    kron     H ≈ B ⊗ A
    diag     h_ci = Σ_n p_nc (1 − p_nc) φ_ni²

with probabilities p_n [C] and features φ_n [d] of the rows, and prior precision δ.

Sources: Ritter, Botev and Barber 2018 (ICLR), Daxberger et al. 2021, arXiv 2106.14806.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError
from bayeslora.posteriors.last_layer.algebra import RowSpace, class_contrasts, precision_factor
from bayeslora.runtime import row_slices

# A matrix with this many rows takes 2 GiB in float64, and minutes to factorise on one core.
_LARGEST = 16384


class DiagCurvature(nn.Module):
    """The diagonal of the Hessian, float64, with V(φ) = diag_c( Σ_i φ_i² / (h_ci + δ) ).

    Attributes:
        diagonal: [C, d], h ≥ 0.
    """

    diagonal: Tensor

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        del rank
        shape = (num_classes, num_features)
        self.register_buffer("diagonal", torch.zeros(shape, dtype=torch.float64))

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, d] features and [N, C] probabilities, both float64."""
        self.diagonal = (probs * (1 - probs)).T @ features.square()

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI| over all C d weights."""
        return float((self.diagonal + precision).log().sum())

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' variances [N, C] for [N, d] float64 features."""
        return features.square() @ (1 / (self.diagonal + precision)).T


class KronCurvature(nn.Module):
    """Eigenpairs of the two Kronecker factors, float64.

        A = (1/N) Σ_n φ_n φ_nᵀ  [d, d],   B = Σ_n (diag p_n − p_n p_nᵀ)  [C, C]

    so that B ⊗ A has the scale of a sum over rows. With A = Q_A diag(α) Q_Aᵀ, B = Q_B diag(β) Q_Bᵀ
    and u = (Q_Aᵀφ)², a prior of precision δ enters exactly:

        V(φ) = Q_B diag_j( Σ_i u_i / (α_i β_j + δ) ) Q_Bᵀ

    Attributes:
        basis: [d, r], eigenvectors that span (numerically) the range of A; r = min(N, d).
        feature_eigenvalues: [r], α ≥ 0.
        class_basis: [C, C], eigenvectors of B.
        class_eigenvalues: [C], β ≥ 0.
    """

    basis: Tensor
    feature_eigenvalues: Tensor
    class_basis: Tensor
    class_eigenvalues: Tensor

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        shapes = {
            "basis": (num_features, rank),
            "feature_eigenvalues": (rank,),
            "class_basis": (num_classes, num_classes),
            "class_eigenvalues": (num_classes,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, d] features and [N, C] probabilities, both float64."""
        space = RowSpace.of(features)
        inside = space.coordinates(features)
        alpha, rotation = torch.linalg.eigh(inside.T @ inside / len(features))
        beta, class_basis = torch.linalg.eigh(probs.sum(0).diag() - probs.T @ probs)
        self.basis = space.expand(rotation.T).T.contiguous()
        self.feature_eigenvalues = alpha.clamp_min(0)
        self.class_basis = class_basis
        self.class_eigenvalues = beta.clamp_min(0)

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI| over all C d weights."""
        size, rank = self.basis.shape
        inside = self._eigenvalues(precision).log().sum()
        missing = torch.tensor(precision, dtype=torch.float64).log()
        return float(inside + len(self.class_eigenvalues) * (size - rank) * missing)

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' covariance [N, C, C] for [N, d] float64 features."""
        coordinates = features @ self.basis
        outside = (features - coordinates @ self.basis.T).square().sum(-1, keepdim=True)
        variances = coordinates.square() @ (1 / self._eigenvalues(precision)) + outside / precision
        return torch.einsum("aj,nj,bj->nab", self.class_basis, variances, self.class_basis)

    def _eigenvalues(self, precision: float) -> Tensor:
        """Return α_i β_j + δ, [r, C]."""
        return torch.outer(self.feature_eigenvalues, self.class_eigenvalues) + precision


class FullCurvature(nn.Module):
    """The Hessian between class contrasts in row-space coordinates, float64.

    Two kinds of directions have no curvature, so the posterior equals the prior there, and neither
    is stored:

    - a shift common to all classes, because (diag p − ppᵀ) 1 = 0. In an orthonormal basis U of the
      contrasts between classes, [C, C−1], H is a matrix of size (C−1) d.
    - features outside the row space of the training features.

    V keeps the prior variance ‖φ‖²/δ along the common shift, which does not affect the softmax.

    Attributes:
        hessian: [(C−1) r, (C−1) r], contrasts outermost.
        basis: [d, r] of the row space; None if r = d.
    """

    hessian: Tensor
    basis: Tensor | None
    _inverse: Tensor | None
    _spectrum: Tensor | None

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        size = (num_classes - 1) * rank
        if size > _LARGEST:
            raise InputError(
                f"a full Laplace covariance of {num_classes} classes and {rank} features has "
                f"{size} rows, more than {_LARGEST}; choose structure 'kron'"
            )
        self.num_features = num_features
        self.num_classes = num_classes
        self.register_buffer("hessian", torch.zeros(size, size, dtype=torch.float64))
        rotated = rank < num_features
        basis = torch.zeros(num_features, rank, dtype=torch.float64) if rotated else None
        self.register_buffer("basis", basis)
        self.register_buffer("_inverse", None, persistent=False)
        self.register_buffer("_spectrum", None, persistent=False)
        self._inverted_at = 0.0

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._inverse = self._spectrum = None

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, d] features and [N, C] probabilities, both float64."""
        space = RowSpace.of(features)
        inside = space.coordinates(features)
        contrasts = class_contrasts(self.num_classes).to(features)
        centred = contrasts - (probs @ contrasts)[:, None, :]
        # The rows of this root are √p_c (e_c − p)ᵀU; its Gram matrix is Uᵀ(diag p − ppᵀ)U.
        roots = probs.sqrt()[..., None] * centred
        size = self.hessian.shape[0]
        self.hessian = features.new_zeros(size, size)
        for rows in row_slices(len(inside), self.num_classes * size):
            jacobian = torch.einsum("nck,ni->ncki", roots[rows], inside[rows]).reshape(-1, size)
            self.hessian.addmm_(jacobian.T, jacobian)
        self.basis = space.basis
        self._inverse = self._spectrum = None

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI| over all C d weights."""
        if self._spectrum is None:
            self._spectrum = torch.linalg.eigvalsh(self.hessian).clamp_min(0)
        missing = self.num_classes * self.num_features - len(self._spectrum)
        return float((self._spectrum + precision).log().sum()) + missing * math.log(precision)

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' covariance [N, C, C] for [N, d] float64 features."""
        space = RowSpace(self.basis)
        inside = space.coordinates(features)
        contrasts = class_contrasts(self.num_classes).to(features)
        num_contrasts, rank = contrasts.shape[1], inside.shape[1]
        inverse = self._inverted(precision).view(num_contrasts, rank, num_contrasts, rank)
        parts = [
            torch.einsum("kilj,ni,nj->nkl", inverse, inside[rows], inside[rows])
            for rows in row_slices(len(inside), num_contrasts * num_contrasts * rank)
        ]
        reduced = torch.cat(parts)
        outside = space.outside(features) / precision
        reduced.diagonal(dim1=-2, dim2=-1).add_(outside)
        shift = features.square().sum(-1) / precision / self.num_classes
        return contrasts @ reduced @ contrasts.T + shift[:, None, None]

    def _inverted(self, precision: float) -> Tensor:
        """Return (H + δI)⁻¹, cached for the last δ."""
        if self._inverse is None or self._inverted_at != precision:
            matrix = self.hessian.clone()
            matrix.diagonal().add_(precision)
            self._inverse = torch.cholesky_inverse(precision_factor(matrix))
            self._inverted_at = precision
        return self._inverse
