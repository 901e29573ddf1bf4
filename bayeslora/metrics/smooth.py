"""Smooth calibration error, with a kernel instead of bins.

Błasiok and Nakkiran (2023), arXiv:2309.12236. With residuals r_i = correct_i − confidence_i,

    smECE_σ = ∫ |(1/n) Σ_i r_i K_σ(t, confidence_i)| dt,

where K_σ is the Gaussian kernel reflected at 0 and 1. It decreases in σ, and the reported error is
the fixed point σ* = smECE_σ*. It needs no number of bins and is continuous in the confidences.

Residuals are interpolated linearly to a grid, so that, as with bins, the sums are linear in the row
counts. On the midpoints of a grid the reflected Gaussian is diagonal in the cosine basis (DCT-II):
it multiplies coefficient k by exp(−(π k σ)²/2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct

from bayeslora.metrics.bootstrap import cell_matrix
from bayeslora.metrics.calibration import TopLabel

GRID = 512
"""Number of grid points; errors agree with the direct sum over rows to about 1e-4."""

TOLERANCE = 1e-6
"""Largest difference between the reported error and its width."""

MOST_STEPS = 50
"""Upper bound on the steps, for non-finite values; about ten are usual."""


def grid_matrix(confidence: NDArray[np.float64]) -> Any:
    """Return the sparse [GRID, N] matrix that interpolates rows to the two nearest grid points."""
    position = confidence * GRID - 0.5
    left = np.floor(position)
    share = position - left
    numbers = np.arange(len(confidence))
    # reflection maps the neighbours of the outer points to the outer points themselves
    cells = np.clip(np.concatenate([left, left + 1]).astype(np.int64), 0, GRID - 1)
    return cell_matrix(
        cells,
        np.concatenate([numbers, numbers]),
        np.concatenate([1 - share, share]),
        (GRID, len(confidence)),
    )


def smooth_errors(rows: TopLabel) -> Callable[[NDArray[Any] | None], NDArray[np.float64]]:
    """Return the function from row counts, [N] or [N, R], to smECE, [] or [R]."""
    ones = np.ones(len(rows))
    # the format that scipy returns for a sparse array times a vector is slower to multiply
    matrix = (grid_matrix(rows.confidence) * (rows.correct - rows.confidence)).tocsr()

    def errors(counts: NDArray[Any] | None) -> NDArray[np.float64]:
        weights = rows.counts(counts)
        return fixed_points(matrix @ weights / (ones @ weights))

    return errors


def smece(rows: TopLabel, counts: NDArray[Any] | None = None) -> float:
    """Return the smooth calibration error of the confidence.

    Args:
        rows: Confidence and correctness.
        counts: [N] how often each row occurs; None counts each row once.
    """
    return float(smooth_errors(rows)(counts))


def fixed_points(residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return σ with smECE_σ = σ for residuals on the grid, [GRID] or [GRID, R]."""
    waves = dct(residuals, axis=0)
    decay = -0.5 * (np.pi * np.arange(GRID)) ** 2

    def excess(width: NDArray[np.float64]) -> NDArray[np.float64]:
        smoothed = idct((waves.T * np.exp(np.multiply.outer(width**2, decay))).T, axis=0)
        return np.asarray(np.abs(smoothed).sum(axis=0) - width)

    # The limits of the error as σ goes to infinity and to zero are bounds.
    low, high = np.abs(residuals.sum(axis=0)), np.abs(residuals).sum(axis=0)
    return falling_root(excess, low, high)


def falling_root(
    excess: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the roots of functions with a slope of at most −1.

    Uses false position, halving the value at an end that stays (the Illinois rule). With such a
    slope the absolute value at a point bounds its distance from the root, which gives the stopping
    rule.

    Args:
        excess: Function from points [R] to values [R].
        low: [R] lower bounds of the roots.
        high: [R] upper bounds of the roots.
    """
    at_low, at_high = excess(low), excess(high)
    moved = np.zeros_like(low)
    point = low
    for _ in range(MOST_STEPS):
        gap = at_low - at_high
        point = low + (high - low) * np.divide(at_low, gap, out=np.zeros_like(low), where=gap > 0)
        value = excess(point)
        if (np.abs(value) <= TOLERANCE).all():
            break
        side = np.where(value > 0, 1.0, -1.0)
        stays = np.where(side == moved, 0.5, 1.0)
        low, at_low = np.where(side > 0, (point, value), (low, at_low * stays))
        high, at_high = np.where(side > 0, (high, at_high * stays), (point, value))
        moved = side
    return point
