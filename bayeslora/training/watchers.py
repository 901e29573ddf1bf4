"""Callbacks that show what training does: to a posterior over adapter weights, and to a person."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bayeslora.posteriors.ivon import IVONWeights
from bayeslora.posteriors.swag import SWAGWeights
from bayeslora.training.bars import open_bar


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


class TrainingBar(TrainerCallback):
    """Steps done, and the last validation NLL beside them."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._bar: Any = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Open the bar where a resumed run left off."""
        self._bar = open_bar(
            self._description, state.max_steps, unit="step", done=state.global_step
        )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Advance by one step."""
        self._bar.update(1)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the epoch's validation NLL."""
        if self._bar is not None and metrics:
            self._bar.set_postfix({"validation NLL": f"{metrics['eval_nll']:.3f}"})

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Close the bar."""
        self._bar.close()
