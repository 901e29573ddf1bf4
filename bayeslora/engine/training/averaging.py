"""The average of several networks of one fit, as one network.

    ΔW̄ = (1/K) Σ_k ΔW_k ,   w̄ = (1/K) Σ_k w_k / σ_k

ΔW_k are the changes of the weights, w_k the trained weights of the last layers, and σ_k the scales
of their features. The part of ΔW̄ of the adapter's rank is kept. Factors are not averaged: those of
a change are not unique.

An average is only as good as its networks if no barrier of the loss lies between them. Networks
that have not learnt the same thing yet may have one; `fails` tells.

Source: of whole networks Wortsman et al. 2022, arXiv 2203.05482.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayeslora.engine.network import Network
from bayeslora.errors import DivergedError
from bayeslora.processes import current


class Average:
    """Collects networks that differ in their trained tensors only.

    Attributes:
        count: Number of networks so far.
        held_out_nll: Mean NLL, in nats, of rows that the networks have not been fitted to.
        num_held_out: Number of these rows.
        is_used: Whether the average predicts; False once it has failed.
    """

    def __init__(self) -> None:
        self.count = 0
        self.held_out_nll = math.inf
        self.num_held_out = 0
        self.is_used = True
        self._changes: list[list[tuple[Tensor, Tensor]]] = []
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def add(self, network: Network) -> None:
        """Add a trained network.

        Raises:
            InputError: Its tensors are not finite.
        """
        changes = [site.change() for site in network.sites]
        weight = network.head.trained_mean.double() / network.feature_scale
        tensors = [weight, *(factor for change in changes for factor in change)]
        if not all(tensor.isfinite().all() for tensor in tensors):
            raise DivergedError(
                "the weights of the adapter are not finite: training diverged; lower its lr"
            )
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

    def fails(self, losses: Tensor) -> bool:
        """Return whether the average is worse than its networks.

        Each network was fitted to most of the training rows, so the average should have a lower
        loss on them than the networks have on rows that they have not seen. It fails if its loss is
        higher by more than two standard errors.

        Args:
            losses: [n] NLL of training rows under the average, in nats.
        """
        error = losses.std(correction=0) * math.sqrt(
            1 / len(losses) + 1 / max(self.num_held_out, 1)
        )
        return bool(losses.mean() > self.held_out_nll + 2 * error)


def can_average(network: Network) -> bool:
    """Return whether the network is determined by changes of its weights and a last layer."""
    return (
        bool(network.sites)
        and network.weights is None
        and network.conditioning is None
        and all(site.can_set_change for site in network.sites)
    )
