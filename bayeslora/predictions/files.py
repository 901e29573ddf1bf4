"""Predictions on disk: one table a file, Parquet, CSV or JSON lines, that any tool can write.

| column | content |
|---|---|
| `id` | string, optional, unique |
| `label` | class name, or index from 0; null where the row has no label; optional |
| `prob_<class>` | probability, one column a class, at least two; `logit_<class>` is taken instead |
| `total`, `aleatoric`, `epistemic` | uncertainty in nats, optional |
| `score_<name>` | any other uncertainty, higher = more uncertain, optional |
| `set_<class>` | whether the class is in the row's prediction set, one column for every class |

JSON lines may also hold `{"probs": {"<class>": 0.2, …}}`, or `logits`, in each row. Parquet alone
keeps the name and the notes of a record. A sample log of lm-evaluation-harness is read as well
(`harness`), known by the keys of its first line.

Other columns are read where they are asked for by name, as texts; else they are ignored, and so are
`set_<class>` columns where a class has none. The order of the classes is that of the columns,
unless the Parquet metadata lists the same classes in another order. Labels are names where one
of them is a class name, and indices where none is: a column never mixes the two.

Values are checked by the record that is built from them (`record`); this file checks
what only a file can get wrong.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.predictions.columns import (
    id_names,
    is_plain,
    label_codes,
    named_strings,
    numbers,
    softmax,
    truths,
)
from bayeslora.predictions.harness import is_sample_log, log_columns, log_name, read_sample_log
from bayeslora.predictions.tables import TableFile, open_table

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
UNCERTAINTIES = ("total", "aleatoric", "epistemic")
RESERVED = frozenset({"format_version", "name", "classes"})

_NUMERIC = ("prob_", "logit_", "score_")
_FIXED = frozenset({"id", "label", "prediction", "confidence", *UNCERTAINTIES})


def read_fields(path: str | Path, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a file says, as keyword arguments of `Predictions`.

    Args:
        path: A `.parquet`, `.csv` or `.jsonl` file, or a sample log of lm-evaluation-harness.
        columns: Further columns to read.

    Raises:
        InputError: The file is missing, unreadable, of a newer format, not a predictions file, or
            without one of `columns`.
    """
    if is_sample_log(path):
        return read_sample_log(path, columns=columns)
    return fields_of(open_table(path, is_numeric=_is_numeric, texts=columns), columns)


