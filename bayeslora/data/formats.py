"""Files of rows as tables: JSON by `json`, CSV by `csv`, Parquet by Arrow.

Rows have the line on which they begin, as an editor shows it, so errors can name it; in a JSON
list they are counted. Everything is read row by row, except a JSON list, which is held in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from bayeslora.errors import InputError
from bayeslora.plain_text import listed, shown

Record = dict[str, Any]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Supported suffixes; text formats may also end in `.gz`."""

LONGEST_FIELD = 2**24
"""Characters of a field in CSV; a longer one is an unclosed quotation mark."""

_PACKED = ".gz"
_NAMING = 4096  # records of JSON that name the columns
_BATCH = 2048  # rows of Parquet that are converted at a time


@dataclass(frozen=True)
class Table:
    """Rows as their source has them.

    Attributes:
        source: Path of the file, or a placeholder such as `<list>` for data in memory.
        names: Names of the columns; for JSON, those in the first thousands of records.
        rows: Function of column names; yields number and values of every row in order, from the
            start at each call. Rows have these columns, None or absent if missing, and may have
            more. Numbers count from 1, or are the line on which a row of a text file begins.
        is_text: Whether all values were read from text, so that numbers are strings.
    """

    source: str
    names: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[tuple[int, Record]]]
    is_text: bool = False


@dataclass(frozen=True)
class Reading:
    """How rows are read, where a file does not say it itself.

    Attributes:
        delimiter: Delimiter of a `.csv` or `.tsv` file, one character or `tab`; by default a comma
            or a tab, depending on the suffix.
        encoding: Encoding of a text file, by its Python name; UTF-8 by default.
        kind: `text-classification` or `multiple-choice`; None infers it from the columns.
        optional: Further columns to keep if there are such columns.

    Raises:
        InputError: The delimiter is not one character, or the encoding is unknown.
    """

    delimiter: str | None = None
    encoding: str | None = None
    kind: str | None = None
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            character = "\t" if self.delimiter == "tab" else self.delimiter
            if len(character) != 1 or character in '"\r\n\0':
                raise InputError(
                    "delimiter must be one character, such as ';', or 'tab', "
                    f"got {shown(self.delimiter)}"
                )
            object.__setattr__(self, "delimiter", character)
        if self.encoding is not None:
            try:
                "a".encode(self.encoding)
            except LookupError as error:
                raise InputError(f"encoding: {error}") from None


DEFAULT = Reading()


