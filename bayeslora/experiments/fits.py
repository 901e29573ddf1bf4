"""One fit of an experiment, and the network for it."""

from __future__ import annotations

from dataclasses import dataclass

from bayeslora.adapters.base import Adapter
from bayeslora.backbones.load import Backbone
from bayeslora.posteriors.base import Posterior
from bayeslora.training.assemble import build_network
from bayeslora.training.network import Network
from bayeslora.training.settings import TrainingSettings


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

    adapter: Adapter
    posterior: Posterior
    epochs: int
    seed: int
    max_length: int = 64
    head_lr: float = TrainingSettings.head_lr


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
