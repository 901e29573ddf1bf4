"""recalibrate: a recalibrator from one predictions file, applied to another."""

import json

import numpy as np
import pytest
from cli_files import fake

from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrate import RECALIBRATORS, build


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


@pytest.mark.parametrize(
    "method",
    [*(name for name in RECALIBRATORS if name != "prior"), "histogram:num_bins=5,bins=equal-width"],
)
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
