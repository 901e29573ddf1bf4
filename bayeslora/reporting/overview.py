"""The first screen of a report: verdict, numbers and diagram of the method to use, and advice.

Advice follows from the scores. Recalibration concerns all methods, everything else the method to
use. Only the advice on flagging inputs of a set concerns the best detector, if it is clearly better
than the method to use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.scores import LEAST_ROWS, NO_INTERVAL, Score, Scores
from bayeslora.plain_text import counted
from bayeslora.reporting.assess import (
    CLOSE,
    SURE,
    Assessed,
    Share,
    bias_of,
    every_fit,
    is_close,
    is_doubtful,
    miscalibration_p,
    misses_more_than_chance,
    occupied,
    slightly_biased,
)
from bayeslora.reporting.blocks import Finding, Overview, Tile
from bayeslora.reporting.detectors import instead_of, is_reversed, score_words, verdict
from bayeslora.reporting.findings import bins_that_miss
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.score_tables import bold, score_table
from bayeslora.reporting.tables import Table
from bayeslora.reporting.text import (
    hundredths,
    listed,
    listed_names,
    named,
    percent,
    share_interval,
    whole_percent,
)

COLUMNS = ("accuracy", "nll", "overconfidence", "ece")
"""Scores of the table of methods; out-of-distribution sets displace the last ones."""

MOST_COLUMNS, MOST_SETS = 5, 2
"""Most columns of numbers in that table, and most out-of-distribution sets among them."""

Kind = Literal["good", "warning", "open"]


def overview(facts: Facts) -> Overview:
    """Return the first screen."""
    leader = facts.leader
    if leader is None:
        return _unlabelled(facts)
    fit = leader.each[0]
    words, kind = verdict_of(fit.scores)
    one_of_several = len(facts.methods) > 1 or bool(leader.fits)
    if len({bias_of(seed_fit.scores) for seed_fit in leader.each if seed_fit.miscalibrated}) > 1:
        words, kind = f"{named(leader.label)}: seeds disagree", "warning"
    elif one_of_several:
        words = f"{named(fit.label)}: {words[0].lower()}{words[1:]}"
    fits = enumerate(every_fit(facts.methods), start=1)
    return Overview(
        words,
        kind,
        _about(facts) if one_of_several else "",
        tuple(_tiles(fit)),
        f"reliability-{next(index for index, other in fits if other is fit)}",
        f"Points below the diagonal: overconfident; above it: underconfident."
        f" {bins_that_miss(fit.points)}.",
        _methods(facts) if len(facts.methods) > 1 else None,
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
        "Not judged: no labels",
        "open",
        named(first.label) if len(facts.methods) > 1 else "",
        tiles,
        "confidence-1",
        "Confidence of every example. Whether it is justified, only labels show.",
        None,
    )


def verdict_of(scores: Scores, *, brief: bool = True) -> tuple[str, Kind]:
    """Return whether labelled probabilities can be used without recalibration, in a few words.

    If the examples cannot tell, `brief` leaves out what they cannot tell and how many could.
    """
    gap, p = scores["overconfidence"], miscalibration_p(scores)
    size = counted(scores.n_labelled, "labelled example")
    if p < SIGNIFICANT:
        return _miscalibrated(scores)
    if is_doubtful(p):
        return "Possibly miscalibrated", "open"
    if gap.has_interval and is_close(gap):
        return "Well calibrated on average", "good"
    if brief and not gap.has_interval and scores.n_labelled >= LEAST_ROWS:
        return f"Can't tell: {NO_INTERVAL} of the gap", "open"
    if brief:
        return f"Too few examples to tell ({scores.n_labelled:,})", "open"
    needed = labels_needed(gap, scores.n_labelled)
    enough = "" if needed is None else f" (about {needed:,} could show it)"
    return f"Can't tell from {size} whether confidence matches accuracy{enough}", "open"


def labels_needed(gap: Score, size: int) -> int | None:
    """Return about how many labelled examples could show whether the gap is zero or small.

    The interval of the gap narrows with the square root of their number. It shows a bias once it
    excludes zero, and calibration once it is within `CLOSE`, whichever comes first if the gap stays
    as it is. Rounded up to two digits; None without an interval.

    Args:
        gap: Mean confidence minus accuracy.
        size: Number of labelled examples.
    """
    if not gap.has_interval:
        return None
    half_width = max(gap.high - gap.value, gap.value - gap.low)
    target_width = max(abs(gap.value), CLOSE - abs(gap.value))
    needed = size * (half_width / target_width) ** 2
    unit = 10.0 ** max(math.floor(math.log10(needed)) - 1, 0)
    return int(math.ceil(needed / unit) * unit)


def _miscalibrated(scores: Scores) -> tuple[str, Kind]:
    way = bias_of(scores)
    if way != "none":
        size = hundredths(abs(scores["overconfidence"].value), digits=scores.gap_digits)
        if slightly_biased(scores):
            return f"Slightly {way}confident ({size} points)", "open"
        return f"{way.capitalize()}confident by {size} points", "warning"
    points = occupied(scores.bins)
    if misses_more_than_chance(points):
        off = f"{sum(point.off_diagonal for point in points)} of {len(points)}"
        return f"Miscalibrated: confidence is off in {off} bins", "warning"
    floor = scores.ece_if_calibrated
    chance = "" if floor is None else f" (chance: {hundredths(floor)})"
    return f"Miscalibrated: off by {hundredths(scores['ece'].value)} points{chance}", "warning"


def _about(facts: Facts) -> str:
    """Return why the first screen shows this fit, and which methods are tied."""
    reasons, leader = [_why(facts)], facts.leader
    if leader is not None and leader.fits:
        first = named(leader.fits[0].label)
        reasons.append(f"numbers of {first}, the first of {len(leader.fits)} seeds")
    return "; ".join(filter(None, reasons))


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
        return f"Recommended, tied with {listed_names(choice.equal, 3)}{other_rows}"
    return f"Recommended: {choice.reasons[0]}{other_rows}"


def _tiles(fit: Assessed) -> Iterator[Tile]:
    accuracy, gap = fit.scores["accuracy"], fit.scores["overconfidence"]
    ends = share_interval(accuracy.low, accuracy.high)
    yield Tile("Accuracy", percent(accuracy.value), ends)
    stated = percent(fit.scores["mean_confidence"].value)
    yield Tile("Mean confidence", stated, "stated on average")
    digits = fit.scores.gap_digits
    value = hundredths(gap.value, signed=True, digits=digits)
    ends = share_interval(gap.low, gap.high, signed=True, digits=digits)
    yield Tile("Calibration gap", value, f"points {ends}")
    surest = fit.answers.surest()
    if surest is not None:
        sure, rest = surest
        title = f"least confident {whole_percent(rest.size / (rest.size + sure.size))}"
        task = "Hand to a person: " if _should_be_checked(sure, rest) else ""
        title = f"{task}{title}" if task else title.capitalize()
        # Short: on a phone it stands beside the value.
        yield Tile(title, percent(rest.value), f"correct; rest: {percent(sure.value)}")


def _methods(facts: Facts) -> Table:
    shown = dict(list(facts.sets.items())[:MOST_SETS])
    table = score_table(facts.scores, shown, COLUMNS[: MOST_COLUMNS - len(shown)], facts)
    rows = tuple(
        replace(row, cells=tuple(replace(cell, interval="", p="") for cell in row.cells))
        for row in table.rows
    )
    arrows = "↑ higher, ↓ lower, →0 closer to 0 is better."
    auroc = " AUROC: OOD detection." if shown else ""
    return replace(table, caption=f"{bold(facts)} {arrows}{auroc}", rows=rows, notes="")


WIDE = 0.02
"""Half-width of the interval of the gap between confidence and accuracy from which to advise more
labels."""

USABLE = 0.5
"""Accuracy below which passing the least confident examples to a person does not help."""


def advice(facts: Facts) -> Finding | None:
    """Return the advice, or None if there is none."""
    leader = facts.leader
    several = len(facts.methods) > 1 or any(method.fits for method in facts.methods)
    sentences = []
    if leader is not None:
        sentences += [*_advised_choice(facts), *_face_value(facts.labelled)]
        sentences += _person(leader.each[0], several=several)
    sentences += [_flags(facts, name, named(label)) for name, label in facts.sets.items()]
    if leader is not None:
        sentences += _more_labels(leader, several=several)
    return Finding("advice", "What to do", tuple(sentences), "advice") if sentences else None


def _advised_choice(facts: Facts) -> list[str]:
    """Return which method to use, if the scores show it."""
    choice = facts.choice
    if choice is None or not choice.reasons:
        return []
    labels = (choice.label, *choice.equal)
    names = listed_names(labels)
    words = f"Choose between {names} by cost" if choice.equal else f"Prefer {names}"
    sentences = [f"{words}: {listed(choice.reasons)}."]
    fits = [method.label for method in facts.labelled if method.label in labels and not method.fits]
    if fits and any(method.fits for method in facts.labelled):
        verb = "is" if len(fits) == 1 else "are each"
        means = "one fit beside means over seeds: other seeds may do worse."
        sentences.append(f"{listed_names(fits)} {verb} {means}")
    return sentences


def _face_value(methods: Sequence[Assessed]) -> list[str]:
    """Return whether the probabilities can be used without recalibration."""
    unsound = [method for method in methods if method.miscalibrated]
    slightly = [
        method for method in unsound if all(slightly_biased(fit.scores) for fit in method.each)
    ]
    badly = [method for method in unsound if method not in slightly]
    several = len(methods) > 1
    sentences = []
    if badly:
        sentences.append(
            f"Do not take the probabilities{_of(badly, several=several)} at face value: recalibrate"
            " on held-out labelled examples (bayeslora recalibrate), then re-evaluate on different"
            " examples."
        )
    if slightly:
        small = f"The bias{_of(slightly, several=several)} is small; recalibrate if it matters"
        sentences.append(f"{small}." if badly else f"{small} (bayeslora recalibrate).")
    if unsound or several:
        return sentences
    [only] = methods
    gap = only.scores["overconfidence"]
    if not gap.has_interval:
        return []
    if only.doubtful:
        return [
            "Use the probabilities with care: there is weak evidence of miscalibration, or that is"
            " chance."
        ]
    low, high = (hundredths(end, signed=True) for end in (gap.low, gap.high))
    size = f"the average calibration gap is {low} to {high} points (95 % interval)"
    if is_close(gap):
        return [f"Use the probabilities as they are: no sign of miscalibration, and {size}."]
    return [
        "These examples are too few to tell whether the probabilities can be used as they are:"
        f" {size}."
    ]


def _of(methods: Sequence[Assessed], *, several: bool) -> str:
    return f" of {listed_names(method.label for method in methods)}" if several else ""


def _should_be_checked(sure: Share, rest: Share) -> bool:
    """Return whether a person should check the least confident examples, the `rest`."""
    return sure.low > rest.high and sure.value >= USABLE


def _person(leader: Assessed, *, several: bool) -> list[str]:
    """Advise passing on the least confident examples if their accuracy is clearly lower."""
    surest = leader.answers.surest()
    if surest is None or not _should_be_checked(*surest):
        return []
    sure, rest = surest
    passed = whole_percent(rest.size / (sure.size + rest.size))
    return [
        f"Let a person check the least confident examples{_of([leader], several=several)}. On the"
        f" lowest {passed}, for instance, accuracy is {percent(rest.value)}"
        f" {share_interval(rest.low, rest.high)}; on the others it is {percent(sure.value)}"
        f" {share_interval(sure.low, sure.high)}. The risk-coverage curve shows other shares."
    ]


def _flags(facts: Facts, name: str, label: str) -> str:
    """Return how to flag inputs like those of a set, or why not to.

    The detector is that of the method to use unless another is clearly better.
    """
    best, result = facts.detectors[name]
    leader = facts.leader
    if leader is not None and best.is_top(leader.label):
        best, result = replace(best, label=leader.label), leader.scores.ood[name]
    whose = f" of {named(best.label)}" if best.others else ""
    score, flagged = score_words(result.score), result.fpr95
    why_not = verdict(result)
    if why_not == "beaten":
        return f"Do not flag inputs like {label} by {score}{whose}. {instead_of(result)}"
    if why_not == "blind":
        why = "is not shown to notice them"
        if is_reversed(result):
            why = "is lower on them than on in-distribution examples"
        return f"Detect inputs like {label} by other means: {score} {why}."
    if why_not == "doubtful":
        return f"Do not flag inputs like {label} by {score}{whose}: see below."
    if why_not == "costly":
        return (
            f"Do not try to catch 95\N{NO-BREAK SPACE}% of inputs like {label}: {score}{whose}"
            f" would flag {percent(flagged.value)} of in-distribution examples as well."
        )
    kind = "lowest confidence" if result.score == "max_probability" else f"highest {score}"
    return (
        f"Flag inputs like {label} by the {kind}{whose}: catching 95\N{NO-BREAK SPACE}% of them"
        f" flags {percent(flagged.value)} {share_interval(flagged.low, flagged.high)} of"
        " in-distribution examples."
    )


def _more_labels(leader: Assessed, *, several: bool) -> list[str]:
    clusters = leader.each[0].answers.clusters
    # Examples of the same clusters tell little more.
    size = (
        counted(leader.scores.n_labelled, "labelled example")
        if clusters is None
        else f"{counted(len(np.unique(clusters)), 'cluster')} of labelled examples"
    )
    gaps = [fit.scores["overconfidence"] for fit in leader.each]
    half_widths = [(gap.high - gap.low) / 2 for gap in gaps if gap.has_interval]
    if not half_widths:
        return [f"Label more: {size} cannot show whether the probabilities can be trusted."]
    if max(half_widths) < WIDE:
        return []
    whose = f"{' of each seed' if leader.fits else ''}{_of([leader], several=several)}"
    return [
        f"Label more if it matters: with {size}, the gap between confidence and accuracy{whose} is"
        f" known to within ±{hundredths(max(half_widths))} points; four times as many would halve"
        " that."
    ]
