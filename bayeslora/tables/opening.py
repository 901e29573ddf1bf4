"""Files of every format as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from bayeslora.errors import InputError
from bayeslora.plain_text import listed, shown
from bayeslora.tables.delimited import IrregularError, arrow_records, delimited_records, header_of
from bayeslora.tables.json_records import Record, json_records
from bayeslora.tables.parquet import ParquetTable
from bayeslora.tables.reading import DEFAULT, Reading
from bayeslora.tables.source import Source, open_source
from bayeslora.tables.table import PIECE, Piece, Table, names_of

_CELLS = 500_000  # fields that are Python objects at a time


def open_table(
    path: str | Path,
    reading: Reading = DEFAULT,
    *,
    shape: Callable[[Record], Record] | None = None,
    alike: Callable[[str], bool] | None = None,
) -> Table:
    """Return a file with its header read and its rows not yet.

    Args:
        path: A `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file; the text formats may be
            compressed by gzip, with `.gz` behind the name. Text is UTF-8, with or without a byte
            order mark. JSON is a list of objects, or an object a line.
        reading: How a text file is read that is not as its name says.
        shape: Applied to every JSON object.
        alike: Says of a key whether a JSON object may have it only if the first one does; every
            object must then have the keys that are read. None takes a missing key for null.

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
    return _json_table(source, shape, alike)


def _json_table(
    source: Source,
    shape: Callable[[Record], Record] | None,
    alike: Callable[[str], bool] | None,
) -> Table:
    first = list(islice(json_records(source, []), PIECE if alike is None else 1))
    if not first:
        raise InputError(f"{source} is empty; at least one row is needed")
    if shape is not None and alike is not None and shape(first[0]) is first[0]:
        shape = None  # what is not to be changed in the first object is in none that is like it
    if shape is not None:
        first = list(map(shape, first))
    names = names_of(first)

    def read(columns: Sequence[str], rows: int) -> Iterator[Piece]:
        places: list[int] = []
        records = json_records(source, places)
        if shape is not None:
            records = map(shape, records)
        before = 0
        while part := list(islice(records, rows)):
            if alike is not None:
                _check_alike(
                    source, places, part, names=frozenset(names), wanted=columns, alike=alike
                )
            there = set(columns) if alike else set(names_of(part))
            found = {name: [one.get(name) for one in part] for name in columns if name in there}
            yield Piece(found, places.copy(), before)
            places.clear()
            before += len(part)

    return Table(str(source), names, read)


def _check_alike(
    source: Source,
    rows: Sequence[int],
    records: Sequence[Record],
    *,
    names: frozenset[str],
    wanted: Sequence[str],
    alike: Callable[[str], bool],
) -> None:
    """Raise InputError if a record has other keys than the first one of the file."""
    for row, record in zip(rows, records, strict=True):
        if record.keys() == names:
            continue
        for name in wanted:
            if name not in record:
                raise InputError(
                    f"{source}, row {row} has no {shown(name)}, which the first row has; write "
                    "null where there is none"
                )
        for name in sorted(record.keys() - names):
            if alike(name):
                raise InputError(
                    f"{source}, row {row} has {shown(name)}, which the first row has not"
                )


def _check_distinct(names: Sequence[str], source: Source) -> None:
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{source} has the column {shown(twice)} more than once")


def _delimited_pieces(
    source: Source, names: Sequence[str], wanted: Sequence[str], size: int
) -> Iterator[Piece]:
    """Yield pieces by Arrow as far as the file is regular, and the rest by the csv module."""
    read = frozenset(wanted)
    chosen = [name for name in names if name in read] or list(names[:1])
    before = 0
    try:
        for rows, batch in arrow_records(source, names, chosen, size):
            yield Piece(dict(zip(chosen, batch.columns, strict=True)), rows, before)
            before += len(rows)
    except IrregularError:
        for piece in _plain_pieces(source, names, chosen, size):
            yield from piece.after(before)
            before = max(before, piece.before + len(piece.rows))
    if not before:
        raise InputError(f"{source} has a header ({listed(names)}) but no rows")


def _plain_pieces(
    source: Source, names: Sequence[str], chosen: Sequence[str], size: int
) -> Iterator[Piece]:
    read = frozenset(chosen)
    places = [(place, name) for place, name in enumerate(names) if name in read]
    size = min(size, max(1, _CELLS // len(names)))
    before = 0
    for rows, records in delimited_records(source, names, size):
        columns = {name: [one[place] or None for one in records] for place, name in places}
        yield Piece(columns, rows, before)
        before += len(rows)


def _parquet_pieces(table: ParquetTable, wanted: Sequence[str], size: int) -> Iterator[Piece]:
    read = frozenset(wanted)
    chosen = [name for name in table.names if name in read]
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
