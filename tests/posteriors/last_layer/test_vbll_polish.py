"""The closed-form fit: stationary, monotone, and equal to the fit of a generic optimiser."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from gaussian_oracles import FAMILIES, elbo, matrix

from bayeslora import VBLL
from bayeslora.posteriors.last_layer.vbll.covariance import (
    Dense,
    class_precisions,
    logit_covariance,
)
from bayeslora.posteriors.last_layer.vbll.final import Polisher, Start, polish
from bayeslora.posteriors.types import Features
from bayeslora.processes import row_slices
from bayeslora.testing.last_layer import toy

F64 = torch.float64


def fit(features, labels, **options):
    settings = {"prior_variance": 4.0, "max_iterations": 500, "tolerance": 1e-13}
    return polish(Features(features, labels), int(labels.max()) + 1, **(settings | options))


def start_of(fitted):
    return Start(fitted.mean, fitted._state.covariance.train_covariance)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [60, 5])
def test_gradient_of_the_elbo_vanishes(family, rows):
    features, labels = toy(rows=rows, size=6)
    fitted = fit(features, labels, covariance=family)
    mean, stored = fitted.mean.clone().requires_grad_(), fitted.covariance()
    stored["scale"].requires_grad_()
    value = elbo((features, labels), mean, stored)
    assert fitted.elbo[-1] == pytest.approx(value.item(), rel=1e-8)
    # The ascent stops on the value of the bound: a gap of 1e-13 · 60 nats allows a slope near 1e-5.
    by_mean, by_scale = torch.autograd.grad(value, (mean, stored["scale"]))
    assert by_mean.abs().max() < 1e-4
    assert (by_scale.tril() if family == "dense" else by_scale).abs().max() < 1e-4
    # With a zero prior mean, the class means sum to zero.
    assert fitted.mean.sum(0).abs().max() < 1e-4


@pytest.mark.parametrize("learn_prior", [False, True])
@pytest.mark.parametrize("covariance", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bound_never_falls(seed, covariance, learn_prior):
    seed = 4 * seed + 2 * FAMILIES.index(covariance) + learn_prior
    # From fewer rows than features to five times as many, under narrow and wide priors.
    features, labels = toy(rows=4 + 7 * seed % 37, size=8, classes=4, seed=seed)
    fitted = polish(
        Features(features, labels),
        4,
        prior_variance=(0.3, 1.0, 3.0, 10.0)[seed % 4] ** 2,
        covariance=covariance,
        learn_prior=learn_prior,
        max_iterations=20,
    )
    for before, after in pairwise(fitted.elbo):
        assert after >= before - 1e-9 * abs(before)


@pytest.mark.parametrize("covariance", FAMILIES)
def test_moments_are_those_of_the_stored_covariance(covariance):
    for rows in (5, 60):
        features, labels = toy(rows=rows, size=9)
        fitted = fit(features, labels, tolerance=1e-6, covariance=covariance)
        other = toy(rows=7, size=9, seed=5)[0]
        logits, variance = fitted.moments(Features(other))
        torch.testing.assert_close(logits, other @ fitted.mean.T, atol=1e-12, rtol=0)
        expected = logit_covariance(other, **fitted.covariance())
        torch.testing.assert_close(variance, expected, atol=1e-9, rtol=0)


def test_precision_is_the_weighted_sum_of_outer_products(monkeypatch):
    features, _ = toy(rows=20, size=3)
    weights = torch.rand(20, 2, dtype=F64)
    expected = torch.einsum("nc,ni,nj->cij", weights, features, features)
    expected = expected + 0.5 * torch.eye(3, dtype=F64)
    torch.testing.assert_close(class_precisions(features, weights, 0.5), expected)
    few = partial(row_slices, most=7 * 6)
    monkeypatch.setattr("bayeslora.posteriors.last_layer.vbll.covariance.row_slices", few)
    torch.testing.assert_close(class_precisions(features, weights, 0.5), expected)
    optimum, covariance = Dense(features, weights, 0.5), torch.linalg.inv(expected)
    assert optimum.trace == pytest.approx(covariance.diagonal(dim1=1, dim2=2).sum().item())
    assert optimum.log_determinant == pytest.approx(torch.logdet(covariance).sum().item())
    variance = torch.einsum("ni,cij,nj->nc", features, covariance, features)
    torch.testing.assert_close(optimum.train_covariance, variance)


def test_learned_prior_is_the_mean_second_moment_and_the_best():
    features, labels = toy(rows=80)
    fitted = fit(features, labels, learn_prior=True)
    trace = matrix(fitted.covariance()).trace()
    moment = (fitted.mean.square().sum() + trace) / fitted.mean.numel()
    assert fitted.prior_variance == pytest.approx(moment.item(), rel=1e-4)
    for factor in (0.8, 1.25):
        other = fit(features, labels, prior_variance=factor * fitted.prior_variance)
        assert other.elbo[-1] < fitted.elbo[-1]


SEPARATE = [(120, 30, 6), (90, 120, 4), (300, 60, 10)]


def fit_separate(rows, size, classes, seed):
    """Return rows of separate classes, their labels and the fit of their prior."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, size, generator=generator, dtype=F64)
    labels = torch.arange(rows) % classes
    features = centres[labels] + torch.randn(rows, size, generator=generator, dtype=F64)
    features = features / (5 * size) ** 0.5
    options = {"learn_prior": True, "max_iterations": 50, "tolerance": 1e-5}
    return features, labels, fit(features, labels, **options)


