"""All figures of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.confidence import confidence_panel
from bayeslora.reporting.densities import OutsideSet, density_panel
from bayeslora.reporting.findings import score_words
from bayeslora.reporting.reliability import reliability_panel
from bayeslora.reporting.svg import Drawing, render
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
    """Figures by section; the parts are empty where there is nothing to draw."""

    reliability: tuple[Drawing, ...]
    confidence: tuple[Drawing, ...]
    densities: tuple[Drawing, ...]

    @property
    def all(self) -> tuple[Drawing, ...]:
        """Every figure, in order."""
        return self.reliability + self.confidence + self.densities


def draw(methods: Sequence[Assessed], sets: Mapping[str, str]) -> Drawings:
    """Draw every figure.

    Args:
        methods: What was scored.
        sets: Label of each out-of-distribution set by its name.
    """
    numbered = list(enumerate(methods, start=1))
    labelled = [(index, one) for index, one in numbered if one.scores.bins]
    return Drawings(
        reliability=tuple(_reliability(index, one) for index, one in labelled),
        confidence=tuple(_confidence(index, one) for index, one in labelled),
        densities=tuple(
            drawing
            for index, one in numbered
            for score in DRAWN_SCORES
            if (drawing := _density(index, one, score, sets)) is not None
        ),
    )


def _reliability(index: int, one: Assessed) -> Drawing:
    note = f"ECE {shown(one.scores['ece'])}, n = {one.scores.n_labelled:,}"
    return render(reliability_panel(f"reliability-{index}", one.label, one.points, note))


def _confidence(index: int, one: Assessed) -> Drawing:
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
    return render(panel)


def _density(index: int, one: Assessed, score: str, sets: Mapping[str, str]) -> Drawing | None:
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
    panel = density_panel(
        f"{score.replace('_', '-')}-{index}",
        one.label,
        score_words(score),
        one.method.predictions.uncertainty(score),
        outside,
        axis=score_words(score) + UNITS.get(score, ""),
        limits=DRAWN_SCORES[score],
    )
    return None if panel is None else render(panel)
