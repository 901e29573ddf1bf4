"""Temperature scaling against a search, netcal, and its own laws."""

import copy
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora.plain_text import counted
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.temperature import Temperature

CLASSES = ("a", "b", "c")


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def predictions(rows=300, temperature=2.0, seed=0, **options):
    """Return rows with labels from softmax(z) and probabilities softmax(T z)."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((rows, 3))
    labels = (softmax(logits).cumsum(1) > generator.random((rows, 1))).argmax(1)
    values = {"labels": labels} | options
    return Predictions(probs=softmax(temperature * logits), classes=CLASSES, **values)


def nll(rows):
    return -np.log(rows.probs[np.arange(len(rows)), rows.labels]).mean()


def test_over_confident_rows_get_their_temperature_back():
    fitted = Temperature().fit(predictions(rows=20_000, temperature=2.0))
    # The standard error of β = 1/T is 1/√(N Var), here about 0.01 of its value.
    assert fitted.temperature == pytest.approx(2.0, rel=0.05)
    assert fitted.num_rows == 20_000


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_the_temperature_minimises_the_nll(temperature):
    rows = predictions(temperature=temperature)
    fitted = Temperature().fit(rows)
    best = nll(fitted.apply(rows))
    for factor in (0.97, 1.03):
        other = copy.copy(fitted)
        other.temperature = fitted.temperature * factor
        assert nll(other.apply(rows)) > best


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_netcal_finds_the_same_and_calls_its_inverse_temperature():
    from netcal.scaling import TemperatureScaling

    rows = predictions(temperature=2.0)
    ours = Temperature().fit(rows)
    theirs = TemperatureScaling()
    theirs.fit(np.array(rows.probs), np.array(rows.labels), random_state=0)
    # Their optimiser stops at a coarser tolerance.
    assert 1 / ours.temperature == pytest.approx(float(theirs.temperature[0]), rel=1e-2)
    np.testing.assert_allclose(
        ours.apply(rows).probs, theirs.transform(np.array(rows.probs)), atol=5e-3
    )


def test_known_case():
    """Four rows at (.9, .1), three correct: T maps .9 to .75, so 1/T = ln 3 / ln 9."""
    rows = Predictions(
        probs=np.tile([0.9, 0.1], (4, 1)), classes=("a", "b"), labels=np.array([0, 0, 0, 1])
    )
    fitted = Temperature().fit(rows)
    assert fitted.temperature == pytest.approx(np.log(9) / np.log(3))
    np.testing.assert_allclose(fitted.apply(rows).probs, np.tile([0.75, 0.25], (4, 1)), atol=1e-9)


@given(seed=st.integers(0, 500), temperature=st.floats(0.05, 20))
@settings(max_examples=30, deadline=None)
def test_laws(seed, temperature):
    rows = predictions(rows=40, temperature=temperature, seed=seed)
    fitted = Temperature().fit(rows)
    scaled = fitted.apply(rows)
    np.testing.assert_allclose(scaled.probs.sum(1), 1, atol=1e-12)
    assert nll(scaled) <= nll(rows) + 1e-9
    # The order of classes within a row is preserved, except for ties from rounding.
    gaps = np.sort(rows.probs, 1)
    clear = (gaps[:, -1] - gaps[:, -2]) > 1e-9
    assert (scaled.prediction == rows.prediction)[clear].all()


def test_fitting_scaled_rows_again_gives_one():
    rows = predictions()
    scaled = Temperature().fit(rows).apply(rows)
    assert Temperature().fit(scaled).temperature == pytest.approx(1.0, abs=1e-6)


def test_unlabelled_rows_are_left_out_of_the_fit_and_scaled_all_the_same():
    rows = predictions()
    labels = np.array(rows.labels)
    labels[::2] = -1
    partly = rows.replace(labels=labels)
    fitted = Temperature().fit(partly)
    assert fitted.num_rows == 150
    assert fitted.temperature == Temperature().fit(rows.take(np.arange(1, 300, 2))).temperature
    assert len(fitted.apply(partly)) == 300


def test_zero_probabilities_are_survived():
    rows = Predictions(
        probs=np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]),
        classes=("a", "b"),
        labels=np.array([0, 1, 0]),
    )
    scaled = Temperature().fit(rows).apply(rows)
    assert np.isfinite(scaled.probs).all()
    assert scaled.probs[1, 1] > 0


def test_the_edge_of_the_search_is_said(caplog):
    rows = Predictions(
        probs=np.array([[0.9, 0.1], [0.8, 0.2]]), classes=("a", "b"), labels=np.array([1, 1])
    )
    with caplog.at_level(logging.WARNING):
        assert Temperature().fit(rows).temperature == pytest.approx(1e3)
    assert "at the edge of the search" in caplog.text


@pytest.mark.parametrize("rows", [1, 20])
def test_rows_that_are_all_right_sharpen_nothing(rows, caplog):
    """Their likelihood is unbounded as T falls, which says nothing about future rows."""
    known = Predictions(
        probs=np.tile([[0.7, 0.3]], (rows, 1)), classes=("a", "b"), labels=np.zeros(rows, int)
    )
    with caplog.at_level(logging.WARNING):
        fitted = Temperature().fit(known)
    assert fitted.temperature == 1
    assert f"the {counted(rows, 'row')} used" in caplog.text
    np.testing.assert_allclose(fitted.apply(known).probs, known.probs)


def test_what_becomes_of_the_other_columns():
    rows = predictions(
        rows=5,
        total=np.ones(5),
        aleatoric=np.ones(5),
        epistemic=np.zeros(5),
        scores={"logit_variance": np.arange(5.0)},
        metadata={"link": "mc"},
        name="first",
    )
    recalibrator = Temperature()
    recalibrator.temperature, recalibrator.classes, recalibrator.num_rows = 2.0, CLASSES, 9
    scaled = recalibrator.apply(rows, name="first + temperature")
    np.testing.assert_allclose(scaled.total, -(scaled.probs * np.log(scaled.probs)).sum(1))
    assert scaled.aleatoric is None
    assert scaled.epistemic is None
    np.testing.assert_array_equal(scaled.scores["logit_variance"], np.arange(5.0))
    assert scaled.metadata == {
        "link": "mc",
        "recalibration": "temperature",
        "temperature": "2.0",
        "recalibration_rows": "9",
    }
    again = recalibrator.apply(recalibrator.apply(scaled)).metadata
    assert again == {**scaled.metadata, "recalibration_before": "temperature > temperature"}
    assert scaled.name == "first + temperature"
    assert recalibrator.apply(rows).name == "first"
    assert recalibrator.apply(predictions(rows=5)).total is None


def test_refusals():
    rows = predictions(rows=5)
    two = Predictions(np.tile([0.9, 0.1], (4, 1)), ("a", "b"), np.array([0, 0, 0, 1]))
    with refused("input", "labels"):
        Temperature().fit(rows.replace(labels=None))
    with refused("input", "labels"):
        Temperature().fit(rows.replace(labels=np.full(5, -1)))
    with refused("not-fitted"):
        Temperature().apply(rows)
    with refused("input", "['a', 'b']", "['a', 'b', 'c']"):
        Temperature().fit(two).apply(rows)
