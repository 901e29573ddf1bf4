"""Scores of classifiers under adversarial perturbations, as a table."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from bayeslora.errors import InputError
from bayeslora.metrics.robustness import SPACES, Robustness, check_curves
from bayeslora.plain_text import clean, counted, listed, shorten
from bayeslora.predictions.names import unique_labels
from bayeslora.reporting.tables import Cell, Column, Row, Table

logger = logging.getLogger(__name__)

_COLUMNS = tuple(
    Column(title, arrow)
    for title, arrow in (("Accuracy", "↑"), ("NLL", "↓"), ("ECE", "↓"), ("Confidence", ""))
)
_KEYS = ("accuracy", "nll", "ece", "mean_confidence")

RobustnessLike = Robustness | str | Path | Sequence[Robustness | str | Path]


def robustness_curves(
    robustness: RobustnessLike | None, names: Collection[str]
) -> tuple[Robustness, ...]:
    """Return the robustness curves of classifiers, read from files if paths are given.

    Logs curves without a method of the same name.

    Args:
        robustness: Curves or paths.
        names: Names of the methods in the report.

    Raises:
        InputError: A file holds no curve, or the curves are of different inputs.
    """
    if robustness is None:
        return ()
    items = [robustness] if isinstance(robustness, Robustness | str | Path) else list(robustness)
    curves = []
    for item in items:
        if not isinstance(item, Robustness | str | Path):
            raise InputError(f"robustness must be what clf.robustness returns, got {item!r:.80}")
        curves.append(item if isinstance(item, Robustness) else Robustness.load(item))
    check_curves(curves)
    if others := [curve.name for curve in curves if curve.name not in names]:
        logger.warning(
            "the report has the robustness of %s, but no predictions of that name", listed(others)
        )
    return tuple(curves)


def robustness_table(curves: Sequence[Robustness]) -> Table:
    """Return the table of scores of every classifier by the radius of the perturbation."""
    first = curves[0]
    labels = unique_labels([curve.name for curve in curves])
    rows = tuple(
        Row(
            (label if not index else "", f"{point.eps:.4g}"),
            tuple(Cell(*point.scores[key].said()) for key in _KEYS),
        )
        for label, curve in zip(labels, curves, strict=True)
        for index, point in enumerate(curve.points)
    )
    scores = ", ".join(
        f"{clean(shorten(label))} {curve.score:.3f}"
        for label, curve in zip(labels, curves, strict=True)
    )
    unit = "the mean norm of an embedding" if first.space == "embeddings" else "the pixels' range"
    no_words = " No text need have these embeddings." if first.space == "embeddings" else ""
    notes = (
        f"ε is a share of {unit}; {counted(first.steps, 'step')} up the loss of the label, the "
        f"worst of {counted(first.restarts, 'random start')} counts.{no_words} Mean accuracy over "
        f"the radii above 0: {scores}."
    )
    caption = f"{SPACES[first.space].capitalize()}: scores by the radius ε of the perturbation."
    return Table(caption, ("Method", "ε"), _COLUMNS, rows, notes)
