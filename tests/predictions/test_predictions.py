"""The predictions record: computed values, stored values, and refusals."""

import numpy as np
import pytest
from refusal import refused

from bayeslora.predictions.record import Predictions

PROBS = [[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.0, 0.0, 1.0]]
CLASSES = ("a", "b", "c")


def test_derived_columns_equal_numbers_worked_by_hand():
    predictions = Predictions(PROBS, CLASSES, labels=[1, -1, 0])
    assert predictions.prediction.tolist() == [1, 0, 2]  # the tie goes to the lowest index
    assert predictions.confidence.tolist() == [0.5, 0.4, 1.0]
    assert predictions.labelled.tolist() == [True, False, True]
    assert (len(predictions), predictions.num_classes) == (3, 3)
    np.testing.assert_allclose(predictions.uncertainty("max_probability"), [0.5, 0.6, 0.0])
    entropy = [
        -(0.2 * np.log(0.2) + 0.5 * np.log(0.5) + 0.3 * np.log(0.3)),
        -(2 * 0.4 * np.log(0.4) + 0.2 * np.log(0.2)),
        0.0,
    ]
    np.testing.assert_allclose(predictions.uncertainty("entropy"), entropy, rtol=1e-15, atol=0)


def test_arrays_are_copies_that_nobody_can_change():
    given_probs = np.array(PROBS)
    predictions = Predictions(given_probs, CLASSES)
    given_probs[0] = 7
    assert predictions.probs[0].tolist() == PROBS[0]
    with pytest.raises(ValueError, match="read-only"):
        predictions.probs[0, 0] = 1.0


def test_float32_rows_are_renormalised_in_float64():
    single = np.array([[0.1, 0.2, 0.7]], dtype=np.float32)
    assert abs(single.astype(np.float64).sum() - 1) > 1e-9
    assert abs(Predictions(single, CLASSES).probs.sum() - 1) < 1e-15


def test_labels_without_any_label_are_none():
    assert Predictions(PROBS, CLASSES, labels=[-1, -1, -1]).labels is None
    assert not Predictions(PROBS, CLASSES).labelled.any()


def test_uncertainty_names_every_score_that_is_there():
    predictions = Predictions(
        PROBS, CLASSES, epistemic=[0.1, 0.2, 0.3], scores={"logit_variance": [1, 2, 3]}
    )
    assert predictions.uncertainty_names == (
        "max_probability",
        "entropy",
        "epistemic",
        "logit_variance",
    )
    assert predictions.uncertainty("logit_variance").tolist() == [1.0, 2.0, 3.0]
    with refused("unknown", "'epistemics'", "'epistemic'", "'logit_variance'"):
        predictions.uncertainty("epistemics")
    with refused("unknown", "'total'"):
        predictions.uncertainty("total")


def full() -> Predictions:
    return Predictions(
        PROBS,
        CLASSES,
        labels=[1, -1, 0],
        ids=["x", "y", "z"],
        total=[1.0, 2.0, 3.0],
        aleatoric=[0.5, 1.0, 1.5],
        epistemic=[0.5, 1.0, 1.5],
        scores={"s": [3, 2, 1]},
        name="m",
        metadata={"link": "probit"},
        sets=np.eye(3, dtype=bool),
    )


@pytest.mark.parametrize("rows", [[2, 0], np.array([True, False, True]), slice(0, 2)])
def test_take_picks_every_part(rows):
    index = np.arange(3)[rows]
    taken = full().take(index if isinstance(rows, slice) else rows)
    assert np.array_equal(taken.probs, full().probs[index])
    assert taken.ids == tuple(np.array(["x", "y", "z"])[index])
    assert np.array_equal(taken.total, np.array([1.0, 2.0, 3.0])[index])
    assert np.array_equal(taken.scores["s"], np.array([3.0, 2.0, 1.0])[index])
    assert np.array_equal(taken.sets, np.eye(3, dtype=bool)[index])
    assert (taken.name, taken.metadata) == ("m", {"link": "probit"})


def test_other_probabilities_drop_the_decomposition_of_the_old_ones():
    changed = full().with_probs(np.full((3, 3), 1 / 3), name="flat")
    assert changed.uncertainty_names == ("max_probability", "entropy", "s")
    assert (changed.name, changed.ids, changed.metadata) == (
        "flat",
        ("x", "y", "z"),
        full().metadata,
    )
    assert changed.labels.tolist() == [1, -1, 0]
    assert changed.sets is None
    assert full().with_probs(PROBS).name == "m"


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"probs": [[0.5, 0.5, 0.0], [NAN, 0.5, 0.5]]}, ("row", "row 2, class 'a'", "nan")),
        ({"probs": [[0.5, INF, 0.0]]}, ("row", "row 1, class 'b'", "inf")),
        ({"probs": [[1.1, 0.0, -0.1]]}, ("row", "row 1, class 'c'", "-0.1")),
        ({"probs": [PROBS[0], [0.5, 0.5, 0.1]]}, ("row", "row 2", "1.1", "1e-05")),
        ({"probs": [[0.5, 0.5, 2e-5]]}, ("row", "row 1", "1.00002")),
        ({"probs": [0.5, 0.5]}, ("input", "3 classes", "[2]")),
        ({"probs": np.empty((0, 3))}, ("input", "1 row", "[0, 3]")),
        ({"probs": [["x", "y", "z"]]}, ("input", "probs")),
        ({"classes": ("a",)}, ("input", "classes", "('a',)")),
        ({"classes": ("a", "b", "a")}, ("input", "class 3", "'a'")),
        ({"classes": ("a", "", "c")}, ("input", "class 2", "''")),
        ({"classes": ("a", 2, "c")}, ("input", "class 2")),
        ({"labels": [0, 3, 1]}, ("row", "row 2: label 3")),
        ({"labels": [0, 1, -2]}, ("row", "row 3: label -2")),
        ({"labels": [0.0, 1.0, 2.0]}, ("input", "labels", "3", "float64")),
        ({"labels": [0, 1]}, ("input", "labels", "3", "[2]")),
        ({"ids": ["x", "y", "x"]}, ("row", "row 3: id 'x'", "row 1")),
        ({"ids": ["x"]}, ("input", "1 ids", "3 rows")),
        ({"epistemic": [0, NAN, 0]}, ("row", "row 2: epistemic", "nan")),
        ({"total": [0, 1]}, ("input", "total", "[3]", "[2]")),
        ({"scores": {"s": [0, 0, INF]}}, ("row", "row 3: score 's'", "inf")),
        ({"scores": {"entropy": [0, 0, 0]}}, ("input", "'entropy'")),
        ({"sets": np.eye(2, dtype=bool)}, ("input", "[3, 3]", "[2, 2]")),
        ({"sets": np.eye(3)}, ("input", "sets", "float64")),
    ],
)
def test_every_wrong_part_is_named(changes, refusal):
    with refused(*refusal):
        Predictions(**{"probs": PROBS, "classes": CLASSES, **changes})


def test_it_shows_itself_in_a_line():
    rows = Predictions(np.full((3, 7), 1 / 7), tuple("abcdefg"), np.array([0, -1, 2]), name="m")
    assert repr(rows) == (
        "<Predictions 'm': 3 rows (2 labelled), 7 classes (a, b, c, d, e, …), "
        "uncertainties max_probability, entropy>"
    )
