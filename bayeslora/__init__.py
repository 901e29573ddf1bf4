"""Calibrated probabilities and honest uncertainty for fine-tuned transformer classifiers.

The public names are loaded when they are first used, so that `import bayeslora` costs
milliseconds and pulls in neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bayeslora._version import __version__

if TYPE_CHECKING:
    from bayeslora.adapters.config import LoRA, PoLAR
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.errors import InputError
    from bayeslora.metrics.compare import compare
    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.posteriors.config import (
        MAP,
        MLE,
        VBLL,
        Ensemble,
        Laplace,
        MCDropout,
        TemperatureScaling,
    )
    from bayeslora.posteriors.config_variational import BLoB, ScalaBL
    from bayeslora.posteriors.config_weights import IVON, SWAG, TFB
    from bayeslora.posteriors.temperature import Temperature
    from bayeslora.predictions import Predictions
    from bayeslora.reporting.report import report

_HOMES = {
    "BLoB": "bayeslora.posteriors.config_variational",
    "BayesianClassifier": "bayeslora.classifier",
    "Ensemble": "bayeslora.posteriors.config",
    "IVON": "bayeslora.posteriors.config_weights",
    "InputError": "bayeslora.errors",
    "Laplace": "bayeslora.posteriors.config",
    "LoRA": "bayeslora.adapters.config",
    "MAP": "bayeslora.posteriors.config",
    "MCDropout": "bayeslora.posteriors.config",
    "MLE": "bayeslora.posteriors.config",
    "PoLAR": "bayeslora.adapters.config",
    "Predictions": "bayeslora.predictions",
    "SWAG": "bayeslora.posteriors.config_weights",
    "ScalaBL": "bayeslora.posteriors.config_variational",
    "TFB": "bayeslora.posteriors.config_weights",
    "Temperature": "bayeslora.posteriors.temperature",
    "TemperatureScaling": "bayeslora.posteriors.config",
    "VBLL": "bayeslora.posteriors.config",
    "compare": "bayeslora.metrics.compare",
    "evaluate": "bayeslora.metrics.evaluate",
    "report": "bayeslora.reporting.report",
}

__all__ = [
    "IVON",
    "MAP",
    "MLE",
    "SWAG",
    "TFB",
    "VBLL",
    "BLoB",
    "BayesianClassifier",
    "Ensemble",
    "InputError",
    "Laplace",
    "LoRA",
    "MCDropout",
    "PoLAR",
    "Predictions",
    "ScalaBL",
    "Temperature",
    "TemperatureScaling",
    "__version__",
    "compare",
    "evaluate",
    "report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bayeslora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