def fields_of(table: TableFile, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Return what an open table says, as keyword arguments of `Predictions`.

    Args:
        table: A file, or a data frame in the place of one.
        columns: Further columns to read.

    Raises:
        InputError: As `read_fields`.
    """
    path = table.path
    _check_version(path, table.metadata)
    prefix, classes = _classes(path, table.names, table.metadata)
    _check_further(path, table.names, columns)
    values, rest = _read(table, prefix, classes, columns)
    fields: dict[str, Any] = {
        "probs": values,
        "classes": classes,
        "name": _name(table),
        "metadata": _further_notes(table),
        "scores": {
            name.removeprefix("score_"): numbers(path, rest, name)
            for name in rest.column_names
            if name.startswith("score_")
        },
    }
    present = [name for name in UNCERTAINTIES if name in rest.column_names]
    fields |= {name: numbers(path, rest, name) for name in present}
    if "label" in rest.column_names:
        fields["labels"] = label_codes(path, named_strings(path, rest, "label"), classes)
    if all(f"set_{name}" in rest.column_names for name in classes):
        members = [truths(path, rest, f"set_{name}") for name in classes]
        fields["sets"] = np.column_stack(members)
    if "id" in rest.column_names:
        fields["ids"] = id_names(path, named_strings(path, rest, "id"))
    fields["columns"] = {name: named_strings(path, rest, name).to_pylist() for name in columns}
    return fields


def read_notes(path: str | Path) -> tuple[str, dict[str, str]]:
    """Return the name and the metadata of the predictions in a file, without reading its rows.

    Raises:
        InputError: The file is missing, unreadable, of a newer format, or not a predictions file.
    """
    if is_sample_log(path):
        return log_name(path), {}
    table = open_table(path, is_numeric=_is_numeric)
    _check_version(path, table.metadata)
    _classes(path, table.names, table.metadata)
    return _name(table), _further_notes(table)


def further_columns(path: str | Path) -> list[str]:
    """Return the columns of a predictions file that have no meaning of their own, in order.

    Raises:
        InputError: The file is missing or unreadable.
    """
    if is_sample_log(path):
        return log_columns(path)
    names = open_table(path, is_numeric=_is_numeric).names
    return [name for name in names if not is_ours(name)]


def text_columns(path: str | Path) -> list[str]:
    """Return the further columns of a file that can be kept: all but lists and structures.

    What is left out is logged.

    Raises:
        InputError: The file is missing or unreadable.
    """
    if is_sample_log(path):
        return log_columns(path)
    table = open_table(path, is_numeric=_is_numeric)
    names = [name for name in table.names if not is_ours(name)]
    if table.schema is None:
        return names
    kept = [name for name in names if is_plain(table.schema.field(name).type)]
    if len(kept) < len(names):
        lost = ", ".join(repr(name) for name in names if name not in kept)
        logger.warning("%s: left out, since they hold no text or numbers: columns %s", path, lost)
    return kept


def is_ours(column: str) -> bool:
    """Say whether a column's name has a meaning of its own in predictions files."""
    return column in _FIXED or column.startswith((*_NUMERIC, "set_"))


def _name(table: TableFile) -> str:
    return table.metadata.get("name") or Path(table.path).stem


def _further_notes(table: TableFile) -> dict[str, str]:
    return {key: value for key, value in table.metadata.items() if key not in RESERVED}


def _check_further(path: str | Path, names: Sequence[str], columns: Sequence[str]) -> None:
    choices = [name for name in names if not is_ours(name)]
    for column in columns:
        if column not in choices:
            raise InputError(f"{path}: {unknown_choice('further column', column, choices)}")


def _read(
    table: TableFile, prefix: str, classes: Sequence[str], further: Sequence[str]
) -> tuple[NDArray[np.float64], Any]:
    """Return probabilities [N, C] and a `pyarrow.Table` of the other columns that are used."""
    import pyarrow as pa

    matrix = [f"{prefix}{name}" for name in classes]
    sets = [f"set_{name}" for name in classes]
    used = {"id", "label", *UNCERTAINTIES, *further}
    used |= {*sets} if set(sets) <= set(table.names) else set()
    others = [name for name in table.names if name in used or name.startswith("score_")]
    _check_types(table, matrix)
    chunks: list[NDArray[np.float64]] = []
    rest = []
    rows = 0
    for piece in table.pieces([*matrix, *others]):
        values = np.column_stack([numbers(table.path, piece, name) for name in matrix])
        if prefix == "logit_":
            softmax(table.path, values, classes, rows)
        chunks.append(values)
        rest.append(piece.select(others))
        rows += len(values)
    if not rows:
        raise InputError(f"{table.path} has no rows")
    return _joined(chunks, rows), pa.Table.from_batches(rest)


def _check_types(table: TableFile, columns: Sequence[str]) -> None:
    """Complain of a column that cannot hold numbers, before any row is read."""
    import pyarrow as pa

    for name in columns if table.schema is not None else ():
        none = pa.record_batch({name: pa.nulls(0, table.schema.field(name).type)})
        numbers(table.path, none, name)


def _joined(chunks: list[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    """Return the chunks as one array, and let go of each as soon as it is copied."""
    whole = np.empty((rows, chunks[0].shape[1]))
    end = rows
    while chunks:
        chunk = chunks.pop()
        whole[end - len(chunk) : end] = chunk
        end -= len(chunk)
    return whole


def _is_numeric(name: str) -> bool:
    return name.startswith(_NUMERIC) or name in UNCERTAINTIES


def _check_version(path: str | Path, metadata: Mapping[str, str]) -> None:
    version = metadata.get("format_version", str(FORMAT_VERSION))
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise InputError(
            f"{path} has predictions format version {version}; this version of bayeslora reads "
            f"up to {FORMAT_VERSION}"
        )


def _classes(
    path: str | Path, columns: Sequence[str], metadata: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    found = {
        prefix: [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]
        for prefix in ("prob_", "logit_")
    }
    if found["prob_"] and found["logit_"]:
        raise InputError(f"{path} has both prob_<class> and logit_<class> columns; keep one kind")
    prefix = "logit_" if found["logit_"] else "prob_"
    classes = found[prefix]
    if len(classes) < 2:
        raise InputError(
            f"{path} needs a column prob_<class> (or logit_<class>) for each of two or more "
            f"classes; its columns are {', '.join(map(repr, columns[:12]))}"
        )
    return prefix, _stored_order(metadata.get("classes", "[]"), classes)


def _stored_order(stored: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the stored names where they are the same ones; columns may have been moved since."""
    try:
        names = json.loads(stored)
    except json.JSONDecodeError:
        return tuple(classes)
    same = isinstance(names, list) and Counter(map(str, names)) == Counter(classes)
    return tuple(names if same else classes)
