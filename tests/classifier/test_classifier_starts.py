"""Adapters that start from a part of the weight, with every posterior, from the fit to the file."""

import pytest
import torch
from refusal import refused
from tiny import tiny_llama, toy_rows

from bayeslora.classifier import BayesianClassifier
from bayeslora.contrib.corda import CorDA

ADAPTERS = {
    "pissa": "pissa:r=4,num_layers=2,lr=5e-3,niter=1",
    "corda": "corda:r=4,num_layers=2,lr=5e-3",
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


def test_a_context_of_texts_is_recorded_by_its_hash(backbone, tmp_path):
    texts = [row["text"] for row in toy_rows(40, 8)]
    adapter = CorDA(r=2, num_layers=2, mode="kpm", context=texts)
    clf = BayesianClassifier(backbone, adapter, "mle", dtype="float32", progress=False)
    clf.fit(toy_rows(30), epochs=1, out=tmp_path / "model")
    context = clf.record.adapter["context"]
    assert context.startswith("40 texts, sha256 ")
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert again.adapter.context == context
    assert (again.predict(toy_rows(9)).probs == clf.predict(toy_rows(9)).probs).all()


def test_validation_rows_are_no_context(backbone):
    validation = toy_rows(18, 1)
    adapter = CorDA(context=["something else", validation[3]["text"]])
    clf = BayesianClassifier(backbone, adapter, "mle", progress=False)
    with refused("input", "context", "1 of"):
        clf.fit(toy_rows(30), validation)


def test_another_power_has_another_name(backbone):
    clf = fitted(backbone, "corda", "mle")
    assert clf.predict(toy_rows(3)).name == "corda-mle"
    other = BayesianClassifier(backbone, "corda:r=2,power=0.5", "mle", progress=False)
    other.fit(toy_rows(30), epochs=1)
    assert other.predict(toy_rows(3)).name == "context-svd-0.5-mle"
