"""The results of a study: rows by cell, concurrent writers, and killed writers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from refusal import refused

from bayeslora.io.files import write_json
from benchmarks.lib.results import Results, import_cells

ROOT = Path(__file__).parents[2]
KEY = ("task", "size", "seed")


def row(task, size, seed, **scores):
    return {"seed": seed, "task": task, "size": size, **scores}


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "report", KEY)


def test_rows_are_sorted_by_key_and_the_last_of_a_cell_counts(results):
    assert results.rows() == []
    assert results.get(task="a") is None
    results.sort()
    assert not results.path.exists()
    for record in (row("b", 32, 0), row("a", 640, 1), row("a", 32, 0, nll=2.0), row("a", 128, 0)):
        results.append(record)
    results.append(row("a", 32, 0, nll=0.1))
    assert [(record["task"], record["size"]) for record in results.rows()] == [
        ("a", 32),
        ("a", 128),
        ("a", 640),
        ("b", 32),
    ]
    assert results.get(task="a", size=32, seed=0)["nll"] == 0.1
    assert [record["size"] for record in results.rows(task="a", seed=0)] == [32, 128]
    with pytest.raises(ValueError, match="3 rows"):
        results.get(task="a")
    before = results.rows()
    assert len(results.path.read_text().splitlines()) == 5
    results.sort()
    lines = results.path.read_text().splitlines()
    assert len(lines) == 4
    # Columns of the key come first, and numbers are unchanged.
    assert lines[0] == '{"task": "a", "size": 32, "seed": 0, "nll": 0.1}'
    assert results.rows() == before


def test_rows_of_another_kind_lack_columns(results):
    results.append({"task": "a", "lr": 0.1})
    results.append(row("a", 32, 0))
    assert [record.get("lr") for record in results.rows()] == [0.1, None]
    assert results.get(task="a", size=None) == {"task": "a", "lr": 0.1}


def test_what_a_killed_writer_left_is_not_there(results):
    results.append(row("a", 32, 0))
    with results.path.open("a") as file:
        file.write('{"task": "a", "size": 12')
    assert len(results.rows()) == 1
    results.append(row("a", 128, 0))
    assert [json.loads(line)["size"] for line in results.path.read_text().splitlines()] == [32, 128]


def test_a_damaged_line_is_named(results):
    results.append(row("a", 32, 0))
    with results.path.open("a") as file:
        file.write("[1]\n")
    with refused("input", "line 2"):
        results.rows()


def test_numbers_have_to_be_finite(results):
    with pytest.raises(ValueError, match="JSON compliant"):
        results.append(row("a", 32, 0, nll=float("nan")))
    assert not results.path.exists()


def test_several_processes_append_and_sort(results):
    code = (
        "import sys; from pathlib import Path; from benchmarks.lib.results import Results\n"
        f"results = Results(Path(sys.argv[1]), {KEY})\n"
        "for seed in range(20):\n"
        "    results.append({'task': sys.argv[2], 'size': 1, 'seed': seed, 'text': 'x' * 9000})\n"
        "    seed % 5 or results.sort()\n"
    )
    command = [sys.executable, "-c", code, str(results.path.parent)]
    running = [subprocess.Popen([*command, task], cwd=ROOT) for task in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert [(record["task"], record["seed"]) for record in results.rows()] == [
        (task, seed) for task in "abc" for seed in range(20)
    ]
    assert [file.name for file in results.path.parent.iterdir()] == [results.path.name]


def test_cells_are_imported_from_files(tmp_path):
    results = Results(tmp_path / "report", ("backbone", *KEY))
    results.append({"backbone": "minilm", **row("a", 32, 0, nll=0.5)})
    results.append({"backbone": "minilm", **row("a", 32, 1, nll=0.5)})
    folder = tmp_path / "cells"
    for backbone, seed, nll in (("minilm", 0, 0.5), ("minilm", 1, 0.25), ("smollm2", 0, 0.125)):
        write_json(folder / backbone / "a" / f"32-{seed}.json", row("a", 32, seed, nll=nll))
    counts = import_cells(results, folder, ("backbone", "task"))
    assert counts == {"new": 1, "changed": 1, "known": 1}
    assert [(record["backbone"], record["nll"]) for record in results.rows()] == [
        ("minilm", 0.5),
        ("minilm", 0.25),
        ("smollm2", 0.125),
    ]
    assert len(results.path.read_text().splitlines()) == 3
    with refused("input", "backbone"):
        import_cells(results, folder)
    with refused("input", "nowhere"):
        import_cells(results, tmp_path / "nowhere")
