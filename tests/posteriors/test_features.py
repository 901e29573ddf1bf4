"""Rows as the input of a last layer."""

import pytest
import torch

from bayeslora.posteriors.types import Features


def rows(*, options=False):
    generator = torch.Generator().manual_seed(0)
    shape = (7, 3, 4) if options else (7, 4)
    known = torch.randn(7, 3, generator=generator)
    return Features(torch.randn(*shape, generator=generator), torch.arange(7) % 3, known)


@pytest.mark.parametrize("options", [False, True])
def test_logits_are_those_of_each_row_and_what_is_known(options):
    features = rows(options=options)
    weight = torch.randn(1 if options else 3, 4, generator=torch.Generator().manual_seed(1))
    for n, row in enumerate(features.values):
        expected = row @ weight[0] if options else weight @ row
        logits = features.logits(weight)[n]
        torch.testing.assert_close(logits, expected + features.known[n])
        torch.testing.assert_close(Features(features.values).logits(weight)[n], expected)


@pytest.mark.parametrize(
    "some",
    [slice(2, 5), torch.tensor([6, 0]), torch.arange(7) % 2 == 0],
    ids=["slice", "numbers", "mask"],
)
def test_taken_rows_keep_their_labels_and_known_logits(some):
    features = rows()
    taken = features.take(some)
    for name in ("values", "labels", "known"):
        assert torch.equal(getattr(taken, name), getattr(features, name)[some])
    bare = Features(features.values).take(some)
    assert bare.labels is None
    assert bare.known is None


@pytest.mark.parametrize(("size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_parts_are_all_rows_in_their_order(size, sizes):
    features = rows()
    parts = list(features.split(size))
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([part.labels for part in parts]), features.labels)
