"""All figures of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.confidence import confidence_panel
from bayeslora.reporting.densities import OutsideSet, density_panel
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.formats import FORMATS, render_files
from bayeslora.reporting.one_vs_rest import PerClass
from bayeslora.reporting.plates import (
    Plates,
    brier_plates,
    equal_mass_plates,
    per_class_plates,
    risk_plates,
    roc_plates,
    surest_rows,
)
from bayeslora.reporting.reliability import reliability_panel
from bayeslora.reporting.spectra import AdapterChange
from bayeslora.reporting.spectrum import spectrum_panel
from bayeslora.reporting.svg import Drawing, Panel, drawing_style
from bayeslora.reporting.text import number, shown

DRAWN_SCORES: Mapping[str, tuple[float, float] | None] = {
    "max_probability": (0.0, 1.0),
    "epistemic": None,
    "logit_variance": None,
}
"""Uncertainties whose densities are drawn, with the ends of their axes where all share them."""

UNITS = {"epistemic": " (nats)"}
"""Units of the drawn uncertainties that have one."""


@dataclass(frozen=True)
class Drawings:
    """Figures by section; the parts are empty where there is nothing to draw.

    Attributes:
        reliability: Reliability diagrams with bins of equal width.
        equal_mass: The same with bins of equal mass.
        per_class: One class against the rest.
        brier: Parts of the Brier score.
        confidence: Confidence of right and wrong answers.
        selective: Risk-coverage curves.
        roc: Detection of out-of-distribution rows.
        densities: Uncertainties of in- and out-of-distribution rows.
        spectra: Singular values of what each adapter changed.
    """

    reliability: tuple[Drawing, ...]
    equal_mass: Plates
    per_class: Plates
    brier: Plates
    confidence: tuple[Drawing, ...]
    selective: Plates
    roc: Plates
    densities: tuple[Drawing, ...]
    spectra: tuple[Drawing, ...]

    @property
    def all(self) -> tuple[Drawing, ...]:
        """Every figure, in order."""
        return (
            self.reliability
            + self.equal_mass.drawings
            + self.per_class.drawings
            + self.brier.drawings
            + self.confidence
            + self.selective.drawings
            + self.roc.drawings
            + self.densities
            + self.spectra
        )


def draw(
    methods: Sequence[Assessed],
    sets: Mapping[str, str],
    *,
    formats: Sequence[str] = FORMATS[:1],
    per_class: PerClass = False,
    changes: Sequence[AdapterChange] = (),
) -> Drawings:
    """Draw every figure.

    Args:
        methods: What was scored.
        sets: Label of each out-of-distribution set by its name.
        formats: Formats of the figures' files; the page has SVG in any case.
        per_class: Whether to draw one class against the rest, or the names of such classes.
        changes: What adapters changed.
    """
    numbered = list(enumerate(methods, start=1))
    labelled = [(index, one) for index, one in numbered if one.scores.bins]
    rows = [surest_rows(one) for _, one in labelled]
    with drawing_style():
        return Drawings(
            reliability=tuple(_reliability(*one, formats) for one in labelled),
            equal_mass=equal_mass_plates(labelled, rows, formats),
            per_class=per_class_plates(labelled, per_class, formats),
            brier=brier_plates(labelled, formats),
            confidence=tuple(_confidence(*one, formats) for one in labelled),
            selective=risk_plates(labelled, rows, formats),
            roc=roc_plates(methods, sets, formats),
            densities=tuple(
                render_files(panel, formats)
                for index, one in numbered
                for score in DRAWN_SCORES
                if (panel := _density(index, one, score, sets)) is not None
            ),
            spectra=tuple(
                render_files(_spectrum(index, change), formats)
                for index, change in enumerate(changes, start=1)
            ),
        )


def _reliability(index: int, one: Assessed, formats: Sequence[str]) -> Drawing:
    note = f"ECE {shown(one.scores['ece'])}, n = {one.scores.n_labelled:,}"
    panel = reliability_panel(f"reliability-{index}", one.label, one.points, note)
    return render_files(panel, formats)


def _spectrum(index: int, change: AdapterChange) -> Panel:
    spectra = {layer.name: layer.singular_values for layer in change.layers}
    return spectrum_panel(f"spectrum-{index}", change.label, spectra)


def _confidence(index: int, one: Assessed, formats: Sequence[str]) -> Drawing:
    predictions = one.method.predictions
    rows = predictions.labelled
    if predictions.labels is None:
        raise ValueError("a confidence histogram needs labels")
    correct = (predictions.prediction == predictions.labels)[rows]
    panel = confidence_panel(
        f"confidence-{index}",
        one.label,
        predictions.confidence[rows],
        correct,
        one.scores.num_bins,
    )
    return render_files(panel, formats)


def _density(index: int, one: Assessed, score: str, sets: Mapping[str, str]) -> Panel | None:
    outside = [
        OutsideSet(
            sets[name],
            source.predictions.uncertainty(score),
            f"AUROC {number(one.scores.ood[name].by_score[score]['auroc'].value)}",
        )
        for name, source in one.method.ood.items()
        if score in one.scores.ood[name].by_score
    ]
    if not outside:
        return None
    return density_panel(
        f"{score.replace('_', '-')}-{index}",
        one.label,
        score_words(score),
        one.method.predictions.uncertainty(score),
        outside,
        axis=score_words(score) + UNITS.get(score, ""),
        limits=DRAWN_SCORES[score],
    )
