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

from bayeslora.metrics.cells import cell_matrix
from bayeslora.metrics.top_label import TopLabel

GRID = 512
"""Points of the grid: against the direct sum over rows, errors agree to about 1e-4."""

STEPS = 20
"""Halvings of the range of σ."""


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
    matrix = grid_matrix(rows.confidence) * (rows.correct - rows.confidence)

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
    low = np.abs(residuals.sum(axis=0))  # all that is left when σ is wide
    high = np.abs(residuals).sum(axis=0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        smoothed = idct((waves.T * np.exp(np.multiply.outer(middle**2, decay))).T, axis=0)
        above = np.abs(smoothed).sum(axis=0) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)
