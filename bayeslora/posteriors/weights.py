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


@torch.no_grad()
def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
