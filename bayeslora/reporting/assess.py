"""Methods with their scores, and the few questions that tables and words both ask of them.

Fits of one method with several seeds count as one method where they share their rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.clusters import check_columns, column_names, values_of
from bayeslora.metrics.compare import Comparison, compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.intervals import LEVEL, IntervalMethod
from bayeslora.metrics.ood_groups import KINDS, check_kinds
from bayeslora.metrics.pairing import paired
from bayeslora.metrics.scores import Bin, Score, Scores
from bayeslora.metrics.seeds import over_seeds
from bayeslora.predictions.collection import Method, by_group, named_predictions
from bayeslora.predictions.names import unique_labels
from bayeslora.reporting.answers import Answers, answers_of

Names = str | Sequence[str] | None
"""One name, several, or none."""


@dataclass(frozen=True)
class Asked:
    """Options of `evaluate` that a report passes on.

    Attributes:
        near: Names of out-of-distribution sets to average over as near ones.
        far: Names of those to average over as far ones.
        group_by: Columns whose values are scored apart.
        by_class: Whether every class is scored.
        cluster_by: Column whose equal values mark rows that are drawn together.
        interval: Which bootstrap intervals.
    """

    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()
    by_class: bool = False
    cluster_by: str | None = None
    interval: IntervalMethod = "percentile"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every method must have."""
        return column_names([*self.group_by, *column_names(self.cluster_by)])

    @property
    def pairing(self) -> dict[str, Any]:
        """The options that a paired comparison knows as well."""
        return {"cluster_by": self.cluster_by, "interval": self.interval}

    def check(self, methods: Sequence[Method]) -> None:
        """Raise InputError for a set or a column that a method lacks, before anything is scored.

        Raises:
            InputError: It is so.
        """
        for one in methods:
            check_kinds({kind: getattr(self, kind) for kind in KINDS}, [*one.ood])
            check_columns(one.predictions, self.columns)


NOTHING = Asked()
"""The scores of all rows, and no more."""


CLOSE = 0.05
"""Largest gap between confidence and accuracy, to the end of its interval, that counts as small: a
method without a sign of miscalibration is called well calibrated, a biased one slightly biased."""

CHANCE = 0.05
"""Share of a calibrated method's bins whose 95 % interval misses the diagonal all the same."""

_TESTS = 3

GOALS: Mapping[str, float] = {
    **{key: info.goal for key, info in SCORES.items() if info.goal is not None},
    "auroc": math.inf,
    "aupr": math.inf,
    "fpr95": -math.inf,
    "aupr_in": math.inf,
}
"""Where each score is best: as high as can be, as low as can be, or at zero.

Those of prediction sets are left out: sets are better when smaller only at the same coverage, and
coverage is meant to be what was asked for.
"""


@dataclass(frozen=True)
class Point:
    """A bin that holds rows; attributes as in `Bin`, none of them missing."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float

    @property
    def off_diagonal(self) -> bool:
        """Whether the interval of the accuracy leaves out the mean confidence."""
        return not self.accuracy_low <= self.confidence <= self.accuracy_high


@dataclass(frozen=True)
class Assessed:
    """A method and its scores.

    Attributes:
        method: The method; of several seeds, the first one's predictions under the method's label.
        scores: Its scores; of several seeds, their means.
        fits: The seeds, each with its own scores; empty of a single fit.
    """

    method: Method
    scores: Scores
    fits: tuple[Assessed, ...] = ()

    @property
    def label(self) -> str:
        """The method's label."""
        return self.method.label

    @property
    def title(self) -> str:
        """The label, with the number of seeds where there are several."""
        return f"{self.label} ({len(self.fits)} seeds)" if self.fits else self.label

    @property
    def each(self) -> tuple[Assessed, ...]:
        """The seeds, or the one fit that there is."""
        return self.fits or (self,)

    @cached_property
    def answers(self) -> Answers:
        """The labelled rows, of which there is at least one; of several seeds, the first one's."""
        return answers_of(self.method.predictions, clusters_of(self))

    @property
    def points(self) -> list[Point]:
        """The bins that hold rows."""
        return occupied(self.scores.bins)


