"""Scores of methods and their differences, with intervals over rows or over seeds.

Over rows: the paired bootstrap, in which every fit is scored on the same resample. Over seeds,
where every method has several fits: Student's t, of the differences seed by seed where all have the
same seeds (Student 1908), else of the difference of two means with unequal variances (Welch 1947,
Biometrika 34).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.catalogue import SCORES, Kind
from bayeslora.metrics.fits import Contest, Fits, chosen_statistic, numbers_kept
from bayeslora.metrics.intervals import Resampling, Spread
from bayeslora.metrics.scores import Score
from bayeslora.metrics.seeds import t_interval, welch_interval

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
    found[contest.base] = found[contest.base][0], dict.fromkeys(keys, Score(0.0, 0.0, 0.0))
    return found


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
