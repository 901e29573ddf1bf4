"""The Brier score taken apart: reliability − resolution + uncertainty, without a remainder.

    uncertainty   Σ_c o_c (1 − o_c)                   the score of always stating the class shares o
    reliability   Σ_c Σ_b (n_cb/n) (p_cb − o_cb)²     mean probability against share, in each bin
    resolution    reliability + uncertainty − Brier   what the probabilities know beyond the shares

Murphy (1973), Journal of Applied Meteorology 12, for probabilities that take few values. Sorted
into bins, continuous ones vary within a bin, which leaves a remainder; it belongs to resolution
(Stephenson, Coelho and Jolliffe 2008, Weather and Forecasting 23, equation 12: generalised
resolution), and with it the three parts add up exactly. The bins are those of the class-wise
calibration error. As in every calibration error, few rows make reliability and resolution read
high.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.classwise import ClasswiseSums


class BrierParts(NamedTuple):
    """The three parts, in the order of the printed scores; arrays [R] for R resamples."""

    reliability: NDArray[np.float64]
    resolution: NDArray[np.float64]
    uncertainty: NDArray[np.float64]


def brier_parts(sums: ClasswiseSums, brier: NDArray[np.float64]) -> BrierParts:
    """Return the parts of a Brier score.

    Args:
        sums: From `ClasswiseBins.sums`.
        brier: The score itself, [] or [R].
    """
    shares = sums.labels / sums.rows
    uncertainty = (shares * (1 - shares)).sum(axis=0)
    gaps = sums.gaps**2 / np.maximum(sums.sizes, 1)
    reliability = gaps.sum(axis=(0, 1)) / sums.rows
    return BrierParts(reliability, reliability + uncertainty - brier, uncertainty)
