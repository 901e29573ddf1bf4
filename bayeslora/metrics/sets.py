"""Scores of prediction sets: how often they hold the label, and how large they are.

Shares have Wilson intervals, the mean size a percentile bootstrap one. The lowest coverage of a
class looks low by selection alone: its interval is built from intervals of every class at level
1 − 0.05/C (Bonferroni), from the least of their lower ends to the least of their upper ends, and
so holds the lowest of the true coverages with a probability of at least 95 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows, Statistic, bootstrap_deviations
from bayeslora.metrics.intervals import LEVEL, bootstrap_interval, wilson
from bayeslora.metrics.scores import Score
from bayeslora.predictions import Predictions

SET_KEYS = {
    "coverage": "Wilson",
    "set_size": "percentile bootstrap over rows",
    "singletons": "Wilson",
    "empty_sets": "Wilson",
    "worst_class_coverage": "Wilson, simultaneous over classes (Bonferroni)",
}
"""How the interval of each score of prediction sets is made, by its key."""


def set_scores(predictions: Predictions, num_resamples: int, seed: int) -> dict[str, Score]:
    """Return the scores of the prediction sets of the labelled rows; none where there are no sets.

    Without any label the sizes of all rows' sets are scored, and no coverage.

    Args:
        predictions: Rows, labelled or not.
        num_resamples: Bootstrap resamples for the mean size.
        seed: Of the bootstrap.
    """
    if predictions.sets is None:
        return {}
    labels = predictions.labels
    if labels is None:
        return _sizes(predictions.sets, num_resamples, seed)
    kept = predictions.labelled
    sets, labels = predictions.sets[kept], labels[kept]
    held = np.take_along_axis(sets, labels[:, None], 1)[:, 0]
    sizes = _sizes(sets, num_resamples, seed)
    return {
        "coverage": _share(held),
        **sizes,
        "worst_class_coverage": worst_class_coverage(held, labels),
    }


def stated_coverage(predictions: Predictions) -> float | None:
    """Return the coverage that the sets were made for, 1 − alpha, where the notes say it."""
    noted = predictions.metadata.get("conformal_alpha")
    if predictions.sets is None or noted is None:
        return None
    try:
        alpha = float(noted)
    except ValueError:
        return None
    return round(1 - alpha, 12) if 0 < alpha < 1 else None


def worst_class_coverage(held: NDArray[np.bool_], labels: NDArray[np.int64]) -> Score:
    """Return the lowest share of held labels among the classes that have rows.

    Args:
        held: [N] whether the label is in the row's set.
        labels: [N].
    """
    counts = np.bincount(labels)
    hits = np.bincount(labels, held)[counts > 0]
    counts = counts[counts > 0]
    low, high = wilson(hits, counts, 1 - (1 - LEVEL) / len(counts))
    return Score(float((hits / counts).min()), float(low.min()), float(high.min()))


def _sizes(sets: NDArray[np.bool_], num_resamples: int, seed: int) -> dict[str, Score]:
    size = np.sort(sets.sum(1)).astype(np.float64)

    def prepare(kept: Rows) -> Statistic:
        return lambda counts: np.array([counts @ size[kept] / counts.sum()])

    deviations = bootstrap_deviations(prepare, [len(size)], num_resamples, seed)[:, 0]
    mean = float(size.mean())
    return {
        "set_size": bootstrap_interval(mean, deviations, "percentile", 0.0, float(sets.shape[1])),
        "singletons": _share(size == 1),
        "empty_sets": _share(size == 0),
    }


def _share(hits: NDArray[np.bool_]) -> Score:
    low, high = wilson(hits.sum(), len(hits))
    return Score(float(hits.mean()), float(low), float(high))
