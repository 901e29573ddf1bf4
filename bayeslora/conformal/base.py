"""What a conformal predictor is: options and what a fit found in one dataclass, and two verbs."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bayeslora.conformal.config import CONFORMAL
from bayeslora.conformal.thresholds import classwise_thresholds, marginal_threshold, say_infinite
from bayeslora.errors import InputError
from bayeslora.held_out import check_classes, fitting_rows
from bayeslora.predictions.record import Predictions

Array = NDArray[np.float64]


@dataclass(eq=False)
class ConformalPredictor(ABC):
    """A map from probabilities to sets of classes, fitted to held-out labels.

    A method says in `scores` how nonconforming each class of a row is.

    Attributes:
        name: By which it is chosen.
        summary: What it does, in a few words.
        source: Author, year, where.
        alpha: The share of labels that may be missed.
        classwise: Whether every class has a threshold of its own.
        thresholds: [C] float64: the largest nonconformity score of a class in the set, infinite
            where there were too few rows to set one; None before `fit`.
        classes: Class names of the rows it was fitted on.
        num_rows: Labelled rows it was fitted on.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    alpha: float
    classwise: bool
    thresholds: Array | None = field(default=None, kw_only=True)
    classes: tuple[str, ...] = field(default=(), kw_only=True)
    num_rows: int = field(default=0, kw_only=True)

    def fit(self, predictions: Predictions) -> Self:
        """Set the thresholds by the labelled rows; unlabelled ones are skipped.

        Args:
            predictions: Of rows that the model was not trained on.

        Returns:
            The predictor itself.

        Raises:
            InputError: No row has a label.
        """
        probs, labels = fitting_rows(predictions, "a conformal threshold")
        scores = self.scores(probs, fitting=True)
        own = np.take_along_axis(scores, labels[:, None], 1)[:, 0]
        self.thresholds = self._thresholds(own, labels, probs.shape[1])
        self.classes, self.num_rows = predictions.classes, len(labels)
        say_infinite(self.thresholds, self.classes, self.alpha)
        return self

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with the classes whose score is within the threshold.

        Random parts depend on the seed and on the rows that are given together, not on their order.

        Args:
            predictions: Rows over the same classes, labelled or not.

        Raises:
            InputError: Not fitted, or fitted on other classes.
        """
        if self.thresholds is None:
            raise InputError(f"these {self.name} sets are not fitted yet; call fit first")
        check_classes(f"the {self.name} sets were fitted on", self.classes, predictions.classes)
        sets = self.scores(predictions.probs, fitting=False) <= self.thresholds
        return predictions.replace(sets=sets, metadata={**predictions.metadata, **self._notes()})

    @abstractmethod
    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the nonconformity of every class of every row, [N, C].

        Args:
            probs: [N, C].
            fitting: Whether these are the rows to fit on; they and those to apply to have random
                parts of their own.
        """

    def _thresholds(self, own: Array, labels: NDArray[np.int64], num_classes: int) -> Array:
        if self.classwise:
            return classwise_thresholds(own, labels, num_classes, self.alpha)
        return np.full(num_classes, marginal_threshold(own, self.alpha))

    def _notes(self) -> dict[str, str]:
        chosen = dataclasses.fields(CONFORMAL[self.name])
        return {
            "conformal": self.name,
            **{f"conformal_{one.name}": json.dumps(getattr(self, one.name)) for one in chosen},
            "conformal_rows": str(self.num_rows),
        }
