"""Questions with options: detected by their columns, with all values checked.

| column | content |
|---|---|
| `question` | text |
| `choices` | list of 2 to 20 texts; in CSV also one column each, `choice_1`, `choice_2` … |
| `answer` | the right option: index from 0, letter, or its text |
| `answer_index` | the same, by index alone; overrides `answer` |
| `context` or `passage` | text, optional |

A question about the next item has `history` (a list) instead of `question`, or in addition to it,
and may name its options `candidates`. Rows may differ in their number of options.
"""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bayeslora.data.columns import BadValueError, DataColumns, Reader, Rows, is_blank, text_value
from bayeslora.data.examples import LETTERS, Examples
from bayeslora.data.formats import Table
from bayeslora.plain_text import shown

QUESTIONS = DataColumns("question", "answer")
"""Default columns of questions."""

_NUMBERED = re.compile(r"(choice|candidate)_([0-9]+)")
_OTHER_NAMES = {
    "choices": ("choices", "candidates"),
    "answer": ("answer_index", "answer"),
    "context": ("context", "passage"),
}


def are_questions(names: Sequence[str]) -> bool:
    """Return whether a table with columns of these names holds questions with options.

    Tables with a history ask for the next item, and raise an error later if they have no
    candidates.
    """
    return "history" in names or ("question" in names and bool(_choice_columns(names)))


def _choice_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the column of lists of options, or a column for each option; empty without any."""
    for name in _OTHER_NAMES["choices"]:
        if name in names:
            return (name,)
    matches = [match for match in map(_NUMBERED.fullmatch, names) if match is not None]
    return tuple(match[0] for match in sorted(matches, key=lambda match: int(match[2])))


class QuestionReader(Reader):
    """Reads a table as questions with options.

    Columns with a usual name may have another usual name in the table.
    """

    def __init__(self, table: Table, columns: DataColumns, **options: Any) -> None:
        """Find the columns and check that they exist; see `Reader`."""
        names = table.names
        self._history = "history" if "history" in names else None
        text, label, pair = columns.text, columns.label, columns.pair
        if text == QUESTIONS.text and text not in names and self._history is not None:
            text = self._history
        if label in ("label", QUESTIONS.label):
            known = (name for name in _OTHER_NAMES["answer"] if name in names)
            label = next(known, QUESTIONS.label)
        if pair in (None, "context"):
            pair = next((name for name in _OTHER_NAMES["context"] if name in names), None)
        self._choices = _choice_columns(names) or ("candidates" if self._history else "choices",)
        super().__init__(table, replace(columns, text=text, label=label, pair=pair), **options)
        self._require(dict.fromkeys(self._choices, "choices, or choice_1, choice_2 and so on"))

    @property
    def _names(self) -> tuple[str, ...]:
        return (*super()._names, *self._choices, *filter(None, [self._history]))

    def _content(self, rows: Rows) -> dict[str, Any]:
        text, label, pair = self.columns.text, self.columns.label, self.columns.pair
        history = None
        if self._history is not None:
            lists = [self._list(record.get(self._history)) for _, record in rows]
            history = self._each(rows, self._history, _items, lists)
        texts = (
            tuple(map("\n".join, history))
            if history is not None and text == self._history
            else self._each(rows, text, text_value)
        )
        cells = [[record.get(name) for name in self._choices] for _, record in rows]
        choices = self._each(rows, self._choices[0], self._options, cells)
        answers = [
            (record.get(label), options) for (_, record), options in zip(rows, choices, strict=True)
        ]
        return {
            "texts": texts,
            "pairs": None if pair is None else self._each(rows, pair, _context),
            "labels": self._each(rows, label, self._answer, answers),
            "choices": choices,
            "history": history,
        }

    def _options(self, cells: list[Any]) -> tuple[str, ...]:
        """Return the options of a question, in a cell with a list or in one cell each."""
        if len(cells) == 1:
            return _options(self._list(cells[0]))
        count = max((place for place, cell in enumerate(cells, 1) if not is_blank(cell)), default=0)
        return _options(cells[:count])

    def _list(self, value: Any) -> Any:
        """Convert a value to a list: text formats store lists as JSON, and arrays have `tolist`."""
        if self.table.is_text and isinstance(value, str):
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                return value
        value = value.tolist() if hasattr(value, "tolist") else value
        return list(value) if isinstance(value, tuple) else value

    def _answer(self, pair: tuple[Any, tuple[str, ...]]) -> str | None:
        """Return the letter of the correct option."""
        value, options = pair
        by_index = self.columns.label == "answer_index"
        if value is None and self.required:
            raise BadValueError("the answer is missing; every row needs a value in this column")
        if value is None:
            return None
        last = len(options) - 1
        matches = set()
        if isinstance(value, str):
            if not by_index:
                matches |= {k for k, option in enumerate(options) if option == value}
                matches |= {k for k in range(last + 1) if LETTERS[k] == value.strip().upper()}
            if self.table.is_text and re.fullmatch(r"[0-9]{1,2}(\.0)?", value):
                matches |= {int(float(value))} & {*range(last + 1)}
        elif not isinstance(value, bool) and isinstance(value, numbers.Real):
            matches |= {*range(last + 1)} & {value}
        if len(matches) != 1:
            problem = "means several options" if matches else "is no option"
            raise BadValueError(
                f"{shown(value)} {problem}; expected an index from 0 to {last} (in a column "
                f"'answer_index'), a letter from A to {LETTERS[last]}, or the text of an option"
            )
        return LETTERS[int(matches.pop())]


def with_shuffled_options(questions: Examples, seed: int) -> Examples:
    """Return questions with the options of each in a random order of its own.

    Args:
        questions: Questions with options, labelled or not; labels follow their options.
        seed: Seed of the orders.
    """
    rng = np.random.default_rng(seed)
    choices, labels = [], []
    for options, label in zip(questions.choices or (), questions.labels, strict=True):
        order = rng.permutation(len(options)).tolist()
        choices.append(tuple(options[place] for place in order))
        is_known = label is not None
        labels.append(LETTERS[order.index(LETTERS.index(str(label)))] if is_known else None)
    return replace(questions, choices=tuple(choices), labels=tuple(labels))


def question_columns(examples: Examples) -> dict[str, tuple[str | None, ...]]:
    """Return further columns that make predictions of questions readable, by name.

    They are `question`, `context` if there is one, and `choices`, the options as a JSON list; empty
    for texts to classify.
    """
    if examples.choices is None:
        return {}
    columns: dict[str, tuple[str | None, ...]] = {"question": examples.texts}
    if examples.pairs is not None:
        columns["context"] = tuple(pair or None for pair in examples.pairs)
    lists = (json.dumps(options, ensure_ascii=False) for options in examples.choices)
    return {**columns, "choices": tuple(lists)}


def _options(values: Any) -> tuple[str, ...]:
    allowed = f"expected a list of 2 to {len(LETTERS)} different texts"
    if not isinstance(values, list):
        raise BadValueError(f"got {shown(values)}; {allowed}")
    options = tuple(map(text_value, values))
    if not 2 <= len({option.strip() for option in options}) == len(options) <= len(LETTERS):
        raise BadValueError(f"got {shown(values)}; {allowed}")
    return options


def _items(items: Any) -> tuple[str, ...]:
    if not isinstance(items, list) or not items:
        raise BadValueError(f"{shown(items)} is not a list of one or more texts")
    return tuple(map(text_value, items))


def _context(value: Any) -> str:
    return "" if is_blank(value) else text_value(value)
