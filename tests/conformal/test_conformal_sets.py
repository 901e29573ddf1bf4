"""Conformal sets: their scores by hand and by loop, their laws, and invalid inputs."""

import logging

import numpy as np
import pytest
from drawn_rows import covered, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

import bayeslora as bl
from bayeslora.conformal import CONFORMAL, adaptive_scores, build

METHODS = [*CONFORMAL, "aps:randomised=false", "raps:randomised=false,penalty=0.1"]
METHODS += [f"{name}{',' if ':' in name else ':'}classwise=true" for name in METHODS]


def slow_scores(probs, part, penalty, k_reg):
    """Return the scores of a row, class by class, as defined in the papers."""
    scores = np.empty(len(probs))
    for c, own in enumerate(probs):
        above = [d for d in range(len(probs)) if probs[d] > own or (probs[d] == own and d < c)]
        place = len(above) + 1
        scores[c] = probs[above].sum() + part * own + penalty * max(0, place - k_reg)
    return scores


@pytest.mark.parametrize(("penalty", "k_reg"), [(0.0, 0), (0.3, 1), (0.05, 3)])
def test_scores_are_those_of_the_papers(penalty, k_reg):
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.full(5, 0.4), size=40)
    probs[0] = 0.2
    parts = generator.random((40, 1))
    expected = [slow_scores(p, u, penalty, k_reg) for p, u in zip(probs, parts[:, 0], strict=True)]
    # Sums of five numbers in another order.
    np.testing.assert_allclose(adaptive_scores(probs, parts, penalty, k_reg), expected, atol=1e-14)


def test_lac_by_hand():
    """Nine rows with label probabilities .1 … .9: 1 − alpha = .8 takes the 8th score, 1 − .2."""
    own = np.arange(1, 10) / 10
    fit = bl.Predictions(np.column_stack([own, 1 - own]), ("a", "b"), np.zeros(9, dtype=int))
    apply = bl.Predictions([[0.15, 0.85], [0.25, 0.75], [0.5, 0.5]], ("a", "b"))
    predictor = bl.LAC(alpha=0.2).fit(fit)
    np.testing.assert_allclose(predictor.thresholds, 0.8)
    assert predictor.apply(apply).sets.tolist() == [[False, True], [True, True], [True, True]]


def test_plain_aps_takes_classes_until_their_total_exceeds_the_threshold():
    fit, apply = drawn(), drawn(seed=1)
    predictor = bl.APS(alpha=0.2, randomised=False).fit(fit)
    threshold = predictor.thresholds[0]
    for row, chosen in zip(apply.probs, predictor.apply(apply).sets, strict=True):
        order = np.argsort(-row)
        needed = int(np.argmax(np.cumsum(row[order]) > threshold)) + 1
        assert set(np.flatnonzero(chosen)) == set(order[:needed])


def test_without_a_penalty_raps_is_aps():
    fit, apply = drawn(), drawn(seed=1)
    for options in ({}, {"randomised": False}, {"classwise": True, "seed": 3}):
        aps = bl.APS(**options).fit(fit).apply(apply)
        for free in ({"penalty": 0.0}, {"k_reg": 4}):
            raps = bl.RAPS(**{**options, **free}).fit(fit).apply(apply)
            np.testing.assert_array_equal(raps.sets, aps.sets)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 500))
@settings(max_examples=8, deadline=None)
def test_neither_the_order_of_rows_nor_that_of_classes_matters(method, seed):
    generator = np.random.default_rng(seed)
    fit, apply = drawn(60, seed=seed), drawn(30, seed=seed + 1)
    rows, columns = generator.permutation(60), generator.permutation(4)
    if "ordinal" in method:  # the reverse is the same order
        columns = np.arange(4)[::-1]

    def moved(predictions):
        return predictions.replace(
            probs=predictions.probs[:, columns],
            classes=tuple(predictions.classes[c] for c in columns),
            labels=np.argsort(columns)[predictions.labels],
        )

    plain = build(method).fit(fit).apply(apply).sets
    other = build(method).fit(moved(fit.take(rows))).apply(moved(apply.take(np.arange(30)[::-1])))
    np.testing.assert_array_equal(other.sets[::-1], plain[:, columns])


