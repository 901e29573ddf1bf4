"""Wording supported by the numbers: clusters, reversed detection, few rows."""

import re

import numpy as np
import pytest

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("blank_figures")

FEW = {"num_resamples": 60}


def made(n, seed, times=1, name="m"):
    """Return predictions calibrated by construction, each row `times` times."""
    generator = np.random.default_rng(seed)
    sure = generator.uniform(0.55, 1.0, n)
    labels = (generator.random(n) >= sure).astype(np.int64)
    twin = np.repeat(np.arange(n), times)
    return bl.Predictions(
        np.column_stack([sure, 1 - sure])[twin],
        ("a", "b"),
        labels[twin],
        name=name,
        columns={"twin": tuple(map(str, twin))},
    )


def page(tmp_path, *predictions, **options):
    bl.report(list(predictions), out=tmp_path / "out", **options, **FEW)
    return (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_shares_in_words_are_those_of_clusters(tmp_path):
    # both sentences refer to these rows
    once = page(tmp_path / "once", made(60, 9))
    often = page(tmp_path / "often", made(60, 9, times=9), cluster_by="twin")
    for start in ("Let a person check", "- Even at a confidence"):
        single = [re.findall(r"\[[\d., ]+", text) for text in once.splitlines() if start in text]
        repeated = [re.findall(r"\[[\d., ]+", text) for text in often.splitlines() if start in text]
        assert single == repeated
        assert single
        assert all(single)


@pytest.fixture
def inverted():
    """Return unfamiliar rows for which the model is almost certain."""
    sure = np.linspace(0.995, 0.999, 80)
    return bl.Predictions(np.column_stack([sure, 1 - sure]), ("a", "b"))


def test_detection_in_the_wrong_direction_is_called_that(tmp_path, inverted):
    text = page(tmp_path, made(200, 1), ood={"odd": inverted})
    assert "interval below 0.5" in text
    assert "interval reaches 0.5" not in text
    assert "detects the set" not in text


def test_no_method_is_chosen_on_a_handful_of_rows(tmp_path):
    text = page(tmp_path, made(6, 0, name="one"), made(6, 0, name="two"))
    assert "by cost" not in text
