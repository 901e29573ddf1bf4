"""SWAG: a Gaussian with the moments of the weights that training passes through.

    θ = θ̄ + √scale · ( σ ∘ z1 + D z2 / √(K − 1) ),   z1, z2 ~ N(0, I)

θ̄ and σ² are the entrywise mean and variance of all snapshots; the columns of D are the newest K
snapshots minus the running mean at their time. All trained weights are included, also the last
layer's: an averaged adapter needs the average of the corresponding heads. The average of the
factors of ΔW is not the average of ΔW, so the snapshots have to come from one trajectory.

Source: Maddox, Izmailov, Garipov, Vetrov and Wilson 2019, arXiv 1902.02476, algorithm 1; for
adapters Onal, Flöge, Caldwell, Sheverdin and Fortuin 2024, arXiv 2405.03425.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayeslora.adapters.base import StepHook
from bayeslora.posteriors.options import SWAG
from bayeslora.posteriors.types import (
    FinalFit,
    Network,
    TrainingRun,
    WeightPosterior,
    WeightTraining,
)
from bayeslora.posteriors.weights.draws import replaced, standard_normal


class SWAGWeights(WeightPosterior):
    """Running moments of weights, and draws from the Gaussian that they describe.

    Attributes:
        count: Number of snapshots so far.
        mean: [P] float64, the running mean of all weights, concatenated.
        squares: [P] float64, the sum of squared deviations from the mean.
        deviations: [K, P] float32, the newest deviations, oldest first, after zeros for missing
            ones.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    deviations: Tensor

    def __init__(self, config: SWAG, parameters: Sequence[nn.Parameter]) -> None:
        """Start without a snapshot.

        Args:
            config: Rank K and scale.
            parameters: The weights, which are not registered as parameters of this module.
        """
        super().__init__()
        self._config = config
        self.scale = config.scale
        # A tuple, so that they are not parameters of this module.
        self._weights = tuple(parameters)
        size = sum(parameter.numel() for parameter in parameters)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(config.rank, size))

    @classmethod
    def of(cls, config: SWAG, network: Network, **_: Any) -> Self:
        """Return the moments of all trained weights, including the last layer's."""
        adapter = [parameter for site in network.sites for parameter in site.trainable().values()]
        return cls(config, [*adapter, *network.head.parameters()])

    def weight_training(self, run: TrainingRun) -> WeightTraining:
        """Return a training that takes snapshots, over all epochs.

        Raises:
            InputError: There is room for fewer than 2 snapshots.
        """
        steps = self._config.snapshot_steps(run.num_steps)
        return WeightTraining(callbacks=(Snapshots(self, steps),), schedule=self._config.schedule)

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Set the weights to the mean of the snapshots."""
        self.put_mean()
        return True

    @torch.no_grad()
    def collect(self) -> None:
        """Take the current weights as the next snapshot."""
        weights = torch.cat([parameter.detach().flatten().double() for parameter in self._weights])
        self.count += 1
        change = weights - self.mean
        # Welford's update: constant weights leave exactly no variance.
        self.mean += change / self.count
        self.squares += change * (weights - self.mean)
        self.deviations.copy_(torch.roll(self.deviations, -1, dims=0))
        self.deviations[-1] = weights - self.mean

    @property
    def variance(self) -> Tensor:
        """[P] float64: the entrywise variance of all snapshots."""
        return self.squares / self.count

    @torch.no_grad()
    def put_mean(self) -> None:
        """Set the network's weights to the mean of the snapshots."""
        for parameter, value in zip(self._weights, self._split(self.mean), strict=True):
            parameter.copy_(value)

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Set the weights to one draw within the context, then restore the mean."""
        deviations = self.deviations[-min(int(self.count), len(self.deviations)) :].double()
        diagonal = self.variance.sqrt() * standard_normal(self.mean, generator)
        low_rank = (
            standard_normal(deviations[:, 0], generator) @ deviations / (len(deviations) - 1) ** 0.5
        )
        with replaced(
            self._weights, self._split(self.mean + self.scale**0.5 * (diagonal + low_rank))
        ):
            yield

    def report(self) -> dict[str, float | str]:
        """Return the number of snapshots and the root mean square deviation of a weight."""
        std = float(self.variance.mean().sqrt())
        return {"num_snapshots": float(self.count), "weight_std": std}

    def _split(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, [parameter.numel() for parameter in self._weights])
        return [
            part.view_as(parameter) for part, parameter in zip(parts, self._weights, strict=True)
        ]


class Snapshots(StepHook):
    """Collects a snapshot after each of the given steps."""

    def __init__(self, weights: SWAGWeights, steps: list[int]) -> None:
        self._weights = weights
        self._steps = frozenset(steps)

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Collect a snapshot if the step is one of `steps`."""
        if step + 1 in self._steps:
            self._weights.collect()
