"""Findings by topic: ranking, accuracy, calibration, limits, detection.

No sentence claims more than the intervals allow: a method is called best only together with those
tied with it, and biased only if its interval excludes zero. Sentences on a single method are about
the method to use, and its first seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from bayeslora.metrics.intervals import LEVEL, wilson
from bayeslora.metrics.scores import Score, Scores
from bayeslora.plain_text import as_label, counted
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import (
    CHANCE,
    SURE,
    Assessed,
    Point,
    every_fit,
    is_close,
    misses_more_than_chance,
    slightly_biased,
)
from bayeslora.reporting.blocks import Finding
from bayeslora.reporting.detectors import (
    detector_notes,
    is_blind,
    is_reversed,
    is_usable,
    score_words,
)
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.score_tables import listed_scores
from bayeslora.reporting.text import (
    listed_names,
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
    sets = (
        Finding("sets", f"Prediction sets: {named(fit.label)}", tuple(sentences))
        for fit in every_fit(facts.methods)
        if (sentences := set_sentences(fit.method.predictions, fit.scores))
    )
    return (*first, *sets, *(detection(facts, name) for name in facts.sets))


def _ranking(facts: Facts) -> list[Finding]:
    """Return the ranking of methods; empty for a single fit of a single method."""
    leader, nll, accuracy = facts.leader, facts.standing("nll"), facts.standing("accuracy")
    if not facts.same_classes:
        words = "The methods have different classes, so their scores are not compared."
        return [Finding("ranking", "Different classes", (words,), "warning")]
    if nll is None or accuracy is None or leader is None:
        return []
    sentences = []
    if nll.others:
        sentences += [
            f"{nll.holders('has', 'share')} the lowest NLL, {shown(nll.score)} nats{nll.clause}.",
            f"{accuracy.holders('has', 'share')} the highest accuracy, {shown(accuracy.score)}"
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


def calibration(methods: Sequence[Assessed]) -> Iterator[Finding]:
    """Yield which methods are overconfident, underconfident, or unbiased.

    The first screen states the average gap of a single method, so it is not repeated.
    """
    several = len(methods) > 1
    for direction in ("over", "under"):
        chosen = [method for method in methods if method.bias == direction]
        chosen.sort(key=lambda method: -abs(method.scores["overconfidence"].value))
        biased = [method for method in chosen if method.miscalibrated]
        perhaps = [method for method in chosen if not method.miscalibrated]
        topic, words = f"{direction}confident", [_biased(method, several) for method in biased]
        if biased:
            slight = all(slightly_biased(method.scores) for method in biased)
            kind: Literal["plain", "good", "warning"] = "plain" if slight else "warning"
            yield Finding(direction, topic.capitalize(), tuple(words), kind)
        if perhaps:
            words = [*(_biased(method, several) for method in perhaps), MAYBE_CHANCE]
            yield Finding(f"{direction}-or-chance", f"Possibly {topic}", tuple(words))
    clear = [method for method in methods if method.bias == "none"]
    hidden = [method for method in clear if method.miscalibrated]
    weak = [method for method in clear if method.doubtful]
    good = [method for method in clear if not method.miscalibrated and not method.doubtful]
    if hidden:
        words = [_hidden(method, several) for method in hidden]
        yield Finding("hidden", "Miscalibrated, though not on average", tuple(words), "warning")
    if weak:
        words = [*(_unbiased(method, several) for method in weak), MAYBE_CHANCE]
        yield Finding("hidden-or-chance", "Possibly miscalibrated", tuple(words))
    if good:
        words = [_unbiased(method, several) for method in good]
        known = all(is_close(method.scores["overconfidence"]) for method in good)
        topic = f"No sign of miscalibration{'' if known else ' so far'}"
        yield Finding("no-sign", topic, tuple(words), "good" if known else "plain")


def _biased(method: Assessed, several: bool) -> str:
    score = method.scores["overconfidence"]
    size = Score(abs(score.value), *sorted((abs(score.low), abs(score.high))))
    points = shown_points(size, digits=method.scores.gap_digits)
    # The tiles have one method's gap; where its ECE is no evidence, the gap is the evidence.
    average = f" by {points} on average" if several or not method.miscalibrated else ""
    return f"{named(method.label)} is {method.bias}confident{average}. {_ece(method, 'Its ECE')}."


def _hidden(method: Assessed, several: bool) -> str:
    if not misses_more_than_chance(method.points):
        ece = _ece(method, f"The ECE of {named(method.label)}")
        return f"{ece}. {_gap(method, 'Its average gap', several)}."
    return (
        f"For {named(method.label)}, {bins_that_miss(method.points)}, more than chance explains."
        f" {_gap(method, 'Its average gap', several)}: errors in both directions cancel."
    )


def _unbiased(method: Assessed, several: bool) -> str:
    gap = _gap(method, f"The average gap of {named(method.label)}", several)
    return f"{gap}; {bins_that_miss(method.points)}. {_ece(method, 'Its ECE')}."


def _gap(method: Assessed, subject: str, several: bool) -> str:
    gap = method.scores["overconfidence"]
    if not gap.has_interval:
        return f"{subject} cannot be judged"
    points = shown_points(gap, signed=True, digits=method.scores.gap_digits)
    size = f" {points}," if several else ""
    return f"{subject} is{size} within chance"


def _ece(method: Assessed, subject: str) -> str:
    """Return the ECE with what it would be by chance."""
    ece, floor = f"{subject} is {shown_ece(method.scores)}", method.scores.ece_if_calibrated
    if floor is None:
        return ece
    p = method.scores.calibration_p
    by_chance = "" if p is None else f", p = {p_text(p)}"
    return f"{ece} (a calibrated method would score about {number(floor)}{by_chance})"


def bins_that_miss(points: Sequence[Point]) -> str:
    """Return how many bins miss the diagonal, and how many are expected to."""
    by_chance = number(CHANCE * len(points), digits=1)
    missed = sum(point.off_diagonal for point in points)
    verb = "misses" if 1 in (missed, len(points)) else "miss"
    return (
        f"{missed} of {counted(len(points), 'bin')} {verb} the diagonal (about {by_chance} expected"
        " by chance)"
    )


_SURELY = f"{100 * SURE:.0f}\N{NO-BREAK SPACE}%"


def limits(leader: Assessed, sets: Mapping[str, str]) -> Finding:
    """Return the limits that the examples show, and `UNSEEN`, which always holds.

    It is a warning only if the confidence is shown to be wrong, or out-of-distribution inputs go
    unnoticed: other limits hold for calibrated methods too.
    """
    levels, ood = _levels(leader), leader.scores.ood
    outside = [_outside(leader, name, sets[name]) for name in sets if name in ood]
    sentences = (*levels, *_weaknesses(leader), *outside, UNSEEN)
    unnoticed = any(is_blind(ood[name]) for name in sets if name in ood)
    kind: Literal["plain", "good", "warning"] = "warning" if levels or unnoticed else "plain"
    return Finding("limits", f"Limits of {named(leader.label)}", sentences, kind)


def _levels(leader: Assessed) -> list[str]:
    """Name the overconfident bin with the largest number of examples times excess confidence."""
    if not leader.miscalibrated:
        return []
    points = leader.points
    level = 1 - (1 - LEVEL) / len(points)
    broken, confidence = [], leader.answers.confidence
    for point in points:
        above = (confidence < point.high) | (point.high >= 1)
        units = leader.answers.units((confidence >= point.low) & above)
        high = float(wilson(point.accuracy * units, units, level)[1])
        if high < point.confidence:
            broken.append((point, high))
    if not broken:
        return []
    worst, high = max(broken, key=lambda pair: pair[0].count * (pair[0].confidence - pair[1]))
    return [
        f"At a confidence of about {percent(worst.confidence)}, it is correct on"
        f" {percent(worst.accuracy)} of {counted(worst.count, 'example')} (upper bound"
        f" {percent(high)}, simultaneous over bins)."
    ]


def _weaknesses(leader: Assessed) -> Iterator[str]:
    share, weakest = leader.answers.wrong_though_sure(), leader.answers.weakest_class()
    if share is not None and share.count:
        yield (
            f"Even at a confidence of {_SURELY} or more, {percent(share.value)}"
            f" {share_interval(share.low, share.high)} are wrong: {share.count:,} of"
            f" {counted(share.size, 'example')}."
        )
    if weakest is not None:
        index, share = weakest
        name = named(as_label(leader.method.predictions.classes[index]))
        yield (
            f"The weakest class is {name}: correct on {percent(share.value)}"
            f" {share_interval(share.low, share.high)} of its {counted(share.size, 'example')}"
            " (an interval simultaneous over classes), less than on the others."
        )


def _outside(leader: Assessed, name: str, label: str) -> str:
    outside, result = leader.method.ood[name].predictions, leader.scores.ood[name]
    surely = float((outside.confidence >= SURE).mean())
    unnoticed = ""
    if is_reversed(result):
        unnoticed = "; it is more certain of them than of in-distribution examples"
    elif is_blind(result):
        unnoticed = "; it is not shown to notice that they are out of distribution"
    return (
        f"On {named(label)} its mean confidence is {percent(float(outside.confidence.mean()))}, and"
        f" at least {_SURELY} on {percent(surely)} of"
        f" {counted(len(outside), 'example')}{unnoticed}."
    )


def detection(facts: Facts, name: str) -> Finding:
    """Return how well the methods detect an out-of-distribution set."""
    best, result = facts.detectors[name]
    tested = [method for method in facts.methods if name in method.scores.ood]
    if is_blind(result):
        detects = "does not detect the set"
    else:
        detects = "detects the set best" if best.others else "detects the set"
    has = "have" if len(best.equal) > 1 else "has"
    equal = f"; {listed_names(best.equal)} {has} the same AUROC" if best.equal else ""
    sentences = [
        f"{named(best.label)} {detects}, by {score_words(result.score)}: AUROC {shown(best.score)}"
        f" ({result.n_in:,} in-distribution examples, {result.n_out:,} of the set){equal}"
        f"{best.clause}."
        f" Flagging 95\N{NO-BREAK SPACE}% of the set flags {percent(result.fpr95.value)} of"
        " in-distribution examples as well."
    ]
    sentences += [
        f"{named(method.label)}: {note}"
        for method in tested
        for note in detector_notes(method.scores.ood[name])
    ]
    sentences += _afterthought(tested, name, best.score)
    wrong_way = [method.label for method in tested if is_reversed(method.scores.ood[name])]
    blind = [method.label for method in tested if is_blind(method.scores.ood[name])]
    open_still = [label for label in blind if label not in wrong_way]
    if open_still:
        verb = "is" if len(open_still) == 1 else "are"
        whom = f"{listed_names(open_still)} {verb} not"
        if len(open_still) == len(tested) > 1:
            whom = "No method is"
        sentences.append(f"{whom} shown to beat chance (interval reaches 0.5).")
    if wrong_way:
        sentences.append(
            f"{listed_names(wrong_way)} {'is' if len(wrong_way) == 1 else 'are'} more certain of"
            " the set than of in-distribution examples (interval below 0.5)."
        )
    unfit = len(blind) == len(tested) or not is_usable(result)
    kind: Literal["plain", "good", "warning"] = "warning" if unfit else "plain"
    return Finding("ood", f"Out of distribution: {named(facts.sets[name])}", tuple(sentences), kind)


def _afterthought(methods: Sequence[Assessed], name: str, best: Score) -> list[str]:
    """Name the highest AUROC of all listed scores, if it exceeds that chosen beforehand."""
    value, negated, score = max(
        (scores["auroc"].value, -index, score)
        for index, method in enumerate(methods)
        for score, scores in listed_scores(method.scores.ood[name]).items()
    )
    if value <= best.value:
        return []
    method = methods[-negated]
    auroc = method.scores.ood[name].by_score[score]["auroc"]
    return [
        f"Picked after the fact, the highest AUROC of all is {shown(auroc)}, of"
        f" {named(method.label)} by {score_words(score)}."
    ]


def set_sentences(predictions: Predictions, scores: Scores) -> list[str]:
    """Return sentences on the prediction sets; empty without sets."""
    if "set_size" not in scores:
        return []
    sets, available = predictions.sets, predictions.available
    if sets is not None and (sets.all() if available is None else (sets == available).all()):
        stated = scores.stated_coverage
        at_coverage = "" if stated is None else f" at a coverage of {percent(stated)}"
        return [
            f"Every set holds all {_options(predictions)}, so{at_coverage} the sets say nothing."
            " Ask for less coverage (a larger alpha), or fit them on more examples."
        ]
    size, share = scores["set_size"].value, scores["empty_sets"].value
    empty = f" and {percent(share)} none" if share else ""
    sentences = [
        f"A set holds {number(size, digits=2)} of {_options(predictions)} on average;"
        f" {percent(scores['singletons'].value)} of the sets hold exactly one{empty}."
    ]
    if "coverage" in scores:
        sentences = [_covered(scores), *sentences, *_worst_covered(predictions, scores)]
    return sentences


def _options(predictions: Predictions) -> str:
    if predictions.available is None:
        return f"{predictions.num_classes} classes"
    return f"{number(float(predictions.num_options.mean()), digits=2)} options"


def _covered(scores: Scores) -> str:
    score, stated = scores["coverage"], scores.stated_coverage
    sentence = (
        f"The set holds the true class for {percent(score.value)}"
        f" {share_interval(score.low, score.high)} of"
        f" {counted(scores.n_labelled, 'labelled example')}"
    )
    if stated is None:
        return f"{sentence}."
    if score.high < stated:
        return f"{sentence}, fewer than the requested {percent(stated)}."
    if score.low > stated:
        return f"{sentence}, more than the requested {percent(stated)}."
    return f"{sentence}; the requested {percent(stated)} is within chance."


def _worst_covered(predictions: Predictions, scores: Scores) -> list[str]:
    """Name the class with the lowest coverage, the first if tied."""
    if predictions.sets is None or predictions.labels is None:
        return []
    rows = predictions.labelled
    labels = predictions.labels[rows]
    covered = np.take_along_axis(predictions.sets[rows], labels[:, None], 1)[:, 0]
    counts = np.bincount(labels, minlength=predictions.num_classes)
    if np.count_nonzero(counts) < 2:
        return []
    hits = np.bincount(labels, covered, minlength=predictions.num_classes)
    shares = np.where(counts > 0, hits / np.maximum(counts, 1), np.inf)
    worst = int(np.argmin(shares))
    lowest = scores["worst_class_coverage"]
    name = named(as_label(predictions.classes[worst]))
    classwise = predictions.metadata.get("conformal_classwise", "").lower() == "true"
    advice = " One threshold per class (classwise=true) covers each class as requested."
    return [
        f"Coverage is an average over examples. It is lowest for {name}: {percent(shares[worst])}"
        f" of {counted(int(counts[worst]), 'example')} (interval of the lowest of all classes:"
        f" {share_interval(lowest.low, lowest.high)}).{'' if classwise else advice}"
    ]
