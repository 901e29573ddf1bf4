"""Runs of grids: what is stored, what is kept, what is refused."""

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from forked import command
from refusal import refused

import bayeslora as bl
from bayeslora.errors import InputError
from bayeslora.experiments import cells, run
from bayeslora.predictions.record import Predictions


def test_a_cell_has_predictions_and_a_record(finished):
    _, out, result = finished
    assert len(result.records) == 4
    assert result.failed == {}
    record = result.records[0]
    predictions = Predictions.load(next(out.glob("cells/toy-llama-lora-laplace-0-*.test.parquet")))
    assert record["cell"]["method"] == predictions.name == "lora laplace"
    assert bl.evaluate(predictions)["nll"].value == pytest.approx(
        record["scores"]["reported"]["scores"]["nll"]["value"], rel=1e-12
    )
    assert record["num_train"] == 60
    assert record["num_classes"] == 3
    assert record["split"] == "test"
    assert record["steps"] == 4  # at most: 60 rows in batches of 16
    assert record["passes"] == 1
    assert record["scores"]["reported"]["num_bins"] == 15
    assert record["seconds"]["fit"] > 0
    assert record["peak_memory_bytes"] > 1e7
    assert {"bayeslora", "torch"} <= record["versions"].keys()
    assert not (out / "work").exists()


def test_results_have_a_row_per_score(finished):
    _, out, result = finished
    table = pq.read_table(out / "results.parquet")
    assert table.equals(result.table)
    rows = table.to_pylist()
    nll = [row for row in rows if (row["set"], row["score"]) == ("test", "nll")]
    assert [(row["method"], row["seed"]) for row in nll] == [
        ("lora laplace", 0),
        ("lora laplace", 1),
        ("lora mle", 0),
        ("lora mle", 1),
    ]
    assert all(row["low"] <= row["value"] <= row["high"] for row in nll)
    auroc = [row for row in rows if (row["set"], row["score"]) == ("far", "auroc")]
    assert {"max_probability", "epistemic"} <= {row["by"] for row in auroc}


def test_tables_say_protocol_and_paired_differences(finished):
    _, out, result = finished
    text = (out / "summary.md").read_text()
    assert "Protocol bayeslora: reported on test" in text
    nll = {
        (record["cell"]["method"], record["cell"]["seed"]): record["scores"]["reported"]["scores"][
            "nll"
        ]["value"]
        for record in result.records
    }
    gaps = [nll["lora laplace", seed] - nll["lora mle", seed] for seed in (0, 1)]
    mean = sum(gaps) / 2
    half = 12.706205 * abs(gaps[0] - gaps[1]) / 2  # t with one degree of freedom
    assert f"{mean:+.3f} ± {half:.3f}" in text


def test_the_same_command_computes_nothing_again(finished, monkeypatch):
    content, out, result = finished
    before = {file: file.stat().st_mtime_ns for file in out.glob("cells/*")}
    monkeypatch.setattr(cells.Workshop, "run", None)
    again = bl.experiment(content, out)
    assert again.table.equals(result.table)
    assert {file: file.stat().st_mtime_ns for file in out.glob("cells/*")} == before


def test_further_cells_are_added_and_changed_ones_refused(finished, tmp_path, monkeypatch):
    content, source, _ = finished
    out = tmp_path / "out"
    shutil.copytree(source, out)
    done = []

    def fake(workshop, cell, *more):
        done.append(str(cell))
        raise RuntimeError("stop")

    monkeypatch.setattr(cells.Workshop, "run", fake)
    more = bl.experiment({**content, "seeds": [0, 1, 2], "posteriors": ["mle"]}, out)
    assert {line.rpartition(" ")[2] for line in done} == {"2"}
    assert len(more.records) == 4
    for file in out.glob("cells/*.error.json"):
        file.unlink()
    with pytest.raises(InputError) as caught:
        bl.experiment({**content, "fit": {"epochs": 2}}, out)
    assert "fit.epochs = 1" in str(caught.value)
    assert "seed 0" in str(caught.value)


