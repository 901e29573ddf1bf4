"""How far the predictions of several methods are from those of one, row by row.

    tv               mean over rows of ½ Σ_c |p_c − r_c|, the total variation distance from the
                     reference's probabilities r; 0 to 1
    epistemic_ratio  mean epistemic uncertainty over that of the reference; 1 where they agree

With exact chains (`nuts`) as the reference they say how good an approximation is; they hold for any
predictions. Total variation is the largest difference between the probabilities that the two give
to any set of classes (Levin and Peres 2017, Markov Chains and Mixing Times, proposition 4.2). The
reference's own Monte Carlo error is part of it: two sets of S independent draws of a probability
with posterior deviation σ lie about σ √(2/S) apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows
from bayeslora.metrics.intervals import Resampling
from bayeslora.metrics.scores import Score
from bayeslora.predictions.record import Predictions

DISTANCES = ("tv", "epistemic_ratio")
"""The keys of `distances`, in order."""

_CEILINGS = {"tv": 1.0, "epistemic_ratio": math.inf}


def distances(
    predictions: Sequence[Predictions],
    place: int,
    how: Resampling | None = None,
    clusters: NDArray[np.int64] | None = None,
) -> list[Mapping[str, Score]]:
    """Return each method's distances from one of them, with 95 % bootstrap intervals over rows.

    `epistemic_ratio` is missing where the method or the reference has no epistemic uncertainty, or
    that of the reference is zero throughout.

    Args:
        predictions: The same rows and classes in the same order.
        place: Which of them is the reference.
        how: How the intervals are made.
        clusters: [N] cluster of each row, or None.
    """
    base = predictions[place]
    apart = np.stack([0.5 * np.abs(one.probs - base.probs).sum(1) for one in predictions])
    known = [one.epistemic for one in predictions]
    ours = known[place]
    rated = ours is not None and bool(ours.any())
    doubts = np.stack([one if one is not None and rated else np.zeros(len(base)) for one in known])
    totals = doubts.sum(1)

    def statistic(rows: Rows, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = doubts[:, rows] @ counts
        # A resample without a row that the reference is uncertain about says nothing of the ratio.
        whole = (totals / (totals[place] or math.inf)).reshape(-1, *[1] * (counts.ndim - 1))
        ratios = np.where(sums[place] > 0, sums / np.where(sums[place] > 0, sums[place], 1), whole)
        return np.concatenate([apart[:, rows] @ counts / counts.sum(axis=0), ratios])

    every = np.arange(len(base))
    width = len(predictions)
    values = statistic(every, np.ones(len(base))).reshape(len(DISTANCES), width)
    spread = (how or Resampling()).spread(
        lambda rows: lambda counts: statistic(rows, counts), [len(base)], [clusters]
    )
    found: list[Mapping[str, Score]] = []
    for method, epistemic in enumerate(known):
        keys = DISTANCES if rated and epistemic is not None else DISTANCES[:1]
        if method == place:
            found.append(
                {key: Score(*[float(values[k, method])] * 3) for k, key in enumerate(keys)}
            )
            continue
        found.append(
            {
                key: spread.score(
                    k * width + method,
                    float(values[k, method]),
                    0.0,
                    _CEILINGS[key],
                    kind="mean",
                )
                for k, key in enumerate(keys)
            }
        )
    return found
