"""The divergence from soft labels, and scores of ordered classes.

With p the probabilities of a row, q the shares of its annotators' choices, or 1 for its label, and
P and Q their running sums over the classes, a row adds

    kl            Σ_c q_c log (q_c / p_c)
    rps           Σ_{k<C} (P_k² − 2 P_k Q_k + Q_k) / (C − 1)
    score_error   |Σ_k k p_k − Σ_k k q_k|, k from 1 to C

`rps` is the mean of that of a label drawn from q, as are all scores in `rowwise`. RPS: Epstein
1969, Journal of Applied Meteorology 8.
"""

from __future__ import annotations

import numpy as np

from bayeslora.metrics.intervals import resampled_means
from bayeslora.metrics.rowwise import LabelledRows, Scoring
from bayeslora.metrics.scores import ORDERED_SCORES, SOFT_SCORES, Score


def soft_scores(rows: LabelledRows, scoring: Scoring, *, ordered: bool = False) -> dict[str, Score]:
    """Return `kl` where there are soft labels, and the scores of ordered classes.

    Args:
        rows: Labelled rows.
        scoring: Intervals and clusters.
        ordered: Whether the classes are ordered.
    """
    infos = {} if rows.shares is None else {**SOFT_SCORES}
    infos |= ORDERED_SCORES if ordered else {}
    if not infos:
        return {}
    shares, classes = rows.targets, rows.probs.shape[1]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1)
    below, share_below = rows.probs.cumsum(1)[:, :-1], shares.cumsum(1)[:, :-1]
    values = {
        "kl": rows.nll - entropy,
        "rps": (below * (below - 2 * share_below) + share_below).mean(1),
        "score_error": np.abs((rows.probs - shares) @ np.arange(1, classes + 1)),
    }
    table = np.stack([values[key] for key in infos])
    table, spread = resampled_means(table, [*table], scoring.resampling, scoring.clusters)
    return {
        key: spread.score(place, float(table[place].mean()), *info.bounds(classes), kind=info.kind)
        for place, (key, info) in enumerate(infos.items())
    }