def assess(
    methods: Sequence[Method],
    *,
    ood_score: str | None,
    num_bins: int,
    seed: int,
    num_resamples: int,
    asked: Asked = NOTHING,
) -> list[Assessed]:
    """Score every method on its rows and its out-of-distribution sets, as `evaluate` does."""
    return [
        Assessed(
            method,
            evaluate(
                method.predictions,
                {name: source.predictions for name, source in method.ood.items()},
                ood_score=ood_score,
                num_bins=num_bins,
                num_resamples=num_resamples,
                seed=seed,
                **vars(asked),
            ),
        )
        for method in methods
    ]


def clusters_of(one: Assessed) -> NDArray[np.int64] | None:
    """Return [n] the cluster of each labelled row, where the scores took rows as clustered."""
    column = one.scores.intervals.get("cluster_by")
    if column is None:
        return None
    predictions = one.method.predictions
    return values_of(predictions, str(column))[0][predictions.labelled]


def occupied(bins: Sequence[Bin]) -> list[Point]:
    """Return the bins that hold rows."""
    return [
        Point(item.low, item.high, item.count, item.confidence, item.accuracy, low, high)
        for item in bins
        if item.confidence is not None
        and item.accuracy is not None
        and (low := item.accuracy_low) is not None
        and (high := item.accuracy_high) is not None
    ]


def overlaps(one: Score, other: Score) -> bool:
    """Return whether two intervals share a point; where one is missing, they are taken to."""
    return not (one.low > other.high or other.low > one.high)


def best_index(key: str, scores: Sequence[Score | None]) -> int | None:
    """Return the place of the best score, the first of equal ones; None where none is better."""
    goal = GOALS.get(key)
    if goal is None:
        return None

    def loss(score: Score) -> float:
        return abs(score.value) if goal == 0 else -math.copysign(1.0, goal) * score.value

    present = [(loss(score), index) for index, score in enumerate(scores) if score is not None]
    return min(present)[1] if present else None


def misses_more_than_chance(points: Sequence[Point]) -> bool:
    """Return whether so many bins of a calibrated method miss the diagonal less than 5 % of times.

    Words name the bins then; whether the method is called miscalibrated is for `miscalibrated`.
    """
    return bins_p(points) < SIGNIFICANT


def bins_p(points: Sequence[Point]) -> float:
    """Return how probable it is that at least as many bins miss the diagonal by chance.

    By the binomial distribution, at a rate of `CHANCE` per bin.
    """
    size, missed = len(points), sum(point.off_diagonal for point in points)
    return sum(
        math.comb(size, k) * CHANCE**k * (1 - CHANCE) ** (size - k) for k in range(missed, size + 1)
    )


def bias_p(gap: Score) -> float:
    """Return the two-sided p-value of no gap between mean confidence and accuracy.

    By the normal distribution whose 95 % interval is that of the gap, on the side towards zero: it
    is below 0.05 where the interval leaves out zero. 1 where there is no interval.
    """
    half = gap.value - gap.low if gap.value > 0 else gap.high - gap.value
    if not gap.has_interval or gap.value == 0:
        return 1.0
    z = NormalDist().inv_cdf((1 + LEVEL) / 2) * abs(gap.value) / half if half > 0 else math.inf
    return math.erfc(z / math.sqrt(2))


def miscalibration_p(scores: Scores) -> float:
    """Return the p-value of perfect calibration of labelled rows, by three tests together.

    These are of the gap on average, of how many bins miss the diagonal, and of the ECE; their
    smallest p-value is multiplied by three (Bonferroni). Every sentence on calibration follows
    from this one number: one of the three alone finds a fault in one of twenty calibrated methods.
    """
    ece = 1.0 if scores.calibration_p is None else scores.calibration_p
    found = bias_p(scores["overconfidence"]), bins_p(occupied(scores.bins)), ece
    return min(1.0, _TESTS * min(found))


