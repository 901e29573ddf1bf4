"""Adapter sites of a few numbers, with trained-looking factors."""

import torch
from torch import nn

from bayeslora.adapters.lora import kaiming_zero
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.polar import random_factors


def lora_site(out=5, inputs=4, r=2, scale=2.0, seed=0):
    """Return a LoRA site with a non-zero second factor."""
    generator = torch.Generator().manual_seed(seed)
    return _site(kaiming_zero(out, inputs, r, generator), "B", scale, generator)


def polar_site(out=5, inputs=4, r=2, scale=2.0, seed=0):
    """Return a PoLAR site with a non-zero core."""
    generator = torch.Generator().manual_seed(seed)
    return _site(random_factors(out, inputs, r, generator), "core", scale, generator)


def centred_site(out=5, inputs=4, r=2, scale=2.0, seed=0):
    """Return a site that starts, and still is, at the principal part of its weight."""
    generator = torch.Generator().manual_seed(seed)
    host = nn.Linear(inputs, out)
    with torch.no_grad():
        host.weight.copy_(torch.randn(out, inputs, generator=generator))
    return LowRank("layer.0.query", host, pissa(host.weight, r, scale), scale).eval()


def _site(factors, moved, scale, generator):
    out, inputs = factors.B.shape[0], factors.A.shape[1]
    host = nn.Linear(inputs, out)
    with torch.no_grad():
        host.weight.copy_(torch.randn(out, inputs, generator=generator))
        host.bias.zero_()
    site = LowRank("layer.0.query", host, factors, scale).eval()
    weight = site.linears()[moved].weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return site


def drawn(posterior, look, count, seed=0):
    """Return `look()` under each of `count` draws, stacked, in float64."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(count):
        with posterior.draw(generator):
            samples.append(look().detach().clone())
    return torch.stack(samples).double()
