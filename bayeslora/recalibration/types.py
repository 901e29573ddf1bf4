"""What a recalibrator is: options and what a fit found in one dataclass, and three verbs."""

from __future__ import annotations

from typing import ClassVar, Protocol, Self

from bayeslora.predictions.record import Predictions


class Recalibrator(Protocol):
    """A map from probabilities to probabilities, fitted to held-out labels.

    Attributes:
        name: By which it is chosen.
        summary: What it does, in a few words.
        source: Author, year, where.
        classes: Class names of the rows it was fitted on; empty before `fit`.
        num_rows: Labelled rows it was fitted on.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    classes: tuple[str, ...]
    num_rows: int

    def fit(self, predictions: Predictions) -> Self:
        """Fit to the labelled rows, which the model was not trained on; return itself."""
        ...

    def apply(self, predictions: Predictions, name: str | None = None) -> Predictions:
        """Return rows over the same classes with new probabilities."""
        ...

    def report(self) -> dict[str, float | str]:
        """Return the few numbers that say what the fit found."""
        ...
