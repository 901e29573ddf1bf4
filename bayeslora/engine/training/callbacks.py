"""Trainer callbacks: early stopping and progress.

Stopping survives an interruption, since its state is in the Trainer's log, which checkpoints hold.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from bayeslora.conditioning import Conditioning
from bayeslora.engine.progress import open_bar
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.io.files import read_json

logger = logging.getLogger(__name__)

_METRIC = "eval_nll"


class Patience(TrainerCallback):
    """Stops training after some epochs without a better validation NLL."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop training when patience has run out."""
        if epochs_without_gain(state.log_history) >= self._epochs:
            control.should_training_stop = True


class StopAfter(TrainerCallback):
    """Stops training after a number of epochs, within a longer learning rate schedule."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop training after the last of these epochs."""
        if round(state.epoch) >= self._epochs:
            control.should_training_stop = True


FIGURE = "figure_"
"""Prefix of the names that `Figures` writes to the Trainer's log."""


class Figures(TrainerCallback):
    """Logs after each epoch how much the contexts of the training rows matter."""

    def __init__(self, conditioning: Conditioning, contexts: Tensor) -> None:
        """Measure on contexts [N, k]."""
        self._conditioning = conditioning
        self._contexts = contexts

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add an entry to the log, which checkpoints hold."""
        figures = self._conditioning.figures(self._contexts)
        words = ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items()
        )
        logger.info("epoch %d: %s", round(state.epoch), words)
        entry = {f"{FIGURE}{name}": value for name, value in figures.items()}
        state.log_history.append({"epoch": state.epoch, "step": state.global_step, **entry})


class TrainingBar(TrainerCallback):
    """Progress bar of the steps, with the last validation NLL."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar, at the step where a resumed run left off."""
        total, done = state.max_steps, state.global_step
        self._bar = open_bar(self._description, total, unit="step", done=done)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance by one step."""
        self._bar.update(1)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Show the epoch's validation NLL."""
        if self._bar is not None and metrics:
            self._bar.set_postfix({"validation NLL": f"{metrics['eval_nll']:.3f}"})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self._bar.close()


def epochs_without_gain(log: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs after the best one in a Trainer's log."""
    losses = [entry[_METRIC] for entry in log if _METRIC in entry]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def what_is_left(settings: TrainingSettings, checkpoint: str | None) -> TrainingSettings:
    """Return the settings of a resumed training: no further epoch if it had stopped already."""
    if checkpoint is None:
        return settings
    state = read_json(Path(checkpoint) / TRAINER_STATE_NAME)
    stops = settings.stop_after is not None and round(state["epoch"]) >= settings.stop_after
    if not stops and epochs_without_gain(state["log_history"]) < settings.patience:
        return settings
    return dataclasses.replace(settings, epochs=math.ceil(state["epoch"]))
