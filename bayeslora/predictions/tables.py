"""Columns written as Parquet, CSV or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import atomic_file
from bayeslora.parquet import write_sealed
from bayeslora.tables.parquet import PREFIX

SUFFIXES = (".parquet", ".csv", ".jsonl")
"""What a predictions file that is written may end in."""

_PIECE = 65_536  # rows; a piece of 150 columns is 80 MB


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
            _write_lines((batch for table in tables for batch in table.to_batches(_PIECE)), aside)
        else:
            write_sealed(aside, schema, tables)


def file_kind(path: str | Path) -> str:
    """Return the suffix of a predictions file to write, in lower case.

    Raises:
        InputError: It is none of `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: a predictions file is written as .parquet, .csv or .jsonl, not {suffix!r}"
        )
    return suffix


def _write_lines(batches: Iterable[Any], path: Path) -> None:
    """Write `pyarrow.RecordBatch`es as one JSON object a row; every bit of a number is kept."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for batch in batches:
            rows = (
                json.dumps(row, ensure_ascii=False, allow_nan=False) for row in batch.to_pylist()
            )
            out.writelines(f"{row}\n" for row in rows)
