"""The up projection of a feed-forward network, gated by a router during training.

    ω = K · softmax(x Rᵀ / τ)              per token; the mean over the K experts is 1
    y = (x Wᵀ + b + s · x (B A)ᵀ) · (1 + f (ω_e − 1)),       e = expert of the unit

The gate acts on the pre-activation, including the bias, as published. In a gated network (SwiGLU)
the up projection is a factor of the input of the down projection, so that this input is gated. f
fades from 1 to 0 and is 0 in evaluation, where the layer is plain LoRA: the router has no effect on
predictions, merging or export. With R = 0 and B = 0 the initial change is zero.

Source: Zhong et al. 2024, arXiv 2501.06884.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bayeslora.adapters.base import StepHook
from bayeslora.adapters.emtal.experts import FFN, balanced_clusters
from bayeslora.adapters.factors import Factors, check_rank
from bayeslora.adapters.layers import trained_layer
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError, located

if TYPE_CHECKING:
    from bayeslora.adapters.emtal.options import EMTAL

logger = logging.getLogger(__name__)

_SD = 0.02
_SEED = 0
"""Seed of the clusters, which members of an ensemble share, as they share the weights."""


class GatedUnits(LowRank):
    """An up projection with LoRA, whose units a router weights by expert.

    Attributes:
        router: R [K, in], trained; without effect at `fade` 0.
        experts: [h] int64, the expert of each unit.
        temperature: τ.
        largest: Largest |f (ω − 1)| of the last gated pass.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace, with h outputs.
        factors: Initial factors.
        config: Scale, dropout, experts and temperature.
        router: [K, in], initial router.
        experts: [h] int64.
    """

    experts: Tensor

    def __init__(
        self,
        name: str,
        host: nn.Linear,
        factors: Factors,
        config: EMTAL,
        *,
        router: Tensor,
        experts: Tensor,
    ) -> None:
        super().__init__(name, host, factors, config.scale, config.dropout)
        self.router = trained_layer(router, host.weight.device)
        self.temperature = config.router_temperature
        self.register_buffer("experts", experts.to(host.weight.device))
        self.largest = torch.zeros(())
        self._fade = 0.0

    @property
    def num_experts(self) -> int:
        """K."""
        return self.router.out_features

    @property
    def fade(self) -> float:
        """The router's influence f during training."""
        return self._fade

    def set_fade(self, fade: float) -> None:
        """Set the router's influence during training.

        Raises:
            InputError: It is not in [0, 1].
        """
        if not 0 <= fade <= 1:
            raise InputError(f"fade must be from 0 to 1, got {fade!r}")
        self._fade = fade

    def weights(self, x: Tensor) -> Tensor:
        """Return ω [..., K], with mean 1, for inputs [..., in]."""
        logits: Tensor = self.router(x.to(self.router.weight.dtype)) / self.temperature
        shares: Tensor = logits.softmax(-1)
        return self.num_experts * shares

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., h] in the frozen layer's precision, gated only during training."""
        y = super().forward(x)
        if not self.training or self._fade == 0:
            return y
        # In this form the gate is exactly 1 if ω is 1.
        excess = self._fade * (self.weights(x) - 1)
        self.largest = excess.detach().abs().max()
        # A one-hot product is as exact as indexing and has a cheaper gradient.
        chosen = F.linear(excess, F.one_hot(self.experts, self.num_experts).to(excess))
        return y * (1 + chosen).to(y.dtype)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the factors and the router; `linears()` has only the factors."""
        return {**super().trainable(), "router": self.router.get_parameter("weight")}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save, including the experts."""
        return {**super().tensors(), "experts": self.experts}


def expert_sites(
    config: EMTAL,
    hosts: Mapping[str, nn.Linear],
    blocks: Mapping[str, FFN],
    generator: Generator,
    *,
    blank: bool,
) -> list[Site]:
    """Return the adapted layers.

    Args:
        config: Options.
        hosts: The linear layers to adapt, by their dotted names.
        blocks: Feed-forward networks by the name of their up projection.
        generator: Source of randomness, on the CPU.
        blank: Whether to skip the clustering because tensors will be loaded.

    Raises:
        InputError: The rank exceeds a layer's size.
    """
    sites: list[Site] = []
    for name, host in hosts.items():
        with located(name):
            factors = config.start(host.weight, generator)
        if name not in blocks:
            sites.append(LowRank(name, host, factors, config.scale, config.dropout))
            continue
        experts = torch.zeros(host.out_features, dtype=torch.int64)
        if not blank:
            deciding = hosts[blocks[name].deciding].weight.detach().double().cpu().numpy()
            experts = torch.from_numpy(balanced_clusters(deciding, config.num_experts, _SEED))
        router = _router(config, host.in_features, generator)
        sites.append(GatedUnits(name, host, factors, config, router=router, experts=experts))
    return sites


def _router(config: EMTAL, in_features: int, generator: Generator) -> Tensor:
    shape = (config.num_experts, in_features)
    if config.init == "zero":
        return torch.zeros(shape)
    # The initialisation of nn.Linear, as for the published router.
    start: Tensor = (2 * torch.rand(shape, generator=generator) - 1) / in_features**0.5
    return start


def gaussian(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return the published initial factors: both from N(0, 0.02²), with a small initial change.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    A = _SD * torch.randn(r, in_features, generator=generator)
    B = _SD * torch.randn(out_features, r, generator=generator)
    return Factors(A, B, None, orthonormal=False)


class Fading(StepHook):
    """Sets the router's influence before each step, as a function of the step alone."""

    def __init__(self, config: EMTAL, sites: Sequence[Site]) -> None:
        """Select the gated sites."""
        self._config = config
        self._gated = [site for site in sites if isinstance(site, GatedUnits)]

    def before_step(self, step: int, num_steps: int, optimizer: Optimizer) -> None:
        """Set the influence of this step; log when the router has faded."""
        fade = self._config.fade(step / num_steps)
        previous = self._gated[0].fade
        for site in self._gated:
            site.set_fade(fade)
        if previous > 0 and fade == 0:
            largest = max(float(site.largest) for site in self._gated)
            logger.info(
                "the router has faded out after %d of %d steps; in its last step it changed "
                "hidden units by at most %.2g of their value",
                step,
                num_steps,
                largest,
            )

    def finish(self) -> None:
        """Turn the gate off."""
        for site in self._gated:
            site.set_fade(0.0)
