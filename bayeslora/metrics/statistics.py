"""All scores of labelled rows as a function of row counts, for any number of resamples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.calibration import Closed, adaptive_errors, bin_sums, ece_debiased, top_label
from bayeslora.metrics.catalogue import SCORE_KEYS, SCORES
from bayeslora.metrics.chance import CHANCE_KEYS, SIGNIFICANT, errors_by_chance, p_values
from bayeslora.metrics.intervals import from_zero, with_rare_errors
from bayeslora.metrics.per_class import brier_parts, class_counts, classwise_bins
from bayeslora.metrics.rowwise import LabelledRows, Scoring
from bayeslora.metrics.scores import Score
from bayeslora.metrics.selective import COVERAGES, Selection
from bayeslora.metrics.smooth import smooth_errors


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
    num_bins, closed = scoring.num_bins, scoring.closed

    def prepare(indices: Rows) -> Statistic:
        return statistic(rows.take(indices), num_bins, closed)

    estimates = statistic(rows, num_bins, closed)(np.ones(len(rows)))
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


def statistic(rows: LabelledRows, num_bins: int, closed: Closed) -> Statistic:
    """Return the function from row counts to scores in the order of `SCORE_KEYS`.

    It takes counts [N] or [N, R] and returns [K] or [K, R].
    """
    means = rows.means.T
    surest = top_label(rows.confidence, rows.correct)
    bins = bin_sums(surest, num_bins, closed)
    by_class = classwise_bins(rows.probs, rows.labels, num_bins, closed, rows.available)
    smooth = smooth_errors(surest)
    per_class = class_counts(rows)
    select = Selection(surest)
    ones = np.ones(len(rows))

    def scores(counts: NDArray[Any]) -> NDArray[np.float64]:
        weights = np.asarray(counts, dtype=np.float64).reshape(len(rows), -1)
        accuracy, nll, brier, confidence, sharpness = means @ weights / (ones @ weights)
        sums, classes = bins(weights), by_class.sums(weights)
        weighed = surest.weighed(weights)
        chosen = select(weighed)
        parts = brier_parts(classes, brier)
        area = chosen.aurc
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
            "ece_debiased": ece_debiased(sums),
            "smece": smooth(weights),
            "ece_over": sums.over,
            "ece_under": sums.under,
            "aurc": area,
            "eaurc": np.maximum(area - chosen.best_aurc, 0),
            **{f"accuracy_at_{percent}": chosen.accuracy_at(percent) for percent in COVERAGES},
            "mean_confidence": confidence,
            "overconfidence": confidence - accuracy,
            "sharpness": sharpness,
        }
        return np.stack([by_key[key] for key in SCORE_KEYS]).reshape(-1, *counts.shape[1:])

    return scores
