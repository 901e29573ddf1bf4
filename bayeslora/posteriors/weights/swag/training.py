"""The schedule of SWAG's snapshots in training."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from bayeslora.errors import InputError
from bayeslora.posteriors.weights.swag.options import SWAG
from bayeslora.posteriors.weights.swag.posterior import SWAGWeights
from bayeslora.posteriors.weights.training import TrainingRun, WeightTraining, own_weights


def snapshot_steps(config: SWAG, num_steps: int) -> list[int]:
    """Return the steps, counted from 1, after which snapshots are taken in `num_steps` steps.

    They are evenly spaced and end with the last step.

    Raises:
        InputError: There is room for fewer than 2 snapshots.
    """
    first = int(config.start * num_steps)
    every = max(1, (num_steps - first) // config.num_snapshots)
    steps = list(range(num_steps, first, -every))[: config.num_snapshots][::-1]
    if len(steps) < 2:
        raise InputError(
            f"posterior 'swag' needs at least 2 snapshots for its covariance, but {num_steps} "
            f"training steps allow only {len(steps)} after the share start={config.start:g}; "
            "train for more epochs, use smaller batches, or lower start",
            code="too-short",
        )
    return steps


class Snapshots(TrainerCallback):
    """Collects a snapshot after each of the given steps."""

    def __init__(self, weights: SWAGWeights, steps: list[int]) -> None:
        self._weights = weights
        self._steps = frozenset(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Collect a snapshot if the step is one of `steps`."""
        if state.global_step in self._steps:
            self._weights.collect()


def swag_training(config: SWAG, run: TrainingRun) -> WeightTraining:
    """Return a training that takes snapshots, over all epochs.

    Raises:
        InputError: There is room for fewer than 2 snapshots.
    """
    weights = own_weights(run.network, SWAGWeights)
    steps = snapshot_steps(config, run.num_steps)
    return WeightTraining(callbacks=(Snapshots(weights, steps),), schedule=config.schedule)
