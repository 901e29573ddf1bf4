"""Tables as Parquet or CSV files, read and written with errors that name the file and the row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import atomic_file

PREFIX = "bayeslora."
"""What the keys of our Parquet metadata start with."""

_BAD_NUMBER = re.compile(r"CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", re.DOTALL)


def write_table(
    path: str | Path, columns: Mapping[str, object], metadata: Mapping[str, str]
) -> None:
    """Write columns as `.parquet` or `.csv`, atomically.

    Args:
        path: Where to; the suffix chooses the format. An existing file is replaced.
        columns: Equally long arrays or lists by name, in order.
        metadata: Stored in the Parquet schema under `bayeslora.<key>`. CSV cannot hold it.

    Raises:
        InputError: The suffix is neither `.parquet` nor `.csv`, or a text is not valid Unicode.
    """
    kind = file_kind(path)
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    tagged = {f"{PREFIX}{key}": value for key, value in metadata.items()}
    try:
        table = pa.table(dict(columns)).replace_schema_metadata(tagged)
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name or a label is not valid Unicode: {error}") from None
    with atomic_file(path) as aside:
        if kind == ".csv":
            pa.csv.write_csv(table, aside)
        else:
            pa.parquet.write_table(table, aside)


def read_table(
    path: str | Path, is_numeric: Callable[[str], bool], texts: Sequence[str] = ()
) -> Any:
    """Return the file as a `pyarrow.Table`.

    Args:
        path: A `.parquet` or `.csv` file.
        is_numeric: Says of a column's name whether a CSV column of that name holds numbers.
        texts: Columns of a CSV file that are read as text beside `id` and `label`, so that `01`
            stays what it is.

    Raises:
        InputError: The file is missing or unreadable, has no rows, or repeats a column.
    """
    kind = file_kind(path)
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist or is not a file")
    table = _read_csv(path, is_numeric, texts) if kind == ".csv" else _read_parquet(path)
    for name, times in Counter(table.column_names).items():
        if times > 1:
            raise InputError(f"{path}: column {name!r} appears {times} times")
    if not table.num_rows:
        raise InputError(f"{path} has no rows")
    return table


def file_kind(path: str | Path) -> str:
    """Return the suffix of a predictions file, in lower case.

    Raises:
        InputError: It is neither `.parquet` nor `.csv`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in {".parquet", ".csv"}:
        raise InputError(f"{path}: a predictions file ends in .parquet or .csv, not {suffix!r}")
    return suffix


def _read_parquet(path: str | Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pa.parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from None


def _read_csv(path: str | Path, is_numeric: Callable[[str], bool], texts: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as handle:
            header = next(csv.reader(handle), [])
        types = {name: pa.float64() for name in header if is_numeric(name)}
        types |= dict.fromkeys(("id", "label", *texts), pa.string())
        return pa.csv.read_csv(
            path,
            # one thread: only then do Arrow's messages name the row
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid as error:
        if bad := _BAD_NUMBER.search(str(error)):
            column, row, value = header[int(bad[1])], int(bad[2]) - 1, bad[3]
            raise InputError(
                f"{path}: row {row}, column {column!r}: {value!r} is not a number"
            ) from None
        raise InputError(f"{path} cannot be read as CSV: {error}") from None
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from None
