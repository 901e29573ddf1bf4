"""The average of several networks of one fit, as one network.

    ΔW̄ = (1/K) Σ_k ΔW_k ,   w̄ = (1/K) Σ_k w_k / σ_k

ΔW_k are the changes of the weights, w_k the trained weights of the last layers, and σ_k the scales
of their features. The part of ΔW̄ of the adapter's rank is kept. Factors are not averaged: those of
a change are not unique.

Source: of whole networks Wortsman et al. 2022, arXiv 2203.05482.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayeslora.engine.network import Network
from bayeslora.processes import current


class Average:
    """Collects networks that differ in their trained tensors only.

    Attributes:
        count: Number of networks so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._changes: list[list[tuple[Tensor, Tensor]]] = []
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def add(self, network: Network) -> None:
        """Add a trained network."""
        changes = [site.change() for site in network.sites]
        weight = network.head.trained_mean.double() / network.feature_scale
        # On the CPU, since they stay during the next fit.
        self._changes.append([(A.cpu().clone(), B.cpu().clone()) for A, B in changes])
        self._weights.append(weight.cpu())
        self.count += 1

    @torch.no_grad()
    def load(self, network: Network) -> None:
        """Give a network the average of those added; its last layer has yet to be fitted."""
        for site, changes in zip(network.sites, zip(*self._changes, strict=True), strict=True):
            As, Bs = zip(*changes, strict=True)
            device = site.weight.device
            site.set_change(torch.cat(As).to(device), torch.cat(Bs, 1).to(device) / self.count)
        weight = torch.stack(self._weights).mean(0).to(network.feature_scale.device)
        network.head.set_mean((weight * network.feature_scale).to(network.head.trained_mean))
        # Decompositions may differ between machines.
        current().broadcast_([item for site in network.sites for item in site.trainable().values()])


def can_average(network: Network) -> bool:
    """Return whether the network is determined by changes of its weights and a last layer."""
    return (
        bool(network.sites)
        and network.weights is None
        and network.conditioning is None
        and all(site.can_set_change for site in network.sites)
    )
