"""Answers of decision models as records of predictions.

A line holds the answers to typed questions about a state, and their labels. Servers with the System
One API, OpenAI's and Gemini's, and transformers' decision pipeline differ in details:

| key | content |
|---|---|
| `answers` | answers by name of the question, or a list; in the line, `response` or its `body` |
| `labels` | right option by name of the question; `label` where there is one question |
| `state`, `questions` | what was asked, optional; also in `request`; OpenAI and Gemini: `input` |
| `diagnostics` | objects with `label_mass` by name of the question, optional |

| type of answer | content |
|---|---|
| `noul`, `predicate` | probability of `true`: `noul` or `probability` |
| `choice` | `probabilities` by option, or a list of `value` and `probability` |
| `score` | the same by level from 0, whose texts are in `legend` or `label` |
| `refusal` | nothing; the question is left out, as is a line with Gemini's `prompt_feedback` |

Each answer becomes a row with the columns `question`, `type` and `state`. Answers about one state
are a cluster. The classes are the options of all questions; a row lacks those of other questions.
If the options of a question hardly recur, as in multiple choice, its classes are letters.

`confidence` is p_max in one API and (p_max − 1/M) / (1 − 1/M) in another. It is no probability
and becomes the column `vendor_confidence`. The label mass is the probability of all options
before they were normalised: as stated, else their sum. `score_outside` is the rest of it.
"""

from __future__ import annotations

import json
import logging
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import counted, listed, shown

logger = logging.getLogger(__name__)

Record = dict[str, Any]

TYPE_COLUMN = "type"
"""Column with the type of question: `noul`, `choice` or `score`."""

