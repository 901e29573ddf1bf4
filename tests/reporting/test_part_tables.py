"""Groups, classes, kinds of sets, clusters and the test of the ECE in every file of a report."""

import csv
import json

import pytest

import bayeslora as bl
from bayeslora.metrics.scores import SCORE_KEYS
from bayeslora.reporting.report import report
from bayeslora.reporting.score_tables import COLUMNS

pytestmark = pytest.mark.usefixtures("blank_figures")

FEW = {"num_resamples": 20}
ASKED = {"group_by": "source<b>", "by_class": True, "cluster_by": "twin"}


@pytest.fixture(scope="module")
def files(make, tmp_path_factory):
    """Return a predictions file with sources and twins, and two sets, one of them with twins."""
    folder = tmp_path_factory.mktemp("parts")
    sources = tuple(("web", "<i>mail</i>")[row % 2] for row in range(240))
    twins = tuple(str(row // 2) for row in range(240))
    inside = make("m", spread=0.7, columns={"source<b>": sources, "twin": twins})
    near = make("m", spread=0.7, rows=100, labelled=False, signal=1.2, seed=1)
    far = make("m", spread=0.7, rows=80, labelled=False, signal=0.3, seed=2)
    near = near.replace(columns={"twin": twins[:100]})
    paths = {}
    for name, predictions in {"m": inside, "near": near, "far": far}.items():
        paths[name] = folder / f"{name}.parquet"
        predictions.save(paths[name])
    return paths


@pytest.fixture(scope="module")
def written(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("parts-report") / "report"
    sets = {name: files[name] for name in ("near", "far")}
    return report(files["m"], ood=sets, out=out, **ASKED, **FEW).parent


@pytest.fixture(scope="module")
def scores(files):
    sets = {name: files[name] for name in ("near", "far")}
    return bl.evaluate(files["m"], ood=sets, **ASKED, **FEW)


def test_the_json_is_what_evaluate_says(written, scores):
    [content] = json.loads((written / "scores.json").read_text(encoding="utf-8"))["methods"]
    expected = json.loads(json.dumps(scores.to_json()))
    assert {key: content[key] for key in expected} == expected
    assert set(expected["groups"]["source<b>"]) == {"web", "<i>mail</i>"}


def test_every_part_is_on_the_page_in_markdown_and_in_latex(written, scores):
    page = (written / "index.html").read_text(encoding="utf-8")
    for part in ("every", "parts-1", "parts-2"):
        assert f'id="{part}-caption"' in page
    for name in ("<i>mail", "source<b>"):
        assert name not in page
    assert "&lt;i&gt;mail&lt;/i&gt;" in page
    texts = [page] + [
        (written / name).read_text(encoding="utf-8") for name in ("report.md", "tables.tex")
    ]
    shown = [scores.groups["source<b>"]["web"].scores["nll"]]
    shown += [scores.classes["crypto"].scores["recall"], scores.ood["far"].aupr_in]
    shown.append(scores["aece"])
    for text in texts:
        assert "ECE by chance" in text
        for score in shown:
            assert f"{score.value:.3f}" in text
    folded = page.index('<details class="fold"')
    assert folded < page.index('id="every-caption"') < page.index("</section>", folded)


def test_the_table_of_every_score_has_every_score(written):
    lines = (written / "report.md").read_text(encoding="utf-8").split("\nAll scores\n")[1]
    head, _, *rows = [line for line in lines.splitlines() if line.startswith("|")]
    assert head == "| Score | m |"
    titles = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    for key in SCORE_KEYS:
        assert any(title.startswith(COLUMNS[key].title_and_arrow) for title in titles)


def test_the_csv_has_a_line_for_every_score_of_a_part(written, scores):
    with (written / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = {(row["by"], row["part"], row["score"]): row for row in rows}
    web = scores.groups["source<b>"]["web"]
    line = lines["group:source<b>", "web", "ece"]
    assert (float(line["value"]), line["n"]) == (web.scores["ece"].value, "120")
    crypto = scores.classes["crypto"]
    assert float(lines["class", "crypto", "recall"]["low"]) == crypto.scores["recall"].low
