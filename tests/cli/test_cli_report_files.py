"""Files that `report` and `compare` write on demand, and the model card."""

import json
from pathlib import Path

import pytest
from cli_files import fake

from bayeslora.metrics.evaluate import evaluate


@pytest.fixture
def files(tmp_path):
    return [
        fake(tmp_path / "a.parquet", seed=1, name="plain"),
        fake(tmp_path / "b.parquet", seed=2, name="bayes"),
    ]


def test_compare_writes_its_table(run, files, tmp_path):
    result = run("compare", *files, "--out", tmp_path / "table.md")
    assert result.code == 0
    assert "plain (reference)" in result.out
    assert "plain (reference)" in (tmp_path / "table.md").read_text(encoding="utf-8")
    table = tmp_path / "one.tex"
    assert run("compare", *files, "--out", table, "--json").out.startswith("{")
    assert "tabular" in table.read_text(encoding="utf-8")


def test_a_report_says_its_files_and_scores_as_json(run, files, tmp_path):
    out = tmp_path / "out"
    result = json.loads(run("report", *files, "--out", out, "--json").out)
    assert result["page"] == str(out / "index.html")
    assert sorted(map(Path, result["files"])) == sorted(p for p in out.rglob("*") if p.is_file())
    expected = json.loads(run("evaluate", *files, "--json").out)
    assert [method["scores"] for method in result["methods"]] == [
        method["scores"] for method in expected
    ]


def test_report_takes_formats_and_a_card(run, files, tmp_path):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n# Mine\n")
    options = ["--figures", "png", "--out", tmp_path / "out"]
    about = ["--model-card", card, "--card-dataset", "toy rows"]
    assert run("report", *files, *options, *about).code == 2
    result = run("report", files[1], *options, *about)
    assert (result.code, result.err) == (0, "")
    assert result.out.strip() == str(tmp_path / "out" / "index.html")
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert "reliability-1.png" in figures
    assert not any(name.endswith(".svg") for name in figures)
    text = card.read_text(encoding="utf-8")
    accuracy = evaluate(files[1])["accuracy"].value
    assert f"| Accuracy ↑ | {accuracy:.3f} |" in text
    assert "name: toy rows" in text
