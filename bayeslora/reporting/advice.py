"""What to do, as far as the scores advise anything.

Choosing, recalibrating and labelling more are about all methods, passing examples to a person about
the one with the lowest NLL, flagging inputs about the best detector.
"""

from __future__ import annotations

from collections.abc import Sequence

from bayeslora.metrics.scores import OODScores
from bayeslora.plain_text import counted
from bayeslora.reporting.assess import Assessed, doubtful, every_fit, miscalibrated
from bayeslora.reporting.detectors import instead_of, is_blind, is_reversed, score_words, verdict
from bayeslora.reporting.findings import Finding
from bayeslora.reporting.ranking import Facts, Standing
from bayeslora.reporting.text import listed, named, number, percent, share_interval

WIDE = 0.02
"""Half-width of the interval of the gap between confidence and accuracy from which more labels are
worth asking for."""


def advice(facts: Facts) -> Finding | None:
    """Return what to do, or None where there is nothing to advise."""
    leader = facts.leader
    sentences = [] if leader is None else [*_choice(facts), *_face_value(facts.labelled)]
    if leader is not None:
        several = len(facts.methods) > 1 or bool(leader.fits)
        sentences += _person(leader.each[0], several=several)
    for name, label in facts.sets.items():
        sentences += _flags(*facts.detectors[name], named(label))
    sentences += _more_labels(facts.labelled)
    return Finding("advice", "What to do", tuple(sentences), "advice") if sentences else None


def _choice(facts: Facts) -> list[str]:
    """Prefer, among the leading methods that are not miscalibrated, those that detect best."""
    methods, nll = facts.labelled, facts.nll
    # Without intervals nothing tells the methods apart, and no cost should decide on a handful.
    if nll is None or not nll.others or not all(one.scores["nll"].has_interval for one in methods):
        return []
    leaders = [one for one in methods if one.label == nll.label or one.label in nll.tied]
    chosen = [one for one in leaders if not miscalibrated(one)]
    if not chosen:
        return []
    why = ["lowest NLL" + (" (tied)" if len(leaders) > 1 else ""), "no sign of miscalibration"]
    judged = {
        name: standing
        for name, (standing, result) in facts.detectors.items()
        if not is_blind(result)
    }
    best = [one for one in chosen if all(_is_best(one, found) for found in judged.values())]
    if best and len(best) < len(chosen):
        chosen = best
        why.append(f"best detection of {listed([named(facts.sets[name]) for name in judged])}")
    names = listed([named(one.label) for one in chosen])
    choice = f"Choose between {names} by cost" if len(chosen) > 1 else f"Prefer {names}"
    return [f"{choice}: {listed(why)}.", *_one_fit(chosen, methods)]


def _is_best(one: Assessed, detectors: Standing) -> bool:
    return one.label == detectors.label or one.label in detectors.tied


def _one_fit(chosen: Sequence[Assessed], methods: Sequence[Assessed]) -> list[str]:
    """Warn of a choice of one fit where others are means over seeds."""
    alone = [named(one.label) for one in chosen if not one.fits]
    if not alone or not any(one.fits for one in methods):
        return []
    verb = "is" if len(alone) == 1 else "are each"
    return [f"{listed(alone)} {verb} one fit beside means over seeds: other seeds may do worse."]


def _face_value(methods: Sequence[Assessed]) -> list[str]:
    """Say whether probabilities can be used as they are."""
    unsound = [named(one.label) for one in methods if miscalibrated(one)]
    if unsound:
        whose = f" of {listed(unsound)}" if len(methods) > 1 else ""
        return [
            f"Do not take the probabilities{whose} at face value: recalibrate on held-out labelled"
            " examples (bayeslora recalibrate), and score others again."
        ]
    if len(methods) > 1:
        return []
    [only] = methods
    gap = only.scores["overconfidence"]
    if not gap.has_interval:
        return []
    if doubtful(only):
        return [
            "Use the probabilities with care: there is weak evidence of miscalibration, or that is"
            " chance."
        ]
    most = number(100 * max(abs(gap.low), abs(gap.high)), digits=1)
    return [f"Nothing speaks against the probabilities as they are, within {most} points."]


def _person(leader: Assessed, *, several: bool) -> list[str]:
    """Advise to pass the least certain examples on, where these are surely the worse ones."""
    surest = leader.answers.surest()
    if surest is None:
        return []
    sure, rest = surest
    if sure.low <= rest.high:
        return []
    passed = percent(rest.size / (sure.size + rest.size))
    whose = f" of {named(leader.label)}" if several else ""
    return [
        f"Let a person check the {passed} of examples with the lowest confidence{whose}: accuracy"
        f" is {percent(rest.value)} {share_interval(rest.low, rest.high)} there and"
        f" {percent(sure.value)} {share_interval(sure.low, sure.high)} on the others."
    ]


def _flags(best: Standing, result: OODScores, label: str) -> list[str]:
    """Say how to flag inputs like those of one set, or not to."""
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


def _more_labels(methods: Sequence[Assessed]) -> list[str]:
    if not methods:
        return []
    size = counted(min(one.scores.n_labelled for one in methods), "labelled example")
    gaps = [one.scores["overconfidence"] for one in every_fit(methods)]
    known = [(gap.high - gap.low) / 2 for gap in gaps if gap.has_interval]
    if not known:
        return [f"Label more: {size} cannot show whether the probabilities can be trusted."]
    if max(known) < WIDE:
        return []
    return [
        f"Label more if it matters: with {size} the gap between confidence and accuracy is known to"
        f" ±{number(100 * max(known), digits=1)} points; four times as many halve that."
    ]
