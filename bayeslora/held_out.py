"""Predictions to fit a last step on, and held-out predictions to apply it to.

A recalibrator or conformal threshold evaluated on the rows it was fitted to looks better than it
is, so both sets of predictions must be from the same model and over the same classes, without a row
in common.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.plain_text import counted
from bayeslora.predictions.collection import PredictionsLike, as_predictions
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.files import text_columns
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

# A share that chance or a repeated text can explain.
_FEW_EQUAL = 0.02

STEPS = " > "
"""Separator between the names of consecutive recalibrators."""

_FINGERPRINT = "model_fingerprint"

Array = NDArray[np.float64]

TOLERANCES = (1e-12, 1e-9, 1e-6, 1e-4, 1e-3)
"""Identical numbers, and numbers printed with about 10, 7, 5 and 4 digits and then divided by their
sum."""

MOST_EQUAL = 0.5
"""Share of equal rows from which two sets count as the same."""

MOST_DISTINCT = 0.9
"""Share of distinct rows in a set below which equal probabilities are uninformative."""

_MOST_ROWS = 20_000
"""Most rows of a set to compare; larger sets are subsampled at equal distances."""

_DIRECTIONS = 3


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
    columns = text_columns(apply, reading) if isinstance(apply, str | Path) else ()
    applied = as_predictions(apply, columns, reading)
    check_apart((_called(fit, "fit"), fitted), (_called(apply, "apply"), applied), step)
    return fitted, applied


def check_apart(fit: tuple[str, Predictions], apply: tuple[str, Predictions], step: str) -> None:
    """Raise InputError if `apply` has rows of `fit`, other classes, or another origin.

    Rows are the same if they share an id that is more than a row number. Without such ids, the sets
    are the same if most rows have equal probabilities, also when one set was printed with fewer
    digits, unless the probabilities repeat within a set as well, as vote shares do.

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
    shared = sorted(_names(fitted) & _names(applied))
    if shared:
        raise InputError(
            f"{fit_name} and {apply_name} share {counted(len(shared), 'row')}, such as id "
            f"{shared[0]!r}; {why}"
        )
    equal = share_of_equal_rows(fitted.probs, applied.probs)
    problem = (
        f"{100 * equal:.0f} % of the rows of {apply_name} have the same probabilities in "
        f"{fit_name}, up to rounding"
    )
    if equal > MOST_EQUAL:
        raise InputError(f"{problem}; {why}")
    if equal > _FEW_EQUAL:
        logger.warning("%s; if they are the same rows, the scores are too optimistic", problem)


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


def _names(predictions: Predictions) -> set[str]:
    """Return the ids that are not row numbers, which two files may well share."""
    return {name for name in predictions.ids or () if not name.isdecimal()}


def share_of_equal_rows(known: Array, others: Array) -> float:
    """Return the share of the rows of `others` that are in `known`; 0 if chance could explain it.

    Rows are equal if all their probabilities are, within a tolerance. A row that is as close to
    another row of its own set is uninformative and left out. A tolerance at which this holds for
    many rows, as with vote shares or very confident models, is skipped.

    Shares up to `MOST_EQUAL` count identical numbers only.

    Args:
        known: [M, C] probabilities.
        others: [N, C] probabilities.
    """
    others = others[:: -(-len(others) // _MOST_ROWS)]
    among_known, among_others = _Near(known), _Near(others)
    share = 0.0
    for tolerance in TOLERANCES:
        repeated = among_known.count(known[:: -(-len(known) // _MOST_ROWS)], tolerance) > 1
        if repeated.mean() > 1 - MOST_DISTINCT:
            continue
        # Rows repeated within a set, such as one-hot rows, are equal but not the same row.
        same = (among_known.count(others, tolerance) == 1) & (
            among_others.count(others, tolerance) == 1
        )
        equal = float(same.mean())
        least = 0.0 if tolerance == TOLERANCES[0] else MOST_EQUAL
        if equal > max(least, _by_chance(float(repeated.mean()), len(others))):
            share = max(share, equal)
    return share


def _by_chance(repeated: float, size: int) -> float:
    """Return an upper bound on the share of `size` rows near rows of another set by chance.

    The expected share is the share of rows with a near row in their own set. These come in pairs,
    and the number of pairs has a standard error of its square root; the bound adds two such
    standard errors, and three standard deviations of the count itself.
    """
    pairs = repeated * size / 2
    mean = 2 * (pairs + 2 * float(np.sqrt(pairs + 1))) / size
    return mean + 3 * float(np.sqrt(mean / size))


class _Near:
    """Index of rows for counting near ones."""

    def __init__(self, rows: Array) -> None:
        from scipy.spatial import cKDTree

        # Projections on a few random directions keep near rows near; far ones rarely become near.
        self._directions = np.random.default_rng(0).uniform(-1, 1, (rows.shape[1], _DIRECTIONS))
        self._rows = rows
        self._tree: Any = cKDTree(rows @ self._directions)

    def count(self, rows: Array, tolerance: float) -> NDArray[np.int64]:
        """Return [N]: 0, 1, or 2 for two or more rows within `tolerance` in every class."""
        longest = np.sqrt((np.abs(self._directions).sum(0) ** 2).sum())
        _, indices = self._tree.query(
            rows @ self._directions, k=2, distance_upper_bound=1.001 * tolerance * float(longest)
        )
        matches = indices < len(self._rows)
        near = self._rows[np.where(matches, indices, 0)]
        matches &= np.abs(near - rows[:, None]).max(axis=2) <= tolerance
        return np.asarray(matches.sum(axis=1))
