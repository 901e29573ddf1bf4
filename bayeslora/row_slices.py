"""Slices of rows that keep intermediate tensors small."""

from __future__ import annotations

from collections.abc import Iterator


def row_slices(rows: int, elements_per_row: int, most: int = 1 << 23) -> Iterator[slice]:
    """Yield slices that cover the rows in order; an empty one where there are no rows.

    Args:
        rows: How many there are.
        elements_per_row: Of the intermediate.
        most: Elements of the intermediate at a time, unless a single row has more; 64 MB in
            float64 by default.
    """
    size = max(1, most // max(1, elements_per_row))
    for start in range(0, max(1, rows), size):
        yield slice(start, min(start + size, rows))
