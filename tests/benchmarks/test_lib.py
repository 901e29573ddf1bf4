"""What studies share: results by cell, writers that are killed, arguments, and fixed rows."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.lib import task_rows
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.lib.task_rows import FAR, load_rows

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


def test_arguments_of_a_study_and_the_number_of_threads():
    before = torch.get_num_threads()
    try:
        parser = study_parser("What is asked.\n\nHow.", "reports/x", threads=3)
        args = parser.parse_args(["--data-dir", "d"])
        assert vars(args) == {"out": Path("reports/x"), "data_dir": Path("d"), "threads": 3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert parser.description == "What is asked."
    args = study_parser("Asked.", "x", data_dir=False, threads=None).parse_args([])
    assert vars(args) == {"out": Path("x")}


def questions(count, classes, seed, word):
    chance = random.Random(seed)
    return [
        {"id": f"{seed}-{n}", "question": f"{word} {chance.random()}", "label": classes[n % 2]}
        for n in range(count)
    ]


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Write two tasks with training rows that repeat and that occur in the test set."""
    sizes = {"NUM_TRAIN": 12, "NUM_VALIDATION": 6, "NUM_TEST": 8, "NUM_OOD": 4}
    for name, size in sizes.items():
        monkeypatch.setattr(task_rows, name, size)
    tasks = {"sst2_sentences": ["negative", "positive"], "ag_news_10k": ["sport", "world"]}
    for place, (name, classes) in enumerate(tasks.items()):
        test = questions(20, classes, 10 + place, name)
        train = questions(40, classes, 20 + place, name)
        train += [{**train[0], "id": "repeated"}, {**test[0], "id": "leak"}]
        path = tmp_path / name
        path.mkdir()
        for split, rows in (("train", train), ("test", test)):
            path.joinpath(f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        path.joinpath("classes.json").write_text(json.dumps(classes))
    return tmp_path


@pytest.mark.parametrize("task", ["sst2_sentences", "ag_news_10k"])
def test_the_fixed_rows_of_a_task_are_disjoint_and_the_same_every_time(data_dir, task):
    data = load_rows(task, data_dir)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [12, 6, 8]
    assert all(set(split.labels) == set(data.classes) for split in splits)
    texts = [text for split in splits for text in split.texts]
    assert len(set(texts)) == len(texts)
    # The other task's texts serve as out-of-distribution rows.
    other = "ag_news_10k" if task == "sst2_sentences" else "sst2_sentences"
    assert len(data.ood[FAR]) == 4
    assert all(text.startswith(other) for text in data.ood[FAR].texts)
    assert load_rows(task, data_dir) == data
