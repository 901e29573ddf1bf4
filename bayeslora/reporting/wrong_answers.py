"""The most confident errors of each method, for a person to read.

They are the quickest way to see what goes wrong: texts of another kind, overlapping classes, wrong
labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.plain_text import clean, counted, shorten
from bayeslora.predictions.collection import QUESTION_COLUMNS
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Assessed, labelled
from bayeslora.reporting.text import certain
from bayeslora.tables.images import thumbnail

MOST = 10
"""Most rows shown per method."""

BEGINNING = 300
"""Characters of a text shown before unfolding."""

LONGEST = 20_000
"""Most characters of a text in the page."""


@dataclass(frozen=True)
class Example:
    """A wrongly classified row, as plain text; unknown texts are empty.

    `row` is its id, or its number from 1, `text` its text on one line, or the beginning, of which
    `rest` is then the whole and `length` its length. `image` is a PNG image as a data URI, if the
    text is the path of one; `options` are letter, text and probability of every option of a
    question.
    """

    row: str
    confidence: str
    predicted: str
    label: str
    label_probability: str
    text: str = ""
    rest: str = ""
    length: str = ""
    image: str = ""
    options: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class WrongAnswers:
    """The errors of a method, the most confident first, and how many there are."""

    label: str
    facts: str
    examples: tuple[Example, ...]


def wrong_answers(methods: Sequence[Assessed], column: str) -> tuple[WrongAnswers, ...]:
    """Return the most confident errors of every labelled method, sorted by NLL.

    The texts are those of `column`; if missing, questions with their contexts.
    """
    best_first = sorted(labelled(methods), key=lambda method: method.scores["nll"].value)
    return tuple(_of_method(method, column) for method in best_first)


def _of_method(assessed: Assessed, column: str) -> WrongAnswers:
    predictions = assessed.method.predictions
    labels = predictions.labels
    if labels is None:
        raise ValueError("there are no wrong answers without labels")
    wrong = np.flatnonzero(predictions.labelled & (predictions.prediction != labels))
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    chosen = wrong[order[:MOST]]
    facts = f"{len(wrong):,} of {counted(assessed.scores.n_labelled, 'labelled example')} wrong"
    if len(wrong) > MOST:
        facts += f"; the {MOST} most confident are shown"
    texts = predictions.columns.get(column, questions(predictions))
    examples = tuple(
        _example(predictions, labels, row, None if texts is None else texts[row])
        for row in chosen.tolist()
    )
    return WrongAnswers(assessed.label, facts, examples)


def _example(
    predictions: Predictions, labels: NDArray[np.int64], row: int, text: str | None
) -> Example:
    guess, label = int(predictions.prediction[row]), int(labels[row])
    return Example(
        row=f"row {row + 1:,}" if predictions.ids is None else shorten(clean(predictions.ids[row])),
        confidence=certain(float(predictions.probs[row, guess])),
        predicted=shorten(clean(predictions.classes[guess])),
        label=shorten(clean(predictions.classes[label])),
        label_probability=certain(float(predictions.probs[row, label])),
        options=options_of(predictions, row),
        **_shown_text(text),
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
        (shorten(clean(name)), clean(str(text))[:BEGINNING], certain(prob))
        for (name, prob), text in zip(stated.items(), options, strict=True)
    )


def _shown_text(text: str | None) -> dict[str, str]:
    """Return the text fields of an `Example`: one line, split after its beginning if long."""
    if text is None or not text.strip():
        return {}
    cleaned = clean(text)
    if len(cleaned) <= BEGINNING:
        return {"text": cleaned}
    words = cleaned[:BEGINNING].rsplit(" ", 1)[0].rstrip()
    length = f"{len(cleaned):,} characters"
    if len(cleaned) > LONGEST:
        length = f"the first {LONGEST:,} of {length}"
    return {"text": f"{words}…", "rest": cleaned[:LONGEST], "length": length}
