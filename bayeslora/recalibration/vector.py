"""Vector scaling: a factor and an intercept for the log-probability of each class.

    p'_c ∝ exp((1 + d_c) log p_c + b_c)

Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 4.2, with log-probabilities in the
place of logits, which a `Predictions` does not hold, and with the prior of `linear.py`. Classes
may change their order within a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from bayeslora.recalibration.base import Recalibrator
from bayeslora.recalibration.common import (
    log_probs,
)
from bayeslora.recalibration.config import VectorOptions
from bayeslora.recalibration.linear import LinearMap, fit_linear

Array = NDArray[np.float64]


@dataclass(eq=False)
class VectorScaling(VectorOptions, Recalibrator):
    """A recalibrator with two parameters a class; it does not keep the ranking.

    Attributes:
        scale: [C] float64, the factors 1 + d; None before `fit`.
        intercept: [C] float64, nats.
    """

    title = "vector scaling"

    scale: Array | None = None
    intercept: Array | None = None

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        found = fit_linear(log_probs(probs), labels, self.prior_scale)
        self.scale, self.intercept = found.scale, found.intercept

    def mapped(self, probs: Array) -> Array:
        """Return the scaled probabilities."""
        return np.asarray(softmax(self._map().logits(log_probs(probs)), axis=1))

    def num_parameters(self, num_classes: int) -> int:
        """Return 2·C."""
        return 2 * num_classes

    def report(self) -> dict[str, float | str]:
        """Return the mean factor and the largest intercept (nats)."""
        found = self._map()
        return {
            "mean_scale": float(found.scale.mean()),
            "largest_intercept": float(np.abs(found.intercept).max()),
        }

    def _map(self) -> LinearMap:
        return LinearMap(np.asarray(self.scale), np.asarray(self.intercept))
