"""Detection averaged over sets: means of the sets' scores, and what is refused."""

import numpy as np
import pytest
from refusal import refused

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.record import Predictions


def rows(seed, size, **parts):
    probs = np.random.default_rng(seed).dirichlet(np.full(3, 1 + seed), size=size)
    return Predictions(probs, ("a", "b", "c"), **parts)


SETS = {"one": rows(1, 40), "two": rows(2, 90), "three": rows(3, 30, scores={"mine": np.ones(30)})}


def test_a_group_is_the_mean_over_its_sets():
    result = evaluate(rows(0, 80), SETS, near=["one", "two"], far="three", num_resamples=300)
    near = result.ood_groups["near"]
    assert near.sets == ("one", "two")
    assert near.score == "max_probability"
    for score, scores in near.by_score.items():
        for key, mean in scores.items():
            single = [result.ood[name].by_score[score][key] for name in near.sets]
            assert mean.value == pytest.approx(np.mean([score.value for score in single]))
            # the sets share their in-distribution rows, so the mean is hardly more precise
            widest = max(score.high - score.low for score in single)
            assert mean.low < mean.value < mean.high
            assert mean.high - mean.low < 1.05 * widest
    far = result.ood_groups["far"]
    assert far.scores["auroc"].value == result.ood["three"].auroc.value
    assert far.scores["aupr_in"].value == result.ood["three"].aupr_in.value
    assert list(evaluate(rows(0, 80), SETS, num_resamples=2).ood_groups) == []


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"near": "on"}, ("unknown", "'on'", "'one'")),
        ({"near": "one", "far": ["two", "one"]}, ("input", "'one'")),
    ],
)
def test_wrong_groups_are_refused(options, refusal):
    with refused(*refusal):
        evaluate(rows(0, 80), SETS, **options)
