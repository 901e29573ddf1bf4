"""The gallery: simulated methods have the faults named by their pages."""

import importlib.util
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as for a script
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page_text():
    """Return a function from the name of a page to its text in the repository."""
    return lambda name: (DOCS / "gallery" / name / "index.html").read_text(encoding="utf-8")


def overconfidence(predictions):
    """Return mean confidence minus accuracy, and its standard error."""
    gap = predictions.confidence - (predictions.prediction == predictions.labels)
    return gap.mean(), gap.std() / np.sqrt(len(gap))


@pytest.mark.parametrize(
    ("page", "sign"), [("overconfident", 1), ("underconfident", -1), ("shifted", 1)]
)
def test_faults_are_as_named(gallery, page, sign):
    [predictions], ood = gallery.PAGES[page].make()
    gap, error = overconfidence(predictions)
    assert ood is None
    assert sign * gap > 4 * error


def test_the_calibrated_one_is_calibrated_by_construction(gallery):
    predictions = gallery.simulate("m", seed=3, rows=100_000)
    gap, error = overconfidence(predictions)
    # four standard errors: one seed in 16,000 fails
    assert abs(gap) < 4 * error


def test_the_overview_names_every_page(gallery):
    text = (DOCS / "gallery" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\(([a-z-]+)/index\.html\)", text))
    assert linked == set(gallery.PAGES)
    assert all((DOCS / "gallery" / name / "index.html").is_file() for name in linked)


def test_pages_look_as_the_report_does_now(gallery, page_text):
    for asset in ("report.css", "report.js"):
        text = files("bayeslora.reporting").joinpath("templates", asset).read_text("utf-8")
        for name in gallery.PAGES:
            assert text.strip() in page_text(name), f"{asset} has changed: make gallery"


def test_what_took_long_to_train_was_trained_by_the_present_code(gallery, page_text):
    trained = [name for name, page in gallery.PAGES.items() if page.kept]
    assert trained == ["transformers"]
    assert gallery.foreign_predictions.recipe() in page_text("transformers"), "make gallery"
