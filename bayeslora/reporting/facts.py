"""What the scores show: calibration of a fit, detection of a set, the best methods, the one to use.

Page, model card and terminal take their facts from here and their words from `sentences`, so that
equal evidence gets the same sentence everywhere.

For methods scored on the same rows, the paired difference from the best by a score decides which
others are tied with it: its interval accounts for common errors on hard rows, and its p-value for
the number of methods compared. Paired are the scores of `COMPARED` and AUROC; by other scores,
methods with overlapping intervals are tied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.differences import are_same_rows, holm
from bayeslora.metrics.intervals import LEVEL
from bayeslora.metrics.ood import EPISTEMIC, auroc_difference_p
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.metrics.scores import DETECTION_SCORES, SCORES, OODScores, Score, ScoreInfo, Scores
from bayeslora.reporting.assess import Assessed, Point, Shift, labelled, occupied
from bayeslora.reporting.text import listed_names

SURE = 0.9
"""Confidence of `Scores.sure`, from which people automate."""

CLOSE = 0.05
"""Largest gap between confidence and accuracy, including its interval, that counts as small."""

CHANCE = 0.05
"""Expected share of a calibrated method's bins whose 95 % interval misses the diagonal."""

_TESTS = 3

Verdict = Literal["biased", "slight", "uneven", "sure", "possible", "good", "few"]
"""What labelled examples show about the confidence of a fit.

- biased: over- or underconfident on average, beyond chance.
- slight: the same, but by little.
- uneven: off beyond chance, though not on average.
- sure: not shown to be off as a whole, but overconfident at `SURE` or more.
- possible: a test finds a fault that may be chance, given three tests.
- good: none of these, and the average gap is known to be small.
- few: none of these.
"""

MISCALIBRATED: frozenset[Verdict] = frozenset({"biased", "slight", "uneven"})
"""Verdicts that chance does not explain."""


@dataclass(frozen=True)
class Calibration:
    """The verdict on a fit, and the facts behind it.

    Attributes:
        verdict: The verdict.
        way: `over` or `under` by the sign of a gap whose interval excludes zero, else empty.
        points: The non-empty bins.
        sure: Rows of confidence `SURE` or more, if they are overconfident beyond their interval.
    """

    verdict: Verdict
    way: Literal["over", "under", ""]
    points: tuple[Point, ...]
    sure: Point | None


def calibration_of(scores: Scores) -> Calibration:
    """Judge the scores of labelled examples."""
    gap, p, points = scores["overconfidence"], miscalibration_p(scores), occupied(scores.bins)
    way: Literal["over", "under", ""] = "over" if gap.low > 0 else "under" if gap.high < 0 else ""
    sure = next(iter(occupied([scores.sure] if scores.sure else [])), None)
    if sure is not None and sure.accuracy_high >= sure.confidence:
        sure = None
    verdict: Verdict
    if p < SIGNIFICANT and not way:
        verdict = "uneven"
    elif p < SIGNIFICANT:
        verdict = "slight" if is_close(gap) and scores["ece"].value <= CLOSE else "biased"
    elif sure is not None:
        verdict = "sure"
    elif p < _TESTS * SIGNIFICANT:
        verdict = "possible"
    else:
        verdict = "good" if gap.has_interval and is_close(gap) else "few"
    return Calibration(verdict, way, tuple(points), sure)


def is_close(gap: Score) -> bool:
    """Return whether both ends of the interval of a gap are within `CLOSE` of zero."""
    return max(abs(gap.low), abs(gap.high)) <= CLOSE


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
    smallest p-value is multiplied by three (Bonferroni), since each test alone rejects one in
    twenty calibrated methods.
    """
    ece = 1.0 if scores.calibration_p is None else scores.calibration_p
    p_values = bias_p(scores["overconfidence"]), bins_p(occupied(scores.bins)), ece
    return min(1.0, _TESTS * min(p_values))


MOST_FLAGGED = 0.2
"""Largest share of in-distribution examples flagged at 95 % of a set for an advised threshold.

