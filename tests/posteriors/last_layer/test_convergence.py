"""Halves, ranks and folds of chains against SciPy; Pyro computes R-hat and sample sizes."""

import math

import numpy as np
import pytest
import torch
from pyro.ops.stats import effective_sample_size, gelman_rubin
from scipy.stats import norm, rankdata

from bayeslora.posteriors.last_layer.nuts import convergence


def noise(chains, length, quantities=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(chains, length, quantities, generator=generator, dtype=torch.float64)


def autoregressive(rho, chains=4, length=2000):
    steps = noise(chains, length)
    values = [steps[:, 0]]
    for step in range(1, length):
        values.append(rho * values[-1] + math.sqrt(1 - rho**2) * steps[:, step])
    return torch.stack(values, dim=1)


def direct_scores(chains):
    rank = rankdata(chains.ravel()).reshape(chains.shape)
    return norm.ppf((rank - 0.375) / (chains.size + 0.25))


@pytest.mark.parametrize("length", [60, 61])
def test_both_numbers_are_those_of_ranked_halves(length):
    draws = autoregressive(0.5, chains=3, length=length)
    draws = torch.cat([draws, draws.exp(), draws.round()], dim=2)  # skewed, and with ties
    results = [convergence(draws[..., [k]]) for k in range(3)]
    half = length // 2
    chains = draws.numpy()
    for k, result in enumerate(results):
        split = np.concatenate([chains[:, :half, k], chains[:, -half:, k]])
        scores = direct_scores(split)
        # Torch's median is the lower of the two middle values.
        middle = np.sort(split.ravel())[(split.size - 1) // 2]
        folded = direct_scores(np.abs(split - middle))
        rhat = max(float(gelman_rubin(torch.from_numpy(each))) for each in (scores, folded))
        # Normal quantiles come from two libraries.
        assert result.max_rhat == pytest.approx(rhat, abs=1e-9)
        ess = float(effective_sample_size(torch.from_numpy(scores)))
        assert result.min_ess == pytest.approx(ess, rel=1e-6)
    worst = convergence(draws)
    assert worst.max_rhat == pytest.approx(max(result.max_rhat for result in results), abs=1e-12)
    assert worst.min_ess == pytest.approx(min(result.min_ess for result in results), abs=1e-9)
