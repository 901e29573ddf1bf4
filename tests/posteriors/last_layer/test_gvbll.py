"""The generative last layer against conjugate algebra, quadrature, sampling and scikit-learn."""

import math

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from bayeslora import GVBLL
from bayeslora.links import link_probabilities, nll
from bayeslora.posteriors.last_layer.gvbll import SHRINKAGE_GRID, Scatter
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import LastLayerLaws, toy

F64 = torch.float64
FIXED = GVBLL(shrinkage=0.3, inflation=1.5, prior_rows=2.0)


def fitted(config=FIXED, rows=60, size=3, classes=3, seed=0, validation=None):
    features, labels = toy(rows, size, classes, seed)
    head = build_head(config, size, classes)
    head.fit(Features(features, labels), validation and Features(*validation))
    return head, features, labels


def covariance(head):
    """Return Σ [d, d] from distances: uᵀΣ⁻¹v follows from the parallelogram law."""
    eye = torch.eye(head.gaussian.means.shape[1], dtype=F64)
    return torch.linalg.inv(head.gaussian.whitened(eye) @ head.gaussian.whitened(eye).T)


def posterior(head):
    """Return q(μ) of each class as dense Gaussians."""
    spread = 1 / (head.counts + head.config.prior_rows)
    return MultivariateNormal(head.gaussian.means, spread[:, None, None] * covariance(head))


class Laws:
    """Laws that a generative layer satisfies differently from a linear layer."""

    def test_no_samples_is_the_mean(self, head, rows):
        """`num_samples=0` uses the closed form, as do the probabilities with draws."""
        logits = head.predict(rows)
        certain = link_probabilities(logits.at_mean(), num_samples=0).probs
        assert torch.equal(certain, logits.exact.softmax(1))
        assert torch.equal(link_probabilities(logits).probs, certain)

    def test_far_away_features_are_more_uncertain_where_anything_is(self, head, rows):
        """Squared distances do not scale linearly, but distant features remain more uncertain."""
        away = rows.map(lambda values: 100 * values)
        near, far = head.predict(rows), head.predict(away)
        assert (far.variance.sum(1) > near.variance.sum(1)).all()
        near, far = (head.scores_of(some)["log_density"] for some in (rows, away))
        assert (far > near).all()


class TestGVBLL(Laws, LastLayerLaws):
    config = GVBLL(num_samples=500)
    # Squared distances near 10 have a deviation of 1 under q: 500 draws leave 0.05 of a mean and
    # 10 % of a variance, at one standard error each.
    noise = 0.3


class TestFixedGVBLL(Laws, LastLayerLaws):
    config = GVBLL(shrinkage=0.3, inflation=2.0, prior_rows=0.5, num_samples=500)
    noise = 0.3


def test_means_have_their_conjugate_posterior():
    """Compare with the normal equations of each class in d dimensions; only rounding differs."""
    head, features, labels = fitted()
    sigma, kappa = covariance(head), head.config.prior_rows
    precision, centre = torch.linalg.inv(sigma), features.mean(0)
    for number, mean in enumerate(posterior(head).mean):
        rows = features[labels == number]
        total = (len(rows) + kappa) * precision
        expected = torch.linalg.solve(total, precision @ (rows.sum(0) + kappa * centre))
        assert_close(mean, expected, atol=1e-12, rtol=0)
        assert_close(
            posterior(head).covariance_matrix[number], torch.linalg.inv(total), atol=1e-12, rtol=0
        )


def test_the_scatter_maximises_the_evidence():
    """With the mean integrated out, rows of a class are jointly Gaussian: I + 11ᵀ/κ times Σ."""
    features, labels = toy(rows=20, size=3, classes=2)
    kappa = 2.0
    scatter = Scatter.of(features, labels, 2, kappa)
    start = scatter.directions * scatter.values @ scatter.directions.T
    sigma = start.clone().requires_grad_()
    evidence = torch.zeros((), dtype=F64)
    for number in range(2):
        rows = features[labels == number]
        count = len(rows)
        between = torch.eye(count, dtype=F64) + 1 / kappa
        joint = MultivariateNormal(
            scatter.centre.repeat(count), torch.kron(between, (sigma + sigma.T) / 2)
        )
        evidence = evidence + joint.log_prob(rows.flatten())
    (gradient,) = torch.autograd.grad(evidence, sigma)
    # The two terms are of size N Σ⁻¹, about 100.
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("shrinkage", [0.1, 0.7, 1.0])
def test_covariance_is_that_of_shrunk_discriminant_analysis(shrinkage):
    """With a nearly flat prior on the means, scikit-learn gives the same covariance."""
    config = GVBLL(shrinkage=shrinkage, inflation=1.0, prior_rows=1e-12)
    for rows in (60, 8):
        head, features, labels = fitted(config, rows, size=10, classes=2)
        other = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=shrinkage, store_covariance=True
        ).fit(features.numpy(), labels.numpy())
        assert_close(covariance(head), torch.from_numpy(other.covariance_), atol=1e-10, rtol=1e-9)
        assert_close(head.gaussian.means, torch.from_numpy(other.means_), atol=1e-10, rtol=0)
        expected = torch.linalg.slogdet(covariance(head))[1]
        assert_close(head.gaussian.log_determinant(), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_prediction_is_the_integral_over_the_means(size):
    """The trapezoid rule on ± 8 deviations has an error below 1e-12 for Gaussians."""
    head, features, _ = fitted(size=size, classes=2)
    rows, q = features[:5], posterior(head)
    line = torch.linspace(-8, 8, 81, dtype=F64)
    steps = torch.cartesian_prod(*[line] * size).reshape(-1, size)
    likelihood = MultivariateNormal(torch.zeros(size, dtype=F64), covariance(head))
    joint = []
    for number in range(2):
        root = torch.linalg.cholesky(q.covariance_matrix[number])
        means = q.mean[number] + steps @ root.T
        weights = (-0.5 * steps.square().sum(1)).exp() * (0.2 / math.sqrt(2 * math.pi)) ** size
        integral = (likelihood.log_prob(rows[:, None] - means).exp() * weights).sum(1)
        joint.append(integral * (head.counts[number] + 1) / (head.counts.sum() + 2))
    expected = torch.stack(joint, 1)
    logits = head.predict(Features(rows))
    assert_close(logits.exact.exp(), expected, rtol=1e-9, atol=0)
    assert_close(link_probabilities(logits).probs, expected / expected.sum(1, keepdim=True))
    assert_close(
        head.scores_of(Features(rows))["log_density"], -expected.sum(1).log(), rtol=0, atol=1e-9
    )


def test_chosen_numbers_have_the_lowest_validation_nll():
    """No grid point, with any of 60 inflations, scores better than the search."""
    train, held_out = toy(40, 12, 3), toy(60, 12, 3, seed=1)

    def score(config):
        head = build_head(config, 12, 3)
        head.fit(Features(*train), Features(*held_out))
        return nll(head.predict(Features(held_out[0])).exact.softmax(1), held_out[1]), head.report()

    best, report = score(GVBLL())
    inflations = torch.logspace(-1, 3, 60, dtype=F64).tolist()
    others = [score(GVBLL(rho, a))[0] for rho in SHRINKAGE_GRID for a in inflations]
    assert best <= min(others) + 1e-7
    assert min(others) - best < 1e-3
    assert report["shrinkage"] in SHRINKAGE_GRID
    only_one = score(GVBLL(shrinkage=0.5))[1]
    assert only_one["shrinkage"] == 0.5
    assert only_one["inflation"] > 1
