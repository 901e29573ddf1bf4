"""Beta calibration: the map between two beta distributions, one-vs-rest for each class.

    logit p'_c = a_c log p_c − b_c log(1 − p_c) + c_c,   a_c, b_c ≥ 0

    minimised for each class: Σ_n NLL of (y_n = c)  +  ((a − 1)² + (b − 1)² + c²) / 2τ²

Kull, Silva Filho and Flach 2017, AISTATS (PMLR 54). The bounds keep each class's map
non-decreasing; the prior, centred on the identity map, keeps the optimum finite if a class is
absent or its rows are separable, and vanishes as N grows. With several classes the results are
renormalised, so classes may change their order within a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bayeslora.option_checks import Positive
from bayeslora.recalibration.recalibrator import (
    FLOOR,
    Array,
    Recalibrator,
    minimise,
    one_hot,
    renormalised,
)


@dataclass(eq=False)
class BetaCalibration(Recalibrator):
    """A recalibrator with three parameters per class; it does not keep the ranking.

    Attributes:
        parameters: [3, C] float64: a, b, c; None before `fit`.
    """

    prior_scale: Positive = 1.0
    """Prior standard deviation of a and b around 1 and of c around 0."""

    name: ClassVar[str] = "beta"
    summary: ClassVar[str] = "a three-parameter curve for each class against the rest"
    source: ClassVar[str] = "Kull, Silva Filho and Flach 2017, PMLR 54"

    title = "beta calibration"

    parameters: Array | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        self.parameters = _fit(probs, labels, self.prior_scale)

    def mapped(self, probs: Array) -> Array:
        """Return the mapped probabilities."""
        return renormalised(_sigmoid(_logits(np.asarray(self.parameters), probs)), probs)

    def num_parameters(self, num_classes: int) -> int:
        """Return 3·C."""
        return 3 * num_classes

    def report(self) -> dict[str, float | str]:
        """Return the means of a and b and the largest c (nats)."""
        a, b, c = np.asarray(self.parameters)
        return {
            "mean_a": float(a.mean()),
            "mean_b": float(b.mean()),
            "largest_c": float(np.abs(c).max()),
        }


def _fit(probs: Array, labels: NDArray[np.int64], prior_scale: float) -> Array:
    """Return [3, C]; one search fits all classes, which are independent."""
    rows, num_classes = probs.shape
    targets = one_hot(labels, num_classes)
    near, far = _features(probs)
    identity = np.repeat([[1.0], [1.0], [0.0]], num_classes, axis=1)

    def objective(flat: Array) -> tuple[float, Array]:
        values = flat.reshape(3, num_classes)
        logits = values[0] * near + values[1] * far + values[2]
        changes = (values - identity) / prior_scale
        loss = (np.logaddexp(0, logits) - targets * logits).sum() + (changes**2).sum() / 2
        residuals = _sigmoid(logits) - targets
        slopes = np.stack([(residuals * near).sum(0), (residuals * far).sum(0), residuals.sum(0)])
        return loss / rows, (slopes + changes / prior_scale).ravel() / rows

    bounds = [(0.0, None)] * (2 * num_classes) + [(None, None)] * num_classes
    return minimise(objective, identity.ravel(), bounds).reshape(3, num_classes)


def _features(probs: Array) -> tuple[Array, Array]:
    """Return log p and −log(1 − p), both [N, C], with p clipped away from 0 and 1."""
    inside = np.clip(probs, FLOOR, 1 - FLOOR)
    return np.log(inside), -np.log1p(-inside)


def _logits(parameters: Array, probs: Array) -> Array:
    near, far = _features(probs)
    return np.asarray(parameters[0] * near + parameters[1] * far + parameters[2])


def _sigmoid(logits: Array) -> Array:
    return np.exp(-np.logaddexp(0, -logits))
