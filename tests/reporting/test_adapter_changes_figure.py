"""The figure of singular values: names are escaped, unchanged layers have no line."""

import re
import xml.etree.ElementTree as ET

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bayeslora.reporting.adapter_changes import spectrum_panel, write_spectrum
from bayeslora.reporting.figures.rendering import drawing_style, render


def test_a_line_for_each_layer_that_changed():
    spectra = {"a.0.q": [3.0, 1.0, 1e-9], "a.0.v": [2.0], "a.1.q": [0.0, 0.0]}
    panel = spectrum_panel("spectrum", "m", spectra)
    (axes,) = panel.figure.axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[3.0, 1.0], [2.0]]
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    assert axes.get_yscale() == "log"
    # A line of a single point would be invisible.
    assert [line.get_marker() for line in axes.lines] == ["", "."]
    # sqrt(3² + 1²)
    assert panel.description == "a.0.q: largest 3, norm 3.16; a.0.v: largest 2, norm 2"


def test_nothing_changed_is_said():
    panel = spectrum_panel("spectrum", "m", {"a.q": [0.0]})
    assert not panel.figure.axes[0].lines
    assert panel.description == "No layer changed."


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([0.9, 2e-5], ["10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1"]),
        ([3.0, 2.0], ["1", "10"]),
        ([1.0], ["1", "10"]),
        ([4e-9], ["10⁻⁹", "10⁻⁸"]),
    ],
)
def test_the_axis_is_marked_in_plain_text_from_decade_to_decade(values, marks):
    drawing = render(spectrum_panel("spectrum", "m", {"a.q": values}))
    texts = [
        "".join(item.itertext())
        for item in ET.fromstring(drawing.standalone).iter()
        if item.tag.endswith("}text")
    ]
    assert "singular value of the change" in texts
    assert not any("$" in text for text in texts)
    start = texts.index("place") + 1
    assert texts[start : start + len(marks) + 1] == [*marks, "singular value of the change"]


def test_no_text_is_cut_off():
    figure = spectrum_panel("spectrum", "m", {"a.q": [1e-9, 9e-11]}).figure
    (axes,) = figure.axes
    with drawing_style():
        FigureCanvasAgg(figure).draw()
        label = axes.yaxis.label.get_window_extent()
        marks = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert label.x0 >= 0
    assert all(label.x1 <= mark.x0 for mark in marks)


def test_the_axis_of_places_is_marked_with_whole_numbers():
    (axes,) = spectrum_panel("spectrum", "m", {"a.q": [1.0] * 17}).figure.axes
    assert all(place == int(place) for place in axes.get_xticks())


def test_kinds_of_layers_look_different():
    kinds = [f"a.kind_{n}" for n in range(9)]
    drawing = render(spectrum_panel("spectrum", "m", dict.fromkeys(kinds, (2.0, 1.0))))
    # The samples in the key are wider, and so are their dashes.
    looks = re.findall(r'stroke-dasharray: [^"]+; stroke: #\w+(?=")', drawing.standalone)
    assert len(looks) == len(set(looks)) == len(kinds)


def test_a_long_line_keeps_its_ends_and_few_points():
    values = [1 + 1 / place for place in range(1, 577)]
    (axes,) = spectrum_panel("spectrum", "m", {"a.q": values}).figure.axes
    across, up = axes.lines[0].get_data()
    assert (across[0], across[-1]) == (1, 576)
    assert len(across) <= 101
    assert [values[place - 1] for place in across] == list(up)


def test_names_from_outside_stay_names(tmp_path):
    spectra = {f"layers.0.<kind>$_{n}": [1.0] for n in range(12)}
    write_spectrum(tmp_path / "s.svg", "<b>model", spectra)
    text = "".join(ET.fromstring((tmp_path / "s.svg").read_text()).itertext())
    for part in ("<b>model", "<kind>$_0", "<kind>$_11"):
        assert part in text
    assert "bayesloraName" not in text
    again = render(spectrum_panel("spectrum", "<b>model", spectra)).standalone
    assert (tmp_path / "s.svg").read_text() == again
