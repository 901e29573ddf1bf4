"""Few rows, and identical rows: every output mentions them, and none prints NaN."""

import csv
import json
import re

import numpy as np
import pytest

from bayeslora.metrics.scores import NO_INTERVAL
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.report import report
from bayeslora.reporting.text import say

pytestmark = pytest.mark.usefixtures("blank_figures")

NAN = re.compile(r"\bnan\b", re.IGNORECASE)


def two(labels):
    """Return two methods that give every row the same probabilities."""
    rows = len(labels)
    return [
        Predictions(
            [[top, 1 - top]] * rows, ("a", "b"), labels, name=name, total=np.full(rows, 0.6)
        )
        for name, top in (("first", 0.7), ("second", 0.9))
    ]


def far():
    return Predictions([[0.5, 0.5]] * 2, ("a", "b"), name="far", total=np.full(2, 0.69))


@pytest.mark.parametrize("labels", [[0], [1] * 40], ids=["one row", "forty wrong"])
def test_every_file_of_a_report(labels, tmp_path):
    out = tmp_path / "report"
    report(two(labels), out=out, ood={"first": {"far": far()}}, num_resamples=40)
    for name in ("index.html", "report.md", "tables.tex", "scores.csv", "scores.json"):
        text = next(out.glob(f"**/{name}")).read_text(encoding="utf-8")
        assert not NAN.search(re.sub(r"<script.*?</script>|data:[^\"]*", "", text, flags=re.S)), (
            name
        )
        if name.endswith((".html", ".md", ".tex")):
            assert NO_INTERVAL in text, name
    markdown = next(out.glob("**/report.md")).read_text(encoding="utf-8")
    assert say("no_interval_note", least=10) in markdown
    assert "its interval is mirrored at the value" in markdown
    content = json.loads(next(out.glob("**/scores.json")).read_text(encoding="utf-8"))
    assert content["methods"][0]["scores"]["ece"]["low"] is None
    with next(out.glob("**/scores.csv")).open(encoding="utf-8") as stream:
        line = next(row for row in csv.DictReader(stream) if row["score"] == "ece")
    assert (line["low"], line["high"]) == ("", "")


def test_no_claim_is_made_without_an_interval(tmp_path):
    out = tmp_path / "report"
    report(two([0, 0, 1] * 3), out=out, num_resamples=40)
    text = next(out.glob("**/report.md")).read_text(encoding="utf-8")
    assert "which includes 0" not in text
    assert "±–" not in text
    assert "Label more" in text
    assert "by cost" not in text
