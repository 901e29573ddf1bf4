"""recalibrate: a recalibrator from one predictions file, applied to another."""

import json

import numpy as np
import pytest
from cli_files import fake

from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrate import RECALIBRATORS, build
from bayeslora.recalibration.temperature import Temperature


def test_recalibrate_fits_on_one_file_and_applies_to_another(run, tmp_path):
    fitted = fake(tmp_path / "valid.parquet", rows=90, seed=1, sharp=4, ids="v-")
    applied = fake(tmp_path / "test.parquet", seed=2, sharp=4, ids="t-")
    out = tmp_path / "out.parquet"
    result = run("recalibrate", "--fit", fitted, "--apply", applied, "--out", out)
    assert result.code == 0
    scaler = Temperature().fit(Predictions.load(fitted))
    assert scaler.temperature > 1  # the probabilities were made too sharp
    assert f"{scaler.temperature:.4f}" in result.out
    assert result.out.count("→") == 4
    written = Predictions.load(out)
    expected = scaler.apply(Predictions.load(applied))
    np.testing.assert_array_equal(written.probs, expected.probs)
    assert written.name == "test+temperature"
    again = run(
        "recalibrate", "--fit", fitted, "--apply", applied, "--out", out, "--overwrite", "--json"
    )
    content = json.loads(again.out)
    assert content["temperature"] == scaler.temperature
    assert (
        content["apply"]["after"]["scores"]["nll"]["value"]
        < (content["apply"]["before"]["scores"]["nll"]["value"])
    )


def test_recalibrate_refuses_the_rows_it_is_fitted_to(refused, tmp_path):
    fitted = fake(tmp_path / "valid.parquet", seed=1)
    out = tmp_path / "out.parquet"
    assert "same file" in refused("recalibrate", "--fit", fitted, "--apply", fitted, "--out", out)
    shared = fake(tmp_path / "test.parquet", seed=2)
    message = refused("recalibrate", "--fit", fitted, "--apply", shared, "--out", out)
    assert "share 60 rows" in message
    assert "'row-0'" in message
    copy = fake(tmp_path / "copy.parquet", seed=1, ids="other-")
    message = refused("recalibrate", "--fit", fitted, "--apply", copy, "--out", out)
    assert "100 % of the rows" in message


def test_recalibrate_refuses_another_model(refused, tmp_path):
    fitted, applied = (
        fake(tmp_path / f"{ids}.parquet", ids=ids, seed=seed, metadata={"model_fingerprint": ids})
        for seed, ids in enumerate(("v-", "t-"))
    )
    message = refused(
        "recalibrate", "--fit", fitted, "--apply", applied, "--out", tmp_path / "out.parquet"
    )
    assert "different models" in message


def test_recalibrate_needs_labels(refused, tmp_path):
    fitted = fake(tmp_path / "valid.parquet", ids="v-", outside=True)
    applied = fake(tmp_path / "test.parquet", ids="t-", seed=1)
    out = tmp_path / "out.parquet"
    assert "needs labels" in refused(
        "recalibrate", "--fit", fitted, "--apply", applied, "--out", out
    )


@pytest.mark.parametrize("method", [*RECALIBRATORS, "histogram:num_bins=5,bins=equal-width"])
def test_every_recalibrator_shows_before_and_after(run, tmp_path, method):
    fitted = fake(tmp_path / "valid.parquet", rows=90, seed=1, sharp=4, ids="v-")
    applied = fake(tmp_path / "test.parquet", seed=2, sharp=4, ids="t-")
    out = tmp_path / "out.parquet"
    options = ["--fit", fitted, "--apply", applied, "--out", out, "--method", method]
    text = run("recalibrate", *options).out
    for score in ("NLL (nats)", "ECE"):
        for rows in ("--fit", "--apply"):
            assert any(f"{score}, {rows}" in line and "→" in line for line in text.splitlines())
    name = method.partition(":")[0]
    assert ["method", name] in [line.split() for line in text.splitlines()]
    expected = build(method).fit(Predictions.load(fitted))
    written = Predictions.load(out)
    np.testing.assert_array_equal(written.probs, expected.apply(Predictions.load(applied)).probs)
    assert written.metadata["recalibration"] == name
    content = json.loads(run("recalibrate", *options, "--overwrite", "--json").out)
    assert (content["method"], content["rows"]) == (name, 90)
    assert content.items() >= expected.report().items()
    before, after = (
        content["apply"][side]["scores"]["nll"]["value"] for side in ("before", "after")
    )
    assert after < before
    for side, rows in content.items():
        if side in {"fit", "apply"}:
            moved = {rows[when]["scores"]["accuracy"]["value"] for when in ("before", "after")}
            assert (f"accuracy, --{side}" in text) == (len(moved) == 2)


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("platt", ["unknown --method 'platt'", "'beta'", "'temperature'"]),
        ("histogram:bins=even", ["unknown bins 'even'", "'equal-mass'"]),
        ("matrix:scale=1", ["unknown option of method matrix 'scale'", "'prior_scale'"]),
        ("vector:prior_scale", ["key=value", "'prior_scale'"]),
    ],
)
def test_a_wrong_method_is_refused(refused, tmp_path, method, parts):
    fitted = fake(tmp_path / "valid.parquet", seed=1, ids="v-")
    applied = fake(tmp_path / "test.parquet", seed=2, ids="t-")
    out = tmp_path / "out.parquet"
    options = ["--fit", fitted, "--apply", applied, "--out", out, "--method", method]
    message = refused("recalibrate", *options)
    for part in parts:
        assert part in message
