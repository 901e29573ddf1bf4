"""Calibration errors: how far accuracy is from the stated confidence.

Bins are left-closed, [k/B, (k+1)/B), and the last one also holds 1, all in float64: netcal's
convention (`netcal.metrics.ECE` on confidence and correctness), which these functions match within
rounding on every input it accepts. They are implemented here because the bootstrap needs an error
as a function of counts, because netcal rejects equal-mass bins with tied confidences, and because
it takes longer to import than to compute all scores of a thousand rows. Optionally, bins are
right-closed, (k/B, (k+1)/B], and the first one also holds 0: scikit-learn's convention. The two
differ only for values exactly on an edge; torchmetrics gives a confidence of 1.0 its own bin.

Every function takes `counts`, [N], how often each row occurs in a resample; None counts each row
once. `bin_sums` computes the errors of R resamples at a time.

The debiased ECE follows Kumar, Liang and Ma (2019), arXiv:1909.10155. A bin's gap g is measured
with noise of variance s² = a(1 − a)/n_b, where a is its accuracy, so |g| is biased upwards. The
bias is estimated as E|g + s ε| − |g| for a standard normal ε and subtracted: 2 |g| − E|g + s ε|,
weighted and summed as in ECE. The authors sample ε; here the mean of a folded normal variable is
computed in closed form (Leone, Nelson and Nottingham 1961, Technometrics 3). The estimate may be
slightly negative for well-calibrated predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.bootstrap import cell_matrix
from bayeslora.metrics.clusters import clusters_in
from bayeslora.metrics.intervals import wilson
from bayeslora.metrics.scores import Bin
from bayeslora.metrics.top_label import Closed, TopLabel, Weighed, first_above, segment_sums
from bayeslora.option_checks import as_whole

NUM_BINS = 15
"""Default number of bins (Guo et al. 2017, arXiv:1706.04599)."""

Counts = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BinSums:
    """Sums over the rows of each bin; [B], or [B, R] for R resamples.

    Attributes:
        size: Number of rows.
        right: Number of correct rows.
        gap: Number of correct rows minus the sum of the confidences.
    """

    size: NDArray[np.float64]
    right: NDArray[np.float64]
    gap: NDArray[np.float64]

    @property
    def rows(self) -> NDArray[np.float64]:
        """Total number of rows, or [R]."""
        return np.asarray(self.size.sum(axis=0))

    @property
    def ece(self) -> NDArray[np.float64]:
        """The expected calibration error, Σ_k (n_k/n)·|accuracy_k − confidence_k|, or [R]."""
        return np.asarray(np.abs(self.gap).sum(axis=0) / self.rows)

    @property
    def over(self) -> NDArray[np.float64]:
        """The part of `ece` in bins that are more confident than right, or [R]."""
        return np.asarray(np.maximum(-self.gap, 0).sum(axis=0) / self.rows)

    @property
    def under(self) -> NDArray[np.float64]:
        """The part of `ece` in bins that are less confident than right, or [R]."""
        return np.asarray(np.maximum(self.gap, 0).sum(axis=0) / self.rows)

    @property
    def mce(self) -> NDArray[np.float64]:
        """The largest |accuracy_k − confidence_k| of a bin that holds a row, or [R]."""
        return np.asarray(np.max(np.abs(self.gap) / np.maximum(self.size, 1), axis=0))


MOST_BINS = 10_000
"""With more bins, most hold less than a row; resamples store a number for each."""


def as_num_bins(value: object) -> int:
    """Return a number of bins as a Python int.

    Raises:
        InputError: The value is not a whole number from 1 to `MOST_BINS`.
    """
    bins = as_whole(value)
    if bins is None or not 1 <= bins <= MOST_BINS:
        raise InputError(f"num_bins must be a whole number from 1 to {MOST_BINS}, got {value!r}")
    return bins


_FEW_BINS = 32


def equal_width_edges(num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """Return [num_bins + 1] edges from 0 to 1.

    Raises:
        InputError: As for `as_num_bins`.
    """
    return np.linspace(0.0, 1.0, as_num_bins(num_bins) + 1)


def check_closed(closed: str) -> None:
    """Raise InputError if `closed` is neither `left` nor `right`.

    Raises:
        InputError: `closed` is another value.
    """
    if closed not in {"left", "right"}:
        raise unknown_choice("closed edge", closed, ("left", "right"))


def bin_places(
    values: NDArray[np.float64], num_bins: int, closed: Closed = "left"
) -> NDArray[np.int64]:
    """Return the equal-width bin, from 0, of each value between 0 and 1."""
    inner = equal_width_edges(num_bins)[1:-1]
    if num_bins > _FEW_BINS:
        return np.searchsorted(inner, values, side="right" if closed == "left" else "left")
    # For unsorted values, comparing all of them with each edge is twice as fast as binary search.
    index = np.zeros(values.shape, dtype=np.int8)
    for edge in inner:
        index += values >= edge if closed == "left" else values > edge
    return index.astype(np.int64)


def bin_sums(
    rows: TopLabel, num_bins: int = NUM_BINS, closed: Closed = "left"
) -> Callable[[Counts | None], BinSums]:
    """Return the function from row counts, [N] or [N, R], to the sums of equal-width bins."""
    starts = rows.starts(equal_width_edges(num_bins), closed)
    index = np.repeat(np.arange(num_bins, dtype=np.int32), np.diff(starts))
    values = (np.ones(len(rows)), rows.correct, rows.correct - rows.confidence)
    cells = np.concatenate([index + part * num_bins for part in range(len(values))])
    numbers = np.tile(np.arange(len(rows), dtype=np.int32), len(values))
    matrix = cell_matrix(
        cells, numbers, np.concatenate(values), (len(values) * num_bins, len(rows))
    )

    def sums(counts: Counts | None) -> BinSums:
        totals = matrix @ rows.counts(counts)
        return BinSums(*totals.reshape(len(values), num_bins, *totals.shape[1:]))

    return sums


def equal_mass_edges(rows: TopLabel, num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """Return [num_bins + 1] edges at quantiles of the confidence, the outer two at 0 and 1.

    Quantiles are interpolated linearly, as in `numpy.quantile`. Tied confidences make edges
    coincide and leave empty bins between them.
    """
    return quantile_edges(rows, np.arange(1.0, len(rows) + 1), num_bins)


def quantile_edges(rows: TopLabel, upto: NDArray[np.float64], num_bins: int) -> NDArray[np.float64]:
    """Return `equal_mass_edges` for cumulative row counts, [N]; [num_bins + 1, R] for [N, R]."""
    quantiles = equal_width_edges(num_bins).reshape(-1, *[1] * (upto.ndim - 1))
    position = (upto[-1] - 1) * quantiles
    below = np.floor(position)
    left = rows.confidence[first_above(upto, below)]
    right = rows.confidence[first_above(upto, np.ceil(position))]
    share, gap = position - below, right - left
    # numpy's formula, from the nearer end, so that edges agree with it to the last bit
    edges = np.where(share < 0.5, left + gap * share, right - gap * (1 - share))
    edges[0], edges[-1] = 0.0, 1.0
    return np.asarray(edges)


def ece(
    rows: TopLabel,
    num_bins: int = NUM_BINS,
    counts: Counts | None = None,
    closed: Closed = "left",
) -> float:
    """Return the expected calibration error, Σ_k (n_k/n)·|accuracy_k − confidence_k|.

    Over equal-width bins of the confidence; empty bins add nothing. Naeini et al. (2015), AAAI.

    Example:
        >>> rows = TopLabel(np.array([0.9, 0.9, 0.3]), np.array([1.0, 0.0, 0.0]))
        >>> round(ece(rows, num_bins=10), 3)  # 2/3 * (0.9 - 1/2) + 1/3 * 0.3
        0.367
    """
    gaps = rows.right - rows.stated
    total = len(rows) if counts is None else counts.sum()
    index = bin_places(rows.stated, num_bins, closed)
    sums = np.bincount(index, gaps if counts is None else gaps * counts)
    return float(np.abs(sums).sum() / total)


def mce(
    rows: TopLabel,
    num_bins: int = NUM_BINS,
    counts: Counts | None = None,
    closed: Closed = "left",
) -> float:
    """Return the largest |accuracy_k − confidence_k| of any equal-width bin that holds a row."""
    return float(bin_sums(rows, num_bins, closed)(counts).mce)


def aece(rows: TopLabel, num_bins: int = NUM_BINS, counts: Counts | None = None) -> float:
    """Return the expected calibration error over equal-mass bins, whose edges follow the counts.

    Nguyen and O'Connor (2015), arXiv:1508.05154.
    """
    return float(adaptive_errors(rows, rows.weighed(counts), num_bins))


def adaptive_errors(
    rows: TopLabel, weighed: Weighed, num_bins: int = NUM_BINS
) -> NDArray[np.float64]:
    """Return `aece`, [], or [R] for R resamples."""
    starts = rows.starts(quantile_edges(rows, weighed.upto, num_bins))
    gap = rows.correct - rows.confidence
    gaps = segment_sums((weighed.counts.T * gap).T, starts)
    return np.asarray(np.abs(gaps).sum(axis=0) / weighed.upto[-1])


def reliability_bins(
    rows: TopLabel,
    num_bins: int = NUM_BINS,
    *,
    equal_mass: bool = False,
    closed: Closed = "left",
    clusters: NDArray[np.int64] | None = None,
) -> tuple[Bin, ...]:
    """Return the bins of a reliability diagram, each with its Wilson interval.

    Weighted by their counts, their gaps add up to `ece` (`aece` with `equal_mass`).

    Args:
        rows: Confidence and correctness.
        num_bins: Number of bins.
        equal_mass: Whether bins hold equally many rows instead of having equal widths.
        closed: Which edge equal-width bins include.
        clusters: [N] cluster of each row, in the original order of the rows. Intervals then use the
            number of clusters in a bin as its number of trials: rows of a cluster are assumed to be
            all right or all wrong.
    """
    edges = equal_mass_edges(rows, num_bins) if equal_mass else equal_width_edges(num_bins)
    starts = rows.starts(edges, "left" if equal_mass else closed)
    sizes = np.diff(starts)
    full = np.maximum(sizes, 1)
    right = segment_sums(rows.correct, starts)
    confidence = segment_sums(rows.confidence, starts) / full
    index = np.repeat(np.arange(num_bins), sizes)
    ordered_clusters = None if clusters is None else clusters[rows.order]
    units = np.maximum(clusters_in(index, ordered_clusters, num_bins), 1)
    low, high = wilson(right / full * units, units)
    means = np.column_stack([confidence, right / full, low, high]).tolist()
    cells = zip(edges[:-1].tolist(), edges[1:].tolist(), sizes.tolist(), means, strict=True)
    return tuple(Bin(left, end, n, *(values if n else ())) for left, end, n, values in cells)


def calibration_errors(rows: TopLabel, num_bins: int) -> tuple[float, float]:
    """Return (ECE, MCE) over equal-width, left-closed bins, computed by netcal.

    netcal gets confidence and correctness in float64, not labels and a probability matrix, whose
    meaning it would guess. Tests check that the package's own sums, which the bootstrap needs as
    functions of row counts, equal these within rounding; reports use the own sums, since netcal is
    slow to import.

    Args:
        rows: Confidence and correctness of N rows.
        num_bins: Number of bins.
    """
    from netcal.metrics import ECE, MCE

    pair = (rows.confidence.astype(np.float64), rows.correct.astype(np.int64))
    return float(ECE(bins=num_bins).measure(*pair)), float(MCE(bins=num_bins).measure(*pair))


def ece_debiased(sums: BinSums) -> NDArray[np.float64]:
    """Return the debiased ECE, [] or [R].

    Args:
        sums: From `bin_sums`.
    """
    size = np.maximum(sums.size, 1)
    gap, accuracy = np.abs(sums.gap) / size, sums.right / size
    noise = np.sqrt(np.maximum(accuracy * (1 - accuracy), 0) / size)
    folded = folded_mean(gap, noise)
    return np.asarray((sums.size * (2 * gap - folded)).sum(axis=0) / sums.rows)


def folded_mean(mean: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E|mean + noise·ε| for a standard normal ε, element by element.

    Args:
        mean: Non-negative means, of any shape.
        noise: Non-negative standard deviations, of the same shape.
    """
    safe = np.where(noise > 0, noise, 1.0)
    ratio = mean / safe
    tail = noise * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2)
    return np.asarray(np.where(noise > 0, tail + mean * erf(ratio / math.sqrt(2)), mean))
