"""All scores of a set of predictions with intervals, as used by tables and reports.

Of prediction sets these are the coverage of the label and the size. Proportions have Wilson
intervals, the mean size a bootstrap interval; if rows form clusters, proportions have bootstrap
intervals too. The lowest coverage of a class is biased downwards by selection: its interval is
built from intervals of every class at level 1 − 0.05/C (Bonferroni), from the smallest of their
lower ends to the smallest of their upper ends, and so covers the lowest true coverage with a
probability of at least 95 %; it treats rows as independent, even with clusters.

Means of uncertainties are over all, correctly and incorrectly predicted rows, where a useful one is
higher. One that is zero in every row, as of a point estimate, is zero by definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import (
    MAX_ROWS,
    Rows,
    Statistic,
    check_columns,
    clusters_in,
    column_names,
    values_of,
    without_gaps,
)
from bayeslora.metrics.calibration import (
    COVERAGES,
    NUM_BINS,
    Selection,
    adaptive_errors,
    as_num_bins,
    bin_sums,
    reliability_bins,
    risk_curve,
    top_label,
)
from bayeslora.metrics.chance import CHANCE_KEYS, SIGNIFICANT, errors_by_chance, p_values
from bayeslora.metrics.intervals import (
    LEVEL,
    Bootstrap,
    Resampling,
    from_zero,
    in_order,
    resampled_means,
    share_score,
    wilson,
    with_rare_errors,
)
from bayeslora.metrics.ood import detect
from bayeslora.metrics.rowwise import (
    LabelledRows,
    Scoring,
    brier_parts,
    class_counts,
    classwise_bins,
    confusion,
    labelled_rows,
)
from bayeslora.metrics.scores import (
    LEAST_ROWS,
    REFLECTED,
    SCORE_KEYS,
    SCORES,
    SET_SCORES,
    UNLABELLED_KEYS,
    Kind,
    PartScores,
    Score,
    Scores,
)
from bayeslora.metrics.subgroups import class_scores, group_scores
from bayeslora.predictions.collection import (
    PredictionsLike,
    as_predictions,
    load_source,
    warn_unlabelled,
)
from bayeslora.predictions.files import UNCERTAINTIES, PredictionsReading, open_columns
from bayeslora.predictions.record import Predictions

__all__ = ["REFLECTED", "SCORE_KEYS", "evaluate"]


def evaluate(
    predictions: PredictionsLike | Any = None,
    y_prob: Any = None,
    *,
    y_true: Any = None,
    ood: Mapping[str, PredictionsLike] | None = None,
    label_column: str | None = None,
    ood_score: str | None = None,
    group_by: str | Sequence[str] | None = None,
    by_class: bool = False,
    cluster_by: str | None = None,
    num_bins: int = NUM_BINS,
    **bootstrap: Unpack[Bootstrap],
) -> Scores:
    """Score predictions, with a 95 % bootstrap interval over rows for each score.

    Prediction sets, if present, are scored too. `evaluate(y_true, y_prob)` scores arrays, as
    scikit-learn's metrics do: [N] labels and [N, C] probabilities (`Predictions.from_arrays`).

    Args:
        predictions: In-distribution predictions, their file, or a data frame with `label` and
            `prob_<class>` columns (see `Predictions.from_frame`). Rows without a label are used for
            OOD detection only; without any label only `mean_confidence`, `sharpness`, uncertainties
            and the sizes of prediction sets are scored.
        y_prob: [N, C] probabilities, or [N] those of the second of two classes.
        y_true: [N] labels of `y_prob`; the same as the first argument.
        ood: Out-of-distribution predictions in the same formats, by name of the set.
        label_column: Column of the labels of a file or a data frame, which must exist; None means
            `label`, if there is one.
        ood_score: Uncertainty to detect OOD rows by; by default `unfamiliarity` if both sets have
            it, else `epistemic` if it is informative, else `max_probability`. See
            `Predictions.uncertainty` and `metrics.ood`.
        group_by: Columns of the predictions; the rows of each value are scored separately, too.
        by_class: Whether to also score every class, with the confusion matrix.
        cluster_by: Column whose equal values mark related rows, such as the two sentences of a
            twin, which the bootstrap draws together. OOD sets may lack the column.
        num_bins: Bins of the calibration errors and of the reliability diagram; 15 by default.
        **bootstrap: `num_resamples`, 1000 unless given; and `seed`, 0 unless given. Scores that
            noise biases upwards have reflected intervals, the others percentile intervals.

    Raises:
        InputError: A file, a value in it, or an option is wrong.

    Example:
        >>> rows = {"label": ["a", "b"], "prob_a": [0.8, 0.4], "prob_b": [0.2, 0.6]}
        >>> scores = evaluate(Predictions.from_frame(rows))
        >>> scores["accuracy"].value
        1.0
        >>> round(scores["nll"].value, 3)  # -(log 0.8 + log 0.6) / 2
        0.367
    """
    if y_prob is not None:
        labels = predictions if y_true is None else y_true
        predictions = Predictions.from_arrays(y_prob, labels)
    num_bins = as_num_bins(num_bins)
    resampling = Resampling(**bootstrap)
    columns = column_names(group_by)
    reading = PredictionsReading(label_column=label_column)
    source = load_source(predictions, (), (*columns, *column_names(cluster_by)), reading)
    inside = source.predictions
    if inside is not predictions:
        warn_unlabelled(source)
    check_columns(inside, columns)
    outside = {
        name: as_predictions(other, _carried(other, cluster_by))
        for name, other in (ood or {}).items()
    }
    clusters = None if cluster_by is None else values_of(inside, cluster_by)[0]
    detected = detect(
        inside,
        outside,
        ood_score,
        resampling,
        clusters=_clusters(outside, cluster_by),
        inside_clusters=clusters,
    )
    scores = Scores(
        name=inside.name,
        file=str(predictions) if isinstance(predictions, str | Path) else "",
        n=len(inside),
        n_labelled=int(inside.labelled.sum()),
        num_classes=inside.num_classes,
        class_names=inside.classes,
        num_bins=num_bins,
        scores=set_scores(inside, resampling, clusters),
        ood=detected,
        uncertainty=uncertainty_means(inside, resampling, clusters),
        intervals=_interval_notes(resampling, cluster_by, sets=inside.sets is not None),
        stated_coverage=stated_coverage(inside),
        chance_accuracy=float((1 / inside.num_options).mean()),
    )
    if not scores.n_labelled:
        return replace(
            scores, scores={**_without_labels(inside, resampling, clusters), **scores.scores}
        )
    rows = labelled_rows(inside, clusters)
    row_clusters = None if clusters is None else without_gaps(clusters[rows.index])
    scoring = Scoring(num_bins, resampling, row_clusters)
    return _with_labels(scores, inside, rows, scoring, columns, by_class=by_class)


def _with_labels(
    scores: Scores,
    inside: Predictions,
    rows: LabelledRows,
    scoring: Scoring,
    columns: Sequence[str],
    *,
    by_class: bool,
) -> Scores:
    """Add the scores that need labels."""
    results, chance, by_chance = all_scores(rows, scoring)
    return replace(
        scores,
        scores={**results, **scores.scores},
        calibration_p=chance["ece"],
        chance_p=chance,
        ece_if_calibrated=by_chance,
        groups=_groups(inside, rows, columns, scoring),
        classes=class_scores(rows, inside.classes, scoring) if by_class else {},
        nll_clamped=rows.clamped,
        confusion=confusion(rows),
        **_calibration(rows, scoring),
    )


def _carried(predictions: PredictionsLike, column: str | None) -> list[str]:
    if column is None or not isinstance(predictions, str | Path):
        return []
    return [name for name in open_columns(predictions).further if name == column]


def _clusters(
    outside: Mapping[str, Predictions], cluster_by: str | None
) -> dict[str, NDArray[np.int64]]:
    return {
        name: values_of(record, cluster_by)[0]
        for name, record in outside.items()
        if cluster_by is not None and cluster_by in record.columns
    }


def _interval_notes(
    resampling: Resampling, cluster_by: str | None, *, sets: bool
) -> dict[str, str | int | float]:
    drawn = "over rows" if cluster_by is None else f"over clusters of equal {cluster_by!r}"
    notes = {key: text for key, text in SET_KEYS.items() if cluster_by is None or "class" in key}
    return {
        "level": LEVEL,
        "method": f"percentile bootstrap {drawn}",
        **dict.fromkeys(sorted(REFLECTED), f"reflected (basic) bootstrap {drawn}"),
        "bins": "Wilson" if cluster_by is None else "Wilson, as of one row a cluster",
        "few_rows": f"below {LEAST_ROWS} rows or where none differ: Wilson for shares, else wide or"
        " null",
        **(notes if sets else {}),
        "num_resamples": resampling.num_resamples,
        "max_rows": MAX_ROWS,
        "seed": resampling.seed,
        **({} if cluster_by is None else {"cluster_by": cluster_by}),
    }


def _calibration(rows: LabelledRows, scoring: Scoring) -> dict[str, Any]:
    """Return the results that depend on the confidence alone, as attributes of `Scores`."""
    top = top_label(rows.confidence, rows.correct)
    return {
        "bins": reliability_bins(top, scoring.num_bins, scoring.clusters),
        # The last of ten bins of equal width: confidence from 0.9 to 1.
        "sure": reliability_bins(top, 10, scoring.clusters)[-1],
        "risk_coverage": risk_curve(top),
    }


def _groups(
    inside: Predictions, rows: LabelledRows, columns: Sequence[str], scoring: Scoring
) -> dict[str, dict[str, PartScores]]:
    sets = None if inside.sets is None else inside.sets[rows.index]
    by_column = {}
    for column in columns:
        codes, names = values_of(inside, column)
        by_column[column] = group_scores(rows, codes[rows.index], names, scoring, sets)
    return by_column


def _without_labels(
    predictions: Predictions, resampling: Resampling, clusters: NDArray[np.int64] | None
) -> dict[str, Score]:
    squares = np.einsum("nc,nc->n", predictions.probs, predictions.probs)
    table = np.stack([predictions.confidence, squares])
    table, spread = resampled_means(table, (squares, predictions.confidence), resampling, clusters)
    return {
        key: spread.score(
            index, float(table[index].mean()), SCORES[key].low, SCORES[key].high, kind="mean"
        )
        for index, key in enumerate(UNLABELLED_KEYS)
    }


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


def all_scores(
    rows: LabelledRows, scoring: Scoring
) -> tuple[dict[str, Score], dict[str, float], float]:
    """Return all scores with intervals, p-values by `CHANCE_KEYS`, and the ECE by chance.

    A p-value is the frequency with which labels drawn from the probabilities themselves give a
    score at least as large; if it exceeds 5 %, the interval begins at zero. The ECE by chance is
    the mean ECE of these labels.

    Args:
        rows: At least one labelled row.
        scoring: Bins, intervals and clusters.
    """
    num_bins = scoring.num_bins

    def prepare(indices: Rows) -> Statistic:
        return statistic(rows.take(indices), num_bins)

    estimates = statistic(rows, num_bins)(np.ones(len(rows)))
    values = dict(zip(SCORE_KEYS, estimates.tolist(), strict=True))
    width = 2 * num_bins * rows.probs.shape[1]
    spread = scoring.resampling.spread(prepare, [len(rows)], [scoring.clusters], width=width)
    scores = {
        key: spread.score(
            index,
            values[key],
            info.low,
            info.high,
            reflected=info.reflected,
            kind=info.kind,
            units=-(-spread.units * info.percent // 100),
        )
        for index, (key, info) in enumerate(SCORES.items())
    }
    scores = with_rare_errors(scores, spread.units)
    observed = np.array([values[key] for key in CHANCE_KEYS])
    drawn = errors_by_chance(rows, scoring)
    p = p_values(drawn, observed)
    chance = dict(zip(CHANCE_KEYS, p.tolist(), strict=True))
    return (
        {
            key: from_zero(score) if chance.get(key, 0.0) > SIGNIFICANT else score
            for key, score in scores.items()
        },
        chance,
        float(drawn[CHANCE_KEYS.index("ece")].mean()),
    )


def statistic(rows: LabelledRows, num_bins: int) -> Statistic:
    """Return the function from row counts to scores in the order of `SCORE_KEYS`.

    It takes counts [N] or [N, R] and returns [K] or [K, R].
    """
    means = rows.means.T
    surest = top_label(rows.confidence, rows.correct)
    bins = bin_sums(surest, num_bins)
    by_class = classwise_bins(rows.probs, rows.labels, num_bins, rows.available)
    per_class = class_counts(rows)
    select = Selection(surest)
    ones = np.ones(len(rows))

    def scores(counts: NDArray[Any]) -> NDArray[np.float64]:
        weights = np.asarray(counts, dtype=np.float64).reshape(len(rows), -1)
        accuracy, nll, brier, confidence, sharpness = means @ weights / (ones @ weights)
        sums, classes = bins(weights), by_class(weights)
        weighed = surest.weighed(weights)
        chosen = select(weighed)
        parts = brier_parts(classes, brier)
        counted = per_class(weights)
        by_key = {
            "accuracy": accuracy,
            "f1": counted.f1,
            "balanced_accuracy": counted.balanced_accuracy,
            "mcc": counted.mcc,
            "nll": nll,
            "brier": brier,
            "brier_reliability": parts.reliability,
            "brier_resolution": parts.resolution,
            "brier_uncertainty": parts.uncertainty,
            "ece": sums.ece,
            "aece": adaptive_errors(surest, weighed, num_bins),
            "cwece": classes.cwece,
            "mce": sums.mce,
            "aurc": chosen.aurc,
            **{f"accuracy_at_{percent}": chosen.accuracy_at(percent) for percent in COVERAGES},
            "mean_confidence": confidence,
            "overconfidence": confidence - accuracy,
            "sharpness": sharpness,
        }
        return np.stack([by_key[key] for key in SCORE_KEYS]).reshape(-1, *counts.shape[1:])

    return scores


LOGIT_VARIANCE = "logit_variance"
"""The score `score_logit_variance` of predictions, in squared logit units."""

PARTS = ("mean", "right", "wrong")
"""Subsets of rows: all, correctly predicted, incorrectly predicted."""


def uncertainty_means(
    predictions: Predictions, resampling: Resampling, clusters: NDArray[np.int64] | None = None
) -> dict[str, dict[str, Score]]:
    """Return the means by uncertainty and subset, with intervals.

    Empty subsets and missing uncertainties are omitted.

    Args:
        predictions: Rows, labelled or not.
        resampling: Options of the intervals.
        clusters: [N] cluster of each row, or None.
    """
    uncertainties = _uncertainties(predictions)
    if not uncertainties:
        return {}
    labels = predictions.labels if predictions.labels is not None else np.full(len(predictions), -1)
    right = (labels >= 0) & (predictions.prediction == labels)
    parts = np.stack([np.ones(len(right)), right, (labels >= 0) & ~right])
    table = np.stack([*uncertainties.values()])
    # the logit variance only breaks ties, so it does not change the resamples of the others
    keys = sorted(uncertainties, key=lambda name: name in UNCERTAINTIES)
    ties = [uncertainties[name] for name in keys]
    order, clusters = in_order((*ties, *parts), clusters)
    table, parts = table[:, order], parts[:, order]
    prepare = partial(_part_means, table, parts)
    sizes = [int(clusters_in(members > 0, clusters, 2)[1]) for members in parts]
    rows = len(right)
    values = prepare(np.arange(rows))(np.ones(rows)).reshape(len(uncertainties), len(PARTS))
    spread = resampling.spread(prepare, [rows], [clusters])

    def scored(index: int, part: int) -> Score:
        if not table[index].any():
            return Score(0.0, 0.0, 0.0)
        bounds = _range(table[index], predictions.num_classes)
        position, value = index * len(PARTS) + part, float(values[index, part])
        return spread.score(position, value, *bounds, kind="mean", units=sizes[part])

    present = [(k, part) for k, part in enumerate(PARTS) if parts[k].any()]
    return {
        name: {part: scored(index, k) for k, part in present}
        for index, name in enumerate(uncertainties)
    }


def _uncertainties(predictions: Predictions) -> dict[str, NDArray[np.float64]]:
    uncertainties = {
        name: values for name in UNCERTAINTIES if (values := getattr(predictions, name)) is not None
    }
    if LOGIT_VARIANCE in predictions.scores:
        uncertainties[LOGIT_VARIANCE] = predictions.scores[LOGIT_VARIANCE]
    return uncertainties


def _part_means(table: NDArray[np.float64], parts: NDArray[np.float64], indices: Rows) -> Statistic:
    """Return the function from row counts to means of K values over P subsets, [K · P]."""
    values, members = table[:, indices], parts[:, indices]
    weighted = (values[:, None] * members).reshape(-1, len(indices))

    def means(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sizes = members @ counts
        sums = (weighted @ counts).reshape(len(values), *sizes.shape)
        empty = np.where(sizes > 0, 1.0, np.nan)
        return np.asarray((sums / np.maximum(sizes, 1) * empty).reshape(-1, *counts.shape[1:]))

    return means


def _range(values: NDArray[np.float64], num_classes: int) -> tuple[float, float]:
    """Return the bounds of an uncertainty: those of entropies, extended for other units."""
    return float(min(0.0, values.min())), float(max(np.log(num_classes), values.max()))
