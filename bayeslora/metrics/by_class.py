"""Scores of each class: how often it is found, how often rightly named, how honest its probability.

    recall            share of the class's rows that are predicted as it
    precision         share of the rows predicted as it that are it
    f1                harmonic mean of the two
    mean_probability  mean probability of the class over all rows; compare with n / all rows
    ece               one-vs-rest calibration error of that probability, as in `cwece`

Shares have Wilson intervals, unless rows come in clusters; F1 has the bootstrap's. Recall is
missing where no row has the class, precision where none is predicted as it, F1 where neither is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.catalogue import Kind
from bayeslora.metrics.chance import SIGNIFICANT, class_measure, drawn_errors, p_values
from bayeslora.metrics.classwise import classwise_bins
from bayeslora.metrics.clusters import clusters_in
from bayeslora.metrics.confusion import class_counts
from bayeslora.metrics.groups import share_score
from bayeslora.metrics.intervals import from_zero
from bayeslora.metrics.rowwise import LabelledRows
from bayeslora.metrics.scores import PartScores
from bayeslora.metrics.scoring import Scoring

CLASS_KEYS = ("recall", "precision", "f1", "mean_probability", "ece")
"""The scores of a class, in order."""

_KINDS: dict[str, Kind] = {
    "recall": "share",
    "precision": "share",
    "f1": "other",
    "mean_probability": "mean",
    "ece": "other",
}


def class_scores(
    rows: LabelledRows,
    names: tuple[str, ...],
    scoring: Scoring,
) -> dict[str, PartScores]:
    """Return the scores of every class.

    Args:
        rows: N labelled rows.
        names: Of the C classes.
        scoring: Bins, intervals and clusters.
    """
    classes = len(names)

    def prepare(kept: Rows) -> Statistic:
        return _statistic(rows.take(kept), scoring)

    values = prepare(np.arange(len(rows)))(np.ones(len(rows))).reshape(len(CLASS_KEYS), classes)
    clusters, width = scoring.clusters, 2 * scoring.num_bins * classes
    spread = scoring.how.spread(prepare, [len(rows)], [clusters], width=width)
    sizes = clusters_in(rows.labels, None, classes).tolist()
    trials = {
        "recall": clusters_in(rows.labels, clusters, classes).tolist(),
        "precision": clusters_in(rows.prediction, clusters, classes).tolist(),
    }
    # Clusters of either kind may be the same ones: the larger number never counts one twice.
    trials["f1"] = list(map(max, trials["recall"], trials["precision"]))
    measure = class_measure(rows, scoring)
    how = scoring.how
    drawn = drawn_errors(
        rows.probs, lambda labels: measure(labels).by_class, how.num_resamples, how.seed, clusters
    )
    chance = p_values(drawn, values[CLASS_KEYS.index("ece")])
    found = {}
    for c, name in enumerate(names):
        scores = {}
        for k, key in enumerate(CLASS_KEYS):
            value = float(values[k, c])
            if key in trials and not trials[key][c]:
                continue
            if _KINDS[key] == "share" and clusters is None:
                scores[key] = share_score(value, trials[key][c])
            else:
                scores[key] = spread.score(
                    k * classes + c,
                    value,
                    0.0,
                    1.0,
                    reflected=key == "ece",
                    kind=_KINDS[key],
                    units=trials[key][c] if key in trials else None,
                )
        if chance[c] > SIGNIFICANT:
            scores["ece"] = from_zero(scores["ece"])
        found[name] = PartScores(sizes[c], scores)
    return found


def _statistic(rows: LabelledRows, scoring: Scoring) -> Statistic:
    bins = classwise_bins(rows.probs, rows.labels, scoring.num_bins, scoring.closed)
    per_class = class_counts(rows)

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = bins.sums(counts)
        counted = per_class(counts)
        mean = rows.probs.T @ counts / sums.rows
        shares = (counted.recall, counted.precision, counted.f1_by_class)
        return np.concatenate([*shares, mean, sums.by_class])

    return scores
