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

from bayeslora.conformal.common import check_applicable, set_thresholds, with_sets
from bayeslora.conformal.config import LACOptions
from bayeslora.held_out import fitting_rows
from bayeslora.predictions.record import Predictions


@dataclass(eq=False)
class LAC(LACOptions):
    """A conformal predictor by the probability of a class.

    Attributes:
        thresholds: [C] float64, the largest score in a set; None before `fit`.
        classes: Class names of the rows it was fitted on.
        num_rows: Labelled rows it was fitted on.
    """

    thresholds: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    num_rows: int = 0

    def fit(self, predictions: Predictions) -> LAC:
        """Set the thresholds by the labelled rows.

        Args:
            predictions: Of rows that the model was not trained on.

        Returns:
            The predictor itself.

        Raises:
            InputError: No row has a label.
        """
        probs, labels = fitting_rows(predictions, "a conformal threshold")
        set_thresholds(self, 1 - probs, labels, predictions.classes)
        return self

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with their sets.

        Args:
            predictions: Rows over the same classes, labelled or not.

        Raises:
            InputError: Not fitted, or fitted on other classes.
        """
        check_applicable(self, predictions)
        return with_sets(self, predictions, 1 - predictions.probs)
