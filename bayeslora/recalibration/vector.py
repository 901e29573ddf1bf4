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

from bayeslora.held_out import fitting_rows
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.common import (
    check_applicable,
    log_probs,
    with_new_probs,
)
from bayeslora.recalibration.config import VectorOptions
from bayeslora.recalibration.linear import LinearMap, fit_linear


@dataclass(eq=False)
class VectorScaling(VectorOptions):
    """A recalibrator with two parameters a class; it does not keep the ranking.

    Attributes:
        scale: [C] float64, the factors 1 + d; None before `fit`.
        intercept: [C] float64, nats.
        classes: Class names of the rows it was fitted on.
        num_rows: Labelled rows it was fitted on.
    """

    scale: NDArray[np.float64] | None = None
    intercept: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    num_rows: int = 0

    def fit(self, predictions: Predictions) -> VectorScaling:
        """Fit to the labelled rows.

        Args:
            predictions: Of rows that the model was not trained on.

        Returns:
            The recalibrator itself.

        Raises:
            InputError: No row has a label.
        """
        probs, labels = fitting_rows(predictions, "vector scaling")
        found = fit_linear(log_probs(probs), labels, self.prior_scale)
        self.scale, self.intercept = found.scale, found.intercept
        self.classes, self.num_rows = predictions.classes, len(labels)
        return self

    def apply(self, predictions: Predictions, name: str | None = None) -> Predictions:
        """Return the predictions with scaled probabilities; see `common.with_new_probs`.

        Args:
            predictions: Rows over the same classes, labelled or not.
            name: The new name; the old one if None.

        Raises:
            InputError: Not fitted, or fitted on other classes.
        """
        check_applicable(self, predictions)
        probs = softmax(self._map().logits(log_probs(predictions.probs)), axis=1)
        return with_new_probs(self, predictions, probs, name)

    def report(self) -> dict[str, float | str]:
        """Return the mean factor and the largest intercept (nats)."""
        found = self._map()
        return {
            "mean_scale": float(found.scale.mean()),
            "largest_intercept": float(np.abs(found.intercept).max()),
        }

    def _map(self) -> LinearMap:
        return LinearMap(np.asarray(self.scale), np.asarray(self.intercept))
