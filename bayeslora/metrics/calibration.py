"""Calibration errors: how far accuracy is from the stated confidence.

Bins are left-closed, [k/B, (k+1)/B), and the last one also holds 1, all in float64: netcal's
convention (`netcal.metrics.ECE` on confidence and correctness), which these functions match within
rounding on every input it accepts. They are implemented here because the bootstrap needs an error
as a function of counts, because netcal rejects equal-mass bins with tied confidences, and because
it takes longer to import than to compute all scores of a thousand rows. scikit-learn's bins are
right-closed, and torchmetrics gives a confidence of 1.0 its own bin.

Every function takes `counts`, [N], how often each row occurs in a resample; None counts each row
once. `bin_sums` computes the errors of R resamples at a time.

Scores take confidence and correctness (`TopLabel`) and no other form: class labels with a vector of
confidences, which some libraries accept, give a meaningless number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.metrics.intervals import cell_matrix, clusters_in, wilson
from bayeslora.metrics.scores import Bin, CoveragePoint
from bayeslora.option_checks import as_integer

NUM_BINS = 15
"""Default number of bins (Guo et al. 2017, arXiv:1706.04599)."""

Counts = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BinSums:
    """Sums over the rows of each bin; [B], or [B, R] for R resamples.

    Attributes:
        size: Number of rows.
        gap: Number of correct rows minus the sum of the confidences.
    """

    size: NDArray[np.float64]
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
    return as_integer("num_bins", value, 1, MOST_BINS)


_FEW_BINS = 32


def equal_width_edges(num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """Return [num_bins + 1] edges from 0 to 1.

    Raises:
        InputError: As for `as_num_bins`.
    """
    return np.linspace(0.0, 1.0, as_num_bins(num_bins) + 1)


def bin_places(values: NDArray[np.float64], num_bins: int) -> NDArray[np.int64]:
    """Return the equal-width bin, from 0, of each value between 0 and 1."""
    inner = equal_width_edges(num_bins)[1:-1]
    if num_bins > _FEW_BINS:
        return np.searchsorted(inner, values, side="right")
    # For unsorted values, comparing all of them with each edge is twice as fast as binary search.
    index = np.zeros(values.shape, dtype=np.int8)
    for edge in inner:
        index += values >= edge
    return index.astype(np.int64)


def bin_sums(rows: TopLabel, num_bins: int = NUM_BINS) -> Callable[[Counts | None], BinSums]:
    """Return the function from row counts, [N] or [N, R], to the sums of equal-width bins."""
    starts = rows.starts(equal_width_edges(num_bins))
    index = np.repeat(np.arange(num_bins, dtype=np.int32), np.diff(starts))
    values = (np.ones(len(rows)), rows.correct - rows.confidence)
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


def ece(rows: TopLabel, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error, Σ_k (n_k/n)·|accuracy_k − confidence_k|.

    Over equal-width bins of the confidence; empty bins add nothing. Naeini et al. (2015), AAAI.

    Example:
        >>> rows = TopLabel(np.array([0.9, 0.9, 0.3]), np.array([1.0, 0.0, 0.0]))
        >>> round(ece(rows, num_bins=10), 3)  # 2/3 * (0.9 - 1/2) + 1/3 * 0.3
        0.367
    """
    gaps = np.bincount(bin_places(rows.stated, num_bins), rows.right - rows.stated)
    return float(np.abs(gaps).sum() / len(rows))


def mce(rows: TopLabel, num_bins: int = NUM_BINS) -> float:
    """Return the largest |accuracy_k − confidence_k| of any equal-width bin that holds a row."""
    return float(bin_sums(rows, num_bins)(None).mce)


