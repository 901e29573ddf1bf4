"""For readers who know no scores: how right, how sure, where not to trust it, what to do.

The words are about one method, the one of lowest NLL; of its seeds, about the first. As everywhere
in the report, a difference is stated only where its interval leaves out chance, and what the rows
cannot show is said to be open.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bayeslora.metrics.intervals import LEVEL, wilson
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.reporting.answers import SURE, Answers
from bayeslora.reporting.assess import (
    Assessed,
    Point,
    bias,
    doubtful,
    miscalibrated,
    misses_more_than_chance,
)
from bayeslora.reporting.detectors import (
    instead_of,
    is_blind,
    is_reversed,
    score_words,
    verdict,
)
from bayeslora.reporting.findings import Finding, Kind
from bayeslora.reporting.ranking import Facts, Standing
from bayeslora.reporting.text import listed, named, number, percent


def in_plain_words(facts: Facts) -> tuple[Finding, ...]:
    """Return the answers to a reader's questions; nothing where no row has a label."""
    method, nll = facts.leader, facts.nll
    if method is None or nll is None:
        return ()
    leader = method.each[0]
    found = [
        Finding("How right is it?", (_how_right(leader),)),
        Finding("How sure is it, and may it be?", (_how_sure(leader),)),
        where_not_to_trust(leader, facts.sets),
        Finding("What to do", tuple(steps(leader, facts.sets)), "advice"),
    ]
    if nll.others or method.fits:
        found.insert(0, Finding("Which method is this about?", (_which(method, nll),)))
    return tuple(found)


def _which(method: Assessed, standing: Standing) -> str:
    about = f"About {named(method.label)}"
    if method.fits:
        about = (
            f"About {named(method.fits[0].label)}, the first of the {len(method.fits)} seeds of"
            f" {named(method.label)}"
        )
    if not standing.others:
        return f"{about}."
    fit = "whose probabilities fit the true classes best"
    opening = f"{about}, {fit}"
    if standing.equal:
        opening += f", as those of {listed([named(label) for label in standing.equal])} do"
    behind = [named(label) for label in standing.tied if label not in standing.equal]
    if behind:
        return f"{opening}; on these rows {listed(behind)} cannot be told from it."
    if len(standing.equal) == standing.others:
        return f"{opening} equally well."
    return f"{opening}, by more than chance explains."


def _how_right(leader: Assessed) -> str:
    score, answers = leader.scores["accuracy"], leader.answers
    common = float(answers.class_counts.max() / answers.class_counts.sum())
    found = (
        f"It names the right class for {percent(score.value)} of the"
        f" {counted(len(answers.correct), 'row')} that it was tried on. On all rows of this kind"
        f" the share is likely between {percent(score.low)} and {percent(score.high)}."
    )
    always = f"Always naming the most common class would be right for {percent(common)}"
    if score.low <= common:
        return f"{found} {always}, so it is not shown to be any better than that."
    return f"{found} {always}."


def _how_sure(leader: Assessed) -> str:
    scores = leader.scores
    gap = scores["overconfidence"]
    said = percent(scores["mean_confidence"].value)
    opening = (
        f"On average it says that it is {said} sure, and it is right for"
        f" {percent(scores['accuracy'].value)}"
    )
    if not gap.has_interval:
        further = miscalibrated(leader)
        but = ", but level by level its confidence is further off than chance explains" * further
        return f"{opening}. These are too few rows to judge that average{but}."
    ends = sorted((abs(gap.low), abs(gap.high)))
    size = f"{_points(abs(gap.value))} points (likely {_points(ends[0])} to {_points(ends[1])})"
    if bias(leader) != "none":
        way = "too sure" if bias(leader) == "over" else "less sure than it could be"
        perhaps = "" if miscalibrated(leader) else ", though that may be chance"
        return f"{opening}: {way}, by {size}{perhaps}."
    if miscalibrated(leader) and misses_more_than_chance(leader.points):
        return (
            f"{opening}, which is no difference beyond chance. But that is an average: at some"
            " levels it is surer than it is right, at others less."
        )
    if miscalibrated(leader):
        return (
            f"{opening}, which is no difference beyond chance. But that is an average: level by"
            " level, its confidence is further off than chance explains."
        )
    if doubtful(leader):
        return (
            f"{opening}, which is no difference beyond chance. Level by level, its confidence is"
            " somewhat off, or that is chance."
        )
    return (
        f"{opening}. That is no sign that its confidence is wrong. But it is no proof that it is"
        f" right either: with {counted(scores.n_labelled, 'row')}, its average confidence could"
        f" still be off by up to {_points(ends[1])} points without showing."
    )


