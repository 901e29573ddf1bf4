"""What the parts of a `Predictions` record must be, each checked with an error that names the row.

Each function takes a part as it was given and returns it as the record keeps it: copied, converted,
read-only. Rows are counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError, RowError
from bayeslora.plain_text import shown
from bayeslora.predictions.columns import SUM_TOLERANCE
from bayeslora.predictions.files import RESERVED, UNCERTAINTIES, is_ours

COMPUTED = ("max_probability", "entropy")
"""Uncertainty scores that follow from the probabilities."""

_PART = 65_536  # rows that are checked at a time
_EXACT = 1e-12  # sums this close to 1 are left alone, so that saving and loading changes no bit


def class_names(given: Sequence[str]) -> tuple[str, ...]:
    """Return two or more distinct, non-empty names."""
    classes = tuple(given)
    if len(classes) < 2:
        raise InputError(f"classes must be two or more names, got {classes!r}")
    seen: set[str] = set()
    for index, name in enumerate(classes):
        if not isinstance(name, str) or not name:
            raise InputError(f"class {index + 1}: a name must be a non-empty string, got {name!r}")
        if name in seen:
            raise InputError(f"class {index + 1}: the name {name!r} is already taken")
        seen.add(name)
    return classes


def probabilities(
    given: ArrayLike, classes: Sequence[str], *, in_place: bool = False
) -> NDArray[np.float64]:
    """Return [N, C] float64 with rows that sum to 1, as far as they did within `SUM_TOLERANCE`.

    Args:
        given: [N, C]; an array that is one of a record already is not copied.
        classes: C names.
        in_place: Whether `given` is a fresh array that may be changed and kept.
    """
    kept = in_place or _is_frozen(given)
    probs = np.asarray(given, np.float64) if kept else _float_array("probs", given)
    if probs.ndim != 2 or len(probs) < 1 or probs.shape[1] != len(classes):
        raise InputError(
            f"probs must be [rows, {len(classes)} classes] with at least 1 row, "
            f"got shape {list(probs.shape)}"
        )
    _check_values(probs, classes)
    sums = np.concatenate([part.sum(1) for _, part in _parts(probs)])
    off = np.abs(sums - 1)
    if off.max() > SUM_TOLERANCE:
        row = int(np.argmax(off > SUM_TOLERANCE))
        raise RowError(
            row,
            f": probabilities sum to {sums[row]:.9g}; allowed is 1 ± {SUM_TOLERANCE:g} "
            "(renormalise, --renormalise, divides by the sum)",
        )
    if off.max() > _EXACT:
        probs = probs if probs.flags.writeable else probs.copy()
        probs /= np.where(off > _EXACT, sums, 1.0)[:, None]
    if max(part.max() for _, part in _parts(probs)) > 1:
        # By rounding, as in a weighted mean of certain rows.
        probs = probs if probs.flags.writeable else probs.copy()
        np.minimum(probs, 1.0, out=probs)
    return _frozen(probs)


def _check_values(probs: NDArray[np.float64], classes: Sequence[str]) -> None:
    for before, part in _parts(probs):
        bad = np.argwhere(~((part >= 0) & (part < np.inf)))
        if bad.size:
            row, column = bad[0]
            raise RowError(
                int(before + row),
                f", class {shown(classes[column])}: probability {part[row, column]}; allowed is 0 "
                "to 1",
            )


def _parts(values: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield runs of rows with the number of rows before, so that temporaries stay small."""
    for before in range(0, len(values), _PART):
        yield before, values[before : before + _PART]


def label_indices(given: ArrayLike | None, rows: int, columns: int) -> NDArray[np.int64] | None:
    """Return [N] int64 class indices, -1 where unlabelled; None where no row is labelled."""
    if given is None:
        return None
    labels = np.asarray(given)
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels must be {rows} integers, one per row (-1: unlabelled), "
            f"got {labels.dtype} of shape {list(labels.shape)}"
        )
    bad = (labels < -1) | (labels >= columns)
    if bad.any():
        row = int(np.argmax(bad))
        raise RowError(row, f": label {labels[row]} is outside 0 to {columns - 1} (-1: unlabelled)")
    if not (labels >= 0).any():
        return None
    return _frozen(labels if _is_frozen(given) else labels.astype(np.int64))


