"""The closed-form fit: stationary, monotone, and equal to what a generic optimiser finds."""

import logging
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_features import toy

from bayeslora.posteriors import bounds
from bayeslora.posteriors.config import PRIOR_SCALE_GRID, VBLL
from bayeslora.posteriors.gaussian import kl_to_prior, logit_moments, lower_triangle
from bayeslora.posteriors.vbll_blocks import DenseBlocks, weighted_gram
from bayeslora.posteriors.vbll_polish import Start, polish
from bayeslora.posteriors.vbll_prior import polish_with_prior

F64 = torch.float64
BOUNDS = sorted(bounds.CLOSED_FORM)
COVARIANCES = ["dense", "diagonal"]


def fit(features, labels, **options):
    settings = {"prior_variance": 4.0, "max_iterations": 500, "tolerance": 1e-13}
    return polish(features, labels, int(labels.max()) + 1, **(settings | options))


def elbo(data, mean, scale, prior_variance=4.0, bound="jensen"):
    """The evidence lower bound from its definition."""
    features, labels = data
    logits, variance = logit_moments(features, mean, scale)
    if bound == "knowles_minka":
        values = bounds.knowles_minka(logits, variance, labels)
    else:
        values = bounds.jensen(logits, variance, labels)
    return values.sum() - kl_to_prior(mean, scale, prior_variance)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("rows", [60, 5])
