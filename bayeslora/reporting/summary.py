"""What the numbers say, in words: the paragraph on top, the findings by topic, what to do.

No sentence claims more than the intervals allow: a method is called best only together with those
that cannot be told from it, and biased only where its interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Assessed, bias, every_fit, miscalibrated
from bayeslora.reporting.detectors import is_blind, is_reversed, score_words
from bayeslora.reporting.findings import (
    Finding,
    advice,
    calibration,
    detection,
    ranking,
)
from bayeslora.reporting.ranking import Facts, Standing
from bayeslora.reporting.text import listed, named, number, percent, shown, shown_points


def set_sentences(predictions: Predictions, scores: Scores) -> list[str]:
    """Return what prediction sets say, a sentence each; nothing where there are none.

    Args:
        predictions: With or without sets.
        scores: Their scores.
    """
    if "set_size" not in scores:
        return []
    if predictions.sets is not None and predictions.sets.all():
        return [_says_nothing(predictions, scores)]
    size = scores["set_size"].value
    sentences = [
        f"A set holds {number(size, digits=2)} of {predictions.num_classes} classes on average;"
        f" {percent(scores['singletons'].value)} of the sets hold exactly one{_empty(scores)}."
    ]
    if "coverage" in scores:
        sentences = [_coverage(scores), *sentences, *_worst_class(predictions, scores)]
    return sentences


def _says_nothing(predictions: Predictions, scores: Scores) -> str:
    stated = scores.stated_coverage
    where = "" if stated is None else f" at a coverage of {percent(stated)}"
    return (
        f"Every set holds all {predictions.num_classes} classes, so{where} the sets say nothing."
        " Ask for less coverage (a larger alpha), or fit them on more rows."
    )


def _coverage(scores: Scores) -> str:
    score, stated = scores["coverage"], scores.stated_coverage
    found = (
        f"The set holds the true class in {percent(score.value)} of"
        f" {counted(scores.n_labelled, 'labelled row')} (95\N{NO-BREAK SPACE}% interval"
        f" {percent(score.low)} to {percent(score.high)})"
    )
    if stated is None:
        return f"{found}."
    if score.high < stated:
        return f"{found}, fewer than the {percent(stated)} asked for."
    if score.low > stated:
        return f"{found}, more than the {percent(stated)} asked for."
    return f"{found}; {percent(stated)} was asked for, which is within chance."


def _empty(scores: Scores) -> str:
    share = scores["empty_sets"].value
    return f" and {percent(share)} none" if share else ""


def _worst_class(predictions: Predictions, scores: Scores) -> list[str]:
    """Name the class whose rows are covered least, the first of equal ones."""
    if predictions.sets is None or predictions.labels is None:
        return []
    rows = predictions.labelled
    labels = predictions.labels[rows]
    held = np.take_along_axis(predictions.sets[rows], labels[:, None], 1)[:, 0]
    counts = np.bincount(labels, minlength=predictions.num_classes)
    if np.count_nonzero(counts) < 2:
        return []
    hits = np.bincount(labels, held, minlength=predictions.num_classes)
    shares = np.where(counts > 0, hits / np.maximum(counts, 1), np.inf)
    worst = int(np.argmin(shares))
    score = scores["worst_class_coverage"]
    name = named(shorten(clean(predictions.classes[worst])))
    classwise = predictions.metadata.get("conformal_classwise", "").lower() == "true"
    advice = " One threshold per class (classwise=true) covers each class as asked."
    return [
        f"Coverage is an average over all rows. It is lowest for class {name}:"
        f" {percent(shares[worst])} of {counted(int(counts[worst]), 'row')}"
        f" (95\N{NO-BREAK SPACE}% interval of the lowest of all classes: {percent(score.low)} to"
        f" {percent(score.high)}).{'' if classwise else advice}"
    ]


@dataclass(frozen=True)
class Summary:
    """The words of a report.

    Attributes:
        lead: What was scored, what is best, what to beware of: one paragraph.
        findings: What to do, and the same by topic with all numbers.
    """

    lead: str
    findings: tuple[Finding, ...]


def summarise(facts: Facts) -> Summary:
    """Put the scores into words."""
    sentences = [_what_was_scored(facts.methods, facts.comparison)]
    found: list[Finding] = []
    leader, nll, accuracy = facts.leader, facts.nll, facts.accuracy
    if leader is None or nll is None or accuracy is None:
        sentences.append("No row has a label, so accuracy and calibration cannot be judged.")
    else:
        sentences += [_leader(nll, accuracy), _biases(leader, facts.labelled)]
        found += [ranking(nll, accuracy), *calibration(every_fit(facts.labelled))]
    if facts.sets:
        sentences.append(_unfamiliar(facts))
    found += _sets(facts.methods)
    found += [detection(facts, name) for name in facts.sets]
    return Summary(lead=" ".join(sentences), findings=(*advice(facts), *found))


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


def _leader(nll: Standing, accuracy: Standing) -> str:
    if not nll.others:
        return f"Its accuracy is {shown(accuracy.score)}, its NLL {shown(nll.score)}."
    return f"{named(nll.label)} has the lowest NLL, {shown(nll.score)}{nll.clause}."


def _biases(leader: Assessed, methods: Sequence[Assessed]) -> str:
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
    subject = "It" if len(methods) == 1 else named(leader.label)
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


def _unfamiliar(facts: Facts) -> str:
    parts = []
    for name, label in facts.sets.items():
        best, result = facts.detectors[name]
        where = f"on {named(label)}"
        if result.better and is_blind(result):
            ours, simple = score_words(result.score), result.by_score[result.better]["auroc"]
            parts.append(
                f"with an AUROC of {shown(simple)} {where} by {score_words(result.better)}, not by"
                f" {ours}"
            )
        elif is_reversed(result):
            parts.append(f"not at all {where}, of which all are surer than of familiar rows")
        elif is_blind(result):
            parts.append(f"no better than by a coin {where}, as far as these rows tell")
        else:
            by = f"by {named(best.label)}, " if best.others else ""
            score = score_words(result.score)
            parts.append(f"with an AUROC of {shown(best.score)} {where} ({by}{score})")
    most = " best" if len(facts.methods) > 1 else ""
    return f"Unfamiliar rows are recognised{most} {', and '.join(parts)}."
