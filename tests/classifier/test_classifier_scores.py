"""Out-of-distribution scores of a classifier: in its predictions, on disk, through calibration."""

import numpy as np
import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import toy_rows
from usage import TEST, fitted, from_transformers, load, new, same

import bayeslora as bl
from bayeslora.engine.calibrate import prepare_rows
from bayeslora.engine.data import columns_of
from bayeslora.posteriors.feature_scores import FEATURE_SCORES

pytestmark = pytest.mark.usefixtures("few_resamples")

ALWAYS = {"logit_variance", "energy", "max_logit"}
USUAL = ("mahalanobis", "middle_mahalanobis", "unfamiliarity")
EVERY = ",".join(FEATURE_SCORES)


@pytest.fixture(scope="module")
def scored(llama):
    clf = new(llama)
    return clf.fit(toy_rows(24), toy_rows(12, seed=1), epochs=1, batch_size=8, feature_scores=EVERY)


def test_a_fit_leaves_its_scores_in_predictions_and_on_disk(scored, tmp_path):
    predictions = scored.predict(TEST)
    assert set(predictions.scores) == ALWAYS | set(FEATURE_SCORES)
    assert list(scored.record.feature_scores) == list(FEATURE_SCORES)
    assert scored.record.feature_scores["unfamiliarity"] == {}
    assert scored.record.feature_scores["knn"] == {"rows": 24, "neighbour": 10}
    scored.save_pretrained(tmp_path / "model")
    names = load_file(tmp_path / "model" / "posterior.safetensors")
    assert "scores.mahalanobis.classes.means" in names
    again = load(tmp_path / "model").predict(TEST)
    assert same(again, predictions)
    for name, values in predictions.scores.items():
        np.testing.assert_array_equal(again.scores[name], values)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "score unfamiliarity\n" in card
    assert "score knn: rows 24" in card
    predictions.save(tmp_path / "p.parquet")
    assert set(bl.Predictions.load(tmp_path / "p.parquet").scores) == set(predictions.scores)


def test_the_distance_of_the_features_is_there_unless_told_otherwise(llama, foreign, scored):
    usual = fitted(llama)
    assert list(usual.record.feature_scores) == list(USUAL)
    predictions, expected = (clf.predict(TEST) for clf in (usual, scored))
    for name in USUAL:
        np.testing.assert_array_equal(predictions.scores[name], expected.scores[name])
    weights = {"mahalanobis": 0.75, "middle_mahalanobis": 0.25, "max_probability": 0.25}
    combined = sum(
        weight * np.log(predictions.uncertainty(name)) for name, weight in weights.items()
    )
    np.testing.assert_allclose(predictions.scores["unfamiliarity"], combined, rtol=1e-9)
    calibrated = from_transformers(foreign).calibrate(toy_rows(30))
    assert list(calibrated.record.feature_scores) == list(USUAL)


def test_energy_and_highest_logit_of_the_mean_without_its_shift(foreign):
    clf = from_transformers(foreign).calibrate(toy_rows(30))
    network = clf.network
    texts = prepare_rows(clf.network, bl_rows(clf, TEST))
    with torch.no_grad():
        features = network.scaled(network.encoder.features(texts)).values.double()
    logits = (features @ network.head.mean_weight.double().T).numpy()
    logits -= logits.mean(1, keepdims=True)
    scores = clf.predict(TEST).scores
    np.testing.assert_allclose(scores["max_logit"], -logits.max(1), atol=1e-6)
    np.testing.assert_allclose(scores["energy"], -np.log(np.exp(logits).sum(1)), atol=1e-6)


def bl_rows(clf, rows):
    from bayeslora.data.read import read

    return read(rows, columns_of(clf.record))


def test_what_cannot_be_had_is_refused_before_anything_is_loaded(foreign):
    rows = toy_rows(6)
    with refused("unknown", "'novelty'"):
        new("/nowhere").fit(rows, feature_scores="novelty")
    with refused("several-networks", "'ensemble'"):
        new("/nowhere", "lora", "ensemble").fit(rows, feature_scores="knn")
