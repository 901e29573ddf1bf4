"""Predictions as one interactive HTML page with filters, sorting and scores of the selection.

The page holds the rows as JSON and a small script, and needs no server or network. As in the
report, its Content-Security-Policy allows that script by its hash and forbids every request. All
names and texts are cleaned here and set as plain text by the script.

The most confident errors of each method, for a person to read.

They are the quickest way to see what goes wrong: texts of another kind, overlapping classes, wrong
labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayeslora.data.images import thumbnail
from bayeslora.io.files import atomic_file
from bayeslora.metrics.rowwise import labelled_rows
from bayeslora.plain_text import as_label, clean, counted, shorten
from bayeslora.predictions import collection
from bayeslora.predictions.collection import QUESTION_COLUMNS
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading, open_columns
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Assessed, labelled
from bayeslora.reporting.blocks import Block, Details, Example, Prose
from bayeslora.reporting.page import render
from bayeslora.reporting.text import certain, named, score_words

MOST = 10
"""Most rows shown per method."""

BEGINNING = 600
"""Most columns of a text in the page."""


def wrong_answers(methods: Sequence[Assessed], column: str) -> tuple[Block, ...]:
    """Return the most confident errors of every labelled method, sorted by NLL; empty if none.

    The texts are those of `column`; if missing, questions with their contexts.
    """
    blocks: list[Block] = []
    for method in sorted(labelled(methods), key=lambda method: method.scores["nll"].value):
        predictions, rows = method.method.predictions, method.answers.rows
        wrong = np.flatnonzero(rows.correct == 0)
        chosen = wrong[np.argsort(-rows.confidence[wrong], kind="stable")[:MOST]]
        facts = f"{len(wrong):,} of {counted(method.scores.n_labelled, 'labelled example')} wrong"
        if len(wrong) > MOST:
            facts += f"; the {MOST} most confident are shown"
        texts = predictions.columns.get(column, questions(predictions))
        examples = tuple(
            _example(predictions, row, label, None if texts is None else texts[row])
            for row, label in zip(
                rows.index[chosen].tolist(), rows.labels[chosen].tolist(), strict=True
            )
        )
        blocks.append(Details(f"{named(method.label)}: {facts}", examples, not blocks))
    note = (
        "Wrong predictions of the highest confidence, the method of lowest NLL first. Some may be"
        " wrong labels."
    )
    return (Prose(note), *blocks) if blocks else ()


def _example(predictions: Predictions, row: int, label: int, text: str | None) -> Example:
    guess = int(predictions.probs[row].argmax())
    return Example(
        row=f"row {row + 1:,}" if predictions.ids is None else as_label(predictions.ids[row]),
        confidence=certain(float(predictions.probs[row, guess])),
        predicted=as_label(predictions.classes[guess]),
        label=as_label(predictions.classes[label]),
        label_probability=certain(float(predictions.probs[row, label])),
        options=options_of(predictions, row),
        text=shorten(clean(text), BEGINNING) if text else "",
        image="" if text is None else thumbnail(text),
    )


def questions(predictions: Predictions) -> Sequence[str | None] | None:
    """Return each question followed by its context; None if predictions are not of questions."""
    question, context, _ = (predictions.columns.get(name) for name in QUESTION_COLUMNS)
    if question is None or context is None:
        return question
    return [
        None if q is None else f"{q} — {c}" if c else q
        for q, c in zip(question, context, strict=True)
    ]


def options_of(predictions: Predictions, row: int) -> tuple[tuple[str, str, str], ...]:
    """Return letter, text and probability of every option of a question; empty if unknown."""
    texts = predictions.columns.get(QUESTION_COLUMNS[-1])
    stated = predictions[row].probs
    try:
        options = json.loads((None if texts is None else texts[row]) or "")
    except (ValueError, RecursionError):
        return ()
    if not isinstance(options, list) or len(options) != len(stated):
        return ()
    return tuple(
        (as_label(name), clean(str(text))[:BEGINNING], certain(prob))
        for (name, prob), text in zip(stated.items(), options, strict=True)
    )


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
    losses = {
        method.label: float(labelled_rows(method.predictions).nll.mean())
        for method in methods
        if method.predictions.labelled.any()
    }
    content = {
        "sources": [
            {
                "method": method.label,
                "set": name and as_label(name),
                **_rows(source.predictions, column),
            }
            for method in methods
            for name, source in {"": method.source, **method.ood}.items()
        ],
        "leader": min(losses, key=losses.__getitem__, default=methods[0].label),
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
