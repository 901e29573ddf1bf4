"""Calibrations: what is saved comes back, and what it may not be applied to is refused."""

import json

import numpy as np
import pytest
from refusal import refused
from simulated import CLASSES, simulated

import bayeslora as bl
from bayeslora.conformal import CONFORMAL
from bayeslora.conformal import build as build_sets
from bayeslora.decisions.artefact import Calibration, load_calibration
from bayeslora.decisions.threshold import check
from bayeslora.recalibration.recalibrate import RECALIBRATORS, build


@pytest.mark.parametrize("method", [*RECALIBRATORS])
def test_every_recalibrator_comes_back_bit_for_bit(method, tmp_path):
    rows, new = simulated(sharp=2), simulated(90, 1, "new-", sharp=2)
    step = build(method).fit(rows)
    Calibration.on(rows).then(step, rows).save(tmp_path / "c.json")
    again = load_calibration(tmp_path / "c.json")
    applied = again.apply(new)
    np.testing.assert_array_equal(applied.probs, step.apply(new).probs)
    assert applied.metadata == step.apply(new).metadata
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "c.json").read_text()


@pytest.mark.parametrize("method", [*CONFORMAL, "lac:classwise=true"])
@pytest.mark.parametrize("rows", [8, 600])  # too few: infinite thresholds
def test_every_conformal_method_comes_back(method, rows, tmp_path):
    fitted, new = simulated(rows), simulated(90, 1, "new-")
    step = build_sets(method).fit(fitted)
    Calibration.on(fitted).then(step, fitted).save(tmp_path / "c.json")
    applied = load_calibration(tmp_path / "c.json").apply(new)
    np.testing.assert_array_equal(applied.sets, step.apply(new).sets)


def test_a_decision_follows_the_recalibrator(tmp_path):
    first, second, new = (simulated(900, i, f"{i}-", sharp=2) for i in range(3))
    before = Calibration.on(first).then(build("temperature").fit(first), first)
    whole = bl.decide(second, 0.1, calibration=before)
    whole.save(tmp_path / "c.json")
    applied = bl.load_calibration(tmp_path / "c.json").apply(new)
    step = before.steps[0]
    assert whole.rule == bl.decide(step.apply(second), 0.1).rule
    automated = step.apply(new).confidence >= whole.rule.promises[""].threshold
    assert ((applied.columns["decision"] != "person") == automated).all()
    assert len(whole.rows) == 1800
    for rows in (first, second):  # both fitted something
        with refused("input", "900"):
            whole.apply(rows)


def test_a_new_decision_replaces_the_former():
    first, second = simulated(900, 0, "a-"), simulated(900, 1, "b-")
    former = bl.decide(first, 0.2)
    assert len(bl.decide(second, 0.1, calibration=former).steps) == 1


def test_another_model_needs_force():
    rows = simulated()
    calibration = Calibration.on(rows).then(build("temperature").fit(rows), rows)
    other = simulated(50, 1, "new-", metadata={"model_fingerprint": "theirs"})
    with refused("another-model", "theirs", "ours"):
        calibration.apply(other)
    assert len(calibration.apply(other, force=True)) == 50
    calibration.apply(simulated(50, 1, "new-", metadata={}))  # of no known model


def test_other_classes_are_refused_even_with_force():
    calibration = bl.decide(simulated(), 0.2)
    other = simulated(50, 1, "new-")
    other = other.replace(classes=("a", "b", "d"))
    with refused("another-model", "d"):
        calibration.apply(other, force=True)


def test_recalibrated_predictions_are_not_calibrated_twice():
    rows = simulated(sharp=2)
    step = build("temperature").fit(rows)
    calibration = Calibration.on(rows).then(step, rows)
    with refused("input", "temperature"):
        calibration.apply(step.apply(simulated(50, 1, "new-")))


