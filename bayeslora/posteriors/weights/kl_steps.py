"""Gaussians with independent entries, and gradient steps on their KL beside the likelihood's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bayeslora.adapters.base import StepHook
from bayeslora.posteriors.types import TrainingRun, WeightPosterior, WeightTraining

# N^(π/8), with the published digits of π.
_CYCLE_EXPONENT = 3.14159 / 8


def gaussian_kl(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    """Return KL(N(mean, std²) ‖ N(0, prior_std²)) in nats, summed over all entries."""
    ratio = (std.square() + mean.square()) / (2 * prior_std**2)
    return (ratio - (std / prior_std).log() - 0.5).sum()


def initial_root(shape: torch.Size, largest: float, generator: torch.Generator) -> Tensor:
    """Return G uniform on [√(largest / 2), √largest]; G² are standard deviations.

    Source: Wang et al. 2024, arXiv 2406.11675.
    """
    low, high = (largest / 2) ** 0.5, largest**0.5
    root: Tensor = low + (high - low) * torch.rand(shape, generator=generator)
    return root


@torch.no_grad()
def step_root(root: Tensor, rate: float, prior_std: float) -> None:
    """Take a gradient step on the KL of N(·, G⁴) to N(0, prior_std²) in G, in place.

    The second term of the derivative 2G³/σp² − 2/G is evaluated at the end of the step: to first
    order this is the same, but an explicit step would be unbounded for G close to 0.

    Args:
        root: G, the root of the standard deviation.
        rate: Length of the step.
        prior_std: σp.
    """
    moved = root - rate * 2 * root**3 / prior_std**2
    sign = torch.where(moved < 0, -1.0, 1.0).to(root.dtype)
    root.copy_((moved + sign * (moved.square() + 8 * rate).sqrt()) / 2)


KLWeight = Callable[[int], float]
"""Maps the number of steps taken to the weight of the KL in the next, for a loss per row."""


def uniform_weight(num_train: int) -> KLWeight:
    """Return 1 / N for every step: the mean loss of a row plus KL / N is the negative ELBO / N."""
    return lambda _: 1 / num_train


def cyclic_weight(num_train: int, batch_size: int) -> KLWeight:
    """Return weights 2^(i − 1) / (2^M − 1) of the steps i = 1 … M of a cycle; they sum to one.

    M = 100 N^(π/8) / batch size. Nearly all of the weight is in the last ten steps of a cycle.
    Source: Wang et al. 2024, arXiv 2406.11675; the weights are those of Blundell et al. 2015,
    arXiv 1505.05424, in reverse order.
    """
    length = max(1, int(100 * num_train**_CYCLE_EXPONENT / batch_size))
    # With negative exponents, since 2^M overflows.
    return lambda step: 2.0 ** (step % length - length) / (1 - 2.0**-length)


def kl_weight(name: str, num_train: int, batch_size: int) -> KLWeight:
    """Return the `cyclic` or `uniform` weights, as named by the option `kl_weights`."""
    return cyclic_weight(num_train, batch_size) if name == "cyclic" else uniform_weight(num_train)


class KLSteps(StepHook):
    """Takes a step on the KL after each step of the adapter, with its schedule."""

    def __init__(self, weights: MovesToPrior, lr: float, weight: KLWeight) -> None:
        self._weights = weights
        self._lr = lr
        self._weight = weight

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Move the posterior towards its prior."""
        group = optimizer.param_groups[0]
        share = group["lr"] / group["initial_lr"]
        self._weights.kl_step(self._lr * share * self._weight(step))


class MovesToPrior(WeightPosterior):
    """Base of posteriors that train under noise, with a step on the KL after each adapter step.

    Attributes:
        config: Options, with the learning rate of the KL steps and their weights.
        prior_std: σp.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.prior_std = config.prior_std

    def kl_step(self, rate: float) -> None:
        """Take a gradient step of length `rate` on the KL."""
        raise NotImplementedError

    def noise(self, num_texts: int | None = None) -> AbstractContextManager[None]:
        """Draw weights for each text of a pass."""
        raise NotImplementedError

    def weight_training(self, run: TrainingRun) -> WeightTraining:
        """Return a training under noise, with a step on the KL after each adapter step."""
        weight = kl_weight(self.config.kl_weights, run.num_train, run.batch_size)
        return WeightTraining(
            noise=lambda batch: self.noise(len(batch["attention_mask"])),
            callbacks=(KLSteps(self, self.config.kl_lr, weight),),
            parameters=tuple(self.parameters()),
        )
