"""The study `soups`: an average of equal networks is that network, and of others the mean."""

import pytest
import torch
from tiny import tiny_llama, toy_rows

from bayeslora import BayesianClassifier
from bayeslora.backbones.load import load_backbone
from bayeslora.engine.data import read_rows
from bayeslora.tasks.columns import DataColumns
from benchmarks.lib.pools import Pools
from benchmarks.parts.adapters import weight_change
from benchmarks.soups.__main__ import BOTH, FIT, KINDS, compared, load_average


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load_backbone(
        str(tiny_llama(tmp_path_factory.mktemp("model"))), dtype="float32", device="cpu"
    )


def fit(backbone, adapter, posterior, seed):
    clf = BayesianClassifier(backbone, adapter, posterior, seed=seed, progress=False)
    return clf.fit(toy_rows(24), epochs=2, cv=0)._known()


@pytest.mark.parametrize(("adapter", "posterior"), [("polar:r=2", "vbll"), ("lora:r=2", "mle")])
def test_averages(backbone, adapter, posterior):
    first, second = (fit(backbone, adapter, posterior, seed) for seed in (0, 1))
    changes, weights = [], []
    for model in (first, second):
        changes.append([weight_change(site) for site in model.network.sites])
        weights.append(model.network.head.trained_mean / model.network.feature_scale)
    network = first.network
    load_average(network, [first.members[0]] * 2)
    for site, change in zip(network.sites, changes[0], strict=True):
        torch.testing.assert_close(weight_change(site), change, rtol=0, atol=1e-6)
    load_average(network, [first.members[0], second.members[0]])
    for site, pair in zip(network.sites, zip(*changes, strict=True), strict=True):
        mean = torch.stack(pair).mean(0)
        U, S, Vh = torch.linalg.svd(mean)
        best = U[:, :2] * S[:2] @ Vh[:2]
        torch.testing.assert_close(weight_change(site), best, rtol=0, atol=1e-6)
    mean_weight = network.head.trained_mean / network.feature_scale
    torch.testing.assert_close(mean_weight, (weights[0] + weights[1]) / 2)


@pytest.mark.parametrize("method", ["PoLAR-VBLL", "LoRA"])
def test_every_kind_of_network_has_scores(backbone, method):
    train, test = (read_rows(toy_rows(count), DataColumns()) for count in (30, 40))
    rows = compared(backbone, method, train, Pools(train=train, score=test, ood={}), 0)
    assert set(rows) == set(KINDS)
    assert rows[BOTH]["nll"] != pytest.approx(rows[FIT]["nll"], rel=1e-5)
