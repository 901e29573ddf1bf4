"""Scores of prediction sets: their coverage of the label, and their size.

Proportions have Wilson intervals, the mean size a bootstrap interval; if rows form clusters,
proportions have bootstrap intervals too. The lowest coverage of a class is biased downwards by
selection: its interval is built from intervals of every class at level 1 − 0.05/C (Bonferroni),
from the smallest of their lower ends to the smallest of their upper ends, and so covers the lowest
true coverage with a probability of at least 95 %; it treats rows as independent, even with
clusters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.catalogue import SET_SCORES, Kind
from bayeslora.metrics.clusters import without_gaps
from bayeslora.metrics.intervals import LEVEL, Resampling, resampled_means, share_score, wilson
from bayeslora.metrics.scores import Score
from bayeslora.predictions.record import Predictions

_INTERVALS: Mapping[Kind, str] = {
    "share": "Wilson",
    "mean": "percentile bootstrap over rows",
    "other": "Wilson, simultaneous over classes (Bonferroni)",
}
SET_KEYS = {key: _INTERVALS[info.kind] for key, info in SET_SCORES.items()}
"""Method of the interval of each score of prediction sets, by key."""


def set_scores(
    predictions: Predictions, resampling: Resampling, clusters: NDArray[np.int64] | None = None
) -> dict[str, Score]:
    """Return the scores of the prediction sets of the labelled rows; empty without sets.

    Without any label, the sizes of all rows' sets are scored, but not the coverage.

    Args:
        predictions: Rows, labelled or not.
        resampling: Options of the bootstrap intervals.
        clusters: [N] cluster of each row, or None.
    """
    if predictions.sets is None:
        return {}
    labels = predictions.labels
    if labels is None:
        return _means(predictions.sets, None, resampling, clusters)
    labelled = predictions.labelled
    sets, labels = predictions.sets[labelled], labels[labelled]
    covered = np.take_along_axis(sets, labels[:, None], 1)[:, 0]
    labelled_clusters = None if clusters is None else without_gaps(clusters[labelled])
    means = _means(sets, covered, resampling, labelled_clusters)
    return {**means, "worst_class_coverage": worst_class_coverage(covered, labels)}


def stated_coverage(predictions: Predictions) -> float | None:
    """Return the nominal coverage of the sets, 1 − alpha, if the metadata contain it."""
    noted = predictions.metadata.get("conformal_alpha")
    if predictions.sets is None or noted is None:
        return None
    try:
        alpha = float(noted)
    except ValueError:
        return None
    return round(1 - alpha, 12) if 0 < alpha < 1 else None


def worst_class_coverage(covered: NDArray[np.bool_], labels: NDArray[np.int64]) -> Score:
    """Return the lowest coverage among the classes that have rows.

    Args:
        covered: [N] whether the label is in the row's set.
        labels: [N] class indices.
    """
    counts = np.bincount(labels)
    hits = np.bincount(labels, covered)[counts > 0]
    counts = counts[counts > 0]
    low, high = wilson(hits, counts, 1 - (1 - LEVEL) / len(counts))
    return Score(float((hits / counts).min()), float(low.min()), float(high.min()))


def _means(
    sets: NDArray[np.bool_],
    covered: NDArray[np.bool_] | None,
    resampling: Resampling,
    clusters: NDArray[np.int64] | None,
) -> dict[str, Score]:
    """Return the scores that are means over rows, with the coverage if `covered` is given."""
    size = sets.sum(1)
    last = np.zeros(len(size), dtype=bool) if covered is None else covered
    columns = {"coverage": last, "set_size": size, "singletons": size == 1, "empty_sets": size == 0}
    if covered is None:
        del columns["coverage"]
    table = np.stack([*columns.values()]).astype(np.float64)
    table, spread = resampled_means(table, (last, size), resampling, clusters)
    scores = {}
    for index, (key, values) in enumerate(zip(columns, table, strict=True)):
        info = SET_SCORES[key]
        if info.kind == "share" and clusters is None:
            scores[key] = share_score(float(values.mean()), len(values))
        else:
            bounds = info.bounds(sets.shape[1])
            scores[key] = spread.score(index, float(values.mean()), *bounds, kind=info.kind)
    return scores
