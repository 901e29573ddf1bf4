"""Columns of a table as arrays of a record; errors name the row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.plain_text import shown
from bayeslora.tables.reading import DEFAULT, Reading
from bayeslora.tables.table import Piece, Table, plain_values

SUM_TOLERANCE = 1e-5
"""How far from 1 a row's probabilities may sum; float32 softmax is off by about 2e-7."""


@dataclass(frozen=True)
class PredictionsReading:
    """How to read a predictions file.

    Attributes:
        table: Delimiter and encoding of a text file.
        probability_columns: The class whose probability a column holds, by the column's name, in
            the order of the classes; empty takes the columns `prob_<class>`, or `logit_<class>`.
        renormalise: Whether rows whose probabilities do not sum to 1 are divided by their sum.

    Raises:
        InputError: Two columns are for one class.
    """

    table: Reading = DEFAULT
    probability_columns: Mapping[str, str] = field(default_factory=dict)
    renormalise: bool = False

    def __post_init__(self) -> None:
        classes = list(self.probability_columns.values())
        for index, name in enumerate(classes):
            if name in classes[:index]:
                raise InputError(
                    f"probability_columns (--probability-column): two columns for {shown(name)}"
                )


AS_WRITTEN = PredictionsReading()
"""Columns and format as written by this package."""


def probability_columns(pairs: Sequence[str]) -> dict[str, str]:
    """Return the class of each column, parsed from `COLUMN=CLASS` strings.

    Raises:
        InputError: A string has another form, or a column appears twice.
    """
    classes: dict[str, str] = {}
    for pair in pairs:
        column, equals, name = pair.rpartition("=")
        if not (column and equals and name) or column in classes:
            problem = "the column is listed twice" if column in classes else "expected NAME=CLASS"
            raise InputError(f"--probability-column {shown(pair)}: {problem}")
        classes[column] = name
    return classes


_TOO_LARGE = 2**53  # integers beyond this are not exact in the float columns of some writers

Where = Callable[[int], str]
"""Takes the index of a row, from 0; returns its name in messages."""


def row_number(index: int) -> str:
    """Return the name, in messages, of a row that is not from a file."""
    return f"row {index + 1}"


def numbers(table: Table, piece: Piece, name: str, *, truths: bool = False) -> NDArray[np.float64]:
    """Return [N] values of a column as float64, null as NaN.

    Args:
        table: The table of the piece.
        piece: N rows.
        name: The column.
        truths: Whether true and false are allowed, as 1 and 0.

    Raises:
        InputError: A value is not a number.
    """
    values = piece.columns[name]
    if table.is_text:
        return _text_numbers(table, piece, name, truths=truths)
    if not isinstance(values, list):
        return _arrow_numbers(table, values, name, truths=truths)
    allowed = {int, float, type(None)} | ({bool} if truths else set())
    if not allowed.issuperset(map(type, values)):
        index = next(k for k, value in enumerate(values) if type(value) not in allowed)
        raise _bad(table, piece, index, name, f"{shown(values[index])} is not a number")
    try:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    except OverflowError:
        raise InputError(
            f"{table.source}: column {shown(name)} contains an integer too large for float64"
        ) from None


def absent(piece: Piece, name: str) -> NDArray[np.bool_]:
    """Return an [N] mask of missing values in a column; NaN counts as a value."""
    values: Any = piece.columns[name]
    if isinstance(values, list):
        return np.array([value is None for value in values], dtype=np.bool_)
    return _truths(values.is_null())


def _array(values: Any) -> NDArray[Any]:
    """Return Arrow numbers without nulls as an array; `to_numpy` would import pandas (0.5 s)."""
    import pyarrow as pa

    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.from_dlpack(array)


