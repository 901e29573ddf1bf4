"""Noise of a fixed relative size on an adapter's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from bayeslora.adapters.optimizers import euclidean_parameters
from bayeslora.adapters.site import Site
from bayeslora.option_checks import Draws, Positive
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.types import Network, WeightPosterior
from bayeslora.posteriors.weights.draws import replaced, standard_normal


@dataclass(frozen=True)
class Noise(Posterior):
    """Gaussian noise on a trained adapter."""

    relative_std: Positive = 0.2
    """Standard deviation over the root mean square of a matrix."""
    num_samples: Draws = 10

    name: ClassVar[str] = "noise"
    is_sampled: ClassVar[bool] = True
    over_trained: ClassVar[bool] = True
    summary: ClassVar[str] = "noise of a fixed relative size on the adapter"
    source: ClassVar[str] = "Acme 2026"
    passes: ClassVar[str] = "num_samples"

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> WeightPosterior:
        """Return draws of the adapter's weights."""
        return NoisyWeights(self, network.sites)


class NoisyWeights(WeightPosterior):
    """Gaussians around the weights that the adapter holds."""

    def __init__(self, config: Noise, sites: Sequence[Site]) -> None:
        super().__init__()
        self.relative_std = config.relative_std
        # In a tuple: the weights stay the adapter's, and are not saved twice.
        self._weights = tuple(euclidean_parameters(sites))

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Put one draw of the weights in place, and the trained ones back afterwards."""
        values = []
        for weight in self._weights:
            mean = weight.detach()
            std = self.relative_std * mean.square().mean().sqrt()
            values.append(mean + std * standard_normal(mean, generator))
        with replaced(self._weights, values):
            yield

    def report(self) -> dict[str, float | str]:
        """Return the number of weights that are noisy."""
        return {"num_noisy_weights": float(sum(weight.numel() for weight in self._weights))}
