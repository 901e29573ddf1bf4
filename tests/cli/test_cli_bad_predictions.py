"""Predictions files with invalid contents."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_files import fake


def table(**changes):
    """Return a valid predictions table with some columns changed; None drops a column."""
    columns = {
        "id": ["p", "q", "r"],
        "label": ["a", "b", "a"],
        "prob_a": [0.7, 0.2, 0.6],
        "prob_b": [0.3, 0.8, 0.4],
    } | changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


PREDICTIONS = {
    "NaN": ({"prob_a": [0.7, np.nan, 0.6]}, ["row 2", "nan"]),
    "infinite": ({"prob_a": [np.inf, 0.2, 0.6]}, ["row 1", "inf"]),
    "negative": ({"prob_a": [0.7, 0.2, -0.6], "prob_b": [0.3, 0.8, 1.6]}, ["row 3", "-0.6"]),
    "sum": ({"prob_b": [0.3, 0.9, 0.4]}, ["row 2", "1.1"]),
    "label": ({"label": ["a", "b", "c"]}, ["row 3", "'label'", "'c'", "'a', 'b'"]),
    "id": ({"id": ["p", "q", "p"]}, ["row 3", "'p'"]),
    "no probabilities": ({"prob_a": None, "prob_b": None}, ["prob_<class>"]),
    "one probability column": ({"prob_b": None}, ["'prob_a'", "--probability-column"]),
    "score": ({"score_x": [1.0, np.nan, 2.0]}, ["row 2", "nan"]),
    "text": ({"prob_a": ["0.7", "high", "0.6"]}, ["'prob_a'"]),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predictions_files(refused, tmp_path, case):
    changes, parts = PREDICTIONS[case]
    path = tmp_path / "bad.parquet"
    pq.write_table(table(**changes), path)
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
        for part in ("bad.parquet", *parts):
            assert part in message


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("none.parquet", None, ["none.parquet does not exist"]),
        ("text.json", b"{}", ["text.json", "prob_<class>"]),
        ("bad.parquet", b"PAR1 and nothing else", ["cannot be read as Parquet"]),
        ("bad.csv", b"prob_a,prob_b\n0.5,half\n", ["row 2", "'prob_b'", "'half'"]),
        ("empty.csv", b"prob_a,prob_b\n", ["no rows"]),
        ("folder", "directory", ["no predictions/test.parquet", "run directory"]),
    ],
)
def test_files_that_hold_no_predictions(refused, tmp_path, name, content, parts):
    path = tmp_path / name
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    message = refused("evaluate", path)
    for part in parts:
        assert part in message
