"""IVON: a Gaussian with a precision that a natural-gradient optimiser estimates in training.

    q(θ) = N(m, diag σ²),   σ² = 1 / (ess (h + δ))

m are the trained weights and h the optimiser's running estimate of the curvature of the mean loss.
With ess = N and a prior of precision N δ this is variational inference; the published recipe takes
ess far above N, a cold posterior. For LoRA it is over both factors. For PoLAR it is over the cores:
the orthonormal factors have their own optimiser, and noise would take them off the manifold.

Source: Shen et al. 2024, arXiv 2402.17641; for LoRA Cong, Daheim, Shen, Yokota, Khan and
Möllenhoff 2024, arXiv 2411.04421.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bayeslora.adapters.optimizers import euclidean_parameters
from bayeslora.adapters.site import Site
from bayeslora.posteriors.weights.draws import replaced, standard_normal
from bayeslora.posteriors.weights.ivon.options import IVON


class IVONWeights(nn.Module):
    """The curvature that IVON estimated, around the trained weights.

    Attributes:
        hess: [P] float32, h of all random weights, concatenated.
    """

    hess: Tensor

    def __init__(self, config: IVON, sites: Sequence[Site]) -> None:
        """Start with the initial curvature around the weights of `sites`, which keep them."""
        super().__init__()
        self._config = config
        self._weights = tuple(euclidean_parameters(sites))
        size = sum(parameter.numel() for parameter in self._weights)
        self.register_buffer("hess", torch.full((size,), config.hess_init))

    @property
    def std(self) -> Tensor:
        """[P]: the standard deviation σ of each weight."""
        config = self._config
        std: Tensor = (config.ess * (self.hess + config.weight_decay)).rsqrt()
        return std

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Set the weights to one draw within the context, then restore the means."""
        stds = torch.split(self.std, [parameter.numel() for parameter in self._weights])
        values = [
            mean.detach() + std.view_as(mean) * standard_normal(mean, generator)
            for mean, std in zip(self._weights, stds, strict=True)
        ]
        with replaced(self._weights, values):
            yield

    def report(self) -> dict[str, float | str]:
        """Return the root mean square standard deviation of a weight."""
        return {"weight_std": float(self.std.square().mean().sqrt())}
