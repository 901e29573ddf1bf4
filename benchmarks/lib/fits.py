"""Fits of one data set, adapter and seed, with scores and timings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import bayeslora as bl
from bayeslora import MLE
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.backbones.load import Backbone
from bayeslora.data.examples import Examples
from bayeslora.engine.build import build_network
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import num_passes
from bayeslora.predictions.record import Predictions
from benchmarks.lib.detection import detections
from benchmarks.lib.experiment_data import ExperimentData

MAX_LENGTH = 32
NUM_TEST, NUM_OOD = 500, 250
OOD_SCORES = ("max_probability", "epistemic", "logit_variance", "energy", "max_logit")


@dataclass(frozen=True)
class Cell:
    """One data set, adapter and seed.

    Attributes:
        backbone: Backbone shared by all cells.
        data: Rows of the data set.
        adapter: `lora` or `polar`.
        seed: Seed of the fit.
        out: Output directory of scores and predictions.
        frozen_seconds: Processor seconds of the frozen layers over the test rows; see `warmed`.
    """

    backbone: Backbone
    data: ExperimentData
    adapter: str
    seed: int
    out: Path
    frozen_seconds: float = 0.0

    def predictions_path(self, method: str) -> Path:
        """Return the directory of the predictions of a method."""
        name = f"{method.replace(':', '-')}-seed-{self.seed}"
        return self.out / "predictions" / self.data.name / self.adapter / name


def warmed(
    todo: Sequence[tuple[Cell, str]], done: Callable[[Cell, str], bool]
) -> list[tuple[Cell, str]]:
    """Return the missing fits of one data set, after a pass through the frozen layers.

    Fits and predictions reuse the cached states. Without this pass the first of them would appear
    slow; instead, its time on the test rows is added to every prediction.
    """
    left = [(cell, fit) for cell, fit in todo if not done(cell, fit)]
    seconds = {
        name: frozen_seconds(cell)
        for name, cell in {cell.adapter: cell for cell, _ in left}.items()
    }
    return [(replace(cell, frozen_seconds=seconds[cell.adapter]), fit) for cell, fit in left]


def frozen_seconds(cell: Cell) -> float:
    """Run the frozen layers on all rows; return the processor seconds for the test rows."""
    # A name may have a suffix after a dash, for options that do not change the layers.
    adapter = ADAPTERS.get(cell.adapter.partition("-")[0], LoRA)()
    classes = len(cell.data.classes)
    network = build_network(
        cell.backbone, Plan(adapter=adapter, posterior=MLE(), max_length=MAX_LENGTH), classes
    )

    def states_of(rows: Examples) -> object:
        return network.encoder.prepare(rows.texts, rows.pairs)

    for rows in (cell.data.train, cell.data.validation, *cell.data.ood.values()):
        states_of(rows)
    # The states of the test rows may be cached by another adapter with the same layers.
    known = dict(cell.backbone.prefix_states)
    cell.backbone.prefix_states.clear()
    _, seconds = timed(partial(states_of, cell.data.test))
    cell.backbone.prefix_states.update(known)
    return seconds


def calibrate(cell: Cell, clf: bl.BayesianClassifier, posterior: str) -> None:
    """Fit another last layer to a classifier with the same adapter."""
    if posterior == "temperature":
        # On its training rows the network is almost always right.
        clf.calibrate(cell.data.validation, posterior=posterior)
    else:
        clf.calibrate(cell.data.train, cell.data.validation, posterior=posterior)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `work` and its processor time in seconds."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def nll_of(predictions: Predictions) -> float:
    """Return the NLL of labelled rows, in nats."""
    return float(bl.evaluate(predictions, num_resamples=1)["nll"].value)


def scored(
    cell: Cell, clf: bl.BayesianClassifier, method: str, fit_seconds: float
) -> dict[str, Any]:
    """Return a classifier's scores and costs, and save its predictions."""
    inside, predict_seconds = timed(lambda: clf.predict(cell.data.test))
    outside = {
        name: clf.predict(rows, unknown_labels="ood") for name, rows in cell.data.ood.items()
    }
    for name, item in {"test": inside, **outside}.items():
        item.save(cell.predictions_path(method) / f"{name}.parquet")
    validation = clf.predict(cell.data.validation)
    return {
        "method": method,
        "validation_nll": nll_of(validation),
        "chosen": clf.record.results.get("posterior", {}),
        "epoch": clf.record.results.get("best_epoch"),
        "fit_seconds": fit_seconds,
        "predict_seconds": cell.frozen_seconds + predict_seconds,
        **costs(clf),
        **{key: score.value for key, score in bl.evaluate(inside, num_resamples=1).items()},
        **detections(inside, outside, OOD_SCORES),
    }


def costs(clf: bl.BayesianClassifier) -> dict[str, int]:
    """Return the passes per prediction and the bytes of adapter and posterior on disk."""
    with tempfile.TemporaryDirectory(prefix="bayeslora-benchmark-") as folder:
        clf.save_pretrained(Path(folder) / "model")
        files = (Path(folder) / "model").glob("*.safetensors")
        size = sum(file.stat().st_size for file in files)
    return {"passes": num_passes(clf.posterior, None, len(clf.network.members)), "bytes": size}


EPOCHS = 6
"""Maximum epochs of a fit in these benchmarks."""
SCORES = (
    "accuracy",
    "nll",
    "ece",
    "overconfidence",
    "near max_probability",
    "near logit_variance",
    "far max_probability",
    "far logit_variance",
)
