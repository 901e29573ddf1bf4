"""Calibration errors by chance alone, if every probability is exactly right.

Labels are drawn repeatedly from the predicted probabilities, and every calibration error is
computed for each draw. An error that at most 5 % of the draws reach is significant; otherwise it is
no evidence of miscalibration, and its interval begins at zero: a bootstrap interval alone does not
account for the possibility that all of the error is noise, and misses a true error of zero in half
of the cases (`reports/interval-coverage`).

Soft labels vary less than drawn ones, so that the test of their errors is conservative.

The mean ECE of the draws is the expected ECE of a perfectly calibrated model on the same number of
rows (Bröcker and Smith 2007, Weather and Forecasting 22).

At most `MOST_LABELS` labels are drawn, but at least `LEAST_DRAWS` sets, so that the cost is linear
in the rows. For many rows errors by chance are small and vary little: the mean of 99 draws has an
error of about 2 %.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import (
    BinSums,
    bin_places,
    equal_mass_edges,
    first_above,
    top_label,
)
from bayeslora.metrics.intervals import Resampling, blocks, cell_matrix, num_units
from bayeslora.metrics.rowwise import ClasswiseSums, LabelledRows, Scoring, brier_parts
from bayeslora.processes import threaded

CHANCE_KEYS = ("ece", "aece", "cwece", "mce", "brier_reliability")
"""Scores that are zero for a perfectly calibrated model and infinitely many rows, in order."""

MOST_LABELS = 20_000_000
"""Largest total number of labels drawn, unless `LEAST_DRAWS` sets need more."""

LEAST_DRAWS = 99
"""Smallest number of draws, for any number of rows."""

SIGNIFICANT = 0.05

Measure = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From labels [N, R] to scores [K, R]."""

Measured = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From random numbers between 0 and 1, [R, units], to scores [K, R]."""


def errors_by_chance(rows: LabelledRows, scoring: Scoring) -> NDArray[np.float64]:
    """Return the errors of `CHANCE_KEYS` for labels drawn from the probabilities, [K, draws].

    Args:
        rows: Labelled rows, whose labels are ignored.
        scoring: Bins, and the number of draws and the seed of the bootstrap.
    """
    return drawn_errors(rows.probs, _measure(rows, scoring), scoring.resampling, scoring.clusters)


def drawn_errors(
    probs: NDArray[np.float64],
    measure: Measure,
    resampling: Resampling,
    clusters: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return the scores of labels drawn from probabilities, [K, draws].

    Args:
        probs: [N, C] probabilities.
        measure: Function from labels [N, R] to scores [K, R].
        resampling: Maximum number of sets of labels, fewer if they exceed `MOST_LABELS` labels, and
            the seed of the generator.
        clusters: [N] cluster of each row, numbered from 0 without gaps. All labels of a cluster are
            drawn with one random number: maximal dependence, which makes errors by chance
            conservatively large.
    """
    running = np.cumsum(probs, axis=1).T
    running[-1] = np.inf  # a sum rounded below 1 would leave a draw without a class

    def measured(level: NDArray[np.float64]) -> NDArray[np.float64]:
        level = level if clusters is None else level[:, clusters]
        return measure(np.ascontiguousarray(first_above(running, level).T))

    return _over_draws(measured, resampling, len(probs), num_units(clusters, len(probs)))


def ece_by_chance(
    confidence: NDArray[np.float64], cell: NDArray[np.int64], num_bins: int, resampling: Resampling
) -> NDArray[np.float64]:
    """Return the ECE of each of G groups in each draw of correctness, [G, draws].

    Each row is independently right with the probability of its confidence (Bröcker and Smith 2007;
    as a test Vaicenavicius et al. 2019, arXiv:1902.06977). For the top label this is equivalent to
    `drawn_errors` and cheaper.

    Args:
        confidence: [N] confidence of each row.
        cell: [N] group · num_bins + bin.
        num_bins: Number of bins per group.
        resampling: Maximum number of draws, fewer if they exceed `MOST_LABELS` rows in total, and
            the seed of the generator.
    """
    n, groups = len(confidence), int(cell.max()) // num_bins + 1
    ones = np.ones(n)
    matrix = cell_matrix(cell, np.arange(n), ones, (groups * num_bins, n))
    stated, size = matrix @ confidence, (matrix @ ones).reshape(groups, -1).sum(1)

    def measured(level: NDArray[np.float64]) -> NDArray[np.float64]:
        gaps = matrix @ (level < confidence).T.astype(np.float64) - stated[:, None]
        return np.asarray(np.abs(gaps).reshape(groups, num_bins, -1).sum(1) / size[:, None])

    return _over_draws(measured, resampling, n, n)


