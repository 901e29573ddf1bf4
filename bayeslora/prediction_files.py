"""Predictions on disk: one table a file, Parquet or CSV, that any tool in any language can write.

| column | content |
|---|---|
| `id` | string, optional, unique |
| `label` | class name, or index from 0; null where the row has no label; optional |
| `prob_<class>` | probability, one column a class, at least two; `logit_<class>` is taken instead |
| `total`, `aleatoric`, `epistemic` | uncertainty in nats, optional |
| `score_<name>` | any other uncertainty, higher = more uncertain, optional |
| `set_<class>` | whether the class is in the row's prediction set, one column for every class |

Other columns are read where they are asked for by name, as texts; else they are ignored, and so are
`set_<class>` columns where a class has none. The order of the
classes is that of the columns, unless the Parquet metadata lists the same classes in another order.
Labels are names where every one of them is a class name; only where that fails are they read as
indices, and a column never mixes the two.

Values are checked by the record that is built from them (`bayeslora.predictions`); this file checks
what only a file can get wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.prediction_tables import PREFIX, read_table

FORMAT_VERSION = 1
UNCERTAINTIES = ("total", "aleatoric", "epistemic")
RESERVED = frozenset({"format_version", "name", "classes"})

_NUMERIC = ("prob_", "logit_", "score_")
_FIXED = frozenset({"id", "label", "prediction", "confidence", *UNCERTAINTIES})
_TOO_LARGE = 2**53  # integers beyond this are not exact in the float columns of some writers


def read_fields(path: str | Path, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a file says, as keyword arguments of `Predictions`.

    Args:
        path: A `.parquet` or `.csv` file.
        columns: Further columns to read.

    Raises:
        InputError: The file is missing, unreadable, of a newer format, not a predictions file, or
            without one of `columns`.
    """
    table = read_table(path, is_numeric=_is_numeric, texts=columns)
    metadata = _metadata(path, table)
    prefix, classes = _classes(path, table.column_names, metadata)
    values = np.column_stack([_numbers(path, table, f"{prefix}{name}") for name in classes])
    fields: dict[str, Any] = {
        "probs": values if prefix == "prob_" else _softmax(path, values, classes),
        "classes": classes,
        "name": metadata.get("name") or Path(path).stem,
        "metadata": {key: value for key, value in metadata.items() if key not in RESERVED},
        "scores": {
            name.removeprefix("score_"): _numbers(path, table, name)
            for name in table.column_names
            if name.startswith("score_")
        },
    }
    present = [name for name in UNCERTAINTIES if name in table.column_names]
    fields |= {name: _numbers(path, table, name) for name in present}
    if "label" in table.column_names:
        fields["labels"] = _labels(path, _strings(table["label"]), classes)
    if all(f"set_{name}" in table.column_names for name in classes):
        members = [_truths(path, table, f"set_{name}") for name in classes]
        fields["sets"] = np.column_stack(members)
    if "id" in table.column_names:
        fields["ids"] = _ids(path, _strings(table["id"]))
    fields["columns"] = {name: _further(path, table, name) for name in columns}
    return fields


def further_columns(path: str | Path) -> list[str]:
    """Return the columns of a predictions file that have no meaning of their own, in order.

    Raises:
        InputError: The file is missing or unreadable.
    """
    names = read_table(path, is_numeric=_is_numeric).column_names
    return [name for name in names if not is_ours(name)]


def is_ours(column: str) -> bool:
    """Say whether a column's name has a meaning of its own in predictions files."""
    return column in _FIXED or column.startswith((*_NUMERIC, "set_"))


def _further(path: str | Path, table: Any, column: str) -> list[str | None]:
    choices = [name for name in table.column_names if not is_ours(name)]
    if column not in choices:
        raise InputError(f"{path}: {unknown_choice('further column', column, choices)}")
    values: list[str | None] = _strings(table[column]).to_pylist()
    return values


def _is_numeric(name: str) -> bool:
    return name.startswith(_NUMERIC) or name in UNCERTAINTIES


def _metadata(path: str | Path, table: Any) -> dict[str, str]:
    raw = table.schema.metadata or {}
    pairs = ((key.decode(), value) for key, value in raw.items() if key.startswith(PREFIX.encode()))
    found = {key.removeprefix(PREFIX): value.decode() for key, value in pairs}
    version = found.get("format_version", str(FORMAT_VERSION))
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise InputError(
            f"{path} has predictions format version {version}; this version of bayeslora reads "
            f"up to {FORMAT_VERSION}"
        )
    return found


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


def _numbers(path: str | Path, table: Any, column: str) -> NDArray[np.float64]:
    """Return one column as float64, null as NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = pc.cast(table[column], pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        kind = table.schema.field(column).type
        raise InputError(f"{path}: column {column!r} holds {kind}, not numbers") from None
    return np.asarray(values.to_numpy(), dtype=np.float64)


def _truths(path: str | Path, table: Any, column: str) -> NDArray[np.bool_]:
    """Return one column of true and false, which may be written as 1 and 0."""
    values = _numbers(path, table, column)
    bad = (values != 0) & (values != 1)
    if bad.any():
        row = int(np.argmax(bad))
        value = table[column][row].as_py()
        raise InputError(
            f"{path}: row {row + 1}, column {column!r}: {value!r} is not true or false"
        )
    return np.asarray(values == 1)


def _softmax(
    path: str | Path, logits: NDArray[np.float64], classes: Sequence[str]
) -> NDArray[np.float64]:
    bad = np.argwhere(~np.isfinite(logits))
    if bad.size:
        row, column = bad[0]
        raise InputError(
            f"{path}: row {row + 1}, column 'logit_{classes[column]}': "
            f"{logits[row, column]} is not a finite number"
        )
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def _strings(column: Any) -> Any:
    """Return an id or label column as Arrow strings; 3.0 reads '3', as a float column means it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_floating(column.type):
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), _TOO_LARGE))
        if pc.all(whole).as_py() is not False:
            column = pc.cast(column, pa.int64())
    return pc.cast(column, pa.string())


def _labels(path: str | Path, labels: Any, classes: Sequence[str]) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    absent = np.asarray(labels.is_null())
    names = pc.index_in(labels, value_set=pa.array(classes, pa.string()))
    indices = pc.index_in(
        labels, value_set=pa.array([str(k) for k in range(len(classes))], pa.string())
    )
    for codes in (names, indices):
        if not np.any(np.asarray(codes.is_null()) & ~absent):
            return np.asarray(pc.fill_null(codes, -1).to_numpy(), dtype=np.int64)
    unnamed = np.asarray(names.is_null()) & ~absent
    unknown = np.asarray(indices.is_null()) & ~absent
    # where no label is a class name the column was meant as indices: point at what is neither
    row = int(np.argmax(unknown if unnamed.sum() == (~absent).sum() else unnamed))
    allowed = ", ".join(map(repr, classes[:20])) + (", …" if len(classes) > 20 else "")
    raise InputError(
        f"{path}: row {row + 1}, column 'label': unknown label {labels[row].as_py()!r}; "
        f"the classes are {allowed} (or, for every row, an index 0 to {len(classes) - 1})"
    )


def _ids(path: str | Path, ids: Any) -> tuple[str, ...]:
    if ids.null_count:
        row = int(np.argmax(np.asarray(ids.is_null())))
        raise InputError(f"{path}: row {row + 1}, column 'id': empty; give every row an id or none")
    return tuple(ids.to_numpy().tolist())
