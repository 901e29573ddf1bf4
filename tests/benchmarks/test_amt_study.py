"""The study of AMT: its summary says which arms have not run."""

import pytest

from benchmarks.amt import summary
from benchmarks.lib.results import Results


def test_arms_that_have_not_run_are_named_until_they_have(tmp_path):
    results = Results(tmp_path / "amt", summary.KEY)

    def text():
        summary.write_summary(tmp_path)
        return (tmp_path / "amt" / "summary.md").read_text(encoding="utf-8")

    scores = {"accuracy": [0.5, 1.0], "nll": 1.0, "ece": 0.1}
    for arm in summary.ARMS[:-2]:
        results.append({"arm": arm, "seed": 0, "clean": scores, "attacked": scores})
    line = "Arms that have not run: `pool, ensemble`, `member of the validation classes`."
    assert line in text()
    for arm in summary.ARMS[-2:]:
        results.append({"arm": arm, "seed": 0, "clean": scores, "attacked": scores})
    assert "not run" not in text().split("## Claims")[0]
    assert summary.claims(tmp_path / "amt")[0].gains == pytest.approx((0.0,))
