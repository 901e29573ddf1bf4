"""Values of predictions files as the fields of a record; errors name the row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.formats import DEFAULT, Reading
from bayeslora.errors import InputError
from bayeslora.plain_text import shown

SUM_TOLERANCE = 1e-5
"""How far from 1 a row's probabilities may sum; float32 softmax is off by about 2e-7."""

_TOO_LARGE = 2**53  # integers beyond this are not exact in the float columns of some writers


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


Where = Callable[[int], str]
"""Takes the index of a row, from 0; returns its name in messages."""


def row_number(index: int) -> str:
    """Return the name, in messages, of a row that is not from a text file."""
    return f"row {index + 1}"


def floats(column: Any) -> NDArray[np.float64]:
    """Return an Arrow column of numbers as an array, null as NaN.

    `to_numpy` would import pandas (0.5 s).

    Raises:
        ArrowException: The column has no numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())
    array = pc.cast(column, pa.float64()).combine_chunks()
    return np.asarray(np.from_dlpack(pc.fill_null(array, np.nan) if array.null_count else array))


def strings(column: Any) -> Any:
    """Return an Arrow column of ids, labels or texts as Arrow strings.

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


def as_text(value: Any) -> str | None:
    """Return a plain value as text; 3.0 reads '3', since integer columns with gaps become floats.

    None and NaN become None.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


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
    source: str, labels: Sequence[str | None], classes: Sequence[str], where: Where = row_number
) -> NDArray[np.int64]:
    """Return [N] class indices of labels; -1 for None.

    Labels are class names or, if no label is a class name, indices.

    Raises:
        InputError: A label is neither the name nor the index of a class.
    """
    codes = {name: index for index, name in enumerate(classes)}
    # Python writes booleans with a capital, JSON and Arrow without; a file may mix the two.
    for name in ("True", "False"):
        for spelling, other in ((name, name.lower()), (name.lower(), name)):
            if other in classes:
                codes.setdefault(spelling, codes[other])
    known = set(labels) - {None}
    # A single class name means that the column holds names.
    are_indices = known.isdisjoint(codes)
    if are_indices:
        codes = {str(index): index for index in range(len(classes))}
    if known - codes.keys():
        row = next(row for row, label in enumerate(labels) if label not in {*codes, None})
        allowed = ", ".join(map(shown, classes[:20])) + (", …" if len(classes) > 20 else "")
        raise InputError(
            f"{source}, {where(row)}, column 'label': unknown label {shown(labels[row])}; "
            f"the classes are {allowed} ("
            + ("or" if are_indices else "or, if no label is a class name")
            + f", for every row, an index from 0 to {len(classes) - 1})"
        )
    return np.array([-1 if label is None else codes[label] for label in labels], dtype=np.int64)
