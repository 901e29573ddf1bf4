"""Whether two sets of predictions hold the same rows.

A recalibrator that is scored on the rows it was fitted to looks better than it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bayeslora.errors import InputError
from bayeslora.predictions import Predictions

MOST_EQUAL = 0.5
"""Share of rows with the very same probabilities from which two files count as one."""

MOST_DISTINCT = 0.9
"""Share of different rows in a file below which equal probabilities say nothing."""

_FINGERPRINT = "model_fingerprint"


def check_apart(fit: tuple[str, Predictions], apply: tuple[str, Predictions]) -> None:
    """Complain where `apply` holds rows of `fit`, or is by another model.

    Rows are the same where they share an id that is more than a row number. Without such ids the
    files count as one where most rows have the very same probabilities, unless these repeat within
    a file as well, as rounded ones and vote shares do.

    Args:
        fit: Path and content of the predictions to fit on.
        apply: Path and content of the predictions to apply to.

    Raises:
        InputError: The two share rows, or were made by different models.
    """
    (fit_path, fitted), (apply_path, applied) = fit, apply
    if Path(fit_path).samefile(apply_path):
        raise InputError(f"--fit and --apply are the same file, {fit_path}; {_WHY}")
    models = [one.metadata.get(_FINGERPRINT) for one in (fitted, applied)]
    if None not in models and models[0] != models[1]:
        raise InputError(f"{fit_path} and {apply_path} were made by different models")
    shared = sorted(_names(fitted) & _names(applied))
    if shared:
        raise InputError(
            f"{fit_path} and {apply_path} share {len(shared)} rows, such as id {shared[0]!r}; "
            f"{_WHY}"
        )
    equal = _share_of_equal_rows(fitted, applied)
    if equal > MOST_EQUAL:
        raise InputError(
            f"{100 * equal:.0f} % of the rows of {apply_path} have the very same probabilities in "
            f"{fit_path}; {_WHY}"
        )


_WHY = "a temperature must not be applied to the rows it was fitted to"


def _names(predictions: Predictions) -> set[str]:
    """Return the ids that name a row, not its number, which two files may well share."""
    return {name for name in predictions.ids or () if not name.isdecimal()}


def _share_of_equal_rows(fitted: Predictions, applied: Predictions) -> float:
    if fitted.num_classes != applied.num_classes:
        return 0.0
    known = {row.tobytes() for row in fitted.probs}
    if len(known) < MOST_DISTINCT * len(fitted):
        return 0.0
    return float(np.mean([row.tobytes() in known for row in applied.probs]))
