"""What columns of a table hold, as the arrays of a record, with errors that name the row."""

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
        for place, name in enumerate(classes):
            if name in classes[:place]:
                raise InputError(
                    f"probability_columns (--probability-column): two columns for {shown(name)}"
                )


AS_WRITTEN = PredictionsReading()
"""Columns and format are as this package writes them."""


def probability_columns(pairs: Sequence[str]) -> dict[str, str]:
    """Return the class of each column from texts `COLUMN=CLASS`.

    Raises:
        InputError: A text is not of that form, or a column appears twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        column, equals, name = pair.rpartition("=")
        if not (column and equals and name) or column in found:
            problem = "names the column again" if column in found else "expected NAME=CLASS"
            raise InputError(f"--probability-column {shown(pair)}: {problem}")
        found[column] = name
    return found


_TOO_LARGE = 2**53  # integers beyond this are not exact in the float columns of some writers

Where = Callable[[int], str]
"""Takes the index of a row, from 0; returns what messages call it."""


def row_number(index: int) -> str:
    """Return what messages call a row that is in no file."""
    return f"row {index + 1}"


def numbers(table: Table, piece: Piece, name: str, *, truths: bool = False) -> NDArray[np.float64]:
    """Return [N] values of a column as float64, null as NaN.

    Args:
        table: Of the piece.
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
        place = next(k for k, value in enumerate(values) if type(value) not in allowed)
        raise _bad(table, piece, place, name, f"{shown(values[place])} is not a number")
    try:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    except OverflowError:
        raise InputError(
            f"{table.source}: column {shown(name)} holds an integer beyond float64"
        ) from None


def absent(piece: Piece, name: str) -> NDArray[np.bool_]:
    """Return [N]: where a column has no value; NaN is one."""
    values: Any = piece.columns[name]
    if isinstance(values, list):
        return np.array([value is None for value in values], dtype=np.bool_)
    return _truths(values.is_null())


def _array(values: Any) -> NDArray[Any]:
    """Return numbers of Arrow without nulls; its `to_numpy` imports pandas, half a second."""
    import pyarrow as pa

    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.from_dlpack(whole)


def _strings(values: Sequence[str]) -> Any:
    """Return strings as Arrow's; `pyarrow.array` imports pandas."""
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = (pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
    return pa.StringArray.from_buffers(len(encoded), *buffers)


def _floats(values: Any) -> NDArray[np.float64]:
    """Return float64 numbers of Arrow, NaN where there is none."""
    import pyarrow.compute as pc

    return _array(pc.fill_null(values, np.nan) if values.null_count else values)


def _truths(values: Any) -> NDArray[np.bool_]:
    """Return truth values of Arrow, of which none is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return _array(pc.cast(values, pa.uint8())).astype(np.bool_)


def _arrow_numbers(table: Table, values: Any, name: str, *, truths: bool) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = str(values.type)[:60]
    problem = f"{table.source}: column {shown(name)} holds {kind}, not numbers"
    if pa.types.is_boolean(values.type) and not truths:
        raise InputError(problem)
    try:
        found = pc.cast(values, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(problem) from None
    return _floats(found)


def _text_numbers(table: Table, piece: Piece, name: str, *, truths: bool) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values: Any = piece.columns[name]
    if truths:
        words = {"true": "1", "false": "0"}
        given = plain_values(values)
        values = [None if value is None else words.get(value.lower(), value) for value in given]
    if isinstance(values, list):
        values = pa.array(values, pa.string())
    try:
        return _floats(pc.cast(values, pa.float64()))
    except pa.ArrowInvalid:
        given = values.to_pylist()
        return np.array([_number(table, piece, k, name, value) for k, value in enumerate(given)])


def _number(table: Table, piece: Piece, place: int, name: str, value: str | None) -> float:
    """Return one number, which may have spaces around it."""
    if value is None:
        return float("nan")
    try:
        if "_" not in value:  # which Python allows and nobody else
            return float(value)
    except ValueError:
        pass
    raise _bad(table, piece, place, name, f"{shown(value)} is not a number")


def truths(table: Table, piece: Piece, name: str) -> NDArray[np.bool_]:
    """Return [N] truth values of a column, which may be written as 1 and 0.

    Raises:
        InputError: A value is neither.
    """
    values = numbers(table, piece, name, truths=True)
    bad = (values != 0) & (values != 1)
    if bad.any():
        place = int(np.argmax(bad))
        value = None if np.isnan(values[place]) else f"{values[place]:g}"
        raise _bad(table, piece, place, name, f"{value} is not true or false")
    return np.asarray(values == 1)


def texts(table: Table, piece: Piece, name: str) -> Any:
    """Return a column as Arrow strings; see `strings`.

    Raises:
        InputError: The column holds lists or structures; in JSON lines, where further columns keep
            those as JSON, only the column `id` refuses them.
    """
    import pyarrow as pa

    values = piece.columns[name]
    if name == "id" and isinstance(values, list):
        for place, value in enumerate(values):
            if isinstance(value, list | dict):
                raise _bad(table, piece, place, name, f"{shown(value)} is no string or number")
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
    """Return a value of JSON as text; 3.0 reads '3', as programs write integers with a gap."""
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


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


def softmax(
    source: str,
    logits: NDArray[np.float64],
    classes: Sequence[str],
    where: Where = row_number,
    available: NDArray[np.bool_] | None = None,
) -> None:
    """Turn logits [N, C] into probabilities in place.

    Args:
        source: What messages call the table.
        logits: [N, C].
        classes: C names.
        where: What messages call a row.
        available: [N, C] which classes each row has, one or more; the others get 0. None: all.

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
    """Return [N] indices of labels that are names, or indices where none is one; -1 where null.

    Raises:
        InputError: A label is neither the name nor the index of a class.
    """
    import pyarrow.compute as pc

    labels = _as_spelled(labels, classes)
    absent = _truths(labels.is_null())
    names = pc.index_in(labels, value_set=_strings(classes))
    indices = pc.index_in(labels, value_set=_strings([str(k) for k in range(len(classes))]))
    # One name among them says that the column holds names, whatever the others look like.
    are_indices = pc.all(names.is_null()).as_py()
    codes = indices if are_indices else names
    unknown = _truths(codes.is_null()) & ~absent
    if not unknown.any():
        whole = pc.fill_null(codes, -1) if codes.null_count else codes
        return _array(whole).astype(np.int64)
    row = int(np.argmax(unknown))
    allowed = ", ".join(map(shown, classes[:20])) + (", …" if len(classes) > 20 else "")
    raise InputError(
        f"{source}, {where(row)}, column 'label': unknown label {shown(labels[row].as_py())}; "
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


def id_names(source: str, ids: Any, where: Where) -> tuple[str, ...]:
    """Return the names of the rows, of which none may be empty.

    Raises:
        InputError: One is.
    """
    if ids.null_count:
        row = int(np.argmax(_truths(ids.is_null())))
        raise InputError(
            f"{source}, {where(row)}, column 'id': empty; give every row an id or none"
        )
    return tuple(ids.to_pylist())


def _bad(table: Table, piece: Piece, place: int, name: str, problem: str) -> InputError:
    return InputError(f"{table.source}, {piece.where(place)}, column {shown(name)}: {problem}")
