"""All figures of a report, with their headings and captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bayeslora.reporting.assess import every_fit
from bayeslora.reporting.blocks import Figure
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.figures import curves, histograms, reliability
from bayeslora.reporting.figures.style import (
    FORMATS,
    Drawing,
    Panel,
    drawing_style,
    panels_of,
    render_files,
)
from bayeslora.reporting.text import number, shown_ece, words

Drawings = Mapping[str, Figure]
"""Topic, one of `figures` in the table of sentences -> its figure, maybe without drawings."""


def draw(
    facts: Facts, *, formats: Sequence[str] = FORMATS[:1], per_class: reliability.PerClass = False
) -> Drawings:
    """Draw every figure; `formats` and `per_class` are those of `report`."""
    drawn: dict[str, list[Drawing]] = {topic: [] for topic in words()["figures"]}
    with drawing_style():
        for topic, panel in _panels(facts, per_class):
            drawn[topic].append(render_files(panel, formats))
    return {
        topic: Figure(about["caption"], tuple(drawn[topic]), about["heading"])
        for topic, about in words()["figures"].items()
    }


def _panels(facts: Facts, per_class: reliability.PerClass) -> Iterator[tuple[str, Panel]]:
    """Yield every panel with its topic."""
    fits = every_fit(facts.methods)
    labelled = [fit for fit in fits if fit.scores.bins]
    for index, fit in enumerate(fits, start=1):
        scores, bins = fit.scores, fit.scores.num_bins
        name = f"confidence-{index}"
        if scores.bins:
            note = f"ECE {shown_ece(scores)}, n = {scores.n_labelled:,}"
            yield (
                "reliability",
                reliability.reliability_panel(f"reliability-{index}", fit.label, fit.points, note),
            )
            confidence, correct = fit.answers.confidence, fit.answers.correct
            yield (
                "confidence",
                histograms.confidence_panel(name, fit.label, confidence, correct, bins),
            )
        elif not labelled and fit is fits[0]:
            confidence = fit.method.predictions.confidence
            yield "confidence", histograms.confidence_panel(name, fit.label, confidence, None, bins)
        for panel in reliability.class_panels(index, fit, per_class):
            yield "per_class", panel
        for panel in histograms.density_panels(index, fit, facts.sets):
            yield "densities", panel
    groups = [
        group
        for kind in dict.fromkeys(curve.kind for curve in facts.shift)
        for _, group in panels_of([curve for curve in facts.shift if curve.kind == kind])
    ]
    for index, group in enumerate(groups, start=1):
        yield "shift", curves.shift_panel(f"shift-{index}", group)
    selective = [
        curves.Selective(fit.label, fit.surest, f"AURC {number(fit.scores['aurc'].value)}")
        for fit in labelled
    ]
    top = max((curve.highest_risk for curve in selective), default=0.0)
    for index, methods in panels_of(selective):
        yield "selective", curves.risk_coverage_panel(f"risk-coverage-{index}", methods, top)
    for number_of_set, (name, label) in enumerate(facts.sets.items(), start=1):
        for index, tested in panels_of([fit for fit in fits if name in fit.scores.ood]):
            yield "roc", curves.roc_panel(f"roc-{number_of_set}-{index}", name, label, tested)
