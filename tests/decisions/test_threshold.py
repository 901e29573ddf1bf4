"""Thresholds with a promise: the bound, the guarantee, groups, costs, checks and cascades."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_mapie import CASES, GOLDEN, candidates, rows_of
from refusal import refused
from scipy.stats import binom, binomtest
from simulated import CLASSES, simulated

from bayeslora.decisions.threshold import (
    LEAST_ACCEPTED,
    PERSON,
    Promise,
    Rule,
    cascade,
    check,
    cost_rule,
    curve,
    fit_rule,
    promise,
    upper_bound,
)


@given(st.integers(1, 300), st.data(), st.floats(0.5, 0.999))
def test_the_bound_is_that_of_an_exact_binomial_test(count, data, confidence):
    errors = data.draw(st.integers(0, count))
    reference = binomtest(errors, count, alternative="less").proportion_ci(confidence, "exact")
    assert upper_bound(errors, count, confidence) == pytest.approx(reference.high, abs=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 400), st.floats(0.01, 0.5), st.integers(1, 30))
def test_accepted_rows_are_those_at_or_above_the_threshold(seed, rows, risk, distinct):
    generator = np.random.default_rng(seed)
    scores = 0.5 + generator.integers(0, distinct, rows) / (2 * distinct)  # with ties
    losses = generator.random(rows) > scores
    made = promise(scores, losses, risk, 0.9)
    if made.threshold is None:
        assert made == Promise(None, rows)
        return
    accepted = scores >= made.threshold
    assert (made.accepted, made.errors) == (accepted.sum(), losses[accepted].sum())
    assert made.accepted >= LEAST_ACCEPTED
    assert made.bound <= risk + 1e-12


@pytest.mark.parametrize("name", CASES)
def test_mapie_takes_the_same_threshold(name):
    """MAPIE 1.6.0, given the candidates in the order of their tests; see `record_mapie.py`."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    *_, risk, confidence = CASES[name]
    scores, losses = rows_of(name)
    assert promise(scores, losses, risk, confidence).threshold == golden["threshold"]
    thresholds = candidates(scores, risk, confidence)
    accepted = [scores >= threshold for threshold in thresholds]
    bounds = [upper_bound(int(losses[part].sum()), part.sum(), confidence) for part in accepted]
    np.testing.assert_array_equal(np.array(bounds) <= risk, np.array(golden["p"]) <= 1 - confidence)


def test_labels_below_the_first_failure_change_nothing():
    # The sequence stops there: what lies below cannot bring the threshold down again.
    scores = np.linspace(0.99, 0.5, 500)
    losses = np.zeros(500, dtype=bool)
    losses[200:240] = True
    made = promise(scores, losses, 0.05, 0.95)
    assert made == promise(scores, losses | (scores < scores[240]), 0.05, 0.95)
    assert made.accepted < 240


@pytest.mark.parametrize("sharp", [0.7, 1.0, 1.6])
def test_the_promise_is_broken_as_rarely_as_it_says(sharp):
    # A miss of its level of .1 in 400 sets by more than chance would need over 53 broken promises.
    def risk_from(threshold):
        new = simulated(40_000, 12345, None, sharp)
        chosen = new.confidence >= threshold
        return (new.prediction[chosen] != new.labels[chosen]).mean()

    sets = (simulated(500, seed, None, sharp) for seed in range(400))
    made = [fit_rule(rows, 0.08, confidence=0.9).promises[""].threshold for rows in sets]
    thresholds = [each for each in made if each is not None]
    assert len(thresholds) > 300
    broken = sum(risk_from(each) > 0.08 for each in thresholds)
    assert broken <= binom.ppf(0.99, 400, 0.1)


def test_groups_have_promises_of_their_own():
    rows = simulated(2000, columns={"team": ["x", "y"] * 1000})
    rule = fit_rule(rows, 0.1, by="team")
    assert {*rule.promises} == {"x", "y"}
    part = rows.take(np.arange(0, 2000, 2))
    assert rule.promises["x"] == fit_rule(part, 0.1).promises[""]
    by_class = fit_rule(rows, 0.1, by="prediction")
    assert {*by_class.promises} == {*CLASSES}
    other = simulated(50, 9, "new-", columns={"team": ["z"] * 50})
    assert set(rule.apply(other).columns["decision"]) == {PERSON}  # nothing is promised of z


def test_decisions_are_classes_or_a_person():
    rows = simulated(2000)
    rule = fit_rule(rows, 0.1)
    decisions = rule.apply(rows).columns["decision"]
    automated = rows.confidence >= rule.promises[""].threshold
    names = np.array(CLASSES)[rows.prediction]
    assert (decisions == np.where(automated, names, PERSON)).all()


