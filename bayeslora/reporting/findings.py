"""Findings by topic: who predicts best, who is biased, who notices unfamiliar rows, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bayeslora.metrics.scores import OODScores, Score
from bayeslora.plain_text import counted
from bayeslora.reporting.assess import (
    CHANCE,
    Assessed,
    bias,
    doubtful,
    every_fit,
    miscalibrated,
    misses_more_than_chance,
)
from bayeslora.reporting.detectors import (
    detector_notes,
    instead_of,
    is_blind,
    is_reversed,
    is_usable,
    score_words,
    verdict,
)
from bayeslora.reporting.ranking import Facts, Standing
from bayeslora.reporting.text import listed, named, number, p_text, percent, shown, shown_points

MAYBE_CHANCE = (
    "This may be chance: corrected for the three tests of calibration (average gap, bins, ECE), p"
    " is above 0.05."
)

Kind = Literal["plain", "good", "warning", "advice"]


@dataclass(frozen=True)
class Finding:
    """Sentences on one topic.

    Attributes:
        topic: A few words.
        sentences: Whole sentences, names in them marked by `text.named`.
        kind: How the page marks it.
    """

    topic: str
    sentences: tuple[str, ...]
    kind: Kind = "plain"


def ranking(nll: Standing, accuracy: Standing) -> Finding:
    """Return which method has the lowest NLL and which the highest accuracy."""
    if not nll.others:
        words = f"Accuracy {shown(accuracy.score)}, NLL {shown(nll.score)} nats."
        return Finding("Quality of the predictions", (words,))
    return Finding(
        "Best predictions",
        (
            f"Lowest NLL, which rewards being right and being honest about doubt at once:"
            f" {named(nll.label)} with {shown(nll.score)} nats{nll.clause}.",
            f"Highest accuracy: {named(accuracy.label)} with {shown(accuracy.score)}"
            f"{accuracy.clause}.",
        ),
    )


def calibration(methods: Sequence[Assessed]) -> list[Finding]:
    """Return which methods are overconfident, underconfident, or show no bias."""
    found = []
    for direction in ("over", "under"):
        chosen = [method for method in methods if bias(method) == direction]
        chosen.sort(key=lambda one: -abs(one.scores["overconfidence"].value))
        topic = f"{direction.capitalize()}confident"
        shown_to_be = tuple(_biased(method) for method in chosen if miscalibrated(method))
        perhaps = tuple(_biased(method) for method in chosen if not miscalibrated(method))
        if shown_to_be:
            found.append(Finding(topic, shown_to_be, "warning"))
        if perhaps:
            found.append(Finding(f"{topic}, or chance", (*perhaps, MAYBE_CHANCE)))
    clear = [one for one in methods if bias(one) == "none"]
    hidden = [one for one in clear if miscalibrated(one)]
    if hidden:
        sentences = tuple(_hidden(method) for method in hidden)
        found.append(Finding("Miscalibrated, though not on average", sentences, "warning"))
    weak = [one for one in clear if doubtful(one)]
    if weak:
        sentences = (*(_unbiased(method) for method in weak), MAYBE_CHANCE)
        found.append(Finding("Miscalibrated, or chance", sentences))
    good = [method for method in clear if method not in (*hidden, *weak)]
    if good:
        sentences = tuple(_unbiased(method) for method in good)
        found.append(Finding("No sign of miscalibration at this number of rows", sentences, "good"))
    return found


def detection(facts: Facts, name: str) -> Finding:
    """Return how well the methods detect one out-of-distribution set."""
    best, result = facts.detectors[name]
    tested = [one for one in facts.methods if name in one.scores.ood]
    blind = [named(one.label) for one in tested if is_blind(one.scores.ood[name])]
    opening = "Best separation" if best.others else "Separation"
    sentences = [
        f"{opening}: {named(best.label)} by {score_words(result.score)}, AUROC {shown(best.score)}"
        f"{best.clause}.",
        f"Of one familiar and one unfamiliar row taken at random (out of {result.n_in:,} and"
        f" {result.n_out:,}), the unfamiliar one is the more uncertain in"
        f" {100 * best.score.value:.0f} of 100 draws. To catch 95 % of the unfamiliar rows, it"
        f" flags {percent(result.fpr95.value)} of the familiar ones as well.",
    ]
    sentences += [
        f"{named(one.label)}: {note}"
        for one in tested
        for note in detector_notes(one.scores.ood[name])
    ]
    sentences += _afterthought(tested, name, best.score)
    wrong_way = [named(one.label) for one in tested if is_reversed(one.scores.ood[name])]
    open_still = [label for label in blind if label not in wrong_way]
    if open_still and len(open_still) == len(tested):
        sentences.append(
            "By the scores chosen beforehand, every interval reaches 0.5: not shown to be better "
            "than a coin."
        )
    elif open_still:
        sentences.append(f"Not shown to beat a coin, interval reaching 0.5: {listed(open_still)}.")
    if wrong_way:
        sentences.append(
            f"Surer of these rows than of familiar ones, interval below 0.5: {listed(wrong_way)}."
        )
    unfit = len(blind) == len(tested) or not is_usable(result)
    kind: Kind = "warning" if unfit else "plain"
    return Finding(f"Unfamiliar rows: {named(facts.sets[name])}", tuple(sentences), kind)


def _afterthought(methods: Sequence[Assessed], name: str, best: Score) -> list[str]:
    """Name the highest AUROC of all scores, where it is not that of a score chosen beforehand."""
    value, place, score = max(
        (found["auroc"].value, -place, score)
        for place, one in enumerate(methods)
        for score, found in one.scores.ood[name].by_score.items()
    )
    if value <= best.value:
        return []
    method = methods[-place]
    found = method.scores.ood[name].by_score[score]["auroc"]
    return [
        f"Picked after the fact, the highest AUROC of all is {shown(found)}, of"
        f" {named(method.label)} by {score_words(score)}."
    ]


def _biased(method: Assessed) -> str:
    score = method.scores["overconfidence"]
    size = Score(abs(score.value), *sorted((abs(score.low), abs(score.high))))
    return f"{named(method.label)}, by {shown_points(size)}: {_sure_and_right(method)}"


def _hidden(method: Assessed) -> str:
    gap = method.scores["overconfidence"]
    average = shown_points(gap, signed=True)
    if not misses_more_than_chance(method.points):
        return (
            f"{named(method.label)}: its ECE is {shown(method.scores['ece'])}{_floor(method)}. The"
            f" average gap {'includes 0' if gap.has_interval else 'cannot be judged'} ({average})."
        )
    return (
        f"{named(method.label)}: {_misses(method)}, more than chance explains; errors in both"
        f" directions cancel on average ({average})."
    )


def _unbiased(method: Assessed) -> str:
    gap = method.scores["overconfidence"]
    zero = ", which includes 0" if gap.has_interval else ""
    return (
        f"{named(method.label)}: {shown_points(gap, signed=True)}"
        f" between confidence and accuracy{zero}; {_misses(method)}."
        f" Its ECE is {shown(method.scores['ece'])}{_floor(method)}."
    )


def _floor(method: Assessed) -> str:
    floor = method.scores.ece_if_calibrated
    if floor is None:
        return ""
    words = f"; calibrated perfectly, it would read about {number(floor)} on as many rows"
    p = method.scores.calibration_p
    if p is None:
        return words
    return f"{words}, and at least as much as it does with a probability of {p_text(p)}"


def _sure_and_right(method: Assessed) -> str:
    scores = method.scores
    return (
        f"{percent(scores['mean_confidence'].value)} sure on average, right on"
        f" {percent(scores['accuracy'].value)} of {counted(scores.n_labelled, 'row')}."
    )


def _misses(method: Assessed) -> str:
    points = method.points
    missed = sum(point.off_diagonal for point in points)
    return (
        f"{missed} of {counted(len(points), 'bin')} with rows"
        f" {'misses' if missed == 1 else 'miss'} the diagonal"
        f" (about {number(CHANCE * len(points), digits=1)} would by chance)"
    )


WIDE_ECE = 0.01
"""Half-width of an ECE's interval from which more rows are worth asking for."""


