"""The speed study: its table, and which package is measured."""

import json
from pathlib import Path

import pytest

from benchmarks.speed import __main__ as speed


def test_a_clone_is_measured_in_the_commands_that_it_starts_too(tmp_path):
    """The clone's `benchmarks.speed` says where a process of its process imports the package."""
    package, study = tmp_path / "bayeslora", tmp_path / "benchmarks" / "speed"
    for folder in (package, study):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (study.parent / "__init__.py").touch()
    (study / "__main__.py").write_text(
        "import json, subprocess, sys\n"
        "code = 'import bayeslora; print(bayeslora.__file__)'\n"
        "done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
        "print(json.dumps({'file': done.stdout.strip(), 'argv': sys.argv[1:]}))\n"
    )
    result = speed.measured("ece", "ours", tmp_path)
    assert Path(result["file"]) == package / "__init__.py"
    assert result["argv"] == ["--measure", "ece", "ours"]


def test_missing_runs_are_added_to_the_stored_ones(tmp_path, monkeypatch):
    calls = []

    def measured(case, side, clone):
        calls.append((case, side, clone))
        return {"seconds": float(len(calls)), "mib": 1.0}

    monkeypatch.setattr(speed, "measured", measured)
    clone = tmp_path / "clone"
    words = ["speed", "--cases", "ece", "--quick", "--out", str(tmp_path)]
    for more in ([], ["--before", str(clone)]):
        monkeypatch.setattr("sys.argv", [*words, *more])
        speed.main()
    sides = ["ours", "netcal", "torchmetrics"]
    assert calls == [*(("ece", side, speed.ROOT) for side in sides), ("ece", "ours", clone)]
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.splitlines() if "ECE alone" in line]
    assert [(line[2].strip(), line[5].strip()) for line in lines] == [
        ("ours", ""),
        ("netcal", "2.00"),
        ("torchmetrics", "3.00"),
        ("before", "4.00"),
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
