"""Convergence of chains: what is measured is Pyro's, of the worst quantity."""

import pytest
import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from refusal import refused

from bayeslora.posteriors.last_layer import nuts
from bayeslora.posteriors.last_layer.nuts import convergence


def noise(chains, length, quantities=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(chains, length, quantities, generator=generator, dtype=torch.float64)


def test_both_numbers_are_those_of_the_worst_quantity(monkeypatch):
    monkeypatch.setattr(nuts, "_CHUNK", 1)  # a quantity at a time
    draws = noise(3, 60, 2)
    draws[..., 1] = draws[..., 1].cumsum(1)  # a random walk
    result = convergence(draws)
    assert result.max_rhat == pytest.approx(float(split_gelman_rubin(draws)[1]))
    assert result.min_ess == pytest.approx(float(effective_sample_size(draws)[1]))
    assert result.max_rhat > nuts.RHAT_LIMIT > convergence(noise(4, 4000)).max_rhat


def test_chains_that_do_not_move_are_refused():
    with refused("input", "num_warmup"):
        convergence(torch.ones(2, 8, 1, dtype=torch.float64))
