"""How labelled rows are scored: what all scores of one call have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.intervals import Resampling
from bayeslora.metrics.top_label import Closed


@dataclass(frozen=True, eq=False)
class Scoring:
    """Bins, intervals and clusters.

    Attributes:
        num_bins: Bins of the calibration errors.
        closed: Which edge the bins hold.
        how: How bootstrap intervals are made.
        clusters: [N] cluster of each labelled row, from 0 on without gaps, or None.
    """

    num_bins: int
    closed: Closed
    how: Resampling
    clusters: NDArray[np.int64] | None = None
