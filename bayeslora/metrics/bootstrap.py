"""How much a score would change if other rows had been drawn: the bootstrap.

A resample is a column of counts: how often each row occurs. A score that can be computed from
counts is resampled without copying a row, many resamples at a time, and memory stays bounded
however many rows and resamples there are. Efron (1979), Annals of Statistics 7.

Where rows come in clusters, such as the two sentences of a twin, whole clusters are drawn (Davison
and Hinkley 1997, section 3.8): rows of one cluster err together, and drawing them one by one would
make the intervals too narrow.

Beyond `MAX_ROWS` rows a resample holds as many draws as there are rows, but only from `MAX_ROWS`
of them, chosen at random: the spread comes out the same, in a fraction of the time. This is the
bag of little bootstraps (Kleiner, Talwalkar, Sarkar and Jordan 2014, arXiv:1112.5016) with one bag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bayeslora.option_checks import check_count
from bayeslora.runtime import threaded

MAX_ROWS = 50_000
"""The number of rows above which resamples are drawn from a random part of them."""

BLOCK = 60_000
"""Counts that are held at a time, so that they stay in a processor's cache; `block_size`."""

LEAST_BLOCK = 4
"""Resamples in the smallest block, of fewer than `MOST_NUMBERS` counts."""

MOST_NUMBERS = 1_000_000
"""Counts that are held at a time where a resample has no more of them."""

JACKKNIFE_GROUPS = 100
"""Parts that the jackknife leaves out in turn, where there are more rows or clusters than that."""

Counts = NDArray[np.float64]
"""[N] how often each row occurs, or [N, R] for R resamples at once."""

Rows = NDArray[np.int64]
Statistic = Callable[..., NDArray[np.float64]]
"""Takes one array of counts a group of rows, [N] or [N, R] each; returns [K] or [K, R] scores."""

Prepare = Callable[..., Statistic]
"""From a vector of row numbers per group to the statistic of these rows."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One group of rows: what is kept of it, and what is drawn from that.

    Attributes:
        rows: [k] numbers of the rows that resamples are drawn from.
        units: How many rows or clusters that are.
        draws: How many of them a resample holds.
        cluster: [k] the cluster of each kept row, from 0; None where rows are drawn one by one.
    """

    rows: Rows
    units: int
    draws: int
    cluster: NDArray[np.int64] | None

    def of_rows(self, counts: Counts) -> Counts:
        """Return counts [k, R] of rows from counts [units, R] of what was drawn."""
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
    """Return resampled scores minus scores, [num_resamples, K].

    Args:
        prepare: Takes a vector of row numbers per group, and returns the statistic of these rows.
        sizes: Rows in each group; groups are resampled independently, each at its own size.
        num_resamples: How many resamples.
        seed: Of the generators that draw them.
        clusters: For each group the cluster of each row, from 0 on without gaps, or None.
        stream: Tells resamples of the second and later groups apart from those of other calls; the
            first group's depend on the seed alone.
        width: Numbers that the statistic keeps of a resample, where they are more than the rows.

    Raises:
        InputError: `num_resamples` is below 1, or beyond `LARGEST_COUNT`.
    """
    check_count("num_resamples", num_resamples, least=1)
    generators, groups = _groups(sizes, clusters, seed, stream)
    statistic = prepare(*(group.rows for group in groups))
    centre = statistic(*(np.ones(len(group.rows)) for group in groups))
    block = block_size(max(width, *(len(group.rows) for group in groups)))

    def resample(drawn: list[NDArray[np.int64]]) -> NDArray[np.float64]:
        each = zip(groups, drawn, strict=True)
        return statistic(*(group.of_rows(_counts(group, units)) for group, units in each))

    def draws() -> Iterator[list[NDArray[np.int64]]]:
        for done in range(0, num_resamples, block):
            size = min(block, num_resamples - done)
            each = zip(groups, generators, strict=True)
            yield [one.integers(group.units, size=(size, group.draws)) for group, one in each]

    parts = list(threaded(resample, draws()))
    return np.asarray(np.concatenate(parts, axis=-1).T - centre)


