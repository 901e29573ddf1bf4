"""Scores of subsets of the rows: groups, such as all rows of one source, and classes.

Rows are resampled within their group, so that group sizes stay fixed; one sparse product computes
the sums of all groups and resamples. Proportions have Wilson intervals, unless rows form clusters;
ECE has the reflected bootstrap interval and the other scores the percentile interval.

The scores of a class:

    recall            share of the class's rows that are predicted as it
    precision         share of the rows predicted as it that are it
    f1                harmonic mean of the two
    mean_probability  mean probability of the class over all rows; compare with n / all rows
    ece               one-vs-rest calibration error of that probability, as in `cwece`

F1 has a bootstrap interval. Recall is omitted if no row has the class as its label, precision if no
row is predicted as it, F1 if both hold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import bin_places
from bayeslora.metrics.chance import (
    SIGNIFICANT,
    class_measure,
    drawn_errors,
    ece_by_chance,
    p_values,
)
from bayeslora.metrics.intervals import (
    IntervalMethod,
    Rows,
    Statistic,
    blocks,
    cell_matrix,
    clusters_in,
    from_zero,
    interval_of,
    share_score,
    with_rare_errors,
    without_gaps,
)
from bayeslora.metrics.rowwise import LabelledRows, Scoring, class_counts, classwise_bins
from bayeslora.metrics.scores import ALL_SCORES, Kind, PartScores

GROUP_KEYS = ("accuracy", "nll", "brier", "ece", "overconfidence", "coverage", "set_size")
"""Scores of a group, in order; the last two only with prediction sets."""


def group_scores(
    rows: LabelledRows,
    codes: NDArray[np.int64],
    names: tuple[str, ...],
    scoring: Scoring,
    sets: NDArray[np.bool_] | None = None,
) -> dict[str, PartScores]:
    """Return the scores of each group that has rows.

    Args:
        rows: N labelled rows.
        codes: [N] group of each row, as an index into `names`.
        names: Names of the groups.
        scoring: Bins, intervals and clusters.
        sets: [N, C] prediction sets, or None.
    """
    present, group = np.unique(codes, return_inverse=True)
    statistic = _group_statistic(rows, group, scoring, sets)
    values = statistic(np.ones((len(rows), 1)))[..., 0]
    deviations = _resampled(statistic, group, scoring) - values
    sizes = np.bincount(group)
    units = clusters_in(group, scoring.clusters).tolist()
    cell = group * scoring.num_bins + bin_places(rows.confidence, scoring.num_bins)
    by_chance = ece_by_chance(rows.confidence, cell, scoring.num_bins, scoring.resampling)
    chance = p_values(by_chance, values[GROUP_KEYS.index("ece")])
    keys = GROUP_KEYS if sets is not None else GROUP_KEYS[:-2]
    results = {}
    for index, code in enumerate(present.tolist()):
        scores = {}
        for key, value, drawn in zip(
            keys, values[:, index].tolist(), deviations[:, :, index].T, strict=True
        ):
            info = ALL_SCORES[key]
            if info.kind == "share" and scoring.clusters is None:
                scores[key] = share_score(value, int(sizes[index]))
            else:
                low, high = info.bounds(rows.probs.shape[1])
                method: IntervalMethod = "reflected" if key == "ece" else "percentile"
                scores[key] = interval_of(
                    value, drawn, method, low, high, units=units[index], kind=info.kind
                )
        scores = with_rare_errors(scores, units[index])
        if chance[index] > SIGNIFICANT:
            scores["ece"] = from_zero(scores["ece"])
        results[names[code]] = PartScores(int(sizes[index]), scores)
    return results


def _group_statistic(
    rows: LabelledRows, group: NDArray[np.int64], scoring: Scoring, sets: NDArray[np.bool_] | None
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function from row counts [N, R] to scores [K, G, R], K as in `GROUP_KEYS`."""
    features = [np.ones(len(rows)), rows.correct, rows.nll, rows.brier, rows.confidence]
    if sets is not None:
        covered = np.take_along_axis(sets, rows.labels[:, None], 1)[:, 0]
        features += [covered.astype(np.float64), sets.sum(1).astype(np.float64)]
    groups, num_bins = int(group.max()) + 1, scoring.num_bins
    cell = group * num_bins + bin_places(rows.confidence, num_bins)
    cells = [group + part * groups for part in range(len(features))]
    cells.append(len(features) * groups + cell)
    values = [*features, rows.correct - rows.confidence]
    matrix = cell_matrix(
        np.concatenate(cells),
        np.tile(np.arange(len(rows)), len(cells)),
        np.concatenate(values),
        (groups * (len(features) + num_bins), len(rows)),
    )

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = matrix @ counts
        plain = sums[: len(features) * groups].reshape(len(features), groups, -1)
        gaps = sums[len(features) * groups :].reshape(groups, num_bins, -1)
        size = plain[0]
        accuracy, nll, brier, confidence = plain[1:5] / size
        ece = np.abs(gaps).sum(axis=1) / size
        return np.stack([accuracy, nll, brier, ece, confidence - accuracy, *(plain[5:] / size)])

    return scores