Out-of-distribution inputs are rare in practice: with an alarm on every fifth other input nearly all
alarms are false, and people stop looking at them.
"""


def better_score(result: OODScores) -> str:
    """Return the score that separates the set better, if it detects the set; else empty."""
    if not result.better or result.by_score[result.better]["auroc"].low <= 0.5:
        return ""
    return result.better


def is_blind(result: OODScores) -> bool:
    """Return whether the rows are not shown to be more uncertain than in-distribution rows."""
    return result.auroc.low <= 0.5


Detection = Literal["beaten", "reversed", "blind", "doubtful", "costly", "usable"]


def detection_of(result: OODScores) -> Detection:
    """Return whether to flag rows by the judged score, and if not, the first reason against it.

    Reasons: another score separates them better; it is lower on them, or not shown to be higher;
    its values are uninformative; or flagging 95 % of them flags more than `MOST_FLAGGED` of the
    in-distribution examples.
    """
    if better_score(result):
        return "beaten"
    if is_blind(result):
        return "reversed" if result.auroc.high < 0.5 else "blind"
    if result.doubt and result.score == EPISTEMIC:
        return "doubtful"
    return "costly" if result.fpr95.value > MOST_FLAGGED else "usable"


ORDERED: Mapping[str, ScoreInfo] = {
    key: info for key, info in {**SCORES, **DETECTION_SCORES}.items() if info.goal is not None
}
"""The scores that order methods.

