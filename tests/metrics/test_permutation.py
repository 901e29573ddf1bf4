"""Permutation p-values: enumerated exchanges, uniform under the hypothesis; Holm by hand."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from bayeslora.metrics.calibration import ece, top_label
from bayeslora.metrics.compare import COMPARED, compare
from bayeslora.metrics.differences import Contest, fits_of, holm, permutation_p
from bayeslora.metrics.rowwise import row_scores
from bayeslora.predictions.record import Predictions


def method(name, seed, rows, **parts):
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(9).integers(3, size=rows)
    probs = generator.dirichlet(np.ones(3), size=rows)
    return Predictions(probs, ("a", "b", "c"), labels, name=name, **parts)


def contest(*predictions, keys=COMPARED, clusters=None):
    return Contest(fits_of(predictions, over_seeds=True), 0, keys, 15, clusters)


def exact(first, second):
    """Return the share of all 2^N exchanges that differ at least as much, for each score."""
    ours, theirs = row_scores(first), row_scores(second)
    columns = [np.column_stack([rows.means[:, :3], rows.confidence]) for rows in (ours, theirs)]

    def difference(exchange):
        swap = np.array(exchange, dtype=bool)[:, None]
        pair = [np.where(swap, b, a) for a, b in (columns, columns[::-1])]
        scores = [
            [*table[:, :3].mean(0), ece(top_label(table[:, 3], table[:, 0]))] for table in pair
        ]
        return np.abs(np.subtract(*scores))

    all_of_them = np.array([difference(swaps) for swaps in product([0, 1], repeat=len(first))])
    return (all_of_them >= difference([0] * len(first)) - 1e-12).mean(0)


def test_the_p_values_are_those_of_all_exchanges():
    pair = [method("x", 0, 9), method("y", 1, 9)]
    p = permutation_p(contest(*pair), 6000, seed=0)
    # a share of 6,000 draws has a deviation of at most 0.0065; four times that for eight numbers
    np.testing.assert_allclose(p[1], exact(*pair), atol=0.026)
    assert p[0].tolist() == [1.0] * 4


def test_methods_that_differ_by_chance_alone_have_uniform_p_values():
    p = [
        permutation_p(contest(method("x", 2 * k, 60), method("y", 2 * k + 1, 60)), 99)[1]
        for k in range(120)
    ]
    # a share of 120 sets has a deviation of 0.037 at a rate of 0.2; four times that
    np.testing.assert_allclose((np.array(p) <= 0.2).mean(0), 0.2, atol=0.15)


def test_clusters_are_exchanged_whole():
    """Every row occurs twice: with clusters, the p-value is that of the single rows."""
    pair = [method("x", 0, 10), method("y", 1, 10)]
    twice = [predictions.take(np.repeat(np.arange(10), 2)) for predictions in pair]
    whole = permutation_p(contest(*twice, clusters=np.repeat(np.arange(10), 2)), 4000)
    # two estimates from 4,000 draws each
    np.testing.assert_allclose(whole, permutation_p(contest(*pair), 4000, seed=1), atol=0.05)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == [3 * 0.01, 2 * 0.03, 2 * 0.03]
    assert holm([0.5, 0.6]).tolist() == [1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_p_value_and_bonferroni_in_the_same_order(p):
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(np.array(p) * len(p), 1) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


def test_a_comparison_carries_both():
    sure = np.full((40, 2), [0.9, 0.1])
    labels = np.zeros(40, dtype=int)
    methods = [
        Predictions(probs, ("a", "b"), labels, name=name)
        for name, probs in (("good", sure), ("bad", sure[:, ::-1]), ("same", sure))
    ]
    rows = {row.name: row for row in compare(methods, num_resamples=10).rows}
    assert rows["good"].p == rows["good"].p_holm == {}
    assert rows["bad"].p == dict.fromkeys(COMPARED, 1 / 2000)
    assert rows["bad"].p_holm == dict.fromkeys(COMPARED, 2 / 2000)
    assert rows["same"].p == rows["same"].p_holm == dict.fromkeys(COMPARED, 1.0)
    without = compare(methods, num_resamples=10, num_permutations=0)
    assert all(not row.p for row in without.rows)
    with refused("option", "num_permutations", "0", "-1"):
        compare(methods, num_permutations=-1)
