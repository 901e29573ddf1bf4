"""Predictions in memory that are not a `Predictions` yet: data frames, tables, columns by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bayeslora.errors import InputError
from bayeslora.predictions.columns import Where, is_plain
from bayeslora.predictions.files import fields_of, is_ours
from bayeslora.tables.table import Piece, Table


def is_frame(given: object) -> bool:
    """Return whether `given` is a data frame (pandas, polars, …) or a table of Arrow."""
    return hasattr(given, "__arrow_c_stream__") or hasattr(given, "__dataframe__")


def frame_fields(frame: Any) -> tuple[dict[str, Any], Where]:
    """Return what a data frame says; see `fields_of`.

    Its columns are those of a predictions file; every other column of text or numbers is kept as a
    further one.

    Args:
        frame: A data frame, a `pyarrow.Table`, or equally long columns by name.

    Raises:
        InputError: It is none of these, or not predictions.
    """
    import pyarrow as pa

    source = f"<{type(frame).__name__}>"
    if not (is_frame(frame) or isinstance(frame, Mapping)):
        raise InputError(
            "expected Predictions, the path of a file, or a data frame with columns prob_<class> "
            f"and label, got {frame!r:.80}; Predictions.from_arrays takes arrays"
        )
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"{source} is not a table of equally long columns: {error}") from None
    names = tuple(table.column_names)
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise InputError(f"{source} has two columns named {twice!r}")
    further = [
        name for name in names if not is_ours(name) and is_plain(table.schema.field(name).type)
    ]

    def read(wanted: Sequence[str], rows: int) -> Iterator[Piece]:
        before = 0
        for batch in table.select([*wanted]).combine_chunks().to_batches(rows):
            columns = dict(zip(wanted, batch.columns, strict=True))
            yield Piece(columns, range(before + 1, before + len(batch) + 1), before)
            before += len(batch)

    if not len(table):
        raise InputError(f"{source} has no rows")
    return fields_of(Table(source, names, read, schema=table.schema), further)
