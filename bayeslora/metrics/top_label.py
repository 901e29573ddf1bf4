"""Confidence in the predicted class, and whether it was right: all that most scores look at.

The scores of this package take this form and no other. A vector of class labels beside a vector of
confidences, which some libraries accept and turn into a number without meaning, cannot get in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError

Closed = Literal["left", "right"]
"""Which edge a bin holds."""

FEW = 8
"""Sums up to which counting those below a level beats a binary search for it."""


@dataclass(frozen=True, eq=False)
class TopLabel:
    """Confidence and correctness of N rows, as given and by rising confidence; see `top_label`.

    Attributes:
        stated: [N] float64 confidence in 0 to 1, in the order given.
        right: [N] float64, 0 or 1, in the order given.
    """

    stated: NDArray[np.float64]
    right: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.stated)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """[N]; row i by rising confidence is row `order[i]` of what was given."""
        # A stable sort takes six times as long; rows in order stay so, which is faster to resample.
        return np.arange(len(self)) if self._in_order else np.argsort(self.stated)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """[N], rising."""
        return self.stated if self._in_order else self.stated[self.order]

    @cached_property
    def correct(self) -> NDArray[np.float64]:
        """[N] by rising confidence."""
        return self.right if self._in_order else self.right[self.order]

    def counts(self, given: NDArray[Any] | None) -> NDArray[np.float64]:
        """Return counts in the order of these rows; one per row where None are given.

        Args:
            given: [N] how often each row occurs in a resample, in the order first given, or
                [N, R] for R resamples.
        """
        if given is None:
            return np.ones(len(self))
        moved = given if self._in_order else given.take(self.order, axis=0)
        return np.asarray(moved, dtype=np.float64)

    def starts(self, edges: NDArray[np.float64], closed: Closed = "left") -> NDArray[np.int64]:
        """Return [B+1]: bin k holds the rows from `starts[k]` up to `starts[k + 1]`.

        Args:
            edges: [B+1] rising, from 0 to 1, or [B+1, R] for R resamples.
            closed: `left`: bins hold their left edge, and the last holds both; `right`: bins hold
                their right edge, and the first holds both.
        """
        starts = np.searchsorted(
            self.confidence, edges, side="left" if closed == "left" else "right"
        )
        starts[0], starts[-1] = 0, len(self)
        return starts

    @cached_property
    def _in_order(self) -> bool:
        return bool((self.stated[1:] >= self.stated[:-1]).all())

    def weighed(self, given: NDArray[Any] | None) -> Weighed:
        """Return `counts` with their running sums."""
        counts = self.counts(given)
        return Weighed(counts, np.cumsum(counts, axis=0))

    @cached_property
    def runs(self) -> NDArray[np.int64]:
        """[G+1]: where each run of equal confidences begins, and N."""
        rises = self.confidence[1:] != self.confidence[:-1]
        return np.concatenate([[0], np.flatnonzero(rises) + 1, [len(self)]])


@dataclass(frozen=True, eq=False)
class Weighed:
    """How often rows occur, by rising confidence; made by `TopLabel.weighed`.

    Attributes:
        counts: [N], or [N, R] for R resamples.
        upto: Of the same shape: rows up to each row, itself among them.
    """

    counts: NDArray[np.float64]
    upto: NDArray[np.float64]


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
    return TopLabel(sure, right)


def segment_sums(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """Return [B] or [B, R]: the sum of `values[starts[k]:starts[k + 1]]`, zero where it is empty.

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
    """Return the first place where rising sums are above each level, at most the last place.

    A binary search in all resamples at once; few sums are counted instead, without any gathering.

    Args:
        running: [N] or [N, R] rising.
        level: [B] or [B, R].
    """
    if running.ndim == 1:
        places = np.searchsorted(running, level, side="right")
        return np.minimum(places, len(running) - 1)
    if len(running) <= FEW:
        # Bytes add up many times faster than truth values do.
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
