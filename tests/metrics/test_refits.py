"""Differences between refits: how often equally good methods appear to differ."""

import numpy as np
import pytest
from scipy.stats import t as student

from bayeslora.data.splits import stratified_folds
from bayeslora.metrics.refits import refit_difference

CLASSES, ROWS, DIVISIONS = 3, 200, 10

# True inverse temperatures at which the network's own softmax is as good on new rows as a
# temperature fitted to 100 (halves) or 160 (five parts) rows. They come from a bisection with 800
# fits each (`expected_gain` below is checked against them).
EQUALLY_GOOD = {2: 1.183, 5: 1.139}


def nll(logits, labels, power):
    """Return the NLL [..., N] of logits [N, C] scaled by inverse temperatures [..., N]."""
    scaled = power[..., None] * logits
    total = np.logaddexp.reduce(scaled, axis=-1)
    return total - power * logits[np.arange(len(labels)), labels]


def best_power(logits, labels, weight):
    """Return the inverse temperatures [J] of lowest NLL, by Newton, for row weights [J, N]."""
    power = np.ones(len(weight))
    for _ in range(12):
        scaled = power[:, None, None] * logits
        probs = np.exp(scaled - scaled.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        mean = (probs * logits).sum(-1)
        variance = (probs * logits**2).sum(-1) - mean**2
        slope = ((mean - logits[np.arange(len(labels)), labels]) * weight).sum(1)
        step = slope / (variance * weight).sum(1)
        power = np.clip(power - step, power / 2, power * 2)
    return power


def drawn(rows, power, generator):
    logits = 2 * generator.standard_normal((rows, CLASSES))
    probs = np.exp(power * logits)
    running = np.cumsum(probs / probs.sum(1, keepdims=True), axis=1)
    return logits, (running[:, :-1] < generator.random((rows, 1))).sum(1)


def cross_fitted(logits, labels, num_folds):
    """Return the NLL [R, N] of the temperature chosen by the other parts, and the parts."""
    rows = len(labels)
    fold = np.stack([stratified_folds(labels, num_folds, seed) for seed in range(DIVISIONS)])
    others = (fold[:, None] != np.arange(num_folds)[:, None]).reshape(-1, rows)
    power = best_power(logits, labels, others.astype(float)).reshape(DIVISIONS, num_folds)
    return nll(logits, labels, np.take_along_axis(power, fold, 1)), fold


def expected_gain(num_folds, fits=600):
    """Return the mean NLL on new rows of temperatures fitted to a part, minus the softmax's."""
    generator = np.random.default_rng(5)
    truth = EQUALLY_GOOD[num_folds]
    fitted = [
        best_power(*drawn(ROWS - ROWS // num_folds, truth, generator), np.ones((1, 1)))[0]
        for _ in range(fits)
    ]
    new = drawn(50_000, truth, generator)
    grid = np.linspace(min(fitted), max(fitted), 40)
    losses = [nll(*new, np.full(50_000, power)).mean() for power in grid]
    return np.interp(fitted, grid, losses).mean() - nll(*new, np.ones(50_000)).mean()


@pytest.mark.parametrize("num_folds", [2, 5])
def test_equally_good_methods_are_seldom_told_apart(num_folds):
    """Less than 5 %; intervals over the rows of one division or of their mean err more often."""
    generator, sets = np.random.default_rng(11), 200
    rejections = {"refits": 0, "rows of one division": 0, "rows of the mean": 0}
    for _ in range(sets):
        logits, labels = drawn(ROWS, EQUALLY_GOOD[num_folds], generator)
        tempered, fold = cross_fitted(logits, labels, num_folds)
        own = nll(logits, labels, np.ones((DIVISIONS, ROWS)))
        rejections["refits"] += refit_difference(tempered, own, fold)[1] < 0.05
        for name, rows in (
            ("rows of one division", (tempered - own)[0]),
            ("rows of the mean", (tempered - own).mean(0)),
        ):
            rejections[name] += abs(rows.mean()) > 1.96 * rows.std(ddof=1) / ROWS**0.5
    # 0 or 1 of 200 when written; at a true rate of 9 %, ten or fewer occur in 2 % of runs.
    print(num_folds, rejections)
    assert rejections["refits"] <= 0.05 * sets
    assert rejections["rows of the mean"] > 0.08 * sets


@pytest.mark.parametrize("num_folds", [2, 5])
def test_the_two_methods_of_the_simulation_are_equally_good(num_folds):
    assert expected_gain(num_folds) == pytest.approx(0, abs=1.5e-3)


def test_better_methods_are_told_apart():
    generator = np.random.default_rng(3)
    logits, labels = drawn(ROWS, 2.5, generator)
    tempered, fold = cross_fitted(logits, labels, 2)
    own = nll(logits, labels, np.ones((DIVISIONS, ROWS)))
    difference, p = refit_difference(tempered, own, fold)
    assert difference.high < 0
    assert p < 1e-3


def test_the_variance_is_that_of_nadeau_and_bengio():
    generator = np.random.default_rng(0)
    fold = np.stack([stratified_folds(np.zeros(60, int), 5, seed) for seed in range(3)])
    # differences are constant within a part, so the parts differ most
    parts = generator.standard_normal((3, 5))
    ours = np.take_along_axis(parts, fold, 1)
    difference, p = refit_difference(ours, np.zeros((3, 60)), fold)
    error = np.sqrt((1 / 15 + 1 / 4) * parts.var(ddof=1))
    half = student.ppf(0.975, 14) * error
    assert [difference.low, difference.high] == pytest.approx(
        [parts.mean() - half, parts.mean() + half]
    )
    assert p == pytest.approx(2 * student.sf(abs(parts.mean()) / error, 14))


def test_rows_alone_decide_where_fits_agree():
    """The variance over rows times the factor of one division, and of many divisions."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal(400)
    for divisions, factor in ((1, 3), (50, 1)):
        fold = np.stack([stratified_folds(np.zeros(400, int), 2, r) for r in range(divisions)])
        ours = np.broadcast_to(rows, (divisions, 400))
        difference, _ = refit_difference(ours, np.zeros_like(ours), fold)
        half = student.ppf(0.975, 399) * np.sqrt(factor * rows.var(ddof=1) / 400)
        # By chance the parts differ more than that.
        assert half <= difference.high - difference.value <= 1.25 * half


def test_equal_methods_differ_by_nothing():
    zero = np.zeros((2, 30))
    fold = np.stack([stratified_folds(np.zeros(30, int), 2, seed) for seed in range(2)])
    difference, p = refit_difference(zero, zero, fold)
    assert (difference.value, difference.low, difference.high, p) == (0, 0, 0, 1)
