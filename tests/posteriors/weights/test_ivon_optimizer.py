"""IVON: curvature, positivity, and workarounds for pitfalls of the package."""

import pytest
import torch
from refusal import refused
from torch import nn

from bayeslora.adapters.optimizers import AlternatingOptimizer
from bayeslora.posteriors.weights.ivon import build_ivon, require_ivon, sampled

OPTIONS = {
    "lr": 0.1,
    "ess": 100.0,
    "hess_init": 1.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "weight_decay": 0.0,
    "clip_radius": 1e3,
}


def parameters(size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(size, generator=generator).double())]


def step(optimizer, loss, owner=None):
    (owner or optimizer).zero_grad()
    with sampled(optimizer):
        loss().backward()
    (owner or optimizer).step()


def test_a_huge_ess_is_a_deterministic_newton_step():
    """Compare with the explicit update at constant curvature; the remaining noise is 1e-10."""
    torch.manual_seed(0)
    (theta,) = weights = parameters()
    curvature = torch.tensor([0.3, 1.0, 4.0]).double()
    options = OPTIONS | {"ess": 1e20, "beta2": 1.0, "weight_decay": 0.5, "clip_radius": 0.7}
    optimizer = build_ivon(weights, **options)
    mean, running = theta.detach().clone(), torch.zeros(3).double()
    for count in range(1, 6):
        step(optimizer, lambda: 0.5 * (curvature * theta.square()).sum())
        running = 0.9 * running + 0.1 * curvature * mean
        newton = (running / (1 - 0.9**count) + 0.5 * mean) / (1.0 + 0.5)
        mean = mean - 0.1 * newton.clamp(-0.7, 0.7)
        torch.testing.assert_close(theta.detach(), mean, atol=1e-7, rtol=0)


def test_draws_have_the_width_of_the_formula():
    """With 10,000 draws, 5 standard errors of a standard deviation are 5 / √20000 = 3.5 %."""
    torch.manual_seed(0)
    (theta,) = weights = parameters(size=10_000)
    optimizer = build_ivon(weights, **OPTIONS | {"weight_decay": 0.25, "hess_init": 2.0})
    before = theta.detach().clone()
    with sampled(optimizer):
        noise = theta.detach() - before
    assert float(noise.std()) == pytest.approx((100 * 2.25) ** -0.5, rel=0.035)
    assert torch.equal(theta, before)


def pair():
    """Return the parameters of an adapter and a head, and an optimiser of both."""
    (theta,), (head,) = parameters(seed=1), parameters(seed=2)
    ivon = build_ivon([theta], **OPTIONS)
    return theta, head, ivon, AlternatingOptimizer([ivon], [torch.optim.AdamW([head])])


def run(parts, count):
    theta, head, ivon, both = parts
    for _ in range(count):
        step(ivon, lambda: 0.5 * theta.square().sum() + head.square().sum(), owner=both)
        both.head_step()


def test_a_resumed_run_takes_the_same_steps(tmp_path):
    """The bias correction depends on the number of steps, which must be restored."""
    whole, first, second = pair(), pair(), pair()
    torch.manual_seed(5)
    run(whole, 3)
    middle = torch.get_rng_state()
    run(whole, 3)
    torch.manual_seed(5)
    run(first, 3)
    torch.save(first[3].state_dict(), tmp_path / "optimizer.pt")
    second[3].load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for old, new in zip(first[:2], second[:2], strict=True):
        new.data.copy_(old.data)
    torch.manual_seed(99)
    torch.set_rng_state(middle)
    run(second, 3)
    for expected, actual in zip(whole[:2], second[:2], strict=True):
        assert torch.equal(expected, actual)
    assert torch.equal(whole[2].param_groups[0]["hess"], second[2].param_groups[0]["hess"])
    assert second[2].current_step == 6


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("bayeslora.posteriors.weights.ivon.find_spec", lambda name: None)
    for act in (require_ivon, lambda: build_ivon(parameters(), **OPTIONS)):
        with refused("missing", "ivon-opt", "bayeslora[ivon]"):
            act()
