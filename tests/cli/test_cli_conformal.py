"""conformal: sets for one predictions file by thresholds from another, and their use elsewhere."""

import csv
import json

import numpy as np
import pytest
from cli_files import fake

from bayeslora.conformal import CONFORMAL, conformal_sets
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import SET_SCORES
from bayeslora.predictions.record import Predictions


@pytest.fixture
def files(tmp_path):
    fitted = fake(tmp_path / "valid.parquet", rows=90, seed=1, ids="v-", metadata={"link": "mc"})
    applied = fake(tmp_path / "test.parquet", seed=2, ids="t-", metadata={"link": "mc"})
    return ["--fit", fitted, "--apply", applied, "--out", tmp_path / "out.parquet"]


@pytest.mark.parametrize(
    "method", [*CONFORMAL, "aps:randomised=false", "raps:penalty=0.2,k_reg=2,classwise=true"]
)
def test_sets_are_made_shown_and_saved(run, files, method):
    result = run("conformal", *files, "--alpha", 0.2, "--method", method)
    assert result.code == 0
    expected = conformal_sets(files[1], files[3], 0.2, method)
    written = Predictions.load(files[5])
    np.testing.assert_array_equal(written.sets, expected.sets)
    assert written.metadata["conformal"] == method.partition(":")[0]
    assert written.metadata["conformal_alpha"] == "0.2"
    scores = evaluate(written)
    assert "target coverage" in result.out
    for key in SET_SCORES:
        assert f"{scores[key].value:.3f} [" in result.out
    content = json.loads(run("conformal", *files, "--method", method, "--overwrite", "--json").out)
    assert (content["method"], content["alpha"], content["rows"]) == (
        method.partition(":")[0],
        0.1,
        90,
    )
    assert content["classwise"] == ("classwise" in method)
    assert set(content["thresholds"]) == {"a", "b", "c"}


def test_evaluate_report_and_csv_carry_the_sets(run, files, tmp_path):
    files[5] = tmp_path / "out.csv"
    assert run("conformal", *files).code == 0
    with files[5].open(newline="") as stream:
        header = next(csv.reader(stream))
    assert header[-3:] == ["set_a", "set_b", "set_c"]
    content = json.loads(run("evaluate", files[5], "--json").out)
    expected = evaluate(files[5])
    assert content["scores"]["coverage"]["value"] == expected["coverage"].value
    for word in ("Coverage", "Set size", "Sets of one class", "Empty sets"):
        assert word in run("evaluate", files[5]).out
        if word in {"Coverage", "Set size"}:
            assert word in run("evaluate", files[5], files[3]).out
    assert run("report", files[5], files[3], "--out", tmp_path / "report").code == 0
    scores = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert scores["methods"][0]["scores"].keys() >= SET_SCORES.keys()
    assert "Set size" in (tmp_path / "report" / "report.md").read_text()
    assert "Set size" in (tmp_path / "report" / "index.html").read_text()


def test_refusals(refused, files, tmp_path):
    out = files[4:]
    message = refused("conformal", "--fit", files[1], "--apply", files[1], *out)
    assert "same file" in message
    assert "a conformal threshold must not be applied" in message
    shared = fake(tmp_path / "shared.parquet", seed=5, ids="v-")
    assert "share 60 rows" in refused("conformal", "--fit", files[1], "--apply", shared, *out)
    bare = fake(tmp_path / "bare.parquet", seed=6, ids="b-", outside=True)
    assert "needs labels" in refused("conformal", "--fit", bare, "--apply", files[3], *out)
    assert "unknown method 'mondrian'" in refused("conformal", *files, "--method", "mondrian")
    for options in (["--method", "lac:alpha=2"], ["--alpha", "2"]):
        message = refused("conformal", *files, *options)
        assert "alpha" in message
        assert "got 2" in message
    assert "got -1" in refused("conformal", *files, "--set", "seed=-1")
    assert "'.json'" in refused("conformal", *files[:5], tmp_path / "out.json")
