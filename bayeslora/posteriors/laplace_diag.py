"""Diagonal curvature of a softmax last layer.

h_ci = Σ_n p_nc (1 − p_nc) φ_ni²,   V(φ) = diag_c( Σ_i φ_i² / (h_ci + δ) )
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DiagCurvature(nn.Module):
    """The diagonal of the Hessian, float64.

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
