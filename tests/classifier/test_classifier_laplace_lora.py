"""Laplace over adapter weights, end to end."""

import numpy as np
import pytest
from refusal import refused
from tiny import toy_rows, without_hashes
from usage import TEST, fitted, from_transformers, load, new, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("beside_nothing")

FRESH = toy_rows(24, seed=5)


@pytest.fixture(scope="module")
def lora(bert):
    """Return a classifier that is shared by tests that do not change it."""
    return fitted(bert, "lora:r=2", bl.LaplaceLoRA(prior_precision="marglik"))


def test_an_object_and_its_text_are_the_same_fit(bert, lora):
    second = fitted(bert, "lora:r=2", "laplace_lora:prior_precision=marglik").predict(TEST)
    predictions = lora.predict(TEST)
    assert same(predictions, second)
    assert predictions.name == "lora-laplace_lora"
    assert (predictions.metadata["link"], predictions.metadata["num_samples"]) == ("mc", "1000")
    assert (predictions.epistemic > 0).all()


@pytest.mark.parametrize("link", ["mc", "probit", "bridge"])
def test_every_link_starts_from_the_same_mean(lora, link):
    predictions = lora.predict(TEST, link=link)
    assert predictions.metadata["link"] == link
    np.testing.assert_allclose(predictions.probs.sum(1), 1, atol=1e-12)
    mean = lora.predict(TEST, num_samples=0)
    assert not mean.epistemic.any()
    assert not np.array_equal(predictions.probs, mean.probs)
    assert same(mean, lora.predict(TEST, num_samples=0, seed=9))


@pytest.mark.parametrize("adapter", ["lora:r=2", "polar:r=2"])
@pytest.mark.parametrize("structure", ["kron", "diag", "full"])
def test_a_saved_model_predicts_the_same(bert, tmp_path, adapter, structure):
    clf = fitted(bert, adapter, f"laplace_lora:structure={structure}")
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))
    report = clf.record.results["posterior"]
    assert report["structure"] == structure
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"- prior precision: {report['prior_precision']:.4g}" in card


@pytest.mark.parametrize("before", ["mle", "vbll", "swag:num_samples=2", "laplace_lora"])
def test_it_can_be_fitted_to_a_finished_model_of_ours(bert, tmp_path, before):
    clf = fitted(bert, "polar:r=2", before)
    mean = clf.predict(TEST, num_samples=0)
    clf.calibrate(FRESH, toy_rows(12, seed=6), posterior="laplace_lora")
    # A polished last layer of `vbll` has its mean in float64, a point estimate in float32.
    predictions = clf.predict(TEST, num_samples=0)
    np.testing.assert_allclose(predictions.probs, mean.probs, atol=1e-6 if before == "vbll" else 0)
    assert (clf.predict(TEST).epistemic > 0).all()
    assert clf.validation_scores is not None
    clf.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert same(again.predict(TEST), clf.predict(TEST))
    # Refitting to the same rows changes nothing.
    again.calibrate(FRESH, toy_rows(12, seed=6))
    assert same(again.predict(TEST), clf.predict(TEST))


def test_calibrating_where_the_fit_was_gives_the_fit(bert):
    clf = fitted(bert, "lora:r=2", "laplace_lora")
    expected = clf.predict(TEST)
    clf.calibrate(toy_rows(24), toy_rows(12, seed=1))
    assert same(clf.predict(TEST), expected)


def test_another_posterior_takes_its_place_without_its_tensors(bert, lora, tmp_path):
    lora.save_pretrained(tmp_path / "model")
    clf = load(tmp_path / "model").calibrate(FRESH, posterior="laplace")
    assert clf.predict(TEST).name == "lora-laplace"
    clf.save_pretrained(tmp_path / "other")
    assert same(load(tmp_path / "other").predict(TEST), clf.predict(TEST))


def test_a_classifier_from_elsewhere_has_no_such_weights(foreign):
    with refused("no-adapter"):
        from_transformers(foreign, "laplace_lora")
    clf = from_transformers(foreign, "mle")
    with refused("no-adapter"):
        clf.calibrate(FRESH, posterior="laplace_lora")


def test_an_ensemble_is_refused(bert):
    clf = fitted(bert, "lora:r=2", "ensemble:num_members=2")
    with refused("several-networks"):
        clf.calibrate(FRESH, posterior="laplace_lora")


def test_feature_scores_stand_beside_it(bert, tmp_path):
    clf = new(bert, "lora:r=2", "laplace_lora")
    clf.fit(toy_rows(24), epochs=1, batch_size=8, feature_scores="mahalanobis,unfamiliarity")
    predictions = clf.predict(TEST)
    assert {"mahalanobis", "unfamiliarity", "logit_variance"} <= set(predictions.scores)
    clf.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model").predict(TEST)
    assert np.array_equal(again.scores["unfamiliarity"], predictions.scores["unfamiliarity"])


def test_a_damaged_curvature_is_named(lora, tmp_path):
    from safetensors.torch import load_file, save_file

    lora.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "posterior.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "curvature" in name and "basis" in name)
    del tensors[name]
    save_file(tensors, path)
    without_hashes(tmp_path / "model")
    with refused("damaged", name):
        load(tmp_path / "model")
