"""Answers of decision models as records of predictions.

A line holds the answers to typed questions about a state, and their labels. Servers with the System
One API, OpenAI's and Gemini's, and transformers' decision pipeline differ in details:

| key | content |
|---|---|
| `answers` | answers by name of the question, or a list; in the line, `response` or its `body` |
| `labels` | right option by name of the question; `label` where there is one question |
| `state`, `questions` | what was asked, optional; also in `request`; OpenAI and Gemini: `input` |
| `diagnostics` | `label_mass` by name of the question, optional |

| type of answer | content |
|---|---|
| `noul`, `predicate` | probability of `true`: `noul` or `probability` |
| `choice` | `probabilities` by option, or a list of `value` and `probability` |
| `score` | the same by level from 0, whose texts are in `legend` or `label` |
| `refusal` | nothing; a question without an answer is left out |

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
from dataclasses import dataclass
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import counted, listed, shown

logger = logging.getLogger(__name__)

Record = dict[str, Any]

TYPE_COLUMN = "type"
"""Column with the type of question: `noul`, `choice` or `score`."""

_TYPES = {"noul": "noul", "predicate": "noul", "choice": "choice", "score": "score"}
_REFUSAL = "refusal"
_USED = frozenset(
    {"answers", "labels", "label", "questions", "request", "response", "diagnostics", "usage"}
)
_FEEDBACK = "prompt_feedback"  # of Gemini, instead of answers, if the input was blocked
_BOOLEANS = {"1": "true", "0": "false", "yes": "true", "no": "false"}
_ROUNDING = 0.01  # of probabilities to two decimals
_LOST = 0.01  # mean mass outside the options that is worth saying


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        row: Line of the file.
        line: Content of the line, with that of its request.
        name: Id of the line and name of the question, or None without an id.
        question: Name of the question.
        kind: `noul`, `choice` or `score`.
        state: What the question is about.
        probs: [M] normalised probabilities by option, in the order asked.
        mass: Probability of all options before normalising.
        label: The right option, or None.
        confidence: What the vendor calls so, or None.
    """

    row: int
    line: Record
    name: str | None
    question: str
    kind: str
    state: str
    probs: dict[str, float]
    mass: float
    label: str | None
    confidence: Any

    @property
    def prediction(self) -> str:
        """The most probable option, whatever the order."""
        return max(self.probs, key=lambda option: (self.probs[option], option))


def is_decision_log(first: Mapping[str, Any]) -> bool:
    """Return whether the first object of a file holds answers to typed questions."""
    body = _body(first)
    answers = body.get("answers")
    parts = [*answers.values()] if isinstance(answers, dict) else answers
    return _FEEDBACK in body or (
        isinstance(parts, list)
        and bool(parts)
        and all(
            isinstance(part, dict) and part.get("type") in {*_TYPES, _REFUSAL} for part in parts
        )
    )


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
    for row, record in rows:
        answered, left_out = _line_answers(f"{source}, row {row}", row, record)
        answers += answered
        refused += left_out
    if not answers:
        raise InputError(f"{source}: all {counted(refused, 'question')} were refused")
    metadata = {"source": "decision model", **_notes(source, answers, refused)}
    lettered = _lettered(answers)
    names = [
        [_letter(place) for place in range(len(answer.probs))]
        if answer.question in lettered
        else [*answer.probs]
        for answer in answers
    ]
    classes = sorted({name for options in names for name in options}, key=_sorting)
    optional: dict[str, list[Any]] = {
        "score_outside": [1 - answer.mass for answer in answers],
        "vendor_confidence": [answer.confidence for answer in answers],
        "id": _ids(answers),
    }
    extra = {key: values for key, values in optional.items() if any(values)}
    records = []
    for place, (answer, options) in enumerate(zip(answers, names, strict=True)):
        by_option = dict(zip(answer.probs, options, strict=True))
        probs: dict[str, float | None] = dict.fromkeys(classes)
        probs |= zip(options, answer.probs.values(), strict=True)
        record = {k: v for k, v in answer.line.items() if k not in _USED and not is_ours(k)}
        record |= {
            "label": None if answer.label is None else by_option[answer.label],
            "question": answer.question,
            TYPE_COLUMN: answer.kind,
            "state": answer.state,
            **{key: values[place] for key, values in extra.items()},
            **{f"prob_{name}": prob for name, prob in probs.items()},
        }
        records.append((answer.row, record))
    return records, metadata


