"""Geometry of the Stiefel manifold: identities in float64, and absorption on real sites."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayeslora.adapters.inject import adapter_state, inject
from bayeslora.adapters.low_rank import drift
from bayeslora.adapters.polar import (
    PoLAR,
    absorb,
    attraction,
    landing_field,
    polar_decomposition,
    tangent,
)

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99)).filter(
    lambda shape: shape[0] >= shape[1]
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orthonormal(n, r, seed=0, dtype=torch.float64):
    return torch.linalg.qr(random(n, r, seed=seed)).Q.to(dtype)


def distance(Z):
    return float(torch.linalg.norm(Z.mT @ Z - torch.eye(Z.shape[1], dtype=Z.dtype)))


@settings(deadline=None, max_examples=40)
@given(SHAPES)
def test_polar_decomposition_by_its_definition(shape):
    n, r, seed = shape
    Z = random(n, r, seed=seed)
    Q, P = polar_decomposition(Z)
    # The threshold for the exact fallback lets the inverse root grow to 1e3.
    assert distance(Q) < 1e-9
    torch.testing.assert_close(Q @ P, Z, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(P, P.mT, atol=1e-12, rtol=0)
    assert torch.linalg.eigvalsh(P).min() > -1e-9


@pytest.mark.parametrize("Z", [torch.zeros(4, 2), torch.ones(4, 2), 1e-30 * torch.eye(4)[:, :2]])
def test_polar_of_a_deficient_matrix_is_orthonormal(Z):
    Q, P = polar_decomposition(Z)
    assert distance(Q) < 1e-6
    torch.testing.assert_close(Q @ P, Z, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=30)
@given(SHAPES)
def test_tangent_is_an_orthogonal_projection(shape):
    n, r, seed = shape
    Z, G = orthonormal(n, r, seed), random(n, r, seed=seed + 100)
    T = tangent(Z, G)
    torch.testing.assert_close(Z.mT @ T + T.mT @ Z, torch.zeros(r, r).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(tangent(Z, T), T, atol=1e-12, rtol=0)
    assert float((T * (G - T)).sum()) == pytest.approx(0, abs=1e-11)


@settings(deadline=None, max_examples=30)
@given(SHAPES)
def test_landing_field_equals_the_wide_form(shape):
    n, r, seed = shape
    Z, G = random(n, r, seed=seed), random(n, r, seed=seed + 100)
    eye = torch.eye(r, dtype=Z.dtype)
    naive = (G @ Z.mT - Z @ G.mT) @ Z + 0.3 * Z @ (Z.mT @ Z - eye)
    scale = naive.abs().max()
    assert (landing_field(Z, G, 0.3) - naive).abs().max() <= 1e-12 * scale + 1e-12


def test_penalty_is_a_quarter_of_the_gradient():
    Z = random(5, 2).requires_grad_()
    (Z.mT @ Z - torch.eye(2)).square().sum().backward()
    torch.testing.assert_close(attraction(Z.detach()), Z.grad / 4)


def drifted(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 5))
    config = PoLAR(r=3, target_modules=("0", "2"), **options)
    sites = inject(model, config, seed=0)
    for number, site in enumerate(sites):
        for key, value in site.trainable().items():
            noise = random(*value.shape, seed=number, dtype=torch.float32)
            value.data += (0.5 if key == "core" else 0.2) * noise
    return model, sites


def test_absorption_keeps_the_function_and_restores_orthonormality():
    model, sites = drifted()
    x = random(6, 9, dtype=torch.float32)
    with torch.no_grad():
        before = model(x)
        assert max(map(drift, sites)) > 0.2
        absorb(sites)
        # A handful of float32 products of numbers of order 1.
        torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
    assert max(map(drift, sites)) < 2e-6
    once = adapter_state(sites)
    absorb(sites)
    assert all(
        (value - once[name]).abs().max() < 1e-5 for name, value in adapter_state(sites).items()
    )
