"""The most confident errors of each method, for a person to read.

They are the quickest way to see what goes wrong: texts of another kind, overlapping classes, wrong
labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from bayeslora.data.images import thumbnail
from bayeslora.plain_text import as_label, clean, counted, shorten
from bayeslora.predictions.collection import QUESTION_COLUMNS
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Assessed, labelled
from bayeslora.reporting.blocks import Block, Details, Example, Prose
from bayeslora.reporting.text import certain, named

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
        wrong = np.flatnonzero(rows.labels != rows.prediction)
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
    note = "The method of lowest NLL comes first. Some errors may be wrong labels."
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
