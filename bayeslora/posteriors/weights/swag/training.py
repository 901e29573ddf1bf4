"""When SWAG looks at the weights while they train."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from bayeslora.errors import InputError
from bayeslora.posteriors.weights.swag.options import SWAG
from bayeslora.posteriors.weights.swag.posterior import SWAGWeights
from bayeslora.posteriors.weights.training import TrainingRun, WeightTraining, own_weights


def snapshot_steps(config: SWAG, num_steps: int) -> list[int]:
    """Return after which steps, counted from 1, a training of `num_steps` is looked at.

    The last step is one of them, and the others come before it at even distances.

    Raises:
        InputError: There is room for fewer than 2.
    """
    first = int(config.start * num_steps)
    every = max(1, (num_steps - first) // config.num_snapshots)
    steps = list(range(num_steps, first, -every))[: config.num_snapshots][::-1]
    if len(steps) < 2:
        raise InputError(
            f"posterior 'swag' needs at least 2 snapshots, and {num_steps} training steps leave "
            f"room for {len(steps)} after the share start={config.start:g}, and a covariance has "
            "to have several: train for more epochs, in smaller batches, or take a smaller start",
            code="too-short",
        )
    return steps


class Snapshots(TrainerCallback):
    """Shows SWAG the weights after given steps."""

    def __init__(self, weights: SWAGWeights, steps: list[int]) -> None:
        self._weights = weights
        self._steps = frozenset(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Collect a snapshot where its turn has come."""
        if state.global_step in self._steps:
            self._weights.collect()


def swag_training(config: SWAG, run: TrainingRun) -> WeightTraining:
    """Return a training that takes snapshots, all epochs long.

    Raises:
        InputError: There is room for fewer than 2.
    """
    weights = own_weights(run.network, SWAGWeights)
    steps = snapshot_steps(config, run.num_steps)
    return WeightTraining(callbacks=(Snapshots(weights, steps),), schedule=config.schedule)
