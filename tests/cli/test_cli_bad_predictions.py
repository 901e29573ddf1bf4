"""Predictions files with invalid contents: every verb that reads them names file and row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_files import fake


def test_every_verb_refuses_a_wrong_row(refused, tmp_path):
    path = tmp_path / "bad.parquet"
    pq.write_table(
        pa.table({"label": ["a", "b"], "prob_a": [0.7, np.nan], "prob_b": [0.3, 1]}), path
    )
    good = fake(tmp_path / "good.parquet")
    commands = (
        ["evaluate", path],
        ["compare", good, path],
        ["report", path, "--out", tmp_path / "report"],
        ["recalibrate", "--fit", path, "--apply", good, "--out", tmp_path / "o.parquet"],
        ["conformal", "--fit", good, "--apply", path, "--out", tmp_path / "o.parquet"],
    )
    for command in commands:
        message = refused(*command)
        for part in ("bad.parquet", "row 2", "nan"):
            assert part in message


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("text.json", b"{}", ["text.json", "prob_<class>"]),
        ("folder", None, ["predictions/test.parquet"]),
    ],
)
def test_files_that_hold_no_predictions(refused, tmp_path, name, content, parts):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    message = refused("evaluate", path)
    for part in parts:
        assert part in message
