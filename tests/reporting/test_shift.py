"""Calibration against severity: methods, severities, and the files written."""

import json

import pytest
from refusal import refused

from bayeslora.cli import main
from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.collection import Source, gather
from bayeslora.reporting.assess import assess, shift_scores

pytestmark = pytest.mark.usefixtures("blank_figures")

OPTIONS = {"num_bins": 15, "num_resamples": 5, "seed": 0}


def worse(predictions, severity, kind="typos", **notes):
    """Return the predictions with some labels exchanged and the severity in the metadata."""
    labels = predictions.labels.copy()
    labels[: 10 * severity] = (labels[: 10 * severity] + 1) % predictions.num_classes
    notes = {"corruption": kind, "severity": str(severity), **notes}
    return predictions.replace(labels=labels, metadata={**predictions.metadata, **notes})


def shifts(methods, *shifted):
    methods = assess(gather(list(methods), None), OPTIONS)
    return shift_scores(methods, [Source(predictions) for predictions in shifted], OPTIONS)


def test_every_method_begins_with_its_rows_as_they_are(make):
    first = make("a", metadata={"model_fingerprint": "1"})
    second = make("b", sharpness=2.0, metadata={"model_fingerprint": "2"})
    # The fingerprint decides, whatever the file is called.
    shift = shifts([first, second], worse(second, 3).replace(name="a"), worse(first, 1))
    assert [(label, severity) for label, _, severity in shift] == [
        *(("a", 0), ("a", 1), ("b", 0), ("b", 3))
    ]
    for predictions, key in ((first, ("a", "typos", 0)), (worse(second, 3), ("b", "typos", 3))):
        assert shift[key].scores == evaluate(predictions, **OPTIONS).scores
    assert list(shifts([make("a"), make("b")], worse(make("b"), 2))) == [
        ("b", "typos", 0),
        ("b", "typos", 2),
    ]


def test_what_is_not_known_is_refused(make):
    clean = make("m")
    for methods, predictions, words in (
        (["m"], clean, "corruption"),
        (["m"], clean.replace(metadata={"corruption": "typos", "severity": "x"}), "severity"),
        (["m"], worse(clean, 1).replace(labels=None), "labels"),
        (["a", "b"], worse(clean, 1), "'a', 'b'"),
    ):
        with refused("input", words):
            shifts(map(make, methods), predictions)


def test_a_run_directory_and_its_corruptions(make, tmp_path):
    folder = tmp_path / "run" / "predictions"
    folder.mkdir(parents=True)
    clean = make("m")
    clean.save(folder / "test.parquet")
    make("m", seed=5).save(folder / "far.parquet")
    more = ["--shifted"]
    for severity in (1, 2):
        more.append(str(tmp_path / f"typos-{severity}.parquet"))
        worse(clean, severity).save(more[-1])
    assert main(["report", str(tmp_path / "run"), *more, "--out", str(tmp_path / "r")]) == 0
    content = json.loads((tmp_path / "r" / "scores.json").read_text())
    assert list(content["methods"][0]["ood"]) == ["far"]
    assert [(entry["corruption"], entry["severity"]) for entry in content["shift"]] == [
        ("typos", 0),
        ("typos", 1),
        ("typos", 2),
    ]
    assert "| m | typos | 2 |" in (tmp_path / "r" / "report.md").read_text()
