"""Fits that keep every epoch, so that one fit answers many questions.

A trajectory is the trained tensors after each epoch of one fit. Posteriors that leave the adapter
alone (temperature, Laplace, a polish), and every rule for choosing an epoch, are then evaluated on
stored states and cost no further training.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayeslora import options
from bayeslora.adapters.config import Adaptation
from bayeslora.backbones.load import Backbone
from bayeslora.experiments.data import ExperimentData
from bayeslora.files import atomic_directory, read_json, write_json
from bayeslora.posteriors.config import VBLL, PosteriorConfig
from bayeslora.tasks.examples import Examples, encode_labels
from bayeslora.training.assemble import build_network
from bayeslora.training.fit import train_network
from bayeslora.training.network import Network
from bayeslora.training.resume import data_hash
from bayeslora.training.rows import LabelledTexts
from bayeslora.training.settings import TrainingSettings

State = dict[str, Tensor]

# What a variational last layer reads only after the training that trajectories are of.
_AFTERWARDS = {
    "polish_bound",
    "polish_mean",
    "covariance",
    "laplace_refinement",
    "link",
    "num_samples",
}


@dataclass(frozen=True)
class FitSpec:
    """One fit.

    Attributes:
        adapter: Which adapter.
        posterior: Which posterior trains with it.
        epochs: Passes over the training rows.
        seed: Of start, order and dropout.
        max_length: Tokens kept of a text.
        head_lr: Learning rate of a point estimate's last layer.
    """

    adapter: Adaptation
    posterior: PosteriorConfig
    epochs: int
    seed: int
    max_length: int = 64
    head_lr: float = TrainingSettings.head_lr

    def to_json(self) -> dict[str, Any]:
        """Return everything that decides the fit, apart from the data."""
        found = {
            "adapter": options.as_mapping(self.adapter),
            "posterior": _training_options(self.posterior),
            "epochs": self.epochs,
            "seed": self.seed,
            "max_length": self.max_length,
        }
        # A default is left out, so that fits that were stored without it are known again.
        is_default = self.head_lr == TrainingSettings.head_lr
        return found if is_default else {**found, "head_lr": self.head_lr}


def _training_options(posterior: PosteriorConfig) -> dict[str, Any]:
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


def fresh_network(backbone: Backbone, spec: FitSpec, num_classes: int) -> Network:
    """Return an untrained network for a spec."""
    return build_network(
        backbone,
        spec.adapter,
        spec.posterior,
        num_classes=num_classes,
        seed=spec.seed,
        max_length=spec.max_length,
    )


def prepared(
    network: Network,
    rows: Examples,
    classes: tuple[str, ...],
    advance: Callable[[int], object] = lambda _: None,
) -> LabelledTexts:
    """Return rows ready for a network; labels that are not classes become -1."""
    labels = torch.from_numpy(encode_labels(rows, classes, unknown="ood"))
    return LabelledTexts(network.encoder.prepare(rows.texts, rows.pairs, advance=advance), labels)


def trajectory(
    backbone: Backbone,
    spec: FitSpec,
    data: ExperimentData,
    directory: Path,
    *,
    title: str | None = None,
) -> dict[int, State]:
    """Return the trained tensors after each epoch, from `directory` where they are there already.

    Args:
        backbone: Loaded, without adapters.
        spec: What to fit.
        data: What to fit it to.
        directory: Where the trajectory is stored, whole or not at all.
        title: Of a progress bar; None shows none.
    """
    from safetensors.torch import load_file, save_file

    identity = {
        **spec.to_json(),
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


def _train(
    backbone: Backbone, spec: FitSpec, data: ExperimentData, title: str | None
) -> dict[int, State]:
    network = fresh_network(backbone, spec, len(data.classes))
    states: dict[int, State] = {}

    def keep(epoch: int, trained: Network) -> None:
        states[epoch] = {name: item.contiguous() for name, item in trained.trained_state().items()}

    with tempfile.TemporaryDirectory(prefix="bayeslora-experiment-") as folder:
        train_network(
            network,
            prepared(network, data.train, data.classes),
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
