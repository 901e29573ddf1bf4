"""Predictions as one interactive HTML page with filters, sorting and scores of the selection.

The page holds the rows as JSON and a small script, and needs no server or network. As in the
report, its Content-Security-Policy allows that script by its hash and forbids every request. All
names and texts are cleaned here and set as plain text by the script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayeslora.io import atomic_file
from bayeslora.plain_text import as_label, clean
from bayeslora.predictions import collection
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading, open_columns
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.page import render
from bayeslora.reporting.text import score_words
from bayeslora.reporting.wrong_answers import options_of, questions

TITLE = "Predictions"

LONGEST = 4_000
"""Most characters of a text in the page."""

MOST_COLUMNS = 12
"""Most further columns to filter by."""

MOST_VALUES = 200
"""Most distinct values of a column to filter by; a column with more is a text, not a group."""


def view(
    items: collection.PredictionsLike | Sequence[collection.PredictionsLike],
    *,
    ood: collection.OodLike | None = None,
    out: str | Path,
    title: str = TITLE,
    examples: bool = True,
    example_column: str | None = None,
    reading: PredictionsReading = AS_WRITTEN,
) -> Path:
    """Write the page and return its path; an existing file is replaced.

    Args:
        items: Predictions, paths of predictions files, or data frames, one per method or seed.
        ood: Out-of-distribution sets, as in `report`.
        out: The HTML file.
        title: Title of the page.
        examples: Whether the page holds texts, ids and further columns.
        example_column: The further column with the texts; by default `text` if it exists.
        reading: How to read files in another format than this package writes.

    Raises:
        InputError: An input is wrong, or no method has `example_column`.
    """
    items = collection.as_list(items)
    paths = collection.paths_in(items, ood or {}) if examples else ()
    columns = sorted({name for path in paths for name in open_columns(path, reading).further})
    methods = collection.gather(items, ood, columns=columns, reading=reading)
    if examples and example_column is not None:
        collection.check_column(methods, example_column)
    column = (example_column or collection.EXAMPLE_COLUMN) if examples else None
    content = {
        "sources": [
            {
                "method": method.label,
                "set": name and as_label(name),
                **_rows(source.predictions, column),
            }
            for method in methods
            for name, source in {"": method.source, **method.ood}.items()
        ]
    }
    data = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":  # so that no character can end the script element
        data = data.replace(char, f"\\u{ord(char):04x}")
    values = {"title": as_label(title, 160), "data": data}
    styles = ("report.css", "viewer.css")
    page = render("viewer.html.j2", values, script="viewer.js", styles=styles)
    with atomic_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return Path(out)


def _rows(predictions: Predictions, text_column: str | None) -> dict[str, Any]:
    """Return predictions as columns in the format of the script."""
    rows: dict[str, Any] = {
        "classes": [as_label(name) for name in predictions.classes],
        "prediction": predictions.prediction.tolist(),
        "confidence": predictions.confidence.tolist(),
        "label": None if predictions.labels is None else predictions.labels.tolist(),
        "scores": {
            score_words(name): predictions.uncertainty(name).round(6).tolist()
            for name in predictions.uncertainty_names
        },
    }
    if predictions.labels is not None:
        label_probs = predictions.probs[range(len(predictions)), predictions.labels].round(6)
        rows["given"] = label_probs.tolist()
    if text_column is None:
        return rows
    texts = predictions.columns.get(text_column, questions(predictions))
    if texts is not None:
        rows["text"] = [None if text is None else clean(text)[:LONGEST] for text in texts]
    if predictions.ids is not None:
        rows["id"] = [as_label(name) for name in predictions.ids]
    if collection.QUESTION_COLUMNS[-1] in predictions.columns:
        rows["options"] = [options_of(predictions, row) for row in range(len(predictions))]
    groups = [
        name
        for name, values in predictions.columns.items()
        if name not in (text_column, *collection.QUESTION_COLUMNS)
        and len(set(values)) <= MOST_VALUES
    ]
    rows["columns"] = {
        as_label(name): [None if v is None else as_label(v) for v in predictions.columns[name]]
        for name in groups[:MOST_COLUMNS]
    }
    return rows
