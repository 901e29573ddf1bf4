"""Callbacks that show a posterior over adapter weights what training does."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from transformers import TrainerCallback

from bayeslora.posteriors.ivon import IVONWeights
from bayeslora.posteriors.swag import SWAGWeights


class Curvature(TrainerCallback):
    """Keeps the posterior's curvature equal to the optimiser's."""

    def __init__(self, weights: IVONWeights, optimizers: list[Optimizer]) -> None:
        self._weights = weights
        self._optimizers = optimizers

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Copy what the last step found."""
        self._weights.hess.copy_(self._optimizers[-1].param_groups[0]["hess"])


class Snapshots(TrainerCallback):
    """Shows SWAG the weights after given steps."""

    def __init__(self, weights: SWAGWeights, steps: list[int]) -> None:
        self._weights = weights
        self._steps = frozenset(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Collect a snapshot where its turn has come."""
        if state.global_step in self._steps:
            self._weights.collect()
