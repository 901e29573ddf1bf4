"""SWAG: a Gaussian with the moments of the weights that training passes through.

    θ = θ̄ + √scale · ( σ ∘ z1 + D z2 / √(K − 1) ),   z1, z2 ~ N(0, I)

θ̄ and σ² are the entrywise mean and variance of all snapshots; the columns of D are the newest K =
min(`rank`, snapshots) minus the running mean that includes them. All trained weights are included,
also the last layer's: an averaged adapter needs the average of the corresponding heads. The average
of the factors of ΔW is not the average of ΔW, so the snapshots have to come from one trajectory.

Source: Maddox, Izmailov, Garipov, Vetrov and Wilson 2019, arXiv 1902.02476, algorithm 1; for
adapters Onal, Flöge, Caldwell, Sheverdin and Fortuin 2024, arXiv 2405.03425.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.optim import Optimizer

from bayeslora.adapters.base import StepHook
from bayeslora.errors import InputError
from bayeslora.option_checks import LARGEST_COUNT, BelowOne, Draws, Positive
from bayeslora.posteriors.base import FitFacts, Posterior
from bayeslora.posteriors.types import (
    FinalFit,
    Network,
    TrainingRun,
    WeightPosterior,
    WeightTraining,
)
from bayeslora.posteriors.weights.draws import copy_, replaced, split_like, standard_normal


@dataclass(frozen=True)
class SWAG(Posterior):
    """A Gaussian with the mean and covariance of weights along the end of training.

    Training takes all its epochs and keeps the last: the snapshots, not an epoch, are the result.
    """

    num_snapshots: Annotated[int, Interval(ge=2, le=LARGEST_COUNT)] = 20
    """Number of snapshots, evenly spaced."""
    start: BelowOne = 0.5
    """Share of the training after which the first snapshot may be taken."""
    rank: Annotated[int, Interval(ge=2, le=LARGEST_COUNT)] = 5
    """Number of most recent deviations from the running mean kept for the covariance."""
    scale: Positive = 0.5
    """Factor on the covariance; with 0.5, the diagonal and the low-rank part count half each."""
    num_samples: Draws = 10

    name: ClassVar[str] = "swag"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.swag:SWAGWeights.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian around the average of the weights in late training"
    use: ClassVar[str] = "Long training without choosing an epoch on validation data."
    source: ClassVar[str] = "Maddox et al. 2019, arXiv 1902.02476; Onal et al. 2024, 2405.03425"
    passes: ClassVar[str] = "num_samples"
    from_start: ClassVar[str] = "averages the weights during training"
    chooses_epoch: ClassVar[bool] = False

    def check_fit(self, facts: FitFacts) -> None:
        """Raise InputError if the training has room for fewer than two snapshots."""
        self.snapshot_steps(facts.num_steps)

    def snapshot_steps(self, num_steps: int) -> list[int]:
        """Return the steps, counted from 1, after which snapshots are taken in `num_steps` steps.

        They are evenly spaced and end with the last step.

        Raises:
            InputError: There is room for fewer than 2 snapshots.
        """
        first = int(self.start * num_steps)
        every = max(1, (num_steps - first) // self.num_snapshots)
        steps = list(range(num_steps, first, -every))[: self.num_snapshots][::-1]
        if len(steps) < 2:
            raise InputError(
                f"posterior 'swag' needs at least 2 snapshots for its covariance, but {num_steps} "
                f"training steps allow only {len(steps)} after the share start={self.start:g}; "
                "train for more epochs, use smaller batches, or lower start",
                code="too-short",
            )
        return steps


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
            parameters: The weights.
        """
        super().__init__()
        self._config = config
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

        Its learning rate is constant, so that late snapshots spread as widely as early ones.

        Raises:
            InputError: There is room for fewer than 2 snapshots.
        """
        steps = self._config.snapshot_steps(run.num_steps)
        return WeightTraining(callbacks=(Snapshots(self, steps),), schedule="constant")

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Set the weights to the mean of the snapshots."""
        copy_(self._weights, split_like(self.mean, self._weights))
        return True

    @torch.no_grad()
    def collect(self) -> None:
        """Take the current weights as the next snapshot."""
        weights = torch.cat([parameter.detach().flatten().double() for parameter in self._weights])
        self.count += 1
        before = weights - self.mean
        # Welford's update: constant weights leave exactly no variance.
        self.mean += before / self.count
        self.squares += before * (weights - self.mean)
        self.deviations.copy_(torch.roll(self.deviations, -1, dims=0))
        self.deviations[-1] = weights - self.mean

    @property
    def variance(self) -> Tensor:
        """[P] float64: the entrywise population variance of all snapshots."""
        return self.squares / self.count

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Set the weights to one draw within the context, then restore the mean."""
        deviations = self.deviations[-min(int(self.count), len(self.deviations)) :].double()
        diagonal = self.variance.sqrt() * standard_normal(self.mean, generator)
        low_rank = (
            standard_normal(deviations[:, 0], generator) @ deviations / (len(deviations) - 1) ** 0.5
        )
        drawn = self.mean + self._config.scale**0.5 * (diagonal + low_rank)
        with replaced(self._weights, split_like(drawn, self._weights)):
            yield

    def report(self) -> dict[str, float | str]:
        """Return the number of snapshots and the root mean square deviation of a weight."""
        std = float(self.variance.mean().sqrt())
        return {"num_snapshots": float(self.count), "weight_std": std}


class Snapshots(StepHook):
    """Collects a snapshot after each of the given steps."""

    def __init__(self, weights: SWAGWeights, steps: list[int]) -> None:
        self._weights = weights
        self._steps = frozenset(steps)

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Collect a snapshot if the step, here from 0, is one of `steps`, from 1."""
        if step + 1 in self._steps:
            self._weights.collect()
