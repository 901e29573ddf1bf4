"""The order of a report's sections is written once; every format follows it."""

import re
from html import unescape
from importlib.resources import files

from bayeslora.reporting.document import SECTIONS

TITLES = [section.title for section in SECTIONS]


def in_order(found, of):
    """Return whether `found` is a part of `of` in its order, without repetition."""
    return found == [one for one in of if one in found]


def test_every_section_has_a_block_of_its_name_and_no_other_has():
    template = files("bayeslora.reporting").joinpath("templates", "report.html.j2").read_text()
    assert sorted(re.findall(r"{% block (\w+) %}", template)) == sorted(
        section.key for section in SECTIONS
    )


def test_page_and_contents_follow_the_order(made):
    page = (made / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<li><a href="#(\w+)">([^<]+)</a></li>', page)
    headings = re.findall(r'<h2 id="(\w+)-title">([^<]+)</h2>', page)
    assert [key for key, _ in links] == [key for key, _ in headings]
    assert in_order([unescape(title) for _, title in headings], TITLES)
    shorts = {section.key: section.short for section in SECTIONS}
    assert all(unescape(short) == shorts[key] for key, short in links)


def test_markdown_follows_the_order(made):
    text = (made / "report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(headings) > 5
    assert in_order(headings, TITLES)


def test_latex_follows_the_order(made):
    labels = re.findall(
        r"\\label\{tab:bayeslora-([a-z]+)", (made / "tables.tex").read_text("utf-8")
    )
    order = ["scores", "detection", "every", "differences", "uncertainties", "confused", "ood"]
    assert in_order(list(dict.fromkeys(labels)), order)
