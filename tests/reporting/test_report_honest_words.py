"""Wording supported by the numbers: clusters, reversed detection, few rows."""

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


def test_no_method_is_chosen_on_a_handful_of_rows(tmp_path):
    text = page(tmp_path, made(6, 0, name="one"), made(6, 0, name="two"))
    assert "by cost" not in text
