"""Posteriors over adapter weights, end to end."""

import numpy as np
import pytest
from refusal import refused
from tiny import tiny_albert, toy_rows
from usage import TEST, fitted, load, new, same

pytestmark = pytest.mark.usefixtures("beside_nothing")

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
