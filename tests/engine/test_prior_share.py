"""The share of an answer that comes from the prior mean."""

import pytest
import torch
from tiny import QUICK_VBLL, tiny_llama, toy_rows

from bayeslora.classifier import BayesianClassifier
from bayeslora.engine.final_fit import prior_share


def test_it_is_what_the_prior_means_logits_leave_of_the_logits():
    draw = torch.Generator().manual_seed(0)
    features, mean, prior = (
        torch.randn(shape, generator=draw) for shape in ((30, 5), (3, 5), (3, 5))
    )
    prior = mean + 0.3 * prior
    logits, known = (features @ weight.T for weight in (mean, prior))
    logits, known = (values - values.mean(1, keepdim=True) for values in (logits, known))
    expected = 1 - float((logits - known).square().sum() / logits.square().sum())
    assert prior_share(features, mean, prior) == pytest.approx(expected, abs=1e-6)
    assert 0.01 < expected < 0.99
    # A prior mean that has almost no effect, or the opposite one, is no part of the answer.
    for factor, share in ((1.0, 1.0), (0.5, 0.75), (1e-6, 0.0), (-1.0, 0.0), (2.0, 0.0)):
        assert prior_share(features, mean, factor * mean) == pytest.approx(share, abs=1e-5)
    assert prior_share(features, torch.zeros(3, 5), mean) == 0
    assert prior_share(features, mean, torch.zeros(3, 5)) == 0
    # A shift common to all classes changes no answer.
    assert prior_share(features, mean, mean + torch.ones(3, 5)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("posterior", [QUICK_VBLL, "map", "laplace"])
def test_fits_and_predictions_say_it(posterior, tmp_path):
    llama = tiny_llama(tmp_path / "llama")
    words = {"animals": "dog", "food": "fish", "weather": "wind"}
    options = {"template": "today {text} is", "depth": 1.0, "dtype": "float32"}
    clf = BayesianClassifier(
        llama, "none", posterior, verbaliser=words, progress=False, **options
    ).fit(toy_rows(24))
    share = clf.record.results["posterior"]["prior_share"]
    assert 0 <= share <= 1
    assert float(clf.predict("the cat").metadata["prior_share"]) == pytest.approx(share, abs=5e-4)
    without = BayesianClassifier(
        llama, "none", posterior, verbaliser="none", progress=False, **options
    ).fit(toy_rows(24))
    assert "prior_share" not in without.predict("the cat").metadata
    assert without.record.backbone["verbaliser"] == "none"
