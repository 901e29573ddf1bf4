"""Few rows, and identical rows: no interval claims certainty."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import SCORES, SET_SCORES
from bayeslora.predictions.record import Predictions

CLASSES = ("a", "b")


def alike(rows, label=0, probs=(0.7, 0.3), **more):
    return Predictions([probs] * rows, CLASSES, [label] * rows, **more)


def wilson_by_scipy(successes, trials):
    ends = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return pytest.approx((ends.low, ends.high), abs=1e-12)


def every(scores):
    yield from scores.values()
    for result in scores.ood.values():
        yield from (score for by_key in result.by_score.values() for score in by_key.values())
    for parts in (*scores.groups.values(), scores.classes):
        yield from (score for part in parts.values() for score in part.scores.values())


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 9, 10, 40])
def test_where_all_are_right_or_all_are_wrong_accuracy_has_wilsons_interval(rows, label):
    scores = evaluate(alike(rows, label), num_resamples=50)
    right = 0 if label else rows
    accuracy = scores["accuracy"]
    assert (accuracy.low, accuracy.high) == wilson_by_scipy(right, rows)
    answered = math.ceil(0.9 * rows)
    at_90 = scores["accuracy_at_90"]
    assert (at_90.low, at_90.high) == wilson_by_scipy(0 if label else answered, answered)


@pytest.mark.parametrize("probs", [(1.0, 0.0), (0.7, 0.3)])
@pytest.mark.parametrize("label", [0, 1])
def test_no_interval_of_rows_that_are_all_alike_is_a_point(probs, label):
    clusters = {"text": [str(k // 2) for k in range(30)], "source": ["x", "y", "y"] * 10}
    inside = alike(30, label, probs, total=np.ones(30), columns=clusters, sets=[[True, False]] * 30)
    outside = {"far": alike(20, probs=(0.5, 0.5), total=np.ones(20))}
    for clustered in (None, "text"):
        scores = evaluate(
            inside,
            ood=outside,
            group_by="source",
            by_class=True,
            cluster_by=clustered,
            num_resamples=60,
        )
        known = {key for key, score in scores.items() if score.has_interval}
        assert known >= {
            key for key, info in {**SCORES, **SET_SCORES}.items() if info.kind != "other"
        }
        for score in filter(lambda score: score.has_interval, every(scores)):
            assert score.high - score.low > 0.01
            assert score.low <= score.value <= score.high


def test_a_mean_of_rows_that_are_all_alike_allows_for_others():
    # none of 30 rows differs: at most Wilson's upper end of the population does
    scores = evaluate(alike(30), num_resamples=50)
    others = binomtest(0, 30).proportion_ci(0.95, method="wilson").high
    brier = scores["brier"]
    assert brier.value == pytest.approx(0.18)
    assert brier.low == pytest.approx((1 - others) * 0.18)
    assert brier.high == pytest.approx((1 - others) * 0.18 + others * 2)
    worst = (1 - others) * -math.log(0.7) + others * -math.log(1e-12)
    assert scores["nll"].high == pytest.approx(worst)


def test_sets_that_do_not_overlap_have_an_auroc_that_is_not_certain():
    inside, outside = alike(400, probs=(0.9, 0.1)), alike(50, probs=(0.5, 0.5))
    far = evaluate(inside, ood={"far": outside}).ood["far"]
    assert far.auroc.value == 1
    assert (far.auroc.low, far.auroc.high) == wilson_by_scipy(50, 50)
    assert (far.fpr95.low, far.fpr95.high) == wilson_by_scipy(0, 50)
    assert far.aupr.low < 0.95


def test_equal_decisions_on_every_row_are_no_proof_of_equal_accuracy():
    ours, theirs = alike(400, name="ours"), alike(400, probs=(0.6, 0.4), name="theirs")
    rows = compare([ours, theirs], num_resamples=50).rows
    change = next(row for row in rows if row.name == "theirs").differences["accuracy"]
    others = binomtest(0, 400).proportion_ci(0.95, method="wilson").high
    assert (change.value, change.low, change.high) == (
        0,
        pytest.approx(-others),
        pytest.approx(others),
    )


@pytest.mark.parametrize(("rows", "confidence"), [(30, 0.98), (100, 0.99), (300, 0.995)])
def test_intervals_of_nearly_faultless_calibrated_rows_hold_the_truth(rows, confidence):
    # The labels are drawn from the stated probabilities, so the true overconfidence is 0 and the
    # true NLL is their entropy; resamples without mistakes know neither.
    generator = np.random.default_rng(0)
    covered = {"overconfidence": 0, "nll": 0, "brier": 0}
    draws = 60
    for _ in range(draws):
        sure = np.clip(generator.normal(confidence, 0.003, rows), 0.95, 0.999)
        probs = np.stack([sure, 1 - sure], axis=1)
        labels = (generator.random(rows) > sure).astype(int)
        scores = evaluate(Predictions(probs, CLASSES, labels.tolist()), num_resamples=100)
        truth = {
            "overconfidence": 0.0,
            "nll": float(-(probs * np.log(probs)).sum(1).mean()),
            "brier": float(2 * (sure * (1 - sure)).mean()),
        }
        widest = max(-scores["overconfidence"].low, scores["overconfidence"].high)
        assert min(scores[key].high for key in ("ece", "aece", "mce")) >= widest
        for key, value in truth.items():
            covered[key] += scores[key].low <= value <= scores[key].high
    # The claim is 95 %; less than 88 % of 60 is beyond chance (p < 0.02).
    assert all(count >= 0.88 * draws for count in covered.values()), covered
