"""Smooth calibration error: a kernel in place of bins.

Błasiok and Nakkiran (2023), arXiv:2309.12236. With residuals r_i = correct_i − confidence_i,

    smECE_σ = ∫ |(1/n) Σ_i r_i K_σ(t, confidence_i)| dt,

where K_σ is the Gaussian kernel reflected at 0 and 1. It falls as σ grows, and the reported error
is the one at the width that it equals itself: σ* = smECE_σ*. There is no number of bins to choose,
and a small change of the confidences makes a small change of the error.

Residuals are placed on a grid, each divided between the two nearest points, which leaves sums over
rows as linear in the counts as sums over bins. On midpoints of a grid the reflected Gaussian is
diagonal in the cosine basis (DCT-II): coefficient k shrinks by exp(−(π k σ)²/2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct

from bayeslora.metrics.bootstrap import cell_matrix
from bayeslora.metrics.top_label import TopLabel

GRID = 512
"""Points of the grid: against the direct sum over rows, errors agree to about 1e-4."""

TOLERANCE = 1e-6
"""Largest distance of a reported error from the width that it equals."""

MOST_STEPS = 50
"""Some ten are taken; a bound for values that are not finite."""


def grid_matrix(confidence: NDArray[np.float64]) -> Any:
    """Return the sparse [GRID, N] that divides what each row has between the two nearest points."""
    place = confidence * GRID - 0.5
    left = np.floor(place)
    share = place - left
    numbers = np.arange(len(confidence))
    # beyond the outer points lies their mirror image, which is themselves
    cells = np.clip(np.concatenate([left, left + 1]).astype(np.int64), 0, GRID - 1)
    return cell_matrix(
        cells,
        np.concatenate([numbers, numbers]),
        np.concatenate([1 - share, share]),
        (GRID, len(confidence)),
    )


def smooth_errors(rows: TopLabel) -> Callable[[NDArray[Any] | None], NDArray[np.float64]]:
    """Return the function from counts of rows, [N] or [N, R], to smECE, [] or [R]."""
    ones = np.ones(len(rows))
    # what scipy makes of a sparse array times a vector is slower to multiply
    matrix = (grid_matrix(rows.confidence) * (rows.correct - rows.confidence)).tocsr()

    def errors(counts: NDArray[Any] | None) -> NDArray[np.float64]:
        weights = rows.counts(counts)
        return fixed_points(matrix @ weights / (ones @ weights))

    return errors


def smece(rows: TopLabel, counts: NDArray[Any] | None = None) -> float:
    """Return the smooth calibration error of the confidence.

    Args:
        rows: Confidence and correctness.
        counts: [N] how often each row occurs; once where None.
    """
    return float(smooth_errors(rows)(counts))


def fixed_points(residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return σ with smECE_σ = σ for residuals on the grid, [GRID] or [GRID, R]."""
    waves = dct(residuals, axis=0)
    decay = -0.5 * (np.pi * np.arange(GRID)) ** 2

    def excess(width: NDArray[np.float64]) -> NDArray[np.float64]:
        smoothed = idct((waves.T * np.exp(np.multiply.outer(width**2, decay))).T, axis=0)
        return np.asarray(np.abs(smoothed).sum(axis=0) - width)

    # The error is never less than what is left when σ is wide, nor more than all there is.
    low, high = np.abs(residuals.sum(axis=0)), np.abs(residuals).sum(axis=0)
    return falling_root(excess, low, high)


def falling_root(
    excess: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return where functions that fall with a slope of at most −1 are zero.

    False position, halving the value at an end that stays (the Illinois rule). With such a slope
    the value at a point is at least its distance from the root, which says when to stop.

    Args:
        excess: From points [R] to values [R].
        low: [R] at most the roots.
        high: [R] at least the roots.
    """
    at_low, at_high = excess(low), excess(high)
    moved = np.zeros_like(low)
    point = low
    for _ in range(MOST_STEPS):
        gap = at_low - at_high
        point = low + (high - low) * np.divide(at_low, gap, out=np.zeros_like(low), where=gap > 0)
        found = excess(point)
        if (np.abs(found) <= TOLERANCE).all():
            break
        side = np.where(found > 0, 1.0, -1.0)
        stays = np.where(side == moved, 0.5, 1.0)
        low, at_low = np.where(side > 0, (point, found), (low, at_low * stays))
        high, at_high = np.where(side > 0, (high, at_high * stays), (point, found))
        moved = side
    return point
