"""What accuracy is left where inputs are perturbed against a classifier in a table."""

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
    given: RobustnessLike | None, names: Collection[str]
) -> tuple[Robustness, ...]:
    """Return the curves of classifiers, read from files where paths are given.

    Log which of them are of none of the methods beside them.

    Args:
        given: Curves or paths.
        names: Of these methods.

    Raises:
        InputError: A file holds none, or they are of different inputs.
    """
    if given is None:
        return ()
    items = [given] if isinstance(given, Robustness | str | Path) else list(given)
    curves = []
    for item in items:
        if not isinstance(item, Robustness | str | Path):
            raise InputError(f"robustness must be what clf.robustness returns, got {item!r:.80}")
        curves.append(item if isinstance(item, Robustness) else Robustness.load(item))
    check_curves(curves)
    if others := [one.name for one in curves if one.name not in names]:
        logger.warning(
            "the robustness of %s is in the report, and no predictions of that name", listed(others)
        )
    return tuple(curves)


def robustness_table(curves: Sequence[Robustness]) -> Table:
    """Return the scores of every classifier by the radius of the perturbation."""
    first = curves[0]
    labels = unique_labels([one.name for one in curves])
    rows = tuple(
        Row(
            (label if not place else "", f"{point.eps:.4g}"),
            tuple(Cell(*point.scores[key].said()) for key in _KEYS),
        )
        for label, one in zip(labels, curves, strict=True)
        for place, point in enumerate(one.points)
    )
    scores = ", ".join(
        f"{clean(shorten(label))} {one.score:.3f}"
        for label, one in zip(labels, curves, strict=True)
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
