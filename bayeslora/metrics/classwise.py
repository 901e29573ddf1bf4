"""Class-wise calibration error: the probability of every class, not only of the predicted one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import NUM_BINS, equal_width_edges


@dataclass(frozen=True, eq=False)
class ClasswiseBins:
    """Probabilities sorted into bins once, for many resamples; made by `classwise_bins`.

    Most probabilities of a many-class model lie in the lowest bin. Only the M others are listed;
    the lowest bin's sum is that of the whole column minus theirs.

    Attributes:
        probs: [N, C].
        labels: [N].
        num_bins: B.
        row: [M] the row of each probability outside the lowest bin.
        cell: [M] its class · B + bin.
        gap: [M] one if the class is the label, minus the probability.
    """

    probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    num_bins: int
    row: NDArray[np.int64]
    cell: NDArray[np.int64]
    gap: NDArray[np.float64]


def classwise_bins(
    probs: NDArray[np.float64], labels: NDArray[np.int64], num_bins: int = NUM_BINS
) -> ClasswiseBins:
    """Sort the probabilities of every class into equal-width, left-closed bins.

    Args:
        probs: [N, C] float64.
        labels: [N] class indices.
        num_bins: B.
    """
    edges = equal_width_edges(num_bins)
    row, column = np.nonzero(probs >= edges[1])
    values = probs[row, column]
    place = np.minimum(np.searchsorted(edges, values, side="right") - 1, num_bins - 1)
    gap = (labels[row] == column) - values
    return ClasswiseBins(probs, labels, num_bins, row, column * num_bins + place, gap)


def cwece(bins: ClasswiseBins, counts: NDArray[np.int64] | None = None) -> float:
    """Return the mean over classes of the expected calibration error of that class's probability.

    Kull et al. (2019), arXiv:1910.12656, with left-closed bins.

    Args:
        bins: From `classwise_bins`.
        counts: [N] how often each row occurs; once where None.
    """
    rows, classes = bins.probs.shape
    weights = np.ones(rows) if counts is None else counts.astype(np.float64)
    listed = np.bincount(bins.cell, weights[bins.row] * bins.gap, classes * bins.num_bins)
    sums = listed.reshape(classes, bins.num_bins).astype(np.float64)  # integers where M is 0
    column = np.bincount(bins.labels, weights, classes) - weights @ bins.probs
    sums[:, 0] += column - sums.sum(1)
    return float(np.abs(sums).sum() / (classes * weights.sum()))
