"""Methods with their scores and labelled rows, and criteria that tables and sentences share.

Fits of one method with several seeds count as one method if they share their rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.calibration import NUM_BINS, as_num_bins
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.clusters import check_columns, clusters_in, column_names, values_of
from bayeslora.metrics.compare import COMPARED, Comparison, compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.intervals import LEVEL, Bootstrap, IntervalMethod, Resampling, wilson
from bayeslora.metrics.ood import KINDS, check_kinds
from bayeslora.metrics.pairing import paired
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.metrics.scores import Bin, Score, Scores
from bayeslora.metrics.seeds import over_seeds
from bayeslora.metrics.top_label import TopLabel, top_label
from bayeslora.predictions.collection import Method, by_group, named_predictions, unique_labels

Names = str | Sequence[str] | None
"""A name, several names, or None."""


class EvaluateOptions(Bootstrap, total=False):
    """Keywords of `evaluate` that a report passes on, with the same meaning and defaults."""

    ood_score: str | None
    near: Names
    far: Names
    group_by: Names
    by_class: bool
    cluster_by: str | None
    num_bins: int


@dataclass(frozen=True)
class Evaluation:
    """The values of `EvaluateOptions`.

    Raises:
        InputError: `num_bins`, `seed` or `interval` is wrong.
    """

    ood_score: str | None = None
    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()
    by_class: bool = False
    cluster_by: str | None = None
    interval: IntervalMethod = "percentile"
    num_bins: int = NUM_BINS
    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_bins", as_num_bins(self.num_bins))
        Resampling(self.num_resamples, self.seed, self.interval)  # checks them

    @classmethod
    def of(cls, **options: Unpack[EvaluateOptions]) -> Evaluation:
        """Return the options, with names of sets and columns as tuples."""
        values: dict[str, Any] = {**options}
        for name in ("near", "far", "group_by"):
            values[name] = column_names(values.get(name))
        return cls(**values)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns required of every method."""
        return column_names([*self.group_by, *column_names(self.cluster_by)])

    @property
    def sizes(self) -> dict[str, Any]:
        """The options that scores of every set of rows share."""
        return {name: getattr(self, name) for name in ("num_bins", "num_resamples", "seed")}

    def check(self, methods: Sequence[Method]) -> None:
        """Raise InputError if a method lacks a set or a column, before scoring."""
        for method in methods:
            check_kinds({kind: getattr(self, kind) for kind in KINDS}, [*method.ood])
            check_columns(method.predictions, self.columns)


CLOSE = 0.05
"""Largest gap between confidence and accuracy, including its interval, that counts as small: then a
method without a sign of miscalibration is called well calibrated, a biased one slightly biased."""

CHANCE = 0.05
"""Expected share of a calibrated method's bins whose 95 % interval misses the diagonal."""

_TESTS = 3


@dataclass(frozen=True)
class Point:
    """A non-empty bin; attributes as in `Bin`, none of them None."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float

    @property
    def off_diagonal(self) -> bool:
        """Whether the interval of the accuracy excludes the mean confidence."""
        return not self.accuracy_low <= self.confidence <= self.accuracy_high


SURE = 0.9
"""Confidence from which a prediction counts as confident."""

ANSWERED = 0.8
"""Share of rows that are answered if the least confident rows go to a person."""


@dataclass(frozen=True)
class Share:
    """k of n rows, with the 95 % Wilson interval of the share; a cluster counts as one row."""

    count: int
    size: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, k / n."""
        return self.count / self.size


