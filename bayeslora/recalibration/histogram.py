"""Histogram binning: the share of a class among the fit rows in the same bin.

    p'_c = (k_b + m π_c) / (n_b + m),   n_b fit rows in the bin of p_c, k_b of them of class c

Zadrozny and Elkan 2001, ICML, with their m-estimate: the class's share π_c of all fit rows counts
as m additional rows in every bin. With m = 0 a bin without rows of the class gives a probability of
0, and a single miss an infinite NLL. Classes are fitted one-vs-rest, as in Zadrozny and Elkan 2002,
KDD, and rows are renormalised. Probabilities in a bin become equal, and classes may change their
order.

netcal's class of the same name is not used: its bins are left-closed in the fit but right-closed in
the transform, its equal-mass bins cannot be applied, and rows of zeros become NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslora.option_checks import Count, NotNegative
from bayeslora.recalibration.recalibrator import (
    Array,
    Recalibrator,
    base_rates,
    one_hot,
    renormalised,
)


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
