"""Adapters that start from a part of the weight, with every posterior, from the fit to the file."""

import logging

import pytest
import torch
from refusal import refused
from tiny import QUICK_VBLL, tiny_llama, toy_rows

from bayeslora.checkpoint import read_model
from bayeslora.classifier import BayesianClassifier
from bayeslora.contrib.corda import CorDA

ADAPTERS = {
    "pissa": "pissa:r=4,num_layers=2,lr=5e-3,niter=1",
    "corda": "corda:r=4,num_layers=2,lr=5e-3",
}
POSTERIORS = [
    "mle",
    "map",
    QUICK_VBLL,
    "laplace",
    "temperature",
    "ensemble:num_members=2",
    "laplace_lora:prior_precision=1",
    "swag:num_samples=3,start=0.0",
    "tfb:num_samples=3,num_search_samples=2,num_steps=2",
    "blob:num_samples=3",
    "ivon:num_samples=3",
]


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


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [
        *(("pissa", posterior) for posterior in POSTERIORS),
        ("corda", "mle"),
        ("corda", "laplace_lora:prior_precision=1"),
    ],
)
def test_saved_and_loaded_it_predicts_the_same(backbone, tmp_path, monkeypatch, adapter, posterior):
    clf = fitted(backbone, adapter, posterior, out=tmp_path / "model")
    expected = clf.predict(toy_rows(9, 5)).probs

    def never(*_, **__):
        raise AssertionError("loading decomposes a weight again")

    for name in ("svd", "eigh"):
        monkeypatch.setattr(torch.linalg, name, never)
    monkeypatch.setattr(torch, "svd_lowrank", never)
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert (again.predict(toy_rows(9, 5)).probs == expected).all()
    names = set(read_model(tmp_path / "model").adapter)
    assert any(name.endswith(".q_proj.A0") for name in names)
    assert len({name.rsplit(".", 1)[-1] for name in names}) == 4


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("posterior", "code"),
    [
        ("mc_dropout", "no-dropout"),
        ("scalabl", "no-free-factor"),
        ("clora", "factors-hold-weight"),
        ("ivon:weight_decay=0.1", "factors-hold-weight"),
    ],
)
def test_posteriors_without_a_meaning_are_refused(backbone, adapter, posterior, code):
    with refused(code):
        fitted(backbone, adapter, posterior)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_members_that_start_alike_are_said(backbone, caplog, adapter):
    with caplog.at_level(logging.WARNING):
        clf = fitted(backbone, adapter, "ensemble:num_members=2")
    assert f"members with adapter '{adapter}' start alike" in caplog.text
    first, second = (member for member in clf.network.members)
    name = next(name for name in first if name.endswith(".A"))
    assert not torch.equal(first[name], second[name])


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
