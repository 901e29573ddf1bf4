"""Confidence in the predicted class, and its correctness: the input of most scores.

The scores of this package accept no other form. Class labels with a vector of confidences, which
some libraries accept and turn into a meaningless number, cannot be passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError

Closed = Literal["left", "right"]
"""Which edge a bin includes."""

FEW = 8
"""Number of sums up to which counting those below a level is faster than a binary search."""


@dataclass(frozen=True, eq=False)
class TopLabel:
    """Confidence and correctness of N rows, in original order and sorted; see `top_label`.

    Attributes:
        stated: [N] float64 confidence from 0 to 1, in the original order.
        right: [N] float64 correctness, 0 or 1, in the original order.
    """

    stated: NDArray[np.float64]
    right: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.stated)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """[N] indices that sort the rows by increasing confidence."""
        # A stable sort takes six times as long; sorted rows are kept as is, to resample faster.
        return np.arange(len(self)) if self._in_order else np.argsort(self.stated)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """[N] in increasing order."""
        return self.stated if self._in_order else self.stated[self.order]

    @cached_property
    def correct(self) -> NDArray[np.float64]:
        """[N] in the order of increasing confidence."""
        return self.right if self._in_order else self.right[self.order]

    def counts(self, weights: NDArray[Any] | None) -> NDArray[np.float64]:
        """Return counts in the order of increasing confidence; None counts each row once.

        Args:
            weights: [N] how often each row occurs in a resample, in the original order, or [N, R]
                for R resamples.
        """
        if weights is None:
            return np.ones(len(self))
        ordered = weights if self._in_order else weights.take(self.order, axis=0)
        return np.asarray(ordered, dtype=np.float64)

    def starts(self, edges: NDArray[np.float64], closed: Closed = "left") -> NDArray[np.int64]:
        """Return the first row of each bin, [B+1]; bin k holds rows `starts[k]:starts[k + 1]`.

        Args:
            edges: [B+1] increasing, from 0 to 1, or [B+1, R] for R resamples.
            closed: `left`: bins include their left edge, and the last both; `right`: bins include
                their right edge, and the first both.
        """
        starts = np.searchsorted(
            self.confidence, edges, side="left" if closed == "left" else "right"
        )
        starts[0], starts[-1] = 0, len(self)
        return starts

    @cached_property
    def _in_order(self) -> bool:
        return bool((self.stated[1:] >= self.stated[:-1]).all())

    def weighed(self, weights: NDArray[Any] | None) -> Weighed:
        """Return `counts` with their cumulative sums."""
        counts = self.counts(weights)
        return Weighed(counts, np.cumsum(counts, axis=0))

    @cached_property
    def runs(self) -> NDArray[np.int64]:
        """[G+1] start of each run of equal confidences, and N."""
        rises = self.confidence[1:] != self.confidence[:-1]
        return np.concatenate([[0], np.flatnonzero(rises) + 1, [len(self)]])


@dataclass(frozen=True, eq=False)
class Weighed:
    """Row counts in the order of increasing confidence; built by `TopLabel.weighed`.

    Attributes:
        counts: [N] how often each row occurs, or [N, R] for R resamples.
        upto: Cumulative counts up to and including each row, of the same shape.
    """

    counts: NDArray[np.float64]
    upto: NDArray[np.float64]


def top_label(confidence: ArrayLike, correct: ArrayLike) -> TopLabel:
    """Return validated rows for the scores of this package.

    Args:
        confidence: [N] probability of the predicted class, float64.
        correct: [N] whether that class is the label: booleans, or 0 and 1.

    Raises:
        InputError: The shapes differ, there are no rows, or a value is not allowed.
    """
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not sure.size:
        raise InputError(
            f"confidence and correct must have shape [N] with N >= 1, got {list(sure.shape)} and "
            f"{list(right.shape)}"
        )
    for name, values, bad in (
        ("confidence", sure, ~((sure >= 0) & (sure <= 1))),
        ("correct", right, ~((right == 0) | (right == 1))),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            allowed = "from 0 to 1" if name == "confidence" else "0 or 1"
            raise InputError(f"row {row + 1}: {name} must be {allowed}, got {values[row]}")
    return TopLabel(sure, right)


def segment_sums(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """Return the sum of each segment `values[starts[k]:starts[k + 1]]`, [B] or [B, R].

    Args:
        values: [N], or [N, R] for R resamples.
        starts: [B+1], or [B+1, R] where the segments differ between resamples.
    """
    running = np.zeros((len(values) + 1, *values.shape[1:]), dtype=values.dtype)
    np.cumsum(values, axis=0, out=running[1:])
    if starts.ndim > 1:
        return np.asarray(np.diff(np.take_along_axis(running, starts, axis=0), axis=0))
    return np.asarray(np.diff(running[starts], axis=0))


def first_above(running: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the first index at which cumulative sums exceed each level, or the last index.

    Searches all resamples at once; few sums are counted instead, without gathering.

    Args:
        running: [N] or [N, R] increasing sums.
        level: [B] or [B, R] levels.
    """
    if running.ndim == 1:
        indices = np.searchsorted(running, level, side="right")
        return np.minimum(indices, len(running) - 1)
    if len(running) <= FEW:
        # Summing bytes is many times faster than summing booleans.
        below = np.zeros(level.shape, dtype=np.int8)
        for sums in running[:-1]:
            below += sums <= level
        return below.astype(np.int64)
    low = np.zeros(level.shape, dtype=np.int64)
    high = np.full(level.shape, len(running) - 1)
    for _ in range(len(running).bit_length()):
        middle = (low + high) // 2
        above = np.take_along_axis(running, middle, axis=0) > level
        low, high = (
            np.where(above, low, np.minimum(middle + 1, high)),
            np.where(above, middle, high),
        )
    return low
