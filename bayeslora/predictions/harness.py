"""Sample logs of lm-evaluation-harness as predictions, for multiple-choice tasks.

With `--log_samples` the harness writes `samples_<task>_<date>.jsonl`, one object a question:

| key | content |
|---|---|
| `filtered_resps` | for each option its log-likelihood and whether it is greedy; else `resps` |
| `arguments` | for each option the context and the option's text |
| `target` | the right option: its index, its text, or its letter |
| `doc_id`, `doc` | number and columns of the question |
| `acc`, `acc_norm`, `acc_bytes` | whether the harness counted the question as right |

Older versions write numbers and lists. Newer ones write numbers as texts, and `arguments` as an
object of `gen_args_0` and so on, with `arg_0` and `arg_1`.

Probabilities are the softmax of the log-likelihoods over a question's options, as in the harness's
own Brier score. A question with fewer options than others does not have the last classes. The
classes are the options' texts where every question has the same, else letters.
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
from bayeslora.files import shown_path
from bayeslora.plain_text import shown
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading, Where, as_text
from bayeslora.tables.json_records import Record, json_records
from bayeslora.tables.source import open_source

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


logger = logging.getLogger(__name__)

NORMALISE = {"none": "acc", "characters": "acc_norm", "bytes": "acc_bytes"}
"""What a log-likelihood is divided by, with the accuracy that the harness computes from it."""

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
    """Return the model's and the task's name where the harness wrote them into the path."""
    return " ".join(filter(None, _model_and_task(path))) or Path(path).stem


def log_columns(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> list[str]:
    """Return the fields of the first question's `doc`, which can be kept as further columns."""
    doc = _first_record(path, reading).get("doc")
    return list(map(str, doc)) if isinstance(doc, dict) else []


def read_sample_log(
    path: str | Path,
    normalise: str = "none",
    columns: Sequence[str] = (),
    reading: PredictionsReading = AS_WRITTEN,
) -> tuple[dict[str, Any], Where]:
    """Return what a log says, as keyword arguments of `Predictions`, and what its rows are called.

    Args:
        path: A `.jsonl` file.
        normalise: What each option's log-likelihood is divided by before the softmax: `none`, its
            `characters`, or its `bytes`. The last two follow `acc_norm` and `acc_bytes`; a leading
            space is not counted.
        columns: Fields of `doc` to keep as further columns.
        reading: The encoding of the file.

    Raises:
        InputError: The file is no log of a multiple-choice task, or a value in it is wrong.
    """
    if normalise not in NORMALISE:
        raise unknown_choice("normalise", normalise, NORMALISE)
    if reading.probability_columns or reading.renormalise:
        raise InputError(
            f"{path} is a sample log: --probability-column and --renormalise are for tables"
        )
    if not is_sample_log(path, reading):
        raise InputError(
            f"{path} is not a sample log of lm-evaluation-harness: a .jsonl file is needed, with "
            "'doc_id' and 'filtered_resps' in each line"
        )
    questions, further, filters = [], [], set()
    rows: list[int] = []
    for record in json_records(open_source(path, reading.table), rows):
        row = rows[-1]
        questions.append(read_question(path, row, record))
        further.append(_fields(path, row, record, columns))
        filters.add(shown(record.get("filter", "none")))
    if len(filters) > 1:
        raise InputError(
            f"{path} holds every question once a filter ({', '.join(sorted(filters))}); keep the "
            "lines of one"
        )
    _check_columns(path, columns, further, reading)
    probs = _probabilities(path, questions, normalise)
    sizes = np.array([len(question.scores) for question in questions])
    labels = correct_options(path, questions)
    _compare(path, questions, probs, labels, NORMALISE[normalise])
    _, task = _model_and_task(path)
    ids = [question.id for question in questions]
    fields = {
        "probs": probs,
        "classes": _classes(questions),
        "available": np.arange(probs.shape[1]) < sizes[:, None],
        "labels": labels,
        "ids": None if None in ids else tuple(map(str, ids)),
        "name": log_name(path),
        "metadata": {"source": "lm-evaluation-harness", "normalise": normalise}
        | ({"task": task} if task else {}),
        "columns": {name: [kept.get(name) for kept in further] for name in columns},
    }
    return fields, lambda index: f"row {questions[index].row}"


def _fields(
    path: str | Path, row: int, record: Record, columns: Sequence[str]
) -> dict[str, str | None]:
    doc = record.get("doc")
    found = doc if isinstance(doc, dict) else {}
    values = {name: found[name] for name in columns if name in found}
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
    path: str | Path, questions: Sequence[Question], normalise: str
) -> NDArray[np.float64]:
    """Return [N, C]: the softmax over each question's options, 0 for those that it lacks."""
    sizes = np.array([len(question.scores) for question in questions])
    scores = np.concatenate([question.scores for question in questions])
    if normalise != "none":
        scores = scores / _lengths(path, questions, normalise)
    logits = np.full((len(questions), sizes.max()), -np.inf)
    logits[np.arange(sizes.max()) < sizes[:, None]] = scores
    logits -= logits.max(1, keepdims=True)
    np.exp(logits, out=logits)
    return np.asarray(logits / logits.sum(1, keepdims=True))


def _lengths(
    path: str | Path, questions: Sequence[Question], normalise: str
) -> NDArray[np.float64]:
    for question in questions:
        if "" in question.texts or len(question.texts) != len(question.scores):
            raise InputError(
                f"{path}, row {question.row} has an option without a text in 'arguments', and "
                f"normalise={normalise!r} divides by its length; choose 'none'"
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
    """Log where the harness's own verdict differs from what labels and numbers imply."""
    told = np.array([question.verdicts.get(key, np.nan) for question in questions])
    known = (labels >= 0) & ((told == 0) | (told == 1))
    # the harness compares log-likelihoods in another precision, so that near ties may differ
    differ = int((known & (told != (probs.argmax(1) == labels))).sum())
    if differ:
        logger.warning(
            "%s: %r in the log differs from what 'target' and the log-likelihoods give in %d of "
            "%d rows; the task may score its answers in a way of its own",
            shown_path(path),
            key,
            differ,
            int(known.sum()),
        )


def _model_and_task(path: str | Path) -> tuple[str, str]:
    """Return what the harness's own directory and file names say; empty where they are others."""
    found = _NAME.fullmatch(Path(path).stem)
    if found is None:
        return "", ""
    return Path(path).absolute().parent.name.rpartition("__")[2], found["task"]
