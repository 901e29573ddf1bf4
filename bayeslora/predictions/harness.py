"""Sample logs of lm-evaluation-harness as predictions, for multiple-choice tasks.

With `--log_samples` the harness writes `samples_<task>_<date>.jsonl`, one object per question:

| key | content |
|---|---|
| `filtered_resps` | for each option its log-likelihood and whether it is greedy; else `resps` |
| `arguments` | for each option the context and the option's text |
| `target` | the correct option: its index, its text, or its letter |
| `doc_id`, `doc` | number and columns of the question |
| `acc`, `acc_norm`, `acc_bytes` | whether the harness counted the question as correct |

Older versions write numbers and lists. Newer ones write numbers as texts, and `arguments` as an
object of `gen_args_0` and so on, with `arg_0` and `arg_1`.

Probabilities are the softmax of the log-likelihoods over a question's options, as in the harness's
own Brier score. A question with fewer options than others lacks the last classes. The classes are
the options' texts if all questions share them, else letters.
"""

from __future__ import annotations

import logging
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import shown_path
from bayeslora.plain_text import shown
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading, Where, as_text, softmax
from bayeslora.tables.json_records import Record, json_records
from bayeslora.tables.source import open_source

_VERDICTS = ("acc", "acc_norm", "acc_bytes")
_UNLABELLED = frozenset({"", "-1", "-100"})
_DIGITS = 18  # of an index; Python refuses to parse thousands
_SINGLE = re.compile(r"\[(\d+)\]")  # a single-element list, written as text by newer versions


@dataclass(frozen=True)
class Question:
    """A question with M options.

    Attributes:
        row: Row in the log, from 1.
        id: `doc_id` as text, or None.
        scores: [M] log-likelihoods.
        texts: [M] options without a leading space; empty if the log has none.
        target: The correct option as written in the log, as text; None if missing.
        verdicts: Whether the harness counted the question as correct, by accuracy metric.
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
        InputError: It lacks log-likelihoods of two or more options, or has several correct options.
    """
    contexts, texts = _arguments(record.get("arguments"))
    scores = _scores(path, row, record)
    # for mutual information the options are scored again, without a context
    if len(contexts) == len(scores) and any(contexts):
        with_context = [index for index, context in enumerate(contexts) if context]
        scores, texts = [scores[k] for k in with_context], [texts[k] for k in with_context]
    if len(scores) < 2:
        raise InputError(
            f"{path}, row {row} has only one log-likelihood; only multiple-choice tasks, with at "
            "least two options, are supported"
        )
    name = record.get("doc_id")
    if not isinstance(name, str | int | float | None):
        raise InputError(f"{path}, row {row}, 'doc_id': {shown(name)} is not a string or a number")
    return Question(
        row,
        None if name is None else str(name),
        scores,
        texts,
        _target(path, row, record.get("target")),
        {key: float(record[key]) for key in _VERDICTS if record.get(key) in (0, 1)},
    )


def correct_options(path: str | Path, questions: Sequence[Question]) -> NDArray[np.int64]:
    """Return the [N] indices of the correct options, -1 where the log has none.

    A log's targets are all indices, all texts of the question's options, or all letters: whichever
    fits most rows, with ties resolved in this order.

    Raises:
        InputError: A target does not match an option; the message names the row.
    """
    with_target = [question for question in questions if question.target is not None]
    candidates = [
        [parse(question) for question in with_target] for parse in (_by_index, _by_text, _by_letter)
    ]
    best = max(candidates, key=lambda indices: sum(index is not None for index in indices))
    indices = iter(best)
    labels = np.full(len(questions), -1)
    for row, question in enumerate(questions):
        if question.target is None:
            continue
        index = next(indices)
        if index is None or not 0 <= index < len(question.scores):
            raise InputError(
                f"{path}, row {question.row}, 'target': {shown(question.target)} is not one of "
                f"the {len(question.scores)} options; use an index from 0, an option's text, or "
                "a letter, the same kind in every row"
            )
        labels[row] = index
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
    index = string.ascii_uppercase.find(text.upper()) if len(text) == 1 else -1
    return index if index >= 0 else None


def _arguments(arguments: Any) -> tuple[list[str], list[str]]:
    """Return the context and the text of every option."""
    pairs: list[Any] = []
    if isinstance(arguments, Mapping):
        values = arguments.values()
        pairs = [list(pair.values()) if isinstance(pair, Mapping) else pair for pair in values]
    elif isinstance(arguments, list):
        pairs = arguments
    if not all(isinstance(pair, list) and len(pair) > 1 for pair in pairs):
        return [], []
    contexts, texts = ([pair[k] for pair in pairs] for k in (0, 1))
    if not all(isinstance(text, str) for text in (*contexts, *texts)):
        return [], []
    return contexts, [text.removeprefix(" ") for text in texts]


