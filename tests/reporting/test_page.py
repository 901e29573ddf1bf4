"""The page: structure, accessibility, no network access, hostile names."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from bayeslora.plain_text import clean, shorten
from bayeslora.reporting.report import report

VOID = {"meta", "link", "br", "wbr", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects elements with their attributes and texts, and checks their nesting."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "inside": [*self.open]}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        inside = [*self.open]
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": "", "inside": inside})

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        self.words.append(data)
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]


@pytest.fixture(scope="module")
def source(made):
    return (made / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_elements_nest_and_all_are_closed(page):
    assert page.open == []


def test_headings_are_in_order(page):
    levels = [int(element["tag"][1]) for element in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_links_and_labels_point_to_something(page):
    identifiers = [element["attrs"]["id"] for element in page.elements if "id" in element["attrs"]]
    assert len(set(identifiers)) == len(identifiers)
    for element in page.elements:
        if element["tag"] == "a":
            assert element["attrs"]["href"][1:] in identifiers
        for target in element["attrs"].get("aria-labelledby", "").split():
            assert target in identifiers


def test_nothing_can_be_loaded_and_only_the_one_script_runs(page, source):
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", source)
    assert not page.all("link", "iframe", "object", "embed", "base", "form")
    for element in page.elements:
        assert element["attrs"].get("src", "data:image/").startswith("data:image/")
        assert not any(name.startswith("on") for name in element["attrs"])
        for name in ("href", "xlink:href"):
            assert element["attrs"].get(name, "#").startswith("#")
    assert "@import" not in source
    assert "url(" not in source
    policy = next(element for element in page.all("meta") if "http-equiv" in element["attrs"])
    assert "default-src 'none'" in policy["attrs"]["content"]
    assert "img-src data:;" in policy["attrs"]["content"]
    [script] = page.all("script")
    assert script["attrs"] == {}
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy["attrs"]["content"]


def test_every_figure_has_alternative_text(page, made):
    drawings = page.all("img")
    assert len(drawings) == len(list((made / "figures").iterdir()))
    for drawing in drawings:
        assert drawing["attrs"]["alt"]
        assert any(element["tag"] == "figure" for element in drawing["inside"])
    assert all(element["text"] for element in page.all("figcaption"))
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_tables_have_captions_and_scopes(page):
    tables = [element for element in page.all("table") if element["attrs"].get("class") != "record"]
    assert len(tables) == len(page.all("caption")) == 11
    assert all(element["attrs"].get("scope") for element in page.all("th"))
    for table in tables:
        assert any("scroll" in element["attrs"].get("class", "") for element in table["inside"])


HOSTILE = [
    "<script>alert('method')</script>",
    "</svg></table></body>",
    '" onload="alert(1)" x="',
    "$\\frac{1}{2}$ _a_ **b**",
    "\u202eevil\u202c \u2067rtl",
    "{{ 7 * 7 }} {% raw %}",
    "x" * 10_000,
]


@pytest.fixture(scope="module", params=range(len(HOSTILE)))
def hostile(request, make, tmp_path_factory):
    """Return a report in which every external name is hostile."""
    name = HOSTILE[request.param]
    classes = tuple(f"{name}{index}" for index in range(4))
    first = make(name, classes=classes, metadata={"note": name}, spread=0.5)
    outside = make(name, classes=classes, labelled=False, rows=60, spread=0.5)
    out = tmp_path_factory.mktemp("hostile") / "report"
    sets = {"a": {name: outside}, name: {name: outside}}
    written = report(
        [first, make("a", classes=classes)],
        ood=sets,
        out=out,
        title=name,
        provenance={name: name, "part": {name: name}},
        num_resamples=20,
    )
    return name, Page(written.read_text(encoding="utf-8"))


def test_hostile_names_change_nothing_but_text(hostile, page):
    _, parsed = hostile
    assert parsed.open == []
    assert {element["tag"] for element in parsed.elements} <= {
        element["tag"] for element in page.elements
    }
    attributes = {name for element in page.elements for name in element["attrs"]}
    assert {name for element in parsed.elements for name in element["attrs"]} <= attributes
    text = "".join(parsed.words)
    assert not re.search("[\u202a-\u202e\u2066\u2067\u200e\u200f\x00-\x08]", text)


def test_hostile_names_are_shown_literally_and_short(hostile):
    name, parsed = hostile
    label = shorten(clean(name))
    assert label in [element["text"] for element in parsed.all("th")]
    titles = [element["attrs"]["alt"] for element in parsed.all("img")]
    assert any(title.startswith(f"Reliability diagram of {label}.") for title in titles)
    assert clean(name) in [element["text"] for element in parsed.all("td")]
    assert parsed.all("h1")[0]["text"] == shorten(clean(name), 160)
    assert all(len(element["text"]) < 60 for element in parsed.all("th"))
