"""Calibrated probabilities and uncertainty for fine-tuned transformer classifiers.

Public names are imported on first use, so `import bayeslora` takes milliseconds and loads neither
torch nor transformers. Type checkers and `_homes` read the imports below; classes of methods in
`contrib` are found by the registries.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora._version import __version__ as __version__

if TYPE_CHECKING:
    from bayeslora.adapters.frozen import Frozen as Frozen
    from bayeslora.adapters.lora import LoRA as LoRA
    from bayeslora.adapters.pissa import PiSSA as PiSSA
    from bayeslora.adapters.polar import PoLAR as PoLAR
    from bayeslora.adapters.registry import register_adapter as register_adapter
    from bayeslora.classifier import BayesianClassifier as BayesianClassifier
    from bayeslora.conformal import APS as APS
    from bayeslora.conformal import LAC as LAC
    from bayeslora.conformal import RAPS as RAPS
    from bayeslora.conformal import ConformalSets as ConformalSets
    from bayeslora.conformal import conformal_sets as conformal_sets
    from bayeslora.data.known import load_task as load_task
    from bayeslora.decisions.artefact import Calibration as Calibration
    from bayeslora.decisions.artefact import decide as decide
    from bayeslora.decisions.artefact import load_calibration as load_calibration
    from bayeslora.decisions.labels import LabelErrors as LabelErrors
    from bayeslora.decisions.labels import find_label_errors as find_label_errors
    from bayeslora.decisions.monitor import monitor as monitor
    from bayeslora.decisions.suggest import suggest as suggest
    from bayeslora.errors import InputError as InputError
    from bayeslora.experiments.run import Experiment as Experiment
    from bayeslora.experiments.run import experiment as experiment
    from bayeslora.metrics.compare import Comparison as Comparison
    from bayeslora.metrics.compare import compare as compare
    from bayeslora.metrics.evaluate import evaluate as evaluate
    from bayeslora.metrics.scores import Score as Score
    from bayeslora.metrics.scores import Scores as Scores
    from bayeslora.metrics.seeds import over_seeds as over_seeds
    from bayeslora.posteriors.last_layer.gvbll import GVBLL as GVBLL
    from bayeslora.posteriors.last_layer.laplace import Laplace as Laplace
    from bayeslora.posteriors.last_layer.nuts import NUTS as NUTS
    from bayeslora.posteriors.last_layer.prototypes import Prototypes as Prototypes
    from bayeslora.posteriors.last_layer.vbll import VBLL as VBLL
    from bayeslora.posteriors.point import MAP as MAP
    from bayeslora.posteriors.point import MLE as MLE
    from bayeslora.posteriors.point import Ensemble as Ensemble
    from bayeslora.posteriors.point import TemperatureScaling as TemperatureScaling
    from bayeslora.posteriors.registry import register_posterior as register_posterior
    from bayeslora.posteriors.weights.blob import BLoB as BLoB
    from bayeslora.posteriors.weights.clora import CLoRA as CLoRA
    from bayeslora.posteriors.weights.ivon import IVON as IVON
    from bayeslora.posteriors.weights.laplace_lora import LaplaceLoRA as LaplaceLoRA
    from bayeslora.posteriors.weights.mc_dropout import MCDropout as MCDropout
    from bayeslora.posteriors.weights.scalabl import ScalaBL as ScalaBL
    from bayeslora.posteriors.weights.swag import SWAG as SWAG
    from bayeslora.posteriors.weights.tfb import TFB as TFB
    from bayeslora.predictions.record import Predictions as Predictions
    from bayeslora.recalibration.bayesian import BayesianLogistic as BayesianLogistic
    from bayeslora.recalibration.bayesian import BayesianTemperature as BayesianTemperature
    from bayeslora.recalibration.linear import MatrixScaling as MatrixScaling
    from bayeslora.recalibration.linear import Temperature as Temperature
    from bayeslora.recalibration.linear import VectorScaling as VectorScaling
    from bayeslora.recalibration.one_vs_rest import BetaCalibration as BetaCalibration
    from bayeslora.recalibration.one_vs_rest import HistogramBinning as HistogramBinning
    from bayeslora.recalibration.one_vs_rest import IsotonicRegression as IsotonicRegression
    from bayeslora.recalibration.prior import PriorShift as PriorShift
    from bayeslora.recalibration.recalibrate import recalibrate as recalibrate
    from bayeslora.reporting.model_card import model_card_section as model_card_section
    from bayeslora.reporting.model_card import update_model_card as update_model_card
    from bayeslora.reporting.report import Report as Report
    from bayeslora.reporting.report import report as report


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    home = _homes().get(name)
    if home is None and name[:1].isupper():  # `from bayeslora import errors` calls this too
        home = _method_homes().get(name)
    if home is None:
        raise AttributeError(f"module 'bayeslora' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*_homes(), *_method_homes()})


@cache
def _homes() -> dict[str, str]:
    """Return the module of each name that is imported above for type checkers."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {item.asname: str(node.module) for node in imports for item in node.names if item.asname}


def _method_homes() -> dict[str, str]:
    """Return the module of each adapter's and posterior's options class, by class name."""
    from bayeslora.adapters.registry import ADAPTERS
    from bayeslora.posteriors.registry import POSTERIORS

    places = [*ADAPTERS.data.values(), *POSTERIORS.data.values()]
    return {name: module for module, name in (place.split(":") for place in places)}