_REFUSAL = "refusal"
_TYPES = {"noul": "noul", "predicate": "noul"} | {n: n for n in ("choice", "score", _REFUSAL)}
_BOOLEANS = {"1": "true", "0": "false", "yes": "true", "no": "false"}
_USED = frozenset(
    {"answers", "labels", "label", "questions", "request", "response", "diagnostics", "usage"}
)
_TOO_MUCH = 1.01  # for a probability, or the sum of rounded ones
_LOST = 0.01  # mean mass outside the options that is worth saying


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        row: Line of the file.
        record: Columns of the row, but for label and probabilities.
        probs: [M] normalised probabilities by option, in the order asked.
        label: The right option, or None.
        mass: Probability of all options before normalising.
    """

    row: int
    record: Record
    probs: dict[str, float]
    label: str | None
    mass: float

    @property
    def prediction(self) -> str:
        """The most probable option, whatever the order."""
        return max(self.probs, key=lambda option: (self.probs[option], option))


def is_decision_log(first: Mapping[str, Any]) -> bool:
    """Return whether the first object of a file holds answers to typed questions."""
    body = _body(first)
    parts: Any = body.get("answers")
    parts = [*parts.values()] if isinstance(parts, dict) else parts
    is_list = isinstance(parts, list) and bool(parts)
    return all(map(_is_answer, parts)) if is_list else "prompt_feedback" in body


def decision_records(
    source: object, rows: Iterable[tuple[int, Record]], is_ours: Callable[[str], bool]
) -> tuple[list[tuple[int, Record]], dict[str, str]]:
    """Return the answers as rows of a predictions file, and the metadata.

    Args:
        source: Name of the file in messages.
        rows: Line and content of each object.
        is_ours: Whether a name has a fixed meaning in predictions files.

    Raises:
        InputError: A line has no answers or a wrong one, or all questions were refused.
    """
    answers: list[Answer] = []
    refused = 0
    orders: dict[Any, list[list[str]]] = defaultdict(list)
    for row, line in rows:
        answered, left_out = _line_answers(f"{source}, row {row}", row, line)
        refused += left_out
        order = [option for answer in answered for option in answer.probs]
        for answer in answered:
            record = {k: v for k, v in answer.record.items() if k == "id" or not is_ours(k)}
            if "id" in record:  # asked again in another order: the id gets a number
                known = orders[record["id"]]
                known += [] if order in known else [order]
                number = known.index(order) + 1
                record["id"] += f"#{number}" if number > 1 else ""
            answers.append(replace(answer, record=record))
    if not answers:
        raise InputError(f"{source}: all {counted(refused, 'question')} were refused")
    metadata = _notes(source, answers, refused)
    lettered = _lettered(answers)
    options = [
        {name: _letter(place) for place, name in enumerate(answer.probs)}
        if answer.record["question"] in lettered
        else {name: name for name in answer.probs}
        for answer in answers
    ]
    classes = sorted({name for names in options for name in names.values()}, key=_sorting)
    records = []
    for answer, names in zip(answers, options, strict=True):
        probs = {names[option]: prob for option, prob in answer.probs.items()}
        outside = {"score_outside": 1 - answer.mass} if "label_mass" in metadata else {}
        label = {"label": None if answer.label is None else names[answer.label]}
        by_class = {f"prob_{name}": probs.get(name) for name in classes}
        records.append((answer.row, answer.record | label | outside | by_class))
    return records, metadata


def _notes(source: object, answers: Sequence[Answer], refused: int) -> dict[str, str]:
    """Return refusals, label mass and order flips as metadata; log what is worth saying."""
    notes = {"source": "decision model"}
    if refused:
        notes["refused"] = f"{refused} of {refused + len(answers)}"
        logger.warning("%s: %s questions were refused and are left out", source, notes["refused"])
    mass = sum(answer.mass for answer in answers) / len(answers)
    if mass < 1:
        notes["label_mass"] = f"{mass:.4f}"
    if mass < 1 - _LOST:
        message = "%s: %.1f %% of the mass, on average, is outside the options; it is left out"
        logger.warning(message, source, 100 * (1 - mass))
    orders: dict[Any, dict[tuple[str, ...], str]] = defaultdict(dict)
    for answer in answers:
        if answer.record[TYPE_COLUMN] != "score":  # whose reversed levels have other texts
            same = answer.record["state"], answer.record["question"], frozenset(answer.probs)
            orders[same].setdefault(tuple(answer.probs), answer.prediction)
    pairs = [{*by_order.values()} for by_order in orders.values() if len(by_order) > 1]
    if pairs:
        flips = sum(len(predicted) > 1 for predicted in pairs)
        notes["order_flips"] = f"{flips} of {len(pairs)}"
        message = "%s: the answers to %s questions depend on the order of the options (%.0f %%)"
        logger.warning(message, source, notes["order_flips"], 100 * flips / len(pairs))
    return notes


def _lettered(answers: Sequence[Answer]) -> set[str]:
    """Return the questions whose options occur for fewer than two states on average."""
    by_question: dict[str, set[tuple[str, frozenset[str]]]] = defaultdict(set)
    for answer in answers:
        by_question[answer.record["question"]].add(
            (answer.record["state"], frozenset(answer.probs))
        )
    lettered = set()
    for question, by_state in by_question.items():
        sets = [names for _, names in by_state]
        rare = sum(map(len, sets)) < 2 * len(frozenset().union(*sets))
        lettered |= {question} if rare and len({*sets}) > 1 else set()
    return lettered


def _letter(place: int) -> str:
    return string.ascii_uppercase[place] if place < len(string.ascii_uppercase) else str(place)


def _sorting(name: str) -> tuple[bool, int, str]:
    """Sort levels by number before names, so that two files agree on the classes."""
    is_level = name.isdecimal()
    return not is_level, int(name) if is_level else 0, name


def _line_answers(where: str, row: int, line: Record) -> tuple[list[Answer], int]:
    """Return the answers of a line, and how many questions were refused."""
    body = _body(line)
    line = (line["request"] if isinstance(line.get("request"), dict) else {}) | line
    blocked = "prompt_feedback" in body and "answers" not in body
    parts = _by_name(where, "answers", {} if blocked else body.get("answers") or None)
    questions = _by_name(where, "questions", line.get("questions") or {})
    labels = line.get("labels") or {}
    if not labels and line.get("label") is not None:
        labels = dict.fromkeys([*parts][:1], line["label"])
        if len(parts) > 1:
            raise InputError(f"{where}: one 'label' for {len(parts)} questions; use 'labels'")
    labels = _by_name(where, "labels", labels)
    for name in labels if parts else ():
        if name not in parts:
            raise InputError(f"{where}, 'labels': no question {shown(name)} in {listed([*parts])}")
    row_id = line.get("id", line.get("custom_id"))
    state = line.get("state", line.get("input", f"row {row}" if row_id is None else row_id))
    free = {key: value for key, value in line.items() if key not in {*_USED, "id"}}
    answers = []
    for name, part in parts.items():
        here = f"{where}, question {shown(name)}"
        if not _is_answer(part):
            raise InputError(f"{here}: {shown(part)} is not an answer with a type")
        kind = _TYPES[part["type"]]
        if kind == _REFUSAL:
            continue
        probs, texts = _options(here, kind, part, questions.get(name))
        total = sum(probs.values())
        stated = part.get("label_mass", part.get("option_mass"))
        with suppress(AttributeError, LookupError, TypeError):
            stated = body["diagnostics"][name]["label_mass"]
        mass = _share(here, stated) if stated is not None else total if total < 1 - 1e-5 else 1.0
        record = {"question": name, TYPE_COLUMN: kind, "state": _text(state)}
        record |= {"vendor_confidence": part.get("confidence")}
        if row_id is not None:
            record["id"] = f"{row_id}/{name}" if len(parts) > 1 else str(row_id)
        probs = {option: prob / total for option, prob in probs.items()}
        label = _label(here, labels.get(name), kind, probs, texts)
        answers.append(Answer(row, free | record, probs, label, min(mass, 1.0)))
    return answers, max(len(parts) - len(answers), int(blocked))


def _body(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object with the answers: the line, its response, or the body of that."""
    for key in ("response", "body"):
        if "answers" not in line and isinstance(line.get(key), dict):
            line = line[key]
    return line


