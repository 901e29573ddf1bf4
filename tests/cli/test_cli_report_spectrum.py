"""`bayeslora report --spectrum`: what a model's adapter changed, beside its scores."""

import json

import pytest
from cli_files import fake

from bayeslora.checkpoint import read_model
from bayeslora.classifier import BayesianClassifier


@pytest.fixture
def file(tmp_path):
    return fake(tmp_path / "a.parquet", seed=1, name="plain")


@pytest.fixture
def never_loaded(monkeypatch):
    """Fail the test if a backbone is loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(BayesianClassifier, "from_pretrained", load)


def test_the_report_has_what_info_says(run, world, file, tmp_path):
    out = tmp_path / "out"
    options = (
        "--spectrum",
        world.model,
        "--spectrum",
        f"again={world.model}",
        "--set",
        "device=cpu",
    )
    result = run("report", file, *options, "--out", out)
    assert (result.code, result.err) == (0, "")
    first, again = json.loads((out / "scores.json").read_text())["spectra"]
    assert (first["label"], again["label"]) == ("model", "again")
    assert first["layers"] == again["layers"]
    (layers,) = json.loads(run("info", world.model, "--spectrum", "--json").out)["members"]
    assert first["layers"] == layers
    text = (out / "report.md").read_text()
    assert "4 of 4 layers changed" in text
    assert "within 1e-5" in text
    assert f"(fingerprint {read_model(world.model).fingerprint})" in text
    assert {"spectrum-1.svg", "spectrum-2.svg"} <= {
        path.name for path in (out / "figures").iterdir()
    }


def test_what_cannot_be_shown_is_refused_before_anything_is_loaded(
    refused, world, file, tmp_path, never_loaded
):
    report = ("report", file, "--out", tmp_path / "out")
    missing = tmp_path / "missing"
    message = refused(*report, "--spectrum", world.model, "--spectrum", f"x={missing}")
    assert f"{missing} is not a bayeslora model" in message
    assert "is not a bayeslora model" in refused(*report, "--spectrum", world.llama)
    assert "expected MODEL or LABEL=MODEL" in refused(*report, "--spectrum", "x=")
    twice = ("--spectrum", world.model, "--spectrum", f"model={world.model}")
    assert f"'model' is already used for {world.model}" in refused(*report, *twice)
    assert "device has no effect" in refused(*report, "--set", "device=cpu")
