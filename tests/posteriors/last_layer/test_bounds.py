"""Bounds against sampling, finite differences and each other."""

import pytest
import torch
from gaussian_oracles import best_bound
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.links import antithetic_noise
from bayeslora.posteriors.last_layer.vbll import bounds
from bayeslora.posteriors.last_layer.vbll.bounds import best_tilt, wright_omega

F64 = torch.float64


def moments(rows=6, classes=4, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(rows, classes, generator=generator, dtype=F64)
    variance = scale * torch.rand(rows, classes, generator=generator, dtype=F64)
    labels = torch.randint(classes, (rows,), generator=generator)
    return mean, variance, labels


@given(classes=st.integers(2, 8), scale=st.floats(0.01, 30), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_order_of_the_bounds(classes, scale, seed):
    """Jensen's bound is below Knowles-Minka's, and no other tilt gives a higher bound."""
    mean, variance, labels = moments(5, classes, scale, seed)
    best = best_bound(mean, variance, labels)
    others = [torch.zeros_like(mean), mean.softmax(-1), torch.rand(5, classes, dtype=F64)]
    for tilt in others:
        assert (best >= bounds.tilted(mean, variance, labels, tilt) - 1e-10).all()
    zero = bounds.tilted(mean, variance, labels, torch.zeros_like(mean))
    torch.testing.assert_close(zero, bounds.jensen(mean, variance, labels))


@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0])
def test_bounds_are_below_the_sampled_likelihood(scale):
    mean, variance, labels = moments(4, 4, scale, seed=1)
    noise = antithetic_noise(400_000, (1, 4), seed=0)
    sampled = (mean + variance.sqrt() * noise).logsumexp(-1)
    error = sampled.std(0) / 400_000**0.5
    truth = mean.gather(1, labels[:, None])[:, 0] - sampled.mean(0)
    for bound in (bounds.jensen, best_bound):
        # Six standard errors: one false alarm in 1e9 rows.
        assert (bound(mean, variance, labels) <= truth + 6 * error).all()


@pytest.mark.parametrize("scale", [0.0, 0.1, 10.0, 1e4])
def test_tilt_solves_its_equation_at_any_variance(scale):
    mean, variance, _ = moments(200, 6, scale, seed=4)
    tilt = best_tilt(5 * mean, variance)
    fixed = (5 * mean + 0.5 * (1 - 2 * tilt) * variance).softmax(-1)
    # The right-hand side multiplies an error in the tilt by the variance.
    torch.testing.assert_close(tilt, fixed, atol=1e-12 * (1 + scale), rtol=0)
    torch.testing.assert_close(tilt.sum(-1), torch.ones(200, dtype=F64), atol=1e-14, rtol=0)


def test_wright_omega_is_that_of_scipy():
    from scipy.special import wrightomega

    points = torch.cat([torch.linspace(-100, 100, 4001), torch.logspace(2, 6, 50)]).double()
    expected = torch.from_numpy(wrightomega(points.numpy()))
    torch.testing.assert_close(wright_omega(points), expected, rtol=1e-13, atol=0)
    assert wright_omega(torch.tensor([-torch.inf], dtype=F64)).item() == 0


def correlated(rows=6, classes=4, scale=1.0, rank=4, seed=0):
    mean, _, labels = moments(rows, classes, scale, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    root = torch.randn(rows, classes, rank, generator=generator, dtype=F64)
    return mean, scale * root @ root.mT / rank, labels


@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.0])
def test_what_the_ascent_is_told_are_the_derivatives_of_the_bound(is_full, share):
    mean, covariance, labels = (correlated if is_full else moments)(scale=3.0)
    mean.requires_grad_()
    covariance.requires_grad_()
    # Away from the best tilt the derivatives at a fixed tilt are as exact.
    tilt = share * best_tilt(mean.detach(), covariance.detach())
    value = bounds.tilted(mean, covariance, labels, tilt)
    by_mean, by_covariance = torch.autograd.grad(value.sum(), (mean, covariance))
    weights = bounds.curvature(mean.detach(), covariance.detach(), tilt)
    if is_full:
        by_covariance = (by_covariance + by_covariance.mT) / 2
    torch.testing.assert_close(by_covariance, -0.5 * weights, atol=1e-12, rtol=0)
    shift = bounds.tilt_terms(covariance.detach(), tilt)[0]
    target = torch.nn.functional.one_hot(labels, 4)
    expected = target - (mean.detach() + shift).softmax(-1)
    torch.testing.assert_close(by_mean, expected, atol=1e-12, rtol=0)


@given(
    classes=st.integers(2, 6),
    rank=st.integers(1, 6),
    scale=st.floats(0.01, 30),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_the_tilted_bound_of_dependent_logits(classes, rank, scale, seed):
    """The tilt solves its equation, is optimal, and ignores a common shift of all logits."""
    mean, covariance, labels = correlated(5, classes, scale, rank, seed)
    tilt = best_tilt(mean, covariance)
    shift, _ = bounds.tilt_terms(covariance, tilt)
    torch.testing.assert_close(tilt, (mean + shift).softmax(-1), atol=1e-9, rtol=0)
    best = best_bound(mean, covariance, labels)
    for other in (torch.zeros_like(mean), mean.softmax(-1), torch.rand(5, classes, dtype=F64)):
        assert (best >= bounds.tilted(mean, covariance, labels, other) - 1e-9).all()
    moved = best_bound(mean + 3.0, covariance + 7.0, labels)
    torch.testing.assert_close(moved, best, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("classes", "scale", "rank"), [(4, 1.0, 4), (10, 2.0, 10), (4, 4.0, 2)])
def test_dependent_logits_against_sampling(classes, scale, rank):
    """Tilted is below the truth and above Jensen; variances alone would exceed the truth."""
    mean, covariance, labels = correlated(3, classes, scale, rank, seed=7)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(classes, dtype=F64))
    noise = antithetic_noise(200_000, (1, classes), seed=0)
    sampled = (mean + torch.einsum("bij,kj->kbi", root, noise[:, 0])).logsumexp(-1)
    truth = mean.gather(1, labels[:, None])[:, 0] - sampled.mean(0)
    error = 6 * sampled.std(0) / 200_000**0.5
    tight = best_bound(mean, covariance, labels)
    loose = bounds.jensen(mean, covariance, labels)
    assert (tight <= truth + error).all()
    assert (loose <= tight).all()
    assert (truth - tight).sum() < 0.6 * (truth - loose).sum()
