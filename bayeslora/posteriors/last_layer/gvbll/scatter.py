"""Training rows as the generative last layer knows them: counts, means, and their scatter.

    N S = Σ_n (φ_n − φ̄_{y_n})(φ_n − φ̄_{y_n})ᵀ + Σ_c κ n_c / (κ + n_c) (φ̄_c − m0)(φ̄_c − m0)ᵀ

S is the Σ that maximises p(Φ | y, Σ) with the class means integrated out under N(m0, Σ/κ). It is
shrunk to (1 − ρ) S + ρ t I with t = tr S / d, the mode under an inverse Wishart prior around t I
that counts as much as ρ / (1 − ρ) N rows. In its eigenvectors every ρ is a change of eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.posteriors.mahalanobis import ledoit_wolf, principal

# Of a mean of equal rows; rows of single precision that differ at all differ by more.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class Scatter:
    """Everything the fit needs of N rows with d features and C classes; float64.

    Attributes:
        counts: [C], rows of each class.
        centre: [d], mean of all rows, m0.
        means: [C, d], posterior means of the classes' means, m_c.
        values: [r], eigenvalues of S; all others are zero.
        directions: [d, r], its eigenvectors.
        ledoit_wolf: ρ of least expected squared error.
    """

    counts: Tensor
    centre: Tensor
    means: Tensor
    values: Tensor
    directions: Tensor
    ledoit_wolf: float

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, num_classes: int, prior_rows: float) -> Scatter:
        """Sum up [N, d] float64 features with labels [N]; a class may have no rows.

        Raises:
            InputError: All rows have the same features.
        """
        counts = torch.bincount(labels, minlength=num_classes).to(features.dtype)
        centre = features.mean(0)
        apart = features - centre
        sums = torch.zeros_like(apart[:1]).expand(num_classes, -1)
        sums = sums.index_add(0, labels, apart)
        sample = sums / counts.clamp_min(1)[:, None]
        weight = (prior_rows * counts / (prior_rows + counts)).sqrt()
        residuals = torch.cat([apart - sample[labels], weight[:, None] * sample])
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
        """Return the eigenvalues [r] of the shrunk covariance, and the one of all other directions.

        Args:
            shrinkage: ρ, from above 0 to 1.
        """
        floor = shrinkage * float(self.values.sum()) / len(self.centre)
        return (1 - shrinkage) * self.values + floor, floor

    def coordinates(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return [N, r] coordinates of [N, d] features about m0, and the squares left over [N]."""
        apart = features - self.centre
        inside = apart @ self.directions
        return inside, (apart - inside @ self.directions.T).square().sum(1)
