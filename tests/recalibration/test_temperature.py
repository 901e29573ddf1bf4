"""Temperature scaling against a search, netcal, and its own laws."""

import copy
import logging

import numpy as np
import pytest
from faulty_rows import nll, rows

from bayeslora.plain_text import counted
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.linear import Temperature


@pytest.mark.parametrize("sharp", [0.3, 5.0])
def test_the_temperature_minimises_the_nll(sharp):
    known = rows(sharp=sharp)
    fitted = Temperature().fit(known)
    best = nll(fitted.apply(known))
    for factor in (0.97, 1.03):
        other = copy.copy(fitted)
        other.temperature = fitted.temperature * factor
        assert nll(other.apply(known)) > best


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_netcal_finds_the_same_and_calls_its_inverse_temperature():
    from netcal.scaling import TemperatureScaling

    known = rows(sharp=2.0)
    ours = Temperature().fit(known)
    theirs = TemperatureScaling()
    theirs.fit(np.array(known.probs), np.array(known.labels), random_state=0)
    # Their optimiser stops at a coarser tolerance.
    assert 1 / ours.temperature == pytest.approx(float(theirs.temperature[0]), rel=1e-2)
    np.testing.assert_allclose(
        ours.apply(known).probs, theirs.transform(np.array(known.probs)), atol=5e-3
    )


def test_known_case():
    """Four rows at (.9, .1), three correct: T maps .9 to .75, so 1/T = ln 3 / ln 9."""
    known = Predictions(
        probs=np.tile([0.9, 0.1], (4, 1)), classes=("a", "b"), labels=np.array([0, 0, 0, 1])
    )
    fitted = Temperature().fit(known)
    assert fitted.temperature == pytest.approx(np.log(9) / np.log(3))
    np.testing.assert_allclose(fitted.apply(known).probs, np.tile([0.75, 0.25], (4, 1)), atol=1e-9)


def test_the_edge_of_the_search_is_said(caplog):
    known = Predictions(
        probs=np.array([[0.9, 0.1], [0.8, 0.2]]), classes=("a", "b"), labels=np.array([1, 1])
    )
    with caplog.at_level(logging.WARNING):
        assert Temperature().fit(known).temperature == pytest.approx(1e3)
    assert "at the edge of the search" in caplog.text


@pytest.mark.parametrize("count", [1, 20])
def test_rows_that_are_all_right_sharpen_nothing(count, caplog):
    """Their likelihood is unbounded as T falls, which says nothing about future rows."""
    known = Predictions(
        probs=np.tile([[0.7, 0.3]], (count, 1)), classes=("a", "b"), labels=np.zeros(count, int)
    )
    with caplog.at_level(logging.WARNING):
        fitted = Temperature().fit(known)
    assert fitted.temperature == 1
    assert f"the {counted(count, 'row')} used" in caplog.text
    np.testing.assert_allclose(fitted.apply(known).probs, known.probs)
