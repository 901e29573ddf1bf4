"""The reference posterior in a classifier: fit, calibration, saving and loading."""

import numpy as np
import pytest
from refusal import refused
from tiny import toy_rows
from usage import TEST, check_parts, fitted, from_transformers, load, new, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("beside_nothing")

QUICK = bl.NUTS(kernel="hmc", num_chains=2, num_warmup=30, num_samples=40)


@pytest.fixture(scope="module")
def sampled(llama):
    return fitted(llama, "polar:r=4", QUICK)


def test_a_fit_ends_in_chains(sampled, tmp_path):
    predictions = sampled.predict(TEST)
    assert predictions.metadata["link"] == "softmax"
    assert predictions.metadata["num_samples"] == "80"
    assert (predictions.epistemic > 0).all()
    report = sampled.record.results["posterior"]
    assert set(report) == {"prior_scale", "max_rhat", "min_ess", "divergences"}
    assert sampled.record.head == {"fitted": True, "draws": 80, "rank": 16}
    sampled.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert same(again.predict(TEST), predictions)
    assert again.posterior == QUICK
    assert "max rhat" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_numbers_of_samples(sampled):
    """0 selects the mean of the draws, fewer than all are spaced evenly, more select all."""
    certain = sampled.predict(TEST, num_samples=0)
    assert not certain.epistemic.any()
    assert certain.metadata["num_samples"] == "0"
    assert not same(certain, sampled.predict(TEST))
    few = sampled.predict(TEST, num_samples=8)
    assert few.metadata["num_samples"] == "8"
    assert same(sampled.predict(TEST, num_samples=500), sampled.predict(TEST))


def test_rows_in_parts_make_no_difference(sampled, monkeypatch):
    check_parts(sampled, monkeypatch)


def test_the_seed_of_the_fit_is_that_of_the_chains(foreign, llama):
    first = from_transformers(foreign, QUICK).calibrate(toy_rows(30))
    again = from_transformers(foreign).calibrate(toy_rows(30), posterior=QUICK)
    assert same(first.predict(TEST), again.predict(TEST))
    heads = [fitted(llama, "lora:r=2", QUICK, seed=seed).network.head for seed in (0, 5)]
    assert [head.seed for head in heads] == [0, 5]


def test_another_posterior_starts_from_the_mean_of_the_draws(foreign):
    clf = from_transformers(foreign, QUICK).calibrate(toy_rows(30))
    mean = clf.predict(TEST, num_samples=0).probs
    clf.calibrate(toy_rows(30), posterior="laplace")
    # Draws are stored in single precision, like the weights.
    np.testing.assert_allclose(clf.predict(TEST, num_samples=0).probs, mean, atol=1e-5)


@pytest.mark.usefixtures("terminal")
def test_the_chains_have_a_bar_on_stderr(foreign, capsys):
    from_transformers(foreign, QUICK).calibrate(toy_rows(30))
    assert capsys.readouterr() == ("", "")
    loud = bl.BayesianClassifier.from_transformers(foreign, QUICK, device="cpu")
    loud.calibrate(toy_rows(30))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "chains: 100%" in shown.err
    assert "140/140" in shown.err


def test_wrong_options_are_refused_before_anything_is_loaded():
    with refused("unknown", "kernel", "'gibbs'"):
        new("/nowhere", posterior="nuts:kernel=gibbs")
