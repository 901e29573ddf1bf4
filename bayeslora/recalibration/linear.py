"""Temperature, vector and matrix scaling: softmax regression on log-probabilities.

*Temperature*: one parameter that makes probabilities softer or sharper.

    p'_c ∝ p_c^{1/T},   T > 0 minimises the NLL of held-out rows

The NLL is convex in β = 1/T and is minimised by Newton's method within a bracket. Only the
probabilities are needed: their logarithms are the logits up to a constant per row. For a posterior
whose predictions average over weights it therefore scales the averaged prediction.

Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.

*Vector and matrix scaling*:

    z'_c = (1 + d_c) log p_c + b_c + Σ_{j≠c} O_cj log p_j,   p' = softmax(z')

    minimised: Σ_n −log p'_{n,y}  +  (‖d‖² + ‖b‖²) / 2τ²  +  ‖O‖² / 2τ_o²

The Gaussian prior is centred on the identity map. The objective is strictly convex, so the optimum
is unique for any fit rows: a class that is absent from them does not get probability zero, and
separable rows do not drive the weights to infinity. As N grows, the prior vanishes and the optimum
approaches maximum likelihood.

Without O this is vector scaling: a factor and an intercept for the log-probability of each class
(Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 4.2, with log-probabilities instead
of logits, which `Predictions` do not contain). With O it is matrix scaling,
p' = softmax(W log p + b): on logits that of Guo et al., on log-probabilities the linear form of
Dirichlet calibration (Kull et al. 2019, arXiv 1910.12656), whose off-diagonal and intercept
regularisation λ Σ O² / C(C−1) (ODIR) is the prior with λ = C(C−1) / 2Nτ_o². Cross-validation on the
fit rows chooses the regularisation of the off-diagonal entries: otherwise C² weights fitted to a
few hundred rows make the probabilities worse. In both, classes may change their order within a row.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from bayeslora.held_out import settled_order
from bayeslora.option_checks import Positive
from bayeslora.plain_text import counted
from bayeslora.recalibration.recalibrate import (
    EXACT,
    ROUGH,
    Array,
    Labels,
    Recalibrator,
    at_label,
    log_probs,
    minimise,
    one_hot,
)

logger = logging.getLogger(__name__)

# Bounds of β = 1/T.
SMALLEST, LARGEST = 1e-3, 1e3

_TOLERANCE = 1e-10

# Zero probabilities count as the smallest normal number.
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(eq=False)
class Temperature(Recalibrator):
    """A recalibrator with one parameter; it never changes which class is the most probable.

    Attributes:
        temperature: T, the number that logits are divided by: above 1 softens. None before `fit`.
    """

    name: ClassVar[str] = "temperature"
    summary: ClassVar[str] = "one temperature for all logits; keeps the ranking"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"

    title = "temperature scaling"
    takes_soft = True
    by_class = False
    takes_gaps = True

    temperature: Positive = field(default=1.0, init=False)

    def learn(self, probs: Array, labels: Labels) -> None:
        """Fit to [N, C] probabilities and their [N] labels, or [N, C] shares."""
        self.temperature = 1 / best_inverse(_logits(probs), labels)

    def mapped(self, probs: Array) -> Array:
        """Return the probabilities with their logarithms over T."""
        from scipy.special import softmax

        return np.asarray(softmax(_logits(probs) / self.temperature, axis=1))

    def num_parameters(self, num_classes: int) -> int:
        """Return 1."""
        return 1

    def report(self) -> dict[str, float | str]:
        """Return the temperature."""
        return {"temperature": self.temperature}


def _logits(probs: Array) -> Array:
    """Return the logarithms, minus infinity for classes that a row lacks."""
    gaps = np.isnan(probs)
    logs = log_probs(np.where(gaps, 0.0, probs), _TINY)
    return np.where(gaps, -np.inf, logs)


def best_inverse(logits: Array, labels: Labels) -> float:
    """Return the β = 1/T that minimises mean_n [lse(β z_n) − β z_{n,y}]; warn at the bounds.

    If all rows are right, no minimum exists: the larger β, the lower the loss. This is no reason
    for certainty, so β is 1, with a warning.
    """
    if (at_label(one_hot(logits.argmax(1), logits.shape[1]), labels) == 1).all():
        logger.warning(
            "no mistakes among the %s used to fit the temperature, so it stays 1; fit it to more "
            "rows, with mistakes among them",
            counted(len(labels), "row"),
        )
        return 1.0
    inverse = _newton(logits, labels)
    if inverse in {SMALLEST, LARGEST}:
        logger.warning("the best temperature, %g, is at the edge of the search", 1 / inverse)
    return inverse


def _newton(logits: Array, labels: Labels) -> float:
    """Search between the bounds by Newton's method within a bracket."""
    low, high = SMALLEST, LARGEST
    if _derivatives(logits, labels, low)[0] >= 0:
        return low
    if _derivatives(logits, labels, high)[0] <= 0:
        return high
    inverse = 1.0
    for _ in range(200):
        slope, bend = _derivatives(logits, labels, inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        newton = inverse - slope / bend if bend > 0 else low
        # The geometric mean halves the bracket on the scale of log T.
        following = newton if low < newton < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= _TOLERANCE * inverse:
            return following
        inverse = following
    return inverse


def _derivatives(logits: Array, labels: Labels, inverse: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean NLL with respect to β."""
    from scipy.special import softmax

    probs = softmax(inverse * logits, axis=1)
    logits = np.where(np.isfinite(logits), logits, 0.0)  # where the probability is 0
    average = (probs * logits).sum(1)
    variance = (probs * (logits - average[:, None]) ** 2).sum(1)
    return float((average - at_label(logits, labels)).mean()), float(variance.mean())


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map of log-probabilities.

    Attributes:
        scale: [C] factor 1 + d of the class's own log-probability.
        intercept: [C] intercept in nats.
        off_diagonal: [C, C] weights of the other classes' log-probabilities, zero on the diagonal;
            None for vector scaling.
    """

    scale: Array
    intercept: Array
    off_diagonal: Array | None = None

    def logits(self, logs: Array) -> Array:
        """Return z', [N, C], for log-probabilities, [N, C]."""
        scaled = logs * self.scale + self.intercept
        return scaled if self.off_diagonal is None else scaled + logs @ self.off_diagonal.T


def fit_linear(
    logs: Array,
    labels: Labels,
    prior_scale: float,
    off_diagonal_scale: float | None = None,
    *,
    start: LinearMap | None = None,
    tolerance: float = EXACT,
) -> LinearMap:
    """Return the map that minimises the objective of the module's docstring.

    Args:
        logs: [N, C] log-probabilities, finite.
        labels: [N] class indices, or [N, C] shares.
        prior_scale: τ, the prior standard deviation of d and of b (nats).
        off_diagonal_scale: τ_o, the prior standard deviation of each entry of O; None omits O.
        start: Starting point; the identity if None.
        tolerance: See `minimise`.
    """
    from scipy.special import softmax

    rows, num_classes = logs.shape
    targets = one_hot(labels, num_classes)
    blocks = 2 if off_diagonal_scale is None else 2 + num_classes
    # In units of their prior standard deviations all parameters have a curvature of at least 1/N.
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
    solution = minimise(objective, first.ravel(), tolerance=tolerance)
    return _unpacked(solution.reshape(scales.shape) * scales)


def mean_nll(linear_map: LinearMap, logs: Array, labels: Labels) -> float:
    """Return the mean NLL in nats."""
    return float(_nll(linear_map.logits(logs), labels).mean())


def _nll(logits: Array, labels: Labels) -> Array:
    from scipy.special import logsumexp

    return np.asarray(logsumexp(logits, axis=1)) - at_label(logits, labels)


def _packed(linear_map: LinearMap) -> Array:
    parts = [linear_map.scale[None] - 1, linear_map.intercept[None]]
    return np.concatenate(
        parts if linear_map.off_diagonal is None else [*parts, linear_map.off_diagonal]
    )


def _unpacked(changes: Array) -> LinearMap:
    return LinearMap(1 + changes[0], changes[1], changes[2:] if len(changes) > 2 else None)


@dataclass(eq=False)
class VectorScaling(Recalibrator):
    """A recalibrator with two parameters per class; it does not keep the ranking.

    Attributes:
        scale: [C] float64, the factors 1 + d; None before `fit`.
        intercept: [C] float64, nats.
    """

    prior_scale: Positive = 1.0
    """Prior standard deviation of each factor around 1 and of each intercept around 0 (nats)."""

    name: ClassVar[str] = "vector"
    summary: ClassVar[str] = "a factor and an intercept for each class"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"

    title = "vector scaling"
    takes_soft = True

    scale: Array | None = field(default=None, init=False)
    intercept: Array | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: Labels) -> None:
        """Fit to [N, C] probabilities and their [N] labels, or [N, C] shares."""
        linear_map = fit_linear(log_probs(probs), labels, self.prior_scale)
        self.scale, self.intercept = linear_map.scale, linear_map.intercept

    def mapped(self, probs: Array) -> Array:
        """Return the scaled probabilities."""
        from scipy.special import softmax

        return np.asarray(softmax(self._map().logits(log_probs(probs)), axis=1))

    def num_parameters(self, num_classes: int) -> int:
        """Return 2·C."""
        return 2 * num_classes

    def report(self) -> dict[str, float | str]:
        """Return the mean factor and the largest intercept (nats)."""
        linear_map = self._map()
        return {
            "mean_scale": float(linear_map.scale.mean()),
            "largest_intercept": float(np.abs(linear_map.intercept).max()),
        }

    def _map(self) -> LinearMap:
        return LinearMap(np.asarray(self.scale), np.asarray(self.intercept))


FOLDS = 5
MAX_ROWS = 2000
"""Number of rows beyond which cross-validation uses every second, third … row: a prior
deviation does not depend on the number of rows."""

GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Prior standard deviations of off-diagonal weights to choose from by cross-validation."""


@dataclass(eq=False)
class MatrixScaling(Recalibrator):
    """A recalibrator with C² + C parameters; it does not keep the ranking.

    Attributes:
        weights: [C, C] float64, W; None before `fit`.
        intercept: [C] float64, b, nats.
        chosen: The off-diagonal scale that was used.
    """

    off_diagonal_scale: Positive | Literal["cross-validation"] = "cross-validation"
    """Prior standard deviation of each weight of another class's log-probability;
    `cross-validation` chooses the value with the lowest NLL in cross-validation on the fit rows."""
    prior_scale: Positive = 1.0
    """Prior standard deviation of each diagonal weight around 1 and of each intercept around 0
    (nats)."""

    name: ClassVar[str] = "matrix"
    summary: ClassVar[str] = "a regularised linear map of log-probabilities (Dirichlet calibration)"
    source: ClassVar[str] = "Kull et al. 2019, arXiv 1910.12656"

    title = "matrix scaling"
    takes_soft = True

    weights: Array | None = field(default=None, init=False)
    intercept: Array | None = field(default=None, init=False)
    chosen: float | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: Labels) -> None:
        """Fit to [N, C] probabilities and their [N] labels, or [N, C] shares."""
        logs = log_probs(probs)
        scale = self.off_diagonal_scale
        if isinstance(scale, str):
            order = settled_order(probs, labels if labels.ndim == 1 else labels.argmax(1))
            scale = cross_validated(logs[order], labels[order], self.prior_scale)
        linear_map = fit_linear(logs, labels, self.prior_scale, scale)
        off_diagonal = np.zeros(()) if linear_map.off_diagonal is None else linear_map.off_diagonal
        self.weights, self.intercept = (
            np.diag(linear_map.scale) + off_diagonal,
            linear_map.intercept,
        )
        self.chosen = float(scale)

    def mapped(self, probs: Array) -> Array:
        """Return the mapped probabilities."""
        from scipy.special import softmax

        return np.asarray(
            softmax(log_probs(probs) @ np.asarray(self.weights).T + self.intercept, axis=1)
        )

    def num_parameters(self, num_classes: int) -> int:
        """Return C² + C."""
        return num_classes * (num_classes + 1)

    def report(self) -> dict[str, float | str]:
        """Return the off-diagonal scale, the mean diagonal weight and the largest other weight."""
        weights = np.asarray(self.weights)
        off_diagonal = weights - np.diag(np.diag(weights))
        return {
            "off_diagonal_scale": float(self.chosen or 0.0),
            "mean_scale": float(np.diag(weights).mean()),
            "largest_off_diagonal": float(np.abs(off_diagonal).max()),
        }


def cross_validated(logs: Array, labels: Labels, prior_scale: float) -> float:
    """Return the off-diagonal scale of `GRID` with the lowest cross-validated NLL.

    Args:
        logs: [N, C] log-probabilities in a settled order; every fifth row makes a fold.
        labels: [N] class indices, or [N, C] shares.
        prior_scale: Prior standard deviation of the diagonal weights and intercepts.
    """
    if len(labels) < 2:
        return GRID[0]
    step = -(-len(labels) // MAX_ROWS)
    logs, labels = logs[::step], labels[::step]
    folds = np.arange(len(labels)) % FOLDS
    losses = np.zeros(len(GRID))
    for fold in range(min(FOLDS, len(labels))):
        out = folds == fold
        linear_map: LinearMap | None = None
        for k, scale in enumerate(GRID):
            linear_map = fit_linear(
                logs[~out], labels[~out], prior_scale, scale, start=linear_map, tolerance=ROUGH
            )
            losses[k] += out.sum() * mean_nll(linear_map, logs[out], labels[out])
    return GRID[int(np.argmin(losses))]
