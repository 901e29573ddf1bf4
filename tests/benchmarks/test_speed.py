"""Tests of the speed study: the evaluation of measurements, and which package is measured."""

import json
import sys

import pytest

from bayeslora.errors import InputError
from benchmarks.speed import __main__ as speed
from benchmarks.speed import measuring
from benchmarks.speed.growth import exponent


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_the_exponent_of_a_power_is_that_power(power):
    # The small sizes have only fixed costs, which must not count.
    points = [(1, 9.0), (2, 9.0), *((n, 3 * n**power) for n in (4, 8, 16))]
    assert exponent(points) == pytest.approx(power, abs=1e-9)


def test_what_is_no_clone_is_not_measured(tmp_path):
    with pytest.raises(InputError) as caught:
        measuring.measured("benchmarks.speed", "ece", "ours", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_rows_of_another_machine_are_not_replaced(tmp_path, monkeypatch, capsys):
    row = {"kind": "case", "name": "ece", "machine": {"processor": "another"}, "sides": {}}
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    before = file.read_bytes()
    monkeypatch.setattr("sys.argv", ["speed", "--cases", "ece", "--out", str(tmp_path), "--quick"])
    with pytest.raises(SystemExit) as caught:
        speed.main()
    assert caught.value.code == 2
    assert str(file) in capsys.readouterr().err
    assert file.read_bytes() == before
    # The default directory belongs to this machine.
    monkeypatch.setattr(speed, "OURS", tmp_path)
    monkeypatch.setattr(speed, "HERE", tmp_path / "here")
    monkeypatch.setattr("sys.argv", ["speed", "--cases", "ece", "--quick"])
    monkeypatch.setattr(speed, "measured", lambda *_: {"seconds": 1.0, "mib": 1.0})
    speed.main()
    assert file.read_bytes() == before
    assert (tmp_path / "here" / "results.jsonl").is_file()


def test_a_clone_is_measured_in_the_commands_that_it_starts_too(tmp_path, monkeypatch):
    package = tmp_path / "clone" / "bayeslora"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    # Stands in for a benchmark: prints where a subprocess of a process imports the package from.
    script = tmp_path / "probe.py"
    script.write_text(
        "import json, subprocess, sys\n"
        "code = 'import bayeslora; print(bayeslora.__file__)'\n"
        "done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
        "print(json.dumps({'file': done.stdout.strip()}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = measuring.subprocess.run

    def start(command, env, **options):
        env = env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{tmp_path}"}
        return run([sys.executable, "-m", "probe"], env=env, **options)

    monkeypatch.setattr(measuring.subprocess, "run", start)
    result = measuring.measured("benchmarks.speed", "ece", "ours", tmp_path / "clone")
    assert result["file"] == str(package / "__init__.py")


def test_the_table_compares_with_our_side_whatever_the_order_of_the_file(tmp_path):
    runs = {"torchmetrics": 1.0, "netcal": 8.0, "ours": 2.0}
    sides = {name: [{"seconds": seconds, "mib": 1.0}] for name, seconds in runs.items()}
    row = {"kind": "case", "name": "ece", "machine": {}, "sides": sides}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    speed.write_table(tmp_path)
    lines = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    ratios = [line.split("|")[5].strip() for line in lines if "ECE alone" in line]
    assert ratios == ["", "4.00", "0.50"]
