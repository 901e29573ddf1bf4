"""The first screen of a report: a verdict, four numbers, the leading method's diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import counted
from bayeslora.reporting.assess import Assessed, bias_of, is_doubtful, miscalibration_p
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.score_tables import BOLD, Named, score_table
from bayeslora.reporting.tables import Table
from bayeslora.reporting.text import interval, named, number, percent

CLOSE = 0.05
"""Largest gap between confidence and accuracy, to the end of its interval, that is called well
calibrated; where the interval reaches further, the rows only show no sign of miscalibration."""

COLUMNS = ("accuracy", "nll", "ece", "overconfidence")
"""Scores of the table of methods."""

MOST_SETS = 2
"""Out-of-distribution sets in that table, so that it has at most six columns of numbers."""

Kind = Literal["good", "warning", "open"]


@dataclass(frozen=True)
class Tile:
    """One number.

    Attributes:
        title: What it is.
        value: The number as text.
        detail: Its interval, or what it is made of.
    """

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Overview:
    """What a reader sees first.

    Attributes:
        verdict: Whether the probabilities can be read as they stand, in a few words; with several
            methods it names the one that it is of, marked by `text.named`.
        kind: `good`, `warning`, or `open` where the rows cannot tell.
        about: Why it is that one; empty where there is one method.
        tiles: Accuracy, confidence, the gap between them, and what to hand to a person.
        figure: Name of the reliability diagram of that fit.
        methods: The methods by a few scores; None where there is one.
    """

    verdict: str
    kind: Kind
    about: str
    tiles: tuple[Tile, ...]
    figure: str
    methods: Table | None


def overview(
    facts: Facts, fits: Sequence[Assessed], named_scores: Sequence[Named]
) -> Overview | None:
    """Return the first screen; None where no row has a label.

    Args:
        facts: What was found out of the methods.
        fits: Every fit of them, in the order of the figures.
        named_scores: Their scores with their labels, in the order of the table.
    """
    leader = facts.leader
    if leader is None or facts.nll is None:
        return None
    fit = leader.each[0]
    verdict, kind = verdict_of(fit.scores)
    one_of_several = len(facts.methods) > 1 or bool(leader.fits)
    if one_of_several:
        verdict = f"{named(fit.label)}: {verdict[0].lower()}{verdict[1:]}"
    return Overview(
        verdict,
        kind,
        _about(facts) if one_of_several else "",
        (*_scores(fit), *_person(fit)),
        f"reliability-{1 + next(place for place, one in enumerate(fits) if one is fit)}",
        _methods(named_scores, facts.sets) if len(named_scores) > 1 else None,
    )


def verdict_of(scores: Scores) -> tuple[str, Kind]:
    """Return whether the probabilities of one fit can be used as they are, in a few words.

    Args:
        scores: Of labelled examples.
    """
    gap, p = scores["overconfidence"], miscalibration_p(scores)
    size = counted(scores.n_labelled, "labelled example")
    if p < SIGNIFICANT:
        way = bias_of(scores)
        if way == "none":
            return "Miscalibrated at some levels of confidence", "warning"
        points = number(100 * abs(gap.value), digits=1)
        return f"{way.capitalize()}confident by {points} points", "warning"
    if not gap.has_interval:
        return f"Too few examples to tell: {size}", "open"
    if is_doubtful(p):
        return "Possibly miscalibrated", "open"
    if max(abs(gap.low), abs(gap.high)) <= CLOSE:
        return "Well calibrated on average", "good"
    return f"No sign of miscalibration in {size}", "open"


def _about(facts: Facts) -> str:
    ties = 0 if facts.nll is None else len(facts.nll.tied)
    return f"Lowest NLL ({counted(ties, 'other')} tied)" if ties else "Lowest NLL"


def _scores(fit: Assessed) -> list[Tile]:
    accuracy, gap = fit.scores["accuracy"], fit.scores["overconfidence"]
    confidence = fit.scores["mean_confidence"]
    ends = interval(100 * accuracy.low, 100 * accuracy.high, digits=1)
    return [
        Tile("Accuracy", percent(accuracy.value), ends),
        Tile("Mean confidence", percent(confidence.value), "stated on average"),
        Tile(
            "Calibration gap",
            number(100 * gap.value, signed=True, digits=1),
            f"points {interval(100 * gap.low, 100 * gap.high, signed=True, digits=1)}",
        ),
    ]


def _person(fit: Assessed) -> list[Tile]:
    found = fit.answers.surest()
    if found is None:
        return []
    sure, rest = found
    share = percent(rest.size / (rest.size + sure.size))
    title = "Hand to a person" if sure.low > rest.high else "Least confident"
    detail = f"{percent(rest.value)} correct; others {percent(sure.value)}"
    return [Tile(title, share, detail)]


def _methods(named_scores: Sequence[Named], sets: Mapping[str, str]) -> Table:
    shown = dict(list(sets.items())[:MOST_SETS])
    table = score_table(named_scores, shown, COLUMNS)
    rows = tuple(
        replace(row, cells=tuple(replace(cell, interval="", p="") for cell in row.cells))
        for row in table.rows
    )
    return replace(table, caption=BOLD, rows=rows, notes="")
