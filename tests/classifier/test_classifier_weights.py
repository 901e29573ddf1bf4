"""Posteriors over adapter weights, end to end."""

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import QUICK_VBLL, tiny_albert, toy_rows
from usage import TEST, fitted, from_transformers, load, new, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("few_resamples")

WITH_PLAIN_MEAN = ("swag", "tfb", "blob", "ivon", "scalabl")


@pytest.mark.parametrize("posterior", ["blob", "scalabl", "clora", "laplace_lora"])
def test_layers_that_share_their_weights_are_not_taken_for_several(tmp_path, posterior):
    clf = new(str(tiny_albert(tmp_path / "albert")), "lora:r=2", posterior)
    with refused("shared-layers"):
        clf.fit(toy_rows(24), epochs=1)


@pytest.mark.parametrize("posterior", WITH_PLAIN_MEAN)
def test_the_mean_can_be_given_a_posterior_of_the_last_layer(bert, tmp_path, posterior):
    """The calibrated model stands alone, without the first posterior's tensors."""
    clf = fitted(bert, "lora:r=2", f"{posterior}:num_samples=2")
    mean = clf.predict(TEST, num_samples=0)
    clf.calibrate(toy_rows(24, seed=5), posterior="laplace")
    assert np.array_equal(clf.predict(TEST, num_samples=0).probs, mean.probs)
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


def test_a_saved_ivon_model_predicts_without_the_package(bert, tmp_path, monkeypatch):
    clf = fitted(bert, "lora:r=2", "ivon:num_samples=2")
    clf.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("bayeslora.posteriors.weights.ivon.find_spec", lambda name: None)
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


def test_what_needs_a_plain_adapter_is_refused(bert, tmp_path):
    clf = fitted(bert, "lora:r=2", "clora:num_samples=2")
    before = clf.predict(TEST)
    with refused("gated"):
        clf.export_peft(tmp_path / "lora")
    for posterior in ("laplace", "laplace_lora", None):
        with refused("gated"):
            clf.calibrate(toy_rows(24, seed=5), posterior=posterior)
    assert not any(tmp_path.iterdir())
    assert same(clf.predict(TEST), before)


QUICK_NUTS = bl.NUTS(num_chains=2, num_warmup=30, num_samples=40)
QUICK_TFB = "tfb:num_samples=3,num_search_samples=2,num_steps=3"


@pytest.mark.parametrize(
    ("posterior", "adapter", "before"),
    [
        *((QUICK_TFB, "lora:r=2", before) for before in ("mle", QUICK_TFB)),
        *((QUICK_TFB, "polar:r=2", before) for before in (QUICK_VBLL, "laplace")),
        *(
            ("laplace_lora", "polar:r=2", before)
            for before in ("mle", "vbll", "swag:num_samples=2", "laplace_lora")
        ),
    ],
)
def test_it_is_fitted_to_a_finished_model_of_ours(bert, tmp_path, posterior, adapter, before):
    clf = fitted(bert, adapter, before)
    mean = clf.predict(TEST, num_samples=0).probs
    rows = toy_rows(24, seed=5), toy_rows(12, seed=6)
    clf.calibrate(*rows, posterior=posterior)
    # TFB rotates the factors, whose product stays; a last layer in float64 becomes float32.
    exact = posterior == "laplace_lora" and before != "vbll"
    after = clf.predict(TEST, num_samples=0).probs
    np.testing.assert_allclose(after, mean, atol=0 if exact else 2e-6)
    predictions = clf.predict(TEST)
    assert (predictions.epistemic > 0).any()
    assert clf.validation_scores is not None
    clf.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert same(again.predict(TEST), predictions)
    if posterior == "laplace_lora":  # refitting to the same rows changes nothing
        assert same(again.calibrate(*rows).predict(TEST), predictions)


def test_the_prior_is_centred_on_the_start_after_loading(llama, tmp_path, monkeypatch):
    """A prior around zero would count the whole part of the weight that PiSSA adapts."""
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))
    clf = fitted(llama, "pissa:r=4,num_layers=2,lr=5e-3", "laplace_lora:prior_precision=1")
    clf.save_pretrained(tmp_path / "model")
    network = load(tmp_path / "model").network
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


@pytest.fixture(scope="module")
def lora(bert):
    """Return a classifier that is shared by tests that do not change it."""
    return fitted(bert, "lora:r=2", bl.LaplaceLoRA(prior_precision="marglik"))


@pytest.mark.parametrize("link", ["mc", "probit", "bridge"])
def test_every_link_starts_from_the_same_mean(lora, link):
    predictions = lora.predict(TEST, link=link)
    assert predictions.metadata["link"] == link
    np.testing.assert_allclose(predictions.probs.sum(1), 1, atol=1e-12)
    mean = lora.predict(TEST, num_samples=0)
    assert not mean.epistemic.any()
    assert not np.array_equal(predictions.probs, mean.probs)
    assert same(mean, lora.predict(TEST, num_samples=0, seed=9))


def test_the_rows_of_the_fit_give_the_sigma_of_the_fit(bert):
    """The search is the same, over the same anchors and noise."""
    whole = fitted(bert, "lora:r=2", QUICK_TFB)
    rows = toy_rows(24)
    after = fitted(bert, "lora:r=2", "mle").calibrate(rows, posterior=QUICK_TFB)
    sigmas = [clf.record.results["posterior"]["sigma"] for clf in (whole, after)]
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-6)


def test_the_seed_of_the_fit_is_that_of_the_chains(foreign, llama):
    first = from_transformers(foreign, QUICK_NUTS).calibrate(toy_rows(30))
    again = from_transformers(foreign).calibrate(toy_rows(30), posterior=QUICK_NUTS)
    assert same(first.predict(TEST), again.predict(TEST))
    heads = [fitted(llama, "lora:r=2", QUICK_NUTS, seed=seed).network.head for seed in (0, 5)]
    assert [head.seed for head in heads] == [0, 5]


def test_another_posterior_starts_from_the_mean_of_the_draws(foreign):
    clf = from_transformers(foreign, QUICK_NUTS).calibrate(toy_rows(30))
    mean = clf.predict(TEST, num_samples=0).probs
    clf.calibrate(toy_rows(30), posterior="laplace")
    # Draws are stored in single precision, like the weights.
    np.testing.assert_allclose(clf.predict(TEST, num_samples=0).probs, mean, atol=1e-5)
