"""Rows of CSV and TSV files, with the line on which each begins."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from bayeslora.errors import InputError
from bayeslora.tables.messages import listed
from bayeslora.tables.reading import ROW_LIMIT
from bayeslora.tables.source import Source, too_long

Rows = tuple[list[int], list[list[str]]]


def header_of(source: Source) -> tuple[str, ...]:
    """Return the names of the columns.

    Raises:
        InputError: The file has no row at all, or the first one is broken.
    """
    for _, (fields,) in _records(source, 1):
        return tuple(fields)
    raise InputError(f"{source} is empty; at least one row is needed")


def delimited_records(source: Source, names: Sequence[str], size: int) -> Iterator[Rows]:
    """Yield lines and fields of the rows below the header, `size` of them at a time.

    Blank lines are passed over.

    Raises:
        InputError: A row is broken, too long, or has more or fewer fields than the header.
    """
    is_first = True
    for rows, records in _records(source, size):
        if is_first:
            del rows[0], records[0]
            is_first = False
        for row, fields in zip(rows, records, strict=True):
            if len(fields) != len(names):
                delimiter = source.reading.delimiter_of(source.path)
                raise InputError(
                    f"{source}, row {row}: {len(fields)} fields, but the header has {len(names)} "
                    f"({listed(names)}); a field with {delimiter!r} or a line break inside needs "
                    "quotation marks"
                )
        if rows:
            yield rows, records


def _records(source: Source, size: int) -> Iterator[Rows]:
    """Yield all rows that are not blank, the header among them."""
    # A traceback may keep this frame, which must not keep the file open.
    with closing(source.lines(newline="")) as lines:
        delimiter = source.reading.delimiter_of(source.path)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        more = True
        while more:
            rows: list[int] = []
            records: list[list[str]] = []
            with _long_fields():
                while more and len(rows) < size:
                    row = reader.line_num + 1
                    try:
                        fields = next(reader)
                    except StopIteration:
                        more = False
                        continue
                    except csv.Error as error:
                        raise _broken(source, row, error) from None
                    if fields:
                        rows.append(row)
                        records.append(fields)
            if rows:
                yield rows, records


def _broken(source: Source, row: int, error: csv.Error) -> InputError:
    if "field limit" in str(error):
        return InputError(f"{source}, row {row}: {too_long()}; is a quotation mark left open?")
    return InputError(
        f"{source}, row {row}: {error}; a field that begins with a quotation mark must end with "
        "one, and one inside it is written twice"
    )


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read long fields; its limit is global, so it is put back."""
    limit = csv.field_size_limit(ROW_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