def test_costs_choose_the_least_expected_cost():
    rows = simulated(300)
    rule = cost_rule({"person": 0.3, "costs": {"a": {"b": 4.0}}}, CLASSES)
    costs = 1 - np.eye(3)
    costs[0, 1] = 4
    expected = rows.probs @ costs
    decisions = rule.apply(rows).columns["decision"]
    best = np.array(CLASSES)[expected.argmin(1)]
    assert (decisions == np.where(expected.min(1) <= 0.3, best, PERSON)).all()


@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"person": -1},
        {"person": "much"},
        {"person": 1, "else": 2},
        {"person": 1, "costs": 3},
        {"person": 1, "costs": {"a": {"d": 1}}},
        {"person": 1, "costs": {"a": {"b": float("inf")}}},
    ],
)
def test_wrong_costs_are_refused(costs):
    with refused("input"):
        cost_rule(costs, CLASSES)


@pytest.mark.parametrize("options", [{"risk": 0}, {"risk": 1.5}, {"risk": 0.1, "confidence": 1}])
def test_wrong_risks_are_refused(options):
    with refused("input", *list(options)[-1:]):
        fit_rule(simulated(50), **options)


def test_missing_labels_and_columns_are_refused():
    with refused("input"):
        fit_rule(simulated(50).replace(labels=None), 0.1)
    with refused("input", "team"):
        fit_rule(simulated(50), 0.1, by="team")
    empty = simulated(50).replace(columns={"team": np.full(50, None)})
    with refused("input", "team"):
        fit_rule(empty, 0.1, by="team")


@pytest.mark.parametrize("by", ["", "prediction"])
def test_rows_of_a_cluster_count_once(by):
    # Of 60 clusters of ten copies, the errors of a cluster are no ten observations.
    rows = simulated(60)
    copies = rows.replace(ids=None, columns={"state": np.array(rows.ids)})
    copies = copies.take(np.tile(np.arange(60), 10))
    assert (
        fit_rule(copies, 0.2, by=by, cluster_by="state").promises
        == fit_rule(rows, 0.2, by=by).promises
    )
    rule = fit_rule(rows, 0.2, cluster_by="")
    assert check(replace(rule, cluster_by="state"), copies) == check(rule, rows)


def test_the_check_is_an_exact_binomial_test():
    rule = Rule(risk=0.05, promises={"": Promise(0.8, 500, 300, 5, 0.04)})
    rows = simulated(900, 3)
    result = check(rule, rows)
    taken = rows.confidence >= 0.8
    wrong = int((rows.prediction != rows.labels)[taken].sum())
    reference = binomtest(wrong, int(taken.sum()), 0.05, alternative="greater").pvalue
    assert result.p == pytest.approx(reference, rel=1e-9)
    assert (result.accepted, result.errors) == (taken.sum(), wrong)
    assert check(rule, rows.take(np.flatnonzero(rows.confidence < 0.8))).holds  # nothing automated


def test_a_cascade_loses_at_most_its_risk():
    first, second = simulated(3000), simulated(3000)
    perfect = np.eye(3)[second.labels]
    second = second.with_probs(perfect)
    result = cascade(first, second, 0.02, (1.0, 20.0))
    taken = first.confidence >= result.threshold
    losses = taken & (first.prediction != first.labels)
    assert (result.accepted, result.losses) == (taken.sum(), losses.sum())
    assert upper_bound(result.losses, 3000, 0.95) <= 0.02
    assert result.accuracy[2] == pytest.approx(1 - losses.mean())
    assert result.cost == pytest.approx(1 + 20 * (~taken).mean())
    with refused("input"):
        cascade(first, simulated(3000, prefix="x"), 0.02, (1.0, 20.0))
    with refused("input", "labels"):
        cascade(first, second.replace(labels=(second.labels + 1) % 3), 0.02, (1.0, 20.0))
    for options in ((2, (1.0, 20.0)), (0.02, (-1.0, 2.0)), (0.02, (1.0, 2.0), 1.5)):
        with refused("input"):
            cascade(first, second, *options)
    assert cascade(first, second, 1e-6, (1.0, 20.0)).cost == 20


def test_the_curve_ends_with_every_row():
    rows = simulated(400)
    wrong = rows.prediction != rows.labels
    points = curve(rows.confidence, wrong)
    assert (points[-1].accepted, points[-1].errors) == (400, wrong.sum())
    assert [point.accepted for point in points] == sorted(point.accepted for point in points)
