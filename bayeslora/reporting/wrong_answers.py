"""The rows that each method got wrong while it was most sure, to be read by a person.

They are the quickest way to see what goes wrong: texts of another kind, classes that shade into
each other, labels that are mistakes.
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
"""Rows shown of a method."""

BEGINNING = 300
"""Characters of a text that are shown at once."""

LONGEST = 20_000
"""Characters of a text that enter the page at most."""


@dataclass(frozen=True)
class Example:
    """One row that was answered wrongly, as plain text.

    Attributes:
        row: The row's id, or its number from 1.
        confidence: Probability of the predicted class.
        predicted: The predicted class.
        label: The label.
        label_probability: Probability that the method gave to the label.
        text: The text, or its beginning; empty where it is not known.
        rest: The whole text where `text` is its beginning, else empty.
        length: How long the whole text is, and whether all of it is here.
        image: A PNG image as a data URI, where the text is the path of an image that is there.
        options: Of a question, letter, text and probability of every option; else empty.
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
    """The most confident errors of a method.

    Attributes:
        label: The method's label.
        facts: How many rows are wrong, and how many are shown.
        examples: The errors, the most confident first.
    """

    label: str
    facts: str
    examples: tuple[Example, ...]


def wrong_answers(methods: Sequence[Assessed], column: str) -> tuple[WrongAnswers, ...]:
    """Return the most confident errors of every labelled method, the method of lowest NLL first.

    Args:
        methods: What was scored.
        column: The further column that holds the rows' texts, where it is there; else questions
            with their contexts are the texts.
    """
    best_first = sorted(labelled(methods), key=lambda one: one.scores["nll"].value)
    return tuple(_of_method(one, column) for one in best_first)


def _of_method(one: Assessed, column: str) -> WrongAnswers:
    predictions = one.method.predictions
    labels = predictions.labels
    if labels is None:
        raise ValueError("there are no wrong answers without labels")
    wrong = np.flatnonzero(predictions.labelled & (predictions.prediction != labels))
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    chosen = wrong[order[:MOST]]
    facts = f"{len(wrong):,} of {counted(one.scores.n_labelled, 'labelled example')} wrong"
    if len(wrong) > MOST:
        facts += f"; the {MOST} most confident are shown"
    texts = predictions.columns.get(column, questions(predictions))
    examples = tuple(
        _example(predictions, labels, row, None if texts is None else texts[row])
        for row in chosen.tolist()
    )
    return WrongAnswers(one.label, facts, examples)


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
    """Return each question, and below it its context, where predictions are of questions."""
    question, context, _ = (predictions.columns.get(name) for name in QUESTION_COLUMNS)
    if question is None or context is None:
        return question
    return [
        None if q is None else f"{q} — {c}" if c else q
        for q, c in zip(question, context, strict=True)
    ]


def options_of(predictions: Predictions, row: int) -> tuple[tuple[str, str, str], ...]:
    """Return letter, text and probability of every option of a question; empty where unknown."""
    texts = predictions.columns.get(QUESTION_COLUMNS[-1])
    stated = predictions[row].probs
    try:
        found = json.loads((None if texts is None else texts[row]) or "")
    except (ValueError, RecursionError):
        return ()
    if not isinstance(found, list) or len(found) != len(stated):
        return ()
    return tuple(
        (shorten(clean(name)), clean(str(text))[:BEGINNING], certain(prob))
        for (name, prob), text in zip(stated.items(), found, strict=True)
    )


def _shown_text(text: str | None) -> dict[str, str]:
    """Return a text in one line, with its beginning apart where it is long."""
    if text is None or not text.strip():
        return {}
    whole = clean(text)
    if len(whole) <= BEGINNING:
        return {"text": whole}
    words = whole[:BEGINNING].rsplit(" ", 1)[0].rstrip()
    length = f"{len(whole):,} characters"
    if len(whole) > LONGEST:
        length = f"the first {LONGEST:,} of {length}"
    return {"text": f"{words}…", "rest": whole[:LONGEST], "length": length}
