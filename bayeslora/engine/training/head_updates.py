"""Updates of the head while the adapter trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.adapters.optimizers import AlternatingOptimizer
from bayeslora.engine.network import Network
from bayeslora.engine.rows import LabelledTexts, feature_rows
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import LastLayer


@dataclass(frozen=True)
class Moment:
    """The state of training at a head update, before the adapter's step.

    Attributes:
        network: The network in training.
        optimizer: Optimiser with the head's parameters.
        rows: Features of the batch, detached.
        step: Number of adapter steps taken.
    """

    network: Network
    optimizer: AlternatingOptimizer
    rows: Features
    step: int


class HeadUpdate:
    """Updates `network.head`, by default before the adapter's step."""

    def __call__(self, now: Moment) -> None:
        """Update the head before the adapter's gradient is taken."""

    def adapter_loss(self, now: Moment, rows: Features) -> Tensor:
        """Return the loss of the adapter for the batch with its graph."""
        return now.network.head.data_loss(rows)

    def after(self, now: Moment) -> None:
        """Finish the update once the adapter's gradient is computed."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs beside the network's."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""


class GradientSteps(HeadUpdate):
    """Steps of the head's optimizer on the batch's features: the published alternation."""

    def __init__(self, num_steps: int, num_train: int) -> None:
        """Take `num_steps` steps per batch; the KL is weighted for `num_train` rows."""
        self._num_steps = num_steps
        self._num_train = num_train

    def __call__(self, now: Moment) -> None:
        """Update the head by gradient steps."""
        head = now.network.head
        for _ in range(self._num_steps):
            head.zero_grad()
            torch.autograd.backward(head.loss(now.rows, self._num_train))
            now.optimizer.head_step()
        # Clipping must see the norm of the adapter's gradient alone.
        head.zero_grad()


class JointSteps(HeadUpdate):
    """One gradient for adapter and head together, without alternation."""

    def __init__(self, num_train: int) -> None:
        """Weight the KL for `num_train` rows."""
        self._num_train = num_train

    def adapter_loss(self, now: Moment, rows: Features) -> Tensor:
        """Return the head's own objective, whose gradient reaches adapter and head."""
        now.network.head.zero_grad()
        return now.network.head.loss(rows, self._num_train)

    def after(self, now: Moment) -> None:
        """Step the head by the gradient of the same backward pass."""
        now.optimizer.head_step()
        # Clipping must see the norm of the adapter's gradient alone.
        now.network.head.zero_grad()


class TrainingFeatures:
    """Features of all training rows in evaluation mode, cached per adapter step."""

    def __init__(self, train: LabelledTexts) -> None:
        """Store the training rows."""
        self._train = train
        self._step: int | None = None
        self._features = Features(torch.empty(0))

    @torch.no_grad()
    def at(self, network: Network, step: int) -> Features:
        """Return the features of the network after `step` adapter steps, scaled and labelled."""
        if step != self._step:
            was_training = network.training
            self._features = feature_rows(network, self._train).features
            network.train(was_training)
            self._step = step
        return self._features


class Refits(HeadUpdate):
    """Periodic closed-form refits of the head to the features of all training rows."""

    def __init__(self, head: LastLayer, every: int, rows: TrainingFeatures) -> None:
        """Refit `head` to these rows before every `every`-th adapter step."""
        self._head = head
        self._every = every
        self._rows = rows

    def __call__(self, now: Moment) -> None:
        """Refit the head if the step is due."""
        if now.step % self._every:
            return
        self._head.refit(self._rows.at(now.network, now.step))
