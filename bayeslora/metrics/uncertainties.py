"""Means of uncertainties: over all rows, those predicted rightly and those predicted wrongly.

They are total, aleatoric and epistemic uncertainty in nats, and the variance of the logits.

An uncertainty that is worth its name is higher where the prediction is wrong. One that is zero in
every row, as the epistemic one of a point estimate, is zero by definition, and so are the ends of
its interval.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.clusters import clusters_in
from bayeslora.metrics.intervals import Resampling, in_order
from bayeslora.metrics.scores import Score
from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.predictions.record import Predictions

LOGIT_VARIANCE = "logit_variance"
"""The score `score_logit_variance` of predictions, in squared units of a logit."""

PARTS = ("mean", "right", "wrong")
"""The rows that a mean is over: all, those predicted rightly, those predicted wrongly."""


def uncertainty_means(
    predictions: Predictions, how: Resampling, clusters: NDArray[np.int64] | None = None
) -> dict[str, dict[str, Score]]:
    """Return the means by uncertainty and part, with intervals.

    Parts without a row are left out, and so are uncertainties that the predictions do not have.

    Args:
        predictions: Rows, labelled or not.
        how: How the intervals are made.
        clusters: [N] cluster of each row, or None.
    """
    known = _known(predictions)
    if not known:
        return {}
    labels = predictions.labels if predictions.labels is not None else np.full(len(predictions), -1)
    right = (labels >= 0) & (predictions.prediction == labels)
    parts = np.stack([np.ones(len(right)), right, (labels >= 0) & ~right])
    table = np.stack([*known.values()])
    # the logit variance breaks ties alone: with it or without, the others' resamples are the same
    keys = sorted(known, key=lambda name: name in UNCERTAINTIES)
    ties = [known[name] for name in keys]
    order, own = in_order((*ties, *parts), clusters)
    table, parts = table[:, order], parts[:, order]
    prepare = partial(_part_means, table, parts)
    sizes = [int(clusters_in(members > 0, own, 2)[1]) for members in parts]
    rows = len(right)
    values = prepare(np.arange(rows))(np.ones(rows)).reshape(len(known), len(PARTS))
    spread = how.spread(prepare, [rows], [own])

    def scored(one: int, part: int) -> Score:
        if not table[one].any():
            return Score(0.0, 0.0, 0.0)
        bounds = _range(table[one], predictions.num_classes)
        place, value = one * len(PARTS) + part, float(values[one, part])
        return spread.score(place, value, *bounds, kind="mean", units=sizes[part])

    present = [(place, part) for place, part in enumerate(PARTS) if parts[place].any()]
    return {
        name: {part: scored(one, place) for place, part in present}
        for one, name in enumerate(known)
    }


def _known(predictions: Predictions) -> dict[str, NDArray[np.float64]]:
    known = {
        name: values for name in UNCERTAINTIES if (values := getattr(predictions, name)) is not None
    }
    if LOGIT_VARIANCE in predictions.scores:
        known[LOGIT_VARIANCE] = predictions.scores[LOGIT_VARIANCE]
    return known


def _part_means(table: NDArray[np.float64], parts: NDArray[np.float64], kept: Rows) -> Statistic:
    """Return the means of the values [K, N] over the members of the parts [P, N], [K · P]."""
    values, members = table[:, kept], parts[:, kept]
    weighted = (values[:, None] * members).reshape(-1, len(kept))

    def means(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sizes = members @ counts
        sums = (weighted @ counts).reshape(len(values), *sizes.shape)
        empty = np.where(sizes > 0, 1.0, np.nan)
        return np.asarray((sums / np.maximum(sizes, 1) * empty).reshape(-1, *counts.shape[1:]))

    return means


def _range(values: NDArray[np.float64], num_classes: int) -> tuple[float, float]:
    """Return the bounds of an uncertainty: of entropies, or of those of another tool's units."""
    return float(min(0.0, values.min())), float(max(np.log(num_classes), values.max()))
