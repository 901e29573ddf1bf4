"""SWAG: moments of a trajectory, and draws with these moments."""

import numpy as np
import pytest
import torch
from torch import nn

from bayeslora import SWAG
from bayeslora.posteriors.weights.swag import SWAGWeights


def collected(trajectory, **options):
    """Return SWAG after collecting the rows of [T, P], and the parameter that held them."""
    parameter = nn.Parameter(torch.zeros(trajectory.shape[1]))
    swag = SWAGWeights(SWAG(**options), [parameter])
    for row in trajectory:
        with torch.no_grad():
            parameter.copy_(row)
        swag.collect()
    return swag, parameter


def drawn(swag, parameter, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(count):
        with swag.draw(generator):
            draws.append(parameter.detach().clone())
    return torch.stack(draws).double()


def autoregressive(steps, size=3, memory=0.9, seed=0):
    """Return [T, P] with mean 1, stationary variance 1 and lag-1 correlation `memory`."""
    chance = np.random.default_rng(seed)
    values = [chance.normal(size=size)]
    for _ in range(steps - 1):
        noise = chance.normal(size=size)
        values.append(memory * values[-1] + (1 - memory**2) ** 0.5 * noise)
    return torch.tensor(1 + np.stack(values), dtype=torch.float32)


def test_moments_are_those_of_the_trajectory():
    """Compare with NumPy in float64: the recursion only adds rounding."""
    trajectory = autoregressive(40)
    swag, parameter = collected(trajectory)
    expected = trajectory.double().numpy()
    np.testing.assert_allclose(swag.mean.numpy(), expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(swag.variance.numpy(), expected.var(0), rtol=1e-12)
    swag.before_last_layer(None)
    np.testing.assert_allclose(parameter.detach().numpy(), expected.mean(0), rtol=1e-6)


@pytest.mark.parametrize("count", [3, 5, 9])
def test_deviations_are_the_newest_from_the_running_mean(count):
    trajectory = autoregressive(count)
    swag, _ = collected(trajectory, rank=5)
    rows = trajectory.double().numpy()
    expected = [rows[n] - rows[: n + 1].mean(0) for n in range(count)][-5:]
    deviations = swag.deviations[-len(expected) :].numpy()
    np.testing.assert_allclose(deviations, expected, atol=1e-6)
    assert not swag.deviations[: -len(expected)].any()


def test_draws_have_the_mean_and_the_covariance_of_the_formula():
    """With 8,000 draws, 5 standard errors of an entry are 5 · √2 · var / √8000 = 0.08 var."""
    trajectory = autoregressive(30, size=3)
    swag, parameter = collected(trajectory, rank=4, scale=0.5)
    draws = drawn(swag, parameter, 8000)
    D = swag.deviations.double()
    expected = 0.5 * (torch.diag(swag.variance) + D.T @ D / 3)
    size = float(expected.diagonal().max())
    torch.testing.assert_close(draws.T.cov(), expected, atol=0.08 * size, rtol=0)
    torch.testing.assert_close(draws.mean(0), swag.mean, atol=5 * (size / 8000) ** 0.5, rtol=0)


@pytest.mark.parametrize(
    ("num_steps", "options", "expected"),
    [
        (400, {}, list(range(210, 401, 10))),
        (20, {"num_snapshots": 5}, [12, 14, 16, 18, 20]),
        (7, {}, [4, 5, 6, 7]),
        (3, {"start": 0.0, "num_snapshots": 2}, [2, 3]),
    ],
)
def test_snapshots_are_evenly_spaced_up_to_the_last_step(num_steps, options, expected):
    assert SWAG(**options).snapshot_steps(num_steps) == expected
