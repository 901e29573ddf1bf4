"""`report`: the files it writes, their numbers, and its refusals."""

import csv
import hashlib
import json
import re

import pytest
from refusal import refused

from bayeslora.errors import InputError
from bayeslora.metrics.evaluate import evaluate
from bayeslora.reporting.report import report
from bayeslora.reporting.text import number

pytestmark = pytest.mark.usefixtures("blank_figures")


FEW = {"num_resamples": 20}


def test_the_directory_holds_the_promised_files(made):
    names = {path.name for path in made.iterdir()}
    assert names == {
        *("index.html", "report.md", "tables.tex", "scores.csv", "scores.json", "figures")
    }


def test_figures_come_in_every_format_that_is_asked_for(make, tmp_path, drawn_figures):
    page = report(make("x", rows=40), out=tmp_path / "out", figures=("pdf", "png"), **FEW)
    names = {path.name for path in (page.parent / "figures").iterdir()}
    stems = {name.rpartition(".")[0] for name in names}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "pdf")}
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "](figures/reliability-1.png)" in markdown
    assert page.read_text(encoding="utf-8").count("<img") == len(stems)


def test_the_same_input_gives_the_same_bytes(methods, ood, made, tmp_path, drawn_figures):
    facts = {"command": "bayeslora demo", "Data": {"test": "240 rows"}}
    again = report(
        methods, ood=ood, out=tmp_path / "again", title="Demo", provenance=facts, num_resamples=60
    ).parent
    for path in made.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(made)).read_bytes() == path.read_bytes(), path


def test_numbers_are_those_of_evaluate(methods, ood, made):
    content = json.loads((made / "scores.json").read_text(encoding="utf-8"))
    page = (made / "index.html").read_text(encoding="utf-8")
    markdown = (made / "report.md").read_text(encoding="utf-8").split("## Scores")[1]
    for method, written in zip(methods, content["methods"], strict=True):
        scores = evaluate(method, ood=ood[method.name], num_resamples=60)
        expected = json.loads(json.dumps(scores.to_json()))
        assert {key: written[key] for key in expected} == expected
        for key in ("accuracy", "nll", "ece", "brier", "aurc"):
            score = scores[key]
            ends = f"[{number(score.low)}, {number(score.high)}]"
            [row, *_] = re.findall(rf"^\| {method.name} \|.*", markdown, re.MULTILINE)
            assert number(score.value) in row
            assert ends in row
            assert ends in page


def test_csv_holds_every_score_to_the_last_digit(methods, ood, made):
    with (made / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    scores = evaluate(methods[2], ood=ood["polar-vbll"], num_resamples=60)
    lines = {
        (row["ood"], row["uncertainty"], row["score"]): row
        for row in rows
        if row["method"] == "polar-vbll" and not row["by"]
    }
    plain = {score for name, _, score in lines if not name}
    assert plain == {*scores, "ece_if_calibrated", "calibration_p"}
    assert float(lines["", "", "calibration_p"]["value"]) == scores.calibration_p
    assert float(lines["", "", "nll"]["low"]) == scores["nll"].low
    assert lines["", "", "nll"]["n"] == "240"
    far = lines["far", "epistemic", "auroc"]
    assert float(far["value"]) == scores.ood["far"].by_score["epistemic"]["auroc"].value
    assert far["n_ood"] == "120"


def test_files_are_read_and_hashed(make, tmp_path):
    path = tmp_path / "vbll.parquet"
    make("vbll").save(path)
    page = report(str(path), out=tmp_path / "out", **FEW).read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in page
    content = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert content["methods"][0]["file"] == str(path)
    assert content["comparison"] is None


def test_an_existing_directory_is_refused_and_kept(make, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with refused("exists", "out"):
        report(make("x"), out=out, **FEW)
    with refused("exists", "'mine.txt'"):
        report(make("x"), out=out, overwrite=True, **FEW)
    assert (out / "mine.txt").read_text() == "keep"


def test_a_failed_report_leaves_nothing(make, tmp_path):
    with refused("input", "missing.csv"):
        report([make("x"), tmp_path / "missing.csv"], out=tmp_path / "out", **FEW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("items", "ood", "named"),
    [
        ("", None, ["at least one"]),
        ([3], None, ["3"]),
        ("ab", {"far": "f"}, ["'far'", "2 methods", "METHOD:SET=FILE"]),
        ("ab", {"a": {"far": "f"}, "far": "f"}, ["mixes"]),
        ("ab", {"c": {"far": "f"}}, ["'c'", "'a', 'b'"]),
        ("aa", {"a (2)x": {"far": "f"}}, ["a (2)"]),
    ],
)
def test_wrong_inputs_are_named(make, tmp_path, items, ood, named):
    def made(content):
        if isinstance(content, dict):
            return {key: made(value) for key, value in content.items()}
        return make(content, rows=9) if isinstance(content, str) else content

    with pytest.raises(InputError) as caught:
        report([*map(made, items)], ood=made(ood), out=tmp_path / "out", **FEW)
    assert all(words in str(caught.value) for words in named)
