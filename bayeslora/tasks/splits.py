"""Random subsets of rows that respect the classes.

Rows are shuffled within their class, and the row at place k (from 0) of a class with n rows gets
the key (k + 1/2) / n. The rows with the smallest keys are a sample in which every class has its
share: this is Webster's method of apportionment, written as one sort.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.plain_text import counted
from bayeslora.tasks.examples import Examples

Ints = NDArray[np.int64]


def stratified_sample(labels: Ints, size: int, seed: int, *, balanced: bool = False) -> Ints:
    """Return `size` row numbers drawn without replacement, class by class.

    Args:
        labels: [N] class indices.
        size: How many rows to draw, from the number of classes to N.
        seed: Decides which rows of a class are drawn; equal seeds give equal rows.
        balanced: Draw equally many rows of every class (up to one), where the default keeps the
            classes' shares.

    Returns:
        [size] int64, ascending; every class has at least one row.

    Raises:
        InputError: A label is negative, `size` is out of range, or (balanced) a class has fewer
            rows than its part of `size`.
    """
    place, count = _places(labels, seed)
    classes = len(np.unique(labels))
    if not classes <= size <= len(labels):
        raise InputError(
            f"cannot draw {size} of {len(labels)} rows: the size must be between the number of "
            f"classes, {classes}, and the number of rows"
        )
    if balanced:
        _check_enough(labels, -(-size // classes), size)
    key = place.astype(np.float64) if balanced else np.where(place == 0, -1, (place + 0.5) / count)
    return np.sort(_smallest(key, labels, size))


def stratified_split(labels: Ints, held: int | float, seed: int) -> tuple[Ints, Ints]:
    """Divide the rows in two parts in which the classes have about the same shares.

    Args:
        labels: [N] class indices.
        held: How many rows the second part gets (integer), or which fraction of N (float).
        seed: Decides which rows of a class are held out; equal seeds give equal parts.

    Returns:
        The row numbers kept and the row numbers held out, int64, ascending. Every class is in
        both parts.

    Raises:
        InputError: A label is negative, a class has fewer than two rows, or either part is too
            small to have every class.
    """
    place, count = _places(labels, seed)
    classes = len(np.unique(labels))
    size = _held_size(held, len(labels))
    _check_enough(labels, 2, None)
    if not classes <= size <= len(labels) - classes:
        raise InputError(
            f"cannot hold out {size} of {len(labels)} rows: both parts need at least one row of "
            f"each of the {classes} classes, so hold out {classes} to {len(labels) - classes}"
        )
    key = np.where(place == 0, -1, np.where(place == count - 1, 2, (place + 0.5) / count))
    out = _smallest(key, labels, size)
    kept = np.ones(len(labels), dtype=bool)
    kept[out] = False
    return np.flatnonzero(kept), np.sort(out)


def grouped_split(
    labels: Ints, groups: Sequence[str], held: int | float, seed: int
) -> tuple[Ints, Ints]:
    """Divide the rows in two parts, with the rows of each group in one of them.

    Groups are drawn at random until the second part has at least as many rows as wanted.

    Args:
        labels: [N] class indices.
        groups: [N] names of groups, such as those of twins.
        held: How many rows the second part gets (integer), or which fraction of N (float).
        seed: Decides which groups are held out.

    Returns:
        The row numbers kept and the row numbers held out, int64, ascending.

    Raises:
        InputError: A part would lack a class.
    """
    fold = _dealt(groups, seed)
    size = _held_size(held, len(labels))
    order = np.argsort(fold, kind="stable")
    last = fold[order[min(max(size, 1), len(labels)) - 1]]
    out = fold <= last
    for part in (labels[out], labels[~out]):
        if len(np.unique(part)) < len(np.unique(labels)):
            raise InputError(
                f"cannot hold out {size} of {len(labels)} rows in whole groups: both parts need "
                "rows of every class"
            )
    return np.flatnonzero(~out), np.flatnonzero(out)


def split_examples(examples: Examples, labels: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """Divide examples in two parts, classes in proportion: what is fitted to, and validation rows.

    Groups stay together, and an input that the first part has as well stays with it.

    Args:
        examples: N rows.
        labels: [N] class indices.
        share: Of the rows in the second part.
        seed: Decides which rows these are.

    Returns:
        The row numbers kept and the row numbers held out, int64, ascending.

    Raises:
        InputError: A part would not have every class, or no input is in one row alone.
    """
    strata = examples.strata(labels)
    if examples.groups is None:
        kept, held = stratified_split(strata, share, seed)
    else:
        kept, held = grouped_split(strata, examples.groups, share, seed)
    text = examples.input_numbers
    seen = np.isin(text[held], text[kept])
    kept, held = np.sort(np.concatenate([kept, held[seen]])), held[~seen]
    if not len(held):
        raise InputError("hold_out: every text to hold out repeats in other rows; leave it out")
    return kept, held


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> Ints:
    """Return the fold of each row, with the rows of each group in one fold.

    Args:
        groups: [N] names of groups.
        folds: Number of folds K, from 2 to the number of groups.
        seed: Decides which groups are in which fold.

    Returns:
        [N] int64 from 0 to K − 1.

    Raises:
        InputError: `folds` is out of range.
    """
    place = _dealt(groups, seed)
    if not 2 <= folds <= place.max() + 1:
        raise InputError(
            f"the number of folds must be from 2 to {place.max() + 1}, the number of groups of "
            f"rows, got {folds}"
        )
    return np.asarray(place % folds)


def _dealt(groups: Sequence[str], seed: int) -> Ints:
    """Return [N]: the place of each row's group in a random order of the groups."""
    number = np.unique(np.asarray(groups), return_inverse=True)[1]
    return np.asarray(np.random.default_rng(seed).permutation(number.max() + 1)[number])


