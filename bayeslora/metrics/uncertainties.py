"""Mean uncertainties over all rows, correctly predicted rows and incorrectly predicted rows.

These are total, aleatoric and epistemic uncertainty in nats, and the variance of the logits.

A useful uncertainty is higher for wrong predictions. An uncertainty that is zero in every row, such
as the epistemic uncertainty of a point estimate, is zero by definition, with an interval from 0 to
0.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows, Statistic, clusters_in
from bayeslora.metrics.intervals import Resampling, in_order
from bayeslora.metrics.scores import Score
from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.predictions.record import Predictions

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