def labelled(methods: Sequence[Assessed]) -> list[Assessed]:
    """Return the methods that have labelled rows."""
    return [one for one in methods if "nll" in one.scores]


Bias = Literal["over", "under", "none"]


def bias(method: Assessed) -> Bias:
    """Return whether mean confidence and accuracy differ by more than the interval allows.

    Of several seeds, whether every one of them is.
    """
    if method.fits:
        found = {bias(fit) for fit in method.fits}
        return found.pop() if len(found) == 1 else "none"
    return bias_of(method.scores)


def bias_of(scores: Scores) -> Bias:
    """Return `bias` of the scores of one fit."""
    gap = scores["overconfidence"]
    if gap.low > 0:
        return "over"
    return "under" if gap.high < 0 else "none"


def is_close(gap: Score) -> bool:
    """Return whether the interval of a gap ends within `CLOSE` of zero on both sides."""
    return max(abs(gap.low), abs(gap.high)) <= CLOSE


def slightly_biased(scores: Scores) -> bool:
    """Return whether there is a bias, and both its interval and the ECE are within `CLOSE`."""
    gap = scores["overconfidence"]
    return bias_of(scores) != "none" and is_close(gap) and scores["ece"].value <= CLOSE


def miscalibrated(method: Assessed) -> bool:
    """Return whether the confidence is off by more than chance explains, of any of the seeds."""
    return any(miscalibration_p(one.scores) < SIGNIFICANT for one in method.each)


def doubtful(method: Assessed) -> bool:
    """Return whether a test finds a fault that may be chance, since there are three of them."""
    return is_doubtful(min(miscalibration_p(one.scores) for one in method.each))


def is_doubtful(p: float) -> bool:
    """Return whether a corrected p-value would be significant without its correction."""
    return SIGNIFICANT <= p < _TESTS * SIGNIFICANT


def pair(
    methods: Sequence[Assessed],
    *,
    num_bins: int,
    seed: int,
    num_resamples: int,
    asked: Asked = NOTHING,
) -> Comparison | None:
    """Compare every labelled method with the one of lowest NLL, row by row, under their labels.

    None where there are fewer than two, or where they are not about the same rows.
    """
    known = labelled(methods)
    place = best_index("nll", [one.scores["nll"] for one in known])
    if place is None or len(known) < 2:
        return None
    records = [
        named_predictions(replace(fit.method, group=one.label), over_seeds=bool(one.fits))
        for one in known
        for fit in one.each
    ]
    try:
        return compare(
            records,
            reference=known[place].label,
            over_seeds=any(one.fits for one in known),
            num_bins=num_bins,
            num_resamples=num_resamples,
            seed=seed,
            **asked.pairing,
        )
    except InputError:  # rows, classes or labels differ: there are no pairs
        return None


def pool(fits: Sequence[Assessed]) -> list[Assessed]:
    """Return one entry a method: means over its seeds with t intervals, where it has several.

    Fits are taken together where `by_group` says that they are seeds of one method, and all have
    the same labelled rows. Others stay as they are.

    Args:
        fits: What was scored.
    """
    by_label = {one.label: one for one in fits}
    found = []
    for group, members in by_group([one.method for one in fits]).items():
        own = [by_label[one.label] for one in members]
        found += [_mean(group, own)] if len(own) > 1 and _on_the_same_rows(own) else own
    labels = unique_labels([one.label for one in found])
    return [
        replace(one, method=replace(one.method, label=label)) if one.fits else one
        for one, label in zip(found, labels, strict=True)
    ]


def every_fit(methods: Sequence[Assessed]) -> list[Assessed]:
    """Return the fits of all methods, one after the other."""
    return [fit for one in methods for fit in one.each]


def _mean(label: str, fits: Sequence[Assessed]) -> Assessed:
    scores = over_seeds([one.scores for one in fits], label)
    return Assessed(replace(fits[0].method, label=label), scores, tuple(fits))


def _on_the_same_rows(fits: Sequence[Assessed]) -> bool:
    try:
        paired([one.method.predictions.replace(name=one.label) for one in fits])
    except InputError:
        return False
    return True
