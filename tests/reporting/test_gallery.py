"""The gallery: its simulated methods have the faults that their pages are named after."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def gallery():
    found = importlib.util.spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def overconfidence(predictions):
    """Mean confidence minus accuracy, and its standard error."""
    gap = predictions.confidence - (predictions.prediction == predictions.labels)
    return gap.mean(), gap.std() / np.sqrt(len(gap))


@pytest.mark.parametrize(
    ("page", "sign"), [("overconfident", 1), ("underconfident", -1), ("shifted", 1)]
)
def test_faults_are_as_named(gallery, page, sign):
    [one], ood = gallery.PAGES[page][1]()
    gap, error = overconfidence(one)
    assert ood is None
    assert sign * gap > 4 * error


def test_the_calibrated_one_is_calibrated_by_construction(gallery):
    one = gallery.simulate("m", seed=3, rows=100_000)
    gap, error = overconfidence(one)
    # four standard errors: a seed that fails is one in 16,000
    assert abs(gap) < 4 * error


def test_the_comparison_is_about_the_same_rows(gallery):
    methods, ood = gallery.comparison()
    assert {one.name for one in methods} == set(ood) == set(gallery.METHODS)
    assert all((one.labels == methods[0].labels).all() for one in methods)
    assert [one.epistemic.any() for one in methods] == [False, False, True, True]


def test_the_same_call_gives_the_same_numbers(gallery):
    first, second = (gallery.simulate("m", seed=4, spread=0.5, rows=50) for _ in range(2))
    assert (first.probs == second.probs).all()
    assert (first.epistemic == second.epistemic).all()


def test_the_overview_names_every_page(gallery):
    text = (DOCS / "gallery" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\(([a-z]+)/index\.html\)", text))
    assert linked == set(gallery.PAGES)
    assert all((DOCS / "gallery" / name / "index.html").is_file() for name in linked)
