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
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.formats import Record, json_rows, open_file
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import shown_path
from bayeslora.plain_text import shown
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading, Where, as_text, softmax

logger = logging.getLogger(__name__)

NORMALISE = {"none": "acc", "characters": "acc_norm", "bytes": "acc_bytes"}
"""Normaliser of the log-likelihoods -> the accuracy that the harness computes with it."""

_UNLABELLED = frozenset({"", "-1", "-100"})
_NAME = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.:-]+")


@dataclass(frozen=True)
class Question:
    """A question with M options.

    Attributes:
        where: Path and row of the question, for messages.
        record: The line of the log.
        scores: [M] log-likelihoods.
        texts: [M] options without a leading space; empty if the log has none.
        target: The correct option as written in the log, as text; empty if missing.
    """

    where: str
    record: Record
    scores: list[float]
    texts: list[str]
    target: str


def is_sample_log(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> bool:
    """Return whether a file is a sample log, by the keys of its first object.

    Raises:
        InputError: The file cannot be read.
    """
    keys = _first_record(path, reading).keys()
    return bool(keys & {"resps", "filtered_resps"}) and bool(keys & {"doc", "doc_id"})


def _first_record(path: str | Path, reading: PredictionsReading) -> Record:
    file = open_file(path, reading.table)
    return next((r for _, r in json_rows(file)), {}) if file.kind in (".json", ".jsonl") else {}


def log_name(path: str | Path) -> str:
    """Return the names of model and task from the path of a log, else the file's stem."""
    match = _NAME.fullmatch(Path(path).stem)
    if match is None:
        return Path(path).stem
    return f"{Path(path).absolute().parent.name.rpartition('__')[2]} {match['task']}".strip()


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
    rows = dict(json_rows(open_file(path, reading.table)))
    questions = [_question(f"{path}, row {row}", record) for row, record in rows.items()]
    filters = {shown(record.get("filter", "none")) for record in rows.values()}
    if len(filters) > 1:
        raise InputError(
            f"{path} contains every question once per filter ({', '.join(sorted(filters))}); "
            "keep the lines of one filter"
        )
    docs = [doc if isinstance(doc := record.get("doc"), dict) else {} for record in rows.values()]
    for name in columns:
        if not any(name in doc for doc in docs):
            raise InputError(
                f"{path}: {unknown_choice('field of doc', name, log_columns(path, reading))}"
            )
    classes = _classes(questions)
    sizes = np.array([len(question.scores) for question in questions])
    available = np.arange(len(classes)) < sizes[:, None]
    probs = np.empty(available.shape)
    probs[available] = np.concatenate([_normalised(question, normalise) for question in questions])
    softmax(str(path), probs, classes, available=available)
    labels = _labels(questions)
    _compare(path, questions, probs.argmax(1) == labels, labels >= 0, NORMALISE[normalise])
    ids = [as_text(record.get("doc_id")) for record in rows.values()]
    match = _NAME.fullmatch(Path(path).stem)
    fields = {
        "probs": probs,
        "classes": classes,
        "available": available,
        "labels": labels,
        "ids": None if None in ids else tuple(map(str, ids)),
        "name": log_name(path),
        "metadata": {"source": "lm-evaluation-harness", "normalise": normalise}
        | ({"task": match["task"]} if match else {}),
        "columns": {name: [as_text(doc.get(name)) for doc in docs] for name in columns},
    }
    numbers = list(rows)
    return fields, lambda index: f"row {numbers[index]}"


def _question(where: str, record: Record) -> Question:
    """Return the question of one line of a log.

    Raises:
        InputError: It lacks log-likelihoods of two or more options, or has several correct options.
    """
    responses = record.get("filtered_resps")
    if not isinstance(responses, list):
        responses = [_first(response) for response in _as_list(record.get("resps"))]
    try:
        scores = [float(_first(response)) for response in responses]
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{where}: the responses {shown(responses)} are not log-likelihoods; only "
            "multiple-choice tasks are supported, not text generation"
        ) from None
    arguments = record.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = [[*pair.values()] for pair in arguments.values() if isinstance(pair, Mapping)]
    pairs = [pair for pair in _as_list(arguments) if isinstance(pair, list) and len(pair) > 1]
    texts = [str(text).removeprefix(" ") for _, text, *_ in pairs]
    # For mutual information the options are scored again, without a context.
    if len(pairs) == len(scores) and any(context for context, *_ in pairs):
        with_context = [index for index, (context, *_) in enumerate(pairs) if context]
        scores, texts = [scores[k] for k in with_context], [texts[k] for k in with_context]
    if len(scores) < 2:
        raise InputError(
            f"{where} has fewer than two log-likelihoods; only multiple-choice tasks, with at "
            "least two options, are supported"
        )
    for option, score in enumerate(scores, 1):
        if not np.isfinite(score):
            raise InputError(f"{where}, option {option}: log-likelihood {score} is not finite")
    target = as_text(_single(record.get("target"))) or ""
    if target.startswith("[") and target.endswith("]"):
        raise InputError(
            f"{where}, 'target': {shown(target)} may list several correct options; predictions "
            "have one label per row"
        )
    return Question(where, record, scores, texts, "" if target in _UNLABELLED else target)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _single(target: Any) -> Any:
    """Return the value of a list of one, which newer versions write as text."""
    if isinstance(target, str) and re.fullmatch(r"\[\d+\]", target):
        return target[1:-1]
    return target[0] if isinstance(target, list) and len(target) == 1 else target


