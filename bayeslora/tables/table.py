"""Tables that can be read repeatedly in pieces, whatever the source of the rows."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import shown, visible
from bayeslora.tables.parquet import python_values

PIECE = 4096
"""Default number of rows per piece."""

_LETTERS = 4  # minimum length of names in which one wrong letter counts as a slip


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a table.

    Attributes:
        columns: [N] values by column name, None for missing values: lists of Python values, or
            `pyarrow` arrays from Parquet and regular text files.
        rows: [N] row numbers, from 1. For text files, the line on which the row begins, as shown by
            an editor.
        before: Number of earlier rows.
    """

    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int]
    before: int

    def after(self, count: int) -> list[Piece]:
        """Return the rows beyond the first `count` of the table, as a list of at most one piece."""
        skip = max(0, count - self.before)
        if skip >= len(self.rows):
            return []
        columns = {name: values[skip:] for name, values in self.columns.items()}
        return [Piece(columns, self.rows[skip:], self.before + skip)]

    def where(self, position: int) -> str:
        """Return the name of a row for messages, with its record number if rows share a line."""
        return _row_name(self.rows, position, self.before)


class RowNames:
    """Row numbers of many pieces; eight bytes per row, or none if rows are consecutive."""

    def __init__(self) -> None:
        self._rows = array("q")

    def add(self, piece: Piece) -> None:
        """Add the rows of the next piece."""
        if not isinstance(piece.rows, range):
            self._rows.extend(piece.rows)

    def __call__(self, index: int) -> str:
        """Return the name of the row at an index, from 0, for messages."""
        return _row_name(self._rows, index, 0) if self._rows else f"row {index + 1}"


@dataclass(frozen=True)
class Table:
    """Rows that are read in pieces.

    Attributes:
        source: Path of the file, or a placeholder such as `<list>` for data in memory.
        names: Names of the columns; for JSON, those in the first `PIECE` records.
        read: Function of column names and rows per piece; yields pieces that have these columns, if
            they exist, and may have more.
        is_text: Whether all values were read from text, so that numbers are strings.
        schema: Types of the columns as a `pyarrow.Schema`, if the file has them.
        metadata: Metadata of the file.
    """

    source: str
    names: tuple[str, ...]
    read: Callable[[Sequence[str], int], Iterator[Piece]]
    is_text: bool = False
    schema: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, columns: Sequence[str], rows: int = PIECE) -> Iterator[Piece]:
        """Yield all rows in order, `rows` at a time, from the start at each call.

        Raises:
            InputError: The file is broken at a later row.
        """
        return self.read(columns, rows)


def records_table(records: Sequence[Any], source: str) -> Table:
    """Return the table of a list of mappings; missing keys count as None.

    Raises:
        InputError: There are no records, or a record is not a mapping.
    """
    if not records:
        raise InputError(f"{source} is empty; at least one row is needed")
    for row, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise InputError(
                f"{source}, row {row}: expected an object with columns such as "
                f'{{"text": …, "label": …}}, got {shown(record)}'
            )
    names = names_of(records)
    columns = {name: [record.get(name) for record in records] for name in names}
    return columns_table(columns, names, source, len(records))


def columns_table(
    columns: Mapping[str, Sequence[Any]], names: Sequence[str], source: str, size: int
) -> Table:
    """Return the table of equally long columns in memory.

    Args:
        columns: Columns that can be read.
        names: Names of all columns.
        source: Name of the table for messages.
        size: Number of rows.

    Raises:
        InputError: There are no rows.
    """
    if not size:
        raise InputError(f"{source} is empty; at least one row is needed")

    def read(_wanted: Sequence[str], rows: int) -> Iterator[Piece]:
        for before in range(0, size, rows):
            end = min(before + rows, size)
            part = {name: values[before:end] for name, values in columns.items()}
            yield Piece(part, range(before + 1, end + 1), before)

    return Table(source, tuple(names), read)


def plain_values(values: Any, *, temporal_as_text: bool = False) -> Sequence[Any]:
    """Return the values of a column of a piece as Python values.

    Args:
        values: Python values, or a `pyarrow` array.
        temporal_as_text: Whether to convert Arrow's dates, times and durations to texts; some of
            them have no Python value.

    Raises:
        InputError: A value has no Python value.
    """
    if isinstance(values, list | tuple):
        return values
    return python_values(values, temporal_as_text=temporal_as_text)


def check_spelling(table: Table, name: str, advice: str) -> None:
    """Raise InputError if a column is missing and another name looks like a misspelling of it.

    Otherwise `Label`, `labels` or `lable` instead of `label` would silently mean that no row has a
    label. A longer name, such as `label_source`, is a different column.
    """
    if name in table.names:
        return
    for other in table.names:
        if _is_slip(_plain(other), _plain(name)):
            raise InputError(
                f"{table.source} has no column {shown(name)} but {shown(other)} (did you mean "
                f"{shown(other)}?); {advice}, or rename the column"
            )


def _plain(name: str) -> str:
    """Normalise a name: case, plural, surrounding spaces and invisible characters."""
    composed = unicodedata.normalize("NFKC", name)
    seen = "".join(char for char in composed if visible(char) == char)
    return seen.strip(" _-\t").casefold().removesuffix("s")


def _is_slip(name: str, expected: str) -> bool:
    """Return whether two names differ in one letter or by a transposition of neighbours.

    Digits make different names (`label2`), and most short names differ in one letter.
    """
    if name == expected:
        return True
    start = _num_shared(name, expected)
    end = _num_shared(name[start:][::-1], expected[start:][::-1])
    left, right = name[start : len(name) - end], expected[start : len(expected) - end]
    if len(expected) < _LETTERS or not (left + right).isalpha():
        return False
    return max(len(left), len(right)) == 1 or (len(left) == 2 and left == right[::-1])


def _num_shared(first: str, second: str) -> int:
    """Return the length of the common prefix of two texts."""
    return next(
        (k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


def _row_name(rows: Sequence[int] | array[int], position: int, before: int) -> str:
    row = rows[position]
    near = rows[max(position - 1, 0) : position + 2]
    shared = sum(other == row for other in near) > 1
    return f"row {row}" + (f" (record {before + position + 1})" if shared else "")


def names_of(records: Iterable[Mapping[Any, Any]]) -> tuple[str, ...]:
    """Return the string keys of records, in order of appearance."""
    names = dict.fromkeys(chain.from_iterable(records))
    return tuple(name for name in names if isinstance(name, str))
