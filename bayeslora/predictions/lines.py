"""JSON lines as tables: one object a row, UTF-8, every row with the columns of the first.

A column that another row lacks is an error rather than an empty value, because a misspelt key would
otherwise turn into a missing label. Where a row has no label, its `label` is null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError

_NESTED = {"probs": "prob_", "logits": "logit_"}


def records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file; blank lines are passed over.

    Raises:
        InputError: A line is not UTF-8, not JSON, or not an object; the message names the line.
    """
    with Path(path).open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield _record(path, number, line.strip())


def first_record(path: str | Path) -> dict[str, Any] | None:
    """Return the first object of a file, None where it holds none."""
    return next(records(path), None)


def column_names(path: str | Path) -> tuple[str, ...]:
    """Return the columns that the first row has, with `probs` and `logits` objects laid out.

    Raises:
        InputError: There is no row, or it is broken.
    """
    first = first_record(path)
    if first is None:
        raise InputError(f"{path} has no rows")
    return tuple(_flat(first))


def pieces_of_lines(
    path: str | Path,
    names: Sequence[str],
    columns: Sequence[str],
    is_numeric: Callable[[str], bool],
    size: int,
) -> Iterator[Any]:
    """Yield `pyarrow.RecordBatch`es of some columns.

    Args:
        path: The file.
        names: All columns of the first row.
        columns: Those to read.
        is_numeric: Says of a column's name whether it holds numbers; others become texts, except
            `set_<class>`, which stay true and false.
        size: Rows in a batch.

    Raises:
        InputError: A line is broken, a row lacks a column or has one that the first lacks, or a
            value is of another type; the message names the row.
    """
    import pyarrow as pa

    row = 0
    known = frozenset(names)
    rows = map(_flat, records(path))
    while piece := list(islice(rows, size)):
        arrays = {}
        for position, record in enumerate(piece, row + 1):
            if problem := _check_columns(record, known, columns):
                raise InputError(f"{path}: row {position} {problem}")
        for name in columns:
            values = [record[name] for record in piece]
            convert = _numbers if is_numeric(name) or name.startswith("set_") else _texts
            arrays[name] = convert(path, name, values, row)
        yield pa.record_batch(arrays)
        row += len(piece)


def write_lines(batches: Iterable[Any], path: Path) -> None:
    """Write `pyarrow.RecordBatch`es as one JSON object a row; every bit of a number is kept."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for batch in batches:
            rows = (
                json.dumps(row, ensure_ascii=False, allow_nan=False) for row in batch.to_pylist()
            )
            out.writelines(f"{row}\n" for row in rows)


def _record(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg}, column {error.colno}"
        elif isinstance(error, RecursionError):
            reason = "nested too deeply"
        raise InputError(
            f"{path}, line {number}: broken JSON ({reason}); one object a line is expected"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{path}, line {number}: {line.decode()!r:.60} is not an object")
    return found


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with `{"probs": {"a": 0.2}}` as `prob_a`, and the same for logits."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if name in _NESTED and isinstance(value, dict):
            flat |= {f"{_NESTED[name]}{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _check_columns(
    record: Mapping[str, Any], names: frozenset[str], wanted: Sequence[str]
) -> str | None:
    """Return what is wrong with a row's columns beside those of the first row, if anything is."""
    if record.keys() == names:
        return None
    for name in wanted:
        if name not in record:
            return f"has no {name!r}, which row 1 has; write null where there is none"
    for name in sorted(record.keys() - names):
        if name in {"id", "label"} or name.startswith(("prob_", "logit_", "score_")):
            return f"has {name!r}, which row 1 has not"
    return None


def _numbers(path: str | Path, name: str, values: Sequence[Any], before: int) -> Any:
    import pyarrow as pa

    allowed = {int, float, type(None)} | ({bool} if name.startswith("set_") else set())
    if not allowed.issuperset(map(type, values)):
        row = next(row for row, value in enumerate(values) if type(value) not in allowed)
        raise InputError(
            f"{path}: row {before + row + 1}, column {name!r}: "
            f"{json.dumps(values[row])[:60]} is not a number"
        )
    try:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    except OverflowError:
        raise InputError(f"{path}: column {name!r} holds an integer beyond float64") from None


def _texts(path: str | Path, name: str, values: Sequence[Any], before: int) -> Any:
    import pyarrow as pa

    try:
        texts = [None if value is None else as_text(value) for value in values]
        return pa.array(texts, pa.string())
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path}: column {name!r}, rows {before + 1} on: not valid Unicode: {error}"
        ) from None


def as_text(value: Any) -> str:
    """Return a value as text; 3.0 reads '3', as programs write integers with a gap."""
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)
