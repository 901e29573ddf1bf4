"""Gaussian weights: moments of logits, free parameters, triangles; and row-space coordinates."""

from functools import partial

import pytest
import torch
from gaussian_oracles import F64, FAMILIES, TRAINABLE, matrix

from bayeslora.posteriors.last_layer.algebra import RowSpace, precision_to_lower
from bayeslora.posteriors.last_layer.vbll import families
from bayeslora.posteriors.last_layer.vbll.families import Eigenbasis, lower_triangle, raw_triangle
from bayeslora.runtime import row_slices

CLASSES, SIZE, RANK = 3, 5, 2


def free(family, seed=0):
    """Return random free parameters of a family in float64."""
    generator = torch.Generator().manual_seed(seed)
    start = families.TRAINABLE[family].free_start(CLASSES, SIZE, RANK, -0.5)
    return {
        name: item.double() + 0.5 * torch.randn(item.shape, generator=generator, dtype=F64)
        for name, item in start.items()
    }


def from_free(family, parts):
    return families.TRAINABLE[family].from_free(parts["spread"], parts.get("factor"))


def covariance(family, seed=0):
    if family == "eigenbasis":
        drawn = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=F64)
        return Eigenbasis(covariance("diagonal", seed).scale, torch.linalg.qr(drawn)[0])
    parameters = free(family, seed)
    return from_free(family, parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_have_the_covariance_of_the_weights(family, monkeypatch):
    features = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1), dtype=F64)
    cov = covariance(family)
    weights = matrix(cov).view(CLASSES, SIZE, CLASSES, SIZE)
    expected = torch.einsum("ni,cidj,nj->ncd", features, weights, features)
    monkeypatch.setattr(
        "bayeslora.posteriors.last_layer.vbll.families.row_slices",
        partial(row_slices, most=3 * CLASSES * CLASSES * SIZE),
    )
    logit_covariance = cov.of_logits(features)
    if family != "full":
        # Classes are independent.
        assert (expected - expected.diagonal(dim1=1, dim2=2).diag_embed()).abs().max() < 1e-14
        logit_covariance = torch.diag_embed(logit_covariance)
    torch.testing.assert_close(logit_covariance, expected, atol=1e-12, rtol=0)
    assert cov.of_logits(features[:0]).shape == (0, *cov.of_logits(features).shape[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_covariance_comes_back_from_its_tensors_and_its_free_parameters(family):
    cov = covariance(family)
    tensors = cov.tensors()
    assert {name: tuple(item.shape) for name, item in tensors.items()} == families.FAMILIES[
        family
    ].shapes(CLASSES, SIZE, RANK)
    torch.testing.assert_close(matrix(families.FAMILIES[family].of_tensors(tensors)), matrix(cov))
    torch.testing.assert_close(matrix(cov.double()), matrix(cov))
    if family not in TRAINABLE:
        return
    again = cov.to_free()
    back = from_free(family, again)
    torch.testing.assert_close(matrix(back), matrix(cov))
    assert back.name == family


@pytest.mark.parametrize("family", TRAINABLE)
def test_deviations_are_multiplied_and_correlations_stay(family):
    parameters = free(family)
    before = matrix(from_free(family, parameters))
    families.TRAINABLE[family].shift_log_std(parameters["spread"], parameters.get("factor"), 0.7)
    after = matrix(from_free(family, parameters))
    torch.testing.assert_close(
        after, before * torch.tensor(1.4, dtype=F64).exp(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("family", TRAINABLE)
def test_training_starts_with_one_deviation(family):
    start = families.TRAINABLE[family].free_start(CLASSES, SIZE, RANK, -0.5)
    initial = matrix(from_free(family, start))
    expected = torch.tensor(-1.0).exp() * torch.eye(CLASSES * SIZE)
    # The low-rank directions start at a tenth of the standard deviations, not at zero.
    tolerance = 0.1 if family == "low_rank" else 1e-6
    torch.testing.assert_close(initial, expected, atol=tolerance, rtol=0)


def test_triangles_and_their_free_parameters():
    triangle = covariance("dense").scale
    torch.testing.assert_close(lower_triangle(raw_triangle(triangle)), triangle)
    assert (triangle.diagonal(dim1=1, dim2=2) > 0).all()
    assert not triangle.triu(1).any()


def test_factor_of_an_inverse():
    root = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    precision = root @ root.mT + torch.eye(6, dtype=F64)
    lower = precision_to_lower(precision)
    assert not lower.triu(1).any()
    torch.testing.assert_close(lower @ lower.mT, torch.linalg.inv(precision))


def test_row_space_of_few_rows():
    features = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=F64)
    space = RowSpace.of(features)
    assert space.basis.shape == (8, 3)
    torch.testing.assert_close(space.expand(space.coordinates(features)), features)
    assert space.outside(features).abs().max() < 1e-24
    other = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=F64)
    inside = space.coordinates(other).square().sum(1, keepdim=True)
    torch.testing.assert_close(inside + space.outside(other), other.square().sum(1, keepdim=True))


def test_row_space_of_many_rows_is_everything():
    features = torch.randn(9, 4, dtype=F64)
    space = RowSpace.of(features)
    assert space.basis is None
    assert space.coordinates(features) is features
    assert space.outside(features).shape == (9, 1)
