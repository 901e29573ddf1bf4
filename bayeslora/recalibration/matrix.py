"""Matrix scaling: a linear map of all log-probabilities, which is Dirichlet calibration.

    p' = softmax(W log p + b)

On logits this is the matrix scaling of Guo et al. 2017 (arXiv 1706.04599); on log-probabilities,
which is what a `Predictions` holds, it is the linear form of Dirichlet calibration (Kull et al.
2019, arXiv 1910.12656). The off-diagonal entries and the intercepts are regularised as in
`linear.py` (their ODIR); how much, cross-validation on the fit rows decides for the former. Without
that, C² weights fitted to some hundred rows make the probabilities worse. Classes may change their
order within a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from bayeslora.held_out import settled_order
from bayeslora.recalibration.base import Recalibrator
from bayeslora.recalibration.common import (
    log_probs,
)
from bayeslora.recalibration.config import MatrixOptions
from bayeslora.recalibration.linear import LinearMap, fit_linear, mean_nll
from bayeslora.recalibration.optimum import ROUGH

Array = NDArray[np.float64]

FOLDS = 5
MAX_ROWS = 2000
"""Rows beyond which cross-validation takes every second, third … row: a prior deviation does not
depend on how many rows there are."""

GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Prior deviations of an off-diagonal weight that cross-validation chooses from."""


@dataclass(eq=False)
class MatrixScaling(MatrixOptions, Recalibrator):
    """A recalibrator with C² + C parameters; it does not keep the ranking.

    Attributes:
        weights: [C, C] float64, W; None before `fit`.
        intercept: [C] float64, b, nats.
        chosen: The off-diagonal scale that was used.
    """

    title = "matrix scaling"

    weights: Array | None = None
    intercept: Array | None = None
    chosen: float | None = None

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        logs = log_probs(probs)
        scale = self.off_diagonal_scale
        if isinstance(scale, str):
            order = settled_order(probs, labels)
            scale = cross_validated(logs[order], labels[order], self.prior_scale)
        found = fit_linear(logs, labels, self.prior_scale, scale)
        others = np.zeros(()) if found.off_diagonal is None else found.off_diagonal
        self.weights, self.intercept = np.diag(found.scale) + others, found.intercept
        self.chosen = float(scale)

    def mapped(self, probs: Array) -> Array:
        """Return the mapped probabilities."""
        return np.asarray(
            softmax(log_probs(probs) @ np.asarray(self.weights).T + self.intercept, axis=1)
        )

    def num_parameters(self, num_classes: int) -> int:
        """Return C² + C."""
        return num_classes * (num_classes + 1)

    def report(self) -> dict[str, float | str]:
        """Return the off-diagonal scale used, the mean diagonal weight and the largest other."""
        weights = np.asarray(self.weights)
        others = weights - np.diag(np.diag(weights))
        return {
            "off_diagonal_scale": float(self.chosen or 0.0),
            "mean_scale": float(np.diag(weights).mean()),
            "largest_off_diagonal": float(np.abs(others).max()),
        }


def cross_validated(logs: Array, labels: NDArray[np.int64], prior_scale: float) -> float:
    """Return the off-diagonal scale of `GRID` with the lowest NLL on rows left out in turn.

    Args:
        logs: [N, C] log-probabilities in a settled order; every fifth row makes a fold.
        labels: [N].
        prior_scale: Of the diagonal weights and intercepts.
    """
    if len(labels) < 2:
        return GRID[0]
    step = -(-len(labels) // MAX_ROWS)
    logs, labels = logs[::step], labels[::step]
    folds = np.arange(len(labels)) % FOLDS
    losses = np.zeros(len(GRID))
    for fold in range(min(FOLDS, len(labels))):
        out = folds == fold
        found: LinearMap | None = None
        for k, scale in enumerate(GRID):
            found = fit_linear(
                logs[~out], labels[~out], prior_scale, scale, start=found, tolerance=ROUGH
            )
            losses[k] += out.sum() * mean_nll(found, logs[out], labels[out])
    return GRID[int(np.argmin(losses))]
