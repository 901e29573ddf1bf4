"""Confidence intervals: Wilson for a share, percentile and reflected for bootstrap draws."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.metrics.scores import Score

LEVEL = 0.95
"""Confidence level of every interval."""

Method = Literal["percentile", "reflected"]


def wilson(
    successes: ArrayLike, trials: ArrayLike, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and upper end of Wilson's score interval of a binomial share.

    It stays inside 0 to 1, and is wider than a point for 0 or n successes of n. Wilson (1927),
    Journal of the American Statistical Association 22.

    Args:
        successes: [K] counts.
        trials: [K] counts, at least 1.
        level: Confidence level.
    """
    n = np.asarray(trials, dtype=np.float64)
    share = np.asarray(successes, dtype=np.float64) / n
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    # rounding may leave the share just outside, where it is 0 or 1
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)


def bootstrap_interval(
    value: float,
    deviations: NDArray[np.float64],
    method: Method,
    floor: float = -math.inf,
    ceiling: float = math.inf,
) -> Score:
    """Return a value with the interval that the bootstrap gives it.

    `percentile` takes the quantiles of the resampled scores. `reflected` mirrors them at the value
    (the basic bootstrap; Davison and Hinkley 1997, section 5.2): the answer to a score whose noise
    only ever adds, as in a calibration error. There every resampled score lies too high by about as
    much as the value itself does, and the percentile interval lies above the truth: of 100
    simulated sets of 600 rows with a true ECE of 0.03 it held the truth in 28, the reflected one in
    95 (`tests/metrics/test_bootstrap.py`). Either is stretched, where needed, to hold the value.

    Args:
        value: The score of all rows.
        deviations: [R] resampled score minus the score.
        method: Which interval.
        floor: The lowest value that the score can have.
        ceiling: The highest.
    """
    low, high = np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    if method == "reflected":
        low, high = -high, -low
    return Score(
        min(value, ceiling),
        max(value + min(low, 0.0), floor),
        min(value + max(high, 0.0), ceiling),
    )
