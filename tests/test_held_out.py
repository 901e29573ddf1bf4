"""Rows to fit on and rows to apply to: requirements on the two sets of predictions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora.held_out import held_out, settled_order
from bayeslora.predictions.record import Predictions

WHAT = "a last step"


def drawn(count=40, seed=0, ids="", classes=("a", "b", "c"), **parts):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(len(classes)), size=count)
    named = {"ids": [f"{ids}{row}" for row in range(count)]} if ids else {}
    labels = generator.integers(len(classes), size=count)
    return Predictions(probs, classes, labels, **named, **parts)


def test_different_rows_pass_as_they_are():
    fit, apply = drawn(), drawn(seed=1)
    assert held_out(fit, apply, WHAT) == (fit, apply)


def test_rows_are_the_same_by_id_unless_it_is_a_number():
    with refused("input", "40 rows", "'r-0'"):
        held_out(drawn(ids="r-"), drawn(seed=1, ids="r-"), WHAT)
    fit, apply = (drawn(seed=k).replace(ids=list(map(str, range(40)))) for k in (0, 1))
    held_out(fit, apply, WHAT)


def test_the_two_must_have_been_made_alike():
    first, second = ({"model_fingerprint": name} for name in "xy")
    with refused("input", "fit", "apply"):
        held_out(drawn(metadata=first), drawn(seed=1, metadata=second), WHAT)
    scaled = {**first, "recalibration": "beta"}
    with refused("input", "nothing", "beta"):
        held_out(drawn(metadata=first), drawn(seed=1, metadata=scaled), WHAT)
    twice = {**scaled, "recalibration_before": "histogram"}
    with refused("input", "histogram > beta", "beta;"):
        held_out(drawn(metadata=twice), drawn(seed=1, metadata=scaled), WHAT)
    # A CSV file has no metadata and does not say how it was made.
    held_out(drawn(), drawn(seed=1, metadata=scaled), WHAT)
    with refused("input", "['a', 'b']", "['a', 'b', 'c']"):
        held_out(drawn(classes=("a", "b")), drawn(seed=1), WHAT)


def test_files_are_called_by_their_paths(tmp_path):
    fit, apply = tmp_path / "v.csv", tmp_path / "t.csv"
    drawn(ids="r-").save(fit)
    drawn(seed=1, ids="r-").save(apply)
    with refused("input", "v.csv", "t.csv", "40 rows"):
        held_out(fit, apply, WHAT)
    with refused("input", "v.csv"):
        held_out(fit, tmp_path / "." / "v.csv", WHAT)
    with refused("input", "none.csv"):
        held_out(tmp_path / "none.csv", tmp_path / "none.csv", WHAT)


@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_settled_order_follows_the_rows(seed):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(4), size=12)
    rows, columns = generator.permutation(12), generator.permutation(4)
    settled = probs[settled_order(probs)]
    moved = probs[rows][:, columns]
    np.testing.assert_array_equal(np.sort(moved[settled_order(moved)], 1), np.sort(settled, 1))
