"""Predictions files of every format as Arrow tables of which some columns are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from bayeslora.data import formats
from bayeslora.data.formats import File, Record
from bayeslora.errors import InputError
from bayeslora.plain_text import shown
from bayeslora.predictions.columns import PredictionsReading, Where, as_text, row_number

FORMAT_VERSION = 1
UNCERTAINTIES = ("total", "aleatoric", "epistemic")
RESERVED = frozenset({"format_version", "name", "classes"})
PREFIX = "bayeslora."
"""Prefix of the keys of our Parquet metadata."""

_NUMERIC = ("prob_", "logit_", "score_")
NESTED = {"probs": "prob_", "logits": "logit_"}
_FIXED = frozenset({"id", "label", "prediction", "confidence", *UNCERTAINTIES, *NESTED})
_WORDS = frozenset({"true", "false", "1", "0", ""})
_PIECE = 65_536  # rows of JSON at a time

Kind = Literal["number", "truth", "text"]


@dataclass(frozen=True)
class Source:
    """Columns that have not been read yet.

    Attributes:
        name: Name of the file in messages.
        names: Names of the columns.
        read: Takes the kind of each column to read, by name; returns a `pyarrow.Table` with these
            columns. Numbers and truths of text formats are converted.
        where: Returns the name of a row in messages; after `read`.
        schema: Types of the columns, if the file has them.
        metadata: Our metadata, with keys without `PREFIX`.
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[Mapping[str, Kind]], Any]
    where: Where = row_number
    schema: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def is_ours(column: str) -> bool:
    """Return whether a column's name has a fixed meaning in predictions files."""
    return column in _FIXED or column.startswith((*_NUMERIC, "set_"))


def open_source(path: str | Path, reading: PredictionsReading) -> Source:
    """Open a predictions file, reading only its header.

    Raises:
        InputError: The file is missing, unreadable, empty, or of another format version.
    """
    file = formats.open_file(path, reading.table)
    source = (
        _parquet_source(file)
        if file.kind == ".parquet"
        else _csv_source(file)
        if file.is_csv
        else _json_source(file)
    )
    version = source.metadata.get("format_version", str(FORMAT_VERSION))
    if version != str(FORMAT_VERSION):
        raise InputError(
            f"{source.name} has predictions format version {shown(version)}; this version of "
            f"bayeslora supports version {FORMAT_VERSION}"
        )
    return source


def _parquet_source(file: File) -> Source:
    with formats.parquet_file(file) as parquet:
        schema = parquet.schema_arrow
    texts = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    metadata = {
        key.removeprefix(PREFIX): value for key, value in texts.items() if key.startswith(PREFIX)
    }

    def read(kinds: Mapping[str, Kind]) -> Any:
        with formats.parquet_file(file) as parquet:
            table = parquet.read([*kinds], use_threads=False)
            table.validate(full=True)
        return table

    return Source(str(file), tuple(schema.names), read, schema=schema, metadata=metadata)


