"""All figures of a report, with their headings and captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import starmap

from bayeslora.metrics.calibration import reliability_bins
from bayeslora.reporting.adapter_changes import spectrum_panel
from bayeslora.reporting.assess import Assessed, every_fit, occupied
from bayeslora.reporting.blocks import Figure
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.figures.curves import (
    Selective,
    risk_coverage_panel,
    roc_panel,
    shift_panel,
)
from bayeslora.reporting.figures.histograms import confidence_panel, density_panel
from bayeslora.reporting.figures.reliability import (
    EQUAL_MASS,
    MOST_CLASSES,
    PerClass,
    class_panels,
    reliability_panel,
)
from bayeslora.reporting.figures.rendering import FORMATS, Panel, drawing_style, render_files
from bayeslora.reporting.figures.style import panels_of
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.shift import ShiftCurve
from bayeslora.reporting.text import number, shown_ece

Drawings = Mapping[str, Figure]
"""Topic, a key of `CAPTIONS` -> its figure with the drawings of all methods, maybe none."""

CAPTIONS: Mapping[str, tuple[str, str]] = {
    "reliability": (
        "",
        "Accuracy by confidence, with 95 % Wilson intervals. Points below the diagonal:"
        " overconfident; above it: underconfident. About one bin in twenty misses it by chance.",
    ),
    "equal_mass": (
        "Bins of equal mass",
        "The same examples in bins of equal size. Bins are narrow where many confidences are close;"
        " ties share a bin.",
    ),
    "per_class": (
        "One class against the rest",
        "The probability of each class against its share of examples. Of more than"
        f" {MOST_CLASSES} classes, those with the largest error are drawn.",
    ),
    "shift": (
        "Calibration under shift",
        "The same examples made worse on purpose, at rising severity. Confidence should fall with"
        " accuracy: where ECE rises instead, it does not.",
    ),
    "confidence": (
        "Confidence",
        "Confidence of correct and wrong predictions. Overconfident where the dashed line (mean"
        " confidence) is right of the solid one (accuracy).",
    ),
    "selective": (
        "",
        "Errors among answered examples, most confident first: the error rate falls as coverage"
        " shrinks if low confidence marks errors. Points: 80, 90, 95 % coverage.",
    ),
    "roc": (
        "ROC curves",
        "Share of the set that is flagged against false alarms. Points mark the false alarms at"
        " 95 % flagged.",
    ),
    "densities": (
        "Distribution of uncertainties",
        "Uncertainty of in-distribution examples (filled) and of each set (lines), as shares. The"
        " less they overlap, the better the detection.",
    ),
    "spectra": (
        "",
        "Singular values of each layer's change, largest first. A steep line is a change in few"
        " directions.",
    ),
}
"""Heading, a few words or empty, and caption, in at most 25 words, of every figure."""


def draw(
    facts: Facts, *, formats: Sequence[str] = FORMATS[:1], per_class: PerClass = False
) -> Drawings:
    """Draw every figure; `formats` and `per_class` are those of `report`."""
    methods, sets = every_fit(facts.methods), facts.sets
    numbered = list(enumerate(methods, start=1))
    labelled = [(index, method) for index, method in numbered if method.scores.bins]
    panels: Mapping[str, Iterable[Panel]] = {
        "reliability": starmap(_reliability, labelled),
        "equal_mass": starmap(_equal_mass, labelled),
        "per_class": class_panels(labelled, per_class),
        "shift": shift_panels(facts.shift),
        "confidence": starmap(_confidence, labelled or numbered[:1]),
        "selective": risk_panels([method for _, method in labelled]),
        "roc": roc_panels(methods, sets),
        "densities": _densities(numbered, sets),
        "spectra": (
            spectrum_panel(
                f"spectrum-{index}",
                change.label,
                {layer.name: layer.singular_values for layer in change.layers},
            )
            for index, change in enumerate(facts.changes, start=1)
        ),
    }
    with drawing_style():
        return {
            topic: Figure(
                caption, tuple(render_files(panel, formats) for panel in panels[topic]), heading
            )
            for topic, (heading, caption) in CAPTIONS.items()
        }


def _reliability(index: int, method: Assessed) -> Panel:
    note = f"ECE {shown_ece(method.scores)}, n = {method.scores.n_labelled:,}"
    return reliability_panel(f"reliability-{index}", method.label, method.points, note)


def _equal_mass(index: int, method: Assessed) -> Panel:
    size, clusters = method.scores.num_bins, method.answers.clusters
    bins = reliability_bins(method.surest, size, equal_mass=True, clusters=clusters)
    note = f"equal-mass ECE {shown_ece(method.scores, 'aece')}"
    name = f"reliability-mass-{index}"
    return reliability_panel(name, method.label, occupied(bins), note, words=EQUAL_MASS)


def shift_panels(curves: Sequence[ShiftCurve]) -> Iterator[Panel]:
    """Yield calibration against severity for each corruption and group of methods."""
    kinds = dict.fromkeys(curve.kind for curve in curves)
    groups = [
        panel for kind in kinds for _, panel in panels_of([c for c in curves if c.kind == kind])
    ]
    for panel_number, panel in enumerate(groups, start=1):
        yield shift_panel(f"shift-{panel_number}", panel)


def _confidence(index: int, method: Assessed) -> Panel:
    if method.scores.bins:
        confidence, correct = method.answers.confidence, method.answers.correct
    else:
        confidence, correct = method.method.predictions.confidence, None
    bins = method.scores.num_bins
    return confidence_panel(f"confidence-{index}", method.label, confidence, correct, bins)


def risk_panels(methods: Sequence[Assessed]) -> Iterator[Panel]:
    """Yield the risk-coverage curves of methods with labelled rows on a common scale."""
    curves = [
        Selective(method.label, method.surest, f"AURC {number(method.scores['aurc'].value)}")
        for method in methods
    ]
    top = max((curve.highest_risk for curve in curves), default=0.0)
    for panel_number, panel in panels_of(curves):
        yield risk_coverage_panel(f"risk-coverage-{panel_number}", panel, top)


def roc_panels(methods: Sequence[Assessed], sets: Mapping[str, str]) -> Iterator[Panel]:
    """Yield the ROC curves for each out-of-distribution set and group of methods."""
    for index, (name, label) in enumerate(sets.items(), start=1):
        tested = [method for method in methods if name in method.scores.ood]
        for panel_number, panel in panels_of(tested):
            yield roc_panel(f"roc-{index}-{panel_number}", name, label, panel)


DRAWN_SCORES: Mapping[str, tuple[str, tuple[float, float] | None]] = {
    "max_probability": ("", (0.0, 1.0)),
    "epistemic": (" (nats)", None),
    "logit_variance": ("", None),
}
"""Uncertainty whose density is drawn -> its unit, and limits of its axis, if fixed."""


def _densities(
    numbered: Sequence[tuple[int, Assessed]], sets: Mapping[str, str]
) -> Iterator[Panel]:
    for index, method in numbered:
        for score, (unit, limits) in DRAWN_SCORES.items():
            outside = {
                sets[name]: (
                    source.predictions.uncertainty(score),
                    f"AUROC {number(method.scores.ood[name].by_score[score]['auroc'].value)}",
                )
                for name, source in method.method.ood.items()
                if score in method.scores.ood[name].by_score
            }
            if not outside:
                continue
            name, words = f"{score.replace('_', '-')}-{index}", score_words(score)
            inside = method.method.predictions.uncertainty(score)
            panel = density_panel(
                name, method.label, words, inside, outside, axis=words + unit, limits=limits
            )
            if panel is not None:
                yield panel
