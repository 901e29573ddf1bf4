"""From raw columns to examples: every value is checked, and every complaint says where it is."""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from bayeslora.errors import InputError
from bayeslora.tasks.examples import Examples, Label
from bayeslora.tasks.messages import listed, shown
from bayeslora.tasks.tables import Table

_INTEGER = re.compile(r"(?:0|-?[1-9][0-9]*)(?:\.0)?")


@dataclass(frozen=True)
class DataColumns:
    """Which column of a table is what.

    Attributes:
        text: The text to classify.
        label: The label; it may be absent where labels are optional.
        pair: A second text, or None.

    Raises:
        InputError: Two of them are the same column.
    """

    text: str = "text"
    label: str = "label"
    pair: str | None = None

    def __post_init__(self) -> None:
        names = [name for name in (self.text, self.label, self.pair) if name is not None]
        if len({*names}) < len(names):
            raise InputError(
                "texts, second texts and labels need columns of their own: --text-column "
                f"{self.text!r}, --text-pair-column {self.pair!r}, --label-column {self.label!r}"
            )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of the columns that are read, where they exist."""
        return ("id", self.text, self.label, *([] if self.pair is None else [self.pair]))


def examples_from(
    table: Table,
    columns: DataColumns,
    labels: Literal["optional", "required"] = "optional",
    keep: Sequence[str] = (),
) -> Examples:
    """Return the examples in a table.

    Args:
        table: N raw rows.
        columns: The names of the columns to use. A column `id` is used where there is one, else
            the row number stands for it.
        labels: Whether a missing or empty label is an error.
        keep: Further columns to keep, as texts.

    Raises:
        InputError: A column is missing or a value is not allowed.
    """
    texts = _texts(table, columns.text, "text_column (--text-column)")
    pairs = None
    if columns.pair is not None:
        pairs = _texts(table, columns.pair, "pair_column (--text-pair-column)")
    return Examples(
        ids=_ids(table),
        texts=texts,
        pairs=pairs,
        labels=_labels(table, columns.label, required=labels == "required"),
        rows=table.rows,
        source=table.source,
        label_column=columns.label,
        further={name: _further(table, name) for name in keep},
    )


def _column(table: Table, name: str, option: str) -> Sequence[Any]:
    if name in table.names:
        return table.columns[name]
    if {"question", "choices"} <= set(table.names):
        raise InputError(
            f"{table.source} has no column {name!r} but looks like multiple choice; this version "
            "classifies texts. Where all rows share their choices, choose the columns with "
            "--text-column question --label-column answer_index"
        )
    near = get_close_matches(name, table.names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(
        f"{table.source} has no column {name!r}{hint}; its columns are {listed(table.names)}. "
        f"Choose with {option}"
    )


def _further(table: Table, name: str) -> tuple[str | None, ...]:
    """Return a column as texts; what is neither a text nor a number is written as JSON."""
    return tuple(map(_kept, _column(table, name, "keep (--keep)")))


def _kept(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _bad(table: Table, position: int, column: str, problem: str) -> InputError:
    return InputError(f"{table.source}, row {table.rows[position]}, column {column!r}: {problem}")


def _texts(table: Table, name: str, option: str) -> tuple[str, ...]:
    values = _column(table, name, option)
    for position, value in enumerate(values):
        problem = _text_problem(value)
        if problem:
            raise _bad(table, position, name, f"{problem}; a text that is not blank is needed")
    return tuple(map(str, values))


def _text_problem(value: object) -> str | None:
    if value is None:
        return "the text is missing or empty"
    if not isinstance(value, str):
        return f"{shown(value)} is not a string"
    if not value.strip():
        return f"the text {shown(value)} is blank"
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"{shown(value)} has half a surrogate pair, which is no character"
    return None


def _ids(table: Table) -> tuple[str, ...]:
    values = table.columns.get("id")
    if values is None or all(value is None for value in values):
        return tuple(map(str, table.rows))
    first: dict[str, int] = {}
    for position, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, str | numbers.Integral):
            what = "missing" if value is None else shown(value)
            raise _bad(
                table,
                position,
                "id",
                f"the id is {what}; a string or an integer is needed, or no id in any row",
            )
        earlier = first.setdefault(str(value), position)
        if earlier != position:
            raise _bad(
                table,
                position,
                "id",
                f"{shown(value)} is already the id of row {table.rows[earlier]}; ids must differ",
            )
    return tuple(first)


def _labels(table: Table, name: str, *, required: bool) -> tuple[Label, ...]:
    if name not in table.names and not required:
        return (None,) * len(table.rows)
    values = _column(table, name, "label_column (--label-column)")
    labels: list[Label] = []
    for position, value in enumerate(values):
        problem = _label_problem(value)
        if value is None and required:
            problem = "the label is missing, and every row needs one here"
        if problem:
            raise _bad(table, position, name, problem)
        labels.append(_label(value))
    return _integers_from_text(labels) if table.is_text else tuple(labels)


def _label_problem(value: object) -> str | None:
    allowed = "a label is a string or an integer (null or an empty CSV cell where unlabelled)"
    if value is None:
        return None
    if isinstance(value, str):
        return None if value.strip() else f"the label {shown(value)} is blank; {allowed}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return f"{shown(value)} is not allowed; {allowed}"
    if math.isfinite(value) and float(value).is_integer():
        return None
    return f"{shown(value)} is not allowed; {allowed}"


def _label(value: Any) -> Label:
    return value if value is None or isinstance(value, str) else int(value)


def _integers_from_text(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Return labels read from text as integers where all of them are plain integers.

    `007` is not one: two names that differ in the file must not become one class. `1.0` is, since
    that is how some programs write a column of integers with empty cells.
    """
    if all(label is None or _INTEGER.fullmatch(str(label)) for label in labels):
        return tuple(
            None if label is None else int(str(label).removesuffix(".0")) for label in labels
        )
    return tuple(labels)