def _labels(questions: Sequence[Question]) -> NDArray[np.int64]:
    """Return the [N] indices of the correct options, -1 where the log has none.

    A log's targets are all indices, all texts of the question's options, or all letters: whichever
    fits most rows, with ties resolved in this order.

    Raises:
        InputError: A target does not match an option; the message names the row.
    """
    kinds: tuple[Callable[[Question], int], ...] = (_by_index, _by_text, _by_letter)
    candidates = [[parse(question) for question in questions] for parse in kinds]
    labels = np.array(max(candidates, key=lambda indices: sum(k >= 0 for k in indices)))
    for question, label in zip(questions, labels.tolist(), strict=True):
        if question.target and not 0 <= label < len(question.scores):
            raise InputError(
                f"{question.where}, 'target': {shown(question.target)} is not one of the "
                f"{len(question.scores)} options; use an index from 0, an option's text, or a "
                "letter, the same kind in every row"
            )
    return labels


def _by_index(question: Question) -> int:
    return int(question.target) if re.fullmatch(r"[0-9]{1,9}", question.target) else -1


def _by_text(question: Question) -> int:
    texts, text = [option.strip() for option in question.texts], question.target.strip()
    return texts.index(text) if text and text in texts else -1


def _by_letter(question: Question) -> int:
    text = question.target.strip(" ().").upper()
    return string.ascii_uppercase.find(text) if len(text) == 1 else -1


def _normalised(question: Question, normalise: str) -> NDArray[np.float64]:
    """Return the log-likelihoods divided by the lengths of the options."""
    scores = np.array(question.scores)
    if normalise == "none":
        return scores
    if "" in question.texts or len(question.texts) != len(scores):
        raise InputError(
            f"{question.where} has an option without text in 'arguments', so "
            f"normalise={normalise!r} cannot divide by its length; use 'none'"
        )
    is_bytes = normalise == "bytes"
    lengths = [len(text.encode()) if is_bytes else len(text) for text in question.texts]
    return np.asarray(scores / lengths)


def _classes(questions: Sequence[Question]) -> tuple[str, ...]:
    size = max(len(question.scores) for question in questions)
    first = questions[0].texts
    names = tuple(text.strip() for text in first)
    same = all(question.texts == first for question in questions)
    if same and len(names) == size and all(names) and len(set(names)) == size:
        return names
    letters = string.ascii_uppercase
    return tuple(letters[:size]) if size <= len(letters) else tuple(map(str, range(size)))


def _compare(
    path: str | Path,
    questions: Sequence[Question],
    is_right: NDArray[np.bool_],
    is_labelled: NDArray[np.bool_],
    key: str,
) -> None:
    """Log how often the harness's own verdict differs from labels and probabilities."""
    verdicts = [question.record.get(key) for question in questions]
    known = np.array([verdict in (0, 1) for verdict in verdicts]) & is_labelled
    # The harness compares log-likelihoods in another precision, so near ties may differ.
    differ = int((known & (np.array([verdict == 1 for verdict in verdicts]) != is_right)).sum())
    if differ:
        logger.warning(
            "%s: %r in the log differs from the result computed from 'target' and the "
            "log-likelihoods in %d of %d rows; the task may use its own scoring",
            shown_path(path),
            key,
            differ,
            int(known.sum()),
        )
