"""Labelled rows and their contributions to scores that are means over rows.

With soft labels, a row contributes its mean over a label drawn from them: q_c, the share of the
annotators who chose c, replaces [c is the label]. Counts of labels, recall, precision, F1 and the
confusion take the label, which is the class with the largest share unless the file has another.

torchmetrics has these means too, but takes seconds to import, and they take microseconds; the tests
compare with it.

Scores per class: of the confusion matrix, and of the calibration of every class.

With t_c rows labelled c, p_c rows predicted as c, r_c rows both labelled and predicted as c, and n
rows in total:

    recall_c           r_c / t_c
    precision_c        r_c / p_c
    F1_c               2·r_c / (t_c + p_c), the harmonic mean of the two
    f1                 mean of F1_c over the classes that are a label or a prediction of some row
    balanced_accuracy  mean of recall_c over the classes that are a label of some row
    mcc                (n·Σr_c − Σ t_c·p_c) / √((n² − Σt_c²)·(n² − Σp_c²)), 0 where that is 0/0

A class without a correct prediction has an F1 of 0. Absent classes are handled as by scikit-learn's
`f1_score(average="macro", zero_division=0)`, `balanced_accuracy_score` and `matthews_corrcoef`,
which the tests compare with; `mcc` is Gorodkin's R_K (2004, Computational Biology and Chemistry
28), which is Matthews' coefficient (1975) for two classes.

Bins of every class's probability give the class-wise calibration error and decompose the Brier
score exactly: reliability − resolution + uncertainty.

    uncertainty   Σ_c o_c (1 − o_c)                   the score of always stating the class shares o
    reliability   Σ_c Σ_b (n_cb/n) (p_cb − o_cb)²     mean probability against share, in each bin
    resolution    reliability + uncertainty − Brier   what the probabilities know beyond the shares

Murphy (1973), Journal of Applied Meteorology 12, for probabilities with few distinct values.
Continuous probabilities vary within a bin, which leaves a remainder; it is assigned to resolution
(Stephenson, Coelho and Jolliffe 2008, Weather and Forecasting 23, equation 12: generalised
resolution), so that the three parts add up exactly. As for every calibration error, reliability and
resolution are biased upwards for few rows.

If rows lack classes, as questions with fewer options do, a class is scored on the rows that have
it: o_c is its share among these, and its part of the uncertainty is weighted by their share of all
rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import NUM_BINS, bin_places, equal_width_edges
from bayeslora.metrics.intervals import Resampling, cell_matrix
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
        correct: [N] float64: 1 where the most probable class is the label, else 0; its q_c.
        nll: [N] nats, −log of the label's probability, clamped at `CLAMP`; −Σ_c q_c log p_c.
        brier: [N] Σ_c (p_c − [c is the label])², 0 to 2 (Brier 1950); Σ_c p_c² − 2 Σ_c p_c q_c + 1.
        clamped: Number of rows that the clamp changed.
        index: [N] index of each row among all rows of the predictions.
        shares: [N, C] soft labels q, one-hot in rows with only a label; None if all rows are.
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
    shares: NDArray[np.float64] | None = None
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
    def targets(self) -> NDArray[np.float64]:
        """[N, C]: soft labels, or one-hot labels."""
        return np.eye(self.probs.shape[1])[self.labels] if self.shares is None else self.shares

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
        if self.available is not None or other.available is not None:
            arrays["available"] = np.concatenate([rows.options for rows in (self, other)])
        if self.shares is not None or other.shares is not None:
            arrays["shares"] = np.concatenate([rows.targets for rows in (self, other)])
        return LabelledRows(clamped=self.clamped + other.clamped, **arrays)

    def take(self, rows: NDArray[np.int64]) -> LabelledRows:
        """Return some of the rows."""
        arrays = {name: getattr(self, name) for name in (*_BY_ROW, "shares", "available")}
        taken: dict[str, Any] = {
            name: None if array is None else array[rows] for name, array in arrays.items()
        }
        return LabelledRows(clamped=self.clamped, **taken)


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
    shares = None
    if predictions.soft_labels is None:
        of_label = probs[np.arange(len(labels)), labels]
        clamped = of_label < CLAMP
        correct = (predictions.prediction[labelled] == labels).astype(np.float64)
        nll = -np.log(np.maximum(of_label, CLAMP))
    else:
        shares = predictions.label_shares[labelled]
        of_label = (shares * probs).sum(1)
        clamped = np.asarray(((shares > 0) & (probs < CLAMP)).any(1))
        correct = np.take_along_axis(shares, predictions.prediction[labelled, None], 1)[:, 0]
        nll = -(shares * np.log(np.maximum(probs, CLAMP))).sum(1)
    return LabelledRows(
        probs=probs,
        labels=labels,
        confidence=predictions.confidence[labelled],
        correct=correct,
        nll=nll,
        brier=np.maximum(np.einsum("nc,nc->n", probs, probs) - 2 * of_label + 1, 0),
        clamped=int(clamped.sum()),
        index=np.flatnonzero(labelled),
        shares=shares,
        available=None if predictions.available is None else predictions.available[labelled],
    )


@dataclass(frozen=True, eq=False)
class Scoring:
    """Settings of bins, intervals and clusters.

    Attributes:
        num_bins: Bins of the calibration errors.
        resampling: Options of the bootstrap intervals.
        clusters: [N] cluster of each labelled row, numbered from 0 without gaps, or None.
    """

    num_bins: int
    resampling: Resampling
    clusters: NDArray[np.int64] | None = None


Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Counts of rows per class, [C], or [C, R] for R resamples.

    Attributes:
        labels: Rows labelled as a class.
        predicted: Rows predicted as a class.
        right: Rows both labelled and predicted as a class.
    """

    labels: Floats
    predicted: Floats
    right: Floats

    @property
    def recall(self) -> Floats:
        """[C] or [C, R]; NaN where no row has the label."""
        return _ratio(self.right, self.labels)

    @property
    def precision(self) -> Floats:
        """[C] or [C, R]; NaN where no row is predicted as the class."""
        return _ratio(self.right, self.predicted)

    @property
    def f1_by_class(self) -> Floats:
        """[C] or [C, R]; NaN where no row has the class as its label or prediction."""
        return _ratio(2 * self.right, self.labels + self.predicted)

    @property
    def f1(self) -> Floats:
        """[] or [R]: macro F1."""
        return np.asarray(np.nanmean(self.f1_by_class, axis=0))

    @property
    def balanced_accuracy(self) -> Floats:
        """[] or [R]: mean recall."""
        return np.asarray(np.nanmean(self.recall, axis=0))

    @property
    def mcc(self) -> Floats:
        """[] or [R]: Matthews correlation coefficient."""
        n = self.labels.sum(axis=0)
        numerator = n * self.right.sum(axis=0) - (self.labels * self.predicted).sum(axis=0)
        product = (n**2 - (self.labels**2).sum(axis=0)) * (n**2 - (self.predicted**2).sum(axis=0))
        # The correlation is undefined if all rows have the same label or the same prediction.
        ratio = numerator / np.sqrt(np.where(product > 0, product, 1.0))
        return np.asarray(np.where(product > 0, np.clip(ratio, -1.0, 1.0), 0.0))


