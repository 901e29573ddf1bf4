"""How the head follows the adapter while the adapter trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.adapters.optimizers import AlternatingOptimizer
from bayeslora.engine.network import Network
from bayeslora.engine.rows import LabelledTexts, feature_rows
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import LastLayer, Refittable


@dataclass(frozen=True)
class Moment:
    """What a head can see when its turn comes, before the adapter's own step.

    Attributes:
        network: The network in training.
        optimizer: Holds the head's parameters.
        rows: The batch, detached.
        step: Adapter steps taken so far.
    """

    network: Network
    optimizer: AlternatingOptimizer
    rows: Features
    step: int


class HeadUpdate:
    """Updates `network.head` before the adapter's step, unless a subclass says otherwise."""

    def __call__(self, now: Moment) -> None:
        """Update the head before the adapter's gradient is taken."""

    def adapter_loss(self, now: Moment, rows: Features) -> Tensor:
        """Return what the adapter's gradient is taken of, for the batch with its graph."""
        return now.network.head.data_loss(rows)

    def after(self, now: Moment) -> None:
        """Do what is left once the adapter's gradient is there."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint has to hold beside the network's."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""


class GradientSteps(HeadUpdate):
    """Steps of the head's optimizer on the batch's features: the published alternation."""

    def __init__(self, num_steps: int, num_train: int) -> None:
        """Take `num_steps` a batch; the KL is weighed by `num_train` rows."""
        self._num_steps = num_steps
        self._num_train = num_train

    def __call__(self, now: Moment) -> None:
        """Update the head by gradient steps."""
        head = now.network.head
        for _ in range(self._num_steps):
            head.zero_grad()
            torch.autograd.backward(head.loss(now.rows, self._num_train))
            now.optimizer.head_step()
        # The adapter's gradient is clipped by its norm alone.
        head.zero_grad()


class JointSteps(HeadUpdate):
    """One gradient for adapter and head together, without alternation."""

    def __init__(self, num_train: int) -> None:
        """Weigh the KL by `num_train` rows."""
        self._num_train = num_train

    def adapter_loss(self, now: Moment, rows: Features) -> Tensor:
        """Return the head's own objective, whose gradient reaches both."""
        now.network.head.zero_grad()
        return now.network.head.loss(rows, self._num_train)

    def after(self, now: Moment) -> None:
        """Move the head by the gradient that the adapter's step uses as well."""
        now.optimizer.head_step()
        # The adapter's gradient is clipped by its norm alone.
        now.network.head.zero_grad()


class TrainingFeatures:
    """Features of all training rows in evaluation mode, computed once for each adapter step."""

    def __init__(self, train: LabelledTexts) -> None:
        """Keep the training rows."""
        self._train = train
        self._step: int | None = None
        self._found = Features(torch.empty(0))

    @torch.no_grad()
    def at(self, network: Network, step: int) -> Features:
        """Return the features of the network after `step` adapter steps, scaled and labelled."""
        if step != self._step:
            was_training = network.training
            self._found = feature_rows(network, self._train).features
            network.train(was_training)
            self._step = step
        return self._found


class Refits(HeadUpdate):
    """Closed-form fits of the head to the features of all training rows, now and then."""

    def __init__(self, head: LastLayer, every: int, rows: TrainingFeatures) -> None:
        """Refit `head` before each `every`-th step of the adapter, on these rows.

        Raises:
            TypeError: The head has no closed-form fit that goes on from where it is.
        """
        if not isinstance(head, Refittable):
            raise TypeError(
                f"only a head with refit is refitted in training, not {type(head).__name__}"
            )
        self._head = head
        self._every = every
        self._rows = rows

    def __call__(self, now: Moment) -> None:
        """Refit the head when its turn has come."""
        if now.step % self._every:
            return
        self._head.refit(self._rows.at(now.network, now.step))
