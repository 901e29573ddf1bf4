"""Soft orthogonality: fields in place of gradients, absorption, and the law of the drift."""

import math

import pytest
import torch
from torch import nn

from bayeslora.adapters.inject import inject
from bayeslora.adapters.low_rank import drift
from bayeslora.adapters.polar import LandingAdam, PoLAR, landing_field


def sites_of(size, r):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(size, size, bias=False))
    return inject(model, PoLAR(r=r, target_modules=("0",)), seed=0)


def give_noise(sites, step, size=1.0):
    generator = torch.Generator().manual_seed(step)
    for site in sites:
        for value in site.trainable().values():
            value.grad = size * torch.randn(value.shape, generator=generator)


def test_adam_sees_the_field():
    (site,) = sites_of(6, 2)
    X = site.B.weight
    with torch.no_grad():
        X.mul_(1.2)
    give_noise([site], 0)
    G, before = X.grad.clone(), X.detach().clone()
    optimizer = LandingAdam([site], lr=0.1, landing_lambda=0.7, absorb_every=0)
    optimizer.step()
    # X = 1.2·Q, so X(XᵀX − I) = (1.44 − 1)·X.
    field = landing_field(before, G, 0.0) + 0.7 * (1.2**2 - 1) * before
    torch.testing.assert_close(X.grad, field, atol=1e-5, rtol=1e-5)
    # Adam's first step is the sign of the field, up to eps.
    torch.testing.assert_close(X.detach(), before - 0.1 * field.sign(), atol=1e-5, rtol=0)


def test_the_transposed_factor_gets_the_transposed_field():
    (site,) = sites_of(6, 2)
    give_noise([site], 0)
    A, G = site.A.weight.detach().clone(), site.A.weight.grad.clone()
    LandingAdam([site], lr=0.1, landing_lambda=0.5, absorb_every=0).step()
    expected = landing_field(A.T, G.T, 0.5).T
    torch.testing.assert_close(site.A.weight.grad, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_absorption_when_it_is_due(every):
    sites = sites_of(8, 3)
    optimizer = LandingAdam(sites, 0.05, 5e-3, absorb_every=every)
    for step in range(1, 7):
        give_noise(sites, step)
        optimizer.step()
        if step % every == 0:
            assert drift(sites[0]) < 2e-6
        else:
            assert drift(sites[0]) > 1e-3


@pytest.mark.parametrize(("n", "attraction"), [(192, 5e-3), (192, 2e-2), (384, 2e-2)])
def test_drift_follows_its_law(n, attraction):
    """‖ZᵀZ − I‖_F settles at η n g √r / (2λ) under noise of root mean square entry g."""
    lr, g, r = 4e-3, 1e-3, 8
    sites = sites_of(n, r)
    optimizer = LandingAdam(sites, lr, attraction, absorb_every=0)
    # Time constant g / (2ηλ): 25 steps at the smaller λ.
    for step in range(250):
        give_noise(sites, step, g)
        optimizer.step()
    predicted = lr * n * g * math.sqrt(r) / (2 * attraction)
    assert drift(sites[0]) == pytest.approx(predicted, rel=0.25)