def advice(facts: Facts) -> list[Finding]:
    """Return what to do, or nothing where there is nothing to advise."""
    sentences = [*_choice(facts), *_recalibrate(facts.labelled)]
    for name, label in facts.sets.items():
        sentences += _flags(*facts.detectors[name], label)
    sentences += _more_rows(facts.labelled)
    return (
        [Finding("What follows from the scores", tuple(sentences), "advice")] if sentences else []
    )


def _choice(facts: Facts) -> list[str]:
    methods, nll = facts.labelled, facts.nll
    # Without intervals nothing tells the methods apart, and no cost should decide on a handful.
    if nll is None or not nll.others or not all(one.scores["nll"].has_interval for one in methods):
        return []
    leaders = [one for one in methods if one.label == nll.label or one.label in nll.tied]
    chosen = [one for one in leaders if not miscalibrated(one)]
    sound = [named(one.label) for one in chosen]
    if not sound:
        return []
    if len(sound) == 1:
        choice = (
            f"Prefer {sound[0]}: in the leading group by NLL and not shown to be miscalibrated."
        )
    else:
        choice = (
            f"Choose among {listed(sound)}: all are in the leading group by NLL and not shown to be"
            " miscalibrated, so cost may decide."
        )
    return [choice, *_one_fit(chosen, methods)]


