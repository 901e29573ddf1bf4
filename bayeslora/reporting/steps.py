"""What to do with a method, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from bayeslora.plain_text import counted
from bayeslora.reporting.answers import Answers
from bayeslora.reporting.assess import Assessed, doubtful, miscalibrated
from bayeslora.reporting.detectors import MOST_FLAGGED, instead_of, is_usable, score_words
from bayeslora.reporting.text import named, number, percent

WIDE = 0.02
"""Half-width of the interval of the gap between confidence and accuracy from which more labelled
rows are worth asking for."""


def steps(leader: Assessed, answers: Answers, sets: Mapping[str, str]) -> list[str]:
    """Return what the numbers advise, at least one sentence.

    Args:
        leader: The method.
        answers: Its labelled rows.
        sets: Label of each out-of-distribution set by its name.
    """
    return [
        _percentages(leader),
        *_person(answers),
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
    if result.better:
        return [
            f"Do not flag rows like {named(label)} by its {score_words(result.score)}."
            f" {instead_of(result)}"
        ]
    if result.auroc.low <= 0.5:
        why = "these rows do not show that its uncertainty tells"
        if result.auroc.high < 0.5:
            why = "it is surer of such rows than of familiar ones"
        return [f"Check by other means whether a row is like {named(label)}: {why}."]
    if not is_usable(result):
        return [
            f"Do not flag rows like {named(label)} by its {score_words(result.score)}: it says too"
            " little here."
        ]
    flagged = result.fpr95
    if flagged.value > MOST_FLAGGED:
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
        f"Label more rows if this matters: with {size} the gap between how sure and how right it is"
        f" is known to about ±{number(100 * half, digits=1)} points; four times as many would halve"
        " that."
    ]