def _scores(path: str | Path, row: int, record: Mapping[str, Any]) -> list[float]:
    responses = record.get("filtered_resps")
    if responses is None:
        resps = record.get("resps")
        several = resps if isinstance(resps, list) else [resps]
        responses = [entry[0] if isinstance(entry, list) and entry else entry for entry in several]
    if not isinstance(responses, list):
        responses = [responses]
    scores = []
    for option, response in enumerate(responses, 1):
        value = response[0] if isinstance(response, list) and response else response
        try:
            score = float(value)
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{path}, row {row}: the response {shown(value)} is not a log-likelihood; only "
                "multiple-choice tasks are supported, not text generation"
            ) from None
        if not math.isfinite(score):
            raise InputError(
                f"{path}, row {row}, option {option}: log-likelihood {score} is not finite"
            )
        scores.append(score)
    return scores


def _target(path: str | Path, row: int, target: Any) -> str | None:
    if isinstance(target, list) and len(target) == 1:
        target = target[0]
    if isinstance(target, float) and target.is_integer():
        target = int(target)
    if isinstance(target, str) and (single := _SINGLE.fullmatch(target)):
        target = single[1]
    is_list = isinstance(target, str) and target.startswith("[") and target.endswith("]")
    if is_list or not isinstance(target, str | int | float | None):
        raise InputError(
            f"{path}, row {row}, 'target': {shown(target)} may list several correct options; "
            "predictions have one label per row"
        )
    if target is None or str(target) in _UNLABELLED:
        return None
    return str(target)


logger = logging.getLogger(__name__)

NORMALISE = {"none": "acc", "characters": "acc_norm", "bytes": "acc_bytes"}
"""Normaliser of the log-likelihoods -> the accuracy that the harness computes with it."""

_NAME = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.:-]+")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def is_sample_log(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> bool:
    """Return whether a file is a sample log, by the keys of its first object.

    Raises:
        InputError: The file cannot be read.
    """
    keys = _first_record(path, reading).keys()
    return bool(keys & {"resps", "filtered_resps"}) and bool(keys & {"doc", "doc_id"})


def _first_record(path: str | Path, reading: PredictionsReading) -> Record:
    source = open_source(path, reading.table)
    if source.kind != "json":
        return {}
    return next(json_records(source, []), {})


def log_name(path: str | Path) -> str:
    """Return the names of model and task from the path of a log, else the file's stem."""
    return " ".join(filter(None, _model_and_task(path))) or Path(path).stem