Scores of prediction sets are left out: smaller sets are better only at the same coverage, and
coverage should match the requested one.
"""


@dataclass(frozen=True)
class Change:
    """A difference between two samples of one model.

    Attributes:
        label: The later sample.
        key: What differs: a key of `_CHANGES`.
        value: By how much it exceeds that of the first sample.
        p: Welch's two-sided p-value, with Holm's correction for all of them.
    """

    label: str
    key: str
    value: float
    p: float


_CHANGES: Mapping[str, Callable[[LabelledRows], NDArray[np.float64]]] = {
    "accuracy": lambda rows: rows.correct,
    "mean_confidence": lambda rows: rows.confidence,
    "overconfidence": lambda rows: rows.confidence - rows.correct,
    "nll": lambda rows: rows.nll,
}
"""What each row adds to the scores by which samples are compared."""


@dataclass(frozen=True)
class Standing:
    """The best method by a score, and the methods that may be as good.

    Attributes:
        label: Label of the best method.
        score: Its score.
        tied: Labels of the other methods that may be as good.
        others: Number of other methods.
        paired: Type of pairing, such as `row by row`, if paired differences decided for all other
            methods; else empty.
    """

    label: str
    score: Score
    tied: tuple[str, ...]
    others: int
    paired: str = ""

    def is_top(self, label: str) -> bool:
        """Return whether a method is the best or tied with it."""
        return label == self.label or label in self.tied

    def marks(self, labels: Sequence[str]) -> list[bool]:
        """Return for each method whether a table marks it as best or tied.

        Nothing is marked if no method is worse.
        """
        some_are_worse = len(self.tied) < self.others
        return [some_are_worse and self.is_top(label) for label in labels]


def standing(
    key: str, methods: Sequence[Assessed], score_of: Callable[[Scores], Score]
) -> Standing:
    """Find the best of some methods by a score, and the methods whose intervals overlap its one.

    The interval of a mean over seeds is extended to cover those of the seeds, which are over rows:
    seeds on the same rows carry no information about other rows. If zero is best, intervals are
    those of the distance from zero.
    """
    scores = {method.label: score_of(method.scores) for method in methods}
    ends = {}
    for method in methods:
        fits = [scores[method.label], *(score_of(fit.scores) for fit in method.fits)]
        low, high = min(fit.low for fit in fits), max(fit.high for fit in fits)
        if ORDERED[key].goal == 0:
            near, far = sorted((abs(low), abs(high)))
            low, high = 0.0 if low <= 0 <= high else near, far
        ends[method.label] = low, high
    best = min(scores, key=lambda label: ORDERED[key].loss(scores[label].value))
    tied = tuple(
        label
        for label, (low, high) in ends.items()
        # Intervals overlap, or one is missing.
        if label != best and not (low > ends[best][1] or ends[best][0] > high)
    )
    return Standing(best, scores[best], tied, len(scores) - 1)


def standing_of(
    key: str, methods: Sequence[Assessed], comparison: Comparison | None = None
) -> Standing:
    """Find the best method by a score, which all have.

    Differences in `comparison` decide if its reference is the best method, else intervals do.
    """
    best = standing(key, methods, lambda scores: scores[key])
    if comparison is None or comparison.reference != best.label:
        return best
    clear = {best.label, *(row.name for row in comparison.rows if row.is_clear(key))}
    tied = tuple(method.label for method in methods if method.label not in clear)
    over_seeds = "over seeds and " if comparison.intervals_over == "seeds" else ""
    return replace(best, tied=tied, paired=f"{over_seeds}row by row")


def best_detector(methods: Sequence[Assessed], name: str) -> tuple[Standing, OODScores]:
    """Return the method that separates a set best, and its results on that set."""
    tested = {method.label: method for method in methods if name in method.scores.ood}
    methods = list(tested.values())
    best = standing("auroc", methods, lambda scores: scores.ood[name].auroc)
    first, *sets = (method.method.ood[name].predictions for method in methods)
    if all(are_same_rows(first, other) for other in sets):
        best = _paired(best, methods, name)
    return best, tested[best.label].scores.ood[name]


def _paired(best: Standing, methods: Sequence[Assessed], name: str) -> Standing:
    """Decide by p-values of differences of AUROC which methods are tied with the best on a set.

    That takes the same independent rows, enough for an interval, and a single fit of each method;
    else intervals decide.
    """
    first = methods[0].method.predictions
    alike = all(are_same_rows(first, method.method.predictions) for method in methods[1:])
    if not best.others or not alike or not best.score.has_interval:
        return best
    if any(method.fits or "cluster_by" in method.scores.intervals for method in methods):
        return best
    values = {method.label: method.uncertainties(name) for method in methods}
    others = [label for label in values if label != best.label]
    p = holm([auroc_difference_p(values[best.label], values[label]) for label in others])
    tied = tuple(label for label, value in zip(others, p, strict=True) if value >= SIGNIFICANT)
    return replace(best, tied=tied, paired="row by row")


@dataclass(frozen=True)
class Choice:
    """The method to use, others as good by every reason, and reasons, a few words each."""

    label: str
    equal: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """The results of a report, and facts that several of its sections share, computed once.

    Attributes:
        methods: All methods, at least one, with their seeds pooled.
        comparisons: Score -> paired differences from the best method by it, as `pair` returns them;
            empty if methods were not scored on the same rows.
        sets: Name -> label of each out-of-distribution set.
        fits: Every fit, in the original order.
        shift: Scores of corrupted examples.
    """

    methods: Sequence[Assessed]
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    fits: Sequence[Assessed] = ()
    shift: Shift = field(default_factory=dict)

    @property
    def comparison(self) -> Comparison | None:
        """Paired differences from the method of lowest NLL, in every compared score."""
        return self.comparisons.get("nll")

    @cached_property
    def scores(self) -> list[Scores]:
        """The scores of the methods, each by the title of its method."""
        return [replace(method.scores, name=method.title) for method in self.methods]

    @cached_property
    def labelled(self) -> list[Assessed]:
        """Methods with labelled rows."""
        return labelled(self.methods)

    @cached_property
    def same_classes(self) -> bool:
        """Whether all labelled methods have the same classes.

        If not, scores are not compared between methods, and the report is about the first.
        """
        return len({frozenset(each.method.predictions.classes) for each in self.labelled}) < 2

    @cached_property
    def are_samples(self) -> bool:
        """Whether one model predicted all of them, on different rows: none is to be chosen."""
        models = {
            each.method.predictions.metadata.get("model_fingerprint") for each in self.methods
        }
        alone = len(self.labelled) == len(self.methods) > 1 and self.comparison is None
        return alone and len(models) == 1 and None not in models and self.same_classes

    @cached_property
    def changes(self) -> list[Change]:
        """What differs between samples of one model, from the first to each other."""
        from scipy.stats import ttest_ind

        rows = [row_scores(each.method.predictions) for each in self.labelled]
        tests = []
        for (key, value), other in product(_CHANGES.items(), range(1, len(rows))):
            values = [value(rows[0]), value(rows[other])]
            p = ttest_ind(*values, equal_var=False).pvalue if any(map(np.ptp, values)) else 1.0
            gap = float(values[1].mean() - values[0].mean())
            tests.append((self.labelled[other].label, key, gap, p))
        corrected = holm([test[-1] for test in tests]).tolist()
        return [Change(*test[:-1], p) for test, p in zip(tests, corrected, strict=True)]

    def verdicts(self, method: Assessed) -> frozenset[Verdict]:
        """Return the verdicts on the fits of a labelled method."""
        return frozenset(calibration_of(fit.scores).verdict for fit in method.each)

    @cached_property
    def detectors(self) -> dict[str, tuple[Standing, OODScores]]:
        """Set name -> the method that separates the set best, and its results on that set."""
        tested = {name for method in self.methods for name in method.scores.ood}
        return {name: best_detector(self.methods, name) for name in self.sets if name in tested}

    @cached_property
    def choice(self) -> Choice | None:
        """The method to use; None if no row has a label."""
        nll, accuracy = self.standing("nll"), self.standing("accuracy")
        if nll is not None and accuracy is not None:
            return _choice(self, nll, accuracy)
        return Choice(self.labelled[0].label) if self.labelled else None

    @property
    def leader(self) -> Assessed | None:
        """The method to use, the subject of the page."""
        if self.choice is None:
            return None
        return next(method for method in self.labelled if method.label == self.choice.label)

    def standing(self, key: str) -> Standing | None:
        """Return the standing by a score; None without it, between classes or samples."""
        scored = [method for method in self.methods if key in method.scores]
        if key not in ORDERED or not scored or not self.same_classes or self.are_samples:
            return None
        return standing_of(key, scored, self.comparisons.get(key))

    def marks(self, best: Standing | None) -> list[bool]:
        """Return for each of `methods` whether a table marks it as best; none if classes differ."""
        if best is None or not self.same_classes:
            return [False] * len(self.methods)
        return best.marks([method.label for method in self.methods])


def _choice(facts: Facts, nll: Standing, accuracy: Standing) -> Choice:
    """Choose a method of lowest NLL, if possible without a sign of miscalibration.

    Ties are resolved by detection, then by the lowest NLL. A copy of the chosen method, with the
    same probabilities and other prediction sets, is no alternative to it.
    """
    methods = facts.labelled
    # Without intervals methods cannot be compared, and a few rows should not decide.
    if not nll.others or not all(method.scores["nll"].has_interval for method in methods):
        return Choice(nll.label)
    leaders = [method for method in methods if nll.is_top(method.label)]
    reasons = ["tied for the lowest NLL" if len(leaders) > 1 else "lowest NLL"]
    sound = [method for method in leaders if not facts.verdicts(method) & {*MISCALIBRATED, "sure"}]
    chosen = sound or leaders
    judged = {
        name: best for name, (best, result) in facts.detectors.items() if not is_blind(result)
    }
    detecting = [
        method for method in chosen if all(best.is_top(method.label) for best in judged.values())
    ]
    if len(chosen) == 1 and accuracy.label == chosen[0].label and not accuracy.tied:
        reasons.append("highest accuracy")
    if sound:
        clear = "clear " if any("possible" in facts.verdicts(method) for method in chosen) else ""
        reasons.append(f"no {clear}sign of miscalibration")
    if detecting and len(detecting) < len(chosen):
        chosen = detecting
        reasons.append(f"best detection of {listed_names(facts.sets[name] for name in judged)}")
    first = min(chosen, key=lambda method: method.scores["nll"].value)
    equal = [m.label for m in chosen if m is not first and not _has_same_probabilities(m, first)]
    return Choice(first.label, tuple(equal), tuple(reasons))


def _has_same_probabilities(method: Assessed, other: Assessed) -> bool:
    first, second = method.method.predictions, other.method.predictions
    return are_same_rows(first, second) and np.array_equal(first.probs, second.probs)
