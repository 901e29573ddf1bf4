"""The confusion matrix, and the scores computed from counts per class.

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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import cell_matrix
from bayeslora.metrics.rowwise import LabelledRows

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
    numbers, right = np.arange(size), np.flatnonzero(rows.correct)
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
