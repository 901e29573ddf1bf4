"""ScalaBL: a Gaussian over the r scales of every LoRA adapter, in a trained subspace.

    ΔW = s B diag(m + σ ∘ ε) V,   ε ~ N(0, I_r)          the adapter holds A = diag(m) V
    KL = Σ_i [ log(σp / σ_i) + (σ_i² + m_i²) / (2 σp²) − ½ ]

V and m are initialised to the right singular vectors and singular values of LoRA's random `A`. The
adapter always holds `A = diag(m) V`, so the mean network is a plain LoRA; log m is trained beside
it, and its change is applied to `A` after every step. (The published code trains V, which moves the
same `A`, and implements the KL with its arguments exchanged.)

Source: Samplawski, Cobb, Acharya, Kaur and Jha 2025, arXiv 2506.21408.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.low_rank import LowRank
from bayeslora.errors import InputError
from bayeslora.option_checks import Draws, Positive
from bayeslora.posteriors.base import FactorPosterior
from bayeslora.posteriors.weights.draws import MovesToPrior, gaussian_kl, replaced, standard_normal


@dataclass(frozen=True)
class ScalaBL(FactorPosterior):
    """Gaussian over the r scales of each LoRA adapter: a few random numbers per layer."""

    prior_std: Positive = 1.0
    """Prior standard deviation of a scale."""
    initial_std: Positive = 0.05
    """Largest initial standard deviation of a scale; the smallest is 1 / √2 of it."""
    kl_lr: Positive = 0.2
    num_samples: Draws = 10

    name: ClassVar[str] = "scalabl"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.scalabl:ScalaBLWeights.of"
    summary: ClassVar[str] = "Gaussian over the r scales of each LoRA adapter, trained with it"
    use: ClassVar[str] = "A posterior over LoRA with very few additional parameters."
    source: ClassVar[str] = "Samplawski et al. 2025, arXiv 2506.21408"

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: The adapter has no first factor that may be scaled.
        """
        if not adapter.is_free:
            reason = "contains part of the pretrained weight, which a prior around 0 would shrink"
            raise InputError(
                "posterior 'scalabl' scales the free first factor of adapter 'lora'; that of "
                f"adapter {adapter.name!r} {reason if adapter.from_weight else 'is not free'}",
                code="no-free-factor",
            )
        return adapter


class ScalaBLWeights(MovesToPrior):
    """Means and standard deviations of the scales of all sites.

    Attributes:
        log_mean: [sites, r] parameter, log m.
        log_std: [sites, r] parameter, log σ.
        held: [sites, r], the log m in the adapters; equal to `log_mean` outside a step.
    """

    held: Tensor

    def __init__(self, config: ScalaBL, sites: Sequence[LowRank], seed: int = 0) -> None:
        """Rotate the fresh adapters `sites` to their singular directions, and start there."""
        super().__init__(config)
        self._layers = tuple(site.A for site in sites)
        generator = torch.Generator().manual_seed(seed)
        means = torch.stack([_turn(layer).log() for layer in self._layers])
        low, high = config.initial_std / 2**0.5, config.initial_std
        stds = low + (high - low) * torch.rand(means.shape, generator=generator)
        self.log_mean = nn.Parameter(means)
        self.log_std = nn.Parameter(stds.log().to(means.device))
        self.register_buffer("held", means.detach().clone())

    def kl(self) -> Tensor:
        """Return the KL to the prior in nats, over all sites."""
        return gaussian_kl(self.log_mean.exp(), self.log_std.exp(), self.prior_std)

    @torch.no_grad()
    def kl_step(self, rate: float) -> None:
        """Take a gradient step of length `rate` on the KL, and update the adapters' means."""
        variance = self.prior_std**2
        self.log_mean.sub_(rate * (2 * self.log_mean).exp() / variance)
        self.log_std.sub_(rate * ((2 * self.log_std).exp() / variance - 1))
        changes = (self.log_mean - self.held).exp()
        for layer, change in zip(self._layers, changes, strict=True):
            layer.weight.mul_(change[:, None])
        self.held.copy_(self.log_mean)

    @contextmanager
    def noise(self) -> Iterator[None]:
        """Draw scales for each text of a pass; gradients reach means and standard deviations."""
        # Relative to the means in the adapters: 1 in value, but with a gradient.
        means = (self.log_mean - self.held).exp()
        stds = (self.log_std - self.held).exp()
        with ExitStack() as hooks:
            for layer, mean, std in zip(self._layers, means, stds, strict=True):
                hooks.enter_context(layer.register_forward_hook(_scaled(mean, std)))
            yield

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Set the scales to one draw within the context, then restore the means."""
        weights = [layer.get_parameter("weight") for layer in self._layers]
        stds = (self.log_std - self.held).exp().detach()
        scales = 1 + stds * standard_normal(stds, generator)
        values = [
            mean.detach() * scale[:, None] for mean, scale in zip(weights, scales, strict=True)
        ]
        with replaced(weights, values):
            yield

    @torch.no_grad()
    def report(self) -> dict[str, float | str]:
        """Return the KL in nats and the root mean square standard deviation of a scale."""
        return {"kl": float(self.kl()), "scale_std": float((2 * self.log_std).exp().mean().sqrt())}


@torch.no_grad()
def _turn(layer: nn.Linear) -> Tensor:
    """Rotate a factor [r, in] in place to orthogonal rows; return their lengths, [r]."""
    _, lengths, directions = torch.linalg.svd(layer.weight.double(), full_matrices=False)
    layer.weight.copy_(lengths[:, None] * directions)
    rounded: Tensor = lengths.to(layer.weight.dtype)
    return rounded


def _scaled(mean: Tensor, std: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        del inputs
        shape = (output.shape[0], *[1] * (output.ndim - 2), output.shape[-1])
        noise = torch.randn(shape, dtype=output.dtype, device=output.device)
        return output * (mean + std * noise)

    return hook