def aece(rows: TopLabel, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error over equal-mass bins, whose edges follow the counts.

    Nguyen and O'Connor (2015), arXiv:1508.05154.
    """
    return float(adaptive_errors(rows, rows.weighed(None), num_bins))


def adaptive_errors(
    rows: TopLabel, weighed: Weighed, num_bins: int = NUM_BINS
) -> NDArray[np.float64]:
    """Return `aece`, [], or [R] for R resamples."""
    starts = rows.starts(quantile_edges(rows, weighed.upto, num_bins))
    gap = rows.correct - rows.confidence
    gaps = segment_sums((weighed.counts.T * gap).T, starts)
    return np.asarray(np.abs(gaps).sum(axis=0) / weighed.upto[-1])


def reliability_bins(
    rows: TopLabel, num_bins: int = NUM_BINS, clusters: NDArray[np.int64] | None = None
) -> tuple[Bin, ...]:
    """Return the bins of a reliability diagram, each with its Wilson interval.

    Weighted by their counts, their gaps add up to `ece`.

    Args:
        rows: Confidence and correctness.
        num_bins: Number of bins.
        clusters: [N] cluster of each row, in the original order of the rows. Intervals then use the
            number of clusters in a bin as its number of trials: rows of a cluster are assumed to be
            all right or all wrong.
    """
    edges = equal_width_edges(num_bins)
    starts = rows.starts(edges)
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


FEW = 8
"""Number of sums up to which counting those below a level is faster than a binary search."""


@dataclass(frozen=True, eq=False)
class TopLabel:
    """Confidence and correctness of N rows, in original order and sorted; see `top_label`.

    Attributes:
        stated: [N] float64 confidence from 0 to 1, in the original order.
        right: [N] float64 correctness, 0 or 1, or a share, in the original order.
    """

    stated: NDArray[np.float64]
    right: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.stated)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """[N] indices that sort the rows by increasing confidence."""
        # A stable sort takes six times as long; sorted rows are kept as is, to resample faster.
        return np.arange(len(self)) if self._in_order else np.argsort(self.stated)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """[N] in increasing order."""
        return self.stated if self._in_order else self.stated[self.order]

    @cached_property
    def correct(self) -> NDArray[np.float64]:
        """[N] in the order of increasing confidence."""
        return self.right if self._in_order else self.right[self.order]

    def counts(self, weights: NDArray[Any] | None) -> NDArray[np.float64]:
        """Return counts in the order of increasing confidence; None counts each row once.

        Args:
            weights: [N] how often each row occurs in a resample, in the original order, or [N, R]
                for R resamples.
        """
        if weights is None:
            return np.ones(len(self))
        ordered = weights if self._in_order else weights.take(self.order, axis=0)
        return np.asarray(ordered, dtype=np.float64)

    def starts(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the first row of each bin, [B+1]; bin k holds rows `starts[k]:starts[k + 1]`.

        Args:
            edges: [B+1] increasing, from 0 to 1, or [B+1, R] for R resamples. Bins include their
                left edge, and the last both.
        """
        starts = np.searchsorted(self.confidence, edges)
        starts[0], starts[-1] = 0, len(self)
        return starts

    @cached_property
    def _in_order(self) -> bool:
        return bool((self.stated[1:] >= self.stated[:-1]).all())

    def weighed(self, weights: NDArray[Any] | None) -> Weighed:
        """Return `counts` with their cumulative sums."""
        counts = self.counts(weights)
        return Weighed(counts, np.cumsum(counts, axis=0))

    @cached_property
    def runs(self) -> NDArray[np.int64]:
        """[G+1] start of each run of equal confidences, and N."""
        rises = self.confidence[1:] != self.confidence[:-1]
        return np.concatenate([[0], np.flatnonzero(rises) + 1, [len(self)]])


@dataclass(frozen=True, eq=False)
class Weighed:
    """Row counts in the order of increasing confidence; built by `TopLabel.weighed`.

    Attributes:
        counts: [N] how often each row occurs, or [N, R] for R resamples.
        upto: Cumulative counts up to and including each row, of the same shape.
    """

    counts: NDArray[np.float64]
    upto: NDArray[np.float64]


def top_label(confidence: ArrayLike, correct: ArrayLike) -> TopLabel:
    """Return rows for the scores of this package.

    Args:
        confidence: [N] probability of the predicted class, float64.
        correct: [N] whether that class is the label: booleans, or 0 and 1; or shares.
    """
    return TopLabel(np.asarray(confidence, np.float64), np.asarray(correct, np.float64))


def segment_sums(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """Return the sum of each segment `values[starts[k]:starts[k + 1]]`, [B] or [B, R].

    Args:
        values: [N], or [N, R] for R resamples.
        starts: [B+1], or [B+1, R] where the segments differ between resamples.
    """
    running = np.zeros((len(values) + 1, *values.shape[1:]), dtype=values.dtype)
    np.cumsum(values, axis=0, out=running[1:])
    if starts.ndim > 1:
        return np.asarray(np.diff(np.take_along_axis(running, starts, axis=0), axis=0))
    return np.asarray(np.diff(running[starts], axis=0))


def first_above(running: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the first index at which cumulative sums exceed each level, or the last index.

    Searches all resamples at once; few sums are counted instead, without gathering.

    Args:
        running: [N] or [N, R] increasing sums.
        level: [B] or [B, R] levels.
    """
    if running.ndim == 1:
        indices = np.searchsorted(running, level, side="right")
        return np.minimum(indices, len(running) - 1)
    if len(running) <= FEW:
        # Summing bytes is many times faster than summing booleans.
        below = np.zeros(level.shape, dtype=np.int8)
        for sums in running[:-1]:
            below += sums <= level
        return below.astype(np.int64)
    low = np.zeros(level.shape, dtype=np.int64)
    high = np.full(level.shape, len(running) - 1)
    for _ in range(len(running).bit_length()):
        middle = (low + high) // 2
        above = np.take_along_axis(running, middle, axis=0) > level
        low, high = (
            np.where(above, low, np.minimum(middle + 1, high)),
            np.where(above, middle, high),
        )
    return low


COVERAGES = (50, 80, 90, 95)
"""Percentages of the rows at which accuracy is reported."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Errors by decreasing confidence; built by `Selection`.

    Contains the W runs of equal confidences with at least one wrong row, most confident first.
    Arrays have a trailing axis [R] for R resamples.

    Attributes:
        total: [] number of rows.
        before: [W] number of rows more confident than the run.
        upto: [W] number of rows up to and including the run.
        errors: [W] number of errors in the run.
    """

    total: NDArray[np.float64]
    before: NDArray[np.float64]
    upto: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def aurc(self) -> NDArray[np.float64]:
        """The area under the risk-coverage curve, (1/n) Σ_k (errors in the k surest)/k.

        An error in the k-th row contributes the sum of 1/j over j = k … n. A run of t rows with e
        errors after k rows thus contributes e·(1 + H(n) − H(k + t)) − (e/t)·k·(H(k + t) − H(k)).
        """
        sums = harmonic_numbers(int(self.total.max()))
        before, upto = (sums.take(part.astype(np.int64)) for part in (self.before, self.upto))
        later = 1 + sums.take(self.total.astype(np.int64)) - upto
        share = self.errors / np.maximum(self.upto - self.before, 1)
        areas = self.errors * later - share * self.before * (upto - before)
        return np.asarray(areas.sum(axis=0) / self.total)

    @cached_property
    def _errors_before(self) -> NDArray[np.float64]:
        return np.asarray(np.cumsum(self.errors, axis=0) - self.errors)

    def accuracy_at(self, percent: int) -> NDArray[np.float64]:
        """Return the accuracy of the ⌈n · percent/100⌉ most confident rows."""
        count = np.ceil(self.total * percent / 100 - 1e-9)  # an integer up to rounding
        return np.asarray(1 - self.errors_in(count[None])[0] / count)

    def errors_in(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number of errors among the most confident rows, ties in proportion.

        Args:
            counts: [K] or [K, R] numbers of rows, integers from 1 to n.
        """
        run = first_above(self.upto, counts - 0.5)
        before, upto, errors, earlier = (
            np.take_along_axis(part, run, axis=0)
            for part in (self.before, self.upto, self.errors, self._errors_before)
        )
        size = upto - before
        return np.asarray(
            earlier + np.clip(counts - before, 0, size) * errors / np.maximum(size, 1)
        )


class Selection:
    """The wrong rows of a set, for any row counts: AURC and the risk at a coverage.

    AURC is the mean of the n risks, (1/n) Σ_k r_k (Geifman, Uziel and El-Yaniv 2019,
    arXiv:1805.08206); torch-uncertainty's trapezoid rule gives (n·AURC − (r_1 + r_n)/2)/(n − 1).
    Rows of equal confidence enter together, which gives the mean over all their orders.
    """

    def __init__(self, rows: TopLabel) -> None:
        """Find the runs of equal confidences that contain wrong rows."""
        wrong = np.flatnonzero(rows.correct < 1)[::-1]
        # Without wrong rows, a right row with zero errors stands in.
        self._rows = wrong if wrong.size else np.zeros(1, dtype=np.int64)
        self._errors = 1 - rows.correct[self._rows]
        run = np.searchsorted(rows.runs, self._rows, side="right") - 1
        self._firsts = np.flatnonzero(np.append(True, run[1:] != run[:-1]))
        run = run[self._firsts]
        self._start, self._last = rows.runs[run], rows.runs[run + 1] - 1

    def __call__(self, weighed: Weighed) -> Answered:
        """Return the errors by decreasing confidence for row counts."""
        counts, upto = weighed.counts, weighed.upto
        errors = (counts.take(self._rows, axis=0).T * self._errors).T
        if len(self._firsts) < len(self._rows):
            errors = np.add.reduceat(errors, self._firsts, axis=0)
        total = upto[-1]
        after = upto.take(self._start, axis=0) - counts.take(self._start, axis=0)
        return Answered(total, total - upto.take(self._last, axis=0), total - after, errors)


def answered(rows: TopLabel) -> Answered:
    """Return the errors by decreasing confidence.

    Args:
        rows: Confidence and correctness.
    """
    return Selection(rows)(rows.weighed(None))


def risk_curve(rows: TopLabel) -> tuple[CoveragePoint, ...]:
    """Return the risk-coverage curve at the distinct row counts of 1 %, 2 %, … 100 % coverage."""
    curve = answered(rows)
    upto = np.unique(-(-np.arange(1, 101) * len(rows) // 100))
    risk = curve.errors_in(upto.astype(np.float64)) / upto
    points = np.column_stack([upto / len(rows), risk]).tolist()
    return tuple(CoveragePoint(coverage, risk) for coverage, risk in points)


@lru_cache(maxsize=1)  # shared by all blocks of resamples
def harmonic_numbers(count: int) -> NDArray[np.float64]:
    """Return the sums 1 + 1/2 + … + 1/k for k from 0, [count + 1]."""
    sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, count + 1))])
    sums.setflags(write=False)
    return sums


def aurc(rows: TopLabel) -> float:
    """Return the area under the risk-coverage curve; see `Answered.aurc`.

    Args:
        rows: Confidence and correctness.
    """
    return float(answered(rows).aurc)
