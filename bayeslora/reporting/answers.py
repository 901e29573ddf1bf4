"""Accuracies on subsets of a method's labelled rows, with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.clusters import clusters_in
from bayeslora.metrics.intervals import LEVEL, wilson
from bayeslora.predictions.record import Predictions

SURE = 0.9
"""Confidence from which a prediction counts as confident."""

ANSWERED = 0.8
"""Share of rows that are answered if the least confident rows go to a person."""


@dataclass(frozen=True)
class Share:
    """k of n rows, with the 95 % Wilson interval of the share; a cluster counts as one row."""

    count: int
    size: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, k / n."""
        return self.count / self.size


@dataclass(frozen=True, eq=False)
class Answers:
    """The labelled rows of a method.

    Attributes:
        confidence: [n] highest class probability.
        correct: [n] bool.
        labels: [n] class indices.
        class_counts: [C] number of rows per label.
        clusters: [n] cluster of each row, or None.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    labels: NDArray[np.int64]
    class_counts: NDArray[np.int64]
    clusters: NDArray[np.int64] | None = None

    def units(self, chosen: NDArray[np.bool_]) -> int:
        """Return the number of independent rows, the clusters, among the rows of a mask [n]."""
        return int(clusters_in(chosen, self.clusters, 2)[1])

    def wrong_though_sure(self) -> Share | None:
        """Return the share of errors among rows of confidence `SURE` or more; None without any."""
        chosen = self.confidence >= SURE
        size = int(chosen.sum())
        if not size:
            return None
        return _share(int((chosen & ~self.correct).sum()), size, self.units(chosen))

    def surest(self) -> tuple[Share, Share] | None:
        """Return the accuracy on the `ANSWERED` most confident rows and on the others.

        None if either part is empty. Rows tied with the last answered row are answered too.
        """
        count = max(round(ANSWERED * len(self.correct)), 1)
        threshold = np.sort(self.confidence)[::-1][count - 1]
        chosen = self.confidence >= threshold
        if chosen.all():
            return None
        answered, others = self.correct[chosen], self.correct[~chosen]
        return (
            _share(int(answered.sum()), len(answered), self.units(chosen)),
            _share(int(others.sum()), len(others), self.units(~chosen)),
        )

    def weakest_class(self) -> tuple[int, Share] | None:
        """Return the class with the lowest accuracy, if it is lower beyond chance.

        Its interval is simultaneous over the non-empty classes (Bonferroni), and its upper end must
        be below the lower end of the interval of the accuracy on all other classes together.
        """
        present = np.flatnonzero(self.class_counts)
        if len(present) < 2:
            return None
        hits = np.bincount(self.labels, self.correct, minlength=len(self.class_counts))[present]
        sizes = self.class_counts[present]
        units = clusters_in(self.labels, self.clusters)[present]
        low, high = wilson(hits / sizes * units, units, 1 - (1 - LEVEL) / len(present))
        worst = int(np.argmin(hits / sizes))
        others = (hits.sum() - hits[worst]) / (sizes.sum() - sizes[worst])
        of_others = self.units(self.labels != present[worst])
        rest, _ = wilson(others * of_others, of_others)
        if high[worst] >= rest:
            return None
        share = Share(int(hits[worst]), int(sizes[worst]), float(low[worst]), float(high[worst]))
        return int(present[worst]), share


def answers_of(predictions: Predictions, clusters: NDArray[np.int64] | None = None) -> Answers:
    """Return the labelled rows, at least one.

    Args:
        predictions: Predictions of the method.
        clusters: [n] cluster of each labelled row, or None.
    """
    if predictions.labels is None:
        raise ValueError("answers are judged by labels")
    rows = predictions.labelled
    labels = predictions.labels[rows]
    return Answers(
        confidence=predictions.confidence[rows],
        correct=predictions.prediction[rows] == labels,
        labels=labels,
        class_counts=np.bincount(labels, minlength=predictions.num_classes),
        clusters=clusters,
    )


def _share(count: int, size: int, units: int) -> Share:
    low, high = wilson(count / size * units, units)
    return Share(count, size, float(low), float(high))
