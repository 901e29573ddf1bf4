"""Shares of right answers among some of a method's labelled rows, with what chance allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.clusters import clusters_in
from bayeslora.metrics.intervals import LEVEL, wilson
from bayeslora.predictions.record import Predictions

SURE = 0.9
"""Confidence from which a row counts as answered with confidence."""

ANSWERED = 0.8
"""Share of rows that are answered where the least sure ones go to a person."""


@dataclass(frozen=True)
class Share:
    """k of n rows, with the 95 % Wilson interval of the share; of clusters, as of one row each."""

    count: int
    size: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share of these rows."""
        return self.count / self.size


@dataclass(frozen=True, eq=False)
class Answers:
    """The labelled rows of a method.

    Attributes:
        confidence: [n].
        correct: [n] bool.
        labels: [n] class indices.
        class_counts: [C] rows by label.
        clusters: [n] which rows belong together, or None.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    labels: NDArray[np.int64]
    class_counts: NDArray[np.int64]
    clusters: NDArray[np.int64] | None = None

    def units(self, chosen: NDArray[np.bool_]) -> int:
        """Return how many independent rows some rows [n] count as: their number of clusters."""
        return int(clusters_in(chosen, self.clusters, 2)[1])

    def wrong_though_sure(self) -> Share | None:
        """Return the wrong ones among the rows of confidence at least `SURE`, if there are any."""
        chosen = self.confidence >= SURE
        size = int(chosen.sum())
        if not size:
            return None
        return _share(int((chosen & ~self.correct).sum()), size, self.units(chosen))

    def surest(self) -> tuple[Share, Share] | None:
        """Return the right ones among the surest `ANSWERED` rows and among the others.

        None where either is empty. Rows as sure as the last one answered are answered too.
        """
        place = max(round(ANSWERED * len(self.correct)), 1)
        threshold = np.sort(self.confidence)[::-1][place - 1]
        chosen = self.confidence >= threshold
        if chosen.all():
            return None
        found, others = self.correct[chosen], self.correct[~chosen]
        return (
            _share(int(found.sum()), len(found), self.units(chosen)),
            _share(int(others.sum()), len(others), self.units(~chosen)),
        )

    def weakest_class(self) -> tuple[int, Share] | None:
        """Return the class whose rows are answered worst, where that is no accident.

        Its interval is simultaneous over the classes that have rows (Bonferroni), and its upper end
        has to be below the share of right answers among the rows of all other classes together,
        by that share's own interval.
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
    """Return the labelled rows; there is at least one.

    Args:
        predictions: Of the method.
        clusters: [n] the cluster of each labelled row, where rows belong together.
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
