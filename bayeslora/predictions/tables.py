"""Tables as Parquet, CSV or JSON lines, with errors that name the file and the row.

Rows are read in pieces, so that a file never has to fit in memory beside the record made from it.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import atomic_file
from bayeslora.parquet import open_parquet, write_sealed
from bayeslora.predictions.lines import column_names, pieces_of_lines, write_lines

PREFIX = "bayeslora."
"""What the keys of our Parquet metadata start with."""

SUFFIXES = (".parquet", ".csv", ".jsonl")

_PIECE = 65_536  # rows; a piece of 150 columns is 80 MB
_BUFFER = 1 << 20  # bytes of a column that are read at a time, where Arrow would take all of it
_BAD_NUMBER = re.compile(r"CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", re.DOTALL)

Pieces = Callable[[Sequence[str]], Iterator[Any]]


@dataclass(frozen=True)
class TableFile:
    """A table on disk, its header read and its rows not yet.

    Attributes:
        path: Where it is.
        names: Its columns in order; distinct.
        pieces: Takes names of columns; yields `pyarrow.RecordBatch`es that hold at least these.
        schema: The types of the columns as `pyarrow.Schema` where the file says them, else None.
        metadata: Our notes in it, without `PREFIX`.
    """

    path: str | Path
    names: tuple[str, ...]
    pieces: Pieces
    schema: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def as_table(path: str | Path, columns: Mapping[str, object], metadata: Mapping[str, str]) -> Any:
    """Return columns as a `pyarrow.Table`.

    Args:
        path: The file that it is for.
        columns: Equally long arrays or lists by name, in order. Lists hold texts and None.
        metadata: Kept in the schema under `bayeslora.<key>`.

    Raises:
        InputError: A text is not valid Unicode.
    """
    import pyarrow as pa

    tagged = {f"{PREFIX}{key}": value for key, value in metadata.items()}
    try:
        # Without a type, a list that holds None alone would be a column of nothing.
        arrays = {
            name: pa.array(values, pa.string()) if isinstance(values, list) else values
            for name, values in columns.items()
        }
        return pa.table(arrays).replace_schema_metadata(tagged)
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name or a label is not valid Unicode: {error}") from None


def write_tables(path: str | Path, schema: Any, tables: Iterable[Any]) -> None:
    """Write tables one after the other as a `.parquet`, `.csv` or `.jsonl` file, atomically.

    Args:
        path: Where to; the suffix chooses the format. An existing file is replaced.
        schema: The `pyarrow.Schema` of the tables. Parquet alone holds its metadata.
        tables: `pyarrow.Table`s, taken one at a time.

    Raises:
        InputError: The suffix is none of the three.
    """
    kind = file_kind(path)
    import pyarrow as pa
    import pyarrow.csv

    with atomic_file(path) as aside:
        if kind == ".csv":
            with pa.csv.CSVWriter(aside, schema) as writer:
                for table in tables:
                    writer.write_table(table)
        elif kind == ".jsonl":
            write_lines((batch for table in tables for batch in table.to_batches(_PIECE)), aside)
        else:
            write_sealed(aside, schema, tables)


def open_table(
    path: str | Path, is_numeric: Callable[[str], bool], texts: Sequence[str] = ()
) -> TableFile:
    """Return a file with its header read.

    Args:
        path: A `.parquet`, `.csv` or `.jsonl` file.
        is_numeric: Says of a column's name whether a column of that name holds numbers.
        texts: Columns that are read as text beside `id` and `label`, so that `01` in a CSV file
            stays what it is.

    Raises:
        InputError: The file is missing or unreadable, or repeats a column; from `pieces`, it is
            broken further down.
    """
    kind = file_kind(path)
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist or is not a file")
    if kind == ".parquet":
        table = _open_parquet(path)
    elif kind == ".csv":
        table = _open_csv(path, is_numeric, texts)
    else:
        table = _open_lines(path, is_numeric)
    for name, times in Counter(table.names).items():
        if times > 1:
            raise InputError(f"{path}: column {name!r} appears {times} times")
    return table


def file_kind(path: str | Path) -> str:
    """Return the suffix of a predictions file, in lower case.

    Raises:
        InputError: It is none of `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: a predictions file ends in .parquet, .csv or .jsonl, not {suffix!r}"
        )
    return suffix


def _opened(path: str | Path, *, check_whole: bool) -> Any:
    return open_parquet(path, check_whole=check_whole, buffer_size=_BUFFER, pre_buffer=False)


def _open_parquet(path: str | Path) -> TableFile:
    def pieces(columns: Sequence[str]) -> Iterator[Any]:
        with _readable(path, "Parquet"), _opened(path, check_whole=False) as file:
            yield from file.iter_batches(_PIECE, columns=list(columns), use_threads=False)

    with _readable(path, "Parquet"), _opened(path, check_whole=True) as file:
        schema = file.schema_arrow
        raw = schema.metadata or {}
        pairs = ((key.decode(), value) for key, value in raw.items())
        ours = {
            key.removeprefix(PREFIX): value.decode()
            for key, value in pairs
            if key.startswith(PREFIX)
        }
    return TableFile(path, tuple(schema.names), pieces, schema, ours)


def _open_lines(path: str | Path, is_numeric: Callable[[str], bool]) -> TableFile:
    names = column_names(path)
    return TableFile(
        path, names, lambda columns: pieces_of_lines(path, names, columns, is_numeric, _PIECE)
    )


def _open_csv(
    path: str | Path, is_numeric: Callable[[str], bool], texts: Sequence[str]
) -> TableFile:
    import pyarrow as pa
    import pyarrow.csv

    with _readable(path, "CSV"), Path(path).open(encoding="utf-8-sig", newline="") as handle:
        header = next(csv.reader(handle), [])
        if not header:
            raise InputError(f"{path} cannot be read as CSV: it is empty")
        has_rows = any(line.strip() for line in handle)
    types = {name: pa.float64() for name in header if is_numeric(name)}
    types |= dict.fromkeys(("id", "label", *texts), pa.string())

    def pieces(columns: Sequence[str]) -> Iterator[Any]:
        if not has_rows:
            return
        convert = pa.csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            include_columns=list(columns),
        )
        with _readable(path, "CSV", header):
            yield from pa.csv.open_csv(
                path,
                # one thread: only then do Arrow's messages name the row
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 24),
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=convert,
            )

    return TableFile(path, tuple(header), pieces)


@contextmanager
def _readable(path: str | Path, kind: str, header: Sequence[str] = ()) -> Iterator[None]:
    """Turn what a reader complains of into an error that names the file, and the row if known."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError, csv.Error) as error:
        bad = _BAD_NUMBER.search(str(error))
        if header and bad:
            column, row, value = header[int(bad[1])], int(bad[2]) - 1, bad[3]
            message = f"{path}: row {row}, column {column!r}: {value!r} is not a number"
        else:
            message = f"{path} cannot be read as {kind}: {error}"
        raise InputError(message) from None
