"""ECE without the part that noise adds: Kumar, Liang and Ma (2019), arXiv:1909.10155.

A bin's gap g is measured with a noise of variance s² = a(1 − a)/n_b, where a is its accuracy, and
|g| reads too high on average. By how much is estimated as E|g + s ε| − |g| for a standard normal ε,
and taken off: 2 |g| − E|g + s ε|, weighted and summed as in ECE. The authors draw ε; the mean of a
folded normal variable has a closed form (Leone, Nelson and Nottingham 1961, Technometrics 3), which
is used here. A well calibrated set may read slightly below zero.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from bayeslora.metrics.calibration import BinSums


def ece_debiased(sums: BinSums) -> NDArray[np.float64]:
    """Return the debiased error, or [R] of them.

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
        mean: Of any shape, at least zero.
        noise: Of the same shape, at least zero.
    """
    safe = np.where(noise > 0, noise, 1.0)
    ratio = mean / safe
    spread = noise * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2)
    return np.asarray(np.where(noise > 0, spread + mean * erf(ratio / math.sqrt(2)), mean))
