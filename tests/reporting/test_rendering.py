"""Figures as files: literal names, titles and descriptions, the same bytes on every run."""

import base64
import io
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from bayeslora.predictions.collection import gather
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import assess
from bayeslora.reporting.figures import FORMATS, reliability_panel
from bayeslora.reporting.panel import drawing_style

ROWS = Predictions([[0.9, 0.1]] * 50, ("a", "b"), [0] * 35 + [1] * 15)
HOSTILE = [
    "<script>alert(1)</script>",
    "</svg></title>",
    "\"quotes' & ampersand 0.12345",
    "$x_1^2$ and \\alpha",
    "_underscore",
    'id="stolen" url(#x)',
    "שלום عربى 猫",
]


def panel(label="vbll"):
    [fit] = assess(gather([ROWS]), {"num_resamples": 5})
    fit = replace(fit, method=replace(fit.method, label=label))
    with drawing_style():
        return reliability_panel("reliability-1", fit)


@pytest.mark.parametrize("label", HOSTILE)
def test_names_are_literal_text(label):
    root = ET.fromstring(panel(label).saved("svg"))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [text.strip("\u2068\u2069") for text in texts].count(label) == 1
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_files_carry_the_title_and_the_description():
    drawn = panel("vbll & <mle>")
    with Image.open(io.BytesIO(drawn.saved("png"))) as picture:
        assert picture.text["Title"] == drawn.title == "Reliability diagram of vbll & <mle>"
        assert picture.text["Description"] == drawn.description
        assert "Software" not in picture.text
    words = "confidence 0.90: accuracy 0.70 (95 % interval 0.56 to 0.81, 50 rows)"
    assert words in drawn.description
    assert words in drawn.saved("svg").decode()
    pdf = drawn.saved("pdf")
    assert b"Reliability diagram of vbll & <mle>" in pdf
    assert not any(word in pdf for word in (b"CreationDate", b"atplotlib"))
    kind, _, data = drawn.image.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == drawn.saved("svg")


def test_the_same_panel_gives_the_same_bytes():
    drawn = panel()
    for kind in FORMATS:
        assert drawn.saved(kind) == drawn.saved(kind) == panel().saved(kind)
