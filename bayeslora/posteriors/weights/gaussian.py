"""Gaussians with independent entries, trained by gradients: KL and standard deviations."""

from __future__ import annotations

import torch
from torch import Tensor


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
