"""From an adapter's options to where its factors start on one layer."""

from __future__ import annotations

import torch
from torch import Generator, nn

from bayeslora.adapters.config import AdapterConfig, LoRA, PoLAR
from bayeslora.adapters.init import Factors, check_rank, kaiming_zero, polar
from bayeslora.adapters.pissa import pissa
from bayeslora.errors import InputError


def start(
    name: str, host: nn.Linear, config: AdapterConfig, generator: Generator, *, blank: bool = False
) -> Factors:
    """Return the factors that an adapter starts from on one layer.

    Args:
        name: The layer's, for messages.
        host: The layer.
        config: The adapter's options.
        generator: Source of randomness, on the CPU.
        blank: Whether starts that are read off the weight are zeros instead.

    Raises:
        InputError: The rank exceeds the layer's size.
    """
    out_features, in_features = host.weight.shape
    try:
        if isinstance(config, LoRA):
            return kaiming_zero(out_features, in_features, config.r, generator)
        if isinstance(config, PoLAR):
            return polar(out_features, in_features, config.r, generator)
        if blank:
            return _blank(out_features, in_features, config.r)
        return pissa(host.weight, config.r, config.scale, generator, config.niter)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _blank(out_features: int, in_features: int, r: int) -> Factors:
    check_rank(out_features, in_features, r)
    A, B = torch.zeros(r, in_features), torch.zeros(out_features, r)
    return Factors(A, B, None, orthonormal=False, centred=True)
