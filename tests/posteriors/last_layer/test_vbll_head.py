"""The VBLL head during training, and its state after `fit`."""

import pytest
import torch
from gaussian_oracles import FAMILIES, kl_to_prior

from bayeslora import VBLL
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE
from bayeslora.posteriors.last_layer.vbll.bounds import jensen
from bayeslora.posteriors.last_layer.vbll.covariance import logit_covariance
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import toy

F64 = torch.float64


def head(size=4, classes=3, mean_sq_norm=1.0, **options):
    if "prior_scale" not in options:  # the published objective, with the KL of the means
        options = {"training_prior_scale": 2.0} | options
    made = build_head(VBLL(**options), size, classes, mean_sq_norm=mean_sq_norm).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.mean.normal_(generator=generator)
        made.spread.add_(0.3 * torch.randn(made.spread.shape, generator=generator, dtype=F64))
    return made


def moments(made, features):
    return features @ made.mean.T, logit_covariance(features, made.spread.exp())


def kl(made, prior_variance):
    return kl_to_prior(made.mean, {"scale": made.spread.exp()}, prior_variance)


def test_loss_is_the_bound_plus_the_kl_a_row():
    features, labels = toy()
    made = head(mean_sq_norm=2.0, prior_scale=3.0)
    likelihood = jensen(*moments(made, features), labels).mean()
    expected = -likelihood + kl(made, 9.0 / 2.0) / 1000
    torch.testing.assert_close(
        made.loss(Features(features, labels), 1000), expected, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, DEFAULT_PRIOR_SCALE),
        ({"prior_scale": 3.0}, 3.0),
        ({"prior_scale": 3.0, "training_prior_scale": 0.5}, 0.5),
        ({"prior_scale": "empirical-bayes", "training_prior_scale": 0.5}, 0.5),
    ],
)
def test_the_prior_of_training_can_differ_from_that_of_the_polish(options, scale):
    features, labels = toy()
    made = head(**options, mean_sq_norm=2.0)
    assert made.prior_variance == scale**2 / 2
    made.fit(Features(features, labels))
    if isinstance(options.get("prior_scale"), float):
        assert made.report()["prior_scale"] == pytest.approx(3.0)


def test_gradients_through_pyro_are_those_of_the_formula():
    features, labels = toy()
    made = head()
    parameters = list(made.parameters())
    ours = torch.autograd.grad(made.loss(Features(features, labels), 60), parameters)
    formula = -jensen(*moments(made, features), labels).mean()
    formula = formula + kl(made, made.prior_variance) / 60
    for actual, expected in zip(ours, torch.autograd.grad(formula, parameters), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-6)


def test_epochs_are_compared_by_the_posterior_that_is_used():
    """Kept means have the same prior then, not that of the training."""
    made = build_head(VBLL(polish_mean="trained"), 4, 3)
    made.set_mean(torch.ones(3, 4))
    train, held_out = (Features(*toy(rows=rows)) for rows in (30, 20))
    variances = []
    for chooses in (False, True):
        made.fit(train, held_out, choose_prior=chooses)
        variances.append(made.predict(held_out).variance)
    torch.testing.assert_close(*variances)


@pytest.mark.parametrize("covariance", FAMILIES)
def test_fit_takes_the_configured_covariance(covariance):
    features, labels = toy()
    made = head(covariance=covariance, prior_scale=2.0)
    made.fit(Features(features, labels))
    layout = {"packed": True} if covariance == "dense" else {}
    expected = {"fitted": True, "covariance": covariance, "dtype": "float32", **layout}
    assert made.extra_config() == expected
    shape = (3, 4, 4) if covariance == "dense" else (3, 4)
    assert made.fitted_scale.shape == shape
    assert (made.fitted_basis is None) == (covariance != "eigenbasis")
    # Only the lower triangle is stored.
    stored = (3, 10) if covariance == "dense" else (3, 4)
    assert made.state_dict()["fitted_scale"].shape == stored
    # A new head loads the fit.
    other = build_head(made.config, 4, 3, extra=made.extra_config())
    other.load_state_dict(made.state_dict())
    for name in ("fitted_scale", "fitted_basis"):
        saved, loaded = getattr(made, name), getattr(other, name)
        assert loaded is saved or torch.equal(loaded, saved)
