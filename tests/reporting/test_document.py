"""A report is a list of sections; every format follows its order."""

import re
from html import unescape

import pytest

from bayeslora.reporting.blocks import Details, Prose, Section
from bayeslora.reporting.document import Document
from bayeslora.reporting.markup import render_latex, render_markdown
from bayeslora.reporting.page import render_page
from bayeslora.reporting.tables import Cell, Column, Row, Table

TABLE = Table(
    "A caption.", ("Method",), (Column("Score"),), (Row(("m",), (Cell("1"),)),), "", "new"
)


@pytest.fixture
def unheard_of():
    """Return a document with a section unknown to every format."""
    blocks = (Prose("Some words."), Details("Folded", (TABLE,)))
    return Document("T", "f", (Section("novel", "A new section", blocks, "New"),))


def test_a_section_that_nobody_knows_is_written_in_every_format(unheard_of):
    page = render_page(unheard_of)
    assert '<li><a href="#novel">New</a></li>' in page
    assert '<h2 id="novel-title">A new section</h2>' in page
    assert 'id="new-caption"' in page
    assert re.findall(r"^#+ .+", render_markdown(unheard_of), re.MULTILINE) == [
        "# T",
        "## A new section",
    ]
    assert "\n\nFolded\n\n" in render_markdown(unheard_of)
    assert r"\label{tab:bayeslora-new}" in render_latex(unheard_of)


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


def test_latex_follows_the_order(made):
    labels = re.findall(
        r"\\label\{tab:bayeslora-([a-z]+)", (made / "tables.tex").read_text("utf-8")
    )
    assert list(dict.fromkeys(labels)) == [
        "overview",
        "scores",
        "every",
        "differences",
        "detection",
        "ood",
        "coverages",
        "uncertainties",
        "confused",
    ]
