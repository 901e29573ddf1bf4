"""All scores of a set of predictions with intervals, as used by tables and reports.

Of prediction sets these are the coverage of the label and the size. Proportions have Wilson
intervals, the mean size a bootstrap interval; if rows form clusters, proportions have bootstrap
intervals too. The lowest coverage of a class is biased downwards by selection: its interval is
built from intervals of every class at level 1 − 0.05/C (Bonferroni), from the smallest of their
lower ends to the smallest of their upper ends, and so covers the lowest true coverage with a
probability of at least 95 %; it treats rows as independent, even with clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import (
    MAX_ROWS,
    check_columns,
    column_names,
    values_of,
    without_gaps,
)
from bayeslora.metrics.calibration import (
    NUM_BINS,
    Closed,
    as_num_bins,
    check_closed,
    reliability_bins,
    top_label,
)
from bayeslora.metrics.catalogue import (
    REFLECTED,
    SCORE_KEYS,
    SCORES,
    SET_SCORES,
    UNLABELLED_KEYS,
    Kind,
)
from bayeslora.metrics.intervals import (
    LEVEL,
    Bootstrap,
    Resampling,
    resampled_means,
    share_score,
    wilson,
)
from bayeslora.metrics.ood import check_kinds, detect, grouped
from bayeslora.metrics.per_class import confusion
from bayeslora.metrics.rowwise import LabelledRows, Scoring, labelled_rows
from bayeslora.metrics.scores import LEAST_ROWS, PartScores, Score, Scores
from bayeslora.metrics.selective import risk_curve
from bayeslora.metrics.statistics import all_scores
from bayeslora.metrics.subgroups import class_scores, group_scores
from bayeslora.metrics.uncertainties import uncertainty_means
from bayeslora.predictions.collection import PredictionsLike, as_predictions
from bayeslora.predictions.files import open_columns
from bayeslora.predictions.record import Predictions

__all__ = ["REFLECTED", "SCORE_KEYS", "evaluate"]


def evaluate(
    predictions: PredictionsLike,
    ood: Mapping[str, PredictionsLike] | Any = None,
    *,
    ood_score: str | None = None,
    near: str | Sequence[str] | None = None,
    far: str | Sequence[str] | None = None,
    group_by: str | Sequence[str] | None = None,
    by_class: bool = False,
    cluster_by: str | None = None,
    num_bins: int = NUM_BINS,
    closed: Closed = "left",
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
        ood: Out-of-distribution predictions in the same formats, by name of the set; or `y_prob`.
        ood_score: Uncertainty to detect OOD rows by; by default `unfamiliarity` if both sets have
            it, else `epistemic` if it is informative, else `max_probability`. See
            `Predictions.uncertainty` and `metrics.ood`.
        near: Names of the OOD sets to average over as near OOD.
        far: Names of the OOD sets to average over as far OOD.
        group_by: Columns of the predictions; the rows of each value are scored separately, too.
        by_class: Whether to also score every class, with the confusion matrix.
        cluster_by: Column whose equal values mark related rows, such as the two sentences of a
            twin, which the bootstrap draws together. OOD sets may lack the column.
        num_bins: Bins of the calibration errors and of the reliability diagram; 15 by default.
        closed: Edge that bins include: `left` by default, or `right` as in scikit-learn.
        **bootstrap: `num_resamples`, 1000 unless given; `seed`, 0 unless given; and `interval`,
            `percentile` (default) or `bca`: scores that noise biases upwards always have reflected
            intervals, and groups of rows and means over sets percentile intervals.

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
    if ood is not None and not isinstance(ood, Mapping):
        predictions, ood = Predictions.from_arrays(ood, predictions), None
    num_bins = as_num_bins(num_bins)
    check_closed(closed)
    resampling = Resampling(**bootstrap)
    kinds = {"near": column_names(near), "far": column_names(far)}
    check_kinds(kinds, [*(ood or {})])
    columns = column_names(group_by)
    inside, file = _loaded(predictions, (*columns, *column_names(cluster_by)))
    check_columns(inside, columns)
    outside = {
        name: _loaded(other, _carried(other, cluster_by))[0] for name, other in (ood or {}).items()
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
        file=file,
        n=len(inside),
        n_labelled=int(inside.labelled.sum()),
        num_classes=inside.num_classes,
        class_names=inside.classes,
        num_bins=num_bins,
        closed=closed,
        scores=set_scores(inside, resampling, clusters),
        ood={name: detection.scores() for name, detection in detected.items()},
        ood_groups=grouped(detected, kinds),
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
    scoring = Scoring(num_bins, closed, resampling, row_clusters)
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


def _loaded(predictions: PredictionsLike, columns: Sequence[str] = ()) -> tuple[Predictions, str]:
    file = str(predictions) if isinstance(predictions, str | Path) else ""
    return as_predictions(predictions, columns), file


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
    shape = {"percentile": "percentile", "bca": "BCa"}[resampling.interval]
    notes = {key: text for key, text in SET_KEYS.items() if cluster_by is None or "class" in key}
    return {
        "level": LEVEL,
        "method": f"{shape} bootstrap {drawn}",
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
    bins, closed = scoring.num_bins, scoring.closed
    top = top_label(rows.confidence, rows.correct)
    return {
        "bins": reliability_bins(top, bins, closed=closed, clusters=scoring.clusters),
        # The last of ten bins of equal width: confidence from 0.9 to 1.
        "sure": reliability_bins(top, 10, clusters=scoring.clusters)[-1],
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
