"""The mean of networks that started alike, as one network of the same size.

Fits to different parts of the rows, from one start and in the same number of steps, end so close to
each other that the mean of their weights predicts about as well as the mean of their predictions,
in one pass. Averaged are the changes of the frozen weights, not their factors: (1/K) Σ s·B_k·A_k
does not depend on how each is factored. Of that mean, whose rank is K·r, each site keeps the
nearest matrix of rank r.

Source: weight averaging of fine-tuned models, Wortsman et al. 2022, arXiv 2203.05482; the nearest
matrix of a rank, Eckart and Young 1936.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.adapters.low_rank import LowRank
from bayeslora.training.network import Network


@dataclass(frozen=True, eq=False)
class Learnt:
    """What training has changed in a network.

    Attributes:
        changes: Of each site `(A [k, in], B [out, k])` with the change of the weight s·B·A.
        weight: [C, d] mean of the last layer, for features that are not scaled.
    """

    changes: tuple[tuple[Tensor, Tensor], ...]
    weight: Tensor


def learnt(network: Network) -> Learnt | None:
    """Return what a network has learnt, or None where networks of its kind have no mean.

    They have one if their sites change weights by free matrices of a rank, which neither depends on
    the input nor is random. With PiSSA and CorDA the change starts at zero too, but from a part of
    the weight that a truncation would take from it.
    """
    sites = [site for site in network.sites if isinstance(site, LowRank)]
    free = all(not (site.is_gated or site.centred) for site in sites)
    if network.weights is not None or not sites or len(sites) < len(network.sites) or not free:
        return None
    changes = [site.change(torch.float64) for site in sites]
    return Learnt(
        tuple((A.detach().clone(), B.detach().clone()) for A, B in changes),
        network.head.mean_weight.double() / network.feature_scale,
    )


@torch.no_grad()
def average(network: Network, others: Sequence[Learnt]) -> None:
    """Let a network be the mean of itself and others, in place; the last layer's mean too.

    Args:
        network: One that `learnt` has something of.
        others: What networks of the same start have learnt.
    """
    own = learnt(network)
    if own is None:
        raise ValueError("networks of this kind have no mean")
    every = [own, *others]
    for place, site in enumerate(network.sites):
        if isinstance(site, LowRank):
            As, Bs = zip(*(one.changes[place] for one in every), strict=True)
            site.approximate(torch.cat(As), torch.cat(Bs, 1) / len(every))
    mean = torch.stack([one.weight for one in every]).mean(0)
    network.head.set_mean((mean * network.feature_scale).to(network.head.mean_weight))