def p_values(drawn: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (1 + draws that reach the observed value)/(1 + draws), [K].

    Args:
        drawn: [K, draws] scores of the draws.
        observed: [K] observed scores.
    """
    # scores of identical labels may differ by rounding
    reached = (drawn >= observed[:, None] - 1e-12).sum(axis=1)
    return np.asarray((1 + reached) / (1 + drawn.shape[1]))


def _over_draws(
    measured: Measured, resampling: Resampling, rows: int, units: int
) -> NDArray[np.float64]:
    """Return what is measured for random numbers of each draw, [units], along the last axis."""
    generator = np.random.default_rng([resampling.seed, 3])
    affordable = min(resampling.num_resamples, max(LEAST_DRAWS, MOST_LABELS // rows))
    levels = (generator.random((size, units)) for size in blocks(affordable, rows))
    return np.concatenate(list(threaded(measured, levels)), axis=-1)


def _measure(rows: LabelledRows, scoring: Scoring) -> Measure:
    n, bins = len(rows), scoring.num_bins
    indices, confidence = np.arange(n), rows.confidence
    predicted = rows.probs.argmax(1)
    ones = np.ones(n)
    by_bin = cell_matrix(bin_places(confidence, bins), indices, ones, (bins, n))
    sizes = (by_bin @ ones)[:, None]
    top = top_label(confidence, rows.correct)
    starts = top.starts(equal_mass_edges(top, bins))
    mass_bin = np.empty(n, dtype=np.int64)
    mass_bin[top.order] = np.repeat(np.arange(bins), np.diff(starts))
    by_mass = cell_matrix(mass_bin, indices, ones, (bins, n))
    by_class = class_measure(rows, scoring)

    def measure(labels: NDArray[np.int64]) -> NDArray[np.float64]:
        right = (labels == predicted[:, None]).astype(np.float64)
        residual = right - confidence[:, None]
        sums = BinSums(np.broadcast_to(sizes, (bins, right.shape[1])), by_bin @ residual)
        classes = by_class(labels)
        errors = {
            "ece": sums.ece,
            "aece": np.abs(by_mass @ residual).sum(axis=0) / n,
            "cwece": classes.cwece,
            "mce": sums.mce,
            "brier_reliability": brier_parts(classes, np.zeros(right.shape[1])).reliability,
        }
        return np.stack([errors[key] for key in CHANCE_KEYS])

    return measure


def class_measure(
    rows: LabelledRows, scoring: Scoring
) -> Callable[[NDArray[np.int64]], ClasswiseSums]:
    """Return the function from labels [N, R] to the sums of each class's bins."""
    n, classes = rows.probs.shape
    bins = scoring.num_bins
    index = bin_places(rows.probs, bins).astype(np.int32)
    cells = np.arange(classes, dtype=np.int32) * bins + index
    known = cells.ravel() if rows.available is None else cells[rows.available]
    sizes = np.bincount(known, minlength=classes * bins).astype(np.float64)
    having = None if rows.available is None else rows.available.sum(0).astype(np.float64)
    stated = np.bincount(cells.ravel(), rows.probs.ravel(), classes * bins)

    def sums(labels: NDArray[np.int64]) -> ClasswiseSums:
        draws = labels.shape[1]
        chosen = np.take_along_axis(cells, labels, axis=1).astype(np.int64) * draws + np.arange(
            draws
        )
        cell_counts = np.bincount(chosen.ravel(), minlength=classes * bins * draws)
        counts = cell_counts.reshape(classes, bins, draws).astype(np.float64)
        shape = (classes, bins, 1)
        gaps = counts - stated.reshape(shape)
        many = np.broadcast_to(sizes.reshape(shape), gaps.shape)
        labels_of = counts.sum(axis=1)
        present = None if having is None else np.broadcast_to(having[:, None], labels_of.shape)
        return ClasswiseSums(np.full(draws, float(n)), labels_of, gaps, many, present)

    return sums
