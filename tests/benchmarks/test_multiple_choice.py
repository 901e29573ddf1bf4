"""Joined runs of the multiple-choice grids: cells replace each other, and pairs share a seed."""

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.multiple_choice import summary
from benchmarks.multiple_choice.__main__ import main


def cells(method, nll, *, task="openbookqa"):
    """Return the rows of one cell per seed."""
    rows = []
    for seed, value in nll.items():
        cell = {"protocol": "label-budget", "task": task, "backbone": "tiny", "method": method}
        cell |= {"rows": 8, "seed": seed, "split": "test"}
        scores = [("test", "nll", value), ("test", "accuracy", 0.5), ("shift", "nll", 2.0)]
        scores += [("cost", name, 1.0) for name in ("seconds_fit", "seconds_predict_per_1000")]
        scores += [("cost", name, 1.0) for name in ("passes", "peak_memory_bytes")]
        rows += [
            cell | {"set": where, "score": score, "by": None, "value": number}
            for where, score, number in scores
        ]
    return pa.Table.from_pylist(rows)


def test_a_new_cell_replaces_the_stored_one_and_leaves_the_others(tmp_path, monkeypatch):
    for name, values in (("first", {0: 1.0, 1: 2.0}), ("second", {1: 3.0, 2: 4.0})):
        (tmp_path / name).mkdir()
        pq.write_table(cells("LoRA", values), tmp_path / name / "results.parquet")
        words = ["multiple_choice", "--out", tmp_path, "--add", tmp_path / name]
        monkeypatch.setattr("sys.argv", [*map(str, words)])
        main()
    together = {
        row["seed"]: row["value"]
        for row in pq.read_table(tmp_path / summary.FILE).to_pylist()
        if row["score"] == "nll" and row["set"] == "test"
    }
    assert together == {0: 1.0, 1: 3.0, 2: 4.0}
    assert "| LoRA |" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_differences_are_of_the_seeds_that_both_methods_have(tmp_path):
    table = summary.joined(
        [cells(summary.REFERENCE, {0: 1.0, 1: 1.5}), cells("LoRA", {0: 1.25, 1: 2.0, 2: 9.0})]
    )
    pq.write_table(table, tmp_path / summary.FILE)
    summary.write_summary(tmp_path)
    lines = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    (difference,) = [line for line in lines if line.startswith("| LoRA |") and "(2)" in line]
    assert "+0.375" in difference  # the mean of .25 and .5, without the seed that has no pair
