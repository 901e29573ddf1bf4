"""What functions take for predictions: the record, a file that holds some, or a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayeslora.predictions.frames import is_frame
from bayeslora.predictions.reading import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions

PredictionsLike = Predictions | str | Path | Any
"""Predictions, the path of a file, or a data frame; `as_predictions` refuses everything else."""


def is_single(given: object) -> bool:
    """Return whether `given` is one set of predictions rather than a sequence of them."""
    return isinstance(given, Predictions | str | Path) or is_frame(given)


def as_list(given: Any) -> list[PredictionsLike]:
    """Return one set of predictions, or a sequence of them, as a list."""
    return [given] if is_single(given) else list(given)


def as_predictions(
    given: PredictionsLike,
    columns: Sequence[str] = (),
    reading: PredictionsReading = AS_WRITTEN,
) -> Predictions:
    """Return predictions, read from a file or made of a data frame where they are not yet.

    Args:
        given: Predictions, the path of a file, or a data frame (see `Predictions.from_frame`).
        columns: Further columns to keep of a file; a data frame keeps all.
        reading: How to read a file that is not as this package writes it.

    Raises:
        InputError: It is something else, or a value in it is wrong.
    """
    if isinstance(given, Predictions):
        return given
    if isinstance(given, str | Path):
        return Predictions.read(given, columns=tuple(dict.fromkeys(columns)), reading=reading)
    return Predictions.from_frame(given)