@pytest.mark.parametrize(("rows", "size", "classes"), SEPARATE)
def test_a_learned_prior_of_separate_classes_is_the_best(rows, size, classes):
    features, labels, fitted = fit_separate(rows, size, classes, 0)
    best = max(
        fit(
            features,
            labels,
            prior_variance=factor * fitted.prior_variance,
            start=start_of(fitted),
            tolerance=1e-8,
        ).elbo[-1]
        for factor in (0.9, 1.0, 1.1)
    )
    # A few times the tolerance: the last round may gain as much as all remaining rounds.
    assert fitted.elbo[-1] == pytest.approx(best, rel=5e-5)


@pytest.mark.parametrize("covariance", FAMILIES)
def test_held_means_stay_while_the_bound_rises_to_its_end(covariance):
    features, labels = toy(rows=50)
    mean = torch.linspace(-1, 1, 12, dtype=F64).reshape(3, 4)
    start = Start(mean, torch.zeros(50, 3, dtype=F64))
    options = {"covariance": covariance}
    fitted = fit(features, labels, start=start, hold_mean=True, tolerance=1e-12, **options)
    assert torch.equal(fitted.mean, mean)
    for before, after in pairwise(fitted.elbo):
        assert after >= before - 1e-9 * abs(before)
    free = fit(features, labels, start=start, **options)
    assert free.elbo[-1] > fitted.elbo[-1]
    # Continuing from the optimum gains nothing.
    options |= {"hold_mean": True, "tolerance": 1e-12}
    again = fit(features, labels, start=start_of(fitted), **options)
    assert again.elbo[-1] == pytest.approx(fitted.elbo[-1], rel=1e-6)


def chosen_fit(config, rows, validation=None, mean_sq_norm=1.0, **starts):
    held_out = validation and Features(*validation)
    return Polisher(config, Features(*rows), 3, mean_sq_norm, held_out).fit(**starts)


@pytest.mark.parametrize("prior_scale", [2.0, "empirical-bayes"])
@pytest.mark.parametrize("are_good", [True, False])
def test_validation_keeps_the_trained_means_where_they_predict_better(prior_scale, are_good):
    features, labels = toy(rows=40, size=6)
    validation = toy(rows=200, size=6)
    # Means that predict the validation rows, or the opposite; half the training labels are wrong.
    good = fit(*toy(rows=400, size=6)).mean
    trained = Start(good if are_good else -good, torch.zeros(40, 3, dtype=F64))
    noisy = (features, torch.where(torch.arange(40) % 2 == 0, labels, (labels + 1) % 3))
    config = VBLL(prior_scale=prior_scale, num_samples=200)
    chosen = chosen_fit(config, noisy, validation, trained=trained)
    assert torch.equal(chosen.mean, trained.mean) == are_good
    # Without validation rows there is no evidence for the trained means.
    assert not torch.equal(chosen_fit(config, noisy, trained=trained).mean, trained.mean)
