"""Comparisons of methods fitted with several seeds, and of more than the four default scores."""

import numpy as np
import pytest
from scipy import stats

from bayeslora.metrics.compare import COMPARED, compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import SCORE_KEYS
from bayeslora.metrics.seeds import over_seeds, welch_interval
from bayeslora.predictions.record import Predictions

CLOSE = 1e-12  # sums of a few hundred numbers below 10


def fit(name, seed, rows=80, noise=0.5, **parts):
    generator = np.random.default_rng([len(name), seed])
    labels = np.random.default_rng(9).integers(3, size=rows)
    logits = noise * generator.normal(size=(rows, 3))
    logits[np.arange(rows), labels] += 1.0
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    notes = {"fit_seed": str(seed)}
    return Predictions(probs, ("a", "b", "c"), labels, name=name, metadata=notes, **parts)


def test_fits_of_one_method_are_one_row_with_the_means_of_over_seeds():
    files = [fit("x", 0), fit("yy", 0, noise=1.5), fit("x", 1), fit("yy", 1, noise=1.5)]
    result = compare(files, num_permutations=9)
    assert [(row.name, row.seeds) for row in result.rows] == [("x", ("0", "1")), ("yy", ("0", "1"))]
    for row in result.rows:
        pooled = over_seeds(
            [evaluate(file, num_resamples=1) for file in files if file.name == row.name]
        )
        for key in COMPARED:
            for end in ("value", "low", "high"):
                own = getattr(pooled[key], end)
                assert getattr(row.scores[key], end) == pytest.approx(own, abs=CLOSE)
    assert result.intervals_over == "seeds"
    assert result.same_seeds


def nll(predictions):
    return evaluate(predictions, num_resamples=1)["nll"].value


def test_differences_are_paired_by_seed_where_the_seeds_are_the_same():
    ours, theirs = ([fit(name, seed) for seed in range(3)] for name in ("yy", "x"))
    row = next(row for row in compare([*theirs, *ours], num_permutations=0).rows if row.p == {})
    by_name = {row.name: row for row in compare([*theirs, *ours], num_permutations=0).rows}
    values = [[nll(predictions) for predictions in fits] for fits in (ours, theirs)]
    apart = stats.ttest_rel(*values).confidence_interval(0.95)
    difference = by_name["yy"].differences["nll"]
    assert (difference.low, difference.high) == pytest.approx((apart.low, apart.high), abs=1e-9)
    assert row.seeds == ("0", "1", "2")


def test_differences_of_other_seeds_are_welchs():
    ours, theirs = [fit("yy", s) for s in (3, 4)], [fit("x", s) for s in range(3)]
    by_name = {row.name: row for row in compare([*theirs, *ours], num_permutations=0).rows}
    values = [[nll(predictions) for predictions in fits] for fits in (ours, theirs)]
    apart = stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    score = by_name["yy"].differences["nll"]
    assert (score.low, score.high) == pytest.approx((apart.low, apart.high), abs=1e-9)
    assert welch_interval([1.0, 1.0], [0.5, 0.5]).high == 0.5


def test_seeds_of_one_method_alone_are_compared_with_each_other():
    result = compare([fit("x", 0), fit("x", 1)], num_resamples=9, num_permutations=9)
    assert {row.name for row in result.rows} == {"x (seed 0)", "x (seed 1)"}
    files = [fit("x", 0), fit("x", 1), fit("yy", 0)]
    apart = compare(files, over_seeds=False, num_resamples=9, num_permutations=9)
    assert {row.name for row in apart.rows} == {"x (seed 0)", "x (seed 1)", "yy"}


def test_scores_computed_anew_have_the_p_values_of_the_short_way():
    """Brier's reliability forces the long way, over the rows of both methods at once."""
    files = [fit("x", 0, noise=1.5), fit("yy", 0)]
    every = compare(files, scores=SCORE_KEYS, num_resamples=20, num_permutations=99)
    usual = compare(files, num_resamples=20, num_permutations=99)
    assert every.keys == SCORE_KEYS
    for row, same in zip(every.rows, usual.rows, strict=True):
        assert {key: row.p[key] for key in COMPARED if row.p} == same.p
    apart = dict(zip(("x", "yy"), (evaluate(file, num_resamples=1) for file in files), strict=True))
    row = next(row for row in every.rows if row.name == "yy")
    for key in SCORE_KEYS:
        gap = apart["yy"][key].value - apart["x"][key].value
        assert row.differences[key].value == pytest.approx(gap, abs=1e-9)
    same = [fit("x", 0), fit("x", 0).replace(name="twin")]
    twin = compare(same, scores=("aece", "aurc"), num_resamples=9, num_permutations=19).rows[1]
    assert twin.p == {"aece": 1.0, "aurc": 1.0}


def test_a_difference_is_clear_where_interval_and_corrected_p_say_so():
    good, bad = fit("x", 0, noise=0.1), fit("yy", 0, noise=3.0)
    rows = {row.name: row for row in compare([good, bad], num_resamples=50).rows}
    assert rows["yy"].is_clear("nll")
    assert not rows["x"].is_clear("nll")
    few = compare([good, bad], num_resamples=50, num_permutations=9).rows[1]
    assert few.p_holm["nll"] == 0.1
    assert few.differences["nll"].low > 0
    assert not few.is_clear("nll")