def test_a_failed_cell_is_listed_and_forgotten_when_it_succeeds(grid, tmp_path, monkeypatch):
    calls = []
    true = cells.Workshop.run

    def run_or_fail(workshop, cell, *more):
        calls.append(cell.seed)
        if cell.seed == 1 and calls.count(1) < 2:
            raise ValueError("no luck")
        return true(workshop, cell, *more)

    monkeypatch.setattr(cells.Workshop, "run", run_or_fail)
    grid["posteriors"] = ["mle"]
    result = bl.experiment(grid, tmp_path / "out")
    assert calls == [0, 1]
    assert list(result.failed.values()) == ["ValueError: no luck"]
    assert len(result.records) == 1
    error = json.loads(next((tmp_path / "out/cells").glob("*.error.json")).read_text())
    assert error["cell"]["seed"] == 1
    assert "no luck" in error["traceback"]
    again = bl.experiment(grid, tmp_path / "out")
    assert calls == [0, 1, 1]
    assert (again.failed, len(again.records)) == ({}, 2)
    assert not list((tmp_path / "out/cells").glob("*.error.json"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"adapters": ["loraa"]}, ["loraa"]),
        ({"posteriors": ["vbll:scale=2"]}, ["scale"]),
        ({"adapters": ["none"], "posteriors": ["blob"]}, ["none blob", "seed 0"]),
        ({"posteriors": ["mle"], "fit": {"epochs": 0}}, ["epochs"]),
        ({"fit": {"epoch": 1}}, ["'epoch'"]),
        ({"fit": {"cv": 3}}, ["cv"]),
        ({"model": {"lenght": 3}}, ["'lenght'"]),
        ({"tasks": ["imdb"]}, ["'imdb'"]),
        ({"tasks": ["mmlu-college-physics"]}, ["mmlu-college-physics"]),
        ({"backbones": "no/such-model"}, ["no/such-model"]),
        ({"protocol": "label-budget", "rows": [1000]}, ["1000"]),
        ({"posteriors": ["mle"], "predict": {"num_samples": 7}}, ["num_samples"]),
    ],
)
def test_an_impossible_cell_is_named_and_nothing_is_written(grid, tmp_path, change, named):
    for attempt in (run.plan, lambda content: bl.experiment(content, tmp_path / "out")):
        if change.get("backbones") and attempt is run.plan:
            continue  # a plan accepts a backbone on another machine
        with pytest.raises(InputError) as caught:
            attempt({**grid, **change})
        for word in named:
            assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_changed_row_of_a_finished_cell_is_refused(finished, place, tmp_path):
    content, out, _ = finished
    first, _, rest = Path(place.train).read_text().partition("\n")
    changed = json.dumps(json.loads(first) | {"text": "another"})
    (tmp_path / "train.jsonl").write_text(f"{changed}\n{rest}")
    task = {**content["tasks"][0], "train": str(tmp_path / "train.jsonl")}
    with refused("input", "data.train"):
        run.plan({**content, "tasks": [task]}, out)


def test_another_seed_with_other_settings_is_refused(finished):
    content, out, _ = finished
    with refused("input", "fit.epochs", "2", "seed 0", "1"):
        run.plan({**content, "seeds": [2], "fit": {"epochs": 2}}, out)
    assert run.plan({**content, "seeds": [2]}, out).settings
    with refused("input", "experiment.json"):
        run.plan(content, out / "cells")


def test_one_process_at_a_time_runs_an_experiment(grid, tmp_path):
    code = "import sys; from bayeslora.io import lock\n"
    code += "with lock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        with refused("busy", tmp_path / "out"):
            bl.experiment(grid, tmp_path / "out")
        other.stdin.close()


def test_workers_need_ray(grid, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused("missing", "bayeslora[ray]"):
        bl.experiment(grid, tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()


def test_a_grid_that_is_killed_again_and_again_gives_the_same_table(
    grid, tmp_path, scores, finished
):
    """Ten kills at random moments, after none, one and two of the four cells are finished."""
    grid_file, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid_file.write_text(yaml.safe_dump(grid))
    chance = random.Random(0)

    def progress():
        """Return when the latest run began to work, and the number of finished cells."""
        marker = out / "experiment.json"
        return marker.exists() and marker.stat().st_mtime_ns, len([*out.glob("cells/*.json")])

    for kill in range(10):
        before, _ = progress()
        running = command("experiment", grid_file, "--out", out)
        while running.poll() is None and (
            progress()[0] == before or progress()[1] < kill * 3 // 10
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))  # less than a cell takes
        running.kill()
        assert running.wait() == -signal.SIGKILL
    assert len([*out.glob("cells/*.json")]) >= 2
    result = bl.experiment(grid, out)
    assert scores(result) == scores(finished[2])
    text = (out / "summary.md").read_text().partition("## Cost")[0]
    assert text == (finished[1] / "summary.md").read_text().partition("## Cost")[0]


def test_a_plan_needs_no_weights_and_no_network(grid, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "BAYESLORA_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "socket", None)
    tasks = [
        *grid["tasks"],
        "sst2",
        {**grid["tasks"][0], "name": "far", "ood": ["clinc150/oos_test"]},
    ]
    plan = run.plan({**grid, "tasks": tasks, "backbones": "meta-llama/Llama-3.1-8B"})
    content = json.loads(json.dumps(plan.to_json()))
    assert list(content["cells"].values()) == [False] * 12
    assert {cell.task for cell in plan.settings} == {"toy"}
    for missing, sentence in zip(
        ("sst2", "clinc150", "Llama-3.1-8B"), content["missing"], strict=True
    ):
        assert missing in sentence
