"""Gaussian weights: moments, KL, triangles; and row-space coordinates."""

import pytest
import torch

from bayeslora.posteriors.gaussian import (
    kl_to_prior,
    logit_moments,
    lower_triangle,
    precision_to_lower,
    raw_triangle,
)
from bayeslora.posteriors.rowspace import RowSpace

F64 = torch.float64


def weights(classes=3, size=5, dense=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(classes, size, generator=generator, dtype=F64)
    raw = 0.5 * torch.randn(classes, size, size, generator=generator, dtype=F64)
    triangle = lower_triangle(raw)
    return mean, triangle if dense else triangle.diagonal(dim1=1, dim2=2).clone()


@pytest.mark.parametrize("dense", [True, False])
def test_moments_are_those_of_sampled_weights(dense):
    mean, scale = weights(dense=dense)
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    triangle = scale if dense else torch.diag_embed(scale)
    covariance = triangle @ triangle.mT
    expected = torch.einsum("ni,cij,nj->nc", features, covariance, features)
    logits, variance = logit_moments(features, mean, scale)
    torch.testing.assert_close(variance, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(logits, features @ mean.T)


@pytest.mark.parametrize("dense", [True, False])
def test_kl_is_that_of_torch(dense):
    mean, scale = weights(dense=dense)
    prior_variance = 0.7
    triangle = scale if dense else torch.diag_embed(scale)
    posterior = torch.distributions.MultivariateNormal(mean, scale_tril=triangle)
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(5, dtype=F64), prior_variance * torch.eye(5, dtype=F64)
    )
    expected = torch.distributions.kl_divergence(posterior, prior).sum()
    torch.testing.assert_close(kl_to_prior(mean, scale, prior_variance), expected)


def test_triangles_and_their_free_parameters():
    _, triangle = weights()
    torch.testing.assert_close(lower_triangle(raw_triangle(triangle)), triangle)
    assert (triangle.diagonal(dim1=1, dim2=2) > 0).all()
    assert not triangle.triu(1).any()


def test_factor_of_an_inverse():
    root = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    precision = root @ root.mT + torch.eye(6, dtype=F64)
    lower = precision_to_lower(precision)
    assert not lower.triu(1).any()
    torch.testing.assert_close(lower @ lower.mT, torch.linalg.inv(precision))


def test_row_space_of_few_rows():
    features = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=F64)
    space = RowSpace.of(features)
    assert space.basis.shape == (8, 3)
    torch.testing.assert_close(space.expand(space.coordinates(features)), features)
    assert space.outside(features).abs().max() < 1e-24
    other = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=F64)
    inside = space.coordinates(other).square().sum(1, keepdim=True)
    torch.testing.assert_close(inside + space.outside(other), other.square().sum(1, keepdim=True))


def test_row_space_of_many_rows_is_everything():
    features = torch.randn(9, 4, dtype=F64)
    space = RowSpace.of(features)
    assert space.basis is None
    assert space.coordinates(features) is features
    assert space.outside(features).shape == (9, 1)
