"""Columns of raw values, as a file or an object in memory holds them, not yet checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bayeslora.errors import InputError
from bayeslora.tasks.messages import shown


@dataclass(frozen=True)
class Table:
    """N rows of raw values.

    Attributes:
        columns: [N] raw values by column name; None where a row has no value.
        names: The names of all columns that exist, also of those that were not read.
        rows: The number or line of each row, from 1.
        source: The path of the file, or `<list>` and the like for data in memory.
        is_text: True where every value was read from text, so that numbers are strings.
    """

    columns: Mapping[str, Sequence[Any]]
    names: tuple[str, ...]
    rows: tuple[int, ...]
    source: str
    is_text: bool = False


def table_from_records(records: Sequence[Any], rows: Sequence[int], source: str) -> Table:
    """Return the table of a list of mappings; a key that a record lacks counts as None.

    Raises:
        InputError: There are no records, or one of them is not a mapping.
    """
    if not records:
        raise InputError(f"{source} is empty; at least one row is needed")
    for row, record in zip(rows, records, strict=True):
        if not isinstance(record, Mapping):
            raise InputError(
                f"{source}, row {row}: expected an object with columns such as "
                f'{{"text": …, "label": …}}, got {shown(record)}'
            )
    names = tuple(
        dict.fromkeys(name for record in records for name in record if isinstance(name, str))
    )
    columns = {name: [record.get(name) for record in records] for name in names}
    return Table(columns, names, tuple(rows), source)


def table_from_columns(data: Any, names: Sequence[str], wanted: Sequence[str]) -> Table:
    """Return the table of an object indexed by column name, such as a data frame.

    Args:
        data: The object; `data[name]` gives the values of a column.
        names: The columns that it has.
        wanted: The columns to read; those it lacks are passed over.

    Raises:
        InputError: There are no rows.
    """
    source = f"<{type(data).__name__}>"
    columns = {name: plain_list(data[name]) for name in names if name in wanted}
    size = len(data)
    if size == 0:
        raise InputError(f"{source} is empty; at least one row is needed")
    return Table(columns, tuple(map(str, names)), tuple(range(1, size + 1)), source)


def plain_list(values: Any) -> list[Any]:
    """Return the values of a column; arrays and tensors give up their plain Python values.

    Raises:
        InputError: `values` is not a sequence of values.
    """
    for method in ("to_pylist", "tolist"):
        values = getattr(values, method, lambda values=values: values)()
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"expected a list of values, got {shown(values)}")
    return list(values)
