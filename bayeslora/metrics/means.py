"""Means over rows and their spread over resamples, whatever order the rows came in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.intervals import Resampling, Spread

Clusters = NDArray[np.int64] | None
"""[N] cluster of each row, or None where rows are drawn one by one."""


def in_order(keys: Sequence[NDArray[np.generic]], clusters: Clusters) -> tuple[Rows, Clusters]:
    """Return [N] rows in an order of their own, and their clusters in it.

    A seeded bootstrap of rows in this order does not depend on the order that they came in.

    Args:
        keys: [N] each, the last one first; of rows that are equal in all of them, the cluster.
        clusters: Of the rows as they came.
    """
    if clusters is None:
        return np.lexsort((*keys,)), None
    order = np.lexsort((clusters, *keys))
    return order, clusters[order]


def resampled_means(
    table: NDArray[np.float64],
    keys: Sequence[NDArray[np.generic]],
    how: Resampling,
    clusters: Clusters,
) -> tuple[NDArray[np.float64], Spread]:
    """Return the table in the order of `in_order`, and the spread of its K means over rows.

    Args:
        table: [K, N].
        keys: What the rows are put in order by.
        how: How they are resampled.
        clusters: Of the rows.
    """
    order, own = in_order(keys, clusters)
    table = table[:, order]

    def prepare(kept: Rows) -> Statistic:
        return lambda counts: table[:, kept] @ counts / counts.sum(axis=0)

    return table, how.spread(prepare, [len(order)], [own])
