"""Laplace approximation of one weight vector shared by all options of a row.

    H = Σ_n Φ_nᵀ (diag p_n − p_n p_nᵀ) Φ_n,   V(Φ) = Φ (H + δI)⁻¹ Φᵀ

H is the exact Hessian, [d, d] for any number of options. `kron` and `full` are the same here, and
`diag` keeps its diagonal.

Source: the conditional logit of McFadden 1974; Daxberger et al. 2021, arXiv 2106.14806.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayeslora.posteriors.last_layer.algebra import precision_factor
from bayeslora.posteriors.last_layer.laplace.head import LaplaceHead
from bayeslora.runtime import row_slices


class SharedCurvature(nn.Module):
    """The Hessian of the shared weights, float64.

    Attributes:
        hessian: [d, d].
    """

    hessian: Tensor

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        del num_classes, rank
        shape = (num_features, num_features)
        self.register_buffer("hessian", torch.zeros(shape, dtype=torch.float64))

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, C, d] features and [N, C] probabilities, both float64."""
        self.hessian = torch.zeros_like(self.hessian)
        for rows in row_slices(len(features), features[0].numel()):
            part, p = features[rows], probs[rows]
            mean = (p[:, None] @ part)[:, 0]
            self.hessian.addmm_((p[..., None] * part).flatten(0, 1).T, part.flatten(0, 1))
            self.hessian.addmm_(mean.T, mean, alpha=-1)

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI|."""
        return 2 * float(self._factor(precision).diagonal().log().sum())

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' covariance [N, C, C] for [N, C, d] float64 features."""
        factor = self._factor(precision)
        parts = []
        for rows in row_slices(len(features), features[0].numel()):
            part = features[rows]
            solved = torch.linalg.solve_triangular(factor, part.flatten(0, 1).T, upper=False)
            root = solved.T.view_as(part)
            parts.append(root @ root.mT)
        return torch.cat(parts)

    def _factor(self, precision: float) -> Tensor:
        matrix = self.hessian.clone()
        matrix.diagonal().add_(precision)
        return precision_factor(matrix)


class SharedDiagCurvature(nn.Module):
    """The diagonal of the Hessian, float64.

    Attributes:
        diagonal: [d], at least zero.
    """

    diagonal: Tensor

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        del num_classes, rank
        self.register_buffer("diagonal", torch.zeros(num_features, dtype=torch.float64))

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, C, d] features and [N, C] probabilities, both float64."""
        mean = (probs[:, None] @ features)[:, 0]
        square = torch.einsum("nc,ncd->d", probs, features.square())
        self.diagonal = (square - mean.square().sum(0)).clamp_min(0)

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI|."""
        return float((self.diagonal + precision).log().sum())

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' covariance [N, C, C] for [N, C, d] float64 features."""
        root = features * (self.diagonal + precision).rsqrt()
        return root @ root.mT


class SharedLaplaceHead(LaplaceHead):
    """The Laplace approximation for options: features are [N, C, d]."""

    curvatures: ClassVar[Mapping[str, Callable[[int, int, int], Any]]] = {
        "diag": SharedDiagCurvature,
        "full": SharedCurvature,
        "kron": SharedCurvature,
    }
