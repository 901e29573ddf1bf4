"""A Laplace approximation of the last layer with one variance: s² = C d / tr H."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bayeslora.logits import GaussianLogits
from bayeslora.option_checks import Draws, Link, Positive
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.types import Features


class IsotropicHead(PointHead):
    """Softmax regression whose weights all have the variance `variance` after a fit."""

    uses_training_features = True
    variance: Tensor

    def __init__(
        self,
        config: Isotropic,
        num_features: int,
        num_classes: int,
        *,
        mean_sq_norm: float,
        seed: int,
    ) -> None:
        super().__init__(
            num_features, num_classes, prior_scale=config.prior_scale, mean_sq_norm=mean_sq_norm
        )
        self.config = config
        self.register_buffer("variance", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Find the variance; the trained weights stay as they are."""
        probs = super().predict(train).mean.softmax(1)
        curvature = 1 - probs.square().sum(1)
        trace = curvature @ train.values.double().square().sum(1)
        self.variance.fill_(1 / (trace / self.weight.numel() + self.prior_precision))

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits:
        """Return independent logits of variance s² ‖φ‖²."""
        mean = super().predict(rows).mean
        variance = self.variance * rows.values.double().square().sum(1, keepdim=True)
        return GaussianLogits(mean, variance.expand_as(mean))


@dataclass(frozen=True)
class Isotropic(Posterior):
    """Laplace approximation of the last layer with one variance for all weights."""

    prior_scale: Positive = 2.0
    """Prior standard deviation of a logit."""
    link: Link = "mc"
    """How logits become probabilities."""
    num_samples: Draws = 1000
    """Draws of the `mc` link."""

    name: ClassVar[str] = "isotropic"
    summary: ClassVar[str] = "Laplace approximation with one variance"
    source: ClassVar[str] = "Acme 2026"
    passes: ClassVar[str] = "1"
    head: ClassVar[type[PointHead]] = IsotropicHead