def row_ids(given: Sequence[str] | None, rows: int) -> tuple[str, ...] | None:
    """Return N distinct strings."""
    if given is None:
        return None
    # a tuple is immutable, and a file of millions of rows has no use for a second one
    ids = given if isinstance(given, tuple) else tuple(given)
    if any(type(name) is not str for name in ids):
        ids = tuple(map(str, ids))
    if len(ids) != rows:
        raise InputError(f"{len(ids)} ids for {rows} rows")
    if len(set(ids)) < rows:
        first: dict[str, int] = {}
        row = next(row for row, name in enumerate(ids) if first.setdefault(name, row) != row)
        raise RowError(row, f": id {shown(ids[row])} is already the id of", first[ids[row]])
    return ids


def finite(name: str, given: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Return [N] float64 without NaN or infinities."""
    values = np.asarray(given, np.float64) if _is_frozen(given) else _float_array(name, given)
    if values.shape != (rows,):
        raise InputError(f"{name} must have shape [{rows}], got {list(values.shape)}")
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise RowError(row, f": {name} is {values[row]}, not a finite number")
    return _frozen(values)


def named_score(name: str, given: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Return [N] float64 without NaN or infinities; the name must be free."""
    if name in (*COMPUTED, *UNCERTAINTIES):
        raise InputError(f"a score cannot be called {name!r}: that name has a fixed meaning")
    return finite(f"score {name!r}", given, rows)


def prediction_sets(given: ArrayLike | None, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Return [N, C] booleans, or None where there are none."""
    return None if given is None else _frozen(_booleans("sets", given, rows, columns))


def available_options(
    given: ArrayLike | None,
    probs: NDArray[np.float64],
    labels: NDArray[np.int64] | None,
    sets: NDArray[np.bool_] | None,
    classes: Sequence[str],
) -> NDArray[np.bool_] | None:
    """Return [N, C] booleans: which classes a row has; None where every row has all of them.

    Args:
        given: [N, C], or None.
        probs: [N, C], checked; 0 for classes that a row does not have.
        labels: [N], checked, or None.
        sets: [N, C], checked, or None.
        classes: C names.
    """
    if given is None:
        return None
    options = _booleans("available", given, *probs.shape)
    if options.all():
        return None
    few = options.sum(1) < 2
    if few.any():
        raise RowError(int(np.argmax(few)), ": fewer than two options are available")
    absent = ~options
    if sets is not None and (sets & absent).any():
        row, column = np.argwhere(sets & absent)[0]
        raise RowError(int(row), f": option {shown(classes[column])} is in the set, but absent")
    if probs[absent].any():
        row, column = np.argwhere(absent & (probs > 0))[0]
        raise RowError(
            int(row),
            f", class {shown(classes[column])}: probability {probs[row, column]} of an option that "
            "the row does not have",
        )
    if labels is not None:
        wrong = (labels >= 0) & absent[np.arange(len(labels)), labels]
        if wrong.any():
            row = int(np.argmax(wrong))
            raise RowError(row, f": the label {shown(classes[labels[row]])} is an absent option")
    return _frozen(options)


def _booleans(name: str, given: ArrayLike, rows: int, columns: int) -> NDArray[np.bool_]:
    values = np.array(given)
    if values.shape != (rows, columns) or values.dtype != np.bool_:
        raise InputError(
            f"{name} must be booleans of shape [{rows}, {columns}], "
            f"got {values.dtype} of shape {list(values.shape)}"
        )
    return values


def row_columns(given: Mapping[str, Sequence[str | None]], rows: int) -> dict[str, NDArray[Any]]:
    """Return further columns as [N] arrays of objects, each a string or None."""
    return {name: _texts(name, values, rows) for name, values in given.items()}


def check_further(names: Sequence[str]) -> None:
    """Raise InputError for a name that a further column cannot have."""
    for name in names:
        if is_ours(name):
            raise InputError(f"a further column cannot be called {name!r}: files use that name")


def _texts(name: str, given: Sequence[str | None], rows: int) -> NDArray[Any]:
    check_further([name])
    if len(given) != rows:
        raise InputError(f"column {name!r} has {len(given)} values for {rows} rows")
    values = np.array([None if value is None else str(value) for value in given], dtype=object)
    return _frozen(values)


def notes(given: Mapping[str, str]) -> dict[str, str]:
    """Return metadata as strings; the keys that files use for themselves are refused."""
    for key in sorted(RESERVED & given.keys()):
        raise InputError(f"metadata cannot hold {key!r}: files use that key for themselves")
    return {str(key): str(value) for key, value in given.items()}


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    values.setflags(write=False)
    return values


def _is_frozen(values: object) -> TypeGuard[NDArray[Any]]:
    """Return whether a record made this array read-only, and it is no view of another."""
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
