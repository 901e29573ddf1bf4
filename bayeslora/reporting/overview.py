"""The first screen of a report: verdict, four numbers and diagram of the method to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import counted
from bayeslora.reporting.answers import SURE
from bayeslora.reporting.assess import (
    Assessed,
    bias_of,
    is_close,
    is_doubtful,
    miscalibrated,
    miscalibration_p,
    misses_more_than_chance,
    occupied,
    slightly_biased,
)
from bayeslora.reporting.findings import bins_that_miss, missed_bins
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.score_tables import Named, bold, score_table
from bayeslora.reporting.tables import Table
from bayeslora.reporting.text import (
    hundredths,
    listed,
    named,
    number,
    percent,
    share_interval,
    whole_percent,
)

COLUMNS = ("accuracy", "nll", "overconfidence", "ece")
"""Scores of the table of methods; out-of-distribution sets displace the last ones."""

MOST_COLUMNS, MOST_SETS = 5, 2
"""Most columns of numbers in that table, and most out-of-distribution sets among them."""

Kind = Literal["good", "warning", "open"]


@dataclass(frozen=True)
class Tile:
    """A number of the first screen.

    Attributes:
        title: Name of the number.
        value: The number as text.
        detail: Its interval, or an explanation.
    """

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Overview:
    """The first screen.

    Attributes:
        verdict: Whether the probabilities can be taken at face value, in a few words; with several
            methods it names the method, marked by `text.named`.
        kind: `good`, `warning`, or `open` if the rows are inconclusive.
        about: Why this method is shown; empty for a single method.
        tiles: Accuracy, confidence, the gap between them, and the share to pass to a person;
            without labels, statistics of the confidence.
        figure: Name of the reliability diagram of that fit; without labels, of the histogram.
        caption: How to read the diagram.
        methods: The table of methods by a few scores; None for a single method.
    """

    verdict: str
    kind: Kind
    about: str
    tiles: tuple[Tile, ...]
    figure: str
    caption: str
    methods: Table | None


def overview(facts: Facts, fits: Sequence[Assessed], named_scores: Sequence[Named]) -> Overview:
    """Return the first screen.

    Args:
        facts: Facts on the methods.
        fits: Every fit of the methods, in the order of the figures.
        named_scores: Scores of the methods with their labels, in the order of the table.
    """
    leader = facts.leader
    if leader is None:
        return _unlabelled(facts)
    fit = leader.each[0]
    verdict, kind = verdict_of(fit.scores)
    one_of_several = len(facts.methods) > 1 or bool(leader.fits)
    if len({bias_of(seed_fit.scores) for seed_fit in leader.each if miscalibrated(seed_fit)}) > 1:
        verdict, kind = f"{named(leader.label)}: seeds disagree", "warning"
    elif one_of_several:
        verdict = f"{named(fit.label)}: {verdict[0].lower()}{verdict[1:]}"
    return Overview(
        verdict,
        kind,
        _about(facts) if one_of_several else "",
        (*_scores(fit), *_person(fit)),
        f"reliability-{1 + next(index for index, other in enumerate(fits) if other is fit)}",
        f"Points below the diagonal: overconfident; above it: underconfident."
        f" {bins_that_miss(fit.points)}.",
        _methods(named_scores, facts) if len(named_scores) > 1 else None,
    )


def _unlabelled(facts: Facts) -> Overview:
    """Return the first screen of the first method if no row has a label."""
    first = facts.methods[0].each[0]
    predictions, mean = first.method.predictions, first.scores["mean_confidence"]
    sure = float((predictions.confidence >= SURE).mean())
    tiles = (
        Tile("Examples", f"{len(predictions):,}", "none labelled"),
        Tile("Mean confidence", percent(mean.value), share_interval(mean.low, mean.high)),
        Tile(f"Confidence {SURE:g} or more", percent(sure), "of examples"),
    )
    return Overview(
        "Can't tell: no labels",
        "open",
        named(first.label) if len(facts.methods) > 1 else "",
        tiles,
        "confidence-1",
        "Confidence of every example. Whether it is justified, only labels show.",
        None,
    )


def verdict_of(scores: Scores) -> tuple[str, Kind]:
    """Return whether the probabilities of a fit can be used without recalibration, in a few words.

    Args:
        scores: Scores of labelled examples.
    """
    gap, p = scores["overconfidence"], miscalibration_p(scores)
    size = counted(scores.n_labelled, "labelled example")
    if p < SIGNIFICANT:
        return _miscalibrated(scores)
    if is_doubtful(p):
        return "Possibly miscalibrated", "open"
    if gap.has_interval and is_close(gap):
        return "Well calibrated on average", "good"
    return f"Can't tell: {size}", "open"


def _miscalibrated(scores: Scores) -> tuple[str, Kind]:
    way = bias_of(scores)
    if way == "none":
        return f"Miscalibrated: {_hidden(scores)}", "warning"
    points = hundredths(abs(scores["overconfidence"].value))
    if slightly_biased(scores):
        return f"Slightly {way}confident ({points} points)", "open"
    return f"{way.capitalize()}confident by {points} points", "warning"


def _hidden(scores: Scores) -> str:
    """Return the evidence of a miscalibration that cancels on average."""
    points = occupied(scores.bins)
    if misses_more_than_chance(points):
        return missed_bins(points)
    floor = scores.ece_if_calibrated
    chance = "" if floor is None else f", by chance {number(floor)}"
    return f"ECE {number(scores['ece'].value)}{chance}"


def _about(facts: Facts) -> str:
    """Return why the first screen shows this fit, and which methods are tied."""
    return "; ".join(filter(None, (_why(facts), _which_seed(facts))))


def _why(facts: Facts) -> str:
    choice = facts.choice
    if not facts.same_classes:
        return f"First of {len(facts.methods)} methods; their classes differ"
    if choice is None or len(facts.labelled) < 2:
        return ""
    other_rows = "" if facts.comparison is not None else ", on examples that may differ"
    if not choice.reasons:
        return f"Lowest NLL{other_rows}"
    if choice.equal:
        tied = listed([named(label) for label in choice.equal], 3)
        return f"Recommended, tied with {tied}{other_rows}"
    return f"Recommended: {choice.reasons[0]}{other_rows}"


def _which_seed(facts: Facts) -> str:
    leader = facts.leader
    if leader is None or not leader.fits:
        return ""
    return f"numbers of {named(leader.fits[0].label)}, the first of {len(leader.fits)} seeds"


def _scores(fit: Assessed) -> list[Tile]:
    accuracy, gap = fit.scores["accuracy"], fit.scores["overconfidence"]
    confidence = fit.scores["mean_confidence"]
    ends = share_interval(accuracy.low, accuracy.high)
    return [
        Tile("Accuracy", percent(accuracy.value), ends),
        Tile("Mean confidence", percent(confidence.value), "stated on average"),
        Tile(
            "Calibration gap",
            hundredths(gap.value, signed=True),
            f"points {share_interval(gap.low, gap.high, signed=True)}",
        ),
    ]


def _person(fit: Assessed) -> list[Tile]:
    surest = fit.answers.surest()
    if surest is None:
        return []
    sure, rest = surest
    share = whole_percent(rest.size / (rest.size + sure.size))
    return [
        Tile(
            f"Least confident {share}",
            percent(rest.value),
            f"correct; the rest {percent(sure.value)}",
        )
    ]


def _methods(named_scores: Sequence[Named], facts: Facts) -> Table:
    shown = dict(list(facts.sets.items())[:MOST_SETS])
    table = score_table(named_scores, shown, COLUMNS[: MOST_COLUMNS - len(shown)], facts)
    rows = tuple(
        replace(row, cells=tuple(replace(cell, interval="", p="") for cell in row.cells))
        for row in table.rows
    )
    return replace(table, caption=f"{bold(facts)} {_arrows(shown)}", rows=rows, notes="")


def _arrows(sets: Mapping[str, str]) -> str:
    auroc = " AUROC: out-of-distribution detection." if sets else ""
    return f"↑ higher, ↓ lower, →0 closer to 0 is better.{auroc}"
