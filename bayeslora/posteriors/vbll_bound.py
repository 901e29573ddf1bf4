"""What coordinate ascent has to know of a bound, at the current moments of the training logits.

Around fixed logit covariances every bound is, as a function of the means,

    m_y − Σ_k s_k lse(m + h_k) + constant,

with one shift h = ½ v − V a for the tilted bounds, and with the nodes of a quadrature for the
expectation itself. Its derivative with respect to a row's covariance is −½ W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bayeslora.posteriors import bounds
from bayeslora.posteriors.tilts import best_tilt


class AscentBound(Protocol):
    """A lower bound of the expected log-likelihood of N rows, with moments [N, C] and [N, C(, C)].

    A tilt is [N, C]; bounds without one carry zeros.
    """

    @property
    def follows_means(self) -> bool:
        """Whether the tilt, and with it the shifts, depends on the means."""
        ...

    def tilt(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return the best tilt."""
        ...

    def value(self, mean: Tensor, covariance: Tensor, labels: Tensor, tilt: Tensor) -> Tensor:
        """Return the bound, [N] nats."""
        ...

    def shifts(self, covariance: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shifts h [K, N, C] and their shares s [K]."""
        ...

    def curvature(self, mean: Tensor, covariance: Tensor, tilt: Tensor) -> Tensor:
        """Return W in the covariance's shape."""
        ...


@dataclass(frozen=True)
class TiltedBound:
    """Jensen's bound, or the tilted one at its best tilt.

    Attributes:
        follows_means: False holds the tilt at zero, which is Jensen's bound.
    """

    follows_means: bool

    def tilt(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return the best tilt, or zeros."""
        return best_tilt(mean, covariance) if self.follows_means else torch.zeros_like(mean)

    def value(self, mean: Tensor, covariance: Tensor, labels: Tensor, tilt: Tensor) -> Tensor:
        """Return the bound, [N] nats."""
        return bounds.tilted(mean, covariance, labels, tilt)

    def shifts(self, covariance: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the one shift, and 1."""
        return bounds.tilt_terms(covariance, tilt)[0][None], tilt.new_ones(1)

    def curvature(self, mean: Tensor, covariance: Tensor, tilt: Tensor) -> Tensor:
        """Return W in the covariance's shape."""
        return bounds.curvature(mean, covariance, tilt)


@dataclass(frozen=True)
class QuadratureBound:
    """The expected log-likelihood of two classes, by Gauss-Hermite quadrature."""

    follows_means: bool = False

    def tilt(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(mean)

    def value(self, mean: Tensor, covariance: Tensor, labels: Tensor, tilt: Tensor) -> Tensor:
        """Return the expectation, [N] nats."""
        return bounds.gauss_hermite(mean, covariance, labels)

    def shifts(self, covariance: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
        """Return half the difference's deviation at each node, up and down, and the shares."""
        points, shares = bounds.difference_points(torch.zeros_like(tilt), covariance)
        half = 0.5 * points.T
        return torch.stack([-half, half], -1), shares

    def curvature(self, mean: Tensor, covariance: Tensor, tilt: Tensor) -> Tensor:
        """Return E p (1 − p) for each variance, and its negative for the covariance."""
        points, shares = bounds.difference_points(mean, covariance)
        probs = points.sigmoid()
        weight = (probs * (1 - probs)) @ shares
        if covariance.ndim == 2:
            return weight[:, None].expand_as(covariance).contiguous()
        sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=mean.dtype, device=mean.device)
        return weight[:, None, None] * sign


ASCENT_BOUNDS: dict[str, AscentBound] = {
    "gauss_hermite": QuadratureBound(),
    "jensen": TiltedBound(follows_means=False),
    "knowles_minka": TiltedBound(follows_means=True),
    "tilted": TiltedBound(follows_means=True),
}
