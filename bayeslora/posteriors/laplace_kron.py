"""Kronecker-factored curvature of a softmax last layer.

    H ≈ B ⊗ A,   A = (1/N) Σ_n φ_n φ_nᵀ  [d, d],   B = Σ_n (diag p_n − p_n p_nᵀ)  [C, C]

so that the product has the scale of a sum over rows. With A = Q_A diag(α) Q_Aᵀ and
B = Q_B diag(β) Q_Bᵀ, u = (Q_Aᵀφ)², a prior of precision δ enters exactly:

    V(φ) = Q_B diag_j( Σ_i u_i / (α_i β_j + δ) ) Q_Bᵀ

Sources: Ritter, Botev and Barber 2018 (ICLR), Daxberger et al. 2021, arXiv 2106.14806.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayeslora.posteriors.rowspace import RowSpace


class KronCurvature(nn.Module):
    """Eigenpairs of the two factors, float64.

    Attributes:
        basis: [d, r], eigenvectors of A with (numerically) all of its mass; r = min(N, d).
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
        spread = coordinates.square() @ (1 / self._eigenvalues(precision)) + outside / precision
        return torch.einsum("aj,nj,bj->nab", self.class_basis, spread, self.class_basis)

    def _eigenvalues(self, precision: float) -> Tensor:
        """Return α_i β_j + δ, [r, C]."""
        return torch.outer(self.feature_eigenvalues, self.class_eigenvalues) + precision