@dataclass(frozen=True, eq=False)
class Answers:
    """The labelled rows of a method, at least one, with the [n] cluster of each, if any."""

    rows: LabelledRows
    clusters: NDArray[np.int64] | None = None

    @property
    def confidence(self) -> NDArray[np.float64]:
        """[n] highest probabilities."""
        return self.rows.confidence

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[n]: whether the most probable class is the label."""
        return self.rows.correct.astype(np.bool_)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """[C] numbers of rows per label."""
        return np.bincount(self.rows.labels, minlength=self.rows.probs.shape[1])

    def units(self, chosen: NDArray[np.bool_]) -> int:
        """Return the number of independent rows, the clusters, among the rows of a mask [n]."""
        return int(clusters_in(chosen, self.clusters, 2)[1])

    def wrong_though_sure(self) -> Share | None:
        """Return the share of errors among rows of confidence `SURE` or more; None without any."""
        chosen = self.confidence >= SURE
        return self._share(~self.correct, chosen) if chosen.any() else None

    def surest(self) -> tuple[Share, Share] | None:
        """Return the accuracy on the `ANSWERED` most confident rows and on the others.

        None if either part is empty. Rows tied with the last answered row are answered too.
        """
        count = max(round(ANSWERED * len(self.correct)), 1)
        chosen = self.confidence >= np.sort(self.confidence)[-count]
        if chosen.all():
            return None
        return self._share(self.correct, chosen), self._share(self.correct, ~chosen)

    def _share(self, hits: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Share:
        count, size, units = int((hits & chosen).sum()), int(chosen.sum()), self.units(chosen)
        low, high = wilson(count / size * units, units)
        return Share(count, size, float(low), float(high))

    def weakest_class(self) -> tuple[int, Share] | None:
        """Return the class with the lowest accuracy, if it is lower beyond chance.

        Its interval is simultaneous over the non-empty classes (Bonferroni), and its upper end must
        be below the lower end of the interval of the accuracy on all other classes together.
        """
        labels, counts = self.rows.labels, self.class_counts
        present = np.flatnonzero(counts)
        if len(present) < 2:
            return None
        hits = np.bincount(labels, self.rows.correct, minlength=len(counts))[present]
        sizes = counts[present]
        units = clusters_in(labels, self.clusters)[present]
        low, high = wilson(hits / sizes * units, units, 1 - (1 - LEVEL) / len(present))
        worst = int(np.argmin(hits / sizes))
        others = (hits.sum() - hits[worst]) / (sizes.sum() - sizes[worst])
        of_others = self.units(labels != present[worst])
        rest, _ = wilson(others * of_others, of_others)
        if high[worst] >= rest:
            return None
        share = Share(int(hits[worst]), int(sizes[worst]), float(low[worst]), float(high[worst]))
        return int(present[worst]), share


Bias = Literal["over", "under", "none"]


@dataclass(frozen=True)
class Assessed:
    """A method and its scores.

    Attributes:
        method: The method; for several seeds, the predictions of the first under the method's
            label.
        scores: Its scores; for several seeds, their means.
        fits: The seeds, each with its own scores; empty for a single fit.
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
        """The label, with the number of seeds if there are several."""
        return f"{self.label} ({len(self.fits)} seeds)" if self.fits else self.label

    @property
    def each(self) -> tuple[Assessed, ...]:
        """The seeds, or the single fit."""
        return self.fits or (self,)

    @cached_property
    def answers(self) -> Answers:
        """The labelled rows, at least one; for several seeds, those of the first."""
        predictions, column = self.method.predictions, self.scores.intervals.get("cluster_by")
        clusters = None
        if column is not None:
            clusters = values_of(predictions, str(column))[0][predictions.labelled]
        return Answers(row_scores(predictions), clusters)

    def uncertainties(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the judged uncertainty of in-distribution rows, [N], and of a set's, [M]."""
        score, inside = self.scores.ood[name].score, self.method.predictions
        return inside.uncertainty(score), self.method.ood[name].predictions.uncertainty(score)

    @cached_property
    def surest(self) -> TopLabel:
        """Confidence and correctness of the labelled rows, the surest first."""
        return top_label(self.answers.confidence, self.answers.correct)

    @property
    def points(self) -> list[Point]:
        """The non-empty bins."""
        return occupied(self.scores.bins)

    @property
    def bias(self) -> Bias:
        """The direction in which mean confidence and accuracy differ beyond the interval.

        For several seeds, the direction that all of them share, else "none".
        """
        biases = {bias_of(fit.scores) for fit in self.each}
        return biases.pop() if len(biases) == 1 else "none"

    @property
    def miscalibrated(self) -> bool:
        """Whether the confidence of any seed is off beyond chance."""
        return any(miscalibration_p(fit.scores) < SIGNIFICANT for fit in self.each)

    @property
    def doubtful(self) -> bool:
        """Whether a test finds a fault that may be chance, given three tests."""
        return is_doubtful(min(miscalibration_p(fit.scores) for fit in self.each))


def assess(methods: Sequence[Method], options: Evaluation) -> list[Assessed]:
    """Score every method on its rows and its out-of-distribution sets, as `evaluate` does."""
    return [
        Assessed(
            method,
            evaluate(
                method.predictions,
                {name: source.predictions for name, source in method.ood.items()},
                **vars(options),
            ),
        )
        for method in methods
    ]


def occupied(bins: Sequence[Bin]) -> list[Point]:
    """Return the non-empty bins."""
    return [Point(**vars(item)) for item in bins if None not in vars(item).values()]


def misses_more_than_chance(points: Sequence[Point]) -> bool:
    """Return whether more bins miss the diagonal than expected by chance, at the 5 % level.

    If so, sentences mention the bins; `miscalibrated` decides whether the method is miscalibrated.
    """
    return bins_p(points) < SIGNIFICANT


def bins_p(points: Sequence[Point]) -> float:
    """Return the probability that at least as many bins miss the diagonal by chance.

    Binomial distribution with a rate of `CHANCE` per bin.
    """
    size, missed = len(points), sum(point.off_diagonal for point in points)
    return sum(
        math.comb(size, k) * CHANCE**k * (1 - CHANCE) ** (size - k) for k in range(missed, size + 1)
    )


def bias_p(gap: Score) -> float:
    """Return the two-sided p-value of no gap between mean confidence and accuracy.

    It follows from the normal distribution whose 95 % interval is that of the gap, on the side
    towards zero, and is below 0.05 if the interval excludes zero. 1 without an interval.
    """
    half = gap.value - gap.low if gap.value > 0 else gap.high - gap.value
    if not gap.has_interval or gap.value == 0:
        return 1.0
    z = NormalDist().inv_cdf((1 + LEVEL) / 2) * abs(gap.value) / half if half > 0 else math.inf
    return math.erfc(z / math.sqrt(2))


def miscalibration_p(scores: Scores) -> float:
    """Return the p-value of perfect calibration of labelled rows, from three tests combined.

    They test the average gap, the number of bins that miss the diagonal, and the ECE; their
    smallest p-value is multiplied by three (Bonferroni). Every sentence on calibration follows from
    this number, since each test alone rejects one in twenty calibrated methods.
    """
    ece = 1.0 if scores.calibration_p is None else scores.calibration_p
    p_values = bias_p(scores["overconfidence"]), bins_p(occupied(scores.bins)), ece
    return min(1.0, _TESTS * min(p_values))


def labelled(methods: Sequence[Assessed]) -> list[Assessed]:
    """Return the methods with labelled rows."""
    return [method for method in methods if "nll" in method.scores]


def bias_of(scores: Scores) -> Bias:
    """Return the direction in which mean confidence and accuracy differ beyond the interval."""
    gap = scores["overconfidence"]
    if gap.low > 0:
        return "over"
    return "under" if gap.high < 0 else "none"


def is_close(gap: Score) -> bool:
    """Return whether both ends of the interval of a gap are within `CLOSE` of zero."""
    return max(abs(gap.low), abs(gap.high)) <= CLOSE


def slightly_biased(scores: Scores) -> bool:
    """Return whether there is a bias, and both its interval and the ECE are within `CLOSE`."""
    gap = scores["overconfidence"]
    return bias_of(scores) != "none" and is_close(gap) and scores["ece"].value <= CLOSE


def is_doubtful(p: float) -> bool:
    """Return whether a p-value is significant only without its correction."""
    return SIGNIFICANT <= p < _TESTS * SIGNIFICANT


def pair(methods: Sequence[Assessed], options: Evaluation) -> Mapping[str, Comparison]:
    """Compare every labelled method row by row with the best one by each score of `COMPARED`.

    Return score -> paired differences from the method that is best by it; those of NLL cover all
    scores of `COMPARED`. Empty if there are fewer than two methods, or they have different rows.
    """
    with_labels = labelled(methods)
    if len(with_labels) < 2:
        return {}
    best = {
        key: min(with_labels, key=lambda fit: SCORES[key].loss(fit.scores[key].value)).label
        for key in COMPARED
    }
    records = [
        named_predictions(replace(fit.method, group=method.label), over_seeds=bool(method.fits))
        for method in with_labels
        for fit in method.each
    ]
    try:
        by_reference = {
            reference: compare(
                records,
                reference=reference,
                scores=[key for key in COMPARED if reference in (best[key], best["nll"])],
                over_seeds=any(method.fits for method in with_labels),
                cluster_by=options.cluster_by,
                interval=options.interval,
                **options.sizes,
            )
            for reference in dict.fromkeys(best.values())
        }
    except InputError:  # rows, classes or labels differ
        return {}
    return {key: by_reference[reference] for key, reference in best.items()}


def pool(fits: Sequence[Assessed]) -> list[Assessed]:
    """Return one entry per method: for several seeds, means with t intervals.

    Fits are pooled if they are seeds of one method according to `by_group` and have the same
    labelled rows. Other fits are returned unchanged.
    """
    by_label = {fit.label: fit for fit in fits}
    pooled = []
    for group, members in by_group([fit.method for fit in fits]).items():
        seeds = [by_label[member.label] for member in members]
        if len(seeds) > 1 and _on_the_same_rows(seeds):
            scores = over_seeds([fit.scores for fit in seeds], group)
            first = replace(seeds[0].method, label=group)
            seeds = [Assessed(first, scores, tuple(seeds))]
        pooled += seeds
    labels = unique_labels([assessed.label for assessed in pooled])
    return [
        replace(assessed, method=replace(assessed.method, label=label))
        if assessed.fits
        else assessed
        for assessed, label in zip(pooled, labels, strict=True)
    ]


def every_fit(methods: Sequence[Assessed]) -> list[Assessed]:
    """Return the fits of all methods, one after the other."""
    return [fit for method in methods for fit in method.each]


def _on_the_same_rows(fits: Sequence[Assessed]) -> bool:
    try:
        paired([fit.method.predictions.replace(name=fit.label) for fit in fits])
    except InputError:
        return False
    return True
