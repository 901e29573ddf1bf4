"""Fits that keep every epoch, so that one fit answers many questions.

A trajectory is the trained tensors after each epoch of one fit. Posteriors that leave the adapter
alone (temperature, Laplace, a polish), and every rule for choosing an epoch, are then evaluated on
stored states and cost no further training.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bayeslora import VBLL, options
from bayeslora.backbones.load import Backbone
from bayeslora.engine.loop import train_network
from bayeslora.engine.network import Network
from bayeslora.engine.settings import TrainingSettings
from bayeslora.files import read_json, write_json
from bayeslora.links import link_probabilities
from bayeslora.logits import Logits
from bayeslora.output import atomic_directory
from bayeslora.posteriors import scores
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.tasks.examples import data_hash
from benchmarks.lib.evaluation import TRAIN, VALIDATION, Evaluation, FitSpec, State, fitted_head
from benchmarks.lib.experiment_data import ExperimentData

# What a variational last layer reads only after the training that trajectories are of.
_AFTERWARDS = {
    "polish_bound",
    "polish_mean",
    "covariance",
    "laplace_refinement",
    "link",
    "num_samples",
}


def trajectory(
    backbone: Backbone,
    spec: FitSpec,
    data: ExperimentData,
    directory: Path,
    *,
    title: str | None = None,
) -> dict[int, dict[str, Tensor]]:
    """Return the trained tensors after each epoch, from `directory` where they are there already.

    Args:
        backbone: Loaded, without adapters.
        spec: What to fit.
        data: What to fit it to.
        directory: Where the trajectory is stored, whole or not at all.
        title: Of a progress bar; None shows none.
    """
    identity = {
        **training_options(spec),
        "train": data_hash(data.train),
        "backbone_fingerprint": backbone.fingerprint,
        "dtype": backbone.dtype,
    }
    mark = directory / "spec.json"
    if not mark.is_file() or read_json(mark) != json.loads(json.dumps(identity)):
        states = _train(backbone, spec, data, title)
        with atomic_directory(directory, overwrite=True) as aside:
            for epoch, state in states.items():
                save_file(state, aside / f"epoch-{epoch:02d}.safetensors")
            write_json(aside / "spec.json", identity)
    return {
        int(path.stem.split("-")[1]): load_file(path)
        for path in sorted(directory.glob("epoch-*.safetensors"))
    }


def training_options(spec: FitSpec) -> dict[str, Any]:
    """Return everything that decides a fit, apart from the data, JSON-ready."""
    found = {
        "adapter": options.as_mapping(spec.adapter),
        "posterior": _of_training(spec.posterior),
        "epochs": spec.epochs,
        "seed": spec.seed,
        "max_length": spec.max_length,
    }
    # A default is left out, so that fits that were stored without it are known again.
    is_default = spec.head_lr == TrainingSettings.head_lr
    return found if is_default else {**found, "head_lr": spec.head_lr}


def _of_training(posterior: Posterior) -> dict[str, Any]:
    """Return the options that decide how a posterior trains, so that others can share the fit."""
    found = options.as_mapping(posterior)
    if not isinstance(posterior, VBLL):
        return found
    if isinstance(posterior.prior_scale, str):
        found["prior_scale"] = "chosen"
    afterwards = set(_AFTERWARDS)
    if posterior.head_step == "refit" and posterior.bound == "mc":
        afterwards.remove("polish_bound")
    return {key: value for key, value in found.items() if key not in afterwards}


def _train(
    backbone: Backbone, spec: FitSpec, data: ExperimentData, title: str | None
) -> dict[int, dict[str, Tensor]]:
    lab = Evaluation(backbone, spec, data)
    states: dict[int, dict[str, Tensor]] = {}

    def keep(epoch: int, trained: Network) -> None:
        states[epoch] = {name: item.contiguous() for name, item in trained.trained_state().items()}

    with tempfile.TemporaryDirectory(prefix="bayeslora-experiment-") as folder:
        train_network(
            lab.network,
            lab.texts(TRAIN),
            None,
            adapter=spec.adapter,
            posterior=spec.posterior,
            settings=TrainingSettings(epochs=spec.epochs, head_lr=spec.head_lr, seed=spec.seed),
            directory=Path(folder),
            early_stopping=False,
            fit_last=False,
            on_epoch=keep,
            description=title,
        )
    return states


def validation_nll(
    lab: Evaluation,
    state: State,
    found: Mapping[str, Features],
    config: Posterior | None,
    *,
    tuned: bool = False,
) -> float:
    """Return the validation NLL of a last-layer posterior fitted to the training rows.

    Args:
        lab: Whose network the state belongs to.
        state: Holds the trained head.
        found: Features of the state on training and validation rows.
        config: Which posterior; None takes the head as it was trained.
        tuned: Whether the posterior may choose its own number on the validation rows.
    """
    head = lab.trained_head(state)
    if config is not None:
        head = fitted_head(config, head, found[TRAIN], found[VALIDATION] if tuned else None)
    rows = found[VALIDATION]
    return nll(head.predict(rows), rows.targets)


def nll(logits: Logits, labels: Tensor) -> float:
    """Return the mean negative log-likelihood in nats, by the `mc` link."""
    return scores.nll(link_probabilities(logits).probs, labels)
