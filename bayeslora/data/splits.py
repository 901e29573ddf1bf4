"""Stratified random subsets of rows.

Rows are shuffled within their class, and the row with rank k (from 0) in a class of n rows gets the
key (k + 1/2) / n. The rows with the smallest keys are a stratified sample: this is Webster's method
of apportionment in a single sort.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.examples import Examples
from bayeslora.errors import InputError

Ints = NDArray[np.int64]


def stratified_sample(labels: Ints, size: int, seed: int, *, balanced: bool = False) -> Ints:
    """Return `size` row indices drawn without replacement, stratified by class.

    Rows are shuffled within their class, and the row with rank k (from 0) in a class of n rows gets
    the key (k + 1/2) / n. The rows with the smallest keys are the sample: this is Webster's method
    of apportionment in a single sort.

    Args:
        labels: [N] class indices.
        size: Number of rows to draw, from the number of classes to N.
        seed: Seed for the choice of rows; equal seeds give equal rows.
        balanced: Whether to draw equally many rows per class (up to one) instead of keeping the
            class proportions.

    Returns:
        [size] int64, ascending; every class has at least one row.

    Raises:
        InputError: `size` is out of range.
    """
    rank, count = _ranks(labels, seed)
    classes = len(np.unique(labels))
    if not classes <= size <= len(labels):
        raise InputError(
            f"cannot draw {size} of {len(labels)} rows: the size must be between {classes} (the "
            f"number of classes) and {len(labels)} (the number of rows)"
        )
    key = rank.astype(np.float64) if balanced else np.where(rank == 0, -1, (rank + 0.5) / count)
    return np.sort(_smallest(key, labels, size))


def stratified_split(labels: Ints, held_out: int | float, seed: int) -> tuple[Ints, Ints]:
    """Split the rows into two parts with about the same class proportions.

    Args:
        labels: [N] class indices.
        held_out: Size of the second part: a number of rows (int) or a fraction of N (float).
        seed: Seed for the choice of rows; equal seeds give equal parts.

    Returns:
        The row indices of the first part and of the held-out part, int64, ascending. Every class is
        in both parts.

    Raises:
        InputError: A class has fewer than two rows, or a part is too small to contain every class.
    """
    rank, count = _ranks(labels, seed)
    classes = len(np.unique(labels))
    size = _held_out_size(held_out, len(labels))
    if count.min() < 2:
        raise InputError(
            f"class {labels[count.argmin()]} has one row, but needs two to be in both parts"
        )
    if not classes <= size <= len(labels) - classes:
        raise InputError(
            f"cannot hold out {size} of {len(labels)} rows: both parts need at least one row of "
            f"each of the {classes} classes; hold out {classes} to {len(labels) - classes} rows"
        )
    key = np.where(rank == 0, -1, np.where(rank == count - 1, 2, (rank + 0.5) / count))
    out = _smallest(key, labels, size)
    mask = np.ones(len(labels), dtype=bool)
    mask[out] = False
    return np.flatnonzero(mask), np.sort(out)


def grouped_split(groups: Sequence[str], held_out: int | float, seed: int) -> tuple[Ints, Ints]:
    """Split the rows into two parts that keep groups together.

    Groups are drawn at random until the second part has at least the requested number of rows.

    Args:
        groups: [N] names of groups, such as twins.
        held_out: Size of the second part: a number of rows (int) or a fraction of N (float).
        seed: Seed for the choice of groups.

    Returns:
        The row indices of the first part and of the held-out part, int64, ascending.
    """
    rank = _group_ranks(groups, seed)
    size = _held_out_size(held_out, len(groups))
    last = np.sort(rank)[min(max(size, 1), len(groups)) - 1]
    out = rank <= last
    return np.flatnonzero(~out), np.flatnonzero(out)


def split_examples(examples: Examples, labels: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """Split examples into training and validation rows, stratified by class.

    Groups stay together, and held-out rows whose input is also in the first part move to it.

    Args:
        examples: N rows.
        labels: [N] class indices.
        share: Fraction of the rows in the second part.
        seed: Seed for the choice of rows.

    Returns:
        The row indices of the first part and of the held-out part, int64, ascending.

    Raises:
        InputError: A part would lack a class, or every held-out input is repeated in other rows.
    """
    strata = examples.strata(labels)
    if examples.groups is None:
        train, held_out = stratified_split(strata, share, seed)
    else:
        train, held_out = grouped_split(examples.groups, share, seed)
    text = examples.input_numbers
    seen = np.isin(text[held_out], text[train])
    train, held_out = np.sort(np.concatenate([train, held_out[seen]])), held_out[~seen]
    if not len(held_out):
        raise InputError(
            "hold_out: every held-out text also occurs in the other rows; remove hold_out"
        )
    return train, held_out


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> Ints:
    """Return the fold of each row, keeping groups together.

    Args:
        groups: [N] names of groups.
        folds: Number of folds K, from 2 to the number of groups.
        seed: Seed for the assignment of groups to folds.

    Returns:
        [N] int64 from 0 to K − 1.
    """
    return np.asarray(_group_ranks(groups, seed) % folds)


def folds_of(examples: Examples, labels: Ints, folds: int, seed: int) -> Ints:
    """Return the fold of each example, stratified by class; equal inputs, or a group, share one.

    Args:
        examples: N examples.
        labels: [N] class indices.
        folds: Number of folds K, from 2 to N.
        seed: Seed for the assignment.

    Returns:
        [N] int64 from 0 to K − 1.
    """
    if examples.groups is not None:
        return grouped_folds(examples.groups, folds, seed)
    number = examples.input_numbers
    first = np.unique(number, return_index=True)[1]
    return stratified_folds(labels[first], folds, seed)[number]


def _group_ranks(groups: Sequence[str], seed: int) -> Ints:
    """Return the rank of each row's group in a random order of the groups, [N]."""
    number = np.unique(np.asarray(groups), return_inverse=True)[1]
    return np.asarray(np.random.default_rng(seed).permutation(number.max() + 1)[number])


def stratified_folds(labels: Ints, folds: int, seed: int) -> Ints:
    """Return the fold of each row; folds differ by at most one row, in total and per class.

    Args:
        labels: [N] class indices.
        folds: Number of folds K, from 2 to N.
        seed: Seed for the assignment of rows to folds; equal seeds give equal folds.

    Returns:
        [N] int64 from 0 to K − 1.
    """
    rank, _ = _ranks(labels, seed)
    # Rows are dealt like cards, class after class, so that not all classes begin at fold 0.
    order = np.lexsort((rank, labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _held_out_size(held_out: int | float, rows: int) -> int:
    return held_out if isinstance(held_out, int) else round(held_out * rows)


def _ranks(labels: Ints, seed: int) -> tuple[Ints, Ints]:
    """Return the rank of each row in a random order of its class, and the size of the class."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.empty(len(labels), dtype=np.int64)
    count = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - starts
    count[order] = np.repeat(counts, counts)
    return rank, count


def _smallest(key: NDArray[np.float64], labels: Ints, size: int) -> Ints:
    """Return the rows with the `size` smallest keys; ties go to the lower class."""
    return np.lexsort((labels, key))[:size].astype(np.int64)
