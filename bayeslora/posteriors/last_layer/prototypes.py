"""Prototypes as a last layer: cosines with the mean feature of each class.

    logit_c = κ cos(φ, c_c)

While an adapter trains, a softmax layer is used; `fit` replaces it in predictions.

Source: Snell, Swersky and Zemel 2017, arXiv 1703.05175.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from bayeslora.adapters.site import Site
from bayeslora.logits import GaussianLogits, Logits
from bayeslora.option_checks import Positive
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.point import AroundPoint
from bayeslora.posteriors.types import Features, FinalFit, check_features, check_fit
from bayeslora.recalibration.linear import best_inverse


@dataclass(frozen=True)
class Prototypes(Posterior):
    """A point estimate for classes with few rows: logits are cosines with the mean of each class.

    G-VBLL is its Bayesian counterpart: means are random there, and distances are those of a
    Gaussian.
    """

    scale: Positive | None = None
    """Factor on the cosines. None means the factor that the adapter was tuned with (as with `amt`),
    else one chosen on validation rows, or by leave-one-out if there are none."""

    name: ClassVar[str] = "prototypes"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.prototypes:PrototypeHead"
    summary: ClassVar[str] = "point estimate, cosine with the mean feature of each class"
    use: ClassVar[str] = "Few examples per class, or classes not seen in training."
    source: ClassVar[str] = "Snell, Swersky and Zemel 2017, arXiv 1703.05175"
    passes: ClassVar[str] = "1"
    moves_mean: ClassVar[bool] = True

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Take over the scale of an adapter that was tuned with one."""
        if self.scale is None:
            cast("PrototypeHead", fit.network.head).take_scale(fit.network.sites)
        return False


USUAL_SCALE = 10.0
"""κ if no row can be held out."""


class PrototypeHead(AroundPoint):
    """The head; a `LastLayer`. Before a fit it is the trained softmax layer.

    Attributes:
        centres: [C, d] float64, NaN before `fit`.
        scale: κ, float64 scalar.
        given_scale: Fixed κ, float64 scalar; NaN if κ is chosen by `fit`.
    """

    uses_training_features = True
    centres: Tensor
    scale: Tensor
    given_scale: Tensor

    def __init__(
        self, config: Prototypes, num_features: int, num_classes: int, **options: Any
    ) -> None:
        super().__init__(config, num_features, num_classes, **options)
        centres = torch.full((num_classes, num_features), math.nan, dtype=torch.float64)
        self.register_buffer("centres", centres)
        self.register_buffer("scale", torch.tensor(USUAL_SCALE, dtype=torch.float64))
        scale = math.nan if config.scale is None else float(config.scale)
        self.register_buffer("given_scale", torch.tensor(scale, dtype=torch.float64))

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Compute the class means, and the scale of lowest NLL unless it is fixed.

        Raises:
            InputError: Features are not finite.
        """
        check_fit(train, validation)
        classes = len(self.centres)
        train = train.double()
        rows, labels = train.values, train.targets
        self.centres.copy_(prototypes(rows, labels, classes))
        self.scale.copy_(self.given_scale)
        if bool(self.given_scale.isfinite()):
            return
        if validation is not None:
            held_out = validation.double()
            cosines, known = cosine_logits(held_out.values, self.centres), held_out.known
            targets = held_out.targets
        elif bool((torch.bincount(labels, minlength=classes) > 1).all()):
            cosines, known = held_out_cosines(rows, labels, classes), train.known
            targets = labels
        else:
            self.scale.fill_(USUAL_SCALE)
            return
        # If every row is correct, the fit falls back to the usual scale.
        logits = USUAL_SCALE * cosines
        logits = logits if known is None else logits + known
        factor = best_inverse(logits.cpu().numpy(), targets.cpu().numpy())
        self.scale.fill_(USUAL_SCALE * factor)

    @torch.no_grad()
    def predict(self, rows: Features) -> Logits:
        """Return the logits without variance, in float64; before a fit, the softmax logits."""
        if not bool(self.centres.isfinite().all()):
            return super().predict(rows)
        check_features(rows)
        rows = rows.double()
        mean = cosine_logits(rows.values, self.centres, self.scale)
        mean = mean if rows.known is None else mean + rows.known
        return GaussianLogits.point(mean)

    def data_loss(self, rows: Features) -> Tensor:
        """Return the mean cross-entropy, with the parameters of `predict` held constant."""
        if not bool(self.centres.isfinite().all()):
            return super().data_loss(rows)
        values = rows.values
        logits = cosine_logits(values, self.centres.to(values), self.scale.to(values))
        logits = logits if rows.known is None else logits + rows.known
        return torch.nn.functional.cross_entropy(logits, rows.targets)

    def take_scale(self, sites: Sequence[Site]) -> None:
        """Fix the scale to the one that an adapter was tuned with, if any."""
        for site in sites:
            scales = getattr(site, "cosine_scales", None)
            if scales is not None:
                mixture = getattr(site, "mixture")  # noqa: B009 - of sites that have scales
                self.given_scale.fill_(float((scales.double() * mixture.double()).sum()))
                return

    def report(self) -> dict[str, float | str]:
        """Return κ."""
        return {"scale": float(self.scale)}


def prototypes(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean features [C, d] of each class, given features [N, d]; no class is empty."""
    members = one_hot(labels, num_classes).to(features)
    return members.T @ features / members.sum(0)[:, None]


def cosine_logits(features: Tensor, centres: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Return κ cos(φ, c) [N, C] for features [N, d] and prototypes [C, d]."""
    return scale * normalize(features, dim=-1) @ normalize(centres, dim=-1).T


def held_out_cosines(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return cosines [N, C], with each row left out of the prototype of its own class."""
    counts = torch.bincount(labels, minlength=num_classes)
    centres = prototypes(features, labels, num_classes)
    cosines = cosine_logits(features, centres)
    sizes = counts[labels][:, None].to(features)
    without = (sizes * centres[labels] - features) / (sizes - 1)
    alone = (normalize(features, dim=-1) * normalize(without, dim=-1)).sum(-1)
    return cosines.scatter(1, labels[:, None], alone[:, None])
