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

from bayeslora.conformal.common import check_applicable, set_thresholds, with_sets
from bayeslora.conformal.config import APSOptions, RAPSOptions
from bayeslora.held_out import fitting_rows, settled_order
from bayeslora.predictions.record import Predictions

Array = NDArray[np.float64]

# The rows to fit on and those to apply to have random parts of their own.
_FIT, _APPLY = 0, 1


@dataclass(eq=False)
class APS(APSOptions):
    """A conformal predictor by the total probability of a class and all more probable ones.

    Attributes:
        thresholds: [C] float64, the largest score in a set; None before `fit`.
        classes: Class names of the rows it was fitted on.
        num_rows: Labelled rows it was fitted on.
    """

    thresholds: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    num_rows: int = 0

    def fit(self, predictions: Predictions) -> APS:
        """Set the thresholds by the labelled rows.

        Args:
            predictions: Of rows that the model was not trained on.

        Returns:
            The predictor itself.

        Raises:
            InputError: No row has a label.
        """
        probs, labels = fitting_rows(predictions, "a conformal threshold")
        set_thresholds(self, _scores(self, probs, _FIT), labels, predictions.classes)
        return self

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with their sets.

        The random parts depend on `seed` and on the rows that are given together, not on their
        order.

        Args:
            predictions: Rows over the same classes, labelled or not.

        Raises:
            InputError: Not fitted, or fitted on other classes.
        """
        check_applicable(self, predictions)
        return with_sets(self, predictions, _scores(self, predictions.probs, _APPLY))


@dataclass(eq=False)
class RAPS(RAPSOptions):
    """A conformal predictor like `APS` that also counts a class's place.

    Attributes:
        thresholds: [C] float64, the largest score in a set; None before `fit`.
        classes: Class names of the rows it was fitted on.
        num_rows: Labelled rows it was fitted on.
    """

    thresholds: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    num_rows: int = 0

    def fit(self, predictions: Predictions) -> RAPS:
        """Set the thresholds by the labelled rows; see `APS.fit`."""
        probs, labels = fitting_rows(predictions, "a conformal threshold")
        scores = _scores(self, probs, _FIT, self.penalty, self.k_reg)
        set_thresholds(self, scores, labels, predictions.classes)
        return self

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with their sets; see `APS.apply`."""
        check_applicable(self, predictions)
        scores = _scores(self, predictions.probs, _APPLY, self.penalty, self.k_reg)
        return with_sets(self, predictions, scores)


def _scores(
    options: APSOptions, probs: Array, stream: int, penalty: float = 0.0, k_reg: int = 0
) -> Array:
    """Return [N, C] nonconformity scores."""
    parts = np.zeros((len(probs), 1))
    if options.randomised:
        generator = np.random.default_rng([options.seed, stream])
        parts[settled_order(probs)] = generator.random((len(probs), 1))
    return adaptive_scores(probs, parts, penalty, k_reg)


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
