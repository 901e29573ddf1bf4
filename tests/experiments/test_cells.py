"""Settings of cells: one table never mixes them, and a dry run finds what a run would refuse."""

import json
import shutil
import subprocess
import sys

import pytest
from refusal import refused

import bayeslora as bl
from bayeslora.errors import InputError
from bayeslora.experiments import cells, run
from bayeslora.experiments.grid import as_grid
from bayeslora.experiments.rows import task_rows

pytestmark = pytest.mark.usefixtures("few_resamples")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def question(number, options):
    choices = [f"option {number} {letter}" for letter in "abcde"[:options]]
    return {"id": f"q{number}", "question": f"{number}?", "choices": choices, "answer_index": 0}


def test_another_seed_with_other_settings_is_refused(finished, tmp_path):
    content, source, _ = finished
    out = tmp_path / "out"
    shutil.copytree(source, out)
    changed = {**content, "seeds": [2], "fit": {"epochs": 2}}
    for attempt in (bl.experiment, run.plan):
        with refused("input", "fit.epochs", "2", "seed 0", "1"):
            attempt(changed, out)
    assert run.plan({**content, "seeds": [2]}, out).settings
    with refused("input", "experiment.json"):
        run.plan(content, source / "cells")


@pytest.fixture
def with_other_weights(monkeypatch):
    """Return a function that lets cells of a seed report other weights of the backbone."""
    true = cells.Workshop.run

    def changed(seed):
        def run_cell(workshop, cell, *more):
            record = true(workshop, cell, *more)
            if cell.seed == seed:
                record["backbone"]["fingerprint"] = "other"
            return record

        monkeypatch.setattr(cells.Workshop, "run", run_cell)

    return changed


def test_cells_of_one_run_have_the_same_weights(grid, tmp_path, with_other_weights):
    """As on machines of a cluster with different files of the same name."""
    with_other_weights(1)
    with refused("input", "weights of backbone", "seed 1"):
        bl.experiment({**grid, "posteriors": ["mle"]}, tmp_path / "out")
    (record,) = (tmp_path / "out/cells").glob("*.json")
    assert json.loads(record.read_text())["cell"]["seed"] == 0


def test_one_process_at_a_time_runs_an_experiment(finished, tmp_path):
    content, source, _ = finished
    out = tmp_path / "out"
    shutil.copytree(source, out)
    code = "import sys; from bayeslora.io.files import lock\n"
    code += "with lock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with refused("busy", str(out)):
            bl.experiment(content, out)
        other.stdin.close()
    assert bl.experiment(content, out).records


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"posteriors": ["mle"], "predict": {"num_samples": 7}}, ["num_samples"]),
        ({"search": {"trials": 2, "ranges": {"fit.epochs": [0, 1]}}}, ["epochs"]),
        ({"search": {"trials": 2, "ranges": {"fit.batch_size": {"low": -4, "high": 2}}}}, ["-4"]),
        ({"search": {"trials": 2, "ranges": {"fit.head_lr": ["a", "b"]}}}, ["head_lr", "'a'"]),
    ],
)
def test_a_dry_run_finds_what_a_run_would_refuse(grid, change, named):
    if "search" in change:
        pytest.importorskip("optuna", reason="needs Optuna: pip install 'bayeslora[tune]'")
    with pytest.raises(InputError) as caught:
        run.plan({**grid, **change})
    for word in named:
        assert word in str(caught.value)


def test_ood_rows_of_train_or_of_the_reported_split_are_dropped(tmp_path):
    kinds = ("train", "test", "far")
    rows = {kind: [question(f"{kind} {k}", 3) for k in range(6)] for kind in kinds}
    rows["far"] += [rows["train"][0], rows["test"][1], rows["test"][2]]
    files = {kind: write(tmp_path / f"{kind}.jsonl", content) for kind, content in rows.items()}
    ood = {"far": files.pop("far")}
    grid = as_grid({"tasks": [{"name": "quiz", **files, "ood": ood}]})
    read = task_rows(grid.tasks[0], grid.rules)
    assert read.dropped == {"far, in quiz too": 3}
    assert read.ood["far"].texts == tuple(f"far {k}?" for k in range(6))
    assert (len(read.train), len(read.reported)) == (6, 6)


@pytest.fixture
def searched(grid):
    pytest.importorskip("optuna", reason="needs Optuna: pip install 'bayeslora[tune]'")
    ranges = {"adapter.lr": [0.001, 0.01]}
    return {**grid, "posteriors": ["mle"], "seeds": [0], "search": {"trials": 2, "ranges": ranges}}


def test_a_changed_search_of_a_finished_cell_is_refused(searched, tmp_path):
    bl.experiment(searched, tmp_path / "out")
    assert "adapter.lr = 0.0" in (tmp_path / "out/summary.md").read_text()
    with refused("input", "search.trials"):
        bl.experiment({**searched, "search": {**searched["search"], "trials": 3}}, tmp_path / "out")