def test_gradient_of_the_elbo_vanishes(bound, covariance, rows):
    features, labels = toy(rows=rows, size=6)
    fitted = fit(features, labels, bound=bound, covariance=covariance)
    mean = fitted.mean.clone().requires_grad_()
    scale = fitted.scale().requires_grad_()
    value = elbo((features, labels), mean, scale, bound=bound)
    assert fitted.elbo[-1] == pytest.approx(value.item(), rel=1e-9)
    by_mean, by_scale = torch.autograd.grad(value, (mean, scale))
    # The ascent stops by the bound's value, and a gap of 1e-13 · 60 nats allows a slope near 1e-5.
    assert by_mean.abs().max() < 1e-4
    assert by_scale.tril().abs().max() < 1e-4 if scale.ndim == 3 else by_scale.abs().max() < 1e-4
    # A zero prior mean makes the classes' means sum to zero.
    assert fitted.mean.sum(0).abs().max() < 1e-4


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_generic_optimiser_finds_the_same_optimum(bound):
    features, labels = toy(rows=40, size=3)
    fitted = fit(features, labels, bound=bound)
    mean = torch.zeros(3, 3, dtype=F64, requires_grad=True)
    raw = torch.zeros(3, 3, 3, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [mean, raw], max_iter=500, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = -elbo((features, labels), mean, lower_triangle(raw), bound=bound)
        loss.backward()
        return loss

    optimiser.step(closure)
    scale = lower_triangle(raw).detach()
    found = elbo((features, labels), mean.detach(), scale, bound=bound).item()
    assert fitted.elbo[-1] == pytest.approx(found, abs=1e-6)
    torch.testing.assert_close(fitted.mean, mean.detach(), atol=1e-3, rtol=0)
    ours = fitted.scale()
    torch.testing.assert_close(ours @ ours.mT, scale @ scale.mT, atol=1e-3, rtol=0)


@given(
    seed=st.integers(0, 1000),
    tau=st.floats(0.3, 10),
    rows=st.integers(4, 40),
    choice=st.tuples(st.sampled_from(BOUNDS), st.sampled_from(COVARIANCES), st.booleans()),
)
@settings(max_examples=40, deadline=None)
def test_the_bound_never_falls(seed, tau, rows, choice):
    bound, covariance, learn_prior = choice
    features, labels = toy(rows=rows, size=8, classes=4, seed=seed)
    fitted = polish(
        features,
        labels,
        4,
        prior_variance=tau**2,
        bound=bound,
        covariance=covariance,
        learn_prior=learn_prior,
    )
    for before, after in pairwise(fitted.elbo):
        assert after >= before - 1e-9 * abs(before)


def test_the_start_does_not_decide_the_end():
    features, labels = toy()
    cold = fit(features, labels)
    start = Start(torch.full((3, 4), 5.0, dtype=F64).tril(), torch.full((60, 3), 9.0, dtype=F64))
    warm = fit(features, labels, start=start)
    torch.testing.assert_close(warm.mean, cold.mean, atol=1e-4, rtol=0)
    again = fit(features, labels, start=cold.start, tolerance=1e-6)
    assert len(again.elbo) <= 3


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_moments_are_those_of_the_stored_factors(covariance):
    for rows in (5, 60):
        features, labels = toy(rows=rows, size=9)
        fitted = fit(features, labels, covariance=covariance, tolerance=1e-6)
        other = toy(rows=7, size=9, seed=5)[0]
        logits, variance = fitted.moments(other)
        expected = logit_moments(other, fitted.mean, fitted.scale())
        torch.testing.assert_close(logits, expected[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(variance, expected[1], atol=1e-9, rtol=0)


def test_few_rows_in_their_row_space_are_as_direct():
    """rows < d takes the rotated path; the same algebra in all d dimensions agrees."""
    features, labels = toy(rows=6, size=10)
    fitted = fit(features, labels, tolerance=1e-9)
    weights = fitted._state.weights
    direct = DenseBlocks(features, weights, 1 / 4.0)
    other = toy(rows=7, size=10, seed=5)[0]
    torch.testing.assert_close(fitted.moments(other)[1], direct.variance(other), atol=1e-10, rtol=0)


def test_precision_is_the_weighted_sum_of_outer_products(monkeypatch):
    features, _ = toy(rows=20, size=3)
    weights = torch.rand(20, 2, dtype=F64)
    expected = torch.einsum("nc,ni,nj->cij", weights, features, features)
    torch.testing.assert_close(weighted_gram(features, weights), expected)
    monkeypatch.setattr("bayeslora.posteriors.vbll_blocks._CHUNK", 7 * 6)
    torch.testing.assert_close(weighted_gram(features, weights), expected)
    blocks = DenseBlocks(features, weights, 0.5)
    covariance = torch.linalg.inv(expected + 0.5 * torch.eye(3, dtype=F64))
    assert blocks.trace == pytest.approx(covariance.diagonal(dim1=1, dim2=2).sum().item())
    assert blocks.log_determinant == pytest.approx(torch.logdet(covariance).sum().item())
    variance = torch.einsum("ni,cij,nj->nc", features, covariance, features)
    torch.testing.assert_close(blocks.train_variance, variance)


def test_learned_prior_is_the_mean_second_moment_and_the_best():
    features, labels = toy(rows=80)
    fitted = fit(features, labels, learn_prior=True)
    scale = fitted.scale()
    moment = (fitted.mean.square().sum() + scale.square().sum()) / fitted.mean.numel()
    assert fitted.prior_variance == pytest.approx(moment.item(), rel=1e-4)
    for factor in (0.8, 1.25):
        other = fit(features, labels, prior_variance=factor * fitted.prior_variance)
        assert other.elbo[-1] < fitted.elbo[-1]


def test_learned_prior_of_few_rows_ignores_the_empty_directions():
    features, labels = toy(rows=8, size=20)
    fitted = fit(features, labels, learn_prior=True)
    for factor in (0.9, 1.1):
        other = fit(features, labels, prior_variance=factor * fitted.prior_variance)
        assert other.elbo[-1] < fitted.elbo[-1]


def test_knowles_minka_is_wider_than_jensen_and_near_laplace():
    features, labels = toy(rows=60)
    trace = {}
    for bound in BOUNDS:
        scale = fit(features, labels, bound=bound).scale()
        trace[bound] = scale.square().sum().item()
    refined = fit(features, labels).refined().scale().square().sum().item()
    assert trace["jensen"] < 0.9 * trace["knowles_minka"]
    assert trace["knowles_minka"] < refined < 1.3 * trace["knowles_minka"]


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("rows", [60, 5])
def test_refinement_is_the_block_of_the_exact_hessian(covariance, rows):
    features, labels = toy(rows=rows, size=6)
    refined = fit(features, labels, covariance=covariance).refined()
    probs = (features @ refined.mean.T).softmax(1)
    hessian = torch.einsum("nc,ni,nj->cij", probs * (1 - probs), features, features)
    hessian += torch.eye(6, dtype=F64) / 4.0
    if covariance == "diagonal":
        hessian = hessian.diagonal(dim1=1, dim2=2).diag_embed()
    scale = refined.scale()
    covariances = scale @ scale.mT if scale.ndim == 3 else scale.square().diag_embed()
    torch.testing.assert_close(covariances, torch.linalg.inv(hessian), atol=1e-9, rtol=0)


def test_more_data_shrinks_the_variance_and_a_tiny_prior_gives_the_prior_mean():
    features, labels = toy()
    other = toy(rows=7, seed=5)[0]
    few = fit(features, labels).moments(other)[1]
    many = fit(features.repeat(10, 1), labels.repeat(10)).moments(other)[1]
    assert (many < 0.3 * few).all()
    mean, variance = fit(features, labels, prior_variance=1e-10).moments(other)
    assert mean.abs().max() < 1e-6
    assert variance.max() < 1e-8


def test_permuted_labels_permute_the_fit():
    features, labels = toy()
    order = torch.tensor([2, 0, 1])
    plain, moved = fit(features, labels), fit(features, order[labels])
    torch.testing.assert_close(moved.mean[order], plain.mean, atol=1e-5, rtol=0)


def test_validation_chooses_from_the_grid_and_starts_warm(caplog):
    features, labels = toy(rows=60, size=8, separation=0.7)
    validation = toy(rows=300, size=8, separation=0.7)
    chosen = polish_with_prior(
        VBLL(num_samples=200), features, labels, 3, mean_sq_norm=2.0, validation=validation
    )
    assert (chosen.prior_variance * 2.0) ** 0.5 in PRIOR_SCALE_GRID
    assert chosen.converged
    direct = fit(features, labels, prior_variance=chosen.prior_variance, tolerance=1e-10)
    torch.testing.assert_close(chosen.mean, direct.mean, atol=1e-2, rtol=0)


def test_a_choice_at_the_edge_is_said(caplog):
    features, labels = toy(rows=30, size=8)
    wrong = (features, (labels + 1) % 3)  # every step away from the prior hurts
    with caplog.at_level(logging.WARNING):
        chosen = polish_with_prior(
            VBLL(num_samples=50), features, labels, 3, mean_sq_norm=1.0, validation=wrong
        )
    assert chosen.prior_variance == PRIOR_SCALE_GRID[0] ** 2
    assert f"{PRIOR_SCALE_GRID[0]:g}, is at the edge" in caplog.text


def test_no_validation_data_means_empirical_bayes():
    features, labels = toy()
    found = polish_with_prior(VBLL(), features, labels, 3, mean_sq_norm=1.0)
    learned = polish_with_prior(
        VBLL(prior_scale="empirical-bayes"), features, labels, 3, mean_sq_norm=1.0
    )
    assert found.prior_variance == learned.prior_variance


def test_refinement_and_empirical_bayes_by_configuration():
    features, labels = toy()
    learned = polish_with_prior(
        VBLL(prior_scale="empirical-bayes"), features, labels, 3, mean_sq_norm=1.0
    )
    assert learned.prior_variance != 4.0
    refined = polish_with_prior(
        VBLL(prior_scale=2.0, laplace_refinement=True), features, labels, 3, mean_sq_norm=1.0
    )
    plain = polish_with_prior(VBLL(prior_scale=2.0), features, labels, 3, mean_sq_norm=1.0)
    assert torch.equal(refined.mean, plain.mean)
    assert not torch.equal(refined.scale(), plain.scale())
