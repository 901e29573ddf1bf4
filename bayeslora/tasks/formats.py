"""Files of examples as tables: JSON lines, JSON, CSV, TSV, Parquet.

Every error names the file and, where there is one, the line on which the bad row begins.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bayeslora.errors import InputError
from bayeslora.parquet import open_parquet
from bayeslora.tasks.json_records import json_lines, json_list
from bayeslora.tasks.messages import listed, shown
from bayeslora.tasks.tables import Table

_FIELD_LIMIT = 2**31 - 1  # the largest that every platform's C long can hold


def read_table(path: str | Path, wanted: Sequence[str]) -> Table:
    """Return the rows of a file.

    Args:
        path: A `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file. Text is UTF-8, with or
            without a byte order mark. A `.json` file holds a list of objects, or JSON lines.
        wanted: The columns to read where the format can leave out the others (Parquet).

    Raises:
        InputError: The file is missing, of another kind, empty, or broken.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"{file} is a directory; name a file ({_SUFFIXES})")
    if not file.exists():
        raise InputError(f"{file} does not exist")
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        kind = f"extension {file.suffix!r}" if file.suffix else "no extension"
        raise InputError(f"{file} has {kind}; choose from {_SUFFIXES}")
    try:
        return reader(file, wanted)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None


def _text_of(file: Path) -> str:
    data = file.read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} at offset {error.start} is not "
            "UTF-8; save the file as UTF-8"
        ) from None
    if not text.strip():
        raise InputError(f"{file} is empty; at least one row is needed")
    return text


def _read_json_lines(file: Path, _wanted: Sequence[str]) -> Table:
    return json_lines(_text_of(file), str(file))


def _read_json(file: Path, _wanted: Sequence[str]) -> Table:
    text = _text_of(file)
    is_list = text.lstrip().startswith("[")
    return json_list(text, str(file)) if is_list else json_lines(text, str(file))


def _read_delimited(delimiter: str, file: Path, _wanted: Sequence[str]) -> Table:
    with _long_fields():
        records = _delimited_records(_text_of(file), file, delimiter)
        _, names = next(records)
        _check_distinct(names, file)
        body = list(_checked_width(records, names, file, delimiter))
    if not body:
        raise InputError(f"{file} has a header ({listed(names)}) but no rows")
    values = zip(*(fields for _, fields in body), strict=True)
    columns = {
        name: [cell or None for cell in cells] for name, cells in zip(names, values, strict=True)
    }
    return Table(columns, tuple(names), tuple(row for row, _ in body), str(file), is_text=True)


def _check_distinct(names: Sequence[str], file: Path) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file} has the column {shown(twice)} more than once")


def _delimited_records(text: str, file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every record that is not a blank line, with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        row = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{file}, row {row}: {error}; a field that begins with a quotation mark must end "
                "with one, and one inside it is written twice"
            ) from None
        if fields:
            yield row, fields


def _checked_width(
    records: Iterator[tuple[int, list[str]]], names: Sequence[str], file: Path, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    for row, fields in records:
        if len(fields) != len(names):
            raise InputError(
                f"{file}, row {row}: {len(fields)} fields, but the header has {len(names)} "
                f"({listed(names)}); a field with {delimiter!r} or a line break inside needs "
                "quotation marks"
            )
        yield row, fields


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields of any length; its limit is global, so it is put back."""
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_parquet(file: Path, wanted: Sequence[str]) -> Table:
    import pyarrow as pa

    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty; at least one row is needed")
    try:
        with open_parquet(file) as parquet:
            names = tuple(parquet.schema_arrow.names)
            _check_distinct(names, file)
            table = parquet.read(columns=[name for name in names if name in wanted])
            table.validate(full=True)  # lengths and UTF-8, which reading alone lets through
            size = parquet.metadata.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file} cannot be read as Parquet: {reason}") from None
    if size == 0:
        raise InputError(f"{file} has columns ({listed(names)}) but no rows")
    if table.num_columns and table.num_rows != size:
        raise InputError(f"{file} is damaged: {table.num_rows} rows, but its footer says {size}")
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Table(columns, names, tuple(range(1, size + 1)), str(file))


_READERS: Mapping[str, Callable[[Path, Sequence[str]], Table]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": partial(_read_delimited, ","),
    ".tsv": partial(_read_delimited, "\t"),
    ".parquet": _read_parquet,
}
_SUFFIXES = ", ".join(_READERS)
