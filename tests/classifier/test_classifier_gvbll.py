"""The generative last layer in a classifier: fitted, calibrated, saved and loaded."""

import numpy as np
import pytest
from tiny import toy_rows
from usage import TEST, fitted, from_transformers, load, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("beside_nothing")


@pytest.fixture(scope="module")
def generative(llama):
    return fitted(llama, "lora:r=2", bl.GVBLL())


def test_a_fit_ends_in_gaussians(generative, tmp_path):
    predictions = generative.predict(TEST)
    assert predictions.metadata["link"] == "closed form"
    assert predictions.metadata["num_samples"] == "200"
    assert (predictions.epistemic > 0).all()
    assert np.isfinite(predictions.scores["log_density"]).all()
    assert set(generative.record.results["posterior"]) == {"shrinkage", "inflation", "label_bound"}
    assert generative.record.head == {"fitted": True, "rank": 16}
    generative.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model").predict(TEST)
    assert same(again, predictions)
    assert np.array_equal(again.scores["log_density"], predictions.scores["log_density"])


def test_the_adapter_trains_as_for_maximum_likelihood(generative, llama):
    """Epoch, adapter and the weights from which another posterior starts equal those of `mle`."""
    plain = fitted(llama, "lora:r=2", "mle")
    first, second = (clf.record.results["history"] for clf in (generative, plain))
    assert first == second
    weights = [clf.network.head.mean_weight for clf in (generative, plain)]
    assert weights[0].tolist() == weights[1].tolist()


def test_numbers_of_samples_do_not_change_the_probabilities(generative):
    """They have a closed form; the draws only split their uncertainty."""
    usual, few, none = (generative.predict(TEST, num_samples=n) for n in (None, 20, 0))
    assert few.metadata["num_samples"] == "20"
    for other in (few, none):
        np.testing.assert_array_equal(other.probs, usual.probs)
        np.testing.assert_array_equal(other.scores["energy"], usual.scores["energy"])
        np.testing.assert_array_equal(other.scores["log_density"], usual.scores["log_density"])
    assert not none.epistemic.any()
    assert (few.epistemic != usual.epistemic).any()


def test_somebody_elses_classifier_is_calibrated_and_given_back(foreign, tmp_path):
    """Features have another scale and a bias column; the next posterior restores the weights."""
    before = from_transformers(foreign, "mle").calibrate(toy_rows(30)).predict(TEST)
    clf = from_transformers(foreign, bl.GVBLL()).calibrate(toy_rows(60), toy_rows(30, seed=2))
    assert clf.validation_scores is not None
    predictions = clf.predict(TEST)
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), predictions)
    alone = from_transformers(foreign, bl.GVBLL()).calibrate(toy_rows(60))
    assert alone.record.results["posterior"]["inflation"] > 0
    clf.calibrate(toy_rows(30), posterior="mle")
    assert "log_density" not in clf.predict(TEST).scores
    np.testing.assert_array_equal(clf.predict(TEST).probs, before.probs)


def test_two_numbers_need_no_validation_data(llama):
    clf = bl.BayesianClassifier(
        llama, "lora:r=2", bl.GVBLL(0.5, 4.0), device="cpu", progress=False, max_length=32
    )
    clf.fit(toy_rows(24), epochs=1, batch_size=8)
    assert clf.record.results["posterior"]["inflation"] == 4


def test_other_scores_go_with_it(foreign):
    clf = from_transformers(foreign, bl.GVBLL())
    clf.calibrate(toy_rows(60), toy_rows(30, seed=2), feature_scores="unfamiliarity,mahalanobis")
    expected = {
        "unfamiliarity",
        "mahalanobis",
        "middle_mahalanobis",
        "log_density",
        "logit_variance",
        "energy",
        "max_logit",
    }
    assert set(clf.predict(TEST).scores) == expected
