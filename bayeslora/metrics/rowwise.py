"""Labelled rows and their contributions to scores that are means over rows.

torchmetrics has these means too, but takes seconds to import, and they take microseconds; the tests
compare with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import Closed
from bayeslora.metrics.intervals import Resampling
from bayeslora.predictions.record import Predictions

CLAMP = 1e-12
"""Lower bound on the label's probability in `nll`, which is thus at most 27.6."""

_BY_ROW = ("probs", "labels", "confidence", "correct", "nll", "brier", "index")


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """The labelled rows of predictions.

    Attributes:
        probs: [N, C] float64 probabilities.
        labels: [N] class indices.
        confidence: [N] highest probability of each row.
        correct: [N] float64: 1 where the most probable class is the label, else 0.
        nll: [N] nats, −log of the label's probability, clamped at `CLAMP`.
        brier: [N] Σ_c (p_c − [c is the label])², 0 to 2 (Brier 1950).
        clamped: Number of rows that the clamp changed.
        index: [N] index of each row among all rows of the predictions.
        available: [N, C] which classes each row has; None if every row has all classes.
    """

    probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    correct: NDArray[np.float64]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]
    clamped: int
    index: NDArray[np.int64]
    available: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def prediction(self) -> NDArray[np.int64]:
        """[N]: index of the most probable class, the lowest among ties."""
        return np.asarray(self.probs.argmax(1))

    @property
    def options(self) -> NDArray[np.bool_]:
        """[N, C]: which classes each row has."""
        return np.ones(self.probs.shape, bool) if self.available is None else self.available

    @property
    def means(self) -> NDArray[np.float64]:
        """[N, 5]: columns whose means are accuracy, nll, brier, mean confidence and sharpness."""
        squares = np.einsum("nc,nc->n", self.probs, self.probs)
        return np.column_stack([self.correct, self.nll, self.brier, self.confidence, squares])

    def then(self, other: LabelledRows) -> LabelledRows:
        """Return these rows followed by others."""
        arrays = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _BY_ROW
        }
        available = None
        if self.available is not None or other.available is not None:
            available = np.concatenate([rows.options for rows in (self, other)])
        clamped = self.clamped + other.clamped
        return LabelledRows(clamped=clamped, available=available, **arrays)

    def take(self, rows: NDArray[np.int64]) -> LabelledRows:
        """Return some of the rows."""
        available = None if self.available is None else self.available[rows]
        arrays = {name: getattr(self, name)[rows] for name in _BY_ROW}
        return LabelledRows(clamped=self.clamped, available=available, **arrays)


def labelled_rows(
    predictions: Predictions, clusters: NDArray[np.int64] | None = None
) -> LabelledRows:
    """Return the labelled rows, sorted by confidence, NLL, Brier score and cluster.

    With this order the intervals of a seeded bootstrap do not depend on the original order.

    Args:
        predictions: Rows, labelled or not.
        clusters: [N] cluster of each row, or None.
    """
    rows = row_scores(predictions)
    ties = rows.index if clusters is None else clusters[rows.index]
    return rows.take(np.lexsort((ties, rows.brier, rows.nll, rows.confidence)))


def row_scores(predictions: Predictions) -> LabelledRows:
    """Return the labelled rows in their original order."""
    labelled = predictions.labelled
    probs = predictions.probs[labelled]
    labels = (
        predictions.labels[labelled] if predictions.labels is not None else np.empty(0, np.int64)
    )
    rows = np.arange(len(labels))
    of_label = probs[rows, labels]
    errors = probs.copy()
    errors[rows, labels] -= 1
    return LabelledRows(
        probs=probs,
        labels=labels,
        confidence=predictions.confidence[labelled],
        correct=(predictions.prediction[labelled] == labels).astype(np.float64),
        nll=-np.log(np.maximum(of_label, CLAMP)),
        brier=np.einsum("nc,nc->n", errors, errors),
        clamped=int((of_label < CLAMP).sum()),
        index=np.flatnonzero(labelled),
        available=None if predictions.available is None else predictions.available[labelled],
    )


@dataclass(frozen=True, eq=False)
class Scoring:
    """Settings of bins, intervals and clusters.

    Attributes:
        num_bins: Bins of the calibration errors.
        closed: Which edge the bins include.
        resampling: Options of the bootstrap intervals.
        clusters: [N] cluster of each labelled row, numbered from 0 without gaps, or None.
    """

    num_bins: int
    closed: Closed
    resampling: Resampling
    clusters: NDArray[np.int64] | None = None
