"""Models predict as they did when they were saved.

`stored_models` has a model for each method, fitted to `toy_rows` and saved with its predictions;
`tiny-llama` is their backbone, with random weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
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


def test_there_is_one_of_every_posterior_of_that_day():
    assert {name.split("-")[1] for name in MODELS} == set(POSTERIORS) - {"prototypes"}
