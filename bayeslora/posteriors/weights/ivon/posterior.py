"""IVON: a Gaussian whose precision a natural-gradient optimiser estimates as it goes.

    q(θ) = N(m, diag σ²),   σ² = 1 / (ess (h + δ))

m are the trained weights and h the optimiser's running estimate of the curvature of the mean loss.
With ess = N and a prior of precision N δ this is variational inference; the published recipe takes
ess far above N, a cold posterior. It is over both factors of LoRA. With PoLAR it is over the cores:
the orthonormal factors have an optimiser of their own, and noise would take them off the manifold.

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
    """The curvature that IVON found, around the trained weights.

    Attributes:
        hess: [P] float32, h of all random weights, end to end.
    """

    hess: Tensor

    def __init__(self, config: IVON, sites: Sequence[Site]) -> None:
        """Begin with the initial curvature around the weights of `sites`, which stay there."""
        super().__init__()
        self._config = config
        self._weights = tuple(euclidean_parameters(sites))
        size = sum(item.numel() for item in self._weights)
        self.register_buffer("hess", torch.full((size,), config.hess_init))

    @property
    def std(self) -> Tensor:
        """[P]: the standard deviation σ of each weight."""
        config = self._config
        std: Tensor = (config.ess * (self.hess + config.weight_decay)).rsqrt()
        return std

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Put one draw of the weights in place, and the means back afterwards."""
        spreads = torch.split(self.std, [item.numel() for item in self._weights])
        values = [
            mean.detach() + spread.view_as(mean) * standard_normal(mean, generator)
            for mean, spread in zip(self._weights, spreads, strict=True)
        ]
        with replaced(self._weights, values):
            yield

    def report(self) -> dict[str, float | str]:
        """Return the root mean square standard deviation of a weight."""
        return {"weight_std": float(self.std.square().mean().sqrt())}
