"""R-hat and effective sample size against direct sums."""

import math

import numpy as np
import pytest
import torch
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


def direct_rhat(chains):
    """Return Gelman and Rubin's ratio of [M, L] chains by direct sums."""
    length = chains.shape[1]
    within = np.mean([chain.var(ddof=1) for chain in chains])
    between = np.var([chain.mean() for chain in chains], ddof=1)
    return math.sqrt((length - 1) / length + between / within)


def direct_ess(chains):
    """Return the ESS of [M, L] chains by Geyer's initial monotone sequence, lag by lag."""
    count, length = chains.shape
    centred = chains - chains.mean(1, keepdims=True)
    within = centred.var(1, ddof=1).mean()
    total = (length - 1) / length * within + chains.mean(1).var(ddof=1)
    rho = []
    for lag in range(length):
        # Pyro, like earlier versions of Stan, divides each lag by its own number of pairs.
        pairs = [(c[lag:] * c[: length - lag]).sum() / (length - lag) for c in centred]
        rho.append(1 - (within - np.mean(pairs)) / total)
    rho[0] = 1.0
    sums = [rho[k] + rho[k + 1] for k in range(0, length - 1, 2)]
    time, smallest = -1 + 2 * sums[0], math.inf
    for value in sums[1:]:
        smallest = min(smallest, max(value, 0))
        time += 2 * smallest
    return count * length / max(time, 1 / math.log10(count * length))


@pytest.mark.parametrize("length", [60, 61])
def test_both_numbers_against_direct_sums(length):
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
        rhat = max(direct_rhat(scores), direct_rhat(folded))
        # Normal quantiles come from two libraries, and a Fourier transform is compared with sums.
        assert result.max_rhat == pytest.approx(rhat, abs=1e-9)
        assert result.min_ess == pytest.approx(direct_ess(scores), rel=1e-6)
    worst = convergence(draws)
    assert worst.max_rhat == pytest.approx(max(result.max_rhat for result in results), abs=1e-12)
    assert worst.min_ess == pytest.approx(min(result.min_ess for result in results), abs=1e-9)
