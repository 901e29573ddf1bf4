"""Scores of methods and their differences, with intervals over rows or over seeds.

Over rows: the paired bootstrap, in which every fit is scored on the same resample. Over seeds,
where every method has several fits: Student's t, of the differences seed by seed where all have the
same seeds (Student 1908), else of the difference of two means with unequal variances (Welch 1947,
Biometrika 34).

Distances say how far the predictions of a method are from those of another, row by row:

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

from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.catalogue import SCORES, Kind
from bayeslora.metrics.intervals import Resampling, Spread
from bayeslora.metrics.pairing import Contest, Fits, chosen_statistic, numbers_kept
from bayeslora.metrics.scores import Score
from bayeslora.metrics.seeds import t_interval, welch_interval
from bayeslora.predictions.record import Predictions

Measured = tuple[dict[str, Score], dict[str, Score]]
"""A method's own scores, and their differences from the reference."""


def over_rows(contest: Contest, how: Resampling) -> list[Measured]:
    """Return scores, means over the fits of a method, and differences with bootstrap intervals.

    Args:
        contest: What is compared.
        how: How the intervals are made.
    """

    def prepare(kept: Rows) -> Statistic:
        return _means_and_differences(contest, kept)

    first, keys = contest.methods[0].rows[0], contest.keys
    n, width = len(first), len(contest.methods) * len(keys)
    values = prepare(np.arange(n))(np.ones(n))
    held = numbers_kept(first, contest.num_bins, keys)
    spread = how.spread(prepare, [n], [contest.clusters], width=held)
    found = [
        (
            _intervals(values, spread, start, keys, signed=False),
            _intervals(values, spread, width + start, keys, signed=True),
        )
        for start in range(0, width, len(keys))
    ]
    probs = [[rows.probs for rows in one.rows] for one in contest.methods]
    for place, ours in enumerate(probs):
        if place == contest.base or _are_equal(ours, probs[contest.base]):
            found[place] = found[place][0], dict.fromkeys(keys, Score(0.0, 0.0, 0.0))
    return found


def _are_equal(ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]) -> bool:
    """Return whether the probabilities of two methods' fits show that the two are one.

    Probabilities that agree in every bit are no coincidence. Where all are 0 or 1 they may be: the
    methods can still differ on other rows, so the bootstrap's interval stands.
    """
    same = len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
    return same and any(((probs > 0) & (probs < 1)).any() for probs in ours)


def over_seeds_of(contest: Contest) -> list[Measured]:
    """Return means over seeds and differences of means, with t intervals over seeds.

    Args:
        contest: What is compared: at least two fits of each method.
    """
    values = [_of_fits(one, contest.keys, contest.num_bins) for one in contest.methods]
    base = values[contest.base]
    found = []
    for ours in values:
        scores, differences = {}, {}
        for key, mine, theirs in zip(contest.keys, ours.T, base.T, strict=True):
            scores[key] = t_interval(mine, SCORES[key].low, SCORES[key].high)
            by_seed = contest.same_seeds or ours is base
            differences[key] = (
                t_interval(mine - theirs) if by_seed else welch_interval(mine, theirs)
            )
        found.append((scores, differences))
    return found


def _of_fits(method: Fits, keys: Sequence[str], num_bins: int) -> NDArray[np.float64]:
    """Return the scores of each fit, [fits, K]."""
    return np.stack(
        [chosen_statistic(rows, num_bins, keys)(np.ones(len(rows))) for rows in method.rows]
    )


def _means_and_differences(contest: Contest, kept: Rows) -> Statistic:
    """Return the function from counts to scores and differences, [2 · methods · K]."""
    scored = [
        [chosen_statistic(rows.take(kept), contest.num_bins, contest.keys) for rows in one.rows]
        for one in contest.methods
    ]

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        table = np.stack([np.mean([fit(counts) for fit in fits], axis=0) for fits in scored])
        both = np.concatenate([table, table - table[contest.base]])
        return np.asarray(both.reshape(-1, *counts.shape[1:]))

    return scores


def _intervals(
    values: NDArray[np.float64], spread: Spread, start: int, keys: Sequence[str], *, signed: bool
) -> dict[str, Score]:
    found = {}
    for k, key in enumerate(keys):
        info = SCORES[key]
        ends = (-_farthest(key), _farthest(key)) if signed else (info.low, info.high)
        found[key] = spread.score(
            start + k,
            float(values[start + k]),
            *ends,
            reflected=info.reflected,
            kind=_kind_of_difference(key) if signed else info.kind,
        )
    return found


def _farthest(key: str) -> float:
    """Return by how much a row on which two methods differ moves n times their difference."""
    # Both a row's confidence and whether it is right enter an ECE.
    return 2.0 if key == "ece" else SCORES[key].high - SCORES[key].low


def _kind_of_difference(key: str) -> Kind:
    return "mean" if key == "ece" or SCORES[key].kind in {"share", "mean"} else "other"


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
        equal = _are_equal([predictions[method].probs], [base.probs])
        if method == place or (equal and np.array_equal(doubts[method], doubts[place])):
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
