"""Findings by topic: ranking, accuracy, calibration, limits, detection.

No sentence claims more than the intervals allow: a method is called best only together with those
tied with it, and biased only if its interval excludes zero. Sentences on a single method are about
the method to use, and its first seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bayeslora.metrics.intervals import LEVEL, wilson
from bayeslora.metrics.scores import Score
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.reporting.answers import SURE, Answers
from bayeslora.reporting.assess import (
    CHANCE,
    Assessed,
    Point,
    bias,
    doubtful,
    every_fit,
    is_close,
    miscalibrated,
    misses_more_than_chance,
    slightly_biased,
)
from bayeslora.reporting.detectors import (
    detector_notes,
    is_blind,
    is_reversed,
    is_usable,
    score_words,
)
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.set_words import set_sentences
from bayeslora.reporting.text import (
    listed,
    named,
    number,
    p_text,
    percent,
    share_interval,
    shown,
    shown_ece,
    shown_points,
)

MAYBE_CHANCE = (
    "This may be chance: corrected for the three tests of calibration (average gap, bins, ECE), p"
    " is above 0.05."
)
UNSEEN = "Nothing here applies to inputs unlike the examples that were scored."

Kind = Literal["plain", "good", "warning", "advice"]


@dataclass(frozen=True)
class Finding:
    """Sentences on one topic.

    Attributes:
        key: Identifier such as `ranking`, `limits` or `ood`, for programs and tests.
        topic: A few words.
        sentences: Full sentences, with names marked by `text.named`.
        kind: Style on the page.
    """

    key: str
    topic: str
    sentences: tuple[str, ...]
    kind: Kind = "plain"


def findings(facts: Facts) -> tuple[Finding, ...]:
    """Return all findings, in order."""
    leader = facts.leader
    if leader is None:
        words = "Accuracy and calibration cannot be judged: no example has a label."
        first = [Finding("unlabelled", "No labels", (words,))]
    else:
        first = [
            *_ranking(facts),
            _accuracy(leader.each[0]),
            *calibration(every_fit(facts.labelled)),
            limits(leader.each[0], facts.sets),
        ]
    return (*first, *_sets(facts.methods), *(detection(facts, name) for name in facts.sets))


def _ranking(facts: Facts) -> list[Finding]:
    """Return the ranking of methods; empty for a single fit of a single method."""
    nll, accuracy, leader = facts.nll, facts.accuracy, facts.leader
    if not facts.same_classes:
        words = "The methods have different classes, so their scores are not compared."
        return [Finding("ranking", "Different classes", (words,), "warning")]
    if nll is None or accuracy is None or leader is None:
        return []
    sentences = []
    if nll.others:
        sentences += [
            f"{named(nll.label)} has the lowest NLL, {shown(nll.score)} nats{nll.clause}.",
            f"{named(accuracy.label)} has the highest accuracy, {shown(accuracy.score)}"
            f"{accuracy.clause}.",
        ]
    if nll.others and facts.comparison is None:
        sentences.append(
            "The methods are not known to be scored on the same examples, so differences may come"
            " from the examples."
        )
    if leader.fits:
        sentences.append(
            f"Scores are means over {len(leader.fits)} seeds of {named(leader.label)}; sentences"
            f" about one fit are about {named(leader.fits[0].label)}."
        )
    return [Finding("ranking", "Best predictions", tuple(sentences))] if sentences else []


def _accuracy(leader: Assessed) -> Finding:
    """Return the baseline of the accuracy, which the first screen states."""
    answers = leader.answers
    common = float(answers.class_counts.max() / answers.class_counts.sum())
    better = "better" if leader.scores["accuracy"].low > common else "not shown to be better"
    return Finding(
        "accuracy",
        "Accuracy",
        (
            f"{named(leader.label)} is {better} than always predicting the most common class, which"
            f" would be correct on {percent(common)} of"
            f" {counted(len(answers.correct), 'labelled example')}.",
        ),
    )


def calibration(methods: Sequence[Assessed]) -> list[Finding]:
    """Return which methods are overconfident, underconfident, or unbiased.

    The first screen states the average gap of a single method, so it is not repeated.
    """
    result, several = [], len(methods) > 1
    for direction in ("over", "under"):
        chosen = [method for method in methods if bias(method) == direction]
        chosen.sort(key=lambda method: -abs(method.scores["overconfidence"].value))
        topic = f"{direction.capitalize()}confident"
        shown_to_be = tuple(_biased(method, several) for method in chosen if miscalibrated(method))
        perhaps = tuple(_biased(method, several) for method in chosen if not miscalibrated(method))
        if shown_to_be:
            slight = all(
                slightly_biased(method.scores) for method in chosen if miscalibrated(method)
            )
            result.append(Finding(direction, topic, shown_to_be, "plain" if slight else "warning"))
        if perhaps:
            sentences = (*perhaps, MAYBE_CHANCE)
            topic = f"Possibly {direction}confident"
            result.append(Finding(f"{direction}-or-chance", topic, sentences))
    clear = [method for method in methods if bias(method) == "none"]
    hidden = [method for method in clear if miscalibrated(method)]
    if hidden:
        sentences = tuple(_hidden(method, several) for method in hidden)
        topic = "Miscalibrated, though not on average"
        result.append(Finding("hidden", topic, sentences, "warning"))
    weak = [method for method in clear if doubtful(method)]
    if weak:
        sentences = (*(_unbiased(method, several) for method in weak), MAYBE_CHANCE)
        result.append(Finding("hidden-or-chance", "Possibly miscalibrated", sentences))
    good = [method for method in clear if method not in (*hidden, *weak)]
    if good:
        sentences = tuple(_unbiased(method, several) for method in good)
        known = all(is_close(method.scores["overconfidence"]) for method in good)
        topic = "No sign of miscalibration" if known else "No sign of miscalibration so far"
        result.append(Finding("no-sign", topic, sentences, "good" if known else "plain"))
    return result


def _biased(method: Assessed, several: bool) -> str:
    score = method.scores["overconfidence"]
    size = Score(abs(score.value), *sorted((abs(score.low), abs(score.high))))
    average = f" by {shown_points(size)} on average" if several else ""
    return f"{named(method.label)} is {bias(method)}confident{average}. {_ece(method, 'Its ECE')}."


def _hidden(method: Assessed, several: bool) -> str:
    if not misses_more_than_chance(method.points):
        ece = _ece(method, f"The ECE of {named(method.label)}")
        return f"{ece}. {_gap(method, 'Its average gap', several)}."
    return (
        f"Of {named(method.label)}, {bins_that_miss(method.points)}, more than chance explains."
        f" {_gap(method, 'Its average gap', several)}: errors in both directions cancel."
    )


def _unbiased(method: Assessed, several: bool) -> str:
    gap = _gap(method, f"The average gap of {named(method.label)}", several)
    return f"{gap}; {bins_that_miss(method.points)}. {_ece(method, 'Its ECE')}."


def _gap(method: Assessed, subject: str, several: bool) -> str:
    gap = method.scores["overconfidence"]
    if not gap.has_interval:
        return f"{subject} cannot be judged"
    size = f" {shown_points(gap, signed=True)}," if several else ""
    return f"{subject} is{size} within chance"


def _ece(method: Assessed, subject: str) -> str:
    return f"{subject} is {shown_ece(method.scores)}{_floor(method)}"


def _floor(method: Assessed) -> str:
    floor = method.scores.ece_if_calibrated
    if floor is None:
        return ""
    p = method.scores.calibration_p
    by_chance = "" if p is None else f", p = {p_text(p)}"
    return f" (a calibrated method would read about {number(floor)}{by_chance})"


def bins_that_miss(points: Sequence[Point]) -> str:
    """Return how many bins miss the diagonal, and how many are expected to."""
    by_chance = number(CHANCE * len(points), digits=1)
    return f"{missed_bins(points)} (about {by_chance} expected by chance)"


def missed_bins(points: Sequence[Point]) -> str:
    """Return how many bins miss the diagonal."""
    missed = sum(point.off_diagonal for point in points)
    verb = "misses" if 1 in (missed, len(points)) else "miss"
    return f"{missed} of {counted(len(points), 'bin')} {verb} the diagonal"


_SURELY = f"{100 * SURE:.0f}\N{NO-BREAK SPACE}%"


def limits(leader: Assessed, sets: Mapping[str, str]) -> Finding:
    """Return the limits that the examples show, and `UNSEEN`, which always holds.

    It is a warning only if the confidence is shown to be wrong, or out-of-distribution inputs go
    unnoticed: other limits hold for calibrated methods too.

    Args:
        leader: The method.
        sets: Name -> label of each out-of-distribution set.
    """
    levels = _levels(leader)
    sentences = (
        *levels,
        *_sure_and_wrong(leader.answers),
        *_weak_class(leader),
        *(line for name, label in sets.items() for line in _outside(leader, name, label)),
        UNSEEN,
    )
    ood = leader.scores.ood
    unnoticed = any(is_blind(ood[name]) for name in sets if name in ood)
    kind: Kind = "warning" if levels or unnoticed else "plain"
    return Finding("limits", f"Limits of {named(leader.label)}", sentences, kind)


def _levels(leader: Assessed) -> list[str]:
    """Name the overconfident bin with the largest number of examples times excess confidence."""
    if not miscalibrated(leader):
        return []
    points = leader.points
    level = 1 - (1 - LEVEL) / len(points)
    broken = [
        (point, high)
        for point in points
        if (high := _upper(point, leader.answers, level)) < point.confidence
    ]
    if not broken:
        return []
    worst, high = max(broken, key=lambda pair: pair[0].count * (pair[0].confidence - pair[1]))
    return [
        f"At a confidence of about {percent(worst.confidence)}, it is correct on"
        f" {percent(worst.accuracy)} of {counted(worst.count, 'example')} (upper bound"
        f" {percent(high)})."
    ]


def _upper(point: Point, answers: Answers, level: float) -> float:
    inside = (answers.confidence >= point.low) & (
        (answers.confidence < point.high) | (point.high >= 1)
    )
    units = answers.units(inside)
    return float(wilson(point.accuracy * units, units, level)[1])


def _sure_and_wrong(answers: Answers) -> list[str]:
    share = answers.wrong_though_sure()
    if share is None or not share.count:
        return []
    return [
        f"Even at a confidence of {_SURELY} or more, {percent(share.value)}"
        f" {share_interval(share.low, share.high)} are wrong: {share.count:,} of"
        f" {counted(share.size, 'example')}."
    ]


def _weak_class(leader: Assessed) -> list[str]:
    weakest = leader.answers.weakest_class()
    if weakest is None:
        return []
    index, share = weakest
    name = named(shorten(clean(leader.method.predictions.classes[index])))
    return [
        f"The weakest class is {name}: correct on {percent(share.value)}"
        f" {share_interval(share.low, share.high)} of its {counted(share.size, 'example')}, less"
        " than on the others."
    ]


def _outside(leader: Assessed, name: str, label: str) -> list[str]:
    if name not in leader.scores.ood:
        return []
    outside, result = leader.method.ood[name].predictions, leader.scores.ood[name]
    surely = float((outside.confidence >= SURE).mean())
    unnoticed = ""
    if is_reversed(result):
        unnoticed = "; it is more certain of them than of in-distribution examples"
    elif is_blind(result):
        unnoticed = "; it is not shown to notice that they are out of distribution"
    return [
        f"On {named(label)} its mean confidence is {percent(float(outside.confidence.mean()))}, and"
        f" at least {_SURELY} on {percent(surely)} of"
        f" {counted(len(outside), 'example')}{unnoticed}."
    ]


def _sets(methods: Sequence[Assessed]) -> list[Finding]:
    """Return findings on prediction sets, for each fit with sets."""
    return [
        Finding("sets", f"Prediction sets: {named(fit.label)}", tuple(sentences))
        for fit in every_fit(methods)
        if (sentences := set_sentences(fit.method.predictions, fit.scores))
    ]


def detection(facts: Facts, name: str) -> Finding:
    """Return how well the methods detect an out-of-distribution set."""
    best, result = facts.detectors[name]
    tested = [method for method in facts.methods if name in method.scores.ood]
    detects = "detects the set best" if best.others else "detects the set"
    sentences = [
        f"{named(best.label)} {detects}, by {score_words(result.score)}: AUROC {shown(best.score)}"
        f" ({result.n_in:,} in-distribution examples, {result.n_out:,} of the set){best.clause}."
        f" Flagging 95\N{NO-BREAK SPACE}% of the set flags {percent(result.fpr95.value)} of"
        " in-distribution examples as well.",
    ]
    sentences += [
        f"{named(method.label)}: {note}"
        for method in tested
        for note in detector_notes(method.scores.ood[name])
    ]
    sentences += _afterthought(tested, name, best.score)
    wrong_way = [named(method.label) for method in tested if is_reversed(method.scores.ood[name])]
    blind = [named(method.label) for method in tested if is_blind(method.scores.ood[name])]
    open_still = [label for label in blind if label not in wrong_way]
    if open_still:
        verb = "is" if len(open_still) == 1 else "are"
        whom = f"{listed(open_still)} {verb} not"
        if len(open_still) == len(tested) > 1:
            whom = "No method is"
        sentences.append(f"{whom} shown to beat chance (interval reaches 0.5).")
    if wrong_way:
        sentences.append(
            f"{listed(wrong_way)} {'is' if len(wrong_way) == 1 else 'are'} more certain of the set"
            " than of in-distribution examples (interval below 0.5)."
        )
    unfit = len(blind) == len(tested) or not is_usable(result)
    kind: Kind = "warning" if unfit else "plain"
    return Finding("ood", f"Out of distribution: {named(facts.sets[name])}", tuple(sentences), kind)


def _afterthought(methods: Sequence[Assessed], name: str, best: Score) -> list[str]:
    """Name the highest AUROC of all scores, if it exceeds that of the score chosen beforehand."""
    value, negated, score = max(
        (scores["auroc"].value, -index, score)
        for index, method in enumerate(methods)
        for score, scores in method.scores.ood[name].by_score.items()
    )
    if value <= best.value:
        return []
    method = methods[-negated]
    auroc = method.scores.ood[name].by_score[score]["auroc"]
    return [
        f"Picked after the fact, the highest AUROC of all is {shown(auroc)}, of"
        f" {named(method.label)} by {score_words(score)}."
    ]
