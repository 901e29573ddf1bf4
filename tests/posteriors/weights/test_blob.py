"""BLoB: the KL and its steps, flipout, and draws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_sites import centred_site, drawn, lora_site, polar_site
from torch.distributions import Normal, kl_divergence

from bayeslora import BLoB
from bayeslora.posteriors.weights.blob import BLoBWeights
from bayeslora.posteriors.weights.draws import step_root

SITES = pytest.mark.parametrize("make", [lora_site, polar_site])


def random_factor(site):
    return site.A if site.core is None else site.core


@SITES
def test_the_kl_is_that_of_torch(make):
    """Compare in float64, where only the order of summation differs."""
    sites = [make(seed=seed).double() for seed in range(2)]
    weights = BLoBWeights(BLoB(prior_std=0.3), sites).double()
    expected = sum(
        kl_divergence(
            Normal(random_factor(site).weight, root.square()),
            Normal(torch.tensor(0.0).double(), torch.tensor(0.3, dtype=torch.float64)),
        ).sum()
        for site, root in zip(sites, weights.roots, strict=True)
    )
    torch.testing.assert_close(weights.kl(), expected, rtol=1e-12, atol=0)


def test_the_prior_of_a_centred_factor_is_around_its_start():
    """At the start the mean has no cost for any size of the factor; steps end there."""
    site = centred_site()
    weights = BLoBWeights(BLoB(prior_std=0.3), [site])
    expected = kl_divergence(Normal(0.0, weights.roots[0].square()), Normal(0.0, 0.3)).sum()
    torch.testing.assert_close(weights.kl(), expected)
    weights.kl_step(1e-3)
    assert torch.equal(site.A.weight, site.A0)
    site.A.weight.data += 1.0
    weights.kl_step(1e-3)
    step = 1 - 1e-3 / 0.3**2
    torch.testing.assert_close(site.A.weight - site.A0, torch.full_like(site.A0, step))


@SITES
def test_a_short_step_on_the_kl_follows_its_gradient(make):
    """The step is exact to first order: its error is of order rate² over the values (0.05)."""
    site = make().double()
    weights = BLoBWeights(BLoB(), [site]).double()
    moved = [random_factor(site).weight, weights.roots[0]]
    gradients = torch.autograd.grad(weights.kl(), moved)
    before = [item.detach().clone() for item in moved]
    weights.kl_step(1e-8)
    for item, old, gradient in zip(moved, before, gradients, strict=True):
        torch.testing.assert_close((old - item) / 1e-8, gradient, rtol=1e-4, atol=1e-5)


@given(start=st.floats(-1.0, 1.0), rate=st.floats(1e-7, 1e-3), prior_std=st.floats(0.1, 2.0))
def test_steps_on_the_kl_settle_at_the_prior_from_anywhere(start, rate, prior_std):
    """This includes 0, where the derivative is infinite; the root never overshoots the prior's."""
    root = torch.tensor([start], dtype=torch.float64)
    highest = max(abs(start), prior_std**0.5)
    for _ in range(20):
        step_root(root, rate, prior_std)
        assert abs(float(root)) <= highest * 1.001 + 1e-12
    far = abs(float(root.square()) - prior_std)
    step_root(root, rate, prior_std)
    assert abs(float(root.square()) - prior_std) <= far + 1e-12


@SITES
def test_flipout_has_the_variance_of_drawn_weights(make):
    """Compare with direct draws of the weights, 4,000 of each: a variance has a standard error of
    √(2 / 4000) = 2.2 %, so two variances differ by less than 5 · √2 · 2.2 % = 15.8 %.
    """
    site = make(out=3, inputs=4)
    weights = BLoBWeights(BLoB(initial_std=0.4), [site])
    x = torch.randn(1, 2, 4)
    direct = drawn(weights, lambda: site(x), 4000)
    torch.manual_seed(0)
    with weights.noise(), torch.no_grad():
        # A single E per batch would correlate its rows; these passes have one row each.
        flipped = torch.stack([site(x) for _ in range(4000)]).double()
    torch.testing.assert_close(flipped.var(0), direct.var(0), rtol=0.158, atol=0)
    # The tokens of a text share the weights, so they covary as they do in direct draws.
    for out in range(3):
        actual = flipped[:, 0, :, out].T.cov()
        expected = direct[:, 0, :, out].T.cov()
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=0.158 * float(expected.diagonal().max())
        )


@SITES
def test_draws_have_the_means_and_spreads(make):
    """Allow 5 standard errors of mean and standard deviation from 4,000 draws."""
    site = make()
    weights = BLoBWeights(BLoB(initial_std=0.4), [site])
    factor = random_factor(site).weight
    mean, std = factor.detach().double(), weights.roots[0].detach().double().square()
    samples = drawn(weights, lambda: factor, 4000)
    assert ((samples.mean(0) - mean) / std).abs().max() < 5 / 4000**0.5
    torch.testing.assert_close(samples.std(0), std, rtol=5 / 8000**0.5, atol=0)
    assert torch.equal(factor.detach().double(), mean)


@SITES
def test_gradients_of_a_noisy_pass_reach_the_standard_deviations(make):
    """Central differences under the same noise have an error of order step² = 1e-12."""
    site = make().double()
    weights = BLoBWeights(BLoB(initial_std=0.4), [site]).double()
    (root,), x = weights.roots, torch.randn(2, 3, 4, dtype=torch.float64)

    def loss():
        torch.manual_seed(0)
        with weights.noise():
            return site(x).square().sum()

    (slope,) = torch.autograd.grad(loss(), root)
    with torch.no_grad():
        root[0, 0] += 1e-6
        above = loss()
        root[0, 0] -= 2e-6
        assert float(above - loss()) / 2e-6 == pytest.approx(float(slope[0, 0]), rel=1e-6)
