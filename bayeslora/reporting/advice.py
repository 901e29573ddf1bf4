"""What to do about the findings: which method to use, what not to rely on, how many rows to add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayeslora.metrics.compare import Comparison
from bayeslora.plain_text import counted
from bayeslora.reporting.assess import Assessed, miscalibrated
from bayeslora.reporting.detectors import MOST_FLAGGED, instead_of, is_usable, score_words
from bayeslora.reporting.findings import Finding, best_detector
from bayeslora.reporting.pooled import every_fit
from bayeslora.reporting.standing import standing_of
from bayeslora.reporting.text import listed, named, number, percent

WIDE_ECE = 0.01
"""Half-width of an ECE's interval from which more rows are worth asking for."""


def advice(
    methods: Sequence[Assessed], comparison: Comparison | None, sets: Mapping[str, str]
) -> list[Finding]:
    """Return what to do, or nothing where there is nothing to advise.

    Args:
        methods: At least one method.
        comparison: Paired differences from the method of lowest NLL, if there are any.
        sets: Label of each out-of-distribution set by its name.
    """
    labelled = [method for method in methods if "nll" in method.scores]
    sentences = [*_choice(labelled, comparison), *_recalibrate(labelled)]
    sentences += [line for name, label in sets.items() for line in _flags(methods, name, label)]
    sentences += _more_rows(labelled)
    return (
        [Finding("What follows from the scores", tuple(sentences), "advice")] if sentences else []
    )


def _choice(methods: Sequence[Assessed], comparison: Comparison | None) -> list[str]:
    # Without intervals nothing tells the methods apart, and no cost should decide on a handful.
    if len(methods) < 2 or not all(one.scores["nll"].has_interval for one in methods):
        return []
    nll = standing_of("nll", methods, comparison)
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


def _flags(methods: Sequence[Assessed], name: str, label: str) -> list[str]:
    best, result = best_detector(methods, name)
    if result.better:
        return [
            f"Do not flag rows like {named(label)} by {score_words(result.score)} of"
            f" {named(best.label)}. {instead_of(result)}"
        ]
    if best.score.low <= 0.5:
        return [f"Do not count on these uncertainties to flag rows like {named(label)}."]
    if not is_usable(result):
        return [
            f"Do not flag rows like {named(label)} by {score_words(result.score)} of"
            f" {named(best.label)}; the reasons are given below."
        ]
    if result.fpr95.value > MOST_FLAGGED:
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
