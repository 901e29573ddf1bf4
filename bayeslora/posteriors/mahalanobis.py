"""Mahalanobis distance of features to the training rows, with one covariance for all classes.

    mahalanobis            min_c (φ − μ_c)ᵀ Σ⁻¹ (φ − μ_c)
    relative_mahalanobis   the same − (φ − μ)ᵀ Σ_0⁻¹ (φ − μ),  μ and Σ_0 of all rows as one class,
                           Σ_0 = Σ + Σ_c π_c (μ_c − μ)(μ_c − μ)ᵀ,  π_c the class's share of rows

Σ is the covariance of the rows around their class means, S, shrunk towards a multiple of the
identity, (1 − ρ) S + ρ (tr S / d) I, with ρ by Ledoit and Wolf 2004 (Journal of Multivariate
Analysis 88), so it is invertible for any number of rows. With fewer rows than features, S lies in
their row space and is stored and decomposed there. Σ_0 is built from the shrunk Σ: if it were
shrunk separately, directions without any training row would not cancel in the difference, and the
covariance with the smaller floor would decide the score of distant rows.

Sources: Lee, Lee, Lee and Shin 2018, arXiv 1807.03888; Ren et al. 2021, arXiv 2106.09022.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError

# Keeps the inverse finite where the Ledoit-Wolf shrinkage is zero.
_LEAST_SHRINKAGE = 1e-8


class TiedGaussian(nn.Module):
    """Means of K groups and their common covariance, decomposed for fast distances.

    Attributes:
        means: [K, d] float64.
        directions: [d, r] float64, eigenvectors of S.
        precisions: [r] float64, inverse eigenvalues of Σ along them.
        beyond: Inverse eigenvalue of Σ in every other direction.
        shrinkage: ρ.
    """

    means: Tensor
    directions: Tensor
    precisions: Tensor
    beyond: Tensor
    shrinkage: Tensor

    def __init__(self, num_groups: int, num_features: int, rank: int) -> None:
        super().__init__()
        shapes: dict[str, tuple[int, ...]] = {
            "means": (num_groups, num_features),
            "directions": (num_features, rank),
            "precisions": (rank,),
            "beyond": (),
            "shrinkage": (),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @classmethod
    def fitted(cls, features: Tensor, groups: Tensor) -> TiedGaussian:
        """Fit the Gaussian to [N, d] float64 features with group indices [N].

        Raises:
            InputError: The rows of every group are identical.
        """
        means, centred = _about_means(features, groups)
        rows, size = features.shape
        mean_variance = float(centred.square().sum()) / rows / size
        if not mean_variance > 0:
            raise InputError("Mahalanobis distances need at least one class with different rows")
        values, directions = principal(centred)
        shrinkage = ledoit_wolf(centred, values)
        floor = shrinkage * mean_variance
        variances = (1 - shrinkage) * values + floor
        return cls.of(means, directions, variances, floor, shrinkage)

    @classmethod
    def of(
        cls,
        means: Tensor,
        directions: Tensor,
        variances: Tensor,
        variance_beyond: float,
        shrinkage: float,
    ) -> TiedGaussian:
        """Return the Gaussian with these eigenvalues of Σ, [r] and in every other direction."""
        count, size = means.shape
        gaussian = cls(count, size, len(variances)).to(means.device)
        gaussian.means.copy_(means)
        # Copied into a contiguous buffer: products of other layouts differ in the last bit.
        gaussian.directions.copy_(directions)
        gaussian.precisions.copy_(1 / variances)
        gaussian.beyond.fill_(1 / variance_beyond)
        gaussian.shrinkage.fill_(shrinkage)
        return gaussian

    def distances(self, features: Tensor) -> Tensor:
        """Return the squared distance of [N, d] float64 features to each mean, [N, K]."""
        rows, centres = self.whitened(features), self.whitened(self.means)
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(rows, centres, compute_mode=exact).square()

    def log_determinant(self) -> Tensor:
        """Return log|Σ|, a scalar."""
        size, rank = self.directions.shape
        result: Tensor = -self.precisions.log().sum() - (size - rank) * self.beyond.log()
        return result

    def whitened(self, features: Tensor) -> Tensor:
        """Transform [N, d] float64 features to coordinates in which Σ is the identity."""
        inside = features @ self.directions
        whitened = inside * self.precisions.sqrt()
        if self.directions.shape[0] == self.directions.shape[1]:
            return whitened
        outside = features - inside @ self.directions.T
        return torch.cat([whitened, outside * self.beyond.sqrt()], dim=1)


class Mahalanobis(nn.Module):
    """Mahalanobis score, relative or not.

    Attributes:
        classes: Gaussian of the classes.
        shares: [K] float64, each class's share of the rows; None if the score is not relative.
    """

    shares: Tensor | None

    def __init__(self, classes: TiedGaussian, *, relative: bool) -> None:
        super().__init__()
        self.classes = classes
        count = classes.means.shape[0]
        shares = torch.zeros(count, dtype=torch.float64) if relative else None
        self.register_buffer("shares", shares)

    @classmethod
    def fitted(cls, features: Tensor, labels: Tensor, *, relative: bool) -> Mahalanobis:
        """Fit the score to [N, d] float64 training features with labels [N]."""
        score = cls(TiedGaussian.fitted(features, labels), relative=relative).to(features.device)
        if score.shares is not None:
            counts = torch.unique(labels, return_counts=True)[1]
            score.shares.copy_(counts.double() / len(labels))
        return score

    @classmethod
    def empty(cls, extra: Mapping[str, Any], num_features: int, *, relative: bool) -> Mahalanobis:
        """Return an empty score with the shapes in `extra_config`, to load tensors into."""
        classes = TiedGaussian(int(extra["classes"]), num_features, int(extra["rank"]))
        return cls(classes, relative=relative)

    def forward(self, features: Tensor) -> Tensor:
        """Return the score [N] of [N, d] float64 features."""
        nearest = self.classes.distances(features).min(1).values
        return nearest if self.shares is None else nearest - self._to_all(features, self.shares)

    def _to_all(self, features: Tensor, shares: Tensor) -> Tensor:
        """Return the squared distance [N] to all rows as one class.

        Whitened by Σ, Σ_0 is the identity plus the covariance of the means, whose rank is below K.
        """
        means = self.classes.whitened(self.classes.means)
        centre = shares @ means
        _, singular, axes = torch.linalg.svd(
            shares.sqrt()[:, None] * (means - centre), full_matrices=False
        )
        rows = self.classes.whitened(features) - centre
        explained = singular.square() / (1 + singular.square())
        distance: Tensor = rows.square().sum(1) - (rows @ axes.T).square() @ explained
        return distance

    def extra_config(self) -> dict[str, Any]:
        """Return the shapes, and the shrinkage of the covariance."""
        classes = self.classes
        return {
            "classes": classes.means.shape[0],
            "rank": classes.directions.shape[1],
            "shrinkage": float(classes.shrinkage),
        }


def rows_differ(features: Tensor, groups: Tensor) -> bool:
    """Return whether [N, d] features differ within a group, as a covariance requires."""
    return bool(_about_means(features, groups)[1].any())


def _about_means(features: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the group means [K, d], in order, and the rows [N, d] minus their group's mean."""
    _, index = torch.unique(groups, return_inverse=True)
    sums = features.new_zeros(int(index.max()) + 1, features.shape[1])
    means = sums.index_add_(0, index, features) / index.bincount()[:, None]
    return means, features - means[index]


def principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues [r] and eigenvectors [d, r] of XᵀX/N for rows X [N, d], r = min(N, d)."""
    rows, size = centred.shape
    if rows < size:
        _, singular, transposed = torch.linalg.svd(centred, full_matrices=False)
        return singular.square() / rows, transposed.T
    values, directions = torch.linalg.eigh(centred.T @ centred / rows)
    return values.clamp_min(0), directions


def ledoit_wolf(centred: Tensor, values: Tensor) -> float:
    """Return the shrinkage ρ in (0, 1] that minimises the expected squared error.

    Args:
        centred: [N, d] rows around their means.
        values: Eigenvalues of S = XᵀX/N; zeros may be omitted.
    """
    rows, size = centred.shape
    square = float(values.square().sum())
    dispersion = square - float(values.sum()) ** 2 / size
    noise = float(centred.square().sum(1).square().sum()) / rows**2 - square / rows
    return max(min(noise, dispersion) / dispersion, _LEAST_SHRINKAGE) if dispersion > 0 else 1.0
