"""From an adapter's options to where its factors start on one layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from bayeslora.adapters.config import LoRA, PoLAR
from bayeslora.adapters.config_starts import CorDA, PiSSA
from bayeslora.adapters.corda import corda
from bayeslora.adapters.init import Factors, check_rank, kaiming_zero, polar
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.stats import SecondMoment
from bayeslora.errors import InputError


def start(
    name: str,
    host: nn.Linear,
    config: LoRA | PoLAR | PiSSA | CorDA,
    generator: Generator,
    *,
    moments: Mapping[str, SecondMoment] | None = None,
    blank: bool = False,
) -> Factors:
    """Return the factors that an adapter starts from on one layer.

    Args:
        name: The layer's.
        host: The layer.
        config: The adapter's options.
        generator: Source of randomness, on the CPU.
        moments: Second moments of the inputs of layers by name, which CorDA needs.
        blank: Whether starts that are read off the weight are zeros instead.

    Raises:
        InputError: The rank exceeds the layer's size, or its second moment is missing or not its.
    """
    out_features, in_features = host.weight.shape
    try:
        if isinstance(config, LoRA):
            return kaiming_zero(out_features, in_features, config.r, generator)
        if isinstance(config, PoLAR):
            return polar(out_features, in_features, config.r, generator)
        if blank:
            return _blank(out_features, in_features, config.r)
        if isinstance(config, PiSSA):
            return pissa(host.weight, config.r, config.scale, generator, config.niter)
        return from_context(host.weight, config, (moments or {}).get(name))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def from_context(weight: Tensor, config: CorDA, moment: SecondMoment | None) -> Factors:
    """Return CorDA's factors for a weight [out, in].

    Raises:
        InputError: The second moment is missing or of another size, or the rank is too large.
    """
    if moment is None:
        raise InputError(
            "adapter 'corda' starts from second moments of the layer's inputs; pass moments, from "
            "bayeslora.adapters.stats.second_moments (a fit gathers them itself)"
        )
    return corda(
        weight,
        moment,
        config.r,
        config.scale,
        mode=config.mode,
        power=config.power,
        damping=config.damping,
    )


def _blank(out_features: int, in_features: int, r: int) -> Factors:
    check_rank(out_features, in_features, r)
    A, B = torch.zeros(r, in_features), torch.zeros(out_features, r)
    return Factors(A, B, None, orthonormal=False, centred=True)
