"""How the head follows the adapter while the adapter trains."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.optim.alternating import AlternatingOptimizer
from bayeslora.posteriors.vbll import VBLLHead
from bayeslora.training.network import Network


class HeadUpdate(Protocol):
    """Called once a step, before the adapter's own step."""

    def __call__(
        self,
        network: Network,
        optimizer: AlternatingOptimizer,
        features: Tensor,
        labels: Tensor,
        step: int,
    ) -> None:
        """Update `network.head`.

        Args:
            network: The network in training.
            optimizer: Holds the head's parameters.
            features: [B, d] features of the batch, detached.
            labels: [B] int64.
            step: Adapter steps taken so far.
        """
        ...


class GradientSteps:
    """Steps of the head's optimizer on the batch's features: the published alternation."""

    def __init__(self, num_steps: int, num_train: int) -> None:
        """Take `num_steps` a batch; the KL is weighed by `num_train` rows."""
        self._num_steps = num_steps
        self._num_train = num_train

    def __call__(
        self,
        network: Network,
        optimizer: AlternatingOptimizer,
        features: Tensor,
        labels: Tensor,
        step: int,
    ) -> None:
        """Update the head by gradient steps."""
        for _ in range(self._num_steps):
            network.head.zero_grad()
            torch.autograd.backward(network.head.loss(features, labels, self._num_train))
            optimizer.head_step()
        # The adapter's gradient is clipped by its norm alone.
        network.head.zero_grad()


class Refits:
    """Closed-form fits of the head to the features of all training rows, now and then."""

    def __init__(self, every: int, texts: PreparedTexts, labels: Tensor) -> None:
        """Refit every `every` steps of the adapter on these texts and labels [N]."""
        self._every = every
        self._texts = texts
        self._labels = labels

    def __call__(
        self,
        network: Network,
        optimizer: AlternatingOptimizer,
        features: Tensor,
        labels: Tensor,
        step: int,
    ) -> None:
        """Refit the head when its turn has come."""
        if step % self._every or not isinstance(network.head, VBLLHead):
            return
        was_training = network.training
        network.eval()
        with torch.no_grad():
            rows = network.encoder.features(self._texts) / network.feature_scale.cpu()
        network.train(was_training)
        network.head.refit(rows, self._labels)
