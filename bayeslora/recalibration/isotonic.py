"""Isotonic regression: the best non-decreasing curve for the probability of each class.

    p'_c = f_c(p_c),   f_c rising,   Σ_n (f_c(p_nc) − [y_n = c])² least

Zadrozny and Elkan 2002, KDD, one-vs-rest; f is scikit-learn's, linear between its knots and
constant outside them. It is constant on blocks of rows, often exactly 0 or 1 at its ends, where a
single miss makes the NLL infinite. Therefore each block of n rows with mean v gets the m-estimate
(n v + m π_c) / (n + m), where π_c is the class's share of all fit rows, followed by a second
isotonic fit of the blocks with weights n + m. With m = 0 f is standard isotonic regression. Rows
are renormalised: probabilities within a block become equal, and classes may change their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bayeslora.option_checks import NotNegative
from bayeslora.recalibration.recalibrator import (
    Array,
    Recalibrator,
    base_rates,
    one_hot,
    renormalised,
)

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
