"""TFB: the effect of the noise on ΔW, and the search for its size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_sites import drawn, lora_site, polar_site

from bayeslora import TFB
from bayeslora.posteriors.weights.tfb import TFBWeights, largest_accepted, set_factors, turned

SITES = pytest.mark.parametrize("make", [lora_site, polar_site])


@SITES
def test_turning_the_factors_keeps_the_change(make):
    site = make(out=7, inputs=6, r=3)
    before = site.delta().double()
    set_factors(site, turned(site))
    # Factors of size 1 are rounded to float32 twice.
    torch.testing.assert_close(site.delta().double(), before, atol=2e-6, rtol=0)
    gram = site.factors()[1].double()
    gram = gram.T @ gram
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-5, rtol=0)
    assert (gram.diagonal().diff() <= 0).all()


@SITES
def test_columns_of_the_change_have_covariance_sigma_squared_times_the_projector(make):
    """This holds for any factor s. With 8,000 draws, 5 standard errors of an entry are at most
    5 · √2 · σ² / √8000 = 0.08 σ².
    """
    site = make(scale=3.0)
    weights = TFBWeights(TFB(), [site])
    set_factors(site, turned(site))
    weights.sigma.fill_(0.3)
    mean, B = site.delta().double(), site.factors()[1].double()
    changes = drawn(weights, site.delta, 8000) - mean
    U = B / B.norm(dim=0)
    expected = 0.09 * U @ U.T
    flat = changes.mT.reshape(8000, -1)
    covariance = flat.T.cov().reshape(4, 5, 4, 5)
    for i in range(4):
        for j in range(4):
            block = expected if i == j else torch.zeros_like(expected)
            torch.testing.assert_close(covariance[i, :, j], block, atol=0.08 * 0.09, rtol=0)
    assert changes.mean(0).abs().max() < 5 * 0.3 / 8000**0.5


@given(
    threshold=st.floats(1e-4, 1.0),
    low=st.floats(1e-3, 1e-2),
    width=st.floats(1.5, 100.0),
    num_steps=st.integers(1, 8),
)
def test_the_search_agrees_with_a_scan(threshold, low, width, num_steps):
    """A scan of the grid reachable by bisection finds no larger accepted value."""
    high = low * width
    ratio = width ** (1 / 2**num_steps)
    grid = [low * ratio**place for place in range(2**num_steps)] + [high]
    scanned = max((value for value in grid if value <= threshold), default=0.0)
    largest = largest_accepted(lambda sigma: sigma <= threshold, low, high, num_steps)
    assert largest <= threshold
    # A threshold on the grid itself may fall on either side of rounding.
    assert largest == pytest.approx(scanned, rel=1e-9) or (
        min(abs(value / threshold - 1) for value in grid) < 1e-9
    )


def test_a_site_of_gated_experts_is_turned_expert_by_expert():
    """The contribution of each expert stays the same, so any gate may follow."""
    site = lora_site(out=7, inputs=6, r=4)
    site.attach(lambda h: h, num_blocks=2)

    def parts():
        A, B = (item.detach().double() for item in site.factors())
        return [b @ a for a, b in zip(A.chunk(2), B.chunk(2, 1), strict=True)]

    before = parts()
    set_factors(site, turned(site))
    for actual, expected in zip(parts(), before, strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)
    for block in site.factors()[1].double().chunk(2, 1):
        gram = block.T @ block
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-5, rtol=0)
