"""BLoB: a mean-field Gaussian over one factor of every adapter, trained by back-propagation.

    Z_ij ~ N(M_ij, Ω_ij²),  Ω = G²          Z = A for LoRA, Z = Θ for PoLAR
    KL = Σ_ij [ log(σp / Ω_ij) + (Ω_ij² + (M_ij − Z_0)²) / (2 σp²) − ½ ]

The prior's mean Z_0 is zero, or the initial value for an adapter that starts from a part of the
weight (PiSSA, CorDA): a prior around zero would shrink the pretrained layer.

For LoRA, `B` is a point estimate, and a Gaussian prior on ΔW of low rank reduces the KL to one on
`A`. PoLAR-BLoB is named in comparisons, but we found no definition of it. Here the Gaussian is over
the core Θ, and the orthonormal factors are point estimates: N(0, σp² I) on Θ is invariant to the
rotations that preserve X Θ Yᵀ, and noise on X or Y would leave the manifold.

A training pass takes one draw per text by flipout, Z_n = M + (Ω ∘ E) ∘ t_n r_nᵀ with one E for the
batch and random signs r_n, t_n: each is a draw from the posterior, and texts are uncorrelated. (The
published code draws signs per token, so a text is processed with many weights at once.) The
likelihood updates M, G and B by AdamW; the KL then updates M and G by a separate gradient step.
AdamW rescales gradients and the plain step does not, so the point where they balance depends on
both learning rates and is not exactly the optimum of the ELBO.

Source: Wang, Shi, Han, Metaxas and Wang 2024, arXiv 2406.11675; flipout: Wen et al. 2018,
arXiv 1803.04386.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayeslora.adapters.low_rank import LowRank
from bayeslora.option_checks import Draws, Positive
from bayeslora.posteriors.base import FactorPosterior
from bayeslora.posteriors.weights.draws import (
    MovesToPrior,
    RandomLayer,
    gaussian_kl,
    initial_root,
    replaced,
    standard_normal,
    step_root,
)


@dataclass(frozen=True)
class BLoB(FactorPosterior):
    """Mean-field Gaussian over one factor of each adapter, trained by back-propagation.

    With LoRA it is over `A`; with PoLAR over the core, the factors being point estimates.
    """

    prior_std: Positive = 0.2
    """Prior standard deviation of an entry."""
    initial_std: Positive = 2.5e-3
    """Largest initial standard deviation of an entry; the smallest is half of it."""
    kl_lr: Positive = 0.01
    num_samples: Draws = 10

    name: ClassVar[str] = "blob"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.blob:BLoBWeights.of"
    summary: ClassVar[str] = "Gaussian over one factor of each adapter, trained with it"
    use: ClassVar[str] = "A posterior over adapter weights that is trained with them."
    source: ClassVar[str] = "Wang et al. 2024, arXiv 2406.11675"


class BLoBWeights(MovesToPrior):
    """Standard deviations of the random factors, whose means are those of the adapters.

    Attributes:
        roots: G of each site, trained; standard deviations are G².
    """

    def __init__(self, config: BLoB, sites: Sequence[LowRank], seed: int = 0) -> None:
        """Start with small standard deviations around the factors of `sites`, which keep them."""
        super().__init__(config)
        self._random = tuple(
            RandomLayer(site, "A" if site.core is None else "core") for site in sites
        )
        self._layers = tuple(random_layer.layer for random_layer in self._random)
        generator = torch.Generator().manual_seed(seed)
        self.roots = nn.ParameterList(
            initial_root(layer.weight.shape, config.initial_std, generator)
            for layer in self._layers
        )

    def kl(self) -> Tensor:
        """Return the KL to the prior in nats, over all sites."""
        parts = [
            gaussian_kl(
                random_layer.layer.weight - random_layer.origin, root.square(), self.prior_std
            )
            for random_layer, root in zip(self._random, self.roots, strict=True)
        ]
        return torch.stack(parts).sum()

    @torch.no_grad()
    def kl_step(self, rate: float) -> None:
        """Take a gradient step of length `rate` on the KL, in means and deviations that train."""
        for random_layer, root in zip(self._random, self.roots, strict=True):
            origin = random_layer.origin
            random_layer.layer.weight.sub_(origin).mul_(1 - rate / self.prior_std**2).add_(origin)
            step_root(root, rate, self.prior_std)

    @contextmanager
    def noise(self) -> Iterator[None]:
        """Draw weights for each text of a pass; gradients reach the standard deviations."""
        with ExitStack() as hooks:
            for random_layer, root in zip(self._random, self.roots, strict=True):
                hooks.enter_context(random_layer.layer.register_forward_hook(_flipout(root)))
            yield

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Set the random factors to one draw within the context, then restore the means."""
        weights = [layer.get_parameter("weight") for layer in self._layers]
        values = [
            mean.detach() + root.detach().square() * standard_normal(mean, generator)
            for mean, root in zip(weights, self.roots, strict=True)
        ]
        with replaced(weights, values):
            yield

    @torch.no_grad()
    def report(self) -> dict[str, float | str]:
        """Return the KL in nats and the root mean square standard deviation of an entry."""
        stds = torch.cat([root.square().flatten() for root in self.roots])
        return {"kl": float(self.kl()), "weight_std": float(stds.square().mean().sqrt())}


def _flipout(root: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        x = inputs[0]
        shared = root.square() * torch.randn_like(root)
        flipped: Tensor = _signs(x) * x
        return output + _signs(output) * (flipped @ shared.T)

    return hook


def _signs(like: Tensor) -> Tensor:
    """Return random signs for each row of a batch, [B, 1, …, 1, features]."""
    shape = (like.shape[0], *[1] * (like.ndim - 2), like.shape[-1])
    signs: Tensor = 2 * torch.randint(2, shape, device=like.device) - 1
    return signs.to(like.dtype)
