"""Rows to fit a last step on, and other rows to apply it to.

A recalibrator or a conformal threshold that is judged on the rows it was fitted to looks better
than it is, so the two sets of predictions must be by the same model, over the same classes, and
without a row in common.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.plain_text import counted
from bayeslora.predictions.collection import PredictionsLike, as_predictions
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.equal_rows import MOST_EQUAL, share_of_equal_rows
from bayeslora.predictions.files import text_columns
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

# A share that chance, or a repeated text, gives.
_FEW_EQUAL = 0.02

STEPS = " > "
"""Between the names of recalibrators that followed each other."""

_FINGERPRINT = "model_fingerprint"


def held_out(
    fit: PredictionsLike,
    apply: PredictionsLike,
    what: str,
    reading: PredictionsReading = AS_WRITTEN,
) -> tuple[Predictions, Predictions]:
    """Return the predictions to fit on and those to apply to, read where files are named.

    Args:
        fit: Predictions, the file they are in, or a data frame.
        apply: The same; of a file every further column is kept.
        what: What is fitted and applied, for messages: `a recalibrator`.
        reading: How to read files that are not as this package writes them.

    Raises:
        InputError: A file or a value in it is wrong; the two share rows, have different classes,
            or were made by different models.
    """
    _check_files(fit, apply, what)
    fitted = as_predictions(fit, reading=reading)
    kept = text_columns(apply, reading) if isinstance(apply, str | Path) else ()
    applied = as_predictions(apply, kept, reading)
    check_apart((_called(fit, "fit"), fitted), (_called(apply, "apply"), applied), what)
    return fitted, applied


def check_apart(fit: tuple[str, Predictions], apply: tuple[str, Predictions], what: str) -> None:
    """Raise InputError if `apply` holds rows of `fit`, other classes, or was made differently.

    Rows are the same where they share an id that is more than a row number. Without such ids the
    sets count as one where most rows have the same probabilities, also where those of one set were
    printed with fewer digits, unless these repeat within a set as well, as vote shares do.

    Args:
        fit: What the predictions to fit on are called, and they themselves.
        apply: What the predictions to apply to are called, and they themselves.
        what: What is fitted and applied.

    Raises:
        InputError: The two share rows, have different classes, or were made by different models
            or recalibrators.
    """
    (fit_name, fitted), (apply_name, applied) = fit, apply
    why = f"{what} must not be applied to the rows it was fitted to"
    models = [one.metadata.get(_FINGERPRINT) for one in (fitted, applied)]
    if None not in models and models[0] != models[1]:
        raise InputError(f"{fit_name} and {apply_name} were made by different models")
    changed = [STEPS.join(recalibrations(one)) or "nothing" for one in (fitted, applied)]
    if fitted.metadata and applied.metadata and changed[0] != changed[1]:
        raise InputError(
            f"{fit_name} was recalibrated by {changed[0]}, {apply_name} by {changed[1]}; they must "
            "have gone the same way"
        )
    check_classes(f"{fit_name} has", fitted.classes, applied.classes, f"{apply_name} has")
    shared = sorted(_names(fitted) & _names(applied))
    if shared:
        raise InputError(
            f"{fit_name} and {apply_name} share {counted(len(shared), 'row')}, such as id "
            f"{shared[0]!r}; {why}"
        )
    equal = share_of_equal_rows(fitted.probs, applied.probs)
    found = (
        f"{100 * equal:.0f} % of the rows of {apply_name} have the very same probabilities in "
        f"{fit_name}, up to the digits that were printed"
    )
    if equal > MOST_EQUAL:
        raise InputError(f"{found}; {why}")
    if equal > _FEW_EQUAL:
        logger.warning("%s; where they are the same rows, the scores after are too good", found)


def recalibrations(predictions: Predictions) -> list[str]:
    """Return the names of the recalibrators that the predictions have gone through, in order."""
    notes = predictions.metadata
    before = notes.get("recalibration_before", "")
    last = [notes["recalibration"]] if "recalibration" in notes else []
    return [*(before.split(STEPS) if before else []), *last]


def check_classes(
    whose: str, classes: Sequence[str], others: Sequence[str], other: str = "these predictions have"
) -> None:
    """Raise InputError if what was fitted and what it is applied to have different classes.

    Args:
        whose: Subject and verb for `classes`, such as `the temperature was fitted on`.
        classes: Of what was fitted.
        others: Of what it is applied to.
        other: Subject and verb for `others`.

    Raises:
        InputError: The names differ, or their order does.
    """
    if tuple(classes) != tuple(others):
        listed = [", ".join(map(repr, names)) for names in (classes, others)]
        raise InputError(f"{whose} classes [{listed[0]}], {other} [{listed[1]}]")


def fitting_rows(
    predictions: Predictions, what: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities [N, C] and labels [N] of the labelled rows; see `with_gaps`.

    Args:
        predictions: Rows, some of which may have no label.
        what: What needs the labels, for the message.

    Raises:
        InputError: No row has a label.
    """
    labelled = predictions.labelled
    if predictions.labels is None or not labelled.any():
        raise InputError(f"{what} needs labels, and these predictions have none")
    return with_gaps(predictions)[labelled], predictions.labels[labelled]


def with_gaps(predictions: Predictions) -> NDArray[np.float64]:
    """Return probabilities [N, C], NaN where a row does not have the class."""
    if predictions.available is None:
        return predictions.probs
    return np.where(predictions.available, predictions.probs, np.nan)


def settled_order(
    probs: NDArray[np.float64], labels: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return [N]: an order of the rows that depends on their content alone.

    Random numbers that are handed out in this order fall to the same rows however the rows are
    shuffled and the classes are arranged.

    Args:
        probs: [N, C].
        labels: [N]; ties of the sorted probabilities are broken by that of the label, where given.
    """
    keys = list(np.sort(probs, axis=1).T)
    if labels is not None:
        keys.insert(0, np.take_along_axis(probs, labels[:, None], 1)[:, 0])
    return np.lexsort(keys)


def _check_files(fit: PredictionsLike, apply: PredictionsLike, what: str) -> None:
    why = f"{what} must not be applied to the rows it was fitted to"
    if fit is apply and not isinstance(fit, str | Path):
        raise InputError(f"fit and apply are the same predictions; {why}")
    if not (isinstance(fit, str | Path) and isinstance(apply, str | Path)):
        return
    if Path(fit).exists() and Path(apply).exists() and Path(fit).samefile(apply):
        raise InputError(f"the rows to fit on and to apply to are the same file, {fit}; {why}")


def _called(given: PredictionsLike, default: str) -> str:
    return str(given) if isinstance(given, str | Path) else default


def _names(predictions: Predictions) -> set[str]:
    """Return the ids that name a row, not its number, which two files may well share."""
    return {name for name in predictions.ids or () if not name.isdecimal()}
