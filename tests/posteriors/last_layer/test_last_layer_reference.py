"""Last-layer posteriors against the true posterior: grid quadrature and Hamiltonian Monte Carlo."""

import math

import pytest
import torch

from bayeslora import MAP, VBLL, Laplace
from bayeslora.links import entropy, link_probabilities
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import toy

F64 = torch.float64
TAU = 2.0


def trained_map(features, labels, classes):
    """Return the MAP weights, fitted by L-BFGS on the head's own loss."""
    head = build_head(MAP(prior_scale=TAU), features.shape[1], classes).double()
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=200, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = head.loss(Features(features, labels), len(labels))
        loss.backward()
        return loss

    optimiser.step(closure)
    return head.weight.detach()


def fitted(config, features, labels, classes):
    head = build_head(config, features.shape[1], classes).double()
    if isinstance(config, Laplace):
        head.set_mean(trained_map(features, labels, classes))
    head.fit(Features(features, labels))
    return head


LAPLACE = Laplace(structure="full", prior_precision=1 / TAU**2)


def importance_sample(features, labels, num_draws=200_000, freedom=6.0):
    """Return draws [S, C, d] from a heavy-tailed proposal around the mode, and their weights [S].

    A normal divided by the root of a chi-square is a multivariate t with the mode's curvature.
    """
    classes, size = int(labels.max()) + 1, features.shape[1]

    def energy(weight):
        logits = features @ weight.reshape(classes, size).T
        likelihood = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return likelihood + weight.square().sum() / (2 * TAU**2)

    mode = trained_map(features, labels, classes).reshape(-1)
    scale = torch.linalg.cholesky(torch.linalg.inv(torch.autograd.functional.hessian(energy, mode)))
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(num_draws, len(mode), generator=generator, dtype=F64)
    chi_square = torch.randn(num_draws, int(freedom), generator=generator, dtype=F64)
    ratio = (chi_square.square().sum(1) / freedom).sqrt()
    standard = normal / ratio[:, None]
    weights = (mode + standard @ scale.T).reshape(num_draws, classes, size)
    proposal = -(freedom + len(mode)) / 2 * (standard.square().sum(1) / freedom).log1p()
    logits = torch.einsum("nd,scd->snc", features, weights)
    right = logits[:, torch.arange(len(labels)), labels]
    target = (right - logits.logsumexp(-1)).sum(1) - weights.square().sum((1, 2)) / (2 * TAU**2)
    return weights, (target - proposal).softmax(0)


@pytest.fixture(scope="module")
def sample():
    """Return rows, and draws from the posterior with their weights."""
    features, labels = toy(rows=40, size=2, classes=3, seed=3)
    return features, labels, *importance_sample(features, labels)


@pytest.fixture(scope="module")
def truth(sample):
    """Return rows, other rows further out, and the reference values of the latter.

    The values are probabilities [N, C] and epistemic uncertainty [N] under the posterior, computed
    by importance sampling.
    """
    features, labels, weights, shares = sample
    other = 1.5 * toy(rows=60, size=2, classes=3, seed=4)[0]
    drawn = torch.einsum("nd,scd->snc", other, weights).softmax(-1)
    probs = torch.einsum("s,snc->nc", shares, drawn)
    information = entropy(probs) - torch.einsum("s,sn->n", shares, entropy(drawn))
    return features, labels, other, probs, information


def distances(logits, truth):
    """Return the mean total variation and the ratio of epistemic uncertainty over all rows."""
    _, _, _, probs, information = truth
    predicted = link_probabilities(logits, num_samples=20_000)
    apart = 0.5 * (predicted.probs - probs).abs().sum(1).mean()
    return float(apart), float(predicted.epistemic.sum() / information.sum())


@pytest.mark.parametrize("family", ["eigenbasis", "dense"])
def test_every_family_against_the_true_posterior(truth, family):
    """Covariances of independent classes are slightly too large."""
    features, labels, other, *_ = truth
    config = VBLL(prior_scale=TAU, covariance=family)
    apart, ratio = distances(fitted(config, features, labels, 3).predict(Features(other)), truth)
    assert apart < 0.007
    assert 1.1 < ratio < 1.4


def test_laplace_against_the_true_posterior_and_what_would_be_wrong(truth):
    features, labels, other, *_ = truth
    right = fitted(LAPLACE, features, labels, 3).predict(Features(other))
    apart, ratio = distances(right, truth)
    assert apart < 0.025
    assert ratio == pytest.approx(1.1, abs=0.1)
    kron = Laplace(structure="kron", prior_precision=1 / TAU**2)
    apart, ratio = distances(fitted(kron, features, labels, 3).predict(Features(other)), truth)
    assert apart < 0.015
    assert 0.7 < ratio < 0.9
    for factor in (0.0, 0.25, 2.0):
        _, ratio = distances(GaussianLogits(right.mean, factor * right.covariance), truth)
        assert abs(math.log(max(ratio, 1e-9))) > math.log(1.8)