@dataclass(frozen=True)
class File:
    """A regular file of rows.

    Attributes:
        path: Path of the file.
        kind: Format of its rows: its suffix without `.gz`.
        reading: Options of text formats.
    """

    path: Path
    kind: str
    reading: Reading

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_csv(self) -> bool:
        """Whether its rows are delimited fields."""
        return self.kind in (".csv", ".tsv")

    @property
    def delimiter(self) -> str:
        """Character between two fields."""
        return self.reading.delimiter or ("\t" if self.kind == ".tsv" else ",")

    @contextmanager
    def binary(self) -> Iterator[IO[bytes]]:
        """Open the file as decompressed bytes.

        Raises:
            InputError: Reading fails, also inside the block.
        """
        try:
            is_packed = self.path.suffix.lower() == _PACKED
            with gzip.open(self.path) if is_packed else self.path.open("rb") as stream:
                yield stream  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{self} cannot be decompressed with gzip: {error}") from None
        except OSError as error:
            raise InputError(f"{self} cannot be read: {error.strerror or error}") from None

    @contextmanager
    def text(self, newline: str) -> Iterator[io.TextIOWrapper]:
        """Open the file as text, without a byte order mark.

        Args:
            newline: Line ending, as for `open`.

        Raises:
            InputError: Reading or decoding fails, also inside the block.
        """
        encoding = codecs.lookup(self.reading.encoding or "utf-8").name
        try:
            with self.binary() as stream:
                name = "utf-8-sig" if encoding == "utf-8" else encoding
                yield io.TextIOWrapper(stream, name, newline=newline)
        except UnicodeError as error:
            if encoding in ("utf-8", "utf-8-sig"):
                raise self._not_utf8() from None
            raise InputError(f"{self} cannot be read with encoding {encoding!r}: {error}") from None

    def _not_utf8(self) -> InputError:
        place = ""
        with self.binary() as stream:
            for row, line in enumerate(stream, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as bad:
                    place = f", row {row}: byte 0x{line[bad.start]:02x}"
                    break
        return InputError(
            f"{self}{place} is not UTF-8; save the file as UTF-8, or set its encoding, such as "
            "latin-1 or utf-16 (--set encoding=latin-1)"
        )


def open_file(path: str | Path, reading: Reading = DEFAULT) -> File:
    """Open a file after checking its name and type.

    Raises:
        InputError: The file does not exist, is a directory, is empty, or has an unsupported suffix.
    """
    file = Path(path)
    opened = File(file, kind_of(file), reading)
    if not file.is_file():
        raise InputError(f"{file} is a directory" if file.is_dir() else f"{file} does not exist")
    if not file.stat().st_size:
        raise InputError(f"{file} is empty; at least one row is needed")
    return opened


def kind_of(path: Path) -> str:
    """Return the suffix of a file, without `.gz`, in lower case.

    Raises:
        InputError: The suffix is not supported.
    """
    suffix = path.suffix.lower()
    kind = Path(path.stem).suffix.lower() if suffix == _PACKED else suffix
    if kind not in SUFFIXES or (kind == ".parquet" and suffix == _PACKED):
        raise InputError(
            f"{path} has no known extension; choose from {', '.join(SUFFIXES)} (text formats also "
            f"with {_PACKED})"
        )
    return kind


def open_table(path: str | Path, reading: Reading = DEFAULT) -> Table:
    """Open a file as a table, reading only its header.

    Args:
        path: A `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file; text formats may be compressed
            by gzip, with the suffix `.gz`. Text is UTF-8, with or without a byte order mark. JSON
            is a list of objects, or one object per line.
        reading: Options for text files that deviate from their suffix.

    Raises:
        InputError: The file is missing, of another kind, empty, or broken at its start, or has a
            repeated column.
    """
    file = open_file(path, reading)
    if file.kind == ".parquet":
        return _parquet_table(file)
    if file.is_csv:
        return csv_table(file)
    first = [record for _, record in islice(json_rows(file), _NAMING)]
    if not first:
        raise InputError(f"{file} is empty; at least one row is needed")
    names = dict.fromkeys(name for record in first for name in record)
    return Table(str(file), tuple(names), lambda _names: json_rows(file))


def csv_table(file: File) -> Table:
    """Return the rows of a delimited file, with None for empty cells.

    Raises:
        InputError: The file has no rows, or a name is repeated.
    """
    rows = _csv_rows(file)
    header = tuple(next(rows, (0, {}))[1])
    if next(rows, None) is None:
        raise InputError(f"{file} is empty; at least one row is needed")
    return Table(str(file), header, lambda _names: islice(_csv_rows(file), 1, None), is_text=True)


def check_distinct(names: Sequence[str], source: object) -> None:
    """Raise InputError if a column is repeated."""
    if len(set(names)) < len(names):
        repeated = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{source} has a duplicate column {shown(repeated)}")


def _csv_rows(file: File) -> Iterator[tuple[int, Record]]:
    """Yield the line and the cells of each row that is not blank, beginning with the header.

    Raises:
        InputError: A row is broken, or has more or fewer fields than the header; or a column is
            repeated.
    """
    csv.field_size_limit(LONGEST_FIELD)  # texts are longer than the default of 131,072 characters
    header: list[str] = []
    with file.text(newline="") as lines:
        reader = csv.reader(lines, delimiter=file.delimiter, strict=True)
        row = 1
        try:
            for fields in reader:
                if fields and not header:
                    header = fields
                    check_distinct(header, file)
                    yield row, dict.fromkeys(header)
                elif fields:
                    if len(fields) != len(header):
                        raise InputError(
                            f"{file}, row {row}: {len(fields)} fields, but the header has "
                            f"{len(header)} ({listed(header)}); quote fields that contain "
                            f"{file.delimiter!r} or a line break"
                        )
                    yield row, dict(zip(header, (field or None for field in fields), strict=True))
                row = reader.line_num + 1
        except csv.Error as error:
            raise InputError(
                f"{file}, row {row}: {error}; check for an unclosed quotation mark, and double "
                "quotation marks inside a quoted field"
            ) from None


def json_rows(file: File) -> Iterator[tuple[int, Record]]:
    """Yield the number and the content of each object.

    A file whose first character is `[` is a list, whose objects are counted from 1; other files
    have one object per line, numbered by their lines, and blank lines are skipped.

    Raises:
        InputError: The file is not JSON or not a sequence of objects.
    """
    is_first = True
    with file.text(newline="\n") as lines:
        for row, line in enumerate(lines, 1):
            text = line.strip(" \t\r\n")
            if is_first and text.startswith("["):
                for number, record in enumerate(_decoded(file, row, line + lines.read()), 1):
                    yield number, _object(file, number, record)
                return
            if text:
                is_first = False
                yield row, _object(file, row, _decoded(file, row, text))


def _decoded(file: File, row: int, text: str) -> Any:
    """Return the value of JSON that begins on a line."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            row, reason = row + error.lineno - 1, f"{error.msg}, column {error.colno}"
        raise InputError(
            f"{file}, row {row}: invalid JSON ({reason}) in {shown(text)}; "
            "expected one object per line, or a list of objects"
        ) from None


def _object(file: File, row: int, value: Any) -> Record:
    if not isinstance(value, dict):
        raise InputError(
            f'{file}, row {row}: expected an object with columns such as {{"text": …, "label": …}}'
            f", got {shown(value)}"
        )
    return value


@contextmanager
def parquet_file(file: File) -> Iterator[Any]:
    """Yield a `pyarrow.parquet.ParquetFile` whose page checksums are verified.

    Raises:
        InputError: The file is not Parquet, is damaged, or has no rows; also inside the block.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(
            file.path, page_checksum_verification=True, buffer_size=2**20, pre_buffer=False
        ) as parquet:
            if not parquet.metadata.num_rows:
                raise InputError(f"{file} is empty; at least one row is needed")
            check_distinct(parquet.schema_arrow.names, file)
            yield parquet
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file} cannot be read as Parquet: {reason}") from None


def _parquet_table(file: File) -> Table:
    with parquet_file(file) as parquet:
        header = tuple(parquet.schema_arrow.names)

    def rows(names: Sequence[str]) -> Iterator[tuple[int, Record]]:
        # A batch without columns would have no rows either.
        chosen = [name for name in header if name in names] or [header[0]]
        row = 0
        with parquet_file(file) as parquet:
            for batch in parquet.iter_batches(_BATCH, columns=chosen, use_threads=False):
                batch.validate(full=True)
                for values in zip(*map(python_values, batch.columns), strict=True):
                    row += 1
                    yield row, dict(zip(batch.schema.names, values, strict=True))

    return Table(str(file), header, rows)


def python_values(column: Any) -> list[Any]:
    """Return the values of an Arrow array, plain or chunked; dates and times as texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_temporal(column.type):
        column = pc.cast(column, pa.string())
    values: list[Any] = column.to_pylist()
    return values
