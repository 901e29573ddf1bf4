"""Mean scores of one method over several seeds, with t intervals over seeds.

The bootstrap measures how much a score depends on the sampled rows; these intervals measure how
much it depends on the seed of the fit. With S seeds the interval of a score is its mean ± t·s/√S,
with s the standard deviation over seeds and t the quantile of Student's distribution with S − 1
degrees of freedom (Student 1908), so it is wide for few seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.intervals import LEVEL
from bayeslora.metrics.ood import common_first
from bayeslora.metrics.scores import ALL_SCORES, OODScores, PartScores, Score, Scores

Floats = Sequence[float] | NDArray[np.float64]
Part = TypeVar("Part")
Mean = TypeVar("Mean")


def over_seeds(scores: Sequence[Scores], name: str | None = None) -> Scores:
    """Return the mean of each score over seeds, with a 95 % t interval.

    Scores that any seed lacks are omitted. Bins and the risk-coverage curve belong to a single fit
    and are omitted as well; `calibration_p` is None, `chance_p` is empty, and `confusion` is the
    sum over seeds.

    Args:
        scores: Results of `evaluate` for the same method and rows, one per seed.
        name: Name of the result; the name of the first by default.

    Raises:
        InputError: There are fewer than two results, or they differ in the number of rows, classes
            or bins.
    """
    if len(scores) < 2:
        raise InputError(f"an interval over seeds needs at least two seeds, got {len(scores)}")
    first = scores[0]
    for index, other in enumerate(scores[1:], 2):
        for field in ("n", "n_labelled", "class_names", "num_bins"):
            expected, actual = getattr(first, field), getattr(other, field)
            if expected != actual:
                raise InputError(
                    f"all seeds need the same {field}: seed 1 has {expected}, seed {index} has "
                    f"{actual}"
                )
    chance = [result.ece_if_calibrated for result in scores if result.ece_if_calibrated is not None]
    return replace(
        first,
        name=first.name if name is None else name,
        file="",
        scores=_means([result.scores for result in scores]),
        bins=(),
        sure=None,
        risk_coverage=(),
        ood=_each([result.ood for result in scores], _ood),
        groups=_each([result.groups for result in scores], lambda parts: _each(parts, _part)),
        classes=_each([result.classes for result in scores], _part),
        confusion=tuple(map(tuple, np.sum([result.confusion for result in scores], 0).tolist())),
        nll_clamped=sum(result.nll_clamped for result in scores),
        ece_if_calibrated=float(np.mean(chance)) if len(chance) == len(scores) else None,
        calibration_p=None,
        chance_p={},
        intervals={"level": LEVEL, "method": "t over seeds", "num_seeds": len(scores)},
    )


def welch_interval(first: Floats, second: Floats) -> Score:
    """Return the difference of two means with its t interval for unequal variances.

    Welch (1947), Biometrika 34.

    Args:
        first: At least two values.
        second: At least two values, whose mean is subtracted.
    """
    from scipy.stats import ttest_ind

    value = float(np.mean(first) - np.mean(second))
    if not np.ptp(first) and not np.ptp(second):
        return Score(value, value, value)
    ends = ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    return Score(value, float(ends.low), float(ends.high))


def t_interval(values: Floats, low: float = -math.inf, high: float = math.inf) -> Score:
    """Return the mean of values with its t interval, clipped to the bounds of the score.

    Args:
        values: At least two values.
        low: Lowest possible value of the score.
        high: Highest possible value of the score.
    """
    from scipy.stats import t

    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return Score(mean, min(max(mean - half, low), mean), max(min(mean + half, high), mean))


def _means(scores: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    return {
        key: t_interval([result[key].value for result in scores], *_bounds(key))
        for key in scores[0]
        if all(key in result for result in scores)
    }


def _bounds(key: str) -> tuple[float, float]:
    return (ALL_SCORES[key].low, ALL_SCORES[key].high) if key in ALL_SCORES else (0.0, 1.0)


def _each(
    mappings: Sequence[Mapping[str, Part]], mean: Callable[[list[Part]], Mean]
) -> dict[str, Mean]:
    """Return the mean of each part that all seeds have, by name."""
    return {
        name: mean([mapping[name] for mapping in mappings])
        for name in mappings[0]
        if all(name in mapping for mapping in mappings)
    }


def _ood(results: Sequence[OODScores]) -> OODScores:
    by_score = _each([result.by_score for result in results], _means)
    score = common_first(result.score for result in results)
    scores = by_score[score]
    return replace(
        results[0],
        score=score,
        auroc=scores["auroc"],
        aupr=scores["aupr"],
        fpr95=scores["fpr95"],
        aupr_in=scores.get("aupr_in"),
        by_score=by_score,
        doubt=_common(result.doubt for result in results),
        better=_common(result.better for result in results),
    )


def _common(values: Iterable[str]) -> str:
    """Return the common value of all seeds, or an empty string if they differ."""
    distinct = {*values}
    return distinct.pop() if len(distinct) == 1 else ""


def _part(results: Sequence[PartScores]) -> PartScores:
    return PartScores(results[0].n, _means([result.scores for result in results]))
