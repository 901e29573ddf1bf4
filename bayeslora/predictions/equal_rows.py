"""How many rows of one set of predictions are in another, also where they were printed shorter.

A row is the same where all its probabilities are, within a tolerance. Rows that lie as close to
another of their own set say nothing and are left out, and a tolerance at which many do, such as
that of vote shares or of very sure models, is not used at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCES = (1e-12, 1e-9, 1e-6, 1e-4, 1e-3)
"""What is tried: the same numbers, and numbers printed with about 10, 7, 5 and 4 digits, which are
then divided by their sum."""

MOST_EQUAL = 0.5
"""Share of equal rows from which two sets count as one."""

MOST_DISTINCT = 0.9
"""Share of different rows in a set below which equal probabilities say nothing."""

_MOST_ROWS = 20_000
"""Rows of a set that are looked at; of more, as many at equal distances."""

_DIRECTIONS = 3


def share_of_equal_rows(known: Array, others: Array) -> float:
    """Return which share of the rows of `others` is in `known`; 0 where chance may give as much.

    Shares up to `MOST_EQUAL` are those of the very same numbers.

    Args:
        known: [M, C] probabilities.
        others: [N, C] probabilities.
    """
    others = others[:: -(-len(others) // _MOST_ROWS)]
    among_known, among_others = _Near(known), _Near(others)
    share = 0.0
    for tolerance in TOLERANCES:
        repeated = among_known.count(known[:: -(-len(known) // _MOST_ROWS)], tolerance) > 1
        if repeated.mean() > 1 - MOST_DISTINCT:
            continue
        # What repeats within a set, such as rows of all or nothing, is equal but not the same.
        same = (among_known.count(others, tolerance) == 1) & (
            among_others.count(others, tolerance) == 1
        )
        found = float(same.mean())
        least = 0.0 if tolerance == TOLERANCES[0] else MOST_EQUAL
        if found > max(least, _by_chance(float(repeated.mean()), len(others))):
            share = max(share, found)
    return share


def _by_chance(repeated: float, size: int) -> float:
    """Return a share of `size` rows that are near rows of another set hardly ever by chance.

    As many are on average as have a near row in their own set. These come in pairs, whose number is
    known to its square root; two standard deviations of that, and three of the count itself, are
    allowed for.
    """
    pairs = repeated * size / 2
    mean = 2 * (pairs + 2 * float(np.sqrt(pairs + 1))) / size
    return mean + 3 * float(np.sqrt(mean / size))


class _Near:
    """Rows among which near ones are found."""

    def __init__(self, rows: Array) -> None:
        from scipy.spatial import cKDTree

        # In a few random directions near rows stay near, and far ones hardly ever become near.
        self._directions = np.random.default_rng(0).uniform(-1, 1, (rows.shape[1], _DIRECTIONS))
        self._rows = rows
        self._tree: Any = cKDTree(rows @ self._directions)

    def count(self, rows: Array, tolerance: float) -> NDArray[np.int64]:
        """Return [N]: 0, 1, or 2 for two or more rows within `tolerance` in every class."""
        longest = np.sqrt((np.abs(self._directions).sum(0) ** 2).sum())
        _, place = self._tree.query(
            rows @ self._directions, k=2, distance_upper_bound=1.001 * tolerance * float(longest)
        )
        found = place < len(self._rows)
        near = self._rows[np.where(found, place, 0)]
        found &= np.abs(near - rows[:, None]).max(axis=2) <= tolerance
        return np.asarray(found.sum(axis=1))
