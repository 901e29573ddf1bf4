"""What the numbers say, in words: the paragraph on top, the findings by topic, what to do.

No sentence claims more than the intervals allow: a method is called best only together with those
that cannot be told from it, and biased only where its interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bayeslora.metrics.scores import Score
from bayeslora.reporting.advice import advice
from bayeslora.reporting.assess import Assessed, best_index, overlaps, same_rows
from bayeslora.reporting.findings import Finding, calibration, detection, ranking
from bayeslora.reporting.text import counted, interval, listed, number, points


@dataclass(frozen=True)
class Summary:
    """The words of a report.

    Attributes:
        lead: What was scored, what is best, what to beware of: one paragraph.
        findings: The same by topic with all numbers, and at the end what to do.
    """

    lead: str
    findings: tuple[Finding, ...]


def summarise(methods: Sequence[Assessed], sets: Mapping[str, str]) -> Summary:
    """Put the scores into words.

    Args:
        methods: At least one method.
        sets: Label of each out-of-distribution set by its name.
    """
    labelled = [method for method in methods if "nll" in method.scores]
    sentences = [_what_was_scored(methods)]
    found: list[Finding] = []
    if labelled:
        sentences += [_leader(labelled), _leader_bias(labelled)]
        found += [ranking(labelled), *calibration(labelled)]
    outside = [detection(methods, name, label) for name, label in sets.items()]
    if outside:
        sentences.append(_unfamiliar(methods, sets))
    return Summary(
        lead=" ".join(filter(None, sentences)),
        findings=(*found, *outside, advice(methods, sets)),
    )
