"""The mean of networks: of their changes, at the rank of one, and after cross-validation."""

import numpy as np
import pytest
import torch
from tiny import tiny_llama, toy_rows
from torch import nn

from bayeslora import BayesianClassifier
from bayeslora.adapters.init import kaiming_zero, polar
from bayeslora.adapters.low_rank import LowRank
from bayeslora.training import fit as fitting
from bayeslora.training.averaging import average, learnt

ROWS, TEST = toy_rows(24), toy_rows(15, seed=8)
# Sums and decompositions are in float64, and stored as float32.
CLOSE = 1e-6


def site(kind, r=3):
    start = {"lora": kaiming_zero, "polar": polar}[kind]
    factors = start(5, 7, r, torch.Generator().manual_seed(0))
    return LowRank("one", nn.Linear(7, 5, bias=False), factors, scale=0.5)


@pytest.mark.parametrize("kind", ["lora", "polar"])
@pytest.mark.parametrize("rank", [2, 3, 5])
def test_a_site_takes_the_nearest_change_of_its_rank(kind, rank):
    one = site(kind)
    A, B = torch.randn(6, 7, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    A[rank:] = 0
    one.approximate(A, B)
    u, values, v = torch.linalg.svd(one.scale * B @ A)
    nearest = u[:, :3] * values[:3] @ v[:3]
    torch.testing.assert_close(one.delta().double(), nearest, atol=CLOSE, rtol=CLOSE)
    if kind == "polar":
        for factor in (one.A.weight, one.B.weight.T):
            torch.testing.assert_close(factor @ factor.T, torch.eye(3), atol=CLOSE, rtol=0)
    elif rank >= 3:
        # Either factor has as much of it as the other.
        assert one.A.weight.norm().item() == pytest.approx(one.B.weight.norm().item(), rel=1e-5)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("mean") / "llama"))


def fitted(backbone, adapter, posterior="mle", seed=0, **options):
    clf = BayesianClassifier(
        backbone, adapter, posterior, seed=seed, dtype="float32", progress=False
    )
    return clf.fit(ROWS, **({"epochs": 2, "batch_size": 8} | options))


@pytest.mark.parametrize("adapter", ["lora:r=8", "polar:r=8"])
def test_a_network_becomes_the_mean_of_itself_and_others(backbone, adapter):
    one, other = (fitted(backbone, adapter, seed=seed, cv=0)._known().network for seed in (0, 1))
    own, theirs = learnt(one), learnt(other)
    before = [site.delta().double() for site in one.sites]
    added = [site.delta().double() for site in other.sites]
    weight = (own.weight + theirs.weight) / 2
    average(one, [theirs])
    for site, first, second in zip(one.sites, before, added, strict=True):
        u, values, v = torch.linalg.svd((first + second) / 2, full_matrices=False)
        nearest = u[:, :8] * values[:8] @ v[:8]
        torch.testing.assert_close(site.delta().double(), nearest, atol=CLOSE, rtol=1e-4)
    torch.testing.assert_close(learnt(one).weight, weight, atol=CLOSE, rtol=1e-5)


@pytest.mark.parametrize("posterior", ["mle", "vbll:polish_mean=trained", "laplace"])
@pytest.mark.parametrize("adapter", ["lora:r=2", "polar:r=2"])
def test_the_fits_without_parts_are_averaged_with_the_last(
    backbone, adapter, posterior, monkeypatch, tmp_path
):
    seen = []

    def watched(network, others):
        seen.append((learnt(network), others))
        average(network, others)

    monkeypatch.setattr(fitting, "average", watched)
    clf = fitted(backbone, adapter, posterior, cv=3, out=tmp_path / "m")
    [(own, others)] = seen
    assert len(others) == 3
    network = clf._known().network
    for place, site in enumerate(network.sites):
        changes = [one.changes[place] for one in (own, *others)]
        mean = site.scale * sum(B @ A for A, B in changes) / len(changes)
        u, values, v = torch.linalg.svd(mean, full_matrices=False)
        nearest = u[:, :2] * values[:2] @ v[:2]
        torch.testing.assert_close(site.delta().double(), nearest, atol=CLOSE, rtol=1e-3)
    assert clf.record.results["logit_scale"]["averaged"]
    again = BayesianClassifier.from_pretrained(tmp_path / "m", progress=False)
    assert np.array_equal(again.predict(TEST).probs, clf.predict(TEST).probs)
    assert "the mean of 4 fits" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [("pissa:r=2", "mle"), ("s2ft", "mle"), ("lora:r=2", "blob")],
)
def test_networks_without_a_mean_are_not_averaged(backbone, adapter, posterior):
    clf = fitted(backbone, adapter, posterior, cv=2)
    assert clf.record.results["logit_scale"]["averaged"] is False
    assert learnt(clf._known().network) is None
    with pytest.raises(ValueError, match="no mean"):
        average(clf._known().network, [])
