"""Paired comparisons: the same rows, the same labels, tighter intervals than unpaired."""

import json

import numpy as np
import pytest
from refusal import refused

from bayeslora.metrics.compare import COMPARED, compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.record import Predictions

CLOSE = 1e-12  # sums of a few hundred numbers below 10


def method(name="first", rows=200, power=1.0, **parts) -> Predictions:
    """Return predictions that are calibrated at power 1 and overconfident above."""
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.full(3, 0.5), size=rows)
    labels = (probs.cumsum(1) > generator.random((rows, 1))).argmax(1)
    sharpened = probs**power
    sharpened /= sharpened.sum(1, keepdims=True)
    ids = [f"id-{i}" for i in range(rows)]
    fields = {"classes": ("a", "b", "c"), "labels": labels, "ids": ids, "name": name, **parts}
    return Predictions(sharpened, **fields)


def test_scores_are_those_of_evaluate_and_differences_are_theirs():
    methods = [method(), method("second", power=2.0)]
    result = compare(methods, num_resamples=100)
    alone = {predictions.name: evaluate(predictions, num_resamples=1) for predictions in methods}
    assert [row.name for row in result.rows] == ["first", "second"]
    for row in result.rows:
        for key in COMPARED:
            own = alone[row.name][key].value
            assert row.scores[key].value == pytest.approx(own, abs=CLOSE)
            gap = own - alone["first"][key].value
            assert row.differences[key].value == pytest.approx(gap, abs=CLOSE)
    assert (result.n, result.reference, result.by) == (200, "first", "nll")


def test_equal_decisions_without_probabilities_are_no_proof_of_one_method():
    certain = np.eye(3)[method().labels]
    pair = [method().replace(probs=certain, name=name) for name in ("first", "second")]
    gap = compare(pair, num_resamples=20).rows[1].differences["accuracy"]
    assert gap.low < gap.value == 0 < gap.high


def test_pairing_sees_a_difference_that_single_intervals_hide():
    result = compare([method(), method("second", power=1.5)], num_resamples=500)
    first, second = (row.scores["nll"] for row in result.rows)
    assert first.high > second.low  # unpaired, the two intervals overlap
    assert result.rows[1].differences["nll"].low > 0  # paired, the difference is clear


def test_the_best_comes_first_and_any_can_be_the_reference():
    sharp = method("sharp", power=3.0)
    result = compare([sharp, method()], by="brier", num_resamples=20)
    assert [row.name for row in result.rows] == ["first", "sharp"]
    assert result.reference == "sharp"
    mirrored = compare([sharp, method()], by="brier", reference="first", num_resamples=20)
    assert mirrored.reference == "first"
    assert mirrored.rows[1].differences["nll"].value == pytest.approx(
        -result.rows[0].differences["nll"].value
    )
    flipped = method("flipped", power=-1.0)
    by_accuracy = compare([flipped, method()], by="accuracy", num_resamples=20)
    assert [row.name for row in by_accuracy.rows] == ["first", "flipped"]


def test_rows_and_classes_are_brought_into_the_same_order():
    other = method("second", power=2.0)
    order = np.random.default_rng(1).permutation(len(other))
    moved = other.replace(
        classes=("c", "a", "b"),
        probs=other.probs[:, [2, 0, 1]],
        labels=np.array([1, 2, 0])[other.labels],
    ).take(order)
    straight = compare([method(), other], num_resamples=30)
    assert compare([method(), moved], num_resamples=30) == straight


def test_json_has_one_entry_a_method():
    result = compare([method(), method("second", power=2.0)], num_resamples=10)
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [row["name"] for row in content["rows"]] == ["first", "second"]
    assert set(content["rows"][1]["differences"]["ece"]) == {"value", "low", "high"}


SMALL = {"rows": 3, "labels": [0, 1, 2], "ids": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": [0, 2, 2]}, ("'p'", "'q'", "row 2 (id 'y'): 'b'", "'c'", "1")),
        ({"labels": [0, 1, -1]}, ("row 3 (id 'z'): 'c'", "none")),
        ({"labels": None}, ("row 1 (id 'x'): 'a'", "none", "3")),
        ({"ids": ["x", "w", "z"]}, ("'y'", "row 2", "'p'", "'q'")),
        ({"classes": ("a", "b", "d")}, ("'c'",)),
        ({"rows": 4, "labels": [0, 1, 2, 0], "ids": list("xyzw")}, ("3", "4")),
        ({"name": "p"}, ("['p', 'p']",)),
        ({"name": ""}, ("name",)),
    ],
)
def test_the_first_difference_is_named(changes, named):
    with refused("input", *named):
        compare([method("p", **SMALL), method(**{"name": "q", **SMALL, **changes})])


def test_wrong_options_are_refused():
    pair = [method("p", **SMALL), method("q", **SMALL)]
    with refused("unknown", "'ecce'", "'ece'"):
        compare(pair, by="ecce")
    with refused("unknown", "'r'", "'p', 'q'"):
        compare(pair, reference="r")
    with refused("input", "two", "1"):
        compare(pair[:1])
    unlabelled = [predictions.replace(labels=None) for predictions in pair]
    with refused("input", "'p'", "labels"):
        compare(unlabelled)
