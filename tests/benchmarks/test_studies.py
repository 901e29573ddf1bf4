"""Every study and every report is listed, and the links resolve."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS, REPORTS = ROOT / "benchmarks" / "README.md", ROOT / "reports" / "README.md"


def links(page):
    return [
        page.parent / target.partition("#")[0]
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("page", [BENCHMARKS, REPORTS], ids=lambda page: page.parent.name)
def test_links_lead_to_files(page):
    assert [str(target) for target in links(page) if not target.is_file()] == []


def test_every_study_has_its_line():
    text = BENCHMARKS.read_text(encoding="utf-8")
    studies = {path.parent.name for path in BENCHMARKS.parent.glob("*/__main__.py")}
    assert {name for name in studies if f"\n| `{name}`" not in text} == set()
    assert {"label_budget", "regimes"} <= studies


def test_every_report_has_its_line():
    linked = {target.resolve() for target in links(REPORTS)}
    pages = {path.resolve() for path in REPORTS.parent.glob("*/*.md")}
    assert {str(path) for path in pages - linked if path.parent.name != "demo"} == set()


def test_a_study_has_one_file_of_results():
    files = defaultdict(set)
    for path in REPORTS.parent.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".parquet", ".csv"):
            files[path.relative_to(REPORTS.parent).parts[0]].add(path.name)
    files.pop("demo", None)
    assert {name: several for name, several in files.items() if len(several) > 1} == {}
    assert len(files) > 25
