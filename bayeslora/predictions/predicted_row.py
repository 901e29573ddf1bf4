"""A row of predictions, with names in place of indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bayeslora.plain_text import as_label, clean, table_html

SHOWN_ROWS = 10
"""Rows of a table in a notebook."""


@dataclass(frozen=True)
class PredictedRow:
    """The prediction for one row.

    Attributes:
        id: Name of the row; None if rows have no names.
        label: Its class; None if unlabelled.
        prediction: The most probable class.
        confidence: The probability of that class.
        probs: The probability of every class that the row has, by name.
        total: Nats, or None.
        aleatoric: Nats, or None.
        epistemic: Nats, or None.
        scores: Further uncertainties by name, higher = more uncertain.
        set: The classes in the row's prediction set, or None.
        columns: Further values by the name of their column; None where unknown.
    """

    id: str | None
    label: str | None
    prediction: str
    confidence: float
    probs: Mapping[str, float]
    total: float | None = None
    aleatoric: float | None = None
    epistemic: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    set: tuple[str, ...] | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)


def rows_html(caption: str, rows: Sequence[PredictedRow]) -> str:
    """Return an HTML table of rows for a notebook; columns without any value are omitted.

    Args:
        caption: Caption of the table.
        rows: The rows to show, in order.
    """
    columns: dict[str, list[str | None]] = {
        "label": [row.label for row in rows],
        "prediction": [row.prediction for row in rows],
        "confidence": [f"{row.confidence:.3f}" for row in rows],
        "epistemic": [None if row.epistemic is None else f"{row.epistemic:.3g}" for row in rows],
    }
    shown = {name: values for name, values in columns.items() if any(values)}
    names = [str(index) if row.id is None else row.id for index, row in enumerate(rows)]
    cells = zip(names, *shown.values(), strict=True)
    texts = [["" if cell is None else as_label(cell) for cell in row] for row in cells]
    return table_html(clean(caption), ("", *shown), texts)
