"""Laplace over adapter weights, end to end."""

import numpy as np
import pytest
from tiny import toy_rows
from usage import TEST, fitted, load, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("beside_nothing")

FRESH = toy_rows(24, seed=5)


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
