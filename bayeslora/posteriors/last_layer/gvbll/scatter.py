"""Statistics of the training rows for the generative last layer: counts, means and scatter.

    N S = Σ_n (φ_n − φ̄_{y_n})(φ_n − φ̄_{y_n})ᵀ + Σ_c κ n_c / (κ + n_c) (φ̄_c − m0)(φ̄_c − m0)ᵀ

S is the Σ that maximises p(Φ | y, Σ) with the class means integrated out under N(m0, Σ/κ). It is
shrunk to (1 − ρ) S + ρ t I with t = tr S / d, the mode under an inverse Wishart prior around t I
worth ρ / (1 − ρ) N rows. In the eigenbasis of S, shrinkage only changes the eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.posteriors.mahalanobis import ledoit_wolf, principal

# Relative rounding error in the mean of equal rows; distinct float32 rows differ by more.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class Scatter:
    """Sufficient statistics of N rows with d features and C classes; float64.

    Attributes:
        counts: [C], rows per class.
        centre: [d], mean of all rows, m0.
        means: [C, d], posterior means of the class means, m_c.
        values: [r], eigenvalues of S; all others are zero.
        directions: [d, r], its eigenvectors.
        ledoit_wolf: ρ that minimises the expected squared error.
    """

    counts: Tensor
    centre: Tensor
    means: Tensor
    values: Tensor
    directions: Tensor
    ledoit_wolf: float

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, num_classes: int, prior_rows: float) -> Scatter:
        """Summarise [N, d] float64 features with labels [N]; a class may have no rows.

        Raises:
            InputError: All rows have the same features.
        """
        counts = torch.bincount(labels, minlength=num_classes).to(features.dtype)
        centre = features.mean(0)
        centred = features - centre
        sums = torch.zeros_like(centred[:1]).expand(num_classes, -1)
        sums = sums.index_add(0, labels, centred)
        sample = sums / counts.clamp_min(1)[:, None]
        weight = (prior_rows * counts / (prior_rows + counts)).sqrt()
        residuals = torch.cat([centred - sample[labels], weight[:, None] * sample])
        if float(residuals.norm()) <= _ROUNDING * float(features.norm()):
            raise InputError("posterior 'gvbll' needs rows with different features; all are equal")
        values, directions = principal(residuals)
        return cls(
            counts,
            centre,
            centre + sums / (prior_rows + counts)[:, None],
            values * len(residuals) / len(features),
            directions,
            ledoit_wolf(residuals, values),
        )

    def shrunk(self, shrinkage: float) -> tuple[Tensor, float]:
        """Return the eigenvalues [r] of the shrunk covariance, and that of all other directions.

        Args:
            shrinkage: ρ in (0, 1].
        """
        floor = shrinkage * float(self.values.sum()) / len(self.centre)
        return (1 - shrinkage) * self.values + floor, floor

    def coordinates(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return [N, r] coordinates of [N, d] features about m0, and squared residual norms [N]."""
        centred = features - self.centre
        inside = centred @ self.directions
        return inside, (centred - inside @ self.directions.T).square().sum(1)