def _csv_source(file: File) -> Source:
    header = formats.csv_header(file)

    def read(kinds: Mapping[str, Kind]) -> Any:
        import pyarrow as pa
        import pyarrow.csv

        types = {"number": pa.float64(), "truth": pa.bool_(), "text": pa.string()}
        with file.binary() as stream:
            content = stream.read()
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(content),
                pa.csv.ReadOptions(
                    use_threads=False,
                    block_size=min(len(content) + 1, 2**31 - 1),
                    encoding=file.reading.encoding or "utf8",
                ),
                pa.csv.ParseOptions(delimiter=file.delimiter, newlines_in_values=True),
                pa.csv.ConvertOptions(
                    include_columns=[*kinds],
                    column_types={name: types[kind] for name, kind in kinds.items()},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except (pa.ArrowException, UnicodeError) as error:
            _say_what_is_wrong(file, kinds)
            reason = str(error).partition("\n")[0]
            raise InputError(f"{file} cannot be read as CSV: {reason}") from None
        if content.count(b'"') % 2:  # Arrow takes everything after an unclosed mark for a field
            _say_what_is_wrong(file, kinds)
        return table

    def where(index: int) -> str:
        line, _ = next(islice(formats.csv_rows(file), index + 1, None))
        return f"row {line}"

    return Source(str(file), header, read, where)


def _say_what_is_wrong(file: File, kinds: Mapping[str, Kind]) -> None:
    """Raise InputError for the first row that Python cannot read either."""
    rows = formats.csv_rows(file)
    _, header = next(rows)
    for row, fields in rows:
        for name, cell in zip(header, fields, strict=True):
            kind = kinds.get(name)
            if kind == "number" and not _is_number(cell):
                raise bad_value(file, f"row {row}", name, f"{shown(cell)} is not a number")
            if kind == "truth" and cell.lower() not in _WORDS:
                raise bad_value(file, f"row {row}", name, f"{shown(cell)} is not a boolean")


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return "_" not in cell  # only Python allows it


def _json_source(file: File) -> Source:
    first = next((record for _, record in formats.json_rows(file)), None)
    if first is None:
        raise InputError(f"{file} is empty; at least one row is needed")
    names = tuple(_flat(first))
    known = {*names}
    rows: list[int] = []

    def read(kinds: Mapping[str, Kind]) -> Any:
        import pyarrow as pa

        tables = []
        rows.clear()
        for lines, records in formats.batches(formats.json_rows(file), _PIECE):
            flat = [_flat(record) for record in records]
            for line, record in zip(lines, flat, strict=True):
                if record.keys() != known:
                    _check_alike(file, line, record, names, kinds)
            tables.append(
                pa.table(
                    {
                        name: _json_column(file, lines, name, kind, [r.get(name) for r in flat])
                        for name, kind in kinds.items()
                    }
                )
            )
            rows.extend(lines)
        return pa.concat_tables(tables)

    return Source(str(file), names, read, lambda index: f"row {rows[index]}")


def _flat(record: Record) -> Record:
    """Return the row with `{"probs": {"a": 0.2}}` as `prob_a`, and the same for logits."""
    if NESTED.keys().isdisjoint(record) or any(n.startswith(("prob_", "logit_")) for n in record):
        return record
    flat: Record = {}
    for name, value in record.items():
        if name in NESTED and isinstance(value, dict):
            flat |= {f"{NESTED[name]}{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _check_alike(
    file: File, row: int, record: Record, names: Sequence[str], kinds: Mapping[str, Kind]
) -> None:
    """Raise InputError if a row lacks a column that is read, or has a further one of ours."""
    for name in kinds:
        if name not in record:
            raise InputError(
                f"{file}, row {row} has no {shown(name)}, but the first row does; write null for a "
                "missing value"
            )
    for name in sorted(record.keys() - {*names}):
        if is_ours(name):
            raise InputError(f"{file}, row {row} has {shown(name)}, but the first row does not")


def _json_column(
    file: File, rows: Sequence[int], name: str, kind: Kind, values: Sequence[Any]
) -> Any:
    import pyarrow as pa

    allowed = {int, float, type(None)} | ({bool} if kind == "truth" else set())
    if name == "id":
        allowed = {str, int, float, bool, type(None)}
    if kind != "text" or name == "id":
        bad = next((k for k, value in enumerate(values) if type(value) not in allowed), None)
        if bad is not None:
            nouns = {"number": "a number", "truth": "a boolean", "text": "a string or a number"}
            raise bad_value(
                file, f"row {rows[bad]}", name, f"{shown(values[bad])} is not {nouns[kind]}"
            )
    if kind == "text":
        return pa.array([as_text(value) for value in values], pa.string())
    try:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    except OverflowError:
        raise InputError(
            f"{file}: column {shown(name)} contains an integer too large for float64"
        ) from None


def bad_value(source: object, where: str, name: str, problem: str) -> InputError:
    """Return the error about a value of a column in a row."""
    return InputError(f"{source}, {where}, column {shown(name)}: {problem}")
