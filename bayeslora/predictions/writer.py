"""The fields of a record as the columns of a predictions file; `files` reads them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayeslora.errors import InputError
from bayeslora.predictions.files import FORMAT_VERSION, UNCERTAINTIES
from bayeslora.predictions.tables import as_table, write_tables


def write_fields(fields: Mapping[str, Any], path: str | Path) -> None:
    """Write a `.parquet`, `.csv` or `.jsonl` file; see `Predictions.save`.

    Args:
        fields: Those of `Predictions` by name, with its `prediction` and `confidence`.
        path: Where to.

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
            "to_pandas needs the package pandas, which is not installed: pip install pandas"
        ) from None
    return pandas.DataFrame(file_columns(fields))


def file_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a predictions file by name, in order.

    Args:
        fields: Those of `Predictions` by name, with its `prediction` and `confidence`.
    """
    classes, labels, ids, sets = (fields[key] for key in ("classes", "labels", "ids", "sets"))
    names = np.array((*classes, None), dtype=object)  # -1 picks the None
    columns: dict[str, Any] = {} if ids is None else {"id": list(ids)}
    if labels is not None:
        columns["label"] = names[labels].tolist()
    columns["prediction"] = names[fields["prediction"]].tolist()
    columns["confidence"] = fields["confidence"]
    columns |= {f"prob_{name}": fields["probs"][:, k] for k, name in enumerate(classes)}
    columns |= {name: fields[name] for name in UNCERTAINTIES if fields[name] is not None}
    columns |= {f"score_{name}": values for name, values in fields["scores"].items()}
    if sets is not None:
        columns |= {f"set_{name}": sets[:, k] for k, name in enumerate(classes)}
    return columns | {name: list(values) for name, values in fields["columns"].items()}
