"""A record as the columns of a predictions file: Parquet, CSV or JSON lines; `files` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file
from bayeslora.predictions.sources import FORMAT_VERSION, PREFIX, UNCERTAINTIES

SUFFIXES = (".parquet", ".csv", ".jsonl")
"""Suffixes of predictions files to write."""

ROW_GROUP = 65_536  # rows; of 150 columns 80 MB


def write_fields(fields: Mapping[str, Any], path: str | Path) -> None:
    """Write a `.parquet`, `.csv` or `.jsonl` file; see `Predictions.save`.

    Args:
        fields: Fields of `Predictions` by name, with `prediction` and `confidence`.
        path: The target file.

    Raises:
        InputError: The suffix is none of the three, or a name is not valid Unicode.
    """
    import pyarrow as pa

    file_kind(path)
    metadata = fields["metadata"] | {
        "format_version": str(FORMAT_VERSION),
        "name": fields["name"],
        "classes": json.dumps(fields["classes"], ensure_ascii=False),
    }
    try:
        # Without a type, a list of None only would become a null column.
        columns = {
            name: pa.array(values, pa.string()) if isinstance(values, list) else pa.array(values)
            for name, values in file_columns(fields).items()
        }
        table = pa.table(columns, metadata={f"{PREFIX}{k}": v for k, v in metadata.items()})
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name or label is not valid Unicode: {error}") from None
    write_tables(path, table.schema, [table])


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
    import pyarrow.parquet as pq

    with atomic_file(path) as temporary:
        if kind == ".jsonl":
            with temporary.open("w", encoding="utf-8", newline="\n") as out:
                for batch in (batch for table in tables for batch in table.to_batches(ROW_GROUP)):
                    rows = (json.dumps(row, ensure_ascii=False) for row in batch.to_pylist())
                    out.writelines(f"{row}\n" for row in rows)
            return
        # A dictionary of mostly distinct numbers is larger than the numbers.
        texts = [field.name for field in schema if not pa.types.is_floating(field.type)]
        writer = (
            pa.csv.CSVWriter(temporary, schema)
            if kind == ".csv"
            else pq.ParquetWriter(temporary, schema, use_dictionary=texts, write_page_checksum=True)
        )
        with writer:
            for table in tables:
                writer.write_table(table, ROW_GROUP)


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
