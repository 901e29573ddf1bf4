"""Predictions to fit a last step on, and held-out predictions to apply it to.

A recalibrator or conformal threshold evaluated on the rows it was fitted to looks better than it
is, so both sets of predictions must be from the same model and over the same classes, without a row
in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.plain_text import counted
from bayeslora.predictions.collection import PredictionsLike, as_predictions
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading, open_columns
from bayeslora.predictions.record import Predictions

STEPS = " > "
"""Separator between the names of consecutive recalibrators."""

_FINGERPRINT = "model_fingerprint"

Array = NDArray[np.float64]

MOST_EQUAL = 0.5
"""Share of equal rows from which two sets count as the same."""

MOST_DISTINCT = 0.9
"""Share of distinct rows in a set below which equal probabilities are uninformative."""


def held_out(
    fit: PredictionsLike,
    apply: PredictionsLike,
    step: str,
    reading: PredictionsReading = AS_WRITTEN,
) -> tuple[Predictions, Predictions]:
    """Return the predictions to fit on and those to apply to, reading files.

    Args:
        fit: Predictions, their file, or a data frame.
        apply: The same; all additional columns of a file are kept.
        step: What is fitted and applied, for messages: `a recalibrator`.
        reading: How to read files in a format other than this package's.

    Raises:
        InputError: A file or a value in it is wrong; the two share rows, have different classes,
            or are from different models.
    """
    _check_files(fit, apply, step)
    fitted = as_predictions(fit, reading=reading)
    applied = as_predictions(apply, further_columns(apply, reading), reading)
    check_apart((_called(fit, "fit"), fitted), (_called(apply, "apply"), applied), step)
    return fitted, applied


def further_columns(predictions: PredictionsLike, reading: PredictionsReading) -> Sequence[str]:
    """Return the names of all further columns of a file, to keep them; none of other kinds."""
    if not isinstance(predictions, str | Path):
        return ()
    return open_columns(predictions, reading).further


def check_apart(fit: tuple[str, Predictions], apply: tuple[str, Predictions], step: str) -> None:
    """Raise InputError if `apply` has rows of `fit`, other classes, or another origin.

    Rows are the same if they share an id that is more than a row number. Without such ids, the sets
    are the same if most rows have equal probabilities, unless the probabilities repeat within a set
    as well, as vote shares do.

    Args:
        fit: Name of the predictions to fit on, and the predictions.
        apply: Name of the predictions to apply to, and the predictions.
        step: What is fitted and applied.

    Raises:
        InputError: The two share rows, have different classes, or are from different models or
            recalibrators.
    """
    (fit_name, fitted), (apply_name, applied) = fit, apply
    why = f"{step} must not be applied to the rows it was fitted to"
    models = [predictions.metadata.get(_FINGERPRINT) for predictions in (fitted, applied)]
    if None not in models and models[0] != models[1]:
        raise InputError(f"{fit_name} and {apply_name} were made by different models")
    changed = [
        STEPS.join(recalibrations(predictions)) or "nothing" for predictions in (fitted, applied)
    ]
    if fitted.metadata and applied.metadata and changed[0] != changed[1]:
        raise InputError(
            f"{fit_name} was recalibrated by {changed[0]}, {apply_name} by {changed[1]}; both "
            "need the same recalibration"
        )
    check_classes(f"{fit_name} has", fitted.classes, applied.classes, f"{apply_name} has")
    shared = sorted(row_names(fitted) & row_names(applied))
    if shared:
        raise InputError(
            f"{fit_name} and {apply_name} share {counted(len(shared), 'row')}, such as id "
            f"{shared[0]!r}; {why}"
        )
    known, distinct = ({row.tobytes() for row in each.probs} for each in (fitted, applied))
    repeats = any(
        len(rows) < MOST_DISTINCT * len(each)
        for rows, each in ((known, fitted), (distinct, applied))
    )
    equal = len(known & distinct) / len(applied)
    if equal > MOST_EQUAL and not repeats:
        raise InputError(
            f"{100 * equal:.0f} % of the rows of {apply_name} have the same probabilities in "
            f"{fit_name}; {why}"
        )


def recalibrations(predictions: Predictions) -> list[str]:
    """Return the names of the recalibrators applied to the predictions so far, in order."""
    notes = predictions.metadata
    previous = notes.get("recalibration_before", "")
    last = [notes["recalibration"]] if "recalibration" in notes else []
    return [*(previous.split(STEPS) if previous else []), *last]


def check_classes(
    whose: str, classes: Sequence[str], others: Sequence[str], other: str = "these predictions have"
) -> None:
    """Raise InputError if a fitted step and the predictions to apply it to differ in classes.

    Args:
        whose: Subject and verb for `classes`, such as `the temperature was fitted on`.
        classes: Classes of the fitted step.
        others: Classes of the predictions.
        other: Subject and verb for `others`.

    Raises:
        InputError: The names differ, or their order does.
    """
    if tuple(classes) != tuple(others):
        listed = [", ".join(map(repr, names)) for names in (classes, others)]
        raise InputError(f"{whose} classes [{listed[0]}], {other} [{listed[1]}]")


def fitting_rows(predictions: Predictions, step: str) -> tuple[Array, NDArray[np.int64]]:
    """Return probabilities [N, C] and labels [N] of the labelled rows; see `with_gaps`.

    Args:
        predictions: Rows with or without labels.
        step: What needs the labels, for the message.

    Raises:
        InputError: No row has a label.
    """
    labelled = predictions.labelled
    if predictions.labels is None or not labelled.any():
        raise InputError(f"{step} needs labels, and these predictions have none")
    return with_gaps(predictions)[labelled], predictions.labels[labelled]


def with_gaps(predictions: Predictions) -> Array:
    """Return probabilities [N, C], NaN for classes that a row lacks."""
    if predictions.available is None:
        return predictions.probs
    return np.where(predictions.available, predictions.probs, np.nan)


def settled_order(probs: Array, labels: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return a row order [N] that depends only on the rows' content.

    Random numbers assigned in this order reach the same rows however the rows are shuffled and the
    classes are ordered.

    Args:
        probs: [N, C].
        labels: [N], optional; ties of the sorted probabilities are broken by the label's.
    """
    keys = list(np.sort(probs, axis=1).T)
    if labels is not None:
        keys.insert(0, np.take_along_axis(probs, labels[:, None], 1)[:, 0])
    return np.lexsort(keys)


def _check_files(fit: PredictionsLike, apply: PredictionsLike, step: str) -> None:
    why = f"{step} must not be applied to the rows it was fitted to"
    if fit is apply and not isinstance(fit, str | Path):
        raise InputError(f"fit and apply are the same predictions; {why}")
    if not (isinstance(fit, str | Path) and isinstance(apply, str | Path)):
        return
    if Path(fit).exists() and Path(apply).exists() and Path(fit).samefile(apply):
        raise InputError(f"the rows to fit on and to apply to are the same file, {fit}; {why}")


def _called(predictions: PredictionsLike, default: str) -> str:
    return str(predictions) if isinstance(predictions, str | Path) else default


def row_names(predictions: Predictions) -> set[str]:
    """Return the ids that are not row numbers, which two files may well share."""
    return {name for name in predictions.ids or () if not name.isdecimal()}