def _points(share: float) -> str:
    return number(100 * np.abs(share), digits=1)


_SURELY = f"{100 * SURE:.0f}\N{NO-BREAK SPACE}%"

ALWAYS = (
    "On rows of another kind than those it was tried on: nothing here says how right it is there."
)


def where_not_to_trust(leader: Assessed, sets: Mapping[str, str]) -> Finding:
    """Return every limit that the rows show, and the one that always holds.

    A warning only where the confidence is shown to be wrong, or unfamiliar rows go unnoticed: the
    others hold for calibrated methods too.

    Args:
        leader: The method.
        sets: Label of each out-of-distribution set by its name.
    """
    levels = _levels(leader)
    sentences = (
        *levels,
        *_sure_and_wrong(leader.answers),
        *_weak_class(leader),
        *(line for name, label in sets.items() for line in _unfamiliar(leader, name, label)),
        ALWAYS,
    )
    ood = leader.scores.ood
    unnoticed = any(is_blind(ood[name]) for name in sets if name in ood)
    kind: Kind = "warning" if levels or unnoticed else "plain"
    return Finding("Where not to trust it", sentences, kind)


def _levels(leader: Assessed) -> list[str]:
    """Name the level of confidence that promises too much, for most rows times points."""
    if not miscalibrated(leader):
        return []
    points = leader.points
    level = 1 - (1 - LEVEL) / len(points)
    broken = [
        (one, high)
        for one in points
        if (high := _upper(one, leader.answers, level)) < one.confidence
    ]
    if not broken:
        return []
    worst, high = max(broken, key=lambda pair: pair[0].count * (pair[0].confidence - pair[1]))
    return [
        f"Where it says that it is about {percent(worst.confidence)} sure: it is right for"
        f" {percent(worst.accuracy)} of these {counted(worst.count, 'row')}, and likely for at most"
        f" {percent(high)} of all such rows."
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
        f"Not blindly even where it is at least {_SURELY} sure: it is wrong on {share.count:,} of"
        f" these {counted(share.size, 'row')} (likely {percent(share.low)} to"
        f" {percent(share.high)} of all such rows)."
    ]


def _weak_class(leader: Assessed) -> list[str]:
    found = leader.answers.weakest_class()
    if found is None:
        return []
    index, share = found
    name = named(shorten(clean(leader.method.predictions.classes[index])))
    return [
        f"Least on rows whose true class is {name}: it is right for {percent(share.value)} of these"
        f" {counted(share.size, 'row')} (likely {percent(share.low)} to {percent(share.high)}),"
        " fewer than on the others."
    ]


def _unfamiliar(leader: Assessed, name: str, label: str) -> list[str]:
    if name not in leader.scores.ood:
        return []
    outside = leader.method.ood[name].predictions
    surely = float((outside.confidence >= SURE).mean())
    said = (
        f"it is {percent(float(outside.confidence.mean()))} sure on average, and at"
        f" least {_SURELY} sure on {percent(surely)} of these {counted(len(outside), 'row')}"
    )
    unnoticed = ""
    if is_blind(leader.scores.ood[name]):
        unnoticed = ", and it is not shown to notice that they are unfamiliar"
    if is_reversed(leader.scores.ood[name]):
        unnoticed = ", and it is surer of them than of familiar rows"
    return [f"On unfamiliar rows such as {named(label)}: {said}{unnoticed}."]


