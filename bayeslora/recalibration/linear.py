"""Vector and matrix scaling: softmax regression on log-probabilities.

    z'_c = (1 + d_c) log p_c + b_c + Σ_{j≠c} O_cj log p_j,   p' = softmax(z')

    minimised: Σ_n −log p'_{n,y}  +  (‖d‖² + ‖b‖²) / 2τ²  +  ‖O‖² / 2τ_o²

The Gaussian prior is around leaving the probabilities alone. The objective is strictly convex, so
there is one optimum whatever the fit rows are: a class that is absent from them is not driven to
probability zero, and separated rows do not push the weights to infinity. As N grows, the prior
fades and the optimum becomes that of maximum likelihood.

With O left out this is vector scaling: a factor and an intercept for the log-probability of each
class (Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 4.2, with log-probabilities
in the place of logits, which a `Predictions` does not hold). With O it is matrix scaling,
p' = softmax(W log p + b): on logits that of Guo et al., on log-probabilities the linear form of
Dirichlet calibration (Kull et al. 2019, arXiv 1910.12656), whose off-diagonal and intercept
regularisation λ Σ O² / C(C−1) (ODIR) is the prior with λ = C(C−1) / 2Nτ_o². How much the
off-diagonal entries are regularised, cross-validation on the fit rows decides: without that, C²
weights fitted to some hundred rows make the probabilities worse. In both, classes may change their
order within a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from bayeslora.held_out import settled_order
from bayeslora.recalibration.config import MatrixOptions, VectorOptions
from bayeslora.recalibration.recalibrator import (
    EXACT,
    ROUGH,
    Recalibrator,
    log_probs,
    minimise,
    one_hot,
)

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map of log-probabilities.

    Attributes:
        scale: [C] the factor 1 + d of a class's own log-probability.
        intercept: [C] nats.
        off_diagonal: [C, C] weights of the other classes' log-probabilities, zero on the diagonal;
            None where they have none.
    """

    scale: Array
    intercept: Array
    off_diagonal: Array | None = None

    def logits(self, logs: Array) -> Array:
        """Return z' [N, C] of log-probabilities [N, C]."""
        own = logs * self.scale + self.intercept
        return own if self.off_diagonal is None else own + logs @ self.off_diagonal.T


def fit_linear(
    logs: Array,
    labels: NDArray[np.int64],
    prior_scale: float,
    off_diagonal_scale: float | None = None,
    *,
    start: LinearMap | None = None,
    tolerance: float = EXACT,
) -> LinearMap:
    """Return the map that minimises the objective above.

    Args:
        logs: [N, C] log-probabilities, finite.
        labels: [N] class indices.
        prior_scale: τ, the prior standard deviation of d and of b (nats).
        off_diagonal_scale: τ_o, that of each entry of O; None leaves O out.
        start: Where the search starts; the identity if None.
        tolerance: See `minimise`.
    """
    rows, num_classes = logs.shape
    targets = one_hot(labels, num_classes)
    blocks = 2 if off_diagonal_scale is None else 2 + num_classes
    # In units of their prior deviations all parameters have a curvature of at least 1/N.
    scales = np.full((blocks, num_classes), float(prior_scale))
    scales[2:] = off_diagonal_scale or 0.0

    def objective(free: Array) -> tuple[float, Array]:
        changes = free.reshape(scales.shape) * scales
        logits = _unpacked(changes).logits(logs)
        loss = _nll(logits, labels).sum() + free @ free / 2
        residuals = softmax(logits, axis=1) - targets
        slopes = np.empty_like(scales)
        slopes[0], slopes[1] = (residuals * logs).sum(0), residuals.sum(0)
        if len(slopes) > 2:
            slopes[2:] = residuals.T @ logs
            np.fill_diagonal(slopes[2:], 0.0)
        return loss / rows, ((slopes * scales).ravel() + free) / rows

    first = np.zeros_like(scales) if start is None else _packed(start) / scales
    found = minimise(objective, first.ravel(), tolerance=tolerance)
    return _unpacked(found.reshape(scales.shape) * scales)


def mean_nll(found: LinearMap, logs: Array, labels: NDArray[np.int64]) -> float:
    """Return the mean NLL of some rows, nats."""
    return float(_nll(found.logits(logs), labels).mean())


def _nll(logits: Array, labels: NDArray[np.int64]) -> Array:
    return (
        np.asarray(logsumexp(logits, axis=1)) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    )


def _packed(given: LinearMap) -> Array:
    parts = [given.scale[None] - 1, given.intercept[None]]
    return np.concatenate(parts if given.off_diagonal is None else [*parts, given.off_diagonal])


def _unpacked(changes: Array) -> LinearMap:
    return LinearMap(1 + changes[0], changes[1], changes[2:] if len(changes) > 2 else None)


@dataclass(eq=False)
class VectorScaling(VectorOptions, Recalibrator):
    """A recalibrator with two parameters per class; it does not keep the ranking.

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
