r"""Rows whose labels are probably wrong, by confident learning.

    t_j     = mean of p_j over rows labelled j                     (the class's self-confidence)
    y*      = the class with p_j ≥ t_j; of several, argmax p_j     (none: the row is not counted)
    C_kj    = number of rows labelled k with y* = j, at least 1 on the diagonal
    Q_kj    = C_kj · n_k / Σ_j C_kj, rounded with sums n_k, the number of rows labelled k

Q estimates how many rows labelled k are of class j: off its diagonal are the wrong labels. Of the
rows labelled k, the Q_kj of largest margin p_j − p_k are suspected, unless the model's answer is
the label ("pruning by noise rate"). They are ranked by the probability of their label.

A threshold per class makes up for classes of which the model is less confident than of others. The
estimate counts what the model disputes with confidence, so its own confident errors count as well.

Source: Northcutt, Jiang and Chuang 2021, arXiv 1911.00068, sections 3.1 and 3.2. All choices are
those of `cleanlab`, whose y* of several is the argmax over all classes, not over these alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.decisions.threshold import labelled
from bayeslora.held_out import further_columns
from bayeslora.predictions.collection import PredictionsLike, as_predictions
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

# A threshold is a mean, and equal probabilities may differ from theirs by rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class LabelErrors:
    """Rows whose labels are probably wrong.

    Attributes:
        predictions: These rows, the most suspicious first; None if there are none. The class that
            is suggested is the predicted one. Rows without ids get their numbers, from 1.
        rows: [M] their indices, from 0, among all rows.
        joint: [C, C] estimated number of rows by label (rows) and class (columns).
    """

    predictions: Predictions | None
    rows: Counts
    joint: Counts

    @property
    def estimate(self) -> int:
        """Estimated number of wrong labels."""
        return int(self.joint.sum() - self.joint.trace())

    @property
    def num_rows(self) -> int:
        """Number of labelled rows."""
        return int(self.joint.sum())


def find_label_errors(
    predictions: PredictionsLike, *, reading: PredictionsReading = AS_WRITTEN
) -> LabelErrors:
    """Return the rows whose labels are probably wrong; see the module.

    Args:
        predictions: Labelled predictions by a model that was fitted without these rows, such as
            `BayesianClassifier.held_out`, their file, a model directory, or a data frame. A model
            that has seen a wrong label repeats it.
        reading: Options for reading files that were not written by this package.

    Raises:
        InputError: A file or a value in it is wrong, or no row has a label.
    """
    everything = as_predictions(predictions, further_columns(predictions, reading), reading)
    known = labelled(everything)
    labels = np.asarray(known.labels)
    joint = estimated_joint(known.probs, labels)
    suspected = suspects(known.probs, labels, joint)
    own = known.probs[np.arange(len(labels)), labels]
    suspected = suspected[np.argsort(own[suspected], kind="stable")]
    rows = np.flatnonzero(everything.labelled)[suspected]
    if everything.ids is None:
        everything = everything.replace(ids=[str(row + 1) for row in range(len(everything))])
    return LabelErrors(everything.take(rows) if len(rows) else None, rows, joint)


def estimated_joint(probs: Array, labels: Counts) -> Counts:
    """Return the estimated number of rows by label and class, [C, C].

    Args:
        probs: [N, C].
        labels: [N].
    """
    classes = probs.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, probs[np.arange(len(labels)), labels], classes)
    # No row is confidently of a class without a label.
    limits = np.divide(sums, counts, out=np.full(classes, np.inf), where=counts > 0)
    confident = probs >= limits - _ROUNDING
    likely = np.where(confident.sum(1) > 1, probs.argmax(1), confident.argmax(1))
    joint = np.zeros((classes, classes))
    counted = confident.any(1)
    np.add.at(joint, (labels[counted], likely[counted]), 1)
    np.fill_diagonal(joint, joint.diagonal().clip(min=1))
    return _rounded(joint * (counts / joint.sum(1))[:, None], counts)


def _rounded(values: Array, sums: Counts) -> Counts:
    """Return whole numbers near [C, C] values, whose rows have the given sums.

    Everything is rounded down; the largest remainders of a row are rounded up.
    """
    whole = np.floor(values).astype(np.int64)
    order = np.argsort(np.argsort(-(values - whole), 1, kind="stable"), 1)
    return np.asarray(whole + (order < (sums - whole.sum(1))[:, None]))


def suspects(probs: Array, labels: Counts, joint: Counts) -> Counts:
    """Return the indices of rows whose labels are probably wrong.

    Args:
        probs: [N, C].
        labels: [N].
        joint: [C, C] estimated number of rows by label and class.
    """
    suspected = np.zeros(len(labels), dtype=np.bool_)
    wrong = joint - np.diag(joint.diagonal())
    for label in np.flatnonzero(wrong.any(1)).tolist():
        rows = np.flatnonzero(labels == label)
        margins = probs[rows] - probs[rows, label][:, None]
        ranks = np.argsort(np.argsort(-margins, 0, kind="stable"), 0)
        suspected[rows] = (ranks < wrong[label]).any(1)
    own = probs[np.arange(len(labels)), labels]
    return np.flatnonzero(suspected & (probs.max(1) > own + _ROUNDING))
