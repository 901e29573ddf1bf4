"""A report is a list of sections; every format follows its order."""

import re
from html import unescape


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
