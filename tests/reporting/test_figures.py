"""The numbers behind the marks, bars and lines of the figures."""

import math

import numpy as np
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from bayeslora.metrics.scores import Bin
from bayeslora.reporting.assess import Point, occupied
from bayeslora.reporting.figures import OUTSIDE, confidence_panel, density_panel, reliability_panel


def relative_luminance(color):
    """Return the WCAG 2 relative luminance: the lightness of a colour in grey."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_empty_bins_are_not_drawn():
    bins = [
        Bin(0.0, 0.5, 0),
        Bin(0.5, 0.75, 4, 0.6, 0.5, 0.15, 0.85),
        Bin(0.75, 1.0, 20, 0.95, 0.5, 0.3, 0.7),
    ]
    points = occupied(bins)
    assert [point.count for point in points] == [4, 20]
    assert [point.off_diagonal for point in points] == [False, True]
    main, counts = reliability_panel("r", "m", points, "").figure.axes
    drawn = [
        (x, y)
        for container in main.containers
        if isinstance(container, ErrorbarContainer)
        for x, y in zip(*container.lines[0].get_data(), strict=True)
    ]
    assert sorted(drawn) == [(0.6, 0.5), (0.95, 0.5)]
    assert [bar.get_height() for bar in counts.patches] == [4, 20]
    assert [text.get_text() for text in counts.texts] == ["4", "20"]


def test_bars_reach_the_ends_of_the_wilson_interval():
    point = Point(0.5, 1.0, 10, 0.9, 0.8, 0.49, 0.94)
    main = reliability_panel("r", "m", [point], "").figure.axes[0]
    ends = {
        round(float(value), 12)
        for container in main.containers
        for collection in container.lines[2]
        for segment in collection.get_segments()
        for value in segment[:, 1]
    }
    assert ends == {0.49, 0.94}


def test_histogram_counts_right_and_wrong_rows_of_every_bin():
    confidence = np.array([0.3, 0.6, 0.6, 0.95, 1.0])
    correct = np.array([False, True, False, True, True])
    axes = confidence_panel("c", "m", confidence, correct, 4).figure.axes[0]
    wrong, right = (
        container for container in axes.containers if isinstance(container, BarContainer)
    )
    assert [(bar.get_x(), bar.get_height()) for bar in wrong] == [(0.25, 1), (0.5, 1)]
    assert [(bar.get_x(), bar.get_y(), bar.get_height()) for bar in right] == [
        (0.5, 1, 1),
        (0.75, 0, 2),
    ]
    lines = [line.get_xdata()[0] for line in axes.lines]
    assert lines == [pytest.approx(3 / 5), pytest.approx(3.45 / 5)]


def shares(panel):
    return [patch.get_data().values for patch in panel.figure.axes[0].patches]


def test_density_bars_are_percentages_of_their_own_set():
    inside = np.linspace(0, 1, 40)
    outside = {"far": (np.linspace(0.5, 2, 10), "AUROC 0.9")}
    panel = density_panel("d", "m", "score", inside, outside, axis="score")
    assert [part.sum() for part in shares(panel)] == pytest.approx([100, 100])
    limited = density_panel("d", "m", "score", inside, outside, axis="score", limits=(0.0, 1.0))
    assert limited.figure.axes[0].get_xlim() == (0, 1)
    # 7 of the 10 outside values exceed 1 and are counted in the last bin
    assert shares(limited)[1][-1] >= 60


def test_lines_are_dark_enough_on_white():
    # WCAG 2.2, 1.4.11: graphical objects need a contrast of 3:1 with adjacent colours
    for role in OUTSIDE[:3]:
        assert 1.05 / (relative_luminance(role.color) + 0.05) >= 3


def test_descriptions_hold_the_numbers():
    inside = np.array([0.1, 0.2, 0.3])
    outside = {"far": (np.array([0.5]), "AUROC 1.000")}
    text = density_panel("d", "m", "s", inside, outside, axis="s").description
    assert text == "median 0.200 in distribution, 0.500 on far (AUROC 1.000)."
    panel = confidence_panel("c", "m", np.array([0.95, 0.5]), np.array([False, True]), 15)
    assert "1 predictions are correct and 1 wrong; 1 of the wrong ones" in panel.description
    assert math.isclose(panel.figure.get_figwidth(), 3.4)