def class_counts(rows: LabelledRows) -> Callable[[Floats], ClassCounts]:
    """Return the function from row counts, [N] or [N, R], to counts per class."""
    size, classes = rows.probs.shape
    numbers, right = np.arange(size), np.flatnonzero(rows.labels == rows.prediction)
    cells = (rows.labels, classes + rows.prediction, 2 * classes + rows.labels[right])
    matrix = cell_matrix(
        np.concatenate(cells),
        np.concatenate([numbers, numbers, right]),
        np.ones(2 * size + len(right)),
        (3 * classes, size),
    )
    return lambda counts: ClassCounts(*np.split(matrix @ counts, 3))


def confusion(rows: LabelledRows) -> tuple[tuple[int, ...], ...]:
    """Return the number of rows per label (first axis) and prediction (second axis), [C, C]."""
    classes = rows.probs.shape[1]
    cell = rows.labels * classes + rows.prediction
    counts = np.bincount(cell, minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(row) for row in counts.tolist())


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


@dataclass(frozen=True, eq=False)
class ClasswiseSums:
    """Sums over the bins of each class, with a trailing axis [R] for R resamples.

    Attributes:
        rows: Total number of rows, [] or [R].
        labels: [C] number of rows of each class; a sum of shares.
        gaps: [C, B] rows of the class minus the sum of its probabilities.
        sizes: [C, B] number of rows that have the class.
        present: [C] number of rows that have the class; None if all rows have all classes.
    """

    rows: NDArray[np.float64]
    labels: NDArray[np.float64]
    gaps: NDArray[np.float64]
    sizes: NDArray[np.float64]
    present: NDArray[np.float64] | None = None

    @property
    def by_class(self) -> NDArray[np.float64]:
        """[C]: calibration error of each class's probability, over the rows that have it.

        It is 0 for a class that no row has.
        """
        gaps = np.abs(self.gaps).sum(axis=1)
        return np.asarray(
            gaps / (self.rows if self.present is None else np.maximum(self.present, 1))
        )

    @property
    def cwece(self) -> NDArray[np.float64]:
        """The mean of `by_class` over the classes that rows have."""
        if self.present is None:
            return np.asarray(self.by_class.mean(axis=0))
        return np.asarray(self.by_class.sum(axis=0) / (self.present > 0).sum(axis=0))


