"""The catalogue: every key is documented and within its bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from sklearn.metrics import auc

from bayeslora.metrics.calibration import answered, aurc, ece, risk_curve, top_label
from bayeslora.metrics.evaluate import statistic
from bayeslora.metrics.rowwise import labelled_rows
from bayeslora.metrics.scores import ALL_SCORES, SCORE_KEYS, SCORES, chosen_keys
from bayeslora.predictions.record import Predictions

CLOSE = 1e-12  # sums of at most some hundred numbers below 10


def test_sizes_of_sets_and_errors_of_ranks_grow_with_the_classes():
    growing = {key: info for key, info in ALL_SCORES.items() if key in ("set_size", "score_error")}
    assert all(info.bounds(4) == (0, 4) for info in growing.values())
    others = [info for key, info in ALL_SCORES.items() if key not in growing]
    assert all(info.bounds(4) == (info.low, info.high) for info in others)


def test_keys_are_chosen_in_the_order_given():
    assert chosen_keys(["nll", "ece", "nll"]) == ("nll", "ece")
    with refused("unknown", "'ecce'", "'ece'"):
        chosen_keys(["ecce"])


@st.composite
def labelled(draw):
    n, c = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probs = generator.dirichlet(np.ones(c), size=n)
    if draw(st.booleans()):  # four votes: ties, and confidences of exactly 1
        probs = generator.multinomial(4, probs) / 4
    return probs, generator.integers(0, c if draw(st.booleans()) else 1, size=n)


def scores_of(probs, labels, counts=None):
    rows = labelled_rows(Predictions(probs, tuple("abcde"[: probs.shape[1]]), labels))
    weights = np.ones(len(labels)) if counts is None else counts[rows.index]
    return statistic(rows, 15)(weights)


@settings(max_examples=100, deadline=None)
@given(labelled(), st.integers(0, 2**32 - 1))
def test_laws_of_all_scores(data, seed):
    probs, labels = data
    generator = np.random.default_rng(seed)
    scores = scores_of(probs, labels)
    bounds = np.array([[info.low, info.high] for info in SCORES.values()])
    assert (scores >= bounds[:, 0] - CLOSE).all()
    assert (scores <= bounds[:, 1] + CLOSE).all()
    rows = generator.permutation(len(labels))
    np.testing.assert_allclose(scores_of(probs[rows], labels[rows]), scores, atol=CLOSE)
    counts = generator.integers(0, 3, len(labels))
    counts[0] += 1
    repeated = scores_of(np.repeat(probs, counts, axis=0), np.repeat(labels, counts))
    counted = scores_of(probs, labels, counts)
    np.testing.assert_allclose(counted, repeated, atol=CLOSE)
    table = np.stack([np.ones(len(labels)), counts], axis=1)
    both = scores_of(probs, labels, table)
    np.testing.assert_allclose(both, np.stack([scores, counted], axis=1), atol=CLOSE)
    plain = dict(zip(SCORE_KEYS, scores, strict=True))
    assert plain["ece"] >= abs(plain["overconfidence"]) - CLOSE


@settings(max_examples=60, deadline=None)
@given(labelled())
def test_finer_bins_never_read_less(data):
    """A bin's gap is at most the sum of the gaps of its parts."""
    probs, labels = data
    rows = top_label(probs.max(1), probs.argmax(1) == labels)
    assert ece(rows, 20) >= ece(rows, 10) - CLOSE >= ece(rows, 5) - 2 * CLOSE


def test_uniform_predictions_have_the_error_of_chance():
    labels = np.arange(8) % 4
    scores = dict(zip(SCORE_KEYS, scores_of(np.full((8, 4), 0.25), labels), strict=True))
    assert scores["nll"] == pytest.approx(np.log(4))
    assert scores["brier"] == scores["brier_uncertainty"] == pytest.approx(0.75)
    assert scores["accuracy_at_50"] == scores["accuracy"] == scores["sharpness"] == 0.25
    assert scores["ece"] == scores["brier_resolution"] == 0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_aurc_is_torch_uncertaintys_but_for_the_trapezoid_rule(seed, size):
    generator = np.random.default_rng(seed)
    confidence, wrong = generator.random(size), generator.integers(0, 2, size)
    risks = wrong[np.argsort(-confidence)].cumsum() / np.arange(1, size + 1)
    # their definition: trapezoids over coverage 1/n to 1, divided by its length
    theirs = auc(np.arange(1, size + 1) / size, risks) / (1 - 1 / size)
    rows = top_label(confidence, 1 - wrong)
    ours = (size * aurc(rows) - (risks[0] + risks[-1]) / 2) / (size - 1)
    assert ours == pytest.approx(theirs, abs=CLOSE)
    for percent in (80, 90, 95):
        count = -(-size * percent // 100)
        assert answered(rows).accuracy_at(percent) == pytest.approx(1 - risks[count - 1], abs=CLOSE)
    curve = risk_curve(rows)
    assert curve[-1].coverage == 1
    assert curve[-1].risk == pytest.approx(wrong.mean(), abs=CLOSE)
    assert len(curve) == min(size, 100)
