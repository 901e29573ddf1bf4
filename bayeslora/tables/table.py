"""Tables in pieces: whatever rows come from, they are read some at a time, as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.tables.delimited import delimited_records, header_of
from bayeslora.tables.json_records import Record, json_records
from bayeslora.tables.messages import listed, shown
from bayeslora.tables.parquet import ParquetTable, python_values
from bayeslora.tables.reading import DEFAULT, Reading
from bayeslora.tables.source import Source, open_source

PIECE = 4096
"""Rows of a piece where nothing else is said."""


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

    def where(self, position: int) -> str:
        """Return what messages call a row: `row 3`, with its number where rows share a line."""
        row = self.rows[position]
        near = self.rows[max(position - 1, 0) : position + 2]
        shared = sum(other == row for other in near) > 1
        return f"row {row}" + (f" (record {self.before + position + 1})" if shared else "")


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


def open_table(
    path: str | Path,
    reading: Reading = DEFAULT,
    *,
    shape: Callable[[Record], Record] | None = None,
    alike: bool = False,
) -> Table:
    """Return a file with its header read and its rows not yet.

    Args:
        path: A `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file; the text formats may be
            compressed by gzip, with `.gz` behind the name. Text is UTF-8, with or without a byte
            order mark. JSON is a list of objects, or an object a line.
        reading: How a text file is read that is not as its name says.
        shape: Applied to every JSON object.
        alike: Whether every JSON object must have the keys of the first.

    Raises:
        InputError: The file is missing, of another kind, empty, or broken at its beginning, or
            has a column twice.
    """
    source = open_source(path, reading)
    if source.kind == "parquet":
        parquet = ParquetTable(source)
        _check_distinct(parquet.names, source)
        return Table(
            str(source),
            parquet.names,
            lambda columns, rows: _parquet_pieces(parquet, columns, rows),
            schema=parquet.schema,
            metadata=parquet.metadata,
        )
    if source.kind == "delimited":
        header = header_of(source)
        _check_distinct(header, source)
        return Table(
            str(source),
            header,
            lambda columns, rows: _delimited_pieces(source, header, columns, rows),
            is_text=True,
        )
    return _json_table(source, shape, alike=alike)


def _json_table(source: Source, shape: Callable[[Record], Record] | None, *, alike: bool) -> Table:
    def records() -> Iterator[tuple[int, Record]]:
        found = json_records(source)
        return found if shape is None else ((row, shape(record)) for row, record in found)

    first = list(islice(records(), 1 if alike else PIECE))
    if not first:
        raise InputError(f"{source} is empty; at least one row is needed")
    names = _names_of(record for _, record in first)
    return Table(
        str(source),
        names,
        lambda columns, rows: _record_pieces(
            source, records(), columns, rows, names if alike else None
        ),
    )


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
    names = _names_of(records)
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
    """Raise InputError if a column is missing and another is the same but for case or a plural.

    Without it `Label` or `labels` in place of `label` would silently mean that no row has one.
    """
    if name in table.names:
        return
    for other in table.names:
        if _plain(other) == _plain(name):
            raise InputError(
                f"{table.source} has no column {shown(name)} but {shown(other)} (did you mean "
                f"{shown(other)}?); {advice}, or rename the column"
            )


def _plain(name: str) -> str:
    return name.strip(" _").casefold().removesuffix("s")


def _names_of(records: Iterable[Mapping[Any, Any]]) -> tuple[str, ...]:
    names = dict.fromkeys(chain.from_iterable(records))
    return tuple(name for name in names if isinstance(name, str))


def _check_distinct(names: Sequence[str], source: Source) -> None:
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{source} has the column {shown(twice)} more than once")


def _record_pieces(
    source: Source,
    records: Iterator[tuple[int, Record]],
    wanted: Sequence[str],
    size: int,
    names: Sequence[str] | None,
) -> Iterator[Piece]:
    before = 0
    while part := list(islice(records, size)):
        rows = [row for row, _ in part]
        if names is None:
            columns = {name: [one.get(name) for _, one in part] for name in wanted}
            there = set(_names_of(one for _, one in part))
            columns = {name: values for name, values in columns.items() if name in there}
        else:
            keys = frozenset(names)
            for row, one in part:
                if one.keys() != keys:
                    _check_alike(source, row, one, keys, wanted)
            columns = {name: [one[name] for _, one in part] for name in wanted}
        yield Piece(columns, rows, before)
        before += len(part)


def _check_alike(
    source: Source, row: int, record: Record, names: frozenset[str], wanted: Sequence[str]
) -> None:
    for name in wanted:
        if name not in record:
            raise InputError(
                f"{source}, row {row} has no {shown(name)}, which the first row has; write null "
                "where there is none"
            )
    for name in sorted(record.keys() - names):
        raise InputError(f"{source}, row {row} has {shown(name)}, which the first row has not")


def _delimited_pieces(
    source: Source, names: Sequence[str], wanted: Sequence[str], size: int
) -> Iterator[Piece]:
    places = [(place, name) for place, name in enumerate(names) if name in wanted]
    before = 0
    for rows, records in delimited_records(source, names, size):
        columns = {name: [one[place] or None for one in records] for place, name in places}
        yield Piece(columns, rows, before)
        before += len(rows)
    if not before:
        raise InputError(f"{source} has a header ({listed(names)}) but no rows")


def _parquet_pieces(table: ParquetTable, wanted: Sequence[str], size: int) -> Iterator[Piece]:
    chosen = [name for name in table.names if name in wanted]
    if not chosen:
        # Batches without columns would have no rows either.
        for start in range(0, table.num_rows, size):
            end = min(start + size, table.num_rows)
            yield Piece({}, range(start + 1, end + 1), start)
        return
    before = 0
    for batch in table.batches(chosen, size):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        end = before + batch.num_rows
        yield Piece(columns, range(before + 1, end + 1), before)
        before = end
