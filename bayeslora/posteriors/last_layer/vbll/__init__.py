"""Variational Bayesian last layer: its options.

    z_c = θ_cᵀφ,   p(y | φ, Θ) = softmax(z)_y,   θ_c ~ N(m0_c, σ0² I),   q(Θ) = Π_c N(μ_c, S_c)
    min over q:   −(1/N) Σ_n bound_n + KL(q ‖ prior) / N,   bound_n ≤ E_q log p(y_n | φ_n, Θ)

The method is in `head.py` and `final.py`, with the families of `bounds.py` and `covariance.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from bayeslora.option_checks import Draws, Link, Positive
from bayeslora.posteriors.base import FEW_ROWS, FitFacts, Posterior
from bayeslora.posteriors.types import LastLayer

logger = logging.getLogger(__name__)

SPREAD_PRIOR_SCALE = 0.5
"""Prior standard deviation of a logit around the trained mean, in gradient steps."""
CROSS_VALIDATION: Literal["cross-validation"] = "cross-validation"
AUTO: Literal["auto"] = "auto"

Covariance = Literal["auto", "dense", "eigenbasis"]
ScaleChoice = Literal["auto", "cross-validation", "empirical-bayes"]

LARGEST_ROUND = 5e10
"""Largest number of multiplications per round of a fit for which `auto` is dense: about a
minute per fit on one core. 20 classes of 1,000 rows with 384 features take 8e9, 400 of 2,000 rows
3e11."""
LARGEST_MEGABYTES = 100.0
"""Largest stored size for which `auto` is dense: 77 classes with 576 features take 51."""
MEAN_STEPS = 120
"""Steps of a round in the search for the means."""
TILT = 4e4
"""Multiplications that the tilt of a row and class is worth."""


@dataclass(frozen=True)
class VBLL(Posterior):
    """Variational Bayesian last layer: a Gaussian over the weights of each class."""

    prior_scale: Positive | ScaleChoice = AUTO
    """Prior standard deviation of a logit. In the final fit, `empirical-bayes` maximises
    the ELBO (0.5 if the means are fixed), and `cross-validation` takes 8 or the maximum of the
    ELBO, by the NLL of five-fold cross-validation on the training rows. `auto` is
    `cross-validation` in a fit to at most 256 rows without an adapter and validation rows, else
    `empirical-bayes`."""
    training_prior_scale: Positive | None = None
    """Prior standard deviation of a logit while the adapter trains; None means `prior_scale` if
    that is a number, and otherwise a prior around the means, so that only deviations are penalised,
    with scale 0.5."""
    polish_mean: Literal["validation", "refit", "trained"] = "validation"
    """Means of the final fit. `refit`: fitted in closed form, with the covariances. `trained`:
    those of the last training step; only the covariances are refitted. `validation`: whichever of
    the two has the lower validation NLL. Without validation rows, `validation` means `refit` in
    `calibrate` and without an adapter; otherwise it means `trained`."""
    covariance: Covariance = AUTO
    """Covariance of the weights after the final fit, per class: `dense`, or `eigenbasis` (diagonal
    along the eigenvectors of the features' second moment, which classes share). `auto` means
    `dense`, or `eigenbasis` (logged) if a dense covariance would take more than a minute or 100 MB.
    It is diagonal while the adapter trains."""
    head_lr: Positive = 2e-2
    """Learning rate of the head's gradient steps."""
    link: Link = "mc"
    """Link from logits to probabilities."""
    num_samples: Draws = 1000
    """Number of draws of the `mc` link."""

    name: ClassVar[str] = "vbll"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.vbll.head:VBLLHead"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.vbll.head:SharedVBLLHead.of"
    scales_logits: ClassVar[bool] = True
    takes_soft: ClassVar[bool] = True
    summary: ClassVar[str] = "variational Bayesian last layer, refitted in closed form"
    use: ClassVar[str] = "The default. One pass per prediction, with or without validation data."
    source: ClassVar[str] = "Harrison, Willes and Snoek 2024, arXiv 2404.11599"
    passes: ClassVar[str] = "1"
    moves_mean: ClassVar[bool] = True
    settled_options: ClassVar[tuple[str, ...]] = ("covariance",)

    def sized(self, num_classes: int, num_features: int, num_rows: int) -> VBLL:
        """Return the options with `auto` resolved: `dense`, unless that is too large.

        Multiplications and bytes are counted, not seconds, so every machine decides alike.
        """
        if self.covariance != AUTO:
            return self
        rank = min(num_rows, num_features)
        # C matrices are formed, factorised and solved for N rows; then steps of means and tilts.
        work = num_classes * rank * (2.0 * num_rows * rank + rank**2 / 3)
        work += num_classes * num_rows * (MEAN_STEPS * num_features + TILT)
        megabytes = 4e-6 * (num_classes * num_features * (num_features + 1) // 2)
        # Options share one weight vector, so no classes share a basis.
        if num_classes == 1 or (work <= LARGEST_ROUND and megabytes <= LARGEST_MEGABYTES):
            return self.with_family("dense")
        logger.warning(
            "covariance=dense with %d classes and %d features, fitted to %d rows, would take "
            "more than a minute or %.0f MB; using covariance=eigenbasis instead (to override: "
            "vbll:covariance=dense)",
            num_classes,
            num_features,
            num_rows,
            megabytes,
        )
        return self.with_family("eigenbasis")

    def with_family(self, family: Covariance) -> VBLL:
        """Return the options with `auto` replaced by a family of covariances."""
        return replace(self, covariance=family) if self.covariance == AUTO else self

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return whether the means are refitted, as they always are without an adapter."""
        return not adapter_trains or self.polish_mean != "trained"

    def start_from(self, head: LastLayer) -> Tensor:
        """Return the mean weights of `head`.

        For another VBLL these are the trained means, so that they can be kept here too.
        """
        return head.trained_mean

    def settled(self, facts: FitFacts) -> VBLL:
        """Return the options with means chosen without validation rows.

        For a last layer on frozen features of few rows, the prior is chosen too.

        Means that were trained are kept: those of a closed-form fit are too large once the adapter
        has separated the training rows (`reports/archive/label-budget`).
        """
        if facts.is_validated:
            return self
        config, few = self, facts.num_rows <= FEW_ROWS
        if not facts.adapter_trains and few and self.prior_scale == AUTO:
            config = replace(config, prior_scale=CROSS_VALIDATION)
        if self.polish_mean != "validation":
            return config
        return replace(config, polish_mean="trained" if facts.head_trains else "refit")
