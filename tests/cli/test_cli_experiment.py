"""`bayeslora experiment`: exit codes and what is printed."""

import json

import pytest
import yaml


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
    assert list(json.loads(result.out)["cells"].values()) == [False]
    assert not (tmp_path / "out").exists()
    result = run("experiment", grid_file, "--dry-run")
    assert "protocol bayeslora" in result.out


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


def test_out_is_needed(refused, grid_file):
    assert "--out" in refused("experiment", grid_file)
