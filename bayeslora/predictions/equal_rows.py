"""Share of the rows of one set of predictions found in another, even if printed with fewer digits.

Rows are equal if all their probabilities are, within a tolerance. A row that is as close to another
row of its own set is uninformative and left out. A tolerance at which this holds for many rows, as
with vote shares or very confident models, is skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCES = (1e-12, 1e-9, 1e-6, 1e-4, 1e-3)
"""Identical numbers, and numbers printed with about 10, 7, 5 and 4 digits and then divided by their
sum."""

MOST_EQUAL = 0.5
"""Share of equal rows from which two sets count as the same."""

MOST_DISTINCT = 0.9
"""Share of distinct rows in a set below which equal probabilities are uninformative."""

_MOST_ROWS = 20_000
"""Most rows of a set to compare; larger sets are subsampled at equal distances."""

_DIRECTIONS = 3


def share_of_equal_rows(known: Array, others: Array) -> float:
    """Return the share of the rows of `others` that are in `known`; 0 if chance could explain it.

    Shares up to `MOST_EQUAL` count identical numbers only.

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
        # Rows repeated within a set, such as one-hot rows, are equal but not the same row.
        same = (among_known.count(others, tolerance) == 1) & (
            among_others.count(others, tolerance) == 1
        )
        equal = float(same.mean())
        least = 0.0 if tolerance == TOLERANCES[0] else MOST_EQUAL
        if equal > max(least, _by_chance(float(repeated.mean()), len(others))):
            share = max(share, equal)
    return share


def _by_chance(repeated: float, size: int) -> float:
    """Return an upper bound on the share of `size` rows near rows of another set by chance.

    The expected share is the share of rows with a near row in their own set. These come in pairs,
    and the number of pairs has a standard error of its square root; the bound adds two such
    standard errors, and three standard deviations of the count itself.
    """
    pairs = repeated * size / 2
    mean = 2 * (pairs + 2 * float(np.sqrt(pairs + 1))) / size
    return mean + 3 * float(np.sqrt(mean / size))


class _Near:
    """Index of rows for counting near ones."""

    def __init__(self, rows: Array) -> None:
        from scipy.spatial import cKDTree

        # Projections on a few random directions keep near rows near; far ones rarely become near.
        self._directions = np.random.default_rng(0).uniform(-1, 1, (rows.shape[1], _DIRECTIONS))
        self._rows = rows
        self._tree: Any = cKDTree(rows @ self._directions)

    def count(self, rows: Array, tolerance: float) -> NDArray[np.int64]:
        """Return [N]: 0, 1, or 2 for two or more rows within `tolerance` in every class."""
        longest = np.sqrt((np.abs(self._directions).sum(0) ** 2).sum())
        _, indices = self._tree.query(
            rows @ self._directions, k=2, distance_upper_bound=1.001 * tolerance * float(longest)
        )
        matches = indices < len(self._rows)
        near = self._rows[np.where(matches, indices, 0)]
        matches &= np.abs(near - rows[:, None]).max(axis=2) <= tolerance
        return np.asarray(matches.sum(axis=1))
