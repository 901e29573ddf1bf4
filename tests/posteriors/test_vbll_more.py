"""More rows for a Gaussian posterior, against its own objective and direct computation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from bayeslora.posteriors.last_layer.vbll.more import updated
from bayeslora.posteriors.types import Features


def problem(seed=0, size=3, classes=3, count=40):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    mean = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    lower = torch.randn(classes, size, size, generator=generator, dtype=torch.float64).tril()
    lower.diagonal(dim1=1, dim2=2).abs_().add_(0.3)
    return Features(values, labels), mean, lower


def precisions(lower):
    return torch.linalg.inv(lower @ lower.mT)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 10.0]))
def test_mode_and_precision_are_those_of_the_objective(seed, strength):
    rows, mean, lower = problem(seed)
    mode, scale = updated(mean, lower, rows=rows, strength=strength)
    precision, values, labels = precisions(lower).numpy(), rows.values.numpy(), rows.labels.numpy()

    def loss(flat):
        gap = flat.reshape(3, 3) - mean.numpy()
        prior = strength * np.einsum("cd,cde,ce->", gap, precision, gap) / 2
        logits = values @ flat.reshape(3, 3).T
        return prior - log_softmax(logits, 1)[np.arange(len(labels)), labels].sum()

    # The search stops where differences of the loss are rounding.
    optimum = minimize(loss, mean.numpy().ravel(), tol=1e-10)
    np.testing.assert_allclose(mode.numpy().ravel(), optimum.x, atol=2e-4)
    probs = rows.logits(mode).softmax(1)
    weights = probs * (1 - probs)
    expected = strength * precisions(lower)
    expected += torch.einsum("nc,nd,ne->cde", weights, rows.values, rows.values)
    torch.testing.assert_close(precisions(scale), expected)
    assert torch.equal(scale, scale.tril())


def test_independent_weights_are_the_same_along_any_basis():
    rows, mean, _ = problem()
    deviations = torch.rand(3, 3, dtype=torch.float64) + 0.2
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    mode, scale = updated(mean, deviations, rows=rows, strength=2.0)
    turned, along = updated(
        mean @ basis.T,
        deviations,
        basis,
        rows=Features(rows.values @ basis.T, rows.labels),
        strength=2.0,
    )
    torch.testing.assert_close(turned, mode @ basis.T, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(along, scale)


@pytest.mark.parametrize("dense", [True, False])
def test_a_strong_posterior_does_not_move(dense):
    rows, mean, lower = problem()
    scale = lower if dense else lower.diagonal(dim1=1, dim2=2)
    mode, after = updated(mean, scale, rows=rows, strength=1e12)
    torch.testing.assert_close(mode, mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(1e6 * after, scale, atol=1e-5, rtol=1e-5)


def test_two_halves_are_nearly_the_whole():
    """For a quadratic likelihood with independent classes, and nearly under a narrow prior."""
    rows, mean, lower = problem(count=60)
    mean, lower = torch.zeros_like(mean), 0.02 * lower
    half = torch.arange(60) < 30
    whole = updated(mean, lower, rows=rows, strength=1.0)[0]
    first = updated(mean, lower, rows=rows.take(half), strength=1.0)
    second = updated(*first, rows=rows.take(~half), strength=1.0)[0]
    assert float((second - whole).norm() / whole.norm()) < 0.05
