"""Parquet files with columns of other types, odd shapes and odd metadata."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any


def table(source: Path, target: Path, chance: random.Random) -> str:
    """Write a changed copy of a Parquet file; return a description of the change."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = pq.read_table(source)
    column = chance.randrange(whole.num_columns)
    ways = (_typed, _typed, _valued, _valued, _reshaped, _noted)
    name, changed = chance.choice(ways)(whole, column, chance)
    try:
        pq.write_table(changed, target, row_group_size=chance.choice((None, None, 1, 5)))
    except (pa.ArrowException, NotImplementedError):
        name = "random bytes"
        target.write_bytes(b"PAR1" + chance.randbytes(200) + b"PAR1")
    return name


def _typed(whole: Any, column: int, chance: random.Random) -> tuple[str, Any]:
    import pyarrow as pa

    values = whole.column(column).to_pylist()
    size = len(values)
    casts: dict[str, Callable[[], Any]] = {
        "float16": lambda: pa.array([0.25] * size, pa.float64()).cast(pa.float16()),
        "float32": lambda: whole.column(column).cast(pa.float32()),
        "texts": lambda: pa.array([str(value) for value in values]),
        "large texts": lambda: pa.array([str(value) for value in values], pa.large_string()),
        "dictionary": lambda: whole.column(column).dictionary_encode(),
        "lists": lambda: pa.array([[value] for value in values]),
        "structs": lambda: pa.array([{"a": value} for value in values]),
        "bytes": lambda: pa.array([b"\xff\xfe" for _ in values]),
        "bad UTF-8": lambda: _bad_text(size),
        "nulls": lambda: pa.nulls(size),
        "booleans": lambda: pa.array([n % 2 == 0 for n in range(size)]),
        "times": lambda: pa.array(range(size), pa.timestamp("us")),
        "decimals": lambda: pa.array(range(size)).cast(pa.decimal128(30, 10)),
        "uint64": lambda: pa.array([2**63 + n for n in range(size)], pa.uint64()),
        "int8": lambda: pa.array([n % 3 for n in range(size)], pa.int8()),
        "maps": lambda: pa.array([[("a", 1)]] * size, pa.map_(pa.string(), pa.int64())),
    }
    name = chance.choice(list(casts))
    try:
        made = casts[name]()
    except pa.ArrowException:
        name, made = "nulls", pa.nulls(size)
    return name, whole.set_column(column, whole.column_names[column], made)


def _bad_text(size: int) -> Any:
    import pyarrow as pa

    offsets = pa.array([2 * n for n in range(size + 1)], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(
        pa.string(), size, [None, offsets, pa.py_buffer(b"\xff\xfe" * size)]
    )


def _valued(whole: Any, column: int, chance: random.Random) -> tuple[str, Any]:
    import pyarrow as pa

    kind = whole.schema.field(column).type
    values = whole.column(column).to_pylist()
    numbers = (float("nan"), float("inf"), -0.1, 1.5, None, 1e-320, -0.0, 1e308)
    texts = (
        "",
        " ",
        None,
        "\x00",
        "\x1b[31m",
        "\u202ex",
        values[0],
        "1",
        "unheard of",
        "x" * 70_000,
    )
    row = chance.randrange(len(values))
    values[row] = chance.choice(numbers if pa.types.is_floating(kind) else texts)
    if pa.types.is_boolean(kind):
        values[row] = None
    return "value", whole.set_column(column, whole.column_names[column], pa.array(values, kind))


def _reshaped(whole: Any, column: int, chance: random.Random) -> tuple[str, Any]:
    import pyarrow as pa

    name = whole.column_names[column]
    ways: dict[str, Callable[[], Any]] = {
        "no rows": lambda: whole.slice(0, 0),
        "no columns": lambda: whole.select([]),
        "one column": lambda: whole.select([name]),
        "column gone": lambda: whole.drop_columns([name]),
        "column twice": lambda: whole.append_column(name, whole.column(column)),
        "rows twice": lambda: pa.concat_tables([whole, whole]),
        "renamed": lambda: whole.rename_columns(
            [
                chance.choice(("", "prob_", name.upper(), "a\x00b", f"{name} "))
                if column_name == name
                else column_name
                for column_name in whole.column_names
            ]
        ),
        "reversed": lambda: whole.take(list(range(whole.num_rows))[::-1]),
    }
    way = chance.choice(list(ways))
    return way, ways[way]()


def _noted(whole: Any, _: int, chance: random.Random) -> tuple[str, Any]:
    notes = dict(whole.schema.metadata or {})
    key = chance.choice([*notes, b"bayeslora.classes", b"bayeslora.format_version", b"\xff"])
    notes[key] = chance.choice(
        (
            b"",
            b"[",
            b"[" * 100_000,
            b"2",
            b"-1",
            b"\xff\xfe",
            b"9" * 5000,
            b'["a", "a"]',
            b"\x1b[2J",
            b"null",
        )
    )
    return "notes", whole.replace_schema_metadata(notes)
