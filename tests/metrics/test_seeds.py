"""Intervals over seeds: scipy's t interval, coverage, and scores that do not match."""

import numpy as np
import pytest
from refusal import refused
from scipy import stats

import bayeslora as bl
from bayeslora.metrics.seeds import t_interval
from bayeslora.predictions.record import Predictions


def fitted(seed, rows=100):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(3), size=rows)
    labels = (probs.cumsum(1) > generator.random((rows, 1))).argmax(1)
    columns = {"source": ["x", "y"] * (rows // 2)}
    return Predictions(probs, ("a", "b", "c"), labels, name="m", columns=columns, total=probs[:, 0])


def scored(seed, **options):
    ood = {"far": fitted(seed + 50)}
    return bl.evaluate(
        fitted(seed), ood=ood, group_by="source", by_class=True, num_resamples=5, **options
    )


def test_every_score_has_scipys_t_interval():
    seeds = [scored(seed) for seed in range(4)]
    pooled = bl.over_seeds(seeds)
    values = [scores["nll"].value for scores in seeds]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert pooled["nll"].value == pytest.approx(np.mean(values))
    assert (pooled["nll"].low, pooled["nll"].high) == (pytest.approx(low), pytest.approx(high))
    assert list(pooled) == list(seeds[0])
    assert pooled.intervals == {"level": 0.95, "method": "t over seeds", "num_seeds": 4}
    assert (pooled.bins, pooled.calibration_p, pooled.name) == ((), None, "m")
    auroc = np.mean([scores.ood["far"].auroc.value for scores in seeds])
    assert pooled.ood["far"].auroc.value == pytest.approx(auroc)
    assert set(pooled.groups["source"]) == {"x", "y"}
    assert set(pooled.classes) == {"a", "b", "c"}
    np.testing.assert_array_equal(pooled.confusion, sum(np.array(s.confusion) for s in seeds))


def test_it_holds_the_mean_of_all_seeds_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        score = t_interval(generator.normal(0.3, 0.1, 4).tolist())
        covered += score.low <= 0.3 <= score.high
    # Binomial(1000, .95) has a deviation of 7; four times that
    assert 922 <= covered <= 978


def test_bounds_are_kept_and_equal_seeds_have_no_spread():
    score = t_interval([0.98, 1.0, 0.9], 0.0, 1.0)
    assert score.high == 1.0
    same = t_interval([0.5, 0.5])
    assert (same.low, same.value, same.high) == (0.5, 0.5, 0.5)


def test_scores_that_do_not_belong_together_are_refused():
    with refused("input", "two", "1"):
        bl.over_seeds([scored(0)])
    with refused("input", "num_bins", "15", "10"):
        bl.over_seeds([scored(0), scored(1, num_bins=10)])
