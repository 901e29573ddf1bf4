"""Where a method is not to be trusted, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from bayeslora.metrics.intervals import LEVEL, wilson
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.reporting.answers import SURE, Answers
from bayeslora.reporting.assess import Assessed, Point, miscalibrated
from bayeslora.reporting.findings import Finding, Kind
from bayeslora.reporting.text import named, percent

_SURELY = f"{100 * SURE:.0f}\N{NO-BREAK SPACE}%"

ALWAYS = (
    "On rows of another kind than those it was tried on: nothing here says how right it is there."
)


def where_not_to_trust(leader: Assessed, answers: Answers, sets: Mapping[str, str]) -> Finding:
    """Return every limit that the rows show, and the one that always holds.

    A warning only where the confidence is shown to be wrong, or unfamiliar rows go unnoticed: the
    others hold for calibrated methods too.

    Args:
        leader: The method.
        answers: Its labelled rows.
        sets: Label of each out-of-distribution set by its name.
    """
    levels = _levels(leader, answers)
    sentences = (
        *levels,
        *_sure_and_wrong(answers),
        *_weak_class(leader, answers),
        *(line for name, label in sets.items() for line in _unfamiliar(leader, name, label)),
        ALWAYS,
    )
    is_blind = any(_is_blind(leader, name) for name in sets)
    kind: Kind = "warning" if levels or is_blind else "plain"
    return Finding("Where not to trust it", sentences, kind)


def _is_blind(leader: Assessed, name: str) -> bool:
    """Return whether unfamiliar rows are not shown to be more uncertain than familiar ones."""
    return name in leader.scores.ood and leader.scores.ood[name].auroc.low <= 0.5


def _levels(leader: Assessed, answers: Answers) -> list[str]:
    """Name the level of confidence that promises too much, for most rows times points."""
    if not miscalibrated(leader):
        return []
    points = leader.points
    level = 1 - (1 - LEVEL) / len(points)
    broken = [
        (one, high) for one in points if (high := _upper(one, answers, level)) < one.confidence
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


def _weak_class(leader: Assessed, answers: Answers) -> list[str]:
    found = answers.weakest_class()
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
    if _is_blind(leader, name):
        unnoticed = ", and it is not shown to notice that they are unfamiliar"
    if leader.scores.ood[name].auroc.high < 0.5:
        unnoticed = ", and it is surer of them than of familiar rows"
    return [f"On unfamiliar rows such as {named(label)}: {said}{unnoticed}."]
