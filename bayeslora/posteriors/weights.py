"""What the posteriors over adapter weights share: putting a draw in place and taking it out again.

Each such posterior is an `nn.Module` beside the network's adapters. Its tensors are saved, loaded
and check-pointed with theirs, and outside of a draw the adapters hold the mean weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def replaced(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Hold other values in parameters while the context lasts.

    The very bits of before come back, also after an exception.

    Args:
        parameters: What is changed in place.
        values: What they hold meanwhile, of the same shapes.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        _copy(parameters, values)
        yield
    finally:
        _copy(parameters, kept)


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers of the shape, precision and device of `like`.

    They are drawn where the generator is, so that a seed means the same on every device.
    """
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


def gaussian_kl(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    """Return KL(N(mean, std²) ‖ N(0, prior_std²)) in nats, summed over all entries."""
    ratio = (std.square() + mean.square()) / (2 * prior_std**2)
    return (ratio - (std / prior_std).log() - 0.5).sum()


def initial_root(shape: torch.Size, largest: float, generator: torch.Generator) -> Tensor:
    """Return G uniform on [√(largest / 2), √largest], whose squares are standard deviations.

    Source: Wang et al. 2024, arXiv 2406.11675.
    """
    low, high = (largest / 2) ** 0.5, largest**0.5
    root: Tensor = low + (high - low) * torch.rand(shape, generator=generator)
    return root


@torch.no_grad()
def step_root(root: Tensor, rate: float, prior_std: float) -> None:
    """Take a gradient step on the KL of N(·, G⁴) to N(0, prior_std²) in G, in place.

    Of its derivative 2G³/σp² − 2/G the second part is taken at the end of the step: to first
    order the same, but a plain step there would leap to any height where G is close to 0.

    Args:
        root: G, the root of the standard deviation.
        rate: Length of the step.
        prior_std: σp.
    """
    moved = root - rate * 2 * root**3 / prior_std**2
    sign = torch.where(moved < 0, -1.0, 1.0).to(root.dtype)
    root.copy_((moved + sign * (moved.square() + 8 * rate).sqrt()) / 2)


@torch.no_grad()
def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
