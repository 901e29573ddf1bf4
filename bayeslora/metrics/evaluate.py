"""All scores of a set of predictions, with intervals: the one call behind tables and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import MAX_ROWS, Rows, Statistic, bootstrap_deviations
from bayeslora.metrics.calibration import (
    NUM_BINS,
    aece,
    ece,
    ece_if_calibrated,
    equal_width_edges,
    mce,
    reliability_bins,
)
from bayeslora.metrics.classwise import classwise_bins, cwece
from bayeslora.metrics.detect import detect
from bayeslora.metrics.intervals import LEVEL, Method, bootstrap_interval
from bayeslora.metrics.rowwise import LabelledRows, labelled_rows
from bayeslora.metrics.scores import Score, Scores
from bayeslora.metrics.selective import aurc, harmonic_numbers
from bayeslora.metrics.sets import SET_KEYS, set_scores, stated_coverage
from bayeslora.metrics.standard import calibration_errors
from bayeslora.metrics.top_label import top_label
from bayeslora.predictions import Predictions

SCORE_KEYS = (
    "accuracy",
    "nll",
    "brier",
    "ece",
    "aece",
    "cwece",
    "mce",
    "aurc",
    "mean_confidence",
    "overconfidence",
)
"""The keys of `Scores`, in order."""

REFLECTED = frozenset({"ece", "aece", "cwece", "mce"})
"""Scores whose noise only adds, and whose interval is therefore the reflected one."""

_SIGNED = "overconfidence"  # the only score that can be below zero
_UNBOUNDED = frozenset({"nll", "brier"})  # all others are shares, at most 1


def evaluate(
    predictions: Predictions | str | Path,
    ood: Mapping[str, Predictions | str | Path] | None = None,
    *,
    ood_score: str | None = None,
    num_bins: int = NUM_BINS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Return the scores of some predictions, each with a 95 % bootstrap interval over rows.

    Where the predictions carry prediction sets, these are scored too.

    Args:
        predictions: In-distribution predictions, or the file they are in. Rows without a label
            count for OOD detection alone; without any label only `mean_confidence` and the sizes
            of prediction sets are scored.
        ood: Predictions, or their files, for out-of-distribution rows, by name of the set.
        ood_score: The uncertainty to detect OOD rows by; see `Predictions.uncertainty`. By default
            `epistemic` where both sets have it and it is not zero throughout, else
            `max_probability`.
        num_bins: Bins of the calibration errors and of the reliability diagram.
        num_resamples: Bootstrap resamples.
        seed: Of the bootstrap: the same seed gives the same intervals.

    Raises:
        InputError: A file, a value in it, or an option is wrong.
    """
    equal_width_edges(num_bins)  # complains before anything is read
    inside, file = _loaded(predictions)
    rows = labelled_rows(inside)
    scores = Scores(
        name=inside.name,
        file=file,
        n=len(inside),
        n_labelled=len(rows),
        num_classes=inside.num_classes,
        num_bins=num_bins,
        scores={},
        ood={
            name: detect(
                name, inside, _loaded(other)[0], ood_score, num_resamples=num_resamples, seed=seed
            )
            for name, other in (ood or {}).items()
        },
        intervals=_interval_notes(num_resamples, seed, sets=inside.sets is not None),
        stated_coverage=stated_coverage(inside),
    )
    sets = set_scores(inside, num_resamples, seed)
    if not len(rows):
        return replace(scores, scores=_confidence_alone(inside, num_resamples, seed) | sets)
    surest = top_label(rows.confidence, rows.correct)
    return replace(
        scores,
        scores=_scored(rows, num_bins, num_resamples, seed) | sets,
        bins=reliability_bins(surest, num_bins),
        nll_clamped=rows.clamped,
        ece_if_calibrated=ece_if_calibrated(surest, num_bins),
    )


def _loaded(given: Predictions | str | Path) -> tuple[Predictions, str]:
    if isinstance(given, Predictions):
        return given, ""
    return Predictions.load(given), str(given)


def _interval_notes(num_resamples: int, seed: int, *, sets: bool) -> dict[str, str | int | float]:
    return {
        "level": LEVEL,
        "method": "percentile bootstrap over rows",
        **dict.fromkeys(sorted(REFLECTED), "reflected (basic) bootstrap over rows"),
        "bins": "Wilson",
        **(SET_KEYS if sets else {}),
        "num_resamples": num_resamples,
        "max_rows": MAX_ROWS,
        "seed": seed,
    }


def _statistic(rows: LabelledRows, num_bins: int, draws: int) -> Statistic:
    """Return the function from counts of `rows` to the scores in the order of `SCORE_KEYS`."""
    means = rows.means
    surest = top_label(rows.confidence, rows.correct)
    bins = classwise_bins(rows.probs, rows.labels, num_bins)
    harmonic = harmonic_numbers(max(draws, len(rows)))

    def scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        accuracy, nll, brier, confidence = counts @ means / counts.sum()
        return np.array(
            [
                accuracy,
                nll,
                brier,
                ece(surest, num_bins, counts),
                aece(surest, num_bins, counts),
                cwece(bins, counts),
                mce(surest, num_bins, counts),
                aurc(surest, counts, harmonic),
                confidence,
                confidence - accuracy,
            ]
        )

    return scores


def _scored(rows: LabelledRows, num_bins: int, num_resamples: int, seed: int) -> dict[str, Score]:
    def prepare(kept: Rows) -> Statistic:
        return _statistic(rows.take(kept), num_bins, len(rows))

    values = _statistic(rows, num_bins, len(rows))(np.ones(len(rows), dtype=np.int64))
    errors = calibration_errors(top_label(rows.confidence, rows.correct), num_bins)
    values[[SCORE_KEYS.index("ece"), SCORE_KEYS.index("mce")]] = errors
    deviations = bootstrap_deviations(prepare, [len(rows)], num_resamples, seed)
    return {
        key: bootstrap_interval(
            float(values[k]),
            deviations[:, k],
            _method(key),
            -math.inf if key == _SIGNED else 0.0,
            math.inf if key in _UNBOUNDED else 1.0,
        )
        for k, key in enumerate(SCORE_KEYS)
    }


def _method(key: str) -> Method:
    return "reflected" if key in REFLECTED else "percentile"


def _confidence_alone(predictions: Predictions, num_resamples: int, seed: int) -> dict[str, Score]:
    confidence = np.sort(predictions.confidence)

    def prepare(kept: Rows) -> Statistic:
        return lambda counts: np.array([counts @ confidence[kept] / counts.sum()])

    deviations = bootstrap_deviations(prepare, [len(confidence)], num_resamples, seed)
    value = float(confidence.mean())
    return {"mean_confidence": bootstrap_interval(value, deviations[:, 0], "percentile", 0.0)}