def test_rows_without_ids_are_known_by_their_probabilities():
    rows = simulated(prefix=None)
    calibration = bl.decide(rows, 0.2)
    assert not calibration.named
    with refused("input", "600"):
        calibration.apply(rows)
    shares = 1 + np.round(rows.probs * 4)
    votes = rows.replace(probs=shares / shares.sum(1, keepdims=True))  # vote shares repeat
    bl.decide(votes, 0.2).apply(votes.take(np.arange(300)))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"steps": 3},
        {"steps": [{"step": "recalibrator", "name": "temperature"}]},
        {"steps": [{"step": "code", "name": "x", "options": {}, "rows": 1, "fitted": {}}]},
        {"classes": ["a", "b"]},
        {"rows": None},
        {"reference": {"x": 1}},
        {"reference": {"edges": [], "confidence": [9], "predicted": [3, 3, 3], "unfamiliar": {}}},
    ],
)
def test_damaged_files_are_refused(change, tmp_path):
    rows, path = simulated(), tmp_path / "c.json"
    Calibration.on(rows).then(build("vector").fit(rows), rows).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with refused("damaged", path.name):
        load_calibration(path)


@pytest.mark.parametrize("value", [-1, 0, None, "x"])
def test_a_damaged_temperature_is_refused(value, tmp_path):
    rows, path = simulated(), tmp_path / "c.json"
    Calibration.on(rows).then(build("temperature").fit(rows), rows).save(path)
    content = json.loads(path.read_text())
    content["steps"][0]["fitted"]["temperature"] = value
    path.write_text(json.dumps(content))
    with refused("option", path.name, "temperature"):
        load_calibration(path)


def test_answers_about_one_state_count_once(tmp_path):
    lines = [
        {"id": f"{n}", "state": f"s{n}", "answers": answers, "labels": {"a": n > 2, "b": n > 2}}
        for answers in ({name: {"type": "noul", "noul": 0.95} for name in "ab"},)
        for n in range(80)
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    made = bl.decide(path, 0.2)
    assert made.rule.cluster_by == "state"
    assert (made.rule.promises[""].rows, sum(made.reference.predicted)) == (80, 80)
    later = path.with_name("later.jsonl")
    later.write_text("\n".join(json.dumps(line | {"id": f"new {line['id']}"}) for line in lines))
    batch = bl.Predictions.read(later, columns=["state"])
    assert check(made.rule, batch).accepted == 80
    assert bl.monitor(made, batch).batches[0].labelled == 80


def test_costs_of_other_classes_are_refused(tmp_path):
    path = tmp_path / "c.json"
    bl.decide(simulated(), costs={"person": 0.2}).save(path)
    content = json.loads(path.read_text())
    assert content["classes"] == list(CLASSES)
    content["steps"][0]["costs"] = [[0, 1], [1, 0]]
    path.write_text(json.dumps(content))
    with refused("input", path.name):
        load_calibration(path)


def test_a_reviewer_reads_each_promise_in_the_file(tmp_path):
    rows, path = simulated(2000), tmp_path / "c.json"
    made = bl.decide(rows, 0.2, per_class=True)
    made.save(path)
    step = json.loads(path.read_text())["steps"][0]
    assert {*step} == {"step", "says", "risk", "confidence", "by", "cluster_by", "promises"}
    assert len(step["says"]) == len(step["promises"]) == len(CLASSES)
    for says, value in zip(step["says"], step["promises"], strict=True):
        for fact in (value, "20 %", "95 %", f"{step['promises'][value]['threshold']:.4f}"):
            assert fact in says
    assert load_calibration(path).rule == made.rule


def test_a_rule_of_costs_has_no_idle_promise(tmp_path):
    made = bl.decide(simulated(), costs={"person": 0.2})
    made.save(tmp_path / "c.json")
    step = json.loads((tmp_path / "c.json").read_text())["steps"][0]
    assert {*step} == {"step", "costs", "person"}
    assert load_calibration(tmp_path / "c.json").rule == made.rule


def test_risk_and_costs_exclude_each_other():
    for options in ({}, {"risk": 0.1, "costs": {"person": 1}}):
        with refused("input", "risk", "costs"):
            bl.decide(simulated(), **options)
    with refused("input", "by"):
        bl.decide(simulated(), 0.1, by="x", per_class=True, calibration=None)
    with refused("input", "person"):
        bl.decide(bl.Predictions([[0.5, 0.5]], ("person", "b"), [0]), 0.1)
