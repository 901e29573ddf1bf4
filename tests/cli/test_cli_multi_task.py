"""Several tasks from the command line: fit, predict and scores of each."""

import json

import pytest
from cli_files import write_rows
from tiny import toy_rows

SMALL = (
    *("--epochs", "1", "--batch-size", "16", "--max-length", "32", "--set", "dtype=float32"),
    *("--posterior", "mle", "--adapter", "lora:r=2,num_layers=2", "--quiet"),
)


def binary(n, seed=0):
    return [
        {**row, "label": "yes" if row["label"] == "animals" else "no"} for row in toy_rows(n, seed)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {
        f"{task}-{split}": write_rows(folder / f"{task}-{split}.jsonl", make(n, seed))
        for task, make in (("topic", toy_rows), ("animal", binary))
        for split, n, seed in (("train", 24, 0), ("valid", 12, 1), ("test", 9, 2))
    }


def named(files, split, option="--multi-task"):
    chosen = [f"{task}={files[f'{task}-{split}']}" for task in ("topic", "animal")]
    return [word for value in chosen for word in (option, value)]


def test_a_model_of_several_tasks_from_fit_to_scores(run, world, files, tmp_path):
    model = tmp_path / "model"
    result = run(
        "fit", *named(files, "train"), *named(files, "valid", "--validation"), "--out", model,
        "--backbone", world.llama, *SMALL,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "animal" in result.out
    out = tmp_path / "p.parquet"
    result = run("predict", model, *named(files, "test"), "--out", out, "--json", "--quiet")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    assert {task: part["n"] for task, part in summary["tasks"].items()} == {"topic": 9, "animal": 9}
    result = run("evaluate", out, "--group-by", "task")
    assert result.code == 0, result.err
    assert "animal" in result.out
    mixed = [{**r, "task": "animal"} for r in binary(4, 5)] + [
        {**r, "task": "topic"} for r in toy_rows(4, 6)
    ]
    data = write_rows(tmp_path / "mixed.jsonl", mixed)
    result = run("predict", model, data, "--out", tmp_path / "m.csv", "--quiet")
    assert result.code == 0, result.err
    assert "topic" in result.out
    report = run("report", out, "--group-by", "task", "--out", tmp_path / "report", "--quiet")
    assert report.code == 0, report.err


def test_a_model_of_several_tasks_is_calibrated_and_exported(run, refused, world, files, tmp_path):
    model = tmp_path / "model"
    result = run("fit", *named(files, "train"), "--out", model, "--backbone", world.llama, *SMALL)
    assert result.code == 0, result.err
    again = tmp_path / "again"
    result = run(
        "calibrate", model, *named(files, "valid"), *named(files, "test", "--validation"),
        "--posterior", "laplace", "--out", again, "--quiet", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert json.loads(result.out)["calibration"]["rows"] == 24
    assert run("export", again, "--format", "merged", "--out", tmp_path / "merged").code == 0
    assert "topic, animal" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")

    topic = files["topic-test"]
    for command in (
        ("predict", model, topic, "--out", tmp_path / "p.csv"),
        ("calibrate", model, topic, "--out", tmp_path / "c"),
    ):
        text = refused(*command)
        assert "--multi-task" in text
        assert "--keep" not in text
    for command in (
        ("calibrate", world.model, *named(files, "valid"), "--out", tmp_path / "c"),
        ("calibrate", model, "--out", tmp_path / "c"),
    ):
        refused(*command)


def test_bad_tasks_are_refused(refused, world, files, tmp_path):
    train, valid = named(files, "train"), files["topic-valid"]
    out = ("--out", tmp_path / "model", "--backbone", "/nowhere/at/all")
    for options, name in (
        ((*train, "--validation", f"colour={valid}"), "colour"),
        ((*train, "--validation", valid), "NAME=FILE"),
        ((*train, *train[:2]), "topic"),
        ((*train, files["topic-train"]), "train"),
        (("--multi-task", files["topic-train"]), "NAME=FILE"),
        ((*train, "--validation", f"topic={files['animal-valid']}"), "'no'|'yes'"),
        ((*train, "--task", "sst2_sentences"), "task"),
        ((world.train, "--validation", valid, "--validation", valid), "--validation"),
    ):
        text = refused("fit", *options, *out)
        assert any(part.strip("'") in text for part in name.split("|")), text
