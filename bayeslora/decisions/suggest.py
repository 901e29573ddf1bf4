"""Rows worth a label: those between two classes, and unlike each other.

Rows are drawn by k-means++ (Arthur and Vassilvitskii 2007) on the probabilities, in proportion to
(1 − margin) times the squared distance to the nearest row chosen before, with the margin between
the two most probable classes. The former prefers rows that are hard, the latter rows that differ;
either alone is worse (`python -m benchmarks.suggest`).

Source: Ash et al. 2020, arXiv 1906.03671, section 3, for k-means++ over rows of large uncertainty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslora.option_checks import as_integer
from bayeslora.predictions.record import Predictions


def suggest(predictions: Predictions, num_rows: int, *, seed: int = 0) -> Predictions:
    """Return the rows to label next, in the order in which they were chosen.

    Args:
        predictions: What a model predicts for rows without labels, [N].
        num_rows: Number of rows to return, at most N.
        seed: Seed of the draws.

    Raises:
        InputError: `num_rows` is not between 1 and N.
    """
    from sklearn.cluster import kmeans_plusplus

    count = as_integer("num_rows", num_rows, 1, len(predictions))
    weights = 1 - margins(predictions)
    if not weights.any():
        weights = np.ones(len(weights))
    options = {"sample_weight": weights, "random_state": seed}
    rows = kmeans_plusplus(predictions.probs, count, **options)[1]
    return predictions.take(_distinct(rows, weights))


def margins(predictions: Predictions) -> NDArray[np.float64]:
    """Return the difference of the two highest probabilities, [N]."""
    rising = np.sort(predictions.probs, 1)
    return np.asarray(rising[:, -1] - rising[:, -2])


def _distinct(rows: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Replace rows that were chosen twice, as among equal predictions, by those of most weight."""
    first = np.sort(np.unique(rows, return_index=True)[1])
    others = np.setdiff1d(np.arange(len(weights)), rows)
    others = others[np.argsort(-weights[others], kind="stable")]
    return np.concatenate([rows[first], others[: len(rows) - len(first)]])
