"""A report is a list of sections that every format follows; its words are in a table."""

import re
from html import unescape
from pathlib import Path

import bayeslora.reporting
from bayeslora.cli import VERBS
from bayeslora.reporting.document import glossary
from bayeslora.reporting.score_tables import COLUMNS, OOD_COLUMNS
from bayeslora.reporting.text import words

REPORTS = Path(__file__).parents[2] / "docs" / "reports.md"


def test_page_contents_and_markdown_have_one_order(made):
    page = (made / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<li><a href="#(\w+)">([^<]+)</a></li>', page)
    headings = re.findall(r'<h2 id="(\w+)-title">([^<]+)</h2>', page)
    assert [key for key, _ in links] == [key for key, _ in headings]
    text = (made / "report.md").read_text(encoding="utf-8")
    written = re.findall(r"^## (.+)$", text, re.MULTILINE)
    # Only the page has the texts of examples.
    titles = [unescape(title) for key, title in headings if key != "examples"]
    assert written == ["At a glance", *titles]


def test_the_documentation_lists_every_drawing_and_no_other(made):
    listed = re.findall(
        r"^\| `([a-z-]+)[\d-]*` ", REPORTS.read_text(encoding="utf-8"), re.MULTILINE
    )
    drawn = {file.stem.rstrip("0123456789-") for file in (made / "figures").iterdir()}
    assert drawn == {name.rstrip("-") for name in listed}


def test_every_score_that_is_shown_has_a_term():
    names = {term.name for term in glossary()}
    columns = {**COLUMNS, **OOD_COLUMNS}.values()
    assert {column.title for column in columns} | {"Confidence", "Intervals"} <= names


def test_advice_names_commands_that_exist():
    advice = Path(bayeslora.reporting.__file__).parent / "templates" / "sentences.toml"
    text = advice.read_text(encoding="utf-8").replace("{recalibrate}", "recalibrate")
    assert {*re.findall(r"\(bayeslora ([a-z-]+)", text)} == {"recalibrate"} <= VERBS.keys()


def test_every_sentence_is_said_somewhere():
    folder = Path(bayeslora.reporting.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    # Doubts about a detector are facts of their own.
    idle = {key for key in words()["say"] if not re.search(rf"[\"']{key}[\"']", code)}
    assert idle <= {"negligible", "noise"}
