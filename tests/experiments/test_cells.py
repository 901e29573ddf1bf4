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
from bayeslora.experiments import search as searching
from bayeslora.experiments.grid import as_grid
from bayeslora.experiments.rows import task_rows
from bayeslora.experiments.workers import compute
from bayeslora.predictions.record import Predictions

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


def test_the_results_are_written_by_one_process_at_a_time(finished, tmp_path, monkeypatch):
    content, source, _ = finished
    out = tmp_path / "out"
    shutil.copytree(source, out)
    monkeypatch.setattr(run, "_PATIENCE", 0.1)
    code = "import sys; from bayeslora.io.files import lock\n"
    code += "with lock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, out / "results.parquet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        with refused("busy", "results.parquet"):
            bl.experiment(content, out)
        other.stdin.close()
    assert bl.experiment(content, out).records


def test_predictions_of_an_interrupted_run_are_not_stored(grid, tmp_path):
    parsed = as_grid({**grid, "posteriors": ["mle"], "seeds": [0]})
    work = tmp_path / "work"
    work.mkdir()
    (work / "removed-set.parquet").write_bytes(b"old")
    outcome = compute(cells.Workshop(parsed), parsed.cells[0], work)
    assert sorted(outcome.files) == ["far.parquet", "test.parquet"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"posteriors": ["mle"], "predict": {"num_samples": 7}}, ["num_samples"]),
        ({"corruptions": ["typos"], "tasks": ["digits"]}, ["digits", "corruptions"]),
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


def test_training_rows_that_are_all_reported_are_refused(grid, tmp_path):
    file = write(tmp_path / "rows.jsonl", [question(k, 3) for k in range(8)])
    task = {"name": "quiz", "train": file, "test": file}
    with refused("input", "8"):
        run.plan({**grid, "tasks": [task]})


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


def test_an_ood_set_of_which_no_row_is_left_is_refused(grid, place):
    (task,) = grid["tasks"]
    for file, count in ((place.train, 60), (place.test, 40)):
        with refused("input", "toy", "seen", count):
            run.plan({**grid, "tasks": [{**task, "ood": {"seen": file}}]})


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


def test_twins_stay_on_one_side_of_a_search(searched, tmp_path, monkeypatch):
    rows = [
        question(f"{pair} {side}", 2) | {"id": f"{pair}-{side}"}
        for pair in range(12)
        for side in (1, 2)
    ]
    for split in ("train", "test"):
        named = [{**row, "question": f"{split} {row['question']}"} for row in rows]
        write(tmp_path / "data/winogrande_xs" / f"{split}.jsonl", named)
    workshop = cells.Workshop(as_grid({**searched, "tasks": ["winogrande-xs"]}), tmp_path / "data")
    setup = workshop.setup(workshop.grid.cells[0])
    parts = []

    def fit(_clf, train, **_options):
        parts.append({*train.groups})
        raise StopIteration

    monkeypatch.setattr(bl.BayesianClassifier, "fit", fit)
    with pytest.raises(StopIteration):
        searching._loss(setup, "tiny", 0.25, tmp_path / "trial")
    (fitted,) = parts
    assert len(fitted) == 9  # of 12 pairs, each whole


def test_reported_rows_are_scored_under_corruptions(grid, tmp_path):
    content = {**grid, "posteriors": ["mle", "laplace"], "seeds": [0]}
    shifted = {**content, "corruptions": ["truncation", "typos:5"]}
    out = tmp_path / "out"
    result = bl.experiment(shifted, out)
    names = [*(f"truncation:{severity}" for severity in range(1, 6)), "typos:5"]
    for record in result.records:
        nll = {name: record["scores"][name]["scores"]["nll"]["value"] for name in names}
        assert len({*nll.values()}) == len(names)
        assert nll["truncation:5"] != record["scores"]["reported"]["scores"]["nll"]["value"]
    text = (out / "summary.md").read_text()
    assert all(f"Set *{name}*:" in text for name in names)
    table = result.table.to_pylist()
    assert {row["set"] for row in table if row["score"] == "ece"} == {"test", "far", *names}
    file = next(out.glob("cells/*mle*.typos-5.parquet"))
    assert Predictions.load(file).metadata["severity"] == "5"
    bl.report([next(out.glob("cells/*mle*.test.parquet"))], out=tmp_path / "page", shifted=[file])
    with refused("input", "corruptions"):
        bl.experiment({**shifted, "corruptions": ["typos:5"]}, out)
