"""The speed study: its table, and our side of short cases."""

import json

import pytest

from benchmarks.speed import __main__ as speed


def test_missing_runs_are_added_to_the_stored_ones(tmp_path, monkeypatch):
    calls = []

    def measured(case, side):
        calls.append((case, side))
        return {"seconds": float(len(calls)), "mib": 1.0}

    monkeypatch.setattr(speed, "measured", measured)
    words = ["speed", "--cases", "ece", "--quick", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    speed.main()
    speed.main()
    assert calls == [("ece", side) for side in ("ours", "netcal", "torchmetrics")]
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.splitlines() if "ECE alone" in line]
    assert [(line[2].strip(), line[5].strip()) for line in lines] == [
        ("ours", ""),
        ("netcal", "2.00"),
        ("torchmetrics", "3.00"),
    ]


def test_the_table_compares_with_our_side_whatever_the_order_of_the_file(tmp_path):
    runs = {"torchmetrics": 1.0, "netcal": 8.0, "ours": 2.0}
    sides = {name: [{"seconds": seconds, "mib": 1.0}] for name, seconds in runs.items()}
    row = {"kind": "case", "name": "ece", "machine": {}, "sides": sides}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    speed.write_table(tmp_path)
    lines = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    ratios = [line.split("|")[5].strip() for line in lines if "ECE alone" in line]
    assert ratios == ["", "4.00", "0.50"]


@pytest.mark.parametrize("case", ["head-6", "laplace-fit", "laplace-predict", "ece"])
def test_our_side_of_short_cases_runs(case):
    assert next(iter(speed.CASES[case].sides.values()))() > 0
