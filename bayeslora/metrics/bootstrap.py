"""How much a score would change if other rows had been drawn: the bootstrap.

A resample is a vector of counts: how often each row occurs. A score that can be computed from
counts is resampled without copying a row, and memory stays at a few numbers a row, however many
resamples there are. Efron (1979), Annals of Statistics 7.

Beyond `MAX_ROWS` rows a resample holds as many draws as there are rows, but only from `MAX_ROWS`
of them, chosen at random: the spread comes out the same, in a fraction of the time. This is the
bag of little bootstraps (Kleiner, Talwalkar, Sarkar and Jordan 2014, arXiv:1112.5016) with one bag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError

MAX_ROWS = 100_000
"""The number of rows above which resamples are drawn from a random part of them."""

Counts = NDArray[np.int64]
Rows = NDArray[np.int64]
Statistic = Callable[..., NDArray[np.float64]]
"""Takes one vector of counts a group of rows; returns [K] scores."""


def bootstrap_deviations(
    prepare: Callable[..., Statistic], sizes: Sequence[int], num_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return resampled scores minus scores, [num_resamples, K].

    Args:
        prepare: Takes one vector of row numbers a group, and returns the statistic of these rows.
        sizes: Rows in each group; groups are resampled independently, each at its own size.
        num_resamples: How many resamples.
        seed: Of the generator that draws them.

    Raises:
        InputError: `num_resamples` is below 1.
    """
    if num_resamples < 1:
        raise InputError(f"num_resamples must be at least 1, got {num_resamples}")
    generator = np.random.default_rng(seed)
    kept = [_some_rows(size, generator) for size in sizes]
    statistic = prepare(*kept)
    centre = statistic(*(np.ones(len(rows), dtype=np.int64) for rows in kept))
    cells = [(len(rows), size) for rows, size in zip(kept, sizes, strict=True)]
    draws = [
        statistic(*(_counts(*group, generator) for group in cells)) for _ in range(num_resamples)
    ]
    return np.asarray(draws) - centre


def _some_rows(size: int, generator: np.random.Generator) -> Rows:
    if size <= MAX_ROWS:
        return np.arange(size)
    return np.sort(generator.choice(size, MAX_ROWS, replace=False))


def _counts(cells: int, draws: int, generator: np.random.Generator) -> Counts:
    return np.bincount(generator.integers(cells, size=draws), minlength=cells)
