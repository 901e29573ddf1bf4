"""Checks of the fields of a `Predictions` record; each error names the row.

Each function takes a field from the caller and returns it as the record stores it: copied,
converted, read-only. Rows are counted from 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError, RowError
from bayeslora.plain_text import shown
from bayeslora.predictions.columns import SUM_TOLERANCE
from bayeslora.predictions.sources import RESERVED, UNCERTAINTIES, is_ours

COMPUTED = ("max_probability", "entropy")
"""Uncertainty scores that follow from the probabilities."""

_EXACT = 1e-12  # sums this close to 1 are left alone, so that saving and loading changes no bit


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return two or more distinct, non-empty names."""
    classes = tuple(names)
    if len(classes) < 2:
        raise InputError(f"classes must be at least two names, got {classes!r}")
    seen: set[str] = set()
    for index, name in enumerate(classes):
        if not isinstance(name, str) or not name:
            raise InputError(f"class {index + 1}: a name must be a non-empty string, got {name!r}")
        if name in seen:
            raise InputError(f"class {index + 1}: duplicate name {name!r}")
        seen.add(name)
    return classes


def probabilities(
    array: ArrayLike, classes: Sequence[str], *, in_place: bool = False
) -> NDArray[np.float64]:
    """Return [N, C] float64, each row renormalised; sums may be off by `SUM_TOLERANCE`.

    Args:
        array: [N, C]; an array of an existing record is not copied.
        classes: C names.
        in_place: Whether `array` is a fresh array that may be changed and kept.
    """
    reuse = in_place or _is_frozen(array)
    probs = np.asarray(array, np.float64) if reuse else _float_array("probs", array)
    if probs.ndim != 2 or len(probs) < 1 or probs.shape[1] != len(classes):
        raise InputError(
            f"probs must be [rows, {len(classes)} classes] with at least 1 row, "
            f"got shape {list(probs.shape)}"
        )
    bad = ~((probs >= 0) & (probs < np.inf))
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise RowError(
            row,
            f", class {shown(classes[column])}: probability {probs[row, column]} is not between 0 "
            "and 1",
        )
    sums = probs.sum(1)
    off = np.abs(sums - 1)
    if off.max() > SUM_TOLERANCE:
        row = int(np.argmax(off > SUM_TOLERANCE))
        raise RowError(
            row,
            f": probabilities sum to {sums[row]:.9g}, expected 1 ± {SUM_TOLERANCE:g}; "
            "renormalise (--renormalise) divides by the sum",
        )
    if off.max() > _EXACT:
        probs = probs if probs.flags.writeable else probs.copy()
        probs /= np.where(off > _EXACT, sums, 1.0)[:, None]
    if probs.max() > 1:
        # Rounding, as in a weighted mean of certain rows.
        probs = probs if probs.flags.writeable else probs.copy()
        np.minimum(probs, 1.0, out=probs)
    return _frozen(probs)


def label_indices(array: ArrayLike | None, rows: int, columns: int) -> NDArray[np.int64] | None:
    """Return [N] int64 class indices, -1 where unlabelled; None where no row is labelled."""
    if array is None:
        return None
    labels = np.asarray(array)
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels must be {rows} integers, one per row (-1: unlabelled), "
            f"got {labels.dtype} of shape {list(labels.shape)}"
        )
    bad = (labels < -1) | (labels >= columns)
    if bad.any():
        row = int(np.argmax(bad))
        raise RowError(
            row, f": label {labels[row]} is not between 0 and {columns - 1} (-1: unlabelled)"
        )
    if not (labels >= 0).any():
        return None
    return _frozen(labels if _is_frozen(array) else labels.astype(np.int64))


def row_ids(names: Sequence[str] | None, rows: int) -> tuple[str, ...] | None:
    """Return N distinct strings."""
    if names is None:
        return None
    # a tuple is immutable: no second copy of millions of ids
    ids = names if isinstance(names, tuple) else tuple(names)
    if any(type(name) is not str for name in ids):
        ids = tuple(map(str, ids))
    if len(ids) != rows:
        raise InputError(f"{len(ids)} ids for {rows} rows")
    if len(set(ids)) < rows:
        first: dict[str, int] = {}
        row = next(row for row, name in enumerate(ids) if first.setdefault(name, row) != row)
        raise RowError(row, f": id {shown(ids[row])} duplicates the id of", first[ids[row]])
    return ids


