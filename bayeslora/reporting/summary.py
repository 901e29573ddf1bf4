"""What the numbers say, in words: the paragraph on top, the findings by topic, what to do.

No sentence claims more than the intervals allow: a method is called best only together with those
that cannot be told from it, and biased only where its interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bayeslora.metrics.compare import Comparison
from bayeslora.plain_text import counted
from bayeslora.reporting.advice import advice
from bayeslora.reporting.assess import Assessed, miscalibrated
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.findings import (
    Finding,
    best_detector,
    bias,
    calibration,
    detection,
    ranking,
)
from bayeslora.reporting.pooled import every_fit
from bayeslora.reporting.set_words import set_sentences
from bayeslora.reporting.standing import standing_of
from bayeslora.reporting.text import listed, named, shown, shown_points


@dataclass(frozen=True)
class Summary:
    """The words of a report.

    Attributes:
        lead: What was scored, what is best, what to beware of: one paragraph.
        findings: What to do, and the same by topic with all numbers.
    """

    lead: str
    findings: tuple[Finding, ...]


def summarise(
    methods: Sequence[Assessed], comparison: Comparison | None, sets: Mapping[str, str]
) -> Summary:
    """Put the scores into words.

    Args:
        methods: At least one method.
        comparison: Paired differences from the method of lowest NLL; None where methods were not
            scored on the same rows.
        sets: Label of each out-of-distribution set by its name.
    """
    labelled = [method for method in methods if "nll" in method.scores]
    sentences = [_what_was_scored(methods, comparison)]
    found: list[Finding] = []
    if labelled:
        sentences += [_leader(labelled, comparison), _biases(labelled)]
        found += [ranking(labelled, comparison), *calibration(every_fit(labelled))]
    else:
        sentences.append("No row has a label, so accuracy and calibration cannot be judged.")
    if sets:
        sentences.append(_unfamiliar(methods, sets))
    found += _sets(methods)
    found += [detection(methods, name, label) for name, label in sets.items()]
    first = advice(methods, comparison, sets)
    return Summary(lead=" ".join(sentences), findings=(*first, *found))


def _sets(methods: Sequence[Assessed]) -> list[Finding]:
    """Return what prediction sets say, for each fit that has some."""
    return [
        Finding(f"Prediction sets: {named(one.label)}", tuple(sentences))
        for one in every_fit(methods)
        if (sentences := set_sentences(one.method.predictions, one.scores))
    ]


def _what_was_scored(methods: Sequence[Assessed], comparison: Comparison | None) -> str:
    sizes = [one.scores.n for one in methods]
    classes = f"{methods[0].scores.num_classes} classes"
    if len(methods) == 1:
        seeds = len(methods[0].fits)
        means = f"; scores are means over {seeds} seeds" if seeds else ""
        size = counted(sizes[0], "row")
        return f"{named(methods[0].label)} was scored on {size} of {classes}{means}."
    fits = len(every_fit(methods))
    seeds_too = f", {fits} fits in all with their seeds," if fits > len(methods) else ""
    opening = f"{len(methods)} methods{seeds_too} were scored on"
    if comparison is not None:
        return f"{opening} the same {counted(sizes[0], 'row')} of {classes}."
    size = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    return (
        f"{opening} {size} rows each, not known to be the same ones, so that differences may come"
        " from the rows."
    )


def _leader(methods: Sequence[Assessed], comparison: Comparison | None) -> str:
    nll = standing_of("nll", methods, comparison)
    if not nll.others:
        accuracy = standing_of("accuracy", methods)
        return f"Its accuracy is {shown(accuracy.score)}, its NLL {shown(nll.score)}."
    return f"{named(nll.label)} has the lowest NLL, {shown(nll.score)}{nll.clause}."


def _biases(methods: Sequence[Assessed]) -> str:
    best = standing_of("nll", methods).label
    leader = next(one for one in methods if one.label == best)
    rest = [one for one in methods if one is not leader]
    others = [*filter(None, (_others(rest, way) for way in ("over", "under")))]
    if leader.fits:
        return " ".join([_biases_of_fits(leader), *others])
    gap = leader.scores["overconfidence"]
    size = shown_points(gap, signed=True)
    unbiased = "shows no bias between confidence and accuracy"
    if not gap.has_interval:
        unbiased = "cannot be judged by the gap between confidence and accuracy"
    way = bias(leader)
    verdict = f"{unbiased}, {size}"
    if way != "none":
        verdict = f"is {way}confident on average, by {size}"
        verdict += "" if miscalibrated(leader) else ", which may be chance"
    subject = "It" if len(methods) == 1 else named(best)
    return " ".join([f"{subject} {verdict}.", *others])


def _biases_of_fits(leader: Assessed) -> str:
    found = [bias(fit) for fit in leader.fits]
    over, under = found.count("over"), found.count("under")
    return (
        f"Of the {len(found)} fits of {named(leader.label)}, {over or 'none'}"
        f" {'are' if over > 1 else 'is'} overconfident on average and {under or 'none'}"
        " underconfident."
    )


def _others(methods: Sequence[Assessed], way: str) -> str:
    labels = [named(one.label) for one in methods if bias(one) == way]
    if not labels:
        return ""
    return f"{listed(labels)} {'is' if len(labels) == 1 else 'are'} {way}confident."


def _unfamiliar(methods: Sequence[Assessed], sets: Mapping[str, str]) -> str:
    parts = []
    for name, label in sets.items():
        best, result = best_detector(methods, name)
        where = f"on {named(label)}"
        if result.better and best.score.low <= 0.5:
            ours, simple = score_words(result.score), result.by_score[result.better]["auroc"]
            parts.append(
                f"with an AUROC of {shown(simple)} {where} by {score_words(result.better)}, not by"
                f" {ours}"
            )
        elif best.score.high < 0.5:
            parts.append(f"not at all {where}, of which all are surer than of familiar rows")
        elif best.score.low <= 0.5:
            parts.append(f"no better than by a coin {where}, as far as these rows tell")
        else:
            by = f"by {named(best.label)}, " if best.others else ""
            score = score_words(result.score)
            parts.append(f"with an AUROC of {shown(best.score)} {where} ({by}{score})")
    most = " best" if len(methods) > 1 else ""
    return f"Unfamiliar rows are recognised{most} {', and '.join(parts)}."
