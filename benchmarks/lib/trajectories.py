"""Fits with the states of all epochs, shared by many evaluations.

A trajectory contains the trained tensors after each epoch of one fit. Posteriors that do not change
the adapter (temperature, Laplace, a polish), and all rules for choosing an epoch, are evaluated on
stored states without further training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bayeslora import VBLL, links, options
from bayeslora.backbones.load import Backbone
from bayeslora.data.examples import data_hash
from bayeslora.engine.network import Network
from bayeslora.engine.training.final_fit import LastFit
from bayeslora.engine.training.loop import Training, train_network
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.io.directories import atomic_directory
from bayeslora.io.files import read_json, write_json
from bayeslora.logits import Logits
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from benchmarks.lib.evaluation import TRAIN, VALIDATION, Evaluation, FitSpec, State, fitted_head
from benchmarks.lib.experiment_data import ExperimentData

# Options of a variational last layer that are not used during training.
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
    """Return the trained tensors after each epoch, cached in `directory`.

    Args:
        backbone: Loaded backbone without adapters.
        spec: Options of the fit.
        data: Rows of the data set.
        directory: Directory of the trajectory, written atomically.
        title: Title of the progress bar; None shows no bar.
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
        with atomic_directory(directory, overwrite=True) as temporary:
            for epoch, state in states.items():
                save_file(state, temporary / f"epoch-{epoch:02d}.safetensors")
            write_json(temporary / "spec.json", identity)
    return {
        int(path.stem.split("-")[1]): load_file(path)
        for path in sorted(directory.glob("epoch-*.safetensors"))
    }


def training_options(spec: FitSpec) -> dict[str, Any]:
    """Return all options that determine a fit, apart from the data, as JSON values."""
    training = {
        "adapter": options.as_mapping(spec.adapter),
        "posterior": _of_training(spec.posterior),
        "epochs": spec.epochs,
        "seed": spec.seed,
        "max_length": spec.max_length,
    }
    # The default is left out, so that fits stored without this option are still recognised.
    is_default = spec.head_lr == TrainingSettings.head_lr
    return training if is_default else {**training, "head_lr": spec.head_lr}


def _of_training(posterior: Posterior) -> dict[str, Any]:
    """Return the options that affect training, so that posteriors can share a fit."""
    training = options.as_mapping(posterior)
    if not isinstance(posterior, VBLL):
        return training
    if isinstance(posterior.prior_scale, str):
        training["prior_scale"] = "chosen"
    return {key: value for key, value in training.items() if key not in _AFTERWARDS}


def _train(
    backbone: Backbone, spec: FitSpec, data: ExperimentData, title: str | None
) -> dict[int, dict[str, Tensor]]:
    lab = Evaluation(backbone, spec, data)
    states: dict[int, dict[str, Tensor]] = {}

    def keep(epoch: int, trained: Network) -> None:
        states[epoch] = {name: item.contiguous() for name, item in trained.trained_state().items()}

    training = Training(
        lab.network,
        lab.texts(TRAIN),
        None,
        spec.adapter,
        LastFit(spec.posterior),
        TrainingSettings(epochs=spec.epochs, head_lr=spec.head_lr, seed=spec.seed),
        title=title,
        on_epoch=keep,
    )
    train_network(training, fit_last=False)
    return states


def validation_nll(
    lab: Evaluation,
    state: State,
    features: Mapping[str, Features],
    config: Posterior | None,
    *,
    tuned: bool = False,
) -> float:
    """Return the validation NLL of a last-layer posterior fitted to the training rows.

    Args:
        lab: Evaluation with the network of the state.
        state: State with the trained head.
        features: Features of the state on training and validation rows.
        config: Options of the posterior; None uses the trained head.
        tuned: Whether the posterior may choose its options by the validation rows.
    """
    head = lab.trained_head(state)
    if config is not None:
        head = fitted_head(config, head, features[TRAIN], features[VALIDATION] if tuned else None)
    rows = features[VALIDATION]
    return nll(head.predict(rows), rows.targets)


def nll(logits: Logits, labels: Tensor) -> float:
    """Return the mean negative log-likelihood in nats, with the `mc` link."""
    return links.nll(links.link_probabilities(logits).probs, labels)
