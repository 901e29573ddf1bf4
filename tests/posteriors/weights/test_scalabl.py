"""ScalaBL: the direction of the KL, its steps, and the adapter as the mean."""

import torch
from small_sites import drawn, lora_site
from torch.distributions import Normal, kl_divergence

from bayeslora import ScalaBL
from bayeslora.posteriors.weights.scalabl import ScalaBLWeights


def made(count=1, **options):
    sites = [lora_site(seed=seed).double() for seed in range(count)]
    return sites, ScalaBLWeights(ScalaBL(**options), sites).double()


def directions(weights, site, place=0):
    """Return V, the directions to scale, from the adapter and its scales."""
    return (site.A.weight / weights.held[place].exp()[:, None]).detach()


def test_the_kl_is_that_of_the_posterior_to_the_prior_not_the_reverse():
    _, weights = made(2, prior_std=0.7)
    q = Normal(weights.log_mean.exp(), weights.log_std.exp())
    p = Normal(torch.tensor(0.0).double(), torch.tensor(0.7, dtype=torch.float64))
    kl = weights.kl().detach()
    torch.testing.assert_close(kl, kl_divergence(q, p).sum().detach(), rtol=1e-12, atol=0)
    reverse = kl_divergence(p, q).sum().detach()
    assert abs(float(kl - reverse)) > 0.1 * float(kl)


def test_a_short_step_on_the_kl_follows_its_gradient():
    _, weights = made(2)
    moved = [weights.log_mean, weights.log_std]
    gradients = torch.autograd.grad(weights.kl(), moved)
    before = [item.detach().clone() for item in moved]
    weights.kl_step(1e-7)
    for item, old, gradient in zip(moved, before, gradients, strict=True):
        torch.testing.assert_close((old - item) / 1e-7, gradient, rtol=1e-6, atol=1e-7)


def test_it_starts_at_the_singular_values_of_loras_start():
    plain = lora_site(seed=0).double()
    (site,), weights = made()
    torch.testing.assert_close(
        weights.log_mean[0].exp().detach(), torch.linalg.svdvals(plain.A.weight).detach()
    )
    V = directions(weights, site)
    torch.testing.assert_close(V @ V.T, torch.eye(2).double(), atol=1e-6, rtol=0)
    stds = weights.log_std.detach().exp()
    assert 0.05 / 2**0.5 * (1 - 1e-6) <= float(stds.min()) <= float(stds.max()) <= 0.05 * (1 + 1e-6)


def test_the_adapter_follows_the_means():
    """Optimiser steps on log m and steps on the KL both update A; V does not change."""
    (site,), weights = made()
    V = directions(weights, site)
    weights.log_mean.data += torch.tensor([0.3, -0.2])
    weights.kl_step(0.1)
    assert torch.equal(weights.held, weights.log_mean)
    torch.testing.assert_close(directions(weights, site), V, rtol=1e-12, atol=1e-12)


def test_a_noisy_pass_has_the_mean_and_variance_of_drawn_weights():
    """With 4,000 draws each, variances differ by less than 5 · √2 · √(2 / 4000) = 15.8 %."""
    (site,), weights = made(initial_std=0.4)
    x = torch.randn(1, 2, 4).double()
    direct = drawn(weights, lambda: site(x), 4000)
    torch.manual_seed(0)
    with weights.noise(), torch.no_grad():
        noisy = site(x.repeat(4000, 1, 1))
    spread = direct.std(0)
    torch.testing.assert_close(noisy.var(0)[None], spread.square(), rtol=0.158, atol=0)
    assert ((noisy.mean(0) - direct.mean(0)) / spread).abs().max() < 5 * (2 / 4000) ** 0.5
    assert ((direct.mean(0) - site(x)) / spread).abs().max() < 5 / 4000**0.5


def test_gradients_of_the_noisy_pass_are_those_of_the_formula():
    """Compare with B diag(m + σε) V x, with m and σ as leaves and the same noise."""
    (site,), weights = made(initial_std=0.4)
    x = torch.randn(3, 4).double()
    V = directions(weights, site)
    torch.manual_seed(1)
    with weights.noise():
        site(x).square().sum().backward()
    torch.manual_seed(1)
    noise = torch.randn(3, 2, dtype=torch.float64)
    log_mean, log_std = (
        item.detach().clone().requires_grad_() for item in (weights.log_mean, weights.log_std)
    )
    code = (log_mean[0].exp() + log_std[0].exp() * noise) * (x @ V.T)
    change = site.scale * code @ site.B.weight.detach().T
    base = torch.nn.functional.linear(x, site.weight, site.bias)
    (base + change).square().sum().backward()
    torch.testing.assert_close(weights.log_mean.grad, log_mean.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weights.log_std.grad, log_std.grad, rtol=1e-9, atol=1e-12)


def test_draws_scale_whole_rows_and_leave_no_trace():
    (site,), weights = made(initial_std=0.4)
    before = site.A.weight.detach().clone()
    samples = drawn(weights, lambda: site.A.weight, 10_000)
    assert torch.equal(site.A.weight, before)
    ratios = samples / before
    torch.testing.assert_close(ratios, ratios[:, :, :1].expand_as(ratios), rtol=1e-9, atol=0)
    expected = (weights.log_std - weights.log_mean).exp()[0].detach()
    # 5 standard errors of a standard deviation from 10,000 draws.
    torch.testing.assert_close(ratios[:, :, 0].std(0), expected, rtol=5 / 20_000**0.5, atol=0)
