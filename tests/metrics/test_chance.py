"""Chance: drawn labels follow the stated law, p-values are uniform, intervals start at zero."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import kstest

from bayeslora.metrics.calibration import bin_places, ece, top_label
from bayeslora.metrics.chance import (
    CHANCE_KEYS,
    drawn_errors,
    ece_by_chance,
    errors_by_chance,
    p_values,
)
from bayeslora.metrics.evaluate import evaluate, statistic
from bayeslora.metrics.intervals import Resampling
from bayeslora.metrics.rowwise import Scoring, labelled_rows
from bayeslora.predictions.record import Predictions


def rows_of(probs, labels):
    classes = tuple("abcdef"[: probs.shape[1]])
    return labelled_rows(Predictions(probs, classes, labels))


def ece_against_chance(confidence, correct, draws, seed):
    """Return the ECE, its mean under chance, and the p-value."""
    rows = top_label(confidence, correct)
    observed = ece(rows)
    drawn = ece_by_chance(
        rows.confidence, bin_places(rows.confidence, 15), 15, Resampling(draws, seed)
    )
    return observed, drawn.mean(), p_values(drawn, np.array([observed]))[0]


def test_labels_are_drawn_from_the_probabilities():
    probs = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    drawn = drawn_errors(probs, lambda labels: labels.astype(float), Resampling(20000))
    shares = np.stack([(drawn == c).mean(1) for c in range(3)], axis=1)
    # a share of 20,000 draws has a deviation of at most 0.0036; five times that
    np.testing.assert_allclose(shares, probs, atol=0.018)
    assert (shares[1:] == probs[1:]).all()


def test_errors_of_drawn_labels_are_those_of_the_same_rows_with_these_labels():
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(4), 80)
    rows = rows_of(probs, generator.integers(4, size=80))
    scoring = Scoring(15, Resampling(3, 5))
    errors = errors_by_chance(rows, scoring)
    drawn = drawn_errors(rows.probs, lambda labels: labels.astype(float), scoring.resampling)
    labels = drawn.astype(int)
    from bayeslora.metrics.scores import SCORE_KEYS

    for draw in range(3):
        again = statistic(rows_of(rows.probs, labels[:, draw]), 15)(np.ones(80))
        expected = [again[SCORE_KEYS.index(key)] for key in CHANCE_KEYS]
        # sums of 80 numbers below 1
        np.testing.assert_allclose(errors[:, draw], expected, atol=1e-12)


def test_p_values_of_calibrated_sets_are_uniform():
    generator = np.random.default_rng(0)
    p = []
    for seed in range(150):
        confidence = 0.4 + 0.6 * generator.random(120)
        correct = generator.random(120) < confidence
        p.append(ece_against_chance(confidence, correct, 199, seed)[-1])
    assert kstest(p, "uniform").pvalue > 0.001  # the seed is fixed


def test_the_mean_of_many_rows_draws_is_that_of_gaussian_gaps():
    confidence = 0.5 + 0.5 * np.random.default_rng(0).random(3000)
    _, expected, p = ece_against_chance(confidence, np.ones(3000), 400, 0)
    # Σ_b E|N(0, v_b)| = Σ_b √(2 v_b/π) with v_b = Σ c(1 − c); 400 draws leave a deviation of 1 %
    place = (confidence * 15).astype(int).clip(max=14)
    variances = np.bincount(place, confidence * (1 - confidence))
    assert expected == pytest.approx(np.sqrt(2 * variances / np.pi).sum() / 3000, rel=0.04)
    assert p == 1 / 401


def all_outcomes(confidence):
    """Return each right/wrong outcome, its ECE, and its probability under calibration."""
    outcomes = np.array(list(product([0, 1], repeat=len(confidence))))
    chances = np.where(outcomes, confidence, 1 - confidence).prod(axis=1)
    places = np.array([min(int(15 * value), 14) for value in confidence])
    gaps = np.array(
        [np.abs(((outcomes - confidence) * (places == b)).sum(axis=1)) for b in range(15)]
    )
    return outcomes, gaps.sum(axis=0) / len(confidence), chances


TINY = [[0.9], [0.5], [0.7, 0.99], [0.71, 0.72], [0.55, 0.805, 0.81], [0.6, 0.6, 0.6]]


@pytest.mark.parametrize("confidence", TINY)
def test_of_one_to_three_rows_mean_and_p_are_those_of_all_outcomes(confidence):
    confidence = np.array(confidence)
    outcomes, errors, chances = all_outcomes(confidence)
    mean = (chances * errors).sum()
    deviation = np.sqrt((chances * (errors - mean) ** 2).sum())
    draws = 20_000
    for correct, error in zip(outcomes, errors, strict=True):
        observed, expected, p_value = ece_against_chance(confidence, correct, draws, 1)
        assert observed == pytest.approx(error, abs=1e-12)
        # five standard errors; the observed outcome counts as a draw
        assert expected == pytest.approx(mean, abs=5 * deviation / np.sqrt(draws) + 1e-12)
        p = chances[errors >= error - 1e-9].sum()
        assert p_value == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / draws) + 1 / draws)


@pytest.mark.parametrize("confidence", TINY)
def test_evaluate_draws_whole_labels_to_the_same_end(confidence):
    confidence = np.array(confidence)
    outcomes, errors, chances = all_outcomes(confidence)
    mean = (chances * errors).sum()
    deviation = np.sqrt((chances * (errors - mean) ** 2).sum())
    probs = np.column_stack([confidence, (1 - confidence) / 2, (1 - confidence) / 2])
    predictions = Predictions(probs, ("a", "b", "c"), 1 - outcomes[0])
    scores = evaluate(predictions, num_resamples=1000, seed=2)
    assert scores.ece_if_calibrated == pytest.approx(mean, abs=5 * deviation / np.sqrt(1000) + 1e-9)
    p = chances[errors >= errors[0] - 1e-9].sum()
    assert scores.calibration_p == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / 1000) + 1e-3)


def test_groups_are_tested_apart():
    generator = np.random.default_rng(0)
    confidence = generator.random(300)
    group = np.repeat([0, 1, 2], 100)
    cell = group * 10 + bin_places(confidence, 10)
    errors = ece_by_chance(confidence, cell, 10, Resampling(500))
    alone = ece_by_chance(confidence[:100], cell[:100], 10, Resampling(500, 1))
    assert errors.shape == (3, 500)
    assert errors[0].mean() == pytest.approx(alone.mean(), rel=0.05)


def test_an_error_that_chance_explains_has_an_interval_from_zero():
    generator = np.random.default_rng(3)
    probs = generator.dirichlet(np.ones(3), 200)
    labels = (probs.cumsum(1) > generator.random((200, 1))).argmax(1)
    fair = evaluate(Predictions(probs, ("a", "b", "c"), labels), num_resamples=200)
    wrong = evaluate(Predictions(probs, ("a", "b", "c"), (labels + 1) % 3), num_resamples=200)
    for key in CHANCE_KEYS:
        assert (fair[key].low <= 0) or fair.chance_p[key] <= 0.05
    assert fair["ece"].low == 0 < fair["ece"].value
    assert wrong.calibration_p == 1 / 201
    assert wrong["ece"].low > 0.2
