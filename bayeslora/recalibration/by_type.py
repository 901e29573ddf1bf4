"""A temperature per type of question, as the `decision.json` of transformers' decision pipeline.

The pipeline divides the scores of the options by `temperature[type]`. The answers of a model that
already has temperatures were made with them, so the fitted ones multiply them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.held_out import recalibrations, with_gaps
from bayeslora.io import read_json, write_json
from bayeslora.plain_text import counted
from bayeslora.predictions.answers import TYPE_COLUMN
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.linear import Temperature
from bayeslora.recalibration.recalibrate import LEAST_ROWS, Array

logger = logging.getLogger(__name__)

FILE_NAME = "decision.json"
_OURS = "bayeslora"  # key of the file that transformers ignores


@dataclass(eq=False)
class TemperatureByType(Temperature):
    """Temperature scaling of the answers of a decision model, fitted per type of question.

    Predictions need the column `type`. Types without labelled rows stay as they are.

    Attributes:
        by_type: The fitted temperature scaling of each type.
    """

    by_type: dict[str, Temperature] = field(default_factory=dict, init=False)

    def fit(self, predictions: Predictions) -> Self:
        """Fit to the labelled rows of each type; see `Recalibrator.fit`."""
        if recalibrations(predictions):
            raise InputError(f"{FILE_NAME} needs the model's own answers, not recalibrated ones")
        super().fit(predictions)
        types = _types(predictions)
        for name in sorted({*types[predictions.labelled]}):
            rows = predictions.take((types == name) & predictions.labelled)
            if len(rows) < LEAST_ROWS:
                message = "the temperature of type %r is fitted to only %s"
                logger.warning(message, name, counted(len(rows), "labelled row"))
            self.by_type[name] = Temperature().fit(rows)
        return self

    def recalibrated(self, predictions: Predictions) -> Array:
        """Return the probabilities after the temperature of each row's type, [N, C]."""
        types, probs = _types(predictions), predictions.probs.copy()
        for name, temperature in self.by_type.items():
            rows = types == name
            probs[rows] = temperature.mapped(with_gaps(predictions)[rows])
        return probs

    def report(self) -> dict[str, float | str]:
        """Return the temperature of each type."""
        return {f"temperature_{name}": value for name, value in self._temperatures().items()}

    def _temperatures(self) -> dict[str, float]:
        return {name: each.temperature for name, each in self.by_type.items()}

    def save(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Write `decision.json`.

        Args:
            path: The file; an existing one is replaced.
            settings: Those that the answers were made with; see `decision_settings`.
        """
        before, fitted = settings.get("temperature", {}), self._temperatures()
        product = {name: before.get(name, 1.0) * value for name, value in fitted.items()}
        rows = {name: each.num_rows for name, each in self.by_type.items()}
        ours = {"version": __version__, "fitted": fitted, "rows": rows}
        write_json(path, {**settings, "temperature": {**before, **product}, _OURS: ours})


def decision_settings(path: str | Path) -> dict[str, Any]:
    """Return the settings of an existing `decision.json`; none if there is no file.

    Raises:
        InputError: The file is damaged, or its temperatures were fitted by this package, so that
            it is unknown whether answers were made before or after.
    """
    settings = read_json(path) if Path(path).exists() else {}
    temperatures = settings.get("temperature", {}) if isinstance(settings, dict) else None
    if not isinstance(temperatures, dict) or not all(
        isinstance(value, int | float) and value > 0 for value in temperatures.values()
    ):
        raise InputError(f"{path} has no positive temperature per type", code="damaged")
    if _OURS in settings:
        raise InputError(
            f"{path} has temperatures fitted by {_OURS}; restore the model's own file, and fit to "
            "answers made with that"
        )
    return dict(settings)


def _types(predictions: Predictions) -> NDArray[Any]:
    """Return the type of each row's question, [N]."""
    if TYPE_COLUMN not in predictions.columns:
        raise InputError(f"{FILE_NAME} needs predictions with the column {TYPE_COLUMN!r}")
    return np.asarray(predictions.columns[TYPE_COLUMN])
