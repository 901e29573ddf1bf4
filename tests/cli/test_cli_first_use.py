"""What people type first: a checkpoint and its rows, other names of columns, no posterior."""

import csv
import json

import pytest
from cli_files import fake

from bayeslora import BayesianClassifier, Predictions, evaluate
from bayeslora.posteriors.registry import COMPARED


def as_csv(path, source, column):
    """Write JSON lines as CSV whose labels are in a column of another name."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", column, "half"])
        writer.writerows([row["text"], row["label"], n % 2] for n, row in enumerate(rows))
    return path


@pytest.mark.parametrize("kind", ["classifier", "model"])
def test_a_classifier_is_evaluated_on_rows(run, world, kind):
    path = getattr(world, kind)
    if kind == "model":
        clf = BayesianClassifier.from_pretrained(path, progress=False)
    else:
        clf = BayesianClassifier.from_transformers(path, "mle", progress=False)
    predictions = clf.predict(world.test)
    result = run("evaluate", path, world.test, "--quiet", "--json")
    assert result.code == 0, result.err
    content = json.loads(result.out)
    scores = evaluate(predictions)
    assert content["n"] == len(predictions)
    assert content["scores"]["nll"]["value"] == scores["nll"].value
    assert content["name"] == (predictions.name if kind == "model" else "classifier")


def test_a_report_names_a_classifier_and_shows_its_texts(run, refused, world, tmp_path):
    out = tmp_path / "page"
    words = ["report", world.classifier, world.test, "--name", "mine", "--out", out]
    done = run(*words, "--quiet", "--json")
    assert done.code == 0, done.err
    assert [each["name"] for each in json.loads(done.out)["methods"]] == ["mine"]
    assert "mine" in (out / "index.html").read_text(encoding="utf-8")
    for command in (
        ["evaluate", world.classifier],
        ["evaluate", world.classifier, world.test, world.model, world.test, "--name", "x"],
        ["evaluate", tmp_path],
    ):
        refused(*command)


def test_labels_in_another_column_are_found_or_said(run, refused, world, tmp_path):
    data = as_csv(tmp_path / "test.csv", world.test, "topic")
    message = refused("evaluate", world.classifier, data)
    assert all(name in message for name in ("'topic'", "--label-column"))
    message = refused("evaluate", world.classifier, data, "--set", "text_column=body")
    assert all(name in message for name in ("'body'", "--text-column", "'label'", "--label-column"))
    options = ["--label-column", "topic", "--group-by", "half", "--json", "--quiet"]
    content = json.loads(run("evaluate", world.classifier, data, *options).out)
    assert {part["n"] for part in content["groups"]["half"].values()} == {30}
    predict = ["predict", world.model, data, "--out", tmp_path / "p.csv", "--quiet"]
    result = run(*predict)
    assert "0 of them labelled" in result.out
    assert all(name in result.err for name in ("'topic'", "--label-column"))
    result = run(*predict, "--label-column", "topic", "--overwrite")
    assert "60 of them labelled" in result.out
    assert result.err == ""
    clf = BayesianClassifier.from_pretrained(world.model, progress=False)
    assert clf.predict(data, label_column="topic").labelled.all()
    clf.predict_to_file(data, tmp_path / "q.csv", label_column="topic")
    assert Predictions.load(tmp_path / "q.csv").labelled.all()


def test_predictions_with_labels_in_another_column(run, tmp_path):
    path = fake(tmp_path / "p.csv")
    path.write_text(path.read_text().replace("label", "truth", 1))
    result = run("evaluate", path, "--json")
    assert json.loads(result.out)["n_labelled"] == 0
    assert all(name in result.err for name in ("'truth'", "--label-column"))
    result = run("evaluate", path, "--label-column", "truth", "--name", "mine", "--json")
    content = json.loads(result.out)
    assert (content["n_labelled"], content["name"], result.err) == (60, "mine", "")


def test_calibrate_chooses_the_best_by_default(run, world, tmp_path):
    calibrate = ["calibrate", world.classifier, "--quiet", "--json"]
    content = json.loads(run(*calibrate, world.train, "--out", tmp_path / "m").out)
    assert {row["posterior"] for row in content["comparison"]["rows"]} == {*COMPARED}
    few = tmp_path / "few.jsonl"
    few.write_text("".join(world.train.read_text().splitlines(keepends=True)[:12]))
    content = json.loads(run(*calibrate, few, "--out", tmp_path / "n").out)
    assert content["posterior"]["name"] == "laplace"


def test_a_result_worse_than_the_network_is_said(run, world, tmp_path):
    calibrate = ["calibrate", world.classifier, world.train, "--hold-out", 0.5]
    # Under a prior this wide nothing is certain.
    wide = "laplace:prior_precision=1e-9"
    calibrate += ["--posterior", wide, "--out", tmp_path / "m", "--json"]
    result = run(*calibrate)
    content = json.loads(result.out)
    before, after = (content[when]["scores"]["nll"]["value"] for when in ("before", "after"))
    assert after > before
    (line,) = [line for line in result.err.splitlines() if "above that before" in line]
    assert f"{after:.3f}" in line