def log_columns(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> list[str]:
    """Return the fields of the first question's `doc`: the possible further columns."""
    doc = _first_record(path, reading).get("doc")
    return list(map(str, doc)) if isinstance(doc, dict) else []


def read_sample_log(
    path: str | Path,
    normalise: str = "none",
    columns: Sequence[str] = (),
    reading: PredictionsReading = AS_WRITTEN,
) -> tuple[dict[str, Any], Where]:
    """Return the keyword arguments of `Predictions` from a log, and the names of its rows.

    Args:
        path: A `.jsonl` file.
        normalise: Divisor of each option's log-likelihood before the softmax: `none`, its number of
            `characters`, or of `bytes`. The last two follow `acc_norm` and `acc_bytes`; a leading
            space is not counted.
        columns: Fields of `doc` to keep as further columns.
        reading: The encoding of the file.

    Raises:
        InputError: The file is not a log of a multiple-choice task, or a value in it is wrong.
    """
    if normalise not in NORMALISE:
        raise unknown_choice("normalise", normalise, NORMALISE)
    if reading.probability_columns or reading.renormalise:
        raise InputError(
            f"{path} is a sample log; --probability-column and --renormalise apply only to tables"
        )
    if not is_sample_log(path, reading):
        raise InputError(
            f"{path} is not a sample log of lm-evaluation-harness; expected a .jsonl file with "
            "'doc_id' and 'filtered_resps' in each line"
        )
    questions, further = _questions(path, columns, reading)
    _check_columns(path, columns, further, reading)
    classes = _classes(questions)
    sizes = np.array([len(question.scores) for question in questions])
    available = np.arange(len(classes)) < sizes[:, None]
    probs = _probabilities(path, questions, classes, available, normalise)
    labels = correct_options(path, questions)
    _compare(path, questions, probs, labels, NORMALISE[normalise])
    _, task = _model_and_task(path)
    ids = [question.id for question in questions]
    fields = {
        "probs": probs,
        "classes": classes,
        "available": available,
        "labels": labels,
        "ids": None if None in ids else tuple(map(str, ids)),
        "name": log_name(path),
        "metadata": {"source": "lm-evaluation-harness", "normalise": normalise}
        | ({"task": task} if task else {}),
        "columns": {name: [values.get(name) for values in further] for name in columns},
    }
    return fields, lambda index: f"row {questions[index].row}"


def _questions(
    path: str | Path, columns: Sequence[str], reading: PredictionsReading
) -> tuple[list[Question], list[dict[str, str | None]]]:
    """Return the questions of a log, and the values of `columns` of each."""
    questions, further, filters = [], [], set()
    rows: list[int] = []
    for record in json_records(open_source(path, reading.table), rows):
        row = rows[-1]
        questions.append(read_question(path, row, record))
        further.append(_fields(path, row, record, columns))
        filters.add(shown(record.get("filter", "none")))
    if len(filters) > 1:
        raise InputError(
            f"{path} contains every question once per filter ({', '.join(sorted(filters))}); "
            "keep the lines of one filter"
        )
    return questions, further


def _fields(
    path: str | Path, row: int, record: Record, columns: Sequence[str]
) -> dict[str, str | None]:
    doc = record.get("doc")
    fields = doc if isinstance(doc, dict) else {}
    values = {name: fields[name] for name in columns if name in fields}
    try:
        return {name: None if value is None else as_text(value) for name, value in values.items()}
    except RecursionError:
        raise InputError(f"{path}, row {row}, 'doc': a value is nested too deeply") from None


def _check_columns(
    path: str | Path,
    columns: Sequence[str],
    further: Sequence[dict[str, str | None]],
    reading: PredictionsReading,
) -> None:
    for name in columns:
        if not any(name in fields for fields in further):
            known = log_columns(path, reading)
            raise InputError(f"{path}: {unknown_choice('field of doc', name, known)}")


def _probabilities(
    path: str | Path,
    questions: Sequence[Question],
    classes: Sequence[str],
    available: NDArray[np.bool_],
    normalise: str,
) -> NDArray[np.float64]:
    """Return [N, C]: the softmax over each question's options, 0 for missing options."""
    scores = np.concatenate([question.scores for question in questions])
    if normalise != "none":
        scores = scores / _lengths(path, questions, normalise)
    logits = np.empty(available.shape)
    logits[available] = scores
    softmax(str(path), logits, classes, available=available)
    return logits


def _lengths(
    path: str | Path, questions: Sequence[Question], normalise: str
) -> NDArray[np.float64]:
    for question in questions:
        if "" in question.texts or len(question.texts) != len(question.scores):
            raise InputError(
                f"{path}, row {question.row} has an option without text in 'arguments', so "
                f"normalise={normalise!r} cannot divide by its length; use 'none'"
            )
    texts = [text for question in questions for text in question.texts]
    if normalise == "bytes":
        return np.array([len(text.encode()) for text in texts], dtype=np.float64)
    return np.array([len(text) for text in texts], dtype=np.float64)


def _classes(questions: Sequence[Question]) -> tuple[str, ...]:
    size = max(len(question.scores) for question in questions)
    first = questions[0].texts
    names = [text.strip() for text in first]
    same = all(question.texts == first for question in questions)
    if same and len(names) == size and all(names) and len(set(names)) == size:
        return tuple(names)
    return tuple(_LETTERS[:size]) if size <= len(_LETTERS) else tuple(map(str, range(size)))


def _compare(
    path: str | Path,
    questions: Sequence[Question],
    probs: NDArray[np.float64],
    labels: NDArray[np.int64],
    key: str,
) -> None:
    """Log how often the harness's own verdict differs from labels and probabilities."""
    verdicts = np.array([question.verdicts.get(key, np.nan) for question in questions])
    comparable = (labels >= 0) & ((verdicts == 0) | (verdicts == 1))
    # the harness compares log-likelihoods in another precision, so near ties may differ
    differ = int((comparable & (verdicts != (probs.argmax(1) == labels))).sum())
    if differ:
        logger.warning(
            "%s: %r in the log differs from the result computed from 'target' and the "
            "log-likelihoods in %d of %d rows; the task may use its own scoring",
            shown_path(path),
            key,
            differ,
            int(comparable.sum()),
        )


def _model_and_task(path: str | Path) -> tuple[str, str]:
    """Parse the harness's directory and file names; empty strings for other names."""
    match = _NAME.fullmatch(Path(path).stem)
    if match is None:
        return "", ""
    return Path(path).absolute().parent.name.rpartition("__")[2], match["task"]
