"""Columns of predictions as numbers: clusters that are drawn together, groups scored apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import counted
from bayeslora.predictions.record import Predictions


def column_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names of columns, each once, where one, several or none may be given."""
    if given is None:
        return ()
    return tuple(dict.fromkeys([given] if isinstance(given, str) else given))


def check_columns(predictions: Predictions, names: Sequence[str]) -> None:
    """Raise InputError if predictions lack a column.

    Raises:
        InputError: One is missing.
    """
    for name in names:
        if name not in predictions.columns:
            known = tuple(predictions.columns)
            if known:
                raise unknown_choice("column", name, known)
            raise InputError(f"the predictions carry no column {name!r}; load it with columns=[…]")


def values_of(predictions: Predictions, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return [N] the place of each row's value among the distinct values, and these, sorted.

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
    distinct, places = np.unique(np.asarray(column, dtype=str), return_inverse=True)
    return places.reshape(-1).astype(np.int64), tuple(str(value) for value in distinct)


def without_gaps(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return codes renumbered from 0 on, in the same order."""
    return np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64)


def clusters_in(
    group: NDArray[np.int64] | NDArray[np.bool_],
    clusters: NDArray[np.int64] | None,
    groups: int = 0,
) -> NDArray[np.int64]:
    """Return [G]: how many clusters each group has rows of, or how many rows.

    Args:
        group: [N] the group of each row, from 0; booleans are groups 0 and 1.
        clusters: [N] the cluster of each row, or None where each is by itself.
        groups: How many groups there are at least.
    """
    if clusters is not None:
        width = int(clusters.max()) + 1
        group = np.unique(group * width + clusters) // width
    return np.bincount(group, minlength=groups)
