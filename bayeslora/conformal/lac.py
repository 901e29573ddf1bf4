"""Sets by the probability of a class: split conformal prediction in its plainest form.

    score of class c = 1 − p_c

Sadinle, Lei and Wasserman 2019, arXiv 1609.00451 (least ambiguous set-valued classifier); of all
sets with this coverage they are the smallest on average where the probabilities are right. Rows
where no class is probable enough get an empty set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.conformal.base import ConformalPredictor
from bayeslora.conformal.config import LACOptions

Array = NDArray[np.float64]


@dataclass(eq=False)
class LAC(LACOptions, ConformalPredictor):
    """A conformal predictor by the probability of a class."""

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return 1 − p, [N, C]; nothing in it is random."""
        return 1 - probs