def _is_answer(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in [*_TYPES]


def _by_name(where: str, key: str, value: Any) -> dict[str, Any]:
    """Return answers, questions or labels by name; those without a name are numbered."""
    if isinstance(value, list):
        names = [part.get("name") if isinstance(part, dict) else None for part in value]
        names = [str(place) if name is None else str(name) for place, name in enumerate(names)]
        value = dict(zip(names, value, strict=True)) if len({*names}) == len(names) else None
    if not isinstance(value, dict):
        raise InputError(f"{where}, {key!r}: expected values by name of the question")
    return value


def _options(
    where: str, kind: str, part: Record, question: Any
) -> tuple[dict[str, float], dict[str, str]]:
    """Return probabilities by option, in the order asked, and the levels of a score by text."""
    stated: Any = part.get("probabilities")
    pairs: list[tuple[str, Any]] = []
    texts: dict[str, str] = {}
    order: list[str] = []
    if kind == "noul":
        true = _share(where, part.get("noul", part.get("probability")))
        pairs = [("true", true), ("false", max(1 - true, 0.0))]
    elif isinstance(stated, dict):
        pairs = [(_text(option), prob) for option, prob in stated.items()]
    with suppress(AttributeError, LookupError, TypeError):
        if isinstance(stated, list):
            pairs = [(_text(each["value"]), each["probability"]) for each in stated]
            texts = {each["label"]: _text(each["value"]) for each in stated if "label" in each}
        texts |= {_text(text): level for level, text in part.get("legend", {}).items()}
    with suppress(AttributeError, LookupError, TypeError):
        options = question.get("criteria", question.get("choices"))
        order = (
            [*options] if isinstance(options, dict) else [_text(each["value"]) for each in options]
        )
    probs = {option: _share(where, value) for option, value in pairs}
    if len(probs) < 2 or len(probs) < len(pairs) or not 0 < sum(probs.values()) < _TOO_MUCH:
        raise InputError(f"{where}: {shown(stated)} are not probabilities of two or more options")
    return {name: probs[name] for name in order if {*order} == {*probs}} or probs, texts


def _share(where: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _TOO_MUCH:
        raise InputError(f"{where}: {shown(value)} is not a probability")
    return float(value)


def _label(
    where: str, value: Any, kind: str, probs: Mapping[str, float], texts: Mapping[str, str]
) -> str | None:
    """Return the right option: as it is written, or the level with this text."""
    if value is None:
        return None
    name = _text(value)
    if kind == "noul":
        name = _BOOLEANS.get(name.casefold(), name.casefold())
    name = name if name in probs else texts.get(name, name)
    if name not in probs:
        raise InputError(f"{where}: the label {shown(value)} is not an option: {listed([*probs])}")
    return name


def _text(value: Any) -> str:
    """Return a value of JSON as valid Unicode, an integer without decimals."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text.encode(errors="replace").decode()
