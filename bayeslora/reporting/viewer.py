"""Predictions as one HTML page to look into: filter, sort, and see what follows.

The page holds the rows themselves as JSON beside a small script, and needs nothing else: no server,
no network. Like the report's, its policy allows that script by its hash and forbids every request.
All names and texts are cleaned here and set as plain text there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayeslora._version import __version__
from bayeslora.files import atomic_file
from bayeslora.metrics.rowwise import labelled_rows
from bayeslora.metrics.scores import Score, Scores
from bayeslora.plain_text import clean, shorten
from bayeslora.predictions.collection import (
    EXAMPLE_COLUMN,
    QUESTION_COLUMNS,
    Method,
    OodLike,
    PredictionsLike,
    as_list,
    check_column,
    gather,
    paths_in,
)
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.files import text_columns
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.page import OURS, asset, content_policy, render
from bayeslora.reporting.wrong_answers import options_of, questions

TITLE = "Predictions"

LONGEST = 4_000
"""Characters of a text that enter the page at most."""

MOST_COLUMNS = 12
"""Further columns that rows can be filtered by."""

MOST_VALUES = 200
"""Distinct values of a column to filter by; a column with more is a text, not a group."""


def view(
    items: PredictionsLike | Sequence[PredictionsLike],
    *,
    ood: OodLike | None = None,
    out: str | Path,
    title: str = TITLE,
    examples: bool = True,
    example_column: str | None = None,
    reading: PredictionsReading = AS_WRITTEN,
) -> Path:
    """Write the page, and return its path; a file that is there is replaced.

    Args:
        items: Predictions, paths of files of them, or data frames, one for each method or seed.
        ood: Out-of-distribution sets, as in `report`.
        out: The HTML file.
        title: Of the page.
        examples: Whether it holds texts, ids and further columns.
        example_column: The further column with the texts; by default `text` where it is there.
        reading: How to read files that are not as this package writes them.

    Raises:
        InputError: An input is wrong, or no method has `example_column`.
    """
    items = as_list(items)
    paths = paths_in(items, ood or {})
    columns = sorted({name for path in paths for name in text_columns(path, reading)})
    methods = gather(items, ood, columns=columns if examples else (), reading=reading)
    if examples and example_column is not None:
        check_column(methods, example_column)
    page = viewer_page(
        methods,
        title,
        example_column or EXAMPLE_COLUMN,
        examples=examples,
        leader=_lowest_nll(methods),
    )
    with atomic_file(out) as aside:
        aside.write_text(page, encoding="utf-8", newline="\n")
    return Path(out)


def viewer_page(
    methods: Sequence[Method],
    title: str,
    text_column: str,
    *,
    leader: str,
    examples: bool = True,
    scores: Mapping[str, Scores] | None = None,
) -> str:
    """Return the page.

    Args:
        methods: With their out-of-distribution sets.
        title: Of the page.
        text_column: The further column with the texts; questions are found by their own.
        leader: Label of the method that is shown first.
        examples: Whether the page holds texts, ids and further columns.
        scores: Those of a report by the method's label; the accuracy of all examples then has the
            interval that the report states.
    """
    sources = []
    for method in methods:
        known: Mapping[str, Score] = (scores or {}).get(method.label, {})
        accuracy = known.get("accuracy")
        sets = {"": method.source, **method.ood}
        for name, source in sets.items():
            where = {"method": method.label, "set": name and shorten(clean(name))}
            rows = _rows(source.predictions, text_column if examples else None)
            if accuracy is not None and not name and accuracy.has_interval:
                rows["accuracy"] = [accuracy.low, accuracy.high]
            sources.append({**where, **rows})
    script = asset("viewer.js")
    values = {
        "title": shorten(clean(title), 160),
        "data": _json({"sources": sources, "leader": leader}),
        "style": f"{asset('report.css')}\n{asset('viewer.css')}",
        "script": script,
        "policy": content_policy(script),
        "version": __version__,
    }
    return render(f"{OURS}viewer.html.j2", {}, values).rstrip() + "\n"


def _lowest_nll(methods: Sequence[Method]) -> str:
    """Return the label of the method to show first: the lowest mean NLL, else the first method."""
    known = {one.label: one.predictions for one in methods if one.predictions.labelled.any()}
    losses = {label: float(labelled_rows(found).nll.mean()) for label, found in known.items()}
    return min(losses, key=losses.__getitem__, default=methods[0].label)


def _json(content: Any) -> str:
    """Return JSON that can stand in a script element: no character in it ends one."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _rows(predictions: Predictions, text_column: str | None) -> dict[str, Any]:
    """Return predictions column by column, as the script reads them."""
    found: dict[str, Any] = {
        "classes": [shorten(clean(name)) for name in predictions.classes],
        "prediction": predictions.prediction.tolist(),
        "confidence": predictions.confidence.tolist(),
        "label": None if predictions.labels is None else predictions.labels.tolist(),
        "scores": {
            score_words(name): predictions.uncertainty(name).round(6).tolist()
            for name in predictions.uncertainty_names
        },
    }
    if predictions.labels is not None:
        given = predictions.probs[range(len(predictions)), predictions.labels].round(6)
        found["given"] = given.tolist()
    if text_column is None:
        return found
    texts = predictions.columns.get(text_column, questions(predictions))
    if texts is not None:
        found["text"] = [None if text is None else clean(text)[:LONGEST] for text in texts]
    if predictions.ids is not None:
        found["id"] = [shorten(clean(name)) for name in predictions.ids]
    if QUESTION_COLUMNS[-1] in predictions.columns:
        found["options"] = [options_of(predictions, row) for row in range(len(predictions))]
    return {**found, "columns": _groups(predictions, text_column)}


def _groups(predictions: Predictions, text_column: str) -> dict[str, list[str | None]]:
    """Return the further columns that have few values."""
    columns = {
        name: values
        for name, values in predictions.columns.items()
        if name not in (text_column, *QUESTION_COLUMNS) and len(set(values)) <= MOST_VALUES
    }
    return {
        shorten(clean(name)): [None if one is None else shorten(clean(one)) for one in values]
        for name, values in list(columns.items())[:MOST_COLUMNS]
    }
