"""Tables in pieces: whatever rows come from, they are read some at a time, as often as needed."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import is_hidden, shown
from bayeslora.tables.parquet import python_values

PIECE = 4096
"""Rows of a piece where nothing else is said."""

_LETTERS = 4  # of a name in which one wrong letter is taken for a slip


@dataclass(frozen=True)
class Piece:
    """Some rows in a row.

    Attributes:
        columns: [N] values by column name, None where a row has no value: lists of Python values,
            or `pyarrow` arrays where they come from Parquet.
        rows: [N] where each row is, counted from 1. In a text file it is the line on which the row
            begins, as an editor shows it.
        before: How many rows came earlier.
    """

    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int]
    before: int

    def after(self, count: int) -> list[Piece]:
        """Return the rows that are not among the first `count` of the table, in a list of one."""
        skip = max(0, count - self.before)
        if skip >= len(self.rows):
            return []
        columns = {name: values[skip:] for name, values in self.columns.items()}
        return [Piece(columns, self.rows[skip:], self.before + skip)]

    def where(self, position: int) -> str:
        """Return what messages call a row: `row 3`, with its number where rows share a line."""
        return _called(self.rows, position, self.before)


class RowNames:
    """Where the rows of many pieces are; eight bytes a row, none where rows are numbered."""

    def __init__(self) -> None:
        self._rows = array("q")

    def add(self, piece: Piece) -> None:
        """Note the rows of the next piece."""
        if not isinstance(piece.rows, range):
            self._rows.extend(piece.rows)

    def __call__(self, index: int) -> str:
        """Return what messages call the row at an index, from 0."""
        return _called(self._rows, index, 0) if self._rows else f"row {index + 1}"


@dataclass(frozen=True)
class Table:
    """Rows that are read a piece at a time.

    Attributes:
        source: The path of the file, or `<list>` and the like for data in memory.
        names: The names of the columns; of JSON records, those in the first `PIECE` records.
        read: Takes names of columns and rows a piece; yields pieces that have these columns, where
            they exist, and may have more.
        is_text: Whether every value was read from text, so that numbers are strings.
        schema: Types of the columns as a `pyarrow.Schema`, where the file says them.
        metadata: Notes in the file.
    """

    source: str
    names: tuple[str, ...]
    read: Callable[[Sequence[str], int], Iterator[Piece]]
    is_text: bool = False
    schema: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, columns: Sequence[str], rows: int = PIECE) -> Iterator[Piece]:
        """Yield all rows in order, `rows` of them at a time, from the beginning at each call.

        Raises:
            InputError: The file is broken further down.
        """
        return self.read(columns, rows)


def records_table(records: Sequence[Any], source: str) -> Table:
    """Return the table of a list of mappings; a key that a record lacks counts as None.

    Raises:
        InputError: There are no records, or one of them is not a mapping.
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
        columns: Those that can be read.
        names: Those that exist.
        source: What messages call the table.
        size: The number of rows.

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
        temporal_as_text: Whether dates, times and durations of Arrow become texts; some of them
            have no Python value.

    Raises:
        InputError: A value has neither.
    """
    if isinstance(values, list | tuple):
        return values
    return python_values(values, temporal_as_text=temporal_as_text)


def check_spelling(table: Table, name: str, advice: str) -> None:
    """Raise InputError if a column is missing and the name of another looks like a slip for it.

    Without it `Label`, `labels` or `lable` in place of `label` would silently mean that no row has
    one. A longer name, such as `label_source`, is another column.
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
    """Return a name without case, plural, spaces around it, and what cannot be seen in it."""
    composed = unicodedata.normalize("NFKC", name)
    seen = "".join(char for char in composed if not is_hidden(char))
    return seen.strip(" _-\t").casefold().removesuffix("s")


def _is_slip(found: str, meant: str) -> bool:
    """Return whether two names are equal but for one letter, or for two neighbours exchanged.

    Digits make other names (`label2`), and of short names most differ in one letter.
    """
    if found == meant:
        return True
    start = _num_shared(found, meant)
    end = _num_shared(found[start:][::-1], meant[start:][::-1])
    left, right = found[start : len(found) - end], meant[start : len(meant) - end]
    if len(meant) < _LETTERS or not (left + right).isalpha():
        return False
    return max(len(left), len(right)) == 1 or (len(left) == 2 and left == right[::-1])


def _num_shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    return next(
        (k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _called(rows: Sequence[int] | array[int], position: int, before: int) -> str:
    row = rows[position]
    near = rows[max(position - 1, 0) : position + 2]
    shared = sum(other == row for other in near) > 1
    return f"row {row}" + (f" (record {before + position + 1})" if shared else "")


def names_of(records: Iterable[Mapping[Any, Any]]) -> tuple[str, ...]:
    """Return the keys that records have, in order of appearance; only texts are names."""
    names = dict.fromkeys(chain.from_iterable(records))
    return tuple(name for name in names if isinstance(name, str))
