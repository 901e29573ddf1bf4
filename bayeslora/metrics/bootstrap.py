"""The bootstrap: how much a score would change with other rows.

A resample is a column of counts: how often each row occurs. Scores that can be computed from counts
are resampled without copying rows, many resamples at a time, with bounded memory for any number of
rows and resamples. Efron (1979), Annals of Statistics 7.

If rows form clusters, such as the two sentences of a twin, whole clusters are drawn (Davison and
Hinkley 1997, section 3.8): errors are correlated within a cluster, and drawing rows independently
would make the intervals too narrow.

Beyond `MAX_ROWS` rows a resample has as many draws as there are rows, but only from a random subset
of `MAX_ROWS` rows: the spread is the same, in a fraction of the time. This is the bag of little
bootstraps (Kleiner, Talwalkar, Sarkar and Jordan 2014, arXiv:1112.5016) with one bag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import counted
from bayeslora.predictions.record import Predictions
from bayeslora.processes import threaded

MAX_ROWS = 50_000
"""Number of rows above which resamples are drawn from a random subset."""

BLOCK = 60_000
"""Counts held in memory at a time, to fit in the processor's cache; see `blocks`."""

LEAST_BLOCK = 4
"""Smallest number of resamples in a block, if they have fewer than `MOST_NUMBERS` counts."""

MOST_NUMBERS = 1_000_000
"""Counts held in memory at a time, unless a single resample has more."""

Counts = NDArray[np.float64]
"""[N] how often each row occurs, or [N, R] for R resamples at once."""

Rows = NDArray[np.int64]
Statistic = Callable[..., NDArray[np.float64]]
"""From one array of counts per group of rows, [N] or [N, R] each, to scores, [K] or [K, R]."""

Prepare = Callable[..., Statistic]
"""From one vector of row indices per group to the statistic of these rows."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The subset of a group of rows that resamples are drawn from.

    Attributes:
        rows: [k] indices of the rows that resamples are drawn from.
        units: Number of rows or clusters in the subset.
        draws: Number of rows or clusters drawn per resample.
        cluster: [k] cluster of each row, from 0; None if rows are drawn independently.
    """

    rows: Rows
    units: int
    draws: int
    cluster: NDArray[np.int64] | None

    def of_rows(self, counts: Counts) -> Counts:
        """Return counts of rows, [k, R], from counts of rows or clusters, [units, R]."""
        return counts if self.cluster is None else counts[self.cluster]


def bootstrap_deviations(
    prepare: Prepare,
    sizes: Sequence[int],
    num_resamples: int,
    seed: int,
    clusters: Sequence[NDArray[np.int64] | None] | None = None,
    *,
    stream: int = 0,
    width: int = 1,
) -> NDArray[np.float64]:
    """Return the resampled scores minus the scores, [num_resamples, K].

    Args:
        prepare: Takes a vector of row indices per group and returns the statistic of these rows.
        sizes: Number of rows in each group; groups are resampled independently, each with its own
            size.
        num_resamples: Number of resamples.
        seed: Seed of the generators.
        clusters: For each group the cluster of each row, numbered from 0 without gaps, or None.
        stream: Makes resamples of the second and later groups differ from those of other calls;
            resamples of the first group depend on the seed alone.
        width: Numbers that the statistic stores per resample, if more than there are rows.
    """
    generators, groups = _groups(sizes, clusters, seed, stream)
    statistic = prepare(*(group.rows for group in groups))
    centre = statistic(*(np.ones(len(group.rows)) for group in groups))
    sizes_of_blocks = blocks(num_resamples, max(width, *(len(group.rows) for group in groups)))

    def resample(drawn: list[NDArray[np.int64]]) -> NDArray[np.float64]:
        each = zip(groups, drawn, strict=True)
        return statistic(*(group.of_rows(_counts(group, units)) for group, units in each))

    def draws() -> Iterator[list[NDArray[np.int64]]]:
        for size in sizes_of_blocks:
            each = zip(groups, generators, strict=True)
            yield [
                generator.integers(group.units, size=(size, group.draws))
                for group, generator in each
            ]

    parts = list(threaded(resample, draws()))
    return np.asarray(np.concatenate(parts, axis=-1).T - centre)


def blocks(resamples: int, numbers: int) -> Iterator[int]:
    """Yield the number of resamples in each block, with `numbers` stored numbers each."""
    size = max(1, min(LEAST_BLOCK, MOST_NUMBERS // numbers), BLOCK // numbers)
    for done in range(0, resamples, size):
        yield min(size, resamples - done)


def _groups(
    sizes: Sequence[int],
    clusters: Sequence[NDArray[np.int64] | None] | None,
    seed: int,
    stream: int,
) -> tuple[list[np.random.Generator], list[Drawn]]:
    """Return one generator per group, so that draws do not depend on block size, and the groups."""
    others = [np.random.default_rng([seed, stream, index]) for index in range(1, len(sizes))]
    generators = [np.random.default_rng(seed), *others]
    each = zip(sizes, clusters or [None] * len(sizes), generators, strict=True)
    return generators, [_drawn(*arguments) for arguments in each]


def _drawn(size: int, cluster: NDArray[np.int64] | None, generator: np.random.Generator) -> Drawn:
    if cluster is None:
        rows = np.arange(size)
        if size > MAX_ROWS:
            rows = np.sort(generator.choice(size, MAX_ROWS, replace=False))
        return Drawn(rows, len(rows), size, None)
    units = num_units(cluster, size)
    if size <= MAX_ROWS:
        return Drawn(np.arange(size), units, units, cluster)
    sample = np.sort(generator.choice(units, max(1, MAX_ROWS * units // size), replace=False))
    index = np.full(units, -1)
    index[sample] = np.arange(len(sample))
    rows = np.flatnonzero(index[cluster] >= 0)
    return Drawn(rows, len(sample), units, index[cluster[rows]])


def _counts(group: Drawn, drawn: NDArray[np.int64]) -> Counts:
    """Return how often each unit occurs, [units, R], in draws [R, draws]."""
    resamples = len(drawn)
    if resamples <= LEAST_BLOCK:
        # Few long resamples: counting each separately is cheaper than giving them distinct numbers.
        each = [np.bincount(indices, minlength=group.units) for indices in drawn]
        return np.stack(each, axis=1).astype(np.float64)
    cells = drawn + group.units * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=resamples * group.units)
    return np.ascontiguousarray(counts.reshape(resamples, -1).T, dtype=np.float64)


def cell_matrix(
    cell: NDArray[np.signedinteger],
    row: NDArray[np.signedinteger],
    value: NDArray[np.float64],
    shape: tuple[int, int],
) -> Any:
    """Return the sparse matrix whose product with row counts [N, R] gives the cell sums [K, R].

    Args:
        cell: [M] cell of each entry.
        row: [M] row of each entry.
        value: [M] contribution of the row to the cell; entries of the same row and cell are summed.
        shape: K and N.
    """
    return sparse.csr_array((value, (cell, row)), shape=shape)


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