def _resampled(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    group: NDArray[np.int64],
    scoring: Scoring,
) -> NDArray[np.float64]:
    """Return the scores of resamples drawn within each group, [R, K, G]."""
    resampling, clusters = scoring.resampling, scoring.clusters
    if clusters is None:
        clusters = np.arange(len(group))
    unit = without_gaps(group * (clusters.max() + 1) + clusters)  # numbered group by group
    of_unit = np.zeros(unit.max() + 1, dtype=np.int64)
    of_unit[unit] = group
    size = np.bincount(of_unit)
    start, size = (np.cumsum(size) - size)[of_unit], size[of_unit]
    generator = np.random.default_rng([resampling.seed, 5])
    parts = []
    for resamples in blocks(resampling.num_resamples, len(group)):
        drawn = start + (generator.random((resamples, len(start))) * size).astype(np.int64)
        drawn += len(start) * np.arange(resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=resamples * len(start))
        of_rows = counts.reshape(resamples, -1).T.astype(np.float64)[unit]
        parts.append(np.moveaxis(statistic(of_rows), -1, 0))
    return np.concatenate(parts)


CLASS_KEYS = ("recall", "precision", "f1", "mean_probability", "ece")
"""Scores of a class, in order."""

_KINDS: dict[str, Kind] = {
    "recall": "share",
    "precision": "share",
    "f1": "other",
    "mean_probability": "mean",
    "ece": "other",
}


def class_scores(
    rows: LabelledRows, names: tuple[str, ...], scoring: Scoring
) -> dict[str, PartScores]:
    """Return the scores of every class.

    Args:
        rows: N labelled rows.
        names: Names of the C classes.
        scoring: Bins, intervals and clusters.
    """
    classes = len(names)

    def prepare(indices: Rows) -> Statistic:
        return _class_statistic(rows.take(indices), scoring)

    values = prepare(np.arange(len(rows)))(np.ones(len(rows))).reshape(len(CLASS_KEYS), classes)
    clusters, width = scoring.clusters, 2 * scoring.num_bins * classes
    spread = scoring.resampling.spread(prepare, [len(rows)], [clusters], width=width)
    sizes = clusters_in(rows.labels, None, classes).tolist()
    trials = {
        "recall": clusters_in(rows.labels, clusters, classes).tolist(),
        "precision": clusters_in(rows.prediction, clusters, classes).tolist(),
    }
    # Labels and predictions may share clusters: the larger number counts no cluster twice.
    trials["f1"] = list(map(max, trials["recall"], trials["precision"]))
    measure = class_measure(rows, scoring)
    drawn = drawn_errors(
        rows.probs, lambda labels: measure(labels).by_class, scoring.resampling, clusters
    )
    chance = p_values(drawn, values[CLASS_KEYS.index("ece")])
    results = {}
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
        results[name] = PartScores(sizes[c], scores)
    return results


def _class_statistic(rows: LabelledRows, scoring: Scoring) -> Statistic:
    bins = classwise_bins(rows.probs, rows.labels, scoring.num_bins, rows.available, rows.shares)
    per_class = class_counts(rows)

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = bins(counts)
        counted = per_class(counts)
        sizes = sums.rows if sums.present is None else np.maximum(sums.present, 1)
        mean = rows.probs.T @ counts / sizes
        shares = (counted.recall, counted.precision, counted.f1_by_class)
        return np.concatenate([*shares, mean, sums.by_class])

    return scores
