"""Rows to label next, and what numbers of labelled rows are worth."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused
from scipy.stats import binomtest
from simulated import CLASSES, simulated

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.decisions.budget import budget
from bayeslora.decisions.suggest import margins, suggest
from bayeslora.predictions.record import Predictions


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.booleans())
def test_rows_are_distinct(rows, count, seed, equal):
    pool = simulated(rows, seed)
    if equal:
        pool = pool.with_probs(np.full((rows, 3), 1 / 3))
    if count > rows:
        with refused("option", "num_rows"):
            suggest(pool, count)
        return
    chosen = suggest(pool, count, seed=seed)
    assert len({*chosen.ids}) == count


def test_hard_rows_are_preferred_and_differ():
    pool = simulated(2000)
    chosen = suggest(pool, 100)
    assert margins(chosen).mean() < 0.75 * margins(pool).mean()
    counts = np.bincount(chosen.prediction, minlength=3)
    assert counts.min() > 20
    assert chosen.ids == suggest(pool, 100).ids


def test_certain_rows_can_be_chosen():
    assert len(bl.suggest(Predictions(np.eye(3), CLASSES), 2)) == 2


def test_a_budget_follows_the_number_of_rows():
    rows = simulated(3000)
    made = budget(rows, 0.1, sizes=(100, 1000), seed=1)
    accuracy = (rows.prediction == rows.labels).mean()
    reference = binomtest(round(1000 * accuracy), 1000).proportion_ci(0.95, "wilson")
    assert made[1].accuracy == pytest.approx((reference.high - reference.low) / 2, abs=1e-4)
    # (1.9600 + 0.8416) √(2 a (1 − a) / n), quantiles to four digits.
    expected = 2.8016 * np.sqrt(2 * accuracy * (1 - accuracy) / 1000)
    assert made[1].difference == pytest.approx(expected, rel=1e-4)
    assert made[0].found <= made[1].found <= 1
    assert made[0].automated < made[1].automated
    with refused("input", "risk"):
        budget(rows, 0)


def test_budget_by_command(tmp_path, capsys):
    simulated(400).save(tmp_path / "p.parquet")
    assert main(["budget", str(tmp_path / "p.parquet"), "--risk", "0.1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8
    assert main(["budget", str(tmp_path / "p.parquet"), "--risk", "7"]) == 2
