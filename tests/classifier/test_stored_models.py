"""Models of an older version predict as they did when they were saved.

`stored_models` has a model for each method, fitted to `toy_rows` by commit 40a1510 and saved with
its predictions; `tiny-llama` is their backbone, with random weights.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import toy_rows

import bayeslora as bl
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.posteriors.registry import POSTERIORS

STORED = Path(__file__).parents[1] / "stored_models"
MODELS = sorted(path.parent.name for path in STORED.glob("*/expected.json"))


@pytest.mark.parametrize("name", [name for name in MODELS if name.split("-")[0] in ADAPTERS])
def test_predictions_are_those_of_the_day_it_was_saved(name):
    backbone = str(STORED / "tiny-llama")
    clf = bl.BayesianClassifier.from_pretrained(STORED / name, backbone=backbone, progress=False)
    predictions = clf.predict(toy_rows(6, seed=2))
    expected = json.loads((STORED / name / "expected.json").read_text(encoding="utf-8"))
    # Single precision, and other processors sum in another order.
    for key in ("probs", "epistemic"):
        np.testing.assert_allclose(getattr(predictions, key), expected.pop(key), atol=1e-6)
    for key, values in expected.items():
        np.testing.assert_allclose(predictions.scores[key], values, rtol=1e-4, atol=1e-5)


def test_a_record_with_an_option_that_only_trained_loads(tmp_path):
    """PoLAR once recorded how its factors were initialised."""
    shutil.copytree(STORED / "polar-vbll", tmp_path / "model")
    path = tmp_path / "model" / "bayeslora.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["adapter"]["init"] = "random"
    path.write_text(json.dumps(record), encoding="utf-8")
    backbone = str(STORED / "tiny-llama")
    clf = bl.BayesianClassifier.from_pretrained(
        tmp_path / "model", backbone=backbone, progress=False
    )
    assert clf.predict(toy_rows(6, seed=2)).probs.shape == (6, 3)


@pytest.mark.parametrize("covariance", ["dense", "low_rank"])
def test_a_trained_covariance_of_another_shape_is_its_deviations(covariance, tmp_path):
    """The head of VBLL was once trained with covariances that are not diagonal."""
    shutil.copytree(STORED / "polar-vbll", tmp_path / "model")
    path, place = (
        tmp_path / "model" / "bayeslora.json",
        tmp_path / "model" / "posterior.safetensors",
    )
    record = json.loads(path.read_text(encoding="utf-8"))
    record["posterior"]["training_covariance"] = covariance
    tensors = load_file(place)
    if covariance == "dense":
        tensors["head.spread"] = torch.diag_embed(tensors["head.spread"])
    else:
        tensors["head.factor"] = torch.ones(*tensors["head.spread"].shape, 2)
    save_file(tensors, place)
    record.pop("files", None)
    path.write_text(json.dumps(record), encoding="utf-8")
    backbone, rows = str(STORED / "tiny-llama"), toy_rows(6, seed=2)
    clf = bl.BayesianClassifier.from_pretrained(
        tmp_path / "model", backbone=backbone, progress=False
    )
    expected = json.loads((STORED / "polar-vbll" / "expected.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(clf.predict(rows).probs, expected["probs"], atol=1e-6)
    clf.save_pretrained(tmp_path / "again")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "again", progress=False)
    assert (again.predict(rows).probs == clf.predict(rows).probs).all()


def test_there_is_one_of_every_posterior_of_that_day():
    assert {name.split("-")[1] for name in MODELS} == set(POSTERIORS) - {"prototypes"}
