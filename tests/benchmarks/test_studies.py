"""Every study and every report is listed, links resolve, and summaries follow from results."""

import re
import shutil
from pathlib import Path

import pytest

from bayeslora.posteriors.registry import resolve_posterior
from benchmarks.default_fit import __main__ as default_fit
from benchmarks.existing_classifier import __main__ as existing_classifier
from benchmarks.interval_coverage import __main__ as interval_coverage
from benchmarks.lib.results import FILE, Results
from benchmarks.million_rows import __main__ as million_rows
from benchmarks.multiple_choice import summary as multiple_choice
from benchmarks.speed import __main__ as speed
from benchmarks.unfamiliarity_weight import __main__ as unfamiliarity_weight

ROOT = Path(__file__).parents[2]
BENCHMARKS, REPORTS = ROOT / "benchmarks" / "README.md", ROOT / "reports" / "README.md"


def links(page):
    return [
        page.parent / target.partition("#")[0]
        for target in re.findall(r"\]\(([^)#][^)]*)\)", page.read_text(encoding="utf-8"))
        if not target.startswith("http")
    ]


PAGES = (
    *(BENCHMARKS, REPORTS, ROOT / "README.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "reports").rglob("*.md")),
)


def test_links_lead_to_files():
    pages = [page for page in PAGES if not {"demo", "_build", "gallery"} & {*page.parts}]
    missing = [
        f"{page}: {target}"
        for page in pages
        for target in links(page)
        if target.suffix in (".md", ".svg") and not target.is_file()
    ]
    assert missing == []


def test_links_to_the_benchmarks_page_lead_to_its_sections():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    sections = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    linked = {
        anchor
        for page in PAGES
        for anchor in re.findall(r"benchmarks\.md#([\w-]+)\)", page.read_text(encoding="utf-8"))
    }
    assert linked <= sections


def test_every_study_has_its_row():
    text = BENCHMARKS.read_text(encoding="utf-8")
    studies = {path.parent.name for path in BENCHMARKS.parent.glob("*/__main__.py")}
    grids = {path.name for path in BENCHMARKS.parent.glob("grids/*.yaml")}
    named = {*re.findall(r"`python -m benchmarks\.(\w+)", text)}
    assert named == studies
    assert {name for name in grids if name not in text} == set()
    rows = re.findall(r"^\| (?!Question|---)", text, re.MULTILINE)
    assert len(rows) <= 15


def test_every_report_has_its_line():
    linked = {target.resolve() for target in links(REPORTS)}
    pages = {path.resolve() for path in REPORTS.parent.rglob("*.md")} - {REPORTS}
    assert {str(path) for path in pages - linked if path.parent.name != "demo"} == set()


def test_an_archived_report_names_the_commit_of_its_code():
    archived = sorted((ROOT / "reports" / "archive").glob("*/*.md"))
    lines = [path.read_text(encoding="utf-8").splitlines()[2] for path in archived]
    line = r"\*Archived\.\* .* in commit [0-9a-f]{8}: `python -m (benchmarks|tests)\.\w+.*`"
    command = re.compile(line)
    assert [line for line in lines if not command.match(line)] == []
    assert len(lines) > 30


SUMMARIES = {
    "default-fit": lambda out: default_fit.write(out, Results(out, default_fit.KEY).rows()),
    "existing-classifier": existing_classifier.write_summary,
    "interval-coverage": interval_coverage.write_summary,
    "million-rows": million_rows.write_summary,
    "multiple-choice": multiple_choice.write_summary,
    "speed": speed.write_table,
    "unfamiliarity-weight": unfamiliarity_weight.write_table,
}


@pytest.mark.parametrize("report", SUMMARIES)
def test_a_summary_is_what_the_stored_results_give(report, tmp_path):
    stored = ROOT / "reports" / report
    for name in (FILE, multiple_choice.FILE):
        if (stored / name).is_file():
            shutil.copy(stored / name, tmp_path)
    SUMMARIES[report](tmp_path)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text == (stored / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", existing_classifier.POSTERIORS)
def test_every_recipe_is_a_posterior(recipe):
    """A renamed option would stop a study of hours half-way."""
    assert resolve_posterior(recipe).name == recipe.split(":")[0]
