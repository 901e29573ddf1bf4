"""All scores of a set of predictions with intervals, as used by tables and reports.

Of prediction sets these are the coverage of the label and the size. Proportions have Wilson
intervals, the mean size a bootstrap interval; if rows form clusters, proportions have bootstrap
intervals too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

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
    MAX_ROWS,
    Bootstrap,
    Resampling,
    Rows,
    Statistic,
    check_columns,
    column_names,
    from_zero,
    resampled_means,
    share_score,
    values_of,
    with_rare_errors,
    without_gaps,
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
    PartScores,
    Score,
    Scores,
)
from bayeslora.metrics.soft import soft_scores
from bayeslora.metrics.subgroups import class_scores, group_scores
from bayeslora.predictions.collection import (
    PredictionsLike,
    as_predictions,
    load_source,
    warn_unlabelled,
)
from bayeslora.predictions.files import PredictionsReading, open_columns
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
    ordered: bool = False,
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
        ordered: Whether the classes are ordered as they are listed, such as ratings: adds the
            ranked probability score and the error of the expected score.
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
    if ood_score is not None and not ood:
        inside.uncertainty(ood_score)  # refuses an unknown name
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
        intervals=_interval_notes(resampling, cluster_by, sets=inside.sets is not None),
        chance_accuracy=float((1 / inside.num_options).mean()),
    )
    if not scores.n_labelled:
        return replace(
            scores, scores={**_without_labels(inside, resampling, clusters), **scores.scores}
        )
    rows = labelled_rows(inside, clusters)
    row_clusters = None if clusters is None else without_gaps(clusters[rows.index])
    scoring = Scoring(num_bins, resampling, row_clusters)
    further = soft_scores(rows, scoring, ordered=ordered)
    scores = replace(scores, scores={**further, **scores.scores})
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
    return {
        "level": LEVEL,
        "method": f"percentile bootstrap {drawn}",
        **dict.fromkeys(sorted(REFLECTED), f"reflected (basic) bootstrap {drawn}"),
        "bins": "Wilson" if cluster_by is None else "Wilson, as of one row a cluster",
        "few_rows": f"below {LEAST_ROWS} rows or where none differ: Wilson for shares, else wide or"
        " null",
        **(_SET_INTERVALS if sets and cluster_by is None else {}),
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


_SET_INTERVALS = {
    key: "Wilson" if info.kind == "share" else "percentile bootstrap over rows"
    for key, info in SET_SCORES.items()
}


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
    return _means(sets, covered, resampling, labelled_clusters)


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
    by_class = classwise_bins(rows.probs, rows.labels, num_bins, rows.available, rows.shares)
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
