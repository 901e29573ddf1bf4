"""What a conformal predictor is: options and what a fit found in one dataclass, and two verbs."""

from __future__ import annotations

from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bayeslora.predictions.record import Predictions


class ConformalPredictor(Protocol):
    """A map from probabilities to sets of classes, fitted to held-out labels.

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
    thresholds: NDArray[np.float64] | None
    classes: tuple[str, ...]
    num_rows: int

    def fit(self, predictions: Predictions) -> Self:
        """Fit to the labelled rows, which the model was not trained on; return itself."""
        ...

    def apply(self, predictions: Predictions) -> Predictions:
        """Return rows over the same classes with their prediction sets."""
        ...
