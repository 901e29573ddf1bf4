"""Calibrated probabilities and uncertainty for fine-tuned transformer classifiers.

The public names are loaded when they are first used, so that `import bayeslora` costs
milliseconds and pulls in neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bayeslora._version import __version__

if TYPE_CHECKING:
    from bayeslora.adapters.amt.options import AMT
    from bayeslora.adapters.corda.options import CorDA
    from bayeslora.adapters.emtal.options import EMTAL
    from bayeslora.adapters.frozen import Frozen
    from bayeslora.adapters.ilora.options import ILoRA
    from bayeslora.adapters.layer_sampling.options import LayerSampling
    from bayeslora.adapters.lisa import LISA
    from bayeslora.adapters.lora import LoRA
    from bayeslora.adapters.pissa import PiSSA
    from bayeslora.adapters.polar.options import PoLAR
    from bayeslora.adapters.registry import register_adapter
    from bayeslora.adapters.s2ft.options import S2FT
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.conformal.predictors import APS, LAC, RAPS
    from bayeslora.conformal.sets import ConformalSets, conformal_sets
    from bayeslora.engine.retaining.options import QualityRetaining
    from bayeslora.errors import InputError
    from bayeslora.experiments.run import Experiment, experiment
    from bayeslora.metrics.compare import Comparison, compare
    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.metrics.robustness import Attack, Robustness
    from bayeslora.metrics.scores import Score, Scores
    from bayeslora.metrics.seeds import over_seeds
    from bayeslora.posteriors.last_layer.estimates import MAP, MLE, TemperatureScaling
    from bayeslora.posteriors.last_layer.gvbll.options import GVBLL
    from bayeslora.posteriors.last_layer.laplace.options import Laplace
    from bayeslora.posteriors.last_layer.nuts.options import NUTS
    from bayeslora.posteriors.last_layer.prototypes.options import Prototypes
    from bayeslora.posteriors.last_layer.vbll.options import VBLL
    from bayeslora.posteriors.registry import register_posterior
    from bayeslora.posteriors.weights.blob.options import BLoB
    from bayeslora.posteriors.weights.clora.options import CLoRA
    from bayeslora.posteriors.weights.dropout.options import MCDropout
    from bayeslora.posteriors.weights.ensemble import Ensemble
    from bayeslora.posteriors.weights.ivon.options import IVON
    from bayeslora.posteriors.weights.laplace_lora.options import LaplaceLoRA
    from bayeslora.posteriors.weights.scalabl.options import ScalaBL
    from bayeslora.posteriors.weights.swag.options import SWAG
    from bayeslora.posteriors.weights.tfb.options import TFB
    from bayeslora.predictions.record import Predictions
    from bayeslora.recalibration.beta import BetaCalibration
    from bayeslora.recalibration.histogram import HistogramBinning
    from bayeslora.recalibration.isotonic import IsotonicRegression
    from bayeslora.recalibration.linear import MatrixScaling, VectorScaling
    from bayeslora.recalibration.recalibrate import recalibrate
    from bayeslora.recalibration.temperature import Temperature
    from bayeslora.reporting.model_card import model_card_section, update_model_card
    from bayeslora.reporting.report import Report, report
    from bayeslora.tasks.known import load_task

_HOMES = {
    "AMT": "bayeslora.adapters.amt.options",
    "APS": "bayeslora.conformal.predictors",
    "Attack": "bayeslora.metrics.robustness",
    "BLoB": "bayeslora.posteriors.weights.blob.options",
    "BayesianClassifier": "bayeslora.classifier",
    "BetaCalibration": "bayeslora.recalibration.beta",
    "CLoRA": "bayeslora.posteriors.weights.clora.options",
    "Comparison": "bayeslora.metrics.compare",
    "ConformalSets": "bayeslora.conformal.sets",
    "CorDA": "bayeslora.adapters.corda.options",
    "EMTAL": "bayeslora.adapters.emtal.options",
    "Ensemble": "bayeslora.posteriors.weights.ensemble",
    "Experiment": "bayeslora.experiments.run",
    "Frozen": "bayeslora.adapters.frozen",
    "GVBLL": "bayeslora.posteriors.last_layer.gvbll.options",
    "HistogramBinning": "bayeslora.recalibration.histogram",
    "ILoRA": "bayeslora.adapters.ilora.options",
    "IVON": "bayeslora.posteriors.weights.ivon.options",
    "InputError": "bayeslora.errors",
    "IsotonicRegression": "bayeslora.recalibration.isotonic",
    "LAC": "bayeslora.conformal.predictors",
    "LISA": "bayeslora.adapters.lisa",
    "Laplace": "bayeslora.posteriors.last_layer.laplace.options",
    "LaplaceLoRA": "bayeslora.posteriors.weights.laplace_lora.options",
    "LayerSampling": "bayeslora.adapters.layer_sampling.options",
    "LoRA": "bayeslora.adapters.lora",
    "MAP": "bayeslora.posteriors.last_layer.estimates",
    "MCDropout": "bayeslora.posteriors.weights.dropout.options",
    "MLE": "bayeslora.posteriors.last_layer.estimates",
    "MatrixScaling": "bayeslora.recalibration.linear",
    "NUTS": "bayeslora.posteriors.last_layer.nuts.options",
    "PiSSA": "bayeslora.adapters.pissa",
    "PoLAR": "bayeslora.adapters.polar.options",
    "Predictions": "bayeslora.predictions.record",
    "Prototypes": "bayeslora.posteriors.last_layer.prototypes.options",
    "QualityRetaining": "bayeslora.engine.retaining.options",
    "RAPS": "bayeslora.conformal.predictors",
    "Report": "bayeslora.reporting.report",
    "Robustness": "bayeslora.metrics.robustness",
    "S2FT": "bayeslora.adapters.s2ft.options",
    "SWAG": "bayeslora.posteriors.weights.swag.options",
    "ScalaBL": "bayeslora.posteriors.weights.scalabl.options",
    "Score": "bayeslora.metrics.scores",
    "Scores": "bayeslora.metrics.scores",
    "TFB": "bayeslora.posteriors.weights.tfb.options",
    "Temperature": "bayeslora.recalibration.temperature",
    "TemperatureScaling": "bayeslora.posteriors.last_layer.estimates",
    "VBLL": "bayeslora.posteriors.last_layer.vbll.options",
    "VectorScaling": "bayeslora.recalibration.linear",
    "compare": "bayeslora.metrics.compare",
    "conformal_sets": "bayeslora.conformal.sets",
    "evaluate": "bayeslora.metrics.evaluate",
    "experiment": "bayeslora.experiments.run",
    "load_task": "bayeslora.tasks.known",
    "model_card_section": "bayeslora.reporting.model_card",
    "over_seeds": "bayeslora.metrics.seeds",
    "recalibrate": "bayeslora.recalibration.recalibrate",
    "register_adapter": "bayeslora.adapters.registry",
    "register_posterior": "bayeslora.posteriors.registry",
    "report": "bayeslora.reporting.report",
    "update_model_card": "bayeslora.reporting.model_card",
}

__all__ = [
    "AMT",
    "APS",
    "EMTAL",
    "GVBLL",
    "IVON",
    "LAC",
    "LISA",
    "MAP",
    "MLE",
    "NUTS",
    "RAPS",
    "S2FT",
    "SWAG",
    "TFB",
    "VBLL",
    "Attack",
    "BLoB",
    "BayesianClassifier",
    "BetaCalibration",
    "CLoRA",
    "Comparison",
    "ConformalSets",
    "CorDA",
    "Ensemble",
    "Experiment",
    "Frozen",
    "HistogramBinning",
    "ILoRA",
    "InputError",
    "IsotonicRegression",
    "Laplace",
    "LaplaceLoRA",
    "LayerSampling",
    "LoRA",
    "MCDropout",
    "MatrixScaling",
    "PiSSA",
    "PoLAR",
    "Predictions",
    "Prototypes",
    "QualityRetaining",
    "Report",
    "Robustness",
    "ScalaBL",
    "Score",
    "Scores",
    "Temperature",
    "TemperatureScaling",
    "VectorScaling",
    "__version__",
    "compare",
    "conformal_sets",
    "evaluate",
    "experiment",
    "load_task",
    "model_card_section",
    "over_seeds",
    "recalibrate",
    "register_adapter",
    "register_posterior",
    "report",
    "update_model_card",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bayeslora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
