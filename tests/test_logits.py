"""Gaussian and sampled logits: moments, roots, and the point case."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.links import link_probabilities
from bayeslora.logits import GaussianLogits, SampledLogits, evenly, mixed


def gaussian(rows=4, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    root = torch.randn(rows, classes, classes, generator=generator, dtype=torch.float64)
    return GaussianLogits(mean, root @ root.mT)


@settings(deadline=None)
@given(rows=st.integers(1, 5), classes=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_root_squares_to_the_covariance(rows, classes, seed):
    logits = gaussian(rows, classes, seed)
    root = logits.root(jitter=0)
    # Rounding of a Cholesky factorisation, relative to the size of the matrix.
    torch.testing.assert_close(root @ root.mT, logits.covariance, atol=1e-11, rtol=1e-9)
    assert torch.equal(root, root.tril())


def test_a_singular_covariance_has_a_root():
    shared = torch.ones(1, 3, 3, dtype=torch.float64)
    zero = torch.zeros(1, 3, 3, dtype=torch.float64)
    logits = GaussianLogits(torch.zeros(2, 3, dtype=torch.float64), torch.cat([shared, zero]))
    root = logits.root()
    assert bool(torch.isfinite(root).all())
    # The jitter is a millionth of the mean variance.
    torch.testing.assert_close(root @ root.mT, logits.covariance, atol=1.1e-6, rtol=0)


def test_scaling_multiplies_means_and_variances():
    logits = gaussian()
    scaled = logits.scaled(3.0)
    torch.testing.assert_close(scaled.mean, 3 * logits.mean)
    torch.testing.assert_close(scaled.covariance, 9 * logits.covariance)
    sampled = SampledLogits(torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]]))
    assert torch.equal(sampled.scaled(2.0).samples, 2 * sampled.samples)


def test_sharpening_multiplies_means_alone():
    logits = gaussian()
    sharp = logits.sharpened(3.0)
    torch.testing.assert_close(sharp.mean, 3 * logits.mean)
    assert torch.equal(sharp.covariance, logits.covariance)
    sampled = SampledLogits(torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]]))
    assert torch.equal(sampled.sharpened(2.0).mean, 2 * sampled.mean)
    assert torch.equal(sampled.sharpened(2.0).variance, sampled.variance)


def test_covariance_of_samples_is_numpys():
    generator = torch.Generator().manual_seed(0)
    sampled = SampledLogits(torch.randn(7, 2, 3, generator=generator, dtype=torch.float64))
    expected = [np.cov(sampled.samples[:, n].T.numpy(), bias=True) for n in range(2)]
    np.testing.assert_allclose(sampled.covariance.numpy(), expected, atol=1e-14)
    torch.testing.assert_close(
        sampled.covariance.diagonal(dim1=1, dim2=2), sampled.variance, atol=1e-14, rtol=0
    )


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("most", [1, 5, 7, 200])
def test_thinned_draws_are_spread_evenly(total, most):
    places = evenly(total, most)
    assert len(places) == min(total, most)
    assert places[0] == 0
    gaps = places.diff()
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
    assert places[-1] < total <= places[-1] + -(-total // len(places))
    sampled = SampledLogits(torch.arange(float(total)).view(total, 1, 1))
    assert torch.equal(sampled.thinned(most).samples[:, 0, 0], places.float())


def test_points():
    assert GaussianLogits(torch.zeros(2, 3), torch.zeros(2, 3)).is_point
    assert GaussianLogits(torch.zeros(2, 3), torch.zeros(2, 3, 3)).is_point
    assert not gaussian().is_point
    assert SampledLogits(torch.ones(1, 2, 3)).is_point


def test_exact_logits_stand_for_the_draws():
    samples, exact = torch.randn(7, 4, 3), torch.randn(4, 3)
    logits = SampledLogits(samples, exact)
    assert torch.equal(logits.at_mean().mean, exact)
    assert torch.equal(logits.thinned(2).exact, exact)
    assert torch.equal(logits.mean, samples.mean(0))


@settings(deadline=None)
@given(rows=st.integers(1, 5), classes=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_spread_is_the_mean_variance_of_differences_of_logits(rows, classes, seed):
    """Σ_c Var(z_c − z̄) = (1/2C) Σ_cd Var(z_c − z_d), invariant to a shift of all logits."""
    logits = gaussian(rows, classes, seed)
    variance, covariance = logits.variance, logits.covariance
    pairs = variance[:, :, None] + variance[:, None, :] - 2 * covariance
    expected = pairs.sum((1, 2)) / (2 * classes)
    torch.testing.assert_close(logits.spread_of(), expected, atol=1e-10, rtol=1e-9)
    shifted = GaussianLogits(logits.mean, covariance + 1e3)
    # Rounding relative to the shift.
    torch.testing.assert_close(shifted.spread_of(), expected, atol=1e-10 * 1e3, rtol=1e-9)
    alone = GaussianLogits(logits.mean, variance)
    joint = GaussianLogits(logits.mean, torch.diag_embed(variance))
    torch.testing.assert_close(alone.spread_of(), joint.spread_of())


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(2, 4), st.integers(2, 4))
def test_a_mixture_has_the_moments_of_draws_from_its_parts(seed, count, classes):
    """Equally many draws of each part are draws of the mixture: the law of total variance."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        SampledLogits(torch.randn(9, 5, classes, generator=generator, dtype=torch.float64))
        for _ in range(count)
    ]
    mixture = mixed(parts)
    draws = SampledLogits(torch.cat([part.samples for part in parts]))
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(mixture, name), getattr(draws, name))
    torch.testing.assert_close(mixture.spread_of(), draws.spread_of())
    for name in ("scaled", "sharpened"):
        changed = [getattr(part, name)(1.7) for part in parts]
        torch.testing.assert_close(getattr(mixture, name)(1.7).mean, mixed(changed).mean)
    whole = link_probabilities(draws)
    for name in ("probs", "total", "aleatoric", "epistemic"):
        torch.testing.assert_close(getattr(link_probabilities(mixture), name), getattr(whole, name))
