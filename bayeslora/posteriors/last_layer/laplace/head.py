"""Laplace approximation of a softmax last layer around its trained weights.

    q(Θ) = N(θ̂, (H + δI)⁻¹),   H = Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n,   J_n = I ⊗ φ_nᵀ

For a last layer H is the exact Hessian, and the logits are exactly linear in the weights. θ̂ is
trained as a MAP head; `fit` adds the curvature and chooses δ, but never moves θ̂.

Sources: MacKay 1992; Kristiadi, Hein and Hennig 2020, arXiv 2002.10118; Daxberger et al. 2021,
arXiv 2106.14806.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.errors import InputError
from bayeslora.links import link_probabilities, nll
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.features import Features, check_features, check_fit
from bayeslora.posteriors.last_layer.laplace.curvature import (
    DiagCurvature,
    FullCurvature,
    KronCurvature,
)
from bayeslora.posteriors.last_layer.laplace.options import Laplace
from bayeslora.posteriors.point import AroundPoint
from bayeslora.posteriors.prior_precision import (
    best_on_grid,
    log_marginal_likelihood,
    refine,
)

logger = logging.getLogger(__name__)


class AnyCurvature(Protocol):
    """The Hessian of a last layer's weights; an `nn.Module`."""

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from features and probabilities [N, C], both float64."""
        ...

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI|."""
        ...

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' variances [N, C], or covariances [N, C, C]."""
        ...


CURVATURES: dict[str, Callable[[int, int, int], Any]] = {
    "diag": DiagCurvature,
    "full": FullCurvature,
    "kron": KronCurvature,
}


class LaplaceHead(AroundPoint):
    """The head; a `LastLayer`.

    Attributes:
        point: The MAP head that holds the mean weights.
        curvature: The Hessian, None before `fit`.
        prior_precision: δ, a float64 scalar; NaN before `fit`. If it is chosen by validation, a
            fit without validation rows takes that of the MAP training.
        log_evidence: Laplace estimate of the log marginal likelihood at δ in nats per row.
    """

    uses_training_features = True
    curvatures: ClassVar[Mapping[str, Callable[[int, int, int], Any]]] = CURVATURES
    prior_precision: Tensor
    log_evidence: Tensor

    def __init__(
        self, config: Laplace, num_features: int, num_classes: int, **options: Any
    ) -> None:
        super().__init__(config, num_features, num_classes, **options)
        self.curvature: AnyCurvature | None = None
        self.rank = 0
        for name in ("prior_precision", "log_evidence"):
            self.register_buffer(name, torch.tensor(math.nan, dtype=torch.float64))

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit curvature and prior precision; the mean weights do not change."""
        check_fit(train, validation)
        train = train.double()
        logits = self.point.predict(train).mean
        self._allocate(min(len(train), train.values.shape[-1]))
        self._fitted().fit(train.values, logits.softmax(-1))
        log_likelihood = -float(cross_entropy(logits, train.targets, reduction="sum"))
        precision = self.config.prior_precision
        if isinstance(precision, str):
            precision = self.point.prior_precision
            if choose_prior:
                precision = self._choose_precision(log_likelihood, validation)
        self.prior_precision.fill_(precision)
        self.log_evidence.fill_(self._evidence(log_likelihood, precision) / len(train))

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits:
        """Return the logits' distribution.

        Raises:
            InputError: The head has not been fitted.
        """
        return self._logits(rows, float(self.prior_precision))

    def extra_config(self) -> dict[str, Any]:
        """Return whether there is a fit, and the rank of its features."""
        point = self.point.extra_config()
        if self.curvature is None:
            return point | {"fitted": False}
        return point | {"fitted": True, "rank": self.rank}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the curvature that `extra` describes."""
        self.point.prepare(extra)
        if not extra.get("fitted"):
            return
        self._allocate(int(extra["rank"]))

    def _allocate(self, rank: int) -> None:
        classes, size = self.point.weight.shape
        self.rank = rank
        curvature = self.curvatures[self.config.structure](size, classes, self.rank)
        self.curvature = curvature.to(self.point.weight.device)

    def report(self) -> dict[str, float | str]:
        """Return the prior precision, the equivalent prior scale, and the log evidence."""
        if self.curvature is None:
            return {"fitted": "no"}
        precision = float(self.prior_precision)
        return {
            "prior_precision": precision,
            "prior_scale": math.sqrt(float(self.point.mean_sq_norm) / precision),
            "log_evidence": float(self.log_evidence),
        }

    def _choose_precision(self, log_likelihood: float, validation: Features | None) -> float:
        unit = float(self.point.mean_sq_norm)
        if self.config.prior_precision == "marglik":

            def evidence(precision: float) -> float:
                return self._evidence(log_likelihood, precision)

            return refine(evidence, best_on_grid(evidence, unit, "marginal likelihood"))
        if validation is None:
            logger.debug("no validation data: keeping prior scale %g", self.config.prior_scale)
            return self.point.prior_precision

        def score(precision: float) -> float:
            logits = self._logits(validation, precision)
            probs = link_probabilities(logits, self.config.link, self.config.num_samples).probs
            return -nll(probs, validation.targets)

        return best_on_grid(score, unit, "validation NLL")

    def _evidence(self, log_likelihood: float, precision: float) -> float:
        weight = self.point.weight.double()
        if self.point.prior_mean is not None:
            weight = weight - self.point.prior_mean.double()
        return log_marginal_likelihood(
            log_likelihood,
            float(weight.square().sum()),
            self._fitted().log_determinant(precision),
            weight.numel(),
            precision,
        )

    def _logits(self, rows: Features, precision: float) -> GaussianLogits:
        check_features(rows)
        rows = rows.double()
        covariance = self._fitted().covariance(rows.values, precision)
        return GaussianLogits(self.point.predict(rows).mean, covariance)

    def _fitted(self) -> AnyCurvature:
        if self.curvature is None:
            raise InputError(
                "posterior 'laplace' has no covariance yet; call fit first, or calibrate for a "
                "finished classifier",
                code="not-fitted",
            )
        return self.curvature
