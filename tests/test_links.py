"""Links against quadrature, dense sampling and each other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.links import antithetic_noise, entropy, link_probabilities
from bayeslora.logits import GaussianLogits, SampledLogits
from bayeslora.option_checks import LINKS

F64 = torch.float64


def gaussian(rows=7, classes=4, scale=1.0, full=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(rows, classes, generator=generator, dtype=F64)
    root = scale * torch.randn(rows, classes, classes, generator=generator, dtype=F64)
    covariance = root @ root.mT / classes
    if not full:
        covariance = covariance.diagonal(dim1=1, dim2=2)
    return GaussianLogits(mean, covariance)


def sigmoid_mean(mean, variance):
    """Return E σ(t) for t ~ N(mean, variance), by 200-node Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    points = mean[:, None] + variance.sqrt()[:, None] * torch.from_numpy(nodes)
    return points.sigmoid() @ torch.from_numpy(weights / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("full", [True, False])
def test_mc_of_two_classes_is_the_quadrature_of_the_difference(full):
    logits = gaussian(rows=20, classes=2, full=full, seed=3)
    cross = 2 * logits.covariance[:, 0, 1] if full else 0.0
    variance = logits.variance.sum(1) - cross
    exact = sigmoid_mean(logits.mean[:, 1] - logits.mean[:, 0], variance)
    probs = link_probabilities(logits, "mc", num_samples=100_000).probs[:, 1]
    # A sigmoid's standard deviation is at most 1/2, so 6 standard errors are 6 * 0.5 / sqrt(1e5).
    torch.testing.assert_close(probs, exact, atol=6 * 0.5 / math.sqrt(1e5), rtol=0)


def test_probit_of_two_classes_is_the_binary_probit_of_the_difference():
    logits = gaussian(rows=20, classes=2, seed=4)
    gap = logits.mean[:, 1] - logits.mean[:, 0]
    variance = logits.variance.sum(1) - 2 * logits.covariance[:, 0, 1]
    expected = (gap / (1 + math.pi / 8 * variance).sqrt()).sigmoid()
    probs = link_probabilities(logits, "probit").probs[:, 1]
    torch.testing.assert_close(probs, expected, atol=1e-12, rtol=0)
    # The approximation itself is within 0.02 of the integral everywhere (MacKay 1992).
    assert (probs - sigmoid_mean(gap, variance)).abs().max() < 0.02


@pytest.mark.parametrize("link", LINKS)
def test_diagonal_and_embedded_covariance_are_the_same(link):
    diagonal = gaussian(full=False, scale=0.5)
    embedded = GaussianLogits(diagonal.mean, torch.diag_embed(diagonal.covariance))
    first = link_probabilities(diagonal, link, num_samples=2000)
    second = link_probabilities(embedded, link, num_samples=2000)
    # The Cholesky factor carries a relative jitter of 1e-6.
    for actual, expected in zip(vars(first).values(), vars(second).values(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("link", ["mc", "probit"])
def test_a_common_shift_changes_nothing(link):
    logits = gaussian(rows=5)
    shifted = GaussianLogits(logits.mean + 3.0, logits.covariance + 9.0)
    first = link_probabilities(logits, link, num_samples=200_000).probs
    second = link_probabilities(shifted, link, num_samples=200_000).probs
    # probit: exact. mc: different draws, 6 standard errors of at most 0.5 / sqrt(2e5) each, twice.
    tolerance = 1e-12 if link == "probit" else 12 * 0.5 / math.sqrt(2e5)
    torch.testing.assert_close(first, second, atol=tolerance, rtol=0)


def test_bridge_gives_back_the_dirichlet_that_a_gaussian_came_from():
    alpha = torch.tensor([[3.0, 1.0, 0.5, 7.0], [20.0, 5.0, 1.0, 1.0]], dtype=F64)
    # Moments of the Laplace approximation of Dirichlet(α) in the softmax basis.
    mean = alpha.log() - alpha.log().mean(1, keepdim=True)
    inverse = 1 / alpha
    pairs = (inverse[:, :, None] + inverse[:, None, :]) / 4
    covariance = inverse.diag_embed() - pairs + inverse.sum(1)[:, None, None] / 16
    # The sum of the logits is certain here, so a common shift is added for the link to remove.
    logits = GaussianLogits(mean + 0.7, covariance + 0.3)
    expected = alpha / alpha.sum(1, keepdim=True)
    torch.testing.assert_close(
        link_probabilities(logits, "bridge").probs, expected, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("link", LINKS)
def test_extreme_logits_stay_probabilities(link):
    mean = torch.tensor([[0.0, 800.0, -800.0], [1e4, 0.0, 0.0]], dtype=F64)
    result = link_probabilities(GaussianLogits(mean, torch.full((2, 3), 0.5, dtype=F64)), link)
    assert torch.isfinite(result.probs).all()
    torch.testing.assert_close(result.probs.sum(1), torch.ones(2, dtype=F64), atol=1e-12, rtol=0)
    assert (result.epistemic >= 0).all()
    assert (result.epistemic <= result.total).all()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("full", [True, False])
def test_point_logits_are_softmax(link, full):
    mean = gaussian().mean
    shape = (7, 4, 4) if full else (7, 4)
    result = link_probabilities(GaussianLogits(mean, torch.zeros(shape, dtype=F64)), link)
    torch.testing.assert_close(result.probs, mean.softmax(1), atol=0, rtol=0)
    assert not result.epistemic.any()


@pytest.mark.parametrize("full", [True, False])
def test_rows_do_not_depend_on_their_company(full, monkeypatch):
    """Neither on those of the same batch nor on how many fit into memory."""
    logits = gaussian(rows=9, full=full)
    order = torch.tensor([4, 0, 8, 2])
    whole = link_probabilities(logits, num_samples=333)
    monkeypatch.setattr("bayeslora.links._AT_A_TIME", 333 * 4 * 2)
    part = link_probabilities(
        GaussianLogits(logits.mean[order], logits.covariance[order]), num_samples=333
    )
    # The last bits may depend on the shape of a batched product.
    torch.testing.assert_close(part.probs, whole.probs[order], atol=1e-13, rtol=0)
    torch.testing.assert_close(part.epistemic, whole.epistemic[order], atol=1e-12, rtol=0)


def test_samples_are_averaged_after_softmax():
    samples = torch.tensor([[[0.0, 0.0]], [[math.log(9), 0.0]]], dtype=F64)
    result = link_probabilities(SampledLogits(samples))
    torch.testing.assert_close(
        result.probs, torch.tensor([[(0.5 + 0.9) / 2, (0.5 + 0.1) / 2]], dtype=F64)
    )
    conditional = (math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)) / 2
    assert result.aleatoric.item() == pytest.approx(conditional)
    total = -0.7 * math.log(0.7) - 0.3 * math.log(0.3)
    assert result.epistemic.item() == pytest.approx(total - conditional)


@given(
    classes=st.integers(2, 6),
    scale=st.floats(0.01, 5),
    seed=st.integers(0, 1000),
    link=st.sampled_from(LINKS),
)
@settings(max_examples=40, deadline=None)
def test_laws_of_every_link(classes, scale, seed, link):
    logits = gaussian(rows=3, classes=classes, scale=scale, seed=seed)
    result = link_probabilities(logits, link, num_samples=200)
    assert (result.probs >= 0).all()
    torch.testing.assert_close(result.probs.sum(1), torch.ones(3, dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        result.aleatoric + result.epistemic, result.total, atol=1e-12, rtol=0
    )
    assert (result.total <= math.log(classes) + 1e-12).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_closed_forms_follow_a_permutation_of_classes(seed):
    logits = gaussian(rows=3, classes=5, seed=seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = GaussianLogits(logits.mean[:, order], logits.covariance[:, order][:, :, order])
    for link in ("probit", "bridge"):
        torch.testing.assert_close(
            link_probabilities(moved, link).probs,
            link_probabilities(logits, link).probs[:, order],
            atol=1e-10,
            rtol=0,
        )


def test_noise_is_antithetic_seeded_and_of_any_count():
    noise = antithetic_noise(6, (2, 3), seed=1)
    assert noise.shape == (6, 2, 3)
    assert torch.equal(noise[:3], -noise[3:])
    assert torch.equal(noise, antithetic_noise(6, (2, 3), seed=1))
    assert antithetic_noise(5, (2,), seed=1).shape == (5, 2)
    assert antithetic_noise(2, (2,), 0, torch.zeros(1)).dtype == torch.float32


def test_exact_logits_give_the_probabilities_and_draws_their_parts():
    """The part of the total that draws do not explain is aleatoric, for any number of draws."""
    samples = torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    result = link_probabilities(SampledLogits(samples, exact))
    plain = link_probabilities(SampledLogits(samples))
    torch.testing.assert_close(result.probs, exact.softmax(1), atol=1e-15, rtol=0)
    torch.testing.assert_close(result.total, entropy(result.probs), atol=1e-15, rtol=0)
    expected = torch.minimum(plain.epistemic, result.total)
    torch.testing.assert_close(result.epistemic, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(result.aleatoric, result.total - expected, atol=1e-12, rtol=0)