def stratified_folds(labels: Ints, folds: int, seed: int) -> Ints:
    """Return the fold of each row, so that folds differ by at most one row, and classes too.

    Args:
        labels: [N] class indices.
        folds: Number of folds K, from 2 to N.
        seed: Decides which rows of a class are in which fold; equal seeds give equal folds.

    Returns:
        [N] int64 from 0 to K − 1.

    Raises:
        InputError: A label is negative, or `folds` is out of range.
    """
    place, _ = _places(labels, seed)
    if not 2 <= folds <= len(labels):
        raise InputError(f"the number of folds must be from 2 to {len(labels)}, got {folds}")
    # Dealt like cards, class after class, so that small classes do not all begin at fold 0.
    order = np.lexsort((place, labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _held_size(held: int | float, rows: int) -> int:
    if isinstance(held, int) and not isinstance(held, bool):
        return held
    if not 0 < held < 1:
        raise InputError(
            f"the part to hold out must be a number of rows (an integer) or a fraction between "
            f"0 and 1, got {held!r}"
        )
    return round(held * rows)


def _places(labels: Ints, seed: int) -> tuple[Ints, Ints]:
    """Return each row's place in the random order of its class, and the size of that class."""
    labels = np.asarray(labels)
    if labels.size == 0:
        raise InputError("cannot sample from no rows")
    if labels.min() < 0:
        row = int(np.argmax(labels < 0))
        raise InputError(f"row {row + 1} is unlabelled; stratified sampling needs all labels")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(labels), dtype=np.int64)
    count = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - starts
    count[order] = np.repeat(counts, counts)
    return place, count


def _smallest(key: NDArray[np.float64], labels: Ints, size: int) -> Ints:
    """Return the rows with the `size` smallest keys; equal keys go to the lower class first."""
    return np.lexsort((labels, key))[:size].astype(np.int64)


def _check_enough(labels: Ints, needed: int, size: int | None) -> None:
    names, counts = np.unique(labels, return_counts=True)
    worst = int(np.argmin(counts))
    if counts[worst] < needed:
        why = "to be in both parts" if size is None else f"for {size} rows of {len(names)} classes"
        raise InputError(
            f"class {names[worst]} has {counted(counts[worst], 'row')}, {needed} needed {why}"
        )