def block_size(numbers: int) -> int:
    """Return how many resamples of so many numbers each are worked on at a time."""
    least = min(LEAST_BLOCK, MOST_NUMBERS // numbers)
    return max(1, least, BLOCK // numbers)


def acceleration(
    prepare: Prepare,
    sizes: Sequence[int],
    seed: int,
    clusters: Sequence[NDArray[np.int64] | None] | None = None,
    *,
    stream: int = 0,
) -> NDArray[np.float64]:
    """Return [K]: how fast the spread of each score changes with the score, for BCa intervals.

    A sixth of the skewness of the jackknife values, which leave out a row (or a cluster, or one of
    `JACKKNIFE_GROUPS` parts) in turn; parts of h rows lose a factor √h of skewness and gain it back
    in their number. Efron (1987), JASA 82, equation 6.6; for several groups Davison and Hinkley
    (1997), equation 5.25.

    Args:
        prepare: As in `bootstrap_deviations`, and so are the others.
        sizes: Rows in each group.
        seed: Of the generators.
        clusters: For each group the cluster of each row, or None.
        stream: As in `bootstrap_deviations`.
    """
    generators, groups = _groups(sizes, clusters, seed, stream)
    statistic = prepare(*(group.rows for group in groups))
    second: NDArray[np.float64] | float = 0.0
    third: NDArray[np.float64] | float = 0.0
    for place, group in enumerate(groups):
        if group.units < 2:
            continue
        left_out = group.of_rows(_without_parts(group.units, generators[place]))
        ones = [np.ones((len(other.rows), left_out.shape[1])) for other in groups]
        values = statistic(*ones[:place], left_out, *ones[place + 1 :])
        apart = values.mean(axis=1, keepdims=True) - values
        share = group.units / group.draws
        second = second + (apart**2).sum(axis=1) * share
        third = third + (apart**3).sum(axis=1) * share**2
    scale = np.atleast_1d(np.asarray(second, dtype=np.float64)) ** 1.5
    return np.nan_to_num(np.where(scale > 0, third / np.where(scale > 0, 6 * scale, 1.0), 0.0))


def _groups(
    sizes: Sequence[int],
    clusters: Sequence[NDArray[np.int64] | None] | None,
    seed: int,
    stream: int,
) -> tuple[list[np.random.Generator], list[Drawn]]:
    """Return the groups, with a generator each, so that blocks of any size draw the same."""
    others = [np.random.default_rng([seed, stream, place]) for place in range(1, len(sizes))]
    generators = [np.random.default_rng(seed), *others]
    each = zip(sizes, clusters or [None] * len(sizes), generators, strict=True)
    return generators, [_drawn(*one) for one in each]


def _drawn(size: int, cluster: NDArray[np.int64] | None, generator: np.random.Generator) -> Drawn:
    if cluster is None:
        rows = np.arange(size)
        if size > MAX_ROWS:
            rows = np.sort(generator.choice(size, MAX_ROWS, replace=False))
        return Drawn(rows, len(rows), size, None)
    units = int(cluster.max()) + 1
    if size <= MAX_ROWS:
        return Drawn(np.arange(size), units, units, cluster)
    kept = np.sort(generator.choice(units, max(1, MAX_ROWS * units // size), replace=False))
    place = np.full(units, -1)
    place[kept] = np.arange(len(kept))
    rows = np.flatnonzero(place[cluster] >= 0)
    return Drawn(rows, len(kept), units, place[cluster[rows]])


def _counts(group: Drawn, drawn: NDArray[np.int64]) -> Counts:
    """Return [units, R]: how often each unit is among the draws, [R, draws]."""
    resamples = len(drawn)
    if resamples <= LEAST_BLOCK:
        # Few and long ones: to count each by itself is cheaper than to number them apart.
        each = [np.bincount(one, minlength=group.units) for one in drawn]
        return np.stack(each, axis=1).astype(np.float64)
    apart = drawn + group.units * np.arange(resamples)[:, None]
    found = np.bincount(apart.ravel(), minlength=resamples * group.units)
    return np.ascontiguousarray(found.reshape(resamples, -1).T, dtype=np.float64)


def _without_parts(units: int, generator: np.random.Generator) -> Counts:
    """Return [units, G] counts that leave out one of G random parts each."""
    parts = min(units, JACKKNIFE_GROUPS)
    part = generator.permutation(np.arange(units) % parts)
    return np.asarray(part[:, None] != np.arange(parts), dtype=np.float64)


def cell_matrix(
    cell: NDArray[np.signedinteger],
    row: NDArray[np.signedinteger],
    value: NDArray[np.float64],
    shape: tuple[int, int],
) -> Any:
    """Return the sparse matrix whose product with counts [N, R] is the sums of cells [K, R].

    Args:
        cell: [M] the cell that an entry belongs to.
        row: [M] the row that it comes from.
        value: [M] what the row adds to the cell; entries of the same row and cell are added.
        shape: K and N.
    """
    return sparse.csr_array((value, (cell, row)), shape=shape)
