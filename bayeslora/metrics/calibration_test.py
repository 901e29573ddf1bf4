"""Is a calibration error larger than chance makes it? A test of perfect top-label calibration.

Under the hypothesis that every confidence is exactly right, each row is correct with a probability
of its confidence, independently of the others. Correctness is drawn so many times, and the p-value
is the share of draws whose ECE is at least the observed one, the observed one counting as a draw:
(1 + #)/(1 + R), which is valid for any number of rows. The resampling of consistency bars (Bröcker
and Smith 2007, Weather and Forecasting 22), as a test by Vaicenavicius et al. (2019),
arXiv:1902.06977. `evaluate` takes the same p-value from labels drawn for all errors at once
(`chance.py`); here single groups of rows are tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import block_size
from bayeslora.metrics.calibration import NUM_BINS, bin_places, bin_sums
from bayeslora.metrics.cells import cell_matrix
from bayeslora.metrics.chance import p_values
from bayeslora.metrics.top_label import Closed, TopLabel


@dataclass(frozen=True)
class CalibrationTest:
    """The outcome.

    Attributes:
        ece: The observed error.
        expected: The mean error of the draws from a perfectly calibrated model.
        p: The p-value.
    """

    ece: float
    expected: float
    p: float


def calibration_test(
    rows: TopLabel,
    num_bins: int = NUM_BINS,
    closed: Closed = "left",
    *,
    num_draws: int = 1000,
    seed: int = 0,
) -> CalibrationTest:
    """Test whether the confidences of some rows are calibrated, by their ECE.

    Args:
        rows: Confidence and correctness.
        num_bins: Bins of the ECE.
        closed: Which edge the bins hold.
        num_draws: How many times correctness is drawn.
        seed: Of the generator.
    """
    place = bin_places(rows.confidence, num_bins, closed)
    errors = ece_by_chance(rows.confidence, place, num_bins, num_draws, seed)
    observed = np.array([float(bin_sums(rows, num_bins, closed)(None).ece)])
    return CalibrationTest(
        float(observed[0]), float(errors.mean()), float(p_values(errors, observed)[0])
    )


def ece_by_chance(
    confidence: NDArray[np.float64],
    cell: NDArray[np.int64],
    num_bins: int,
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return the ECE of each of G groups in each draw of correctness, [G, draws].

    Args:
        confidence: [N].
        cell: [N] group · num_bins + bin.
        num_bins: Bins of each group.
        draws: How many.
        seed: Of the generator.
    """
    generator = np.random.default_rng([seed, 3])
    n, groups = len(confidence), int(cell.max()) // num_bins + 1
    ones = np.ones(n)
    matrix = cell_matrix(cell, np.arange(n), ones, (groups * num_bins, n))
    stated, size = matrix @ confidence, (matrix @ ones).reshape(groups, -1).sum(1)
    block = block_size(n)
    parts = []
    for done in range(0, draws, block):
        right = generator.random((min(block, draws - done), n)) < confidence
        gaps = matrix @ right.T.astype(np.float64) - stated[:, None]
        parts.append(np.abs(gaps).reshape(groups, num_bins, -1).sum(1) / size[:, None])
    return np.concatenate(parts, axis=1)
