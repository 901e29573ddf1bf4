"""TFB on trained adapters, its intended use."""

import numpy as np
import pytest
from tiny import QUICK_VBLL, toy_rows
from usage import TEST, fitted, load, same

pytestmark = pytest.mark.usefixtures("beside_nothing")

FRESH, HELD = toy_rows(24, seed=5), toy_rows(12, seed=6)
QUICK = "tfb:num_samples=3,num_search_samples=2,num_steps=3"


@pytest.mark.parametrize(
    ("adapter", "before"),
    [
        ("lora:r=2", "mle"),
        ("lora:r=2", QUICK),
        ("polar:r=2", QUICK_VBLL),
        ("polar:r=2", "laplace"),
    ],
)
def test_it_is_fitted_to_a_finished_model_of_ours(bert, tmp_path, adapter, before):
    clf = fitted(bert, adapter, before)
    mean = clf.predict(TEST, num_samples=0)
    clf.calibrate(FRESH, HELD, posterior=QUICK)
    # The factors are rotated and their product stays; a last layer in float64 becomes float32.
    np.testing.assert_allclose(clf.predict(TEST, num_samples=0).probs, mean.probs, atol=2e-6)
    predictions = clf.predict(TEST)
    assert (predictions.epistemic > 0).any()
    assert predictions.metadata["num_samples"] == "3"
    assert clf.record.results["posterior"]["sigma"] > 0
    assert clf.validation_scores is not None
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), predictions)


def test_the_rows_of_the_fit_give_the_sigma_of_the_fit(bert):
    """The search is the same, over the same anchors and noise."""
    whole = fitted(bert, "lora:r=2", QUICK)
    rows = toy_rows(24)
    after = fitted(bert, "lora:r=2", "mle").calibrate(rows, posterior=QUICK)
    sigmas = [clf.record.results["posterior"]["sigma"] for clf in (whole, after)]
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-6)
