"""Prototypes as a last layer: the mean feature of each class, and cosines with it.

    logit_c = κ cos(φ, c_c)

While an adapter trains, a softmax layer stands here; `fit` replaces it in predictions.

Source: Snell, Swersky and Zemel 2017, arXiv 1703.05175.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.features import Features, check_features, check_fit
from bayeslora.posteriors.last_layer.prototypes.options import Prototypes
from bayeslora.posteriors.point import AroundPoint, PointHead
from bayeslora.posteriors.types import Network
from bayeslora.prototypes import cosine_logits, held_out_cosines, prototypes
from bayeslora.recalibration.temperature import best_inverse

USUAL_SCALE = 10.0
"""κ where no row can be left out."""


class PrototypeHead(AroundPoint):
    """The head; a `LastLayer`. Before a fit it is the softmax layer that trains.

    Attributes:
        point: The softmax layer.
        centres: [C, d] float64, NaN before `fit`.
        scale: κ, float64 scalar.
        given_scale: κ that is not to be chosen, float64 scalar; NaN where it is.
    """

    uses_training_features = True
    centres: Tensor
    scale: Tensor
    given_scale: Tensor

    def __init__(
        self, config: Prototypes, num_features: int, num_classes: int, *, mean_sq_norm: float = 1.0
    ) -> None:
        super().__init__(PointHead(num_features, num_classes, mean_sq_norm=mean_sq_norm))
        centres = torch.full((num_classes, num_features), math.nan, dtype=torch.float64)
        self.register_buffer("centres", centres)
        self.register_buffer("scale", torch.tensor(USUAL_SCALE, dtype=torch.float64))
        given = math.nan if config.scale is None else float(config.scale)
        self.register_buffer("given_scale", torch.tensor(given, dtype=torch.float64))

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Take the means of the classes, and the scale of lowest NLL where none is given.

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
            held = validation.double()
            cosines, known = cosine_logits(held.values, self.centres), held.known
            targets = held.targets
        elif bool((torch.bincount(labels, minlength=classes) > 1).all()):
            cosines, known = held_out_cosines(rows, labels, classes), train.known
            targets = labels
        else:
            self.scale.fill_(USUAL_SCALE)
            return
        # Where every row is right, nothing but the usual scale is known.
        logits = USUAL_SCALE * cosines
        logits = logits if known is None else logits + known
        found = best_inverse(logits.cpu().numpy(), targets.cpu().numpy())
        self.scale.fill_(USUAL_SCALE * found)

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits:
        """Return the logits without variance, in float64; before a fit, the softmax layer's."""
        if not bool(self.centres.isfinite().all()):
            return self.point.predict(rows)
        check_features(rows)
        rows = rows.double()
        mean = cosine_logits(rows.values, self.centres, self.scale)
        mean = mean if rows.known is None else mean + rows.known
        return GaussianLogits(mean, torch.zeros_like(mean))

    def data_loss(self, rows: Features) -> Tensor:
        """Return the mean cross-entropy, with what `predict` uses held constant."""
        if not bool(self.centres.isfinite().all()):
            return self.point.data_loss(rows)
        values = rows.values
        logits = cosine_logits(values, self.centres.to(values), self.scale.to(values))
        logits = logits if rows.known is None else logits + rows.known
        return torch.nn.functional.cross_entropy(logits, rows.targets)

    def extra_config(self) -> dict[str, Any]:
        """Return nothing: all shapes are known."""
        return {}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Do nothing."""

    def report(self) -> dict[str, float | str]:
        """Return κ."""
        return {"scale": float(self.scale)}


def take_scale(network: Network) -> None:
    """Give the head of a network the scale that its adapter was tuned with, where it was."""
    head = network.head
    for site in network.sites:
        scales = getattr(site, "cosine_scales", None)
        if scales is not None and isinstance(head, PrototypeHead):
            mixture = getattr(site, "mixture")  # noqa: B009 - of sites that have scales
            head.given_scale.fill_(float((scales.double() * mixture.double()).sum()))
            return
