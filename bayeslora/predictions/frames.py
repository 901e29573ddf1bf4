"""Predictions in memory that are not a `Predictions` yet: data frames, tables, columns by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayeslora.errors import InputError
from bayeslora.predictions.columns import is_plain
from bayeslora.predictions.files import fields_of, is_ours
from bayeslora.predictions.tables import TableFile


def is_frame(given: object) -> bool:
    """Return whether `given` is a data frame (pandas, polars, …) or a table of Arrow."""
    return hasattr(given, "__arrow_c_stream__") or hasattr(given, "__dataframe__")


def frame_fields(frame: Any) -> dict[str, Any]:
    """Return what a data frame says, as keyword arguments of `Predictions`.

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
    opened = TableFile(
        source,
        names,
        lambda wanted: iter(table.select([*wanted]).combine_chunks().to_batches()),
        table.schema,
    )
    return fields_of(opened, further)
