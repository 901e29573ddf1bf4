"""Columns of predictions as codes: clusters resampled together, groups scored separately."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import counted
from bayeslora.predictions.record import Predictions


def column_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return distinct names of columns from one name, several or None."""
    if names is None:
        return ()
    return tuple(dict.fromkeys([names] if isinstance(names, str) else names))


def check_columns(predictions: Predictions, names: Sequence[str]) -> None:
    """Raise InputError if predictions lack a column.

    Raises:
        InputError: A column is missing.
    """
    for name in names:
        if name not in predictions.columns:
            available = tuple(predictions.columns)
            if available:
                raise unknown_choice("column", name, available)
            raise InputError(f"the predictions have no column {name!r}; load it with columns=[…]")


def values_of(predictions: Predictions, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the code of each row's value, [N], and the sorted distinct values.

    Raises:
        InputError: The column is missing, or has no value in some row.
    """
    check_columns(predictions, [name])
    column = predictions.columns[name]
    missing = [row for row, value in enumerate(column, 1) if value is None]
    if missing:
        raise InputError(
            f"row {missing[0]}: column {name!r} has no value ({counted(len(missing), 'such row')})"
        )
    distinct, codes = np.unique(np.asarray(column, dtype=str), return_inverse=True)
    return codes.reshape(-1).astype(np.int64), tuple(str(value) for value in distinct)


def without_gaps(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return codes renumbered from 0 without gaps, in the same order."""
    return np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64)


def num_units(clusters: NDArray[np.int64] | None, rows: int) -> int:
    """Return the number of clusters, numbered from 0 without gaps; `rows` without clusters."""
    return rows if clusters is None else int(clusters.max()) + 1


def clusters_in(
    group: NDArray[np.int64] | NDArray[np.bool_],
    clusters: NDArray[np.int64] | None,
    groups: int = 0,
) -> NDArray[np.int64]:
    """Return the number of clusters with rows in each group, or of rows, [G].

    Args:
        group: [N] group of each row, from 0; booleans are groups 0 and 1.
        clusters: [N] cluster of each row, or None to count rows.
        groups: Minimum number of groups G.
    """
    if clusters is not None:
        width = num_units(clusters, 0)
        group = np.unique(group * width + clusters) // width
    return np.bincount(group, minlength=groups)
