"""Scores under soft labels, and of ordered classes.

With p the probabilities of a row, q the shares of its annotators' choices, or 1 for its label, and
P and Q their running sums over the classes, a row adds

    soft_nll         −Σ_c q_c log p_c
    soft_brier       Σ_c q_c Σ_k (p_k − [k = c])² = Σ_k p_k² − 2 Σ_k q_k p_k + 1
    kl               Σ_c q_c log (q_c / p_c)
    soft_ece         as `ece`, where the accuracy of a row is q of the most probable class
    rps              Σ_{k<C} (P_k² − 2 P_k Q_k + Q_k) / (C − 1)
    score_error      |Σ_k k p_k − Σ_k k q_k|, k from 1 to C

Except for `kl` and `score_error` these are the means of the scores of a label drawn from q; with
one choice per row they are those of this label. RPS: Epstein 1969, Journal of Applied Meteorology
8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import bin_sums, top_label
from bayeslora.metrics.intervals import Resampling, Rows, Statistic, without_gaps
from bayeslora.metrics.rowwise import CLAMP
from bayeslora.metrics.scores import ORDERED_SCORES, SOFT_SCORES, Score
from bayeslora.predictions.record import Predictions

Floats = NDArray[np.float64]
_KEYS = ("soft_nll", "soft_brier", "kl", "rps", "score_error", "soft_ece")


def soft_scores(
    predictions: Predictions,
    num_bins: int,
    resampling: Resampling,
    clusters: NDArray[np.int64] | None = None,
    *,
    ordered: bool = False,
) -> dict[str, Score]:
    """Return the scores of the rows with soft labels; empty without any, unless ordered.

    Args:
        predictions: Rows, labelled or not.
        num_bins: Bins of the calibration error.
        resampling: Options of the bootstrap intervals.
        clusters: [N] cluster of each row, or None.
        ordered: Whether the classes are ordered; rows without soft labels then count by their
            label.
    """
    infos = {} if predictions.soft_labels is None else {**SOFT_SCORES}
    infos |= ORDERED_SCORES if ordered else {}
    shares = predictions.label_shares
    labelled = ~np.isnan(shares[:, 0])
    if not infos or not labelled.any():
        return {}
    shares = shares[labelled]
    probs, confidence = predictions.probs[labelled], predictions.confidence[labelled]
    right = np.take_along_axis(shares, predictions.prediction[labelled, None], 1)[:, 0]
    means = np.stack([*_means(probs, shares).values()])
    groups = np.arange(len(shares)) if clusters is None else clusters[labelled]
    # Sorted, so that a seeded bootstrap does not depend on the order of the rows.
    order = np.lexsort((groups, *means, right, confidence))
    means, confidence, right = means[:, order], confidence[order], right[order]

    def prepare(indices: Rows) -> Statistic:
        bins = bin_sums(top_label(confidence[indices], right[indices]), num_bins)
        parts = means[:, indices]
        return lambda counts: np.concatenate(
            [parts @ counts / counts.sum(0), bins(counts).ece[None]]
        )

    values = prepare(np.arange(len(order)))(np.ones(len(order)))
    cluster = None if clusters is None else without_gaps(groups[order])
    spread = resampling.spread(prepare, [len(order)], [cluster], width=num_bins)
    scores = {}
    for place, key in enumerate(_KEYS):
        if key in infos:
            low, high = infos[key].bounds(probs.shape[1])
            options: Any = {"reflected": infos[key].reflected, "kind": infos[key].kind}
            scores[key] = spread.score(place, float(values[place]), low, high, **options)
    return scores


def _means(probs: Floats, shares: Floats) -> dict[str, Floats]:
    """Return what each row adds to the scores that are means, [N] by key."""
    nll = -(shares * np.log(np.maximum(probs, CLAMP))).sum(1)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1)
    below, share_below = probs.cumsum(1)[:, :-1], shares.cumsum(1)[:, :-1]
    places = np.arange(1, probs.shape[1] + 1)
    return {
        "soft_nll": nll,
        "soft_brier": (probs * (probs - 2 * shares)).sum(1) + 1,
        "kl": nll - entropy,
        "rps": (below * (below - 2 * share_below) + share_below).mean(1),
        "score_error": np.abs((probs - shares) @ places),
    }
