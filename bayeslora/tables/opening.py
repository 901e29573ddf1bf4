"""Open files of all formats as tables."""

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

_CELLS = 500_000  # maximum number of fields held as Python objects


def open_table(
    path: str | Path,
    reading: Reading = DEFAULT,
    *,
    shape: Callable[[Record], Record] | None = None,
    alike: Callable[[str], bool] | None = None,
) -> Table:
    """Open a file as a table, reading only its header.

    Args:
        path: A `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file; text formats may be compressed
            by gzip, with the suffix `.gz`. Text is UTF-8, with or without a byte order mark. JSON
            is a list of objects, or one object per line.
        reading: Options for text files that deviate from their suffix.
        shape: Function applied to every JSON object.
        alike: Function of a key: whether a JSON object may have it only if the first object has it;
            every object must then have the keys that are read. None treats a missing key as null.

    Raises:
        InputError: The file is missing, of another kind, empty, or broken at its start, or has a
            repeated column.
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
        shape = None  # if the first object is unchanged, so are objects with the same keys
    if shape is not None:
        first = list(map(shape, first))
    names = names_of(first)

    def read(columns: Sequence[str], rows: int) -> Iterator[Piece]:
        row_numbers: list[int] = []
        records = json_records(source, row_numbers)
        if shape is not None:
            records = map(shape, records)
        before = 0
        while part := list(islice(records, rows)):
            if alike is not None:
                _check_alike(
                    source, row_numbers, part, names=frozenset(names), columns=columns, alike=alike
                )
            present = set(columns) if alike else set(names_of(part))
            values = {
                name: [record.get(name) for record in part] for name in columns if name in present
            }
            yield Piece(values, row_numbers.copy(), before)
            row_numbers.clear()
            before += len(part)

    return Table(str(source), names, read)


def _check_alike(
    source: Source,
    rows: Sequence[int],
    records: Sequence[Record],
    *,
    names: frozenset[str],
    columns: Sequence[str],
    alike: Callable[[str], bool],
) -> None:
    """Raise InputError if the keys of a record differ from those of the first record."""
    for row, record in zip(rows, records, strict=True):
        if record.keys() == names:
            continue
        for name in columns:
            if name not in record:
                raise InputError(
                    f"{source}, row {row} has no {shown(name)}, but the first row does; write "
                    "null for a missing value"
                )
        for name in sorted(record.keys() - names):
            if alike(name):
                raise InputError(
                    f"{source}, row {row} has {shown(name)}, but the first row does not"
                )


def _check_distinct(names: Sequence[str], source: Source) -> None:
    if len(set(names)) < len(names):
        seen: set[str] = set()
        repeated = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{source} has a duplicate column {shown(repeated)}")


def _delimited_pieces(
    source: Source, names: Sequence[str], columns: Sequence[str], size: int
) -> Iterator[Piece]:
    """Yield pieces parsed by Arrow while the file is regular, and the rest by the csv module."""
    read = frozenset(columns)
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
    indices = [(index, name) for index, name in enumerate(names) if name in read]
    size = min(size, max(1, _CELLS // len(names)))
    before = 0
    for rows, records in delimited_records(source, names, size):
        columns = {name: [fields[index] or None for fields in records] for index, name in indices}
        yield Piece(columns, rows, before)
        before += len(rows)


def _parquet_pieces(table: ParquetTable, columns: Sequence[str], size: int) -> Iterator[Piece]:
    read = frozenset(columns)
    chosen = [name for name in table.names if name in read]
    if not chosen:
        # Batches without columns would have no rows either.
        for start in range(0, table.num_rows, size):
            end = min(start + size, table.num_rows)
            yield Piece({}, range(start + 1, end + 1), start)
        return
    before = 0
    for batch in table.batches(chosen, size):
        values = dict(zip(batch.schema.names, batch.columns, strict=True))
        end = before + batch.num_rows
        yield Piece(values, range(before + 1, end + 1), before)
        before = end
