"""What columns of a table hold, as the arrays of a record, with errors that name the row.

Columns are those of `pyarrow`: arrays or chunked arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError

_TOO_LARGE = 2**53  # integers beyond this are not exact in the float columns of some writers


def numbers(path: str | Path, table: Any, column: str) -> NDArray[np.float64]:
    """Return one column as float64, null as NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = pc.cast(table[column], pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        kind = table.schema.field(column).type
        raise InputError(f"{path}: column {column!r} holds {kind}, not numbers") from None
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(whole.to_numpy(zero_copy_only=False), dtype=np.float64)


def truths(path: str | Path, table: Any, column: str) -> NDArray[np.bool_]:
    """Return one column of true and false, which may be written as 1 and 0."""
    values = numbers(path, table, column)
    bad = (values != 0) & (values != 1)
    if bad.any():
        row = int(np.argmax(bad))
        value = table[column][row].as_py()
        raise InputError(
            f"{path}: row {row + 1}, column {column!r}: {value!r} is not true or false"
        )
    return np.asarray(values == 1)


def softmax(
    path: str | Path, logits: NDArray[np.float64], classes: Sequence[str], before: int
) -> None:
    """Turn logits into probabilities in place; `before` rows of the file came earlier."""
    bad = np.argwhere(~np.isfinite(logits))
    if bad.size:
        row, column = bad[0]
        raise InputError(
            f"{path}: row {before + row + 1}, column 'logit_{classes[column]}': "
            f"{logits[row, column]} is not a finite number"
        )
    logits -= logits.max(1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(1, keepdims=True)


def strings(column: Any) -> Any:
    """Return an id or label column as Arrow strings.

    3.0 reads '3', as a float column means it, and truth values read 'True' and 'False'.

    Raises:
        ArrowException: The column holds lists or structures.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False")
    if pa.types.is_floating(column.type):
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), _TOO_LARGE))
        if pc.all(whole).as_py() is not False:
            column = pc.cast(column, pa.int64())
    return pc.cast(column, pa.string())


def is_plain(kind: Any) -> bool:
    """Return whether a column of this Arrow type can be read as text; see `strings`."""
    import pyarrow as pa

    try:
        strings(pa.nulls(0, kind))
    except pa.ArrowException:
        return False
    return True


def named_strings(path: str | Path, table: Any, name: str) -> Any:
    """Return a column of a file as Arrow strings; see `strings`.

    Raises:
        InputError: The column holds lists or structures.
    """
    import pyarrow as pa

    column = table[name]
    try:
        return strings(column)
    except pa.ArrowException:
        raise InputError(
            f"{path}: column {name!r} must hold text or numbers, got {column.type}"
        ) from None


def label_codes(path: str | Path, labels: Any, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return [N] indices of labels that are names, or indices where none is one; -1 where null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = _as_spelled(labels, classes)
    absent = np.asarray(labels.is_null())
    names = pc.index_in(labels, value_set=pa.array(classes, pa.string()))
    indices = pc.index_in(
        labels, value_set=pa.array([str(k) for k in range(len(classes))], pa.string())
    )
    # One name among them says that the column holds names, whatever the others look like.
    are_indices = pc.all(names.is_null()).as_py()
    codes = indices if are_indices else names
    unknown = np.asarray(codes.is_null()) & ~absent
    if not unknown.any():
        return np.asarray(pc.fill_null(codes, -1).to_numpy(), dtype=np.int64)
    row = int(np.argmax(unknown))
    allowed = ", ".join(map(repr, classes[:20])) + (", …" if len(classes) > 20 else "")
    raise InputError(
        f"{path}: row {row + 1}, column 'label': unknown label {labels[row].as_py()!r}; "
        f"the classes are {allowed} ("
        + ("or" if are_indices else "or, where no label is one of them")
        + f", for every row, an index 0 to {len(classes) - 1})"
    )


def _as_spelled(labels: Any, classes: Sequence[str]) -> Any:
    """Return labels with truth values spelled as the classes are.

    Python writes them with a capital, JSON and Arrow without; a file may mix the two.
    """
    import pyarrow.compute as pc

    for name in ("True", "False"):
        for other, own in ((name, name.lower()), (name.lower(), name)):
            if other not in classes and own in classes:
                labels = pc.if_else(pc.equal(labels, other), own, labels)
    return labels


def id_names(path: str | Path, ids: Any) -> tuple[str, ...]:
    """Return the names of the rows, of which none may be empty."""
    if ids.null_count:
        row = int(np.argmax(np.asarray(ids.is_null())))
        raise InputError(f"{path}: row {row + 1}, column 'id': empty; give every row an id or none")
    return tuple(ids.to_numpy().tolist())
