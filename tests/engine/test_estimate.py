"""Time estimates of long work, and the family that `auto` chooses."""

import numpy as np
import pytest
from tiny import tiny_llama, toy_rows

import bayeslora as bl
from bayeslora import VBLL
from bayeslora.engine.training.final_fit import duration
from bayeslora.engine.training_options import TrainingSettings


def test_small_problems_stay_dense_and_400_classes_do_not():
    for sizes in ((2, 576, 640), (8, 576, 640), (20, 384, 1000), (77, 384, 1000)):
        assert VBLL().sized(*sizes).covariance == "dense"
    assert VBLL().sized(77, 576, 640).covariance == "dense"
    assert VBLL().sized(400, 384, 2000).covariance == "eigenbasis"
    # Few rows make a dense fit cheap, but not small.
    assert VBLL().sized(400, 576, 300).covariance == "eigenbasis"
    for family in ("dense", "diagonal"):
        assert VBLL(covariance=family).sized(400, 384, 2000).covariance == family


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (89, "89 s"), (436, "7 min"), (9000, "2 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("models") / "llama"))


def fit(llama, posterior="vbll", **options):
    clf = bl.BayesianClassifier(
        llama, "lora:r=2", posterior, device="cpu", max_length=16, **options
    )
    return clf.fit(toy_rows(12), toy_rows(6, seed=1), epochs=2, batch_size=4)


def test_a_fit_says_its_steps_before_it_starts(llama, caplog):
    caplog.set_level("INFO", "bayeslora.engine.training.loop")
    fit(llama, "mle")
    steps = TrainingSettings(2, batch_size=4).num_steps(12)
    assert f"12 rows, 2 epochs at most of 3 steps: {steps} steps" in caplog.text


def test_auto_is_settled_before_the_fit_and_kept_with_the_model(
    llama, tmp_path, monkeypatch, caplog
):
    options = {"progress": False}
    dense = fit(llama, **options)
    assert dense.record.posterior["covariance"] == "dense"
    assert np.array_equal(
        fit(llama, "vbll:covariance=dense", **options).predict(toy_rows(5)).probs,
        dense.predict(toy_rows(5)).probs,
    )
    assert "covariance" not in caplog.text
    monkeypatch.setattr("bayeslora.posteriors.last_layer.vbll.options.LARGEST_ROUND", 0)
    assert fit(llama, "vbll:covariance=dense", **options).record.posterior == dense.record.posterior
    assert "vbll:covariance=dense" not in caplog.text
    clf = fit(llama, **options)
    assert clf.record.posterior["covariance"] == "eigenbasis"
    assert "vbll:covariance=dense" in caplog.text
    clf.save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    loaded = bl.BayesianClassifier.from_pretrained(tmp_path / "model", **options)
    assert np.array_equal(loaded.predict(toy_rows(5)).probs, clf.predict(toy_rows(5)).probs)
