"""Last-layer Laplace against brute force, closed forms and finite differences."""

import pytest
import torch

from bayeslora import Laplace
from bayeslora.posteriors.last_layer.algebra import (
    LOG10_GRID,
    best_on_grid,
    log_marginal_likelihood,
)
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import toy

F64 = torch.float64
NAMES = ["full", "kron"]


def weight(classes=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, size, generator=generator, dtype=F64)


def fitted(structure, rows=30, size=4, classes=3, precision=0.7):
    features, labels = toy(rows=rows, size=size, classes=classes)
    head = build_head(
        Laplace(structure=structure, prior_precision=precision), size, classes
    ).double()
    head.set_mean(weight(classes, size))
    head.fit(Features(features, labels))
    return head, features, labels


def jacobian(features, classes):
    """Return J = I ⊗ φᵀ, [N, C, C d], with the weights in row-major order."""
    eye = torch.eye(classes, dtype=F64)
    return torch.einsum("cd,ni->ncdi", eye, features).reshape(len(features), classes, -1)


def hessian(features, weights):
    """Return Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n as a dense matrix."""
    probs = (features @ weights.T).softmax(1)
    lambdas = probs.diag_embed() - probs[:, :, None] * probs[:, None, :]
    full = jacobian(features, probs.shape[1])
    return torch.einsum("nca,ncd,ndb->ab", full, lambdas, full)


def brute_force(structure, features, weights, precision, other):
    """Return logit covariances [M, C, C] and log|H + δI| from dense matrices."""
    rows, classes = len(features), len(weights)
    dense = hessian(features, weights)
    if structure == "kron":
        probs = (features @ weights.T).softmax(1)
        outer = probs.sum(0).diag() - probs.T @ probs
        dense = torch.kron(outer, features.T @ features / rows)
    posterior = dense + precision * torch.eye(len(dense), dtype=F64)
    full = jacobian(other, classes)
    return full @ torch.linalg.inv(posterior) @ full.mT, torch.logdet(posterior).item()


@pytest.mark.parametrize("structure", NAMES)
@pytest.mark.parametrize("rows", [30, 3])
@pytest.mark.parametrize("classes", [2, 5])
def test_covariance_and_determinant_are_those_of_the_dense_matrix(structure, rows, classes):
    head, features, _ = fitted(structure, rows=rows, classes=classes)
    other = toy(rows=8, seed=5)[0]
    expected, determinant = brute_force(structure, features, weight(classes), 0.7, other)
    covariance = head.predict(Features(other)).covariance
    torch.testing.assert_close(covariance, expected, atol=1e-10, rtol=0)
    assert head.curvature.log_determinant(0.7) == pytest.approx(determinant, abs=1e-9)


def test_hessian_is_that_of_autograd():
    features, labels = toy()

    def loss(flat):
        return torch.nn.functional.cross_entropy(
            features @ flat.view(3, 4).T, labels, reduction="sum"
        )

    exact = torch.autograd.functional.hessian(loss, weight().flatten())
    torch.testing.assert_close(hessian(features, weight()), exact, atol=1e-10, rtol=0)


def test_marginal_likelihood_is_the_evidence_of_a_gaussian_model():
    """y = Xw + ε, ε ~ N(0, I), w ~ N(0, I/δ): Laplace is exact, and y ~ N(0, I + XXᵀ/δ)."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(7, 3, generator=generator, dtype=F64)
    y = torch.randn(7, generator=generator, dtype=F64)
    for precision in (0.1, 2.0):
        posterior = X.T @ X + precision * torch.eye(3, dtype=F64)
        mode = torch.linalg.solve(posterior, X.T @ y)
        likelihood = torch.distributions.Normal(X @ mode, 1.0).log_prob(y).sum().item()
        ours = log_marginal_likelihood(
            likelihood, mode.square().sum().item(), torch.logdet(posterior).item(), 3, precision
        )
        covariance = torch.eye(7, dtype=F64) + X @ X.T / precision
        exact = torch.distributions.MultivariateNormal(torch.zeros(7, dtype=F64), covariance)
        assert ours == pytest.approx(exact.log_prob(y).item(), abs=1e-12)


@pytest.mark.parametrize("structure", NAMES)
def test_marginal_likelihood_is_maximal_at_the_chosen_precision(structure):
    features, labels = toy(rows=90)
    head = build_head(Laplace(structure=structure, prior_precision="marglik"), 4, 3).double()
    head.set_mean(2 * weight())
    head.fit(Features(features, labels))
    best = head.report()["log_evidence"]
    chosen = head.report()["prior_precision"]
    for factor in (0.5, 0.9, 1.1, 2.0):
        other = build_head(
            Laplace(structure=structure, prior_precision=factor * chosen), 4, 3
        ).double()
        other.set_mean(2 * weight())
        other.fit(Features(features, labels))
        assert other.report()["log_evidence"] < best
    # MacKay's fixed point: δ‖θ‖² = tr(H (H + δI)⁻¹), written with the derivative of the log det.
    step = 1e-4
    change = head.curvature.log_determinant(chosen * (1 + step))
    change -= head.curvature.log_determinant(chosen * (1 - step))
    prior_part = change / (2 * step)  # δ tr (H + δI)⁻¹
    assert chosen * (2 * weight()).square().sum().item() == pytest.approx(12 - prior_part, rel=1e-3)


def test_validation_chooses_a_better_precision_than_the_default():
    from bayeslora.links import link_probabilities, nll

    features, labels = toy(rows=60)
    validation = toy(rows=200, seed=8)
    scores = {}
    for precision in ("validation", 1e-3, 1.0):
        head = build_head(Laplace(prior_precision=precision), 4, 3).double()
        head.set_mean(5 * weight())
        head.fit(Features(features, labels), Features(*validation))
        scores[precision] = nll(
            link_probabilities(head.predict(Features(validation[0]))).probs, validation[1]
        )
    assert scores["validation"] == min(scores.values())


@pytest.mark.parametrize(("best", "notes"), [(LOG10_GRID[0], 1), (0.5, 0), (LOG10_GRID[-1], 1)])
def test_an_optimum_at_the_edge_of_the_search_is_noted(best, notes, caplog):
    optimum = best_on_grid(lambda precision: -abs(precision - 3 * 10**best), 3.0)
    assert optimum == pytest.approx(3 * 10**best)
    assert len(caplog.records) == notes
