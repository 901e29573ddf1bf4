"""Adaptive prediction sets, plain and regularised: the most probable classes up to a total.

    score of the class in place k = Σ_{j<k} p_(j) + u p_(k) + λ max(0, k − k_reg)

p_(1) ≥ p_(2) ≥ … are a row's probabilities; u is uniform on 0 to 1, one number a row, or 0 where
the sets are not randomised: they then are the fewest classes whose total exceeds the threshold.
Romano, Sesia and Candes 2020, arXiv 2006.02544, with λ = 0 (APS);
Angelopoulos, Bates, Malik and Jordan 2021, arXiv 2009.14193, with λ > 0 (RAPS).

Randomised sets may be empty, at rows whose first class alone exceeds the threshold; they are left
so, because a class put in would make the coverage larger than asked for. Classes of equal
probability are in the order of their columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.conformal.base import ConformalPredictor
from bayeslora.conformal.config import APSOptions, RAPSOptions
from bayeslora.held_out import settled_order

Array = NDArray[np.float64]

# The rows to fit on and those to apply to have random parts of their own.
_FIT, _APPLY = 0, 1


@dataclass(eq=False)
class APS(APSOptions, ConformalPredictor):
    """A conformal predictor by the total probability of a class and all more probable ones."""

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the totals, [N, C]."""
        return adaptive_scores(probs, _parts(self, probs, fitting))


@dataclass(eq=False)
class RAPS(RAPSOptions, ConformalPredictor):
    """A conformal predictor like `APS` that also counts a class's place."""

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the totals with the penalties, [N, C]."""
        return adaptive_scores(probs, _parts(self, probs, fitting), self.penalty, self.k_reg)


def _parts(options: APSOptions, probs: Array, fitting: bool) -> Array:
    """Return u, [N, 1]."""
    parts = np.zeros((len(probs), 1))
    if options.randomised:
        generator = np.random.default_rng([options.seed, _FIT if fitting else _APPLY])
        parts[settled_order(probs)] = generator.random((len(probs), 1))
    return parts


def adaptive_scores(probs: Array, parts: Array, penalty: float = 0.0, k_reg: int = 0) -> Array:
    """Return the scores of all classes, [N, C].

    Args:
        probs: [N, C].
        parts: [N, 1] u, the part of a class's own probability that counts.
        penalty: λ.
        k_reg: The last place, from 1, without a penalty.
    """
    order = np.argsort(-probs, axis=1, kind="stable")
    falling = np.take_along_axis(probs, order, 1)
    places = np.arange(1, probs.shape[1] + 1)
    before = np.cumsum(falling, axis=1) - falling
    ranked: Array = before + parts * falling + penalty * np.maximum(0, places - k_reg)
    scores: Array = np.empty_like(ranked)
    np.put_along_axis(scores, order, ranked, 1)
    return scores