def _notes(source: object, answers: Sequence[Answer], refused: int) -> dict[str, str]:
    """Return refusals, label mass and order flips as metadata; log what is worth saying."""
    notes = {}
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
        if answer.kind != "score":  # whose reversed levels have other texts
            asked_alike = answer.state, answer.question, frozenset(answer.probs)
            orders[asked_alike].setdefault(tuple(answer.probs), answer.prediction)
    pairs = [{*by_order.values()} for by_order in orders.values() if len(by_order) > 1]
    if pairs:
        flips = sum(len(predicted) > 1 for predicted in pairs)
        notes["order_flips"] = f"{flips} of {len(pairs)}"
        message = "%s: the answers to %s questions depend on the order of the options (%.0f %%)"
        logger.warning(message, source, notes["order_flips"], 100 * flips / len(pairs))
    return notes


def _lettered(answers: Sequence[Answer]) -> set[str]:
    """Return the questions whose options occur for fewer than two states on average."""
    options: dict[str, set[tuple[str, frozenset[str]]]] = defaultdict(set)
    for answer in answers:
        options[answer.question].add((answer.state, frozenset(answer.probs)))
    return {
        question
        for question, by_state in options.items()
        if len({names for _, names in by_state}) > 1
        and sum(len(names) for _, names in by_state)
        < 2 * len({name for _, names in by_state for name in names})
    }


def _letter(place: int) -> str:
    return string.ascii_uppercase[place] if place < len(string.ascii_uppercase) else str(place)


def _sorting(name: str) -> tuple[bool, int, str]:
    """Sort levels by number before names, so that two files agree on the classes."""
    is_level = name.isdecimal()
    return not is_level, int(name) if is_level else 0, name


def _ids(answers: Sequence[Answer]) -> list[str | None]:
    """Return the ids; those of a line that repeats another's in another order get a number."""
    order: dict[int, list[str]] = defaultdict(list)
    for answer in answers:
        order[answer.row] += answer.probs
    orders: dict[str | None, list[list[str]]] = defaultdict(list)
    ids = []
    for answer in answers:
        known = orders[answer.name]
        if order[answer.row] not in known:
            known.append(order[answer.row])
        number = known.index(order[answer.row])
        ids.append(f"{answer.name}#{number + 1}" if answer.name and number else answer.name)
    return ids


def _line_answers(where: str, row: int, record: Record) -> tuple[list[Answer], int]:
    """Return the answers of a line, and how many questions were refused."""
    body, request = _body(record), record.get("request")
    line = {**request, **record} if isinstance(request, dict) else record
    if "answers" not in body and _FEEDBACK in body:
        return [], max(len(_by_name(where, "questions", line.get("questions") or {})), 1)
    parts = _by_name(where, "answers", body.get("answers"))
    questions = _by_name(where, "questions", line.get("questions") or {})
    labels = line.get("labels")
    if labels is None and line.get("label") is not None:
        labels = dict.fromkeys(parts, line["label"])
        if len(parts) > 1:
            raise InputError(f"{where}: one 'label' for {len(parts)} questions; use 'labels'")
    labels = _by_name(where, "labels", labels or {})
    for name in labels:
        if name not in parts:
            raise InputError(f"{where}, 'labels': no question {shown(name)} in {listed([*parts])}")
    row_id = line.get("id", line.get("custom_id"))
    state = line.get("state", line.get("input", row_id))
    answers = []
    for name, part in parts.items():
        here = f"{where}, question {shown(name)}"
        if not isinstance(part, dict) or part.get("type") not in {*_TYPES, _REFUSAL}:
            raise InputError(f"{here}: {shown(part)} is not an answer with a type")
        if part["type"] == _REFUSAL:
            continue
        kind = _TYPES[part["type"]]
        probs, texts = _options(here, part)
        order = _order(questions.get(name))
        stated = {option: probs[option] for option in order} if {*order} == {*probs} else probs
        total = sum(stated.values())
        answers.append(
            Answer(
                row,
                line,
                None if row_id is None else str(row_id) + (f"/{name}" if len(parts) > 1 else ""),
                name,
                kind,
                f"row {row}" if state is None else _text(state),
                {option: prob / total for option, prob in stated.items()},
                min(_mass(here, name, part, body, total), 1.0),
                _label(here, labels.get(name), kind, probs, texts),
                part.get("confidence"),
            )
        )
    return answers, len(parts) - len(answers)


