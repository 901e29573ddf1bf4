"""Figures as PNG and PDF: the same drawing, the same names, the same bytes on every run."""

import io

from PIL import Image

from bayeslora.reporting.assess import Point
from bayeslora.reporting.figures.reliability import reliability_panel
from bayeslora.reporting.figures.style import (
    FORMATS,
    drawing_style,
    render_files,
)

POINTS = [Point(0.8, 1.0, 50, 0.9, 0.7, 0.56, 0.81), Point(0.4, 0.6, 9, 0.5, 0.5, 0.2, 0.8)]


def panel(label="vbll"):
    with drawing_style():
        return reliability_panel("reliability-1", label, POINTS, "ECE 0.200")


def test_formats_carry_the_title_and_the_description():
    drawing = panel("vbll & <mle>")
    files = render_files(drawing, ("png", "pdf")).files
    with Image.open(io.BytesIO(files["png"])) as picture:
        assert picture.text["Title"] == drawing.title
        assert picture.text["Description"] == drawing.description
        assert "Software" not in picture.text
    assert b"Reliability diagram of vbll & <mle>" in files["pdf"]
    assert b"CreationDate" not in files["pdf"]
    assert b"atplotlib" not in files["pdf"]


def test_the_same_panel_gives_the_same_bytes_and_keeps_its_slots():
    drawing = panel("one name")
    first = render_files(drawing, FORMATS).files
    assert render_files(drawing, FORMATS).files == first
    assert render_files(panel("one name"), FORMATS).files == first
    assert render_files(panel("other name"), ("png",)).files["png"] != first["png"]
