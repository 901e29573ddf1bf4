"""Calibration errors: how far the share of correct answers is from the stated confidence.

Bins are left-closed, [k/B, (k+1)/B), and the last one also holds 1, all in float64: netcal's
convention (`netcal.metrics.ECE` on confidence and correctness), to which these functions are equal
within rounding on every input that it takes. ECE and MCE as printed are netcal's (`standard.py`);
they are written out here too, because the bootstrap needs an error that takes counts, and because
netcal refuses equal-mass bins where confidences tie. Values exactly on an edge are where other
libraries differ: torchmetrics gives a confidence of 1.0 a bin of its own, scikit-learn's bins are
right-closed.

Every function takes `counts`: [N] how often each row occurs, for the bootstrap; once where None.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.intervals import wilson
from bayeslora.metrics.scores import Bin
from bayeslora.metrics.top_label import TopLabel, segment_sums

NUM_BINS = 15
"""Number of bins where none is asked for (Guo et al. 2017, arXiv:1706.04599)."""

Counts = NDArray[np.int64]


def equal_width_edges(num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """Return [num_bins + 1] edges from 0 to 1.

    Raises:
        InputError: `num_bins` is below 1.
    """
    if num_bins < 1:
        raise InputError(f"num_bins must be at least 1, got {num_bins}")
    return np.linspace(0.0, 1.0, num_bins + 1)


def equal_mass_edges(
    rows: TopLabel, num_bins: int = NUM_BINS, counts: Counts | None = None
) -> NDArray[np.float64]:
    """Return [num_bins + 1] edges at quantiles of the confidence, the outer two at 0 and 1.

    Quantiles interpolate linearly, as `numpy.quantile` does. Where confidences tie, edges coincide
    and the bins between them are empty.
    """
    quantiles = equal_width_edges(num_bins)
    upto = np.cumsum(rows.counts(counts))
    position = (upto[-1] - 1) * quantiles
    below = np.floor(position)
    left = rows.confidence[np.searchsorted(upto, below, side="right")]
    right = rows.confidence[np.searchsorted(upto, np.ceil(position), side="right")]
    share, gap = position - below, right - left
    # numpy's form, from whichever end is nearer, so that edges are equal to the last bit
    edges = np.where(share < 0.5, left + gap * share, right - gap * (1 - share))
    edges[0], edges[-1] = 0.0, 1.0
    return np.asarray(edges)


def ece(rows: TopLabel, num_bins: int = NUM_BINS, counts: Counts | None = None) -> float:
    """Return the expected calibration error, Σ_k (n_k/n)·|accuracy_k − confidence_k|.

    Over equal-width bins of the confidence; empty bins add nothing. Naeini et al. (2015), AAAI.
    """
    return _weighted_error(rows, equal_width_edges(num_bins), counts)


def aece(rows: TopLabel, num_bins: int = NUM_BINS, counts: Counts | None = None) -> float:
    """Return the same sum over equal-mass bins, whose edges follow the counts.

    Nguyen and O'Connor (2015), arXiv:1508.05154.
    """
    return _weighted_error(rows, equal_mass_edges(rows, num_bins, counts), counts)


def mce(rows: TopLabel, num_bins: int = NUM_BINS, counts: Counts | None = None) -> float:
    """Return the largest |accuracy_k − confidence_k| of any equal-width bin that holds a row."""
    starts = rows.starts(equal_width_edges(num_bins))
    weights = rows.counts(counts)
    sizes = segment_sums(weights, starts)
    gaps = segment_sums(weights * (rows.correct - rows.confidence), starts)
    return float(np.max(np.abs(gaps) / np.maximum(sizes, 1)))


def ece_if_calibrated(rows: TopLabel, num_bins: int = NUM_BINS) -> float:
    """Return what `ece` reads on average where every confidence is exactly right.

    A finite set never reads 0: an ECE near this number is no sign of miscalibration. In a bin, the
    correct answers minus the confidences then sum to a variable of mean 0 and variance
    v_k = Σ c(1 − c); as a Gaussian, its mean absolute value is √(2 v_k/π). The idea of comparing
    with the perfectly calibrated case is of Bröcker and Smith (2007), Weather and Forecasting 22.
    """
    spread = rows.confidence * (1 - rows.confidence)
    variances = segment_sums(spread, rows.starts(equal_width_edges(num_bins)))
    return float(np.sqrt(np.maximum(variances, 0) * 2 / math.pi).sum() / len(rows))


def reliability_bins(
    rows: TopLabel, num_bins: int = NUM_BINS, *, equal_mass: bool = False
) -> tuple[Bin, ...]:
    """Return the bins of a reliability diagram, each with its Wilson interval.

    Weighted by their counts, their gaps add up to `ece` (`aece` with `equal_mass`).
    """
    edges = equal_mass_edges(rows, num_bins) if equal_mass else equal_width_edges(num_bins)
    starts = rows.starts(edges)
    sizes = np.diff(starts)
    full = np.maximum(sizes, 1)
    right = segment_sums(rows.correct, starts)
    confidence = segment_sums(rows.confidence, starts) / full
    low, high = wilson(right, full)
    means = np.column_stack([confidence, right / full, low, high]).tolist()
    cells = zip(edges[:-1].tolist(), edges[1:].tolist(), sizes.tolist(), means, strict=True)
    return tuple(Bin(left, end, n, *(values if n else ())) for left, end, n, values in cells)


def _weighted_error(rows: TopLabel, edges: NDArray[np.float64], counts: Counts | None) -> float:
    weights = rows.counts(counts)
    gaps = segment_sums(weights * (rows.correct - rows.confidence), rows.starts(edges))
    return float(np.abs(gaps).sum() / weights.sum())
