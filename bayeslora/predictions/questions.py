"""One question of a sample log of lm-evaluation-harness: its options and which of them is right."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.tables.messages import shown

_VERDICTS = ("acc", "acc_norm", "acc_bytes")
_UNLABELLED = frozenset({"", "-1", "-100"})
_DIGITS = 18  # of an index; Python refuses to read thousands
_SINGLE = re.compile(r"\[(\d+)\]")  # a list of one, which newer versions write as text


@dataclass(frozen=True)
class Question:
    """A question with M options.

    Attributes:
        row: Where it is in the log, from 1.
        id: `doc_id` as text, or None.
        scores: [M] log-likelihoods.
        texts: [M] the options without a leading space; empty where the log has none.
        target: The right option as the log gives it, as text; None where there is none.
        verdicts: Whether the harness counted the question as right, by accuracy.
    """

    row: int
    id: str | None
    scores: list[float]
    texts: list[str]
    target: str | None
    verdicts: Mapping[str, float]


def read_question(path: str | Path, row: int, record: Mapping[str, Any]) -> Question:
    """Return the question of one line of a log.

    Raises:
        InputError: It has no log-likelihoods of two or more options, or several right options.
    """
    contexts, texts = _arguments(record.get("arguments"))
    scores = _scores(path, row, record)
    # for mutual information the options are asked again, without a context
    if len(contexts) == len(scores) and any(contexts):
        kept = [place for place, context in enumerate(contexts) if context]
        scores, texts = [scores[k] for k in kept], [texts[k] for k in kept]
    if len(scores) < 2:
        raise InputError(
            f"{path}, row {row} has the log-likelihood of one text; only multiple-choice tasks, "
            "with two or more options, are predictions of classes"
        )
    name = record.get("doc_id")
    if not isinstance(name, str | int | float | None):
        raise InputError(f"{path}, row {row}, 'doc_id': {shown(name)} is not a text or a number")
    return Question(
        row,
        None if name is None else str(name),
        scores,
        texts,
        _target(path, row, record.get("target")),
        {key: float(record[key]) for key in _VERDICTS if record.get(key) in (0, 1)},
    )


def correct_options(path: str | Path, questions: Sequence[Question]) -> NDArray[np.int64]:
    """Return [N]: the index of each right option, -1 where the log has none.

    A log's targets are all indices, all texts of the question's options, or all letters: whichever
    fits most rows, indices where all of them are numbers.

    Raises:
        InputError: A target is none of an option; the message names the row.
    """
    known = [one for one in questions if one.target is not None]
    found = [[reading(one) for one in known] for reading in (_by_index, _by_text, _by_letter)]
    best = max(found, key=lambda places: sum(place is not None for place in places))
    places = iter(best)
    labels = np.full(len(questions), -1)
    for row, one in enumerate(questions):
        if one.target is None:
            continue
        place = next(places)
        if place is None or not 0 <= place < len(one.scores):
            raise InputError(
                f"{path}, row {one.row}, 'target': {shown(one.target)} is not one of its "
                f"{len(one.scores)} options; an index from 0, an option's text, or a letter is "
                "needed, the same kind in every row"
            )
        labels[row] = place
    return labels


def _by_index(question: Question) -> int | None:
    text = question.target or ""
    is_index = text.isascii() and text.isdecimal() and len(text) <= _DIGITS
    return int(text) if is_index else None


def _by_text(question: Question) -> int | None:
    texts = [text.strip() for text in question.texts]
    text = (question.target or "").strip()
    return texts.index(text) if text in texts else None


def _by_letter(question: Question) -> int | None:
    text = (question.target or "").strip(" ().")
    place = string.ascii_uppercase.find(text.upper()) if len(text) == 1 else -1
    return place if place >= 0 else None


def _arguments(given: Any) -> tuple[list[str], list[str]]:
    """Return the context and the text of every option."""
    pairs: list[Any] = []
    if isinstance(given, Mapping):
        values = given.values()
        pairs = [list(one.values()) if isinstance(one, Mapping) else one for one in values]
    elif isinstance(given, list):
        pairs = given
    if not all(isinstance(one, list) and len(one) > 1 for one in pairs):
        return [], []
    contexts, texts = ([one[k] for one in pairs] for k in (0, 1))
    if not all(isinstance(text, str) for text in (*contexts, *texts)):
        return [], []
    return contexts, [text.removeprefix(" ") for text in texts]


def _scores(path: str | Path, row: int, record: Mapping[str, Any]) -> list[float]:
    given = record.get("filtered_resps")
    if given is None:
        resps = record.get("resps")
        several = resps if isinstance(resps, list) else [resps]
        given = [one[0] if isinstance(one, list) and one else one for one in several]
    if not isinstance(given, list):
        given = [given]
    scores = []
    for place, one in enumerate(given, 1):
        value = one[0] if isinstance(one, list) and one else one
        try:
            score = float(value)
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{path}, row {row}: the response {shown(value)} is not a log-likelihood; "
                "only multiple-choice tasks can be read, not those that generate text"
            ) from None
        if not math.isfinite(score):
            raise InputError(f"{path}, row {row}, option {place}: log-likelihood {score}")
        scores.append(score)
    return scores


def _target(path: str | Path, row: int, given: Any) -> str | None:
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if isinstance(given, str) and (single := _SINGLE.fullmatch(given)):
        given = single[1]
    is_list = isinstance(given, str) and given.startswith("[") and given.endswith("]")
    if is_list or not isinstance(given, str | int | float | None):
        raise InputError(
            f"{path}, row {row}, 'target': {shown(given)} may name several right options; "
            "predictions have one label a row"
        )
    if given is None or str(given) in _UNLABELLED:
        return None
    return str(given)
