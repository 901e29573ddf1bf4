"""Gaussian weights: moments of logits, and triangles; and row-space coordinates."""

from functools import partial

import pytest
import torch
from gaussian_oracles import F64, FAMILIES, matrix

from bayeslora.posteriors.last_layer.algebra import RowSpace, precision_to_lower
from bayeslora.posteriors.last_layer.vbll import covariance as covariances
from bayeslora.posteriors.last_layer.vbll.covariance import logit_covariance, packed, unpacked
from bayeslora.processes import row_slices

CLASSES, SIZE = 3, 5


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def stored(family):
    """Return random stored tensors of a family."""
    if family == "dense":
        return {"scale": drawn(CLASSES, SIZE, SIZE).tril()}
    return {"scale": drawn(CLASSES, SIZE).exp(), "basis": torch.linalg.qr(drawn(SIZE, SIZE))[0]}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_have_the_covariance_of_the_weights(family, monkeypatch):
    features, tensors = drawn(4, SIZE, seed=1), stored(family)
    shapes = {name: tuple(item.shape) for name, item in tensors.items()}
    assert shapes == covariances.stored_shapes(family, CLASSES, SIZE)
    weights = matrix(tensors).view(CLASSES, SIZE, CLASSES, SIZE)
    expected = torch.einsum("ni,cidj,nj->ncd", features, weights, features)
    few = partial(row_slices, most=3 * CLASSES * CLASSES * SIZE)
    monkeypatch.setattr(covariances, "row_slices", few)
    variance = logit_covariance(features, **tensors)
    # Classes are independent.
    torch.testing.assert_close(torch.diag_embed(variance), expected, atol=1e-12, rtol=0)
    assert logit_covariance(features[:0], **tensors).shape == (0, CLASSES)


@pytest.mark.parametrize("is_fitted", [True, False])
def test_options_have_the_covariance_of_their_weights(is_fitted):
    features = drawn(4, 3, SIZE, seed=1)
    scale = drawn(1, SIZE, SIZE).tril() if is_fitted else drawn(1, SIZE).exp()
    expected = features @ matrix({"scale": scale}) @ features.mT
    torch.testing.assert_close(logit_covariance(features, scale), expected)


def test_packed_triangles_come_back():
    lower = drawn(CLASSES, SIZE, SIZE).tril()
    assert packed(lower).shape == (CLASSES, SIZE * (SIZE + 1) // 2)
    assert torch.equal(unpacked(packed(lower)), lower)


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
