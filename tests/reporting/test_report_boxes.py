"""Warning boxes: rare for calibrated methods, present for miscalibrated methods."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from bayeslora.metrics.scores import Score
from bayeslora.predictions.collection import gather
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Point, assess
from bayeslora.reporting.facts import Facts, bias_p, bins_p
from bayeslora.reporting.sentences import findings

DRAWS = 60


def drawn(seed, sharpness=1.0, rows=150):
    """Return predictions with labels drawn from their own probabilities, then sharpened."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (rows, 4))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probs.cumsum(1) > generator.random((rows, 1))).argmax(1)
    sharp = probs**sharpness
    return Predictions(sharp / sharp.sum(1, keepdims=True), tuple("abcd"), labels, name="m")


def boxes(predictions, ood=None):
    """Return the keys of the findings that a report marks as warnings."""
    methods = assess(gather(predictions, ood), {"num_resamples": 50})
    sets = dict.fromkeys(ood or {}, "far")
    facts = Facts(methods, {}, sets)
    return [finding.key for finding in findings(facts) if finding.kind == "warning"]


def test_calibrated_methods_get_no_warning_at_the_nominal_level():
    """At most 5 % get a warning; more than 9 of 60 has a probability of 1e-3 by chance."""
    warned = sum(bool(boxes(drawn(seed))) for seed in range(DRAWS))
    assert binomtest(warned, DRAWS, 0.05, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("sharpness", [0.4, 2.5])
def test_miscalibrated_methods_are_warned_of(sharpness):
    assert boxes(drawn(0, sharpness, rows=400))


def test_unfamiliar_rows_that_go_unnoticed_are_a_warning():
    assert "limits" in boxes(drawn(1), {"far": drawn(2).replace(labels=None)})


@pytest.mark.parametrize(
    ("value", "low", "high"), [(0.03, 0.001, 0.06), (-0.03, -0.06, 0.001), (0.2, 0.1, 0.3)]
)
def test_the_p_value_of_the_gap_is_that_of_its_interval(value, low, high):
    half = value - low if value > 0 else high - value
    expected = 2 * norm.sf(abs(value) / (half / norm.ppf(0.975)))
    p_value = bias_p(Score(value, low, high))
    assert p_value == pytest.approx(expected)
    assert (p_value < 0.05) == (low > 0 or high < 0)


@pytest.mark.parametrize(("off", "size"), [(0, 1), (1, 10), (3, 10), (10, 10), (0, 0)])
def test_the_p_value_of_the_bins_is_binomial(off, size):
    points = [Point(0, 1, 5, 0.9, 0.5, 0.4, 0.6)] * off
    points += [Point(0, 1, 5, 0.5, 0.5, 0.4, 0.6)] * (size - off)
    expected = 1.0 if not off else binomtest(off, size, 0.05, alternative="greater").pvalue
    assert math.isclose(bins_p(points), expected)
