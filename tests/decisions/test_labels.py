"""Rows whose labels are probably wrong, against cleanlab's answers and flipped labels."""

import json

import numpy as np
import pytest
from record_cleanlab import CASES, GOLDEN, rows_of
from refusal import refused

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.decisions.labels import estimated_joint, suspects
from bayeslora.predictions.record import Predictions

EXPECTED = json.loads(GOLDEN.read_text(encoding="utf-8"))


def predictions_of(name, **fields):
    probs, labels, _ = rows_of(name)
    classes = tuple(f"class {k}" for k in range(probs.shape[1]))
    return Predictions(probs, classes, labels, **fields)


@pytest.mark.parametrize("name", CASES)
def test_the_joint_is_that_of_cleanlab_but_for_rounding(name):
    probs, labels, _ = rows_of(name)
    joint, expected = estimated_joint(probs, labels), np.array(EXPECTED[name]["joint"])
    assert joint.sum(1).tolist() == np.bincount(labels, minlength=len(joint)).tolist()
    # Equal remainders are rounded up in another order.
    ties = name in ("many classes", "a class without a label")
    assert np.abs(joint - expected).max() <= ties


@pytest.mark.parametrize("name", CASES)
def test_by_the_same_joint_the_rows_are_those_of_cleanlab(name):
    probs, labels, _ = rows_of(name)
    rows = suspects(probs, labels, np.array(EXPECTED[name]["joint"]))
    assert sorted(rows) == sorted(EXPECTED[name]["rows"])


@pytest.mark.parametrize("name", list(CASES)[:4])
def test_rows_order_and_estimate_are_those_of_cleanlab(name):
    errors = bl.find_label_errors(predictions_of(name))
    assert errors.rows.tolist() == EXPECTED[name]["rows"]
    assert errors.estimate == EXPECTED[name]["estimate"]
    assert errors.num_rows == CASES[name][0]
    assert errors.predictions.ids == tuple(str(row + 1) for row in errors.rows)


def test_by_hand():
    # Thresholds: (.9 + .8 + .1) / 3 = .6 and (.8 + .7 + .9) / 3 = .8. Confident are row 0, 1 of
    # the first, 3, 5 of the second, and row 2 of the second though it has the first's label.
    first = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.1])
    labels = np.array([0, 0, 0, 1, 1, 1])
    errors = bl.find_label_errors(Predictions(np.column_stack([first, 1 - first]), "ab", labels))
    assert errors.joint.tolist() == [[2, 1], [0, 3]]
    assert (errors.rows.tolist(), errors.estimate) == ([2], 1)


def test_flipped_labels_come_first():
    probs, labels, wrong = rows_of("a sure model")
    errors = bl.find_label_errors(predictions_of("a sure model"))
    assert wrong[errors.rows[:30]].mean() >= 0.95
    assert abs(errors.estimate - wrong.sum()) <= 0.2 * wrong.sum()
    assert (probs.argmax(1)[errors.rows] != labels[errors.rows]).all()


def test_the_order_of_rows_and_classes_does_not_matter():
    probs, labels, _ = rows_of("a sure model")
    chance = np.random.default_rng(0)
    rows, classes = chance.permutation(len(labels)), chance.permutation(probs.shape[1])
    moved = Predictions(probs[rows][:, classes], "abcd", np.argsort(classes)[labels[rows]])
    expected = bl.find_label_errors(predictions_of("a sure model")).rows
    assert rows[bl.find_label_errors(moved).rows].tolist() == expected.tolist()


def test_rows_without_a_label_are_left_out_and_columns_stay():
    plain = predictions_of("two classes")
    labels = np.where(np.arange(len(plain)) % 2, plain.labels, -1)
    texts = [f"text {row}" for row in range(len(plain))]
    half = plain.replace(labels=labels, columns={"text": texts})
    errors, expected = bl.find_label_errors(half), bl.find_label_errors(plain.take(labels >= 0))
    assert errors.rows.tolist() == (2 * expected.rows + 1).tolist()
    assert errors.predictions.columns["text"].tolist() == [f"text {row}" for row in errors.rows]
    with refused("input", "labels"):
        bl.find_label_errors(plain.replace(labels=None))


def test_a_model_that_agrees_with_every_label():
    probs = np.repeat([[0.9, 0.1], [0.1, 0.9]], 5, axis=0)
    errors = bl.find_label_errors(Predictions(probs, "ab", np.repeat([0, 1], 5)))
    assert errors.predictions is None
    assert (errors.estimate, len(errors.rows)) == (0, 0)


@pytest.fixture
def file(tmp_path):
    texts = [f"text {row} {'long ' * 40}" for row in range(300)]
    predictions_of("two classes", columns={"text": texts}).save(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_the_verb_lists_rows_and_writes_all(file, tmp_path, capsys):
    out = tmp_path / "suspected.csv"
    assert main(["labels", str(file), "-n", "3", "--out", str(out)]) == 0
    head, *rows, empty, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "label", "suggested", "p(label)", "p(suggested)", "text"]
    assert (len(rows), empty) == (3, "")
    expected = EXPECTED["two classes"]
    assert rows[0].startswith(str(expected["rows"][0] + 1))
    assert all(row.endswith("…") and len(row) < 120 for row in rows)
    assert last.startswith(f"{expected['estimate']} of 300 labels")
    written = Predictions.load(out, columns=["text"])
    assert written.ids == tuple(str(row + 1) for row in expected["rows"])
    assert main(["labels", str(file), "-n", "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["rows"], content["estimate"]) == (300, expected["estimate"])
    assert (content["suspected"], len(content["listed"])) == (len(expected["rows"]), 2)
    first = content["listed"][0]
    assert first["probability_of_label"] < first["probability_of_suggested"]
    assert first["label"] != first["suggested"]


def test_the_verb_without_a_suspected_row(tmp_path, capsys):
    probs = np.repeat([[0.9, 0.1], [0.1, 0.9]], 5, axis=0)
    Predictions(probs, "ab", np.repeat([0, 1], 5)).save(tmp_path / "rows.parquet")
    out = tmp_path / "out.csv"
    assert main(["labels", str(tmp_path / "rows.parquet"), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("0 of 10 labels")
    assert "not written" in printed.err
    assert not out.exists()


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "many"])
def test_the_number_of_listed_rows_is_checked(file, count, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["labels", str(file), "-n", count, "--out", str(out)]) == 2
    assert "-n" in capsys.readouterr().err
    assert not out.exists()
