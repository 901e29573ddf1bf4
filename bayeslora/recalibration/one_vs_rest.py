"""Recalibrators that map each class against the rest; rows are renormalised.

Classes may change their order within a row.

*Beta calibration*, the map between two beta distributions:

    logit p'_c = a_c log p_c − b_c log(1 − p_c) + c_c,   a_c, b_c ≥ 0

    minimised for each class: Σ_n NLL of (y_n = c)  +  ((a − 1)² + (b − 1)² + c²) / 2τ²

Kull, Silva Filho and Flach 2017, AISTATS (PMLR 54). The bounds keep each class's map
non-decreasing; the prior, centred on the identity map, keeps the optimum finite if a class is
absent or its rows are separable, and vanishes as N grows.

*Histogram binning*, the share of a class among the fit rows in the same bin:

    p'_c = (k_b + m π_c) / (n_b + m),   n_b fit rows in the bin of p_c, k_b of them of class c

Zadrozny and Elkan 2001, ICML, with their m-estimate: the class's share π_c of all fit rows counts
as m additional rows in every bin. With m = 0 a bin without rows of the class gives a probability of
0, and a single miss an infinite NLL. Probabilities in a bin become equal.

*Isotonic regression*, the best non-decreasing curve:

    p'_c = f_c(p_c),   f_c rising,   Σ_n (f_c(p_nc) − [y_n = c])² least

Zadrozny and Elkan 2002, KDD; f is scikit-learn's, linear between its knots and constant outside
them. It is constant on blocks of rows, often exactly 0 or 1 at its ends, where a single miss makes
the NLL infinite. Therefore each block of n rows with mean v gets the m-estimate
(n v + m π_c) / (n + m), followed by a second isotonic fit of the blocks with weights n + m. With
m = 0 f is standard isotonic regression.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslora.option_checks import Count, NotNegative, Positive
from bayeslora.recalibration.recalibrate import (
    FLOOR,
    Array,
    Recalibrator,
    base_rates,
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


@dataclass(eq=False)
class HistogramBinning(Recalibrator):
    """A recalibrator with a value per bin and class; it does not keep the ranking.

    Attributes:
        edges: [B + 1, C] float64, from 0 to 1; None before `fit`.
        values: [B, C] float64, p' before rows are renormalised; NaN in a bin that holds no row,
            where `smoothing` is 0.
    """

    num_bins: Count = 15
    """Number B of left-closed bins of each class's probability."""
    bins: Literal["equal-mass", "equal-width"] = "equal-mass"
    """`equal-mass` (edges at quantiles of the class's probability) or `equal-width`."""
    smoothing: NotNegative = 1.0
    """Weight m, in rows, of the class's overall share in each bin."""

    name: ClassVar[str] = "histogram"
    summary: ClassVar[str] = "the share of each class in bins of its probability"
    source: ClassVar[str] = "Zadrozny and Elkan 2001, ICML"

    title = "histogram binning"

    edges: Array | None = field(default=None, init=False)
    values: Array | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        num_classes = probs.shape[1]
        even = np.linspace(0.0, 1.0, self.num_bins + 1)
        edges = np.repeat(even[:, None], num_classes, axis=1)
        if self.bins == "equal-mass":
            edges[1:-1] = np.quantile(probs, even[1:-1], axis=0)
        cells = (_bin_indices(edges, probs) * num_classes + np.arange(num_classes)).ravel()
        hits = one_hot(labels, num_classes).ravel()

        def summed(weights: Array) -> Array:
            flat = np.bincount(cells, weights, self.num_bins * num_classes)
            return np.asarray(flat, dtype=np.float64).reshape(self.num_bins, num_classes)

        rows = summed(np.ones_like(hits)) + self.smoothing
        class_counts = summed(hits) + self.smoothing * base_rates(labels, num_classes)
        self.edges = edges
        self.values = np.divide(class_counts, rows, out=np.full_like(rows, np.nan), where=rows > 0)

    def mapped(self, probs: Array) -> Array:
        """Return the probabilities of the bins.

        Probabilities in bins without fit rows are unchanged, as are rows whose values are all zero;
        both occur only with `smoothing` 0.
        """
        indices = _bin_indices(np.asarray(self.edges), probs)
        values = np.take_along_axis(np.asarray(self.values), indices, 0)
        return renormalised(np.where(np.isnan(values), probs, values), probs)

    def num_parameters(self, num_classes: int) -> int:
        """Return B·C."""
        return self.num_bins * num_classes

    def report(self) -> dict[str, float | str]:
        """Return the number of bins per class, and the lowest and the highest value."""
        values = np.asarray(self.values)
        return {
            "num_bins": self.num_bins,
            "lowest_value": float(np.nanmin(values)),
            "highest_value": float(np.nanmax(values)),
        }


def _bin_indices(edges: Array, probs: Array) -> NDArray[np.int64]:
    """Return the bin of each probability, [N, C], from 0; the last bin includes 1."""
    indices = np.zeros(probs.shape, dtype=np.int64)
    for edge in edges[1:-1]:
        indices += probs >= edge
    return indices


Knots = tuple[Array, Array]

_STEPS = 10
"""Typical number of steps of a fitted curve, each a fitted parameter."""


@dataclass(eq=False)
class IsotonicRegression(Recalibrator):
    """A recalibrator with a rising curve for each class; it does not keep the ranking.

    Attributes:
        knots: C pairs ([K] stated probabilities, [K] fitted values), float64, both rising; the
            number of knots differs from class to class. Empty before `fit`.
    """

    smoothing: NotNegative = 1.0
    """Weight m, in rows, of the class's overall share in each block."""

    name: ClassVar[str] = "isotonic"
    summary: ClassVar[str] = "a rising curve for each class against the rest"
    source: ClassVar[str] = "Zadrozny and Elkan 2002, KDD"

    title = "isotonic regression"

    knots: tuple[Knots, ...] = field(default=(), init=False)

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        num_classes = probs.shape[1]
        shares = base_rates(labels, num_classes)
        columns = zip(probs.T, one_hot(labels, num_classes).T, shares, strict=True)
        # scikit-learn fits one curve at a time, and each curve has its own knots.
        self.knots = tuple(_curve(*column, self.smoothing) for column in columns)

    def mapped(self, probs: Array) -> Array:
        """Return the values of the curves.

        Rows whose values are all zero, possible only with `smoothing` 0, keep their probabilities.
        """
        pairs = zip(probs.T, self.knots, strict=True)
        values = np.column_stack([np.interp(column, *knots) for column, knots in pairs])
        return renormalised(values, probs)

    def num_parameters(self, num_classes: int) -> int:
        """Return the number of steps of typical curves."""
        return _STEPS * num_classes

    def report(self) -> dict[str, float | str]:
        """Return the total number of knots."""
        return {"num_knots": sum(len(thresholds) for thresholds, _ in self.knots)}


def _curve(probs: Array, hits: Array, share: float, smoothing: float) -> Knots:
    """Return the knots for one class: [K] stated probabilities and [K] values."""
    from sklearn.isotonic import IsotonicRegression as Curve

    curve = Curve(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    fitted = curve.fit(probs, hits).predict(probs)
    means, block, sizes = np.unique(fitted, return_inverse=True, return_counts=True)
    smoothed = (sizes * means + smoothing * share) / (sizes + smoothing)
    regression = curve.fit(probs, smoothed[block], (1 + smoothing / sizes)[block])
    return np.asarray(regression.X_thresholds_), np.asarray(regression.y_thresholds_)
