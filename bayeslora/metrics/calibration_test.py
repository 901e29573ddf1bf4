"""Is the calibration error larger than chance makes it? A test of perfect top-label calibration.

Under the hypothesis that every confidence is exactly right, each row is correct with a probability
of its confidence, independently of the others. Correctness is drawn so many times, and the p-value
is the share of draws whose ECE is at least the observed one, the observed one counting as a draw:
(1 + #)/(1 + R), which is valid for any number of rows. The resampling of consistency bars (Bröcker
and Smith 2007, Weather and Forecasting 22), as a test by Vaicenavicius et al. (2019),
arXiv:1902.06977.

Beyond `MAX_ROWS` rows each bin's sum is drawn from its Gaussian limit, variance Σ c(1 − c), in
place of single rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import MAX_ROWS, block_size
from bayeslora.metrics.calibration import NUM_BINS, bin_sums, equal_width_edges
from bayeslora.metrics.top_label import Closed, TopLabel, segment_sums


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
    starts = rows.starts(equal_width_edges(num_bins), closed)
    draw = _gaussian_errors if len(rows) > MAX_ROWS else _errors
    errors = draw(rows.confidence, starts, num_draws, np.random.default_rng([seed, 3]))
    observed = float(bin_sums(rows, num_bins, closed)(None).ece)
    # draws of the very same correctness differ by rounding alone
    reached = int((errors >= observed - 1e-12).sum())
    return CalibrationTest(observed, float(errors.mean()), (1 + reached) / (1 + num_draws))


def _errors(
    confidence: NDArray[np.float64],
    starts: NDArray[np.int64],
    num_draws: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    block = block_size(len(confidence))
    stated = segment_sums(confidence, starts)
    parts = []
    for done in range(0, num_draws, block):
        size = min(block, num_draws - done)
        # rows first, so that blocks of any size see the same numbers
        right = (generator.random((size, len(confidence))) < confidence).T
        gaps = segment_sums(right.astype(np.float64), starts) - stated[:, None]
        parts.append(np.abs(gaps).sum(axis=0) / len(confidence))
    return np.concatenate(parts)


def _gaussian_errors(
    confidence: NDArray[np.float64],
    starts: NDArray[np.int64],
    num_draws: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    variances = np.maximum(segment_sums(confidence * (1 - confidence), starts), 0)
    gaps = generator.normal(size=(num_draws, len(variances))) * np.sqrt(variances)
    return np.asarray(np.abs(gaps).sum(axis=1) / len(confidence))