def _one_fit(chosen: Sequence[Assessed], methods: Sequence[Assessed]) -> list[str]:
    """Warn of a choice of one fit where others are means over seeds."""
    alone = [named(one.label) for one in chosen if not one.fits]
    if not alone or not any(one.fits for one in methods):
        return []
    verb = "is" if len(alone) == 1 else "are each"
    return [f"{listed(alone)} {verb} one fit beside means over seeds: other seeds may do worse."]


def _recalibrate(methods: Sequence[Assessed]) -> list[str]:
    unsound = [named(one.label) for one in methods if miscalibrated(one)]
    if not unsound:
        return []
    return [
        f"Do not take the probabilities of {listed(unsound)} at face value: recalibrate on held-out"
        " rows first (temperature scaling is the simplest), and score again."
    ]


def _flags(best: Standing, result: OODScores, label: str) -> list[str]:
    why = verdict(result)
    if why == "beaten":
        return [
            f"Do not flag rows like {named(label)} by {score_words(result.score)} of"
            f" {named(best.label)}. {instead_of(result)}"
        ]
    if why == "blind":
        return [f"Do not count on these uncertainties to flag rows like {named(label)}."]
    if why == "doubtful":
        return [
            f"Do not flag rows like {named(label)} by {score_words(result.score)} of"
            f" {named(best.label)}; the reasons are given below."
        ]
    if why == "costly":
        who = f", even with {named(best.label)}" if best.others else ""
        return [
            f"Do not try to catch 95 % of rows like {named(label)}: that would flag"
            f" {percent(result.fpr95.value)} of familiar rows as well{who}. Flag fewer, by what an"
            " error and a check cost."
        ]
    return []


def _more_rows(methods: Sequence[Assessed]) -> list[str]:
    if not methods:
        return []
    errors = [one.scores["ece"] for one in every_fit(methods)]
    rows = min(one.scores.n_labelled for one in methods)
    known = [error for error in errors if error.has_interval]
    if not known:
        return [f"With {counted(rows, 'labelled row')} an ECE cannot be judged: label more rows."]
    half = max((error.high - error.low) / 2 for error in known)
    if half < WIDE_ECE:
        return []
    return [
        f"With {counted(rows, 'labelled row')} an ECE is known to within about ±{number(half)};"
        " four times as many rows would halve that."
    ]
