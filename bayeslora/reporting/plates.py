"""Figures that stand together under a heading and a caption, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bayeslora.metrics.calibration import reliability_bins
from bayeslora.metrics.top_label import TopLabel, top_label
from bayeslora.reporting.assess import Assessed, clusters_of, occupied
from bayeslora.reporting.brier_parts import MOST_METHODS, BrierPlate, brier_panel
from bayeslora.reporting.curves import panels_of
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.formats import render_files
from bayeslora.reporting.one_vs_rest import MOST_CLASSES, PerClass, class_panels
from bayeslora.reporting.reliability import EQUAL_MASS, reliability_panel
from bayeslora.reporting.risk_coverage import Selective, highest_risk, risk_coverage_panel
from bayeslora.reporting.roc import Detector, roc_panel
from bayeslora.reporting.svg import Drawing, Panel
from bayeslora.reporting.text import number, shown

BRIER_KEYS = ("brier", "brier_reliability", "brier_resolution", "brier_uncertainty")
"""Scores that have to be there for the parts of the Brier score to be drawn."""

Numbered = Sequence[tuple[int, Assessed]]
"""Methods with their places in the report, from 1."""


@dataclass(frozen=True)
class Plates:
    """Figures with what is said above them.

    Attributes:
        heading: A few words.
        caption: How to read them.
        drawings: The figures; empty where there is nothing to draw.
    """

    heading: str
    caption: str
    drawings: tuple[Drawing, ...]


def surest_rows(one: Assessed) -> TopLabel:
    """Return confidence and correctness of a method's labelled rows, sorted once for all figures.

    Raises:
        ValueError: It has no labels.
    """
    predictions = one.method.predictions
    if predictions.labels is None:
        raise ValueError("calibration and risk need labels")
    kept = predictions.labelled
    correct = predictions.prediction[kept] == predictions.labels[kept]
    return top_label(predictions.confidence[kept], correct)


def equal_mass_plates(
    labelled: Numbered, rows: Sequence[TopLabel], formats: Sequence[str]
) -> Plates:
    """Return the reliability diagrams with bins of equal mass; `rows` are those of each method."""
    panels = (
        _equal_mass(index, one, surest) for (index, one), surest in zip(labelled, rows, strict=True)
    )
    return Plates(
        "Bins of equal mass",
        "The same rows in bins that hold equally many of them: where the confidences crowd, "
        "usually near 1, there are more bins and they are narrow. Where confidences tie, bins "
        "merge.",
        _rendered(panels, formats),
    )


def per_class_plates(labelled: Numbered, per_class: PerClass, formats: Sequence[str]) -> Plates:
    """Return one class against the rest, where it was asked for."""
    return Plates(
        "One class against the rest",
        "For each class, the probability that a method gives it and the share of rows that are of "
        f"this class. Of more than {MOST_CLASSES} classes those with the largest error are drawn, "
        "unless classes are named.",
        _rendered(class_panels(labelled, per_class), formats),
    )


def brier_plates(labelled: Numbered, formats: Sequence[str]) -> Plates:
    """Return the parts of the Brier score, where they are among the scores."""
    parts = [
        BrierPlate(one.label, *(one.scores[key].value for key in BRIER_KEYS))
        for _, one in labelled
        if all(key in one.scores for key in BRIER_KEYS)
    ]
    starts = range(0, len(parts), MOST_METHODS)
    return Plates(
        "Parts of the Brier score",
        "How far each method gets from the score of stating the classes' shares for every row "
        "(dashed), and what its miscalibration adds (hatched). A method with a long plain bar "
        "cannot tell rows apart; one with a long hatched part can be helped by recalibration.",
        _rendered(
            (
                brier_panel(f"brier-{place}", parts[start : start + MOST_METHODS])
                for place, start in enumerate(starts, start=1)
            ),
            formats,
        ),
    )


def risk_plates(labelled: Numbered, rows: Sequence[TopLabel], formats: Sequence[str]) -> Plates:
    """Return the risk-coverage curves; `rows` are those of each method."""
    methods = [
        Selective(one.label, surest, f"AURC {number(one.scores['aurc'].value)}")
        for (_, one), surest in zip(labelled, rows, strict=True)
    ]
    top = max(map(highest_risk, methods), default=0.0)
    return Plates(
        "Answering only where it is sure",
        "The share of errors among the rows that a method answers, when it answers its surest rows "
        "first. A curve that falls to the left says that confidence finds the errors; a flat one "
        "says that it does not. Points mark 80, 90 and 95 % coverage.",
        _rendered(
            (
                risk_coverage_panel(f"risk-coverage-{place}", panel, top)
                for place, panel in panels_of(methods)
            ),
            formats,
        ),
    )


def roc_plates(
    methods: Sequence[Assessed], sets: Mapping[str, str], formats: Sequence[str]
) -> Plates:
    """Return the ROC curves, a panel for each out-of-distribution set and group of methods."""
    panels = (
        roc_panel(f"roc-{index}-{place}", label, panel)
        for index, (name, label) in enumerate(sets.items(), start=1)
        for place, panel in panels_of(
            [_detector(one, name) for one in methods if name in one.scores.ood]
        )
    )
    return Plates(
        "ROC curves",
        "How many unfamiliar rows are flagged at each price in false alarms. The positive class "
        "are the rows of the set; higher = more uncertain. Points mark the false alarms where 95 % "
        "of the unfamiliar rows are flagged.",
        _rendered(panels, formats),
    )


def _rendered(panels: Iterable[Panel], formats: Sequence[str]) -> tuple[Drawing, ...]:
    return tuple(render_files(panel, formats) for panel in panels)


def _equal_mass(index: int, one: Assessed, rows: TopLabel) -> Panel:
    bins = reliability_bins(rows, one.scores.num_bins, equal_mass=True, clusters=clusters_of(one))
    note = f"equal-mass ECE {shown(one.scores['aece'])}, n = {one.scores.n_labelled:,}"
    points = occupied(bins)
    name = f"reliability-mass-{index}"
    return reliability_panel(name, one.label, points, note, words=EQUAL_MASS)


def _detector(one: Assessed, name: str) -> Detector:
    found = one.scores.ood[name]
    return Detector(
        one.label,
        score_words(found.score),
        one.method.predictions.uncertainty(found.score),
        one.method.ood[name].predictions.uncertainty(found.score),
        found.auroc.value,
        found.fpr95.value,
    )
