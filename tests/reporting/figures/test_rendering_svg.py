"""Figures as SVG text: unique identifiers, literal names, the same bytes on every run."""

import re
from xml.etree import ElementTree as ET

import pytest

from bayeslora.reporting.assess import Point
from bayeslora.reporting.figures.reliability import reliability_panel
from bayeslora.reporting.figures.style import render_files

POINTS = [Point(0.8, 1.0, 50, 0.9, 0.7, 0.56, 0.81), Point(0.4, 0.6, 9, 0.5, 0.5, 0.2, 0.8)]
HOSTILE = [
    "<script>alert(1)</script>",
    "</svg></title>",
    "\"quotes' & ampersand",
    "$x_1^2$ and \\alpha",
    "_underscore",
    "bayesloraTitle",
    'id="stolen" url(#x)',
    "שלום عربى 猫",
]


def draw(name="reliability-1", label="vbll"):
    return render_files(reliability_panel(name, label, POINTS, "ECE 0.200"))


def texts(drawing):
    root = ET.fromstring(drawing.standalone)
    return [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("label", HOSTILE)
def test_names_are_literal_text(label):
    drawing = draw(label=label)
    shown = [text.strip("\u2068\u2069") for text in texts(drawing)]
    assert shown.count(label) == 1
    root = ET.fromstring(drawing.standalone)
    allowed = {"svg", "g", "path", "text", "title", "desc", "defs", "use", "clipPath", "rect"}
    assert {node.tag.split("}")[1] for node in root.iter()} <= allowed


def test_the_same_figure_gives_the_same_bytes():
    assert draw() == draw()


def test_identifiers_start_with_the_name_and_references_resolve():
    for name in ("reliability-1", "reliability-2"):
        drawing = draw(name)
        identifiers = re.findall(r' id="([^"]+)"', drawing.inline)
        assert len(set(identifiers)) == len(identifiers)
        assert all(identifier.startswith(f"{name}-") for identifier in identifiers)
        used = re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', drawing.inline)
        assert used
        assert set(used) <= set(identifiers)


def test_the_inline_form_names_no_address_and_no_page_wide_style():
    drawing = draw()
    assert "http" not in drawing.inline
    assert "<style" not in drawing.inline
    assert "<metadata" not in drawing.standalone
    assert "Matplotlib" not in drawing.standalone


def test_it_can_be_read_aloud():
    root = ET.fromstring(draw().standalone)
    assert root.get("role") == "img"
    label, description = (
        root.find(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc")
    )
    assert root.get("aria-labelledby").split() == [label.get("id"), description.get("id")]
    assert label.text == "Reliability diagram of vbll"
    assert "confidence 0.90: accuracy 0.70 (95 % interval 0.56 to 0.81, 50 rows)" in (
        description.text
    )
