"""Last-layer priors with a non-zero mean."""

import math

import pytest
import torch
from gaussian_oracles import best_bound
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn.functional import cross_entropy

from bayeslora import Laplace
from bayeslora.posteriors.last_layer.algebra import RowSpace
from bayeslora.posteriors.last_layer.nuts import Target
from bayeslora.posteriors.last_layer.vbll.final import polish
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features

F64 = torch.float64
CLASSES, SIZE = 3, 5
PRIOR_VARIANCE = 0.5


def rows(count=40, seed=0, size=SIZE):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(count, size, generator=draw, dtype=F64)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return features, labels


def centre(seed=7, size=SIZE):
    return torch.randn(CLASSES, size, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("count", [40, 3])
@pytest.mark.parametrize("covariance", ["dense", "eigenbasis"])
def test_the_closed_form_is_the_optimum_of_the_bound_around_its_prior(count, covariance):
    features, labels = rows(count)
    fitted = polish(
        Features(features, labels),
        CLASSES,
        prior_variance=PRIOR_VARIANCE,
        covariance=covariance,
        prior_mean=centre(),
        max_iterations=200,
        tolerance=1e-12,
    )
    mean, spread = fitted.moments(Features(features))
    mean = mean.requires_grad_()
    value = best_bound(mean, spread, labels).sum()
    (slope,) = torch.autograd.grad(value, mean)
    expected = centre() + PRIOR_VARIANCE * slope.T @ features
    torch.testing.assert_close(fitted.mean, expected, atol=1e-4, rtol=1e-4)
    if covariance == "eigenbasis":
        # The bound itself, with the KL of PyTorch.
        scale, basis = fitted.covariance().values()
        blocks = basis @ torch.diag_embed(scale.square()) @ basis.T
        prior = MultivariateNormal(centre(), PRIOR_VARIANCE * torch.eye(SIZE, dtype=F64))
        kl = kl_divergence(MultivariateNormal(fitted.mean, blocks), prior).sum()
        assert fitted.elbo[-1] == pytest.approx(float((value - kl).detach()), rel=1e-6)


def test_the_evidence_of_laplace_is_that_of_its_prior():
    """Compare with quadrature over both weights; with many rows the posterior is Gaussian."""
    draw = torch.Generator().manual_seed(0)
    features = 0.5 + torch.rand(400, 1, generator=draw, dtype=F64)
    labels = torch.bernoulli(torch.sigmoid(2 * features[:, 0] - 1.5), generator=draw).long()
    where, precision = torch.tensor([0.5, 1.0], dtype=F64), 2.0

    grid = torch.linspace(-2.5, 3.5, 301, dtype=F64)
    points = torch.cartesian_prod(grid, grid)
    gap = features[:, 0, None] * (points[:, 1] - points[:, 0])
    signs = 1 - 2 * labels[:, None]
    values = -torch.nn.functional.softplus(gap * signs).sum(0)
    values -= 0.5 * precision * (points - where).square().sum(1)
    cell = 2 * math.log(float(grid[1] - grid[0]))
    exact = float(values.logsumexp(0)) + cell + math.log(precision / (2 * math.pi))

    head = build_head(Laplace(structure="full", prior_precision=precision), 1, 2)
    head.set_prior_mean(where[:, None])
    head.set_mean(points[values.argmax()][:, None])
    head.fit(Features(features, labels))
    # The approximation is off by O(1 / 400) nats, and the mode by 0.01 due to the grid.
    assert float(head.log_evidence) * 400 == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("count", [30, 3])
def test_chains_see_the_energy_of_their_prior(count):
    features, labels = rows(count)
    space = RowSpace.of(features)
    inside, precision = space.coordinates(features), 0.7
    start = torch.zeros(CLASSES, inside.shape[1], dtype=F64)
    target = Target.of(inside, labels, start, precision, features @ centre().T)
    z = torch.randn(4, *target.mode.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    apart = space.expand(target.class_weights(z).flatten(0, 1)).unflatten(0, (4, CLASSES))
    logits = features @ (centre() + apart).transpose(1, 2)
    losses = torch.stack([cross_entropy(item, labels, reduction="sum") for item in logits])
    expected = losses + 0.5 * precision * apart.square().sum((1, 2))
    potential = target.potential(z)
    torch.testing.assert_close(
        potential - potential[0], expected - expected[0], atol=1e-9, rtol=1e-9
    )
    # The chains start at the mode.
    assert float(target.potential(z * 0)[0]) <= float(potential.min())
