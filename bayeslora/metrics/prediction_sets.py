"""Scores of prediction sets: how often they hold the label, and how large they are.

Shares have Wilson intervals, the mean size a bootstrap one; where rows come in clusters, shares
have bootstrap intervals too. The lowest coverage of a class looks low by selection alone: its
interval is built from intervals of every class at level 1 − 0.05/C (Bonferroni), from the least of
their lower ends to the least of their upper ends, and so holds the lowest of the true coverages
with a probability of at least 95 %; it takes rows one by one, also where they come in clusters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.catalogue import SET_SCORES, Kind
from bayeslora.metrics.clusters import without_gaps
from bayeslora.metrics.intervals import LEVEL, Resampling, resampled_means, wilson
from bayeslora.metrics.scores import Score
from bayeslora.predictions.record import Predictions

_INTERVALS: Mapping[Kind, str] = {
    "share": "Wilson",
    "mean": "percentile bootstrap over rows",
    "other": "Wilson, simultaneous over classes (Bonferroni)",
}
SET_KEYS = {key: _INTERVALS[info.kind] for key, info in SET_SCORES.items()}
"""How the interval of each score of prediction sets is made, by its key."""


def set_scores(
    predictions: Predictions, how: Resampling, clusters: NDArray[np.int64] | None = None
) -> dict[str, Score]:
    """Return the scores of the prediction sets of the labelled rows; none where there are no sets.

    Without any label the sizes of all rows' sets are scored, and no coverage.

    Args:
        predictions: Rows, labelled or not.
        how: How bootstrap intervals are made.
        clusters: [N] cluster of each row, or None.
    """
    if predictions.sets is None:
        return {}
    labels = predictions.labels
    if labels is None:
        return _means(predictions.sets, None, how, clusters)
    kept = predictions.labelled
    sets, labels = predictions.sets[kept], labels[kept]
    held = np.take_along_axis(sets, labels[:, None], 1)[:, 0]
    own = None if clusters is None else without_gaps(clusters[kept])
    means = _means(sets, held, how, own)
    return {**means, "worst_class_coverage": worst_class_coverage(held, labels)}


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


def _means(
    sets: NDArray[np.bool_],
    held: NDArray[np.bool_] | None,
    how: Resampling,
    clusters: NDArray[np.int64] | None,
) -> dict[str, Score]:
    """Return the scores that are means over rows; coverage where `held` is known."""
    size = sets.sum(1)
    last = np.zeros(len(size), dtype=bool) if held is None else held
    columns = {"coverage": last, "set_size": size, "singletons": size == 1, "empty_sets": size == 0}
    if held is None:
        del columns["coverage"]
    table = np.stack([*columns.values()]).astype(np.float64)
    table, spread = resampled_means(table, (last, size), how, clusters)
    found = {}
    for place, (key, values) in enumerate(zip(columns, table, strict=True)):
        info = SET_SCORES[key]
        if info.kind == "share" and clusters is None:
            found[key] = _share(values)
        else:
            bounds = info.bounds(sets.shape[1])
            found[key] = spread.score(place, float(values.mean()), *bounds, kind=info.kind)
    return found


def _share(hits: NDArray[np.float64]) -> Score:
    low, high = wilson(hits.sum(), len(hits))
    return Score(float(hits.mean()), float(low), float(high))
