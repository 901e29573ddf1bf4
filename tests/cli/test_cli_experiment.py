"""`bayeslora experiment`: exit codes and what is printed."""

import json

import pytest
import yaml

from bayeslora.errors import InputError
from bayeslora.experiments import cells


@pytest.fixture
def grid_file(world, tmp_path):
    content = {
        "tasks": [{"name": "toy", "train": str(world.train), "test": str(world.test)}],
        "backbones": str(world.llama),
        "adapters": ["lora"],
        "posteriors": ["mle"],
        "seeds": [0],
        "fit": {"epochs": 1},
    }
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_grid_runs_and_runs_on(run, grid_file, tmp_path):
    out = tmp_path / "out"
    result = run("experiment", grid_file, "--out", out, "--json")
    assert result.code == 0, result.err
    content = json.loads(result.out)
    assert (content["num_cells"], content["failed"]) == (1, {})
    assert (out / "results.parquet").exists()
    result = run("experiment", grid_file, "--out", out, "--quiet")
    assert result.code == 0
    assert "summary.md" in result.out
    assert result.err == ""


def test_a_dry_run_writes_nothing(run, grid_file, tmp_path):
    result = run("experiment", grid_file, "--out", tmp_path / "out", "--dry-run", "--json")
    assert result.code == 0
    assert json.loads(result.out)["num_cells"] == 1
    assert not (tmp_path / "out").exists()
    result = run("experiment", grid_file, "--dry-run")
    assert "protocol bayeslora" in result.out


@pytest.mark.parametrize(("error", "code", "attempts"), [(RuntimeError, 1, 2), (InputError, 2, 1)])
def test_a_failed_cell_is_said_once(run, grid_file, tmp_path, monkeypatch, error, code, attempts):
    calls = []

    def fail(*_):
        calls.append(1)
        raise error("no luck")

    monkeypatch.setattr(cells.Workshop, "run", fail)
    result = run("experiment", grid_file, "--out", tmp_path / "out")
    assert (result.code, len(calls)) == (code, attempts)
    assert (result.out + result.err).count("no luck") == 1
    assert "1" in next(line for line in result.out.splitlines() if line.startswith("failed"))
    assert "error.json" in result.err
    result = run("experiment", grid_file, "--out", tmp_path / "out", "--json")
    assert (result.code, json.loads(result.out)["num_cells"]) == (code, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"taks": 1}, "taks"),
        ({"posteriors": ["vbl"]}, "vbl"),
        ({"adapters": ["none"], "posteriors": ["blob"]}, "blob"),
        ({"backbones": "no-such-dir/model"}, "no-such-dir/model"),
        ({"protocol": "blup"}, "blup"),
    ],
)
def test_a_wrong_grid_is_exit_code_2(refused, grid_file, tmp_path, change, named):
    content = {**yaml.safe_load(grid_file.read_text()), **change}
    grid_file.write_text(yaml.safe_dump(content))
    message = refused("experiment", grid_file, "--out", tmp_path / "out")
    assert named in message


@pytest.mark.parametrize(
    "options",
    [
        ("--shard", "3/2"),
        ("--shard", "x"),
        ("--workers", "0"),
        ("--workers", "2", "--ray", "local"),
    ],
)
def test_wrong_options_are_exit_code_2(run, grid_file, tmp_path, options):
    assert run("experiment", grid_file, "--out", tmp_path / "out", *options).code == 2


def test_out_is_needed(refused, grid_file):
    assert "--out" in refused("experiment", grid_file)