WIDE = 0.02
"""Half-width of the interval of the gap between confidence and accuracy from which more labelled
rows are worth asking for."""


def steps(leader: Assessed, sets: Mapping[str, str]) -> list[str]:
    """Return what the numbers advise, at least one sentence.

    Args:
        leader: The method.
        sets: Label of each out-of-distribution set by its name.
    """
    return [
        _percentages(leader),
        *_person(leader.answers),
        *(line for name, label in sets.items() for line in _alarm(leader, name, label)),
        *_more_rows(leader),
    ]


def _percentages(leader: Assessed) -> str:
    if miscalibrated(leader):
        return (
            "Do not read its percentages as they stand. Recalibrate it on labelled rows that it has"
            " not seen (bayeslora recalibrate), and make this report again on others."
        )
    gap = leader.scores["overconfidence"]
    if not gap.has_interval:
        return "Do not rely on its percentages yet: these are too few rows to judge them."
    if doubtful(leader):
        return (
            "Read its percentages with some care: there is weak evidence that they are off, or that"
            " is chance. More labelled rows would tell."
        )
    most = number(100 * max(abs(gap.low), abs(gap.high)), digits=1)
    return (
        f"Nothing here speaks against reading its percentages as they stand, give or take {most}"
        " points on average."
    )


def _person(answers: Answers) -> list[str]:
    """Advise to pass the least sure rows on, where these are surely the worse ones."""
    found = answers.surest()
    if found is None:
        return []
    sure, rest = found
    if sure.low <= rest.high:
        return []
    passed = percent(rest.size / (sure.size + rest.size))
    return [
        f"Let a person look at the {passed} of rows that it is least sure of: it is right for"
        f" {percent(rest.value)} of those (likely {percent(rest.low)} to {percent(rest.high)}), and"
        f" for {percent(sure.value)} of the others (likely {percent(sure.low)} to"
        f" {percent(sure.high)})."
    ]


def _alarm(leader: Assessed, name: str, label: str) -> list[str]:
    result = leader.scores.ood.get(name)
    if result is None:
        return []
    why_not = verdict(result)
    if why_not == "beaten":
        return [
            f"Do not flag rows like {named(label)} by its {score_words(result.score)}."
            f" {instead_of(result)}"
        ]
    if why_not == "blind":
        why = "these rows do not show that its uncertainty tells"
        if is_reversed(result):
            why = "it is surer of such rows than of familiar ones"
        return [f"Check by other means whether a row is like {named(label)}: {why}."]
    if why_not == "doubtful":
        return [
            f"Do not flag rows like {named(label)} by its {score_words(result.score)}: it says too"
            " little here."
        ]
    flagged = result.fpr95
    if why_not == "costly":
        return [
            f"Check by other means whether a row is like {named(label)}: a threshold that catches"
            f" 95 of 100 of them would also flag {percent(flagged.value)} of familiar rows."
        ]
    by_confidence = result.score == "max_probability"
    kind = "lowest confidence" if by_confidence else f"highest {score_words(result.score)}"
    return [
        f"To catch rows like {named(label)}, pass on those of {kind}: a"
        f" threshold that catches 95 of 100 of them also flags {percent(flagged.value)} of familiar"
        f" rows (likely {percent(flagged.low)} to {percent(flagged.high)})."
    ]


def _more_rows(leader: Assessed) -> list[str]:
    gap = leader.scores["overconfidence"]
    half = (gap.high - gap.low) / 2
    if half < WIDE:
        return []
    size = counted(leader.scores.n_labelled, "labelled row")
    if not gap.has_interval:
        return [
            f"Label more rows: {size} cannot tell how far apart its confidence and accuracy are."
        ]
    return [
        f"Label more rows if this matters: with {size} the gap between confidence and accuracy"
        f" is known to about ±{number(100 * half, digits=1)} points; four times as many would halve"
        " that."
    ]
