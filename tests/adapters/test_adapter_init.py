"""Initialisation of adapters: distributions, orthonormality, invalid options."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.adapters.lora import kaiming_zero
from bayeslora.adapters.polar import random_factors
from bayeslora.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_polar_is_orthonormal_with_a_zero_core(rows, columns, data):
    r = data.draw(st.integers(1, min(rows, columns)))
    A, B, core, orthonormal, centred = random_factors(rows, columns, r, seeded())
    assert not centred
    assert A.shape == (r, columns)
    assert B.shape == (rows, r)
    assert orthonormal
    assert core is not None
    assert torch.equal(core, torch.zeros(r, r))
    for gram in (A.double() @ A.double().T, B.double().T @ B.double()):
        # Rounding to float32 moves each entry by at most 6e-8 relative.
        assert torch.linalg.norm(gram - torch.eye(r)) <= 1e-6


def test_polar_directions_are_uniform():
    """The mean of a uniform orthonormal matrix is zero; QR's own signs would make it negative.

    Over 400 draws, the mean of an entry of variance 1/4 has deviation 0.025; 0.125 is five.
    """
    draws = torch.stack([random_factors(4, 4, 2, seeded(seed)).B for seed in range(400)])
    assert draws.mean(0).abs().max() < 0.125
    assert (draws.square().mean(0) - 1 / 4).abs().max() < 0.08


def test_kaiming_zero_by_its_moments():
    A, B, core, orthonormal, centred = kaiming_zero(5, 100, 4, seeded())
    assert not centred
    assert core is None
    assert not orthonormal
    assert torch.equal(B, torch.zeros(5, 4))
    assert A.abs().max() <= 1 / 10
    # Uniform on ±0.1: deviation 0.1/√3; 400 draws put its estimate within 10 % (over 4 sigma).
    assert A.std() == pytest.approx(0.1 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("make", [kaiming_zero, random_factors])
@pytest.mark.parametrize("r", [0, 5])
def test_impossible_ranks_are_refused(make, r):
    with pytest.raises(InputError) as caught:
        make(4, 9, r, seeded())
    assert str(caught.value) == (
        f"r must be between 1 and 4 for a layer with 4 outputs and 9 inputs, got {r}"
    )
