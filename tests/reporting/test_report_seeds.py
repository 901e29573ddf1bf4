"""Seeds of one method share a row of a report."""

import csv
import json

import numpy as np
import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.seeds import over_seeds
from bayeslora.reporting.report import report

pytestmark = pytest.mark.usefixtures("blank_figures")

LABELS = np.arange(60) % 4


def fits(make, name, seeds, **parts):
    drawn = [make(name, seed=seed, rows=60, **parts) for seed in seeds]
    return [
        predictions.replace(labels=LABELS, metadata={"fit_seed": str(seed)})
        for predictions, seed in zip(drawn, seeds, strict=True)
    ]


@pytest.fixture(scope="module")
def seeded(make, tmp_path_factory):
    out = tmp_path_factory.mktemp("seeded") / "report"
    predictions = [*fits(make, "a", (1, 2)), *fits(make, "b", (1, 2), sharpness=2.0)]
    report(predictions, out=out, num_resamples=20, examples=False)
    return predictions, out


def test_tables_have_one_row_a_method(seeded):
    predictions, out = seeded
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "2 methods · 4 fits · 60 examples" in text
    section = text.split("## Scores")[1].split("## Reliability")[0]
    lines = [line for line in section.splitlines() if line.startswith(("| a", "| b"))]
    assert len(lines) == 2 * 2
    assert all("(2 seeds)" in line for line in lines)
    mean = over_seeds([evaluate(fit, num_resamples=1) for fit in predictions[:2]])["nll"]
    assert f"{mean.value:.3f}** [{mean.low:.3f}, {mean.high:.3f}]" in lines[0]
    assert "whose values are means, t over seeds" in section
    assert "Holm-corrected over 1 comparison with" in section
    assert "The reference was chosen for its NLL on these examples" in section


def test_files_hold_the_fits_and_the_means(seeded):
    _, out = seeded
    content = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert [method["label"] for method in content["methods"]] == [
        f"{name} (seed {seed})" for name in "ab" for seed in (1, 2)
    ]
    assert [method["seeds"] for method in content["over_seeds"]] == [["1", "2"]] * 2
    with (out / "scores.csv").open(encoding="utf-8", newline="") as stream:
        lines = {(line["method"], line["score"]): line for line in csv.DictReader(stream)}
    own = content["over_seeds"][0]["scores"]["nll"]["value"]
    assert float(lines["a (2 seeds)", "nll"]["value"]) == own
