"""decide and apply: thresholds, costs, cascades, gates, and their exit codes."""

import json

import numpy as np
import pytest
from cli_files import fake

from bayeslora.predictions.record import Predictions

BROKEN = 3


def out_of(result):
    """Return the JSON that a command printed."""
    return json.loads(result.out)


@pytest.fixture
def files(tmp_path):
    """Return three sets of predictions of one model, on other rows each."""
    about = {"metadata": {"model_fingerprint": "ours"}}
    return [
        fake(tmp_path / f"{ids}.parquet", rows=400, seed=seed, sharp=4, ids=ids, **about)
        for seed, ids in enumerate(("first-", "second-", "new-"))
    ]


def test_from_held_out_rows_to_decisions(run, files, tmp_path):
    first, second, new = files
    scale, rule, out = (tmp_path / name for name in ("scale.json", "rule.json", "out.parquet"))
    run("recalibrate", "--fit", first, "--save", scale)
    run("decide", second, "--calibration", scale, "--risk", 0.3, "--save", rule)
    run("apply", rule, new, "--out", out)
    applied = Predictions.read(out, columns=["decision"])
    promised = json.loads(rule.read_text())["steps"][1]["promises"][""]
    automated = applied.confidence >= promised["threshold"]
    assert ((applied.columns["decision"] != "person") == automated).all()
    assert 0 < automated.sum() < 400


def test_one_file_holds_conformal_sets_too(run, files, tmp_path):
    first, _, new = files
    saved, out = tmp_path / "sets.json", tmp_path / "out.parquet"
    run("conformal", "--fit", first, "--save", saved, "--alpha", 0.2)
    run("apply", saved, new, "--out", out)
    direct = tmp_path / "direct.parquet"
    run("conformal", "--fit", first, "--apply", new, "--out", direct, "--alpha", 0.2)
    np.testing.assert_array_equal(Predictions.read(out).sets, Predictions.read(direct).sets)


def test_the_gate_exits_3_when_the_promise_is_broken(run, files, tmp_path):
    first, second, _ = files
    saved = tmp_path / "rule.json"
    run("decide", first, "--risk", 0.3, "--save", saved)
    assert run("decide", second, "--gate", saved).code == 0
    rows = Predictions.read(second)
    wrong = rows.replace(labels=(rows.prediction + 1) % rows.num_classes)
    wrong.save(tmp_path / "wrong.parquet")
    assert run("decide", tmp_path / "wrong.parquet", "--gate", saved).code == BROKEN
    theirs = rows.replace(metadata={"model_fingerprint": "theirs"})
    theirs.save(tmp_path / "theirs.parquet")
    assert run("decide", tmp_path / "theirs.parquet", "--gate", saved, "--json").code == BROKEN
    assert run("decide", first, "--gate", saved).code == 2  # its own rows


def test_json_holds_promises_and_curve(run, files):
    content = out_of(run("decide", files[0], "--risk", 0.3, "--per-class", "--json"))
    assert content["by"] == "prediction"
    assert len(content["promises"]) == 3
    assert content["curve"][-1]["accepted"] == content["rows"] == 400


def test_costs_come_from_a_file(run, files, tmp_path):
    costs = tmp_path / "costs.yaml"
    costs.write_text("person: 0.2\n")
    content = out_of(run("decide", files[0], "--costs", costs, "--json"))
    rows = Predictions.read(files[0])
    assert content["accepted"] == (1 - rows.confidence <= 0.2).sum()
    assert "asked of a person" in run("decide", files[0], "--costs", costs).out


def test_a_cascade_asks_the_second_model(run, files, tmp_path):
    rows = Predictions.read(files[0])
    better = rows.with_probs(0.9 * np.eye(3)[rows.labels] + 0.1 / 3)
    better.save(tmp_path / "large.parquet")
    options = ("--then", tmp_path / "large.parquet", "--prices", "1,20", "--risk", 0.2)
    content = out_of(run("decide", files[0], *options, "--json"))
    assert content["accuracy"][0] < content["accuracy"][2] <= content["accuracy"][1] == 1
    assert 1 < content["cost"] < 21
    assert "price" in run("decide", files[0], *options).out


@pytest.mark.parametrize(
    "words",
    [
        "{0}",
        "{0} --risk 2",
        "{0} --risk 0.1 --confidence 1",
        "{0} --risk 0.1 --prices 1,2",
        "{0} --risk 0.1 --then {1}",
        "{0} --risk x --then {0} --prices 1,2",
        "{0} --risk 0.1 --then {1} --prices 1",
        "{0} --risk 0.1 --then {1} --prices 1,2",  # other rows
        "{0} --risk 0.1 --by team",
        "{0} --risk 0.1 --save {dir}/rule.txt",
        "{0} --risk 0.1 --save {0}",
        "{0} --risk 0.1 --calibration {0}",
        "{0} --risk 0.1 --gate {dir}/missing.json",
        "{0} --gate {dir}/missing.json",
        "{0} --costs {dir}/missing.yaml",
        "{dir}/missing.parquet --risk 0.1",
    ],
)
def test_wrong_input_is_refused(refused, files, tmp_path, words):
    refused("decide", *words.format(*files, dir=tmp_path).split())


@pytest.mark.parametrize(
    "words",
    [
        "recalibrate --fit {0}",
        "recalibrate --fit {0} --apply {1}",
        "recalibrate --fit {0} --out {dir}/out.parquet",
        "recalibrate --fit {0} --save {dir}/out.parquet",
        "apply {0} {1} --out {dir}/out.parquet",
        "apply {dir}/missing.json {1} --out {dir}/out.parquet",
    ],
)
def test_incomplete_outputs_are_refused(refused, files, tmp_path, words):
    refused(*words.format(*files, dir=tmp_path).split())
