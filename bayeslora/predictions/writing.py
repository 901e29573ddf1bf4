"""A record as the columns of a predictions file: Parquet, CSV or JSON lines; `files` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file
from bayeslora.predictions.files import FORMAT_VERSION, UNCERTAINTIES
from bayeslora.tables.parquet import PREFIX, write_sealed

SUFFIXES = (".parquet", ".csv", ".jsonl")
"""Suffixes of predictions files to write."""

_PIECE = 65_536  # rows; a piece of 150 columns is 80 MB


def as_table(path: str | Path, columns: Mapping[str, object], metadata: Mapping[str, str]) -> Any:
    """Return columns as a `pyarrow.Table`.

    Args:
        path: The target file, for error messages.
        columns: Equally long arrays or lists by name, in order. Lists hold texts and None; masked
            values of an array become null.
        metadata: Stored in the schema under `bayeslora.<key>`.

    Raises:
        InputError: A text is not valid Unicode.
    """
    import pyarrow as pa

    tagged = {f"{PREFIX}{key}": value for key, value in metadata.items()}
    try:
        # Without a type, a list of None only would become a null column.
        arrays = {
            name: pa.array(values, pa.string())
            if isinstance(values, list)
            else pa.array(values.data, mask=values.mask)
            if isinstance(values, np.ma.MaskedArray)
            else values
            for name, values in columns.items()
        }
        return pa.table(arrays).replace_schema_metadata(tagged)
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name or label is not valid Unicode: {error}") from None


def write_tables(path: str | Path, schema: Any, tables: Iterable[Any]) -> None:
    """Write tables one after the other as a `.parquet`, `.csv` or `.jsonl` file, atomically.

    Args:
        path: The target file; the suffix selects the format. An existing file is replaced.
        schema: The `pyarrow.Schema` of the tables. Only Parquet stores its metadata.
        tables: `pyarrow.Table`s, consumed one at a time.

    Raises:
        InputError: The suffix is none of the three.
    """
    kind = file_kind(path)
    import pyarrow as pa
    import pyarrow.csv

    with atomic_file(path) as temporary:
        if kind == ".csv":
            with pa.csv.CSVWriter(temporary, schema) as writer:
                for table in tables:
                    writer.write_table(table)
        elif kind == ".jsonl":
            _write_lines(
                (batch for table in tables for batch in table.to_batches(_PIECE)), temporary
            )
        else:
            write_sealed(temporary, schema, tables)


def file_kind(path: str | Path) -> str:
    """Return the suffix of a predictions file to write, in lower case.

    Raises:
        InputError: The suffix is not in `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: the predictions file must end in .parquet, .csv or .jsonl, got {suffix!r}"
        )
    return suffix


def _write_lines(batches: Iterable[Any], path: Path) -> None:
    """Write `pyarrow.RecordBatch`es as one JSON object per row; numbers are stored exactly."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for batch in batches:
            rows = (
                json.dumps(row, ensure_ascii=False, allow_nan=False) for row in batch.to_pylist()
            )
            out.writelines(f"{row}\n" for row in rows)


def write_fields(fields: Mapping[str, Any], path: str | Path) -> None:
    """Write a `.parquet`, `.csv` or `.jsonl` file; see `Predictions.save`.

    Args:
        fields: Fields of `Predictions` by name, with `prediction` and `confidence`.
        path: The target file.

    Raises:
        InputError: The suffix is none of the three, or a name is not valid Unicode.
    """
    fixed = {
        "format_version": str(FORMAT_VERSION),
        "name": fields["name"],
        "classes": json.dumps(fields["classes"], ensure_ascii=False),
    }
    table = as_table(path, file_columns(fields), {**fields["metadata"], **fixed})
    write_tables(path, table.schema, [table])


def data_frame(fields: Mapping[str, Any]) -> Any:
    """Return a `pandas.DataFrame` with the columns of the file; see `Predictions.to_pandas`.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ModuleNotFoundError:
        raise InputError(
            "to_pandas requires pandas; run `pip install pandas`", code="missing"
        ) from None
    return pandas.DataFrame(file_columns(fields))


def file_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a predictions file by name, in order.

    Args:
        fields: Fields of `Predictions` by name, with `prediction` and `confidence`.
    """
    classes, labels, ids, sets = (fields[key] for key in ("classes", "labels", "ids", "sets"))
    names = np.array((*classes, None), dtype=object)  # -1 picks the None
    columns: dict[str, Any] = {} if ids is None else {"id": list(ids)}
    if labels is not None:
        columns["label"] = names[labels].tolist()
    columns["prediction"] = names[fields["prediction"]].tolist()
    columns["confidence"] = fields["confidence"]
    probs, available = fields["probs"], fields["available"]
    if available is not None:
        probs = np.ma.MaskedArray(probs, ~available)
    columns |= {f"prob_{name}": probs[:, k] for k, name in enumerate(classes)}
    columns |= {name: fields[name] for name in UNCERTAINTIES if fields[name] is not None}
    columns |= {f"score_{name}": values for name, values in fields["scores"].items()}
    if sets is not None:
        columns |= {f"set_{name}": sets[:, k] for k, name in enumerate(classes)}
    return columns | {name: list(values) for name, values in fields["columns"].items()}
