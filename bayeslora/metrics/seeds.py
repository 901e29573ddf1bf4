"""One method fitted with several seeds: means of its scores, with t intervals over the seeds.

The bootstrap says how much a score depends on the rows that were drawn; this says how much it
depends on the seed of the fit. With S seeds the interval of a score is its mean ± t·s/√S, with s
the standard deviation over seeds and t the quantile of Student's distribution with S − 1 degrees of
freedom (Student 1908): wide for few seeds, as it should be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.catalogue import ALL_SCORES
from bayeslora.metrics.intervals import LEVEL
from bayeslora.metrics.ood import common_first
from bayeslora.metrics.scores import OODGroup, OODScores, PartScores, Score, Scores
from bayeslora.metrics.uncertainties import PARTS

Floats = Sequence[float] | NDArray[np.float64]
One = TypeVar("One")
Mean = TypeVar("Mean")


def over_seeds(scores: Sequence[Scores], name: str | None = None) -> Scores:
    """Return the mean of each score over seeds, with a 95 % t interval.

    A score that one of the seeds lacks is left out. Bins and the risk-coverage curve belong to a
    single fit and are left out as well; `calibration_p` is None, `chance_p` empty, and `confusion`
    the sum over the seeds.

    Args:
        scores: What `evaluate` returned, one per seed, of the same method and rows.
        name: The name of the result; that of the first by default.

    Raises:
        InputError: There are fewer than two, or they differ in the number of rows, classes or bins.
    """
    if len(scores) < 2:
        raise InputError(f"an interval over seeds needs at least two of them, got {len(scores)}")
    first = scores[0]
    for place, other in enumerate(scores[1:], 2):
        for field in ("n", "n_labelled", "num_classes", "num_bins", "closed"):
            ours, theirs = getattr(first, field), getattr(other, field)
            if ours != theirs:
                raise InputError(f"seed 1 has {field} = {ours}, seed {place} {theirs}")
    chance = [one.ece_if_calibrated for one in scores if one.ece_if_calibrated is not None]
    return replace(
        first,
        name=first.name if name is None else name,
        file="",
        scores=_means([one.scores for one in scores]),
        bins=(),
        risk_coverage=(),
        ood=_each([one.ood for one in scores], _ood),
        ood_groups=_each([one.ood_groups for one in scores], _group),
        uncertainty=_each([one.uncertainty for one in scores], _means),
        groups=_each([one.groups for one in scores], lambda parts: _each(parts, _part)),
        classes=_each([one.classes for one in scores], _part),
        confusion=_confusion(scores),
        nll_clamped=sum(one.nll_clamped for one in scores),
        ece_if_calibrated=float(np.mean(chance)) if len(chance) == len(scores) else None,
        calibration_p=None,
        chance_p={},
        intervals={"level": LEVEL, "method": "t over seeds", "num_seeds": len(scores)},
    )


def welch_interval(ours: Floats, theirs: Floats) -> Score:
    """Return the difference of two means with its t interval, the variances being unequal.

    The degrees of freedom are Welch's: (u + v)²/(u²/(m − 1) + v²/(n − 1)), with u and v the
    variances of the two means. Welch (1947), Biometrika 34.

    Args:
        ours: At least two values.
        theirs: At least two values, which are subtracted.
    """
    from scipy.stats import t

    value = float(np.mean(ours) - np.mean(theirs))
    u, v = (float(np.var(one, ddof=1)) / len(one) for one in (ours, theirs))
    if u + v == 0:
        return Score(value, value, value)
    freedom = (u + v) ** 2 / (u**2 / (len(ours) - 1) + v**2 / (len(theirs) - 1))
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(u + v)
    return Score(value, value - half, value + half)


def t_interval(values: Floats, low: float = -math.inf, high: float = math.inf) -> Score:
    """Return the mean of some values with its t interval, cut off at the bounds of the score.

    Args:
        values: At least two.
        low: The lowest value that the score can have.
        high: The highest.
    """
    from scipy.stats import t

    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return Score(mean, min(max(mean - half, low), mean), max(min(mean + half, high), mean))


def _means(scores: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    return {
        key: t_interval([one[key].value for one in scores], *_bounds(key))
        for key in scores[0]
        if all(key in one for one in scores)
    }


def _confusion(scores: Sequence[Scores]) -> tuple[tuple[int, ...], ...]:
    """Return the sum of the matrices; nothing where one is missing, or orders of classes differ."""
    alike = all(one.class_names == scores[0].class_names and one.confusion for one in scores)
    if not alike:
        return ()
    return tuple(tuple(row) for row in np.sum([one.confusion for one in scores], axis=0).tolist())


def _bounds(key: str) -> tuple[float, float]:
    if key in ALL_SCORES:
        return ALL_SCORES[key].low, ALL_SCORES[key].high
    return 0.0, math.inf if key in PARTS else 1.0


def _each(found: Sequence[Mapping[str, One]], mean: Callable[[list[One]], Mean]) -> dict[str, Mean]:
    """Return the mean of each part that all seeds have, by its name."""
    return {
        name: mean([one[name] for one in found])
        for name in found[0]
        if all(name in one for one in found)
    }


def _ood(found: Sequence[OODScores]) -> OODScores:
    by_score = _each([one.by_score for one in found], _means)
    score = common_first(one.score for one in found)
    own = by_score[score]
    return replace(
        found[0],
        score=score,
        auroc=own["auroc"],
        aupr=own["aupr"],
        fpr95=own["fpr95"],
        aupr_in=own.get("aupr_in"),
        by_score=by_score,
        doubt=_common(one.doubt for one in found),
        better=_common(one.better for one in found),
    )


def _common(values: Iterable[str]) -> str:
    """Return what all seeds say, or nothing where they differ."""
    every = {*values}
    return every.pop() if len(every) == 1 else ""


def _group(found: Sequence[OODGroup]) -> OODGroup:
    by_score = _each([one.by_score for one in found], _means)
    score = common_first(one.score for one in found)
    return replace(found[0], score=score, scores=by_score[score], by_score=by_score)


def _part(found: Sequence[PartScores]) -> PartScores:
    return PartScores(found[0].n, _means([one.scores for one in found]))
