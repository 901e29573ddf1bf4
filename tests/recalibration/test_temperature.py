"""Temperature scaling against a search, netcal, and its own laws."""

import copy
import logging

import numpy as np
import pytest

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