def _strings(values: Sequence[str]) -> Any:
    """Return an Arrow string array; `pyarrow.array` would import pandas."""
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = (pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
    return pa.StringArray.from_buffers(len(encoded), *buffers)


def _floats(values: Any) -> NDArray[np.float64]:
    """Return Arrow float64 numbers as an array, null as NaN."""
    import pyarrow.compute as pc

    return _array(pc.fill_null(values, np.nan) if values.null_count else values)


def _truths(values: Any) -> NDArray[np.bool_]:
    """Return Arrow booleans without nulls as an array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return _array(pc.cast(values, pa.uint8())).astype(np.bool_)


def _arrow_numbers(table: Table, values: Any, name: str, *, truths: bool) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = str(values.type)[:60]
    problem = f"{table.source}: column {shown(name)} contains {kind}, not numbers"
    if pa.types.is_boolean(values.type) and not truths:
        raise InputError(problem)
    try:
        floats = pc.cast(values, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(problem) from None
    return _floats(floats)


def _text_numbers(table: Table, piece: Piece, name: str, *, truths: bool) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values: Any = piece.columns[name]
    if truths:
        words = {"true": "1", "false": "0"}
        plain = plain_values(values)
        values = [None if value is None else words.get(value.lower(), value) for value in plain]
    if isinstance(values, list):
        values = pa.array(values, pa.string())
    try:
        return _floats(pc.cast(values, pa.float64()))
    except pa.ArrowInvalid:
        plain = values.to_pylist()
        return np.array([_number(table, piece, k, name, value) for k, value in enumerate(plain)])


def _number(table: Table, piece: Piece, index: int, name: str, value: str | None) -> float:
    """Parse a number, optionally surrounded by spaces."""
    if value is None:
        return float("nan")
    try:
        if "_" not in value:  # only Python allows it
            return float(value)
    except ValueError:
        pass
    raise _bad(table, piece, index, name, f"{shown(value)} is not a number")


def truths(table: Table, piece: Piece, name: str) -> NDArray[np.bool_]:
    """Return the [N] booleans of a column; 1 and 0 are accepted.

    Raises:
        InputError: A value is not a boolean, 1 or 0.
    """
    values = numbers(table, piece, name, truths=True)
    bad = (values != 0) & (values != 1)
    if bad.any():
        index = int(np.argmax(bad))
        value = None if np.isnan(values[index]) else f"{values[index]:g}"
        raise _bad(table, piece, index, name, f"{value} is not a boolean")
    return np.asarray(values == 1)


def texts(table: Table, piece: Piece, name: str) -> Any:
    """Return a column as Arrow strings; see `strings`.

    Raises:
        InputError: The column holds lists or structures. JSON lines allow them in further columns,
            stored as JSON, but not in `id`.
    """
    import pyarrow as pa

    values = piece.columns[name]
    if name == "id" and isinstance(values, list):
        for index, value in enumerate(values):
            if isinstance(value, list | dict):
                raise _bad(table, piece, index, name, f"{shown(value)} is not a string or a number")
    try:
        if not isinstance(values, list):
            return strings(values)
        if not table.is_text:
            values = [None if value is None else as_text(value) for value in values]
        return pa.array(values, pa.string())
    except (pa.ArrowException, RecursionError):
        kind = getattr(values, "type", "values nested too deeply")
        raise InputError(
            f"{table.source}: column {shown(name)} must hold text or numbers, got {str(kind)[:60]}"
        ) from None


def as_text(value: Any) -> str:
    """Return a JSON value as text; 3.0 reads '3', since integer columns with gaps become floats."""
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def strings(column: Any) -> Any:
    """Return an id or label column as Arrow strings.

    3.0 in a float column reads '3', and booleans read 'True' and 'False'.

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
        is_whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), _TOO_LARGE))
        if pc.all(is_whole).as_py() is not False:
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


def softmax(
    source: str,
    logits: NDArray[np.float64],
    classes: Sequence[str],
    where: Where = row_number,
    available: NDArray[np.bool_] | None = None,
) -> None:
    """Turn logits [N, C] into probabilities in place.

    Args:
        source: Name of the table in messages.
        logits: [N, C].
        classes: C names.
        where: Returns the name of a row in messages.
        available: [N, C] mask of the classes of each row, at least one; others get 0. None: all.

    Raises:
        InputError: A logit is not finite.
    """
    if available is not None:
        logits[~available] = -np.inf
    bad = np.argwhere(~np.isfinite(logits) & (True if available is None else available))
    if bad.size:
        row, column = bad[0]
        raise InputError(
            f"{source}, {where(int(row))}, column {shown(f'logit_{classes[column]}')}: "
            f"{logits[row, column]} is not a finite number"
        )
    logits -= logits.max(1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(1, keepdims=True)


def label_codes(
    source: str, labels: Any, classes: Sequence[str], where: Where = row_number
) -> NDArray[np.int64]:
    """Return [N] class indices of labels; -1 where null.

    Labels are class names or, if no label is a class name, indices.

    Raises:
        InputError: A label is neither the name nor the index of a class.
    """
    import pyarrow.compute as pc

    labels = _as_spelled(labels, classes)
    absent = _truths(labels.is_null())
    names = pc.index_in(labels, value_set=_strings(classes))
    indices = pc.index_in(labels, value_set=_strings([str(k) for k in range(len(classes))]))
    # A single class name means that the column holds names.
    are_indices = pc.all(names.is_null()).as_py()
    codes = indices if are_indices else names
    unknown = _truths(codes.is_null()) & ~absent
    if not unknown.any():
        filled = pc.fill_null(codes, -1) if codes.null_count else codes
        return _array(filled).astype(np.int64)
    row = int(np.argmax(unknown))
    allowed = ", ".join(map(shown, classes[:20])) + (", …" if len(classes) > 20 else "")
    raise InputError(
        f"{source}, {where(row)}, column 'label': unknown label {shown(labels[row].as_py())}; "
        f"the classes are {allowed} ("
        + ("or" if are_indices else "or, if no label is a class name")
        + f", for every row, an index from 0 to {len(classes) - 1})"
    )


def _as_spelled(labels: Any, classes: Sequence[str]) -> Any:
    """Return labels with booleans spelled as in `classes`.

    Python writes them with a capital, JSON and Arrow without; a file may mix the two.
    """
    import pyarrow.compute as pc

    for name in ("True", "False"):
        for spelling, class_name in ((name, name.lower()), (name.lower(), name)):
            if spelling not in classes and class_name in classes:
                labels = pc.if_else(pc.equal(labels, spelling), class_name, labels)
    return labels


def id_names(source: str, ids: Any, where: Where) -> tuple[str, ...]:
    """Return the ids of the rows.

    Raises:
        InputError: An id is null.
    """
    if ids.null_count:
        row = int(np.argmax(_truths(ids.is_null())))
        raise InputError(
            f"{source}, {where(row)}, column 'id': empty; give every row an id, or no row"
        )
    return tuple(ids.to_pylist())


def _bad(table: Table, piece: Piece, index: int, name: str, problem: str) -> InputError:
    return InputError(f"{table.source}, {piece.where(index)}, column {shown(name)}: {problem}")