def _body(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object with the answers: the line, its response, or the body of that."""
    for key in ("response", "body"):
        inner = record.get(key)
        if "answers" not in record and isinstance(inner, dict):
            record = inner
    return record


def _by_name(where: str, key: str, value: Any) -> dict[str, Any]:
    """Return answers, questions or labels by name; those without a name are numbered."""
    if isinstance(value, list):
        names = [part.get("name") if isinstance(part, dict) else None for part in value]
        names = [str(place) if name is None else name for place, name in enumerate(names)]
        if len({*names}) == len(names):
            value = dict(zip(names, value, strict=True))
    if not isinstance(value, dict):
        raise InputError(f"{where}, {key!r}: expected values by name of the question")
    return value


def _options(where: str, part: Record) -> tuple[dict[str, float], dict[str, str]]:
    """Return the stated probability by option, and the options of a score by their texts."""
    if _TYPES[part["type"]] == "noul":
        true = _share(where, part.get("noul", part.get("probability")))
        return {"true": true, "false": max(1 - true, 0.0)}, {}
    stated: Any = part.get("probabilities")
    pairs: list[tuple[str, Any]] = []
    texts: dict[str, str] = {}
    with suppress(AttributeError, LookupError, TypeError):
        if isinstance(stated, list):
            pairs = [(_text(each["value"]), each["probability"]) for each in stated]
            texts = {each["label"]: _text(each["value"]) for each in stated if "label" in each}
        else:
            pairs = [*stated.items()]
            texts = {_text(text): level for level, text in part.get("legend", {}).items()}
    probs = {option: _share(where, value) for option, value in pairs}
    if len(probs) < 2 or len(probs) < len(pairs) or not 0 < sum(probs.values()) < 1 + _ROUNDING:
        raise InputError(f"{where}: {shown(stated)} are not probabilities of two or more options")
    return probs, texts


def _share(where: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1 + _ROUNDING:
        raise InputError(f"{where}: {shown(value)} is not a probability")
    return float(value)


def _mass(where: str, name: str, part: Record, body: Mapping[str, Any], total: float) -> float:
    """Return the label mass: as stated, else the sum of the probabilities unless that is 1."""
    stated = part.get("label_mass", part.get("option_mass"))
    with suppress(AttributeError, LookupError, TypeError):
        diagnostics = body["diagnostics"]
        stated = diagnostics.get("questions", diagnostics)[name]["label_mass"]
    return _share(where, stated) if stated is not None else total if total < 1 - 1e-5 else 1.0


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


def _order(question: Any) -> list[str]:
    """Return the options in the order asked, if the question has them."""
    if not isinstance(question, dict):
        return []
    options = question.get("criteria", question.get("choices"))
    if isinstance(options, dict):
        return [*options]
    with suppress(LookupError, TypeError):
        return [_text(each["value"]) for each in options or ()]
    return []


def _text(value: Any) -> str:
    """Return a value of JSON as text, an integer without decimals."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
