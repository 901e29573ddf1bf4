"""calibrate: a posterior for a finished classifier, third-party or ours."""

import json

import numpy as np
import tiny
import torch
from safetensors.torch import load_file

from bayeslora import BayesianClassifier, Predictions, evaluate


def test_calibrate_a_foreign_classifier(run, world, tmp_path):
    out = tmp_path / "calibrated"
    result = run(
        *["calibrate", world.classifier, world.train, "--validation", world.valid],
        *["--posterior", "laplace", "--out", out, "--quiet"],
    )
    assert result.code == 0, result.err
    assert str(out) in result.out
    assert "prior precision" in result.out
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in result.out.splitlines()}
    assert lines["layer"] == "layer classifier"
    assert "laplace, fitted to 90 calibration rows" in result.out
    clf = BayesianClassifier.from_transformers(str(world.classifier), "laplace", progress=False)
    clf.calibrate(world.train, world.valid)
    own = evaluate(softmax_of(world.classifier, world.valid))
    card = (out / "README.md").read_text(encoding="utf-8")
    for scores in clf.validation_scores:
        for key in ("nll", "ece"):
            assert f"{scores[key].value:.3f}" in result.out
            assert f"{scores[key].value:.3f}" in card
    assert f"{own['nll'].value:.3f}" in result.out


def test_rows_are_held_out_of_the_one_file(run, refused, world, tmp_path):
    calibrate = ["calibrate", world.classifier, world.train, "--hold-out"]
    out = tmp_path / "m"
    content = json.loads(run(*calibrate, 0.2, "--out", out, "--quiet", "--json").out)
    result = content["calibration"]
    assert (result["rows"], result["validation_rows"], result["hold_out"]) == (72, 18, 0.2)
    assert "18" in (out / "README.md").read_text("utf-8").split("Validation rows:")[1][:4]
    laplace = ["--posterior", "laplace", "--out", tmp_path / "n", "--quiet"]
    assert "--validation" not in run(*calibrate, 0.2, *laplace).out
    new = ["--out", tmp_path / "o"]
    assert "--hold-out" in refused(*calibrate, 0.2, "--validation", world.valid, *new)
    assert "--hold-out" in refused(*calibrate, 1, *new)


def softmax_of(path, data):
    """Return the classifier's own probabilities, computed by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    with torch.no_grad():
        inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        probs = model(**inputs).logits.double().softmax(1)
    labels = [tiny.CLASSES.index(row["label"]) for row in rows]
    return Predictions(probs.numpy(), tiny.CLASSES, np.array(labels))


def test_calibrate_a_model_of_ours_keeps_the_adapter(run, world, tmp_path):
    out = tmp_path / "again"
    calibrate = ["calibrate", world.model, world.valid, "--out", out, "--quiet"]
    result = run(*calibrate, "--posterior", "laplace:structure=full", "--json")
    content = json.loads(result.out)
    assert content["posterior"]["structure"] == "full"
    assert content["chosen"]["prior_precision"] > 0
    assert content["layer"] is None
    assert content["calibration"]["rows"] == 45
    old, new = (load_file(path / "adapter.safetensors") for path in (world.model, out))
    assert all(torch.equal(old[name], new[name]) for name in old | new)
    predicted = run("predict", out, world.test, "--out", tmp_path / "p.parquet", "--quiet")
    assert predicted.code == 0


def test_overwrite_replaces_a_model_and_nothing_else(run, refused, world, tmp_path):
    out = tmp_path / "m"
    calibrate = ["calibrate", world.classifier, world.train, "--out", out, "--quiet"]
    calibrate += ["--posterior", "laplace"]
    result = run(*calibrate)
    assert result.code == 0
    assert "exists" in refused(*calibrate)
    assert run(*calibrate, "--overwrite").code == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    for verb in (
        ["calibrate", world.classifier, world.train],
        ["fit", world.train, "--backbone", world.llama],
    ):
        message = refused(*verb, "--out", tmp_path / "thesis", "--overwrite")
        assert "chapter.txt" in message