def classwise_bins(
    probs: NDArray[np.float64],
    labels: NDArray[np.int64],
    num_bins: int = NUM_BINS,
    available: NDArray[np.bool_] | None = None,
    shares: NDArray[np.float64] | None = None,
) -> Callable[..., ClasswiseSums]:
    """Return the sums of equal-width bins of every class's probability, as a function of counts.

    Counts are [N], or [N, R] for R resamples; without any, each row counts once. With many classes
    most probabilities lie in the lowest bin. Only the M others are stored; the sum of the lowest
    bin is that of the whole column minus theirs.

    Args:
        probs: [N, C] float64.
        labels: [N] class indices.
        num_bins: Number of bins B.
        available: [N, C] which classes each row has, or None; missing classes have probability 0.
        shares: [N, C] soft labels in place of `labels`, or None.
    """
    first = equal_width_edges(num_bins)[1]
    rows, classes = probs.shape
    positions = np.flatnonzero(probs >= first)
    values = probs.ravel()[positions]
    # int32 takes half the memory
    row, column = (index.astype(np.int32) for index in np.divmod(positions, classes))
    del positions
    cell = classes + column * num_bins + bin_places(values, num_bins).astype(np.int32)
    if shares is None:
        target, of, share = np.arange(rows, dtype=np.int32), labels.astype(np.int32), np.ones(rows)
        gap = (labels[row] == column) - values
    else:
        target, of = (index.astype(np.int32) for index in np.nonzero(shares))
        share, gap = shares[target, of], shares[row, column] - values
    matrix = cell_matrix(
        np.concatenate([of, cell, cell + classes * num_bins]),
        np.concatenate([target, row, row]),
        np.concatenate([share, gap, np.ones(len(row))]),
        (classes + 2 * classes * num_bins, rows),
    )
    has = None if available is None else available.T.astype(np.float64)

    def sums(counts: NDArray[Any] | None = None) -> ClasswiseSums:
        weights = np.ones(rows) if counts is None else counts.astype(np.float64)
        totals = matrix @ weights
        labelled, listed = totals[:classes], totals[classes:]
        gaps, sizes = listed.reshape(2, classes, num_bins, *totals.shape[1:])
        size = np.asarray(np.ones(rows) @ weights)
        gaps[:, 0] = labelled - probs.T @ weights - gaps[:, 1:].sum(axis=1)
        present = None if has is None else has @ weights
        sizes[:, 0] = (size if present is None else present) - sizes[:, 1:].sum(axis=1)
        return ClasswiseSums(size, labelled, gaps, sizes, present)

    return sums


def cwece(bins: Callable[..., ClasswiseSums]) -> float:
    """Return the mean over classes of the expected calibration error of the class's probability.

    Kull et al. (2019), arXiv:1910.12656.

    Args:
        bins: From `classwise_bins`.
    """
    return float(bins().cwece)


class BrierParts(NamedTuple):
    """The three parts, in the order of the printed scores; arrays [R] for R resamples."""

    reliability: NDArray[np.float64]
    resolution: NDArray[np.float64]
    uncertainty: NDArray[np.float64]


def brier_parts(sums: ClasswiseSums, brier: NDArray[np.float64]) -> BrierParts:
    """Return the parts of the Brier score.

    Args:
        sums: From `classwise_bins`.
        brier: Brier score, [] or [R].
    """
    if sums.present is None:
        shares = sums.labels / sums.rows
        uncertainty = (shares * (1 - shares)).sum(axis=0)
    else:
        shares = sums.labels / np.maximum(sums.present, 1)
        uncertainty = (sums.present * shares * (1 - shares)).sum(axis=0) / sums.rows
    gaps = sums.gaps**2 / np.maximum(sums.sizes, 1)
    reliability = gaps.sum(axis=(0, 1)) / sums.rows
    return BrierParts(reliability, reliability + uncertainty - brier, uncertainty)