def finite(name: str, array: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Return [N] float64 without NaN or infinities."""
    values = np.asarray(array, np.float64) if _is_frozen(array) else _float_array(name, array)
    if values.shape != (rows,):
        raise InputError(f"{name} must have shape [{rows}], got {list(values.shape)}")
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise RowError(row, f": {name} is {values[row]}, not a finite number")
    return _frozen(values)


def named_score(name: str, array: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Return [N] float64 without NaN or infinities; the name must be free."""
    if name in (*COMPUTED, *UNCERTAINTIES):
        raise InputError(f"a score cannot be named {name!r}: the name is reserved")
    return finite(f"score {name!r}", array, rows)


def prediction_sets(array: ArrayLike | None, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Return [N, C] booleans, or None without sets."""
    return None if array is None else _frozen(_booleans("sets", array, rows, columns))


def available_options(
    array: ArrayLike | None,
    probs: NDArray[np.float64],
    labels: NDArray[np.int64] | None,
    sets: NDArray[np.bool_] | None,
    classes: Sequence[str],
) -> NDArray[np.bool_] | None:
    """Return [N, C] booleans: which classes a row has; None where every row has all of them.

    Args:
        array: [N, C], or None.
        probs: [N, C], checked; 0 for classes that a row does not have.
        labels: [N], checked, or None.
        sets: [N, C], checked, or None.
        classes: C names.
    """
    if array is None:
        return None
    options = _booleans("available", array, *probs.shape)
    if options.all():
        return None
    few = options.sum(1) < 2
    if few.any():
        raise RowError(int(np.argmax(few)), ": fewer than two options are available")
    absent = ~options
    if sets is not None and (sets & absent).any():
        row, column = np.argwhere(sets & absent)[0]
        raise RowError(
            int(row), f": option {shown(classes[column])} is in the set, but not available"
        )
    if probs[absent].any():
        row, column = np.argwhere(absent & (probs > 0))[0]
        raise RowError(
            int(row),
            f", class {shown(classes[column])}: probability {probs[row, column]} of an option "
            "that is not available",
        )
    if labels is not None:
        wrong = (labels >= 0) & absent[np.arange(len(labels)), labels]
        if wrong.any():
            row = int(np.argmax(wrong))
            raise RowError(
                row, f": the label {shown(classes[labels[row]])} is not an available option"
            )
    return _frozen(options)


def _booleans(name: str, array: ArrayLike, rows: int, columns: int) -> NDArray[np.bool_]:
    values = np.array(array)
    if values.shape != (rows, columns) or values.dtype != np.bool_:
        raise InputError(
            f"{name} must be booleans of shape [{rows}, {columns}], "
            f"got {values.dtype} of shape {list(values.shape)}"
        )
    return values


def row_columns(columns: Mapping[str, Sequence[str | None]], rows: int) -> dict[str, NDArray[Any]]:
    """Return further columns as [N] object arrays of strings and None."""
    return {name: _texts(name, values, rows) for name, values in columns.items()}


def check_further(names: Sequence[str]) -> None:
    """Raise InputError if a name is not allowed for a further column."""
    for name in names:
        if is_ours(name):
            raise InputError(f"a further column cannot be named {name!r}: the name is reserved")


def _texts(name: str, texts: Sequence[str | None], rows: int) -> NDArray[Any]:
    check_further([name])
    if len(texts) != rows:
        raise InputError(f"column {name!r} has {len(texts)} values, but there are {rows} rows")
    values = np.array([None if value is None else str(value) for value in texts], dtype=object)
    return _frozen(values)


def notes(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata as strings; raise InputError for keys reserved by the file format."""
    for key in sorted(RESERVED & metadata.keys()):
        raise InputError(f"metadata cannot have the key {key!r}: the key is reserved")
    return {str(key): str(value) for key, value in metadata.items()}


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    values.setflags(write=False)
    return values


def _is_frozen(values: object) -> TypeGuard[NDArray[Any]]:
    """Return whether a record made this array read-only and the array is not a view."""
    return (
        isinstance(values, np.ndarray)
        and values.dtype in (np.float64, np.int64)
        and values.base is None
        and not values.flags.writeable
    )


def _float_array(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers: {error}") from None
