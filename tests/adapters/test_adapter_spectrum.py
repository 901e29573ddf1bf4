"""Stable rank, drift and sums against full matrices and numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayeslora.adapters.inject import inject
from bayeslora.adapters.low_rank import Factors, LowRank, drift, singular_values, spectrum, summary
from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.polar import PoLAR
from bayeslora.testing.adapter import randomise, stack


def site_of(A, B, core=None, scale=2.0):
    host = nn.Linear(A.shape[1], B.shape[0])
    return LowRank("here", host, Factors(A, B, core, core is not None), scale).double()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 99), st.data())
def test_spectrum_is_that_of_the_full_change(rows, columns, with_core, seed, data):
    r = data.draw(st.integers(1, min(rows, columns)))
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    site = site_of(random(r, columns), random(rows, r), random(r, r) if with_core else None)
    full = torch.linalg.svdvals(site.delta().detach())
    torch.testing.assert_close(singular_values(site), full[:r], atol=1e-9, rtol=1e-9)
    expected = float((full**2).sum() / full[0] ** 2)
    assert spectrum(site).stable_rank == pytest.approx(expected, rel=1e-9)
    assert 1 <= spectrum(site).stable_rank <= r + 1e-9


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1.0, 1e-3]),
    st.integers(0, 99),
    st.data(),
)
def test_a_change_from_a_start_has_twice_the_rank(rows, columns, size, seed, data):
    """Also for a change much smaller than the start, which leaves no trace in the values."""
    r = data.draw(st.integers(1, min(rows, columns)))
    generator = torch.Generator().manual_seed(seed)
    host = nn.Linear(columns, rows).double()
    site = LowRank("here", host, pissa(host.weight, r, 2.0), 2.0).double()
    assert torch.count_nonzero(singular_values(site)) == 0
    assert math.isnan(spectrum(site).stable_rank)
    for value in site.trainable().values():
        value.data += size * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    full = torch.linalg.svdvals(site.delta().detach())
    values = singular_values(site)
    assert len(values) == min(2 * r, rows, columns)
    # For a change of size 1e-3, float64 rounding of the start's products is 1e-13 of it.
    torch.testing.assert_close(values, full[: len(values)], atol=1e-12, rtol=1e-9)


def test_the_spectrum_of_a_site_by_hand():
    A, B = torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([[4.0], [0.0]])
    site = site_of(A, B, scale=0.5)
    site.weight.data.fill_(2.0)
    result = spectrum(site)
    assert result.name == "here"
    assert result.singular_values == pytest.approx((0.5 * 3 * 4,))
    assert result.norm == pytest.approx(6.0)
    # Six entries of 2.
    assert result.relative_norm == pytest.approx(6 / 24**0.5)
    assert result.stable_rank == pytest.approx(1.0)
    assert result.drift == 0
    site.weight.data.zero_()
    assert math.isnan(spectrum(site).relative_norm)


def test_drift_by_hand():
    A = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    B = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    # AAᵀ − I = diag(0, 3) and BᵀB − I = diag(0, 1): the larger norm is 3.
    assert drift(site_of(A, B, torch.eye(2))) == pytest.approx(3.0)


def test_summary_by_definition():
    sites = inject(stack(), PoLAR(r=3, target_modules=(r"layers\..", "head")), seed=0)
    randomise(sites[1:])
    got = summary(sites)
    squares = sum(float(site.delta().detach().square().sum()) for site in sites)
    ranks = [spectrum(site).stable_rank for site in sites[1:]]
    assert got["num_sites"] == 4
    assert got["num_parameters"] == 3 * (3 * (6 + 6) + 9) + 3 * (6 + 4) + 9
    assert got["delta_norm"] == pytest.approx(squares**0.5, rel=1e-5)
    assert got["stable_rank"] == pytest.approx(sum(ranks) / 3)
    assert got["drift"] == max(drift(site) for site in sites) < 1e-6
