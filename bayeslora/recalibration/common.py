"""What several recalibrators need: logarithms, targets, base rates, normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR = float(np.finfo(np.float64).eps)
"""Probabilities closer to 0 than this count as this where a logarithm enters a regression."""


def log_probs(probs: NDArray[np.float64], floor: float = FLOOR) -> NDArray[np.float64]:
    """Return logarithms, with probabilities below `floor` read as that."""
    return np.log(np.maximum(probs, floor))


def one_hot(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return [N, C] float64: 1 at the label, else 0."""
    return np.asarray(labels[:, None] == np.arange(num_classes), dtype=np.float64)


def base_rates(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return [C]: each class's share of the labels by Laplace's rule, (k + 1) / (N + C)."""
    counts = np.bincount(labels, minlength=num_classes)
    return np.asarray((counts + 1) / (len(labels) + num_classes))


def renormalised(values: NDArray[np.float64], stated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what was fitted to each class against the rest as probabilities that sum to 1.

    Args:
        values: [N, C] from 0 on, each class for itself.
        stated: [N, C] the probabilities before; a row whose values are all zero keeps them, since
            nothing in it says how to share out the 1.
    """
    sums = values.sum(1, keepdims=True)
    return np.where(sums > 0, values / np.where(sums > 0, sums, 1.0), stated)
