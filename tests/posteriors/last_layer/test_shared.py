"""Last layers of options, and logits known in advance.

Most tests use this oracle: with options of features e_c ⊗ ψ, the shared weight vector concatenates
the weights of all classes, so each last layer of options must match the last layer of classes.
"""

import math
from dataclasses import replace

import pytest
import torch

from bayeslora.links import link_probabilities
from bayeslora.logits import ABSENT
from bayeslora.posteriors.last_layer.laplace import SharedCurvature
from bayeslora.posteriors.last_layer.vbll import bounds
from bayeslora.posteriors.registry import build_head, resolve_posterior
from bayeslora.posteriors.types import Features

ROWS, OPTIONS, SIZE = 40, 3, 4


def options_rows(seed=0, rows=ROWS, options=OPTIONS, size=SIZE):
    """Return labelled rows of centred features [N, C, d] with known logits of zero."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, options, size, generator=draw)
    truth = 2 * torch.randn(size, generator=draw)
    labels = torch.distributions.Categorical(logits=features @ truth).sample()
    return replace(with_known(features), labels=labels)


def with_known(features, present=None):
    present = torch.ones(features.shape[:2], dtype=torch.bool) if present is None else present
    centre = (features * present[..., None]).sum(1) / present.sum(1, keepdim=True)
    features = torch.where(present[..., None], features - centre[:, None], 0.0)
    known = torch.where(present, 0.0, ABSENT)
    return Features(features, known=known)


def class_rows(seed=0, rows=ROWS, classes=OPTIONS, size=SIZE):
    """Return labelled rows of features [N, d]."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, size, generator=draw)
    truth = 2 * torch.randn(classes, size, generator=draw)
    labels = torch.distributions.Categorical(logits=features @ truth.T).sample()
    return Features(features, labels)


def as_options(rows, classes=OPTIONS):
    """Return e_c ⊗ φ for every class, [N, C, C d], uncentred."""
    size = rows.values.shape[1]
    eye = torch.eye(classes)
    turned = torch.einsum("ck,nd->nckd", eye, rows.values)
    turned = turned.reshape(len(rows), classes, classes * size)
    return Features(turned, rows.labels, torch.zeros(len(rows), classes))


def shared_head(posterior, size=SIZE, **options):
    return build_head(resolve_posterior(posterior), size, 1, shared=True, **options)


def fitted(posterior, rows, **options):
    head = shared_head(posterior, rows.values.shape[-1], **options)
    if hasattr(head, "solve"):
        head.solve(rows)
    head.fit(rows)
    return head


@pytest.mark.parametrize("posterior", ["map:prior_scale=1.5", "laplace:structure=full"])
def test_options_of_a_kind_are_classes(posterior):
    rows = class_rows()
    config = resolve_posterior(posterior)
    classes = build_head(config, SIZE, OPTIONS)
    classes.solve(rows)
    classes.fit(rows)
    options = fitted(posterior, as_options(rows))
    new = class_rows(1)
    expected, actual = classes.predict(new), options.predict(as_options(new))
    torch.testing.assert_close(actual.mean, expected.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(actual.spread_of(), expected.spread_of(), atol=1e-4, rtol=1e-4)
    for key in ("prior_scale", "log_evidence"):
        if key in classes.report():
            assert options.report()[key] == pytest.approx(classes.report()[key], rel=1e-3)


def test_the_variational_fit_is_stationary():
    """The gradient of the explicit bound with respect to means and covariance vanishes."""
    rows = options_rows()
    head = fitted("vbll:prior_scale=1.5", rows)
    states, labels = rows.values.double(), rows.labels
    mean = head.fitted_mean[0].clone().requires_grad_()
    lower = head.fitted_scale[0].double().clone().requires_grad_()
    variance = head.fitted_prior_scale.item() ** 2 / head.mean_sq_norm.item()
    root = states @ lower
    logits, cov = states @ mean, root @ root.mT
    tilt = bounds.best_tilt(logits.detach(), cov.detach())
    likelihood = bounds.tilted(logits, cov, labels, tilt).sum()
    trace, size = lower.square().sum(), len(mean)
    log_det = 2 * lower.diagonal().log().sum()
    kl = 0.5 * ((trace + mean.square().sum()) / variance - size + size * math.log(variance))
    elbo = likelihood - (kl - 0.5 * log_det)
    assert head.report()["elbo"] == pytest.approx(elbo.item() / len(labels), abs=1e-5)
    in_mean, in_lower = torch.autograd.grad(elbo, [mean, lower])
    assert in_mean.abs().max() < 0.05
    assert in_lower.tril().abs().max() < 0.05


@pytest.mark.parametrize("prior", [None, 1.3])
def test_the_curvature_of_options_is_the_hessian(prior):
    rows = options_rows()
    states, labels = rows.values.double(), rows.labels
    weight = torch.randn(SIZE, generator=torch.Generator().manual_seed(2)).double()

    def loss(w):
        return torch.nn.functional.cross_entropy(states @ w, labels, reduction="sum")

    hessian = torch.autograd.functional.hessian(loss, weight)
    probs = (states @ weight).softmax(-1)
    whole = SharedCurvature(SIZE, 1, SIZE)
    whole.fit(states, probs)
    delta = prior or 0.7
    eye = torch.eye(SIZE).double()
    expected = states @ torch.linalg.inv(hessian + delta * eye) @ states.mT
    torch.testing.assert_close(whole.covariance(states, delta), expected)
    assert whole.log_determinant(delta) == pytest.approx(torch.logdet(hessian + delta * eye).item())


CHAINS = ["nuts:num_chains=1,num_warmup=80,num_samples=80"]


CLASS_POSTERIORS = ["mle", "map", "temperature", "laplace", "vbll", "gvbll:shrinkage=0.1"]
CLASS_POSTERIORS += ["vbll:covariance=eigenbasis"]


@pytest.mark.parametrize("posterior", CLASS_POSTERIORS + CHAINS)
def test_a_class_that_a_row_lacks_has_no_share(posterior):
    posterior += ",inflation=1" if posterior.startswith("gvbll") else ""
    known, labelled = torch.zeros(ROWS, OPTIONS), class_rows()
    lacks = (labelled.labels + 1) % OPTIONS
    known[torch.arange(0, ROWS, 2), lacks[::2]] = ABSENT
    rows = replace(labelled, known=known)
    head = build_head(resolve_posterior(posterior), SIZE, OPTIONS)
    if hasattr(head, "solve"):
        head.solve(rows)
    head.fit(rows)
    probs = link_probabilities(head.predict(rows), num_samples=64).probs
    assert probs[known < 0].abs().max() == 0
    if posterior not in ("mle", "temperature"):  # confident where classes are separable
        assert (probs[known == 0] > 0).all()
    torch.testing.assert_close(probs.sum(1), torch.ones(ROWS).double())
