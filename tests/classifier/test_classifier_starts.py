"""Adapters that start from a part of the weight, with every posterior, from the fit to the file."""

import pytest
import torch
from tiny import tiny_llama, toy_rows

from bayeslora.classifier import BayesianClassifier

ADAPTERS = {
    "pissa": "pissa:r=4,num_layers=2,lr=5e-3,niter=1",
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("starts") / "llama"))


def fitted(backbone, adapter, posterior, **options):
    clf = BayesianClassifier(
        backbone, ADAPTERS[adapter], posterior, dtype="float32", max_length=32, progress=False
    )
    held_out = toy_rows(18, 1) if posterior == "temperature" else None
    return clf.fit(toy_rows(30), held_out, epochs=2, batch_size=8, **options)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_prior_is_centred_on_the_start_after_loading(backbone, tmp_path, adapter):
    fitted(backbone, adapter, "laplace_lora:prior_precision=1", out=tmp_path / "model")
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    network = again.network
    layers = network.weights.layers
    assert len(layers) == 8
    expected = sum(
        float((value.detach() - site.origin()[key]).double().square().sum())
        for site in network.sites
        for key, value in site.trainable().items()
    )
    distance = network.weights.sq_distance(torch.zeros_like(network.head.mean_weight))
    assert 0 < distance == pytest.approx(expected, rel=1e-9)
    sizes = sum(float(item.layer.weight.detach().square().sum()) for item in layers)
    assert distance < 0.5 * sizes
