"""Posteriors over adapter weights, end to end."""

import json
import logging

import numpy as np
import pytest
from refusal import refused
from tiny import tiny_albert, toy_rows
from usage import TEST, fitted, load, new, same

import bayeslora as bl
from bayeslora.posteriors.weights import ivon

pytestmark = pytest.mark.usefixtures("beside_nothing")

WITH_PLAIN_MEAN = ("swag", "tfb", "blob", "ivon", "scalabl")
POSTERIORS = (*WITH_PLAIN_MEAN, "clora")


@pytest.mark.parametrize(
    ("name", "posterior"),
    [
        ("swag", bl.SWAG(num_samples=2)),
        ("tfb", bl.TFB(num_samples=2)),
        ("blob", bl.BLoB(num_samples=2)),
        ("ivon", bl.IVON(num_samples=2)),
        ("scalabl", bl.ScalaBL(num_samples=2)),
        ("clora", bl.CLoRA(num_samples=2)),
    ],
)
def test_an_object_and_its_text_are_the_same_fit(bert, name, posterior):
    first = fitted(bert, "lora:r=2", posterior).predict(TEST)
    second = fitted(bert, "lora:r=2", f"{name}:num_samples=2").predict(TEST)
    assert same(first, second)
    assert first.name == f"lora-{name}"
    assert first.metadata["num_samples"] == "2"
    assert first.metadata["link"] == "softmax"
    assert float(first.epistemic.max()) > 0


@pytest.mark.parametrize("posterior", ["blob", "scalabl", "clora", "laplace_lora"])
def test_layers_that_share_their_weights_are_not_taken_for_several(tmp_path, posterior):
    clf = new(str(tiny_albert(tmp_path / "albert")), "lora:r=2", posterior)
    with refused("shared-layers"):
        clf.fit(toy_rows(24), epochs=1)


def test_draws_of_shared_weights_are_one_draw(tmp_path):
    clf = fitted(str(tiny_albert(tmp_path / "albert")), "lora:r=2", "swag:num_samples=2")
    assert float(clf.predict(TEST).epistemic.max()) > 0


def test_more_draws_on_demand_and_none_for_the_mean(bert):
    clf = fitted(bert, "lora:r=2", "blob:initial_std=0.3")
    assert clf.predict(TEST, num_samples=4).metadata["num_samples"] == "4"
    mean = clf.predict(TEST, num_samples=0)
    assert not mean.epistemic.any()
    assert not np.array_equal(mean.probs, clf.predict(TEST).probs)
    assert same(mean, clf.predict(TEST, num_samples=0, seed=9))


@pytest.mark.parametrize("posterior", WITH_PLAIN_MEAN)
def test_the_mean_can_be_given_a_posterior_of_the_last_layer(bert, tmp_path, posterior):
    """The calibrated model stands alone, without the first posterior's tensors."""
    clf = fitted(bert, "lora:r=2", f"{posterior}:num_samples=2")
    mean = clf.predict(TEST, num_samples=0)
    clf.calibrate(toy_rows(24, seed=5), posterior="laplace")
    assert np.array_equal(clf.predict(TEST, num_samples=0).probs, mean.probs)
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name != "tfb"])
def test_they_cannot_be_fitted_to_a_finished_network(bert, posterior):
    clf = fitted(bert, "lora:r=2", "mle")
    with refused("from-start"):
        clf.calibrate(toy_rows(24, seed=5), posterior=posterior)


def test_the_card_says_what_was_chosen(bert, tmp_path):
    clf = fitted(bert, "polar:r=2", "tfb:num_samples=2")
    clf.save_pretrained(tmp_path / "model")
    sigma = clf.record.results["posterior"]["sigma"]
    assert sigma > 0
    assert f"- sigma: {sigma:.4g}" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("polar", "scalabl"), "no-free-factor"),
        (("polar:constraint=landing", "clora"), "second-gate"),
        (("lora", "swag:num_snapshots=3"), "too-short"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_anything_is_written(bert, tmp_path, options, code):
    clf = new(bert, *options)
    with refused(code):
        clf.fit(toy_rows(24), epochs=1, batch_size=12, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_missing_package_is_said_before_the_backbone_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(ivon, "find_spec", lambda name: None)
    clf = new(str(tmp_path / "no-backbone"), "lora", "ivon")
    with refused("missing", "bayeslora[ivon]"):
        clf.fit(toy_rows(24), out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_saved_ivon_model_predicts_without_the_package(bert, tmp_path, monkeypatch):
    clf = fitted(bert, "lora:r=2", "ivon:num_samples=2")
    clf.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(ivon, "find_spec", lambda name: None)
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


def test_an_interrupted_fit_goes_on_in_its_directory(bert, tmp_path, monkeypatch, caplog):
    from bayeslora.posteriors.weights.swag import SWAGWeights

    collect = SWAGWeights.collect
    seen = []

    def dying(self):
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        collect(self)

    options = {"epochs": 4, "batch_size": 8, "out": tmp_path / "model"}
    with monkeypatch.context() as patch:
        patch.setattr(SWAGWeights, "collect", dying)
        with pytest.raises(KeyboardInterrupt):
            new(bert, "lora:r=2", "swag").fit(toy_rows(24), **options)
    clf = new(bert, "lora:r=2", "swag").fit(toy_rows(24), **options)
    whole = new(bert, "lora:r=2", "swag").fit(toy_rows(24), epochs=4, batch_size=8)
    assert same(clf.predict(TEST), whole.predict(TEST))
    record = json.loads((tmp_path / "model" / "bayeslora.json").read_text())
    assert record["results"]["posterior"]["num_snapshots"] == 6


def test_validation_rows_that_choose_nothing_are_said(bert, caplog):
    with caplog.at_level(logging.WARNING):
        fitted(bert, "lora:r=2", "swag")
    assert "validation rows do not choose one" in caplog.text


@pytest.mark.parametrize("adapter", ["lora:r=2", "polar:r=2", "polar:constraint=landing,r=2"])
def test_a_gated_adapter_comes_back_whole(bert, tmp_path, adapter):
    """The mean pass has the gate too, so it must come back for `num_samples=0` as well."""
    adapter += ",absorb_every=0" if "landing" in adapter else ""
    clf = fitted(bert, adapter, "clora:num_samples=2,num_hidden=5")
    clf.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert same(again.predict(TEST), clf.predict(TEST))
    assert same(again.predict(TEST, num_samples=0), clf.predict(TEST, num_samples=0))
    weights = clf.network.weights
    assert again.network.weights.report() == weights.report()
    for gate in weights.gates:
        gate.output.bias.data += 0.5
    mean = clf.predict(TEST, num_samples=0)
    assert not np.array_equal(mean.probs, again.predict(TEST, num_samples=0).probs)


def test_a_batch_does_not_change_what_a_draw_says_of_a_text(bert):
    """Only the rounding of float32 sums over other batches differs."""
    clf = fitted(bert, "lora:r=2", "clora:initial_std=0.5")
    together = clf.predict(TEST)
    alone = [clf.predict([row]).probs[0] for row in TEST]
    np.testing.assert_allclose(together.probs, alone, atol=1e-6)
    assert float(together.epistemic.max()) > 0


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
