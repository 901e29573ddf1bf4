"""Draws of IVON's posterior, and which weights are random."""

import torch
from small_sites import drawn, lora_site, polar_site

from bayeslora import IVON
from bayeslora.posteriors.weights.ivon import IVONWeights


def test_draws_have_the_curvatures_width():
    """5 standard errors of a standard deviation from 10,000 draws are 5 / √20000 = 3.5 %."""
    site = lora_site()
    weights = IVONWeights(IVON(ess=50, weight_decay=0.5), [site])
    weights.hess.copy_(torch.linspace(0.1, 5, len(weights.hess)))
    means = torch.cat([site.A.weight.flatten(), site.B.weight.flatten()]).detach().double()
    samples = drawn(
        weights, lambda: torch.cat([site.A.weight.flatten(), site.B.weight.flatten()]), 10_000
    )
    expected = (50 * (weights.hess.double() + 0.5)).rsqrt()
    torch.testing.assert_close(samples.std(0), expected, rtol=0.036, atol=0)
    assert ((samples.mean(0) - means) / expected).abs().max() < 5 / 100


def test_of_polar_the_core_alone_is_random():
    site = polar_site()
    weights = IVONWeights(IVON(ess=10, hess_init=1.0), [site])
    assert weights.hess.shape == (4,)
    for layer, moves in ((site.A, False), (site.B, False), (site.core, True)):
        samples = drawn(weights, lambda layer=layer: layer.weight, 2)
        assert bool((samples[0] != samples[1]).any()) == moves