@pytest.mark.parametrize("method", METHODS)
def test_smaller_alphas_give_larger_sets(method):
    fit, apply = drawn(), drawn(seed=1)
    sets = [bl.conformal_sets(fit, apply, alpha, method).sets for alpha in (0.4, 0.2, 0.05)]
    assert (sets[0] <= sets[1]).all()
    assert (sets[1] <= sets[2]).all()
    assert sets[0].sum() < sets[2].sum()


@pytest.mark.parametrize("method", METHODS)
def test_too_few_rows_put_every_class_into_every_set(method, caplog):
    with caplog.at_level(logging.WARNING):
        result = bl.conformal_sets(drawn(8), drawn(20, seed=1), 0.1, method)
    assert result.sets.all()
    assert "fewer than 9 labelled rows" in caplog.text


def test_a_class_without_rows_is_in_every_set_where_each_has_its_threshold(caplog):
    fit = drawn(400)
    predictor = bl.LAC(classwise=True).fit(fit.take(fit.labels != 2))
    assert predictor.apply(drawn(50, seed=1)).sets[:, 2].all()
    assert np.isfinite(predictor.thresholds).tolist() == [True, True, False, True]
    assert "the threshold of 'c'" in caplog.text


def test_the_seed_decides_about_random_parts():
    fit, apply = drawn(), drawn(300, seed=1)
    seeds = (3, np.int64(3), 4)
    sets = [bl.APS(seed=seed).fit(fit).apply(apply).sets for seed in seeds]
    np.testing.assert_array_equal(sets[0], sets[1])
    assert (sets[0] != sets[2]).any()


@pytest.mark.parametrize("method", ["aps:randomised=false", "raps:randomised=false"])
def test_plain_adaptive_sets_are_never_empty(method):
    result = bl.conformal_sets(drawn(sharp=6), drawn(300, seed=1, sharp=6), 0.4, method)
    assert result.sizes.min() == 1
    accuracy = (result.predictions.prediction == result.predictions.labels).mean()
    assert covered(result.predictions).mean() >= accuracy


def test_what_is_returned_and_carried():
    fit = drawn(metadata={"link": "mc"})
    apply = drawn(50, seed=1, metadata={"link": "mc"}, epistemic=np.ones(50))
    result = bl.conformal_sets(fit, apply, 0.2, "aps:classwise=true")
    assert result.sets.dtype == np.bool_
    assert result.sets.shape == (50, 4)
    np.testing.assert_array_equal(result.sizes, result.predictions.sets.sum(1))
    assert result.predictions.metadata == {
        "link": "mc",
        "conformal": "aps",
        "conformal_alpha": "0.2",
        "conformal_classwise": "true",
        "conformal_randomised": "true",
        "conformal_seed": "0",
        "conformal_rows": "200",
    }
    np.testing.assert_array_equal(result.predictions.probs, apply.probs)
    np.testing.assert_array_equal(result.predictions.epistemic, apply.epistemic)
    again = result.predictor.apply(apply)
    np.testing.assert_array_equal(again.sets, result.sets)


def test_alpha_goes_before_that_of_the_method():
    assert build("lac").alpha == 0.1
    assert build("lac:alpha=0.3").alpha == 0.3
    assert build(bl.LAC(alpha=0.3), 0.2).alpha == 0.2


def test_unlabelled_rows_are_left_out_of_the_fit():
    fit = drawn()
    labels = np.where(np.arange(200) < 150, fit.labels, -1)
    partly = bl.LAC().fit(fit.replace(labels=labels))
    assert partly.num_rows == 150
    whole = bl.LAC().fit(fit.take(np.arange(150)))
    np.testing.assert_array_equal(partly.thresholds, whole.thresholds)


@pytest.mark.parametrize("name", CONFORMAL)
def test_refusals(name):
    fit = drawn(30)
    with refused("input", "labels"):
        build(name).fit(fit.replace(labels=None))
    with refused("not-fitted"):
        build(name).apply(fit)
    with refused("input", "['a', 'b', 'c', 'd']"):
        build(name).fit(fit).apply(drawn(5, 3))
    with pytest.raises(bl.InputError, match="same predictions"):
        bl.conformal_sets(fit, fit, method=name)


@pytest.mark.parametrize("alpha", [0, 1])
def test_an_alpha_outside_of_0_to_1_is_refused(alpha):
    with refused("option", "alpha", alpha):
        bl.LAC(alpha=alpha)
