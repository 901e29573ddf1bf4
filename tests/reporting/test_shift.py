"""Calibration against severity: methods, severities, and the files written."""

import json

import numpy as np
import pytest
from refusal import refused

from bayeslora.cli import main
from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.collection import Source, gather
from bayeslora.reporting.assess import SHIFT_KEYS, assess, shift_curves
from bayeslora.reporting.report import report

pytestmark = pytest.mark.usefixtures("blank_figures")

OPTIONS = {"num_bins": 15, "num_resamples": 5, "seed": 0}


def worse(predictions, severity, kind="typos", **notes):
    """Return the predictions with some labels exchanged and the severity in the metadata."""
    labels = predictions.labels.copy()
    labels[: 10 * severity] = (labels[: 10 * severity] + 1) % predictions.num_classes
    notes = {"corruption": kind, "severity": str(severity), **notes}
    return predictions.replace(labels=labels, metadata={**predictions.metadata, **notes})


def assessed(*items):
    return assess(gather(list(items)), OPTIONS)


def curves(methods, *shifted):
    return shift_curves(
        assessed(*methods), [Source(predictions) for predictions in shifted], OPTIONS
    )


def test_a_curve_begins_with_the_rows_as_they_are(make):
    clean = make("m")
    [curve] = curves([clean], worse(clean, 3), worse(clean, 1))
    assert (curve.label, curve.kind, list(curve.scores)) == ("m", "typos", [0, 1, 3])
    for severity, predictions in ((0, clean), (1, worse(clean, 1)), (3, worse(clean, 3))):
        expected = evaluate(predictions, **OPTIONS)
        assert {key: expected[key] for key in SHIFT_KEYS} == dict(curve.scores[severity])
    assert curve.scores[3]["accuracy"].value < curve.scores[0]["accuracy"].value


def test_several_methods_are_told_apart_by_fingerprint_or_name(make):
    first = make("a", metadata={"model_fingerprint": "1"})
    second = make("b", sharpness=2.0, metadata={"model_fingerprint": "2"})
    by_fingerprint = curves([first, second], worse(second, 1).replace(name="a"), worse(first, 1))
    assert [curve.label for curve in by_fingerprint] == ["a", "b"]
    accuracy = [curve.scores[1]["accuracy"].value for curve in by_fingerprint]
    assert accuracy[0] == evaluate(worse(first, 1), **OPTIONS)["accuracy"].value
    named = curves([make("a"), make("b", sharpness=2.0)], worse(make("b", sharpness=2.0), 2))
    assert [curve.label for curve in named] == ["b"]


def test_what_is_not_said_is_refused(make):
    clean = make("m")
    with refused("input", "corruption"):
        curves([clean], clean)
    with refused("input", "severity"):
        curves([clean], clean.replace(metadata={"corruption": "typos", "severity": "x"}))
    with refused("input", "severity 1"):
        curves([clean], worse(clean, 1), worse(clean, 1))
    with refused("input", "labels"):
        curves([clean], worse(clean, 1).replace(labels=None))
    with refused("input", "'a', 'b'"):
        curves([make("a"), make("b")], worse(clean, 1))


def test_the_page_and_the_files_have_it(make, tmp_path):
    clean = make("m")
    shifted = [worse(clean, 1), worse(clean, 2), worse(clean, 2, "word_drop")]
    page = report(clean, shifted=shifted, out=tmp_path / "r", num_resamples=5)
    assert "Calibration under shift" in page.read_text()
    names = {path.name for path in (tmp_path / "r" / "figures").iterdir()}
    assert {"shift-1.svg", "shift-2.svg"} <= names
    content = json.loads((tmp_path / "r" / "scores.json").read_text())["shift"]
    assert [curve["corruption"] for curve in content] == ["typos", "word_drop"]
    assert [entry["severity"] for entry in content[0]["scores"]] == [0, 1, 2]
    assert "shift-1" in (tmp_path / "r" / "report.md").read_text()
    plain = report(clean, out=tmp_path / "p", num_resamples=5)
    assert "Calibration under shift" not in plain.read_text()


def test_a_run_directory_keeps_corruptions_apart_from_other_sets(make, tmp_path):
    folder = tmp_path / "run" / "predictions"
    folder.mkdir(parents=True)
    clean = make("m")
    clean.save(folder / "test.parquet")
    worse(clean, 1).save(folder / "typos-1.parquet")
    make("m", seed=5).save(folder / "far.parquet")
    worse(clean, 2).save(tmp_path / "more.parquet")
    more = ["--shifted", str(tmp_path / "more.parquet")]
    assert main(["report", str(tmp_path / "run"), *more, "--out", str(tmp_path / "r")]) == 0
    content = json.loads((tmp_path / "r" / "scores.json").read_text())
    assert list(content["methods"][0]["ood"]) == ["far"]
    assert [entry["severity"] for entry in content["shift"][0]["scores"]] == [0, 1, 2]
    np.testing.assert_equal(len(content["shift"]), 1)
