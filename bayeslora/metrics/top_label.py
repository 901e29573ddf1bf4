"""Confidence in the predicted class, and whether it was right: all that most scores look at.

The scores of this package take this form and no other. A vector of class labels beside a vector of
confidences, which some libraries accept and turn into a number without meaning, cannot get in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError


@dataclass(frozen=True, eq=False)
class TopLabel:
    """Confidence and correctness of N rows, by rising confidence; made by `top_label`.

    Attributes:
        confidence: [N] float64 in 0 to 1, rising.
        correct: [N] float64, 0 or 1.
        order: [N]; row i here is row `order[i]` of what was given.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.float64]
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.confidence)

    def counts(self, given: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return counts in the order of these rows; one a row where None are given.

        Args:
            given: [N] how often each row occurs in a resample, in the order first given.
        """
        return np.ones(len(self), dtype=np.int64) if given is None else given[self.order]

    def starts(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return [B+1]: bin k holds the rows from `starts[k]` up to `starts[k + 1]`.

        Args:
            edges: [B+1] rising, from 0 to 1. Bins hold their left edge; the last holds both.
        """
        starts = np.searchsorted(self.confidence, edges, side="left")
        starts[0], starts[-1] = 0, len(self)
        return starts

    @cached_property
    def ties(self) -> NDArray[np.int64]:
        """[G]: the last row of each run of equal confidences, counted from the most confident."""
        falling = self.confidence[::-1]
        return np.flatnonzero(np.append(falling[1:] != falling[:-1], True))


def top_label(confidence: ArrayLike, correct: ArrayLike) -> TopLabel:
    """Return rows for the scores of this package.

    Args:
        confidence: [N] probability of the predicted class, float64.
        correct: [N] whether that class is the label: booleans, or 0 and 1.

    Raises:
        InputError: The shapes differ, there is no row, or a value is not allowed.
    """
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not sure.size:
        raise InputError(
            f"confidence and correct must be [N] with N of at least 1, "
            f"got {list(sure.shape)} and {list(right.shape)}"
        )
    for name, values, bad in (
        ("confidence", sure, ~((sure >= 0) & (sure <= 1))),
        ("correct", right, ~((right == 0) | (right == 1))),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            allowed = "from 0 to 1" if name == "confidence" else "0 or 1"
            raise InputError(f"row {row + 1}: {name} is {values[row]}; allowed is {allowed}")
    order = np.argsort(sure, kind="stable")
    return TopLabel(sure[order], right[order], order)


def segment_sums(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """Return [B]: the sum of `values[starts[k]:starts[k + 1]]`, zero where that is empty."""
    running = np.concatenate([np.zeros(1, dtype=values.dtype), np.cumsum(values)])
    return np.asarray(np.diff(running[starts]))
