"""Advice that follows from the scores.

Recalibration concerns all methods, everything else the method to use. Only the advice on flagging
inputs of a set concerns the best detector, if it is clearly better than the method to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bayeslora.metrics.scores import OODScores
from bayeslora.plain_text import counted
from bayeslora.reporting.assess import (
    Assessed,
    doubtful,
    is_close,
    miscalibrated,
    slightly_biased,
)
from bayeslora.reporting.detectors import instead_of, is_reversed, score_words, verdict
from bayeslora.reporting.findings import Finding
from bayeslora.reporting.ranking import Facts, Standing
from bayeslora.reporting.text import (
    hundredths,
    listed,
    named,
    percent,
    share_interval,
    whole_percent,
)

WIDE = 0.02
"""Half-width of the interval of the gap between confidence and accuracy from which to advise more
labels."""

USABLE = 0.5
"""Accuracy below which passing the least confident examples to a person does not help."""


def advice(facts: Facts) -> Finding | None:
    """Return the advice, or None if there is none."""
    leader = facts.leader
    sentences = []
    if leader is not None:
        sentences += [*_choice(facts), *_face_value(facts.labelled)]
        sentences += _person(leader.each[0], several=_are_several(facts))
    for name, label in facts.sets.items():
        sentences += _flags(*_detector(facts, name), named(label))
    if leader is not None:
        sentences += _more_labels(leader, several=_are_several(facts))
    return Finding("advice", "What to do", tuple(sentences), "advice") if sentences else None


def _are_several(facts: Facts) -> bool:
    return len(facts.methods) > 1 or any(method.fits for method in facts.methods)


def _choice(facts: Facts) -> list[str]:
    """Return which method to use, if the scores show it."""
    choice = facts.choice
    if choice is None or not choice.reasons:
        return []
    labels = (choice.label, *choice.equal)
    names = listed([named(label) for label in labels])
    words = f"Choose between {names} by cost" if choice.equal else f"Prefer {names}"
    chosen = [method for method in facts.labelled if method.label in labels]
    return [f"{words}: {listed(choice.reasons)}.", *_one_fit(chosen, facts.labelled)]


def _one_fit(chosen: Sequence[Assessed], methods: Sequence[Assessed]) -> list[str]:
    """Warn if a single fit is chosen while others are means over seeds."""
    single = [named(method.label) for method in chosen if not method.fits]
    if not single or not any(method.fits for method in methods):
        return []
    verb = "is" if len(single) == 1 else "are each"
    return [f"{listed(single)} {verb} one fit beside means over seeds: other seeds may do worse."]


def _face_value(methods: Sequence[Assessed]) -> list[str]:
    """Return whether the probabilities can be used without recalibration."""
    unsound = [method for method in methods if miscalibrated(method)]
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
    if doubtful(only):
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
    return f" of {listed([named(method.label) for method in methods])}" if several else ""


def _person(leader: Assessed, *, several: bool) -> list[str]:
    """Advise passing on the least confident examples if their accuracy is clearly lower."""
    surest = leader.answers.surest()
    if surest is None:
        return []
    sure, rest = surest
    if sure.low <= rest.high or sure.value < USABLE:
        return []
    passed = whole_percent(rest.size / (sure.size + rest.size))
    return [
        f"Let a person check the least confident examples{_of([leader], several=several)}. On the"
        f" lowest {passed}, for instance, accuracy is {percent(rest.value)}"
        f" {share_interval(rest.low, rest.high)}; on the others it is {percent(sure.value)}"
        f" {share_interval(sure.low, sure.high)}. The risk-coverage curve shows other shares."
    ]


def _detector(facts: Facts, name: str) -> tuple[Standing, OODScores]:
    """Return the detector of a set: the method to use unless another is clearly better."""
    best, result = facts.detectors[name]
    leader = facts.leader
    if leader is None or not best.is_top(leader.label):
        return best, result
    return replace(best, label=leader.label), leader.scores.ood[name]


def _flags(best: Standing, result: OODScores, label: str) -> list[str]:
    """Return how to flag inputs like those of a set, or why not to."""
    whose = f" of {named(best.label)}" if best.others else ""
    score, flagged = score_words(result.score), result.fpr95
    why_not = verdict(result)
    if why_not == "beaten":
        return [f"Do not flag inputs like {label} by {score}{whose}. {instead_of(result)}"]
    if why_not == "blind":
        why = "is not shown to notice them"
        if is_reversed(result):
            why = "is lower on them than on in-distribution examples"
        return [f"Detect inputs like {label} by other means: {score} {why}."]
    if why_not == "doubtful":
        return [f"Do not flag inputs like {label} by {score}{whose}: see below."]
    if why_not == "costly":
        return [
            f"Do not try to catch 95\N{NO-BREAK SPACE}% of inputs like {label}: {score}{whose}"
            f" would flag {percent(flagged.value)} of in-distribution examples as well."
        ]
    kind = "lowest confidence" if result.score == "max_probability" else f"highest {score}"
    return [
        f"Flag inputs like {label} by the {kind}{whose}: catching 95\N{NO-BREAK SPACE}% of them"
        f" flags {percent(flagged.value)} {share_interval(flagged.low, flagged.high)} of"
        " in-distribution examples."
    ]


def _more_labels(leader: Assessed, *, several: bool) -> list[str]:
    size = counted(leader.scores.n_labelled, "labelled example")
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
