"""The figure of singular values: names are escaped, unchanged layers have no line."""

import xml.etree.ElementTree as ET

from bayeslora.reporting.adapter_changes import spectrum_panel, write_spectrum
from bayeslora.reporting.figures.rendering import render


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


def test_names_from_outside_stay_names(tmp_path):
    spectra = {f"layers.0.<kind>$_{n}": [1.0] for n in range(12)}
    write_spectrum(tmp_path / "s.svg", "<b>model", spectra)
    text = "".join(ET.fromstring((tmp_path / "s.svg").read_text()).itertext())
    for part in ("<b>model", "<kind>$_0", "<kind>$_11"):
        assert part in text
    assert "bayesloraName" not in text
    again = render(spectrum_panel("spectrum", "<b>model", spectra)).standalone
    assert (tmp_path / "s.svg").read_text() == again
